"""The whole of analyze_model beside the plain forward pass and representation-geometry, on the same batches.

python benchmarks/bench_analysis.py              the tables: time, where it goes, memory
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import representation_geometry as peer
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import repgeom as rg
from timing import machine, medians

BATCH, LENGTH, SAMPLE = 4, 512, 512


def make_model() -> GPT2LMHeadModel:
    """GPT-2 small in shape, random in weights."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config()).eval()


def make_batches(count: int) -> list[dict[str, torch.Tensor]]:
    """Random token ids without padding."""
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, LENGTH)
    ids = [torch.randint(0, 50257, shape, generator=generator) for _ in range(count)]
    return [{"input_ids": batch, "attention_mask": torch.ones_like(batch)} for batch in ids]


def plain_forward(model: torch.nn.Module, batches: list[dict[str, torch.Tensor]]) -> None:
    """The pass that a user makes without measuring anything."""
    with torch.no_grad():
        for batch in batches:
            model(**batch)


def capture_only(model: torch.nn.Module, batches: list[dict[str, torch.Tensor]]) -> None:
    """The forward that analyze_model runs, without its statistics: the model's own memory."""
    sites = [f"resid_pre.{layer}" for layer in range(model.config.n_layer)]
    with rg.capture(model, sites, on_activation=lambda _site, _activation: None) as activations:
        for batch in batches:
            activations.run(**batch, use_cache=False)


def analyze(
    model: torch.nn.Module, batches: list[dict[str, torch.Tensor]], **options: object
) -> rg.AnalysisResults:
    """repgeom, all default metrics."""
    return rg.analyze_model(model=model, dataloader=batches, max_tokens=None, progress=False, **options)


def analyze_with_peer(model: torch.nn.Module, batches: list[dict[str, torch.Tensor]]) -> peer.AnalysisResults:
    """representation-geometry, all default metrics."""
    return peer.analyze_model(model=model, dataloader=batches, max_tokens=None)


def check_answers(model: torch.nn.Module, batches: list[dict[str, torch.Tensor]]) -> None:
    """Both programs give the same spectra, within float32."""
    ours = analyze(model, batches[:1], compat="representation-geometry").metrics
    theirs = analyze_with_peer(model, batches[:1]).metrics
    for column in ("d_pr", "d_entropy", "stable_rank", "top1_share", "cos_sim_mean", "sv_effective_rank"):
        assert np.allclose(ours[column], theirs[column], rtol=5e-3), f"{column} disagrees"


PHASES: dict[str, Callable[..., object]] = {
    "plain": plain_forward,
    "capture": capture_only,
    "analyze": analyze,
    "peer": analyze_with_peer,
}


def peak_memory(phase: str, batches: int, threads: int) -> int:
    """Median peak of resident bytes over three new processes that run one phase.

    With a fixed threshold glibc gives large blocks back at once: otherwise the peak is that of its guesses.
    """
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    command = [
        sys.executable,
        __file__,
        "--phase",
        phase,
        "--batches",
        str(batches),
        "--threads",
        str(threads),
    ]
    options = {"capture_output": True, "text": True, "env": environment}
    return int(
        statistics.median(int(subprocess.run(command, check=True, **options).stdout) for _ in range(3))
    )


def run_phase(phase: str, batches: int) -> None:
    """The child of :func:`peak_memory`."""
    PHASES[phase](make_model(), make_batches(batches))
    status = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")))


def report_time(count: int, repeats: int) -> None:
    """Seconds of each program and where ours go."""
    model, batches = make_model(), make_batches(count)
    check_answers(model, batches)
    names = {"plain forward": "plain", "repgeom": "analyze", "representation-geometry": "peer"}
    calls = {name: lambda phase=phase: PHASES[phase](model, batches) for name, phase in names.items()}
    times = medians(calls, repeats)
    print("| program | time | of the plain forward |")
    print("|---|---|---|")
    for name, seconds in times.items():
        print(f"| {name} | {seconds:.2f} s | {seconds / times['plain forward']:.2f} |")
    parts = analyze(model, batches).metadata["seconds"]
    print("\nrepgeom, by activity: " + ", ".join(f"{name} {value:.2f} s" for name, value in parts.items()))


def report_memory(count: int, threads: int) -> None:
    """Peak above the model's own, beside the bound."""
    peaks = {phase: peak_memory(phase, min(count, 3), threads) for phase in PHASES}
    config = GPT2Config()
    layers, dim = config.n_layer, config.n_embd
    needed = 4 * (layers * dim**2 + layers * SAMPLE * dim + BATCH * LENGTH * dim)
    above = peaks["analyze"] - peaks["capture"]
    print(f"\npeak memory: plain forward {peaks['plain'] / 2**20:.0f} MiB, ", end="")
    print(f"repgeom {peaks['analyze'] / 2**20:.0f} MiB, ", end="")
    print(f"representation-geometry {peaks['peer'] / 2**20:.0f} MiB")
    print(f"repgeom above the same forward without statistics: {above / 2**20:.1f} MiB, ", end="")
    print(f"{above / needed:.2f} x (layers d^2 4 bytes + sample + one batch = {needed / 2**20:.1f} MiB)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--phase", choices=sorted(PHASES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.phase:
        run_phase(args.phase, args.batches)
        return
    print(f"{machine()}; {args.threads} threads")
    print(f"GPT-2 small (12 layers, 768, vocabulary 50257), {args.batches} batches of {BATCH} x {LENGTH}\n")
    report_time(args.batches, args.repeats)
    report_memory(args.batches, args.threads)


if __name__ == "__main__":
    main()
