"""Which coordinates carry the neighbours of a space: information imbalance of subsets of coordinates."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from repgeom.arrays import is_torch
from repgeom.checks import FloatArray, check_integer, refusal
from repgeom.information_imbalance import imbalance_pairs, imbalances_into
from repgeom.layer_pairs import LayerPairs, Space, check_same_rows
from repgeom.neighbors import Metric


@dataclasses.dataclass(frozen=True)
class CoordinateImbalance:
    """Imbalances between subsets of coordinates and a target space.

    Attributes:
        coordinates: ``c`` subsets.
        from_target: ``[c]``, target to subset.
        to_target: ``[c]``, subset to target: small where the subset knows the target's neighbours.
        standard_errors_from_target: ``[c]``.
        standard_errors_to_target: ``[c]``.
        n: Points.
        k: Neighbours.
    """

    coordinates: tuple[tuple[int, ...], ...]
    from_target: FloatArray
    to_target: FloatArray
    standard_errors_from_target: FloatArray
    standard_errors_to_target: FloatArray
    n: int
    k: int

    def __len__(self) -> int:
        return len(self.coordinates)

    def criterion(self, symmetric: bool) -> FloatArray:
        """``[c]``: what a selection makes small: both directions together, or ``to_target`` alone."""
        return self.from_target + self.to_target if symmetric else self.to_target

    def rows(self, chosen: Iterable[int]) -> CoordinateImbalance:
        """The same for some of the subsets."""
        at = list(chosen)
        return CoordinateImbalance(
            tuple(self.coordinates[i] for i in at),
            self.from_target[at],
            self.to_target[at],
            self.standard_errors_from_target[at],
            self.standard_errors_to_target[at],
            self.n,
            self.k,
        )


@dataclasses.dataclass(frozen=True)
class GreedySelection:
    """The best subset of each size, and all that were tried.

    Attributes:
        best: The best subset of 1, 2, ... coordinates.
        tried: For each size every subset looked at.
    """

    best: CoordinateImbalance
    tried: tuple[CoordinateImbalance, ...]


def coordinate_imbalance(
    x: Any,
    coordinates: Sequence[Any] | None = None,
    *,
    target: Any = None,
    k: int = 1,
    metric: Metric = "euclidean",
    p: float | None = None,
    threads: int | None = None,
) -> CoordinateImbalance:
    """Information imbalance between a target space and subsets of the coordinates of ``x``, both directions.

    Args:
        x: ``[n, d]``.
        coordinates: Subsets, as sequences of columns (``itertools.combinations(range(d), 2)`` for all pairs);
            by default every column alone.
        target: ``[n, e]``, the same points; by default all of ``x``.
        k: Neighbours.
        metric: As in `knn`, of every space.
        p: As in `knn`.
        threads: As in `knn`.

    Raises:
        ValueError: Columns that ``x`` does not have, an empty subset, different n, NaN or infinity, k below 1
            or above n - 1.
    """
    n = check_same_rows({"x": x} if target is None else {"x": x, "target": target})
    d = int(x.shape[1])
    subsets = _subsets([(column,) for column in range(d)] if coordinates is None else coordinates, d)
    goal = x if target is None else target
    space = Space(metric, p, threads)
    of_target = space.nearest(goal, k)
    found = [space.nearest(_columns(x, subset), k) for subset in subsets]
    into = imbalances_into(goal, of_target, found, space)
    out = [
        imbalances_into(_columns(x, subset), own, [of_target], space)[0]
        for subset, own in zip(subsets, found, strict=True)
    ]
    (to_target, to_errors), (from_target, from_errors) = np.array(into).T, np.array(out).T
    return CoordinateImbalance(tuple(subsets), from_target, to_target, from_errors, to_errors, n, k)


def coordinate_pairs(
    x: Any,
    *,
    k: int = 1,
    metric: Metric = "euclidean",
    p: float | None = None,
    threads: int | None = None,
) -> LayerPairs:
    """Information imbalance from every single coordinate (rows) to every other one (columns).

    Args:
        x: ``[n, d]``.
        k: Neighbours.
        metric: As in `knn`.
        p: As in `knn`.
        threads: As in `knn`.

    Returns:
        `LayerPairs`; its diagonal is that of equal spaces, ``(k + 1) / n``.
    """
    check_same_rows({"x": x})
    single = {j: _columns(x, (j,)) for j in range(int(x.shape[1]))}
    return imbalance_pairs(single, k, Space(metric, p, threads))


def greedy_selection(
    x: Any,
    n_coordinates: int,
    *,
    target: Any = None,
    k: int = 1,
    n_best: int = 10,
    symmetric: bool = True,
    metric: Metric = "euclidean",
    p: float | None = None,
    threads: int | None = None,
) -> GreedySelection:
    """Subsets of 1, 2, ... coordinates that carry the neighbours of a target space, by a beam search.

    Each of the ``n_best`` subsets of one size is extended by every further coordinate.

    Args:
        x: ``[n, d]``.
        n_coordinates: The largest subset.
        target: ``[n, e]``, the same points; by default all of ``x``.
        k: Neighbours.
        n_best: Width of the beam.
        symmetric: Make the sum of both directions small; otherwise that from the subset to the target.
        metric: As in `knn`, of every space.
        p: As in `knn`.
        threads: As in `knn`.

    Raises:
        ValueError: More coordinates than ``x`` has, and as in `coordinate_imbalance`.
    """
    check_integer("n_coordinates", n_coordinates, 1)
    check_integer("n_best", n_best, 1)
    check_same_rows({"x": x})
    d = int(x.shape[1])
    if n_coordinates > d:
        raise refusal(f"n_coordinates must be at most {d}", n_coordinates)
    beam: list[tuple[int, ...]] = [()]
    tried, best = [], []
    for _ in range(n_coordinates):
        grown = sorted({tuple(sorted({*old, j})) for old in beam for j in range(d) if j not in old})
        found = coordinate_imbalance(x, grown, target=target, k=k, metric=metric, p=p, threads=threads)
        order = np.argsort(found.criterion(symmetric), kind="stable")
        beam = [grown[i] for i in order[:n_best]]
        tried.append(found)
        best.append(found.rows(order[:1]))
    return GreedySelection(_joined(best), tuple(tried))


def _subsets(coordinates: Iterable[Any], d: int) -> list[tuple[int, ...]]:
    subsets = [tuple(int(j) for j in subset) for subset in coordinates]
    if not subsets:
        raise refusal("coordinates must name at least one subset", "none")
    for subset in subsets:
        if not subset or len(set(subset)) < len(subset) or min(subset) < 0 or max(subset) >= d:
            raise refusal(f"a subset must name different columns of {d}", subset)
    return subsets


def _columns(x: Any, subset: tuple[int, ...]) -> Any:
    """Contiguous rows of some columns."""
    if is_torch(x):
        return x[:, list(subset)].contiguous()
    rows = x if isinstance(x, np.ndarray) else np.from_dlpack(x)
    return np.ascontiguousarray(rows[:, list(subset)])


def _joined(parts: list[CoordinateImbalance]) -> CoordinateImbalance:
    first = parts[0]
    return CoordinateImbalance(
        tuple(subset for part in parts for subset in part.coordinates),
        np.concatenate([part.from_target for part in parts]),
        np.concatenate([part.to_target for part in parts]),
        np.concatenate([part.standard_errors_from_target for part in parts]),
        np.concatenate([part.standard_errors_to_target for part in parts]),
        first.n,
        first.k,
    )
