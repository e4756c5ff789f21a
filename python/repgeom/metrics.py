"""Measurements: which were asked for, how they are run, and how they become tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from repgeom import homology_metrics, neighbor_metrics, similarity_metrics, spectral_metrics
from repgeom.arrays import Float64Array
from repgeom.checks import is_peer
from repgeom.collect import Collector, LayerStatistics, paired_rows
from repgeom.covariance import Covariance
from repgeom.pooling import parse_pooling
from repgeom.readings import Readings, Settings, in_all, paired
from repgeom.registry import EVIDENCE, IN_FULL, OF_COVARIANCE, Measurement, measurements, metric
from repgeom.sketches import NystromSketch
from repgeom.tokens import UNLABELED

__all__ = [
    "Measured",
    "in_full",
    "measure",
    "metric",
    "needs",
    "parse_diagnostics",
    "parse_metrics",
    "removed_tokens",
]

GROUPS = {
    "default": ("spectrum", "sample", "novelty"),
    "dimension": ("dimension", "dimension_profile"),
    "overlap": ("overlap", "overlap_pairs", "label_overlap"),
    "similarity": ("cka_pairs",),
    "homology": ("homology", "homology_pooled"),
}
ROUTER = "router"
BUILT_IN = (
    spectral_metrics,
    neighbor_metrics,
    similarity_metrics,
    homology_metrics,
)  # which register themselves


def parse_metrics(metrics: str | Sequence[str] | None) -> tuple[str, ...]:
    """The measurements asked for, in the order of their registration; ``None``, ``"default"`` or nothing
    means the default ones.

    Raises:
        ValueError: A name that is not registered.
    """
    names = metrics.split(",") if isinstance(metrics, str) else list(metrics or ())
    names = [name.strip() for name in names] or ["default"]
    known = _known()
    allowed = ["default", *known, *(name for name in GROUPS if name not in {"default", *known})]
    unknown = sorted(set(names) - set(allowed))
    if unknown:
        raise ValueError(f"metrics must be among {allowed}, got {unknown}")
    wanted = {member for name in names for member in GROUPS.get(name, (name,))}
    return tuple(name for name in known if name in wanted)


def _known() -> list[str]:
    """Names of all measurements, the default ones first."""
    others = [name for name in measurements() if name not in GROUPS["default"]]
    return [*GROUPS["default"], *others, ROUTER]


def parse_diagnostics(diagnostics: str | Sequence[str] | None) -> tuple[str, ...]:
    """The diagnostics asked for: measurements that make a table of their own.

    Raises:
        ValueError: A name that is not a diagnostic.
    """
    names = diagnostics.split(",") if isinstance(diagnostics, str) else list(diagnostics or ())
    known = [name for name, measurement in measurements().items() if measurement.scope == "table"]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"diagnostics must be among {known}, got {unknown}")
    return tuple(dict.fromkeys(names))


def parse_pool(pool: str | Sequence[str] | None, names: Sequence[str]) -> tuple[str, ...]:
    """The poolings asked for, for a run of these measurements.

    Raises:
        ValueError: A name that is no pooling, or none where a measurement reads pooled vectors.
    """
    poolings = parse_pooling(pool)
    own = [name for name in names if name in measurements() and not measurements()[name].built_in]
    if "pooled" in needs(own) and not poolings:
        raise ValueError("metrics that read pooled vectors need pool=, such as pool='last', got none")
    return poolings


def needs(names: Sequence[str]) -> set[str]:
    """The statistics that some measurements read."""
    known = measurements()
    return {need for name in names if name in known for need in known[name].needs}


def in_full(names: Sequence[str], compat: str | None) -> tuple[str, ...]:
    """Who needs covariances in full, so that no sketch can stand for them."""
    known = measurements()
    of_user = [known[name] for name in names if name in known and not known[name].built_in]
    asked = [f"metric {own.name!r}" for own in of_user if IN_FULL & set(own.needs)]
    return (*asked, *([f"compat={compat!r}"] if compat else []))


@dataclass
class Measured:
    """Tables and arrays as they grow, layer by layer."""

    metrics: list[dict[str, Any]] = field(default_factory=list)
    novelty: list[dict[str, Any]] = field(default_factory=list)
    diagnostics: dict[str, pd.DataFrame] = field(default_factory=dict)
    eigenvalues: dict[str, Float64Array] = field(default_factory=dict)
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)

    def metrics_table(self) -> pd.DataFrame:
        """The metrics, with the columns in the order of the fullest row."""
        return _table(self.metrics)

    def novelty_table(self) -> pd.DataFrame:
        """The comparisons of consecutive layers."""
        return _table(self.novelty)


def _table(records: list[dict[str, Any]]) -> pd.DataFrame:
    columns: dict[str, None] = {}
    for row in sorted(records, key=len, reverse=True):
        columns |= dict.fromkeys(row)
    # What the row says of itself stands last.
    last = [name for name in ("status", "note") if name in columns]
    order = [name for name in columns if name not in last]
    table: pd.DataFrame = pd.DataFrame(records, columns=[*order, *last])
    return table


def measure(collector: Collector, settings: Settings) -> Measured:
    """All measurements of all layers, from statistics alone."""
    measured = Measured()
    sample = paired_rows(collector)
    _record_sample(measured, collector, sample)
    if not collector.n_batches:
        return measured
    chosen = [measurements()[name] for name in settings.metrics if name in measurements()]
    by_hook_point: dict[str, list[LayerStatistics]] = {}
    for layer in collector.layers.values():
        by_hook_point.setdefault(layer.hook_point, []).append(layer)
    several = len(by_hook_point) > 1
    everything: list[Readings] = []
    for layers in by_hook_point.values():
        before: Readings | None = None
        for layer in layers:
            labels = _identity(layer, layers, settings, several)
            if layer.width is None:
                measured.metrics.append({**labels, "status": layer.missing or "not seen", "note": ""})
                continue
            readings = Readings(layer, collector, sample, settings)
            _measure_layer(measured, readings, labels, chosen)
            if before is not None:
                _measure_pair(measured, before, readings, chosen, several)
            readings.release()
            everything.append(readings)
            before = readings
    _measure_tables(measured, everything, chosen, several)
    return measured


def _measure_layer(
    measured: Measured, readings: Readings, labels: dict[str, Any], chosen: list[Measurement]
) -> None:
    """One row of the metrics table, and the arrays of the layer."""
    settings, name = readings.settings, readings.statistics.name
    row, failed = {**labels, "tokens_observed": readings.count, "hidden_dim": readings.statistics.width}, []
    covariance = readings.statistics.covariance
    if covariance is not None and covariance.count >= 2 and OF_COVARIANCE & needs(settings.metrics):
        measured.eigenvalues[name] = readings.eigenvalues
        measured.arrays[f"eigenvectors.{name}"] = readings.leading
    if covariance is not None and covariance.count:
        measured.arrays[f"mean.{name}"] = covariance.mean
    for measurement in chosen:
        if measurement.scope != "layer" or (OF_COVARIANCE & set(measurement.needs) and readings.count < 2):
            continue
        arguments = {need: getattr(readings, need) for need in measurement.needs}
        taken = row if measurement.built_in else {**row, **dict.fromkeys(EVIDENCE)}
        columns = _columns(measured, measurement, arguments, readings.statistics.site, taken=taken)
        if columns is None:
            failed.append(measurement.name)
        row |= columns or {}
    if not is_peer(settings.compat):
        row |= _evidence(readings, failed)
    measured.metrics.append(row)
    for pooling, values in readings.pooled.items():
        measured.arrays[f"pooled.{pooling}.{name}"] = values


def _measure_pair(
    measured: Measured, left: Readings, right: Readings, chosen: list[Measurement], several: bool
) -> None:
    """One row of the novelty table."""
    measurements_of_pairs = [measurement for measurement in chosen if measurement.scope == "pair"]
    if not measurements_of_pairs:
        return
    layers = left.layer, right.layer
    row: dict[str, Any] = {
        "model_key": left.settings.model_key,
        "model_label": left.settings.model_label,
        "layer": layers[0],
        **({"site": left.statistics.site} if several else {}),
        "transition": f"{layers[0]}->{layers[1]}",
    }
    for measurement in measurements_of_pairs:
        arguments = {need: paired(left, right, need) for need in measurement.needs}
        where = f"{left.statistics.site} and {right.statistics.site}"
        taken = {} if measurement.built_in else row
        row |= _columns(measured, measurement, arguments, where, taken=taken) or {}
    measured.novelty.append(row)


def _measure_tables(
    measured: Measured, layers: list[Readings], chosen: list[Measurement], several: bool
) -> None:
    """The tables that measurements of all layers make."""
    for measurement in chosen:
        if measurement.scope != "table":
            continue
        usable = [
            layer for layer in layers if not (OF_COVARIANCE & set(measurement.needs) and layer.count < 2)
        ]
        everywhere = in_all(usable)
        arguments = {
            need: {
                _key(layer, several): layer.sampled(everywhere) if need == "common" else getattr(layer, need)
                for layer in usable
            }
            for need in measurement.needs
        }
        try:
            table = pd.DataFrame(measurement.function(**arguments))
        except Exception as error:
            if measurement.built_in:
                raise
            measured.failures.setdefault(_failure(measurement, error), [])
            continue
        if len(table.columns):
            measured.diagnostics[measurement.name] = table


def _key(readings: Readings, several: bool) -> int | str:
    return readings.statistics.site if several else readings.statistics.layer


def _columns(
    measured: Measured,
    measurement: Measurement,
    arguments: dict[str, Any],
    where: str,
    *,
    taken: Mapping[str, Any],
) -> dict[str, Any] | None:
    """What a measurement gives, as columns; None if it failed, which is noted."""
    try:
        value = measurement.function(**arguments)
        columns = dict(value) if isinstance(value, Mapping) else {measurement.name: value}
        if not measurement.built_in:
            columns = {str(name): _number(name, number) for name, number in columns.items()}
        repeated = sorted(set(columns) & set(taken))
        if repeated:
            raise ValueError(f"columns must be new, got {repeated}, which another measurement has")
    except Exception as error:
        if measurement.built_in:
            raise
        measured.failures.setdefault(_failure(measurement, error), []).append(where)
        return None
    return columns


def _number(name: str, value: Any) -> Any:
    """A value that a table can hold."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        return value.item()
    raise ValueError(f"{name} must be one number, got {type(value).__name__}")


def _failure(measurement: Measurement, error: Exception) -> str:
    return f"metric {measurement.name!r} failed with {type(error).__name__}: {error}"


def _identity(
    layer: LayerStatistics, layers: list[LayerStatistics], settings: Settings, several: bool
) -> dict[str, Any]:
    return {
        "model_key": settings.model_key,
        "model_label": settings.model_label,
        "layer": layer.layer,
        **({"site": layer.site} if several else {}),
        "num_layers": len(layers),
        "layer_norm_depth": layer.layer / max(1, *(other.layer for other in layers)),
    }


def _evidence(readings: Readings, failed: list[str]) -> dict[str, Any]:
    """Size of the vectors, what was left out, and whether the row can be trusted."""
    columns: dict[str, Any] = {"sampled_tokens": len(readings.sample)}
    covariance = readings.statistics.covariance
    problem = f"failed: {', '.join(failed)}" if failed else ""
    left_out = columns["nonfinite_tokens"] = readings.statistics.nonfinite
    if readings.count < 2:
        return {**columns, "status": f"too few rows: {readings.count} finite", "note": ""}
    columns |= {} if covariance is None else _sizes(covariance)
    shape = readings.spectrum if OF_COVARIANCE & needs(readings.settings.metrics) else None
    status = shape.status if shape else "ok"
    if left_out:
        status = f"{left_out} tokens with NaN or infinity left out"
    return {**columns, "status": problem or status, "note": "; ".join(shape.warnings) if shape else ""}


def _sizes(covariance: Covariance | NystromSketch) -> dict[str, float]:
    mean = covariance.mean
    total = covariance.trace(ddof=0)
    error = 0.0
    if isinstance(covariance, NystromSketch):
        error = float("nan")
    elif total:
        error = float(np.sum(covariance.error_bound() ** 2)) / total
    return {
        "norm_of_mean": float(np.linalg.norm(mean)),
        "rms_norm": math.sqrt(total + float(mean @ mean)),
        "covariance_error": error,
    }


def removed_tokens(collector: Collector, settings: Settings) -> pd.DataFrame:
    """What a token policy left out: a row per layer and reason."""
    rows = []
    several = len({layer.hook_point for layer in collector.layers.values()}) > 1
    for layer in collector.layers.values():
        if layer.width is None or layer.covariance is None:
            continue
        for row in layer.removed.table(layer.covariance):
            labels = {"model_key": settings.model_key, "model_label": settings.model_label}
            site = {"site": layer.site} if several else {}
            rows.append({**labels, "layer": layer.layer, **site, **row})
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def _record_sample(measured: Measured, collector: Collector, sample: Any) -> None:
    if not sample.rows:
        return
    measured.arrays["sample.index"] = sample.index
    measured.arrays["sample.token_ids"] = sample.tokens.token_ids
    measured.arrays["sample.sequence_ids"] = sample.tokens.sequence_ids
    measured.arrays["sample.positions"] = sample.tokens.positions
    if (sample.tokens.labels != UNLABELED).any():
        measured.arrays["sample.labels"] = sample.tokens.labels
    for site, rows in sample.rows.items():
        measured.arrays[f"sample.{collector.layers[site].name}"] = rows
    if collector.sequences is not None:
        order = collector.sequences.order()
        measured.arrays["pooled.sequence_ids"] = collector.sequences.ids[order]
        measured.arrays["pooled.counts"] = collector.sequences.counts[order]
