"""Samples of two representations in one order: by their place, or by their ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from repgeom.checks import FloatArray, as_float64, refusal
from repgeom.estimates import IntArray
from repgeom.layer_pairs import named_layers

Rows: TypeAlias = "FloatArray | NDArray[np.float32]"


@dataclasses.dataclass(frozen=True)
class Matched:
    """Layers whose row i is the same sample everywhere.

    Attributes:
        a: Rows ``[n, d]`` by name.
        b: The same of the other side; ``a`` itself within one model.
        n: Samples.
        within: Whether both sides are one model.
        single: Whether two arrays were given, and one number is wanted.
    """

    a: dict[Hashable, Rows]
    b: dict[Hashable, Rows]
    n: int
    within: bool
    single: bool


def matched(a: Any, b: Any, ids_a: Any, ids_b: Any, *, least: int, what: str) -> Matched:
    """Checked rows of both sides in one order.

    Raises:
        ValueError: Not ``[n, d]``, no layers, NaN or infinity, different n, ids that do not name the same
            samples, fewer than ``least`` samples.
    """
    layers_a, layers_b = named_layers(a), named_layers(b)
    if b is None:
        if layers_a is None:
            raise refusal("b may be left out when a is a dict or list of layers", type(a).__name__)
        if ids_a is not None or ids_b is not None:
            raise refusal("ids match the samples of two sides", "ids without b")
    left = _rows_by_name(layers_a if layers_a is not None else {"a": a})
    right = left if b is None else _rows_by_name(layers_b if layers_b is not None else {"b": b})
    n, n_b = (len(next(iter(side.values()))) for side in (left, right))
    order = common_order(ids_a, ids_b, n, n_b)
    if order is not None:
        right = {name: rows[order] for name, rows in right.items()}
    if n < least:
        raise refusal(f"{what} needs at least {least} samples", n)
    return Matched(left, right, n, b is None, layers_a is None and layers_b is None)


def common_order(ids_a: Any, ids_b: Any, n_a: int, n_b: int) -> IntArray | None:
    """``[n]``: for each sample of a the row of b with the same id; None where no ids are given.

    Raises:
        ValueError: Ids of one side only, of a wrong length, that repeat, or that name other samples; without
            ids, different n.
    """
    if ids_a is None and ids_b is None:
        if n_a != n_b:
            raise refusal("a and b must hold the same samples", f"n = {n_a} and {n_b}")
        return None
    if ids_a is None or ids_b is None:
        raise refusal("ids must be given for both sides", f"none for {'a' if ids_a is None else 'b'}")
    left, right = _ids("ids_a", ids_a, n_a), _ids("ids_b", ids_b, n_b)
    shared = int(np.isin(left, right).sum())
    if shared < n_a or shared < n_b:
        counts = f"{n_a - shared} only in a, {n_b - shared} only in b, {shared} in both"
        raise refusal("ids_a and ids_b must name the same samples", counts)
    order = np.empty(n_a, np.int64)
    order[np.argsort(left, kind="stable")] = np.argsort(right, kind="stable")
    return order


def rows_of(x: Any, name: str) -> Rows:
    """``x`` as finite rows ``[n, d]``: float32 for float32 and 16-bit data, otherwise float64.

    Raises:
        ValueError: Another shape, no numbers, NaN or infinity.
    """
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = (x.double() if x.element_size() > 4 or not x.is_floating_point() else x.float()).numpy()
    array = np.asarray(x)
    if array.dtype not in (np.float32, np.float16) or array.ndim != 2:
        return as_float64(array, name, 2)
    array = np.ascontiguousarray(array, np.float32)
    # The sum of finite float32 numbers is finite in float64.
    with np.errstate(invalid="ignore"):
        total = array.sum(dtype=np.float64)
    return array if np.isfinite(total) else as_float64(array, name, 2)


def _rows_by_name(layers: dict[Hashable, Any]) -> dict[Hashable, Rows]:
    if not layers:
        raise refusal("a comparison needs at least one layer", "none")
    rows = {name: rows_of(x, _called(name)) for name, x in layers.items()}
    counts = {name: len(x) for name, x in rows.items()}
    if len(set(counts.values())) > 1:
        raise refusal("layers must hold the same samples", f"n = {counts}")
    return rows


def _called(name: Hashable) -> str:
    return str(name) if isinstance(name, str) else f"layer {name}"


def check_labels(name: str, values: NDArray[Any]) -> None:
    """Refuse labels that cannot be told apart or sorted."""
    if values.dtype.kind == "O":
        raise refusal(f"{name} must be numbers or strings", f"dtype {values.dtype}")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise refusal(f"{name} must not be NaN", f"{int(np.isnan(values).sum())} of them")


def _ids(name: str, ids: Any, n: int) -> NDArray[Any]:
    values = np.asarray(ids.detach().cpu() if hasattr(ids, "detach") else ids)
    if values.shape != (n,):
        raise refusal(f"{name} must name each of the {n} samples", f"shape {values.shape}")
    check_labels(name, values)
    repeated = n - len(np.unique(values))
    if repeated:
        raise refusal(f"{name} must not repeat", f"{repeated} repeated ids among {n}")
    return values
