"""Bars of persistence diagrams as functions of the points, for torch.

Births and deaths are lengths of edges: a bar's birth simplex and its death simplex say of which. Where no two
edges tie, moving the points a little keeps the simplices and changes these lengths alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from repgeom.checks import check_integer, refusal
from repgeom.clouds import metric_of
from repgeom.diagrams import PersistenceDiagrams
from repgeom.vectorizations import IntArray

if TYPE_CHECKING:
    from torch import Tensor


def differentiable_bars(
    x: Any,
    diagrams: Any,
    dim: int,
    *,
    metric: str = "euclidean",
    p: float | None = None,
    check: bool = True,
) -> Any:
    """The finite bars of one dimension as a tensor that torch can differentiate through.

    The values are computed again from x, in float64: those of ``diagrams[dim]`` are the same within
    ``diagrams.error_bound`` and the rounding to the type of x. The gradient of a bar goes to the two ends of
    the longest edge of its birth simplex and of its death simplex; where several edges have one length it is
    one of the possible directions (that of the first edge). At two equal points the gradient of their
    distance is 0.

    A loss that opens the largest loop of a cloud::

        x = torch.nn.Parameter(points)
        optimizer = torch.optim.Adam([x], lr=0.01)
        for _ in range(100):
            bars = rg.differentiable_bars(x, rg.rips(x, 1), 1)
            loss = -(bars[:, 1] - bars[:, 0]).max()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    Args:
        x: Tensor ``[n, d]`` of real numbers, the points of the diagrams; with ``metric="precomputed"`` the
            distances ``[n, n]``. For a batch a list or tuple of tensors, or one tensor ``[b, n, d]``.
        diagrams: Of :func:`repgeom.rips` of these points, with landmarks too; for a batch as many.
        dim: The dimension. In dimension 0 births are 0.
        metric: That of the diagrams.
        p: As in :func:`repgeom.rips`.
        check: Refuse diagrams whose bars are not those of x. False allows for several steps with the
            simplices of the first, whose edges then no longer decide.

    Returns:
        ``[m, 2]`` births and deaths in the order of ``diagrams[dim]``, in the type of x (float32 for narrower
        ones); for a batch a list of them.

    Raises:
        ValueError: Diagrams without simplices, of another metric or of other points, a dimension that they
            lack.
        TypeError: x that is not a tensor of real numbers.

    References:
        Poulenard, Skraba and Ovsjanikov, *Topological function optimization*, 2018. Carrière et al., arXiv
        2010.08356.
    """
    if isinstance(diagrams, PersistenceDiagrams):
        return _bars(x, diagrams, dim, metric, p, check=check)
    if not isinstance(diagrams, Sequence) or len(diagrams) != len(x):
        given = len(diagrams) if isinstance(diagrams, Sequence) else type(diagrams).__name__
        raise refusal(f"diagrams must be a list of {len(x)}, one for each cloud", given)
    return [_bars(cloud, one, dim, metric, p, check=check) for cloud, one in zip(x, diagrams, strict=True)]


def _bars(
    x: Any, diagrams: PersistenceDiagrams, dim: int, metric: str, p: float | None, *, check: bool
) -> Tensor:
    import torch

    kernel, exponent = metric_of(metric, p)
    check_integer("dim", dim, 0)
    if dim > diagrams.max_dim:
        raise refusal(f"dim must be at most max_dim = {diagrams.max_dim}", dim)
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise TypeError(f"x must be a tensor of real numbers, got {kind}")
    if x.ndim != 2 or (metric == "precomputed" and x.shape[0] != x.shape[1]):
        raise refusal("x must be one cloud [n, d], or distances [n, n]", f"shape {tuple(x.shape)}")
    named = metric if p is None else f"minkowski (p={p:g})"
    if diagrams.metric not in (None, named):
        raise refusal(f"metric must be that of the diagrams, {diagrams.metric}", named)
    if diagrams.birth_simplices is None or diagrams.death_simplices is None:
        raise refusal("diagrams must have the simplices of their bars", "none")
    deaths = _lengths(x, diagrams.death_simplices[dim], kernel, exponent)
    if dim == 0:
        births = torch.zeros_like(deaths)
    else:
        births = _lengths(x, diagrams.birth_simplices[dim], kernel, exponent)
    bars = torch.stack([births, deaths], dim=1)
    if check:
        _check_same(bars, diagrams, dim)
    return bars.to(torch.promote_types(x.dtype, torch.float32))


def _check_same(bars: Tensor, diagrams: PersistenceDiagrams, dim: int) -> None:
    """Points that were moved after their diagrams are an error, not a wrong gradient."""
    found = bars.detach().cpu().numpy()
    held = diagrams[dim].astype(np.float64)
    scale = float(np.abs(held).max(initial=0.0))
    allowed = 2 * (diagrams.error_bound or 0.0) + 4 * float(np.finfo(np.float32).eps) * scale
    error = float(np.abs(found - held).max(initial=0.0))
    if not error <= allowed:
        raise refusal(f"bars of diagrams and points must agree within {allowed:.3g}", f"{error:.3g} apart")


def _lengths(x: Tensor, simplices: IntArray, kernel: str, exponent: float) -> Tensor:
    """``[m]``: the longest edge of every simplex ``[m, k]``."""
    import torch

    if len(simplices) and int(simplices.max()) >= len(x):
        raise refusal(f"diagrams must be of the {len(x)} points of x", f"point {int(simplices.max())}")
    pairs = np.array(list(itertools.combinations(range(simplices.shape[1]), 2)))
    ends = torch.from_numpy(np.ascontiguousarray(simplices[:, pairs])).to(x.device)
    first, second = ends[..., 0], ends[..., 1]
    if ends.shape[1] > 1:
        with torch.no_grad():
            of_edges = [
                _distances(x, first[:, edge], second[:, edge], kernel, exponent) for edge in range(len(pairs))
            ]
            longest = torch.stack(of_edges, dim=1).argmax(dim=1, keepdim=True)
        first, second = first.gather(1, longest), second.gather(1, longest)
    return _distances(x, first[:, 0], second[:, 0], kernel, exponent)


def _distances(x: Tensor, first: Tensor, second: Tensor, kernel: str, exponent: float) -> Tensor:
    """The distances of pairs of rows."""
    import torch

    if kernel == "precomputed":
        return x[first, second].double()
    left, right = x[first].double(), x[second].double()
    if kernel == "cosine":
        # |u - v|^2 / 2 of unit vectors is 1 - cos without the loss of digits where that is small.
        return (_unit(left) - _unit(right)).square().sum(dim=-1) / 2
    difference = left - right
    # The gradient of a root is infinite at 0: equal points get a constant instead.
    same = (difference == 0).all(dim=-1)
    safe = torch.where(same[..., None], torch.ones_like(difference), difference)
    order = {"manhattan": 1.0, "euclidean": 2.0, "chebyshev": float("inf")}.get(kernel, exponent)
    return torch.where(same, 0.0, torch.linalg.vector_norm(safe, ord=order, dim=-1))


def _unit(rows: Tensor) -> Tensor:
    import torch

    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / norms
