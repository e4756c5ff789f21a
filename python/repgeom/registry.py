"""The registry of measurements: each says which statistics it reads, and a run collects just those."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

Scope = Literal["layer", "pair", "table"]
Function = TypeVar("Function", bound=Callable[..., Any])

STATISTICS = {
    "covariance": "Covariance of all tokens that count",
    "count": "number of those tokens",
    "mean": "their mean, float64 [d]",
    "eigenvalues": "of the covariance, float64 [d], descending",
    "eigenvectors": "of the covariance, float64 [d, d], columns in the same order",
    "spectrum": "Spectrum: eigenvalues and every spectral metric",
    "sample": "activations of the sampled tokens, [m, d]; the same tokens in every layer",
    "common": "as sample, but only tokens that are finite in every layer that is compared",
    "neighbors": "Neighbors of the sample, up to 64 of them; None with fewer than 3 tokens",
    "tokens": "of the sampled tokens: token_ids, sequence_ids, positions, labels",
    "pooled": "pooled sequence vectors, {pooling: [s, d]}",
    "layer": "index of the layer",
    "leading": "the first novelty_k eigenvectors, float64 [d, k]",
    "rank": "numerical rank of the covariance",
    "settings": "Settings of the run",
}
"""What a measurement can read, by the name of its parameter."""

EVIDENCE = (
    *("sampled_tokens", "nonfinite_tokens", "norm_of_mean", "rms_norm", "covariance_error"),
    *("status", "note"),
)
"""Columns that every row has beside those of measurements."""

_RESERVED = ("default", "router", "removed_tokens")

OF_COVARIANCE = {"covariance", "mean", "eigenvalues", "eigenvectors", "spectrum", "leading", "rank"}
IN_FULL = {"covariance", "eigenvalues", "eigenvectors"}


@dataclass(frozen=True)
class Measurement:
    """A registered measurement.

    Attributes:
        name: How ``metrics=`` calls it.
        needs: Statistics that it reads, its parameters.
        scope: "layer" (columns of the metrics table), "pair" (columns of the novelty table, for consecutive
            layers), or "table" (a table of its own, for all layers at once).
        function: What computes it.
        built_in: Whether it is part of repgeom.
    """

    name: str
    needs: tuple[str, ...]
    scope: Scope
    function: Callable[..., Any]
    built_in: bool


_MEASUREMENTS: dict[str, Measurement] = {}


def metric(name: str, *, needs: Sequence[str], scope: Scope = "layer") -> Callable[[Function], Function]:
    """Decorator that registers a measurement under a name for ``metrics=`` and ``--metrics``.

    The function takes one keyword argument for each statistic in ``needs``:

    ==============  =====================================================================================
    covariance      :class:`~repgeom.Covariance` of all tokens that count
    count           number of those tokens
    mean            their mean, float64 ``[d]``
    eigenvalues     of the covariance, float64 ``[d]``, descending
    eigenvectors    of the covariance, float64 ``[d, d]``, columns in the same order
    spectrum        :class:`~repgeom.Spectrum`: eigenvalues and every spectral metric
    sample          activations of the sampled tokens, ``[m, d]``, the same tokens in every layer
    common          as ``sample``, but only the tokens that are finite in every layer that is compared
    neighbors       :class:`~repgeom.Neighbors` of the sample, up to 64; None with fewer than 3 tokens
    tokens          of the sampled tokens: ``token_ids``, ``sequence_ids``, ``positions``, ``labels``
    pooled          pooled sequence vectors, ``{pooling: [s, d]}``; needs ``pool=`` in the run
    layer           index of the layer
    leading, rank   the first ``novelty_k`` eigenvectors, ``[d, k]``, and the numerical rank
    settings        the run's settings
    ==============  =====================================================================================

    With ``scope="layer"`` it is called for every layer and gives a number, which becomes a column ``name`` of
    the metrics table, or a mapping of columns to numbers. With ``scope="pair"`` every argument is a pair, for
    two consecutive layers, samples cut to the tokens that are finite in both; the columns go to the novelty
    table. With ``scope="table"`` every argument is a dict by layer, and the result, a data frame or a list of
    records, becomes ``results.diagnostics[name]``.

    A measurement that raises loses nothing else: its columns stay empty and the row's status says why.

    Where covariances do not fit in memory a run keeps sketches of them; one whose measurements of yours read
    ``covariance``, ``eigenvalues`` or ``eigenvectors`` is refused then.

    Args:
        name: A Python identifier that no other measurement and no table of a run has.
        needs: Among the above, at least one.
        scope: See above.

    Returns:
        The decorator; it gives the function back unchanged.

    Raises:
        ValueError: A name that is taken or no identifier, an unknown statistic or scope, or a function
            without a parameter for each need.

    Example:
        >>> @repgeom.metric("kurtosis", needs=["sample"])
        ... def kurtosis(sample):
        ...     centred = sample - sample.mean(axis=0)
        ...     return float((centred**4).mean() / (centred**2).mean() ** 2)
        >>> repgeom.analyze_model("gpt2", metrics=["spectrum", "kurtosis"]).metrics["kurtosis"]
    """
    _check(name, needs, scope)

    def register(function: Function) -> Function:
        _check_parameters(name, function, needs)
        known = _MEASUREMENTS.get(name)
        if known is not None and _origin(known.function) != _origin(function):
            raise ValueError(f"the name of a metric must be new, got {name!r}, which is taken")
        built_in = _origin(function)[0].startswith("repgeom.")
        _MEASUREMENTS[name] = Measurement(name, tuple(needs), scope, function, built_in)
        return function

    return register


def _check(name: str, needs: Iterable[str], scope: str) -> None:
    if not str(name).isidentifier() or name in _RESERVED:
        rule = f"the name of a metric must be an identifier other than {', '.join(_RESERVED)}"
        raise ValueError(f"{rule}, got {name!r}")
    if isinstance(needs, str) or not list(needs) or set(needs) - set(STATISTICS):
        raise ValueError(f"needs must be a list of some of {list(STATISTICS)}, got {needs!r}")
    if scope not in get_args(Scope):
        raise ValueError(f"scope must be one of {get_args(Scope)}, got {scope!r}")


def _check_parameters(name: str, function: Callable[..., Any], needs: Sequence[str]) -> None:
    try:
        inspect.signature(function).bind(**dict.fromkeys(needs))
    except TypeError as error:
        raise ValueError(
            f"metric {name!r}: the function must take the parameters {list(needs)}, got {error}"
        ) from None


def _origin(function: Callable[..., Any]) -> tuple[str, str]:
    """Where a function was defined: a cell that is run again may define it anew."""
    name = getattr(function, "__qualname__", repr(function))
    return getattr(function, "__module__", ""), repr(function) if "<lambda>" in name else name


def measurements() -> dict[str, Measurement]:
    """All registered measurements by name."""
    return dict(_MEASUREMENTS)
