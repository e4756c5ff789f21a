"""Sketches against the covariance that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repgeom.eigensolver import top_eigenpairs
from repgeom.sketches import FrequentDirections, NystromSketch, nystrom

N, D = 1500, 120


def make_rows(n: int = N, seed: int = 0, power: float = 1.0) -> np.ndarray:
    """Rows with eigenvalues i^-power, an offset, and one channel that is far away."""
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(9).standard_normal((D, D)))[0]
    x = (generator.standard_normal((n, D)) * np.arange(1, D + 1.0) ** (-power / 2)) @ basis + 5
    x[:, 3] += 1000
    return x


def lowest_eigenvalue(matrix: np.ndarray) -> float:
    return float(np.linalg.eigvalsh((matrix + matrix.T) / 2)[0])


def matrix_of(found: object) -> np.ndarray:
    return (found.vectors * found.values) @ found.vectors.T


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_nystrom_never_exceeds_the_covariance(seed: int, power: float):
    x = make_rows(seed=seed, power=power)
    covariance = np.cov(x.T)
    found = NystromSketch(D, 8, seed=seed).update(x).read()
    difference = covariance - matrix_of(found)
    assert lowest_eigenvalue(difference) >= -1e-12
    assert found.trace == pytest.approx(np.trace(covariance), rel=1e-12)
    assert np.linalg.norm(difference) <= found.missing
    assert np.all(found.values <= np.linalg.eigvalsh(covariance)[::-1][: len(found.values)] + 1e-12)
    assert found.d_pr_bounds[0] <= np.trace(covariance) ** 2 / np.sum(covariance**2) <= found.d_pr_bounds[1]


def test_the_bound_of_nystrom_holds_on_average():
    x = make_rows()
    covariance = np.cov(x.T)
    values = np.linalg.eigvalsh(covariance)[::-1]
    rank, columns = 8, 33
    errors = []
    for seed in range(60):
        found = NystromSketch(D, rank, seed=seed).update(x).eigenpairs()
        errors.append(np.trace(covariance) - found.values.sum())
    assert np.mean(errors) <= (1 + rank / (columns - rank - 1)) * values[rank:].sum()
    assert np.min(errors) >= values[rank:].sum() - 1e-12


def test_leave_one_out_and_square_sums_are_right_on_average():
    x = make_rows()
    covariance = np.cov(x.T)
    truth = np.sum(covariance**2)
    squares, estimates, scores, left_out = [], [], [], []
    for seed in range(80):
        found = NystromSketch(D, 6, seed=seed).update(x).read()
        squares.append(np.sum((covariance - matrix_of(found)) ** 2))
        left_out.append(found.error**2)
        estimates.append(found.square_sum)
        scores.append((found.square_sum - truth) / found.square_sum_error)
    # The estimate is of a sketch with one column of 25 less.
    assert np.mean(squares) <= np.mean(left_out) <= 1.15 * np.mean(squares)
    assert abs(np.mean(estimates) - truth) <= 4 * np.std(estimates) / 80**0.5
    assert 0.7 <= np.std(scores) <= 1.5


@pytest.mark.parametrize("rank", [1, 5, 12])
def test_low_rank_is_exact(rank: int):
    generator = np.random.default_rng(rank)
    x = generator.standard_normal((300, rank)) @ generator.standard_normal((rank, D)) + 3
    covariance = np.cov(x.T)
    found = NystromSketch(D, 12).update(x).read()
    scale = np.linalg.norm(covariance)
    assert np.abs(matrix_of(found) - covariance).max() <= 1e-12 * scale
    assert found.square_sum == pytest.approx(np.sum(covariance**2), rel=1e-10)
    assert found.missing <= 1e-12 * scale
    directions = FrequentDirections(D, 12).update(x).eigenpairs()
    assert np.abs(matrix_of(directions) - covariance).max() <= 1e-12 * scale
    assert directions.bounds[0] <= 1e-12 * scale


@pytest.mark.parametrize("make", [lambda: NystromSketch(D, 6, seed=3), lambda: FrequentDirections(D, 6)])
def test_merge_is_concatenation(make):
    x = make_rows()
    x[700:] += 50
    covariance = np.cov(x.T)
    parts = [make().update(part) for part in np.array_split(x, 5)]
    merged = make()
    for part in parts:
        merged.merge(part)
    one = make().update(x)
    merged.merge(make())
    assert (merged.count, one.count) == (N, N)
    assert np.allclose(merged.mean, x.mean(axis=0), rtol=1e-13)
    assert merged.trace() == pytest.approx(np.trace(covariance), rel=1e-12)
    if isinstance(merged, NystromSketch):
        a, b = merged.read(), one.read()
        assert np.abs(a.values - b.values).max() <= 1e-12 * b.values[0]
        assert a.square_sum == pytest.approx(b.square_sum, rel=1e-10)
    else:
        check_directions(merged, covariance)


def check_directions(sketch: FrequentDirections, covariance: np.ndarray) -> None:
    k = 2 * sketch.rank
    found = sketch.eigenpairs(k)
    difference = covariance - matrix_of(found)
    # Rows beyond k directions lie in the sketch as well: only the whole of it is within its bound.
    rows = sketch.state_dict()["rows"]
    whole = covariance - rows.T @ rows / (sketch.count - 1)
    scale = np.linalg.norm(covariance)
    assert lowest_eigenvalue(whole) >= -1e-13 * scale
    assert lowest_eigenvalue(difference) >= -1e-13 * scale
    assert np.linalg.eigvalsh(whole)[-1] <= found.bounds[0] + 1e-13 * scale
    exact = np.linalg.eigvalsh(covariance)[::-1]
    assert np.all(exact[:k] - found.values <= found.bounds + 1e-13 * scale)
    for rank in range(sketch.rank):
        assert found.bounds[0] <= exact[rank:].sum() / (2 * sketch.rank - rank)


@pytest.mark.parametrize("power", [0.3, 1.0, 3.0])
def test_frequent_directions_keep_their_guarantee(power: float):
    x = make_rows(power=power)
    sketch = FrequentDirections(D, 10)
    for part in np.array_split(x, 13):
        sketch.update(part)
    check_directions(sketch, np.cov(x.T))
    assert sketch.shrunk > 0
    assert len(sketch.state_dict()["rows"]) <= 40


def test_weights_are_repeated_rows():
    x = make_rows(300)
    weights = np.arange(300) % 4
    weighted = NystromSketch(D, 5).update(x, weights).read()
    repeated = NystromSketch(D, 5).update(np.repeat(x, weights, axis=0)).read()
    assert np.allclose(weighted.values, repeated.values, rtol=1e-10, atol=1e-13)
    assert weighted.trace == pytest.approx(repeated.trace)


@pytest.mark.parametrize("make", [lambda: NystromSketch(D, 6), lambda: FrequentDirections(D, 6)])
def test_rows_that_are_not_finite_are_left_out(make):
    x = make_rows(200)
    bad = x.copy()
    bad[5, 7], bad[50, 0] = np.nan, np.inf
    good = np.delete(x, [5, 50], axis=0)
    sketch = make().update(bad)
    assert (sketch.count, sketch.nonfinite) == (198, 2)
    assert np.allclose(sketch.trace(), np.trace(np.cov(good.T)), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_types(dtype: torch.dtype):
    x = torch.from_numpy(make_rows()).to(dtype)
    wide = x.double()
    for make in (lambda: NystromSketch(D, 6), lambda: FrequentDirections(D, 6)):
        assert np.allclose(
            make().update(x).eigenpairs().values, make().update(wide).eigenpairs().values, rtol=1e-12
        )


def test_threads_do_not_matter_and_the_seed_does():
    x = make_rows()
    runs = [
        NystromSketch(D, 6, seed=s, threads=t).update(x).state_dict()["product"]
        for s, t in [(0, 1), (0, 3), (1, 1)]
    ]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


@pytest.mark.parametrize("make", [lambda: NystromSketch(D, 6, seed=3), lambda: FrequentDirections(D, 6)])
def test_a_saved_sketch_goes_on(make):
    x = make_rows()
    sketch, restored = make().update(x[:500]), make()
    restored.load_state_dict(sketch.state_dict())
    a, b = (one.update(x[500:]).eigenpairs() for one in (sketch, restored))
    assert np.array_equal(a.values, b.values)
    assert np.array_equal(a.vectors, b.vectors)
    state = sketch.state_dict()
    for broken in (
        {**state, "version": 2},
        {**state, "dim": 3},
        {k: v for k, v in state.items() if k != "count"},
    ):
        with pytest.raises(ValueError, match="state_dict"):
            restored.load_state_dict(broken)
    assert np.array_equal(restored.eigenpairs().values, b.values)


def test_top_eigenpairs_of_a_sketch():
    sketch = NystromSketch(D, 6).update(make_rows())
    found = top_eigenpairs(sketch, 4)
    assert (found.status, found.method) == ("sketch", "sketch")
    assert np.array_equal(found.values, sketch.eigenpairs(4).values)
    assert "at most" in found.warnings[0]


def test_full_width_is_exact():
    x = make_rows()
    found = NystromSketch(D, D).update(x).read()
    assert np.allclose(found.values, np.linalg.eigvalsh(np.cov(x.T))[::-1], rtol=1e-6, atol=1e-12)


def test_no_variance():
    for sketch in (
        NystromSketch(D, 3).update(np.ones((9, D))),
        FrequentDirections(D, 3).update(np.ones((9, D))),
    ):
        found = sketch.eigenpairs()
        assert not found.values.any()
        assert found.captured == 1.0
        assert np.allclose(found.vectors.T @ found.vectors, np.eye(3))


def test_an_indefinite_matrix_is_refused():
    test = np.random.default_rng(0).standard_normal((30, 5))
    with pytest.raises(ValueError, match="positive semi-definite"):
        nystrom(test, -test)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: NystromSketch(0, 1), "dim must be"),
        (lambda: NystromSketch(5, 0), "rank must be"),
        (lambda: NystromSketch(5, 6), "rank must be at most dim = 5, got 6"),
        (lambda: NystromSketch(5, 2, seed=-1), "seed must be"),
        (lambda: NystromSketch(5, 2, oversampling=0), "oversampling must be"),
        (lambda: NystromSketch(5, 2).update(np.zeros((3, 4))), "x must have 5 columns"),
        (lambda: NystromSketch(5, 2).update(np.zeros((3, 5)), [1, 2, -1]), "weights must be"),
        (lambda: NystromSketch(5, 2).mean, "at least one row"),
        (lambda: NystromSketch(5, 2).update(np.ones((1, 5))).read(), "ddof = 1"),
        (lambda: NystromSketch(5, 2).merge(NystromSketch(5, 2, seed=1)), "same width, columns and seed"),
        (lambda: NystromSketch(50, 2).update(np.eye(50)).eigenpairs(10), "k must be at most"),
        (lambda: FrequentDirections(5, 6), "rank must be at most"),
        (lambda: FrequentDirections(5, 2).update(np.zeros((3, 4))), "x must be"),
        (lambda: FrequentDirections(5, 2).update(np.ones((1, 5))).eigenpairs(), "ddof = 1"),
        (lambda: FrequentDirections(5, 2).merge(FrequentDirections(5, 1)), "rank 2"),
        (lambda: FrequentDirections(50, 2).update(np.eye(50)).eigenpairs(5), "k must be at most"),
    ],
)
def test_bad_input(call, text: str):
    with pytest.raises(ValueError, match=text):
        call()


def test_only_like_merges_with_like():
    with pytest.raises(TypeError, match="NystromSketch"):
        NystromSketch(5, 2).merge(FrequentDirections(5, 2))
    with pytest.raises(TypeError, match="FrequentDirections"):
        FrequentDirections(5, 2).merge(NystromSketch(5, 2))
