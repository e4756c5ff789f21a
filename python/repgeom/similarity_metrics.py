"""What a run compares between all layers: centred kernel alignment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from repgeom.cka import cka
from repgeom.collect import SampledTokens
from repgeom.comparisons import SimilarityMatrix
from repgeom.point_sets import Layers, count_rows, layer_sets
from repgeom.registry import metric

LEAST = 4


@metric("cka_pairs", needs=["common", "tokens", "pooled"], scope="table")
def _cka_pairs(
    *, common: Layers, tokens: Mapping[Any, SampledTokens], pooled: Mapping[Any, Any]
) -> list[dict[str, Any]]:
    """Debiased linear CKA of all pairs of layers, for tokens and for each pooling.

    Errors are of independent sequences for tokens, of independent rows for pooled vectors.
    """
    rows: list[dict[str, Any]] = []
    for points, layers in layer_sets(common, pooled):
        n = count_rows(layers)
        if n < LEAST:
            continue
        groups = _sequences(tokens, n) if points == "tokens" else None
        found = cka(layers, groups=groups)
        rows += _records(points, found, n if groups is None else len(np.unique(groups)))
    return rows


def _records(points: str, found: SimilarityMatrix, groups: int) -> Iterator[dict[str, Any]]:
    for left, right, pair in found:
        yield {
            "left": left,
            "right": right,
            "points": points,
            "cka": pair.value,
            "standard_error": pair.standard_error,
            "n": pair.n,
            "groups": groups,
            "status": pair.status,
            "note": "; ".join(pair.warnings),
        }


def _sequences(tokens: Mapping[Any, SampledTokens], n: int) -> npt.NDArray[np.int64] | None:
    """``[n]``: the sequence of each token that is finite in every layer; None where it is not known."""
    known = [np.stack([of.sequence_ids, of.positions], axis=1) for of in tokens.values()]
    shared = known[0]
    for other in known[1:]:
        inside = {tuple(place) for place in other.tolist()}
        shared = shared[[tuple(place) in inside for place in shared.tolist()]]
    unknown = (shared < 0).any() or len(shared) != n
    return None if unknown else np.asarray(shared[:, 0])
