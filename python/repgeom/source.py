"""Where the tokens of a run come from: text, a dataloader, or the demo corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from repgeom.dataloaders import forward_signature, iter_dataloader
from repgeom.demo import CORPUS_NAME
from repgeom.measurand import Measurand
from repgeom.probe import config_values, input_embedding
from repgeom.text import TextPlan, demo_text, plan_text, read_text
from repgeom.tokens import TokenBatch, TokenPolicy


@dataclass
class Source:
    """Batches, and what is known about them beforehand.

    Attributes:
        name: What the data are called.
        sha256: Hash of the text; None for a dataloader.
        plan: The layout of text; None for a dataloader.
        limit: Tokens that a dataloader is read up to; None: all.
    """

    name: str
    sha256: str | None
    plan: TextPlan | None
    limit: int | None
    _batches: Iterator[TokenBatch]
    _first: TokenBatch | None = None

    def peek(self) -> TokenBatch | None:
        """The first batch, which :meth:`batches` will give again; None if there is none."""
        if self._first is None:
            self._first = next(self._batches, None)
        return self._first

    def batches(self) -> Iterator[TokenBatch]:
        """All batches, once."""
        first, self._first = self._first, None
        return chain([] if first is None else [first], self._batches)

    @property
    def n_tokens(self) -> int | None:
        """Tokens that will count, as far as known."""
        return self.plan.n_tokens if self.plan else None

    @property
    def n_sequences(self) -> int | None:
        """Sequences, if known."""
        return self.plan.n_sequences if self.plan else None

    @property
    def n_batches(self) -> int | None:
        """Batches, if known."""
        return self.plan.n_batches if self.plan else None

    @property
    def n_positions(self) -> int | None:
        """Positions that the model will see, padding included, if known."""
        return sum(rows * columns for rows, columns in self.plan.batch_shapes) if self.plan else self.limit

    @property
    def largest_batch(self) -> int:
        """Positions of the largest batch; of the first one for a dataloader."""
        if self.plan:
            return max((rows * columns for rows, columns in self.plan.batch_shapes), default=0)
        first = self.peek()
        return 0 if first is None else first.n_tokens + first.n_padding


def open_source(
    measurand: Measurand,
    dataloader: Iterable[Any] | None,
    *,
    text: str | Path | Sequence[str] | None,
    max_tokens: int | None,
    max_length: int,
    batch_size: int,
    policy: TokenPolicy,
    name: str | None,
) -> Source:
    """The source that was asked for; the demo corpus if none was.

    Raises:
        ValueError: Both text and a dataloader, text without a tokenizer, or what those refuse.
    """
    embedding = input_embedding(measurand.model)
    vocabulary = getattr(embedding, "num_embeddings", None)
    if dataloader is not None:
        if text is not None:
            raise ValueError("give either text or a dataloader, got both")
        batches = iter_dataloader(
            dataloader,
            policy=policy,
            max_tokens=max_tokens,
            signature=forward_signature(measurand.model),
            vocab_size=vocabulary,
            special_ids=getattr(measurand.tokenizer, "all_special_ids", ()),
        )
        return Source(name or "dataloader", None, None, max_tokens, batches)
    if measurand.tokenizer is None:
        raise ValueError(
            f"text needs a tokenizer, and none came with {measurand.label}: pass one as tokenizer "
            "(--tokenizer), or a dataloader of token ids"
        )
    documents, known_as = _documents(text)
    plan = plan_text(
        documents,
        measurand.tokenizer,
        max_tokens=max_tokens,
        max_length=max_length,
        batch_size=batch_size,
        model_context=_context(measurand),
        vocab_size=vocabulary,
        policy=policy,
    )
    digest = hashlib.sha256("\0".join(documents).encode()).hexdigest()
    return Source(name or known_as, digest, plan, plan.n_tokens, plan.batches())


def _documents(text: str | Path | Sequence[str] | None) -> tuple[list[str], str]:
    if text is None:
        return demo_text(), CORPUS_NAME
    if isinstance(text, Path):
        return read_text(text), text.name
    if isinstance(text, str):
        _refuse_file_name(text)
        return [text], "text"
    if not isinstance(text, (list, tuple)) or not all(isinstance(document, str) for document in text):
        raise ValueError(f"text must be a string, strings, or a Path, got {type(text).__name__}")
    for document in text:
        _refuse_file_name(document)
    return list(text), "text"


def _refuse_file_name(text: str) -> None:
    """The name of a file in place of its text would be measured without a word."""
    if len(text) < 256 and "\n" not in text and Path(text).is_file():
        raise ValueError(f"text must be text, got the name of a file: pass pathlib.Path({text!r})")


def _context(measurand: Measurand) -> int | None:
    values = config_values(measurand.model)
    named = [values.get(key) for key in ("max_position_embeddings", "n_positions")]
    limits = [limit for limit in named if isinstance(limit, int) and limit > 0]
    # Learned positions that begin after the padding id (RoBERTa) hold fewer tokens than the table has rows.
    for name, module in measurand.model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            limits.append(int(module.num_embeddings) - int(module.padding_idx) - 1)
    return min(limits, default=None)
