"""Which real positions do not count, each for one reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from repgeom.checks import refusal
from repgeom.tokens import UNLABELED, TokenPolicy

HashArray = npt.NDArray[np.uint64]

REASONS: Final = ("special", "first", "unlabeled", "duplicate")
"""Why a position does not count. Where several hold, the first in this order is the reason: a duplicate is
what would have been counted twice."""


class PrefixSet:
    """The prefixes of all sequences so far, each as 64 bits.

    The chance that any of n different prefixes passes for another one is below n² / 2⁶⁵: 3e-8 for a million,
    3e-4 for a hundred million; each such accident drops one token. Takes 8 bytes per prefix.
    """

    def __init__(self) -> None:
        # Sorted arrays, each less than half as long as the one before: an insertion is cheap on average.
        self._parts: list[HashArray] = []

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def add(self, hashes: HashArray) -> npt.NDArray[np.bool_]:
        """Adds the hashes ``[n]``; True where one was there already, or stands earlier in ``hashes``."""
        unique, first = np.unique(hashes, return_index=True)
        fresh = ~self._has(unique)
        known = np.ones(len(hashes), np.bool_)
        known[first[fresh]] = False
        self._insert(unique[fresh])
        return known

    def merge(self, other: PrefixSet) -> None:
        """Adds all that another set has."""
        for part in list(other._parts):
            self.add(part)

    def state_dict(self) -> dict[str, HashArray]:
        """All that :meth:`load_state_dict` needs."""
        return {"hashes": np.sort(np.concatenate([np.empty(0, np.uint64), *self._parts]))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replaces the set by a saved one.

        Raises:
            ValueError: if "hashes" is missing or is no uint64 ``[n]``. The set is as before then.
        """
        hashes = state.get("hashes")
        if not isinstance(hashes, np.ndarray) or hashes.dtype != np.uint64 or hashes.ndim != 1:
            received = "nothing" if hashes is None else f"{type(hashes).__name__} {np.shape(hashes)}"
            raise refusal("state_dict['hashes'] must be a uint64 array [n]", received)
        self._parts = []
        self._insert(np.unique(hashes))

    def _has(self, hashes: HashArray) -> npt.NDArray[np.bool_]:
        """Which of the hashes are in the set."""
        found = np.zeros(len(hashes), np.bool_)
        for part in self._parts:
            found |= part[np.searchsorted(part, hashes).clip(max=len(part) - 1)] == hashes
        return found

    def _insert(self, part: HashArray) -> None:
        """Adds sorted hashes that are not in the set."""
        while self._parts and len(self._parts[-1]) <= 2 * len(part):
            part = np.sort(np.concatenate([self._parts.pop(), part]), kind="stable")
        if len(part):
            self._parts.append(part)


class Marker:
    """Finds the positions that a policy drops, batch after batch in the order of the source.

    Args:
        policy: which positions count.
        special_ids: the ids that ``special_tokens="drop"`` drops.

    Attributes:
        reasons: those of :data:`REASONS` that the policy has.
        prefixes: prefixes of the positions counted so far, if the policy drops duplicates.
    """

    def __init__(self, policy: TokenPolicy, special_ids: Sequence[int] = ()) -> None:
        active = {
            "special": policy.special_tokens == "drop",
            "first": policy.first > 0,
            "unlabeled": policy.labels == "require",
            "duplicate": policy.duplicates == "drop",
        }
        self.reasons = tuple(reason for reason in REASONS if active[reason])
        self.prefixes = PrefixSet()
        self._special_ids = torch.tensor(special_ids, dtype=torch.int64)
        self._first = policy.first

    def mark(
        self,
        base: Tensor,
        ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        beside: Sequence[Tensor] = (),
        contexts: Sequence[bytes] = (),
    ) -> dict[str, Tensor]:
        """The positions that do not count, bool ``[b, s]`` by reason; no position has two.

        Args:
            base: bool ``[b, s]``, the positions to choose from (the real ones).
            ids: token ids ``[b, s]``; needed for special tokens and duplicates.
            labels: ``[b, s]``; needed for labels.
            beside: further integers ``[b, s]`` that a position is known by (``position_ids``).
            contexts: for each row, what its activations depend on beside that (the encoder's tokens).
        """
        left, dropped = base, {}
        for reason in self.reasons:
            if reason == "special":
                assert ids is not None, "special tokens are known by their ids"
                hit = torch.isin(ids, self._special_ids.to(ids.device, ids.dtype))
            elif reason == "first":
                hit = base.cumsum(dim=1) <= self._first
            elif reason == "unlabeled":
                assert labels is not None, "labels are required"
                hit = (labels == UNLABELED).to(base.device)
            else:
                assert ids is not None, "prefixes are known by their ids"
                hit = self._repeated(base, left, [ids, *beside], contexts)
            dropped[reason] = left & hit
            left = left & ~hit
        return dropped

    def _repeated(
        self, base: Tensor, left: Tensor, columns: Sequence[Tensor], contexts: Sequence[bytes]
    ) -> Tensor:
        """Where a position that would count has a prefix that has been counted."""
        tokens = torch.stack([column.to("cpu", torch.int64) for column in columns], dim=-1)
        real, counts = base.cpu(), left.cpu()
        hashes = [
            prefix_hashes(row[mask].numpy(), contexts[index] if contexts else b"")
            for index, (row, mask) in enumerate(zip(tokens, real, strict=True))
        ]
        hit = torch.zeros_like(counts)
        chosen = np.concatenate([np.empty(0, np.uint64), *hashes])[counts[real].numpy()]
        hit[counts] = torch.from_numpy(self.prefixes.add(chosen))
        return hit.to(base.device)


def counting(base: Tensor, dropped: Mapping[str, Tensor]) -> Tensor:
    """``base`` less all that is dropped."""
    for mask in dropped.values():
        base = base & ~mask
    return base


def prefix_hashes(tokens: npt.NDArray[np.int64], context: bytes = b"") -> HashArray:
    """A hash of ``tokens[:i + 1]`` for every i; the same on every machine.

    Args:
        tokens: ``[n, k]``, k integers per token.
        context: what the sequence comes with; another context gives other hashes.
    """
    return np.fromiter(_digests(tokens, context), np.dtype("<u8"), len(tokens)).astype(np.uint64)


def _digests(tokens: npt.NDArray[np.int64], context: bytes) -> Iterator[int]:
    data = np.ascontiguousarray(tokens, "<i8").tobytes()
    step = 8 * tokens.shape[1]
    state = blake2b(digest_size=8, key=blake2b(b"%d;%b" % (step, context), digest_size=16).digest())
    for start in range(0, len(data), step):
        state.update(data[start : start + step])
        yield int.from_bytes(state.digest(), "little")
