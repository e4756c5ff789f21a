"""Standard errors of spectral metrics from a sample of rows."""

from __future__ import annotations

import operator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from repgeom.checks import FloatArray, as_float64
from repgeom.spectrum import entropy

_EPS: Final = float(np.finfo(np.float64).eps)
_METRICS: Final = ("d_pr", "d_entropy", "stable_rank", "top1_share")


def spectral_standard_errors(
    sample: Any,
    mean: Any,
    eigenvalues: Any,
    eigenvectors: Any,
    *,
    count: int,
    groups: Any = None,
    group_size: float | None = None,
) -> dict[str, float]:
    """Standard errors of d_pr, d_entropy, stable_rank and top1_share by the infinitesimal jackknife.

    The influence of row x on ``f(lambda)`` is ``sum_i df/dlambda_i ((v_i^T (x - mean))^2 - lambda_i)``; with
    independent rows the error is ``std(influence) / sqrt(count)``. Tokens of one text are not independent:
    without ``groups`` the result is a lower bound of their error. With ``groups`` the variance is inflated by
    ``1 + (group_size - 1) * icc``, where the intra-class correlation icc >= 0 comes from a one-way analysis
    of variance of the influences (Efron 1982; Kish 1965).

    Args:
        sample: ``[m, d]``, rows drawn from the data (all of them, or a random part).
        mean: ``[d]`` of the full data.
        eigenvalues: ``[d]`` of the full covariance, descending.
        eigenvectors: ``[d, d]``, columns in the same order.
        count: Rows of the full data.
        groups: ``[m]`` labels (sequence ids) of the sampled rows.
        group_size: Mean rows per group in the full data (``sum s^2 / sum s`` for uneven sizes); by default
            that of the sample. The icc has an error of about ``sqrt(2 / (m (m/G - 1)))`` for G groups, and
            ``group_size`` multiplies it: of 200 texts of 256 tokens, 512 sampled rows give errors that are
            off by a factor of 3 or more, 4096 rows by 1.4.

    Returns:
        With ``groups``: ``d_pr_se``, ``d_entropy_se``, ``stable_rank_se``, ``top1_share_se``. Without: the
        same with ``_se_iid``, the error bar that treats tokens as independent draws (a lower bound, see
        above). NaN where no error can be estimated: fewer than two rows or groups, no two rows in one group,
        no variance. The error of stable_rank and top1_share needs a first eigenvalue apart from the second.
    """
    lam = as_float64(eigenvalues, "eigenvalues", 1)
    projections = _projections(sample, mean, lam, eigenvectors)
    m = len(projections)
    if operator.index(count) < m:
        raise ValueError(f"count must be at least the {m} sampled rows, got {count}")
    suffix = "se_iid" if groups is None else "se"
    names = [f"{metric}_{suffix}" for metric in _METRICS]
    if m < 2 or lam[0] <= 0:
        return dict.fromkeys(names, float("nan"))
    influences = (projections**2 - lam) @ _gradients(lam).T
    if groups is None:
        variance = influences.var(axis=0, ddof=1)
    else:
        variance = _clustered_variance(influences, np.asarray(groups), group_size)
    return dict(zip(names, np.sqrt(variance / count).tolist(), strict=True))


def _projections(sample: Any, mean: Any, lam: FloatArray, eigenvectors: Any) -> FloatArray:
    """``[m, d]``: centred rows in the eigenbasis."""
    x, centre = as_float64(sample, "sample", 2), as_float64(mean, "mean", 1)
    vectors, d = as_float64(eigenvectors, "eigenvectors", 2), x.shape[1]
    if d == 0 or not (centre.shape == lam.shape == (d,) and vectors.shape == (d, d)):
        raise ValueError(
            f"sample [m, d] needs mean [d], eigenvalues [d] and eigenvectors [d, d], "
            f"got {x.shape}, {centre.shape}, {lam.shape}, {vectors.shape}"
        )
    return np.asarray((x - centre) @ vectors)


def _gradients(lam: FloatArray) -> FloatArray:
    """``[4, d]``: derivatives of d_pr, d_entropy, stable_rank and top1_share by each eigenvalue."""
    total, squares = lam.sum(), np.sum(lam**2)
    shares = lam / total
    nats = entropy(shares)
    # A null direction has no projection either: 0 instead of ln 0.
    seen = lam > len(lam) * _EPS * lam[0]
    logs = np.log(np.where(seen, shares, 1.0))
    first = np.arange(len(lam)) == 0
    return np.stack(
        [
            2 * total / squares - 2 * total**2 * lam / squares**2,
            np.where(seen, -np.exp(nats) * (logs + nats) / total, 0.0),
            1 / lam[0] - first * total / lam[0] ** 2,
            first / total - lam[0] / total**2,
        ]
    )


def _clustered_variance(values: FloatArray, groups: NDArray[Any], group_size: float | None) -> FloatArray:
    """``[c]``: variance of a row times its design effect, from ``[m, c]`` values and ``[m]`` labels."""
    m = len(values)
    if groups.shape != (m,):
        raise ValueError(f"groups must label each of the {m} rows, got shape {groups.shape}")
    _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    size = m / len(sizes) if group_size is None else group_size
    if not size >= 1:
        raise ValueError(f"group_size must be >= 1, got {size!r}")
    if len(sizes) < 2 or len(sizes) == m:
        return np.full(values.shape[1], np.nan)
    sums = np.zeros((len(sizes), values.shape[1]))
    np.add.at(sums, index, values)
    means = sums / sizes[:, None]
    within = np.sum((values - means[index]) ** 2, axis=0) / (m - len(sizes))
    between = (sizes @ (means - values.mean(axis=0)) ** 2) / (len(sizes) - 1)
    rows_per_group = (m - np.sum(sizes**2) / m) / (len(sizes) - 1)
    shared = np.maximum(0.0, (between - within) / rows_per_group)
    return np.asarray(within + shared + (size - 1) * shared)
