"""How decisions form over depths, a position and a depth after the other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def settled_depth(top1: Sequence[int], final: int, depths: Sequence[int]) -> int:
    """The least depth from which on every reading is the final one; the last one where none is."""
    for i, depth in enumerate(depths):
        if all(token == final for token in top1[i:]):
            return depth
    return depths[-1]


def mean_if_independent(rates: Sequence[float], depths: Sequence[int]) -> float:
    """The mean settling depth of depths that agree independently: over every pattern of them."""
    total = 0.0
    for pattern in itertools.product((False, True), repeat=len(rates)):
        chance = math.prod(a if agrees else 1 - a for a, agrees in zip(rates, pattern, strict=True))
        total += chance * settled_depth([int(agrees) for agrees in pattern], 1, depths)
    return total


def exit_depth(margins: Sequence[float], threshold: float) -> int:
    """The number of the first depth whose margin reaches the threshold; the last one otherwise."""
    for i, margin in enumerate(margins[:-1]):
        if margin >= threshold:
            return i
    return len(margins) - 1


def clearest_rise(rho: Sequence[float]) -> tuple[float, int]:
    """The clearest mean after less mean before a cut, and how many come before it."""
    rises = []
    for k in range(1, len(rho)):
        before, after = rho[:k], rho[k:]
        rise = sum(after) / len(after) - sum(before) / len(before)
        rises.append((rise * math.sqrt(len(before) * len(after)), k))
    return max(rises, key=lambda one: one[0])


def share_of_orders(rho: Sequence[float]) -> float:
    """How many orders of the depths have as clear a rise, of all."""
    found = clearest_rise(rho)[0] - 1e-9
    orders = list(itertools.permutations(rho))
    return sum(clearest_rise(order)[0] >= found for order in orders) / len(orders)
