"""Damage against gain: what each objective costs where all of them have gained as much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from jaxtyping import Float

from unembed.short_repr import ShortRepr
from unembed.stats.estimate import Estimate
from unembed.stats.forms import bounded, change, point, points
from unembed.training.doses.seed_draws import difference_over_seeds, over_seeds

GAINS = {"median_margin_gain": "median margin", "scale_free_gain": "median scale-free margin"}
"""The gains, as shares of the starting model's."""

DAMAGES = {"nll_rise": "loss", "right_to_wrong": "right-to-wrong", "churn": "churn"}
"""The damages: the loss as a share of the starting model's, the others of the positions."""

SURE = 0.975
"""Share of the resamples in which every objective must reach the common gain; see ``interval``."""

ONE_SEED = " (one seed: the interval is over documents alone)"
"""What a verdict from one seed needs: another seed may well say otherwise."""


@dataclass(frozen=True)
class Curve:
    """Gain and damage of one objective and seed, in each resample, in the order of its weights."""

    gain: Float[np.ndarray, "rows weights"]
    damage: Float[np.ndarray, "rows weights"]


Curves = Mapping[int | None, Curve]
"""By seed; None is the key of what was not trained, see ``SeedDraws``."""


@dataclass(frozen=True)
class Matched(ShortRepr):
    """One damage of two objectives at the same gain ``at``, a share of the start's; first - second.

    Without a common gain ``at`` is None, and the reason is that of all three estimates.
    ``verdict`` says the result in a sentence.
    """

    gain: str
    damage: str
    first: str
    second: str
    at: float | None
    first_damage: Estimate
    second_damage: Estimate
    difference: Estimate
    verdict: str


def at_gain(curve: Curve, at: float) -> Float[np.ndarray, " rows"]:
    """The damage at this gain in each resample, by linear interpolation between two weights.

    Where the gain rises and falls again, the smallest weights that pass it count. NaN where no two
    neighbouring weights have it between them: a curve says nothing outside of its range.
    """
    low, high = curve.gain[:, :-1] - at, curve.gain[:, 1:] - at
    if low.shape[1] == 0:
        return np.full(len(low), np.nan)
    crosses = (np.minimum(low, high) <= 0) & (np.maximum(low, high) >= 0)
    first = np.argmax(crosses, axis=1)
    rows = np.arange(len(low))
    start, end = low[rows, first], high[rows, first]
    step = end - start
    share = np.where(step != 0, -start / np.where(step != 0, step, 1), 0.0)
    damage = curve.damage[rows, first]
    found = damage + share * (curve.damage[rows, first + 1] - damage)
    return np.where(crosses.any(axis=1), found, np.nan)


def common_gain(curves: Mapping[str, Curves]) -> float | None:
    """The largest gain that every objective and seed reaches in ``SURE`` of the resamples.

    None where that is not above what every curve starts from, in as many of them.
    """
    every = [one.gain for by_seed in curves.values() for one in by_seed.values()]
    if not every:
        return None
    reach = np.min([gain.max(axis=1) for gain in every], axis=0)
    floor = np.max([gain[:, 0] for gain in every], axis=0)
    at = min(float(reach[0]), float(np.quantile(reach, 1 - SURE)))
    least = max(float(floor[0]), float(np.quantile(floor, SURE)))
    return at if least < at else None


def compared(
    gain: str,
    damage: str,
    curves: Mapping[str, Curves],
    documents: int,
    n: int,
    at: float | None = None,
) -> tuple[Matched, ...]:
    """Every two objectives at one gain, in the order of ``curves``.

    By default the gain is ``common_gain`` of the trained objectives that rise above where they
    start; one that does not, and the temperature, cannot be compared where they fall short of it.
    ``n`` counts the positions.
    """
    trained = {name: by_seed for name, by_seed in curves.items() if None not in by_seed}
    if at is None:
        rising = {
            name: one for name, one in trained.items() if common_gain({name: one}) is not None
        }
        at = common_gain(rising)
    found = []
    for first, second in combinations(curves, 2):
        sides = {first: curves[first], second: curves[second]}
        estimates = _estimates(gain, sides, documents, n, at)
        one = Matched(gain, damage, first, second, at, *estimates, verdict="")
        seeds = [len(by_seed) for by_seed in sides.values() if None not in by_seed]
        lone = one.difference.low is not None and 1 in seeds
        found.append(replace(one, verdict=verdict_of(one) + (ONE_SEED if lone else "")))
    return tuple(found)


def verdict_of(found: Matched) -> str:
    """Which of the two costs more, or that this is not told, in a sentence."""
    more, less, apart = found.first, found.second, found.difference
    what = DAMAGES[found.damage]
    if found.at is None or apart.value is None:
        return f"{more} and {less} cannot be compared in {what}: {apart.reason}"
    form = change if found.damage == "nll_rise" else points
    where = f"at {percent(found.at)} {GAINS[found.gain]}"
    if apart.low is None or apart.high is None:
        size = point(apart, form)
        return f"{where}, {more} less {less} is {size} in {what}, without an interval"
    if apart.low <= 0 <= apart.high:
        size = bounded(apart, form)
        return f"{where}, {more} and {less} are not told apart in {what}: difference {size}"
    if apart.value < 0:
        more, less = less, more
        apart = replace(apart, value=-apart.value, low=-apart.high, high=-apart.low)
    size = bounded(apart, replace(form, signed=False))
    return f"{where}, {more} costs {size} more {what} than {less}"


def percent(share: float) -> str:
    """A signed percentage, ``0.203`` as ``+20.3 %``."""
    return f"{100 * share:+.1f}\u00a0%".replace("-", "−")


def _estimates(
    gain: str, sides: Mapping[str, Curves], documents: int, n: int, at: float | None
) -> tuple[Estimate, Estimate, Estimate]:
    """Both damages at the gain, and their difference."""
    if at is None:
        reason = _without_common(gain, sides)
        nothing = Estimate(None, n=n, reason=reason)
        return nothing, nothing, nothing
    (one, two), (why_one, why_two) = (
        [
            {seed: at_gain(curve, at) for seed, curve in by_seed.items()}
            for by_seed in sides.values()
        ],
        [_short(name, gain, by_seed, at) or "" for name, by_seed in sides.items()],
    )
    return (
        over_seeds(one, documents, n, why_one),
        over_seeds(two, documents, n, why_two),
        difference_over_seeds(one, two, documents, n, why_one or why_two),
    )


def _short(name: str, gain: str, curves: Curves, at: float) -> str | None:
    """Why an objective has no damage at this gain, or None where it has."""
    if not curves:
        return f"{name} has no curve"
    if min(one.gain.shape[1] for one in curves.values()) < 2:
        return f"{name} has a single weight"
    low, high = _range(curves)
    if low <= at <= high:
        return None
    only = f"reaches only {percent(high)}" if at > high else f"starts at {percent(low)}"
    return f"{name} {only} {GAINS[gain]}"


def _range(curves: Curves) -> tuple[float, float]:
    """The gains that every seed has, as observed."""
    return (
        max(float(one.gain[0].min()) for one in curves.values()),
        min(float(one.gain[0].max()) for one in curves.values()),
    )


def _without_common(gain: str, sides: Mapping[str, Curves]) -> str:
    """Why two objectives have no gain in common."""
    ranges = {name: _range(curves) for name, curves in sides.items() if curves}
    if not ranges:
        return "neither has a curve"
    name = min(ranges, key=lambda one: ranges[one][1])
    return f"{name} reaches only {percent(ranges[name][1])} {GAINS[gain]}"
