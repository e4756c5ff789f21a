"""One forward of a model, observed: calls with their tensors, module by module."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Key: TypeAlias = tuple[str | int, ...]


def floating_tensors(value: Any, key: Key = ()) -> Iterator[tuple[Key, Tensor]]:
    """Yield (key path, tensor) of every floating tensor in a nest of mappings, sequences and dataclasses."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from floating_tensors(item, (*key, name))
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            yield from floating_tensors(item, (*key, position))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for entry in dataclasses.fields(value):
            yield from floating_tensors(getattr(value, entry.name), (*key, entry.name))


def pick(value: Any, key: Key) -> Any:
    """Follow a key path of :func:`floating_tensors`; None where the path does not exist."""
    for step in key:
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, (list, tuple)):
            value = value[step] if isinstance(step, int) and step < len(value) else None
        else:
            value = getattr(value, str(step), None)
    return value


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are bitwise equal, wherever they live; NaN equals NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(_bits(a), _bits(b).to(a.device))


def _bits(tensor: Tensor) -> Tensor:
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(integers[tensor.element_size()])


def relative_error(a: Tensor, b: Tensor) -> float:
    """``max|a - b| / max|b|`` in float64; infinite when the shapes differ, NaN for NaN and for no numbers."""
    if a.shape != b.shape:
        return float("inf")
    if a.numel() == 0:
        return float("nan")
    wanted = b.double()
    return float((a.to(b.device).double() - wanted).abs().max() / (wanted.abs().max() + 1e-300))


@dataclass(eq=False)
class Call:
    """One call of one module: when it started and ended, and clones of the floating tensors it met."""

    path: str
    module: nn.Module
    parent: Call | None
    start: int
    inputs: dict[Key, Tensor]
    tokens: Tensor | None
    index: int
    end: int = -1
    outputs: dict[Key, Tensor] = field(default_factory=dict)

    @property
    def first_input(self) -> Tensor | None:
        """First floating tensor among the arguments, then the keywords."""
        return next(iter(self.inputs.values()), None)

    def follows(self, other: Call) -> bool:
        """Whether this call came after the other, and not inside a module that was called after it."""
        return self.start > other.end and (self.parent is None or self.parent.start < other.start)

    def contains(self, other: Call) -> bool:
        """Whether `other` ran inside this call."""
        return self.start < other.start and other.end < self.end


class _Recorder:
    """Hooks that turn module calls into :class:`Call` records, in order of entry."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._open: list[Call] = []
        self._clock = itertools.count()
        self._seen: Counter[str] = Counter()

    def enter(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        nested = itertools.chain(floating_tensors(args, ("args",)), floating_tensors(kwargs, ("kwargs",)))
        integers = (value for value in (*args, *kwargs.values()) if _is_integer(value))
        self._open.append(
            Call(
                path=path,
                module=module,
                parent=self._open[-1] if self._open else None,
                start=next(self._clock),
                # Clones, because some blocks add to their input in place.
                inputs={key: tensor.detach().clone() for key, tensor in nested},
                tokens=next(integers, None),
                index=self._seen[path],
            )
        )
        self._seen[path] += 1
        self.calls.append(self._open[-1])

    def leave(self, module: nn.Module, output: Any) -> None:
        # Model code may catch an exception, and leave calls unfinished.
        while self._open[-1].module is not module:
            self._open.pop()
        call = self._open.pop()
        call.end = next(self._clock)
        call.outputs = {key: tensor.detach().clone() for key, tensor in floating_tensors(output)}


class _Arrived(BaseException):
    """Ends a forward that came as far as needed. Not an Exception, so that model code does not catch it."""


def record(
    model: nn.Module, arguments: tuple[Any, Any], paths: Collection[str] | None = None, *, seed: int = 0
) -> tuple[list[Call], Any]:
    """Run one forward and record the module calls in it.

    Args:
        model: Any module. It runs in eval mode without gradients; its training flags are restored.
        arguments: Positional and keyword arguments of the forward.
        paths: Modules to record; all submodules by default.
        seed: Of random numbers that the forward may draw; the global generators are restored.

    Returns:
        Finished calls in order of entry, and the output of the forward.
    """
    recorder, handles = _Recorder(), []

    def leave(module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
        recorder.leave(module, output)

    try:
        for path, module in model.named_modules():
            if path and (paths is None or path in paths):
                enter = partial(recorder.enter, path)
                handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
                handles.append(module.register_forward_hook(leave, with_kwargs=True))
        with probing(), evaluating(model), seeded(model, seed), eagerly(), torch.no_grad():
            output = model(*arguments[0], **arguments[1])
    finally:
        for handle in handles:
            handle.remove()
    return [call for call in recorder.calls if call.end >= 0], output


def entering(model: nn.Module, arguments: tuple[Any, Any], call: Call, key: Key) -> Tensor | None:
    """The tensor that enters a module at the same call in another forward, which ends there.

    Args:
        model: The model; run as by :func:`record`, with the same random numbers.
        arguments: Positional and keyword arguments of the forward.
        call: Which call of which module.
        key: Which of its inputs.

    Returns:
        A clone, or None if the call did not happen or had no such input.
    """
    seen: list[Tensor] = []
    remaining = itertools.count(-call.index)

    def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:
        if next(remaining) == 0:
            found = pick({"args": args, "kwargs": kwargs}, key)
            seen.extend([found.detach().clone()] if isinstance(found, Tensor) else [])
            raise _Arrived

    handle = call.module.register_forward_pre_hook(enter, with_kwargs=True)
    try:
        with probing(), evaluating(model), seeded(model, 0), eagerly(), torch.no_grad():
            model(*arguments[0], **arguments[1])
    except _Arrived:
        pass
    finally:
        handle.remove()
    return seen[0] if seen else None


def _is_integer(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.int64, torch.int32)


_LEVEL: ContextVar[int] = ContextVar("probing", default=0)


def probing_level() -> int:
    """How many :func:`probing` blocks this is inside of."""
    return _LEVEL.get()


@contextmanager
def probing() -> Iterator[None]:
    """Forwards inside the block are repgeom's own: captures that were begun outside of it do not see them."""
    token = _LEVEL.set(_LEVEL.get() + 1)
    try:
        yield
    finally:
        _LEVEL.reset(token)


@contextmanager
def eagerly() -> Iterator[None]:
    """Compiled modules run as they are written inside the block, so that hooks in them fire."""
    # Nothing is compiled before this module is imported, which takes a second.
    compiled = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        yield


@contextmanager
def seeded(model: nn.Module, seed: int) -> Iterator[None]:
    """Fixed random numbers inside the block; the generators as they were afterwards."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; every module's own training flag afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def parameters(model: nn.Module) -> dict[str, inspect.Parameter]:
    """The parameters of the model's forward by name."""
    return dict(inspect.signature(model.forward).parameters)


def accepts(model: nn.Module, keyword: str) -> bool:
    """Whether the signature of the model's forward names this keyword."""
    return keyword in parameters(model)


def config_values(model: nn.Module) -> dict[str, Any]:
    """The model's configuration as one flat dict (nested configurations last); empty if it has none."""
    config = getattr(model, "config", None)
    # to_dict and not getattr: attributes of heterogeneous configurations may raise RuntimeError when read.
    to_dict = getattr(config, "to_dict", None)
    values = to_dict() if callable(to_dict) else config
    if not isinstance(values, dict):
        return {}
    nested = [
        value
        for name, value in values.items()
        if isinstance(value, dict) and name.endswith(("config", "coder"))
    ]
    flat: dict[str, Any] = {}
    for source in [*reversed(nested), values]:
        flat.update({name: value for name, value in source.items() if value is not None})
    return flat


def input_embedding(model: nn.Module) -> nn.Module | None:
    """The token embedding: what `get_input_embeddings` names, else the first `nn.Embedding`."""
    found = _named(model, "get_input_embeddings")
    if found is not None:
        return found
    return next((module for module in model.modules() if isinstance(module, nn.Embedding)), None)


def output_embedding(model: nn.Module) -> nn.Module | None:
    """What `get_output_embeddings` names."""
    return _named(model, "get_output_embeddings")


def _named(model: nn.Module, getter: str) -> nn.Module | None:
    try:
        found = getattr(model, getter, lambda: None)()
    except Exception:  # Models without one say so in many ways.
        return None
    return found if isinstance(found, nn.Module) else None


def one_line(error: BaseException) -> str:
    """Kind and message of an exception in one line of bounded length."""
    message = " ".join(str(error).split())
    message = message if len(message) <= 200 else message[:197] + "..."
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def input_device(model: nn.Module) -> torch.device:
    """The device that token ids must be on."""
    embedding = input_embedding(model)
    for owner in (embedding, model):
        for parameter in owner.parameters() if owner is not None else ():
            if parameter.device.type != "meta":
                return parameter.device
    return torch.device("cpu")
