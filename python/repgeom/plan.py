"""What a run will do and cost, before it starts."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from repgeom.covariance_sketch import covariance_bytes, reading_bytes, sketch_bytes

BYTES = {"float64": 8, "float32": 4}


@dataclass(frozen=True)
class Plan:
    """The plan of a run.

    Attributes:
        model: Label and class of the model.
        sites: Where activations are read.
        widths: Width of each site.
        data: Name of the text or dataloader.
        n_tokens: Tokens that will count; None when a dataloader does not say.
        limit: Tokens that a dataloader is read up to; None: all of it.
        n_sequences: Sequences; None when unknown.
        n_batches: Calls of the model; None when unknown.
        largest_batch: Positions of the largest batch seen so far, padding included.
        blocks_run: Blocks that a forward executes, of how many.
        memory: Bytes by purpose, the model's own apart.
        seconds: Estimated seconds by activity; empty when not estimated.
        out: Folder of the results, or None.
        sketches: What is sketched and why; empty if nothing is.
    """

    model: str
    sites: tuple[str, ...]
    widths: tuple[int, ...]
    data: str
    n_tokens: int | None
    limit: int | None
    n_sequences: int | None
    n_batches: int | None
    largest_batch: int
    blocks_run: str
    memory: dict[str, int]
    seconds: dict[str, float]
    out: str | None
    sketches: str = ""

    def _tokens(self) -> str:
        if self.n_tokens is None:
            reach = "all of the dataloader" if self.limit is None else f"the dataloader, up to {self.limit:,}"
            return f"{reach}; the first batch has {self.largest_batch:,} positions"
        return (
            f"{self.n_tokens:,} in {self.n_sequences:,} sequences, {self.n_batches:,} batches of at most "
            f"{self.largest_batch:,} positions"
        )

    def __str__(self) -> str:
        total = sum(self.memory.values())
        lines = [
            f"model        {self.model}",
            f"sites        {_shortened(self.sites)}, width {', '.join(map(str, sorted(set(self.widths))))}",
            f"blocks run   {self.blocks_run}, no language-model head" if self.blocks_run else "",
            f"data         {self.data}",
            f"tokens       {self._tokens()}",
            f"memory       {_megabytes(total)} beside the model: "
            + ", ".join(f"{name} {_megabytes(size)}" for name, size in self.memory.items()),
        ]
        if self.sketches:
            lines.append(f"sketches     {self.sketches}")
        if self.seconds:
            parts = ", ".join(f"{name} {_duration(value)}" for name, value in self.seconds.items())
            lines.append(
                f"time         about {_duration(sum(self.seconds.values()))}: {parts} (one batch was timed)"
            )
        lines.append(f"results      {self.out or 'not saved'}")
        return "\n".join(line for line in lines if line)


def memory_needed(
    widths: Sequence[int],
    sample_limit: int,
    positions: int,
    *,
    pooled: int = 0,
    waiting: bool = False,
    sketched: Collection[int] = (),
    rank: int = 0,
) -> dict[str, int]:
    """Bytes that the statistics, the sample, one packed batch and the eigenproblem of one layer take.

    Args:
        widths: Of the sites.
        sample_limit: Sampled tokens.
        positions: Positions of the largest batch.
        pooled: Pooled vectors per site.
        waiting: Whether all sites of a batch wait for its end, because norms decide which tokens count.
        sketched: Widths of which sketches are kept.
        rank: Of the sketches.
    """
    widest = max(widths, default=0)
    sums = {
        width: sketch_bytes(width, rank) if width in sketched else covariance_bytes(width) for width in widths
    }
    reading = [reading_bytes(width, rank) if width in sketched else 32 * width * width for width in widths]
    needed = {
        "statistics": sum(sums[width] for width in widths),
        "sample": sum(widths) * sample_limit * BYTES["float32"],
        "pooled": sum(widths) * pooled * BYTES["float64"],
        "one batch": positions * (sum(widths) if waiting else widest) * BYTES["float32"],
        "eigenproblem": max(reading, default=0),
    }
    return {name: size for name, size in needed.items() if name != "pooled" or size}


def eigenproblem_seconds(widths: Sequence[int], sketched: Collection[int] = (), rank: int = 0) -> float:
    """Estimated seconds for the eigenproblems of all layers, from a small one and the cubic law; of a sketch
    of l = 4 rank + 1 columns d l^2 stands for d^3."""
    probe = 192
    matrix = np.random.default_rng(0).standard_normal((probe, probe))
    start = time.perf_counter()
    np.linalg.eigh(matrix @ matrix.T)
    rate = (time.perf_counter() - start) / probe**3
    columns = 4.0 * rank + 1
    return float(sum(rate * width * (columns if width in sketched else width) ** 2 for width in widths))


def _shortened(sites: tuple[str, ...]) -> str:
    return ", ".join(sites) if len(sites) <= 4 else f"{sites[0]}, {sites[1]} ... {sites[-1]} ({len(sites)})"


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
