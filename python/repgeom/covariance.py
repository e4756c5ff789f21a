"""Streaming mean, covariance and cross-covariance: of one layer, or of many layers in one call.

A statistic has three verbs: *add* a batch (``update``), *merge* another, *read* the result. Sums are kept in
float64 whatever comes in; see ``csrc/covariance.hpp`` for the arithmetic and its sources.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

from repgeom import _core
from repgeom.arrays import Array, Float64Array, kernel_input, weights_input
from repgeom.checks import check_integer
from repgeom.covariance_sketch import DEFAULT_RANK, check_rows, new_sketch, sketched_names
from repgeom.memory import limit_or_available
from repgeom.sketches import NystromSketch
from repgeom.threads import thread_count

Weighting: TypeAlias = Literal["frequency", "reliability"]

Workspace: TypeAlias = _core.Workspace
"""Packing buffers and threads that live from call to call."""

STATE_VERSION = 1


def cpu_instruction_sets() -> list[str]:
    """Instruction sets whose kernels run on this machine; the last one is used unless another is named."""
    return _core.instruction_sets()


def cuda_available() -> bool:
    """Whether this build has CUDA kernels and finds a device that runs them."""
    return _core.cuda_available()


class Covariance:
    r"""Streaming covariance of vectors of width ``dim``.

    With weights :math:`w_i` (1 by default) and :math:`W=\sum_i w_i`, after any number of updates

    .. math:: \mu = \frac1W \sum_i w_i x_i, \qquad
              C = \frac{1}{W - \mathrm{ddof}} \sum_i w_i (x_i - \mu)(x_i - \mu)^\top .

    Products are summed in the data's precision (float32 for 16-bit data) over runs of at most 512 rows, then
    in float64. Each call shifts its rows where a channel's offset exceeds its spread, so constant or massive
    channels cost no digits; :meth:`error_bound` says what rounding may amount to. Rows that hold NaN or
    infinity are left out and counted in :attr:`nonfinite`. The result does not depend on the number of
    threads, bit for bit.

    Args:
        dim: Width d of the rows.
        cross_dim: Width of a second stream y; with it :meth:`update` takes ``cross`` and
            :meth:`cross_covariance` gives the covariance between x and y.
        threads: Threads per call; ``None`` takes ``REPGEOM_NUM_THREADS``, ``OMP_NUM_THREADS`` or all
            processors.
        instruction_set: One of :func:`cpu_instruction_sets`; ``None`` takes the fastest.
        workspace: Buffers and threads to share with statistics that are updated in turn; its own by default.

    Raises:
        ValueError: ``dim`` < 1, ``cross_dim`` < 0, ``threads`` < 1 or an instruction set that does not run
            here.

    References:
        Chan, Golub and LeVeque (1979), "Updating formulae and a pairwise algorithm for computing sample
        variances".
    """

    def __init__(
        self,
        dim: int,
        *,
        cross_dim: int | None = None,
        threads: int | None = None,
        instruction_set: str | None = None,
        workspace: Workspace | None = None,
    ) -> None:
        check_integer("dim", dim, 1)
        if cross_dim is not None:
            check_integer("cross_dim", cross_dim, 0)
        self._moments = _core.Moments(dim, cross_dim or 0)
        self._threads = thread_count(threads)
        self._instruction_set = instruction_set or ""
        if instruction_set is not None and instruction_set not in cpu_instruction_sets():
            raise ValueError(
                f"instruction_set must be one of {cpu_instruction_sets()}, got {instruction_set!r}"
            )
        self._workspace = workspace or Workspace()

    @property
    def dim(self) -> int:
        """Width d of the rows."""
        return self._moments.dim

    @property
    def cross_dim(self) -> int | None:
        """Width of the second stream, if there is one."""
        return self._moments.cross_dim or None

    @property
    def count(self) -> int:
        """Rows of positive weight added so far."""
        return self._moments.count

    @property
    def nonfinite(self) -> int:
        """Rows left out because they hold NaN or infinity."""
        return self._moments.nonfinite

    @property
    def weight_sum(self) -> float:
        """Sum of the weights; equal to :attr:`count` without weights."""
        return self._moments.weight_sum

    @property
    def mean(self) -> Float64Array:
        """Mean ``[d]``. Raises ``ValueError`` before the first row."""
        return self._moments.mean()

    @property
    def cross_mean(self) -> Float64Array:
        """Mean of the second stream, ``[cross_dim]``."""
        self._require_cross()
        return self._moments.mean(cross=True)

    def _require_cross(self) -> None:
        if self.cross_dim is None:
            raise ValueError("a second stream needs cross_dim >= 1, got None")

    def update(self, x: Array, weights: Array | None = None, *, cross: Array | None = None) -> Covariance:
        """Adds rows.

        Args:
            x: ``[n, d]``, rows contiguous; float64, float32, float16 or bfloat16; NumPy, torch or DLPack.
            weights: ``[n]``, finite and >= 0. A mask is a weight of 0 or 1: rows of weight 0 cost nothing.
            cross: ``[n, cross_dim]``, the second stream, required with ``cross_dim``.

        Raises:
            ValueError: A shape, layout or weight that breaks these rules. Nothing has been added then.
            TypeError: Not an array, or of another type.
        """
        _update([self], [x], [] if cross is None else [cross], weights, self._workspace)
        return self

    def merge(self, other: Covariance) -> Covariance:
        """Adds what another statistic of the same widths has seen."""
        if not isinstance(other, Covariance):
            raise TypeError(f"other must be a Covariance, got {type(other).__name__}")
        self._moments.merge(other._moments)
        return self

    def variance(self, ddof: float = 1, *, weighting: Weighting = "frequency") -> Float64Array:
        """Diagonal of the covariance, ``[d]``, without making the matrix."""
        return self._moments.variance(ddof, weighting)

    def trace(self, ddof: float = 1, *, weighting: Weighting = "frequency") -> float:
        """Trace of the covariance: the total variance."""
        return float(self.variance(ddof, weighting=weighting).sum())

    def covariance(self, ddof: float = 1, *, weighting: Weighting = "frequency") -> Float64Array:
        """Covariance ``[d, d]``, float64, exactly symmetric.

        Args:
            ddof: 1 divides by W - 1 (unbiased for frequency weights), 0 by W.
            weighting: ``"reliability"`` divides by W - ddof * sum(w**2) / W instead.

        Raises:
            ValueError: Too little weight for ``ddof`` (fewer than two rows, with ``ddof=1``).
        """
        return self._moments.covariance(ddof, weighting)

    def cross_covariance(self, ddof: float = 1, *, weighting: Weighting = "frequency") -> Float64Array:
        """Covariance ``[d, cross_dim]`` between the two streams."""
        return self._moments.cross_covariance(ddof, weighting)

    def error_bound(self, ddof: float = 1, *, weighting: Weighting = "frequency") -> Float64Array:
        """Scale b ``[d]`` of the rounding error: ``abs(error[i, j]) <= b[i] * b[j]`` for every entry of the
        covariance.

        Guaranteed, not typical: it counts every rounding of products, shifts, weights and sums in the
        statistic at its worst, (k + 3) u for a run of k products with unit roundoff u (Higham 2002, section
        3.1). It does not count the quantisation of the data before they came here.
        """
        return self._moments.error_scale(ddof, weighting)

    @property
    def resolution(self) -> float:
        """Eigenvalues of :meth:`covariance` below this are rounding noise.

        The typical spectral norm of the rounding error: independent errors of size ``b[i] b[j] / sqrt(k)``,
        with b the :meth:`error_bound` and k = 512 products a run, make a random matrix of norm
        ``2 sqrt(d / k) mean(b**2)``.
        """
        scale = self.error_bound()
        return float(2 * (self.dim / 512) ** 0.5 * (scale @ scale) / self.dim)

    def cross_error_bound(
        self, ddof: float = 1, *, weighting: Weighting = "frequency"
    ) -> tuple[Float64Array, Float64Array]:
        """Scales a ``[d]``, b ``[cross_dim]``: ``abs(error[i, j]) <= a[i] * b[j]``, for the second stream."""
        self._require_cross()
        return self._moments.error_scale(ddof, weighting), self._moments.error_scale(ddof, weighting, True)

    def state_dict(self) -> dict[str, Any]:
        """Everything that :meth:`load_state_dict` needs: numbers and float64 arrays."""
        return {
            "version": STATE_VERSION,
            "dim": self.dim,
            "cross_dim": self.cross_dim or 0,
            **self._moments.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replaces the statistic by a saved one.

        Raises:
            ValueError: Another version, another width or a missing entry. The statistic is as before then.
        """
        self._check_state(state)
        try:
            self._moments.restore(dict(state))
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"state_dict must hold numbers and float64 arrays, got {error}") from error

    def _check_state(self, state: Mapping[str, Any]) -> None:
        expected = {"version": STATE_VERSION, "dim": self.dim, "cross_dim": self.cross_dim or 0}
        for key, value in expected.items():
            if state.get(key, None) != value:
                raise ValueError(f"state_dict[{key!r}] must be {value}, got {state.get(key, None)}")
        missing = sorted(set(self._moments.state()) - set(state))
        if missing:
            raise ValueError(f"state_dict must have the entries {missing}, got {sorted(state)}")

    def __repr__(self) -> str:
        return (
            f"Covariance(dim={self.dim}, cross_dim={self.cross_dim}, count={self.count}, "
            f"nonfinite={self.nonfinite})"
        )


def _update(
    statistics: list[Covariance],
    arrays: list[Array],
    cross: list[Array],
    weights: Array | None,
    workspace: Workspace,
) -> None:
    first = statistics[0]
    _core.update_moments(
        [statistic._moments for statistic in statistics],
        [kernel_input(array) for array in arrays],
        [kernel_input(array) for array in cross],
        weights_input(weights),
        first._threads,
        first._instruction_set,
        512,
        workspace,
    )


class CovarianceBank(Mapping[str, Covariance | NystromSketch]):
    """Covariances of many layers, updated together: one team of threads, one packing buffer.

    Where the sums, 4 d (d + 1) bytes each, do not fit in ``memory_limit``, every layer that a
    :class:`repgeom.NystromSketch` makes smaller has one in its place, with a warning: same verbs, mean and
    trace exact, eigenpairs from below with bounds.

    Args:
        dims: ``{name: width}``.
        threads: As in :class:`Covariance`.
        instruction_set: As in :class:`Covariance`.
        memory_limit: Bytes for the sums; ``None`` takes what is free. Reading takes more for a while.
        rank: Eigenpairs that a sketch is good for.
        seed: Of the sketches.

    Raises:
        ValueError: No name, an argument outside its range, or sums that do not even fit as sketches.

    Warns:
        RuntimeWarning: Sketches stand for covariances.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        *,
        threads: int | None = None,
        instruction_set: str | None = None,
        memory_limit: int | None = None,
        rank: int = DEFAULT_RANK,
        seed: int = 0,
    ) -> None:
        if not dims:
            raise ValueError("a CovarianceBank needs at least one name, got {}")
        check_integer("rank", rank, 1)
        for name, dim in dims.items():
            check_integer(f"dims[{name!r}]", dim, 1)
        self._workspace = Workspace()
        sketched = sketched_names(dims, limit_or_available(memory_limit), rank)
        options: dict[str, Any] = {
            "threads": threads,
            "instruction_set": instruction_set,
            "workspace": self._workspace,
        }
        self._statistics: dict[str, Covariance | NystromSketch] = {
            name: new_sketch(dim, rank, seed=seed, threads=threads)
            if name in sketched
            else Covariance(dim, **options)
            for name, dim in dims.items()
        }

    @property
    def sketched(self) -> tuple[str, ...]:
        """Names whose covariance is a sketch."""
        return tuple(name for name, kept in self._statistics.items() if isinstance(kept, NystromSketch))

    def __getitem__(self, name: str) -> Covariance | NystromSketch:
        return self._statistics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._statistics)

    def __len__(self) -> int:
        return len(self._statistics)

    def update(self, arrays: Mapping[str, Array], weights: Array | None = None) -> CovarianceBank:
        """Adds ``{name: [n, d]}``; names that are missing stay as they are. ``weights`` ``[n]`` holds for
        all.

        Raises:
            ValueError: A name that the bank does not have, or what :meth:`Covariance.update` refuses. Nothing
                has been added then, to any of them.
        """
        unknown = sorted(set(arrays) - set(self._statistics))
        if unknown:
            raise ValueError(f"names must be among {sorted(self._statistics)}, got {unknown}")
        exact: list[Covariance] = []
        rows: list[Array] = []
        sketches: list[tuple[NystromSketch, Array]] = []
        for name, x in arrays.items():
            statistic = self._statistics[name]
            if isinstance(statistic, NystromSketch):
                check_rows(statistic, x, weights_input(weights))
                sketches.append((statistic, x))
            else:
                exact.append(statistic)
                rows.append(x)
        if exact:
            _update(exact, rows, [], weights, self._workspace)
        for sketch, x in sketches:
            sketch.update(x, weights)
        return self

    def merge(self, other: CovarianceBank) -> CovarianceBank:
        """Adds what another bank of the same names, widths and sketches has seen."""
        if not isinstance(other, CovarianceBank):
            raise TypeError(f"other must be a CovarianceBank, got {type(other).__name__}")
        if set(other) != set(self):
            raise ValueError(f"banks must have the same names, got {sorted(self)} and {sorted(other)}")
        for name, statistic in self._statistics.items():
            if statistic.dim != other[name].dim:
                raise ValueError(f"widths of {name!r} must agree, got {statistic.dim} and {other[name].dim}")
            if _shape(statistic) != _shape(other[name]):
                rule = f"{name!r} must have the same kind of sums, with the same rank and seed, in both banks"
                raise ValueError(f"{rule}, got {statistic!r} and {other[name]!r}")
        for name, statistic in self._statistics.items():
            statistic.merge(other[name])  # type: ignore[arg-type]
        return self

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """``{name: state_dict()}`` of the covariances and sketches."""
        return {name: statistic.state_dict() for name, statistic in self._statistics.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Replaces all statistics by saved ones of the same names and kinds."""
        if set(state) != set(self):
            raise ValueError(f"state_dict must have the names {sorted(self)}, got {sorted(state)}")
        fresh = {}
        for name, statistic in self._statistics.items():
            fresh[name] = _empty(statistic)
            fresh[name].load_state_dict(state[name])
        for name, statistic in self._statistics.items():
            vars(statistic).update(vars(fresh[name]))


def _shape(statistic: Covariance | NystromSketch) -> tuple[int, ...]:
    """What must agree for statistics to merge."""
    if isinstance(statistic, Covariance):
        return (statistic.dim,)
    return statistic.dim, statistic.columns, statistic.seed


def _empty(statistic: Covariance | NystromSketch) -> Covariance | NystromSketch:
    empty = copy.copy(statistic)
    if isinstance(empty, Covariance):
        empty._moments = _core.Moments(empty.dim)
    else:
        empty._sums = empty._new_sums()
    return empty
