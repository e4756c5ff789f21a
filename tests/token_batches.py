"""Padded batches, and which of their tokens count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from hypothesis import strategies as st

from repgeom.dataloaders import iter_dataloader
from repgeom.tokens import TokenBatch, TokenPolicy

PAD = 99
DROP_SPECIAL = TokenPolicy(special_tokens="drop")
KEEP_PADDING = TokenPolicy(padding="keep")
POLICIES = st.builds(
    TokenPolicy,
    special_tokens=st.sampled_from(["keep", "drop"]),
    first=st.integers(0, 3),
    duplicates=st.sampled_from(["keep", "drop"]),
)
TOKEN_ROWS = st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=7), min_size=1, max_size=5)


def rows(*tokens: list[int], side: str = "right", width: int | None = None) -> dict[str, Any]:
    """Rows of tokens as a padded batch."""
    width = width or max(map(len, tokens))
    ids, mask = [], []
    for row in tokens:
        pad = width - len(row)
        left = {"left": pad, "right": 0, "middle": pad // 2}[side]
        ids.append([PAD] * left + row + [PAD] * (pad - left))
        mask.append([0] * left + [1] * len(row) + [0] * (pad - left))
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def read(batch: Any, **options: Any) -> TokenBatch:
    """One batch, as a dataloader of it gives it."""
    (only,) = iter_dataloader([batch], **options)
    return only


def kept(batch: TokenBatch) -> list[list[int]]:
    assert batch.token_ids is not None
    assert batch.keep is not None
    return [ids[keep].tolist() for ids, keep in zip(batch.token_ids, batch.keep, strict=True)]


def stream(batches: Iterator[TokenBatch]) -> list[int]:
    return [token for batch in batches for row in kept(batch) for token in row]
