"""Tiny random models of every architecture in the auto mappings of the installed transformers.

A tiny configuration is the default one with its sizes cut by the names of its fields, in nested
configurations too. `SIZES` holds the rules for all; `OVERRIDES` what single architectures need beyond them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from architecture_data import BLOCKS, CONSTRUCTION, INPUTS, NOT_BUILT, OVERRIDES

__all__ = ["BLOCKS", "MAPPINGS", "NOT_BUILT", "build", "entries", "inputs", "tiny_config"]

MAPPINGS = {
    "causal": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "masked": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "seq2seq": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "image_text": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "base": "MODEL_MAPPING_NAMES",
}

LAYERS, WIDTH, HEADS, HEAD_WIDTH, VOCABULARY = 4, 64, 4, 16, 160
FIRST_SPECIAL = 110  # Token ids from here on stand for images and the like; ordinary text stays below.

# (name of an integer field, its tiny value); the first full match counts.
SIZES: list[tuple[str, int]] = [
    (r"first_k_dense_replace|num_dense_layers|moe_layer_start_index", 1),
    (r"(type|task_type|segment)_vocab_size", 2),
    (r".*vocab_size(_per_layer_input)?|n_token", VOCABULARY),
    (r"(.*_)?(num_hidden_layers|num_layers|n_layers?|layers|(en|de)coder_layers|depth|num_blocks)", LAYERS),
    (r"(num_encoder_layers|num_decoder_layers|.*_(en|de)coder_layers|decoder_num_layers)", LAYERS),
    (r"(.*_)?(num_key_value_heads|num_kv_heads|n_kv_heads|kv_n_heads|multi_query_groups)", 2),
    (r"mamba_(n|num)_heads|n_mamba_heads", 8),
    (r"linear_num_(key|value)_heads", 2),
    (r"index_n_heads", 2),
    (r"(.*_)?(num_attention_heads|num_heads|n_heads?|attention_heads)", HEADS),
    (r"mamba_headdim|rotary_dim", HEAD_WIDTH),
    (r"qk_head_dim", 2 * HEAD_WIDTH),
    (r"(.*_)?(head_dim|d_kv|d_head|dim_head|kv_channels)|attention_head_size|attention_head_dim", HEAD_WIDTH),
    (r"(.*_)?(q_lora_rank|kv_lora_rank|lora_rank|lowrank)|o_lora_rank", 16),
    (r"(.*_)?(intermediate_size|ffn_dim|ffn_hidden_size|d_ff|n_inner|mlp_dim|intermediate_dim)", 96),
    (r"(.*_)?(intermediate_size_mlp|ffn_size|feed_forward_size|expert_ffn_hidden_size|expert_dim)", 96),
    (r"(.*_)?(hidden_size|d_model|n_embd|dim|embed_dim|hidden_dim|emb_dim|embd_dim|width)", WIDTH),
    (r"(.*_)?(embedding_size|embedding_dim|projection_size|lru_width|pooler_output_size)", WIDTH),
    (r"(.*_)?(output_dim|input_dim|projection_dim|in_dim|out_dim)", WIDTH),
    (r"(.*_)?(num_experts|num_local_experts|n_routed_experts|moe_num_experts|num_routed_experts)", 4),
    (r"(.*_)?(num_experts_per_tok|num_experts_per_token|top_k_experts|moe_topk|moe_top_k|moe_k)", 2),
    (r"n_group|topk_group|num_expert_group|num_limited_groups", 1),
    (r"(n|num|moe_num)_shared_experts", 1),
    (r"num_zero_experts|zero_expert_num", 1),
    (r"(.*_)?(sliding_window|sliding_window_size|attention_window_size|local_attention)", 4),
    (r"(sliding_window|swa)_pattern|sliding_window_pattern", 2),
    (r"max_window_layers", 2),
    (r"(.*_)?(max_position_embeddings|n_positions|max_seq_len|model_max_length|max_sequence_length)", 64),
    (r"(.*_)?(max_source_positions|max_target_positions|max_pos_emb|context_length|max_length)", 64),
    (r"(mamba_d_state|state_size|ssm_state_size|d_state)", 16),
    (r"(mamba_dt_rank|time_step_rank|dt_rank)", 4),
    (r"n_groups|mamba_n_?groups", 1),
    (r"mamba_d_ssm", 2 * WIDTH),
    (r"(mamba_)?chunk_size", 4),
    (r"index_topk", 16),
    (r"context_size", 16),
    (r"(.*_)?image_size|crop_size|img_size", 32),
    (r"patch_size", 8),
    (r"window_size", 2),
    (r"num_frames|frames_per_clip", 4),
    (r"upsample_groups", WIDTH),
]

# Fields whose usual value hides a step between the last block and the logits.
VISIBLE: dict[str, float] = {
    "final_logit_softcapping": 3.0,
    "logits_soft_cap": 3.0,
    "output_logit_soft_cap": 3.0,
    "logit_scale": 0.5,
    "logits_scaling": 2.0,
    "lm_head_multiplier": 0.5,
    "residual_multiplier": 0.5,
    "embedding_multiplier": 2.0,
}

# Sizes that are None by default and then not derived from others.
UNSET = {"vocab_size": VOCABULARY, "head_dim": HEAD_WIDTH, "num_key_value_heads": 2}


def entries(mapping: str) -> list[str]:
    """Model types of a mapping; for "base" those that no other mapping holds."""
    names = list(getattr(modeling_auto, MAPPINGS[mapping]))
    if mapping != "base":
        return names
    covered = {name for other in MAPPINGS if other != "base" for name in entries(other)}
    return [name for name in names if name not in covered]


def build(mapping: str, model_type: str, seed: int = 0) -> Any:
    """A tiny model in eval mode; 0.1 * randn is added to all parameters, so no identity holds by accident."""
    names = getattr(modeling_auto, MAPPINGS[mapping])[model_type]
    model_class = getattr(transformers, names if isinstance(names, str) else names[0])
    config = tiny_config(mapping, model_type)
    for part in vars(config).values():
        if type(part) is model_class.config_class is not type(config):
            config = part
    torch.manual_seed(seed)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().float()


def tiny_config(mapping: str, model_type: str) -> Any:
    """The default configuration of a model type, cut down."""
    config = CONFIG_MAPPING[model_type](**CONSTRUCTION.get(model_type, {}))
    _shrink(config, {})
    if mapping == "causal" and getattr(config, "is_decoder", None) is False:
        config.is_decoder = True
    for path, value in OVERRIDES.get(model_type, {}).items():
        *parents, name = path.split(".")
        owner = config
        for parent in parents:
            owner = getattr(owner, parent)
        if isinstance(owner, dict):
            owner[name] = value
        else:
            setattr(owner, name, value)
    return config


def _shrink(config: Any, special: dict[str, int]) -> None:
    """Cut the fields of a configuration and of those inside it, in place."""
    fields = vars(config)
    for name, value in list(fields.items()):
        if isinstance(value, transformers.PretrainedConfig):
            _shrink(value, special)
        elif not name.startswith("_"):
            small = _small(name, value, special)
            if small is not value:
                fields[name] = small
    if "kv_lora_rank" in fields and "num_key_value_heads" in fields:  # Latent attention has no groups.
        fields["num_key_value_heads"] = HEADS


def _small(name: str, value: Any, special: dict[str, int]) -> Any:
    if name in VISIBLE:
        return VISIBLE[name]
    if re.fullmatch(r".*token_(id|index|ids)", name):
        return _token(name, value, special)
    if value is None:
        return UNSET.get(name)
    if type(value) is int:
        value = _size(name, value)
    elif isinstance(value, (list, tuple)) and value:
        value = _list(name, value)
    elif isinstance(value, dict) and name in ("rope_parameters", "rope_scaling"):
        value = _rope(value)
    return value


def _rope(parameters: dict[str, Any]) -> dict[str, Any]:
    """The same rotations, with sections (of multi-dimensional ones) that fit the tiny head."""
    small = {key: _rope(value) if isinstance(value, dict) else value for key, value in parameters.items()}
    if "mrope_section" in small:
        total = int(HEAD_WIDTH * small.get("partial_rotary_factor", 1.0)) // 2
        first, second = total // 4, (total - total // 4) // 2
        small["mrope_section"] = [first, second, total - first - second]
    return small


def _token(name: str, value: Any, special: dict[str, int]) -> Any:
    usual = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0}
    if isinstance(value, int) and name in usual:
        return value if value < 10 else usual[name]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return special.setdefault(name, FIRST_SPECIAL + len(special))
    if isinstance(value, (list, tuple)) and all(isinstance(item, int) for item in value):
        if name in usual:
            return usual[name]
        return [special.setdefault(f"{name}{i}", FIRST_SPECIAL + len(special)) for i in range(len(value))]
    return value


def _size(name: str, value: int) -> int:
    for pattern, size in SIZES:
        if re.fullmatch(pattern, name):
            return size if value > 0 else value
    return value


def _list(name: str, value: list[Any] | tuple[Any, ...]) -> Any:
    kind = type(value)
    if re.fullmatch(r".*(layer_types|layers_block_type|block_types?|indexer_types)", name) or (
        len(value) > LAYERS and all(isinstance(item, str) for item in value) and "layer" in name
    ):
        return kind(_layer_kinds(list(value)))
    if not all(type(item) is int for item in value):
        return kind(value[:LAYERS]) if len(value) > 16 else value
    if name != "no_rope_layers" and re.fullmatch(
        r".*(_indexes|_indices|_idxs|_layers|_layer_ids|feature_layer)", name
    ):
        return kind(sorted({min(item, LAYERS - 1) if item >= 0 else max(item, -LAYERS) for item in value}))
    if re.fullmatch(r"depths|.*blocks_per_stage|num_blocks|layer_depths", name):
        return kind(min(item, 3) for item in value)
    if len(value) > 16:
        return kind(value[:LAYERS])
    return kind(_size(name, item) for item in value)


def _layer_kinds(kinds: list[Any]) -> list[Any]:
    """The first layers, with the kinds that they lack in place of the last ones."""
    short = kinds[:LAYERS]
    missing = [kind for kind in dict.fromkeys(kinds) if kind not in short]
    for position, kind in enumerate(missing[: LAYERS - 1]):
        short[len(short) - 1 - position] = kind
    return short


def tokens(*shape: int, seed: int = 1) -> Tensor:
    """Random ordinary token ids."""
    return torch.randint(10, 100, shape, generator=torch.Generator().manual_seed(seed))


def inputs(model: nn.Module, mapping: str, model_type: str, seed: int = 1) -> dict[str, Any]:
    """Keywords of one forward: 2 x 7 tokens with a mask of ones, or what the model takes in their place."""
    del mapping  # The classes of one model type take the same inputs; the signature is that of `build`.
    parameters = inspect.signature(model.forward).parameters
    batch: dict[str, Any] = {}
    if "input_ids" in parameters:
        batch["input_ids"] = tokens(2, 7, seed=seed)
        if "attention_mask" in parameters:
            batch["attention_mask"] = torch.ones(2, 7, dtype=torch.long)
        if "decoder_input_ids" in parameters and getattr(model.config, "is_encoder_decoder", False):
            batch["decoder_input_ids"] = tokens(2, 5, seed=seed + 1)
    else:
        batch |= _other_inputs(model, parameters, seed)
    for name, (kind, value) in INPUTS.get(model_type, {}).items():
        if kind == "none":
            batch.pop(name, None)
        else:
            batch[name] = _filled(kind, value, seed)
    return batch


def _other_inputs(model: Any, parameters: Any, seed: int) -> dict[str, Any]:
    """What a model without text must have: pixels, patches with their grid, waves or spectra."""
    needed = {
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }
    if model.main_input_name in parameters:
        needed.add(model.main_input_name)
    size, patch, channels = (
        _first_field(model.config, names, otherwise)
        for names, otherwise in (
            (("image_size", "img_size"), 32),
            (("patch_size",), 8),
            (("num_channels", "in_channels", "in_chans"), 3),
        )
    )
    packed = channels * _first_field(model.config, ("temporal_patch_size",), 1) * patch**2
    mel = _first_field(model.config, ("num_mel_bins", "feature_size", "n_mels"), 80)
    shapes = {
        "pixel_values": (32, packed) if "grid_thw" in needed else (2, channels, size, size),
        "hidden_states": (32, packed),
        "pixel_values_videos": (2, 4, channels, size, size),
        "input_values": (2, 2400),
        "input_features": (2, mel, 64),
    }
    batch = {name: _filled("floats", shapes[name], seed) for name in needed & set(shapes)}
    if "grid_thw" in needed:
        batch["grid_thw"] = torch.tensor([[1, 4, 4], [1, 4, 4]])
    return batch


def _first_field(config: Any, names: tuple[str, ...], otherwise: int) -> int:
    """The first of some integer fields in a configuration or in those inside it."""
    fields = vars(config)
    for name in names:
        value = fields.get(name)
        while isinstance(value, (list, tuple)) and value:
            value = value[0]
        if isinstance(value, int):
            return value
    for part in fields.values():
        if isinstance(part, transformers.PretrainedConfig):
            found = _first_field(part, names, 0)
            if found:
                return found
    return otherwise


def takes_plain_tokens(batch: dict[str, Any]) -> bool:
    """Whether a batch is what any text model takes: 2 x 7 tokens, their mask, decoder tokens."""
    names = {"input_ids", "attention_mask", "decoder_input_ids"}
    return "input_ids" in batch and set(batch) <= names and batch["input_ids"].shape == (2, 7)


def expected_blocks(mapping: str, model_type: str) -> int:
    """How many blocks the tiny model has."""
    return BLOCKS.get((mapping, model_type), LAYERS)


def _filled(kind: str, value: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    makers: dict[str, Callable[[], Tensor]] = {
        "tokens": lambda: tokens(*value, seed=seed),
        "ones": lambda: torch.ones(value, dtype=torch.long),
        "floats": lambda: torch.randn(value, generator=generator),
        "uniform": lambda: torch.rand(value, generator=generator),
        "table": lambda: torch.tensor(value),
    }
    return makers[kind]()
