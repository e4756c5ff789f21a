"""What routers choose while the model runs: heard by hooks, counted where they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import pandas as pd
import torch
from torch import Tensor, nn

from repgeom.checks import refusal
from repgeom.routers import Router
from repgeom.routing import RouterStatistics


class _Hearing:
    """Which call of a module in the forward is heard."""

    def __init__(self, on_choice: Callable[[Router, Tensor], None]) -> None:
        self._on_choice = on_choice
        self._calls: dict[str, int] = {}

    def begin(self, _module: nn.Module, _args: Any) -> None:
        self._calls.clear()

    def hear(
        self, here: Mapping[int, Router], path: str, _module: nn.Module, _args: Any, output: Any
    ) -> None:
        call = self._calls.get(path, 0)
        self._calls[path] = call + 1
        if call in here:
            self._on_choice(here[call], here[call].chosen(output))


@contextmanager
def capture_routers(
    model: nn.Module, routers: Sequence[Router], on_choice: Callable[[Router, Tensor], None]
) -> Iterator[None]:
    """Hear routers in every forward inside the `with`; nothing is asked of the model's own outputs.

    Args:
        model: The model, called as a whole; a forward that is stopped early runs only the routers before.
        routers: Of :func:`repgeom.routers.find_routers`.
        on_choice: Receives (router, chosen experts `[tokens, top_k]`) on the router's device; tokens are in
            the order of the batch, padding included.
    """
    hearing = _Hearing(on_choice)
    places: dict[str, dict[int, Router]] = {}
    for router in routers:
        places.setdefault(router.path, {})[router.call] = router
    handles = [model.register_forward_pre_hook(hearing.begin)]
    try:
        for path, here in places.items():
            module = model.get_submodule(path)
            handles.append(module.register_forward_hook(partial(hearing.hear, here, path)))
        yield
    finally:
        for handle in handles:
            handle.remove()


class RouterCounts:
    """Assignments per router and expert, counted on the device of the router without synchronising.

    Call :meth:`begin` before each forward, and give :meth:`add` to :func:`capture_routers`.

    Args:
        routers: Those that will be heard.
    """

    def __init__(self, routers: Sequence[Router]) -> None:
        self.routers: Final = tuple(routers)
        self._counts: dict[Router, Tensor] = {}
        self._heard = dict.fromkeys(self.routers, 0)
        self._forwards = 0
        self._keep: Tensor | None = None

    def begin(self, keep: Tensor | None) -> None:
        """Announces a forward; `keep [batch, seq]` is true or 1 where a token counts, None if all do."""
        self._forwards += 1
        self._keep = None if keep is None else keep.reshape(-1, 1) != 0

    def add(self, router: Router, chosen: Tensor) -> None:
        """Counts the chosen experts `[tokens, k]`, tokens in the order of the batch.

        Raises:
            ValueError: If they are not as many as positions in the batch.
            RuntimeError: If the forward was not announced.
        """
        self._heard[router] += 1
        if self._heard[router] > self._forwards:
            raise RuntimeError(
                f"{router.path} was heard {self._heard[router]} times in {self._forwards} forwards"
            )
        if router not in self._counts:
            self._counts[router] = torch.zeros(router.num_experts, dtype=torch.int64, device=chosen.device)
        each = torch.ones_like(chosen, dtype=torch.int64)
        if self._keep is not None:
            if len(self._keep) != len(chosen):
                raise refusal(f"{router.path} must choose for {len(self._keep)} tokens", len(chosen))
            each *= self._keep.to(chosen.device, non_blocking=True)
        self._counts[router].index_add_(0, chosen.reshape(-1).long(), each.reshape(-1))

    def statistics(self) -> RouterStatistics:
        """The counts so far; layer i is `routers[i]`.

        Raises:
            RuntimeError: A router that was not heard exactly once in every forward.
        """
        for router, heard in self._heard.items():
            if heard != self._forwards:
                raise RuntimeError(
                    f"{router.path} must be heard once in each of {self._forwards} forwards, but was {heard} "
                    "times. Hooks miss modules that were compiled before, or that fused kernels replace"
                )
        found = RouterStatistics(len(self.routers), [router.num_experts for router in self.routers])
        for place, router in enumerate(self.routers):
            if router in self._counts:
                found.add_counts(place, self._counts[router].cpu())
        return found

    def frame(self) -> pd.DataFrame:
        """One row per router: :data:`ROUTER_COLUMNS` with the block as layer, and what the router is."""
        frame = self.statistics().frame()
        frame["layer"] = [router.block for router in self.routers]
        for name in ("name", "num_experts", "top_k", "choice"):
            column = "router" if name == "name" else name
            frame[column] = [getattr(router, name) for router in self.routers]
        return frame
