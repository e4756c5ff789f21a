"""The figures that belong to a run, beside its results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from repgeom.plots import save_dimension_figure
from repgeom.results import AnalysisResults
from repgeom.similarity_plots import save_cka_figure

FIGURES: Final[dict[str, tuple[str, str, Callable[[AnalysisResults, Path], Any]]]] = {
    "dimension_profile": ("dimension", "dimension.png", save_dimension_figure),
    "cka_pairs": ("similarity", "cka.png", save_cka_figure),
}
"""By the table that is drawn: how ``metrics=`` calls it, the file, and what draws it."""

PLOTTED: Final = tuple(metric for metric, _, _ in FIGURES.values())


def save_figures(results: AnalysisResults, folder: Path) -> list[Path]:
    """Draws every figure that the results hold a table for; needs matplotlib."""
    drawn = []
    for table, (_, name, save) in FIGURES.items():
        held = results.diagnostics.get(table)
        if held is not None and not held.empty:
            save(results, folder / name)
            drawn.append(folder / name)
    return drawn
