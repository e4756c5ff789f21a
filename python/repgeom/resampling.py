"""Standard errors by the jackknife and nulls by permutation, for any measure that compares two layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from repgeom.checks import FloatArray, check_integer, refusal
from repgeom.comparisons import NAN, OK, Kind, Similarity, SimilarityMatrix, p_values
from repgeom.estimates import IntArray
from repgeom.matching import Matched, Rows, check_labels

State = TypeVar("State")
Sides: TypeAlias = "tuple[list[State], list[State]]"

FEW_GROUPS: Final = 10


class Found(NamedTuple):
    """A value, and what it means."""

    value: float
    status: str = OK
    parts: FloatArray | None = None


@dataclasses.dataclass(frozen=True)
class Measure(Generic[State]):
    """How two layers are compared.

    Attributes:
        name: Of the function.
        kind: Similarity or distance.
        range: Smallest and largest value.
        prepare: What is needed of one layer, from its rows ``[n, d]``.
        compare: Two prepared layers.
        permuted: A prepared layer with its samples in another order.
        symmetric: Whether a and b may change places.
        settings: The arguments.
    """

    name: str
    kind: Kind
    range: tuple[float, float]
    prepare: Callable[[Rows], State]
    compare: Callable[[State, State], Found]
    permuted: Callable[[State, IntArray], State]
    symmetric: bool = True
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Resampling:
    """How errors and nulls are made.

    Attributes:
        groups: ``[n]``, which samples belong together (tokens of one text); None: every sample for itself.
        folds: Parts of the jackknife; 0: no standard error.
        permutations: Of the null; 0: none.
        seed: Of folds and permutations.
    """

    groups: Any = None
    folds: int = 0
    permutations: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("permutations", self.permutations, 0)
        check_integer("seed", self.seed, 0)
        check_integer("folds", self.folds, 0)
        if self.folds == 1:
            raise refusal("folds must be 0 or at least 2", 1)

    def group_of(self, n: int) -> IntArray | None:
        """``[n]``: number of the group of each sample."""
        if self.groups is None:
            return None
        labels = np.asarray(self.groups.detach().cpu() if hasattr(self.groups, "detach") else self.groups)
        if labels.shape != (n,):
            raise refusal(f"groups must label each of the {n} samples", f"shape {labels.shape}")
        check_labels("groups", labels)
        return np.unique(labels, return_inverse=True)[1].astype(np.int64)

    def orders(self, n: int) -> Iterator[IntArray]:
        """The permutations; the same ones at every call."""
        for number in range(self.permutations):
            yield np.random.default_rng([self.seed, 1, number]).permutation(n)

    def warnings(self, n: int) -> tuple[str, ...]:
        """What a result of n samples should say about errors and nulls."""
        groups = self.group_of(n)
        if groups is None:
            return ()
        count, said = int(groups.max()) + 1, []
        if count < FEW_GROUPS:
            said.append(f"standard errors from {count} groups are rough" if count > 1 else ONE_GROUP)
        if self.permutations and count < n:
            said.append("the null permutes single samples, though groups belong together: p is too small")
        return tuple(said)

    def kept(self, n: int) -> Iterator[IntArray]:
        """For each fold of the jackknife the samples outside of it; groups are never cut."""
        groups = self.group_of(n)
        units = np.arange(n) if groups is None else groups
        count = int(units.max()) + 1
        folds = min(self.folds, count)
        if folds < 2:
            return
        shuffled = np.random.default_rng([self.seed, 0]).permutation(count)
        fold_of = np.empty(count, np.int64)
        fold_of[shuffled] = np.arange(count) % folds
        for fold in range(folds):
            yield np.flatnonzero(fold_of[units] != fold)


ONE_GROUP: Final = "no standard error: all samples are of one group"


def clustered_error(influences: FloatArray, groups: IntArray | None) -> float:
    """Standard error of a mean, from jackknife influences ``[n]`` of samples, summed within groups."""
    sums = influences if groups is None else np.bincount(groups, influences)
    count = len(sums)
    if count < 2:
        return NAN
    return float(np.sqrt(count / (count - 1) * np.sum(sums**2)) / len(influences))


def compare_layers(
    measure: Measure[State], found: Matched, sampling: Resampling
) -> Similarity | SimilarityMatrix:
    """The measure of every pair of layers, with errors and nulls as asked for."""
    sides = _prepared(measure, found)
    values, statuses, parts = _pairs(measure, found.within, sides)
    errors = _jackknife(measure, found, sampling) if sampling.folds else np.full(values.shape, NAN)
    null = _null(measure, found.within, sides, found.n, sampling)
    missing = np.full(values.shape, NAN)
    permuted = len(null) > 0
    said = sampling.warnings(found.n)
    if sampling.folds and ONE_GROUP not in said and (np.isnan(errors) & ~np.isnan(values)).any():
        said = (*said, "no standard error where a fold of the samples leaves no value")
    matrix = SimilarityMatrix(
        values,
        measure.kind,
        found.n,
        measure.name,
        measure.range,
        tuple(found.a),
        tuple(found.b),
        np.where(np.isnan(values), NAN, errors),
        p_values(values, null, measure.kind) if permuted else missing,
        null.mean(axis=0) if permuted else missing,
        null.std(axis=0, ddof=1) if len(null) > 1 else missing,
        statuses,
        missing,
        measure.settings,
        said,
    )
    return as_asked(matrix, found, parts)


def as_asked(
    matrix: SimilarityMatrix, found: Matched, parts: FloatArray | None = None
) -> Similarity | SimilarityMatrix:
    """The matrix, or its one element where two arrays were given."""
    if not found.single:
        return matrix
    return dataclasses.replace(matrix.between("a", "b"), parts=parts)


def _prepared(measure: Measure[State], found: Matched, rows: Any = slice(None)) -> Sides[State]:
    """Both sides (one list twice within a model), from some of the samples."""

    def of(side: Mapping[Any, Any]) -> list[State]:
        return [measure.prepare(x[rows]) for x in side.values()]

    left = of(found.a)
    return left, left if found.within else of(found.b)


def _pairs(
    measure: Measure[State], within: bool, sides: Sides[State]
) -> tuple[FloatArray, NDArray[np.object_], FloatArray | None]:
    """Values and statuses ``[la, lb]``, and the parts of the last pair."""
    left, right = sides
    values = np.empty((len(left), len(right)))
    statuses: NDArray[np.object_] = np.empty(values.shape, object)
    parts = None
    mirrored = within and measure.symmetric
    for i, one in enumerate(left):
        for j, other in enumerate(right):
            if mirrored and j < i:
                values[i, j], statuses[i, j] = values[j, i], statuses[j, i]
            else:
                values[i, j], statuses[i, j], parts = measure.compare(one, other)
    return values, statuses, parts


def _jackknife(measure: Measure[State], found: Matched, sampling: Resampling) -> FloatArray:
    """``[la, lb]``: grouped jackknife, ``sqrt((F - 1) / F sum_f (theta_f - mean theta)^2)``."""
    without = [
        _pairs(measure, found.within, _prepared(measure, found, rows))[0] for rows in sampling.kept(found.n)
    ]
    if not without:
        return np.full((len(found.a), len(found.b)), NAN)
    return np.asarray(np.sqrt((len(without) - 1) * np.var(without, axis=0)))


def _null(
    measure: Measure[State], within: bool, sides: Sides[State], n: int, sampling: Resampling
) -> FloatArray:
    """``[m, la, lb]``: values after the samples of the second side were permuted."""
    left, right = sides
    null = np.empty((sampling.permutations, len(left), len(right)))
    for values, order in zip(null, sampling.orders(n), strict=True):
        moved = [measure.permuted(state, order) for state in right]
        values[:] = _pairs(measure, within, (left, moved))[0]
    return null
