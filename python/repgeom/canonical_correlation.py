"""Comparisons that do not see invertible linear maps: canonical correlations and linear regression."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from repgeom.checks import FloatArray, refusal
from repgeom.comparisons import NAN, OK
from repgeom.estimates import IntArray
from repgeom.matching import Rows, matched
from repgeom.resampling import Found, Measure, Resampling, compare_layers


@dataclasses.dataclass(frozen=True)
class Basis:
    """Centred rows as ``basis diag(scales) directions``.

    Attributes:
        basis: ``[n, r]``, orthonormal columns.
        scales: ``[r]``, descending; those below ``max(n, d)`` roundings of the first are left out.
        directions: ``[r, d]``, orthonormal rows.
        shrinking: ``[r]``, what a ridge leaves of each column; 1 without.
    """

    basis: FloatArray
    scales: FloatArray
    directions: FloatArray
    shrinking: FloatArray

    @property
    def rank(self) -> int:
        """Columns."""
        return len(self.scales)

    def permuted(self, order: IntArray) -> Basis:
        """The samples in another order."""
        return dataclasses.replace(self, basis=self.basis[order])


def cca(
    a: Any,
    b: Any = None,
    *,
    squared: bool = False,
    ridge: float = 0.0,
    ids_a: Any = None,
    ids_b: Any = None,
    folds: int = 0,
    groups: Any = None,
    permutations: int = 0,
    seed: int = 0,
) -> Any:
    r"""Mean canonical correlation of two representations (Hotelling 1936).

    The canonical correlations are the singular values of :math:`Q_a^\top Q_b`, with Q orthonormal bases of
    the centred columns; they do not see invertible linear maps of either side. There are as many as the
    smaller rank, and the mean is over all of them. Where the ranks add up to more than n - 1, correlations
    are 1 whatever the data, and where one rank reaches n - 1 (d >= n - 1) all of them are: the status then
    says so, and the value says nothing of the data. Use ``ridge``, `svcca`, more samples or `cka` then.

    Cost: n d min(n, d) for each layer, n d^2 + d^3 for each pair, in float64.

    Args:
        a: ``[n, d_a]``, or a dict or list of layers.
        b: The same samples in another representation; left out, all pairs of layers of ``a``.
        squared: The mean of squared correlations, R^2_CCA of Kornblith et al. (2019), instead.
        ridge: Added to every eigenvalue of both covariances, as a share of their mean eigenvalue.
        ids_a: ``[n]``, which sample each row of a is. With them rows of b are put in the order of a.
        ids_b: The same for b.
        folds: Parts of the jackknife that gives the standard error; 0: none. Each costs what the value costs.
            Where most correlations are chance ones the error is up to 1.6 times too large.
        groups: ``[n]`` labels of what belongs together, in the order of a: folds never cut a group.
        permutations: Random orders of the samples of b for the null.
        seed: Of folds and permutations.

    Returns:
        A `Similarity` with the correlations in ``parts``; otherwise a `SimilarityMatrix`. NaN with a status
        where a side does not vary.

    Raises:
        ValueError: Fewer than 3 samples, different samples, NaN or infinity, ``ridge`` < 0.
    """
    if not (0 <= ridge < math.inf):
        raise refusal("ridge must be >= 0 and finite", repr(ridge))

    def mean(left: Basis, right: Basis) -> Found:
        rho = _correlations(left, right)[1]
        return Found(float(np.mean(rho**2 if squared else rho)), _forced(left, right, ridge), rho)

    settings = {"squared": squared, "ridge": ridge}
    measure = _measure("cca", mean, settings=settings, ridge=ridge)
    found = matched(a, b, ids_a, ids_b, least=3, what="CCA")
    return compare_layers(measure, found, Resampling(groups, folds, permutations, seed))


def svcca(
    a: Any,
    b: Any = None,
    *,
    variance: float = 0.99,
    ids_a: Any = None,
    ids_b: Any = None,
    folds: int = 0,
    groups: Any = None,
    permutations: int = 0,
    seed: int = 0,
) -> Any:
    """Mean canonical correlation of the leading principal components (Raghu et al. 2017).

    Of each side the fewest components that hold the share ``variance`` of its variance are compared. The rest
    is as in `cca`.

    Args:
        a: As in `cca`, like all that is not described here.
        b: As in `cca`.
        variance: In (0, 1].
        ids_a: As in `cca`.
        ids_b: As in `cca`.
        folds: As in `cca`.
        groups: As in `cca`.
        permutations: As in `cca`.
        seed: As in `cca`.

    Returns:
        As in `cca`.

    Raises:
        ValueError: As in `cca`; ``variance`` outside (0, 1].
    """
    if not 0 < variance <= 1:
        raise refusal("variance must be in (0, 1]", repr(variance))

    def mean(left: Basis, right: Basis) -> Found:
        rho = _correlations(left, right)[1]
        return Found(float(np.mean(rho)), _forced(left, right), rho)

    measure = _measure("svcca", mean, settings={"variance": variance}, variance=variance)
    found = matched(a, b, ids_a, ids_b, least=3, what="SVCCA")
    return compare_layers(measure, found, Resampling(groups, folds, permutations, seed))


def pwcca(
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
    r"""Canonical correlations weighted by how much of ``a`` they account for (Morcos et al. 2018).

    :math:`\sum_i \alpha_i \rho_i / \sum_i \alpha_i` with :math:`\alpha_i = \sum_j |\langle h_i, x_j
    \rangle|`, where h_i are the canonical variables of a and x_j its centred columns. Not symmetric: a gives
    the weights. The rest is as in `cca`.

    Args:
        a: As in `cca`, like all the rest.
        b: As in `cca`.
        ids_a: As in `cca`.
        ids_b: As in `cca`.
        folds: As in `cca`.
        groups: As in `cca`.
        permutations: As in `cca`.
        seed: As in `cca`.

    Returns:
        As in `cca`.

    Raises:
        ValueError: As in `cca`.
    """

    def mean(left: Basis, right: Basis) -> Found:
        mixing, rho = _correlations(left, right)
        weights = np.abs((mixing.T * left.scales) @ left.directions).sum(axis=1)
        return Found(float(weights @ rho / weights.sum()), _forced(left, right), rho)

    measure = _measure("pwcca", mean, symmetric=False)
    found = matched(a, b, ids_a, ids_b, least=3, what="PWCCA")
    return compare_layers(measure, found, Resampling(groups, folds, permutations, seed))


def regression_r2(
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
    r"""Share of the variance of ``b`` that a linear map of ``a`` explains, in sample.

    :math:`\|Q_a^\top Y\|_F^2 / \|Y\|_F^2`, with Y the centred rows of b (Kornblith et al. 2019, R^2_LR). Not
    symmetric. Unrelated representations have about ``rank_a / (n - 1)``, and 1 by construction where rank_a
    reaches n - 1, which the status says.

    Args:
        a: Predictors; as in `cca`, like all the rest.
        b: What is predicted.
        ids_a: As in `cca`.
        ids_b: As in `cca`.
        folds: As in `cca`.
        groups: As in `cca`.
        permutations: As in `cca`.
        seed: As in `cca`.

    Returns:
        As in `cca`, without parts.

    Raises:
        ValueError: As in `cca`.
    """

    def explained(left: Basis, right: Basis) -> Found:
        n = len(left.basis)
        whole = left.rank >= n - 1
        status = f"1 by construction: a has rank {left.rank} of at most n - 1 = {n - 1}" if whole else OK
        held = np.sum((left.basis.T @ (right.basis * right.scales)) ** 2)
        return Found(float(min(held / np.sum(right.scales**2), 1.0)), status)

    measure = _measure("regression_r2", explained, symmetric=False)
    found = matched(a, b, ids_a, ids_b, least=3, what="a regression")
    return compare_layers(measure, found, Resampling(groups, folds, permutations, seed))


def _measure(
    name: str,
    mean: Any,
    *,
    symmetric: bool = True,
    settings: dict[str, Any] | None = None,
    ridge: float = 0.0,
    variance: float = 1.0,
) -> Measure[Basis]:
    def both(left: Basis, right: Basis) -> Found:
        for side, held in (("a", left), ("b", right)):
            if not held.rank:
                return Found(NAN, f"{side}: the samples do not vary")
        return mean(left, right)  # type: ignore[no-any-return]

    return Measure(
        name,
        "similarity",
        (0.0, 1.0),
        lambda x: basis_of(x, ridge=ridge, variance=variance),
        both,
        Basis.permuted,
        symmetric,
        settings or {},
    )


def basis_of(x: Rows, *, ridge: float = 0.0, variance: float = 1.0) -> Basis:
    """The principal components of rows ``[n, d]``, as far as they are more than rounding."""
    rows = x.astype(np.float64, copy=False)
    peak = float(np.max(np.abs(rows), initial=0.0)) or 1.0
    rows = rows / peak
    centred = rows - rows.mean(axis=0)
    first, factor = np.linalg.qr(centred)
    left, scales, directions = np.linalg.svd(factor, full_matrices=False)
    unit = float(np.finfo(x.dtype).eps)
    n, d = rows.shape
    largest = float(scales[0]) if len(scales) else 0.0
    # Equal rows leave what rounding the mean left.
    constant = largest <= 4 * math.sqrt(n) * np.finfo(np.float64).eps * float(np.linalg.norm(rows))
    rank = 0 if constant else int(np.sum(scales > max(n, d) * unit * largest))
    rank = min(rank, n - 1)
    if rank and variance < 1:
        shares = np.cumsum(scales[:rank] ** 2) / np.sum(scales[:rank] ** 2)
        rank = int(np.searchsorted(shares, variance * (1 - 1e-12))) + 1
    kept = scales[:rank]
    mean_square = float(np.mean(kept**2)) if rank else 1.0
    shrinking = np.sqrt(kept**2 / (kept**2 + ridge * mean_square))
    return Basis(first @ left[:, :rank], kept * peak, directions[:rank], shrinking)


def _correlations(left: Basis, right: Basis) -> tuple[FloatArray, FloatArray]:
    """``[r_a, c]``, canonical variables of a in its basis, and the c correlations, descending."""
    inner = (left.basis * left.shrinking).T @ (right.basis * right.shrinking)
    mixing, rho, _ = np.linalg.svd(inner, full_matrices=False)
    return mixing, np.clip(rho, 0.0, 1.0)


def _forced(left: Basis, right: Basis, ridge: float = 0.0) -> str:
    """Whether correlations are 1 because two subspaces of these ranks have to meet."""
    n, few = len(left.basis), min(left.rank, right.rank)
    forced = min(left.rank + right.rank - (n - 1), few)
    if forced <= 0 or ridge > 0:
        return OK
    ranks = f"ranks {left.rank} and {right.rank} in n - 1 = {n - 1} dimensions"
    if forced == few:
        return f"1 by construction: {ranks}"
    return f"{forced} of {few} correlations are 1 by construction: {ranks}"
