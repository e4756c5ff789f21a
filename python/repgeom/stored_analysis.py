"""The measurements of :func:`repgeom.analyze_model` on activations that somebody stored."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from types import SimpleNamespace
from typing import Any

import numpy as np
from tqdm import tqdm

from repgeom.checks import check_integer, is_peer
from repgeom.collect import Collector, LayerStatistics
from repgeom.interrupts import announce, deferred_interrupt
from repgeom.layer_moments import MomentsPolicy
from repgeom.metadata import model_key
from repgeom.metrics import in_full, needs, parse_diagnostics, parse_metrics, parse_pool
from repgeom.outcome import MeasurementWarning, RunInterrupted, conclude
from repgeom.pooling import SequenceSample
from repgeom.readings import Settings
from repgeom.registry import OF_COVARIANCE
from repgeom.request import check_numbers
from repgeom.results import AnalysisResults, save_target
from repgeom.rows import BatchRows
from repgeom.sampling import TokenSample
from repgeom.stored import StoredActivations, StoredBatch


def analyze_activations(
    activations: Mapping[Any, Any] | StoredActivations,
    *,
    mask: Any = None,
    token_ids: Any = None,
    sequence_ids: Any = None,
    positions: Any = None,
    max_tokens: int | None = None,
    batch_tokens: int = 4096,
    metrics: str | Sequence[str] | None = "default",
    diagnostics: str | Sequence[str] | None = None,
    pool: str | Sequence[str] | None = None,
    sequence_limit: int = 2048,
    sample_limit: int = 512,
    novelty_k: int = 32,
    save_mode: str | None = None,
    save_dir: str | PathLike[str] | None = None,
    overwrite: bool = False,
    compat: str | None = None,
    seed: int = 0,
    threads: int | None = None,
    memory_limit: int | None = None,
    model_label: str = "stored activations",
    run_name: str | None = None,
    dataset_name: str | None = None,
    run_metadata: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> AnalysisResults:
    """Measures the geometry of stored activations, layer by layer.

    Row t of every layer must be the same token: the sample, CKA and novelty compare layers token by token.
    Nothing is loaded whole; memory is that of the statistics and one batch.

    Args:
        activations: By layer, an array ``[n, d]`` or ``[batch, seq, d]`` (NumPy, torch, DLPack), the path of
            an ``.npy`` or safetensors file (``"file.safetensors:key"``), a list, folder or glob of such
            shards, or an iterable of arrays. Layers are numbers, or names that end in one. Or what
            :func:`repgeom.open_vllm` gives for the hidden states that vLLM writes.
        mask: ``[n]`` or ``[batch, seq]``, 0 or False for rows that do not count (padding).
        token_ids: ``[n]``, kept for the sampled tokens.
        sequence_ids: ``[n]``; default: known for ``[batch, seq, d]``. Pooled vectors need them.
        positions: ``[n]``, place in the sequence.
        max_tokens: Tokens that count at most, exactly; None: all.
        batch_tokens: Rows that are read at a time; does not change the results beyond rounding.
        metrics: As in :func:`repgeom.analyze_model`, routers apart.
        diagnostics: As there.
        pool: As there.
        sequence_limit: As there.
        sample_limit: As there.
        novelty_k: As there.
        save_mode: As there.
        save_dir: As there.
        overwrite: As there.
        compat: As there.
        seed: As there.
        threads: As there.
        memory_limit: As there.
        model_label: How tables call what the activations come from.
        run_name: Recorded; also the default folder.
        dataset_name: Recorded.
        run_metadata: Recorded.
        progress: Show a progress bar on standard error.

    Returns:
        The same tables, arrays and metadata as :func:`repgeom.analyze_model` gives.

    Raises:
        ValueError: Layers of different lengths, widths that change, integers in place of floats, or an option
            that breaks its rule.
        FileNotFoundError: A file that is missing.
        FileExistsError: ``save_dir`` holds another run.
        RunInterrupted: Ctrl-C; the results so far are in the exception.

    Example:
        >>> repgeom.analyze_activations({0: "layer0.npy", 6: ["a.safetensors", "b.safetensors"]})
    """
    check_numbers(SimpleNamespace(**locals()))
    started = time.perf_counter()
    names = tuple(dict.fromkeys((*parse_metrics(metrics), *parse_diagnostics(diagnostics))))
    if "router" in names:
        raise ValueError("stored activations have no routers, got metrics with 'router'")
    if max_tokens is not None:
        check_integer("max_tokens", max_tokens, 1)
    mode, target = save_target(save_mode, save_dir, run_name, overwrite)
    poolings = parse_pool(pool, names)
    stored = _opened(
        activations, mask=mask, token_ids=token_ids, sequence_ids=sequence_ids, positions=positions
    )
    collector = Collector(
        {
            name: LayerStatistics(index, name)
            for name, index in sorted(stored.indices.items(), key=lambda item: item[1])
        },
        TokenSample(sample_limit, seed=seed, first=is_peer(compat)),
        threads,
        moments=bool(OF_COVARIANCE & needs(names)),
        moments_policy=MomentsPolicy.of_run(
            memory_limit, novelty_k=novelty_k, in_full=in_full(names, compat)
        ),
        sequences=SequenceSample(TokenSample(sequence_limit, seed=seed)) if poolings else None,
        poolings=poolings,
    )
    settings = Settings(model_key(model_label), model_label, names, novelty_k, compat, threads)
    metadata = {
        "model_id": model_label,
        "model_class": None,
        "max_tokens": max_tokens,
        "hook_point": "stored",
        "hook_targets": list(stored.layers),
        "num_blocks": None,
        "sample_limit": sample_limit,
        "novelty_k": novelty_k,
        "pool": list(poolings),
        "metrics": sorted(parse_metrics(metrics)),
        "diagnostics": sorted(parse_diagnostics(diagnostics)),
        "save_mode": mode,
        "run_name": run_name,
        "dataset": dataset_name or "stored activations",
        "stored_files": {name: list(files) for name, files in stored.files.items()},
        "compat": compat,
        "seed": seed,
        "memory_limit": memory_limit,
        **({} if run_metadata is None else {"run_metadata": dict(run_metadata)}),
    }
    with deferred_interrupt(announce) as pressed:
        interrupted = False
        with tqdm(
            total=stored.n_tokens, unit="tok", unit_scale=True, disable=not progress, desc="measuring"
        ) as bar:
            for batch in stored.batches(batch_tokens):
                _add(collector, batch, max_tokens)
                bar.update(collector.n_tokens - bar.n)
                if collector.n_tokens == max_tokens:
                    break
                if pressed():
                    interrupted = True
                    break
        if not collector.n_batches:
            raise ValueError(f"the mask must leave a row that counts, got none of {stored.n_rows}")
        results = conclude(collector, settings, metadata, interrupted=interrupted, started=started)
        if mode is not None:
            results.save(save_dir=target, save_mode=mode, overwrite=overwrite)
    if pressed():
        raise RunInterrupted(results)
    for note in results.metadata["warnings"]:
        warnings.warn(note, MeasurementWarning, stacklevel=2)
    return results


def _opened(activations: Mapping[Any, Any] | StoredActivations, **annotations: Any) -> StoredActivations:
    if not isinstance(activations, StoredActivations):
        return StoredActivations(activations, **annotations)
    given = [name for name, value in annotations.items() if value is not None]
    if given:
        raise ValueError(f"opened activations know their tokens, got also {', '.join(given)}")
    return activations


def _add(collector: Collector, batch: StoredBatch, max_tokens: int | None) -> None:
    count = len(batch) if max_tokens is None else min(len(batch), max_tokens - collector.n_tokens)

    def column(values: Any) -> Any:
        """An annotation of the rows, -1 where it is not known; None where it is known of none."""
        array = None if values is None else values[:count].numpy()
        return None if array is None or (array < 0).all() else array

    collector.begin(
        BatchRows(
            shape=(count,),
            keep=np.ones(count, np.bool_),
            token_ids=column(batch.token_ids),
            sequence_ids=column(batch.sequence_ids),
            positions=column(batch.positions),
        )
    )
    for name, rows in batch.rows.items():
        collector.add(name, rows[:count])
    collector.end()
