"""Moments with torch on a device, here the CPU: the same numbers as the kernel, within both error bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repgeom.covariance import Covariance
from repgeom.device_moments import RUN, DeviceMoments

CPU = torch.device("cpu")


def both(batches: list[torch.Tensor], keeps: list[torch.Tensor | None]) -> tuple[Covariance, Covariance]:
    moments, kernel = DeviceMoments(batches[0].shape[1], CPU), Covariance(batches[0].shape[1])
    for rows, keep in zip(batches, keeps, strict=True):
        moments.update(rows, keep)
        kernel.update(rows.contiguous(), None if keep is None else keep.double())
    return moments.to_covariance(), kernel


def exact(batches: list[torch.Tensor], keeps: list[torch.Tensor | None]) -> tuple[np.ndarray, np.ndarray]:
    rows = torch.cat(
        [r.double() if k is None else r[k].double() for r, k in zip(batches, keeps, strict=True)]
    )
    rows = rows[rows.isfinite().all(dim=1)].numpy()
    return rows.mean(axis=0), np.cov(rows.T)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_it_agrees_with_the_kernel_and_with_float64(dtype, offset):
    generator = torch.Generator().manual_seed(0)
    sizes = [3, RUN, RUN + 1, 40, 0, 2 * RUN + 77]
    batches = [(torch.randn(n, 24, generator=generator) + offset).to(dtype) for n in sizes]
    keeps = [None, torch.rand(RUN, generator=generator) < 0.7, None, torch.zeros(40, dtype=torch.bool), None]
    keeps = [*keeps, torch.rand(sizes[-1], generator=generator) < 0.2]
    found, kernel = both(batches, keeps)
    mean, covariance = exact(batches, keeps)
    assert found.count == kernel.count
    np.testing.assert_allclose(found.mean, mean, rtol=1e-11)
    bound = found.error_bound()
    assert (np.abs(found.covariance() - covariance) <= np.outer(bound, bound) + 1e-15).all()
    assert (bound**2 <= 4 * kernel.error_bound() ** 2 + 1e-9).all(), "the bound is of use"


def test_a_massive_channel_costs_no_digits():
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(5000, 8, generator=generator)
    rows[:, 3] += 1e5
    found, _ = both([rows], [None])
    _, covariance = exact([rows], [None])
    np.testing.assert_allclose(found.covariance(), covariance, rtol=1e-5, atol=1e-5)


def test_rows_that_are_not_finite_are_left_out_and_counted():
    rows = torch.randn(100, 4)
    rows[3, 1], rows[50, 0], rows[51, 2] = float("nan"), float("inf"), float("nan")
    keep = torch.ones(100, dtype=torch.bool)
    keep[51] = False
    found, kernel = both([rows], [keep])
    assert (found.count, found.nonfinite) == (kernel.count, kernel.nonfinite) == (97, 2)
    np.testing.assert_allclose(found.covariance(), kernel.covariance(), rtol=1e-5, atol=1e-6)


def test_it_goes_on_as_a_covariance():
    rows = torch.randn(300, 6, dtype=torch.float64)
    moments = DeviceMoments(6, CPU)
    moments.update(rows[:200])
    covariance = moments.to_covariance().merge(Covariance(6).update(rows[200:]))
    np.testing.assert_allclose(covariance.covariance(), np.cov(rows.numpy().T), rtol=1e-12)


def test_nothing_seen_is_an_empty_covariance():
    assert DeviceMoments(5, CPU).to_covariance().count == 0


def test_lower_precision_that_the_user_allows_does_not_reach_the_products():
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(2000, 16, generator=generator)
    _, covariance = exact([rows], [None])
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found, _ = both([rows], [None])
            assert torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    bound = found.error_bound()
    assert (np.abs(found.covariance() - covariance) <= np.outer(bound, bound)).all()


def test_no_update_waits_for_the_device():
    """On the meta device any look at a value raises."""
    meta = torch.device("meta")
    moments = DeviceMoments(4, meta)
    moments.update(torch.randn(600, 4, device=meta), torch.ones(600, dtype=torch.bool, device=meta))
    moments.update(torch.randn(3, 4, device=meta))
