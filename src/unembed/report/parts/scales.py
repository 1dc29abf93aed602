"""An axis between two round ends, and where on it a value lies."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from unembed.report.parts.wording import decimal

ROUND_STEPS = (1.0, 2.0, 5.0, 10.0)
"""A tick's step is one of these times a power of ten."""


@dataclass(frozen=True)
class Scale:
    """The ends of an axis and its ticks, ``step`` apart; ``percent`` labels them in percent."""

    low: float
    high: float
    step: float
    percent: bool = False

    @property
    def ticks(self) -> tuple[float, ...]:
        """Multiples of the step between the ends."""
        first, last = (
            math.ceil(self.low / self.step - 1e-9),
            math.floor(self.high / self.step + 1e-9),
        )
        return tuple(at * self.step for at in range(first, last + 1))

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high one; a value beyond an end lies on it."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def label(self, tick: float) -> str:
        """A tick in words, with as many decimals as its step takes."""
        step, tick = (100 * self.step, 100 * tick) if self.percent else (self.step, tick)
        if max(abs(self.low), abs(self.high)) < 1e-3 or step >= 1e6:
            return decimal(tick)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        # Adding 0.0 turns the -0.0 that rounding may leave into 0.0.
        words = f"{round(tick, digits) + 0.0:,.{digits}f}".replace("-", "−")
        return f"{words}\u00a0%" if self.percent else words


PORTIONS = Scale(0.0, 1.0, 0.25, percent=True)
"""From none to all."""


def step_of(span: float, ticks: int) -> float:
    """The least round step that spans ``span`` in at most so many steps."""
    power = 10.0 ** math.floor(math.log10(span / ticks))
    return power * next(step for step in ROUND_STEPS if step * power * ticks >= span * (1 - 1e-9))


def scale_between(low: float, high: float, ticks: int) -> Scale:
    """The axis between two given ends, with round ticks between them."""
    return Scale(low, high, step_of(high - low, ticks))


def scale_of(
    values: Iterable[float], *, ticks: int = 4, percent: bool = False, least: float = 0.0
) -> Scale:
    """The axis that holds every value between multiples of a round step, ``least`` long at least.

    Values that are all the same lie in its middle; without values it is 0 to 1.
    """
    found = list(values)
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    if high - low < least:
        middle = (low + high) / 2
        start = middle - least / 2 if low < 0 else max(0.0, middle - least / 2)
        low, high = min(low, start), max(high, start + least)
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        room = 0.5 * abs(low) or 0.5
        low, high = low - room, high + room
    step = step_of(high - low, ticks)
    return Scale(
        step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9), step, percent
    )
