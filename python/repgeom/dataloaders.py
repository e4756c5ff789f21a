"""Batches that somebody else made as :class:`TokenBatch`, until a budget is reached."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from repgeom.checks import check_integer, refusal
from repgeom.positions import Marker, counting
from repgeom.tokens import (
    TokenBatch,
    TokenPolicy,
    check_vocabulary,
    decoder_positions,
    masking,
    pack_decoder,
    pack_known,
    real_positions,
)

Stream = Literal["input", "decoder"]


def iter_dataloader(
    dataloader: Iterable[Any],
    *,
    policy: TokenPolicy | None = None,
    max_tokens: int | None = None,
    signature: inspect.Signature | None = None,
    vocab_size: int | None = None,
    special_ids: Collection[int] = (),
    stream: Stream = "input",
) -> Iterator[TokenBatch]:
    """Read the batches of a dataloader until a token budget is reached.

    A batch is a mapping (keyword arguments, such as a ``BatchEncoding``), a tensor (token ids ``[b, s]``, or
    floats), or a tuple or list (positional arguments). Padding is known from ``attention_mask`` alone:
    without one, every position is a real token. Batches are never split, so the last one may exceed the
    budget; no batch is drawn that is not used.

    In a batch for an encoder-decoder, both sides are packed to the right, each by its own mask, and the
    positions of one side count. Those of the decoder are known from ``decoder_input_ids`` and
    ``decoder_attention_mask``, or from ``labels`` other than -100, of which such models make their decoder's
    inputs; their token ids are then not known.

    Args:
        dataloader: an iterable of batches; need not have a length.
        policy: which positions count.
        max_tokens: stop before a batch when this many tokens have been counted; None: no limit, 0: no batch.
        signature: of the model's ``forward``; with it, the masks in tuples of positional arguments are found.
        vocab_size: rows of the embedding of the tokens that count; ids outside are refused. None: not
            checked.
        special_ids: the ids that ``special_tokens="drop"`` drops (``tokenizer.all_special_ids``).
        stream: whose positions count: "input" (of ``input_ids``) or "decoder".

    Returns:
        An iterator of batches, right-padded unless ``policy.padding == "keep"``.

    Raises:
        ValueError: at once for bad arguments; while iterating for an unsupported batch, a mask of another
            shape than the ids or with values other than 0 and 1, a batch of only padding, ids outside the
            vocabulary, a batch that lacks what the policy goes by (each names the batch), and for a
            dataloader without a batch or without a position that counts.
    """
    policy = policy or TokenPolicy()
    if max_tokens is not None:
        check_integer("max_tokens", max_tokens, 0)
    if stream not in get_args(Stream):
        raise refusal(f"stream must be one of {get_args(Stream)}", repr(stream))
    check_dataloader(dataloader)
    if policy.special_tokens == "drop" and not special_ids:
        raise refusal('special_tokens="drop" needs special_ids, the ids to be dropped', "none")
    marker = Marker(policy, tuple(special_ids))
    reader = _Reader(policy, _positional_names(signature), vocab_size, marker, stream)
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
        batch = reader.read(raw, index)
        n_tokens += batch.n_tokens
        if batch.sequence_ids is not None:
            batch = replace(batch, sequence_ids=batch.sequence_ids + n_sequences)
        n_sequences += 1 if batch.sequence_ids is None else len(batch.sequence_ids)
        yield batch
    if index == 0:
        raise refusal("dataloader must yield at least one batch", "no batch")
    if n_tokens == 0:
        rule = "dataloader must yield at least one position that counts under the token policy"
        raise refusal(rule, f"none in {n_sequences} sequences")


def forward_signature(model: torch.nn.Module) -> inspect.Signature:
    """The signature of ``model.forward``, for :func:`iter_dataloader`."""
    return inspect.signature(model.forward)


def _positional_names(signature: inspect.Signature | None) -> tuple[str, ...]:
    """The names under which positional arguments arrive."""
    if signature is None:
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(name for name, p in signature.parameters.items() if p.kind in kinds and name != "self")


def check_dataloader(dataloader: Any) -> None:
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
    """What it takes to read the batches of a dataloader; sequences are numbered from 0 in each."""

    policy: TokenPolicy
    parameters: tuple[str, ...]
    vocab_size: int | None
    marker: Marker
    stream: Stream

    def read(self, batch: Any, index: int) -> TokenBatch:
        """A batch of any supported form as a :class:`TokenBatch`."""
        where = f"batch {index}"
        if isinstance(batch, Mapping):
            return self._from_mapping(batch, where)
        if isinstance(batch, tuple | list):
            named = dict(zip(self.parameters, batch, strict=False))
            cached = [name for name in named if name.startswith("past_") and isinstance(named[name], Tensor)]
            if cached:
                rule = f"{where}: a tuple is taken in the order of the model's forward; pass a mapping"
                raise refusal(rule, f"a tensor for {cached[0]}")
            if len(named) == len(batch) and "input_ids" in named:
                return self._from_mapping(named, where)
            if self.policy.padding == "drop" and (masks := masking(named)):
                rule = f"{where}: a mask is understood beside input_ids; pass a mapping with that name"
                raise refusal(rule, f"{', '.join(masks)} with zeros")
            return self._from_arguments(tuple(batch), where)
        if isinstance(batch, Tensor):
            return self._from_arguments((batch,), where)
        received = "a string; text goes in as text=" if isinstance(batch, str) else type(batch).__name__
        raise refusal(f"{where}: must be a mapping, a tensor, a tuple or a list", received)

    def _from_mapping(self, batch: Mapping[str, Any], where: str) -> TokenBatch:
        """A batch of keyword arguments."""
        packing = self.policy.padding == "drop"
        real = real_positions(batch, where)
        if real is not None and packing:
            batch = pack_known(batch, real, where, seq2seq=self.stream == "decoder")
            real = real_positions(batch, where)
        if self.stream == "decoder":
            rows = None if real is None else len(real)
            real = decoder_positions(batch, where)
            if rows not in (None, len(real)):
                raise refusal(f"{where}: the decoder must have the encoder's {rows} rows", len(real))
            if packing:
                batch = pack_decoder(batch, real, where)
                real = decoder_positions(batch, where)
        if real is None:
            first = _first_tensor(batch, where)
            n = len(first) if first.ndim else 1
            return self._without_positions((), dict(batch), n, first, where)
        return self._batch((), dict(batch), batch.get(_IDS[self.stream]), real, where=where)

    def _from_arguments(self, args: tuple[Any, ...], where: str) -> TokenBatch:
        """A batch of positional arguments; the first tensor in it decides what is counted."""
        first = _first_tensor(args, where)
        if self.stream == "decoder":
            raise refusal(f"{where}: the decoder stream needs a mapping with names", "positional arguments")
        if first.ndim == 2 and not (first.is_floating_point() or first.is_complex()):
            real = torch.ones(first.shape, dtype=torch.bool, device=first.device)
            return self._batch(args, {}, first, real, where=where)
        return self._without_positions(args, {}, _rows(first), first, where)

    def _without_positions(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], n: int, first: Tensor, where: str
    ) -> TokenBatch:
        """A batch whose positions are not known: all of them count."""
        if self.marker.reasons:
            received = ", ".join(kwargs) or f"a tensor {list(first.shape)}"
            raise refusal(f"{where}: {_asks(self.marker)} token positions", received)
        if self.policy.padding == "drop" and (masks := masking(kwargs)):
            rule = f"{where}: without token ids padding cannot be told from data, so lengths must be equal"
            raise refusal(rule, f"{', '.join(masks)} with zeros")
        rows = torch.arange(len(first)) if first.ndim >= 2 else None
        return TokenBatch(args, kwargs, None, None, n, 0, rows)

    def _batch(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], ids: Tensor | None, real: Tensor, *, where: str
    ) -> TokenBatch:
        """The batch with its counted positions, given its real ones ``[b, s]``."""
        if ids is not None:
            check_vocabulary(ids, self.vocab_size, where)
        elif {"special", "duplicate"} & set(self.marker.reasons):
            raise refusal(f"{where}: {_asks(self.marker)} {_IDS[self.stream]}", ", ".join(kwargs))
        base = torch.ones_like(real) if self.policy.padding == "keep" else real
        labels: Tensor | None = None
        beside: list[Tensor] = []
        contexts: list[bytes] = []
        if "unlabeled" in self.marker.reasons:
            labels = _labels(kwargs, real.shape, self.stream, where)
        if "duplicate" in self.marker.reasons:
            beside, contexts = _circumstances(args, kwargs, real, self.stream, where)
        dropped = self.marker.mark(base, ids, labels=labels, beside=beside, contexts=contexts)
        keep = counting(base, dropped)
        return TokenBatch(
            args=args,
            kwargs=kwargs,
            keep=keep,
            token_ids=ids,
            n_tokens=int(keep.sum()),
            n_padding=int((~real).sum()),
            sequence_ids=torch.arange(len(real)),
            real=real,
            dropped=dropped,
        )


_IDS = {"input": "input_ids", "decoder": "decoder_input_ids"}


def _asks(marker: Marker) -> str:
    """What drops positions and needs something that is not there."""
    return f"a token policy that drops {', '.join(marker.reasons)} positions needs"


def _labels(kwargs: Mapping[str, Any], shape: torch.Size, stream: Stream, where: str) -> Tensor:
    """The labels of the counted stream."""
    labels = kwargs.get("labels")
    if stream == "input" and any(name.startswith("decoder_") for name in kwargs):
        raise refusal(f'{where}: labels="require" needs stream="decoder", whose labels they are', "input")
    if not isinstance(labels, Tensor):
        received = "none" if labels is None else type(labels).__name__
        raise refusal(f'{where}: labels="require" needs a tensor of labels', received)
    if labels.shape != shape or labels.is_floating_point():
        rule = f"{where}: labels must be integers in the input's shape {list(shape)}"
        raise refusal(rule, f"{labels.dtype} {list(labels.shape)}")
    return labels


def _circumstances(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], real: Tensor, stream: Stream, where: str
) -> tuple[list[Tensor], list[bytes]]:
    """What activations depend on beside their token ids: integers ``[b, s]``, and bytes for each row.

    Raises:
        ValueError: if they depend on anything else, as equal ids do not make equal activations then.
    """
    names: list[str] = []
    refused = ["positional arguments"] * any(True for _ in _tensors(args[1:]))
    for name, value in kwargs.items():
        tensors = list(_tensors(value))
        if name in _KNOWN_BY_IDS or not tensors or (stream == "input" and name.startswith("decoder_")):
            continue
        aligned = isinstance(value, Tensor) and value.shape == real.shape and not value.is_floating_point()
        (names if aligned and name.startswith("decoder_") == (stream == "decoder") else refused).append(name)
    if stream == "decoder" and kwargs.get("input_ids") is None:
        refused.append("an encoder input without input_ids")
    if refused:
        rule = f'{where}: duplicates="drop" needs activations that follow from the token ids alone'
        raise refusal(rule, ", ".join(refused))
    names.sort()
    context = f"{','.join(names)};".encode()
    if stream == "input":
        return [kwargs[name] for name in names], [context] * len(real)
    ids, mask = kwargs["input_ids"].cpu().to(torch.int64), real_positions(kwargs, where)
    assert mask is not None, "there are input_ids"
    rows = [row[m].numpy().tobytes() for row, m in zip(ids, mask.cpu(), strict=True)]
    return [kwargs[name] for name in names], [context + row for row in rows]


_KNOWN_BY_IDS = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask", "labels")


def _rows(first: Tensor) -> int:
    """Vectors in a batch without token ids: ``b * s`` of ``[b, s, ...]``, the rows of ``[n, d]``."""
    if first.ndim == 0:
        return 1
    return first.shape[0] * first.shape[1] if first.ndim >= 3 else len(first)


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
