"""One forward of a model, observed: probe batches, calls with their tensors, module by module."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Key: TypeAlias = tuple[str | int, ...]
Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]

PROBE_ROWS, PROBE_LENGTH, PROBE_DECODER_LENGTH = 2, 7, 5


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
    """Whether two tensors are bitwise equal, wherever they live."""
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b.to(a.device))


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

    def enter(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        nested = itertools.chain(floating_tensors(args, ("args",)), floating_tensors(kwargs, ("kwargs",)))
        first = args[0] if args else None
        self._open.append(
            Call(
                path=path,
                module=module,
                parent=self._open[-1] if self._open else None,
                start=next(self._clock),
                # Clones, because some blocks add to their input in place.
                inputs={key: tensor.detach().clone() for key, tensor in nested},
                tokens=first if isinstance(first, Tensor) and not first.is_floating_point() else None,
                index=sum(call.path == path for call in self.calls),
            )
        )
        self.calls.append(self._open[-1])

    def leave(self, module: nn.Module, output: Any) -> None:
        while self._open[-1].module is not module:
            self._open.pop()
        call = self._open.pop()
        call.end = next(self._clock)
        call.outputs = {key: tensor.detach().clone() for key, tensor in floating_tensors(output)}


def record(
    model: nn.Module, arguments: Arguments, paths: Collection[str] | None = None
) -> tuple[list[Call], Any]:
    """Run one forward and record the module calls in it.

    Args:
        model: Any module. It runs in eval mode without gradients; its training flags are restored.
        arguments: Positional and keyword arguments of the forward.
        paths: Modules to record; all submodules by default.

    Returns:
        Finished calls in order of entry, and the output of the forward.
    """
    recorder, handles = _Recorder(), []
    for path, module in model.named_modules():
        if path and (paths is None or path in paths):

            def enter(module: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
                recorder.enter(path, module, args, kwargs)

            def leave(module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
                recorder.leave(module, output)

            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave, with_kwargs=True))
    try:
        with evaluating(model), torch.no_grad():
            output = model(*arguments[0], **arguments[1])
    finally:
        for handle in handles:
            handle.remove()
    return [call for call in recorder.calls if call.end >= 0], output


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


def accepts(model: nn.Module, keyword: str) -> bool:
    """Whether the signature of the model's forward names this keyword."""
    return keyword in inspect.signature(model.forward).parameters


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
    getter = getattr(model, "get_input_embeddings", None)
    try:
        found = getter() if callable(getter) else None
    except NotImplementedError:
        found = None
    if isinstance(found, nn.Module):
        return found
    return next((module for module in model.modules() if isinstance(module, nn.Embedding)), None)


def input_device(model: nn.Module) -> torch.device:
    """The device that token ids must be on."""
    embedding = input_embedding(model)
    for owner in (embedding, model):
        for parameter in owner.parameters() if owner is not None else ():
            if parameter.device.type != "meta":
                return parameter.device
    return torch.device("cpu")


def probe_arguments(model: nn.Module) -> Arguments:
    """Arguments of a forward over 2 x 7 fixed tokens (batch and length differ, to tell layouts apart)."""
    embedding = input_embedding(model)
    size = getattr(embedding, "num_embeddings", None) or config_values(model).get("vocab_size")
    if size is None:
        raise ValueError(
            f"the vocabulary of {type(model).__name__} must be known to probe it, but it has no nn.Embedding "
            "and no config.vocab_size; pass a batch"
        )
    device = input_device(model)
    ids = _probe_ids(model, size, PROBE_LENGTH).to(device)
    keywords: dict[str, Any] = {}
    if accepts(model, "attention_mask"):
        keywords["attention_mask"] = torch.ones_like(ids)
    if accepts(model, "use_cache"):
        keywords["use_cache"] = False
    if config_values(model).get("is_encoder_decoder") and accepts(model, "decoder_input_ids"):
        keywords["decoder_input_ids"] = _probe_ids(model, size, PROBE_DECODER_LENGTH).to(device)
    if accepts(model, "input_ids"):
        return (), {"input_ids": ids, **keywords}
    return (ids,), keywords


def _probe_ids(model: nn.Module, size: int, length: int) -> Tensor:
    """Distinct, valid, non-special token ids `[2, length]` (an image token would call for an image)."""
    special: set[int] = set()
    for name, value in config_values(model).items():
        if name.endswith(("token_id", "token_index", "token_ids")):
            special.update(
                item for item in (value if isinstance(value, list) else [value]) if type(item) is int
            )
    ordinary = [token for token in range(min(size, 1000)) if token not in special] or [0]
    picks = [ordinary[(11 + 37 * step) % len(ordinary)] for step in range(PROBE_ROWS * length)]
    return torch.tensor(picks).reshape(PROBE_ROWS, length)


def batch_arguments(model: nn.Module, batch: Any, *, crop: bool = False) -> Arguments:
    """A user's batch as arguments of the forward, on the model's device.

    Args:
        model: The model that will be called.
        batch: A mapping (keywords), a tensor (token ids `[batch, seq]`) or a sequence (positional arguments).
        crop: Keep at most 2 rows and 7 tokens of every tensor shaped like the token ids.

    Returns:
        Positional and keyword arguments.
    """
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(batch, Mapping):
        kwargs = dict(batch)
        if accepts(model, "use_cache"):
            kwargs.setdefault("use_cache", False)
    elif isinstance(batch, Tensor):
        args = (batch,)
    elif isinstance(batch, (list, tuple)):
        args = tuple(batch)
    else:
        raise TypeError(
            f"a batch must be a mapping, a tensor or a sequence of tensors, not {type(batch).__name__}"
        )
    if crop:
        args, kwargs = _cropped(args, kwargs)
    device = input_device(model)

    def move(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    return tuple(move(value) for value in args), {name: move(value) for name, value in kwargs.items()}


def _cropped(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """The same arguments with at most 2 x 7 tokens, taken where the attention mask is set."""
    ids = token_ids((args, kwargs))
    if ids is None:
        return args, kwargs
    rows, length = ids.shape
    everything = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    keep_rows = PROBE_ROWS if all(value.dim() and value.shape[0] == rows for value in everything) else rows
    keep = min(PROBE_LENGTH, length)
    if keep == min(keep_rows, rows) and keep > 1:
        keep -= 1
    mask = kwargs.get("attention_mask")
    left_padded = isinstance(mask, Tensor) and mask.shape == ids.shape and not bool(mask[:, 0].all())
    window = slice(length - keep, length) if left_padded else slice(0, keep)

    def cut(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.shape[:2] == ids.shape:
            value = value[:, window]
        return value[:keep_rows] if keep_rows < rows else value

    return tuple(cut(value) for value in args), {name: cut(value) for name, value in kwargs.items()}


def token_ids(arguments: Arguments) -> Tensor | None:
    """The token ids `[batch, seq]` that enter the last stack: the decoder's if there is one."""
    args, kwargs = arguments
    for value in (kwargs.get("decoder_input_ids"), kwargs.get("input_ids"), *args, *kwargs.values()):
        if isinstance(value, Tensor) and value.dim() == 2 and not value.is_floating_point():
            return value
    return None
