"""A number with its interval and its n: the form of every headline statistic."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A statistic with a 95 % interval.

    ``low`` and ``high`` bound the interval, clustered by document; both are ``None`` where no
    interval exists (fewer than two documents). ``value`` is ``None`` where the statistic itself is
    undefined, and ``reason`` then says why ("no position in this band").
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    reason: str | None = None

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"Estimate.{name} must be finite or None, got {number}")
        if self.value is None and self.reason is None:
            raise ValueError("an Estimate without a value needs a reason")


def shown(estimate: Estimate, form: str) -> str:
    """An estimate in this format with its interval, or why it or the interval is missing."""
    if estimate.value is None:
        return f"undefined: {estimate.reason}"
    text = format(estimate.value, form)
    if estimate.low is None or estimate.high is None:
        return f"{text}  (no interval)"
    return f"{text}  [{format(estimate.low, form)}, {format(estimate.high, form)}]"
