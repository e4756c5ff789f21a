"""The kinds of points that a run holds of every layer: sampled tokens, and sequences by their poolings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Layers = Mapping[Any, npt.NDArray[Any]]


def pooled_sets(
    pooled: Mapping[Any, Mapping[str, npt.NDArray[Any]]],
) -> dict[str, dict[Any, npt.NDArray[Any]]]:
    """By pooling and layer, the sequences that are finite in every layer."""
    sets: dict[str, dict[Any, npt.NDArray[Any]]] = {}
    for layer, vectors in pooled.items():
        for pooling, rows in vectors.items():
            sets.setdefault(pooling, {})[layer] = rows
    for layers in sets.values():
        finite = np.logical_and.reduce([np.isfinite(rows).all(axis=1) for rows in layers.values()])
        layers.update({layer: np.ascontiguousarray(rows[finite]) for layer, rows in layers.items()})
    return sets


def layer_sets(
    common: Layers, pooled: Mapping[Any, Any]
) -> Iterator[tuple[str, dict[Any, npt.NDArray[Any]]]]:
    """The kinds of points with at least 3 of them and 2 layers."""
    for points, layers in {"tokens": dict(common), **pooled_sets(pooled)}.items():
        if len(layers) >= 2 and count_rows(layers) >= 3:
            yield points, layers


def count_rows(layers: Layers) -> int:
    """Points of each layer."""
    return len(next(iter(layers.values()), ()))
