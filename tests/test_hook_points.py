"""Runs that read several places at once, other stacks, and the choices of routers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import model_families
import repgeom
from repgeom.tokens import TokenPolicy


def analyze(model: nn.Module, batches: Any, **options: Any) -> repgeom.AnalysisResults:
    return repgeom.analyze_model(model=model, dataloader=batches, progress=False, **options)


def padded(*lengths: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = len(lengths), max(lengths)
    ids = torch.randint(3, model_families.VOCAB, shape, generator=generator)
    mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}


BATCHES = [padded(9, 4, seed=1), padded(12, 7, 10, seed=2)]
MASKS = [batch["attention_mask"].bool() for batch in BATCHES]


def captured(model: nn.Module, site: str, batches: Any = BATCHES, masks: Any = MASKS) -> np.ndarray:
    rows = []
    with repgeom.capture(model, site, stop_early=False) as activations:
        for batch, mask in zip(batches, masks, strict=True):
            activations.run(**batch)
            rows.append(activations[site][mask])
    return torch.cat(rows).double().numpy()


def assert_measured(found: repgeom.AnalysisResults, name: str, rows: np.ndarray) -> None:
    np.testing.assert_allclose(found.arrays[f"mean.{name}"], rows.mean(0), rtol=1e-4, atol=1e-5)
    values = np.sort(np.linalg.eigvalsh(np.cov(rows.T)))[::-1]
    np.testing.assert_allclose(found.eigenvalues[name], values, rtol=1e-3, atol=1e-5 * values[0])


def test_several_hook_points_in_one_pass():
    model = model_families.build("llama")
    points = ["embed", "residual_input", "attn_out", "resid_mid", "mlp_out", "final_norm"]
    points += ["module_output:model.layers.1.mlp.gate_proj"]
    found = analyze(model, BATCHES, hook_point=points, layers="0,2")
    sites = ["embed"]
    sites += [f"{kind}.{i}" for kind in ("resid_pre", "attn_out", "resid_mid", "mlp_out") for i in (0, 2)]
    sites += ["final_norm", "model.layers.1.mlp.gate_proj:output"]
    assert found.metrics["site"].tolist() == sites
    assert found.metadata["sites"] == sites
    for site in sites:
        assert_measured(found, site, captured(model, site))
    # Only layers of the same hook point are compared.
    assert found.novelty["site"].tolist() == ["resid_pre.0", "attn_out.0", "resid_mid.0", "mlp_out.0"]
    assert found.novelty["transition"].tolist() == ["0->2"] * 4
    alone = analyze(model, BATCHES, hook_point="mlp_out", layers="0,2")
    assert "site" not in alone.metrics.columns
    same = found.metrics[found.metrics["site"].str.startswith("mlp_out")]
    for column in ("d_pr", "rms_norm", "sv_effective_rank", "layer", "num_layers"):
        assert same[column].tolist() == pytest.approx(alone.metrics[column].tolist()), column


def test_several_hook_points_survive_the_disk(tmp_path):
    found = analyze(
        model_families.build("llama"), BATCHES, hook_point="embed,residual_output", save_dir=tmp_path / "run"
    )
    again = repgeom.load_results(tmp_path / "run")
    assert again.metrics.equals(found.metrics)
    assert set(again.eigenvalues) == {"embed", "resid_post.0", "resid_post.1", "resid_post.2"}


def test_layers_without_the_site_say_so():
    """Blocks of a hybrid model have other branches, and a parallel block has nothing between its two."""
    model = model_families.build("gpt_neox")
    with pytest.raises(ValueError, match=r"no layer has what was asked for: .*parallel"):
        analyze(model, BATCHES, hook_point="resid_mid")
    found = analyze(model, BATCHES, hook_point="attn_out")
    assert (found.metrics["status"] == "ok").all()


@pytest.mark.parametrize(
    ("points", "layers", "message"),
    [
        ([], "all", "at least one, got"),
        ("attn_out,attn_out", "all", "distinct places"),
        ("attn_in", "all", "hook_point must be one of"),
        ("embed", "0", "layers must be 'all' with embed"),
        ("residual_input", "0,99", r"layers must be in 0..2, but \[99\]"),
        ("residual_input", "1,1", r"\[1\] are repeated"),
        ("module_output:model.layer.1.mlp", "all", "nearest: model.layers.1.mlp"),
    ],
)
def test_bad_places(points, layers, message):
    with pytest.raises(ValueError, match=message):
        analyze(model_families.build("llama"), BATCHES, hook_point=points, layers=layers)


# --- routers ---


def chosen_experts(model: nn.Module) -> np.ndarray:
    """``[layers, experts]`` assignments of the real tokens, by the model's own router logits."""
    counts = np.zeros((model_families.LAYERS, model.config.num_local_experts), int)
    for batch, mask in zip(BATCHES, MASKS, strict=True):
        with torch.no_grad():
            logits = model(**batch, output_router_logits=True).router_logits
        for layer, scores in enumerate(logits):
            best = scores.topk(model.config.num_experts_per_tok, dim=-1).indices[mask.reshape(-1)]
            counts[layer] += np.bincount(best.reshape(-1).numpy(), minlength=counts.shape[1])
    return counts


@pytest.mark.parametrize("layers", ["all", "1", "0,2"])
@pytest.mark.parametrize("policy", [TokenPolicy(), TokenPolicy(high_norm=1e6)])
def test_routers_count_real_tokens_by_block(layers, policy):
    model = model_families.build("mixtral")
    counts = chosen_experts(model)
    found = analyze(model, BATCHES, layers=layers, token_policy=policy)
    wanted = range(3) if layers == "all" else [int(i) for i in layers.split(",")]
    assert found.router["layer"].tolist() == [*wanted]
    for row in found.router.itertuples():
        load = counts[row.layer] / counts[row.layer].sum()
        assert row.routed_assignments == counts[row.layer].sum()
        assert row.top_expert_load == pytest.approx(load.max())
        assert row.most_used_expert == load.argmax()
        assert row.router_entropy == pytest.approx(-(load[load > 0] * np.log(load[load > 0])).sum())


def test_routers_are_there_on_request_only():
    model = model_families.build("mixtral")
    assert analyze(model, BATCHES, output_router_logits=False).router.empty
    assert len(analyze(model, BATCHES, metrics="router").router) == 3
    dense = model_families.build("llama")
    assert analyze(dense, BATCHES).router.empty
    for options in ({"metrics": "router"}, {"output_router_logits": True}):
        with pytest.raises(ValueError, match="no router was found"):
            analyze(dense, BATCHES, **options)
    with pytest.raises(ValueError, match="output_router_logits must be"):
        analyze(dense, BATCHES, output_router_logits="yes")


def test_listening_to_routers_changes_nothing_else():
    model = model_families.build("mixtral")
    found, plain = (analyze(model, BATCHES, output_router_logits=wanted) for wanted in ("auto", False))
    assert found.metrics.equals(plain.metrics)
    assert found.novelty.equals(plain.novelty)


# --- encoders and decoders ---


def pairs() -> list[dict[str, Tensor]]:
    """Batches for T5 whose encoder and decoder sides are padded differently."""
    batches = []
    for seed, (left, right) in enumerate([((9, 4), (5, 6)), ((3, 8), (7, 2))]):
        encoder, decoder = padded(*left, seed=seed), padded(*right, seed=seed + 10)
        batches.append({**encoder, **{f"decoder_{name}": value for name, value in decoder.items()}})
    return batches


def test_the_decoder_is_measured_at_its_own_tokens():
    model = model_families.build("t5")
    masks = [batch["decoder_attention_mask"].bool() for batch in pairs()]
    found = analyze(model, pairs())
    assert found.metadata["tower"] == "decoder.block"
    assert found.metadata["tokens_observed"] == 20
    for layer in range(3):
        assert_measured(found, f"layer_0{layer}", captured(model, f"resid_pre.{layer}", pairs(), masks))


def test_the_encoder_is_measured_on_request_and_where_nothing_decodes():
    model = model_families.build("t5")
    encoder = model.get_submodule("encoder")
    rows = []
    for batch in pairs():
        mask = batch["attention_mask"]
        with torch.no_grad():
            states = encoder(batch["input_ids"], attention_mask=mask, output_hidden_states=True)
        rows.append(states.hidden_states[1][mask.bool()])
    want = torch.cat(rows).double().numpy()
    alone = [{name: batch[name] for name in ("input_ids", "attention_mask")} for batch in pairs()]
    for found in (analyze(model, pairs(), tower="encoder"), analyze(model, alone)):
        assert found.metadata["tower"] == "encoder.block"
        assert found.metadata["tokens_observed"] == 24
        assert_measured(found, "layer_01", want)
    with pytest.raises(ValueError, match="tower"):
        analyze(model, pairs(), tower="vision")
