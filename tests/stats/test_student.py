"""Intervals of a mean of few values, and intervals widened by an independent part."""

from __future__ import annotations

import math

import pytest

from unembed.stats.student import sampled_part, student_t, widened


def test_a_mean_of_few_values_and_an_interval_widened_by_it() -> None:
    values = [1.0, 2.0, 4.5]
    mean = sum(values) / 3
    spread = sum((one - mean) ** 2 for one in values) / 2
    part = sampled_part(values)
    assert part == pytest.approx(student_t(2) ** 2 * spread / 3)
    assert sampled_part([3.0]) == 0
    low, high = widened(2.0, 1.0, 2.5, part)
    assert low == pytest.approx(2 - math.hypot(1, math.sqrt(part)))
    assert high == pytest.approx(2 + math.hypot(0.5, math.sqrt(part)))
    assert widened(2.0, 1.0, 2.5, 0.0) == (1.0, 2.5)
