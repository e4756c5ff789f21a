"""What is recorded about the model and the software of a run."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from torch import nn

import repgeom
from repgeom.probe import config_values

CONFIG_KEYS = (
    "model_type",
    "architectures",
    "hidden_size",
    "n_embd",
    "num_hidden_layers",
    "n_layer",
    "num_attention_heads",
    "n_head",
    "intermediate_size",
    "vocab_size",
)
PACKAGES = ("torch", "numpy", "pandas", "transformers")


def model_label(model: nn.Module) -> str:
    """How the model calls itself: ``name_or_path``, else its config's, else its class."""
    model = getattr(model, "_orig_mod", model)
    config = getattr(model, "config", None)
    names = (getattr(model, "name_or_path", None), getattr(config, "_name_or_path", None))
    return next((name for name in names if isinstance(name, str) and name), type(model).__name__)


def model_key(label: str) -> str:
    """The label as part of a file name."""
    return label.translate(str.maketrans("/\\ :", "____")).lower()


def describe_model(model: nn.Module) -> dict[str, Any]:
    """Class, configuration and precision."""
    model = getattr(model, "_orig_mod", model)
    values = config_values(model)
    parameter = next(model.parameters(), None)
    return {
        "model_class": type(model).__name__,
        "model_config": {key: values[key] for key in CONFIG_KEYS if values.get(key) is not None},
        "model_dtype": None if parameter is None else str(parameter.dtype).removeprefix("torch."),
    }


def software() -> dict[str, str | None]:
    """Versions of what the numbers depend on."""
    return {
        "python": platform.python_version(),
        "repgeom": repgeom.__version__,
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
