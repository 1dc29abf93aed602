"""What a change did to the decisions at each depth, from two models' columns under one lens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from unembed.decisions.layers.stack import LAYERS_RESAMPLES, AtDepths, LensStack
from unembed.short_repr import ShortRepr
from unembed.stats.estimate import Estimate
from unembed.stats.paired_shares import clustered_paired_share_interval
from unembed.stats.simultaneous import Sums, simultaneous_means
from unembed.stats.studentised import mean_estimates

INFINITE = float("inf")
MEASURES = {
    "agreement": (0.0, 1.0),
    "accuracy": (0.0, 1.0),
    "nll_nats": (0.0, INFINITE),
    "kl_nats": (0.0, INFINITE),
    "margin": (0.0, INFINITE),
    "relative_distance": (0.0, INFINITE),
}
"""The means of each model at a depth, and the least and the largest that each can be."""

VISIBLE = 0.005
"""The share of changed tokens above which a depth is called changed: half a percentage point."""


@dataclass(frozen=True)
class Change(ShortRepr):
    """A mean before and one after at the same positions, and ``after - before``."""

    before: Estimate
    after: Estimate
    difference: Estimate


@dataclass(frozen=True)
class DepthChange(ShortRepr):
    """Two models at one depth under one lens, position by position.

    ``changed`` is the share of positions whose leading token differs between the models at this
    depth. ``reunited`` is the share of those at which both models decide alike in the end, and
    ``parted`` the share of the decisions that differ in the end at which the two differ here and
    at every measured depth after. ``agreement`` is with each model's own decision, ``kl_nats`` the
    divergence of each model's own final distribution from this depth's; ``margin`` and
    ``relative_distance`` are means.

    The intervals of ``changed`` and of the differences hold for all depths of a lens at once.
    """

    depth: int
    changed: Estimate
    reunited: Estimate
    parted: Estimate
    agreement: Change
    accuracy: Change
    nll_nats: Change
    kl_nats: Change
    margin: Change
    relative_distance: Change


@dataclass(frozen=True)
class LensChange(AtDepths):
    """Two models at every depth under one lens (theory §3, §4).

    ``first`` is the first depth at which more than ``VISIBLE`` of the tokens changed, by the lower
    end of the interval; None where there is none. ``most`` are the depths that may have the largest
    share of changed tokens: those whose interval reaches that of the depth where it was largest.
    Both hold for all depths at once, as the intervals do. ``end_alike`` is the share of all
    positions at which both models decide alike: what ``reunited`` would be if changes at a depth
    had nothing to do with those at the end.
    """

    by_depth: tuple[DepthChange, ...]
    first: int | None
    most: tuple[int, ...]
    end_alike: Estimate

    def at(self, depth: int) -> DepthChange:
        """The figures of one depth."""
        return next(one for one in self.by_depth if one.depth == depth)


def lens_change(
    before: LensStack, after: LensStack, *, resamples: int = LAYERS_RESAMPLES, seed: int = 0
) -> LensChange:
    """Compare two models at the same positions and depths under one lens.

    Means of one model have the studentised intervals of ``stats/studentised.py``; ``changed`` and
    the differences, which are paired, those of ``stats/simultaneous.py`` over the depths; what
    becomes of a change those of ``stats/paired_shares.py``. A stack and itself give zero
    throughout, with intervals of no width. Raises ``ValueError`` where the
    stacks are of other positions, depths or lenses.
    """
    refuse_other_rows(before, after)
    how = {"resamples": resamples, "seed": seed}
    sizes = before.sizes()
    differs = before.top1 != after.top1
    ends_apart = before.final_top1 != after.final_top1
    ever_after = np.logical_and.accumulate(differs[::-1], axis=0)[::-1]
    apart = before.sums(differs)
    changed = _within(simultaneous_means([Sums(apart, sizes)], **how), (0.0, 1.0))
    decides = (differs == ends_apart).all(axis=1)
    together, ever = before.sums(differs & ~ends_apart), before.sums(ever_after & ends_apart)
    [ended] = before.sums(ends_apart[None])
    measured = _measures(before, after, sizes, **how)
    rows = tuple(
        DepthChange(
            depth=depth,
            changed=changed[i],
            reunited=_share(together[i], apart[i], "no token changed here", decides[i]),
            parted=_share(ever[i], ended, "no decision differs in the end", decides[i]),
            **{name: found[i] for name, found in measured.items()},
        )
        for i, depth in enumerate(before.depths)
    )
    return LensChange(
        **before.about(),
        by_depth=rows,
        first=first_visible(rows),
        most=most_changed(rows),
        end_alike=_share(sizes - ended, sizes, "no position to average over"),
    )


def refuse_other_rows(before: LensStack, after: LensStack) -> None:
    """Raise ``ValueError`` unless two stacks are of one lens, the same depths and positions."""
    for name in ("lens", "depths"):
        if getattr(before, name) != getattr(after, name):
            raise ValueError(f"{name} {getattr(before, name)} and {getattr(after, name)}")
    for name in ("doc", "pos", "target"):
        if not np.array_equal(getattr(before, name), getattr(after, name)):
            raise ValueError(f"column {name} is not the same before and after")


def first_visible(rows: Sequence[DepthChange]) -> int | None:
    """The first depth at which surely more than ``VISIBLE`` of the tokens changed."""
    for row in rows:
        if row.changed.low is not None and row.changed.low > VISIBLE:
            return row.depth
    return None


def most_changed(rows: Sequence[DepthChange]) -> tuple[int, ...]:
    """The depths that may have the largest share of changed tokens; none where nothing changed."""
    known = [row for row in rows if row.changed.value]
    if not known:
        return ()
    largest = max(known, key=lambda row: row.changed.value or 0.0)
    least = largest.changed.low
    if least is None:
        return (largest.depth,)
    return tuple(row.depth for row in known if (row.changed.high or 0.0) >= least)


def _measures(
    before: LensStack,
    after: LensStack,
    sizes: Float[np.ndarray, " docs"],
    *,
    resamples: int,
    seed: int,
) -> dict[str, tuple[Change, ...]]:
    """The changes of each measure, one a depth."""
    how = {"resamples": resamples, "seed": seed}
    k = len(before.depths)
    old, new = ([stack.sums(values) for values in _values(stack)] for stack in (before, after))
    limits = [limit for limit in MEASURES.values() for _ in before.depths]
    means = [mean_estimates(np.concatenate(side), sizes, limits, **how) for side in (old, new)]
    found = {}
    for at, (name, one, two) in enumerate(zip(MEASURES, old, new, strict=True)):
        differences = simultaneous_means([Sums(two - one, sizes)], **how)
        _, most = MEASURES[name]
        differences = _within(differences, (-most, most))
        sides = (side[at * k : (at + 1) * k] for side in means)
        found[name] = tuple(map(Change, *sides, differences))
    return found


def _values(stack: LensStack) -> Sequence[np.ndarray]:
    """The rows of each of ``MEASURES``, a row a depth."""
    right = stack.top1 == stack.target
    return stack.agrees, right, stack.nll, stack.kl_final, stack.margin, stack.relative_distance


def _share(
    counts: Float[np.ndarray, " docs"],
    over: Float[np.ndarray, " docs"],
    reason: str,
    exact: bool | np.bool_ = False,
) -> Estimate:
    """``counts.sum() / over.sum()``, a share of whole positions.

    Its interval is the score interval of ``clustered_paired_share_interval``, which bounds a share
    of which no exception was seen; of no width where it is ``exact``, by what is counted.
    """
    some = over > 0
    n, documents = int(over.sum()), int(np.count_nonzero(some))
    if n == 0:
        return Estimate(None, reason=reason)
    value = float(counts.sum()) / n
    if exact:
        return Estimate(value, value, value, n=n, documents=documents)
    if documents < 2:
        return Estimate(value, n=n, documents=documents)
    rare = counts if value <= 0.5 else over - counts
    found = clustered_paired_share_interval(rare[some], over[some], int(rare.sum()), 0)
    low, high = np.clip(found, 0.0, 1.0).tolist()
    if value > 0.5:
        low, high = 1 - high, 1 - low
    return Estimate(value, min(low, value), max(high, value), n=n, documents=documents)


def _within(estimates: Sequence[Estimate], limits: tuple[float, float]) -> tuple[Estimate, ...]:
    """The estimates, their intervals cut at what they can be."""
    low, high = limits
    return tuple(
        one
        if one.low is None or one.high is None
        else replace(one, low=max(one.low, low), high=min(one.high, high))
        for one in estimates
    )
