"""From which depth on a decision is the final one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from unembed.decisions.audit.summary import QUANTILES
from unembed.decisions.layers.stack import LAYERS_RESAMPLES, AtDepths, LensStack
from unembed.decisions.tokens import CLASSES, FREQUENCY_NAMES
from unembed.short_repr import ShortRepr
from unembed.stats.estimate import Estimate
from unembed.stats.resampled import quantile_estimates
from unembed.stats.smooth import smooth_estimates
from unembed.stats.studentised import mean_estimates

RIGHT_OR_WRONG = ("right", "wrong")
NOBODY = "no position to average over"


@dataclass(frozen=True)
class SettledAt(ShortRepr):
    """The share of positions that settle at a depth, and that have settled by it.

    ``by_then_if_independent`` is the control of ``Settling``.
    """

    depth: int
    share: Estimate
    by_then: Estimate
    by_then_if_independent: Estimate


@dataclass(frozen=True)
class SettledGroup(ShortRepr):
    """A group's share of the positions, and its mean settling depth."""

    name: str
    share: Estimate
    mean: Estimate


@dataclass(frozen=True)
class Settling(AtDepths):
    """Settling depths, in blocks; every interval clusters by document (theory §3).

    A position settles at the least measured depth whose top-1 is the final one there and at every
    measured depth after: at ``blocks`` at the latest, where the model decides. ``unsettled`` is the
    share of positions at which this lens reads another token even there; under ``normed`` none.
    ``wrong_less_right`` is the difference of the means of the two groups of ``by_outcome``, by what
    each document moves in it.

    ``mean_if_independent`` is the control: with ``a[m]`` the share of positions that agree with the
    final token at depth m, depths that agreed independently would have ``a[l] a[l+1] ...`` settled
    by depth l. ``earlier`` is by how many blocks decisions settle before that.
    """

    mean: Estimate
    quantiles: dict[str, Estimate]
    by_depth: tuple[SettledAt, ...]
    unsettled: Estimate
    by_class: tuple[SettledGroup, ...]
    by_frequency: tuple[SettledGroup, ...]
    by_outcome: tuple[SettledGroup, ...]
    wrong_less_right: Estimate
    mean_if_independent: Estimate
    earlier: Estimate


def settled_depths(stack: LensStack) -> Int[np.ndarray, " positions"]:
    """The depth at which each position settles, see ``Settling``."""
    rows = np.argmax(_settled(stack.agrees), axis=0)
    depths: Int[np.ndarray, " positions"] = np.asarray(stack.depths)[rows]
    return depths


def settling(
    stack: LensStack,
    token_class: Int[np.ndarray, " positions"],
    frequency: Int[np.ndarray, " positions"],
    *,
    resamples: int = LAYERS_RESAMPLES,
    seed: int = 0,
) -> Settling:
    """Where decisions settle, and whether sooner than agreement by chance would have it.

    ``token_class`` and ``frequency`` are the groups of the targets, indices into ``CLASSES`` and
    ``FREQUENCY_NAMES``, see ``decisions/tokens.py``.
    """
    how = {"resamples": resamples, "seed": seed}
    at = settled_depths(stack)
    inverse, documents = stack.clusters
    sizes, span = stack.sizes(), (float(stack.depths[0]), float(stack.blocks))
    by_then = _settled(stack.agrees)
    here = np.diff(by_then, axis=0, prepend=False)
    counted = np.concatenate([here, by_then, ~stack.agrees[-1:]])
    shares = mean_estimates(stack.sums(counted), sizes, [(0.0, 1.0)] * len(counted), **how)
    [mean] = mean_estimates(stack.sums(at[None]), sizes, [span], **how)
    quantiles = quantile_estimates(
        at.astype(np.float64), inverse, documents, [q / 100 for q in QUANTILES], **how
    )
    wrong = (stack.final_top1 != stack.target).astype(np.int8)
    groups = [
        _groups(stack, at, marks, names, span, **how)
        for marks, names in (
            (token_class, CLASSES),
            (frequency, FREQUENCY_NAMES),
            (wrong, RIGHT_OR_WRONG),
        )
    ]
    control = _control(stack, at, **how)
    k = len(stack.depths)
    return Settling(
        **stack.about(),
        mean=mean,
        quantiles=dict(zip(map(str, QUANTILES), quantiles, strict=True)),
        by_depth=tuple(
            SettledAt(depth, shares[i], shares[k + i], control[i])
            for i, depth in enumerate(stack.depths)
        ),
        unsettled=shares[-1],
        by_class=groups[0],
        by_frequency=groups[1],
        by_outcome=groups[2],
        wrong_less_right=_difference(stack, at, wrong == 1, **how),
        mean_if_independent=control[k],
        earlier=control[k + 1],
    )


def _settled(agrees: Bool[np.ndarray, "depths positions"]) -> Bool[np.ndarray, "depths positions"]:
    """Whether a position has settled by each depth; by the last one in any case."""
    settled = np.logical_and.accumulate(agrees[::-1], axis=0)[::-1].copy()
    settled[-1] = True
    return settled


def _groups(
    stack: LensStack,
    at: Int[np.ndarray, " positions"],
    marks: Int[np.ndarray, " positions"],
    names: Sequence[str],
    span: tuple[float, float],
    *,
    resamples: int,
    seed: int,
) -> tuple[SettledGroup, ...]:
    how = {"resamples": resamples, "seed": seed}
    members = marks == np.arange(len(names))[:, None]
    counts = stack.sums(members)
    limits = [(0.0, 1.0)] * len(names)
    shares = mean_estimates(counts, stack.sizes(), limits, **how)
    means = mean_estimates(stack.sums(members * at), counts, [span] * len(names), **how)
    return tuple(map(SettledGroup, names, shares, means))


def _difference(
    stack: LensStack,
    at: Int[np.ndarray, " positions"],
    wrong: Bool[np.ndarray, " positions"],
    *,
    resamples: int,
    seed: int,
) -> Estimate:
    """The mean of the wrong less that of the right, both in the same resamples."""
    sums = stack.sums(np.stack([wrong * at, wrong, ~wrong * at, ~wrong]))

    def difference(totals: Float[np.ndarray, "rows 4"]) -> Float[np.ndarray, "rows 1"]:
        with np.errstate(invalid="ignore"):
            both: Float[np.ndarray, "rows 2"] = totals[:, ::2] / totals[:, 1::2]
        less: Float[np.ndarray, "rows 1"] = both[:, :1] - both[:, 1:]
        return less

    found: Estimate | None = None
    if stack.n:
        [found] = smooth_estimates(sums, stack.sizes(), difference, resamples=resamples, seed=seed)
    if found is not None:
        return found
    reason = f"every decision is {RIGHT_OR_WRONG[int(wrong.any())]}" if stack.n else NOBODY
    return Estimate(None, n=stack.n, reason=reason)


def _control(
    stack: LensStack, at: Int[np.ndarray, " positions"], *, resamples: int, seed: int
) -> tuple[Estimate, ...]:
    """Settled by each depth if depths agreed independently; the mean depth; how much earlier.

    From the rates of agreement of all documents, and of all but one.
    """
    k = len(stack.depths)
    nothing = Estimate(None, reason=NOBODY)
    if not stack.n:
        return (nothing,) * (k + 2)
    sums = np.concatenate([stack.sums(stack.agrees), stack.sums(at[None]), stack.sizes()[None]])

    def figures(totals: Float[np.ndarray, "rows sums"]) -> Float[np.ndarray, "rows figures"]:
        rates = totals[:, :-1] / totals[:, -1:]
        by_then = np.cumprod(rates[:, -2::-1], axis=1)[:, ::-1].copy()
        by_then[:, -1] = 1.0
        mean = mean_depth(by_then, stack.depths)
        return np.column_stack([by_then, mean, mean - rates[:, -1]])

    how = {"resamples": resamples, "seed": seed}
    found = smooth_estimates(sums, stack.sizes(), figures, **how)
    return tuple(one or nothing for one in found)


def mean_depth(
    by_then: Float[np.ndarray, "rows depths"], depths: Sequence[int]
) -> Float[np.ndarray, " rows"]:
    """The mean of depths of which ``by_then`` are the shares up to each, the last one 1."""
    shares = np.diff(by_then, axis=1, prepend=0.0)
    found: Float[np.ndarray, " rows"] = shares @ np.asarray(depths, dtype=np.float64)
    return found
