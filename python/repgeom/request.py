"""What :func:`repgeom.analyze_model` was asked for, as one value; its docstring explains the fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from repgeom.checks import check_integer, is_peer
from repgeom.tokens import TokenPolicy


def check_numbers(options: Any) -> None:
    """The rules of the numbers that every run takes: attributes of a :class:`Request`, or of the like.

    Raises:
        ValueError: One that breaks its rule.
    """
    is_peer(options.compat)
    check_integer("sample_limit", options.sample_limit, 0)
    check_integer("sequence_limit", options.sequence_limit, 1)
    check_integer("novelty_k", options.novelty_k, 0)
    check_integer("seed", options.seed, 0)
    if options.seed >= 2**64:
        raise ValueError(f"seed must be below 2**64, got {options.seed}")
    for name in ("threads", "memory_limit"):
        if getattr(options, name) is not None:
            check_integer(name, getattr(options, name), 1)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of a run."""

    model_name: str | nn.Module | None = None
    dataloader: Iterable[Any] | None = None
    model: nn.Module | None = None
    tokenizer: Any = None
    text: str | Path | Sequence[str] | None = None
    max_tokens: int | None = 100_000
    max_length: int = 512
    batch_size: int = 8
    batching: Literal["order", "bucketed", "chunk"] = "order"
    layers: str | int | Sequence[int] = "all"
    hook_point: str | Sequence[str] = "residual_input"
    tower: str | None = None
    metrics: str | Sequence[str] | None = "default"
    diagnostics: str | Sequence[str] | None = None
    output_router_logits: bool | Literal["auto"] = "auto"
    pool: str | Sequence[str] | None = None
    sequence_limit: int = 2048
    sample_limit: int = 512
    novelty_k: int = 32
    save_mode: str | None = None
    save_dir: str | PathLike[str] | None = None
    overwrite: bool = False
    device: str | torch.device | None = None
    dtype: str | torch.dtype = "auto"
    device_map: Any = None
    model_kwargs: Mapping[str, Any] | None = None
    trust_remote_code: bool = False
    token_policy: TokenPolicy | None = None
    compat: str | None = None
    seed: int = 0
    threads: int | None = None
    memory_limit: int | None = None
    run_name: str | None = None
    tokenizer_name: str | None = None
    dataset_name: str | None = None
    run_metadata: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.token_policy is not None and not isinstance(self.token_policy, TokenPolicy):
            raise ValueError(f"token_policy must be a TokenPolicy, got {type(self.token_policy).__name__}")
        if hasattr(self.layers, "tolist"):
            object.__setattr__(self, "layers", self.layers.tolist())
        if self.output_router_logits not in (True, False, "auto"):
            raise ValueError(
                f"output_router_logits must be True, False or 'auto', got {self.output_router_logits!r}"
            )

    @property
    def policy(self) -> TokenPolicy:
        """Which positions count."""
        return self.token_policy or TokenPolicy()
