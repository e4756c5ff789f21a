"""Moments, neighbours and persistence the slow and obvious way, in extended precision or in exact arithmetic,
or in the order of operations that is promised to the last bit. Written for reading."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bars = list[tuple[float, float]]
Column = dict[int, int]


def as_numpy(array: Any) -> Array:
    """The values of a NumPy array or of a torch tensor, widened to float64 (exact for every input type)."""
    if isinstance(array, np.ndarray):
        return array.astype(np.float64)
    return array.detach().double().numpy()


def denominator(weights: Array, ddof: float, weighting: str) -> np.longdouble:
    """W - ddof for frequency weights, W - ddof sum w^2 / W for reliability weights."""
    total = weights.sum()
    return total - (ddof if weighting == "frequency" else ddof * (weights**2).sum() / total)


def cross_covariance(
    x: Any, y: Any, weights: Any = None, *, ddof: float = 1, weighting: str = "frequency"
) -> tuple[Array, Array, Array]:
    """Means of x and y and their covariance: two passes, first the means, then the centred products."""
    x, y = as_numpy(x).astype(np.longdouble), as_numpy(y).astype(np.longdouble)
    w = np.ones(len(x), np.longdouble) if weights is None else np.asarray(weights, np.longdouble)
    mean_x, mean_y = (w @ x) / w.sum(), (w @ y) / w.sum()
    products = (w[:, None] * (x - mean_x)).T @ (y - mean_y)
    covariance = products / denominator(w, ddof, weighting)
    return mean_x.astype(np.float64), mean_y.astype(np.float64), covariance.astype(np.float64)


def moments(
    x: Any, weights: Any = None, *, ddof: float = 1, weighting: str = "frequency"
) -> tuple[Array, Array]:
    """Mean and covariance."""
    mean, _, covariance = cross_covariance(x, x, weights, ddof=ddof, weighting=weighting)
    return mean, covariance


def integer_sums(x: Any, weights: Any = None) -> tuple[Array, Array]:
    """sum w x and sum w x x^T of whole numbers, in int64 arithmetic."""
    whole = as_numpy(x).astype(np.int64)
    assert np.array_equal(whole, as_numpy(x)), "the data must be whole numbers"
    w = np.ones(len(whole), np.int64) if weights is None else np.asarray(weights, np.int64)
    return w @ whole, (w[:, None] * whole).T @ whole


def sums_of_state(state: dict[str, Any]) -> tuple[list[Fraction], list[list[Fraction]]]:
    """sum w x and the lower triangle of sum w x x^T that a saved Covariance stands for, without rounding."""
    weight = Fraction(float(state["weight_sum"]))
    shift = [Fraction(float(v)) for v in state["x_shift"]]
    about = [Fraction(float(v)) for v in state["x_sum"]]
    second = iter(state["second"].tolist())
    sums = [a + weight * s for a, s in zip(about, shift, strict=True)]
    products = [
        [
            Fraction(next(second)) + shift[i] * about[j] + about[i] * shift[j] + weight * shift[i] * shift[j]
            for j in range(i + 1)
        ]
        for i in range(len(shift))
    ]
    return sums, products


def lane_sum(terms: Array) -> Array:
    """Sums over the last axis in the promised order: eight lanes, then a tree."""
    padded = np.zeros((*terms.shape[:-1], -(-terms.shape[-1] // 8) * 8))
    padded[..., : terms.shape[-1]] = terms
    lanes = np.zeros((*terms.shape[:-1], 8))
    for first in range(0, padded.shape[-1], 8):
        lanes = lanes + padded[..., first : first + 8]
    pairs = lanes[..., 0::2] + lanes[..., 1::2]
    return (pairs[..., 0] + pairs[..., 1]) + (pairs[..., 2] + pairs[..., 3])


def normalised(x: Array) -> Array:
    """Rows times 1 / norm, the norm taken of a row scaled by a power of two near its largest entry."""
    scale = np.exp2(-np.floor(np.log2(np.abs(x).max(axis=1, keepdims=True))))
    return x * (scale / np.sqrt(lane_sum((x * scale) ** 2))[:, None])


def pair_values(x: Array, y: Array, metric: str = "euclidean", p: float = 2) -> Array:
    """What orders the pairs, ``[len(x), len(y)]``: squared distances, or distances themselves."""
    if metric == "cosine":
        x, y = normalised(x), normalised(y)
    if metric == "inner_product":
        return np.stack([-lane_sum(row * y) for row in x])
    differences = (np.abs(row - y) for row in x)
    return np.stack([_value(difference, metric, p) for difference in differences])


def _value(difference: Array, metric: str, p: float) -> Array:
    if metric in ("euclidean", "cosine"):
        return lane_sum(difference * difference)
    if metric == "manhattan":
        return lane_sum(difference)
    if metric == "chebyshev":
        return difference.max(axis=-1)
    if metric == "hamming":
        return (difference != 0).sum(axis=-1).astype(np.float64)
    largest = difference.max(axis=-1)
    shares = difference / np.where(largest > 0, largest, 1)[..., None]
    return largest * lane_sum(shares**p) ** (1 / p)


def neighbors(
    x: Any, k: int, *, queries: Any = None, metric: str = "euclidean", p: float = 2, exclude_self: bool = True
) -> tuple[Array, Array]:
    """Distances and indices of the k smallest under (value, index), all values at once."""
    points = as_numpy(x)
    rows = points if queries is None else as_numpy(queries)
    values = pair_values(rows, points, metric, p)
    if queries is None and exclude_self:
        np.fill_diagonal(values, np.inf)
    indices = np.argsort(values, axis=1, kind="stable")[:, :k]
    nearest = np.take_along_axis(values, indices, axis=1)
    if metric == "euclidean":
        nearest = np.sqrt(nearest)
    if metric == "cosine":
        nearest = nearest / 2
    if metric == "hamming":
        nearest = nearest / points.shape[1]
    return nearest, indices


def ranks_of(x: Any, indices: Array, metric: str = "euclidean", p: float = 2) -> Array:
    """Rank of every named point among all neighbours of its row."""
    _, order = neighbors(x, len(x) - 1, metric=metric, p=p)
    ranks = np.zeros((len(order), len(order)), np.int64)
    np.put_along_axis(ranks, order, np.arange(1, len(order))[None, :], axis=1)
    return np.take_along_axis(ranks, indices, axis=1)


def flag_simplices(
    distances: Array, dim: int, threshold: float = np.inf
) -> list[tuple[float, tuple[int, ...]]]:
    """(longest edge, vertices) of every simplex up to the threshold, in the order of the filtration."""
    vertices = list(itertools.combinations(range(len(distances)), dim + 1))
    table = np.asarray(vertices, np.intp).reshape(-1, dim + 1)
    lengths = distances[table[:, :, None], table[:, None, :]].max(axis=(1, 2), initial=0)
    pairs = zip(lengths.tolist(), vertices, strict=True)
    return sorted((length, simplex) for length, simplex in pairs if length <= threshold and length < np.inf)


def boundary(simplex: tuple[int, ...]) -> list[tuple[int, tuple[int, ...]]]:
    """(sign, face) for every face: the i-th is without the i-th vertex and has the sign (-1)^i."""
    return [((-1) ** i, simplex[:i] + simplex[i + 1 :]) for i in range(len(simplex))]


def pivots(columns: list[Column], field: int) -> list[int | None]:
    """The lowest row of each column once the columns before it were added to it while that lowers it."""
    if field == 2:
        return _pivots_mod_2([sum(1 << row for row in column) for column in columns])
    reduced: dict[int, Column] = {}
    found: list[int | None] = []
    for first in columns:
        column = dict(first)
        while column and max(column) in reduced:
            lowest = max(column)
            factor = column[lowest]
            for row, value in reduced[lowest].items():
                column[row] = (column.get(row, 0) - factor * value) % field
                if column[row] == 0:
                    del column[row]
        found.append(max(column) if column else None)
        if column:
            inverse = pow(column[max(column)], -1, field)
            reduced[max(column)] = {row: value * inverse % field for row, value in column.items()}
    return found


def _pivots_mod_2(columns: list[int]) -> list[int | None]:
    """The same with the rows as the bits of an integer, so that adding is exclusive or."""
    reduced: dict[int, int] = {}
    found: list[int | None] = []
    for first in columns:
        column = first
        while column.bit_length() in reduced:
            column ^= reduced[column.bit_length()]
        found.append(column.bit_length() - 1 if column else None)
        if column:
            reduced[column.bit_length()] = column
    return found


def rips_bars(distances: Any, max_dim: int, field: int = 2, threshold: float = np.inf) -> list[Bars]:
    """Bars of the Vietoris-Rips filtration by reduction of its boundary matrices over Z/field.

    Per dimension the sorted (birth, death), without bars of length zero; death is infinite for a class that
    never dies. An infinite distance is an edge that never comes.
    """
    table = as_numpy(distances)
    faces = flag_simplices(table, 0, threshold)
    creates = [True] * len(faces)
    bars: list[Bars] = []
    for dim in range(max_dim + 1):
        cofaces = flag_simplices(table, dim + 1, threshold)
        row = {simplex: i for i, (_, simplex) in enumerate(faces)}
        columns = [{row[face]: sign % field for sign, face in boundary(simplex)} for _, simplex in cofaces]
        lowest = pivots(columns, field)
        death = {i: cofaces[j][0] for j, i in enumerate(lowest) if i is not None}
        found = [(faces[i][0], death.get(i, np.inf)) for i in range(len(faces)) if creates[i]]
        bars.append(sorted((born, dies) for born, dies in found if born < dies))
        faces, creates = cofaces, [i is None for i in lowest]
    return bars
