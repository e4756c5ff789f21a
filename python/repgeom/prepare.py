"""A request, checked and loaded: everything that can fail before the model runs fails here, cheapest
first."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from repgeom.artifact import check_writable
from repgeom.checks import check_integer, is_peer
from repgeom.collect import Collector
from repgeom.measurand import Measurand, find_measurand
from repgeom.metadata import describe_model, model_key
from repgeom.metrics import Settings, parse_diagnostics, parse_metrics
from repgeom.probe import accepts
from repgeom.results import SAVE_MODES, default_folder
from repgeom.sampling import TokenSample
from repgeom.source import Source, open_source
from repgeom.tokens import TokenPolicy


@dataclass(frozen=True)
class Run:
    """A checked request: everything is known and loaded, nothing has been measured."""

    measurand: Measurand
    source: Source
    collector: Collector
    settings: Settings
    forward: dict[str, Any]
    save_mode: str | None
    save_dir: Path | None
    overwrite: bool
    metadata: dict[str, Any]


def prepare(
    model_name: str | nn.Module | None,
    dataloader: Iterable[Any] | None,
    *,
    model: nn.Module | None = None,
    tokenizer: Any = None,
    text: str | Path | Sequence[str] | None = None,
    max_tokens: int | None = 100_000,
    max_length: int = 512,
    batch_size: int = 8,
    layers: str | int | Sequence[int] = "all",
    hook_point: str = "residual_input",
    metrics: str | Sequence[str] | None = "default",
    diagnostics: str | Sequence[str] | None = None,
    sample_limit: int = 512,
    novelty_k: int = 32,
    save_mode: str | None = None,
    save_dir: str | PathLike[str] | None = None,
    overwrite: bool = False,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "auto",
    device_map: Any = None,
    model_kwargs: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    token_policy: TokenPolicy | None = None,
    compat: str | None = None,
    seed: int = 0,
    threads: int | None = None,
    run_name: str | None = None,
    tokenizer_name: str | None = None,
    dataset_name: str | None = None,
    run_metadata: Mapping[str, Any] | None = None,
) -> Run:
    """Checks everything that can be checked before the model runs, cheapest first."""
    families, wanted = parse_metrics(metrics), parse_diagnostics(diagnostics)
    peer = is_peer(compat)
    check_integer("sample_limit", sample_limit, 0)
    check_integer("novelty_k", novelty_k, 0)
    check_integer("seed", seed, 0)
    if seed >= 2**64:
        raise ValueError(f"seed must be below 2**64, got {seed}")
    if threads is not None:
        check_integer("threads", threads, 1)
    mode = _save_mode(save_mode, save_dir)
    target = check_writable(Path(save_dir or default_folder(run_name)), overwrite) if mode else None
    policy = token_policy or TokenPolicy()
    started = time.perf_counter()
    measurand = find_measurand(
        model_name,
        model=model,
        tokenizer=tokenizer,
        layers=layers,
        hook_point=hook_point,
        device=device,
        dtype=dtype,
        device_map=device_map,
        model_kwargs=model_kwargs,
        trust_remote_code=trust_remote_code,
    )
    source = open_source(
        measurand,
        dataloader,
        text=text,
        max_tokens=max_tokens,
        max_length=max_length,
        batch_size=batch_size,
        policy=policy,
        name=dataset_name,
    )
    measurand = measurand.with_batch(source.peek)
    collector = Collector(measurand.statistics(), TokenSample(sample_limit, seed=seed, first=peer), threads)
    collector.seconds["load"] = time.perf_counter() - started
    settings = Settings(model_key(measurand.label), measurand.label, families, wanted, novelty_k, compat)
    metadata = {
        "model_id": measurand.label,
        "max_tokens": max_tokens,
        "hook_point": hook_point,
        "sample_limit": sample_limit,
        "novelty_k": novelty_k,
        "metrics": sorted(families),
        "diagnostics": sorted(wanted),
        "save_mode": mode,
        "run_name": run_name,
        "tokenizer": tokenizer_name or getattr(measurand.tokenizer, "name_or_path", None),
        "dataset": source.name,
        "dataset_sha256": source.sha256,
        "token_policy": policy.to_dict(),
        "max_length": source.plan.max_length if source.plan else None,
        "batch_size": batch_size if source.plan else None,
        "compat": compat,
        "seed": seed,
        **({} if run_metadata is None else {"run_metadata": dict(run_metadata)}),
        **describe_model(measurand.model),
    }
    forward = {"use_cache": False} if accepts(measurand.model, "use_cache") else {}
    return Run(measurand, source, collector, settings, forward, mode, target, overwrite, metadata)


def _save_mode(save_mode: str | None, save_dir: str | PathLike[str] | None) -> str | None:
    if save_mode is not None and not isinstance(save_mode, str):
        raise ValueError(f"save_mode must be one of {SAVE_MODES}, got {save_mode!r}")
    mode = save_mode.lower() if save_mode is not None else ("bundle" if save_dir is not None else None)
    if mode is not None and mode not in SAVE_MODES:
        raise ValueError(f"save_mode must be one of {SAVE_MODES}, got {save_mode!r}")
    return mode
