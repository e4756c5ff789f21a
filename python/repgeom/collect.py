"""One pass over the batches: activations go to mergeable statistics as they appear."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from repgeom.arrays import Float64Array
from repgeom.covariance import Covariance
from repgeom.device_moments import DeviceMoments
from repgeom.layer_moments import Moments, MomentsPolicy
from repgeom.pooling import PooledVectors, Segments, SequenceSample
from repgeom.removed import RemovedTokens
from repgeom.routed import RouterCounts
from repgeom.routers import Router
from repgeom.rows import BatchRows
from repgeom.sampling import BitArray, Draw, IntArray, TokenSample, place_bits, stream_bits
from repgeom.sketches import NystromSketch
from repgeom.tokens import UNLABELED, TokenBatch

HIGH_NORM = "high_norm"


@dataclass
class LayerStatistics:
    """What is kept of one site: moments of all its tokens, rows of the sampled ones, pooled vectors.

    Attributes:
        layer: Index of the layer.
        site: Where its activations are read.
        name: What its arrays are called.
        hook_point: Which of the requested hook points it belongs to.
        missing: Why there is nothing to read; empty if there is.
        layout: "BSH" or "SBH", how activations come; "" if that is not known.
        width: Width of the activations, None before it is known.
        moments: Of the tokens that count, or a sketch of them; None if nobody needs them or before the width
            is known.
        rows: ``[limit, d]`` the sampled rows, float32 (float64 for float64 activations).
        pooled: Pooled vectors; None if nobody asked for them.
        removed: What a token policy left out.
    """

    layer: int
    site: str
    name: str = ""
    hook_point: str = ""
    missing: str = ""
    layout: str = "BSH"
    width: int | None = None
    moments: Moments | None = None
    rows: Tensor | None = None
    pooled: PooledVectors | None = None
    removed: RemovedTokens = field(default_factory=RemovedTokens)
    _nonfinite: Tensor | int = 0

    def __post_init__(self) -> None:
        self.name = self.name or f"layer_{self.layer:02d}"

    @property
    def covariance(self) -> Covariance | NystromSketch | None:
        """The moments, on the host; a sketch where they did not fit in memory."""
        if isinstance(self.moments, DeviceMoments):
            self.moments = self.moments.to_covariance()
        return self.moments

    @property
    def nonfinite(self) -> int:
        """Tokens that count and hold NaN or infinity."""
        return int(self._nonfinite) if self.covariance is None else self.covariance.nonfinite

    def count_nonfinite(self, rows: Tensor, keep: Tensor | None) -> None:
        """Looks for NaN and infinity where no moments are kept, without waiting for the device."""
        broken = ~rows.isfinite().all(dim=1)
        self._nonfinite = self._nonfinite + (broken if keep is None else broken & keep).sum()


@dataclass
class SampledTokens:
    """What is known of the sampled tokens, by place; -1 where unknown, -100 for labels.

    Attributes:
        token_ids: int64 ``[m]``.
        sequence_ids: Number of the sequence in the data.
        positions: Place in the sequence.
        labels: Of the token, or of its sequence.
    """

    token_ids: IntArray
    sequence_ids: IntArray
    positions: IntArray
    labels: IntArray

    @classmethod
    def empty(cls, limit: int) -> SampledTokens:
        """Room for ``limit`` tokens."""
        return cls(*(np.full(limit, value, np.int64) for value in (-1, -1, -1, UNLABELED)))

    def at(self, places: IntArray) -> SampledTokens:
        """Those at some places."""
        return SampledTokens(*(getattr(self, field.name)[places] for field in fields(self)))


@dataclass
class Collector:
    """Statistics of all layers, fed batch by batch.

    Call :meth:`begin` before the forward of a batch, give :meth:`add` to the capture as its
    ``on_activation``, and call :meth:`end` after the forward.

    Attributes:
        layers: Statistics by site.
        sample: Which tokens are in the paired sample.
        threads: Threads of the kernels.
        moments: Whether moments are kept.
        moments_policy: In how much memory.
        high_norm: Multiple of the median norm of its sequence above which a position does not count.
        sequences: Which sequences are pooled; None: none.
        poolings: How.
        routing: Where routers send the tokens; None: there are none, or nobody asked.
        tokens: What is known of the sampled tokens.
        seconds: Time by activity.
        n_tokens: Tokens counted.
        n_padding: Padding positions that the model saw.
        n_batches: Batches begun.
        n_removed: Real tokens left out by a policy, by reason.
    """

    layers: dict[str, LayerStatistics]
    sample: TokenSample
    threads: int | None = None
    moments: bool = True
    moments_policy: MomentsPolicy = field(default_factory=MomentsPolicy)
    high_norm: float | None = None
    sequences: SequenceSample | None = None
    poolings: Sequence[str] = ()
    routing: RouterCounts | None = None
    tokens: SampledTokens = field(init=False)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    n_tokens: int = 0
    n_padding: int = 0
    n_batches: int = 0
    n_removed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _tokens: TokenBatch | None = None
    _batch: _Batch | None = None
    _waiting: dict[str, Tensor] = field(default_factory=dict)
    _waiting_choices: list[tuple[Router, Tensor]] = field(default_factory=list)

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

    def allocate(self, site: str, width: int, dtype: torch.dtype, device: torch.device) -> None:
        """Makes the statistics of a site.

        Made during the first forward, between its temporary tensors, they would keep the memory of those from
        being given back; so call this before where the width is known.
        """
        layer = self.layers[site]
        layer.width = width
        if self.moments:
            layer.moments = self.moments_policy.new(width, len(self.layers), device, self.threads)
        kept = torch.float64 if dtype == torch.float64 else torch.float32
        layer.rows = torch.zeros(self.sample.limit, width, dtype=kept, device=device)
        if self.sequences is not None:
            layer.pooled = PooledVectors(
                self.sequences.sample.limit, width, self.poolings, dtype, layer.rows.device
            )

    def begin(self, batch: TokenBatch | BatchRows) -> None:
        """Announces the batch whose activations come next."""
        self._tokens, self._batch, self._waiting, self._waiting_choices = None, None, {}, []
        self.n_batches += 1
        rows = batch if isinstance(batch, BatchRows) else BatchRows.of_tokens(batch)
        if rows is not None:
            self.n_padding += rows.n_padding
            self._announce(rows)
        elif isinstance(batch, TokenBatch):
            self._tokens = batch  # how many rows there are is known with the first activation
            if self.routing is not None and self.high_norm is None:
                self.routing.begin(None)

    def add(self, site: str, activation: Tensor) -> None:
        """Takes one activation, ``[batch, seq, d]``; the callback of a capture."""
        if site not in self.layers:
            return
        if activation.ndim < 2:
            raise ValueError(
                f"{site}: activations must be [..., d] with d channels, got shape {tuple(activation.shape)}"
            )
        if self.layers[site].layout == "SBH" and activation.ndim == 3:
            activation = activation.transpose(0, 1)
        leading = tuple(activation.shape[:-1])
        if self._batch is None:
            self._announce(BatchRows.of_activation(self._tokens, leading))
        assert self._batch is not None
        known = self._batch.rows
        if leading not in (known.shape, (len(known),)):
            raise ValueError(
                f"{site}: activations must be [batch, seq, d] of the batch {known.shape}, "
                f"got shape {tuple(activation.shape)}"
            )
        if not self.layers[site].layout and len(set(leading)) < len(leading) and not known.keep.all():
            raise ValueError(
                f"{site}: batch and length must differ where it is not known which comes first, got {leading}"
            )
        rows = activation.reshape(-1, activation.shape[-1])
        if rows.stride(-1) != 1:
            rows = rows.contiguous()
        if rows.device.type == "mps":
            rows = rows.cpu()  # That device has no float64.
        if self.high_norm is not None:
            # Which positions count is known when every layer has been seen; the model may overwrite these.
            self._waiting[site] = rows.clone()
            return
        self._take(site, rows)

    def choose(self, router: Router, chosen: Tensor) -> None:
        """Takes the experts ``[tokens, k]`` that a router chose; the callback of a capture of routers."""
        if self.high_norm is not None:
            self._waiting_choices.append((router, chosen))
        elif self.routing is not None:
            self.routing.add(router, chosen)

    def end(self) -> None:
        """Says that the forward of the batch is over."""
        if self.high_norm is None or self._batch is None:
            return
        rows = self._batch.rows
        self._count(rows.without(HIGH_NORM, high_norm_positions(rows, self._waiting, self.high_norm)))
        for site, activation in self._waiting.items():
            self._take(site, activation)
        self._waiting = {}
        for router, chosen in self._waiting_choices:
            assert self.routing is not None
            self.routing.add(router, chosen)

    def _announce(self, rows: BatchRows) -> None:
        if self.high_norm is None:
            self._count(rows)
        else:
            self._batch = _Batch(rows, Draw(*np.empty((2, 0), np.int64)), np.empty(0, np.int64))

    def _count(self, rows: BatchRows) -> None:
        """Counts the tokens of a batch and chooses the sampled ones."""
        counted = np.flatnonzero(rows.keep)
        if self.routing is not None and (self._tokens is None or self.high_norm is not None):
            self.routing.begin(None if rows.keep.all() else torch.from_numpy(rows.keep))
        self.n_tokens += len(counted)
        for reason, where in rows.dropped.items():
            self.n_removed[reason] += int(where.sum())
        draw = self.sample.draw(len(counted), self._bits(rows, counted))
        chosen = counted[draw.rows]
        for known in fields(self.tokens):
            values, unknown = getattr(rows, known.name), UNLABELED if known.name == "labels" else -1
            getattr(self.tokens, known.name)[draw.slots] = unknown if values is None else values[chosen]
        segments = None if self.sequences is None else self.sequences.draw(rows)
        self._batch = _Batch(rows, draw, chosen, segments)

    def _bits(self, rows: BatchRows, counted: IntArray) -> BitArray | None:
        """Random bits of the tokens: of their places where these are known, of their numbers elsewhere."""
        if rows.sequence_ids is None or rows.positions is None:
            return None
        sequences, positions = rows.sequence_ids[counted], rows.positions[counted]
        known = (sequences >= 0) & (positions >= 0)
        bits = stream_bits(self.sample.seed, self.sample.seen, len(counted))
        bits[known] = place_bits(self.sample.seed, sequences[known], positions[known])
        return bits

    def _take(self, site: str, rows: Tensor) -> None:
        batch, layer = self._batch, self.layers[site]
        assert batch is not None
        if layer.width is None:
            self.allocate(site, rows.shape[1], rows.dtype, rows.device)
        if layer.width != rows.shape[1]:
            raise ValueError(
                f"{site}: all batches must have the same width, got {rows.shape[1]} after {layer.width}"
            )
        with self.timed("covariance"):
            if isinstance(layer.moments, Covariance):
                layer.moments.update(rows, batch.weights)
            elif isinstance(layer.moments, NystromSketch):
                layer.moments.update(rows.cpu(), batch.weights)
            elif isinstance(layer.moments, DeviceMoments):
                layer.moments.update(rows, batch.keep_on(rows.device))
            else:
                layer.count_nonfinite(rows, batch.keep_on(rows.device))
            for reason, where in batch.dropped_rows.items():
                layer.removed.add(reason, rows.index_select(0, where.to(rows.device, non_blocking=True)))
        with self.timed("sample"):
            self._keep_sampled(layer, batch, rows)

    @staticmethod
    def _keep_sampled(layer: LayerStatistics, batch: _Batch, rows: Tensor) -> None:
        assert layer.rows is not None
        if len(batch.chosen):
            chosen = torch.from_numpy(batch.chosen).to(rows.device, non_blocking=True)
            slots = torch.from_numpy(batch.draw.slots).to(layer.rows.device, non_blocking=True)
            layer.rows[slots] = rows.index_select(0, chosen).to(layer.rows)
        if layer.pooled is not None and batch.segments is not None:
            layer.pooled.add(rows, batch.segments)


@dataclass(eq=False)
class _Batch:
    """One batch as all layers use it."""

    rows: BatchRows
    draw: Draw
    chosen: IntArray
    segments: Segments | None = None
    weights: Float64Array | None = None
    dropped_rows: dict[str, Tensor] = field(default_factory=dict)
    _keep: dict[torch.device, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.rows.keep.all():
            self.weights = self.rows.keep.astype(np.float64)
        self.dropped_rows = {
            reason: torch.from_numpy(np.flatnonzero(where))
            for reason, where in self.rows.dropped.items()
            if where.any()
        }

    def keep_on(self, device: torch.device) -> Tensor | None:
        """The positions that count, on a device; None for all of them."""
        if self.weights is None:
            return None
        if device not in self._keep:
            self._keep[device] = torch.from_numpy(self.rows.keep).to(device, non_blocking=True)
        return self._keep[device]


def high_norm_positions(
    rows: BatchRows, activations: Mapping[str, Tensor], multiple: float
) -> npt.NDArray[np.bool_]:
    """Where, in any layer, the norm exceeds ``multiple`` times the median of the counted, finite norms of its
    sequence (of the batch, if sequences are not known)."""
    found = np.zeros(len(rows), np.bool_)
    groups = np.zeros(len(rows), np.int64) if rows.sequence_ids is None else rows.sequence_ids
    counted = np.flatnonzero(rows.keep)
    order = counted[np.argsort(groups[counted], kind="stable")]
    starts = np.flatnonzero(np.diff(groups[order], prepend=groups[order][:1] - 1))
    for activation in activations.values():
        norms = torch.linalg.vector_norm(activation, dim=1, dtype=torch.float64).cpu().numpy()
        for group in np.split(order, starts[1:]):
            finite = group[np.isfinite(norms[group])]
            if len(finite):
                median = float(np.median(norms[finite]))
                found[finite] |= (norms[finite] > multiple * median) & (median > 0)
    return found


@dataclass(frozen=True)
class PairedRows:
    """The sample as measurements read it: the same tokens in every layer, in the order of the data.

    Attributes:
        rows: ``[m, d]`` by site; a row may hold NaN or infinity.
        finite: bool ``[m]`` by site, where all of the row is finite.
        tokens: Ids, sequence numbers and positions of the m tokens.
        index: int64 ``[m]``, positions in the stream of counted tokens.
    """

    rows: Mapping[str, Float64Array]
    finite: Mapping[str, npt.NDArray[np.bool_]]
    tokens: SampledTokens
    index: IntArray


def paired_rows(collector: Collector) -> PairedRows:
    """Reads the sample."""
    sample, tokens = collector.sample, collector.tokens
    filled = slice(0, len(sample))
    order = np.lexsort((sample.index, tokens.positions[filled], tokens.sequence_ids[filled]))
    rows = {
        site: layer.rows.cpu().numpy()[order]
        for site, layer in collector.layers.items()
        if layer.rows is not None
    }
    finite = {site: np.isfinite(values).all(axis=1) for site, values in rows.items()}
    return PairedRows(rows, finite, tokens.at(order), sample.index[order])
