"""A number with its interval and its n: the form of every headline statistic."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, repr=False)
class Estimate:
    """A statistic with a 95 % interval: prints as ``1.32 [1.28, 1.36]``, converts with ``float``.

    ``low`` and ``high`` bound the interval, clustered by document; both are ``None`` where no
    interval exists (fewer than two documents). ``value`` is ``None`` where the statistic itself is
    undefined, and ``reason`` then says why ("no position in this band"). ``documents`` is how many
    documents it rests on, where that is known. ``f"{estimate:.1%}"`` formats value and bounds.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    reason: str | None = None
    documents: int | None = None

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"Estimate.{name} must be finite or None, got {number}")
        if self.value is None and self.reason is None:
            raise ValueError("an Estimate without a value needs a reason")

    def __str__(self) -> str:
        from unembed.stats.forms import decimal, full

        return full(self, decimal)

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        if not spec:
            return str(self)
        if self.value is None:
            return f"none: {self.reason}"
        text = format(self.value, spec)
        if self.low is None or self.high is None:
            return text
        return f"{text} [{format(self.low, spec)}, {format(self.high, spec)}]"

    def __float__(self) -> float:
        if self.value is None:
            raise ValueError(f"there is no value: {self.reason}")
        return self.value
