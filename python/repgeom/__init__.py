"""repgeom: the geometry of what happens inside transformer models.

Three ways in: the command line (``repgeom run``), a library (:func:`analyze_model`) and kernels on arrays
(:class:`Covariance`, :func:`spectrum`). Names are imported when they are first used: ``import repgeom`` loads
neither torch nor transformers.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repgeom.analysis import analyze_model as analyze_model
    from repgeom.canonical_correlation import cca as cca
    from repgeom.canonical_correlation import pwcca as pwcca
    from repgeom.canonical_correlation import regression_r2 as regression_r2
    from repgeom.canonical_correlation import svcca as svcca
    from repgeom.capture import capture as capture
    from repgeom.cka import cka as cka
    from repgeom.compare import compare as compare
    from repgeom.comparisons import Similarity as Similarity
    from repgeom.comparisons import SimilarityMatrix as SimilarityMatrix
    from repgeom.coordinate_imbalance import coordinate_imbalance as coordinate_imbalance
    from repgeom.coordinate_imbalance import coordinate_pairs as coordinate_pairs
    from repgeom.coordinate_imbalance import greedy_selection as greedy_selection
    from repgeom.covariance import Covariance as Covariance
    from repgeom.covariance import CovarianceBank as CovarianceBank
    from repgeom.covariance import cpu_instruction_sets as cpu_instruction_sets
    from repgeom.covariance import cuda_available as cuda_available
    from repgeom.decimation import two_nn_scaling as two_nn_scaling
    from repgeom.diagram_distances import bottleneck_distance as bottleneck_distance
    from repgeom.diagram_distances import wasserstein_distance as wasserstein_distance
    from repgeom.diagrams import PersistenceDiagrams as PersistenceDiagrams
    from repgeom.dimension import select_scale as select_scale
    from repgeom.eigensolver import Eigenpairs as Eigenpairs
    from repgeom.eigensolver import top_eigenpairs as top_eigenpairs
    from repgeom.estimates import DimensionEstimate as DimensionEstimate
    from repgeom.estimates import DimensionProfile as DimensionProfile
    from repgeom.exact_cka import ExactCKA as ExactCKA
    from repgeom.gride import gride as gride
    from repgeom.homology import rips as rips
    from repgeom.homology import rips_estimate as rips_estimate
    from repgeom.homology_differences import CloudTest as CloudTest
    from repgeom.homology_differences import IntervalDifference as IntervalDifference
    from repgeom.homology_differences import cloud_permutation_test as cloud_permutation_test
    from repgeom.homology_differences import compare_intervals as compare_intervals
    from repgeom.homology_gradients import differentiable_bars as differentiable_bars
    from repgeom.homology_plots import persistence_figure as persistence_figure
    from repgeom.homology_plots import plot_barcode as plot_barcode
    from repgeom.homology_plots import plot_betti_curves as plot_betti_curves
    from repgeom.homology_plots import plot_diagram as plot_diagram
    from repgeom.homology_plots import plot_landscape as plot_landscape
    from repgeom.homology_statistics import Interval as Interval
    from repgeom.homology_statistics import SizeProfile as SizeProfile
    from repgeom.homology_statistics import sample_size_profile as sample_size_profile
    from repgeom.homology_statistics import subsample_interval as subsample_interval
    from repgeom.information_imbalance import information_imbalance as information_imbalance
    from repgeom.landmarks import farthest_points as farthest_points
    from repgeom.layer_subspaces import mean_cosine as mean_cosine
    from repgeom.layer_subspaces import subspace_distance as subspace_distance
    from repgeom.local_dimension import local_dimension as local_dimension
    from repgeom.local_dimension import mle_dimension as mle_dimension
    from repgeom.metrics import metric as metric
    from repgeom.models import ModelAnatomy as ModelAnatomy
    from repgeom.models import anatomy as anatomy
    from repgeom.models import load_model as load_model
    from repgeom.neighbor_overlap import label_overlap as label_overlap
    from repgeom.neighbor_overlap import mutual_knn as mutual_knn
    from repgeom.neighbor_overlap import neighbor_overlap as neighbor_overlap
    from repgeom.neighbors import Neighbors as Neighbors
    from repgeom.neighbors import knn as knn
    from repgeom.neighbors import neighbor_ranks as neighbor_ranks
    from repgeom.procrustes import procrustes as procrustes
    from repgeom.results import AnalysisResults as AnalysisResults
    from repgeom.results import load_results as load_results
    from repgeom.rsa import rsa as rsa
    from repgeom.similarity import layer_cosine as layer_cosine
    from repgeom.similarity import linear_cka as linear_cka
    from repgeom.similarity import subspace_novelty as subspace_novelty
    from repgeom.sketches import FrequentDirections as FrequentDirections
    from repgeom.sketches import NystromSketch as NystromSketch
    from repgeom.sketches import SketchedSpectrum as SketchedSpectrum
    from repgeom.spectrum import Spectrum as Spectrum
    from repgeom.spectrum import spectrum as spectrum
    from repgeom.stored import StoredActivations as StoredActivations
    from repgeom.stored_analysis import analyze_activations as analyze_activations
    from repgeom.streaming_cka import StreamingCKA as StreamingCKA
    from repgeom.tokens import TokenPolicy as TokenPolicy
    from repgeom.two_nn import two_nn as two_nn
    from repgeom.vllm import open_vllm as open_vllm

__version__ = "0.1.0"

_HOME = {
    "analyze_model": "analysis",
    "capture": "capture",
    "Covariance": "covariance",
    "CovarianceBank": "covariance",
    "cpu_instruction_sets": "covariance",
    "cuda_available": "covariance",
    "metric": "metrics",
    "ModelAnatomy": "models",
    "anatomy": "models",
    "load_model": "models",
    "AnalysisResults": "results",
    "load_results": "results",
    "layer_cosine": "similarity",
    "linear_cka": "similarity",
    "subspace_novelty": "similarity",
    "Spectrum": "spectrum",
    "spectrum": "spectrum",
    "analyze_activations": "stored_analysis",
    "StoredActivations": "stored",
    "knn": "neighbors",
    "neighbor_ranks": "neighbors",
    "Neighbors": "neighbors",
    "two_nn": "two_nn",
    "gride": "gride",
    "two_nn_scaling": "decimation",
    "local_dimension": "local_dimension",
    "mle_dimension": "local_dimension",
    "select_scale": "dimension",
    "DimensionEstimate": "estimates",
    "DimensionProfile": "estimates",
    "neighbor_overlap": "neighbor_overlap",
    "mutual_knn": "neighbor_overlap",
    "label_overlap": "neighbor_overlap",
    "information_imbalance": "information_imbalance",
    "coordinate_imbalance": "coordinate_imbalance",
    "coordinate_pairs": "coordinate_imbalance",
    "greedy_selection": "coordinate_imbalance",
    "rips": "homology",
    "rips_estimate": "homology",
    "farthest_points": "landmarks",
    "PersistenceDiagrams": "diagrams",
    "bottleneck_distance": "diagram_distances",
    "wasserstein_distance": "diagram_distances",
    "Interval": "homology_statistics",
    "SizeProfile": "homology_statistics",
    "subsample_interval": "homology_statistics",
    "sample_size_profile": "homology_statistics",
    "IntervalDifference": "homology_differences",
    "CloudTest": "homology_differences",
    "compare_intervals": "homology_differences",
    "cloud_permutation_test": "homology_differences",
    "differentiable_bars": "homology_gradients",
    "plot_diagram": "homology_plots",
    "plot_barcode": "homology_plots",
    "plot_betti_curves": "homology_plots",
    "plot_landscape": "homology_plots",
    "persistence_figure": "homology_plots",
    "Similarity": "comparisons",
    "SimilarityMatrix": "comparisons",
    "cka": "cka",
    "StreamingCKA": "streaming_cka",
    "ExactCKA": "exact_cka",
    "cca": "canonical_correlation",
    "svcca": "canonical_correlation",
    "pwcca": "canonical_correlation",
    "regression_r2": "canonical_correlation",
    "procrustes": "procrustes",
    "rsa": "rsa",
    "subspace_distance": "layer_subspaces",
    "mean_cosine": "layer_subspaces",
    "compare": "compare",
    "top_eigenpairs": "eigensolver",
    "Eigenpairs": "eigensolver",
    "NystromSketch": "sketches",
    "FrequentDirections": "sketches",
    "SketchedSpectrum": "sketches",
    "TokenPolicy": "tokens",
    "open_vllm": "vllm",
}

__all__ = [  # noqa: PLE0604
    "__version__",
    *sorted(_HOME),
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'repgeom' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"repgeom.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


class _Package(types.ModuleType):
    """Keeps a submodule from hiding the function of the same name (``repgeom.capture``)."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
