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
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from examination import Outcome, examine

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
