"""Numbers, curves and images from the bars of a persistence diagram."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from repgeom.checks import FloatArray, as_float64, check_integer, refusal

IntArray: TypeAlias = npt.NDArray[np.int64]
Weight: TypeAlias = Callable[[FloatArray, FloatArray], Any]

# Elements of the table of tents that is worked on at once.
_TABLE = 1 << 22


def as_bars(bars: Any, *, essential: bool = False) -> FloatArray:
    """``[m, 2]`` float64 rows (birth, death) with birth <= death, or ``ValueError``.

    Args:
        bars: Anything like an array; an empty list is a diagram without bars.
        essential: Whether deaths may be infinite.
    """
    array = np.asarray(bars)
    if array.size == 0:
        array = np.zeros((0, 2))
    if array.dtype.kind not in "fiu" or array.ndim != 2 or array.shape[1] != 2:
        raise refusal("bars must be real numbers [m, 2]", f"{array.dtype} of shape {array.shape}")
    array = array.astype(np.float64, copy=False)
    births, deaths = array.T
    if not np.isfinite(births).all():
        raise refusal("births must be finite", births[~np.isfinite(births)][0])
    if not (deaths >= births).all():
        bad = np.flatnonzero(~(deaths >= births))[0]
        raise refusal("a bar must not die before its birth", f"({births[bad]}, {deaths[bad]}) in row {bad}")
    if not essential and np.isinf(deaths).any():
        raise refusal(
            "bars must have finite deaths; give those that never die one first", "an infinite death"
        )
    return array


def lifetimes(bars: Any) -> FloatArray:
    """``[m]``: death - birth of every bar ``[m, 2]``."""
    births, deaths = as_bars(bars).T
    return np.asarray(deaths - births)


def total_persistence(bars: Any, power: float = 1.0) -> float:
    r"""The sum of lifetimes, :math:`\sum_i (d_i - b_i)^q` (Cohen-Steiner et al., *Lipschitz functions have
    L_p-stable persistence*, 2010).

    Args:
        bars: ``[m, 2]``, finite; no bars have 0.
        power: q, above 0.
    """
    if not 0 < power < math.inf:
        raise refusal("power must be above 0 and finite", repr(power))
    return float(np.sum(lifetimes(bars) ** power))


def maximum_lifetime(bars: Any) -> float:
    """The length of the longest bar of ``[m, 2]``, 0 where there is none."""
    return float(lifetimes(bars).max(initial=0.0))


def persistence_entropy(bars: Any, *, normalized: bool = False) -> float:
    r"""The entropy of the lifetimes in nats, :math:`-\sum_i p_i \ln p_i` with :math:`p_i = l_i / \sum_j l_j`
    (Chintakunta et al., *An entropy-based persistence barcode*, 2015).

    m bars of one length have ln m, one bar has 0. Bars of length 0 do not count.

    Args:
        bars: ``[m, 2]``, finite.
        normalized: Divide by ln m: at most 1, for bars of one length.

    Returns:
        NaN where it is not defined: without bars, and normalised with fewer than two.
    """
    lengths = lifetimes(bars)
    lengths = lengths[lengths > 0]
    if len(lengths) < 1 + normalized:
        return math.nan
    # Scaled first: the sum of denormal lengths would lose digits, that of huge ones overflow.
    lengths = lengths / lengths.max()
    shares = lengths / lengths.sum()
    # A length may be too small a share to be told from 0, whose part of the entropy is 0.
    shares = shares[shares > 0]
    entropy = abs(float(-np.sum(shares * np.log(shares))))
    return entropy / math.log(len(lengths)) if normalized else entropy


def betti_curve(bars: Any, grid: Any) -> IntArray:
    """``[g]``: how many bars are alive at every scale of ``grid``, ``#{i : b_i <= t < d_i}``.

    Bars are half open, so that a bar that dies where another is born is not counted with it.

    Args:
        bars: ``[m, 2]``; deaths may be infinite.
        grid: ``[g]`` scales in any order.
    """
    births, deaths = as_bars(bars, essential=True).T
    scales = as_float64(grid, "grid", 1)
    born = np.searchsorted(np.sort(births), scales, side="right")
    return np.asarray(born - np.searchsorted(np.sort(deaths), scales, side="right"), np.int64)


def persistence_landscape(bars: Any, grid: Any, depth: int = 5) -> FloatArray:
    r"""``[depth, g]``: the first functions of the persistence landscape at every point of ``grid``
    (Bubenik, arXiv 1207.6437).

    :math:`\lambda_k(t)` is the k-th largest of :math:`\max(0, \min(t - b_i, d_i - t))`, in row k - 1; 0
    beyond the number of bars. The values are exact at the points of the grid, which decide nothing else.
    (GUDHI multiplies them by the square root of 2.)

    Args:
        bars: ``[m, 2]``, finite.
        grid: ``[g]``, in any order.
        depth: Functions, at least 1.
    """
    check_integer("depth", depth, 1)
    births, deaths = as_bars(bars).T
    scales = as_float64(grid, "grid", 1)
    kept = min(depth, len(births))
    landscape = np.zeros((depth, len(scales)))
    block = max(1, _TABLE // max(len(births), 1))
    for start in range(0, len(scales) if kept else 0, block):
        t = scales[start : start + block, None]
        tents = np.maximum(np.minimum(t - births, deaths - t), 0)
        highest = np.partition(tents, len(births) - kept, axis=1)[:, -kept:]
        landscape[:kept, start : start + block] = -np.sort(-highest, axis=1).T
    return landscape


def persistence_image(
    bars: Any,
    *,
    birth_range: tuple[float, float],
    persistence_range: tuple[float, float],
    sigma: float,
    pixels: tuple[int, int] = (20, 20),
    weight: float | Weight = 1.0,
) -> FloatArray:
    r"""``[births, persistences]``: the persistence image of the bars (Adams et al., arXiv 1507.06217).

    The surface :math:`\sum_i w(b_i, l_i) \, N((b, l); (b_i, l_i), \sigma^2 I)` over birth b and persistence
    l = d - b is integrated over every pixel, exactly (through the error function), so that the image sums to
    the weights of the bars, less what lies outside the window. There is no default window: images can be
    compared only where window, sigma and weight are the same.

    Args:
        bars: ``[m, 2]``, finite.
        birth_range: Least and largest birth of the window.
        persistence_range: Least and largest persistence of the window.
        sigma: Standard deviation of the Gaussians, above 0, in the units of the distances.
        pixels: How many along births and along persistences.
        weight: An exponent q >= 0: ``w = l^q``; or a function of births ``[m]`` and persistences ``[m]``.
            For the image to be stable, w must be 0 where the persistence is.
    """
    if not 0 < sigma < math.inf:
        raise refusal("sigma must be above 0 and finite", repr(sigma))
    births, lengths = as_bars(bars)[:, 0], lifetimes(bars)
    mass = [
        _mass(values, _edges(name, window, count), sigma)
        for name, values, window, count in (
            ("birth_range", births, birth_range, pixels[0]),
            ("persistence_range", lengths, persistence_range, pixels[1]),
        )
    ]
    return np.asarray((mass[0] * _weights(weight, births, lengths)[:, None]).T @ mass[1])


def _weights(weight: float | Weight, births: FloatArray, lengths: FloatArray) -> FloatArray:
    if not callable(weight):
        if not 0 <= weight < math.inf:
            raise refusal("weight must be an exponent of at least 0, or a function", repr(weight))
        return np.asarray(lengths**weight)
    weights = as_float64(weight(births, lengths), "weights", 1)
    if weights.shape != births.shape:
        raise refusal(f"weight must return one number for each of the {len(births)} bars", len(weights))
    return weights


def _edges(name: str, window: tuple[float, float], count: int) -> FloatArray:
    check_integer("pixels", count, 1)
    low, high = window
    if not -math.inf < low < high < math.inf:
        raise refusal(f"{name} must be two finite numbers, the smaller first", repr(window))
    return np.linspace(low, high, count + 1)


def _mass(centres: FloatArray, edges: FloatArray, sigma: float) -> FloatArray:
    """``[m, pixels]``: the share of a Gaussian about every centre that lies between two edges."""
    standard = (edges - centres[:, None]) / (sigma * math.sqrt(2))
    below = np.array([math.erf(value) for value in standard.ravel()]).reshape(standard.shape)
    return np.diff(below, axis=1) / 2
