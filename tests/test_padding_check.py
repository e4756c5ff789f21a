"""Whether a model is right on padded batches is found by running it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import architectures
import model_families
from repgeom import anatomy
from repgeom.padding import PaddingCheck, check_padding, takes_mask

# Convolution, Fourier transform, pooling, landmarks: padding reaches real tokens whatever the mask says.
WRONG = ("convbert", "fnet", "funnel", "nystromformer")


def check(model: nn.Module, **options: Any) -> PaddingCheck:
    return check_padding(model, anatomy(model, **options))


@pytest.mark.parametrize("family", model_families.BUILDERS)
def test_families_that_are_right(family: str) -> None:
    found = check(model_families.build(family))
    assert found.ok
    assert found.reason is None
    assert found.right_error <= 1e-5
    assert found.masked_error == 0
    assert found.tolerance == 1e-4
    assert found.tokens == (5 if family == "t5" else 7)
    assert found.sites[:2] == ("resid_pre.0", "resid_post.0")
    assert found.causal == (family in {*model_families.CAUSAL, "granite", "t5"})


@pytest.mark.parametrize("model_type", WRONG)
def test_architectures_that_are_wrong(model_type: str) -> None:
    found = check(architectures.build("masked", model_type))
    assert not found.ok
    assert found.right_error > 1e-3
    assert "padding changes the hidden states of real tokens" in found.reason


def test_a_model_that_puts_a_prompt_in_front_is_wrong() -> None:
    assert not check(architectures.build("causal", "cpmant")).ok


def test_the_encoder_of_an_encoder_decoder() -> None:
    model = model_families.build("t5")
    found = check(model, tower="encoder")
    assert found.ok
    assert found.tokens == 7
    assert not found.causal


class Mixing(model_families.Custom):
    """A custom model whose blocks see the mean of some positions.

    Args:
        sees: "before" (what is before a position), "real" (what the mask allows), "all" (padding too), or
            "ids" (the last id of the row, in the embedding).
    """

    def __init__(self, sees: str) -> None:
        super().__init__()
        self.sees = sees

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden = self.embed(input_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        weights = mask[..., None].to(hidden.dtype)
        if self.sees == "ids":
            hidden = hidden + 1e-3 * self.embed(input_ids[:, -1:]) * (weights.sum() < weights.numel())
        for block in self.blocks:
            if self.sees == "before":
                mean = hidden.cumsum(dim=1) / torch.arange(1, hidden.shape[1] + 1)[:, None]
            elif self.sees == "real":
                mean = (hidden * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)
            else:
                mean = hidden.mean(dim=1, keepdim=True) if self.sees == "all" else 0.0
            hidden = block(hidden, scale=0.1) if isinstance(mean, float) else block(hidden, mean)
        return self.lm_head(self.norm(hidden))


@pytest.mark.parametrize(
    ("sees", "ok", "causal"), [("before", True, True), ("real", True, False), ("all", False, False)]
)
def test_what_a_model_sees_decides(sees: str, ok: bool, causal: bool) -> None:
    torch.manual_seed(0)
    found = check(Mixing(sees).eval())
    assert (found.ok, found.causal) == (ok, causal)


def test_ids_under_the_mask_must_not_matter() -> None:
    torch.manual_seed(0)
    found = check(Mixing("ids").eval())
    assert not found.ok
    assert found.masked_error > found.tolerance


class Unmasked(model_families.Custom):
    """A model whose forward has no mask."""

    def forward(self, input_ids: Tensor) -> Tensor:
        return super().forward(input_ids)


class Swallowing(Unmasked):
    """A model that takes a mask and ignores it."""

    def forward(self, input_ids: Tensor, **_: Any) -> Tensor:
        return super().forward(input_ids)


@pytest.mark.parametrize(("kind", "takes"), [(Unmasked, False), (Swallowing, True), (Mixing, True)])
def test_a_model_without_a_mask_is_judged_by_its_numbers(kind: Any, takes: bool) -> None:
    model = kind("all") if kind is Mixing else kind()
    assert takes_mask(model) == takes
    assert check(model.eval()).ok == (kind is not Mixing)


class Failing(model_families.Custom):
    """A model that cannot have padding, or has NaN there."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if attention_mask is not None and not bool(attention_mask.all()):
            if self.how == "error":
                raise NotImplementedError("no padding\nplease")
            self.embed.weight.data[:] = float("nan")
        return super().forward(input_ids)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("error", "the padded forward failed with NotImplementedError: no padding please"),
        ("nan", "by nan relative"),
    ],
)
def test_an_error_and_nan_fail(how: str, reason: str) -> None:
    found = check(Failing(how).eval())
    assert not found.ok
    assert not found.causal
    assert reason in found.reason


class Random(model_families.Custom):
    """A model that draws random numbers."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        del attention_mask
        hidden = self.embed(input_ids)
        hidden = hidden + torch.rand_like(hidden)
        for block in self.blocks:
            hidden = block(hidden)
        return self.lm_head(self.norm(hidden))


def test_a_model_that_is_not_deterministic_fails() -> None:
    found = check(Random().eval())
    assert not found.ok
    assert found.reason == "two forwards of the same tokens differ"


def test_half_precision_has_its_own_tolerance() -> None:
    found = check(model_families.build("llama").to(torch.bfloat16))
    assert found.ok
    assert found.tolerance == 2e-2


def test_it_costs_two_forwards_and_leaves_the_model_as_it_was() -> None:
    model = model_families.build("gpt2")
    where = anatomy(model)
    model.train()
    calls: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(
        lambda _, __, kwargs: calls.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    assert check_padding(model, where).ok
    assert calls == [(1, 7), (4, 11)]
    assert all(module.training for module in model.modules())


def test_a_users_batch_is_padded_with_all_that_is_aligned() -> None:
    model = model_families.build("bert")
    batch = model_families.batch(2, 6)
    batch["token_type_ids"] = torch.tensor([[0, 0, 0, 1, 1, 1]] * 2)
    batch["position_ids"] = torch.arange(6).repeat(2, 1)
    found = check(model, batch=batch)
    assert found.ok
    assert found.tokens == 6


def test_a_stack_without_tokens_is_refused() -> None:
    model = architectures.build("base", "vit")
    with pytest.raises(ValueError, match=r"no token ids reach .* of ViTModel: nothing to pad"):
        check(model)
