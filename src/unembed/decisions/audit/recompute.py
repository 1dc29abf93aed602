"""Which margins a server would have to recompute to catch the flips that batches make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import (
    RESAMPLES,
    add_by_document,
    interval,
    ratio_estimates,
    resample_weights,
)
from unembed.stats.estimate import Estimate

CAUGHT = (0.95, 0.99, 1.0)
"""Shares of the flips that are to be caught."""
MOST_THRESHOLDS = 64
"""Margins of flips between which a resample's threshold is chosen."""
LARGEST_SEEN = "the widest flip seen: another text may show a wider one"

MarginReader = Callable[[str], Iterable[tuple[np.ndarray, np.ndarray]]]
"""Reads the margins of a gate with each one's document, a part at a time."""


@dataclass(frozen=True)
class RecomputeBelow(ShortRepr):
    """Recompute every decision with a margin up to ``margin``, and ``caught`` of the flips are.

    ``gate`` is whose margin: "float32", or the dtype of the model's own logits. ``positions`` is
    the share that has such a margin; ``elsewhere`` the share of flips that are caught where the
    margin is chosen on one half of the documents and used on the other, both ways.
    """

    gate: str
    caught: float
    margin: Estimate
    positions: Estimate
    elsewhere: Estimate


@dataclass(frozen=True)
class Flips:
    """Positions that flipped: in how many plans, in which document, by what margins."""

    times: Int[np.ndarray, " n"]
    doc: Int[np.ndarray, " n"]
    margin: Float[np.ndarray, " n"]
    native_margin: Float[np.ndarray, " n"]

    @staticmethod
    def of(times: np.ndarray, doc: np.ndarray, margin: np.ndarray, native: np.ndarray) -> Flips:
        """Those among these positions."""
        some = times > 0
        return Flips(times[some], doc[some], margin[some], native[some])

    @staticmethod
    def joined(parts: Sequence[Flips]) -> Flips:
        """The flips of all parts."""
        columns = zip(*(vars(one).values() for one in parts), strict=True)
        return Flips(*(np.concatenate(column) for column in columns))


def recompute_below(
    flips: Flips,
    margins: MarginReader,
    gates: Sequence[str],
    documents: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[RecomputeBelow, ...]:
    """The least margin that catches 95, 99 and 100 % of the flips, and what share lies below.

    Equivalent to::

        margin = min(m for m in flip_margins if mean(flip_margins <= m) >= caught)
        positions = mean(margins <= margin)

    a flip counted once for each plan. The interval chooses the margin again in each resample of the
    documents, among up to 64 of the flips'. That of the largest flip has none. Empty without flips.
    """
    found: list[RecomputeBelow] = []
    if not len(flips.times):
        return ()
    for gate in gates:
        values = flips.margin if gate == "float32" else flips.native_margin
        order = np.argsort(values, kind="stable")
        values, doc, times = values[order], flips.doc[order], flips.times[order].astype(np.float64)
        ladder = _ladder(values, times)
        below, n = _below(margins(gate), ladder, documents)
        draws = _draws(ladder, values, doc, times, below, n, resamples, seed)
        for i, caught in enumerate(CAUGHT):
            chosen, share = draws[0, i]
            ends: list[tuple[float | None, float | None]] = [(None, None)] * 2
            if caught < 1:
                ends = [interval(draws[1:, i, j], documents) for j in (0, 1)]
            rests = {"n": int(times.sum()), "documents": documents}
            reason = LARGEST_SEEN if caught == 1 else None
            margin = Estimate(float(chosen), *ends[0], reason=reason, **rests)
            positions = Estimate(
                float(share), *ends[1], n=int(n.sum()), reason=reason, documents=documents
            )
            elsewhere = _elsewhere(values, doc, times, caught, documents, resamples, seed)
            found.append(RecomputeBelow(gate, caught, margin, positions, elsewhere))
    return tuple(found)


def _threshold(
    values: Float[np.ndarray, " n"], times: Float[np.ndarray, "... n"], caught: float
) -> Int[np.ndarray, " ..."]:
    """Where the first of the ascending values stands up to which so many times are counted."""
    reached = np.cumsum(times, axis=-1)
    enough = reached >= caught * reached[..., -1:] * (1 - 1e-12)
    first: Int[np.ndarray, " ..."] = np.asarray(enough.argmax(axis=-1))
    return first


def _ladder(
    values: Float[np.ndarray, " n"], times: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " _"]:
    """Margins of flips, ascending, among them those that catch each share."""
    own = [values[_threshold(values, times, caught)] for caught in CAUGHT]
    upper = np.unique(values[int(_threshold(values, times, 0.8)) :])
    spread = upper[np.linspace(0, len(upper) - 1, min(MOST_THRESHOLDS, len(upper))).astype(int)]
    return np.unique(np.concatenate([spread, own]))


def _below(
    parts: Iterable[tuple[np.ndarray, np.ndarray]], ladder: Float[np.ndarray, " _"], documents: int
) -> tuple[Float[np.ndarray, "documents _"], Float[np.ndarray, " documents"]]:
    """How many positions of each document have a margin up to each of the ladder's, and in all."""
    width = len(ladder) + 1
    counts = np.zeros(documents * width)
    for values, doc in parts:
        cells = doc * width + np.searchsorted(ladder, values, side="left")
        counts += np.bincount(cells, minlength=len(counts))
    table = counts.reshape(documents, width)
    return np.cumsum(table[:, :-1], axis=1), table.sum(axis=1)


def _draws(
    ladder: Float[np.ndarray, " _"],
    values: Float[np.ndarray, " n"],
    doc: Int[np.ndarray, " n"],
    times: Float[np.ndarray, " n"],
    below: Float[np.ndarray, "documents _"],
    n: Float[np.ndarray, " documents"],
    resamples: int,
    seed: int,
) -> Float[np.ndarray, "rows caught two"]:
    """Margin and share of positions, of all documents and of each resample of them."""
    documents = len(n)
    weights = [np.ones((1, documents))]
    if documents >= 2:
        weights.extend(resample_weights(documents, resamples=resamples, seed=seed))
    found = []
    for some in weights:
        drawn = some[:, doc] * times
        any_flip = drawn.sum(axis=1) > 0
        counts, total = np.einsum("rd,dk->rk", some, below), np.einsum("rd,d->r", some, n)
        each = []
        for caught in CAUGHT:
            chosen = values[_threshold(values, drawn, caught)]
            at = np.minimum(np.searchsorted(ladder, chosen), len(ladder) - 1)
            share = np.take_along_axis(counts, at[:, None], axis=1)[:, 0] / total
            pair = np.stack([ladder[at], share], axis=1)
            each.append(np.where(any_flip[:, None], pair, np.nan))
        found.append(np.stack(each, axis=1))
    return np.concatenate(found)


def _elsewhere(
    values: Float[np.ndarray, " n"],
    doc: Int[np.ndarray, " n"],
    times: Float[np.ndarray, " n"],
    caught: float,
    documents: int,
    resamples: int,
    seed: int,
) -> Estimate:
    """The share of one half's flips below the margin that the other half chooses, both ways."""
    sums = np.zeros((2, documents))
    for fold in (0, 1):
        own, other = doc % 2 == fold, doc % 2 != fold
        if own.any() and other.any():
            limit = values[other][_threshold(values[other], times[other], caught)]
            add_by_document(sums[0], times[own] * (values[own] <= limit), doc[own])
            add_by_document(sums[1], times[own], doc[own])
    if not sums[1].any():
        return Estimate(None, reason="all flips lie in one half of the documents")
    return ratio_estimates(sums[:1], sums[1:], resamples=resamples, seed=seed)[0]
