"""Stopping at the first depth whose margin is wide: what it saves, and what it gets wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unembed.decisions.layers.stack import LAYERS_RESAMPLES, AtDepths, LensStack
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import interval, totals_and_resamples
from unembed.stats.estimate import Estimate
from unembed.stats.studentised import mean_estimates

WANTED_AGREEMENT = 0.99
"""Share of positions whose token is still the model's own, that a threshold is to keep."""

CURVE_LEVELS = (*(i / 20 for i in range(1, 20)), 0.975, 0.99, 0.995, 0.999)
"""Quantiles of the margins before the last depth at which the curve's thresholds lie, above 0."""

CANDIDATE_LEVELS = np.unique(
    np.concatenate([np.linspace(0.0, 1.0, 101), 1 - np.geomspace(1e-4, 1e-1, 60)])
)
"""Quantiles of the same margins among which a threshold is chosen."""

NOBODY = "no position to average over"


@dataclass(frozen=True)
class ExitAt(ShortRepr):
    """The share of positions that leave at a depth, and how many of those agree with the model."""

    depth: int
    share: Estimate
    agreement: Estimate


@dataclass(frozen=True)
class ExitThreshold(ShortRepr):
    """What a threshold on the margin, in logits, does to a text.

    ``agreement`` is the share of all positions whose token at the exit is the model's own,
    ``early`` the share that leaves before the last depth and ``agreement_early`` that of those;
    ``mean_depth`` is in blocks and ``saved`` the share of all blocks that is not run.
    ``agreement_if_random`` is the control: as many positions leave at each depth, whichever they
    are.
    """

    threshold: float
    agreement: Estimate
    early: Estimate
    agreement_early: Estimate
    mean_depth: Estimate
    saved: Estimate
    agreement_if_random: Estimate
    exits: tuple[ExitAt, ...]


@dataclass(frozen=True)
class EarlyExit(AtDepths):
    """Leaving at the first measured depth whose margin is a threshold's or more (theory §3).

    ``curve`` is over all positions, thresholds ascending. ``chosen`` is the threshold that holds
    ``wanted`` agreement: found on half of the documents (``chosen_on`` of them, drawn by ``seed``)
    and measured on the other half alone. It is the lowest for which, coming down from where nobody
    leaves early, the lower end of the agreement's 95 % interval never fell below what is wanted, so
    that it holds on further text with some 97.5 % chance. Where there is none, ``chosen_reason``
    says why.
    """

    wanted: float
    curve: tuple[ExitThreshold, ...]
    chosen: ExitThreshold | None
    chosen_reason: str | None
    chosen_on: int
    seed: int


def early_exit(
    stack: LensStack,
    *,
    wanted: float = WANTED_AGREEMENT,
    resamples: int = LAYERS_RESAMPLES,
    seed: int = 0,
) -> EarlyExit:
    """The curve of early exit, and the threshold that holds ``wanted`` agreement, if one does."""
    how = {"resamples": resamples, "seed": seed}
    documents = stack.clusters[1]
    curve = tuple(_measured(stack, one, **how) for one in _curve_thresholds(stack))
    chosen, reason = None, None
    halves = np.random.default_rng(seed).permutation(documents)
    on = documents // 2
    if len(stack.depths) < 2:
        reason = "the last depth alone was measured: no position can leave early"
    elif documents < 2:
        reason = "it takes two documents, one to choose a threshold on and one to measure it on"
    else:
        first = np.isin(stack.clusters[0], halves[:on])
        threshold = _holding(stack.rows(first), wanted, **how)
        if threshold is None:
            reason = (
                f"no threshold that lets a position leave early holds {100 * wanted:g}% agreement "
                f"for sure on {on} document{'s' * (on != 1)}"
            )
        else:
            chosen = _measured(stack.rows(~first), threshold, **how)
    return EarlyExit(
        **stack.about(),
        wanted=wanted,
        curve=curve,
        chosen=chosen,
        chosen_reason=reason,
        chosen_on=on,
        seed=seed,
    )


def exit_rows(stack: LensStack, threshold: float) -> Int[np.ndarray, " positions"]:
    """The row of the depth at which each position leaves: the last one where no margin is wide."""
    wide = stack.margin >= threshold
    wide[-1] = True
    rows: Int[np.ndarray, " positions"] = np.argmax(wide, axis=0)
    return rows


def _margins(stack: LensStack) -> Float[np.ndarray, " margins"]:
    """All margins before the last depth."""
    return stack.margin[:-1].ravel().astype(np.float64)


def _curve_thresholds(stack: LensStack) -> list[float]:
    """0 and the quantiles, of three significant digits, so that they can be quoted."""
    margins = _margins(stack)
    if not margins.size:
        return []
    return sorted({0.0, *(float(f"{one:.3g}") for one in np.quantile(margins, CURVE_LEVELS))})


def _holding(stack: LensStack, wanted: float, *, resamples: int, seed: int) -> float | None:
    """The lowest threshold down to which the agreement is surely what is wanted."""
    thresholds = np.unique(np.quantile(_margins(stack), CANDIDATE_LEVELS))[::-1].tolist()
    rows = [exit_rows(stack, one) for one in thresholds]
    agrees = np.stack([stack.agrees[row, np.arange(stack.n)] for row in rows])
    limits = [(0.0, 1.0)] * len(rows)
    means = mean_estimates(
        stack.sums(agrees), stack.sizes(), limits, resamples=resamples, seed=seed
    )
    found = None
    for threshold, row, mean in zip(thresholds, rows, means, strict=True):
        if mean.low is None or mean.low < wanted:
            break
        if (row < len(stack.depths) - 1).any():
            found = threshold
    return found


def _measured(stack: LensStack, threshold: float, *, resamples: int, seed: int) -> ExitThreshold:
    """What a threshold does to these positions."""
    how = {"resamples": resamples, "seed": seed}
    last = len(stack.depths) - 1
    row, sizes = exit_rows(stack, threshold), stack.sizes()
    agrees = stack.agrees[row, np.arange(stack.n)]
    depth = np.asarray(stack.depths)[row]
    here = row == np.arange(last + 1)[:, None]
    one, early = (0.0, 1.0), row < last
    sums = stack.sums(np.stack([agrees, early, agrees & early, depth, *here, *(here & agrees)]))
    counts = np.stack([sizes, sizes, sums[1], sizes, *[sizes] * (last + 1), *sums[4 : last + 5]])
    limits = [one, one, one, (float(stack.depths[0]), float(stack.blocks)), *[one] * 2 * (last + 1)]
    agreement, leaving, of_early, mean, *by_depth = mean_estimates(sums, counts, limits, **how)
    return ExitThreshold(
        threshold=threshold,
        agreement=agreement,
        early=leaving,
        agreement_early=of_early,
        mean_depth=mean,
        saved=_saved(mean, stack.blocks),
        agreement_if_random=_at_random(stack, sums[4 : last + 5], **how),
        exits=tuple(map(ExitAt, stack.depths, by_depth[: last + 1], by_depth[last + 1 :])),
    )


def _saved(mean: Estimate, blocks: int) -> Estimate:
    """The share of the blocks that a mean depth leaves out."""
    if mean.value is None:
        return mean
    low, high = (None if end is None else 1 - end / blocks for end in (mean.high, mean.low))
    return Estimate(1 - mean.value / blocks, low, high, mean.n, documents=mean.documents)


def _at_random(
    stack: LensStack,
    leaving: Float[np.ndarray, "depths documents"],
    *,
    resamples: int,
    seed: int,
) -> Estimate:
    """The agreement if as many left at each depth, whichever: rates of leaving times agreeing."""
    if not stack.n:
        return Estimate(None, reason=NOBODY)
    k, documents = leaving.shape
    sums = np.concatenate([leaving, stack.sums(stack.agrees), stack.sizes()[None]])
    totals = totals_and_resamples(sums, resamples=resamples, seed=seed)
    rates = totals[:, :-1] / totals[:, -1:]
    draws = (rates[:, :k] * rates[:, k:]).sum(axis=1)
    ends = interval(draws[1:], documents)
    return Estimate(float(draws[0]), *ends, n=stack.n, documents=documents)
