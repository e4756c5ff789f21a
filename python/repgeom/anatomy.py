"""Where a model keeps its residual stream: blocks, final norm and unembedding, found by structure.

Nothing here goes by names or by `num_hidden_layers`: one tiny forward is recorded, blocks are the modules
whose outputs are, bit for bit, the next one's inputs; the readout counts only if it reproduces the logits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from repgeom.probe import (
    Arguments,
    Call,
    Key,
    batch_arguments,
    input_embedding,
    probe_arguments,
    record,
    same,
    token_ids,
)
from repgeom.readout import (
    Ends,
    Readout,
    find_head,
    find_logits,
    find_readout,
    is_norm,
    readout_error,
    tolerance_of,
)
from repgeom.stacks import Passage, Stack, find_stacks

ADVICE = "measure single modules instead, with module_input:<path> or module_output:<path>"


@dataclass(frozen=True)
class Block:
    """One call of one transformer block.

    Attributes:
        index: Position in the stack, from 0.
        path: Path of the module in the model.
        call: Which call of this module in one forward it is (0 unless blocks share a module).
        hidden_in: Where the hidden state enters: ("args", 0) or ("kwargs", "hidden_states"), or deeper.
        hidden_out: Key path of the hidden state in the output; () when the output is the tensor itself.
    """

    index: int
    path: str
    call: int
    hidden_in: Key
    hidden_out: Key


@dataclass(frozen=True)
class ReadoutCheck:
    """Evidence that `unembed(h_last)` reproduces the logits: the largest relative error over these tokens."""

    error: float
    tolerance: float
    tokens: int


@dataclass(frozen=True)
class ModelAnatomy:
    """The stack of blocks that feeds the output of a model, and the way from there to the logits.

    Attributes:
        model_type: `config.model_type`, or "" for a model without one.
        model_class: Class name of the model.
        blocks: The blocks in the order of their calls.
        d_model: Width of the residual stream.
        layout: "BSH" (batch, seq, hidden) or "SBH" (seq, batch, hidden), as the blocks see it.
        embedding: Path of the token embedding whose output reaches the stack, or None.
        embedding_call: Which call of that module in one forward it is.
        embedding_layout: Layout of its output.
        final_norm: Path of the norm between the last block and the head, or None.
        final_norm_call: Which call of that module in one forward it is.
        unembedding: Path of the module that makes the logits, or None for an encoder without head.
        readout: How the logits follow from the last block's output, or None.
        readout_error: Largest relative error of the readout in the probe (NaN without readout).
        readout_problem: Why the logits could not be reproduced; None if they were, or if there are none.
        other_towers: Paths of further stacks (encoder, vision tower).
        model: The model itself.
    """

    model_type: str
    model_class: str
    blocks: tuple[Block, ...]
    d_model: int
    layout: str
    embedding: str | None
    embedding_call: int
    embedding_layout: str
    final_norm: str | None
    final_norm_call: int
    unembedding: str | None
    readout: str | None
    readout_error: float
    readout_problem: str | None
    other_towers: tuple[str, ...]
    model: nn.Module = field(repr=False, compare=False)
    _readout: Readout | None = field(default=None, repr=False, compare=False)

    @property
    def num_blocks(self) -> int:
        """Number of block calls in one forward."""
        return len(self.blocks)

    @property
    def has_readout(self) -> bool:
        """Whether :meth:`unembed` is available."""
        return self._readout is not None

    def module(self, path: str) -> nn.Module:
        """The module at a path of the model."""
        return self.model.get_submodule(path)

    def unembed(self, h: Tensor) -> Tensor:
        """Logits `[batch, seq, vocabulary]` of hidden states `[batch, seq, d]` after the last block.

        Raises:
            ValueError: If the model has no verified readout.
        """
        if self._readout is None:
            raise ValueError(f"{self.model_class} has no verified logit readout: {self._no_readout}")
        return self._readout(h)

    def check(self, batch: Any = None) -> ReadoutCheck:
        """Prove again that `unembed(h_last) == logits`, on a batch or on the probe tokens.

        Args:
            batch: A mapping of forward arguments, or token ids `[batch, seq]`; the probe tokens by default.

        Returns:
            The error `max|unembed(h) - logits| / max|logits|`, its tolerance, and the tokens counted.

        Raises:
            ValueError: If there is no readout, or the error is above the tolerance.
        """
        if self._readout is None:
            raise ValueError(f"{self.model_class} has no verified logit readout: {self._no_readout}")
        arguments = probe_arguments(self.model) if batch is None else batch_arguments(self.model, batch)
        last = self.blocks[-1]
        calls, output = record(self.model, arguments, {last.path})
        logits = find_logits(self.model, output)
        state = calls[last.call].outputs.get(last.hidden_out) if len(calls) > last.call else None
        if logits is None or state is None:
            raise ValueError(
                f"{last.path} did not run or {self.model_class} returned no logits for this batch"
            )
        with torch.no_grad():
            error = readout_error(self.unembed(batch_first(state, self.layout)), logits)
        tolerance = tolerance_of(logits)
        if not (error <= tolerance):
            raise ValueError(
                f"unembed(h_last) must equal the logits within {tolerance:.0e} relative, not {error:.2e}"
            )
        return ReadoutCheck(error, tolerance, logits[..., 0].numel())

    @property
    def _no_readout(self) -> str:
        return self.readout_problem or "it is an encoder without a language-model head"

    def __str__(self) -> str:
        first, last = self.blocks[0], self.blocks[-1]
        kinds = sorted({type(self.module(block.path)).__name__ for block in self.blocks})
        paths = first.path if first.path == last.path else f"{first.path} ... {last.path}"
        entry, leave = (".".join(map(str, key)) for key in (first.hidden_in, first.hidden_out))
        stream = f"{'[batch, seq, ' if self.layout == 'BSH' else '[seq, batch, '}{self.d_model}]"
        error = f"   relative error {self.readout_error:.1e}" if self.has_readout else ""
        kind = self.model_type or "custom"
        lines = [
            f"{self.model_class} ({kind}): {self.num_blocks} blocks, width {self.d_model}",
            f"  embedding    {self.embedding or 'none'}",
            f"  blocks       {paths}   {', '.join(kinds)}",
            f"  hidden state {stream} in {entry}, out {leave or 'as the tensor itself'}",
            f"  final norm   {self.final_norm or 'none'}",
            f"  unembedding  {self.unembedding or 'none'}",
            f"  readout      {self.readout or self._no_readout}{error}",
        ]
        if self.other_towers:
            lines.append(f"  other stacks {', '.join(self.other_towers)}")
        return "\n".join(lines)


def anatomy(model: nn.Module, batch: Any = None) -> ModelAnatomy:
    """Find the residual stream of a model by running it once on a few tokens.

    Args:
        model: A transformers model, or any module built as embedding, blocks, head. It is probed in eval mode
            without gradients; training flags are restored.
        batch: Arguments of the forward, for models that 2 x 7 plain tokens do not fit: a mapping, token ids
            `[batch, seq]`, or a sequence of positional arguments. At most 2 x 7 of its tokens are used.

    Returns:
        The blocks, embedding, final norm and unembedding. `print` it for a summary.

    Raises:
        ValueError: If no stack of blocks is found, or its hidden states are not one vector per token.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    arguments = probe_arguments(model) if batch is None else batch_arguments(model, batch, crop=True)
    calls, output = _record_probe(model, arguments)
    logits = find_logits(model, output)
    head = None if logits is None else find_head(model, calls, logits)
    main, others = _main_stack(model, find_stacks(model, calls), head)
    layout = _layout(model, main, arguments)
    readout, problem = _try_readout(model, calls, main.passages[-1], layout, head=head, logits=logits)
    norm = readout.norm if readout else _headless_norm(calls, main.passages[-1])
    embedding = _embedding(model, calls, main, arguments)
    model_type = getattr(getattr(model, "config", None), "model_type", "")
    return ModelAnatomy(
        model_type=model_type if isinstance(model_type, str) else "",
        model_class=type(model).__name__,
        blocks=_blocks(main),
        d_model=main.shape[-1],
        layout=layout,
        embedding=embedding[0].path if embedding else None,
        embedding_call=embedding[0].index if embedding else 0,
        embedding_layout=embedding[1] if embedding else "BSH",
        final_norm=norm[0] if norm else None,
        final_norm_call=norm[1] if norm else 0,
        unembedding=head.path if head else None,
        readout=str(readout) if readout else None,
        readout_error=readout.error if readout else float("nan"),
        readout_problem=problem,
        other_towers=tuple(stack.path for stack in others),
        model=model,
        _readout=readout,
    )


def batch_first(hidden: Tensor, layout: str) -> Tensor:
    """The same hidden states as `[batch, seq, d]` (a view)."""
    return hidden.transpose(0, 1) if layout == "SBH" else hidden


def _record_probe(model: nn.Module, arguments: Arguments) -> tuple[list[Call], Any]:
    try:
        return record(model, arguments)
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:
        raise ValueError(
            f"the probe forward of {type(model).__name__} failed with {type(error).__name__}: {error}; "
            "pass a batch that it accepts"
        ) from error


def _main_stack(model: nn.Module, stacks: list[Stack], head: Call | None) -> tuple[Stack, list[Stack]]:
    """The stack that ends last before the unembedding, and the others."""
    name = type(model).__name__
    if not stacks:
        raise ValueError(
            f"no stack of blocks found in {name}: blocks are modules called one after another, each taking "
            "the output of the one before as its input (modules run by .forward() cannot be seen by hooks); "
            f"{ADVICE}"
        )
    before = [stack for stack in stacks if head is None or stack.passages[-1].call.end < head.start]
    if not before:
        raise ValueError(
            f"no stack of blocks of {name} ends before its unembedding {head and head.path}; {ADVICE}"
        )
    main = max(before, key=lambda stack: stack.passages[-1].call.end)
    return main, [stack for stack in stacks if stack is not main]


def _layout(model: nn.Module, stack: Stack, arguments: Arguments) -> str:
    shape, ids = stack.shape, token_ids(arguments)
    if len(shape) == 3:
        if ids is None or shape[:2] == tuple(ids.shape):
            return "BSH"
        if shape[:2] == tuple(ids.shape)[::-1]:
            return "SBH"
    tokens = "unknown tokens" if ids is None else f"{list(ids.shape)} tokens"
    raise ValueError(
        f"the hidden state of {type(model).__name__} must be one vector per token, [batch, seq, d] or "
        f"[seq, batch, d], but is {list(shape)} for {tokens}; {ADVICE}"
    )


def _blocks(stack: Stack) -> tuple[Block, ...]:
    return tuple(
        Block(index, passage.call.path, passage.call.index, passage.key_in, passage.key_out)
        for index, passage in enumerate(stack.passages)
    )


def _try_readout(
    model: nn.Module,
    calls: list[Call],
    last: Passage,
    layout: str,
    *,
    head: Call | None,
    logits: Tensor | None,
) -> tuple[Readout | None, str | None]:
    if logits is None:
        return None, None
    if head is None:
        return None, "no module returns the logits (a product with the embedding matrix outside any module?)"
    try:
        ends = Ends(last.call, batch_first(last.h_out, layout), head, logits)
        return find_readout(model, calls, ends), None
    except ValueError as error:
        return None, str(error)


def _headless_norm(calls: list[Call], last: Passage) -> tuple[str, int] | None:
    """Without readout: path and call index of the norm that takes the last block's output."""
    for call in calls:
        entered = call.first_input
        if call.follows(last.call) and is_norm(call) and entered is not None and same(entered, last.h_out):
            return call.path, call.index
    return None


def _embedding(
    model: nn.Module, calls: list[Call], main: Stack, arguments: Arguments
) -> tuple[Call, str] | None:
    """The call that turns the token ids into vectors for the main stack, and the layout of its output."""
    ids = token_ids(arguments)
    named = input_embedding(model)
    found: list[tuple[Call, str]] = []
    for call in calls:
        if call.start > main.passages[0].call.start or call.tokens is None or ids is None:
            continue
        if call.module is named or isinstance(call.module, nn.Embedding):
            if same(call.tokens, ids):
                found.append((call, "BSH"))
            elif same(call.tokens, ids.T):
                found.append((call, "SBH"))
    return max(found, key=lambda item: (item[0].module is named, -item[0].start), default=None)
