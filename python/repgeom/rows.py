"""What is known of the positions of one batch, one row per position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from repgeom.tokens import TokenBatch

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class BatchRows:
    """The positions of a batch, flat, in host memory.

    Attributes:
        shape: ``(batch, seq)`` that activations must have, or ``(n,)``.
        keep: bool ``[n]``, positions that count.
        dropped: bool ``[n]`` by reason, the real positions that a policy leaves out.
        token_ids: ``[n]`` or None.
        sequence_ids: ``[n]`` number of the sequence in the source, or None.
        positions: ``[n]`` place in the sequence, or None.
        labels: ``[n]`` of the positions or their sequences, -100 for none; or None.
        n_padding: Padding among the positions.
    """

    shape: tuple[int, ...]
    keep: BoolArray
    dropped: Mapping[str, BoolArray] = field(default_factory=dict)
    token_ids: IntArray | None = None
    sequence_ids: IntArray | None = None
    positions: IntArray | None = None
    labels: IntArray | None = None
    n_padding: int = 0

    def __len__(self) -> int:
        return len(self.keep)

    def without(self, reason: str, where: BoolArray) -> BatchRows:
        """The same with counted positions taken out for a reason."""
        taken = where & self.keep
        return replace(self, keep=self.keep & ~taken, dropped={**self.dropped, reason: taken})

    @classmethod
    def of_tokens(cls, batch: TokenBatch) -> BatchRows | None:
        """The positions of a token batch; None where they cannot be known before an activation is seen."""
        if batch.keep is None:
            return None
        rows, columns = batch.keep.shape
        return cls(
            shape=(rows, columns),
            keep=_flat(batch.keep),
            dropped={reason: _flat(where) for reason, where in batch.dropped.items()},
            token_ids=None if batch.token_ids is None else _flat(batch.token_ids),
            sequence_ids=_repeated(batch.sequence_ids, columns),
            positions=np.tile(np.arange(columns), rows),
            labels=_labels(batch.kwargs.get("labels"), (rows, columns)),
            n_padding=batch.n_padding,
        )

    @classmethod
    def of_activation(cls, batch: TokenBatch | None, leading: tuple[int, ...]) -> BatchRows:
        """All positions of an activation of which only the leading shape is known."""
        n = int(np.prod(leading))
        sequences = None if batch is None else batch.sequence_ids
        per_sequence = n // leading[0] if len(leading) > 1 and leading[0] else 0
        known = sequences is not None and per_sequence and len(sequences) == leading[0]
        return cls(
            shape=leading,
            keep=np.ones(n, np.bool_),
            sequence_ids=_repeated(sequences, per_sequence) if known else None,
            positions=np.arange(n) % per_sequence if known else None,
        )


def _labels(labels: Any, shape: tuple[int, int]) -> IntArray | None:
    """Integer labels ``[batch, seq]``, or one for each sequence, as one for each position."""
    if not isinstance(labels, Tensor) or labels.is_floating_point():
        return None
    if labels.shape == shape:
        return _flat(labels)
    return _repeated(labels.reshape(-1), shape[1]) if labels.numel() == shape[0] else None


def _flat(tensor: Tensor) -> npt.NDArray[Any]:
    return tensor.reshape(-1).cpu().numpy()


def _repeated(sequence_ids: Tensor | None, columns: int) -> IntArray | None:
    return None if sequence_ids is None else np.repeat(sequence_ids.cpu().numpy(), columns)
