"""What measurements can read of one layer; each statistic is made when it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from repgeom.arrays import Float64Array
from repgeom.checks import refusal
from repgeom.collect import Collector, LayerStatistics, PairedRows, SampledTokens
from repgeom.covariance import Covariance
from repgeom.eigensolver import with_fixed_signs
from repgeom.neighbors import Neighbors, knn
from repgeom.sketches import NystromSketch
from repgeom.spectrum import Spectrum, eigenpairs, spectrum

MAX_NEIGHBORS = 64


@dataclass(frozen=True)
class Settings:
    """What the measurements need to know beside the statistics."""

    model_key: str
    model_label: str
    metrics: tuple[str, ...]
    novelty_k: int
    compat: str | None
    threads: int | None = None


class Readings:
    """The statistics of one layer by the names of :data:`repgeom.registry.STATISTICS`.

    Args:
        layer: What was kept of the layer.
        collector: The rest of the run's statistics.
        sample: The paired sample.
        settings: Of the run.
    """

    def __init__(
        self, layer: LayerStatistics, collector: Collector, sample: PairedRows, settings: Settings
    ) -> None:
        self.statistics, self.settings = layer, settings
        self._collector, self._sample = collector, sample

    @property
    def layer(self) -> int:
        """Index of the layer."""
        return self.statistics.layer

    @property
    def _kept(self) -> Covariance | NystromSketch:
        covariance = self.statistics.covariance
        if covariance is None:
            raise ValueError(f"{self.statistics.site}: no covariance was collected")
        return covariance

    @property
    def covariance(self) -> Covariance:
        """Of all tokens that count; a copy, as one measurement must not change what another one reads."""
        kept = self._kept
        if isinstance(kept, NystromSketch):
            raise refusal("a covariance in full must have been kept", f"a sketch of {self.statistics.site}")
        return Covariance(kept.dim).merge(kept)

    @property
    def count(self) -> int:
        """Tokens that count and are finite."""
        covariance = self.statistics.covariance
        return (
            self._collector.n_tokens - self.statistics.nonfinite if covariance is None else covariance.count
        )

    @property
    def mean(self) -> Float64Array:
        """``[d]``."""
        return self._kept.mean

    @cached_property
    def _decomposition(self) -> tuple[Spectrum, Float64Array]:
        kept = self._kept
        if isinstance(kept, NystromSketch):
            found = kept.read()
            return spectrum(found), _fixed(with_fixed_signs(found.vectors))
        values, vectors = eigenpairs(kept)
        shape = spectrum(values, count=kept.count, resolution=kept.resolution, compat=self.settings.compat)
        return shape, _fixed(vectors)

    @property
    def eigenvalues(self) -> Float64Array:
        """``[d]``, descending; of a sketch ``[l]``."""
        return _fixed(self.spectrum.eigenvalues)

    @property
    def eigenvectors(self) -> Float64Array:
        """``[d, d]``, columns in the order of the eigenvalues; of a sketch ``[d, l]``."""
        return self._decomposition[1]

    @cached_property
    def leading(self) -> Float64Array:
        """``[d, k]``, the first ``novelty_k`` eigenvectors; none where there is no covariance."""
        if self.count < 2 or self.statistics.covariance is None:
            return np.empty((self.statistics.width or 0, 0))
        return _fixed(np.ascontiguousarray(self.eigenvectors[:, : self.settings.novelty_k]))

    @cached_property
    def spectrum(self) -> Spectrum:
        """Of the covariance."""
        return self._decomposition[0]

    @property
    def rank(self) -> int:
        """Numerical rank of the covariance; 0 where there is none."""
        return self.spectrum.rank if self.count >= 2 else 0

    @property
    def finite(self) -> npt.NDArray[np.bool_]:
        """bool ``[m]``, the sampled rows without NaN or infinity."""
        return self._sample.finite.get(self.statistics.site, np.empty(0, np.bool_))

    def sampled(self, where: npt.NDArray[np.bool_]) -> Float64Array:
        """Some of the sampled rows."""
        rows = self._sample.rows.get(self.statistics.site)
        return np.empty((0, self.statistics.width or 0)) if rows is None else _fixed(rows[where])

    @cached_property
    def sample(self) -> Float64Array:
        """``[m, d]``, the sampled rows that are finite."""
        return self.sampled(self.finite)

    @property
    def common(self) -> Float64Array:
        """:attr:`sample`, where no other layer is compared."""
        return self.sample

    @cached_property
    def neighbors(self) -> Neighbors | None:
        """Of the rows of :attr:`sample` among themselves."""
        n = len(self.sample)
        if n < 3:
            return None
        rows = np.ascontiguousarray(self.sample)
        return knn(rows, min(MAX_NEIGHBORS, n - 1), threads=self.settings.threads)

    @property
    def tokens(self) -> SampledTokens:
        """Of the rows of :attr:`sample`."""
        return self._sample.tokens.at(np.flatnonzero(self.finite))

    @cached_property
    def pooled(self) -> Mapping[str, npt.NDArray[Any]]:
        """``[s, d]`` by pooling."""
        if self.statistics.pooled is None or self._collector.sequences is None:
            return {}
        return self.statistics.pooled.read(self._collector.sequences)

    def release(self) -> None:
        """Gives back the memory of all eigenvectors but the leading ones."""
        if "_decomposition" in self.__dict__:
            _ = self.leading, self.spectrum
            del self.__dict__["_decomposition"]


def _fixed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array, read-only: one measurement must not change what another one reads."""
    array.flags.writeable = False
    return array


def in_all(layers: list[Readings]) -> npt.NDArray[np.bool_]:
    """bool ``[m]``, the sampled tokens that are finite in every layer."""
    return np.logical_and.reduce([layer.finite for layer in layers]) if layers else np.empty(0, np.bool_)


def paired(left: Readings, right: Readings, need: str) -> tuple[Any, Any]:
    """A statistic of two layers; sampled tokens are those that are finite in both."""
    if need not in ("sample", "common", "tokens"):
        return getattr(left, need), getattr(right, need)
    both = left.finite & right.finite
    if need != "tokens":
        return left.sampled(both), right.sampled(both)
    tokens = left._sample.tokens.at(np.flatnonzero(both))
    return tokens, tokens
