"""Certified exact nearest neighbours, and ranks by counting; ``csrc/neighbors.hpp`` says how."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from repgeom import _core
from repgeom.arrays import Array, Float64Array, is_torch, kernel_input
from repgeom.checks import check_integer, refusal
from repgeom.threads import thread_count

Int64Array: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
Progress: TypeAlias = Callable[[float], object]
Metric: TypeAlias = Literal[
    "euclidean",
    "cosine",
    "inner_product",
    "manhattan",
    "chebyshev",
    "minkowski",
    "hamming",
    "precomputed",
]

METRICS: Final[tuple[str, ...]] = get_args(Metric)


@dataclass(frozen=True)
class NeighborCertificate:
    """How neighbours or ranks were found, and why they are exact.

    Attributes:
        certified: ``[n]``, for every row: the list is proven. A filter may drop a pair only when the lower
            bound of its distance lies above k upper bounds, and what it keeps is evaluated in float64, so
            this is true for every row of every result.
        path: ``"float32 products"``, ``"float64 products"``, ``"float64 differences"`` (few features) or
            ``"direct"`` (every distance in float64).
        centres: Centres about which the rows were taken before they were multiplied.
        error_bound: Largest possible error of the filter, in units of what orders the pairs (squared
            distances, or inner products); 0 where there is no filter.
        survivors_mean, survivors_max: Pairs per row that passed the filter.
        evaluated_mean, evaluated_max: Of them, those evaluated in float64.
        rows_resolved_early: Rows whose lists the bounds alone could not keep short.
        row_panels: Panels of rows that were worked on in turn, to respect ``memory_limit``.
        bytes: Memory used beyond input and output.
    """

    certified: BoolArray = field(repr=False)
    path: str
    centres: int
    error_bound: float
    survivors_mean: float
    survivors_max: int
    evaluated_mean: float
    evaluated_max: int
    rows_resolved_early: int
    row_panels: int
    bytes: int


@dataclass(frozen=True)
class Neighbors:
    """The k nearest rows of a reference set to each of n rows.

    Attributes:
        distances: ``[n, k]`` float64, ascending; for ``"cosine"`` 1 - cos, for ``"inner_product"`` minus the
            inner product, for ``"hamming"`` the share of unequal entries.
        indices: ``[n, k]`` int64; rows at the same distance are in the order of their indices.
        metric: What was measured.
        n_reference: Rows among which the neighbours were sought, the row itself included.
        exclude_self: Whether each row was left out of its own list, by its index.
        certificate: How the lists were found.
    """

    distances: Float64Array
    indices: Int64Array
    metric: str
    n_reference: int
    exclude_self: bool
    certificate: NeighborCertificate

    @property
    def k(self) -> int:
        """Neighbours per row."""
        return int(self.indices.shape[1])


@dataclass(frozen=True)
class NeighborRanks:
    """Ranks of given points among the neighbours of every row.

    Attributes:
        ranks: ``[n, m]`` int64, from 1 to n - 1.
        certificate: How they were counted.
    """

    ranks: Int64Array
    certificate: NeighborCertificate


def knn(
    x: Array,
    k: int,
    *,
    queries: Array | None = None,
    metric: Metric = "euclidean",
    p: float | None = None,
    exclude_self: bool = True,
    threads: int | None = None,
    memory_limit: int | None = None,
    progress: Progress | None = None,
    instruction_set: str | None = None,
) -> Neighbors:
    r"""The k nearest neighbours of every row, exactly.

    The neighbours of row i are the k smallest under :math:`(D^2(i, j), j)`, where

    .. math:: D^2(i, j) = \sum_c (x_{ic} - x_{jc})^2

    is evaluated in float64 from the data as they are, without the cancellation of
    :math:`\|x\|^2 + \|y\|^2 - 2 x \cdot y`. Fast products only rule out pairs that their error bound proves
    to be no neighbours. Float64 differences below 1e-154, whose squares underflow, count as less than they
    are. Duplicates stay, at distance 0; ties are in the order of the indices. The result is
    the same, bit for bit, for any number of threads and on any processor.

    Args:
        x: ``[n, d]``, rows contiguous; float64, float32, float16 or bfloat16; NumPy, torch or DLPack. With
            ``metric="precomputed"`` the distances ``[n, n]``, or ``[q, n]`` with ``exclude_self=False``. With
            ``metric="hamming"`` also integers and booleans.
        k: Neighbours per row, from 1 to n - 1 (n with queries or ``exclude_self=False``).
        queries: ``[q, d]`` of the same dtype: the neighbours of these rows among the rows of x.
        metric: ``"euclidean"``; ``"cosine"``, 1 - cos, as half the squared distance of the rows normalised in
            float64; ``"inner_product"``, the k largest, given as minus the inner product; ``"manhattan"``;
            ``"chebyshev"``; ``"minkowski"`` with ``p``; ``"hamming"``, the share of unequal entries;
            ``"precomputed"``.
        p: The exponent of ``"minkowski"``, at least 1.
        exclude_self: Leave each row out of its own list, by its index and not by its distance.
        threads: ``None`` takes ``REPGEOM_NUM_THREADS``, ``OMP_NUM_THREADS`` or all processors.
        memory_limit: Bytes beyond input and output; the work is done in panels of rows to respect it, at
            twice the arithmetic.
        progress: Called now and then with the share that is done. Ctrl-C works with and without it.
        instruction_set: One of :func:`repgeom.cpu_instruction_sets`; ``None`` takes the fastest.

    Returns:
        Distances and indices ``[n, k]`` with their certificate.

    Raises:
        ValueError: NaN or infinity in the data (the row is named), k out of range, widths or dtypes that do
            not agree, an unknown metric, p < 1, a row of zeros with ``"cosine"``, values above 1e150, a
            ``memory_limit`` that no panel fits into.
        TypeError: Not an array, or of another type.

    References:
        Error model: Higham, *Accuracy and Stability of Numerical Algorithms* (2002), section 3.1. Selection
        fused into the product: Yu, Huang, Austin, Xiao and Biros, SC '15.
    """
    check_integer("k", k, 1)
    metric, exponent = _metric(metric, p)
    if queries is not None and metric == "precomputed":
        raise ValueError("precomputed distances leave no room for queries, got queries")
    arrays = [_input(x, metric, "x")] + ([] if queries is None else [_input(queries, metric, "queries")])
    if metric == "hamming":
        arrays = _comparable(arrays)
    excludes = bool(exclude_self) and queries is None
    distances, indices, facts = _core.nearest_neighbors(
        arrays[0],
        arrays[1] if queries is not None else None,
        k,
        metric,
        exponent,
        excludes,
        thread_count(threads),
        instruction_set or "",
        _memory(memory_limit),
        progress,
    )
    n_reference = int(arrays[0].shape[1 if metric == "precomputed" else 0])
    return Neighbors(distances, indices, metric, n_reference, excludes, _certificate(facts, len(indices)))


def neighbor_ranks(
    x: Array,
    indices: npt.ArrayLike,
    *,
    metric: Metric = "euclidean",
    p: float | None = None,
    threads: int | None = None,
    memory_limit: int | None = None,
    progress: Progress | None = None,
    instruction_set: str | None = None,
) -> NeighborRanks:
    r"""Ranks of given points among the neighbours of every row, exactly and in O(n m) memory.

    .. math:: r_{im} = 1 + \#\{j \ne i : (D(i, j), j) < (D(i, a_{im}), a_{im})\}

    with the distances and the order of :func:`knn`: ``neighbor_ranks(x, knn(x, k).indices)`` is 1 to k in
    every row. Distances below a threshold are counted as they come; only those that the error bound cannot
    tell from it are evaluated again, in float64.

    Args:
        x: ``[n, d]``, as in :func:`knn`.
        indices: ``[n, m]``, the points :math:`a_{im}`: rows of x, never the row itself.
        metric: As in :func:`knn`.
        p: As in :func:`knn`.
        threads: As in :func:`knn`.
        memory_limit: As in :func:`knn`.
        progress: As in :func:`knn`.
        instruction_set: As in :func:`knn`.

    Returns:
        Ranks ``[n, m]`` with their certificate.

    Raises:
        ValueError: Indices outside 0 to n - 1 or of the row itself, and what :func:`knn` refuses.

    References:
        The information imbalance needs them: Glielmo, Zeni, Cheng, Csányi and Laio, PNAS Nexus 1 (2022).
    """
    metric, exponent = _metric(metric, p)
    points = np.asarray(kernel_input(indices))
    if points.dtype.kind not in "iu":
        raise refusal("indices must be integers", points.dtype)
    array = _input(x, metric, "x")
    if metric == "hamming":
        (array,) = _comparable([array])
    ranks, facts = _core.neighbor_ranks(
        array,
        np.ascontiguousarray(points, dtype=np.int64),
        metric,
        exponent,
        thread_count(threads),
        instruction_set or "",
        _memory(memory_limit),
        progress,
    )
    return NeighborRanks(ranks, _certificate(facts, len(ranks)))


def _certificate(facts: dict[str, Any], n: int) -> NeighborCertificate:
    survivors, evaluated = facts.pop("survivors"), facts.pop("evaluated")
    rows = max(n, 1)
    return NeighborCertificate(
        certified=np.ones(n, dtype=np.bool_),
        survivors_mean=survivors / rows,
        evaluated_mean=evaluated / rows,
        **facts,
    )


def _metric(metric: Metric, p: float | None) -> tuple[Metric, float]:
    """The metric and its exponent; 1, 2 and infinity have kernels of their own."""
    if metric not in METRICS:
        raise refusal(f"metric must be one of {', '.join(METRICS)}", repr(metric))
    if metric != "minkowski":
        if p is not None:
            raise refusal("p belongs to metric='minkowski'", f"p={p!r} with metric={metric!r}")
        return metric, 2.0
    if p is None or isinstance(p, bool) or not p >= 1:
        raise refusal("p must be a number of at least 1", repr(p))
    special: dict[float, Metric] = {1.0: "manhattan", 2.0: "euclidean", math.inf: "chebyshev"}
    return special.get(float(p), "minkowski"), float(p)


def _memory(limit: int | None) -> int:
    if limit is None:
        return 0
    check_integer("memory_limit", limit, 1)
    return limit


def _input(array: Array, metric: Metric, name: str) -> Array:
    array = kernel_input(array)
    shape = getattr(array, "shape", None)
    if shape is not None and len(shape) != 2:
        raise refusal(f"{name} must have 2 dimensions [n, d]", f"shape {tuple(shape)}")
    if metric == "hamming" and is_torch(array) and not array.is_floating_point():
        return array.numpy()
    return array


def _comparable(arrays: list[Array]) -> list[Array]:
    """Integers and booleans as floats, equal where they are, in the narrowest type that holds them."""
    if not all(isinstance(a, np.ndarray) and a.dtype.kind in "iub" for a in arrays):
        return arrays
    if len({a.dtype for a in arrays}) > 1:
        raise refusal("queries must have the dtype of x", arrays[1].dtype)
    largest = max((max(abs(int(a.min())), abs(int(a.max()))) for a in arrays if a.size), default=0)
    if largest <= 2**24:
        return [a.astype(np.float32) for a in arrays]
    if largest <= 2**53:
        return [a.astype(np.float64) for a in arrays]
    codes = np.unique(np.concatenate([a.ravel() for a in arrays]), return_inverse=True)[1].ravel()
    parts = np.split(codes, np.cumsum([a.size for a in arrays])[:-1])
    return [part.reshape(a.shape).astype(np.float64) for part, a in zip(parts, arrays, strict=True)]
