"""Artifacts: exact round trips, strict JSON, and a place that never holds half a folder."""

from __future__ import annotations

import json
import math
import os
import re
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repgeom import results as module
from repgeom.results import SCHEMA_VERSION, AnalysisResults, check_writable, load_results


def example(run_name: str = "run", value: float = 0.1) -> AnalysisResults:
    metrics = pd.DataFrame(
        {
            "model_key": ["größe/模型", 'a "quoted", key'],
            "layer": [0, 1],
            "d_pr": [value + 0.2, math.nan],
            "share": np.array([1 / 3, math.nan], np.float32),
            "slope": [math.inf, -math.inf],
            "near_rank_one": [True, False],
            "note": ["", None],
            "tokens": np.array([1, 2**40], np.int64),
        }
    )
    novelty = pd.DataFrame({"transition": ["0->1"], "linear_cka": [5e-324]})
    return AnalysisResults(
        metrics=metrics,
        novelty=novelty,
        diagnostics={"normalization_ablation": pd.DataFrame({"variant": ["raw"], "d_pr": [1e300]})},
        eigenvalues={"layer_00": np.array([3.0, 0.1]), "layer_01": np.array([2.0])},
        metadata={"run_name": run_name, "layers": [0, 1], "seed": 0, "nested": {"text": "ü\n"}, "none": None},
        arrays={
            "mean.layer_00": np.arange(6.0).reshape(2, 3).T,
            "tokens": np.array([1, 2], np.int32),
            "empty": np.empty((0, 4), np.float32),
            "scalar": np.array(2.5),
        },
    )


def assert_same(found: AnalysisResults, want: AnalysisResults, arrays: bool = True) -> None:
    for name in ("metrics", "novelty", "router"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(want, name), check_exact=True)
    assert [*found.diagnostics] == [*want.diagnostics]
    for name, frame in want.diagnostics.items():
        pd.testing.assert_frame_equal(found.diagnostics[name], frame, check_exact=True)
    assert found.metadata == want.metadata
    pairs = [(found.eigenvalues, want.eigenvalues), (found.arrays, want.arrays if arrays else {})]
    for mine, theirs in pairs:
        assert {*mine} == {*theirs}
        for name, array in theirs.items():
            np.testing.assert_array_equal(mine[name], array)
            assert (mine[name].dtype, mine[name].shape) == (array.dtype, array.shape)


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


CELLS = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"])))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CELLS, st.floats(), st.integers(-(2**63), 2**63 - 1), st.booleans())))
def test_any_table_comes_back(tmp_path, rows):
    text, number, integer, flag = zip(*rows, strict=True) if rows else ((), (), (), ())
    table = pd.DataFrame(
        {
            "text": pd.Series(text, dtype=object),
            "number": pd.Series(number, dtype=np.float64),
            "integer, quoted": pd.Series(integer, dtype=np.int64),
            "flag": pd.Series(flag, dtype=bool),
        }
    )
    alone = table[["number"]]
    want = AnalysisResults(metrics=table, novelty=alone, diagnostics={"text": table[["text"]]})
    assert_same(load_results(want.save(save_dir=tmp_path / "run", save_mode="csv", overwrite=True)), want)


@pytest.mark.parametrize("mode", ["csv", "json"])
def test_columns_of_other_kinds_come_back(tmp_path, mode):
    table = pd.DataFrame(
        {
            "nullable": pd.array([1, None], dtype="Int64"),
            "lists": pd.Series([[1, 2], None], dtype=object),
            "mixed": pd.Series([True, "a"], dtype=object),
            "small": np.array([1, 2], np.uint8),
            "text": pd.Series(["a", "b"], dtype="string"),
        }
    )
    want = AnalysisResults(metrics=table)
    assert_same(load_results(want.save(save_dir=tmp_path / "run", save_mode=mode)), want)


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
    assert found["metadata"]["artifact_schema_version"] == SCHEMA_VERSION


def test_default_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert AnalysisResults().save() == tmp_path / "repgeom-run"
    assert example("google/gemma").save() == tmp_path / "google_gemma"
    assert example("..").save(overwrite=True) == tmp_path / "repgeom-run"


# --- the place ---


def test_another_run_is_not_overwritten_unasked(tmp_path):
    first, second = example(value=1.0), example(value=2.0)
    first.save(save_dir=tmp_path / "run")
    with pytest.raises(FileExistsError, match="holds another run: choose another folder"):
        second.save(save_dir=tmp_path / "run")
    assert_same(load_results(tmp_path / "run"), first)
    second.save(save_dir=tmp_path / "run", overwrite=True)
    assert_same(load_results(tmp_path / "run"), second)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_empty_folder_is_taken(tmp_path):
    (tmp_path / "run").mkdir()
    assert_same(load_results(example().save(save_dir=tmp_path / "run")), example())


@pytest.mark.parametrize("content", [None, "{}", "[]", '{"artifact_schema_version": "0.1"}'])
def test_foreign_folder_is_never_overwritten(tmp_path, content):
    (tmp_path / "thesis.tex").write_text("years")
    if content is not None:
        (tmp_path / "metadata.json").write_text(content)
    with pytest.raises(FileExistsError, match="other files than an artifact"):
        example().save(save_dir=tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years"


def test_place_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file is a file, choose another folder"):
        check_writable(tmp_path / "file" / "run")
    with pytest.raises(FileExistsError, match="it is a file"):
        check_writable(tmp_path / "file")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"choose a folder in it, such as .*run"):
        check_writable(".")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="no permission in"):
        check_writable(tmp_path / "run")


def test_permission_that_is_lost_is_one_sentence(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.Path, "mkdir", refuse)
    with pytest.raises(PermissionError, match=r"^cannot write to .*run: no permission in .*\.$"):
        example().save(save_dir=tmp_path / "run")


def test_check_creates_nothing(tmp_path):
    assert check_writable(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("victim", ["_write_safetensors", "_strict_json", "_put"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("existing", [True, False])
def test_crash_leaves_the_old_artifact_or_none(tmp_path, monkeypatch, victim, error, existing):
    first = example(value=1.0)
    if existing:
        first.save(save_dir=tmp_path / "run")

    def crash(*_args, **_options):
        raise error

    monkeypatch.setattr(module, victim, crash)
    with pytest.raises(type(error)):
        example(value=2.0).save(save_dir=tmp_path / "run", overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == (["run"] if existing else [])
    if existing:
        assert_same(load_results(tmp_path / "run"), first)


def test_swap_without_help_of_the_system(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_exchange", lambda *_: False)
    first, second = example(value=1.0), example(value=2.0)
    first.save(save_dir=tmp_path / "run")
    second.save(save_dir=tmp_path / "run", overwrite=True)
    assert_same(load_results(tmp_path / "run"), second)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]

    rename = module.Path.rename

    def crash(self, target):
        if self.name.endswith(".tmp"):
            raise OSError("crash between the two steps")
        return rename(self, target)

    monkeypatch.setattr(module.Path, "rename", crash)
    with pytest.raises(OSError, match="between"):
        first.save(save_dir=tmp_path / "run", overwrite=True)
    assert_same(load_results(tmp_path / "run"), second)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


@pytest.mark.skipif(sys.platform != "linux", reason="the file system may not swap folders elsewhere")
def test_system_call_swaps(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / name).mkdir(parents=True)
    if not module._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot swap folders")
    assert (tmp_path / "a" / "b").is_dir()
    assert (tmp_path / "b" / "a").is_dir()


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
        edit(path, files=[module._describe(path, path / file) for file in FILES])
        with pytest.raises(ValueError, match=re.escape(f"{path / name} cannot be read")):
            load_results(path)


def test_unreadable_table_is_named_even_if_its_hash_is_right(tmp_path):
    path = example().save(save_dir=tmp_path / "run")
    for content in ("", "other,header\n", "transition,linear_cka\n0->1\n", "transition,linear_cka\n0->1,x\n"):
        (path / "novelty.csv").write_text(content)
        edit(path, files=[module._describe(path, path / file) for file in FILES])
        with pytest.raises(ValueError, match=r"novelty\.csv is not the table its metadata describes"):
            load_results(path)


def test_no_pickle_is_read(tmp_path):
    path = example().save(save_dir=tmp_path / "run")
    np.savez(path / "eigenvalues.npz", layer_00=np.array([{}], dtype=object))
    files = [module._describe(path, path / name) for name in FILES]
    edit(path, files=files)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_results(path)
