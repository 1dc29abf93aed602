"""Whether margins, and changes seen in other documents, foretell which decisions flip."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unembed.decisions.audit.finite_rows import FiniteRows
from unembed.decisions.comparison.flip_chances import HeldLeads, LikeChanges, lead_parts
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import (
    RESAMPLES,
    add_by_document,
    interval,
    ratio_of_totals,
    totals_and_resamples,
)
from unembed.stats.estimate import Estimate

MOST_CANDIDATES = 5
"""Tokens kept of a position, top-1 among them: of the four gaps few flips need a fifth."""

CHANCE_EDGES = (0.0, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0)
"""Bins of the predicted chance of a flip, ``low <= chance < high``; the last holds 1 too.

Most chances are small: tenths of the positions would all but one lie near 0.
"""

FEWEST_FLIPS = 50
"""Predicted flips below which a bin is joined with the next: chance moves fewer by a factor."""

DOCUMENT_GROUPS = 5
"""Groups of documents, each of which is predicted from the others."""


@dataclass(frozen=True)
class ChanceBin(ShortRepr):
    """Positions with ``low <= chance < high``: the mean predicted chance, and the share flipped."""

    low: float
    high: float
    n: int
    predicted: Estimate
    observed: Estimate


@dataclass(frozen=True)
class FlipPrediction(ShortRepr):
    """Predicted and observed share of positions with another top-1, see ``read_prediction``.

    ``scale`` is the common factor of the margins, ``noise`` how far they moved besides, root mean
    square in logits. ``candidates`` is how many tokens that could overtake are told apart. ``bins``
    is empty where ``bins_reason`` says why.
    """

    scale: Estimate
    noise: Estimate
    candidates: int
    predicted: Estimate
    observed: Estimate
    difference: Estimate
    bins: tuple[ChanceBin, ...]
    bins_reason: str | None

    @property
    def disagrees(self) -> bool:
        """Whether what flipped lies outside what was predicted, and beyond chance."""
        expected, seen, apart = self.predicted, self.observed.value, self.difference
        if None in (expected.low, expected.high, seen, apart.low, apart.high):
            return False
        outside = not expected.low <= seen <= expected.high  # type: ignore[operator]
        return outside and not apart.low <= 0 <= apart.high  # type: ignore[operator]


def read_prediction(
    rows: FiniteRows, k: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> FlipPrediction:
    """Predict from the margins before, and from other documents, how many top-1 flip, and count.

    With ``gap_j = l(a) - l(b_j)`` before, a the token that led and b_j the next ones, and
    ``gap'_j`` the difference of the *same* tokens after, a change is ``e = gap' - scale gap``, the
    vector over j. Every fifth document is predicted from the others, five times. A position i flips
    with the chance::

        mean_d any_j(scale * gap[i, j] + e[d, j] < 0)

    over positions d of the other documents in i's cell: of like margin and, within that, of like
    entropy. ``scale = sum(gap gap') / sum(gap ** 2)``, of the runner-up in the other documents, is
    what a temperature does, which flips nothing. No token is chosen by what happened to it.

    ``k`` of 2 or more tells k - 1 candidates apart, ``MOST_CANDIDATES`` - 1 at most, by the columns
    ``topk_ids`` and ``topk_logits`` of both audits; else the runner-up is, by top-1, top-2 and
    margin. One gap more stands for all other tokens: the best of them after against the last
    candidate before. A candidate that the list after lacks lies below its last logit, and counts as
    if it lay there; that moves no flip of its own position, for no such token leads.

    The interval of ``predicted`` resamples documents, each with its own positions' chances and with
    what its changes did to the chances of others, to first order; ``difference`` is observed -
    predicted in the same resamples. Cells and ``scale`` are held.
    Raises ``ValueError`` where logits ascend. Source: theory §4.
    """
    stored, k = k >= 2, min(max(k, 2), MOST_CANDIDATES)
    how = {"resamples": resamples, "seed": seed}
    documents, edges = rows.documents, len(CHANCE_EDGES) - 1
    squares, flips = np.zeros((4, documents)), np.zeros((2, documents))
    groups = min(DOCUMENT_GROUPS, documents)
    others = [HeldLeads() for _ in range(groups)]
    for part in lead_parts(rows, k, stored):
        lead, moved, ones = part.gaps[:, 0], part.moved[:, 0], np.ones(len(part.inverse))
        for total, values in zip(squares, (lead**2, lead * moved, moved**2, ones), strict=True):
            add_by_document(total, values, part.inverse)
        for total, values in zip(flips, (part.flipped, ones), strict=True):
            add_by_document(total, values, part.inverse)
        for i, held in enumerate(others):
            held.add(part, np.flatnonzero(part.inverse % groups != i))
    scale, noise = _disturbance(totals_and_resamples(squares, **how), documents)
    if documents < 2:
        totals = totals_and_resamples(flips, **how)
        observed = ratio_of_totals(totals[:, 0], totals[:, 1], documents)
        reason = observed.reason or "it takes two documents, one to learn from and one to predict"
        nothing = Estimate(None, n=observed.n, reason=reason)
        return FlipPrediction(scale, noise, k - 1, nothing, observed, nothing, (), reason)
    group = np.arange(documents) % groups
    fitted = []
    for i, held in enumerate(others):
        square, product = squares[:2, group != i].sum(axis=1).tolist()
        fitted.append(LikeChanges.of(held.whole(), product / square if square else 1.0))
    binned = np.zeros((3, documents * edges))
    for part in lead_parts(rows, k, stored):
        chance = np.empty(len(part.inverse))
        for i, model in enumerate(fitted):
            own = part.inverse % groups == i
            chance[own] = model.chances(part.rows(own))
        within = np.clip(np.searchsorted(CHANCE_EDGES, chance, side="right") - 1, 0, edges - 1)
        for total, values in zip(binned, (np.ones(len(chance)), chance, part.flipped), strict=True):
            add_by_document(total, values, part.inverse * edges + within)
    by_bin = binned.reshape(3, documents, edges).transpose(0, 2, 1)
    chances = by_bin[1].sum(axis=0) + sum(model.influence(documents) for model in fitted)
    expected, flipped, size = totals_and_resamples(np.stack([chances, *flips]), **how).T
    some = bool(by_bin[1].any())
    return FlipPrediction(
        scale=scale,
        noise=noise,
        candidates=k - 1,
        predicted=ratio_of_totals(expected, size, documents),
        observed=ratio_of_totals(flipped, size, documents),
        difference=ratio_of_totals(flipped - expected, size, documents),
        bins=_bins(by_bin, **how) if some else (),
        bins_reason=None if some else "every chance of a flip is 0",
    )


def _disturbance(totals: Float[np.ndarray, "rows 4"], documents: int) -> tuple[Estimate, Estimate]:
    """The common factor of the margins, and the root mean square of what moved them besides."""
    square, product, moved, n = totals.T
    size = int(n[0])
    if square[0] == 0:
        reason = "all margins are 0" if size else "no position to average over"
        nothing = Estimate(None, n=size, reason=reason)
        return nothing, nothing
    factor = product / np.where(square > 0, square, np.nan)
    rest = np.sqrt(np.maximum(moved - factor * product, 0) / n)

    def estimate(draws: Float[np.ndarray, " rows"]) -> Estimate:
        bounds = interval(draws[1:], documents)
        return Estimate(float(draws[0]), *bounds, n=size, documents=documents)

    return estimate(factor), estimate(rest)


def _bins(
    by_bin: Float[np.ndarray, "3 bins documents"], *, resamples: int, seed: int
) -> tuple[ChanceBin, ...]:
    """The bins, from the lowest on joined with the next until FEWEST_FLIPS are predicted."""
    starts, predicted = [0], 0.0
    for b, flips in enumerate(by_bin[1].sum(axis=1).tolist()):
        if predicted >= FEWEST_FLIPS:
            starts.append(b)
            predicted = 0.0
        predicted += flips
    if predicted < FEWEST_FLIPS and len(starts) > 1:
        starts.pop()
    joined = np.add.reduceat(by_bin, starts, axis=1)
    documents = joined.shape[2]
    totals = totals_and_resamples(joined.reshape(-1, documents), resamples=resamples, seed=seed)
    counts, chances, hits = np.split(totals, 3, axis=1)
    ends = [CHANCE_EDGES[b] for b in starts] + [CHANCE_EDGES[-1]]
    return tuple(
        ChanceBin(
            low=low,
            high=high,
            n=int(counts[0, b]),
            predicted=ratio_of_totals(chances[:, b], counts[:, b], documents),
            observed=ratio_of_totals(hits[:, b], counts[:, b], documents),
        )
        for b, (low, high) in enumerate(itertools.pairwise(ends))
    )
