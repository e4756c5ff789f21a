"""Estimators as classes, and as modules that read and write keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from neighbor_reference import array, assert_matches, distances, expected
from repgeom.dimension import gride, local_dimension, mle_dimension, two_nn, two_nn_points
from repgeom.estimators import Estimator, Gride, KNeighbors, LocalDimension, MLEDimension, TwoNN
from repgeom.neighbors import knn
from repgeom.tensor_modules import (
    InformationImbalanceEstimator,
    LocalKnnDimensionEstimator,
    TwoNnDimensionEstimator,
)

CLASSES = [TwoNN, Gride, LocalDimension, MLEDimension, KNeighbors]


def points(n: int = 120, d: int = 3, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((n, d))


def clone(estimator: Estimator) -> Estimator:
    """As ``sklearn.base.clone`` does it, with its check that the constructor keeps what it is given."""
    params = estimator.get_params(deep=False)
    copy = type(estimator)(**params)
    again = copy.get_params(deep=False)
    assert all(again[name] is params[name] for name in params)
    return copy


# Classes


@pytest.mark.parametrize("kind", CLASSES)
def test_parameters(kind: type[Estimator]):
    estimator = kind()
    params = estimator.get_params()
    assert params["metric"] == "euclidean"
    assert repr(estimator).startswith(f"{kind.__name__}({next(iter(params))}=")
    assert estimator.set_params(metric="cosine") is estimator
    assert clone(estimator).get_params() == {**params, "metric": "cosine"}
    with pytest.raises(ValueError, match=f"parameters of {kind.__name__} are .*, got 'depth'"):
        estimator.set_params(depth=3)


def test_the_classes_are_the_functions():
    x = points()
    one = TwoNN(method="censored", discard=0.2).fit(x)
    want = two_nn(x, method="censored", discard=0.2)
    assert (one.dimension_, one.standard_error_, one.status_) == (want.value, want.standard_error, "ok")
    assert (one.estimate_, one.n_features_in_) == (want, 3)
    np.testing.assert_array_equal(np.stack([one.x_, one.y_]), two_nn_points(x, discard=0.2))
    profile = Gride(max_rank=16, n1=4).fit(x)
    assert profile.dimensions_.tolist() == gride(x, max_rank=16).values.tolist()
    assert profile.ranks_.tolist() == [2, 4, 8, 16]
    assert profile.dimension_ == profile.dimensions_[2]
    local = LocalDimension(k=5).fit(x)
    np.testing.assert_array_equal(local.dimension_pw_, local_dimension(x, k=5).values)
    assert local.dimension_ == local_dimension(x, k=5).overall.value
    assert MLEDimension(k=7).fit(x).dimension_ == mle_dimension(x, k=7).overall.value


@pytest.mark.parametrize("kind", [TwoNN, Gride, LocalDimension, MLEDimension])
def test_what_may_be_fitted(kind: Any):
    x = points()
    want = kind().fit(x).dimension_
    assert kind().fit(x.tolist()).dimension_ == want
    assert kind().fit(torch.from_numpy(x), y=None).dimension_ == want
    assert kind().fit(knn(x, 64)).dimension_ == want
    assert kind(metric="precomputed").fit(distances(x)).dimension_ == pytest.approx(want, rel=1e-12)
    missing = kind().fit(np.ones((120, 2)))
    assert missing.status_ == "all points coincide"
    assert np.isnan(missing.dimension_)
    with pytest.raises(ValueError, match=r"X must have 2 axes \[n, d\], got shape \(5,\)"):
        kind().fit([1, 2, 3, 4, 5])


def test_ranks_that_a_profile_lacks():
    with pytest.raises(ValueError, match=r"2 n1 must be one of the ranks \[2, 4, 8\], got n1 = 3"):
        Gride(max_rank=8, n1=3).fit(points())


def test_neighbors_as_scikit_learn_returns_them():
    x, queries = points(), points(7, seed=1)
    estimator = KNeighbors(n_neighbors=4).fit(x)
    assert (estimator.n_samples_fit_, estimator.n_features_in_) == (120, 3)
    found = estimator.kneighbors()
    np.testing.assert_array_equal(found[1], np.argsort(distances(x), axis=1, kind="stable")[:, 1:5])
    own = estimator.kneighbors(x)
    np.testing.assert_array_equal(own[1][:, 0], np.arange(120))
    np.testing.assert_array_equal(own[0][:, 0], 0)
    near, at = estimator.kneighbors(queries, n_neighbors=2)
    table = np.stack([np.sqrt(((x - row) ** 2).sum(axis=1)) for row in queries])
    np.testing.assert_array_equal(at, np.argsort(table, axis=1)[:, :2])
    np.testing.assert_allclose(near, np.sort(table, axis=1)[:, :2], rtol=1e-14)
    only = estimator.kneighbors(queries, return_distance=False)
    np.testing.assert_array_equal(only, estimator.kneighbors(queries)[1])
    again = KNeighbors(4, metric="precomputed").fit(distances(x)).kneighbors()
    np.testing.assert_array_equal(again[1], found[1])
    with pytest.raises(ValueError, match="kneighbors needs fit first"):
        KNeighbors().kneighbors()


# Modules


def test_modules_have_the_numbers_of_tdhook():
    x, batch = torch.from_numpy(array("in.latent.Xa")), torch.from_numpy(array("in.latent.Xbatch"))
    found = TwoNnDimensionEstimator(return_xy=True, discard=0)({"data": x})
    assert_matches("latent.twonn", found["dimension"].item())
    assert_matches("latent.twonn.x", found["dimension_x"].numpy())
    assert_matches("latent.twonn.y", found["dimension_y"].numpy())
    assert_matches(
        "latent.twonn.batch", TwoNnDimensionEstimator(discard=0)({"data": batch})["dimension"].numpy()
    )
    assert_matches("latent.local_knn.auto", LocalKnnDimensionEstimator()({"data": x})["dimension"].numpy())
    assert_matches(
        "latent.local_knn.batch", LocalKnnDimensionEstimator(4)({"data": batch})["dimension"].numpy()
    )
    pair = {"data_a": batch, "data_b": batch[..., :2]}
    found = InformationImbalanceEstimator()(pair)
    for key, want in expected("latent.inf_imb.batch").items():
        assert_matches("latent.inf_imb.batch", found[key].numpy(), want)
    pair = {"data_a": x, "data_b": torch.from_numpy(array("in.latent.Xb"))}
    found = InformationImbalanceEstimator(p=3.0)(pair)
    for key, want in expected("latent.inf_imb.p3.0").items():
        assert_matches("latent.inf_imb.p3.0", found[key].item(), want)


def test_batches_keep_their_shape_and_the_mapping_is_returned():
    data = {"data": torch.from_numpy(points(40, 3)).expand(2, 3, 40, 3), "other": 5}
    found = TwoNnDimensionEstimator(return_xy=True)(data)
    assert found is data
    assert found["other"] == 5
    assert found["dimension"].shape == (2, 3)
    assert found["dimension"].dtype == torch.float64
    assert found["dimension_x"].shape == (2, 3, 39)
    assert found["dimension_x"].isnan().sum() == 6 * (39 - 36)
    assert TwoNnDimensionEstimator()({"data": torch.zeros(0, 40, 3)})["dimension"].shape == (0,)
    assert LocalKnnDimensionEstimator(3)(data)["dimension"].shape == (2, 3, 40)
    both = {"data_a": data["data"], "data_b": data["data"][..., :1]}
    assert InformationImbalanceEstimator(k=4)(both)["information_imbalance_b_to_a"].shape == (2, 3)


def test_nested_keys_of_a_dict():
    data = {"layer": {"3": torch.from_numpy(points())}}
    module = TwoNnDimensionEstimator(("layer", "3"), ("id", "3"), return_xy=True)
    found = module(data)
    assert found["id"]["3"].item() == two_nn(points()).value
    assert set(found["id"]) == {"3", "3_x", "3_y"}
    assert module.in_keys == [("layer", "3")]
    assert module.out_keys == [("id", "3"), ("id", "3_x"), ("id", "3_y")]


class Mapping:
    """A mapping that takes nested keys whole, as a TensorDict does."""

    def __init__(self, values: dict[Any, Any]) -> None:
        self.values = values

    def keys(self) -> Any:
        return self.values.keys()

    def __getitem__(self, key: Any) -> Any:
        return self.values[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.values[key] = value


def test_nested_keys_of_another_mapping():
    data = Mapping({("layer", "3"): torch.from_numpy(points())})
    found = torch.nn.Sequential(
        TwoNnDimensionEstimator(("layer", "3"), ("id", "3")),
        LocalKnnDimensionEstimator(5, ("layer", "3"), "local"),
    )(data)
    assert found is data
    assert found["id", "3"].item() == two_nn(points()).value
    assert found["local"].shape == (120,)


def test_any_layout():
    data = torch.from_numpy(points(3, 120).copy())
    found = TwoNnDimensionEstimator()({"data": data.T})["dimension"]
    assert found.item() == two_nn(data.T.numpy().copy()).value


def test_low_precision_and_gradients():
    data = torch.from_numpy(points()).to(torch.bfloat16).requires_grad_()
    found = TwoNnDimensionEstimator()({"data": data})["dimension"]
    assert found.item() == two_nn(data.detach().double().numpy()).value


def test_no_value_is_nan():
    found = TwoNnDimensionEstimator(return_xy=True)({"data": torch.ones(2, 9, 3)})
    assert found["dimension"].isnan().all()
    assert found["dimension_x"].isnan().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: TwoNnDimensionEstimator()({"x": torch.ones(3)}),
            r"key 'data' must be in the mapping, got keys \['x'\]",
        ),
        (lambda: TwoNnDimensionEstimator(("a", "b"))({"a": {}}), r"key \('a', 'b'\) must be in the mapping"),
        (lambda: TwoNnDimensionEstimator()({"data": [1.0]}), "key 'data' must hold a tensor, got list"),
        (lambda: TwoNnDimensionEstimator()({"data": torch.ones(3)}), "at least 2 axes"),
        (lambda: TwoNnDimensionEstimator()({"data": torch.ones(2, 3)}), "at least 3 points, got 2"),
        (lambda: TwoNnDimensionEstimator(discard=2), r"discard must be in \[0, 1\), got 2"),
        (lambda: TwoNnDimensionEstimator(duplicates="merge"), "duplicates must be one of"),
        (lambda: LocalKnnDimensionEstimator(1), "k must be an integer of at least 2, got 1"),
        (
            lambda: LocalKnnDimensionEstimator(5)({"data": torch.ones(9, 3)}),
            "k = 5 needs at least 11 points, got 9",
        ),
        (
            lambda: InformationImbalanceEstimator()(
                {"data_a": torch.ones(2, 5, 3), "data_b": torch.ones(5, 3)}
            ),
            "one batch shape and n",
        ),
    ],
)
def test_refusals_of_modules(call: Any, message: str):
    with pytest.raises(ValueError, match=message):
        call()
