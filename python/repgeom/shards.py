"""Arrays where they lie: in memory, in `.npy` and safetensors files. Read in runs of rows, never whole."""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils import dlpack

from repgeom.arrays import is_torch
from repgeom.checks import refusal

FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SUFFIXES: Final = (".npy", ".safetensors")
_SAFETENSORS_DTYPES: Final = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "BOOL": torch.bool,
}


@dataclass(frozen=True, eq=False)
class Shard:
    """One array or file of rows.

    Attributes:
        name: Its path, or what messages call it.
        shape: `[n]`, `[n, d]`, or `[sequences, length, d]`.
        dtype: How the numbers are stored.
        open: Gives the array or a lazy view of it: anything that slices along its first two axes.
        on_disk: Whether it is a file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    open: Callable[[], Any]
    on_disk: bool = False

    @property
    def rows(self) -> int:
        """Rows of one vector (of one number for `[n]`)."""
        return self.shape[0] if len(self.shape) < 3 else self.shape[0] * self.shape[1]

    @property
    def width(self) -> int:
        """Numbers per row."""
        return 1 if len(self.shape) == 1 else self.shape[-1]

    @property
    def sequence_length(self) -> int | None:
        """Rows per sequence; None for arrays without sequences."""
        return self.shape[1] if len(self.shape) == 3 else None


def read_rows(shard: Shard, opened: Any, start: int, stop: int) -> Tensor:
    """Rows `start:stop` of a shard that was opened, `[stop - start, d]`; a view where memory allows."""
    pieces = [_as_tensor(piece) for piece in _cuts(shard, opened, start, stop)]
    rows = [piece.reshape(-1, *shard.shape[2:]) if len(shard.shape) == 3 else piece for piece in pieces]
    if sum(map(len, rows)) != stop - start:
        raise ValueError(
            f"{shard.name} must keep its shape {list(shard.shape)} while it is read, and did not"
        )
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def _cuts(shard: Shard, opened: Any, start: int, stop: int) -> Iterator[Any]:
    """The same rows as slices of the array: the end of a sequence, whole sequences, the start of one."""
    length = shard.sequence_length
    if length is None:
        yield opened[start:stop]
        return
    while start < stop:
        sequence, at = divmod(start, length)
        whole = (stop - start) // length if at == 0 else 0
        if whole:
            yield opened[sequence : sequence + whole]
            start += whole * length
        else:
            end = min(length, at + stop - start)
            yield opened[sequence : sequence + 1, at:end]
            start += end - at


def _as_tensor(piece: Any) -> Tensor:
    if isinstance(piece, np.ndarray):
        native = piece.astype(piece.dtype.newbyteorder("="), copy=False)
        # torch has neither read-only tensors nor backward or unaligned strides.
        odd = any(stride < 0 or stride % native.itemsize for stride in native.strides)
        return torch.from_numpy(native if native.flags.writeable and not odd else native.copy())
    tensor: Tensor = piece
    return tensor.detach().cpu().resolve_neg()


def array_shard(array: Any, name: str) -> Shard:
    """The shard of an array in memory: NumPy, torch, or anything with `__dlpack__`.

    Raises:
        TypeError: Not an array, or a masked one.
    """
    if not is_torch(array) and not isinstance(array, np.ndarray):
        if not hasattr(array, "__dlpack__"):
            kind = type(array).__name__
            raise TypeError(f"{name}: activations must be arrays (NumPy, torch, DLPack) or paths, got {kind}")
        array = dlpack.from_dlpack(array)
    if is_torch(array):
        if array.layout != torch.strided:
            raise refusal(f"{name}: tensors must be dense", array.layout)
        return Shard(name, tuple(array.shape), array.dtype, lambda: array)
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name}: arrays must not be masked, got a MaskedArray; pass its .data, and a mask")
    return Shard(name, array.shape, _numpy_dtype(array, name), lambda: array)


def _numpy_dtype(array: np.ndarray[Any, Any], name: str) -> torch.dtype:
    try:
        return torch.from_numpy(np.empty(0, array.dtype.newbyteorder("="))).dtype
    except TypeError:
        raise refusal(f"{name}: arrays must hold numbers that torch has", f"dtype {array.dtype}") from None


def file_shard(path: str | os.PathLike[str]) -> Shard:
    """The shard of an `.npy` file, or of a tensor of a safetensors file (`file.safetensors:key`).

    Raises:
        FileNotFoundError: No such file.
        ValueError: A file of another kind, one that is damaged or incomplete, or an ambiguous or unknown key.
    """
    file, key = split_key(os.fspath(path))
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no file {file!r}")
    if file.endswith(".safetensors"):
        return tensor_shard(file, key)
    if not file.endswith(".npy"):
        raise refusal(f"files of activations must end in {' or '.join(SUFFIXES)}", repr(file))

    def load() -> Any:
        try:
            return np.load(file, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{file} must be a complete .npy file of numbers: {error}") from error

    array = load()
    return Shard(file, array.shape, _numpy_dtype(array, file), load, on_disk=True)


def tensor_shard(file: str, key: str | None) -> Shard:
    """The shard of one tensor of a safetensors file; without a key the file must hold one."""
    keys = tensor_shapes(file)
    if key is None:
        if len(keys) != 1:
            raise refusal(f"{file}: name one of its tensors as {file}:<key>", f"{len(keys)}: {_listed(keys)}")
        key = next(iter(keys))
    if key not in keys:
        raise refusal(f"{file} must hold the tensor {key!r}", _listed(keys))
    dtype = _SAFETENSORS_DTYPES.get(keys[key][1])
    if dtype is None:
        raise refusal(f"{file}:{key} must hold floats or integers", f"dtype {keys[key][1]}")
    return Shard(f"{file}:{key}", keys[key][0], dtype, lambda: _opened(file).get_slice(key), on_disk=True)


def tensor_shapes(file: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and name of the dtype of every tensor of a safetensors file, from its header."""
    opened = _opened(file)
    slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118 (not a mapping)
    return {key: (tuple(part.get_shape()), str(part.get_dtype())) for key, part in slices.items()}


def _opened(file: str) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} must be a complete safetensors file: {error}") from error


def _listed(keys: Iterable[str]) -> str:
    names = sorted(keys)
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "none"


def split_key(path: str) -> tuple[str, str | None]:
    """`("x.safetensors", "key")` of `x.safetensors:key`; no key for other paths."""
    found = re.fullmatch(r"(.*\.safetensors):(.+)", path, re.DOTALL)
    return (path, None) if found is None or Path(path).exists() else (found[1], found[2])


def find_files(path: str | os.PathLike[str]) -> list[str]:
    """The files of a path: itself, those of a folder, or those that match a glob; numbers sort as numbers.

    Raises:
        FileNotFoundError: Nothing there.
        ValueError: A folder with both kinds of files.
    """
    file, key = split_key(os.fspath(path))
    if Path(file).is_dir():
        found = [os.fspath(entry) for entry in Path(file).iterdir() if entry.suffix in SUFFIXES]
        kinds = {Path(name).suffix for name in found}
        if len(kinds) > 1:
            raise refusal(f"the shards of folder {file!r} must be of one kind", " and ".join(sorted(kinds)))
        rule = f"no {' or '.join(SUFFIXES)} files in folder {file!r}"
    elif glob.has_magic(file) and not Path(file).exists():
        found, rule = glob.glob(file, recursive=True), f"no file matches {file!r}"
    else:
        found, rule = [file], ""
    if not found:
        raise FileNotFoundError(rule)
    return [name if key is None else f"{name}:{key}" for name in sorted(found, key=natural_key)]


def natural_key(path: str) -> list[Any]:
    """Sort key under which `part-10` comes after `part-9`; equal keys only for equal paths."""
    parts = re.split(r"([0-9]+)", path)
    return [[int(part) if place % 2 else part for place, part in enumerate(parts)], path]


@dataclass(frozen=True)
class Shards:
    """The rows of one layer, shard after shard.

    Attributes:
        known: All shards, or None when they come from an iterable.
        reusable: Whether :meth:`stream` can be called again.
        first: The first shard.
    """

    known: tuple[Shard, ...] | None
    reusable: bool
    first: Shard
    _stream: Callable[[], Iterator[Shard]]

    @property
    def rows(self) -> int | None:
        """Number of rows, if known."""
        return None if self.known is None else sum(shard.rows for shard in self.known)

    def stream(self) -> Iterator[Shard]:
        """The shards in order."""
        return self._stream()


def find_shards(source: Any, name: str) -> Shards:
    """The shards of an array, a path, a folder, a glob, a list of arrays or paths, or an iterable of them.

    Raises:
        ValueError: No shard, one of the wrong shape or dtype, or widths that differ.
        TypeError: Something else.
    """
    if isinstance(source, (str, os.PathLike)):
        source = find_files(source)
    elif isinstance(source, (Mapping, bytes)):
        raise TypeError(
            f"{name}: a source must be an array, paths or an iterable, got {type(source).__name__}"
        )
    elif not isinstance(source, (list, tuple)) and (
        isinstance(source, (np.ndarray, Shard)) or is_torch(source) or hasattr(source, "__dlpack__")
    ):
        source = [source]
    if isinstance(source, (list, tuple)):
        known = tuple(
            _checked(item, f"{name}[{i}]" if len(source) > 1 else name) for i, item in enumerate(source)
        )
        if not known:
            raise refusal(f"{name}: a source must hold at least one array", "none")
        for shard in known:
            check_width(shard, known[0], name)
        return Shards(known, True, known[0], lambda: iter(known))
    if not isinstance(source, Iterable):
        raise TypeError(
            f"{name}: a source must be an array, paths or an iterable, got {type(source).__name__}"
        )
    return _from_iterable(source, name)


def _from_iterable(source: Iterable[Any], name: str) -> Shards:
    waiting = iter(source)
    first = next(waiting, None)
    if first is None:
        raise refusal(f"{name}: a source must hold at least one array", "none")
    shard = _checked(first, f"{name}[0]")

    def rest(items: Iterator[Any], start: int) -> Iterator[Shard]:
        return (_checked(item, f"{name}[{i}]") for i, item in enumerate(items, start))

    if waiting is not source:
        return Shards(None, True, shard, lambda: rest(iter(source), 0))

    def once() -> Iterator[Shard]:
        yield shard
        yield from rest(waiting, 1)

    return Shards(None, False, shard, once)


def _checked(item: Any, name: str) -> Shard:
    """A shard of activations: floats, with two or three axes."""
    if isinstance(item, Shard):
        shard = item
    elif isinstance(item, (str, os.PathLike)):
        shard = file_shard(item)
    else:
        shard = array_shard(item, name)
    if shard.dtype not in FLOATS:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATS)
        raise refusal(f"{shard.name}: activations must be {allowed}", str(shard.dtype).removeprefix("torch."))
    if len(shard.shape) not in (2, 3) or shard.shape[-1] == 0:
        raise refusal(
            f"{shard.name}: activations must be [n, d] or [batch, seq, d]", f"shape {list(shard.shape)}"
        )
    return shard


def check_width(shard: Shard, first: Shard, name: str) -> None:
    """Refuse a shard whose rows are wider or narrower than those before."""
    if shard.width != first.width:
        raise refusal(
            f"{name}: all shards must have the same width",
            f"{first.width} in {first.name} and {shard.width} in {shard.name}",
        )


def annotation(values: Any, name: str, n_rows: int | None) -> Shard:
    """One number per row, given as `[n]` or `[batch, seq]`, as a shard `[n]`."""
    if isinstance(values, Sequence):
        values = np.asarray(values)
    array = array_shard(values, name)
    opened = array.open()
    if len(array.shape) not in (1, 2) or (n_rows is not None and math.prod(array.shape) != n_rows):
        wanted = "one value per row" if n_rows is None else f"{n_rows} values, one per row"
        raise refusal(f"{name} must have {wanted}", f"shape {list(array.shape)}")
    flat = opened.reshape(-1)
    return Shard(name, tuple(flat.shape), array.dtype, lambda: flat)
