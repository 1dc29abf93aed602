"""Means of independent estimates, and corrected tests."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.benchmarks import holm_rejects, student_tail
from unembed.stats.estimate import Estimate
from unembed.stats.several import holm, mean_estimate, p_of
from unembed.stats.student import student_t, two_sided_p


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.sampled_from([0.01, 0.05, 0.2]))
def test_a_corrected_p_is_small_where_holm_rejects(ps: list[float], level: float) -> None:
    found = holm(ps)
    assert [p <= level for p in found] == pytest.approx(holm_rejects(ps, level)) or any(
        math.isclose(p, level) for p in found
    )
    assert all(p >= plain for p, plain in zip(found, ps, strict=True))


def test_a_mean_carries_the_intervals_of_its_parts() -> None:
    parts = [Estimate(0.1, 0.05, 0.2, n=10), Estimate(0.3, 0.2, 0.35, n=30)]
    found = mean_estimate(parts)
    assert found.value == pytest.approx(0.2)
    assert found.low == pytest.approx(0.2 - math.hypot(0.05, 0.1) / 2)
    assert found.high == pytest.approx(0.2 + math.hypot(0.1, 0.05) / 2)
    assert found.n == 40
    weighed = mean_estimate(parts, [1, 3])
    assert weighed.value == pytest.approx(0.25)
    assert weighed.low == pytest.approx(0.25 - math.hypot(0.05 / 4, 0.1 * 3 / 4))
    assert mean_estimate([*parts, Estimate(0.2)]).low is None
    with pytest.raises(ValueError, match="needs a part"):
        mean_estimate([])


@pytest.mark.parametrize(("t", "freedom"), [(0.5, 1), (2.3, 3), (3.4, 12), (1.0, 40)])
def test_students_tail_is_the_area_beyond(t: float, freedom: int) -> None:
    assert two_sided_p(t, freedom) == pytest.approx(student_tail(t, freedom), abs=2e-3)
    assert two_sided_p(student_t(freedom), freedom) == pytest.approx(0.05, abs=1e-9)


def test_a_p_of_an_interval_is_005_where_it_just_reaches_zero() -> None:
    assert p_of(Estimate(0.2, 0.0, 0.5), 9) == pytest.approx(0.05)
    assert p_of(Estimate(-0.2, -0.5, 0.0), 9) == pytest.approx(0.05)
    assert p_of(Estimate(0.0, 0.0, 0.0), 9) == 1.0
    assert p_of(Estimate(0.2, 0.2, 0.2), 9) == 0.0
    assert p_of(Estimate(0.2), 9) is None
    values = np.array([0.4, 0.1, -0.2, 0.9, 0.3])
    error = values.std(ddof=1) / math.sqrt(5)
    mean, reach = float(values.mean()), student_t(4) * error
    exact = two_sided_p(mean / error, 4)
    assert p_of(Estimate(mean, mean - reach, mean + reach), 4) == pytest.approx(exact)
