"""Gradients of bars against finite differences, and a loop that opens under them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from repgeom.diagrams import PersistenceDiagrams
from repgeom.homology import rips
from repgeom.homology_gradients import differentiable_bars

INF = float("inf")
METRICS = [
    ("euclidean", None),
    ("cosine", None),
    ("manhattan", None),
    ("chebyshev", None),
    ("minkowski", 1.0),
    ("minkowski", 2.0),
    ("minkowski", 3.5),
    ("minkowski", INF),
]


def cloud(n: int = 24, d: int = 4, dtype: Any = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d))).to(dtype)


def noisy_circle(n: int = 40) -> torch.Tensor:
    rng = np.random.default_rng(1)
    angles = rng.uniform(0, 2 * np.pi, n)
    return torch.from_numpy(np.c_[np.cos(angles), np.sin(angles)] + 0.1 * rng.normal(size=(n, 2)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("metric", "p"), METRICS)
@pytest.mark.parametrize("d", [3, 200])
def test_values_are_the_bars(dtype: Any, metric: str, p: float | None, d: int):
    x = cloud(40, d, dtype) + 1
    diagrams = rips(x, 2, metric=metric, p=p)
    assert len(diagrams[1]) > 0
    for dim in range(3):
        bars = differentiable_bars(x, diagrams, dim, metric=metric, p=p)
        assert bars.shape == diagrams[dim].shape
        assert bars.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        error = np.abs(bars.numpy() - diagrams[dim]).max(initial=0.0)
        assert error <= diagrams.error_bound


@pytest.mark.parametrize(("metric", "p"), METRICS)
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_gradients_are_those_of_finite_differences(metric: str, p: float | None, dim: int):
    x = cloud(30, 3)
    # About a sphere, for bars of dimension 2.
    x = (x / x.norm(dim=1, keepdim=True) * (1 + 0.05 * cloud(30, 1))).requires_grad_()
    diagrams = rips(x, 2, metric=metric, p=p)
    assert len(diagrams[dim]) > 0

    def bars(points: torch.Tensor) -> torch.Tensor:
        return differentiable_bars(points, diagrams, dim, metric=metric, p=p, check=False)

    assert torch.autograd.gradcheck(bars, (x,), eps=1e-7, atol=1e-5)


def test_gradients_are_those_of_rips_itself():
    """Not only with the simplices held: the diagrams of moved points move as the gradient says."""
    x = noisy_circle().requires_grad_()

    def longest(points: torch.Tensor) -> torch.Tensor:
        bars = differentiable_bars(points, rips(points, 1), 1)
        return (bars[:, 1] - bars[:, 0]).max()

    longest(x).backward()
    direction = cloud(40, 2, seed=2)
    step = 1e-4
    with torch.no_grad():
        change = (longest(x + step * direction) - longest(x - step * direction)) / (2 * step)
    assert (x.grad * direction).sum().item() == pytest.approx(change.item(), rel=1e-3)
    # One bar: the two ends of one edge at its birth, and of one at its death.
    assert 2 <= int((x.grad != 0).any(dim=1).sum()) <= 4


def test_precomputed_distances():
    x = cloud(20, 3)
    distances = torch.cdist(x, x).fill_diagonal_(0)
    distances = ((distances + distances.T) / 2).requires_grad_()
    diagrams = rips(distances, 1, metric="precomputed")
    bars = differentiable_bars(distances, diagrams, 1, metric="precomputed")
    assert np.abs(bars.detach().numpy() - diagrams[1]).max() <= diagrams.error_bound
    bars.sum().backward()
    assert int((distances.grad != 0).sum()) <= 2 * len(bars)
    assert distances.grad.sum().item() == pytest.approx(2 * len(bars))


def test_a_loop_opens():
    x = torch.nn.Parameter(noisy_circle().float())
    optimizer = torch.optim.Adam([x], lr=0.01)
    lengths = []
    for _ in range(40):
        bars = differentiable_bars(x, rips(x, 1), 1)
        loss = -(bars[:, 1] - bars[:, 0]).max()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        lengths.append(-loss.item())
    assert lengths[-1] > lengths[0] + 0.1


def test_equal_points_have_a_gradient_without_nan():
    x = torch.cat([cloud(10, 3), cloud(10, 3)]).requires_grad_()
    diagrams = rips(x, 1)
    for metric in ("euclidean", "manhattan", "chebyshev"):
        bars = differentiable_bars(x, rips(x, 1, metric=metric), 0, metric=metric)
        (grad,) = torch.autograd.grad(bars.sum(), x)
        assert torch.isfinite(grad).all()
    # Tied edges of a square: still finite, still the bars.
    square = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]], requires_grad=True)
    bars = differentiable_bars(square, rips(square, 1), 1)
    assert bars.tolist() == [[1.0, pytest.approx(2**0.5)]]
    bars.sum().backward()
    assert torch.isfinite(square.grad).all()
    assert len(diagrams[0]) == 9


def test_pairs_at_distance_zero_have_no_gradient():
    """A death simplex whose points all coincide, as bars of other programs may have."""
    x = torch.zeros((3, 2), dtype=torch.float64, requires_grad=True)
    diagrams = PersistenceDiagrams(
        finite=(np.array([[0.0, 1e-8]], np.float32),),
        infinite=(np.zeros(1, np.float32),),
        birth_simplices=(np.array([[0]]),),
        death_simplices=(np.array([[0, 1]]),),
        error_bound=1e-7,
    )
    for metric, p in METRICS:
        if metric != "cosine":
            bars = differentiable_bars(x, diagrams, 0, metric=metric, p=p)
            assert torch.autograd.grad(bars.sum(), x)[0].tolist() == [[0.0, 0.0]] * 3


def test_landmarks_have_the_numbers_of_the_whole_cloud():
    x = noisy_circle(80).requires_grad_()
    diagrams = rips(x, 1, landmarks=30)
    bars = differentiable_bars(x, diagrams, 1)
    assert np.abs(bars.detach().numpy() - diagrams[1]).max() <= diagrams.error_bound
    bars.sum().backward()
    assert x.grad.abs().sum() > 0


def test_a_batch_is_worked_on_one_by_one():
    x = torch.stack([cloud(seed=0), cloud(seed=1)]).requires_grad_()
    diagrams = rips(list(x), 1)
    for given in (x, list(x)):
        found = differentiable_bars(given, diagrams, 1)
        assert [len(bars) for bars in found] == [len(one[1]) for one in diagrams]
    sum(bars.sum() for bars in found).backward()
    assert (x.grad.abs().sum(dim=(1, 2)) > 0).all()


def test_no_bars_are_an_empty_tensor():
    x = torch.tensor([[0.0], [1.0]], requires_grad=True)
    bars = differentiable_bars(x, rips(x, 2), 1)
    assert bars.shape == (0, 2)
    bars.sum().backward()
    assert x.grad.tolist() == [[0.0], [0.0]]


def test_what_does_not_fit_is_refused():
    x = cloud()
    diagrams = rips(x, 1)
    without = PersistenceDiagrams.from_ripser(diagrams.to_ripser())
    for points, given, dim, settings, message in (
        (x + 0.01 * cloud(seed=3), diagrams, 1, {}, "bars of diagrams and points must agree within"),
        (x * float("nan"), diagrams, 1, {}, "bars of diagrams and points must agree within"),
        (x[:5], diagrams, 1, {}, "of the 5 points of x"),
        (x, diagrams, 2, {}, "dim must be at most max_dim = 1, got 2"),
        (x, diagrams, -1, {}, "dim must be an integer of at least 0"),
        (x, diagrams, 1, {"metric": "cosine"}, "metric must be that of the diagrams, euclidean, got cosine"),
        (x, without, 1, {}, "diagrams must have the simplices of their bars"),
        (x[0], diagrams, 1, {}, r"one cloud \[n, d\]"),
        (x, dataclasses.replace(diagrams, metric="precomputed"), 1, {"metric": "precomputed"}, r"\[n, n\]"),
        ([x, x], [diagrams], 1, {}, "diagrams must be a list of 2, one for each cloud, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            differentiable_bars(points, given, dim, **settings)
    with pytest.raises(TypeError, match="tensor of real numbers, got ndarray"):
        differentiable_bars(x.numpy(), diagrams, 1)
    with pytest.raises(TypeError, match=r"tensor of real numbers, got torch\.int64"):
        differentiable_bars(x.long(), diagrams, 1)
