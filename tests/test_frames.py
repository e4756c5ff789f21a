"""Tables: every column comes back from CSV and strict JSON."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from example_results import assert_same
from repgeom.results import AnalysisResults, load_results

CELLS = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"])))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CELLS, st.floats(), st.integers(-(2**63), 2**63 - 1), st.booleans())))
def test_any_table_comes_back(tmp_path, rows):
    text, number, integer, flag = zip(*rows, strict=True) if rows else ((), (), (), ())
    table = pd.DataFrame(
        {
            "text": pd.Series(text, dtype=object),
            "number": pd.Series(number, dtype=np.float64),
            "integer, quoted": pd.Series(integer, dtype=np.int64),
            "flag": pd.Series(flag, dtype=bool),
        }
    )
    alone = table[["number"]]
    want = AnalysisResults(metrics=table, novelty=alone, diagnostics={"text": table[["text"]]})
    assert_same(load_results(want.save(save_dir=tmp_path / "run", save_mode="csv", overwrite=True)), want)


@pytest.mark.parametrize("mode", ["csv", "json"])
def test_columns_of_other_kinds_come_back(tmp_path, mode):
    table = pd.DataFrame(
        {
            "nullable": pd.array([1, None], dtype="Int64"),
            "lists": pd.Series([[1, 2], None], dtype=object),
            "mixed": pd.Series([True, "a"], dtype=object),
            "small": np.array([1, 2], np.uint8),
            "text": pd.Series(["a", "b"], dtype="string"),
        }
    )
    want = AnalysisResults(metrics=table)
    assert_same(load_results(want.save(save_dir=tmp_path / "run", save_mode=mode)), want)
