"""`repgeom run FOLDER` for a tiny random model of every common family, against its own hidden states."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from typer.testing import CliRunner

import model_families
import repgeom
from repgeom import demo
from repgeom.cli import app

FAMILIES = ("gpt2", "gpt_neox", "llama", "mistral", "qwen2", "gemma", "opt", "bloom", "phi", "bert")
# Longer than the 64 positions that these models have, and shorter.
TEXT = demo.held_out_documents()[0][:1500]


def saved(family: str, tokenizer: Any, folder: Path) -> nn.Module:
    """A tiny model with the vocabulary of the demo's tokenizer, saved beside that tokenizer's files."""
    config = model_families.build(family).config
    config.vocab_size = len(tokenizer)
    torch.manual_seed(1)
    model = type(model_families.build(family))(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    for file in Path(demo.MODEL_DIR).glob("tokenizer*"):
        shutil.copy(file, folder)
    return model.eval()


def windows(tokenizer: Any, length: int, budget: int) -> list[list[int]]:
    """The text cut into windows of the model's context, each with the special tokens of the tokenizer."""
    ids = tokenizer(TEXT, add_special_tokens=False, verbose=False)["input_ids"]
    extra = tokenizer("a")["input_ids"][: -len(tokenizer("a", add_special_tokens=False)["input_ids"])]
    room, cut = length - len(extra), []
    for start in range(0, len(ids), room):
        window = [*extra, *ids[start : start + room]][:budget]
        budget -= len(window)
        if window:
            cut.append(window)
    return cut


@pytest.mark.parametrize("family", FAMILIES)
def test_run_on_a_folder(family, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = saved(family, tokenizer, tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    arguments = ["run", "model", "--text", "text.txt", "--out", "out", "--max-tokens", "400", "--no-progress"]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, (outcome.output, outcome.exception)
    assert not outcome.stderr.strip()
    # Every layer has its line in the table.
    for layer in range(model_families.LAYERS):
        assert any(
            line.split()[1:4:2] == [str(layer), "400"]
            for line in outcome.stdout.splitlines()
            if "400" in line
        ), outcome.stdout
    found = repgeom.load_results("out")
    assert found.metadata["num_blocks"] == model_families.LAYERS
    assert found.metadata["tokens_observed"] == 400
    assert found.metadata["model_class"] == type(model).__name__
    assert found.metrics["layer"].tolist() == [0, 1, 2]
    assert len(found.novelty) == 2
    numbers = found.metrics.select_dtypes("number")
    assert np.isfinite(numbers.to_numpy(dtype=float)).all(), numbers.columns[numbers.isna().any()]
    # hidden_states[i] of transformers is what enters block i, for all of these families.
    # The tokenizer of the folder: with some configurations transformers makes another of the same files.
    tokenizer = transformers.AutoTokenizer.from_pretrained("model")
    seen: list[list[np.ndarray]] = [[] for _ in range(model_families.LAYERS)]
    context = getattr(model.config, "max_position_embeddings", None) or 512
    tokens = 0
    for window in windows(tokenizer, min(context, tokenizer.model_max_length), 400):
        with torch.no_grad():
            states = model(torch.tensor([window]), output_hidden_states=True).hidden_states
        tokens += len(window)
        for here, state in zip(seen, states, strict=False):
            here.append(state[0].double().numpy())
    assert tokens == 400
    for layer, chunks in enumerate(seen):
        stream, name = np.concatenate(chunks), f"layer_{layer:02d}"
        covariance = np.cov(stream, rowvar=False)
        values = np.linalg.eigvalsh(covariance)[::-1]
        scale = np.sqrt(np.trace(covariance))
        assert np.abs(found.arrays[f"mean.{name}"] - stream.mean(axis=0)).max() <= 1e-5 * scale
        assert np.abs(found.eigenvalues[name] - values).max() <= 1e-5 * values[0]
        rows = stream[found.arrays["sample.index"]]
        assert np.abs(found.arrays[f"sample.{name}"] - rows).max() <= 1e-4 * np.abs(rows).max()


def test_a_context_with_an_offset_is_known_as_well(tokenizer, tmp_path):
    saved("roberta", tokenizer, tmp_path / "model")
    model, loaded = repgeom.load_model(tmp_path / "model", device="cpu")
    found = repgeom.analyze_model(model, tokenizer=loaded, text=TEXT, max_tokens=300, progress=False)
    assert found.metadata["tokens_observed"] == 300


def test_sites_of_a_folder(tokenizer, tmp_path):
    saved("llama", tokenizer, tmp_path / "model")
    outcome = CliRunner().invoke(app, ["sites", str(tmp_path / "model")])
    assert outcome.exit_code == 0, outcome.output
    assert "LlamaForCausalLM" in outcome.stdout
    assert "model.layers.2" in outcome.stdout


def test_a_model_without_tokenizer_says_so(tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved("llama", tokenizer, tmp_path / "model")
    for file in (tmp_path / "model").glob("tokenizer*"):
        file.unlink()
    outcome = CliRunner().invoke(app, ["run", "model", "--no-progress"])
    assert outcome.exit_code == 1
    assert "tokenizer" in outcome.stderr
    assert not (tmp_path / "repgeom-runs").exists()


def test_a_tokenizer_of_another_model_is_noticed(tokenizer, tmp_path, monkeypatch):
    """Ids beyond the embedding."""
    monkeypatch.chdir(tmp_path)
    model_families.build("llama").save_pretrained(tmp_path / "model")
    for file in Path(demo.MODEL_DIR).glob("tokenizer*"):
        shutil.copy(file, tmp_path / "model")
    outcome = CliRunner().invoke(app, ["run", "model", "--no-progress"])
    assert outcome.exit_code == 1
    assert "is this the tokenizer of this model?" in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "repgeom-runs").exists()
    assert len(tokenizer) > model_families.VOCAB
