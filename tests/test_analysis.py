"""`analyze_model` against sums written out in float64, and what it does with bad input and Ctrl-C."""

from __future__ import annotations

import gc
import hashlib
import math
import signal
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

import model_families
import repgeom
from repgeom import analysis, demo
from repgeom.analysis import plan_analysis
from repgeom.collect import Collector
from repgeom.metrics import measure
from repgeom.outcome import RunInterrupted
from repgeom.padding import check_padding
from repgeom.tokens import TokenBatch, TokenPolicy

TEXTS = [text[:500] for text in demo.held_out_documents()[:5]] + ["One short line."]
FIVE_METRICS = ("d_pr", "d_entropy", "stable_rank", "top1_share")


@pytest.fixture(scope="module")
def demo_model() -> tuple[nn.Module, Any]:
    return repgeom.load_model(device="cpu")


def analyze(*args: Any, **options: Any) -> repgeom.AnalysisResults:
    return repgeom.analyze_model(*args, progress=False, **options)


def loader(*lengths: int, seed: int = 1) -> list[dict[str, Tensor]]:
    """Batches of two sequences each, the second one padded on the right to the length of the first."""
    batches = []
    for number, length in enumerate(lengths):
        batch = model_families.batch(2, length, seed=seed + number)
        batch["attention_mask"][1, length // 2 :] = 0
        batches.append(batch)
    return batches


def distinct(batches: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The batches with all ids different from one another, and from those that a probe may use."""
    start = 10
    for batch in batches:
        size = batch["input_ids"].numel()
        batch["input_ids"] = torch.arange(start, start + size).reshape(batch["input_ids"].shape)
        start += size
    return batches


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


# --- the oracle: hooks by hand, all real tokens in float64, formulas as in the specification ---


def streams(model: nn.Module, batches: Any, modules: list[nn.Module], side: str) -> list[np.ndarray]:
    """``[n, d]`` float64 of each module: its input or output at the real tokens, in the order of the text."""
    seen: list[list[Tensor]] = [[] for _ in modules]

    def first(value: Any) -> Tensor:
        return value if isinstance(value, Tensor) else value[0]

    def hook(here: list[Tensor]) -> Callable[..., None]:
        def keep(_module: Any, args: Any, kwargs: Any, output: Any) -> None:
            given = args[0] if args else kwargs["hidden_states"]
            here.append(first(output if side == "output" else given).detach().clone())

        return keep

    handles = [
        module.register_forward_hook(hook(here), with_kwargs=True)
        for here, module in zip(seen, modules, strict=True)
    ]
    try:
        for batch in batches:
            mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
            with torch.no_grad():
                model(**batch)
            for here in seen:
                here[-1] = here[-1][mask]
    finally:
        for handle in handles:
            handle.remove()
    return [torch.cat(here).double().numpy() for here in seen]


def spectrum_of(values: np.ndarray, rank: int) -> dict[str, float]:
    values = np.sort(np.maximum(values, 0))[::-1]
    total, dim = math.fsum(values), len(values)
    shares = [value / total for value in values]
    entropy = -math.fsum(p * math.log(p) for p in shares if p > 0)
    ranks = np.arange(10, min(200, rank))
    enough = len(ranks) >= 6
    return {
        "d_pr": total**2 / math.fsum(values**2),
        "d_pr_norm": total**2 / math.fsum(values**2) / dim,
        "d_entropy": math.exp(entropy),
        "d_entropy_norm": math.exp(entropy) / dim,
        "stable_rank": total / values[0],
        "top1_share": shares[0],
        "top10_share": math.fsum(shares[:10]),
        "top32_share": math.fsum(shares[:32]),
        "k90": 1 + sum(math.fsum(shares[: k + 1]) < 0.90 for k in range(dim)),
        "k95": 1 + sum(math.fsum(shares[: k + 1]) < 0.95 for k in range(dim)),
        "log_spectrum_slope_10_200": np.polyfit(ranks, np.log(values[ranks]), 1)[0] if enough else math.nan,
    }


def rank_of(stream: np.ndarray) -> int:
    """Directions with more variance than the rounding of float32 activations makes."""
    s = np.linalg.svd(stream - stream.mean(axis=0), compute_uv=False)
    return int(np.sum(s > 1e-5 * s[0]))


def sample_of(rows: np.ndarray) -> dict[str, float]:
    s = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    s = s[s > 1e-12 * s[0]]
    w, p = s / s.sum(), s**2 / (s**2).sum()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    gram = unit @ unit.T
    cosines = [gram[i, j] for i, j in permutations(range(len(rows)), 2)]
    return {
        "sv_effective_rank": math.exp(-math.fsum(w * np.log(w))),
        "sv_stable_rank": 1 / p[0],
        "sv_participation_ratio": 1 / math.fsum(p**2),
        "cos_sim_mean": math.fsum(cosines) / len(cosines),
        "cos_sim_std": float(np.std(cosines, ddof=1)),
        **{f"ve_{k}": math.fsum(p[:k]) for k in (4, 8, 16, 32)},
        "sv_entropy_rank": math.exp(-math.fsum(p * np.log(p))),
    }


def standard_errors_of(rows: np.ndarray, stream: np.ndarray) -> dict[str, float]:
    """Influences by moving one row's weight a little, without any derivative written by hand."""
    mean, covariance = stream.mean(axis=0), np.cov(stream, rowvar=False)
    values, vectors = np.linalg.eigh(covariance)
    step = 1e-6
    influences = []
    for row in rows:
        # First-order change of each eigenvalue when the row gets a little more weight.
        change = (vectors.T @ (row - mean)) ** 2 - values
        up, down = (spectrum_of(values + sign * step * change, rank=0) for sign in (1, -1))
        influences.append([(up[name] - down[name]) / (2 * step) for name in FIVE_METRICS])
    errors = np.std(influences, axis=0, ddof=1) / math.sqrt(len(stream))
    return {f"{name}_se_iid": error for name, error in zip(FIVE_METRICS, errors, strict=True)}


def cka_of(x: np.ndarray, y: np.ndarray, debiased: bool) -> float:
    """Song et al. (2012), eq. 5, term by term on the Gram matrices without their diagonals."""
    n = len(x)

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        if not debiased:
            centre = np.eye(n) - 1 / n
            return float(np.trace(centre @ (a @ a.T) @ centre @ (b @ b.T)))
        k, l = (gram - np.diag(np.diag(gram)) for gram in (a @ a.T, b @ b.T))  # noqa: E741
        ones = np.ones(n)
        sums = (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2))
        return float((np.trace(k @ l) + sums - 2 / (n - 2) * (ones @ k @ l @ ones)) / (n * (n - 3)))

    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))


def leading(stream: np.ndarray, k: int) -> np.ndarray:
    return np.linalg.eigh(np.cov(stream, rowvar=False))[1][:, ::-1][:, :k]


def novelty_of(left: np.ndarray, right: np.ndarray, x: np.ndarray, y: np.ndarray, k: int) -> dict[str, float]:
    cosines = np.linalg.svd(leading(left, k).T @ leading(right, k), compute_uv=False)
    pairs = [a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(x, y, strict=True)]
    return {
        "novelty_k": k,
        "feature_subspace_novelty": float(np.mean(np.sqrt(np.maximum(0, 1 - np.clip(cosines, 0, 1) ** 2)))),
        "linear_cka": cka_of(x, y, debiased=True),
        "linear_cka_biased": cka_of(x, y, debiased=False),
        "layer_cosine_sim": math.fsum(pairs) / len(pairs),
    }


def assert_row(found: Any, want: dict[str, Any], rtol: float, where: str) -> None:
    for name, value in want.items():
        got = found[name]
        if isinstance(value, float | np.floating) and math.isnan(value):
            assert math.isnan(got), f"{where}.{name}: NaN expected, got {got}"
        else:
            tolerance = rtol * max(abs(value), 1e-3)
            assert abs(got - value) <= tolerance, f"{where}.{name}: {value} expected, got {got}"


def assert_measured(
    results: repgeom.AnalysisResults,
    wanted: list[np.ndarray],
    *,
    sampled: np.ndarray | None = None,
    rtol: float = 1e-4,
) -> None:
    """Every number of the tables, the means and the eigenvalues against the streams of the layers.

    ``sampled``: the tokens that the sample holds, as indices into the streams; by default what is recorded.
    """
    index = results.arrays["sample.index"] if sampled is None else sampled
    assert len(results.metrics) == len(wanted)
    assert len(results.novelty) == max(0, len(wanted) - 1)
    assert len(set(results.metrics["layer"])) == len(wanted)
    for place, stream in enumerate(wanted):
        row = results.metrics.iloc[place]
        layer = f"layer_{row['layer']:02d}"
        rows = stream[index]
        covariance = np.cov(stream, rowvar=False)
        values = np.linalg.eigvalsh(covariance)[::-1]
        scale = math.sqrt(np.trace(covariance))
        np.testing.assert_allclose(results.arrays[f"mean.{layer}"], stream.mean(axis=0), atol=1e-5 * scale)
        np.testing.assert_allclose(results.eigenvalues[layer], values, rtol=rtol, atol=1e-6 * values[0])
        sample = results.arrays[f"sample.{layer}"]
        np.testing.assert_allclose(sample, rows, atol=1e-4 * np.abs(rows).max())
        rank = rank_of(stream)
        want = {
            "num_layers": len(wanted),
            "layer_norm_depth": row["layer"] / max(1, *results.metrics["layer"]),
            "tokens_observed": len(stream),
            "hidden_dim": stream.shape[1],
            **spectrum_of(values, rank),
            **sample_of(rows),
            "norm_of_mean": np.linalg.norm(stream.mean(axis=0)),
            "rms_norm": math.sqrt(np.mean(np.sum(stream**2, axis=1))),
            "rank": rank,
        }
        assert_row(row, want, rtol, layer)
        assert_row(row, standard_errors_of(rows, stream), 50 * rtol, layer)
        vectors = results.arrays[f"eigenvectors.{layer}"]
        # A + E = V diag(values) V^T, tested vector by vector.
        residual = np.abs(covariance @ vectors - vectors * values[: vectors.shape[1]]).max()
        assert residual <= 1e-4 * values[0]
        if place:
            before = wanted[place - 1]
            novelty = results.novelty.iloc[place - 1]
            assert novelty["transition"] == f"{results.metrics.iloc[place - 1]['layer']}->{row['layer']}"
            k = min(results.metadata["novelty_k"], rank)
            assert_row(novelty, novelty_of(before, stream, before[index], rows, k), 50 * rtol, layer)


def residual_modules(model: nn.Module) -> list[nn.Module]:
    for path in ("model.layers", "transformer.h", "blocks"):
        try:
            return [*model.get_submodule(path)]
        except AttributeError:
            continue
    raise AssertionError("the test does not know this model")


HOOK_POINTS = ("residual_input", "residual_output", "module_input", "module_output")


@pytest.mark.parametrize("hook_point", HOOK_POINTS)
def test_demo_model_on_text_is_what_its_tokens_say(demo_model, hook_point):
    model, tokenizer = demo_model
    batches = [tokenizer(text, return_tensors="pt", return_token_type_ids=False) for text in TEXTS]
    path = "model.layers.3.mlp"
    modules, name = residual_modules(model), hook_point
    if hook_point.startswith("module"):
        modules, name = [model.get_submodule(path)], f"{hook_point}:{path}"
    want = streams(model, batches, modules, hook_point.split("_")[1])
    found = analyze(
        model, tokenizer=tokenizer, text=TEXTS, hook_point=name, batch_size=4, sample_limit=60, novelty_k=7
    )
    assert_measured(found, want)
    index = found.arrays["sample.index"]
    ids = torch.cat([batch["input_ids"][0] for batch in batches]).numpy()
    sequences = np.concatenate([np.full(batch["input_ids"].numel(), i) for i, batch in enumerate(batches)])
    positions = np.concatenate([np.arange(batch["input_ids"].numel()) for batch in batches])
    assert len(index) == 60
    assert (found.arrays["sample.token_ids"] == ids[index]).all()
    assert (found.arrays["sample.sequence_ids"] == sequences[index]).all()
    assert (found.arrays["sample.positions"] == positions[index]).all()
    assert set(found.metrics["nonfinite_tokens"]) == {0}
    assert set(found.metrics["status"]) == {"ok"}


@pytest.mark.parametrize("hook_point", HOOK_POINTS)
def test_tiny_gpt2_on_a_dataloader_is_what_its_tokens_say(hook_point):
    model, batches = model_families.build("gpt2"), loader(20, 9, 14, 30)
    modules, name = residual_modules(model), hook_point
    if hook_point.startswith("module"):
        modules, name = [model.transformer.h[1].mlp.c_proj], f"{hook_point}:transformer.h.1.mlp.c_proj"
    want = streams(model, batches, modules, hook_point.split("_")[1])
    assert_measured(analyze(model, batches, hook_point=name, sample_limit=40, novelty_k=5), want)


def test_chosen_layers_are_compared_with_one_another():
    model, batches = model_families.build("gpt2"), loader(20, 9)
    want = streams(model, batches, residual_modules(model), "input")
    for layers in ("0,2", "::2", [2, 0], (0, 2)):
        found = analyze(model, batches, layers=layers, novelty_k=5)
        assert found.metrics["layer"].tolist() == [0, 2]
        assert_measured(found, [want[0], want[2]])
    found = analyze(model, batches, layers=1)
    assert_measured(found, [want[1]])


@pytest.mark.parametrize("hook_point", ["residual_input", "residual_output"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"output": "tuple"},
        {"output": "dict"},
        {"keyword": True},
        {"shared": True},
        {"sequence_first": True},
    ],
)
def test_models_as_users_write_them(options, hook_point):
    """Against the plain form of the same model, which computes the same numbers."""
    plain, model, batches = (
        model_families.custom(),
        model_families.custom(**options),
        distinct(loader(24, 16)),
    )
    if options.get("shared"):
        for block in plain.blocks:
            block.load_state_dict(model.blocks[0].state_dict())
        plain.embed.load_state_dict(model.embed.state_dict())
    scale = 0.5 if options.get("keyword") else 1.0
    plain.register_forward_pre_hook(lambda *_: None)
    for block in plain.blocks:
        block.forward = lambda hidden, block=block: type(block).forward(block, hidden, scale)
    want = streams(plain, batches, [*plain.blocks], hook_point.split("_")[1])
    assert_measured(analyze(model, batches, hook_point=hook_point, novelty_k=4), want)


@pytest.mark.parametrize("side", ["input", "output"])
def test_a_module_that_works_sequence_first_never_counts_padding(side):
    model, batches = model_families.custom(sequence_first=True), loader(12, 8)
    plain = model_families.custom()
    want = streams(plain, batches, [plain.blocks[1]], side)
    refused, mean = "", None
    try:
        mean = analyze(model, batches, hook_point=f"module_{side}:blocks.1").arrays["mean.layer_00"]
    except ValueError as refusal:
        refused = str(refusal)
    right = mean is not None and np.allclose(mean, want[0].mean(axis=0), rtol=1e-4, atol=1e-5)
    assert right or "blocks.1" in refused


@pytest.mark.parametrize("why", ["repeated tokens", "layer norm"])
def test_the_rank_is_that_of_the_data_and_not_of_rounding(why):
    if why == "repeated tokens":
        model, options = model_families.custom(), {"layers": "0"}
        batches = [
            {"input_ids": torch.randint(20, (4, 30), generator=torch.Generator().manual_seed(i))}
            for i in range(3)
        ]
        want = streams(model, batches, [model.blocks[0]], "input")[0]
        rank = 19
    else:
        model, options = model_families.build("gpt2"), {"hook_point": "module_output:transformer.h.1.ln_1"}
        batches = loader(30, 40, 50)
        want = streams(model, batches, [model.transformer.h[1].ln_1], "output")[0]
        rank = 31
    assert rank_of(want) == rank
    found = analyze(model, batches, novelty_k=4, **options).metrics.iloc[0]
    assert found["rank"] == rank
    slope = spectrum_of(np.linalg.eigvalsh(np.cov(want, rowvar=False)), rank)["log_spectrum_slope_10_200"]
    assert_row(found, {"log_spectrum_slope_10_200": slope}, 1e-3, why)


def test_float64_and_bfloat16_models():
    batches = loader(20, 30)
    exact = model_families.build("llama").double()
    want = streams(exact, batches, residual_modules(exact), "input")
    assert_measured(analyze(exact, batches, novelty_k=4), want, rtol=1e-9)
    low = model_families.build("llama").bfloat16()
    want = streams(low, batches, residual_modules(low), "input")
    found = analyze(low, batches, novelty_k=4)
    assert found.metadata["model_dtype"] == "bfloat16"
    for layer, stream in enumerate(want):
        np.testing.assert_allclose(found.arrays[f"mean.layer_{layer:02d}"], stream.mean(axis=0), atol=1e-4)
        values = np.linalg.eigvalsh(np.cov(stream, rowvar=False))[::-1]
        np.testing.assert_allclose(found.eigenvalues[f"layer_{layer:02d}"], values, atol=1e-5 * values[0])


def test_a_large_common_offset_does_not_cost_digits():
    """The peer loses them (spectral.md section 9)."""
    model, batches = model_families.custom(), loader(30, 30, 30)
    with torch.no_grad():
        model.embed.weight[:, 3] += 3000.0
    want = streams(model, batches, [model.blocks[0]], "input")
    found = analyze(model, batches, layers="0", novelty_k=4)
    values = np.linalg.eigvalsh(np.cov(want[0], rowvar=False))[::-1]
    np.testing.assert_allclose(found.eigenvalues["layer_00"], values, rtol=1e-4)
    covered = found.metrics["covariance_error"].iloc[0]
    assert 0 < covered < 1e-4


def test_padding_counts_only_when_the_policy_says_so():
    model, batches = model_families.build("gpt2"), loader(20, 9)
    everything = [{"input_ids": batch["input_ids"]} for batch in batches]
    ours = analyze(model, batches, token_policy=TokenPolicy(padding="keep"))
    assert ours.metadata["tokens_observed"] == 58
    assert ours.metadata["padding_observed"] == 15
    assert analyze(model, batches).metadata["tokens_observed"] == 43
    assert analyze(model, everything).metadata["tokens_observed"] == 58


@pytest.mark.parametrize("form", ["tensor", "tuple", "list", "generator", "dataset", "encoding"])
def test_batches_in_every_documented_form(form):
    model, ids = model_families.custom(), [batch["input_ids"] for batch in distinct(loader(24, 16))]
    forms: dict[str, Any] = {
        "tensor": ids,
        "tuple": [(x, torch.ones_like(x)) for x in ids],
        "list": [[x] for x in ids],
        "generator": (x for x in ids),
        "dataset": torch.utils.data.DataLoader([{"input_ids": row} for row in ids[0]], batch_size=2),
        "encoding": [transformers.BatchEncoding({"input_ids": x}) for x in ids],
    }
    used = ids[:1] if form == "dataset" else ids
    want = streams(model, [{"input_ids": x} for x in used], [*model.blocks], "input")
    assert_measured(analyze(model, forms[form], novelty_k=4), want)


def test_a_batch_may_say_use_cache_itself():
    model, batches = model_families.build("llama"), loader(12, 8)
    want = analyze(model, batches)
    given = analyze(model, [{**batch, "use_cache": False} for batch in batches])
    assert given.metrics.equals(want.metrics)


# --- families of metrics ---


def test_families_ask_for_no_more_and_no_less():
    model, batches = model_families.build("gpt2"), loader(20, 9)
    everything = analyze(model, batches, diagnostics="normalization_ablation")
    assert set(everything.diagnostics) == {"normalization_ablation"}
    assert len(everything.diagnostics["normalization_ablation"]) == 3 * 4
    for names in ("spectrum", "novelty", "sample", "sample,spectrum", ["novelty", "sample"]):
        found = analyze(model, batches, metrics=names)
        shared = [name for name in found.metrics.columns if name not in ("status", "note")]
        assert set(shared) <= set(everything.metrics.columns)
        assert ("d_pr" in shared) == ("spectrum" in names)
        assert ("cos_sim_mean" in shared) == ("sample" in names)
        assert found.novelty.empty == ("novelty" not in names)
        if not found.novelty.empty:
            assert found.novelty.equals(everything.novelty)
        assert found.metrics[shared].equals(everything.metrics[shared]), names
    assert analyze(model, batches, metrics=None).metrics.equals(everything.metrics)
    assert analyze(model, batches, metrics=[]).metrics.equals(everything.metrics)


def test_non_finite_tokens_are_reported_also_when_only_the_sample_is_measured():
    model, batches = model_families.custom(), loader(12, 8)
    poisoned(model, batches, tokens=3)
    with pytest.warns(RuntimeWarning, match="tokens hold NaN or infinity"):
        found = analyze(model, batches, metrics="sample")
    assert found.metrics["nonfinite_tokens"].tolist() == [0, 0, 3]


def test_no_sample_is_a_sample_of_nothing():
    model, batches = model_families.build("gpt2"), loader(20, 9)
    found, usual = analyze(model, batches, sample_limit=0), analyze(model, batches)
    assert found.metrics["cos_sim_mean"].isna().all()
    assert found.metrics["d_pr"].equals(usual.metrics["d_pr"])
    assert found.novelty["linear_cka"].isna().all()
    assert found.novelty["feature_subspace_novelty"].equals(usual.novelty["feature_subspace_novelty"])


# --- the same again, with other threads, on another device ---


def assert_same(a: repgeom.AnalysisResults, b: repgeom.AnalysisResults) -> None:
    assert a.metrics.equals(b.metrics)
    assert a.novelty.equals(b.novelty)
    assert a.eigenvalues.keys() == b.eigenvalues.keys()
    assert a.arrays.keys() == b.arrays.keys()
    for name, array in {**a.eigenvalues, **a.arrays}.items():
        other = b.eigenvalues.get(name, b.arrays.get(name))
        assert array.dtype == other.dtype
        assert array.tobytes() == other.tobytes(), name


def test_two_runs_and_any_number_of_threads_agree_bit_for_bit(demo_model):
    model, tokenizer = demo_model
    runs = [analyze(model, tokenizer=tokenizer, text=TEXTS, threads=threads) for threads in (1, 1, 2, 5)]
    for run in runs[1:]:
        assert_same(runs[0], run)


def test_forward_ends_after_the_last_block_needed_and_never_reaches_the_head():
    model, batches = model_families.build("llama"), loader(12, 8)
    right_on_padding = check_padding(model, repgeom.anatomy(model))
    calls = {"head": 0, "norm": 0}
    gradients = set()

    def count(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            gradients.add(torch.is_grad_enabled())

        return hook

    for module, name in [(model.lm_head, "head"), (model.model.norm, "norm")]:
        module.register_forward_pre_hook(count(name))
    for index, block in enumerate(model.model.layers):
        block.mlp.register_forward_hook(count(f"mlp {index}"))
    found_calls = {}
    for hook_point, layers in [("residual_input", "all"), ("residual_input", "0"), ("residual_output", "1")]:
        known = repgeom.models.anatomy(model)
        before = dict(calls)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("repgeom.measurand.anatomy", lambda _model, known=known, **_options: known)
            patch.setattr("repgeom.source.check_padding", lambda _model, _anatomy: right_on_padding)
            analyze(model, batches, hook_point=hook_point, layers=layers)
        made = {name: calls[name] - before.get(name, 0) for name in calls}
        found_calls[hook_point, layers] = {name: n for name, n in made.items() if n}
    assert found_calls == {
        ("residual_input", "all"): {"mlp 0": 2, "mlp 1": 2},
        ("residual_input", "0"): {},
        ("residual_output", "1"): {"mlp 0": 2, "mlp 1": 2},
    }
    assert gradients == {False}


def test_hooks_and_training_flags_of_the_user_survive():
    model, batches = model_families.build("gpt2"), loader(12, 8)
    fired = []
    model.transformer.h[0].register_forward_hook(lambda *_: fired.append(1))
    model.train()
    model.transformer.h[1].eval()
    flags, counted = [module.training for module in model.modules()], hooks(model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    found = analyze(model, batches)
    # Dropout was off during the run.
    assert analyze(model, batches).metrics.equals(found.metrics)
    assert len(fired) >= 2
    assert [module.training for module in model.modules()] == flags
    assert hooks(model) == counted
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


class Elsewhere(model_families.Custom):
    """Says that it was moved, so that moves can be tested without a second device."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def to(self, device: Any) -> Elsewhere:
        self.places.append(str(device))
        return self


@pytest.mark.parametrize("job", ["analyze", "plan"])
def test_batches_follow_the_model_to_its_device(monkeypatch, job):
    torch.manual_seed(0)
    model, sent = Elsewhere(), []

    def device(module: Any) -> torch.device:
        return torch.device(module.places[-1] if module.places else "cpu")

    def send(batch: TokenBatch, where: Any) -> TokenBatch:
        sent.append(str(where))
        return batch

    monkeypatch.setattr("repgeom.measurand.input_device", device)
    monkeypatch.setattr(TokenBatch, "to", send)
    if job == "plan":
        model.places.append("cuda:0")  # a model that lives there
        plan_analysis(model, loader(12, 8))
        assert sent == ["cuda:0"]
        return
    found = analyze(model, loader(12, 8), device="cuda:0")
    assert model.places == ["cuda:0", "cpu"]
    assert sent == ["cuda:0"] * 2
    assert found.metadata["input_device"] == "cuda:0"


# --- bad input ---


def assert_untouched(model: nn.Module, **options: Any) -> None:
    """Run it, and see flags and hooks as before; the options say what is wrong."""
    match, error = options.pop("match"), options.pop("error", ValueError)
    options.setdefault("dataloader", loader(12, 8))
    model.train()
    counted = hooks(model)
    with pytest.raises(error, match=match) as caught:
        analyze(model, **options)
    assert "\n" not in str(caught.value).strip()
    assert all(module.training for module in model.modules())
    assert hooks(model) == counted


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layers": "3"}, r"layers must be in 0\.\.2"),
        ({"layers": [-1]}, r"layers must be in 0\.\.2"),
        ({"layers": [0, 7]}, r"\[7\]"),
        ({"layers": "1,1"}, "distinct"),
        ({"layers": [2, 2]}, "distinct"),
        ({"layers": "one"}, "layers must be"),
        ({"layers": ""}, "layers must be"),
        ({"layers": []}, "at least one"),
        ({"layers": [0.5]}, "integers"),
        ({"layers": [True]}, "integers"),
        ({"layers": "5:"}, "selects none"),
        ({"layers": "0", "hook_point": "module_input:lm_head"}, "layers must be 'all'"),
        ({"hook_point": "residual"}, "hook_point must be one of"),
        ({"hook_point": "module_input:"}, "hook_point must be one of"),
        ({"hook_point": "module_input:blocks.9"}, "no module 'blocks.9'"),
        ({"metrics": "spectra"}, "metrics must be among"),
        ({"metrics": ["spectrum", "x"]}, "metrics must be among"),
        ({"diagnostics": "x"}, "diagnostics must be among"),
        ({"compat": "x"}, "compat must be"),
        ({"save_mode": "parquet"}, "save_mode must be one of"),
        ({"sample_limit": -1}, "sample_limit must be"),
        ({"sample_limit": 1.5}, "sample_limit must be"),
        ({"novelty_k": -1}, "novelty_k must be"),
        ({"max_tokens": -1}, "max_tokens must be"),
        ({"threads": 0}, "threads must be"),
        ({"text": "both"}, "either text or a dataloader"),
        ({"dataloader": None, "text": "no tokenizer"}, "needs a tokenizer"),
        ({"dataloader": []}, "at least one batch"),
        ({"dataloader": "text"}, "dataloader must be"),
        ({"dataloader": loader(8)[0]}, "dataloader must be"),
        ({"dataloader": [{"input_ids": torch.tensor([[1, 160]])}]}, "vocabulary"),
        ({"dataloader": [{"input_ids": torch.tensor([[1, -1]])}]}, "vocabulary"),
        ({"dataloader": [torch.tensor([[1]])]}, "at least two tokens, got 1"),
        ({"max_tokens": 1, "dataloader": [torch.tensor([[1]])] * 3}, "at least two tokens, got 1"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, options, match):
    monkeypatch.chdir(tmp_path)
    assert_untouched(model_families.custom(), match=match, **options)
    assert_untouched(model_families.custom(), match=match, **{"save_mode": "csv", **options})
    assert not any(tmp_path.iterdir()), "something was written"


@pytest.mark.parametrize("seed", [-1, 2**64, 0.5, "x"])
def test_a_seed_out_of_range_is_one_sentence(seed):
    assert_untouched(model_families.custom(), match="seed", seed=seed)


@pytest.mark.parametrize("options", [{"threads": 0}, {"seed": -1}, {"device": "no-such-device"}])
def test_options_are_checked_before_the_first_batch_is_run(monkeypatch, options):
    model, ran = model_families.custom(), []
    monkeypatch.setattr(analysis, "_collect", lambda *_: ran.append(1))
    with pytest.raises((ValueError, TypeError, RuntimeError, AttributeError)):
        analyze(model, loader(12, 8), **options)
    assert not ran


@pytest.mark.parametrize("save_mode", [True, 3])
def test_save_modes_that_are_no_strings(save_mode):
    assert_untouched(model_families.custom(), match="save_mode must be one of", save_mode=save_mode)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "white space"),
        (" \n\t ", "white space"),
        ([], "white space"),
        (["", " "], "white space"),
        ([3], "string"),
        (3, "string"),
        (Path("no-such-file.txt"), "existing file"),
        (Path("."), "must be a file"),
    ],
)
def test_text_that_is_none(demo_model, text, match):
    model, tokenizer = demo_model
    with pytest.raises(ValueError, match=match):
        analyze(model, tokenizer=tokenizer, text=text)


@pytest.mark.parametrize("max_length", [0, -1, 1])
def test_windows_without_room(demo_model, max_length):
    model, tokenizer = demo_model
    with pytest.raises(ValueError, match="max_length"):
        analyze(model, tokenizer=tokenizer, text="Some text.", max_length=max_length)


def test_models_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model folder"):
        analyze(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"config\.json"):
        analyze(tmp_path)
    for model in (3, ["gpt2"]):
        with pytest.raises((TypeError, ValueError), match="model"):
            analyze(model)


class Wandering(nn.Module):
    """Takes vectors of any width; `widths` of the batches decide."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_a_width_that_changes_between_batches(tmp_path):
    model = Wandering()
    batches = [torch.randn(2, 5, 6), torch.randn(2, 5, 7)]
    assert_untouched(
        model,
        dataloader=batches,
        hook_point="module_output:inner",
        match=r"inner:output: .*same width, got 7 after 6",
        save_dir=tmp_path / "run",
    )
    assert not any(tmp_path.iterdir())
    same = analyze(model, [torch.randn(2, 5, 6), torch.randn(3, 4, 6)], hook_point="module_output:inner")
    assert same.metrics["tokens_observed"].tolist() == [22]


def test_a_module_of_another_length_is_refused():
    class Pooled(model_families.Custom):
        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            del attention_mask
            return self.norm(self.embed(input_ids).mean(dim=1))

    assert_untouched(
        Pooled(),
        hook_point="module_input:norm",
        match="norm:input: activations must be .batch, seq, d. of the batch",
    )


def test_a_site_that_never_fires_is_named():
    model = model_families.custom()
    model.spare = nn.Linear(3, 3)
    assert_untouched(model, hook_point="module_input:spare", error=RuntimeError, match="spare:input")


def test_a_model_that_fails_half_way_fails_as_itself(tmp_path):
    class RefusalError(Exception):
        pass

    def refuse(_module: Any, args: Any) -> None:
        if args[0].shape[1] == 11:
            raise RefusalError("not eleven")

    model = model_families.custom()
    model.blocks[1].register_forward_pre_hook(refuse)
    assert_untouched(
        model,
        dataloader=loader(12, 8, 11, 9),
        error=RefusalError,
        match="not eleven",
        save_dir=tmp_path / "run",
    )
    assert not any(tmp_path.iterdir())

    # And a dataloader that fails.
    def failing() -> Iterator[Any]:
        yield from loader(12)
        raise RefusalError("no more")

    assert_untouched(model, dataloader=failing(), error=RefusalError, match="no more")


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_another_run_is_left_alone_unless_overwriting(tmp_path):
    model, folder = model_families.custom(), tmp_path / "run"
    first = analyze(model, loader(12, 8), save_dir=folder)
    before = hashes(folder)
    assert before
    ran = []
    model.register_forward_pre_hook(lambda *_: ran.append(1))
    with pytest.raises(FileExistsError, match="another run"):
        analyze(model, loader(20), save_dir=folder)
    assert not ran, "the check comes before the work"
    with pytest.raises(ValueError, match="at least two tokens"):
        analyze(model, [torch.tensor([[1]])], save_dir=folder, overwrite=True)
    assert hashes(folder) == before
    assert_same(repgeom.load_results(folder), first)
    second = analyze(model, loader(20), save_dir=folder, overwrite=True)
    assert hashes(folder) != before
    assert repgeom.load_results(folder).metadata["tokens_observed"] == 30
    assert second.artifact_dir == folder.resolve()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_files_of_somebody_else_are_never_overwritten(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError):
        analyze(model_families.custom(), loader(8), save_dir=tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "thesis.txt").read_text() == "years of work"


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    model = model_families.custom()
    ran = []
    model.register_forward_pre_hook(lambda *_: ran.append(1))
    with pytest.raises(NotADirectoryError, match="is a file"):
        analyze(model, loader(8), save_dir=tmp_path / "file" / "run")
    with pytest.raises(FileExistsError, match="it is a file"):
        analyze(model, loader(8), save_dir=tmp_path / "file")
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    with pytest.raises(PermissionError, match="no permission"):
        analyze(model, loader(8), save_dir=tmp_path / "run")
    assert not ran
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_permission_that_is_lost_during_the_run(tmp_path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(PermissionError, match="cannot write to"):
        analyze(model_families.custom(), loader(8), save_dir=tmp_path / "new" / "run")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["bundle", "csv", "json"])
def test_saved_results_are_the_returned_ones(tmp_path, mode):
    model = model_families.build("gpt2")
    found = analyze(
        model,
        loader(20, 9),
        save_dir=tmp_path / "run",
        save_mode=mode,
        diagnostics="normalization_ablation",
        run_metadata={"note": "ü", "nested": {"a": [1, 2]}},
        run_name="a name",
        dataset_name="data",
        tokenizer_name="tok",
    )
    loaded = repgeom.load_results(tmp_path / "run")
    assert loaded.metrics.equals(found.metrics)
    assert loaded.novelty.equals(found.novelty)
    table = "normalization_ablation"
    assert loaded.diagnostics[table].equals(found.diagnostics[table])
    assert loaded.metadata["run_metadata"] == {"note": "ü", "nested": {"a": [1, 2]}}
    named = [loaded.metadata[name] for name in ("run_name", "dataset", "tokenizer", "save_mode")]
    assert named == ["a name", "data", "tok", mode]
    assert bool(loaded.arrays) == (mode == "bundle")
    for name, values in found.eigenvalues.items():
        assert np.array_equal(loaded.eigenvalues[name], values)


def test_nothing_is_saved_unless_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert analyze(model_families.custom(), loader(8)).artifact_dir is None
    assert not any(tmp_path.iterdir())
    named = analyze(model_families.custom(), loader(8), save_mode="csv", run_name="mine")
    assert named.artifact_dir == tmp_path.resolve() / "mine"


def test_no_tokens_at_all_is_an_empty_run(tmp_path):
    found = analyze(model_families.custom(), loader(8), max_tokens=0, save_dir=tmp_path / "run")
    assert found.metrics.empty
    assert found.novelty.empty
    assert found.metadata["tokens_observed"] == found.metadata["batches_observed"] == 0
    assert repgeom.load_results(tmp_path / "run").metrics.empty


# --- NaN and infinity ---


def poisoned(
    model: nn.Module, batches: Any, *, tokens: int, value: float = math.nan, layer: int = 1
) -> np.ndarray:
    """Makes block `layer` emit the value in one channel at the first real tokens; bool ``[n]``, where."""
    masks = [batch["attention_mask"].bool() for batch in batches]
    ids = torch.cat([batch["input_ids"][mask] for batch, mask in zip(batches, masks, strict=True)])
    chosen = ids[:tokens]
    hit = torch.isin(ids, chosen)
    seen: list[Tensor] = []
    model.register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append([*args, *kwargs.values()][0]), with_kwargs=True
    )

    def spoil(_module: Any, _args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[torch.isin(seen[-1], chosen)] *= torch.where(torch.arange(output.shape[-1]) == 5, value, 1.0)
        return output

    model.blocks[layer].register_forward_hook(spoil)
    return hit.numpy()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_bad_tokens_are_counted_by_layer_and_left_out(tmp_path, value):
    model, batches = model_families.custom(), distinct(loader(24, 16, 20))
    clean = streams(model, batches, [*model.blocks], "input")
    bad = poisoned(model, batches, tokens=4, value=value)
    assert bad.sum() == 4
    with pytest.warns(RuntimeWarning, match=r"resid_pre\.2: 4 of \d+ tokens hold NaN or infinity") as caught:
        found = analyze(model, batches, novelty_k=4, save_dir=tmp_path / "run")
    assert len(caught) == 1
    assert found.metrics["nonfinite_tokens"].tolist() == [0, 0, 4]
    assert found.metrics["status"].tolist() == ["ok", "ok", "4 tokens with NaN or infinity left out"]
    n = len(clean[0])
    assert found.metrics["tokens_observed"].tolist() == [n, n, n - 4]
    assert found.metadata["tokens_observed"] == n
    assert len(found.metadata["warnings"]) == 1
    # The sample holds the same tokens in every layer; each measurement leaves out what is not finite for it.
    assert sorted(found.arrays["sample.index"].tolist()) == list(range(n))
    assert found.metrics["sampled_tokens"].tolist() == [n, n, n - 4]
    finite = [np.isfinite(found.arrays[f"sample.layer_{layer:02d}"]).all(axis=1) for layer in range(3)]
    assert all(len(rows) == n for rows in finite)
    assert (finite[2] == ~bad).all()
    sampled = [clean[0], clean[1], clean[2][~bad]]
    pairs = [(clean[0], clean[1]), (clean[1][~bad], clean[2][~bad])]
    for layer, stream in enumerate([clean[0], clean[1], clean[2][~bad]]):
        values = np.linalg.eigvalsh(np.cov(stream, rowvar=False))[::-1]
        np.testing.assert_allclose(found.eigenvalues[f"layer_{layer:02d}"], values, rtol=1e-4)
        rank = min(stream.shape[1], len(stream) - 1)
        assert_row(found.metrics.iloc[layer], spectrum_of(values, rank), 1e-4, str(layer))
        assert_row(found.metrics.iloc[layer], sample_of(sampled[layer]), 1e-4, str(layer))
    k = 4
    for layer, (left, right) in enumerate([(clean[0], clean[1]), (clean[1], clean[2][~bad])]):
        want = novelty_of(left, right, *pairs[layer], k)
        assert_row(found.novelty.iloc[layer], want, 5e-3, str(layer))
    assert repgeom.load_results(tmp_path / "run").metrics.equals(found.metrics)


def test_what_padding_holds_does_not_matter(monkeypatch):
    """NaN at padding positions is nobody's business."""
    model, batches = model_families.custom(), distinct(loader(24, 16))
    want = analyze(model, batches)
    padding = torch.cat([batch["input_ids"][batch["attention_mask"] == 0] for batch in batches])
    # The padding test would meet these ids among its tokens.
    passed = check_padding(model, repgeom.anatomy(model))
    monkeypatch.setattr("repgeom.source.check_padding", lambda _model, _anatomy: passed)

    def spoil(_module: Any, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[torch.isin(args[0], padding)] = math.nan
        return output

    model.embed.register_forward_hook(spoil)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = analyze(model, batches)
    assert_same(found, want)
    assert set(found.metrics["nonfinite_tokens"]) == {0}


@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_without_a_finite_token_has_its_row_and_the_others_their_numbers(layer):
    model, batches = model_families.custom(), distinct(loader(24, 16))
    clean = streams(model, batches, [*model.blocks], "input")
    n = len(clean[0])
    # Only the real tokens of these batches: the probe of the anatomy uses others as well.
    poisoned(model, batches, tokens=n, layer=layer, value=math.inf)
    with pytest.warns(RuntimeWarning, match=f"{n} of {n} tokens hold NaN or infinity"):
        found = analyze(model, batches, novelty_k=4)
    sound = layer + 1
    assert found.metrics["tokens_observed"].tolist() == [n] * sound + [0] * (3 - sound)
    assert found.metrics["nonfinite_tokens"].tolist() == [0] * sound + [n] * (3 - sound)
    assert found.metrics["status"].tolist() == ["ok"] * sound + ["too few rows: 0 finite"] * (3 - sound)
    assert found.metrics["layer"].tolist() == [0, 1, 2]
    assert found.metrics["d_pr"].isna().tolist() == [False] * sound + [True] * (3 - sound)
    for place in range(sound):
        values = np.linalg.eigvalsh(np.cov(clean[place], rowvar=False))[::-1]
        np.testing.assert_allclose(found.eigenvalues[f"layer_{place:02d}"], values, rtol=1e-4)
    assert len(found.novelty) == 2
    assert math.isnan(found.novelty["feature_subspace_novelty"].iloc[-1])


def test_a_broken_layer_does_not_take_the_sample_of_the_sound_ones_without_a_word():
    model, batches = model_families.custom(), distinct(loader(24, 16))
    poisoned(model, batches, tokens=1000, layer=1, value=math.inf)
    with pytest.warns(RuntimeWarning, match="NaN or infinity"):
        found = analyze(model, batches)
    sound = found.metrics.iloc[:2]
    said = " ".join([*sound["status"], *found.metadata["warnings"]])
    assert sound["cos_sim_mean"].notna().all() or "sample" in said


def test_warnings_as_errors_do_not_cost_the_results(tmp_path):
    model, batches = model_families.custom(), distinct(loader(24, 16))
    poisoned(model, batches, tokens=1)
    # The suite's own filter makes errors of warnings.
    with pytest.raises(RuntimeWarning, match="NaN or infinity"):
        analyze(model, batches, save_dir=tmp_path / "run")
    assert repgeom.load_results(tmp_path / "run").metrics["nonfinite_tokens"].tolist() == [0, 0, 1]


def test_columns_do_not_depend_on_which_layer_is_broken():
    model, batches = model_families.custom(), distinct(loader(24))
    usual = analyze(model, batches)
    model.embed.register_forward_hook(lambda _m, _a, output: output * math.nan)
    model.blocks[0].register_forward_hook(lambda _m, _a, output: torch.randn(output.shape))
    with pytest.warns(RuntimeWarning, match="NaN or infinity"):
        found = analyze(model, batches, layers="all")
    assert found.metrics["nonfinite_tokens"].tolist() == [36, 0, 0]
    assert [*found.metrics.columns] == [*usual.metrics.columns]


def test_overflow_in_half_precision_is_counted():
    model, batches = model_families.custom().half(), distinct(loader(24, 16))
    with torch.no_grad():
        model.embed.weight[10] = 6e4  # the first token: doubled, it is infinite in float16
    model.blocks[0].register_forward_hook(lambda _m, _a, output: output * 2)
    with pytest.warns(RuntimeWarning, match=r"resid_pre\.[12]: 1 of"):
        found = analyze(model, batches)
    assert found.metrics["nonfinite_tokens"].tolist() == [0, 1, 1]
    assert found.metrics["d_pr"].notna().all()


@pytest.mark.parametrize("size", [1e15, 1e25, 3e38])
def test_huge_finite_activations_are_no_crash(size):
    """Their squares overflow float32."""
    model, batches = model_families.custom(), distinct(loader(24, 16))
    with torch.no_grad():
        model.embed.weight[10] = size
    found = analyze(model, batches, layers="0")
    assert found.metrics["nonfinite_tokens"].tolist() == [0]
    assert found.metrics["top1_share"].iloc[0] > 0.999


# --- Ctrl-C ---


def pressing(batches: Any, *after: int) -> Iterator[Any]:
    """The batches, with Ctrl-C pressed while each of these batches is fetched."""
    for index, batch in enumerate(batches):
        for _ in range(after.count(index)):
            signal.raise_signal(signal.SIGINT)
        yield batch


def test_interrupted_runs_carry_what_was_seen(tmp_path, capsys):
    model, batches = model_families.build("gpt2"), loader(20, 9, 14, 30)
    handler = signal.getsignal(signal.SIGINT)
    model.train()
    counted = hooks(model)
    with pytest.raises(RunInterrupted, match=r"interrupted after 43 tokens.*saved in") as caught:
        analyze(model, pressing(batches, 1), novelty_k=4, sample_limit=30, save_dir=tmp_path / "run")
    results = caught.value.results
    assert isinstance(caught.value, KeyboardInterrupt)
    assert signal.getsignal(signal.SIGINT) is handler
    assert model.training
    assert hooks(model) == counted
    assert results.metadata["interrupted"] is True
    model.eval()
    assert_measured(results, streams(model, batches[:2], residual_modules(model), "input"))
    loaded = repgeom.load_results(tmp_path / "run")
    assert loaded.metrics.equals(results.metrics)
    assert loaded.metadata["interrupted"] is True
    assert capsys.readouterr().out == ""


def test_interrupted_runs_say_when_nothing_was_saved(capsys):
    model = model_families.custom()
    with pytest.raises(RunInterrupted, match="not saved") as caught:
        analyze(model, pressing(loader(20, 9, 14), 1))
    assert caught.value.results.artifact_dir is None
    capsys.readouterr()


def test_a_run_that_was_complete_when_interrupted_holds_all_tokens(capsys):
    model, batches = model_families.custom(), loader(20, 9, 14)
    with pytest.raises(RunInterrupted) as caught:
        analyze(model, pressing(batches, 2))
    assert caught.value.results.metadata["batches_observed"] == 3
    capsys.readouterr()


def test_a_second_ctrl_c_stops_at_once_and_saves_nothing(tmp_path, capsys):
    model = model_families.custom()
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught:
        analyze(model, pressing(loader(20, 9, 14), 1, 1), save_dir=tmp_path / "run")
    assert not isinstance(caught.value, RunInterrupted)
    assert signal.getsignal(signal.SIGINT) is handler
    assert hooks(model) == 0
    assert not any(tmp_path.iterdir())
    capsys.readouterr()


def test_runs_outside_the_main_thread():
    model, found = model_families.custom(), []
    thread = threading.Thread(target=lambda: found.append(analyze(model, loader(20, 9))))
    thread.start()
    thread.join()
    assert_same(found[0], analyze(model, loader(20, 9)))


# --- the plan ---


def test_the_plan_says_what_the_run_does(demo_model):
    model, tokenizer = demo_model
    options = {"tokenizer": tokenizer, "text": TEXTS, "batch_size": 4, "max_tokens": 300, "layers": "0,3"}
    plan, found = plan_analysis(model, **options), analyze(model, **options)
    seen = found.metadata
    assert plan.n_tokens == seen["tokens_observed"] == 300
    assert plan.n_batches == seen["batches_observed"]
    assert list(plan.sites) == seen["sites"]
    assert plan.widths == (128, 128)
    assert plan.blocks_run == "3 of 6"
    assert plan.out is None
    assert all(value >= 0 for value in plan.seconds.values())
    assert sum(plan.seconds.values()) > 0
    held = sum(array.nbytes for name, array in found.arrays.items() if name.startswith("sample.layer"))
    assert plan.memory["sample"] >= held
    assert plan.memory["statistics"] >= 2 * 128 * 129 // 2 * 8
    text = str(plan)
    for part in ("300 in", "resid_pre.0", "memory", "time", "not saved", "3 of 6"):
        assert part in text


def test_the_plan_takes_one_batch_and_leaves_the_model_alone():
    model, drawn = model_families.custom(), []

    def batches() -> Iterator[Any]:
        for batch in loader(12, 8, 9):
            drawn.append(1)
            yield batch

    model.train()
    plan = plan_analysis(model, batches(), max_tokens=1000)
    assert len(drawn) == 1
    assert model.training
    assert hooks(model) == 0
    assert plan.n_sequences is None
    assert "the dataloader, up to 1,000" in str(plan)


def test_bad_input_is_refused_by_the_plan_as_well(tmp_path):
    model = model_families.custom()
    with pytest.raises(ValueError, match="layers must be"):
        plan_analysis(model, loader(8), layers="9")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "x").write_text("x")
    with pytest.raises(FileExistsError):
        plan_analysis(model, loader(8), save_dir=tmp_path / "run")


def test_activations_are_not_kept():
    """Nothing of a batch outlives it but its sampled rows."""
    model, born, alive = model_families.custom(), [], []
    for block in model.blocks:
        block.register_forward_hook(lambda _m, _a, output: born.append(weakref.ref(output)))

    def batches() -> Iterator[Any]:
        for number in range(4):
            gc.collect()
            alive.append(sum(reference() is not None for reference in born))
            yield model_families.batch(2, 37 + number)

    analyze(model, batches(), sample_limit=8)
    assert len(born) >= 8
    assert alive == [0] * 4


# --- found in review


class Transposed(nn.Module):
    """Gives ``[batch, seq, d]`` as a view of ``[batch, d, seq]``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).contiguous().transpose(1, 2)


def test_a_transposed_activation_is_measured_at_any_batch_size():
    model = nn.Sequential(nn.Embedding(50, 6), Transposed(), nn.Linear(6, 2))
    ids = torch.randint(0, 50, (4, 9), generator=torch.Generator().manual_seed(0))
    one = analyze(model, list(ids[:, None]), hook_point="module_output:1")
    all_at_once = analyze(model, [ids], hook_point="module_output:1")
    np.testing.assert_allclose(one.metrics["d_pr"], all_at_once.metrics["d_pr"], rtol=1e-6)


def test_the_name_of_a_file_is_not_its_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("Some text.")
    for text in (str(path), ["Other text.", str(path)]):
        with pytest.raises(
            ValueError, match=r"text must be text, got the name of a file: pass pathlib\.Path"
        ):
            repgeom.analyze_model(text=text, progress=False)


def test_comparing_all_directions_says_nothing_and_says_so():
    found = analyze(model_families.custom(), loader(40, 40, 40), novelty_k=500)
    assert found.novelty["feature_subspace_novelty"].isna().all()
    assert found.novelty["note"].str.contains("novelty_k < width").all()


def test_thin_data_and_flat_layers_are_marked():
    thin = analyze(model_families.custom(), loader(20, 20))
    assert thin.metrics["note"].str.contains("biased low").all()
    model = model_families.custom()
    with torch.no_grad():
        model.get_parameter("embed.weight").zero_()
    flat = analyze(model, loader(20, 20), layers="0")
    assert flat.metrics["status"].tolist() == ["zero"]
    assert np.isnan(flat.metrics["d_pr"].iloc[0])


def test_a_plan_keeps_the_statistics_of_one_layer_only(monkeypatch):
    made = []
    monkeypatch.setattr(
        "repgeom.collect.Collector.allocate",
        lambda self, site, *options, real=Collector.allocate: (
            made.append(site),
            real(self, site, *options),
        ),
    )
    plan = plan_analysis(model_families.custom(), loader(20, 20))
    assert made == ["resid_pre.0"]
    assert plan.widths == (model_families.WIDTH,) * 3


def test_ctrl_c_while_measuring_still_saves(tmp_path, monkeypatch, capsys):
    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return measure(*arguments)

    monkeypatch.setattr("repgeom.outcome.measure", interrupted)
    with pytest.raises(RunInterrupted, match="saved in"):
        analyze(model_families.custom(), loader(20, 20), save_dir=tmp_path / "run")
    assert repgeom.load_results(tmp_path / "run").metadata["interrupted"] is False
    assert "Ctrl-C" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="needs a GPU"):
        repgeom.load_model(device="cuda")
