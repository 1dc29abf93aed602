"""Stopping at the first depth whose margin is wide: what it saves, and what it gets wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from unembed.decisions.layers.stack import LAYERS_RESAMPLES, AtDepths, LensStack
from unembed.short_repr import ShortRepr
from unembed.stats.estimate import Estimate
from unembed.stats.smooth import smooth_estimates
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
    are. ``shares`` are those that leave at each depth, and ``agreements`` how many of those agree,
    None of nobody.
    """

    threshold: float
    agreement: Estimate
    early: Estimate
    agreement_early: Estimate
    mean_depth: Estimate
    saved: Estimate
    agreement_if_random: Estimate
    shares: tuple[float, ...]
    agreements: tuple[float | None, ...]


@dataclass(frozen=True)
class EarlyExit(AtDepths):
    """Leaving at the first measured depth whose margin is a threshold's or more (theory §3).

    ``curve`` is over all positions, thresholds ascending. ``chosen`` is the threshold that holds
    ``wanted`` agreement: found on half of the documents (``chosen_on`` of them, drawn by ``seed``)
    and measured on the other half alone, as
    ``chosen_exits`` are by depth. It is the lowest for which, coming down from where nobody
    leaves early, the lower end of the agreement's 95 % interval never fell below what is wanted, so
    that it holds on further text with some 97.5 % chance. Where there is none, ``chosen_reason``
    says why.
    """

    wanted: float
    curve: tuple[ExitThreshold, ...]
    chosen: ExitThreshold | None
    chosen_exits: tuple[ExitAt, ...]
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
    """The curve of early exit, and the threshold that holds ``wanted`` agreement, if one does.

    Where nobody left before the last depth, the model itself decides, whichever lens this is.
    """
    stack = replace(stack, top1=np.concatenate([stack.top1[:-1], stack.final_top1[None]]))
    how = {"resamples": resamples, "seed": seed}
    documents = stack.clusters[1]
    curve = _measured(stack, _curve_thresholds(stack), **how)
    chosen, reason = None, None
    exits: tuple[ExitAt, ...] = ()
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
                f"no threshold that lets a position leave early holds {100 * wanted:g}\u00a0% "
                f"agreement for sure on {on} document{'s' * (on != 1)}"
            )
        else:
            rest = stack.rows(~first)
            [chosen] = _measured(rest, [threshold], **how)
            exits = _exits(rest, threshold, **how)
    return EarlyExit(
        **stack.about(),
        wanted=wanted,
        curve=curve,
        chosen=chosen,
        chosen_exits=exits,
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


def _measured(
    stack: LensStack, thresholds: Sequence[float], *, resamples: int, seed: int
) -> tuple[ExitThreshold, ...]:
    """What thresholds do to these positions."""
    how = {"resamples": resamples, "seed": seed}
    sizes, one = stack.sizes(), (0.0, 1.0)
    span = (float(stack.depths[0]), float(stack.blocks))
    all_sums, counts, leaving, agreeing = [], [], [], []
    for threshold in thresholds:
        here, agrees = _leaving(stack, threshold)
        early = ~here[-1]
        depth = np.asarray(stack.depths) @ here
        sums = stack.sums(np.stack([agrees, early, agrees & early, depth]))
        all_sums.append(sums)
        counts += [sizes, sizes, sums[1], sizes]
        leaving.append(stack.sums(here))
        agreeing.append((here & agrees).sum(axis=1))
    if not thresholds:
        return ()
    limits = [one, one, one, span] * len(thresholds)
    means = iter(mean_estimates(np.concatenate(all_sums), np.stack(counts), limits, **how))
    random = _at_random(stack, np.stack(leaving), **how)
    found = []
    for i, threshold in enumerate(thresholds):
        agreement, early, of_early, mean = (next(means) for _ in range(4))
        n = leaving[i].sum(axis=1)
        found.append(
            ExitThreshold(
                threshold=threshold,
                agreement=agreement,
                early=early,
                agreement_early=of_early,
                mean_depth=mean,
                saved=_saved(mean, stack.blocks),
                agreement_if_random=random[i],
                shares=tuple((n / max(stack.n, 1)).tolist()),
                agreements=tuple(
                    float(right / some) if some else None
                    for right, some in zip(agreeing[i], n, strict=True)
                ),
            )
        )
    return tuple(found)


def _exits(stack: LensStack, threshold: float, *, resamples: int, seed: int) -> tuple[ExitAt, ...]:
    """Shares that leave at each depth, and how many of those agree, with intervals."""
    how = {"resamples": resamples, "seed": seed}
    here, agrees = _leaving(stack, threshold)
    limits = [(0.0, 1.0)] * len(here)
    leaving = stack.sums(here)
    shares = mean_estimates(leaving, stack.sizes(), limits, **how)
    agreements = mean_estimates(stack.sums(here & agrees), leaving, limits, **how)
    return tuple(map(ExitAt, stack.depths, shares, agreements))


def _leaving(
    stack: LensStack, threshold: float
) -> tuple[Bool[np.ndarray, "depths positions"], Bool[np.ndarray, " positions"]]:
    """Who leaves at each depth, and whose token there is the final one."""
    row = exit_rows(stack, threshold)
    here = row == np.arange(len(stack.depths))[:, None]
    return here, stack.agrees[row, np.arange(stack.n)]


def _saved(mean: Estimate, blocks: int) -> Estimate:
    """The share of the blocks that a mean depth leaves out."""
    if mean.value is None:
        return mean
    low, high = (None if end is None else 1 - end / blocks for end in (mean.high, mean.low))
    return Estimate(1 - mean.value / blocks, low, high, mean.n, documents=mean.documents)


def _at_random(
    stack: LensStack,
    leaving: Float[np.ndarray, "thresholds depths documents"],
    *,
    resamples: int,
    seed: int,
) -> list[Estimate]:
    """The agreement if as many left at each depth, whichever: rates of leaving times agreeing."""
    if not stack.n:
        return [Estimate(None, reason=NOBODY) for _ in leaving]
    k, depths, documents = leaving.shape
    sums = np.concatenate([leaving.reshape(-1, documents), stack.sums(stack.agrees)])

    def figures(totals: Float[np.ndarray, "rows sums"]) -> Float[np.ndarray, "rows thresholds"]:
        leave = totals[:, : k * depths].reshape(-1, k, depths)
        # The sums of who leaves at any depth count the positions.
        n = leave[:, :1].sum(axis=2, keepdims=True)
        agree = totals[:, None, k * depths :]
        together: Float[np.ndarray, "rows thresholds"] = (leave * agree / n**2).sum(axis=2)
        return together

    found = smooth_estimates(sums, stack.sizes(), figures, resamples=resamples, seed=seed)
    return [one or Estimate(None, reason=NOBODY) for one in found]
