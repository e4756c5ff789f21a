"""Covariances too wide for a ``[d, d]`` matrix, in one pass: Nystrom sketches and Frequent Directions.

Both are statistics: *add* rows, *merge* another, *read* eigenpairs. Mean, trace and counts are exact; the
eigenvalues are never above those of the covariance, and a bound says how far below they may be. The sums are
float64; those of Nystrom are kept by ``csrc/sketch.hpp``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np

from repgeom import _core
from repgeom.arrays import Array, Float64Array, is_torch, kernel_input, weights_input
from repgeom.checks import check_integer, refusal
from repgeom.eigensolver import Eigenpairs, with_fixed_signs
from repgeom.threads import thread_count

STATE_VERSION: Final = 1
_PROBES: Final = 24
_EPS: Final = float(np.finfo(np.float64).eps)


@dataclasses.dataclass(frozen=True, eq=False)
class SketchedSpectrum:
    """What one pass tells about the spectrum of a covariance C; made by :meth:`NystromSketch.read`.

    Attributes:
        values: ``[l]`` eigenvalues of the sketch, descending: ``values[i] <= lambda_i <= values[i] +
            missing``.
        vectors: ``[d, l]`` its eigenvectors.
        trace: Trace of C, exact.
        missing: Trace of C less that of the sketch: bounds the spectral and the Frobenius norm of the
            difference.
        error: Leave-one-out estimate of the Frobenius norm of the difference between C and a sketch with one
            test vector less (Epperly and Tropp 2022); an estimate, not a bound.
        square_sum: Estimate of ``|C|_F^2``, unbiased given the sketch; ``square_sum_error`` is its standard
            error. A number of one pass that is exact does not exist without ``[d, d]`` or ``[n, n]`` memory.
        d_pr: Participation ratio ``trace**2 / square_sum``; ``d_pr_error`` is its standard error.
        d_pr_bounds: Lowest and highest participation ratio that the sketch allows.
        count: Rows behind it.
    """

    values: Float64Array
    vectors: Float64Array
    trace: float
    missing: float
    error: float
    square_sum: float
    square_sum_error: float
    d_pr: float
    d_pr_error: float
    d_pr_bounds: tuple[float, float]
    count: int


class NystromSketch:
    r"""One-pass sketch of the covariance of rows of width ``dim``, good for its first ``rank`` eigenpairs.

    For a Gaussian matrix :math:`\Omega` of l columns it keeps :math:`\sum w (x-s)((x-s)^\top\Omega)` and the
    first moments, from which :math:`Y = C\,\Omega` of the exactly centred covariance follows by linearity,
    and reads :math:`\hat C = Y (\Omega^\top Y)^{-1} Y^\top`, shifted for stability. In the order of positive
    semi-definite matrices :math:`0 \preceq \hat C \preceq C` up to rounding, and
    :math:`\mathrm E\,\mathrm{tr}(C-\hat C_r) \le (1 + r/(l-r-1))\,\mathrm{tr}(C - C_r)`.

    Memory 16 d (l + 24) bytes, 4 n d (l + 24) flops. 24 further test vectors, independent of the sketch,
    give the sum of squared eigenvalues with its standard error.

    Args:
        dim: Width d of the rows.
        rank: Eigenpairs wanted, from 1 to d.
        seed: Of the test matrix; sketches merge only if they have the same.
        oversampling: Columns l per eigenpair: ``l = oversampling * rank + 1``, at most d; at least 1.
        threads: As in :class:`repgeom.Covariance`; the sums do not depend on it.

    Raises:
        ValueError: Arguments outside these ranges.

    References:
        Tropp, Yurtsever, Udell and Cevher (2017), arXiv 1706.05736; Epperly and Tropp (2022), arXiv
        2207.06342.
    """

    def __init__(
        self, dim: int, rank: int, *, seed: int = 0, oversampling: int = 4, threads: int | None = None
    ) -> None:
        check_integer("dim", dim, 1)
        check_integer("rank", rank, 1)
        check_integer("seed", seed, 0)
        check_integer("oversampling", oversampling, 1)
        if rank > dim:
            raise refusal(f"rank must be at most dim = {dim}", rank)
        self.dim, self.rank, self.seed, self.oversampling = dim, rank, seed, oversampling
        self.columns = min(dim, oversampling * rank + 1)
        self._threads = thread_count(threads)
        self._sums = self._new_sums()

    def _new_sums(self) -> _core.CovarianceSketch:
        return _core.CovarianceSketch(self.dim, self.columns + _PROBES, self.seed)

    @property
    def count(self) -> int:
        """Rows of positive weight added so far."""
        return self._sums.count

    @property
    def nonfinite(self) -> int:
        """Rows left out because they hold NaN or infinity."""
        return self._sums.nonfinite

    @property
    def weight_sum(self) -> float:
        """Sum of the weights; equal to :attr:`count` without weights."""
        return self._sums.weight_sum

    @property
    def mean(self) -> Float64Array:
        """Mean ``[d]``. Raises ``ValueError`` before the first row."""
        if self.count == 0:
            raise refusal("a mean needs at least one row", 0)
        first = self._sums.first_moments()
        return np.asarray(first["shift"] + first["sums"] / self.weight_sum)

    def update(self, x: Array, weights: Array | None = None) -> NystromSketch:
        """Adds rows ``[n, d]`` with ``weights`` ``[n]``, as :meth:`repgeom.Covariance.update` does."""
        self._sums.update(kernel_input(x), weights_input(weights), self._threads, "")
        return self

    def merge(self, other: NystromSketch) -> NystromSketch:
        """Adds what another sketch of the same width, rank and seed has seen."""
        if not isinstance(other, NystromSketch):
            raise TypeError(f"other must be a NystromSketch, got {type(other).__name__}")
        if other._key() != self._key():
            raise refusal(f"sketches must have the same width, columns and seed, {self._key()}", other._key())
        if other.count:
            own, added = self._sums.state(), other._sums.state()
            self._sums.restore(added if not self.count else self._merged(own, added))
        return self

    def _key(self) -> tuple[int, int, int]:
        return self.dim, self.columns, self.seed

    def _merged(self, own: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
        """Sums about the shift of ``own``: x - s = (x - t) + (t - s) in every sum."""
        delta, sums, weight = added["shift"] - own["shift"], added["sums"], added["weight_sum"]
        test = self._sums.test_matrix()
        sums_test, delta_test = sums @ test, delta @ test
        product = added["product"]
        product += np.outer(sums, delta_test)
        product += np.outer(delta, sums_test + weight * delta_test)
        totals = ("count", "nonfinite", "weight_sum", "weight_square_sum")
        return {
            "shift": own["shift"],
            "product": own["product"] + product,
            "sums": own["sums"] + sums + weight * delta,
            "squares": own["squares"]
            + added["squares"]
            + 2 * float(sums @ delta)
            + weight * float(delta @ delta),
            **{name: own[name] + added[name] for name in totals},
        }

    def trace(self, ddof: float = 1) -> float:
        """Trace of the covariance, exact."""
        first = self._sums.first_moments()
        centred = first["squares"] - float(first["sums"] @ first["sums"]) / max(self.weight_sum, 1e-300)
        return float(max(0.0, centred) / self._denominator(ddof))

    def _denominator(self, ddof: float) -> float:
        if not self.weight_sum > ddof:
            raise refusal(f"a covariance with ddof = {ddof} needs a larger sum of weights", self.weight_sum)
        return self.weight_sum - ddof

    def _centred(self, ddof: float) -> tuple[Float64Array, Float64Array]:
        """Test matrix and C times it, ``[d, l + probes]``."""
        denominator = self._denominator(ddof)
        state, test = self._sums.state(), self._sums.test_matrix()
        product = state["product"]
        product -= np.outer(state["sums"] / self.weight_sum, state["sums"] @ test)
        product /= denominator
        return test, product

    def read(self, ddof: float = 1) -> SketchedSpectrum:
        """Eigenpairs of the sketch with bounds, and the exact or estimated numbers of the whole spectrum.

        Raises:
            ValueError: Too little weight for ``ddof`` (fewer than two rows, with ``ddof=1``).
        """
        test, product = self._centred(ddof)
        trace = self.trace(ddof)
        values, vectors, error = nystrom(test[:, : self.columns], product[:, : self.columns])
        probes, images = test[:, self.columns :], product[:, self.columns :]
        seen = vectors @ (values[:, None] * (vectors.T @ probes))
        rest = images - seen
        # |C|^2 = |A|^2 + 2 <A, E> + |E|^2 with C = A + E, the last two as means over probes independent of A.
        samples = 2 * np.einsum("ij,ij->j", seen, rest) + np.einsum("ij,ij->j", rest, rest)
        known = float(values @ values)
        missing = max(0.0, trace - float(values.sum()))
        lower = known + missing**2 / self.dim
        upper = (known**0.5 + missing) ** 2
        square_sum = float(np.clip(known + samples.mean(), lower, upper))
        square_error = float(samples.std(ddof=1)) / _PROBES**0.5
        d_pr = trace**2 / square_sum if square_sum > 0 else float("nan")
        return SketchedSpectrum(
            values=values,
            vectors=vectors,
            trace=trace,
            missing=missing,
            error=error,
            square_sum=square_sum,
            square_sum_error=square_error,
            d_pr=d_pr,
            d_pr_error=d_pr * square_error / square_sum if square_sum > 0 else float("nan"),
            d_pr_bounds=(trace**2 / upper, trace**2 / lower) if lower > 0 else (float("nan"), float("nan")),
            count=self.count,
        )

    def eigenpairs(self, k: int | None = None) -> Eigenpairs:
        """The first k (by default ``rank``) eigenpairs of the covariance (ddof = 1), from below.

        ``residuals`` and ``bounds`` are the trace that the sketch misses, which bounds them all; values and
        vectors are usually far better (:attr:`SketchedSpectrum.error`).
        """
        return self.sketched_pairs(self.rank if k is None else k, 0.0)

    def sketched_pairs(self, k: int, tol: float) -> Eigenpairs:
        """What :func:`repgeom.top_eigenpairs` returns for a sketch."""
        check_integer("k", k, 1)
        if k > self.columns:
            raise refusal(f"k must be at most the {self.columns} columns of the sketch", k)
        found = self.read()
        warning = f"values of a sketch are at most those of the matrix, by at most {found.missing:.6g}"
        return sketch_eigenpairs(
            found.values[:k],
            found.vectors[:, :k],
            bound=found.missing,
            trace=found.trace,
            tol=tol,
            warning=warning,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that :meth:`load_state_dict` needs: numbers and float64 arrays."""
        shape = {"dim": self.dim, "columns": self.columns, "seed": self.seed}
        return {"version": STATE_VERSION, **shape, **self._sums.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replaces the sums by saved ones.

        Raises:
            ValueError: Another version, width, number of columns or seed, or a missing entry. The sketch is
                as before then.
        """
        expected = {"version": STATE_VERSION, "dim": self.dim, "columns": self.columns, "seed": self.seed}
        check_state(state, expected, self._sums.state())
        try:
            self._sums.restore(dict(state))
        except (RuntimeError, TypeError) as error:
            raise refusal("state_dict must hold numbers and float64 arrays", error) from error

    def __repr__(self) -> str:
        return f"NystromSketch(dim={self.dim}, rank={self.rank}, columns={self.columns}, count={self.count})"


def sketch_eigenpairs(
    values: Float64Array, vectors: Float64Array, *, bound: float, trace: float, tol: float, warning: str
) -> Eigenpairs:
    """Pairs whose residuals and errors are bounded by one number."""
    bounds = np.full(len(values), bound)
    return Eigenpairs(
        values=np.ascontiguousarray(values),
        vectors=with_fixed_signs(vectors),
        residuals=bounds,
        converged=bounds <= tol * max(float(values[0]), 0.0),
        bounds=bounds.copy(),
        captured=float(values.sum()) / trace if trace > 0 else 1.0,
        trace=trace,
        status="sketch",
        method="sketch",
        products=0,
        tol=tol,
        seed=0,
        warnings=(warning,),
    )


def nystrom(test: Float64Array, product: Float64Array) -> tuple[Float64Array, Float64Array, float]:
    """Nystrom approximation of a positive semi-definite C from ``product = C test``, in float64.

    Args:
        test: ``[d, l]`` of full rank; only its range matters.
        product: ``[d, l]``.

    Returns:
        Eigenvalues ``[l]`` (descending), eigenvectors ``[d, l]``, and the leave-one-out estimate of the
        Frobenius norm of the error.
    """
    dim, columns = test.shape
    test, triangle = np.linalg.qr(test)
    product = np.linalg.solve(triangle.T, product.T).T
    scale = float(np.linalg.norm(product))
    if scale == 0.0:
        return np.zeros(columns), test, 0.0
    core = test.T @ product
    shift = dim**0.5 * _EPS * scale
    lower = np.empty(0)
    for _ in range(6):
        # Rounding may make the core indefinite by more than the shift: a larger one is taken off again below.
        shifted = (core + core.T) / 2 + shift * np.eye(columns)
        try:
            lower = np.linalg.cholesky(shifted)
            break
        except np.linalg.LinAlgError:
            shift *= 10
    if not lower.size:
        raise refusal("the sketch must be positive semi-definite", "sums that are not")
    factor = np.linalg.solve(lower, (product + shift * test).T).T
    vectors, singular, _ = np.linalg.svd(factor, full_matrices=False)
    values = np.maximum(singular**2 - shift, 0.0)
    return values, vectors, _left_out_error(product + shift * test, lower, dim)


def _left_out_error(product: Float64Array, lower: Float64Array, dim: int) -> float:
    """Without column i the sketch errs on it by ``Y H^-1 e_i / (H^-1)_ii``, and the column is a uniformly
    random direction of the space of dimension d - l + 1 on which the error acts."""
    columns = len(lower)
    inverse = np.linalg.solve(lower, np.eye(columns))
    inverse = inverse.T @ inverse
    errors = (product @ inverse) / np.diagonal(inverse)
    return float(np.sqrt((dim - columns + 1) * np.mean(np.sum(errors**2, axis=0))))


class FrequentDirections:
    r"""Deterministic one-pass sketch of the covariance of rows of width ``dim``: no seed, a guaranteed bound.

    Keeps at most 4 ``rank`` rows B with :math:`0 \preceq M - B^\top B \preceq \Delta\,I` for the exactly
    centred scatter :math:`M = \sum (x-\mu)(x-\mu)^\top`. Delta is known (:attr:`shrunk`) and at most
    :math:`\sum_{i>r} \lambda_i(M) / (l - r)` for every r < l, with l = 2 ``rank``. Batches are centred on
    their own means and joined by one row, as Chan, Golub and LeVeque join moments, so that nothing is ever
    subtracted.

    Memory 48 d ``rank`` bytes; a singular value decomposition for every 2 ``rank`` rows.

    Args:
        dim: Width d of the rows.
        rank: Eigenpairs wanted, from 1 to d.

    Raises:
        ValueError: Arguments outside these ranges.

    References:
        Ghashami, Liberty, Phillips and Woodruff (2016), arXiv 1501.01711.
    """

    def __init__(self, dim: int, rank: int) -> None:
        check_integer("dim", dim, 1)
        check_integer("rank", rank, 1)
        if rank > dim:
            raise refusal(f"rank must be at most dim = {dim}", rank)
        self.dim, self.rank, self.directions = dim, rank, 2 * rank
        self._rows: Float64Array = np.zeros((0, dim))
        self._mean: Float64Array = np.zeros(dim)
        self._squares, self._shrunk = 0.0, 0.0
        self._count = self._nonfinite = 0

    @property
    def count(self) -> int:
        """Rows added so far."""
        return self._count

    @property
    def nonfinite(self) -> int:
        """Rows left out because they hold NaN or infinity."""
        return self._nonfinite

    @property
    def shrunk(self) -> float:
        """Delta: no eigenvalue of the scatter is further above that of the sketch."""
        return self._shrunk

    @property
    def mean(self) -> Float64Array:
        """Mean ``[d]``. Raises ``ValueError`` before the first row."""
        if self.count == 0:
            raise refusal("a mean needs at least one row", 0)
        return np.asarray(self._mean.copy())

    def update(self, x: Array) -> FrequentDirections:
        """Adds rows ``[n, d]``; those that hold NaN or infinity are left out and counted."""
        x = kernel_input(x)
        if len(x.shape) != 2 or x.shape[1] != self.dim:
            raise refusal(f"x must be [n, {self.dim}]", f"shape {tuple(x.shape)}")
        for start in range(0, len(x), self.directions):
            part = x[start : start + self.directions]
            rows = part.double().numpy() if is_torch(part) else np.asarray(part).astype(np.float64)
            finite = np.isfinite(rows).all(axis=1)
            self._nonfinite += int(np.sum(~finite))
            if finite.any():
                rows = rows[finite]
                mean = rows[0] + (rows - rows[0]).mean(axis=0)  # exact where a channel is constant
                self._join(rows - mean, mean, len(rows), float(np.sum((rows - mean) ** 2)))
        return self

    def _join(self, centred: Float64Array, mean: Float64Array, count: int, squares: float) -> None:
        delta, total = mean - self._mean, self._count + count
        between = self._count * count / total
        self._squares += squares + between * float(delta @ delta)
        self._mean = self._mean + count / total * delta
        self._count = total
        bridge = between**0.5 * delta[None] if between else np.zeros((0, self.dim))
        self._rows = np.concatenate([self._rows, centred, bridge])
        if len(self._rows) > 2 * self.directions:
            self._shrink()

    def _shrink(self) -> None:
        """The first singular directions stay, less the next squared singular value."""
        values, left = np.linalg.eigh(self._rows @ self._rows.T)
        values, left = np.maximum(values[::-1], 0.0), left[:, ::-1]
        kept, taken = left[:, : self.directions], float(values[self.directions])
        self._shrunk += taken
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.sqrt(1 - taken / values[: self.directions])
        self._rows = np.nan_to_num(share)[:, None] * (kept.T @ self._rows)

    def merge(self, other: FrequentDirections) -> FrequentDirections:
        """Adds what another sketch of the same width and rank has seen; the bounds add up."""
        if not isinstance(other, FrequentDirections):
            raise TypeError(f"other must be a FrequentDirections, got {type(other).__name__}")
        if (other.dim, other.rank) != (self.dim, self.rank):
            raise refusal(f"sketches must have width {self.dim} and rank {self.rank}", repr(other))
        self._nonfinite += other._nonfinite
        if other._count:
            self._shrunk += other._shrunk
            self._join(other._rows, other._mean, other._count, other._squares)
        return self

    def trace(self, ddof: float = 1) -> float:
        """Trace of the covariance, exact."""
        if not self._count > ddof:
            raise refusal(f"a covariance with ddof = {ddof} needs more rows", self._count)
        return self._squares / (self._count - ddof)

    def eigenpairs(self, k: int | None = None) -> Eigenpairs:
        """The first k (by default ``rank``) eigenpairs of the covariance (ddof = 1), from below.

        ``residuals`` and ``bounds`` are ``shrunk / (n - 1)``, which bounds them all for certain.
        """
        return self.sketched_pairs(self.rank if k is None else k, 0.0)

    def sketched_pairs(self, k: int, tol: float) -> Eigenpairs:
        """What :func:`repgeom.top_eigenpairs` returns for a sketch."""
        check_integer("k", k, 1)
        if k > min(self.dim, self.directions):
            raise refusal(
                f"k must be at most the {min(self.dim, self.directions)} directions of the sketch", k
            )
        trace = self.trace()
        values, right = _row_space(self._rows)
        fill = max(0, k - len(values))
        if fill:  # fewer rows than k: zeros, with any vectors that complete the basis
            rest = np.random.default_rng(0).standard_normal((self.dim, fill))
            right = np.linalg.qr(np.hstack([right.T, rest]))[0].T
            values = np.concatenate([values, np.zeros(fill)])
        bound = self._shrunk / (self._count - 1)
        warning = f"values of a sketch are at most those of the matrix, by at most {bound:.6g}"
        return sketch_eigenpairs(
            values[:k] / (self._count - 1), right[:k].T, bound=bound, trace=trace, tol=tol, warning=warning
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that :meth:`load_state_dict` needs: numbers and float64 arrays."""
        shape = {"version": STATE_VERSION, "dim": self.dim, "rank": self.rank}
        return {**shape, **{name: getattr(self, f"_{name}") for name in self._STATE}}

    _STATE = ("rows", "mean", "squares", "shrunk", "count", "nonfinite")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replaces the sketch by a saved one; ``ValueError`` as in :meth:`NystromSketch.load_state_dict`."""
        check_state(state, {"version": STATE_VERSION, "dim": self.dim, "rank": self.rank}, self._STATE)
        rows, mean = np.array(state["rows"], dtype=np.float64), np.array(state["mean"], dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.dim or mean.shape != (self.dim,):
            raise refusal(f"the state's rows and mean must have {self.dim} columns", (rows.shape, mean.shape))
        self._rows, self._mean = rows, mean
        self._squares, self._shrunk = float(state["squares"]), float(state["shrunk"])
        self._count, self._nonfinite = int(state["count"]), int(state["nonfinite"])

    def __repr__(self) -> str:
        return f"FrequentDirections(dim={self.dim}, rank={self.rank}, count={self.count})"


def _row_space(rows: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Squared singular values, descending, and right singular vectors as rows."""
    _, singular, right = np.linalg.svd(rows, full_matrices=False)
    return singular**2, right


def check_state(state: Mapping[str, Any], expected: Mapping[str, Any], entries: Collection[str]) -> None:
    """Refuse a state of another shape, or one that lacks entries."""
    for key, value in expected.items():
        if state.get(key) != value:
            raise refusal(f"state_dict[{key!r}] must be {value}", state.get(key))
    missing = sorted(set(entries) - set(state))
    if missing:
        raise refusal(f"state_dict must have the entries {missing}", sorted(state))
