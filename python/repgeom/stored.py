"""Stored activations as batches in which every layer has the same tokens.

Sources may be cut differently in every layer; they are cut again here, and at most one batch is in memory
beyond what the sources themselves hold.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from repgeom.checks import check_integer, refusal
from repgeom.shards import (
    Shard,
    Shards,
    annotation,
    check_width,
    find_shards,
    read_rows,
)


@dataclass(frozen=True, eq=False)
class StoredBatch:
    """The same m tokens in every layer; tensors are to be read only, and valid until the next batch.

    Attributes:
        rows: `[m, d]` by layer, in the dtype they are stored in.
        token_ids: int64 `[m]`, or None if none were given.
        sequence_ids: int64 `[m]`, -1 where unknown.
        positions: int64 `[m]`, place of the token in its sequence, -1 where unknown.
        labels: `[m]`, or None if none were given.
    """

    rows: dict[str, Tensor]
    token_ids: Tensor | None
    sequence_ids: Tensor
    positions: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.sequence_ids)


class StoredActivations:
    """Layers of activations from arrays and files.

    Args:
        sources: By layer, an array (NumPy, torch, DLPack) `[n, d]` or `[batch, seq, d]`; the path of an
            `.npy` or safetensors file (`file.safetensors:key` where it holds several tensors); a list of
            arrays or paths, in the order given; a folder or a glob, whose files are sorted with numbers as
            numbers; or an iterable of arrays of any lengths. Layers are named by their index, or by strings
            all of which end in it (`layer_03`, `resid_pre.3`), else are numbered in their order.
        mask: `[n]` or `[batch, seq]` of booleans or 0 and 1: rows with 0 (padding) are left out.
        token_ids: Integers, one per row, also for rows that the mask leaves out.
        sequence_ids: Integers, one per row; default: counted over the first axis of `[batch, seq, d]`.
        positions: Integers, one per row; default: the place along the second axis.
        labels: Numbers, one per row.

    Attributes:
        layers: Width by name of the layer.
        indices: Index by name of the layer.
        n_rows: Rows of every layer; None if only reading will tell.
        n_tokens: Those that the mask keeps; None if only reading will tell.
        files: Files by name of the layer, in the order they are read.

    Raises:
        ValueError: Layers with different numbers of rows, shards of different widths, anything but floats,
            files that are damaged, annotations of another length.
        FileNotFoundError: A file that is missing.
        TypeError: A source of another kind.
    """

    def __init__(
        self,
        sources: Mapping[Any, Any],
        *,
        mask: Any = None,
        token_ids: Any = None,
        sequence_ids: Any = None,
        positions: Any = None,
        labels: Any = None,
    ) -> None:
        names = _layer_names(sources)
        self.indices: dict[str, int] = dict(names.values())
        self._shards: dict[str, Shards] = {
            name: find_shards(sources[key], name) for key, (name, _) in names.items()
        }
        self.layers: dict[str, int] = {name: shards.first.width for name, shards in self._shards.items()}
        self.files: dict[str, tuple[str, ...]] = {
            name: tuple(shard.name for shard in shards.known or () if shard.on_disk)
            for name, shards in self._shards.items()
        }
        known = {name: shards.rows for name, shards in self._shards.items() if shards.rows is not None}
        if len(set(known.values())) > 1:
            raise _unequal({name: str(rows) for name, rows in known.items()})
        self.n_rows: int | None = next(iter(known.values()), None)
        if self.n_rows == 0:
            raise refusal("stored activations must have at least one row", "none")
        given = {
            "token_ids": token_ids,
            "sequence_ids": sequence_ids,
            "positions": positions,
            "labels": labels,
        }
        self._annotations: dict[str, tuple[Shard, ...]] = {
            name: _annotation(values, name, self.n_rows)
            for name, values in given.items()
            if values is not None
        }
        self._mask = None if mask is None else _flags(annotation(mask, "mask", self.n_rows))
        self._read = False

    @property
    def n_tokens(self) -> int | None:
        """Rows that count, if known."""
        return self.n_rows if self._mask is None or self.n_rows is None else int(self._mask.sum())

    def batches(self, batch_tokens: int = 4096) -> Iterator[StoredBatch]:
        """Batches of at most `batch_tokens` rows; none is empty.

        Raises:
            ValueError: Layers that end at different rows or contradict each other about their sequences, and
                what :class:`StoredActivations` refuses, where it shows only now.
            RuntimeError: An iterator that was read before.
        """
        check_integer("batch_tokens", batch_tokens, 1)
        single = [name for name, shards in self._shards.items() if not shards.reusable]
        if self._read and single:
            raise RuntimeError(
                f"{', '.join(single)}: an iterator can be read only once, and was; give a list, files, or an "
                "object whose __iter__ starts again"
            )
        self._read = True
        return self._batches(batch_tokens)

    def _batches(self, batch_tokens: int) -> Iterator[StoredBatch]:
        layers = {name: _Cursor(name, shards.stream()) for name, shards in self._shards.items()}
        notes = {name: _Cursor(name, iter(shards)) for name, shards in self._annotations.items()}
        done = 0
        while True:
            taken = {name: cursor.take(batch_tokens) for name, cursor in layers.items()}
            count = self._common_length(taken, layers, batch_tokens)
            noted = {
                name: cursor.take(batch_tokens if count == 0 else count).rows
                for name, cursor in notes.items()
            }
            for name, values in noted.items():
                _check_length(name, done + len(values), done + count, ended=count == 0)
            keep = None if self._mask is None else self._mask[done : done + max(count, 1)]
            if keep is not None:
                _check_length("mask", done + len(keep), done + count, ended=count == 0)
            if count == 0:
                break
            done += count
            batch = _batch(taken, noted, None if keep is None or bool(keep.all()) else keep)
            if len(batch):
                yield batch
        if done == 0:
            raise refusal("stored activations must have at least one row", "none")

    def _common_length(self, taken: dict[str, _Taken], layers: dict[str, _Cursor], batch_tokens: int) -> int:
        counts = {name: len(part.rows) for name, part in taken.items()}
        if len(set(counts.values())) > 1:
            found = {}
            for name, cursor in layers.items():
                total = self._shards[name].rows
                at_least = "at least " if total is None and counts[name] == batch_tokens else ""
                found[name] = f"{at_least}{cursor.done if total is None else total}"
            raise _unequal(found)
        return next(iter(counts.values()))


@dataclass(frozen=True)
class _Taken:
    """Rows of one layer, with the sequence and position of each, -1 where unknown."""

    rows: Tensor
    sequence_ids: Tensor
    positions: Tensor


class _Cursor:
    """Where the reading of one layer is."""

    def __init__(self, name: str, shards: Iterator[Shard]) -> None:
        self.done = 0
        self._name, self._shards = name, shards
        self._first: Shard | None = None
        self._shard: Shard | None = None
        self._opened: Any = None
        self._at = 0
        self._sequences = 0

    def take(self, count: int) -> _Taken:
        """The next `count` rows, fewer at the end."""
        parts: list[_Taken] = []
        missing = count
        while missing > 0 and (shard := self._current()) is not None:
            stop = min(shard.rows, self._at + missing)
            rows = read_rows(shard, self._opened, self._at, stop)
            missing -= stop - self._at
            # The next array of an iterable may lie in the same memory as this one.
            fleeting = missing > 0 and not shard.on_disk
            parts.append(self._placed(rows.clone() if fleeting else rows, shard, stop))
            self._at = stop
        self.done += count - missing
        if len(parts) == 1:
            return parts[0]
        empty = torch.empty(0, dtype=torch.int64)
        if not parts:
            return _Taken(empty, empty, empty)
        return _Taken(
            torch.cat([part.rows for part in parts]),
            torch.cat([part.sequence_ids for part in parts]),
            torch.cat([part.positions for part in parts]),
        )

    def _current(self) -> Shard | None:
        """The shard with the next row; None at the end."""
        while self._shard is None or self._at == self._shard.rows:
            if self._shard is not None and self._shard.sequence_length is not None:
                self._sequences += self._shard.shape[0]
            self._opened = self._shard = None
            shard = next(self._shards, None)
            if shard is None:
                return None
            self._first = self._first or shard
            check_width(shard, self._first, self._name)
            self._shard, self._at = shard, 0
            self._opened = shard.open() if shard.rows else None
        return self._shard

    def _placed(self, rows: Tensor, shard: Shard, stop: int) -> _Taken:
        length = shard.sequence_length
        if length is None:
            unknown = torch.full((len(rows),), -1)
            return _Taken(rows, unknown, unknown)
        flat = torch.arange(self._at, stop)
        return _Taken(rows, self._sequences + flat // length, flat % length)


def _batch(taken: dict[str, _Taken], noted: dict[str, Tensor], keep: Tensor | None) -> StoredBatch:
    sequence_ids, positions = _places(taken)
    ids = {name: values.long() for name, values in noted.items() if name != "labels"}
    columns = {"sequence_ids": sequence_ids, "positions": positions, **noted, **ids}
    rows = {name: part.rows for name, part in taken.items()}
    if keep is not None:
        columns = {name: values[keep] for name, values in columns.items()}
        rows = {name: values[keep] for name, values in rows.items()}
    return StoredBatch(
        rows,
        columns.get("token_ids"),
        columns["sequence_ids"],
        columns["positions"],
        columns.get("labels"),
    )


def _places(taken: dict[str, _Taken]) -> tuple[Tensor, Tensor]:
    """Sequence and position of every row, from all layers that know them; they must agree."""
    (name, first), *others = taken.items()
    sequence_ids, positions = first.sequence_ids, first.positions
    for other, part in others:
        both = (sequence_ids >= 0) & (part.sequence_ids >= 0)
        differ = both & ((sequence_ids != part.sequence_ids) | (positions != part.positions))
        if bool(differ.any()):
            at = int(differ.nonzero()[0])
            raise refusal(
                "layers must hold the same sequences",
                f"position {positions[at]} of sequence {sequence_ids[at]} in {name} where {other} has "
                f"position {part.positions[at]} of sequence {part.sequence_ids[at]}",
            )
        sequence_ids = torch.where(sequence_ids < 0, part.sequence_ids, sequence_ids)
        positions = torch.where(positions < 0, part.positions, positions)
    return sequence_ids, positions


def _unequal(rows: Mapping[str, str]) -> ValueError:
    listed = ", ".join(f"{name}: {count}" for name, count in rows.items())
    return refusal("layers must have the same number of rows", listed)


def _check_length(name: str, found: int, wanted: int, *, ended: bool) -> None:
    if found != wanted:
        rows, values = (str(wanted), f"at least {found}") if ended else (f"at least {wanted}", str(found))
        raise refusal(f"{name} must have one value per row, for {rows} rows", values)


def _annotation(values: Any, name: str, n_rows: int | None) -> tuple[Shard, ...]:
    """The shards `[n]` of an annotation; integers, unless they are labels."""
    is_list = isinstance(values, list) and values and all(isinstance(item, Shard) for item in values)
    shards = tuple(values) if is_list else (annotation(values, name, n_rows),)
    for shard in shards:
        if name != "labels" and (shard.dtype.is_floating_point or shard.dtype == torch.bool):
            raise refusal(f"{name} must be integers", str(shard.dtype).removeprefix("torch."))
    return shards


def _flags(shard: Shard) -> Tensor:
    """A mask `[n]` as booleans."""
    flags = read_rows(shard, shard.open(), 0, shard.rows)
    odd = flags[(flags != 0) & (flags != 1)]
    if odd.numel():
        raise refusal("mask must hold only booleans, or 0 and 1", odd[0].item())
    return flags != 0


def _layer_names(sources: Mapping[Any, Any]) -> dict[Any, tuple[str, int]]:
    """Name and index of every layer."""
    if not isinstance(sources, Mapping):
        raise TypeError(f"stored activations must be a mapping of layers, got {type(sources).__name__}")
    if not sources:
        raise refusal("stored activations must have at least one layer", "none")
    keys = list(sources)
    if all(isinstance(key, str) and key for key in keys):
        numbers = [re.search(r"[0-9]+$", str(key)) for key in keys]
        indices = [int(found[0]) for found in numbers if found]
        counted = indices if len(set(indices)) == len(keys) else range(len(keys))
        return {key: (str(key), index) for key, index in zip(keys, counted, strict=True)}
    if any(isinstance(key, (str, bool)) or not hasattr(key, "__index__") or key < 0 for key in keys):
        raise refusal("layers must be named by numbers of at least 0, or all by strings", keys)
    return {key: (f"layer_{operator.index(key):02d}", operator.index(key)) for key in keys}
