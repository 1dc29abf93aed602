"""The figures of each depth under one lens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unembed.decisions.audit.gap import GapFit, GapUndefined, fit_gap
from unembed.decisions.audit.summary import QUANTILES
from unembed.decisions.layers.stack import LAYERS_RESAMPLES, LensStack
from unembed.short_repr import ShortRepr
from unembed.stats.estimate import Estimate
from unembed.stats.rank_correlations import RankCorrelations
from unembed.stats.resampled import Rows, read_quantiles
from unembed.stats.studentised import mean_estimates

PENALTIES = ("cosine", "fisher", "margin")
"""What is set beside the cross-entropy, each large where candidates are close: ``margin`` stands
for the margin with its sign turned.
"""

GAP_RESAMPLES = 500
"""Most resamples of a depth's gap fit, each of which is fitted anew: the ends of its intervals are
known to 0.12 standard errors.
"""

INFINITE = float("inf")
MEANS = {
    "accuracy": (0.0, 1.0),
    "agreement": (0.0, 1.0),
    "nll_nats": (0.0, INFINITE),
    "entropy_nats": (0.0, INFINITE),
    "kl_nats": (0.0, INFINITE),
    "acceptance": (0.0, 1.0),
}
"""The means of a depth, and the least and the largest that each can be."""


@dataclass(frozen=True)
class PenaltyCorrelation(ShortRepr):
    """Spearman's rho of a penalty at one depth with two cross-entropies, over positions.

    ``with_final`` with the model's own, ``with_own`` with that of the same depth's logits.
    """

    penalty: str
    with_final: Estimate
    with_own: Estimate


@dataclass(frozen=True)
class DepthRow(ShortRepr):
    """One depth under one lens; every interval clusters by document.

    ``accuracy`` is the share of positions whose top-1 is the target, ``agreement`` whose top-1 is
    the model's own; ``kl_nats`` the mean divergence of the final distribution from this one,
    ``acceptance`` the mean of the smaller probability summed over tokens, and
    ``median_final_rank`` the rank, from 1, of the final top-1.
    """

    depth: int
    n: int
    documents: int
    margin_quantiles: dict[str, Estimate]
    median_relative_distance: Estimate
    accuracy: Estimate
    agreement: Estimate
    nll_nats: Estimate
    entropy_nats: Estimate
    kl_nats: Estimate
    acceptance: Estimate
    median_final_rank: Estimate
    gap: GapFit | None
    gap_reason: str | None
    correlations: tuple[PenaltyCorrelation, ...]


def depth_rows(
    stack: LensStack, *, resamples: int = LAYERS_RESAMPLES, seed: int = 0
) -> tuple[DepthRow, ...]:
    """The figures of every depth (theory §3): a value that does not exist is None with a reason.

    Means have the studentised intervals of ``stats/studentised.py``, quantiles and correlations
    those of resampled documents, the same resamples for all.
    """
    how = {"resamples": resamples, "seed": seed}
    few = min(resamples, GAP_RESAMPLES)
    inverse, documents = stack.clusters
    k = len(stack.depths)
    values = [
        stack.top1 == stack.target,
        stack.agrees,
        stack.nll,
        stack.entropy,
        stack.kl_final,
        stack.acceptance,
    ]
    limits = [limit for limit in MEANS.values() for _ in stack.depths]
    means = mean_estimates(stack.sums(np.concatenate(values)), stack.sizes(), limits, **how)
    samples: list[Rows] = [
        (row, inverse)
        for column in (stack.margin, stack.relative_distance, stack.final_rank.astype(np.float64))
        for row in column
    ]
    levels = [tuple(q / 100 for q in QUANTILES)] * k + [(0.5,)] * (2 * k)
    quantiles = [
        one.estimates() for one in read_quantiles(lambda: [samples], levels, documents, **how)
    ]
    rho = iter(penalty_correlations(stack).estimates(**how))
    correlations = [
        tuple(PenaltyCorrelation(name, next(rho), next(rho)) for name in PENALTIES)
        for _ in stack.depths
    ]
    rows = []
    for i, depth in enumerate(stack.depths):
        gap, reason = None, None
        try:
            gap = fit_gap(stack.margin[i], stack.doc, resamples=few, seed=seed)
        except GapUndefined as undefined:
            reason = str(undefined)
        rows.append(
            DepthRow(
                depth=depth,
                n=stack.n,
                documents=documents,
                margin_quantiles=dict(zip(map(str, QUANTILES), quantiles[i], strict=True)),
                median_relative_distance=quantiles[k + i][0],
                median_final_rank=quantiles[2 * k + i][0],
                **{name: means[j * k + i] for j, name in enumerate(MEANS)},
                gap=gap,
                gap_reason=reason,
                correlations=correlations[i],
            )
        )
    return tuple(rows)


def penalty_correlations(stack: LensStack) -> RankCorrelations:
    """Rho of each depth and, inside a depth, of each penalty with the final and its own loss."""
    pairs = (
        (penalty, loss)
        for i in range(len(stack.depths))
        for penalty in (stack.cosine_penalty[i], stack.fisher_penalty[i], -stack.margin[i])
        for loss in (stack.final_nll, stack.nll[i])
    )
    return RankCorrelations.of(pairs, *stack.clusters)
