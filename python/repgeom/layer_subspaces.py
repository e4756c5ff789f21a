"""Comparisons in a common space: principal subspaces and directions of rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from repgeom.canonical_correlation import basis_of
from repgeom.checks import FloatArray, check_integer
from repgeom.comparisons import NAN, OK
from repgeom.matching import Rows, matched
from repgeom.resampling import Found, Measure, Resampling, compare_layers
from repgeom.similarity import layer_cosine, subspace_novelty


def subspace_distance(
    a: Any,
    b: Any = None,
    k: int = 10,
    *,
    ids_a: Any = None,
    ids_b: Any = None,
    folds: int = 0,
    groups: Any = None,
    seed: int = 0,
) -> Any:
    """Mean sine of the principal angles between the leading principal subspaces of two layers.

    Both must have the same width, and the same axes: layers of one residual stream. The order of samples does
    not matter. ``subspace_novelty`` is the same for bases that are given.

    Args:
        a: ``[n, d]``, or a dict or list of layers.
        b: Another layer; left out, all pairs of layers of ``a``.
        k: Directions; where a layer has fewer (its rank), as many.
        ids_a: ``[n]``, which sample each row of a is.
        ids_b: The same for b.
        folds: Parts of the jackknife that gives the standard error; 0: none.
        groups: ``[n]`` labels of what belongs together, in the order of a: folds never cut a group.
        seed: Of the folds.

    Returns:
        A `Similarity` of kind ``"distance"`` in [0, 1], otherwise a `SimilarityMatrix`. NaN with a status
        where widths differ, where a side does not vary, or where all directions of the space are compared.

    Raises:
        ValueError: Fewer than 3 samples, different samples, NaN or infinity, k < 1.
    """
    check_integer("k", k, 1)

    def distance(left: FloatArray, right: FloatArray) -> Found:
        used = min(left.shape[1], right.shape[1])
        if len(left) != len(right):
            return Found(NAN, f"widths differ: {len(left)} and {len(right)}")
        if used == 0:
            return Found(NAN, f"{'b' if left.shape[1] else 'a'}: the samples do not vary")
        if used == len(left):
            return Found(NAN, f"all {used} directions of the space are compared: they are equal")
        status = OK if used == k else f"{used} instead of {k} directions: the rank is no larger"
        return Found(subspace_novelty(left[:, :used], right[:, :used]), status)

    measure = Measure(
        "subspace_distance",
        "distance",
        (0.0, 1.0),
        lambda x: np.ascontiguousarray(basis_of(x).directions[:k].T),
        distance,
        lambda directions, _: directions,
        settings={"k": k},
    )
    found = matched(a, b, ids_a, ids_b, least=3, what="a comparison of subspaces")
    return compare_layers(measure, found, Resampling(groups, folds, 0, seed))


def mean_cosine(
    a: Any,
    b: Any = None,
    *,
    ids_a: Any = None,
    ids_b: Any = None,
    folds: int = 0,
    groups: Any = None,
    permutations: int = 0,
    seed: int = 0,
) -> Any:
    """Mean over samples of the cosine between a row of one layer and the same row of another, uncentred.

    Both must have the same width and the same axes. Rows with a norm below 1e-12 count as cosine 0.

    Args:
        a: ``[n, d]``, or a dict or list of layers.
        b: The same samples in another layer; left out, all pairs of layers of ``a``.
        ids_a: ``[n]``, which sample each row of a is. With them rows of b are put in the order of a.
        ids_b: The same for b.
        folds: Parts of the jackknife that gives the standard error; 0: none.
        groups: ``[n]`` labels of what belongs together, in the order of a: folds never cut a group.
        permutations: Random orders of the samples of b for the null.
        seed: Of folds and permutations.

    Returns:
        A `Similarity` in [-1, 1], otherwise a `SimilarityMatrix`. NaN with a status where widths differ.

    Raises:
        ValueError: No samples, different samples, NaN or infinity.
    """

    def mean(left: Rows, right: Rows) -> Found:
        if left.shape[1] != right.shape[1]:
            return Found(NAN, f"widths differ: {left.shape[1]} and {right.shape[1]}")
        return Found(float(np.clip(layer_cosine(left, right), -1.0, 1.0)))

    measure: Measure[Rows] = Measure(
        "mean_cosine",
        "similarity",
        (-1.0, 1.0),
        lambda x: x,
        mean,
        lambda rows, order: rows[order],
    )
    found = matched(a, b, ids_a, ids_b, least=1, what="a mean cosine")
    return compare_layers(measure, found, Resampling(groups, folds, permutations, seed))
