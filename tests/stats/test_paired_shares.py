"""The score interval of two shares of the same units."""

from __future__ import annotations

import numpy as np
import pytest

from reference.benchmarks import score_interval
from unembed.stats.paired_shares import clustered_paired_share_interval, paired_share_interval
from unembed.stats.student import NORMAL_975, student_t


@pytest.mark.parametrize(
    "counts", [(0, 0, 20), (3, 0, 20), (0, 4, 35), (5, 2, 60), (9, 9, 40), (12, 1, 13)]
)
def test_it_holds_the_differences_that_a_grid_of_score_tests_does(
    counts: tuple[int, int, int],
) -> None:
    found = paired_share_interval(*counts)
    assert found == pytest.approx(score_interval(*counts, NORMAL_975), abs=1e-3)
    gained, lost, n = counts
    low, high = paired_share_interval(lost, gained, n)
    assert (-high, -low) == pytest.approx(found, abs=1e-12)


def test_units_none_of_which_changed_still_bound_the_difference() -> None:
    squared = NORMAL_975**2
    for n in (1, 20, 1000):
        end = squared / (n + squared)
        assert paired_share_interval(0, 0, n) == pytest.approx((-end, end))


def test_documents_of_one_unit_each_differ_by_students_t_alone() -> None:
    net = np.array([1.0] * 6 + [-1.0] * 2 + [0.0] * 52)
    found = clustered_paired_share_interval(net, np.ones(60), 6, 2)
    # The variance of 60 ones is taken over 59.
    effect = 60 / 59
    plain = paired_share_interval(6 / effect, 2 / effect, 60 / effect, errors=student_t(59))
    assert found == pytest.approx(plain, abs=1e-12)


def test_units_that_are_copies_count_once() -> None:
    net = np.array([1.0] * 6 + [-1.0] * 2 + [0.0] * 52)
    once = clustered_paired_share_interval(net, np.ones(60), 6, 2)
    copied = clustered_paired_share_interval(5 * net, np.full(60, 5.0), 30, 10)
    assert copied == pytest.approx(once, abs=1e-12)
    assert clustered_paired_share_interval(0 * net, np.full(60, 5.0), 0, 0) == pytest.approx(
        paired_share_interval(0, 0, 60, errors=student_t(59))
    )


def test_counts_of_no_units_are_refused() -> None:
    for counts in ((1, 0, 0), (-1, 0, 3), (2, 2, 3)):
        with pytest.raises(ValueError, match="are not of"):
            paired_share_interval(*counts)


@pytest.mark.slow
def test_it_covers_where_the_bootstrap_does_not() -> None:
    generator = np.random.default_rng(0)
    for n, changed, gains in ((50, 0.03, 0.7), (100, 0.1, 0.5), (300, 0.03, 0.9)):
        truth, hits = changed * (2 * gains - 1), 0
        for _ in range(2000):
            flips = generator.binomial(n, changed)
            gained = generator.binomial(flips, gains)
            low, high = paired_share_interval(gained, flips - gained, n)
            hits += low <= truth <= high
        assert hits / 2000 > 0.935
