"""What the homology kernel found, as diagrams."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from repgeom.diagrams import PersistenceDiagrams
from repgeom.landmarks import Landmarks

Int64Array = npt.NDArray[np.int64]


def diagrams_of(
    facts: dict[str, Any], metric: str, field: int, min_persistence: float, landmarks: Landmarks | None
) -> PersistenceDiagrams:
    """Diagrams from the answer of the kernel; points have the numbers of the whole cloud."""
    bars, infinite, births, deaths, endless, cocycles = map(tuple, zip(*facts["dimensions"], strict=True))
    if landmarks is not None:
        births, deaths, endless = (
            tuple(_renumbered(simplices, landmarks.indices)[0] for simplices in group)
            for group in (births, deaths, endless)
        )
    return PersistenceDiagrams(
        finite=bars,
        infinite=infinite,
        birth_simplices=births,
        death_simplices=deaths,
        infinite_simplices=endless,
        cocycles=_cocycles(cocycles, field, landmarks),
        n=facts["n"],
        field=field,
        metric=metric,
        threshold=facts["threshold"],
        enclosing=facts["enclosing"],
        min_persistence=min_persistence,
        error_bound=facts["error_bound"],
        method=facts["method"],
        notes=_notes(facts),
        cover_radius=None if landmarks is None else landmarks.cover_radius,
    )


def _cocycles(
    found: tuple[tuple[Int64Array, Int64Array, Int64Array] | None, ...],
    field: int,
    landmarks: Landmarks | None,
) -> tuple[list[tuple[Int64Array, Int64Array]], ...] | None:
    """Per dimension, per bar: simplices and their coefficients."""
    if not found or found[0] is None:
        return None
    out = []
    for entry in found:
        assert entry is not None  # all or none
        starts, simplices, coefficients = entry
        if landmarks is not None:
            simplices, odd = _renumbered(simplices, landmarks.indices)
            coefficients = np.where(odd, field - coefficients, coefficients)
        bars = itertools.pairwise(starts)
        out.append([(simplices[a:b], coefficients[a:b]) for a, b in bars])
    return tuple(out)


def _renumbered(simplices: Int64Array, names: Int64Array) -> tuple[Int64Array, npt.NDArray[np.bool_]]:
    """Simplices in other numbers, ascending again, and whether that turned their orientation."""
    named = names[simplices]
    order = np.argsort(named, axis=1, kind="stable")
    inversions = np.zeros(len(named), dtype=np.int64)
    for i in range(named.shape[1]):
        for j in range(i):
            inversions += named[:, j] > named[:, i]
    return np.take_along_axis(named, order, axis=1), inversions % 2 == 1


def _notes(facts: dict[str, Any]) -> tuple[str, ...]:
    excess = facts["triangle_excess"]
    if excess == 0:
        return ()
    return (
        f"the triangle inequality is violated by up to {excess:.6g} (of {facts['triples']} triples tested); "
        "births and deaths are right, but bounds that need a metric do not hold",
    )
