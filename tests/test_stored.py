"""Stored activations: every kind of source against the whole array, alignment, annotations, bad input."""

from __future__ import annotations

import dataclasses
import itertools
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from repgeom.shards import file_shard, natural_key
from repgeom.stored import StoredActivations, StoredBatch
from repgeom.vllm import open_vllm


def rows(n: int, d: int = 3, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator).to(dtype)


def whole(stored: StoredActivations, batch_tokens: int = 5) -> dict[str, Tensor]:
    """All rows of all batches, after checks of the batches themselves."""
    found: dict[str, list[Tensor]] = {name: [] for name in stored.layers}
    for batch in stored.batches(batch_tokens):
        check(batch, stored, batch_tokens)
        for name, part in batch.rows.items():
            found[name].append(part.clone())
    return {name: torch.cat(parts) for name, parts in found.items()}


def check(batch: StoredBatch, stored: StoredActivations, batch_tokens: int) -> None:
    assert 0 < len(batch) <= batch_tokens
    assert {name: part.shape for name, part in batch.rows.items()} == {
        name: (len(batch), width) for name, width in stored.layers.items()
    }
    for ids in (batch.sequence_ids, batch.positions):
        assert (ids.dtype, ids.shape) == (torch.int64, (len(batch),))


def column(stored: StoredActivations, name: str, batch_tokens: int = 5) -> list[int]:
    parts = [getattr(batch, name).clone() for batch in stored.batches(batch_tokens)]
    return torch.cat(parts).tolist()


def cut(array: Tensor, cuts: list[int]) -> list[Tensor]:
    bounds = [0, *sorted(min(c, len(array)) for c in cuts), len(array)]
    return [array[a:b] for a, b in itertools.pairwise(bounds)]


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 40),
    cuts=st.lists(st.lists(st.integers(0, 40), max_size=5), min_size=3, max_size=3),
    batch_tokens=st.integers(1, 17),
    hidden=st.sets(st.integers(0, 39), max_size=30),
)
def test_layers_cut_differently_advance_in_step(n, cuts, batch_tokens, hidden):
    arrays = [rows(n, 2 + layer, seed=layer) for layer in range(3)]
    mask = torch.tensor([i not in hidden for i in range(n)])
    sources = {
        0: cut(arrays[0], cuts[0]),
        1: (part.numpy() for part in cut(arrays[1], cuts[1])),
        2: iter(cut(arrays[2], cuts[2])),
    }
    stored = StoredActivations(sources, mask=mask, token_ids=torch.arange(n), labels=torch.arange(n) / 2)
    assert stored.n_tokens == int(mask.sum())
    seen: list[StoredBatch] = list(stored.batches(batch_tokens))
    for layer, array in enumerate(arrays):
        parts = [batch.rows[f"layer_{layer:02d}"] for batch in seen]
        assert torch.equal(torch.cat([array[:0], *parts]), array[mask])
    ids = [i for batch in seen for i in batch.token_ids.tolist()]
    assert ids == [i for i in range(n) if i not in hidden]
    assert [x for batch in seen for x in batch.labels.tolist()] == [i / 2 for i in ids]
    assert all(len(batch) for batch in seen)


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(12, 3), (3, 4, 3), (1, 12, 3), (12, 1, 3)])
def test_arrays_in_memory_come_back_in_their_dtype(dtype, shape):
    array = rows(12, dtype=dtype)
    stored = StoredActivations({"a": array.reshape(shape)})
    for batch_tokens in (1, 3, 5, 12, 100):
        found = whole(stored, batch_tokens)["a"]
        assert found.dtype == dtype
        assert torch.equal(found, array)


class Foreign:
    """An array that only speaks DLPack."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        return self._tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._tensor.__dlpack_device__()


def test_numpy_of_any_layout_and_dlpack():
    array = np.random.default_rng(0).standard_normal((12, 3))
    read_only = array.copy()
    read_only.flags.writeable = False
    sources = {
        "plain": array,
        "fortran": np.asfortranarray(array),
        "backwards": array[::-1].copy()[::-1],
        "strided": np.repeat(array, 2, axis=0)[::2],
        "read_only": read_only,
        "big_endian": array.astype(">f8"),
        "dlpack": Foreign(torch.from_numpy(array)),
        "graph": torch.from_numpy(array).requires_grad_(),
    }
    for name, found in whole(StoredActivations(sources)).items():
        np.testing.assert_array_equal(found.numpy(), array, err_msg=name)


def test_an_array_in_memory_is_not_copied():
    array = rows(10)
    (batch,) = StoredActivations({0: array}).batches(10)
    assert batch.rows["layer_00"].data_ptr() == array.data_ptr()


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("shape", [(12, 3), (3, 4, 3)])
def test_npy_files(tmp_path, dtype, fortran, shape):
    array = rows(12).numpy().reshape(shape).astype(dtype)
    np.save(tmp_path / "x.npy", np.asfortranarray(array) if fortran else array)
    stored = StoredActivations({"x": tmp_path / "x.npy"})
    found = whole(stored)["x"]
    assert stored.n_rows == 12
    np.testing.assert_array_equal(found.numpy(), array.reshape(12, 3))
    assert stored.files == {"x": (str(tmp_path / "x.npy"),)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(12, 3), (3, 4, 3)])
def test_safetensors_files(tmp_path, dtype, shape):
    array, other = rows(12, dtype=dtype), rows(12, 5, seed=1)
    save_file({"a": array.reshape(shape), "b": other}, tmp_path / "two.safetensors")
    save_file({"only": array.reshape(shape)}, tmp_path / "one.safetensors")
    two, one = (str(tmp_path / f"{name}.safetensors") for name in ("two", "one"))
    found = whole(StoredActivations({"a": f"{two}:a", "b": Path(f"{two}:b"), "only": one}))
    assert torch.equal(found["a"], array)
    assert torch.equal(found["b"], other)
    assert torch.equal(found["only"], array)
    assert found["a"].dtype == dtype


def test_shards_of_a_folder_and_a_glob_sort_as_numbers(tmp_path):
    array = rows(24)
    for part in range(12):
        np.save(tmp_path / f"part-{part}.npy", array[2 * part : 2 * part + 2].numpy())
    order = tuple(str(tmp_path / f"part-{part}.npy") for part in range(12))
    pattern = str(tmp_path / "part-*.npy")
    stored = StoredActivations({"folder": tmp_path, "glob": pattern, "list": list(reversed(order))})
    assert stored.files == {"folder": order, "glob": order, "list": order[::-1]}
    found = whole(stored)
    assert torch.equal(found["folder"], array)
    assert torch.equal(found["glob"], array)
    assert torch.equal(found["list"], array.reshape(12, 2, 3).flip(0).reshape(24, 3))


def test_a_key_may_follow_a_glob(tmp_path):
    array = rows(6)
    for part in range(2):
        tensors = {"h": array[3 * part : 3 * part + 3].clone(), "other": rows(1, 7)}
        save_file(tensors, tmp_path / f"{part}.safetensors")
    stored = StoredActivations({"h": f"{tmp_path}/*.safetensors:h"})
    assert torch.equal(whole(stored)["h"], array)


def test_natural_order():
    names = ["a10", "a9", "a09", "b1", "a1x2", "a1x10", "a"]
    assert sorted(names, key=natural_key) == ["a", "a1x2", "a1x10", "a09", "a9", "a10", "b1"]


def test_batches_can_be_read_again_unless_the_source_is_an_iterator(tmp_path):
    np.save(tmp_path / "x.npy", rows(7).numpy())

    class Again:
        def __iter__(self) -> Iterator[Tensor]:
            return iter(cut(rows(7), [3]))

    stored = StoredActivations({"file": tmp_path / "x.npy", "list": cut(rows(7), [2]), "again": Again()})
    first, second = whole(stored), whole(stored, 3)
    for name in first:
        assert torch.equal(first[name], rows(7))
        assert torch.equal(second[name], rows(7))
    once = StoredActivations({"a": rows(7), "b": iter([rows(7)])})
    assert torch.equal(whole(once)["b"], rows(7))
    with pytest.raises(RuntimeError, match=r"^b: an iterator can be read only once, and was; give a list"):
        once.batches()


def test_an_iterable_may_reuse_its_buffer():
    array, buffer = rows(10), torch.empty(2, 3)

    def produce() -> Iterator[Tensor]:
        for start in range(0, 10, 2):
            yield buffer.copy_(array[start : start + 2])

    assert torch.equal(whole(StoredActivations({0: produce()}), 10)["layer_00"], array)


def test_sequences_and_positions_follow_the_axes():
    three = rows(12).reshape(3, 4, 3)
    stored = StoredActivations({"flat": rows(12), "cut": [three[:1], three[1:]]})
    assert column(stored, "sequence_ids") == [0] * 4 + [1] * 4 + [2] * 4
    assert column(stored, "positions") == [0, 1, 2, 3] * 3
    ragged = StoredActivations({0: [rows(2).reshape(1, 2, 3), rows(3).reshape(1, 3, 3), rows(2)]})
    assert column(ragged, "sequence_ids") == [0, 0, 1, 1, 1, -1, -1]
    assert column(ragged, "positions") == [0, 1, 0, 1, 2, -1, -1]
    given_ids = StoredActivations({0: three}, sequence_ids=range(12), positions=np.arange(12)[::-1])
    assert column(given_ids, "sequence_ids") == [*range(12)]
    assert column(given_ids, "positions") == [*range(11, -1, -1)]
    assert next(given_ids.batches()).token_ids is None


def test_layers_that_disagree_about_their_sequences_are_refused():
    stored = StoredActivations({"a": rows(6).reshape(2, 3, 3), "b": rows(6).reshape(3, 2, 3)})
    message = "same sequences, got position 2 of sequence 0 in a where b has position 0 of sequence 1"
    with pytest.raises(ValueError, match=message):
        list(stored.batches())


def test_padding_is_left_out_by_a_mask_of_the_batch():
    hidden = rows(12).reshape(3, 4, 3)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    padded = torch.where(torch.from_numpy(mask)[..., None] == 1, hidden, torch.nan)
    ids = torch.arange(12).reshape(3, 4)
    stored = StoredActivations({0: padded}, mask=mask, token_ids=ids)
    kept = [0, 1, 4, 5, 6, 7]
    assert stored.n_tokens == 6
    assert stored.n_rows == 12
    assert torch.equal(whole(stored, 2)["layer_00"], hidden.reshape(12, 3)[kept])
    assert column(stored, "token_ids", 2) == kept
    assert column(stored, "positions", 2) == [0, 1, 0, 1, 2, 3]
    assert column(stored, "sequence_ids", 2) == [0, 0, 1, 1, 1, 1]
    assert list(StoredActivations({0: hidden}, mask=np.zeros(12)).batches()) == []


@pytest.mark.parametrize(
    ("keys", "names", "indices"),
    [
        ([3, np.int64(0)], ["layer_03", "layer_00"], [3, 0]),
        (["layer_03", "layer_10"], ["layer_03", "layer_10"], [3, 10]),
        (["resid_pre.2", "resid_pre.5"], ["resid_pre.2", "resid_pre.5"], [2, 5]),
        (["embed", "resid_post.0"], ["embed", "resid_post.0"], [0, 1]),
        (["resid_pre.1", "resid_post.1"], ["resid_pre.1", "resid_post.1"], [0, 1]),
    ],
)
def test_layers_have_names_and_indices(keys, names, indices):
    stored = StoredActivations({key: rows(2, 4 + i) for i, key in enumerate(keys)})
    assert stored.indices == dict(zip(names, indices, strict=True))
    assert stored.layers == {name: 4 + i for i, name in enumerate(names)}


def endless() -> Iterator[Tensor]:
    while True:
        yield rows(4)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({0: rows(3), 1: rows(4)}, "same number of rows, got layer_00: 3, layer_01: 4"),
        ({0: [rows(3)], 1: iter([rows(2)])}, "same number of rows, got layer_00: 3, layer_01: 2"),
        ({0: iter([rows(3)]), 1: endless()}, "got layer_00: 3, layer_01: at least 5"),
        ({0: iter([rows(10)]), 1: iter([rows(4)])}, "got layer_00: at least 5, layer_01: 4"),
        ({}, "at least one layer, got none"),
        ({-1: rows(2)}, r"numbers of at least 0, or all by strings, got \[-1\]"),
        ({0: rows(2), "a": rows(2)}, "or all by strings"),
        ({True: rows(2)}, "or all by strings"),
        ({"": rows(2)}, "or all by strings"),
        ({0: []}, "layer_00: a source must hold at least one array, got none"),
        ({0: iter([])}, "layer_00: a source must hold at least one array, got none"),
        ({0: rows(0)}, "at least one row, got none"),
        ({0: iter([rows(0)])}, "at least one row, got none"),
        ({0: rows(3).int()}, "must be float16, bfloat16, float32, float64, got int32"),
        ({0: np.zeros((3, 2), bool)}, "got bool"),
        ({0: np.zeros((3, 2), complex)}, "got complex128"),
        ({0: np.zeros((3, 2), "V2")}, "must hold numbers that torch has, got dtype"),
        ({0: rows(3).to(torch.float8_e4m3fn)}, "got float8_e4m3fn"),
        ({0: rows(3)[:, 0]}, r"must be \[n, d\] or \[batch, seq, d\], got shape \[3\]"),
        ({0: rows(16).reshape(2, 2, 4, 3)}, r"got shape \[2, 2, 4, 3\]"),
        ({0: rows(3)[:, :0]}, r"got shape \[3, 0\]"),
        ({0: [rows(3), rows(3, 4)]}, r"same width, got 3 in layer_00\[0\] and 4 in layer_00\[1\]"),
        ({0: iter([rows(3), rows(3, 4)])}, r"same width, got 3 in layer_00\[0\] and 4 in layer_00\[1\]"),
        ({0: rows(3).to_sparse()}, "tensors must be dense, got torch.sparse_coo"),
        ({0: "no/such.npy"}, "there is no file 'no/such.npy'"),
        ({0: "no/such/*.npy"}, "no file matches 'no/such/"),
        ({0: __file__}, "must end in .npy or .safetensors, got "),
        ({0: {1: rows(2)}}, "an array, paths or an iterable, got dict"),
        ({0: 5}, "an array, paths or an iterable, got int"),
        (
            {0: [[1.0, 2.0]]},
            r"layer_00: activations must be arrays \(NumPy, torch, DLPack\) or paths, got list",
        ),
        ({0: np.ma.masked_array(rows(3).numpy())}, "must not be masked, got a MaskedArray"),
        ([rows(3)], "must be a mapping of layers, got list"),
    ],
)
def test_bad_sources_name_the_rule_and_what_came(sources, message):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        list(StoredActivations(sources).batches(5))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("batch_tokens", [2, 3, 100])
@pytest.mark.parametrize("name", ["mask", "token_ids", "sequence_ids", "positions", "labels"])
@pytest.mark.parametrize("length", [5, 7])
def test_annotations_of_another_length_are_refused(stream, batch_tokens, name, length):
    source = iter([rows(6)]) if stream else rows(6)
    with pytest.raises(ValueError, match=f"{name} must have"):
        list(StoredActivations({0: source}, **{name: torch.ones(length).long()}).batches(batch_tokens))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": [1, 2, 1]}, "only booleans, or 0 and 1, got 2"),
        ({"mask": [1.0, 0.5, 1.0]}, "got 0.5"),
        ({"mask": torch.ones(3, 1, 1)}, r"mask must have 3 values, one per row, got shape \[3, 1, 1\]"),
        ({"token_ids": [1.0, 2.0, 3.0]}, "token_ids must be integers, got float64"),
        ({"positions": [True, False, True]}, "positions must be integers, got bool"),
        ({"labels": ["a", "b", "c"]}, "labels: arrays must hold numbers that torch has, got dtype <U1"),
    ],
)
def test_bad_annotations_name_the_rule_and_what_came(options, message):
    with pytest.raises(ValueError, match=message):
        StoredActivations({0: rows(3)}, **options)


@pytest.mark.parametrize("batch_tokens", [0, -1, 2.5, True])
def test_batches_must_hold_a_token(batch_tokens):
    with pytest.raises(ValueError, match="batch_tokens must be an integer of at least 1"):
        StoredActivations({0: rows(3)}).batches(batch_tokens)


def test_damaged_files_are_named(tmp_path):
    np.save(tmp_path / "x.npy", rows(50).numpy())
    save_file({"a": rows(50), "b": rows(2)}, tmp_path / "x.safetensors")
    np.save(tmp_path / "o.npy", np.array([None, {}]), allow_pickle=True)
    for name in ("x.npy", "x.safetensors"):
        content = (tmp_path / name).read_bytes()
        for cut_name, part in (("short", content[:-7]), ("header", content[:9]), ("empty", b"")):
            (tmp_path / f"{cut_name}-{name}").write_bytes(part)
            with pytest.raises(ValueError, match=f"{cut_name}-{name} must be a complete"):
                StoredActivations({0: tmp_path / f"{cut_name}-{name}"})
    for name, message in {
        "o.npy": "o.npy must be a complete .npy file of numbers",
        "x.safetensors": r"name one of its tensors as .*x.safetensors:<key>, got 2: a, b",
        "x.safetensors:c": "must hold the tensor 'c', got a, b",
        "empty-x.npy:c": "there is no file",
    }.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            StoredActivations({0: str(tmp_path / name)})
    with pytest.raises(ValueError, match=r"must be of one kind, got \.npy and \.safetensors"):
        StoredActivations({0: tmp_path})
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no \.npy or \.safetensors files in folder"):
        StoredActivations({0: tmp_path / "none"})


def test_a_file_that_changes_between_opening_and_reading_is_an_error(tmp_path):
    np.save(tmp_path / "x.npy", rows(50).numpy())
    stored = StoredActivations({0: tmp_path / "x.npy"})
    np.save(tmp_path / "x.npy", rows(40).numpy())
    with pytest.raises(ValueError, match=r"x.npy must keep its shape \[50, 3\] while it is read"):
        list(stored.batches(64))


@pytest.mark.parametrize("fortran", [False, True])
def test_files_of_200_megabytes_are_never_in_memory(tmp_path, fortran):
    shape = (100_000, 500)
    for name in ("a", "b"):
        out = np.lib.format.open_memmap(tmp_path / name, "w+", np.float32, shape, fortran_order=fortran)
        out[:] = 1
        del out
        (tmp_path / name).rename(tmp_path / f"{name}.npy")
    stored = StoredActivations({name: tmp_path / f"{name}.npy" for name in ("a", "b")})
    total = 0.0
    tracemalloc.start()
    try:
        for batch in stored.batches(1000):
            total += float(batch.rows["a"].sum()) + float(batch.rows["b"].sum())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 2 * shape[0] * shape[1]
    # Two layers of 1000 x 500 float32 are 4 MB; those of the batch before may still be there.
    assert 2e6 < peak < 12e6


def test_of_a_safetensors_file_only_the_rows_of_the_batch_are_asked_for(tmp_path):
    save_file({"h": rows(4000).reshape(40, 100, 3)}, tmp_path / "x.safetensors")
    shard = file_shard(tmp_path / "x.safetensors")
    asked: list[tuple[int, ...]] = []

    class Spy:
        def __init__(self) -> None:
            self.opened = shard.open()

        def __getitem__(self, at: Any) -> Tensor:
            asked.append(tuple(self.opened[at].shape))
            return self.opened[at]

    stored = StoredActivations({"h": [dataclasses.replace(shard, open=Spy)]})
    assert torch.equal(whole(stored, 250)["h"], rows(4000))
    assert sum(a * b for a, b, _ in asked) == 4000
    assert max(a * b for a, b, _ in asked) <= 250


def vllm_file(path: Path, tokens: int, layers: int, *, seed: int, swap: bool = False) -> Tensor:
    """A file as vLLM writes it; returns its hidden states `[tokens, layers, d]`."""
    states = rows(tokens * layers, 6, torch.bfloat16, seed).reshape(tokens, layers, 6)
    stored = states.transpose(0, 1).contiguous() if swap else states
    save_file({"hidden_states": stored, "token_ids": torch.arange(tokens) + 100 * seed}, path)
    return states


@pytest.mark.parametrize("swap", [False, True])
def test_requests_of_vllm(tmp_path, swap):
    lengths = [4, 1, 9, 3]
    states = [
        vllm_file(tmp_path / f"{i}-x.safetensors", tokens, 3, seed=i, swap=swap)
        for i, tokens in enumerate(lengths)
    ]
    (tmp_path / "0-x.safetensors.lock").touch()
    for source in (
        tmp_path,
        f"{tmp_path}/*.safetensors",
        [tmp_path / f"{i}-x.safetensors" for i in range(4)],
    ):
        stored = open_vllm(source, [0, 2, 12])
        assert stored.indices == {"resid_pre.0": 0, "resid_pre.2": 2, "resid_pre.12": 12}
        assert stored.n_tokens == sum(lengths)
        found = whole(stored, 6)
        for place, name in enumerate(found):
            assert torch.equal(found[name], torch.cat([state[:, place] for state in states]))
        assert column(stored, "sequence_ids") == [i for i, n in enumerate(lengths) for _ in range(n)]
        assert column(stored, "positions") == [p for n in lengths for p in range(n)]
        assert column(stored, "token_ids") == [100 * i + p for i, n in enumerate(lengths) for p in range(n)]


def test_a_request_without_tokens_still_counts_as_a_sequence(tmp_path):
    for i, tokens in enumerate([2, 0, 1]):
        vllm_file(tmp_path / f"{i}.safetensors", tokens, 2, seed=i)
    assert column(open_vllm(tmp_path, [1, 2]), "sequence_ids") == [0, 0, 2]


def test_numbers_of_vllm_are_those_of_the_residual_stream(tmp_path):
    """vLLM's layer k is the stream after k blocks, like `hidden_states[k]` of transformers."""
    import model_families
    from repgeom.capture import capture

    model, batch = model_families.build("llama"), model_families.batch(1, 5)
    with torch.no_grad():
        hidden_states = model(**batch, output_hidden_states=True).hidden_states
    asked = [0, 1, 2]
    states = torch.stack([hidden_states[k][0] for k in asked], dim=1)
    save_file({"hidden_states": states, "token_ids": batch["input_ids"][0]}, tmp_path / "r.safetensors")
    found = whole(open_vllm(tmp_path, asked))
    with capture(model, list(found)) as activations:
        activations.run(**batch)
    for name, value in found.items():
        assert torch.equal(value, activations[name][0])


def test_bad_requests_of_vllm(tmp_path):
    vllm_file(tmp_path / "a.safetensors", 4, 3, seed=0)
    for layers in ([2, 1, 3], [1, 1, 2], [], [-1, 0, 1]):
        with pytest.raises(ValueError, match="layers must be ascending numbers of at least 0"):
            open_vllm(tmp_path, layers)
    with pytest.raises(ValueError, match=r"must hold 2 layers of 4 tokens.* got hidden_states \[4, 3, 6\]"):
        open_vllm(tmp_path, [1, 2])
    vllm_file(tmp_path / "b.safetensors", 5, 3, seed=1, swap=True)
    with pytest.raises(ValueError, match=r"in one order, got .* and "):
        open_vllm(tmp_path, [1, 2, 3])
    save_file({"hidden_states": rows(4).reshape(4, 1, 3)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"b\.safetensors must hold token_ids .* got token_ids None"):
        open_vllm(tmp_path / "b.safetensors", [1])
    with pytest.raises(FileNotFoundError, match=r"there are no \.safetensors files in"):
        open_vllm(tmp_path / "c", [1])
    (tmp_path / "b.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"b\.safetensors must be a complete safetensors file"):
        open_vllm(tmp_path, [1, 2, 3])
