"""Comparison of two runs: every layer of one with every layer of the other, on the tokens that both kept."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Hashable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from repgeom.checks import refusal
from repgeom.cka import cka
from repgeom.comparisons import SimilarityMatrix
from repgeom.results import AnalysisResults, load_results

_ABOUT: Final = ("index", "token_ids", "sequence_ids", "positions", "labels")


def compare(
    runs: Sequence[AnalysisResults | str | os.PathLike[str]], *, points: str = "tokens", **options: Any
) -> SimilarityMatrix:
    """CKA of every layer of one run with every layer of another, on the same tokens.

    Tokens are the same when their sequence, their position in it and their token id are; the comparison is of
    those that both runs sampled and that are finite everywhere. The same data, ``seed`` and ``sample_limit``
    give the same sample. Standard errors are of independent sequences.

    Args:
        runs: Two results with arrays, or the folders they were saved to (``save_mode="bundle"``).
        points: ``"tokens"``, or a pooling that both runs have.
        **options: Of :func:`repgeom.cka`, such as ``kernel``, ``debiased`` or ``permutations``.

    Returns:
        Rows are the layers of the first run, columns those of the second. ``warnings`` counts the tokens of
        either run that were left out.

    Raises:
        ValueError: Not two runs, results without a sample, tokens that are known by no id, token ids that
            differ at the same place (another tokenizer or other data), too few common tokens.
    """
    own = sorted({"b", "groups", "ids_a", "ids_b"} & set(options))
    if own:
        raise refusal("samples and groups are those of the runs", f"the options {own}")
    sides = [
        _side(run if isinstance(run, AnalysisResults) else load_results(run), points, name)
        for run, name in zip(_pair(runs), ("first", "second"), strict=True)
    ]
    places, at, there = np.intersect1d(sides[0].places, sides[1].places, return_indices=True)
    _check_same_tokens(sides[0].token_ids[at], sides[1].token_ids[there])
    layers = [
        {name: rows[order] for name, rows in side.layers.items()}
        for side, order in zip(sides, (at, there), strict=True)
    ]
    finite = np.logical_and.reduce(
        [np.isfinite(rows).all(axis=1) for side in layers for rows in side.values()]
    )
    layers = [{name: rows[finite] for name, rows in side.items()} for side in layers]
    if int(finite.sum()) < 4:
        counts = ", ".join(str(len(side.places)) for side in sides)
        raise refusal("runs must share at least 4 samples", f"{int(finite.sum())} of {counts}")
    groups = places["sequence"][finite] if points == "tokens" else None
    found: SimilarityMatrix = cka(layers[0], layers[1], groups=groups, **options)
    return dataclasses.replace(found, warnings=(*found.warnings, *_left_out(sides, len(places), finite)))


@dataclasses.dataclass(frozen=True)
class _Side:
    """Layers of a run, and what each of their rows is."""

    layers: dict[Hashable, NDArray[Any]]
    places: NDArray[Any]
    token_ids: NDArray[np.int64]


def _side(results: AnalysisResults, points: str, name: str) -> _Side:
    kind = "sample" if points == "tokens" else f"pooled.{points}"
    arrays = {
        key.removeprefix(f"{kind}."): rows
        for key, rows in results.arrays.items()
        if key.startswith(f"{kind}.") and key.removeprefix(f"{kind}.") not in _ABOUT and rows.ndim == 2
    }
    if not arrays:
        rule = f"the {name} run must hold {kind} arrays (save_mode='bundle')"
        raise refusal(rule, sorted({key.rsplit(".", 1)[0] for key in results.arrays}) or "none")
    layers: dict[Hashable, NDArray[Any]] = {_layer(key): arrays[key] for key in sorted(arrays, key=_place)}
    n = len(next(iter(layers.values())))
    sequences = results.arrays["pooled.sequence_ids" if points != "tokens" else "sample.sequence_ids"]
    positions = results.arrays["sample.positions"] if points == "tokens" else np.zeros(n, np.int64)
    unknown = int(((sequences < 0) | (positions < 0)).sum())
    if unknown:
        raise refusal(
            f"tokens of the {name} run must be known by sequence and position", f"{unknown} that are not"
        )
    places = np.empty(n, [("sequence", np.int64), ("position", np.int64)])
    places["sequence"], places["position"] = sequences, positions
    ids = results.arrays["sample.token_ids"] if points == "tokens" else np.full(n, -1)
    return _Side(layers, places, np.asarray(ids, np.int64))


def _layer(name: str) -> int | str:
    """The number of ``layer_07``; other names as they are."""
    digits = name.removeprefix("layer_")
    return int(digits) if digits != name and digits.isdigit() else name


def _place(name: str) -> tuple[bool, int | str]:
    """Numbered layers by their number, then the others by name."""
    layer = _layer(name)
    return isinstance(layer, str), layer


def _check_same_tokens(left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
    known = (left >= 0) & (right >= 0)
    other = int((known & (left != right)).sum())
    if other:
        counts = f"{other} of {len(left)} common places with another token"
        raise refusal("runs must have the same tokens at the same places", counts)


def _left_out(sides: list[_Side], common: int, finite: NDArray[np.bool_]) -> tuple[str, ...]:
    said = [
        f"{len(side.places) - common} of {len(side.places)} samples only in the {name} run"
        for side, name in zip(sides, ("first", "second"), strict=True)
        if len(side.places) > common
    ]
    broken = int((~finite).sum())
    if broken:
        said.append(f"{broken} samples with NaN or infinity left out")
    return tuple(said)


def _pair(runs: Any) -> Sequence[AnalysisResults | str | os.PathLike[str]]:
    one = isinstance(runs, str) or not isinstance(runs, Sequence)
    if one or len(runs) != 2:
        raise refusal("a comparison is of two runs", f"one {type(runs).__name__}" if one else len(runs))
    return runs  # type: ignore[no-any-return]
