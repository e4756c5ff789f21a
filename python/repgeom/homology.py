"""Vietoris-Rips persistent homology; ``csrc/homology.hpp`` says how."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, overload

from repgeom import _core
from repgeom.arrays import Array
from repgeom.checks import check_integer, refusal
from repgeom.clouds import CloudInput, cloud_input, is_batch, metric_of
from repgeom.diagrams import PersistenceDiagrams
from repgeom.found_diagrams import Asked, diagrams_of
from repgeom.landmarks import Landmarks, landmarks_of, restricted
from repgeom.memory import limit_or_available, readable, resident
from repgeom.threads import thread_count

Method = Literal["auto", "links", "reducer"]
_SMALL = 1 << 24
_MOST_DIMENSIONS = 30
_CHANGE = "fewer points (landmarks=...), a smaller threshold, a smaller max_dim or a larger memory_limit"


@dataclass(frozen=True)
class RipsEstimate:
    """What a call of :func:`rips` will take.

    Attributes:
        n: Points.
        edges: Pairs that may be edges.
        simplices: Simplices up to dimension ``max_dim + 1`` if all pairs are edges, what a program that
            writes the complex down would have to store; where the edges are given, vertices and edges alone.
        bytes: Memory that this one takes for distances, edges and tables of all pairs. Cochains that long
            reductions in dimensions above 1 store come on top; they are watched while it runs.
    """

    n: int
    edges: int
    simplices: int
    bytes: int


def rips_estimate(n: int, max_dim: int = 1, *, edges: int | None = None) -> RipsEstimate:
    """The size of a Vietoris-Rips complex of n points, and the memory that :func:`rips` takes for it.

    Args:
        n: Points.
        max_dim: Highest dimension of homology.
        edges: Pairs below the threshold; ``None``: all n (n - 1) / 2.
    """
    check_integer("n", n, 0)
    _check_max_dim(max_dim)
    if edges is not None:
        check_integer("edges", edges, 0)
    pairs = n * (n - 1) // 2 if edges is None else edges
    if edges is None:
        simplices = sum(math.comb(n, k) for k in range(1, min(n, max_dim + 2) + 1))
        matrix = 4 * n * n
        tables = (4 * n * n + n * n // 8) * (max_dim >= 1) + 4 * n * n * (max_dim >= 2)
    else:
        simplices = n + pairs
        dense = max_dim >= 2 and n * n <= 8 * pairs + (1 << 22)  # as csrc/homology.cpp decides
        matrix, tables = 0, 24 * pairs + 8 * n * n * dense
    sort = 16 * pairs
    return RipsEstimate(n, pairs, simplices, matrix + 12 * pairs + max(sort, tables) + 64 * n)


@overload
def rips(x: Mapping[Any, Any], max_dim: int = ..., **settings: Any) -> dict[Any, PersistenceDiagrams]: ...
@overload
def rips(
    x: list[Any] | tuple[Any, ...], max_dim: int = ..., **settings: Any
) -> list[PersistenceDiagrams]: ...
@overload
def rips(x: Array, max_dim: int = ..., **settings: Any) -> PersistenceDiagrams: ...
def rips(  # type: ignore[misc]  # the overloads name the settings together
    x: Any,
    max_dim: int = 1,
    *,
    metric: str = "euclidean",
    p: float | None = None,
    threshold: float | None = None,
    coefficients: int = 2,
    representatives: bool = False,
    min_persistence: float = 0.0,
    landmarks: int | None = None,
    seed: int = 0,
    method: Method = "auto",
    threads: int | None = None,
    memory_limit: int | None = None,
    progress: Callable[[float], object] | None = None,
    instruction_set: str | None = None,
) -> Any:
    r"""Persistent homology of the Vietoris-Rips filtration, in dimensions 0 to ``max_dim``.

    The complex at scale t holds every set of points of diameter at most t. A class is born at the length of
    one edge and dies at that of another; bars ``[birth, death)`` of length 0 are left out. Births and deaths
    are float32 lengths of edges, as Ripser gives them.

    Dimensions 0 and 1 come from the links of the edges, with annotations; dimension 2 from cohomology on the
    few triangles that the links leave over; higher dimensions, and large sparse graphs above dimension 1,
    from implicit matrix reduction. All of them pair the same edges, at any number of threads and on any
    processor.

    Args:
        x: A cloud ``[n, d]`` (NumPy, torch or DLPack; float64, float32, float16 or bfloat16). With
            ``metric="precomputed"``: distances ``[n, n]``; the condensed ``[n (n - 1) / 2]`` of SciPy; or a
            SciPy sparse matrix whose absent pairs are no edges (stored zeros are edges of length 0; one
            triangle is enough). Infinite distances are no edges. A list or dict of clouds is a batch: they
            are worked on side by side.
        max_dim: Highest dimension of homology, from 0 to 30.
        metric: ``"euclidean"``, ``"cosine"`` (1 - cos, which is no metric), ``"manhattan"``,
            ``"chebyshev"``, ``"minkowski"`` with ``p``, or ``"precomputed"``.
        p: The exponent of ``"minkowski"``, at least 1.
        threshold: Longest edge. ``None`` takes all up to the enclosing radius
            :math:`\min_i \max_j d_{ij}`, beyond which nothing is left but one component; a larger threshold
            changes nothing, with a smaller one what is alive there is infinite.
        coefficients: The field Z/p of the coefficients, a prime up to 251.
        representatives: Also a cocycle for every bar. They come from implicit reduction, which takes
            longer in dimensions 1 and 2, much longer where distances are random numbers.
        min_persistence: Leave out bars of this length or less.
        landmarks: Take this many points (all, if there are no more), chosen by farthest-point sampling. Every
            birth and death of the full cloud then lies within twice ``cover_radius`` (bottleneck distance),
            if distances obey the triangle inequality (``"cosine"`` does not, which stands in ``notes``); not
            for condensed or sparse distances.
        seed: Of the first landmark.
        method: ``"auto"``; ``"links"`` (dimensions up to 2) and ``"reducer"`` choose the algorithm above
            dimension 0.
        threads: ``None`` takes ``REPGEOM_NUM_THREADS``, ``OMP_NUM_THREADS`` or all processors.
        memory_limit: Bytes beyond the input, for the process as a whole; ``None``: what is free. A call that
            is known to need more is refused before it starts, one that comes to need more (dimensions above
            1) is stopped.
        progress: Called with the share that is done, from 0 to 1, about every 50 ms. Ctrl-C works with and
            without it.
        instruction_set: One of :func:`repgeom.cpu_instruction_sets`; ``None`` takes the fastest.

    Returns:
        The diagrams with the simplices of every bar, the settings and the error bound. Square distances are
        tested for the triangle inequality (all triples up to 128 points, else four third points for every
        pair), and a violation stands in ``notes``. A list or a dict of them for a batch.

    Raises:
        ValueError: NaN or infinity among points; NaN, negative or asymmetric distances, a diagonal other than
            0; no point; more than 65535 points (2^32 - 2 in a sparse graph); ``max_dim`` below 0;
            ``coefficients`` no prime up to 251; unknown names.
        MemoryError: More than ``memory_limit`` is needed.

    References:
        Bauer, *Ripser*, arXiv 1908.02518. Dey, Fan and Wang, arXiv 1208.5018, and Boissonnat, Dey and Maria,
        arXiv 1304.6813 (annotations). Koyama, Memoli, Robins and Turner, arXiv 2307.16333 (reduced
        Vietoris-Rips).
    """
    kernel_metric, exponent = metric_of(metric, p)
    _check_max_dim(max_dim)
    _check(threshold, min_persistence, coefficients)
    batch = is_batch(x)
    keyed = batch and isinstance(x, Mapping)
    items = list(x.values()) if keyed else list(x) if batch else [x]
    clouds = [cloud_input(item, metric) for item in items]
    workers = thread_count(threads)
    kinds = {cloud.kind for cloud in clouds}
    if len(kinds) > 1:
        raise refusal("the clouds of a batch must be of one kind", ", ".join(sorted(kinds)))
    chosen: list[Landmarks | None] = [None] * len(clouds)
    if landmarks is not None:
        check_integer("landmarks", landmarks, 1)
        chosen = [
            landmarks_of(c, min(landmarks, c.n), (kernel_metric, exponent), seed, workers) for c in clouds
        ]
        clouds = [restricted(c, of.indices) for c, of in zip(clouds, chosen, strict=True) if of is not None]
    limit = _checked_memory(clouds, max_dim, memory_limit, workers)
    found = _named(list(x) if keyed else None, _core.rips)(
        [cloud.value for cloud in clouds],
        next(iter(kinds), "points"),
        kernel_metric,
        exponent,
        max_dim,
        int(coefficients),
        math.inf if threshold is None else threshold,
        min_persistence,
        representatives,
        method,
        workers,
        instruction_set or "",
        _guarded(progress, limit),
    )
    named = metric if p is None else f"minkowski (p={p:g})"
    asked = Asked(named, int(coefficients), threshold, float(min_persistence))
    results = [
        diagrams_of(facts, asked, cloud.asymmetry, of)
        for facts, cloud, of in zip(found, clouds, chosen, strict=True)
    ]
    if keyed:
        return dict(zip(x, results, strict=True))
    return results if batch else results[0]


def _named(
    keys: list[Any] | None, call: Callable[..., list[dict[str, Any]]]
) -> Callable[..., list[dict[str, Any]]]:
    """The call; what it refuses has the key of the cloud where the clouds have keys."""
    if keys is None:
        return call

    def named(*arguments: Any) -> list[dict[str, Any]]:
        try:
            return call(*arguments)
        except ValueError as error:
            number, colon, rule = str(error).removeprefix("cloud ").partition(": ")
            if not colon or not number.isdigit():
                raise
            raise ValueError(f"{keys[int(number)]!r}: {rule}") from None

    return named


def _check_max_dim(max_dim: Any) -> None:
    check_integer("max_dim", max_dim, 0)
    if max_dim > _MOST_DIMENSIONS:
        raise refusal(f"max_dim must be at most {_MOST_DIMENSIONS}", max_dim)


def _check(threshold: Any, min_persistence: Any, coefficients: Any) -> None:
    if not (isinstance(coefficients, Integral) and int(coefficients) >= 2):
        raise refusal("coefficients must be a prime up to 251", repr(coefficients))
    if threshold is not None and not (isinstance(threshold, Real) and float(threshold) >= 0):
        raise refusal("threshold must be a number of at least 0, or None", repr(threshold))
    if not (isinstance(min_persistence, Real) and 0 <= float(min_persistence) < math.inf):
        raise refusal("min_persistence must be a finite number of at least 0", repr(min_persistence))


def _checked_memory(
    clouds: list[CloudInput], max_dim: int, memory_limit: int | None, workers: int
) -> int | None:
    """The bytes that may be taken; refuses what is known to need more. Clouds are worked on side by side."""
    estimates = [rips_estimate(c.n, max_dim, edges=c.edges if c.kind == "graph" else None) for c in clouds]
    largest = sorted(estimates, key=lambda estimate: estimate.bytes)[-workers:]
    needed = sum(estimate.bytes for estimate in largest)
    # Asking the system takes longer than small clouds do.
    if memory_limit is None and needed < _SMALL and not (max_dim >= 2 and largest and largest[-1].n > 64):
        return None
    limit = limit_or_available(memory_limit)
    if limit is not None and needed > limit:
        worst = largest[-1]
        raise MemoryError(
            f"{worst.n} points in dimension {max_dim} ({worst.edges} edges, up to {worst.simplices:.3g} "
            f"simplices) need {readable(needed)} of memory, got memory_limit = {readable(limit)}; "
            f"take {_CHANGE}"
        )
    return limit


def _guarded(
    progress: Callable[[float], object] | None, limit: int | None
) -> Callable[[float], object] | None:
    """The caller's progress, and a watch over memory that could not be known before."""
    before = resident() if limit is not None else None
    if limit is None or before is None:
        return progress

    def watch(share: float) -> None:
        now = resident()
        if now is not None and now - before > limit:
            raise MemoryError(
                f"stopped at {share:.0%}: the work has taken {readable(now - before)} of memory, more than "
                f"memory_limit = {readable(limit)}; take {_CHANGE}"
            )
        if progress is not None:
            progress(share)

    return watch
