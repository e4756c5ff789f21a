"""Figures of persistence diagrams, with matplotlib (``pip install 'repgeom[plot]'``)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from repgeom.checks import FloatArray, check_integer
from repgeom.diagrams import PersistenceDiagrams

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito: told apart with any colour vision; markers differ too.
_COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS: Final = ("o", "^", "s", "D", "v", "P", "X")
_LONGEST: Final = 40
_UNITS: Final = {"euclidean": "Euclidean", "precomputed": "given", "chebyshev": "Chebyshev"}


def plot_diagram(diagrams: PersistenceDiagrams, ax: Axes | None = None) -> Axes:
    """Birth and death of every bar, one colour and marker for each dimension.

    The farther a point is above the diagonal, the longer its bar. Bars that never die lie on a dashed line at
    the top.

    Args:
        diagrams: Of one cloud.
        ax: Where to draw; None: a figure of its own, ``ax.figure``.

    Raises:
        ImportError: No matplotlib.
    """
    ax = _axes(ax, (5.2, 5.2))
    low, high = _range(diagrams)
    top = high + 0.09 * (high - low)
    pad = 0.04 * (high - low)
    ax.plot([low, high], [low, high], color="0.6", linewidth=1, zorder=1)
    if any(len(births) for births in diagrams.infinite):
        ax.axhline(top, color="0.4", linewidth=1, linestyle="--", zorder=1)
        ax.annotate(
            "never dies", (0.98, top), (0, -3), ax.get_yaxis_transform(), "offset points",
            ha="right", va="top", fontsize="small", color="0.3",
        )  # fmt: skip
    many = sum(len(bars) for bars in diagrams) > 300
    for dim in _drawn(diagrams):
        bars, births = diagrams[dim], diagrams.infinite[dim]
        x = np.concatenate([bars[:, 0], births])
        y = np.concatenate([bars[:, 1], np.full(len(births), top)])
        ax.scatter(
            x, y, s=14 if many else 24, marker=_MARKERS[dim % len(_MARKERS)], color=_color(dim),
            alpha=0.55 if many else 0.8, linewidths=0, label=_counted(diagrams, dim), zorder=3,
            clip_on=False,
        )  # fmt: skip
    ax.set_xlim(low - pad, high + pad)
    ax.set_ylim(low - pad, top + pad)
    ax.set_aspect("equal", adjustable="box")
    ax.set_xlabel(f"birth ({_unit(diagrams)})")
    ax.set_ylabel(f"death ({_unit(diagrams)})")
    _legend(ax, "lower right")
    return ax


def plot_barcode(diagrams: PersistenceDiagrams, ax: Axes | None = None, *, longest: int = _LONGEST) -> Axes:
    """Every bar from its birth to its death, the longest of a dimension on top and drawn bold.

    Bars that never die end in an arrow.

    Args:
        diagrams: Of one cloud.
        ax: As in :func:`plot_diagram`.
        longest: Bars to draw of each dimension; the label says how many there are.

    Raises:
        ImportError: No matplotlib.
    """
    check_integer("longest", longest, 1)
    ax = _axes(ax, (7, 5))
    low, high = _range(diagrams)
    ax.set_xlim(low - 0.02 * (high - low), high + 0.05 * (high - low))
    row, ticks, labels = 0.0, [], []
    for dim in _drawn(diagrams):
        births, deaths, total = _longest_bars(diagrams, dim, longest)
        # Every dimension has the same height, however many bars it has.
        step = 1 / max(len(births), 16)
        rows = row + (np.arange(len(births)) + 0.5) * step
        # Apart from the next one, which its edge would hide.
        rows[-1] += max(0.5 * step, 0.03)
        endless = np.isinf(deaths)
        ends = np.where(endless, high + 0.035 * (high - low), deaths)
        bold = np.arange(len(births)) == len(births) - 1
        for chosen, height, alpha, edge in ((~bold, 0.6, 0.6, 0.0), (bold, 1.0, 1.0, 1.0)):
            # Snapping to pixels would lose bars thinner than one.
            ax.barh(
                rows[chosen], (ends - births)[chosen], height * step, births[chosen],
                color=_color(dim), alpha=alpha, linewidth=edge, edgecolor=_color(dim), snap=False,
            )  # fmt: skip
        if endless.any():
            ax.plot(ends[endless], rows[endless], ">", color=_color(dim), markersize=6, clip_on=False)
        every = f"{total} bar{'s' * (total > 1)}"
        shown = f"{len(births)} longest\nof {total}" if len(births) < total else every
        last = max(float(rows[-1]), row + 0.4)
        ticks.append((row + last) / 2)
        labels.append(f"H{dim}\n{shown}")
        row = last + 0.2
        ax.axhline(row - 0.1, color="0.85", linewidth=0.8)
    ax.set_yticks(ticks, labels)
    ax.tick_params(axis="y", length=0)
    for label, dim in zip(ax.get_yticklabels(), _drawn(diagrams), strict=True):
        label.set_color(_color(dim))
    ax.set_ylim(-0.1, max(row - 0.1, 0.9))
    ax.set_xlabel(_scale(diagrams))
    return ax


def plot_betti_curves(diagrams: PersistenceDiagrams, ax: Axes | None = None) -> Axes:
    """How many classes of every dimension are alive at every scale, exactly; linear to 1, logarithmic above.

    Args:
        diagrams: Of one cloud.
        ax: As in :func:`plot_diagram`.

    Raises:
        ImportError: No matplotlib.
    """
    ax = _axes(ax, (7, 4))
    from matplotlib.ticker import NullLocator

    low, high = _range(diagrams)
    threshold = math.inf if diagrams.threshold is None or diagrams.enclosing else diagrams.threshold
    most = 1
    for dim in range(len(diagrams)):
        # Nothing changes between births and deaths.
        scales = np.unique(diagrams.bars(dim, math.inf))
        scales = np.unique(np.concatenate([[low, high], scales[np.isfinite(scales)]]))
        scales = scales[scales <= min(high, threshold)]
        counts = diagrams.betti_curve(dim, scales)
        most = max(most, int(counts.max()))
        style = ("-", "--", "-.", ":")[dim % 4]
        ax.step(scales, counts, where="post", color=_color(dim), linestyle=style, label=f"H{dim}")
    ax.set_yscale("symlog", linthresh=1, linscale=0.5)
    decades = [10**k for k in range(math.ceil(math.log10(most)) + 1)]
    ticks = [0, *(step * decade for decade in decades for step in ((1, 2, 5) if most < 100 else (1,)))]
    ax.set_yticks(ticks, [str(tick) for tick in ticks])
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_ylim(-0.08, 1.6 * most)
    ax.set_xlim(low - 0.02 * (high - low), high + 0.05 * (high - low))
    ax.set_xlabel(_scale(diagrams))
    ax.set_ylabel("Betti number")
    ax.grid(axis="y", color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    _legend(ax, "best")
    return ax


def plot_landscape(
    diagrams: PersistenceDiagrams, dim: int = 1, ax: Axes | None = None, *, depth: int = 5
) -> Axes:
    """The first functions of the persistence landscape of one dimension, the highest darkest.

    Args:
        diagrams: Of one cloud; bars that never die are left out.
        dim: The dimension.
        ax: As in :func:`plot_diagram`.
        depth: Functions.

    Raises:
        ImportError: No matplotlib.
    """
    check_integer("depth", depth, 1)
    bars = diagrams.bars(dim)
    ax = _axes(ax, (7, 4))
    low = float(bars[:, 0].min(initial=math.inf)) if len(bars) else 0.0
    high = float(bars[:, 1].max(initial=low + 1e-300)) if len(bars) else 1.0
    # Between the corners of the tents the functions are straight, apart from where two cross.
    grid = np.unique(np.concatenate([np.linspace(low, high, 1000), bars.ravel(), bars.mean(axis=1)]))
    values = diagrams.landscape(dim, grid, depth)
    for k in range(min(depth, len(bars)) - 1, -1, -1):
        alpha = 1 - 0.75 * k / depth
        ax.plot(grid, values[k], color=_color(dim), alpha=alpha, linewidth=1.6, label=f"{k + 1}")
    ax.set_xlim(low, high)
    ax.set_ylim(bottom=0)
    ax.set_xlabel(_scale(diagrams))
    ax.set_ylabel(f"landscape of H{dim}")
    if len(bars):
        handles, labels = ax.get_legend_handles_labels()
        ax.legend(handles[::-1], labels[::-1], frameon=False, title="function")
    else:
        _empty(ax, f"no bars in H{dim}")
    return ax


def persistence_figure(
    diagrams: PersistenceDiagrams, path: str | Path | None = None, title: str | None = None
) -> Figure:
    """Diagram, barcode and Betti curves of one cloud, with what is known of it below.

    Args:
        diagrams: Of one cloud.
        path: Also write it there, as PNG, PDF or SVG.
        title: Above the figure.

    Raises:
        ImportError: No matplotlib.
    """
    figure = _figure((11, 6))
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.15), height_ratios=(1.5, 1))
    ax = figure.add_subplot(grid[:, 0])
    plot_diagram(diagrams, ax)
    ax.set_title("persistence diagram", fontsize="medium")
    above = figure.add_subplot(grid[0, 1])
    below = figure.add_subplot(grid[1, 1], sharex=above)
    plot_barcode(diagrams, above)
    above.tick_params(axis="x", labelbottom=False)
    above.set_xlabel("")
    above.set_title("barcode", fontsize="medium")
    plot_betti_curves(diagrams, below)
    below.set_title("Betti curves", fontsize="medium")
    figure.supxlabel(_caption(diagrams), fontsize="small", color="0.3")
    if title is not None:
        figure.suptitle(title)
    if path is not None:
        figure.savefig(Path(path), dpi=150)
    return figure


def _figure(size: tuple[float, float]) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'repgeom[plot]'") from error
    return Figure(figsize=size, layout="constrained")


def _axes(ax: Axes | None, size: tuple[float, float]) -> Any:
    return _figure(size).subplots() if ax is None else ax


def _drawn(diagrams: PersistenceDiagrams) -> list[int]:
    """Dimensions that have bars."""
    return [d for d in range(len(diagrams)) if len(diagrams[d]) + len(diagrams.infinite[d])]


def _color(dim: int) -> str:
    return _COLORS[dim % len(_COLORS)]


def _range(diagrams: PersistenceDiagrams) -> tuple[float, float]:
    """Scales to show: from 0 (or the least birth) to the last birth or death, and never an empty range."""
    ends = [bars.astype(np.float64).ravel() for bars in (*diagrams.finite, *diagrams.infinite)]
    values = np.concatenate([[0.0], *ends])
    endless = sum(len(births) for births in diagrams.infinite)
    if endless > 1 and diagrams.threshold is not None and math.isfinite(diagrams.threshold):
        # What is alive at the threshold is known to live until there.
        values = np.append(values, diagrams.threshold)
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low, low + 1.0)


def _longest_bars(
    diagrams: PersistenceDiagrams, dim: int, longest: int
) -> tuple[FloatArray, FloatArray, int]:
    """Births and deaths of the longest bars, the longest last, and how many bars there are."""
    bars = diagrams.bars(dim, math.inf)
    lengths = bars[:, 1] - bars[:, 0]
    order = np.lexsort((-bars[:, 0], lengths))[-longest:]
    return bars[order, 0], bars[order, 1], len(bars)


def _counted(diagrams: PersistenceDiagrams, dim: int) -> str:
    finite, endless = len(diagrams[dim]), len(diagrams.infinite[dim])
    parts = [f"{finite}"] * bool(finite) + [f"{endless} that never die{'s' * (endless == 1)}"] * bool(endless)
    return f"H{dim}: {' + '.join(parts)}"


def _unit(diagrams: PersistenceDiagrams) -> str:
    if diagrams.metric is None:
        return "scale"
    return f"{_UNITS.get(diagrams.metric, diagrams.metric)} distance"


def _scale(diagrams: PersistenceDiagrams) -> str:
    return "scale" if diagrams.metric is None else f"scale ({_unit(diagrams)})"


def _caption(diagrams: PersistenceDiagrams) -> str:
    """What is known of the diagrams, in words."""
    parts = []
    if diagrams.n is not None:
        parts.append(f"n = {diagrams.n}")
    if diagrams.cover_radius is not None:
        parts.append(f"landmarks, no point farther than {diagrams.cover_radius:.4g}")
    if diagrams.field is not None:
        parts.append(f"coefficients Z/{diagrams.field}")
    if diagrams.threshold is not None:
        which = "enclosing radius" if diagrams.enclosing else "threshold"
        parts.append(f"{which} {diagrams.threshold:.4g}")
    if diagrams.min_persistence:
        parts.append(f"bars up to {diagrams.min_persistence:.4g} left out")
    return ", ".join(parts)


def _legend(ax: Any, where: str) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=True, framealpha=0.9, edgecolor="0.85", loc=where, fontsize="small")
    else:
        _empty(ax, "no bars")


def _empty(ax: Any, text: str) -> None:
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color="0.4")
