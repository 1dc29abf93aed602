"""The verdict on two runs of layers: where tokens changed, and where decisions settle now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from unembed.decisions.layers.compare import LayersComparison
from unembed.decisions.layers.depth_changes import VISIBLE, Change, DepthChange, LensChange
from unembed.report.parts.wording import (
    PERCENT,
    count,
    counted,
    listed,
    points,
    share,
    side_of,
    signed,
)
from unembed.report.verdicts.judgement import judge, small, within
from unembed.report.verdicts.samples import few_documents
from unembed.report.verdicts.verdict import Verdict
from unembed.stats.estimate import Estimate
from unembed.stats.forms import FEW_DOCUMENTS, Form, bounded

SETTLING_LEVEL = 0.05
"""In blocks: a mean that moved by less is called level."""

BLOCKS = Form()
FLOOR = Form(PERCENT, 100.0, decimals=1)
ONE_DEPTH = "Only the last depth was measured, which does not tell how decisions form."
LENS_SENTENCE = "Under the fitted lens each model is read by its own."


def of_record(record: LayersComparison) -> Verdict:
    """The verdict on two runs of layers."""
    return verdict(record)


def verdict(found: LayersComparison) -> Verdict:
    """The verdict on what a comparison of two runs of layers measured."""
    own = found.own
    if own.n == 0:
        return Verdict(
            "No decision could be compared: no position is finite at every depth of both.",
            "There is no quality to tell.",
            "Nothing was measured.",
            "Measure a text whose logits are finite.",
        )
    along = f"{_where(own)} {_settles(found)}" if len(own.by_depth) > 1 else ONE_DEPTH
    return Verdict(
        f"{_ends(own)} {along}",
        _quality(own),
        _change(own),
        _trust(found),
        _next(found),
    )


# The sentence ------------------------------------------------------------------------------------


def _ends(own: LensChange) -> str:
    changed = own.by_depth[-1].changed
    if not changed.value:
        return f"None of the {counted(own.n, 'decision')} changed."
    return f"{bounded(changed, share)} of decisions changed."


def _where(own: LensChange) -> str:
    """At which depths most tokens changed; no more than intervals that hold together allow."""
    if not own.most:
        return "Nor did a leading token at any depth before."
    largest = max(own.by_depth, key=lambda row: row.changed.value or 0.0)
    if largest.changed.low is None:
        return "Where along the depth most tokens changed cannot be told without an interval."
    size = bounded(largest.changed, share)
    if len(own.most) == len(own.by_depth):
        return "As far as can be told, as many leading tokens changed at every depth."
    if own.most == (own.blocks,):
        return "At every depth before, fewer leading tokens changed."
    if len(own.most) == 1:
        return f"Most leading tokens changed at depth {own.most[0]} of {count(own.blocks)}: {size}."
    return (
        f"Most leading tokens changed at depths {ranges(own.most, own.depths)} of "
        f"{count(own.blocks)}, which cannot be told apart: {size} at depth {largest.depth}."
    )


def _settles(found: LayersComparison) -> str:
    difference = found.settling.everywhere.mean.difference
    judged = judge(difference, BLOCKS, SETTLING_LEVEL)
    if judged == "unknown":
        return "Whether decisions settle earlier or later cannot be told without an interval."
    if not difference.value and difference.low == difference.high:
        return "Decisions settle where they did."
    if judged == "level":
        return f"Decisions settle as early as before, {within(difference, BLOCKS)} blocks."
    if judged == "close":
        size = bounded(difference, signed, "blocks")
        return f"Whether decisions settle earlier or later is too close to call: {size}."
    moved = difference if judged == "above" else _negated(difference)
    later = "later" if judged == "above" else "earlier"
    slightly = "slightly " if small(difference, SETTLING_LEVEL) else ""
    return f"Decisions settle {slightly}{later}, by {bounded(moved, BLOCKS)} blocks."


def _negated(estimate: Estimate) -> Estimate:
    low, high = (None if end is None else -end for end in (estimate.high, estimate.low))
    return replace(estimate, value=-float(estimate), low=low, high=high)


# The points --------------------------------------------------------------------------------------


def _quality(own: LensChange) -> str:
    last = own.by_depth[-1]
    accuracy = bounded(last.accuracy.difference, points)
    loss = bounded(last.nll_nats.difference, signed, "nats")
    words = f"Quality: at the last depth accuracy changed by {accuracy} and loss by {loss}."
    if len(own.by_depth) < 2 or last.accuracy.difference.low is None:
        return words
    return f"{words} Along the depth, {_sides(own, 'accuracy', lambda row: row.accuracy)}."


def _sides(own: LensChange, name: str, of: Callable[[DepthChange], Change]) -> str:
    """At which depths a mean surely rose and fell; its intervals hold for all depths at once."""
    rose, fell = (
        tuple(row.depth for row in own.by_depth if side_of(of(row).difference, 0.0) == side)
        for side in (1, -1)
    )
    moved = [
        f"{verb} at {_at(depths, own.depths)}"
        for verb, depths in (("rose", rose), ("fell", fell))
        if depths
    ]
    if not moved:
        return f"{name} surely moved at no depth"
    return f"{name} surely {' and '.join(moved)}"


def _change(own: LensChange) -> str:
    if not own.most:
        return "What changed: no leading token at any depth."
    if len(own.by_depth) < 2:
        return f"What changed: {bounded(own.by_depth[-1].changed, share)} of the leading tokens."
    first = own.first
    seen = f"more than {FLOOR(VISIBLE)} of the leading tokens surely changed"
    words = (
        f"What changed: at no depth {seen}."
        if first is None
        else f"What changed: {seen} from depth {first} on."
        if all((row.changed.low or 0) > VISIBLE for row in own.by_depth if row.depth >= first)
        else f"What changed: {seen} first at depth {first}."
    )
    largest = max(own.by_depth[:-1], key=lambda row: row.changed.value or 0.0)
    if largest.reunited.value is not None:
        words += (
            f" Of the positions that differ at depth {largest.depth}, "
            f"{bounded(largest.reunited, share)} end in one decision, and of all positions "
            f"{bounded(own.end_alike, share)}."
        )
    before = own.by_depth[-2]
    if before.parted.value is not None:
        words += (
            f" Of the decisions that differ in the end, {bounded(before.parted, share)} differ "
            f"from depth {before.depth} on, and the others part after it."
        )
    return words


def _trust(found: LayersComparison) -> str:
    documents = found.n_documents
    if documents < 2:
        return (
            f"Trust: all of it is {counted(documents, 'document')}, so that there are no intervals "
            "and nothing can be told from chance. Give a text of many documents."
        )
    words = (
        f"Trust: intervals hold the spread between {counted(documents, 'document')}, and those of "
        "what changed hold for all depths at once."
    )
    if documents < FEW_DOCUMENTS:
        words += f" {few_documents(documents)}"
    if any(one.lens == "fitted" for one in found.lenses):
        words += f" {LENS_SENTENCE}"
    if found.notes:
        words += " Mind the notes below: more than the model may differ."
    return words


def _next(found: LayersComparison) -> str:
    if 0 < found.n_documents < FEW_DOCUMENTS:
        return "unembed layers MODEL MORE_TEXT -o RUN"
    if found.own.by_depth[-1].changed.value:
        return "unembed compare MODEL_BEFORE MODEL_AFTER CORPUS -o RUN"
    return ""


def _at(depths: Sequence[int], measured: Sequence[int]) -> str:
    return f"depth{'s' * (len(depths) > 1)} {ranges(depths, measured)}"


def ranges(depths: Sequence[int], measured: Sequence[int]) -> str:
    """Depths in words, those that follow each other among the measured ones as ``2–5``."""
    place = {depth: at for at, depth in enumerate(measured)}
    runs = [[depths[0], depths[0]]]
    for one, other in pairwise(depths):
        if place[other] == place[one] + 1:
            runs[-1][1] = other
        else:
            runs.append([other, other])
    return listed([str(low) if low == high else f"{low}–{high}" for low, high in runs])
