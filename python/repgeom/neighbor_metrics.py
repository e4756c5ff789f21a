"""What a run reads off nearest neighbours: intrinsic dimension, overlaps, information imbalance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from repgeom.collect import SampledTokens
from repgeom.dimension import select_scale
from repgeom.gride import gride
from repgeom.information_imbalance import information_imbalance
from repgeom.layer_pairs import LayerPairs
from repgeom.neighbor_overlap import label_overlap, neighbor_overlap
from repgeom.neighbors import knn
from repgeom.point_sets import Layers, count_rows, layer_sets, pooled_sets
from repgeom.readings import Settings
from repgeom.registry import metric
from repgeom.tokens import UNLABELED
from repgeom.two_nn import two_nn

OVERLAP_K = 30
NAN = float("nan")


@metric("dimension", needs=["sample", "settings"])
def _dimension(*, sample: npt.NDArray[Any], settings: Settings) -> dict[str, Any]:
    """TwoNN of the sampled tokens, equal ones taken once."""
    if len(sample) < 3:
        return {"id_two_nn": NAN, "id_two_nn_se": NAN, "id_tokens": 0, "id_status": "too few points"}
    found = two_nn(sample, threads=settings.threads)
    return {
        "id_two_nn": found.value,
        "id_two_nn_se": found.standard_error,
        "id_tokens": found.n,
        "id_status": found.status,
    }


@metric("dimension_profile", needs=["sample", "pooled", "settings"], scope="table")
def _dimension_profile(
    *,
    sample: Layers,
    pooled: Mapping[Any, Mapping[str, npt.NDArray[Any]]],
    settings: Mapping[Any, Settings],
) -> list[dict[str, Any]]:
    """TwoNN and Gride over scales, for tokens and for each pooling; the scale to plot is marked."""
    threads = next(iter(settings.values())).threads if settings else None
    sets: dict[str, Layers] = {"tokens": sample, **pooled_sets(pooled)}
    rows: list[dict[str, Any]] = []
    for points, held in sets.items():
        usable = {layer: x for layer, x in held.items() if len(x) >= 3}
        profiles = {layer: gride(x, max_rank=64, threads=threads) for layer, x in usable.items()}
        selected = _plateau(profiles)
        for layer, x in usable.items():
            estimates = [("two_nn", 2, two_nn(x, threads=threads))]
            ranks = profiles[layer].positions
            estimates += [
                ("gride", int(rank), found) for rank, found in zip(ranks, profiles[layer], strict=True)
            ]
            for method, rank, found in estimates:
                rows.append(
                    {
                        "layer": layer,
                        "points": points,
                        "method": method,
                        "rank": rank,
                        "dimension": found.value,
                        "standard_error": found.standard_error,
                        "independent_error": found.independent_error,
                        "n": found.n,
                        "n_dropped": found.n_dropped,
                        "scale": found.scale,
                        "selected": method == "gride" and rank == selected,
                        "status": found.status,
                    }
                )
    return rows


@metric("overlap", needs=["common", "settings"], scope="pair")
def _overlap(*, common: tuple[Any, Any], settings: tuple[Settings, Settings]) -> dict[str, Any]:
    """Neighbour overlap of consecutive layers."""
    k = min(OVERLAP_K, len(common[0]) - 1)
    value, error, copies = NAN, NAN, 0
    if k >= 2:
        near = [knn(np.ascontiguousarray(rows), k, threads=settings[0].threads) for rows in common]
        found = neighbor_overlap(near[0], near[1], k)
        value, error = found.value, found.standard_error
        # Neighbours at distance 0 are in the order of the tokens in both layers, and so agree.
        copies = int(np.logical_or(*(side.distances[:, 0] == 0 for side in near)).sum())
    return {
        "neighbor_overlap": value,
        "neighbor_overlap_se": error,
        "neighbor_overlap_k": max(k, 0),
        "neighbor_overlap_copies": copies,
    }


@metric("overlap_pairs", needs=["common", "pooled", "settings"], scope="table")
def _overlap_pairs(
    *, common: Layers, pooled: Mapping[Any, Any], settings: Mapping[Any, Settings]
) -> list[dict[str, Any]]:
    """Neighbour overlap of all pairs of layers, for tokens and for each pooling."""
    threads = next(iter(settings.values())).threads if settings else None
    return [
        row
        for points, layers in layer_sets(common, pooled)
        for row in _pairs(
            points,
            neighbor_overlap(layers, k=min(OVERLAP_K, count_rows(layers) - 1), threads=threads),
            "overlap",
        )
    ]


@metric("label_overlap", needs=["sample", "tokens", "settings"])
def _label_overlap(*, sample: npt.NDArray[Any], tokens: SampledTokens, settings: Settings) -> dict[str, Any]:
    """Among the labelled tokens the share of neighbours with the same label; nothing without labels."""
    labelled = tokens.labels != UNLABELED
    rows, labels = np.ascontiguousarray(sample[labelled]), tokens.labels[labelled]
    if len(rows) < 3:
        return {}
    found = label_overlap(rows, labels, min(OVERLAP_K, len(rows) - 1), threads=settings.threads)
    return {
        "label_overlap": found.value,
        "label_overlap_se": found.standard_error,
        "label_overlap_chance": found.chance,
        "label_overlap_tokens": found.n,
    }


@metric("imbalance", needs=["common", "pooled", "settings"], scope="table")
def _imbalance(
    *, common: Layers, pooled: Mapping[Any, Any], settings: Mapping[Any, Settings]
) -> list[dict[str, Any]]:
    """Information imbalance between all pairs of layers, with exact ranks."""
    threads = next(iter(settings.values())).threads if settings else None
    return [
        row
        for points, layers in layer_sets(common, pooled)
        for row in _pairs(points, information_imbalance(layers, threads=threads), "imbalance")
    ]


def _plateau(profiles: Mapping[Any, Any]) -> int | None:
    """The rank at which the profiles of all layers are flattest; None where there is none."""
    try:
        return select_scale(profiles).position
    except ValueError:
        return None


def _pairs(points: str, found: LayerPairs, name: str) -> Iterator[dict[str, Any]]:
    for i, left in enumerate(found.names):
        for j, right in enumerate(found.names):
            yield {
                "left": left,
                "right": right,
                "points": points,
                name: float(found.values[i, j]),
                "standard_error": float(found.standard_errors[i, j]),
                "n": found.n,
                "k": found.k,
                "chance": found.chance,
            }
