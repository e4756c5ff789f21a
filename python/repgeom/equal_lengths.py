"""Padded batches taken apart by length, for models that are wrong on padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor

from repgeom.checks import refusal
from repgeom.tokens import TokenBatch


def split_by_length(batch: TokenBatch, why: str) -> Iterator[TokenBatch]:
    """Batches without padding that hold the same sequences as a right-padded one, the shortest first.

    Args:
        batch: Keyword arguments that are tensors ``[b, ...]``, and whatever is no tensor.
        why: Why padding must go, for the error.

    Raises:
        ValueError: A batch that cannot be taken apart.
    """
    if batch.real is None or batch.keep is None or batch.args:
        raise refusal(f"{why}: batches must come without padding", "a padded batch of positional arguments")
    shape = batch.real.shape
    for name, value in batch.kwargs.items():
        if isinstance(value, Tensor) and value.ndim and len(value) != shape[0]:
            raise refusal(
                f"{why}: batches must come without padding", f"{name} {list(value.shape)} beside it"
            )
    lengths = batch.real.sum(dim=1)
    for length in sorted(set(lengths.tolist()) - {0}):
        rows = (lengths == length).nonzero()[:, 0]
        part = _Part(rows, int(length), shape)
        kwargs = {name: part.of(value) for name, value in batch.kwargs.items() if name != "attention_mask"}
        keep = part.of(batch.keep)
        yield replace(
            batch,
            kwargs=kwargs,
            keep=keep,
            real=part.of(batch.real),
            token_ids=part.of(batch.token_ids),
            dropped={reason: part.of(where) for reason, where in batch.dropped.items()},
            sequence_ids=None if batch.sequence_ids is None else batch.sequence_ids[rows.cpu()],
            n_tokens=int(keep.sum()),
            n_padding=0,
        )


class _Part:
    """Some rows of a batch, cut to their length where a tensor has the batch's positions."""

    def __init__(self, rows: Tensor, length: int, shape: tuple[int, ...]) -> None:
        self._rows, self._length, self._shape = rows, length, shape

    def of(self, value: Any) -> Any:
        """The part of a value that belongs to these rows."""
        if not isinstance(value, Tensor) or not value.ndim:
            return value
        chosen = value[self._rows.to(value.device)]
        return chosen[:, : self._length] if value.shape[:2] == self._shape else chosen
