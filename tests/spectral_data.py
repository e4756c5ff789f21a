"""Activations to measure, and the least that `spectrum` asks of a covariance."""

from __future__ import annotations

import dataclasses

import numpy as np

import reference


def layer(name: str) -> np.ndarray:
    return reference.array(f"in.spectral.{name}").astype(np.float64)


@dataclasses.dataclass
class Streamed:
    """The least that `spectrum` asks of a covariance."""

    rows: np.ndarray

    @property
    def count(self) -> int:
        return len(self.rows)

    @property
    def mean(self) -> np.ndarray:
        return self.rows.mean(axis=0) if self.count else np.full(self.rows.shape[1], np.nan)

    def covariance(self) -> np.ndarray:
        if self.count < 2:
            raise AssertionError("must not be asked of fewer than two rows")
        return np.cov(self.rows, rowvar=False)
