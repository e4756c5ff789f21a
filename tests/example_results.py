"""Results with every kind of table, array and setting, and their comparison."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from repgeom.results import AnalysisResults


def example(run_name: str = "run", value: float = 0.1) -> AnalysisResults:
    metrics = pd.DataFrame(
        {
            "model_key": ["größe/模型", 'a "quoted", key'],
            "layer": [0, 1],
            "d_pr": [value + 0.2, math.nan],
            "share": np.array([1 / 3, math.nan], np.float32),
            "slope": [math.inf, -math.inf],
            "near_rank_one": [True, False],
            "note": ["", None],
            "tokens": np.array([1, 2**40], np.int64),
        }
    )
    novelty = pd.DataFrame({"transition": ["0->1"], "linear_cka": [5e-324]})
    return AnalysisResults(
        metrics=metrics,
        novelty=novelty,
        diagnostics={"normalization_ablation": pd.DataFrame({"variant": ["raw"], "d_pr": [1e300]})},
        eigenvalues={"layer_00": np.array([3.0, 0.1]), "layer_01": np.array([2.0])},
        metadata={"run_name": run_name, "layers": [0, 1], "seed": 0, "nested": {"text": "ü\n"}, "none": None},
        arrays={
            "mean.layer_00": np.arange(6.0).reshape(2, 3).T,
            "tokens": np.array([1, 2], np.int32),
            "empty": np.empty((0, 4), np.float32),
            "scalar": np.array(2.5),
        },
    )


def assert_same(found: AnalysisResults, want: AnalysisResults, arrays: bool = True) -> None:
    for name in ("metrics", "novelty", "router"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(want, name), check_exact=True)
    assert [*found.diagnostics] == [*want.diagnostics]
    for name, frame in want.diagnostics.items():
        pd.testing.assert_frame_equal(found.diagnostics[name], frame, check_exact=True)
    assert found.metadata == want.metadata
    pairs = [(found.eigenvalues, want.eigenvalues), (found.arrays, want.arrays if arrays else {})]
    for mine, theirs in pairs:
        assert {*mine} == {*theirs}
        for name, array in theirs.items():
            np.testing.assert_array_equal(mine[name], array)
            assert (mine[name].dtype, mine[name].shape) == (array.dtype, array.shape)
