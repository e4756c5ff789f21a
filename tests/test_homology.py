"""Vietoris-Rips persistence: closed forms, independent programs, plain reduction, invariances, bad input."""

from __future__ import annotations

import _thread
import functools
import itertools
import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import linkage
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial.distance import cdist

import fuzz_homology as fuzz
import oracles
import repgeom as rg
from fuzz_homology import assert_bars, assert_cocycles, assert_simplices, bars_of, euclidean, steps_of_circle

DATA = Path(__file__).parent / "data"
SETS = rg.cpu_instruction_sets()
METHODS = fuzz.METHODS
EVERY_DIMENSION = ("auto", "reducer")
METRICS = (
    *(("euclidean", None), ("cosine", None), ("manhattan", None), ("chebyshev", None)),
    *(("minkowski", 3.0), ("minkowski", 1.5)),
)


@functools.cache
def entries() -> dict[str, dict[str, Any]]:
    """Numbers of ripser.py 0.6.15 and todacomm 0.1.0, never edited."""
    found = json.loads((DATA / "homology.json").read_text(encoding="utf-8"))["entries"]
    return {entry["key"]: entry for entry in found}


@functools.cache
def array(name: str) -> np.ndarray:
    with np.load(DATA / "homology.npz", allow_pickle=False) as archive:
        return np.asarray(archive[name])


def normal(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def sphere(n: int, d: int, seed: int = 0) -> np.ndarray:
    x = normal(n, d, seed)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def table(x: np.ndarray) -> np.ndarray:
    """Euclidean distances as float32 has them."""
    return euclidean(x).astype(np.float32).astype(np.float64)


def condensed(distances: np.ndarray) -> np.ndarray:
    return distances[np.triu_indices(len(distances), 1)]


def precomputed(distances: Any, max_dim: int = 1, **options: Any) -> Any:
    return rg.rips(distances, max_dim, metric="precomputed", **options)


def reach(method: str, max_dim: int) -> int:
    """The highest dimension of a method."""
    return min(max_dim, 2) if method == "links" else max_dim


def all_bars(diagrams: Any, max_dim: int) -> list[oracles.Bars]:
    return [sorted(bars_of(diagrams, dim)) for dim in range(max_dim + 1)]


def lifetimes(bars: np.ndarray) -> np.ndarray:
    """Longest first."""
    return np.sort(bars[:, 1] - bars[:, 0])[::-1]


def assert_same_bits(a: Any, b: Any, max_dim: int) -> None:
    """The same bars in the same order with the same simplices, and the same cocycles where there are any."""
    for dim in range(max_dim + 1):
        np.testing.assert_array_equal(a[dim], b[dim])
        np.testing.assert_array_equal(a.infinite[dim], b.infinite[dim])
        np.testing.assert_array_equal(a.birth_simplices[dim], b.birth_simplices[dim])
        np.testing.assert_array_equal(a.death_simplices[dim], b.death_simplices[dim])


def assert_same_cocycles(a: Any, b: Any, max_dim: int) -> None:
    for dim in range(max_dim + 1):
        for left, right in zip(a.cocycles[dim], b.cocycles[dim], strict=True):
            np.testing.assert_array_equal(left[0], right[0])
            np.testing.assert_array_equal(left[1], right[1])


def assert_close(a: Any, b: Any, max_dim: int, *, scale: float = 1, tolerance: float = 2e-6) -> None:
    """Finite bars of ``b`` are those of ``a`` times the scale; a bar may be matched with any within reach."""
    for dim in range(max_dim + 1):
        size = 1 + scale * max((float(bars.max(initial=0)) for bars in (a[0], a[dim])), default=0)
        assert bottleneck_within(a[dim] * scale, b[dim], tolerance * size), (dim, a[dim], b[dim])
        np.testing.assert_allclose(b.infinite[dim], a.infinite[dim] * scale, rtol=tolerance)


def bottleneck_within(a: np.ndarray, b: np.ndarray, reach: float) -> bool:
    """Whether the bottleneck distance is at most ``reach``.

    Bars longer than twice the reach need a partner. A matching that serves all such bars of both sides exists
    when one does for each side alone (Mendelsohn and Dulmage).
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    near = np.abs(a[:, None] - b[None]).max(axis=2, initial=0) <= reach
    return all(
        served(within[bars[:, 1] - bars[:, 0] > 2 * reach]) for bars, within in ((a, near), (b, near.T))
    )


def served(within: np.ndarray) -> bool:
    """Whether every row can have a column of its own."""
    if 0 in within.shape:
        return len(within) == 0
    return bool((maximum_bipartite_matching(scipy.sparse.csr_matrix(within), "column") >= 0).all())


# --- closed forms


def circle_bars(m: int, lengths: list[float], max_dim: int) -> list[oracles.Bars]:
    """Bars of m points on a circle (Adamaszek and Adams), ``lengths[r]`` the distance of r steps.

    Where every point has r neighbours on either side, the complex is a sphere of dimension 2l + 1 while
    l / (2l + 1) < r / m < (l + 1) / (2l + 3), and m - 2r - 1 spheres of dimension 2l in one point where
    r / m = l / (2l + 1).
    """
    last = m // 2
    bars: list[oracles.Bars] = [[] for _ in range(max(m, max_dim) + 1)]
    bars[0] = [(0, math.inf), *[(0, lengths[1])] * (m - 1)]
    odd: dict[int, list[int]] = {}
    for r in range(1, last):
        level = max(k for k in range(m) if k * m <= r * (2 * k + 1))
        if level * m == r * (2 * level + 1):
            bars[2 * level] = [(lengths[r], lengths[r + 1])] * (m - 2 * r - 1)
        else:
            odd.setdefault(level, []).append(r)
    for level, steps in odd.items():
        bars[2 * level + 1] = [(lengths[steps[0]], lengths[steps[-1] + 1])]
    return [sorted(each) for each in bars[: max_dim + 1]]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("m", "max_dim"), [*((m, 3) for m in range(3, 16)), (24, 2), (64, 1), (65, 1)])
def test_regular_polygons(m: int, max_dim: int, method: str):
    lengths = [float(np.float32(2 * math.sin(math.pi * r / m))) for r in range(m // 2 + 1)]
    max_dim = reach(method, max_dim)
    diagrams = precomputed(np.array(lengths)[steps_of_circle(m)], max_dim, method=method)
    assert_bars(diagrams, circle_bars(m, lengths, max_dim))


@pytest.mark.parametrize("m", [4, 7, 30, 100, 301])
def test_the_loop_of_a_circle(m: int):
    """Born when neighbours meet, filled when a triangle reaches around the centre."""
    angles = 2 * np.pi * np.arange(m) / m
    diagrams = rg.rips(np.stack([np.cos(angles), np.sin(angles)], axis=1) * 3)
    born, dies = 6 * np.sin(np.pi / m), 6 * np.sin(np.pi * math.ceil(m / 3) / m)
    longest = diagrams[1][np.argmax(diagrams[1][:, 1] - diagrams[1][:, 0])]
    np.testing.assert_allclose(longest, [born, dies], rtol=1e-6)
    assert (lifetimes(diagrams[1])[1:] < 1e-5).all()


def test_a_noisy_circle_has_one_long_loop():
    rng = np.random.default_rng(4)
    angles = rng.uniform(0, 2 * np.pi, 150)
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1) + 0.05 * rng.normal(size=(150, 2))
    lengths = lifetimes(rg.rips(x)[1])
    assert lengths[0] > 1
    assert lengths[1] < 0.3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("field", [2, 3, 251])
@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 5])
def test_cross_polytopes(dimension: int, field: int, method: str):
    """The vertices plus and minus e_i bound a sphere from sqrt(2) until opposite ones meet at 2."""
    x = np.concatenate([np.eye(dimension), -np.eye(dimension)])
    max_dim = reach(method, dimension - 1)
    diagrams = rg.rips(x, max_dim, coefficients=field, method=method)
    side = float(np.float32(math.sqrt(2)))
    expected: list[oracles.Bars] = [[(0, side)] * (2 * dimension - 1) + [(0, math.inf)]]
    expected += [[] for _ in range(1, dimension)]
    if dimension == 1:
        expected = [[(0, 2), (0, math.inf)]]
    else:
        expected[-1] = [(side, 2)]
    assert_bars(diagrams, expected[: max_dim + 1])
    assert_simplices(diagrams, table(x), max_dim)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("field", [2, 3])
@pytest.mark.parametrize("sides", [(7, 7), (8, 10)])
def test_flat_tori(sides: tuple[int, int], field: int, method: str):
    """Under the maximum metric the bars of a product are all intersections of bars (Kuenneth)."""
    each = []
    for m in sides:
        lengths = [float(np.float32(2 * math.sin(math.pi * r / m))) for r in range(m // 2 + 1)]
        each.append((np.array(lengths)[steps_of_circle(m)], circle_bars(m, lengths, 2)))
    (a, bars_a), (b, bars_b) = each
    distances = np.maximum(np.kron(a, np.ones_like(b)), np.kron(np.ones_like(a), b))
    expected: list[oracles.Bars] = [[], [], []]
    for i, j in itertools.product(range(3), repeat=2):
        if i + j <= 2:
            both = [(max(x[0], y[0]), min(x[1], y[1])) for x, y in itertools.product(bars_a[i], bars_b[j])]
            expected[i + j] += [(born, dies) for born, dies in both if born < dies]
    if sides[0] == sides[1]:
        assert [len(bars) for bars in expected] == [49, 2, 1]
    assert_bars(
        precomputed(distances, 2, coefficients=field, method=method), [sorted(bars) for bars in expected]
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_projective_plane_tells_fields_apart(method: str):
    distances = array("in.projective_plane")
    for field, bars in ((2, [(1, 2)]), (3, []), (5, []), (251, [])):
        diagrams = precomputed(distances.astype(float), 2, coefficients=field, method=method)
        found = all_bars(diagrams, 2)
        assert found == [[(0, 1)] * 12 + [(0, math.inf)], bars, bars]
    over_z2 = precomputed(distances.astype(float), 2, threshold=1, method=method)
    assert [over_z2.infinite[dim].tolist() for dim in range(3)] == [[0], [1], [1]]


@pytest.mark.parametrize("method", METHODS)
def test_the_sphere_has_one_long_void(method: str):
    lengths = [lifetimes(bars) for bars in rg.rips(sphere(90, 3), 2, method=method)]
    assert lengths[2][0] > 0.4
    assert (lengths[2][1:] < 0.1).all()
    assert lengths[1][0] < 0.5


@pytest.mark.parametrize("method", METHODS)
def test_clusters_far_apart_keep_their_bars(method: str):
    a, b = table(sphere(24, 3)), table(normal(20, 4))
    gap = 50.0
    distances = np.full((44, 44), gap)
    distances[:24, :24], distances[24:, 24:] = a, b
    parts = [all_bars(precomputed(part, 2), 2) for part in (a, b)]
    both = [sorted(x + y) for x, y in zip(*parts, strict=True)]
    joined = precomputed(distances, 2, method=method)
    assert all_bars(joined, 2) == [sorted([(0.0, gap), *both[0][:-1]]), both[1], both[2]]
    distances[distances == gap] = np.inf
    apart = precomputed(distances, 2, method=method)
    assert all_bars(apart, 2) == both
    assert apart.infinite[0].tolist() == [0, 0]
    cut = precomputed(distances, 2, threshold=gap / 2, method=method)
    assert all_bars(cut, 2) == both


def test_two_circles_share_nothing():
    angles = 2 * np.pi * np.arange(20) / 20
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    diagrams = rg.rips(np.concatenate([circle, circle + 9]), threshold=1.5)
    assert diagrams.infinite[0].tolist() == [0, 0]
    assert len(diagrams.infinite[1]) == 2
    np.testing.assert_allclose(diagrams.infinite[1], 2 * np.sin(np.pi / 20), rtol=1e-6)


# --- numbers of other programs


@pytest.mark.parametrize("method", EVERY_DIMENSION)
def test_random_whole_distances(method: str):
    """The table of upstream Ripser: births and deaths are whole numbers."""
    found = all_bars(precomputed(array("in.random16").astype(float), 3, threshold=103, method=method), 3)
    assert [len(bars) for bars in found] == [16, 14, 6, 3]
    assert found[2] == sorted([(71, 76), (69, 84), (58, 75), (57, 78), (57, 79), (56, 61)])
    assert found[3] == sorted([(89, 94), (86, 93), (79, 81)])
    assert [bar for bars in found for bar in bars if bar[1] == math.inf] == [(0, math.inf)]


def as_ripser_gives(name: str, dims: int) -> list[oracles.Bars]:
    found = [entries()[f"{name}.H{dim}"]["value"]["npz"] for dim in range(dims)]
    return [sorted((float(born), float(dies)) for born, dies in array(each)) for each in found]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((f"ripser.{name}", {}) for name in ("circle", "random3d", "grid6", "dup", "octahedron")),
        *((f"ripser.{name}", {}) for name in ("two_clusters", "highdim", "sphere")),
        ("ripser.circle.thresh0.6", {"threshold": 0.6}),
        ("ripser.circle.thresh1.0", {"threshold": 1.0}),
        ("ripser.rp2.z2", {}),
        ("ripser.rp2.z3", {"coefficients": 3}),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_bars_of_ripser(name: str, options: dict[str, Any], method: str):
    dims = 2 if "thresh" in name else 3
    distances = array(entries()[f"{name}.H0"]["inputs"][0])
    diagrams = precomputed(distances, dims - 1, method=method, **options)
    assert_bars(diagrams, as_ripser_gives(name, dims))
    assert_simplices(diagrams, distances.astype(np.float64), dims - 1)


def test_every_diagram_of_ripser_is_compared():
    diagrams = [key for key, entry in entries().items() if "npz" in (entry["value"] or {})]
    assert len(diagrams) == 8 * 3 + 2 * 2 + 2 * 3 + 3 + 3


@pytest.mark.parametrize("method", ["auto", "links"])
def test_192_points_of_a_sphere(method: str):
    diagrams = precomputed(array("in.sphere_3_192"), 2, method=method)
    assert_bars(diagrams, as_ripser_gives("sphere_3_192", 3))
    np.testing.assert_array_equal(diagrams[2], np.array([[0.720484, 1.65562]], np.float32))


def test_two_copies_of_projective_space():
    """1024 points on O(3), to H1 and H2; two components, two classes in every dimension that never die."""
    x = array("in.o3_1024")
    diagrams = rg.rips(x, 2, threshold=1.8)
    assert [len(diagrams[dim]) + len(diagrams.infinite[dim]) for dim in range(3)] == [1024, 576, 180]
    assert [len(diagrams.infinite[dim]) for dim in range(3)] == [2, 2, 2]
    for dim, expected in enumerate(as_ripser_gives("o3_1024", 3)):
        np.testing.assert_allclose(sorted(bars_of(diagrams, dim)), expected, rtol=3e-7)


def summary(diagrams: Any) -> dict[str, float]:
    """Counts, sums and maxima of lifetimes as todacomm takes them: an infinite bar dies at max(birth) + 1."""
    found = {}
    for dim, finite in enumerate(diagrams):
        births = [*finite[:, 0].tolist(), *diagrams.infinite[dim].tolist()]
        lengths = [float(dies) - float(born) for born, dies in finite]
        lengths += [max(births) + 1 - born for born in diagrams.infinite[dim].tolist()]
        found[f"H{dim}_count"] = len(lengths)
        found[f"H{dim}_total_persistence"] = sum(lengths)
        found[f"H{dim}_max_lifetime"] = max(lengths, default=0)
    return found


def assert_summary(key: str, diagrams: Any, expected: dict[str, float] | None = None) -> None:
    entry = entries()[key]
    expected = entry["value"] if expected is None else expected
    found = summary(diagrams)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=entry["rtol"], abs=entry["atol"]), name


@pytest.mark.parametrize("name", ["circle", "dup", "two_clusters", "octahedron", "grid6"])
def test_summaries_of_todacomm(name: str):
    key = f"topo.summarize.{name}"
    assert_summary(key, precomputed(array(entries()[key]["inputs"][0]), 2))


@pytest.mark.parametrize("metric", ["euclidean", "manhattan", "cosine", "chebyshev"])
def test_metrics_of_todacomm(metric: str):
    assert_summary(f"ripser.random3d.{metric}", rg.rips(array("in.ripser.points.random3d"), metric=metric))


def test_components_of_todacomm():
    """Ten principal components first, as it does."""
    x = array("in.topo.A").astype(np.float64)
    centred = x - x.mean(axis=0)
    components = np.linalg.svd(centred, full_matrices=False)[2][:10]
    assert_summary("topo.persistence", rg.rips((centred @ components.T).astype(np.float32)))


def test_the_point_estimate_of_todacomm():
    assert_summary(
        "topo.bootstrap", rg.rips(array("in.topo.A")[:30]), entries()["topo.bootstrap"]["value"]["point"]
    )


@pytest.mark.parametrize("metric", ["euclidean", "manhattan"])
def test_deaths_of_components_are_those_of_single_linkage(metric: str):
    x = np.random.default_rng(0).integers(0, 40, size=(400, 3)).astype(np.float64)
    heights = linkage(x, "single", {"manhattan": "cityblock"}.get(metric, metric))[:, 2]
    found = rg.rips(x, 0, metric=metric)
    np.testing.assert_array_equal(found[0][:, 1], np.sort(heights[heights > 0]).astype(np.float32))
    assert found.infinite[0].tolist() == [0]


# --- plain reduction of boundary matrices


def test_small_cases_of_the_fuzz():
    for number in range(300):
        case = fuzz.drawn_case(1, number)
        try:
            fuzz.check(case)
        except Exception as error:
            raise AssertionError(f"python tests/fuzz_homology.py --case '{case}'") from error


@st.composite
def whole_distances(draw: Any) -> list[int]:
    n = draw(st.integers(2, 8))
    return draw(st.lists(st.integers(0, 6), min_size=n * (n - 1) // 2, max_size=n * (n - 1) // 2))


@settings(max_examples=150)
@given(
    distances=whole_distances(),
    field=st.sampled_from([2, 3, 7]),
    method=st.sampled_from(METHODS),
    threshold=st.one_of(st.none(), st.integers(0, 7)),
)
def test_whole_distances(distances: list[int], field: int, method: str, threshold: int | None):
    n = math.isqrt(2 * len(distances)) + 1
    square = np.zeros((n, n))
    square[np.triu_indices(n, 1)] = distances
    square += square.T
    limit = math.inf if threshold is None else threshold
    max_dim = reach(method, 3)
    options: dict[str, Any] = {"coefficients": field, "threshold": threshold, "method": method}
    diagrams = precomputed(
        np.array(distances, np.float64), max_dim, representatives=method in EVERY_DIMENSION, **options
    )
    assert_bars(diagrams, oracles.rips_bars(square, max_dim, field, limit))
    assert_simplices(diagrams, square, max_dim)
    if method in EVERY_DIMENSION:
        assert_cocycles(diagrams, square, max_dim, field, limit)


# --- from points


@pytest.mark.parametrize(("metric", "p"), METRICS)
def test_points_under_every_metric(metric: str, p: float | None):
    x = normal(40, 6)
    name = {"manhattan": "cityblock"}.get(metric, metric)
    square = cdist(x, x, name, **({} if p is None else {"p": p}))
    square = np.triu(square, 1) + np.triu(square, 1).T
    found = rg.rips(x, 2, metric=metric, p=p)
    expected = precomputed(square, 2)
    for dim in range(3):
        assert len(found[dim]) == len(expected[dim])
        np.testing.assert_allclose(found[dim], expected[dim], rtol=3e-6)
        simplices = found.death_simplices[dim]
        np.testing.assert_allclose(fuzz.lengths_of(square, simplices), found[dim][:, 1], rtol=3e-6)


@pytest.mark.parametrize(("metric", "p"), METRICS)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_error_bound_holds(metric: str, p: float | None, scale: float):
    """Lengths of the simplices in extended precision against the ends of the bars."""
    x = normal(50, 300) * scale
    diagrams = rg.rips(x, 1, metric=metric, p=p)
    wide = x.astype(np.longdouble)
    for end, simplices in ((0, diagrams.birth_simplices[1]), (1, diagrams.death_simplices[1])):
        edges = np.array([list(itertools.combinations(simplex, 2)) for simplex in simplices.tolist()])
        lengths = lengths_in_extended_precision(wide[edges[..., 0]], wide[edges[..., 1]], metric, p)
        errors = np.abs(lengths.max(axis=1) - diagrams[1][:, end])
        assert len(errors) > 10
        assert (errors <= diagrams.error_bound).all()
    assert diagrams.error_bound < 1e-6 * diagrams[1].max()


def lengths_in_extended_precision(a: np.ndarray, b: np.ndarray, metric: str, p: float | None) -> np.ndarray:
    if metric == "cosine":
        unit = [v / np.sqrt((v * v).sum(axis=-1, keepdims=True)) for v in (a, b)]
        return ((unit[0] - unit[1]) ** 2).sum(axis=-1) / 2
    if metric == "chebyshev":
        return np.abs(a - b).max(axis=-1)
    power = {"euclidean": 2, "manhattan": 1}.get(metric, p)
    return (np.abs(a - b) ** power).sum(axis=-1) ** (1 / np.longdouble(power))


def test_a_large_offset_does_not_blur_the_bars():
    x = np.random.default_rng(1).integers(-50, 50, size=(60, 3)).astype(np.float64)
    assert_same_bits(rg.rips(x), rg.rips(x + 2.0**20), 1)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_types_of_equal_values_give_equal_bars(library: str, dtype: str):
    def cast(values: np.ndarray) -> Any:
        if library == "torch" or dtype == "bfloat16":
            return torch.from_numpy(values).to(getattr(torch, dtype))
        return values.astype(dtype)

    x = np.random.default_rng(0).integers(-60, 60, size=(40, 5)).astype(np.float64)
    assert_same_bits(rg.rips(cast(x), 2), rg.rips(x, 2), 2)
    distances = np.abs(x[:, None] - x[None]).max(axis=2)
    assert_same_bits(precomputed(cast(distances), 2), precomputed(distances, 2), 2)


def test_rows_may_lie_anywhere():
    x = normal(50, 8)
    first = rg.rips(x[::2, 1::3].copy())
    assert_same_bits(rg.rips(x[::2, 1::3]), first, 1)
    assert_same_bits(rg.rips(np.asfortranarray(x[::2, 1::3])), first, 1)
    distances = table(x)
    assert_same_bits(precomputed(np.asfortranarray(distances)), precomputed(distances), 1)
    assert_same_bits(precomputed(np.kron(distances, np.ones((2, 2)))[::2, ::2]), precomputed(distances), 1)


def test_the_input_is_left_as_it_is():
    x, distances = normal(20, 3), table(normal(20, 3))
    sparse = scipy.sparse.csr_matrix(distances)
    kept = x.copy(), distances.copy(), sparse.copy()
    rg.rips(x)
    precomputed(distances)
    precomputed(sparse)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(distances, kept[1])
    assert (sparse != kept[2]).nnz == 0


# --- forms of the distances


@pytest.mark.parametrize("form", fuzz.FORMS)
@pytest.mark.parametrize("kind", ["euclidean", "grid", "sparse", "equal", "whole weights"])
def test_forms_of_the_same_graph(kind: str, form: str):
    distances = fuzz.distances_of(fuzz.Case(kind, 5, 20, 2, 2))
    found = precomputed(fuzz.as_form(distances, form), 2)
    assert_bars(found, all_bars(precomputed(distances, 2), 2))
    assert_simplices(found, distances, 2)


def test_stored_zeros_of_a_sparse_matrix_are_edges():
    path = scipy.sparse.csr_matrix(([0.0, 0.0, 2.0, 2.0], ([0, 1, 1, 2], [1, 0, 2, 1])), shape=(4, 4))
    diagrams = precomputed(path)
    assert all_bars(diagrams, 1) == [[(0, 2), (0, math.inf), (0, math.inf)], []]


def test_a_hole_of_a_sparse_graph_never_dies():
    ring = scipy.sparse.coo_matrix(np.where(steps_of_circle(9) == 1, 1.5, 0.0))
    diagrams = precomputed(ring, 2)
    assert all_bars(diagrams, 2) == [[(0, 1.5)] * 8 + [(0, math.inf)], [(1.5, math.inf)], []]
    assert diagrams[1].shape == (0, 2)
    assert diagrams.birth_simplices[1].shape == (0, 2)
    assert diagrams.death_simplices[1].shape == (0, 3)


def test_a_sparse_matrix_may_have_a_diagonal_of_zeros():
    ring = np.where(steps_of_circle(9) == 1, 1.5, 0.0)
    rows, columns = np.nonzero(ring + np.eye(9))
    stored = scipy.sparse.csr_matrix((ring[rows, columns], (rows, columns)), shape=(9, 9))
    assert stored.nnz == 27
    assert_same_bits(precomputed(stored), precomputed(scipy.sparse.csr_matrix(ring)), 1)


def test_one_triangle_of_a_sparse_matrix_is_enough():
    whole = scipy.sparse.csr_matrix(np.where(steps_of_circle(9) < 3, steps_of_circle(9), 0.0))
    for part in (scipy.sparse.triu(whole), scipy.sparse.tril(whole)):
        assert_same_bits(precomputed(part.tocsr()), precomputed(whole), 1)


def test_a_sparse_graph_may_have_many_points():
    """A ring of 20 000 points: nothing of the size of its square is needed."""
    n = 20_000
    here, there = np.arange(n), (np.arange(n) + 1) % n
    lengths = np.ones(2 * n)
    ring = scipy.sparse.coo_matrix((lengths, (np.r_[here, there], np.r_[there, here])), shape=(n, n))
    diagrams = precomputed(ring)
    assert len(diagrams[0]) == n - 1
    assert diagrams.infinite[1].tolist() == [1]


# --- thresholds


@pytest.mark.parametrize("method", METHODS)
def test_an_edge_of_the_length_of_the_threshold_is_there(method: str):
    square = np.sqrt(2) * (steps_of_circle(4) == 2) + (steps_of_circle(4) == 1)
    at = precomputed(square, threshold=1.0, method=method)
    assert all_bars(at, 1) == [[(0, 1)] * 3 + [(0, math.inf)], [(1, math.inf)]]
    below = precomputed(square, threshold=float(np.nextafter(np.float32(1), np.float32(0))), method=method)
    assert all_bars(below, 1) == [[(0, math.inf)] * 4, []]


@pytest.mark.parametrize("method", METHODS)
def test_without_a_threshold_only_one_component_is_left(method: str):
    distances = table(normal(40, 3))
    whole = precomputed(distances, 2, method=method)
    assert [whole.infinite[dim].tolist() for dim in range(3)] == [[0], [], []]
    radius = float(distances.max(axis=1).min())
    for threshold in (radius, radius * 2, math.inf):
        assert_bars(precomputed(distances, 2, threshold=threshold, method=method), all_bars(whole, 2))
    cut = 0.8 * float(np.median(distances))
    expected = [
        sorted((born, dies if dies <= cut else math.inf) for born, dies in bars if born <= cut)
        for bars in all_bars(whole, 2)
    ]
    assert_bars(precomputed(distances, 2, threshold=cut, method=method), expected)


def test_short_bars_are_left_out_on_request():
    distances = table(normal(50, 3))
    whole = precomputed(distances, 2)
    for least in (0.05, 0.2, 100.0):
        found = precomputed(distances, 2, min_persistence=least)
        for dim in range(3):
            keep = whole[dim][:, 1] - whole[dim][:, 0] > least
            np.testing.assert_array_equal(found[dim], whole[dim][keep])
            np.testing.assert_array_equal(found.infinite[dim], whole.infinite[dim])
            assert found.birth_simplices[dim].shape == (keep.sum(), dim + 1)
        assert_simplices(found, distances, 2)


@pytest.mark.parametrize("landmarks", [5, 20, 60])
def test_landmarks_keep_bars_within_twice_their_cover_radius(landmarks: int):
    x = sphere(60, 3)
    whole, found = rg.rips(x, 2), rg.rips(x, 2, landmarks=landmarks)
    assert len(found[0]) == landmarks - 1
    used = np.unique(np.concatenate([found.death_simplices[0].ravel(), found.infinite_simplices[0].ravel()]))
    assert len(used) == landmarks
    radius = table(x)[:, used].min(axis=1).max()
    assert found.cover_radius == pytest.approx(radius, rel=1e-6)
    for dim in range(3):
        assert bottleneck_within(whole[dim], found[dim], 2 * radius + 1e-6)


# --- invariance and stability


CLOUDS = {
    "normal": normal(45, 4),
    "sphere": sphere(45, 3),
    "grid": np.random.default_rng(2).integers(0, 5, size=(45, 3)).astype(np.float64),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", CLOUDS)
def test_the_order_of_the_points_is_of_no_matter(kind: str, method: str):
    x = CLOUDS[kind]
    order = np.random.default_rng(0).permutation(len(x))
    expected = all_bars(rg.rips(x, 2, method=method), 2)
    found = rg.rips(x[order], 2, method=method)
    assert_bars(found, expected)
    distances = table(x)
    found = precomputed(distances[order][:, order], 2, method=method)
    assert_bars(found, all_bars(precomputed(distances, 2, method=method), 2))
    assert_simplices(found, distances[order][:, order], 2)


@pytest.mark.parametrize("kind", CLOUDS)
def test_a_power_of_two_scales_every_bit(kind: str):
    x = CLOUDS[kind]
    first = rg.rips(x, 2)
    for power in (2.0**-40, 0.5, 2.0**60):
        found = rg.rips(x * power, 2)
        for dim in range(3):
            np.testing.assert_array_equal(found[dim], first[dim] * np.float32(power))
            np.testing.assert_array_equal(found.death_simplices[dim], first.death_simplices[dim])


@pytest.mark.parametrize("kind", CLOUDS)
def test_scale_and_isometry(kind: str):
    x = CLOUDS[kind]
    first = rg.rips(x, 2)
    assert_close(first, rg.rips(x * 0.3, 2), 2, scale=0.3)
    assert_close(first, rg.rips(x * 1e5 / 3, 2), 2, scale=1e5 / 3)
    turn = np.linalg.qr(normal(7, 7, 1))[0][: x.shape[1]]
    assert_close(first, rg.rips(x @ turn + 0.7, 2), 2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", CLOUDS)
def test_copies_of_points_add_nothing(kind: str, method: str):
    x = CLOUDS[kind]
    copies = np.concatenate([x, x[::3], x[:5], x[:1]])
    first = rg.rips(x, 2, method=method)
    found = rg.rips(copies, 2, method=method)
    assert_bars(found, all_bars(first, 2))
    assert_simplices(found, table(copies), 2)


@pytest.mark.parametrize("kind", CLOUDS)
@pytest.mark.parametrize("eps", [1e-4, 1e-2, 0.1])
def test_moved_points_move_bars_by_at_most_twice_as_much(kind: str, eps: float):
    x = CLOUDS[kind]
    moved = x + eps * sphere(len(x), x.shape[1], seed=5)
    first, found = rg.rips(x, 2), rg.rips(moved, 2)
    for dim in range(3):
        assert bottleneck_within(first[dim], found[dim], 2 * eps + 1e-5), (first[dim], found[dim])


def test_the_check_of_stability_can_fail():
    a = np.array([[0.0, 1.0], [0.0, 2.0]])
    assert bottleneck_within(a, a + 0.1, 0.11)
    assert not bottleneck_within(a, a + 0.1, 0.09)
    assert not bottleneck_within(a, a[:1], 0.9)
    assert bottleneck_within(a, a[:1], 1.0)
    assert not bottleneck_within(a[:0], a, 0.9)


# --- simplices and representatives


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", CLOUDS)
def test_simplices_have_the_lengths_of_their_bars(kind: str, method: str):
    distances = table(CLOUDS[kind])
    assert_simplices(precomputed(distances, 2, method=method), distances, 2)


def test_components_end_at_the_edges_of_a_spanning_tree():
    distances = table(normal(60, 3))
    edges = precomputed(distances, 0).death_simplices[0]
    tree = scipy.sparse.csgraph.minimum_spanning_tree(distances)
    expected = {frozenset(map(int, edge)) for edge in zip(*tree.nonzero(), strict=True)}
    assert {frozenset(edge) for edge in edges.tolist()} == expected


@pytest.mark.parametrize("method", EVERY_DIMENSION)
@pytest.mark.parametrize("field", [2, 3, 5])
@pytest.mark.parametrize(
    ("kind", "n", "threshold"),
    [
        ("euclidean", 16, None),
        ("whole weights", 14, None),
        ("weights", 14, 0.6),
        ("sparse", 16, None),
        ("projective plane", 13, 1.0),
    ],
)
def test_representatives(kind: str, n: int, threshold: float | None, field: int, method: str):
    distances = fuzz.distances_of(fuzz.Case(kind, 3, n, field, 2))
    diagrams = precomputed(
        distances, 2, coefficients=field, threshold=threshold, representatives=True, method=method
    )
    assert_cocycles(diagrams, distances, 2, field, math.inf if threshold is None else threshold)
    assert_bars(diagrams, all_bars(precomputed(distances, 2, coefficients=field, threshold=threshold), 2))


def test_representatives_of_loops_of_a_larger_cloud():
    x = np.concatenate([sphere(30, 2), sphere(30, 2, 1) + np.array([4, 0])])
    distances = table(x)
    assert_cocycles(precomputed(distances, 1, representatives=True), distances, 1, 2)


def test_representatives_come_on_request_only():
    diagrams = rg.rips(normal(10, 2))
    assert not diagrams.cocycles


# --- many clouds, threads, instruction sets


def test_a_list_of_clouds_is_as_good_as_single_calls():
    clouds = [normal(30, 3), sphere(41, 4), normal(1, 2), normal(2, 7), CLOUDS["grid"]]
    found = rg.rips(clouds, 2, threads=2, representatives=True)
    assert isinstance(found, list)
    assert len(found) == len(clouds)
    for cloud, diagrams in zip(clouds, found, strict=True):
        single = rg.rips(cloud, 2, threads=1, representatives=True)
        assert_same_bits(diagrams, single, 2)
        assert_same_cocycles(diagrams, single, 2)
    squares = [table(cloud) for cloud in clouds]
    for distances in (squares, [condensed(square) for square in squares[:2]]):
        for each, diagrams in zip(distances, precomputed(distances), strict=True):
            assert_same_bits(diagrams, precomputed(each), 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("field", [2, 3])
@pytest.mark.parametrize("kind", ["normal", "grid"])
def test_threads_and_instruction_sets_change_no_bit(kind: str, field: int, method: str):
    x = np.concatenate([CLOUDS[kind], CLOUDS[kind][:40] * 1.5 + 1])
    represent = method in EVERY_DIMENSION
    options: dict[str, Any] = {"coefficients": field, "method": method, "representatives": represent}
    first = rg.rips(x, 2, threads=1, instruction_set=SETS[0], **options)
    for instruction_set, threads in itertools.product(SETS, (1, 2, 5)):
        found = rg.rips(x, 2, threads=threads, instruction_set=instruction_set, **options)
        assert_same_bits(found, first, 2)
        if represent:
            assert_same_cocycles(found, first, 2)


@pytest.mark.parametrize("n", [63, 64, 65, 127, 128, 129, 511, 512, 513])
def test_methods_agree_around_the_width_of_registers(n: int):
    distances = table(sphere(n, 3))
    expected = all_bars(precomputed(distances, threshold=0.5, method="reducer"), 1)
    for instruction_set in SETS:
        found = precomputed(distances, threshold=0.5, method="links", instruction_set=instruction_set)
        assert_bars(found, expected)


@pytest.mark.parametrize("field", [2, 3])
def test_methods_agree_on_a_hundred_points(field: int):
    for x in (normal(100, 8), np.random.default_rng(0).integers(0, 4, size=(100, 4)).astype(float)):
        distances = table(x)
        links, reducer = (
            precomputed(distances, 2, coefficients=field, method=method) for method in METHODS[1:]
        )
        assert_bars(links, all_bars(reducer, 2))


def test_progress_is_told_and_may_stop_the_work():
    shares: list[float] = []
    x = normal(1200, 50)
    rg.rips(x, 1, threads=1, progress=shares.append)
    assert len(shares) > 1
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] <= 1

    def stop(share: float) -> None:
        raise RuntimeError(f"enough at {share}")

    for threads in (1, 3):
        with pytest.raises(RuntimeError, match="enough at"):
            rg.rips(x, 1, threads=threads, progress=stop)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("x", "max_dim", "method"),
    [
        (normal(6000, 50), 1, "links"),
        (sphere(1500, 3), 2, "links"),
        (sphere(900, 3), 2, "reducer"),
        (sphere(400, 4), 3, "auto"),
    ],
)
def test_ctrl_c_stops_the_work(x: np.ndarray, max_dim: int, method: str, threads: int):
    timer = threading.Timer(0.2, _thread.interrupt_main)
    timer.start()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        rg.rips(x, max_dim, method=method, threads=threads)
    timer.join()
    assert time.perf_counter() - start < 20  # half a second on a machine that has nothing else to do


def test_threads_may_call_at_once():
    x = normal(150, 6)
    expected = rg.rips(x, 2)
    found: list[Any] = []
    callers = [threading.Thread(target=lambda: found.append(rg.rips(x, 2, threads=2))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 4
    for diagrams in found:
        assert_same_bits(diagrams, expected, 2)


# --- few points


@pytest.mark.parametrize("method", METHODS)
def test_few_points(method: str):
    assert all_bars(rg.rips(np.array([[1.0, 2.0]]), 2, method=method), 2) == [[(0, math.inf)], [], []]
    two = rg.rips(np.array([[0.0, 0.0], [3.0, 4.0]]), 2, method=method)
    assert all_bars(two, 2) == [[(0, 5), (0, math.inf)], [], []]
    line = rg.rips(np.array([[0.0], [1.0], [2.0]]), 2, method=method)
    assert all_bars(line, 2) == [[(0, 1), (0, 1), (0, math.inf)], [], []]
    assert all_bars(rg.rips(np.ones((30, 4)), 2, method=method), 2) == [[(0, math.inf)], [], []]
    assert all_bars(precomputed(np.zeros((1, 1)), 2, method=method), 2) == [[(0, math.inf)], [], []]


@pytest.mark.parametrize("method", EVERY_DIMENSION)
def test_more_dimensions_than_points(method: str):
    diagrams = rg.rips(np.eye(3), 6, method=method)
    assert [len(bars) for bars in diagrams] == [2, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("n", [1, 2, 30])
def test_coincident_points_have_empty_diagrams_of_the_right_shape(n: int):
    diagrams = rg.rips(np.full((n, 3), 7.0), 2, representatives=True)
    for dim in range(3):
        assert diagrams[dim].shape == (0, 2)
        assert diagrams[dim].dtype == np.float32
        assert diagrams.birth_simplices[dim].shape == (0, dim + 1)
        assert diagrams.death_simplices[dim].shape == (0, dim + 2)
        assert len(diagrams.cocycles[dim]) == len(diagrams.infinite[dim]) == (dim == 0)


# --- bad input


def spoiled(value: float, *places: tuple[int, int]) -> np.ndarray:
    square = table(normal(5, 3))
    for i, j in places:
        square[i, j] = value
    return square


NAN = math.nan
POINTS = normal(6, 2)
BAD_DISTANCES = {
    "asymmetric": (spoiled(9.0, (1, 3)), "symmetric"),
    "infinite on one side": (spoiled(math.inf, (1, 3)), "symmetric"),
    "negative": (spoiled(-1.0, (1, 3), (3, 1)), "negative"),
    "minus infinity": (spoiled(-math.inf, (1, 3), (3, 1)), "negative|finite"),
    "NaN": (spoiled(NAN, (1, 3), (3, 1)), "(?i)nan"),
    "NaN on one side": (spoiled(NAN, (1, 3)), "(?i)nan|symmetric"),
    "diagonal": (spoiled(0.5, (2, 2)), "diagonal"),
    "NaN on the diagonal": (spoiled(NAN, (2, 2)), "(?i)nan|diagonal"),
    "not square": (np.ones((3, 4)), "square|shape|condensed"),
    "condensed of 4": (np.ones(4), "n \\(n|n\\(n|condensed"),
    "condensed negative": (np.array([1.0, -1.0, 1.0]), "negative"),
    "condensed NaN": (np.array([1.0, NAN, 1.0]), "(?i)nan"),
    "three axes": (np.ones((2, 2, 2)), "shape|square|dim"),
    "no points": (np.ones((0, 0)), "point|empty|shape"),
    "words": (np.array([["a", "b"], ["c", "d"]]), "."),
    "sparse asymmetric": (scipy.sparse.csr_matrix(spoiled(9.0, (1, 3))), "symmetric"),
    "sparse negative": (scipy.sparse.csr_matrix(spoiled(-1.0, (1, 3), (3, 1))), "negative"),
    "sparse NaN": (scipy.sparse.csr_matrix(spoiled(NAN, (1, 3), (3, 1))), "(?i)nan"),
    "sparse diagonal": (scipy.sparse.csr_matrix(spoiled(0.5, (2, 2))), "diagonal"),
    "sparse not square": (scipy.sparse.csr_matrix(np.ones((3, 4))), "square|shape"),
}


@pytest.mark.parametrize("kind", BAD_DISTANCES)
def test_bad_distances(kind: str):
    distances, message = BAD_DISTANCES[kind]
    with pytest.raises((ValueError, TypeError), match=message):
        precomputed(distances)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_dim": -1}, "max_dim"),
        ({"max_dim": 1.5}, "max_dim"),
        ({"max_dim": True}, "max_dim"),
        ({"coefficients": 4}, "prime"),
        ({"coefficients": 1}, "prime|coefficients"),
        ({"coefficients": 0}, "prime|coefficients"),
        ({"coefficients": -3}, "prime|coefficients"),
        ({"coefficients": 257}, "251"),
        ({"coefficients": 3.0}, "prime|coefficients"),
        ({"threshold": NAN}, "threshold"),
        ({"threshold": -1.0}, "threshold"),
        ({"threshold": "far"}, "threshold"),
        ({"min_persistence": NAN}, "min_persistence"),
        ({"min_persistence": -0.1}, "min_persistence"),
        ({"metric": "euclid"}, "metric"),
        ({"metric": None}, "metric"),
        ({"metric": "minkowski"}, "p"),
        ({"metric": "minkowski", "p": 0.0}, "p"),
        ({"metric": "minkowski", "p": NAN}, "p"),
        ({"metric": "euclidean", "p": 3.0}, "p"),
        ({"threads": 0}, "threads"),
        ({"memory_limit": 0}, "memory_limit"),
        ({"instruction_set": "sse9"}, "sse9"),
        ({"method": "guess"}, "method"),
        ({"method": "links", "max_dim": 3}, "max_dim 2"),
        ({"method": "links", "representatives": True}, "representatives"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str):
    with pytest.raises((ValueError, TypeError), match=message) as raised:
        rg.rips(POINTS, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "points",
    [
        [],
        np.zeros((0, 3)),
        np.zeros(5),
        np.zeros((2, 3, 4)),
        np.array([[0.0, 1.0], [NAN, 2.0]]),
        np.array([[0.0, 1.0], [math.inf, 2.0]]),
    ],
)
def test_bad_points(points: Any):
    with pytest.raises(ValueError, match=r"."):
        rg.rips(points)


def test_cosine_refuses_a_row_of_zeros():
    with pytest.raises(ValueError, match="norm 0"):
        rg.rips(np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0]]), metric="cosine")


def test_one_bad_cloud_of_a_list_is_named():
    with pytest.raises(ValueError, match="1"):
        rg.rips([normal(5, 2), np.full((4, 2), NAN), normal(3, 2)])


def test_triangle_inequality_may_fail_and_is_noted():
    square = table(normal(12, 3))
    assert not any("triangle" in note for note in precomputed(square).notes)
    square[2, 7] = square[7, 2] = 100.0
    diagrams = precomputed(square, 2)
    assert any("triangle" in note for note in diagrams.notes)
    assert_bars(diagrams, oracles.rips_bars(square, 2))


def test_a_memory_limit_says_what_to_change():
    with pytest.raises((ValueError, MemoryError)) as raised:
        rg.rips(normal(300, 3), 2, memory_limit=10_000)
    message = str(raised.value).lower()
    for word in ("points", "threshold", "dim"):
        assert word in message


def test_an_ample_memory_limit_changes_nothing():
    x = normal(60, 3)
    assert_same_bits(rg.rips(x, 2, memory_limit=2**30), rg.rips(x, 2), 2)


def test_rounding_that_breaks_symmetry_does_not_break_the_cone():
    up = np.nextafter(np.float32(1), np.float32(2))
    found = precomputed(np.array([[0, up], [1, 0]], dtype=np.float32), 1)
    assert found.enclosing
    assert [len(births) for births in found.infinite] == [1, 0]
    generator = np.random.default_rng(0)
    for _ in range(100):
        distances = table(generator.standard_normal((12, 3)))
        noise = 1 + 2e-7 * generator.uniform(-1, 1, distances.shape).astype(np.float32)
        uneven = (distances * noise).astype(np.float32)
        found = precomputed(uneven, 2)
        assert found.enclosing
        assert [len(births) for births in found.infinite] == [1, 0, 0]
        lower = np.tril(uneven) + np.tril(uneven).T
        assert_bars(found, all_bars(precomputed(lower, 2), 2))


def test_limits_are_named():
    with pytest.raises(ValueError, match=r"max_dim must be at most 30, got 31"):
        rg.rips(normal(5, 2), 31)
    with pytest.raises(
        ValueError, match=r"128 bits: with 400 points and \d+ edges max_dim must be at most 1\d, got 30"
    ):
        rg.rips(normal(400, 3), 30, threshold=0.3)
    with pytest.raises(ValueError, match=r"landmarks must be from 1 to n = 10, got 100"):
        rg.farthest_points(normal(10, 2), 100)
    assert rg.rips(normal(10, 2), landmarks=100).cover_radius == 0
    assert rg.rips(normal(10, 2), coefficients=np.int64(3)).field == 3


def test_landmarks_say_what_they_bound():
    angles = np.arange(4) * 0.1
    arc = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert "cover_radius does not bound" in rg.rips(arc, 0, metric="cosine", landmarks=2).notes[0]
    uneven = np.ones((50, 50)) - np.eye(50)
    uneven[7, 9] = 100
    with pytest.raises(ValueError, match="symmetric"):
        precomputed(uneven, 0, landmarks=5)
    uneven[9, 7] = 100
    assert "triangle" in precomputed(uneven, 0, landmarks=5).notes[0]
    repeated = np.repeat(np.eye(3), 4, axis=0)
    chosen = rg.farthest_points(repeated, 8)
    assert len(chosen.indices) == 3
    assert chosen.cover_radius == 0
    found = rg.rips(repeated, landmarks=8, representatives=True)
    assert [len(np.unique(simplices)) == len(simplices) for simplices, _ in found.cocycles[0]] == [True] * 3


def test_marks_for_no_edge_do_not_hide_asymmetry():
    marked = np.ones((6, 6)) - np.eye(6)
    marked[2, 3] = marked[3, 2] = 1e9
    marked[0, 1], marked[1, 0] = 1, 900
    with pytest.raises(ValueError, match="symmetric"):
        precomputed(marked, 0)


def test_a_threshold_is_reported_as_it_was_given():
    x = normal(30, 3)
    for threshold in (0.7, 0.3, 1.1):
        found = rg.rips(x, 1, threshold=threshold)
        assert found.threshold == threshold
        assert found.betti_numbers(threshold)[0] == len(found.infinite[0])


def test_forms_of_sparse_matrices_agree():
    distances = np.triu(table(normal(12, 3)), 1)
    full = distances + distances.T
    expected = precomputed(full, 1)
    for held in (
        scipy.sparse.dok_matrix(full),
        scipy.sparse.lil_array(full),
        scipy.sparse.coo_array(distances),
    ):
        assert_bars(precomputed(held, 1), all_bars(expected, 1))
    far = scipy.sparse.coo_matrix(([np.inf, np.inf, 1.0], ([0, 1, 0], [1, 0, 2])), shape=(3, 3))
    assert len(precomputed(far, 0).infinite[0]) == 2
    for order in ([0, 1], [1, 0]):
        mixed = scipy.sparse.coo_matrix((np.array([1, np.inf])[order], ([0, 1], [1, 0])), shape=(2, 2))
        with pytest.raises(ValueError, match="symmetric"):
            precomputed(mixed, 0)
    rounded = scipy.sparse.coo_matrix(([1.0, 1 + 5e-7], ([0, 1], [1, 0])), shape=(2, 2))
    assert precomputed(rounded, 0).error_bound >= 5e-7


def test_a_bad_cloud_is_named_by_its_key():
    with pytest.raises(ValueError, match=r"'mlp': .*NaN"):
        rg.rips({"attn": normal(5, 2), "mlp": np.full((5, 2), np.nan)})


def test_integer_tensors_and_frames_are_points():
    grid = np.random.default_rng(0).integers(0, 5, (20, 3))
    expected = rg.rips(grid.astype(float))
    for x in (torch.from_numpy(grid), pd.DataFrame(grid), grid.astype(">f8")):
        assert_bars(rg.rips(x), all_bars(expected, 1))
