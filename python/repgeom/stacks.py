"""Stacks of blocks in a recorded forward: calls linked by value, one's output being the next one's input."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

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

    return (
        _stacks(list(_passages(calls, numbered)), strict=False)
        or _stacks(list(_passages(calls, named)), strict=True)
        or _stacks(list(_passages(calls, simple)), strict=True)
    )


def _has_children(call: Call) -> bool:
    return next(call.module.children(), None) is not None


def _passages(calls: list[Call], container_of: Callable[[Call], str | None]) -> Iterator[Passage]:
    """Calls in a container whose first floating tensor of 3 or more dimensions keeps its shape."""
    for call in calls:
        container = container_of(call)
        entered = next(((key, tensor) for key, tensor in call.inputs.items() if tensor.dim() >= 3), None)
        if container is None or entered is None:
            continue
        key_in, h_in = entered
        for key_out, h_out in call.outputs.items():
            if h_out.shape == h_in.shape:
                yield Passage(call, container, key_in, key_out, h_in, h_out)
                break


def _stacks(passages: list[Passage], *, strict: bool) -> list[Stack]:
    groups = _merged(_runs(passages), strict=strict)
    stacks = [
        group for group in groups if not any(_inside(group, other) for other in groups if other is not group)
    ]
    if stacks or strict:
        return stacks
    # A model of one block has no link.
    outermost = [p for p in passages if not any(other.call.contains(p.call) for other in passages)]
    return [Stack(p.container, (p,), 1.0) for p in outermost] if len(outermost) == 1 else []


def _runs(passages: list[Passage]) -> list[list[Passage]]:
    """Chains of passages; each continues with the first later call that takes its output as input."""
    following: dict[int, int] = {}
    taken: set[int] = set()
    for i, a in enumerate(passages):
        for j in range(i + 1, len(passages)):
            b = passages[j]
            if b.call.start > a.call.end and j not in taken and same(a.h_out, b.h_in):
                following[i] = j
                taken.add(j)
                break
    runs = []
    for i in range(len(passages)):
        if i in taken:
            continue
        run, k = [passages[i]], i
        while k in following:
            k = following[k]
            run.append(passages[k])
        runs.append(run)
    return runs


def _merged(runs: list[list[Passage]], *, strict: bool) -> list[Stack]:
    """Runs over the same containers joined in order of their calls, if at least half of the links hold."""
    by_containers: dict[tuple[str, ...], list[list[Passage]]] = {}
    for run in runs:
        by_containers.setdefault(tuple(sorted({p.container for p in run})), []).append(run)
    stacks = []
    for containers, group in by_containers.items():
        passages = sorted((p for run in group for p in run), key=lambda p: p.call.start)
        pairs = len(passages) - 1
        links = sum(len(run) - 1 for run in group)
        gapless = links == pairs and len(containers) == 1
        if pairs > 0 and links >= max(1, 0.5 * pairs) and (gapless or not strict):
            stacks.append(Stack("+".join(containers), tuple(passages), links / pairs))
    return stacks


def _inside(inner: Stack, outer: Stack) -> bool:
    return all(any(b.call.contains(a.call) for b in outer.passages) for a in inner.passages)
