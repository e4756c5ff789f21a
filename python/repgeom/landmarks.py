"""A few points that stand for a cloud, and how well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from repgeom import _core
from repgeom.arrays import Array, is_torch
from repgeom.checks import check_integer, refusal
from repgeom.clouds import CloudInput, cloud_input, metric_of
from repgeom.threads import thread_count


@dataclass(frozen=True)
class Landmarks:
    """Points chosen by farthest-point sampling.

    Attributes:
        indices: ``[count]`` int64 rows of the cloud, in the order in which they were chosen.
        triangle_excess: Of distances: by how much the triangle inequality is violated at the most, of
            ``triples`` that were tested; what the radius says about diagrams needs a metric.
        triples: How many were tested; 0 for points.
        cover_radius: No point is farther from its nearest landmark; within a factor of 2 of the least radius
            that any choice of as many points has.
    """

    indices: npt.NDArray[np.int64]
    cover_radius: float
    triangle_excess: float = 0.0
    triples: int = 0


def farthest_points(
    x: Array,
    count: int,
    *,
    metric: str = "euclidean",
    p: float | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> Landmarks:
    """Landmarks of a cloud: one chosen by the seed, then always the point farthest from those chosen.

    For a metric (not ``"cosine"``, whose 1 - cos is none) the Vietoris-Rips diagrams of the landmarks are
    within twice the cover radius of those of the whole cloud, in bottleneck distance (Chazal,
    de Silva and Oudot, arXiv 1207.3885).

    Args:
        x: ``[n, d]``, or distances ``[n, n]`` with ``metric="precomputed"``.
        count: Landmarks, from 1 to n; there are fewer where all points coincide with some of them.
        metric: As in :func:`repgeom.rips`.
        p: As in :func:`repgeom.rips`.
        seed: Of the first landmark.
        threads: As in :func:`repgeom.rips`.

    Raises:
        ValueError: ``count`` out of range, and what :func:`repgeom.rips` refuses.

    References:
        Gonzalez, *Theoretical Computer Science* 38 (1985) 293-306.
    """
    check_integer("count", count, 1)
    return landmarks_of(cloud_input(x, metric), count, metric_of(metric, p), seed, thread_count(threads))


def landmarks_of(
    cloud: CloudInput, count: int, metric: tuple[str, float], seed: int, threads: int
) -> Landmarks:
    """Landmarks of a cloud as the kernel takes it."""
    if cloud.kind not in ("points", "square"):
        raise refusal("landmarks need points or a square matrix of distances", f"a {cloud.kind} form")
    if cloud.n == 0:
        raise refusal("a cloud needs at least 1 point", 0)
    check_integer("seed", seed, 0)
    first = int(np.random.default_rng(seed).integers(cloud.n))
    found = _core.farthest_points(cloud.value, *metric, count, first, threads)
    return Landmarks(*found)


def restricted(cloud: CloudInput, rows: npt.NDArray[np.int64]) -> CloudInput:
    """The cloud of these rows alone."""
    chosen: Any = rows
    if is_torch(cloud.value):
        import torch

        chosen = torch.from_numpy(rows)
    value = cloud.value[chosen]
    if cloud.kind == "square":
        value = np.ascontiguousarray(value[:, chosen])
    return CloudInput(cloud.kind, value, len(rows), len(rows) * (len(rows) - 1) // 2)
