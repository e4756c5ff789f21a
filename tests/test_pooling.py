"""Pooled vectors of sequences, against a loop over whole sequences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repgeom.pooling import POOLINGS, PooledVectors, SequenceSample, parse_pooling
from repgeom.rows import BatchRows
from repgeom.sampling import TokenSample

WIDTH = 3


def oracle(rows: np.ndarray, ids: np.ndarray, keep: np.ndarray) -> dict[str, dict[int, np.ndarray]]:
    found: dict[str, dict[int, np.ndarray]] = {name: {} for name in POOLINGS}
    for sequence in np.unique(ids[keep]):
        mine = rows[(ids == sequence) & keep]
        found["last"][sequence], found["first"][sequence] = mine[-1], mine[0]
        found["mean"][sequence], found["max"][sequence] = mine.mean(axis=0), mine.max(axis=0)
    return found


def pooled(rows, ids, keep, cuts, *, limit, seed=0):
    sequences = SequenceSample(TokenSample(limit, seed=seed))
    vectors = PooledVectors(limit, WIDTH, POOLINGS, torch.float64, torch.device("cpu"))
    edges = [0, *sorted(cut for cut in cuts if cut < len(ids)), len(ids)]
    for start, end in itertools.pairwise(edges):
        batch = BatchRows((end - start,), keep[start:end], sequence_ids=ids[start:end])
        vectors.add(torch.from_numpy(rows[start:end]), sequences.draw(batch))
    return sequences, vectors.read(sequences)


@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    limit=st.integers(1, 9),
    seed=st.integers(0, 9),
)
def test_any_cut_of_the_rows_gives_the_vectors_of_whole_sequences(lengths, cuts, limit, seed):
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(len(lengths)), lengths)
    rows, keep = rng.normal(size=(len(ids), WIDTH)), rng.random(len(ids)) < 0.8
    sequences, found = pooled(rows, ids, keep, cuts, limit=limit, seed=seed)
    want = oracle(rows, ids, keep)
    present = sequences.ids[sequences.order()]
    assert len(present) == min(limit, len(want["last"]))
    assert present.tolist() == sorted(present.tolist())
    assert sequences.counts[sequences.order()].tolist() == [int(((ids == i) & keep).sum()) for i in present]
    for name in POOLINGS:
        expected = np.array([want[name][i] for i in present]).reshape(-1, WIDTH)
        np.testing.assert_allclose(found[name], expected, rtol=1e-12)
    again, same = pooled(rows, ids, keep, [], limit=limit, seed=seed)
    assert again.ids[again.order()].tolist() == present.tolist()
    for name in POOLINGS:
        np.testing.assert_allclose(same[name], found[name], rtol=1e-12)


def test_rows_without_sequences_are_refused():
    sequences = SequenceSample(TokenSample(4))
    with pytest.raises(ValueError, match="pooled vectors need sequences"):
        sequences.draw(BatchRows((3,), np.ones(3, bool)))


def test_names():
    assert parse_pooling("last, mean") == ("last", "mean")
    assert parse_pooling(None) == ()
    with pytest.raises(ValueError, match=r"pool must be among .* got \['median'\]"):
        parse_pooling(["last", "median"])


def test_a_sequence_in_two_places_is_refused():
    sequences = SequenceSample(TokenSample(9))
    sequences.draw(BatchRows((4,), np.ones(4, bool), sequence_ids=np.array([0, 0, 1, 1])))
    sequences.draw(BatchRows((2,), np.ones(2, bool), sequence_ids=np.array([1, 2])))
    with pytest.raises(ValueError, match="stand together"):
        sequences.draw(BatchRows((2,), np.ones(2, bool), sequence_ids=np.array([2, 0])))
