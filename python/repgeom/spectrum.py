"""Covariance or activations to eigenvalues, eigenvalues to spectral metrics with their evidence.

Two conventions hold everywhere: all sums are float64, and shares are shares of *variance* (eigenvalues, that
is squared singular values) unless a name starts with ``sv_effective_rank``. Entropies are in nats. With
``compat="representation-geometry"`` the numbers of representation_geometry 0.1.0 come back, its faults
included.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

PEER: Final = "representation-geometry"
METRIC_NAMES: Final = (
    "d_pr",
    "d_pr_norm",
    "d_entropy",
    "d_entropy_norm",
    "stable_rank",
    "top1_share",
    "top10_share",
    "top32_share",
    "k90",
    "k95",
    "log_spectrum_slope_10_200",
)
VARIANTS: Final = ("raw", "token_l2", "token_rms", "feature_standardized")

_EPS: Final = float(np.finfo(np.float64).eps)
_MIN_SLOPE_POINTS: Final = 6


def is_peer(compat: str | None) -> bool:
    """Whether the peer's numbers are asked for; any other word than its name is a ``ValueError``."""
    if compat not in (None, PEER):
        raise ValueError(f"compat must be None or {PEER!r}, got {compat!r}")
    return compat is not None


def as_float64(x: Any, name: str, ndim: int) -> FloatArray:
    """``x`` (NumPy, nested lists, torch) as a finite float64 array with ``ndim`` axes, or ``ValueError``."""
    if hasattr(x, "detach"):
        x = x.detach().cpu().double().numpy()
    array = np.asarray(x)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got shape {array.shape}")
    array = array.astype(np.float64, copy=False)
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(f"{name} must be finite, got {array[tuple(bad)]} at index {tuple(map(int, bad))}")
    return array


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues of one covariance and what they say; made by :func:`spectrum`.

    Attributes:
        eigenvalues: ``[d]`` float64, descending, clipped at 0 (units: activation squared).
        dim: Number of features d.
        count: Rows behind the covariance, None when unknown.
        rank: Eigenvalues above ``d * eps * lambda_1``, and at most ``count - 1``.
        d_pr: Participation ratio ``(sum lambda)^2 / sum lambda^2``; ``d_pr_norm`` is over d.
        d_entropy: ``exp(-sum p ln p)`` with ``p = lambda / sum lambda``; ``d_entropy_norm`` is over d.
        stable_rank: ``sum lambda / lambda_1``.
        top1_share: Share of the first eigenvalue; ``top10_share`` and ``top32_share`` of the first 10 and 32.
        k90: Fewest leading eigenvalues that hold 90 % of the sum (``k95``: 95 %); -1 when undefined.
        log_spectrum_slope_10_200: Least-squares slope of ``ln lambda_r`` per rank, 0-based ranks 10 to
            ``min(200, rank) - 1``; NaN when fewer than 6 ranks remain.
        d_pr_debiased: ``d_pr`` freed of most of its finite-sample bias, for independent Gaussian rows (rows
            of one text are not: fewer independent rows mean more bias than it removes); may exceed d; NaN
            when ``count`` is unknown, when ``count < 3`` or when the estimate is not positive.
        near_rank_one: ``top1_share >= 0.99 and k90 <= 1``.
        most_negative: The lowest eigenvalue before clipping, 0 when none was negative.
        status: ``"ok"``, ``"rank deficient"`` (``count - 1 < d``: trailing eigenvalues are not estimates of
            anything), ``"zero"`` (no variance) or ``"too few rows"`` (``count < 2``); the last two have NaN
            metrics.
        warnings: One sentence for each value that should not be taken at its face.
    """

    eigenvalues: FloatArray
    dim: int
    count: float | None
    rank: int
    d_pr: float
    d_pr_norm: float
    d_entropy: float
    d_entropy_norm: float
    stable_rank: float
    top1_share: float
    top10_share: float
    top32_share: float
    k90: int
    k95: int
    log_spectrum_slope_10_200: float
    d_pr_debiased: float
    near_rank_one: bool
    most_negative: float
    status: str
    warnings: tuple[str, ...]

    @property
    def metrics(self) -> dict[str, float]:
        """The eleven metrics under the peer's names, in the peer's order (one table row)."""
        return {name: getattr(self, name) for name in METRIC_NAMES}

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain Python values, arrays and tuples as lists."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "eigenvalues": self.eigenvalues.tolist(), "warnings": list(self.warnings)}


def spectrum(
    covariance_or_eigenvalues: Any, *, count: float | None = None, compat: str | None = None
) -> Spectrum:
    """Measure the spectrum of a covariance.

    Args:
        covariance_or_eigenvalues: An object with ``.covariance()`` and ``.count``, a symmetric positive
            semi-definite ``[d, d]`` array, or ``[d]`` eigenvalues in any order.
        count: Rows the covariance was estimated from; by default the object's own count.
        compat: ``"representation-geometry"`` for the peer's slope and tie rules.

    Raises:
        ValueError: NaN or inf, an asymmetric or non-square matrix, another number of axes, or d = 0.
    """
    is_peer(compat)
    source = covariance_or_eigenvalues
    streamed = hasattr(source, "covariance") and hasattr(source, "count")
    count = _checked_count(source.count if streamed and count is None else count)
    if streamed and count is not None and count < 2:
        return _undefined(np.full(np.size(source.mean), np.nan), count, 0.0, "too few rows")
    values = _eigenvalues(source.covariance() if streamed else source)
    if len(values) == 0:
        raise ValueError(f"a spectrum needs d >= 1, got shape {np.shape(source)}")
    lowest = min(0.0, float(values[-1]))
    values = np.maximum(values, 0.0)
    if count is not None and count < 2:
        return _undefined(np.full(len(values), np.nan), count, lowest, "too few rows")
    if values[0] <= 0.0:
        return _undefined(values, count, lowest, "zero")
    return _measured(values, count, lowest, compat)


def _checked_count(count: float | None) -> float | None:
    if count is None:
        return None
    if not 0 <= count < float("inf"):
        raise ValueError(f"count must be a finite number >= 0, got {count!r}")
    return int(count) if count == int(count) else float(count)


def _measured(values: FloatArray, count: float | None, lowest: float, compat: str | None) -> Spectrum:
    dim = len(values)
    rank = _numerical_rank(values, count)
    metrics = _metrics(values, rank, compat)
    debiased = float("nan") if count is None else _debiased_participation(values, count)
    return Spectrum(
        eigenvalues=values,
        dim=dim,
        count=count,
        rank=rank,
        d_pr_debiased=debiased,
        near_rank_one=bool(metrics["top1_share"] >= 0.99 and metrics["k90"] <= 1),
        most_negative=lowest,
        status="rank deficient" if count is not None and count - 1 < dim else "ok",
        warnings=tuple(
            _warnings(values, count, lowest=lowest, rank=rank, metrics=metrics, debiased=debiased)
        ),
        **metrics,
    )


def _undefined(values: FloatArray, count: float | None, lowest: float, status: str) -> Spectrum:
    return Spectrum(
        eigenvalues=values,
        dim=len(values),
        count=count,
        rank=0,
        d_pr_debiased=float("nan"),
        near_rank_one=False,
        most_negative=lowest,
        status=status,
        warnings=(f"no spectral metric is defined: {status}",),
        **_undefined_metrics(),
    )


def _undefined_metrics() -> dict[str, Any]:
    return {name: -1 if name in ("k90", "k95") else float("nan") for name in METRIC_NAMES}


def _warnings(
    values: FloatArray,
    count: float | None,
    *,
    lowest: float,
    rank: int,
    metrics: Mapping[str, float],
    debiased: float,
) -> Iterator[str]:
    dim = len(values)
    if -lowest > dim * _EPS * values[0] * 10:
        yield f"not positive semi-definite: the lowest eigenvalue is {lowest:.6g} (set to 0)"
    if count is not None and count - 1 < dim:
        yield f"{count} rows for {dim} dimensions: dimensions are biased low, only {rank} directions are seen"
    if count is not None and np.isnan(debiased):
        yield f"d_pr_debiased is undefined: {count} rows do not determine the sum of squared eigenvalues"
    if np.isnan(metrics["log_spectrum_slope_10_200"]) and dim >= 16:
        points = max(0, min(200, rank) - 10)
        yield f"log_spectrum_slope_10_200 is undefined: {points} ranks within the rank {rank}, 6 needed"


def metric_from_eigenvalues(values: Any, compat: str | None = None) -> dict[str, Any]:
    """The eleven metrics of ``[d]`` eigenvalues (any order, negatives count as 0) under the peer's names.

    Formulas: see :class:`Spectrum`. An all-zero spectrum gives NaN and ``k90 = k95 = -1``.

    Raises:
        ValueError: NaN or inf (also under ``compat``), or no eigenvalue (not under ``compat``: NaN, as the
            peer).
    """
    peer = is_peer(compat)
    lam = np.sort(np.maximum(as_float64(values, "eigenvalues", 1), 0.0))[::-1]
    if len(lam) == 0 and not peer:
        raise ValueError("eigenvalues must hold at least one value, got shape (0,)")
    if len(lam) == 0 or lam[0] <= 0.0:
        return _undefined_metrics()
    return _metrics(lam, _numerical_rank(lam, None), compat)


def _metrics(lam: FloatArray, rank: int, compat: str | None) -> dict[str, Any]:
    peer, dim = is_peer(compat), len(lam)
    # Relative to the first, so that neither tiny nor huge activations under- or overflow when squared.
    relative = lam if peer else lam / lam[0]
    total = float(relative.sum())
    shares = relative / total
    participation = total**2 / float(np.sum(relative**2))
    entropy = float(np.exp(_entropy(shares)))
    cumulative = np.cumsum(shares)
    # A tie such as 0.9 + 0.1 is decided by the numbers, not by how their sum was rounded.
    slack = 0.0 if peer else 4 * dim * _EPS
    return {
        "d_pr": participation,
        "d_pr_norm": participation / dim,
        "d_entropy": entropy,
        "d_entropy_norm": entropy / dim,
        "stable_rank": total / float(relative[0]),
        "top1_share": float(shares[0]),
        "top10_share": float(shares[:10].sum()),
        "top32_share": float(shares[:32].sum()),
        "k90": int(np.searchsorted(cumulative, 0.90 * (1 - slack))) + 1,
        "k95": int(np.searchsorted(cumulative, 0.95 * (1 - slack))) + 1,
        "log_spectrum_slope_10_200": _slope(lam + 1e-30 if peer else lam, dim if peer else rank),
    }


def _entropy(shares: FloatArray) -> float:
    positive = shares[shares > 0]
    return float(-np.sum(positive * np.log(positive)))


def _slope(lam: FloatArray, stop: int) -> float:
    logs = np.log(lam[10 : min(200, stop)])
    if len(logs) < _MIN_SLOPE_POINTS:
        return float("nan")
    ranks = np.arange(len(logs)) - (len(logs) - 1) / 2
    return float(ranks @ (logs - logs.mean()) / (ranks @ ranks))


def _numerical_rank(lam: FloatArray, count: float | None) -> int:
    rank = int(np.sum(lam > len(lam) * _EPS * lam[0]))
    return rank if count is None else min(rank, int(count) - 1)


def _debiased_participation(lam: FloatArray, count: float) -> float:
    """``(tr Sigma)^2 / tr Sigma^2`` from unbiased estimates of both (Gaussian rows), NaN where there is none.

    With nu = count - 1: ``E tr S^2 = (1 + 1/nu) tr Sigma^2 + (tr Sigma)^2 / nu`` and
    ``E (tr S)^2 = (tr Sigma)^2 + 2/nu tr Sigma^2`` (moments of the Wishart distribution).
    """
    nu = count - 1
    if nu < 2:
        return float("nan")
    relative = lam / lam[0]
    trace_squared, square_trace = float(relative.sum()) ** 2, float(np.sum(relative**2))
    squares = nu**2 / ((nu - 1) * (nu + 2)) * (square_trace - trace_squared / nu)
    if not squares > _EPS * square_trace:
        return float("nan")
    ratio = (trace_squared - 2 / nu * squares) / squares
    return ratio if ratio > 0 else float("nan")


def _symmetric(covariance: Any) -> FloatArray:
    """``[d, d]`` in float64, exactly symmetric; the asymmetry allowed is sqrt(eps) of the dtype given."""
    matrix = as_float64(covariance, "covariance", 2)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"covariance must be square, got shape {matrix.shape}")
    given = str(getattr(covariance, "dtype", "float64"))
    tolerance = 1e-2 if given.endswith("16") else 1e-3 if given.endswith("float32") else 1e-8
    asymmetry = float(np.max(np.abs(matrix - matrix.T), initial=0.0))
    if asymmetry > tolerance * float(np.max(np.abs(matrix), initial=0.0)):
        raise ValueError(f"covariance must be symmetric, got entries that differ by {asymmetry:.6g}")
    return np.asarray((matrix + matrix.T) / 2)


def _eigenvalues(source: Any) -> FloatArray:
    """Descending, not yet clipped."""
    if np.ndim(source) == 2:
        matrix = _symmetric(source)
        return np.asarray(np.linalg.eigvalsh(matrix)[::-1]) if len(matrix) else np.empty(0)
    if np.ndim(source) != 1:
        raise ValueError(
            f"a covariance must be [d, d], eigenvalues must be [d], got shape {np.shape(source)}"
        )
    return np.sort(as_float64(source, "eigenvalues", 1))[::-1]


def eigenpairs(covariance: Any) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues ``[d]`` (descending, clipped at 0) and eigenvectors ``[d, d]`` (columns), LAPACK in
    float64.

    The sign of a vector is fixed: its entry of largest magnitude is positive.

    Args:
        covariance: A symmetric ``[d, d]`` array or an object with ``.covariance()``.

    Raises:
        ValueError: As :func:`spectrum`.
    """
    matrix = _symmetric(covariance.covariance() if hasattr(covariance, "covariance") else covariance)
    if len(matrix) == 0:
        raise ValueError(f"a spectrum needs d >= 1, got shape {matrix.shape}")
    values, vectors = np.linalg.eigh(matrix)
    largest = np.argmax(np.abs(vectors), axis=0)
    signs = np.sign(vectors[largest, np.arange(len(matrix))])
    return np.maximum(values[::-1], 0.0), np.ascontiguousarray((vectors * signs)[:, ::-1])


def spectral_standard_errors(
    sample: Any,
    mean: Any,
    eigenvalues: Any,
    eigenvectors: Any,
    *,
    count: int,
    groups: Any = None,
    group_size: float | None = None,
) -> dict[str, float]:
    """Standard errors of d_pr, d_entropy, stable_rank and top1_share by the infinitesimal jackknife.

    The influence of row x on ``f(lambda)`` is ``sum_i df/dlambda_i ((v_i^T (x - mean))^2 - lambda_i)``; with
    independent rows the error is ``std(influence) / sqrt(count)``. Rows of one text are not independent: with
    ``groups`` the variance is inflated by ``1 + (group_size - 1) * icc``, where the intra-class correlation
    icc >= 0 comes from a one-way analysis of variance of the influences (Efron 1982; Kish 1965).

    Args:
        sample: ``[m, d]``, rows drawn from the data (all of them, or a random part).
        mean: ``[d]`` of the full data.
        eigenvalues: ``[d]`` of the full covariance, descending.
        eigenvectors: ``[d, d]``, columns in the same order.
        count: Rows of the full data.
        groups: ``[m]`` labels (sequence ids) of the sampled rows.
        group_size: Mean rows per group in the full data (``sum s^2 / sum s`` for uneven sizes); by default
            that of the sample. The icc has an error of about ``sqrt(2 / (m (m/G - 1)))`` for G groups, and
            ``group_size`` multiplies it: of 200 texts of 256 tokens, 512 sampled rows give errors that are
            off by a factor of 3 or more, 4096 rows by 1.4.

    Returns:
        ``d_pr_se``, ``d_entropy_se``, ``stable_rank_se``, ``top1_share_se``; NaN where no error can be
        estimated: fewer than two rows or groups, no two rows in one group, no variance. The error of
            stable_rank and top1_share
        needs a first eigenvalue apart from the second.
    """
    lam = as_float64(eigenvalues, "eigenvalues", 1)
    projections = _projections(sample, mean, lam, eigenvectors)
    m = len(projections)
    if operator.index(count) < m:
        raise ValueError(f"count must be at least the {m} sampled rows, got {count}")
    names = ("d_pr_se", "d_entropy_se", "stable_rank_se", "top1_share_se")
    if m < 2 or lam[0] <= 0:
        return dict.fromkeys(names, float("nan"))
    influences = (projections**2 - lam) @ _gradients(lam).T
    if groups is None:
        variance = influences.var(axis=0, ddof=1)
    else:
        variance = _clustered_variance(influences, np.asarray(groups), group_size)
    return dict(zip(names, np.sqrt(variance / count).tolist(), strict=True))


def _projections(sample: Any, mean: Any, lam: FloatArray, eigenvectors: Any) -> FloatArray:
    """``[m, d]``: centred rows in the eigenbasis."""
    x, centre = as_float64(sample, "sample", 2), as_float64(mean, "mean", 1)
    vectors, d = as_float64(eigenvectors, "eigenvectors", 2), x.shape[1]
    if d == 0 or not (centre.shape == lam.shape == (d,) and vectors.shape == (d, d)):
        raise ValueError(
            f"sample [m, d] needs mean [d], eigenvalues [d] and eigenvectors [d, d], "
            f"got {x.shape}, {centre.shape}, {lam.shape}, {vectors.shape}"
        )
    return np.asarray((x - centre) @ vectors)


def _gradients(lam: FloatArray) -> FloatArray:
    """``[4, d]``: derivatives of d_pr, d_entropy, stable_rank and top1_share by each eigenvalue."""
    total, squares = lam.sum(), np.sum(lam**2)
    shares = lam / total
    entropy = _entropy(shares)
    # A null direction has no projection either: 0 instead of ln 0.
    seen = lam > len(lam) * _EPS * lam[0]
    logs = np.log(np.where(seen, shares, 1.0))
    first = np.arange(len(lam)) == 0
    return np.stack(
        [
            2 * total / squares - 2 * total**2 * lam / squares**2,
            np.where(seen, -np.exp(entropy) * (logs + entropy) / total, 0.0),
            1 / lam[0] - first * total / lam[0] ** 2,
            first / total - lam[0] / total**2,
        ]
    )


def _clustered_variance(values: FloatArray, groups: NDArray[Any], group_size: float | None) -> FloatArray:
    """``[c]``: variance of a row times its design effect, from ``[m, c]`` values and ``[m]`` labels."""
    m = len(values)
    if groups.shape != (m,):
        raise ValueError(f"groups must label each of the {m} rows, got shape {groups.shape}")
    _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    size = m / len(sizes) if group_size is None else group_size
    if not size >= 1:
        raise ValueError(f"group_size must be >= 1, got {size!r}")
    if len(sizes) < 2 or len(sizes) == m:
        return np.full(values.shape[1], np.nan)
    sums = np.zeros((len(sizes), values.shape[1]))
    np.add.at(sums, index, values)
    means = sums / sizes[:, None]
    within = np.sum((values - means[index]) ** 2, axis=0) / (m - len(sizes))
    between = (sizes @ (means - values.mean(axis=0)) ** 2) / (len(sizes) - 1)
    rows_per_group = (m - np.sum(sizes**2) / m) / (len(sizes) - 1)
    shared = np.maximum(0.0, (between - within) / rows_per_group)
    return np.asarray(within + shared + (size - 1) * shared)


def sample_svd_metrics(
    x: Any, topk_components: Sequence[int] = (4, 8, 16, 32), compat: str | None = None
) -> dict[str, float]:
    """Metrics of a row sample ``[n, d]`` through the singular values s of the column-centred sample.

    ``sv_effective_rank = exp(H(s / sum s))`` (singular values *not* squared, as the peer),
    ``sv_stable_rank = sum s^2 / s_1^2``, ``sv_participation_ratio = (sum s^2)^2 / sum s^4``, ``ve_k`` = share
    of the first k of ``s^2``, ``cos_sim_mean`` and ``cos_sim_std`` (ddof 1) over all ordered pairs of
    different *uncentred* rows (a zero row has cosine 0), and ``sv_entropy_rank = exp(H(s^2 / sum s^2))``,
    comparable with ``d_entropy``. Singular values count above ``max(n, d) * eps * s_1``; under ``compat``
    above 1e-10, without ``sv_entropy_rank``. All NaN with fewer than two rows or when all rows are equal.

    Raises:
        ValueError: NaN, inf or another number of axes.
    """
    peer = is_peer(compat)
    rows = as_float64(x, "x", 2)
    s = _centred_singular_values(rows, peer)
    s = s[s > 0]
    names = ["sv_effective_rank", "sv_stable_rank", "sv_participation_ratio", "cos_sim_mean", "cos_sim_std"]
    names += [f"ve_{k}" for k in topk_components] + ([] if peer else ["sv_entropy_rank"])
    if len(rows) < 2 or len(s) == 0:
        return dict.fromkeys(names, float("nan"))
    s = s / s[0]
    energy = s**2 / np.sum(s**2)
    values = [np.exp(_entropy(s / s.sum())), 1 / energy[0], 1 / np.sum(energy**2), *_cosine_moments(rows)]
    values += [energy[:k].sum() for k in topk_components] + ([] if peer else [np.exp(_entropy(energy))])
    return dict(zip(names, map(float, values), strict=True))


def _centred_singular_values(rows: FloatArray, peer: bool) -> FloatArray:
    """``[min(n, d)]`` descending; what is below the cut-off is set to 0."""
    if min(rows.shape) == 0:
        return np.zeros(0)
    s = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    # Rounding of the mean leaves about eps * |x| even when all rows are equal.
    cut = 1e-10 if peer else max(max(rows.shape) * _EPS * s[0], 4 * _EPS * float(np.linalg.norm(rows)))
    return np.where(s > cut, s, 0.0)


def _cosine_moments(rows: FloatArray) -> tuple[float, float]:
    """Mean and standard deviation (ddof 1) of the cosines of all ordered pairs, in blocks of rows."""
    n = len(rows)
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    pairs = n * (n - 1)
    squared_norms = np.sum(unit**2, axis=1)
    mean = float((np.sum(unit.sum(axis=0) ** 2) - squared_norms.sum()) / pairs)
    squares = 0.0
    for start in range(0, n, 256):
        cosines = unit[start : start + 256] @ unit.T - mean
        np.fill_diagonal(cosines[:, start:], 0.0)
        squares += float(np.sum(cosines**2))
    return mean, float(np.sqrt(squares / (pairs - 1)))


def transform_activation(x: Any, variant: str) -> FloatArray:
    """``[n, d]`` activations, normalised in float64.

    ``raw``: as they are. ``token_l2``: rows over ``max(norm, 1e-12)``. ``token_rms``: rows over
    ``max(sqrt(mean x^2), 1e-12)``. ``feature_standardized``: columns minus mean, over ``max(std, 1e-12)``
    with ddof 1; a column that is constant up to rounding becomes 0.

    Raises:
        ValueError: Another variant, NaN, inf, or ``feature_standardized`` with fewer than two rows.
    """
    rows = as_float64(x, "x", 2)
    if variant == "raw":
        return rows
    if variant in ("token_l2", "token_rms"):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        scale = norms if variant == "token_l2" else norms / np.sqrt(max(1, rows.shape[1]))
        return np.asarray(rows / np.maximum(scale, 1e-12))
    if variant != "feature_standardized":
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    if len(rows) < 2:
        raise ValueError(f"feature_standardized needs at least 2 rows, got {len(rows)}")
    std = rows.std(axis=0, ddof=1)
    varies = std > 4 * _EPS * np.abs(rows).max(axis=0)
    return np.where(varies, (rows - rows.mean(axis=0)) / np.maximum(std, 1e-12), 0.0)


def normalization_ablation(
    x: Any, compat: str | None = None, labels: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """One row per variant of :data:`VARIANTS`: the spectral metrics of the transformed sample ``[n, d]``.

    Eigenvalues are the squared singular values of the centred sample, filled up with zeros to d, so that
    ``d_pr_norm`` is over d as in the main table (under ``compat``: over ``min(n, d)``). Each row: the eleven
    metrics, then ``labels`` (model_key, model_label, layer), ``variant``, ``tokens`` (n), ``hidden_dim`` (d).
    No rows when n < 2.
    """
    peer = is_peer(compat)
    rows = as_float64(x, "x", 2)
    n, d = rows.shape
    table = []
    for variant in VARIANTS if n >= 2 and d else ():
        lam = _centred_singular_values(transform_activation(rows, variant), peer=False) ** 2
        lam = lam if peer else np.pad(lam, (0, d - len(lam)))
        metrics = metric_from_eigenvalues(lam, compat)
        table.append({**metrics, **(labels or {}), "variant": variant, "tokens": n, "hidden_dim": d})
    return table
