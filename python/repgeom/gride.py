"""Gride: the intrinsic dimension at growing scales from ratios of neighbour distances (Denti et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from repgeom.checks import FloatArray, check_integer, refusal
from repgeom.estimates import OK, DimensionEstimate, DimensionProfile, Estimates, no_estimate, over_layers
from repgeom.neighborhoods import Neighborhoods, Search, neighborhoods, shared_error, too_few
from repgeom.neighbors import Metric

DADAPY: Final = "dadapy"
_EPS: Final = float(np.finfo(np.float64).eps)


def gride(
    x: Any,
    *,
    max_rank: int = 64,
    pairs: Sequence[tuple[int, int]] | None = None,
    duplicates: str = "drop",
    metric: Metric = "euclidean",
    seed: int = 0,
    threads: int | None = None,
    compat: str | None = None,
) -> Estimates:
    """Intrinsic dimension from ``mu = r_n2 / r_n1`` for the rank pairs (1, 2), (2, 4), (4, 8), ...

    The ratio has density ``d (mu^d - 1)^(n2 - n1 - 1) / (B(n2 - n1, n1) mu^((n2 - 1) d + 1))`` where the
    density of points hardly changes over n2 neighbours; each scale is the maximum of its likelihood. All
    points take part at every scale: larger ranks look at larger neighbourhoods, with smaller errors.

    Args:
        x: ``[n, d]``, `Neighbors`, a dict or list of them, or a stack ``[..., n, d]``.
        max_rank: The largest rank, rounded down to a power of two and to the neighbours that there are.
        pairs: Other pairs (n1, n2) with n1 < n2, instead of ``max_rank``.
        duplicates: As in `two_nn`.
        metric: As in `knn`; with ``"cosine"`` distances are chords.
        seed: Of the jitter.
        threads: As in `knn`.
        compat: ``"dadapy"``: its numbers, with N - 1 in the score, ratios above ``q50 + 20 (q95 - q50)`` left
            out of it but not of its error, which is `independent_error` there.

    Returns:
        A `DimensionProfile` over ranks n2; of several layers as many, in the shape that they came in.

    Raises:
        ValueError: Fewer than 3 points, NaN or infinity, ranks below 1 or out of order, or beyond the lists
            given.
    """
    check_integer("max_rank", max_rank, 2)
    if compat not in (None, DADAPY):
        raise refusal(f"compat must be None or {DADAPY!r}", repr(compat))
    chosen = None if pairs is None else [_checked(pair) for pair in pairs]
    if chosen == []:
        raise refusal("pairs must name at least one pair of ranks", "none")
    wanted = max_rank if chosen is None else max(far for _, far in chosen)
    search = Search(duplicates, metric, seed, threads)

    def profile(layer: Any) -> DimensionProfile:
        hood = neighborhoods(layer, wanted, search, 2 if chosen is None else None)
        ranks = _doubling(min(max_rank, hood.k)) if chosen is None else chosen
        estimates = [_estimate(hood, near, far, compat, search) for near, far in ranks]
        said = list(hood.warnings)
        if chosen is None and len(ranks) < len(_doubling(max_rank)):
            said.append(f"ranks up to {hood.k} instead of {max_rank}: there are no more neighbours")
        far_ranks = np.array([far for _, far in ranks], np.int64)
        return DimensionProfile("rank", far_ranks, tuple(estimates), tuple(said))

    return over_layers(profile, x)


def _checked(pair: tuple[int, int]) -> tuple[int, int]:
    near, far = pair
    check_integer("ranks", near, 1)
    check_integer("ranks", far, 1)
    if not near < far:
        raise refusal("a pair of ranks (n1, n2) needs n1 < n2", pair)
    return near, far


def _doubling(largest: int) -> list[tuple[int, int]]:
    """(1, 2), (2, 4), ... up to ``largest``; the first pair always, so that a profile has a status."""
    pairs = [(1, 2)]
    while 2 * pairs[-1][1] <= largest:
        pairs.append((pairs[-1][1], 2 * pairs[-1][1]))
    return pairs


def _estimate(
    hood: Neighborhoods, near: int, far: int, compat: str | None, search: Search
) -> DimensionEstimate:
    settings = {
        "estimator": "gride",
        "ranks": (near, far),
        "duplicates": search.duplicates,
        "metric": search.metric,
        "compat": compat,
    }
    if hood.k < far:
        short = f"too few points: rank {far} needs {far} neighbours, {hood.k} found"
        return no_estimate(too_few(hood, len(hood.distances)) or short, 0, hood.given, settings)
    logs = hood.log_ratio(near, far)
    usable = np.isfinite(logs)
    n, x = int(usable.sum()), logs[usable]
    reason = too_few(hood, n)
    if reason is None and not x.max() > 0:
        reason = f"the distances of ranks {near} and {far} are equal for every point"
    if reason is not None:
        return no_estimate(reason, n, hood.given - n, settings)
    scale = float(hood.distances[usable][:, [near - 1, far - 1]].mean())
    if compat == DADAPY:
        value, independent = _as_dadapy(x, near, far)
        return DimensionEstimate(value, independent, independent, n, hood.given - n, scale, OK, settings)
    value = maximum_likelihood(x, near, far)
    information = fisher_information(x, value, near, far)
    influence = np.zeros(len(logs))
    influence[usable] = score(x, value, near, far) / information
    independent = float(information**-0.5)
    error = max(independent, shared_error(influence, hood.indices, near))
    return DimensionEstimate(value, error, independent, n, hood.given - n, scale, OK, settings)


def maximum_likelihood(x: FloatArray, near: int, far: int, count: int | None = None) -> float:
    """The d that maximises the likelihood of ``x = ln mu``, ``[n]``.

    d times the score, ``count + sum((n2 - n1 - 1) phi(d x) - (n2 - 1) d x)`` with
    ``phi(z) = z / (1 - e^-z)``, falls strictly and is convex in d, so that Newton's steps reach the root from
    below without overshooting; only the first may start above it. Its tangents are positive at d = 0: no step
    leaves the positive numbers.

    Args:
        x: Not negative, not all zero.
        near: The smaller rank n1.
        far: The larger rank n2.
        count: What stands for n in the score.
    """
    between = far - near - 1
    count = len(x) if count is None else count
    d = sum(1 / rank for rank in range(near, far)) / float(x.mean())
    # Five or six steps do; 100 are out of reach.
    for _ in range(100):
        phi, slope = _phi(d * x)
        value = count + float(np.sum(between * phi - (far - 1) * d * x))
        step = value / float(np.sum(x * ((far - 1) - between * slope)))
        d += step
        if abs(step) <= 4 * _EPS * d:
            break
    return d


def score(x: FloatArray, d: float, near: int, far: int) -> FloatArray:
    """``[n]``: derivatives by d of the log-likelihood of each ``x = ln mu``."""
    phi, _ = _phi(d * x)
    return np.asarray((1 + (far - near - 1) * phi) / d - (far - 1) * x)


def fisher_information(x: FloatArray, d: float, near: int, far: int) -> float:
    """Minus the second derivative of the log-likelihood: ``(n + (n2 - n1 - 1) sum (z / 2 sinh(z / 2))^2) /
    d^2`` with ``z = d x``."""
    z = d * x
    return float((len(x) + (far - near - 1) * np.sum(_bump(z))) / d**2)


def _bump(z: FloatArray) -> FloatArray:
    """``(z / (2 sinh(z / 2)))^2``, 1 at 0."""
    fall = -np.expm1(-z)
    ratio = np.divide(z, fall, out=np.ones_like(z), where=fall > 0)
    return np.asarray(ratio**2 * np.exp(-z))


def _phi(z: FloatArray) -> tuple[FloatArray, FloatArray]:
    """``z / (1 - e^-z)`` and its derivative; 1 and 1/2 at 0."""
    fall = -np.expm1(-z)
    phi = np.divide(z, fall, out=np.ones_like(z), where=fall > 0)
    # (1 - phi e^-z) / (1 - e^-z) loses its digits at small z, where the series needs two terms.
    small = z < 1e-3
    slope = np.divide(1 - phi * np.exp(-z), fall, out=np.zeros_like(z), where=~small)
    return phi, np.where(small, 0.5 + z / 6, slope)


def _as_dadapy(x: FloatArray, near: int, far: int) -> tuple[float, float]:
    mu = np.exp(x)
    middle, high = float(np.percentile(mu, 50)), float(np.percentile(mu, 95))
    kept = x[mu < middle + 20 * (high - middle)]
    value = float(np.clip(maximum_likelihood(kept, near, far, len(kept) - 1), 1e-3, 1e3))
    return value, fisher_information(x, value, near, far) ** -0.5
