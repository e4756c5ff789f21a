"""The routers of mixture-of-experts models, found by structure.

A router is a module inside a block, beside the experts, that returns for every token the experts it chose, or
at least one score per expert. Names of modules play no part, and of the configuration only those fields that
are listed here.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from repgeom.anatomy import Block, ModelAnatomy
from repgeom.arguments import Arguments, batch_candidates
from repgeom.checks import refusal
from repgeom.probe import Key, config_values, evaluating, pick, probing, same

EXPERTS: Final = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "num_routed_experts",
    "moe_num_experts",
)
EXPERTS_PER_TOKEN: Final = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_top_k",
    "moe_topk",
    "moe_k",
    "top_k_experts",
)


@dataclass(frozen=True)
class Router:
    """One call of one router in one forward.

    Attributes:
        block: Index of the block it runs in.
        name: Its path inside the block.
        path: Its path in the model.
        call: Which call of this module in one forward it is.
        num_experts: What it chooses among, "zero" and "skip" experts included.
        top_k: Experts per token.
        choice: "indices" if the module says which experts it chose, else "top_k of logits".
        key: Where the indices or logits are in its output.
        weights: Where the weights of the chosen experts are, for a router with one choice more than experts:
            a choice of weight 0 is that to skip them, and counts as the last one. None for all others.
    """

    block: int
    name: str
    path: str
    call: int
    num_experts: int
    top_k: int
    choice: Literal["indices", "top_k of logits"]
    key: Key
    weights: Key | None = None

    def chosen(self, output: Any) -> Tensor:
        """The chosen experts `[tokens, top_k]`, from the output of the module; nothing waits for its device.

        Raises:
            RuntimeError: If the output is built otherwise than in the probe.
        """
        values = pick(output, self.key)
        wanted = self.top_k if self.choice == "indices" else self.num_experts
        if not isinstance(values, Tensor) or values.shape[-1:] != (wanted,):
            found = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise RuntimeError(f"{self.path} must return {self.choice}, {wanted} per token, got {found}")
        values = values.detach().reshape(-1, wanted)
        if self.choice != "indices":
            return values.topk(self.top_k, dim=-1).indices
        if self.weights is None:
            return values
        skipped = pick(output, self.weights).detach().reshape(-1, wanted) == 0
        return values.masked_fill(skipped, self.num_experts - 1)


def find_routers(model: nn.Module, anatomy: ModelAnatomy, batch: Any = None) -> tuple[Router, ...]:
    """The routers inside the blocks of a model, in the order they run.

    Args:
        model: The model; probed in eval mode, without gradients.
        anatomy: Its anatomy.
        batch: Arguments of the forward; those that the anatomy was found with by default.

    Returns:
        The routers; none for a model without experts, or where no module returns what was chosen.

    Raises:
        ValueError: If the probe forward fails, or if routers take the tokens in another order than
            [batch, seq].
    """
    # A compiled model hides the signature of its forward.
    model = getattr(model, "_orig_mod", model)
    settings = config_values(model)
    configured = {settings[name] for name in EXPERTS if isinstance(settings.get(name), int)} - {0}
    beside: dict[str, set[int]] = {}
    for block in anatomy.blocks:
        beside |= _beside_experts(model, block.path, configured)
    if not configured and not any(beside.values()):
        return ()
    top_k = next((settings[name] for name in EXPERTS_PER_TOKEN if isinstance(settings.get(name), int)), None)
    candidates = [anatomy.probe] if batch is None else batch_candidates(model, batch)
    calls, logits = _probed(model, candidates, anatomy.blocks, list(beside))
    routers: list[Router | None] = []
    for call in calls:
        own = getattr(model.get_submodule(call.path), "top_k", None)
        call.top_k = own if isinstance(own, int) else top_k
        experts = beside[call.path]
        routers.append(_by_indices(call, experts, configured) or _by_scores(call, experts, []))
    seen = {router.block for router in routers if router is not None}
    found = [
        _by_scores(call, set(), logits) if router is None and call.block not in seen else router
        for call, router in zip(calls, routers, strict=True)
    ]
    named = [router for router in found if router is not None]
    if named and anatomy.layout == "SBH":
        raise refusal(
            "routers must take the tokens in the order [batch, seq]", f"[seq, batch] in {named[0].path}"
        )
    return tuple(router for router in named if not any(_told_better(router, other) for other in named))


def routers_summary(routers: Sequence[Router]) -> str:
    """A few lines for people: which routers there are, and what they choose from."""
    kinds: dict[str, list[int]] = {}
    for router in routers:
        said = "" if router.choice == "indices" else ", by the largest logits"
        kind = f"{router.name}: {router.top_k} of {router.num_experts} experts{said}"
        kinds.setdefault(kind, []).append(router.block)
    lines = [f"  routers      {kind} in blocks {', '.join(map(str, at))}" for kind, at in kinds.items()]
    return "\n".join(lines) or "  routers      none"


def _beside_experts(model: nn.Module, block: str, configured: set[int]) -> dict[str, set[int]]:
    """By module of a block, how many experts its parent and siblings hold.

    Experts are matrices stacked in one parameter `[E, ., .]`, or a list of E modules.
    """
    found = {}
    for path, parent in model.get_submodule(block).named_modules(prefix=block):
        sizes = {name: _expert_counts(child) for name, child in parent.named_children()}
        for name in sizes:
            counts = _expert_counts(parent).union(*(size for other, size in sizes.items() if other != name))
            found[f"{path}.{name}"] = counts & configured if configured else counts
    return found


def _expert_counts(module: nn.Module) -> set[int]:
    own = module.parameters(recurse=False)
    stacked = {len(values) for values in own if values.dim() == 3 and min(values.shape) > 1}
    return stacked | {len(module)} if isinstance(module, nn.ModuleList) else stacked


@dataclass
class _Heard:
    """A module call inside a block, and the tensors `[tokens, .]` that it returned."""

    block: int
    name: str
    path: str
    call: int
    outputs: dict[Key, Tensor]
    top_k: int | None = None


def _by_indices(call: _Heard, experts: set[int], configured: set[int]) -> Router | None:
    """A router that returns indices, with scores of the experts or at least weights of the chosen ones."""
    widths = {key: values.shape[-1] for key, values in call.outputs.items() if values.is_floating_point()}
    for key, indices in call.outputs.items():
        k = indices.shape[-1]
        if indices.dtype not in (torch.int32, torch.int64):
            continue
        weights = next((other for other, width in widths.items() if width == k), None)
        # There may be more scores than experts: some choices have no parameters.
        least = min(experts | configured, default=k + 1)
        scored = [width for width in widths.values() if width > k and width >= least]
        known = [width for width in scored if experts or width in configured]
        count = known[0] if known else next(iter(experts), None) if weights is not None else None
        if count is None or not bool(((indices >= 0) & (indices < count)).all()):
            continue
        skips = count - 1 in experts and count not in experts
        place = (call.block, call.name, call.path, call.call)
        return Router(*place, count, k, "indices", key, weights if skips else None)
    return None


def _by_scores(call: _Heard, experts: set[int], logits: list[Tensor]) -> Router | None:
    """A router that returns one score per expert beside it, or what the model calls its router logits.

    How many of the scores count, the module or the configuration must tell.
    """
    for key, values in reversed(call.outputs.items()):
        count = values.shape[-1]
        if call.top_k is None or not values.is_floating_point():
            continue
        if count in experts or any(same(values.reshape(-1, count), other) for other in logits):
            place = (call.block, call.name, call.path, call.call)
            return Router(*place, count, min(call.top_k, count), "top_k of logits", key)
    return None


def _told_better(router: Router, other: Router) -> bool:
    """Whether another module, around this one or inside it, tells the same choice better.

    That is by indices rather than by scores, and else the outer one.
    """
    nested = other.path.startswith(f"{router.path}."), router.path.startswith(f"{other.path}.")
    if router.block != other.block or not any(nested):
        return False
    return nested[1] if router.choice == other.choice else other.choice == "indices"


def _probed(
    model: nn.Module, candidates: Sequence[Arguments], blocks: Sequence[Block], paths: Sequence[str]
) -> tuple[list[_Heard], list[Tensor]]:
    """What modules return in one forward, and the router logits if the model gives any."""
    problem: Exception | None = None
    options: list[dict[str, Any]] = [{"output_router_logits": True}, {}]
    for (args, kwargs), more in itertools.product(candidates, options):
        listener = _Listener(blocks)
        try:
            with probing(), listener.listening(model, paths), evaluating(model), torch.no_grad():
                output = model(*args, **{**kwargs, **more})
        except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:
            problem = error
            continue
        logits = getattr(output, "router_logits", None)
        return listener.heard, [values for _, values in _tensors(logits) if values.dim() == 2]
    raise ValueError(
        f"the probe forward of {type(model).__name__} failed with {type(problem).__name__}: {problem}; "
        "pass a batch that it accepts"
    ) from problem


class _Listener:
    """Hooks that keep what modules inside blocks return."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.heard: list[_Heard] = []
        self._blocks = {(block.path, block.call): block for block in blocks}
        self._calls: dict[str, Iterator[int]] = defaultdict(itertools.count)
        self._inside: Block | None = None
        self._tokens = (0, 0)

    @contextmanager
    def listening(self, model: nn.Module, paths: Sequence[str]) -> Iterator[None]:
        handles = []
        try:
            for path in dict.fromkeys(path for path, _ in self._blocks):
                block = model.get_submodule(path)
                handles.append(block.register_forward_pre_hook(partial(self._enter, path), with_kwargs=True))
                handles.append(block.register_forward_hook(self._leave))
            for path in paths:
                handles.append(model.get_submodule(path).register_forward_hook(partial(self._hear, path)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, path: str, _module: nn.Module, args: Any, kwargs: Any) -> None:
        self._inside = self._blocks.get((path, next(self._calls[path])))
        if self._inside is not None:
            hidden = pick({"args": args, "kwargs": kwargs}, self._inside.hidden_in)
            self._tokens = hidden.shape[0], hidden.shape[1]

    def _leave(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._inside = None

    def _hear(self, path: str, _module: nn.Module, _args: Any, output: Any) -> None:
        call = next(self._calls[path])
        if self._inside is None:
            return
        shapes = ((self._tokens[0] * self._tokens[1],), self._tokens)
        # Clones, because model code may go on to change its tensors in place.
        outputs = {key: value.clone() for key, value in _tensors(output) if value.shape[:-1] in shapes}
        name = path[len(self._inside.path) + 1 :]
        self.heard.append(_Heard(self._inside.index, name, path, call, outputs))


def _tensors(value: Any, key: Key = ()) -> Iterator[tuple[Key, Tensor]]:
    """All tensors of an output, integers too."""
    if isinstance(value, Tensor):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _tensors(item, (*key, name))
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            yield from _tensors(item, (*key, position))
