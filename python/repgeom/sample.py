"""Metrics of a sample of rows: singular values, cosines, and spectra after normalisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from repgeom.checks import FloatArray, as_float64, is_peer
from repgeom.spectrum import entropy, metric_from_eigenvalues

VARIANTS: Final = ("raw", "token_l2", "token_rms", "feature_standardized")

_EPS: Final = float(np.finfo(np.float64).eps)


def sample_svd_metrics(
    x: Any, topk_components: Sequence[int] = (4, 8, 16, 32), compat: str | None = None
) -> dict[str, float]:
    """Metrics of a row sample ``[n, d]`` through the singular values s of the column-centred sample.

    ``sv_effective_rank = exp(H(s / sum s))`` (singular values *not* squared, as the peer),
    ``sv_stable_rank = sum s^2 / s_1^2``, ``sv_participation_ratio = (sum s^2)^2 / sum s^4``, ``ve_k`` = share
    of the first k of ``s^2``, ``cos_sim_mean`` and ``cos_sim_std`` (ddof 1) over all ordered pairs of
    different *uncentred* rows (a zero row has cosine 0), and ``sv_entropy_rank = exp(H(s^2 / sum s^2))``,
    comparable with ``d_entropy``. Singular values count above ``max(n, d) * eps * s_1``; under ``compat``
    above 1e-10, without ``sv_entropy_rank``. All NaN with fewer than two rows or when all rows are equal.

    Raises:
        ValueError: NaN, inf or another number of axes.
    """
    peer = is_peer(compat)
    rows = as_float64(x, "x", 2)
    s = _centred_singular_values(rows, peer)
    s = s[s > 0]
    names = ["sv_effective_rank", "sv_stable_rank", "sv_participation_ratio", "cos_sim_mean", "cos_sim_std"]
    names += [f"ve_{k}" for k in topk_components] + ([] if peer else ["sv_entropy_rank"])
    if len(rows) < 2 or len(s) == 0:
        return dict.fromkeys(names, float("nan"))
    s = s / s[0]
    energy = s**2 / np.sum(s**2)
    values = [np.exp(entropy(s / s.sum())), 1 / energy[0], 1 / np.sum(energy**2), *_cosine_moments(rows)]
    values += [energy[:k].sum() for k in topk_components] + ([] if peer else [np.exp(entropy(energy))])
    return dict(zip(names, map(float, values), strict=True))


def _centred_singular_values(rows: FloatArray, peer: bool) -> FloatArray:
    """``[min(n, d)]`` descending; what is below the cut-off is set to 0."""
    if min(rows.shape) == 0:
        return np.zeros(0)
    s = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    # Rounding of the mean leaves about eps * |x| even when all rows are equal.
    cut = 1e-10 if peer else max(max(rows.shape) * _EPS * s[0], 4 * _EPS * float(np.linalg.norm(rows)))
    return np.where(s > cut, s, 0.0)


def _cosine_moments(rows: FloatArray) -> tuple[float, float]:
    """Mean and standard deviation (ddof 1) of the cosines of all ordered pairs, in blocks of rows."""
    n = len(rows)
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    pairs = n * (n - 1)
    squared_norms = np.sum(unit**2, axis=1)
    mean = float((np.sum(unit.sum(axis=0) ** 2) - squared_norms.sum()) / pairs)
    squares = 0.0
    for start in range(0, n, 256):
        cosines = unit[start : start + 256] @ unit.T - mean
        np.fill_diagonal(cosines[:, start:], 0.0)
        squares += float(np.sum(cosines**2))
    return mean, float(np.sqrt(squares / (pairs - 1)))


def transform_activation(x: Any, variant: str) -> FloatArray:
    """``[n, d]`` activations, normalised in float64.

    ``raw``: as they are. ``token_l2``: rows over ``max(norm, 1e-12)``. ``token_rms``: rows over
    ``max(sqrt(mean x^2), 1e-12)``. ``feature_standardized``: columns minus mean, over ``max(std, 1e-12)``
    with ddof 1; a column that is constant up to rounding becomes 0.

    Raises:
        ValueError: Another variant, NaN, inf, or ``feature_standardized`` with fewer than two rows.
    """
    rows = as_float64(x, "x", 2)
    if variant == "raw":
        return rows
    if variant in ("token_l2", "token_rms"):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        scale = norms if variant == "token_l2" else norms / np.sqrt(max(1, rows.shape[1]))
        return np.asarray(rows / np.maximum(scale, 1e-12))
    if variant != "feature_standardized":
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    if len(rows) < 2:
        raise ValueError(f"feature_standardized needs at least 2 rows, got {len(rows)}")
    std = rows.std(axis=0, ddof=1)
    varies = std > 4 * _EPS * np.abs(rows).max(axis=0)
    return np.where(varies, (rows - rows.mean(axis=0)) / np.maximum(std, 1e-12), 0.0)


def normalization_ablation(
    x: Any, compat: str | None = None, labels: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """One row per variant of :data:`VARIANTS`: the spectral metrics of the transformed sample ``[n, d]``.

    Eigenvalues are the squared singular values of the centred sample, filled up with zeros to d, so that
    ``d_pr_norm`` is over d as in the main table (under ``compat``: over ``min(n, d)``). Each row: the eleven
    metrics, then ``labels`` (model_key, model_label, layer), ``variant``, ``tokens`` (n), ``hidden_dim`` (d).
    No rows when n < 2.
    """
    peer = is_peer(compat)
    rows = as_float64(x, "x", 2)
    n, d = rows.shape
    table = []
    for variant in VARIANTS if n >= 2 and d else ():
        lam = _centred_singular_values(transform_activation(rows, variant), peer=False) ** 2
        lam = lam if peer else np.pad(lam, (0, d - len(lam)))
        metrics = metric_from_eigenvalues(lam, compat)
        table.append({**metrics, **(labels or {}), "variant": variant, "tokens": n, "hidden_dim": d})
    return table
