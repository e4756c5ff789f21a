"""How far two representations are apart after the best rotation."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from repgeom.checks import FloatArray, refusal
from repgeom.comparisons import NAN
from repgeom.matching import Rows, matched
from repgeom.resampling import Found, Measure, Resampling, compare_layers

Form: TypeAlias = Literal["angular", "normalised"]


def procrustes(
    a: Any,
    b: Any = None,
    form: Form = "angular",
    *,
    ids_a: Any = None,
    ids_b: Any = None,
    folds: int = 0,
    groups: Any = None,
    permutations: int = 0,
    seed: int = 0,
) -> Any:
    r"""Procrustes distance of two representations.

    With X and Y centred and scaled to Frobenius norm 1, and :math:`s = \|X^\top Y\|_*` the sum of singular
    values: ``"angular"`` is :math:`\arccos s` in [0, pi / 2], a metric (Williams et al. 2021);
    ``"normalised"`` is :math:`\min_R \|X - Y R\|_F^2 = 2 - 2 s` over orthogonal R, in [0, 2] (Ding et al.
    2021). Neither sees shifts, rotations or one common scale. Widths may differ: the narrower side counts as
    padded with zeros. Distances below about 1e-8 (angular) and 1e-15 (normalised) are rounding.

    Cost: n d min(n, d) + min(n, d)^3 for each pair, in float64.

    Args:
        a: ``[n, d_a]``, or a dict or list of layers.
        b: The same samples in another representation; left out, all pairs of layers of ``a``.
        form: See above.
        ids_a: ``[n]``, which sample each row of a is. With them rows of b are put in the order of a.
        ids_b: The same for b.
        folds: Parts of the jackknife that gives the standard error; 0: none.
        groups: ``[n]`` labels of what belongs together, in the order of a: folds never cut a group.
        permutations: Random orders of the samples of b for the null.
        seed: Of folds and permutations.

    Returns:
        A `Similarity` of kind ``"distance"``, with the singular values in ``parts``; otherwise a
        `SimilarityMatrix`. NaN with a status where a side does not vary.

    Raises:
        ValueError: Fewer than 2 samples, different samples, NaN or infinity, an unknown form.
    """
    if form not in get_args(Form):
        raise refusal(f"form must be one of {get_args(Form)}", repr(form))

    def distance(left: FloatArray, right: FloatArray) -> Found:
        for side, rows in (("a", left), ("b", right)):
            if not rows.any():
                return Found(NAN, f"{side}: the samples do not vary")
        singular = np.linalg.svd(left.T @ right, compute_uv=False)
        total = min(float(singular.sum()), 1.0)
        value = math.acos(total) if form == "angular" else 2 - 2 * total
        return Found(value, parts=singular)

    limit = math.pi / 2 if form == "angular" else 2.0
    measure = Measure(
        "procrustes",
        "distance",
        (0.0, limit),
        unit_rows,
        distance,
        lambda rows, order: rows[order],
        settings={"form": form},
    )
    found = matched(a, b, ids_a, ids_b, least=2, what="a Procrustes distance")
    return compare_layers(measure, found, Resampling(groups, folds, permutations, seed))


def unit_rows(x: Rows) -> FloatArray:
    """Centred rows of Frobenius norm 1, rotated into n columns where there are more; 0 if all are equal."""
    rows = x.astype(np.float64, copy=False)
    rows = rows / (float(np.max(np.abs(rows), initial=0.0)) or 1.0)
    centred = rows - rows.mean(axis=0)
    norm = float(np.linalg.norm(centred))
    if norm <= 4 * np.finfo(np.float64).eps * float(np.linalg.norm(rows)):
        return np.zeros((len(rows), 1))
    centred /= norm
    if centred.shape[1] > len(centred):
        return np.asarray(np.asarray(np.linalg.qr(centred.T, mode="r")).T)
    return np.asarray(centred)
