"""Router statistics: the peer's numbers, stream = one shot, masks, and the corners."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from repgeom.routing import ROUTER_COLUMNS, RouterStatistics


def logits() -> np.ndarray:
    return reference.array("in.spectral.router_logits")


def collected(layers: int | list[int] = 3) -> RouterStatistics:
    statistics = RouterStatistics(layers, 8, 2)
    for row, layer in enumerate(statistics.layers):
        for batch in logits()[row]:
            statistics.add(layer, batch)
    return statistics


def test_frame_matches_the_peer():
    frame = collected().frame()
    reference.assert_matches("spectral.router", frame.to_dict("records"))
    assert tuple(frame.columns) == ROUTER_COLUMNS


def test_layers_keep_the_index_that_the_caller_gives():
    assert collected([2, 7, 9]).frame()["layer"].tolist() == [2, 7, 9]


@settings(deadline=None)
@given(st.lists(st.integers(0, 100), max_size=4), st.integers(0, 100))
def test_stream_and_merge_equal_one_shot(cuts, where):
    rows = logits()[0].reshape(-1, 8)
    whole = RouterStatistics([4], 8, 2).add(4, rows)
    left, right = RouterStatistics([4], 8, 2), RouterStatistics([4], 8, 2)
    for chunk in np.split(rows[:where], sorted(cuts)):
        left.add(4, chunk)
    right.add(4, rows[where:])
    np.testing.assert_array_equal(left.merge(right).counts, whole.counts)


def test_checkpoint_comes_back():
    state = collected().state_dict()
    other = RouterStatistics(3, 8, 2)
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.add(0, logits()[0]).counts[1:], state["counts"][1:])
    assert state["counts"].sum() == 600
    with pytest.raises(ValueError, match="must have the same settings"):
        RouterStatistics(2, 8, 2).load_state_dict(state)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_choices_count_like_the_logits_they_come_from(dtype):
    rows = logits()[0]
    mask = np.random.default_rng(0).integers(0, 2, size=rows.shape[:-1])
    chosen = np.argsort(-rows, axis=-1, kind="stable")[..., :2].astype(dtype)
    want = RouterStatistics(1, 8, 2).add(0, rows, mask)
    garbage = np.where(mask[..., None] == 1, chosen, 99).astype(dtype)
    found = RouterStatistics(1, 8, 2).add_choices(0, garbage, mask)
    np.testing.assert_array_equal(found.counts, want.counts)
    np.testing.assert_array_equal(RouterStatistics(1, 8).add_counts(0, want.counts[0]).counts, want.counts)


def test_layers_may_have_different_numbers_of_experts():
    statistics = RouterStatistics([1, 4], [4, 2], 2)
    statistics.add_choices(1, [[0, 3]]).add(4, np.array([[1.0, 2.0]])).add_choices(4, [[1]])
    assert statistics.counts.tolist() == [[1, 0, 0, 1], [1, 2, 0, 0]]
    frame = statistics.frame()
    assert frame["load_imbalance"].tolist() == pytest.approx([2, 4 / 3])
    assert frame["router_entropy_norm"][0] == pytest.approx(0.5)
    other = RouterStatistics([1, 4], [4, 2], 2)
    other.load_state_dict(statistics.state_dict())
    assert other.merge(statistics).counts.tolist() == [[2, 0, 0, 2], [2, 4, 0, 0]]
    with pytest.raises(ValueError, match="must have the same settings"):
        RouterStatistics([1, 4], [2, 4], 2).merge(statistics)


def test_masked_tokens_do_not_count():
    rows = logits()[0]
    mask = np.random.default_rng(0).integers(0, 2, size=rows.shape[:-1])
    want = RouterStatistics(1, 8, 2).add(0, rows[mask == 1])
    padded = np.where(mask[..., None] == 1, rows, np.nan)
    np.testing.assert_array_equal(RouterStatistics(1, 8, 2).add(0, padded, mask).counts, want.counts)


def test_ties_go_to_the_first_expert():
    assert RouterStatistics(1, 4, 2).add(0, np.zeros((3, 4))).counts.tolist() == [[3, 3, 0, 0]]


def test_corners_have_a_definition():
    single = RouterStatistics(1, 1, 2).add(0, np.zeros((5, 1))).frame().iloc[0]
    assert (single["router_entropy"], single["router_entropy_norm"]) == (0, 0)
    assert (single["load_imbalance"], single["routed_assignments"]) == (1, 5)
    unseen = RouterStatistics([3], 4, 2).frame().iloc[0]
    assert (unseen["layer"], unseen["routed_assignments"], unseen["most_used_expert"]) == (3, 0, -1)
    assert math.isnan(unseen["router_entropy"])
    assert RouterStatistics([], 4, 2).frame().columns.tolist() == list(ROUTER_COLUMNS)
    balanced = RouterStatistics(1, 4, 1).add(0, np.eye(4)).frame().iloc[0]
    assert balanced["router_entropy_norm"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.add(5, np.zeros((1, 4))), r"layer must be one of \[0, 1\], got 5"),
        (lambda s: s.add(0, np.zeros((2, 3))), r"logits must be \[..., 4\], got shape \(2, 3\)"),
        (lambda s: s.add(0, np.zeros((2, 4)), [1]), "one flag for each of 2 tokens, got 1"),
        (lambda s: s.add(0, np.full((1, 4), np.nan)), "must not be NaN"),
        (lambda s: s.merge(RouterStatistics(2, 4, 2)), "must have the same settings"),
        (lambda s: s.add_choices(5, [[0]]), r"layer must be one of \[0, 1\], got 5"),
        (lambda s: s.add_choices(0, [[4]]), r"must be experts 0\.\.3, got 4 to 4"),
        (lambda s: s.add_choices(0, [[-1]]), r"must be experts 0\.\.3, got -1 to -1"),
        (lambda s: s.add_choices(0, [[1.0]]), "must be integers"),
        (lambda s: s.add_choices(0, 3), "must be integers"),
        (lambda s: s.add_choices(0, [[0], [1]], [1]), "one flag for each of 2 tokens, got 1"),
        (lambda s: s.add_counts(0, [1, 2]), r"must be 4 integers of at least 0, got \[1, 2\]"),
        (lambda s: s.add_counts(0, [1, 2, 3, -1]), "of at least 0"),
        (lambda s: s.add_counts(0, np.ones(4)), "must be 4 integers"),
        (lambda _: RouterStatistics(2, [4]), r"one number for each of 2 layers, got \[4\]"),
        (lambda _: RouterStatistics(2, [4, 0]), r"got num_experts=\[4, 0\]"),
        (lambda _: RouterStatistics(2, 4, 0), "top_k=0"),
        (lambda _: RouterStatistics([1, 1], 4, 2), r"layers must be distinct, got \[1, 1\]"),
        (lambda _: RouterStatistics(1, 0, 2), "got num_experts=0"),
    ],
)
def test_bad_input_names_the_rule_and_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call(RouterStatistics(2, 4, 1))


def test_torch_tensors_come_in():
    torch = pytest.importorskip("torch")
    rows = torch.tensor(logits()[0]).bfloat16()
    want = RouterStatistics(1, 8, 2).add(0, rows.float().numpy())
    mask = torch.ones(rows.shape[:-1], dtype=torch.bool)
    np.testing.assert_array_equal(RouterStatistics(1, 8, 2).add(0, rows, mask).counts, want.counts)
