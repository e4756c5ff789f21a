"""Covariances that do not fit in memory: when sketches stand for them, and which spectra a sketch allows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Final

import numpy as np

from repgeom.arrays import Array, Float64Array
from repgeom.checks import refusal
from repgeom.eigensolver import PANEL
from repgeom.memory import readable
from repgeom.sketches import NystromSketch

DEFAULT_RANK: Final = 64
_OVERSAMPLING: Final = 4  # of NystromSketch, and its test vectors beside the sketch
_PROBES: Final = 24
_COPIES: Final = 10  # of the sums, while a sketch is read


def covariance_bytes(dim: int) -> int:
    """Bytes of the sums of a :class:`repgeom.Covariance`: a packed triangle."""
    return 4 * dim * (dim + 1)


def sketch_bytes(dim: int, rank: int) -> int:
    """Bytes of the sums of a :class:`repgeom.NystromSketch`: two blocks of whole panels."""
    return 16 * dim * (-(-_columns(dim, rank) // PANEL) * PANEL)


def reading_bytes(dim: int, rank: int) -> int:
    """Bytes that reading one sketch takes for a while."""
    return 8 * _COPIES * dim * _columns(dim, rank)


def _columns(dim: int, rank: int) -> int:
    return min(dim, _OVERSAMPLING * rank + 1) + _PROBES


def new_sketch(dim: int, rank: int, *, seed: int = 0, threads: int | None = None) -> NystromSketch:
    """A sketch of at most as many eigenpairs as there are dimensions."""
    return NystromSketch(dim, min(rank, dim), seed=seed, oversampling=_OVERSAMPLING, threads=threads)


def must_sketch(full: int, sketched: int, limit: int | None, what: str) -> bool:
    """Whether sketches are kept, because covariances would not fit.

    Args:
        full: Bytes with covariances.
        sketched: Bytes with sketches.
        limit: Bytes there are; None: no limit.
        what: What is kept, for the error.

    Raises:
        ValueError: Neither fits.
    """
    if limit is None or full <= limit:
        return False
    least = min(full, sketched)
    if least > limit:
        rule = f"memory_limit must be at least {least} bytes ({readable(least)}) for {what}"
        raise refusal(f"{rule} (fewer layers or a lower rank take less)", f"{limit} ({readable(limit)})")
    return True


def sketched_names(dims: Mapping[str, int], limit: int | None, rank: int) -> frozenset[str]:
    """Which of many covariances become sketches, so that all fit: none, or each that becomes smaller.

    Raises:
        ValueError: Not even the sketches fit.

    Warns:
        RuntimeWarning: Some do.
    """
    full = {name: covariance_bytes(dim) for name, dim in dims.items()}
    small = {name: min(size, sketch_bytes(dims[name], rank)) for name, size in full.items()}
    what = f"the sums of {len(dims)} covariances, sketched at rank {rank} where that is smaller"
    if not must_sketch(sum(full.values()), sum(small.values()), limit, what):
        return frozenset()
    names = frozenset(name for name in dims if small[name] < full[name])
    said = sketch_note(len(names), len(dims), rank=rank, full=sum(full.values()), limit=limit)
    warnings.warn(said, RuntimeWarning, stacklevel=3)
    return names


def sketch_note(sketches: int, layers: int, *, rank: int, full: int, limit: int | None) -> str:
    """What a reader of the numbers should know."""
    return (
        f"{sketches} of {layers} covariances are sketches of rank {rank}: all in full would take "
        f"{readable(full)}, more than memory_limit = {readable(limit or 0)}; means and traces are exact, "
        "other spectral metrics are estimates or lie within bounds"
    )


def check_rows(sketch: NystromSketch, x: Array, weights: Float64Array | None) -> None:
    """Refuse rows that :meth:`NystromSketch.update` would refuse, without adding any.

    The values of weights are for the first statistic to judge: they are the same for all.
    """
    sketch.update(x[:0])
    if weights is not None and weights.shape != (len(x),):
        raise refusal(f"weights must be [n] with n = {len(x)}", f"shape {weights.shape}")


def extreme_spectra(values: Float64Array, trace: float, size: int) -> tuple[Float64Array, Float64Array]:
    r"""The flattest and the steepest of all spectra with that trace and no eigenvalue below the sketch's.

    A sketch proves :math:`\lambda_i \ge v_i` and the trace. Of the spectra that satisfy this, the one with
    :math:`\lambda_i = \max(v_i, c)` is majorized by all others, and that with all the rest on the first
    eigenvalue majorizes all others. So a participation ratio, entropy, stable rank, share of the first k or
    number of directions that hold a share lies between its values at the two (Marshall, Olkin and Arnold
    2011, chapter 1).

    Args:
        values: ``[l]``, descending, at least 0.
        trace: At least their sum, up to rounding.
        size: Number of eigenvalues that may be above 0, at least 1.

    Returns:
        Two arrays ``[m]``, descending, m the larger of l and ``size``.
    """
    padded = np.zeros(max(size, len(values)))
    padded[: len(values)] = values
    steepest = padded.copy()
    steepest[0] += max(0.0, trace - float(values.sum()))
    before = np.concatenate([[0.0], np.cumsum(padded)[: size - 1]])
    levels = (trace - before) / np.arange(size, 0, -1)
    fits = np.flatnonzero(levels >= padded[:size])
    flattest = padded.copy()
    if len(fits):
        flattest[fits[0] : size] = levels[fits[0]]
    return flattest, steepest
