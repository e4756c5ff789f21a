"""What an estimate of the intrinsic dimension says about itself, and the same for many layers at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from repgeom.checks import FloatArray
from repgeom.neighbors import Neighbors

IntArray: TypeAlias = NDArray[np.int64]

OK: Final = "ok"

Estimates: TypeAlias = Any
"""A result for one set of points; of a dict of layers a dict, of a list a list, of a stack a `Stacked`."""


@dataclasses.dataclass(frozen=True)
class DimensionEstimate:
    """One number for the intrinsic dimension, with what it rests on.

    Attributes:
        value: The dimension; NaN when ``status`` is not ``"ok"``.
        standard_error: Of ``value``. Neighbouring points share neighbours, so their ratios are not
            independent: influences of rows are summed over shared neighbours before they are squared. Never
            below ``independent_error``.
        independent_error: The error of as many independent ratios (asymptotic, or Fisher's information), as
            other programs report it: about 0.6 to 0.9 of the true one on real neighbours.
        n: Points that the value rests on.
        n_dropped: Points left out (copies, and points without a finite ratio).
        scale: Mean distance to the neighbours used.
        status: ``"ok"``, or why there is no value.
        settings: The arguments behind the value.
        warnings: What to know before the value is used.
    """

    value: float
    standard_error: float
    independent_error: float
    n: int
    n_dropped: int
    scale: float
    status: str
    settings: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.status == OK


def no_estimate(
    status: str, n: int, n_dropped: int, settings: Mapping[str, Any], warnings: tuple[str, ...] = ()
) -> DimensionEstimate:
    """The estimate that is missing, and why."""
    nan = float("nan")
    return DimensionEstimate(nan, nan, nan, n, n_dropped, nan, status, settings, warnings)


@dataclasses.dataclass(frozen=True)
class DimensionProfile:
    """Estimates of the same points at several scales, from the finest to the coarsest.

    Attributes:
        axis: What ``positions`` counts: ``"rank"`` (the larger rank of a pair), ``"size"`` (points in a
            decimated subset) or ``"k"`` (neighbours).
        positions: ``[s]``.
        estimates: One for each position.
        warnings: What holds for the whole profile.
    """

    axis: str
    positions: IntArray
    estimates: tuple[DimensionEstimate, ...]
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.estimates)

    def __getitem__(self, index: int) -> DimensionEstimate:
        return self.estimates[index]

    def __iter__(self) -> Iterator[DimensionEstimate]:
        return iter(self.estimates)

    def array(self, field: str) -> FloatArray:
        """``[s]``: one numeric field of every estimate."""
        return np.array([getattr(estimate, field) for estimate in self.estimates], np.float64)

    @property
    def values(self) -> FloatArray:
        """``[s]``: the dimensions."""
        return self.array("value")

    @property
    def standard_errors(self) -> FloatArray:
        """``[s]``: their errors."""
        return self.array("standard_error")

    @property
    def scales(self) -> FloatArray:
        """``[s]``: mean distances to the neighbours used."""
        return self.array("scale")

    @property
    def status(self) -> str:
        """``"ok"`` when every scale has a value, otherwise the reason of the first that has none."""
        return next((estimate.status for estimate in self.estimates if not estimate.ok), OK)


@dataclasses.dataclass(frozen=True)
class Stacked:
    """Results of a stack ``[..., n, d]``, one for each leading index."""

    cells: NDArray[np.object_]

    @property
    def shape(self) -> tuple[int, ...]:
        """The leading axes of the stack."""
        return self.cells.shape

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, index: Any) -> Any:
        found = self.cells[index]
        return Stacked(found) if isinstance(found, np.ndarray) else found

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def array(self, field: str) -> FloatArray:
        """``[..., *field]``: one numeric field of every result."""
        if self.cells.size == 0:
            return np.zeros(self.shape)
        found = np.array([getattr(cell, field) for cell in self.cells.ravel()], np.float64)
        return found.reshape(*self.shape, *found.shape[1:])

    @property
    def value(self) -> FloatArray:
        """``[...]``: the values of single estimates."""
        return self.array("value")

    @property
    def standard_error(self) -> FloatArray:
        """``[...]``: their errors."""
        return self.array("standard_error")


def over_layers(measure: Callable[[Any], Any], x: Any) -> Estimates:
    """``measure`` of one ``[n, d]`` array or `Neighbors`, of every layer of a dict or list, or of a stack."""
    if isinstance(x, Mapping):
        return {name: over_layers(measure, layer) for name, layer in x.items()}
    if isinstance(x, Neighbors):
        return measure(x)
    if is_list_of_layers(x):
        return [over_layers(measure, layer) for layer in x]
    rows = x if hasattr(x, "shape") else np.asarray(x)
    batch = tuple(rows.shape[:-2])
    if not batch:
        return measure(rows)
    cells = np.empty(batch, object)
    for index in np.ndindex(batch):
        cells[index] = measure(rows[index])
    return Stacked(cells)


def is_list_of_layers(x: Any) -> bool:
    """Whether ``x`` is a list or tuple of arrays with two axes or more, or of `Neighbors`."""
    if not isinstance(x, list | tuple) or not x:
        return False
    return all(isinstance(layer, Neighbors) or len(getattr(layer, "shape", ())) >= 2 for layer in x)
