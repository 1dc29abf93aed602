"""What the demo found: six findings of two lines each, none of which says more than its interval.

Each function takes what was measured and gives a ``Finding``; its page lies in the demo's folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unembed.decisions.audit.summary import AuditSummary, Band
from unembed.decisions.comparison.compare import Comparison
from unembed.decisions.comparison.flip_list import Flip
from unembed.decisions.comparison.summary import ComparisonSummary
from unembed.decisions.layers.early_exit import EarlyExit
from unembed.decisions.layers.settling import Settling
from unembed.decisions.layers.summary import LayersSummary
from unembed.demo.story import DemoRuns
from unembed.report.parts.wording import (
    capital,
    change,
    count,
    counted,
    decimal,
    full,
    share,
    side_of,
    size,
    token,
    visible,
    whole_percent,
)
from unembed.report.verdicts.judgement import LOSS_LEVEL, judge, small, within
from unembed.runs.manifest import PAGE
from unembed.selection.transfer.judged import JudgedTransfer
from unembed.selection.transfer.verdicts import compared
from unembed.short_repr import ShortRepr
from unembed.stats.forms import points, signed
from unembed.training.run.refinement import OVER_CONTROL

WIDTH = 97
"""Columns of a line, so that it fits 100 with its number."""
FLIPS_READ = 1_000
"""The surest flips of a rounding, among which one between right and wrong is looked for."""
MARGIN_LEVEL = 0.01
"""A relative change of the median margin within which it counts as level."""
SCORE, COUNTS = "joint", "unigram"
"""The score that is judged, and the baseline that counts tokens and knows nothing of the model."""
SIDES = {"above": "higher", "below": "lower"}
MOVED = {"above": "widens", "below": "narrows", "level": "keeps"}


@dataclass(frozen=True)
class Finding(ShortRepr):
    """Two lines of plain words, and the page that shows it, within the demo's folder."""

    first: str
    second: str
    page: Path

    @property
    def sentence(self) -> str:
        """Both lines in one."""
        return f"{self.first} {self.second}"


def findings(told: DemoRuns) -> tuple[Finding, ...]:
    """What was found, in the order of the story; what was left out has no finding."""
    found = [
        narrow(told.audit.summary),
        formed(told.layers.summary),
        rounded({name: one.summary for name, one in told.rounded.items()}),
        surest(told.rounded),
    ]
    for name, one in told.refined.items():
        if one.over_control is not None:
            found.append(refined(name, one.over_control.summary))
    return (*found, helped(told.transfer))


def narrow(summary: AuditSummary) -> Finding:
    """How many decisions are won by less than half a logit, and how many of them are right."""
    below = summary.share_margin_below_half
    page = Path(PAGE)
    if below.value is None:
        return Finding("No decision could be measured:", f"{below.reason}.", page)
    first = f"{full(below, share)} of the decisions are narrow, won by less than half a logit."
    near, far = summary.bands[0], summary.bands[-1]
    if near.accuracy.value is None or far.accuracy.value is None:
        median = full(summary.median_margin, decimal)
        return Finding(first, f"The median margin, in logits, is {median}.", page)
    right = f"{full(near.accuracy, share)} of these are right, {full(far.accuracy, share)} of those"
    told = "" if _apart(near, far) else ": too close to call"
    return Finding(first, f"{right} won by {far.low:g} logits or more{told}.", page)


def formed(summary: LayersSummary) -> Finding:
    """What the last block still changes, what leaving early saves, and whether wrong is late."""
    settled, page = summary.settling, Path("layers", PAGE)
    if settled.mean.value is None:
        return Finding("No decision could be followed:", f"{settled.mean.reason}.", page)
    changed = full(settled.by_depth[-1].share, share)
    exits, saved = _saved(summary.early_exit)
    first = f"The last of {summary.blocks} blocks changes {changed} of the decisions; {exits}"
    return Finding(first, f"{saved} {_late(settled)}", page)


def rounded(versions: Mapping[str, ComparisonSummary]) -> Finding:
    """What each rounding changes: decisions, and the loss."""
    (name, first), *others = versions.items()
    line = _changed(name, first, " of decisions")
    if others:
        rest = "; ".join(_changed(*other, "") for other in others)
    else:
        gained, lost = first.flips.wrong_to_right, first.flips.right_to_wrong
        rest = f"{counted(lost, 'right decision')} became wrong, {count(gained)} wrong ones right"
    return Finding(f"{line}.", f"{rest}.", Path(name, PAGE))


def surest(versions: Mapping[str, Comparison]) -> Finding:
    """The surest decision that the first rounding turned wrong or right, quoted from the text."""
    for name, comparison in versions.items():
        flips = comparison.summary.flips
        if flips.changed:
            kinds = {"right to wrong": flips.right_to_wrong, "wrong to right": flips.wrong_to_right}
            read = comparison.flips(min(flips.changed, FLIPS_READ)).records
            return quoted(name, read, {**kinds, "wrong to wrong": flips.wrong_to_wrong})
    names = " and ".join(versions)
    return Finding(
        f"No decision changed in {names}:",
        "there is no flip to quote.",
        Path(next(iter(versions)), PAGE),
    )


def quoted(name: str, flips: Sequence[Flip], counts: Mapping[str, int]) -> Finding:
    """The surest of some flips, with what stands before it; one between right and wrong first.

    ``counts`` says how many there are of each kind, of which ``flips`` are the surest.
    """
    flip = next((one for one in flips if one.right_before != one.right_after), flips[0])
    was, became = ("right" if right else "wrong" for right in (flip.right_before, flip.right_after))
    turned = "moved to another wrong token" if was == became else f"turned {became}"
    first = (
        f"The surest of {count(counts[flip.kind])} {was} decisions that {name} {turned} was won by "
        f"{decimal(flip.margin_before)} logits:"
    )
    before, after = (token(one, 16) for one in (flip.before, flip.after))
    document = _end(visible(flip.document), 30)
    rest = f"then “{before}” ({was}) → “{after}” ({became}), {document}"
    context = visible(" ".join(flip.context.replace("\n", "⏎ ").split()))
    return Finding(first, f"“{_end(context, WIDTH - len(rest) - 3)}” {rest}", Path(name, PAGE))


def refined(name: str, over_control: ComparisonSummary) -> Finding:
    """What a penalty of narrow decisions adds to the same training without it, held out."""
    check = over_control.movement.sharpening
    page = Path("refined", name, OVER_CONTROL, PAGE)
    judged = judge(check.raw_change, change, MARGIN_LEVEL)
    if judged in MOVED:
        first = f"Over plain training, a penalty of narrow decisions {MOVED[judged]} the median "
        first += "margin where both tokens stay:"
    else:
        first = (
            "Whether a penalty of narrow decisions widens margins over plain training is not told:"
        )
    margin, free = (full(one, change) for one in (check.raw_change, check.scale_free_change))
    return Finding(first, f"{margin}, scale-free {free}; {_loss(over_control)}.", page)


def helped(judged: JudgedTransfer) -> Finding:
    """Whether a score named the best source before any training, beside chance and token counts."""
    transfer, page = judged.transfer, Path("helped", PAGE)
    by_name = {one.method: one for one in judged.verdicts}
    sources = len(transfer.tasks) - 1
    top1, chance, of = by_name[SCORE].top1, 1 / sources, f"the best of {sources} texts"
    often, side = full(top1, share), side_of(top1, chance)
    first = f"Before any training, joint alignment names {of} for {often} of targets;"
    if side < 0:
        first = f"Joint alignment names {of} for {often} of targets, less often than chance;"
    elif side == 0:
        first = f"Whether joint alignment names {of} is too close to call, {often} of targets;"
    second = f"chance does for {whole_percent(chance)}"
    if COUNTS in by_name:
        second += f", token counts for {full(by_name[COUNTS].top1, share)}: {_better(judged)}"
    return Finding(first, f"{second}.", page)


def left_out(told: DemoRuns) -> str:
    """What the demo could not do, and what would let it, in one line; empty where it did all."""
    parts = []
    if "int8" not in told.rounded:
        parts.append("int8 (pip install 'unembed[quant]')")
    if not told.refined:
        parts.append("refining (pip install 'unembed[train]')")
    parts += [f"{name} ({why})" for name, why in told.dropped.items()]
    return f"Left out: {', '.join(parts)}." if parts else ""


def findings_text(told: DemoRuns, found: Sequence[Finding], *, pages: bool = True) -> str:
    """What a terminal shows: the findings by number, each with its page where pages were drawn."""
    summary = told.audit.summary
    where = size(summary.n_positions, summary.n_documents)
    parts = [f"What the bundled model decides at {where} that it was not trained on:"]
    for number, finding in enumerate(found, 1):
        page = f"\n   {told.folder / finding.page}" if pages else ""
        parts.append(f"{number}. {finding.first}\n   {finding.second}{page}")
    missing = left_out(told)
    parts.append("In brackets are 95 % intervals." + (f"\n{missing}" if missing else ""))
    return "\n\n".join(parts)


def _end(text: str, letters: int) -> str:
    return text if len(text) <= letters else "…" + text[len(text) - letters + 1 :]


def _saved(exits: EarlyExit) -> tuple[str, str]:
    """What stopping at a wide margin saves, the end of a line and the beginning of the next."""
    wanted = whole_percent(exits.wanted)
    if exits.chosen is None:
        return "no early exit", f"by its own head keeps {wanted} of them."
    return (
        f"early exit at {wanted} agreement",
        f"saves {full(exits.chosen.saved, share)} of blocks.",
    )


def _late(settled: Settling) -> str:
    """Whether wrong decisions settle later than right ones."""
    apart = settled.wrong_less_right
    if apart.value is None:
        return f"{capital(apart.reason or '')}."
    side = side_of(apart, 0.0)
    if not side:
        return f"Wrong ones later by {full(apart, signed)}: too close to call."
    if side < 0:
        return f"Wrong ones settle earlier, {full(apart, signed)} blocks."
    return f"Wrong ones settle {full(apart, decimal)} blocks later."


def _changed(name: str, summary: ComparisonSummary, of: str) -> str:
    flips = summary.flips
    if flips.churn.value is None:
        return f"In {name}, no decision could be compared: {flips.churn.reason}"
    changed = f"{full(flips.churn, share)}{of} change"
    if not flips.changed:
        changed = f"none of {counted(flips.n, 'decision')} changes"
    return f"In {name}, {changed}; {_loss(summary)}"


def _loss(summary: ComparisonSummary) -> str:
    """What can be said of the loss's difference."""
    loss = summary.calibration.nll_difference_nats
    judged = judge(loss, signed, LOSS_LEVEL)
    if judged == "level":
        return f"loss level, {within(loss, signed)} nats"
    if judged in SIDES:
        if small(loss, LOSS_LEVEL):
            return f"loss slightly {SIDES[judged]}, {within(loss, signed)} nats"
        return f"loss {SIDES[judged]}, {full(loss, signed, 'nats')}"
    return f"loss too close to call, {full(loss, signed, 'nats')}"


def _better(judged: JudgedTransfer) -> str:
    """Which of the two named the best source more often, where the interval tells."""
    top1 = compared(judged.transfer, SCORE, COUNTS).top1
    words = {"above": "fewer", "below": "more"}
    return words.get(judge(top1, points, 0.0), "too close to call")


def _apart(near: Band, far: Band) -> bool:
    """Whether decisions of one band are surely less often right than those of the other."""
    high, low = near.accuracy.high, far.accuracy.low
    return high is not None and low is not None and high < low
