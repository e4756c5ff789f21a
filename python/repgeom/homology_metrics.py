"""What a run reads off persistent homology: loops and clusters of every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from repgeom.diagrams import PersistenceDiagrams
from repgeom.homology import rips
from repgeom.point_sets import Layers
from repgeom.readings import Settings
from repgeom.registry import metric

MAX_DIM = 1
LANDMARKS = 2000  # more points than these are represented by so many


@metric("homology", needs=["sample", "settings"])
def _homology(*, sample: npt.NDArray[Any], settings: Settings) -> dict[str, Any]:
    """Vietoris-Rips persistence of the sampled tokens."""
    if len(sample) < 2:
        return {}
    return _row(_persistence({0: sample}, settings.threads)[0])


@metric("homology_pooled", needs=["pooled", "settings"], scope="table")
def _homology_pooled(*, pooled: Mapping[Any, Any], settings: Mapping[Any, Settings]) -> list[dict[str, Any]]:
    """The same of sequences, for each pooling."""
    threads = next(iter(settings.values())).threads if settings else None
    return [
        {"layer": layer, "points": points, **_row(diagrams)}
        for points, layers in _by_pooling(pooled).items()
        for layer, diagrams in _persistence(layers, threads).items()
    ]


def _by_pooling(
    pooled: Mapping[Any, Mapping[str, npt.NDArray[Any]]],
) -> dict[str, dict[Any, npt.NDArray[Any]]]:
    """By pooling and layer, the sequences that are finite in that layer."""
    sets: dict[str, dict[Any, npt.NDArray[Any]]] = {}
    for layer, vectors in pooled.items():
        for pooling, rows in vectors.items():
            sets.setdefault(pooling, {})[layer] = rows[np.isfinite(rows).all(axis=1)]
    return sets


def _persistence(layers: Layers, threads: int | None) -> dict[Any, PersistenceDiagrams]:
    clouds = {layer: np.ascontiguousarray(cloud) for layer, cloud in layers.items() if len(cloud) >= 2}
    many = any(len(cloud) > LANDMARKS for cloud in clouds.values())
    found: dict[Any, PersistenceDiagrams] = rips(
        clouds, MAX_DIM, landmarks=LANDMARKS if many else None, threads=threads
    )
    return found


def _row(diagrams: PersistenceDiagrams) -> dict[str, Any]:
    """Lengths in units of the data, and as shares of the enclosing radius, which compare across layers."""
    radius = diagrams.threshold or 0.0
    row: dict[str, Any] = {
        "homology_points": diagrams.n,
        "distinct_points": diagrams.count(0) + len(diagrams.infinite[0]),
        "enclosing_radius": radius,
    }
    for dim in range(MAX_DIM + 1):
        total, longest = diagrams.total_persistence(dim), diagrams.maximum_lifetime(dim)
        row |= {
            f"H{dim}_count": diagrams.count(dim),
            f"H{dim}_total_persistence": total,
            f"H{dim}_max_lifetime": longest,
            f"H{dim}_entropy": diagrams.entropy(dim),
            f"H{dim}_max_lifetime_share": longest / radius if radius > 0 else float("nan"),
        }
    return row | {"cover_radius": diagrams.cover_radius or 0.0}
