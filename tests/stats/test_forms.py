"""How numbers and estimates are written."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unembed.stats.estimate import Estimate
from unembed.stats.forms import (
    Form,
    change,
    cosine,
    decimal,
    determined,
    full,
    interval,
    plus_minus,
    point,
    points,
    possible_part,
    share,
    signed,
)


@pytest.mark.parametrize(
    ("estimate", "form", "words"),
    [
        (Estimate(1.3178, 1.2801, 1.3559, 98_304), decimal, "1.32 [1.28, 1.36]"),
        (Estimate(0.635, 0.623, 0.643), share, "63.5 % [62.3, 64.3]"),
        (Estimate(-0.00003, -0.000395, 0.000327), points, "0.00 pp [−0.04, +0.03]"),
        (Estimate(0.283, 0.21, 0.36), change, "+28 % [+21, +36]"),
        (Estimate(-0.0401, -0.0533, -0.0279), signed, "−0.040 [−0.053, −0.028]"),
        (Estimate(1.2e-7, 1.1e-7, 1.3e-7), decimal, "1.20·10⁻⁷ [1.10, 1.30]·10⁻⁷"),
        (Estimate(0.0, 0.0, 0.0), share, "0 % [0, 0]"),
        (Estimate(2.3), decimal, "2.30 (no interval)"),
        (Estimate(0.012, 0.011, 0.0131, documents=2), share, "1.20 % [1.10, 1.31], of 2 documents"),
        (Estimate(0.012, documents=1), share, "1.20 % (no interval), of 1 document"),
        (Estimate(0.012, 0.011, 0.013, documents=10), share, "1.20 % [1.10, 1.30]"),
        (Estimate(None, reason="no position"), share, "none: no position"),
    ],
)
def test_an_estimate_is_written_in_one_scale_with_the_digits_of_its_interval(
    estimate: Estimate, form: Form, words: str
) -> None:
    assert full(estimate, form).replace("\u00a0", " ") == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.006387, "0.00639"), (0.638711, "0.639"), (12.3456, "12.3"), (98_304.2, "98,304")],
)
def test_a_lone_number_has_three_digits(value: float, words: str) -> None:
    assert decimal(value) == words
    assert decimal(-value) == "−" + words


def test_nothing_is_minus_zero() -> None:
    tiny = Estimate(-0.0000001, -0.01, 0.01)
    assert point(tiny, points) == "0.0\u00a0pp"


finite = st.floats(-1e8, 1e8, allow_subnormal=False)


@given(finite, finite, finite)
def test_value_and_bounds_have_as_many_decimals(a: float, b: float, c: float) -> None:
    low, value, high = sorted([a, b, c])
    words = full(Estimate(value, low, high), decimal)
    numbers = re.findall(r"−?\d[\d,]*(?:\.\d+)?", words.replace("·10", " ^"))[:3]
    places = {len(number.partition(".")[2]) for number in numbers}
    assert len(places) == 1
    assert "-" not in words
    assert interval(Estimate(value, low, high), decimal) in words


@given(st.floats(1e-3, 1e5), st.floats(1e-5, 0.5))
def test_rounding_takes_at_most_a_quarter_of_half_the_interval(value: float, part: float) -> None:
    half = max(part * value, 4e-6)
    found = interval(Estimate(value, value - half, value + half), decimal)
    low, high = (float(end.replace(",", "").replace("−", "-")) for end in found[1:-1].split(", "))
    assert math.isclose(low, value - half, abs_tol=half / 4 + 1e-9)
    assert math.isclose(high, value + half, abs_tol=half / 4 + 1e-9)


def test_an_estimate_prints_formats_and_converts() -> None:
    estimate = Estimate(1.3178, 1.2801, 1.3559, 98_304)
    assert str(estimate) == repr(estimate) == f"{estimate}" == "1.32 [1.28, 1.36]"
    assert f"{estimate:.1f}" == "1.3 [1.3, 1.4]"
    assert f"{Estimate(0.5):.0%}" == "50%"
    assert float(estimate) == 1.3178
    nothing = Estimate(None, reason="no position")
    assert f"{nothing:.2f}" == "none: no position"
    with pytest.raises(ValueError, match="no position"):
        float(nothing)


def test_what_is_impossible_is_not_determined() -> None:
    for value, low, high in ((-1.94, -9.0, 5.0), (3.16, 2.0, 4.0), (0.2, -1.3, 1.7)):
        found = Estimate(value, low, high, documents=3)
        assert not determined(found, cosine)
        assert full(found, cosine) == point(found, cosine) == "not determined"
        assert plus_minus(found, cosine) == "not determined"
        assert interval(found, cosine) == ""
    assert full(Estimate(1.007, 0.95, 1.06), share) == "not determined, at least 95\u00a0%"
    assert full(Estimate(-0.01, -0.03, 0.02), share) == "not determined, at most 2\u00a0%"
    assert cosine(3.16) == share(1.2) == "not determined"
    assert full(Estimate(3.16, 2.0, 4.0), decimal).startswith("3.2 [")


def test_an_interval_ends_where_the_possible_does() -> None:
    near = Estimate(0.97, 0.93, 1.01)
    assert determined(near, cosine)
    assert full(near, cosine) == "0.97 [0.93, 1.00]"
    assert cosine(1 + 1e-7) == "1.000"
    assert full(Estimate(-0.003, -0.02, 0.014), cosine) == "−0.003 [−0.020, 0.014]"


def test_the_part_of_an_estimate_that_is_possible() -> None:
    clipped = possible_part(Estimate(0.98, 0.9, 1.06), cosine)
    assert (clipped.value, clipped.low, clipped.high) == (0.98, 0.9, 1.0)
    assert possible_part(Estimate(1.0 + 1e-7), cosine).value == 1.0
    lost = possible_part(Estimate(1.2, 0.7, 1.7), cosine)
    assert (lost.value, lost.low, lost.reason) == (None, None, "not determined")
    free = Estimate(3.0, 2.0, 4.0)
    assert possible_part(free, decimal) == free
    none = Estimate(None, reason="no")
    assert possible_part(none, cosine) == none
