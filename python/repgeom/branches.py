"""What each block adds to the residual stream, found by value in a recorded forward.

A block adds its branches to the stream one after another, `h_out = h_in + attention + mlp`, or at once. The
tensor that is really added may be a norm's output, or a module's output times a constant, and need not be
what the module called attention returns: so it is searched among all outputs of modules inside the block,
and accepted only if the sum gives the next state of the stream within the rounding of its dtype. Which branch
mixes tokens is seen by changing one token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from repgeom.additions import Added, Stage, find_stages
from repgeom.anatomy import Block, ModelAnatomy, batch_first
from repgeom.probe import Call, Key, record

BRANCH_SITES = ("attn_out", "resid_mid", "mlp_out")

_NO_SUM = "its output is not its input plus outputs of its modules, times constants"


@dataclass(frozen=True)
class Term:
    """`coefficient * output`, the output being that of one call of a module, at a key path.

    `flat` says that the module sees the tokens as `[batch * seq, d]`.
    """

    path: str
    call: int
    key: Key
    coefficient: float
    flat: bool

    def __str__(self) -> str:
        call = f" (call {self.call + 1})" if self.call else ""
        return self.path + call + ("" if self.coefficient == 1.0 else f" * {self.coefficient:.6g}")


@dataclass(frozen=True)
class Branch:
    """What a block adds to the stream at once: the sum of these terms (mostly one)."""

    terms: tuple[Term, ...]

    def __str__(self) -> str:
        return " + ".join(map(str, self.terms))


@dataclass(frozen=True)
class Entry:
    """Where a state of the stream enters a module: its path, which of its calls, and the key path."""

    path: str
    call: int
    key: Key
    flat: bool

    def __str__(self) -> str:
        return f"input of {self.path}"


@dataclass(frozen=True)
class Branches:
    """The branches of one block.

    Attributes:
        block: Index of the block.
        attn: The branch that mixes tokens (attention, convolution, recurrence), added first if there are
            two; None if there is none.
        mlp: The branch added second, or the only one if it does not mix tokens; None if there is none.
        mid: The module input that is the stream between the two; None if they are not two in turn.
        parallel: Whether both are functions of the block's input and added at once.
        post_norm: Whether the stream is normalised after additions, as in BERT: then
            `resid_post = norm(norm(resid_mid) + mlp_out)` with `resid_mid = resid_pre + attn_out`.
        reason: Why the block has no known branches; None if it has.
    """

    block: int
    attn: Branch | None = None
    mlp: Branch | None = None
    mid: Entry | None = None
    parallel: bool = False
    post_norm: bool = False
    reason: str | None = None

    def part(self, kind: str) -> Branch | Entry | None:
        """What the site `attn_out`, `resid_mid` or `mlp_out` of this block is; None if it does not exist."""
        parts = {"attn_out": self.attn, "resid_mid": self.mid, "mlp_out": self.mlp}
        return parts[kind]

    def missing(self, kind: str) -> str | None:
        """Why a site does not exist in this block; None if it does."""
        if self.part(kind) is not None:
            return None
        if self.reason is not None:
            return self.reason
        if self.parallel:
            return "attention and MLP are added in parallel"
        if self.attn is None:
            return "the block adds one branch, which mixes no tokens (mlp_out)"
        return "the block adds one branch, which mixes tokens (attn_out)"


def find_branches(anatomy: ModelAnatomy) -> tuple[Branches, ...]:
    """What every block of a model adds to its residual stream, found by two forwards of the probe.

    Args:
        anatomy: The model's anatomy; the result is kept with it.

    Returns:
        One :class:`Branches` per block; those without known branches say why.
    """
    # As functools.cached_property does: an anatomy is frozen, and what is found lives as long as it does.
    held: tuple[Branches, ...] | None = vars(anatomy).get("_branches")
    if held is None:
        held = _find(anatomy)
        vars(anatomy)["_branches"] = held
    return held


def branches_summary(anatomy: ModelAnatomy) -> str:
    """A few lines: what the sites `attn_out`, `resid_mid` and `mlp_out` are in which blocks, or why not."""
    blocks: dict[tuple[str, str], list[int]] = {}
    for found in find_branches(anatomy):
        path = anatomy.blocks[found.block].path
        for kind in BRANCH_SITES:
            missing = found.missing(kind)
            text = str(found.part(kind)) if missing is None else f"none: {missing}"
            blocks.setdefault((kind, text.replace(f"{path}.", "")), []).append(found.block)
    # One line for the sites that are missing for the same reason in the same blocks.
    kinds: dict[tuple[str, str], list[str]] = {}
    for (kind, text), numbers in blocks.items():
        place = f"{text}   (blocks {_ranges(numbers)})", "" if text.startswith("none: ") else kind
        kinds.setdefault(place, []).append(kind)
    lines = sorted(kinds.items(), key=lambda item: BRANCH_SITES.index(item[1][0]))
    return "\n".join(f"  {', '.join(names):<12} {text}" for (text, _), names in lines)


def _ranges(numbers: list[int]) -> str:
    """0-3, 5, 7 and the like."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _find(anatomy: ModelAnatomy) -> tuple[Branches, ...]:
    if anatomy.stream_problem is not None:
        return tuple(Branches(block.index, reason=anatomy.stream_problem) for block in anatomy.blocks)
    calls, _ = record(anatomy.model, anatomy.probe)
    by_place = {(call.path, call.index): call for call in calls}
    own = [by_place[block.path, block.call] for block in anatomy.blocks]
    found = [
        _block_stages(anatomy, block, call, calls) for block, call in zip(anatomy.blocks, own, strict=True)
    ]
    mixes = _mixing(anatomy, own, found)
    return tuple(_branches(block, stages, mixes) for block, stages in zip(anatomy.blocks, found, strict=True))


def _block_stages(anatomy: ModelAnatomy, block: Block, call: Call, calls: list[Call]) -> list[Stage] | str:
    """The additions in a block, or why they are not known."""
    h_in, h_out = call.inputs[block.hidden_in], call.outputs[block.hidden_out]
    if batch_first(h_in, anatomy.layout).shape[1] < 2:
        return "the probe has one position only, which shows no mixing: give anatomy() a larger batch"
    inside = [other for other in calls if call.contains(other)]
    return find_stages(call, inside, h_in, h_out) or _NO_SUM


def _branches(block: Block, stages: list[Stage] | str, mixes: Callable[[Added], bool]) -> Branches:
    index = block.index
    if isinstance(stages, str):
        return Branches(index, reason=stages)
    if len(stages) == 1:
        return _at_once(index, stages[0], mixes)
    if len(stages) != 2:
        names = ", ".join(str(_branch(stage.terms)) for stage in stages)
        return Branches(
            index,
            reason=f"the block adds {len(stages)} branches one after another, not two: {names}",
        )
    first, second = stages
    if not all(mixes(term) for term in first.terms):
        return Branches(
            index, reason=f"what it adds first mixes no tokens of its stream: {_branch(first.terms)}"
        )
    return Branches(
        index,
        attn=_branch(first.terms),
        mlp=_branch(second.terms),
        mid=_entry(first),
        post_norm=first.normed or second.normed,
    )


def _at_once(index: int, stage: Stage, mixes: Callable[[Added], bool]) -> Branches:
    """A block of one addition: one branch, or attention and MLP in parallel."""
    for terms in (stage.terms, stage.split):
        if terms is not None and len(terms) == 2 and mixes(terms[0]) != mixes(terms[1]):
            mixer, other = sorted(terms, key=mixes, reverse=True)
            return Branches(
                index, _branch((mixer,)), _branch((other,)), parallel=True, post_norm=stage.normed
            )
    mixing = {mixes(term) for term in stage.terms}
    branch = _branch(stage.terms)
    if len(stage.terms) == 2 and True in mixing:
        return Branches(index, reason=f"which of {branch} is the attention cannot be told: both mix tokens")
    attn, mlp = (branch, None) if True in mixing else (None, branch)
    return Branches(index, attn, mlp, post_norm=stage.normed)


def _branch(terms: tuple[Added, ...]) -> Branch:
    return Branch(
        tuple(Term(term.call.path, term.call.index, term.key, term.coefficient, term.flat) for term in terms)
    )


def _entry(stage: Stage) -> Entry | None:
    if stage.entry is None:
        return None
    call, key = stage.entry
    return Entry(call.path, call.index, key, stage.flat)


def _mixing(
    anatomy: ModelAnatomy, own: list[Call], found: list[list[Stage] | str]
) -> Callable[[Added], bool]:
    """Whether what is added at one position depends on another.

    Seen in a forward in which every block gets the input it had in the probe, but for the first position.
    """
    terms: list[tuple[Added, torch.Size]] = []
    edited = {}
    for block, call, stages in zip(anatomy.blocks, own, found, strict=True):
        hidden = call.inputs[block.hidden_in]
        edited[block.path, block.call] = block.hidden_in, _first_changed(hidden, anatomy.layout)
        for stage in () if isinstance(stages, str) else stages:
            terms.extend((term, hidden.shape) for term in (*stage.terms, *(stage.split or ())))
    with _inputs_replaced(anatomy.model, edited):
        calls, _ = record(anatomy.model, anatomy.probe, {term.call.path for term, _ in terms})
    again = {(call.path, call.index): call for call in calls}
    mixing = set()
    for term, shape in terms:
        place = term.call.path, term.call.index, term.key
        before, after = (
            batch_first(call.outputs[term.key].reshape(shape), anatomy.layout)[:, 1:].cpu().double()
            for call in (term.call, again[place[:2]])
        )
        # A change of most numbers at some position; single ones may differ by rounding, as experts regroup.
        change = ((after - before).abs() / (after.abs() + before.abs() + 1e-300)).median(-1).values
        if not (float(change.max()) <= (1e-2 if term.call.outputs[term.key].itemsize < 4 else 1e-4)):
            mixing.add(place)
    return lambda term: (term.call.path, term.call.index, term.key) in mixing


def _first_changed(hidden: Tensor, layout: str) -> Tensor:
    """The same states with noise of their own size added to the first position."""
    changed = hidden.clone(memory_format=torch.contiguous_format)
    first = batch_first(changed, layout)[:, 0]
    noise = torch.randn(first.shape, generator=torch.Generator().manual_seed(0))
    first += (noise.to(hidden.device) * hidden.float().square().mean().sqrt()).to(hidden.dtype)
    return changed


@contextmanager
def _inputs_replaced(model: nn.Module, tensors: dict[tuple[str, int], tuple[Key, Tensor]]) -> Iterator[None]:
    """Inside, the calls named by path and index receive these tensors at these keys of their arguments."""
    counts = dict.fromkeys((path for path, _ in tensors), 0)

    def replace(path: str, _module: nn.Module, args: Any, kwargs: Any) -> Any:
        place = path, counts[path]
        counts[path] += 1
        if place not in tensors:
            return None
        key, tensor = tensors[place]
        changed = _replaced({"args": args, "kwargs": kwargs}, key, tensor)
        return changed["args"], changed["kwargs"]

    handles: list[RemovableHandle] = []
    try:
        for path in counts:
            hook = partial(replace, path)
            handles.append(model.get_submodule(path).register_forward_pre_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _replaced(value: Any, key: Key, tensor: Tensor) -> Any:
    """The same nest of containers with another tensor at a key path."""
    if not key:
        return tensor
    step, rest = key[0], key[1:]
    if isinstance(value, Mapping):
        return {**value, step: _replaced(value[step], rest, tensor)}
    if isinstance(value, (list, tuple)):
        items = list(value)
        items[int(step)] = _replaced(items[int(step)], rest, tensor)
        return items if isinstance(value, list) else tuple(items)
    return dataclasses.replace(value, **{str(step): _replaced(getattr(value, str(step)), rest, tensor)})
