"""Measurements that a user adds."""

from __future__ import annotations

import pytest

from repgeom import metric, registry


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.setattr(registry, "_MEASUREMENTS", registry.measurements())


def test_the_function_stays_what_it_was():
    @metric("answer", needs=["count"])
    def answer(count):
        return 42 * count

    assert answer(count=2) == 84
    entry = registry.measurements()["answer"]
    assert (entry.needs, entry.scope, entry.built_in) == (("count",), "layer", False)


def test_a_cell_that_is_run_again_replaces_its_function():
    for factor in (1, 2):

        @metric("again", needs=["count"])
        def again(count, factor=factor):
            return count * factor

    assert registry.measurements()["again"].function(count=3) == 6


@pytest.mark.parametrize(
    ("name", "needs", "scope", "message"),
    [
        ("default", ["sample"], "layer", "identifier other than default, router, .* got 'default'"),
        ("router", ["sample"], "layer", "got 'router'"),
        ("a-b", ["sample"], "layer", "got 'a-b'"),
        ("m", [], "layer", r"needs must be a list of some of .* got \[\]"),
        ("m", "sample", "layer", "got 'sample'"),
        ("m", ["samples"], "layer", r"got \['samples'\]"),
        ("m", ["sample"], "model", "scope must be one of .* got 'model'"),
    ],
)
def test_bad_registrations(name, needs, scope, message):
    with pytest.raises(ValueError, match=message):
        metric(name, needs=needs, scope=scope)


def test_the_function_must_take_what_it_needs():
    with pytest.raises(ValueError, match=r"must take the parameters \['sample', 'mean'\]"):

        @metric("m", needs=["sample", "mean"])
        def short(sample):
            return len(sample)


def test_a_taken_name():
    @metric("mine", needs=["sample"])
    def mine(sample):
        return len(sample)

    with pytest.raises(ValueError, match="must be new, got 'mine'"):

        @metric("mine", needs=["sample"])
        def other(sample):
            return len(sample)

    with pytest.raises(ValueError, match="must be new, got 'spectrum'"):

        @metric("spectrum", needs=["sample"])
        def spectrum(sample):
            return len(sample)
