"""Covariance and CovarianceBank against slow oracles, within the bound that they state themselves."""

from __future__ import annotations

import functools
import itertools
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
import reference
import repgeom as rg

DIMS = (1, 2, 47, 48, 49, 97, 131, 200)
ROWS = (1, 2, 511, 512, 513, 1300)
FLOAT64_ROUNDOFF = 2.0**-53
ROUNDOFF = {"float64": FLOAT64_ROUNDOFF, "float32": 2.0**-24, "float16": 2.0**-24, "bfloat16": 2.0**-24}

instruction_sets = pytest.mark.parametrize("instruction_set", rg.cpu_instruction_sets())


# --- inputs: every way in which the same numbers may lie in memory


def wide_rows(array: np.ndarray) -> np.ndarray:
    """The same values as the first columns of a wider array whose other columns are NaN."""
    wide = np.full((array.shape[0], array.shape[1] + 5), np.nan, array.dtype)
    wide[:, :-5] = array
    return wide[:, :-5]


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


def reversed_rows(array: np.ndarray) -> np.ndarray:
    return array[::-1].copy()[::-1]


def wide_tensor(tensor: torch.Tensor) -> torch.Tensor:
    wide = torch.full((tensor.shape[0], tensor.shape[1] + 3), torch.nan, dtype=tensor.dtype)
    wide[:, :-3] = tensor
    return wide[:, :-3]


def tensor_of(dtype: torch.dtype) -> Callable[[np.ndarray], torch.Tensor]:
    return lambda x: torch.from_numpy(x.copy()).to(dtype)


KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy float64": lambda x: x.copy(),
    "numpy float32": lambda x: x.astype(np.float32),
    "numpy float16": lambda x: x.astype(np.float16),
    "torch float64": tensor_of(torch.float64),
    "torch float32": tensor_of(torch.float32),
    "torch float16": tensor_of(torch.float16),
    "torch bfloat16": tensor_of(torch.bfloat16),
    "strided numpy float64": wide_rows,
    "strided numpy float32": lambda x: wide_rows(x.astype(np.float32)),
    "strided torch bfloat16": lambda x: wide_tensor(torch.from_numpy(x.copy()).bfloat16()),
    "read-only numpy float32": lambda x: read_only(x.astype(np.float32)),
    "reversed numpy float32": lambda x: reversed_rows(x.astype(np.float32)),
}
DTYPES = ("numpy float64", "numpy float32", "torch float16", "torch bfloat16")

kinds = pytest.mark.parametrize("kind", KINDS)
dtypes = pytest.mark.parametrize("kind", DTYPES)


def roundoff(x: Any) -> float:
    return ROUNDOFF[str(x.dtype).removeprefix("torch.")]


@functools.cache
def normal_data(rows: int = max(ROWS), dim: int = max(DIMS), seed: int = 0) -> np.ndarray:
    """Correlated normal rows with means of a few standard deviations."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dim, dim)) / np.sqrt(dim) + np.eye(dim)
    return rng.normal(size=(rows, dim)) @ mixing + 3 * rng.normal(size=dim)


@functools.cache
def expected_of_rows(kind: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Oracle for the widest data; that of fewer columns is a part of it. ddof 1, or 0 for a single row."""
    return oracles.moments(KINDS[kind](normal_data()[:rows]), ddof=min(1, rows - 1))


# --- comparing, so that NaN fails


def assert_within(error: np.ndarray, bound: np.ndarray, what: str) -> None:
    bad = ~(np.abs(error) <= bound)
    assert not bad.any(), f"{what}: {bad.sum()} of {bad.size} off, e.g. {error[bad][0]} > {bound[bad][0]}"


def mean_bound(x: Any) -> np.ndarray:
    """Subtracting the shift rounds in the data's precision, adding up in float64."""
    values = oracles.as_numpy(x)
    return 16 * roundoff(x) * values.std(axis=0) + 8 * FLOAT64_ROUNDOFF * np.abs(values).max(axis=0)


def outer_bound(statistic: rg.Covariance, ddof: float = 1) -> np.ndarray:
    scale = statistic.error_bound(ddof)
    return np.outer(scale, scale)


def assert_right(statistic: rg.Covariance, x: Any, weights: Any = None, ddof: float = 1) -> None:
    """Mean and covariance of ``statistic`` are those of the rows x, within its own bound."""
    mean, covariance = oracles.moments(x, weights, ddof=ddof)
    found = statistic.covariance(ddof)
    assert_within(found - covariance, outer_bound(statistic, ddof), "covariance")
    assert np.array_equal(found, found.T)
    assert_within(statistic.mean - mean, mean_bound(x), "mean")


def same_state(a: Any, b: Any) -> bool:
    """Whether two state_dicts agree bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[key], b[key]) for key in a)
    return type(a) is type(b) and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def in_batches(x: Any, sizes: list[int], dim: int | None = None, **options: Any) -> rg.Covariance:
    assert sum(sizes) == len(x)
    statistic = rg.Covariance(dim or x.shape[1], **options)
    for stop, size in zip(itertools.accumulate(sizes), sizes, strict=True):
        statistic.update(x[stop - size : stop])
    return statistic


# --- against the oracle


@instruction_sets
@kinds
@pytest.mark.parametrize("dim", DIMS)
def test_within_the_bound_of_the_oracle(instruction_set: str, kind: str, dim: int):
    for rows in ROWS:
        x = KINDS[kind](normal_data()[:rows, :dim])
        statistic = rg.Covariance(dim, instruction_set=instruction_set).update(x)
        ddof = min(1, rows - 1)
        mean, covariance = expected_of_rows(kind, rows)
        error = statistic.covariance(ddof) - covariance[:dim, :dim]
        assert_within(error, outer_bound(statistic, ddof), f"covariance of {rows} rows")
        assert_within(statistic.mean - mean[:dim], mean_bound(x), f"mean of {rows} rows")
        assert (statistic.count, statistic.weight_sum, statistic.nonfinite) == (rows, rows, 0)


def test_memory_mapped_rows(tmp_path: Path):
    x = normal_data()[:700, :49].astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert_right(rg.Covariance(49).update(mapped), x)


def test_repeated_rows_of_stride_zero():
    row = np.arange(5.0)
    statistic = rg.Covariance(5).update(np.broadcast_to(row, (20, 5)))
    assert np.array_equal(statistic.mean, row)
    assert np.array_equal(statistic.covariance(), np.zeros((5, 5)))


def test_one_column_may_have_any_stride():
    x = normal_data()[:50, :8]
    assert_right(rg.Covariance(1).update(x[:, 3:4]), x[:, 3:4])
    assert_right(rg.Covariance(1).update(x[:, ::-1][:, :1]), x[:, 7:])


@kinds
def test_several_runs_and_chunks(kind: str):
    x = KINDS[kind](normal_data(2600, 24, seed=5))
    assert_right(in_batches(x, [1, 0, 599, 2000]), x)


def test_a_batch_larger_than_the_workspace():
    x = np.random.default_rng(0).normal(size=(100_000, 3)) + np.array([0, 50, 1e6])
    state_size = 100_000 * 24 * 8
    assert state_size > 1 << 24, "or it fits into one chunk"
    assert_right(rg.Covariance(3).update(x), x)


# --- the bound means something


def test_the_bound_is_tight_enough_to_be_of_use():
    x = np.random.default_rng(1).normal(size=(2000, 64)).astype(np.float32)
    statistic = rg.Covariance(64).update(x)
    deviation = np.sqrt(np.diag(statistic.covariance()))
    relative = outer_bound(statistic) / np.outer(deviation, deviation)
    assert relative.max() <= 1e-4
    assert relative.min() > 0


def test_a_bad_number_violates_the_bound():
    x = (np.random.default_rng(2).normal(size=(2000, 1)) + 1e5).astype(np.float32)
    statistic = rg.Covariance(1).update(x)
    naive = np.float32((x * x).mean(dtype=np.float32)) - np.float32(x.mean(dtype=np.float32)) ** 2
    exact = oracles.moments(x, ddof=0)[1].item()
    assert abs(naive - exact) > 1000 * outer_bound(statistic, ddof=0).item()
    assert_right(statistic, x)


# --- splits, merges, threads


def spread_data(seed: int, rows: int, dim: int) -> np.ndarray:
    """Columns of different scales and offsets, and some rows far from all others."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, dim)) * 4.0 ** rng.integers(-3, 4, size=dim)
    x += rng.integers(-1, 2, size=dim) * 10.0 ** rng.integers(0, 4, size=dim)
    x[rng.random(rows) < 0.02] *= 30
    return x


def sizes_from(cuts: list[int], rows: int) -> list[int]:
    edges = [0, *sorted(cut % (rows + 1) for cut in cuts), rows]
    return [b - a for a, b in itertools.pairwise(edges)]


streams = st.tuples(st.integers(0, 2**32), st.integers(2, 700), st.integers(1, 60), st.sampled_from(DTYPES))


@settings(max_examples=60)
@given(streams, st.lists(st.integers(0, 700), max_size=8))
def test_any_split_into_batches(stream: tuple[int, int, int, str], cuts: list[int]):
    seed, rows, dim, kind = stream
    x = KINDS[kind](spread_data(seed, rows, dim))
    statistic = in_batches(x, sizes_from(cuts, rows))
    assert statistic.count == rows
    assert_right(statistic, x)


@settings(max_examples=60)
@given(streams, st.lists(st.integers(0, 700), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_any_order_of_merging(stream: tuple[int, int, int, str], cuts: list[int], order: random.Random):
    seed, rows, dim, kind = stream
    x = KINDS[kind](spread_data(seed, rows, dim))
    sizes = sizes_from(cuts, rows)
    starts = [stop - size for stop, size in zip(itertools.accumulate(sizes), sizes, strict=True)]
    parts = [rg.Covariance(dim).update(x[a : a + n]) for a, n in zip(starts, sizes, strict=True)]
    while len(parts) > 1:
        part = parts.pop(order.randrange(len(parts)))
        parts[order.randrange(len(parts))].merge(part)
    assert parts[0].count == rows
    assert_right(parts[0], x)


def test_merging_leaves_the_other_alone_and_takes_its_counts():
    x = normal_data()[:100, :7].copy()
    x[3, 2] = np.nan
    a, b = rg.Covariance(7).update(x[:40]), rg.Covariance(7).update(x[40:])
    before = b.state_dict()
    assert a.merge(b) is a
    assert same_state(b.state_dict(), before)
    assert (a.count, a.nonfinite, a.weight_sum) == (99, 1, 99)


def test_merging_with_an_empty_one_changes_nothing():
    x = normal_data()[:100, :7]
    full = rg.Covariance(7).update(x)
    before = full.state_dict()
    assert same_state(full.merge(rg.Covariance(7)).state_dict(), before)
    assert same_state(rg.Covariance(7).merge(full).state_dict(), before)


def test_merging_with_itself_counts_every_row_twice():
    x = normal_data()[:100, :7]
    statistic = rg.Covariance(7).update(x)
    assert_right(statistic.merge(statistic), np.concatenate([x, x]))
    assert statistic.count == 200


def far_apart(rows: int) -> np.ndarray:
    x = np.random.default_rng(8).normal(size=(rows, 4))
    x[: rows // 2] += [0, 1e3, -1e5, 0]
    return x


def test_merging_streams_that_lie_far_apart():
    x = far_apart(800).astype(np.float32)
    for first, second in ((x[:400], x[400:]), (x[400:], x[:400])):
        merged = rg.Covariance(4).update(first).merge(rg.Covariance(4).update(second))
        assert_right(merged, x)


@dtypes
@instruction_sets
def test_threads_do_not_change_a_bit(kind: str, instruction_set: str):
    x = KINDS[kind](normal_data(1300, 131))
    options = {"instruction_set": instruction_set}
    states = [in_batches(x, [700, 600], threads=n, **options).state_dict() for n in (1, 2, 3, 5)]
    assert all(same_state(state, states[0]) for state in states[1:])


def bank_data() -> dict[str, Any]:
    x = normal_data(1300, 200)
    return {
        "a": x[:, :97].astype(np.float32),
        "b": torch.from_numpy(x[:, 50:200].copy()).bfloat16(),
        "c": x[:, :1].copy(),
        "d": x[:, :131].astype(np.float16),
        "e": x[:, 100:149].copy(),
    }


def bank_of(data: dict[str, Any], threads: int) -> rg.CovarianceBank:
    return rg.CovarianceBank({name: x.shape[1] for name, x in data.items()}, threads=threads)


def test_a_bank_is_its_members_whatever_the_threads():
    data = bank_data()
    weights = np.arange(1300) % 3 * 0.5
    alone = {
        name: rg.Covariance(x.shape[1]).update(x).update(x, weights).state_dict() for name, x in data.items()
    }
    for threads in (1, 2, 3, 5):
        bank = bank_of(data, threads).update(data).update(data, weights)
        assert same_state(bank.state_dict(), alone), f"{threads} threads"


def test_a_bank_updates_only_the_names_it_is_given():
    data = bank_data()
    bank = bank_of(data, 2).update({"a": data["a"], "c": data["c"][:7]}).update({})
    assert {name: bank[name].count for name in bank} == {"a": 1300, "b": 0, "c": 7, "d": 0, "e": 0}
    assert_right(bank["a"], data["a"])


def test_banks_merge_by_name():
    data = bank_data()
    first = bank_of(data, 1).update({name: x[:400] for name, x in data.items()})
    second = bank_of(data, 1).update({name: x[400:] for name, x in data.items()})
    first.merge(second)
    for name, x in data.items():
        assert_right(first[name], x)


# --- whole numbers are exact


def assert_exact(statistic: rg.Covariance, x: Any, weights: Any = None) -> None:
    sums, products = oracles.integer_sums(x, weights)
    found_sums, found_products = oracles.sums_of_state(statistic.state_dict())
    assert found_sums == sums.tolist()
    for i, row in enumerate(found_products):
        assert row == products[i, : i + 1].tolist(), f"row {i}"


def whole_numbers(rows: int, dim: int = 49) -> np.ndarray:
    """|x| <= 127, with a constant and a nearly constant column where there is room."""
    rng = np.random.default_rng(rows)
    x = rng.integers(-127, 128, size=(rows, dim)).astype(np.float64)
    x[:, 5] = 127
    x[:, 6] = 100
    x[rows // 3, 6] = 101
    x[:, 7] = rng.integers(120, 128, size=rows)
    return x


@instruction_sets
@kinds
def test_whole_numbers_are_exact(instruction_set: str, kind: str):
    x = KINDS[kind](whole_numbers(1300))
    for sizes in ([1300], [1, 1299], [512, 512, 276], [100, 0, 1, 1199]):
        assert_exact(in_batches(x, sizes, instruction_set=instruction_set), x)


@dtypes
def test_whole_numbers_with_whole_weights_are_exact(kind: str):
    x = KINDS[kind](whole_numbers(600))
    weights = np.arange(600) % 4
    assert_exact(rg.Covariance(49).update(x, weights), x, weights)


@dtypes
def test_merged_whole_numbers_are_exact(kind: str):
    x = KINDS[kind](whole_numbers(900))
    parts = [rg.Covariance(49).update(part) for part in (x[:100], x[100:101], x[101:])]
    assert_exact(parts[2].merge(parts[0]).merge(parts[1]), x)


@dtypes
@instruction_sets
def test_the_covariance_of_1024_whole_rows_is_exact(kind: str, instruction_set: str):
    x = KINDS[kind](whole_numbers(1024))
    sums, products = oracles.integer_sums(x)
    exact = 1024 * products - np.outer(sums, sums)
    found = in_batches(x, [300, 724], instruction_set=instruction_set).covariance(ddof=0) * 1024.0**2
    assert np.array_equal(found, exact)


def drifting_whole_numbers() -> np.ndarray:
    """First the constant 127, then -127 and 0 to 3 in halves: far from 127, but within four spreads of it."""
    rng = np.random.default_rng(0)
    later = np.where(rng.random((1024, 9)) < 0.5, -127, rng.integers(0, 4, size=(1024, 9)))
    return np.concatenate([np.full((600, 9), 127.0), later])


# With a shift far from the rows, |x - shift| reaches 254 and a run of 512 squares would pass 2^24.
@dtypes
def test_whole_numbers_that_drift_are_exact(kind: str):
    x = KINDS[kind](drifting_whole_numbers())
    assert_exact(in_batches(x, [600, 1024]), x)


def two_valued_then_wide() -> np.ndarray:
    """A mean of about 100.3 with a small spread far from the first row, then a wide spread."""
    rng = np.random.default_rng(1)
    narrow = 100 + (rng.random((1300, 9)) < 0.3)
    wide = np.clip(np.rint(100 - 60 * np.abs(rng.normal(size=(1024, 9)))), -127, 127)
    return np.concatenate([np.full((1, 9), 90.0), narrow, wide])


@dtypes
def test_whole_numbers_after_a_move_of_the_shift_are_exact(kind: str):
    x = KINDS[kind](two_valued_then_wide())
    assert_exact(in_batches(x, [1, 1300, 1024]), x)


# --- offsets


@instruction_sets
def test_channels_with_a_large_offset(instruction_set: str):
    x = np.random.default_rng(3).normal(size=(3000, 20))
    x[:, [0, 7, 19]] += 1e5
    x = x.astype(np.float32)
    for sizes in ([3000], [1, 2999], [700, 2300]):
        statistic = in_batches(x, sizes, instruction_set=instruction_set)
        assert_right(statistic, x)
        assert np.abs(statistic.covariance() - np.eye(20)).max() < 0.15
        assert outer_bound(statistic).max() < 1e-3


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e4, 1e5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_two_points_with_an_offset(offset: float, dtype: type):
    """facebookresearch/faiss issue 773."""
    x = np.array([[offset + 1, offset], [offset, offset + 1]], dtype)
    for statistic in (rg.Covariance(2).update(x), rg.Covariance(2).update(x[:1]).update(x[1:])):
        assert np.array_equal(statistic.covariance(), [[0.5, -0.5], [-0.5, 0.5]])
        assert np.array_equal(statistic.mean, [offset + 0.5] * 2)


@pytest.mark.parametrize("sizes", [[2000], [1, 1999], [700, 1300]])
def test_bfloat16_with_offset_and_a_constant_channel(sizes: list[int]):
    z = np.random.default_rng(4).integers(-8, 9, size=(2000, 6))
    values = 2048.0 + 16 * z
    values[:, 3] = 3056
    x = torch.from_numpy(values).bfloat16()
    assert np.array_equal(oracles.as_numpy(x), values), "not representable in bfloat16"
    statistic = in_batches(x, sizes)
    assert_right(statistic, x)
    assert np.array_equal(statistic.covariance()[3], np.zeros(6))
    assert statistic.mean[3] == 3056


@dtypes
@pytest.mark.parametrize("value", [0.1, -1e4, 3e-5])
def test_a_constant_channel_has_no_variance(kind: str, value: float):
    x = np.random.default_rng(5).normal(size=(1300, 4))
    x[:, 2] = np.float32(value)
    x = KINDS[kind](x)
    statistic = in_batches(x, [3, 1297])
    assert np.array_equal(statistic.covariance()[2], np.zeros(4))
    assert statistic.mean[2] == oracles.as_numpy(x)[0, 2]


@dtypes
@pytest.mark.parametrize("sizes", [[1, 1999], [1] * 50 + [1950], [2000]])
def test_an_outlier_comes_first(kind: str, sizes: list[int]):
    x = np.random.default_rng(6).normal(size=(2000, 12)) + 2
    x[0, ::2] += 1e4
    x = KINDS[kind](x)
    statistic = in_batches(x, sizes)
    assert_right(statistic, x)
    statistic.update(x[1:])
    assert_right(statistic, x[[*range(2000), *range(1, 2000)]])


def sequences(n: int, length: int) -> np.ndarray:
    """Rows of n sequences, one after the other, each with a massive first token."""
    x = np.random.default_rng(17).normal(size=(n * length, 6))
    x[::length, ::2] += 1e4
    return x


# If the rows that choose the shift were evenly spaced, they could all be first tokens.
@pytest.mark.parametrize("n", [63, 64, 65, 128])
def test_first_tokens_do_not_set_the_shift(n: int):
    x = sequences(n, 1024).astype(np.float32)
    statistic = rg.Covariance(6).update(x)
    assert_right(statistic, x)
    relative = np.diag(outer_bound(statistic)) / np.diag(statistic.covariance())
    assert relative.max() <= 1e-4


# Its 1e4 makes the standard deviation so large that an offset of 1000 could seem close to 0.
def test_one_massive_row_does_not_hide_an_offset():
    x = np.random.default_rng(18).normal(size=(65536, 3)) + 1000
    x[0] += 1e4
    x = x.astype(np.float32)
    statistic = rg.Covariance(3).update(x)
    assert_right(statistic, x)
    relative = np.diag(outer_bound(statistic)) / np.diag(statistic.covariance())
    assert relative.max() <= 1e-4


@pytest.mark.parametrize("kind", ["numpy float64", "numpy float32"])
@pytest.mark.parametrize("speed", [1e-2, 1.0, 100.0])
def test_drifting_means(kind: str, speed: float):
    rng = np.random.default_rng(7)
    drift = speed * np.arange(4000)[:, None] * rng.normal(size=10)
    x = KINDS[kind](rng.normal(size=(4000, 10)) + drift)
    for size in (100, 1000, 4000):
        assert_right(in_batches(x, [size] * (4000 // size)), x)


# --- weights


@kinds
def test_weights(kind: str):
    x = KINDS[kind](normal_data()[:1300, :97])
    weights = np.random.default_rng(9).gamma(1.0, size=1300) * (np.arange(1300) % 5 > 0)
    statistic = rg.Covariance(97).update(x[:500], weights[:500]).update(x[500:], weights[500:])
    assert_right(statistic, x, weights)
    assert statistic.count == 1040
    assert not abs(statistic.weight_sum - weights.sum()) > 1e-12 * weights.sum()


@dtypes
def test_whole_weights_are_repeated_rows(kind: str):
    x = KINDS[kind](normal_data()[:700, :48])
    weights = np.random.default_rng(10).integers(0, 4, size=700)
    statistic = rg.Covariance(48).update(x, weights)
    assert_right(statistic, x[np.repeat(np.arange(700), weights)])


@kinds
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_mask_selects_rows(kind: str, share: float):
    x = KINDS[kind](normal_data()[:1300, :49])
    mask = np.random.default_rng(11).random(1300) < share
    selected = rg.Covariance(49).update(x[np.flatnonzero(mask)]).state_dict()
    for weights in (
        mask,
        mask.astype(np.float64),
        torch.from_numpy(mask),
        mask.astype(np.int8),
        mask.tolist(),
    ):
        assert same_state(rg.Covariance(49).update(x, weights).state_dict(), selected)


@dtypes
def test_weights_of_one_are_no_weights(kind: str):
    x = KINDS[kind](normal_data()[:600, :49])
    plain = rg.Covariance(49).update(x).state_dict()
    assert same_state(rg.Covariance(49).update(x, np.ones(600)).state_dict(), plain)


@dtypes
def test_weights_of_zero_change_nothing(kind: str):
    x = KINDS[kind](normal_data()[:600, :49])
    statistic = rg.Covariance(49)
    empty = statistic.state_dict()
    assert same_state(statistic.update(x, np.zeros(600)).state_dict(), empty)
    statistic.update(x)
    full = statistic.state_dict()
    assert same_state(statistic.update(x + 1000, np.zeros(600)).state_dict(), full)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_rows_of_weight_zero_may_hold_anything(value: float):
    x = normal_data()[:50, :4].copy()
    x[10] = value
    statistic = rg.Covariance(4).update(x, np.arange(50) != 10)
    assert statistic.nonfinite == 0
    assert_right(statistic, np.delete(x, 10, axis=0))


def test_reliability_weights_are_those_of_numpy():
    x = normal_data()[:300, :12]
    weights = np.random.default_rng(12).random(300)
    statistic = rg.Covariance(12).update(x[:99], weights[:99]).update(x[99:], weights[99:])
    for ddof in (0, 1):
        expected = np.cov(x, rowvar=False, aweights=weights, ddof=ddof)
        found = statistic.covariance(ddof, weighting="reliability")
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


# In float32 these weights are 0 or infinite.
@pytest.mark.parametrize("factor", [1e-60, 1e-30, 2.0**-20, 1e5, 1e60])
@dtypes
def test_the_scale_of_the_weights_does_not_matter(kind: str, factor: float):
    x = KINDS[kind](normal_data()[:300, :12])
    weights = factor * (1 + np.arange(300) % 7)
    statistic = rg.Covariance(12).update(x, weights)
    assert_right(statistic, x, weights, ddof=0)
    expected = oracles.moments(x, weights, weighting="reliability")[1]
    found = statistic.covariance(weighting="reliability")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


# --- rows that are not finite, numbers that are hardly finite


BAD_ROWS = {"first": [0], "last": [-1], "middle": [600], "runs": [511, 512], "many": list(range(0, 1300, 7))}


@kinds
@pytest.mark.parametrize("where", BAD_ROWS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_left_out(kind: str, where: str, value: float):
    values = normal_data()[:1300, :49].copy()
    values[BAD_ROWS[where], 13] = value
    x = KINDS[kind](values)
    good = np.isfinite(values).all(axis=1)
    selected = rg.Covariance(49).update(x[np.flatnonzero(good)])
    statistic = rg.Covariance(49).update(x)
    assert statistic.nonfinite == (~good).sum()
    assert statistic.count == good.sum()
    assert_right(statistic, x[np.flatnonzero(good)])
    assert_within(statistic.mean - selected.mean, mean_bound(x[np.flatnonzero(good)]), "mean")


@dtypes
def test_infinities_that_cancel_are_found(kind: str):
    values = normal_data()[:100, :6].copy()
    values[[20, 21], 2] = [np.inf, -np.inf]
    statistic = rg.Covariance(6).update(KINDS[kind](values))
    assert (statistic.nonfinite, statistic.count) == (2, 98)
    assert_right(statistic, KINDS[kind](np.delete(values, [20, 21], axis=0)))


@kinds
def test_all_rows_bad(kind: str):
    statistic = rg.Covariance(3)
    bad = KINDS[kind](np.full((700, 3), np.nan))
    assert (statistic.update(bad).nonfinite, statistic.count) == (700, 0)
    x = KINDS[kind](normal_data()[:40, :3])
    assert_right(statistic.update(x).update(bad), x)
    assert (statistic.nonfinite, statistic.count) == (1400, 40)


@dtypes
def test_bad_rows_with_weights(kind: str):
    values = normal_data()[:600, :5].copy()
    values[[0, 77, 599], [0, 3, 4]] = np.nan
    weights = 0.5 + np.arange(600) % 3
    statistic = rg.Covariance(5).update(KINDS[kind](values), weights)
    good = np.isfinite(values).all(axis=1)
    assert statistic.nonfinite == 3
    assert_right(statistic, KINDS[kind](values[good]), weights[good])


def test_bad_rows_on_the_cross_side():
    x, y = normal_data()[:600, :5].copy(), normal_data()[:600, 7:10].copy()
    x[5, 2] = np.inf
    y[[5, 17], [0, 2]] = np.nan
    statistic = rg.Covariance(5, cross_dim=3).update(x, cross=y)
    good = np.delete(np.arange(600), [5, 17])
    assert (statistic.nonfinite, statistic.count) == (2, 598)
    assert_cross_right(statistic, x[good], y[good])


def test_bad_rows_in_a_bank_are_counted_by_layer():
    data = bank_data()
    data["a"][[1, 2]] = np.nan
    data["e"][7] = np.inf
    bank = bank_of(data, 2).update(data)
    assert {name: bank[name].nonfinite for name in bank} == {"a": 2, "b": 0, "c": 0, "d": 0, "e": 1}
    assert_right(bank["a"], np.delete(data["a"], [1, 2], axis=0))


@instruction_sets
@pytest.mark.parametrize("scale", [1e18, 1e20, 1e30])
def test_products_beyond_float32(instruction_set: str, scale: float):
    values = normal_data()[:700, :60].copy()
    values[:, ::2] *= scale
    x = values.astype(np.float32)
    assert_right(rg.Covariance(60, instruction_set=instruction_set).update(x), x)
    weights = np.linspace(0.1, 2, 700)
    assert_right(rg.Covariance(60, instruction_set=instruction_set).update(x, weights), x, weights)
    assert_right(
        in_batches(torch.from_numpy(values).bfloat16(), [1, 699]), torch.from_numpy(values).bfloat16()
    )


@pytest.mark.parametrize("scale", [1e-10, 1e-18, 1e-20, 1e-25, 1e-38])
@pytest.mark.parametrize("kind", ["numpy float32", "torch bfloat16"])
def test_products_below_float32(kind: str, scale: float):
    values = normal_data()[:700, :60].copy()
    values[:, ::2] *= scale
    x = KINDS[kind](values)
    assert_right(rg.Covariance(60).update(x), x)


@pytest.mark.parametrize("scale", [1e-140, 1e39, 1e100, 1e140])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_float64_far_from_one(scale: float, offset: float):
    x = scale * (np.random.default_rng(13).normal(size=(700, 12)) + offset)
    assert_right(rg.Covariance(12).update(x), x)
    assert_right(in_batches(x, [1, 300, 399]), x)


TOO_LARGE = "finite values of {} must be at most 1e150 in magnitude, got {}"


@pytest.mark.parametrize("value", [1e200, -1e200, 1.7e308])
def test_products_beyond_float64_are_refused(value: float):
    x = np.ones((100_000, 6))
    x[-10:, 4] = value
    one, two = used_statistic(), used_statistic(3)
    with refused(one, ValueError, TOO_LARGE.format("x", f"{value:g}")):
        one.update(x)
    with refused(two, ValueError, TOO_LARGE.format("cross", f"{value:g}")):
        two.update(np.ones((100_000, 6)), cross=x[:, 3:])


# --- the second stream


def assert_cross_right(statistic: rg.Covariance, x: Any, y: Any, weights: Any = None) -> None:
    _, mean_y, covariance = oracles.cross_covariance(x, y, weights)
    scale_x, scale_y = statistic.cross_error_bound()
    error = statistic.cross_covariance() - covariance
    assert_within(error, np.outer(scale_x, scale_y), "cross-covariance")
    assert_within(statistic.cross_mean - mean_y, mean_bound(y) + mean_bound(x).max(), "mean of y")
    assert_right(statistic, x, weights)


@instruction_sets
@pytest.mark.parametrize("kind_x", DTYPES)
@pytest.mark.parametrize("kind_y", DTYPES)
@pytest.mark.parametrize("dims", [(1, 1), (49, 3), (3, 49), (97, 131)])
def test_cross_covariance(instruction_set: str, kind_x: str, kind_y: str, dims: tuple[int, int]):
    x = KINDS[kind_x](normal_data()[:600, : dims[0]])
    y = KINDS[kind_y](normal_data()[:600, -dims[1] :])
    statistic = rg.Covariance(dims[0], cross_dim=dims[1], instruction_set=instruction_set)
    statistic.update(x[:513], cross=y[:513]).update(x[513:], cross=y[513:])
    assert_cross_right(statistic, x, y)


def test_cross_covariance_with_weights_offsets_and_merges():
    rng = np.random.default_rng(15)
    x = (rng.normal(size=(900, 5)) + np.array([0, 1e5, 0, 0, 0])).astype(np.float32)
    y = (x[:, [1, 3]] * 0.5 + rng.normal(size=(900, 2)) + np.array([0, -1e4])).astype(np.float32)
    weights = rng.integers(0, 3, size=900) * 0.5
    parts = [rg.Covariance(5, cross_dim=2) for _ in range(3)]
    for part, rows in zip(parts, (slice(0, 1), slice(1, 300), slice(300, 900)), strict=True):
        part.update(x[rows], weights[rows], cross=y[rows])
    assert_cross_right(parts[1].merge(parts[0]).merge(parts[2]), x, y, weights)


def test_the_cross_covariance_with_itself_is_the_covariance():
    x = normal_data()[:700, :49]
    statistic = rg.Covariance(49, cross_dim=49).update(x, cross=x)
    bound = outer_bound(statistic)
    assert_within(statistic.cross_covariance() - statistic.covariance(), 2 * bound, "C_xx")


def test_cross_covariance_does_not_depend_on_threads():
    x, y = normal_data()[:1300, :97].astype(np.float32), normal_data()[:1300, 50:181].astype(np.float16)
    states = [
        rg.Covariance(97, cross_dim=131, threads=n).update(x, cross=y).state_dict() for n in (1, 2, 3, 5)
    ]
    assert all(same_state(state, states[0]) for state in states[1:])


def test_cross_products_beyond_float32():
    x = (normal_data()[:600, :5] * 1e30).astype(np.float32)
    y = (normal_data()[:600, 5:60] * 1e25).astype(np.float32)
    assert_cross_right(rg.Covariance(5, cross_dim=55).update(x, cross=y), x, y)


# --- empty batches


# NumPy gives empty arrays the strides (0, 0).
@kinds
def test_an_empty_batch_changes_nothing(kind: str):
    empty = KINDS[kind](np.zeros((0, 7)))
    statistic = rg.Covariance(7)
    nothing = statistic.state_dict()
    assert same_state(statistic.update(empty).update(empty, np.zeros(0)).state_dict(), nothing)
    x = KINDS[kind](normal_data()[:30, :7])
    assert_right(statistic.update(empty).update(x).update(empty), x)


def test_an_empty_batch_of_two_streams():
    x, y = normal_data()[:30, :4], normal_data()[:30, 4:7]
    for empty in (np.zeros((0, 4)), torch.zeros(0, 4)):
        statistic = rg.Covariance(4, cross_dim=3).update(empty, cross=empty[:, :3].reshape(0, 3))
        assert_cross_right(statistic.update(x, cross=y), x, y)


# --- saving


def used_statistic(cross_dim: int | None = None) -> rg.Covariance:
    x, y = normal_data()[:90, :6].copy(), normal_data()[:90, 6:9]
    x[:, 1] += 1e6
    x[4] = np.nan
    cross = None if cross_dim is None else y[:, :cross_dim].copy()
    return rg.Covariance(6, cross_dim=cross_dim).update(x, np.arange(90) % 4 * 0.5, cross=cross)


@pytest.mark.parametrize("cross_dim", [None, 3])
def test_a_state_comes_back(cross_dim: int | None):
    saved = used_statistic(cross_dim)
    loaded = rg.Covariance(6, cross_dim=cross_dim)
    loaded.load_state_dict(saved.state_dict())
    assert same_state(loaded.state_dict(), saved.state_dict())
    more = normal_data()[:50, 20:26]
    cross = None if cross_dim is None else more[:, :3].copy()
    for statistic in (saved, loaded):
        statistic.update(more, cross=cross)
    assert same_state(loaded.state_dict(), saved.state_dict())


# None in the state would need pickle in an npz file.
@pytest.mark.parametrize("cross_dim", [None, 3])
def test_a_state_comes_back_from_npz(cross_dim: int | None, tmp_path: Path):
    saved = used_statistic(cross_dim)
    np.savez(tmp_path / "state.npz", **saved.state_dict())
    loaded = rg.Covariance(6, cross_dim=cross_dim)
    with np.load(tmp_path / "state.npz", allow_pickle=False) as archive:
        loaded.load_state_dict(dict(archive))
    assert same_state(loaded.state_dict(), saved.state_dict())


def test_a_state_is_a_copy():
    statistic = used_statistic()
    state = statistic.state_dict()
    kept = {key: np.copy(value) for key, value in state.items()}
    statistic.update(normal_data()[:50, :6])
    assert all(np.array_equal(state[key], kept[key]) for key in kept if kept[key].dtype != object)
    state["x_sum"][:] = 0
    assert statistic.state_dict()["x_sum"].any()


def test_a_bank_comes_back():
    data = bank_data()
    saved, loaded = bank_of(data, 1).update(data), bank_of(data, 1)
    loaded.load_state_dict(saved.state_dict())
    assert same_state(loaded.state_dict(), saved.state_dict())


# --- refusals: the text, and nothing has changed


@contextmanager
def refused(
    statistic: rg.Covariance | rg.CovarianceBank, error: type[Exception], text: str
) -> Iterator[None]:
    before = statistic.state_dict()
    with pytest.raises(error) as caught:
        yield
    assert str(caught.value) == text
    assert same_state(statistic.state_dict(), before), "the statistic has changed"


def vector(n: int) -> np.ndarray:
    return np.linspace(1, 2, n)


BAD_X = {
    "wrong width": (np.ones((4, 5)), ValueError, "x must have 6 columns, got 5"),
    "one dimension": (np.ones(6), ValueError, "x must have 2 dimensions [n, d], got 1"),
    "three dimensions": (np.ones((2, 3, 6)), ValueError, "x must have 2 dimensions [n, d], got 3"),
    "columns apart": (
        np.ones((4, 12))[:, ::2],
        ValueError,
        "x must have contiguous rows (stride 1 within a row; numpy.ascontiguousarray copies), got 2",
    ),
    "transposed": (
        np.ones((6, 4)).T,
        ValueError,
        "x must have contiguous rows (stride 1 within a row; numpy.ascontiguousarray copies), got 4",
    ),
    "columns backwards": (
        np.ones((4, 6))[:, ::-1],
        ValueError,
        "x must have contiguous rows (stride 1 within a row; numpy.ascontiguousarray copies), got -1",
    ),
    "integers": (
        np.ones((4, 6), np.int64),
        TypeError,
        "x must be float64, float32, float16 or bfloat16 in native byte order, got int64",
    ),
    "complex numbers": (
        np.ones((4, 6), np.complex64),
        TypeError,
        "x must be float64, float32, float16 or bfloat16 in native byte order, got complex64",
    ),
    "integer tensor": (
        torch.ones((4, 6), dtype=torch.int32),
        TypeError,
        "x must be float64, float32, float16 or bfloat16, got DLPack type code 0 of 32 bits",
    ),
    "transposed tensor": (
        torch.ones((6, 4)).T,
        ValueError,
        "x must have contiguous rows (stride 1 within a row; numpy.ascontiguousarray copies), got 4",
    ),
    "list": (
        [[1.0] * 6],
        TypeError,
        "x must be a NumPy array, a torch tensor or another array with __dlpack__, got list",
    ),
    "none": (
        None,
        TypeError,
        "x must be a NumPy array, a torch tensor or another array with __dlpack__, got NoneType",
    ),
    "tensor without memory": (
        torch.ones((4, 6), device="meta"),
        ValueError,
        "arrays must be in host memory, got a tensor on meta; move it with .cpu()",
    ),
}


@pytest.mark.parametrize("case", BAD_X)
def test_bad_rows_are_refused(case: str):
    x, error, text = BAD_X[case]
    statistic = used_statistic()
    with refused(statistic, error, text):
        statistic.update(x)


BAD_WEIGHTS = {
    "negative": ([1, -1, 1, 1], ValueError, "weights must be finite and >= 0, got -1"),
    "nan": ([1, 1, 1, np.nan], ValueError, "weights must be finite and >= 0, got nan"),
    "infinite": ([1, 1, 1, np.inf], ValueError, "weights must be finite and >= 0, got inf"),
    "too few": ([1, 1, 1], ValueError, "weights must have 4 elements, got 3"),
    "too many": ([1] * 5, ValueError, "weights must have 4 elements, got 5"),
    "two dimensions": ([[1, 1, 1, 1]], ValueError, "weights must have 1 dimension, got 2"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_bad_weights_are_refused(case: str):
    weights, error, text = BAD_WEIGHTS[case]
    statistic = used_statistic()
    with refused(statistic, error, text):
        statistic.update(np.ones((4, 6)), weights)


def test_a_bad_second_stream_is_refused():
    one, two = used_statistic(), used_statistic(3)
    x = np.ones((4, 6))
    with refused(one, ValueError, "cross needs a Covariance made with cross_dim, got 3"):
        one.update(x, cross=x[:, :3].copy())
    with refused(two, ValueError, "cross is required by a Covariance made with cross_dim, got none"):
        two.update(x)
    with refused(two, ValueError, "cross must have 3 columns, got 6"):
        two.update(x, cross=x)
    with refused(two, ValueError, "cross must have as many rows as x, 4, got 5"):
        two.update(x, cross=np.ones((5, 3)))
    with refused(two, ValueError, "cross must have 2 dimensions [n, d], got 1"):
        two.update(x, cross=np.ones(3))
    with refused(one, ValueError, "a cross-covariance needs cross_dim >= 1, got 0"):
        one.cross_covariance()


def test_too_few_rows_to_read():
    hint = "(weights that are no counts: weighting='reliability')"
    text = f"a covariance needs more weight than ddof takes away {hint}, got {{}}"
    empty, single = rg.Covariance(2), rg.Covariance(2).update(np.ones((1, 2)))
    with refused(empty, ValueError, "a mean needs at least one row, got 0"):
        _ = empty.mean
    with refused(single, ValueError, text.format(0)):
        single.covariance()
    with refused(single, ValueError, text.format(0)):
        single.error_bound()
    with refused(empty, ValueError, text.format(-1)):
        empty.covariance()
    with refused(empty, ValueError, text.format(0)):
        empty.covariance(ddof=0)
    assert np.array_equal(single.covariance(ddof=0), np.zeros((2, 2)))
    with refused(single, ValueError, text.format(0)):
        single.covariance(weighting="reliability")


def test_an_unknown_weighting_is_refused():
    statistic = used_statistic()
    text = "weighting must be 'frequency' or 'reliability', got 'importance'"
    with refused(statistic, ValueError, text):
        statistic.covariance(weighting="importance")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"dim": 0}, "dim must be an integer of at least 1, got 0"),
        ({"dim": -3}, "dim must be an integer of at least 1, got -3"),
        ({"dim": 3, "cross_dim": -1}, "cross_dim must be an integer of at least 0, got -1"),
        ({"dim": 3, "threads": 0}, "threads must be an integer of at least 1, got 0"),
        ({"dim": 3, "threads": -1}, "threads must be an integer of at least 1, got -1"),
        (
            {"dim": 3, "instruction_set": "mmx"},
            f"instruction_set must be one of {rg.cpu_instruction_sets()}, got 'mmx'",
        ),
    ],
)
def test_a_bad_making_is_refused(arguments: dict[str, Any], text: str):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        rg.Covariance(**arguments)
    assert str(caught.value) == text


def test_merging_other_widths_is_refused():
    one, two = used_statistic(), used_statistic(3)
    with refused(one, ValueError, "both moments must have dim 6, got 5"):
        one.merge(rg.Covariance(5).update(np.ones((3, 5))))
    with refused(one, ValueError, "both moments must have cross_dim 0, got 3"):
        one.merge(two)
    with refused(two, ValueError, "both moments must have cross_dim 3, got 0"):
        two.merge(one)


def changed(state: dict[str, Any], **entries: Any) -> dict[str, Any]:
    return {**state, **entries}


def test_bad_states_are_refused():
    statistic = used_statistic()
    state = rg.Covariance(6).update(np.ones((4, 6))).state_dict()
    with refused(statistic, ValueError, "state_dict['dim'] must be 6, got 5"):
        statistic.load_state_dict(rg.Covariance(5).state_dict())
    with refused(statistic, ValueError, "state_dict['version'] must be 1, got 2"):
        statistic.load_state_dict(changed(state, version=2))
    with refused(statistic, ValueError, "state_dict['version'] must be 1, got None"):
        statistic.load_state_dict({})
    with refused(statistic, ValueError, f"state_dict['cross_dim'] must be {state['cross_dim']}, got 3"):
        statistic.load_state_dict(rg.Covariance(6, cross_dim=3).state_dict())
    without = {key: value for key, value in state.items() if key != "x_sum"}
    with refused(statistic, ValueError, f"state_dict must have the entries ['x_sum'], got {sorted(without)}"):
        statistic.load_state_dict(without)
    with refused(statistic, ValueError, "state['cross_error'] must have 0 elements, got 1"):
        statistic.load_state_dict(changed(state, cross_error=np.zeros(1)))
    with refused(statistic, ValueError, "state['second'] must have 21 elements, got 20"):
        statistic.load_state_dict(changed(state, second=np.zeros(20)))
    with refused(statistic, ValueError, "state['x_sum'] must be float64, got another type"):
        statistic.load_state_dict(changed(state, x_sum=np.zeros(6, np.float32)))


@pytest.mark.parametrize("key", ["count", "weight_sum"])
def test_a_state_with_a_text_for_a_number_is_refused(key: str):
    statistic = used_statistic()
    state = changed(statistic.state_dict(), **{key: "many"})
    before = statistic.state_dict()
    with pytest.raises((TypeError, ValueError)):
        statistic.load_state_dict(state)
    assert same_state(statistic.state_dict(), before)


def small_bank() -> rg.CovarianceBank:
    x = normal_data()[:20, :3]
    return rg.CovarianceBank({"a": 3, "b": 2}).update({"a": x, "b": x[:, :2].copy()})


def test_bad_updates_of_a_bank_change_none_of_its_members():
    bank = small_bank()
    a, b = np.ones((4, 3)), np.ones((4, 2))
    with refused(bank, ValueError, "names must be among ['a', 'b'], got ['z']"):
        bank.update({"a": a, "z": b})
    with refused(bank, ValueError, "x must have 2 columns, got 3"):
        bank.update({"a": a, "b": a})
    with refused(bank, TypeError, BAD_X["list"][2]):
        bank.update({"a": a, "b": [[1.0, 2.0]]})
    with refused(bank, ValueError, "weights must have 5 elements, got 4"):
        bank.update({"a": a, "b": np.ones((5, 2))}, np.ones(4))
    with refused(bank, ValueError, "weights must be finite and >= 0, got -1"):
        bank.update({"a": a, "b": b}, [1, 1, 1, -1])


def test_bad_merges_of_a_bank_change_none_of_its_members():
    bank = small_bank()
    with refused(bank, ValueError, "banks must have the same names, got ['a', 'b'] and ['a', 'c']"):
        bank.merge(rg.CovarianceBank({"a": 3, "c": 2}))
    with refused(bank, ValueError, "widths of 'b' must agree, got 2 and 4"):
        bank.merge(rg.CovarianceBank({"a": 3, "b": 4}).update({"a": np.ones((4, 3))}))


def test_bad_states_of_a_bank_change_none_of_its_members():
    bank = small_bank()
    other = rg.CovarianceBank({"a": 3, "b": 2}).state_dict()
    with refused(bank, ValueError, "state_dict must have the names ['a', 'b'], got ['a']"):
        bank.load_state_dict({"a": other["a"]})
    with refused(bank, ValueError, "state_dict['version'] must be 1, got 9"):
        bank.load_state_dict({"a": other["a"], "b": changed(other["b"], version=9)})
    with refused(bank, ValueError, "state['second'] must have 3 elements, got 2"):
        bank.load_state_dict({"a": other["a"], "b": changed(other["b"], second=np.zeros(2))})


def test_a_bank_without_names_is_refused():
    with pytest.raises(ValueError, match=r"^a CovarianceBank needs at least one name, got {}$"):
        rg.CovarianceBank({})


def test_values_too_large_in_one_layer_change_no_other():
    bank = small_bank()
    wide = np.full((40, 2), 1.2e308)
    with refused(bank, ValueError, TOO_LARGE.format("x", "1.2e+308")):
        bank.update({"a": np.ones((40, 3), np.float32), "b": wide})


# --- numbers of the peer


@pytest.mark.parametrize("name", ["X1", "X2", "X3"])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_the_peers_numbers(name: str, dtype: str):
    key = f"spectral.running.{name}.{dtype}"
    x = reference.array(f"in.spectral.{name}").astype({"f32": np.float32, "f64": np.float64}[dtype])
    statistic = in_batches(x, reference.entry(f"{key}.cov")["args"]["chunks"])
    reference.assert_matches(f"{key}.mean", statistic.mean)
    reference.assert_matches(f"{key}.cov", statistic.covariance())


@pytest.mark.parametrize("name", ["X1", "X2", "X3"])
def test_the_true_eigenvalues(name: str):
    x = reference.array(f"in.spectral.{name}").astype(np.float64)
    found = np.linalg.eigvalsh(rg.Covariance(24).update(x).covariance())
    expected = reference.expected(f"spectral.truth.{name}.eigvals")
    reference.assert_matches(
        f"spectral.truth.{name}.eigvals", found if expected[0] <= expected[-1] else found[::-1]
    )


# --- the rest of the face


def test_update_returns_the_statistic_and_repr_says_what_it_holds():
    statistic = rg.Covariance(3, cross_dim=2)
    x = np.ones((4, 3))
    x[0] = np.nan
    assert statistic.update(x, cross=np.ones((4, 2))) is statistic
    assert repr(statistic) == "Covariance(dim=3, cross_dim=2, count=3, nonfinite=1)"
    assert (statistic.dim, statistic.cross_dim, rg.Covariance(3).cross_dim) == (3, 2, None)


def test_a_bank_is_a_mapping():
    bank = small_bank()
    assert (list(bank), len(bank), "a" in bank, "z" in bank) == (["a", "b"], 2, True, False)
    assert bank.update({}) is bank
    with pytest.raises(KeyError):
        bank["z"]


def test_the_data_are_not_written_to():
    x = normal_data()[:600, :49].astype(np.float32)
    x[5] = np.nan
    before, weights = x.tobytes(), np.full(600, 0.5)
    rg.Covariance(49).update(x, weights)
    assert x.tobytes() == before
    assert np.array_equal(weights, np.full(600, 0.5))


# --- found in review


def test_a_longer_second_stream_is_refused_before_it_is_read():
    statistic = rg.Covariance(2, cross_dim=2)
    with pytest.raises(ValueError, match="cross must have as many rows as x, 3, got 4000"):
        statistic.update(np.ones((3, 2)), np.ones(3), cross=np.ones((4000, 2)))
    with pytest.raises(ValueError, match="cross needs a Covariance made with cross_dim"):
        rg.Covariance(2).update(np.ones((3, 2)), np.ones(3), cross=np.ones((4000, 2)))


def test_weights_that_sum_to_one_need_the_other_denominator():
    x = normal_data()[:500, :4]
    statistic = rg.Covariance(4).update(x, np.full(500, 1 / 500))
    with pytest.raises(ValueError, match="weighting='reliability'"):
        statistic.covariance()
    error = np.abs(statistic.covariance(weighting="reliability") - np.cov(x, rowvar=False))
    bound = statistic.error_bound(weighting="reliability")
    assert not (error > np.outer(bound, bound)).any()


def test_the_variance_is_the_diagonal_of_the_covariance():
    statistic = rg.Covariance(49).update(normal_data()[:600, :49].astype(np.float32))
    np.testing.assert_allclose(statistic.variance(), np.diag(statistic.covariance()), rtol=1e-12)


def test_a_weighted_product_beyond_float32_is_rescued():
    x = normal_data()[:600, :4].astype(np.float32)
    x[333] = 1e32
    weights = np.ones(600)
    weights[333] = 1e8
    statistic = rg.Covariance(4).update(x, weights)
    expected = 1e8 * 1e64 * (1 - 1e8 / (1e8 + 599)) / (1e8 + 598)
    np.testing.assert_allclose(statistic.covariance(), expected, rtol=1e-4)


def test_reading_while_another_thread_updates_gives_whole_answers():
    """Rows come in pairs +v, -v, so that every update leaves the mean at 0 and all variances equal."""
    rows = np.ones((20_000, 300), np.float32)
    rows[1::2] = -1
    statistic = rg.Covariance(300).update(rows)
    done = threading.Event()

    def update() -> None:
        for _ in range(20):
            statistic.update(rows)
        done.set()

    writer = threading.Thread(target=update)
    writer.start()
    reads = 0
    while not done.is_set() or reads == 0:
        covariance = statistic.covariance(ddof=0)
        reads += 1
        assert np.abs(covariance - 1).max() < 1e-9
    writer.join()
    assert statistic.count == 21 * 20_000


def test_a_child_process_can_go_on_with_the_statistic():
    x = normal_data()[:600, :49]
    statistic = rg.Covariance(49, threads=2).update(x)
    child = os.fork()
    if child == 0:
        statistic.update(x)
        os._exit(0 if statistic.count == 1200 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
