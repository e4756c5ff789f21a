"""Reference numbers of representation_geometry 0.1.0 (``data/spectral.json`` and ``.npz``), never edited."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_DATA = Path(__file__).parent / "data"


@functools.cache
def _entries() -> dict[str, dict[str, Any]]:
    entries = json.loads((_DATA / "spectral.json").read_text(encoding="utf-8"))["entries"]
    return {entry["key"]: entry for entry in entries}


def keys(prefix: str) -> list[str]:
    """All keys that start with ``prefix``; at least one, so that no test runs over nothing."""
    found = [key for key in _entries() if key.startswith(prefix)]
    assert found, f"no reference entry starts with {prefix!r}"
    return found


def entry(key: str) -> dict[str, Any]:
    """The entry of ``key``: peer, function, args, inputs, rtol, atol, and ``value`` or ``npz``."""
    return _entries()[key]


@functools.cache
def array(name: str) -> np.ndarray[Any, Any]:
    """An array by its name, such as ``in.spectral.X1``."""
    with np.load(_DATA / "spectral.npz", allow_pickle=False) as archive:
        return np.asarray(archive[name])


def expected(key: str) -> Any:
    """What the peer returned; ``"nan"`` in the file is NaN."""
    found = entry(key)
    return array(found["npz"]) if "npz" in found else _with_nan(found["value"])


def assert_matches(
    key: str,
    value: Any,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    ignore: Collection[str] = (),
) -> None:
    """Compare with the entry at its tolerance: NaN must meet NaN, every key of the entry must be there.

    ``ignore`` names keys where the difference is on purpose; keys that the entry lacks are not compared.
    """
    found = entry(key)
    tolerances = (found["rtol"] if rtol is None else rtol, found["atol"] if atol is None else atol)
    _compare(value, expected(key), tolerances, frozenset(ignore), key)


def _with_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return math.nan if value == "nan" else value


def _compare(value: Any, want: Any, tolerances: tuple[float, float], ignore: frozenset[str], at: str) -> None:
    if isinstance(want, dict):
        assert isinstance(value, Mapping), f"{at}: a mapping is expected, got {type(value)}"
        for key in want.keys() - ignore:
            assert key in value, f"{at}: {key} is missing"
            _compare(value[key], want[key], tolerances, ignore, f"{at}.{key}")
    elif isinstance(want, list):
        assert len(value) == len(want), f"{at}: {len(want)} items expected, got {len(value)}"
        for row, pair in enumerate(zip(value, want, strict=True)):
            _compare(*pair, tolerances, ignore, f"{at}[{row}]")
    elif isinstance(want, str) or want is None:
        assert value == want, f"{at}: {want!r} expected, got {value!r}"
    else:
        rtol, atol = tolerances
        assert np.shape(value) == np.shape(want), f"{at}: shape {np.shape(want)}, got {np.shape(value)}"
        np.testing.assert_allclose(value, want, rtol=rtol, atol=atol, equal_nan=True, err_msg=at)
