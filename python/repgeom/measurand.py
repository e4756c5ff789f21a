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
from repgeom.arguments import token_inputs
from repgeom.branches import BRANCH_SITES, find_branches
from repgeom.collect import LayerStatistics
from repgeom.metadata import model_label
from repgeom.models import load_model, load_tokenizer, parse_layers
from repgeom.probe import evaluating, input_device, record
from repgeom.request import Request
from repgeom.routers import Router, find_routers

BLOCK_SITES = {
    "residual_input": "resid_pre",
    "residual_output": "resid_post",
    "attn_out": "attn_out",
    "resid_mid": "resid_mid",
    "mlp_out": "mlp_out",
}
MODEL_SITES = ("embed", "final_norm")
HOOK_POINTS = ", ".join([*BLOCK_SITES, *MODEL_SITES, "module_input:<path>", "module_output:<path>"])

DECODER_INPUTS = ("decoder_input_ids", "decoder_inputs_embeds", "labels")


@dataclass(frozen=True)
class Measurand:
    """A model and where it is to be read.

    Attributes:
        model: The model.
        label: How tables call it.
        tokenizer: For text; None if there is none.
        hook_points: Where to read.
        layers: As the user wrote them.
        tower: The stack that the user asked for; None: the one that reads the data.
        device: Where to run a model that was given as a module; None: where it is.
        anatomy: Known once the model has been probed; for module hook points only if it can be found.
    """

    model: nn.Module
    label: str
    tokenizer: Any
    hook_points: tuple[str, ...]
    layers: Any
    tower: str | None
    device: torch.device | None
    anatomy: ModelAnatomy | None = None

    def probed(self, first_batch: Callable[[], Any] | None) -> Measurand:
        """The same with its anatomy found.

        Args:
            first_batch: Gives the first batch of the data, which helps where plain tokens do not fit the
                model; None for text.
        """
        try:
            return self._probed(first_batch)
        except ValueError:
            # Single modules can be read without; what is not known of the model is then not assumed either.
            if not self.only_modules or self.tower is not None:
                raise
            return self

    @property
    def only_modules(self) -> bool:
        """Whether all that is read are modules, given by their paths."""
        return all(_is_module(point) for point in self.hook_points)

    def _probed(self, first_batch: Callable[[], Any] | None) -> Measurand:
        batch = None
        try:
            found = anatomy(self.model, tower=self.tower)
        except ValueError:
            batch = None if first_batch is None else first_batch()
            if batch is None:
                raise
            found = anatomy(self.model, batch, tower=self.tower)
        if self.tower is None and not self.only_modules and found.token_input == "decoder_input_ids":
            first = None if first_batch is None else first_batch()
            if not (isinstance(first, Mapping) and any(name in first for name in DECODER_INPUTS)):
                found = _reads_input_ids(found, batch)
        return replace(self, anatomy=found)

    @property
    def num_blocks(self) -> int | None:
        """Blocks of the model; None where only modules are read."""
        return None if self.anatomy is None or self.only_modules else self.anatomy.num_blocks

    @property
    def _indices(self) -> tuple[int, ...]:
        assert self.anatomy is not None, "only hook points of blocks have layers"
        return parse_layers(self.layers, self.anatomy.num_blocks)

    def statistics(self) -> dict[str, LayerStatistics]:
        """Empty statistics by site."""
        sites: dict[str, LayerStatistics] = {}
        several = len(self.hook_points) > 1
        for point in self.hook_points:
            for layer, site in self._sites(point):
                missing, layout = self._missing(point, layer), "BSH"
                if _is_module(point):
                    layout = self._module_layout(site)
                name = site if several else ""
                sites[site] = LayerStatistics(layer, site, name, point, missing, layout)
        if all(layer.missing for layer in sites.values()):
            raise ValueError(f"no layer has what was asked for: {next(iter(sites.values())).missing}")
        return sites

    def _module_layout(self, site: str) -> str:
        """Whether a module sees "BSH" or "SBH" in the probe, whose batch and length differ; "" if unknown."""
        if self.anatomy is None:
            return ""
        path, _, side = site.rpartition(":")
        ids = token_inputs(self.anatomy.probe).get(self.anatomy.token_input or "")
        if ids is None or path not in dict(self.model.named_modules()):
            return ""
        calls, _ = record(self.model, self.anatomy.probe, {path})
        tensors = [next(iter(getattr(call, f"{side}s").values()), None) for call in calls]
        if not tensors or tensors[0] is None or tensors[0].ndim != 3:
            return ""
        leading = tuple(tensors[0].shape[:2])
        return {tuple(ids.shape): "BSH", tuple(ids.shape)[::-1]: "SBH"}.get(leading, "")

    def _missing(self, point: str, layer: int) -> str:
        """Why a block does not have a site of this kind; empty if it has."""
        if point in MODEL_SITES and self.anatomy is not None:
            absent = self.anatomy.embedding is None if point == "embed" else self.anatomy.final_norm is None
            return f"{self.anatomy.model_class} has none" if absent else ""
        kind = BLOCK_SITES.get(point)
        if kind not in BRANCH_SITES or self.anatomy is None:
            return ""
        return find_branches(self.anatomy)[layer].missing(kind) or ""

    def find_routers(self) -> tuple[Router, ...]:
        """The routers in the blocks that are measured."""
        if self.anatomy is None or self.anatomy.stream_problem is not None:
            return ()
        chosen: Sequence[int] = range(self.anatomy.num_blocks)
        if any(point in BLOCK_SITES for point in self.hook_points):
            chosen = self._indices
        routers = find_routers(self.model, self.anatomy)
        return tuple(router for router in routers if router.block in chosen)

    def _sites(self, point: str) -> list[tuple[int, str]]:
        if _is_module(point):
            kind, _, path = point.partition(":")
            return [(0, f"{path}:{kind.removeprefix('module_')}")]
        if point in MODEL_SITES:
            return [(0 if point == "embed" else self.num_blocks or 0, point)]
        return [(index, f"{BLOCK_SITES[point]}.{index}") for index in sorted(self._indices)]

    @property
    def targets(self) -> list[str]:
        """Names of the hooked blocks or modules, as representation-geometry writes them."""
        names = []
        for point in self.hook_points:
            if _is_module(point):
                names.append(point.partition(":")[2])
            else:
                names += [site for _, site in self._sites(point)] if point in MODEL_SITES else []
                names += [f"block_{i}" for i in sorted(self._indices)] if point in BLOCK_SITES else []
        return list(dict.fromkeys(names))

    @property
    def blocks_run(self) -> str:
        """How many blocks a forward executes; empty when not known."""
        if self.anatomy is None or any(_is_module(point) for point in self.hook_points):
            return ""
        if "final_norm" in self.hook_points:
            return f"{self.anatomy.num_blocks} of {self.anatomy.num_blocks}"
        last = 0
        for point in self.hook_points:
            if point in BLOCK_SITES:
                last = max(last, max(self._indices) + (point != "residual_input"))
        return f"{last} of {self.anatomy.num_blocks}"


def find_measurand(request: Request) -> Measurand:
    """Loads the model unless it was given, after checking the hook points.

    Raises:
        ValueError: An unknown hook point, ``layers`` where no hook point has any, or a model that cannot be
            loaded.
    """
    points = parse_hook_points(request.hook_point)
    if request.layers != "all" and not any(point in BLOCK_SITES for point in points):
        raise ValueError(f"layers must be 'all' with {', '.join(points)}, got {request.layers!r}")
    tokenizer, model, name = request.tokenizer, request.model, request.model_name
    if isinstance(tokenizer, (str, PathLike)):
        tokenizer = load_tokenizer(fspath(tokenizer), trust_remote_code=request.trust_remote_code)
    if model is None and isinstance(name, nn.Module):
        model, name = name, None
    if model is not None:
        label = fspath(name) if isinstance(name, (str, PathLike)) and name else model_label(model)
        placed = request.device is None or getattr(model, "hf_device_map", None)
        target = None if placed else torch.device(request.device or "cpu")
        return Measurand(model, label, tokenizer, points, request.layers, request.tower, target)
    if name is not None and not isinstance(name, (str, PathLike)):
        raise ValueError(f"model_name must be a name, a path or a module, got {type(name).__name__}")
    name = None if name is None else fspath(name)
    loaded, loaded_tokenizer = load_model(
        name,
        dtype=request.dtype,
        device="auto" if request.device is None else request.device,
        device_map=request.device_map,
        trust_remote_code=request.trust_remote_code,
        **(request.model_kwargs or {}),
    )
    label, tokenizer = "repgeom-demo" if name is None else name, tokenizer or loaded_tokenizer
    return Measurand(loaded, label, tokenizer, points, request.layers, request.tower, None)


def parse_hook_points(hook_point: str | Sequence[str]) -> tuple[str, ...]:
    """The hook points of a string ``"a,b"`` or of several strings.

    Raises:
        ValueError: One that is unknown or repeated, or none.
    """
    points = hook_point.split(",") if isinstance(hook_point, str) else list(hook_point)
    for point in points:
        if not (point in BLOCK_SITES or point in MODEL_SITES or _is_module(str(point))):
            raise ValueError(f"hook_point must be one of {HOOK_POINTS} (or several), got {point!r}")
    if not points or len(set(points)) < len(points):
        raise ValueError(f"hook_point must name distinct places, at least one, got {hook_point!r}")
    return tuple(points)


def _is_module(point: str) -> bool:
    kind, _, path = point.partition(":")
    return kind in ("module_input", "module_output") and bool(path)


def _reads_input_ids(found: ModelAnatomy, batch: Any) -> ModelAnatomy:
    """The stack that reads `input_ids`, in a model whose main stack reads those of a decoder."""
    for tower in found.other_towers:
        other = anatomy(found.model, batch, tower=tower)
        if other.token_input == "input_ids":
            return other
    raise ValueError(
        f"the blocks of {found.model_class} read decoder_input_ids: give a dataloader of batches with them"
    )


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
