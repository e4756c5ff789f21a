"""Models that accelerate has dispatched or offloaded: the same numbers, and the same placement afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
import transformers
from torch import nn

from model_families import batch, build
from repgeom.anatomy import anatomy
from repgeom.branches import branches_summary
from repgeom.capture import capture

CPU = torch.device("cpu")
SITES = [
    *("embed", "resid_pre.0", "attn_out.1", "resid_mid.1", "mlp_out.1", "resid_post.2", "final_norm"),
    *("model.layers.1.mlp.down_proj:input", "model.layers.2:output"),
]


def dispatched(model: nn.Module, _folder: Path) -> nn.Module:
    return accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)


def offloaded(model: nn.Module, _folder: Path) -> nn.Module:
    return accelerate.cpu_offload(model, execution_device=CPU)


def on_disk(model: nn.Module, folder: Path) -> nn.Module:
    return accelerate.disk_offload(model, folder / "weights", execution_device=CPU)


def mixed(model: nn.Module, folder: Path) -> nn.Module:
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "disk"}
    places.update({f"model.layers.{i}": ("disk", "cpu", "disk")[i] for i in range(3)})
    return accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=folder / "weights")


def loaded(model: nn.Module, folder: Path) -> nn.Module:
    model.save_pretrained(folder / "model")
    return transformers.AutoModelForCausalLM.from_pretrained(folder / "model", device_map={"": "cpu"})


WAYS: list[Callable[..., Any]] = [dispatched, offloaded, on_disk, mixed, loaded]


def placement(model: nn.Module) -> list[tuple[str, torch.device, bool]]:
    return [(name, value.device, value.requires_grad) for name, value in model.named_parameters()]


@pytest.mark.parametrize("way", WAYS)
def test_captures_are_bitwise_those_of_the_whole_model(way, tmp_path):
    with capture(build("llama"), SITES) as expected:
        expected.run(**batch())
    model = way(build("llama"), tmp_path)
    before = placement(model)
    forward = model.model.layers[1].forward
    with capture(model, SITES) as activations:
        activations.run(**batch())
        activations.run(**batch())
    for site in SITES:
        assert torch.equal(activations[site], expected[site])
        assert activations[site].device == CPU
    assert placement(model) == before
    assert model.model.layers[1].forward == forward
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("way", WAYS)
def test_anatomy_branches_and_readout_are_found(way, tmp_path):
    whole, model = anatomy(build("llama")), anatomy(way(build("llama"), tmp_path))
    assert model.readout == whole.readout
    assert model.check().error <= 1e-6
    assert branches_summary(model) == branches_summary(whole)


@pytest.mark.parametrize("way", [offloaded, on_disk])
def test_weights_go_back_after_an_early_stop_and_after_an_error(way, tmp_path):
    """accelerate moves them back in the module's forward, which both cut short."""
    model = way(build("llama"), tmp_path)
    before, failing = placement(model), []
    assert {device.type for _, device, _ in before} == {"meta"}
    model.model.layers[2].register_forward_pre_hook(lambda *_: 1 / 0 if failing else None)
    with torch.no_grad():
        logits = model(**batch()).logits
    with capture(model, "resid_pre.1") as activations:
        assert activations.run(**batch()) is None
        failing.append(True)
    with pytest.raises(ZeroDivisionError), capture(model, "model.layers.2:output") as activations:
        activations.run(**batch())
    failing.clear()
    assert placement(model) == before
    with torch.no_grad():
        assert torch.equal(model(**batch()).logits, logits)
