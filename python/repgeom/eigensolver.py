"""The k largest eigenpairs of a covariance, each with its residual: randomized block Krylov, or LAPACK.

The kernels are in ``csrc/eigensolver.hpp``; the small eigenproblems and the dense method are NumPy's LAPACK.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, TypeAlias, overload

import numpy as np

from repgeom import _core
from repgeom.arrays import Array, Float64Array, is_torch, kernel_input
from repgeom.checks import as_float64, check_integer, refusal
from repgeom.threads import blas_threads, thread_count

Method: TypeAlias = Literal["auto", "krylov", "dense"]

PANEL: Final = 24
_EPS: Final = float(np.finfo(np.float64).eps)
_CHUNK: Final = 1 << 22
# Below this size the dense method is taken: what Krylov could save is less than 4 ms.
_SMALL: Final = 224
# Smaller eigenproblems are solved on one thread in the core, without the threads of LAPACK to wait for.
_LAPACK_SIZE: Final = 144


@dataclasses.dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Leading eigenpairs and what certifies them; made by :func:`top_eigenpairs`.

    Attributes:
        values: ``[k]`` float64, descending, in the unit of the matrix.
        vectors: ``[d, k]`` orthonormal columns; the entry of largest magnitude of each is positive.
        residuals: ``[k]`` norms of ``C v - theta v``, by a product with the matrix made at the end. Of a
            sketch: an upper bound of that norm for the matrix that was sketched.
        converged: ``[k]`` whether the residual is at most ``tol * values[0]``.
        bounds: ``[k]`` some eigenvalue of the matrix lies within ``bounds[i]`` of ``values[i]``:
            ``residual**2 / gap`` where the trace proves a gap to all other eigenvalues, else the residual;
            with an allowance for rounding. That no larger eigenvalue was missed is proven only where the
            rest of the trace leaves no room for one; else it is almost sure, as the start is random.
        captured: Share of the trace that the values hold; 1 for a zero matrix.
        trace: Sum of all eigenvalues, exact.
        status: ``"ok"``, ``"zero"`` (no variance), ``"not converged"``, or ``"sketch"`` (values are at most
            those of the matrix, by at most ``bounds``).
        method: ``"krylov"``, ``"dense"`` or ``"sketch"``: what the pairs come from.
        products: Columns that were multiplied with the matrix, one residual each included.
        tol: The tolerance asked for.
        seed: Of the random start.
        warnings: One sentence for each thing that a reader should know.
    """

    values: Float64Array
    vectors: Float64Array
    residuals: Float64Array
    converged: np.ndarray[Any, np.dtype[np.bool_]]
    bounds: Float64Array
    captured: float
    trace: float
    status: str
    method: str
    products: int
    tol: float
    seed: int
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain Python values, arrays as lists."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in fields.items()
        }


@overload
def top_eigenpairs(
    a: Sequence[Any],
    k: int,
    *,
    tol: float = ...,
    method: Method = ...,
    seed: int = ...,
    implicit: bool = ...,
    ddof: float = ...,
    block: int | None = ...,
    max_products: int | None = ...,
    threads: int | None = ...,
) -> list[Eigenpairs]: ...


@overload
def top_eigenpairs(
    a: Array,
    k: int,
    *,
    tol: float = ...,
    method: Method = ...,
    seed: int = ...,
    implicit: bool = ...,
    ddof: float = ...,
    block: int | None = ...,
    max_products: int | None = ...,
    threads: int | None = ...,
) -> Eigenpairs: ...


def top_eigenpairs(
    a: Any,
    k: int,
    *,
    tol: float = 1e-8,
    method: Method = "auto",
    seed: int = 0,
    implicit: bool = False,
    ddof: float = 1,
    block: int | None = None,
    max_products: int | None = None,
    threads: int | None = None,
) -> Any:
    r"""Find the k largest eigenvalues and their vectors, each with a residual.

    ``"krylov"`` is Rayleigh-Ritz on the space of :math:`Q, CQ, C^2Q, \dots` for a random block Q, with full
    reorthogonalisation and thick restarts; it stops when every residual is at most ``tol`` times the largest
    value. ``"dense"`` is LAPACK's decomposition. ``"auto"`` takes the one that should be faster: it is dense
    for a small matrix or many pairs, else it starts with Krylov and changes to dense where the trace outside
    of the first space shows too slow a decay, or the residuals fall too slowly. Its choice depends on the
    input, not on a clock. The pairs do not depend on ``threads``.

    An eigenvalue that occurs more often than the block is wide is noticed, and the search is repeated with a
    wider block. Eigenvalues that differ by less than the residuals may come in either order.

    Args:
        a: A positive semi-definite ``[d, d]`` matrix (NumPy, torch), a :class:`repgeom.Covariance`, a sketch
            (:class:`repgeom.NystromSketch`, :class:`repgeom.FrequentDirections`), or with ``implicit`` rows x
            ``[n, d]``. A list of them is a batch and gives a list.
        k: Pairs, from 1 to d.
        tol: Largest residual ``|C v - theta v|`` of any pair, relative to the largest eigenvalue (so that of
            a small theta may be as large as theta). Below about 1e-13 nothing converges.
        method: ``"auto"``, ``"krylov"`` or ``"dense"``. Krylov needs room: where d is less than about 2 k +
            200, the dense method is taken instead and the result says so.
        seed: Of the random start.
        implicit: ``a`` holds rows; the matrix is their covariance, ``(x - mean)^T (x - mean) / (n - ddof)``.
            It is never formed: the dense method decomposes the smaller of the two products of x with itself.
        ddof: With ``implicit``, 1 divides by n - 1 and 0 by n.
        block: Columns of a block, rounded up to a multiple of 24; chosen by default.
        max_products: Stop after about that many products of the matrix with a vector; the best pairs so far
            come back with ``status="not converged"``.
        threads: As in :class:`repgeom.Covariance`.

    Raises:
        ValueError: k outside 1..d, a tolerance that is not positive, NaN or infinity, a matrix that is not
            square or symmetric (entries may differ by 1e-8 of the largest; 1e-3 where it is float32, 1e-2
            where it has 16 bits), or an eigenvalue seen below minus the same share of the largest.

    References:
        Musco and Musco (2015), arXiv 1504.05477; Tropp and Webber (2023), arXiv 2306.12418.
    """
    if isinstance(a, (list, tuple)):
        options: dict[str, Any] = {"tol": tol, "method": method, "seed": seed, "implicit": implicit}
        options |= {"ddof": ddof, "block": block, "max_products": max_products, "threads": threads}
        return [top_eigenpairs(one, k, **options) for one in a]
    _check_options(k, tol=tol, method=method, seed=seed, block=block, max_products=max_products)
    if hasattr(a, "sketched_pairs"):
        return a.sketched_pairs(k, tol)
    problem = _scaled(_implicit_problem(a, ddof) if implicit else _dense_problem(a))
    if k > problem.dim:
        raise refusal(f"k must be at most d = {problem.dim}", k)
    search = _Search(problem, k, tol=tol, seed=seed, threads=thread_count(threads), max_products=max_products)
    with blas_threads(1):
        return search.run(method, block)


def _check_options(
    k: int, *, tol: float, method: str, seed: int, block: int | None, max_products: int | None
) -> None:
    check_integer("k", k, 1)
    check_integer("seed", seed, 0)
    for name, value in (("block", block), ("max_products", max_products)):
        if value is not None:
            check_integer(name, value, 1)
    if not 0 < tol < 1:
        raise refusal("tol must be above 0 and below 1", tol)
    if method not in ("auto", "krylov", "dense"):
        raise refusal('method must be "auto", "krylov" or "dense"', repr(method))


@dataclasses.dataclass(frozen=True, eq=False)
class _Problem:
    """The matrix, or rows whose covariance it is.

    ``array`` (with ``denominator``) is the user's matrix divided by ``unit``, a power of two. ``slack`` is
    how far below 0 an eigenvalue may lie, relative to the largest; ``spread`` the largest diagonal entry,
    which bounds all entries of a positive semi-definite matrix.
    """

    array: Any
    mean: Float64Array | None
    denominator: float
    dim: int
    trace: float
    spread: float
    slack: float
    asymmetry: float
    unit: float = 1.0

    @property
    def dense_size(self) -> int:
        """Size of the matrix that the dense method decomposes."""
        return self.dim if self.mean is None else min(self.dim, len(self.array))

    def product_flops(self) -> float:
        """Flops of a product with one vector."""
        return 2.0 * self.dim * self.dim if self.mean is None else 4.0 * self.dim * len(self.array)


def _dense_problem(a: Any) -> _Problem:
    resolution = 0.0
    if hasattr(a, "covariance"):
        resolution, a = float(getattr(a, "resolution", 0.0)), a.covariance()
    given = str(getattr(a, "dtype", "float64"))
    asymmetry = 1e-2 if given.endswith("16") else 1e-3 if given.endswith("float32") else 1e-8
    matrix = a.detach().cpu().double().numpy() if is_torch(a) else np.asarray(a)
    if matrix.dtype.kind not in "fiub":
        raise refusal("a must hold real numbers", f"dtype {matrix.dtype}")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) == 0:
        raise refusal("a must be [d, d] with d >= 1 (or rows, with implicit=True)", f"shape {matrix.shape}")
    matrix = np.ascontiguousarray(matrix, dtype=np.float64)
    diagonal = np.diagonal(matrix)
    if not np.isfinite(diagonal).all():
        as_float64(matrix, "a", 2)
    spread = float(diagonal.max())
    if not float(diagonal.min()) >= -max(asymmetry * max(spread, 0.0), 10 * resolution):
        raise refusal("a must be positive semi-definite", f"a diagonal entry {diagonal.min():.6g}")
    if spread <= 0:
        as_float64(matrix, "a", 2)
        if np.any(matrix):
            raise refusal("a must be positive semi-definite", "no positive entry on the diagonal")
    slack = max(asymmetry, 10 * resolution / spread if spread > 0 else 0.0)
    return _Problem(matrix, None, 1.0, len(matrix), float(diagonal.sum()), max(spread, 0.0), slack, asymmetry)


def _scaled(problem: _Problem) -> _Problem:
    """The same in another unit where squares of its numbers would over- or underflow."""
    if problem.spread == 0 or 1e-100 < problem.spread < 1e100:
        return problem
    unit = float(2.0 ** np.floor(np.log2(problem.spread)))
    dense = problem.mean is None
    return dataclasses.replace(
        problem,
        array=problem.array / unit if dense else problem.array,
        denominator=1.0 if dense else problem.denominator * unit,
        trace=problem.trace / unit,
        spread=problem.spread / unit,
        unit=unit,
    )


def _implicit_problem(x: Any, ddof: float) -> _Problem:
    x = kernel_input(x)
    if not is_torch(x):
        x = np.asarray(x)
        if x.dtype.kind in "iub":
            x = x.astype(np.float64)
    if len(x.shape) != 2 or 0 in x.shape:
        raise refusal("x must be [n, d] with n >= 1 and d >= 1", f"shape {tuple(x.shape)}")
    n, dim = x.shape
    if not n - ddof > 0:
        raise refusal(f"x must have more rows than ddof = {ddof}", n)
    mean, squares = np.zeros(dim), np.zeros(dim)
    for rows in _float64_rows(x):
        mean += as_float64(rows, "x", 2).sum(axis=0) / n
    for rows in _float64_rows(x):
        squares += np.square(rows - mean).sum(axis=0)
    variance = squares / (n - ddof)
    return _Problem(
        x, mean, float(n - ddof), int(dim), float(variance.sum()), float(variance.max()), 1e-8, np.inf
    )


def _float64_rows(x: Any) -> Iterator[Float64Array]:
    step = max(1, _CHUNK // x.shape[1])
    for start in range(0, len(x), step):
        rows = x[start : start + step]
        yield rows.double().numpy() if is_torch(rows) else rows.astype(np.float64)


@dataclasses.dataclass
class _Ritz:
    """Ritz values, descending, with coefficients of their vectors and the residuals of the first k."""

    values: Float64Array
    coefficients: Float64Array
    residuals: Float64Array


class _Search:
    """One call of top_eigenpairs."""

    def __init__(
        self, problem: _Problem, k: int, *, tol: float, seed: int, threads: int, max_products: int | None
    ) -> None:
        self.problem, self.k, self.tol, self.seed, self.threads = problem, k, tol, seed, threads
        self.max_products = max_products
        self.products, self.spent = 0, 0.0
        self.warnings: list[str] = []
        self.dense_flops = _eigh_flops(problem.dense_size)

    def run(self, method: Method, block: int | None) -> Eigenpairs:
        problem = self.problem
        if problem.spread == 0.0:
            vectors = np.eye(problem.dim, self.k)
            return self._result(np.zeros(self.k), vectors, np.zeros(self.k), "krylov", "zero")
        panels = _panels(block) if block else _default_panels(self.k, problem.dim)
        stream = 0
        while method != "dense" and self._has_room(panels) and not (method == "auto" and self._dense_wins()):
            found = self._krylov(panels, stream, method == "auto")
            if isinstance(found, Eigenpairs):
                return found
            if found == "dense":
                break
            panels, stream = 2 * panels, stream + (1 << 32)
        if method == "krylov":
            self.warnings.append(f"a Krylov space does not fit in {problem.dim} dimensions: dense method")
        return self._dense()

    def _has_room(self, panels: int) -> bool:
        return self._most_panels(panels) >= self._kept_panels(panels) + 3 * panels

    def _kept_panels(self, panels: int) -> int:
        """Panels that a restart keeps: half of the basis, or the pairs and some more."""
        return max(self._least_panels(), self._most_panels(panels) // 2)

    def _least_panels(self) -> int:
        return _panels(self.k + max(PANEL, self.k // 4))

    def _most_panels(self, panels: int) -> int:
        """Panels of the basis, which must fit with another block: its eigenproblem should not cost more than
        the products between restarts."""
        least, dim = self._least_panels(), self.problem.dim
        useful = max(2 * least, least + 4 * panels, min(31, dim // (8 * PANEL)))
        return min(useful, dim // PANEL - panels)

    def _share(self) -> float:
        """What a space of 2 k columns costs that is looked at once or twice: the least Krylov needs, as a
        share of the dense method."""
        size = 2 * self.k + 3 * PANEL
        flops = self.problem.product_flops() * size + 4.0 * self.problem.dim * size**2
        return (flops + 1.5 * _eigh_flops(size)) / self.dense_flops

    def _dense_wins(self) -> bool:
        """Whether not even a first look at the decay pays."""
        return self.problem.dense_size < _SMALL or self._share() > 1.1

    def _decays_slowly(self, space: _core.KrylovSpace) -> bool:
        """Whether Krylov should be the slower way, a guess from the trace that needs no eigenproblem.

        The work grows with the decades from the limit of the residuals up to the average eigenvalue outside
        of the space; a flat spectrum takes a number of steps and looks that hardly depends on k. The numbers
        are a fit to measured times of decaying, spiked and flat spectra.
        """
        problem = self.problem
        outside = max(0.0, problem.trace - float(np.trace(space.projected)))
        mean = outside / max(1, problem.dim - space.columns) / space.scale
        decaying = self._share() * (0.1 + 0.5 * float(np.log10(max(mean / self.tol, 1.0))))
        size = 6 * PANEL + self.k
        flat = 24 * self._step_flops(size, PANEL) + 8 * _eigh_flops(size)
        return max(decaying, mean * flat / self.dense_flops) > 1

    def _krylov(self, panels: int, stream: int, may_switch: bool) -> Eigenpairs | Literal["dense", "wider"]:
        space = self._space(panels, stream)
        pace = _Pace()
        while True:
            self._expand(space, panels)
            exhausted = self.max_products is not None and self.products >= self.max_products
            last = space.full or exhausted
            if space.columns < self.k + panels * PANEL or not (last or pace.due()):
                continue
            if may_switch and not pace.history and self._decays_slowly(space):
                return "dense"
            ritz = self._ritz(space, panels)
            limit = self.tol * float(ritz.values[0])
            worst = float(ritz.residuals.max())
            if worst <= limit:
                if self._may_miss_copies(ritz, space.random_columns):
                    return "wider"
                return self._krylov_result(space, ritz)
            if exhausted:
                return self._krylov_result(space, ritz)
            price = _eigh_flops(space.columns) / self._step_flops(space.columns, panels * PANEL)
            steps = pace.record(worst / limit, price)
            if may_switch and self._too_slow(space, panels, steps):
                return "dense"
            if space.full:
                kept = self._kept_panels(panels) * PANEL
                space.restart(np.ascontiguousarray(ritz.coefficients[:, :kept]), ritz.values[:kept])

    def _space(self, panels: int, stream: int) -> _core.KrylovSpace:
        problem = self.problem
        most = self._most_panels(panels)
        options = (self.seed, stream, self.threads, "")
        return _core.KrylovSpace(problem.array, problem.mean, problem.denominator, panels, most, *options)

    def _expand(self, space: _core.KrylovSpace, panels: int) -> None:
        first = space.columns == 0
        try:
            space.expand()
        except ValueError:
            if self.problem.mean is None:
                as_float64(self.problem.array, "a", 2)  # names the entry
            raise
        width = panels * PANEL
        self.products += width
        self.spent += self._step_flops(space.columns, width)
        if first and self.problem.mean is None:
            # E |Q^T N Q|^2 = |N|^2 (b / d)^2 for the asymmetry N and a random block: a hint that costs
            # nothing.
            hint = space.asymmetry * self.problem.dim / width
            if not hint <= self.problem.asymmetry / 2 * self.problem.spread:
                _check_symmetric(self.problem)

    def _step_flops(self, columns: int, width: int) -> float:
        return (self.problem.product_flops() + 8.0 * self.problem.dim * columns) * width

    def _ritz(self, space: _core.KrylovSpace, panels: int) -> _Ritz:
        if space.columns < _LAPACK_SIZE:
            values, coefficients = space.ritz()
        else:
            values, coefficients = np.linalg.eigh(space.projected)
            values, coefficients = values[::-1], coefficients[:, ::-1]
        self.spent += _eigh_flops(len(values))
        if not values[-1] >= -self.problem.slack * max(values[0], 0.0):
            raise refusal("a must be positive semi-definite", f"an eigenvalue of at most {values[-1]:.6g}")
        last = coefficients[-panels * PANEL :, : self.k]
        return _Ritz(values, coefficients, np.linalg.norm(space.coupling @ last, axis=0))

    def _may_miss_copies(self, ritz: _Ritz, copies: int) -> bool:
        """Whether as many equal values were found as random columns were drawn: there may be more of them."""
        values = ritz.values[: self.k]
        spans = values[: self.k - copies + 1] - values[copies - 1 :] if self.k >= copies else np.empty(0)
        width = 2 * float(ritz.residuals.max()) + 1e-12 * float(values[0])
        left = self.problem.trace - float(ritz.values.sum())
        ends = values[copies - 1 :]
        resolved = (ends > 1e3 * float(ritz.residuals.max())) & (ends <= left + 1e-9 * self.problem.trace)
        return bool(np.any((spans <= width) & resolved))

    def _too_slow(self, space: _core.KrylovSpace, panels: int, steps: float) -> bool:
        """Whether it is hopeless: the pace of the past falls short of what restarts will make of it."""
        if self.spent < 0.3 * self.dense_flops:
            return False
        return not steps * self._step_flops(space.columns, panels * PANEL) <= 2 * self.dense_flops

    def _krylov_result(self, space: _core.KrylovSpace, ritz: _Ritz) -> Eigenpairs:
        values = np.ascontiguousarray(ritz.values[: self.k])
        vectors, residuals = space.pairs(np.ascontiguousarray(ritz.coefficients[:, : self.k]), values)
        self.products += self.k
        return self._result(values, vectors, residuals, "krylov", None)

    def _dense(self) -> Eigenpairs:
        with blas_threads(self.threads):
            return self._dense_pairs()

    def _dense_pairs(self) -> Eigenpairs:
        problem = self.problem
        if problem.mean is None:
            _check_symmetric(problem)
            matrix = problem.array
            values, vectors = np.linalg.eigh(matrix)
            lowest = float(values[0])
            values, vectors = values[::-1][: self.k], vectors[:, ::-1][:, : self.k]
            images = matrix @ vectors
        else:
            rows = np.concatenate(list(_float64_rows(problem.array))) - problem.mean
            values, vectors, lowest = _dense_pairs_of_rows(rows, problem.denominator, self.k, self.seed)
            images = rows.T @ (rows @ vectors) / problem.denominator
        if not lowest >= -problem.slack * float(values[0]):
            raise refusal("a must be positive semi-definite", f"the eigenvalue {lowest:.6g}")
        self.products += self.k
        residuals = np.linalg.norm(images - vectors * values, axis=0)
        return self._result(values, vectors, residuals, "dense", None)

    def _result(
        self,
        values: Float64Array,
        vectors: Float64Array,
        residuals: Float64Array,
        method: str,
        status: str | None,
    ) -> Eigenpairs:
        trace, unit = self.problem.trace, self.problem.unit
        converged = residuals <= self.tol * max(float(values[0]), 0.0)
        missing = int(np.sum(~converged))
        if missing:
            self.warnings.append(
                f"{missing} of {self.k} pairs have residuals above {self.tol:.3g} times the largest value"
            )
        return Eigenpairs(
            values=np.ascontiguousarray(values) * unit,
            vectors=with_fixed_signs(vectors),
            residuals=residuals * unit,
            converged=converged,
            bounds=eigenvalue_bounds(values, residuals, trace, self.problem.dim) * unit,
            captured=float(values.sum()) / trace if trace > 0 else 1.0,
            trace=trace * unit,
            status=status or ("not converged" if missing else "ok"),
            method=method,
            products=self.products,
            tol=self.tol,
            seed=self.seed,
            warnings=tuple(self.warnings),
        )


class _Pace:
    """When to look at the residuals next: they fall about geometrically, and looking costs an
    eigenproblem."""

    def __init__(self) -> None:
        self.step, self.next = 0, 1
        self.history: list[tuple[int, float]] = []

    def due(self) -> bool:
        """Counts a step; whether to look after it."""
        self.step += 1
        return self.step >= self.next

    def record(self, excess: float, price: float) -> float:
        """Takes the worst residual over its limit, and what a look costs in steps; returns the steps that
        remain at the present pace."""
        self.history.append((self.step, float(np.log(excess))))
        steps = float("inf")
        for step, before in self.history[-5:-1]:
            gained = (before - self.history[-1][1]) / max(1, self.step - step)
            if gained > 0:
                steps = self.history[-1][1] / gained
                break
        wait = min(int(0.7 * min(steps, 1e6) + 0.3 * price), int(1 + self.step // 3 + price))
        self.next = self.step + max(1, wait)
        return steps


def _eigh_flops(size: float) -> float:
    """The time of LAPACK's eigh, measured, in flops of products with the matrix."""
    return float(9.0 * size**3 + 3000.0 * size**2)


def _panels(columns: int) -> int:
    return -(-columns // PANEL)


def _default_panels(k: int, dim: int) -> int:
    return 1 if k <= 256 or dim < 2048 else 2


def _check_symmetric(problem: _Problem) -> None:
    matrix = as_float64(problem.array, "a", 2)
    largest, worst = 0.0, 0.0
    for start in range(0, len(matrix), 256):
        part = slice(start, start + 256)
        largest = max(largest, float(np.max(np.abs(matrix[part]))))
        worst = max(worst, float(np.max(np.abs(matrix[part] - matrix[:, part].T))))
    if not worst <= problem.asymmetry * largest:
        raise refusal("a must be symmetric", f"entries that differ by {worst:.6g}")


def _dense_pairs_of_rows(
    rows: Float64Array, denominator: float, k: int, seed: int
) -> tuple[Float64Array, Float64Array, float]:
    """Pairs of ``rows^T rows / denominator`` by the smaller of the two products, and the lowest value."""
    n, dim = rows.shape
    if n >= dim:
        values, vectors = np.linalg.eigh(rows.T @ rows / denominator)
        return values[::-1][:k], vectors[:, ::-1][:, :k], float(values[0])
    values, left = np.linalg.eigh(rows @ rows.T / denominator)
    lowest = float(values[0])
    values, left = values[::-1][:k], left[:, ::-1][:, :k]
    # Values lost in rounding have no vectors of their own: any that complete the basis are right.
    seen = int(np.sum(values > n * _EPS * values[0]))
    rest = np.random.default_rng(seed).standard_normal((dim, k - seen))
    vectors = np.linalg.qr(np.hstack([rows.T @ left[:, :seen], rest]))[0]
    return np.concatenate([np.maximum(values[:seen], 0.0), np.zeros(k - seen)]), vectors, lowest


def with_fixed_signs(vectors: Float64Array) -> Float64Array:
    """Columns with their entry of largest magnitude positive."""
    largest = vectors[np.argmax(np.abs(vectors), axis=0), np.arange(vectors.shape[1])]
    return np.ascontiguousarray(vectors * np.where(largest < 0, -1.0, 1.0))


def eigenvalue_bounds(values: Float64Array, residuals: Float64Array, trace: float, dim: int) -> Float64Array:
    """``[k]`` bounds of the distance from each value to an eigenvalue, of a positive semi-definite matrix.

    Some k eigenvalues lie within r, the root of the sum of squared residuals, of the values (Kahan); the
    others add up to what is left of the trace, so none of them is larger. Where that keeps all other
    eigenvalues at a distance ``gap`` from a value, ``residual**2 / gap`` holds (Kato and Temple), else the
    residual. Rounding of the decomposition, ``d u values[0]``, comes on top.
    """
    spread = float(np.linalg.norm(residuals))
    rounding = dim * _EPS / 2 * abs(float(values[0]))
    rest = max(0.0, trace - float(values.sum())) + len(values) * (spread + rounding)
    padded = np.concatenate([[np.inf], values, [-np.inf]])
    gaps = np.minimum(np.minimum(padded[:-2] - values, values - padded[2:]) - spread, values - rest)
    if len(values) == dim:
        gaps = np.minimum(padded[:-2] - values, values - padded[2:]) - spread
    with np.errstate(divide="ignore", invalid="ignore"):
        sharp = np.where(gaps > 0, residuals**2 / gaps, np.inf)
    return np.asarray(np.minimum(residuals, sharp) + rounding)
