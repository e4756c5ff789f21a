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
    """Counts of the experts of every token, layer by layer: add a batch, merge another, read a frame.

    Args:
        layers: The index of each mixture-of-experts layer in the model, or a number L for 0..L-1.
        num_experts: Experts per layer, E >= 1; one number for all layers, or one for each.
        top_k: Experts per token that :meth:`add` counts; more than E counts as E.
    """

    def __init__(self, layers: int | Sequence[int], num_experts: int | Sequence[int], top_k: int = 1) -> None:
        ids = range(layers) if isinstance(layers, int) else [operator.index(layer) for layer in layers]
        self.layers: Final = tuple(ids)
        if len(set(self.layers)) != len(self.layers):
            raise ValueError(f"layers must be distinct, got {list(self.layers)}")
        experts = [num_experts] * len(self.layers) if isinstance(num_experts, int) else list(num_experts)
        if min([top_k, *experts]) < 1:
            raise ValueError(f"num_experts and top_k must be at least 1, got {num_experts=} and {top_k=}")
        if len(experts) != len(self.layers):
            raise ValueError(
                f"num_experts must be one number for each of {len(self.layers)} layers, got {experts}"
            )
        self.num_experts: Final = dict(zip(self.layers, experts, strict=True))
        self.top_k: Final = top_k
        self._counts = {layer: np.zeros(count, np.int64) for layer, count in self.num_experts.items()}

    @property
    def counts(self) -> NDArray[np.int64]:
        """``[L, E]``: (token, expert) assignments so far, rows in the order of ``layers``.

        E is that of the layer with most experts; beyond a layer's own there are zeros.
        """
        counts = np.zeros((len(self.layers), max(self.num_experts.values(), default=0)), np.int64)
        for row, layer in enumerate(self.layers):
            counts[row, : self.num_experts[layer]] = self._counts[layer]
        return counts

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
        experts = self._experts_of(layer)
        scores = _as_numpy(logits)
        if scores.ndim < 1 or scores.shape[-1] != experts:
            raise ValueError(f"logits must be [..., {experts}], got shape {scores.shape}")
        scores = _kept(scores, mask)
        if np.isnan(scores).any():
            raise ValueError(f"logits of layer {layer} must not be NaN, got NaN for a token that counts")
        return self._count(layer, np.argsort(-scores, axis=1, kind="stable")[:, : self.top_k])

    def add_choices(self, layer: int, indices: Any, mask: Any = None) -> RouterStatistics:
        """Count the experts that a router says it chose.

        Args:
            layer: One of ``layers``.
            indices: Integers ``[..., k]`` below E, NumPy or torch, all axes but the last are tokens.
            mask: As in :meth:`add`.

        Raises:
            ValueError: A layer that was not announced, indices that are no experts, a mask of another size.
        """
        experts = self._experts_of(layer)
        chosen = _as_numpy(indices)
        if chosen.ndim < 1 or chosen.dtype.kind not in "iu":
            raise ValueError(f"indices must be integers [..., k], got {chosen.dtype} {chosen.shape}")
        chosen = _kept(chosen, mask)
        if chosen.size and not (chosen.min() >= 0 and chosen.max() < experts):
            received = f"{chosen.min()} to {chosen.max()}"
            raise ValueError(f"indices of layer {layer} must be experts 0..{experts - 1}, got {received}")
        return self._count(layer, chosen)

    def add_counts(self, layer: int, counts: Any) -> RouterStatistics:
        """Add assignments ``[E]`` that were counted elsewhere.

        Raises:
            ValueError: A layer that was not announced, another number of experts, negative counts.
        """
        experts = self._experts_of(layer)
        more = _as_numpy(counts)
        if more.shape != (experts,) or more.dtype.kind not in "iu" or (more < 0).any():
            raise ValueError(f"counts must be {experts} integers of at least 0, got {more.tolist()}")
        self._counts[layer] += more.astype(np.int64)
        return self

    def _experts_of(self, layer: int) -> int:
        if layer not in self.num_experts:
            raise ValueError(f"layer must be one of {list(self.layers)}, got {layer!r}")
        return self.num_experts[layer]

    def _count(self, layer: int, chosen: NDArray[Any]) -> RouterStatistics:
        self._counts[layer] += np.bincount(chosen.reshape(-1), minlength=self.num_experts[layer])
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
        experts = list(self.num_experts.values())
        return {"layers": list(self.layers), "num_experts": experts, "top_k": self.top_k}

    def state_dict(self) -> dict[str, Any]:
        """Settings and counts, for a checkpoint."""
        return {**self._settings(), "counts": self.counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the counts by those of :meth:`state_dict`, taken with the same settings."""
        mine, theirs = self._settings(), {key: value for key, value in state.items() if key != "counts"}
        if mine != theirs:
            raise ValueError(f"router statistics must have the same settings, got {mine} and {theirs}")
        self._counts = {
            layer: np.array(row[: self.num_experts[layer]], np.int64)
            for layer, row in zip(self.layers, state["counts"], strict=True)
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
        norm = entropy / float(np.log(len(counts))) if len(counts) > 1 else 0.0
        top = float(load.max())
        return layer, entropy, norm, top * len(counts), int(counts.argmax()), top, total


def _kept(rows: NDArray[Any], mask: Any) -> NDArray[Any]:
    """``[..., m]`` as ``[tokens, m]``, without the tokens that the mask leaves out."""
    rows = rows.reshape(-1, rows.shape[-1])
    if mask is None:
        return rows
    keep = _as_numpy(mask).reshape(-1)
    if len(keep) != len(rows):
        raise ValueError(f"mask must have one flag for each of {len(rows)} tokens, got {len(keep)}")
    kept: NDArray[Any] = rows[keep != 0]
    return kept


def _as_numpy(x: Any) -> NDArray[Any]:
    """NumPy view or copy; torch half and bfloat16 go through float32, which holds them exactly."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = x.float().numpy() if x.is_floating_point() else x.numpy()
    return np.asarray(x)
