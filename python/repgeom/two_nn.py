"""TwoNN: the intrinsic dimension from the ratio of the first two neighbour distances (Facco et al. 2017)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from repgeom.checks import FloatArray, refusal
from repgeom.estimates import OK, DimensionEstimate, Estimates, no_estimate, over_layers
from repgeom.neighborhoods import Neighborhoods, Search, neighborhoods, shared_error, too_few
from repgeom.neighbors import Metric

METHODS: Final = ("fit", "mle", "censored")


def two_nn(
    x: Any,
    *,
    method: str = "fit",
    discard: float = 0.1,
    duplicates: str = "drop",
    metric: Metric = "euclidean",
    seed: int = 0,
    threads: int | None = None,
) -> Estimates:
    """Intrinsic dimension d from ``mu = r_2 / r_1``, which has density ``d mu^-(d + 1)`` where the density of
    points hardly changes between two neighbours.

    With the N ratios sorted, ``y_i = -ln(1 - i / N)`` and r the number that is kept:

    - ``"fit"``: slope through the origin of y on ``ln mu``, ``sum x y / sum x^2`` over the r smallest (the
      largest of all N is never used);
    - ``"mle"``: ``(N - 1) / sum ln mu`` over all ratios, unbiased; ``discard`` is not used;
    - ``"censored"``: ``(r - 1) / (sum_{i <= r} ln mu_i + (N - r) ln mu_r)``, unbiased, the largest ratios
      count only as "larger than".

    Args:
        x: ``[n, d]``, `Neighbors` with k >= 2, a dict or list of them, or a stack ``[..., n, d]``.
        method: See above.
        discard: Share of the largest ratios that ``"fit"`` and ``"censored"`` leave out.
        duplicates: What to do with coincident points: ``"drop"`` copies, ``"jitter"``, ``"keep"`` (points at
            distance 0 from another have no ratio and are left out, ties that they cause stay), ``"error"``.
        metric: As in `knn`; with ``"cosine"`` distances are chords.
        seed: Of the jitter.
        threads: As in `knn`.

    Returns:
        A `DimensionEstimate`; of several layers as many, in the shape that they came in.

    Raises:
        ValueError: Fewer than 3 points, NaN or infinity, an unknown word, discard outside [0, 1).
    """
    check_method(method, discard)
    search = Search(duplicates, metric, seed, threads)
    return over_layers(lambda layer: estimate_of(neighborhoods(layer, 2, search), method, discard, search), x)


def two_nn_points(
    x: Any, *, discard: float = 0.0, duplicates: str = "drop", metric: Metric = "euclidean"
) -> tuple[FloatArray, FloatArray]:
    """``ln mu`` ascending and ``-ln(1 - i / N)`` of the ratios that ``method="fit"`` keeps: points on a line
    of slope d through the origin where the model holds.

    Args:
        x: As in `two_nn`, one layer.
        discard: As in `two_nn`.
        duplicates: As in `two_nn`.
        metric: As in `two_nn`.

    Returns:
        Two arrays ``[r]``.
    """
    check_method("fit", discard)
    return points_of(neighborhoods(x, 2, Search(duplicates, metric)), discard)


def points_of(hood: Neighborhoods, discard: float) -> tuple[FloatArray, FloatArray]:
    """`two_nn_points` of neighbours that are known."""
    logs = _log_ratios(hood)
    logs = np.sort(logs[np.isfinite(logs)])
    kept = kept_ratios("fit", len(logs), discard)
    return logs[:kept], -np.log1p(-np.arange(1, kept + 1) / max(len(logs), 1))


def check_method(method: str, discard: float) -> None:
    """Refuse an unknown method and a share outside [0, 1)."""
    if method not in METHODS:
        raise refusal(f"method must be one of {', '.join(METHODS)}", repr(method))
    if not 0 <= discard < 1:
        raise refusal("discard must be in [0, 1)", repr(discard))


def kept_ratios(method: str, n: int, discard: float) -> int:
    """How many of the n smallest ratios an estimate looks at one by one."""
    if method == "mle":
        return n
    # 10 * (1 - 0.9) is not quite 1.
    kept = int(n * (1 - discard) + 1e-9)
    return max(min(kept, n - 1), 0) if method == "fit" else kept


def _log_ratios(hood: Neighborhoods) -> FloatArray:
    if hood.k < 2:
        return np.full(len(hood.distances), np.inf)
    return hood.log_ratio(1, 2)


def estimate_of(hood: Neighborhoods, method: str, discard: float, search: Search) -> DimensionEstimate:
    """`two_nn` of neighbours that are known."""
    settings = {
        "estimator": "two_nn",
        "method": method,
        "discard": 0.0 if method == "mle" else discard,
        "duplicates": search.duplicates,
        "metric": search.metric,
    }
    logs = _log_ratios(hood)
    usable = np.isfinite(logs)
    n, kept = int(usable.sum()), kept_ratios(method, int(usable.sum()), discard)
    reason = too_few(hood, n)
    if reason is None and kept < 2:
        reason = f"too few points: {kept} of {n} ratios kept, 2 needed"
    order = np.flatnonzero(usable)[np.argsort(logs[usable], kind="stable")]
    x = logs[order]
    if reason is None and not x[kept - 1] > 0:
        reason = "the first two distances of every point used are equal"
    if reason is not None:
        return no_estimate(reason, n, hood.given - n, settings, hood.warnings)
    value, independent, influence = _ESTIMATORS[method](x, kept)
    of_points = np.zeros(len(logs))
    of_points[order] = influence / n
    error = max(independent, shared_error(of_points, hood.indices, 1))
    value, error, independent = float(value), float(error), float(independent)
    scale = float(hood.distances[usable, :2].mean())
    return DimensionEstimate(value, error, independent, n, hood.given - n, scale, OK, settings, hood.warnings)


# Each takes the ratios' logarithms, ascending, and how many are kept, and returns the value, its error for
# independent ratios, and n times the influence of each ratio on it.


def _mle(x: FloatArray, _kept: int) -> tuple[float, float, FloatArray]:
    n = len(x)
    value = (n - 1) / float(x.sum())
    return value, value / np.sqrt(n - 2), value * (1 - value * x)


def _censored(x: FloatArray, kept: int) -> tuple[float, float, FloatArray]:
    seen = np.minimum(x, x[kept - 1])
    value = (kept - 1) / float(seen.sum())
    inside = np.arange(len(x)) < kept
    influence = value * len(x) / kept * (inside - value * seen)
    # The variance of the unbiased estimate is d^2 / (r - 2); with two ratios it has none.
    return value, value / np.sqrt(max(kept - 2, 1)), influence


def _fit(x: FloatArray, kept: int) -> tuple[float, float, FloatArray]:
    """Influences by perturbing the distribution function in ``int x (-ln(1 - F)) dF / int x^2 dF``."""
    n = len(x)
    rank = np.arange(1, n + 1)
    inside = rank <= kept
    v = np.where(inside, x, 0.0)
    y = np.where(inside, -np.log1p(-np.minimum(rank, n - 1) / n), 0.0)
    products, squares = float(v @ y), float(v @ v)
    value = products / squares
    left = np.maximum(n - rank, 1)
    by_ranks = np.cumsum((v / left)[::-1])[::-1] - float(np.sum(v * rank / left)) / n
    edge = kept / n - inside
    top, level = x[kept - 1], y[kept - 1]
    of_products = v * y - products / n + by_ranks + top * level * edge
    of_squares = v * v - squares / n + top * top * edge
    influence = (of_products - value * of_squares) * n / squares
    return value, float(np.sqrt(np.sum(influence**2))) / n, influence


_ESTIMATORS: Final = {"fit": _fit, "mle": _mle, "censored": _censored}
