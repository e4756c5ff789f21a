"""The `repgeom` command as a person meets it: words, exit codes, folders, Ctrl-C."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

import repgeom
from repgeom import demo, models
from repgeom.cli import app
from repgeom.summary import summary

QUICK = ("--max-tokens", "300", "--max-length", "64", "--layers", "0,1", "--text", "../quick.txt")
QUICK += ("--no-progress",)
ESCAPE = "\x1b"
TEXT_FOR_TABLE = "A class definition is an executable statement. " * 20


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    text = "\n".join(demo.held_out_documents()[:3])[:2000]
    (tmp_path / "quick.txt").write_text(text, encoding="utf-8")
    monkeypatch.chdir(folder)
    return folder


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments])


def ok(*arguments: str) -> Result:
    outcome = call(*arguments)
    assert outcome.exit_code == 0, (outcome.output, outcome.exception)
    return outcome


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- words ---


def test_help_says_what_each_command_does():
    root = ok("--help").stdout
    assert "repgeom run" in root
    for command in ("run", "sites"):
        assert re.search(rf"^\s+{command}\s+\S+", root, re.MULTILINE), (
            "no description in the list of commands"
        )
        text = ok(command, "--help").stdout
        assert len(text.splitlines()) > 5
    text = ok("run", "--help").stdout
    assert "Examples" in text
    assert text.count("repgeom run") >= 4
    for option in ("--text", "--layers", "--out", "--save-mode", "--dry-run", "--overwrite", "--max-tokens"):
        assert option in text
    for line in text.splitlines():
        assert ESCAPE not in line
        assert not re.fullmatch(r"\s*(50000|runs/mine|residual_output)\s*", line)


def test_every_option_of_run_is_explained():
    text = ok("run", "--help").stdout
    options = re.findall(r"^  (--\S+)(.*(?:\n {6,}\S.*)*)", text, re.MULTILINE)
    assert len(options) > 15
    for name, explained in options:
        assert len(explained.split()) >= 2, name


def test_version():
    assert ok("--version").stdout.strip() == f"repgeom {repgeom.__version__}"


def test_no_command_shows_help():
    assert "Usage" in call().output


@pytest.mark.parametrize(
    "arguments", [("walk",), ("run", "--no-such-option"), ("run", "--max-tokens", "many")]
)
def test_a_wrong_command_line_exits_with_2(arguments):
    outcome = call(*arguments)
    assert outcome.exit_code == 2
    assert "Traceback" not in outcome.output


def test_sites_of_the_demo_model(empty_folder):
    text = ok("sites").stdout
    assert "LlamaForCausalLM" in text
    assert "model.layers.5" in text
    assert files(empty_folder) == {}


# --- a run ---


def test_two_runs_make_two_folders(empty_folder):
    first = ok("run", *QUICK)
    assert first.stderr == ""
    assert ESCAPE not in first.stdout
    made = [path.name for path in (empty_folder / "repgeom-runs").iterdir()]
    assert made == ["demo-1"]
    before = files(empty_folder)
    second = ok("run", *QUICK)
    assert {path.name for path in (empty_folder / "repgeom-runs").iterdir()} == {"demo-1", "demo-2"}
    after = files(empty_folder)
    assert {name: after[name] for name in before} == before
    one, two = (repgeom.load_results(f"repgeom-runs/demo-{number}") for number in (1, 2))
    assert one.metrics.equals(two.metrics)
    assert str((empty_folder / "repgeom-runs" / "demo-2").resolve()) in re.sub(r"\s*\n", "", second.stdout)
    # The table for people shows the numbers of the bundle for programs.
    for _, row in one.metrics.iterrows():
        line = next(line for line in first.stdout.splitlines() if re.match(rf"│\s+{row['layer']} │", line))
        shown = [cell.strip() for cell in line.strip("│").split("│")]
        assert shown[1:4] == ["300", f"{row['d_pr']:.1f}", f"{row['d_entropy']:.1f}"]
    assert "300 tokens in" in first.stdout
    assert "repgeom-demo (LlamaForCausalLM)" in first.stdout


def test_tables_are_not_wider_than_what_is_read():
    for line in ok("run", *QUICK).stdout.splitlines():
        assert len(line) <= 150


def test_a_dry_run_writes_nothing_and_says_what_it_costs(empty_folder):
    outcome = ok("run", "--dry-run", *QUICK)
    assert files(empty_folder) == {}
    assert not any(empty_folder.iterdir())
    text = outcome.stdout
    for part in ("300 in", "memory", "MiB", "time", " s", "resid_pre.0, resid_pre.1", "1 of 6", "demo-1"):
        assert part in text, part
    wrong = call("run", "--dry-run", "--layers", "77")
    assert wrong.exit_code == 1
    assert not any(empty_folder.iterdir())


@pytest.mark.parametrize("mode", ["bundle", "csv", "json", "BUNDLE"])
def test_save_modes(mode):
    ok("run", *QUICK, "--out", "out", "--save-mode", mode)
    names = set(files(Path("out")))
    ending = "json" if mode == "json" else "csv"
    assert {f"metrics.{ending}", f"novelty.{ending}", "metadata.json", "eigenvalues.npz"} <= names
    assert ("arrays.safetensors" in names) == (mode.lower() == "bundle")
    json.loads(Path("out/metadata.json").read_text("utf-8"), parse_constant=pytest.fail)
    found = repgeom.load_results("out")
    assert found.metrics["layer"].tolist() == [0, 1]


def test_options_reach_the_run():
    ok(
        *("run", *QUICK, "--out", "out", "--metrics", "spectrum,novelty", "--novelty-k", "3"),
        *("--sample-limit", "17", "--seed", "5", "--batch-size", "2", "--threads", "1"),
        *("--hook-point", "residual_output", "--diagnostics", "normalization_ablation"),
        *("--device", "cpu", "--dtype", "float32"),
    )
    found = repgeom.load_results("out")
    options = {name: found.metadata[name] for name in ("novelty_k", "sample_limit", "seed", "batch_size")}
    assert options == {"novelty_k": 3, "sample_limit": 17, "seed": 5, "batch_size": 2}
    assert found.metadata["metrics"] == ["novelty", "spectrum"]
    assert found.metadata["sites"] == ["resid_post.0", "resid_post.1"]
    assert found.metadata["model_dtype"] == "float32"
    assert len(found.arrays["sample.index"]) == 17
    assert len(found.diagnostics["normalization_ablation"]) == 8
    assert "cos_sim_mean" not in found.metrics


def test_compat_is_the_library_with_compat():
    ok("run", *QUICK, "--out", "out", "--compat", "representation-geometry")
    want = repgeom.analyze_model(
        text=Path("../quick.txt"),
        max_tokens=300,
        max_length=64,
        layers="0,1",
        compat="representation-geometry",
        progress=False,
    )
    assert repgeom.load_results("out").metrics.equals(want.metrics)


def test_text_of_a_file():
    Path("plain.txt").write_text("First document.\n\nStill the first document, ü.", encoding="utf-8")
    Path("many.jsonl").write_text('{"text": "One."}\n\n{"text": "Two, longer.", "id": 2}\n', encoding="utf-8")
    for name, sequences in (("plain.txt", 1), ("many.jsonl", 2)):
        ok("run", "--text", name, "--layers", "0,1", "--out", f"out-{name}", "--no-progress")
        found = repgeom.load_results(f"out-{name}")
        assert found.metadata["dataset"] == name
        assert set(found.arrays["sample.sequence_ids"].tolist()) == set(range(sequences))
        path = models.DEMO_MODEL
        want = repgeom.analyze_model(path, text=Path(name), layers="0,1", progress=False)
        assert found.metrics.drop(columns=["model_key", "model_label"]).equals(
            want.metrics.drop(columns=["model_key", "model_label"])
        )


# --- bad input: one sentence, exit code 1, nothing written ---


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("./no-such-model",), "no model folder"),
        (("work",), "no model found under|no model folder"),
        (("empty",), "config.json"),
        (("--text", "missing.txt"), "missing.txt"),
        (("--text", "empty.txt"), "white space"),
        (("--text", "blank.txt"), "white space"),
        (("--text", "."), "must be a file"),
        (("--text", "latin.txt"), "UTF-8"),
        (("--text", "broken.jsonl"), "broken.jsonl:2"),
        (("--layers", "6"), "layers must be in 0..5"),
        (("--layers", "0,0"), "distinct"),
        (("--layers", "x"), "layers must be"),
        (("--metrics", "beauty"), "metrics must be among"),
        (("--diagnostics", "beauty"), "diagnostics must be among"),
        (("--compat", "beauty"), "compat must be"),
        (("--save-mode", "xml"), "save_mode must be one of"),
        (("--hook-point", "beauty"), "hook_point must be one of"),
        (("--hook-point", "module_input:beauty"), "no module 'beauty'"),
        (("--seed", "-1"), "seed must be"),
        (("--max-tokens", "1"), "at least two tokens, got 1"),
        (("--max-length", "1"), "max_length must"),
        (("--batch-size", "0"), "batch_size must be"),
        (("--sample-limit", "-1"), "sample_limit must be"),
        (("--novelty-k", "-2"), "novelty_k must be"),
        (("--threads", "0"), "threads must be"),
        (("--dtype", "int8"), "dtype must be"),
        (("--device", "abacus"), "device must be"),
        (("--out", "empty.txt/run"), "is a file"),
        (("--out", "empty.txt"), "is a file"),
        (("--out", "."), "choose a folder|cannot replace"),
    ],
)
def test_bad_input(empty_folder, monkeypatch, arguments, says):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    Path("empty").mkdir()
    Path("empty.txt").write_text("")
    Path("blank.txt").write_text(" \n\t\n")
    Path("latin.txt").write_bytes("Ärger".encode("latin-1"))
    Path("broken.jsonl").write_text('{"text": "fine"}\n{"text": 3}\n')
    before = files(empty_folder)
    given = {name for name in arguments if name.startswith("--")}
    given |= {"--layers"} if "module_input:beauty" in arguments else set()
    pairs = zip(QUICK[:8:2], QUICK[1:8:2], strict=True)
    quick = [part for name, value in pairs if name not in given for part in (name, value)]
    outcome = call("run", *arguments, *quick, "--no-progress")
    assert outcome.exit_code == 1, (outcome.output, outcome.exception)
    lines = outcome.stderr.strip().splitlines()
    assert len(lines) == 1, outcome.stderr
    assert lines[0].startswith("repgeom: error: ")
    assert re.search(says, lines[0]), lines[0]
    assert outcome.stdout == ""
    assert files(empty_folder) == before
    assert not Path("repgeom-runs").exists()


def test_another_run_in_the_folder_is_left_alone(empty_folder):
    ok("run", *QUICK, "--out", "out")
    before = files(empty_folder)
    outcome = call("run", *QUICK, "--out", "out", "--seed", "3")
    assert outcome.exit_code == 1
    assert "another run" in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1
    assert files(empty_folder) == before
    ok("run", *QUICK, "--out", "out", "--seed", "3", "--overwrite")
    assert repgeom.load_results("out").metadata["seed"] == 3
    assert [path.name for path in empty_folder.iterdir()] == ["out"]


def test_a_folder_without_permission(monkeypatch, empty_folder):
    """Also for root, who may write everywhere."""
    monkeypatch.setattr("os.access", lambda _path, mode, **_: not mode & os.W_OK)
    outcome = call("run", *QUICK, "--out", "out")
    assert outcome.exit_code == 1
    assert "no permission" in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1
    assert not any(empty_folder.iterdir())


def test_a_full_disk_is_one_sentence_as_well(monkeypatch, empty_folder):

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("repgeom.artifact.write_npz", full)
    outcome = call("run", *QUICK, "--out", "out")
    assert outcome.exit_code == 1
    assert not any(empty_folder.iterdir()), "half a run was left"
    assert "No space left" in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1


# --- NaN ---


def test_non_finite_tokens_exit_with_3_and_are_in_the_table_and_the_bundle():
    model, tokenizer = repgeom.load_model(device="cpu")
    text = "A line of text, with a hash at its end #"
    ids = tokenizer(text)["input_ids"]
    assert ids.count(ids[-1]) == 1
    with torch.no_grad():
        model.get_input_embeddings().weight[ids[-1]] = math.nan
    model.save_pretrained("model")
    tokenizer.save_pretrained("model")
    Path("text.txt").write_text(text)
    # Attention hands NaN on to every token, masked or not, so only the input of the first block is read.
    only = ("--layers", "0", "--no-progress")
    outcome = call("run", "model", "--text", "text.txt", "--out", "out", *only)
    assert outcome.exit_code == 3, (outcome.output, outcome.exception)
    assert f"Note: resid_pre.0: 1 of {len(ids)} tokens" in outcome.stdout
    found = repgeom.load_results("out")
    assert found.metrics["nonfinite_tokens"].tolist() == [1]
    assert found.metrics["tokens_observed"].tolist() == [len(ids) - 1]
    assert found.metrics["status"].str.contains("NaN or infinity").all()
    sound = repgeom.analyze_model(text=text[:-1].rstrip(), layers="0", progress=False)
    assert tokenizer(text[:-1].rstrip())["input_ids"] == ids[:-1]
    for name, values in sound.eigenvalues.items():
        assert abs(found.eigenvalues[name] - values).max() <= 1e-5 * values[0]


# --- Ctrl-C ---


def test_ctrl_c_saves_what_was_seen():
    command = [sys.executable, "-m", "repgeom", "run", "--max-tokens", "100000000", "--out", "out"]
    command += ["--max-length", "64", "--batch-size", "1", "--threads", "1", "--layers", "0,1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, start_new_session=True
    )
    assert process.stderr is not None
    try:
        seen, deadline = b"", time.monotonic() + 120
        while not re.search(rb"measuring:.*\| +[1-9][0-9.]*k?/", seen):
            assert time.monotonic() < deadline, seen
            assert process.poll() is None, seen
            seen += os.read(process.stderr.fileno(), 4096)
        process.send_signal(signal.SIGINT)
        stdout, rest = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    stderr = (seen + rest).decode()
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert ESCAPE not in stdout.decode() + stderr
    found = repgeom.load_results("out")
    tokens = found.metadata["tokens_observed"]
    total = int(float(re.findall(r"/([0-9.]+)k", stderr)[0]) * 1000)
    assert found.metadata["interrupted"] is True
    assert 2 <= tokens < total
    assert set(found.metrics["tokens_observed"]) == {tokens}
    message = stderr.strip().splitlines()[-1]
    assert message.startswith(f"repgeom: interrupted after {tokens} tokens")
    assert str(Path("out").resolve()) in message
    assert "again to stop at once" in stdout.decode() + stderr
    assert "RuntimeWarning" not in stderr


def pressing(times: int) -> tuple[Any, Any]:
    """The demo model, with Ctrl-C pressed while its third sequence runs."""
    model, tokenizer = models.load_model(device="cpu")
    calls = []

    def press(*_: Any) -> None:
        calls.append(1)
        # The first call is the probe that finds the blocks.
        for _ in range(times if len(calls) == 4 else 0):
            signal.raise_signal(signal.SIGINT)

    model.model.layers[0].register_forward_pre_hook(press)
    return model, tokenizer


def test_a_second_ctrl_c_ends_the_command_at_once(monkeypatch, empty_folder):
    monkeypatch.setattr("repgeom.measurand.load_model", lambda *_, **__: pressing(2))
    outcome = call("run", *QUICK, "--batch-size", "1", "--out", "out")
    assert outcome.exit_code == 130, (outcome.output, outcome.exception)
    assert "Traceback" not in outcome.output
    assert not any(empty_folder.iterdir())


def test_one_ctrl_c_in_the_same_place_saves(monkeypatch):
    monkeypatch.setattr("repgeom.measurand.load_model", lambda *_, **__: pressing(1))
    outcome = call("run", *QUICK, "--batch-size", "1", "--out", "out")
    assert outcome.exit_code == 130, (outcome.output, outcome.exception)
    assert repgeom.load_results("out").metadata["interrupted"] is True
    assert "Note: interrupted after" in outcome.stdout


def test_ctrl_c_before_the_run_begins(monkeypatch, empty_folder):
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("repgeom.measurand.load_model", interrupt)
    outcome = call("run", *QUICK)
    assert outcome.exit_code == 130
    assert "Traceback" not in outcome.output
    assert not any(empty_folder.iterdir())


def test_a_pipe_gets_plain_text(empty_folder):
    """A real process: its standard output and error are pipes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}
    done = subprocess.run(
        [sys.executable, "-m", "repgeom", "run", *QUICK[:6], "--out", "out"],
        capture_output=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"measuring" in done.stderr
    assert b"measuring" not in done.stdout
    assert done.stdout.decode().count("\n│") == 2
    assert (empty_folder / "out" / "metadata.json").is_file()
    assert demo.CORPUS_NAME in done.stdout.decode()


def test_a_narrow_terminal_gets_fewer_columns_with_whole_numbers(monkeypatch):
    results = repgeom.analyze_model(text=TEXT_FOR_TABLE, layers="0,1", progress=False)
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    summary(results, stream)
    lines = re.sub(ESCAPE + r"\[[0-9;]*m", "", stream.getvalue()).splitlines()
    assert max(map(len, lines)) <= max(60, len(lines[0]))
    assert "\u2026" not in stream.getvalue()
    assert any("more columns do not fit" in line for line in lines)
    assert any(f"{results.metrics['d_pr'].iloc[0]:.1f}" in line for line in lines)


def test_the_folder_of_a_model_in_the_working_directory_has_its_name(tmp_path, monkeypatch):
    from repgeom.cli import _fresh_folder

    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path / "my-model")
    assert _fresh_folder(".") == Path("repgeom-runs/my-model-1")
