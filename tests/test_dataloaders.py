"""Dataloaders become batches in which exactly the real tokens are marked."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import model_families
from repgeom.dataloaders import forward_signature, iter_dataloader
from repgeom.demo import MODEL_DIR
from repgeom.tokens import UNLABELED, TokenPolicy
from token_batches import DROP_SPECIAL, KEEP_PADDING, PAD, POLICIES, TOKEN_ROWS, kept, read, rows

# --- forms ---


@settings(deadline=None)
@given(TOKEN_ROWS, st.sampled_from(["left", "right", "middle"]))
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


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=7), min_size=1, max_size=9),
    POLICIES,
    st.sampled_from(["left", "right", "middle"]),
)
def test_any_batch_size_and_padding_drops_the_same_positions(
    tokens: list[list[int]], policy: TokenPolicy, side: str
) -> None:
    tokens = [*tokens, [50] * 4]  # Something that counts.
    streams = []
    for size in (1, 2, 10):
        found = []
        loader = [rows(*tokens[i : i + size], side=side, width=8) for i in range(0, len(tokens), size)]
        for batch in iter_dataloader(loader, policy=policy, special_ids=[0]):
            masks = torch.stack([batch.keep, *batch.dropped.values()])
            assert torch.equal(masks.sum(dim=0), batch.real.long())
            assert batch.n_tokens == batch.keep.sum()
            found += [masks[:, row, real].tolist() for row, real in enumerate(batch.real)]
        streams.append(found)
    assert streams[0] == streams[1] == streams[2]


def test_a_batch_encoding_and_a_torch_dataloader_are_read() -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL_DIR)
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


@pytest.mark.parametrize(("shape", "n"), [((5,), 5), ((2, 3), 2), ((2, 3, 4), 6), ((2, 3, 4, 5), 6)])
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
    raw = (torch.arange(4).reshape(2, 2), {"nested": [torch.zeros(2), "name"]})
    batch = read(raw, policy=TokenPolicy(first=1)).to("meta")
    assert batch.args[0].is_meta
    assert batch.args[1]["nested"][0].is_meta
    assert batch.args[1]["nested"][1] == "name"
    assert batch.keep.is_meta
    assert batch.real.is_meta
    assert batch.dropped["first"].is_meta
    assert batch.token_ids.is_meta
    assert batch.sequence_ids.is_meta
    assert batch.n_tokens == 2


# --- budget and policy ---


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


def test_a_batch_says_why_positions_do_not_count() -> None:
    labels = torch.tensor([[1, 1, 1, UNLABELED], [1, 1, 1, 1]])
    raw = rows([0, 5, 6, 7], [0, 5, 6], side="left") | {"labels": labels}
    policy = TokenPolicy(special_tokens="drop", first=2, labels="require", duplicates="drop")
    batch = read(raw, policy=policy, special_ids=[0])
    assert list(batch.dropped) == ["special", "first", "unlabeled", "duplicate"]
    found = {reason: where.int().tolist() for reason, where in batch.dropped.items()}
    assert found == {
        "special": [[1, 0, 0, 0], [1, 0, 0, 0]],
        "first": [[0, 1, 0, 0], [0, 1, 0, 0]],
        "unlabeled": [[0, 0, 0, 1], [0, 0, 0, 0]],
        "duplicate": [[0, 0, 0, 0], [0, 0, 1, 0]],
    }
    assert kept(batch) == [[6], []]
    assert batch.real.int().tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert read(raw).dropped == {}


def test_keeping_padding_counts_it_as_positions() -> None:
    policy = TokenPolicy(padding="keep", special_tokens="drop", first=1)
    batch = read(rows([1, 2], [3], side="left", width=3), policy=policy, special_ids=[PAD])
    assert batch.dropped["special"].int().tolist() == [[1, 0, 0], [1, 1, 0]]
    assert not bool(batch.dropped["first"].any())
    assert batch.real.int().tolist() == [[0, 1, 1], [0, 0, 1]]
    assert kept(batch) == [[1, 2], [3]]


def test_duplicates_are_known_by_what_the_model_reads() -> None:
    policy = TokenPolicy(duplicates="drop")
    twice = [rows([1, 2]), rows([1, 2, 3])]
    assert [kept(batch) for batch in iter_dataloader(twice, policy=policy)] == [[[1, 2]], [[3]]]
    moved = [
        batch | {"position_ids": torch.arange(2, 2 + 2 * len(batch["input_ids"][0]), 2)[None]}
        for batch in twice
    ]
    moved[0]["position_ids"] = torch.tensor([[2, 5]])
    assert [kept(batch) for batch in iter_dataloader(moved, policy=policy)] == [[[1, 2]], [[2, 3]]]
    flags = [batch | {"output_router_logits": False} for batch in twice]
    assert [batch.n_tokens for batch in iter_dataloader(flags, policy=policy)] == [2, 1]
    assert [batch.n_tokens for batch in iter_dataloader([b["input_ids"] for b in twice], policy=policy)] == [
        2,
        1,
    ]
    half = [{name: value.int() for name, value in batch.items()} for batch in twice]
    assert [batch.n_tokens for batch in iter_dataloader([twice[0], half[1]], policy=policy)] == [2, 1]


# --- errors ---

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


POLICY_ERRORS = {
    "no labels": (GOOD, {"labels": "require"}, "needs a tensor of labels, got none"),
    "label list": (GOOD | {"labels": [1]}, {"labels": "require"}, "needs a tensor of labels, got list"),
    "label shape": (
        GOOD | {"labels": torch.ones(2, dtype=torch.long)},
        {"labels": "require"},
        r"labels must be integers in the input's shape \[2, 2\], got torch.int64 \[2\]",
    ),
    "label dtype": (GOOD | {"labels": torch.ones(2, 2)}, {"labels": "require"}, "got torch.float32"),
    "decoder labels": (
        GOOD | {"decoder_input_ids": IDS, "labels": IDS},
        {"labels": "require"},
        'needs stream="decoder"',
    ),
    "ids alone": (IDS, {"labels": "require"}, "needs a tensor of labels, got none"),
    "pixels": (
        {"pixel_values": torch.zeros(2, 3, 4, 4)},
        {"first": 1},
        "first positions needs .* got pixel_values",
    ),
    "floats": (
        torch.zeros(2, 3, 4),
        {"first": 1},
        r"drops first positions needs .* got a tensor \[2, 3, 4\]",
    ),
    "embeddings": (
        {"inputs_embeds": torch.zeros(2, 3, 4)},
        {"duplicates": "drop"},
        "drops duplicate positions needs input_ids, got inputs_embeds",
    ),
    "image": (
        GOOD | {"pixel_values": torch.zeros(2, 3, 4, 4)},
        {"duplicates": "drop"},
        "from the token ids alone, got pixel_values",
    ),
    "shared positions": (
        GOOD | {"position_ids": torch.arange(3)},
        {"duplicates": "drop"},
        "got position_ids",
    ),
    "arguments": ((IDS, torch.zeros(2)), {"duplicates": "drop"}, "got positional arguments"),
}


@pytest.mark.parametrize(("batch", "fields", "message"), POLICY_ERRORS.values(), ids=POLICY_ERRORS)
def test_a_batch_that_lacks_what_the_policy_goes_by_is_refused(
    batch: Any, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"batch 0: .*{message}"):
        read(batch, policy=TokenPolicy(**fields))


def test_a_policy_that_leaves_nothing_is_refused_at_the_end() -> None:
    batches = iter_dataloader([GOOD, GOOD], policy=TokenPolicy(first=2))
    assert [next(batches).n_tokens for _ in range(2)] == [0, 0]
    with pytest.raises(ValueError, match=r"position that counts .* got none in 4 sequences"):
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
def test_a_bad_budget_is_refused(budget: Any) -> None:
    message = re.escape(f"max_tokens must be an integer of at least 0, got {budget!r}")
    with pytest.raises(ValueError, match=message):
        iter_dataloader([GOOD], max_tokens=budget)


def test_tuples_that_a_mask_would_be_lost_in_are_refused():
    class Custom(torch.nn.Module):
        def forward(self, tokens, mask=None):
            return tokens if mask is None else tokens * mask

    ids, mask = torch.ones(2, 4, dtype=torch.int64), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    signature = forward_signature(Custom())
    with pytest.raises(ValueError, match=r"a mask is understood beside input_ids.*got mask with zeros"):
        list(iter_dataloader([(ids, mask)], signature=signature))
    assert len(list(iter_dataloader([(ids, torch.ones_like(mask))], signature=signature))) == 1


def test_a_mask_in_the_place_of_a_cache_is_refused():
    ids = torch.ones(2, 4, dtype=torch.int64)
    signature = forward_signature(model_families.build("gpt2"))
    with pytest.raises(ValueError, match="pass a mapping, got a tensor for past_key_values"):
        list(iter_dataloader([(ids, torch.ones_like(ids))], signature=signature))
