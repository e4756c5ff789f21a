"""Exact streaming CKA of one pair of layers, from covariances, for any number of samples."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from repgeom.checks import FloatArray, is_peer, refusal
from repgeom.cka import limits
from repgeom.comparisons import NAN, OK, Similarity
from repgeom.covariance import Covariance
from repgeom.matching import matched

STATE_VERSION: Final = 1
_PARTS: Final = ("shift", "sums", "mixed", "quadratic")


class ExactCKA:
    """Linear CKA of one pair, as :func:`repgeom.cka` would give it for all samples at once.

    Keeps the covariance of both layers and between them, 8 (d_a^2 + d_a d_b + d_b^2) bytes, and for the
    debiased form sums of ``|x|^2 |y|^2``, ``|x|^2 y`` and ``|y|^2 x``, from which the same sums about the
    mean follow exactly. For all pairs of many layers use `StreamingCKA`, whose state is small. There is no
    standard error: that needs a second pass over the samples.

    Args:
        dim_a: Width of the first layer.
        dim_b: Width of the second.
        threads: As in :class:`repgeom.Covariance`.

    Raises:
        ValueError: A width below 1.
    """

    def __init__(self, dim_a: int, dim_b: int, *, threads: int | None = None) -> None:
        self._both = Covariance(dim_a, cross_dim=dim_b, threads=threads)
        self._second = Covariance(dim_b, threads=threads)
        self._dims = dim_a, dim_b
        self._shift: list[FloatArray] | None = None
        self._sums = [np.zeros(dim) for dim in self._dims]
        # mixed[u][v] is the sum of |x_u|^2 x_v, quadratic[u, v] that of |x_u|^2 |x_v|^2.
        self._mixed = [[np.zeros(dim) for dim in self._dims] for _ in range(2)]
        self._quadratic = np.zeros((2, 2))

    @property
    def count(self) -> int:
        """Samples added so far."""
        return self._both.count

    def update(self, a: Any, b: Any) -> ExactCKA:
        """Adds samples: ``[n, d_a]`` and ``[n, d_b]``.

        Raises:
            ValueError: Different n, other widths, NaN or infinity. Nothing has been added then.
        """
        found = matched(a, b, None, None, least=0, what="CKA")
        rows = [found.a["a"], found.b["b"]]
        widths = tuple(x.shape[1] for x in rows)
        if widths != self._dims:
            raise refusal(f"a and b must have the widths {self._dims}", widths)
        if not found.n:
            return self
        if self._shift is None:
            self._shift = [x.mean(axis=0, dtype=np.float64) for x in rows]
        self._both.update(rows[0], cross=rows[1])
        self._second.update(rows[1])
        shifted = [x.astype(np.float64) - shift for x, shift in zip(rows, self._shift, strict=True)]
        squares = np.array([np.einsum("ij,ij->i", x, x) for x in shifted])
        self._quadratic += squares @ squares.T
        for v, x in enumerate(shifted):
            self._sums[v] += x.sum(axis=0)
            for u in range(2):
                self._mixed[u][v] += squares[u] @ x
        return self

    def merge(self, other: ExactCKA) -> ExactCKA:
        """Adds what another one of the same widths has seen."""
        if not isinstance(other, ExactCKA):
            raise TypeError(f"other must be an ExactCKA, got {type(other).__name__}")
        if other._dims != self._dims:
            raise refusal(f"widths must be {self._dims}", other._dims)
        if other._shift is None:
            return self
        if self._shift is None:
            self._shift = [shift.copy() for shift in other._shift]
        sums, mixed, quadratic = other._moved(self._shift)
        self._both.merge(other._both)
        self._second.merge(other._second)
        self._quadratic = self._quadratic + quadratic
        self._sums = [mine + theirs for mine, theirs in zip(self._sums, sums, strict=True)]
        self._mixed = [[self._mixed[u][v] + mixed[u][v] for v in range(2)] for u in range(2)]
        return self

    def _moved(self, shift: list[FloatArray]) -> tuple[list[FloatArray], list[list[FloatArray]], FloatArray]:
        """Sums, mixed and quadratic sums about another shift: each row becomes ``x + step``."""
        assert self._shift is not None
        n, steps = self.count, [old - new for old, new in zip(self._shift, shift, strict=True)]
        norms = [float(step @ step) for step in steps]
        old = self._sums
        sums = [total + n * step for total, step in zip(old, steps, strict=True)]
        # The sum of |x|^2 about both shifts.
        squares = [float(np.trace(self._second_moment(u, u))) for u in range(2)]
        moved = [squares[u] + 2 * float(steps[u] @ old[u]) + n * norms[u] for u in range(2)]
        mixed = [
            [
                self._mixed[u][v]
                + 2 * steps[u] @ self._second_moment(u, v)
                + norms[u] * old[v]
                + steps[v] * moved[u]
                for v in range(2)
            ]
            for u in range(2)
        ]
        quadratic = np.empty((2, 2))
        for u, v in np.ndindex(2, 2):
            quadratic[u, v] = (
                self._quadratic[u, v]
                + 2 * steps[v] @ self._mixed[u][v]
                + norms[v] * squares[u]
                + 2 * steps[u] @ self._mixed[v][u]
                + 4 * steps[u] @ self._second_moment(u, v) @ steps[v]
                + 2 * norms[v] * steps[u] @ old[u]
                + norms[u] * moved[v]
            )
        return sums, mixed, quadratic

    def _second_moment(self, u: int, v: int) -> FloatArray:
        """``[d_u, d_v]``: sum of ``x_u x_v^T`` about the shift."""
        return np.asarray(
            self.count * self._covariance(u, v) + np.outer(self._sums[u], self._sums[v]) / self.count
        )

    def _covariance(self, u: int, v: int) -> FloatArray:
        """``[d_u, d_v]``, divided by n."""
        if u == v:
            return (self._both if u == 0 else self._second).covariance(ddof=0)
        cross = self._both.cross_covariance(ddof=0)
        return cross if u == 0 else cross.T

    def read(self, *, debiased: bool = True, compat: str | None = None) -> Similarity:
        """The alignment so far; NaN with a status for too few samples and for a side that does not vary."""
        debiased = debiased and not is_peer(compat)
        least = 4 if debiased else 2
        status = (
            OK if self.count >= least else f"at least {least} samples are needed, {self.count} were added"
        )
        for name, side in (("a", self._both), ("b", self._second)):
            if status == OK and not side.variance(ddof=0).sum() > np.sum(side.error_bound(ddof=0) ** 2):
                status = f"{name}: the samples do not vary"
        value, rounding = self._value(debiased) if status == OK else (NAN, NAN)
        if status == OK and np.isnan(value):
            status = "all samples of a side are equally far apart, up to rounding (less with float64 rows)"
        low, high = limits(debiased)
        return Similarity(
            float(np.clip(value, low, high)),
            "similarity",
            self.count,
            "cka",
            (low, high),
            status=status,
            rounding=rounding,
            settings={"kernel": "linear", "debiased": debiased},
            warnings=("no standard error: it needs a second pass over the samples",),
        )

    def _value(self, debiased: bool) -> tuple[float, float]:
        """The alignment and a bound of its rounding; NaN where rounding is all there is."""
        n = self.count
        assert self._shift is not None
        means = [shift + total / n for shift, total in zip(self._shift, self._sums, strict=True)]
        quadratic = self._moved(means)[2]
        traces = [n * float(np.trace(self._covariance(u, u))) for u in range(2)]
        hsic = np.empty((2, 2))
        for u, v in np.ndindex(2, 2):
            hsic[u, v] = n**2 * float(np.sum(self._covariance(u, v) ** 2))
            if debiased:
                hsic[u, v] += traces[u] * traces[v] / ((n - 1) * (n - 2)) - quadratic[u, v] * n / (n - 2)
        errors = []
        for u, side in enumerate((self._both, self._second)):
            product_error = float(np.sum(side.error_bound(ddof=0) ** 2))
            norm = float(np.linalg.norm(self._covariance(u, u)))
            errors.append(2 * n**2 * norm * product_error + 1e-13 * traces[u] ** 2)
            if not hsic[u, u] > errors[u]:
                return NAN, NAN
        value = float(hsic[0, 1] / np.sqrt(hsic[0, 0]) / np.sqrt(hsic[1, 1]))
        return value, errors[0] / float(hsic[0, 0]) + errors[1] / float(hsic[1, 1])

    def state_dict(self) -> dict[str, Any]:
        """Everything that :meth:`load_state_dict` needs: numbers and float64 arrays."""
        return {
            "version": STATE_VERSION,
            "dims": list(self._dims),
            "shift": None if self._shift is None else [shift.copy() for shift in self._shift],
            "sums": [total.copy() for total in self._sums],
            "mixed": [[total.copy() for total in side] for side in self._mixed],
            "quadratic": self._quadratic.copy(),
            "both": self._both.state_dict(),
            "second": self._second.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replaces the statistic by a saved one.

        Raises:
            ValueError: Another version, other widths, a missing entry or one of another shape. The statistic
                is as before then.
        """
        for key, value in {"version": STATE_VERSION, "dims": list(self._dims)}.items():
            if state.get(key) != value:
                raise refusal(f"state_dict[{key!r}] must be {value}", state.get(key))
        absent = sorted({*_PARTS, "both", "second"} - set(state))
        if absent:
            raise refusal(f"state_dict must have the entries {absent}", sorted(state))
        own = {name: _shapes(getattr(self, f"_{name}")) for name in _PARTS}
        own["shift"] = None if state["shift"] is None else own["sums"]
        for name in _PARTS:
            if _shapes(state[name]) != own[name]:
                raise refusal(f"{name} must have the shapes {own[name]}", _shapes(state[name]))
        fresh = ExactCKA(*self._dims, threads=self._both._threads)
        fresh._both.load_state_dict(state["both"])
        fresh._second.load_state_dict(state["second"])
        parts = {name: copy.deepcopy(state[name]) for name in _PARTS}
        self._both, self._second = fresh._both, fresh._second
        self._shift, self._sums = parts["shift"], parts["sums"]
        self._mixed, self._quadratic = parts["mixed"], parts["quadratic"]

    def __repr__(self) -> str:
        return f"ExactCKA(dim_a={self._dims[0]}, dim_b={self._dims[1]}, count={self.count})"


def _shapes(part: Any) -> Any:
    """Of an array, or of those in nested lists; None for None."""
    if part is None:
        return None
    return [_shapes(each) for each in part] if isinstance(part, list | tuple) else np.shape(part)
