"""Distances between persistence diagrams, exactly (``pip install 'repgeom[topology]'``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

import numpy as np

from repgeom.checks import FloatArray, refusal
from repgeom.diagrams import PersistenceDiagrams
from repgeom.vectorizations import as_bars

KINDS: Final = ("bottleneck", "wasserstein")

Power: TypeAlias = Callable[[FloatArray], FloatArray]


def bottleneck_distance(a: Any, b: Any, dim: int | None = None) -> float:
    r"""The bottleneck distance of two diagrams in one dimension.

    The least t for which the bars can be matched, each with one of the other diagram whose birth and death
    differ by at most t, or with the diagonal if it is at most 2 t long. Bars that never die are matched among
    themselves, in the order of their births; where their numbers differ the distance is infinite. If every
    distance between points changes by at most t, so does the diagram (Cohen-Steiner, Edelsbrunner and Harer
    2007).

    The value is one of the costs, in float64: exact. Takes about 40 bytes for every pair of bars; where all
    bars have one birth (dimension 0) little memory.

    Args:
        a: `PersistenceDiagrams`, or bars ``[m, 2]`` whose deaths may be infinite.
        b: The same.
        dim: The dimension of `PersistenceDiagrams`; None for arrays.

    Raises:
        ImportError: No SciPy.
        ValueError: A dimension that a diagram lacks, NaN, bars that die before their births.
    """
    (left, left_births), (right, right_births) = _parts(a, dim), _parts(b, dim)
    if len(left_births) != len(right_births):
        return math.inf
    essential = np.abs(left_births - right_births).max(initial=0.0)
    return max(float(essential), _Costs(left, right, math.inf).bottleneck())


def wasserstein_distance(
    a: Any, b: Any, dim: int | None = None, *, order: float = 1.0, internal_p: float = math.inf
) -> float:
    r"""The Wasserstein distance of two diagrams in one dimension.

    .. math:: W_q(A, B) = \Bigl(\min_\gamma \sum_{x} \|x - \gamma(x)\|_p^q\Bigr)^{1/q}

    over the matchings of bars (birth, death) with bars of the other diagram or with the diagonal, from which
    a bar of length l is :math:`2^{1/p - 1} l` away. Bars that never die are matched among themselves, in the
    order of their births; where their numbers differ the distance is infinite.

    The matching is optimal (an assignment problem, not an approximation) up to rounding: the relative error
    of :math:`W_q^q` is at most about 1e-16 times the square of the number of bars. Takes about 40 bytes for
    every pair of bars, and time that grows with the cube of their number; where all bars have one birth
    (dimension 0) little memory, and time that grows with the square.

    Args:
        a: `PersistenceDiagrams`, or bars ``[m, 2]`` whose deaths may be infinite.
        b: The same.
        dim: The dimension of `PersistenceDiagrams`; None for arrays.
        order: q, at least 1 and finite (for infinity see `bottleneck_distance`).
        internal_p: p of the norm in the plane, at least 1; infinite: the larger of the two differences.

    Raises:
        ImportError: No SciPy.
        ValueError: A dimension that a diagram lacks, NaN, bars that die before their births, q or p below 1.
    """
    if not 1 <= order < math.inf:
        raise refusal("order must be at least 1 and finite (bottleneck_distance is the limit)", repr(order))
    if not internal_p >= 1:
        raise refusal("internal_p must be at least 1", repr(internal_p))
    (left, left_births), (right, right_births) = _parts(a, dim), _parts(b, dim)
    if len(left_births) != len(right_births):
        return math.inf
    essential = np.abs(left_births - right_births)
    costs = _Costs(left, right, internal_p)
    # No matching costs less than its limit of infinite order: in this unit powers do not underflow.
    unit = max(costs.bottleneck(), float(essential.max(initial=0.0)))
    if unit == 0:
        return 0.0
    total = costs.matching(unit, order) + float(np.sum((essential / unit) ** order))
    return unit * math.pow(total, 1 / order)


def distance_matrix(
    diagrams: Iterable[Any],
    dim: int | None = None,
    *,
    kind: str = "bottleneck",
    order: float = 1.0,
    internal_p: float = math.inf,
) -> FloatArray:
    """``[l, l]``: the distances between all pairs of diagrams.

    Args:
        diagrams: What `bottleneck_distance` takes, l of it.
        dim: As there.
        kind: ``"bottleneck"`` or ``"wasserstein"``.
        order: As in `wasserstein_distance`.
        internal_p: As there.
    """
    if kind not in KINDS:
        raise refusal(f"kind must be one of {', '.join(KINDS)}", repr(kind))
    if isinstance(diagrams, PersistenceDiagrams):
        raise refusal("diagrams must be a list of diagrams", "one PersistenceDiagrams")
    given = list(diagrams)
    found = np.zeros((len(given), len(given)))
    for i, a in enumerate(given):
        for j, b in enumerate(given[:i]):
            if kind == "bottleneck":
                value = bottleneck_distance(a, b, dim)
            else:
                value = wasserstein_distance(a, b, dim, order=order, internal_p=internal_p)
            found[i, j] = found[j, i] = value
    return found


def _parts(diagram: Any, dim: int | None) -> tuple[FloatArray, FloatArray]:
    """Finite bars, and the births of the others in ascending order."""
    if isinstance(diagram, PersistenceDiagrams):
        if dim is None:
            raise refusal("dim must say which dimension of PersistenceDiagrams is compared", None)
        bars = diagram.bars(dim, math.inf)
    else:
        if dim is not None:
            raise refusal("dim must be None for bars [m, 2], which are of one dimension", dim)
        bars = as_bars(diagram, essential=True)
    infinite = np.isinf(bars[:, 1])
    return bars[~infinite], np.sort(bars[infinite, 0])


class _Costs:
    """What it costs to match finite bars with each other or with the diagonal.

    Where all bars have one birth, they are points on a line, and the table of pairs is not needed.
    """

    def __init__(self, left: FloatArray, right: FloatArray, internal_p: float) -> None:
        self.line = len(np.unique(np.concatenate([left[:, 0], right[:, 0]]))) <= 1
        if self.line:
            left, right = (bars[np.argsort(bars[:, 1])] for bars in (left, right))
        self.deaths = left[:, 1], right[:, 1]
        factor = 2 ** (1 / internal_p - 1)
        self.rows, self.columns = (factor * (bars[:, 1] - bars[:, 0]) for bars in (left, right))
        self.pairs = np.zeros((0, 0)) if self.line else _norms(left, right, internal_p)

    def bottleneck(self) -> float:
        """The least cost that is enough for every bar."""
        if self.line:
            return self._along_the_line(lambda costs: costs, np.maximum)
        rows, columns, pairs = self.rows, self.columns, self.pairs
        # Every bar needs as much as its cheapest partner takes; the diagonal is enough for all.
        low = max(
            np.minimum(rows, pairs.min(axis=1, initial=np.inf)).max(initial=0.0),
            np.minimum(columns, pairs.min(axis=0, initial=np.inf)).max(initial=0.0),
        )
        high = max(rows.max(initial=0.0), columns.max(initial=0.0))
        candidates = np.concatenate([pairs[(pairs >= low) & (pairs <= high)], rows, columns])
        candidates = np.unique(candidates[(candidates >= low) & (candidates <= high)])
        first, last = 0, len(candidates) - 1
        while first < last:
            middle = (first + last) // 2
            # Where the long bars of each side have partners, one matching covers both (Mendelsohn, Dulmage).
            most = candidates[middle]
            if _matchable(pairs[rows > most] <= most) and _matchable(pairs.T[columns > most] <= most):
                last = middle
            else:
                first = middle + 1
        return float(candidates[first])

    def matching(self, unit: float, order: float) -> float:
        """The least sum of the powers of costs, in units of at least the bottleneck."""
        # The best matching costs at most 1 for each bar, so that what costs more is not in it.
        ceiling = 2.0 * (len(self.rows) + len(self.columns))

        def power(costs: FloatArray) -> FloatArray:
            with np.errstate(over="ignore"):
                return np.asarray(np.minimum((costs / unit) ** order, ceiling))

        if self.line:
            return self._along_the_line(power, np.add)
        rows, columns, pairs = power(self.rows), power(self.columns), power(self.pairs)
        try:
            from scipy.optimize import linear_sum_assignment
        except ImportError as error:
            raise _missing() from error
        gains = np.minimum(pairs - rows[:, None] - columns, 0.0)
        i, j = linear_sum_assignment(gains)
        better = gains[i, j] < 0
        i, j = i[better], j[better]
        return float(pairs[i, j].sum() + np.delete(rows, i).sum() + np.delete(columns, j).sum())

    def _along_the_line(self, power: Power, join: np.ufunc) -> float:
        """The least ``join`` of powers of costs. Pairs of a best matching do not cross, so the least of the
        first i and j bars follows from three others; whole antidiagonals i + j are done at once."""
        rows, columns, (x, y) = power(self.rows), power(self.columns), self.deaths
        m, n = len(rows), len(columns)
        before, last = np.full(m + 1, np.inf), np.full(m + 1, np.inf)
        last[0] = 0.0
        for diagonal in range(1, m + n + 1):
            low, high = max(0, diagonal - n), min(m, diagonal)
            now = np.full(m + 1, np.inf)
            i = np.arange(max(low, 1), high + 1)  # bar i of the left to the diagonal
            now[i] = join(last[i - 1], rows[i - 1])
            j = diagonal - np.arange(low, min(high, diagonal - 1) + 1)  # bar j of the right
            now[diagonal - j] = np.minimum(now[diagonal - j], join(last[diagonal - j], columns[j - 1]))
            i = np.arange(max(low, 1), min(high, diagonal - 1) + 1)  # one with the other
            pairs = power(np.abs(x[i - 1] - y[diagonal - i - 1]))
            now[i] = np.minimum(now[i], join(before[i - 1], pairs))
            before, last = last, now
        return float(last[m])


def _matchable(allowed: Any) -> bool:
    """Whether every row can have a column of its own."""
    try:
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import maximum_bipartite_matching
    except ImportError as error:
        raise _missing() from error
    if len(allowed) > allowed.shape[1]:
        return False
    partners = maximum_bipartite_matching(csr_matrix(allowed), perm_type="column")
    return bool((partners >= 0).all())


def _norms(left: FloatArray, right: FloatArray, internal_p: float) -> FloatArray:
    """``[m, n]``: p norms of the differences of bars."""
    births = np.abs(left[:, None, 0] - right[:, 0])
    deaths = np.abs(left[:, None, 1] - right[:, 1])
    if math.isinf(internal_p):
        return np.asarray(np.maximum(births, deaths))
    if internal_p == 1:
        return np.asarray(births + deaths)
    larger = np.maximum(births, deaths)
    ratio = np.minimum(births, deaths) / np.where(larger > 0, larger, 1.0)
    return np.asarray(larger * (1 + ratio**internal_p) ** (1 / internal_p))


def _missing() -> ImportError:
    return ImportError("distances of diagrams need scipy (pip install 'repgeom[topology]')")
