"""Activations of a model while it runs: hooks in a `with`, and no more of the forward than is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from repgeom.anatomy import ModelAnatomy
from repgeom.arguments import token_inputs
from repgeom.probe import probing_level
from repgeom.sites import Site, Sum, Tap, resolve

_Place = tuple[str, str]

_UNSEEN = (
    "Hooks see calls of modules: not what model code runs by .forward(), not parts of the model that are "
    "called alone, not what an early stop or an enclosing capture kept from running, and with torch before "
    "2.6 not what was compiled before the capture"
)


class _Stop(BaseException):
    """Ends a forward. Not an Exception, so that model code does not catch it."""

    def __init__(self, owner: Activations) -> None:
        self.owner = owner


class Activations:
    """What a capture has seen: `activations[site]` is the tensor of the last forward.

    Attributes:
        sites: Names of the captured sites, in the order given.
        fired: How often each site fired in the last forward.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: tuple[Site, ...],
        anatomy: ModelAnatomy | None,
        *,
        stop_early: bool,
        on_activation: Callable[[str, Tensor], None] | None,
    ) -> None:
        self.sites = tuple(site.name for site in sites)
        self.fired = dict.fromkeys(self.sites, 0)
        self._model, self._anatomy = model, anatomy
        self._n_tokens: int | None = None
        self._stop_early, self._on_activation = stop_early, on_activation
        self._tensors: dict[str, Tensor] = {}
        self._sums: dict[str, Sum] = {}
        self._calls: dict[_Place, int] = {}
        self._expected = {(tap.path, tap.side): tap.calls for site in sites for tap in site.taps if tap.calls}
        self._miscalled: list[str] = []
        self._running = False
        self._level = probing_level()
        # Sites that no forward has reached yet; emptied when an error has named them.
        self._unseen = set(self.sites)
        self._seen_forward = self._seen_part = False
        # How often a site fires in a whole forward. Known for sites of the anatomy; a module given by its
        # path may be called several times, which the first forward shows.
        self._needed = {site.name: 1 for site in sites if all(tap.call is not None for tap in site.taps)}

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
        except BaseException:
            # Half a forward is none.
            self._begin()
            self._unseen.clear()
            raise
        finally:
            self._running = False
        self.check_fired()
        return output

    def check_fired(self, expected: int = 1) -> None:
        """Raise RuntimeError unless every site fired `expected` times in the last forward."""
        self._check_missing([site for site in self.sites if self.fired[site] < expected])
        repeated = [
            f"{site} ({self.fired[site]} times)" for site in self.sites if self.fired[site] > expected
        ]
        if repeated:
            raise RuntimeError(
                f"sites that must fire {expected} times per forward fired more: {', '.join(repeated)}. "
                "The module is shared; address one of its calls with resid_pre.<i> or resid_post.<i>"
            )
        if self._miscalled:
            raise RuntimeError(
                f"blocks must be called as often as in the probe: {', '.join(self._miscalled)}"
            )

    def _check_missing(self, missing: list[str]) -> None:
        if missing:
            self._unseen.clear()
            raise RuntimeError(f"sites that did not fire: {', '.join(missing)}. {_UNSEEN}")

    def _check_seen(self) -> None:
        """At the end of the `with`: a site that no forward has reached is an error, not an empty result.

        Without any forward there is nothing to miss, but for parts of the model that were called alone.
        """
        if self._seen_forward or self._seen_part:
            self._check_missing([site for site in self.sites if site in self._unseen])

    def _begin(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> None:
        ids = None
        if self._anatomy is not None and self._anatomy.token_input is not None:
            ids = token_inputs((args, kwargs or {})).get(self._anatomy.token_input)
        self._n_tokens = None if ids is None else ids.shape[1]
        self.fired = dict.fromkeys(self.sites, 0)
        self._calls.clear()
        self._tensors.clear()
        self._sums.clear()
        self._miscalled.clear()
        self._running = self._seen_forward = True

    def _complete(self) -> None:
        self._running = False
        self._needed = {site: max(1, count) for site, count in self.fired.items()}
        self._miscalled.clear()
        for place, expected in self._expected.items():
            seen = self._calls.get(place, 0)
            if seen > expected:
                self._miscalled.append(f"{place[0]} {seen} times and not {expected}")

    def _observe(self, taps: list[tuple[Site, Tap]], value: Any) -> None:
        """One side of one module call, seen by all sites with a tap there."""
        if not self._running:
            # Not part of a forward of the model: checkpointing runs blocks again in the backward pass.
            self._seen_part = True
            return
        _, first = taps[0]
        place = first.path, first.side
        call = self._calls.get(place, 0)
        self._calls[place] = call + 1
        for site, tap in taps:
            if tap.call is None or tap.call == call:
                self._take(site, tap, value)
        if self._stop_early and self._satisfied():
            self._running = False
            raise _Stop(self)

    def _satisfied(self) -> bool:
        needed = self._needed
        return all(name in needed and self.fired[name] >= needed[name] for name in self.sites)

    def _take(self, site: Site, tap: Tap, value: Any) -> None:
        tensor = site.read(tap, value).detach()
        if len(site.taps) > 1:
            total = self._sums.setdefault(site.name, Sum(len(site.taps)))
            total.add(tensor, tap.coefficient)
            if total.waiting:
                return
            tensor = self._sums.pop(site.name).result()
        elif tap.coefficient != 1.0:
            tensor = tensor * tap.coefficient
        if self._anatomy is not None and site.layout is not None:
            tensor = self._anatomy.to_tokens(tensor, self._n_tokens, layout=site.layout)
        self.fired[site.name] += 1
        self._unseen.discard(site.name)
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
    Inside the block nothing runs compiled (`torch.compile`), as compiled code does not call new hooks.

        with repgeom.capture(model, ["resid_pre.0", "resid_post.3"]) as activations:
            activations.run(input_ids=ids, attention_mask=mask)
        activations["resid_pre.0"]  # [batch, seq, d]

    Args:
        model: Any module; its weights, device, training mode and other hooks are left alone.
        sites: One name or several: `embed` (output of the token embedding), `resid_pre.<i>` and
            `resid_post.<i>` (what enters and leaves block i, `[batch, seq, d]`), `attn_out.<i>` and
            `mlp_out.<i>` (what block i adds to the stream first and second), `resid_mid.<i>` (the stream
            between the two), `final_norm` (its output), and `<module path>:input` or
            `<module path>:output` (the first floating tensor there).
        stop_early: End the forward once all sites have fired, before any further module runs. With module
            paths this begins with the second forward, as the first one shows how often a module is called.
        on_activation: Receives (site, tensor) in place of storing: mostly a view of the model's own tensor,
            valid during the call, as the model may overwrite it later.
        anatomy: The model's anatomy, if already known; found when needed.

    Yields:
        The :class:`Activations`.

    Raises:
        ValueError: For an unknown, repeated or out-of-range site, or one that the model does not have.
        RuntimeError: At the end of the block, if there was a forward and none has reached a site.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    # torch.compile(model) is a wrapper around the model.
    model = getattr(model, "_orig_mod", model)
    if anatomy is not None and anatomy.model is not model:
        raise ValueError(
            f"anatomy must be of the model that is captured, but is of another {anatomy.model_class}"
        )
    chosen, anatomy = resolve(model, [sites] if isinstance(sites, str) else list(sites), anatomy)
    activations = Activations(model, chosen, anatomy, stop_early=stop_early, on_activation=on_activation)
    handles: list[RemovableHandle] = []
    try:
        _hook(model, activations, chosen, handles)
        with _as_written():
            yield activations
        activations._check_seen()
    except _Stop as stop:
        if stop.owner is not activations:
            raise
    finally:
        for handle in handles:
            handle.remove()


def _hook(
    model: nn.Module, activations: Activations, sites: tuple[Site, ...], handles: list[RemovableHandle]
) -> None:
    places: dict[_Place, list[tuple[Site, Tap]]] = {}
    for site in sites:
        for tap in site.taps:
            places.setdefault((tap.path, tap.side), []).append((site, tap))
    handles.append(
        model.register_forward_pre_hook(
            lambda _module, args, kwargs: activations._begin(args, kwargs) if _heeded(activations) else None,
            with_kwargs=True,
        )
    )
    for (path, side), here in places.items():
        module = model.get_submodule(path)
        if side == "input":
            handles.append(
                module.register_forward_pre_hook(partial(_before, activations, here), with_kwargs=True)
            )
        else:
            handles.append(module.register_forward_hook(partial(_after, activations, here)))
    handles.append(
        model.register_forward_hook(
            lambda _module, _args, _output: activations._complete() if _heeded(activations) else None
        )
    )


def _as_written() -> AbstractContextManager[object]:
    """Inside, compiled code runs as it was written: that which is there already holds no hooks of ours."""
    # Not in torch before 2.6.
    set_stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if set_stance is None else set_stance("force_eager")


def _heeded(activations: Activations) -> bool:
    """Whether this forward is one to look at, and none that repgeom runs to find something out."""
    return probing_level() == activations._level


def _before(
    activations: Activations,
    taps: list[tuple[Site, Tap]],
    _module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    if _heeded(activations):
        activations._observe(taps, {"args": args, "kwargs": kwargs})


def _after(
    activations: Activations, taps: list[tuple[Site, Tap]], _module: nn.Module, _args: Any, output: Any
) -> None:
    if _heeded(activations):
        activations._observe(taps, output)
