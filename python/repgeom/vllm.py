"""Hidden states that vLLM saved: one safetensors file per request."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from repgeom.checks import refusal
from repgeom.shards import Shard, find_files, tensor_shapes, tensor_shard
from repgeom.stored import StoredActivations

TOKENS_FIRST: Final = "[tokens, layers, d]"
LAYERS_FIRST: Final = "[layers, tokens, d]"


def open_vllm(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], layers: Sequence[int]
) -> StoredActivations:
    """The hidden states that vLLM saved, one safetensors file per request (method `extract_hidden_states`).

    A file holds `token_ids [tokens]` and `hidden_states [tokens, layers, d]`. It does not say which layers
    they are, so they must be given: the `eagle_aux_hidden_state_layer_ids` of the run, in ascending order,
    which is the order they are written in whatever the order they were asked for. Number k is the residual
    stream that enters block k, counted from 0: `hidden_states[k]` of transformers, named `resid_pre.<k>`
    here. 0 is the embedding; the number of blocks is the output of the last block, before the final norm.

    Args:
        source: A folder, a glob, a file, or several files. Folders and globs are sorted, numbers as numbers.
        layers: The layer numbers of the run.

    Returns:
        The layers, with token ids, positions, and sequence ids that count the files.

    Raises:
        ValueError: Layers that are not ascending or not as many as the files hold; a file without the two
            tensors, or one that is damaged (a request that is still being written).
        FileNotFoundError: No file.
    """
    numbers = [operator.index(layer) for layer in layers]
    if not numbers or min(numbers) < 0 or numbers != sorted(set(numbers)):
        raise refusal("layers must be ascending numbers of at least 0, as vLLM writes them", list(layers))
    paths = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    files = [file for path in paths for file in find_files(path) if file.endswith(".safetensors")]
    if not files:
        raise FileNotFoundError(f"there are no .safetensors files in {source!r}")
    requests = [_request(file, len(numbers)) for file in files]
    orders = {order for _, order in requests if order is not None}
    if len(orders) > 1:
        raise refusal("all files must store hidden_states in one order", " and ".join(sorted(orders)))
    tokens_first = orders != {LAYERS_FIRST}
    sources = {
        f"resid_pre.{number}": [_layer_of_request(states, place, tokens_first) for states, _ in requests]
        for place, number in enumerate(numbers)
    }
    return StoredActivations(sources, token_ids=[tensor_shard(file, "token_ids") for file in files])


def _request(file: str, n_layers: int) -> tuple[Shard, str | None]:
    """The hidden states of one file, and the order of their axes (None if both fit)."""
    states, ids = tensor_shard(file, "hidden_states"), tensor_shapes(file).get("token_ids")
    if ids is None or len(ids[0]) != 1 or len(states.shape) != 3:
        raise refusal(
            f"{file} must hold token_ids [tokens] and hidden_states {TOKENS_FIRST}",
            f"token_ids {ids and list(ids[0])} and hidden_states {list(states.shape)}",
        )
    tokens, shape = ids[0][0], states.shape[:2]
    if (tokens, n_layers) not in (shape, shape[::-1]):
        raise refusal(
            f"{file} must hold {n_layers} layers of {tokens} tokens, as layers and token_ids say",
            f"hidden_states {list(states.shape)}",
        )
    if tokens == n_layers:
        return states, None
    return states, TOKENS_FIRST if shape[0] == tokens else LAYERS_FIRST


def _layer_of_request(states: Shard, place: int, tokens_first: bool) -> Shard:
    """One layer of a request as one sequence, `[1, tokens, d]`."""
    first, second, width = states.shape
    shape = (1, first if tokens_first else second, width)
    return Shard(
        states.name, shape, states.dtype, lambda: _LayerOfRequest(states.open(), place, tokens_first), True
    )


@dataclass(frozen=True)
class _LayerOfRequest:
    """A lazy view `[1, tokens, d]` of hidden states."""

    states: Any
    place: int
    tokens_first: bool

    def __getitem__(self, at: Any) -> Tensor:
        rows = at[1] if isinstance(at, tuple) else slice(None)
        layer = slice(self.place, self.place + 1)
        piece = self.states[(rows, layer) if self.tokens_first else (layer, rows)]
        return torch.as_tensor(piece).transpose(0, 1) if self.tokens_first else torch.as_tensor(piece)
