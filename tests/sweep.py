"""Every architecture of the installed transformers, tiny and random, through anatomy and analyze_model.

`python tests/sweep.py [--mapping causal] [--only llama,gpt2] [--jobs 2] [--out FILE]` prints a table of what
was found per mapping, each exception with its reason, and exits nonzero if something crashed or a minimum
that holds for transformers 5.23 was missed.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SLOPE = "log_spectrum_slope_10_200"
LIMIT_SECONDS = 90.0
TRANSFORMERS = "5.23"
# What must be reached, per mapping: models run, blocks found, readout proven, hidden_states reproduced.
MINIMA = {
    "causal": {"run": 186, "blocks": 184, "readout": 177, "hidden_states": 175},
    "masked": {"run": 51, "blocks": 47, "readout": 43},
    "seq2seq": {"run": 36, "blocks": 36, "readout": 34},
    "image_text": {"run": 93, "blocks": 93, "readout": 92},
    "base": {"run": 160, "blocks": 160},
}
COLUMNS = (
    "entries",
    "run",
    "blocks",
    "readout",
    "hidden_states",
    "measured",
    "refused",
    "crashed",
    "not_run",
)


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
        hidden_states: How `resid_pre.i` compares to `hidden_states[i]`: "equal", "shifted", "none", "differs".
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
    import torch

    import architectures
    import repgeom as rg

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
    import numpy as np

    import repgeom as rg

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
    import inspect

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
    import torch

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
    import torch

    import repgeom as rg

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
    import torch

    if a.shape[-1] != b.shape[-1] or a.numel() != b.numel() or not bool(torch.isfinite(a).all()):
        return False
    return torch.allclose(a.reshape(b.shape), b, rtol=1e-5, atol=1e-6)


def _serve(pipe: Any) -> None:
    """A worker: outcomes of the entries that come through the pipe, until None does."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    for mapping, model_type in iter(pipe.recv, None):
        pipe.send(examine(mapping, model_type))
        gc.collect()


class Worker:
    """A process that examines entries one by one, and is replaced when it dies or takes too long."""

    def __init__(self) -> None:
        self._process: Any = None
        self._pipe: Any = None

    def examine(self, mapping: str, model_type: str) -> Outcome:
        """The outcome of an entry, whatever it does to the process."""
        if self._process is None:
            self._start()
        self._pipe.send((mapping, model_type))
        try:
            if self._pipe.poll(LIMIT_SECONDS):
                return self._pipe.recv()
            reason = f"no answer in {LIMIT_SECONDS:.0f} s"
        except EOFError:
            self._process.join()
            reason = f"the process ended with exit code {self._process.exitcode}"
        self._process.kill()
        self._process = None
        return Outcome(mapping, model_type, crashed=reason, seconds=LIMIT_SECONDS)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._pipe.send(None)
            self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other,), daemon=True)
        self._process.start()
        other.close()


def run(work: Iterable[tuple[str, str]], jobs: int, report: Callable[[Outcome], None]) -> list[Outcome]:
    """The outcomes of (mapping, model type) pairs, from several processes."""
    queue = iter(list(work))
    outcomes: list[Outcome] = []

    def drain(worker: Worker) -> None:
        for mapping, model_type in queue:
            outcome = worker.examine(mapping, model_type)
            outcomes.append(outcome)
            report(outcome)
        worker.close()

    with ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(drain, Worker()) for _ in range(jobs)]:
            done.result()
    return sorted(outcomes, key=lambda outcome: (outcome.mapping, outcome.model_type))


def table(outcomes: list[Outcome]) -> str:
    """The coverage of each mapping, one line each."""
    lines = [f"{'mapping':<12}" + "".join(f"{column:>14}" for column in COLUMNS)]
    for mapping, counts in coverage(outcomes).items():
        lines.append(f"{mapping:<12}" + "".join(f"{counts[column]:>14}" for column in COLUMNS))
        if mapping in MINIMA:
            needed = "".join(f"{MINIMA[mapping].get(column, ''):>14}" for column in COLUMNS)
            lines.append(f"{'  at least':<12}{needed}")
    return "\n".join(lines)


def coverage(outcomes: list[Outcome]) -> dict[str, dict[str, int]]:
    """How many outcomes count in each column, per mapping."""
    return {
        mapping: {
            column: sum(o.counts()[column] for o in outcomes if o.mapping == mapping) for column in COLUMNS
        }
        for mapping in dict.fromkeys(outcome.mapping for outcome in outcomes)
    }


def exceptions(outcomes: list[Outcome]) -> Iterator[str]:
    """A line for all that is not plain: found, proven, equal to hidden_states, and measured."""
    for outcome in outcomes:
        notes = [
            f"{what}: {note}"
            for what, note in (
                ("NOT RUN", outcome.not_run),
                ("CRASHED", outcome.crashed),
                ("refused", outcome.refused),
                ("readout", None if outcome.readout in ("proven", "no head") else outcome.readout),
                ("hidden_states", None if outcome.hidden_states == "equal" else outcome.hidden_states),
            )
            if note
        ]
        if outcome.blocks not in (None, outcome.expected):
            notes.insert(0, f"{outcome.blocks} BLOCKS, not {outcome.expected}")
        if notes:
            yield f"{outcome.mapping}/{outcome.model_type}: " + " | ".join(note[:400] for note in notes)


def failures(outcomes: list[Outcome], minima: dict[str, dict[str, int]]) -> list[str]:
    """What makes a sweep fail: crashes, and minima that are missed."""
    found = [f"{o.mapping}/{o.model_type} crashed: {o.crashed}" for o in outcomes if o.crashed is not None]
    counted = coverage(outcomes)
    for mapping, needed in minima.items():
        for column, least in needed.items():
            reached = counted[mapping][column]
            if reached < least:
                found.append(f"{mapping}: {column} must be at least {least}, not {reached}")
    return found


def main() -> int:
    """Run the sweep that the command line asks for."""
    import transformers

    import architectures

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mapping", action="append", choices=list(architectures.MAPPINGS))
    parser.add_argument("--only", default="", help="model types, separated by commas")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="file for all outcomes, as JSON")
    arguments = parser.parse_args()
    only = set(filter(None, arguments.only.split(",")))
    mappings = arguments.mapping or list(architectures.MAPPINGS)
    work = [(m, t) for m in mappings for t in architectures.entries(m) if not only or t in only]
    started = time.perf_counter()

    def report(outcome: Outcome) -> None:
        state = next((s for s in ("not_run", "crashed", "refused") if outcome.counts()[s]), "measured")
        line = f"{outcome.mapping}/{outcome.model_type}: {state}, {outcome.seconds:.1f} s"
        print(line, file=sys.stderr, flush=True)

    outcomes = run(work, arguments.jobs, report)
    if arguments.out:
        arguments.out.write_text(json.dumps([asdict(o) for o in outcomes], indent=1), encoding="utf-8")
    complete = not only and transformers.__version__.startswith(TRANSFORMERS)
    wrong = failures(outcomes, {m: MINIMA[m] for m in mappings} if complete else {})
    print(*exceptions(outcomes), "", table(outcomes), "", *(f"FAILED {line}" for line in wrong), sep="\n")
    seconds = time.perf_counter() - started
    print(f"transformers {transformers.__version__}: {len(outcomes)} architectures in {seconds:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
