"""The neighbours that an estimate may use, after a policy for coincident points."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import numpy as np

from repgeom.arrays import is_torch
from repgeom.checks import FloatArray, as_float64, check_integer, refusal
from repgeom.estimates import IntArray
from repgeom.neighbors import Metric, Neighbors, knn

_EPS: Final = float(np.finfo(np.float64).eps)
POLICIES: Final = ("drop", "jitter", "keep", "error")


@dataclasses.dataclass(frozen=True)
class Search:
    """How neighbours are found when points are given.

    Attributes:
        duplicates: ``"drop"`` keeps one of each group of coincident points; ``"jitter"`` moves them apart (by
            half the median distance between nearest neighbours); ``"keep"`` leaves the data as they are, and
            ratios with a zero distance are left out; ``"error"`` refuses.
        metric: As in `knn`.
        seed: Of the jitter.
        threads: As in `knn`.
    """

    duplicates: str = "drop"
    metric: Metric = "euclidean"
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.duplicates not in POLICIES:
            raise refusal(f"duplicates must be one of {', '.join(POLICIES)}", repr(self.duplicates))
        _check_distances(self.metric)
        check_integer("seed", self.seed, 0)


@dataclasses.dataclass(frozen=True)
class Neighborhoods:
    """What the policy left: m points.

    Attributes:
        distances: ``[m, k]``, ascending; infinite where a list ran out.
        indices: ``[m, k]`` among the m points; where a list ran out the point itself.
        owner: ``[n]``: for each point given the one of the m that it is, or is a copy of.
        warnings: What was done.
    """

    distances: FloatArray
    indices: IntArray
    owner: IntArray
    warnings: tuple[str, ...] = ()

    @property
    def given(self) -> int:
        """Points before the policy."""
        return len(self.owner)

    @property
    def k(self) -> int:
        """Neighbours of each point."""
        return int(self.distances.shape[1])

    def log_ratio(self, near: int, far: int) -> FloatArray:
        """``[m]``: ln(r_far / r_near), ranks from 1; infinite where it has no meaning."""
        inner, outer = self.distances[:, near - 1], self.distances[:, far - 1]
        usable = (inner > 0) & np.isfinite(outer)
        logs = np.full(len(inner), np.inf)
        logs[usable] = np.log1p((outer[usable] - inner[usable]) / inner[usable])
        return logs


def neighborhoods(x: Any, k: int, search: Search, least: int | None = None) -> Neighborhoods:
    """The k nearest neighbours of every point, or as many as there are, after the policy for coincident
    points.

    Args:
        x: ``[n, d]``, a distance matrix with ``metric="precomputed"``, or `Neighbors` of points among
            themselves.
        k: Neighbours wanted.
        search: Policy and metric.
        least: Neighbours that lists which are given must have; by default k.

    Raises:
        ValueError: Fewer than 3 points, lists that are too short, NaN or infinity, coincident points with
            ``duplicates="error"``, ``duplicates="jitter"`` where only distances are known.
    """
    if isinstance(x, Neighbors):
        needed = k if least is None else least
        if x.k < needed:
            raise refusal(f"this estimate needs {needed} neighbours of each point", x.k)
        return _of_neighbors(x, k, search)
    found = _knn(x, min(k, _count(x) - 1), search)
    points, owner, said = _apart(x, found, search)
    if points is not x:
        m = int(points.shape[0])
        if m < 2:
            return Neighborhoods(np.zeros((m, 0)), np.zeros((m, 0), np.int64), owner, said)
        found = _knn(points, min(k, m - 1), search)
    return Neighborhoods(found.distances, found.indices, owner, said)


def distinct_points(x: Any, search: Search) -> tuple[Any, int, tuple[str, ...]]:
    """The points after the policy for coincident ones, how many were given, and what was done."""
    n = _count(x)
    points, _, said = _apart(x, _knn(x, min(4, n - 1), search), search)
    return points, n, said


def _apart(x: Any, found: Neighbors, search: Search) -> tuple[Any, IntArray, tuple[str, ...]]:
    """The points after the policy, ``x`` itself where there is nothing to do; their owners; what was done."""
    own = np.arange(len(found.distances))
    coincident = np.flatnonzero(found.distances[:, 0] == 0)
    if len(coincident) == 0 or search.duplicates == "keep":
        return x, own, ()
    if search.duplicates == "error":
        _refuse_copies(coincident)
    if search.duplicates == "jitter":
        said = f"{len(coincident)} coincident points were moved"
        return _jittered(x, coincident, found, search), own, (said,)
    first = first_of_copies(found)
    kept = np.flatnonzero(first == own)
    return take_points(x, kept, search.metric), np.searchsorted(kept, first), (_dropped(len(kept), len(own)),)


def _dropped(kept: int, given: int) -> str:
    return f"{given - kept} of {given} points are copies of others and were dropped"


def first_of_copies(found: Neighbors) -> IntArray:
    """``[n]``: for each point the smallest index among the points that coincide with it, itself included."""
    first: IntArray = np.arange(len(found.distances))
    row, column = np.nonzero(found.distances == 0)
    copy = found.indices[row, column]
    # One round is enough where distance 0 is transitive; rounding (of directions) may need more.
    while (first[row] != first[copy]).any():
        np.minimum.at(first, row, first[copy])
        np.minimum.at(first, copy, first[row])
    return first


def take_points(x: Any, rows: IntArray, metric: Metric) -> Any:
    """Some rows of points, or of both axes of a distance matrix; rows stay contiguous."""
    if is_torch(x):
        return x[rows][:, rows].contiguous() if metric == "precomputed" else x[rows]
    array = x if isinstance(x, np.ndarray) else np.from_dlpack(x)
    return array[np.ix_(rows, rows)] if metric == "precomputed" else array[rows]


def shared_error(influence: FloatArray, indices: IntArray, k: int) -> float:
    """Standard deviation of a sum of influences of points whose neighbourhoods of k + 1 points overlap.

    The covariance of two points is weighted by the share of neighbours (each point being its own) that they
    have in common: ``sqrt(sum_j (sum of the influences of j's neighbourhood)^2 / (k + 1))``, a positive
    semi-definite weighting as in heteroscedasticity and autocorrelation consistent errors (Conley 1999).
    Never below the error of independent points.
    """
    sums = influence + np.bincount(
        indices[:, :k].ravel(), np.repeat(influence, min(k, indices.shape[1])), len(influence)
    )
    shared = np.sum(sums**2) / (k + 1)
    return float(np.sqrt(max(shared, np.sum(influence**2))))


def pair_error(influence: FloatArray, a: IntArray, b: IntArray) -> float:
    """`shared_error` for influences that rest on neighbours in two spaces, ``[n, k]`` each (two-way
    clustering, Cameron, Gelbach and Miller 2011, where two points are rarely neighbours in both)."""
    in_a, in_b = (shared_error(influence, indices, indices.shape[1]) for indices in (a, b))
    return float(np.sqrt(in_a**2 + in_b**2 - np.sum(influence**2)))


def too_few(hood: Neighborhoods, usable: int) -> str | None:
    """Why so few usable points give no dimension, or None."""
    if len(hood.distances) < 2 or not (hood.distances > 0).any():
        return "all points coincide"
    if len(hood.distances) < 3:
        return f"too few points: {len(hood.distances)} distinct, 3 needed"
    if usable < 3:
        return f"too few points: {usable} usable, 3 needed"
    return None


def _check_distances(metric: str) -> None:
    if metric == "inner_product":
        raise refusal("a dimension needs a metric with distances", repr(metric))


def _count(x: Any) -> int:
    if len(x.shape) != 2:
        raise refusal("points must have 2 axes [n, d]", f"shape {tuple(x.shape)}")
    n = int(x.shape[0])
    if n < 3:
        raise refusal("a dimension needs at least 3 points", n)
    return n


def _knn(x: Any, k: int, search: Search) -> Neighbors:
    return _as_distances(knn(x, k, metric=search.metric, threads=search.threads))


def _as_distances(found: Neighbors) -> Neighbors:
    """With chord lengths instead of 1 - cosine, which grows as their square and would halve the dimension."""
    if found.metric != "cosine":
        return found
    chords = np.sqrt(2 * found.distances)
    # Normalised rows are rounded: so close together they have one direction.
    return dataclasses.replace(found, distances=np.where(chords <= 16 * _EPS, 0.0, chords))


def _refuse_copies(copies: IntArray) -> None:
    received = f"{len(copies)} points that coincide with another, the first is row {copies[0]}"
    raise refusal("points must be distinct with duplicates='error'", received)


def _jittered(x: Any, copies: IntArray, found: Neighbors, search: Search) -> FloatArray:
    if search.metric == "precomputed":
        raise refusal("duplicates='jitter' needs points", "a distance matrix")
    points = as_float64(x, "x", 2).copy()
    # Half the usual distance between points that are distinct; where every point has a copy, too.
    distinct = np.flatnonzero(first_of_copies(found) == np.arange(len(points)))
    length = 0.0
    if len(distinct) > 1:
        length = 0.5 * float(np.median(_knn(points[distinct], 1, search).distances))
    noise = np.random.default_rng(search.seed).standard_normal((len(copies), points.shape[1]))
    points[copies] += length / np.sqrt(points.shape[1]) * noise
    return np.asarray(points)


def _of_neighbors(given: Neighbors, k: int, search: Search) -> Neighborhoods:
    """From lists that exist: copies are taken out of them, and a list may become too short."""
    n = len(given.distances)
    _check_distances(given.metric)
    if n < 3:
        raise refusal("a dimension needs at least 3 points", n)
    if not given.exclude_self or given.n_reference != n:
        received = f"{n} rows, {given.n_reference} reference points, exclude_self={given.exclude_self}"
        raise refusal("a dimension needs the neighbours of points among themselves, without self", received)
    found = _as_distances(given)
    own = np.arange(n)
    coincident = np.flatnonzero(found.distances[:, 0] == 0)
    if len(coincident) == 0 or search.duplicates == "keep":
        return Neighborhoods(found.distances[:, :k], found.indices[:, :k], own)
    if search.duplicates == "error":
        _refuse_copies(coincident)
    if search.duplicates == "jitter":
        raise refusal("duplicates='jitter' needs points", "neighbours")
    return _without_copies(found, first_of_copies(found), k)


def _without_copies(found: Neighbors, first: IntArray, k: int) -> Neighborhoods:
    is_kept = first == np.arange(len(first))
    kept = np.flatnonzero(is_kept)
    distances, indices = found.distances[kept], found.indices[kept]
    distinct = is_kept[indices]
    order = np.argsort(~distinct, axis=1, kind="stable")[:, :k]
    valid = np.take_along_axis(distinct, order, 1)
    distances = np.where(valid, np.take_along_axis(distances, order, 1), np.inf)
    number = np.searchsorted(kept, np.take_along_axis(indices, order, 1))
    indices = np.where(valid, number, np.arange(len(kept))[:, None])
    said = [_dropped(len(kept), len(first))]
    short = int((~valid).any(axis=1).sum())
    if short and len(kept) > valid.shape[1]:
        said.append(f"{short} points have fewer than {valid.shape[1]} distinct neighbours in the lists given")
    return Neighborhoods(distances, indices, np.searchsorted(kept, first), tuple(said))
