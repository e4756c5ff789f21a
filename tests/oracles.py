"""Moments the slow and obvious way, in extended precision or in exact arithmetic. Written for reading."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


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
