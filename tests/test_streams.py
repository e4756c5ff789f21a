"""How the hidden state lies in memory, and where the tokens are in it."""

import math

import pytest
import torch
import transformers as tf
from torch import nn

import architectures
from model_families import LAYERS, WIDTH, batch, custom
from repgeom.anatomy import anatomy, batch_first
from tower_models import Net, assert_linked, states_at_blocks

# ---- layouts without tokens


def test_channels_of_a_square_image_are_told_by_the_layer():
    class Convolutions(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 1)
            self.layer = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()) for _ in range(2))

        def forward(self, pixel_values):
            hidden = self.stem(pixel_values)
            for layer in self.layer:
                hidden = layer(hidden)
            return hidden

    for height, width in ((8, 8), (4, 8), (8, 4)):
        found = anatomy(Convolutions(), {"pixel_values": torch.randn(2, 3, height, width)})
        assert (found.layout, found.d_model) == ("BCHW", 8)


@pytest.mark.parametrize(
    ("name", "layout"),
    [("vit", "BSH"), ("sam_vision_model", "BHWC"), ("poolformer", "BCHW"), ("dinov3_convnext", "BCHW")],
)
def test_pixels_are_enough_for_vision_models(name, layout):
    found = anatomy(architectures.build("base", name))
    assert (found.layout, found.token_input, found.stream_problem) == (layout, None, None)
    assert list(found.probe[1]) == ["pixel_values"]
    assert_linked(found)


@pytest.mark.parametrize("keyword", [False, True])
@pytest.mark.parametrize("rows", [2, 5])
def test_sequence_first_without_tokens(rows, keyword):
    class Patches(Net):
        def forward(self, pixel_values):
            hidden = pixel_values.flatten(2).transpose(1, 2) @ torch.ones(3, WIDTH)
            return self.run(hidden.transpose(0, 1) if self.second else hidden)

    model = Patches()
    pixels = torch.randn(rows, 3, 5, 1)
    for model.second, layout in ((True, "SBH"), (False, "BSH")):
        found = anatomy(model, {"pixel_values": pixels} if keyword else [pixels])
        assert (found.layout, found.token_input) == (layout, None)


def test_not_a_number_is_linked_like_any_other():
    model = custom()
    model.embed.register_forward_hook(lambda _module, _args, output: output * math.nan)
    found = anatomy(model)
    assert [block.path for block in found.blocks] == [f"blocks.{i}" for i in range(LAYERS)]
    assert (found.layout, found.token_input, found.stream_problem) == ("BSH", "input_ids", None)
    assert found.deterministic
    assert not found.has_readout


def test_packed_vision_tower():
    config = tf.Qwen2VLConfig().vision_config
    config.update({"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2})
    torch.manual_seed(0)
    model = tf.models.qwen2_vl.modeling_qwen2_vl.Qwen2VisionTransformerPretrainedModel(config).eval()
    grid = torch.tensor([[1, 4, 4], [1, 2, 4]])
    patches = torch.randn(24, config.in_channels * config.temporal_patch_size * config.patch_size**2)
    with pytest.raises(ValueError, match="pass a batch"):
        anatomy(model)
    found = anatomy(model, {"hidden_states": patches, "grid_thw": grid})
    assert (found.layout, found.d_model, found.num_blocks) == ("NH", 32, 2)
    assert states_at_blocks(found, found.probe)[0][0].shape == (1, 24, 32)
    assert_linked(found)


@pytest.mark.parametrize(
    ("layout", "axes"),
    [
        ("BSH", (2, 6, 5)),
        ("SBH", (6, 2, 5)),
        ("BHS", (2, 5, 6)),
        ("BHWC", (2, 3, 2, 5)),
        ("BCHW", (2, 5, 3, 2)),
    ],
)
def test_every_layout_becomes_batch_first(layout, axes):
    wanted = torch.arange(60.0).reshape(2, 6, 5)
    stored = {
        "SBH": wanted.transpose(0, 1),
        "BHS": wanted.transpose(1, 2),
        "BCHW": wanted.transpose(1, 2).reshape(2, 5, 3, 2),
    }.get(layout, wanted.reshape(axes))
    assert stored.shape == axes
    assert torch.equal(batch_first(stored, layout), wanted)
    assert torch.equal(batch_first(wanted[0], "NH"), wanted[:1])
    with pytest.raises(ValueError, match=r"layout of a hidden state must be one of BSH.* not 'other'"):
        batch_first(stored, "other")


# ---- where the tokens are


def prompted(self, hidden, front=3, back=0):
    rows, length = hidden.shape[:2]
    whole = torch.cat([torch.ones(rows, front, WIDTH), hidden, torch.zeros(rows, back, WIDTH)], dim=1)
    return self.run(whole)[:, front : front + length]


@pytest.mark.parametrize(("front", "back"), [(3, 0), (0, 1), (2, 4)])
def test_tokens_in_a_longer_stream(front, back):
    model = Net(lambda self, hidden: prompted(self, hidden, front, back))
    found = anatomy(model)
    assert (found.layout, found.lengthens, found.first_position) == ("BSH", True, front)
    assert found.check(batch(4, 9)["input_ids"]).error <= 1e-6
    whole = states_at_blocks(found, found.probe)[-1][1]
    assert whole.shape[1] == 7 + front + back
    tokens = found.to_tokens(whole, 7)
    assert torch.equal(tokens, whole[:, front : front + 7])
    with torch.no_grad():
        assert torch.equal(found.unembed(tokens), model(*found.probe[0], **found.probe[1]))
    assert f"from position {front} of a longer stream" in str(found)


def test_a_length_that_the_probe_did_not_show_is_refused():
    found = anatomy(Net())
    state = torch.zeros(2, 9, WIDTH)
    assert found.to_tokens(state, 9).shape == (2, 9, WIDTH)
    with pytest.raises(ValueError, match="where 7 tokens are among 9 positions"):
        found.to_tokens(state, 7)


@pytest.mark.parametrize(
    ("mapping", "name", "tower", "first"),
    [
        ("masked", "longformer", None, 0),
        ("seq2seq", "led", "encoder", 0),
        ("seq2seq", "pegasus_x", "encoder", 0),
        ("causal", "cpmant", None, 32),
    ],
)
def test_models_that_lengthen_the_sequence(mapping, name, tower, first):
    model = architectures.build(mapping, name)
    found = anatomy(model, tower=tower)
    assert (found.lengthens, found.first_position, found.stream_problem) == (True, first, None)
    assert (found.token_input, found.embedding is None) == ("input_ids", False)
    states = states_at_blocks(found, found.probe)
    with torch.no_grad():
        output = model(**found.probe[1], output_hidden_states=True)
    hidden = output.get("encoder_hidden_states", output.get("hidden_states"))
    assert all(
        torch.equal(found.to_tokens(entered, 7), state[:, :7])
        for (entered, _), state in zip(states, hidden, strict=False)
    )
    if tower is None:
        assert found.check(architectures.inputs(model, mapping, name, seed=3)).error <= 1e-5


def test_square_batches_keep_their_layout():
    ids = batch(5, 5)["input_ids"]
    assert anatomy(custom(), ids[:2, :2]).layout == "BSH"
    assert anatomy(custom(sequence_first=True), ids[:2, :2]).layout == "SBH"


STREAMS = {
    "4 streams, inner": lambda self, h: self.run(h[:, :, None].expand(-1, -1, 4, -1)).mean(2),
    "4 streams, outer": lambda self, h: self.run(h[None].expand(4, -1, -1, -1)).mean(0),
    "streams in a row": lambda self, h: self.run(torch.cat([h, torch.ones_like(h)], 1))[:, :7],
    "mixed before the blocks": lambda self, h: self.run(torch.cat([h.cumsum(1), h[:, :1]], 1))[:, :7],
    "mixed over the batch": lambda self, h: self.run(h + h.flip(0)),
    "pooled": lambda self, h: self.run(h[:, ::2]).repeat_interleave(2, 1)[:, :7],
}


@pytest.mark.parametrize("way", STREAMS.values(), ids=STREAMS)
def test_what_is_not_one_vector_per_token_is_refused(way):
    found = anatomy(Net(way))
    assert found.num_blocks == LAYERS
    assert found.layout == "other"
    message = r"must be one vector per token.* but is \[.*\] for \[2, 7\] tokens; measure single modules"
    with pytest.raises(ValueError, match=message):
        found.to_tokens(torch.zeros(2, 7, WIDTH))
    assert found.stream_problem in str(found)


def test_readout_of_hyper_connections_goes_from_the_whole_stream():
    model = architectures.build("causal", "deepseek_v4")
    found = anatomy(model)
    assert "[2, 7, 4, 64] for [2, 7] tokens" in found.stream_problem
    assert "hc_head" in found.readout
    assert found.check(architectures.inputs(model, "causal", "deepseek_v4")).error <= 1e-5


# ---- random numbers


def test_random_forwards_are_marked():
    noisy = anatomy(Net(lambda self, hidden: self.run(hidden + torch.rand_like(hidden))))
    assert not noisy.deterministic
    assert "two identical forwards differ" in str(noisy)
    assert noisy.readout_error <= 1e-6
    assert noisy.check().error <= 1e-6
    assert noisy.token_input == "input_ids"
    assert anatomy(Net()).deterministic
    assert not anatomy(architectures.build("base", "vit_mae")).deterministic


def test_random_state_survives_a_random_forward():
    model = Net(lambda self, hidden: self.run(hidden + torch.rand_like(hidden)))
    before = torch.get_rng_state()
    anatomy(model).check()
    assert torch.equal(torch.get_rng_state(), before)
