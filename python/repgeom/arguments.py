"""What a model is called with: tokens, pixels or sound for a probe, or a user's batch."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from repgeom.probe import (
    Call,
    accepts,
    config_values,
    input_device,
    input_embedding,
    one_line,
    parameters,
    record,
)

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]

ADVICE = "measure single modules instead, with module_input:<path> or module_output:<path>"

PROBE_ROWS, PROBE_LENGTH, PROBE_DECODER_LENGTH = 2, 7, 5
# Integer arguments that are no token ids.
_NO_TOKENS = ("mask", "position", "type", "label", "grid", "lang", "size", "shape", "time")


def probe_candidates(model: nn.Module) -> list[Arguments]:
    """Arguments to try in turn: 2 x 7 fixed tokens, tokens with pixels, pixels, sound.

    Rows and length differ, to tell layouts apart; a decoder gets 5 positions, to tell it from the encoder.

    Raises:
        ValueError: If nothing is known of the model's input.
    """
    tokens = _token_probe(model)
    others = list(_pixels(model)) + list(_sound(model))
    if tokens is None:
        decoder = {"decoder_input_ids": _probe_ids(model, PROBE_DECODER_LENGTH)}
        decoder = decoder if accepts(model, "decoder_input_ids") else {}
        candidates: list[Arguments] = [((), {**other, **decoder}) for other in others]
    else:
        args, keywords = tokens
        candidates = [tokens, *_without_cache(model, tokens)]
        candidates.extend((args, {**keywords, **other}) for other in others)
    if not candidates:
        raise ValueError(
            f"what the forward of {model_name(model)} takes cannot be told: it has no token embedding "
            "(nn.Embedding or config.vocab_size), and no pixel_values, input_values or input_features of a "
            f"known size; pass a batch that it accepts, anatomy(model, batch), or {ADVICE}"
        )
    return candidates


def batch_candidates(model: nn.Module, batch: Any, *, crop: bool = False) -> list[Arguments]:
    """Arguments made of a user's batch, or of at most 2 x 7 of its tokens, to try in turn."""
    arguments = batch_arguments(model, batch)
    arguments = cropped(arguments) if crop else arguments
    return [arguments, *_without_cache(model, arguments)]


def first_accepted(
    model: nn.Module, candidates: list[Arguments], paths: Collection[str] | None = None, *, seed: int = 0
) -> tuple[Arguments, list[Call], Any]:
    """The first arguments that the forward accepts, with its calls and output (see `probe.record`).

    Raises:
        ValueError: If it accepts none, with the error of the first.
    """
    errors: list[Exception] = []
    for arguments in candidates:
        try:
            return arguments, *record(model, arguments, paths, seed=seed)
        except Exception as error:  # Whatever model code raises.
            errors.append(error)
    raise ValueError(
        f"the probe forward of {model_name(model)} failed with {one_line(errors[0])}; "
        f"pass a batch that it accepts, anatomy(model, batch), or {ADVICE}"
    ) from errors[0]


def model_type(model: nn.Module) -> str:
    """`config.model_type`, or "" for a model without one."""
    found = getattr(getattr(model, "config", None), "model_type", "")
    return found if isinstance(found, str) else ""


def model_name(model: nn.Module) -> str:
    """Class of the model and, where known, its model type."""
    kind = model_type(model)
    return f"{type(model).__name__} ({kind})" if kind else type(model).__name__


def batch_arguments(model: nn.Module, batch: Any) -> Arguments:
    """A user's batch as arguments of the forward, on the model's device.

    Args:
        model: The model that will be called.
        batch: A mapping (keywords), a tensor (token ids `[batch, seq]`) or a sequence (positional arguments).

    Returns:
        Positional and keyword arguments.
    """
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(batch, Mapping):
        kwargs = dict(batch)
        if accepts(model, "use_cache"):
            kwargs.setdefault("use_cache", False)
    elif isinstance(batch, Tensor):
        args = (batch,)
    elif isinstance(batch, (list, tuple)):
        args = tuple(batch)
    else:
        raise TypeError(
            f"a batch must be a mapping, a tensor or a sequence of tensors, not {type(batch).__name__}"
        )
    device = input_device(model)

    def move(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    return tuple(move(value) for value in args), {name: move(value) for name, value in kwargs.items()}


def token_inputs(arguments: Arguments) -> dict[str, Tensor]:
    """The token ids `[batch, seq]` among the arguments, a decoder's first; positional ones as "input_ids"."""
    args, kwargs = arguments
    found = {name: kwargs.get(name) for name in ("decoder_input_ids", "input_ids")}
    if found["input_ids"] is None:
        found["input_ids"] = next(filter(_is_ids, args), None)
    for name, value in kwargs.items():
        if not any(word in name for word in _NO_TOKENS):
            found.setdefault(name, value)
    return {name: value for name, value in found.items() if isinstance(value, Tensor) and _is_ids(value)}


def with_tokens(arguments: Arguments, name: str, ids: Tensor) -> Arguments:
    """The same arguments with other token ids under a name of :func:`token_inputs`."""
    args, kwargs = arguments
    if name in kwargs:
        return args, {**kwargs, name: ids}
    old = token_inputs(arguments)[name]
    return tuple(ids if value is old else value for value in args), kwargs


def ordinary_tokens(model: nn.Module) -> list[int]:
    """Valid token ids that the configuration does not call special (an image token asks for an image)."""
    embedding = input_embedding(model)
    values = config_values(model)
    size = getattr(embedding, "num_embeddings", None) or values.get("vocab_size")
    if not isinstance(size, int):
        return []
    special: set[int] = set()
    for name, value in values.items():
        if name.endswith(("token_id", "token_index", "token_ids")):
            special.update(
                item for item in (value if isinstance(value, list) else [value]) if type(item) is int
            )
    return [token for token in range(min(size, 1000)) if token not in special] or [0]


def _is_ids(value: Any) -> bool:
    integers = isinstance(value, Tensor) and value.dtype in (torch.int64, torch.int32)
    return integers and value.dim() == 2 and value.numel() > 0


def _without_cache(model: nn.Module, arguments: Arguments) -> list[Arguments]:
    """The same arguments with the cache switched off, where only `**kwargs` may take the switch."""
    args, kwargs = arguments
    kinds = [parameter.kind for parameter in parameters(model).values()]
    if "use_cache" in kwargs or inspect.Parameter.VAR_KEYWORD not in kinds:
        return []
    return [(args, {**kwargs, "use_cache": False})]


def _token_probe(model: nn.Module) -> Arguments | None:
    names = list(parameters(model))
    takes_ids = "input_ids" in names
    if not takes_ids and (not names or names[0].startswith(("pixel_values", "input_", "inputs_", "audio"))):
        return None
    if not ordinary_tokens(model):
        return None
    ids = _probe_ids(model, PROBE_LENGTH)
    keywords: dict[str, Any] = {}
    if "attention_mask" in names:
        keywords["attention_mask"] = torch.ones_like(ids)
    if "use_cache" in names:
        keywords["use_cache"] = False
    if "decoder_input_ids" in names:
        keywords["decoder_input_ids"] = _probe_ids(model, PROBE_DECODER_LENGTH)
    if takes_ids:
        return (), {"input_ids": ids, **keywords}
    return (ids,), keywords


def _probe_ids(model: nn.Module, length: int) -> Tensor:
    """Distinct ordinary token ids `[2, length]`."""
    tokens = ordinary_tokens(model) or [0]
    picks = [tokens[(11 + 37 * step) % len(tokens)] for step in range(PROBE_ROWS * length)]
    return torch.tensor(picks, device=input_device(model)).reshape(PROBE_ROWS, length)


def _pixels(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Two images, or clips of images, of the configured size."""
    if not accepts(model, "pixel_values"):
        return
    values = config_values(model)
    size = values.get("image_size", values.get("input_size", 64))
    if isinstance(size, dict):
        size = [size.get("height"), size.get("width")]
    sides = list(size[-2:]) if isinstance(size, (list, tuple)) else [size, size]
    image = [values.get("num_channels", values.get("in_channels", 3)), *sides]
    if len(image) != 3 or not all(type(number) is int and number > 0 for number in image):
        return
    frames = values.get("num_frames")
    yield {"pixel_values": _noise(model, *image)}
    yield {"pixel_values": _noise(model, frames if type(frames) is int else 1, *image)}


def _sound(model: nn.Module) -> Iterator[dict[str, Any]]:
    """A quarter of a second of noise, or as many frames of a spectrogram as the configuration names."""
    values = config_values(model)
    bins = values.get("num_mel_bins", values.get("input_feat_per_channel"))
    frames, positions = values.get("max_length"), values.get("max_source_positions")
    if accepts(model, "input_values"):
        if isinstance(bins, int) and isinstance(frames, int):
            yield {"input_values": _noise(model, frames, bins)}
        yield {"input_values": _noise(model, 4000)}
        yield {"input_values": _noise(model, 1, 4000)}
    if accepts(model, "input_features") and isinstance(bins, int):
        if isinstance(positions, int):
            yield {"input_features": _noise(model, bins, 2 * positions)}
        yield {"input_features": _noise(model, 64, bins)}


def _noise(model: nn.Module, *shape: int) -> Tensor:
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    noise = torch.randn(PROBE_ROWS, *shape, generator=torch.Generator().manual_seed(0))
    return noise.to(input_device(model), dtype)


def _two_rows(arguments: Arguments) -> Arguments:
    """The first 2 rows of every tensor, if all of them have as many rows."""
    args, kwargs = arguments
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim()]
    if len({len(value) for value in tensors}) != 1:
        return arguments

    def cut(value: Any) -> Any:
        return value[:PROBE_ROWS] if isinstance(value, Tensor) and value.dim() else value

    return tuple(map(cut, args)), {name: cut(value) for name, value in kwargs.items()}


def cropped(arguments: Arguments) -> Arguments:
    """At most 2 rows and 7 tokens (5 of a decoder), taken where the attention mask is set.

    Of a batch without tokens the first 2 rows; one with tokens and images (they may be packed) stays whole.
    """
    args, kwargs = arguments
    ids = token_inputs(arguments)
    shapes = {value.shape for value in ids.values()}
    others = [
        value
        for name, value in (*(("", value) for value in args), *kwargs.items())
        if isinstance(value, Tensor) and value.shape[:2] not in shapes and name != "labels"
    ]
    if not ids:
        return _two_rows(arguments)
    if others:
        return arguments

    def cut(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() < 2:
            return value[:PROBE_ROWS] if isinstance(value, Tensor) else value
        target = name == "labels" and ("decoder_input_ids" in ids or value.shape[:2] not in shapes)
        decoder = name.startswith("decoder_") or target
        keep = min(PROBE_DECODER_LENGTH if decoder else PROBE_LENGTH, value.shape[1])
        mask = kwargs.get("decoder_attention_mask" if decoder else "attention_mask")
        left_padded = (
            isinstance(mask, Tensor) and mask.shape[:2] == value.shape[:2] and not bool(mask[:, 0].all())
        )
        start = value.shape[1] - keep if left_padded else 0
        return value[:PROBE_ROWS, start : start + keep].contiguous()

    return tuple(cut("", value) for value in args), {name: cut(name, value) for name, value in kwargs.items()}
