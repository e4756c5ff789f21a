"""Figures of results, with matplotlib (``pip install 'repgeom[plot]'``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from repgeom.results import AnalysisResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def dimension_figure(results: AnalysisResults) -> Figure:
    """Intrinsic dimension, and overlap of consecutive layers, against relative depth.

    One line for each kind of points (tokens, and every pooling): Gride at the rank where the profiles of all
    layers are flattest, with a band of two standard errors, and TwoNN of the tokens. Below, where the run has
    it, the share of nearest neighbours that a layer has in common with the next one.

    Args:
        results: Of a run with ``metrics="dimension"``.

    Raises:
        ValueError: Results without dimensions.
        ImportError: No matplotlib.
    """
    profile = results.diagnostics.get("dimension_profile")
    if profile is None or profile.empty:
        raise ValueError("a figure of dimensions needs a run with metrics='dimension', got none")
    from matplotlib.figure import Figure

    overlaps = "neighbor_overlap" in results.novelty.columns
    figure = Figure(figsize=(7, 6.5 if overlaps else 4), layout="constrained")
    axes = figure.subplots(2 if overlaps else 1, 1, sharex=True, squeeze=False)[:, 0]
    depth = _depths(profile["layer"])
    for number, (points, rows) in enumerate(profile.groupby("points", sort=False)):
        chosen = rows[rows["selected"].astype(bool)]
        if len(chosen):
            label = f"{points}, Gride at rank {int(chosen['rank'].iloc[0])}"
            _band(axes[0], chosen, depth, color=f"C{number}", label=label)
        if points == "tokens":
            two_nn = rows[rows["method"] == "two_nn"]
            _band(axes[0], two_nn, depth, color="0.5", label="tokens, TwoNN", linestyle="--")
    axes[0].set_ylabel("intrinsic dimension")
    axes[0].set_ylim(bottom=0)
    axes[0].legend(frameon=False)
    # Of a folder only its last two names.
    name = "/".join(Path(str(results.metadata["model_id"])).parts[-2:])
    axes[0].set_title(f"{name}, {results.metadata['hook_point']}", fontsize="medium", wrap=True)
    if overlaps:
        _overlaps(axes[1], results.novelty, depth)
    axes[-1].set_xlabel("layer / last measured layer")
    return figure


def save_dimension_figure(results: AnalysisResults, path: str | Path) -> Path:
    """Draws :func:`dimension_figure` into a PNG, PDF or SVG file."""
    path = Path(path)
    dimension_figure(results).savefig(path, dpi=150)
    return path


def _depths(layers: pd.Series[Any]) -> dict[Any, float]:
    """Relative depth of each layer; of sites, their order."""
    names = list(dict.fromkeys(layers))
    numbers = [
        float(name) if isinstance(name, (int, np.integer)) else float(i) for i, name in enumerate(names)
    ]
    last = max(numbers) or 1.0
    return {name: number / last for name, number in zip(names, numbers, strict=True)}


def _band(axes: Any, rows: pd.DataFrame, depth: dict[Any, float], *, color: str, **style: Any) -> None:
    """A line with two standard errors around it."""
    x = [depth[layer] for layer in rows["layer"]]
    value, error = rows["dimension"].to_numpy(float), rows["standard_error"].to_numpy(float)
    axes.plot(x, value, color=color, marker="o", markersize=4, **style)
    axes.fill_between(x, value - 2 * error, value + 2 * error, color=color, alpha=0.15, linewidth=0)


def _overlaps(axes: Any, novelty: pd.DataFrame, depth: dict[Any, float]) -> None:
    x = [depth.get(layer, np.nan) for layer in novelty["layer"]]
    value, error = novelty["neighbor_overlap"].to_numpy(float), novelty["neighbor_overlap_se"].to_numpy(float)
    k = int(novelty["neighbor_overlap_k"].max())
    axes.plot(x, value, color="C0", marker="o", markersize=4, label=f"tokens, k = {k}")
    axes.fill_between(x, value - 2 * error, value + 2 * error, color="C0", alpha=0.15, linewidth=0)
    axes.set_ylabel("neighbours shared with the next layer")
    axes.set_ylim(0, 1)
    axes.legend(frameon=False)
