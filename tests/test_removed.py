"""The share of the variance that removed tokens carried, against plain sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repgeom.covariance import Covariance
from repgeom.removed import RemovedTokens, Scatter


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_scatter_of_batches_is_the_scatter_of_all(sizes, seed):
    rows = torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(seed)) + 5
    scatter = Scatter()
    for part in rows.split(sizes):
        scatter.add(part)
    assert float(scatter.count) == len(rows)
    if len(rows):
        want = float(((rows.double() - rows.double().mean(0)) ** 2).sum())
        assert float(scatter.total) == pytest.approx(want, abs=1e-9)


def test_shares_of_variance_add_up():
    rng = np.random.default_rng(0)
    kept, sinks, doubles = rng.normal(size=(50, 4)), rng.normal(size=(3, 4)) * 100, rng.normal(size=(7, 4))
    removed = RemovedTokens()
    removed.add("first", torch.from_numpy(sinks[:2]))
    removed.add("first", torch.from_numpy(sinks[2:]))
    removed.add("duplicate", torch.from_numpy(doubles))
    removed.add("special", torch.empty(0, 4))
    table = removed.table(Covariance(4).update(kept))
    everything = np.concatenate([kept, sinks, doubles])
    total = ((everything - everything.mean(0)) ** 2).sum()
    want = {
        name: ((rows - everything.mean(0)) ** 2).sum() / total
        for name, rows in (("first", sinks), ("duplicate", doubles))
    }
    assert {row["reason"]: row["variance_share"] for row in table} == pytest.approx(want, rel=1e-12)
    assert {row["reason"]: row["tokens"] for row in table} == {"first": 3, "duplicate": 7}
    assert sum(row["token_share"] for row in table) == pytest.approx(10 / 60)
    assert want["first"] > 0.9


def test_rows_that_are_not_finite_carry_nothing():
    removed = RemovedTokens()
    removed.add("first", torch.tensor([[1.0, 2.0], [float("nan"), 0.0]]))
    (row,) = removed.table(Covariance(2).update(np.eye(2)))
    assert row["tokens"] == 1
    assert np.isfinite(row["variance_share"])


def test_without_variance_there_is_no_share():
    removed = RemovedTokens()
    removed.add("first", torch.ones(2, 2))
    (row,) = removed.table(Covariance(2).update(np.ones((3, 2))))
    assert np.isnan(row["variance_share"])
