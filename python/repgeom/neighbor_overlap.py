"""How many neighbours two representations of the same points share, or share with the labels."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from repgeom.checks import FloatArray, check_integer, refusal
from repgeom.estimates import Estimates, IntArray, over_layers
from repgeom.layer_pairs import LayerPairs, Space, check_same_rows, named_layers
from repgeom.neighborhoods import pair_error, shared_error
from repgeom.neighbors import Metric

# Elements of the table in which the neighbours of a block of rows are marked.
_TABLE = 1 << 24


@dataclasses.dataclass(frozen=True)
class Overlap:
    """A mean over points of a share of neighbours.

    Attributes:
        value: In [0, 1].
        standard_error: Of ``value``; points that share neighbours are not counted as independent.
        n: Points.
        k: Neighbours looked at (with ``class_fraction`` the largest number).
        chance: The mean when neighbours are drawn at random.
        per_point: ``[n]``, the share of each point.
        warnings: What to know before the value is used.
    """

    value: float
    standard_error: float
    n: int
    k: int
    chance: float
    per_point: FloatArray
    warnings: tuple[str, ...] = ()


def neighbor_overlap(
    a: Any, b: Any = None, k: int = 30, *, metric: Metric = "euclidean", threads: int | None = None
) -> Any:
    """Mean share of the k nearest neighbours that two representations have in common (Doimo et al. 2020).

    Args:
        a: ``[n, d_a]`` or `Neighbors`; with ``b=None`` a dict or list of layers.
        b: ``[n, d_b]`` or `Neighbors` of the same points.
        k: Neighbours.
        metric: As in `knn`.
        threads: As in `knn`.

    Returns:
        An `Overlap`; for layers a `LayerPairs` over all pairs. Unrelated representations have ``k / (n -
        1)``.

    Raises:
        ValueError: Different n, NaN or infinity, k below 1 or above n - 1.
    """
    layers = _layers(a, b)
    n = check_same_rows(layers)
    space = Space(metric, threads=threads)
    found = {name: space.nearest(layer, k) for name, layer in layers.items()}
    if b is not None:
        left, right = found.values()
        return _of_shares(_shares(left, [right])[0], left, right)
    return _all_pairs(found, n, k)


def mutual_knn(
    a: Any, b: Any = None, k: int = 10, *, metric: Metric = "cosine", threads: int | None = None
) -> Any:
    """The mutual nearest-neighbour alignment of Huh et al. (2024): `neighbor_overlap` of normalised rows.

    Arguments, results and errors as in `neighbor_overlap`.
    """
    return neighbor_overlap(a, b, k, metric=metric, threads=threads)


def label_overlap(
    x: Any,
    labels: Any,
    k: int = 30,
    *,
    class_fraction: float | None = None,
    weighted: bool = True,
    average: bool = True,
    metric: Metric = "euclidean",
    threads: int | None = None,
) -> Estimates:
    """Mean share of a point's k nearest neighbours that have its label.

    Args:
        x: ``[n, d]``, `Neighbors`, a dict or list of them, or a stack ``[..., n, d]``.
        labels: ``[n]``, anything that can be sorted.
        k: Neighbours.
        class_fraction: Instead of k, this share of the size of the point's class, at least 1.
        weighted: Every class counts the same; otherwise every point.
        average: The mean; otherwise the share of every point as an array ``[n]``.
        metric: As in `knn`.
        threads: As in `knn`.

    Returns:
        An `Overlap` (or ``[n]``); of several layers as many, in the shape that they came in.

    Raises:
        ValueError: Labels of another length or with NaN, a fraction outside (0, 1], NaN or infinity, k below
            1 or above n - 1.
    """
    check_integer("k", k, 1)
    classes, counts = _classes(labels)
    if class_fraction is not None and not 0 < class_fraction <= 1:
        raise refusal("class_fraction must be in (0, 1]", repr(class_fraction))
    n = len(classes)
    said: tuple[str, ...] = ()
    looked = np.full(n, k)
    if class_fraction is not None:
        of_class = (counts * class_fraction + 1e-9).astype(np.int64)
        small = int((of_class < 1).sum())
        said = (f"{small} classes are too small for class_fraction: 1 neighbour is used",) if small else ()
        looked = np.minimum(np.maximum(of_class, 1), n - 1)[classes]
    weights = 1 / counts[classes] if weighted else np.ones(n)
    weights = weights / weights.sum()
    chance = float(np.sum(weights * (counts[classes] - 1))) / max(n - 1, 1)

    def measure(layer: Any) -> Overlap | FloatArray:
        if check_same_rows({"x": layer}) != n:
            raise refusal(f"labels must name every one of the {check_same_rows({'x': layer})} points", n)
        most = int(k if class_fraction is None else looked.max())
        indices = Space(metric, threads=threads).nearest(layer, most)
        same = (classes[indices] == classes[:, None]) & (np.arange(most) < looked[:, None])
        shares = same.sum(axis=1) / looked
        if not average:
            return np.asarray(shares)
        value = float(weights @ shares)
        error = shared_error(weights * (shares - value), indices, most)
        return Overlap(value, error, n, most, chance, shares, said)

    return over_layers(measure, x)


def _layers(a: Any, b: Any) -> dict[Any, Any]:
    layers = named_layers(a)
    if b is not None:
        if layers is not None or named_layers(b) is not None:
            raise refusal("two representations are compared", "layers and b: leave b out for all pairs")
        return {"a": a, "b": b}
    if layers is None:
        raise refusal("b may be left out when a is a dict or list of layers", type(a).__name__)
    return layers


def _classes(labels: Any) -> tuple[IntArray, IntArray]:
    """Class of every point and size of every class."""
    values = np.asarray(labels.detach().cpu() if hasattr(labels, "detach") else labels)
    if values.ndim != 1 or len(values) == 0:
        raise refusal("labels must be a list of one label for each point", f"shape {values.shape}")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise refusal("labels must not be NaN", f"NaN at index {int(np.flatnonzero(np.isnan(values))[0])}")
    _, classes, counts = np.unique(values, return_inverse=True, return_counts=True)
    return classes.astype(np.int64), counts.astype(np.int64)


def _of_shares(shares: FloatArray, left: IntArray, right: IntArray) -> Overlap:
    n, k = left.shape
    value = float(shares.mean())
    return Overlap(value, pair_error((shares - value) / n, left, right), n, k, k / (n - 1), shares)


def _shares(left: IntArray, rights: list[IntArray]) -> FloatArray:
    """``[l, n]``: for each of the lists on the right the share of its entries that are in the left one."""
    n, k = left.shape
    block = max(1, min(n, _TABLE // n))
    table = np.zeros((block, n), bool)
    shares = np.empty((len(rights), n))
    for start in range(0, n, block):
        rows = slice(start, min(start + block, n))
        at = np.arange(rows.stop - start)[:, None]
        table[at, left[rows]] = True
        for out, right in zip(shares, rights, strict=True):
            out[rows] = table[at, right[rows]].sum(axis=1) / k
        table[at, left[rows]] = False
    return shares


def _all_pairs(found: dict[Any, IntArray], n: int, k: int) -> LayerPairs:
    lists = list(found.values())
    values, errors = np.eye(len(lists)), np.zeros((len(lists), len(lists)))
    for i, left in enumerate(lists):
        for j, shares in enumerate(_shares(left, lists[i + 1 :]), i + 1):
            overlap = _of_shares(shares, left, lists[j])
            values[i, j] = values[j, i] = overlap.value
            errors[i, j] = errors[j, i] = overlap.standard_error
    return LayerPairs("neighbor_overlap", tuple(found), values, errors, n, k, k / (n - 1))
