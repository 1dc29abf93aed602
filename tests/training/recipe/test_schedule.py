"""When the penalty counts, step by step."""

from __future__ import annotations

import math

import pytest

from unembed.errors import UnembedError
from unembed.training.recipe.schedule import Schedule


def test_nothing_then_a_line_then_all() -> None:
    found = [Schedule(after=0.5, ramp=0.2).factor(step, 20) for step in range(20)]
    assert found == pytest.approx([0.0] * 11 + [0.25, 0.5, 0.75] + [1.0] * 6)
    assert found[:11] == [0.0] * 11
    assert found[15:] == [1.0] * 5
    assert [Schedule(after=0.25).factor(s, 8) for s in range(8)] == [0.0] * 2 + [1.0] * 6
    assert [Schedule(ramp=0.5).factor(s, 4) for s in range(4)] == [0.0, 0.5, 1.0, 1.0]
    assert Schedule(after=0.5, ramp=0.1).factor(1000, 20) == 1.0


def test_by_itself_it_is_exactly_one() -> None:
    assert {Schedule().factor(step, steps) for steps in range(5) for step in range(7)} == {1.0}


@pytest.mark.parametrize("steps", [3, 7, 10, 30, 100, 3000])
def test_it_begins_at_the_step_of_its_share(steps: int) -> None:
    """A share as it is written, n / steps, is that of step n to the bit, and never falls."""
    for n in range(1, steps):
        for ramp in (0.0, 1 - n / steps):
            factors = [Schedule(n / steps, ramp).factor(s, steps) for s in (n - 1, n, n + 1, steps)]
            assert factors[0] == 0.0
            assert factors[1] == (0.0 if ramp else 1.0)
            assert factors == sorted(factors)
            assert factors[3] == pytest.approx(1.0, abs=1e-12)


def test_shares_that_are_none_are_refused() -> None:
    for wrong, message in (
        ({"after": -0.1}, "after -0.1 of the steps: give a share from 0 up and below 1"),
        ({"after": 1.0}, "after 1.0 of"),
        ({"after": math.nan}, "after nan of"),
        ({"ramp": -0.5}, "over -0.5 of the steps: give a share from 0 to 1"),
        ({"ramp": math.inf}, "over inf of"),
        ({"after": 0.5, "ramp": 0.6}, "after 0.5 and ramp 0.6 make 1.1 of the steps"),
    ):
        with pytest.raises(UnembedError, match=message) as caught:
            Schedule(**wrong)
        assert "\n" not in str(caught.value)
    for n in range(1, 100):
        Schedule(n / 100, 1 - n / 100)
