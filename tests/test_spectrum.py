"""Spectral metrics: the peer's numbers, closed forms, invariances, and bias against simulation."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import reference
from repgeom.checks import PEER
from repgeom.spectrum import METRIC_NAMES, eigenpairs, metric_from_eigenvalues, spectrum
from spectral_data import Streamed, layer

SPECTRA = reference.keys("spectral.metric_from_eigenvalues.")
EIGENVALUES = arrays(np.float64, st.integers(1, 40), elements=st.floats(1e-3, 1e3))


def eigenvalues_of(key: str) -> np.ndarray:
    inputs = reference.entry(key)["inputs"]
    return reference.array(inputs[0]) if inputs else np.empty(0)


# --- the peer's numbers ---


@pytest.mark.parametrize("key", SPECTRA)
def test_metrics_match_the_peer(key):
    reference.assert_matches(key, metric_from_eigenvalues(eigenvalues_of(key), compat=PEER))


@pytest.mark.parametrize("key", [key for key in SPECTRA if "rankdef" not in key and "empty" not in key])
def test_default_metrics_differ_only_where_a_fault_is_fixed(key):
    values = eigenvalues_of(key)
    reference.assert_matches(key, metric_from_eigenvalues(values))
    reference.assert_matches(key, spectrum(values).metrics)


def test_slope_of_a_rank_deficient_spectrum_is_undefined_not_an_artefact():
    key = "spectral.metric_from_eigenvalues.rankdef"
    values = reference.array("in.spectral.spectrum.rankdef")
    slope = "log_spectrum_slope_10_200"
    result = spectrum(values)
    reference.assert_matches(key, result.metrics, ignore=[slope])
    assert reference.expected(key)[slope] < -0.8
    assert math.isnan(result.metrics[slope])
    assert result.rank == 12
    assert any("2 ranks within the rank 12, 6 needed" in warning for warning in result.warnings)


@pytest.mark.parametrize("name", ["X1", "X2", "X3"])
def test_eigenvalues_match_numpy_and_the_peer(name):
    covariance = np.cov(layer(name), rowvar=False)
    reference.assert_matches(f"spectral.running.{name}.f64.cov", covariance)
    truth = np.sort(reference.expected(f"spectral.truth.{name}.eigvals"))[::-1]
    values, vectors = eigenpairs(covariance)
    for found in (values, spectrum(covariance).eigenvalues):
        np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(vectors * values @ vectors.T, covariance, atol=1e-11 * values[0])
    assert (np.diff(values) <= 0).all()


# --- closed forms and invariances ---


@pytest.mark.parametrize("d", [1, 2, 20, 333])
def test_equal_spectrum_has_every_dimension_d(d):
    found = metric_from_eigenvalues(np.full(d, 0.1))
    for name in ("d_pr", "d_entropy", "stable_rank"):
        assert found[name] == pytest.approx(d, rel=1e-12)
    assert found["k90"] == math.ceil(round(0.9 * d, 9))
    assert found["k95"] == math.ceil(round(0.95 * d, 9))


@settings(deadline=None)
@given(EIGENVALUES, st.sampled_from([1e-200, 1e-9, 3.7, 1e9, 1e200]), st.randoms(use_true_random=False))
def test_metrics_do_not_depend_on_scale_or_order(values, scale, random):
    shuffled = list(values * scale)
    random.shuffle(shuffled)
    want, found = metric_from_eigenvalues(values), metric_from_eigenvalues(shuffled)
    for name in METRIC_NAMES:
        assert found[name] == pytest.approx(want[name], rel=1e-9, abs=1e-10, nan_ok=True), name


@settings(deadline=None)
@given(EIGENVALUES)
def test_metrics_keep_their_order_and_limits(values):
    found = metric_from_eigenvalues(values)
    d, slack = len(values), 1 + 1e-9
    assert found["stable_rank"] * slack >= 1
    assert found["stable_rank"] <= found["d_pr"] * slack <= found["d_entropy"] * slack**2 <= d * slack**3
    assert 1 <= found["k90"] <= found["k95"] <= d
    assert found["top1_share"] <= found["top10_share"] <= found["top32_share"] <= slack


def test_rotation_leaves_the_metrics():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(400, 30)) * np.arange(1, 31) ** -0.7
    rotation = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    want = spectrum(np.cov(rows, rowvar=False), count=400)
    found = spectrum(np.cov(rows @ rotation + 5.0, rowvar=False), count=400)
    for name in (*METRIC_NAMES, "d_pr_debiased"):
        assert getattr(found, name) == pytest.approx(getattr(want, name), rel=1e-9), name


def test_ties_are_decided_by_the_numbers():
    for d in (10, 20, 30, 70, 100, 1000):
        found = metric_from_eigenvalues(np.full(d, 1 / 3))
        assert found["k90"] == 9 * d // 10


def test_slope_of_a_power_of_e_is_exact():
    values = np.exp(-0.2 * np.arange(150))
    assert metric_from_eigenvalues(values)["log_spectrum_slope_10_200"] == pytest.approx(-0.2, rel=1e-9)
    assert math.isnan(metric_from_eigenvalues(values[:15])["log_spectrum_slope_10_200"])
    assert not math.isnan(metric_from_eigenvalues(values[:16])["log_spectrum_slope_10_200"])


def test_near_rank_one():
    assert spectrum([0.995, 0.005]).near_rank_one
    assert not spectrum([0.985, 0.015]).near_rank_one


# --- evidence and errors ---


def test_bad_luck_is_a_status():
    zero = spectrum(np.zeros((4, 4)), count=10)
    assert (zero.status, zero.k90, zero.k95, zero.rank) == ("zero", -1, -1, 0)
    assert math.isnan(zero.d_pr)
    one = spectrum(Streamed(np.ones((1, 3))))
    assert (one.status, one.dim, one.count) == ("too few rows", 3, 1)
    assert np.isnan(one.eigenvalues).all()
    assert one.warnings
    few = spectrum(Streamed(np.random.default_rng(0).normal(size=(5, 8))))
    assert (few.status, few.rank) == ("rank deficient", 4)
    assert any("5 rows for 8 dimensions" in warning for warning in few.warnings)
    assert spectrum(Streamed(np.random.default_rng(0).normal(size=(50, 8)))).status == "ok"


def test_negative_eigenvalues_are_clipped_and_reported():
    result = spectrum([-1e-3, 2.0, 1.0])
    assert result.eigenvalues.tolist() == [2.0, 1.0, 0.0]
    assert result.most_negative == -1e-3
    assert any("not positive semi-definite" in warning for warning in result.warnings)
    assert spectrum([2.0, 1.0, -1e-17]).warnings == ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0, math.nan], "must be finite, got nan at index"),
        ([[1.0, math.inf], [math.inf, 1.0]], "must be finite, got inf"),
        ([[1.0, 2.0], [0.0, 1.0]], "must be symmetric, got entries that differ by 2"),
        (np.ones((2, 3)), r"must be square, got shape \(2, 3\)"),
        (np.ones((2, 2, 2)), r"got shape \(2, 2, 2\)"),
        (np.empty(0), "needs d >= 1"),
        (np.empty((0, 0)), "needs d >= 1"),
        (["a"], "must hold real numbers"),
    ],
)
def test_bad_input_names_the_rule_and_the_value(value, message):
    with pytest.raises(ValueError, match=message):
        spectrum(value)


@pytest.mark.parametrize("compat", [None, PEER])
def test_nan_never_counts_as_an_eigenvalue(compat):
    with pytest.raises(ValueError, match="finite"):
        metric_from_eigenvalues([1.0, math.nan], compat=compat)


def test_other_arguments_are_checked():
    with pytest.raises(ValueError, match="compat must be None or"):
        spectrum([1.0], compat="peer")
    with pytest.raises(ValueError, match="count must be a finite number >= 0, got nan"):
        spectrum([1.0], count=math.nan)


def test_float32_rounding_is_not_asymmetry():
    rows = np.random.default_rng(2).normal(size=(100, 16)).astype(np.float32)
    covariance = (rows.T @ rows / 99).astype(np.float32)
    covariance[0, 1] *= 1 + 1e-6
    assert spectrum(covariance, count=100).status == "ok"


def test_dictionary_is_plain():
    result = json.loads(json.dumps(spectrum(np.diag([2.0, 1.0]), count=np.int64(90)).to_dict()))
    assert result["eigenvalues"] == [2.0, 1.0]
    assert (result["status"], result["count"], result["warnings"]) == ("ok", 90, [])


# --- finite samples ---

DECAY = np.arange(1, 13) ** -1.0


def population(name: str) -> float:
    return metric_from_eigenvalues(DECAY)[name]


@pytest.mark.parametrize("n", [60, 120])
def test_debiased_participation_ratio_has_little_bias(n):
    rng = np.random.default_rng(6)
    draws = [spectrum(Streamed(rng.normal(size=(n, 12)) * np.sqrt(DECAY))) for _ in range(1000)]
    plain = population("d_pr") - np.mean([draw.d_pr for draw in draws])
    debiased = population("d_pr") - np.mean([draw.d_pr_debiased for draw in draws])
    assert plain > 0.25
    assert abs(debiased) < plain / 4


def test_debiased_participation_ratio_is_unknown_without_rows():
    assert math.isnan(spectrum([2.0, 1.0]).d_pr_debiased)
    two = spectrum([2.0, 0.0], count=2)
    assert math.isnan(two.d_pr_debiased)
    assert any("d_pr_debiased is undefined" in warning for warning in two.warnings)
