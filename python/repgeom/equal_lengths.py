"""Padded batches taken apart by length, for models that are wrong on padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from repgeom.checks import refusal
from repgeom.tokens import TokenBatch, aligned_names

MASKS = ("attention_mask", "decoder_attention_mask")


def has_padding(batch: TokenBatch) -> bool:
    """Whether a mask forbids anything, on whichever side of an encoder-decoder."""
    return batch.n_padding > 0 or any(bool((batch.kwargs[m] == 0).any()) for m in MASKS if m in batch.kwargs)


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
    for name, value in batch.kwargs.items():
        if isinstance(value, Tensor) and value.ndim and len(value) != len(batch.real):
            raise refusal(f"{why}: batches must come without padding", f"{name} {list(value.shape)}")
    decoder = batch.token_ids is not None and batch.token_ids is batch.kwargs.get("decoder_input_ids")
    decoder = decoder or ("decoder_attention_mask" in batch.kwargs and "labels" in batch.kwargs)
    measured = "decoder_" if decoder else ""
    reals = {measured: batch.real}
    for prefix, mask in zip(("", "decoder_"), MASKS, strict=True):
        if prefix not in reals and mask in batch.kwargs:
            reals[prefix] = batch.kwargs[mask] != 0
    lengths = torch.stack([real.sum(dim=1).cpu() for real in reals.values()], dim=1)
    for key in sorted({tuple(row) for row in lengths.tolist()}):
        rows = (lengths == torch.tensor(key)).all(dim=1).nonzero()[:, 0]
        if min(key) == 0:
            raise refusal(f"{why}: sequences must have tokens on every side", f"lengths {list(key)}")
        cuts = {p: (real.shape, n) for (p, real), n in zip(reals.items(), key, strict=True)}
        yield _part(batch, rows, cuts, measured)


def _part(
    batch: TokenBatch, rows: Tensor, cuts: dict[str, tuple[torch.Size, int]], measured: str
) -> TokenBatch:
    """Some rows of a batch, each side cut to the length that they have there."""
    _, length = cuts[measured]

    def own(value: Tensor) -> Tensor:
        return value[rows.to(value.device)][:, :length]

    kwargs: dict[str, Any] = {}
    for name, value in batch.kwargs.items():
        if name in MASKS:
            continue
        kwargs[name] = value
        if isinstance(value, Tensor) and value.ndim:
            kwargs[name] = value[rows.to(value.device)]
            for prefix, (whole, until) in cuts.items():
                if name in aligned_names(batch.kwargs, whole, prefix=prefix):
                    kwargs[name] = kwargs[name][:, :until]
    assert batch.keep is not None
    assert batch.real is not None
    keep = own(batch.keep)
    return replace(
        batch,
        kwargs=kwargs,
        keep=keep,
        real=own(batch.real),
        token_ids=None if batch.token_ids is None else own(batch.token_ids),
        dropped={reason: own(where) for reason, where in batch.dropped.items()},
        sequence_ids=None if batch.sequence_ids is None else batch.sequence_ids[rows],
        n_tokens=int(keep.sum()),
        n_padding=0,
    )
