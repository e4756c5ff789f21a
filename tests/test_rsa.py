"""Representational similarity analysis against scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from scipy.spatial.distance import pdist, squareform

from repgeom.rsa import rsa
from test_cka import related

X, Y = related(30, 5, 7)
PEERS = {
    "spearman": scipy.stats.spearmanr,
    "kendall": scipy.stats.kendalltau,
    "pearson": scipy.stats.pearsonr,
}
NAMES = list(itertools.product(["correlation", "euclidean", "cosine"], PEERS))


@pytest.mark.parametrize(("dissimilarity", "correlation"), NAMES)
def test_values_are_those_of_scipy(dissimilarity, correlation):
    want = PEERS[correlation](pdist(X, dissimilarity), pdist(Y, dissimilarity)).statistic
    found = rsa(X, Y, dissimilarity, correlation)
    assert found.value == pytest.approx(want, abs=1e-12)
    assert (found.kind, found.range, found.n, found.status) == ("similarity", (-1, 1), 30, "ok")
    assert rsa({"x": X}, {"y": Y}, dissimilarity, correlation).values[0, 0] == pytest.approx(want)
    assert rsa(X * 1e-200, Y * 1e200, dissimilarity, correlation).value == pytest.approx(want)


def test_copies_are_at_distance_zero():
    x, y = (np.vstack([side, side[:5]]) + 1e6 for side in (X, Y))
    want = scipy.stats.spearmanr(pdist(x), pdist(y)).statistic
    assert rsa(x, y, "euclidean").value == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize(("dissimilarity", "correlation"), NAMES)
def test_pairs_of_equal_samples_are_ties(dissimilarity, correlation):
    rng = np.random.default_rng(0)
    place = rng.integers(0, 6, 40)
    distinct, y = rng.normal(size=(6, 300)), rng.normal(size=(40, 9))
    square = squareform(pdist(distinct, dissimilarity))[np.ix_(place, place)]
    want = PEERS[correlation](square[np.triu_indices(40, 1)], pdist(y, dissimilarity)).statistic
    assert rsa(distinct[place], y, dissimilarity, correlation).value == pytest.approx(want, abs=1e-12)


def test_small_angles_are_exact():
    x = X + 1e6
    unit = x.astype(np.longdouble)
    unit /= np.sqrt((unit**2).sum(axis=1, keepdims=True))
    upper = np.triu_indices(30, 1)
    angles = ((unit[upper[0]] - unit[upper[1]]) ** 2).sum(axis=1).astype(np.float64)
    want = scipy.stats.pearsonr(angles, pdist(Y, "cosine")).statistic
    assert rsa(x, Y, "cosine", "pearson").value == pytest.approx(want, abs=1e-8)


@pytest.mark.parametrize("correlation", PEERS)
def test_the_null_permutes_samples(correlation):
    found = rsa(X, Y, "euclidean", correlation, permutations=15, seed=4, folds=5)
    orders = [np.random.default_rng([4, 1, number]).permutation(30) for number in range(15)]
    null = np.array([rsa(X, Y[order], "euclidean", correlation).value for order in orders])
    assert found.null_mean == pytest.approx(null.mean(), abs=1e-12)
    assert found.p_value == pytest.approx((1 + np.sum(null >= found.value)) / 16)
    shuffled = np.random.default_rng([4, 0]).permutation(30)
    without = [
        rsa(*(np.delete(side, shuffled[fold::5], axis=0) for side in (X, Y)), "euclidean", correlation).value
        for fold in range(5)
    ]
    assert found.standard_error == pytest.approx(math.sqrt(4 * np.var(without)))


def test_what_is_undefined_has_a_status():
    zero = X.copy()
    zero[:2] = 0
    level = X.copy()
    level[4] = 7
    for call, status in (
        (lambda: rsa(zero, Y, "cosine"), "a: 2 rows have no direction"),
        (lambda: rsa(X, level), "b: 1 rows have no variance"),
        (lambda: rsa(X, np.eye(30), "euclidean", "kendall"), "b: all samples are equally far apart"),
        (lambda: rsa(np.ones((30, 2)), Y, "euclidean"), "a: all samples are equally far apart"),
    ):
        found = call()
        assert found.status == status
        assert math.isnan(found.value)
    assert rsa(zero, Y, "euclidean").ok


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rsa(X, Y, "manhattan"), "dissimilarity must be one of .*, got 'manhattan'"),
        (lambda: rsa(X, Y, correlation="tau"), "correlation must be one of .*, got 'tau'"),
        (lambda: rsa(X[:2], Y[:2]), "RSA needs at least 3 samples, got 2"),
        (lambda: rsa(X, Y[:9]), "the same samples, got n = 30 and 9"),
    ],
)
def test_bad_input_names_the_rule_and_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
