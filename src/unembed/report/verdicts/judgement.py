"""What an interval allows to be said of a difference: the one rule behind every verdict."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from unembed.stats.estimate import Estimate
from unembed.stats.forms import Form, determined

Judgement = Literal["above", "below", "level", "close", "unknown"]
"""``above`` and ``below`` 0, ``level`` with it, too ``close`` to call, or ``unknown``."""

ACCURACY_LEVEL = 0.005
"""A share of positions: half a percentage point."""
LOSS_LEVEL = 0.01
"""In nats a token: one per cent of perplexity."""


def judge(difference: Estimate, form: Form, level: float, *, agrees: bool = True) -> Judgement:
    """What the interval of a difference says of 0.

    ``above`` or ``below`` where the whole interval lies on that side and a second test, where there
    is one, ``agrees``; ``level`` where it holds 0 and lies within ``level`` of it; ``close`` for
    any other interval; ``unknown`` without one, or where the value is not determined.
    """
    low, high = difference.low, difference.high
    if low is None or high is None or not determined(difference, form):
        return "unknown"
    if low > 0 and agrees:
        return "above"
    if high < 0 and agrees:
        return "below"
    return "level" if -level <= low <= 0 <= high <= level else "close"


Outcome = Literal["better", "worse", "mixed", "level", "close", "unknown"]


def outcome(accuracy: Judgement, loss: Judgement) -> Outcome:
    """What the judgements of two differences, of accuracy and of loss, say of quality together.

    ``better`` where one is and the other is not worse, and so ``worse``; ``mixed`` where they
    disagree; ``level`` where both are; ``unknown`` where either is.
    """
    if "unknown" in (accuracy, loss):
        return "unknown"
    better, worse = accuracy == "above" or loss == "below", accuracy == "below" or loss == "above"
    if better and worse:
        return "mixed"
    if better or worse:
        return "better" if better else "worse"
    return "level" if accuracy == loss == "level" else "close"


def small(difference: Estimate, level: float) -> bool:
    """Whether the whole interval lies within ``level`` of 0."""
    low, high = difference.low, difference.high
    return low is not None and high is not None and max(-low, high) <= level


def within(difference: Estimate, form: Form) -> str:
    """``within ±0.2 pp``: how far from 0 the interval reaches, rounded up."""
    assert difference.low is not None
    assert difference.high is not None
    reach = form.scale * max(-difference.low, difference.high)
    if reach <= 0:
        return f"within ±0{form.unit}"
    places = max(0, 1 - math.floor(math.log10(reach)))
    shown = math.ceil(round(reach * 10**places, 6)) / 10**places
    return f"within ±{replace(form, signed=False).digits(shown, places)}{form.unit}"
