"""Tokens that a policy leaves out of the statistics: how many, and how much of the variance they carried."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from repgeom.covariance import Covariance
from repgeom.sketches import NystromSketch


@dataclass
class Scatter:
    """Count, mean and total squared deviation of rows; add rows, merge another (Chan et al. 1979)."""

    count: Tensor | float = 0.0
    mean: Tensor | float = 0.0
    total: Tensor | float = 0.0

    def add(self, rows: Tensor) -> None:
        """Adds the rows ``[n, d]`` that are finite, without waiting for their device."""
        rows = rows.double()
        finite = rows.isfinite().all(dim=1)
        rows = torch.where(finite[:, None], rows, 0)
        count = finite.sum().double()
        mean = rows.sum(dim=0) / count.clamp(min=1)
        total = (torch.where(finite[:, None], rows - mean, 0) ** 2).sum()
        self.merge(Scatter(count, mean, total))

    def merge(self, other: Scatter) -> None:
        """Adds what another has seen."""
        both = self.count + other.count
        share = other.count / (both.clamp(min=1) if isinstance(both, Tensor) else max(both, 1.0))
        step = other.mean - self.mean
        squared = (step * step).sum() if isinstance(step, Tensor) else step * step
        self.total = self.total + other.total + squared * self.count * share
        self.mean = self.mean + step * share
        self.count = both


@dataclass
class RemovedTokens:
    """What was left out of one layer, by reason."""

    by_reason: dict[str, Scatter] = field(default_factory=dict)

    def add(self, reason: str, rows: Tensor) -> None:
        """Adds the rows ``[n, d]`` that were left out for a reason."""
        if len(rows):
            self.by_reason.setdefault(reason, Scatter()).add(rows)

    def table(self, kept: Covariance | NystromSketch) -> list[dict[str, Any]]:
        """One row per reason: tokens, their share of all real tokens, their share of the variance.

        With the mean m of all real tokens, kept or not, a group G carries the share
        ``sum_G |x - m|^2 / sum_all |x - m|^2``.
        """
        scatters = {reason: scatter for reason, scatter in self.by_reason.items() if float(scatter.count)}
        if not scatters or kept.count == 0:
            return []
        everything = Scatter(float(kept.count), torch.from_numpy(kept.mean), kept.trace(ddof=0) * kept.count)
        host = {name: Scatter(float(s.count), _cpu(s.mean), float(s.total)) for name, s in scatters.items()}
        for scatter in host.values():
            everything.merge(scatter)
        total = float(everything.total)
        rows = []
        for reason, scatter in host.items():
            distance = float(((scatter.mean - everything.mean) ** 2).sum())  # type: ignore[union-attr]
            carried = float(scatter.total) + float(scatter.count) * distance
            rows.append(
                {
                    "reason": reason,
                    "tokens": int(scatter.count),
                    "token_share": float(scatter.count) / float(everything.count),
                    "variance_share": carried / total if total > 0 else float("nan"),
                }
            )
        return rows


def _cpu(value: Tensor | float) -> Tensor:
    return value.cpu() if isinstance(value, Tensor) else torch.tensor(value)
