"""Activations of a model while it runs: hooks in a `with`, and no more of the forward than is needed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from repgeom.anatomy import ModelAnatomy, batch_first
from repgeom.anatomy import anatomy as find_anatomy
from repgeom.probe import Key, floating_tensors, pick

SITES = "embed, resid_pre.<i>, resid_post.<i>, final_norm, <module path>:input, <module path>:output"


class _Stop(BaseException):
    """Ends a forward. Not an Exception, so that model code does not catch it."""

    def __init__(self, owner: Activations) -> None:
        self.owner = owner


@dataclass(frozen=True)
class _Site:
    """Where one activation is: side of a module, which of its calls (None: any), key path of the tensor."""

    name: str
    path: str
    side: str
    call: int | None = None
    key: Key | None = None
    layout: str = "BSH"
    width: int | None = None


class Activations:
    """What a capture has seen: `activations[site]` is the tensor of the last forward.

    Attributes:
        sites: Names of the captured sites, in the order given.
        fired: How often each site fired in the last forward.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: tuple[_Site, ...],
        *,
        stop_early: bool,
        on_activation: Callable[[str, Tensor], None] | None,
    ) -> None:
        self.sites = tuple(site.name for site in sites)
        self.fired = dict.fromkeys(self.sites, 0)
        self._model = model
        self._stop_early, self._on_activation = stop_early, on_activation
        self._tensors: dict[str, Tensor] = {}
        self._calls: dict[tuple[str, str], int] = {}
        # How often a site fires in a whole forward. Known for sites of the anatomy; a module given by its
        # path may be called several times, which the first forward shows.
        self._needed = {site.name: 1 for site in sites if site.call is not None}

    def __getitem__(self, site: str) -> Tensor:
        """The tensor of the last forward, residual sites as `[batch, seq, d]`."""
        if site not in self.fired:
            raise KeyError(f"{site!r} is not captured; captured sites: {', '.join(self.sites)}")
        if site not in self._tensors:
            reason = "it was handed to on_activation" if self._on_activation else "it did not fire"
            raise KeyError(f"no tensor is kept for {site!r}: {reason}")
        return self._tensors[site]

    def __contains__(self, site: object) -> bool:
        return site in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model without gradients; several times if need be.

        Returns:
            The model's output, or None if the forward was stopped early.

        Raises:
            RuntimeError: If a site did not fire exactly once (see :meth:`check_fired`).
        """
        output = None
        self._begin()
        try:
            with torch.no_grad():
                output = self._model(*args, **kwargs)
        except _Stop:
            # Also the stop of an enclosing capture; what is then missing here is reported below.
            pass
        self.check_fired()
        return output

    def check_fired(self, expected: int = 1) -> None:
        """Raise RuntimeError unless every site fired `expected` times in the last forward."""
        missing = [site for site in self.sites if self.fired[site] < expected]
        if missing:
            raise RuntimeError(
                f"sites that did not fire: {', '.join(missing)}. Hooks miss modules that were compiled "
                "before the capture, that model code runs by .forward(), or that an enclosing capture kept "
                "from running"
            )
        repeated = [
            f"{site} ({self.fired[site]} times)" for site in self.sites if self.fired[site] > expected
        ]
        if repeated:
            raise RuntimeError(
                f"sites that must fire {expected} times per forward fired more: {', '.join(repeated)}. "
                "The module is shared; address one of its calls with resid_pre.<i> or resid_post.<i>"
            )

    def _begin(self) -> None:
        self.fired = dict.fromkeys(self.sites, 0)
        self._calls.clear()
        self._tensors.clear()

    def _complete(self) -> None:
        self._needed = {site: max(1, count) for site, count in self.fired.items()}

    def _observe(self, sites: list[_Site], value: Any) -> None:
        """One side of one module call, seen by all sites placed there."""
        place = (sites[0].path, sites[0].side)
        call = self._calls.get(place, 0)
        self._calls[place] = call + 1
        for site in sites:
            if site.call is None or site.call == call:
                self._take(site, value)
        if self._stop_early and self._satisfied():
            raise _Stop(self)

    def _satisfied(self) -> bool:
        needed = self._needed
        return all(name in needed and self.fired[name] >= needed[name] for name in self.sites)

    def _take(self, site: _Site, value: Any) -> None:
        tensor = batch_first(_tensor_at(site, value).detach(), site.layout)
        self.fired[site.name] += 1
        if self._on_activation is not None:
            self._on_activation(site.name, tensor)
        else:
            # A copy, because the model may go on to add to this tensor in place.
            self._tensors[site.name] = tensor.clone()


@contextmanager
def capture(
    model: nn.Module,
    sites: str | Sequence[str],
    *,
    stop_early: bool = True,
    on_activation: Callable[[str, Tensor], None] | None = None,
    anatomy: ModelAnatomy | None = None,
) -> Iterator[Activations]:
    """Capture activations of every forward inside the `with`.

    `activations.run(**batch)` calls the model and may be repeated. A plain `model(**batch)` works too, but
    when it is stopped early it ends the `with` block: the lines after it in the block are skipped. Of nested
    captures the one that has seen its sites first stops the forward for all; give it `stop_early=False`.

        with repgeom.capture(model, ["resid_pre.0", "resid_post.3"]) as activations:
            activations.run(input_ids=ids, attention_mask=mask)
        activations["resid_pre.0"]  # [batch, seq, d]

    Args:
        model: Any module; its weights, device, training mode and other hooks are left alone.
        sites: One name or several: `embed` (output of the token embedding), `resid_pre.<i>` and
            `resid_post.<i>` (what enters and leaves block i, `[batch, seq, d]`), `final_norm` (its output),
            and `<module path>:input` or `<module path>:output` (the first floating tensor there).
        stop_early: End the forward once all sites have fired, before any further module runs. With module
            paths this begins with the second forward, as the first one shows how often a module is called.
        on_activation: Receives (site, tensor) in place of storing: a view of the model's own tensor, valid
            during the call, as the model may overwrite it later.
        anatomy: The model's anatomy, if already known; found when needed.

    Yields:
        The :class:`Activations`.

    Raises:
        ValueError: For an unknown, repeated or out-of-range site.
    """
    chosen = _resolve(model, [sites] if isinstance(sites, str) else list(sites), anatomy)
    activations = Activations(model, chosen, stop_early=stop_early, on_activation=on_activation)
    handles: list[RemovableHandle] = []
    try:
        _hook(model, activations, chosen, handles)
        yield activations
    except _Stop as stop:
        if stop.owner is not activations:
            raise
    finally:
        for handle in handles:
            handle.remove()


def _hook(
    model: nn.Module, activations: Activations, sites: tuple[_Site, ...], handles: list[RemovableHandle]
) -> None:
    places: dict[tuple[str, str], list[_Site]] = {}
    for site in sites:
        places.setdefault((site.path, site.side), []).append(site)
    handles.append(model.register_forward_pre_hook(lambda _module, _args: activations._begin()))
    for (path, side), here in places.items():
        module = model.get_submodule(path)
        if side == "input":
            handles.append(
                module.register_forward_pre_hook(partial(_before, activations, here), with_kwargs=True)
            )
        else:
            handles.append(module.register_forward_hook(partial(_after, activations, here)))
    handles.append(model.register_forward_hook(lambda _module, _args, _output: activations._complete()))


def _before(
    activations: Activations,
    sites: list[_Site],
    _module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    activations._observe(sites, {"args": args, "kwargs": kwargs})


def _after(activations: Activations, sites: list[_Site], _module: nn.Module, _args: Any, output: Any) -> None:
    activations._observe(sites, output)


def _tensor_at(site: _Site, value: Any) -> Tensor:
    tensor = None if site.key is None else pick(value, site.key)
    if isinstance(tensor, Tensor):
        return tensor
    # Options such as output_attentions wrap a block's output in a tuple that the probe did not see.
    for _, found in floating_tensors(value):
        if site.width in (None, found.shape[-1]):
            return found
    raise RuntimeError(f"{site.name}: no floating tensor in the {site.side} of {site.path}")


def _resolve(model: nn.Module, names: list[str], anatomy: ModelAnatomy | None) -> tuple[_Site, ...]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    if not names:
        raise ValueError(f"sites must name at least one of: {SITES}; received none")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"sites must be distinct; received {', '.join(repeated)} more than once")
    if anatomy is not None and anatomy.model is not model:
        raise ValueError(
            f"anatomy must be of the model that is captured, but is of another {anatomy.model_class}"
        )
    resolved = []
    for name in names:
        if ":" in name:
            resolved.append(_module_site(model, name))
        else:
            _check_syntax(name)
            anatomy = anatomy or find_anatomy(model)
            resolved.append(_stream_site(anatomy, name))
    return tuple(resolved)


def _check_syntax(name: str) -> None:
    if name not in ("embed", "final_norm") and not re.fullmatch(r"resid_(pre|post)\.[0-9]+", name):
        raise ValueError(f"a site must be one of: {SITES}; received {name!r}")


def _stream_site(anatomy: ModelAnatomy, name: str) -> _Site:
    if name == "embed":
        if anatomy.embedding is None:
            raise ValueError(
                f"site 'embed': {anatomy.model_class} has no token embedding that was seen to run"
            )
        return _Site(name, anatomy.embedding, "output", anatomy.embedding_call, (), anatomy.embedding_layout)
    if name == "final_norm":
        if anatomy.final_norm is None:
            raise ValueError(
                f"site 'final_norm': {anatomy.model_class} has no norm between its last block and head"
            )
        return _Site(name, anatomy.final_norm, "output", anatomy.final_norm_call, (), anatomy.layout)
    kind, _, number = name.partition(".")
    if int(number) >= anatomy.num_blocks:
        raise ValueError(
            f"site {name!r}: the block index must be in 0..{anatomy.num_blocks - 1}, not {number}"
        )
    block = anatomy.blocks[int(number)]
    side, key = ("input", block.hidden_in) if kind == "resid_pre" else ("output", block.hidden_out)
    return _Site(name, block.path, side, block.call, key, anatomy.layout, anatomy.d_model)


def _module_site(model: nn.Module, name: str) -> _Site:
    path, _, side = name.rpartition(":")
    if side not in ("input", "output"):
        raise ValueError(f"site {name!r} must end in :input or :output")
    modules = dict(model.named_modules(remove_duplicate=False))
    if not path or path not in modules:
        nearest = difflib.get_close_matches(path, [known for known in modules if known], n=5, cutoff=0.5)
        hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
        raise ValueError(f"site {name!r}: {type(model).__name__} has no module {path!r}{hint}")
    return _Site(name, path, side)
