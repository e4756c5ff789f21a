"""Gride: reference numbers, the likelihood, synthetic ratios, error bars."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from neighbor_reference import array, assert_matches, expected, flat_torus
from repgeom.dimension import gride, two_nn
from repgeom.gride import fisher_information, maximum_likelihood, score
from repgeom.neighbors import knn


def log_likelihood(x: np.ndarray[Any, Any], d: float, near: int, far: int) -> float:
    """Of ``x = ln mu``, from the density as it is written."""
    log_beta = math.lgamma(far - near) + math.lgamma(near) - math.lgamma(far)
    mu = np.exp(x)
    density = d * (mu**d - 1) ** (far - near - 1) / (np.exp(log_beta) * mu ** ((far - 1) * d + 1))
    return float(np.log(density).sum())


def log_ratios(n: int, d: float, near: int, far: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """``mu^-d`` has a Beta distribution."""
    return -np.log(rng.beta(near, far - near, n)) / d


# Numbers of other programs


@pytest.mark.parametrize(("key", "max_rank"), [("default", 64), ("range_max256", 256), ("range_max20", 20)])
def test_scaling_of_dadapy(key: str, max_rank: int):
    found = gride(array("in.nb.X"), max_rank=max_rank, compat="dadapy")
    assert_matches(f"nb.gride.{key}", [found.values, found.standard_errors, found.scales])


def test_ranks_of_dadapy():
    found = gride(array("in.nb.X"), compat="dadapy")
    want = [found.values, found.standard_errors, found.positions]
    assert_matches("nb.gride.return_ranksTrue", want)


@pytest.mark.parametrize("pair", [(1, 2), (2, 4), (5, 10), (3, 12), (20, 60)])
def test_single_pairs_of_dadapy(pair: tuple[int, int]):
    key = "nb.gride.single.{}_{}".format(*pair)
    (found,) = gride(array("in.nb.X"), pairs=[pair], compat="dadapy")
    assert_matches(key, [found.value, found.standard_error], [expected(key)["id"], expected(key)["err"]])
    (ours,) = gride(array("in.nb.X"), pairs=[pair])
    assert ours.value == pytest.approx(found.value, rel=1.01 / 299)
    assert ours.independent_error == pytest.approx(found.standard_error, rel=1.01 / 299)


def test_scales_of_scikit_dimension():
    want = expected("nb.skdim.gride")
    found = gride(array("in.nb.X"), compat="dadapy")
    assert_matches("nb.skdim.gride", found.values, want["dim"])
    assert_matches("nb.skdim.gride", found.standard_errors, want["err"])
    assert (found.positions // 2).tolist() == want["n1"]
    radii = knn(array("in.nb.X"), 64).distances[:, found.positions - 1].mean(axis=0)
    assert_matches("nb.skdim.gride", radii, want["radius"])


def test_copies_at_larger_ranks():
    """Both peers keep copies; at the first ranks DADApy's number is meaningless and scikit-dimension drops
    every tied distance. Distinct points have the numbers of the data without copies."""
    copied = array("in.nb.Xdup")
    kept = gride(copied, duplicates="keep", compat="dadapy")
    value, error, scale = expected("nb.gride.dup")
    for found, want in ((kept.values, value), (kept.standard_errors, error), (kept.scales, scale)):
        np.testing.assert_allclose(found[1:], want[1:], rtol=1e-6)
    assert_matches("nb.skdim.gride.dup", kept.values[1:], expected("nb.skdim.gride.dup")["dim"][1:])
    assert value[0] < 0.3
    assert kept.values[0] == pytest.approx(expected("nb.skdim.twonn_mle0.dup"), rel=1e-6)
    np.testing.assert_array_equal(gride(copied).values, gride(array("in.nb.X")).values)


def test_a_number_of_points_that_is_a_power_of_two():
    x = array("in.nb.X")[:64]
    assert "raises" in expected("nb.gride.n64")
    found = gride(x)
    assert found.positions.tolist() == [2, 4, 8, 16, 32]
    assert found.status == "ok"
    assert found.warnings == ("ranks up to 63 instead of 64: there are no more neighbours",)


# The likelihood


@pytest.mark.parametrize(("near", "far"), [(1, 2), (1, 3), (2, 4), (7, 11), (32, 64)])
@pytest.mark.parametrize("d", [0.5, 4.0, 30.0])
def test_the_estimate_maximises_the_likelihood(near: int, far: int, d: float):
    x = log_ratios(300, d, near, far, np.random.default_rng(0))
    best = maximum_likelihood(x, near, far)
    highest = log_likelihood(x, best, near, far)
    for factor in (0.999, 1.001):
        assert log_likelihood(x, best * factor, near, far) < highest
    assert abs(score(x, best, near, far).sum()) < 1e-9 * len(x) / best
    step = 1e-3 * best
    around = [log_likelihood(x, best + shift, near, far) for shift in (-step, 0, step)]
    curvature = -(around[0] - 2 * around[1] + around[2]) / step**2
    assert fisher_information(x, best, near, far) == pytest.approx(curvature, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e3, 1e6])
def test_newton_from_any_start(scale: float):
    """Data far from the model: most ratios are 1, a few are huge."""
    x = np.r_[np.zeros(50), np.full(3, scale), scale * 1e-9]
    for near, far in ((1, 2), (2, 4), (16, 32), (1, 64)):
        best = maximum_likelihood(x, near, far)
        assert best > 0
        terms = np.abs(score(x, best, near, far)).sum()
        assert abs(score(x, best, near, far).sum()) <= 1e-10 * terms


def test_the_first_pair_is_two_nn():
    x = np.random.default_rng(1).standard_normal((200, 4))
    one, two = gride(x, max_rank=2)[0], two_nn(x, method="mle")
    assert one.value == pytest.approx(two.value * 200 / 199, rel=1e-12)
    assert one.n == two.n == 200


@pytest.mark.parametrize(("near", "far"), [(1, 2), (2, 4), (8, 16), (3, 12), (32, 64)])
@pytest.mark.parametrize("d", [0.7, 5.0, 60.0])
def test_independent_ratios(near: int, far: int, d: float):
    rng = np.random.default_rng(2)
    z = []
    for _ in range(200):
        x = log_ratios(400, d, near, far, rng)
        best = maximum_likelihood(x, near, far)
        z.append((best - d) * np.sqrt(fisher_information(x, best, near, far)))
    assert abs(np.mean(z)) < 4 / np.sqrt(200)
    assert 0.85 < np.std(z) < 1.15


def test_error_bars_cover():
    """Over 200 samples, where errors of independent ratios are too small by a fifth to a half."""
    rng = np.random.default_rng(3)
    profiles = [gride(flat_torus(300, 3, rng), max_rank=32) for _ in range(200)]
    values = np.stack([profile.values for profile in profiles])
    errors = np.stack([profile.standard_errors for profile in profiles])
    independent = np.stack([profile.array("independent_error") for profile in profiles])
    spread = values.std(axis=0, ddof=1)
    assert (errors.mean(axis=0) / spread > 0.8).all()
    assert (errors.mean(axis=0) / spread < 1.5).all()
    assert (np.mean(np.abs(values - values.mean(axis=0)) < 2 * errors, axis=0) > 0.88).all()
    assert (independent.mean(axis=0) / spread < 0.95).all()


# Ranks


def test_ranks_that_lists_do_not_hold():
    x = np.random.default_rng(4).standard_normal((100, 3))
    found = gride(knn(x, 20))
    assert found.positions.tolist() == [2, 4, 8, 16]
    assert found.warnings == ("ranks up to 20 instead of 64: there are no more neighbours",)
    np.testing.assert_array_equal(found.values, gride(x, max_rank=16).values)
    (missing,) = gride(x, pairs=[(10, 130)])
    assert missing.status == "too few points: rank 130 needs 130 neighbours, 99 found"
    assert np.isnan(missing.value)
    with pytest.raises(ValueError, match="needs 30 neighbours of each point, got 20"):
        gride(knn(x, 20), pairs=[(10, 30)])
    with pytest.raises(ValueError, match="needs 2 neighbours of each point, got 1"):
        gride(knn(x, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rank": 1}, "max_rank must be an integer of at least 2, got 1"),
        ({"pairs": [(4, 4)]}, r"needs n1 < n2, got \(4, 4\)"),
        ({"pairs": [(0, 4)]}, "ranks must be an integer of at least 1, got 0"),
        ({"pairs": []}, "pairs must name at least one pair"),
        ({"compat": "skdim"}, "compat must be None or 'dadapy', got 'skdim'"),
    ],
)
def test_refusals(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        gride(np.random.default_rng(5).standard_normal((100, 3)), **options)


def test_fewer_than_three_points():
    with pytest.raises(ValueError, match="at least 3 points, got 2"):
        gride(np.zeros((2, 4)))
