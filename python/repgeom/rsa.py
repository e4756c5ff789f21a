"""Representational similarity analysis: do two representations find the same samples far apart?"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from repgeom.checks import FloatArray, refusal
from repgeom.comparisons import NAN
from repgeom.estimates import IntArray
from repgeom.matching import Rows, matched
from repgeom.resampling import Found, Measure, Resampling, compare_layers

Dissimilarity: TypeAlias = Literal["correlation", "euclidean", "cosine"]
Correlation: TypeAlias = Literal["spearman", "kendall", "pearson"]


@dataclasses.dataclass(frozen=True)
class Dissimilarities:
    """Of all pairs of samples.

    Attributes:
        square: ``[n, n]``, their scores (ranks for Spearman); the diagonal does not count.
        reason: Why there are none; empty where there are.
    """

    square: FloatArray
    reason: str = ""

    def permuted(self, order: IntArray) -> Dissimilarities:
        """The samples in another order."""
        return dataclasses.replace(self, square=self.square[order][:, order])

    @property
    def pairs(self) -> FloatArray:
        """``[n (n - 1) / 2]``."""
        return np.asarray(self.square[np.triu_indices(len(self.square), 1)])


def rsa(
    a: Any,
    b: Any = None,
    dissimilarity: Dissimilarity = "correlation",
    correlation: Correlation = "spearman",
    *,
    ids_a: Any = None,
    ids_b: Any = None,
    folds: int = 0,
    groups: Any = None,
    permutations: int = 0,
    seed: int = 0,
) -> Any:
    """Correlation between the dissimilarities of all pairs of samples (Kriegeskorte et al. 2008).

    Cost: n^2 d for each layer and n^2 for each pair (``"kendall"`` n^2 log n), in float64; 8 n^2 bytes for
    each layer.

    Args:
        a: ``[n, d_a]``, or a dict or list of layers.
        b: The same samples in another representation; left out, all pairs of layers of ``a``.
        dissimilarity: ``"correlation"``: 1 minus Pearson's correlation of two rows; ``"cosine"``: 1 minus
            their cosine; ``"euclidean"``.
        correlation: Of the dissimilarities: ``"spearman"``, ``"kendall"`` (tau-b) or ``"pearson"``.
        ids_a: ``[n]``, which sample each row of a is. With them rows of b are put in the order of a.
        ids_b: The same for b.
        folds: Parts of the jackknife over samples that gives the standard error; 0: none.
        groups: ``[n]`` labels of what belongs together, in the order of a: folds never cut a group.
        permutations: Random orders of the samples of b for the null.
        seed: Of folds and permutations.

    Returns:
        A `Similarity` in [-1, 1], otherwise a `SimilarityMatrix`. NaN with a status where rows have no
        direction (a norm of 0, for ``"correlation"`` no variance) or all dissimilarities are equal.

    Raises:
        ValueError: Fewer than 3 samples, different samples, NaN or infinity, an unknown name.
        ImportError: ``"kendall"`` without scipy.
    """
    for name, value, known in (
        ("dissimilarity", dissimilarity, get_args(Dissimilarity)),
        ("correlation", correlation, get_args(Correlation)),
    ):
        if value not in known:
            raise refusal(f"{name} must be one of {known}", repr(value))

    def alike(left: Dissimilarities, right: Dissimilarities) -> Found:
        for side, held in (("a", left), ("b", right)):
            if held.reason:
                return Found(NAN, f"{side}: {held.reason}")
        return Found(_correlate(left.pairs, right.pairs, correlation))

    measure = Measure(
        "rsa",
        "similarity",
        (-1.0, 1.0),
        lambda x: _scores(x, dissimilarity, correlation),
        alike,
        Dissimilarities.permuted,
        settings={"dissimilarity": dissimilarity, "correlation": correlation},
    )
    found = matched(a, b, ids_a, ids_b, least=3, what="RSA")
    return compare_layers(measure, found, Resampling(groups, folds, permutations, seed))


def _correlate(left: FloatArray, right: FloatArray, correlation: Correlation) -> float:
    if correlation == "kendall":
        try:
            from scipy.stats import kendalltau
        except ImportError as error:
            raise ImportError("Kendall's correlation needs scipy (pip install scipy)") from error
        return float(kendalltau(left, right).statistic)
    left, right = left - left.mean(), right - right.mean()
    return float(np.clip(left @ right / np.sqrt(left @ left) / np.sqrt(right @ right), -1.0, 1.0))


def _scores(x: Rows, dissimilarity: Dissimilarity, correlation: Correlation) -> Dissimilarities:
    """Dissimilarities, as ranks where these are what is compared."""
    square, reason = _dissimilarities(x.astype(np.float64), dissimilarity)
    found = Dissimilarities(square, reason)
    if reason:
        return found
    pairs = found.pairs
    spread, largest = float(np.ptp(pairs)), float(np.max(np.abs(pairs)))
    if not spread > len(square) * np.finfo(np.float64).eps * largest:
        return Dissimilarities(square, "all samples are equally far apart")
    if correlation != "spearman":
        return found
    ranks = np.zeros_like(square)
    ranks[np.triu_indices(len(square), 1)] = _ranks(pairs)
    return Dissimilarities(ranks + ranks.T)


def _ranks(values: FloatArray) -> FloatArray:
    """From 1; equal values have the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])


def _dissimilarities(rows: FloatArray, dissimilarity: Dissimilarity) -> tuple[FloatArray, str]:
    """``[n, n]`` up to a common factor, and why there are none."""
    rows = rows / (float(np.max(np.abs(rows), initial=0.0)) or 1.0)
    if dissimilarity == "euclidean":
        return np.sqrt(_squared_distances(rows)), ""
    sizes = np.linalg.norm(rows, axis=1)
    if dissimilarity == "correlation":
        rows = rows - rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1)
    lost = int(np.sum(norms <= 4 * np.finfo(np.float64).eps * sizes))
    if lost:
        what = "variance" if dissimilarity == "correlation" else "direction"
        return np.zeros((len(rows), len(rows))), f"{lost} rows have no {what}"
    # 1 - cos of small angles is exact only as half the squared distance of unit vectors.
    return _squared_distances(rows / norms[:, None]) / 2, ""


def _squared_distances(rows: FloatArray) -> FloatArray:
    """``[n, n]``; differences below rounding are no differences: copies stay copies."""
    # Beside a few huge rows the distances of all others are exact only about the median.
    rows = rows - np.median(rows, axis=0)
    squares = np.einsum("ij,ij->i", rows, rows)
    sums = squares[:, None] + squares[None, :]
    found = sums - 2 * (rows @ rows.T)
    found[found <= 8 * np.finfo(np.float64).eps * sums] = 0
    return np.asarray(found)
