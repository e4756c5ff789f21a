"""Stored activations give what the model itself gave, from every form they can be stored in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import model_families
import repgeom

LAYERS = 3


@pytest.fixture(scope="module")
def batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, model_families.VOCAB, (6, 10), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    mask[4, 3:] = 0
    return [{"input_ids": i, "attention_mask": m} for i, m in zip(ids.split(2), mask.split(2), strict=True)]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return model_families.build("llama")


@pytest.fixture(scope="module")
def live(model, batches) -> repgeom.AnalysisResults:
    return repgeom.analyze_model(model=model, dataloader=batches, pool="last,mean", progress=False)


@pytest.fixture(scope="module")
def layers(model, batches) -> dict[int, torch.Tensor]:
    sites = [f"resid_pre.{i}" for i in range(LAYERS)]
    found: dict[str, list[torch.Tensor]] = {site: [] for site in sites}
    with repgeom.capture(model, sites) as activations:
        for batch in batches:
            activations.run(**batch)
            for site in sites:
                found[site].append(activations[site])
    return {i: torch.cat(found[site]) for i, site in enumerate(sites)}


def beside(batches: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {
        "mask": torch.cat([batch["attention_mask"] for batch in batches]),
        "token_ids": torch.cat([batch["input_ids"] for batch in batches]),
    }


def analyze(activations: Any, **options: Any) -> repgeom.AnalysisResults:
    return repgeom.analyze_activations(activations, progress=False, **options)


def assert_same_numbers(a: repgeom.AnalysisResults, b: repgeom.AnalysisResults) -> None:
    apart = ["model_key", "model_label", "covariance_error"]  # the bound depends on how rows are cut
    for left, right in ((a.metrics, b.metrics), (a.novelty, b.novelty)):
        pd.testing.assert_frame_equal(
            left.drop(columns=apart, errors="ignore"),
            right.drop(columns=apart, errors="ignore"),
            rtol=1e-5,
            atol=1e-7,
        )


def test_arrays_and_the_model_agree(layers, batches, live):
    found = analyze(layers, pool="last,mean", **beside(batches))
    assert_same_numbers(found, live)
    names = [name for name in live.arrays if name.startswith(("sample.", "pooled."))]
    assert len(names) == 4 + 3 + 2 + 6
    for name in names:
        np.testing.assert_array_equal(found.arrays[name], live.arrays[name], err_msg=name)


@pytest.mark.parametrize("batch_tokens", [1, 7, 1000])
def test_how_much_is_read_at_a_time_does_not_matter(layers, batches, live, batch_tokens):
    found = analyze(layers, batch_tokens=batch_tokens, pool="last,mean", **beside(batches))
    assert_same_numbers(found, live)
    np.testing.assert_allclose(
        found.arrays["pooled.mean.layer_01"], live.arrays["pooled.mean.layer_01"], rtol=1e-6
    )


def test_files_iterables_and_shards(layers, batches, live, tmp_path):
    np.save(tmp_path / "zero.npy", layers[0].numpy())
    save_file({"a": layers[1][:2].contiguous()}, tmp_path / "one-1.safetensors")
    save_file({"a": layers[1][2:].contiguous()}, tmp_path / "one-2.safetensors")
    sources = {
        0: tmp_path / "zero.npy",
        1: [tmp_path / "one-1.safetensors", f"{tmp_path}/one-2.safetensors:a"],
        2: (part for part in layers[2].split(1)),
    }
    found = analyze(sources, **beside(batches))
    assert_same_numbers(found, live)
    assert [len(files) for files in found.metadata["stored_files"].values()] == [1, 2, 0]


def test_the_artifact_is_like_any_other(layers, tmp_path):
    found = analyze(layers, save_dir=tmp_path / "run", model_label="mine", dataset_name="held out")
    again = repgeom.load_results(tmp_path / "run")
    assert again.metrics.equals(found.metrics)
    assert (again.metrics["model_label"] == "mine").all()
    assert again.metadata["dataset"] == "held out"
    with pytest.raises(FileExistsError):
        analyze(layers, save_dir=tmp_path / "run")


def test_a_budget_is_met_exactly(layers):
    found = analyze(layers, max_tokens=23, batch_tokens=10)
    assert (found.metrics["tokens_observed"] == 23).all()
    flat = layers[1].reshape(-1, layers[1].shape[-1])[:23].double().numpy()
    assert found.metrics["d_pr"][1] == pytest.approx(repgeom.spectrum(np.cov(flat.T)).d_pr, rel=1e-5)


def test_names_that_end_in_no_number_are_kept(layers):
    found = analyze({"attention": layers[0], "mlp": layers[1]})
    assert found.metadata["sites"] == ["attention", "mlp"]
    assert found.metrics["layer"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("activations", "options", "message"),
    [
        ({}, {}, "at least one layer"),
        ({0: np.ones((3, 2)), 1: np.ones((4, 2))}, {}, "layers must have the same number of rows"),
        ({0: np.ones((3, 2), int)}, {}, "float"),
        ({0: np.ones((1, 2))}, {}, "at least two tokens, got 1"),
        ({0: np.ones((3, 2))}, {"pool": "last"}, "pooled vectors need sequences"),
        ({0: np.ones((3, 2))}, {"metrics": "router"}, "no routers"),
        ({0: np.ones((3, 2))}, {"mask": [1, 0]}, "mask"),
        ({0: np.ones((3, 2))}, {"max_tokens": 0}, "max_tokens must be"),
    ],
)
def test_bad_input_is_one_sentence(activations, options, message):
    with pytest.raises(ValueError, match=message):
        analyze(activations, **options)


def test_the_sample_does_not_depend_on_how_much_is_read_where_some_places_are_unknown(layers):
    rows = layers[0].reshape(-1, layers[0].shape[-1])
    ids = np.repeat(np.arange(6), 10)
    ids[17:23] = -1
    places = {"sequence_ids": ids, "positions": np.tile(np.arange(10), 6)}
    runs = [
        analyze({0: rows}, sample_limit=20, batch_tokens=size, **places).arrays["sample.index"]
        for size in (7, 60)
    ]
    assert sorted(runs[0].tolist()) == sorted(runs[1].tolist())


def test_layers_are_compared_in_their_order(layers):
    found = analyze({2: layers[2], 0: layers[0], 1: layers[1]})
    assert found.metrics["layer"].tolist() == [0, 1, 2]
    assert found.novelty["transition"].tolist() == ["0->1", "1->2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_limit": 0, "pool": "last"}, "sequence_limit must be"),
        ({"seed": -1}, "seed must be"),
        ({"sample_limit": 2.5}, "sample_limit must be"),
        ({"threads": 0}, "threads must be"),
        ({"compat": "other"}, "compat must be"),
    ],
)
def test_options_have_the_rules_of_any_run(layers, options, message):
    with pytest.raises(ValueError, match=message):
        analyze(layers, **options)


def test_a_mask_that_leaves_nothing(layers):
    with pytest.raises(ValueError, match="must leave a row that counts, got none of 60"):
        analyze(layers, mask=np.zeros((6, 10)))
