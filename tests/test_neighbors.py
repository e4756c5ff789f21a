"""Exact neighbours and ranks against a brute-force float64 oracle, to the last bit."""

from __future__ import annotations

import _thread
import os
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from repgeom import _core
from repgeom.neighbors import METRICS, NeighborRanks, Neighbors, knn, neighbor_ranks

SETS = _core.instruction_sets()
DTYPES = ("float64", "float32", "float16", "bfloat16")
VECTOR_METRICS = tuple(m for m in METRICS if m not in ("precomputed", "minkowski"))


def as_dtype(x: np.ndarray, dtype: str) -> Any:
    return torch.from_numpy(x).to(torch.bfloat16) if dtype == "bfloat16" else x.astype(dtype)


def cloud(kind: str, n: int, d: int, seed: int = 0) -> np.ndarray:
    """Data that make neighbours hard: ties, duplicates, offsets, clusters, massive channels."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    middle = np.arange(d) == d // 2
    made = {
        "normal": lambda: x,
        "lattice": lambda: rng.integers(0, 3, size=(n, d)).astype(float),
        "duplicates": lambda: x[rng.integers(0, max(1, n // 4), n)],
        "simplex": lambda: np.eye(n, d),
        "coincident": lambda: np.ones((n, d)),
        "offset": lambda: x + 1e4,
        "two clusters": lambda: x + 3000 * (rng.random((n, 1)) < 0.3),
        "massive": lambda: x * np.where(middle, 1000, 1),
        "massive constant": lambda: x + np.where(middle, 1000, 0),
        "scales": lambda: x * 10.0 ** rng.integers(-6, 7, size=(n, 1)),
    }
    return made[kind]()


KINDS = (
    *("normal", "lattice", "duplicates", "simplex", "coincident", "offset", "two clusters", "massive"),
    *("massive constant", "scales"),
)


def assert_exact(found: Neighbors, x: Any, k: int, **options: Any) -> None:
    distances, indices = oracles.neighbors(x, k, **options)
    np.testing.assert_array_equal(found.indices, indices)
    if options.get("metric") == "minkowski":  # powers of two libraries
        np.testing.assert_allclose(found.distances, distances, rtol=1e-13)
    else:
        np.testing.assert_array_equal(found.distances, distances)
    assert found.distances.dtype == np.float64
    assert found.indices.dtype == np.int64
    assert found.certificate.certified.all()
    assert len(found.certificate.certified) == len(found.indices)


# --- the lists, to the last bit


@pytest.mark.parametrize("instruction_set", SETS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d", "k"), [(403, 5, 7), (517, 40, 3), (300, 777, 12)])
def test_lists_are_exact_on_hard_data(kind: str, n: int, d: int, k: int, instruction_set: str):
    x = cloud(kind, n, d).astype(np.float32)
    assert_exact(knn(x, k, instruction_set=instruction_set, threads=2), x, k)


@settings(max_examples=60)
@given(
    n=st.integers(2, 250),
    d=st.integers(1, 70),
    share=st.floats(0, 1),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    metric=st.sampled_from(VECTOR_METRICS),
    instruction_set=st.sampled_from(SETS),
    seed=st.integers(0, 1000),
)
def test_lists_are_exact(
    *, n: int, d: int, share: float, kind: str, dtype: str, metric: str, instruction_set: str, seed: int
):
    x = cloud(kind, n, d, seed)
    if dtype == "float16":
        x = np.clip(x, -6e4, 6e4)
    if metric == "cosine":
        x[~x.any(axis=1)] = 1
    x = as_dtype(x, dtype)
    if metric == "cosine" and not oracles.as_numpy(x).any(axis=1).all():
        return
    k = 1 + int(share * (n - 2))
    assert_exact(knn(x, k, metric=metric, threads=1, instruction_set=instruction_set), x, k, metric=metric)


@pytest.mark.parametrize("d", [*range(1, 18), 4097])
def test_every_small_width_and_a_large_one(d: int):
    x = cloud("normal", 210, d).astype(np.float32)
    assert_exact(knn(x, 9, threads=2), x, 9)


@pytest.mark.parametrize("d", [3, 60])
@pytest.mark.parametrize("n", [2, 3, 9, 65, 130, 333])
def test_all_others_as_neighbors(n: int, d: int):
    x = cloud("normal", n, d).astype(np.float32)
    assert_exact(knn(x, n - 1), x, n - 1)


def test_coordinates_on_a_globe():
    rng = np.random.default_rng(3)
    walk = np.cumsum(rng.normal(scale=1e-6, size=(600, 2)), axis=0) + np.array([45.4642, 9.19])
    assert_exact(knn(walk, 4), walk, 4)
    wide = np.tile(walk, (1, 20)) * 1e5
    found = knn(wide, 4)
    assert_exact(found, wide, 4)


@pytest.mark.parametrize("kind", ["normal", "two clusters", "massive", "massive constant"])
def test_large_offsets_leave_the_filter_sharp(kind: str):
    """The lists would be exact anyway; that few pairs are evaluated is what keeps them fast."""
    x = cloud(kind, 1500, 256).astype(np.float32)
    found = knn(x, 10, threads=2)
    assert_exact(found, x, 10)
    assert found.certificate.path == "float32 products"
    assert found.certificate.evaluated_mean < 15
    assert found.certificate.centres == (2 if kind == "two clusters" else 1)


def test_many_blocks_and_runs():
    x = cloud("normal", 2600, 600).astype(np.float32)
    found = knn(x, 40, threads=2)
    rows = np.arange(0, 2600, 13)
    distances, indices = oracles.neighbors(x, 41, queries=x[rows])
    np.testing.assert_array_equal(indices[:, 0], rows)
    np.testing.assert_array_equal(found.indices[rows], indices[:, 1:])
    np.testing.assert_array_equal(found.distances[rows], distances[:, 1:])


def test_the_bound_holds_where_the_filter_errs_most():
    """One sign everywhere and massive entries: sums round the same way, and cancellation is at its worst."""
    rng = np.random.default_rng(5)
    x = (1000 + rng.random((400, 700))).astype(np.float32)
    x[:, 0] += np.arange(400)
    assert_exact(knn(x, 5), x, 5)


# --- the same bits


@pytest.mark.parametrize("metric", VECTOR_METRICS)
def test_threads_and_instruction_sets_change_no_bit(metric: str):
    x = cloud("two clusters", 700, 50).astype(np.float32)
    first = knn(x, 11, metric=metric, threads=1, instruction_set=SETS[0])
    indices = first.indices[:, ::3]
    ranks = neighbor_ranks(x, indices, metric=metric, threads=1, instruction_set=SETS[0]).ranks
    for instruction_set in SETS:
        for threads in (1, 2, 5):
            options: dict[str, Any] = {
                "metric": metric,
                "threads": threads,
                "instruction_set": instruction_set,
            }
            found = knn(x, 11, **options)
            np.testing.assert_array_equal(found.indices, first.indices)
            np.testing.assert_array_equal(found.distances, first.distances)
            np.testing.assert_array_equal(neighbor_ranks(x, indices, **options).ranks, ranks)


def test_dtypes_of_equal_values_give_equal_lists():
    x = np.random.default_rng(0).integers(-100, 101, size=(300, 20)).astype(np.float64)
    first = knn(x, 5)
    for dtype in DTYPES[1:]:
        found = knn(as_dtype(x, dtype), 5)
        np.testing.assert_array_equal(found.indices, first.indices)
        np.testing.assert_array_equal(found.distances, first.distances)


# --- self, duplicates, ties


def test_a_row_is_left_out_by_index_and_duplicates_stay():
    x = np.zeros((5, 3), np.float32)
    found = knn(x, 4)
    np.testing.assert_array_equal(found.distances, np.zeros((5, 4)))
    np.testing.assert_array_equal(found.indices, [[j for j in range(5) if j != i] for i in range(5)])
    with_self = knn(x, 5, exclude_self=False)
    np.testing.assert_array_equal(with_self.indices, np.tile(np.arange(5), (5, 1)))
    assert not with_self.exclude_self


@pytest.mark.parametrize("d", [4, 80])
def test_including_self(d: int):
    x = cloud("duplicates", 200, d).astype(np.float32)
    for k in (1, 6, 200):
        assert_exact(knn(x, k, exclude_self=False), x, k, exclude_self=False)


def test_equal_distances_are_in_the_order_of_their_indices():
    n = 150
    found = knn(np.eye(n, dtype=np.float32), 7)
    expected = [[j for j in range(n) if j != i][:7] for i in range(n)]
    np.testing.assert_array_equal(found.indices, expected)
    np.testing.assert_array_equal(found.distances, np.full((n, 7), np.sqrt(2.0)))


# --- queries


@settings(max_examples=25)
@given(
    q=st.integers(1, 120),
    n=st.integers(1, 200),
    d=st.integers(1, 60),
    share=st.floats(0, 1),
    kind=st.sampled_from(KINDS),
    metric=st.sampled_from(VECTOR_METRICS),
)
def test_queries(*, q: int, n: int, d: int, share: float, kind: str, metric: str):
    x, queries = cloud(kind, n, d, 1) + 0.5, cloud(kind, q, d, 2) + 0.5
    if metric == "cosine" and not (x.any(axis=1).all() and queries.any(axis=1).all()):
        return
    k = 1 + int(share * (n - 1))
    assert_exact(knn(x, k, queries=queries, metric=metric), x, k, queries=queries, metric=metric)


def test_queries_find_themselves():
    x = cloud("normal", 300, 30).astype(np.float32)
    found = knn(x, 1, queries=x)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(300))
    assert not found.exclude_self
    assert found.n_reference == 300


# --- other metrics


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, 30.0, np.inf])
def test_minkowski(p: float):
    x = cloud("normal", 150, 11)
    found = knn(x, 6, metric="minkowski", p=p)
    special = {1: "manhattan", 2: "euclidean", np.inf: "chebyshev"}
    assert_exact(found, x, 6, metric=special.get(p, "minkowski"), p=p)
    assert found.metric == special.get(p, "minkowski")


def test_powers_neither_vanish_nor_overflow():
    x = np.array([[0.0], [1e-30], [3e-30], [1e30]])
    found = knn(x, 3, metric="minkowski", p=50)
    np.testing.assert_array_equal(found.indices[0], [1, 2, 3])
    np.testing.assert_allclose(found.distances[0], [1e-30, 3e-30, 1e30], rtol=1e-14)


@pytest.mark.parametrize("scale", [1e-140, 1e-30, 1e40, 1e149])
@pytest.mark.parametrize("d", [3, 40])
@pytest.mark.parametrize("metric", VECTOR_METRICS)
def test_tiny_and_huge_data(metric: str, d: int, scale: float):
    x = np.clip(cloud("normal", 150, d), -9, 9) * scale
    assert_exact(knn(x, 6, metric=metric), x, 6, metric=metric)
    ranks = neighbor_ranks(x, knn(x, 6, metric=metric).indices, metric=metric).ranks
    np.testing.assert_array_equal(ranks, np.tile(np.arange(1, 7), (150, 1)))


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 3e37])
def test_tiny_and_huge_float32(scale: float):
    x = (np.clip(cloud("normal", 150, 40), -9, 9) * scale).astype(np.float32)
    assert_exact(knn(x, 6), x, 6)


def test_cosine_has_no_cancellation():
    rng = np.random.default_rng(0)
    x = np.ones(50) + 1e-9 * rng.normal(size=(100, 50))
    found = knn(x, 3, metric="cosine")
    unit = x.astype(np.longdouble) / np.sqrt((x.astype(np.longdouble) ** 2).sum(axis=1, keepdims=True))
    exact = ((unit[:, None] - unit[found.indices]) ** 2).sum(axis=-1) / 2
    np.testing.assert_allclose(found.distances, exact.astype(float), rtol=1e-5)
    assert found.distances.min() > 0


def test_cosine_of_tiny_and_huge_rows():
    x = cloud("normal", 90, 20)
    stretched = x * np.exp2(np.random.default_rng(0).integers(-400, 400, size=(90, 1)))
    expected, found = knn(x, 4, metric="cosine"), knn(stretched, 4, metric="cosine")
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.distances, expected.distances)


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.int64, np.uint64])
def test_hamming_of_integers(dtype: Any):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, size=(120, 9)).astype(dtype)
    assert_exact(knn(x, 5, metric="hamming"), x, 5, metric="hamming")
    tensor = torch.from_numpy(x.astype(np.int32))
    assert_exact(knn(tensor, 5, metric="hamming"), x, 5, metric="hamming")


def test_hamming_tells_large_integers_apart():
    x = np.array([[2**60], [2**60 + 1], [2**60]])
    found = knn(x, 1, metric="hamming")
    np.testing.assert_array_equal(found.indices[:, 0], [2, 0, 0])
    np.testing.assert_array_equal(found.distances[:, 0], [0, 1, 0])


def test_precomputed_distances():
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 9, size=(80, 80)).astype(np.float32)
    found = knn(matrix, 7, metric="precomputed")
    values = matrix.astype(float)
    np.fill_diagonal(values, np.inf)
    order = np.argsort(values, axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(found.indices, order)
    np.testing.assert_array_equal(found.distances, np.take_along_axis(values, order, axis=1))
    assert found.n_reference == 80
    rectangle = knn(matrix[:30], 80, metric="precomputed", exclude_self=False)
    np.testing.assert_array_equal(rectangle.indices, np.argsort(matrix[:30], axis=1, kind="stable"))
    np.testing.assert_array_equal(neighbor_ranks(matrix, order, metric="precomputed").ranks[0], range(1, 8))


# --- ranks


@settings(max_examples=40)
@given(
    n=st.integers(2, 200),
    d=st.integers(1, 60),
    m=st.integers(0, 9),
    kind=st.sampled_from(KINDS),
    metric=st.sampled_from(VECTOR_METRICS),
    instruction_set=st.sampled_from(SETS),
    seed=st.integers(0, 1000),
)
def test_ranks(*, n: int, d: int, m: int, kind: str, metric: str, instruction_set: str, seed: int):
    x = cloud(kind, n, d, seed).astype(np.float32)
    if metric == "cosine" and not x.any(axis=1).all():
        return
    indices = np.random.default_rng(seed).integers(0, n - 1, size=(n, m))
    indices += indices >= np.arange(n)[:, None]
    found = neighbor_ranks(x, indices, metric=metric, instruction_set=instruction_set, threads=2)
    np.testing.assert_array_equal(found.ranks, oracles.ranks_of(x, indices, metric))
    assert found.ranks.dtype == np.int64


@pytest.mark.parametrize("kind", ["normal", "two clusters", "lattice"])
def test_ranks_of_neighbors_are_their_places(kind: str):
    x = cloud(kind, 1200, 70).astype(np.float32)
    places = np.tile(np.arange(1, 26), (1200, 1))
    np.testing.assert_array_equal(neighbor_ranks(x, knn(x, 25).indices).ranks, places)


def test_few_comparisons_of_a_rank_are_made_again():
    x = cloud("normal", 1500, 100).astype(np.float32)
    far = knn(cloud("normal", 1500, 40, 9), 1).indices
    certificate = neighbor_ranks(x, far).certificate
    assert certificate.evaluated_mean < 5
    assert certificate.path == "float32 products"


# --- memory


@pytest.mark.parametrize("metric", ["euclidean", "manhattan"])
@pytest.mark.parametrize("kind", ["normal", "two clusters", "duplicates"])
def test_a_memory_limit_changes_the_panels_and_not_the_lists(kind: str, metric: str):
    x = cloud(kind, 900, 60).astype(np.float32)
    free = knn(x, 8, metric=metric, threads=2)
    limit = int(free.certificate.bytes * 0.6)
    found = knn(x, 8, metric=metric, threads=2, memory_limit=limit)
    np.testing.assert_array_equal(found.indices, free.indices)
    np.testing.assert_array_equal(found.distances, free.distances)
    assert found.certificate.row_panels > 1
    assert found.certificate.bytes <= limit
    ranks = neighbor_ranks(x, free.indices, metric=metric, memory_limit=limit, threads=2)
    np.testing.assert_array_equal(ranks.ranks, np.tile(np.arange(1, 9), (900, 1)))


def test_a_limit_that_is_too_small_names_the_least():
    x = cloud("normal", 500, 60).astype(np.float32)
    with pytest.raises(
        ValueError, match=r"memory_limit must be at least \d+ bytes for this call, got 10"
    ) as e:
        knn(x, 5, memory_limit=10)
    least = int(str(e.value).split("at least ")[1].split()[0])
    assert_exact(knn(x, 5, memory_limit=least), x, 5)


def test_panels_of_queries():
    x, queries = cloud("normal", 800, 40), cloud("normal", 300, 40, 1)
    limit = int(0.5 * knn(x, 5, queries=queries).certificate.bytes)
    found = knn(x, 5, queries=queries, memory_limit=limit)
    assert found.certificate.row_panels > 1
    assert_exact(found, x, 5, queries=queries)


def test_memory_beyond_input_and_output_is_far_from_quadratic():
    program = """
import resource, numpy as np
from repgeom.neighbors import knn
x = np.random.default_rng(0).standard_normal((12000, 32), dtype=np.float32)
knn(x[:100], 5)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = knn(x, 5, threads=1)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, found.certificate.bytes)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    used, claimed = map(int, done.stdout.split())
    output = 12000 * 5 * 16
    assert used < 2 * claimed + output + 4e6
    assert claimed < 12000 * 12000 / 10


# --- progress and interruption


def test_progress_is_told_and_may_stop_the_work():
    x = cloud("normal", 4000, 400).astype(np.float32)
    shares: list[float] = []
    knn(x, 5, threads=1, progress=shares.append)
    assert shares
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] == 1

    def stop(share: float) -> None:
        raise RuntimeError(f"enough at {share}")

    for threads in (1, 3):
        with pytest.raises(RuntimeError, match="enough at"):
            knn(x, 5, threads=threads, progress=stop)


def test_ctrl_c_stops_the_work():
    x = cloud("normal", 16000, 1000).astype(np.float32)
    timer = threading.Timer(0.1, _thread.interrupt_main)
    timer.start()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        knn(x, 5, threads=1)
    timer.join()
    assert time.perf_counter() - start < 60


def test_threads_may_call_at_once():
    x = cloud("normal", 600, 30).astype(np.float32)
    expected = knn(x, 5).indices
    found: list[np.ndarray] = []
    callers = [threading.Thread(target=lambda: found.append(knn(x, 5, threads=2).indices)) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 4
    assert all(np.array_equal(indices, expected) for indices in found)


# --- input


def test_rows_may_lie_apart():
    wide = cloud("normal", 100, 50).astype(np.float32)
    view = wide[::2, 3:33]
    assert_exact(knn(view, 4), view, 4)
    tensor = torch.from_numpy(wide).requires_grad_()
    assert_exact(knn(tensor, 4), wide, 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [3, 40])
def test_nonfinite_data_are_refused_with_their_row(bad: float, dtype: str, d: int):
    x = cloud("normal", 100, d)
    x[17, d - 1] = bad
    x[60, 0] = bad
    array = as_dtype(x, dtype)
    with pytest.raises(ValueError, match="x must be finite, got NaN or infinity in row 17"):
        knn(array, 3)
    good = as_dtype(cloud("normal", 100, d), dtype)
    with pytest.raises(ValueError, match="queries must be finite, got NaN or infinity in row 17"):
        knn(good, 3, queries=array)
    with pytest.raises(ValueError, match="in row 17"):
        neighbor_ranks(array, np.ones((100, 0), np.int64))


X = cloud("normal", 20, 4)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((X, 0), {}, "k must be an integer of at least 1, got 0"),
        ((X, -3), {}, "k must be an integer of at least 1, got -3"),
        ((X, 2.5), {}, "k must be an integer of at least 1, got 2.5"),
        ((X, 20), {}, r"k must be at most 19, .* got 20"),
        ((X, 21), {"exclude_self": False}, "k must be at most .* 20, got 21"),
        ((X, 10**15), {}, "k must be at most .* got 1000000000000000"),
        ((X[:1], 1), {}, "k must be at most 0"),
        ((X[:0], 1), {}, "got"),
        ((X[:, :0], 1), {}, "x must have at least 1 column, got 0"),
        ((X[0], 1), {}, r"x must have 2 dimensions \[n, d\], got shape \(4,\)"),
        ((X, 1), {"queries": X[:, :3]}, "queries must have as many columns as x, 4, got 3"),
        ((X, 1), {"queries": X[:0]}, "queries must have at least 1 row, got 0"),
        ((X, 1), {"queries": X.astype(np.float32)}, "queries must have the dtype of x"),
        ((X, 1), {"metric": "euclid"}, "metric must be one of euclidean, .* got 'euclid'"),
        ((X, 1), {"metric": "minkowski", "p": 0.5}, "p must be a number of at least 1, got 0.5"),
        ((X, 1), {"metric": "minkowski", "p": float("nan")}, "p must be a number of at least 1, got nan"),
        ((X, 1), {"metric": "minkowski"}, "p must be a number of at least 1, got None"),
        ((X, 1), {"p": 2}, "p belongs to metric='minkowski'"),
        ((X * 0, 1), {"metric": "cosine"}, "x must have no row of norm 0 .* got row 0"),
        ((X * 1e200, 1), {}, "x must be at most 1e150 in magnitude, got a larger one in row 0"),
        ((X, 1), {"metric": "precomputed"}, "precomputed distances must be square .* got 20 x 4"),
        (
            (X[:4], 1),
            {"metric": "precomputed"},
            "precomputed distances must not be negative, got one in",
        ),
        ((abs(X), 1), {"metric": "precomputed", "queries": X}, "precomputed distances leave no room for"),
        ((X, 1), {"threads": 0}, "threads must be an integer of at least 1, got 0"),
        ((X, 1), {"threads": 10**6}, "threads must be at most 1024"),
        ((X, 1), {"memory_limit": 0}, "memory_limit must be an integer of at least 1, got 0"),
        ((X, 1), {"instruction_set": "mmx"}, "instruction set must be one of .* got mmx"),
        ((torch.zeros(3, 2, device="meta"), 1), {}, "arrays must be in host memory"),
        ((X.T, 1), {}, "x must have contiguous rows"),
    ],
)
def test_bad_arguments(arguments: tuple[Any, ...], options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        knn(*arguments, **options)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (np.full((20, 1), 20), "indices must be from 0 to n - 1 = 19, got 20 in row 0"),
        (np.full((20, 1), -1), "indices must be from 0 to n - 1 = 19, got -1 in row 0"),
        (np.full((20, 1), 5), "indices must not name the row itself, got 5 in row 5"),
        (np.full((19, 1), 5), "indices must have as many rows as x, 20, got 19"),
        (np.full(20, 5), r"indices must have 2 dimensions \[n, m\], got 1"),
        (np.full((20, 1), 0.5), "indices must be integers, got float64"),
    ],
)
def test_bad_indices(indices: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        neighbor_ranks(X, indices)


def test_integers_need_hamming():
    with pytest.raises(TypeError, match="x must be float64, float32, float16 or bfloat16"):
        knn(np.ones((5, 2), np.int64), 1)
    with pytest.raises(TypeError, match="must be a NumPy array"):
        knn([[1.0], [2.0]], 1)  # type: ignore[arg-type]


def test_results_are_frozen_and_say_how_they_were_found():
    x = cloud("normal", 100, 4)
    found = knn(x, 3)
    assert found.k == 3
    assert found.metric == "euclidean"
    assert found.certificate.path == "float64 differences"
    assert found.certificate.error_bound == 0
    with pytest.raises(AttributeError):
        found.metric = "cosine"  # type: ignore[misc]
    ranks = neighbor_ranks(x, found.indices)
    assert isinstance(ranks, NeighborRanks)
    with pytest.raises(AttributeError):
        ranks.ranks = found.indices  # type: ignore[misc]


def test_the_number_of_threads_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(os.environ, "REPGEOM_NUM_THREADS", "1")
    assert_exact(knn(X, 2), X, 2)


@pytest.mark.parametrize("scale", [1e-20, 1e-25, 1e-30, 1e-60])
@pytest.mark.parametrize("metric", ["euclidean", "inner_product"])
def test_points_far_closer_together_than_float32_can_tell(scale, metric):
    """One row of size 1 sets the scale of the filter, in which the others vanish."""
    x = np.random.default_rng(0).standard_normal((64, 31))
    x[1:] *= scale
    found = knn(x, 63, metric=metric)
    ranks = neighbor_ranks(x, found.indices, metric=metric).ranks
    assert (ranks == np.arange(1, 64)).all()
    assert (np.sort(found.indices, axis=1) >= 0).all()


@pytest.mark.parametrize("scale", [1e-100, 1e-140, 1e-151])
def test_tiny_points_have_the_neighbours_of_large_ones(scale):
    x = np.random.default_rng(1).standard_normal((80, 20))
    power = 2.0 ** round(np.log2(scale))
    want, found = knn(x, 7), knn(x * power, 7)
    np.testing.assert_array_equal(found.indices, want.indices)
    ranks = neighbor_ranks(x * power, found.indices).ranks
    assert (ranks == np.arange(1, 8)).all()


def test_no_neighbour_is_missing_where_squares_underflow():
    found = knn(np.random.default_rng(2).standard_normal((64, 20)) * 1e-306, 5)
    assert found.indices.min() >= 0
    assert np.isfinite(found.distances).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_denormal_numbers_count_whatever_the_processor_is_told(threads):
    x = (np.random.default_rng(3).standard_normal((300, 40)) * 1e-6).astype(np.float16)
    want = knn(x, 5, threads=threads)
    assert torch.set_flush_denormal(True)
    try:
        found = knn(x, 5, threads=threads)
        ranks = neighbor_ranks(x, found.indices, threads=threads).ranks
    finally:
        torch.set_flush_denormal(False)
    np.testing.assert_array_equal(found.indices, want.indices)
    assert (ranks == np.arange(1, 6)).all()
