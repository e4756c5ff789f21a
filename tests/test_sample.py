"""Metrics of a sample of rows: the peer's numbers and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

import reference
from repgeom.checks import PEER
from repgeom.sample import VARIANTS, normalization_ablation, sample_svd_metrics, transform_activation
from repgeom.spectrum import METRIC_NAMES, spectrum
from spectral_data import Streamed, layer

# --- the peer's numbers ---


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


# --- closed forms and errors ---


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


@pytest.mark.parametrize("compat", [None, PEER])
def test_nan_is_refused(compat):
    with pytest.raises(ValueError, match="finite"):
        sample_svd_metrics([[1.0, math.nan], [1.0, 2.0]], compat=compat)


def test_other_variants_are_refused():
    with pytest.raises(ValueError, match="variant must be one of"):
        transform_activation([[1.0]], "l1")


def test_torch_tensors_come_in():
    torch = pytest.importorskip("torch")
    rows = torch.tensor(layer("X1")[:20], dtype=torch.bfloat16)
    want = sample_svd_metrics(rows.double().numpy())
    assert sample_svd_metrics(rows) == want
