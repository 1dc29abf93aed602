"""What happened to the margins between two audits, in logits and free of their scale."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from unembed.decisions.audit.summary import MARGIN_BANDS, QUANTILES
from unembed.runs.record import check_columns
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import RESAMPLES, cluster, interval, ratio_estimates, sums_by_document
from unembed.stats.estimate import Estimate
from unembed.stats.histogram import Histogram, histogram, round_edges
from unembed.stats.resampled import Sample, quantile_draws

NEGLIGIBLE = 0.1
"""Share of the change of the median margin below which what remains is called sharpening alone."""


@dataclass(frozen=True)
class MarginColumns:
    """The columns of one audit that a comparison of margins reads, one row a position.

    ``top1`` and ``top2`` token ids, ``right`` whether top-1 is the target, ``margin`` in logits,
    ``relative_distance`` without unit. Raises ``ValueError`` where lengths differ or a number is
    not finite.
    """

    top1: Int[np.ndarray, " positions"]
    top2: Int[np.ndarray, " positions"]
    right: Bool[np.ndarray, " positions"]
    margin: Float[np.ndarray, " positions"]
    relative_distance: Float[np.ndarray, " positions"]

    def __post_init__(self) -> None:
        check_columns(self, finite=True)


@dataclass(frozen=True)
class MarginChange(ShortRepr):
    """Change of one measure over a group: share of positions with more after, and mean change."""

    wider: Estimate
    mean: Estimate


@dataclass(frozen=True)
class Spread(ShortRepr):
    """``MarginChange`` with the distribution of the change.

    ``quantiles`` has the keys 5, 25, 50, 75 and 95 (percent), ``median`` is the one at 50;
    ``histogram`` splits the positions by whether top-1 was the target before.
    """

    wider: Estimate
    mean: Estimate
    median: Estimate
    quantiles: dict[str, Estimate]
    histogram: Histogram


@dataclass(frozen=True)
class Rotation(ShortRepr):
    """Positions that kept their top-1 and have another runner-up: ``share`` of all positions."""

    n: int
    share: Estimate
    margin: MarginChange
    relative_distance: MarginChange


@dataclass(frozen=True)
class Expansion(ShortRepr):
    """Change of the margin, in logits, and of the relative distance, in a group of n positions."""

    n: int
    margin: Spread
    relative_distance: Spread


@dataclass(frozen=True)
class BandMovement(ShortRepr):
    """Accuracy by margin band, ``low <= margin < high`` (``high`` None for the last, open band).

    ``accuracy_before`` of the positions whose margin lay in the band before, ``paired_after`` of
    the same positions after, ``paired_difference`` after - before; ``accuracy_after`` of the
    positions whose margin lies in the band after.
    """

    low: float
    high: float | None
    n_before: int
    accuracy_before: Estimate
    paired_after: Estimate
    paired_difference: Estimate
    n_after: int
    accuracy_after: Estimate


@dataclass(frozen=True)
class Sharpening(ShortRepr):
    """How much of the change of the median margin a temperature explains, see ``compare_margins``.

    ``raw_change`` and ``scale_free_change`` are relative changes of the median (.3 is +30 %) of the
    margin and of the relative distance, ``share_left`` the share of the first, in logs, that the
    second makes up. ``verdict``: "sharpening" or "softening" where the interval of ``share_left``
    lies within .1 of 0; "both" where it lies above .1, "geometry" above .9, "opposed" below -.1;
    "undecided" where it crosses .1 or -.1; "none" where the median margin did not move.
    """

    n: int
    temperature: Estimate
    raw_change: Estimate
    scale_free_change: Estimate
    share_left: Estimate
    verdict: str


SHARPENING_VERDICTS = {
    "sharpening": "The head got sharper and no more: a temperature would do the same",
    "softening": "The head got softer and no more: a temperature would do the same",
    "both": "A temperature explains only part of what happened to the margins",
    "geometry": "What happened to the margins is geometry: no temperature explains it",
    "opposed": "The margins and the scale-free margins moved in opposite directions",
    "undecided": "Whether a temperature explains what happened to the margins is undecided",
    "none": "No change of the median margin can be told from 0",
}
"""``Sharpening.verdict`` in words; theory §1 says why a temperature is free."""


@dataclass(frozen=True)
class Movement(ShortRepr):
    """What happened to the margins; ``unchanged`` holds the positions that kept their top-1."""

    rotation: Rotation
    everywhere: Expansion
    unchanged: Expansion
    bands: tuple[BandMovement, ...]
    sharpening: Sharpening


def compare_margins(
    before: MarginColumns,
    after: MarginColumns,
    doc: Int[np.ndarray, " positions"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Movement:
    """Compare the margins of two audits of the same positions, row for row (theory §1, §4).

    Every difference is after - before at one position, given for the margin and for the relative
    distance, which a temperature leaves alone. Intervals resample documents.

    The check for sharpening takes the positions that kept top-1 and top-2, where both measures
    compare the same two rows of the head. ``temperature = median(before) / median(after)`` of their
    margins is the t that, dividing the logits of before, gives them the median of after, as the
    temperature control of theory §5 does; it is below 1 where the head got sharper. A fit in logs
    would be led by the margins near 0, whose ratios are mostly noise. A margin cannot tell a
    temperature from rows that moved apart, the relative distance can:
    ``share_left = log(1 + scale_free_change) / log(1 + raw_change)``. It has no value where the
    interval of ``raw_change`` holds 0. Raises ``ValueError`` where lengths differ.
    """
    for columns in (before, after):
        if columns.top1.shape != doc.shape:
            raise ValueError(f"doc has {doc.size} rows, an audit {columns.top1.size}")
    inverse, documents = cluster(doc)
    same = before.top1 == after.top1
    kept = same & (before.top2 == after.top2)
    both = [
        tuple(values.astype(np.float64) for values in pair)
        for pair in (
            (before.margin, after.margin),
            (before.relative_distance, after.relative_distance),
        )
    ]
    deltas = [two - one for one, two in both]
    groups = [np.ones(doc.size, dtype=np.bool_), same]
    shares = tuple(q / 100 for q in QUANTILES)
    samples = [Sample(d[g], inverse[g], shares) for g in groups for d in deltas]
    samples += [Sample(v[kept], inverse[kept], (0.5,)) for pair in both for v in pair]
    quantiles = [np.quantile(s.values, s.levels) if s.values.size else None for s in samples]
    draws = [np.full((0, len(s.levels)), np.nan) for s in samples]
    if documents >= 2:
        draws = quantile_draws(samples, documents, resamples=resamples, seed=seed)
    share, changes, bands = _means(
        before, after, deltas, [same & ~kept, *groups], inverse, documents, resamples, seed
    )

    def spread(group: int, measure: int) -> Spread:
        index = 2 * group + measure
        values, found = samples[index].values, quantiles[index]
        empty = Estimate(None, reason="no position to take a quantile of")
        at = {
            str(q): empty
            if found is None
            else Estimate(
                float(found[i]),
                *interval(draws[index][:, i], documents),
                n=values.size,
                documents=documents,
            )
            for i, q in enumerate(QUANTILES)
        }
        change = changes[group + 1][measure]
        right = before.right[groups[group]]
        drawn = histogram(values, right, _symmetric_edges(values))
        return Spread(change.wider, change.mean, at["50"], at, drawn)

    everywhere, unchanged = (
        Expansion(int(groups[g].sum()), spread(g, 0), spread(g, 1)) for g in (0, 1)
    )
    medians = [
        np.concatenate([[math.nan if found is None else float(found[0])], drawn[:, 0]])
        for found, drawn in zip(quantiles[4:], draws[4:], strict=True)
    ]
    return Movement(
        rotation=Rotation(int((same & ~kept).sum()), share, *changes[0]),
        everywhere=everywhere,
        unchanged=unchanged,
        bands=bands,
        sharpening=_sharpening(medians, int(kept.sum()), documents),
    )


def _means(
    before: MarginColumns,
    after: MarginColumns,
    deltas: list[Float[np.ndarray, " positions"]],
    groups: list[Bool[np.ndarray, " positions"]],
    inverse: Int[np.ndarray, " positions"],
    documents: int,
    resamples: int,
    seed: int,
) -> tuple[Estimate, list[tuple[MarginChange, MarginChange]], tuple[BandMovement, ...]]:
    """Share of the first group; the changes of each group; the bands."""

    def total(values: np.ndarray) -> Float[np.ndarray, " documents"]:
        return sums_by_document(values.astype(np.float64), inverse, documents)

    sizes = [total(group) for group in groups]
    pairs = [(sizes[0], total(np.ones(inverse.size)))]
    for group, size in zip(groups, sizes, strict=True):
        for delta in deltas:
            pairs += [(total(group & (delta > 0)), size), (total(group * delta), size)]
    gained = after.right.astype(np.float64) - before.right
    for low, high in itertools.pairwise(MARGIN_BANDS):
        then, now = (
            (columns.margin >= low) & (columns.margin < high) for columns in (before, after)
        )
        size = total(then)
        for values in (before.right, after.right, gained):
            pairs.append((total(then * values), size))
        pairs.append((total(now & after.right), total(now)))
    numerators, denominators = (np.stack(side) for side in zip(*pairs, strict=True))
    share, *rest = ratio_estimates(numerators, denominators, resamples=resamples, seed=seed)
    changes = []
    for _ in groups:
        changes.append((MarginChange(*rest[0:2]), MarginChange(*rest[2:4])))
        rest = rest[4:]
    bands = []
    for low, high in itertools.pairwise(MARGIN_BANDS):
        was, same, gain, now_accuracy = rest[:4]
        rest = rest[4:]
        top = high if math.isfinite(high) else None
        bands.append(BandMovement(low, top, was.n, was, same, gain, now_accuracy.n, now_accuracy))
    return share, changes, tuple(bands)


def _sharpening(medians: list[Float[np.ndarray, " rows"]], n: int, documents: int) -> Sharpening:
    """The check, from medians of the data (first entry) and of the resamples."""
    if n == 0 or min(float(median[0]) for median in medians) <= 0:
        reason = (
            "half of the margins are 0"
            if n
            else "no position kept both its top-1 and its runner-up"
        )
        nothing = Estimate(None, n=n, reason=reason)
        return Sharpening(n, nothing, nothing, nothing, nothing, "none")
    margin, margin_after, distance, distance_after = (
        np.where(median > 0, median, np.nan) for median in medians
    )

    def estimate(draws: Float[np.ndarray, " rows"]) -> Estimate:
        return Estimate(float(draws[0]), *interval(draws[1:], documents), n=n, documents=documents)

    raw = estimate(margin_after / margin - 1)
    left = Estimate(None, n=n, reason="the median margin did not change")
    low, high = _ends(raw)
    # Of tied margins the interval may leave the value out.
    if raw.value != 0 and (low > 0 or high < 0):
        logs = np.log(margin_after / margin)
        left = estimate(np.log(distance_after / distance) / np.where(logs != 0, logs, np.nan))
    elif raw.value != 0:
        left = dataclasses.replace(left, reason="the median margin's change is not told from 0")
    return Sharpening(
        n=n,
        temperature=estimate(margin / margin_after),
        raw_change=raw,
        scale_free_change=estimate(distance_after / distance - 1),
        share_left=left,
        verdict="none" if left.value is None else verdict_of(_ends(left), low > 0),
    )


def verdict_of(share: tuple[float, float], sharper: bool) -> str:
    """What an interval of ``Sharpening.share_left`` says; ``sharper``: the raw margin grew."""
    low, high = share
    if high < -NEGLIGIBLE:
        return "opposed"
    if low >= -NEGLIGIBLE and high <= NEGLIGIBLE:
        return "sharpening" if sharper else "softening"
    if low > NEGLIGIBLE:
        return "geometry" if low > 1 - NEGLIGIBLE else "both"
    return "undecided"


def _ends(estimate: Estimate) -> tuple[float, float]:
    """The interval, or the value twice where there is none."""
    value = estimate.value or 0.0
    low = value if estimate.low is None else estimate.low
    return low, value if estimate.high is None else estimate.high


def _symmetric_edges(values: Float[np.ndarray, " n"]) -> tuple[float, ...]:
    """Round edges on both sides of 0 that hold 99.5 % of the values."""
    limit = float(np.quantile(np.abs(values), 0.995)) if values.size else 0.0
    above = round_edges(limit, bins=25)
    return tuple(-edge for edge in above[:0:-1]) + above
