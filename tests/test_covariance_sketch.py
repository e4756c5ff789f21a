"""Sketches in place of covariances that do not fit: in a bank, in a spectrum and in a run."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import model_families
import repgeom as rg
from repgeom.analysis import plan_analysis
from repgeom.cli import app
from repgeom.covariance_sketch import covariance_bytes, extreme_spectra, reading_bytes, sketch_bytes
from repgeom.layer_moments import MomentsPolicy
from repgeom.sketches import FrequentDirections, NystromSketch
from repgeom.spectrum import BOUNDED, metric_from_eigenvalues, spectrum

N, D, RANK = 900, 400, 4
DIMS = {"wide": D, "narrow": 20, "also": D}
# Between the sketches and the covariances.
LIMIT = 2 * sketch_bytes(D, RANK) + covariance_bytes(20) + 1000


def make_rows(seed: int = 0, power: float = 1.0, n: int = N, d: int = D, offset: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(99).standard_normal((d, d)))[0]
    return (generator.standard_normal((n, d)) * np.arange(1, d + 1.0) ** (-power / 2)) @ basis + offset


def make_layers(seed: int = 0, n: int = N) -> dict[str, np.ndarray]:
    return {
        "wide": make_rows(seed, n=n),
        "narrow": make_rows(seed, n=n, d=20),
        "also": make_rows(seed, 2.0, n),
    }


def make_bank(limit: int | None = LIMIT, **options: Any) -> rg.CovarianceBank:
    with pytest.warns(RuntimeWarning, match="2 of 3 covariances are sketches of rank 4"):
        return rg.CovarianceBank(DIMS, memory_limit=limit, rank=RANK, **options)


def exact_metrics(x: np.ndarray) -> dict[str, Any]:
    return metric_from_eigenvalues(np.linalg.eigvalsh(np.cov(x.T)))


def assert_bounded(found: rg.Spectrum, truth: dict[str, Any], slack: float = 1e-9) -> None:
    assert set(found.bounds) == set(BOUNDED)
    for name, (low, high) in found.bounds.items():
        assert low * (1 - slack) <= truth[name] <= high * (1 + slack), name


# --- when ---


def test_a_bank_within_the_limit_keeps_covariances():
    full = sum(map(covariance_bytes, DIMS.values()))
    bank = rg.CovarianceBank(DIMS, memory_limit=full, rank=RANK)
    assert bank.sketched == ()
    assert all(isinstance(bank[name], rg.Covariance) for name in bank)
    with pytest.warns(RuntimeWarning, match="more than memory_limit"):
        assert rg.CovarianceBank(DIMS, memory_limit=full - 1, rank=RANK).sketched == ("wide", "also")


def test_a_bank_beyond_the_limit_sketches_what_becomes_smaller():
    bank = make_bank()
    assert bank.sketched == ("wide", "also")
    assert isinstance(bank["narrow"], rg.Covariance)


def test_what_is_free_is_the_limit_by_default(monkeypatch):
    monkeypatch.setattr("repgeom.memory.available", lambda: LIMIT)
    assert make_bank(None).sketched == ("wide", "also")
    monkeypatch.setattr("repgeom.memory.available", lambda: None)
    assert rg.CovarianceBank(DIMS).sketched == ()


def test_not_even_sketches_fit():
    least = 2 * sketch_bytes(D, RANK) + covariance_bytes(20)
    with pytest.raises(ValueError, match=rf"memory_limit must be at least {least} bytes .* got {least - 1} "):
        rg.CovarianceBank(DIMS, memory_limit=least - 1, rank=RANK)
    with pytest.raises(ValueError, match="memory_limit must be at least"):
        rg.CovarianceBank({"narrow": 20}, memory_limit=100)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"memory_limit": 0}, "memory_limit must be an integer of at least 1, got 0"),
        ({"memory_limit": 1e9}, "memory_limit must be an integer"),
        ({"rank": 0}, "rank must be an integer of at least 1, got 0"),
    ],
)
def test_bad_options_of_a_bank(options: dict[str, Any], text: str):
    with pytest.raises(ValueError, match=text):
        rg.CovarianceBank(DIMS, **options)


@pytest.mark.parametrize(("dim", "rank"), [(D, RANK), (1000, 64), (50, 64), (24, 1)])
def test_bytes_are_those_of_the_sums(dim: int, rank: int):
    state = NystromSketch(dim, min(rank, dim)).state_dict()
    kept = 2 * state["product"].nbytes
    assert kept <= sketch_bytes(dim, rank) <= kept + 16 * dim * 24
    second = rg.Covariance(dim).update(np.eye(2, dim)).state_dict()["second"]
    assert covariance_bytes(dim) == second.nbytes


def test_memory_stays_below_the_limit():
    """In a process of its own, whose resident memory grows by less than the limit allows."""
    code = """
import resource, warnings, numpy as np, repgeom as rg
from repgeom.covariance_sketch import reading_bytes, sketch_bytes
d, rank, layers = 4096, 16, 6
dims = {str(i): d for i in range(layers)}
limit = layers * sketch_bytes(d, rank) + 1000
x = np.random.default_rng(0).standard_normal((512, d)).astype(np.float32)
rg.CovarianceBank({"a": 8}).update({"a": np.ones((4, 8))})
np.linalg.svd(np.random.default_rng(0).standard_normal((500, 100)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    bank = rg.CovarianceBank(dims, memory_limit=limit, rank=rank, threads=1)
for _ in range(3):
    bank.update({name: x for name in dims})
held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
rg.spectrum(bank["0"])
read = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
print(held, limit, read, limit + reading_bytes(d, rank), layers * 4 * d * (d + 1))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    held, limit, read, reading, full = map(int, run.stdout.split())
    scratch = 24 * 2**20  # rows widened to float64, one block per thread
    assert held <= limit + scratch
    assert read <= reading + scratch
    assert reading + scratch < full / 2


def test_reading_takes_what_is_said():
    sketch = NystromSketch(3000, 16).update(np.random.default_rng(0).standard_normal((64, 3000)))
    tracemalloc.start()
    sketch.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= reading_bytes(3000, 16)


# --- the same verbs ---


def test_mean_and_trace_are_exact():
    layers = make_layers()
    bank = make_bank().update(layers)
    for name, x in layers.items():
        assert np.allclose(bank[name].mean, x.mean(axis=0), rtol=0, atol=1e-14)
        assert bank[name].trace() == pytest.approx(np.trace(np.cov(x.T)), rel=1e-12)
        assert bank[name].count == N


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_a_sketch_is_below_the_covariance_and_its_eigenvalues_within_their_bounds(power: float):
    x = make_rows(power=power)
    bank = make_bank().update({"wide": x})
    covariance = np.cov(x.T)
    exact = np.linalg.eigvalsh(covariance)[::-1]
    pairs = rg.top_eigenpairs(bank["wide"], 2 * RANK)
    assert pairs.status == "sketch"
    assert np.all(pairs.values <= exact[: 2 * RANK] * (1 + 1e-12))
    assert np.all(exact[: 2 * RANK] <= pairs.values + pairs.bounds)
    below = (pairs.vectors * pairs.values) @ pairs.vectors.T
    assert np.linalg.eigvalsh(covariance - below)[0] >= -1e-12 * exact[0]
    residuals = np.linalg.norm(covariance @ pairs.vectors - pairs.vectors * pairs.values, axis=0)
    assert np.all(residuals <= pairs.residuals)
    full = rg.top_eigenpairs(bank["narrow"].update(make_rows(d=20)), 3)
    assert full.status == "ok"


def test_merge_is_concatenation():
    layers = make_layers()
    parts = [make_bank().update({name: x[i::3] for name, x in layers.items()}) for i in range(3)]
    merged, whole = make_bank(), make_bank().update(layers)
    for part in parts:
        merged.merge(part)
    for name in layers:
        assert merged[name].count == N
        assert merged[name].trace() == pytest.approx(whole[name].trace(), rel=1e-12)
        one, other = spectrum(merged[name]), spectrum(whole[name])
        assert np.abs(one.eigenvalues - other.eigenvalues).max() <= 1e-12 * other.eigenvalues[0]
        assert one.d_pr == pytest.approx(other.d_pr, rel=1e-9)


@pytest.mark.parametrize("mask", [np.arange(N) % 3 > 0, np.arange(N) % 4])
def test_weights_and_masks(mask: np.ndarray):
    layers = make_layers()
    weighted = make_bank().update(layers, mask)
    repeated = make_bank().update({name: np.repeat(x, mask, axis=0) for name, x in layers.items()})
    for name in layers:
        assert weighted[name].weight_sum == mask.sum()
        one, other = weighted[name].mean, repeated[name].mean
        assert np.allclose(one, other, rtol=0, atol=1e-13)
        one, other = spectrum(weighted[name]).eigenvalues, spectrum(repeated[name]).eigenvalues
        assert np.abs(one - other).max() <= 1e-11 * other[0]


def test_a_saved_bank_goes_on_bit_for_bit():
    layers = make_layers()
    half = {name: x[:400] for name, x in layers.items()}
    rest = {name: x[400:] for name, x in layers.items()}
    bank, restored = make_bank(seed=5).update(half), make_bank(seed=5)
    held = restored["wide"]
    restored.load_state_dict(bank.state_dict())
    assert restored["wide"] is held
    for one in (bank, restored):
        one.update(rest)
    for name in layers:
        assert np.array_equal(spectrum(bank[name]).eigenvalues, spectrum(restored[name]).eigenvalues)
    with pytest.raises(ValueError, match="state_dict"):
        make_bank(seed=6).load_state_dict(bank.state_dict())
    with pytest.raises(ValueError, match="state_dict"):
        rg.CovarianceBank(DIMS).load_state_dict(bank.state_dict())


def test_centring_is_exact():
    near, far = make_rows(), make_rows() + 1e5
    one = spectrum(make_bank().update({"wide": near})["wide"])
    other = spectrum(make_bank().update({"wide": far})["wide"])
    # The rows themselves are rounded to 1e5 * eps.
    assert np.abs(one.eigenvalues - other.eigenvalues).max() <= 1e-9 * one.eigenvalues[0]
    assert other.d_pr == pytest.approx(one.d_pr, rel=1e-8)


@pytest.mark.parametrize(
    ("arrays", "weights", "text"),
    [
        ({"narrow": np.ones((5, 20)), "wide": np.ones((5, 3))}, None, "400"),
        ({"narrow": np.ones((5, 20)), "wide": np.ones((5, D), np.int64)}, None, "float64"),
        ({"narrow": np.ones((5, 20)), "wide": np.ones(D)}, None, "n, d"),
        ({"wide": np.ones((5, D)), "narrow": np.ones((5, 3))}, None, "20"),
        ({"wide": np.ones((5, D)), "narrow": np.ones((4, 20))}, np.ones(5), "weights"),
        ({"narrow": np.ones((5, 20)), "wide": np.ones((4, D))}, np.ones(5), "weights"),
        ({"wide": np.ones((5, D)), "also": np.ones((5, D))}, [1, 1, 1, 1, -1], "weights must be finite"),
        ({"wide": np.ones((5, D)), "also": np.ones((5, D))}, [1, 1, 1, 1, np.nan], "weights must be finite"),
        ({"wide": np.ones((5, D)), "narrow": np.ones((5, 20))}, [1, 1, 1, 1, -1], "weights must be finite"),
    ],
)
def test_nothing_is_added_where_something_is_refused(arrays: dict[str, Any], weights: Any, text: str):
    bank = make_bank()
    with pytest.raises((ValueError, TypeError), match=text):
        bank.update(arrays, weights)
    assert [bank[name].count for name in bank] == [0, 0, 0]


def test_only_like_banks_merge():
    layers = make_layers()
    bank = make_bank().update(layers)
    for other in (rg.CovarianceBank(DIMS), make_bank(seed=1)):
        with pytest.raises(ValueError, match="same kind of sums"):
            bank.merge(other.update(layers))
    assert [bank[name].count for name in bank] == [N, N, N]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_torch_rows(dtype: torch.dtype):
    rows = torch.from_numpy(make_rows()).to(dtype)
    found = make_bank().update({"wide": rows})["wide"]
    assert found.trace() == pytest.approx(float(np.trace(np.cov(rows.double().numpy().T))), rel=1e-11)


# --- the spectrum ---


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("n", [150, N])
def test_metrics_lie_within_their_bounds(power: float, n: int):
    x = make_rows(3, power, n)
    truth = exact_metrics(x)
    found = spectrum(NystromSketch(D, 12).update(x))
    assert_bounded(found, truth)
    assert found.status == "sketch"
    assert abs(found.d_pr - truth["d_pr"]) <= 4 * found.d_pr_error
    low, high = found.bounds["d_pr"]
    assert low <= found.d_pr <= high
    assert found.d_pr_norm == found.d_pr / D
    for name in ("top1_share", "top10_share", "top32_share"):
        assert getattr(found, name) == found.bounds[name][0]
    assert found.stable_rank == found.bounds["stable_rank"][1]
    assert np.isnan([found.d_entropy, found.log_spectrum_slope_10_200, found.d_pr_debiased]).all()
    assert found.rank <= np.linalg.matrix_rank(np.cov(x.T))
    assert any("a sketch" in warning for warning in found.warnings)
    assert_bounded(spectrum(FrequentDirections(D, 12).update(x)), truth)


def test_d_pr_is_within_four_standard_errors_over_seeds():
    x = make_rows(power=1.0)
    truth = exact_metrics(x)["d_pr"]
    found = [spectrum(NystromSketch(D, 8, seed=seed).update(x)) for seed in range(40)]
    scores = np.array([(one.d_pr - truth) / one.d_pr_error for one in found])
    assert np.abs(scores).max() <= 4
    assert 0.5 <= scores.std() <= 1.6
    assert abs(scores.mean()) <= 4 * scores.std() / 40**0.5


def test_k90_is_known_where_the_bounds_agree():
    x = make_rows(power=4.0)
    found, truth = spectrum(NystromSketch(D, 20).update(x)), exact_metrics(x)
    assert found.bounds["k90"][0] == found.bounds["k90"][1] == found.k90 == truth["k90"]
    unknown = spectrum(NystromSketch(D, 2).update(make_rows(power=0.5)))
    assert unknown.bounds["k90"][0] < unknown.bounds["k90"][1]
    assert unknown.k90 == -1


@pytest.mark.parametrize("seed", range(30))
def test_no_allowed_spectrum_is_flatter_or_steeper(seed: int):
    generator = np.random.default_rng(seed)
    size = int(generator.integers(3, 30))
    truth = np.sort(generator.standard_exponential(size) ** 3)[::-1]
    seen = np.sort(truth * generator.random(size))[::-1][: int(generator.integers(1, size + 1))]
    flattest, steepest = extreme_spectra(seen, float(truth.sum()), size)
    for spectrum_ in (flattest, steepest):
        assert spectrum_.sum() == pytest.approx(truth.sum(), rel=1e-12)
        assert np.all(np.diff(spectrum_) <= 1e-12 * truth[0])
        assert np.all(spectrum_[: len(seen)] >= seen - 1e-12 * truth[0])
    slack = 1e-12 * truth.sum()
    assert np.all(np.cumsum(flattest) <= np.cumsum(truth) + slack)
    assert np.all(np.cumsum(truth) <= np.cumsum(steepest) + slack)


def test_a_sketch_of_low_rank_knows_everything_that_it_states():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((N, 5)) @ generator.standard_normal((5, D))
    found, truth = spectrum(NystromSketch(D, 8).update(x)), exact_metrics(x)
    for name in ("d_pr", "stable_rank", "top1_share", "top10_share", "k90", "k95"):
        assert getattr(found, name) == pytest.approx(truth[name], rel=1e-8)
    assert found.rank == 5


def test_what_a_sketch_reads_is_a_spectrum_too():
    sketch = NystromSketch(D, 8).update(make_rows())
    one, other = spectrum(sketch), spectrum(sketch.read())
    assert one.bounds == other.bounds
    assert (one.dim, other.dim, one.count) == (D, D, N)
    assert one.to_dict()["bounds"]["d_pr"] == list(one.bounds["d_pr"])
    assert spectrum(make_rows()[:, :30].T @ make_rows()[:, :30]).bounds == {}


def test_degenerate_sketches():
    for make in (NystromSketch, FrequentDirections):
        few = spectrum(make(D, 3).update(make_rows(n=1)))
        assert few.status == "too few rows"
        zero = spectrum(make(D, 3).update(np.ones((9, D))))
        assert (zero.status, zero.dim, zero.k90) == ("zero", D, -1)
        assert np.isnan(zero.d_pr)
    with pytest.raises(ValueError, match="needs all eigenvalues, got a NystromSketch"):
        spectrum(NystromSketch(D, 3).update(make_rows()), compat="representation-geometry")


# --- the run ---


def needed(width: int, layers: int) -> int:
    """Least memory of a run with sketches, and a little more."""
    return layers * sketch_bytes(width, 64) + reading_bytes(width, 64) + 1000


def run(layers: dict[int, np.ndarray], limit: int | None, **options: Any) -> rg.AnalysisResults:
    return rg.analyze_activations(layers, memory_limit=limit, progress=False, threads=1, **options)


WIDTH = 1600


@pytest.fixture(scope="module")
def both_runs() -> tuple[rg.AnalysisResults, rg.AnalysisResults, dict[int, np.ndarray]]:
    basis = np.linalg.qr(np.random.default_rng(7).standard_normal((WIDTH, 200)))[0].T
    scale = np.arange(1, 201.0) ** -1
    layers = {
        i: (np.random.default_rng(i).standard_normal((1200, 200)) * scale) @ basis + 3 for i in range(2)
    }
    layers[1] = layers[0] + 0.05 * layers[1]
    with pytest.warns(RuntimeWarning, match="2 of 2 covariances are sketches of rank 64"):
        sketched = run(layers, needed(WIDTH, 2))
    return sketched, run(layers, None), layers


def test_a_run_beyond_the_limit_says_so(both_runs):
    sketched, exact, _ = both_runs
    assert any("sketches of rank 64" in note for note in sketched.metadata["warnings"])
    assert set(sketched.metrics["status"]) == {"sketch"}
    assert all("a sketch" in note for note in sketched.metrics["note"])
    assert "sketch" not in set(exact.metrics["status"])
    assert not exact.metadata["warnings"]


def test_a_run_of_sketches_has_the_values_of_the_exact_one_within_its_bounds(both_runs):
    sketched, exact, layers = both_runs
    rms = [np.sqrt(np.mean(np.sum(x**2, axis=1))) for x in layers.values()]
    assert np.allclose(sketched.metrics["rms_norm"], rms, rtol=1e-10)
    for one, other in zip(sketched.metrics.to_dict("records"), exact.metrics.to_dict("records"), strict=True):
        for name in BOUNDED:
            assert one[f"{name}_low"] * (1 - 1e-9) <= other[name] <= one[f"{name}_high"] * (1 + 1e-9), name
        assert abs(one["d_pr"] - other["d_pr"]) <= 4 * one["d_pr_sketch_se"]
        assert np.isnan(one["d_entropy"])
        for name in ("norm_of_mean", "rms_norm", "cos_sim_mean", "tokens_observed"):
            assert one[name] == pytest.approx(other[name], rel=1e-10)
    eigenvalues = sketched.eigenvalues["layer_00"]
    assert np.all(eigenvalues <= exact.eigenvalues["layer_00"][: len(eigenvalues)] + 1e-12)


def test_novelty_of_sketches(both_runs):
    sketched, exact, _ = both_runs
    one, other = sketched.novelty.iloc[0], exact.novelty.iloc[0]
    assert one["novelty_k"] == other["novelty_k"] == 32
    assert one["feature_subspace_novelty"] == pytest.approx(other["feature_subspace_novelty"], abs=0.02)
    assert one["linear_cka"] == other["linear_cka"]


def test_a_run_of_sketches_is_saved_and_read(both_runs, tmp_path):
    sketched = both_runs[0]
    sketched.save(save_dir=tmp_path / "run", save_mode="bundle")
    back = rg.load_results(tmp_path / "run")
    assert list(back.metrics["d_pr_low"]) == pytest.approx(list(sketched.metrics["d_pr_low"]))


def test_metrics_that_read_matrices_are_refused(both_runs, monkeypatch):
    layers = both_runs[2]
    with pytest.raises(ValueError, match="compat='representation-geometry' must have covariances in full"):
        run(layers, needed(WIDTH, 2), compat="representation-geometry")
    monkeypatch.setattr("repgeom.registry._MEASUREMENTS", dict(rg.registry._MEASUREMENTS))

    @rg.metric("log_det", needs=["covariance"])
    def log_det(covariance: rg.Covariance) -> float:
        return float(covariance.trace())

    with pytest.raises(ValueError, match="metric 'log_det' must have covariances in full"):
        run(layers, needed(WIDTH, 2), metrics=["default", "log_det"])


def test_a_run_that_does_not_fit_is_refused(both_runs):
    with pytest.raises(ValueError, match="memory_limit must be at least"):
        run(both_runs[2], 1000)
    with pytest.raises(ValueError, match="memory_limit must be an integer"):
        run(both_runs[2], 0)


def test_rows_on_a_device_are_sketched_on_the_host():
    policy = MomentsPolicy(needed(WIDTH, 3))
    meta = torch.device("meta")
    assert policy.sketches(WIDTH, 3, meta)
    assert isinstance(policy.new(WIDTH, 3, meta, 1), NystromSketch)
    assert not MomentsPolicy().sketches(WIDTH, 10**6, meta)


@pytest.fixture
def wide_model(monkeypatch) -> torch.nn.Module:
    monkeypatch.setattr(model_families, "WIDTH", WIDTH)
    return model_families.custom()


def batches() -> list[dict[str, torch.Tensor]]:
    found = [model_families.batch(4, 40, seed=seed) for seed in range(3)]
    for batch in found:
        batch["attention_mask"][1, 20:] = 0
    return found


def test_a_model_too_wide_for_its_covariances(wide_model):
    limit = needed(WIDTH, 3)
    plan = plan_analysis(wide_model, batches(), memory_limit=limit)
    assert "sketches     covariances of rank 64" in str(plan)
    assert plan.memory["statistics"] == 3 * sketch_bytes(WIDTH, 64)
    assert plan.memory["statistics"] + plan.memory["eigenproblem"] <= limit
    assert "sketches" not in str(plan_analysis(wide_model, batches()))
    with pytest.warns(RuntimeWarning, match="3 of 3 covariances are sketches"):
        sketched = rg.analyze_model(wide_model, batches(), memory_limit=limit, progress=False)
    exact = rg.analyze_model(wide_model, batches(), progress=False)
    assert sketched.metadata["memory_limit"] == limit
    assert list(sketched.metrics["tokens_observed"]) == [3 * 140] * 3
    truth = exact.metrics
    assert np.allclose(sketched.metrics["rms_norm"], truth["rms_norm"], rtol=1e-6)
    # 160 tokens: the sketch is exact, and the covariance is one of float32 products.
    assert np.allclose(sketched.metrics["d_pr"], truth["d_pr"], rtol=2e-6)
    for name in BOUNDED:
        assert np.all(sketched.metrics[f"{name}_low"] <= truth[name] * (1 + 1e-5))
        assert np.all(truth[name] <= sketched.metrics[f"{name}_high"] * (1 + 1e-5))


def test_left_out_tokens_carry_the_same_share_of_the_variance(wide_model):
    options: dict[str, Any] = {"token_policy": rg.TokenPolicy(first=2), "progress": False}
    with pytest.warns(RuntimeWarning, match="3 of 3"):
        sketched = rg.analyze_model(wide_model, batches(), memory_limit=needed(WIDTH, 3), **options)
    exact = rg.analyze_model(wide_model, batches(), **options)
    one, other = (found.diagnostics["removed_tokens"]["variance_share"] for found in (sketched, exact))
    assert np.allclose(one, other, rtol=1e-5)
    assert len(one) == 3


def test_the_command_takes_gibibytes():
    outcome = CliRunner().invoke(
        app, ["run", "--memory-limit", "0.0001", "--max-tokens", "50", "--no-progress"]
    )
    assert outcome.exit_code == 1
    assert "memory_limit must be at least" in outcome.output
    assert f"got {round(0.0001 * 2**30)} (104.9 KiB)" in outcome.output
