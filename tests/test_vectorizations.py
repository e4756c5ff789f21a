"""Numbers, curves and images of bars: against their formulas written out, and persim's images."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from repgeom import vectorizations
from repgeom.vectorizations import (
    as_bars,
    betti_curve,
    lifetimes,
    maximum_lifetime,
    persistence_entropy,
    persistence_image,
    persistence_landscape,
    total_persistence,
)

PERSIM = json.loads((Path(__file__).parent / "data" / "diagrams.json").read_text(encoding="utf-8"))
NONE = np.zeros((0, 2))
WINDOW = {"birth_range": (-20.0, 20.0), "persistence_range": (-20.0, 20.0), "sigma": 0.5}


def random_bars(m: int, seed: int = 0, *, ties: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    births = rng.integers(0, 4, m).astype(float) if ties else rng.random(m)
    return np.stack([births, births + (rng.integers(1, 4, m) if ties else rng.exponential(0.5, m))], axis=1)


# --- sums


def test_sums_of_a_diagram_by_hand():
    bars = [[0, 1], [0.5, 2.5], [1, 1.25]]
    np.testing.assert_array_equal(lifetimes(bars), [1, 2, 0.25])
    assert total_persistence(bars) == 3.25
    assert total_persistence(bars, power=2) == 5.0625
    assert maximum_lifetime(bars) == 2


def test_sums_are_in_float64():
    bars = np.array([[0, 1]] + [[0, 1e-8]] * 1000, np.float32)
    assert total_persistence(bars) == pytest.approx(1 + 1e-5, rel=1e-12)


@pytest.mark.parametrize("none", [[], NONE, np.zeros((0, 2), np.float32)])
def test_no_bars(none: object):
    assert total_persistence(none) == 0
    assert maximum_lifetime(none) == 0
    assert math.isnan(persistence_entropy(none))
    np.testing.assert_array_equal(betti_curve(none, [0, 1]), [0, 0])
    np.testing.assert_array_equal(persistence_landscape(none, [0.0, 1.0], 3), np.zeros((3, 2)))
    np.testing.assert_array_equal(persistence_image(none, **WINDOW, pixels=(2, 3)), np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("bars", "message"),
    [
        ([[0, 1, 2]], r"real numbers \[m, 2\], got int64 of shape \(1, 3\)"),
        ([["a", "b"]], "real numbers"),
        ([[np.nan, 1]], "births must be finite, got nan"),
        ([[-np.inf, 1]], "births must be finite, got -inf"),
        ([[0, 1], [2, 1]], r"must not die before its birth, got \(2.0, 1.0\) in row 1"),
        ([[0, np.nan]], "must not die before its birth"),
        ([[0, np.inf]], "must have finite deaths"),
    ],
)
def test_bars_that_are_none(bars: object, message: str):
    with pytest.raises(ValueError, match=message):
        lifetimes(bars)


def test_essential_bars_are_allowed_where_they_have_a_meaning():
    np.testing.assert_array_equal(as_bars([[0, np.inf]], essential=True), [[0, np.inf]])
    np.testing.assert_array_equal(betti_curve([[1, np.inf], [0, 2]], [0, 1, 2, 1e300]), [1, 2, 1, 1])


@pytest.mark.parametrize("power", [0, -1, math.inf, math.nan])
def test_a_power_that_is_none(power: float):
    with pytest.raises(ValueError, match="power must be above 0 and finite"):
        total_persistence([[0, 1]], power)


# --- entropy


def test_entropy_is_its_formula():
    lengths = np.array([1, 2, 3, 10])
    shares = lengths / 16
    bars = np.stack([np.arange(4), np.arange(4) + lengths], axis=1)
    expected = -np.sum(shares * np.log(shares))
    assert persistence_entropy(bars) == pytest.approx(expected, rel=1e-14)
    assert persistence_entropy(bars, normalized=True) == pytest.approx(expected / np.log(4), rel=1e-14)


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1, 1e308])
def test_equal_bars_have_the_largest_entropy_at_any_scale(scale: float):
    bars = np.tile([[0, scale]], (7, 1))
    assert persistence_entropy(bars) == pytest.approx(math.log(7), rel=1e-14)
    assert persistence_entropy(bars, normalized=True) == pytest.approx(1, rel=1e-14)


def test_entropy_at_its_edges():
    assert persistence_entropy([[0, 3]]) == 0
    assert math.copysign(1, persistence_entropy([[0, 3]])) == 1
    assert math.isnan(persistence_entropy([[0, 3]], normalized=True))
    assert math.isnan(persistence_entropy([[1, 1]]))
    assert persistence_entropy([[0, 1], [1, 1], [0, 1]]) == pytest.approx(math.log(2))
    assert persistence_entropy([[0, 1e300], [0, 5e-324]]) == 0


# --- Betti curve and landscape


@pytest.mark.parametrize("ties", [False, True])
def test_betti_curve_counts_half_open_bars(ties: bool):
    bars = random_bars(40, ties=ties)
    grid = np.concatenate([np.linspace(-1, 8, 50), bars.ravel()])
    expected = ((bars[:, 0] <= grid[:, None]) & (grid[:, None] < bars[:, 1])).sum(axis=1)
    found = betti_curve(bars, grid)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)


def test_betti_curve_compares_float32_bars_as_they_are():
    bars = np.array([[0.1, 0.7]], np.float32)
    np.testing.assert_array_equal(
        betti_curve(bars, [0.1, np.float32(0.1), 0.7, np.float32(0.7)]), [0, 1, 0, 0]
    )
    np.testing.assert_array_equal(betti_curve(bars, [0.69]), [1])


def test_landscape_of_one_bar_is_a_tent():
    np.testing.assert_array_equal(
        persistence_landscape([[1, 3]], [0, 1, 1.5, 2, 2.5, 3, 4], 2), [[0, 0, 0.5, 1, 0.5, 0, 0], [0] * 7]
    )


@pytest.mark.parametrize("table", [1, 100, 1 << 22])
def test_landscape_is_the_sorted_tents(monkeypatch: pytest.MonkeyPatch, table: int):
    monkeypatch.setattr(vectorizations, "_TABLE", table)
    bars, grid = random_bars(30), np.linspace(-0.5, 4, 41)
    tents = np.clip(np.minimum(grid[:, None] - bars[:, 0], bars[:, 1] - grid[:, None]), 0, None)
    expected = np.sort(tents, axis=1)[:, ::-1].T
    np.testing.assert_array_equal(persistence_landscape(bars, grid, 7), expected[:7])
    deep = persistence_landscape(bars, grid, 33)
    np.testing.assert_array_equal(deep, np.concatenate([expected, np.zeros((3, 41))]))


def test_landscape_moves_no_more_than_the_bars():
    bars = random_bars(25)
    moved = bars + np.random.default_rng(1).uniform(-0.01, 0.01, bars.shape) * 0.5
    moved[:, 1] = np.maximum(moved[:, 1], moved[:, 0])
    grid = np.linspace(0, 4, 100)
    change = np.abs(persistence_landscape(bars, grid) - persistence_landscape(moved, grid)).max()
    assert 0 < change <= np.abs(bars - moved).max() + 1e-15


@pytest.mark.parametrize("depth", [0, 1.5, True])
def test_a_depth_that_is_none(depth: object):
    with pytest.raises(ValueError, match="depth must be an integer of at least 1"):
        persistence_landscape([[0, 1]], [0.5], depth)


@pytest.mark.parametrize("grid", [[np.nan], [np.inf]])
def test_a_grid_that_is_none(grid: list[float]):
    for curve in (betti_curve, persistence_landscape):
        with pytest.raises(ValueError, match="grid must be finite"):
            curve([[0, 1]], grid)


# --- image


@pytest.mark.parametrize("entry", PERSIM["entries"], ids=lambda entry: entry["key"])
def test_image_is_that_of_persim(entry: dict):
    settings = {
        name: entry[name] for name in ("birth_range", "persistence_range", "pixels", "sigma", "weight")
    }
    found = persistence_image(PERSIM["bars"], **settings)
    np.testing.assert_allclose(found, entry["value"], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("weight", [0, 1, 2.5])
def test_an_image_holds_the_weight_of_its_bars(weight: float):
    bars = random_bars(50)
    image = persistence_image(bars, **WINDOW, weight=weight)
    assert image.shape == (20, 20)
    assert image.sum() == pytest.approx(np.sum((bars[:, 1] - bars[:, 0]) ** weight), rel=1e-13)


def test_an_image_is_the_integral_over_its_pixels():
    bars = random_bars(6)
    window = {"birth_range": (0.0, 1.0), "persistence_range": (0.0, 0.5)}
    image = persistence_image(bars, **window, sigma=0.3, pixels=(2, 2))
    at = (np.arange(400) + 0.5) / 400
    b, p = at[:, None, None], at[None, :, None] * 0.5
    length = bars[:, 1] - bars[:, 0]
    surface = (
        length * np.exp(-((b - bars[:, 0]) ** 2 + (p - length) ** 2) / (2 * 0.3**2)) / (2 * np.pi * 0.3**2)
    )
    pixels = surface.sum(axis=2).reshape(2, 200, 2, 200).mean(axis=(1, 3)) * 0.5 * 0.25
    np.testing.assert_allclose(image, pixels, rtol=1e-5)


def test_a_weight_may_be_a_function_of_births_and_persistences():
    bars = random_bars(9)
    ramp = persistence_image(bars, **WINDOW, weight=lambda births, persistences: births + 3 * persistences)
    assert ramp.sum() == pytest.approx(np.sum(bars[:, 0] + 3 * (bars[:, 1] - bars[:, 0])), rel=1e-13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": 0}, "sigma must be above 0 and finite, got 0"),
        ({"sigma": math.nan}, "sigma must be above 0"),
        (
            {"birth_range": (1.0, 1.0)},
            r"birth_range must be two finite numbers, the smaller first, got \(1.0, 1.0\)",
        ),
        ({"persistence_range": (0.0, math.inf)}, "persistence_range must be two finite numbers"),
        ({"birth_range": (math.nan, 1.0)}, "birth_range must be"),
        ({"pixels": (0, 3)}, "pixels must be an integer of at least 1, got 0"),
        ({"weight": -1}, "weight must be an exponent of at least 0, or a function, got -1"),
        ({"weight": lambda births, _: births[:1]}, "one number for each of the 3 bars, got 1"),
        ({"weight": lambda births, _: births * np.nan}, "weights must be finite"),
    ],
)
def test_an_image_that_is_none(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        persistence_image(random_bars(3), **{**WINDOW, **change})
