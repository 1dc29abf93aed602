"""The difference of two shares of the same units, where few units or none differ."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from unembed.stats.student import NORMAL_975, student_t


def paired_share_interval(
    gained: int | float, lost: int | float, n: int | float, *, errors: float = NORMAL_975
) -> tuple[float, float]:
    """The score interval of ``(gained - lost) / n``, by default of 95 % (Tango 1998).

    Of n independent units, ``gained`` are 1 after and 0 before, ``lost`` the reverse. A difference
    d lies in it where ``|gained - lost - n d| <= errors * sqrt(n (2 q + d (1 - d)))``, q being the
    most likely share of lost units if d were true. Unlike a bootstrap it bounds a difference of
    which no unit was seen: of n units without one it is -+ 3.84 / (n + 3.84). Counts may be parts
    of units, as those of dependent ones are. Raises ``ValueError`` where they are none of n units.
    """
    if not (n > 0 and gained >= 0 and lost >= 0 and gained + lost <= n * (1 + 1e-12)):
        raise ValueError(f"{gained} gained and {lost} lost are not of {n} units")
    return _end(gained, lost, n, -1, errors), _end(gained, lost, n, 1, errors)


def clustered_paired_share_interval(
    net: Float[np.ndarray, " documents"],
    sizes: Float[np.ndarray, " documents"],
    gained: int,
    lost: int,
) -> tuple[float, float]:
    """The 95 % interval where units of one document may depend on one another.

    ``net`` is gained - lost and ``sizes`` the number of units of each document. Tango's interval of
    as many independent units as carry the same error: counts are divided by the design effect, the
    variance between documents over that of independent units where it is larger, and Student's t
    takes the place of 1.96. Without a changed unit each document counts as one. Raises
    ``ValueError`` for fewer than two documents.
    """
    documents, n = len(net), float(sizes.sum())
    errors = student_t(documents - 1)
    if gained == lost == 0:
        return paired_share_interval(0, 0, documents, errors=errors)
    alone = gained + lost - (gained - lost) ** 2 / n
    between = float(np.square(net - sizes * (net.sum() / n)).sum()) * documents / (documents - 1)
    effect = max(1.0, between / alone) if alone > 0 else n / documents
    return paired_share_interval(gained / effect, lost / effect, n / effect, errors=errors)


def _end(gained: int | float, lost: int | float, n: int | float, side: int, errors: float) -> float:
    """Where the score falls to so many standard errors on one side, by bisection."""
    inside, outside = (gained - lost) / n, float(side)
    for _ in range(60):
        middle = (inside + outside) / 2
        if abs(_score(gained, lost, n, middle)) <= errors:
            inside = middle
        else:
            outside = middle
    return (inside + outside) / 2


def _score(gained: int | float, lost: int | float, n: int | float, d: float) -> float:
    """The distance from d in standard errors, if d were true."""
    half = (2 * n - gained + lost) * d - gained - lost
    root = math.sqrt(max(half * half + 8 * n * lost * d * (1 - d), 0.0))
    q = max((root - half) / (4 * n), 0.0)
    variance = n * max(2 * q + d * (1 - d), 0.0)
    off = gained - lost - n * d
    if variance == 0.0:
        return 0.0 if off == 0.0 else math.copysign(math.inf, off)
    return off / math.sqrt(variance)
