"""CCA and its kin, regression, Procrustes, subspaces and cosines, against independent programs."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial

from repgeom.canonical_correlation import cca, pwcca, regression_r2, svcca
from repgeom.layer_subspaces import mean_cosine, subspace_distance
from repgeom.procrustes import procrustes
from repgeom.similarity import layer_cosine
from test_cka import related

X, Y = related(80, 5, 7)
MEASURES = [cca, svcca, pwcca, regression_r2, procrustes]


def whitened(rows: np.ndarray, ridge: float = 0.0) -> np.ndarray:
    """By the inverse root of the covariance."""
    centred = rows - rows.mean(axis=0)
    covariance = centred.T @ centred
    covariance = covariance + ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    return centred @ scipy.linalg.inv(scipy.linalg.sqrtm(covariance).real)


def explained(rows: np.ndarray, share: float) -> np.ndarray:
    """The principal components that hold a share of the variance."""
    left, scales, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    shares = np.cumsum(scales**2) / np.sum(scales**2)
    count = int(np.argmax(shares >= share)) + 1
    return left[:, :count] * scales[:count]


# --- canonical correlations ---


def test_correlations_are_the_angles_between_column_spaces():
    found = cca(X, Y)
    angles = scipy.linalg.subspace_angles(X - X.mean(axis=0), Y - Y.mean(axis=0))
    np.testing.assert_allclose(found.parts, np.sort(np.cos(angles))[::-1], atol=1e-12)
    assert found.value == pytest.approx(np.cos(angles).mean())
    assert cca(X, Y, squared=True).value == pytest.approx((np.cos(angles) ** 2).mean())
    assert (found.kind, found.range, found.n, found.status) == ("similarity", (0, 1), 80, "ok")


def test_a_ridge_is_one_of_the_covariances():
    inner = whitened(X, 0.3).T @ whitened(Y, 0.3)
    np.testing.assert_allclose(cca(X, Y, ridge=0.3).parts, np.linalg.svd(inner, compute_uv=False), atol=1e-10)


def test_svcca_compares_the_leading_components():
    want = cca(explained(X, 0.8), explained(Y, 0.8))
    found = svcca(X, Y, variance=0.8)
    np.testing.assert_allclose(found.parts, want.parts, atol=1e-12)
    assert len(found.parts) < 5
    assert svcca(X, Y, variance=1.0).value == pytest.approx(cca(X, Y).value)


def test_pwcca_weights_canonical_variables_by_what_they_hold_of_a():
    left, rho, _ = np.linalg.svd(whitened(X).T @ whitened(Y), full_matrices=False)
    variables = whitened(X) @ left
    weights = np.abs(variables.T @ (X - X.mean(axis=0))).sum(axis=1)
    assert pwcca(X, Y).value == pytest.approx(weights @ rho / weights.sum(), abs=1e-10)
    matrix = pwcca({"x": X, "y": Y})
    assert matrix.between("x", "y").value == pytest.approx(pwcca(X, Y).value)
    assert matrix.between("y", "x").value == pytest.approx(pwcca(Y, X).value)
    assert pwcca(X, Y).value != pytest.approx(pwcca(Y, X).value, abs=1e-3)


def test_regression_is_least_squares():
    predictors = np.hstack([X, np.ones((80, 1))])
    residual = Y - predictors @ scipy.linalg.lstsq(predictors, Y)[0]
    want = 1 - np.sum(residual**2) / np.sum((Y - Y.mean(axis=0)) ** 2)
    assert regression_r2(X, Y).value == pytest.approx(want)
    assert regression_r2(Y, X).value != pytest.approx(want, abs=1e-3)


@pytest.mark.parametrize("measure", [cca, regression_r2])
def test_invertible_maps_of_a_are_not_seen(measure):
    rng = np.random.default_rng(0)
    mapped = X @ rng.normal(size=(5, 5)) * 1e-3 + 7
    assert measure(mapped, Y).value == pytest.approx(measure(X, Y).value, abs=1e-9)
    assert measure(X, mapped).value == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_dependent_columns_count_once(dtype):
    doubled = np.hstack([X, X[:, :3] @ np.ones((3, 2)), np.ones((80, 1))]).astype(dtype)
    found = cca(doubled, Y.astype(dtype))
    assert len(found.parts) == 5
    np.testing.assert_allclose(found.parts, cca(X, Y).parts, atol=1e-5)
    assert found.ok


def test_correlations_by_construction_have_a_status():
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(20, 30)), rng.normal(size=(20, 6))
    found = cca(*wide)
    np.testing.assert_allclose(found.parts, 1)
    assert found.status == "1 by construction: ranks 19 and 6 in n - 1 = 19 dimensions"
    part = cca(rng.normal(size=(20, 15)), wide[1])
    assert part.status.startswith("2 of 6 correlations are 1 by construction: ranks 15 and 6")
    np.testing.assert_allclose(part.parts[:2], 1)
    assert part.parts[2] < 1 - 1e-6
    assert regression_r2(*wide).status == "1 by construction: a has rank 19 of at most n - 1 = 19"
    assert regression_r2(*wide).value == pytest.approx(1)
    assert regression_r2(wide[1], wide[0]).ok
    ridged = cca(*wide, ridge=0.1)
    assert ridged.ok
    assert ridged.value < 0.95


# --- Procrustes ---


def test_procrustes_is_that_of_scipy():
    wide = np.hstack([X, np.zeros((80, 2))])
    disparity = scipy.spatial.procrustes(wide, Y)[2]
    total = math.sqrt(1 - disparity)
    found = procrustes(X, Y)
    assert found.value == pytest.approx(math.acos(total))
    assert procrustes(X, Y, "normalised").value == pytest.approx(2 - 2 * total)
    assert found.parts.sum() == pytest.approx(total)
    assert (found.kind, found.range) == ("distance", (0, math.pi / 2))
    assert procrustes(X, Y, "normalised").range == (0, 2)


def test_the_normalised_form_is_the_least_over_rotations():
    x, y = (side / np.linalg.norm(side) for side in (X - X.mean(axis=0), Y[:, :5] - Y[:, :5].mean(axis=0)))
    rotation = scipy.linalg.orthogonal_procrustes(y, x)[0]
    found = procrustes(X, Y[:, :5], "normalised").value
    assert found == pytest.approx(np.sum((x - y @ rotation) ** 2))


def test_procrustes_of_wide_layers():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 30)), rng.normal(size=(12, 40))
    left, right = (side - side.mean(axis=0) for side in (x, y))
    total = np.linalg.norm(left.T @ right, "nuc") / np.linalg.norm(left) / np.linalg.norm(right)
    assert procrustes(x, y).value == pytest.approx(math.acos(total))
    rotation = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    assert procrustes(x, 5 * x @ rotation + 2).value == pytest.approx(0, abs=1e-7)
    assert procrustes(x, 5 * x @ rotation + 2, "normalised").value == pytest.approx(0, abs=1e-14)


# --- subspaces and cosines ---


def test_subspaces_are_compared_by_their_principal_angles():
    other = X + 0.5 * np.random.default_rng(0).normal(size=X.shape)
    leading = [np.linalg.svd(side - side.mean(axis=0))[2][:2].T for side in (X, other)]
    want = np.sin(scipy.linalg.subspace_angles(*leading)).mean()
    found = subspace_distance(X, other, 2)
    assert found.value == pytest.approx(want)
    assert (found.kind, found.range) == ("distance", (0, 1))
    table = subspace_distance({"x": X, "o": other, "y": Y, "c": np.ones((80, 5))}, k=2)
    assert table.between("x", "o").value == pytest.approx(want)
    assert table.between("x", "x").value == pytest.approx(0, abs=1e-12)
    assert table.between("x", "y").status == "widths differ: 5 and 7"
    assert table.between("x", "c").status == "b: the samples do not vary"
    assert subspace_distance(X, other, 9).status.startswith("all 5 directions")
    flat = X[:, :3] @ np.random.default_rng(1).normal(size=(3, 5))
    found = subspace_distance(flat, X, 4)
    assert found.status == "3 instead of 4 directions: the rank is no larger"
    assert math.isfinite(found.value)


def test_cosines_of_layers():
    table = mean_cosine({"x": X, "minus": -X, "y": Y})
    assert table.between("x", "minus").value == pytest.approx(-1)
    assert table.between("x", "y").status == "widths differ: 5 and 7"
    assert mean_cosine(X * 1e300, X * 1e-3).value == pytest.approx(1)
    assert mean_cosine(X, Y[:, :5]).value == pytest.approx(layer_cosine(X, Y[:, :5]))


# --- errors, nulls, what is undefined ---


@pytest.mark.parametrize("measure", MEASURES)
def test_errors_and_nulls_are_their_definitions(measure):
    found = measure(X, Y, folds=5, permutations=20, seed=2)
    shuffled = np.random.default_rng([2, 0]).permutation(80)
    without = [
        measure(*(np.delete(side, shuffled[fold::5], axis=0) for side in (X, Y))).value for fold in range(5)
    ]
    assert found.standard_error == pytest.approx(math.sqrt(4 * np.var(without)))
    orders = [np.random.default_rng([2, 1, number]).permutation(80) for number in range(20)]
    null = np.array([measure(X, Y[order]).value for order in orders])
    assert found.null_mean == pytest.approx(null.mean())
    assert found.null_std == pytest.approx(null.std(ddof=1))
    alike = null >= found.value if found.kind == "similarity" else null <= found.value
    assert found.p_value == pytest.approx((1 + alike.sum()) / 21)
    assert found.p_value < 0.2
    matrix = measure({"x": X}, {"y": Y}, folds=5, permutations=20, seed=2).between("x", "y")
    assert matrix.standard_error == pytest.approx(found.standard_error)


def test_folds_do_not_cut_groups():
    groups = np.repeat(np.arange(8), 10)
    found = procrustes(X, Y, folds=8, groups=groups)
    without = [procrustes(X[groups != group], Y[groups != group]).value for group in range(8)]
    assert found.standard_error == pytest.approx(math.sqrt(7 * np.var(without)))
    assert math.isnan(procrustes(X, Y, folds=8, groups=np.zeros(80)).standard_error)


def test_a_fold_without_a_value_leaves_no_error():
    single = np.zeros((80, 2))
    single[4] = 1
    found = procrustes(X, single, folds=8)
    assert math.isfinite(found.value)
    assert math.isnan(found.standard_error)
    assert found.warnings == ("no standard error where a fold of the samples leaves no value",)


@pytest.mark.parametrize("measure", [regression_r2, procrustes])
def test_jackknife_errors_are_the_spread_over_repeated_samples(measure):
    found = [measure(*related(80, 5, 7, seed), folds=10) for seed in range(80)]
    spread = np.std([result.value for result in found], ddof=1)
    assert 0.75 < np.sqrt(np.mean([result.standard_error**2 for result in found])) / spread < 1.35


@pytest.mark.parametrize("measure", MEASURES)
def test_samples_that_do_not_vary_have_a_status(measure):
    flat = np.full((80, 3), 0.1)
    for a, b, side in ((flat, Y, "a"), (X, flat, "b"), (X, np.empty((80, 0)), "b")):
        found = measure(a, b, folds=4, permutations=2)
        assert found.status == f"{side}: the samples do not vary"
        for value in (found.value, found.standard_error, found.p_value):
            assert math.isnan(value)


@pytest.mark.parametrize("measure", [*MEASURES, functools.partial(subspace_distance, k=2), mean_cosine])
def test_samples_are_matched(measure):
    order = np.random.default_rng(3).permutation(80)
    other = Y[:, :5]
    found = measure(X, other[order], ids_a=np.arange(80), ids_b=order)
    assert found.value == pytest.approx(measure(X, other).value)
    with pytest.raises(ValueError, match="the same samples, got n = 80 and 79"):
        measure(X, Y[:79])
    with pytest.raises(ValueError, match="b must be finite"):
        measure(X, np.full((80, 5), np.nan))
    with pytest.raises(ValueError, match="needs at least"):
        measure(X[:0], Y[:0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cca(X, Y, ridge=-1), "ridge must be >= 0 and finite, got -1"),
        (lambda: svcca(X, Y, variance=0), r"variance must be in \(0, 1\], got 0"),
        (lambda: cca(X, Y, folds=1), "folds must be 0 or at least 2, got 1"),
        (lambda: procrustes(X, Y, "square"), "form must be one of .*, got 'square'"),
        (lambda: subspace_distance(X, X, 0), "k must be an integer of at least 1, got 0"),
        (lambda: cca(X[:2], Y[:2]), "CCA needs at least 3 samples, got 2"),
    ],
)
def test_bad_input_names_the_rule_and_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
