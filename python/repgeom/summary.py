"""Results as a person wants to read them in a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

import pandas as pd
from rich.console import Console
from rich.measure import Measurement
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


# In order of importance: a narrow terminal keeps the first ones.
COLUMNS = (
    Column("tokens_observed", "tokens", _fixed(0), "real tokens that were measured"),
    Column("id_two_nn", "ID (2NN)", _fixed(1), "intrinsic dimension of the sampled tokens by TwoNN"),
    Column("id_two_nn_se", "+-", _fixed(1), "its standard error"),
    Column("neighbor_overlap", "overlap next", _fixed(3), "nearest neighbours shared with the next layer"),
    Column("label_overlap", "label overlap", _fixed(3), "nearest neighbours with the same label"),
    Column(
        "H1_count", "loops", _fixed(0), "bars of dimension 1 of the sampled tokens' Vietoris-Rips complex"
    ),
    Column(
        "H1_max_lifetime_share",
        "longest",
        _fixed(3),
        "the longest of them / enclosing radius",
    ),
    Column("d_pr", "dim (PR)", _fixed(1), "participation ratio of the covariance eigenvalues"),
    Column("d_entropy", "dim (entropy)", _fixed(1), "exp of the spectral entropy"),
    Column("top1_share", "top 1", lambda value: f"{value:.1%}", "variance in the first direction"),
    Column(
        "k90",
        "k90",
        lambda value: "-" if value < 0 else f"{value:,.0f}",
        "directions that hold 90 % of the variance",
    ),
    Column("linear_cka", "CKA next", _fixed(3), "{cka} linear CKA with the next measured layer"),
    Column("feature_subspace_novelty", "novelty next", _fixed(3), "mean sine of the angles to its subspace"),
    Column("d_pr_norm", "PR / d", _fixed(3), "dim (PR) as a share of the width d"),
    Column("stable_rank", "stable rank", _fixed(1), "total variance / largest eigenvalue"),
    Column("cos_sim_mean", "mean cos", _fixed(3), "mean cosine between sampled tokens"),
    Column("log_spectrum_slope_10_200", "slope", _fixed(4), "of ln eigenvalue, ranks 10 to min(200, rank)"),
)
WIDE = 160
WIDEST_TEXT = 110


def summary(results: AnalysisResults, stream: TextIO) -> None:
    """Prints the table, what its columns mean, what to know about the numbers, and where the bundle is."""
    console = Console(file=stream, highlight=False)
    width = console.width if console.is_terminal else WIDE
    console = Console(file=stream, highlight=False, width=width, soft_wrap=True)
    columns = _fitting(results, width)
    for line in _title(results):
        console.print(line, style="bold", markup=False)
    if len(results.metrics):
        console.print(_table(results, columns))
    for line in (*_legend(results, columns), *_facts(results)):
        console.print(textwrap.fill(line, min(width, WIDEST_TEXT), break_on_hyphens=False), markup=False)


def _present(results: AnalysisResults) -> list[Column]:
    frames = (results.metrics, results.novelty)
    asked = (name for name in results.metadata["metrics"] if name not in {c.name for c in COLUMNS})
    own = (Column(name, name, lambda value: f"{value:.4g}", "a metric of yours") for name in asked)
    # Those of the user stand before what a narrow terminal drops.
    ordered = (COLUMNS[0], *own, *COLUMNS[1:])
    return [column for column in ordered if any(column.name in frame.columns for frame in frames)]


def _fitting(results: AnalysisResults, width: int) -> list[Column]:
    """The most important columns whose numbers fit whole."""
    columns = _present(results)
    ruler = Console(width=10_000)
    while len(columns) > 1:
        if Measurement.get(ruler, ruler.options, _table(results, columns)).maximum <= width:
            break
        columns.pop()
    return columns


def _title(results: AnalysisResults) -> list[str]:
    metadata = results.metadata
    kind = f" ({metadata['model_class']})" if metadata["model_class"] else ""
    return [f"{metadata['model_id']}{kind}, {metadata['hook_point']}, on {metadata['dataset']}"]


def _table(results: AnalysisResults, columns: list[Column]) -> Table:
    table = Table()
    place = _place(results)
    for heading in (place, *(column.title for column in columns)):
        table.add_column(heading, justify="left" if heading == "site" else "right", no_wrap=True)
    for where, values in _by_place(results).items():
        table.add_row(where, *(_cell(column, values.get(column.name)) for column in columns))
    return table


def _place(results: AnalysisResults) -> str:
    """The column that tells the rows apart."""
    return "site" if "site" in results.metrics.columns else "layer"


def _by_place(results: AnalysisResults) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for frame in (results.metrics, results.novelty):
        for record in frame.to_dict("records"):
            rows.setdefault(str(record[_place(results)]), {}).update(
                {str(key): value for key, value in record.items()}
            )
    return rows


def _cell(column: Column, value: Any) -> str:
    return "-" if value is None or pd.isna(value) else column.show(value)


def _legend(results: AnalysisResults, columns: list[Column]) -> list[str]:
    metadata = results.metadata
    cka = "biased" if metadata["compat"] else "debiased"
    lines = ["; ".join(f"{column.title}: {column.meaning.format(cka=cka)}" for column in columns) + "."]
    if metadata["hook_point"] == "residual_input":
        lines.append(
            "Layer i is what enters block i, layer 0 the embedding; what leaves the last block is "
            "measured with --hook-point residual_output."
        )
    hidden = len(_present(results)) - len(columns)
    if hidden:
        lines.append(f"{hidden} more columns do not fit this terminal; all are in the results.")
    others = [f"diagnostic {name}" for name in results.diagnostics]
    others += ["router statistics"] if len(results.router) else []
    others += ["pooled sequence vectors"] if metadata.get("pool") else []
    lines += [f"Also in the results: {', '.join(others)}."] if others else []
    return lines if columns else []


def _facts(results: AnalysisResults) -> list[str]:
    metadata = results.metadata
    padding = metadata["padding_observed"]
    plural = "" if metadata["batches_observed"] == 1 else "es"
    facts = [
        f"{metadata['tokens_observed']:,} tokens in {metadata['batches_observed']} batch{plural}; "
        f"{padding:,} padding positions left out."
    ]
    facts += _removed(results)
    facts += [f"Note: {note}." for note in [*metadata["warnings"], *_remarks(results)]]
    seconds = {name: value for name, value in metadata["seconds"].items() if value >= 0.05}
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    facts.append(f"Time: {metadata['runtime_sec']:.1f} s ({parts}).")
    facts.append(f"Results: {results.artifact_dir}" if results.artifact_dir else "Results were not saved.")
    return facts


def _removed(results: AnalysisResults) -> list[str]:
    """What the token policy left out, and how much of the variance that was."""
    table = results.diagnostics.get("removed_tokens")
    facts = []
    for reason, count in results.metadata.get("tokens_removed", {}).items():
        shares = [] if table is None else table.loc[table["reason"] == reason, "variance_share"].tolist()
        carried = f", {min(shares):.1%} to {max(shares):.1%} of a layer's variance" if shares else ""
        facts.append(f"Left out by the token policy ({reason}): {count:,} tokens{carried}.")
    return facts


def _remarks(results: AnalysisResults) -> list[str]:
    """What the rows say about themselves, once for all layers that say the same."""
    layers: dict[str, list[str]] = {}
    for record in results.metrics.to_dict("records"):
        status, note = str(record.get("status", "ok")), str(record.get("note") or "")
        if status != "ok" or note:
            remark = f"{status}: {note}" if note and status != "ok" else note or status
            layers.setdefault(remark, []).append(str(record[_place(results)]))
    return [f"{_place(results)} {', '.join(which)}: {remark}" for remark, which in layers.items()]
