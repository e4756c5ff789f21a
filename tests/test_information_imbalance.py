"""Information imbalance: reference numbers, the slow way, all pairs, subsets of coordinates, error bars."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from neighbor_reference import array, assert_matches, expected, flat_torus, neighbor_order
from repgeom import layer_pairs
from repgeom.coordinate_imbalance import coordinate_imbalance, coordinate_pairs, greedy_selection
from repgeom.information_imbalance import information_imbalance
from repgeom.neighbors import knn


def points(n: int = 120, d: int = 3, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((n, d))


def slow_imbalance(a: Any, b: Any, k: int) -> float:
    """From a to b, from full orders."""
    left, right = neighbor_order(a), neighbor_order(b)
    ranks = [list(right[i]).index(j) for i in range(len(left)) for j in left[i, 1 : k + 1]]
    return 2 * float(np.mean(ranks)) / len(left)


# Numbers of other programs


@pytest.mark.parametrize("k", [1, 5, 20])
def test_imbalance_of_dadapy(k: int):
    found = information_imbalance(array("in.nb.X"), array("in.nb.Y"), k)
    want = expected(f"nb.imb.k{k}")
    assert_matches(f"nb.imb.k{k}", [found.a_to_b, found.b_to_a], [want["X_to_Y"], want["Y_to_X"]])


def test_subsets_of_dadapy():
    """It looks at disjoint random subsets where n is above a limit; exact ranks need none."""
    x, y = array("in.nb.X"), array("in.nb.Y")
    groups = np.array_split(np.random.default_rng(42).choice(300, 300, replace=False), 3)
    found = [information_imbalance(x[rows], y[rows]) for rows in groups]
    for field, key in (("a_to_b", "X_to_Y"), ("b_to_a", "Y_to_X")):
        values = np.array([getattr(one, field) for one in found])
        want = expected("nb.imb.subsets")[key]
        assert_matches("nb.imb.subsets", [values.mean(), values.std(ddof=1) / np.sqrt(3)], want)


@pytest.mark.parametrize(("key", "p"), [("p1.0", 1), ("p2.0", 2), ("p3.0", 3), ("pinf", np.inf)])
def test_imbalance_of_tdhook(key: str, p: float):
    x, y = array("in.latent.Xa"), array("in.latent.Xb")
    found = information_imbalance(x, y, metric="minkowski", p=float(p))
    want = expected(f"latent.inf_imb.{key}")
    assert_matches(f"latent.inf_imb.{key}", [found.a_to_b, found.b_to_a], list(want.values()))


def test_a_space_with_itself():
    x = array("in.latent.Xa")
    found = information_imbalance(x, x)
    assert_matches("latent.inf_imb.self", [found.a_to_b, found.b_to_a], [2 / 80, 2 / 80])
    assert found.a_to_b == pytest.approx(2 / 80, rel=1e-14)
    assert information_imbalance(x, 3 * x, 7).a_to_b == pytest.approx(8 / 80, rel=1e-14)


def test_coordinates_of_dadapy():
    x = array("in.nb.X")
    found = coordinate_imbalance(x, [[0], [0, 1], [0, 1, 2], [7, 8]])
    assert_matches("nb.imb.full_selected", np.stack([found.from_target, found.to_target]))
    found = coordinate_imbalance(x)
    assert_matches("nb.imb.full_all", np.stack([found.from_target, found.to_target]))
    found = coordinate_imbalance(x, list(itertools.combinations(range(9), 2)))
    assert_matches("nb.imb.dplets.coords", found.coordinates)
    assert_matches("nb.imb.dplets.imb", np.stack([found.from_target, found.to_target]))


def test_greedy_selection_of_dadapy():
    want = expected("nb.imb.greedy")
    found = greedy_selection(array("in.nb.X"), 3, n_best=5)
    assert [list(subset) for subset in found.best.coordinates] == want["tuples"]
    # Its numbers are rounded to three decimals.
    ours = np.stack([found.best.from_target, found.best.to_target], axis=1)
    np.testing.assert_array_equal(ours.round(3), want["imb"])
    assert not (ours == ours.round(3)).any()


# Two spaces


@pytest.mark.parametrize("k", [1, 4, 119])
def test_the_slow_way(k: int):
    a, b = points(), points()[:, :2] + 0.3 * points(seed=1)[:, :2]
    found = information_imbalance(a, b, k)
    assert found.a_to_b == pytest.approx(slow_imbalance(a, b, k), rel=1e-13)
    assert found.b_to_a == pytest.approx(slow_imbalance(b, a, k), rel=1e-13)
    assert (found.n, found.k) == (120, k)


def test_ties_are_ranked_by_index():
    lattice = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), axis=-1).reshape(-1, 2)
    copies = np.repeat(points(20), 3, axis=0)
    for a, b in ((lattice, points(25)), (copies, points(60)), (np.ones((10, 2)), points(10))):
        found = information_imbalance(a, b, 2)
        assert found.a_to_b == pytest.approx(slow_imbalance(a, b, 2), rel=1e-13)
        assert found.b_to_a == pytest.approx(slow_imbalance(b, a, 2), rel=1e-13)


def test_the_half_knows_less_than_the_whole():
    x = points(400, 2)
    found = information_imbalance(x, x[:, :1])
    assert found.a_to_b < 0.2
    assert found.b_to_a > 0.4
    other = information_imbalance(x, points(400, 2, 1))
    assert abs(other.a_to_b - 1) < 4 * other.standard_error_a_to_b
    assert abs(other.b_to_a - 1) < 4 * other.standard_error_b_to_a


def test_unrelated_spaces_are_at_one():
    rng = np.random.default_rng(2)
    z = []
    for _ in range(50):
        found = information_imbalance(rng.standard_normal((150, 3)), rng.standard_normal((150, 3)), 3)
        z += [
            (found.a_to_b - 1) / found.standard_error_a_to_b,
            (found.b_to_a - 1) / found.standard_error_b_to_a,
        ]
    assert abs(np.mean(z)) < 4 / np.sqrt(50)


def test_error_bars_cover():
    rng = np.random.default_rng(3)
    found = []
    for _ in range(200):
        x = flat_torus(250, 3, rng)
        found.append(information_imbalance(x, x + 0.3 * rng.standard_normal(x.shape)))
    for direction in ("a_to_b", "b_to_a"):
        values = np.array([getattr(one, direction) for one in found])
        errors = np.array([getattr(one, f"standard_error_{direction}") for one in found])
        assert 0.75 < errors.mean() / values.std(ddof=1) < 1.6, direction
        assert np.mean(np.abs(values - values.mean()) < 2 * errors) > 0.85, direction


# Many layers


def test_all_pairs_with_one_ranking_for_each_layer(monkeypatch: pytest.MonkeyPatch):
    layers = {"a": points(), "b": points() + 0.2 * points(seed=1), "c": points(seed=2, d=5)}
    calls: list[tuple[int, ...]] = []
    ranks = layer_pairs.neighbor_ranks
    monkeypatch.setattr(
        layer_pairs, "neighbor_ranks", lambda x, at, **rest: calls.append(at.shape) or ranks(x, at, **rest)
    )
    found = information_imbalance(layers, k=3)
    assert calls == [(120, 9)] * 3
    assert (found.kind, found.names, found.n, found.k) == ("information_imbalance", ("a", "b", "c"), 120, 3)
    for a, b in itertools.product(layers, layers):
        assert found.between(a, b) == pytest.approx(slow_imbalance(layers[a], layers[b], 3), rel=1e-13)
    pair = information_imbalance(layers["a"], layers["c"], 3)
    assert found.standard_errors[0, 2] == pair.standard_error_a_to_b
    assert found.standard_errors[2, 0] == pair.standard_error_b_to_a
    listed = information_imbalance(list(layers.values()), k=3)
    np.testing.assert_array_equal(listed.values, found.values)


def test_neighbors_that_are_known_are_not_sought_again(monkeypatch: pytest.MonkeyPatch):
    layers = {"a": points(), "b": points(seed=1), "c": points(seed=2)}
    known = {name: knn(layer, 9) for name, layer in layers.items()}
    want, pair = information_imbalance(layers, k=2), information_imbalance(layers["a"], layers["b"], 2)
    monkeypatch.setattr(layer_pairs, "knn", None)
    np.testing.assert_array_equal(information_imbalance(layers, k=2, neighbors=known).values, want.values)
    assert information_imbalance(layers["a"], layers["b"], 2, neighbors=(known["a"], known["b"])) == pair


# Coordinates


def test_a_target_space():
    x = points(150, 4)
    target = x[:, 1::2] * [1, 1.5] + 0.01 * points(150, 2, 1)
    found = coordinate_imbalance(x, [[0, 2], [1, 3]], target=target, k=2)
    columns = [np.ascontiguousarray(x[:, subset]) for subset in found.coordinates]
    pairs = [information_imbalance(target, chosen, 2) for chosen in columns]
    assert found.from_target.tolist() == [pair.a_to_b for pair in pairs]
    assert found.to_target.tolist() == [pair.b_to_a for pair in pairs]
    assert found.standard_errors_to_target.tolist() == [pair.standard_error_b_to_a for pair in pairs]
    for symmetric in (True, False):
        chosen = greedy_selection(x, 2, target=target, k=2, symmetric=symmetric)
        assert chosen.best.coordinates[-1] == (1, 3)
        assert len(chosen.best) == len(chosen.tried) == 2
        last = chosen.tried[-1].criterion(symmetric)
        assert last.min() == chosen.best.criterion(symmetric)[-1]


def test_the_beam_limits_what_is_tried():
    x = points(80, 5)
    narrow, wide = greedy_selection(x, 3, n_best=1), greedy_selection(x, 3, n_best=100)
    assert [len(tried) for tried in narrow.tried] == [5, 4, 3]
    assert [len(tried) for tried in wide.tried] == [5, 10, 10]
    best = coordinate_imbalance(x, list(itertools.combinations(range(5), 3)))
    assert wide.best.criterion(True)[-1] == best.criterion(True).min()


def test_every_coordinate_with_every_other():
    x = points(100, 4)
    found = coordinate_pairs(x, k=2)
    assert found.names == (0, 1, 2, 3)
    np.testing.assert_allclose(np.diag(found.values), 3 / 100)
    assert found.between(1, 3) == information_imbalance(x[:, [1]], x[:, [3]], 2).a_to_b
    np.testing.assert_array_equal(coordinate_pairs(torch.from_numpy(x), k=2).values, found.values)


# Refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: information_imbalance(points(), points(50)), "layers must hold the same points"),
        (lambda: information_imbalance(points(), points(), 0), "k must be an integer of at least 1, got 0"),
        (lambda: information_imbalance(points(), points(), 120), "k must be at most n - 1 = 119, got 120"),
        (lambda: information_imbalance(points()), "b may be left out"),
        (lambda: information_imbalance([points()], points()), "leave b out for all pairs"),
        (lambda: information_imbalance(knn(points(), 5), points()), "ranks points and needs them"),
        (
            lambda: information_imbalance([points()] * 2, neighbors=[knn(points(), 5)]),
            r"neighbors must be of the 120 points of \[0, 1\], got \[0\]",
        ),
        (
            lambda: information_imbalance(points(), points(), neighbors=[knn(points(60), 5)] * 2),
            "neighbors must be of the 120 points",
        ),
        (
            lambda: information_imbalance(points(), points(), neighbors=[knn(points(), 5)] * 3),
            "neighbors must be of two layers",
        ),
        (lambda: information_imbalance(points(), points(), p=3.0), "p belongs to metric='minkowski'"),
        (lambda: coordinate_imbalance(points(), [[3]]), r"different columns of 3, got \(3,\)"),
        (lambda: coordinate_imbalance(points(), [[-1]]), "different columns of 3"),
        (lambda: coordinate_imbalance(points(), [[1, 1]]), "different columns of 3"),
        (lambda: coordinate_imbalance(points(), [[]]), "different columns of 3"),
        (lambda: coordinate_imbalance(points(), []), "at least one subset"),
        (lambda: coordinate_imbalance(points(), target=points(9)), "layers must hold the same points"),
        (lambda: greedy_selection(points(), 4), "n_coordinates must be at most 3, got 4"),
        (lambda: greedy_selection(points(), 0), "n_coordinates must be an integer of at least 1"),
        (lambda: greedy_selection(points(), 1, n_best=0), "n_best must be an integer of at least 1"),
    ],
)
def test_refusals(call: Any, message: str):
    with pytest.raises(ValueError, match=message):
        call()


def test_values_that_are_not_finite_are_named_by_row():
    x = points()
    x[17, 1] = np.nan
    with pytest.raises(ValueError, match="17"):
        information_imbalance(points(), x)
