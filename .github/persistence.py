"""Draws .github/persistence.png: 500 points near a torus in R^50, with noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import repgeom as rg


def noisy_torus(n: int, seed: int = 0) -> np.ndarray:
    """Two angles, as cosines and sines, turned into R^50, with normal noise of 0.03 in every coordinate."""
    generator = np.random.default_rng(seed)
    angles = generator.uniform(0, 2 * np.pi, (n, 2))
    circles = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    turn = np.linalg.qr(generator.standard_normal((50, 4)))[0].T
    return circles @ turn + 0.03 * generator.standard_normal((n, 50))


if __name__ == "__main__":
    found = rg.rips(noisy_torus(500), max_dim=2)
    print(found)
    rg.persistence_figure(found, Path(__file__).with_suffix(".png"), title="500 points near a torus in R^50")
