"""One architecture, tiny and random, through anatomy and analyze_model: what was found, and what not."""

from __future__ import annotations

import inspect
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import architectures
import repgeom as rg

SLOPE = "log_spectrum_slope_10_200"


@dataclass
class Outcome:
    """What happened to one architecture.

    Attributes:
        mapping: Name of the mapping.
        model_type: Entry of it.
        not_run: Why it could not be built and run, without repgeom.
        blocks: Blocks found; None if the anatomy was refused.
        expected: Blocks that there should be.
        readout: "proven", "no head", or why the logits were not reproduced.
        hidden_states: How `resid_pre.i` compares to `hidden_states[i]`: equal, shifted, none, differs.
        measured: Rows of the table of `analyze_model`.
        refused: The sentence with which something was refused.
        crashed: An error that is no such sentence, or a wrong result: a bug.
        seconds: Time that all of it took.
    """

    mapping: str
    model_type: str
    not_run: str | None = None
    blocks: int | None = None
    expected: int | None = None
    readout: str | None = None
    hidden_states: str | None = None
    measured: int | None = None
    refused: str | None = None
    crashed: str | None = None
    seconds: float = 0.0

    def counts(self) -> dict[str, bool]:
        """Whether this outcome counts in each column of the table."""
        return {
            "entries": True,
            "run": self.not_run is None,
            "blocks": self.blocks is not None and self.blocks == self.expected,
            "readout": self.readout == "proven",
            "hidden_states": self.hidden_states == "equal",
            "measured": self.measured is not None,
            "refused": self.refused is not None and self.measured is None and self.crashed is None,
            "crashed": self.crashed is not None,
            "not_run": self.not_run is not None,
        }


class RefusalError(Exception):
    """repgeom refused a model with a sentence."""


class CrashError(Exception):
    """repgeom failed in another way, or gave a wrong result."""


def examine(mapping: str, model_type: str) -> Outcome:
    """Build one architecture and do everything with it, in this process."""
    outcome = Outcome(mapping, model_type)
    started = time.perf_counter()
    try:
        _examine(outcome)
    except RefusalError as reason:
        outcome.refused = str(reason)
    except CrashError as reason:
        outcome.crashed = str(reason)
    except Exception:
        outcome.crashed = f"the sweep itself: {traceback.format_exc(limit=-3)}"
    outcome.seconds = time.perf_counter() - started
    return outcome


def _examine(outcome: Outcome) -> None:
    mapping, model_type = outcome.mapping, outcome.model_type
    outcome.not_run = architectures.NOT_BUILT.get((mapping, model_type))
    if outcome.not_run is not None:
        return
    try:
        model = architectures.build(mapping, model_type)
        batches = [architectures.inputs(model, mapping, model_type, seed) for seed in (1, 2)]
        with torch.no_grad():
            model(**batches[0], **_without_cache(model))
    except Exception as error:
        outcome.not_run = f"{type(error).__name__}: {error}"
        return
    outcome.expected = architectures.expected_blocks(mapping, model_type)
    probe = None if architectures.takes_plain_tokens(batches[0]) else batches[0]
    try:
        found = _attempt(lambda: rg.anatomy(model, probe))
    except RefusalError:
        found = _attempt(lambda: rg.anatomy(model, batches[0]))
    outcome.blocks = found.num_blocks
    outcome.readout = "proven" if found.has_readout else found.readout_problem or "no head"
    outcome.hidden_states = _compare_hidden_states(model, found, batches[0])
    _measure(outcome, model, batches)


def _measure(outcome: Outcome, model: Any, batches: list[dict[str, Any]]) -> None:
    results = _attempt(lambda: rg.analyze_model(model=model, dataloader=batches, progress=False))
    rows = len(results.metrics)
    if rows != outcome.blocks:
        raise CrashError(f"a table of {rows} rows for {outcome.blocks} blocks")
    if results.metrics["nonfinite_tokens"].any():
        raise CrashError("tokens that are not finite")
    numbers = results.metrics.select_dtypes("number").columns
    for _, row in results.metrics.iterrows():
        odd = [name for name in numbers if not np.isfinite(row[name]) and name not in row["note"]]
        # Undefined by nature: everything for vectors that are all zero, a slope over fewer dimensions.
        if odd and row["status"] != "zero" and not (row["hidden_dim"] < 16 and odd == [SLOPE]):
            raise CrashError(f"numbers that are not finite, and no note on them: {', '.join(odd)}")
    outcome.measured = rows


def _attempt(act: Callable[[], Any]) -> Any:
    """The value of a call of repgeom; its errors are sorted into refusals and crashes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = act()
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1].filename
            if isinstance(error, (ValueError, RuntimeError)) and Path(where).parent.name == "repgeom":
                raise RefusalError(f"{error}") from error
            frames = traceback.extract_tb(error.__traceback__)[-4:]
            place = "; ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
            raise CrashError(f"{type(error).__name__}: {error} [{place}]") from error
    return value


def _without_cache(model: Any) -> dict[str, Any]:
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}


def _compare_hidden_states(model: Any, found: Any, batch: dict[str, Any]) -> str:
    """How `hidden_states[i]` of transformers compares to what enters block i, for all blocks."""
    n = found.num_blocks
    try:
        states = _hidden_states(model, batch)
        entered = _streams(model, found, batch)
    except RefusalError as reason:
        return f"none: {reason}"
    if len(states) < n:
        return f"differs: {len(states)} states for {n} blocks"
    wrong = [i for i in range(n) if not _close(entered[i], states[i])]
    if not wrong:
        return "equal"
    if all(_close(a, b) for a, b in zip(entered[1:], states, strict=False)):
        return "shifted: hidden_states[i] is what leaves block i"
    return f"differs at {wrong}: {list(entered[wrong[0]].shape)} and {list(states[wrong[0]].shape)}"


def _hidden_states(model: Any, batch: dict[str, Any]) -> tuple[Any, ...]:
    """What transformers calls hidden states: the decoder's, where there are two."""
    torch.manual_seed(0)
    try:
        with torch.no_grad():
            output = model(**batch, output_hidden_states=True, **_without_cache(model))
    except Exception as error:
        raise RefusalError(f"output_hidden_states raises {type(error).__name__}") from error
    states = getattr(output, "decoder_hidden_states", None) or getattr(output, "hidden_states", None)
    if not isinstance(states, tuple) or not all(torch.is_tensor(state) for state in states):
        raise RefusalError("the output has no hidden_states")
    return states


def _streams(model: Any, found: Any, batch: dict[str, Any]) -> list[Any]:
    """What enters every block, and what leaves the last."""

    def read(sites: list[str]) -> list[Any]:
        torch.manual_seed(0)
        with rg.capture(model, sites, anatomy=found, stop_early=False) as activations:
            activations.run(**batch, **_without_cache(model))
            return [activations[site] for site in sites]

    n, last = found.num_blocks, found.blocks[-1]
    try:
        return _attempt(lambda: read([*(f"resid_pre.{i}" for i in range(n)), f"resid_post.{n - 1}"]))
    except RefusalError:  # A stream without one vector per token can still be read at the modules.
        return _attempt(lambda: read([*(f"{b.path}:input" for b in found.blocks), f"{last.path}:output"]))


def _close(a: Any, b: Any) -> bool:
    """Whether two streams are the same vectors, however their positions are laid out."""
    if a.shape[-1] != b.shape[-1] or a.numel() != b.numel() or not bool(torch.isfinite(a).all()):
        return False
    return torch.allclose(a.reshape(b.shape), b, rtol=1e-5, atol=1e-6)
