"""The way from the last block to the logits, found in a recorded forward and verified numerically."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from repgeom.probe import (
    Call,
    Key,
    floating_tensors,
    one_line,
    output_embedding,
    pick,
    relative_error,
    same,
)

_SOFTCAP_NAMES = (
    "final_logit_softcapping",
    "logits_soft_cap",
    "output_logit_soft_cap",
    "logits_softcap",
    "logit_softcap",
)


@dataclass(frozen=True)
class Step:
    """A module on the way to the logits; its output is multiplied by `scale`."""

    path: str
    module: nn.Module
    dtype: torch.dtype
    scale: float = 1.0


@dataclass(frozen=True)
class Ends:
    """The last block and its hidden state h `[batch, seq, d]`; the unembedding and the model's logits.

    `cut` keeps the positions of tokens in any tensor that has all positions of the stream.
    """

    last: Call
    h: Tensor
    unembedding: Call
    logits: Tensor
    cut: Callable[[Tensor], Tensor] = lambda tensor: tensor


@dataclass(frozen=True)
class LogitMap:
    """What happens to the head's output before it is called logits."""

    description: str
    function: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Readout:
    """`logits = logit_map(head(steps(scale * h)))` for the output h `[batch, seq, d]` of the last block.

    `norm` is the path and call index of the final norm among the steps.
    """

    scale: float
    steps: tuple[Step, ...]
    head: Step
    head_key: Key
    logit_map: LogitMap
    norm: tuple[str, int] | None
    error: float = math.nan

    def __call__(self, h: Tensor) -> Tensor:
        """Logits `[batch, seq, vocabulary]` of hidden states `[batch, seq, d]`."""
        if self.scale != 1.0:
            h = h * self.scale
        for step in self.steps:
            _, h = next(floating_tensors(step.module(h.to(step.dtype))))
            if step.scale != 1.0:
                h = h * step.scale
        logits = pick(self.head.module(h.to(self.head.dtype)), self.head_key)
        return self.logit_map.function(logits)

    def __str__(self) -> str:
        def factor(value: float) -> str:
            return "" if value == 1.0 else f" * {value:.6g}"

        way = [
            "h" + factor(self.scale),
            *(step.path + factor(step.scale) for step in self.steps),
            self.head.path,
        ]
        if self.logit_map.description != "identity":
            way.append(self.logit_map.description)
        return " -> ".join(way)


def tolerance_of(model: nn.Module) -> float:
    """Relative error allowed between two ways to the same numbers: 1e-4, with half precision inside 2e-2."""
    half = any(p.is_floating_point() and p.element_size() < 4 for p in model.parameters())
    return 2e-2 if half else 1e-4


def find_logits(model: nn.Module, output: Any) -> Tensor | None:
    """The token logits `[batch, seq, vocabulary]` in a model's output, or None."""
    for name in ("logits", "prediction_logits", "prediction_scores"):
        found = pick(output, (name,))
        if isinstance(found, Tensor):
            # Two dimensions: classes of a sequence.
            return found if found.dim() > 2 else None
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    # A bare tensor counts as logits when its width is a vocabulary, not the width of a hidden state.
    widths = {module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)}
    if isinstance(output, Tensor) and output.dim() == 3 and output.shape[-1] in widths:
        return output
    return None


def find_head(model: nn.Module, calls: list[Call], logits: Tensor) -> Call | None:
    """The call of the unembedding: the module the model names, if called, else the last fitting Linear."""
    named = output_embedding(model)
    for call in reversed(calls):
        output = call.outputs.get(())
        if call.module is named and output is not None and output.shape[-1] == logits.shape[-1]:
            return call
    for call in reversed(calls):
        output = call.outputs.get(())
        if isinstance(call.module, nn.Linear) and output is not None and output.shape == logits.shape:
            return call
    return None


def find_readout(model: nn.Module, calls: list[Call], ends: Ends) -> Readout:
    """Reconstruct the logits from the last block's output.

    Args:
        model: The model, for its soft-cap settings.
        calls: Every call of the recorded forward.
        ends: Where the way starts and where it ends.

    Returns:
        A readout whose relative error on this forward is within tolerance.

    Raises:
        ValueError: With the reason, when no composition of modules reproduces the logits.
    """
    rows, shape = list(ends.h.shape[:2]), list(ends.logits.shape)
    if len(shape) != 3 or shape[:2] != rows:
        raise ValueError(
            f"logits must be one row per vector of the stream {list(ends.h.shape)}, not of shape {shape}"
        )
    problem = "the unembedding is not called after the last block"
    for head in _heads(ends.unembedding, ends.last):
        readout = _readout_through(head, model, calls, ends)
        if isinstance(readout, Readout):
            return readout
        problem = readout
    raise ValueError(problem)


def _heads(unembedding: Call, last: Call) -> Iterator[Call]:
    """Calls that enclose the unembedding and start after the last block, outermost first."""
    enclosing: list[Call] = []
    call: Call | None = unembedding
    while call is not None and call.start > last.end:
        enclosing.append(call)
        call = call.parent
    yield from reversed(enclosing)


def _readout_through(head: Call, model: nn.Module, calls: list[Call], ends: Ends) -> Readout | str:
    """The readout with this call as its head, or why there is none."""
    h, last, logits = ends.h, ends.last, ends.logits
    if len(head.inputs) != 1:
        return (
            f"the head {head.path} takes {len(head.inputs)} tensors, so it is no function of the hidden state"
        )
    tol = tolerance_of(model)
    between = [call for call in calls if call.follows(last) and call.end < head.start]
    way = _walk_back(ends, head, between, tol)
    if way is None:
        names = ", ".join(call.path for call in between) or "none"
        return (
            f"the input of {head.path} does not follow from the last block by the modules between ({names})"
        )
    scale, passed = way
    key = next((key for key, out in head.outputs.items() if out.shape == logits.shape), None)
    if key is None:
        return f"the head {head.path} has no output shaped like the logits {list(logits.shape)}"
    logit_map = _fit_map(head.outputs[key], logits, _softcaps(model), tol)
    if logit_map is None:
        return (
            f"the logits are not a known function (factor, soft-cap, constant) of the output of {head.path}"
        )
    readout = Readout(
        scale=scale,
        steps=tuple(Step(call.path, call.module, _dtype(call, h), factor) for call, factor in passed),
        head=Step(head.path, head.module, _dtype(head, h)),
        head_key=key,
        logit_map=logit_map,
        norm=_norm([call for call, _ in passed]),
    )
    return _verified(readout, h, logits, tol)


def _verified(readout: Readout, h: Tensor, logits: Tensor, tol: float) -> Readout | str:
    try:
        with torch.no_grad():
            error = readout_error(readout(h), logits)
    except Exception as problem:  # Modules run out of their place may fail in any way.
        return f"{readout} cannot be run by itself: {one_line(problem)}"
    if not (error <= tol):
        return f"{readout} differs from the logits by {error:.2e} relative, more than {tol:.0e}"
    return replace(readout, error=error)


def readout_error(found: Tensor, logits: Tensor) -> float:
    """Relative error of reconstructed logits; entries at the dtype's minimum (banned tokens) do not count."""
    if found.shape != logits.shape:
        return math.inf
    counted = _counted(logits)
    return relative_error(found.to(logits.device)[counted], logits[counted])


def is_norm(call: Call) -> bool:
    """Whether a call changed its input, kept its shape and used no matrix: what a normalisation does."""
    output, entered = next(iter(call.outputs.values()), None), call.first_input
    if output is None or entered is None or output.shape != entered.shape or same(output, entered):
        return False
    return all(parameter.dim() <= 1 for parameter in call.module.parameters())


def headless_norm(calls: list[Call], last: Call, h: Tensor) -> tuple[str, int] | None:
    """Without readout: path and call index of the norm that takes the last block's output."""
    for call in calls:
        entered = call.first_input
        if call.follows(last) and is_norm(call) and entered is not None and same(entered, h):
            return call.path, call.index
    return None


def _norm(passed: list[Call]) -> tuple[str, int] | None:
    """Path and call index of the norm before any matrix (dropout and identities may precede it)."""
    for call in passed:
        if is_norm(call):
            return call.path, call.index
        if any(parameter.dim() > 1 for parameter in call.module.parameters()):
            return None
    return None


def _walk_back(
    ends: Ends, head: Call, between: list[Call], tol: float
) -> tuple[float, list[tuple[Call, float]]] | None:
    """Follow the head's input back to h: (factor on h, [(call, factor on its output), ...]) or None."""
    target, passed = head.first_input, list[tuple[Call, float]]()
    while target is not None:
        target = ends.cut(target)
        factor = _factor(ends.h, target, tol)
        if factor is not None:
            return factor, passed
        for position in range(len(between) - 1, -1, -1):
            call = between[position]
            factors = (_factor(ends.cut(output), target, tol) for output in call.outputs.values())
            factor = next((value for value in factors if value is not None), None)
            if factor is not None:
                passed.insert(0, (call, factor))
                target, between = call.first_input, between[:position]
                break
        else:
            return None
    return None


def _factor(a: Tensor, b: Tensor, tol: float) -> float | None:
    """The number s with `s * a == b` within tolerance, or None; a cast is no scale."""
    if a.shape != b.shape:
        return None
    a = a.to(b.device)
    if torch.equal(a.to(b.dtype), b):
        return 1.0
    x, y = a.double().flatten(), b.double().flatten()
    s = float(x @ y / (x @ x + 1e-300))
    return s if s != 0.0 and relative_error(s * x, y) <= tol else None


def _fit_map(y: Tensor, logits: Tensor, caps: dict[str, float], tol: float) -> LogitMap | None:
    """The map from head output to logits: identity, factor, soft-cap, both, or a constant vector."""
    for candidate in _candidate_maps(y, logits, caps):
        if readout_error(candidate.function(y), logits) <= tol:
            return candidate
    return None


def _candidate_maps(y: Tensor, logits: Tensor, caps: dict[str, float]) -> Iterator[LogitMap]:
    yield LogitMap("identity", lambda z: z)
    counted = _counted(logits)
    a, b = y[counted].double(), logits[counted].double()
    factor = float(a @ b / (a @ a))
    yield LogitMap(f"* {factor:.6g}", lambda z: z * factor)
    for name, cap in caps.items():
        yield LogitMap(f"soft-cap {name}={cap:g}", lambda z, cap=cap: cap * torch.tanh(z / cap))  # type: ignore[misc]
        inner = torch.atanh((b / cap).clamp(-1 + 1e-9, 1 - 1e-9)) * cap
        scale = float(a @ inner / (a @ a))
        yield LogitMap(
            f"* {scale:.6g}, soft-cap {name}={cap:g}",
            lambda z, cap=cap, scale=scale: cap * torch.tanh(z * scale / cap),  # type: ignore[misc]
        )
    if logits[..., 0].numel() < 2:
        return
    offset = (logits.double() - y.double()).flatten(0, -2).mean(0).to(logits.dtype)
    yield LogitMap("+ constant vector", lambda z: z + offset.to(z.device))


def _counted(logits: Tensor) -> Tensor:
    # Written so that NaN counts.
    return ~(logits <= torch.finfo(logits.dtype).min / 2)


def _softcaps(model: nn.Module) -> dict[str, float]:
    config = getattr(model, "config", None)
    nested = [value for value in getattr(config, "__dict__", {}).values() if hasattr(value, "to_dict")]
    caps: dict[str, float] = {}
    for source in (config, *nested):
        for name in _SOFTCAP_NAMES:
            cap = _attribute(source, name)
            if isinstance(cap, (int, float)) and cap:
                caps.setdefault(name, float(cap))
    return caps


def _attribute(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:  # Attributes of heterogeneous configurations may raise RuntimeError when read.
        return None


def _dtype(call: Call, h: Tensor) -> torch.dtype:
    entered = call.first_input
    return h.dtype if entered is None else entered.dtype
