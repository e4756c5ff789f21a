"""Where the tokens of a run come from: text, a dataloader, or the demo corpus."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from repgeom.anatomy import ModelAnatomy
from repgeom.checks import refusal
from repgeom.dataloaders import check_dataloader, forward_signature, iter_dataloader
from repgeom.demo import CORPUS_NAME
from repgeom.documents import demo_text, read_text
from repgeom.equal_lengths import MASKS, has_padding, split_by_length
from repgeom.measurand import Measurand
from repgeom.padding import PaddingCheck, check_padding, takes_mask
from repgeom.probe import config_values, input_embedding
from repgeom.request import Request
from repgeom.text import TextPlan, plan_text
from repgeom.tokens import TokenBatch, TokenPolicy, masking


@dataclass
class Source:
    """Batches, and what is known about them beforehand.

    Attributes:
        name: What the data are called.
        sha256: Hash of the text; None for a dataloader.
        plan: The layout of text; None for a dataloader.
        limit: Tokens that a dataloader is read up to; None: all.
        padding: What the padding test of the model found, once it was needed.
    """

    name: str
    sha256: str | None
    plan: TextPlan | None
    limit: int | None
    padding: Padding
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


class Peekable:
    """An iterable of raw batches whose first one can be looked at without being lost."""

    def __init__(self, batches: Iterable[Any]) -> None:
        check_dataloader(batches)
        self._batches = iter(batches)
        self._first: list[Any] = []

    def peek(self) -> Any:
        """The first batch, or None if there is none."""
        if not self._first:
            self._first = list(islice(self._batches, 1))
        return self._first[0] if self._first else None

    def __iter__(self) -> Iterator[Any]:
        first, self._first = self._first, []
        return chain(first, self._batches)


def open_source(measurand: Measurand, data: Peekable | None, request: Request) -> Source:
    """The source that was asked for; the demo corpus if none was.

    Raises:
        ValueError: Both text and a dataloader, text without a tokenizer, or what those refuse.
    """
    vocabulary = _vocabulary(measurand)
    padding = Padding(measurand)
    if request.policy.duplicates == "drop":
        padding.require_causal()
    if data is not None:
        if request.text is not None:
            raise ValueError("give either text or a dataloader, got both")
        if request.batching != "order":
            raise ValueError(f"batching is for text, batches are taken as they are; got {request.batching!r}")
        batches = iter_dataloader(
            data,
            policy=request.policy,
            max_tokens=request.max_tokens,
            signature=forward_signature(measurand.model),
            vocab_size=vocabulary,
            special_ids=getattr(measurand.tokenizer, "all_special_ids", ()),
            stream=_stream(measurand),
        )
        # Now, as hooks will be listening when a padded batch comes.
        _ = request.policy.padding == "keep" or padding.ok
        batches = padding.guarded(batches, request.policy)
        return Source(request.dataset_name or "dataloader", None, None, request.max_tokens, padding, batches)
    if measurand.tokenizer is None:
        raise ValueError(
            f"text needs a tokenizer, and none came with {measurand.label}: pass one as tokenizer "
            "(--tokenizer), or a dataloader of token ids"
        )
    if _stream(measurand) == "decoder":
        raise ValueError(
            f"text is read by an encoder; {measurand.tower or 'what was asked for'} reads decoder_input_ids: "
            "give a dataloader of batches with them"
        )
    documents, known_as = _documents(request.text)
    plan = plan_text(
        documents,
        measurand.tokenizer,
        max_tokens=request.max_tokens,
        max_length=request.max_length,
        batch_size=request.batch_size,
        model_context=_context(measurand),
        vocab_size=vocabulary,
        policy=request.policy,
        batching=request.batching,
    )
    if plan.n_padding and not padding.ok:
        plan = replace(plan, equal_lengths=True, batching="bucketed")
    digest = hashlib.sha256("\0".join(documents).encode()).hexdigest()
    batches = padding.guarded(plan.batches(), request.policy)
    return Source(request.dataset_name or known_as, digest, plan, plan.n_tokens, padding, batches)


def _vocabulary(measurand: Measurand) -> int | None:
    """Rows of the embedding that the counted tokens go through."""
    anatomy, embedding = measurand.anatomy, input_embedding(measurand.model)
    if anatomy is not None and anatomy.embedding is not None:
        embedding = anatomy.module(anatomy.embedding)
    return getattr(embedding, "num_embeddings", None)


def _stream(measurand: Measurand) -> Literal["input", "decoder"]:
    anatomy = measurand.anatomy
    if anatomy is None or (measurand.only_modules and measurand.tower is None):
        return "input"
    return "decoder" if anatomy.token_input == "decoder_input_ids" else "input"


class Padding:
    """The padding test of a model, run when it is first needed."""

    def __init__(self, measurand: Measurand) -> None:
        self._measurand = measurand
        self.check: PaddingCheck | None = None

    def _run(self) -> PaddingCheck | None:
        anatomy = self._measurand.anatomy
        if self.check is None and anatomy is not None and anatomy.token_input is not None:
            self.check = check_padding(self._measurand.model, anatomy)
        return self.check

    @property
    def ok(self) -> bool:
        """Whether padded batches are known to give what sequences give alone."""
        check = self._run()
        return check is not None and check.ok

    def require_causal(self) -> None:
        """Refuse to count equal prefixes once in a model that looks ahead, or may."""
        check = self._run()
        if check is None or not check.causal:
            change = "unknown" if check is None else f"{check.prefix_error:.1e} relative"
            raise ValueError(
                'duplicates="drop" needs a causal model, as equal prefixes are equal activations only there; '
                f"later tokens change those of {self._measurand.label} (change {change})"
            )

    def guarded(self, batches: Iterator[TokenBatch], policy: TokenPolicy) -> Iterator[TokenBatch]:
        """The batches; without positions where no tokens reach what is measured, and without padding where
        the model is wrong on it."""
        anatomy = self._measurand.anatomy
        masked = takes_mask(self._measurand.model)
        for batch in batches:
            if anatomy is not None and anatomy.token_input is None:
                yield _without_tokens(batch, anatomy)
            elif policy.padding == "drop" and has_padding(batch) and not self.ok:
                reason = "its padding test needs an anatomy" if self.check is None else self.check.reason
                why = f"{self._measurand.label} may be wrong on padded batches ({reason})"
                yield from split_by_length(batch, why)
            elif masked:
                yield batch
            else:
                kwargs = {name: value for name, value in batch.kwargs.items() if name != "attention_mask"}
                yield replace(batch, kwargs=kwargs)

    def to_dict(self) -> dict[str, Any] | None:
        """What was found, as JSON values; None if nothing was padded."""
        if self.check is None:
            return None
        numbers = {
            name: value if math.isfinite(value) else None
            for name in ("right_error", "masked_error", "prefix_error", "tolerance")
            for value in [getattr(self.check, name)]
        }
        return {"ok": self.check.ok, "causal": self.check.causal, "reason": self.check.reason, **numbers}


def _without_tokens(batch: TokenBatch, anatomy: ModelAnatomy) -> TokenBatch:
    """The batch for a stack that no tokens reach: all its positions count.

    Raises:
        ValueError: A policy of tokens, or a mask, which cannot be told to positions of that stack.
    """
    where = f"{anatomy.tower} of {anatomy.model_class}, which no tokens reach"
    if batch.dropped:
        raise refusal(f"the token policy does not apply to {where}", ", ".join(batch.dropped))
    masks = [name for name in masking(batch.kwargs) if name not in MASKS or "input_ids" not in batch.kwargs]
    if masks:
        rule = f"padding cannot be told from data in {where}, so batches must be without"
        raise refusal(rule, f"{', '.join(masks)} with zeros")
    return replace(batch, keep=None, real=None, token_ids=None, dropped={}, n_padding=0)


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
