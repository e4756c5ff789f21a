"""PersistenceDiagrams: bars of ripser.py in and out, summaries of todacomm, and what essential bars do."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from repgeom import vectorizations
from repgeom.diagrams import PersistenceDiagrams

DATA = Path(__file__).parent / "data"
ENTRIES = {
    entry["key"]: entry
    for entry in json.loads((DATA / "homology.json").read_text(encoding="utf-8"))["entries"]
}
CLOUDS = ["circle", "dup", "two_clusters", "octahedron", "grid6"]
INF = math.inf


def ripser_bars(cloud: str) -> list[np.ndarray]:
    with np.load(DATA / "homology.npz", allow_pickle=False) as archive:
        return [np.asarray(archive[f"out.ripser.{cloud}.H{dim}"]) for dim in range(3)]


def float32(rows: list) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 2)


def births(values: list) -> np.ndarray:
    return np.array(values, np.float32)


def example(**known: object) -> PersistenceDiagrams:
    """Two bars and two essential classes in dimension 0, two and one in dimension 1, none in dimension 2."""
    finite = (float32([[0, 1], [0, 2]]), float32([[0.5, 1.5], [1, 1.25]]), float32([]))
    return PersistenceDiagrams(finite, (births([0, 0]), births([1.5]), births([])), **known)


# --- bars


def test_bars_by_dimension():
    diagrams = example()
    assert diagrams.max_dim == 2
    assert len(diagrams) == 3
    np.testing.assert_array_equal(diagrams[1], [[0.5, 1.5], [1, 1.25]])
    assert [len(bars) for bars in diagrams] == [2, 2, 0]
    np.testing.assert_array_equal(diagrams.infinite[1], [1.5])


@pytest.mark.parametrize(
    ("dim", "message"),
    [(3, "dim must be at most max_dim = 2, got 3"), (-1, "dim must be an integer of at least 0, got -1")],
)
def test_a_dimension_that_is_none(dim: int, message: str):
    with pytest.raises(ValueError, match=message):
        example()[dim]
    with pytest.raises(ValueError, match=message):
        example().betti_curve(dim, [0.0])


def test_what_essential_bars_do():
    diagrams = example()
    np.testing.assert_array_equal(diagrams.bars(1), diagrams[1])
    np.testing.assert_array_equal(diagrams.bars(1, 4), [[0.5, 1.5], [1, 1.25], [1.5, 4]])
    np.testing.assert_array_equal(diagrams.bars(1, np.float32(4)), diagrams.bars(1, 4))
    np.testing.assert_array_equal(diagrams.bars(1, INF), [[0.5, 1.5], [1, 1.25], [1.5, INF]])
    np.testing.assert_array_equal(diagrams.bars(1, 1.5), diagrams[1])  # a bar of length 0 is none
    assert diagrams.bars(1, 4).dtype == np.float64


@pytest.mark.parametrize(
    ("infinite", "message"),
    [
        (1.25, "essential bars must not die before their births, up to 1.5, got 1.25"),
        (math.nan, "infinite must be 'leave' or a death, got nan"),
        ("drop", "infinite must be 'leave' or a death, got 'drop'"),
        (None, "infinite must be 'leave' or a death, got None"),
    ],
)
def test_a_death_that_is_none(infinite: object, message: str):
    with pytest.raises(ValueError, match=message):
        example().total_persistence(1, infinite)


def test_it_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        example().n = 3


def test_repr_is_short():
    assert repr(example()) == "PersistenceDiagrams(H0: 2 + 2 infinite, H1: 2 + 1 infinite, H2: 0)"
    known = example(n=4, field=3, metric="cosine", threshold=1.23456789, enclosing=True, cover_radius=0.5)
    assert repr(known) == (
        "PersistenceDiagrams(H0: 2 + 2 infinite, H1: 2 + 1 infinite, H2: 0; n=4, field=3, metric='cosine', "
        "threshold=1.23457 (enclosing radius), cover_radius=0.5)"
    )
    assert "threshold=inf)" in repr(example(threshold=INF, enclosing=False))


@pytest.mark.parametrize(
    ("finite", "infinite", "message"),
    [
        ((), (), "the same dimensions, at least one, got 0 and 0"),
        ((float32([]),), (), "the same dimensions, at least one, got 1 and 0"),
        ((np.zeros((0, 2)),), (births([]),), r"must be float32 \[m, 2\].*got float64 \(0, 2\)"),
        ((float32([]),), (np.zeros(1),), r"births of infinite ones float32 \[k\], got .* float64 \(1,\)"),
        ((float32([[1, 1]]),), (births([]),), r"finite with birth < death, got \[1.0, 1.0\]"),
        ((float32([[0, np.nan]]),), (births([]),), "finite with birth < death"),
        ((float32([[0, np.inf]]),), (births([]),), "finite with birth < death"),
        ((float32([]),), (births([np.nan]),), "births of dimension 0 must be finite, got nan"),
        ((float32([[1, 2], [0, 3]]),), (births([]),), r"ascend by \(birth, death\).*got \[\[0.0, 3.0"),
        ((float32([[0, 3], [0, 2]]),), (births([]),), "must ascend"),
        ((float32([]),), (births([1, 0]),), r"must ascend .*, got \[1.0, 0.0\]"),
    ],
)
def test_bars_that_are_none(finite: tuple, infinite: tuple, message: str):
    with pytest.raises(ValueError, match=message):
        PersistenceDiagrams(finite, infinite)


def test_simplices_and_cocycles_belong_to_bars():
    def simplices(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.int64)

    right = {
        "birth_simplices": (simplices(2, 1), simplices(2, 2), simplices(0, 3)),
        "death_simplices": (simplices(2, 2), simplices(2, 3), simplices(0, 4)),
        "infinite_simplices": (simplices(2, 1), simplices(1, 2), simplices(0, 3)),
        "cocycles": tuple([(simplices(1, dim + 1), simplices(1))] * m for dim, m in enumerate((4, 3, 0))),
    }
    assert example(**right).birth_simplices is right["birth_simplices"]
    for name in right:
        with pytest.raises(ValueError, match=name):
            example(**{**right, name: right[name][:2]})
        with pytest.raises(ValueError, match=name):
            example(**{**right, name: (right[name][0], right[name][0], right[name][2])})


# --- summaries


@pytest.mark.parametrize("cloud", CLOUDS)
def test_summaries_of_todacomm(cloud: str):
    entry = ENTRIES[f"topo.summarize.{cloud}"]
    found = PersistenceDiagrams.from_ripser(ripser_bars(cloud)).summary(compat="todacomm")
    assert found.keys() == entry["value"].keys()
    for key, value in entry["value"].items():
        assert found[key] == pytest.approx(value, rel=1e-14, abs=0), key


def test_the_empty_summary_of_todacomm():
    empty = PersistenceDiagrams.from_ripser([np.zeros((0, 2))] * 2)
    assert empty.summary(compat="todacomm") == ENTRIES["topo.summarize.empty"]["value"]


def test_the_constant_of_todacomm_counts_from_the_largest_birth():
    diagrams = PersistenceDiagrams((float32([[2, 3]]),), (births([0.5]),))
    assert diagrams.summary(compat="todacomm") == {
        "H0_count": 2.0,
        "H0_total_persistence": 3.5,
        "H0_max_lifetime": 2.5,
    }


def test_summary_leaves_essential_bars_unless_they_are_given_a_death():
    left = example().summary()
    assert list(left)[:5] == [
        "H0_count",
        "H0_total_persistence",
        "H0_max_lifetime",
        "H0_entropy",
        "H0_infinite",
    ]
    assert len(left) == 15
    assert (left["H0_count"], left["H0_total_persistence"], left["H0_max_lifetime"]) == (2, 3, 2)
    assert (left["H0_infinite"], left["H1_infinite"], left["H2_infinite"]) == (2, 1, 0)
    assert math.isnan(left["H2_entropy"])
    closed = example().summary(5)
    assert (closed["H0_count"], closed["H0_total_persistence"], closed["H0_max_lifetime"]) == (4, 13, 5)
    assert closed["H1_total_persistence"] == 1 + 0.25 + 3.5
    assert closed["H1_infinite"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compat": "ripser"}, "compat must be None or 'todacomm', got 'ripser'"),
        ({"compat": "todacomm", "infinite": 2.0}, "has its own death of essential bars"),
        ({"infinite": INF}, "must have finite deaths"),
    ],
)
def test_a_summary_that_is_none(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        example().summary(**settings)


def test_methods_are_the_functions_of_the_bars():
    diagrams, grid = example(), np.linspace(0, 4, 9)
    window = {"birth_range": (0.0, 2.0), "persistence_range": (0.0, 4.0), "sigma": 0.5, "pixels": (3, 4)}
    for infinite in ("leave", 4.0):
        bars = diagrams.bars(1, infinite)
        np.testing.assert_array_equal(diagrams.lifetimes(1, infinite), bars[:, 1] - bars[:, 0])
        assert diagrams.count(1, infinite) == len(bars)
        assert diagrams.total_persistence(1, infinite, power=2) == vectorizations.total_persistence(bars, 2)
        assert diagrams.maximum_lifetime(1, infinite) == vectorizations.maximum_lifetime(bars)
        for normalized in (False, True):
            assert diagrams.entropy(1, infinite, normalized=normalized) == (
                vectorizations.persistence_entropy(bars, normalized=normalized)
            )
        np.testing.assert_array_equal(
            diagrams.landscape(1, grid, 2, infinite), vectorizations.persistence_landscape(bars, grid, 2)
        )
        np.testing.assert_array_equal(
            diagrams.image(1, infinite, **window, weight=2),
            vectorizations.persistence_image(bars, **window, weight=2),
        )


# --- Betti numbers


def test_betti_numbers_count_essential_classes():
    diagrams = example()
    np.testing.assert_array_equal(diagrams.betti_curve(0, [0, 1, 2, 100]), [4, 3, 2, 2])
    np.testing.assert_array_equal(diagrams.betti_numbers(1.0), [3, 2, 0])
    np.testing.assert_array_equal(diagrams.betti_numbers(1.5), [3, 1, 0])
    assert diagrams.betti_numbers(0).dtype == np.int64


def test_nothing_is_known_above_a_threshold():
    diagrams = example(threshold=1.5, enclosing=False)
    np.testing.assert_array_equal(diagrams.betti_numbers(1.5), [3, 1, 0])
    with pytest.raises(
        ValueError, match=r"at most the threshold 1\.5, above which nothing is known, got 1\.75"
    ):
        diagrams.betti_curve(0, [0, 1.75, 1.6])
    beyond = example(threshold=1.5, enclosing=True).betti_numbers(1.75)
    np.testing.assert_array_equal(beyond, example(threshold=INF, enclosing=False).betti_numbers(1.75))


def test_betti_numbers_of_a_circle():
    circle = PersistenceDiagrams.from_ripser(ripser_bars("circle"))
    np.testing.assert_array_equal(circle.betti_numbers(0), [36, 0, 0])
    np.testing.assert_array_equal(circle.betti_numbers(1.0), [1, 1, 0])
    np.testing.assert_array_equal(circle.betti_numbers(100), [1, 0, 0])


# --- other programs


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ripser_and_back(cloud: str):
    bars = ripser_bars(cloud)
    for given in (bars, {"dgms": bars, "num_edges": 3}):
        found = PersistenceDiagrams.from_ripser(given).to_ripser()
        assert list(found) == ["dgms"]
        for back, rows in zip(found["dgms"], bars, strict=True):
            order = np.lexsort((rows[:, 1], rows[:, 0], np.isinf(rows[:, 1])))
            np.testing.assert_array_equal(back, rows[order])
            assert back.dtype == np.float64


def test_what_other_programs_do_not_say_is_unknown():
    diagrams = PersistenceDiagrams.from_ripser(ripser_bars("circle"))
    assert diagrams.birth_simplices is diagrams.n is diagrams.threshold is diagrams.error_bound is None
    assert repr(diagrams) == "PersistenceDiagrams(H0: 35 + 1 infinite, H1: 1, H2: 1)"


def test_cocycles_in_the_layout_of_ripser():
    edges = np.array([[0, 1], [2, 3]])
    diagrams = PersistenceDiagrams(
        (float32([]), float32([[1, 2]])),
        (births([0]), births([])),
        cocycles=([(np.array([[0], [1]]), np.array([1, 1]))], [(edges, np.array([1, 2]))]),
    )
    found = diagrams.to_ripser()["cocycles"]
    assert found[0] == []
    np.testing.assert_array_equal(found[1][0], [[0, 1, 1], [2, 3, 2]])


@pytest.mark.parametrize("convert", ["ripser", "gudhi", "giotto"])
def test_diagrams_come_back_as_they_went(convert: str):
    diagrams = example()
    there = {
        "ripser": diagrams.to_ripser(),
        "gudhi": diagrams.to_gudhi(),
        "giotto": diagrams.to_giotto(infinite=INF),
    }[convert]
    back = getattr(PersistenceDiagrams, f"from_{convert}")(
        there, **({"max_dim": 2} if convert == "gudhi" else {})
    )
    assert back.max_dim == 2
    for ours, theirs in ((diagrams.finite, back.finite), (diagrams.infinite, back.infinite)):
        for left, right in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(left, right)
            assert right.dtype == np.float32


def test_the_layout_of_gudhi():
    pairs = example().to_gudhi()
    assert pairs[:3] == [(0, (0.0, 1.0)), (0, (0.0, 2.0)), (0, (0.0, INF))]
    assert pairs[-1] == (1, (1.5, INF))
    assert all(type(value) is float for _, bar in pairs for value in bar)
    assert PersistenceDiagrams.from_gudhi(reversed(pairs)).to_gudhi() == pairs
    assert PersistenceDiagrams.from_gudhi([]).max_dim == 0


def test_the_layout_of_giotto():
    found = example().to_giotto()
    assert found.shape == (1, 5, 3)
    np.testing.assert_array_equal(found[0, -1], [0, 0, 2])  # a dimension without bars
    np.testing.assert_array_equal(found[0, 2], [0.5, 1.5, 1])
    np.testing.assert_array_equal(example().to_giotto(infinite=3)[0, 2:4], [[0, 3, 0], [0, 3, 0]])
    back = PersistenceDiagrams.from_giotto(found)
    assert [len(bars) for bars in back] == [2, 2, 0]
    np.testing.assert_array_equal(PersistenceDiagrams.from_giotto(found[0])[1], example()[1])


def test_bars_of_other_programs_are_rounded_and_sorted():
    given = [[[0.1, 0.2], [0.0, 1.0], [0.5, 0.5], [0.3, 0.3 + 1e-12], [1, INF], [0, INF]]]
    diagrams = PersistenceDiagrams.from_ripser(given)
    np.testing.assert_array_equal(diagrams[0], float32([[0, 1], [0.1, 0.2]]))
    np.testing.assert_array_equal(diagrams.infinite[0], [0, 1])


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (lambda: PersistenceDiagrams.from_ripser([]), "at least one, got 0"),
        (lambda: PersistenceDiagrams.from_ripser([[[0, 1e39]]]), r"must fit float32, up to 3.40282e\+38"),
        (lambda: PersistenceDiagrams.from_ripser([[[1, 0]]]), "must not die before its birth"),
        (lambda: PersistenceDiagrams.from_ripser([[[0, np.nan]]]), "must not die before its birth"),
        (lambda: PersistenceDiagrams.from_gudhi([(-1, (0, 1))]), r"integers of at least 0, got \[-1.0\]"),
        (lambda: PersistenceDiagrams.from_gudhi([(2, (0, 1))], max_dim=1), "max_dim = 1, got a bar of 2"),
        (lambda: PersistenceDiagrams.from_giotto([[0, 1, 0.5]]), r"integers of at least 0, got \[0.5\]"),
        (lambda: PersistenceDiagrams.from_giotto([[0, 1, np.nan]]), "integers of at least 0"),
        (lambda: PersistenceDiagrams.from_giotto(np.zeros((2, 3, 3))), r"got shape \(2, 3, 3\)"),
    ],
)
def test_diagrams_of_other_programs_that_are_none(convert: object, message: str):
    with pytest.raises(ValueError, match=message):
        convert()
