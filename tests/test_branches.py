"""What blocks add to the stream: proven on many architectures and on blocks written for the purpose."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from architectures import tiny_config
from model_families import VOCAB, WIDTH, batch
from repgeom.anatomy import anatomy
from repgeom.branches import BRANCH_SITES, Branches, branches_summary, find_branches
from repgeom.capture import Activations, capture

SERIAL = [
    *("llama", "gemma2", "gemma3_text", "olmo2", "gpt2", "opt", "mixtral", "qwen3_moe", "bloom", "jamba"),
    *(
        "falcon_h1",
        "recurrent_gemma",
        "lfm2",
        "qwen3_next",
        "dbrx",
        "mpt",
        "cpmant",
        "xglm",
        "modernbert-decoder",
    ),
]
SCALED = {"granite": 0.22, "minicpm3": 0.7, "granitemoehybrid": 0.22}
PARALLEL = ["gptj", "phi", "codegen", "cohere"]
ONE_BRANCH = ["mamba", "falcon_mamba", "zamba", "nemotron_h"]
POST_NORM = {
    "bert": ("attention.output.LayerNorm", "output.LayerNorm"),
    "bart": ("self_attn_layer_norm", "final_layer_norm"),
    "openai-gpt": ("ln_1", "ln_2"),
    "xlnet": ("rel_attn.layer_norm", "ff.layer_norm"),
}


def randomised(model: Any) -> Any:
    """The model in eval mode, 0.1 * randn added to all parameters, so that no identity holds by accident."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def tiny(model_type: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A tiny causal language model of any architecture, with changes to its configuration."""
    config = tiny_config("causal", model_type)
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    return randomised(transformers.AutoModelForCausalLM.from_config(config)).to(dtype)


def scaled(model_type: str, dtype: torch.dtype = torch.float32) -> Any:
    if model_type == "minicpm3":
        return tiny(model_type, dtype, scale_depth=1.4, num_hidden_layers=4)
    return tiny(model_type, dtype, residual_multiplier=SCALED[model_type])


def captured(
    model: Any, sites: list[str] | None = None, **options: Any
) -> tuple[Activations, tuple[Branches, ...]]:
    """All sites of all blocks that exist, in one pass over a batch that the probe has not seen."""
    found = anatomy(model)
    branches = find_branches(found)
    names = sites or [
        f"{kind}.{block.block}"
        for block in branches
        for kind in ("resid_pre", *BRANCH_SITES, "resid_post")
        if kind not in BRANCH_SITES or block.missing(kind) is None
    ]
    with capture(model, names, anatomy=found) as activations:
        activations.run(**batch(3, 9), use_cache=False, **options)
    return activations, branches


def assert_close(a: Tensor, b: Tensor, tolerance: float = 2e-6) -> None:
    error = float((a.double() - b.double()).abs().max() / b.double().abs().max())
    assert error <= tolerance, error


# ---- the sum


@pytest.mark.parametrize("model_type", [*SERIAL, *SCALED])
def test_serial_blocks_add_attention_then_mlp(model_type):
    model = scaled(model_type) if model_type in SCALED else tiny(model_type)
    seen, branches = captured(model)
    for i, found in enumerate(branches):
        assert (found.reason, found.parallel, found.post_norm) == (None, False, False)
        pre, mid, post = (seen[f"{kind}.{i}"] for kind in ("resid_pre", "resid_mid", "resid_post"))
        assert pre.shape == (3, 9, pre.shape[-1])
        assert {seen[f"{kind}.{i}"].shape for kind in BRANCH_SITES} == {pre.shape}
        assert_close(pre.double() + seen[f"attn_out.{i}"], mid)
        assert_close(mid.double() + seen[f"mlp_out.{i}"], post)
        assert not torch.equal(seen[f"attn_out.{i}"], seen[f"mlp_out.{i}"])


@pytest.mark.parametrize("model_type", [*PARALLEL, "gpt_neox", "falcon"])
def test_parallel_blocks_add_both_at_once(model_type):
    changes = {"gpt_neox": {"use_parallel_residual": True}, "falcon": {"parallel_attn": True}}
    model = tiny(model_type, **changes.get(model_type, {}))
    seen, branches = captured(model)
    for i, found in enumerate(branches):
        assert found.parallel
        total = seen[f"resid_pre.{i}"].double() + seen[f"attn_out.{i}"] + seen[f"mlp_out.{i}"]
        assert_close(total, seen[f"resid_post.{i}"])
    with (
        pytest.raises(
            ValueError, match=r"'resid_mid\.1' does not exist .*: attention and MLP are added in par"
        ),
        capture(model, "resid_mid.1"),
    ):
        pass


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("gpt_neox", {"use_parallel_residual": False}),
        ("falcon", {"parallel_attn": False, "new_decoder_architecture": False}),
    ],
)
def test_families_with_both_kinds_of_blocks_are_told_apart(model_type, changes):
    seen, branches = captured(tiny(model_type, **changes))
    for i, found in enumerate(branches):
        assert not found.parallel
        assert_close(seen[f"resid_pre.{i}"].double() + seen[f"attn_out.{i}"], seen[f"resid_mid.{i}"])
        assert_close(seen[f"resid_mid.{i}"].double() + seen[f"mlp_out.{i}"], seen[f"resid_post.{i}"])


@pytest.mark.parametrize("model_type", ONE_BRANCH)
def test_blocks_of_one_branch_say_which_it_is(model_type):
    seen, branches = captured(tiny(model_type))
    for i, found in enumerate(branches):
        kind = "attn_out" if found.attn else "mlp_out"
        assert found.missing(kind) is None
        for other in {*BRANCH_SITES} - {kind}:
            assert found.missing(other).startswith("the block adds one branch, which mixes ")
        assert_close(seen[f"resid_pre.{i}"].double() + seen[f"{kind}.{i}"], seen[f"resid_post.{i}"])
    if model_type == "nemotron_h":
        kinds = [part.block_type for part in tiny(model_type).model.layers]
        expected = ["mlp" if kind in ("mlp", "moe") else "attn" for kind in kinds]
        assert ["attn" if found.attn else "mlp" for found in branches] == expected
        assert len(set(expected)) == 2
    else:
        assert all(found.attn for found in branches)


@pytest.mark.parametrize("model_type", POST_NORM)
def test_post_norm_blocks_add_before_the_norm(model_type):
    model = tiny(model_type)
    seen, branches = captured(model)
    first, second = POST_NORM[model_type]
    for i, found in enumerate(branches):
        assert found.post_norm
        block = model.get_submodule(anatomy(model).blocks[i].path)
        pre, mid = seen[f"resid_pre.{i}"], seen[f"resid_mid.{i}"]
        assert_close(pre.double() + seen[f"attn_out.{i}"], mid)
        with torch.no_grad():
            again = block.get_submodule(second)(block.get_submodule(first)(mid) + seen[f"mlp_out.{i}"])
        assert_close(again, seen[f"resid_post.{i}"])


def test_a_shared_block_has_branches_in_each_of_its_calls():
    config = transformers.AlbertConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4
    )
    torch.manual_seed(0)
    model = randomised(transformers.AlbertForMaskedLM(config))
    found = anatomy(model)
    names = [f"{kind}.{i}" for i in range(3) for kind in ("resid_pre", *BRANCH_SITES)]
    with capture(model, names, anatomy=found) as seen:
        seen.run(**batch())
    for i in range(3):
        assert_close(seen[f"resid_pre.{i}"].double() + seen[f"attn_out.{i}"], seen[f"resid_mid.{i}"])
    assert not torch.equal(seen["mlp_out.0"], seen["mlp_out.1"])
    assert set(seen.fired.values()) == {1}


# ---- which tensor it is


@pytest.mark.parametrize(
    ("model_type", "kind", "module", "coefficient"),
    [
        ("gemma2", "attn_out", "post_attention_layernorm", 1.0),
        ("gemma2", "mlp_out", "post_feedforward_layernorm", 1.0),
        ("olmo2", "attn_out", "post_attention_layernorm", 1.0),
        ("llama", "attn_out", "self_attn", 1.0),
        ("bloom", "attn_out", "self_attention.dense", 1.0),
        ("bloom", "mlp_out", "mlp.dense_4h_to_h", 1.0),
        ("granite", "attn_out", "self_attn", 0.22),
        ("granite", "mlp_out", "mlp", 0.22),
        ("mamba", "attn_out", "mixer", 1.0),
        ("bert", "attn_out", "attention.output.dropout", 1.0),
    ],
)
def test_the_tensor_that_is_added(model_type, kind, module, coefficient):
    model = scaled(model_type) if model_type in SCALED else tiny(model_type)
    found = anatomy(model)
    path = f"{found.blocks[1].path}.{module}"
    (term,) = getattr(find_branches(found)[1], kind.removesuffix("_out")).terms
    assert (term.path, term.coefficient) == (path, coefficient)
    with capture(model, [f"{kind}.1", f"{path}:output"], anatomy=found) as seen:
        seen.run(**batch())
    assert torch.equal(seen[f"{kind}.1"], seen[f"{path}:output"] * coefficient)


def test_middle_of_the_stream_is_what_enters_the_second_norm():
    model = tiny("llama")
    path = anatomy(model).blocks[2].path
    norm = f"{path}.post_attention_layernorm:input"
    seen, _ = captured(model, ["resid_mid.2", norm])
    assert torch.equal(seen["resid_mid.2"], seen[norm])


def test_branch_of_two_modules_is_their_sum():
    model = tiny("falcon_h1")
    branch = find_branches(anatomy(model))[0].attn
    assert [term.path.rsplit(".", 1)[1] for term in branch.terms] == ["mamba", "self_attn"]


def test_last_dropout_is_what_is_added_in_training():
    model = tiny("gpt_neox", hidden_dropout=0.5).train()
    found = anatomy(model)
    sites = ["resid_pre.0", "attn_out.0", "mlp_out.0", "resid_post.0"]
    with capture(model, sites, anatomy=found) as seen:
        seen.run(**batch())
    assert float((seen["attn_out.0"] == 0).float().mean()) > 0.3
    total = seen["resid_pre.0"].double() + seen["attn_out.0"] + seen["mlp_out.0"]
    assert_close(total, seen["resid_post.0"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "model_type", ["llama", "gemma2", "granite", "minicpm3", "gptj", "bert", "nemotron_h"]
)
def test_half_precision_finds_the_same(model_type, dtype):
    build = scaled if model_type in SCALED else tiny
    full, half = (find_branches(anatomy(build(model_type, kind))) for kind in (torch.float32, dtype))
    for a, b in zip(full, half, strict=True):
        assert a == b
        assert b.reason is None


# ---- blocks written for the purpose


class Mixer(nn.Module):
    """A causal mean over the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        total = self.linear(x).cumsum(1)
        return torch.tanh(total)


class Mlp(nn.Module):
    """Two layers at each token."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 48), nn.Linear(48, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


class Free(nn.Module):
    """A block that adds its branches as its `form` says."""

    def __init__(self, form: str, factor: float) -> None:
        super().__init__()
        self.form, self.factor = form, factor
        self.mixer, self.mlp, self.third = Mixer(), Mlp(), Mlp()
        self.first_norm, self.second_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.drop, self.scale = nn.Dropout(0.1), nn.Parameter(torch.randn(WIDTH))

    def forward(self, *, hidden: Tensor) -> dict[str, Tensor]:
        return {"hidden": getattr(self, self.form)(hidden)}

    def in_place(self, h: Tensor) -> Tensor:
        h += self.factor * self.mixer(self.first_norm(h))
        h += self.mlp(self.second_norm(input=h))
        return h

    def hidden_middle(self, h: Tensor) -> Tensor:
        h = h + self.mixer(self.first_norm(h))
        return h + self.mlp(nn.functional.layer_norm(h, (WIDTH,)))

    def summed_first(self, h: Tensor) -> Tensor:
        x = self.first_norm(h)
        return h + self.drop(self.mlp(x) + self.mixer(x))

    def scaled_stream(self, h: Tensor) -> Tensor:
        h = 0.9 * h + self.mixer(self.first_norm(h))
        return 0.9 * h + self.mlp(self.second_norm(h))

    def scaled_channels(self, h: Tensor) -> Tensor:
        h = h + self.scale * self.mixer(self.first_norm(h))
        return h + self.mlp(self.second_norm(h))

    def three(self, h: Tensor) -> Tensor:
        h = h + self.mixer(self.first_norm(h))
        h = h + self.third(self.second_norm(h))
        return h + self.mlp(self.second_norm(h))

    def mlp_first(self, h: Tensor) -> Tensor:
        h = h + self.mlp(self.first_norm(h))
        return h + self.mixer(self.second_norm(h))


class FreeModel(nn.Module):
    """Embedding, blocks of a form, head."""

    def __init__(self, form: str, factors: tuple[float, ...] = (1.0, 1.0)) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList(Free(form, factor) for factor in factors)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.embed(input_ids)
        for block in self.blocks:
            hidden = block(hidden=hidden)["hidden"]
        return self.head(hidden)


def free(form: str, *factors: float) -> FreeModel:
    torch.manual_seed(0)
    return randomised(FreeModel(form, factors or (1.0, 1.0)))


def test_additions_in_place_and_a_coefficient_of_each_block():
    model, ids = free("in_place", 0.25, -1.75), batch()["input_ids"]
    found = anatomy(model)
    assert [block.attn.terms[0].coefficient for block in find_branches(found)] == [0.25, -1.75]
    assert {block.mid.key for block in find_branches(found)} == {("kwargs", "input")}
    names = [f"{kind}.{i}" for i in range(2) for kind in ("resid_pre", *BRANCH_SITES, "resid_post")]
    with capture(model, names, anatomy=found) as seen:
        seen.run(ids)
    for i in range(2):
        assert_close(seen[f"resid_pre.{i}"].double() + seen[f"attn_out.{i}"], seen[f"resid_mid.{i}"])
        assert_close(seen[f"resid_mid.{i}"].double() + seen[f"mlp_out.{i}"], seen[f"resid_post.{i}"])
    summary = branches_summary(found)
    assert "attn_out     mixer * 0.25   (blocks 0)" in summary
    assert "attn_out     mixer * -1.75   (blocks 1)" in summary
    assert "mlp_out      mlp   (blocks 0-1)" in summary


def test_branches_summed_before_they_are_added_are_parallel():
    """Called in either order: the one that mixes tokens is the attention."""
    model, ids = free("summed_first"), batch()["input_ids"]
    found = find_branches(anatomy(model))[1]
    assert found.parallel
    assert (str(found.attn), str(found.mlp)) == ("blocks.1.mixer", "blocks.1.mlp")
    with capture(model, ["resid_pre.1", "attn_out.1", "mlp_out.1", "resid_post.1"]) as seen:
        seen.run(ids)
    total = seen["resid_pre.1"].double() + seen["attn_out.1"] + seen["mlp_out.1"]
    assert_close(total, seen["resid_post.1"])


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ("hidden_middle", r"which of blocks\.0\.mixer \+ blocks\.0\.mlp is the attention cannot be told"),
        ("scaled_stream", "its output is not its input plus outputs of its modules, times constants"),
        ("scaled_channels", "its output is not its input plus outputs of its modules, times constants"),
        (
            "three",
            r"3 branches one after another, not two: blocks\.0\.mixer, blocks\.0\.third, blocks\.0\.mlp",
        ),
        ("mlp_first", r"what it adds first mixes no tokens of its stream: blocks\.0\.mlp"),
    ],
)
@pytest.mark.parametrize("kind", BRANCH_SITES)
def test_blocks_without_the_two_branches_are_refused_with_the_reason(form, reason, kind):
    with (
        pytest.raises(
            ValueError, match=rf"'{kind}\.0' does not exist in block blocks\.0 of FreeModel: .*{reason}"
        ),
        capture(free(form), f"{kind}.0"),
    ):
        pass


def test_decoder_blocks_with_cross_attention_name_their_three_branches():
    config = transformers.T5Config(
        vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    found = find_branches(anatomy(randomised(transformers.T5ForConditionalGeneration(config))))
    assert all(block.missing("attn_out") == block.reason for block in found)
    assert found[0].reason.endswith(", ".join(f"decoder.block.0.layer.{n}.dropout" for n in range(3)))


def test_stream_that_is_not_one_vector_per_token_is_refused():
    found = anatomy(tiny("deepseek_v4"))
    assert {block.reason for block in find_branches(found)} == {found.stream_problem}
    with (
        pytest.raises(ValueError, match="must be one vector per token"),
        capture(found.model, "attn_out.0", anatomy=found),
    ):
        pass


# ---- what the search leaves behind


def test_the_model_is_left_as_it_was_and_the_result_is_kept():
    model = tiny("gptj").train()
    model.transformer.h[1].eval()
    found = anatomy(model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    first = find_branches(found)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    model.forward = None
    assert find_branches(found) is first
    with pytest.raises(TypeError):
        find_branches(dataclasses.replace(found))


def test_summary_names_modules_blocks_and_reasons():
    assert branches_summary(anatomy(tiny("llama", num_hidden_layers=3))).splitlines() == [
        "  attn_out     self_attn   (blocks 0-2)",
        "  resid_mid    input of post_attention_layernorm   (blocks 0-2)",
        "  mlp_out      mlp   (blocks 0-2)",
    ]
    assert "mlp_out      resid_dropout (call 2)   (blocks 0-3)" in branches_summary(anatomy(tiny("phi")))
    summary = branches_summary(anatomy(tiny("mamba")))
    assert "  resid_mid, mlp_out none: the block adds one branch, which mixes tokens (attn_out)" in summary
