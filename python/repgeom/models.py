"""Models by name or folder, and the layers asked of them. Their anatomy is in :mod:`repgeom.anatomy`."""

from __future__ import annotations

import operator
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from logging import ERROR
from pathlib import Path
from typing import Any

import torch
from torch import nn

from repgeom.anatomy import Block, ModelAnatomy, ReadoutCheck, anatomy

__all__ = ["Block", "ModelAnatomy", "ReadoutCheck", "anatomy", "load_model", "parse_layers"]

DEMO_MODEL = Path(__file__).parent / "demo" / "model"

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
)


def load_model(
    name_or_path: str | os.PathLike[str] | None = None,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    device_map: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **model_kwargs: Any,
) -> tuple[nn.Module, Any]:
    """Load a transformers model and its tokenizer for measuring.

    Args:
        name_or_path: Hub id or local folder; the demo model by default.
        dtype: "auto" (the checkpoint's own), a torch dtype or its name.
        device: "auto" (CUDA if there is one, else CPU), or a torch device.
        device_map: Hand placement over to accelerate, as in transformers.
        revision: Branch, tag or commit of a hub model.
        trust_remote_code: Allow code that comes with the model to run.
        **model_kwargs: Passed on to `from_pretrained`.

    Returns:
        The model in eval mode (with its language-model head if the checkpoint has one), and the tokenizer, or
        None if the model comes without one.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If the model cannot be found or read, in one sentence.
    """
    if device_map is not None and device != "auto":
        raise ValueError(f"give device or device_map, not both; received device={device!r}, {device_map=}")
    source = _source(name_or_path)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    placement = {} if device_map is None else {"device_map": device_map}
    wanted = _dtype(dtype)
    target = None if device_map is not None else _device(device)
    with _quiet_transformers():
        from transformers import AutoConfig

        with _one_sentence(f"no model found under {source!r}", "no usable configuration"):
            config = AutoConfig.from_pretrained(source, **options)
        auto_class = _auto_class(config)
        with _one_sentence(f"the weights of {source!r} cannot be loaded", "unreadable weights"):
            model, report = auto_class.from_pretrained(
                source,
                output_loading_info=True,
                **{_dtype_keyword(): wanted},
                **placement,
                **options,
                **model_kwargs,
            )
        tokenizer = _tokenizer(source, options)
    _warn_of_new_weights(source, report)
    model.eval()
    return (model if target is None else model.to(target)), tokenizer


def parse_layers(layers: str | int | Iterable[int], num_blocks: int) -> tuple[int, ...]:
    """Layer indices from what a user writes.

    Args:
        layers: "all", indices and slices such as "0,3,7", "0:12:2" or "0,4:8", one index, or several in a
            sequence. Slices follow Python: the end is exclusive, and clipped to the number of blocks.
        num_blocks: Number of blocks of the model.

    Returns:
        Indices in the order given.

    Raises:
        ValueError: For negative, out-of-range, repeated or no indices, and for anything else than the above.
    """
    if isinstance(layers, str):
        indices = [i for part in layers.split(",") for i in _parse_part(part.strip(), layers, num_blocks)]
    elif isinstance(layers, Iterable):
        indices = [_index(layer, layers) for layer in layers]
    else:
        indices = [_index(layers, layers)]
    if not indices:
        raise ValueError(f"layers must name at least one layer of 0..{num_blocks - 1}, not {layers!r}")
    outside = [i for i in indices if not 0 <= i < num_blocks]
    if outside:
        raise ValueError(f"layers must be in 0..{num_blocks - 1}, but {outside} in {layers!r} are not")
    repeated = sorted({i for i in indices if indices.count(i) > 1})
    if repeated:
        raise ValueError(f"layers must be distinct, but {repeated} are repeated in {layers!r}")
    return tuple(indices)


def _parse_part(part: str, layers: str, num_blocks: int) -> Sequence[int]:
    if part == "all":
        return range(num_blocks)
    if re.fullmatch(r"-?[0-9]+", part):
        return [int(part)]
    if not re.fullmatch(r"[0-9]*:[0-9]*(:[0-9]*)?", part):
        raise ValueError(
            f'layers must be "all", or indices and slices of 0..{num_blocks - 1} like "0,3,7" or "0:12:2", '
            f"not {layers!r}"
        )
    start, stop, step = ([int(x) if x else None for x in part.split(":")] + [None])[:3]
    if step == 0:
        raise ValueError(f"the step of a slice must be at least 1, not 0 in {layers!r}")
    chosen = range(num_blocks)[slice(start, stop, step)]
    if not chosen:
        raise ValueError(
            f"a slice must select a layer of 0..{num_blocks - 1}, but {part!r} in {layers!r} selects none"
        )
    return chosen


def _index(layer: Any, layers: Any) -> int:
    if type(layer) is bool or not hasattr(layer, "__index__"):
        raise ValueError(f"layers must be integers, but {layer!r} in {layers!r} is not")
    return operator.index(layer)


def _source(name_or_path: str | os.PathLike[str] | None) -> str:
    """The hub id or existing model folder that is meant."""
    name = os.fspath(DEMO_MODEL if name_or_path is None else name_or_path)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"a model folder must hold config.json, but {name!r} does not")
        return str(folder)
    if folder.is_file():
        raise ValueError(f"a local model must be given as its folder, not as the file {name!r}")
    is_path = name.startswith((".", "/", "~")) or (os.sep in name and folder.parent.exists())
    if is_path or isinstance(name_or_path, os.PathLike):
        raise FileNotFoundError(f"there is no model folder {name!r}")
    return name


def _dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype == "auto":
        return "auto"
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f'dtype must be "auto" or a floating torch dtype such as "bfloat16", not {dtype!r}')
    return found


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(
            f'device must be "auto" or a torch device such as "cuda:0", not {device!r}'
        ) from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} needs a GPU that this torch can use; there is none")
    return found


def _dtype_keyword() -> str:
    import transformers

    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"


def _auto_class(config: Any) -> Any:
    """The Auto class that gives the checkpoint its own head, by the name of its architecture.

    Membership in a mapping says too little: a bare BERT is in the causal mapping as well.
    """
    import transformers

    architecture = (getattr(config, "architectures", None) or [""])[0]
    if architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        wanted = ["CausalLM", "ImageTextToText"]
        if getattr(config, "is_encoder_decoder", False):
            wanted = ["Seq2SeqLM", *wanted]
        elif architecture.endswith("ForConditionalGeneration"):
            wanted.reverse()
    else:
        wanted = ["MaskedLM"] if architecture.endswith("ForMaskedLM") else []
    remote = getattr(config, "auto_map", None) or {}
    for head in wanted:
        auto_class = getattr(transformers, f"AutoModelFor{head}")
        if f"AutoModelFor{head}" in remote or type(config) in auto_class._model_mapping:
            return auto_class
    return transformers.AutoModel


def load_tokenizer(name_or_path: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a hub id or folder.

    Raises:
        ValueError: There is none, or it cannot be read.
    """
    tokenizer = _tokenizer(name_or_path, {"trust_remote_code": trust_remote_code})
    if tokenizer is None:
        raise ValueError(f"there is no tokenizer in {name_or_path!r}")
    return tokenizer


def _tokenizer(source: str, options: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    folder = Path(source)
    # Some versions make an empty tokenizer where there is none, so look first.
    if folder.is_dir() and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return None
    try:
        with _one_sentence(f"the tokenizer of {source!r} cannot be loaded", "unreadable files"):
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except ValueError as error:
        if isinstance(error.__cause__, OSError) and not folder.is_dir():
            return None
        raise
    return tokenizer if len(tokenizer) > 0 else None


def _warn_of_new_weights(source: str, report: dict[str, Any]) -> None:
    """Warn of weights the checkpoint lacks: the geometry of random numbers looks like any other."""
    missing = sorted(name for name in report.get("missing_keys", ()) if "pooler" not in name.split("."))
    if missing:
        names = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
        warnings.warn(
            f"{len(missing)} weights are not in the checkpoint {source!r} and were drawn at random, so what "
            f"is measured after them means nothing: {names}",
            UserWarning,
            stacklevel=3,
        )


@contextmanager
def _one_sentence(what: str, default: str) -> Iterator[None]:
    """Turn errors of loading into a ValueError of one sentence; the cause stays, without its own causes."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), default)
        cause = error.with_traceback(None)
        cause.__cause__, cause.__context__ = None, None
        raise ValueError(f"{what}: {reason}") from cause


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence progress bars and advice of transformers and its hub inside the block; then restore them."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    verbosity, hub_verbosity = logging.get_verbosity(), hub_logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    hub_logging.set_verbosity(ERROR)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if bars:
            logging.enable_progress_bar()
