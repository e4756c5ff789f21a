import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from model_families import BUILDERS, CAUSAL, LAYERS, VOCAB, WIDTH, WITH_LOGITS, build, custom, inputs_for
from repgeom.capture import capture
from repgeom.models import anatomy, load_model, parse_layers


def states_by_hand(model, blocks, inputs):
    """Inputs and outputs of the given block modules, by hooks of the test's own; and the model's output."""
    entered, left, handles = [], [], []
    for block in blocks:
        handles.append(block.register_forward_pre_hook(lambda _, args: entered.append(args[0].clone())))
        handles.append(
            block.register_forward_hook(
                lambda _, __, out: left.append((out if torch.is_tensor(out) else out[0]).clone())
            )
        )
    with torch.no_grad():
        output = model(**inputs)
    for handle in handles:
        handle.remove()
    return entered, left, output


CONTAINERS = {
    "gpt2": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "opt": "model.decoder.layers",
    "bloom": "transformer.h",
    "bert": "encoder.layer",
    "bert_masked": "bert.encoder.layer",
    "roberta": "roberta.encoder.layer",
    "distilbert": "distilbert.transformer.layer",
    "t5": "decoder.block",
}
FINAL_NORMS = {
    "gpt2": "transformer.ln_f",
    "gpt_neox": "gpt_neox.final_layer_norm",
    "opt": "model.decoder.final_layer_norm",
    "bloom": "transformer.ln_f",
    "phi": "model.final_layernorm",
    "t5": "decoder.final_layer_norm",
    **dict.fromkeys(("bert", "bert_masked", "roberta", "distilbert"), None),
}


@pytest.mark.parametrize("family", [name for name in BUILDERS if name != "albert"])
def test_blocks_and_norm_are_where_the_family_keeps_them(family):
    found = anatomy(build(family))
    container = CONTAINERS.get(family, "model.layers")
    assert [block.path for block in found.blocks] == [f"{container}.{i}" for i in range(LAYERS)]
    assert [block.call for block in found.blocks] == [0] * LAYERS
    assert found.final_norm == FINAL_NORMS.get(family, "model.norm")
    assert (found.d_model, found.layout, found.num_blocks) == (WIDTH, "BSH", LAYERS)


@pytest.mark.parametrize("family", WITH_LOGITS)
def test_readout_reproduces_logits_of_other_tokens(family):
    model = build(family)
    found = anatomy(model)
    assert found.readout_problem is None
    inputs = inputs_for(family)
    checked = found.check(inputs)
    assert checked.error <= 1e-5
    assert checked.tolerance == 1e-4
    assert checked.tokens == inputs.get("decoder_input_ids", inputs["input_ids"]).numel()


@pytest.mark.parametrize("family", WITH_LOGITS)
def test_unembed_of_the_last_state_is_the_logits(family):
    model = build(family)
    found, inputs = anatomy(model), inputs_for(family)
    with capture(model, f"resid_post.{LAYERS - 1}", stop_early=False, anatomy=found) as activations:
        output = activations.run(**inputs)
    with torch.no_grad():
        torch.testing.assert_close(found.unembed(activations[f"resid_post.{LAYERS - 1}"]), output.logits)


@pytest.mark.parametrize("family", BUILDERS)
def test_residual_sites_equal_hooks_placed_by_hand(family):
    model, inputs = build(family), inputs_for(family)
    found = anatomy(model)
    blocks = list(dict.fromkeys(found.module(block.path) for block in found.blocks))
    entered, left, _ = states_by_hand(model, blocks, inputs)
    pre, post = ([f"resid_{side}.{i}" for i in range(LAYERS)] for side in ("pre", "post"))
    with capture(model, pre + post, anatomy=found) as activations:
        activations.run(**inputs)
    assert all(torch.equal(activations[name], state) for name, state in zip(pre, entered, strict=True))
    assert all(torch.equal(activations[name], state) for name, state in zip(post, left, strict=True))


@pytest.mark.parametrize("family", [*CAUSAL, "bert", "bert_masked", "roberta", "albert"])
def test_resid_pre_equals_hidden_states(family):
    model, inputs = build(family), inputs_for(family)
    names = [f"resid_pre.{i}" for i in range(LAYERS)]
    with capture(model, names) as activations:
        activations.run(**inputs)
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True).hidden_states
    assert len(hidden) == LAYERS + 1
    assert all(torch.equal(activations[name], state) for name, state in zip(names, hidden, strict=False))


@pytest.mark.parametrize("family", CAUSAL)
def test_final_norm_is_the_head_input(family):
    model, inputs = build(family), inputs_for(family)
    with capture(model, ["final_norm", "lm_head:input"]) as activations:
        activations.run(**inputs)
    assert torch.equal(activations["final_norm"], activations["lm_head:input"])


@pytest.mark.parametrize("family", BUILDERS)
def test_embed_is_the_row_of_the_embedding_matrix(family):
    model, inputs = build(family), inputs_for(family)
    found = anatomy(model)
    with capture(model, "embed", anatomy=found) as activations:
        activations.run(**inputs)
    embedding = found.module(found.embedding)
    ids = inputs.get("decoder_input_ids", inputs["input_ids"])
    with torch.no_grad():
        assert torch.equal(activations["embed"], embedding(ids))
    assert embedding.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "bert", "bert_masked", "t5"])
def test_saved_and_loaded_model_is_the_same(family, tmp_path):
    model, inputs = build(family), inputs_for(family)
    model.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded, tokenizer = load_model(tmp_path)
    assert tokenizer is None
    assert type(loaded) is type(model)
    assert not any(module.training for module in loaded.modules())
    names = [f"resid_pre.{i}" for i in range(LAYERS)]
    with capture(model, names) as first, capture(loaded, names) as second:
        first.run(**inputs)
        second.run(**inputs)
    assert all(torch.equal(first[name], second[name]) for name in names)
    assert [b.path for b in anatomy(loaded).blocks] == [b.path for b in anatomy(model).blocks]


# ---- readout variants


def test_softcap_and_scaling_are_found():
    assert "soft-cap final_logit_softcapping=3" in anatomy(build("gemma2")).readout
    assert "0.176777" in anatomy(build("t5")).readout
    assert "lm_head -> * 0.125" in anatomy(build("granite")).readout


def test_half_precision_has_its_own_tolerance():
    found = anatomy(build("llama").to(torch.bfloat16))
    assert found.check().tolerance == 2e-2
    assert found.readout_error <= 2e-2


def test_check_refuses_a_model_that_changed():
    model = build("gpt2")
    found = anatomy(model)
    model.lm_head.register_forward_hook(lambda _, args, out: out + args[0].mean())
    model.transformer.ln_f.register_forward_pre_hook(lambda _, args: (args[0] * 2 + 1,))
    found.check()
    model.register_forward_hook(lambda _, __, out: setattr(out, "logits", out.logits + 1.0))
    with pytest.raises(ValueError, match="must equal the logits within 1e-04 relative, not"):
        found.check()


def test_check_refuses_nan():
    model = build("gpt2")
    found = anatomy(model)
    with torch.no_grad():
        model.transformer.ln_f.weight[0] = math.nan
    with pytest.raises(ValueError, match="not nan"):
        found.check()


def test_unverifiable_logits_have_a_reason():
    model = build("gpt2")
    model.register_forward_hook(lambda _, __, out: setattr(out, "logits", out.logits.sin()))
    found = anatomy(model)
    assert not found.has_readout
    assert math.isnan(found.readout_error)
    assert "not a known function" in found.readout_problem
    for call in (found.check, lambda: found.unembed(torch.zeros(1, 1, WIDTH))):
        with pytest.raises(ValueError, match="no verified logit readout: the logits are not"):
            call()


def test_encoder_without_head_is_no_error():
    found = anatomy(build("bert"))
    assert (found.unembedding, found.readout, found.readout_problem) == (None, None, None)
    with pytest.raises(ValueError, match="encoder without a language-model head"):
        found.check()


def test_bare_decoder_keeps_its_final_norm():
    found = anatomy(build("llama").model)
    assert (found.final_norm, found.unembedding) == ("norm", None)


def test_classifier_is_an_encoder():
    import transformers

    config = build("bert").config
    found = anatomy(transformers.BertForSequenceClassification(config))
    assert (found.num_blocks, found.unembedding, found.readout_problem) == (LAYERS, None, None)


# ---- anatomy of unusual models


@pytest.mark.parametrize("output", ["tensor", "tuple", "dict", "dataclass"])
@pytest.mark.parametrize("keyword", [False, True])
def test_custom_module(output, keyword):
    found = anatomy(custom(output, keyword=keyword))
    assert [block.path for block in found.blocks] == [f"blocks.{i}" for i in range(LAYERS)]
    expected = {"tensor": (), "tuple": (0,), "dict": ("hidden",), "dataclass": ("hidden",)}[output]
    assert {block.hidden_out for block in found.blocks} == {expected}
    entry = ("kwargs", "hidden_states") if keyword else ("args", 0)
    assert {block.hidden_in for block in found.blocks} == {entry}
    assert (found.embedding, found.final_norm, found.unembedding) == ("embed", "norm", "lm_head")
    assert found.check().error <= 1e-6


def test_shared_blocks_are_told_apart_by_call():
    for model, path in ((custom(shared=True), "blocks.0"), (build("albert"), None)):
        found = anatomy(model)
        assert [block.call for block in found.blocks] == [0, 1, 2]
        assert len({block.path for block in found.blocks}) == 1
        assert path is None or found.blocks[0].path == path


def test_sequence_first_stream():
    found = anatomy(custom(sequence_first=True))
    assert (found.layout, found.embedding_layout) == ("SBH", "BSH")
    assert found.check().error <= 1e-6


def test_xlnet_is_sequence_first():
    import transformers

    config = transformers.XLNetConfig(vocab_size=VOCAB, d_model=WIDTH, n_layer=LAYERS, n_head=4, d_inner=48)
    model, inputs = transformers.XLNetLMHeadModel(config).eval(), inputs_for("xlnet")
    found = anatomy(model)
    assert (found.layout, found.embedding_layout, found.num_blocks) == ("SBH", "SBH", LAYERS)
    with capture(model, ["embed", "resid_pre.0", "resid_pre.2"], anatomy=found) as activations:
        activations.run(**inputs)
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True).hidden_states
        assert torch.equal(activations["embed"], model.transformer.word_embedding(inputs["input_ids"]))
    assert torch.equal(activations["resid_pre.0"], hidden[0])
    assert torch.equal(activations["resid_pre.2"], hidden[2])


def test_encoder_decoder_lists_its_encoder():
    found = anatomy(build("t5"))
    assert found.other_towers == ("encoder.block",)
    assert found.embedding == "decoder.embed_tokens"


@pytest.mark.parametrize("layers", [1, 2])
def test_few_blocks(layers):
    import transformers

    config = build("llama").config
    config.num_hidden_layers = layers
    config.layer_types = None
    assert anatomy(transformers.LlamaForCausalLM(config)).num_blocks == layers


def test_blocks_named_with_digits_and_repeated_blocks():
    class Named(nn.Module):
        def __init__(self, repeat):
            super().__init__()
            self.embed, self.repeat = nn.Embedding(VOCAB, WIDTH), repeat
            self.block1, self.block2 = custom().blocks[:2]

        def forward(self, tokens):
            hidden = self.block1(self.embed(tokens))
            return self.block1(hidden) if self.repeat else self.block2(hidden)

    assert [b.path for b in anatomy(Named(False)).blocks] == ["block1", "block2"]
    assert [(b.path, b.call) for b in anatomy(Named(True)).blocks] == [("block1", 0), ("block1", 1)]


def test_training_flags_and_weights_survive():
    model = build("gpt2").train()
    model.transformer.h[1].eval()
    flags = {name: module.training for name, module in model.named_modules()}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    anatomy(model).check()
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_random_state_is_untouched():
    model = build("gpt2").train()
    before = torch.get_rng_state()
    anatomy(model)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("side", ["left", "right"])
def test_users_batch_is_cut_to_real_tokens(side):
    model = build("gpt2")
    inputs = inputs_for("gpt2", rows=5, length=40)
    inputs["attention_mask"][:, slice(0, 20) if side == "left" else slice(20, 40)] = 0
    lengths = []
    model.transformer.h[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[:2]))
    found = anatomy(model, inputs)
    assert set(lengths) == {(2, 7)}
    assert found.readout_error <= 1e-6
    assert anatomy(model, inputs["input_ids"]).blocks == anatomy(model, [inputs["input_ids"]]).blocks
    assert set(lengths) == {(2, 7)}


def test_no_stack_names_the_model_and_the_way_out():
    model = nn.Sequential(nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, WIDTH))
    with pytest.raises(ValueError, match=r"no stack of blocks found in Sequential.*module_input:<path>"):
        anatomy(model)


def test_blocks_run_by_forward_are_refused():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.blocks = nn.Embedding(VOCAB, WIDTH), custom().blocks

        def forward(self, input_ids):
            hidden = self.embed(input_ids)
            for block in self.blocks:
                hidden = block.forward(hidden)
            return hidden

    with pytest.raises(ValueError, match="no stack of blocks found in Hidden"):
        anatomy(Hidden())


def test_no_vocabulary_asks_for_a_batch():
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH))
    with pytest.raises(ValueError, match="pass a batch"):
        anatomy(model)
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, not str"):
        anatomy("gpt2")


def test_failing_probe_keeps_the_cause():
    model = custom()
    model.blocks[1].mlp = nn.Linear(1, 1)
    with pytest.raises(
        ValueError, match="the probe forward of Custom failed with RuntimeError: mat1"
    ) as caught:
        anatomy(model)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert not model.norm._forward_hooks


def test_summary_is_readable():
    lines = str(anatomy(build("gpt2"))).splitlines()
    assert lines[0] == "GPT2LMHeadModel (gpt2): 3 blocks, width 32"
    assert any("transformer.h.0 ... transformer.h.2" in line and "GPT2Block" in line for line in lines)
    assert any("h -> transformer.ln_f -> lm_head" in line for line in lines)
    assert "encoder.block" in str(anatomy(build("t5")))


# ---- loading


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    build("gpt2").save_pretrained(folder)
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change_weights(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_dtype_and_device(saved, dtype):
    model, _ = load_model(saved, dtype=dtype, device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert load_model(str(saved))[0].dtype == torch.float32


def test_auto_dtype_is_the_checkpoints_own(tmp_path):
    build("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_model(tmp_path)[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float33"}, "dtype must be .* not 'float33'"),
        ({"dtype": "int64"}, "dtype must be .* not 'int64'"),
        ({"device": "gpu"}, "device must be .* not 'gpu'"),
        ({"device": "cpu", "device_map": "auto"}, "give device or device_map, not both"),
        ({"no_such_option": 1}, "cannot be loaded: .*no_such_option"),
    ],
)
def test_bad_options(saved, options, message):
    with pytest.raises(ValueError, match=message):
        load_model(saved, **options)


def test_missing_folder():
    for name in ("./no-such-folder", "/no/such/folder", "~/no-such-folder", Path("no-such-folder")):
        with pytest.raises(FileNotFoundError, match="there is no model folder"):
            load_model(name)


def test_folder_without_config(copied):
    (copied / "config.json").unlink()
    with pytest.raises(ValueError, match=r"must hold config\.json"):
        load_model(copied)
    with pytest.raises(ValueError, match="as its folder, not as the file"):
        load_model(copied / "model.safetensors")


@pytest.mark.parametrize("damage", ["cut", "garbage", "gone"])
def test_damaged_weights(copied, damage):
    path = copied / "model.safetensors"
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"no tensors here")
    with pytest.raises(ValueError, match=r"the weights of .* cannot be loaded: ") as caught:
        load_model(copied)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("text", ["{", '{"model_type": "no-such-type"}'])
def test_damaged_config(copied, text):
    (copied / "config.json").write_text(text)
    with pytest.raises(ValueError, match="no model found under"):
        load_model(copied)


def test_unknown_hub_name():
    with pytest.raises(ValueError, match="no model found under 'no/such/model'"):
        load_model("no/such/model")


def test_missing_weights_warn_by_name(copied):
    change_weights(copied, lambda weights: weights.pop("transformer.h.1.mlp.c_fc.weight"))
    with pytest.warns(UserWarning, match=r"1 weights are not in .*drawn at random.*h\.1\.mlp\.c_fc\.weight"):
        load_model(copied)


def test_missing_pooler_is_no_warning(tmp_path):
    build("bert").save_pretrained(tmp_path)
    change_weights(tmp_path, lambda weights: [weights.pop(k) for k in list(weights) if "pooler" in k])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(tmp_path)


def test_architecture_decides_the_head(tmp_path):
    build("bert_masked").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for architecture, expected in (("BertModel", "BertModel"), ("BertForMaskedLM", "BertForMaskedLM")):
        config["architectures"] = [architecture]
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert type(load_model(tmp_path)[0]).__name__ == expected


def test_loading_leaves_transformers_settings_alone(saved):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_model(saved)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_loading_is_silent(saved, capfd):
    load_model(saved)
    assert capfd.readouterr() == ("", "")


def test_tokenizer_comes_along(copied):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    PreTrainedTokenizerFast(tokenizer_object=words, padding_side="left").save_pretrained(copied)
    _, tokenizer = load_model(copied)
    assert tokenizer.padding_side == "left"
    assert tokenizer.convert_tokens_to_ids("b") == 1


# ---- parse_layers


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("all", tuple(range(12))),
        ("0,3,7", (0, 3, 7)),
        ("0:12:2", (0, 2, 4, 6, 8, 10)),
        ("0, 4:8", (0, 4, 5, 6, 7)),
        (":3", (0, 1, 2)),
        ("10:", (10, 11)),
        ("10:99", (10, 11)),
        ("::5", (0, 5, 10)),
        ("7,3", (7, 3)),
        (5, (5,)),
        ([11, 0], (11, 0)),
        (range(2), (0, 1)),
        (np.array([1, 2]), (1, 2)),
        (np.int64(4), (4,)),
    ],
)
def test_parse_layers(layers, expected):
    parsed = parse_layers(layers, 12)
    assert parsed == expected
    assert all(type(layer) is int for layer in parsed)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("12", r"must be in 0\.\.11, but \[12\] in '12' are not"),
        ("-1", r"must be in 0\.\.11, but \[-1\] in '-1' are not"),
        ([-1, 3], r"must be in 0\.\.11, but \[-1\]"),
        (12, r"must be in 0\.\.11, but \[12\]"),
        ("-3:", r"0\.\.11.*not '-3:'"),
        ("0:5:-1", r"0\.\.11.*not '0:5:-1'"),
        ("0:5:0", "step of a slice must be at least 1, not 0 in '0:5:0'"),
        ("12:20", r"must select a layer of 0\.\.11, but '12:20' in '12:20' selects none"),
        ("5:3", "selects none"),
        ("0,0:2", r"must be distinct, but \[0\] are repeated in '0,0:2'"),
        ([3, 3], r"must be distinct, but \[3\]"),
        ("", r"0\.\.11.*not ''"),
        ([], r"at least one layer of 0\.\.11, not \[\]"),
        ("0,,1", "not '0,,1'"),
        ("1.5", "not '1.5'"),
        ("²", "not '²'"),
        ("first", "not 'first'"),
        ([1.0], r"must be integers, but 1\.0"),
        ([True], "must be integers, but True"),
        (["1"], "must be integers, but '1'"),
        (None, "must be integers, but None"),
    ],
)
def test_parse_layers_refuses(layers, message):
    with pytest.raises(ValueError, match=message):
        parse_layers(layers, 12)
