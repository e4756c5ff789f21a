"""Reference numbers of tdhook 0.3.0, DADApy 0.3.4 and scikit-dimension 0.5.0 (``data/neighbors.*``,
``data/id_manifolds.*``), never edited, and neighbours found the slow way."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

_DATA = Path(__file__).parent / "data"


@functools.cache
def _entries() -> dict[str, dict[str, Any]]:
    entries = json.loads((_DATA / "neighbors.json").read_text(encoding="utf-8"))["entries"]
    return {entry["key"]: entry for entry in entries}


@functools.cache
def array(name: str) -> np.ndarray[Any, Any]:
    """An array by its name, such as ``in.nb.X``."""
    with np.load(_DATA / "neighbors.npz", allow_pickle=False) as archive:
        return np.asarray(archive[name])


def expected(key: str) -> Any:
    """What the peer returned."""
    found = _entries()[key]
    return array(found["npz"]) if "npz" in found else found["value"]


def assert_matches(key: str, value: Any, want: Any = None) -> None:
    """Compare with the entry, or with a part of it, at the tolerance of the entry."""
    found = _entries()[key]
    want = expected(key) if want is None else want
    assert np.shape(value) == np.shape(want), key
    np.testing.assert_allclose(value, want, rtol=found["rtol"], atol=found["atol"], err_msg=key)


@functools.cache
def manifolds() -> dict[str, tuple[np.ndarray[Any, Any], dict[str, Any]]]:
    """Points (float32) and published numbers of some of scikit-dimension's benchmark manifolds."""
    numbers = json.loads((_DATA / "id_manifolds.json").read_text(encoding="utf-8"))
    with np.load(_DATA / "id_manifolds.npz", allow_pickle=False) as archive:
        return {name: (np.asarray(archive[name]), numbers[name]) for name in numbers}


def distances(x: Any) -> np.ndarray[Any, Any]:
    """``[n, n]`` Euclidean distances, row by row."""
    return np.stack([np.sqrt(((x - row) ** 2).sum(axis=1)) for row in np.asarray(x, np.float64)])


def neighbor_order(x: Any) -> np.ndarray[Any, Any]:
    """``[n, n]``: every row's points by distance and then index, the row itself first."""
    table = distances(x)
    np.fill_diagonal(table, -1)
    return np.argsort(table, axis=1, kind="stable")


def flat_torus(n: int, m: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """``[n, 2m]``: uniform points on an m-dimensional torus without edge or curvature of its own."""
    angles = rng.random((n, m)) * 2 * np.pi
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
