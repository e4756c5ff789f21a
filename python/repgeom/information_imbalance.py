"""Information imbalance: how well neighbours in one space predict those in another (Glielmo et al. 2022)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from repgeom.checks import FloatArray, refusal
from repgeom.estimates import IntArray
from repgeom.layer_pairs import LayerPairs, Space, check_same_rows, named_layers
from repgeom.neighborhoods import pair_error
from repgeom.neighbors import Metric, Neighbors


@dataclasses.dataclass(frozen=True)
class InformationImbalance:
    """Both directions between two spaces: near 0 the first predicts the second, 1 it says nothing about it.

    Attributes:
        a_to_b: ``2 / (n k)`` times the sum of the ranks in b of the k nearest neighbours in a.
        b_to_a: The other way.
        standard_error_a_to_b: Points that share neighbours are not counted as independent.
        standard_error_b_to_a: The same.
        n: Points.
        k: Neighbours.
    """

    a_to_b: float
    b_to_a: float
    standard_error_a_to_b: float
    standard_error_b_to_a: float
    n: int
    k: int


def information_imbalance(
    a: Any,
    b: Any = None,
    k: int = 1,
    *,
    neighbors: Any = None,
    metric: Metric = "euclidean",
    p: float | None = None,
    threads: int | None = None,
) -> Any:
    """Mean rank in one space of the k nearest neighbours in the other, times 2 / n, with exact ranks.

    Equal spaces have ``(k + 1) / n``, unrelated ones 1. Ties are ranked by index. Memory grows with n, not
    n^2; with L layers every layer is passed over once to find neighbours and once to rank those of all
    layers.

    Args:
        a: ``[n, d_a]``; with ``b=None`` a dict or list of layers.
        b: ``[n, d_b]``, the same points.
        k: Neighbours.
        neighbors: `Neighbors` of the layers with at least k columns, where they are known already: a pair, or
            a dict or list as ``a`` is. They must stem from the same points and metric.
        metric: As in `knn`, of every space.
        p: As in `knn`.
        threads: As in `knn`.

    Returns:
        An `InformationImbalance`; for layers a `LayerPairs` over all ordered pairs.

    Raises:
        ValueError: Different n, `Neighbors` (ranks need the points), NaN or infinity, k below 1 or above n -
            1.
    """
    layers, space = named_layers(a), Space(metric, p, threads)
    if b is None:
        if layers is None:
            raise refusal("b may be left out when a is a dict or list of layers", type(a).__name__)
        known = None if neighbors is None else named_layers(neighbors)
        return imbalance_pairs(layers, k, space, known)
    if layers is not None or named_layers(b) is not None:
        raise refusal("two representations are compared", "layers and b: leave b out for all pairs")
    if neighbors is not None and len(neighbors) != 2:
        raise refusal("neighbors must be of two layers", len(neighbors))
    known = None if neighbors is None else dict(zip("ab", neighbors, strict=True))
    pairs = imbalance_pairs({"a": a, "b": b}, k, space, known)
    (_, forth), (back, _) = pairs.values.tolist()
    (_, forth_error), (back_error, _) = pairs.standard_errors.tolist()
    return InformationImbalance(forth, back, forth_error, back_error, pairs.n, k)


def imbalance_pairs(
    layers: Mapping[Any, Any], k: int, space: Space, known: Mapping[Any, Any] | None = None
) -> LayerPairs:
    """All ordered pairs, row to column, in one ranking for each column."""
    for name, layer in layers.items():
        if isinstance(layer, Neighbors):
            raise refusal("information imbalance ranks points and needs them", f"Neighbors for {name!r}")
    n = check_same_rows(layers)
    sources = layers if known is None else known
    if tuple(sources) != tuple(layers) or check_same_rows(sources) != n:
        raise refusal(f"neighbors must be of the {n} points of {list(layers)}", list(sources))
    found = [space.nearest(source, k) for source in sources.values()]
    values = np.empty((len(found), len(found)))
    errors = np.empty_like(values)
    for column, layer in enumerate(layers.values()):
        into = imbalances_into(layer, found[column], found, space)
        values[:, column], errors[:, column] = np.array(into).T
    return LayerPairs("information_imbalance", tuple(layers), values, errors, n, k, 1.0)


def imbalances_into(
    layer: Any, own: IntArray, found: list[IntArray], space: Space
) -> list[tuple[float, float]]:
    """Imbalance and error from each space to one layer, in one ranking; spaces by their neighbours."""
    k = own.shape[1]
    ranks = space.ranks(layer, np.concatenate(found, axis=1))
    results = []
    for i, indices in enumerate(found):
        rows: FloatArray = 2 / len(ranks) * ranks[:, i * k : (i + 1) * k].mean(axis=1)
        value = float(rows.mean())
        results.append((value, pair_error((rows - value) / len(rows), indices, own)))
    return results
