"""Batches that somebody else made as :class:`TokenBatch`, until a budget is reached."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor

from repgeom.checks import check_integer, refusal
from repgeom.tokens import (
    TokenBatch,
    TokenPolicy,
    check_vocabulary,
    pack_known,
    real_positions,
    without_special,
)


def iter_dataloader(
    dataloader: Iterable[Any],
    *,
    policy: TokenPolicy | None = None,
    max_tokens: int | None = None,
    signature: inspect.Signature | None = None,
    vocab_size: int | None = None,
    special_ids: Collection[int] = (),
) -> Iterator[TokenBatch]:
    """Read the batches of a dataloader until a token budget is reached.

    A batch is a mapping (keyword arguments, such as a ``BatchEncoding``), a tensor (token ids ``[b, s]``, or
    floats), or a tuple or list (positional arguments). Padding is known from ``attention_mask`` alone:
    without one, every position is a real token. Batches are never split, so the last one may exceed the
    budget; no batch is drawn that is not used.

    Args:
        dataloader: an iterable of batches; need not have a length.
        policy: which positions count.
        max_tokens: stop before a batch when this many tokens have been counted; None: no limit, 0: no batch.
        signature: of the model's ``forward``; with it, the masks in tuples of positional arguments are found.
        vocab_size: rows of the model's embedding; ids outside are refused. None: not checked.
        special_ids: the ids that ``special_tokens="drop"`` drops (``tokenizer.all_special_ids``).

    Returns:
        An iterator of batches, right-padded unless ``policy.padding == "keep"``.

    Raises:
        ValueError: at once for bad arguments; while iterating for an unsupported batch, a mask of another
            shape than the ids or with values other than 0 and 1, a batch of only padding, ids outside the
            vocabulary (each names the batch), and for a dataloader without a batch.
    """
    policy = policy or TokenPolicy()
    if max_tokens is not None:
        check_integer("max_tokens", max_tokens, 0)
    _check_dataloader(dataloader)
    dropped: tuple[int, ...] = ()
    if policy.special_tokens == "drop":
        if not special_ids:
            raise refusal('special_tokens="drop" needs special_ids, the ids to be dropped', "none")
        dropped = tuple(special_ids)
    reader = _Reader(policy, _positional_names(signature), vocab_size, dropped)
    return _read_batches(iter(dataloader), reader, max_tokens)


def _read_batches(batches: Iterator[Any], reader: _Reader, max_tokens: int | None) -> Iterator[TokenBatch]:
    """The generator behind :func:`iter_dataloader`."""
    n_tokens = n_sequences = 0
    for index in count():
        if max_tokens is not None and n_tokens >= max_tokens:
            return
        try:
            raw = next(batches)
        except StopIteration:
            break
        batch = reader.read(raw, index, n_sequences)
        n_tokens += batch.n_tokens
        n_sequences += 1 if batch.sequence_ids is None else len(batch.sequence_ids)
        yield batch
    if index == 0:
        raise refusal("dataloader must yield at least one batch", "no batch")


def forward_signature(model: torch.nn.Module) -> inspect.Signature:
    """The signature of ``model.forward``, for :func:`iter_dataloader`."""
    return inspect.signature(model.forward)


def _positional_names(signature: inspect.Signature | None) -> tuple[str, ...]:
    """The names under which positional arguments arrive."""
    if signature is None:
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(name for name, p in signature.parameters.items() if p.kind in kinds and name != "self")


def _check_dataloader(dataloader: Any) -> None:
    """Refuse what is no iterable of batches."""
    if isinstance(dataloader, str | bytes):
        raise refusal("dataloader must be an iterable of batches", "a string; text goes in as text=")
    if isinstance(dataloader, Mapping | Tensor):
        received = f"one {type(dataloader).__name__}; put a single batch in a list"
        raise refusal("dataloader must be an iterable of batches", received)
    if not hasattr(dataloader, "__iter__") and not hasattr(dataloader, "__getitem__"):
        raise refusal("dataloader must be an iterable of batches", type(dataloader).__name__)


@dataclass(frozen=True)
class _Reader:
    """What it takes to read the batches of a dataloader."""

    policy: TokenPolicy
    parameters: tuple[str, ...]
    vocab_size: int | None
    special_ids: tuple[int, ...]

    def read(self, batch: Any, index: int, first_sequence: int) -> TokenBatch:
        """A batch of any supported form as a :class:`TokenBatch`."""
        where = f"batch {index}"
        if isinstance(batch, Mapping):
            return self._from_mapping(batch, where, first_sequence)
        if isinstance(batch, Tensor):
            return self._from_arguments((batch,), where, first_sequence)
        if isinstance(batch, tuple | list):
            named = dict(zip(self.parameters, batch, strict=False))
            if len(named) == len(batch) and "input_ids" in named:
                return self._from_mapping(named, where, first_sequence)
            return self._from_arguments(tuple(batch), where, first_sequence)
        received = "a string; text goes in as text=" if isinstance(batch, str) else type(batch).__name__
        raise refusal(f"{where}: must be a mapping, a tensor, a tuple or a list", received)

    def _from_mapping(self, batch: Mapping[str, Any], where: str, first_sequence: int) -> TokenBatch:
        """A batch of keyword arguments."""
        real = real_positions(batch, where)
        if real is None:
            first = _first_tensor(batch, where)
            n = len(first) if first.ndim else 1
            return TokenBatch((), dict(batch), None, None, n, 0, _sequence_ids(first, first_sequence))
        if self.policy.padding == "drop":
            batch = pack_known(batch, real, where)
            real = real_positions(batch, where)
            assert real is not None, "packing keeps the inputs that have positions"
        ids = batch.get("input_ids")
        return self._batch((), dict(batch), ids, real, where=where, first_sequence=first_sequence)

    def _from_arguments(self, args: tuple[Any, ...], where: str, first_sequence: int) -> TokenBatch:
        """A batch of positional arguments; the first tensor in it decides what is counted."""
        first = _first_tensor(args, where)
        if first.ndim == 2 and not (first.is_floating_point() or first.is_complex()):
            real = torch.ones(first.shape, dtype=torch.bool, device=first.device)
            return self._batch(args, {}, first, real, where=where, first_sequence=first_sequence)
        return TokenBatch(args, {}, None, None, _rows(first), 0, _sequence_ids(first, first_sequence))

    def _batch(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        ids: Tensor | None,
        real: Tensor,
        *,
        where: str,
        first_sequence: int,
    ) -> TokenBatch:
        """The batch with its counted positions, given its real ones ``[b, s]``."""
        keep = torch.ones_like(real) if self.policy.padding == "keep" else real
        if ids is not None:
            check_vocabulary(ids, self.vocab_size, where)
            keep = without_special(keep, ids, self.special_ids)
        return TokenBatch(
            args=args,
            kwargs=kwargs,
            keep=keep,
            token_ids=ids,
            n_tokens=int(keep.sum()),
            n_padding=int((~real).sum()),
            sequence_ids=_sequence_ids(real, first_sequence),
        )


def _rows(first: Tensor) -> int:
    """Vectors in a batch without token ids: ``b * s`` of ``[b, s, ...]``, the rows of ``[n, d]``."""
    if first.ndim == 0:
        return 1
    return first.shape[0] * first.shape[1] if first.ndim >= 3 else len(first)


def _sequence_ids(rows: Tensor, first: int) -> Tensor | None:
    """The running numbers of the rows of a batch; None for a tensor without rows."""
    return torch.arange(first, first + len(rows)) if rows.ndim >= 2 else None


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested mappings, tuples and lists, depth first."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


def _first_tensor(batch: Any, where: str) -> Tensor:
    """The first tensor in a batch."""
    for tensor in _tensors(batch):
        return tensor
    kinds = sorted({type(v).__name__ for v in (batch.values() if isinstance(batch, Mapping) else batch)})
    raise refusal(f"{where}: must hold at least one tensor", ", ".join(kinds) or "nothing")
