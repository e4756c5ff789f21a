"""CKA of pairs and of all layers: the definitions, invariances, errors, nulls, ids and what is undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import reference
from repgeom import gram, hsic
from repgeom.canonical_correlation import cca
from repgeom.checks import PEER
from repgeom.cka import cka
from repgeom.comparisons import Similarity, SimilarityMatrix
from repgeom.similarity import linear_cka

KERNELS = ["linear", "rbf", "polynomial"]


def related(n: int, d_x: int, d_y: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two noisy views of 6 latent variables, away from the origin."""
    rng = np.random.default_rng(seed)
    maps = np.random.default_rng(7)
    latent = rng.normal(size=(n, 6)) * np.arange(1, 7) ** -0.7
    x = latent @ maps.normal(size=(6, d_x)) + rng.normal(size=(n, d_x))
    return x + 3, np.tanh(latent @ maps.normal(size=(6, d_y))) + rng.normal(size=(n, d_y)) - 5


def kernel_matrix(x: np.ndarray, kernel: str) -> np.ndarray:
    """Entry by entry, on rows centred and scaled to a mean squared norm of 1."""
    z = np.array(x, np.float64) - np.mean(x, axis=0, dtype=np.float64)
    z *= math.sqrt(len(z) / np.sum(z**2))
    if kernel == "linear":
        return z @ z.T
    if kernel == "polynomial":
        return (z @ z.T + 1) ** 3
    squares = np.array([[np.sum((a - b) ** 2) for b in z] for a in z])
    return np.exp(-squares / (2 * 0.5**2 * np.median(squares)))


def hsic_of(k: np.ndarray, m: np.ndarray, debiased: bool) -> float:
    n = len(k)
    if not debiased:
        centring = np.eye(n) - 1 / n
        return np.trace(centring @ k @ centring @ m) / n**2
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    middle = k.sum() * m.sum() / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + middle - 2 / (n - 2) * (k @ m).sum()) / (n * (n - 3))


def definition(k: np.ndarray, m: np.ndarray, debiased: bool) -> float:
    return hsic_of(k, m, debiased) / math.sqrt(hsic_of(k, k, debiased) * hsic_of(m, m, debiased))


def jackknife(k: np.ndarray, m: np.ndarray, debiased: bool) -> np.ndarray:
    kept = [np.delete(np.arange(len(k)), i) for i in range(len(k))]
    return np.array([definition(k[np.ix_(i, i)], m[np.ix_(i, i)], debiased) for i in kept])


# --- against the definition ---


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("shape", [(25, 4, 7), (25, 40, 60), (90, 3, 4)])
def test_values_and_errors_are_the_definition_and_its_jackknife(kernel, debiased, shape):
    x, y = related(*shape)
    k, m = kernel_matrix(x, kernel), kernel_matrix(y, kernel)
    found = cka(x, y, kernel, debiased)
    assert found.value == pytest.approx(definition(k, m, debiased), abs=1e-12)
    without = jackknife(k, m, debiased)
    assert found.standard_error == pytest.approx(math.sqrt((len(x) - 1) * without.var()), rel=1e-9)
    assert (found.kind, found.n, found.status, found.measure) == ("similarity", len(x), "ok", "cka")
    assert found.range == ((-1, 1) if debiased else (0, 1))
    assert found.settings["kernel"] == kernel


@pytest.mark.parametrize("debiased", [True, False])
def test_both_ways_to_linear_products_agree(debiased):
    x, y = related(60, 5, 9)
    left, right = (gram.Gram(rows, gram.Kernel(), debiased) for rows in (x, y))
    blocks = hsic._from_blocks([left], [right], True)
    features = hsic._from_features([left], [right], True)
    for name in ("cross", "own_a", "own_b", "cross_by_sample", "own_a_by_sample", "own_b_by_sample"):
        np.testing.assert_allclose(getattr(features, name), getattr(blocks, name), rtol=1e-11, atol=1e-11)
    k, m = left.whole(), right.whole()
    np.testing.assert_allclose(blocks.cross_by_sample[0, 0], (k * m).sum(axis=1), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kernel", KERNELS)
def test_blocks_do_not_change_the_result(kernel, monkeypatch):
    x, y = related(100, 40, 70)
    layers = {"x": x, "y": y}
    want, across = cka(layers, kernel=kernel), cka({"x": x}, {"y": y}, kernel)
    monkeypatch.setattr(hsic, "block_rows", lambda *_: 16)
    monkeypatch.setattr(gram, "block_rows", lambda *_: 16)
    monkeypatch.setattr(gram, "_BLOCK", 500)
    monkeypatch.setattr(gram, "_CACHED", 150)
    for found, whole in ((cka(layers, kernel=kernel), want), (cka({"x": x}, {"y": y}, kernel), across)):
        np.testing.assert_allclose(found.values, whole.values, rtol=1e-12)
        np.testing.assert_allclose(found.standard_errors, whole.standard_errors, rtol=1e-9, atol=1e-12)


def test_linear_cka_is_the_same_number():
    x, y = related(40, 8, 60)
    for debiased in (True, False):
        assert cka(x, y, debiased=debiased).value == pytest.approx(linear_cka(x, y, debiased=debiased))


def test_compat_gives_the_numbers_of_the_peer():
    x, y = (reference.array(f"in.spectral.{name}").astype(np.float64)[:128] for name in ("X1", "X2"))
    found = cka(x, y, compat=PEER)
    reference.assert_matches("spectral.linear_cka", found.value)
    assert found.settings["debiased"] is False
    with pytest.raises(ValueError, match="has the kernel 'linear', got 'rbf'"):
        cka(x, y, "rbf", compat=PEER)


# --- invariances ---


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("debiased", [True, False])
def test_rotation_scale_and_shift_are_not_seen(kernel, debiased):
    x, y = related(40, 6, 9)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    assert cka(x, x @ rotation, kernel, debiased).value == pytest.approx(1, abs=1e-12)
    want = cka(x, y, kernel, debiased)
    for scale in (1e-200, 1e-3, 1e200):
        moved = cka((x @ rotation + 3.0) * scale, y, kernel, debiased)
        assert moved.value == pytest.approx(want.value, abs=1e-10)
        assert moved.standard_error == pytest.approx(want.standard_error, rel=1e-6)
    assert cka(y, x, kernel, debiased).value == pytest.approx(want.value, abs=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_independent_data_have_mean_zero_however_wide(kernel):
    debiased, biased = [], []
    for seed in range(60):
        x, y = np.random.default_rng(seed).normal(size=(2, 24, 500))
        debiased.append(cka(x, y, kernel, standard_errors=False).value)
        biased.append(cka(x, y, kernel, False, standard_errors=False).value)
    assert abs(np.mean(debiased)) < 3 * np.std(debiased) / math.sqrt(60)
    assert np.mean(biased) > 0.8


# --- precision and types ---


@pytest.mark.parametrize(("n", "d"), [(200, 30), (150, 900)])
def test_float32_is_within_its_stated_rounding(n, d):
    x, y = (side.astype(np.float32) for side in related(n, d, d + 5))
    x[:, 0] += 1e4
    exact = cka(x.astype(np.float64), y.astype(np.float64))
    found = cka(x, y)
    assert abs(found.value - exact.value) <= found.rounding <= 1e-4
    assert found.standard_error == pytest.approx(exact.standard_error, rel=1e-3)
    assert exact.rounding < 1e-12


def test_rows_of_huge_norm_are_computed_in_float64():
    """One attention sink hides the rest of the matrix from float32 products."""
    x, y = (side.astype(np.float32) for side in related(150, 900, 30))
    x[3] *= 3000
    exact = cka(x.astype(np.float64), y.astype(np.float64))
    k, m = (kernel_matrix(side, "linear") for side in (x, y))
    assert exact.value == pytest.approx(definition(k, m, True), abs=1e-6)
    found = cka(x, y)
    assert found.value == pytest.approx(exact.value, abs=1e-6)
    assert found.rounding < 1e-4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_tensors_of_any_float_type(dtype):
    x, y = (torch.from_numpy(side).to(dtype) for side in related(50, 6, 9))
    want = cka(x.double().numpy(), y.double().numpy()).value
    assert cka(x.requires_grad_(), y).value == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gaussian_kernels_of_copies_and_of_huge_rows(dtype):
    """Distances between copies are 0, and those beside one row of norm 1e9 are not lost."""
    rng = np.random.default_rng(0)
    for n, d in ((12, 20), (200, 64)):
        copies = np.repeat(rng.normal(size=(1, d)), n, axis=0)
        copies[: n // 4] = rng.normal(size=(n // 4, d))
        found = cka(copies.astype(dtype), rng.normal(size=(n, d)), "rbf")
        assert found.status == "a: the median distance between samples is 0"
    x, y = (side.astype(dtype) for side in related(40, 9, 7))
    x[3] = 1e9
    squares = np.array([[np.sum((a - b) ** 2) for b in x.astype(np.float64)] for a in x.astype(np.float64)])
    k = np.exp(-squares / (2 * 0.5**2 * np.median(squares)))
    assert cka(x, y, "rbf").value == pytest.approx(definition(k, kernel_matrix(y, "rbf"), True), abs=1e-9)


def test_rounding_is_stated_where_squares_of_one_row_cancel():
    x, y = related(400, 3, 3)
    x[5] *= 1e6
    left, right = (gram.Gram(side, gram.Kernel(), True).whole() for side in (x, y))
    exact = np.sum(left * right) / np.linalg.norm(left) / np.linalg.norm(right)
    found = cka(x, y)
    assert 1e-11 < abs(found.value - exact) <= found.rounding < 1e-4


# --- layers ---


def test_matrices_hold_the_pairs():
    x, y = related(60, 6, 9)
    layers = {"x": x, "y": y, "z": x[:, :3] + y[:, :3]}
    within = cka(layers)
    assert isinstance(within, SimilarityMatrix)
    assert within.ok
    across = cka([x, y], layers)
    assert (across.names_a, across.names_b, across.values.shape) == ((0, 1), ("x", "y", "z"), (2, 3))
    for name, rows in layers.items():
        pair = cka(x, rows)
        assert isinstance(pair, Similarity)
        for found in (within.between("x", name), across.between(0, name)):
            assert found.value == pytest.approx(pair.value, abs=1e-12)
            assert found.standard_error == pytest.approx(pair.standard_error, abs=1e-9)
    np.testing.assert_allclose(within.values, within.values.T)
    assert [(a, b) for a, b, _ in across][:4] == [(0, "x"), (0, "y"), (0, "z"), (1, "x")]
    with pytest.raises(ValueError, match="layers must be among"):
        within.between("x", "q")


def test_cka_matches_the_layers_of_ten_networks_and_cca_does_not():
    """Kornblith et al. (2019), figure 2, with random features of shared latent layers; d > n."""
    n, depth, width = 60, 5, 80
    shared = [np.random.default_rng(0).normal(size=(n, 8))]
    for layer in range(1, depth):
        maps = np.random.default_rng(layer).normal(size=(8, 8))
        shared.append(np.tanh(1.5 * shared[-1] @ maps / math.sqrt(8)) * 2)
    networks = []
    for number in range(10):
        rng = np.random.default_rng(100 + number)
        networks.append(
            [np.tanh(h @ rng.normal(size=(8, width)) / 3) + 0.1 * rng.normal(size=(n, width)) for h in shared]
        )
    right, total, useless = 0, 0, []
    for i in range(10):
        for j in range(i + 1, 10):
            found = cka(networks[i], networks[j], standard_errors=False)
            right += int((found.values.argmax(axis=1) == np.arange(depth)).sum())
            total += depth
            useless.append(cca(networks[i], networks[j]))
    assert right / total > 0.95
    for found in useless:
        np.testing.assert_allclose(found.values, 1, atol=1e-9)
        assert all("by construction" in status for status in found.statuses.ravel())


# --- errors and nulls ---


def coverage(groups: np.ndarray | None, draw) -> float:
    """Root mean square of the standard error over the true spread."""
    found = [cka(*draw(seed), groups=groups) for seed in range(150)]
    spread = np.std([result.value for result in found], ddof=1)
    return float(np.sqrt(np.mean([result.standard_error**2 for result in found])) / spread)


def test_standard_errors_are_the_spread_over_repeated_samples():
    assert 0.85 < coverage(None, lambda seed: related(80, 8, 12, seed)) < 1.2


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize(("size", "dtype"), [(100, np.float32), (1e3, np.float32), (1e3, np.float64)])
def test_standard_errors_beside_a_huge_row(debiased, size, dtype):
    x, y = (side.astype(dtype) for side in related(20, 6, 5))
    x[3] *= size
    k, m = (kernel_matrix(side, "linear") for side in (x, y))
    without = jackknife(k, m, debiased)
    found = cka(x, y, debiased=debiased)
    assert found.standard_error == pytest.approx(math.sqrt(19 * without.var()), rel=1e-2)


@pytest.mark.parametrize("kernel", ["linear", "polynomial"])
def test_a_standard_error_that_is_rounding_is_missing(kernel):
    x, y = related(20, 6, 5)
    x[3] *= 1e9
    found = cka({"x": x, "y": y}, kernel=kernel)
    assert math.isnan(found.between("x", "y").standard_error)
    assert math.isfinite(found.between("x", "y").value)
    assert found.between("y", "y").standard_error == pytest.approx(0, abs=1e-12)
    assert found.warnings == (
        "no standard error of layers whose samples are equal but for one, up to rounding",
    )


def test_groups_widen_the_errors_of_dependent_samples():
    def texts(seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        latent = np.repeat(rng.normal(size=(30, 6)), 6, axis=0) + 0.1 * rng.normal(size=(180, 6))
        latent *= np.arange(1, 7) ** -0.7
        maps = np.random.default_rng(7)
        x = latent @ maps.normal(size=(6, 8)) + 0.5 * rng.normal(size=(180, 8))
        return x, np.tanh(latent @ maps.normal(size=(6, 9))) + 0.5 * rng.normal(size=(180, 9))

    assert 0.8 < coverage(np.repeat(np.arange(30), 6), texts) < 1.25
    assert coverage(None, texts) < 0.75


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_null_is_the_value_after_permutation(kernel):
    x, y = related(40, 5, 6)
    found = cka(x, y, kernel, permutations=30, seed=3)
    orders = [np.random.default_rng([3, 1, number]).permutation(40) for number in range(30)]
    null = np.array([cka(x, y[order], kernel, standard_errors=False).value for order in orders])
    assert found.null_mean == pytest.approx(null.mean(), abs=1e-10)
    assert found.null_std == pytest.approx(null.std(ddof=1), rel=1e-9)
    assert found.p_value == pytest.approx((1 + np.sum(null >= found.value)) / 31)
    assert found.p_value == pytest.approx(1 / 31)
    both = cka({"x": x, "y": y}, kernel=kernel, permutations=30, seed=3)
    assert both.null_means[0, 1] == pytest.approx(null.mean(), abs=1e-10)
    np.testing.assert_allclose(both.null_means, both.null_means.T)
    if kernel == "linear":
        thrifty = cka(x, y, kernel, permutations=30, seed=3, memory_limit=0)
        assert thrifty.null_mean == pytest.approx(found.null_mean, abs=1e-12)
    else:
        with pytest.raises(ValueError, match="at most memory_limit = 100 bytes, got 25600 bytes"):
            cka(x, y, kernel, permutations=3, memory_limit=100)


def test_p_values_of_unrelated_data_are_uniform():
    p = []
    for seed in range(100):
        x, y = np.random.default_rng(seed).normal(size=(2, 20, 4))
        p.append(cka(x, y, permutations=19, standard_errors=False).p_value)
    assert 0.4 < np.mean(p) < 0.65
    assert np.mean(np.array(p) <= 0.05) < 0.15


def test_permutations_that_are_as_alike_count_whatever_their_rounding():
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(3, 5)), 4, axis=0)
    y = np.eye(2)[[0, 0, 0, 1, 0, 0, 1, 0, 1, 1, 1, 1]] @ rng.normal(size=(2, 7))
    orders = [np.random.default_rng([0, 1, number]).permutation(12) for number in range(400)]
    for dtype, slack in ((np.float64, 1e-9), (np.float32, 1e-5)):
        found = cka(x.astype(dtype), y.astype(dtype), permutations=400)
        null = np.array([cka(x, y[order], standard_errors=False).value for order in orders])
        assert found.p_value == (1 + np.sum(null >= found.value - slack)) / 401


# --- ids ---


def test_samples_are_matched_by_id():
    x, y = related(30, 5, 6)
    ids = np.random.default_rng(0).permutation(1000)[:30]
    order = np.random.default_rng(1).permutation(30)
    want = cka(x, y)
    for names in (ids, ids.astype(str), torch.from_numpy(ids)):
        shuffled = names[torch.from_numpy(order)] if isinstance(names, torch.Tensor) else names[order]
        found = cka(x, {"y": y[order]}, ids_a=names, ids_b=shuffled)
        assert found.values[0, 0] == pytest.approx(want.value, abs=1e-12)
    assert cka(x, y[order]).value != pytest.approx(want.value, abs=1e-3)


@pytest.mark.parametrize(
    ("ids_a", "ids_b", "message"),
    [
        (range(6), range(2, 8), "the same samples, got 2 only in a, 2 only in b, 4 in both"),
        (range(6), [0, 1, 2, 3, 4, 4], "ids_b must not repeat, got 1 repeated ids among 6"),
        (range(6), None, "ids must be given for both sides, got none for b"),
        (range(5), range(6), r"ids_a must name each of the 6 samples, got shape \(5,\)"),
        ([math.nan] * 6, range(6), "ids_a must not be NaN, got 6 of them"),
        ([None] * 6, range(6), "ids_a must be numbers or strings, got dtype object"),
    ],
)
def test_ids_that_do_not_match_are_refused(ids_a, ids_b, message):
    x, y = related(6, 3, 4)
    with pytest.raises(ValueError, match=message):
        cka(x, y, ids_a=None if ids_a is None else list(ids_a), ids_b=None if ids_b is None else list(ids_b))


# --- what is undefined or refused ---


def test_layers_that_cannot_be_aligned_have_a_status():
    x, _ = related(12, 3, 4)
    layers = {"x": x, "constant": np.full((12, 2), 0.1), "equal": np.eye(12), "empty": np.empty((12, 0))}
    found = cka(layers, permutations=3)
    assert found.between("x", "x").ok
    for name, reason in (
        ("constant", "the samples do not vary"),
        ("equal", "all samples are equally far apart"),
        ("empty", "the samples do not vary"),
    ):
        pair = found.between("x", name)
        assert pair.status == f"{name}: {reason}"
        for value in (pair.value, pair.standard_error, pair.p_value, pair.null_mean, pair.null_std):
            assert math.isnan(value)
    copies = np.repeat([[0.0], [1.0]], [11, 1], axis=0)
    assert cka(x, copies, "rbf").status == "b: the median distance between samples is 0"
    for kernel in KERNELS:
        assert cka(x, np.full((12, 2), 1e6), kernel, False).status == "b: the samples do not vary"
    single = cka(x.astype(np.float32), np.eye(12, dtype=np.float32))
    assert single.status == "b: all samples are equally far apart"


def test_too_few_samples_or_groups_for_an_error_are_said():
    x, y = related(4, 3, 4)
    found = cka(x, y)
    assert math.isfinite(found.value)
    assert math.isnan(found.standard_error)
    assert found.warnings == ("no standard error: it needs at least 5 samples",)
    x, y = related(20, 3, 4)
    one = cka(x, y, groups=np.zeros(20))
    assert math.isnan(one.standard_error)
    assert one.warnings == ("no standard error: all samples are of one group",)
    few = cka(x, y, groups=np.arange(20) // 5, permutations=2)
    assert few.standard_error > 0
    assert few.warnings[0] == "standard errors from 4 groups are rough"
    assert "p is too small" in few.warnings[1]


ROWS = np.random.default_rng(0).normal(size=(8, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cka(ROWS[:3], ROWS[:3]), "debiased CKA needs at least 4 samples, got 3"),
        (lambda: cka(ROWS[:1], ROWS[:1], debiased=False), "CKA needs at least 2 samples, got 1"),
        (lambda: cka(ROWS, ROWS[:7]), "a and b must hold the same samples, got n = 8 and 7"),
        (lambda: cka({"u": ROWS, "v": ROWS[:7]}), r"layers must hold the same samples, got n = \{'u': 8"),
        (lambda: cka(ROWS), "b may be left out when a is a dict or list of layers, got ndarray"),
        (lambda: cka({}), "at least one layer, got none"),
        (lambda: cka([ROWS], ids_a=range(8)), "ids match the samples of two sides, got ids without b"),
        (lambda: cka(ROWS, np.where(ROWS > 1, np.nan, ROWS)), "b must be finite, got nan"),
        (lambda: cka(ROWS.astype(np.float32) * np.float32(np.inf), ROWS), "a must be finite"),
        (lambda: cka(ROWS[0], ROWS), "a must have 2 axes"),
        (lambda: cka(ROWS, ROWS, "cosine"), "kernel must be one of .*, got 'cosine'"),
        (lambda: cka(ROWS, ROWS, "rbf", bandwidth=0), "bandwidth must be positive and finite, got 0"),
        (lambda: cka(ROWS, ROWS, "polynomial", degree=0), "degree must be an integer of at least 1, got 0"),
        (lambda: cka(ROWS, ROWS, "polynomial", offset=-1), "offset must be >= 0 and finite, got -1"),
        (
            lambda: cka(ROWS, ROWS, groups=[1, 2]),
            r"groups must label each of the 8 samples, got shape \(2,\)",
        ),
        (lambda: cka(ROWS, ROWS, groups=[math.nan] * 8), "groups must not be NaN, got 8 of them"),
        (lambda: cka(ROWS, ROWS, permutations=-1), "permutations must be an integer of at least 0, got -1"),
        (lambda: cka(ROWS, ROWS, compat="other"), "compat must be None or"),
    ],
)
def test_bad_input_names_the_rule_and_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
