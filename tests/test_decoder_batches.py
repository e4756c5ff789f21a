"""Of batches for an encoder-decoder both sides are packed, and the positions of one side count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import model_families
from repgeom.capture import capture
from repgeom.dataloaders import iter_dataloader
from repgeom.tokens import UNLABELED, TokenPolicy
from token_batches import DROP_SPECIAL, kept, read, rows

BATCH = rows([1, 2], [3])
IDS = BATCH["input_ids"]


def seq2seq(decoder: list[list[int]], encoder: list[list[int]], side: str = "left") -> dict[str, Any]:
    inner, outer = rows(*decoder, side=side, width=6), rows(*encoder, side=side, width=6)
    return outer | {f"decoder_{name}": value for name, value in inner.items()}


@settings(deadline=None)
@given(st.data(), st.sampled_from(["left", "right", "middle"]))
def test_both_sides_are_packed_by_their_own_masks(data: st.DataObject, side: str) -> None:
    row = st.lists(st.integers(0, 50), min_size=1, max_size=6)
    n = data.draw(st.integers(1, 4))
    decoder, encoder = (data.draw(st.lists(row, min_size=n, max_size=n)) for _ in range(2))
    raw = seq2seq(decoder, encoder, side)
    raw["labels"] = torch.where(raw["decoder_attention_mask"] == 1, raw["decoder_input_ids"] + 1, UNLABELED)
    batch = read(raw, stream="decoder", vocab_size=100)
    assert kept(batch) == decoder
    assert batch.token_ids is batch.kwargs["decoder_input_ids"]
    tight, outer = rows(*decoder), rows(*encoder)
    assert torch.equal(batch.kwargs["decoder_attention_mask"], tight["attention_mask"])
    assert torch.equal(batch.kwargs["input_ids"], outer["input_ids"])
    assert torch.equal(batch.kwargs["attention_mask"], outer["attention_mask"])
    real = tight["attention_mask"] == 1
    assert torch.equal(batch.kwargs["labels"], torch.where(real, tight["input_ids"] + 1, UNLABELED))
    assert batch.n_padding == int((~real).sum())
    # Seen from the encoder, the decoder's tensors pass as they are.
    other = read(raw)
    assert kept(other) == encoder
    assert all(other.kwargs[name] is raw[name] for name in raw if name.startswith(("decoder_", "labels")))


@pytest.mark.parametrize("encoder", [{"input_features": torch.zeros(2, 4, 9)}, rows([1, 2, 3], [4])])
def test_a_decoder_fed_by_labels_has_a_position_for_each(encoder: dict[str, Any]) -> None:
    labels = torch.tensor([[UNLABELED, 5, 6], [UNLABELED, UNLABELED, 7]])
    batch = read({**encoder, "labels": labels}, stream="decoder")
    assert batch.token_ids is None
    assert batch.keep.int().tolist() == [[1, 1], [1, 0]]
    assert batch.kwargs["labels"].tolist() == [[5, 6], [7, UNLABELED]]
    assert all(torch.equal(batch.kwargs[name], value) for name, value in encoder.items())
    assert batch.sequence_ids.tolist() == [0, 1]


def test_a_decoder_is_masked_without_a_mask_for_its_encoder() -> None:
    raw = {"pixel_values": torch.zeros(2, 3, 4, 4), **seq2seq([[1, 2], [3]], [[1], [1]])}
    del raw["input_ids"], raw["attention_mask"]
    assert kept(read(raw, stream="decoder")) == [[1, 2], [3]]
    del raw["decoder_attention_mask"]
    assert read(raw, stream="decoder").n_tokens == 12


def test_labels_of_a_decoder_decide_what_counts() -> None:
    raw = seq2seq([[1, 2], [3]], [[4], [5]])
    raw["labels"] = torch.where(raw["decoder_input_ids"] == 2, UNLABELED, raw["decoder_input_ids"])
    batch = read(raw, stream="decoder", policy=TokenPolicy(labels="require"))
    assert kept(batch) == [[1], [3]]


def test_decoder_duplicates_depend_on_the_encoder() -> None:
    policy = TokenPolicy(duplicates="drop")
    raw = seq2seq([[1, 2], [1, 2], [1, 3]], [[4, 5], [4], [4, 5]])
    assert kept(read(raw, stream="decoder", policy=policy)) == [[1, 2], [1, 2], [3]]


@pytest.mark.parametrize(
    ("side", "by_labels"),
    [("left", False), ("right", False), ("middle", False), ("left", True), ("right", True)],
)
def test_padding_on_both_sides_changes_no_hidden_state(side: str, by_labels: bool) -> None:
    model = model_families.build("t5")
    decoder, encoder = [[5, 6, 7, 8], [9, 10], [11]], [[20, 21], [22, 23, 24, 25], [26]]
    raw = seq2seq(decoder, encoder, side)
    if by_labels:
        mask = raw.pop("decoder_attention_mask")
        raw["labels"] = torch.where(mask == 1, raw.pop("decoder_input_ids"), UNLABELED)
    batch = read(raw, stream="decoder")
    with capture(model, "resid_post.2") as activations:
        activations.run(**batch.kwargs)
        together = activations["resid_post.2"]
        for row, (ids, source) in enumerate(zip(decoder, encoder, strict=True)):
            name = "labels" if by_labels else "decoder_input_ids"
            activations.run(input_ids=torch.tensor([source]), **{name: torch.tensor([ids])})
            alone = activations["resid_post.2"][0]
            torch.testing.assert_close(together[row][batch.keep[row]], alone, rtol=1e-4, atol=1e-4)


# --- errors ---

DECODER_ERRORS = {
    "nothing": (
        BATCH,
        "needs decoder_input_ids, decoder_inputs_embeds or labels, got input_ids, attention_mask",
    ),
    "tensor": (IDS, "the decoder stream needs a mapping with names"),
    "ids": (BATCH | {"decoder_input_ids": IDS.float()}, "decoder_input_ids must be integers"),
    "mask": (
        BATCH | {"decoder_input_ids": IDS, "decoder_attention_mask": torch.ones(2, 3)},
        r"decoder_attention_mask must have the input's shape \[2, 2\], got \[2, 3\]",
    ),
    "padding": (
        BATCH | {"decoder_input_ids": IDS, "decoder_attention_mask": torch.zeros(2, 2)},
        "the decoder: must have at least one real token",
    ),
    "no labels": (
        BATCH | {"labels": torch.full((2, 2), UNLABELED)},
        "the decoder: must have at least one real",
    ),
    "label mask": (
        BATCH | {"labels": IDS, "decoder_attention_mask": torch.ones(2, 3)},
        "decoder_attention_mask must have the input's shape",
    ),
    "gap": (
        BATCH | {"labels": torch.tensor([[1, UNLABELED, 2], [1, 2, 3]])},
        "without gaps, got -100 between labels",
    ),
    "rows": (BATCH | {"decoder_input_ids": IDS[:1]}, "the decoder must have the encoder's 2 rows, got 1"),
    "vocabulary": (BATCH | {"decoder_input_ids": IDS + 150}, "token ids must be in"),
    "encoder padding": (
        {"input_ids": IDS, "attention_mask": torch.zeros(2, 2), "decoder_input_ids": IDS},
        "must have at least one real token",
    ),
}


@pytest.mark.parametrize(("batch", "message"), DECODER_ERRORS.values(), ids=DECODER_ERRORS)
def test_a_bad_batch_for_a_decoder_is_refused(batch: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"batch 0: .*{message}"):
        read(batch, stream="decoder", vocab_size=100)


def test_decoder_positions_without_ids_have_no_special_tokens() -> None:
    batch = BATCH | {"labels": IDS}
    with pytest.raises(ValueError, match="drops special positions needs decoder_input_ids, got input_ids"):
        read(batch, stream="decoder", policy=DROP_SPECIAL, special_ids=[0])
    features = {"input_features": torch.zeros(2, 3), "decoder_input_ids": IDS}
    with pytest.raises(ValueError, match="got input_features, an encoder input without input_ids"):
        read(features, stream="decoder", policy=TokenPolicy(duplicates="drop"))


def test_an_unknown_stream_is_refused() -> None:
    with pytest.raises(ValueError, match=r"stream must be one of \('input', 'decoder'\), got 'encoder'"):
        iter_dataloader([BATCH], stream="encoder")  # type: ignore[arg-type]
