"""Layers that are compared with each other: their names, their rows, and a table over all pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any

from repgeom.checks import FloatArray, check_integer, refusal
from repgeom.estimates import IntArray, is_list_of_layers
from repgeom.neighbors import Metric, Neighbors, knn, neighbor_ranks


@dataclasses.dataclass(frozen=True)
class LayerPairs:
    """One number for every ordered pair of layers.

    Attributes:
        kind: What the numbers are.
        names: ``[l]``, the layers.
        values: ``[l, l]``, row to column.
        standard_errors: ``[l, l]``.
        n: Points.
        k: Neighbours looked at.
        chance: The mean for unrelated layers.
    """

    kind: str
    names: tuple[Hashable, ...]
    values: FloatArray
    standard_errors: FloatArray
    n: int
    k: int
    chance: float

    def between(self, a: Hashable, b: Hashable) -> float:
        """The number from layer ``a`` to layer ``b``."""
        return float(self.values[self.names.index(a), self.names.index(b)])


def named_layers(x: Any) -> dict[Hashable, Any] | None:
    """The layers of a dict, or of a list (numbered); None for anything else."""
    if isinstance(x, Mapping):
        return dict(x)
    return dict(enumerate(x)) if is_list_of_layers(x) else None


def check_same_rows(layers: Mapping[Any, Any]) -> int:
    """The number of points that all layers have, or ``ValueError``."""
    if not layers:
        raise refusal("a comparison needs at least one layer", "none")
    counts = {name: _rows(layer) for name, layer in layers.items()}
    if len(set(counts.values())) > 1:
        raise refusal("layers must hold the same points", f"n = {counts}")
    n = next(iter(counts.values()))
    if n < 2:
        raise refusal("neighbours need at least 2 points", n)
    return n


@dataclasses.dataclass(frozen=True)
class Space:
    """How neighbours are found and ranked where points are given; see `knn`."""

    metric: Metric = "euclidean"
    p: float | None = None
    threads: int | None = None

    def nearest(self, x: Any, k: int) -> IntArray:
        """``[n, k]``: indices of the k nearest other points, from points or from `Neighbors`."""
        check_integer("k", k, 1)
        n = _rows(x)
        if k > n - 1:
            raise refusal(f"k must be at most n - 1 = {n - 1}", k)
        if not isinstance(x, Neighbors):
            return knn(x, k, metric=self.metric, p=self.p, threads=self.threads).indices
        if not x.exclude_self or x.n_reference != n:
            raise refusal("neighbours must be of points among themselves, without self", "others")
        if x.k < k:
            raise refusal(f"k must be at most the {x.k} neighbours given", k)
        return x.indices[:, :k]

    def ranks(self, x: Any, indices: IntArray) -> IntArray:
        """``[n, m]``: exact ranks of points among the neighbours of every row."""
        return neighbor_ranks(x, indices, metric=self.metric, p=self.p, threads=self.threads).ranks


def _rows(x: Any) -> int:
    if isinstance(x, Neighbors):
        return len(x.indices)
    shape = getattr(x, "shape", None)
    if shape is None or len(shape) != 2:
        raise refusal("points must be an array [n, d]", f"shape {shape}" if shape is not None else type(x))
    return int(shape[0])
