"""A number with its interval and its n: the form of every headline statistic."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

MOST_NATS = 700.0
"""Exponents beyond which an exponential overflows a float."""


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


def exponential(estimate: Estimate) -> Estimate:
    """Exp of nats or of logits, with exp of its interval; None where that overflows a float."""
    if estimate.value is None:
        return estimate
    if max(estimate.value, estimate.high or 0.0) > MOST_NATS:
        reason = f"exp({estimate.value:.4g}) is too large to represent"
        return replace(estimate, value=None, low=None, high=None, reason=reason)
    low, high = (None if end is None else math.exp(end) for end in (estimate.low, estimate.high))
    return replace(estimate, value=math.exp(estimate.value), low=low, high=high)
