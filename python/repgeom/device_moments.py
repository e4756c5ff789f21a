"""Streaming moments on the device where the activations are: nothing is copied to the host, no kernel waited
for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repgeom.covariance import STATE_VERSION, Covariance

RUN = 512  # rows whose products are summed in the data's precision


class DeviceMoments:
    """Mean and scatter of rows of width ``dim``, kept as float64 tensors on a device.

    Runs of at most 512 rows are centred at their own mean, multiplied in float32 (float64 for float64 data)
    and added in float64 (Chan, Golub and LeVeque 1979). :meth:`to_covariance` gives the statistic with its
    error bound.

    Args:
        dim: Width d of the rows.
        device: Where the tensors live.
    """

    def __init__(self, dim: int, device: torch.device) -> None:
        self.dim = dim

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self._count, self._nonfinite = zeros(), zeros()
        self._mean, self._error, self._scatter = zeros(dim), zeros(dim), zeros(dim, dim)

    def update(self, rows: Tensor, keep: Tensor | None = None) -> None:
        """Adds the rows ``[n, d]`` where ``keep`` ``[n]`` is true; rows with NaN or infinity are left out and
        counted."""
        for start in range(0, len(rows), RUN):
            run = rows[start : start + RUN]
            wanted = torch.ones(len(run), dtype=torch.bool, device=run.device)
            if keep is not None:
                wanted = keep[start : start + RUN]
            self._add(run if run.dtype == torch.float64 else run.float(), wanted)

    def _add(self, run: Tensor, wanted: Tensor) -> None:
        finite = run.isfinite().all(dim=1)
        self._nonfinite += (wanted & ~finite).sum()
        used = (wanted & finite)[:, None]
        count = used.sum().double()
        mean = torch.where(used, run, 0).sum(dim=0, dtype=torch.float64) / count.clamp(min=1)
        centre = mean.to(run.dtype)
        centred = torch.where(used, run - centre, 0)
        with _full_precision(run.device):
            products = (centred.T @ centred).double()
        offset = mean - centre.double()
        self._error += (RUN + 3) * torch.finfo(run.dtype).eps / 2 * products.diagonal()
        self._merge(count, mean, products - count * torch.outer(offset, offset))

    def _merge(self, count: Tensor, mean: Tensor, scatter: Tensor) -> None:
        total = (self._count + count).clamp(min=1)
        step = mean - self._mean
        self._scatter += scatter + torch.outer(step, step) * (self._count * count / total)
        self._mean += step * (count / total)
        self._count += count

    def to_covariance(self, **options: Any) -> Covariance:
        """What has been seen, as a :class:`Covariance` on the host; ``options`` are those of its class."""
        scatter = self._scatter.cpu().numpy()
        count = int(self._count)
        covariance = Covariance(self.dim, **options)
        covariance.load_state_dict(
            {
                **covariance.state_dict(),
                "version": STATE_VERSION,
                "count": count,
                "nonfinite": int(self._nonfinite),
                "recentred": count,
                "weight_sum": float(count),
                "weight_square_sum": float(count),
                "second": scatter[np.tril_indices(self.dim)],
                "x_shift": self._mean.cpu().numpy(),
                "x_sum": np.zeros(self.dim),
                "x_square": scatter.diagonal().copy(),
                "x_error": self._error.cpu().numpy(),
            }
        )
        return covariance


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Products of float32 in float32, whatever the user allows elsewhere, mixed precision included."""
    with ExitStack() as stack:
        if torch.amp.is_autocast_available(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(_ieee(device))
        yield


@contextmanager
def _ieee(device: torch.device) -> Iterator[None]:
    cuda = getattr(torch.backends.cuda.matmul, "fp32_precision", None)
    if cuda is None:  # torch before 2.9
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    backend: Any = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    settings = backend.matmul
    kept = settings.fp32_precision
    settings.fp32_precision = "ieee"
    try:
        yield
    finally:
        settings.fp32_precision = kept
