"""Overlaps of neighbours with neighbours and with labels: reference numbers, the slow way, error bars."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np
import pytest
import torch

from neighbor_reference import array, assert_matches, flat_torus, neighbor_order
from repgeom.neighbor_overlap import label_overlap, mutual_knn, neighbor_overlap
from repgeom.neighbors import knn


def points(n: int = 120, d: int = 3, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((n, d))


def slow_overlap(a: Any, b: Any, k: int) -> np.ndarray[Any, Any]:
    left, right = (neighbor_order(x)[:, 1 : k + 1] for x in (a, b))
    return np.array([len(set(one) & set(other)) / k for one, other in zip(left, right, strict=True)])


# Numbers of DADApy


@pytest.mark.parametrize("k", [1, 10, 30])
def test_overlaps_of_dadapy(k: int):
    x, y, labels = array("in.nb.X"), array("in.nb.Y"), array("in.nb.labels")
    assert_matches(f"nb.data.k{k}", neighbor_overlap(x, y, k).value)
    assert_matches(f"nb.label.k{k}", label_overlap(x, labels, k).value)
    assert_matches(f"nb.label.k{k}.unweighted", label_overlap(x, labels, k, weighted=False).value)


def test_overlaps_of_dadapy_point_by_point():
    x, y, labels = array("in.nb.X"), array("in.nb.Y"), array("in.nb.labels")
    assert_matches("nb.data.k30.avg_false", neighbor_overlap(x, y).per_point)
    assert_matches("nb.label.k10.avg_false", label_overlap(x, labels, 10, average=False))
    np.testing.assert_array_equal(
        label_overlap(x, labels, 10).per_point, label_overlap(x, labels, 10, average=False)
    )
    assert_matches("nb.label.coords", label_overlap(x[:, 0:4:2].copy(), labels, 10).value)


@pytest.mark.parametrize("fraction", [0.3, 0.05])
def test_overlap_with_a_fraction_of_each_class(fraction: float):
    found = label_overlap(array("in.nb.X"), array("in.nb.labels"), class_fraction=fraction)
    assert_matches(f"nb.label.class_fraction.{fraction}", found.value)


def test_neighbors_of_dadapy():
    found = knn(array("in.nb.X"), 8)
    assert_matches("nb.knn.dist", np.c_[np.zeros(300), found.distances])
    assert_matches("nb.knn.idx", np.c_[np.arange(300), found.indices])


# Neighbours with neighbours


@pytest.mark.parametrize("k", [1, 7, 119])
def test_the_slow_way(k: int):
    a, b = points(), points(seed=1)[:, :2] + points()[:, :2]
    found = neighbor_overlap(a, b, k)
    np.testing.assert_array_equal(found.per_point, slow_overlap(a, b, k))
    assert found.value == pytest.approx(slow_overlap(a, b, k).mean(), rel=1e-14)
    assert (found.n, found.k, found.chance) == (120, k, k / 119)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch):
    a, b = points(), points(seed=1)
    want = neighbor_overlap(a, b, 9).per_point
    monkeypatch.setattr(sys.modules["repgeom.neighbor_overlap"], "_TABLE", 7 * 120)
    np.testing.assert_array_equal(neighbor_overlap(a, b, 9).per_point, want)


def test_neighbors_and_tensors_are_as_good_as_points():
    a, b = points(), points(seed=1)
    want = neighbor_overlap(a, b, 5)
    for left, right in ((knn(a, 5), b), (a, knn(b, 20)), (torch.from_numpy(a), torch.from_numpy(b))):
        found = neighbor_overlap(left, right, 5)
        assert (found.value, found.standard_error) == (want.value, want.standard_error)


def test_all_pairs_of_layers():
    layers = {"a": points(), "b": points() + 0.2 * points(seed=1), "c": points(seed=2, d=5)}
    found = neighbor_overlap(layers, k=10)
    assert found.names == ("a", "b", "c")
    assert (found.kind, found.n, found.k, found.chance) == ("neighbor_overlap", 120, 10, 10 / 119)
    for (i, (a, left)), (j, (b, right)) in itertools.permutations(enumerate(layers.items()), 2):
        pair = neighbor_overlap(left, right, 10)
        assert found.between(a, b) == pytest.approx(pair.value, rel=1e-14)
        assert found.standard_errors[i, j] == pytest.approx(pair.standard_error, rel=1e-12)
    np.testing.assert_array_equal(np.diag(found.values), 1)
    np.testing.assert_array_equal(np.diag(found.standard_errors), 0)
    listed = neighbor_overlap([knn(layer, 10) for layer in layers.values()], k=10)
    assert listed.names == (0, 1, 2)
    np.testing.assert_array_equal(listed.values, found.values)


def test_mutual_knn_looks_at_directions():
    a, b = points() * np.geomspace(0.01, 100, 120)[:, None], points() + 0.5 * points(seed=1)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b)]
    found = mutual_knn(a, b)
    assert found.k == 10
    assert found.value == pytest.approx(slow_overlap(*unit, 10).mean(), rel=1e-14)
    assert mutual_knn([a, b]).between(0, 1) == found.value


def test_unrelated_representations_are_at_chance():
    rng = np.random.default_rng(3)
    z = []
    for _ in range(50):
        found = neighbor_overlap(rng.standard_normal((200, 5)), rng.standard_normal((200, 5)), 10)
        z.append((found.value - found.chance) / found.standard_error)
    assert abs(np.mean(z)) < 4 / np.sqrt(50)


def test_overlap_error_bars_cover():
    rng = np.random.default_rng(4)
    found = []
    for _ in range(200):
        x = flat_torus(250, 4, rng)
        found.append(neighbor_overlap(x, x + 0.3 * rng.standard_normal(x.shape), 10))
    values, errors = np.array([(one.value, one.standard_error) for one in found]).T
    rows = np.mean([one.per_point.std(ddof=1) / np.sqrt(one.n) for one in found])
    assert 0.75 < errors.mean() / values.std(ddof=1) < 1.6
    assert np.mean(np.abs(values - values.mean()) < 2 * errors) > 0.85
    assert rows / values.std(ddof=1) < 0.8


# Labels


def test_labels_the_slow_way():
    x = points()
    labels = np.array(["one", "two", "two", "three"])[np.random.default_rng(5).integers(0, 4, 120)]
    order = neighbor_order(x)[:, 1:9]
    shares = (labels[order] == labels[:, None]).mean(axis=1)
    found = label_overlap(x, labels, 8)
    classes = [shares[labels == label].mean() for label in np.unique(labels)]
    assert found.value == pytest.approx(np.mean(classes), rel=1e-13)
    plain = label_overlap(x, labels, 8, weighted=False)
    assert plain.value == pytest.approx(shares.mean(), rel=1e-13)
    sizes = np.array([(labels == label).sum() for label in labels])
    assert plain.chance == pytest.approx(np.mean((sizes - 1) / 119), rel=1e-13)
    assert label_overlap(x, list(labels), 8).value == found.value
    assert label_overlap(knn(x, 20), labels, 8).value == found.value
    whole = torch.from_numpy(np.unique(labels, return_inverse=True)[1])
    assert label_overlap(torch.from_numpy(x), whole, 8).value == found.value


def test_labels_at_random_are_at_chance():
    rng = np.random.default_rng(6)
    z = {True: [], False: []}
    for _ in range(50):
        labels = rng.choice(3, 200, p=[0.7, 0.2, 0.1])
        for weighted, seen in z.items():
            found = label_overlap(rng.standard_normal((200, 3)), labels, 10, weighted=weighted)
            seen.append((found.value - found.chance) / found.standard_error)
    for seen in z.values():
        assert abs(np.mean(seen)) < 4 / np.sqrt(50)


def test_separate_classes_overlap_fully():
    x = points() + 100 * (np.arange(120) % 2)[:, None]
    found = label_overlap(x, np.arange(120) % 2, 30)
    assert found.value == pytest.approx(1, rel=1e-14)
    assert found.standard_error < 1e-14


def test_small_classes_have_one_neighbour():
    labels = np.r_[np.zeros(100, int), np.ones(20, int)]
    found = label_overlap(points(), labels, class_fraction=0.04)
    assert found.k == 4
    assert found.warnings == ("1 classes are too small for class_fraction: 1 neighbour is used",)


def test_labels_of_layers():
    layers = {"a": points(), "b": points(seed=1)}
    labels = np.arange(120) % 3
    found = label_overlap(layers, labels, 5)
    assert {name: one.value for name, one in found.items()} == {
        name: label_overlap(layer, labels, 5).value for name, layer in layers.items()
    }
    stacked = label_overlap(np.stack(list(layers.values())), labels, 5)
    assert stacked.value.tolist() == [one.value for one in found.values()]


# Refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: neighbor_overlap(points(), points(50)), "layers must hold the same points, got n = .*50"),
        (lambda: neighbor_overlap(points(), points(), 0), "k must be an integer of at least 1, got 0"),
        (lambda: neighbor_overlap(points(), points(), -3), "k must be an integer of at least 1, got -3"),
        (lambda: neighbor_overlap(points(), points(), 120), "k must be at most n - 1 = 119, got 120"),
        (lambda: neighbor_overlap(knn(points(), 5), points(), 6), "k must be at most the 5 neighbours given"),
        (lambda: neighbor_overlap(points()), "b may be left out when a is a dict or list of layers"),
        (lambda: neighbor_overlap([points()] * 2, points()), "leave b out for all pairs"),
        (lambda: neighbor_overlap({}), "at least one layer"),
        (lambda: neighbor_overlap(np.zeros(5), np.zeros(5), 1), r"points must be an array \[n, d\]"),
        (lambda: neighbor_overlap(points(1), points(1), 1), "at least 2 points, got 1"),
        (lambda: neighbor_overlap(points(), points(), metric="taxi"), "metric"),
        (
            lambda: neighbor_overlap(knn(points(), 5, exclude_self=False), points(), 5),
            "of points among themselves, without self",
        ),
        (lambda: label_overlap(points(), [1, 2, 3]), "labels must name every one of the 120 points, got 3"),
        (
            lambda: label_overlap(points(), np.zeros((120, 2))),
            r"one label for each point, got shape \(120, 2\)",
        ),
        (lambda: label_overlap(points(), []), "one label for each point"),
        (lambda: label_overlap(points(), [float("nan")] * 120), "labels must not be NaN, got NaN at index 0"),
        (
            lambda: label_overlap(points(), np.zeros(120), class_fraction=0),
            r"class_fraction must be in \(0, 1\]",
        ),
    ],
)
def test_refusals(call: Any, message: str):
    with pytest.raises(ValueError, match=message):
        call()


def test_values_that_are_not_finite_are_named_by_row():
    x = points()
    x[17, 1] = np.nan
    for call in (lambda: neighbor_overlap(points(), x), lambda: label_overlap(x, np.zeros(120))):
        with pytest.raises(ValueError, match="17"):
            call()


@pytest.mark.parametrize("k", [2.5, "5", 0, True])
def test_k_must_be_a_number_of_neighbours(k):
    with pytest.raises(ValueError, match="k must be an integer of at least 1"):
        label_overlap(points(), np.zeros(120, int), k=k)
