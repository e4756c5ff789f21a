"""The demo corpus and the small trained model that ships with the package."""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import repgeom
from repgeom import demo
from repgeom.demo import evaluate, train

MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def model() -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(demo.MODEL_DIR).eval()


@pytest.fixture(scope="module")
def held_out_slice() -> str:
    """Prose from the held-out part, about 6 kB; long enough for several windows."""
    return max(demo.held_out_documents(), key=len)[:6000]


def bits(model: Any, tokenizer: Any, text: str, **options: int) -> float:
    def encode(document: str) -> list[int]:
        return tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]

    return evaluate.bits_per_byte(model, encode, [text], bos=tokenizer.bos_token_id, **options)


# --- the corpus ---


def test_the_corpus_is_split_without_remainder() -> None:
    parts = demo.training_documents() + demo.held_out_documents()
    assert sorted(parts) == sorted(demo.corpus())
    share = sum(map(len, demo.held_out_documents())) / sum(map(len, demo.corpus()))
    assert 0.05 < share < 0.15


def test_no_held_out_paragraph_was_seen_in_training() -> None:
    def paragraphs(documents: list[str]) -> list[str]:
        flat = (re.sub(r"\s+", " ", p).strip() for text in documents for p in re.split(r"\n\s*\n", text))
        return [paragraph for paragraph in flat if len(paragraph) >= 40]

    seen = set(paragraphs(demo.training_documents()))
    held_out = paragraphs(demo.held_out_documents())
    leaked = sum(len(paragraph) for paragraph in held_out if paragraph in seen)
    # None in the Python that the model was trained with; a later one may move a paragraph.
    same = json.loads((demo.MODEL_DIR / "training.json").read_text("utf-8"))["corpus"]["sha256"]
    assert leaked == 0 if same == demo.corpus_hash() else leaked < 0.05 * sum(map(len, held_out))


def test_the_hash_names_the_documents() -> None:
    assert demo.corpus_hash(["a", "é"]) == hashlib.sha256(b"a\0\xc3\xa9\0").hexdigest()
    assert demo.corpus_hash(["ab"]) != demo.corpus_hash(["a", "b"])
    assert demo.corpus_hash() == demo.corpus_hash(demo.corpus())


def test_importing_the_demo_does_not_import_torch() -> None:
    code = (
        "import repgeom.demo, sys; repgeom.demo.corpus(); "
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    root = str(Path(repgeom.__file__).parents[1])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert run.stdout.split() == ["False", "False"]


# --- the model ---


def test_the_model_is_small_and_complete() -> None:
    files = {path.name: path.stat().st_size for path in demo.MODEL_DIR.iterdir()}
    assert sum(files.values()) < 6 * MEBIBYTE
    needed = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert needed | {"training.json"} <= set(files)


def test_the_model_is_an_ordinary_llama(model: Any) -> None:
    assert type(model).__name__ == "LlamaForCausalLM"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_the_tokenizer_returns_the_text(tokenizer: Any) -> None:
    for text in [*demo.held_out_documents(), "tabs\t, é, 漢字, 🙂 and \x00\n\n   spaces  "]:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        assert tokenizer.decode(ids) == text


def test_the_tokenizer_opens_with_one_special_token_and_can_pad(tokenizer: Any) -> None:
    batch = tokenizer(["one", "one two three"], padding=True, return_tensors="pt")
    assert batch["input_ids"][:, 0].tolist() == [tokenizer.bos_token_id] * 2
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert (batch["attention_mask"] == (batch["input_ids"] != tokenizer.pad_token_id)).all()


def test_the_model_beats_the_baselines_on_text_it_has_not_seen(
    model: Any, tokenizer: Any, held_out_slice: str
) -> None:
    trained = bits(model, tokenizer, held_out_slice)
    untrained = bits(demo.untrained_model(0), tokenizer, held_out_slice)
    n_bytes = len(held_out_slice.encode())
    unigram = evaluate.unigram_bits_per_byte(
        [text.encode() for text in demo.training_documents()],
        [held_out_slice.encode()],
        alphabet=256,
        n_bytes=n_bytes,
    )
    assert trained < 0.6 * unigram
    assert trained < 0.7 * untrained
    assert trained < 2.2


def test_the_model_card_tells_what_training_found() -> None:
    record = json.loads((demo.MODEL_DIR / "training.json").read_text("utf-8"))
    scores = record["held_out_bits_per_byte"]
    assert scores["trained"] < scores["unigram_tokens"] < scores["untrained"] < scores["unigram_bytes"]
    assert (demo.MODEL_DIR / "README.md").read_text("utf-8") == train.model_card(record)


def test_an_untrained_model_depends_on_its_seed_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    weights = [demo.untrained_model(seed).get_input_embeddings().weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(weights[0], train.new_model(0).get_input_embeddings().weight)


# --- bits per byte ---


class Position(torch.nn.Module):
    """Predicts token 1 with a probability that depends on the length of the context alone."""

    def forward(self, input_ids: Any) -> Any:
        b, s = input_ids.shape
        logits = torch.zeros(b, s, 4, dtype=torch.float64)
        logits[..., 1] = torch.arange(s)
        return transformers.modeling_outputs.CausalLMOutput(logits=logits)


def test_bits_per_byte_scores_every_token_once_with_the_context_it_says() -> None:
    def cost(context: int) -> float:
        return math.log2(3 + math.exp(context)) - context / math.log(2)

    # 7 tokens, windows of 4 (BOS and 3) that advance by 2: tokens 1-3 see 0-2 others, then pairs see 1 and 2.
    got = evaluate.bits_per_byte(
        Position(), lambda text: [1] * len(text), ["a" * 7], bos=0, context=4, stride=2, batch_size=2
    )
    assert got == pytest.approx((cost(0) + 3 * cost(1) + 3 * cost(2)) / 7, rel=1e-6)


def test_bits_per_byte_does_not_depend_on_the_batch_size(
    model: Any, tokenizer: Any, held_out_slice: str
) -> None:
    text = held_out_slice[:1500]
    one, many = (bits(model, tokenizer, text, batch_size=size) for size in (1, 8))
    assert one == pytest.approx(many, rel=1e-5)


def test_bits_per_byte_of_uniform_predictions_is_the_entropy() -> None:
    class Uniform(torch.nn.Module):
        def forward(self, input_ids: Any) -> Any:
            return transformers.modeling_outputs.CausalLMOutput(logits=torch.zeros(*input_ids.shape, 256))

    got = evaluate.bits_per_byte(Uniform(), lambda text: list(text.encode()), ["é" * 300, "b"], bos=0)
    assert got == pytest.approx(8)


@pytest.mark.parametrize("stride", [0, 4])
def test_bits_per_byte_refuses_a_bad_stride(stride: int) -> None:
    with pytest.raises(ValueError, match=rf"stride must be in .*got {stride}"):
        evaluate.bits_per_byte(Position(), list, ["a"], bos=0, context=4, stride=stride)


def test_bits_per_byte_refuses_empty_documents() -> None:
    with pytest.raises(ValueError, match="at least one byte, got 2 empty documents"):
        evaluate.bits_per_byte(Position(), list, ["", ""], bos=0)


# --- training ---


def test_a_training_run_writes_a_model_that_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "bits_per_byte", lambda *_, **__: 1.0)
    monkeypatch.setattr(train, "CONTEXT", 16)
    out = tmp_path / "nested" / "model"
    assert train.main(["--out", str(out), "--steps", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["trained"] == 1.0
    assert [path.name for path in out.parent.iterdir()] == ["model"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert model(**tokenizer("a b", return_tensors="pt")).logits.shape[-1] == train.VOCABULARY


def test_ctrl_c_leaves_the_folder_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "training.json").write_text("old", "utf-8")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", interrupt)
    assert train.main(["--out", str(tmp_path)]) == 130
    assert "as it was" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["training.json"]


def test_a_failed_write_leaves_the_old_folder(tmp_path: Path) -> None:
    out = tmp_path / "model"
    train.publish(out, lambda folder: (folder / "old").touch())

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        train.publish(out, fail)
    assert [path.name for path in out.iterdir()] == ["old"]
    train.publish(out, lambda folder: (folder / "new").touch())
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "new"]


def test_training_does_not_overwrite_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").touch()
    assert train.main(["--out", str(tmp_path)]) == 2
    assert "which is neither" in capsys.readouterr().err
    assert train.main(["--out", str(tmp_path / "thesis.tex")]) == 2
    assert "must be a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train.main(["--out", str(tmp_path), "--steps", "0"])
    assert "at least 1, got '0'" in capsys.readouterr().err


def test_dropout_acts_in_training_only_and_leaves_no_hook() -> None:
    model = train.new_model(0)
    ids = torch.arange(8)[None]
    plain = model.eval()(input_ids=ids).logits
    with train.residual_dropout(model, 0.5):
        assert torch.equal(model.eval()(input_ids=ids).logits, plain)
        assert not torch.equal(model.train()(input_ids=ids).logits, plain)
    assert torch.equal(model.train()(input_ids=ids).logits, plain)
