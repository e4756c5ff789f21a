"""The thing that is measured: a model, and the sites of it that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike, fspath
from typing import Any

import torch
from torch import nn

from repgeom.anatomy import ModelAnatomy, anatomy
from repgeom.collect import LayerStatistics
from repgeom.metadata import model_label
from repgeom.models import load_model, load_tokenizer, parse_layers
from repgeom.probe import evaluating, input_device
from repgeom.tokens import TokenBatch

HOOK_POINTS = "residual_input, residual_output, module_input:<path>, module_output:<path>"
RESIDUAL_SITES = {"residual_input": "resid_pre", "residual_output": "resid_post"}


@dataclass(frozen=True)
class Measurand:
    """A model and where it is to be read.

    Attributes:
        model: The model.
        label: How tables call it.
        tokenizer: For text; None if there is none.
        hook_point: As the user wrote it.
        layers: As the user wrote them.
        device: Where to run a model that was given as a module; None: where it is.
        anatomy: Known for the residual hook points once the model has been probed.
    """

    model: nn.Module
    label: str
    tokenizer: Any
    hook_point: str
    layers: Any
    device: torch.device | None
    anatomy: ModelAnatomy | None = None

    def with_batch(self, first_batch: Callable[[], TokenBatch | None]) -> Measurand:
        """The same with its anatomy found; a batch helps where plain tokens do not fit the model."""
        if self.hook_point not in RESIDUAL_SITES:
            return self
        try:
            return replace(self, anatomy=anatomy(self.model))
        except ValueError:
            batch = first_batch()
            if batch is None:
                raise
            return replace(self, anatomy=anatomy(self.model, batch.kwargs or batch.args))

    @property
    def num_blocks(self) -> int | None:
        """Blocks of the model; None for a hook point that is a module."""
        return None if self.anatomy is None else self.anatomy.num_blocks

    @property
    def _indices(self) -> tuple[int, ...]:
        return (0,) if self.anatomy is None else parse_layers(self.layers, self.anatomy.num_blocks)

    def statistics(self) -> dict[str, LayerStatistics]:
        """Empty statistics by site."""
        if self.anatomy is None:
            kind, _, path = self.hook_point.partition(":")
            site = f"{path}:{kind.removeprefix('module_')}"
            return {site: LayerStatistics(0, site)}
        kind = RESIDUAL_SITES[self.hook_point]
        return {
            f"{kind}.{index}": LayerStatistics(index, f"{kind}.{index}") for index in sorted(self._indices)
        }

    @property
    def targets(self) -> list[str]:
        """Names of the hooked blocks or module, as representation-geometry writes them."""
        if self.anatomy is None:
            return [self.hook_point.partition(":")[2]]
        return [f"block_{index}" for index in sorted(self._indices)]

    @property
    def blocks_run(self) -> str:
        """How many blocks a forward executes; empty when not known."""
        if self.anatomy is None:
            return ""
        last = max(self._indices) + (self.hook_point == "residual_output")
        return f"{last} of {self.anatomy.num_blocks}"


def find_measurand(
    model_name: str | PathLike[str] | nn.Module | None,
    *,
    model: nn.Module | None,
    tokenizer: Any,
    layers: str | int | Sequence[int],
    hook_point: str,
    device: str | torch.device | None,
    dtype: str | torch.dtype,
    device_map: Any,
    model_kwargs: Mapping[str, Any] | None,
    trust_remote_code: bool,
) -> Measurand:
    """Loads the model unless it was given, after checking the hook point.

    Raises:
        ValueError: An unknown hook point, ``layers`` beside a module hook point, or a model that cannot be
            loaded.
    """
    _check_hook_point(hook_point, layers)
    if isinstance(tokenizer, (str, PathLike)):
        tokenizer = load_tokenizer(fspath(tokenizer), trust_remote_code=trust_remote_code)
    if model is None and isinstance(model_name, nn.Module):
        model, model_name = model_name, None
    if model is not None:
        label = (
            fspath(model_name)
            if isinstance(model_name, (str, PathLike)) and model_name
            else model_label(model)
        )
        target = None if device is None or getattr(model, "hf_device_map", None) else torch.device(device)
        return Measurand(model, label, tokenizer, hook_point, layers, target)
    if model_name is not None and not isinstance(model_name, (str, PathLike)):
        raise ValueError(f"model_name must be a name, a path or a module, got {type(model_name).__name__}")
    name = None if model_name is None else fspath(model_name)
    loaded, loaded_tokenizer = load_model(
        name,
        dtype=dtype,
        device="auto" if device is None else device,
        device_map=device_map,
        trust_remote_code=trust_remote_code,
        **(model_kwargs or {}),
    )
    label = "repgeom-demo" if name is None else name
    return Measurand(loaded, label, tokenizer or loaded_tokenizer, hook_point, layers, None)


def _check_hook_point(hook_point: str, layers: Any) -> None:
    kind, _, path = hook_point.partition(":")
    if hook_point in RESIDUAL_SITES:
        return
    if kind not in ("module_input", "module_output") or not path:
        raise ValueError(f"hook_point must be one of {HOOK_POINTS}, got {hook_point!r}")
    if layers != "all":
        raise ValueError(f"layers must be 'all' with a module hook point, got {layers!r}")


@contextmanager
def running(measurand: Measurand) -> Iterator[torch.device]:
    """The model in eval mode and on its device inside the block, and as it was afterwards.

    Yields:
        The device that token ids must be on.
    """
    model, target = measurand.model, measurand.device
    before = next((parameter.device for parameter in model.parameters()), None)
    with evaluating(model):
        try:
            if target is not None:
                model.to(target)
            yield input_device(model)
        finally:
            if target is not None and before is not None:
                model.to(before)
