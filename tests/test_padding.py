"""Padding never counts: on whatever side it stands, whatever ids it holds, however long it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import model_families
import repgeom
from repgeom import demo

# Batches of T5 need decoder tokens, whose padding is another matter; its decoder comes with a later issue.
FAMILIES = tuple(name for name in model_families.BUILDERS if name != "t5")
LENGTHS = (9, 4, 13, 1, 7, 13)


def sequences(lengths: tuple[int, ...] = LENGTHS) -> list[Tensor]:
    """Ordinary tokens, no two of the first ones alike."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(5, model_families.VOCAB, (n,), generator=generator) for n in lengths]


def padded(side: str, pad: int | str = 0, extra: int = 0) -> list[dict[str, Tensor]]:
    """The sequences three to a batch; ``pad="noise"`` fills with other ordinary tokens."""
    generator, batches = torch.Generator().manual_seed(9), []
    rows = sequences()
    for group in (rows[:3], rows[3:]):
        width = max(map(len, group)) + extra
        shape = (len(group), width)
        noise = torch.randint(5, model_families.VOCAB, shape, generator=generator)
        ids = noise if pad == "noise" else torch.full(shape, int(pad))
        mask = torch.zeros(shape, dtype=torch.int64)
        for row, tokens in enumerate(group):
            start = {"left": width - len(tokens), "right": 0, "middle": (width - len(tokens)) // 2}[side]
            ids[row, start : start + len(tokens)] = tokens
            mask[row, start : start + len(tokens)] = 1
        batches.append({"input_ids": ids, "attention_mask": mask})
    return batches


def one_by_one() -> list[dict[str, Tensor]]:
    return [{"input_ids": row[None]} for row in sequences()]


def analyze(model: nn.Module, batches: Any, **options: Any) -> repgeom.AnalysisResults:
    return repgeom.analyze_model(model, batches, progress=False, novelty_k=4, sample_limit=20, **options)


def assert_close(found: repgeom.AnalysisResults, want: repgeom.AnalysisResults, rtol: float = 2e-5) -> None:
    """Same tokens, and all numbers within float32 drift; the logarithms of small eigenvalues drift more."""
    for name in ("sample.index", "sample.token_ids", "sample.sequence_ids", "sample.positions"):
        assert found.arrays[name].tolist() == want.arrays[name].tolist(), name
    assert found.metrics["tokens_observed"].tolist() == want.metrics["tokens_observed"].tolist()
    assert found.arrays.keys() == want.arrays.keys()
    for name, values in want.eigenvalues.items():
        scale = np.sqrt(values.sum())
        mean = found.arrays[f"mean.{name}"] - want.arrays[f"mean.{name}"]
        assert np.abs(mean).max() <= rtol * scale, name
        assert np.abs(found.eigenvalues[name] - values).max() <= rtol * values[0], name
        rows = found.arrays[f"sample.{name}"] - want.arrays[f"sample.{name}"]
        assert np.abs(rows).max() <= rtol * max(scale, np.abs(want.arrays[f"sample.{name}"]).max()), name
    for table, other in ((found.metrics, want.metrics), (found.novelty, want.novelty)):
        assert [*table.columns] == [*other.columns]
        # The bound of the rounding error is no number of the data.
        for column in table.columns.drop("covariance_error", errors="ignore"):
            loose = column.startswith(("log_spectrum", "feature_subspace"))
            bound = 1e-2 if loose else 10 * rtol
            if table[column].dtype.kind == "f":
                close = np.isclose(table[column], other[column], rtol=bound, atol=1e-6, equal_nan=True)
                assert close.all(), (column, table[column].tolist(), other[column].tolist())
            else:
                assert table[column].tolist() == other[column].tolist(), column


@pytest.mark.parametrize("family", FAMILIES)
def test_any_padding_gives_the_numbers_of_sequences_run_one_by_one(family):
    model = model_families.build(family)
    want = analyze(model, one_by_one())
    assert want.metadata["tokens_observed"] == sum(LENGTHS)
    assert want.metadata["padding_observed"] == 0
    right = analyze(model, padded("right"))
    # The last sequences are the longest, so a batch holds 39 positions or more for 26 and 21 tokens.
    assert right.metadata["padding_observed"] == 2 * 3 * 13 - sum(LENGTHS)
    assert_close(right, want)
    assert_close(analyze(model, padded("left")), want)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_padding_holds_and_how_long_it_is_changes_nothing(family):
    model = model_families.build(family)
    want = analyze(model, padded("right"))
    for side in ("left", "right"):
        assert_close(analyze(model, padded(side, "noise")), want)
    longer = analyze(model, padded("left", "noise", extra=6))
    assert_close(longer, want)
    # Columns of padding only are not run.
    assert longer.metadata["padding_observed"] == want.metadata["padding_observed"]


@pytest.mark.parametrize("hook_point", ["residual_output", "module"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "opt", "bloom"])
def test_other_hook_points(family, hook_point):
    model = model_families.build(family)
    if hook_point == "module":
        linear = [
            name for name, module in model.named_modules() if name.endswith((".1.mlp", "h.1", "layer.1"))
        ]
        found = linear or [name for name, _ in model.named_modules() if name.endswith("layers.1")]
        hook_point = f"module_output:{found[0]}"
    want = analyze(model, one_by_one(), hook_point=hook_point)
    for batches in (padded("left"), padded("right", "noise"), padded("middle", "noise")):
        assert_close(analyze(model, batches, hook_point=hook_point), want)


def test_left_padding_with_position_ids_and_labels_is_packed_with_them():
    model = model_families.build("gpt2")
    batches = padded("left", "noise")
    for batch in batches:
        batch["position_ids"] = (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
        batch["labels"] = batch["input_ids"].clone()
    found, want = analyze(model, batches), analyze(model, one_by_one())
    assert found.arrays.pop("sample.labels").tolist() == want.arrays["sample.token_ids"].tolist()
    assert_close(found, want)


def test_budgets_stop_at_the_same_tokens_on_either_side():
    model = model_families.build("gpt2")
    for limit in (1, 26, 27):
        left, right = (analyze(model, padded(side), max_tokens=limit) for side in ("left", "right"))
        assert left.metadata["tokens_observed"] == (26 if limit <= 26 else 47)
        assert_close(left, right)


def test_a_batch_of_padding_only_is_refused():
    batch = padded("right")[0]
    batch["attention_mask"][:] = 0
    with pytest.raises(ValueError, match="batch 0: must have at least one real token"):
        analyze(model_families.build("gpt2"), [batch])


# --- text ---

TEXTS = [text[:300] for text in demo.held_out_documents()[:6]] + ["Short.", "A little longer, but not much."]


@pytest.fixture(scope="module")
def demo_model() -> tuple[nn.Module, Any]:
    return repgeom.load_model(device="cpu")


def of_text(demo_model: tuple[nn.Module, Any], **options: Any) -> repgeom.AnalysisResults:
    model, tokenizer = demo_model
    return analyze(model, None, tokenizer=tokenizer, text=TEXTS, max_length=40, **options)


def test_the_batch_size_changes_nothing_but_padding(demo_model):
    want = of_text(demo_model, batch_size=1)
    assert want.metadata["padding_observed"] == 0
    for size in (3, 8, 1000):
        found = of_text(demo_model, batch_size=size)
        assert found.metadata["padding_observed"] > 0
        assert_close(found, want)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_budgets_are_met_exactly_whatever_the_batch_size(demo_model, batch_size):
    everything = of_text(demo_model, batch_size=batch_size).metadata["tokens_observed"]
    for limit in (2, 39, 40, 41, 100, everything - 1, everything):
        found = of_text(demo_model, batch_size=batch_size, max_tokens=limit, layers="0,1")
        assert found.metadata["tokens_observed"] == limit
        assert set(found.metrics["tokens_observed"]) == {limit}
    for limit in (everything + 1, None):
        found = of_text(demo_model, batch_size=batch_size, max_tokens=limit, layers="0,1")
        assert found.metadata["tokens_observed"] == everything


def test_text_and_a_dataloader_of_the_same_tokens_agree(demo_model):
    model, tokenizer = demo_model
    texts = [text[:60] for text in TEXTS]
    batches = [tokenizer(text, return_tensors="pt", return_token_type_ids=False) for text in texts]
    want = analyze(model, batches)
    assert_close(analyze(model, None, tokenizer=tokenizer, text=texts), want)
    for side in ("left", "right"):
        tokenizer.padding_side = side
        batch = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
        assert_close(analyze(model, [batch]), want)
