"""Dimensions, overlaps and imbalances in a run, against the functions on the arrays that it saves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import model_families
import repgeom
from repgeom.cli import app
from repgeom.plots import dimension_figure

BATCHES = [model_families.batch(4, 20, seed=seed) for seed in range(4)]
LAYERS = range(model_families.LAYERS)


def analyze(batches: Any = BATCHES, **options: Any) -> repgeom.AnalysisResults:
    model = model_families.build("llama")
    options = {"metrics": "dimension,overlap,imbalance", "progress": False, **options}
    return repgeom.analyze_model(model=model, dataloader=batches, **options)


@pytest.fixture(scope="module")
def found() -> repgeom.AnalysisResults:
    return analyze(pool="last,mean")


def samples(found: repgeom.AnalysisResults, kind: str = "sample") -> dict[int, np.ndarray]:
    return {layer: found.arrays[f"{kind}.layer_{layer:02d}"] for layer in LAYERS}


def test_the_columns_are_those_of_two_nn(found):
    for layer, rows in samples(found).items():
        want, row = repgeom.two_nn(rows), found.metrics.iloc[layer]
        assert row["id_two_nn"] == pytest.approx(want.value)
        assert row["id_two_nn_se"] == pytest.approx(want.standard_error)
        assert (row["id_tokens"], row["id_status"]) == (want.n, "ok")


def test_the_profile_is_that_of_gride_for_tokens_and_sequences(found):
    table = found.diagnostics["dimension_profile"]
    assert set(table["points"]) == {"tokens", "last", "mean"}
    for points in ("tokens", "last", "mean"):
        kind = "sample" if points == "tokens" else f"pooled.{points}"
        chosen = set()
        for layer, rows in samples(found, kind).items():
            mine = table[(table["points"] == points) & (table["layer"] == layer)]
            profile = repgeom.gride(rows, max_rank=64)
            gride = mine[mine["method"] == "gride"]
            assert gride["rank"].tolist() == profile.positions.tolist()
            np.testing.assert_allclose(gride["dimension"], profile.values, rtol=1e-9)
            np.testing.assert_allclose(gride["standard_error"], profile.standard_errors, rtol=1e-9)
            chosen |= set(mine.loc[mine["selected"], "rank"])
        assert len(chosen) == 1, "one scale for all layers"


def test_overlaps_and_imbalances_of_all_pairs(found):
    rows = samples(found)
    overlaps = found.diagnostics["overlap_pairs"]
    imbalances = found.diagnostics["imbalance"]
    for i in LAYERS:
        for j in LAYERS:
            here = overlaps[
                (overlaps["left"] == i) & (overlaps["right"] == j) & (overlaps["points"] == "tokens")
            ]
            assert here["overlap"].item() == pytest.approx(
                1.0 if i == j else repgeom.neighbor_overlap(rows[i], rows[j], 30).value
            )
            here = imbalances[
                (imbalances["left"] == i) & (imbalances["right"] == j) & (imbalances["points"] == "tokens")
            ]
            want = 2 / len(rows[i]) if i == j else repgeom.information_imbalance(rows[i], rows[j]).a_to_b
            assert here["imbalance"].item() == pytest.approx(want)
    for layer, row in found.novelty.iterrows():
        want = repgeom.neighbor_overlap(rows[layer], rows[layer + 1], 30)
        assert row["neighbor_overlap"] == pytest.approx(want.value)
        assert row["neighbor_overlap_se"] == pytest.approx(want.standard_error)


def test_tokens_without_a_label_are_left_out_of_the_label_overlap():
    labelled = []
    for batch in BATCHES:
        labels = batch["input_ids"] % 3
        labels[0, :5] = -100
        labelled.append({**batch, "labels": labels})
    found = analyze(labelled)
    known = found.arrays["sample.labels"] != -100
    assert 0 < known.sum() < len(known)
    for layer, rows in samples(found).items():
        want = repgeom.label_overlap(rows[known], found.arrays["sample.labels"][known], 30)
        assert found.metrics["label_overlap"][layer] == pytest.approx(want.value)
        assert found.metrics["label_overlap_tokens"][layer] == known.sum()


def test_copies_among_the_tokens_are_counted(found):
    """Equal tokens are equal points where nothing but the embedding is there."""
    rows = samples(found)
    near = [repgeom.knn(rows[layer], 1).distances[:, 0] == 0 for layer in (0, 1)]
    assert near[0].any()
    assert found.novelty["neighbor_overlap_copies"][0] == (near[0] | near[1]).sum()


@pytest.mark.parametrize("per_token", [True, False])
def test_labels_of_the_data(per_token):
    labelled = []
    for batch in BATCHES:
        ids = batch["input_ids"]
        labels = ids % 3 if per_token else torch.arange(len(ids)) % 2
        labelled.append({**batch, "labels": labels})
    found = analyze(labelled)
    labels = found.arrays["sample.labels"]
    if per_token:
        np.testing.assert_array_equal(labels, found.arrays["sample.token_ids"] % 3)
    else:
        np.testing.assert_array_equal(labels, found.arrays["sample.sequence_ids"] % 4 % 2)
    for layer, rows in samples(found).items():
        want = repgeom.label_overlap(rows, labels, 30)
        assert found.metrics["label_overlap"][layer] == pytest.approx(want.value)
        assert found.metrics["label_overlap_chance"][layer] == pytest.approx(want.chance)
    assert "label_overlap" not in analyze().metrics.columns


def test_broken_tokens_are_left_out_of_all_comparisons():
    model = model_families.build("llama")

    def spoil(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[:, 3] = torch.nan
        return output

    model.get_submodule("model.layers.1").register_forward_hook(spoil)
    with pytest.warns(RuntimeWarning, match="hold NaN or infinity"):
        found = repgeom.analyze_model(
            model=model, dataloader=BATCHES, metrics="dimension,overlap,imbalance", progress=False
        )
    assert found.metrics["id_tokens"].notna().all()
    assert found.diagnostics["imbalance"]["imbalance"].notna().all()
    assert found.novelty["neighbor_overlap"].notna().all()


def test_too_few_tokens_are_a_status():
    found = analyze([model_families.batch(1, 2)])
    assert found.metrics["id_status"].tolist() == ["too few points"] * 3
    assert found.metrics["id_two_nn"].isna().all()
    assert found.novelty["neighbor_overlap"].isna().all()
    assert "imbalance" not in found.diagnostics


def test_threads_change_no_bit():
    one, two = analyze(threads=1), analyze(threads=2)
    assert one.metrics.equals(two.metrics)
    for name, table in one.diagnostics.items():
        assert table.equals(two.diagnostics[name]), name


def test_the_command_line_draws_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["run", "--metrics", "default,dimension,overlap", "--max-tokens", "2400", "--pool", "last"]
    outcome = CliRunner().invoke(
        app, [*arguments, "--max-length", "30", "--no-progress", "--plot", "--out", "out"]
    )
    assert outcome.exit_code == 0, outcome.output
    assert "ID (2NN)" in outcome.output
    assert (tmp_path / "out" / "dimension.png").stat().st_size > 10_000
    loaded = repgeom.load_results("out")
    assert "dimension_profile" in loaded.diagnostics
    figure = dimension_figure(loaded)
    lines = {line.get_label() for axes in figure.axes for line in axes.get_lines()}
    assert "tokens, TwoNN" in lines
    assert any(label.startswith("last, Gride at rank") for label in lines)


def test_a_figure_needs_dimensions():
    with pytest.raises(ValueError, match="needs a run with metrics='dimension'"):
        dimension_figure(analyze(metrics="default"))


def test_a_figure_that_cannot_be_drawn_is_refused_before_the_run(monkeypatch):
    outcome = CliRunner().invoke(app, ["run", "--plot", "--no-progress"])
    assert outcome.exit_code == 1
    assert "--plot needs --metrics with dimension or similarity, got 'default'" in outcome.output
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    outcome = CliRunner().invoke(app, ["run", "--plot", "--metrics", "dimension", "--no-progress"])
    assert outcome.exit_code == 1
    assert "--plot needs matplotlib" in outcome.output
