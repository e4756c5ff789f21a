"""Text and dataloaders become batches in which exactly the real tokens are marked."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from repgeom.demo import MODEL_DIR, corpus
from repgeom.tokens import (
    TextPlan,
    TokenBatch,
    TokenPolicy,
    demo_text,
    forward_signature,
    iter_dataloader,
    pack_right,
    plan_text,
    read_text,
)

PAD = 99
TEXTS = ["One.", "A class definition is an executable statement.", "  \n ", "Names refer to objects. " * 40]
DROP_SPECIAL = TokenPolicy(special_tokens="drop")
KEEP_PADDING = TokenPolicy(padding="keep")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(MODEL_DIR)


class WordTokenizer:
    """BERT-like: [CLS] words [SEP], no pad token; a word is its number."""

    all_special_ids = (101, 102)
    model_max_length = 10**30

    def __call__(self, text: str, *, add_special_tokens: bool, verbose: bool) -> dict[str, list[int]]:
        assert not verbose
        ids = [int(word) for word in text.split()]
        return {"input_ids": [101, *ids, 102] if add_special_tokens else ids}


def rows(*tokens: list[int], side: str = "right", width: int | None = None) -> dict[str, Any]:
    """Rows of tokens as a padded batch."""
    width = width or max(map(len, tokens))
    ids, mask = [], []
    for row in tokens:
        pad = width - len(row)
        left = {"left": pad, "right": 0, "middle": pad // 2}[side]
        ids.append([PAD] * left + row + [PAD] * (pad - left))
        mask.append([0] * left + [1] * len(row) + [0] * (pad - left))
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def kept(batch: TokenBatch) -> list[list[int]]:
    assert batch.token_ids is not None
    assert batch.keep is not None
    return [ids[keep].tolist() for ids, keep in zip(batch.token_ids, batch.keep, strict=True)]


def stream(batches: Iterator[TokenBatch]) -> list[int]:
    return [token for batch in batches for row in kept(batch) for token in row]


def read(batch: Any, **options: Any) -> TokenBatch:
    (only,) = iter_dataloader([batch], **options)
    return only


token_rows = st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=7), min_size=1, max_size=5)


# --- pack_right ---


@settings(deadline=None)
@given(token_rows, st.sampled_from(["left", "right", "middle"]), st.integers(0, 3))
def test_any_padding_packs_to_the_same_batch(tokens: list[list[int]], side: str, extra: int) -> None:
    width = max(map(len, tokens))
    packed = pack_right(rows(*tokens, side=side, width=width + extra))
    tight = rows(*tokens)
    assert torch.equal(packed["attention_mask"], tight["attention_mask"])
    assert torch.equal(packed["input_ids"], tight["input_ids"])


@settings(deadline=None)
@given(st.data())
def test_holes_are_closed_in_order(data: st.DataObject) -> None:
    mask = torch.tensor(data.draw(st.lists(st.lists(st.integers(0, 1), min_size=5, max_size=5), min_size=1)))
    mask[0, 2] = 1
    ids = torch.arange(mask.numel()).reshape(mask.shape)
    packed = pack_right({"input_ids": ids, "attention_mask": mask})
    for row in range(len(mask)):
        real = packed["attention_mask"][row].bool()
        assert packed["input_ids"][row][real].tolist() == ids[row][mask[row].bool()].tolist()
        assert real.tolist() == sorted(real.tolist(), reverse=True)
    assert packed["attention_mask"].any(dim=0).all()


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_without_padding_to_move_passes_untouched(side: str) -> None:
    batch = rows([1, 2, 3], [4, 5, 6], side=side)
    assert pack_right(batch) is batch
    ragged = rows([1, 2, 3], [4])
    assert pack_right(ragged) is ragged
    without = {"input_ids": batch["input_ids"]}
    assert pack_right(without) is without


def test_all_that_is_aligned_moves_along_and_nothing_else() -> None:
    batch = rows([1, 2], [3, 4, 5], side="left", width=4)
    ids = batch["input_ids"]
    batch |= {
        "token_type_ids": ids * 10,
        "inputs_embeds": ids[..., None] * torch.ones(3),
        "labels": ids.clone(),
        "pixel_values": torch.arange(2 * 4 * 5).reshape(2, 4, 5),
        "scale": torch.arange(2),
        "name": "unchanged",
    }
    packed = pack_right(batch)
    expected = torch.tensor([[1, 2, PAD], [3, 4, 5]])
    assert torch.equal(packed["input_ids"], expected)
    assert torch.equal(packed["token_type_ids"], expected * 10)
    assert torch.equal(packed["inputs_embeds"], expected[..., None] * torch.ones(3))
    assert torch.equal(packed["labels"], expected)
    assert all(packed[name] is batch[name] for name in ("pixel_values", "scale", "name"))


def test_the_decoder_of_a_batch_is_left_alone() -> None:
    batch = rows([1, 2], [3, 4, 5], side="left", width=4)
    batch |= {"decoder_input_ids": torch.arange(8).reshape(2, 4), "labels": torch.arange(8).reshape(2, 4)}
    packed = pack_right(batch)
    assert packed["decoder_input_ids"] is batch["decoder_input_ids"]
    assert packed["labels"] is batch["labels"]


@pytest.mark.parametrize("layout", ["rows", "shared", "planes"])
def test_position_ids_stay_with_their_tokens(layout: str) -> None:
    batch = rows([1, 2], [3, 4, 5], side="left", width=4)
    positions = torch.arange(4)[None]
    expected = torch.tensor([[2, 3, 0], [1, 2, 3]])
    if layout != "shared":
        positions = positions.repeat(2, 1)
    if layout == "planes":
        positions, expected = torch.stack([positions] * 3), torch.stack([expected] * 3)
    packed = pack_right({**batch, "position_ids": positions})
    real = packed["attention_mask"].bool().expand(packed["position_ids"].shape)
    assert torch.equal(packed["position_ids"][real], expected[real])


def test_position_ids_of_another_shape_are_refused() -> None:
    batch = rows([1, 2], [3], side="left") | {"position_ids": torch.arange(5)[None]}
    with pytest.raises(
        ValueError, match=r"position_ids must have the shape of input_ids \[2, 2\], got \[1, 5\]"
    ):
        pack_right(batch)


def test_packing_does_not_change_what_a_left_padded_model_computes() -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL_DIR).eval()
    tokens = [[5, 6, 7], [8, 9, 10, 11, 12]]
    packed = pack_right(rows(*tokens, side="left"))
    with torch.no_grad():
        together = model(**packed).logits
        for row, ids in enumerate(tokens):
            alone = model(input_ids=torch.tensor([ids])).logits[0]
            torch.testing.assert_close(together[row, : len(ids)], alone, rtol=1e-4, atol=1e-4)


# --- iter_dataloader: forms ---


@settings(deadline=None)
@given(token_rows, st.sampled_from(["left", "right", "middle"]))
def test_exactly_the_real_tokens_are_kept(tokens: list[list[int]], side: str) -> None:
    batch = read(rows(*tokens, side=side, width=9))
    assert kept(batch) == tokens
    assert batch.n_tokens == sum(map(len, tokens))
    assert batch.n_padding == batch.token_ids.numel() - batch.n_tokens
    assert batch.args == ()
    assert batch.kwargs["input_ids"] is batch.token_ids


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=7), min_size=1, max_size=12))
def test_any_batch_size_gives_the_same_tokens(tokens: list[list[int]]) -> None:
    streams = []
    for size in (1, 3, 12):
        loader = [rows(*tokens[i : i + size], side="left") for i in range(0, len(tokens), size)]
        batches = list(iter_dataloader(loader))
        streams.append(
            [(int(i), row) for b in batches for i, row in zip(b.sequence_ids, kept(b), strict=True)]
        )
    assert streams[0] == streams[1] == streams[2] == list(enumerate(tokens))


def test_a_batch_encoding_and_a_torch_dataloader_are_read(tokenizer: Any) -> None:
    texts = ["One.", "One, two and three.", "Four"]
    loader = torch.utils.data.DataLoader(
        texts, batch_size=2, collate_fn=lambda part: tokenizer(part, padding=True, return_tensors="pt")
    )
    got = [row for batch in iter_dataloader(loader) for row in kept(batch)]
    assert got == [tokenizer(text)["input_ids"] for text in texts]


def test_a_tensor_of_ids_has_only_real_tokens() -> None:
    ids = torch.arange(6).reshape(2, 3)
    batch = read(ids)
    assert batch.args[0] is ids
    assert batch.kwargs == {}
    assert kept(batch) == ids.tolist()
    assert (batch.n_tokens, batch.n_padding) == (6, 0)


@pytest.mark.parametrize(("shape", "n"), [((5,), 5), ((2, 3), 6), ((2, 3, 4), 6), ((2, 3, 4, 5), 6)])
def test_positions_of_other_tensors_are_unknown(shape: tuple[int, ...], n: int) -> None:
    batch = read(torch.zeros(shape))
    assert batch.keep is None
    assert batch.token_ids is None
    assert batch.n_tokens == n


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_tuple_is_positional_arguments(kind: Callable[[Any], Any]) -> None:
    ids, other = torch.arange(6).reshape(2, 3), object()
    batch = read(kind([ids, other]))
    assert batch.args == (ids, other)
    assert batch.n_tokens == 6


def test_a_mask_in_a_tuple_is_found_by_the_signature() -> None:
    def forward(input_ids: Any, attention_mask: Any = None, **_: Any) -> None: ...

    batch = rows([1, 2], [3], side="left")
    pair = (batch["input_ids"], batch["attention_mask"])
    found = read(pair, signature=inspect.signature(forward))
    assert kept(found) == [[1, 2], [3]]
    assert found.args == ()
    assert read(pair).n_tokens == 4


def test_forward_signature_names_the_arguments_of_the_model() -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    assert list(forward_signature(model).parameters)[:2] == ["input_ids", "attention_mask"]


def test_a_mapping_without_positions_counts_rows() -> None:
    batch = read({"pixel_values": torch.zeros(4, 3, 8, 8)})
    assert (batch.keep, batch.n_tokens) == (None, 4)
    assert batch.sequence_ids.tolist() == [0, 1, 2, 3]


def test_embeddings_have_positions_too() -> None:
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    embeds = torch.arange(6.0).reshape(2, 3, 1)
    batch = read({"inputs_embeds": embeds, "attention_mask": mask})
    assert batch.token_ids is None
    assert batch.keep.tolist() == [[True, True, False], [True] * 3]
    assert batch.kwargs["inputs_embeds"][..., 0].tolist() == [[1, 2, 0], [3, 4, 5]]


def test_a_batch_moves_as_a_whole() -> None:
    batch = read((torch.arange(4).reshape(2, 2), {"nested": [torch.zeros(2), "name"]})).to("meta")
    assert batch.args[0].is_meta
    assert batch.args[1]["nested"][0].is_meta
    assert batch.args[1]["nested"][1] == "name"
    assert batch.keep.is_meta
    assert batch.token_ids.is_meta
    assert batch.sequence_ids.is_meta
    assert batch.n_tokens == 4


# --- iter_dataloader: budget and policy ---


def test_the_budget_is_tested_before_each_batch_and_nothing_extra_is_drawn() -> None:
    drawn = []

    def loader() -> Iterator[dict[str, Any]]:
        for index in range(10):
            drawn.append(index)
            yield rows([1, 2], [3], side="left")

    assert [batch.n_tokens for batch in iter_dataloader(loader(), max_tokens=4)] == [3, 3]
    assert drawn == [0, 1]
    assert len(list(iter_dataloader(loader(), max_tokens=6))) == 2
    assert len(list(iter_dataloader(loader()))) == 10
    assert list(iter_dataloader(loader(), max_tokens=0)) == []


def test_keeping_padding_leaves_the_batch_as_it_came() -> None:
    raw = rows([1, 2], [3], side="left", width=4)
    batch = read(raw, policy=KEEP_PADDING)
    assert batch.kwargs["input_ids"] is raw["input_ids"]
    assert bool(batch.keep.all())
    assert (batch.n_tokens, batch.n_padding) == (8, 5)


def test_special_tokens_can_be_dropped() -> None:
    batch = read(rows([0, 5, 6], [0, 7]), policy=DROP_SPECIAL, special_ids=[0, PAD])
    assert kept(batch) == [[5, 6], [7]]
    assert batch.kwargs["input_ids"].tolist() == [[0, 5, 6], [0, 7, PAD]]
    with pytest.raises(ValueError, match="needs special_ids"):
        iter_dataloader([], policy=DROP_SPECIAL)


def test_a_policy_survives_json_and_refuses_what_it_does_not_know() -> None:
    for policy in (TokenPolicy(), KEEP_PADDING, DROP_SPECIAL):
        assert TokenPolicy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
    assert TokenPolicy.from_dict({}) == TokenPolicy()
    with pytest.raises(ValueError, match=r"padding must be one of \('drop', 'keep'\), got 'skip'"):
        TokenPolicy(padding="skip")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got also \['sinks'\]"):
        TokenPolicy.from_dict({"sinks": "drop"})


# --- iter_dataloader: errors ---

GOOD = rows([1, 2], [3])
IDS = GOOD["input_ids"]
BAD_BATCHES = {
    "mask shape": (
        {"input_ids": IDS, "attention_mask": torch.ones(2, 3)},
        r"input's shape \[2, 2\], got \[2, 3\]",
    ),
    "mask rank": ({"input_ids": IDS, "attention_mask": torch.ones(2, 1, 2, 2)}, r"got \[2, 1, 2, 2\]"),
    "mask values": ({"input_ids": IDS, "attention_mask": IDS}, "only 0 and 1, got 2"),
    "mask nan": (
        {"input_ids": IDS, "attention_mask": torch.full((2, 2), float("nan"))},
        "only 0 and 1, got nan",
    ),
    "mask kind": ({"input_ids": IDS, "attention_mask": [[1, 1], [1, 0]]}, "must be a tensor, got list"),
    "only padding": ({"input_ids": IDS, "attention_mask": torch.zeros(2, 2)}, "got only padding"),
    "no rows": ({"input_ids": IDS[:0]}, "got only padding"),
    "ids kind": ({"input_ids": [[1, 2]]}, "input_ids must be a tensor, got list"),
    "ids rank": ({"input_ids": IDS[0]}, r"integers \[batch, seq\], got torch.int64 \[2\]"),
    "ids dtype": ({"input_ids": IDS.float()}, r"integers \[batch, seq\], got torch.float32"),
    "ids high": ({"input_ids": IDS + 100}, "got 199"),
    "ids negative": (IDS - 2, "got -1"),
    "string": ("hello", "a string; text goes in as text="),
    "number": (3, "int"),
    "strings": (["hello", "you"], "at least one tensor, got str"),
    "empty": ({}, "at least one tensor, got nothing"),
}


@pytest.mark.parametrize(("batch", "message"), BAD_BATCHES.values(), ids=BAD_BATCHES)
def test_a_bad_batch_is_refused_by_its_number(batch: Any, message: str) -> None:
    batches = iter_dataloader([GOOD, batch], vocab_size=150)
    next(batches)
    with pytest.raises(ValueError, match=f"batch 1: .*{message}"):
        next(batches)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ("text", "a string"),
        (GOOD, "one dict; put"),
        (IDS, "one Tensor; put"),
        (3, "int"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_dataloader_is_refused_at_once(loader: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"dataloader must be an iterable of batches, got {message}"):
        iter_dataloader(loader)


def test_an_empty_dataloader_is_refused() -> None:
    with pytest.raises(ValueError, match="got no batch"):
        list(iter_dataloader([]))


@pytest.mark.parametrize("budget", [-1, 1.5, True, "9"])
def test_a_bad_budget_is_refused(budget: Any, tokenizer: Any) -> None:
    message = re.escape(f"max_tokens must be an integer of at least 0, got {budget!r}")
    with pytest.raises(ValueError, match=message):
        iter_dataloader([GOOD], max_tokens=budget)
    with pytest.raises(ValueError, match=message):
        plan_text("text", tokenizer, max_tokens=budget)


# --- plan_text ---


def check(plan: TextPlan) -> list[TokenBatch]:
    """What holds for every plan; its batches."""
    batches = list(plan.batches())
    assert len(batches) == plan.n_batches
    assert sum(batch.n_tokens for batch in batches) == plan.n_tokens
    assert [tuple(batch.token_ids.shape) for batch in batches] == plan.batch_shapes
    assert torch.cat([batch.sequence_ids for batch in batches]).tolist() == list(range(plan.n_sequences))
    assert plan.longest == max(plan.lengths) <= plan.max_length
    assert plan.n_documents == len(set(plan.documents.tolist()))
    return batches


@settings(max_examples=25, deadline=None)
@given(
    size=st.fixed_dictionaries({"batch_size": st.integers(1, 9), "equal_lengths": st.booleans()}),
    max_length=st.integers(2, 40),
    budget=st.integers(1, 400),
    policy=st.sampled_from([TokenPolicy(), DROP_SPECIAL]),
)
def test_the_budget_is_met_exactly_whatever_the_batch_size(
    tokenizer: Any, size: dict[str, Any], max_length: int, budget: int, policy: TokenPolicy
) -> None:
    options = {"max_length": max_length, "policy": policy}
    whole = stream(plan_text(TEXTS, tokenizer, **options, batch_size=1).batches())
    plan = plan_text(TEXTS, tokenizer, **options, **size, max_tokens=budget)
    assert plan.n_tokens == min(budget, len(whole))
    batches = check(plan)
    assert stream(iter(batches)) == whole[:budget]
    assert all(len(batch.sequence_ids) <= size["batch_size"] for batch in batches)


def test_no_token_of_a_long_document_is_lost(tokenizer: Any) -> None:
    text = corpus()[0]
    plan = plan_text(text, tokenizer, max_length=32, policy=DROP_SPECIAL)
    assert stream(plan.batches()) == tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    assert plan.lengths[:-1].tolist() == [32] * (plan.n_sequences - 1)
    assert all((batch.token_ids[:, 0] == tokenizer.bos_token_id).all() for batch in plan.batches())


def test_special_tokens_stand_around_every_window() -> None:
    plan = plan_text("1 2 3 4 5", WordTokenizer(), max_length=4)
    (batch,) = check(plan)
    assert batch.token_ids.tolist() == [[101, 1, 2, 102], [101, 3, 4, 102], [101, 5, 102, 0]]
    assert kept(batch)[2] == [101, 5, 102]
    cut = plan_text("1 2 3 4 5", WordTokenizer(), max_length=4, max_tokens=3, policy=DROP_SPECIAL)
    assert [kept(batch) for batch in cut.batches()] == [[[1, 2], [3]]]


def test_text_is_padded_on_the_right_and_masked(tokenizer: Any) -> None:
    side = tokenizer.padding_side
    tokenizer.padding_side = "left"
    try:
        (batch,) = check(plan_text(TEXTS[:2], tokenizer))
        assert tokenizer.padding_side == "left"
    finally:
        tokenizer.padding_side = side
    ids, mask = batch.kwargs["input_ids"], batch.kwargs["attention_mask"]
    assert kept(batch) == [tokenizer(text)["input_ids"] for text in TEXTS[:2]]
    assert ids[0, -1] == tokenizer.pad_token_id
    assert torch.equal(mask.bool(), batch.keep)
    assert batch.n_padding == int((mask == 0).sum())


def test_the_pad_id_is_one_that_the_model_has(tokenizer: Any) -> None:
    assert plan_text("text", tokenizer).pad_id == tokenizer.pad_token_id
    fake = WordTokenizer()
    assert plan_text("1", fake).pad_id == 0
    fake.eos_token_id = 102  # type: ignore[attr-defined]
    assert plan_text("1", fake).pad_id == 102
    fake.pad_token_id = 500  # type: ignore[attr-defined]  # added to the tokenizer, not to the model
    assert plan_text("1", fake, vocab_size=200).pad_id == 102


def test_equal_lengths_need_no_padding_and_no_mask(tokenizer: Any) -> None:
    batches = check(plan_text(TEXTS, tokenizer, max_length=16, equal_lengths=True))
    assert all(batch.n_padding == 0 and "attention_mask" not in batch.kwargs for batch in batches)


def test_windows_fit_the_model(tokenizer: Any) -> None:
    assert plan_text(TEXTS, tokenizer, model_context=20).longest == 20
    assert plan_text(corpus()[0], tokenizer, max_length=100_000).longest == tokenizer.model_max_length == 256


def test_blank_documents_are_skipped_and_documents_numbered(tokenizer: Any) -> None:
    plan = plan_text(TEXTS, tokenizer)
    assert plan.documents.unique().tolist() == [0, 1, 3]
    assert plan.n_documents == 3


def test_a_budget_of_zero_is_an_empty_plan(tokenizer: Any) -> None:
    plan = plan_text("text", tokenizer, max_tokens=0)
    assert list(plan.batches()) == []
    assert (plan.n_tokens, plan.n_sequences, plan.n_batches, plan.n_documents, plan.longest) == (0,) * 5


def test_a_small_budget_does_not_read_a_large_text(tokenizer: Any) -> None:
    class Counting:
        all_special_ids = tokenizer.all_special_ids
        model_max_length = tokenizer.model_max_length
        n_characters = 0

        def __call__(self, text: str, **options: Any) -> Any:
            self.n_characters += len(text)
            return tokenizer(text, **options)

    text = "\n".join(corpus())
    counting = Counting()
    few = plan_text(text, counting, max_tokens=300)
    assert counting.n_characters < len(text) / 10
    assert torch.equal(few.ids, plan_text(text, tokenizer).ids[:300])
    same = {"max_length": 64, "policy": DROP_SPECIAL}
    whole = stream(plan_text(text[:60_000], tokenizer, **same).batches())
    assert stream(plan_text(text, tokenizer, **same, max_tokens=3000).batches()) == whole[:3000]


def test_long_texts_cause_no_warning(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    logger = transformers.utils.logging.get_logger("transformers")
    logger.addHandler(caplog.handler)
    try:
        tokenizer.deprecation_warnings = {}
        plan_text(corpus()[0], tokenizer)
    finally:
        logger.removeHandler(caplog.handler)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "more than white space, got 1 blank"),
        (" \n\t", "more than white space, got 1 blank"),
        ([], "more than white space, got 0 blank"),
        (["", " "], "more than white space, got 2 blank"),
        (["one", 2], r"text\[1\] must be a string, got int"),
        (["one", None], r"text\[1\] must be a string, got NoneType"),
        (b"bytes", "list of strings or a Path, got bytes"),
        (None, "list of strings or a Path, got NoneType"),
        ({"text": "a"}, "list of strings or a Path, got dict"),
    ],
)
def test_what_is_no_text_is_refused(text: Any, message: str, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=message):
        plan_text(text, tokenizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 0}, "max_length must be an integer of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"batch_size": None}, "batch_size must be an integer of at least 1, got None"),
        ({"model_context": -1}, "model_context must be an integer of at least 1, got -1"),
        ({"max_length": 1}, "max_length must leave room beside 1 special tokens, got 1"),
        ({"vocab_size": 10}, r"token ids must be in \[0, 9\], .*is this the tokenizer of this model"),
        ({"policy": KEEP_PADDING}, 'text needs padding="drop"'),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=message):
        plan_text("some text", tokenizer, **options)


def test_text_without_a_tokenizer_or_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="text needs the tokenizer of the model, got NoneType"):
        plan_text("text", None)

    class Deaf(WordTokenizer):
        def __call__(self, *_: Any, **__: Any) -> dict[str, list[int]]:
            return {"input_ids": []}

    with pytest.raises(ValueError, match="text must give at least one token, got none from 1"):
        plan_text("text", Deaf())


# --- files ---


def test_a_file_is_one_document_and_jsonl_has_many(tmp_path: Path, tokenizer: Any) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_bytes("\ufeffnaïve\r\ntext".encode())
    assert read_text(plain) == ["naïve\r\ntext"]
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"text": "one\\u2028two"}\n\n{"text": "three", "id": 3}\n', "utf-8")
    assert read_text(lines) == ["one\u2028two", "three"]
    assert plan_text(lines, tokenizer).n_documents == 2


BAD_FILES = {
    "blank.txt": (b" \n", "more than white space"),
    "empty.txt": (b"", "more than white space, got .*empty.txt of 0 characters"),
    "latin.txt": (b"na\xefve", "text must be UTF-8, got .*latin.txt with an invalid byte at 2"),
    "broken.jsonl": (b'{"text": "a"}\n{"text"', r"broken.jsonl:2 must be a JSON object, got"),
    "other.jsonl": (b'{"content": "a"}', 'other.jsonl:1 must be a JSON object with a string "text"'),
    "list.jsonl": (b"[1]", 'list.jsonl:1 must be a JSON object with a string "text"'),
    "none.jsonl": (b"", "more than white space"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_in_one_sentence(name: str, tmp_path: Path, tokenizer: Any) -> None:
    content, message = BAD_FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        plan_text(path, tokenizer)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"text must be an existing file, got .*nothing\.txt"):
        read_text(tmp_path / "nothing.txt")
    with pytest.raises(ValueError, match="text must be a file, got the folder"):
        read_text(tmp_path)


def test_the_demo_text_is_the_corpus() -> None:
    assert demo_text() == corpus()
