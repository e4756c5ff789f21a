"""Which stack of a model is meant, how its hidden state lies in memory, and which token ids feed it.

What feeds a stack is not read off names: two tokens of one row are exchanged for others, and the positions
at which the input of the first block changes are theirs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from repgeom.arguments import (
    ADVICE,
    Arguments,
    first_accepted,
    model_name,
    ordinary_tokens,
    token_inputs,
    with_tokens,
)
from repgeom.probe import Call, entering, input_embedding, one_line, relative_error, same
from repgeom.readout import tolerance_of
from repgeom.stacks import Passage, Stack

# B batch, S positions, H hidden; N positions of all items in a row; of a grid rows H, columns W, hidden C.
AXES = {
    "BSH": "[batch, seq, {}]",
    "SBH": "[seq, batch, {}]",
    "BHS": "[batch, {}, seq]",
    "NH": "[positions, {}]",
    "BHWC": "[batch, height, width, {}]",
    "BCHW": "[batch, {}, height, width]",
}


@dataclass(frozen=True)
class Stream:
    """The hidden state of a stack.

    Attributes:
        layout: A key of `AXES`, or "other" where `problem` says why it cannot be used.
        width: Numbers per position.
        token_input: Name of the token ids that reach the stack, or None.
        first_position: Position of the first token.
        lengthens: Whether there are more positions than tokens.
        problem: Why the hidden state is not one vector per position.
    """

    layout: str
    width: int
    token_input: str | None = None
    first_position: int = 0
    lengthens: bool = False
    problem: str | None = None

    def of_tokens(self, hidden: Tensor, n_tokens: int | None = None) -> Tensor:
        """The hidden states `[batch, positions, width]`, of the tokens alone if their number is given."""
        if self.problem is not None:
            raise ValueError(self.problem)
        rows = batch_first(hidden, self.layout)
        if n_tokens is None or self.token_input is None or rows.shape[1] == n_tokens:
            return rows
        stop = self.first_position + n_tokens
        if not self.lengthens or rows.shape[1] < stop:
            raise ValueError(
                f"where {n_tokens} tokens are among {rows.shape[1]} positions of the hidden state must be "
                "known, but the probe showed another relation of the two; measure batches of another length "
                f"or {ADVICE.removeprefix('measure ')}"
            )
        return rows[:, self.first_position : stop]


def batch_first(hidden: Tensor, layout: str) -> Tensor:
    """The same hidden states as `[batch, positions, d]`; a view where the memory allows."""
    if layout == "BSH":
        return hidden
    if layout == "SBH":
        return hidden.transpose(0, 1)
    if layout == "BHS":
        return hidden.transpose(1, 2)
    if layout == "NH":
        return hidden[None]
    if layout == "BHWC":
        return hidden.flatten(1, -2)
    if layout == "BCHW":
        return hidden.flatten(2).transpose(1, 2)
    raise ValueError(f"the layout of a hidden state must be one of {', '.join(AXES)}, not {layout!r}")


def choose_stack(
    model: nn.Module, stacks: list[Stack], head: Call | None, tower: str | None
) -> tuple[Stack, Stack]:
    """The stack that is asked for, and the main one, which ends last before the unembedding.

    Raises:
        ValueError: If there is no stack, or not exactly one of that name.
    """
    name = model_name(model)
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
    # Packed rows of vectors may also be pooled vectors on their way through a head.
    before = [stack for stack in before if len(stack.shape) > 2] or before
    main = max(before, key=lambda stack: stack.passages[-1].call.end)
    if tower is None:
        return main, main
    fitting = [s for s in stacks if s.path == tower] or [s for s in stacks if tower in s.path]
    if len(fitting) != 1:
        raise ValueError(
            f"tower must be or be part of exactly one stack of {name}, {', '.join(s.path for s in stacks)}, "
            f"got {tower!r}"
        )
    return fitting[0], main


def find_stream(model: nn.Module, arguments: Arguments, stack: Stack) -> Stream:
    """How the hidden state of a stack lies in memory, and which tokens are where in it."""
    shape, width = list(stack.shape), stack.shape[-1]
    for name, ids in token_inputs(arguments).items():
        swapped, places = _swapped(model, ids)
        try:
            changed = _changed(model, with_tokens(arguments, name, swapped), stack.passages[0])
        except Exception as error:  # Whatever model code raises.
            return _refused(model, stack, f"but other tokens failed with {one_line(error)}", name)
        if changed is None:
            return _refused(model, stack, "but its shape depends on which tokens they are", name)
        rows, length = ids.shape
        # Not-a-number tells nothing but its shape.
        if not changed.any() and bool(stack.passages[0].h_in.isnan().any()) and shape[:-1] == [rows, length]:
            return Stream("BSH", width, name)
        if changed.any():
            found = _token_stream(changed, width, (rows, length), places, name)
            return found or _refused(model, stack, f"but is {shape} for {[rows, length]} tokens", name)
    return _free_stream(model, arguments, stack)


def _changed(model: nn.Module, arguments: Arguments, entry: Passage) -> Tensor | None:
    """Where other arguments change what enters the first block; None if they change its shape."""
    after = entering(model, arguments, entry.call, entry.key_in)
    if after is None or after.shape != entry.h_in.shape:
        return None
    return ((after != entry.h_in) & ~(after.isnan() & entry.h_in.isnan())).cpu()


def _swapped(model: nn.Module, ids: Tensor) -> tuple[Tensor, list[int]]:
    """The ids with two ordinary tokens of the first row replaced, as far apart as possible, and where."""
    row = ids[0].tolist()
    ordinary = ordinary_tokens(model) or sorted({0, 1, *row})
    known = set(ordinary)
    places = [place for place, token in enumerate(row) if token in known] or list(range(len(row)))
    places = sorted({places[0], places[-1]})
    swapped = ids.clone()
    for place in places:
        others = [token for token in ordinary if token != row[place]] or [row[place] + 1]
        swapped[0, place] = others[len(others) // 2]
    return swapped, places


def _token_stream(
    changed: Tensor, width: int, shape: tuple[int, int], places: list[int], name: str
) -> Stream | None:
    """The stream in which the exchanged tokens of row 0 are where they must be, or None."""
    rows, length = shape
    if changed.dim() == 3:
        grid = changed.any(-1)
        for layout, where in (("BSH", grid), ("SBH", grid.T)):
            if where.shape[0] != rows or where[1:].any():
                continue
            if where.shape[1] == length and where[0, places].all():
                return Stream(layout, width, name)
            found = where[0].nonzero().flatten().tolist()
            first = found[0] - places[0] if found else -1
            # Both places, and not a whole multiple of the tokens: that is several streams in a row.
            shifted = found == [first + place for place in places] and len(places) == 2
            if shifted and 0 <= first <= where.shape[1] - length and where.shape[1] % length != 0:
                return Stream(layout, width, name, first, lengthens=True)
    return None


def _free_stream(model: nn.Module, arguments: Arguments, stack: Stack) -> Stream:
    """The hidden state of a stack that no tokens reach: every position counts."""
    shape = stack.shape
    if len(shape) == 2:
        return Stream("NH", shape[-1])
    channels_first = _channels_first(stack.passages[0])
    if len(shape) == 3 and channels_first is not True:
        return Stream("SBH" if _batch_is_second(model, arguments, stack.passages[0]) else "BSH", shape[-1])
    if len(shape) in (3, 4) and channels_first is True:
        return Stream("BHS" if len(shape) == 3 else "BCHW", shape[1])
    if len(shape) == 4 and channels_first is False:
        return Stream("BHWC", shape[-1])
    return _refused(model, stack, f"but is {list(shape)}, of which no axis is known to be the hidden one")


def _batch_is_second(model: nn.Module, arguments: Arguments, entry: Passage) -> bool:
    """Whether another first item of the input changes the first entry of axis 1, not of axis 0."""
    args, kwargs = arguments

    def other(value: Any) -> Any:
        noise = isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0
        return torch.cat([1 - value[:1], value[1:]]) if noise else value

    swapped = tuple(map(other, args)), {name: other(value) for name, value in kwargs.items()}
    try:
        changed = _changed(model, swapped, entry)
    except Exception:  # Whatever model code raises: then the usual order.
        return False
    if changed is None:
        return False
    first, second = (changed.any(-1).any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    return first != [0] and second == [0]


def _channels_first(passage: Passage) -> bool | None:
    """Whether the first layer of the block that fits the hidden state takes its axis 1 or its last one."""
    shape = passage.h_in.shape
    for module in passage.call.module.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            width, first = module.in_channels, True
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            width, first = module.num_features, True
        elif isinstance(module, nn.GroupNorm):
            width, first = module.num_channels, True
        elif isinstance(module, nn.Linear):
            width, first = module.in_features, False
        elif isinstance(module, nn.LayerNorm):
            width, first = module.normalized_shape[-1], False
        else:
            continue
        if width in (shape[1], shape[-1]):
            return first if shape[1] == shape[-1] else width == shape[1]
    return None


def is_deterministic(model: nn.Module, arguments: Arguments, stack: Stack) -> bool:
    """Whether the stack has the same states in an identical forward with other random numbers."""
    paths = {passage.call.path for passage in stack.passages}
    _, calls, _ = first_accepted(model, [arguments], paths, seed=1)
    again = {(call.path, call.index): call for call in calls}
    for passage in stack.passages:
        call = again.get((passage.call.path, passage.call.index))
        state = None if call is None else call.outputs.get(passage.key_out)
        if state is None or not torch.equal(state.isnan(), passage.h_out.isnan()):
            return False
        if not (relative_error(state.nan_to_num(), passage.h_out.nan_to_num()) <= tolerance_of(model)):
            return False
    return True


def find_embedding(
    model: nn.Module, calls: list[Call], stack: Stack, stream: Stream, arguments: Arguments
) -> tuple[Call, str] | None:
    """The call that turns the token ids into vectors for the stack, and the layout of its output."""
    ids = token_inputs(arguments).get(stream.token_input or "")
    named = input_embedding(model)
    found: list[tuple[Call, str]] = []
    for call in calls:
        if call.start > stack.passages[0].call.start or call.tokens is None or ids is None:
            continue
        if call.module is named or isinstance(call.module, nn.Embedding):
            tokens = call.tokens.to(ids.dtype)
            if same(_ids_in(tokens, ids, stream), ids):
                found.append((call, "BSH"))
            elif same(tokens, ids.T):
                found.append((call, "SBH"))

    def rank(item: tuple[Call, str]) -> tuple[bool, bool, int, int]:
        call = item[0]
        return call.module is named, _looks_up(call), _shared_prefix(call.path, stack.path), -call.start

    return max(found, key=rank, default=None)


def _looks_up(call: Call) -> bool:
    """Whether a module returned the rows of its matrix that the ids name, times a constant.

    A table of positions may be given the ids as well.
    """
    weight, rows, tokens = getattr(call.module, "weight", None), call.outputs.get(()), call.tokens
    if weight is None or rows is None or tokens is None or weight.is_meta or weight.dim() != 2:
        return False
    if int(tokens.min()) < 0 or int(tokens.max()) >= len(weight):
        return False
    named = weight.detach()[tokens.to(weight.device)].double()
    rows = rows.double()
    factor = (rows * named).sum() / ((named**2).sum() + 1e-300)
    return named.shape == rows.shape and relative_error(factor * named, rows) <= 1e-2


def _shared_prefix(a: str, b: str) -> int:
    """How many leading components two paths share."""
    pairs = zip(a.split("."), b.split("."), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _ids_in(tokens: Tensor, ids: Tensor, stream: Stream) -> Tensor:
    """The part of an embedding's token ids that stands where the tokens are in a longer stream."""
    longer = stream.lengthens and tokens.dim() == 2 and tokens.shape[1] > ids.shape[1]
    start = stream.first_position if longer else 0
    return tokens[:, start : start + ids.shape[1]] if longer else tokens


def _refused(model: nn.Module, stack: Stack, but: str, token_input: str | None = None) -> Stream:
    problem = (
        f"the hidden state of {model_name(model)} must be one vector per token, [batch, seq, d] or "
        f"[seq, batch, d], {but}; {ADVICE}"
    )
    return Stream("other", stack.shape[-1], token_input, problem=problem)
