"""The place of an artifact: never half a folder, never somebody else's."""

from __future__ import annotations

import os
import sys

import pytest

from example_results import assert_same, example
from repgeom import artifact
from repgeom.artifact import check_writable
from repgeom.results import load_results


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
    with pytest.raises(FileExistsError, match="files that are not results"):
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

    monkeypatch.setattr(artifact.Path, "mkdir", refuse)
    with pytest.raises(PermissionError, match=r"^cannot write to .*run: no permission in .*\.$"):
        example().save(save_dir=tmp_path / "run")


def test_check_creates_nothing(tmp_path):
    assert check_writable(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("victim", ["write_safetensors", "strict_json", "_put"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("existing", [True, False])
def test_crash_leaves_the_old_artifact_or_none(tmp_path, monkeypatch, victim, error, existing):
    first = example(value=1.0)
    if existing:
        first.save(save_dir=tmp_path / "run")

    def crash(*_args, **_options):
        raise error

    monkeypatch.setattr(artifact, victim, crash)
    with pytest.raises(type(error)):
        example(value=2.0).save(save_dir=tmp_path / "run", overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == (["run"] if existing else [])
    if existing:
        assert_same(load_results(tmp_path / "run"), first)


def test_swap_without_help_of_the_system(tmp_path, monkeypatch):
    monkeypatch.setattr(artifact, "_exchange", lambda *_: False)
    first, second = example(value=1.0), example(value=2.0)
    first.save(save_dir=tmp_path / "run")
    second.save(save_dir=tmp_path / "run", overwrite=True)
    assert_same(load_results(tmp_path / "run"), second)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]

    rename = artifact.Path.rename

    def crash(self, target):
        if self.name.endswith(".tmp"):
            raise OSError("crash between the two steps")
        return rename(self, target)

    monkeypatch.setattr(artifact.Path, "rename", crash)
    with pytest.raises(OSError, match="between"):
        first.save(save_dir=tmp_path / "run", overwrite=True)
    assert_same(load_results(tmp_path / "run"), second)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


@pytest.mark.skipif(sys.platform != "linux", reason="the file system may not swap folders elsewhere")
def test_system_call_swaps(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / name).mkdir(parents=True)
    if not artifact._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot swap folders")
    assert (tmp_path / "a" / "b").is_dir()
    assert (tmp_path / "b" / "a").is_dir()
