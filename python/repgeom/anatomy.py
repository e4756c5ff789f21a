"""Where a model keeps its residual stream: blocks, final norm and unembedding, found by structure.

Nothing here goes by names or by `num_hidden_layers`: one tiny forward is recorded, blocks are the modules
whose outputs are, bit for bit, the next one's inputs; the readout counts only if it reproduces the logits.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from repgeom.arguments import (
    Arguments,
    batch_candidates,
    first_accepted,
    model_type,
    probe_candidates,
    token_inputs,
)
from repgeom.probe import Call, Key, evaluating
from repgeom.readout import (
    Ends,
    Readout,
    find_head,
    find_logits,
    find_readout,
    headless_norm,
    readout_error,
    tolerance_of,
)
from repgeom.stacks import Stack, find_stacks
from repgeom.towers import (
    AXES,
    Stream,
    batch_first,
    choose_stack,
    find_embedding,
    find_stream,
    is_deterministic,
)

__all__ = ["Block", "ModelAnatomy", "ReadoutCheck", "anatomy", "batch_first"]


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
    """A stack of blocks of a model, and the way from there to the logits.

    Attributes:
        model_type: `config.model_type`, or "" for a model without one.
        model_class: Class name of the model.
        tower: Path of the stack: by default the main one, which feeds the output.
        other_towers: Paths of the other stacks that ran, for `anatomy(model, tower=...)`.
        blocks: The blocks in the order of their calls.
        d_model: Width of the residual stream.
        layout: How the blocks see it: "BSH" (batch, seq, hidden) or "SBH"; where no tokens reach the stack
            also "BHS", "NH" (positions of all items in one row), "BHWC" and "BCHW" (grids); "other" if it is
            not one vector per position, for the reason in `stream_problem`.
        token_input: Which token ids feed the stack: "input_ids" (also when given by position),
            "decoder_input_ids", or None where none reach it (pixels, sound, learned queries).
        first_position: Position of the first token in the stream, where this is longer than the tokens.
        lengthens: Whether the stream is longer than the tokens (padding to a multiple, prompts in front).
        stream_problem: Why the hidden state cannot be measured at tokens, or None.
        deterministic: Whether two identical forwards with other random numbers gave the same numbers.
        embedding: Path of the token embedding whose output reaches the stack, or None.
        embedding_call: Which call of that module in one forward it is.
        embedding_layout: Layout of its output.
        final_norm: Path of the norm between the last block and the head, or None.
        final_norm_call: Which call of that module in one forward it is.
        unembedding: Path of the module that makes the logits, or None for an encoder without head.
        readout: How the logits follow from the last block's output, or None.
        readout_error: Largest relative error of the readout in the probe (NaN without readout).
        readout_problem: Why the logits could not be reproduced; None if they were, or if there are none.
        model: The model itself.
        probe: Positional and keyword arguments of the forward that showed all this.
    """

    model_type: str
    model_class: str
    tower: str
    other_towers: tuple[str, ...]
    blocks: tuple[Block, ...]
    d_model: int
    layout: str
    token_input: str | None
    first_position: int
    lengthens: bool
    stream_problem: str | None
    deterministic: bool
    embedding: str | None
    embedding_call: int
    embedding_layout: str
    final_norm: str | None
    final_norm_call: int
    unembedding: str | None
    readout: str | None
    readout_error: float
    readout_problem: str | None
    model: nn.Module = field(repr=False, compare=False)
    probe: Arguments = field(repr=False, compare=False)
    _stream: Stream = field(repr=False, compare=False)
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

    def to_tokens(self, hidden: Tensor, n_tokens: int | None = None, *, layout: str | None = None) -> Tensor:
        """Hidden states of the stream as `[batch, seq, d]`.

        Args:
            hidden: The tensor as the blocks (or the norm, or the embedding) have it.
            n_tokens: Length of the token ids of the batch; positions that are no tokens are then left out.
            layout: The layout of `hidden`, if it is not that of the blocks (`embedding_layout`).

        Returns:
            One vector per token, or per position of a stack that no tokens reach; a view where possible.

        Raises:
            ValueError: If the stream is not one vector per position, or its tokens cannot be told.
        """
        stream = self._stream if layout is None else replace(self._stream, layout=layout)
        return stream.of_tokens(hidden, n_tokens)

    def unembed(self, h: Tensor) -> Tensor:
        """Logits `[batch, seq, vocabulary]` of hidden states `[batch, seq, d]` after the last block.

        A stream with a `stream_problem` goes in as it leaves the last block.

        Raises:
            ValueError: If the model has no verified readout.
        """
        return self._proven_readout()(h)

    def check(self, batch: Any = None) -> ReadoutCheck:
        """Prove again that `unembed(h_last) == logits`, on a batch or on the probe.

        Args:
            batch: A mapping of forward arguments, or token ids `[batch, seq]`; the probe's by default.

        Returns:
            The error `max|unembed(h) - logits| / max|logits|`, its tolerance, and the tokens counted.

        Raises:
            ValueError: If there is no readout, or the error is above the tolerance.
        """
        readout = self._proven_readout()
        candidates = [self.probe] if batch is None else batch_candidates(self.model, batch)
        last = self.blocks[-1]
        arguments, calls, output = first_accepted(self.model, candidates, {last.path})
        logits = find_logits(self.model, output)
        state = calls[last.call].outputs.get(last.hidden_out) if len(calls) > last.call else None
        if logits is None or state is None:
            raise ValueError(
                f"{last.path} did not run or {self.model_class} returned no logits for this batch"
            )
        with evaluating(self.model), torch.no_grad():
            error = readout_error(readout(_readable(self._stream, state, arguments)), logits)
        tolerance = tolerance_of(self.model)
        if not (error <= tolerance):
            raise ValueError(
                f"unembed(h_last) must equal the logits within {tolerance:.0e} relative, not {error:.2e}"
            )
        return ReadoutCheck(error, tolerance, logits[..., 0].numel())

    def _proven_readout(self) -> Readout:
        if self._readout is None:
            raise ValueError(f"{self.model_class} has no verified logit readout: {self._no_readout}")
        return self._readout

    @property
    def _no_readout(self) -> str:
        return self.readout_problem or "it is an encoder without a language-model head"

    def __str__(self) -> str:
        first, last = self.blocks[0], self.blocks[-1]
        kinds = sorted({type(self.module(block.path)).__name__ for block in self.blocks})
        paths = first.path if first.path == last.path else f"{first.path} ... {last.path}"
        entry, leave = (".".join(map(str, key)) for key in (first.hidden_in, first.hidden_out))
        stream = AXES.get(self.layout, "other").format(self.d_model)
        error = f"   relative error {self.readout_error:.1e}" if self.has_readout else ""
        where = f", from position {self.first_position} of a longer stream" if self.lengthens else ""
        kind = self.model_type or "custom"
        lines = [
            f"{self.model_class} ({kind}): {self.num_blocks} blocks, width {self.d_model}",
            f"  tower        {self.tower}",
            f"  tokens       {self.token_input or 'none reach the tower'}{where}",
            f"  embedding    {self.embedding or 'none'}",
            f"  blocks       {paths}   {', '.join(kinds)}",
            f"  hidden state {stream} in {entry}, out {leave or 'as the tensor itself'}",
            f"  final norm   {self.final_norm or 'none'}",
            f"  unembedding  {self.unembedding or 'none'}",
            f"  readout      {self.readout or self._no_readout}{error}",
        ]
        if self.other_towers:
            lines.append(f"  other stacks {', '.join(self.other_towers)}")
        if self.stream_problem:
            lines.append(f"  refused      {self.stream_problem}")
        if not self.deterministic:
            lines.append("  random       two identical forwards differ: the model draws random numbers")
        return "\n".join(lines)


def anatomy(model: nn.Module, batch: Any = None, *, tower: str | None = None) -> ModelAnatomy:
    """Find the residual stream of a model by running it on a few tokens.

    Args:
        model: A transformers model, or any module built as embedding, blocks, head. It is probed in eval mode
            without gradients; training flags and random number generators are restored.
        batch: Arguments of the forward, for models that 2 x 7 plain tokens do not fit: a mapping, token ids
            `[batch, seq]`, or a sequence of positional arguments. Of plain tokens at most 2 x 7 are used.
        tower: Path, or part of the path, of another stack than the one that feeds the output: one of
            `other_towers`, such as "encoder" or "vision". It must run for the batch. Only the main stack has
            a readout.

    Returns:
        The blocks, embedding, final norm and unembedding. `print` it for a summary.

    Raises:
        ValueError: If the forward fails, if no stack of blocks is found, or not exactly one of that name.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    # A compiled model hides the signature of its forward.
    model = getattr(model, "_orig_mod", model)
    candidates = probe_candidates(model) if batch is None else batch_candidates(model, batch, crop=True)
    arguments, calls, output = first_accepted(model, candidates)
    logits = find_logits(model, output)
    head = None if logits is None else find_head(model, calls, logits)
    stacks = find_stacks(model, calls)
    stack, main = choose_stack(model, stacks, head, tower)
    stream = find_stream(model, arguments, stack)
    readout: Readout | None = None
    problem = f"the logits are read off the main stack {main.path}" if logits is not None else None
    if stack is main:
        readout, problem = _try_readout(model, calls, main, stream, arguments, head=head, logits=logits)
    last = stack.passages[-1]
    norm = readout.norm if readout else headless_norm(calls, last.call, last.h_out)
    embedding = find_embedding(model, calls, stack, stream, arguments)
    return ModelAnatomy(
        model_type=model_type(model),
        model_class=type(model).__name__,
        tower=stack.path,
        other_towers=tuple(other.path for other in stacks if other is not stack),
        blocks=_blocks(stack),
        d_model=stream.width,
        layout=stream.layout,
        token_input=stream.token_input,
        first_position=stream.first_position,
        lengthens=stream.lengthens,
        stream_problem=stream.problem,
        deterministic=is_deterministic(model, arguments, stack),
        embedding=embedding[0].path if embedding else None,
        embedding_call=embedding[0].index if embedding else 0,
        embedding_layout=embedding[1] if embedding else "BSH",
        final_norm=norm[0] if norm else None,
        final_norm_call=norm[1] if norm else 0,
        unembedding=head.path if head and stack is main else None,
        readout=str(readout) if readout else None,
        readout_error=readout.error if readout else float("nan"),
        readout_problem=problem,
        model=model,
        probe=arguments,
        _stream=stream,
        _readout=readout,
    )


def _blocks(stack: Stack) -> tuple[Block, ...]:
    return tuple(
        Block(index, passage.call.path, passage.call.index, passage.key_in, passage.key_out)
        for index, passage in enumerate(stack.passages)
    )


def _readable(stream: Stream, state: Tensor, arguments: Arguments) -> Tensor:
    """The hidden state as a readout takes it: at the tokens, or as it is where those cannot be told."""
    if stream.problem is not None:
        return state
    ids = token_inputs(arguments).get(stream.token_input or "")
    return stream.of_tokens(state, None if ids is None else ids.shape[1])


def _try_readout(
    model: nn.Module,
    calls: list[Call],
    main: Stack,
    stream: Stream,
    arguments: Arguments,
    *,
    head: Call | None,
    logits: Tensor | None,
) -> tuple[Readout | None, str | None]:
    if logits is None:
        return None, None
    if head is None:
        return None, (
            "no single module returns the logits: they are put together of several, or a product with the "
            "embedding matrix outside any module"
        )
    last = main.passages[-1]
    h = _readable(stream, last.h_out, arguments)

    def cut(tensor: Tensor) -> Tensor:
        whole = stream.lengthens and tensor.shape[:-1] == batch_first(last.h_out, stream.layout).shape[:-1]
        return _readable(replace(stream, layout="BSH"), tensor, arguments) if whole else tensor

    try:
        with evaluating(model):
            return find_readout(model, calls, Ends(last.call, h, head, logits, cut)), None
    except ValueError as error:
        return None, str(error)
