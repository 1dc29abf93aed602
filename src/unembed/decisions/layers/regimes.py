"""Whether narrow decisions go with loss at every depth, and where the sign of that turns."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from unembed.decisions.layers.depth_rows import PENALTIES, penalty_correlations
from unembed.decisions.layers.stack import LAYERS_RESAMPLES, AtDepths, LensStack
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import interval, interval_levels
from unembed.stats.estimate import Estimate
from unembed.stats.rank_correlations import RankCorrelations

PUBLISHED_MIDDLE_RHO = -0.29
"""Published correlation with the final loss at layers 24 to 28 (arXiv 2604.06767, theory §3)."""
PUBLISHED_MIDDLE_LAYERS = (24, 28)
PUBLISHED_LAST_RHO = 0.836
"""Published correlation at the last layer, on as many positions."""
PUBLISHED_POSITIONS = 256_577

NEAR_ZERO = 0.1
"""Largest correlation, either way, that is called about zero: 1 % of the variance of ranks."""

STRONG = 0.5
"""Least correlation that is called strong: 25 % of the variance of ranks."""

EARLY_PART = 0.25
"""Part of the blocks that is called early; what lies between them and the last depth is middle."""

SURVIVES_BELOW = 0.05
"""Chance in a shuffle of depths below which a turn is taken to belong to their order."""

EXACT_DEPTHS = 8
"""Up to so many depths every order of them is looked at."""

SHUFFLES = 20_000
"""Orders that are drawn of more depths: a chance of 5 % is then known to 0.15 %."""

Sign = Literal["negative", "about zero", "positive", "unclear"]
Found = Literal["appears", "does not appear", "undecided", "not measured"]


@dataclass(frozen=True)
class RhoAt(ShortRepr):
    """A penalty's rho with the final cross-entropy at one depth.

    ``rho`` has its own interval, ``together`` one that holds at all depths at once; ``sign`` and
    the regimes are read from that alone: "negative" or "positive" where it lies on one side of 0,
    "about zero" where it holds 0 and lies within 0.1 of it, else "unclear".
    """

    depth: int
    rho: Estimate
    together: Estimate
    sign: Sign


@dataclass(frozen=True)
class SignTurn(ShortRepr):
    """Two depths of opposite sign with none of a certain sign between them."""

    before: int
    after: int
    sign_before: Sign
    sign_after: Sign


@dataclass(frozen=True)
class Turn(ShortRepr):
    """The rise of rho along the depth, against those of shuffled depths.

    Of all ways to cut the depths in two, the one where the mean rho after less the mean rho before
    is most beyond chance: the largest ``rise * sqrt(k (d - k))`` of k depths before the cut of d,
    which is where two levels fit best. ``depth`` is the first depth after it, its interval that of
    the place over resamples of the documents, ``before`` the last depth before it, and ``rise`` the
    difference, whose interval holds the place. ``p`` is the share of ``orders`` of the depths whose
    largest such number is as large; ``exact`` where these are all orders. ``least_p`` is the
    smallest that p can be at this place: a rise at the last of 13 depths alone is as large in a
    thirteenth of their orders.
    """

    depth: Estimate
    before: int
    rise: Estimate
    p: float
    least_p: float
    orders: int
    exact: bool

    @property
    def survives(self) -> bool:
        """Whether there surely is a rise, as clear as in fewer than 5 % of orders of the depths."""
        return self.p < SURVIVES_BELOW and self.rise.low is not None and self.rise.low > 0


@dataclass(frozen=True)
class PenaltyRegimes(ShortRepr):
    """One penalty under one lens: its signs along the depth, and the published regimes.

    ``early`` appears where every depth of the first quarter is about zero, and does not where one
    surely lies further from 0. ``middle`` appears where a depth between that quarter and the last
    is negative, and does not where all surely lie above -0.1. ``late`` appears where the last depth
    is surely above 0.5, and does not where it is surely below.
    """

    penalty: str
    by_depth: tuple[RhoAt, ...]
    sign_turns: tuple[SignTurn, ...]
    turn: Turn | None
    turn_reason: str | None
    early: Found
    middle: Found
    late: Found


@dataclass(frozen=True)
class LensRegimes(AtDepths):
    """The three penalties under one lens."""

    penalties: tuple[PenaltyRegimes, ...]

    def of(self, penalty: str) -> PenaltyRegimes:
        """Those of one penalty; KeyError for another name."""
        return {one.penalty: one for one in self.penalties}[penalty]


@dataclass(frozen=True)
class Regimes(ShortRepr):
    """Rho of the penalties with the final cross-entropy by depth, under each lens (theory §3)."""

    lenses: tuple[LensRegimes, ...]

    def lenses_where(
        self, penalty: str, regime: Literal["early", "middle", "late"], found: Found = "appears"
    ) -> tuple[str, ...]:
        """The lenses under which a published regime of a penalty was found so."""
        return tuple(one.lens for one in self.lenses if getattr(one.of(penalty), regime) == found)

    def lenses_that_turn(self, penalty: str) -> tuple[str, ...]:
        """The lenses under which the sign goes from negative to positive, as was published."""
        return tuple(
            one.lens
            for one in self.lenses
            if any(turn.sign_after == "positive" for turn in one.of(penalty).sign_turns)
        )


def regimes(
    stacks: Mapping[str, LensStack], *, resamples: int = LAYERS_RESAMPLES, seed: int = 0
) -> Regimes:
    """The regimes of every penalty under each lens."""
    how = {"resamples": resamples, "seed": seed}
    found = []
    for stack in stacks.values():
        correlations = penalty_correlations(stack)
        penalties = tuple(
            _penalty(name, stack, correlations.rows(slice(2 * k, None, 2 * len(PENALTIES))), **how)
            for k, name in enumerate(PENALTIES)
        )
        found.append(LensRegimes(**stack.about(), penalties=penalties))
    return Regimes(tuple(found))


def _penalty(
    name: str, stack: LensStack, rho: RankCorrelations, *, resamples: int, seed: int
) -> PenaltyRegimes:
    how = {"resamples": resamples, "seed": seed}
    by_depth = tuple(
        RhoAt(depth, alone, together, sign_of(together))
        for depth, alone, together in zip(
            stack.depths, rho.estimates(**how), rho.together(**how), strict=True
        )
    )
    turn, reason = _turn(stack.depths, rho, **how)
    inner = [one for one in by_depth if one.depth < stack.blocks]
    cut = EARLY_PART * stack.blocks
    return PenaltyRegimes(
        penalty=name,
        by_depth=by_depth,
        sign_turns=_sign_turns(by_depth),
        turn=turn,
        turn_reason=reason,
        early=_early([one.together for one in inner if one.depth <= cut]),
        middle=_middle([one.together for one in inner if one.depth > cut]),
        late=_late(by_depth[-1].together),
    )


def sign_of(together: Estimate) -> Sign:
    """What an interval says of the sign of a correlation."""
    low, high = together.low, together.high
    if low is None or high is None:
        return "unclear"
    if high < 0 or low > 0:
        return "negative" if high < 0 else "positive"
    return "about zero" if max(-low, high) <= NEAR_ZERO else "unclear"


def _sign_turns(by_depth: Sequence[RhoAt]) -> tuple[SignTurn, ...]:
    """Where the sign changes between depths at which it is certain."""
    certain = [one for one in by_depth if one.sign in ("negative", "positive")]
    return tuple(
        SignTurn(a.depth, b.depth, a.sign, b.sign)
        for a, b in itertools.pairwise(certain)
        if a.sign != b.sign
    )


def _bounds(ends: Sequence[Estimate]) -> list[tuple[float, float]] | None:
    """The intervals, where all exist."""
    found = [(e.low, e.high) for e in ends if e.low is not None and e.high is not None]
    return found if len(found) == len(ends) else None


def _early(ends: Sequence[Estimate]) -> Found:
    if not ends:
        return "not measured"
    bounds = _bounds(ends)
    if bounds is None:
        return "undecided"
    if any(low > NEAR_ZERO or high < -NEAR_ZERO for low, high in bounds):
        return "does not appear"
    near = all(low >= -NEAR_ZERO and high <= NEAR_ZERO for low, high in bounds)
    return "appears" if near else "undecided"


def _middle(ends: Sequence[Estimate]) -> Found:
    if not ends:
        return "not measured"
    bounds = [(e.low, e.high) for e in ends if e.low is not None and e.high is not None]
    if any(high < 0 for _, high in bounds):
        return "appears"
    above = len(bounds) == len(ends) and all(low > -NEAR_ZERO for low, _ in bounds)
    return "does not appear" if above else "undecided"


def _late(end: Estimate) -> Found:
    if end.low is None or end.high is None:
        return "undecided"
    if end.low > STRONG:
        return "appears"
    return "does not appear" if end.high < STRONG else "undecided"


def _turn(
    depths: Sequence[int], rho: RankCorrelations, *, resamples: int, seed: int
) -> tuple[Turn | None, str | None]:
    """The clearest rise along the depths at which there is a correlation."""
    known = np.flatnonzero(np.isfinite(rho.rho))
    if len(known) < 2:
        return None, f"a turn needs a correlation at 2 depths, got {len(known)}"
    some = rho.rows(known.tolist())
    at, n, documents = np.asarray(depths)[known], int(rho.sizes.sum()), len(rho.sizes)
    place = int(clearest(some.rho[None])[0].argmax())
    drawn = some.draws(resamples=resamples, seed=seed)
    first, rise = float(at[place + 1]), float(rises_of(some.rho[None])[0, place])
    low = high = None
    if documents >= 2:
        places = at[1:][clearest(drawn).argmax(axis=1)]
        ends = np.quantile(places, interval_levels(documents), method="inverted_cdf")
        low, high = min(float(ends[0]), first), max(float(ends[1]), first)
    rise_ends = interval(rises_of(drawn)[:, place], documents)
    p, orders, exact = shuffled_p(some.rho, seed=seed)
    return Turn(
        depth=Estimate(first, low, high, n=n, documents=documents),
        before=int(at[place]),
        rise=Estimate(rise, *rise_ends, n=n, documents=documents),
        p=p,
        least_p=1 / math.comb(len(known), place + 1),
        orders=orders,
        exact=exact,
    ), None


def rises_of(rho: Float[np.ndarray, "rows depths"]) -> Float[np.ndarray, "rows cuts"]:
    """Mean rho after less mean rho before each cut, ``rho[:, k:].mean(1) - rho[:, :k].mean(1)``."""
    depths = rho.shape[1]
    before = np.cumsum(rho, axis=1)
    k = np.arange(1, depths)
    rises: Float[np.ndarray, "rows cuts"] = (before[:, -1:] - before[:, :-1]) / (
        depths - k
    ) - before[:, :-1] / k
    return rises


def clearest(rho: Float[np.ndarray, "rows depths"]) -> Float[np.ndarray, "rows cuts"]:
    """``rises_of`` times ``sqrt(k (depths - k))``: what of each cut is set beside chance."""
    k = np.arange(1, rho.shape[1])
    clear: Float[np.ndarray, "rows cuts"] = rises_of(rho) * np.sqrt(k * (rho.shape[1] - k))
    return clear


def shuffled_p(rho: Float[np.ndarray, " depths"], *, seed: int) -> tuple[float, int, bool]:
    """The share of orders of the depths whose clearest rise is as clear; how many; whether all.

    Of drawn orders the one that was found counts as one more, so that p is never 0.
    """
    depths = len(rho)
    exact = depths <= EXACT_DEPTHS
    if exact:
        orders = rho[np.array(list(itertools.permutations(range(depths))))]
    else:
        drawn = np.random.default_rng(seed).permuted(np.tile(rho, (SHUFFLES - 1, 1)), axis=1)
        orders = np.concatenate([rho[None], drawn])
    # Sums of the same numbers in another order may differ by their rounding.
    as_clear = clearest(orders).max(axis=1) >= clearest(rho[None]).max() - 1e-12
    return float(as_clear.mean()), len(orders), exact
