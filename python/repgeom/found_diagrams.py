"""What the homology kernel found, as diagrams."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from repgeom.diagrams import PersistenceDiagrams
from repgeom.landmarks import Landmarks

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Asked:
    """What a call asked for, where its result repeats it."""

    metric: str
    field: int
    threshold: float | None
    min_persistence: float


def diagrams_of(
    facts: dict[str, Any], asked: Asked, asymmetry: float, landmarks: Landmarks | None
) -> PersistenceDiagrams:
    """Diagrams from the answer of the kernel; points have the numbers of the whole cloud."""
    enclosing, threshold = facts["enclosing"], facts["threshold"]
    if not enclosing and asked.threshold is not None:
        threshold = float(asked.threshold)  # not rounded
    bars, infinite, births, deaths, endless, cocycles = map(tuple, zip(*facts["dimensions"], strict=True))
    if landmarks is not None:
        births, deaths, endless = (
            tuple(_renumbered(simplices, landmarks.indices)[0] for simplices in group)
            for group in (births, deaths, endless)
        )
    return PersistenceDiagrams._of_kernel(
        {
            "finite": bars,
            "infinite": infinite,
            "birth_simplices": births,
            "death_simplices": deaths,
            "infinite_simplices": endless,
            "cocycles": _cocycles(cocycles, asked.field, landmarks),
            "n": facts["n"],
            "field": asked.field,
            "metric": asked.metric,
            "threshold": threshold,
            "enclosing": enclosing,
            "min_persistence": asked.min_persistence,
            "error_bound": facts["error_bound"] + asymmetry,
            "method": facts["method"],
            "notes": _notes(facts, asked.metric, landmarks),
            "cover_radius": None if landmarks is None else landmarks.cover_radius,
        }
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


def _notes(facts: dict[str, Any], metric: str, landmarks: Landmarks | None) -> tuple[str, ...]:
    excess, triples = facts["triangle_excess"], facts["triples"]
    if landmarks is not None and landmarks.triples:
        excess, triples = landmarks.triangle_excess, landmarks.triples
    notes = []
    if excess > 0:
        notes.append(
            f"the triangle inequality is violated by up to {excess:.6g} (of {triples} triples tested); "
            "births and deaths are right, but bounds that need a metric do not hold"
        )
    if landmarks is not None and metric == "cosine":
        notes.append("1 - cos is no metric: cover_radius does not bound how far the diagrams are off")
    return tuple(notes)
