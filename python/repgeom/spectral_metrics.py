"""What a run reads off covariances and the token sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repgeom.arrays import Float64Array
from repgeom.checks import is_peer
from repgeom.readings import Settings
from repgeom.registry import metric
from repgeom.sample import normalization_ablation, sample_svd_metrics
from repgeom.similarity import LayerView, novelty_row
from repgeom.spectrum import Spectrum
from repgeom.standard_errors import spectral_standard_errors


@metric("spectrum", needs=["spectrum", "mean", "eigenvectors", "sample", "settings"])
def _spectrum(
    *,
    spectrum: Spectrum,
    mean: Float64Array,
    eigenvectors: Float64Array,
    sample: Float64Array,
    settings: Settings,
) -> dict[str, Any]:
    columns: dict[str, Any] = dict(spectrum.metrics)
    if is_peer(settings.compat):
        return columns
    columns["rank"] = spectrum.rank
    columns["d_pr_debiased"] = spectrum.d_pr_debiased
    columns["near_rank_one"] = spectrum.near_rank_one
    if spectrum.status == "sketch":
        columns["d_pr_sketch_se"] = spectrum.d_pr_error
        for name, (low, high) in spectrum.bounds.items():
            columns |= {f"{name}_low": low, f"{name}_high": high}
    elif len(sample) >= 2 and spectrum.status != "zero":
        columns |= spectral_standard_errors(
            sample, mean, spectrum.eigenvalues, eigenvectors, count=int(spectrum.count or 0)
        )
    return columns


@metric("sample", needs=["sample", "settings"])
def _sample(*, sample: Float64Array, settings: Settings) -> dict[str, Any]:
    return sample_svd_metrics(sample, compat=settings.compat)


@metric("novelty", needs=["layer", "leading", "rank", "sample", "settings"], scope="pair")
def _novelty(
    *,
    layer: tuple[int, int],
    leading: tuple[Float64Array, Float64Array],
    rank: tuple[int, int],
    sample: tuple[Float64Array, Float64Array],
    settings: tuple[Settings, Settings],
) -> dict[str, Any]:
    views = [LayerView(*side) for side in zip(layer, leading, rank, sample, strict=True)]
    return novelty_row(
        views[0],
        views[1],
        model_key=settings[0].model_key,
        model_label=settings[0].model_label,
        novelty_k=settings[0].novelty_k,
        compat=settings[0].compat,
    )


@metric("normalization_ablation", needs=["sample", "settings"], scope="table")
def _normalization_ablation(
    *, sample: Mapping[int, Float64Array], settings: Mapping[int, Settings]
) -> list[dict[str, Any]]:
    rows = []
    for layer, values in sample.items():
        run = settings[layer]
        labels = {"model_key": run.model_key, "model_label": run.model_label, "layer": layer}
        rows += normalization_ablation(values, compat=run.compat, labels=labels)
    return rows
