"""What figures of diagrams show: every bar, at its place, and what was left out."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from repgeom.diagrams import PersistenceDiagrams
from repgeom.homology import rips
from repgeom.homology_plots import (
    persistence_figure,
    plot_barcode,
    plot_betti_curves,
    plot_diagram,
    plot_landscape,
)


def circle(n: int = 120) -> np.ndarray:
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 2 * np.pi, n)
    return np.c_[np.cos(angles), np.sin(angles)] + 0.1 * rng.normal(size=(n, 2))


@pytest.fixture(scope="module")
def loop() -> PersistenceDiagrams:
    return rips(circle(), 1)


def texts(figure: Any) -> str:
    figure.canvas.draw()
    found = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    return "\n".join(found)


def test_a_diagram_has_every_bar(loop: PersistenceDiagrams):
    ax = plot_diagram(loop)
    offsets = [np.asarray(points.get_offsets()) for points in ax.collections]
    assert len(offsets) == 2
    assert offsets[0][:-1] == pytest.approx(loop[0])
    assert offsets[1] == pytest.approx(loop[1])
    # The component that never dies lies on the dashed line, above all deaths.
    line = next(line for line in ax.lines if line.get_linestyle() == "--")
    assert offsets[0][-1, 1] == line.get_ydata()[0] > max(bars[:, 1].max() for bars in loop)
    said = texts(ax.figure)
    assert "H0: 119 + 1 that never dies" in said
    assert f"H1: {len(loop[1])}" in said
    assert "birth (Euclidean distance)" in said


def bars_drawn(ax: Any) -> list[tuple[float, float, float]]:
    """Height on the page, start and end of every bar."""
    return sorted((bar.get_y(), bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches)


def test_a_barcode_has_the_longest_bars_and_says_how_many_there_are(loop: PersistenceDiagrams):
    ax = plot_barcode(loop, longest=5)
    drawn = bars_drawn(ax)
    assert len(drawn) == 10
    loops = sorted(loop[1].tolist(), key=lambda bar: bar[1] - bar[0])[-5:]
    assert [bar[1:] for bar in drawn[5:]] == [pytest.approx(bar) for bar in loops]
    lengths = np.sort(loop[0][:, 1])[-4:]
    assert [bar[2] for bar in drawn[:4]] == pytest.approx(lengths)
    assert drawn[4][2] > loop[1].max()
    assert "H0\n5 longest\nof 120" in texts(ax.figure)
    every = plot_barcode(loop, longest=1000)
    assert len(bars_drawn(every)) == 120 + len(loop[1])
    assert f"H1\n{len(loop[1])} bars" in texts(every.figure)


def test_betti_curves_are_exact(loop: PersistenceDiagrams):
    ax = plot_betti_curves(loop)
    for dim, line in enumerate(ax.lines):
        scales, counts = line.get_data()
        assert counts.tolist() == loop.betti_curve(dim, scales).tolist()
        assert set(np.unique(loop.bars(dim))) <= set(scales)
        # Steps go right: between two scales nothing changes.
        middle = (scales[1:] + scales[:-1]) / 2
        assert loop.betti_curve(dim, middle).tolist() == counts[:-1].tolist()
        assert line.get_drawstyle() == "steps-post"


def test_a_landscape_has_its_peaks(loop: PersistenceDiagrams):
    ax = plot_landscape(loop, 1, depth=2)
    highest = ax.lines[-1].get_ydata().max()
    assert highest == pytest.approx(loop.maximum_lifetime(1) / 2)
    assert len(ax.lines) == 2
    assert ax.get_ylabel() == "landscape of H1"


def test_the_figure_says_what_it_shows(loop: PersistenceDiagrams, tmp_path: Path):
    path = tmp_path / "figure.png"
    figure = persistence_figure(loop, path, "a circle")
    assert path.read_bytes().startswith(b"\x89PNG")
    said = texts(figure)
    for text in ("a circle", "n = 120, coefficients Z/2, enclosing radius", "barcode", "Betti curves"):
        assert text in said
    assert len(figure.axes) == 3
    landmarks = persistence_figure(rips(circle(), 1, landmarks=20, threshold=1.0, min_persistence=0.01))
    said = texts(landmarks)
    for text in ("landmarks, no point farther than", "threshold 1", "bars up to 0.01 left out"):
        assert text in said


def test_nothing_overlaps_and_nothing_is_cut_off(loop: PersistenceDiagrams):
    for diagrams in (loop, rips(np.random.default_rng(0).normal(size=(80, 5)), 2)):
        figure = persistence_figure(diagrams, title="a title")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        boxes = [ax.get_tightbbox(renderer) for ax in figure.axes]
        for box in boxes:
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= figure.bbox.width
            assert box.y1 <= figure.bbox.height
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:i])
            assert box.width > 0.3 * figure.bbox.width
        labels = [label.get_window_extent(renderer) for label in figure.axes[1].get_yticklabels()]
        assert not any(a.overlaps(b) for i, a in enumerate(labels) for b in labels[:i])


def test_a_loop_that_never_dies_is_drawn_to_the_threshold():
    diagrams = rips(circle(), 1, threshold=1.0)
    assert len(diagrams.infinite[1]) == 1
    ax = plot_betti_curves(diagrams)
    scales, counts = ax.lines[1].get_data()
    assert scales[-1] == 1.0
    assert counts[-1] == 1
    assert bars_drawn(plot_barcode(diagrams))[-1][2] > 1.0


@pytest.mark.parametrize("points", [np.zeros((1, 2)), np.zeros((5, 2)), np.array([[0.0], [1.0]])])
def test_small_clouds_have_figures(points: np.ndarray, tmp_path: Path):
    diagrams = rips(points, 2)
    persistence_figure(diagrams, tmp_path / "figure.svg")
    persistence_figure(rips(points, 2, threshold=0.0), tmp_path / "apart.png")
    assert "no bars in H1" in texts(plot_landscape(diagrams, 1).figure)


def test_diagrams_of_other_programs_have_figures(tmp_path: Path):
    empty = PersistenceDiagrams.from_ripser([np.zeros((0, 2)), np.zeros((0, 2))])
    assert "no bars" in texts(persistence_figure(empty, tmp_path / "empty.png"))
    one = PersistenceDiagrams.from_ripser([np.array([[-1.0, 2.0], [-2.0, math.inf]])])
    figure = persistence_figure(one, tmp_path / "one.pdf")
    assert "birth (scale)" in texts(figure)
    assert figure.axes[0].get_xlim()[0] < -2


def test_axes_of_ones_own_are_used(loop: PersistenceDiagrams):
    ax = Figure().subplots()
    for plot in (plot_diagram, plot_barcode, plot_betti_curves):
        assert plot(loop, ax) is ax
    assert plot_landscape(loop, 1, ax) is ax


def test_bad_arguments_are_named(loop: PersistenceDiagrams):
    with pytest.raises(ValueError, match="longest must be an integer of at least 1"):
        plot_barcode(loop, longest=0)
    with pytest.raises(ValueError, match="dim must be at most max_dim = 1"):
        plot_landscape(loop, 2)
    with pytest.raises(ValueError, match="depth must be an integer of at least 1"):
        plot_landscape(loop, 1, depth=0)


def test_without_matplotlib_the_error_says_what_to_install():
    program = (
        "import sys; sys.modules['matplotlib'] = None; sys.modules['matplotlib.figure'] = None\n"
        "from repgeom.diagrams import PersistenceDiagrams as P\n"
        "from repgeom.homology_plots import persistence_figure\n"
        "try: persistence_figure(P.from_ripser([[[0, 1]]]))\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "figures need matplotlib: pip install 'repgeom[plot]'"
