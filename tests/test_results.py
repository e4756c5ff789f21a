"""Results: exact round trips through the folder, and what cannot be stored or read."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from example_results import assert_same, example
from repgeom import artifact
from repgeom.results import AnalysisResults, load_results

# --- round trips ---


@pytest.mark.parametrize("mode", ["bundle", "csv", "json"])
def test_round_trip_is_exact(tmp_path, mode):
    want = example()
    if mode == "json":
        want.metrics["slope"] = [math.nan, 1.0]
    path = want.save(save_dir=tmp_path / "new" / "run", save_mode=mode.upper())
    found = load_results(path)
    assert path == found.artifact_dir == want.artifact_dir == tmp_path / "new" / "run"
    assert_same(found, want, arrays=mode == "bundle")
    suffix = "json" if mode == "json" else "csv"
    files = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    tables = {f"{name}.{suffix}" for name in ("metrics", "novelty", "diagnostics/normalization_ablation")}
    bundled = {"arrays.safetensors"} if mode == "bundle" else set()
    assert files == tables | bundled | {"eigenvalues.npz", "metadata.json"}
    assert [entry.name for entry in path.parent.iterdir()] == ["run"]


def test_artifact_can_be_moved(tmp_path):
    want = example()
    path = want.save(save_dir=tmp_path / "here")
    assert str(tmp_path) not in (path / "metadata.json").read_text()
    assert_same(load_results(path.rename(tmp_path / "there")), want)


@pytest.mark.parametrize("mode", ["csv", "json"])
def test_empty_results_come_back(tmp_path, mode):
    columns = {"layer": np.array([], np.int64), "entropy": np.array([], np.float64)}
    want = AnalysisResults(router=pd.DataFrame(columns))
    path = want.save(save_dir=tmp_path / "run", save_mode=mode)
    assert_same(load_results(path), want)
    assert not (path / f"router.{mode}").exists()


def test_json_is_strict(tmp_path):
    results = example()
    results.metadata["nan"] = math.nan
    path = results.save(save_dir=tmp_path / "run", save_mode="json")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    for file in path.rglob("*.json"):
        json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)
    rows = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    assert rows[1]["d_pr"] is rows[0]["slope"] is None
    assert load_results(path).metrics["slope"].isna().all()


def test_csv_is_what_pandas_reads(tmp_path):
    want = example()
    path = want.save(save_dir=tmp_path / "run")
    found = pd.read_csv(path / "metrics.csv")
    assert found["d_pr"].tolist()[0] == want.metrics["d_pr"][0]
    assert found["model_key"].tolist() == want.metrics["model_key"].tolist()


def test_dictionary_has_tables_and_metadata():
    found = example().to_dict()
    assert found["novelty"] == [{"transition": "0->1", "linear_cka": 5e-324}]
    assert found["router"] == []
    assert found["diagnostics"]["normalization_ablation"] == [{"variant": "raw", "d_pr": 1e300}]
    assert found["metadata"]["artifact_schema_version"] == artifact.SCHEMA_VERSION


def test_default_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert AnalysisResults().save() == tmp_path / "repgeom-run"
    assert example("google/gemma").save() == tmp_path / "google_gemma"
    assert example("..").save(overwrite=True) == tmp_path / "repgeom-run"


# --- what cannot be stored or read ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {"files": []}}, r"must not use the keys files, tables, got \['files'\]"),
        ({"arrays": {"names": np.array(["a"])}}, "array 'names' must hold numbers or booleans"),
        ({"eigenvalues": {"layer_00": np.array([None])}}, "array 'layer_00' must hold numbers"),
        ({"metrics": pd.DataFrame({0: [1]})}, "columns of table 'metrics' must be distinct strings, got 0"),
        ({"diagnostics": {"../x": pd.DataFrame()}}, "must be a plain file name, got '../x'"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        AnalysisResults(**change).save(save_dir=tmp_path / "run")
    assert [*tmp_path.iterdir()] == []


def test_unknown_mode_is_refused(tmp_path):
    with pytest.raises(ValueError, match="save_mode must be one of bundle, csv, json, got 'pickle'"):
        example().save(save_dir=tmp_path / "run", save_mode="pickle")


def edit(path, **changes) -> None:
    file = path / "metadata.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


FILES = [
    "metrics.csv",
    "novelty.csv",
    "diagnostics/normalization_ablation.csv",
    "eigenvalues.npz",
    "arrays.safetensors",
]


@pytest.mark.parametrize("name", FILES)
def test_changed_or_missing_file_is_named(tmp_path, name):
    path = example().save(save_dir=tmp_path / "run")
    (path / name).write_bytes((path / name).read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=re.escape(f"{path / name} is not the file that was saved")):
        load_results(path)
    (path / name).unlink()
    with pytest.raises(ValueError, match=re.escape(f"{path / name} is missing")):
        load_results(path)


def test_folder_that_is_no_artifact_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no artifact of repgeom in .*nowhere"):
        load_results(tmp_path / "nowhere")
    for text in ("", "{", "[]", "{}", '{"artifact_schema_version": "x"}'):
        (tmp_path / "metadata.json").write_text(text)
        with pytest.raises(ValueError, match=r"metadata\.json is not the metadata of an artifact"):
            load_results(tmp_path)


def test_schema_of_another_major_version_is_refused(tmp_path):
    path = example().save(save_dir=tmp_path / "run")
    edit(path, artifact_schema_version="2.0")
    with pytest.raises(ValueError, match=r"metadata\.json has schema version 2\.0, this repgeom reads 1\.0"):
        load_results(path)
    edit(path, artifact_schema_version="1.7")
    assert load_results(path).metadata["artifact_schema_version"] == "1.7"


def test_files_outside_the_artifact_are_not_read(tmp_path):
    path = example().save(save_dir=tmp_path / "run")
    edit(path, files=[{"name": "../secret", "sha256": ""}])
    with pytest.raises(ValueError, match="names a file outside the artifact"):
        load_results(path)


@pytest.mark.parametrize("name", ["eigenvalues.npz", "arrays.safetensors"])
def test_unreadable_file_is_named_even_if_its_hash_is_right(tmp_path, name):
    path = example().save(save_dir=tmp_path / "run")
    for content in (b"", b"PK\x03\x04 no archive", b"\xff" * 100):
        (path / name).write_bytes(content)
        edit(path, files=[artifact._describe(path, path / file) for file in FILES])
        with pytest.raises(ValueError, match=re.escape(f"{path / name} cannot be read")):
            load_results(path)


def test_unreadable_table_is_named_even_if_its_hash_is_right(tmp_path):
    path = example().save(save_dir=tmp_path / "run")
    for content in ("", "other,header\n", "transition,linear_cka\n0->1\n", "transition,linear_cka\n0->1,x\n"):
        (path / "novelty.csv").write_text(content)
        edit(path, files=[artifact._describe(path, path / file) for file in FILES])
        with pytest.raises(ValueError, match=r"novelty\.csv is not the table its metadata describes"):
            load_results(path)


def test_no_pickle_is_read(tmp_path):
    path = example().save(save_dir=tmp_path / "run")
    np.savez(path / "eigenvalues.npz", layer_00=np.array([{}], dtype=object))
    files = [artifact._describe(path, path / name) for name in FILES]
    edit(path, files=files)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_results(path)
