"""Text becomes batches with an exact budget, and no token is lost."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from repgeom.demo import MODEL_DIR, corpus
from repgeom.documents import demo_text, read_text
from repgeom.text import TextPlan, plan_text
from repgeom.tokens import TokenBatch, TokenPolicy
from token_batches import DROP_SPECIAL, KEEP_PADDING, POLICIES, kept, stream

TEXTS = ["One.", "A class definition is an executable statement.", "  \n ", "Names refer to objects. " * 40]


class WordTokenizer:
    """BERT-like: [CLS] words [SEP], no pad token; a word is its number."""

    all_special_ids = (101, 102)
    model_max_length = 10**30

    def __call__(self, text: str, *, add_special_tokens: bool, verbose: bool) -> dict[str, list[int]]:
        assert not verbose
        ids = [int(word) for word in text.split()]
        return {"input_ids": [101, *ids, 102] if add_special_tokens else ids}


# --- plan_text ---


def check(plan: TextPlan) -> list[TokenBatch]:
    """What holds for every plan; its batches."""
    batches = list(plan.batches())
    assert len(batches) == plan.n_batches
    assert sum(batch.n_tokens for batch in batches) == plan.n_tokens
    assert sum(batch.n_padding for batch in batches) == plan.n_padding
    assert [tuple(batch.token_ids.shape) for batch in batches] == plan.batch_shapes
    numbers = torch.cat([batch.sequence_ids for batch in batches]).tolist()
    assert sorted(numbers) == list(range(plan.n_sequences))
    assert plan.batching == "bucketed" or numbers == sorted(numbers)
    assert plan.longest == max(plan.lengths) <= plan.max_length
    for batch in batches:
        masks = torch.stack([batch.keep, *batch.dropped.values()])
        assert torch.equal(masks.sum(dim=0), batch.real.long())
        for number, ids, real in zip(batch.sequence_ids, batch.token_ids, batch.real, strict=True):
            assert torch.equal(ids[real], plan.ids[plan.offsets[number] : plan.offsets[number + 1]])
    return batches


def by_sequence(plan: TextPlan) -> dict[int, list[int]]:
    """The tokens that count, by the number of their sequence."""
    pairs = [zip(batch.sequence_ids.tolist(), kept(batch), strict=True) for batch in check(plan)]
    return dict(sorted(pair for batch in pairs for pair in batch))


def in_order(plan: TextPlan) -> list[int]:
    return [token for row in by_sequence(plan).values() for token in row]


@settings(max_examples=60, deadline=None)
@given(
    size=st.fixed_dictionaries(
        {
            "batch_size": st.integers(1, 9),
            "equal_lengths": st.booleans(),
            "batching": st.sampled_from(["order", "bucketed"]),
        }
    ),
    max_length=st.integers(4, 40),
    budget=st.integers(1, 400),
    policy=POLICIES,
)
def test_the_budget_is_met_exactly_whatever_the_batches(
    tokenizer: Any, size: dict[str, Any], max_length: int, budget: int, policy: TokenPolicy
) -> None:
    options = {"max_length": max_length, "policy": policy}
    whole = stream(plan_text(TEXTS, tokenizer, **options, batch_size=1).batches())
    plan = plan_text(TEXTS, tokenizer, **options, **size, max_tokens=budget)
    assert plan.n_tokens == min(budget, len(whole))
    assert in_order(plan) == whole[:budget]
    assert all(len(batch.sequence_ids) <= size["batch_size"] for batch in plan.batches())
    alone = plan_text(TEXTS, tokenizer, **options, max_tokens=budget)
    assert by_sequence(plan) == by_sequence(alone)
    assert plan.n_documents == len(set(plan.documents.tolist()))


def test_a_budget_in_front_of_what_does_not_count_stops_there(tokenizer: Any) -> None:
    repeated = ["one two three"] * 3 + ["one two four"]
    policy = TokenPolicy(duplicates="drop")
    n = len(tokenizer("one two three")["input_ids"])
    plan = plan_text(repeated, tokenizer, policy=policy, max_tokens=n)
    assert (plan.n_sequences, plan.n_tokens) == (1, n)
    plan = plan_text(repeated, tokenizer, policy=policy)
    assert plan.n_sequences == 4
    assert plan.dropped["duplicate"].sum() > 2 * n
    assert plan.n_tokens + int(plan.dropped["duplicate"].sum()) == len(plan.ids)
    assert kept(check(plan)[0])[1:3] == [[], []]
    assert stream(plan.batches())[n:] == tokenizer("one two four")["input_ids"][-plan.n_tokens + n :]


def test_duplicates_have_the_activations_of_the_first(tokenizer: Any) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL_DIR).eval()
    texts = ["one two three four", "one two", "one two three five", "six"]
    plan = plan_text(texts, tokenizer, policy=TokenPolicy(duplicates="drop"), batch_size=3)
    first: dict[tuple[int, ...], Any] = {}
    n_compared = 0
    for batch in plan.batches():
        with torch.no_grad():
            states = model(**batch.kwargs, output_hidden_states=True).hidden_states[-1]
        for row, place in batch.real.nonzero().tolist():
            prefix = tuple(batch.token_ids[row, : place + 1].tolist())
            if batch.dropped["duplicate"][row, place]:
                torch.testing.assert_close(states[row, place], first[prefix], rtol=1e-5, atol=1e-5)
                n_compared += 1
            else:
                assert prefix not in first
                first[prefix] = states[row, place]
    assert n_compared == len(plan.ids) - plan.n_tokens > 5


def test_the_first_positions_are_those_of_windows() -> None:
    plan = plan_text("1 2 3 4 5", WordTokenizer(), max_length=4, policy=TokenPolicy("drop", "drop", first=2))
    assert [kept(batch) for batch in check(plan)] == [[[2], [4], []]]
    assert plan.dropped["special"].tolist() == [True, False, False, True] * 2 + [True, False, True]
    assert plan.dropped["first"].tolist() == [False, True, False, False] * 2 + [False, True, False]


def test_a_policy_that_leaves_nothing_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"token that counts, got \d+ tokens: \d+ first"):
        plan_text(TEXTS, tokenizer, max_length=16, policy=TokenPolicy(first=16))
    with pytest.raises(ValueError, match="got 3 tokens: 2 special, 1 first, 0 duplicate"):
        plan_text("7", WordTokenizer(), policy=TokenPolicy("drop", "drop", first=2, duplicates="drop"))


def test_buckets_need_less_padding_for_the_same_tokens(tokenizer: Any) -> None:
    texts = [" word" * (1 + 7 * i % 23) for i in range(60)]
    plan = plan_text(texts, tokenizer, batch_size=4)
    bucketed = plan_text(texts, tokenizer, batch_size=4, batching="bucketed")
    assert by_sequence(bucketed) == by_sequence(plan)
    assert replace(bucketed, batching="order").n_padding == plan.n_padding
    assert bucketed.n_padding < plan.n_padding / 5
    shapes = bucketed.batch_shapes
    assert shapes == sorted(shapes, key=lambda shape: -shape[1])
    # Sequences of one length stay in their order.
    assert torch.equal(bucketed.order, bucketed.lengths.argsort(descending=True, stable=True))


def test_buckets_of_equal_lengths_are_full(tokenizer: Any) -> None:
    texts = [" word" * (1 + i % 3) for i in range(30)]
    plan = plan_text(texts, tokenizer, batch_size=4, equal_lengths=True, batching="bucketed")
    assert plan.n_padding == 0
    assert [rows for rows, _ in plan.batch_shapes] == [4, 4, 2] * 3
    assert all("attention_mask" not in batch.kwargs for batch in check(plan))
    assert plan_text(texts, tokenizer, batch_size=4, equal_lengths=True).n_batches == 30


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


@pytest.mark.parametrize("budget", [-1, 1.5, True, "9"])
def test_a_bad_budget_is_refused(budget: Any, tokenizer: Any) -> None:
    message = re.escape(f"max_tokens must be an integer of at least 0, got {budget!r}")
    with pytest.raises(ValueError, match=message):
        plan_text("text", tokenizer, max_tokens=budget)


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
        ({"policy": TokenPolicy(labels="require")}, 'text needs labels="ignore"'),
        ({"batching": "random"}, r"batching must be one of \('order', 'bucketed', 'chunk'\), got 'random'"),
        ({"keep_last": True}, "keep_last needs .*, got batching='order'"),
        ({"keep_last": True, "batching": "bucketed"}, 'keep_last needs batching="chunk"'),
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
