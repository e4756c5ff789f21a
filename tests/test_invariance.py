"""The numbers belong to the text: not to padding, batch size, order, or what stands under the mask."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import architecture_data
import architectures
import repgeom
from repgeom.padding import check_padding

TEXT_MODELS = [
    *[entry for entry in architecture_data.REPRESENTATIVE if entry[0] != "base"],
    *[("causal", "recurrent_gemma"), ("causal", "gpt_neox"), ("image_text", "llava")],
]
# Right only without padding: convolutions, Fourier transforms and prompts look at positions, not at masks.
MIXTURES = ("mixtral", "qwen3_moe")
WRONG_ON_PADDING = [("masked", "convbert"), ("masked", "fnet"), ("causal", "cpmant")]
LENGTHS = (9, 4, 12, 2, 7, 12, 5, 8)


@cache
def built(mapping: str, name: str) -> nn.Module:
    return architectures.build(mapping, name).eval()


@cache
def sequences() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randint(5, 100, (length,), generator=generator) for length in LENGTHS)


def batches(
    size: int, side: str = "right", seed: int | None = None, extra: int = 0
) -> list[dict[str, Tensor]]:
    """The sequences in their order; what padding holds is drawn from a seed, or 0."""
    made = []
    for start in range(0, len(LENGTHS), size):
        rows = sequences()[start : start + size]
        width = max(map(len, rows)) + extra
        ids, mask = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width).long()
        if seed is not None:
            ids = torch.randint(5, 100, ids.shape, generator=torch.Generator().manual_seed(seed + start))
        for row, tokens in enumerate(rows):
            place = slice(width - len(tokens), width) if side == "left" else slice(0, len(tokens))
            ids[row, place], mask[row, place] = tokens, 1
        made.append({"input_ids": ids, "attention_mask": mask})
    return made


def alone() -> list[dict[str, Tensor]]:
    return [{"input_ids": row[None]} for row in sequences()]


def decoding(made: list[dict[str, Tensor]], mapping: str) -> list[dict[str, Tensor]]:
    """For an encoder-decoder the same batches are both what is read and what is written."""
    if mapping != "seq2seq":
        return made
    return [{**batch, **{f"decoder_{name}": value for name, value in batch.items()}} for batch in made]


def measured(
    mapping: str, name: str, made: list[dict[str, Tensor]], **options: Any
) -> repgeom.AnalysisResults:
    return repgeom.analyze_model(
        model=built(mapping, name),
        dataloader=decoding(made, mapping),
        hook_point="residual_output",
        novelty_k=4,
        sample_limit=30,
        progress=False,
        **options,
    )


def last_states(mapping: str, name: str, made: list[dict[str, Tensor]]) -> list[Tensor]:
    """What leaves the last block at the real tokens, from the model alone."""
    states = []
    for batch in made:
        with torch.no_grad():
            hidden = built(mapping, name).model(**batch).last_hidden_state
        states.append(hidden[batch["attention_mask"].bool()])
    return states


@cache
def reference(mapping: str, name: str) -> repgeom.AnalysisResults:
    return measured(mapping, name, alone())


def assert_same_geometry(found: repgeom.AnalysisResults, want: repgeom.AnalysisResults) -> None:
    assert found.metrics["tokens_observed"].tolist() == want.metrics["tokens_observed"].tolist()
    for name, values in want.eigenvalues.items():
        scale = np.sqrt(values.sum())
        drift = np.abs(found.arrays[f"mean.{name}"] - want.arrays[f"mean.{name}"]).max() / scale
        assert drift < 1e-4, (name, drift)
        drift = np.abs(found.eigenvalues[name] - values).max() / values[0]
        assert drift < 1e-4, (name, drift)
    for column in ("d_pr", "d_entropy", "stable_rank", "top1_share", "rms_norm"):
        np.testing.assert_allclose(found.metrics[column], want.metrics[column], rtol=1e-3, err_msg=column)


def assert_same_tokens(found: repgeom.AnalysisResults, want: repgeom.AnalysisResults) -> None:
    for name in ("sample.token_ids", "sample.sequence_ids", "sample.positions"):
        assert found.arrays[name].tolist() == want.arrays[name].tolist(), name
    for name in (name for name in want.arrays if name.startswith("sample.layer")):
        scale = np.abs(want.arrays[name]).max()
        np.testing.assert_allclose(found.arrays[name], want.arrays[name], atol=1e-4 * scale, err_msg=name)


@pytest.mark.parametrize(("mapping", "name"), TEXT_MODELS)
@pytest.mark.parametrize("size", [1, 3, 8])
def test_padding_side_and_batch_size(mapping, name, size):
    want = reference(mapping, name)
    assert want.metadata["padding_observed"] == 0
    for side in ("right", "left"):
        found = measured(mapping, name, batches(size, side))
        assert_same_geometry(found, want)
        assert_same_tokens(found, want)


@pytest.mark.parametrize(("mapping", "name"), TEXT_MODELS)
def test_ids_under_the_mask_change_no_bit(mapping, name):
    want = measured(mapping, name, batches(3))
    assert want.metadata["padding_observed"] > 0
    found = measured(mapping, name, batches(3, seed=7))
    if name in MIXTURES:
        # Experts multiply the tokens that come to them as one matrix, padding among them.
        states = [last_states(mapping, name, made) for made in (batches(3), batches(3, seed=7))]
        assert not all(torch.equal(a, b) for a, b in zip(*states, strict=True)), (
            "the difference is the model's"
        )
        assert_same_geometry(found, want)
        assert_same_tokens(found, want)
        return
    assert found.metrics.equals(want.metrics)
    assert found.novelty.equals(want.novelty)
    for key, values in want.arrays.items():
        assert np.array_equal(found.arrays[key], values), key


@pytest.mark.parametrize(("mapping", "name"), TEXT_MODELS)
def test_order_of_batches_and_micro_batches(mapping, name):
    want = reference(mapping, name)
    whole = batches(4)
    assert_same_geometry(measured(mapping, name, whole[::-1]), want)
    split = [
        {key: value[half] for key, value in batch.items()}
        for batch in whole
        for half in (slice(2), slice(2, 4))
    ]
    found = measured(mapping, name, split)
    assert_same_geometry(found, want)
    assert_same_tokens(found, want)


@pytest.mark.parametrize(("mapping", "name"), WRONG_ON_PADDING)
def test_models_that_are_wrong_on_padding_are_measured_without(mapping, name):
    """The difference is the model's own: its hidden states of real tokens change with the padding."""
    model, (long, short) = built(mapping, name), sequences()[2:4]
    padded = torch.zeros(2, len(long), dtype=torch.int64)
    padded[0], padded[1, : len(short)] = long, short
    mask = torch.zeros_like(padded)
    mask[0], mask[1, : len(short)] = 1, 1
    site = "resid_post.1"
    masks = {} if name == "fnet" else {"attention_mask": mask}
    with repgeom.capture(model, site) as activations:
        activations.run(input_ids=padded, **masks)
        together = activations[site][1, : len(short)].clone()
        activations.run(input_ids=short[None])
        by_itself = activations[site][0, : len(short)]
    if name != "cpmant":  # its prompts stand before the tokens
        assert float((together - by_itself).abs().max() / by_itself.abs().max()) > 1e-3
    found = measured(mapping, name, batches(3))
    assert found.metadata["padding_check"]["ok"] is False
    assert found.metadata["padding_observed"] == 0
    assert_same_geometry(found, reference(mapping, name))
    assert_same_tokens(found, reference(mapping, name))


def test_images_in_any_batch_size_and_order():
    model = built("base", "vit")
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def run(made: Any) -> repgeom.AnalysisResults:
        loader = [{"pixel_values": part} for part in made]
        return repgeom.analyze_model(model=model, dataloader=loader, progress=False, novelty_k=4)

    want = run(images.split(1))
    assert want.metrics["tokens_observed"].nunique() == 1
    for made in (images.split(2), images.split(6), images.flip(0).split(3)):
        assert_same_geometry(run(made), want)


@pytest.mark.parametrize("tower", [None, "encoder"])
def test_both_sides_of_an_encoder_decoder_lose_their_padding(tower, monkeypatch):
    """What is left where the padding test fails: sequences of one length on each side."""
    model = built("seq2seq", "t5")
    passed = check_padding(model, repgeom.anatomy(model, tower=tower))
    failed = dataclasses.replace(passed, ok=False, reason="as if it were so")
    long, short = batches(8)[0], batches(8, seed=1)[0]
    order = torch.tensor([3, 0, 2, 1, 5, 4, 7, 6])
    pairs = [{**long, **{f"decoder_{name}": value[order] for name, value in short.items()}}]
    want = repgeom.analyze_model(model=model, dataloader=pairs, tower=tower, progress=False)
    monkeypatch.setattr("repgeom.source.check_padding", lambda _model, _anatomy: failed)
    found = repgeom.analyze_model(model=model, dataloader=pairs, tower=tower, progress=False)
    assert found.metadata["batches_observed"] > 1
    assert_same_geometry(found, want)
    assert_same_tokens(found, want)


def test_modules_of_models_that_are_wrong_on_padding():
    model = built("masked", "convbert")
    point = "module_output:convbert.encoder.layer.1"
    want, found = (
        repgeom.analyze_model(model=model, dataloader=made, hook_point=point, progress=False)
        for made in (alone(), batches(3))
    )
    assert_same_geometry(found, want)


def test_a_module_that_sees_the_length_first():
    """XLNet's layers see [seq, batch, d]; five sequences of five do not tell."""
    model = built("causal", "xlnet")
    ids = torch.randint(5, 100, (5, 5), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, 2:], mask[3, 4:] = 0, 0
    point = "module_output:transformer.layer.1"
    batch = {"input_ids": ids, "attention_mask": mask}
    found = repgeom.analyze_model(model=model, dataloader=[batch], hook_point=point, progress=False)
    want = repgeom.analyze_model(
        model=model, dataloader=[batch], hook_point="residual_output", layers="1", progress=False
    )
    np.testing.assert_allclose(found.arrays["mean.layer_00"], want.arrays["mean.layer_01"], rtol=1e-5)


def test_what_no_tokens_reach_has_no_token_policy():
    model = built("image_text", "blip-2")
    batch = architectures.inputs(model, "image_text", "blip-2")
    options = {"model": model, "dataloader": [batch], "tower": "vision", "progress": False}
    found = repgeom.analyze_model(**options)
    assert found.metrics["tokens_observed"].nunique() == 1
    assert found.metadata["padding_observed"] == 0
    with pytest.raises(ValueError, match=r"does not apply to .* which no tokens reach, got first"):
        repgeom.analyze_model(**options, token_policy=repgeom.TokenPolicy(first=1))


def test_padded_patches_are_refused():
    model = built("base", "vit")
    batch = {"pixel_values": torch.randn(2, 3, 32, 32), "pixel_mask": torch.tensor([[1, 1], [1, 0]])}
    with pytest.raises(ValueError, match=r"padding cannot be told from data.* got pixel_mask"):
        repgeom.analyze_model(model=model, dataloader=[batch], progress=False)
