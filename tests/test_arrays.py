"""The border: what is read in place, what is refused, and that nothing is copied or kept."""

from __future__ import annotations

import ctypes
import gc
import sys
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import repgeom as rg
from repgeom.arrays import is_torch, kernel_input, weights_input

ROWS = np.random.default_rng(0).normal(size=(30, 5))


class Exporter:
    """An array of which nothing is known but DLPack, as from JAX."""

    def __init__(self, array: Any, device: tuple[int, int] = (1, 0)) -> None:
        self._array = array
        self._device = device

    def __dlpack__(self) -> Any:
        return self._array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device


def state_of(*batches: Any) -> dict[str, Any]:
    statistic = rg.Covariance(5)
    for batch in batches:
        statistic.update(batch)
    return statistic.state_dict()


def assert_same_state(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        np.testing.assert_array_equal(value, b[key], err_msg=key)


SOURCES: dict[str, Callable[[], Any]] = {
    "numpy float64": ROWS.copy,
    "numpy float32": lambda: ROWS.astype(np.float32),
    "numpy float16": lambda: ROWS.astype(np.float16),
    "torch float64": lambda: torch.from_numpy(ROWS.copy()),
    "torch float32": lambda: torch.from_numpy(ROWS.copy()).float(),
    "torch float16": lambda: torch.from_numpy(ROWS.copy()).half(),
    "torch bfloat16": lambda: torch.from_numpy(ROWS.copy()).bfloat16(),
}


@pytest.mark.parametrize("source", SOURCES)
def test_dlpack_alone_is_enough(source: str):
    array = SOURCES[source]()
    assert_same_state(state_of(Exporter(array)), state_of(array))
    assert_same_state(state_of(Exporter(array, device=(3, 0))), state_of(array))


@pytest.mark.parametrize("source", SOURCES)
def test_views_are_read_where_they_lie(source: str):
    array = SOURCES[source]()
    wide = (
        np.concatenate([array, array], axis=1) if isinstance(array, np.ndarray) else torch.cat([array] * 2, 1)
    )
    part = wide[3:20, 5:]
    assert_same_state(state_of(part), state_of(array[3:20]))
    assert_same_state(state_of(Exporter(part)), state_of(array[3:20]))
    assert_same_state(state_of(array[::3]), state_of(array[::3] + 0))


# --- a hand-made DLPack tensor: byte offset, no strides


class DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


class HandMade:
    """A row-major float64 array behind an offset of some rows, exported field by field."""

    def __init__(
        self, array: np.ndarray, skip: int, capsule_name: bytes = b"dltensor", **fields: int
    ) -> None:
        self._array, self._name = array, capsule_name
        self._shape = (ctypes.c_int64 * 2)(len(array) - skip, array.shape[1])
        plain = {"device_type": 1, "ndim": 2, "code": 2, "bits": 64, "lanes": 1}
        offset = skip * array.strides[0]
        self._tensor = DLTensor(
            data=array.ctypes.data, shape=self._shape, byte_offset=offset, **{**plain, **fields}
        )

    def __dlpack__(self) -> Any:
        make = ctypes.pythonapi.PyCapsule_New
        make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return make(ctypes.addressof(self._tensor), self._name, None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def test_offsets_and_missing_strides_are_understood():
    assert_same_state(state_of(HandMade(ROWS, skip=4)), state_of(ROWS[4:]))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"lanes": 4}, "got DLPack type code 2 of 64 bits"),
        ({"code": 5}, "got DLPack type code 5 of 64 bits"),
        ({"bits": 8}, "got DLPack type code 2 of 8 bits"),
        ({"code": 4, "bits": 32}, "got DLPack type code 4 of 32 bits"),
    ],
)
def test_other_dlpack_types_are_refused(fields: dict[str, int], text: str):
    with pytest.raises(TypeError) as caught:
        rg.Covariance(5).update(HandMade(ROWS, skip=0, **fields))
    assert str(caught.value) == f"x must be float64, float32, float16 or bfloat16, {text}"


@pytest.mark.parametrize("name", [b"used_dltensor", b"dltensor_versioned", b"something"])
def test_other_capsules_are_refused(name: bytes):
    statistic = rg.Covariance(5)
    with pytest.raises(ValueError, match="PyCapsule"):
        statistic.update(HandMade(ROWS, skip=0, capsule_name=name))
    assert statistic.count == 0


# --- refusals


def test_other_devices_are_refused():
    statistic = rg.Covariance(5)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        statistic.update(Exporter(ROWS, device=(2, 0)))
    assert str(caught.value) == "x must be in host memory (DLPack device type 1 or 3), got 2"
    meta = torch.ones((4, 5), device="meta")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        statistic.update(meta)
    expected = "arrays must be in host memory, got a tensor on meta; move it with .cpu()"
    assert str(caught.value) == expected
    assert statistic.count == 0


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2"])
def test_foreign_byte_order_is_refused(dtype: str):
    foreign = (">" if sys.byteorder == "little" else "<") + dtype
    with pytest.raises(TypeError) as caught:
        rg.Covariance(5).update(ROWS.astype(foreign))
    rule = "x must be float64, float32, float16 or bfloat16 in native byte order"
    assert str(caught.value) == f"{rule}, got {foreign}"


@pytest.mark.parametrize("thing", [[[1.0] * 5], (1.0, 2.0), 3.0, "text", None, memoryview(b"abc")])
def test_things_that_are_no_arrays_are_refused(thing: object):
    with pytest.raises(TypeError) as caught:
        rg.Covariance(5).update(thing)
    rule = "x must be a NumPy array, a torch tensor or another array with __dlpack__"
    assert str(caught.value) == f"{rule}, got {type(thing).__name__}"


def test_masked_arrays_do_not_lose_their_mask_in_silence():
    masked = np.ma.masked_array(ROWS, mask=np.abs(ROWS) > 1)
    statistic = rg.Covariance(5)
    with pytest.raises(TypeError):
        statistic.update(masked)
    assert statistic.count == 0


# --- torch


def test_tensors_that_require_gradients_are_read():
    tensor = torch.from_numpy(ROWS.copy()).requires_grad_()
    assert_same_state(state_of(tensor), state_of(ROWS))
    assert_same_state(state_of(tensor * 1), state_of(ROWS))
    assert tensor.requires_grad
    assert tensor.grad is None


def test_tensors_with_a_pending_negation_are_read_right():
    pending = torch._neg_view(torch.from_numpy(-ROWS))  # such as z.conj().imag has
    assert torch.equal(pending, torch.from_numpy(ROWS))
    assert_same_state(state_of(pending), state_of(ROWS))


def test_weights_may_be_anything_like_a_vector():
    expected = rg.Covariance(5).update(ROWS, np.arange(30.0)).state_dict()
    tensor = torch.arange(30, dtype=torch.float32, requires_grad=True)
    for weights in (list(range(30)), np.arange(30, dtype=np.int8), tensor, np.arange(60.0)[::2] / 2):
        assert_same_state(rg.Covariance(5).update(ROWS, weights).state_dict(), expected)


def test_only_tensors_are_tensors():
    assert is_torch(torch.ones(1))
    assert is_torch(torch.nn.Parameter(torch.ones(1)))
    assert not is_torch(np.ones(1))
    assert not is_torch(Exporter(ROWS))


# --- no copies


def test_the_kernel_reads_the_same_memory():
    array, tensor = ROWS.copy(), torch.ones((4, 5), requires_grad=True)
    assert kernel_input(array) is array
    assert kernel_input(tensor).data_ptr() == tensor.data_ptr()
    assert not kernel_input(tensor).requires_grad
    weights = np.ones(7)
    assert weights_input(weights) is weights
    assert weights_input(None) is None


@pytest.mark.parametrize("wrap", [lambda x: x, Exporter, lambda x: x[:, :-1]])
def test_the_data_are_not_copied(wrap: Callable[[Any], Any]):
    x = np.ones((200_000, 5), np.float32)
    array = wrap(x)
    statistic = rg.Covariance(4 if isinstance(array, np.ndarray) and array.shape[1] == 4 else 5)
    tracemalloc.start()
    try:
        statistic.update(array)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes / 20


# --- nothing is kept


@pytest.mark.parametrize("wrap", [lambda x: x, torch.from_numpy, Exporter])
@pytest.mark.parametrize("width", [5, 6])
def test_arrays_are_let_go_after_the_call(wrap: Callable[[Any], Any], width: int):
    """Width 6 is refused: an error must let go too."""
    array = np.ones((8, 5))
    references = sys.getrefcount(array)
    wrapped = wrap(array)
    held = weakref.ref(array)
    statistic = rg.Covariance(width)
    for _ in range(100):
        if width == 5:
            statistic.update(wrapped)
        else:
            with pytest.raises(ValueError, match="x must have 6 columns, got 5"):
                statistic.update(wrapped)
    del wrapped
    gc.collect()
    assert sys.getrefcount(array) == references
    del array
    gc.collect()
    assert held() is None


def test_states_and_results_outlive_the_statistic():
    statistic = rg.Covariance(5).update(ROWS)
    state, covariance, mean = statistic.state_dict(), statistic.covariance(), statistic.mean
    kept = {key: np.copy(value) for key, value in state.items()}, covariance.copy(), mean.copy()
    del statistic
    gc.collect()
    _ = [np.full((5, 5), 9.0) for _ in range(100)]
    assert_same_state(state, kept[0])
    assert np.array_equal(covariance, kept[1])
    assert np.array_equal(mean, kept[2])
