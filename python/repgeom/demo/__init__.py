"""A small trained language model and the English text it was trained on; neither needs the network.

The text is ``pydoc_data.topics``, the language reference that every Python carries (about 0.5 MB, a few bytes
different in every Python version: :func:`corpus_hash` tells which one a run saw). ``python -m
repgeom.demo.train`` made the model; ``model/README.md`` says how good it is.

Importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODEL_DIR: Path = Path(__file__).parent / "model"
CORPUS_NAME = "pydoc-topics"

# Long topics repeat shorter ones word for word (`specialnames` contains `customization`, `execmodel` contains
# `naming`), so a split by counting would leak. No paragraph of these eight occurs in any other topic, in
# Python 3.10 to 3.13; they are a tenth of the bytes.
HELD_OUT_TOPICS: tuple[str, ...] = (
    "calls",
    "dynamic-features",
    "exceptions",
    "execmodel",
    "naming",
    "objects",
    "raise",
    "typesmapping",
)

__all__ = [
    "CORPUS_NAME",
    "HELD_OUT_TOPICS",
    "MODEL_DIR",
    "corpus",
    "corpus_hash",
    "held_out_documents",
    "training_documents",
    "untrained_model",
]


def _topics() -> dict[str, str]:
    """The topics of this Python, in sorted-name order."""
    from pydoc_data.topics import topics

    return {name: topics[name] for name in sorted(topics)}


def corpus() -> list[str]:
    """All documents of the corpus "pydoc-topics", one per topic, in sorted-name order."""
    return list(_topics().values())


def training_documents() -> list[str]:
    """The documents the demo model and its tokenizer were trained on (about 90 % of the bytes)."""
    return [text for name, text in _topics().items() if name not in HELD_OUT_TOPICS]


def held_out_documents() -> list[str]:
    """The documents the demo model has not seen (about 10 % of the bytes)."""
    return [text for name, text in _topics().items() if name in HELD_OUT_TOPICS]


def corpus_hash(documents: Iterable[str] | None = None) -> str:
    """SHA-256 of documents, in hexadecimal: UTF-8, each document followed by a zero byte.

    Args:
        documents: the documents to hash; the whole corpus by default.
    """
    digest = hashlib.sha256()
    for text in corpus() if documents is None else documents:
        digest.update(text.encode("utf-8") + b"\0")
    return digest.hexdigest()


def untrained_model(seed: int = 0) -> PreTrainedModel:
    """A model of the demo model's configuration with fresh weights (float32, on the CPU, in eval mode).

    With the seed that ``training.json`` names it is the demo model before its first training step. The
    caller's random state is left as it was.

    Args:
        seed: seed of the initial weights.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(MODEL_DIR)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model.float().eval()
