"""What a comparison of two representations says about itself: one number, or one for every pair of layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from repgeom.checks import FloatArray, refusal

Kind: TypeAlias = Literal["similarity", "distance"]

OK: Final = "ok"
NAN: Final = float("nan")
# The rounding of an arc cosine near 1.
TIE: Final = 3e-8


@dataclasses.dataclass(frozen=True)
class Similarity:
    """How alike, or how far apart, two representations of the same n samples are.

    Attributes:
        value: The number; NaN only where ``status`` says why there is none.
        kind: ``"similarity"`` (larger is more alike) or ``"distance"`` (smaller is more alike).
        n: Samples.
        measure: Name of the function behind it.
        range: Smallest and largest possible value.
        standard_error: Of ``value``, by the jackknife; NaN where it was not asked for or ``warnings`` say
            why.
        p_value: Share of permutations, the data themselves among them, that are at least as alike; NaN
            without ``permutations``.
        null_mean: Mean over permutations of the rows of one side.
        null_std: Their standard deviation.
        status: ``"ok"``, or what is wrong with the value.
        parts: What the value is a mean or a sum of, such as canonical correlations; None for other measures.
        rounding: What rounding may add to the value, where the function says so; otherwise NaN: products are
            in float64.
        settings: The arguments behind the value.
        warnings: What to know before the value is used.
    """

    value: float
    kind: Kind
    n: int
    measure: str
    range: tuple[float, float]
    standard_error: float = NAN
    p_value: float = NAN
    null_mean: float = NAN
    null_std: float = NAN
    status: str = OK
    parts: FloatArray | None = None
    rounding: float = NAN
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the value means what it says."""
        return self.status == OK


@dataclasses.dataclass(frozen=True)
class SimilarityMatrix:
    """One number for every pair of layers, within one model or across two.

    Attributes:
        values: ``[la, lb]``.
        kind: As in `Similarity`, like all that is not described here.
        n: Samples.
        measure: Name of the function.
        range: Smallest and largest possible value.
        names_a: ``[la]``, layers of the rows.
        names_b: ``[lb]``, layers of the columns; within one model the same.
        standard_errors: ``[la, lb]``.
        p_values: ``[la, lb]``, of single pairs: they are not corrected for the number of pairs.
        null_means: ``[la, lb]``.
        null_stds: ``[la, lb]``.
        statuses: ``[la, lb]`` of str.
        rounding: ``[la, lb]``.
        settings: The arguments.
        warnings: What to know.
    """

    values: FloatArray
    kind: Kind
    n: int
    measure: str
    range: tuple[float, float]
    names_a: tuple[Hashable, ...]
    names_b: tuple[Hashable, ...]
    standard_errors: FloatArray
    p_values: FloatArray
    null_means: FloatArray
    null_stds: FloatArray
    statuses: NDArray[np.object_]
    rounding: FloatArray
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every value means what it says."""
        return bool((self.statuses == OK).all())

    def between(self, a: Hashable, b: Hashable) -> Similarity:
        """The comparison of layer ``a`` (a row) with layer ``b`` (a column)."""
        i, j = _place(self.names_a, a), _place(self.names_b, b)
        return self._at(i, j)

    def __iter__(self) -> Iterator[tuple[Hashable, Hashable, Similarity]]:
        """All pairs, row by row: the two names and the comparison."""
        for i, a in enumerate(self.names_a):
            for j, b in enumerate(self.names_b):
                yield a, b, self._at(i, j)

    def _at(self, i: int, j: int) -> Similarity:
        return Similarity(
            float(self.values[i, j]),
            self.kind,
            self.n,
            self.measure,
            self.range,
            float(self.standard_errors[i, j]),
            float(self.p_values[i, j]),
            float(self.null_means[i, j]),
            float(self.null_stds[i, j]),
            str(self.statuses[i, j]),
            None,
            float(self.rounding[i, j]),
            self.settings,
            self.warnings,
        )


def _place(names: tuple[Hashable, ...], name: Hashable) -> int:
    if name not in names:
        raise refusal(f"layers must be among {list(names)}", repr(name))
    return names.index(name)


def p_values(
    values: FloatArray, null: FloatArray, kind: Kind, rounding: FloatArray | float = 0.0
) -> FloatArray:
    """``[...]``: share of the null ``[m, ...]``, with the value itself counted in it, at least as alike.

    What is less alike by no more than rounding (`TIE`, or ``rounding`` where that is larger) is as alike.
    Missing values have no p-value.
    """
    slack = np.fmax(rounding, TIE)
    extreme = null >= values - slack if kind == "similarity" else null <= values + slack
    share = (1 + extreme.sum(axis=0)) / (1 + len(null))
    return np.where(np.isnan(values) | np.isnan(null).any(axis=0), NAN, share)
