"""Spectral metrics: the peer's numbers, closed forms, invariances, and standard errors against simulation."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import reference
from repgeom.spectrum import (
    METRIC_NAMES,
    PEER,
    VARIANTS,
    eigenpairs,
    metric_from_eigenvalues,
    normalization_ablation,
    sample_svd_metrics,
    spectral_standard_errors,
    spectrum,
    transform_activation,
)

SPECTRA = reference.keys("spectral.metric_from_eigenvalues.")
EIGENVALUES = arrays(np.float64, st.integers(1, 40), elements=st.floats(1e-3, 1e3))


def layer(name: str) -> np.ndarray:
    return reference.array(f"in.spectral.{name}").astype(np.float64)


def eigenvalues_of(key: str) -> np.ndarray:
    inputs = reference.entry(key)["inputs"]
    return reference.array(inputs[0]) if inputs else np.empty(0)


@dataclasses.dataclass
class Streamed:
    """The least that `spectrum` asks of a covariance."""

    rows: np.ndarray

    @property
    def count(self) -> int:
        return len(self.rows)

    @property
    def mean(self) -> np.ndarray:
        return self.rows.mean(axis=0) if self.count else np.full(self.rows.shape[1], np.nan)

    def covariance(self) -> np.ndarray:
        if self.count < 2:
            raise AssertionError("must not be asked of fewer than two rows")
        return np.cov(self.rows, rowvar=False)


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


@pytest.mark.parametrize(("row", "name"), [(0, "X1"), (1, "X2"), (2, "X3")])
@pytest.mark.parametrize("compat", [None, PEER])
def test_table_of_metrics_matches_the_peer(row, name, compat):
    args = reference.entry("spectral.table.metrics")["args"]
    want = reference.expected("spectral.table.metrics")[row]
    result = spectrum(Streamed(layer(name)), compat=compat)
    found = {**result.metrics, **sample_svd_metrics(layer(name)[: args["sample_limit"]], compat=compat)}
    measured = [column for column in want if column in found]
    assert [*result.metrics] == [*METRIC_NAMES] == measured[:11]
    assert len(measured) == 20
    for column in measured:
        assert found[column] == pytest.approx(want[column], rel=2e-3, abs=1e-4, nan_ok=True), column
    assert (result.count, result.dim) == (want["tokens_observed"], want["hidden_dim"])
    key = f"spectral.table.eigenvalues.layer_{args['layers'][row]:02d}"
    reference.assert_matches(key, result.eigenvalues)


def sample_rows(name: str) -> np.ndarray:
    tiny = layer("tiny")
    return {
        "X1_128": layer("X1")[:128],
        "tiny_zero_row": tiny,
        "n1": tiny[:1],
        "n2": tiny[:2],
        "const": np.tile(tiny[:1], (6, 1)),
    }[name]


@pytest.mark.parametrize("key", reference.keys("spectral.sample_svd_metrics."))
@pytest.mark.parametrize("compat", [None, PEER])
def test_sample_metrics_match_the_peer(key, compat):
    found = sample_svd_metrics(sample_rows(reference.entry(key)["args"]["rows"]), compat=compat)
    reference.assert_matches(key, found)
    assert ("sv_entropy_rank" in found) == (compat is None)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("compat", [None, PEER])
def test_ablation_matches_the_peer(variant, compat):
    reference.assert_matches(f"spectral.transform.{variant}", transform_activation(layer("tiny"), variant))
    table = {row["variant"]: row for row in normalization_ablation(layer("tiny"), compat=compat)}
    reference.assert_matches(f"spectral.ablation_tiny.{variant}", table[variant])


def test_ablation_table_matches_the_peer():
    table = []
    for name, index in (("X1", 0), ("X2", 2), ("X3", 3)):
        labels = {"model_key": "mk", "model_label": "ML", "layer": index}
        table += normalization_ablation(layer(name)[:128], labels=labels)
    reference.assert_matches("spectral.normalization_ablation", table)
    assert [*table[0]] == [*reference.expected("spectral.normalization_ablation")[0]]


def test_ablation_is_over_d_by_default_and_over_min_n_d_for_the_peer():
    rows = np.random.default_rng(0).normal(size=(5, 20))
    ours, peers = normalization_ablation(rows)[0], normalization_ablation(rows, compat=PEER)[0]
    assert ours["d_pr"] == pytest.approx(peers["d_pr"])
    assert ours["d_pr_norm"] == pytest.approx(ours["d_pr"] / 20)
    assert peers["d_pr_norm"] == pytest.approx(peers["d_pr"] / 5)
    assert normalization_ablation(rows[:1]) == []


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
    with pytest.raises(ValueError, match="finite"):
        sample_svd_metrics([[1.0, math.nan], [1.0, 2.0]], compat=compat)


def test_other_arguments_are_checked():
    with pytest.raises(ValueError, match="compat must be None or"):
        spectrum([1.0], compat="peer")
    with pytest.raises(ValueError, match="count must be a finite number >= 0, got nan"):
        spectrum([1.0], count=math.nan)
    with pytest.raises(ValueError, match="variant must be one of"):
        transform_activation([[1.0]], "l1")


def test_float32_rounding_is_not_asymmetry():
    rows = np.random.default_rng(2).normal(size=(100, 16)).astype(np.float32)
    covariance = (rows.T @ rows / 99).astype(np.float32)
    covariance[0, 1] *= 1 + 1e-6
    assert spectrum(covariance, count=100).status == "ok"


def test_dictionary_is_plain():
    result = json.loads(json.dumps(spectrum(np.diag([2.0, 1.0]), count=np.int64(9)).to_dict()))
    assert result["eigenvalues"] == [2.0, 1.0]
    assert (result["status"], result["count"], result["warnings"]) == ("ok", 9, [])


# --- sample metrics ---


def test_sample_metrics_do_not_depend_on_scale():
    rows = np.random.default_rng(3).normal(size=(40, 6)) + 1.0
    want = sample_svd_metrics(rows)
    for scale in (1e-11, 1e11):
        found = sample_svd_metrics(rows * scale)
        for name, value in want.items():
            assert found[name] == pytest.approx(value, rel=1e-6), name


def test_equal_rows_with_rounding_are_constant():
    found = sample_svd_metrics(np.tile([0.1, 1e6, -3.3], (7, 1)))
    assert all(math.isnan(value) for value in found.values())


def test_cosine_moments_against_all_pairs():
    rows = np.random.default_rng(4).normal(size=(300, 5)) * 1e-4 + [1.0, 2.0, 0.0, 0.0, 1.0]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[~np.eye(len(rows), dtype=bool)]
    found = sample_svd_metrics(rows)
    assert found["cos_sim_mean"] == pytest.approx(cosines.mean(), rel=1e-13)
    assert found["cos_sim_std"] == pytest.approx(cosines.std(ddof=1), rel=1e-6)


def test_entropy_rank_of_the_sample_is_the_entropy_dimension_of_its_covariance():
    rows = np.random.default_rng(5).normal(size=(50, 8)) * np.arange(1, 9)
    want = spectrum(np.cov(rows, rowvar=False)).d_entropy
    assert sample_svd_metrics(rows)["sv_entropy_rank"] == pytest.approx(want, rel=1e-10)


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


def errors_of(rows: np.ndarray, sampled: np.ndarray, **options) -> dict[str, float]:
    values, vectors = eigenpairs(np.cov(rows, rowvar=False))
    return spectral_standard_errors(
        rows[sampled], rows.mean(axis=0), values, vectors, count=len(rows), **options
    )


def simulate(draw, sampled: int, group_size: int, repeats: int) -> dict[str, tuple[float, float]]:
    """For each metric: its standard deviation over draws, and the median of the estimated errors."""
    rng = np.random.default_rng(7)
    values, errors = [], []
    for _ in range(repeats):
        rows = draw(rng)
        values.append(spectrum(Streamed(rows)).metrics)
        groups = np.arange(len(rows)) // group_size
        chosen = rng.choice(len(rows), sampled, replace=False)
        options = {"groups": groups[chosen], "group_size": group_size} if group_size > 1 else {}
        errors.append(errors_of(rows, chosen, **options))
    names = ("d_pr", "d_entropy", "stable_rank", "top1_share")
    return {
        name: (np.std([v[name] for v in values]), np.median([e[f"{name}_se"] for e in errors]))
        for name in names
    }


@pytest.mark.parametrize("sampled", [500, 2000])
def test_standard_errors_of_independent_rows_match_simulation(sampled):
    found = simulate(lambda rng: rng.normal(size=(2000, 12)) * np.sqrt(DECAY), sampled, 1, 200)
    for name, (spread, error) in found.items():
        assert error == pytest.approx(spread, rel=0.25), name


def test_standard_errors_of_correlated_rows_match_simulation():
    def texts(rng: np.random.Generator) -> np.ndarray:
        shared = np.repeat(rng.normal(size=(100, 12)), 20, axis=0)
        return (rng.normal(size=(2000, 12)) + shared) * np.sqrt(DECAY)

    found = simulate(texts, 2000, 20, 200)
    for name, (spread, error) in found.items():
        assert error == pytest.approx(spread, rel=0.25), name


def test_groups_that_do_not_matter_leave_the_error():
    rows = np.random.default_rng(8).normal(size=(4000, 12)) * np.sqrt(DECAY)
    everything = np.arange(4000)
    plain = errors_of(rows, everything)
    grouped = errors_of(rows, everything, groups=everything // 4)
    for name, value in plain.items():
        assert value == pytest.approx(grouped[name], rel=0.15), name


def test_error_that_cannot_be_estimated_is_nan():
    rows = np.random.default_rng(9).normal(size=(10, 3))
    everything = np.arange(10)
    for options in ({"groups": np.zeros(10)}, {"groups": everything}):
        assert all(math.isnan(value) for value in errors_of(rows, everything, **options).values())
    assert all(math.isnan(value) for value in errors_of(rows, everything[:1]).values())


def test_standard_errors_check_their_arguments():
    rows = np.random.default_rng(10).normal(size=(10, 3))
    with pytest.raises(ValueError, match=r"eigenvectors \[d, d\]"):
        spectral_standard_errors(rows, np.zeros(3), np.ones(3), np.eye(3)[:, :2], count=10)
    with pytest.raises(ValueError, match="count must be at least the 10 sampled rows, got 9"):
        spectral_standard_errors(rows, np.zeros(3), np.ones(3), np.eye(3), count=9)
    with pytest.raises(ValueError, match="groups must label each of the 10 rows"):
        errors_of(rows, np.arange(10), groups=np.zeros(3))
    with pytest.raises(ValueError, match=r"group_size must be >= 1, got 0\.5"):
        errors_of(rows, np.arange(10), groups=np.arange(10) // 2, group_size=0.5)


def test_torch_tensors_come_in():
    torch = pytest.importorskip("torch")
    rows = torch.tensor(layer("X1")[:20], dtype=torch.bfloat16)
    want = sample_svd_metrics(rows.double().numpy())
    assert sample_svd_metrics(rows) == want
