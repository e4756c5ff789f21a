"""Figures of comparisons between layers, with matplotlib (``pip install 'repgeom[plot]'``)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from repgeom.comparisons import SimilarityMatrix
from repgeom.results import AnalysisResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LABELS = 16
_MISSING = "0.85"


def cka_figure(results: AnalysisResults) -> Figure:
    """Debiased CKA of all pairs of layers as heat maps, one for each kind of points.

    Layer 0 is at the lower left. Grey cells have no value.

    Args:
        results: Of a run with ``metrics="cka_pairs"``.

    Raises:
        ValueError: Results without CKA.
        ImportError: No matplotlib.
    """
    table = results.diagnostics.get("cka_pairs")
    if table is None or table.empty:
        raise ValueError("a figure of CKA needs a run with metrics='cka_pairs', got none")
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(table["points"]))
    figure = Figure(figsize=(1.2 + 4.2 * len(kinds), 4.6), layout="constrained")
    axes = figure.subplots(1, len(kinds), squeeze=False)[0]
    image: Any = None
    for axis, points in zip(axes, kinds, strict=True):
        rows = table[table["points"] == points]
        names = list(dict.fromkeys(rows["left"]))
        values = _square(rows, names)
        image = _draw(axis, values, names, names)
        axis.set_title(f"{points}, n = {int(rows['n'].iloc[0])}", fontsize="medium")
        axis.set_xlabel("layer")
        axis.set_ylabel("layer")
    figure.colorbar(image, ax=list(axes), label="CKA (debiased, linear)", shrink=0.85)
    # Of a folder only its last two names.
    name = "/".join(Path(str(results.metadata["model_id"])).parts[-2:])
    figure.suptitle(f"{name}, {results.metadata['hook_point']}", fontsize="medium")
    return figure


def save_cka_figure(results: AnalysisResults, path: str | Path) -> Path:
    """Draws :func:`cka_figure` into a PNG, PDF or SVG file."""
    path = Path(path)
    cka_figure(results).savefig(path, dpi=150)
    return path


def similarity_figure(
    matrix: SimilarityMatrix, *, label_a: str = "layer of a", label_b: str = "layer of b"
) -> Figure:
    """A heat map of comparisons within one model or across two: layers of a upwards, of b to the right.

    Args:
        matrix: Of `cka`, `cca`, `compare` and so on.
        label_a: Of the vertical axis.
        label_b: Of the horizontal axis.

    Raises:
        ImportError: No matplotlib.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 4.4), layout="constrained")
    axis = figure.subplots()
    low, high = matrix.range
    image = _draw(axis, matrix.values, matrix.names_a, matrix.names_b, limits=(max(low, 0.0), high))
    axis.set_ylabel(label_a)
    axis.set_xlabel(label_b)
    axis.set_title(f"n = {matrix.n}", fontsize="medium")
    figure.colorbar(image, ax=axis, label=f"{matrix.measure} ({matrix.kind})", shrink=0.85)
    return figure


def _square(rows: pd.DataFrame, names: Sequence[Hashable]) -> Any:
    """``[l, l]`` values of a table of pairs."""
    found = rows.pivot(index="left", columns="right", values="cka")
    return found.reindex(index=names, columns=names).to_numpy(float)


def _draw(
    axis: Any,
    values: Any,
    names_a: Sequence[Hashable],
    names_b: Sequence[Hashable],
    *,
    limits: tuple[float, float] = (0.0, 1.0),
) -> Any:
    """The heat map, with at most 16 names on each side."""
    axis.set_facecolor(_MISSING)
    image = axis.imshow(
        np.ma.masked_invalid(values),
        origin="lower",
        cmap="viridis",
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
    )
    for names, ticks, labels in (
        (names_b, axis.set_xticks, axis.set_xticklabels),
        (names_a, axis.set_yticks, axis.set_yticklabels),
    ):
        step = -(-len(names) // _LABELS)
        ticks(range(0, len(names), step))
        labels([str(name) for name in names[::step]], fontsize="small")
    if any(len(str(name)) > 3 for name in names_b):
        axis.tick_params(axis="x", rotation=90)
    return image
