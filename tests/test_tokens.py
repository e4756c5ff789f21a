"""Batches are packed to the right with everything that is aligned; policies survive JSON."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from repgeom.demo import MODEL_DIR
from repgeom.tokens import TokenPolicy, pack_right
from token_batches import DROP_SPECIAL, KEEP_PADDING, PAD, TOKEN_ROWS, rows

# --- pack_right ---


@settings(deadline=None)
@given(TOKEN_ROWS, st.sampled_from(["left", "right", "middle"]), st.integers(0, 3))
def test_any_padding_packs_to_the_same_batch(tokens: list[list[int]], side: str, extra: int) -> None:
    width = max(map(len, tokens))
    packed = pack_right(rows(*tokens, side=side, width=width + extra))
    tight = rows(*tokens)
    assert torch.equal(packed["attention_mask"], tight["attention_mask"])
    assert torch.equal(packed["input_ids"], tight["input_ids"])


@settings(deadline=None)
@given(st.data())
def test_holes_are_closed_in_order(data: st.DataObject) -> None:
    mask = torch.tensor(data.draw(st.lists(st.lists(st.integers(0, 1), min_size=5, max_size=5), min_size=1)))
    mask[0, 2] = 1
    ids = torch.arange(mask.numel()).reshape(mask.shape)
    packed = pack_right({"input_ids": ids, "attention_mask": mask})
    for row in range(len(mask)):
        real = packed["attention_mask"][row].bool()
        assert packed["input_ids"][row][real].tolist() == ids[row][mask[row].bool()].tolist()
        assert real.tolist() == sorted(real.tolist(), reverse=True)
    assert packed["attention_mask"].any(dim=0).all()


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_without_padding_to_move_passes_untouched(side: str) -> None:
    batch = rows([1, 2, 3], [4, 5, 6], side=side)
    assert pack_right(batch) is batch
    ragged = rows([1, 2, 3], [4])
    assert pack_right(ragged) is ragged
    without = {"input_ids": batch["input_ids"]}
    assert pack_right(without) is without


def test_all_that_is_aligned_moves_along_and_nothing_else() -> None:
    batch = rows([1, 2], [3, 4, 5], side="left", width=4)
    ids = batch["input_ids"]
    batch |= {
        "token_type_ids": ids * 10,
        "inputs_embeds": ids[..., None] * torch.ones(3),
        "labels": ids.clone(),
        "pixel_values": torch.arange(2 * 4 * 5).reshape(2, 4, 5),
        "scale": torch.arange(2),
        "name": "unchanged",
    }
    packed = pack_right(batch)
    expected = torch.tensor([[1, 2, PAD], [3, 4, 5]])
    assert torch.equal(packed["input_ids"], expected)
    assert torch.equal(packed["token_type_ids"], expected * 10)
    assert torch.equal(packed["inputs_embeds"], expected[..., None] * torch.ones(3))
    assert torch.equal(packed["labels"], expected)
    assert all(packed[name] is batch[name] for name in ("pixel_values", "scale", "name"))


def test_the_decoder_of_a_batch_is_left_alone() -> None:
    batch = rows([1, 2], [3, 4, 5], side="left", width=4)
    batch |= {"decoder_input_ids": torch.arange(8).reshape(2, 4), "labels": torch.arange(8).reshape(2, 4)}
    packed = pack_right(batch)
    assert packed["decoder_input_ids"] is batch["decoder_input_ids"]
    assert packed["labels"] is batch["labels"]


@pytest.mark.parametrize("layout", ["rows", "shared", "planes"])
def test_position_ids_stay_with_their_tokens(layout: str) -> None:
    batch = rows([1, 2], [3, 4, 5], side="left", width=4)
    positions = torch.arange(4)[None]
    expected = torch.tensor([[2, 3, 0], [1, 2, 3]])
    if layout != "shared":
        positions = positions.repeat(2, 1)
    if layout == "planes":
        positions, expected = torch.stack([positions] * 3), torch.stack([expected] * 3)
    packed = pack_right({**batch, "position_ids": positions})
    real = packed["attention_mask"].bool().expand(packed["position_ids"].shape)
    assert torch.equal(packed["position_ids"][real], expected[real])


def test_position_ids_of_another_shape_are_refused() -> None:
    batch = rows([1, 2], [3], side="left") | {"position_ids": torch.arange(5)[None]}
    with pytest.raises(
        ValueError, match=r"position_ids must have the shape of input_ids \[2, 2\], got \[1, 5\]"
    ):
        pack_right(batch)


def test_packing_does_not_change_what_a_left_padded_model_computes() -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL_DIR).eval()
    tokens = [[5, 6, 7], [8, 9, 10, 11, 12]]
    packed = pack_right(rows(*tokens, side="left"))
    with torch.no_grad():
        together = model(**packed).logits
        for row, ids in enumerate(tokens):
            alone = model(input_ids=torch.tensor([ids])).logits[0]
            torch.testing.assert_close(together[row, : len(ids)], alone, rtol=1e-4, atol=1e-4)


# --- policies ---


def test_a_policy_survives_json_and_refuses_what_it_does_not_know() -> None:
    for policy in (TokenPolicy(), KEEP_PADDING, DROP_SPECIAL):
        assert TokenPolicy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
    assert TokenPolicy.from_dict({}) == TokenPolicy()
    with pytest.raises(ValueError, match=r"padding must be one of \('drop', 'keep'\), got 'skip'"):
        TokenPolicy(padding="skip")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got also \['sinks'\]"):
        TokenPolicy.from_dict({"sinks": "drop"})
