"""The estimators as scikit-learn-style classes, without scikit-learn: ``TwoNN().fit(X).dimension_``."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import numpy as np

from repgeom.checks import FloatArray, check_integer, refusal
from repgeom.estimates import DimensionEstimate, DimensionProfile, IntArray
from repgeom.gride import gride
from repgeom.local_dimension import LocalDimensions, local_dimension, mle_dimension
from repgeom.neighborhoods import Search, neighborhoods
from repgeom.neighbors import Metric, Neighbors, knn
from repgeom.two_nn import check_method, estimate_of, points_of

E = TypeVar("E", bound="Estimator")


class Estimator:
    """Parameters in the constructor, untouched; what is learnt in attributes that end with an underscore."""

    @classmethod
    def _names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002
        """The parameters by name."""
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self: E, **params: Any) -> E:
        """Change parameters by name; ``ValueError`` for a name that is none of them."""
        for name, value in params.items():
            if name not in self._names():
                raise refusal(
                    f"parameters of {type(self).__name__} are {', '.join(self._names())}", repr(name)
                )
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        params = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({params})"


class _Dimension(Estimator):
    """Common to the dimensions: what ``fit`` leaves behind.

    Attributes:
        dimension_: The dimension; NaN when ``status_`` is not ``"ok"``.
        standard_error_: Its error.
        status_: ``"ok"``, or why there is no dimension.
        estimate_: The whole `DimensionEstimate`.
        n_features_in_: Columns of the data.
    """

    dimension_: float
    standard_error_: float
    status_: str
    estimate_: DimensionEstimate
    n_features_in_: int

    def _keep(self, estimate: DimensionEstimate, x: Any) -> None:
        self.estimate_ = estimate
        self.dimension_ = estimate.value
        self.standard_error_ = estimate.standard_error
        self.status_ = estimate.status
        if not isinstance(x, Neighbors):
            self.n_features_in_ = int(x.shape[1])


class TwoNN(_Dimension):
    """`two_nn` as a class; also ``x_`` and ``y_``, the points of the fit (see `two_nn_points`)."""

    def __init__(
        self,
        method: str = "fit",
        discard: float = 0.1,
        duplicates: str = "drop",
        metric: Metric = "euclidean",
        threads: int | None = None,
    ) -> None:
        self.method = method
        self.discard = discard
        self.duplicates = duplicates
        self.metric = metric
        self.threads = threads

    def fit(self, X: Any, y: Any = None) -> TwoNN:  # noqa: ARG002
        """Estimate from points ``[n, d]``, a distance matrix (``metric="precomputed"``) or `Neighbors`."""
        x = _one_layer(X)
        check_method(self.method, self.discard)
        search = Search(self.duplicates, self.metric, threads=self.threads)
        hood = neighborhoods(x, 2, search)
        self._keep(estimate_of(hood, self.method, self.discard, search), x)
        self.x_, self.y_ = points_of(hood, self.discard)
        return self


class Gride(_Dimension):
    """`gride` as a class.

    ``dimension_`` is the estimate at the pair of ranks ``(n1, 2 n1)``; ``profile_`` holds all scales, with
    ``dimensions_`` and ``ranks_``.
    """

    profile_: DimensionProfile
    dimensions_: FloatArray
    ranks_: IntArray

    def __init__(  # noqa: PLR0917
        self,
        max_rank: int = 64,
        n1: int = 1,
        duplicates: str = "drop",
        metric: Metric = "euclidean",
        threads: int | None = None,
        compat: str | None = None,
    ) -> None:
        self.max_rank = max_rank
        self.n1 = n1
        self.duplicates = duplicates
        self.metric = metric
        self.threads = threads
        self.compat = compat

    def fit(self, X: Any, y: Any = None) -> Gride:  # noqa: ARG002
        """Estimate from points ``[n, d]``, a distance matrix (``metric="precomputed"``) or `Neighbors`."""
        x = _one_layer(X)
        check_integer("n1", self.n1, 1)
        params = {name: value for name, value in self.get_params().items() if name != "n1"}
        self.profile_ = gride(x, **params)
        self.dimensions_, self.ranks_ = self.profile_.values, self.profile_.positions
        at = np.flatnonzero(self.ranks_ == 2 * self.n1)
        if len(at) == 0:
            raise refusal(f"2 n1 must be one of the ranks {self.ranks_.tolist()}", f"n1 = {self.n1}")
        self._keep(self.profile_[int(at[0])], x)
        return self


class _Pointwise(_Dimension):
    """Also ``dimension_pw_``, the dimension around each point."""

    local_: LocalDimensions
    dimension_pw_: FloatArray

    def _keep_local(self, found: LocalDimensions, x: Any) -> None:
        self.local_, self.dimension_pw_ = found, found.values
        self._keep(found.overall, x)


class LocalDimension(_Pointwise):
    """`local_dimension` as a class."""

    def __init__(
        self,
        k: int | str = "auto",
        duplicates: str = "drop",
        metric: Metric = "euclidean",
        threads: int | None = None,
    ) -> None:
        self.k = k
        self.duplicates = duplicates
        self.metric = metric
        self.threads = threads

    def fit(self, X: Any, y: Any = None) -> LocalDimension:  # noqa: ARG002
        """Estimate from points ``[n, d]``, a distance matrix (``metric="precomputed"``) or `Neighbors`."""
        x = _one_layer(X)
        self._keep_local(local_dimension(x, **self.get_params()), x)
        return self


class MLEDimension(_Pointwise):
    """`mle_dimension` as a class."""

    def __init__(
        self,
        k: int = 20,
        combine: str = "harmonic",
        duplicates: str = "drop",
        metric: Metric = "euclidean",
        threads: int | None = None,
    ) -> None:
        self.k = k
        self.combine = combine
        self.duplicates = duplicates
        self.metric = metric
        self.threads = threads

    def fit(self, X: Any, y: Any = None) -> MLEDimension:  # noqa: ARG002
        """Estimate from points ``[n, d]``, a distance matrix (``metric="precomputed"``) or `Neighbors`."""
        x = _one_layer(X)
        check_integer("k", self.k, 3)
        self._keep_local(mle_dimension(x, **self.get_params()), x)
        return self


class KNeighbors(Estimator):
    """Exact nearest neighbours, see `knn`; ``kneighbors`` as scikit-learn's ``NearestNeighbors`` has it."""

    n_samples_fit_: int
    n_features_in_: int

    def __init__(
        self, n_neighbors: int = 5, metric: Metric = "euclidean", threads: int | None = None
    ) -> None:
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.threads = threads

    def fit(self, X: Any, y: Any = None) -> KNeighbors:  # noqa: ARG002
        """Remember the points ``[n, d]`` (no copy), or a distance matrix with ``metric="precomputed"``."""
        self._points = _one_layer(X)
        self.n_samples_fit_, self.n_features_in_ = map(int, self._points.shape)
        return self

    def kneighbors(
        self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> tuple[FloatArray, IntArray] | IntArray:
        """Distances and indices ``[m, k]`` of the nearest points to the rows of ``X``.

        Without ``X`` the neighbours of the points themselves, each without itself. Ties stand in index order.

        Raises:
            ValueError: Before ``fit``; NaN or infinity, k below 1 or above the points that there are.
        """
        found = self.neighbors(X, n_neighbors)
        return (found.distances, found.indices) if return_distance else found.indices

    def neighbors(self, X: Any = None, n_neighbors: int | None = None) -> Neighbors:
        """The same as `Neighbors`."""
        if not hasattr(self, "_points"):
            raise refusal("kneighbors needs fit first", "no points")
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        queries = None if X is None else _one_layer(X)
        return knn(self._points, k, queries=queries, metric=self.metric, threads=self.threads)


def _one_layer(x: Any) -> Any:
    if isinstance(x, Neighbors):
        return x
    rows = x if hasattr(x, "shape") else np.asarray(x)
    if len(rows.shape) != 2:
        raise refusal("X must have 2 axes [n, d]", f"shape {tuple(rows.shape)}")
    return rows
