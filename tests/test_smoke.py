"""The smoke test passes, is quick, and fails where it should."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
import torch

import repgeom.smoke as room
from repgeom.results import AnalysisResults, load_results
from repgeom.smoke import Check, smoke


def test_all_checks_pass_and_say_what_they_found(tmp_path):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    start = time.perf_counter()
    checks = smoke(tmp_path / "out")
    assert time.perf_counter() - start < 10
    assert torch.equal(torch.get_rng_state(), state)
    assert [check.name for check in checks] == [
        "tables are complete and finite",
        "files are written",
        "results read back equal",
        "eigenvalues are those of NumPy in float64",
        "participation ratios follow from them",
        "padding changes nothing",
    ]
    assert str(checks[2]) == "results read back equal: differing: none"
    assert load_results(tmp_path / "out").metadata["tokens_observed"] == 40


def test_two_runs_give_the_same_numbers(tmp_path):
    smoke(tmp_path / "a")
    smoke(tmp_path / "b")
    first, second = load_results(tmp_path / "a"), load_results(tmp_path / "b")
    for name, values in first.eigenvalues.items():
        assert np.array_equal(values, second.eigenvalues[name])
    assert first.metrics.equals(second.metrics)


def test_a_folder_in_use_is_left_alone(tmp_path):
    smoke(tmp_path / "out")
    with pytest.raises(FileExistsError):
        smoke(tmp_path / "out")


def hole(results: AnalysisResults) -> None:
    results.metrics.loc[1, "d_entropy"] = np.nan


def no_rows(results: AnalysisResults) -> None:
    results.novelty = results.novelty[:0]


def no_file(results: AnalysisResults) -> None:
    (results.artifact_dir / "novelty.csv").rename(results.artifact_dir / "elsewhere.csv")


def broken_file(results: AnalysisResults) -> None:
    (results.artifact_dir / "novelty.csv").write_text("layer\n")


def another_table(results: AnalysisResults) -> None:
    results.metrics.loc[0, "stable_rank"] += 1e-12


def another_array(results: AnalysisResults) -> None:
    name = next(iter(results.arrays))
    results.arrays[name] = results.arrays[name] + 1


def another_spectrum(results: AnalysisResults) -> None:
    # Before it is saved: see `tampered`.
    results.eigenvalues["layer_02"] = results.eigenvalues["layer_02"] * (1 + 1e-3)


def no_number(results: AnalysisResults) -> None:
    results.eigenvalues["layer_00"] = results.eigenvalues["layer_00"] * np.nan


def another_ratio(results: AnalysisResults) -> None:
    results.metrics["d_pr"] *= 1.01


TAMPERINGS = {
    "tables are complete and finite: .* not finite: metrics.d_entropy": (hole, False),
    "tables are complete and finite: metrics 3 rows, novelty 0 rows": (no_rows, False),
    "files are written: .* missing: novelty.csv": (no_file, False),
    "results read back equal: .*novelty.csv is not the file that was saved": (broken_file, False),
    "results read back equal: differing: metrics": (another_table, False),
    "results read back equal: differing: arrays": (another_array, False),
    "eigenvalues are those of NumPy in float64: largest relative error 1.0e-03": (another_spectrum, True),
    "eigenvalues are those of NumPy in float64: largest relative error nan": (no_number, True),
    "participation ratios follow from them: largest relative error 1.0e-02": (another_ratio, True),
}


@pytest.mark.parametrize("message", TAMPERINGS)
def test_what_is_wrong_is_named(tmp_path, monkeypatch, message):
    change, before_saving = TAMPERINGS[message]
    analyze = room.analyze_model

    def tampered(*args, save_dir=None, **options):
        results = analyze(*args, **options)
        if before_saving:
            change(results)
        if save_dir is not None:
            results.save(save_dir=save_dir)
        if not before_saving and save_dir is not None:
            change(results)
        return results

    monkeypatch.setattr(room, "analyze_model", tampered)
    with pytest.raises(RuntimeError, match=f"^the smoke test failed: {message}"):
        smoke(tmp_path / "out")


def test_padding_that_counts_is_noticed(tmp_path, monkeypatch):
    analyze = room.analyze_model

    def without_masks(model, batches, **options):
        return analyze(model, [{"input_ids": batch["input_ids"]} for batch in batches], **options)

    monkeypatch.setattr(room, "analyze_model", without_masks)
    with pytest.raises(RuntimeError, match=r"^the smoke test failed: padding changes nothing"):
        smoke(tmp_path / "out")


def test_a_check_is_a_sentence():
    assert str(Check("one thing", "another")) == "one thing: another"
    assert dataclasses.is_dataclass(Check)
