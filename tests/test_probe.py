"""The probe: forwards that are odd, and the batches it is made of."""

import pytest
import torch
import transformers as tf
from torch import nn

import architectures
from model_families import LAYERS, WIDTH, batch, build
from repgeom.anatomy import anatomy
from repgeom.arguments import batch_arguments, cropped, token_inputs
from tower_models import Net

# ---- forwards that are odd


def test_cache_is_switched_off_through_keywords():
    class Cached(Net):
        config = tf.PretrainedConfig(use_cache=True)

        def forward(self, input_ids, **kwargs):
            if kwargs.get("use_cache", True):
                raise AttributeError("no cache")
            return super().forward(input_ids)

    assert anatomy(Cached()).probe[1]["use_cache"] is False
    found = anatomy(Cached(), batch(3, 8)["input_ids"])
    assert found.check(batch(3, 8)["input_ids"]).error <= 1e-6


class StrangeError(Exception):
    pass


@pytest.mark.parametrize("kind", [StrangeError, ImportError, AssertionError, NotImplementedError, OSError])
def test_any_exception_of_the_forward_becomes_one_sentence(kind):
    def way(*_):
        raise kind("first line\nsecond " + "x" * 500)

    model = Net(way)
    model.config = type("Config", (), {"model_type": "oddity"})()
    with pytest.raises(
        ValueError, match=r"Net \(oddity\) failed with .*first line second.*module_input"
    ) as caught:
        anatomy(model)
    assert isinstance(caught.value.__cause__, kind)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("mapping", "name"),
    [("causal", "xlm"), ("masked", "flaubert"), ("causal", "reformer"), ("masked", "squeezebert")],
)
def test_models_without_blocks_are_refused_by_name(mapping, name):
    model = architectures.build(mapping, name)
    message = rf"no stack of blocks found in {type(model).__name__} \({name}\): .*module_input:<path>"
    with pytest.raises(ValueError, match=message):
        anatomy(model)


def test_several_rows_of_tokens_for_one_row_of_states():
    model = architectures.build("causal", "musicgen")
    inputs = architectures.inputs(model, "causal", "musicgen")
    found = anatomy(model, inputs)
    assert "but is [2, 7, 64] for [8, 7] tokens" in found.stream_problem
    assert "put together of several" in found.readout_problem


def test_a_model_without_known_input_asks_for_a_batch():
    with pytest.raises(ValueError, match=r"no token embedding.*anatomy\(model, batch\), or measure single"):
        anatomy(nn.Sequential(nn.Linear(WIDTH, WIDTH)))


def test_a_configuration_that_cannot_be_read():
    class Config(tf.PretrainedConfig):
        model_type = "odd"

        @property
        def final_logit_softcapping(self):
            raise RuntimeError("ambiguous")

    model = Net()
    model.config = Config()
    assert anatomy(model).check().error <= 1e-6


def test_an_embedding_getter_that_fails_is_passed_over():
    model = Net()
    model.get_input_embeddings = model.get_output_embeddings = lambda: 1 / 0
    assert anatomy(model).embedding == "embed"


@pytest.mark.parametrize("inner", [False, True])
def test_compiled_models_are_probed_as_written(inner):
    model = build("llama")
    plain = anatomy(model)
    if inner:
        model.model.layers[1].compile(backend="eager")
        with torch.no_grad():
            model(**batch())
    compiled = model if inner else torch.compile(model, backend="eager")
    found = anatomy(compiled)
    assert found.model is model
    assert found == plain
    torch.compiler.reset()


def test_offloaded_weights():
    accelerate = pytest.importorskip("accelerate")
    model = accelerate.cpu_offload(build("gpt2"))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    found = anatomy(model)
    assert found.num_blocks == LAYERS
    assert found.check(batch()).error <= 1e-6
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


# ---- batches


def test_a_batch_of_pixels_is_not_cut():
    model = architectures.build("base", "clip")
    inputs = {"input_ids": batch(3, 12)["input_ids"], "pixel_values": torch.randn(3, 3, 32, 32)}
    args, kwargs = cropped(batch_arguments(model, inputs))
    assert args == ()
    assert {name: value.shape for name, value in kwargs.items() if torch.is_tensor(value)} == {
        name: value.shape for name, value in inputs.items()
    }


def test_encoder_and_decoder_are_cut_to_their_own_lengths():
    ids = batch(4, 20)["input_ids"]
    mask = torch.ones_like(ids)
    mask[:, :10] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids.clone()}
    _, kwargs = cropped(batch_arguments(build("t5"), inputs))
    assert torch.equal(kwargs["input_ids"], ids[:2, -7:])
    assert torch.equal(kwargs["decoder_input_ids"], ids[:2, :5])
    assert list(token_inputs(((), kwargs))) == ["decoder_input_ids", "input_ids"]


def test_labels_are_cut_like_the_tokens_they_belong_to():
    ids = batch(4, 20)["input_ids"]
    _, kwargs = cropped(batch_arguments(build("t5"), {"input_ids": ids, "labels": ids[:, :9]}))
    assert torch.equal(kwargs["labels"], ids[:2, :5])
    assert anatomy(build("t5"), {"input_ids": ids, "labels": ids[:, :9]}).stream_problem is None
    _, kwargs = cropped(batch_arguments(build("gpt2"), {"input_ids": ids, "labels": ids}))
    assert torch.equal(kwargs["labels"], ids[:2, :7])


@pytest.mark.parametrize("size", [None, "large", 0, [8], (3.5, 8), {"shortest_edge": 8}])
def test_image_sizes_that_say_nothing(size):
    class Picture(nn.Module):
        config = tf.PretrainedConfig(image_size=size)

        def forward(self, pixel_values):
            return pixel_values

    with pytest.raises(ValueError, match=r"pass a batch|no stack of blocks"):
        anatomy(Picture())


def test_masks_and_positions_are_no_tokens():
    ids = torch.ones(2, 3, dtype=torch.int64)
    names = ("attention_mask", "token_type_ids", "position_ids", "spatial_shapes", "timesteps")
    kwargs = {**dict.fromkeys(names, ids), "pixels": ids.float()}
    assert token_inputs(((), kwargs)) == {}
    assert list(token_inputs(((ids,), kwargs))) == ["input_ids"]
    assert list(token_inputs(((), {"tokens": ids}))) == ["tokens"]
