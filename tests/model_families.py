"""Tiny random models of many families: 3 layers, width 32, 160 tokens, no weight left at a special value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as tf
from torch import Tensor, nn

VOCAB, WIDTH, LAYERS = 160, 32, 3

_LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_BERT = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_NO_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _gpt2() -> nn.Module:
    config = tf.GPT2Config(
        vocab_size=VOCAB,
        n_positions=64,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    return tf.GPT2LMHeadModel(config)


def _opt() -> nn.Module:
    config = tf.OPTConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        ffn_dim=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=WIDTH,
        **_NO_SPECIAL,
    )
    return tf.OPTForCausalLM(config)


def _bloom() -> nn.Module:
    config = tf.BloomConfig(vocab_size=VOCAB, hidden_size=WIDTH, n_layer=LAYERS, n_head=4, **_NO_SPECIAL)
    return tf.BloomForCausalLM(config)


def _t5() -> nn.Module:
    config = tf.T5Config(
        vocab_size=VOCAB,
        d_model=WIDTH,
        d_kv=8,
        d_ff=48,
        num_layers=LAYERS,
        num_heads=4,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return tf.T5ForConditionalGeneration(config)


def _distilbert() -> nn.Module:
    config = tf.DistilBertConfig(vocab_size=VOCAB, dim=WIDTH, n_layers=LAYERS, n_heads=4, hidden_dim=48)
    return tf.DistilBertForMaskedLM(config)


def _albert() -> nn.Module:
    config = tf.AlbertConfig(**_BERT, embedding_size=16)
    return tf.AlbertForMaskedLM(config)


def _gemma2() -> nn.Module:
    config = tf.Gemma2Config(**_LLAMA, head_dim=8, sliding_window=4, final_logit_softcapping=3.0)
    return tf.Gemma2ForCausalLM(config)


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "gpt2": _gpt2,
    "gpt_neox": lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**{**_LLAMA, **_NO_SPECIAL})),
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**_LLAMA)),
    "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**_LLAMA, sliding_window=4)),
    "qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**_LLAMA)),
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**_LLAMA, head_dim=8)),
    "gemma": lambda: tf.GemmaForCausalLM(tf.GemmaConfig(**_LLAMA, head_dim=8)),
    "gemma2": _gemma2,
    "opt": _opt,
    "bloom": _bloom,
    "phi": lambda: tf.PhiForCausalLM(tf.PhiConfig(**_LLAMA)),
    "phi3": lambda: tf.Phi3ForCausalLM(tf.Phi3Config(**_LLAMA)),
    "mixtral": lambda: tf.MixtralForCausalLM(
        tf.MixtralConfig(**_LLAMA, num_local_experts=4, num_experts_per_tok=2)
    ),
    "bert": lambda: tf.BertModel(tf.BertConfig(**_BERT)),
    "bert_masked": lambda: tf.BertForMaskedLM(tf.BertConfig(**_BERT)),
    "roberta": lambda: tf.RobertaForMaskedLM(tf.RobertaConfig(**_BERT)),
    "albert": _albert,
    "distilbert": _distilbert,
    "granite": lambda: tf.GraniteForCausalLM(tf.GraniteConfig(**_LLAMA, logits_scaling=8.0)),
    "t5": _t5,
}

CAUSAL = tuple(BUILDERS)[:13]
WITH_LOGITS = tuple(name for name in BUILDERS if name != "bert")


def build(family: str, seed: int = 0) -> Any:
    """A tiny model in eval mode; 0.1 * randn is added to all parameters, so no identity holds by accident."""
    torch.manual_seed(seed)
    model = BUILDERS[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def batch(rows: int = 3, length: int = 9, seed: int = 1) -> dict[str, Tensor]:
    """Random ordinary tokens `[rows, length]` with a mask of ones."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCAB, (rows, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def inputs_for(family: str, **sizes: int) -> dict[str, Tensor]:
    """A batch the family's forward accepts (T5 also needs decoder tokens)."""
    inputs = batch(**sizes)
    if family == "t5":
        inputs["decoder_input_ids"] = batch(inputs["input_ids"].shape[0], 6, seed=2)["input_ids"]
    return inputs


class Block(nn.Module):
    """A residual block; the forms of its arguments and outputs are those met in the library."""

    def __init__(self, output: str = "tensor") -> None:
        super().__init__()
        self.mlp = nn.Linear(WIDTH, WIDTH)
        self.output = output

    def forward(self, hidden_states: Tensor, scale: float = 1.0) -> Any:
        hidden = hidden_states + scale * torch.tanh(self.mlp(hidden_states))
        if self.output == "dataclass":
            return BlockOutput(None, hidden)
        return {"tensor": hidden, "tuple": (hidden, None), "dict": {"weights": None, "hidden": hidden}}[
            self.output
        ]


@dataclass
class BlockOutput:
    """A block output that is no mapping."""

    weights: Tensor | None
    hidden: Tensor


class Custom(nn.Module):
    """Embedding, blocks, norm and head as a user writes them, without a configuration.

    Args:
        output: "tensor", "tuple", "dict" or "dataclass".
        keyword: Whether the hidden state is passed by keyword.
        shared: Whether one block is called three times in place of three blocks once.
        sequence_first: Whether the stream is `[seq, batch, d]`.
    """

    def __init__(
        self,
        output: str = "tensor",
        *,
        keyword: bool = False,
        shared: bool = False,
        sequence_first: bool = False,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList(Block(output) for _ in range(1 if shared else LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, VOCAB)
        self.keyword, self.shared, self.sequence_first = keyword, shared, sequence_first

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        del attention_mask
        hidden = self.embed(input_ids)
        hidden = hidden.transpose(0, 1) if self.sequence_first else hidden
        for index in range(LAYERS):
            block = self.blocks[0 if self.shared else index]
            output = block(scale=0.5, hidden_states=hidden) if self.keyword else block(hidden)
            kind = block.output
            hidden = (
                output[0]
                if kind == "tuple"
                else output["hidden"]
                if kind == "dict"
                else output.hidden
                if kind == "dataclass"
                else output
            )
        hidden = hidden.transpose(0, 1) if self.sequence_first else hidden
        return self.lm_head(self.norm(hidden))


def custom(output: str = "tensor", **options: bool) -> Custom:
    """A :class:`Custom` model with fixed random weights."""
    torch.manual_seed(0)
    return Custom(output, **options)
