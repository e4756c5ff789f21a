"""Draws the README's picture: the geometry of the demo model beside that of the same model untrained.

python .github/demo_geometry.py    (needs the plot extra; writes demo_geometry.png beside itself)
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import repgeom as rg
from repgeom.demo import untrained_model

TRAINED, UNTRAINED = "#1f5fa8", "#c4622d"


def profiles() -> dict[str, rg.AnalysisResults]:
    """Both models on the same 100 000 tokens of the demo corpus."""
    model, tokenizer = rg.load_model()
    options = {"tokenizer": tokenizer, "hook_point": "residual_output", "max_length": 256, "progress": False}
    return {
        "trained": rg.analyze_model(model=model, **options),
        "untrained": rg.analyze_model(model=untrained_model(), **options),
    }


def draw(results: dict[str, rg.AnalysisResults], path: Path) -> None:
    """Three panels: dimension, anisotropy, spectrum of the last block."""
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, (dimension, leading, spectrum) = plt.subplots(1, 3, figsize=(9.6, 2.9), layout="constrained")
    for (name, result), color in zip(results.items(), (TRAINED, UNTRAINED), strict=True):
        table = result.metrics
        dimension.plot(table["layer"], table["d_pr"], "o-", color=color, label=name)
        leading.plot(table["layer"], 100 * table["top10_share"], "o-", color=color)
        eigenvalues = result.eigenvalues["layer_05"]
        spectrum.semilogy(np.arange(1, len(eigenvalues) + 1), eigenvalues / eigenvalues.sum(), color=color)
    dimension.set(title="participation ratio (of 128)", xlabel="block", ylim=(0, None))
    leading.set(title="variance in 10 directions, %", xlabel="block", ylim=(0, None))
    spectrum.set(title="spectrum after the last block", xlabel="rank", ylabel="share of variance")
    dimension.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    measured = profiles()
    for label, outcome in measured.items():
        print(label)
        columns = ["layer", "d_pr", "d_entropy", "top10_share", "k90", "rms_norm"]
        print(outcome.metrics[columns].round(3).to_string())
    draw(measured, Path(__file__).with_suffix(".png"))
