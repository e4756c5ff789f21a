"""Ways from the last block to the logits: each kind that models have, on modules that have only that."""

import pytest
import torch
import transformers as tf
from torch import nn

import architectures
from model_families import LAYERS, VOCAB, WIDTH, Block, batch, build
from repgeom.anatomy import anatomy


class Head(nn.Module):
    """Embedding, blocks, norm and an unembedding; `logits` is what makes logits of the normed state."""

    def __init__(self, logits):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.lm_head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCAB)
        self.heads = nn.ModuleList(nn.Linear(WIDTH, VOCAB // 2) for _ in range(2))
        self.logits = logits

    def forward(self, input_ids):
        hidden = self.embed(input_ids)
        for block in self.blocks:
            hidden = block(hidden)
        return {"logits": self.logits(self, self.norm(hidden))}


def with_cap(model, cap):
    """A configuration whose cap is no field of its own, as in some nested ones."""
    kind = type("Config", (tf.PretrainedConfig,), {"final_logit_softcapping": cap})
    model.config = kind()
    return model


def banned(logits):
    logits[..., 3:9] = torch.finfo(logits.dtype).min
    return logits


MAPS = {
    "identity": (lambda m, h: m.lm_head(h), "norm -> lm_head"),
    "multiplied": (lambda m, h: m.lm_head(h) * 0.0625, "lm_head -> * 0.0625"),
    "divided": (lambda m, h: m.lm_head(h) / 8.0, "lm_head -> * 0.125"),
    "scaled before": (lambda m, h: m.lm_head(h / 24.0), "norm * 0.0416667 -> lm_head"),
    "capped": (lambda m, h: 3 * torch.tanh(m.lm_head(h) / 3), "soft-cap final_logit_softcapping=3"),
    "scaled and capped": (
        lambda m, h: 3 * torch.tanh(m.lm_head(h) * 0.5 / 3),
        "* 0.5, soft-cap final_logit_softcapping=3",
    ),
    "constant": (lambda m, h: m.lm_head(h) + torch.linspace(-1, 1, VOCAB), "+ constant vector"),
    "banned entries": (lambda m, h: banned(m.lm_head(h)), "norm -> lm_head"),
}


@pytest.mark.parametrize(("logits", "description"), MAPS.values(), ids=MAPS)
def test_logit_maps(logits, description):
    model = with_cap(Head(logits), 3.0)
    found = anatomy(model)
    assert found.readout.endswith(description)
    other = batch(4, 9, seed=5)["input_ids"]
    assert found.check(other).error <= 1e-5
    assert found.final_norm == "norm"


def summed(model, hidden):
    return model.lm_head(hidden) + torch.cat([head(hidden) for head in model.heads], -1).sin()


REFUSED = {
    "functional product": (lambda m, h: h @ m.embed.weight.T, "no single module returns the logits"),
    "several heads": (lambda m, h: torch.cat([head(h) for head in m.heads], -1), "put together of several"),
    "unknown function": (lambda m, h: m.lm_head(h).sin(), "not a known function"),
    "something between": (lambda m, h: m.lm_head(h.cumsum(1)), "does not follow from the last block"),
    "sum of heads": (summed, "not a known function"),
    "other rows": (lambda m, h: m.lm_head(h[:, :4]), r"one row per vector of the stream \[2, 7, 32\]"),
}


@pytest.mark.parametrize(("logits", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_proven_is_refused_with_the_reason(logits, reason):
    found = anatomy(Head(logits))
    assert found.num_blocks == LAYERS
    assert (found.has_readout, found.readout) == (False, None)
    with pytest.raises(ValueError, match=f"Head has no verified logit readout: .*{reason}"):
        found.unembed(torch.zeros(1, 1, WIDTH))


def test_a_module_that_cannot_run_by_itself_is_a_reason():
    class Needy(nn.Linear):
        def forward(self, hidden, scale):
            return super().forward(hidden) * scale

    model = Head(lambda m, h: m.lm_head(h, 2))
    model.lm_head = Needy(WIDTH, VOCAB)
    assert "cannot be run by itself: TypeError" in anatomy(model).readout_problem


def test_dropout_on_the_way_is_off_in_training_mode():
    model = Head(lambda m, h: m.lm_head(m.dropout(h)))
    model.dropout = nn.Dropout(0.5)
    found = anatomy(model.train())
    assert "dropout" in found.readout
    assert found.check(batch()["input_ids"]).error <= 1e-6
    assert model.training
    assert model.dropout.training


@pytest.mark.parametrize("name", ["bart", "mbart"])
def test_trained_logit_bias(name):
    model = architectures.build("seq2seq", name)
    with torch.no_grad():
        model.final_logits_bias.copy_(torch.linspace(-1, 1, model.final_logits_bias.shape[-1]))
    found = anatomy(model)
    assert found.readout.endswith("+ constant vector")
    assert found.check(architectures.inputs(model, "seq2seq", name, seed=3)).error <= 1e-5


@pytest.mark.parametrize(
    ("mapping", "name", "part"),
    [
        ("causal", "granite", "lm_head -> * "),
        ("causal", "hyperclovax", "lm_head -> * 2"),
        ("causal", "falcon_h1", "lm_head -> * "),
        ("causal", "minicpm3", "model.norm * "),
        ("causal", "recurrent_gemma", "soft-cap logits_soft_cap=3"),
        ("causal", "xlstm", "soft-cap output_logit_soft_cap=3"),
        ("causal", "blt", "local_decoder.norm -> lm_head"),
        ("seq2seq", "fsmt", "output_projection"),
        ("seq2seq", "t5", " * 0.125 -> lm_head"),
    ],
)
def test_heads_of_the_library(mapping, name, part):
    model = architectures.build(mapping, name)
    found = anatomy(model)
    assert part in found.readout
    inputs = architectures.inputs(model, mapping, name, seed=3)
    assert found.check(inputs).error <= 1e-5


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("mapping", "name", "reason"),
    [
        ("masked", "mobilebert", "no single module returns the logits"),
        ("masked", "neomme", "does not follow from the last block"),
        ("causal", "inkling2_text", "does not follow from the last block"),
        ("causal", "prophetnet", "one row per vector of the stream"),
    ],
)
def test_heads_that_are_refused(mapping, name, reason):
    found = anatomy(architectures.build(mapping, name))
    assert reason in found.readout_problem


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["mamba", "llama", "gemma2"])
def test_half_precision(name, dtype):
    model = architectures.build("causal", name).to(dtype)
    found = anatomy(model)
    checked = found.check(architectures.inputs(model, "causal", name, seed=3))
    assert checked.tolerance == 2e-2
    assert checked.error <= 2e-2
    entered = []
    block = found.module(found.blocks[1].path)
    block.register_forward_pre_hook(lambda _, args: entered.append(args[0].dtype))
    with torch.no_grad():
        model(**found.probe[1])
    assert entered == [torch.float32 if name == "mamba" else dtype]


def test_float_logits_of_half_precision_weights():
    model = Head(lambda m, h: (m.lm_head(h) * 0.3 * 1.7).float()).to(torch.bfloat16)
    found = anatomy(model)
    assert 1e-4 < found.readout_error <= 2e-2
    assert found.check(batch()["input_ids"]).tolerance == 2e-2


def test_check_says_why_a_batch_fails():
    found = anatomy(build("gpt2"))
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel \(gpt2\) failed with IndexError"):
        found.check({"input_ids": torch.tensor([[VOCAB + 5]])})
