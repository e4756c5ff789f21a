"""The collector on a device: nothing in a hook looks at a value, so nothing waits for the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repgeom.collect import Collector, LayerStatistics
from repgeom.device_moments import DeviceMoments
from repgeom.pooling import POOLINGS, SequenceSample
from repgeom.routed import RouterCounts
from repgeom.routers import Router
from repgeom.rows import BatchRows
from repgeom.sampling import TokenSample

WIDTH = 6


def collector(moments: bool = True) -> Collector:
    router = Router(0, "gate", "blocks.0.gate", 0, 4, 2, "indices", ())
    return Collector(
        {site: LayerStatistics(i, site) for i, site in enumerate(("a", "b"))},
        TokenSample(5),
        moments=moments,
        sequences=SequenceSample(TokenSample(3)),
        poolings=POOLINGS,
        routing=RouterCounts([router]),
    )


def rows(seed: int) -> BatchRows:
    rng = np.random.default_rng(seed)
    keep = rng.random(12) < 0.7
    first = np.arange(12) % 4 == 0
    return BatchRows(
        (3, 4),
        keep & ~first,
        {"first": first},
        token_ids=rng.integers(0, 50, 12),
        sequence_ids=np.repeat(np.arange(3), 4) + 3 * seed,
        positions=np.tile(np.arange(4), 3),
    )


@pytest.mark.parametrize("moments", [True, False])
def test_no_hook_waits_for_the_device(moments):
    """On the meta device any look at a value raises."""
    statistics = collector(moments)
    (router,) = statistics.routing.routers
    for seed in range(3):
        statistics.begin(rows(seed))
        for site in ("a", "b"):
            statistics.add(site, torch.randn(3, 4, WIDTH, device="meta"))
        statistics.choose(router, torch.zeros(12, 2, dtype=torch.int64, device="meta"))
        statistics.end()
    assert statistics.layers["a"].rows.device.type == "meta"


def test_statistics_on_a_device_are_those_on_the_host():
    batches = [(rows(seed), torch.randn(3, 4, WIDTH)) for seed in range(3)]
    host, device = collector(), collector()
    for site in device.layers:
        device.allocate(site, WIDTH, torch.float32, torch.device("cpu"))
        device.layers[site].moments = DeviceMoments(WIDTH, torch.device("cpu"))
    for statistics in (host, device):
        for batch, activation in batches:
            statistics.begin(batch)
            for site in statistics.layers:
                statistics.add(site, activation)
            statistics.end()
    for site in host.layers:
        one, other = host.layers[site].covariance, device.layers[site].covariance
        np.testing.assert_allclose(other.covariance(), one.covariance(), rtol=1e-5, atol=1e-6)
        assert other.count == one.count
        assert torch.equal(host.layers[site].rows, device.layers[site].rows)


def test_activations_of_another_shape_are_refused():
    statistics = collector()
    statistics.begin(rows(0))
    with pytest.raises(ValueError, match=r"activations must be \[batch, seq, d\] of the batch \(3, 4\)"):
        statistics.add("a", torch.randn(3, 5, WIDTH))
    statistics.add("a", torch.randn(12, WIDTH))
    statistics.begin(rows(1))
    with pytest.raises(ValueError, match="the same width, got 7 after 6"):
        statistics.add("a", torch.randn(3, 4, WIDTH + 1))
    with pytest.raises(ValueError, match="d channels"):
        statistics.add("b", torch.randn(3))
