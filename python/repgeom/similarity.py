"""How alike two layers are: subspaces, centred kernel alignment, cosines. All sums are float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from repgeom.checks import FloatArray, as_float64, is_peer

_EPS = float(np.finfo(np.float64).eps)


def subspace_novelty(v_left: Any, v_right: Any) -> float:
    """Mean sine of the principal angles between two subspaces: 0 = the same, 1 = orthogonal.

    ``k`` is the smaller number of columns; the leading k columns of both are compared:
    ``mean_i sin theta_i``, with sines taken as the singular values of ``(I - L L^T) R``, exact for small
    angles too (Björck and Golub 1973).

    Args:
        v_left: ``[d, k1]``, orthonormal columns.
        v_right: ``[d, k2]``, orthonormal columns.

    Returns:
        A number in [0, 1]; NaN when k = 0.

    Raises:
        ValueError: Different d, columns that are not orthonormal (to 1e-3), NaN or inf.
    """
    left, right = as_float64(v_left, "v_left", 2), as_float64(v_right, "v_right", 2)
    if len(left) != len(right):
        raise ValueError(f"both subspaces must lie in one space, got d = {len(left)} and {len(right)}")
    k = min(left.shape[1], right.shape[1])
    if k == 0:
        return float("nan")
    left, right = left[:, :k], right[:, :k]
    for name, basis in (("v_left", left), ("v_right", right)):
        worst = float(np.max(np.abs(basis.T @ basis - np.eye(k))))
        if worst > 1e-3:
            raise ValueError(f"columns of {name} must be orthonormal, got V^T V - I up to {worst:.6g}")
    sines = np.linalg.svd(right - left @ (left.T @ right), compute_uv=False)
    return float(np.mean(np.clip(sines, 0.0, 1.0)))


def linear_cka(x: Any, y: Any, *, debiased: bool = True) -> float:
    """Linear centred kernel alignment of the same n rows seen in two spaces.

    Debiased: ``HSIC_1(K, L) / sqrt(HSIC_1(K, K) HSIC_1(L, L))`` with the unbiased HSIC_1 of Song et al.
    (2012, eq. 5); its mean is 0 for independent data, so it may be slightly negative. Biased:
    ``||X^T Y||_F^2 / (||X^T X||_F ||Y^T Y||_F)`` with centred columns (Kornblith et al. 2019), inflated
    towards 1 when n is not far above d. Invariant under shifts, rotations and one common scale per side.
    Cost: the cheaper of n d_x d_y and n^2 (d_x + d_y).

    Args:
        x: ``[n, d_x]``.
        y: ``[n, d_y]``, the same rows.
        debiased: Which estimator.

    Returns:
        A number in [-1, 1] (biased: [0, 1]); NaN with fewer than 4 rows (biased: 2) or when one side does not
        vary.

    Raises:
        ValueError: Different n, NaN or inf.
    """
    left, right = as_float64(x, "x", 2), as_float64(y, "y", 2)
    if len(left) != len(right):
        raise ValueError(f"x and y must have the same rows, got n = {len(left)} and {len(right)}")
    if len(left) < (4 if debiased else 2):
        return float("nan")
    left, right = _centred_unit(left), _centred_unit(right)
    product = _hsic(left, right, debiased)
    scale = _hsic(left, left, debiased) * _hsic(right, right, debiased)
    if not scale > (_EPS * len(left)) ** 2:
        return float("nan")
    return float(np.clip(product / np.sqrt(scale), -1.0, 1.0))


def _centred_unit(rows: FloatArray) -> FloatArray:
    """Column-centred, Frobenius norm sqrt(n); all zero where the rows are equal up to rounding."""
    centred = rows - rows.mean(axis=0)
    norm = float(np.linalg.norm(centred))
    if norm <= 4 * _EPS * float(np.linalg.norm(rows)):
        return np.zeros_like(rows)
    return np.asarray(centred * (np.sqrt(len(rows)) / norm))


def _hsic(x: FloatArray, y: FloatArray, debiased: bool) -> float:
    """HSIC of centred rows; ``K 1 = 0`` leaves three terms in the unbiased form."""
    n = len(x)
    if x.shape[1] * y.shape[1] <= n * (x.shape[1] + y.shape[1]):
        alignment = float(np.sum((x.T @ y) ** 2))
    else:
        alignment = float(np.sum((x @ x.T) * (y @ y.T)))
    if not debiased:
        return alignment / n**2
    left, right = np.sum(x**2, axis=1), np.sum(y**2, axis=1)
    diagonal = float(left @ right) * n / (n - 2)
    means = float(left.sum() * right.sum()) / ((n - 1) * (n - 2))
    return (alignment - diagonal + means) / (n * (n - 3))


def layer_cosine(x: Any, y: Any) -> float:
    """Mean over rows of the cosine between row i of ``x`` and row i of ``y``, both ``[n, d]``, uncentred.

    A row with norm below 1e-12 counts as cosine 0. NaN without rows.

    Raises:
        ValueError: Different shapes, NaN or inf.
    """
    left, right = as_float64(x, "x", 2), as_float64(y, "y", 2)
    if left.shape != right.shape:
        raise ValueError(f"x and y must have the same shape, got {left.shape} and {right.shape}")
    if len(left) == 0:
        return float("nan")
    # Squares of larger numbers overflow.
    left, right = (
        rows / max(1.0, float(np.max(np.abs(rows), initial=0.0)) / 1e100) for rows in (left, right)
    )
    norms = [np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in (left, right)]
    return float(np.mean(np.sum((left / norms[0]) * (right / norms[1]), axis=1)))


@dataclasses.dataclass(frozen=True, eq=False)
class LayerView:
    """What a comparison of two layers needs of each.

    Attributes:
        layer: Its index.
        vectors: ``[d, k]`` leading eigenvectors of its covariance, columns in descending order of eigenvalue.
        rank: Numerical rank of that covariance; vectors beyond it are arbitrary.
        sample: ``[n, d]`` sampled rows, the same tokens in every layer.
    """

    layer: int
    vectors: FloatArray
    rank: int
    sample: Any


def novelty_row(
    left: LayerView,
    right: LayerView,
    *,
    model_key: str,
    model_label: str,
    novelty_k: int = 32,
    compat: str | None = None,
) -> dict[str, Any]:
    """One row of the novelty table: ``left`` compared with ``right``.

    ``novelty_k`` in the row is the number of directions really used: at most the columns and (not under
    ``compat``) the ranks of both layers. ``linear_cka`` is debiased and ``linear_cka_biased`` stands beside
    it; under ``compat`` ``linear_cka`` is biased and stands alone, cut to the rows that both samples have.
    With all directions of the space compared the subspaces are equal by definition, and
    ``feature_subspace_novelty`` is NaN (not under ``compat``). Layers of different width have NaN in
    ``feature_subspace_novelty`` and ``layer_cosine_sim``. The reason is in ``note`` (under ``compat`` the
    column exists only for different widths).

    Raises:
        ValueError: novelty_k < 0, or samples with different rows (not under ``compat``).
    """
    peer = is_peer(compat)
    if novelty_k < 0:
        raise ValueError(f"novelty_k must be >= 0, got {novelty_k}")
    k = min(novelty_k, left.vectors.shape[1], right.vectors.shape[1])
    k = k if peer else min(k, left.rank, right.rank)
    whole = not peer and 0 < k == len(left.vectors)
    x, y = left.sample, right.sample
    if peer:
        x, y = x[: len(y)], y[: len(x)]
    widths = len(left.vectors), len(right.vectors)
    same = widths[0] == widths[1]
    nan = float("nan")
    row = {
        "model_key": model_key,
        "model_label": model_label,
        "layer": left.layer,
        "transition": f"{left.layer}->{right.layer}",
        "novelty_k": k,
        "feature_subspace_novelty": subspace_novelty(left.vectors[:, :k], right.vectors[:, :k])
        if same and not whole
        else nan,
        "linear_cka": linear_cka(x, y, debiased=not peer),
        **({} if peer else {"linear_cka_biased": linear_cka(x, y, debiased=False)}),
        "layer_cosine_sim": layer_cosine(x, y) if same else nan,
    }
    if not peer or not same:
        row["note"] = "" if same else f"widths differ: {widths[0]} and {widths[1]}"
        if whole:
            row["note"] = f"all {k} directions are compared: feature_subspace_novelty needs novelty_k < width"
    return row
