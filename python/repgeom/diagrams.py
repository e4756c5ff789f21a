"""Persistence diagrams: the bars and what is known of them, summaries, the layouts of other programs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from repgeom import vectorizations
from repgeom.checks import FloatArray, as_float64, check_integer, refusal
from repgeom.vectorizations import IntArray, Weight, as_bars

Float32Array: TypeAlias = npt.NDArray[np.float32]
Simplices: TypeAlias = "tuple[IntArray, ...] | None"

LEAVE: Final = "leave"
Death: TypeAlias = float | Literal["leave"]
PEER: Final = "todacomm"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PersistenceDiagrams:
    """Bars (birth, death) of a filtration, dimension by dimension: ``diagrams[1]`` are those of loops.

    A bar is half open: its class is alive at the scales ``birth <= t < death``. Bars of length 0 are left
    out. Classes that never die ("essential", as the one component that is left in the end) stand apart, in
    ``infinite``. How they enter a sum is a choice, which every summary leaves to the caller: with
    ``infinite="leave"`` not at all, with a number as bars that die there (at the threshold, for instance).

    Settings are None where they are not known, as in diagrams from other programs.

    Attributes:
        finite: Per dimension ``[m, 2]`` float32, ascending by (birth, death).
        infinite: Per dimension ``[k]`` float32, births of essential bars, ascending.
        birth_simplices: Per dimension ``[m, dim + 1]`` int64: the simplex that bears the class, in the
            caller's point numbers.
        death_simplices: Per dimension ``[m, dim + 2]``: the simplex that kills it.
        infinite_simplices: Per dimension ``[k, dim + 1]``: those that bear essential classes.
        cocycles: Per dimension a list of (simplices ``[s, dim + 1]``, coefficients ``[s]``), one for each
            finite bar and then for each essential one; None where they were not asked for.
        n: Points.
        field: p of the coefficients Z/p.
        metric: What was measured.
        threshold: The longest edge: the caller's, or the enclosing radius.
        enclosing: Whether it is the enclosing radius, beyond which nothing but one component is alive.
        min_persistence: Bars of this length or less were left out.
        error_bound: Largest possible error of a distance, hence of every birth and every death.
        method: How the bars were found.
        notes: What to know before they are used.
        cover_radius: Of a subsample: no point is farther than this from it. The bars of all points are
            within twice this in bottleneck distance.
    """

    finite: tuple[Float32Array, ...]
    infinite: tuple[Float32Array, ...]
    birth_simplices: Simplices = None
    death_simplices: Simplices = None
    infinite_simplices: Simplices = None
    cocycles: tuple[list[tuple[IntArray, IntArray]], ...] | None = None
    n: int | None = None
    field: int | None = None
    metric: str | None = None
    threshold: float | None = None
    enclosing: bool | None = None
    min_persistence: float | None = None
    error_bound: float | None = None
    method: str | None = None
    notes: tuple[str, ...] = ()
    cover_radius: float | None = None

    @classmethod
    def _of_kernel(cls, fields: dict[str, Any]) -> PersistenceDiagrams:
        """Diagrams that the kernel has made: checks would take longer than small clouds do."""
        made = object.__new__(cls)
        made.__dict__.update(fields)
        return made

    def __post_init__(self) -> None:
        if not self.finite or len(self.finite) != len(self.infinite):
            given = f"{len(self.finite)} and {len(self.infinite)}"
            raise refusal("finite and infinite bars must have the same dimensions, at least one", given)
        for dim, (bars, births) in enumerate(zip(self.finite, self.infinite, strict=True)):
            _check_bars(dim, bars, births)
            self._check_simplices(dim, len(bars), len(births))

    def _check_simplices(self, dim: int, m: int, k: int) -> None:
        expected = {
            "birth_simplices": (m, dim + 1),
            "death_simplices": (m, dim + 2),
            "infinite_simplices": (k, dim + 1),
        }
        for name, shape in expected.items():
            group = getattr(self, name)
            if group is not None and (len(group) != len(self.finite) or group[dim].shape != shape):
                given = group[dim].shape if len(group) == len(self.finite) else f"{len(group)} dimensions"
                raise refusal(f"{name} of dimension {dim} must have shape {shape}", given)
        if self.cocycles is not None and (
            len(self.cocycles) != len(self.finite) or len(self.cocycles[dim]) != m + k
        ):
            given = [len(group) for group in self.cocycles]
            raise refusal(f"cocycles of dimension {dim} must be {m + k}, one for each bar", given)

    # --- bars

    @property
    def max_dim(self) -> int:
        """The highest dimension."""
        return len(self.finite) - 1

    def __len__(self) -> int:
        return len(self.finite)

    def __iter__(self) -> Iterator[Float32Array]:
        return iter(self.finite)

    def __getitem__(self, dim: int) -> Float32Array:
        return self.finite[self._checked(dim)]

    def __repr__(self) -> str:
        parts = []
        for dim, (bars, births) in enumerate(zip(self.finite, self.infinite, strict=True)):
            parts.append(f"H{dim}: {len(bars)}" + (f" + {len(births)} infinite" if len(births) else ""))
        known = [f"{name}={value!r}" for name in ("n", "field", "metric") if (value := getattr(self, name))]
        if self.threshold is not None:
            known.append(f"threshold={self.threshold:.6g}" + " (enclosing radius)" * bool(self.enclosing))
        if self.cover_radius is not None:
            known.append(f"cover_radius={self.cover_radius:.6g}")
        return f"PersistenceDiagrams({', '.join(parts)}{'; ' if known else ''}{', '.join(known)})"

    def bars(self, dim: int, infinite: Death = LEAVE) -> FloatArray:
        """``[m, 2]`` float64: the bars of a dimension, essential ones last.

        Args:
            dim: The dimension.
            infinite: ``"leave"``: without essential bars; a number: they die there (bars that this makes 0
                long are left out); ``math.inf``: they stay infinite.
        """
        bars = self[dim].astype(np.float64)
        death: Any = infinite
        if isinstance(death, str) and death == LEAVE:
            return bars
        if not isinstance(death, int | float | np.number) or math.isnan(death):
            raise refusal(f"infinite must be {LEAVE!r} or a death", repr(death))
        births = self.infinite[dim].astype(np.float64)
        if (births > death).any():
            raise refusal(f"essential bars must not die before their births, up to {births.max():g}", death)
        births = births[births < death]
        essential = np.stack([births, np.full(len(births), float(death))], axis=1)
        return np.concatenate([bars, essential])

    def _checked(self, dim: int) -> int:
        check_integer("dim", dim, 0)
        if dim > self.max_dim:
            raise refusal(f"dim must be at most max_dim = {self.max_dim}", dim)
        return dim

    # --- summaries

    def lifetimes(self, dim: int, infinite: Death = LEAVE) -> FloatArray:
        """``[m]`` float64: the lengths of the `bars`."""
        return vectorizations.lifetimes(self.bars(dim, infinite))

    def count(self, dim: int, infinite: Death = LEAVE) -> int:
        """How many `bars` there are."""
        return len(self.bars(dim, infinite))

    def total_persistence(self, dim: int, infinite: Death = LEAVE, *, power: float = 1.0) -> float:
        """`vectorizations.total_persistence` of the `bars`."""
        return vectorizations.total_persistence(self.bars(dim, infinite), power)

    def maximum_lifetime(self, dim: int, infinite: Death = LEAVE) -> float:
        """The length of the longest of the `bars`, 0 where there is none."""
        return vectorizations.maximum_lifetime(self.bars(dim, infinite))

    def entropy(self, dim: int, infinite: Death = LEAVE, *, normalized: bool = False) -> float:
        """`vectorizations.persistence_entropy` of the `bars`, in nats."""
        return vectorizations.persistence_entropy(self.bars(dim, infinite), normalized=normalized)

    def betti_curve(self, dim: int, grid: Any) -> IntArray:
        """``[g]``: Betti numbers of the complexes at the scales of ``grid``, essential classes included.

        Bars that ``min_persistence`` left out are not counted. Scales above a threshold that is not the
        enclosing radius are a ``ValueError``: nothing is known of them.
        """
        scales = as_float64(grid, "grid", 1)
        known = math.inf if self.threshold is None or self.enclosing else self.threshold
        if (scales > known).any():
            rule = f"scales must be at most the threshold {known:g}, above which nothing is known"
            raise refusal(rule, scales.max())
        return vectorizations.betti_curve(self.bars(dim, math.inf), scales)

    def betti_numbers(self, scale: float) -> IntArray:
        """``[max_dim + 1]``: the Betti number of every dimension at one scale, as in `betti_curve`."""
        return np.array([self.betti_curve(dim, [scale])[0] for dim in range(len(self))], np.int64)

    def landscape(self, dim: int, grid: Any, depth: int = 5, infinite: Death = LEAVE) -> FloatArray:
        """``[depth, g]``: `vectorizations.persistence_landscape` of the `bars`."""
        return vectorizations.persistence_landscape(self.bars(dim, infinite), grid, depth)

    def image(
        self,
        dim: int,
        infinite: Death = LEAVE,
        *,
        birth_range: tuple[float, float],
        persistence_range: tuple[float, float],
        sigma: float,
        pixels: tuple[int, int] = (20, 20),
        weight: float | Weight = 1.0,
    ) -> FloatArray:
        """``[births, persistences]``: `vectorizations.persistence_image` of the `bars`."""
        return vectorizations.persistence_image(
            self.bars(dim, infinite),
            birth_range=birth_range,
            persistence_range=persistence_range,
            sigma=sigma,
            pixels=pixels,
            weight=weight,
        )

    def summary(self, infinite: Death = LEAVE, *, compat: str | None = None) -> dict[str, float]:
        """Numbers of every dimension: ``H0_count``, ``H0_total_persistence``, ``H0_max_lifetime``,
        ``H0_entropy`` of the `bars`, and ``H0_infinite``, the number of essential ones.

        Args:
            infinite: As in `bars`.
            compat: ``"todacomm"``: the first three as todacomm 0.1.0 has them, where essential bars die at
                the largest birth + 1, whatever the unit of the distances.
        """
        if compat not in (None, PEER):
            raise refusal(f"compat must be None or {PEER!r}", repr(compat))
        if compat is not None and infinite != LEAVE:
            raise refusal(
                f"compat={PEER!r} has its own death of essential bars, infinite must be left out", infinite
            )
        found: dict[str, float] = {}
        for dim in range(len(self)):
            bars = self.bars(dim, infinite if compat is None else self._death_of_peer(dim))
            found[f"H{dim}_count"] = float(len(bars))
            found[f"H{dim}_total_persistence"] = vectorizations.total_persistence(bars)
            found[f"H{dim}_max_lifetime"] = vectorizations.maximum_lifetime(bars)
            if compat is None:
                found[f"H{dim}_entropy"] = vectorizations.persistence_entropy(bars)
                found[f"H{dim}_infinite"] = float(len(self.infinite[dim]))
        return found

    def _death_of_peer(self, dim: int) -> float:
        births = np.concatenate([self.finite[dim][:, 0], self.infinite[dim]])
        return float(births.max(initial=0)) + 1.0

    # --- layouts of other programs

    def to_ripser(self) -> dict[str, list[Any]]:
        """The layout of ripser.py and giotto-ph: ``{"dgms": [...]}``, float64 ``[m, 2]`` for each dimension,
        essential bars last with an infinite death.

        With cocycles also ``"cocycles"``: for each dimension and bar ``[s, dim + 2]`` int64, vertices and
        coefficient (none in dimension 0).
        """
        found: dict[str, list[Any]] = {"dgms": [self.bars(dim, math.inf) for dim in range(len(self))]}
        if self.cocycles is not None:
            found["cocycles"] = [
                [np.column_stack(cocycle) for cocycle in of_bars] if dim else []
                for dim, of_bars in enumerate(self.cocycles)
            ]
        return found

    def to_gudhi(self) -> list[tuple[int, tuple[float, float]]]:
        """The layout of GUDHI's ``persistence()``: pairs of dimension and (birth, death), lowest dimension
        first."""
        return [
            (dim, (float(birth), float(death)))
            for dim in range(len(self))
            for birth, death in self.bars(dim, math.inf)
        ]

    def to_giotto(self, infinite: Death = LEAVE) -> FloatArray:
        """The layout of giotto-tda: ``[1, m, 3]`` rows (birth, death, dimension).

        As there, a dimension without bars has one row of length 0.

        Args:
            infinite: As in `bars`; giotto-tda itself leaves out one component, and closes other essential
                bars at its ``infinity_values``.
        """
        rows = []
        for dim in range(len(self)):
            bars = self.bars(dim, infinite)
            bars = bars if len(bars) else np.zeros((1, 2))
            rows.append(np.column_stack([bars, np.full(len(bars), float(dim))]))
        return np.concatenate(rows)[None]

    @classmethod
    def from_ripser(cls, result: Any) -> PersistenceDiagrams:
        """From what ripser.py or giotto-ph returned, or its list ``"dgms"``: the bars, without simplices.

        As in all converters, births and deaths are rounded to float32 and bars of length 0 left out.
        """
        dgms = result["dgms"] if isinstance(result, Mapping) else result
        return cls._of_bars([as_bars(bars, essential=True) for bars in dgms])

    @classmethod
    def from_gudhi(
        cls, pairs: Iterable[tuple[int, tuple[float, float]]], *, max_dim: int | None = None
    ) -> PersistenceDiagrams:
        """From GUDHI's ``persistence()``: the bars, without simplices.

        Args:
            pairs: Dimension and (birth, death), in any order.
            max_dim: The highest dimension that was computed; None: the highest that has a bar.
        """
        given = list(pairs)
        dims = np.array([dim for dim, _ in given], np.float64)
        return cls._of_rows(dims, as_bars([bar for _, bar in given], essential=True), max_dim)

    @classmethod
    def from_giotto(cls, rows: Any) -> PersistenceDiagrams:
        """From one diagram ``[m, 3]`` or ``[1, m, 3]`` of giotto-tda: the bars, without simplices.

        Its padding, rows of length 0, is left out.
        """
        array = np.asarray(rows)
        array = array[0] if array.ndim == 3 and len(array) == 1 else array
        if array.ndim != 2 or array.shape[1] != 3:
            raise refusal("rows must be one diagram [m, 3] or [1, m, 3]", f"shape {array.shape}")
        return cls._of_rows(array[:, 2].astype(np.float64), as_bars(array[:, :2], essential=True), None)

    @classmethod
    def _of_rows(cls, dims: FloatArray, bars: FloatArray, max_dim: int | None) -> PersistenceDiagrams:
        if not ((dims >= 0) & (dims == np.floor(dims)) & np.isfinite(dims)).all():
            raise refusal("dimensions must be integers of at least 0", dims.tolist())
        highest = int(dims.max(initial=0))
        if max_dim is not None:
            check_integer("max_dim", max_dim, 0)
            if highest > max_dim:
                raise refusal(f"bars must be of dimensions up to max_dim = {max_dim}", f"a bar of {highest}")
            highest = max_dim
        return cls._of_bars([bars[dims == dim] for dim in range(highest + 1)])

    @classmethod
    def _of_bars(cls, per_dim: list[FloatArray]) -> PersistenceDiagrams:
        finite, infinite = [], []
        for bars in per_dim:
            essential = np.isinf(bars[:, 1])
            infinite.append(np.sort(_rounded(bars[essential, 0])))
            rows = _rounded(bars[~essential])
            rows = rows[rows[:, 0] < rows[:, 1]]
            finite.append(rows[np.lexsort((rows[:, 1], rows[:, 0]))])
        return cls(tuple(finite), tuple(infinite))


def _rounded(values: FloatArray) -> Float32Array:
    largest = float(np.finfo(np.float32).max)
    if (np.abs(values) > largest).any():
        raise refusal(f"births and deaths must fit float32, up to {largest:.6g}", np.abs(values).max())
    return values.astype(np.float32)


def _check_bars(dim: int, bars: Any, births: Any) -> None:
    given = [(array.dtype.name, array.ndim) for array in (bars, births)]
    if given != [("float32", 2), ("float32", 1)] or bars.shape[1] != 2:
        rule = f"bars of dimension {dim} must be float32 [m, 2] and births of infinite ones float32 [k]"
        raise refusal(rule, f"{bars.dtype} {bars.shape} and {births.dtype} {births.shape}")
    finite = np.isfinite(bars).all(axis=1) & (bars[:, 0] < bars[:, 1])
    if not finite.all():
        raise refusal(f"bars of dimension {dim} must be finite with birth < death", bars[~finite][0].tolist())
    if not np.isfinite(births).all():
        raise refusal(f"births of dimension {dim} must be finite", births[~np.isfinite(births)][0])
    step = np.diff(bars, axis=0)
    ascending = (step[:, 0] > 0) | ((step[:, 0] == 0) & (step[:, 1] >= 0))
    if not ascending.all() or (np.diff(births) < 0).any():
        rule = f"bars of dimension {dim} must ascend by (birth, death), infinite ones by birth"
        raise refusal(rule, bars[1:][~ascending][:1].tolist() or births.tolist())
