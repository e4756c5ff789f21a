"""Stacks of blocks in a recorded forward: calls linked by value, one's output being the next one's input."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from repgeom.probe import Call, Key, same


@dataclass(frozen=True)
class Passage:
    """The hidden state going through one block call; `container` is where the block is kept."""

    call: Call
    container: str
    key_in: Key
    key_out: Key
    h_in: Tensor
    h_out: Tensor


@dataclass(frozen=True)
class Stack:
    """Block calls in order, and the share of consecutive ones that are linked."""

    path: str
    passages: tuple[Passage, ...]
    linked: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the hidden state."""
        return tuple(self.passages[0].h_in.shape)


def find_stacks(model: nn.Module, calls: list[Call]) -> list[Stack]:
    """Stacks of blocks, none inside a block of another.

    Blocks are numbered members of a container (`nn.ModuleList`) with submodules of their own. Where there are
    none, modules with names ending in a digit or called repeatedly count, then numbered members without
    submodules; these must be linked without a gap and share one container.
    """
    repeated = {call.path for call in calls if call.index > 0}

    def numbered(call: Call) -> str | None:
        container, _, name = call.path.rpartition(".")
        return container if name.isdigit() and _has_children(call) else None

    def named(call: Call) -> str | None:
        stem = re.sub(r"\d+$", "", call.path)
        if not _has_children(call):
            return None
        return stem if stem != call.path else call.path if call.path in repeated else None

    def simple(call: Call) -> str | None:
        container, _, name = call.path.rpartition(".")
        in_list = name.isdigit() and isinstance(model.get_submodule(container), nn.ModuleList)
        return container if in_list and not _has_children(call) else None

    def alone(passage: Passage) -> bool:
        container = model.get_submodule(passage.container)
        return isinstance(container, nn.ModuleList) and len(container) == 1

    return (
        _stacks(list(_passages(calls, numbered)), strict=False, alone=alone)
        or _stacks(list(_passages(calls, named)), strict=True)
        or _stacks(list(_passages(calls, simple)), strict=True)
    )


def _has_children(call: Call) -> bool:
    return next(call.module.children(), None) is not None


def _passages(calls: list[Call], container_of: Callable[[Call], str | None]) -> Iterator[Passage]:
    """Calls in a container whose hidden state keeps its shape.

    The hidden state is the first floating tensor of 3 or more dimensions. Outside of such passages it may
    also have 2: the positions of all images in one row.
    """
    inside: set[Call] = set()
    for call in calls:
        if call.parent in inside:
            inside.add(call)
        container = container_of(call)
        if container is None:
            continue
        many = ((key, tensor) for key, tensor in call.inputs.items() if tensor.dim() >= 3)
        two = ((key, tensor) for key, tensor in call.inputs.items() if tensor.dim() == 2)
        for key_in, h_in in filter(None, (next(many, None), None if call in inside else next(two, None))):
            key_out = next((key for key, out in call.outputs.items() if out.shape == h_in.shape), None)
            if key_out is not None:
                if h_in.dim() >= 3:
                    inside.add(call)
                yield Passage(call, container, key_in, key_out, h_in, call.outputs[key_out])
                break


def _stacks(
    passages: list[Passage], *, strict: bool, alone: Callable[[Passage], bool] = lambda _: False
) -> list[Stack]:
    outermost = [p for p in passages if not any(other.call.contains(p.call) for other in passages)]
    calls = Counter(p.container for p in outermost)
    groups = _merged(_runs(passages), strict=strict)
    # A stack of one block has no link. It may also be a wrapper around blocks of one class.
    for p in outermost:
        single = Stack(p.container, (p,), 1.0)
        wraps = any(_inside(group, single) and _is_uniform(group) for group in groups)
        if calls[p.container] == 1 and alone(p) and not wraps:
            groups.append(single)
    stacks = [
        group for group in groups if not any(_inside(group, other) for other in groups if other is not group)
    ]
    if not stacks and not strict and len(outermost) == 1:
        stacks = [Stack(p.container, (p,), 1.0) for p in outermost]
    return sorted(stacks, key=lambda stack: stack.passages[0].call.start)


def _is_uniform(stack: Stack) -> bool:
    return len({type(passage.call.module) for passage in stack.passages}) == 1


def _runs(passages: list[Passage]) -> list[list[Passage]]:
    """Chains of passages; each continues with the first later call that takes its output as input."""
    following: dict[int, int] = {}
    taken: set[int] = set()
    branches: set[int] = set()
    for i, a in enumerate(passages):
        later = [
            j for j in range(i + 1, len(passages)) if passages[j].call.start > a.call.end and j not in taken
        ]
        link = next((j for j in later if same(a.h_out, passages[j].h_in)), None)
        if link is not None and passages[link].container != a.container:
            behind = _behind_branch(a, passages, link)
            if behind is not None:
                branches.add(link)
                link = behind
        if link is not None:
            following[i] = link
            taken.add(link)
    runs = []
    for i in range(len(passages)):
        if i in taken or i in branches:
            continue
        run, k = [passages[i]], i
        while k in following:
            k = following[k]
            run.append(passages[k])
        runs.append(run)
    return runs


def _behind_branch(a: Passage, passages: list[Passage], branch: int) -> int | None:
    """The passage that takes `a` plus what a branch made of it: blt adds cross-attention between blocks."""
    b = passages[branch]
    total = a.h_out + b.h_out.to(a.h_out)
    after = (j for j in range(branch + 1, len(passages)) if passages[j].call.start > b.call.end)
    return next((j for j in after if same(total, passages[j].h_in)), None)


def _merged(runs: list[list[Passage]], *, strict: bool) -> list[Stack]:
    """Runs over the same containers joined in order of their calls, if at least half of the links hold."""
    groups: dict[tuple[tuple[str, ...], torch.Size], list[list[Passage]]] = {}
    for run in runs:
        key = tuple(sorted({p.container for p in run})), run[0].h_in.shape
        groups.setdefault(key, []).append(run)
    stacks = []
    for (containers, _), group in groups.items():
        passages = sorted((p for run in group for p in run), key=lambda p: p.call.start)
        pairs = len(passages) - 1
        links = sum(len(run) - 1 for run in group)
        gapless = links == pairs and len(containers) == 1
        if pairs > 0 and links >= max(1, 0.5 * pairs) and (gapless or not strict):
            stacks.append(Stack("+".join(containers), tuple(passages), links / pairs))
    # A convolutional network may keep the blocks of all its widths in one container.
    paths = Counter(stack.path for stack in stacks)
    return [replace(s, path=s.passages[0].call.path + "...") if paths[s.path] > 1 else s for s in stacks]


def _inside(inner: Stack, outer: Stack) -> bool:
    return all(any(b.call.contains(a.call) for b in outer.passages) for a in inner.passages)
