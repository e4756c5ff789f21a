"""Token policies in a run: which tokens count in every layer, what was left out, and what that carried."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import model_families
import repgeom
from repgeom.cli import app
from repgeom.tokens import TokenPolicy

SITES = [f"resid_pre.{i}" for i in range(model_families.LAYERS)]


def analyze(model: nn.Module, batches: Any, **options: Any) -> repgeom.AnalysisResults:
    return repgeom.analyze_model(model=model, dataloader=batches, progress=False, **options)


def with_sinks() -> nn.Module:
    """A model in which token 5 is an attention sink from the second block on."""
    model = model_families.build("llama")

    def sink(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return torch.where((sink.ids == 5)[..., None], output * 1000, output)  # type: ignore[attr-defined]

    model.register_forward_pre_hook(
        lambda _m, _a, kwargs: setattr(sink, "ids", kwargs["input_ids"]), with_kwargs=True
    )
    model.get_submodule("model.layers.0").register_forward_hook(sink)
    return model


def ids(*rows: list[int]) -> dict[str, Tensor]:
    width = max(map(len, rows))
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    padded = [row + [0] * (width - len(row)) for row in rows]
    return {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}


BATCHES = [
    ids([1, 20, 5, 31, 42, 53], [1, 23, 33, 43]),
    ids([1, 20, 5, 36, 47, 58, 69], [7, 8, 9, 5, 11, 12]),
]


def states(model: nn.Module) -> tuple[dict[str, Tensor], Tensor]:
    """All real tokens of every layer, and their ids."""
    rows: dict[str, list[Tensor]] = {site: [] for site in SITES}
    tokens = []
    with repgeom.capture(model, SITES) as activations:
        for batch in BATCHES:
            activations.run(**batch)
            real = batch["attention_mask"].bool()
            tokens.append(batch["input_ids"][real])
            for site in SITES:
                rows[site].append(activations[site][real])
    return {site: torch.cat(parts) for site, parts in rows.items()}, torch.cat(tokens)


def assert_counted(found: repgeom.AnalysisResults, rows: dict[str, Tensor], keep: Tensor) -> None:
    """Every layer was measured on exactly these tokens."""
    for layer, site in enumerate(SITES):
        kept = rows[site][keep].double().numpy()
        assert found.metrics["tokens_observed"][layer] == len(kept)
        values = np.sort(np.linalg.eigvalsh(np.cov(kept.T)))[::-1]
        np.testing.assert_allclose(
            found.eigenvalues[f"layer_{layer:02d}"], values, rtol=1e-4, atol=1e-5 * values[0]
        )
        assert len(found.arrays[f"sample.layer_{layer:02d}"]) == len(kept)


def shares(found: repgeom.AnalysisResults, reason: str) -> list[float]:
    table = found.diagnostics["removed_tokens"]
    return table.loc[table["reason"] == reason, "variance_share"].tolist()


def test_attention_sinks_leave_every_layer():
    model = with_sinks()
    rows, tokens = states(model)
    keep = tokens != 5
    found = analyze(model, BATCHES, token_policy=TokenPolicy(high_norm=20.0))
    assert_counted(found, rows, keep)
    assert found.metadata["tokens_removed"] == {"high_norm": 3}
    assert (found.arrays["sample.token_ids"] != 5).all()
    for layer, site in enumerate(SITES):
        every = rows[site].double()
        centred = ((every - every.mean(0)) ** 2).sum(1)
        want = float(centred[~keep].sum() / centred.sum())
        assert shares(found, "high_norm")[layer] == pytest.approx(want, rel=1e-6)
    before, after = shares(found, "high_norm")[:2]
    assert before < 0.5
    assert after > 0.9


@pytest.mark.parametrize("size", [1, 3])
def test_sinks_do_not_depend_on_the_batches(size):
    model = with_sinks()
    singles = [
        {name: value[row : row + 1] for name, value in batch.items()} for batch in BATCHES for row in (0, 1)
    ]
    if size == 3:
        singles = [
            ids(*([i.item() for i, m in zip(b["input_ids"][0], b["attention_mask"][0], strict=True) if m]
                  for b in singles[start : start + 3]))
            for start in (0, 3)
        ]  # fmt: skip
    policy = TokenPolicy(high_norm=20.0)
    found = analyze(model, singles, token_policy=policy)
    want = analyze(model, BATCHES, token_policy=policy)
    assert found.metadata["tokens_removed"] == want.metadata["tokens_removed"]
    assert found.arrays["sample.token_ids"].tolist() == want.arrays["sample.token_ids"].tolist()
    np.testing.assert_allclose(found.metrics["d_pr"], want.metrics["d_pr"], rtol=1e-4)


def test_a_threshold_that_nothing_exceeds_changes_nothing():
    model = model_families.build("llama")
    found = analyze(model, BATCHES, token_policy=TokenPolicy(high_norm=1e6))
    want = analyze(model, BATCHES)
    assert found.metrics.equals(want.metrics)
    assert "removed_tokens" not in found.diagnostics


def test_first_positions_and_duplicates():
    model = model_families.build("llama")
    rows, tokens = states(model)
    first = torch.tensor(
        [1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0], dtype=torch.bool
    )
    # "1 20 5" begins the third sequence as it began the first, and "1" the second.
    duplicate = torch.zeros(len(tokens), dtype=torch.bool)
    duplicate[[6, 10, 11, 12]] = True
    assert_counted(analyze(model, BATCHES, token_policy=TokenPolicy(first=1)), rows, ~first)
    found = analyze(model, BATCHES, token_policy=TokenPolicy(duplicates="drop"))
    assert_counted(found, rows, ~duplicate)
    assert found.metadata["tokens_removed"] == {"duplicate": 4}
    both = analyze(model, BATCHES, token_policy=TokenPolicy(duplicates="drop", first=1))
    assert_counted(both, rows, ~(first | duplicate))
    assert sum(both.metadata["tokens_removed"].values()) == int((first | duplicate).sum())


def test_labels():
    model = model_families.build("llama")
    rows, _ = states(model)
    labelled = [
        {**batch, "labels": torch.where(batch["input_ids"] > 30, batch["input_ids"], -100)}
        for batch in BATCHES
    ]
    found = analyze(model, labelled, token_policy=TokenPolicy(labels="require"))
    keep = torch.cat([b["input_ids"][b["attention_mask"].bool()] for b in BATCHES]) > 30
    assert_counted(found, rows, keep)


def test_the_policy_and_its_effect_are_on_disk(tmp_path):
    policy = TokenPolicy(first=1, high_norm=20.0)
    analyze(with_sinks(), BATCHES, token_policy=policy, save_dir=tmp_path / "run")
    again = repgeom.load_results(tmp_path / "run")
    assert TokenPolicy.from_dict(again.metadata["token_policy"]) == policy
    assert again.metadata["tokens_removed"] == {"first": 4, "high_norm": 3}
    assert set(again.diagnostics["removed_tokens"]["reason"]) == {"first", "high_norm"}


def test_a_policy_that_leaves_nothing():
    with pytest.raises(ValueError, match="at least one position that counts under the token policy"):
        analyze(model_families.build("llama"), BATCHES, token_policy=TokenPolicy(first=50))


def test_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["run", "--max-tokens", "300", "--first", "1", "--high-norm", "3", "--drop-duplicates"]
    outcome = CliRunner().invoke(app, [*arguments, "--no-progress", "--out", "out", "--pool", "last"])
    assert outcome.exit_code == 0, outcome.output
    assert "Left out by the token policy (first)" in outcome.output
    assert "pooled sequence vectors" in outcome.output
    loaded = repgeom.load_results("out")
    assert loaded.metadata["token_policy"]["high_norm"] == 3.0
    assert any(name.startswith("pooled.last.") for name in loaded.arrays)
