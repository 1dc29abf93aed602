"""Intervals of many ratios that hold together."""

from __future__ import annotations

import numpy as np
import pytest

import reference.mining
from unembed.stats.many_ratios import many_ratios
from unembed.stats.student import student_t, student_t_beyond, two_sided_p


def drawn(units: int, k: int, seed: int, spread: float = 0.3) -> tuple[np.ndarray, ...]:
    """Uses after and before in units of unlike sizes, and the ratios that they are drawn around."""
    rng = np.random.default_rng(seed)
    before = rng.gamma(1.0, 1.0, (units, k)) * rng.lognormal(0, 1, (units, 1))
    ratio = np.exp(rng.normal(0, 0.3, k))
    noise = np.exp(rng.normal(0, spread, (units, k)) - spread**2 / 2)
    return before * ratio * noise, before, ratio


def test_an_interval_holds_the_ratios_that_units_do_not_refuse() -> None:
    after, before, _ = drawn(60, 40, 0)
    found = many_ratios(after, before)
    assert found.value == pytest.approx(after.sum(0) / before.sum(0))
    bounded = np.flatnonzero(np.isfinite(found.low))
    assert len(bounded) > 20
    for i in bounded:
        low, high = found.low[i], found.high[i]
        assert 0 < low < found.value[i] < high
        for ratio, out in (
            (low * 0.999, True),
            (low * 1.001, False),
            (high * 0.999, False),
            (high * 1.001, True),
        ):
            assert reference.mining.refused(after[:, i], before[:, i], ratio, found.reach) == out


def test_intervals_of_the_inverse_are_reciprocals() -> None:
    after, before, _ = drawn(60, 40, 1)
    there, back = many_ratios(after, before), many_ratios(before, after)
    np.testing.assert_allclose(there.low, 1 / back.high)
    np.testing.assert_allclose(there.high, 1 / back.low)


def test_what_few_units_hold_has_no_interval() -> None:
    after, before, _ = drawn(60, 40, 2)
    after[9:, 0] = before[9:, 0] = 0
    found = many_ratios(after, before)
    assert found.reach**2 > 9
    assert np.isnan(found.low[0])
    assert found.value[0] == after[:, 0].sum() / before[:, 0].sum()
    for units in (1, 2):
        assert np.isnan(many_ratios(after[:units], before[:units]).low).all()
    nothing = many_ratios(after[:, :0], before[:, :0])
    assert nothing.value.shape == nothing.low.shape == (0,)


def test_equal_sums_differ_by_nothing() -> None:
    _, before, _ = drawn(60, 5, 3)
    found = many_ratios(before, before)
    for one in (found.value, found.low, found.high):
        np.testing.assert_allclose(one, 1, rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(("units", "spread"), [(20, 0.3), (64, 0.3), (64, 0.6)])
def test_all_truths_lie_within_together(units: int, spread: float) -> None:
    missed = 0
    for seed in range(400):
        after, before, ratio = drawn(units, 300, seed, spread)
        found = many_ratios(after, before)
        missed += bool(np.any((ratio < found.low) | (ratio > found.high)))
    assert missed / 400 <= 0.07


@pytest.mark.parametrize("freedom", [1, 2, 19, 63])
def test_students_t_beyond_a_chance(freedom: int) -> None:
    assert student_t_beyond(0.05, freedom) == pytest.approx(student_t(freedom))
    for p in (0.9, 1e-3, 1e-7):
        assert two_sided_p(student_t_beyond(p, freedom), freedom) == pytest.approx(p, rel=1e-6)
    with pytest.raises(ValueError, match="between 1e-12 and 1"):
        student_t_beyond(0.0, freedom)
