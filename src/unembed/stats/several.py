"""Several independent differences: their mean, and tests that are corrected for their number."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unembed.stats.estimate import Estimate
from unembed.stats.student import student_t, two_sided_p


def holm(ps: Sequence[float]) -> tuple[float, ...]:
    """P-values corrected for their number: below 0.05, with one wrong call in twenty families.

    The i-th smallest of m is multiplied by ``m - i + 1``, and none is less than a smaller one's
    (Holm 1979). It holds whatever the tests have to do with one another.
    """
    order = sorted(range(len(ps)), key=lambda at: ps[at])
    found = [0.0] * len(ps)
    least = 0.0
    for rank, at in enumerate(order):
        least = max(least, min(1.0, (len(ps) - rank) * ps[at]))
        found[at] = least
    return tuple(found)


def mean_estimate(
    parts: Sequence[Estimate], sizes: Sequence[int | float] | None = None
) -> Estimate:
    """The mean of independent estimates, weighted by ``sizes`` where given, with its interval.

    Its ends lie ``sqrt(sum of (w (value - end))**2)`` from it: each part's own interval is carried
    over, skewed ones too (Zou and Donner 2008). There is none where a part has none. Raises
    ``ValueError`` for no parts, or a part without a value.
    """
    if not parts:
        raise ValueError("a mean needs a part")
    whole = [1.0] * len(parts) if sizes is None else sizes
    weights = [size / sum(whole) for size in whole]
    value = math.fsum(w * float(part) for w, part in zip(weights, parts, strict=True))
    n = sum(part.n for part in parts)
    documents = sum(part.documents or 0 for part in parts) or None
    ends = []
    for side, name in ((-1, "low"), (1, "high")):
        reaches = []
        for w, part in zip(weights, parts, strict=True):
            end = getattr(part, name)
            if end is None:
                return Estimate(value, n=n, documents=documents)
            reaches.append(w * (float(part) - end))
        ends.append(value + side * math.hypot(*reaches))
    return Estimate(value, ends[0], ends[1], n, documents=documents)


def p_of(difference: Estimate, freedom: int) -> float | None:
    """The p at which the interval of a difference just reaches 0; None without an interval.

    The end on the side of 0 is taken to lie as many standard errors away as Student's t has it.
    """
    if difference.value is None or difference.low is None or difference.high is None or freedom < 1:
        return None
    value = difference.value
    reach = value - difference.low if value > 0 else difference.high - value
    if value == 0.0:
        return 1.0
    if reach <= 0.0:
        return 0.0
    return two_sided_p(student_t(freedom) * abs(value) / reach, freedom)
