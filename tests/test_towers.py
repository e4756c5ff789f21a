"""Which stacks a model has: towers, stages, branches, single blocks."""

import pytest
import torch
import transformers as tf
from torch import nn

import architectures
from model_families import LAYERS, Block, batch, build
from repgeom.anatomy import anatomy
from tower_models import Net, assert_linked

# ---- towers


@pytest.mark.parametrize("part", ["encoder.block", "encoder"])
def test_the_encoder_is_a_tower(part):
    model = build("t5")
    found = anatomy(model, tower=part)
    assert (found.tower, found.other_towers) == ("encoder.block", ("decoder.block",))
    assert [block.path for block in found.blocks] == [f"encoder.block.{i}" for i in range(LAYERS)]
    assert (found.token_input, found.embedding) == ("input_ids", "encoder.embed_tokens")
    assert (found.final_norm, found.unembedding) == ("encoder.final_layer_norm", None)
    with pytest.raises(ValueError, match=r"the logits are read off the main stack decoder\.block"):
        found.check()
    assert_linked(found)


def test_the_main_tower_by_name_is_the_default():
    model = build("t5")
    assert anatomy(model, tower="decoder.block") == anatomy(model)
    assert anatomy(model).tower == "decoder.block"
    assert anatomy(model).token_input == "decoder_input_ids"


@pytest.mark.parametrize("tower", ["vision", "block", ""])
def test_a_tower_must_be_one_of_those_there_are(tower):
    message = r"exactly one stack of T5.* \(t5\), encoder\.block, decoder\.block, got"
    with pytest.raises(ValueError, match=message):
        anatomy(build("t5"), tower=tower)


def test_towers_of_equal_length_are_told_apart_by_value():
    ids = batch(2, 6)["input_ids"]
    inputs = {"input_ids": ids, "decoder_input_ids": ids.clone()}
    for tower, name in (("encoder", "input_ids"), ("decoder", "decoder_input_ids")):
        found = anatomy(build("t5"), inputs, tower=tower)
        assert found.token_input == name
        assert found.embedding == f"{tower}.embed_tokens"


def test_vision_tower_has_no_tokens():
    model = architectures.build("base", "clip")
    text, vision = anatomy(model), anatomy(model, tower="vision")
    assert (text.tower, text.token_input) == ("text_model.encoder.layers", "input_ids")
    assert (vision.tower, vision.token_input) == ("vision_model.encoder.layers", None)
    assert (vision.layout, vision.embedding) == ("BSH", None)
    assert_linked(vision)
    assert "tokens       none reach the tower" in str(vision)


def test_images_bring_the_vision_tower_of_a_language_model():
    model = architectures.build("image_text", "llava")
    vision = model.config.vision_config
    image = [model.config.image_token_id] * (vision.image_size // vision.patch_size) ** 2
    ids = torch.tensor([[10, 20, *image, 30, 40]] * 2)
    inputs = {"input_ids": ids, "pixel_values": torch.randn(2, 3, vision.image_size, vision.image_size)}
    text = anatomy(model)
    assert text.other_towers == ()
    found = anatomy(model, inputs, tower="vision")
    assert (found.other_towers, found.token_input) == ((text.tower,), None)
    assert_linked(found)
    whole = anatomy(model, inputs)
    assert (whole.blocks, whole.token_input) == (text.blocks, "input_ids")
    assert whole.check(inputs).tokens == ids.numel()


def test_one_block_in_each_tower():
    config = build("t5").config
    config.num_layers = config.num_decoder_layers = 1
    model = tf.T5ForConditionalGeneration(config).eval()
    assert [block.path for block in anatomy(model).blocks] == ["decoder.block.0"]
    assert [block.path for block in anatomy(model, tower="encoder").blocks] == ["encoder.block.0"]
    assert anatomy(model).check().error <= 1e-6


def test_a_wrapper_of_blocks_is_no_block():
    inner = nn.Sequential(*(Block() for _ in range(LAYERS)))
    model = Net(blocks=nn.ModuleList([inner]))
    assert [block.path for block in anatomy(model).blocks] == [f"blocks.0.{i}" for i in range(LAYERS)]
    assert anatomy(Net(blocks=nn.ModuleList([Block()]))).blocks[0].path == "blocks.0"


def test_blocks_with_a_branch_between_them():
    def way(self, hidden):
        for block, branch in zip(self.blocks, self.branches, strict=True):
            hidden = block(hidden)
            hidden = hidden + branch(hidden)
        return block(hidden)

    model = Net(way)
    model.branches = nn.ModuleList(Block() for _ in range(LAYERS))
    found = anatomy(model)
    expected = [*((f"blocks.{i}", 0) for i in range(LAYERS)), ("blocks.2", 1)]
    assert [(block.path, block.call) for block in found.blocks] == expected
    assert found.check().error <= 1e-6


def test_alternating_containers_are_one_stack():
    def way(self, hidden):
        for block, other in zip(self.blocks, self.others, strict=True):
            hidden = other(block(hidden))[0]
        return hidden

    model = Net(way)
    model.others = nn.ModuleList(Block("tuple") for _ in range(LAYERS))
    found = anatomy(model)
    assert found.tower == "blocks+others"
    assert [block.hidden_out for block in found.blocks] == [(), (0,)] * LAYERS
    assert found.check().error <= 1e-6


def test_blocks_on_pooled_vectors_are_not_the_main_stack():
    class Pooled(Net):
        def forward(self, input_ids):
            pooled = self.run(self.embed(input_ids)).mean(1)
            for block in self.pooler:
                pooled = block(pooled)
            return pooled

    model = Pooled()
    model.pooler = nn.ModuleList(Block() for _ in range(2))
    found = anatomy(model)
    assert (found.tower, found.other_towers) == ("blocks", ("pooler",))
    assert found.stream_problem is None
    assert "but is [2, 32] for [2, 7] tokens" in anatomy(model, tower="pooler").stream_problem


def test_blocks_of_several_widths_in_one_container():
    class Narrowing(nn.Module):
        def __init__(self):
            super().__init__()
            widths = [(8, 8), (8, 8), (8, 16), (16, 16), (16, 16), (16, 16)]
            self.layer = nn.ModuleList(nn.Sequential(nn.Conv2d(a, b, 1), nn.ReLU()) for a, b in widths)
            self.stem = nn.Conv2d(3, 8, 1)

        def forward(self, pixel_values):
            hidden = self.stem(pixel_values)
            for layer in self.layer:
                hidden = layer(hidden)
            return hidden

    found = anatomy(Narrowing())
    assert [block.path for block in found.blocks] == ["layer.3", "layer.4", "layer.5"]
    assert (found.layout, found.d_model) == ("BCHW", 16)
    assert found.other_towers == ("layer.0...",)
    assert anatomy(Narrowing(), tower="layer.0").d_model == 8
    assert_linked(found)


def test_a_table_of_positions_that_is_given_ids_is_no_embedding():
    """FSMT's decoder hands the token ids to its position table, too."""
    model = architectures.build("seq2seq", "fsmt")
    assert anatomy(model).embedding == "model.decoder.embed_tokens"
