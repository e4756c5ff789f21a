"""Centred kernel alignment of two representations, or of every pair of layers."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final

import numpy as np

from repgeom.checks import FloatArray, is_peer, refusal
from repgeom.comparisons import NAN, OK, SimilarityMatrix, p_values
from repgeom.estimates import IntArray
from repgeom.gram import Gram, Kernel, KernelName
from repgeom.hsic import (
    LOST,
    Products,
    compared,
    feature_product,
    least_for_errors,
    rounding_of,
    rounding_without,
    without_each,
)
from repgeom.matching import Matched, matched
from repgeom.resampling import ONE_GROUP, Resampling, as_asked, clustered_error

_EPS: Final = float(np.finfo(np.float64).eps)
DEFAULT_MEMORY: Final = 4 << 30
ONE_SAMPLE: Final = "no standard error of layers whose samples are equal but for one, up to rounding"


def cka(
    a: Any,
    b: Any = None,
    kernel: KernelName = "linear",
    debiased: bool = True,
    *,
    bandwidth: float = 0.5,
    degree: int = 3,
    offset: float = 1.0,
    standard_errors: bool = True,
    groups: Any = None,
    permutations: int = 0,
    seed: int = 0,
    ids_a: Any = None,
    ids_b: Any = None,
    memory_limit: int = DEFAULT_MEMORY,
    compat: str | None = None,
) -> Any:
    r"""Centred kernel alignment: how alike the similarities between samples are in two representations.

    .. math:: \frac{\mathrm{HSIC}(K, L)}{\sqrt{\mathrm{HSIC}(K, K)\,\mathrm{HSIC}(L, L)}}

    Debiased, HSIC is the unbiased HSIC_1 of Song et al. (2012, eq. 5): independent data have mean 0 whatever
    their width, and single values may be negative. Biased, it is ``tr(H K H L)`` (Kornblith et al. 2019),
    which grows towards 1 as the width exceeds n. A linear kernel does not see shifts, rotations or one common
    scale; the others are computed on rows centred and scaled to a mean squared norm of 1, and do not either.

    Cost for the linear kernel: the cheaper of n^2 D and n D^2, with D the sum of all widths: no kernel matrix
    is made twice or held whole. Products are in the precision of the data (float32 for 16-bit data), sums in
    float64; ``rounding`` is the size of independent rounding errors (Higham and Mary 2019), and layers for
    which it would be above 1e-4 are computed in float64. Other kernels: float64, n^2 (D + layers).

    The standard error is the jackknife over samples, in closed form from the row sums of ``K * L``: it
    describes other samples from the same source. In simulations it is 0.9 to 1.1 of the true one for related
    layers, and about 1.5 of it for independent ones, where HSIC_1 is a degenerate U-statistic. Tokens of one
    text are not independent samples: give ``groups``.

    Args:
        a: ``[n, d_a]``, or a dict or list of layers.
        b: The same samples in another representation; left out, all pairs of layers of ``a``.
        kernel: ``"linear"``, ``"rbf"`` or ``"polynomial"``; see :class:`repgeom.gram.Kernel`.
        debiased: Which estimator.
        bandwidth: Of ``"rbf"``, as a share of the median distance.
        degree: Of ``"polynomial"``.
        offset: Of ``"polynomial"``.
        standard_errors: Whether to make them; they take 8 n bytes for every pair of layers.
        groups: ``[n]`` labels of what belongs together, in the order of a; errors are of independent groups.
        permutations: Random orders of the samples of b for the null: p-value, mean, standard deviation. Each
            costs n^2 for every pair.
        seed: Of the permutations.
        ids_a: ``[n]``, which sample each row of a is. With them rows of b are put in the order of a.
        ids_b: The same for b.
        memory_limit: Bytes that ``permutations`` may use for kernel matrices.
        compat: ``"representation-geometry"`` gives its numbers: linear and biased.

    Returns:
        A `Similarity` for two arrays, otherwise a `SimilarityMatrix`. Where a side does not vary, or all its
        samples are equally far apart, the value is NaN and the status says so.

    Raises:
        ValueError: Fewer than 4 samples (biased: 2), different samples, NaN or infinity, a setting out of
            range, more memory for ``permutations`` than the limit.
    """
    if is_peer(compat):
        debiased = False
        if kernel != "linear":
            raise refusal(f"compat={compat!r} has the kernel 'linear'", repr(kernel))
    chosen = Kernel(kernel, bandwidth, degree, offset)
    sampling = Resampling(groups, permutations=permutations, seed=seed)
    name = "debiased CKA" if debiased else "CKA"
    found = matched(a, b, ids_a, ids_b, least=4 if debiased else 2, what=name)
    group_of = sampling.group_of(found.n)
    others = None if found.within else list(found.b.values())
    left, right, sums = compared(list(found.a.values()), others, chosen, debiased, by_sample=standard_errors)
    values, statuses = alignment(sums, left, right, tuple(found.a), tuple(found.b))
    errors = np.full(values.shape, NAN)
    if standard_errors:
        errors = np.where(np.isnan(values), NAN, _errors(sums, left, right, group_of))
    null = _null(left, right, sums, sampling, memory_limit) if permutations else np.empty((0, *values.shape))
    rounding = _rounding(sums, left, right)
    missing = np.full(values.shape, NAN)
    gone = np.isnan(values)
    matrix = SimilarityMatrix(
        values,
        "similarity",
        found.n,
        "cka",
        limits(debiased),
        tuple(found.a),
        tuple(found.b),
        errors,
        p_values(values, null, "similarity", rounding) if permutations else missing,
        np.where(gone, NAN, null.mean(axis=0)) if permutations else missing,
        np.where(gone, NAN, null.std(axis=0, ddof=1)) if permutations > 1 else missing,
        statuses,
        rounding,
        {**chosen.settings, "debiased": debiased},
        _warnings(found, sampling, standard_errors, debiased, bool((np.isnan(errors) & ~gone).any())),
    )
    return as_asked(matrix, found)


def limits(debiased: bool) -> tuple[float, float]:
    """Smallest and largest value."""
    return (-1.0, 1.0) if debiased else (0.0, 1.0)


def alignment(
    sums: Products,
    left: list[Gram],
    right: list[Gram],
    names_a: tuple[Hashable, ...],
    names_b: tuple[Hashable, ...],
) -> tuple[FloatArray, Any]:
    """Values and statuses ``[la, lb]``."""
    reasons = [
        [f"{name}: {reason}" if (reason := missing(gram, total)) else "" for name, gram, total in layers]
        for layers in (
            zip(names_a, left, sums.own_a, strict=True),
            zip(names_b, right, sums.own_b, strict=True),
        )
    ]
    statuses = np.array([[one or other or OK for other in reasons[1]] for one in reasons[0]], object)
    usable = statuses == OK
    values = np.full(sums.cross.shape, NAN)
    np.divide(sums.cross, _scale(sums), out=values, where=usable)
    low, high = limits(left[0].debiased)
    return np.clip(values, low, high), statuses


def _scale(sums: Products) -> FloatArray:
    return np.asarray(np.sqrt(np.outer(np.maximum(sums.own_a, 0), np.maximum(sums.own_b, 0))))


def missing(gram: Gram, own: float) -> str:
    """Why a layer cannot be aligned with anything; empty where it can."""
    if gram.reason:
        return gram.reason
    unit = float(np.finfo(gram.dtype).eps)
    # Rounding of an entry is about sqrt(d) unit; the mean of the diagonal is 1.
    if not own > (16 * gram.width * unit**2 + (_EPS * gram.n) ** 2) * gram.n**2:
        return "all samples are equally far apart"
    return ""


def _errors(sums: Products, left: list[Gram], right: list[Gram], groups: IntArray | None) -> FloatArray:
    """``[la, lb]``: jackknife over samples, summed within groups."""
    n, debiased = left[0].n, left[0].debiased
    errors = np.full(sums.cross.shape, NAN)
    if n < least_for_errors(debiased):
        return errors
    cross, own_a, own_b = sums.cross_by_sample, sums.own_a_by_sample, sums.own_b_by_sample
    assert cross is not None
    assert own_a is not None
    assert own_b is not None
    known, diagonals, alone = [], [], []
    for side, totals, shares in ((left, sums.own_a, own_a), (right, sums.own_b, own_b)):
        worst = [rounding_without(*of) for of in zip(side, totals, shares, strict=True)]
        known.append(np.array(worst) <= LOST)
        diagonals.append([gram.centred_diagonal for gram in side])
        alone.append(
            [
                without_each(total, share, k, k, debiased)
                for total, share, k in zip(totals, shares, diagonals[-1], strict=True)
            ]
        )
    for i, j in np.argwhere(known[0][:, None] & known[1]):
        both = without_each(sums.cross[i, j], cross[i, j], diagonals[0][i], diagonals[1][j], debiased)
        values = both / np.sqrt(alone[0][i] * alone[1][j])
        errors[i, j] = clustered_error((n - 1) * (values.mean() - values), groups)
    return errors


def _rounding(sums: Products, left: list[Gram], right: list[Gram]) -> FloatArray:
    """``[la, lb]``: the share of both sides."""
    sides = [
        np.array([rounding_of(gram, own) for gram, own in zip(side, owns, strict=True)])
        for side, owns in ((left, sums.own_a), (right, sums.own_b))
    ]
    return np.asarray(sides[0][:, None] + sides[1][None, :])


def _null(
    left: list[Gram], right: list[Gram], sums: Products, sampling: Resampling, memory_limit: int
) -> FloatArray:
    """``[m, la, lb]``: values after the samples of b were permuted."""
    n, within = left[0].n, left is right
    null = np.empty((sampling.permutations, len(left), len(right)))
    needed = n * n * sum(gram.dtype.itemsize for gram in ([*left] if within else [*left, *right]))
    if needed <= memory_limit:
        matrices = [gram.whole() for gram in left]
        others = matrices if within else [gram.whole() for gram in right]
        for found, order in zip(null, sampling.orders(n), strict=True):
            for j, other in enumerate(others):
                _permuted(matrices[: j + 1] if within else matrices, other, order, found[:, j])
    elif left[0].kernel.name == "linear":
        for found, order in zip(null, sampling.orders(n), strict=True):
            for j, gram in enumerate(right):
                for i in range(j + 1 if within else len(left)):
                    found[i, j] = feature_product(left[i], gram, order=order)[0]
    else:
        rule = f"permutations need n^2 numbers for each layer, at most memory_limit = {memory_limit} bytes"
        raise refusal(rule, f"{needed} bytes: pass fewer samples or a higher limit")
    if within:
        upper = np.triu_indices(len(left), 1)
        null[:, upper[1], upper[0]] = null[:, upper[0], upper[1]]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(null / _scale(sums))


def _permuted(matrices: list[Any], other: Any, order: IntArray, out: FloatArray) -> None:
    """Inner products of some matrices with one whose rows and columns are permuted."""
    n = len(order)
    out[: len(matrices)] = 0
    step = max(16, (1 << 20) // n)
    for start in range(0, n, step):
        moved = other[order[start : start + step]][:, order].ravel()
        for i, matrix in enumerate(matrices):
            # Runs of float32 products stay short; their sums are float64.
            part = (matrix[start : start + step].reshape(-1, n)[:, None, :] @ moved.reshape(-1, n, 1)).sum(
                dtype=np.float64
            )
            out[i] += part


def _warnings(
    found: Matched, sampling: Resampling, errors: bool, debiased: bool, absent: bool
) -> tuple[str, ...]:
    said = sampling.warnings(found.n)
    least = least_for_errors(debiased)
    if errors and found.n < least:
        return (*said, f"no standard error: it needs at least {least} samples")
    if errors and absent and ONE_GROUP not in said:
        return (*said, ONE_SAMPLE)
    return said
