"""One pass over the batches: activations go to mergeable statistics as they appear."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from repgeom.arrays import Float64Array
from repgeom.covariance import Covariance, Workspace
from repgeom.sampling import Draw, IntArray, TokenSample
from repgeom.tokens import TokenBatch


@dataclass
class LayerStatistics:
    """What is kept of one layer: moments of all its tokens, and rows of the sampled ones.

    Attributes:
        layer: Index of the layer.
        site: Where its activations are read.
        covariance: None before the width is known.
        rows: ``[limit, d]`` the sampled rows, float32 (float64 for float64 activations).
    """

    layer: int
    site: str
    covariance: Covariance | None = None
    rows: Tensor | None = None

    @property
    def width(self) -> int | None:
        """Width of the activations, once known."""
        return None if self.covariance is None else self.covariance.dim


@dataclass
class SampledTokens:
    """Token ids, sequence numbers and positions of the sample, by place; -1 where unknown."""

    token_ids: IntArray
    sequence_ids: IntArray
    positions: IntArray

    @classmethod
    def empty(cls, limit: int) -> SampledTokens:
        """Room for ``limit`` tokens."""
        return cls(*(np.full(limit, -1, np.int64) for _ in range(3)))


@dataclass
class Collector:
    """Statistics of all layers, fed batch by batch.

    Call :meth:`begin` before the forward of a batch and give :meth:`add` to the capture as its
    ``on_activation``.

    Attributes:
        layers: Statistics by site.
        sample: Which tokens are in the paired sample.
        tokens: What is known of those tokens.
        seconds: Time by activity.
        n_tokens: Tokens counted.
        n_padding: Padding positions that the model saw.
        n_batches: Batches begun.
    """

    layers: dict[str, LayerStatistics]
    sample: TokenSample
    threads: int | None = None
    tokens: SampledTokens = field(init=False)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    n_tokens: int = 0
    n_padding: int = 0
    n_batches: int = 0
    _workspace: Workspace = field(default_factory=Workspace)
    _batch: TokenBatch | None = None
    _weights: Float64Array | None = None
    _draw: Draw | None = None
    _positions: IntArray | None = None

    def __post_init__(self) -> None:
        self.tokens = SampledTokens.empty(self.sample.limit)

    @contextmanager
    def timed(self, activity: str) -> Iterator[None]:
        """Adds the time of the block to ``seconds[activity]``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[activity] += time.perf_counter() - start

    def allocate(self, width: int, dtype: torch.dtype) -> None:
        """Makes the statistics of all layers, when their width is known beforehand.

        Made during the first forward, between its temporary tensors, they would keep the memory of those from
        being given back.
        """
        for layer in self.layers.values():
            self._allocate(layer, width, dtype)

    def _allocate(self, layer: LayerStatistics, width: int, dtype: torch.dtype) -> None:
        layer.covariance = Covariance(width, threads=self.threads, workspace=self._workspace)
        kept = torch.float64 if dtype == torch.float64 else torch.float32
        layer.rows = torch.zeros(self.sample.limit, width, dtype=kept)

    def begin(self, batch: TokenBatch) -> None:
        """Announces the batch whose activations come next."""
        self._batch, self._draw, self._weights, self._positions = batch, None, None, None
        self.n_batches += 1
        self.n_padding += batch.n_padding
        if batch.keep is None:
            return  # how many rows there are is known with the first activation
        keep = batch.keep.reshape(-1).cpu().numpy()
        if not keep.all():
            self._weights = keep.astype(np.float64)
        self._draw_tokens(np.flatnonzero(keep))

    def add(self, site: str, activation: Tensor) -> None:
        """Takes one activation, ``[batch, seq, d]``; the callback of a capture."""
        rows = self._rows(site, activation)
        if self._draw is None:
            self._draw_tokens(np.arange(len(rows)))
        layer = self.layers[site]
        if layer.covariance is None:
            self._allocate(layer, rows.shape[1], rows.dtype)
        assert layer.covariance is not None
        if layer.covariance.dim != rows.shape[1]:
            raise ValueError(
                f"{site}: all batches must have the same width, "
                f"got {rows.shape[1]} after {layer.covariance.dim}"
            )
        with self.timed("covariance"):
            layer.covariance.update(rows, self._weights)
        with self.timed("sample"):
            self._keep_sampled(layer, rows)

    def _rows(self, site: str, activation: Tensor) -> Tensor:
        """The activation as ``[n, d]`` in host memory, one row per position of the batch."""
        if activation.ndim < 2:
            raise ValueError(
                f"{site}: activations must be [..., d] with d channels, got shape {tuple(activation.shape)}"
            )
        rows = activation.reshape(-1, activation.shape[-1])
        if rows.stride(-1) != 1:
            rows = rows.contiguous()
        keep = None if self._batch is None else self._batch.keep
        leading = activation.shape[:-1]
        if keep is not None and leading not in (keep.shape, (keep.numel(),)):
            raise ValueError(
                f"{site}: activations must be [batch, seq, d] of the batch {tuple(keep.shape)}, "
                f"got shape {tuple(activation.shape)}"
            )
        return rows if rows.device.type == "cpu" else rows.cpu()

    def _draw_tokens(self, positions: IntArray) -> None:
        """Chooses the sampled tokens of a batch; ``positions`` are the flat positions that count."""
        draw = self.sample.draw(len(positions))
        self.n_tokens += len(positions)
        self._draw, self._positions = draw, positions[draw.rows]
        batch = self._batch
        if batch is None or batch.keep is None:
            return
        width = batch.keep.shape[1]
        self.tokens.positions[draw.slots] = self._positions % width
        if batch.token_ids is not None:
            self.tokens.token_ids[draw.slots] = batch.token_ids.reshape(-1)[self._positions].cpu().numpy()
        if batch.sequence_ids is not None:
            self.tokens.sequence_ids[draw.slots] = batch.sequence_ids[self._positions // width].cpu().numpy()

    def _keep_sampled(self, layer: LayerStatistics, rows: Tensor) -> None:
        if self._draw is None or self._positions is None or layer.rows is None or not len(self._positions):
            return
        chosen = rows.index_select(0, torch.from_numpy(self._positions))
        layer.rows[torch.from_numpy(self._draw.slots)] = chosen.to(layer.rows.dtype)


@dataclass(frozen=True)
class PairedRows:
    """The sample as measurements read it: the same tokens in every layer, in the order of the stream.

    Attributes:
        rows: ``[m, d]`` by layer; a row may hold NaN or infinity.
        finite: bool ``[m]`` by layer, where all of the row is finite.
        tokens: Ids, sequence numbers and positions of the m tokens.
        index: int64 ``[m]``, positions in the stream of counted tokens.
    """

    rows: Mapping[int, Float64Array]
    finite: Mapping[int, npt.NDArray[np.bool_]]
    tokens: SampledTokens
    index: IntArray


def paired_rows(collector: Collector) -> PairedRows:
    """Reads the sample."""
    order = collector.sample.order()
    rows = {
        layer.layer: layer.rows[torch.from_numpy(order)].numpy()
        for layer in collector.layers.values()
        if layer.rows is not None
    }
    tokens = collector.tokens
    return PairedRows(
        rows,
        {layer: np.isfinite(values).all(axis=1) for layer, values in rows.items()},
        SampledTokens(tokens.token_ids[order], tokens.sequence_ids[order], tokens.positions[order]),
        collector.sample.index[order],
    )
