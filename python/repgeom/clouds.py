"""Clouds of points, distances and graphs as the homology kernels take them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from repgeom.arrays import is_torch, kernel_input
from repgeom.checks import refusal

METRICS: Final = ("euclidean", "cosine", "manhattan", "chebyshev", "minkowski", "precomputed")
Int64Array: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CloudInput:
    """One cloud for the kernel.

    Attributes:
        kind: ``"points"``, ``"square"``, ``"condensed"`` or ``"graph"``.
        value: What the kernel reads: an array, or ``(n, rows, columns, lengths)`` of a graph.
        n: Points.
        edges: Pairs that may be edges.
        asymmetry: Largest difference between the two distances that were given for a pair of a graph.
    """

    kind: str
    value: Any
    n: int
    edges: int
    asymmetry: float = 0.0


def metric_of(metric: str, p: float | None) -> tuple[str, float]:
    """The kernel's metric and its exponent; 1, 2 and infinity have kernels of their own."""
    if metric not in METRICS:
        raise refusal(f"metric must be one of {', '.join(METRICS)}", repr(metric))
    if metric != "minkowski":
        if p is not None:
            raise refusal("p belongs to metric='minkowski'", f"p={p!r} with metric={metric!r}")
        return metric, 2.0
    if not isinstance(p, int | float) or isinstance(p, bool) or not p >= 1:
        raise refusal("p must be a number of at least 1", repr(p))
    special = {1.0: "manhattan", 2.0: "euclidean", math.inf: "chebyshev"}
    return special.get(float(p), "minkowski"), float(p)


def is_batch(x: Any) -> bool:
    """Whether x is several clouds: a dict, or a list or tuple of arrays."""
    if hasattr(x, "tocoo"):
        return False
    return isinstance(x, Mapping) or (
        isinstance(x, list | tuple)
        and len(x) > 0
        and all(hasattr(item, "shape") or hasattr(item, "tocoo") for item in x)
    )


def cloud_input(x: Any, metric: str) -> CloudInput:
    """Checks the shape of one cloud and brings it into the kernel's form; distances are not looked at."""
    if metric == "precomputed" and hasattr(x, "tocoo"):
        return _graph(x)
    if hasattr(x, "tocoo"):
        raise refusal("a sparse matrix needs metric='precomputed'", f"metric={metric!r}")
    array = _array(x)
    shape = tuple(int(side) for side in array.shape)
    if metric != "precomputed":
        if len(shape) != 2:
            raise refusal("x must have 2 dimensions [n, d]", f"shape {shape}")
        return CloudInput("points", _in_rows(array), shape[0], shape[0] * (shape[0] - 1) // 2)
    array = _wide(array)
    if len(shape) == 1:
        return CloudInput("condensed", np.ascontiguousarray(array), _points(shape[0]), shape[0])
    if len(shape) != 2 or shape[0] != shape[1]:
        raise refusal("distances must be [n, n], condensed [n (n - 1) / 2] or sparse", f"shape {shape}")
    return CloudInput("square", _in_rows(array), shape[0], shape[0] * (shape[0] - 1) // 2)


def _points(length: int) -> int:
    n = (1 + math.isqrt(1 + 8 * length)) // 2
    if n * (n - 1) // 2 != length:
        raise refusal("condensed distances must be n (n - 1) / 2 for some n", length)
    return n


def _array(x: Any) -> Any:
    """What the kernel reads in place, as it is; anything else as NumPy has it, whole numbers as float64."""
    if is_torch(x):
        x = kernel_input(x)
        return x if x.is_floating_point() else x.double()
    if not isinstance(x, np.ndarray) and hasattr(x, "__dlpack__"):
        return kernel_input(x)
    array = kernel_input(x) if isinstance(x, np.ndarray) else np.asarray(x)
    if array.dtype.kind in "iub":
        return array.astype(np.float64)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _in_rows(array: Any) -> Any:
    """The array, or a copy of it whose rows are contiguous."""
    if is_torch(array):
        return array if array.shape[1] <= 1 or array.stride(1) == 1 else array.contiguous()
    if isinstance(array, np.ndarray) and array.shape[1] > 1 and array.strides[1] != array.itemsize:
        return np.ascontiguousarray(array)
    return array


def _wide(array: Any) -> npt.NDArray[Any]:
    """Distances in float32 or float64, which hold every value of the narrower types."""
    if is_torch(array):
        array = (array if array.itemsize >= 4 else array.float()).numpy()
    held: npt.NDArray[Any] = np.asarray(array)
    if held.dtype in (np.float32, np.float64):
        return held
    if held.dtype.kind not in "fiub":
        raise refusal("distances must be real numbers", f"dtype {held.dtype}")
    return held.astype(np.float32 if held.dtype.itemsize <= 2 else np.float64)


def _graph(x: Any) -> CloudInput:
    """The pairs of a sparse matrix, each once; both triangles, or one of them, may be stored."""
    coo = x.tocoo()
    if len(coo.shape) != 2 or coo.shape[0] != coo.shape[1]:
        raise refusal("distances must be a square matrix", f"shape {tuple(coo.shape)}")
    n = int(coo.shape[0])
    rows, columns = (np.asarray(part, dtype=np.int64) for part in (coo.row, coo.col))
    lengths = _wide(coo.data)
    if np.any(bad := ~(lengths >= 0)):
        at = int(np.flatnonzero(bad)[0])
        rule = "distances must not be NaN" if np.isnan(lengths[at]) else "distances must not be negative"
        raise refusal(rule, f"{lengths[at]} at ({rows[at]}, {columns[at]})")
    if np.any(loops := (rows == columns) & ~(lengths == 0)):
        at = int(np.flatnonzero(loops)[0])
        raise refusal("the diagonal of distances must be 0", f"{lengths[at]} at ({rows[at]}, {rows[at]})")
    apart = rows != columns
    rows, columns, lengths = rows[apart], columns[apart], lengths[apart]
    upper = rows < columns
    names = np.maximum(rows, columns) * n + np.minimum(rows, columns)
    order = np.lexsort((upper, names))
    names, upper, lengths = names[order], upper[order], lengths[order]
    first = np.ones(len(names), dtype=np.bool_)
    first[1:] = names[1:] != names[:-1]
    asymmetry = _check_pairs(names, upper, lengths, first, n)
    names, lengths = names[first], np.ascontiguousarray(lengths[first])
    return CloudInput("graph", (n, names // n, names % n, lengths), n, len(lengths), asymmetry)


def _check_pairs(
    names: Int64Array,
    upper: npt.NDArray[np.bool_],
    lengths: npt.NDArray[Any],
    first: npt.NDArray[np.bool_],
    n: int,
) -> float:
    """A pair that is there twice is there once in each triangle, with one length but for rounding."""
    again = np.flatnonzero(~first)
    twice = again[upper[again] == upper[again - 1]]
    if len(twice):
        i, j = divmod(int(names[twice[0]]), n)
        raise refusal("a sparse matrix must store every entry once", f"({i}, {j}) several times")
    left, right = lengths[again - 1].astype(np.float64), lengths[again].astype(np.float64)
    apart = np.abs(np.subtract(left, right, out=np.zeros_like(left), where=left != right))
    unequal = np.flatnonzero(~(apart <= 1e-6 * np.minimum(left, right)))
    if len(unequal):
        at = int(again[unequal[0]])
        i, j = divmod(int(names[at]), n)
        raise refusal(
            "distances must be symmetric", f"{lengths[at - 1]} at ({i}, {j}) and {lengths[at]} at ({j}, {i})"
        )
    return float(apart.max(initial=0.0))
