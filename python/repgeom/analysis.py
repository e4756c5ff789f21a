"""The main job: one pass over text, statistics of every layer, measurements, results."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from repgeom.capture import Activations, capture
from repgeom.interrupts import announce, deferred_interrupt
from repgeom.measurand import BLOCK_SITES, running
from repgeom.outcome import MeasurementWarning, RunInterrupted, conclude
from repgeom.plan import Plan, eigenproblem_seconds, memory_needed
from repgeom.prepare import Run, prepare
from repgeom.request import Request
from repgeom.results import AnalysisResults
from repgeom.routed import capture_routers
from repgeom.tokens import TokenBatch, TokenPolicy


def analyze_model(
    model_name: str | nn.Module | None = None,
    dataloader: Iterable[Any] | None = None,
    *,
    model: nn.Module | None = None,
    tokenizer: Any = None,
    text: str | Path | Sequence[str] | None = None,
    max_tokens: int | None = 100_000,
    max_length: int = 512,
    batch_size: int = 8,
    batching: Literal["order", "bucketed", "chunk"] = "order",
    layers: str | int | Sequence[int] = "all",
    hook_point: str | Sequence[str] = "residual_input",
    tower: str | None = None,
    metrics: str | Sequence[str] | None = "default",
    diagnostics: str | Sequence[str] | None = None,
    output_router_logits: bool | Literal["auto"] = "auto",
    pool: str | Sequence[str] | None = None,
    sequence_limit: int = 2048,
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
    memory_limit: int | None = None,
    run_name: str | None = None,
    tokenizer_name: str | None = None,
    dataset_name: str | None = None,
    run_metadata: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> AnalysisResults:
    """Measures the geometry of the hidden states of every layer of a model.

    Activations go from hooks straight into streaming statistics: nothing is cached beyond a sample of
    ``sample_limit`` tokens, the language-model head is not run, and the forward stops after the last block
    that is needed. Only real tokens count. With neither a model nor data, the demo model that ships with
    repgeom is measured on the demo corpus.

    Args:
        model_name: Hub id or folder, or a module. Default: the demo model.
        dataloader: Batches: mappings, tensors or tuples. The alternative to ``text``.
        model: A module; takes precedence over ``model_name``, which then is its label.
        tokenizer: A tokenizer, or its hub id or folder; default: the one that comes with the model.
        text: A string, several strings (documents), or the ``Path`` of a UTF-8 text file. Default: the demo
            corpus.
        max_tokens: Tokens that count. Text is cut exactly there; batches of a dataloader are not split, so
            they may exceed it. None: no limit; 0: empty tables.
        max_length: Tokens per sequence that text is cut into: how much context a token has.
        batch_size: Sequences of text per call of the model; does not change the results beyond rounding.
        batching: How text becomes batches: ``"order"`` (of the documents), ``"bucketed"`` (sorted by length,
            for little padding), or ``"chunk"`` (documents joined and cut into chunks of ``max_length``).
        layers: ``"all"``, ``"0,3,7"``, ``"0:12:2"``, or indices.
        hook_point: One or several (separated by commas, or in a list) of ``residual_input`` (what enters each
            block), ``residual_output``, ``attn_out`` and ``mlp_out`` (what a block's two branches add),
            ``resid_mid`` (between them; in post-norm blocks before their norm), ``embed``, ``final_norm``,
            ``module_input:<path>``, ``module_output:<path>``. With several, tables have a column ``site``.
        tower: Path of the stack of blocks, where a model has several (``"encoder"``); default: the one that
            feeds the output, or the encoder where the data are plain text or token ids.
        metrics: Measurements, in a list or separated by commas: ``spectrum``, ``sample``, ``novelty``,
            ``dimension``, ``overlap``, ``imbalance``, ``similarity``,
            ``homology``, ``router`` and those registered with
            :func:`repgeom.metric`. ``"default"``, and none, is the first three.
        diagnostics: ``normalization_ablation``, and registered measurements of scope "table".
        output_router_logits: Count where the routers of a mixture of experts send the tokens; ``"auto"``: if
            there are any.
        pool: Keep pooled vectors of sequences: some of ``last``, ``mean``, ``first`` and ``max``, over the
            tokens that count; one that holds NaN or infinity passes it on.
        sequence_limit: Sequences that are pooled, a seeded sample, the same ones in every layer.
        sample_limit: Tokens whose activations are kept, the same ones in every layer.
        novelty_k: Leading eigenvectors compared between consecutive layers.
        save_mode: ``bundle``, ``csv`` or ``json``; default ``bundle`` if ``save_dir`` is given, else nothing
            is saved.
        save_dir: Folder of the results; default ``run_name``, else ``repgeom-run``.
        overwrite: Replace an earlier run in ``save_dir``.
        device: Where the model runs; a module given here is moved back afterwards.
        dtype: Precision to load the model in; ``"auto"`` is that of the checkpoint.
        device_map: Handed to transformers when the model is loaded.
        model_kwargs: Further arguments for loading.
        trust_remote_code: Allow code of the checkpoint to run.
        token_policy: Which positions count; default: real tokens only.
        compat: ``"representation-geometry"`` reproduces that program's numbers where ours differ on purpose
            (first tokens as sample, biased CKA, plain slope and cut-offs).
        seed: Seed of the sample.
        threads: Threads of the kernels; default: all processors.
        memory_limit: Bytes that the covariances of all layers and the eigenproblem of one may take; default:
            what is free, and no limit for those on a device. Where they would take more, every layer has a
            sketch (:class:`repgeom.NystromSketch`) instead, with a warning and ``status="sketch"``: trace and
            mean are exact, ``d_pr`` is an estimate with ``d_pr_sketch_se``, and the columns ``_low`` and
            ``_high`` bound it and other spectral metrics (see :class:`repgeom.Spectrum`).
        run_name: Recorded; also the default folder.
        tokenizer_name: Recorded.
        dataset_name: Recorded; default: the file name, or what the data are.
        run_metadata: Recorded.
        progress: Show a progress bar on standard error.

    Returns:
        The tables, eigenvalues, arrays and metadata; saved if ``save_dir`` or ``save_mode`` was given.

    Raises:
        ValueError: An option that breaks its rule, text or batches without tokens, fewer than two tokens, a
            width that changes between batches.
        RuntimeError: A site that did not fire.
        FileExistsError: ``save_dir`` holds another run.
        RunInterrupted: Ctrl-C; the results so far are in the exception.

    Example:
        >>> results = repgeom.analyze_model("gpt2", text=["Some text.", "More of it."])
        >>> results.metrics[["layer", "d_pr", "d_entropy"]]
    """
    options = {name: value for name, value in locals().items() if name != "progress"}
    started = time.perf_counter()
    run = prepare(Request(**options))
    with deferred_interrupt(announce) as pressed:
        cut_short = _collect(run, progress, pressed)
        metadata = {**run.metadata, "padding_check": run.source.padding.to_dict()}
        results = conclude(run.collector, run.settings, metadata, interrupted=cut_short, started=started)
        if run.save_mode is not None:
            results.save(save_dir=run.save_dir, save_mode=run.save_mode, overwrite=run.overwrite)
    if pressed():
        raise RunInterrupted(results)
    for note in results.metadata["warnings"]:
        warnings.warn(note, MeasurementWarning, stacklevel=2)
    return results


def plan_analysis(
    model_name: str | nn.Module | None = None, dataloader: Iterable[Any] | None = None, **options: Any
) -> Plan:
    """What :func:`analyze_model` with the same arguments would do and cost; runs and times one batch.

    Args:
        model_name: As in :func:`analyze_model`.
        dataloader: As in :func:`analyze_model`; one batch is drawn from it.
        **options: Those of :func:`analyze_model`, ``progress`` apart.

    Returns:
        The plan; print it.
    """
    run = prepare(Request(model_name=model_name, dataloader=dataloader, **options))
    first = run.source.peek()
    positions, rank = run.source.largest_batch, run.collector.moments_policy.rank
    widths: dict[str, int] = {}
    sketched: frozenset[int] = frozenset()
    seconds: dict[str, float] = {}
    if first is not None:
        widths, forward, statistics = _time_batch(run, first)
        sketched = _sketched_widths(run, widths)
        share = (run.source.n_positions or positions) / max(1, first.n_tokens + first.n_padding)
        seconds["forward"] = forward * share
        seconds["statistics"] = statistics * share
    seconds["measurements"] = eigenproblem_seconds(list(widths.values()), sketched, rank)
    return Plan(
        model=f"{run.settings.model_label} ({run.metadata['model_class']})",
        sites=tuple(run.collector.layers),
        widths=tuple(widths.values()),
        data=run.source.name,
        n_tokens=run.source.n_tokens,
        limit=run.source.limit,
        n_sequences=run.source.n_sequences,
        n_batches=run.source.n_batches,
        largest_batch=positions,
        blocks_run=run.measurand.blocks_run,
        memory=memory_needed(
            list(widths.values()),
            run.collector.sample.limit,
            positions,
            pooled=len(run.collector.poolings) * run.pooled_limit,
            waiting=run.collector.high_norm is not None,
            sketched=sketched,
            rank=rank,
        ),
        sketches=f"covariances of rank {rank}, as in full they do not fit in memory_limit"
        if sketched
        else "",
        seconds=seconds,
        out=str(run.save_dir) if run.save_mode else None,
    )


def _time_batch(run: Run, batch: TokenBatch) -> tuple[dict[str, int], float, float]:
    """Width of every site, and seconds of a forward and of its statistics; keeps those of one site only."""
    collector = run.collector
    widths = {site: 0 for site, layer in collector.layers.items() if not layer.missing}
    one = next(iter(widths))

    def look(site: str, activation: Tensor) -> None:
        if site in widths:
            widths[site] = activation.shape[-1]
        if site == one:
            collector.add(site, activation)

    with running(run.measurand) as device, _capturing(run, look) as activations:
        _run_batch(activations, run, batch, device)
    seconds = collector.seconds
    return widths, seconds["forward"], len(widths) * (seconds["covariance"] + seconds["sample"])


def _sketched_widths(run: Run, widths: Mapping[str, int]) -> frozenset[int]:
    """Widths of the layers that will have sketches, from the one layer that was measured."""
    collector = run.collector
    layer = collector.layers[next(iter(widths))]
    if layer.moments is None or layer.rows is None:
        return frozenset()
    policy, device = collector.moments_policy, layer.rows.device
    return frozenset(
        width for width in widths.values() if policy.sketches(width, len(collector.layers), device)
    )


@contextmanager
def _capturing(run: Run, on_activation: Callable[[str, Tensor], None]) -> Iterator[Activations]:
    """Hooks on all sites and routers; the forward stops where nothing more is needed."""
    measurand, collector = run.measurand, run.collector
    sites = [site for site, layer in collector.layers.items() if not layer.missing]
    routers = () if collector.routing is None else collector.routing.routers
    if routers:
        # The forward must reach the last router.
        end = f"resid_post.{max(router.block for router in routers)}"
        sites += [] if end in sites else [end]
    with (
        capture_routers(measurand.model, routers, collector.choose),
        capture(
            measurand.model, sites, on_activation=on_activation, anatomy=measurand.anatomy
        ) as activations,
    ):
        yield activations


def _collect(run: Run, progress: bool, pressed: Callable[[], bool]) -> bool:
    """Runs the batches; whether Ctrl-C cut them short."""
    collector = run.collector
    with (
        running(run.measurand) as device,
        _capturing(run, collector.add) as activations,
        tqdm(
            total=run.source.n_tokens, unit="tok", unit_scale=True, disable=not progress, desc="measuring"
        ) as bar,
    ):
        run.metadata["input_device"] = str(device)
        _allocate(run, device)
        for batch in run.source.batches():
            _run_batch(activations, run, batch, device)
            bar.update(collector.n_tokens - bar.n)
            if pressed():
                return True
    return False


def _allocate(run: Run, device: torch.device) -> None:
    """Makes the statistics of the blocks before the first forward, where the model is in host memory."""
    anatomy = run.measurand.anatomy
    if anatomy is None or device.type != "cpu" or getattr(anatomy.model, "hf_device_map", None):
        return
    parameter = next(anatomy.model.parameters(), None)
    dtype = torch.float32 if parameter is None else parameter.dtype
    for site, layer in run.collector.layers.items():
        if layer.hook_point in BLOCK_SITES and not layer.missing:
            run.collector.allocate(site, anatomy.d_model, dtype, device)


def _run_batch(activations: Activations, run: Run, batch: TokenBatch, device: torch.device) -> None:
    collector = run.collector
    before = collector.seconds["covariance"] + collector.seconds["sample"]
    start = time.perf_counter()
    collector.begin(batch)
    batch = batch.to(device)
    try:
        activations.run(*batch.args, **{**batch.kwargs, **run.forward})
    except IndexError as error:
        length = 0 if batch.token_ids is None else batch.token_ids.shape[1]
        raise ValueError(
            f"the model failed on a batch of sequences of {length} tokens ({error}): "
            "is that more than it has positions?"
        ) from error
    collector.end()
    inside = collector.seconds["covariance"] + collector.seconds["sample"] - before
    collector.seconds["forward"] += time.perf_counter() - start - inside
