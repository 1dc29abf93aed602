"""How a number is written: alone, and as an estimate whose bounds share its scale and its digits.

Terminal, page, notebook and export all write numbers by these forms, and so agree to the digit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from unembed.stats.estimate import Estimate

PERCENT = "\u00a0%"
POINTS = "\u00a0pp"

SIGNIFICANT = 3
"""Digits of a number without an interval."""

MOST_DECIMALS = 6
FEW_DOCUMENTS = 10
"""Below so many documents an estimate says how many it rests on: its interval is rough."""

UNDETERMINED = "not determined"
ROUNDING = 1e-6
"""How far a float32 number may lie past what is possible."""

BYTES = (("bytes", 1), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12))
"""Units of sizes."""

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Form:
    """One way to write numbers: ``scale * value``, then ``unit``; ``signed`` ones with a plus.

    A lone number has three significant digits, or so many ``decimals``. Of an estimate, value and
    bounds have the decimals that its interval supports: half its width spans two to twenty units of
    the last one. ``possible`` bounds the value, such as a cosine's: a number outside is written
    ``not determined``, and so is an estimate whose interval holds all that is possible.
    """

    unit: str = ""
    scale: float = 1.0
    signed: bool = False
    decimals: int | None = None
    possible: tuple[float, float] | None = None

    def __call__(self, value: float) -> str:
        """A lone number: ``share(0.2412)`` is ``24.1 %``; ``none`` for what is not finite."""
        if not math.isfinite(value):
            return "none"
        if not self.allows(value):
            return UNDETERMINED
        [number], power = self.scaled([value])
        places = self.decimals
        if places is None:
            places = _significant(number)
        return self.digits(number, places) + power + self.unit

    def allows(self, value: float) -> bool:
        """Whether a number is possible; rounding may take it a little past a bound."""
        if self.possible is None:
            return True
        low, high = self.possible
        return low - ROUNDING <= value <= high + ROUNDING

    def scaled(self, values: Sequence[float]) -> tuple[list[float], str]:
        """The numbers to write, and the power of ten that they share where tiny or huge."""
        numbers = [self.scale * value for value in values]
        size = max(map(abs, numbers))
        if size == 0.0 or 1e-4 <= size < 1e6 or self.decimals is not None:
            return numbers, ""
        exponent = math.floor(math.log10(size))
        raised = str(exponent).translate(_RAISED)
        return [number / 10.0**exponent for number in numbers], f"·10{raised}"

    def digits(self, number: float, places: int) -> str:
        """A number that is scaled already, with so many decimals."""
        # Adding 0.0 turns the -0.0 that rounding may leave into 0.0.
        rounded = round(number, places) + 0.0
        return ("+" * (self.signed and rounded > 0) + f"{rounded:,.{places}f}").replace("-", "−")


def determined(estimate: Estimate, form: Form) -> bool:
    """Whether there is a value that is possible, and an interval that leaves something out.

    A value without an interval counts where it is possible.
    """
    if estimate.value is None or not form.allows(estimate.value):
        return False
    if form.possible is None or estimate.low is None or estimate.high is None:
        return True
    return estimate.low > form.possible[0] or estimate.high < form.possible[1]


def possible_part(estimate: Estimate, form: Form) -> Estimate:
    """What of an estimate can be drawn: its interval within what is possible, if it is determined.

    Rounding may leave the value a little past a bound; it is moved onto that.
    """
    if estimate.value is None:
        return estimate
    if not determined(estimate, form):
        return replace(estimate, value=None, low=None, high=None, reason=UNDETERMINED)
    least, most = form.possible or (-math.inf, math.inf)
    value, low, high = (
        None if end is None else min(max(end, least), most)
        for end in (estimate.value, estimate.low, estimate.high)
    )
    return replace(estimate, value=value, low=low, high=high)


def point(estimate: Estimate, form: Form) -> str:
    """The value alone, or the reason why there is none."""
    if estimate.value is None:
        return f"none: {estimate.reason}"
    if not determined(estimate, form):
        return _undetermined(estimate, form)
    value, _, unit = _parts(estimate, estimate.value, form)
    return value + unit


def interval(estimate: Estimate, form: Form) -> str:
    """The 95 % interval as ``[23.2, 25.0]``, in the value's unit; empty where there is none."""
    if estimate.value is None or not determined(estimate, form):
        return ""
    return _parts(estimate, estimate.value, form)[1]


def full(estimate: Estimate, form: Form, unit: str = "") -> str:
    """Value and interval, ``24.1 % [23.2, 25.0]``; what rests on few documents says so.

    A ``unit`` in words ends it, ``1.32 [1.28, 1.36] nats``; without interval, ``1.32 nats (no
    interval)``.
    """
    few = few_documents(estimate) if determined(estimate, form) else ""
    return bounded(estimate, form, unit) + (f", {few}" if few else "")


def bounded(estimate: Estimate, form: Form, unit: str = "") -> str:
    """``full`` where a line beside it says how many documents there are."""
    if estimate.value is None or not determined(estimate, form):
        return point(estimate, form)
    value, bounds, sign = _parts(estimate, estimate.value, form)
    words = (bounds, unit) if bounds else (unit, "(no interval)")
    return " ".join(filter(None, (value + sign, *words)))


def plus_minus(estimate: Estimate, form: Form) -> str:
    """Value and half its interval, ``0.71 ± 0.02``: for a matrix, whose cells are narrow."""
    if estimate.value is None:
        return "–"
    if not determined(estimate, form):
        return UNDETERMINED
    words = point(estimate, form)
    if estimate.low is None or estimate.high is None:
        return words
    half = form.scale * (estimate.high - estimate.low) / 2
    places = _supported(half) if half > 0 else 0
    return f"{words.removesuffix(form.unit)} ± {Form().digits(half, places)}{form.unit}"


def in_bytes(count: int) -> str:
    """A number of bytes with three digits: ``4.08 MB``, by thousands."""
    unit = next((u for u in reversed(BYTES) if count >= u[1]), BYTES[0])
    return f"{Form()(count / unit[1])}\u00a0{unit[0]}"


def few_documents(estimate: Estimate) -> str:
    """``of 2 documents`` where an estimate rests on fewer than ten, else empty."""
    documents = estimate.documents
    if documents is None or documents >= FEW_DOCUMENTS:
        return ""
    return f"of {documents} document" + "s" * (documents != 1)


def _undetermined(estimate: Estimate, form: Form) -> str:
    """``not determined``, and the end of the interval that still says something."""
    assert form.possible is not None
    least, most = form.possible
    low, high = estimate.low, estimate.high
    if low is not None and high is not None:
        places = _supported(form.scale * (high - low) / 2) if high > low else SIGNIFICANT
        if least < low < most < high:
            return f"{UNDETERMINED}, at least {form.digits(form.scale * low, places)}{form.unit}"
        if low < least < high < most:
            return f"{UNDETERMINED}, at most {form.digits(form.scale * high, places)}{form.unit}"
    return UNDETERMINED


def _parts(estimate: Estimate, value: float, form: Form) -> tuple[str, str, str]:
    """The value, its interval within what is possible, and the unit, in one scale."""
    if estimate.low is None or estimate.high is None:
        return form(value).removesuffix(form.unit), "", form.unit
    least, most = form.possible or (-math.inf, math.inf)
    low, high = max(estimate.low, least), min(estimate.high, most)
    numbers, power = form.scaled([value, low, high])
    half = (numbers[2] - numbers[1]) / 2
    places = _supported(half) if half > 0 else _significant(numbers[0])
    words, *ends = (form.digits(number, places) for number in numbers)
    return words, f"[{', '.join(ends)}]{power}", power + form.unit


def _significant(number: float) -> int:
    """Decimals that give three significant digits."""
    if number == 0.0:
        return 0
    return _bounded(SIGNIFICANT - 1 - math.floor(math.log10(abs(number))))


def _supported(half: float) -> int:
    """Decimals whose last unit is at most half of this half width, and no more than needed."""
    return _bounded(math.ceil(-math.log10(half / 2)))


def _bounded(places: int) -> int:
    return min(max(places, 0), MOST_DECIMALS)


decimal = Form()
"""``1.32``, ``−0.0401``."""
signed = Form(signed=True)
"""``+0.412``."""
share = Form(PERCENT, 100.0, possible=(0.0, 1.0))
"""A fraction in percent: ``0.2412`` as ``24.1 %``."""
part = Form(PERCENT, 100.0)
"""A part that may be below nothing or above the whole, as of a sum of gains and losses."""
points = Form(POINTS, 100.0, signed=True)
"""A difference of two shares in percentage points: ``0.0041`` as ``+0.410 pp``."""
change = Form(PERCENT, 100.0, signed=True)
"""A relative change in percent: ``0.283`` as ``+28.3 %``."""
whole = Form(decimals=0)
"""``−4``."""
two = Form(decimals=2)
three = Form(decimals=3)
cosine = Form(decimals=3, possible=(-1.0, 1.0))
fine_share = Form(PERCENT, 100.0, decimals=2, possible=(0.0, 1.0))
fine_part = Form(PERCENT, 100.0, decimals=2)
whole_percent = Form(PERCENT, 100.0, decimals=0)
