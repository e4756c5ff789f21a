"""One vector per sequence: last, first, mean or maximum over its tokens that count, for a seeded sample of
sequences, the same ones in every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from repgeom.rows import BatchRows, IntArray
from repgeom.sampling import TokenSample, sequence_bits

POOLINGS = ("last", "mean", "first", "max")


def parse_pooling(pool: str | Sequence[str] | None) -> tuple[str, ...]:
    """The poolings asked for, without repetition.

    Raises:
        ValueError: A name that is not a pooling.
    """
    names = pool.split(",") if isinstance(pool, str) else list(pool or ())
    names = [name.strip() for name in names]
    unknown = sorted(set(names) - set(POOLINGS))
    if unknown:
        raise ValueError(f"pool must be among {list(POOLINGS)}, got {unknown}")
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Segments:
    """The counted rows of one batch that belong to sampled sequences, grouped by sequence.

    Attributes:
        rows: int64 ``[m]``, rows of the batch.
        slots: int64 ``[m]``, the place of each row's sequence.
        first: int64 ``[s]``, the first row of each sequence in this batch.
        last: int64 ``[s]``, its last row.
        places: int64 ``[s]``, its place.
        fresh: bool ``[s]``, whether the sequence begins here (and not in an earlier batch).
    """

    rows: IntArray
    slots: IntArray
    first: IntArray
    last: IntArray
    places: IntArray
    fresh: np.typing.NDArray[np.bool_]


@dataclass
class SequenceSample:
    """Which sequences are pooled, at which place, and how many counted tokens of each have been seen.

    Attributes:
        sample: The seeded choice among the sequences in the order of their first counted token.
        ids: int64 ``[limit]``, the number of the sequence at each place.
        counts: int64 ``[limit]``, its counted tokens so far.
    """

    sample: TokenSample
    ids: IntArray = field(init=False)
    counts: IntArray = field(init=False)
    _last_seen: int | None = None
    _begun: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.ids = np.full(self.sample.limit, -1, np.int64)
        self.counts = np.zeros(self.sample.limit, np.int64)

    def draw(self, batch: BatchRows) -> Segments:
        """Advances by the sequences of a batch and says which of its rows go where.

        Raises:
            ValueError: The batch does not say which rows make a sequence, or a sequence goes on after another
                one.
        """
        if batch.sequence_ids is None:
            raise ValueError(
                "pooled vectors need sequences, and these batches do not say which rows make one"
            )
        counted = np.flatnonzero(batch.keep)
        ids = batch.sequence_ids[counted]
        starts = np.flatnonzero(np.diff(ids, prepend=ids[:1] - 1))
        ends = np.append(starts, len(ids))[1:]
        # A sequence that goes on from the batch before is no new one.
        ongoing = len(ids) > 0 and ids[0] == self._last_seen
        begun = np.arange(len(starts)) >= int(ongoing)
        fresh = ids[starts][begun].tolist()
        if len(set(fresh)) < len(fresh) or not self._begun.isdisjoint(fresh):
            raise ValueError("pooled vectors need the rows of a sequence to stand together, got them apart")
        self._begun.update(fresh)
        places = self._places(ids[starts], begun)
        inside = places >= 0
        lengths = (ends - starts)[inside]
        self.counts[places[inside]] += lengths
        if len(ids):
            self._last_seen = int(ids[-1])
        slots = np.repeat(places, ends - starts)
        return Segments(
            rows=counted[slots >= 0],
            slots=slots[slots >= 0],
            first=counted[starts[inside]],
            last=counted[ends[inside] - 1],
            places=places[inside],
            fresh=begun[inside],
        )

    def _places(self, ids: IntArray, begun: np.typing.NDArray[np.bool_]) -> IntArray:
        """The place of each sequence of a batch, -1 for one that is not sampled."""
        places = np.full(len(ids), -1, np.int64)
        if len(ids) and not begun[0]:
            held = np.flatnonzero(self.ids == ids[0])
            places[0] = held[0] if len(held) else -1
        fresh = np.flatnonzero(begun)
        draw = self.sample.draw(len(fresh), sequence_bits(self.sample.seed, ids[fresh]))
        # A place that is taken over belongs to its new sequence from here on.
        places[np.isin(places, draw.slots)] = -1
        places[fresh[draw.rows]] = draw.slots
        self.ids[draw.slots], self.counts[draw.slots] = ids[fresh[draw.rows]], 0
        return places

    def order(self) -> IntArray:
        """Places in the order of the sequences' numbers."""
        return np.argsort(self.ids[: len(self.sample)], kind="stable")


class PooledVectors:
    """Pooled vectors of one layer, float32 (float64 for float64 activations), by place.

    Args:
        limit: Sequences at most.
        width: Width d of the activations.
        poolings: Among :data:`POOLINGS`.
        dtype: Of the activations.
        device: Where they are.
    """

    def __init__(
        self, limit: int, width: int, poolings: Sequence[str], dtype: torch.dtype, device: torch.device
    ) -> None:
        kept = torch.float64 if dtype == torch.float64 else torch.float32
        self._kept = kept
        self.values = {
            name: torch.zeros(limit, width, dtype=torch.float64 if name == "mean" else kept, device=device)
            for name in poolings
        }

    def add(self, activations: Tensor, segments: Segments) -> None:
        """Adds the rows ``[n, d]`` of one batch."""
        if not len(segments.rows):
            return
        fresh = segments.places[segments.fresh]
        for name, values in self.values.items():

            def index(array: IntArray, values: Tensor = values) -> Tensor:
                return torch.from_numpy(array).to(values.device, non_blocking=True)

            if name == "last":
                values[index(segments.places)] = activations[index(segments.last)].to(values.dtype)
            elif name == "first":
                values[index(fresh)] = activations[index(segments.first[segments.fresh])].to(values.dtype)
            else:
                rows = activations[index(segments.rows)].to(values.dtype)
                values[index(fresh)] = 0.0 if name == "mean" else -torch.inf
                if name == "mean":
                    values.index_add_(0, index(segments.slots), rows)
                else:
                    where = index(segments.slots)[:, None].expand_as(rows)
                    values.scatter_reduce_(0, where, rows, "amax")

    def read(self, sequences: SequenceSample) -> dict[str, np.typing.NDArray[np.generic]]:
        """``[s, d]`` by pooling, in the order of the stream."""
        order = sequences.order()
        counts = sequences.counts[order][:, None]
        return {
            name: (array / counts if name == "mean" else array).astype(_numpy(self._kept))
            for name, values in self.values.items()
            for array in [values.cpu().numpy()[order]]
        }


def _numpy(dtype: torch.dtype) -> type[np.floating[np.typing.NBitBase]]:
    return np.float64 if dtype == torch.float64 else np.float32  # type: ignore[return-value]
