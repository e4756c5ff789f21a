"""CKA in a run, its heat map, and the comparison of two runs."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

import model_families
import repgeom
import repgeom.similarity_metrics
from repgeom.cka import cka
from repgeom.compare import compare
from repgeom.similarity_plots import cka_figure, save_cka_figure, similarity_figure

BATCHES = [model_families.batch(4, 20, seed=seed) for seed in range(4)]
LAYERS = range(model_families.LAYERS)


def analyze(family: str = "llama", batches: Any = BATCHES, **options: Any) -> repgeom.AnalysisResults:
    model = model_families.build(family)
    options = {"metrics": "cka_pairs", "progress": False, **options}
    return repgeom.analyze_model(model=model, dataloader=batches, **options)


@pytest.fixture(scope="module")
def found() -> repgeom.AnalysisResults:
    return analyze(pool="last,mean")


@pytest.fixture(scope="module")
def other() -> repgeom.AnalysisResults:
    return analyze("gpt2", pool="last,mean")


def layers_of(results: repgeom.AnalysisResults, kind: str = "sample") -> dict[int, np.ndarray]:
    return {layer: results.arrays[f"{kind}.layer_{layer:02d}"] for layer in LAYERS}


@pytest.mark.parametrize("points", ["tokens", "last", "mean"])
def test_the_table_is_the_cka_of_the_saved_arrays(found, points):
    table = found.diagnostics["cka_pairs"]
    rows = table[table["points"] == points]
    groups = found.arrays["sample.sequence_ids"] if points == "tokens" else None
    want = cka(layers_of(found, "sample" if points == "tokens" else f"pooled.{points}"), groups=groups)
    square = rows.pivot(index="left", columns="right")
    np.testing.assert_allclose(square["cka"], want.values, rtol=1e-12)
    np.testing.assert_allclose(square["standard_error"], want.standard_errors, rtol=1e-9, atol=1e-12)
    assert set(rows["n"]) == {want.n}
    assert set(rows["groups"]) == {16}
    assert set(rows["status"]) == {"ok"}


def test_broken_tokens_are_left_out_of_all_layers():
    model = model_families.build("llama")

    def spoil(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[:, 3] = torch.nan
        return output

    model.get_submodule("model.layers.1").register_forward_hook(spoil)
    with pytest.warns(RuntimeWarning, match="hold NaN or infinity"):
        results = repgeom.analyze_model(model=model, dataloader=BATCHES, metrics="cka_pairs", progress=False)
    layers = layers_of(results)
    finite = np.logical_and.reduce([np.isfinite(rows).all(axis=1) for rows in layers.values()])
    assert 0 < finite.sum() < len(finite)
    groups = results.arrays["sample.sequence_ids"][finite]
    want = cka({layer: rows[finite] for layer, rows in layers.items()}, groups=groups)
    table = results.diagnostics["cka_pairs"]
    np.testing.assert_allclose(table["cka"], want.values.ravel(), rtol=1e-12)
    np.testing.assert_allclose(table["standard_error"], want.standard_errors.ravel(), atol=1e-12)


def test_too_few_tokens_give_no_table():
    assert "cka_pairs" not in analyze(batches=[model_families.batch(1, 3)]).diagnostics


def test_the_heat_map_shows_the_table(found, tmp_path):
    figure = cka_figure(found)
    maps = [axis for axis in figure.axes if axis.get_images()]
    assert [axis.get_title() for axis in maps] == ["tokens, n = 320", "last, n = 16", "mean, n = 16"]
    table = found.diagnostics["cka_pairs"]
    shown = np.asarray(maps[0].get_images()[0].get_array())
    np.testing.assert_allclose(shown.ravel(), table[table["points"] == "tokens"]["cka"])
    assert save_cka_figure(found, tmp_path / "cka.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="needs a run with metrics='cka_pairs', got none"):
        cka_figure(analyze(metrics="spectrum"))


# --- two runs ---


@pytest.mark.parametrize("points", ["tokens", "mean"])
def test_two_runs_are_compared_on_the_same_samples(found, other, points):
    matrix = compare([found, other], points=points, permutations=5)
    kind, groups = "sample", found.arrays["sample.sequence_ids"]
    if points != "tokens":
        kind, groups = f"pooled.{points}", None
    want = cka(layers_of(found, kind), layers_of(other, kind), groups=groups, permutations=5)
    np.testing.assert_allclose(matrix.values, want.values, rtol=1e-12)
    np.testing.assert_allclose(matrix.standard_errors, want.standard_errors, rtol=1e-9)
    np.testing.assert_allclose(matrix.p_values, want.p_values)
    assert matrix.names_a == tuple(LAYERS)
    figure = similarity_figure(matrix)
    assert np.asarray(figure.axes[0].get_images()[0].get_array()).shape == matrix.values.shape


def test_runs_may_come_in_another_order_and_as_folders(found, other, tmp_path):
    want = compare([found, other])
    moved = analyze("gpt2", batches=BATCHES, sample_limit=512)
    order = np.random.default_rng(0).permutation(len(moved.arrays["sample.positions"]))
    moved.arrays = {
        name: rows[order] if name.startswith("sample.") else rows for name, rows in moved.arrays.items()
    }
    moved.save(save_dir=tmp_path / "moved")
    np.testing.assert_allclose(compare([found, tmp_path / "moved"]).values, want.values, rtol=1e-9)


def test_what_only_one_run_sampled_is_left_out_and_counted(found):
    fewer = analyze("gpt2", sample_limit=60)
    matrix = compare([found, fewer])
    assert matrix.n == 60
    assert "260 of 320 samples only in the first run" in matrix.warnings


def test_layers_are_in_the_order_of_their_numbers(found, other):
    def renamed(results: repgeom.AnalysisResults) -> repgeom.AnalysisResults:
        moved = copy.copy(results)
        names = {"sample.layer_00": "sample.layer_99", "sample.layer_01": "sample.layer_100"}
        moved.arrays = {names.get(name, name): rows for name, rows in results.arrays.items()}
        return moved

    matrix = compare([renamed(found), renamed(other)])
    assert matrix.names_a == (*list(LAYERS)[2:], 99, 100)


def test_runs_that_cannot_be_compared_are_refused(found, other):
    def changed(**arrays: np.ndarray) -> repgeom.AnalysisResults:
        results = copy.copy(other)
        results.arrays = {**other.arrays, **{f"sample.{name}": rows for name, rows in arrays.items()}}
        return results

    held = other.arrays
    ids = held["sample.token_ids"].copy()
    ids[:7] += 1
    for runs, message in (
        ([found, changed(token_ids=ids)], "got 7 of 320 common places with another token"),
        (
            [found, changed(sequence_ids=held["sample.sequence_ids"] + 100)],
            "at least 4 samples, got 0 of 320",
        ),
        ([found, changed(positions=np.full(320, -1))], "second run must be known .*, got 320 that are not"),
        ([found], "a comparison is of two runs, got 1"),
        (found, "a comparison is of two runs, got one AnalysisResults"),
        (5, "a comparison is of two runs, got one int"),
        ([found, repgeom.AnalysisResults()], "the second run must hold sample arrays .*, got none"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(runs)
    with pytest.raises(ValueError, match=r"the first run must hold pooled\.first arrays"):
        compare([found, other], points="first")
    with pytest.raises(ValueError, match=r"those of the runs, got the options \['groups'\]"):
        compare([found, other], groups=[1])
