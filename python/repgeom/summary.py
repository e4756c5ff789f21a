"""Results as a person wants to read them in a terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

import pandas as pd
from rich.console import Console
from rich.table import Table

from repgeom.results import AnalysisResults


@dataclass(frozen=True)
class Column:
    """A column of the printed table: where it comes from and what it means."""

    name: str
    title: str
    show: Callable[[Any], str]
    meaning: str


def _fixed(digits: int) -> Callable[[Any], str]:
    return lambda value: f"{value:,.{digits}f}"


METRIC_COLUMNS = (
    Column("tokens_observed", "tokens", _fixed(0), "real tokens that were measured"),
    Column("d_pr", "dim (PR)", _fixed(1), "participation ratio of the covariance eigenvalues"),
    Column("d_pr_norm", "PR / d", _fixed(3), "the same as a share of the width d"),
    Column("d_entropy", "dim (entropy)", _fixed(1), "exp of the spectral entropy"),
    Column("stable_rank", "stable rank", _fixed(1), "total variance / largest eigenvalue"),
    Column("top1_share", "top 1", lambda value: f"{value:.1%}", "variance in the first direction"),
    Column("k90", "k90", _fixed(0), "directions that hold 90 % of the variance"),
    Column("log_spectrum_slope_10_200", "slope", _fixed(4), "of ln eigenvalue over ranks 10 to 200"),
    Column("cos_sim_mean", "mean cos", _fixed(3), "mean cosine between sampled tokens"),
)
NOVELTY_COLUMNS = (
    Column("linear_cka", "CKA next", _fixed(3), "debiased linear CKA with the next layer"),
    Column("feature_subspace_novelty", "novelty next", _fixed(3), "mean sine between leading subspaces"),
)


def summary(results: AnalysisResults, stream: TextIO) -> None:
    """Prints the table, what its columns mean, what to know about the numbers, and where the bundle is."""
    console = Console(file=stream, highlight=False)
    if not console.is_terminal:
        console = Console(file=stream, highlight=False, width=150)
    columns = _present(results)
    console.print(_table(results, columns))
    console.print(_legend(columns), style="dim")
    for line in _facts(results):
        console.print(line, markup=False)


def _present(results: AnalysisResults) -> list[Column]:
    frames = ((METRIC_COLUMNS, results.metrics), (NOVELTY_COLUMNS, results.novelty))
    return [column for columns, frame in frames for column in columns if column.name in frame.columns]


def _table(results: AnalysisResults, columns: list[Column]) -> Table:
    metadata = results.metadata
    model = f"{metadata['model_id']} ({metadata['model_class']})"
    title = f"{model}, {metadata['hook_point']}, on {metadata['dataset']}"
    table = Table(title=title, title_justify="left")
    for heading in ("layer", *(column.title for column in columns)):
        table.add_column(heading, justify="right")
    rows = _by_layer(results)
    for layer, values in rows.items():
        table.add_row(str(layer), *(_cell(column, values.get(column.name)) for column in columns))
    return table


def _by_layer(results: AnalysisResults) -> dict[int, dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for frame in (results.metrics, results.novelty):
        for record in frame.to_dict("records"):
            rows.setdefault(int(record["layer"]), {}).update(
                {str(key): value for key, value in record.items()}
            )
    return rows


def _cell(column: Column, value: Any) -> str:
    return "-" if value is None or pd.isna(value) else column.show(value)


def _legend(columns: list[Column]) -> str:
    return "; ".join(f"{column.title}: {column.meaning}" for column in columns) + "."


def _facts(results: AnalysisResults) -> list[str]:
    metadata = results.metadata
    padding = metadata["padding_observed"]
    facts = [
        f"{metadata['tokens_observed']:,} tokens in {metadata['batches_observed']} batches; "
        f"{padding:,} padding positions left out."
    ]
    for note in metadata["warnings"]:
        facts.append(f"Note: {note}.")
    seconds = {name: value for name, value in metadata["seconds"].items() if value >= 0.05}
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    facts.append(f"Time: {metadata['runtime_sec']:.1f} s ({parts}).")
    facts.append(f"Results: {results.artifact_dir}" if results.artifact_dir else "Results were not saved.")
    return facts
