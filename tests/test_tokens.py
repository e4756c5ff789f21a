"""Batches are packed to the right with everything that is aligned; policies survive JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from repgeom.demo import MODEL_DIR
from repgeom.positions import REASONS, Marker, PrefixSet, counting, prefix_hashes
from repgeom.tokens import UNLABELED, TokenPolicy, pack_right
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
    full = TokenPolicy("drop", "drop", first=2, labels="require", duplicates="drop", high_norm=20.0)
    for policy in (TokenPolicy(), KEEP_PADDING, DROP_SPECIAL, full):
        assert TokenPolicy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
    assert TokenPolicy.from_dict({}) == TokenPolicy()
    assert TokenPolicy.from_dict({"padding": "keep", "special_tokens": "drop"}).first == 0
    with pytest.raises(ValueError, match=r"got also \['sinks'\]"):
        TokenPolicy.from_dict({"sinks": "drop"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"padding": "skip"}, r"padding must be one of \('drop', 'keep'\), got 'skip'"),
        ({"padding": True}, "padding must be one of"),
        ({"special_tokens": None}, "special_tokens must be one of"),
        ({"labels": "drop"}, r"labels must be one of \('ignore', 'require'\), got 'drop'"),
        ({"duplicates": 1}, r"duplicates must be one of \('keep', 'drop'\), got 1"),
        ({"first": -1}, "first must be an integer of at least 0, got -1"),
        ({"first": True}, "first must be an integer of at least 0, got True"),
        ({"first": 1.0}, "first must be an integer of at least 0, got 1.0"),
        ({"first": "1"}, "first must be an integer of at least 0, got '1'"),
        ({"high_norm": 1}, "high_norm must be None or a finite number above 1, got 1"),
        ({"high_norm": 0.5}, "got 0.5"),
        ({"high_norm": float("inf")}, "got inf"),
        ({"high_norm": float("nan")}, "got nan"),
        ({"high_norm": True}, "got True"),
        ({"high_norm": "20"}, "got '20'"),
        ({"padding": "keep", "duplicates": "drop"}, 'duplicates="drop" needs padding="drop"'),
    ],
)
def test_a_bad_field_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenPolicy(**fields)
    with pytest.raises(ValueError, match=message):
        TokenPolicy.from_dict(fields)


# --- prefixes ---

HASHES = st.lists(st.integers(0, 30), max_size=12)


@settings(deadline=None)
@given(st.lists(HASHES, max_size=12))
def test_a_prefix_set_knows_what_came_before(parts: list[list[int]]) -> None:
    prefixes, seen = PrefixSet(), set()
    for part in parts:
        known = prefixes.add(np.array(part, np.uint64))
        for value, was_there in zip(part, known, strict=True):
            assert was_there == (value in seen)
            seen.add(value)
    assert len(prefixes) == len(seen)
    assert prefixes.state_dict()["hashes"].tolist() == sorted(seen)


@settings(deadline=None)
@given(st.lists(HASHES, max_size=6), HASHES, HASHES)
def test_prefix_sets_merge_and_are_saved(parts: list[list[int]], other: list[int], probe: list[int]) -> None:
    one, two, restored = PrefixSet(), PrefixSet(), PrefixSet()
    for part in parts:
        one.add(np.array(part, np.uint64))
    two.add(np.array(other, np.uint64))
    two.merge(one)
    two.merge(two)
    assert len(two) == len({*other, *(value for part in parts for value in part)})
    restored.load_state_dict(two.state_dict())
    assert restored.add(np.array(probe, np.uint64)).tolist() == two.add(np.array(probe, np.uint64)).tolist()


@pytest.mark.parametrize("state", [{}, {"hashes": [1]}, {"hashes": np.zeros(2)}, {"hashes": np.uint64(1)}])
def test_a_bad_state_is_refused_and_changes_nothing(state: dict[str, Any]) -> None:
    prefixes = PrefixSet()
    prefixes.add(np.array([7], np.uint64))
    with pytest.raises(ValueError, match=r"state_dict\['hashes'\] must be a uint64 array \[n\], got"):
        prefixes.load_state_dict(state)
    assert len(prefixes) == 1


def test_a_prefix_hash_depends_on_all_before_and_nothing_after() -> None:
    tokens = np.array([[5], [5], [6]])
    hashes = prefix_hashes(tokens)
    assert len(set(hashes.tolist())) == 3
    assert prefix_hashes(np.array([[5], [5], [7], [8]]))[:2].tolist() == hashes[:2].tolist()
    assert prefix_hashes(np.array([[6], [5], [6]]))[2] != hashes[2]
    assert prefix_hashes(tokens, b"encoder")[0] != hashes[0]
    assert prefix_hashes(np.array([[5, 5]]))[0] != hashes[1]
    # Fixed, as sets that were saved by other machines and versions can be merged.
    assert hashes[0] == 16675787444457212336


# --- reasons ---

SPECIAL = 3


def slow_reasons(sequences: list[list[int]], labels: list[list[int]], policy: TokenPolicy) -> list[list[str]]:
    """The reason of every position, "" where it counts; the definition, with sets of prefixes."""
    seen: set[tuple[int, ...]] = set()
    found = []
    for ids, marks in zip(sequences, labels, strict=True):
        row = []
        for place, (token, label) in enumerate(zip(ids, marks, strict=True)):
            prefix = tuple(ids[: place + 1])
            if policy.special_tokens == "drop" and token == SPECIAL:
                row.append("special")
            elif place < policy.first:
                row.append("first")
            elif policy.labels == "require" and label == UNLABELED:
                row.append("unlabeled")
            elif policy.duplicates == "drop" and prefix in seen:
                row.append("duplicate")
            else:
                row.append("")
                seen.add(prefix)
        found.append(row)
    return found


@settings(deadline=None, max_examples=200)
@given(
    tokens=st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=5), min_size=1, max_size=8),
    policy=st.builds(
        TokenPolicy,
        special_tokens=st.sampled_from(["keep", "drop"]),
        first=st.integers(0, 2),
        labels=st.sampled_from(["ignore", "require"]),
        duplicates=st.sampled_from(["keep", "drop"]),
    ),
    size=st.integers(1, 8),
    data=st.data(),
)
def test_every_position_has_the_first_reason(
    tokens: list[list[int]], policy: TokenPolicy, size: int, data: st.DataObject
) -> None:
    labels = [
        data.draw(st.lists(st.sampled_from([1, UNLABELED]), min_size=len(r), max_size=len(r))) for r in tokens
    ]
    marker, found = Marker(policy, [SPECIAL]), []
    for start in range(0, len(tokens), size):
        batch, marks = rows(*tokens[start : start + size]), rows(*labels[start : start + size])
        real = batch["attention_mask"].bool()
        dropped = marker.mark(real, batch["input_ids"], labels=marks["input_ids"])
        assert tuple(dropped) == marker.reasons
        assert torch.equal(counting(real, dropped), real & ~sum(dropped.values(), torch.zeros_like(real)))
        for row, mask in enumerate(real):
            names = [
                "".join(reason for reason in dropped if dropped[reason][row, i]) for i in range(len(mask))
            ]
            found.append(names[: int(mask.sum())])
            assert not any(names[int(mask.sum()) :])
    assert found == slow_reasons(tokens, labels, policy)


def test_the_default_policy_has_no_reasons() -> None:
    assert Marker(TokenPolicy()).reasons == ()
    everything = TokenPolicy(special_tokens="drop", first=1, labels="require", duplicates="drop")
    assert Marker(everything).reasons == REASONS


def test_a_spectrogram_of_the_tokens_shape_is_no_row_of_tokens():
    spectrogram = torch.randn(2, 4, 9)
    boxes = torch.arange(2 * 4 * 4).reshape(2, 4, 4)
    batch = {
        "input_ids": torch.tensor([[0, 0, 5, 6], [7, 8, 9, 3]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]),
        "input_features": spectrogram,
        "bbox": boxes,
    }
    packed = pack_right(batch)
    assert packed["input_ids"].tolist() == [[5, 6, 0, 0], [7, 8, 9, 3]]
    assert packed["input_features"] is spectrogram
    assert packed["bbox"][0].tolist() == boxes[0][[2, 3, 0, 1]].tolist()
