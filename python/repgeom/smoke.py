"""Whether the installation works: a tiny model is measured, and its numbers checked against plain NumPy."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from repgeom.analysis import analyze_model
from repgeom.arrays import Float64Array
from repgeom.results import AnalysisResults, load_results

WIDTH: Final = 24
BLOCKS: Final = 3
VOCABULARY: Final = 32
FILES: Final = ("metrics.csv", "novelty.csv", "eigenvalues.npz", "arrays.safetensors", "metadata.json")
ABLATION: Final = "normalization_ablation"


@dataclass(frozen=True)
class Check:
    """One thing that was checked, and what was found; printed as a sentence."""

    name: str
    found: str

    def __str__(self) -> str:
        return f"{self.name}: {self.found}"


def smoke(out_dir: str | os.PathLike[str]) -> list[Check]:
    """Measures a tiny model of fixed weights on 4 batches of 2 x 5 tokens, and checks the results.

    Args:
        out_dir: A new folder for the results.

    Returns:
        The checks, all of which were passed.

    Raises:
        RuntimeError: The first check that fails.
        FileExistsError: The folder holds something already.
    """
    model, batches = _model(), _batches()
    results = _analyze(model, batches, save_dir=out_dir)
    checks = []
    for check, passed in _checks(results, model, batches):
        if not passed:
            raise RuntimeError(f"the smoke test failed: {check}")
        checks.append(check)
    return checks


def _checks(
    results: AnalysisResults, model: nn.Module, batches: list[dict[str, Tensor]]
) -> Iterator[tuple[Check, bool]]:
    """Every check, and whether it was passed."""
    yield _tables(results)
    yield _files(results)
    yield _loaded(results)
    yield from _spectrum(results, _residuals(model, batches))
    yield _padding(results, model, batches)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + torch.tanh(self.proj(self.norm(hidden)))


class _Transformer(nn.Module):
    """Embedding, blocks, unembedding; every token by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(BLOCKS))
        self.lm_head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        del attention_mask
        hidden = self.embed(input_ids)
        for block in self.blocks:
            hidden = block(hidden)
        logits: Tensor = self.lm_head(hidden)
        return logits


def _model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _Transformer().eval()


def _batches() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (4, 2, 5), generator=generator)
    return [{"input_ids": batch, "attention_mask": torch.ones_like(batch)} for batch in ids]


def _analyze(
    model: nn.Module, batches: list[dict[str, Tensor]], save_dir: str | os.PathLike[str] | None = None
) -> AnalysisResults:
    return analyze_model(
        model,
        batches,
        max_tokens=None,
        novelty_k=8,
        diagnostics=[ABLATION],
        save_dir=save_dir,
        progress=False,
    )


def _residuals(model: nn.Module, batches: list[dict[str, Tensor]]) -> list[Float64Array]:
    """`[40, WIDTH]` of what enters every block, by a loop of its own."""
    assert isinstance(model, _Transformer)
    with torch.no_grad():
        streams = [model.embed(torch.cat([batch["input_ids"].reshape(-1) for batch in batches]))]
        for block in model.blocks:
            streams.append(block(streams[-1]))
    return [stream.double().numpy() for stream in streams[:BLOCKS]]


def _tables(results: AnalysisResults) -> tuple[Check, bool]:
    tables = {
        "metrics": results.metrics,
        "novelty": results.novelty,
        ABLATION: results.diagnostics[ABLATION],
    }
    sizes = {name: len(table) for name, table in tables.items()}
    holes = [
        f"{name}.{column}"
        for name, table in tables.items()
        for column in table.select_dtypes("number").columns
        if not np.isfinite(table[column]).all()
    ]
    wanted = {"metrics": BLOCKS, "novelty": BLOCKS - 1, ABLATION: 4 * BLOCKS}
    found = ", ".join(f"{name} {size} rows" for name, size in sizes.items())
    check = Check("tables are complete and finite", f"{found}, not finite: {', '.join(holes) or 'none'}")
    return check, sizes == wanted and not holes


def _files(results: AnalysisResults) -> tuple[Check, bool]:
    folder = results.artifact_dir or Path()
    missing = [name for name in (*FILES, f"diagnostics/{ABLATION}.csv") if not (folder / name).is_file()]
    return Check("files are written", f"{folder}, missing: {', '.join(missing) or 'none'}"), not missing


def _loaded(results: AnalysisResults) -> tuple[Check, bool]:
    name = "results read back equal"
    try:
        back = load_results(results.artifact_dir or Path())
    except ValueError as error:
        return Check(name, str(error)), False
    tables = {
        "metrics": (results.metrics, back.metrics),
        "novelty": (results.novelty, back.novelty),
        ABLATION: (results.diagnostics[ABLATION], back.diagnostics[ABLATION]),
    }
    arrays = {"eigenvalues": (results.eigenvalues, back.eigenvalues), "arrays": (results.arrays, back.arrays)}
    differing = [which for which, (saved, read) in tables.items() if not saved.equals(read)]
    differing += [which for which, (saved, read) in arrays.items() if not _equal(saved, read)]
    return Check(name, f"differing: {', '.join(differing) or 'none'}"), not differing


def _equal(saved: Mapping[str, NDArray[Any]], read: Mapping[str, NDArray[Any]]) -> bool:
    return saved.keys() == read.keys() and all(
        np.array_equal(saved[name], read[name], equal_nan=saved[name].dtype.kind == "f") for name in saved
    )


def _spectrum(results: AnalysisResults, streams: list[Float64Array]) -> list[tuple[Check, bool]]:
    """Eigenvalues and participation ratio of every layer against the plain formulas."""
    values, ratios = [], []
    for layer, stream in enumerate(streams):
        exact = np.linalg.eigvalsh(np.cov(stream, rowvar=False))[::-1]
        values.append(np.abs(results.eigenvalues[f"layer_{layer:02d}"] - exact).max() / exact[0])
        ratio = exact.sum() ** 2 / np.square(exact).sum()
        ratios.append(abs(results.metrics["d_pr"][layer] / ratio - 1))
    return [
        _within("eigenvalues are those of NumPy in float64", float(np.max(values)), 1e-5),
        _within("participation ratios follow from them", float(np.max(ratios)), 1e-5),
    ]


def _padding(
    results: AnalysisResults, model: nn.Module, batches: list[dict[str, Tensor]]
) -> tuple[Check, bool]:
    """The same tokens with three of padding on the right."""
    padded = [
        {
            "input_ids": nn.functional.pad(batch["input_ids"], (0, 3), value=VOCABULARY - 1),
            "attention_mask": nn.functional.pad(batch["attention_mask"], (0, 3)),
        }
        for batch in batches
    ]
    other = _analyze(model, padded)
    errors = [
        np.abs(other.eigenvalues[name] - values).max() / values.max()
        for name, values in results.eigenvalues.items()
    ]
    counted = set(other.metrics["tokens_observed"]) == set(results.metrics["tokens_observed"])
    check, close = _within("padding changes nothing", float(np.max(errors)), 1e-6)
    return check, close and counted


def _within(name: str, error: float, tolerance: float) -> tuple[Check, bool]:
    return Check(name, f"largest relative error {error:.1e}, tolerance {tolerance:.0e}"), error <= tolerance
