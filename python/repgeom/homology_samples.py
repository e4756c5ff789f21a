"""Numbers of the persistence diagrams of many parts of one cloud."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from repgeom.arrays import Array
from repgeom.checks import FloatArray, refusal
from repgeom.clouds import CloudInput, cloud_input
from repgeom.diagrams import PersistenceDiagrams
from repgeom.homology import rips
from repgeom.landmarks import restricted
from repgeom.threads import thread_count

Rows: TypeAlias = npt.NDArray[np.int64]
Statistic: TypeAlias = "str | Sequence[str] | Callable[[PersistenceDiagrams], Any] | None"
Progress: TypeAlias = Callable[[float], object]

# Bytes of coordinates or distances that are copied at once.
_COPIED: Final = 1 << 26


class Sampler:
    """Numbers of the diagrams of many parts of one cloud, computed in batches of bounded memory.

    Attributes:
        cloud: The whole cloud.
    """

    def __init__(
        self,
        x: Array,
        max_dim: int,
        statistic: Statistic,
        *,
        threads: int | None,
        progress: Progress | None,
        settings: Mapping[str, Any],
    ) -> None:
        if settings.get("landmarks") is not None:
            raise refusal("landmarks do not go with subsamples", f"landmarks={settings['landmarks']!r}")
        self._settings = dict(settings)
        self._max_dim, self._statistic, self._progress = max_dim, statistic, progress
        self._threads = thread_count(threads)
        self.cloud: CloudInput = cloud_input(x, settings.get("metric", "euclidean"))
        if self.cloud.kind not in ("points", "square"):
            raise refusal("x must be points or a square matrix of distances", f"a {self.cloud.kind} form")

    def values(self, subsets: Sequence[Rows]) -> dict[str, FloatArray]:
        """``[s]`` for every number: its values in these rows of the cloud."""
        found = [numbers_of(diagrams, self._statistic) for diagrams in self.diagrams(subsets)]
        names = list(found[0])
        for one in found:
            if list(one) != names:
                raise refusal(f"statistic must always return the numbers {names}", list(one))
        return {name: np.array([one[name] for one in found]) for name in names}

    def diagrams(self, subsets: Sequence[Rows]) -> Iterator[PersistenceDiagrams]:
        """The diagrams of these rows of the cloud, in their order."""
        work = np.cumsum([0.0, *(float(len(rows)) ** 2 for rows in subsets)])
        for start, stop in self._batches(subsets):
            before, after = work[start] / work[-1], work[stop] / work[-1]
            yield from rips(
                [restricted(self.cloud, rows).value for rows in subsets[start:stop]],
                self._max_dim,
                threads=self._threads,
                progress=self._between(before, after),
                **self._settings,
            )
            if self._progress is not None:
                # Small batches end before the kernel reports anything.
                self._progress(after)

    def _between(self, before: float, after: float) -> Progress | None:
        progress = self._progress
        return None if progress is None else lambda share: progress(before + share * (after - before))

    def _batches(self, subsets: Sequence[Rows]) -> Iterator[tuple[int, int]]:
        """Runs of subsets that fill the threads several times, but not the memory."""
        width = 1 if self.cloud.n == 0 else self.cloud.value.nbytes // self.cloud.n
        start = 0
        while start < len(subsets):
            stop, copied = start, 0
            while stop < len(subsets) and stop - start < 32 * self._threads and copied <= _COPIED:
                copied += len(subsets[stop]) * width
                stop += 1
            yield start, stop
            start = stop


def numbers_of(diagrams: PersistenceDiagrams, statistic: Statistic) -> dict[str, float]:
    """The numbers that `statistic` asks for."""
    if callable(statistic):
        value = statistic(diagrams)
        numbers = value if isinstance(value, Mapping) else {"statistic": value}
        return {str(name): float(number) for name, number in numbers.items()}
    summary = diagrams.summary()
    if statistic is None:
        return summary
    names = [statistic] if isinstance(statistic, str) else list(statistic)
    unknown = [name for name in names if name not in summary]
    if unknown or not names:
        raise refusal(f"statistic must be among {', '.join(summary)}", unknown)
    return {name: summary[name] for name in names}
