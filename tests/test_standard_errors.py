"""Standard errors of spectral metrics against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from repgeom.spectrum import eigenpairs, spectrum
from repgeom.standard_errors import spectral_standard_errors
from spectral_data import Streamed

DECAY = np.arange(1, 13) ** -1.0
METRICS = ("d_pr", "d_entropy", "stable_rank", "top1_share")


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
    suffix = "se" if group_size > 1 else "se_iid"
    return {
        name: (np.std([v[name] for v in values]), np.median([e[f"{name}_{suffix}"] for e in errors]))
        for name in METRICS
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


def test_error_without_groups_is_a_lower_bound_for_correlated_rows():
    rng = np.random.default_rng(11)
    rows = (rng.normal(size=(2000, 12)) + np.repeat(rng.normal(size=(100, 12)), 20, axis=0)) * np.sqrt(DECAY)
    everything = np.arange(2000)
    alone = errors_of(rows, everything)
    grouped = errors_of(rows, everything, groups=everything // 20)
    for name in METRICS:
        assert alone[f"{name}_se_iid"] < 0.8 * grouped[f"{name}_se"], name


def test_groups_that_do_not_matter_leave_the_error():
    rows = np.random.default_rng(8).normal(size=(4000, 12)) * np.sqrt(DECAY)
    everything = np.arange(4000)
    plain = errors_of(rows, everything)
    grouped = errors_of(rows, everything, groups=everything // 4)
    assert [*plain] == [f"{name}_se_iid" for name in METRICS]
    assert [*grouped] == [f"{name}_se" for name in METRICS]
    for name in METRICS:
        assert plain[f"{name}_se_iid"] == pytest.approx(grouped[f"{name}_se"], rel=0.15), name


def test_error_that_cannot_be_estimated_is_nan():
    rows = np.random.default_rng(9).normal(size=(10, 3))
    everything = np.arange(10)
    for options in ({"groups": np.zeros(10)}, {"groups": everything}):
        assert all(math.isnan(value) for value in errors_of(rows, everything, **options).values())
    alone = errors_of(rows, everything[:1])
    assert [*alone] == [f"{name}_se_iid" for name in METRICS]
    assert all(math.isnan(value) for value in alone.values())


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
