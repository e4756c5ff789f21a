"""Names of places in a model, resolved to the tensors that module calls receive and return."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from repgeom.anatomy import Block, ModelAnatomy
from repgeom.anatomy import anatomy as find_anatomy
from repgeom.branches import BRANCH_SITES, Entry, find_branches
from repgeom.probe import Key, floating_tensors, pick

SITES = (
    "embed, resid_pre.<i>, attn_out.<i>, resid_mid.<i>, mlp_out.<i>, resid_post.<i>, final_norm, "
    "<module path>:input, <module path>:output"
)


@dataclass(frozen=True)
class Tap:
    """A tensor of a module call, as a summand of a site.

    Attributes:
        path: Path of the module.
        side: "input" or "output".
        call: Which of its calls in a forward; None for a module given by its path, which must have one.
        key: Key path of the tensor; None for the first floating tensor.
        coefficient: Factor of the summand. 0 stands for the shape alone: the stream's, as `[batch, seq, d]`.
        calls: How often the module is called in a forward, where that is known.
    """

    path: str
    side: str
    call: int | None = None
    key: Key | None = None
    coefficient: float = 1.0
    calls: int | None = None


@dataclass(frozen=True)
class Site:
    """A named activation: the sum of its taps, in the order in which they fire.

    Attributes:
        name: What it is asked for by.
        taps: Its summands.
        layout: How the hidden states lie in memory; None for a tensor that is taken as it is.
        width: Numbers per position, where known.
    """

    name: str
    taps: tuple[Tap, ...]
    layout: str | None = None
    width: int | None = None

    def read(self, tap: Tap, value: Any) -> Tensor:
        """The tensor of a tap in a module's arguments, `{"args": ..., "kwargs": ...}`, or in its output."""
        tensor = None if tap.key is None else pick(value, tap.key)
        if isinstance(tensor, Tensor):
            return tensor
        # Options such as output_attentions wrap a block's output in a tuple that the probe did not see.
        for _, found in floating_tensors(value):
            if self.width in (None, found.shape[-1]):
                return found
        raise RuntimeError(f"{self.name}: no floating tensor in the {tap.side} of {tap.path}")


class Sum:
    """A sum of tensors that come one by one; a coefficient of 0 gives the shape of the result."""

    def __init__(self, terms: int) -> None:
        self.waiting = terms
        self._shape: torch.Size | None = None
        self._total: Tensor | None = None

    def add(self, tensor: Tensor, coefficient: float) -> None:
        """One more term, in the order of their calls."""
        self.waiting -= 1
        if self._shape is None:
            self._shape = tensor.shape
        if coefficient == 0.0:
            return
        term = tensor if coefficient == 1.0 else tensor * coefficient
        if self._total is not None:
            self._total = self._total + term.reshape(self._shape).to(self._total.device)
        else:
            # A copy, because the model may go on to add to this tensor in place.
            self._total = (term.clone() if self.waiting and term is tensor else term).reshape(self._shape)

    def result(self) -> Tensor:
        """The sum of all terms."""
        assert self._total is not None
        return self._total


def resolve(
    model: nn.Module, names: list[str], anatomy: ModelAnatomy | None
) -> tuple[tuple[Site, ...], ModelAnatomy | None]:
    """The sites of these names, and the anatomy where one is needed.

    Args:
        model: The model that will run.
        names: As :func:`repgeom.capture` takes them.
        anatomy: The model's anatomy; found if None and needed.

    Raises:
        ValueError: For an unknown, repeated or out-of-range name, or a site that the model does not have.
    """
    if not names:
        raise ValueError(f"sites must name at least one of: {SITES}; received none")
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise ValueError(f"sites must be distinct; received {', '.join(repeated)} more than once")
    resolved = []
    for name in names:
        if ":" in name:
            resolved.append(_module_site(model, name))
            continue
        parsed = re.fullmatch(
            r"(embed|final_norm)|(resid_pre|resid_post|attn_out|resid_mid|mlp_out)\.(\d+)", name
        )
        if parsed is None:
            raise ValueError(f"a site must be one of: {SITES}; received {name!r}")
        anatomy = anatomy or find_anatomy(model)
        if anatomy.stream_problem is not None:
            raise ValueError(f"site {name!r}: {anatomy.stream_problem}")
        whole, kind, number = parsed.groups()
        resolved.append(_end_site(anatomy, name) if whole else _block_site(anatomy, kind, int(number)))
    return tuple(resolved), anatomy


def _end_site(anatomy: ModelAnatomy, name: str) -> Site:
    if name == "embed":
        if anatomy.embedding is None:
            raise ValueError(
                f"site 'embed': {anatomy.model_class} has no token embedding that was seen to run"
            )
        tap = Tap(anatomy.embedding, "output", anatomy.embedding_call, ())
        return Site(name, (tap,), anatomy.embedding_layout)
    if anatomy.final_norm is None:
        raise ValueError(
            f"site 'final_norm': {anatomy.model_class} has no norm between its last block and head"
        )
    return Site(name, (Tap(anatomy.final_norm, "output", anatomy.final_norm_call, ()),), anatomy.layout)


def _block_site(anatomy: ModelAnatomy, kind: str, index: int) -> Site:
    name = f"{kind}.{index}"
    if index >= anatomy.num_blocks:
        raise ValueError(
            f"site {name!r}: the block index must be in 0..{anatomy.num_blocks - 1}, not {index}"
        )
    block = anatomy.blocks[index]
    calls = sum(other.path == block.path for other in anatomy.blocks)
    entry = Tap(block.path, "input", block.call, block.hidden_in, calls=calls)
    if kind in BRANCH_SITES:
        taps = _branch_taps(anatomy, kind, block, entry)
    elif kind == "resid_pre":
        taps = (entry,)
    else:
        taps = (Tap(block.path, "output", block.call, block.hidden_out, calls=calls),)
    return Site(name, taps, anatomy.layout, anatomy.d_model)


def _branch_taps(anatomy: ModelAnatomy, kind: str, block: Block, entry: Tap) -> tuple[Tap, ...]:
    found = find_branches(anatomy)[block.index]
    missing = found.missing(kind)
    if missing is not None:
        raise ValueError(
            f"site '{kind}.{block.index}' does not exist in block {block.path} of {anatomy.model_class}: "
            f"{missing}"
        )
    part = found.part(kind)
    shape = replace(entry, coefficient=0.0)
    if isinstance(part, Entry):
        tap = Tap(part.path, "input", part.call, part.key)
        return (shape, tap) if part.flat else (tap,)
    terms = () if part is None else part.terms
    taps = tuple(Tap(term.path, "output", term.call, term.key, term.coefficient) for term in terms)
    return (shape, *taps) if any(term.flat for term in terms) else taps


def _module_site(model: nn.Module, name: str) -> Site:
    path, _, side = name.rpartition(":")
    if side not in ("input", "output"):
        raise ValueError(f"site {name!r} must end in :input or :output")
    modules = dict(model.named_modules(remove_duplicate=False))
    if not path or path not in modules:
        raise ValueError(
            f"site {name!r}: {type(model).__name__} has no module {path!r}{_nearest(path, modules)}"
        )
    return Site(name, (Tap(path, side),))


def _nearest(path: str, known: Iterable[str]) -> str:
    names = difflib.get_close_matches(path, [name for name in known if name], n=5, cutoff=0.5)
    return f"; nearest: {', '.join(names)}" if names else ""
