"""Covariance or activations to eigenvalues, eigenvalues to spectral metrics with their evidence.

Two conventions hold everywhere: all sums are float64, and shares are shares of *variance* (eigenvalues, that
is squared singular values) unless a name starts with ``sv_effective_rank``. Entropies are in nats. With
``compat="representation-geometry"`` the numbers of representation_geometry 0.1.0 come back, its faults
included.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from repgeom.checks import FloatArray, as_float64, is_peer, refusal
from repgeom.covariance_sketch import extreme_spectra
from repgeom.sketches import FrequentDirections, NystromSketch, SketchedSpectrum

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

BOUNDED: Final = (
    *("d_pr", "d_entropy", "stable_rank", "top1_share", "top10_share", "top32_share", "k90", "k95"),
)

_EPS: Final = float(np.finfo(np.float64).eps)
_MIN_SLOPE_POINTS: Final = 6


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues of one covariance and what they say; made by :func:`spectrum`.

    Of a sketch (``status="sketch"``) the trace is exact and no eigenvalue is above that of the covariance;
    every metric in ``bounds`` lies between them for certain, up to rounding. ``d_pr`` is an estimate (exact
    in one pass it would need ``[d, d]`` or ``[n, n]`` memory), ``stable_rank`` the upper and the shares the
    lower bound, ``k90`` and ``k95`` are -1 unless the bounds agree, and ``d_entropy``,
    ``log_spectrum_slope_10_200`` and ``d_pr_debiased`` are NaN.

    Attributes:
        eigenvalues: ``[d]`` float64, descending, clipped at 0 (units: activation squared). Of a sketch the
            ``[l]`` that it has.
        dim: Number of features d.
        count: Rows behind the covariance, None when unknown.
        rank: Eigenvalues above ``d * eps * lambda_1``, and at most ``count - 1``. Of a sketch: of those that
            it has.
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
            anything), ``"sketch"``, ``"zero"`` (no variance) or ``"too few rows"`` (``count < 2``); the last
            two have NaN metrics.
        warnings: One sentence for each value that should not be taken at its face.
        bounds: Of a sketch: lowest and highest value of ``d_pr``, ``d_entropy``, ``stable_rank``, the shares,
            ``k90`` and ``k95``. Empty otherwise.
        d_pr_error: Standard error of ``d_pr`` over the random test vectors of a sketch, at a fixed sketch;
            NaN where there is none. Not the sampling error of the rows.
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
    bounds: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    d_pr_error: float = float("nan")

    @property
    def metrics(self) -> dict[str, float]:
        """The eleven metrics under the peer's names, in the peer's order (one table row)."""
        return {name: getattr(self, name) for name in METRIC_NAMES}

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain Python values, arrays and tuples as lists."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        bounds = {name: list(pair) for name, pair in self.bounds.items()}
        lists = {"eigenvalues": self.eigenvalues.tolist(), "warnings": list(self.warnings), "bounds": bounds}
        return {**fields, **lists}


def spectrum(
    covariance_or_eigenvalues: Any,
    *,
    count: float | None = None,
    resolution: float | None = None,
    compat: str | None = None,
) -> Spectrum:
    """Measure the spectrum of a covariance.

    Args:
        covariance_or_eigenvalues: An object with ``.covariance()`` and ``.count``, a symmetric positive
            semi-definite ``[d, d]`` array, ``[d]`` eigenvalues in any order, or a sketch
            (:class:`repgeom.NystromSketch`, :class:`repgeom.FrequentDirections`, or what the first one
            reads).
        count: Rows the covariance was estimated from; by default the object's own count.
        resolution: Eigenvalues below it are rounding noise of the covariance; by default the object's own
            resolution, else 0. They do not count in ``rank`` and the slope.
        compat: ``"representation-geometry"`` for the peer's slope and tie rules; not for a sketch.

    Raises:
        ValueError: NaN or inf, an asymmetric or non-square matrix, another number of axes, d = 0, or a sketch
            with ``compat``.
    """
    peer = is_peer(compat)
    source = covariance_or_eigenvalues
    if isinstance(source, (SketchedSpectrum, NystromSketch, FrequentDirections)):
        if peer:
            raise refusal(f"compat={compat!r} needs all eigenvalues", f"a {type(source).__name__}")
        return _of_sketch(source, _checked_count(count), resolution or 0.0)
    streamed = hasattr(source, "covariance") and hasattr(source, "count")
    count = _checked_count(source.count if streamed and count is None else count)
    if streamed and count is not None and count < 2:
        return _undefined(
            np.full(getattr(source, "dim", None) or np.size(source.mean), np.nan), count, 0.0, "too few rows"
        )
    if resolution is None:
        resolution = float(getattr(source, "resolution", 0.0)) if streamed else 0.0
    values = _eigenvalues(source.covariance() if streamed else source)
    if len(values) == 0:
        raise ValueError(f"a spectrum needs d >= 1, got shape {np.shape(source)}")
    lowest = min(0.0, float(values[-1]))
    values = np.maximum(values, 0.0)
    if count is not None and count < 2:
        return _undefined(np.full(len(values), np.nan), count, lowest, "too few rows")
    if values[0] <= 0.0:
        return _undefined(values, count, lowest, "zero")
    return _measured(values, count, lowest, resolution, compat)


def _checked_count(count: float | None) -> float | None:
    if count is None:
        return None
    if not 0 <= count < float("inf"):
        raise ValueError(f"count must be a finite number >= 0, got {count!r}")
    return int(count) if count == int(count) else float(count)


def _measured(
    values: FloatArray, count: float | None, lowest: float, resolution: float, compat: str | None
) -> Spectrum:
    dim = len(values)
    rank = _numerical_rank(values, count, resolution)
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
            _warnings(
                values,
                count,
                lowest=lowest + resolution,
                rank=rank,
                metrics=metrics,
                debiased=debiased,
            )
        ),
        **metrics,
    )


def _of_sketch(
    sketch: SketchedSpectrum | NystromSketch | FrequentDirections, count: float | None, resolution: float
) -> Spectrum:
    dim = len(sketch.vectors) if isinstance(sketch, SketchedSpectrum) else sketch.dim
    count = sketch.count if count is None else count
    if count < 2:
        return _undefined(np.full(dim, np.nan), count, 0.0, "too few rows")
    d_pr = d_pr_error = float("nan")
    if isinstance(sketch, FrequentDirections):
        pairs = sketch.eigenpairs(min(dim, sketch.directions))
        values, trace = pairs.values, pairs.trace
    else:
        found = sketch.read() if isinstance(sketch, NystromSketch) else sketch
        values, trace, d_pr, d_pr_error = found.values, found.trace, found.d_pr, found.d_pr_error
    if not trace > 0:
        return _undefined(np.zeros(len(values)), count, 0.0, "zero", dim)
    rank = int(np.sum(values > max(dim * _EPS * values[0], resolution)))
    # A covariance of n rows has at most n - 1 eigenvalues above 0.
    extremes = extreme_spectra(values, trace, min(dim, max(sketch.count - 1, 1)))
    flattest, steepest = (_metrics(lam, 0, None) for lam in extremes)
    bounds = {
        name: (min(flattest[name], steepest[name]), max(flattest[name], steepest[name])) for name in BOUNDED
    }
    metrics = _undefined_metrics()
    metrics |= {name: bounds[name][0] for name in ("top1_share", "top10_share", "top32_share")}
    metrics |= {name: bounds[name][0] for name in ("k90", "k95") if bounds[name][0] == bounds[name][1]}
    metrics["stable_rank"] = bounds["stable_rank"][1]
    metrics["d_pr"] = float(np.clip(d_pr, *bounds["d_pr"]))
    metrics["d_pr_norm"] = metrics["d_pr"] / dim
    return Spectrum(
        eigenvalues=values,
        dim=dim,
        count=count,
        rank=min(rank, int(count) - 1),
        d_pr_debiased=float("nan"),
        near_rank_one=bool(metrics["top1_share"] >= 0.99),
        most_negative=0.0,
        status="sketch",
        warnings=tuple(_sketch_warnings(len(values), dim, count, 1 - float(values.sum()) / trace)),
        bounds=bounds,
        d_pr_error=d_pr_error,
        **metrics,
    )


def _sketch_warnings(columns: int, dim: int, count: float, missing: float) -> Iterator[str]:
    yield (
        f"a sketch: d_pr is an estimate, shares and stable_rank are bounds, {columns} of {dim} eigenvalues "
        f"are known from below and {max(0.0, missing):.2%} of the variance lies elsewhere; d_entropy, slope "
        "and d_pr_debiased need all eigenvalues"
    )
    if count < 10 * dim:
        yield f"{count} rows for {dim} dimensions: dimensions are biased low; 10 rows per dimension are safer"


def _undefined(
    values: FloatArray, count: float | None, lowest: float, status: str, dim: int | None = None
) -> Spectrum:
    return Spectrum(
        eigenvalues=values,
        dim=len(values) if dim is None else dim,
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
    elif count is not None and count < 10 * dim:
        yield f"{count} rows for {dim} dimensions: dimensions are biased low; 10 rows per dimension are safer"
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
    d_entropy = float(np.exp(entropy(shares)))
    cumulative = np.cumsum(shares)
    # A tie such as 0.9 + 0.1 is decided by the numbers, not by how their sum was rounded.
    slack = 0.0 if peer else 4 * dim * _EPS
    return {
        "d_pr": participation,
        "d_pr_norm": participation / dim,
        "d_entropy": d_entropy,
        "d_entropy_norm": d_entropy / dim,
        "stable_rank": total / float(relative[0]),
        "top1_share": float(shares[0]),
        "top10_share": float(shares[:10].sum()),
        "top32_share": float(shares[:32].sum()),
        "k90": int(np.searchsorted(cumulative, 0.90 * (1 - slack))) + 1,
        "k95": int(np.searchsorted(cumulative, 0.95 * (1 - slack))) + 1,
        "log_spectrum_slope_10_200": _slope(lam + 1e-30 if peer else lam, dim if peer else rank),
    }


def entropy(shares: FloatArray) -> float:
    """``-sum p ln p`` in nats, with ``0 ln 0 = 0``."""
    positive = shares[shares > 0]
    return float(-np.sum(positive * np.log(positive)))


def _slope(lam: FloatArray, stop: int) -> float:
    logs = np.log(lam[10 : min(200, stop)])
    if len(logs) < _MIN_SLOPE_POINTS:
        return float("nan")
    ranks = np.arange(len(logs)) - (len(logs) - 1) / 2
    return float(ranks @ (logs - logs.mean()) / (ranks @ ranks))


def _numerical_rank(lam: FloatArray, count: float | None, resolution: float = 0.0) -> int:
    rank = int(np.sum(lam > max(len(lam) * _EPS * lam[0], resolution)))
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
