"""Long text as one stream, cut into full chunks, and bits per byte."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repgeom.demo import corpus
from repgeom.text import TextPlan, plan_text
from repgeom.tokens import TokenBatch
from token_batches import DROP_SPECIAL, POLICIES, stream

TEXTS = ["One two.", " \n", "Names refer to objects. " * 40, "naïve — text", "A class."] * 3
SEPARATOR = "<|endoftext|>"


class Plain:
    """A tokenizer that puts nothing around a text, as GPT-2's and Pythia's; the demo's adds BOS."""

    model_max_length = 10**30

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.all_special_ids = tokenizer.all_special_ids
        self.eos_token = tokenizer.eos_token

    def __call__(self, text: str, *, add_special_tokens: bool, **options: Any) -> Any:
        assert isinstance(add_special_tokens, bool)
        return self.tokenizer(text, add_special_tokens=False, **options)


def joined(tokenizer: Any, texts: list[str]) -> tuple[list[int], str]:
    """The stream as tuned-lens makes it of one batch of documents: joined, then tokenized at once."""
    text = "".join(SEPARATOR + document for document in texts if document.strip())
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], text


def check(plan: TextPlan) -> list[TokenBatch]:
    batches = list(plan.batches())
    assert [tuple(batch.token_ids.shape) for batch in batches] == plan.batch_shapes
    assert sum(batch.n_tokens for batch in batches) == plan.n_tokens
    assert all("attention_mask" not in batch.kwargs and bool(batch.real.all()) for batch in batches)
    assert plan.n_padding == 0
    return batches


@pytest.mark.parametrize("max_length", [8, 50])
@pytest.mark.parametrize("keep_last", [False, True])
def test_chunks_are_those_of_the_joined_text(tokenizer: Any, max_length: int, keep_last: bool) -> None:
    options = {"batching": "chunk", "max_length": max_length, "keep_last": keep_last}
    plan = plan_text(TEXTS, Plain(tokenizer), **options)
    ids, text = joined(tokenizer, TEXTS)
    full = len(ids) - len(ids) % max_length
    assert len(ids) != full, "the last chunk must be incomplete for this test"
    assert stream(iter(check(plan))) == plan.ids.tolist() == (ids if keep_last else ids[:full])
    lengths = [max_length] * (full // max_length) + [len(ids) - full] * keep_last
    assert plan.lengths.tolist() == lengths
    # Tokens and bytes of all text, as tuned-lens counts them; separators are in both.
    assert plan.bits_per_byte_ratio == len(ids) / len(text.encode()) / math.log(2)


def test_special_tokens_stand_around_chunks(tokenizer: Any) -> None:
    plan = plan_text(TEXTS, tokenizer, batching="chunk", max_length=9)
    ids, text = joined(tokenizer, TEXTS)
    rows = plan.ids.reshape(-1, 9)
    assert rows[:, 0].unique().tolist() == [tokenizer.bos_token_id]
    assert rows[:, 1:].flatten().tolist() == ids[: len(ids) - len(ids) % 8]
    # They are no text.
    assert plan.bits_per_byte_ratio == len(ids) / len(text.encode()) / math.log(2)


def test_the_ratio_makes_nats_per_token_into_bits_per_byte(tokenizer: Any) -> None:
    text = "Bits per byte can be compared between tokenizers."
    plan = plan_text(text, tokenizer)
    n_tokens = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    nats = torch.rand(n_tokens, dtype=torch.float64)
    bits_per_byte = float(nats.sum()) / math.log(2) / len(text.encode())
    assert float(nats.mean()) * plan.bits_per_byte_ratio == pytest.approx(bits_per_byte, rel=1e-12)
    assert plan.bits_per_byte_ratio == plan_text(text, Plain(tokenizer)).bits_per_byte_ratio
    assert math.isnan(plan_text(text, tokenizer, max_tokens=0).bits_per_byte_ratio)


@pytest.mark.parametrize("batching", ["order", "bucketed", "chunk"])
def test_the_ratio_hardly_depends_on_the_budget(tokenizer: Any, batching: str) -> None:
    text = "\n".join(corpus())[:200_000]
    options = {"batching": batching, "max_length": 64}
    whole = plan_text(text, tokenizer, **options)
    n_bytes = len(text.encode()) + (len(SEPARATOR) if batching == "chunk" else 0)
    assert whole.n_text_bytes == n_bytes
    part = plan_text(text, tokenizer, **options, max_tokens=3000)
    assert part.n_text_bytes < n_bytes / 2
    assert part.bits_per_byte_ratio == pytest.approx(whole.bits_per_byte_ratio, rel=0.1)
    pieces = plan_text([text[:5000], text[5000:]], tokenizer, batching=batching, max_tokens=100)
    assert pieces.n_documents == 1


@settings(max_examples=60, deadline=None)
@given(
    budget=st.integers(1, 400),
    batch_size=st.integers(1, 9),
    options=st.fixed_dictionaries(
        {
            "batching": st.just("chunk"),
            "max_length": st.integers(5, 40),
            "keep_last": st.booleans(),
            "policy": POLICIES,
        }
    ),
)
def test_budgets_are_met_exactly(
    tokenizer: Any, budget: int, batch_size: int, options: dict[str, Any]
) -> None:
    whole = plan_text(TEXTS, tokenizer, **options, batch_size=1)
    tokens = stream(iter(check(whole)))
    plan = plan_text(TEXTS, tokenizer, **options, batch_size=batch_size, max_tokens=budget)
    assert plan.n_tokens == min(budget, len(tokens))
    assert stream(iter(check(plan))) == tokens[:budget]
    assert torch.equal(plan.ids, whole.ids[: len(plan.ids)])
    assert (plan.lengths[:-1] == plan.max_length).all()


def test_chunks_know_their_documents() -> None:
    class Words:
        """Words are numbers; the separator is 0."""

        all_special_ids = (0,)
        eos_token = " 0 "

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [int(word) for word in text.split()]}

    texts = ["1", "2 3 4 5 6", "", "7", "8", "9 10 11 12"]
    plan = plan_text(texts, Words(), batching="chunk", max_length=4)
    assert plan.ids.reshape(-1, 4).tolist() == [[0, 1, 0, 2], [3, 4, 5, 6], [0, 7, 0, 8], [0, 9, 10, 11]]
    assert plan.documents.tolist() == [0, 1, 3, 5]
    assert plan.n_documents == 5
    for budget, n_documents in ((1, 1), (2, 1), (3, 2), (8, 2), (9, 3), (10, 3), (11, 4), (13, 5)):
        plan = plan_text(texts, Words(), batching="chunk", max_length=4, max_tokens=budget)
        assert (plan.n_tokens, plan.n_documents) == (budget, n_documents)
    plan = plan_text(texts, Words(), batching="chunk", max_length=4, policy=DROP_SPECIAL)
    assert stream(plan.batches()) == list(range(1, 12))


def test_a_separator_that_is_no_token_stays_by_its_document(tokenizer: Any) -> None:
    plain = Plain(tokenizer)
    plain.eos_token = None
    plan = plan_text(TEXTS, plain, batching="chunk", max_length=10)
    assert plan.ids[0] == tokenizer.convert_tokens_to_ids(SEPARATOR)
    plain.eos_token = "<eod>"
    plan = plan_text(TEXTS, plain, batching="chunk", max_length=10, keep_last=True)
    parts = [tokenizer("<eod>" + t, add_special_tokens=False)["input_ids"] for t in TEXTS if t.strip()]
    assert plan.ids.tolist() == [token for part in parts for token in part]


def test_a_small_budget_does_not_read_many_documents(tokenizer: Any) -> None:
    class Counting(Plain):
        n_characters = 0

        def __call__(self, text: str, **options: Any) -> Any:
            self.n_characters += len(text)
            return super().__call__(text, **options)

    counting = Counting(tokenizer)
    few = plan_text(corpus(), counting, batching="chunk", max_length=64, max_tokens=500)
    assert few.n_tokens == 500
    assert counting.n_characters < sum(map(len, corpus())) / 10


def test_text_that_fills_no_chunk_is_refused(tokenizer: Any) -> None:
    n = len(joined(tokenizer, ["short text"])[0])
    with pytest.raises(
        ValueError, match=rf"fill at least one chunk of 100 tokens \(max_length\), got {n} tokens"
    ):
        plan_text("short text", tokenizer, batching="chunk", max_length=100)
    assert (
        plan_text("short text", tokenizer, batching="chunk", max_length=100, keep_last=True).n_sequences == 1
    )
    assert plan_text("short text", tokenizer, batching="chunk", max_length=100, max_tokens=0).n_sequences == 0
