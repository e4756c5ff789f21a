"""Similarity of layers: the peer's numbers, invariances, the unbiased form against its definition."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from repgeom.checks import PEER
from repgeom.sample import normalization_ablation, sample_svd_metrics
from repgeom.similarity import LayerView, layer_cosine, linear_cka, novelty_row, subspace_novelty
from repgeom.spectrum import eigenpairs, spectrum


def layer(name: str) -> np.ndarray:
    return reference.array(f"in.spectral.{name}").astype(np.float64)


def view(index: int, rows: np.ndarray, sample: int, k: int) -> LayerView:
    covariance = np.cov(rows, rowvar=False)
    vectors = eigenpairs(covariance)[1][:, :k]
    return LayerView(index, vectors, spectrum(covariance, count=len(rows)).rank, rows[:sample])


def unbiased_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al. (2012), eq. 5, term by term on n x n matrices."""

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        n = len(k)
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        middle = k.sum() * m.sum() / ((n - 1) * (n - 2))
        return (np.trace(k @ m) + middle - 2 / (n - 2) * (k @ m).sum()) / (n * (n - 3))

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


# --- the peer's numbers ---


def test_single_numbers_match_the_peer():
    left, right = layer("basisA"), layer("basisB")
    reference.assert_matches("spectral.subspace_novelty", subspace_novelty(left, right))
    reference.assert_matches("spectral.subspace_novelty.same", subspace_novelty(left, left))
    x, y = layer("X1")[:128], layer("X2")[:128]
    reference.assert_matches("spectral.linear_cka", linear_cka(x, y, debiased=False))
    constant = linear_cka(np.ones((10, 3)), np.random.default_rng(0).normal(size=(10, 3)), debiased=False)
    reference.assert_matches("spectral.linear_cka.const", constant)
    reference.assert_matches("spectral.layer_cosine_sim", layer_cosine(x, y))


def novelty_table(views: list[LayerView], k: int, compat: str | None, key: str, label: str) -> list[dict]:
    pairs = itertools.pairwise(views)
    names = {"model_key": key, "model_label": label}
    return [novelty_row(left, right, **names, novelty_k=k, compat=compat) for left, right in pairs]


@pytest.mark.parametrize("compat", [None, PEER])
def test_novelty_table_matches_the_peer(compat):
    views = [view(i, layer(name), 128, 8) for i, name in ((0, "X1"), (2, "X2"), (3, "X3"))]
    table = novelty_table(views, 8, compat, "mk", "ML")
    ignore = [] if compat else ["linear_cka"]
    reference.assert_matches("spectral.table.novelty", table, ignore=ignore)
    columns = [*reference.expected("spectral.table.novelty")[0]]
    if compat is None:
        assert [row["linear_cka_biased"] for row in table] == pytest.approx(
            [row["linear_cka"] for row in reference.expected("spectral.table.novelty")], abs=2e-3
        )
        columns.insert(7, "linear_cka_biased")
        columns.append("note")
    assert [*table[0]] == columns


def smoke_streams() -> dict[str, np.ndarray]:
    """Forward pass of the peer's smoke model: three times h + tanh(Linear(LayerNorm(h))), 40 tokens."""

    def weight(name: str) -> np.ndarray:
        return layer(f"smoke.param.{name}")

    h = weight("embed.weight")[reference.array("in.spectral.smoke.input_ids").reshape(-1)]
    streams = {"0": h}
    for block in range(3):
        norm, proj = f"blocks.{block}.norm", f"blocks.{block}.proj"
        scaled = (h - h.mean(axis=1, keepdims=True)) / np.sqrt(h.var(axis=1, keepdims=True) + 1e-5)
        scaled = scaled * weight(f"{norm}.weight") + weight(f"{norm}.bias")
        streams[proj] = scaled @ weight(f"{proj}.weight").T + weight(f"{proj}.bias")
        h = h + np.tanh(streams[proj])
        streams[str(block + 1)] = h
    return streams


@pytest.mark.parametrize(
    ("hook", "names"),
    [
        ("residual_input", ["0", "1", "2"]),
        ("residual_output", ["1", "2", "3"]),
        ("module_output:blocks.0.proj", ["blocks.0.proj"]),
        ("module_input:lm_head", ["3"]),
    ],
)
def test_all_tables_of_the_smoke_model_match_the_peer(hook, names):
    streams = smoke_streams()
    rows = [streams[name] for name in names]
    labels = {"model_key": "tinytransformer", "model_label": "TinyTransformer"}
    metrics = [
        {
            **labels,
            "layer": i,
            "num_layers": len(names),
            "layer_norm_depth": i / max(len(names) - 1, 1),
            "tokens_observed": len(x),
            "hidden_dim": x.shape[1],
            **spectrum(np.cov(x, rowvar=False), count=len(x), compat=PEER).metrics,
            **sample_svd_metrics(x, compat=PEER),
        }
        for i, x in enumerate(rows)
    ]
    ablation = [
        row for i, x in enumerate(rows) for row in normalization_ablation(x, PEER, {**labels, "layer": i})
    ]
    views = [view(i, x, 512, 3) for i, x in enumerate(rows)]
    novelty = novelty_table(views, 3, PEER, *labels.values())
    found = {"metrics": metrics, "novelty": novelty, "ablation": ablation}
    reference.assert_matches(f"spectral.smoke.{hook}", found, ignore=["metadata"])


# --- centred kernel alignment ---


@settings(deadline=None)
@given(st.integers(4, 30), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_debiased_form_is_its_definition(n, d_x, d_y, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d_x)), rng.normal(size=(n, d_y))
    found = linear_cka(x, y)
    if n == 4 and math.isnan(found):
        return
    assert found == pytest.approx(unbiased_cka(x, y), rel=1e-7, abs=1e-9)
    assert linear_cka(y, x) == pytest.approx(found, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize(("n", "d"), [(50, 6), (20, 60)])
def test_alignment_does_not_see_rotation_scale_and_shift(debiased, n, d):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(n, 7))
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    assert linear_cka(x, x @ rotation, debiased=debiased) == pytest.approx(1, abs=1e-12)
    want = linear_cka(x, y, debiased=debiased)
    for scale in (1e-150, 1e-3, 1e150):
        moved = (x @ rotation + 3.0) * scale
        assert linear_cka(moved, y, debiased=debiased) == pytest.approx(want, abs=1e-10)
    order = rng.permutation(n)
    assert linear_cka(x[order], y[order], debiased=debiased) == pytest.approx(want, abs=1e-12)


def test_independent_data_have_no_alignment_unless_it_is_biased():
    debiased, biased = [], []
    for seed in range(200):
        x, y = np.random.default_rng(seed).normal(size=(2, 32, 8))
        debiased.append(linear_cka(x, y))
        biased.append(linear_cka(x, y, debiased=False))
    assert abs(np.mean(debiased)) < 0.01
    # MONAI pull 9129 reports 0.198 at n = 32, over 20 seeds.
    assert np.mean(biased) == pytest.approx(0.198, abs=0.02)


def test_alignment_that_is_undefined_is_nan():
    rows = np.random.default_rng(2).normal(size=(10, 3))
    assert math.isnan(linear_cka(rows[:3], rows[:3]))
    assert math.isnan(linear_cka(rows[:1], rows[:1], debiased=False))
    for debiased in (True, False):
        assert math.isnan(linear_cka(np.tile([0.1, 1e6], (10, 1)), rows, debiased=debiased))
        assert math.isnan(linear_cka(np.empty((10, 0)), rows, debiased=debiased))


# --- subspaces and cosines ---


def test_novelty_is_the_mean_sine_of_known_angles():
    angles = np.array([1e-9, 0.3, np.pi / 2])
    left = np.eye(6)[:, :3]
    right = np.vstack([np.diag(np.cos(angles)), np.diag(np.sin(angles))])
    assert subspace_novelty(left, right) == pytest.approx(np.sin(angles).mean(), rel=1e-12)
    small = subspace_novelty(left[:, :1], right[:, :1])
    assert small == pytest.approx(1e-9, rel=1e-6)
    assert subspace_novelty(left, left) == 0
    assert math.isnan(subspace_novelty(left[:, :0], left))


def test_novelty_does_not_depend_on_the_basis():
    rng = np.random.default_rng(3)
    left, right, mix = (np.linalg.qr(rng.normal(size=shape))[0] for shape in ((20, 5), (20, 5), (5, 5)))
    want = subspace_novelty(left, right)
    assert subspace_novelty(left @ mix, right) == pytest.approx(want, rel=1e-10)
    assert subspace_novelty(right, left) == pytest.approx(want, rel=1e-10)


def test_cosine_of_known_rows():
    x = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    y = np.array([[2.0, 0.0], [-1.0, -1.0], [1.0, 1.0]])
    assert layer_cosine(x, y) == pytest.approx(0)
    assert layer_cosine(x[:2], x[:2]) == pytest.approx(1)
    assert math.isnan(layer_cosine(x[:0], x[:0]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_cka(np.ones((5, 2)), np.ones((6, 2))), "the same rows, got n = 5 and 6"),
        (lambda: linear_cka([[math.nan]], [[1.0]]), "x must be finite"),
        (lambda: subspace_novelty(np.eye(3), np.eye(4)), "d = 3 and 4"),
        (lambda: subspace_novelty(2 * np.eye(3), np.eye(3)), "v_left must be orthonormal, got"),
        (lambda: layer_cosine(np.ones((2, 3)), np.ones((2, 4))), r"got \(2, 3\) and \(2, 4\)"),
    ],
)
def test_bad_input_names_the_rule_and_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_layers_of_different_width_get_a_note():
    rng = np.random.default_rng(4)
    left, right = view(0, rng.normal(size=(40, 6)), 30, 4), view(1, rng.normal(size=(40, 9)), 30, 4)
    for compat in (None, PEER):
        row = novelty_row(left, right, model_key="m", model_label="M", compat=compat)
        assert math.isnan(row["feature_subspace_novelty"])
        assert math.isnan(row["layer_cosine_sim"])
        assert math.isfinite(row["linear_cka"])
        assert row["note"] == "widths differ: 6 and 9"


def test_directions_beyond_the_rank_are_not_compared():
    rng = np.random.default_rng(5)
    left, right = (view(i, rng.normal(size=(4, 10)), 4, 8) for i in (0, 1))
    row = novelty_row(left, right, model_key="m", model_label="M", novelty_k=8)
    assert row["novelty_k"] == 3
    peer = novelty_row(left, right, model_key="m", model_label="M", novelty_k=8, compat=PEER)
    assert peer["novelty_k"] == 8
    with pytest.raises(ValueError, match="novelty_k must be >= 0, got -1"):
        novelty_row(left, right, model_key="m", model_label="M", novelty_k=-1)
