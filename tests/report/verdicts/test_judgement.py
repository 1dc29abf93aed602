from __future__ import annotations

import pytest

from unembed.report.verdicts.judgement import judge, small, within
from unembed.stats.estimate import Estimate
from unembed.stats.forms import Form, cosine, points, signed

LEVEL = 0.01


def of(low: float | None, high: float | None, value: float | None = None) -> Estimate:
    if low is None or high is None:
        return Estimate(0.0 if value is None else value)
    return Estimate((low + high) / 2 if value is None else value, low, high, 100)


@pytest.mark.parametrize(
    ("estimate", "judged"),
    [
        (of(0.001, 0.2), "above"),
        (of(-0.2, -0.001), "below"),
        (of(-0.01, 0.01), "level"),
        (of(0.0, 0.0), "level"),
        (of(0.0, 0.005), "level"),
        (of(-0.0101, 0.001), "close"),
        (of(-0.001, 0.0101), "close"),
        (of(None, None), "unknown"),
        (Estimate(None, reason="no position"), "unknown"),
    ],
)
def test_an_interval_says_no_more_than_it_holds(estimate: Estimate, judged: str) -> None:
    assert judge(estimate, signed, LEVEL) == judged


def test_a_test_that_disagrees_leaves_it_too_close_to_call() -> None:
    assert judge(of(0.001, 0.2), points, LEVEL, agrees=False) == "close"
    assert judge(of(0.001, 0.002), points, LEVEL, agrees=False) == "close"


def test_what_cannot_be_is_unknown() -> None:
    assert judge(of(2.0, 3.0), cosine, LEVEL) == "unknown"
    assert judge(of(-1.2, 1.3, 0.2), cosine, LEVEL) == "unknown"


@pytest.mark.parametrize(
    ("low", "high", "form", "words"),
    [
        (-0.0021, 0.0014, points, "within ±0.21\u00a0pp"),
        (-0.00201, 0.0, points, "within ±0.21\u00a0pp"),
        (-0.002, 0.0, points, "within ±0.20\u00a0pp"),
        (-0.0003, 0.00041, signed, "within ±0.00041"),
        (0.0, 0.0, points, "within ±0\u00a0pp"),
    ],
)
def test_the_farther_end_is_rounded_up(low: float, high: float, form: Form, words: str) -> None:
    assert within(of(low, high), form) == words


def test_small_is_the_whole_interval() -> None:
    assert small(of(0.001, 0.009), LEVEL)
    assert not small(of(0.001, 0.011), LEVEL)
    assert not small(of(-0.011, -0.001), LEVEL)
    assert not small(of(None, None), LEVEL)
