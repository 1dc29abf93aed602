"""One refined model against the start, in every resample of the documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from unembed.decisions.audit.audit import Audit
from unembed.decisions.comparison.flips import MINIMUM_FLIPS
from unembed.decisions.comparison.pairing import Side, pair
from unembed.decisions.comparison.rows import groups_of
from unembed.decisions.comparison.summary import BAND_NAMES, Groups, bands_of
from unembed.decisions.tokens import CLASSES, FREQUENCY_NAMES
from unembed.errors import UnembedError
from unembed.training.resampling import Resampling, Rows

Table = Float[np.ndarray, "rows groups"]
"""The same for several groups of positions."""

Totals = dict[str, Float[np.ndarray, "rows _"]]
"""Totals over the documents by name, of one group or of several."""


@dataclass(frozen=True)
class GroupDraws:
    """Of each group: its share of the positions, its accuracy, and its net over all positions."""

    share: Table
    accuracy: Table
    net: Table
    share_of_net: Table


@dataclass(frozen=True)
class PointDraws:
    """``figures`` by the names of ``DoseFigures``; NaN where a statistic does not exist.

    Bands are those of the margin after, frequency and class those of the target.
    """

    figures: dict[str, Rows]
    by_band: GroupDraws
    by_frequency: GroupDraws
    by_class: GroupDraws


@dataclass(frozen=True)
class DoseText:
    """What all models are measured on: the positions that are finite in every audit.

    ``margin`` and ``relative_distance`` are the medians of the starting model. Every statistic sees
    the same resamples.
    """

    row: Int[np.ndarray, " positions"]
    resampling: Resampling
    target: Int[np.ndarray, " positions"]
    start: Side
    groups: Groups
    margin: Rows
    relative_distance: Rows
    nonfinite: int
    notes: tuple[str, ...]

    @property
    def documents(self) -> int:
        """How many documents the positions are in."""
        return self.resampling.documents

    @staticmethod
    def of(start: Audit, audits: Sequence[Audit], *, resamples: int, seed: int) -> DoseText:
        """The positions common to all audits, which are paired row for row with the start's.

        Raises UnembedError as ``pair`` does, and where no position is finite in all of them.
        """
        whole = pair(start, start)
        kept: Bool[np.ndarray, " rows"] = np.zeros(len(start), dtype=np.bool_)
        kept[whole.row] = True
        notes: dict[str, None] = {}
        for one in audits:
            paired = pair(start, one)
            kept &= np.isin(np.arange(len(kept)), paired.row)
            notes |= dict.fromkeys(paired.notes)
        if not kept.any():
            raise UnembedError(
                f"none of the {len(kept)} positions is finite in every audit: leave out the models "
                "whose logits are not finite"
            )
        chosen = kept[whole.row]
        common = whole.rows(chosen)
        resampling = Resampling.of(common.doc, resamples, seed)
        start_columns = [common.before.margin, common.before.relative_distance]
        margin, distance = resampling.medians(start_columns)
        return DoseText(
            row=common.row,
            resampling=resampling,
            target=common.target,
            start=common.before,
            groups=groups_of(whole).rows(chosen),
            margin=margin,
            relative_distance=distance,
            nonfinite=int((~kept).sum()),
            notes=tuple(notes),
        )

    def side(self, start: Audit, audit: Audit) -> Side:
        """An audit's columns at the common positions."""
        paired = pair(start, audit)
        return paired.after.rows(np.isin(paired.row, self.row))


def point_draws(text: DoseText, after: Side) -> PointDraws:
    """Every figure of one model, observed and in each resample of the documents (theory §4, §6).

    ``after`` holds the model's columns at the text's positions.
    """
    before, groups, sums = text.start, text.groups, text.resampling.sums
    was, now = before.top1 == text.target, after.top1 == text.target
    same = before.top1 == after.top1
    rotated = same & (before.top2 != after.top2)
    delta = after.margin.astype(np.float64) - before.margin
    net = now.astype(np.float64) - was
    blocks: dict[str, Float[np.ndarray, "_ documents"]] = {
        "n": sums(np.ones(len(net))),
        "right": sums(now),
        "net": sums(net),
        "changed": sums(~same),
        "gained": sums(~was & now),
        "lost": sums(was & ~now),
        "below": sums(after.margin < 0.5),
        "fewer below": sums((after.margin < 0.5) - (before.margin < 0.5).astype(np.float64)),
        "loss": sums(before.nll),
        "more loss": sums(after.nll.astype(np.float64) - before.nll),
        "wider": sums(delta > 0),
        "delta": sums(delta),
        "rotated": sums(rotated),
        "rotated wider": sums(rotated & (delta > 0)),
        "rotated delta": sums(rotated * delta),
    }
    kinds = (
        ("band", bands_of(after.margin), len(BAND_NAMES)),
        ("frequency", groups.frequency, len(FREQUENCY_NAMES)),
        ("class", groups.token_class, len(CLASSES)),
    )
    for kind, group, count in kinds:
        blocks[f"n {kind}"] = sums(np.ones(len(net)), group, count)
        blocks[f"right {kind}"] = sums(now, group, count)
        blocks[f"net {kind}"] = sums(net, group, count)
    totals = _totals(text, blocks)
    by_band, by_frequency, by_class = (_groups(totals, kind) for kind, _, _ in kinds)
    columns = [after.margin, after.relative_distance, delta]
    return PointDraws(_figures(text, totals, columns, by_class), by_band, by_frequency, by_class)


def _figures(
    text: DoseText, totals: Totals, columns: list[np.ndarray], by_class: GroupDraws
) -> dict[str, Rows]:
    """The figures of ``DoseFigures``; ``columns`` are those whose medians are taken."""
    one = {name: table[:, 0] for name, table in totals.items()}
    n, gained, lost = one["n"], one["gained"], one["lost"]
    margin, distance, change = text.resampling.medians(columns)
    flip_ratio = ratio(gained, lost)
    if min(gained[0], lost[0]) < MINIMUM_FLIPS:
        flip_ratio = np.full_like(flip_ratio, np.nan)
    return {
        "median_margin": margin,
        "median_margin_change": margin - text.margin,
        "median_margin_gain": ratio(margin, text.margin) - 1,
        "scale_free": distance,
        "scale_free_gain": ratio(distance, text.relative_distance) - 1,
        "below_half": one["below"] / n,
        "below_half_change": one["fewer below"] / n,
        "wider": one["wider"] / n,
        "mean_change": one["delta"] / n,
        "median_change": change,
        "nll_change": one["more loss"] / n,
        "nll_rise": ratio(one["more loss"], one["loss"]),
        "accuracy": one["right"] / n,
        "accuracy_change": one["net"] / n,
        "churn": one["changed"] / n,
        "wrong_to_right": gained / n,
        "right_to_wrong": lost / n,
        "flip_ratio": flip_ratio,
        "rotation": one["rotated"] / n,
        "rotated_wider": ratio(one["rotated wider"], one["rotated"]),
        "rotated_change": ratio(one["rotated delta"], one["rotated"]),
        "structural_share_of_net": by_class.share_of_net[:, CLASSES.index("structural")],
    }


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient, NaN where the denominator is 0."""
    exists = denominator != 0
    return np.where(exists, numerator / np.where(exists, denominator, 1), np.nan)


def _groups(totals: Totals, kind: str) -> GroupDraws:
    n, right, net = (totals[f"{what} {kind}"] for what in ("n", "right", "net"))
    whole, total = totals["n"], totals["net"]
    # A net of the other sign, or next to none, has no shares.
    shared = (total * total[0] > 0) & (abs(total[0]) >= MINIMUM_FLIPS)
    return GroupDraws(
        share=n / whole,
        accuracy=ratio(right, n),
        net=net / whole,
        share_of_net=np.where(shared, ratio(net, total), np.nan),
    )


def _totals(text: DoseText, blocks: dict[str, np.ndarray]) -> Totals:
    totals = text.resampling.totals(np.concatenate(list(blocks.values())))
    ends = np.cumsum([len(block) for block in blocks.values()])[:-1]
    return dict(zip(blocks, np.split(totals, ends, axis=1), strict=True))
