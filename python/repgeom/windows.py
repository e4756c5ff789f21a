"""Documents cut into windows of tokens, up to an exact budget."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from repgeom.checks import refusal

# Tokens at the end of a cut text may differ from those of the whole text; this many are thrown away.
_CUT_MARGIN = 256


class Windows:
    """Collects windows of tokens until a budget is spent."""

    def __init__(self, tokenizer: Any, max_length: int, dropped: frozenset[int], budget: int | None) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._dropped = dropped
        self._left = budget
        self._special: tuple[list[int], list[int]] | None = None
        self._ids = array("q")
        self._offsets = array("q", [0])
        self._sources = array("q")

    @property
    def full(self) -> bool:
        """Whether the budget is spent."""
        return self._left == 0

    def add(self, index: int, document: str) -> None:
        """Add the windows of one document."""
        prefix, suffix = self._special_tokens(document)
        room = self._max_length - len(prefix) - len(suffix)
        if room < 1:
            rule = f"max_length must leave room beside {len(prefix) + len(suffix)} special tokens"
            raise refusal(rule, self._max_length)
        ids = self._encode_head(document)
        for start in range(0, len(ids), room):
            if self.full:
                return
            self._append(index, [*prefix, *ids[start : start + room], *suffix])

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """``ids [n]``, ``offsets [n_sequences + 1]`` and document indices ``[n_sequences]``."""
        ids, offsets, sources = (
            torch.tensor(a, dtype=torch.int64) for a in (self._ids, self._offsets, self._sources)
        )
        return ids, offsets, sources

    def _append(self, index: int, window: list[int]) -> None:
        """Add a window, or as much of its front as the budget allows."""
        if self._left is not None:
            window = window[: self._reach(window, self._left)]
            self._left -= self._counted(window)
        self._ids.extend(window)
        self._offsets.append(len(self._ids))
        self._sources.append(index)

    def _counted(self, ids: Sequence[int]) -> int:
        """How many of some ids count."""
        return sum(i not in self._dropped for i in ids) if self._dropped else len(ids)

    def _reach(self, ids: Sequence[int], budget: int) -> int:
        """Length of the shortest front of ``ids`` in which ``budget`` ids count; all of it if fewer do."""
        for end, token in enumerate(ids, 1):
            budget -= token not in self._dropped
            if budget == 0:
                return end
        return len(ids)

    def _encode(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a text; quiet about texts longer than the model's context, which are cut later."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        return ids

    def _encode_head(self, document: str) -> list[int]:
        """Token ids of a document, at least as many as the budget still takes."""
        if self._left is not None:
            size = 16 * (self._left + _CUT_MARGIN)
            while size < len(document):
                ids = self._encode(document[:size])[:-_CUT_MARGIN]
                if self._counted(ids) >= self._left:
                    return ids
                size *= 4
        return self._encode(document)

    def _special_tokens(self, document: str) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after a text by default."""
        if self._special is None:
            probe = document.strip()[:100]
            inner, outer = self._encode(probe), self._encode(probe, special=True)
            starts = range(len(outer) - len(inner) + 1)
            found = [start for start in starts if outer[start : start + len(inner)] == inner]
            if not found:
                raise ValueError(
                    f"the special tokens of {type(self._tokenizer).__name__} must surround the text"
                )
            self._special = outer[: found[-1]], outer[found[-1] + len(inner) :]
        return self._special
