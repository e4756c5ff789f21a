"""From text or a dataloader to batches a model can run, with the positions that count as data marked.

Two sources give the same thing, an iterator of :class:`TokenBatch`: :func:`iter_dataloader` for batches that
somebody else made, and :func:`plan_text` for text. Whatever pads, pads on the right: models that count
positions from the first column are wrong on left-padded batches and right on these (``pack_right``).
"""

from __future__ import annotations

import inspect
import json
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import count
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import torch
from torch import Tensor

__all__ = [
    "TextPlan",
    "TokenBatch",
    "TokenPolicy",
    "demo_text",
    "forward_signature",
    "iter_dataloader",
    "pack_right",
    "plan_text",
    "read_text",
]

# Of one batch, but on another axis than `input_ids`, even where the lengths happen to agree.
_OTHER_AXES = ("cross_", "decoder_", "encoder_", "image_", "past_", "pixel_", "video_")

# Tokens at the end of a cut text may differ from those of the whole text; this many are thrown away.
_CUT_MARGIN = 256


@dataclass(frozen=True)
class TokenPolicy:
    """Which positions count as data. Recorded in every artifact.

    Attributes:
        padding: "drop" counts real tokens only. "keep" counts every position and leaves batches as they came,
            padded on whatever side: only for reproducing tools that do so.
        special_tokens: "keep" counts the tokens that the tokenizer calls special (BOS, EOS, separators) like
            all others; "drop" shows them to the model but does not count them.

    Raises:
        ValueError: if a field has a value that is not listed here.
    """

    padding: Literal["drop", "keep"] = "drop"
    special_tokens: Literal["keep", "drop"] = "keep"

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value, allowed = getattr(self, field.name), get_args(hints[field.name])
            if value not in allowed:
                raise ValueError(f"TokenPolicy.{field.name} must be one of {allowed}, got {value!r}")

    def to_dict(self) -> dict[str, str]:
        """The policy as plain data, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, str]) -> TokenPolicy:
        """The policy that :meth:`to_dict` gave; fields that are missing have their default.

        Raises:
            ValueError: if a field is unknown or has an unknown value.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"TokenPolicy has the fields {known}, got also {unknown}")
        return cls(**values)  # type: ignore[arg-type]  # __post_init__ checks the values


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """One call of the model, ``model(*args, **kwargs)``, and what is known about its positions.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        keep: bool ``[batch, seq]``, True where a position counts as data; None where positions cannot be
            known (anything but token ids or ``inputs_embeds``): then all of them count.
        token_ids: ``[batch, seq]``, or None.
        n_tokens: positions that count.
        n_padding: padding positions the model sees (counted or not).
        sequence_ids: int64 ``[batch]``, the running number of each sequence in the source; None if unknown.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    keep: Tensor | None
    token_ids: Tensor | None
    n_tokens: int
    n_padding: int
    sequence_ids: Tensor | None

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch with every tensor on a device, also those inside nested lists and mappings."""
        return TokenBatch(
            args=_move(self.args, device),
            kwargs=_move(self.kwargs, device),
            keep=_move(self.keep, device),
            token_ids=_move(self.token_ids, device),
            n_tokens=self.n_tokens,
            n_padding=self.n_padding,
            sequence_ids=_move(self.sequence_ids, device),
        )


def _bad(rule: str, received: object) -> ValueError:
    """The error for input that breaks a rule."""
    return ValueError(f"{rule}, got {received}")


def _move(value: Any, device: torch.device | str) -> Any:
    """``value`` with its tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _move(item, device) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_move(item, device) for item in value)
    return value


# --- batches from a dataloader ---


def pack_right(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Move the real tokens of every row to the front, in their order, and trim columns of padding only.

    Tensors ``[b, s, ...]`` aligned with ``attention_mask [b, s]`` are reordered with it, and so are
    ``position_ids`` (``[b, s]``, ``[1, s]`` or ``[k, b, s]``). Tensors of the decoder, of images and of
    caches are left alone.

    Args:
        batch: keyword arguments of a model, with ``input_ids`` or ``inputs_embeds``.

    Returns:
        A new dict, or ``batch`` itself if it has no mask or is already packed.

    Raises:
        ValueError: if the mask has another shape than the input, values other than 0 and 1, or no 1 at all.
    """
    real = _real_positions(batch, "batch")
    return batch if real is None else _packed(batch, real, "batch")


def _packed(batch: Mapping[str, Any], real: Tensor, where: str) -> Mapping[str, Any]:
    """:func:`pack_right`, given the real positions ``[b, s]``."""
    longest = int(real.sum(dim=1).max()) if real.numel() else 0
    if longest == 0:
        raise _bad(f"{where}: must have at least one real token", f"only padding {list(real.shape)}")
    if longest == real.shape[1] and _leads(real):
        return batch
    order = real.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
    seq2seq = any(name.startswith("decoder_") for name in batch)
    packed = {}
    for name, value in batch.items():
        if name == "position_ids" and isinstance(value, Tensor):
            packed[name] = _reorder_positions(value, order, real.shape)
        elif _is_aligned(name, value, real.shape) and not (seq2seq and name == "labels"):
            packed[name] = _reorder(value, order)
        else:
            packed[name] = value
    return packed


def _leads(real: Tensor) -> bool:
    """Whether in every row all real tokens stand before all padding."""
    return not bool((real[:, 1:] & ~real[:, :-1]).any())


def _is_aligned(name: str, value: Any, shape: torch.Size) -> bool:
    """Whether a value has one entry per position ``[b, s]``."""
    return isinstance(value, Tensor) and value.shape[:2] == shape and not name.startswith(_OTHER_AXES)


def _reorder(value: Tensor, order: Tensor) -> Tensor:
    """``value [b, s, ...]`` read in the order ``[b, s']``."""
    rest = value.shape[2:]
    index = order.to(value.device).reshape(*order.shape, *(1 for _ in rest)).expand(*order.shape, *rest)
    return value.gather(1, index)


def _reorder_positions(value: Tensor, order: Tensor, shape: torch.Size) -> Tensor:
    """``position_ids`` of any of its three layouts, read in the order ``[b, s']``."""
    if value.ndim == 3 and value.shape[1:] == shape:
        return torch.stack([_reorder(plane, order) for plane in value])
    if value.shape == (1, shape[1]):
        value = value.expand(shape)
    if value.shape != shape:
        raise ValueError(
            f"position_ids must have the shape of input_ids {list(shape)}, got {list(value.shape)}"
        )
    return _reorder(value, order)


def _real_positions(batch: Mapping[str, Any], where: str) -> Tensor | None:
    """bool ``[b, s]``, True where no ``attention_mask`` forbids; None if the batch has no positions."""
    ids, embeds, mask = (batch.get(name) for name in ("input_ids", "inputs_embeds", "attention_mask"))
    if ids is not None:
        source = _check_ids(ids, where)
    elif isinstance(embeds, Tensor) and embeds.ndim == 3:
        source = embeds
    else:
        return None
    shape = source.shape[:2]
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=source.device)
    if not isinstance(mask, Tensor):
        raise _bad(f"{where}: attention_mask must be a tensor", type(mask).__name__)
    if mask.shape != shape:
        raise _bad(f"{where}: attention_mask must have the input's shape {list(shape)}", list(mask.shape))
    odd = mask[(mask != 0) & (mask != 1)]
    if odd.numel():
        raise _bad(f"{where}: attention_mask must hold only 0 and 1", odd[0].item())
    return mask != 0


def _check_ids(ids: Any, where: str) -> Tensor:
    """``ids`` if it is an integer tensor ``[b, s]``."""
    if not isinstance(ids, Tensor):
        raise _bad(f"{where}: input_ids must be a tensor", type(ids).__name__)
    if ids.ndim != 2 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(
            f"{where}: input_ids must be integers [batch, seq], got {ids.dtype} {list(ids.shape)}"
        )
    return ids


def _check_vocabulary(ids: Tensor, vocab_size: int | None, where: str) -> None:
    """Refuse ids that the embedding table does not have."""
    if vocab_size is None or ids.numel() == 0:
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        received = f"{low if low < 0 else high}; is this the tokenizer of this model?"
        raise _bad(f"{where}: token ids must be in [0, {vocab_size - 1}], the model's vocabulary", received)


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
        raise _bad(f"{where}: must be a mapping, a tensor, a tuple or a list", received)

    def _from_mapping(self, batch: Mapping[str, Any], where: str, first_sequence: int) -> TokenBatch:
        """A batch of keyword arguments."""
        real = _real_positions(batch, where)
        if real is None:
            first = _first_tensor(batch, where)
            n = len(first) if first.ndim else 1
            return TokenBatch((), dict(batch), None, None, n, 0, _sequence_ids(first, first_sequence))
        if self.policy.padding == "drop":
            batch = _packed(batch, real, where)
            real = _real_positions(batch, where)
            assert real is not None, "packing keeps the inputs that have positions"
        ids = batch.get("input_ids")
        return self._batch((), dict(batch), ids, real, where=where, first_sequence=first_sequence)

    def _from_arguments(self, args: tuple[Any, ...], where: str, first_sequence: int) -> TokenBatch:
        """A batch of positional arguments; the first tensor in it decides what is counted."""
        first = _first_tensor(args, where)
        if first.ndim == 2 and not (first.is_floating_point() or first.is_complex()):
            real = torch.ones(first.shape, dtype=torch.bool, device=first.device)
            return self._batch(args, {}, first, real, where=where, first_sequence=first_sequence)
        n = first.numel() if first.ndim <= 2 else first.shape[0] * first.shape[1]
        return TokenBatch(args, {}, None, None, n, 0, _sequence_ids(first, first_sequence))

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
            _check_vocabulary(ids, self.vocab_size, where)
            keep = _without_special(keep, ids, self.special_ids)
        return TokenBatch(
            args=args,
            kwargs=kwargs,
            keep=keep,
            token_ids=ids,
            n_tokens=int(keep.sum()),
            n_padding=int((~real).sum()),
            sequence_ids=_sequence_ids(real, first_sequence),
        )


def _without_special(keep: Tensor, ids: Tensor, special_ids: Sequence[int]) -> Tensor:
    """``keep`` less the positions of special tokens."""
    if not special_ids:
        return keep
    return keep & ~torch.isin(ids, torch.tensor(special_ids, dtype=ids.dtype, device=ids.device))


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
    raise _bad(f"{where}: must hold at least one tensor", ", ".join(kinds) or "nothing")


def forward_signature(model: torch.nn.Module) -> inspect.Signature:
    """The signature of ``model.forward``, for :func:`iter_dataloader`."""
    return inspect.signature(model.forward)


def _positional_names(signature: inspect.Signature | None) -> tuple[str, ...]:
    """The names under which positional arguments arrive."""
    if signature is None:
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(name for name, p in signature.parameters.items() if p.kind in kinds and name != "self")


def _check_integer(name: str, value: Any, least: int) -> None:
    """Refuse anything but an integer of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _bad(f"{name} must be an integer of at least {least}", repr(value))


def _check_dataloader(dataloader: Any) -> None:
    """Refuse what is no iterable of batches."""
    if isinstance(dataloader, str | bytes):
        raise _bad("dataloader must be an iterable of batches", "a string; text goes in as text=")
    if isinstance(dataloader, Mapping | Tensor):
        received = f"one {type(dataloader).__name__}; put a single batch in a list"
        raise _bad("dataloader must be an iterable of batches", received)
    if not hasattr(dataloader, "__iter__") and not hasattr(dataloader, "__getitem__"):
        raise _bad("dataloader must be an iterable of batches", type(dataloader).__name__)


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
        _check_integer("max_tokens", max_tokens, 0)
    _check_dataloader(dataloader)
    dropped: tuple[int, ...] = ()
    if policy.special_tokens == "drop":
        if not special_ids:
            raise _bad('special_tokens="drop" needs special_ids, the ids to be dropped', "none")
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
        raise _bad("dataloader must yield at least one batch", "no batch")


# --- batches from text ---


@dataclass(frozen=True, eq=False)
class TextPlan:
    """Tokenized text, cut into sequences and grouped into batches; nothing has been run yet.

    Attributes:
        ids: int64 ``[n]``, the tokens of all sequences, one after the other.
        offsets: int64 ``[n_sequences + 1]``; sequence i is ``ids[offsets[i]:offsets[i + 1]]``.
        documents: int64 ``[n_sequences]``, the index of the document each sequence comes from.
        batch_size: sequences per batch.
        max_length: tokens per sequence at most, special tokens included.
        pad_id: what fills the right of shorter sequences; masked.
        equal_lengths: whether batches hold only sequences of one length (no padding, no mask).
        special_ids: ids that are shown to the model but not counted; empty unless the policy says so.
        policy: which positions count.
    """

    ids: Tensor
    offsets: Tensor
    documents: Tensor
    batch_size: int
    max_length: int
    pad_id: int
    equal_lengths: bool
    special_ids: tuple[int, ...]
    policy: TokenPolicy

    @property
    def lengths(self) -> Tensor:
        """int64 ``[n_sequences]``, the tokens of each sequence, special tokens included."""
        return self.offsets.diff()

    @property
    def n_documents(self) -> int:
        """Documents that at least one token comes from."""
        return len(set(self.documents.tolist()))

    @property
    def n_sequences(self) -> int:
        """Sequences (windows of documents)."""
        return len(self.documents)

    @property
    def n_tokens(self) -> int:
        """Tokens that count under the policy."""
        return int(
            _without_special(torch.ones_like(self.ids, dtype=torch.bool), self.ids, self.special_ids).sum()
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence; 0 if there is none."""
        return int(self.lengths.max()) if self.n_sequences else 0

    @property
    def n_batches(self) -> int:
        """Calls of the model."""
        return len(self.batch_shapes)

    @property
    def batch_shapes(self) -> list[tuple[int, int]]:
        """``(batch, seq)`` of each call of the model, padding included: what a run will cost."""
        lengths = self.lengths
        return [(len(rows), int(lengths[rows.start : rows.stop].max())) for rows in self._rows()]

    def batches(self) -> Iterator[TokenBatch]:
        """The batches in order; may be called again."""
        for rows in self._rows():
            yield self._batch(rows)

    def _rows(self) -> list[range]:
        """The sequences of each batch: consecutive, at most ``batch_size``."""
        lengths, rows, start = self.lengths.tolist(), [], 0
        for end in range(1, len(lengths) + 1):
            full = end == len(lengths) or end - start == self.batch_size
            if full or (self.equal_lengths and lengths[end] != lengths[start]):
                rows.append(range(start, end))
                start = end
        return rows

    def _batch(self, rows: range) -> TokenBatch:
        """The sequences ``rows`` as one right-padded batch."""
        sequences = [self.ids[self.offsets[row] : self.offsets[row + 1]] for row in rows]
        ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=self.pad_id)
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        real = torch.arange(ids.shape[1]) < lengths[:, None]
        keep = _without_special(real, ids, self.special_ids)
        mask = {} if self.equal_lengths else {"attention_mask": real.to(torch.int64)}
        return TokenBatch(
            args=(),
            kwargs={"input_ids": ids, **mask},
            keep=keep,
            token_ids=ids,
            n_tokens=int(keep.sum()),
            n_padding=int((~real).sum()),
            sequence_ids=torch.arange(rows.start, rows.stop),
        )


def plan_text(
    text: str | Path | Sequence[str],
    tokenizer: Any,
    *,
    max_tokens: int | None = None,
    max_length: int = 512,
    batch_size: int = 8,
    model_context: int | None = None,
    vocab_size: int | None = None,
    equal_lengths: bool = False,
    policy: TokenPolicy | None = None,
) -> TextPlan:
    """Tokenize text and lay it out in batches, without running anything.

    Documents are tokenized one by one and split into windows of at most ``max_length`` tokens; each window
    gets the special tokens that the tokenizer adds by default. Nothing is truncated away except by the
    budget, which is met exactly: the tokens under a budget are the first tokens under any larger one,
    whatever the batch size. Documents of white space only are skipped. Tokens beyond the budget are not
    computed.

    Args:
        text: one document, several documents, or the path of a file (see :func:`read_text`).
        tokenizer: a transformers tokenizer; it is not changed. Without a pad token, EOS or 0 fills (masked
            anyway).
        max_tokens: tokens that count (see ``policy``), exactly, if the text has as many; None: all of the
            text.
        max_length: tokens per window, special tokens included; lowered to ``model_context`` and to what the
            tokenizer says the model can take.
        batch_size: windows per call of the model; does not change which tokens are used.
        model_context: the longest input of the model.
        vocab_size: rows of the model's embedding; ids outside are refused. None: not checked.
        equal_lengths: make batches of windows of one length, without padding and mask: for models that are
            wrong on padded batches.
        policy: which tokens count.

    Raises:
        ValueError: if the text is empty or no text, a number is out of range, the windows have no room beside
            the special tokens, an id is outside the vocabulary, or the policy keeps padding (there is none to
            keep).
    """
    policy = policy or TokenPolicy()
    if not callable(tokenizer) or not hasattr(tokenizer, "all_special_ids"):
        raise _bad("text needs the tokenizer of the model", type(tokenizer).__name__)
    if policy.padding == "keep":
        raise _bad('text needs padding="drop", as what is kept depends on batch_size', 'padding="keep"')
    _check_integer("max_length", max_length, 1)
    _check_integer("batch_size", batch_size, 1)
    if model_context is not None:
        _check_integer("model_context", model_context, 1)
    if max_tokens is not None:
        _check_integer("max_tokens", max_tokens, 0)
    documents = _documents(text)
    limit = min(_context_limits(tokenizer, model_context, max_length))
    dropped = tuple(tokenizer.all_special_ids) if policy.special_tokens == "drop" else ()
    windows = _Windows(tokenizer, limit, frozenset(dropped), max_tokens)
    for index, document in enumerate(documents):
        if document.strip() and not windows.full:
            windows.add(index, document)
    ids, offsets, sources = windows.tensors()
    if not len(sources) and max_tokens != 0:
        raise _bad("text must give at least one token", f"none from {len(documents)} documents")
    _check_vocabulary(ids, vocab_size, "text")
    pad_id = _pad_id(tokenizer, vocab_size)
    return TextPlan(ids, offsets, sources, batch_size, limit, pad_id, equal_lengths, dropped, policy)


def _context_limits(tokenizer: Any, model_context: int | None, max_length: int) -> Iterator[int]:
    """All that limits the length of a window."""
    yield max_length
    if model_context is not None:
        yield model_context
    # Tokenizers that do not know say int(1e30). RoBERTa's is right where its config says 514 for 512.
    known = getattr(tokenizer, "model_max_length", None)
    if isinstance(known, int) and known > 0:
        yield known


def _pad_id(tokenizer: Any, vocab_size: int | None) -> int:
    """An id to fill with that the embedding table has."""
    for name in ("pad_token_id", "eos_token_id"):
        value = getattr(tokenizer, name, None)
        if isinstance(value, int) and (vocab_size is None or 0 <= value < vocab_size):
            return value
    return 0


def _documents(text: Any) -> Sequence[str]:
    """The documents of any form of text; at least one of them has something to read."""
    if isinstance(text, Path):
        return read_text(text)
    if isinstance(text, str):
        text = [text]
    if isinstance(text, bytes) or not isinstance(text, Sequence):
        raise _bad("text must be a string, a list of strings or a Path", type(text).__name__)
    for index, document in enumerate(text):
        if not isinstance(document, str):
            raise _bad(f"text[{index}] must be a string", type(document).__name__)
    if not any(document.strip() for document in text):
        raise _bad("text must hold more than white space", f"{len(text)} blank documents")
    return text


class _Windows:
    """Collects windows of tokens until a budget is spent."""

    def __init__(self, tokenizer: Any, max_length: int, dropped: frozenset[int], budget: int | None) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._dropped = dropped
        self._left = budget
        self._special: tuple[list[int], list[int]] | None = None
        self._ids = array("q")
        self._offsets = array("q", [0])
        self._sources = array("q")

    @property
    def full(self) -> bool:
        """Whether the budget is spent."""
        return self._left == 0

    def add(self, index: int, document: str) -> None:
        """Add the windows of one document."""
        prefix, suffix = self._special_tokens(document)
        room = self._max_length - len(prefix) - len(suffix)
        if room < 1:
            rule = f"max_length must leave room beside {len(prefix) + len(suffix)} special tokens"
            raise _bad(rule, self._max_length)
        ids = self._encode_head(document)
        for start in range(0, len(ids), room):
            if self.full:
                return
            self._append(index, [*prefix, *ids[start : start + room], *suffix])

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """``ids [n]``, ``offsets [n_sequences + 1]`` and document indices ``[n_sequences]``."""
        ids, offsets, sources = (
            torch.tensor(a, dtype=torch.int64) for a in (self._ids, self._offsets, self._sources)
        )
        return ids, offsets, sources

    def _append(self, index: int, window: list[int]) -> None:
        """Add a window, or as much of its front as the budget allows."""
        if self._left is not None:
            window = window[: self._reach(window, self._left)]
            self._left -= self._counted(window)
        self._ids.extend(window)
        self._offsets.append(len(self._ids))
        self._sources.append(index)

    def _counted(self, ids: Sequence[int]) -> int:
        """How many of some ids count."""
        return sum(i not in self._dropped for i in ids) if self._dropped else len(ids)

    def _reach(self, ids: Sequence[int], budget: int) -> int:
        """Length of the shortest front of ``ids`` in which ``budget`` ids count; all of it if fewer do."""
        for end, token in enumerate(ids, 1):
            budget -= token not in self._dropped
            if budget == 0:
                return end
        return len(ids)

    def _encode(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a text; quiet about texts longer than the model's context, which are cut later."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        return ids

    def _encode_head(self, document: str) -> list[int]:
        """Token ids of a document, at least as many as the budget still takes."""
        if self._left is not None:
            size = 16 * (self._left + _CUT_MARGIN)
            while size < len(document):
                ids = self._encode(document[:size])[:-_CUT_MARGIN]
                if self._counted(ids) >= self._left:
                    return ids
                size *= 4
        return self._encode(document)

    def _special_tokens(self, document: str) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after a text by default."""
        if self._special is None:
            probe = document.strip()[:100]
            inner, outer = self._encode(probe), self._encode(probe, special=True)
            starts = range(len(outer) - len(inner) + 1)
            found = [start for start in starts if outer[start : start + len(inner)] == inner]
            if not found:
                raise ValueError(
                    f"the special tokens of {type(self._tokenizer).__name__} must surround the text"
                )
            self._special = outer[: found[-1]], outer[found[-1] + len(inner) :]
        return self._special


def read_text(path: Path) -> list[str]:
    """The documents of a UTF-8 file: the "text" of each line of a ``.jsonl``, the whole of any other.

    Args:
        path: the file.

    Raises:
        ValueError: if it is missing, a folder, unreadable, not UTF-8, blank, or a ``.jsonl`` file with a line
            that is no JSON object with a string "text".
    """
    if path.is_dir():
        raise _bad("text must be a file", f"the folder {path}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise _bad("text must be an existing file", path) from None
    except UnicodeDecodeError as error:
        raise _bad("text must be UTF-8", f"{path} with an invalid byte at {error.start}") from None
    except OSError as error:
        raise _bad("text must be a readable file", f"{path}: {error.strerror}") from error
    documents = _jsonl_texts(text, path) if path.suffix == ".jsonl" else [text]
    if not any(document.strip() for document in documents):
        raise ValueError(
            f"text must hold more than white space, got the file {path} of {len(text)} characters"
        )
    return documents


def _jsonl_texts(text: str, path: Path) -> list[str]:
    """The "text" of every line that is not blank."""
    documents = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}:{number} must be a JSON object, got {error.msg} at {error.colno}"
            ) from None
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise _bad(f'{path}:{number} must be a JSON object with a string "text"', repr(line[:60]))
        documents.append(record["text"])
    return documents


def demo_text() -> list[str]:
    """The documents of the demo corpus, "pydoc-topics" (see :mod:`repgeom.demo`)."""
    from repgeom.demo import corpus

    return corpus()
