"""The leading eigenpairs against exact spectra and LAPACK; every returned number against C itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repgeom.covariance import Covariance
from repgeom.eigensolver import Eigenpairs, eigenvalue_bounds, top_eigenpairs

D = 400
RANKS = np.arange(1, D + 1.0)
SPECTRA = {
    "1/i": 1 / RANKS,
    "i^-0.5": RANKS**-0.5,
    "exponential": np.exp(-RANKS / 20),
    "spikes and bulk": np.concatenate([np.linspace(50, 5, 12), np.linspace(2.25, 0.25, D - 12)]),
    "one spike of 1e8": np.concatenate([[1e8], np.linspace(2.25, 0.25, D - 1)]),
}


def with_spectrum(values: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A symmetric matrix with these eigenvalues, and its eigenvectors."""
    d = len(values)
    vectors = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]
    matrix = (vectors * values) @ vectors.T
    return (matrix + matrix.T) / 2, vectors


def check_certificates(matrix: np.ndarray, found: Eigenpairs) -> None:
    """Everything that is claimed, recomputed."""
    exact = np.linalg.eigvalsh(matrix)
    k, top = len(found.values), float(exact[-1])
    rounding = 1e-14 * len(matrix) * max(top, 1e-300)
    assert found.vectors.shape == (len(matrix), k)
    assert np.all(np.diff(found.values) <= 0)
    assert np.abs(found.vectors.T @ found.vectors - np.eye(k)).max() <= 1e-12
    residuals = np.linalg.norm(matrix @ found.vectors - found.vectors * found.values, axis=0)
    assert np.abs(residuals - found.residuals).max() <= rounding
    distance = np.abs(exact[:, None] - found.values).min(axis=0)
    assert np.all(distance <= found.bounds + rounding)
    assert np.array_equal(found.converged, found.residuals <= found.tol * found.values[0])
    assert found.trace == pytest.approx(exact.sum(), rel=1e-12)
    assert found.captured == pytest.approx(found.values.sum() / exact.sum(), rel=1e-12)
    assert np.all(found.vectors[np.argmax(np.abs(found.vectors), axis=0), np.arange(k)] > 0)


@pytest.mark.parametrize("method", ["krylov", "dense", "auto"])
@pytest.mark.parametrize("name", SPECTRA)
def test_exact_spectra(name: str, method: str):
    values = SPECTRA[name]
    matrix, vectors = with_spectrum(values)
    found = top_eigenpairs(matrix, 10, tol=1e-9, method=method)
    check_certificates(matrix, found)
    assert found.status == "ok"
    assert method in (found.method, "auto")
    assert np.abs(found.values - values[:10]).max() <= 1e-8 * values[0]
    separated = found.residuals < 1e-4 * np.abs(np.diff(values[:11]))
    cosines = np.abs(np.sum(found.vectors * vectors[:, :10], axis=0))
    assert separated.any()
    assert np.all(1 - cosines[separated] <= 1e-6)


def test_tight_tolerance_gives_the_digits_of_lapack():
    matrix, _ = with_spectrum(SPECTRA["1/i"])
    found = top_eigenpairs(matrix, 20, tol=1e-12, method="krylov")
    assert found.converged.all()
    assert np.abs(found.values - np.linalg.eigvalsh(matrix)[::-1][:20]).max() <= 1e-14


@pytest.mark.parametrize("copies", [30, 60])
def test_no_copy_of_an_eigenvalue_is_missed(copies: int):
    values = np.concatenate([np.full(copies, 2.0), np.linspace(1.5, 0.1, 900 - copies)])
    found = top_eigenpairs(with_spectrum(values)[0], copies + 5, tol=1e-6, method="krylov", block=24)
    assert np.abs(found.values - values[: copies + 5]).max() <= 1e-6


@pytest.mark.parametrize("rank", [1, 7, 40])
def test_low_rank_is_recovered_to_rounding(rank: int):
    values = np.concatenate([np.linspace(3, 1, rank), np.zeros(D - rank)])
    matrix, vectors = with_spectrum(values)
    found = top_eigenpairs(matrix, 45, method="krylov")
    check_certificates(matrix, found)
    assert found.status == "ok"
    assert np.abs(found.values - values[:45]).max() <= 1e-13
    seen = found.vectors[:, :rank]
    assert np.abs(seen @ seen.T - vectors[:, :rank] @ vectors[:, :rank].T).max() <= 1e-11


def test_identity_and_zero():
    identity = top_eigenpairs(np.eye(D), 50, method="krylov")
    check_certificates(np.eye(D), identity)
    assert np.abs(identity.values - 1).max() <= 1e-13
    zero = top_eigenpairs(np.zeros((D, D)), 3)
    assert (zero.status, zero.captured) == ("zero", 1.0)
    assert np.array_equal(zero.vectors.T @ zero.vectors, np.eye(3))
    assert not zero.values.any()
    assert zero.converged.all()


@pytest.mark.parametrize(("n", "d"), [(900, 300), (150, 500)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["krylov", "dense"])
def test_rows_without_their_covariance(n: int, d: int, dtype: torch.dtype, method: str):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.linspace(3, 0.1, d) + 7
    x[:, 2] += 3e4
    x = x.to(dtype)
    covariance = np.cov(x.double().numpy().T)
    found = top_eigenpairs(x, 6, implicit=True, method=method)
    check_certificates(covariance, found)
    assert found.method == method
    assert np.abs(found.values - np.linalg.eigvalsh(covariance)[::-1][:6]).max() <= 1e-9 * found.values[0]
    population = top_eigenpairs(x, 6, implicit=True, method=method, ddof=0)
    assert np.allclose(population.values, found.values * (n - 1) / n, rtol=1e-9)


def test_more_pairs_than_rows_have():
    x = np.random.default_rng(0).standard_normal((5, 60))
    found = top_eigenpairs(x, 8, implicit=True)
    check_certificates(np.cov(x.T), found)
    assert np.abs(found.values[4:]).max() <= 1e-14


def test_a_covariance_and_a_batch():
    x = np.random.default_rng(1).standard_normal((500, 80)).astype(np.float32)
    statistic = Covariance(80).update(x)
    one, two = top_eigenpairs([statistic, statistic.covariance()], 4)
    assert np.array_equal(one.values, two.values)
    check_certificates(statistic.covariance(), one)
    assert top_eigenpairs([], 4) == []


def test_the_seed_decides_and_the_threads_do_not():
    matrix, _ = with_spectrum(SPECTRA["i^-0.5"])
    runs = [
        top_eigenpairs(matrix, 12, seed=seed, threads=threads, method="krylov")
        for seed, threads in [(3, 1), (3, 2), (3, 5), (4, 1)]
    ]
    for other in runs[1:3]:
        for name in ("values", "vectors", "residuals"):
            assert np.array_equal(getattr(runs[0], name), getattr(other, name))
    assert not np.array_equal(runs[0].vectors, runs[3].vectors)
    x = np.random.default_rng(0).standard_normal((700, 300))
    first, second = (top_eigenpairs(x, 3, implicit=True, threads=t, method="krylov") for t in (1, 3))
    assert np.array_equal(first.vectors, second.vectors)


def test_restarts_keep_the_residuals_honest():
    values = np.concatenate([np.linspace(3, 2, 40), np.linspace(1.99, 0.5, 1160)])
    matrix, _ = with_spectrum(values)
    found = top_eigenpairs(matrix, 40, tol=1e-9, method="krylov")
    check_certificates(matrix, found)
    assert found.converged.all()
    assert found.products > 800, "no restart has been tested"
    assert np.abs(found.values - values[:40]).max() <= 1e-12


def test_a_stopped_search_says_so():
    matrix, _ = with_spectrum(np.linspace(1, 0.9, D))
    found = top_eigenpairs(matrix, 10, tol=1e-12, method="krylov", max_products=100)
    check_certificates(matrix, found)
    assert found.status == "not converged"
    assert not found.converged.all()
    assert "residuals above" in found.warnings[0]
    assert np.isfinite(found.values).all()


@pytest.mark.parametrize(
    ("values", "k", "tol"),
    [
        (1 / RANKS, 200, 1e-8),  # too many pairs: before any product
        (np.linspace(1, 0.9, 600), 130, 1e-6),  # no decay: after a first space
        (1 + np.cos(np.pi * (np.arange(600) + 0.5) / 600), 1, 1e-12),  # the worst case: in the end
    ],
)
def test_auto_turns_to_the_dense_method(values: np.ndarray, k: int, tol: float):
    matrix, _ = with_spectrum(values)
    found = top_eigenpairs(matrix, k, tol=tol)
    check_certificates(matrix, found)
    assert found.method == "dense"
    assert np.abs(found.values - values[:k]).max() <= 1e-13


@pytest.mark.parametrize("name", ["1/i", "exponential", "one spike of 1e8"])
def test_auto_stays_with_krylov_where_values_decay(name: str):
    found = top_eigenpairs(with_spectrum(SPECTRA[name])[0], 10, tol=1e-6)
    assert (found.method, found.status) == ("krylov", "ok")


def test_krylov_without_room():
    small = top_eigenpairs(np.diag([3.0, 2.0, 1.0]), 3, method="krylov")
    assert small.method == "dense"
    assert "does not fit" in small.warnings[0]
    assert np.allclose(small.values, [3, 2, 1])


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_the_unit_does_not_matter(scale: float):
    matrix, _ = with_spectrum(SPECTRA["1/i"])
    plain = top_eigenpairs(matrix, 5, method="krylov")
    found = top_eigenpairs(matrix * scale, 5, method="krylov")
    assert np.allclose(found.values / scale, plain.values, rtol=1e-13)
    assert found.converged.all()
    assert found.trace / scale == pytest.approx(plain.trace)
    assert np.array_equal(found.converged, found.residuals <= found.tol * found.values[0])


def test_gaps_sharpen_bounds_where_the_trace_proves_them():
    values, residuals = np.array([4.0, 2.0]), np.array([1e-4, 1e-4])
    sharp = eigenvalue_bounds(values, residuals, 6.1, 100)
    assert np.all(sharp < 1e-7)
    unproven = eigenvalue_bounds(values, residuals, 9.0, 100)
    assert unproven[0] < 1e-7 < unproven[1]


def broken(change: str) -> np.ndarray:
    matrix, _ = with_spectrum(SPECTRA["1/i"])
    if change == "asymmetric":
        matrix[3, 5] += 1e-3
    elif change == "indefinite":
        matrix -= 0.01 * np.eye(D)
    elif change == "negative":
        matrix = -matrix
    elif change == "hidden":  # an empty diagonal
        matrix = np.zeros((D, D))
        matrix[1, 2] = matrix[2, 1] = 1
    else:
        matrix[7, 9] = matrix[9, 7] = float(change)
    return matrix


@pytest.mark.parametrize("method", ["krylov", "dense"])
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("asymmetric", "must be symmetric"),
        ("indefinite", "positive semi-definite"),
        ("negative", "positive semi-definite"),
        ("hidden", "positive semi-definite"),
        ("nan", "finite, got nan at index"),
        ("inf", "finite, got inf at index"),
    ],
)
def test_bad_matrices(change: str, text: str, method: str):
    with pytest.raises(ValueError, match=text):
        top_eigenpairs(broken(change), 5, method=method)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"k": 0}, "k must be an integer of at least 1, got 0"),
        ({"k": 2.5}, "k must be an integer"),
        ({"k": 401}, "k must be at most d = 400, got 401"),
        ({"tol": 0.0}, "tol must be above 0"),
        ({"tol": float("nan")}, "tol must be above 0"),
        ({"method": "lanczos"}, "method must be"),
        ({"seed": -1}, "seed must be"),
        ({"block": 0}, "block must be"),
        ({"max_products": 0}, "max_products must be"),
        ({"threads": 0}, "threads must be"),
        ({"a": np.zeros((3, 4))}, r"a must be \[d, d\]"),
        ({"a": np.zeros((0, 0))}, r"a must be \[d, d\]"),
        ({"a": np.zeros((3, 3), dtype=complex)}, "real numbers"),
        ({"a": np.array([[1.0, np.nan]] * 3), "implicit": True, "k": 1}, "finite"),
        ({"a": np.ones((1, 4)), "implicit": True, "k": 1}, "more rows than ddof"),
        ({"a": np.ones(4), "implicit": True, "k": 1}, r"x must be \[n, d\]"),
    ],
)
def test_bad_arguments(options: dict[str, object], text: str):
    with pytest.raises(ValueError, match=text):
        top_eigenpairs(**{"a": np.eye(D), "k": 3, **options})


def test_half_precision_matrices_may_be_a_little_asymmetric():
    matrix, _ = with_spectrum(SPECTRA["1/i"])
    single = torch.from_numpy(matrix).float()
    single[0, 1] += 1e-5
    assert top_eigenpairs(single, 5).values[0] == pytest.approx(1, rel=1e-4)
    with pytest.raises(ValueError, match="symmetric"):
        top_eigenpairs(single.double(), 5)
