"""TwoNN on ever smaller subsets: the intrinsic dimension against scale."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from repgeom.checks import check_integer, refusal
from repgeom.estimates import (
    OK,
    DimensionEstimate,
    DimensionProfile,
    Estimates,
    IntArray,
    no_estimate,
    over_layers,
)
from repgeom.neighborhoods import Search, distinct_points, take_points
from repgeom.neighbors import Metric, Neighbors
from repgeom.two_nn import check_method, two_nn

DADAPY: Final = "dadapy"


def two_nn_scaling(
    x: Any,
    *,
    fractions: Sequence[float] | None = None,
    n_min: int = 32,
    repetitions: int | None = None,
    method: str = "fit",
    discard: float = 0.1,
    duplicates: str = "drop",
    metric: Metric = "euclidean",
    seed: int = 0,
    threads: int | None = None,
    preset: str | None = None,
    compat: str | None = None,
) -> Estimates:
    """TwoNN on random subsets of n, n/2, n/4, ... points, whose nearest neighbours are ever farther away.

    The subsets of one size are parts of one random order of the points: disjoint, as long as n holds that
    many, then parts of another order. Copies are dealt with once, before anything is drawn.

    Args:
        x: ``[n, d]``, a dict or list of such layers, or a stack ``[..., n, d]``. The same points are drawn in
            every layer with as many (distinct) points.
        fractions: Sizes of the subsets as shares of n; by default 1, 1/2, 1/4, ...
        n_min: The smallest subset of the default fractions.
        repetitions: Subsets of each size; by default as many disjoint ones as n holds.
        method: As in `two_nn`.
        discard: As in `two_nn`.
        duplicates: As in `two_nn`.
        metric: As in `knn`; with ``"cosine"`` distances are chords.
        seed: Of the draws.
        threads: As in `knn`.
        preset: ``"paper"`` for what the scripts behind the geometry of large transformers do (Valeriani et
            al. 2023): ``method="fit"``, discard 0.02, fraction 1/32, 4 repetitions.
        compat: ``"dadapy"``: its sizes (above ``n_min``), its independent draws from ``default_rng(42)`` and
            its errors (the standard deviation of the repetitions over the root of their number; 0 for one).

    Returns:
        A `DimensionProfile` over sizes: means over repetitions; of several layers as many. The error of a
        mean is that of its estimates, as if those of disjoint subsets were independent.

    Raises:
        ValueError: Fewer than 3 points, `Neighbors` instead of points, NaN or infinity, a fraction outside
            (0, 1], an unknown word.
    """
    if preset not in (None, "paper"):
        raise refusal("preset must be None or 'paper'", repr(preset))
    if compat not in (None, DADAPY):
        raise refusal(f"compat must be None or {DADAPY!r}", repr(compat))
    plan = _Plan(fractions, n_min, repetitions, method, discard, compat == DADAPY)
    if preset == "paper":
        plan = dataclasses.replace(plan, method="fit", discard=0.02, fractions=(1 / 32,), repetitions=4)
    search = Search(duplicates, metric, seed, threads)
    return over_layers(lambda layer: _profile(layer, plan, search), x)


@dataclasses.dataclass(frozen=True)
class _Plan:
    fractions: Sequence[float] | None
    n_min: int
    repetitions: int | None
    method: str
    discard: float
    dadapy: bool

    def __post_init__(self) -> None:
        check_method(self.method, self.discard)
        check_integer("n_min", self.n_min, 3)
        if self.repetitions is not None:
            check_integer("repetitions", self.repetitions, 1)
        for fraction in () if self.fractions is None else self.fractions:
            if not 0 < fraction <= 1:
                raise refusal("fractions must be in (0, 1]", repr(fraction))

    def sizes(self, n: int) -> list[int]:
        """Points of the subsets, from all of them downwards."""
        if self.fractions is not None:
            return [max(int(np.rint(n * fraction)), 1) for fraction in self.fractions]
        halvings = [int(np.rint(n / 2**i)) for i in range(max(n.bit_length() - 2, 1))]
        if self.dadapy:
            return [size for size in halvings if size > self.n_min] or halvings
        return [size for size in halvings if size >= self.n_min] or halvings[:1]


def _profile(layer: Any, plan: _Plan, search: Search) -> DimensionProfile:
    if isinstance(layer, Neighbors):
        raise refusal("decimation needs points [n, d]", "Neighbors")
    points, given, said = distinct_points(layer, search)
    n = int(points.shape[0])
    sizes = plan.sizes(n)
    draws = _DadapyDraws(n) if plan.dadapy else _Draws(n, search.seed)
    kept = dataclasses.replace(search, duplicates="keep")
    estimates = []
    for size in sizes:
        repetitions = plan.repetitions or (int(np.rint(n / size)) if plan.dadapy else n // size)
        subsets = draws.subsets(size, repetitions)
        found = [_of_subset(points, rows, plan, kept) for rows in subsets]
        settings = _settings(size, repetitions, plan, search)
        estimates.append(_mean(found, (size, n, given - n), plan.dadapy, settings))
    return DimensionProfile("size", np.array(sizes, np.int64), tuple(estimates), said)


def _of_subset(points: Any, rows: IntArray, plan: _Plan, search: Search) -> DimensionEstimate:
    settings = {"size": len(rows)}
    if len(rows) < 3:
        return no_estimate(f"too few points: {len(rows)} in a subset, 3 needed", len(rows), 0, settings)
    subset = points if len(rows) == points.shape[0] else take_points(points, rows, search.metric)
    found: DimensionEstimate = two_nn(
        subset,
        method=plan.method,
        discard=plan.discard,
        duplicates=search.duplicates,
        metric=search.metric,
        threads=search.threads,
    )
    return found


def _settings(size: int, repetitions: int, plan: _Plan, search: Search) -> dict[str, Any]:
    return {
        "estimator": "two_nn_scaling",
        "size": size,
        "repetitions": repetitions,
        "method": plan.method,
        "discard": plan.discard,
        "duplicates": search.duplicates,
        "metric": search.metric,
        "seed": search.seed,
    }


def _mean(
    found: list[DimensionEstimate], counts: tuple[int, int, int], dadapy: bool, settings: Mapping[str, Any]
) -> DimensionEstimate:
    """One estimate from those of several subsets: points of each, of all, and dropped before."""
    size, n, dropped = counts
    usable = [estimate for estimate in found if estimate.ok]
    if not usable:
        return no_estimate(found[0].status, 0, dropped, settings)
    values = np.array([estimate.value for estimate in usable])
    said: tuple[str, ...] = ()
    if len(usable) < len(found):
        said = (f"{len(found) - len(usable)} of {len(found)} subsets have no estimate",)
    # Repetitions beyond what n holds reuse points and add no information.
    separate = min(len(usable), n // size)
    errors = [
        float(np.sqrt(np.mean([getattr(one, field) ** 2 for one in usable]) / separate))
        for field in ("standard_error", "independent_error")
    ]
    if dadapy:
        errors = [float(values.std() / np.sqrt(len(values)))] * 2
    scale = float(np.mean([estimate.scale for estimate in usable]))
    used = min(len(usable) * size, n)
    return DimensionEstimate(
        float(values.mean()), errors[0], errors[1], used, dropped, scale, OK, settings, said
    )


class _Draws:
    """Subsets of n points: parts of a random order, then of the next one."""

    def __init__(self, n: int, seed: int) -> None:
        self._n = n
        self._generator = np.random.default_rng(seed)

    def subsets(self, size: int, repetitions: int) -> Iterator[IntArray]:
        parts = self._n // size
        for repetition in range(repetitions):
            part = repetition % parts
            if part == 0:
                order = self._generator.permutation(self._n)
            yield np.sort(order[part * size : (part + 1) * size])


class _DadapyDraws(_Draws):
    """Subsets drawn independently of each other, by one generator; all points need no draw."""

    def __init__(self, n: int) -> None:
        super().__init__(n, 42)

    def subsets(self, size: int, repetitions: int) -> Iterator[IntArray]:
        for _ in range(repetitions):
            whole = size == self._n
            yield np.arange(size) if whole else self._generator.choice(self._n, size, replace=False)
