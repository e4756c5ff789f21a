"""What is kept of the tokens of one layer: a covariance on the host or on a device, or a sketch of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from repgeom.checks import check_integer, refusal
from repgeom.covariance import Covariance, Workspace
from repgeom.covariance_sketch import (
    DEFAULT_RANK,
    covariance_bytes,
    must_sketch,
    new_sketch,
    reading_bytes,
    sketch_bytes,
    sketch_note,
)
from repgeom.device_moments import DeviceMoments
from repgeom.memory import available, readable
from repgeom.sketches import NystromSketch

Moments: TypeAlias = Covariance | DeviceMoments | NystromSketch


@dataclass
class MomentsPolicy:
    """How the moments of layers are kept.

    Attributes:
        memory_limit: Bytes that the moments of all layers and the eigenproblem of one may take; None: what is
            free when the first ones are made, and no limit for those on a device. Beyond it sketches are kept
            in host memory.
        rank: Eigenpairs that a sketch is good for.
        in_full: Who needs covariances in full.
    """

    memory_limit: int | None = None
    rank: int = DEFAULT_RANK
    in_full: Sequence[str] = ()
    _workspace: Workspace = field(default_factory=Workspace)

    def __post_init__(self) -> None:
        if self.memory_limit is not None:
            check_integer("memory_limit", self.memory_limit, 1)

    @classmethod
    def of_run(cls, memory_limit: int | None, *, novelty_k: int, in_full: Sequence[str]) -> MomentsPolicy:
        """That of a run which compares the first ``novelty_k`` eigenvectors."""
        return cls(memory_limit, max(DEFAULT_RANK, novelty_k), in_full)

    def new(self, width: int, layers: int, device: torch.device, threads: int | None) -> Moments:
        """Moments of one of several layers."""
        if self.sketches(width, layers, device):
            return new_sketch(width, self.rank, threads=threads)
        if device.type == "cpu":
            return Covariance(width, threads=threads, workspace=self._workspace)
        return DeviceMoments(width, device)

    def sketches(self, width: int, layers: int, device: torch.device) -> bool:
        """Whether covariances would not fit, were all layers of this width.

        Raises:
            ValueError: Sketches do not fit either, or somebody needs covariances in full.
        """
        if device.type == "cpu" and self.memory_limit is None:
            self.memory_limit = available()
        limit = self.memory_limit
        matrix = covariance_bytes(width) if device.type == "cpu" else 8 * width * width
        full = layers * matrix + eigenproblem_bytes(width)
        small = layers * sketch_bytes(width, self.rank) + reading_bytes(width, self.rank)
        what = f"{layers} covariances of width {width} or sketches of rank {self.rank}, and reading one"
        if not must_sketch(full, small, limit, what):
            return False
        if self.in_full:
            rule = f"memory_limit must be at least {full} bytes ({readable(full)})"
            reason = f"{', '.join(self.in_full)} must have covariances in full"
            raise refusal(f"{rule}, as {reason}", f"{limit} ({readable(limit or 0)})")
        return True

    def note(self, kept: Iterable[Moments | None]) -> str:
        """What a reader of the numbers should know of the sketches among them; empty without any."""
        moments = [one for one in kept if one is not None]
        sketches = [one for one in moments if isinstance(one, NystromSketch)]
        if not sketches:
            return ""
        full = sum(covariance_bytes(one.dim) for one in moments)
        full += max(eigenproblem_bytes(one.dim) for one in moments)
        return sketch_note(len(sketches), len(moments), rank=self.rank, full=full, limit=self.memory_limit)


def eigenproblem_bytes(width: int) -> int:
    """Bytes of a matrix, its eigenvectors and the work space of LAPACK."""
    return 4 * 8 * width * width
