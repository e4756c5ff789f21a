"""A seeded sample of tokens, the same ones in every layer.

A token gets 64 random bits from the seed and its place in the data alone, and the sample is the tokens with
the smallest bits: a uniform sample without replacement that does not depend on how the data are cut into
batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from repgeom import _core

IntArray = npt.NDArray[np.int64]
BitArray = npt.NDArray[np.uint64]


def place_bits(seed: int, sequence_ids: IntArray, positions: IntArray) -> BitArray:
    """The random bits of tokens that are known by sequence and position, uint64 ``[n]``.

    They do not depend on the order in which sequences come, nor on which other tokens count.
    """
    bits = np.empty(len(positions), np.uint64)
    jumps = (np.diff(sequence_ids) != 0) | (np.diff(positions) != 1)
    starts = np.flatnonzero(np.concatenate([[True], jumps])) if len(positions) else np.empty(0, np.int64)
    for start, end in zip(starts, np.append(starts, len(positions))[1:], strict=True):
        # Counter 0 of every stream is kept for the sequence itself.
        first = 1 + int(positions[start])
        bits[start:end] = _core.random_bits(seed, 1 + int(sequence_ids[start]), first, int(end - start))
    return bits


def stream_bits(seed: int, start: int, count: int) -> BitArray:
    """The random bits of tokens that are known by their number in the stream, uint64 ``[count]``."""
    return _core.random_bits(seed, 0, start, count)


def sequence_bits(seed: int, sequence_ids: IntArray) -> BitArray:
    """The random bits of sequences, uint64 ``[n]``."""
    return np.array([_core.random_bits(seed, 1 + int(i), 0, 1)[0] for i in sequence_ids], np.uint64)


@dataclass(frozen=True)
class Draw:
    """What enters the sample with one batch: row ``rows[i]`` of the batch's tokens goes to place
    ``slots[i]``."""

    rows: IntArray
    slots: IntArray


class TokenSample:
    """Which tokens are in the sample, and at which place of every layer's buffer.

    Args:
        limit: Tokens in the sample at most.
        seed: Seed of the choice.
        first: Take the first tokens of the stream instead of random ones (what representation-geometry does).

    Attributes:
        seen: Tokens of the stream so far.
        index: int64 ``[filled]``, the position in the stream of the token at each place.
    """

    def __init__(self, limit: int, *, seed: int = 0, first: bool = False) -> None:
        if limit < 0:
            raise ValueError(f"sample_limit must be >= 0, got {limit}")
        self.limit, self.seed, self.first = limit, seed, first
        self.seen = 0
        self.index: IntArray = np.empty(0, np.int64)
        self._keys: npt.NDArray[np.uint64] = np.empty(0, np.uint64)

    def __len__(self) -> int:
        return len(self.index)

    def draw(self, n_tokens: int, bits: BitArray | None = None) -> Draw:
        """Advances the stream by ``n_tokens`` and says which of them enter the sample.

        Args:
            n_tokens: Tokens that come next.
            bits: uint64 ``[n_tokens]``, their random bits; default: those of their number in the stream.
        """
        index = np.arange(self.seen, self.seen + n_tokens, dtype=np.int64)
        if self.first:
            keys = index.astype(np.uint64)
        else:
            keys = stream_bits(self.seed, self.seen, n_tokens) if bits is None else bits
        self.seen += n_tokens
        held = len(self.index)
        # Ties of 64 random bits go to the earlier token.
        order = np.argsort(np.concatenate([self._keys, keys]), kind="stable")[: self.limit]
        rows = np.sort(order[order >= held]) - held
        free = np.setdiff1d(np.arange(held), order[order < held])
        slots = np.concatenate([free, np.arange(held, len(order))])[: len(rows)]
        grown = len(order) - held
        self.index = np.concatenate([self.index, np.zeros(grown, np.int64)])
        self._keys = np.concatenate([self._keys, np.zeros(grown, np.uint64)])
        self.index[slots], self._keys[slots] = index[rows], keys[rows]
        return Draw(rows, slots)

    def order(self) -> IntArray:
        """Places in the order of the stream."""
        return np.argsort(self.index)
