"""What happened to the margins between two audits, in logits and free of their scale."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from unembed.decisions.audit.finite_rows import FiniteRows
from unembed.decisions.audit.summary import MARGIN_BANDS, QUANTILES
from unembed.runs.record import check_columns
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import RESAMPLES, add_by_document, interval, ratio_estimates
from unembed.stats.estimate import Estimate
from unembed.stats.histogram import Histogram, added, histogram, round_edges
from unembed.stats.resampled import Rows, read_quantiles

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

    def named(self, side: str) -> dict[str, Shaped[np.ndarray, " positions"]]:
        """The columns by the names that they have in a comparison's table."""
        return {f"{side}_{name}": column for name, column in vars(self).items()}


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
    """Compare the margins of columns in memory, see ``read_movement``.

    Raises ``ValueError`` where lengths differ.
    """
    return read_movement(held_margins(before, after, doc), resamples=resamples, seed=seed)


def held_margins(
    before: MarginColumns,
    after: MarginColumns,
    doc: Int[np.ndarray, " positions"],
    **more: Shaped[np.ndarray, "..."],
) -> FiniteRows:
    """Columns in memory, and others, as ``read_movement`` reads them."""
    for columns in (before, after):
        if columns.top1.shape != doc.shape:
            raise ValueError(f"doc has {doc.size} rows, an audit {columns.top1.size}")
    return FiniteRows.held(doc, **before.named("before"), **after.named("after"), **more)


def read_movement(rows: FiniteRows, *, resamples: int = RESAMPLES, seed: int = 0) -> Movement:
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
    interval of ``raw_change`` holds 0. Columns are named as ``MarginColumns.named`` does.
    """
    how = {"resamples": resamples, "seed": seed}
    shares = tuple(q / 100 for q in QUANTILES)

    def samples() -> Iterator[list[Rows]]:
        for pair in margin_pairs(rows):
            inverse = pair.inverse[pair.kept]
            sides = [values[pair.kept] for both in pair.measures for values in both]
            yield [*pair.changes, *((values, inverse) for values in sides)]

    levels = [shares] * 4 + [(0.5,)] * 4
    found = read_quantiles(samples, levels, rows.documents, **how)
    histograms = _histograms(rows)
    share, changes, bands = _means(rows, **how)

    def spread(group: int, measure: int) -> Spread:
        index = 2 * group + measure
        estimates = found[index].estimates()
        at = {str(q): one for q, one in zip(QUANTILES, estimates, strict=True)}
        change = changes[group + 1][measure]
        return Spread(change.wider, change.mean, at["50"], at, histograms[index])

    everywhere, unchanged = (Expansion(found[2 * g].n, spread(g, 0), spread(g, 1)) for g in (0, 1))
    kept = found[4].n
    return Movement(
        rotation=Rotation(unchanged.n - kept, share, *changes[0]),
        everywhere=everywhere,
        unchanged=unchanged,
        bands=bands,
        sharpening=_sharpening([one.rows[:, 0] for one in found[4:]], kept, rows.documents),
    )


@dataclass(frozen=True)
class MarginPair:
    """Both audits' columns at the positions of one part, and the number of each one's document."""

    before: MarginColumns
    after: MarginColumns
    inverse: Int[np.ndarray, " positions"]

    @property
    def same(self) -> Bool[np.ndarray, " positions"]:
        """Where both have one top-1."""
        same: Bool[np.ndarray, " positions"] = self.before.top1 == self.after.top1
        return same

    @property
    def kept(self) -> Bool[np.ndarray, " positions"]:
        """Where they have one runner-up too."""
        kept: Bool[np.ndarray, " positions"] = self.same & (self.before.top2 == self.after.top2)
        return kept

    @property
    def measures(self) -> list[tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]]:
        """Before and after: the margins, then the relative distances."""
        names = ("margin", "relative_distance")
        sides = (self.before, self.after)
        return [tuple(getattr(side, name).astype(np.float64) for side in sides) for name in names]

    @property
    def deltas(self) -> list[Float[np.ndarray, " _"]]:
        """After - before: of the margins, then of the relative distances."""
        return [after - before for before, after in self.measures]

    @property
    def changes(self) -> list[Rows]:
        """The deltas everywhere, then those where both have one top-1."""
        deltas, same = self.deltas, self.same
        return [
            *((delta, self.inverse) for delta in deltas),
            *((delta[same], self.inverse[same]) for delta in deltas),
        ]


def margin_pairs(rows: FiniteRows) -> Iterator[MarginPair]:
    """The positions, a part at a time."""
    names = [field.name for field in dataclasses.fields(MarginColumns)]
    wanted = [f"{side}_{name}" for side in ("before", "after") for name in names]
    for inverse, *columns in rows.parts(*wanted):
        before, after = (
            MarginColumns(*side) for side in (columns[: len(names)], columns[len(names) :])
        )
        yield MarginPair(before, after, inverse)


def _histograms(rows: FiniteRows) -> list[Histogram]:
    """Histograms of ``MarginPair.changes``."""

    def sizes() -> Iterator[list[Rows]]:
        for pair in margin_pairs(rows):
            yield [(np.abs(delta), np.zeros_like(inverse)) for delta, inverse in pair.changes]

    limits = [one.rows[0, 0] for one in read_quantiles(sizes, [(0.995,)] * 4, 1)]
    edges = [_symmetric_edges(0.0 if math.isnan(limit) else float(limit)) for limit in limits]
    counted = []
    for pair in margin_pairs(rows):
        right = pair.before.right
        groups = [right, right, right[pair.same], right[pair.same]]
        counted.append(
            [
                histogram(values, hit, at)
                for (values, _), hit, at in zip(pair.changes, groups, edges, strict=True)
            ]
        )
    return [added(parts) for parts in zip(*counted, strict=True)]


def _means(
    rows: FiniteRows, *, resamples: int, seed: int
) -> tuple[Estimate, list[tuple[MarginChange, MarginChange]], tuple[BandMovement, ...]]:
    """Share of another runner-up; its changes, those of all and of one top-1; the bands."""
    limits = list(itertools.pairwise(MARGIN_BANDS))
    sums = np.zeros((1 + 3 * 5 + 6 * len(limits), rows.documents))
    everything, groups, bands = sums[0], sums[1:16].reshape(3, 5, -1), sums[16:]
    for pair in margin_pairs(rows):
        before, after, inverse = pair.before, pair.after, pair.inverse
        ones = np.ones(inverse.size)
        add_by_document(everything, ones, inverse)
        deltas, same = pair.deltas, pair.same
        for totals, group in zip(groups, (same & ~pair.kept, ones > 0, same), strict=True):
            columns = [ones, *(values for d in deltas for values in (d > 0, d))]
            for total, values in zip(totals, columns, strict=True):
                add_by_document(total, values[group], inverse[group])
        for (low, high), totals in zip(limits, bands.reshape(len(limits), 6, -1), strict=True):
            then, now = ((side.margin >= low) & (side.margin < high) for side in (before, after))
            gained = after.right.astype(np.float64) - before.right
            for total, values in zip(
                totals[:4], (ones, before.right, after.right, gained), strict=True
            ):
                add_by_document(total, values[then], inverse[then])
            for total, values in zip(totals[4:], (ones, after.right), strict=True):
                add_by_document(total, values[now], inverse[now])
    pairs = [(groups[0, 0], everything)]
    pairs += [(total, totals[0]) for totals in groups for total in totals[1:]]
    for totals in bands.reshape(len(limits), 6, -1):
        pairs += [(total, totals[0]) for total in totals[1:4]]
        pairs.append((totals[5], totals[4]))
    numerators, denominators = (np.stack(side) for side in zip(*pairs, strict=True))
    share, *rest = ratio_estimates(numerators, denominators, resamples=resamples, seed=seed)
    changes = []
    for _ in groups:
        changes.append((MarginChange(*rest[0:2]), MarginChange(*rest[2:4])))
        rest = rest[4:]
    found = []
    for low, high in limits:
        was, later, gain, now_accuracy = rest[:4]
        rest = rest[4:]
        top = high if math.isfinite(high) else None
        found.append(BandMovement(low, top, was.n, was, later, gain, now_accuracy.n, now_accuracy))
    return share, changes, tuple(found)


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


def _symmetric_edges(limit: float) -> tuple[float, ...]:
    """Round edges on both sides of 0 that hold changes up to a limit."""
    above = round_edges(limit, bins=25)
    return tuple(-edge for edge in above[:0:-1]) + above
