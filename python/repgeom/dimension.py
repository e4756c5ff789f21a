"""The intrinsic dimension of points: all estimators, and the scale at which many layers are compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np

from repgeom.checks import FloatArray, refusal
from repgeom.decimation import two_nn_scaling
from repgeom.estimates import DimensionEstimate, DimensionProfile, Stacked
from repgeom.gride import gride
from repgeom.local_dimension import LocalDimensions, local_dimension, mle_dimension
from repgeom.two_nn import two_nn, two_nn_points

__all__ = [
    "DimensionEstimate",
    "DimensionProfile",
    "LocalDimensions",
    "ScaleSelection",
    "Stacked",
    "gride",
    "local_dimension",
    "mle_dimension",
    "select_scale",
    "two_nn",
    "two_nn_points",
    "two_nn_scaling",
]


@dataclasses.dataclass(frozen=True)
class ScaleSelection:
    """One scale for all layers.

    Attributes:
        position: The rank, subset size or k chosen.
        estimates: The estimate of every layer there.
        changes: For every pair of consecutive positions the mean over layers of ``|ln(d' / d)|``; NaN where a
            layer has no value. Empty when the position was given.
        rule: How it was chosen.
    """

    position: int
    estimates: Mapping[Hashable, DimensionEstimate]
    changes: FloatArray
    rule: str

    @property
    def values(self) -> FloatArray:
        """``[layers]``: the dimensions."""
        return np.array([estimate.value for estimate in self.estimates.values()])

    @property
    def standard_errors(self) -> FloatArray:
        """``[layers]``: their errors."""
        return np.array([estimate.standard_error for estimate in self.estimates.values()])


def select_scale(
    profiles: Mapping[Any, DimensionProfile] | Iterable[DimensionProfile] | DimensionProfile,
    *,
    position: int | None = None,
) -> ScaleSelection:
    """The scale whose dimensions are plotted against depth: where the profiles are flattest, for all layers.

    Of all pairs of consecutive positions that every layer has, the one with the smallest mean relative change
    is the plateau; its finer scale is chosen, where curvature and changes of density count less.

    Args:
        profiles: Of one kind, by layer (a list is numbered).
        position: Take this rank, subset size or k instead.

    Returns:
        The estimates of every layer at one position.

    Raises:
        ValueError: No profile, profiles of different kinds, no position (or not the given one) common to all,
            or no two consecutive positions with a value in every layer.
    """
    if isinstance(profiles, DimensionProfile):
        profiles = [profiles]
    named = dict(profiles.items() if isinstance(profiles, Mapping) else enumerate(profiles))
    if not named:
        raise refusal("a scale needs at least one profile", "none")
    axes = {profile.axis for profile in named.values()}
    if len(axes) > 1:
        raise refusal("profiles must be of one kind", f"positions that count {', '.join(sorted(axes))}")
    common = _common_positions(list(named.values()))
    if position is not None:
        if position not in common:
            raise refusal(f"position must be one that all profiles have, of {common}", position)
        return ScaleSelection(position, _at(named, position), np.zeros(0), "given")
    table = np.array([_at(named, at)[name].value for name in named for at in common])
    logs = np.log(table.reshape(len(named), len(common)))
    changes = np.abs(np.diff(logs, axis=1)).mean(axis=0)
    if not np.isfinite(changes).any():
        status = "; ".join(sorted({profile.status for profile in named.values()}))
        raise refusal(
            "profiles need two consecutive positions with a value in every layer",
            f"positions {common}: {status}",
        )
    chosen = common[int(np.nanargmin(changes))]
    return ScaleSelection(
        chosen, _at(named, chosen), changes, "smallest mean relative change to the next scale"
    )


def _common_positions(profiles: list[DimensionProfile]) -> list[int]:
    """In the order of the first profile."""
    shared = set.intersection(*(set(profile.positions.tolist()) for profile in profiles))
    return [int(at) for at in profiles[0].positions if int(at) in shared]


def _at(named: Mapping[Any, DimensionProfile], position: int) -> dict[Hashable, DimensionEstimate]:
    return {
        name: profile[int(np.flatnonzero(profile.positions == position)[0])]
        for name, profile in named.items()
    }
