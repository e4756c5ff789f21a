"""Where a mixture-of-experts router sends the tokens: a streaming count per layer and expert."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

ROUTER_COLUMNS: Final = (
    "layer",
    "router_entropy",
    "router_entropy_norm",
    "load_imbalance",
    "most_used_expert",
    "top_expert_load",
    "routed_assignments",
)


class RouterStatistics:
    """Counts of the top-k experts of every token, layer by layer: add a batch, merge another, read a frame.

    Args:
        layers: The index of each mixture-of-experts layer in the model, or a number L for 0..L-1.
        num_experts: Experts per layer, E >= 1.
        top_k: Experts per token; more than E counts as E.
    """

    def __init__(self, layers: int | Sequence[int], num_experts: int, top_k: int) -> None:
        ids = range(layers) if isinstance(layers, int) else [operator.index(layer) for layer in layers]
        self.layers: Final = tuple(ids)
        if len(set(self.layers)) != len(self.layers):
            raise ValueError(f"layers must be distinct, got {list(self.layers)}")
        if num_experts < 1 or top_k < 1:
            raise ValueError(f"num_experts and top_k must be at least 1, got {num_experts=} and {top_k=}")
        self.num_experts: Final = num_experts
        self.top_k: Final = min(top_k, num_experts)
        self._counts = {layer: np.zeros(num_experts, np.int64) for layer in self.layers}

    @property
    def counts(self) -> NDArray[np.int64]:
        """``[L, E]``: (token, expert) assignments so far, rows in the order of ``layers``."""
        return np.array([self._counts[layer] for layer in self.layers], np.int64).reshape(
            -1, self.num_experts
        )

    def add(self, layer: int, logits: Any, mask: Any = None) -> RouterStatistics:
        """Count the ``top_k`` largest of ``[..., E]`` logits per token; of equal logits the first counts.

        Args:
            layer: One of ``layers``.
            logits: NumPy or torch, all axes but the last are tokens; -inf is an expert that cannot be chosen.
            mask: One flag per token, same leading axes; tokens with 0 or False are left out. None: all
                tokens.

        Raises:
            ValueError: A layer that was not announced, another number of experts, NaN, a mask of another
                size.
        """
        if layer not in self._counts:
            raise ValueError(f"layer must be one of {list(self.layers)}, got {layer!r}")
        scores = _as_numpy(logits)
        if scores.ndim < 1 or scores.shape[-1] != self.num_experts:
            raise ValueError(f"logits must be [..., {self.num_experts}], got shape {scores.shape}")
        scores = scores.reshape(-1, self.num_experts)
        if mask is not None:
            keep = _as_numpy(mask).reshape(-1)
            if len(keep) != len(scores):
                raise ValueError(f"mask must have one flag for each of {len(scores)} tokens, got {len(keep)}")
            scores = scores[keep != 0]
        if np.isnan(scores).any():
            raise ValueError(f"logits of layer {layer} must not be NaN, got NaN for a token that counts")
        chosen = np.argsort(-scores, axis=1, kind="stable")[:, : self.top_k]
        self._counts[layer] += np.bincount(chosen.reshape(-1), minlength=self.num_experts)
        return self

    def merge(self, other: RouterStatistics) -> RouterStatistics:
        """Add the counts of ``other``, which must have the same layers, experts and top_k."""
        mine, theirs = self._settings(), other._settings()
        if mine != theirs:
            raise ValueError(f"router statistics must have the same settings, got {mine} and {theirs}")
        for layer, counts in other._counts.items():
            self._counts[layer] += counts
        return self

    def _settings(self) -> dict[str, Any]:
        return {"layers": list(self.layers), "num_experts": self.num_experts, "top_k": self.top_k}

    def state_dict(self) -> dict[str, Any]:
        """Settings and counts, for a checkpoint."""
        return {**self._settings(), "counts": self.counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the counts by those of :meth:`state_dict`, taken with the same settings."""
        mine, theirs = self._settings(), {key: value for key, value in state.items() if key != "counts"}
        if mine != theirs:
            raise ValueError(f"router statistics must have the same settings, got {mine} and {theirs}")
        self._counts = {
            layer: np.array(row, np.int64) for layer, row in zip(self.layers, state["counts"], strict=True)
        }

    def frame(self) -> pd.DataFrame:
        """One row per layer with the columns :data:`ROUTER_COLUMNS`.

        With ``load = counts / total``: ``router_entropy = -sum load ln load`` (nats), ``router_entropy_norm``
        the same over ``ln E`` (0 for E = 1, where there is nothing to choose),
        ``load_imbalance = E max load`` (1 = balanced), ``routed_assignments = total``. A layer that saw no
        token has total 0, NaN elsewhere and ``most_used_expert`` -1.
        """
        rows = [self._row(layer) for layer in self.layers]
        frame: pd.DataFrame = pd.DataFrame(rows, columns=list(ROUTER_COLUMNS))
        return frame

    def _row(self, layer: int) -> tuple[float, ...]:
        counts = self._counts[layer]
        total, nan = int(counts.sum()), float("nan")
        if total == 0:
            return layer, nan, nan, nan, -1, nan, 0
        load = counts / total
        used = load[load > 0]
        entropy = max(0.0, -float(np.sum(used * np.log(used))))
        norm = entropy / float(np.log(self.num_experts)) if self.num_experts > 1 else 0.0
        top = float(load.max())
        return layer, entropy, norm, top * self.num_experts, int(counts.argmax()), top, total


def _as_numpy(x: Any) -> NDArray[Any]:
    """NumPy view or copy; torch half and bfloat16 go through float32, which holds them exactly."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = x.float().numpy() if x.is_floating_point() else x.numpy()
    return np.asarray(x)
