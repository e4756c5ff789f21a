"""A request, checked and loaded: everything that can fail before the model runs fails here, cheapest
first."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repgeom.checks import is_peer
from repgeom.collect import Collector
from repgeom.layer_moments import MomentsPolicy
from repgeom.measurand import Measurand, find_measurand, parse_hook_points
from repgeom.metadata import describe_model, model_key
from repgeom.metrics import ROUTER, in_full, needs, parse_diagnostics, parse_metrics, parse_pool
from repgeom.pooling import SequenceSample
from repgeom.probe import accepts
from repgeom.readings import Settings
from repgeom.registry import OF_COVARIANCE
from repgeom.request import Request
from repgeom.results import save_target
from repgeom.routed import RouterCounts
from repgeom.sampling import TokenSample
from repgeom.source import Peekable, Source, open_source


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

    @property
    def pooled_limit(self) -> int:
        """Sequences that are pooled at most."""
        sequences = self.collector.sequences
        return 0 if sequences is None else sequences.sample.limit


def prepare(request: Request) -> Run:
    """Checks everything that can be checked before the model runs, cheapest first."""
    families, wanted = parse_metrics(request.metrics), parse_diagnostics(request.diagnostics)
    parse_hook_points(request.hook_point)
    mode, target = save_target(request.save_mode, request.save_dir, request.run_name, request.overwrite)
    names = tuple(dict.fromkeys((*families, *wanted)))
    poolings = parse_pool(request.pool, names)
    started = time.perf_counter()
    measurand = find_measurand(request)
    data = None if request.dataloader is None else Peekable(request.dataloader)
    measurand = measurand.probed(None if data is None else data.peek)
    source = open_source(measurand, data, request)
    collector = _collector(request, measurand, names, poolings)
    collector.routing = _routing(request, measurand, families)
    collector.seconds["load"] = time.perf_counter() - started
    label = measurand.label
    settings = Settings(model_key(label), label, names, request.novelty_k, request.compat, request.threads)
    metadata = {
        "model_id": label,
        "max_tokens": request.max_tokens,
        "hook_point": ",".join(measurand.hook_points),
        "tower": measurand.anatomy.tower if measurand.anatomy else None,
        "sample_limit": request.sample_limit,
        "novelty_k": request.novelty_k,
        "pool": list(poolings),
        "hook_targets": measurand.targets,
        "num_blocks": measurand.num_blocks,
        "metrics": sorted({*families, *([ROUTER] if collector.routing else [])}),
        "diagnostics": sorted(wanted),
        "save_mode": mode,
        "run_name": request.run_name,
        "tokenizer": request.tokenizer_name or getattr(measurand.tokenizer, "name_or_path", None),
        "dataset": source.name,
        "dataset_sha256": source.sha256,
        "token_policy": request.policy.to_dict(),
        "max_length": source.plan.max_length if source.plan else None,
        "batch_size": request.batch_size if source.plan else None,
        "batching": source.plan.batching if source.plan else None,
        "bits_per_byte_ratio": source.plan.bits_per_byte_ratio if source.plan else None,
        "compat": request.compat,
        "seed": request.seed,
        "memory_limit": request.memory_limit,
        **({} if request.run_metadata is None else {"run_metadata": dict(request.run_metadata)}),
        **describe_model(measurand.model),
    }
    forward = {"use_cache": False} if accepts(measurand.model, "use_cache") else {}
    return Run(measurand, source, collector, settings, forward, mode, target, request.overwrite, metadata)


def _routing(request: Request, measurand: Measurand, families: tuple[str, ...]) -> RouterCounts | None:
    """What counts the choices of routers, if there are any and nobody said no.

    Raises:
        ValueError: They were asked for and there are none.
    """
    if request.output_router_logits is False:
        if ROUTER in families:
            raise ValueError("metrics='router' needs output_router_logits to be 'auto' or True, got False")
        return None
    demanded = request.output_router_logits is True or ROUTER in families
    if measurand.only_modules and not demanded:
        return None
    try:
        routers = measurand.find_routers()
    except ValueError:
        # Nobody asked for them.
        if demanded:
            raise
        routers = ()
    if demanded and not routers:
        raise ValueError(
            f"router statistics need a mixture of experts, and no router was found in the measured blocks of "
            f"{measurand.label}"
        )
    return RouterCounts(routers) if routers else None


def _collector(
    request: Request, measurand: Measurand, names: tuple[str, ...], poolings: tuple[str, ...]
) -> Collector:
    peer, policy = is_peer(request.compat), request.policy
    # What a policy leaves out is reported as a share of the variance.
    selects = policy.to_dict() != type(policy)().to_dict()
    sequences = SequenceSample(TokenSample(request.sequence_limit, seed=request.seed)) if poolings else None
    return Collector(
        measurand.statistics(),
        TokenSample(request.sample_limit, seed=request.seed, first=peer),
        request.threads,
        moments=selects or bool(OF_COVARIANCE & needs(names)),
        moments_policy=MomentsPolicy.of_run(
            request.memory_limit, novelty_k=request.novelty_k, in_full=in_full(names, request.compat)
        ),
        high_norm=policy.high_norm,
        sequences=sequences,
        poolings=poolings,
    )
