"""Anatomy and analyze_model on fifteen architectures; with `-m sweep` on all that transformers has."""

from __future__ import annotations

import pytest
import transformers

import architecture_data
import architectures
import sweep
from examination import Outcome, examine

SHIFTED = {"mamba", "rwkv"}
COMPLETE = transformers.__version__.startswith(sweep.TRANSFORMERS)


@pytest.mark.parametrize(("mapping", "model_type"), architecture_data.REPRESENTATIVE)
def test_architecture(mapping, model_type):
    outcome = examine(mapping, model_type)
    assert outcome.not_run is None
    assert outcome.crashed is None
    assert outcome.refused is None
    assert outcome.blocks == outcome.expected == outcome.measured
    assert outcome.readout == ("no head" if mapping == "base" else "proven")
    # These give what leaves block i as hidden_states[i].
    assert outcome.hidden_states.startswith("shifted" if model_type in SHIFTED else "equal")


def test_declarations_name_entries():
    declared = {*architectures.NOT_BUILT, *architectures.BLOCKS}
    entries = {
        (mapping, name) for mapping in architectures.MAPPINGS for name in architectures.entries(mapping)
    }
    if COMPLETE:
        assert declared <= entries


def test_a_missed_minimum_and_a_crash_are_failures():
    good = Outcome("causal", "a", blocks=4, expected=4, readout="proven", measured=4)
    bad = Outcome("causal", "b", blocks=3, expected=4, crashed="ValueError")
    minima = {"causal": {"run": 2, "blocks": 2}}
    assert sweep.failures([good, good], minima) == []
    assert sweep.failures([good, bad], minima) == [
        "causal/b crashed: ValueError",
        "causal: blocks must be at least 2, not 1",
    ]


@pytest.mark.sweep
@pytest.mark.parametrize("mapping", list(architectures.MAPPINGS))
def test_mapping(mapping):
    work = [(mapping, name) for name in architectures.entries(mapping)]
    outcomes = sweep.run(work, jobs=2, report=lambda _: None)
    minima = {mapping: sweep.MINIMA[mapping]} if COMPLETE else {}
    assert len(outcomes) == len(work)
    assert not sweep.failures(outcomes, minima), "\n" + "\n".join(
        [*sweep.failures(outcomes, minima), sweep.table(outcomes), *sweep.exceptions(outcomes)]
    )
