"""Bits per byte: of a causal language model, and of the unigram baselines it has to beat."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch


def bits_per_byte(
    model: torch.nn.Module,
    encode: Callable[[str], list[int]],
    documents: Sequence[str],
    *,
    bos: int,
    context: int = 256,
    stride: int = 128,
    batch_size: int = 8,
) -> float:
    """Negative log2-likelihood of documents under a causal model, in bits per UTF-8 byte.

    Every token of every document is predicted exactly once. A document is read in windows of ``context``
    tokens that advance by ``stride``; each window opens with ``bos`` and scores only the tokens that no
    earlier window scored, so all but the first ``context - 1`` tokens are predicted from at least ``context -
    stride - 1`` others.

    Args:
        model: maps ``input_ids [b, s]`` to an output with ``logits [b, s, vocabulary]``.
        encode: text to token ids, without special tokens.
        documents: the texts; together at least one byte.
        bos: id of the token that opens a window.
        context: tokens per window, ``bos`` included.
        stride: tokens scored per window, at most ``context - 1``.
        batch_size: windows per forward pass; does not change the result beyond rounding.

    Raises:
        ValueError: if the documents hold no byte, or ``stride`` is not in ``[1, context - 1]``.
    """
    if not 1 <= stride < context:
        raise ValueError(f"stride must be in [1, context - 1] = [1, {context - 1}], got {stride}")
    n_bytes = sum(len(text.encode("utf-8")) for text in documents)
    if n_bytes == 0:
        raise ValueError(f"documents must hold at least one byte, got {len(documents)} empty documents")
    windows = [window for text in documents for window in _windows(encode(text), context - 1, stride)]
    windows.sort(key=lambda window: len(window[0]))
    nats = 0.0
    for start in range(0, len(windows), batch_size):
        nats += _window_nats(model, windows[start : start + batch_size], bos)
    return nats / math.log(2) / n_bytes


def _windows(ids: list[int], width: int, stride: int) -> Iterator[tuple[list[int], int]]:
    """Windows of at most ``width`` ids, each with the number of its last ids that are still to be scored."""
    scored = 0
    while scored < len(ids):
        end = min(len(ids), scored + stride if scored else width)
        yield ids[max(0, end - width) : end], end - scored
        scored = end


@torch.no_grad()
def _window_nats(model: torch.nn.Module, windows: Sequence[tuple[list[int], int]], bos: int) -> float:
    """Sum of the negative log-likelihoods (nats) of the ids to be scored in some windows."""
    longest = max(len(ids) for ids, _ in windows)
    inputs = torch.full((len(windows), longest + 1), bos)
    scored = torch.zeros(len(windows), longest, dtype=torch.bool)
    for row, (ids, count) in enumerate(windows):
        inputs[row, 1 : len(ids) + 1] = torch.tensor(ids)
        scored[row, len(ids) - count : len(ids)] = True
    output: Any = model(input_ids=inputs)  # causal: what stands right of a token cannot change its prediction
    log_likelihood = output.logits[:, :-1].double().log_softmax(-1)
    picked = log_likelihood.gather(-1, inputs[:, 1:, None])[..., 0]
    return -float(picked[scored].sum())


def unigram_bits_per_byte(
    training: Sequence[Sequence[int]], held_out: Sequence[Sequence[int]], *, alphabet: int, n_bytes: int
) -> float:
    """Bits per byte of the model that knows only how often each symbol occurs (add-one smoothing).

    Args:
        training: sequences of symbols (bytes or token ids) that the frequencies are counted on.
        held_out: sequences to be scored.
        alphabet: number of different symbols.
        n_bytes: UTF-8 bytes of the held-out text.
    """
    counts = Counter(symbol for sequence in training for symbol in sequence)
    total = sum(counts.values()) + alphabet
    bits = -sum(math.log2((counts[s] + 1) / total) for sequence in held_out for s in sequence)
    return bits / n_bytes
