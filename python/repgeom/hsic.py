"""Inner products of centred kernel matrices of all pairs of layers, and what each sample adds to them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from repgeom.checks import FloatArray
from repgeom.comparisons import NAN
from repgeom.gram import Gram, Kernel, block_rows
from repgeom.matching import Rows

ROUGH: Final = 1e-4
LOST: Final = 1e-2
"""Largest rounding of a value, and of the values without one sample that a standard error is made of."""


@dataclasses.dataclass(frozen=True)
class Products:
    """Inner products ``<K_i, L_j>`` of centred matrices.

    Attributes:
        cross: ``[la, lb]``.
        own_a: ``[la]``, of every matrix with itself.
        own_b: ``[lb]``.
        cross_by_sample: ``[la, lb, n]``, the share of each row of the matrices; None where not asked for.
        own_a_by_sample: ``[la, n]``.
        own_b_by_sample: ``[lb, n]``.
    """

    cross: FloatArray
    own_a: FloatArray
    own_b: FloatArray
    cross_by_sample: FloatArray | None = None
    own_a_by_sample: FloatArray | None = None
    own_b_by_sample: FloatArray | None = None


def compared(
    layers: Sequence[Rows], others: Sequence[Rows] | None, kernel: Kernel, debiased: bool, *, by_sample: bool
) -> tuple[list[Gram], list[Gram], Products]:
    """Matrices of both sides (one list twice where ``others`` is None) and their inner products.

    Layers of float32 whose rounding would be too large, such as those with a few rows of huge norm, are
    computed in float64.
    """
    left, right = _grams(layers, others, kernel, debiased, by_sample)
    sums = products(left, right, by_sample=by_sample)
    rough = [
        [
            gram.dtype == np.float32 and _is_rough(gram, totals[i], None if shares is None else shares[i])
            for i, gram in enumerate(grams)
        ]
        for grams, totals, shares in (
            (left, sums.own_a, sums.own_a_by_sample),
            (right, sums.own_b, sums.own_b_by_sample),
        )
    ]
    if not any(map(any, rough)):
        return left, right, sums
    layers = _widened(layers, rough[0])
    others = None if others is None else _widened(others, rough[1])
    left, right = _grams(layers, others, kernel, debiased, by_sample)
    return left, right, products(left, right, by_sample=by_sample)


def _is_rough(gram: Gram, own: float, shares: FloatArray | None) -> bool:
    lost = shares is not None and not rounding_without(gram, own, shares) <= LOST
    return lost or not rounding_of(gram, own) <= ROUGH


def rounding_of(gram: Gram, own: float) -> float:
    """What rounding of a linear kernel adds to CKA: its size for independent errors (Higham and Mary 2019).

    NaN for other kernels.
    """
    return _rounding(gram, own) if gram.kernel.name == "linear" and own > 0 else NAN


def rounding_without(gram: Gram, own: float, shares: FloatArray) -> float:
    """The same where one sample is left out, whichever is worst: much, if it is nearly all of the matrix."""
    diagonal = gram.centred_diagonal
    least = float(without_each(own, shares, diagonal, diagonal, gram.debiased).min())
    return _rounding(gram, own) * own / least if own > 0 and least > 0 else math.inf


def _rounding(gram: Gram, own: float) -> float:
    """An entry of the matrix is off by sqrt(d) units of the largest; errors of entries add like squares.

    Through d x d products the squares of the diagonal are added and taken away again.
    """
    unit = float(np.finfo(gram.dtype).eps) / 2
    largest = float(gram.diagonal.max()) / math.sqrt(own)
    return unit * (4 + 8 * math.sqrt(2 * (gram.width + gram.n)) * largest + largest**2)


def without_each(
    total: float, shares: FloatArray, left: FloatArray, right: FloatArray, debiased: bool
) -> FloatArray:
    """``[n]``: the inner product of the matrices without each sample, centred anew.

    Centring adds a row and a column term, which a new centring takes away, so that rows of sum zero leave
    only the share of the sample itself.
    """
    n = len(shares)
    if debiased:
        return np.asarray(total - 2 * shares * (n - 2) / (n - 3))
    own = left * right
    return np.asarray(total - 2 * shares + own - 2 / (n - 1) * (shares - own) + own / (n - 1) ** 2)


def least_for_errors(debiased: bool) -> int:
    """Samples that leaving one out takes."""
    return 5 if debiased else 3


def _widened(layers: Sequence[Rows], which: Sequence[bool]) -> list[Rows]:
    return [x.astype(np.float64) if wide else x for x, wide in zip(layers, which, strict=True)]


def _grams(
    layers: Sequence[Rows], others: Sequence[Rows] | None, kernel: Kernel, debiased: bool, by_sample: bool
) -> tuple[list[Gram], list[Gram]]:
    everything = [*layers, *(others or ())]
    hold = kernel.name != "linear" or not _by_features(everything, by_sample)
    left = [Gram(x, kernel, debiased, hold=hold) for x in layers]
    return left, left if others is None else [Gram(x, kernel, debiased, hold=hold) for x in others]


def products(a: list[Gram], b: list[Gram], *, by_sample: bool) -> Products:
    """All inner products, through n x n blocks or through d x d products, whichever costs less."""
    everything = a if a is b else [*a, *b]
    if a[0].kernel.name == "linear" and _by_features(everything, by_sample):
        return _from_features(a, b, by_sample)
    return _from_blocks(a, b, by_sample)


def _by_features(layers: Sequence[Any], by_sample: bool) -> bool:
    """Whether d x d products are cheaper: n D^2 (three times that with shares of samples) against n^2 D."""
    n, total = layers[0].shape[0], sum(x.shape[1] for x in layers)
    return bool(total * (3 if by_sample else 1) < n)


# --- n x n blocks ---


def _from_blocks(a: list[Gram], b: list[Gram], by_sample: bool) -> Products:
    n, within = a[0].n, a is b
    cross, own = np.zeros((len(a), len(b))), np.zeros((2, max(len(a), len(b))))
    shares = np.zeros((len(a), len(b), n)) if by_sample else None
    own_shares = [np.zeros((len(side), n)) if by_sample and not within else None for side in (a, b)]
    itemsize = max(gram.dtype.itemsize for gram in (*a, *b))
    step = block_rows(len(a) if within else len(a) + len(b), n, itemsize)
    for start in range(0, n, step):
        stop = min(start + step, n)
        left = np.stack([gram.block(start, stop) for gram in a])
        right = left if within else np.stack([gram.block(start, stop) for gram in b])
        for rows, (x, y), weight in _sides(left, right, start, stop, by_sample):
            found = x.transpose(1, 0, 2) @ y.transpose(1, 2, 0)
            cross += weight * found.sum(axis=0, dtype=np.float64)
            if shares is not None:
                shares[:, :, rows] += found.transpose(1, 2, 0)
            if within:
                continue
            for side, z in enumerate((x, y)):
                squares = np.einsum("lij,lij->li", z, z).astype(np.float64)
                own[side, : len(z)] += weight * squares.sum(axis=1)
                if (share := own_shares[side]) is not None:
                    share[:, rows] += squares
    if not within:
        return Products(cross, own[0, : len(a)], own[1, : len(b)], shares, own_shares[0], own_shares[1])
    diagonal = np.arange(len(a))
    same = None if shares is None else shares[diagonal, diagonal]
    return Products(cross, cross[diagonal, diagonal], cross[diagonal, diagonal], shares, same, same)


def _sides(
    left: NDArray[Any], right: NDArray[Any], start: int, stop: int, by_sample: bool
) -> Iterator[tuple[slice, tuple[NDArray[Any], NDArray[Any]], int]]:
    """Parts of a block of rows: the square on the diagonal, then the rest for its rows and, mirrored,
    for its columns (or twice for its rows, where shares of samples are not wanted)."""
    height, rows = stop - start, slice(start, stop)
    yield rows, (left[:, :, :height], right[:, :, :height]), 1
    rest = left[:, :, height:], right[:, :, height:]
    if rest[0].size == 0:
        return
    yield rows, rest, 1 if by_sample else 2
    if by_sample:
        mirrored = np.ascontiguousarray(rest[0].transpose(0, 2, 1))
        other = mirrored if left is right else np.ascontiguousarray(rest[1].transpose(0, 2, 1))
        yield slice(stop, stop + mirrored.shape[1]), (mirrored, other), 1


# --- d x d products ---


def _from_features(a: list[Gram], b: list[Gram], by_sample: bool) -> Products:
    within, n = a is b, a[0].n
    cross = np.zeros((len(a), len(b)))
    shares = np.zeros((len(a), len(b), n)) if by_sample else None
    for i, left in enumerate(a):
        for j in range(i if within else 0, len(b)):
            cross[i, j], share = feature_product(left, b[j], by_sample=by_sample)
            if shares is not None:
                shares[i, j] = share
            if within:
                cross[j, i] = cross[i, j]
                if shares is not None:
                    shares[j, i] = share
    if within:
        diagonal = np.arange(len(a))
        own = cross[diagonal, diagonal]
        same = None if shares is None else shares[diagonal, diagonal]
        return Products(cross, own, own, shares, same, same)
    (own_a, shares_a), (own_b, shares_b) = (_own(side, by_sample) for side in (a, b))
    return Products(cross, own_a, own_b, shares, shares_a, shares_b)


def _own(side: list[Gram], by_sample: bool) -> tuple[FloatArray, FloatArray | None]:
    found = [feature_product(gram, gram, by_sample=by_sample) for gram in side]
    return np.array([total for total, _ in found]), np.array([x for _, x in found]) if by_sample else None


def feature_product(
    a: Gram, b: Gram, *, by_sample: bool = False, order: NDArray[np.int64] | None = None
) -> tuple[float, FloatArray]:
    """``<K, L>`` of linear kernels from ``X^T Y``, and the share ``[n]`` of each sample (empty if not asked).

    Args:
        a: Linear.
        b: Linear.
        by_sample: Whether shares are wanted.
        order: Takes the samples of b in another order (not with ``by_sample``).
    """
    n, k = a.n, a.squares
    right = b.squares if order is None else b.squares[order]
    moments = np.zeros((a.width, b.width))
    for start, x in a.blocks():
        rows = slice(start, start + len(x))
        y = b.rows(rows.start, rows.stop) if order is None else b.rows(0, n)[order[rows]]
        moments += x.T @ y
    total = float(np.sum(moments**2))
    if a.debiased:
        total += float(k.sum() * right.sum()) / ((n - 1) * (n - 2)) - float(k @ right) * n / (n - 2)
    if not by_sample:
        return total, np.empty(0)
    return total, _shares(a, b, moments)


def _shares(a: Gram, b: Gram, moments: FloatArray) -> FloatArray:
    """``[n]``: row sums of the entrywise product of two centred linear matrices."""
    n, k, m = a.n, a.squares, b.squares
    towards = moments.astype(a.dtype)
    k_moved, m_moved = np.zeros(b.width), np.zeros(a.width)
    for start, x in a.blocks():
        rows = slice(start, start + len(x))
        m_moved += m[rows] @ x
        k_moved += k[rows] @ b.rows(rows.start, rows.stop)
    whole, mixed = np.empty(n), np.empty(n)
    for start, x in a.blocks():
        rows = slice(start, start + len(x))
        y = b.rows(rows.start, rows.stop)
        whole[rows] = np.einsum("ij,ij->i", x @ towards, y)
        mixed[rows] = x @ m_moved + y @ k_moved
    if not a.debiased:
        return whole
    own = k * m
    offset = k / (n - 2) - k.sum() / ((n - 1) * (n - 2))
    return np.asarray(
        whole
        - own
        + (mixed - 2 * own) / (n - 2)
        + (own.sum() - own) / (n - 2) ** 2
        + offset * ((m.sum() - m) / (n - 2) - m)
    )
