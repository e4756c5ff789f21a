"""Routers: found in every architecture with experts, counted as the experts see it, padding left out."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import architectures
import model_families
from repgeom.anatomy import anatomy
from repgeom.capture import capture
from repgeom.probe import config_values
from repgeom.routed import RouterCounts, capture_routers
from repgeom.routers import EXPERTS, Router, find_routers
from repgeom.routing import ROUTER_COLUMNS

# Causal language models with experts, and the blocks of the tiny model that are sparse.
ALL, LATER, LAST = (0, 1, 2, 3), (1, 2, 3), (3,)
SPARSE: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("afmoe", "axk1", "axk2", "deepseek_v3", "dots3_note", "dots3_note_text"), LATER),
    **dict.fromkeys(("ernie4_5_moe", "exaone_moe", "glm4_moe", "glm4_moe_lite", "hy_v3", "hy_v4"), LATER),
    **dict.fromkeys(("kimi_linear", "laguna", "lfm2_moe", "mimo_v2_flash"), LATER),
    **dict.fromkeys(("beam", "deepseek_v32", "glm_moe_dsa"), LAST),
    **dict.fromkeys(("bailing_hybrid", "flint"), (2, 3)),
    "jamba": (1, 3),
    "nemotron_h": (1,),
    **dict.fromkeys(("aria_text", "cohere2_moe", "dbrx", "deepseek_v2", "deepseek_v4", "dots1"), ALL),
    **dict.fromkeys(("flex_olmo", "gpt_oss", "granitemoe", "granitemoe_swa", "granitemoehybrid"), ALL),
    **dict.fromkeys(("granitemoeshared", "hunyuan_v1_moe", "inkling2_text", "inkling_text", "jetmoe"), ALL),
    **dict.fromkeys(("kolibri1", "llama4", "llama4_text", "longcat_flash", "mellum", "minimax"), ALL),
    **dict.fromkeys(("minimax_m2", "minimax_m3_vl_text", "mixtral", "olmoe", "phimoe", "qwen2_moe"), ALL),
    **dict.fromkeys(("qwen3_5_moe", "qwen3_5_moe_text", "qwen3_moe", "qwen3_next", "qwen4_exp"), ALL),
    **dict.fromkeys(("qwen4_exp_text", "solar_open", "zaya"), ALL),
}
BY_SCORES = {"dbrx", "jetmoe", "llama4", "llama4_text"}
ENTRIES = architectures.entries("causal")


def built(name: str, **settings: Any) -> tuple[nn.Module, dict[str, Any]]:
    model = architectures.build("causal", name, **settings)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        # What corrects the balance of experts is zero in a new model.
        for path, buffer in model.named_buffers():
            if path.endswith("bias"):
                buffer.add_(torch.randn(buffer.shape, generator=generator).to(buffer.dtype))
            if path.endswith("balancing_biases"):
                buffer[-1] = 0.0
            if path.endswith("tid2eid"):
                rows = [torch.randperm(4, generator=generator)[: buffer.shape[1]] for _ in buffer]
                buffer.copy_(torch.stack(rows))
    return model, {**architectures.inputs(model, "causal", name), "use_cache": False}


def counted(model: nn.Module, routers: tuple[Router, ...], *batches: dict[str, Any]) -> pd.DataFrame:
    return counts_of(model, routers, *batches).frame()


def counts_of(model: nn.Module, routers: tuple[Router, ...], *batches: dict[str, Any]) -> RouterCounts:
    counts = RouterCounts(routers)
    with capture_routers(model, routers, counts.add), torch.no_grad():
        for batch in batches:
            counts.begin(batch.get("attention_mask"))
            model(**batch)
    return counts


def what_experts_saw(
    model: nn.Module, batch: dict[str, Any], routers: tuple[Router, ...]
) -> list[Counter[int]]:
    """Tokens per expert by router, from what the experts beside it were given, not from the router."""
    seen: list[Counter[int]] = [Counter() for _ in routers]
    handles = []
    for counter, router in zip(seen, routers, strict=True):
        parent = model.get_submodule(router.path.rpartition(".")[0])

        def look(
            module: nn.Module, args: Any, kwargs: Any, *, counter: Any = counter, own: Any = router
        ) -> None:
            if module is model.get_submodule(own.path):
                return
            values = [*args, *kwargs.values()]
            sizes = [value for value in values if isinstance(value, (list, tuple))]
            indices = [v for v in values if isinstance(v, Tensor) and v.dtype == torch.int64 and v.dim() == 2]
            weights = [v for v in values if isinstance(v, Tensor) and indices and v.shape == indices[0].shape]
            if indices:
                # A token that skips the experts is given to one with weight 0.
                real = indices[0][(weights[-1] != 0)]
                counter.update(real.tolist())
            elif sizes and len(sizes[0]) == own.num_experts and not counter:
                counter.update({expert: size for expert, size in enumerate(sizes[0]) if size})

        for child in parent.children():
            handles.append(child.register_forward_pre_hook(look, with_kwargs=True))
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    return seen


def test_all_causal_models_with_experts_are_listed():
    with_experts = set()
    for name in ENTRIES:
        if ("causal", name) not in architectures.NOT_BUILT:
            values = architectures.tiny_config("causal", name)
            model = nn.Module()
            model.config = values
            if any(config_values(model).get(field) for field in EXPERTS):
                with_experts.add(name)
    # doge has its experts switched off, and gemma4's configuration gives none.
    assert with_experts - set(SPARSE) <= {"doge"}
    assert len(SPARSE) == 59


@pytest.mark.parametrize("name", [name for name in SPARSE if name in ENTRIES])
def test_routers_of_every_architecture(name):
    model, batch = built(name)
    routers = find_routers(model, anatomy(model))
    assert tuple(sorted({router.block for router in routers})) == SPARSE[name]
    assert len(routers) == len(SPARSE[name]) * (2 if name == "jetmoe" else 1)
    assert {router.choice for router in routers} == {"top_k of logits" if name in BY_SCORES else "indices"}
    extra = 1 if name in ("longcat_flash", "zaya") else 0
    assert {(router.num_experts, router.top_k) for router in routers} == {(4 + extra, 2)}
    counts = counts_of(model, routers, batch)
    frame = counts.frame()
    assert frame["layer"].tolist() == [router.block for router in routers]
    assert set(frame["routed_assignments"]) == {14 * 2}
    seen = what_experts_saw(model, batch, routers)
    if not name.startswith("llama4"):
        expected = [
            [counter[i] for i in range(r.num_experts)] for counter, r in zip(seen, routers, strict=True)
        ]
        found = counts.statistics().counts
        if name == "zaya":  # the last choice is to skip the experts
            assert found[:, -1].sum() > 0
            found[:, -1] = 0
        assert found.tolist() == expected


@pytest.mark.parametrize("name", [name for name in SPARSE if name in ENTRIES])
def test_routers_are_the_modules_that_make_the_model_s_router_logits(name):
    model, batch = built(name)
    routers = find_routers(model, anatomy(model))
    seen: list[list[Tensor]] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        seen.append(list(output) if isinstance(output, tuple) else [output])

    handles = [model.get_submodule(router.path).register_forward_hook(keep) for router in routers]
    with torch.no_grad():
        logits = model(**batch, output_router_logits=True).router_logits
    for handle in handles:
        handle.remove()

    def among(value: Any, tensors: Any) -> bool:
        return any(
            isinstance(t, Tensor) and t.shape == value.shape and torch.equal(t, value) for t in tensors
        )

    assert logits
    assert all(any(among(value, outputs) for outputs in seen) for value in logits)
    unnamed = [
        r.block
        for r, outputs in zip(routers, seen, strict=True)
        if not any(among(v, outputs) for v in logits)
    ]
    # Layers that route by a hash of the token have no router logits for transformers.
    assert unnamed == ([0, 1, 2] if name == "deepseek_v4" else [])


def test_the_choice_of_llama4_is_where_its_scores_are_not_zero():
    model, batch = built("llama4_text")
    routers = find_routers(model, anatomy(model))
    scores: list[Tensor] = []
    for router in routers:
        model.get_submodule(router.path).register_forward_hook(
            lambda _m, _a, output: scores.append(output[0])
        )
    found = counts_of(model, routers, batch).statistics().counts
    assert found.tolist() == [(score != 0).sum(dim=0).tolist() for score in scores]


@pytest.mark.parametrize("name", ["deepseek_v3", "glm4_moe"])
def test_the_corrected_choice_counts_and_not_the_largest_logits(name):
    model, batch = built(name)
    routers = find_routers(model, anatomy(model))
    logits: list[Tensor] = []
    for router in routers:
        model.get_submodule(router.path).register_forward_hook(
            lambda _m, _a, output: logits.append(output[0])
        )
    found = counts_of(model, routers, batch).statistics().counts
    largest = [np.bincount(x.topk(2).indices.reshape(-1), minlength=4).tolist() for x in logits]
    assert found.tolist() != largest


def test_experts_beside_the_router_in_the_block_itself():
    config = architectures.tiny_config("causal", "gemma4_text")
    for field, value in {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2}.items():
        setattr(config, field, value)
    config.moe_intermediate_size = 32
    torch.manual_seed(0)
    import transformers

    model = transformers.Gemma4ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    routers = find_routers(model, anatomy(model))
    assert [(router.block, router.name) for router in routers] == [(i, "router") for i in range(4)]
    assert set(counted(model, routers, model_families.batch(2, 5))["routed_assignments"]) == {20}


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "t5"])
def test_models_without_experts_have_no_routers(family):
    model = model_families.build(family)
    assert find_routers(model, anatomy(model)) == ()


def mixtral() -> tuple[nn.Module, tuple[Router, ...]]:
    model = model_families.build("mixtral")
    return model, find_routers(model, anatomy(model))


def test_a_router_says_where_it_is():
    _, routers = mixtral()
    first = routers[0]
    name = first.path.removeprefix("model.layers.0.")
    assert [router.path for router in routers] == [f"model.layers.{i}.{name}" for i in range(3)]
    assert (first.block, first.name, first.call, first.num_experts, first.top_k) == (0, name, 0, 4, 2)


def test_the_frame_names_blocks_and_routers():
    model, batch = built("jetmoe")
    frame = counted(model, find_routers(model, anatomy(model)), batch)
    assert tuple(frame.columns) == (*ROUTER_COLUMNS, "router", "num_experts", "top_k", "choice")
    assert frame["layer"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert frame["router"].tolist() == ["self_attention.experts.router", "mlp.router"] * 4
    np.testing.assert_allclose(frame["load_imbalance"], 4 * frame["top_expert_load"])


def test_padding_and_batching_do_not_change_the_counts():
    model, routers = mixtral()
    batch = model_families.batch(4, 9)
    whole = counts_of(model, routers, batch).statistics().counts
    rows = [{name: value[i : i + 1] for name, value in batch.items()} for i in range(4)]
    assert (counts_of(model, routers, *rows).statistics().counts == whole).all()
    for side in ("right", "left"):
        pad = (0, 3) if side == "right" else (3, 0)
        padded = {name: nn.functional.pad(value, pad) for name, value in batch.items()}
        if side == "left":
            padded["position_ids"] = (padded["attention_mask"].cumsum(1) - 1).clamp(min=0)
        found = counts_of(model, routers, padded).statistics().counts
        assert (found == whole).all(), side
    with capture_routers(model, routers, (unmasked := RouterCounts(routers)).add), torch.no_grad():
        unmasked.begin(None)
        model(**padded)
    assert unmasked.frame()["routed_assignments"].tolist() == [4 * 12 * 2] * 3


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_hooks_go_also_after_an_error_and_others_stay():
    model, routers = mixtral()
    model.get_submodule(routers[0].path).register_forward_hook(lambda *_: None)
    before = hooks(model)
    find_routers(model, anatomy(model))
    assert hooks(model) == before
    with pytest.raises(KeyError, match="my own"), capture_routers(model, routers, lambda *_: None):
        raise KeyError("my own")
    assert hooks(model) == before
    with pytest.raises(ValueError, match="the probe forward of MixtralForCausalLM failed with"):
        find_routers(model, anatomy(model), {"input_ids": torch.full((2, 7), 10**6)})
    assert hooks(model) == before


def test_a_forward_that_is_stopped_early_is_heard_up_to_there():
    model, routers = mixtral()
    known = anatomy(model)
    heard: list[int] = []
    batch = model_families.batch()
    with (
        capture_routers(model, routers, lambda router, _: heard.append(router.block)),
        capture(model, ["resid_pre.2"], anatomy=known) as activations,
    ):
        activations.run(**batch)
        activations.run(**batch)
    assert heard == [0, 1, 0, 1]


def test_training_flags_and_random_numbers_are_as_before():
    model, _ = mixtral()
    known = anatomy(model)
    model.train()
    state = torch.get_rng_state()
    find_routers(model, known)
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


WIDTH, VOCAB = 16, 50


class Gate(nn.Module):
    """A router in one of the forms that models use; `self.form` names it."""

    def __init__(self, form: str, experts: int = 4) -> None:
        super().__init__()
        self.form, self.top_k = form, 2
        self.layer = nn.Linear(WIDTH, experts)

    def forward(self, hidden: Tensor) -> Any:
        logits = self.layer(hidden)
        weights, indices = logits.softmax(-1).topk(2, dim=-1)
        forms = {
            "scores": logits,
            "indices and weights": (indices, weights),
            "scores, indices": (logits, indices),
            "dict": {"logits": logits, "chosen": indices.int()},
            "one-hot": (nn.functional.one_hot(indices[..., 0], logits.shape[-1]), weights[..., :1]),
        }
        return forms[self.form]


class Sparse(nn.Module):
    def __init__(self, form: str, flat: bool) -> None:
        super().__init__()
        self.router = Gate(form)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.shared_expert_gate = nn.Linear(WIDTH, 1)
        self.flat = flat

    def forward(self, hidden: Tensor) -> Tensor:
        self.router(hidden.reshape(-1, WIDTH) if self.flat else hidden)
        every = torch.stack([expert(hidden) for expert in self.experts])
        return every.mean(0) * self.shared_expert_gate(hidden).sigmoid()


class Layer(nn.Module):
    def __init__(self, form: str, flat: bool) -> None:
        super().__init__()
        self.attention = nn.Linear(WIDTH, 4)
        self.moe = Sparse(form, flat)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.moe(hidden) + self.attention(hidden).sum(-1, keepdim=True)


class Custom(nn.Module):
    """Two blocks with experts and no configuration; `shared`: one block called twice."""

    def __init__(self, form: str, *, flat: bool = True, shared: bool = False, turned: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList(Layer(form, flat) for _ in range(1 if shared else 2))
        self.head = nn.Linear(WIDTH, VOCAB)
        self.shared, self.turned = shared, turned

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.embed(input_ids)
        hidden = hidden.transpose(0, 1) if self.turned else hidden
        for i in range(2):
            hidden = self.blocks[0 if self.shared else i](hidden)
        return self.head(hidden.transpose(0, 1) if self.turned else hidden)


def custom(form: str, **options: bool) -> Custom:
    torch.manual_seed(0)
    return Custom(form, **options).eval()


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("form", ["scores", "indices and weights", "scores, indices", "dict"])
def test_routers_without_a_configuration(form, flat):
    model = custom(form, flat=flat)
    routers = find_routers(model, anatomy(model))
    assert [(r.block, r.name, r.num_experts, r.top_k) for r in routers] == [
        (0, "moe.router", 4, 2),
        (1, "moe.router", 4, 2),
    ]
    assert {r.choice for r in routers} == {"top_k of logits" if form == "scores" else "indices"}
    ids = torch.arange(12).reshape(3, 4)
    found = counts_of(model, routers, {"input_ids": ids}).statistics().counts
    same = custom("scores")
    want = counts_of(same, find_routers(same, anatomy(same)), {"input_ids": ids}).statistics().counts
    assert (found == want).all()
    assert found.sum() == 2 * 12 * 2


def test_a_one_hot_mask_is_no_choice_of_indices():
    model = custom("one-hot")
    assert find_routers(model, anatomy(model)) == ()


def test_a_block_that_is_called_twice_has_two_routers():
    model = custom("scores, indices", shared=True)
    routers = find_routers(model, anatomy(model))
    assert [(router.block, router.path, router.call) for router in routers] == [
        (0, "blocks.0.moe.router", 0),
        (1, "blocks.0.moe.router", 1),
    ]
    ids = torch.arange(12).reshape(3, 4)
    counts = counts_of(model, routers, {"input_ids": ids}, {"input_ids": ids}).statistics().counts
    assert counts.sum(axis=1).tolist() == [48, 48]
    assert counts[0].tolist() != counts[1].tolist()


def test_routers_of_a_turned_stream_are_refused():
    model = custom("scores", turned=True)
    with pytest.raises(ValueError, match=r"order \[batch, seq\], got \[seq, batch\] in blocks.0.moe.router"):
        find_routers(model, anatomy(model))


def test_an_output_that_changes_its_form_is_an_error():
    model = custom("scores, indices")
    routers = find_routers(model, anatomy(model))
    model.blocks[1].moe.router.form = "scores"
    with pytest.raises(RuntimeError, match=r"blocks.1.moe.router must return indices, 2 per token, got "):
        counts_of(model, routers, {"input_ids": torch.arange(12).reshape(3, 4)})


def test_counts_refuse_what_does_not_add_up():
    model, routers = mixtral()
    batch = model_families.batch(2, 5)
    counts = RouterCounts(routers)
    with capture_routers(model, routers, counts.add), torch.no_grad():
        with pytest.raises(RuntimeError, match="was heard 1 times in 0 forwards"):
            model(**batch)
        counts = RouterCounts(routers)
    with capture_routers(model, routers, counts.add), torch.no_grad():
        counts.begin(torch.ones(2, 6))
        with pytest.raises(ValueError, match="must choose for 12 tokens, got 10"):
            model(**batch)
    silent = RouterCounts(routers)
    silent.begin(None)
    with pytest.raises(RuntimeError, match="must be heard once in each of 1 forwards, but was 0 times"):
        silent.frame()
    assert RouterCounts(routers).frame()["routed_assignments"].tolist() == [0, 0, 0]
    assert RouterCounts(()).frame().columns[:7].tolist() == list(ROUTER_COLUMNS)
