"""What every run ends with: statistics become measurements, tables, notes and results."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pandas as pd

from repgeom.collect import Collector
from repgeom.metadata import software
from repgeom.metrics import Measured, measure, removed_tokens
from repgeom.readings import Settings
from repgeom.results import AnalysisResults


class MeasurementWarning(RuntimeWarning):
    """Something about the numbers that their reader should know."""


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C ended a run between two batches. What had been seen was measured, and saved if that was asked
    for.

    Attributes:
        results: The results of the batches before.
    """

    def __init__(self, results: AnalysisResults) -> None:
        saved = (
            f"saved in {results.artifact_dir}" if results.artifact_dir else "not saved: no save_dir was given"
        )
        super().__init__(
            f"interrupted after {results.metadata['tokens_observed']} tokens; their results are {saved}"
        )
        self.results = results


def conclude(
    collector: Collector,
    settings: Settings,
    metadata: Mapping[str, Any],
    *,
    interrupted: bool,
    started: float,
) -> AnalysisResults:
    """Measures everything and puts the results together.

    Args:
        collector: The statistics.
        settings: Of the run.
        metadata: What is known already.
        interrupted: Whether Ctrl-C cut the data short.
        started: When the run began, by `time.perf_counter`.

    Raises:
        ValueError: Batches in which fewer than two tokens count.
    """
    if collector.n_batches and collector.n_tokens < 2:
        left_out = ", ".join(f"{count} {reason}" for reason, count in collector.n_removed.items())
        raise ValueError(
            f"a covariance needs at least two tokens, got {collector.n_tokens}"
            + (f" (the token policy left out: {left_out})" if left_out else "")
        )
    with collector.timed("measure"):
        measured = measure(collector, settings)
        removed = removed_tokens(collector, settings)
    diagnostics = dict(measured.diagnostics)
    if len(removed):
        diagnostics["removed_tokens"] = removed
    return AnalysisResults(
        metrics=measured.metrics_table(),
        novelty=measured.novelty_table(),
        router=pd.DataFrame() if collector.routing is None else collector.routing.frame(),
        diagnostics=diagnostics,
        eigenvalues=measured.eigenvalues,
        arrays=measured.arrays,
        metadata={
            **metadata,
            "tokens_observed": collector.n_tokens,
            "padding_observed": collector.n_padding,
            "tokens_removed": dict(collector.n_removed),
            "batches_observed": collector.n_batches,
            "layers": [layer.layer for layer in collector.layers.values()],
            "sites": list(collector.layers),
            "interrupted": interrupted,
            "warnings": _notes(collector, measured, interrupted) + list(metadata.get("warnings", ())),
            "software": software(),
            "runtime_sec": time.perf_counter() - started,
            "seconds": dict(collector.seconds),
        },
    )


def _notes(collector: Collector, measured: Measured, interrupted: bool) -> list[str]:
    notes = [
        f"{said} (at {', '.join(places)})" if places else said for said, places in measured.failures.items()
    ]
    for layer in collector.layers.values():
        if layer.nonfinite:
            notes.append(
                f"{layer.site}: {layer.nonfinite} of {collector.n_tokens} tokens "
                "hold NaN or infinity and were left out"
            )
        if layer.missing:
            notes.append(f"{layer.site} was not measured: {layer.missing}")
    sketches = collector.moments_policy.note(layer.moments for layer in collector.layers.values())
    if sketches:
        notes.append(sketches)
    if interrupted:
        notes.append(f"interrupted after {collector.n_tokens} tokens")
    return notes
