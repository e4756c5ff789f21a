from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import architectures
import repgeom
from model_families import BUILDERS, LAYERS, WIDTH, batch, build, custom, inputs_for
from repgeom.capture import capture
from repgeom.models import anatomy

RESIDUAL = [f"resid_{side}.{i}" for i in range(LAYERS) for side in ("pre", "post")]


class CallCounter:
    """Counts the runs of every module by wrapping its forward, below any hook."""

    def __init__(self, model):
        self.counts = Counter()
        for path, module in model.named_modules():
            module.forward = self.counted(path, module.forward)

    def counted(self, path, forward):
        def run(*args, **kwargs):
            self.counts[path] += 1
            return forward(*args, **kwargs)

        return run


def hooks(model):
    """Number of hooks of every kind on every module."""
    kinds = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_pre_hooks_with_kwargs",
    )
    return {name: [len(getattr(m, kind)) for kind in kinds] for name, m in model.named_modules()}


# ---- what is captured


@pytest.mark.parametrize("output", ["tensor", "tuple", "dict", "dataclass"])
@pytest.mark.parametrize("keyword", [False, True])
def test_all_forms_of_blocks(output, keyword):
    model, ids = custom(output, keyword=keyword), batch()["input_ids"]
    with capture(model, ["embed", *RESIDUAL, "final_norm"]) as activations:
        activations.run(ids)
    hidden = model.embed(ids)
    assert torch.equal(activations["embed"], hidden)
    for index in range(LAYERS):
        assert torch.equal(activations[f"resid_pre.{index}"], hidden)
        hidden = hidden + (0.5 if keyword else 1.0) * torch.tanh(model.blocks[index].mlp(hidden))
        assert torch.equal(activations[f"resid_post.{index}"], hidden)
    assert torch.equal(activations["final_norm"], model.norm(hidden))
    assert not activations["resid_pre.0"].requires_grad


def test_shared_block_is_captured_by_call():
    model, ids = custom(shared=True), batch()["input_ids"]
    with capture(model, RESIDUAL) as activations:
        activations.run(ids)
    hidden = model.embed(ids)
    for index in range(LAYERS):
        assert torch.equal(activations[f"resid_pre.{index}"], hidden)
        hidden = model.blocks[0](hidden)
        assert torch.equal(activations[f"resid_post.{index}"], hidden)
    assert set(activations.fired.values()) == {1}


def test_one_call_of_a_shared_block_stops_there():
    model = custom(shared=True)
    found, counter = anatomy(model), CallCounter(model)
    with capture(model, "resid_pre.1", anatomy=found) as activations:
        assert activations.run(batch()["input_ids"]) is None
    assert counter.counts["blocks.0"] == 1


def test_sequence_first_stream_is_turned():
    turned, plain, ids = custom(sequence_first=True), custom(), batch()["input_ids"]
    names = ["embed", *RESIDUAL]
    with capture(turned, names) as first, capture(plain, names) as second:
        first.run(ids)
        second.run(ids)
    for name in names:
        torch.testing.assert_close(first[name], second[name])


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_module_paths(family):
    model, inputs = build(family), inputs_for(family)
    block = anatomy(model).blocks[1].path
    sites = [f"{block}:input", f"{block}:output", "resid_pre.1", "resid_post.1"]
    with capture(model, sites) as activations:
        activations.run(**inputs)
    assert torch.equal(activations[sites[0]], activations["resid_pre.1"])
    assert torch.equal(activations[sites[1]], activations["resid_post.1"])


def test_several_targets_and_layers_in_one_pass():
    model = build("gpt2")
    sites = ["resid_mid.2", "transformer.h.0.mlp:input", "embed", "attn_out.0", "lm_head:output", "mlp_out.1"]
    with capture(model, sites) as together:
        together.run(**batch())
    assert together.sites == tuple(sites)
    for site in sites:
        with capture(model, site) as alone:
            alone.run(**batch())
        assert torch.equal(together[site], alone[site])


def test_module_outputs_of_all_forms():
    class Forms(nn.Module):
        def forward(self, x, form):
            return {"list": [None, x, x + 1], "nested": {"a": (x.long(), {"b": x})}, "tuple": (x,)}[form]

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Forms()

        def forward(self, x, form):
            return self.inner(form=form, x=x)

    x = torch.randn(2, 3)
    with capture(Outer(), ["inner:input", "inner:output"]) as activations:
        for form in ("list", "nested", "tuple"):
            activations.run(x + len(form), form)
            assert torch.equal(activations["inner:input"], x + len(form))
            assert torch.equal(activations["inner:output"], x + len(form))


def test_stream_longer_than_the_tokens_is_cut_to_them():
    model = architectures.build("causal", "cpmant")
    found, ids = anatomy(model), batch()["input_ids"]
    path = found.blocks[1].path
    with capture(model, ["resid_pre.1", "mlp_out.1", f"{path}:input"], anatomy=found) as activations:
        activations.run(input_ids=ids)
    whole = activations[f"{path}:input"]
    assert found.lengthens
    assert whole.shape[1] > ids.shape[1]
    assert activations["mlp_out.1"].shape == activations["resid_pre.1"].shape == (*ids.shape, whole.shape[2])
    start = found.first_position
    assert torch.equal(activations["resid_pre.1"], whole[:, start : start + ids.shape[1]])


def test_outputs_wrapped_by_options_are_still_found():
    model = build("bloom")
    with capture(model, ["resid_pre.1", "resid_post.1"]) as plain:
        plain.run(**batch())
    with capture(model, ["resid_pre.1", "resid_post.1"], stop_early=False) as wrapped:
        wrapped.run(**batch(), output_attentions=True, use_cache=True)
    assert all(torch.equal(plain[name], wrapped[name]) for name in plain)


def test_stored_tensors_do_not_change_with_the_model():
    model = custom()
    model.norm.register_forward_pre_hook(lambda _, args: (args[0].zero_(),))
    with capture(model, f"resid_post.{LAYERS - 1}", stop_early=False) as activations:
        activations.run(batch()["input_ids"])
    assert activations[f"resid_post.{LAYERS - 1}"].abs().max() > 0.1


def test_last_forward_counts():
    model = custom()
    first, second = batch(seed=1)["input_ids"], batch(2, 5, seed=2)["input_ids"]
    with capture(model, "embed") as activations:
        activations.run(first)
        activations.run(second)
    assert torch.equal(activations["embed"], model.embed(second))
    assert activations.fired == {"embed": 1}
    assert list(activations) == ["embed"]


def test_callback_receives_the_models_own_tensor():
    model, received, own = custom(), {}, []
    model.blocks[0].register_forward_hook(lambda _, __, output: own.append(output.data_ptr()))
    with capture(
        model, ["resid_post.0", "resid_post.1"], on_activation=received.__setitem__, anatomy=anatomy(model)
    ) as activations:
        activations.run(batch()["input_ids"])
    assert list(received) == ["resid_post.0", "resid_post.1"]
    assert received["resid_post.0"].data_ptr() == own[-1]
    assert "resid_post.0" not in activations
    with pytest.raises(KeyError, match="handed to on_activation"):
        activations["resid_post.0"]


def test_reading_a_site_that_is_not_there():
    with capture(custom(), "resid_post.0") as activations:
        with pytest.raises(KeyError, match=r"no tensor is kept for 'resid_post\.0': it did not fire"):
            activations["resid_post.0"]
        with pytest.raises(KeyError, match=r"captured sites: resid_post\.0"):
            activations["resid_post.1"]


# ---- stopping


@pytest.mark.parametrize("family", [name for name in BUILDERS if name not in ("albert", "t5")])
def test_nothing_after_the_last_needed_site_runs(family):
    model, inputs = build(family), inputs_for(family)
    found = anatomy(model)
    for sites, last_run in ((["resid_pre.1"], 0), (["resid_post.1", "resid_pre.0"], 1), (["embed"], -1)):
        with capture(model, sites, anatomy=found) as activations:
            counter = CallCounter(model)
            assert activations.run(**inputs) is None
        ran = [counter.counts[block.path] for block in found.blocks]
        assert ran == [int(index <= last_run) for index in range(LAYERS)]
        assert found.final_norm is None or counter.counts[found.final_norm] == 0
        assert found.unembedding is None or counter.counts[found.unembedding] == 0


def test_stopped_forwards_leave_the_model_as_it_was():
    model, inputs = build("gpt2"), batch()
    with torch.no_grad():
        before = model(**inputs).logits
        with capture(model, "resid_pre.1") as activations:
            activations.run(**inputs)
        assert torch.equal(model(**inputs).logits, before)


def test_without_early_stop_the_output_comes_back():
    model, inputs = build("gpt2"), batch()
    with capture(model, "resid_pre.0", stop_early=False) as activations:
        output = activations.run(**inputs)
    with torch.no_grad():
        assert torch.equal(output.logits, model(**inputs).logits)


def test_module_paths_stop_from_the_second_forward():
    model, ids = custom(), batch()["input_ids"]
    counter = CallCounter(model)
    with capture(model, ["blocks.1.mlp:output", "blocks.0:input"]) as activations:
        assert activations.run(ids) is not None
        assert counter.counts["lm_head"] == 1
        assert activations.run(ids) is None
    assert counter.counts["lm_head"] == 1
    assert counter.counts["blocks.2"] == 1


def test_stop_of_a_plain_call_ends_the_block():
    model, ids, reached = custom(), batch()["input_ids"], []
    with capture(model, "resid_pre.1") as activations:
        reached.append("before")
        model(ids)
        reached.append("after")
    assert reached == ["before"]
    assert activations["resid_pre.1"].shape == (*ids.shape, WIDTH)
    assert set(map(tuple, hooks(model).values())) == {(0, 0, 0, 0)}


def test_stop_is_not_an_exception_that_model_code_catches():
    model = custom()
    inner = model.forward

    def forgiving(*args):
        try:
            return inner(*args)
        except Exception:
            return None

    found = anatomy(model)
    model.forward = forgiving
    with capture(model, "resid_pre.1", anatomy=found) as activations:
        assert activations.run(batch()["input_ids"]) is None
    activations.check_fired()


# ---- hooks that do not fire, or too often


def test_unfired_sites_are_named():
    model = custom()
    bypassed = model.blocks[2]
    with capture(model, ["resid_pre.1", "resid_pre.2"], stop_early=False) as activations:
        model.blocks[2] = custom().blocks[2]
        with pytest.raises(RuntimeError, match=r"did not fire: resid_pre\.2"):
            activations.run(batch()["input_ids"])
    assert activations.fired == {"resid_pre.1": 1, "resid_pre.2": 0}
    assert not bypassed._forward_pre_hooks


def test_parts_called_alone_are_no_forward():
    model = custom()
    with capture(model, ["embed", "blocks.0:input"]) as activations:
        pass
    assert len(activations) == 0
    with (
        pytest.raises(
            RuntimeError, match=r"did not fire: embed, blocks\.0:input\. Hooks see calls of modules"
        ),
        capture(model, ["embed", "blocks.0:input"], on_activation=lambda *_: None),
    ):
        # Past the model that is captured: nobody could say which forward its tensors belong to.
        model.blocks[0](model.embed(batch()["input_ids"]))
    assert set(map(tuple, hooks(model).values())) == {(0, 0, 0, 0)}


@pytest.mark.parametrize("plain", [False, True])
def test_blocks_run_by_forward_are_named(plain):
    model = architectures.build("masked", "squeezebert")
    site = "transformer.encoder.layers.2:output"
    with (
        pytest.raises(RuntimeError, match=rf"did not fire: {site}.*by \.forward\(\)"),
        capture(model, site, on_activation=lambda *_: None) as activations,
    ):
        model(**batch()) if plain else activations.run(**batch())


def test_block_called_more_often_than_in_the_probe_is_named():
    model, ids = custom(), batch()["input_ids"]
    found = anatomy(model)
    model.blocks[2] = model.blocks[1]
    with (
        pytest.raises(RuntimeError, match=r"as often as in the probe: blocks\.1 2 times and not 1"),
        capture(model, "resid_post.1", anatomy=found, stop_early=False) as activations,
    ):
        activations.run(ids)


def test_blocks_run_again_in_the_backward_pass_do_not_count():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = custom().blocks

        def forward(self, hidden):
            for block in self.inner:
                hidden = checkpoint(block, hidden, use_reentrant=False)
            return hidden

    model, runs = Checkpointed(), []
    model.inner[1].mlp.register_forward_hook(lambda *_: runs.append(1))
    with capture(model, ["inner.1.mlp:output"], stop_early=False) as activations:
        model(torch.randn(2, 3, WIDTH)).sum().backward()
    assert len(runs) == 2
    assert activations.fired == {"inner.1.mlp:output": 1}


def test_shared_module_by_path_is_refused_in_run():
    with (
        capture(custom(shared=True), "blocks.0:output") as activations,
        pytest.raises(RuntimeError, match=r"blocks.0:output \(3 times\).*resid_pre.<i>"),
    ):
        activations.run(batch()["input_ids"])
    activations.check_fired(expected=3)


# ---- hooks and other people's hooks


def test_only_own_hooks_are_removed():
    model, seen = build("gpt2"), []
    model.transformer.h[1].register_forward_hook(lambda *_: seen.append("user"))
    before = hooks(model)
    with capture(model, RESIDUAL) as activations:
        assert hooks(model) != before
        activations.run(**batch())
    assert hooks(model) == before
    seen.clear()
    model(**batch())
    assert seen == ["user"]


def test_changes_by_the_users_hooks_are_seen():
    model, ids = custom(), batch()["input_ids"]
    model.blocks[0].register_forward_hook(lambda _, __, output: output * 0 + 7)
    with capture(model, ["resid_post.0", "resid_pre.1"]) as activations:
        activations.run(ids)
    assert (activations["resid_post.0"] == 7).all()
    assert (activations["resid_pre.1"] == 7).all()


@pytest.mark.parametrize("plain", [False, True])
def test_errors_in_the_model_come_through(plain):
    model = custom()
    found = anatomy(model)
    error = ZeroDivisionError("mine")

    def fail(*_):
        raise error

    model.blocks[1].mlp.register_forward_hook(fail)
    before = hooks(model)
    with pytest.raises(ZeroDivisionError) as caught, capture(model, RESIDUAL, anatomy=found) as activations:
        (model if plain else activations.run)(batch()["input_ids"])
    assert caught.value is error
    assert hooks(model) == before


def test_half_a_forward_counts_for_nothing():
    model, ids = custom(), batch()["input_ids"]
    sites, failing = ["resid_pre.0", "resid_post.2", "blocks.1.mlp:output"], [True]

    def fail(*_):
        if failing:
            raise ZeroDivisionError("mine")

    model.blocks[1].register_forward_hook(fail)
    with capture(model, sites, anatomy=_anatomy_with(model, failing)) as activations:
        with pytest.raises(ZeroDivisionError, match="mine"):
            activations.run(ids)
        assert len(activations) == 0
        assert activations.fired == dict.fromkeys(sites, 0)
        failing.clear()
        activations.run(ids)
        assert activations.fired == dict.fromkeys(sites, 1)
    with capture(model, sites) as expected:
        expected.run(ids)
    assert all(torch.equal(activations[site], expected[site]) for site in sites)


def _anatomy_with(model, failing):
    failing.clear()
    found = anatomy(model)
    failing.append(True)
    return found


def test_error_of_the_callback_comes_through():
    model = custom()
    with (
        pytest.raises(OverflowError, match="full"),
        capture(
            model, "embed", on_activation=lambda *_: (_ for _ in ()).throw(OverflowError("full"))
        ) as activations,
    ):
        activations.run(batch()["input_ids"])
    assert set(map(tuple, hooks(model).values())) == {(0, 0, 0, 0)}


def test_nested_captures():
    model, ids = custom(), batch()["input_ids"]
    found = anatomy(model)
    with capture(model, "resid_pre.1", stop_early=False, anatomy=found) as outer:
        with capture(model, "resid_pre.2", anatomy=found) as inner:
            inner.run(ids)
            assert torch.equal(inner["resid_pre.2"], model.blocks[1](inner_input := outer["resid_pre.1"]))
        outer.run(ids)
        assert torch.equal(outer["resid_pre.1"], inner_input)
    assert set(map(tuple, hooks(model).values())) == {(0, 0, 0, 0)}


def test_outer_stop_is_no_success_of_the_inner_run():
    model, ids = custom(), batch()["input_ids"]
    with (
        capture(model, "resid_pre.0"),
        capture(model, "resid_pre.2") as inner,
        pytest.raises(RuntimeError, match=r"resid_pre\.2.*enclosing capture"),
    ):
        inner.run(ids)


def test_outer_stop_passes_through_the_inner_block():
    model, ids, reached = custom(), batch()["input_ids"], []
    with capture(model, "resid_pre.0") as outer:
        with capture(model, "resid_pre.2"):
            model(ids)
            reached.append("inner")
        reached.append("outer")
    assert reached == []
    assert outer.fired == {"resid_pre.0": 1}
    assert set(map(tuple, hooks(model).values())) == {(0, 0, 0, 0)}


def test_training_mode_is_kept_while_capturing():
    model = build("gpt2").train()
    with capture(model, "resid_pre.1") as activations:
        activations.run(**batch())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("failing", [False, True])
def test_the_model_is_bitwise_as_before(early, failing):
    model = build("gpt2").train()
    model.transformer.h[1].eval()
    model.transformer.wte.weight.requires_grad_(False)
    model.lm_head.register_forward_hook(lambda *_: None)

    def state():
        return {
            "modes": [module.training for module in model.modules()],
            "hooks": hooks(model),
            "grads": [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()],
            "places": [
                (value.device, value.dtype, value.data_ptr()) for value in model.state_dict().values()
            ],
        }

    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = state()
    sites = ["embed", "resid_mid.0", "mlp_out.1", "transformer.h.2:output"]
    options = {"labels": torch.zeros(1, 1)} if failing else {}
    with capture(model, sites, stop_early=early) as activations:
        if failing:
            with pytest.raises(ValueError, match="batch_size"):
                activations.run(**batch(), **options)
        else:
            activations.run(**batch())
    assert state() == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_hooks_never_wait_for_the_device():
    """On the meta device a number that is read, a copy to the host or a branch on a value is an error."""
    model = build("opt")
    # The other way of attention itself looks whether the mask is all ones.
    model.set_attn_implementation("eager")
    found = anatomy(model)
    sites = ["embed", "final_norm", "lm_head:output", "model.decoder.layers.0.fc1:input"]
    sites += [f"{kind}.1" for kind in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")]
    with capture(model, sites, anatomy=found) as real:
        real.run(**batch())
    model.to("meta")
    inputs = {name: value.to("meta") for name, value in batch().items()}
    received = {}
    with capture(model, sites, anatomy=found) as activations:
        activations.run(**inputs)
    with capture(model, sites, anatomy=found, on_activation=received.__setitem__) as handed:
        handed.run(**inputs)
    for site in sites:
        assert activations[site].device.type == received[site].device.type == "meta"
        assert activations[site].shape == received[site].shape == real[site].shape


def test_gradients_flow_in_plain_calls():
    model, ids = custom(), batch()["input_ids"]
    with capture(model, "resid_pre.1", stop_early=False):
        model(ids).sum().backward()
    assert model.embed.weight.grad is not None


# ---- names


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ("attn_in.1", r"one of: embed, resid_pre\.<i>, attn_out\.<i>.*received 'attn_in.1'"),
        ("resid_mid.1", "'resid_mid.1' does not exist in block blocks.1 of Custom: its output is not"),
        ("mlp_out.3", r"'mlp_out.3': the block index must be in 0\.\.2, not 3"),
        ("resid_pre", "received 'resid_pre'"),
        ("resid_pre.-1", "received 'resid_pre.-1'"),
        ("resid_pre.3", r"'resid_pre.3': the block index must be in 0\.\.2, not 3"),
        ("blocks.0", "received 'blocks.0'"),
        ("blocks.0:inputs", "'blocks.0:inputs' must end in :input or :output"),
        ("blocks.0.mpl:output", r"no module 'blocks.0.mpl'; nearest: blocks\.0\.mlp"),
        (":output", "no module ''"),
        (["embed", "resid_pre.0", "embed"], "must be distinct; received embed more than once"),
        ([], "received none"),
    ],
)
def test_bad_sites(sites, message):
    with pytest.raises(ValueError, match=message), capture(custom(), sites):
        pass


def test_sites_a_model_does_not_have():
    with (
        pytest.raises(ValueError, match="'final_norm': BertModel has no"),
        capture(build("bert"), "final_norm"),
    ):
        pass


def test_anatomy_of_another_model():
    with (
        pytest.raises(ValueError, match="anatomy must be of the model that is captured"),
        capture(custom(), "embed", anatomy=anatomy(custom())),
    ):
        pass


def test_module_paths_need_no_anatomy():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with capture(model, "0:output") as activations:
        activations.run(torch.ones(2, 4))
    assert torch.equal(activations["0:output"], model[0](torch.ones(2, 4)))
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, not str"), capture("gpt2", "embed"):
        pass


def test_module_without_floating_tensor():
    model = custom()
    with (
        capture(model, "embed:input") as activations,
        pytest.raises(RuntimeError, match="embed:input: no floating tensor in the input of embed"),
    ):
        activations.run(torch.zeros(1, 3, dtype=torch.long))


def test_forwards_that_repgeom_runs_itself_are_not_seen():
    """An inner capture, an anatomy or a whole run inside the block makes forwards of its own."""
    model, seen = build("llama"), []
    with repgeom.capture(
        model, "resid_post.1", stop_early=False, on_activation=lambda _site, tensor: seen.append(tensor.shape)
    ) as outer:
        with repgeom.capture(model, "resid_post.2") as inner:
            inner.run(**batch(3, 11))
        repgeom.anatomy(model)
        repgeom.analyze_model(model=model, dataloader=[batch(2, 6)], layers="0", progress=False)
        reached = True
    assert reached
    assert inner["resid_post.2"].shape[:2] == (3, 11)
    assert [tuple(shape[:2]) for shape in seen] == [(3, 11)]
    assert outer.sites == ("resid_post.1",)
