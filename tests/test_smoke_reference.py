"""The whole run against recorded runs of representation_geometry 0.1.0 on the same model and tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reference
import repgeom
from repgeom.checks import PEER

HOOK_POINTS = (
    "residual_input",
    "residual_output",
    "module_output:blocks.0.proj",
    "module_input:lm_head",
)
WIDTH, BLOCKS, VOCAB = 8, 3, 32
# "default" is resolved, a dataloader has a name, and the artifact is ours.
OTHER_METADATA = {"artifact_schema_version", "dataset", "metrics"}
# What the peer computes otherwise on purpose (its tolerance is that of float32 sums).
BIASED = "linear_cka"
OURS_ONLY = {
    "metrics": ["d_pr_debiased", "near_rank_one", "sv_entropy_rank", "nonfinite_tokens", "status", "rank"],
    "novelty": ["linear_cka_biased", "note"],
}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + torch.tanh(self.proj(self.norm(hidden)))


class TinyTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.lm_head = nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        del attention_mask
        hidden = self.embed(input_ids)
        for block in self.blocks:
            hidden = block(hidden)
        return self.lm_head(hidden)


@pytest.fixture(scope="module")
def model() -> TinyTransformer:
    prefix = "in.spectral.smoke.param."
    module = TinyTransformer()
    names = [name for name, _ in module.named_parameters()]
    module.load_state_dict({name: torch.from_numpy(reference.array(prefix + name)) for name in names})
    return module.eval()


@pytest.fixture(scope="module")
def batches() -> list[dict[str, Tensor]]:
    ids = torch.from_numpy(reference.array("in.spectral.smoke.input_ids")).long()
    assert ids.shape == (4, 2, 5)
    return [{"input_ids": batch, "attention_mask": torch.ones_like(batch)} for batch in ids]


def analyze(model: nn.Module, batches: Any, **options: Any) -> repgeom.AnalysisResults:
    return repgeom.analyze_model(
        model, batches, diagnostics=["normalization_ablation"], progress=False, **options
    )


def wanted(hook_point: str) -> tuple[dict[str, Any], dict[str, Any]]:
    key = f"spectral.smoke.{hook_point}"
    return reference.expected(key), reference.entry(key)["args"]


def rows(frame: Any) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def test_every_recorded_run_is_compared():
    recorded = {key.removeprefix("spectral.smoke.") for key in reference.keys("spectral.smoke.")}
    assert {name for name in recorded if not name.startswith("tokens.")} == set(HOOK_POINTS)


@pytest.mark.parametrize("hook_point", HOOK_POINTS)
def test_compat_reproduces_every_table(model, batches, hook_point):
    want, args = wanted(hook_point)
    found = analyze(model, batches, compat=PEER, **args)
    tables = {
        "metrics": rows(found.metrics),
        "novelty": rows(found.novelty),
        "ablation": rows(found.diagnostics["normalization_ablation"]),
    }
    assert set(want) == {*tables, "metadata"}
    reference.assert_matches(f"spectral.smoke.{hook_point}", tables, ignore={"metadata"})
    assert set(want["metadata"]) <= set(found.metadata)
    differing = {name for name, value in want["metadata"].items() if found.metadata[name] != value}
    assert differing == OTHER_METADATA
    for name in ("metrics", "novelty", "ablation"):
        assert len(tables[name]) == len(want[name])
        assert not want[name] or [*tables[name][0]] == [*want[name][0]], f"columns of {name}"


@pytest.mark.parametrize("hook_point", HOOK_POINTS)
def test_the_eigenvalues_of_compat_are_those_of_the_exact_covariance(model, batches, hook_point):
    """The recorded runs hold no eigenvalues."""
    _, args = wanted(hook_point)
    found = analyze(model, batches, compat=PEER, **args)
    streams = by_hand(model, batches, hook_point)
    assert len(streams) == len(found.eigenvalues) == len(found.metrics)
    for stream, values in zip(streams, found.eigenvalues.values(), strict=True):
        exact = np.linalg.eigvalsh(np.cov(stream, rowvar=False))[::-1]
        np.testing.assert_allclose(values, exact, rtol=1e-5, atol=1e-6 * exact[0])


@pytest.mark.parametrize("hook_point", HOOK_POINTS)
def test_without_compat_only_the_documented_columns_differ(model, batches, hook_point):
    """All 40 tokens fit the sample, so that even the sample is the same set of tokens."""
    want, args = wanted(hook_point)
    found = analyze(model, batches, **args)
    key = f"spectral.smoke.{hook_point}"
    ours = {"metrics": rows(found.metrics), "novelty": rows(found.novelty)}
    ours["ablation"] = rows(found.diagnostics["normalization_ablation"])
    reference.assert_matches(key, ours, ignore={"metadata", BIASED})
    for name, columns in OURS_ONLY.items():
        assert not ours[name] or set(columns) <= set(ours[name][0])
    biased = [{BIASED: row["linear_cka_biased"]} for row in ours["novelty"]]
    assert [row[BIASED] for row in biased] == pytest.approx(
        [row[BIASED] for row in want["novelty"]], rel=1e-3, abs=1e-4
    )
    for row in ours["novelty"]:
        assert row[BIASED] < row["linear_cka_biased"] - 1e-3, "debiasing lowers the CKA of 40 rows"
    assert [row["status"] for row in ours["metrics"]] == ["ok"] * len(ours["metrics"])


def test_the_sample_is_random_and_paired_unless_compat_asks_for_the_first_tokens(model, batches):
    streams = by_hand(model, batches, "residual_input")
    ids = torch.cat([batch["input_ids"].reshape(-1) for batch in batches]).numpy()
    peer = analyze(model, batches, sample_limit=12, compat=PEER)
    ours = analyze(model, batches, sample_limit=12, seed=3)
    assert peer.arrays["sample.index"].tolist() == [*range(12)]
    index = ours.arrays["sample.index"]
    assert index.tolist() != [*range(12)]
    assert len(set(index.tolist())) == 12
    assert (np.diff(index) > 0).all()
    for results in (peer, ours):
        index = results.arrays["sample.index"]
        assert (results.arrays["sample.token_ids"] == ids[index]).all()
        for layer, stream in enumerate(streams):
            sampled = results.arrays[f"sample.layer_{layer:02d}"]
            np.testing.assert_allclose(sampled, stream[index], rtol=1e-6, atol=1e-6)
    other = analyze(model, batches, sample_limit=12, seed=4)
    assert other.arrays["sample.index"].tolist() != index.tolist()


@pytest.mark.parametrize("compat", [None, PEER])
@pytest.mark.parametrize("limit", [None, 0, 1, 10, 11, 1000])
def test_batches_are_counted_as_the_peer_counts_them(model, batches, limit, compat):
    key = f"spectral.smoke.tokens.max_{limit}"
    assert reference.entry(key)["args"]["max_tokens"] == limit
    found = analyze(model, batches, max_tokens=limit, compat=compat)
    reference.assert_matches(key, found.metadata["tokens_observed"])
    assert found.metadata["batches_observed"] * 10 == reference.expected(key)
    if limit == 0:
        assert found.metrics.empty
        assert found.novelty.empty
        assert found.eigenvalues == {}
    else:
        assert set(found.metrics["tokens_observed"]) == {reference.expected(key)}


def by_hand(model: nn.Module, batches: Any, hook_point: str) -> list[np.ndarray]:
    """``[n, d]`` of every layer of a hook point, by hooks of this test."""
    if ":" in hook_point:
        kind, path = hook_point.split(":")
        places = [(model.get_submodule(path), kind.removeprefix("module_"))]
    else:
        places = [(block, hook_point.removeprefix("residual_")) for block in model.blocks]
    seen: list[list[Tensor]] = [[] for _ in places]
    handles = [
        module.register_forward_hook(
            lambda _m, args, output, here=here, side=side: here.append(args[0] if side == "input" else output)
        )
        for here, (module, side) in zip(seen, places, strict=True)
    ]
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    for handle in handles:
        handle.remove()
    return [torch.cat([x.reshape(-1, x.shape[-1]) for x in here]).double().numpy() for here in seen]
