"""Text as batches of tokens: what will run is laid out before anything runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repgeom.checks import check_integer, refusal
from repgeom.tokens import TokenBatch, TokenPolicy, check_vocabulary, without_special
from repgeom.windows import Windows


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
            without_special(torch.ones_like(self.ids, dtype=torch.bool), self.ids, self.special_ids).sum()
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
        keep = without_special(real, ids, self.special_ids)
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
    _check_tokenizer(tokenizer, policy)
    check_integer("max_length", max_length, 1)
    check_integer("batch_size", batch_size, 1)
    if model_context is not None:
        check_integer("model_context", model_context, 1)
    if max_tokens is not None:
        check_integer("max_tokens", max_tokens, 0)
    documents = _documents(text)
    limit = min(_context_limits(tokenizer, model_context, max_length))
    dropped = tuple(tokenizer.all_special_ids) if policy.special_tokens == "drop" else ()
    windows = Windows(tokenizer, limit, frozenset(dropped), max_tokens)
    for index, document in enumerate(documents):
        if document.strip() and not windows.full:
            windows.add(index, document)
    ids, offsets, sources = windows.tensors()
    if not len(sources) and max_tokens != 0:
        raise refusal("text must give at least one token", f"none from {len(documents)} documents")
    check_vocabulary(ids, vocab_size, "text")
    pad_id = _pad_id(tokenizer, vocab_size)
    return TextPlan(ids, offsets, sources, batch_size, limit, pad_id, equal_lengths, dropped, policy)


def _check_tokenizer(tokenizer: Any, policy: TokenPolicy) -> None:
    """Refuse what is no tokenizer, and a policy that text cannot follow."""
    if not callable(tokenizer) or not hasattr(tokenizer, "all_special_ids"):
        raise refusal("text needs the tokenizer of the model", type(tokenizer).__name__)
    if policy.padding == "keep":
        raise refusal('text needs padding="drop", as what is kept depends on batch_size', 'padding="keep"')


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
        raise refusal("text must be a string, a list of strings or a Path", type(text).__name__)
    for index, document in enumerate(text):
        if not isinstance(document, str):
            raise refusal(f"text[{index}] must be a string", type(document).__name__)
    if not any(document.strip() for document in text):
        raise refusal("text must hold more than white space", f"{len(text)} blank documents")
    return text


def read_text(path: Path) -> list[str]:
    """The documents of a UTF-8 file: the "text" of each line of a ``.jsonl``, the whole of any other.

    Args:
        path: the file.

    Raises:
        ValueError: if it is missing, a folder, unreadable, not UTF-8, blank, or a ``.jsonl`` file with a line
            that is no JSON object with a string "text".
    """
    if path.is_dir():
        raise refusal("text must be a file", f"the folder {path}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise refusal("text must be an existing file", path) from None
    except UnicodeDecodeError as error:
        raise refusal("text must be UTF-8", f"{path} with an invalid byte at {error.start}") from None
    except OSError as error:
        raise refusal("text must be a readable file", f"{path}: {error.strerror}") from error
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
            raise refusal(f'{path}:{number} must be a JSON object with a string "text"', repr(line[:60]))
        documents.append(record["text"])
    return documents


def demo_text() -> list[str]:
    """The documents of the demo corpus, "pydoc-topics" (see :mod:`repgeom.demo`)."""
    from repgeom.demo import corpus

    return corpus()
