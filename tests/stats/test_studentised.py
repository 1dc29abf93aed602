"""Studentised intervals: against written-out resamples, at their edges, and how often they hold."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from reference import studentised as reference
from unembed.stats.bootstrap import sums_by_document
from unembed.stats.concentration import FEWEST_LARGEST, largest_share
from unembed.stats.estimate import Estimate
from unembed.stats.student import student_t
from unembed.stats.studentised import mean_estimates, studentised, tail_quantile_estimates

ANY = (-math.inf, math.inf)


@pytest.mark.parametrize("units", [3, 6, 25])
@pytest.mark.parametrize("kind", ["skewed", "shares", "alike but one"])
def test_bounds_are_those_of_written_out_resamples(units: int, kind: str) -> None:
    rng = np.random.default_rng(units)
    whole = rng.integers(1, 9, units).astype(float)
    parts = {
        "skewed": whole * rng.lognormal(0, 1.5, units),
        "shares": np.floor(whole * rng.random(units)),
        "alike but one": whole * (np.arange(units) != 1),
    }[kind]
    got = studentised(parts[None], whole[None], resamples=80, seed=3)
    value, error = reference.ratio(parts.tolist(), whole.tolist())
    assert (got.value[0], got.error[0]) == pytest.approx((value, error), rel=1e-12)
    student = student_t(units - 1)
    far = reference.distances(parts.tolist(), whole.tolist(), resamples=80, seed=3)
    low_t, high_t = reference.bounds(far, student)
    assert (got.low_t[0], got.high_t[0]) == pytest.approx((low_t, high_t), rel=1e-6)
    ends = reference.interval(parts.tolist(), whole.tolist(), student, resamples=80, seed=3)
    assert got.ends(0) == pytest.approx(ends, rel=1e-6)


def test_several_ratios_are_each_as_alone() -> None:
    rng = np.random.default_rng(0)
    parts, whole = rng.lognormal(size=(3, 9)), rng.lognormal(size=(3, 9))
    together = studentised(parts, whole, resamples=50)
    for i in range(3):
        alone = studentised(parts[i : i + 1], whole[i : i + 1], resamples=50)
        assert together.ends(i) == pytest.approx(alone.ends(0), rel=1e-12)


def test_a_lone_unit_has_no_interval_and_equal_ones_no_width() -> None:
    assert studentised(np.ones((1, 1)), np.ones((1, 1))).ends(0) == (None, None)
    equal = studentised(np.full((1, 5), 0.5), np.ones((1, 5)), resamples=20)
    assert equal.ends(0) == (0.5, 0.5)


def test_units_that_are_nearly_all_alike_are_not_bounded_by_their_resamples() -> None:
    parts = np.array([[1.0, 1, 1, 1, 1, 0]])
    got = studentised(parts, np.ones((1, 6)), resamples=400)
    assert not got.bounded[0]
    assert got.high_t[0] == student_t(5)
    low, high = got.ends(0, (0.0, 1.0))
    assert low is not None
    assert low < 5 / 6 < high == 1.0
    plain = studentised(parts, np.ones((1, 6)), resamples=0)
    assert (-plain.low_t[0], plain.high_t[0]) == (student_t(5), student_t(5))


def test_an_independent_error_is_added_in_quadrature() -> None:
    got = studentised(np.array([[1.0, 2, 4, 8]]), np.ones((1, 4)), resamples=100)
    more = math.sqrt(3) * got.error[0]
    (low, high), (low_more, high_more) = got.ends(0), got.ends(0, ANY, more)
    assert low_more - got.value[0] == pytest.approx(2 * (low - got.value[0]))
    assert high_more - got.value[0] == pytest.approx(2 * (high - got.value[0]))


def test_a_quantile_that_few_positions_do_not_bound_says_so() -> None:
    values = np.arange(40.0)
    inverse = np.repeat(np.arange(8), 5)
    median, high = tail_quantile_estimates(values, inverse, 8, (0.5, 0.99), resamples=100)
    assert median.low is not None
    assert median.low < median.value < median.high
    assert (high.low, high.high) == (None, None)
    assert high.reason is not None
    assert "40 positions" in high.reason
    [nothing] = tail_quantile_estimates(values[:0], inverse[:0], 0, (0.5,))
    assert nothing.value is None


def test_the_share_of_few_largest_values_says_so() -> None:
    values, inverse = np.random.default_rng(0).lognormal(size=400), np.repeat(np.arange(20), 20)
    few = largest_share(values, inverse, 20, 0.01, resamples=50)
    assert few.reason is not None
    assert few.low is not None
    enough = largest_share(values, inverse, 20, FEWEST_LARGEST / 400, resamples=50)
    assert enough.reason is None


@pytest.mark.slow
def test_intervals_hold_the_truth_of_skewed_clustered_values() -> None:
    """Nominal 95 % in 300 runs, of which three standard errors below 94 % are 90 %."""
    normal, documents, effect, runs = NormalDist(), 20, 0.3, 300
    spread = math.hypot(effect, 1.0)
    z = normal.inv_cdf(0.99)
    truth = {
        "mean": math.exp(-6 + spread**2 / 2),
        "median": math.exp(-6),
        "high": math.exp(-6 + z * spread),
        "top": normal.cdf(spread - z),
    }
    held = dict.fromkeys(truth, 0)
    for run in range(runs):
        rng = np.random.default_rng([run, documents])
        sizes = np.maximum(2, rng.lognormal(4, 0.8, documents)).astype(int)
        doc = np.repeat(np.arange(documents), sizes)
        kl = np.exp(-6 + rng.normal(0, effect, documents)[doc] + rng.normal(0, 1.0, doc.size))
        how = {"resamples": 400, "seed": run}
        sums = sums_by_document(kl, doc, documents)[None]
        [mean] = mean_estimates(sums, np.bincount(doc).astype(float), [(0.0, math.inf)], **how)
        median, high = tail_quantile_estimates(kl, doc, documents, (0.5, 0.99), **how)
        top = largest_share(kl, doc, documents, 0.01, **how)
        found: tuple[Estimate, ...] = (mean, median, high, top)
        for name, one in zip(truth, found, strict=True):
            assert one.low is not None
            assert one.high is not None
            held[name] += one.low <= truth[name] <= one.high
    for name, count in held.items():
        least = 0.87 if name == "top" else 0.9  # 15 values are the largest 1 %
        assert count / runs >= least, (name, count / runs)
