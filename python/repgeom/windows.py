"""Documents cut into windows of tokens, up to an exact budget."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from repgeom.checks import refusal
from repgeom.positions import Marker, counting

# Tokens at the end of a cut text may differ from those of the whole text; this many are thrown away.
_CUT_MARGIN = 256


class Windows:
    """Collects windows of tokens until a budget is spent.

    Args:
        tokenizer: a transformers tokenizer.
        max_length: tokens per window at most, special tokens included.
        marker: says which tokens count.
        budget: tokens that count, in all; None: no limit.
        separator: what to put before every document to make one stream of them, cut into full windows; None:
            every document begins a window of its own.

    Attributes:
        n_text_tokens: tokens of the text that was read, without special tokens around windows.
        n_text_bytes: its length in UTF-8.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_length: int,
        marker: Marker,
        budget: int | None,
        *,
        separator: str | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._marker = marker
        self._left = budget
        self._separator = separator
        self._special: tuple[list[int], list[int]] | None = None
        self._ids = array("q")
        self._offsets = array("q", [0])
        self._sources = array("q")
        self._dropped: dict[str, list[Tensor]] = {reason: [] for reason in marker.reasons}
        # Tokens read that are in no window yet, and the document of the first one.
        self._pending: list[int] = []
        self._owner = 0
        # In tokens of text: where documents begin, what has been read, cut into windows, and is in the plan.
        self._starts = array("q")
        self._n_read = self._n_cut = self._n_planned = 0
        self.n_text_tokens = self.n_text_bytes = 0

    @property
    def full(self) -> bool:
        """Whether the budget is spent."""
        return self._left == 0

    @property
    def n_pending(self) -> int:
        """Tokens of text that do not fill a window."""
        return len(self._pending)

    @property
    def n_documents(self) -> int:
        """Documents with a token in a window."""
        return bisect_left(self._starts, self._n_planned)

    def add(self, index: int, document: str) -> None:
        """Add the windows of one document."""
        room = self._room(document)
        if not self._pending:
            self._owner = index
        begun = False
        for part in self._parts((self._separator or "") + document, room):
            if part and not begun:
                self._starts.append(self._n_read)
                begun = True
            self._n_read += len(part)
            self._pending += part
            self._cut(index, room)
            if self.full:
                return
        if self._separator is None:
            self.flush()

    def flush(self) -> None:
        """Add what is left of the text as a shorter window."""
        if self._pending and not self.full:
            self._append(self._pending)
            self._pending = []

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """``ids [n]``, ``offsets [n_sequences + 1]``, document indices ``[n_sequences]``, and which tokens do
        not count, ``[n]`` by reason."""
        ids, offsets, sources = (
            torch.tensor(a, dtype=torch.int64) for a in (self._ids, self._offsets, self._sources)
        )
        none = torch.empty(0, dtype=torch.bool)
        dropped = {reason: torch.cat([none, *masks]) for reason, masks in self._dropped.items()}
        return ids, offsets, sources, dropped

    def _cut(self, index: int, room: int) -> None:
        """Add windows while the pending tokens fill them; what remains is of document ``index``."""
        start = 0
        while len(self._pending) - start >= room and not self.full:
            self._append(self._pending[start : start + room])
            self._owner = index
            start += room
        del self._pending[:start]

    def _append(self, content: list[int]) -> None:
        """Add a window, or as much of its front as the budget allows."""
        assert self._special is not None, "a document has been added"
        prefix, suffix = self._special
        window = [*prefix, *content, *suffix]
        end, masks = self._reach(window)
        for reason, mask in masks.items():
            self._dropped[reason].append(mask[:end])
        self._ids.extend(window[:end])
        self._offsets.append(len(self._ids))
        self._sources.append(self._owner)
        # A window that the budget ends within its prefix counts as one of its first document.
        self._n_planned = self._n_cut + min(max(end - len(prefix), 1), len(content))
        self._n_cut += len(content)

    def _reach(self, window: list[int]) -> tuple[int, dict[str, Tensor]]:
        """How much of a window the budget allows, and which of its tokens do not count; spends it."""
        end, masks, n = len(window), {}, len(window)
        if self._marker.reasons:
            ids = torch.tensor([window])
            base = torch.ones_like(ids, dtype=torch.bool)
            marked = self._marker.mark(base, ids)
            masks = {reason: mask[0] for reason, mask in marked.items()}
            counts = counting(base, marked)[0].cumsum(dim=0)
            n = int(counts[-1])
            if self._left is not None and n >= self._left:
                end = int(torch.searchsorted(counts, self._left)) + 1
        elif self._left is not None:
            end = min(end, self._left)
        if self._left is not None:
            self._left -= min(n, self._left)
        return end, masks

    def _room(self, document: str) -> int:
        """Tokens of text per window."""
        prefix, suffix = self._special = self._special or self._special_tokens(document)
        room = self._max_length - len(prefix) - len(suffix)
        if room < 1:
            rule = f"max_length must leave room beside {len(prefix) + len(suffix)} special tokens"
            raise refusal(rule, self._max_length)
        return room

    def _encode(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a text; quiet about texts longer than the model's context, which are cut later."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        return ids

    def _parts(self, text: str, room: int) -> Iterator[list[int]]:
        """Token ids of a text, piece by piece: no more of it is read than the budget asks for."""
        size = len(text) if self._left is None else 16 * (self._left + room + _CUT_MARGIN)
        known = n_tokens = n_bytes = 0
        while True:
            head = text[:size]
            ids, length = self._encode(head), len(head.encode())
            # This head in place of the shorter one before it.
            self.n_text_tokens += len(ids) - n_tokens
            self.n_text_bytes += length - n_bytes
            n_tokens, n_bytes = len(ids), length
            if size >= len(text):
                yield ids[known:]
                return
            part = ids[known:-_CUT_MARGIN]
            yield part
            known, size = known + len(part), 4 * size

    def _special_tokens(self, document: str) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after a text by default."""
        probe = document.strip()[:100]
        inner, outer = self._encode(probe), self._encode(probe, special=True)
        starts = range(len(outer) - len(inner) + 1)
        found = [start for start in starts if outer[start : start + len(inner)] == inner]
        if not found:
            raise refusal("the special tokens of a tokenizer must surround the text", repr(outer[:8]))
        return outer[: found[-1]], outer[found[-1] + len(inner) :]
