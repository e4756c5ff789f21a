"""TwoNN, decimation, local and maximum-likelihood dimensions: reference numbers, theory, policies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from neighbor_reference import (
    array,
    assert_matches,
    distances,
    expected,
    flat_torus,
    manifolds,
)
from repgeom.dimension import (
    gride,
    local_dimension,
    mle_dimension,
    select_scale,
    two_nn,
    two_nn_points,
    two_nn_scaling,
)
from repgeom.local_dimension import auto_k
from repgeom.neighborhoods import Neighborhoods, Search
from repgeom.neighbors import knn
from repgeom.two_nn import METHODS, estimate_of


def points(n: int = 200, d: int = 3, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((n, d))


# Numbers of other programs


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("nb.2nn.base", {}),
        ("nb.2nn.base98", {"discard": 0.02}),
        ("nb.2nn.base50", {"discard": 0.5}),
        ("nb.2nn.ml", {"method": "mle"}),
        ("nb.2nn.frac1", {"method": "mle"}),
    ],
)
def test_two_nn_of_dadapy(key: str, options: dict[str, Any]):
    found = two_nn(array("in.nb.X"), **options)
    value, _, scale = expected(key)
    assert_matches(key, [found.value, found.scale], [value, scale])
    assert found.standard_error >= found.independent_error > 0


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("nb.skdim.twonn", {}),
        ("nb.skdim.twonn02", {"discard": 0.02}),
        ("nb.skdim.twonn_mle", {"method": "censored"}),
        ("nb.skdim.twonn_mle0", {"method": "mle"}),
    ],
)
def test_two_nn_of_scikit_dimension(key: str, options: dict[str, Any]):
    assert_matches(key, two_nn(array("in.nb.X"), **options).value)
    # It leaves out the points that have a copy, and keeps the ties that copies cause.
    assert_matches(f"{key}.dup", two_nn(array("in.nb.Xdup"), duplicates="keep", **options).value)


def test_two_nn_of_tdhook():
    x = array("in.latent.Xa")
    assert_matches("latent.twonn", two_nn(x, discard=0).value)
    logs, survival = two_nn_points(x)
    assert_matches("latent.twonn.x", logs)
    assert_matches("latent.twonn.y", survival)
    assert_matches("latent.twonn.batch", two_nn(array("in.latent.Xbatch"), discard=0).value)


def test_two_nn_where_the_peers_fail():
    x, copied = array("in.nb.X"), array("in.nb.Xdup")
    # DADApy raises, or returns 0; the points without their copies are those of nb.2nn.*.
    assert "raises" in expected("nb.2nn.dup")
    assert expected("nb.2nn.dup_ml")[0] == 0
    for method in METHODS:
        found = two_nn(copied, method=method)
        assert found.value == two_nn(x, method=method).value
        assert (found.n, found.n_dropped) == (300, 25)
        assert "25 of 325 points are copies" in found.warnings[0]
    # tdhook keeps the ties that copies cause, and finds no neighbours in small data.
    unique = np.unique(array("in.latent.Xdup"), axis=0)
    found = two_nn(array("in.latent.Xdup"), discard=0)
    assert found.value == pytest.approx(two_nn(unique, discard=0).value, rel=1e-12)
    assert abs(found.value - expected("latent.twonn.dup")) > 0.1
    assert "raises" in expected("latent.twonn.scaled")
    small = two_nn(array("in.latent.Xa") * 1e-7, discard=0).value
    assert small == pytest.approx(expected("latent.twonn"), rel=1e-6)


@pytest.mark.parametrize(
    ("fraction", "repetitions", "key"),
    [(0.5, None, "0.5.None"), (0.25, None, "0.25.None"), (0.25, 7, "0.25.7")],
)
def test_decimation_of_dadapy(fraction: float, repetitions: int | None, key: str):
    found = two_nn_scaling(array("in.nb.X"), fractions=[fraction], repetitions=repetitions, compat="dadapy")[
        0
    ]
    assert_matches(f"nb.2nn.decimated.{key}", [found.value, found.standard_error, found.scale])


def test_scaling_of_dadapy():
    x = array("in.nb.X")
    found = two_nn_scaling(x, n_min=10, compat="dadapy")
    assert_matches("nb.2nn.scaling.default", [found.values, found.standard_errors, found.scales])
    assert_matches("nb.2nn.scaling.return_sizes", found.positions, expected("nb.2nn.scaling.return_sizes")[2])
    found = two_nn_scaling(x, n_min=40, method="mle", compat="dadapy")
    assert_matches("nb.2nn.scaling.n_min_algorithm", [found.values, found.standard_errors, found.scales])


@pytest.mark.parametrize("k", ["auto", 2, 5, 20])
def test_local_dimension_of_tdhook(k: int | str):
    assert_matches(f"latent.local_knn.{k}", local_dimension(array("in.latent.Xa"), k=k).values)


def test_local_dimension_of_tdhook_in_a_batch():
    found = local_dimension(array("in.latent.Xbatch"), k=4)
    assert_matches("latent.local_knn.batch", found.array("values"))
    for n, k in expected("latent.auto_k").items():
        assert auto_k(int(n)) == k


def test_local_dimension_next_to_copies():
    """tdhook takes copies out of each other's lists only: it agrees where no neighbour has a copy."""
    x, k = array("in.latent.Xdup"), 3
    found = local_dimension(x, k=k).values
    unique, inverse, counts = np.unique(x, axis=0, return_inverse=True, return_counts=True)
    assert (counts > 1).any()
    np.testing.assert_allclose(found, local_dimension(unique, k=k).values[inverse], rtol=1e-12)
    order = np.argsort(distances(unique), axis=1)[:, 1 : 2 * k + 1]
    apart = (counts[order] == 1).all(axis=1)[inverse]
    assert 0 < apart.sum() < len(x)
    np.testing.assert_allclose(found[apart], expected("latent.local_knn.dup")[apart], rtol=1e-5)


def test_mle_of_scikit_dimension():
    x = array("in.nb.X")
    found = mle_dimension(x)
    assert_matches("nb.skdim.mle.mle", found.overall.value)
    assert_matches("nb.skdim.mle.pw", found.values)
    assert_matches("nb.skdim.mle.mean", mle_dimension(x, combine="mean").overall.value)
    assert_matches("nb.skdim.mle.median", mle_dimension(x, combine="median").overall.value)


@pytest.mark.parametrize("name", list(manifolds()))
def test_benchmark_manifolds_to_their_printed_digits(name: str):
    x, want = manifolds()[name]
    total, absolute = want["checksum"]
    np.testing.assert_allclose(
        [x.sum(dtype=np.float64), np.abs(x).sum(dtype=np.float64)], [total, absolute], rtol=1e-6
    )
    neighbors = knn(x, 64)
    assert round(two_nn(neighbors).value, 4) == want["dadapy_2nn"] == want["skdim_twonn"]
    assert round(mle_dimension(neighbors).overall.value, 4) == want["skdim_mle_k20"]
    profile = gride(neighbors, compat="dadapy")
    assert profile.values.round(4).tolist() == want["gride"]
    assert profile.standard_errors.round(4).tolist() == want["gride_err"]


# Theory


def pareto(n: int, d: float, rng: np.random.Generator) -> Neighborhoods:
    """Independent ratios with the law of the model, and neighbours at random."""
    ratios = rng.random(n) ** (-1 / d)
    indices = np.stack([rng.permutation(n), rng.permutation(n)], axis=1)
    return Neighborhoods(np.stack([np.ones(n), ratios], axis=1), indices, np.arange(n))


@pytest.mark.parametrize(("method", "discard"), [("mle", 0.1), ("censored", 0.1), ("fit", 0.1), ("fit", 0.0)])
@pytest.mark.parametrize("d", [0.7, 6.0, 80.0])
def test_two_nn_of_independent_ratios(method: str, discard: float, d: float):
    rng = np.random.default_rng(1)
    found = [estimate_of(pareto(1000, d, rng), method, discard, Search()) for _ in range(200)]
    z = np.array([(one.value - d) / one.independent_error for one in found])
    # The fit is biased by a fraction of its error.
    assert abs(z.mean()) < (0.25 if method in {"mle", "censored"} else 0.5)
    assert 0.85 < z.std() < 1.15
    wide = np.mean([one.standard_error / one.independent_error for one in found])
    assert 1 <= wide < 1.05


def test_error_bars_cover():
    """Over 200 samples the spread of every estimate is what its error bar says, on real neighbours."""
    rng = np.random.default_rng(2)
    values: dict[str, list[tuple[float, float]]] = {}
    for _ in range(200):
        neighbors = knn(flat_torus(300, 3, rng), 32)
        found = {method: two_nn(neighbors, method=method) for method in METHODS}
        found["mle_dimension"] = mle_dimension(neighbors).overall
        found["local"] = local_dimension(neighbors, k=8).overall
        found["mean"] = mle_dimension(neighbors, k=10, combine="mean").overall
        found["median"] = mle_dimension(neighbors, k=10, combine="median").overall
        for name, one in found.items():
            values.setdefault(name, []).append((one.value, one.standard_error))
    for name, pairs in values.items():
        centre, spread = np.mean([v for v, _ in pairs]), np.std([v for v, _ in pairs], ddof=1)
        assert 0.8 < np.mean([e for _, e in pairs]) / spread < 1.4, name
        covered = np.mean([abs(v - centre) < 2 * e for v, e in pairs])
        assert covered > 0.88, name


def test_decimated_error_bars_cover():
    rng = np.random.default_rng(3)
    profiles = [two_nn_scaling(flat_torus(240, 2, rng), fractions=[0.5, 0.25]) for _ in range(200)]
    for at in range(2):
        values = np.array([profile[at].value for profile in profiles])
        errors = np.array([profile[at].standard_error for profile in profiles])
        assert 0.8 < errors.mean() / values.std(ddof=1) < 1.4
        assert np.mean(np.abs(values - values.mean()) < 2 * errors) > 0.9


@pytest.mark.parametrize("m", [1, 2, 5])
def test_dimension_of_a_torus(m: int):
    x = flat_torus(1500, m, np.random.default_rng(m))
    estimates = [two_nn(x, method=method) for method in METHODS]
    estimates += [local_dimension(x, k=2).overall, mle_dimension(x, k=3).overall]
    for found in estimates:
        # At five dimensions and 1500 points neighbours are so far apart that curvature adds a few percent.
        assert abs(found.value - m) < 4 * found.standard_error + 0.04 * m * (m > 2)


# Invariance


def everything(x: Any, **options: Any) -> np.ndarray[Any, Any]:
    return np.array(
        [
            *[two_nn(x, method=method, **options).value for method in METHODS],
            *gride(x, max_rank=16, **options).values,
            local_dimension(x, k=5, **options).overall.value,
            mle_dimension(x, k=10, **options).overall.value,
        ]
    )


def test_scale_shift_rotation_and_order_do_not_matter():
    x = points()
    want = everything(x)
    rotation = np.linalg.qr(points(3, 3, 9))[0]
    order = np.random.default_rng(4).permutation(len(x))
    np.testing.assert_array_equal(everything(x * 2.0**-40), want)
    for moved in (x * 1e-6, x * 1e6, x + 1000, x @ rotation, x[order], np.c_[x, np.full(len(x), 1e3)]):
        np.testing.assert_allclose(everything(moved), want, rtol=1e-9)


def test_one_neighbors_object_feeds_every_estimator():
    x = points()
    np.testing.assert_array_equal(everything(knn(x, 20)), everything(x))
    np.testing.assert_array_equal(everything(torch.from_numpy(x)), everything(x))


def test_cosine_distances_are_taken_as_chords():
    x = points(300, 4)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(everything(x, metric="cosine"), everything(unit), rtol=1e-6)
    np.testing.assert_allclose(everything(knn(x, 20, metric="cosine")), everything(unit), rtol=1e-6)


def test_a_distance_matrix():
    x = points(60)
    copied = np.concatenate([x, x[:5]])
    for data in (x, copied):
        np.testing.assert_allclose(
            everything(distances(data), metric="precomputed"), everything(x), rtol=1e-12
        )


# Layers


def test_layers_of_a_stack_a_dict_and_a_list():
    layers = [points(50, 3, seed) for seed in range(6)]
    want = [two_nn(layer).value for layer in layers]
    stack = np.stack(layers).reshape(2, 3, 50, 3)
    found = two_nn(stack)
    assert found.shape == (2, 3)
    np.testing.assert_array_equal(found.value, np.reshape(want, (2, 3)))
    assert found[1, 2].value == want[5]
    assert found[1].shape == (3,)
    assert [one.value for one in found[0]] == want[:3]
    by_name = two_nn(dict(zip("abcdef", layers, strict=True)))
    assert {name: one.value for name, one in by_name.items()} == dict(zip("abcdef", want, strict=True))
    assert [one.value for one in two_nn(layers)] == want
    assert [one.value for one in two_nn([knn(layer, 2) for layer in layers])] == want
    assert two_nn(np.zeros((0, 50, 3))).value.shape == (0,)
    assert gride(stack, max_rank=8).array("values").shape == (2, 3, 3)
    assert mle_dimension(stack, k=[5, 10]).array("values").shape == (2, 3, 2)
    local = local_dimension(stack, k=4)
    assert local.array("values").shape == (2, 3, 50)
    assert local.value[0, 1] == local[0, 1].overall.value


def test_profile_of_the_mle_over_k():
    x = points()
    profile = mle_dimension(x, k=[20, 5])
    assert (profile.axis, profile.positions.tolist()) == ("k", [5, 20])
    assert profile.values.tolist() == [mle_dimension(x, k=k).overall.value for k in (5, 20)]


# Decimation


def test_subsets_are_disjoint_as_long_as_there_are_points(monkeypatch: pytest.MonkeyPatch):
    drawn: list[list[int]] = []
    x = np.c_[np.arange(100.0), points(100, 2)]
    monkeypatch.setattr(
        "repgeom.decimation.two_nn",
        lambda rows, **options: drawn.append(rows[:, 0].astype(int).tolist()) or two_nn(rows, **options),
    )
    profile = two_nn_scaling(x, fractions=[1, 0.25], repetitions=6)
    whole, parts = drawn[:6], drawn[6:]
    assert all(rows == list(range(100)) for rows in whole)
    assert sorted(row for rows in parts[:4] for row in rows) == list(range(100))
    assert len(parts) == 6
    assert not set(parts[4]) & set(parts[5])
    # Two more subsets of the same points add no information to four that hold all of them.
    errors = [np.mean([two_nn(x[rows]).standard_error ** 2 for rows in parts]) / 4]
    assert profile[1].standard_error == pytest.approx(np.sqrt(errors[0]), rel=1e-12)
    assert (profile[1].n, profile[1].settings["repetitions"]) == (100, 6)


def test_decimation_by_default():
    x = points(256)
    profile = two_nn_scaling(x)
    assert profile.axis == "size"
    assert profile.positions.tolist() == [256, 128, 64, 32]
    assert [one.settings["repetitions"] for one in profile] == [1, 2, 4, 8]
    assert profile[0].value == two_nn(x).value
    assert profile.status == "ok"
    assert (np.diff(profile.scales) > 0).all()
    np.testing.assert_array_equal(two_nn_scaling(x).values, profile.values)
    assert two_nn_scaling(x, seed=1)[2].value != profile[2].value


def test_preset_of_the_paper():
    x = points(640)
    found = two_nn_scaling(x, preset="paper")
    same = two_nn_scaling(x, fractions=[1 / 32], repetitions=4, discard=0.02)
    assert found.positions.tolist() == [20]
    assert found[0] == same[0]
    assert found[0].settings["repetitions"] == 4


def test_copies_are_dropped_before_the_draws():
    x = points(100)
    found = two_nn_scaling(np.concatenate([x, x[:30]]))
    np.testing.assert_array_equal(found.values, two_nn_scaling(x).values)
    assert found[0].n_dropped == 30
    assert "30 of 130 points are copies" in found.warnings[0]


# Coincident points


def test_policies_for_coincident_points():
    x = points(100)
    copied = np.concatenate([x, x[:20], x[:5]])
    assert two_nn(copied).value == two_nn(x).value
    kept = two_nn(copied, duplicates="keep")
    assert (kept.n, kept.n_dropped) == (80, 45)
    with pytest.raises(ValueError, match=r"must be distinct with duplicates='error', got 45 points .* row 0"):
        two_nn(copied, duplicates="error")
    moved = two_nn(copied, duplicates="jitter")
    assert (moved.n, moved.n_dropped) == (125, 0)
    assert "45 coincident points were moved" in moved.warnings
    assert moved.value == two_nn(copied, duplicates="jitter").value
    assert moved.value != two_nn(copied, duplicates="jitter", seed=1).value
    assert 1.5 < moved.value < 6
    for policy in ("drop", "jitter", "keep", "error"):
        assert two_nn(x, duplicates=policy).value == two_nn(x).value


def test_points_of_one_direction_coincide_under_the_cosine():
    x = points(80)
    stretched = np.concatenate([x, 3 * x[:30], 0.7 * x[:30], x[:10] / 11])
    found = two_nn(stretched, metric="cosine", method="mle")
    assert found.n_dropped == 70
    assert found.value == pytest.approx(two_nn(x, metric="cosine", method="mle").value, rel=1e-6)


def test_copies_in_lists_that_are_given():
    x = points(100)
    copied = np.concatenate([x, x[:20], x[:5]])[np.random.default_rng(6).permutation(125)]
    np.testing.assert_allclose(everything(knn(copied, 60)), everything(x), rtol=1e-12)
    short = two_nn(knn(copied, 2))
    assert short.status == "ok"
    assert short.n + short.n_dropped == 125
    assert short.n < 100
    assert "distinct neighbours in the lists given" in short.warnings[1]
    with pytest.raises(ValueError, match="duplicates='jitter' needs points, got neighbours"):
        two_nn(knn(copied, 2), duplicates="jitter")
    with pytest.raises(ValueError, match="must be distinct"):
        two_nn(knn(copied, 2), duplicates="error")
    assert two_nn(knn(copied, 2), duplicates="keep").value == two_nn(copied, duplicates="keep").value


def test_local_values_stay_in_step_with_the_rows():
    x = points(60)
    copied = np.concatenate([x[:7], x])
    want = local_dimension(x, k=4).values[np.r_[:7, :60]]
    np.testing.assert_array_equal(local_dimension(copied, k=4).values, want)
    np.testing.assert_array_equal(local_dimension(knn(copied, 30), k=4).values, want)


@pytest.mark.parametrize("duplicates", ["drop", "keep", "jitter"])
def test_points_that_all_coincide(duplicates: str):
    x = np.ones((30, 3))
    estimates = [two_nn(x, method=method, duplicates=duplicates) for method in METHODS]
    estimates += list(gride(x, duplicates=duplicates))
    estimates += [local_dimension(x, k=3, duplicates=duplicates).overall]
    estimates += [mle_dimension(x, k=5, duplicates=duplicates).overall]
    for found in estimates:
        assert found.status == "all points coincide"
        assert not found.ok
        assert np.isnan([found.value, found.standard_error]).all()
        assert (found.n, found.n_dropped) == (0, 30)
    assert np.isnan(local_dimension(x, k=3).values).all()


def test_too_few_distinct_points():
    x = np.repeat(points(2), 10, axis=0)
    assert two_nn(x).status == "too few points: 2 distinct, 3 needed"
    assert two_nn(points(3)).status == "ok"
    assert two_nn(points(4), discard=0.7).status == "too few points: 1 of 4 ratios kept, 2 needed"
    profile = two_nn_scaling(points(40), fractions=[1, 0.05])
    assert profile[1].status == "too few points: 2 in a subset, 3 needed"
    assert profile.status == profile[1].status


def test_ties_everywhere():
    square = np.stack(np.meshgrid(np.arange(6.0), np.arange(6.0)), axis=-1).reshape(-1, 2)
    assert two_nn(square).status == "the first two distances of every point used are equal"
    simplex = np.eye(8)
    assert mle_dimension(simplex, k=5).status == "the distances used are equal around every point"
    assert np.isnan(local_dimension(simplex, k=2).values).all()


# One scale for all layers


def test_the_flattest_scale_of_all_layers():
    x = points(300, 5)
    profiles = {name: gride(x * scale, max_rank=32) for name, scale in (("a", 1.0), ("b", 3.0))}
    found = select_scale(profiles)
    changes = np.abs(np.diff(np.log(profiles["a"].values)))
    np.testing.assert_allclose(found.changes, changes, rtol=1e-9)
    assert found.position == profiles["a"].positions[np.argmin(changes)]
    assert found.values.shape == found.standard_errors.shape == (2,)
    given = select_scale(list(profiles.values()), position=4)
    assert given.position == 4
    assert given.rule == "given"
    assert given.estimates[1] == profiles["b"][1]


def test_scales_that_cannot_be_chosen():
    x = points(100)
    with pytest.raises(ValueError, match="at least one profile"):
        select_scale({})
    with pytest.raises(ValueError, match="of one kind, got positions that count rank, size"):
        select_scale([gride(x), two_nn_scaling(x)])
    with pytest.raises(ValueError, match=r"position must be one that all profiles have, of .*, got 5"):
        select_scale(gride(x), position=5)
    with pytest.raises(ValueError, match="all points coincide"):
        select_scale([gride(x), gride(np.ones((100, 2)))])
    with pytest.raises(ValueError, match="two consecutive positions"):
        select_scale(gride(x, max_rank=2))


# Refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: two_nn(points(2)), "at least 3 points, got 2"),
        (lambda: two_nn(knn(points(2), 1)), "needs 2 neighbours of each point, got 1"),
        (lambda: two_nn(knn(points(), 1)), "needs 2 neighbours of each point, got 1"),
        (lambda: mle_dimension(knn(points(), 9), k=10), "needs 10 neighbours of each point, got 9"),
        (lambda: local_dimension(knn(points(), 9), k=5), "needs 10 neighbours of each point, got 9"),
        (lambda: two_nn(np.zeros(5)), r"2 axes \[n, d\], got shape \(5,\)"),
        (lambda: two_nn(points(), method="least squares"), "method must be one of fit, mle, censored"),
        (lambda: two_nn(points(), discard=1), r"discard must be in \[0, 1\), got 1"),
        (lambda: two_nn(points(), discard=float("nan")), r"discard must be in \[0, 1\), got nan"),
        (lambda: two_nn(points(), duplicates="merge"), "duplicates must be one of drop, jitter, keep, error"),
        (lambda: two_nn(points(), duplicates="jitter", seed=-1), "seed must be an integer of at least 0"),
        (lambda: two_nn(points(), metric="inner_product"), "needs a metric with distances"),
        (lambda: two_nn(knn(points(), 3, queries=points(9))), "neighbours of points among themselves"),
        (lambda: local_dimension(points(), k=1), "k must be an integer of at least 2, got 1"),
        (lambda: local_dimension(points(8), k=4), "k = 4 needs at least 9 points, got 8"),
        (lambda: mle_dimension(points(), k=2), "k must be an integer of at least 3, got 2"),
        (lambda: mle_dimension(points(20), k=20), "k = 20 needs at least 21 points, got 20"),
        (lambda: mle_dimension(points(), combine="sum"), "combine must be one of harmonic, mean, median"),
        (lambda: mle_dimension(points(), k=[]), "at least one number of neighbours"),
        (lambda: two_nn_scaling(knn(points(), 2)), r"decimation needs points \[n, d\], got Neighbors"),
        (lambda: two_nn_scaling(points(), fractions=[2]), r"fractions must be in \(0, 1\], got 2"),
        (lambda: two_nn_scaling(points(), repetitions=0), "repetitions must be an integer of at least 1"),
        (lambda: two_nn_scaling(points(), n_min=2), "n_min must be an integer of at least 3"),
        (lambda: two_nn_scaling(points(), preset="nature"), "preset must be None or 'paper'"),
        (lambda: two_nn_scaling(points(), compat="skdim"), "compat must be None or 'dadapy'"),
    ],
)
def test_refusals(call: Any, message: str):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("measure", [two_nn, gride, two_nn_scaling, local_dimension, mle_dimension])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named_by_row(measure: Any, bad: float):
    x = points()
    x[17, 1] = bad
    with pytest.raises(ValueError, match="17"):
        measure(x)


def test_jitter_moves_points_apart_that_all_have_copies():
    x = np.random.default_rng(4).standard_normal((60, 3))
    found = two_nn(np.repeat(x, 2, axis=0), duplicates="jitter")
    assert found.ok
    assert found.n == 120
    assert 0.5 < found.value < 6


def test_counts_of_a_mean_of_local_values_add_up():
    x = np.r_[np.eye(30), np.random.default_rng(0).standard_normal((3, 30)) * 50]
    found = mle_dimension(x, k=3, combine="mean").overall
    assert found.n + found.n_dropped == len(x)
