"""Measurements: what each family reads, and the tables that it fills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from repgeom.arrays import Float64Array
from repgeom.checks import is_peer
from repgeom.collect import Collector, LayerStatistics, PairedRows, paired_rows
from repgeom.sample import normalization_ablation, sample_svd_metrics
from repgeom.similarity import LayerView, novelty_row
from repgeom.spectrum import Spectrum, eigenpairs, spectrum
from repgeom.standard_errors import spectral_standard_errors

FAMILIES = ("spectrum", "sample", "novelty")
DIAGNOSTICS = ("normalization_ablation",)


def parse_metrics(metrics: str | Sequence[str] | None) -> tuple[str, ...]:
    """The families asked for, in their standard order; ``None``, ``"default"`` or nothing means all of them.

    Raises:
        ValueError: A name that is not a family.
    """
    names = metrics.split(",") if isinstance(metrics, str) else list(metrics or ())
    names = [name.strip() for name in names] or ["default"]
    unknown = sorted(set(names) - {*FAMILIES, "default"})
    if unknown:
        raise ValueError(f"metrics must be among {['default', *FAMILIES]}, got {unknown}")
    return FAMILIES if "default" in names else tuple(family for family in FAMILIES if family in names)


def parse_diagnostics(diagnostics: str | Sequence[str] | None) -> tuple[str, ...]:
    """The diagnostics asked for.

    Raises:
        ValueError: A name that is not a diagnostic.
    """
    names = diagnostics.split(",") if isinstance(diagnostics, str) else list(diagnostics or ())
    unknown = sorted(set(names) - set(DIAGNOSTICS))
    if unknown:
        raise ValueError(f"diagnostics must be among {list(DIAGNOSTICS)}, got {unknown}")
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Settings:
    """What the measurements need to know beside the statistics."""

    model_key: str
    model_label: str
    families: tuple[str, ...]
    diagnostics: tuple[str, ...]
    novelty_k: int
    compat: str | None


@dataclass
class Measured:
    """Tables and arrays as they grow, layer by layer."""

    metrics: list[dict[str, Any]] = field(default_factory=list)
    novelty: list[dict[str, Any]] = field(default_factory=list)
    ablation: list[dict[str, Any]] = field(default_factory=list)
    eigenvalues: dict[str, Float64Array] = field(default_factory=dict)
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    def metrics_table(self) -> pd.DataFrame:
        """The metrics, with the columns in the order of the fullest row."""
        fullest = max((list(row) for row in self.metrics), key=len, default=[])
        table: pd.DataFrame = pd.DataFrame(self.metrics, columns=fullest)
        return table

    def diagnostics(self) -> dict[str, pd.DataFrame]:
        """Tables of the diagnostics that have rows."""
        return {"normalization_ablation": pd.DataFrame(self.ablation)} if self.ablation else {}


def measure(collector: Collector, settings: Settings) -> Measured:
    """All measurements of all layers, from statistics alone."""
    measured = Measured()
    sample = paired_rows(collector)
    _record_sample(measured, sample)
    layers = [layer for layer in collector.layers.values() if layer.covariance is not None]
    if not collector.n_batches:
        return measured
    before: LayerView | None = None
    for layer in layers:
        view = _measure_layer(measured, layer, sample, layers, settings)
        if before is not None and "novelty" in settings.families:
            measured.novelty.append(_novelty(before, view, sample, settings))
        before = view
    return measured


def _measure_layer(
    measured: Measured,
    layer: LayerStatistics,
    sample: PairedRows,
    layers: list[LayerStatistics],
    settings: Settings,
) -> LayerView:
    """One row of the metrics table; returns what the comparison with the next layer needs."""
    covariance = layer.covariance
    assert covariance is not None
    name = f"layer_{layer.layer:02d}"
    rows = np.empty((0, covariance.dim))
    if layer.layer in sample.rows:
        rows = sample.rows[layer.layer][sample.finite[layer.layer]]
    row: dict[str, Any] = _identity(layer, layers, settings)
    vectors = np.empty((covariance.dim, 0))
    shape: Spectrum | None = None
    if covariance.count >= 2 and {"spectrum", "novelty"} & set(settings.families):
        values, vectors = eigenpairs(covariance)
        shape = spectrum(
            values, count=covariance.count, resolution=covariance.resolution, compat=settings.compat
        )
        measured.eigenvalues[name] = shape.eigenvalues
        if "spectrum" in settings.families:
            row |= _spectrum_columns(shape, covariance.mean, vectors, rows, settings)
        vectors = np.ascontiguousarray(vectors[:, : settings.novelty_k])
        measured.arrays[f"eigenvectors.{name}"] = vectors
    if covariance.count:
        measured.arrays[f"mean.{name}"] = covariance.mean
    if "sample" in settings.families:
        row |= sample_svd_metrics(rows, compat=settings.compat)
    if not is_peer(settings.compat):
        row |= _evidence(layer, shape, len(rows))
    measured.metrics.append(row)
    if "normalization_ablation" in settings.diagnostics:
        labels = {key: row[key] for key in ("model_key", "model_label", "layer")}
        measured.ablation += normalization_ablation(rows, compat=settings.compat, labels=labels)
    return LayerView(layer.layer, vectors, shape.rank if shape else 0, rows)


def _identity(layer: LayerStatistics, layers: list[LayerStatistics], settings: Settings) -> dict[str, Any]:
    covariance = layer.covariance
    assert covariance is not None
    return {
        "model_key": settings.model_key,
        "model_label": settings.model_label,
        "layer": layer.layer,
        "num_layers": len(layers),
        "layer_norm_depth": layer.layer / max(1, *(other.layer for other in layers)),
        "tokens_observed": covariance.count,
        "hidden_dim": covariance.dim,
    }


def _spectrum_columns(
    shape: Spectrum, mean: Float64Array, vectors: Float64Array, rows: Float64Array, settings: Settings
) -> dict[str, Any]:
    columns: dict[str, Any] = dict(shape.metrics)
    if is_peer(settings.compat):
        return columns
    columns["rank"] = shape.rank
    columns["d_pr_debiased"] = shape.d_pr_debiased
    columns["near_rank_one"] = shape.near_rank_one
    if len(rows) >= 2 and shape.status != "zero":
        columns |= spectral_standard_errors(
            rows, mean, shape.eigenvalues, vectors, count=int(shape.count or 0)
        )
    return columns


def _evidence(layer: LayerStatistics, shape: Spectrum | None, sampled: int) -> dict[str, Any]:
    """Size of the vectors, what was left out, and whether the row can be trusted."""
    covariance = layer.covariance
    assert covariance is not None
    columns: dict[str, Any] = {"sampled_tokens": sampled, "nonfinite_tokens": covariance.nonfinite}
    if covariance.count < 2:
        return {**columns, "status": f"too few rows: {covariance.count} finite", "note": ""}
    mean = covariance.mean
    total = float(covariance.variance(ddof=0).sum())
    columns["norm_of_mean"] = float(np.linalg.norm(mean))
    columns["rms_norm"] = float(np.sqrt(total + mean @ mean))
    columns["covariance_error"] = float(np.sum(covariance.error_bound() ** 2) / total) if total else 0.0
    columns["status"] = shape.status if shape else "ok"
    if covariance.nonfinite:
        columns["status"] = f"{covariance.nonfinite} tokens with NaN or infinity left out"
    columns["note"] = "; ".join(shape.warnings) if shape else ""
    return columns


def _novelty(before: LayerView, view: LayerView, sample: PairedRows, settings: Settings) -> dict[str, Any]:
    both = sample.finite.get(before.layer, np.empty(0, bool)) & sample.finite.get(
        view.layer, np.empty(0, bool)
    )
    pair = [
        replace(side, sample=sample.rows[side.layer][both]) if side.layer in sample.rows else side
        for side in (before, view)
    ]
    return novelty_row(
        pair[0],
        pair[1],
        model_key=settings.model_key,
        model_label=settings.model_label,
        novelty_k=settings.novelty_k,
        compat=settings.compat,
    )


def _record_sample(measured: Measured, sample: PairedRows) -> None:
    if not sample.rows:
        return
    measured.arrays["sample.index"] = sample.index
    measured.arrays["sample.token_ids"] = sample.tokens.token_ids
    measured.arrays["sample.sequence_ids"] = sample.tokens.sequence_ids
    measured.arrays["sample.positions"] = sample.tokens.positions
    for layer, rows in sample.rows.items():
        measured.arrays[f"sample.layer_{layer:02d}"] = rows
