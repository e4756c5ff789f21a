"""The intrinsic dimension around each point, and its mean over points, from k neighbours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from math import isqrt, log
from typing import Any, Final

import numpy as np

from repgeom.checks import FloatArray, check_integer, refusal
from repgeom.estimates import (
    OK,
    DimensionEstimate,
    DimensionProfile,
    Estimates,
    no_estimate,
    over_layers,
)
from repgeom.neighborhoods import Neighborhoods, Search, neighborhoods, shared_error, too_few
from repgeom.neighbors import Metric, Neighbors

COMBINATIONS: Final = ("harmonic", "mean", "median")


@dataclasses.dataclass(frozen=True)
class LocalDimensions:
    """The dimension around each point.

    Attributes:
        values: ``[n]``, one for each point, equal for copies; NaN where the distances needed are zero, equal
            or not in the lists given.
        relative_error: Standard error of each value, as a share of it.
        overall: One dimension for all points.
        k: Neighbours looked at.
    """

    values: FloatArray
    relative_error: float
    overall: DimensionEstimate
    k: int

    @property
    def value(self) -> float:
        """The overall dimension."""
        return self.overall.value

    @property
    def standard_error(self) -> float:
        """The error of the overall dimension."""
        return self.overall.standard_error

    @property
    def settings(self) -> Mapping[str, Any]:
        """The arguments behind the values."""
        return self.overall.settings

    @property
    def status(self) -> str:
        """``"ok"``, or why there is no overall value."""
        return self.overall.status


def auto_k(n: int) -> int:
    """What ``k="auto"`` stands for with n points: sqrt(n), at least 2, such that 2k neighbours exist."""
    return max(2, min(isqrt(n), (n - 1) // 2))


def local_dimension(
    x: Any,
    *,
    k: int | str = "auto",
    duplicates: str = "drop",
    metric: Metric = "euclidean",
    seed: int = 0,
    threads: int | None = None,
) -> Estimates:
    """Dimension around each point from the growth of neighbourhoods, ``ln 2 / ln(R_2k / R_k)``.

    The overall value is ``(1/k + ... + 1/(2k - 1)) / mean ln(R_2k / R_k)``: the numerator is the expectation
    of ``d ln(R_2k / R_k)``, which ln 2 undershoots by about ``1 / 4k``.

    Args:
        x: ``[n, d]``, `Neighbors` with 2k columns, a dict or list of them, or a stack ``[..., n, d]``.
        k: At least 2, or ``"auto"``, see `auto_k`.
        duplicates: As in `two_nn`.
        metric: As in `knn`; with ``"cosine"`` distances are chords.
        seed: Of the jitter.
        threads: As in `knn`.

    Returns:
        A `LocalDimensions`; of several layers as many, in the shape that they came in.

    Raises:
        ValueError: Fewer than 2k + 1 points, NaN or infinity, k below 2.
    """
    if k != "auto":
        check_integer("k", k, 2)
    search = Search(duplicates, metric, seed, threads)

    def measure(layer: Any) -> LocalDimensions:
        n = _rows(layer)
        near = auto_k(n) if isinstance(k, str) else k
        if n < 2 * near + 1:
            raise refusal(f"k = {near} needs at least {2 * near + 1} points", n)
        return _growth(neighborhoods(layer, 2 * near, search), near, search)

    return over_layers(measure, x)


def mle_dimension(
    x: Any,
    *,
    k: int | Sequence[int] = 20,
    combine: str = "harmonic",
    duplicates: str = "drop",
    metric: Metric = "euclidean",
    seed: int = 0,
    threads: int | None = None,
) -> Estimates:
    """Maximum likelihood from k neighbours (Levina and Bickel 2004), ``(k - 1) / sum_j ln(R_k / R_j)`` each.

    Args:
        x: ``[n, d]``, `Neighbors`, a dict or list of them, or a stack ``[..., n, d]``.
        k: Neighbours, at least 3; several numbers give a profile over scales.
        combine: ``"harmonic"`` averages the inverses over points, the maximum of the joint likelihood (MacKay
            and Ghahramani 2005); ``"mean"`` (biased upwards by ``1 / (k - 2)``) and ``"median"`` are what
            other programs offer.
        duplicates: As in `two_nn`.
        metric: As in `knn`; with ``"cosine"`` distances are chords.
        seed: Of the jitter.
        threads: As in `knn`.

    Returns:
        A `LocalDimensions`, or a `DimensionProfile` for several k; of several layers as many.

    Raises:
        ValueError: k + 1 points or fewer, NaN or infinity, k below 3, an unknown word.
    """
    if combine not in COMBINATIONS:
        raise refusal(f"combine must be one of {', '.join(COMBINATIONS)}", repr(combine))
    several = [k] if isinstance(k, int) else sorted(k)
    if not several:
        raise refusal("k must name at least one number of neighbours", repr(k))
    for one in several:
        check_integer("k", one, 3)
    search = Search(duplicates, metric, seed, threads)

    def measure(layer: Any) -> LocalDimensions | DimensionProfile:
        n = _rows(layer)
        if n < several[-1] + 1:
            raise refusal(f"k = {several[-1]} needs at least {several[-1] + 1} points", n)
        hood = neighborhoods(layer, several[-1], search)
        found = [_levina_bickel(hood, one, combine, search) for one in several]
        if isinstance(k, int):
            return found[0]
        return DimensionProfile("k", np.array(several, np.int64), tuple(one.overall for one in found))

    return over_layers(measure, x)


def _rows(layer: Any) -> int:
    n = len(layer.distances) if isinstance(layer, Neighbors) else int(layer.shape[0])
    if n < 3:
        raise refusal("a dimension needs at least 3 points", n)
    return n


def _growth(hood: Neighborhoods, k: int, search: Search) -> LocalDimensions:
    settings = {
        "estimator": "local_dimension",
        "k": k,
        "duplicates": search.duplicates,
        "metric": search.metric,
    }
    inverses = range(k, 2 * k)
    expected = sum(1 / j for j in inverses)
    relative = float(np.sqrt(sum(1 / j**2 for j in inverses))) / expected
    logs = hood.log_ratio(k, 2 * k) if hood.k >= 2 * k else np.full(len(hood.distances), np.inf)
    usable = np.isfinite(logs)
    local = np.full(len(logs), np.nan)
    np.divide(log(2), logs, out=local, where=usable & (logs > 0))
    scale = hood.distances[usable][:, [k - 1, 2 * k - 1]] if usable.any() else None
    overall = _overall(hood, logs, (expected, relative), scale, settings)
    return LocalDimensions(local[hood.owner], relative, overall, k)


def _levina_bickel(hood: Neighborhoods, k: int, combine: str, search: Search) -> LocalDimensions:
    settings = {
        "estimator": "mle_dimension",
        "k": k,
        "combine": combine,
        "duplicates": search.duplicates,
        "metric": search.metric,
    }
    relative = 1 / float(np.sqrt(k - 1))
    sums = np.full(len(hood.distances), np.inf)
    if hood.k >= k:
        inner, outer = hood.distances[:, : k - 1], hood.distances[:, k - 1 : k]
        usable = (inner[:, 0] > 0) & np.isfinite(outer[:, 0])
        sums[usable] = np.log1p((outer[usable] - inner[usable]) / inner[usable]).sum(axis=1)
    usable = np.isfinite(sums)
    local = np.full(len(sums), np.nan)
    np.divide(k - 1, sums, out=local, where=usable & (sums > 0))
    scale = hood.distances[usable, :k] if usable.any() else None
    overall = _overall(hood, sums, (k - 1, relative), scale, settings)
    if combine != "harmonic" and overall.ok:
        overall = _recombined(overall, local, combine, hood.indices[:, :k])
    return LocalDimensions(local[hood.owner], relative, overall, k)


def _overall(
    hood: Neighborhoods,
    logs: FloatArray,
    model: tuple[float, float],
    used: FloatArray | None,
    settings: Mapping[str, Any],
) -> DimensionEstimate:
    """``expected / mean(logs)``; the model says the mean of d times a logarithm and its relative spread."""
    expected, relative = model
    usable = np.isfinite(logs)
    n, k = int(usable.sum()), int(settings["k"])
    reason = too_few(hood, n)
    if reason is None and not logs[usable].max() > 0:
        reason = "the distances used are equal around every point"
    if reason is not None:
        return no_estimate(reason, n, hood.given - n, settings, hood.warnings)
    value = expected / float(logs[usable].mean())
    independent = value * relative / float(np.sqrt(n))
    influence = np.where(usable, value * (1 - value / expected * np.where(usable, logs, 0.0)), 0.0) / n
    error = max(independent, shared_error(influence, hood.indices, k))
    scale = float(np.mean(used)) if used is not None else float("nan")
    return DimensionEstimate(value, error, independent, n, hood.given - n, scale, OK, settings, hood.warnings)


def _recombined(
    overall: DimensionEstimate, local: FloatArray, combine: str, indices: Any
) -> DimensionEstimate:
    """The mean or median of local values instead of the joint likelihood."""
    usable = np.isfinite(local)
    values, n = local[usable], int(usable.sum())
    influence = np.zeros(len(local))
    if combine == "mean":
        value = float(values.mean())
        influence[usable] = (values - value) / n
    else:
        value = float(np.median(values))
        low, high = np.quantile(values, [0.4, 0.6])
        # The density of the values at their median, from the fifth of them around it.
        influence[usable] = np.sign(values - value) * (high - low) / 0.4 / n
    independent = float(np.sqrt(np.sum(influence**2)))
    error = max(independent, shared_error(influence, indices, indices.shape[1]))
    return dataclasses.replace(
        overall,
        value=value,
        standard_error=error,
        independent_error=independent,
        n=n,
        n_dropped=overall.n + overall.n_dropped - n,
    )
