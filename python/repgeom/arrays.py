"""The only place where layout, dtype and copies are decided.

Kernels read arrays where they lie: NumPy arrays, torch tensors and anything else with ``__dlpack__``, in
float64, float32, float16 or bfloat16. Nothing is converted, moved between devices or copied behind the
caller's back.
"""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Float64Array: TypeAlias = npt.NDArray[np.float64]

Array: TypeAlias = Any
"""A NumPy array, a torch tensor, or another array with ``__dlpack__``."""


def is_torch(array: object) -> bool:
    """Whether ``array`` is a torch tensor; does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def kernel_input(array: Array) -> Array:
    """The array as the native core can read it: the same memory, detached from autograd.

    Raises:
        ValueError: A torch tensor that is sparse or outside host memory.
        TypeError: A masked array.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError("arrays must not be masked: pass .data and the mask as weights, got a MaskedArray")
    if not is_torch(array):
        return array
    if array.device.type != "cpu":
        raise ValueError(
            f"arrays must be in host memory, got a tensor on {array.device}; move it with .cpu()"
        )
    if str(array.layout) != "torch.strided":
        raise ValueError(f"tensors must be dense, got {array.layout}; use .to_dense()")
    # A pending negation or conjugation is only a flag on the same memory.
    return array.detach().resolve_conj().resolve_neg()


def weights_input(weights: Array | None) -> Float64Array | None:
    """Weights as float64 (a small vector; booleans and integers are welcome here)."""
    if weights is None:
        return None
    if is_torch(weights):
        weights = kernel_input(weights).double().numpy()
    return np.ascontiguousarray(weights, dtype=np.float64)
