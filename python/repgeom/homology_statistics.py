"""How far numbers of persistence diagrams can be trusted: intervals, differences, growth with the sample.

Resampling a cloud with replacement makes duplicate points. They add nothing to a Vietoris-Rips diagram, so
that every resample is in truth a smaller cloud, and sums such as the total persistence come out far too low.
Here smaller clouds are taken for what they are: they give the spread of a number, never its place.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, Final, Literal

import numpy as np

from repgeom.arrays import Array
from repgeom.checks import FloatArray, check_integer, refusal
from repgeom.homology_samples import Progress, Rows, Sampler, Statistic

METHODS: Final = ("subsample", "bootstrap")
OK: Final = "ok"
CONSTANT: Final = "constant"
ABSENT: Final = "absent from subsamples"
UNDEFINED: Final = "undefined"

# Exponents k of Var ~ n^k. Numbers settle as points come to resolve a shape, and what they lose of their
# variance between quarters and halves says little of the next step: it is never taken to fall.
_GROWTH: Final = (0.0, 2.0)
_DISTINCT: Final = 1 - math.exp(-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Interval:
    """A number of a cloud's diagrams, and how much it would differ in another cloud of as many points.

    Attributes:
        statistic: Its name.
        estimate: Its value in the whole cloud.
        lower: Lower end of the interval; NaN where there is none (see `status`).
        upper: Upper end; the estimate is never outside.
        standard_error: Standard deviation of the number over clouds of n points.
        level: Nominal share of clouds whose interval holds the expected value at n points.
        n: Points.
        size: Points of a subsample.
        repeats: Random divisions of the cloud.
        method: ``"subsample"`` or ``"bootstrap"``.
        seed: Of the divisions.
        growth: k of Var ~ n^k, as the variance was carried from subsamples to n points; NaN where it was not.
        samples: ``[repeats, 2]`` values in two disjoint subsamples (``"bootstrap"``: ``[repeats, 1]``).
        small_samples: ``[repeats, 4]`` values in their halves (``"bootstrap"``: ``[repeats, 0]``).
        settings: Of :func:`repgeom.rips`.
        status: ``"ok"``; ``"constant"``: the number was the same in all subsamples of a size; ``"absent from
            subsamples"``: it is 0 in all of them but not in the cloud, which is no ground for an interval;
            ``"undefined"``: NaN, in the cloud or in more than half of the divisions.
        notes: What to know before it is used.
    """

    statistic: str
    estimate: float
    lower: float
    upper: float
    standard_error: float
    level: float
    n: int
    size: int
    repeats: int
    method: str
    seed: int
    growth: float
    samples: FloatArray = dataclasses.field(repr=False)
    small_samples: FloatArray = dataclasses.field(repr=False)
    settings: Mapping[str, Any] = dataclasses.field(repr=False)
    status: str = OK
    notes: tuple[str, ...] = ()


def subsample_interval(
    x: Array,
    max_dim: int = 1,
    *,
    statistic: Statistic = None,
    repeats: int = 100,
    fraction: float = 0.5,
    size: int | None = None,
    level: float = 0.95,
    method: Literal["subsample", "bootstrap"] = "subsample",
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> dict[str, Interval]:
    r"""Confidence intervals for numbers of a cloud's persistence diagrams.

    What is estimated is the expected value of the number over clouds of n independent points from the same
    distribution: not a property of the space behind them, from which the numbers of a finite sample differ by
    a bias that no resampling removes. Rows that depend on each other (tokens of one text) make the intervals
    too narrow.

    ``method="subsample"``: the cloud is divided at random into disjoint subsamples of m points, and these
    into halves. Disjoint subsamples are independent, so that their variances V(m) and V(m/2) are estimated
    without bias; :math:`V(n) = V(m) (n / m)^k` with :math:`k = \log_2 (V(m) / V(m/2))`, but from 0 to 2,
    carries the variance to n points, whatever the rate at which the number itself grows (Politis, Romano
    and Wolf, *Subsampling*, 1999, chapter 8). The interval is the estimate +- z standard errors.

    ``method="bootstrap"``: resamples with replacement until there are :math:`(1 - 1/e) n` distinct points
    (Rao, Pathak and Koltchinskii, *Bootstrap by sequential resampling*, 1997), which is a subsample of that
    size, as duplicates add nothing. Their standard deviation is multiplied by the square root of m / (n - m)
    for what subsamples have in common, and by the ratio of the estimate to their mean where that is above 1.

    Measured on clouds of 80 to 160 points (circle with noise, square, Gaussian in R^3 and R^20, torus in
    R^50; 80 to 150 clouds of each, 100 divisions): nominal 95 % intervals of ``"subsample"`` held the
    expected value in 90-99 % (total persistence of H0 and H1, mean 95 %), 92-99 % (counts of H1), 89-100 %
    (longest bars) and 97-100 % (entropies); standard errors were 0.96 to 1.6 times the true ones, up to 2.4
    times for entropies. Those of ``"bootstrap"`` held it in 90-100 %, with errors of 1.0 to 2.1 times. Where
    single far points decide, both are too narrow: with Student's t of 3 degrees of freedom they held 89 % for
    the total persistence of H0, and 60 % for its longest bar.

    Args:
        x: A cloud ``[n, d]``, n >= 8, or distances ``[n, n]`` with ``metric="precomputed"``.
        max_dim: As in :func:`repgeom.rips`.
        statistic: None: all of `PersistenceDiagrams.summary`; one or more of their names; or a function of
            the diagrams that returns a number or a dict of numbers.
        repeats: Random divisions, at least 10.
        fraction: m / n, at most 0.5; not for the bootstrap.
        size: m instead of the fraction, at least 4.
        level: Between 0 and 1.
        method: ``"subsample"`` or ``"bootstrap"``.
        seed: Of the divisions. Clouds of as many points are divided alike, see :func:`compare_intervals`.
        threads: As in :func:`repgeom.rips`; subsamples are worked on side by side.
        progress: Called with the share that is done.
        **settings: Of :func:`repgeom.rips`: ``metric``, ``threshold``, ``coefficients`` and so on (not its
            ``method``).

    Returns:
        The interval of every number (of a function that returns one number: under ``"statistic"``).

    Raises:
        ValueError: Settings out of range, fewer than 8 points, what :func:`repgeom.rips` refuses.
    """
    if method not in METHODS:
        raise refusal(f"method must be one of {', '.join(METHODS)}", repr(method))
    if not 0 < level < 1:
        raise refusal("level must be between 0 and 1", repr(level))
    check_integer("repeats", repeats, 10)
    check_integer("seed", seed, 0)
    sampler = Sampler(x, max_dim, statistic, threads=threads, progress=progress, settings=settings)
    n = sampler.cloud.n
    if n < 8:
        raise refusal("x must have at least 8 points", n)
    m = _size(n, fraction, size, method)
    shares = 2 if method == "subsample" else 1
    subsets: list[Rows] = [np.arange(n)]
    for number in range(repeats):
        order = np.random.default_rng([seed, number]).permutation(n)
        large = [order[i * m : (i + 1) * m] for i in range(shares)]
        small = [part[i * (m // 2) : (i + 1) * (m // 2)] for part in large for i in range(2)]
        subsets += large + (small if method == "subsample" else [])
    found = sampler.values(subsets)
    tables = {name: values[1:].reshape(repeats, -1) for name, values in found.items()}
    return {
        name: _interval(
            statistic=name,
            estimate=float(found[name][0]),
            level=level,
            n=n,
            size=m,
            repeats=repeats,
            method=method,
            seed=seed,
            samples=table[:, :shares],
            small_samples=table[:, shares:],
            settings=settings,
        )
        for name, table in tables.items()
    }


def _size(n: int, fraction: float, size: int | None, method: str) -> int:
    if method == "bootstrap":
        if size is not None or fraction != 0.5:
            raise refusal("fraction and size belong to method='subsample'", f"{fraction!r} and {size!r}")
        return round(n * _DISTINCT)
    if size is None:
        if not 0 < fraction <= 0.5:
            raise refusal("fraction must be above 0 and at most 0.5", repr(fraction))
        size = max(int(n * fraction), 4)
    check_integer("size", size, 4)
    if size > n // 2:
        raise refusal(f"size must be at most half of the {n} points", size)
    return size


def _interval(**facts: Any) -> Interval:
    """The interval from all that is known but its ends."""
    estimate, samples = facts["estimate"], facts["samples"]
    status = _status(estimate, samples)
    error, growth = spread(samples, facts["small_samples"], facts["n"], facts["size"])
    if status not in (OK, CONSTANT):
        missing: dict[str, Any] = dict.fromkeys(("lower", "upper", "standard_error", "growth"), math.nan)
        return Interval(**facts, **missing, status=status)
    if facts["method"] == "bootstrap":
        error *= _grown(estimate, samples)
    half = NormalDist().inv_cdf((1 + facts["level"]) / 2) * error
    undefined = int((~np.isfinite(samples)).any(axis=1).sum())
    notes = [f"NaN in {undefined} divisions, which were left out"] * bool(undefined)
    lower = estimate - half
    if lower < 0 <= estimate and not (samples < 0).any():
        lower = 0.0
    ends: dict[str, Any] = {
        "lower": lower,
        "upper": estimate + half,
        "standard_error": error,
        "growth": growth,
    }
    return Interval(**facts, **ends, status=status, notes=tuple(notes))


def _grown(estimate: float, samples: FloatArray) -> float:
    """How much larger a number of one sign is than in its subsamples, at least 1."""
    values = samples[np.isfinite(samples)]
    mean = float(values.mean())
    return max(1.0, estimate / mean) if mean != 0 and bool((values * mean >= 0).all()) else 1.0


def _status(estimate: float, samples: FloatArray) -> str:
    finite = samples[np.isfinite(samples).all(axis=1)]
    if not math.isfinite(estimate) or len(finite) < len(samples) / 2:
        return UNDEFINED
    if np.ptp(finite) > 0:
        return OK
    return ABSENT if estimate != 0 and not finite.any() else CONSTANT


def _variance(samples: FloatArray) -> float:
    """Mean variance within a division, whose subsamples are independent; of single values theirs."""
    kept = samples[np.isfinite(samples).all(axis=1)]
    if len(kept) < 2:
        return math.nan
    return float(np.var(kept, axis=1, ddof=1).mean() if kept.shape[1] > 1 else np.var(kept, ddof=1))


def spread(samples: FloatArray, small: FloatArray, n: int, m: int) -> tuple[float, float]:
    """The standard deviation at n points, and the growth that was assumed."""
    variance = _variance(samples)
    if small.shape[1] == 0:
        return math.sqrt(variance * m / (n - m)), math.nan
    smaller = _variance(small)
    low, high = _GROWTH
    # Where halves say nothing the largest growth is the careful choice.
    growth = math.log(variance / smaller) / math.log(m / (m // 2)) if variance > 0 and smaller > 0 else high
    growth = min(max(growth, low), high)
    return math.sqrt(variance * (n / m) ** growth), growth


@dataclasses.dataclass(frozen=True, eq=False)
class SizeProfile:
    """A number of random subsamples, by their size.

    Attributes:
        statistic: Its name.
        sizes: ``[s]`` points of a subsample.
        mean: ``[s]`` over the subsamples.
        std: ``[s]`` with ddof 1. Subsamples share points, at n all of them: at sizes beyond n/2 this is far
            less than the deviation over clouds of that size.
        cv: ``[s]`` std / mean, NaN where the mean is 0.
        minimum: ``[s]``.
        maximum: ``[s]``.
        samples: ``[s, repeats]``.
    """

    statistic: str
    sizes: Rows
    mean: FloatArray
    std: FloatArray
    cv: FloatArray
    minimum: FloatArray
    maximum: FloatArray
    samples: FloatArray = dataclasses.field(repr=False)


def sample_size_profile(
    x: Array,
    sizes: Sequence[int],
    repeats: int = 10,
    max_dim: int = 1,
    *,
    statistic: Statistic = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> dict[str, SizeProfile]:
    """How numbers of a cloud's diagrams depend on the number of points.

    The subsamples are drawn without replacement, each by itself.

    Args:
        x: As in :func:`subsample_interval`.
        sizes: Of subsamples, from 1 to n.
        repeats: Subsamples of every size, at least 2.
        max_dim: As in :func:`repgeom.rips`.
        statistic: As in :func:`subsample_interval`.
        seed: Of the subsamples.
        threads: As in :func:`subsample_interval`.
        progress: As in :func:`subsample_interval`.
        **settings: Of :func:`repgeom.rips`.
    """
    check_integer("repeats", repeats, 2)
    check_integer("seed", seed, 0)
    sampler = Sampler(x, max_dim, statistic, threads=threads, progress=progress, settings=settings)
    n = sampler.cloud.n
    if len(sizes) == 0:
        raise refusal("sizes must name at least one size", list(sizes))
    for size in sizes:
        check_integer("size", size, 1)
        if size > n:
            raise refusal(f"sizes must be at most the {n} points", size)
    subsets = [
        np.random.default_rng([seed, size, number]).permutation(n)[:size]
        for size in sizes
        for number in range(repeats)
    ]
    found = {}
    for name, values in sampler.values(subsets).items():
        table = values.reshape(len(sizes), repeats)
        mean, std = table.mean(axis=1), table.std(axis=1, ddof=1)
        cv = np.divide(std, mean, out=np.full(len(mean), np.nan), where=mean != 0)
        ends = table.min(axis=1), table.max(axis=1)
        found[name] = SizeProfile(name, np.array(sizes, np.int64), mean, std, cv, *ends, table)
    return found
