"""Distances of diagrams against assignments of the whole augmented table, and what is known of them."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.optimize

from repgeom.diagram_distances import bottleneck_distance, distance_matrix, wasserstein_distance
from repgeom.diagrams import PersistenceDiagrams

INF = math.inf
NONE = np.zeros((0, 2))
KINDS = ["plane", "grid", "line", "long"]
NORMS = list(itertools.product([1.0, 2.0, 3.5], [1.0, 2.0, 3.0, INF]))


def bars_of(kind: str, rng: np.random.Generator) -> np.ndarray:
    m = int(rng.integers(0, 13))
    if kind == "long":  # the diagonal is far: nearly all bars must be matched with each other
        return rng.random((12 - m % 2, 2)) + np.array([0.0, 3.0])
    if kind == "grid":
        births = rng.integers(0, 3, m).astype(float)
        return np.stack([births, births + rng.integers(1, 4, m)], axis=1)
    births = np.full(m, 0.25) if kind == "line" else rng.random(m) * 2
    return np.stack([births, births + rng.exponential(0.5, m)], axis=1)


def table(a: np.ndarray, b: np.ndarray, p: float) -> np.ndarray:
    """``[m + n, n + m]``: costs of all pairs, the diagonal once for every bar of the other side."""

    def norm(differences: np.ndarray) -> np.ndarray:
        return np.linalg.norm(differences, ord=p, axis=-1)

    def to_diagonal(bars: np.ndarray) -> np.ndarray:
        return norm(bars - bars.mean(axis=1, keepdims=True))

    m, n = len(a), len(b)
    costs = np.zeros((m + n, n + m))
    costs[:m, :n] = norm(a[:, None] - b)
    costs[:m, n:] = to_diagonal(a)[:, None]
    costs[m:, :n] = to_diagonal(b)
    return costs


def slow_wasserstein(a: np.ndarray, b: np.ndarray, q: float, p: float) -> float:
    costs = table(a, b, p) ** q
    return float(costs[scipy.optimize.linear_sum_assignment(costs)].sum() ** (1 / q))


def slow_bottleneck(a: np.ndarray, b: np.ndarray) -> float:
    """The least cost below which the whole table can be assigned."""
    costs = table(a, b, INF)
    for threshold in np.unique(np.append(costs, 0)):
        forbidden = (costs > threshold).astype(float)
        if forbidden[scipy.optimize.linear_sum_assignment(forbidden)].sum() == 0:
            return float(threshold)
    raise AssertionError("the largest cost allows everything")


def pairs(kind: str, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng([len(kind), count])
    return [(bars_of(kind, rng), bars_of(kind, rng)) for _ in range(count)]


# --- against the whole table


@pytest.mark.parametrize("kind", KINDS)
def test_bottleneck_is_that_of_the_whole_table(kind: str):
    for a, b in pairs(kind, 40):
        assert bottleneck_distance(a, b) == pytest.approx(slow_bottleneck(a, b), rel=1e-14, abs=1e-15)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("q", "p"), NORMS)
def test_wasserstein_is_that_of_the_whole_table(kind: str, q: float, p: float):
    for a, b in pairs(kind, 20):
        found = wasserstein_distance(a, b, order=q, internal_p=p)
        assert found == pytest.approx(slow_wasserstein(a, b, q, p), rel=1e-12, abs=1e-14)


def test_bars_of_one_birth_are_matched_as_all_others_are():
    rng = np.random.default_rng(3)
    a, b = (np.stack([np.zeros(m), rng.gamma(5, 0.2, m)], axis=1) for m in (70, 90))
    for q in (1.0, 2.0):
        expected = slow_wasserstein(a, b, q, INF)
        assert wasserstein_distance(a, b, order=q) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["plane", "line"])
@pytest.mark.parametrize("order", [1.0, 2.0, 8.0, 100.0])
def test_small_differences_of_long_bars_are_not_lost(kind: str, order: float):
    rng = np.random.default_rng(6)
    births = np.arange(20.0) * 100 if kind == "plane" else np.zeros(20)
    a = np.stack([births, births + np.arange(20) + 10], axis=1)
    b = a.copy()
    b[:, 1] += rng.uniform(-1e-9, 1e-9, 20)
    moved = np.abs(a - b)[:, 1]
    assert bottleneck_distance(a, b) == moved.max()
    expected = moved.max() * np.sum((moved / moved.max()) ** order) ** (1 / order)
    assert wasserstein_distance(a, b[::-1], order=order) == pytest.approx(expected, rel=1e-12)


def test_many_bars():
    rng = np.random.default_rng(4)
    births = rng.random(150)
    a = np.stack([births, births + rng.exponential(0.1, 150)], axis=1)
    b = a[:120] + rng.normal(scale=1e-3, size=(120, 2))
    b[:, 1] = np.maximum(b[:, 1], b[:, 0])
    assert bottleneck_distance(a, b) == slow_bottleneck(a, b)
    assert wasserstein_distance(a, b) == pytest.approx(slow_wasserstein(a, b, 1, INF), rel=1e-12)


# --- known values


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_one_bar_against_none(scale: float):
    bar = np.array([[1.0, 4.0]]) * scale
    for a, b in ((bar, NONE), (NONE, bar)):
        assert bottleneck_distance(a, b) == 1.5 * scale
        for q in (1, 2, 700):
            assert wasserstein_distance(a, b, order=q) == pytest.approx(1.5 * scale)
            assert wasserstein_distance(a, b, order=q, internal_p=1) == pytest.approx(3 * scale)
            assert wasserstein_distance(a, b, order=q, internal_p=2) == pytest.approx(1.5 * 2**0.5 * scale)


def test_repeated_bars_count_as_often_as_they_are_there():
    twice, once = [[0, 1], [0, 1]], [[0, 1]]
    assert bottleneck_distance(twice, once) == 0.5
    assert wasserstein_distance(twice, once) == 0.5


def test_bars_of_length_zero_are_none():
    assert bottleneck_distance([[1, 1], [0, 2]], [[0, 2]]) == 0
    assert wasserstein_distance([[1, 1], [0, 2]], [[0, 2]]) == 0
    assert wasserstein_distance([[1, 1]], NONE) == bottleneck_distance([[1, 1]], NONE) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_diagram_is_at_distance_zero_from_itself(kind: str):
    rng = np.random.default_rng(0)
    for a, _ in pairs(kind, 10):
        assert bottleneck_distance(a, rng.permutation(a)) == 0
        for q, p in NORMS:
            assert wasserstein_distance(a, rng.permutation(a), order=q, internal_p=p) == 0


def test_moving_every_bar_moves_the_diagram_no_farther():
    rng = np.random.default_rng(1)
    births = rng.random(60)
    a = np.stack([births, births + rng.random(60)], axis=1)
    b = a + rng.uniform(-1e-3, 1e-3, a.shape)
    b[:, 1] = np.maximum(b[:, 1], b[:, 0])
    assert 0 < bottleneck_distance(a, b) <= 1e-3
    assert wasserstein_distance(a, b) <= 60 * 1e-3


def test_the_order_grows_towards_the_bottleneck():
    for a, b in pairs("plane", 10):
        values = [wasserstein_distance(a, b, order=q) for q in (1, 2, 8, 64, 512, 5000)]
        limit = bottleneck_distance(a, b)
        assert np.all(np.diff(values) <= 1e-12)
        assert values[-1] == pytest.approx(limit, rel=1e-3)
        assert values[-1] >= limit * (1 - 1e-12)


def test_the_triangle_inequality():
    rng = np.random.default_rng(2)
    for kind in KINDS:
        a, b, c = (bars_of(kind, rng) for _ in range(3))
        for distance in (bottleneck_distance, wasserstein_distance):
            assert distance(a, c) <= distance(a, b) + distance(b, c) + 1e-12
            assert distance(a, c) == pytest.approx(distance(c, a), rel=1e-14)


# --- bars that never die


def test_essential_bars_are_matched_among_themselves():
    a, b = [[0, INF], [1, INF], [0, 1]], [[1.25, INF], [0.5, INF]]
    assert bottleneck_distance(a, b) == 0.5
    assert bottleneck_distance(a[:2], b) == 0.5
    assert bottleneck_distance([[0, INF], [0, 4]], [[0, INF]]) == 2
    assert wasserstein_distance(a, b) == 0.5 + 0.25 + 0.5
    assert wasserstein_distance(a, b, order=2) == pytest.approx(math.sqrt(0.25 + 0.0625 + 0.25))
    assert wasserstein_distance([[0, INF]], [[3, INF]], order=2, internal_p=1) == 3


def test_other_numbers_of_essential_bars_are_infinitely_far():
    for distance in (bottleneck_distance, wasserstein_distance):
        assert distance([[0, INF]], NONE) == INF
        assert distance([[0, 1]], [[0, INF], [0, 1]]) == INF


# --- diagrams and tables of them


def diagrams() -> list[PersistenceDiagrams]:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(4):
        loops = bars_of("plane", rng)
        points = np.stack([np.zeros(9), rng.random(9)], axis=1)
        found.append(PersistenceDiagrams.from_ripser([np.append(points, [[0, INF]], axis=0), loops]))
    return found


def test_a_dimension_of_diagrams():
    a, b = diagrams()[:2]
    for dim in (0, 1):
        rows = [diagram.bars(dim, INF) for diagram in (a, b)]
        assert bottleneck_distance(a, b, dim) == bottleneck_distance(*rows) > 0
        assert wasserstein_distance(a, b, dim) == wasserstein_distance(*rows) > 0


@pytest.mark.parametrize("dim", [0, 1])
def test_a_table_of_distances(dim: int):
    layers = diagrams()
    bottleneck = distance_matrix(layers, dim)
    wasserstein = distance_matrix(layers, dim, kind="wasserstein", order=2, internal_p=2)
    for (i, a), (j, b) in itertools.product(enumerate(layers), repeat=2):
        assert bottleneck[i, j] == (bottleneck_distance(a, b, dim) if i != j else 0)
        expected = wasserstein_distance(a, b, dim, order=2, internal_p=2)
        assert wasserstein[i, j] == pytest.approx(expected, rel=1e-14)
    assert distance_matrix([], dim).shape == (0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: bottleneck_distance(a, a), "dim must say which dimension"),
        (lambda a: bottleneck_distance(a, a, 2), "dim must be at most max_dim = 1, got 2"),
        (lambda _: bottleneck_distance(NONE, NONE, 1), r"dim must be None for bars \[m, 2\]"),
        (lambda _: bottleneck_distance([[1, 0]], NONE), "must not die before its birth"),
        (lambda _: wasserstein_distance([[0, np.nan]], NONE), "must not die before its birth"),
        (lambda _: wasserstein_distance(NONE, NONE, order=0.5), "order must be at least 1 and finite"),
        (lambda _: wasserstein_distance(NONE, NONE, order=INF), "bottleneck_distance is the limit"),
        (lambda _: wasserstein_distance(NONE, NONE, order=math.nan), "order must be at least 1"),
        (
            lambda _: wasserstein_distance(NONE, NONE, internal_p=0.5),
            "internal_p must be at least 1, got 0.5",
        ),
        (lambda _: wasserstein_distance(NONE, NONE, internal_p=math.nan), "internal_p must be at least 1"),
        (lambda a: distance_matrix([a, a], 0, kind="sliced"), "one of bottleneck, wasserstein, got 'sliced'"),
        (lambda a: distance_matrix(a, 0), "a list of diagrams, got one PersistenceDiagrams"),
    ],
)
def test_distances_that_are_none(call: object, message: str):
    with pytest.raises(ValueError, match=message):
        call(diagrams()[0])


# --- without SciPy


@pytest.mark.parametrize("distance", [bottleneck_distance, wasserstein_distance])
def test_without_scipy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, distance: object):
    for name in ("scipy.optimize", "scipy.sparse"):
        monkeypatch.setitem(sys.modules, name, None)
    a, b = [[0, 1], [0.5, 3], [0.4, 2]], [[0, 1.5], [0.5, 2.5], [0.3, 2.7]]
    with pytest.raises(ImportError, match=r"need scipy \(pip install 'repgeom\[topology\]'\)"):
        distance(a, b)


def test_scipy_is_loaded_only_when_it_is_used():
    program = "import sys, repgeom.diagram_distances; assert 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
