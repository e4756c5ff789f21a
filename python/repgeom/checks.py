"""Arguments that break a rule are a ``ValueError`` with the rule and what came instead."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

PEER: Final = "representation-geometry"


def refusal(rule: str, received: object) -> ValueError:
    """The error for input that breaks a rule."""
    return ValueError(f"{rule}, got {received}")


def check_integer(name: str, value: Any, least: int) -> None:
    """Refuse anything but an integer of at least ``least``."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise refusal(f"{name} must be an integer of at least {least}", repr(value))


def is_peer(compat: str | None) -> bool:
    """Whether the peer's numbers are asked for; any other word than its name is a ``ValueError``."""
    if compat not in (None, PEER):
        raise ValueError(f"compat must be None or {PEER!r}, got {compat!r}")
    return compat is not None


def as_float64(x: Any, name: str, ndim: int) -> FloatArray:
    """``x`` (NumPy, nested lists, torch) as a finite float64 array with ``ndim`` axes, or ``ValueError``."""
    if hasattr(x, "detach"):
        x = x.detach().cpu().double().numpy()
    array = np.asarray(x)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got shape {array.shape}")
    array = array.astype(np.float64, copy=False)
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(f"{name} must be finite, got {array[tuple(bad)]} at index {tuple(map(int, bad))}")
    return array
