"""The estimators as modules that read and write keys of a mapping: a TensorDict, or a plain (nested) dict.

They take data ``[..., n, d]``, keep the leading axes, and follow the names of tdhook. What is written is
float64, on the device of the data; neighbours are searched for on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from repgeom.checks import FloatArray, check_integer, refusal
from repgeom.information_imbalance import information_imbalance
from repgeom.local_dimension import auto_k, local_dimension
from repgeom.neighborhoods import Search, neighborhoods
from repgeom.two_nn import check_method, estimate_of, points_of

Key: TypeAlias = str | tuple[str, ...]


class KeyModule(nn.Module):
    """Reads ``in_keys`` from a mapping, writes ``out_keys`` into it, returns it; a tuple is a nested key."""

    def __init__(self, in_keys: Sequence[Key], out_keys: Sequence[Key]) -> None:
        super().__init__()
        self.in_keys = list(in_keys)
        self.out_keys = list(out_keys)

    def forward(self, tensordict: Any) -> Any:
        """The same mapping with the results added.

        Raises:
            ValueError: A key that is missing, data with fewer than 2 axes, and what the estimator refuses.
        """
        inputs = [_read(tensordict, key) for key in self.in_keys]
        for key, result in zip(self.out_keys, self.measure(*inputs), strict=True):
            _write(tensordict, key, result)
        return tensordict

    def measure(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The results for ``out_keys``."""
        raise NotImplementedError


class TwoNnDimensionEstimator(KeyModule):
    """`two_nn` of ``[..., n, d]`` as ``[...]``; NaN where it has no value.

    With ``return_xy`` also the points of the fit, ``<out_key>_x`` and ``<out_key>_y`` ``[..., n - 1]``,
    filled up with NaN. ``discard=0`` gives the numbers of tdhook where no points coincide.
    """

    def __init__(
        self,
        in_key: Key = "data",
        out_key: Key = "dimension",
        return_xy: bool = False,
        *,
        method: str = "fit",
        discard: float = 0.1,
        duplicates: str = "drop",
    ) -> None:
        check_method(method, discard)
        added = [_suffixed(out_key, "_x"), _suffixed(out_key, "_y")] if return_xy else []
        super().__init__([in_key], [out_key, *added])
        self.return_xy = return_xy
        self.method = method
        self.discard = discard
        self.search = Search(duplicates)

    def measure(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Dimension, and the points of the fit."""
        (data,) = inputs
        n = data.shape[-2]

        def measure(rows: Tensor) -> FloatArray:
            hood = neighborhoods(rows, 2, self.search)
            found = np.full((2, n), np.nan)
            for line, points in zip(found, points_of(hood, self.discard), strict=True):
                line[1 : 1 + len(points)] = points
            found[:, 0] = estimate_of(hood, self.method, self.discard, self.search).value
            return found

        found = _per_cell(measure, (2, n), data)
        value, points = found[..., 0, 0], found[..., 1:]
        return (value, points[..., 0, :], points[..., 1, :]) if self.return_xy else (value,)


class LocalKnnDimensionEstimator(KeyModule):
    """`local_dimension` of ``[..., n, d]`` as ``[..., n]``; NaN where distances are zero or equal."""

    def __init__(
        self,
        k: int | str = "auto",
        in_key: Key = "data",
        out_key: Key = "dimension",
    ) -> None:
        if k != "auto":
            check_integer("k", k, 2)
        super().__init__([in_key], [out_key])
        self.k = k

    def measure(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The dimension around each point."""
        (data,) = inputs
        n = data.shape[-2]
        k = auto_k(n) if self.k == "auto" else self.k
        return (_per_cell(lambda rows: local_dimension(rows, k=k).values, (n,), data),)


class InformationImbalanceEstimator(KeyModule):
    """`information_imbalance` of ``[..., n, d_a]`` and ``[..., n, d_b]``, both directions as ``[...]``."""

    def __init__(
        self,
        in_key_a: Key = "data_a",
        in_key_b: Key = "data_b",
        out_key_a_to_b: Key = "information_imbalance_a_to_b",
        out_key_b_to_a: Key = "information_imbalance_b_to_a",
        p: float = 2.0,
        *,
        k: int = 1,
    ) -> None:
        check_integer("k", k, 1)
        super().__init__([in_key_a, in_key_b], [out_key_a_to_b, out_key_b_to_a])
        self.p = p
        self.k = k

    def measure(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Both directions."""
        a, b = inputs
        if a.shape[:-1] != b.shape[:-1]:
            raise refusal(
                "both data sets must have one batch shape and n", f"{tuple(a.shape)}, {tuple(b.shape)}"
            )

        def measure(left: Tensor, right: Tensor) -> Any:
            found = information_imbalance(left, right, self.k, metric="minkowski", p=self.p)
            return np.array([found.a_to_b, found.b_to_a])

        both = _per_cell(measure, (2,), a, b)
        return both[..., 0], both[..., 1]


def _per_cell(measure: Callable[..., Any], shape: tuple[int, ...], *stacks: Tensor) -> Tensor:
    """``measure`` of ``[n, d]`` matrices at every leading index, as one tensor ``[..., *shape]``."""
    first = stacks[0]
    batch = tuple(first.shape[:-2])
    held = [stack.detach().cpu().contiguous() for stack in stacks]
    out = np.empty((*batch, *shape))
    for index in np.ndindex(*batch):
        out[index] = measure(*(stack[index] for stack in held))
    return torch.from_numpy(out).to(first.device)


def _suffixed(key: Key, suffix: str) -> Key:
    return key + suffix if isinstance(key, str) else (*key[:-1], key[-1] + suffix)


def _read(mapping: Any, key: Key) -> Tensor:
    found = mapping
    try:
        for part in _path(mapping, key):
            found = found[part]
    except KeyError:
        raise refusal(f"key {key!r} must be in the mapping", f"keys {list(mapping.keys())}") from None
    if not isinstance(found, Tensor):
        raise refusal(f"key {key!r} must hold a tensor", type(found).__name__)
    if found.ndim < 2:
        raise refusal(
            f"key {key!r} must hold data with at least 2 axes [..., n, d]", f"shape {tuple(found.shape)}"
        )
    return found


def _write(mapping: Any, key: Key, value: Tensor) -> None:
    *outer, last = _path(mapping, key)
    for part in outer:
        mapping = mapping.setdefault(part, {})
    mapping[last] = value


def _path(mapping: Any, key: Key) -> list[Any]:
    """A TensorDict takes a nested key whole, a dict part by part."""
    return list(key) if isinstance(mapping, dict) and isinstance(key, tuple) else [key]
