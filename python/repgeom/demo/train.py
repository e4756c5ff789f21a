"""Train the demo model: ``python -m repgeom.demo.train --out DIR``.

A byte-level BPE tokenizer and a small Llama, trained on the training part of the corpus. The checkpoint with
the lowest held-out bits per byte is kept. With one thread, the same seed and the same torch give the same
weights.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from repgeom import demo
from repgeom.demo.evaluate import bits_per_byte, unigram_bits_per_byte

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BOS, PAD = "<|endoftext|>", "<|pad|>"
BOS_ID, PAD_ID = 0, 1
VOCABULARY = 1024
CONTEXT = 256

EXAMPLES = """examples:
  python -m repgeom.demo.train --out /tmp/demo                    the model that ships (about 10 minutes)
  python -m repgeom.demo.train --out /tmp/demo --steps 20         a quick look at the files it writes
  python -m repgeom.demo.train --out /tmp/demo --seed 1 --threads 4

DIR appears, or is replaced, only when training has finished; Ctrl-C leaves it as it was."""


@dataclass(frozen=True)
class Settings:
    """What decides the weights."""

    seed: int = 0
    steps: int = 1500
    batch_size: int = 8
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    dropout: float = 0.15
    warmup: int = 100
    evaluate_every: int = 100


def train_tokenizer(documents: Sequence[str]) -> Tokenizer:
    """A byte-level BPE tokenizer of ``VOCABULARY`` tokens that opens every sequence with ``BOS``.

    Args:
        documents: the text it is trained on.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, BOS_ID)]
    )
    return tokenizer


def new_model(seed: int) -> Any:
    """The untrained model: a Llama of 1.3 million parameters with tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=BOS_ID,
        eos_token_id=BOS_ID,
        pad_token_id=PAD_ID,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


@contextlib.contextmanager
def residual_dropout(model: Any, p: float) -> Iterator[None]:
    """Dropout on the embedding and on all that is added to the residual stream; Llama itself has none.

    Args:
        model: a ``LlamaForCausalLM``; dropout acts in training mode only.
        p: probability of a zero.
    """

    def drop(module: torch.nn.Module, _: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(output, p, module.training)

    sites = [model.model.embed_tokens]
    for block in model.model.layers:
        sites += [block.self_attn.o_proj, block.mlp.down_proj]
    handles = [site.register_forward_hook(drop) for site in sites]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def sample_batch(stream: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """Random windows of the token stream, each opened by ``BOS``: ``[size, CONTEXT]``."""
    starts = torch.randint(len(stream) - CONTEXT + 2, (size,), generator=generator).tolist()
    windows = torch.stack([stream[start : start + CONTEXT - 1] for start in starts])
    return torch.cat([torch.full((size, 1), BOS_ID), windows], dim=1)


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, then a cosine to a hundredth of the peak."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def new_optimizer(model: Any, settings: Settings) -> torch.optim.Optimizer:
    """AdamW; norms are not decayed."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95))


def train_step(model: Any, optimizer: torch.optim.Optimizer, batch: torch.Tensor, rate: float) -> None:
    """One step of AdamW on a batch ``[b, CONTEXT]``, gradients clipped to norm 1."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    model(input_ids=batch, labels=batch).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def fit(
    model: Any, stream: torch.Tensor, held_out: Callable[[Any], float], settings: Settings
) -> tuple[int, float]:
    """Train in place and leave the best checkpoint in the model.

    Args:
        model: a ``LlamaForCausalLM``.
        stream: training tokens ``[n]``.
        held_out: bits per byte of a model on the held-out documents.
        settings: see :class:`Settings`.

    Returns:
        The step of the best checkpoint and its held-out bits per byte.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = new_optimizer(model, settings)
    best_step, best_bits, best_weights = 0, math.inf, model.state_dict()
    progress = tqdm(range(1, settings.steps + 1), unit="step", mininterval=5)
    with residual_dropout(model, settings.dropout):
        for step in progress:
            model.train()
            batch = sample_batch(stream, settings.batch_size, generator)
            train_step(model, optimizer, batch, learning_rate(step - 1, settings))
            if step % settings.evaluate_every and step != settings.steps:
                continue
            bits = held_out(model.eval())
            progress.set_postfix_str(f"held-out {bits:.3f} bits per byte", refresh=False)
            if bits < best_bits:
                best_step, best_bits = step, bits
                best_weights = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best_weights)
    model.eval()
    return best_step, best_bits


def baselines(encode: Callable[[str], list[int]]) -> dict[str, float]:
    """Held-out bits per byte of the unigram models over bytes and over tokens."""
    texts = [demo.training_documents(), demo.held_out_documents()]
    as_bytes = [[list(text.encode("utf-8")) for text in part] for part in texts]
    as_tokens = [[encode(text) for text in part] for part in texts]
    n_bytes = sum(len(document) for document in as_bytes[1])
    return {
        "unigram_bytes": unigram_bits_per_byte(*as_bytes, alphabet=256, n_bytes=n_bytes),
        "unigram_tokens": unigram_bits_per_byte(*as_tokens, alphabet=VOCABULARY, n_bytes=n_bytes),
    }


def train(settings: Settings, threads: int) -> tuple[Any, Tokenizer, dict[str, Any]]:
    """Train tokenizer and model.

    Args:
        settings: what decides the weights.
        threads: threads of torch.

    Returns:
        The model, the tokenizer, and the record that becomes ``training.json``.
    """
    torch.set_num_threads(threads)
    started = time.monotonic()
    tokenizer = train_tokenizer(demo.training_documents())

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def bits(model: Any, documents: Sequence[str]) -> float:
        return bits_per_byte(model, encode, documents, bos=BOS_ID, context=CONTEXT)

    def held_out(model: Any) -> float:
        return bits(model, demo.held_out_documents())

    model = new_model(settings.seed).eval()
    scores = {"untrained": held_out(model), **baselines(encode)}
    stream = torch.tensor([i for text in demo.training_documents() for i in (BOS_ID, *encode(text))])
    best_step, scores["trained"] = fit(model, stream, held_out, settings)
    record = {
        "corpus": {
            "name": demo.CORPUS_NAME,
            "sha256": demo.corpus_hash(),
            "held_out_sha256": demo.corpus_hash(demo.held_out_documents()),
            "held_out_topics": list(demo.HELD_OUT_TOPICS),
            "training_bytes": sum(len(text.encode()) for text in demo.training_documents()),
            "held_out_bytes": sum(len(text.encode()) for text in demo.held_out_documents()),
            "training_tokens": len(stream),
        },
        "settings": vars(settings) | {"threads": threads},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "parameters": sum(p.numel() for p in model.parameters()),
        "best_step": best_step,
        "wall_seconds": round(time.monotonic() - started),
        "training_bits_per_byte": round(bits(model, demo.training_documents()), 4),
        "held_out_bits_per_byte": {name: round(scores[name], 4) for name in sorted(scores)},
    }
    return model, tokenizer, record


def model_card(record: dict[str, Any]) -> str:
    """The README.md that lies next to the weights."""
    bits, data, settings = record["held_out_bits_per_byte"], record["corpus"], record["settings"]
    return f"""# repgeom demo model

A Llama of {record["parameters"]:,} parameters (hidden 128, 6 layers, 4 heads, context {CONTEXT}, tied
embeddings, float32) with a byte-level BPE tokenizer of {VOCABULARY} tokens. It is there to be measured:
trained well enough that its layers do something, small enough to ship. It is not useful as a language model.

| held-out text | bits per byte |
|---|---|
| this model | {bits["trained"]:.3f} |
| unigram over tokens | {bits["unigram_tokens"]:.3f} |
| unigram over bytes | {bits["unigram_bytes"]:.3f} |
| the same model before training | {bits["untrained"]:.3f} |

Every token of every held-out document is scored once, in windows of {CONTEXT} tokens that advance by
{CONTEXT // 2}; the nats are divided by ln 2 and by the number of UTF-8 bytes. The checkpoint was chosen on
this same held-out text, so the first number is slightly optimistic. On the text it was trained on the model
needs {record["training_bits_per_byte"]:.3f} bits per byte: it knows much of it by heart.

- **Data**: `pydoc_data.topics` of Python {record["versions"]["python"]} (PSF license),
  {data["training_bytes"]:,} bytes for training, {data["held_out_bytes"]:,} held out. Topics repeat each other
  word for word; the held-out ones share no paragraph with the rest:
  {", ".join(data["held_out_topics"])}.
- **Training**: {settings["steps"]} steps of {settings["batch_size"]} x {CONTEXT} tokens, AdamW, peak learning
  rate {settings["learning_rate"]:g}, cosine schedule, weight decay {settings["weight_decay"]:g}, dropout
  {settings["dropout"]:g} on the embedding and on every residual branch; best checkpoint at step
  {record["best_step"]}; {record["wall_seconds"] / 60:.0f} minutes on {settings["threads"]} CPU thread(s).
- **Made by** `python -m repgeom.demo.train --out DIR --seed {settings["seed"]} --steps {settings["steps"]}`.
  The record is `training.json`.
"""


def save(folder: Path, model: Any, tokenizer: Tokenizer, record: dict[str, Any]) -> None:
    """Write model, tokenizer, model card and record in the Hugging Face layout."""
    from transformers import PreTrainedTokenizerFast

    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=BOS,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    # transformers 5 writes a class name that transformers 4 does not know; this one is known to both.
    config = json.loads(path.read_text("utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    (folder / "README.md").write_text(model_card(record), "utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)


def publish(out: Path, write: Callable[[Path], None]) -> None:
    """Fill a new folder and give it the name ``out`` at the end; an old ``out`` is replaced.

    Args:
        out: the folder to appear.
        write: fills the folder it is given.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()
        write(new)
        if out.exists():
            out.rename(old)
        new.rename(out)


def check_out(out: Path) -> Path:
    """``out`` if it is free or holds an earlier demo model.

    Raises:
        ValueError: if it is a file, or a folder with something else in it.
    """
    out = out.resolve()
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a folder, got the file {out}")
    if out.is_dir() and any(out.iterdir()) and not (out / "training.json").exists():
        raise ValueError(f"--out must be new, empty or an earlier demo model, got {out}, which is neither")
    return out


def positive(text: str) -> int:
    """An integer of at least 1 from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return int(text)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m repgeom.demo.train",
        description="Train the demo language model on the language reference inside this Python.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to write (about 5.4 MB)"
    )
    parser.add_argument("--seed", type=int, default=Settings.seed, help="default: %(default)s")
    parser.add_argument("--steps", type=positive, default=Settings.steps, help="default: %(default)s")
    parser.add_argument("--threads", type=positive, default=1, help="threads of torch (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit code is 0, 2 for bad arguments, 130 after Ctrl-C."""
    options = parse(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        out = check_out(options.out)
        model, tokenizer, record = train(Settings(seed=options.seed, steps=options.steps), options.threads)
        publish(out, lambda folder: save(folder, model, tokenizer, record))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped; {options.out} is as it was", file=sys.stderr)
        return 130
    print(json.dumps(record["held_out_bits_per_byte"], indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
