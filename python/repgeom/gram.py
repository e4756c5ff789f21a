"""Centred kernel matrices of one layer, block by block: linear, Gaussian, polynomial."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from repgeom.checks import FloatArray, check_integer, refusal
from repgeom.matching import Rows

KernelName: TypeAlias = Literal["linear", "rbf", "polynomial"]
Real: TypeAlias = NDArray[Any]

_BLOCK: Final = 1 << 21
_CACHED: Final = 1 << 16
_MEDIAN_ROWS: Final = 8192


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel on rows that are centred and scaled to a mean squared norm of 1.

    Attributes:
        name: ``"linear"``: ``x . y``; ``"rbf"``: ``exp(-|x - y|^2 / (2 s^2 m))`` with s the bandwidth and m
            the median of ``|x_i - x_j|^2`` over all i and j, i = j too (the convention of Kornblith et al.
            2019; of more than 8192 rows, over 8192 evenly spaced ones); ``"polynomial"``: ``(x . y +
            offset)^degree``.
        bandwidth: As a share of the median distance.
        degree: Of the polynomial.
        offset: Of the polynomial.
    """

    name: KernelName = "linear"
    bandwidth: float = 0.5
    degree: int = 3
    offset: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in get_args(KernelName):
            raise refusal(f"kernel must be one of {get_args(KernelName)}", repr(self.name))
        if not (0 < self.bandwidth < math.inf):
            raise refusal("bandwidth must be positive and finite", repr(self.bandwidth))
        check_integer("degree", self.degree, 1)
        if not (0 <= self.offset < math.inf):
            raise refusal("offset must be >= 0 and finite", repr(self.offset))

    @property
    def settings(self) -> dict[str, Any]:
        """What the kernel depends on."""
        own = {"rbf": ("bandwidth",), "polynomial": ("degree", "offset"), "linear": ()}[self.name]
        return {"kernel": self.name, **{key: getattr(self, key) for key in own}}


class Gram:
    """The kernel matrix of one layer, centred.

    With ``debiased`` the U-centred matrix of Székely and Rizzo (2014): zero diagonal, zero row sums; HSIC_1
    of Song et al. (2012) is its inner product over ``n (n - 3)``. Otherwise ``H K H``. The linear kernel is
    computed in the precision of the rows, the others in float64.

    Args:
        x: ``[n, d]``, finite.
        kernel: The kernel.
        debiased: Which centring.
        hold: Keep the centred rows rather than make them anew for each block.

    Attributes:
        reason: Why the matrix means nothing, such as equal rows; empty where it does.
        mean_square: Mean squared norm of the rows about their mean, before they are scaled.
        squares: ``[n]``, squared norms of the rows after.
        diagonal: ``[n]``, of the kernel before centring.
        offsets: ``[n]``, what centring adds to every row and column.
    """

    def __init__(self, x: Rows, kernel: Kernel, debiased: bool, *, hold: bool = True) -> None:
        self.kernel, self.debiased, self.n, self.width = kernel, debiased, len(x), x.shape[1]
        linear = kernel.name == "linear"
        self.dtype: np.dtype[Any] = x.dtype if linear else np.dtype(np.float64)
        self._x = x
        self._held: Real | None = None
        self.reason = "" if self._measure() else "the samples do not vary"
        if hold:
            self._held = self.rows(0, self.n)
        self.squares: FloatArray = np.empty(self.n)
        for piece in self._pieces(0, self.n):
            z = self.rows(piece.start, piece.stop)
            self.squares[piece] = np.einsum("ij,ij->i", z, z, dtype=np.float64)
        self._spread = 1.0
        if kernel.name == "rbf" and not self.reason:
            self._spread = self._median_square()
            if not self._spread > 0:
                self._spread, self.reason = 1.0, "the median distance between samples is 0"
        self.diagonal = self._apply(self.squares.copy(), self.squares * 2, diagonal=True)
        self.offsets = self._offsets()

    @property
    def shape(self) -> tuple[int, int]:
        """Of the rows, ``(n, d)``."""
        return self.n, self.width

    def rows(self, start: int, stop: int) -> Real:
        """Rows from ``start`` to ``stop``, centred, with a mean squared norm of 1 over all rows.

        For ``"rbf"`` about the median of each column instead of the mean, in the same unit.
        """
        if self._held is not None:
            return self._held[start:stop]
        if self.reason:
            return np.zeros((min(stop, self.n) - start, self.width), self.dtype)
        stop = min(stop, self.n)
        found = np.empty((stop - start, self.width), self.dtype)
        for piece in self._pieces(start, stop):
            part = self._wide(piece) - self._centre
            out = found[piece.start - start : piece.stop - start]
            np.multiply(part, self._scale, out=out, casting="same_kind")
        return found

    def blocks(self) -> Iterator[tuple[int, Real]]:
        """All rows in blocks, each with its first row."""
        step = max(1, _BLOCK // max(self.width, 1))
        for start in range(0, self.n, step):
            yield start, self.rows(start, start + step)

    def _pieces(self, start: int, stop: int) -> Iterator[slice]:
        """Rows in pieces that stay in the cache in float64."""
        step = max(1, _CACHED // max(self.width, 1))
        for first in range(start, stop, step):
            yield slice(first, min(first + step, stop))

    def block(self, start: int, stop: int) -> Real:
        """``[stop - start, n - start]`` of the centred matrix: its part on and right of the diagonal."""
        centred = self._raw(start, stop)
        offsets = self.offsets.astype(self.dtype)
        if self.debiased or self.kernel.name != "linear":
            centred += offsets[start:stop, None]
            centred += offsets[None, start:]
        if self.debiased:
            np.fill_diagonal(centred, 0)
        return centred

    def whole(self) -> Real:
        """``[n, n]``, the centred matrix."""
        return self.block(0, self.n)

    @property
    def centred_diagonal(self) -> FloatArray:
        """``[n]``."""
        return np.zeros(self.n) if self.debiased else self.diagonal + 2 * self.offsets

    def _measure(self) -> bool:
        """Finds centre and scale; False where all rows are equal up to rounding."""
        self._shrink = _shrinking(self._x)
        self._centre: FloatArray = np.zeros(self.width)
        for piece in self._pieces(0, self.n):
            self._centre += self._wide(piece).sum(axis=0)
        self._centre /= max(self.n, 1)
        centred = 0.0
        for piece in self._pieces(0, self.n):
            part = self._wide(piece) - self._centre
            centred += float(np.vdot(part, part))
        plain = centred + self.n * float(self._centre @ self._centre)
        self._scale = math.sqrt(self.n / centred) if centred > 0 else 0.0
        with np.errstate(over="ignore", under="ignore"):
            self.mean_square = float(np.square(np.sqrt(centred / max(self.n, 1)) / self._shrink))
        if self.kernel.name == "rbf" and self.n:
            # Distances do not see the centre; beside a few huge rows they are exact only about the median.
            self._centre = np.median(self._wide(slice(0, self.n)), axis=0)
        return bool(centred > (4 * np.finfo(np.float64).eps) ** 2 * plain)

    def _wide(self, piece: slice) -> FloatArray:
        """Rows in float64, shrunk so that their squares cannot overflow."""
        rows = self._x[piece].astype(np.float64, copy=False)
        return rows if self._shrink == 1 else np.asarray(rows * self._shrink)

    def _raw(self, start: int, stop: int) -> Real:
        """The kernel before centring, right of the diagonal."""
        left, right = self.rows(start, stop), self.rows(start, self.n)
        products = left @ right.T
        if self.kernel.name == "linear":
            return np.asarray(products)
        return self._apply(products, self.squares[start:stop, None] + self.squares[None, start:])

    def _apply(self, products: Real, squares: Real, *, diagonal: bool = False) -> Real:
        """The kernel from inner products and sums of squared norms; writes into ``products``."""
        if self.kernel.name == "linear":
            return products
        if self.kernel.name == "polynomial":
            return np.asarray((products + self.kernel.offset) ** self.kernel.degree)
        if diagonal:
            return np.ones_like(products)
        products *= -2
        products += squares
        np.maximum(products, 0, out=products)
        products *= -1 / (2 * self.kernel.bandwidth**2 * self._spread)
        np.exp(products, out=products)
        np.fill_diagonal(products, 1)
        return products

    def _median_square(self) -> float:
        stride = -(-self.n // _MEDIAN_ROWS)
        z = np.concatenate([z for _, z in self.blocks()])[::stride] if self.n else np.empty((0, self.width))
        squares = self.squares[::stride]
        distances = np.maximum(squares[:, None] + squares[None, :] - 2 * (z @ z.T), 0)
        np.fill_diagonal(distances, 0)
        return float(np.median(distances)) if distances.size else 0.0

    def _offsets(self) -> FloatArray:
        """``[n]``: what centring adds to each row and to each column."""
        n = self.n
        if self.kernel.name == "linear":
            # Rows sum to zero over all columns, because the data are centred.
            sums = -self.squares if self.debiased else np.zeros(n)
        else:
            sums = self._row_sums() - (self.diagonal if self.debiased else 0)
        if self.debiased:
            return np.asarray(-sums / (n - 2) + sums.sum() / (2 * (n - 1) * (n - 2)))
        return np.asarray(-sums / n + sums.sum() / (2 * n * n))

    def _row_sums(self) -> FloatArray:
        sums = np.zeros(self.n)
        step = block_rows(1, self.n, 8)
        for start in range(0, self.n, step):
            part = self._raw(start, start + step)
            height = len(part)
            sums[start : start + height] += part.sum(axis=1)
            sums[start + height :] += part[:, height:].sum(axis=0)
        return sums


def _shrinking(x: Rows) -> float:
    """A factor that keeps squares of float64 rows within range; float32 rows need none."""
    if x.dtype == np.float32 or not x.size:
        return 1.0
    peak = float(np.max(np.abs(x)))
    return 1.0 if 1e-100 < peak < 1e100 or peak == 0 else 1 / max(peak, float(np.finfo(np.float64).tiny))


def block_rows(layers: int, n: int, itemsize: int) -> int:
    """Rows of a block of ``layers`` kernel matrices that stays below 64 MiB, at least 16."""
    return max(16, (1 << 26) // max(1, layers * n * itemsize))
