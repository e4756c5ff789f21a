"""Timing that can be trusted on a shared machine: peers take turns, medians are compared."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from repgeom import _core

PAUSE = 0.05


def medians(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each call.

    After one warm-up each they run in turn, so that drift hits all alike, and after a pause, so that the
    idle threads of one program (OpenMP and OpenBLAS keep them spinning for a while) do not take a core from
    the next.
    """
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def multiply_add_peak(threads: int, repeats: int = 5) -> float:
    """fp32 multiply-add flop/s of this machine, measured in registers on all threads at once."""
    iterations = 3_000_000
    rates = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats):
            start = time.perf_counter()
            flops = sum(pool.map(lambda _: _core.multiply_add_loop(iterations), range(threads)))
            rates.append(flops / (time.perf_counter() - start))
    return max(rates)


def machine() -> str:
    """Processor, instruction set and commit, for the table's caption."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = fields.get("model name", platform.processor())
    family = f" (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else ""
    return f"{name}{family}, {_core.instruction_sets()[-1]}, commit {commit()}"


def commit() -> str:
    """Short hash of the commit that is checked out, with + if files differ from it."""
    here = Path(__file__).parent
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=here, capture_output=True, text=True, check=False
    )
    return run.stdout.strip() or "unknown"
