"""CKA from minibatches: one shot, merged, resumed, and exact from covariances."""

from __future__ import annotations

import math

import numpy as np
import pytest

from repgeom.checks import PEER
from repgeom.cka import cka
from repgeom.exact_cka import ExactCKA
from repgeom.streaming_cka import StreamingCKA
from test_cka import hsic_of, related


def layers(n: int = 300, seed: int = 0, dtype: type = np.float64) -> dict[str, np.ndarray]:
    x, y = related(n, 8, 11, seed)
    return {"x": x.astype(dtype), "y": (100 * y).astype(dtype), "z": (x[:, :4] * y[:, :4]).astype(dtype)}


def batches(held: dict[str, np.ndarray], size: int) -> list[dict[str, np.ndarray]]:
    n = len(held["x"])
    return [{name: rows[i : i + size] for name, rows in held.items()} for i in range(0, n, size)]


def streamed(parts: list[dict[str, np.ndarray]], **options) -> StreamingCKA:
    found = StreamingCKA(["x", "y", "z"], **options)
    for part in parts:
        found.update(part)
    return found


def assert_same(left: StreamingCKA, right: StreamingCKA) -> None:
    np.testing.assert_allclose(left.read().values, right.read().values, rtol=1e-12)
    np.testing.assert_allclose(
        left.read().standard_errors, right.read().standard_errors, rtol=1e-9, atol=1e-12
    )
    assert (left.batches, left.count, left.skipped) == (right.batches, right.count, right.skipped)


@pytest.mark.parametrize("kernel", ["linear", "rbf", "polynomial"])
def test_one_minibatch_is_one_shot(kernel):
    held = layers(60)
    found = streamed([held], kernel=kernel).read()
    np.testing.assert_allclose(found.values, cka(held, kernel=kernel).values, rtol=1e-12)
    assert np.isnan(found.standard_errors).all()
    assert found.warnings == ("no standard error from 1 minibatch",)
    assert (found.n, found.kind, found.range, found.settings["batches"]) == (60, "similarity", (-1, 1), 1)


def test_minibatches_of_any_size_are_averaged_in_the_units_of_the_data():
    parts = [*batches(layers(120), 40), *batches(layers(60, seed=1), 15)]
    sums = np.zeros((2, 2))
    for part in parts:
        grams = [part[name] @ part[name].T for name in ("x", "y")]
        sums += len(part["x"]) * np.array([[hsic_of(k, m, True) for m in grams] for k in grams])
    found = streamed(parts).read().between("x", "y")
    assert found.value == pytest.approx(sums[0, 1] / math.sqrt(sums[0, 0] * sums[1, 1]), rel=1e-10)


def test_merging_is_concatenation():
    parts = batches(layers(300), 30)
    whole = streamed(parts)
    merged = streamed(parts[:4]).merge(streamed(parts[4:])).merge(streamed([]))
    assert_same(merged, whole)


def test_a_saved_state_goes_on():
    parts = batches(layers(300), 30)
    first, second = streamed(parts[:4]), StreamingCKA(["x", "y", "z"])
    second.load_state_dict(first.state_dict())
    first.update(parts[0])
    for part in parts[4:]:
        second.update(part)
    assert_same(second, streamed(parts))


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_units_do_not_matter(scale):
    held = layers(120)
    want = streamed(batches(held, 30)).read()
    found = streamed(batches({name: rows * scale for name, rows in held.items()}, 30)).read()
    np.testing.assert_allclose(found.values, want.values, rtol=1e-12)
    np.testing.assert_allclose(found.standard_errors, want.standard_errors, rtol=1e-9, atol=1e-12)


def test_two_models():
    held = layers(200)
    found = StreamingCKA(["x"], ["y", "z"])
    for part in batches(held, 50):
        found.update({"x": part["x"]}, {name: part[name] for name in ("y", "z")})
    want = streamed(batches(held, 50)).read()
    np.testing.assert_allclose(found.read().values, want.values[:1, 1:], rtol=1e-12)
    np.testing.assert_allclose(found.read().standard_errors, want.standard_errors[:1, 1:], rtol=1e-9)
    listed = StreamingCKA(range(1), range(2))
    for part in batches(held, 50):
        listed.update([part["x"]], [part[name] for name in ("y", "z")])
    np.testing.assert_array_equal(listed.read().values, found.read().values)
    with pytest.raises(ValueError, match="a minibatch must be of two models, got one"):
        found.update({"x": held["x"]})


def test_many_minibatches_come_to_the_cka_of_the_source_within_their_errors():
    source = cka(*related(20_000, 8, 12, 5), standard_errors=False).value
    found = []
    for seed in range(80):
        stream = StreamingCKA(["x", "y"])
        x, y = related(300, 8, 12, 1000 + seed)
        for i in range(0, 300, 20):
            stream.update({"x": x[i : i + 20], "y": y[i : i + 20]})
        found.append(stream.read().between("x", "y"))
    values = np.array([result.value for result in found])
    spread = values.std(ddof=1)
    assert abs(values.mean() - source) < 3 * spread / math.sqrt(80) + 0.01
    errors = np.sqrt(np.mean([result.standard_error**2 for result in found]))
    assert 0.8 < errors / spread < 1.3


def test_what_is_undefined_has_a_status():
    empty = StreamingCKA(["x", "y", "z"]).read()
    assert set(empty.statuses.ravel()) == {"no minibatch of at least 4 samples"}
    assert np.isnan(empty.values).all()
    held = {**layers(50), "z": np.full((50, 2), 3.0)}
    found = streamed([*batches(held, 20), {name: rows[:3] for name, rows in held.items()}])
    assert found.skipped == 3
    read = found.read()
    assert read.between("x", "y").ok
    assert read.between("x", "z").status.startswith("z: the samples do not vary")
    assert math.isnan(read.between("x", "z").value)
    assert "3 samples of minibatches of fewer than 4 were left out" in read.warnings
    held = {**layers(50), "z": layers(50)["z"] * 1e-60}
    small = streamed(batches(held, 10)).read().between("z", "x")
    assert small.status == "z: the numbers are too small: scale the layer up"
    assert math.isnan(small.value)
    huge = {**layers(50), "z": layers(50)["z"] * 1e100}
    assert streamed([huge]).read().between("z", "x").status.startswith("the numbers are too large")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: StreamingCKA([]), "names must be different, and at least one"),
        (lambda: StreamingCKA(["x", "x"]), "names must be different"),
        (lambda: StreamingCKA(["x"]).update({"y": np.ones((5, 2))}), r"have the layers \['x'\], got \['y'\]"),
        (lambda: StreamingCKA([0]).update(np.ones((5, 2))), r"have the layers \[0\], got ndarray"),
        (lambda: StreamingCKA(["x"]).update([np.ones((5, 2))]), r"have the layers \['x'\], got \[0\]"),
        (lambda: StreamingCKA(["x"]).update({"x": np.full((5, 2), np.nan)}), "x must be finite"),
        (lambda: StreamingCKA(["x"]).merge(StreamingCKA(["y"])), r"names_a must be \['x'\], got \['y'\]"),
        (lambda: StreamingCKA(["x"]).merge(StreamingCKA(["x"], kernel="rbf")), "kernel must be 'linear'"),
        (lambda: StreamingCKA(["x"]).load_state_dict({}), "version must be 1, got None"),
    ],
)
def test_bad_input_names_the_rule_and_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    with pytest.raises(TypeError, match="must be a StreamingCKA, got int"):
        StreamingCKA(["x"]).merge(1)


# --- exact ---


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize(("dtype", "error"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_exact_streaming_is_one_shot(debiased, dtype, error):
    held = layers(300, dtype=dtype)
    want = cka(held["x"], held["y"], debiased=debiased).value
    parts = [(part["x"], part["y"]) for part in batches(held, 70)]
    whole, first, second = ExactCKA(8, 11), ExactCKA(8, 11), ExactCKA(8, 11)
    for part in parts:
        whole.update(*part)
    first.update(*parts[0])
    for part in parts[1:]:
        second.update(*part)
    merged = ExactCKA(8, 11).merge(first).merge(second).merge(ExactCKA(8, 11))
    loaded = ExactCKA(8, 11)
    loaded.load_state_dict(merged.state_dict())
    for found in (whole, merged, loaded):
        assert found.count == 300
        assert found.read(debiased=debiased).value == pytest.approx(want, abs=error)


def test_exact_streaming_says_what_it_cannot_do():
    held = layers(50)
    found = ExactCKA(8, 11)
    assert found.read().status == "at least 4 samples are needed, 0 were added"
    found.update(held["x"][:0], held["y"][:0]).update(held["x"], held["y"])
    assert found.read(compat=PEER).value == pytest.approx(cka(held["x"], held["y"], compat=PEER).value)
    assert "second pass" in found.read().warnings[0]
    flat = ExactCKA(8, 2).update(held["x"], np.full((50, 2), 0.1))
    assert flat.read().status == "b: the samples do not vary"
    equal = ExactCKA(50, 8).update(np.eye(50), held["x"])
    assert equal.read().status.startswith("all samples of a side are equally far apart, up to rounding")
    for read in (flat.read(), equal.read()):
        assert math.isnan(read.value)
    with pytest.raises(ValueError, match=r"must have the widths \(8, 11\), got \(11, 8\)"):
        found.update(held["y"], held["x"])
    with pytest.raises(ValueError, match=r"widths must be \(8, 11\), got \(8, 2\)"):
        found.merge(flat)
    state = {**found.state_dict(), "shift": [np.zeros(9), np.zeros(2)]}
    with pytest.raises(ValueError, match=r"shift must have the shapes .* got \[\(9,\), \(2,\)\]"):
        found.load_state_dict(state)
    with pytest.raises(ValueError, match="must have the entries"):
        found.load_state_dict({"version": 1, "dims": [8, 11]})
