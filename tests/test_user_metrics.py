"""Measurements of a user's in a run: tables, artifacts, the command line, and failures that lose nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import model_families
import repgeom
from repgeom import registry
from repgeom.cli import app


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    repgeom.metric  # noqa: B018 - the built-in measurements register themselves first
    monkeypatch.setattr(registry, "_MEASUREMENTS", registry.measurements())


def analyze(**options: Any) -> repgeom.AnalysisResults:
    batches = [model_families.batch(2, 30, seed=1), model_families.batch(3, 22, seed=2)]
    return repgeom.analyze_model(model=model_families.custom(), dataloader=batches, progress=False, **options)


def test_a_column_in_the_table_and_on_disk(tmp_path):
    @repgeom.metric("kurtosis", needs=["sample"])
    def kurtosis(sample):
        centred = sample - sample.mean(axis=0)
        return float((centred**4).mean() / (centred**2).mean() ** 2)

    found = analyze(metrics="default,kurtosis", save_dir=tmp_path / "run")
    plain = analyze()
    for layer, row in found.metrics.set_index("layer").iterrows():
        rows = found.arrays[f"sample.layer_{layer:02d}"].astype(np.float64)
        assert row["kurtosis"] == pytest.approx(kurtosis(rows), rel=1e-5)
    assert [*found.metrics.columns][-2:] == ["status", "note"]
    assert found.metrics.drop(columns="kurtosis").equals(plain.metrics)
    assert repgeom.load_results(tmp_path / "run").metrics["kurtosis"].equals(found.metrics["kurtosis"])
    assert "kurtosis" in found.metadata["metrics"]


def test_every_statistic_is_what_it_says():
    seen: list[dict[str, Any]] = []

    @repgeom.metric("look", needs=[name for name in registry.STATISTICS if name != "pooled"])
    def look(**statistics):
        seen.append(statistics)
        return {"look_a": 1, "look_b": 2.5}

    @repgeom.metric("pools", needs=["pooled", "layer"])
    def pools(pooled, layer):
        return {"pooled_rows": len(pooled["last"]), "mine": layer}

    found = analyze(metrics=["look", "pools"], pool="last")
    assert found.metrics["look_b"].tolist() == [2.5] * 3
    assert found.metrics["mine"].tolist() == [0, 1, 2]
    assert found.metrics["pooled_rows"].tolist() == [len(found.arrays["pooled.sequence_ids"])] * 3
    for layer, statistics in enumerate(seen):
        covariance = statistics["covariance"]
        assert statistics["layer"] == layer
        assert statistics["count"] == covariance.count == found.metadata["tokens_observed"]
        np.testing.assert_array_equal(statistics["mean"], covariance.mean)
        vectors, values = statistics["eigenvectors"], statistics["eigenvalues"]
        np.testing.assert_allclose((vectors * values) @ vectors.T, covariance.covariance(), atol=1e-10)
        assert statistics["spectrum"].d_pr == pytest.approx(values.sum() ** 2 / (values**2).sum())
        assert statistics["rank"] == statistics["spectrum"].rank
        np.testing.assert_array_equal(statistics["leading"], vectors[:, : statistics["leading"].shape[1]])
        assert len(statistics["tokens"].token_ids) == len(statistics["sample"])
        np.testing.assert_array_equal(statistics["tokens"].token_ids, found.arrays["sample.token_ids"])


def test_pairs_and_tables():
    @repgeom.metric("distance", needs=["sample"], scope="pair")
    def distance(sample):
        return float(np.abs(sample[0] - sample[1]).max())

    @repgeom.metric("norms", needs=["sample", "mean"], scope="table")
    def norms(sample, mean):
        return [{"layer": i, "largest": float(np.abs(sample[i]).max()), "mean": mean[i][0]} for i in sample]

    found = analyze(metrics="distance", diagnostics="norms")
    first, second = (found.arrays[f"sample.layer_0{i}"] for i in (0, 1))
    assert found.novelty["distance"].iloc[0] == pytest.approx(float(np.abs(first - second).max()))
    assert "linear_cka" not in found.novelty.columns
    assert found.diagnostics["norms"]["layer"].tolist() == [0, 1, 2]


def test_a_failure_loses_nothing():
    @repgeom.metric("broken", needs=["layer"])
    def broken(layer):
        if layer == 1:
            raise KeyError("no such thing")
        return layer

    with pytest.warns(RuntimeWarning, match=r"metric 'broken' failed with KeyError: .* \(at resid_pre.1\)"):
        found = analyze(metrics="default,broken")
    assert found.metrics["status"].tolist()[1] == "failed: broken"
    assert found.metrics["broken"].isna().tolist() == [False, True, False]
    assert found.metrics["d_pr"].notna().all()


@pytest.mark.parametrize(("value", "message"), [([1, 2], "must be one number"), ({"d_pr": 1}, "must be new")])
def test_values_that_no_table_can_hold(value, message):
    @repgeom.metric("odd", needs=["count"])
    def odd(count):
        return value if count else None

    with pytest.warns(RuntimeWarning, match=message):
        found = analyze(metrics="default,odd")
    assert (found.metrics["status"] == "failed: odd").all()


def test_pooled_vectors_must_be_asked_for():
    @repgeom.metric("pools", needs=["pooled"])
    def pools(pooled):
        return len(pooled)

    with pytest.raises(ValueError, match="need pool="):
        analyze(metrics="pools")


def test_moments_are_collected_only_where_needed():
    found = analyze(metrics="sample")
    assert not any(name.startswith("mean.") for name in found.arrays)
    assert "rms_norm" not in found.metrics.columns
    assert (found.metrics["tokens_observed"] == found.metadata["tokens_observed"]).all()


def test_an_unknown_metric_lists_those_that_there_are():
    with pytest.raises(ValueError, match=r"metrics must be among \['default', 'spectrum', .* got \['nope'\]"):
        analyze(metrics="nope")


def test_the_command_line_loads_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import repgeom\n@repgeom.metric('third', needs=['count'])\ndef third(count):\n    return count / 3\n"
    )
    arguments = ["run", "--load", "mine.py", "--metrics", "third", "--max-tokens", "60", "--no-progress"]
    outcome = CliRunner().invoke(app, [*arguments, "--out", "out"])
    assert outcome.exit_code == 0, outcome.output
    assert set(repgeom.load_results("out").metrics["third"]) == {20.0}
    outcome = CliRunner().invoke(app, ["run", "--load", "missing.py", "--no-progress"])
    assert outcome.exit_code == 1
    assert "missing.py" in outcome.output


@pytest.mark.parametrize("name", ["rms_norm", "status", "d_pr"])
def test_a_column_that_a_row_has_already(name):
    @repgeom.metric("mine", needs=["count"])
    def mine(count):
        return {name: -count}

    with pytest.warns(RuntimeWarning, match=f"columns must be new, got .'{name}'"):
        found = analyze(metrics="default,mine")
    assert (found.metrics["status"] == "failed: mine").all()
    assert (found.metrics["rms_norm"] > 0).all()


@pytest.mark.parametrize("need", ["sample", "leading", "eigenvectors", "eigenvalues"])
def test_statistics_cannot_be_changed(need):
    @repgeom.metric("rude", needs=[need])
    def rude(**statistics):
        array = statistics[need]
        array -= 5
        return 0

    want = analyze(diagnostics="normalization_ablation")
    with pytest.warns(RuntimeWarning, match="metric 'rude' failed .* read-only"):
        found = analyze(metrics="default,rude", diagnostics="normalization_ablation")
    assert found.diagnostics["normalization_ablation"].equals(want.diagnostics["normalization_ablation"])
    for key, values in want.arrays.items():
        assert np.array_equal(found.arrays[key], values), key


def test_the_covariance_is_a_copy():
    @repgeom.metric("rude", needs=["covariance"])
    def rude(covariance):
        covariance.update(np.full((1000, covariance.dim), 100.0))
        return covariance.count

    want, found = analyze(), analyze(metrics="default,rude")
    assert found.metrics["rude"].tolist() == [count + 1000 for count in want.metrics["tokens_observed"]]
    assert found.metrics.drop(columns="rude").equals(want.metrics)


def test_a_file_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text, said in (
        ("x = 1\nraise RuntimeError('hm')\n", "line 2: RuntimeError: hm"),
        ("x = = 1\n", "line 1: SyntaxError"),
    ):
        (tmp_path / "bad.py").write_text(text)
        outcome = CliRunner().invoke(app, ["run", "--load", "bad.py", "--no-progress"])
        assert outcome.exit_code == 1
        assert f"bad.py, {said}" in outcome.output


def test_the_printed_table_shows_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import repgeom\n@repgeom.metric('fourth', needs=['count'])\ndef fourth(count):\n    return count\n"
    )
    arguments = ["run", "--load", "mine.py", "--metrics", "default,fourth", "--max-tokens", "60"]
    outcome = CliRunner().invoke(app, [*arguments, "--no-progress"])
    assert "fourth" in outcome.output
