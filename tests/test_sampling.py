"""The token sample: uniform, the same for any cut of the stream, and exactly the smallest random bits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repgeom import _core
from repgeom.sampling import TokenSample

CUTS = st.lists(st.integers(0, 40), max_size=12)


def drawn(sizes: list[int], limit: int, **options: int | bool) -> tuple[TokenSample, dict[int, int]]:
    """The sample after batches of these sizes, and which token a buffer holds at each place.

    The buffer is filled as a user of :class:`TokenSample` fills it, by the draws alone.
    """
    sample, buffer, start = TokenSample(limit, **options), {}, 0
    for size in sizes:
        draw = sample.draw(size)
        assert draw.rows.dtype == draw.slots.dtype == np.int64
        assert len(draw.rows) == len(draw.slots) == len(set(draw.slots.tolist()))
        assert ((draw.rows >= 0) & (draw.rows < size)).all()
        assert (np.diff(draw.rows) > 0).all()
        assert ((draw.slots >= 0) & (draw.slots < limit)).all()
        buffer.update(zip(draw.slots.tolist(), (start + draw.rows).tolist(), strict=True))
        start += size
    assert sample.seen == start
    return sample, buffer


def smallest(total: int, limit: int, seed: int) -> list[int]:
    """The tokens with the smallest bits, each drawn by a call of its own, by a plain sort."""
    bits = {token: int(_core.random_bits(seed, 0, token, 1)[0]) for token in range(total)}
    return sorted(sorted(bits, key=lambda token: (bits[token], token))[:limit])


@given(sizes=CUTS, limit=st.integers(0, 50), seed=st.integers(0, 2**64 - 1))
def test_the_sample_is_the_tokens_with_the_smallest_bits(sizes, limit, seed):
    sample, buffer = drawn(sizes, limit, seed=seed)
    want = smallest(sum(sizes), limit, seed)
    assert sorted(sample.index.tolist()) == want
    assert len(sample) == len(want) == min(limit, sum(sizes))
    # What was written into the buffer is what the sample says it holds, place by place.
    assert buffer == dict(enumerate(sample.index.tolist()))
    assert sample.index[sample.order()].tolist() == want


@given(sizes=CUTS, limit=st.integers(0, 50))
def test_the_first_tokens_when_asked(sizes, limit):
    sample, buffer = drawn(sizes, limit, first=True)
    want = [*range(min(limit, sum(sizes)))]
    assert sample.index[sample.order()].tolist() == want
    assert sorted(buffer.values()) == want


@pytest.mark.parametrize("first", [False, True])
def test_any_cut_of_the_stream_gives_the_same_sample(first):
    total, limit = 500, 37
    whole, _ = drawn([total], limit, seed=5, first=first)
    generator = np.random.default_rng(0)
    for pieces in (1, 3, 50, total):
        edges = np.sort(generator.integers(0, total + 1, pieces - 1)).tolist()
        sizes = [b - a for a, b in itertools.pairwise([0, *edges, total])]
        found, _ = drawn(sizes, limit, seed=5, first=first)
        assert found.index[found.order()].tolist() == whole.index[whole.order()].tolist()


def test_a_longer_stream_keeps_or_replaces_but_never_reorders():
    """What is in the sample of a longer stream and was seen before, was in the sample before."""
    sample = TokenSample(20, seed=2)
    sample.draw(100)
    before = set(sample.index.tolist())
    sample.draw(900)
    after = {token for token in sample.index.tolist() if token < 100}
    assert after <= before
    assert len(after) < len(before)


def test_the_sample_is_uniform():
    """Over 4000 seeds every token and every pair of neighbours comes as often as it must (fixed seeds)."""
    total, limit, runs = 40, 10, 4000
    counts, neighbours = np.zeros(total), 0
    for seed in range(runs):
        sample, _ = drawn([7, 13, 20], limit, seed=seed)
        chosen = np.sort(sample.index)
        counts[chosen] += 1
        neighbours += int(np.sum(np.diff(chosen) == 1))
    share = limit / total
    # Sampling without replacement: the sum of squared deviations has mean (total - 1).
    statistic = float(
        np.sum((counts - runs * share) ** 2) / (runs * share * (1 - share)) * (total - 1) / total
    )
    assert 39 - 4 * (2 * 39) ** 0.5 < statistic < 39 + 4 * (2 * 39) ** 0.5
    # Each of the 39 pairs of neighbours is chosen with probability share * (limit - 1) / (total - 1).
    assert abs(neighbours / runs - share * (limit - 1)) < 0.1


def test_seeds_differ():
    samples = {tuple(np.sort(drawn([300], 30, seed=seed)[0].index).tolist()) for seed in range(50)}
    assert len(samples) == 50


def test_nothing_is_sampled_with_limit_zero():
    sample = TokenSample(0)
    draw = sample.draw(10)
    assert len(draw.rows) == len(draw.slots) == len(sample) == 0
    assert sample.seen == 10


def test_a_negative_limit_is_refused():
    with pytest.raises(ValueError, match="sample_limit must be >= 0, got -1"):
        TokenSample(-1)
