"""Whether decisions settle at other depths after a change, from two models' columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from unembed.decisions.layers.depth_changes import Change, refuse_other_rows
from unembed.decisions.layers.settling import settled_depths
from unembed.decisions.layers.stack import LAYERS_RESAMPLES, AtDepths, LensStack
from unembed.decisions.tokens import CLASSES, FREQUENCY_NAMES
from unembed.short_repr import ShortRepr
from unembed.stats.estimate import Estimate
from unembed.stats.simultaneous import Sums, simultaneous_means
from unembed.stats.studentised import mean_estimates

OUTCOMES = ("right in both", "wrong in both", "now right", "now wrong")
"""The decisions by what they were before and are after."""


@dataclass(frozen=True)
class SettledTwice(ShortRepr):
    """The shares of positions that settle at a depth before and after.

    The intervals of the differences hold for all depths at once.
    """

    depth: int
    share: Change


@dataclass(frozen=True)
class SettledGroupChange(ShortRepr):
    """A group's share of the positions, and its settling depths before and after, in blocks.

    ``earlier`` and ``later`` are the shares of its positions that settle at an earlier and at a
    later depth after than before.
    """

    name: str
    share: Estimate
    mean: Change
    earlier: Estimate
    later: Estimate


@dataclass(frozen=True)
class SettlingChange(AtDepths):
    """Where decisions settle before and after, see ``Settling`` (theory §3).

    Each model's decisions settle on its own final token, so that a position may change its token
    and not its depth. ``everywhere`` is of all positions; groups are of the targets' classes and
    frequencies, and of ``OUTCOMES``. Intervals cluster by document.
    """

    everywhere: SettledGroupChange
    by_depth: tuple[SettledTwice, ...]
    by_class: tuple[SettledGroupChange, ...]
    by_frequency: tuple[SettledGroupChange, ...]
    by_outcome: tuple[SettledGroupChange, ...]


def settling_change(
    before: LensStack,
    after: LensStack,
    token_class: Int[np.ndarray, " positions"],
    frequency: Int[np.ndarray, " positions"],
    *,
    resamples: int = LAYERS_RESAMPLES,
    seed: int = 0,
) -> SettlingChange:
    """By how many blocks decisions settle earlier or later after a change.

    ``token_class`` and ``frequency`` are the groups of the targets, indices into ``CLASSES`` and
    ``FREQUENCY_NAMES``. Raises ``ValueError`` where the stacks are of other positions or depths.
    """
    refuse_other_rows(before, after)
    how = {"resamples": resamples, "seed": seed}
    depths = settled_depths(before), settled_depths(after)
    right = [stack.final_top1 == stack.target for stack in (before, after)]
    outcome = np.select([right[0] & right[1], right[0], right[1]], [0, 3, 2], default=1)
    everywhere = np.zeros(before.n, dtype=np.int8)
    whole, by_class, by_frequency, by_outcome = (
        _groups(before, depths, marks, names, **how)
        for marks, names in (
            (everywhere, ("all",)),
            (token_class, CLASSES),
            (frequency, FREQUENCY_NAMES),
            (outcome, OUTCOMES),
        )
    )
    return SettlingChange(
        **before.about(),
        everywhere=whole[0],
        by_depth=_by_depth(before, depths, **how),
        by_class=by_class,
        by_frequency=by_frequency,
        by_outcome=by_outcome,
    )


def _by_depth(
    stack: LensStack,
    depths: tuple[Int[np.ndarray, " positions"], Int[np.ndarray, " positions"]],
    *,
    resamples: int,
    seed: int,
) -> tuple[SettledTwice, ...]:
    how = {"resamples": resamples, "seed": seed}
    places = np.asarray(stack.depths)[:, None]
    old, new = (stack.sums(places == at) for at in depths)
    limits = [(0.0, 1.0)] * len(places)
    sides = (mean_estimates(one, stack.sizes(), limits, **how) for one in (old, new))
    differences = simultaneous_means([Sums(new - old, stack.sizes())], **how)
    return tuple(map(SettledTwice, stack.depths, map(Change, *sides, differences)))


def _groups(
    stack: LensStack,
    depths: tuple[Int[np.ndarray, " positions"], Int[np.ndarray, " positions"]],
    marks: Int[np.ndarray, " positions"],
    names: Sequence[str],
    *,
    resamples: int,
    seed: int,
) -> tuple[SettledGroupChange, ...]:
    old, new = depths
    members = marks == np.arange(len(names))[:, None]
    counts = stack.sums(members)
    low, high = float(stack.depths[0]), float(stack.blocks)
    spans = [(low, high), (low, high), (low - high, high - low), (0.0, 1.0), (0.0, 1.0)]
    values = old, new, new - old, new < old, new > old
    sums = [counts, *(stack.sums(members * one) for one in values)]
    over = [np.broadcast_to(stack.sizes(), counts.shape), *([counts] * len(values))]
    limits = [span for span in ((0.0, 1.0), *spans) for _ in names]
    found = mean_estimates(
        np.concatenate(sums), np.concatenate(over), limits, resamples=resamples, seed=seed
    )
    g = len(names)
    share, first, second, moved, earlier, later = (found[i * g : (i + 1) * g] for i in range(6))
    return tuple(
        map(SettledGroupChange, names, share, map(Change, first, second, moved), earlier, later)
    )
