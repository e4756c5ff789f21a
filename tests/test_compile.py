"""Captures and torch.compile: the right tensor, or an error that says what to do; no silent hook."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model_families import batch, build, custom
from repgeom.anatomy import anatomy
from repgeom.capture import capture

COMPILER = shutil.which("g++") and Path(sysconfig.get_paths()["include"], "Python.h").exists()
# Importing inductor warns.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
BACKENDS = ["eager", "aot_eager", *(["inductor"] if COMPILER else [])]
SITES = ["embed", "resid_pre.1", "resid_post.1", "blocks.2.mlp:output"]
IDS = batch(2, 4)["input_ids"]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def eager() -> dict[str, Tensor]:
    with capture(custom(), SITES, stop_early=False) as activations:
        activations.run(IDS)
    return {site: activations[site] for site in SITES}


def called(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(IDS)


def assert_right(activations) -> None:
    expected = eager()
    for site in SITES:
        torch.testing.assert_close(activations[site], expected[site], rtol=1e-5, atol=1e-6)
    assert activations.fired == dict.fromkeys(SITES, 1)


# ---- compiled before the capture


@pytest.mark.parametrize("stop_early", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_run_of_a_compiled_model_is_right(backend, stop_early):
    compiled = torch.compile(custom(), backend=backend)
    called(compiled)
    with capture(compiled, SITES, stop_early=stop_early) as activations:
        activations.run(IDS)
        assert_right(activations)
        activations.run(IDS)
        assert_right(activations)


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_plain_calls_of_a_compiled_model_are_right(backend, inner):
    model = custom()
    compiled = torch.compile(model, backend=backend)
    called(compiled)
    with capture(model if inner else compiled, SITES, stop_early=False) as activations:
        for call in (called, called, lambda _: activations.run(IDS), called):
            call(compiled)
            assert_right(activations)
    assert not model._forward_hooks
    assert not compiled._forward_hooks


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("part", ["", "blocks.1", "blocks.2.mlp"])
def test_modules_compiled_in_place_are_right(part, plain):
    model = custom()
    model.get_submodule(part).compile(backend="eager")
    called(model)
    with capture(model, SITES, stop_early=False) as activations:
        called(model) if plain else activations.run(IDS)
    assert_right(activations)


def test_submodule_replaced_by_a_compiled_one():
    model = custom()
    model.blocks[1] = torch.compile(model.blocks[1], backend="eager")
    called(model)
    site = "blocks.1._orig_mod.mlp:output"
    with capture(custom(), "blocks.1.mlp:output") as expected:
        expected.run(IDS)
    for plain in (False, True):
        with capture(model, [site, "resid_post.1"], stop_early=False) as activations:
            called(model) if plain else activations.run(IDS)
        assert torch.equal(activations[site], expected["blocks.1.mlp:output"])
        assert torch.equal(activations["resid_post.1"], eager()["resid_post.1"])


def test_anatomy_and_branches_of_a_compiled_language_model():
    model = build("llama")
    sites = ["resid_pre.0", "attn_out.1", "resid_mid.1", "mlp_out.2", "final_norm"]
    with capture(model, sites) as expected:
        expected.run(**batch())
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(**batch())
    assert anatomy(compiled).model is model
    with capture(compiled, sites) as activations:
        activations.run(**batch())
    assert all(torch.equal(activations[site], expected[site]) for site in sites)


def test_without_a_way_around_compiled_code_the_silent_sites_are_named(monkeypatch):
    """As with torch before 2.6."""
    monkeypatch.delattr(torch.compiler, "set_stance")
    model = custom()
    found = anatomy(model)
    model.compile(backend="eager")
    called(model)
    sites = ["embed", "resid_pre.1"]
    with (
        pytest.raises(
            RuntimeError, match=r"did not fire: embed, resid_pre\.1\..*compiled before the capture"
        ),
        capture(model, sites, anatomy=found, stop_early=False, on_activation=lambda *_: None) as activations,
    ):
        activations.run(IDS)


# ---- compiled inside


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiling_inside_the_capture_is_right(backend):
    model = custom()
    with capture(model, SITES, stop_early=False) as activations:
        compiled = torch.compile(model, backend=backend)
        for _ in range(3):
            called(compiled)
            assert_right(activations)
    activations.fired.clear()
    torch.testing.assert_close(called(compiled), called(model))
    assert activations.fired == {}


def test_early_stop_of_what_was_compiled_inside():
    model, reached = custom(), []
    with capture(model, SITES) as activations:
        compiled = torch.compile(model, backend="eager")
        called(compiled)
        reached.append("first")
        called(compiled)
        reached.append("second")
    assert reached == ["first"]
    assert_right(activations)
    torch.testing.assert_close(called(compiled), called(model))


def test_compiling_in_place_inside_the_capture_outlives_it():
    model = custom()
    with capture(model, SITES) as activations:
        model.compile(backend="eager")
        activations.run(IDS)
        activations.run(IDS)
    assert_right(activations)
    assert model._compiled_call_impl is not None
    torch.testing.assert_close(called(model), called(custom()))


# ---- what stays


def test_compiled_code_is_used_again_afterwards():
    frames = []

    def backend(graph, _example):
        def run(*args):
            frames.append(1)
            return graph.forward(*args)

        return run

    model = custom()
    compiled = torch.compile(model, backend=backend)
    called(compiled)
    with capture(model, SITES) as activations:
        frames.clear()
        activations.run(IDS)
        assert frames == []
    called(compiled)
    assert frames
    frames.clear()
    with pytest.raises(ZeroDivisionError), capture(model, SITES):
        raise ZeroDivisionError
    called(compiled)
    assert frames
