"""Text as batches of tokens: what will run is laid out before anything runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from repgeom.checks import check_integer, refusal
from repgeom.documents import documents_of
from repgeom.positions import Marker, counting
from repgeom.tokens import TokenBatch, TokenPolicy, check_vocabulary
from repgeom.windows import Windows

Batching = Literal["order", "bucketed", "chunk"]


@dataclass(frozen=True, eq=False)
class TextPlan:
    """Tokenized text, cut into sequences and grouped into batches; nothing has been run yet.

    Attributes:
        ids: int64 ``[n]``, the tokens of all sequences, one after the other.
        offsets: int64 ``[n_sequences + 1]``; sequence i is ``ids[offsets[i]:offsets[i + 1]]``.
        documents: int64 ``[n_sequences]``, the index of the document each sequence begins in.
        dropped: bool ``[n]`` by reason, tokens that are shown to the model but do not count.
        n_documents: documents that at least one token comes from.
        n_text_tokens: tokens of the text that was tokenized (see :attr:`bits_per_byte_ratio`).
        n_text_bytes: its length in UTF-8.
        batching: "order", "bucketed" or "chunk".
        batch_size: sequences per batch.
        max_length: tokens per sequence at most, special tokens included.
        pad_id: what fills the right of shorter sequences; masked.
        equal_lengths: whether batches hold only sequences of one length (no padding, no mask).
        policy: which positions count.
    """

    ids: Tensor
    offsets: Tensor
    documents: Tensor
    dropped: dict[str, Tensor]
    n_documents: int
    n_text_tokens: int
    n_text_bytes: int
    batching: Batching
    batch_size: int
    max_length: int
    pad_id: int
    equal_lengths: bool
    policy: TokenPolicy

    @property
    def lengths(self) -> Tensor:
        """int64 ``[n_sequences]``, the tokens of each sequence, special tokens included."""
        return self.offsets.diff()

    @property
    def keep(self) -> Tensor:
        """bool ``[n]``, which tokens count under the policy."""
        return counting(torch.ones_like(self.ids, dtype=torch.bool), self.dropped)

    @property
    def order(self) -> Tensor:
        """int64 ``[n_sequences]``, the sequences as they will run: "bucketed" takes the longest first."""
        if self.batching == "bucketed":
            return self.lengths.argsort(descending=True, stable=True)
        return torch.arange(self.n_sequences)

    @property
    def n_sequences(self) -> int:
        """Sequences (windows of documents, or chunks)."""
        return len(self.documents)

    @property
    def n_tokens(self) -> int:
        """Tokens that count under the policy."""
        return int(self.keep.sum())

    @property
    def n_padding(self) -> int:
        """Positions that only fill batches; ``replace(plan, batching=...)`` has those of another batching."""
        return sum(rows * columns for rows, columns in self.batch_shapes) - len(self.ids)

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
        return [(len(rows), int(lengths[rows].max())) for rows in self._rows()]

    @property
    def bits_per_byte_ratio(self) -> float:
        """Tokens per byte / ln 2: times a loss in nats per token, it is the loss in bits per byte of UTF-8.

        Of all text that was tokenized, also what a budget or an incomplete chunk then left out. The
        separators of chunks count as text; special tokens around windows do not. NaN without text.
        """
        return self.n_text_tokens / self.n_text_bytes / math.log(2) if self.n_text_bytes else math.nan

    def batches(self) -> Iterator[TokenBatch]:
        """The batches in order; may be called again."""
        keep = self.keep
        for rows in self._rows():
            yield self._batch(rows, keep)

    @property
    def _unpadded(self) -> bool:
        """Whether no batch has padding."""
        return self.equal_lengths or self.batching == "chunk"

    def _rows(self) -> list[Tensor]:
        """The sequences of each batch: consecutive in :attr:`order`, at most ``batch_size``."""
        order, rows, start = self.order, [], 0
        lengths = self.lengths[order].tolist()
        for end in range(1, len(lengths) + 1):
            full = end == len(lengths) or end - start == self.batch_size
            if full or (self._unpadded and lengths[end] != lengths[start]):
                rows.append(order[start:end])
                start = end
        return rows

    def _batch(self, rows: Tensor, keep: Tensor) -> TokenBatch:
        """The sequences ``rows`` as one right-padded batch, given :attr:`keep`."""
        starts, ends = self.offsets[rows], self.offsets[rows + 1]
        spans = [slice(start, end) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]

        def padded(flat: Tensor, fill: float) -> Tensor:
            return pad_sequence([flat[span] for span in spans], batch_first=True, padding_value=fill)

        ids, counted = padded(self.ids, self.pad_id), padded(keep, False)
        real = torch.arange(ids.shape[1]) < (ends - starts)[:, None]
        mask = {} if self._unpadded else {"attention_mask": real.to(torch.int64)}
        return TokenBatch(
            args=(),
            kwargs={"input_ids": ids, **mask},
            keep=counted,
            token_ids=ids,
            n_tokens=int(counted.sum()),
            n_padding=int((~real).sum()),
            sequence_ids=rows,
            real=real,
            dropped={reason: padded(mask, False) for reason, mask in self.dropped.items()},
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
    batching: Batching = "order",
    keep_last: bool = False,
    policy: TokenPolicy | None = None,
) -> TextPlan:
    """Tokenize text and lay it out in batches, without running anything.

    Documents are tokenized one by one and split into windows of at most ``max_length`` tokens; each window
    gets the special tokens that the tokenizer adds by default. Nothing is truncated away except by the
    budget, which is met exactly: the tokens under a budget are the first tokens under any larger one,
    whatever the batch size. Documents of white space only are skipped. Tokens beyond the budget are not
    computed.

    "bucketed" batches hold sequences of about the same length, the longest first, so that there is little
    padding; the tokens and the numbers of their sequences are the same as in "order". "chunk" makes one
    stream of all documents, with a separator before each (the tokenizer's EOS, or "<|endoftext|>"), and cuts
    it into full windows, as tuned-lens's ``chunk_and_tokenize`` does. That one begins a new stream, and drops
    its last chunk, after every 2048 documents; here this happens once, at the end of the text. A budget ends
    within a full chunk, of which the rest is then left out.

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
            wrong on padded batches. With "bucketed" batches, all but the last of each length are full.
        batching: "order" (of the text), "bucketed" or "chunk".
        keep_last: keep the incomplete last chunk, in a batch of its own.
        policy: which tokens count.

    Raises:
        ValueError: if the text is empty or no text, a number is out of range, the windows have no room beside
            the special tokens, an id is outside the vocabulary, no token counts, the text fills no chunk, or
            the policy keeps padding (there is none to keep) or requires labels (there are none).
    """
    policy = policy or TokenPolicy()
    _check_tokenizer(tokenizer, policy)
    check_integer("max_length", max_length, 1)
    check_integer("batch_size", batch_size, 1)
    if model_context is not None:
        check_integer("model_context", model_context, 1)
    if max_tokens is not None:
        check_integer("max_tokens", max_tokens, 0)
    _check_batching(batching, keep_last)
    documents = documents_of(text)
    limit = min(_context_limits(tokenizer, model_context, max_length))
    marker = Marker(policy, tokenizer.all_special_ids)
    separator = _separator(tokenizer) if batching == "chunk" else None
    windows = Windows(tokenizer, limit, marker, max_tokens, separator=separator)
    for index, document in enumerate(documents):
        if document.strip() and not windows.full:
            windows.add(index, document)
    if keep_last:
        windows.flush()
    ids, offsets, sources, dropped = windows.tensors()
    plan = TextPlan(
        ids=ids,
        offsets=offsets,
        documents=sources,
        dropped=dropped,
        n_documents=windows.n_documents,
        n_text_tokens=windows.n_text_tokens,
        n_text_bytes=windows.n_text_bytes,
        batching=batching,
        batch_size=batch_size,
        max_length=limit,
        pad_id=_pad_id(tokenizer, vocab_size),
        equal_lengths=equal_lengths,
        policy=policy,
    )
    if max_tokens != 0:
        _check_tokens(plan, len(documents), windows.n_pending)
    check_vocabulary(ids, vocab_size, "text")
    return plan


def _check_batching(batching: str, keep_last: bool) -> None:
    """Refuse unknown batchings, and what only chunks have."""
    if batching not in get_args(Batching):
        raise refusal(f"batching must be one of {get_args(Batching)}", repr(batching))
    if keep_last and batching != "chunk":
        raise refusal(
            'keep_last needs batching="chunk", as only chunks are dropped', f"batching={batching!r}"
        )


def _check_tokens(plan: TextPlan, n_documents: int, n_pending: int) -> None:
    """Refuse a plan without a token that counts."""
    if n_pending and not plan.n_sequences:
        rule = f"text must fill at least one chunk of {plan.max_length} tokens (max_length)"
        raise refusal(rule, f"{n_pending} tokens")
    if not plan.n_sequences:
        raise refusal("text must give at least one token", f"none from {n_documents} documents")
    if plan.n_tokens == 0:
        counts = ", ".join(f"{int(mask.sum())} {reason}" for reason, mask in plan.dropped.items())
        raise refusal("text must give at least one token that counts", f"{len(plan.ids)} tokens: {counts}")


def _separator(tokenizer: Any) -> str:
    """What stands between documents in one stream."""
    return getattr(tokenizer, "eos_token", None) or "<|endoftext|>"


def _check_tokenizer(tokenizer: Any, policy: TokenPolicy) -> None:
    """Refuse what is no tokenizer, and a policy that text cannot follow."""
    if not callable(tokenizer) or not hasattr(tokenizer, "all_special_ids"):
        raise refusal("text needs the tokenizer of the model", type(tokenizer).__name__)
    if policy.padding == "keep":
        raise refusal('text needs padding="drop", as what is kept depends on batch_size', 'padding="keep"')
    if policy.labels == "require":
        raise refusal('text needs labels="ignore", as it has no labels', 'labels="require"')


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
