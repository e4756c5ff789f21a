"""Intervals that hold what they say, differences, growth with the sample, and permutation tests."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from repgeom.homology import rips
from repgeom.homology_differences import cloud_permutation_test, compare_intervals, holm
from repgeom.homology_statistics import Interval, sample_size_profile, spread, subsample_interval

TOTAL = "H0_total_persistence"


def square(seed: int, n: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).random((n, 2))


def circle(seed: int, n: int = 60) -> np.ndarray:
    rng = np.random.default_rng(seed)
    angles = rng.uniform(0, 2 * np.pi, n)
    return np.c_[np.cos(angles), np.sin(angles)] + 0.05 * rng.normal(size=(n, 2))


def blob(seed: int, n: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 2)) * 0.7


# --- intervals


@pytest.mark.parametrize("method", ["subsample", "bootstrap"])
def test_every_number_has_an_interval_around_its_estimate(method: Any):
    x = circle(0)
    found = subsample_interval(x, 1, method=method, repeats=30, threads=1)
    summary = rips(x, 1).summary()
    assert list(found) == list(summary)
    for name, interval in found.items():
        assert interval.estimate == summary[name]
        assert interval.lower <= interval.estimate <= interval.upper, name
        assert interval.lower >= 0
        assert interval.statistic == name
        assert interval.samples.shape == (30, 2 if method == "subsample" else 1)
    assert found[TOTAL].standard_error > 0
    assert found["H0_count"].status == "constant"
    assert found["H0_count"].lower == found["H0_count"].upper == 59


def test_resampling_with_replacement_is_far_off_where_the_interval_is_not():
    """The reason for all this: the percentile bootstrap excludes the estimate itself."""
    x = np.random.default_rng(0).normal(size=(80, 20))
    rng = np.random.default_rng(1)
    naive = [d.total_persistence(0) for d in rips([x[rng.integers(80, size=80)] for _ in range(60)], 0)]
    found = subsample_interval(x, 0, statistic=TOTAL, repeats=30)[TOTAL]
    assert max(naive) < 0.8 * found.estimate
    assert 0.9 * found.estimate < found.lower < found.estimate < found.upper < 1.1 * found.estimate


@pytest.mark.parametrize(("method", "name"), [("subsample", TOTAL), ("subsample", "H0_entropy"),
                                             ("bootstrap", "H0_entropy")])  # fmt: skip
def test_intervals_cover_the_expected_value(method: Any, name: str):
    truth = np.mean([d.summary()[name] for d in rips([square(10_000 + i) for i in range(1500)], 0)])
    clouds = 60
    held = 0
    for seed in range(clouds):
        found = subsample_interval(square(seed), 0, statistic=name, method=method, repeats=20, seed=seed)[
            name
        ]
        held += found.lower <= truth <= found.upper
    # 57 of 60 are expected; 51 or fewer have a chance of 0.7 % at 95 % coverage.
    assert held >= 52


def test_the_variance_is_that_of_independent_clouds():
    """Disjoint parts are unbiased: the mean over clouds is the variance of fresh ones of that size."""
    fresh = np.var([d.total_persistence(0) for d in rips([square(i, 30) for i in range(3000)], 0)])
    found = [
        np.var(subsample_interval(square(i), 0, statistic=TOTAL, repeats=20)[TOTAL].samples, axis=1, ddof=1)
        for i in range(60)
    ]
    assert np.mean(found) == pytest.approx(fresh, rel=0.2)


def test_the_spread_follows_the_growth_of_the_variance():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(20000, 2)) * math.sqrt(8)
    for small, growth in ((4.0, 1.0), (8.0, 0.0), (1.0, 2.0), (16.0, 0.0)):
        error, k = spread(samples, rng.normal(size=(20000, 4)) * math.sqrt(small), 64, 32)
        assert k == pytest.approx(growth, abs=0.06)
        assert error**2 == pytest.approx(8 * 2**growth, rel=0.06)


def test_the_bootstrap_makes_up_for_the_points_that_it_leaves_out():
    found = subsample_interval(square(0), 0, statistic=TOTAL, method="bootstrap", repeats=50)[TOTAL]
    assert found.size == 38
    mean, deviation = found.samples.mean(), found.samples.std(ddof=1)
    assert found.estimate > mean
    wanted = deviation * math.sqrt(38 / 22) * found.estimate / mean
    assert found.standard_error == pytest.approx(wanted)
    assert found.upper - found.estimate == pytest.approx(1.959964 * wanted)
    assert found.estimate - found.lower == pytest.approx(1.959964 * wanted)
    # A number that changes its sign has no ratio to its mean.
    centred = subsample_interval(
        square(0), 0, statistic=lambda d: d.total_persistence(0) - mean, method="bootstrap", repeats=50
    )["statistic"]
    assert centred.standard_error == pytest.approx(deviation * math.sqrt(38 / 22))


def test_the_same_seed_gives_the_same_interval_at_any_number_of_threads():
    x = circle(3)
    one, two, other = (
        subsample_interval(x, 1, repeats=12, seed=seed, threads=threads)["H1_max_lifetime"]
        for seed, threads in ((5, 1), (5, 2), (6, 1))
    )
    assert np.array_equal(one.samples, two.samples)
    assert (one.lower, one.upper) == (two.lower, two.upper)
    assert one.standard_error != other.standard_error


def test_distances_and_tensors_give_what_points_give():
    x = circle(4).astype(np.float32)
    wanted = subsample_interval(x, 1, repeats=10, threads=1)
    distances = np.sqrt(((x[:, None].astype(float) - x) ** 2).sum(-1))
    for given, settings in ((torch.from_numpy(x), {}), (distances, {"metric": "precomputed"})):
        found = subsample_interval(given, 1, repeats=10, threads=1, **settings)
        for name, interval in found.items():
            assert interval.estimate == pytest.approx(wanted[name].estimate, rel=1e-4)
            assert interval.standard_error == pytest.approx(wanted[name].standard_error, rel=1e-3, abs=1e-6)


def test_a_statistic_of_ones_own():
    x = circle(5)
    found = subsample_interval(x, 1, statistic=lambda d: d.total_persistence(1, power=2), repeats=10)
    assert list(found) == ["statistic"]
    assert found["statistic"].estimate == rips(x, 1).total_persistence(1, power=2)
    two = subsample_interval(x, 1, statistic=lambda d: {"a": d.count(0), "b": d.count(1)}, repeats=10)
    assert list(two) == ["a", "b"]
    negative = subsample_interval(x, 0, statistic=lambda d: -d.total_persistence(0), repeats=10)["statistic"]
    assert negative.lower < negative.estimate < 0


def test_what_subsamples_do_not_have_gets_no_interval():
    # A square of four points among twelve: its loop needs all four, which no half has.
    x = np.array([[0, 0], [1, 0], [1, 1], [0, 1], *[[3.0 + i, 0] for i in range(8)]])
    seeds = [subsample_interval(x, 1, repeats=10, seed=seed)["H1_count"] for seed in range(8)]
    absent = [interval for interval in seeds if not interval.samples.any()]
    assert absent
    for interval in absent:
        assert interval.estimate == 1
        assert interval.status == "absent from subsamples"
        assert math.isnan(interval.lower)
        assert math.isnan(interval.standard_error)
    entropy = subsample_interval(np.arange(10.0)[:, None], 1, repeats=10)["H1_entropy"]
    assert entropy.status == "undefined"
    assert math.isnan(entropy.upper)


def test_undefined_divisions_are_left_out_and_counted():
    x, calls = circle(6), iter(range(10**6))

    def sometimes(diagrams: Any) -> float:
        return math.nan if next(calls) in (3, 20) else diagrams.total_persistence(0)

    found = subsample_interval(x, 0, statistic=sometimes, repeats=20)["statistic"]
    assert found.status == "ok"
    assert found.notes == ("NaN in 1 divisions, which were left out",)


def test_progress_ends_at_one_and_rises():
    seen: list[float] = []
    subsample_interval(square(0, 200), 1, repeats=100, threads=1, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1)


def test_an_interrupt_gets_through():
    def stop(_share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        subsample_interval(square(0, 400), 1, repeats=200, threads=1, progress=stop)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repeats": 9}, "repeats must be an integer of at least 10, got 9"),
        ({"level": 1.0}, "level must be between 0 and 1, got 1.0"),
        ({"fraction": 0.6}, "fraction must be above 0 and at most 0.5, got 0.6"),
        ({"size": 31}, "size must be at most half of the 60 points, got 31"),
        ({"size": 3}, "size must be an integer of at least 4"),
        ({"method": "jackknife"}, "method must be one of subsample, bootstrap, got 'jackknife'"),
        ({"method": "bootstrap", "size": 20}, "fraction and size belong to method='subsample'"),
        ({"statistic": "H7_count"}, "statistic must be among H0_count"),
        ({"statistic": []}, "statistic must be among H0_count"),
        ({"landmarks": 10}, "landmarks do not go with subsamples"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
        ({"metric": "cityblock"}, "metric must be one of"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        subsample_interval(square(0), 1, **settings)


def test_bad_clouds_are_named():
    with pytest.raises(ValueError, match="at least 8 points, got 7"):
        subsample_interval(square(0, 7))
    with pytest.raises(ValueError, match="points or a square matrix of distances, got a condensed form"):
        subsample_interval(np.ones(28), metric="precomputed")
    calls = iter(range(10**6))
    with pytest.raises(ValueError, match="statistic must always return the numbers"):
        subsample_interval(square(0), statistic=lambda _: {f"name{next(calls)}": 1.0}, repeats=10)


# --- differences


def interval(**changes: Any) -> Interval:
    base = subsample_interval(square(0), 0, statistic=TOTAL, repeats=10)[TOTAL]
    return dataclasses.replace(base, **changes)


def test_a_difference_has_the_error_of_both():
    a = interval(estimate=10.0, standard_error=0.3, lower=9.412, upper=10.588)
    b = interval(estimate=9.0, standard_error=0.4, lower=8.216, upper=9.784)
    found = compare_intervals({"a": a, "b": b})["a", "b"]
    assert found.diff == 1.0
    assert found.standard_error == pytest.approx(0.5)
    assert (found.lower, found.upper) == pytest.approx((1 - 0.98, 1 + 0.98), abs=1e-3)
    assert found.p_value == pytest.approx(0.0455, abs=1e-4)
    # Intervals that overlap are no sign that nothing differs.
    assert found.significant
    assert found.ci_overlap
    assert found.cohens_d == pytest.approx(1 / math.sqrt((0.09 + 0.16) / 2))


def test_many_comparisons_are_adjusted():
    intervals = {
        i: interval(estimate=value, standard_error=0.4, lower=value - 1, upper=value + 1)
        for i, value in enumerate((10.0, 9.0, 9.5))
    }
    found = compare_intervals(intervals)
    assert list(found) == [(0, 1), (0, 2), (1, 2)]
    assert found[0, 1].adjusted_p_value == pytest.approx(3 * found[0, 1].p_value)
    assert found[1, 2].adjusted_p_value >= found[1, 2].p_value
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_rows_that_belong_together_make_a_difference_visible():
    x = square(1, 100)
    layers = {
        i: subsample_interval(x * (1 + 0.02 * i), 0, statistic=TOTAL, repeats=30)[TOTAL] for i in (0, 1)
    }
    apart, together = (compare_intervals(layers, paired=paired)[0, 1] for paired in (False, True))
    assert apart.diff == together.diff < 0
    assert together.standard_error < 0.1 * apart.standard_error
    assert together.significant
    assert not apart.significant
    same = compare_intervals({"a": layers[0], "b": layers[0]}, paired=True)["a", "b"]
    assert (same.standard_error, same.p_value, same.significant) == (0.0, 1.0, False)


def test_intervals_that_cannot_be_compared_are_refused():
    a = interval()
    bad = {
        "of at least 2 clouds": {"a": a},
        "of one statistic": {"a": a, "b": interval(statistic="other")},
        "have one level": {"a": a, "b": interval(level=0.9)},
        "must have ends, 'b' has none, got undefined": {
            "a": a,
            "b": interval(lower=math.nan, status="undefined"),
        },
    }
    for message, intervals in bad.items():
        with pytest.raises(ValueError, match=message):
            compare_intervals(intervals)
    with pytest.raises(ValueError, match="of the same subsamples"):
        compare_intervals({"a": a, "b": interval(seed=1)}, paired=True)


# --- growth with the sample


def test_a_profile_of_sizes():
    x = square(2, 64)
    found = sample_size_profile(x, [4, 16, 64], 8, 1, threads=1)
    total = found[TOTAL]
    assert total.sizes.tolist() == [4, 16, 64]
    assert total.samples.shape == (3, 8)
    assert (np.diff(total.mean) > 0).all()
    assert total.std[2] == pytest.approx(0, abs=1e-12)
    assert total.mean[2] == pytest.approx(rips(x, 0).total_persistence(0))
    assert total.std[:2] == pytest.approx(total.samples[:2].std(axis=1, ddof=1))
    assert total.cv == pytest.approx(total.std / total.mean)
    assert (total.minimum <= total.mean).all()
    assert (total.mean <= total.maximum + 1e-12).all()
    assert found["H0_count"].mean.tolist() == [3, 15, 63]
    assert math.isnan(sample_size_profile(x, [1], 2, 1)["H1_count"].cv[0])


def test_bad_sizes_are_named():
    for sizes, message in (
        ([65], "at most the 64 points, got 65"),
        ([], "at least one size"),
        ([0], "size must"),
    ):
        with pytest.raises(ValueError, match=message):
            sample_size_profile(square(0, 64), sizes)


# --- permutation tests


def test_p_values_are_uniform_where_nothing_differs():
    """A coarse test with fixed seeds: means of 60 uniform numbers are within 0.5 +- 0.12 (3 sigma)."""
    found = [
        cloud_permutation_test(square(2 * i, 30), square(2 * i + 1, 30), 1, repeats=39, seed=i, threads=1)
        for i in range(60)
    ]
    for p_values in (
        np.array([one.p_value for one in found]),
        np.array([one.numbers[TOTAL].p_value for one in found]),
    ):
        assert 0.38 < p_values.mean() < 0.62
        assert np.mean(p_values <= 0.1) <= 0.2
        assert 0.3 <= np.mean(p_values <= 0.5) <= 0.7
        assert p_values.min() >= 1 / 40


@pytest.mark.parametrize("compare", ["summary", "wasserstein", "bottleneck"])
def test_a_circle_is_no_blob(compare: Any):
    found = cloud_permutation_test(circle(0, 40), blob(0, 40), 1, compare=compare, repeats=59, threads=1)
    assert found.p_value <= 3 / 60
    name = "H1_max_lifetime" if compare == "summary" else f"H1_{compare}"
    number = found.numbers[name]
    assert number.p_value == (1 + np.sum(number.null >= number.observed)) / 60
    assert number.p_value <= 2 / 60
    assert number.null.shape == (59,)


def test_the_observed_distance_is_that_of_the_clouds():
    a, b = circle(1, 40), blob(1, 40)
    left, right = rips(a, 1).summary(), rips(b, 1).summary()
    found = cloud_permutation_test(a, b, 1, repeats=5)
    assert found.numbers["H1_max_lifetime"].observed == abs(
        left["H1_max_lifetime"] - right["H1_max_lifetime"]
    )
    own = cloud_permutation_test(
        a, b, 1, repeats=5, compare=lambda one, other: abs(one.count(1) - other.count(1))
    )
    assert list(own.numbers) == ["distance"]
    assert own.p_value == own.numbers["distance"].p_value


def test_larger_clouds_are_drawn_from():
    found = cloud_permutation_test(circle(2, 90), blob(2, 30), 1, repeats=39, seed=3)
    assert found.n == 30
    assert found.notes == ("30 of the 90 points of a were drawn, as the other cloud has no more",)
    again = cloud_permutation_test(
        torch.from_numpy(circle(2, 90)), torch.from_numpy(blob(2, 30)), 1, repeats=39, seed=3
    )
    assert again.p_value == found.p_value
    assert again.numbers[TOTAL].null.tolist() == found.numbers[TOTAL].null.tolist()


def test_clouds_that_cannot_be_exchanged_are_refused():
    a = square(0, 10)
    for args, settings, message in (
        ((a, np.ones((10, 3))), {}, "one space, got 2 and 3 dimensions"),
        ((a, a[:1]), {}, "at least 2 points, got 1"),
        ((np.ones((3, 3)), np.ones((3, 3))), {"metric": "precomputed"}, "clouds must be points"),
        ((a, a), {"compare": "landscape"}, "compare must be a function or one of"),
        ((a, a), {"repeats": 0}, "repeats must be an integer of at least 1"),
        ((a, torch.from_numpy(a)), {}, "both be torch tensors or both NumPy arrays"),
        ((a, a), {"compare": lambda *_: math.nan}, "no NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            cloud_permutation_test(*args, **settings)
