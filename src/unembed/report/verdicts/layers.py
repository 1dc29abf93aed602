"""The verdict on a run of layers: where decisions settle, what leaving early saves, the cloud."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from unembed.decisions.cloud.cloud import HEAD_INPUT, LIPSCHITZ, Cloud, CloudRow
from unembed.decisions.layers.early_exit import EarlyExit
from unembed.decisions.layers.layers import Layers
from unembed.decisions.layers.regimes import SURVIVES_BELOW, PenaltyRegimes, Regimes
from unembed.decisions.layers.self_drafts import SelfDrafts
from unembed.decisions.layers.settling import Settling
from unembed.decisions.layers.summary import LayersSummary
from unembed.report.parts.wording import (
    count,
    counted,
    decimal,
    listed,
    p_value,
    share,
    side_of,
    whole_percent,
)
from unembed.report.verdicts.samples import few_documents
from unembed.report.verdicts.verdict import Verdict
from unembed.stats.estimate import Estimate
from unembed.stats.forms import FEW_DOCUMENTS, Form, bounded, determined

RHO = Form(possible=(-1.0, 1.0))
MOSTLY = 0.5
"""Part of the states that must differ for a depth's dimension to be spoken of."""

NARROWNESS = "margin"
"""The penalty that the verdict speaks of."""

Regime = Literal["early", "middle", "late"]

REGIMES: dict[Regime, str] = {
    "early": "about zero at first",
    "middle": "negative in the middle",
    "late": "strongly positive at the last depth",
}
"""The published regimes, in a few words each."""


def of_record(record: Layers) -> Verdict:
    """The verdict on a run of layers."""
    return verdict(record.summary)


def verdict(summary: LayersSummary) -> Verdict:
    """The verdict on what a run of layers measured."""
    few = few_documents(summary.n_documents)
    shape = f"Shape: {_shape(summary.cloud)} {few}".rstrip()
    return Verdict(
        sentence(summary.settling),
        f"Loss: {_regimes(summary.regimes)}",
        f"Early exit: {_exits(summary)} {_draft(summary.self_drafts)}",
        shape,
        "unembed layers MODEL MORE_TEXT -o RUN" if summary.n_documents < FEW_DOCUMENTS else "",
    )


def sentence(settling: Settling) -> str:
    """By which depth half of the decisions are settled, and how many the last step changes."""
    depths, blocks = settling.depths, settling.blocks
    if settling.mean.value is None:
        return f"No decision could be followed: {settling.mean.reason}."
    if len(depths) < 2:
        return "Only the last depth was measured, which does not tell how decisions form."
    changed = settling.by_depth[-1].share
    before = depths[-2]
    last = "the last block" if before == blocks - 1 else f"what follows depth {before}"
    changes = f"{last} still changes {bounded(changed, share)} of them"
    scope = "" if settling.every_depth else f", {settling.scope}"
    half = settling.quantiles["50"]
    if half.value == blocks or half.value is None:
        if changed.low is not None and changed.low > 0.5:
            return f"Most decisions settle at the end: {changes}{scope}."
        return f"Decisions settle late: {changes}{scope}."
    by = f"{whole(half)} of {count(blocks)}"
    return f"Half of the decisions are settled by depth {by}{scope}; {changes}."


# Loss --------------------------------------------------------------------------------------------


def _regimes(regimes: Regimes) -> str:
    """Where narrowness turns against the loss, under which lenses, and whether that is chance."""
    lenses = [one.lens for one in regimes.lenses]
    own = regimes.lenses[0].of(NARROWNESS)
    return f"{_ends(own)} {_turns(regimes, lenses)} {_rise(own)}"


def _ends(one: PenaltyRegimes) -> str:
    first, last = one.by_depth[0], one.by_depth[-1]
    words = "ρ of narrowness, minus the margin, with the model’s loss"
    if first is last:
        return f"{words} is {bounded(last.rho, RHO)} at the last depth."
    if first.rho.value is None and last.rho.value is None:
        return f"{words} is {bounded(last.rho, RHO)}."
    return (
        f"{words} goes from {bounded(first.rho, RHO)} at depth {first.depth} to "
        f"{bounded(last.rho, RHO)} at the last."
    )


def _turns(regimes: Regimes, lenses: Sequence[str]) -> str:
    """Under which lenses the sign goes from negative to positive, and where."""
    turning = regimes.lenses_that_turn(NARROWNESS)
    if not turning:
        under = "Under no lens" if len(lenses) > 1 else "Nowhere"
        return f"{under} does its sign surely turn from negative to positive."
    where = listed([f"{_turn(regimes, lens)} ({lens})" for lens in turning])
    words = f"Its sign turns from negative to positive between depths {where}"
    others = [lens for lens in lenses if lens not in turning]
    if others:
        return f"{words}, not surely so under {listed(others)}."
    return f"{words}: under every lens." if len(lenses) > 1 else f"{words}."


def _turn(regimes: Regimes, lens: str) -> str:
    own = next(one for one in regimes.lenses if one.lens == lens).of(NARROWNESS)
    turn = next(one for one in own.sign_turns if one.sign_after == "positive")
    return f"{turn.before} and {turn.after}"


def _rise(one: PenaltyRegimes) -> str:
    """Whether the clearest rise belongs to the order of the depths."""
    turn = one.turn
    if turn is None:
        return f"A rise along the depth cannot be looked for: {one.turn_reason}."
    words = f"The clearest rise, at depth {whole(turn.depth)},"
    p = p_value(turn.p)
    p = f"p {p}" if p.startswith("<") else f"p = {p}"
    if turn.survives:
        return f"{words} survives a shuffle of the depths ({p})."
    if turn.p < SURVIVES_BELOW:
        return f"{words} is not sure: {bounded(turn.rise, RHO)}."
    if turn.least_p >= SURVIVES_BELOW:
        return f"{words} cannot be told from a shuffle of so few depths ({p})."
    return f"{words} may be one of shuffled depths ({p})."


def whole(estimate: Estimate) -> str:
    """A depth or another whole number: ``5``, or ``5 [4, 5]`` where its interval is no point."""
    value, low, high = estimate.value, estimate.low, estimate.high
    if value is None:
        return f"none: {estimate.reason}"
    if low is None or high is None or low == high == value:
        return f"{value:g}"
    return f"{value:g} [{low:g}, {high:g}]"


def published_words(regimes: Regimes) -> str:
    """Which of the published regimes of narrowness appear, and under which lenses."""
    lenses = [one.lens for one in regimes.lenses]
    found = []
    for name, words in REGIMES.items():
        under = regimes.lenses_where(NARROWNESS, name)
        missing = regimes.lenses_where(NARROWNESS, name, "does not appear")
        if len(under) == len(lenses):
            told = "under every lens" if len(lenses) > 1 else "appears"
        elif under:
            told = f"under {listed(under)} alone"
        elif len(missing) == len(lenses):
            told = "under no lens" if len(lenses) > 1 else "does not appear"
        else:
            told = "undecided"
        found.append(f"{words}: {told}")
    return f"Of the three published regimes, for minus the margin, {'; '.join(found)}."


# Early exit --------------------------------------------------------------------------------------


def exit_words(exits: EarlyExit) -> str:
    """What the threshold that holds the wanted agreement saves on other documents."""
    wanted = whole_percent(exits.wanted)
    chosen = exits.chosen
    if chosen is None:
        return f"{exits.chosen_reason}."
    keeps = f"keeps {bounded(chosen.agreement, share)} of the decisions on the others"
    if not determined(chosen.agreement, share):
        keeps = "changes too few decisions on the others to say how many it keeps"
    words = (
        f"a margin of {decimal(chosen.threshold)} logits, chosen on "
        f"{counted(exits.chosen_on, 'document')}, {keeps} and saves "
        f"{bounded(chosen.saved, share)} of the blocks"
    )
    if chosen.agreement.high is not None and chosen.agreement.high < exits.wanted:
        words += f", which is short of {wanted}"
    chance = chosen.agreement_if_random
    if chance.value is not None and side_of(chosen.agreement, chance.value) <= 0:
        words += f"; as many leaving at random would keep {share(chance.value)}"
    return f"{words}."


def _exits(summary: LayersSummary) -> str:
    """What leaving early saves under the model's own tail, and under the fitted lens."""
    words = exit_words(summary.early_exit)
    if summary.fitted_exit is None:
        return words
    return f"{words} By the fitted lens: {exit_words(summary.fitted_exit)}"


def _draft(drafts: SelfDrafts) -> str:
    """Whether the first blocks pay as the draft of the whole."""
    best = drafts.best_sampled
    if best.speedup.value is None:
        return f"As a draft of itself: none, {best.speedup.reason}."
    at = (
        f"decoding is {bounded(best.speedup, decimal)} times as fast at T = 1, where depth "
        f"{whole(best.depth)} drafts {counted(int(best.drafted.value or 0), 'token')}"
    )
    if best.pays:
        return f"Its first blocks pay as its own draft: {at}."
    if best.pays is None:
        return f"Whether its first blocks pay as its own draft is too close to call: {at}."
    return f"Its first blocks do not pay as its own draft: at best, {at}."


# Shape -------------------------------------------------------------------------------------------


def _shape(cloud: Cloud | None) -> str:
    """Whether rank and dimension rise and fall, whether a Gaussian does so, and the theorem."""
    if cloud is None:
        return "not measured."
    depths = [row for row in cloud.rows if row.depth != HEAD_INPUT]
    # Where most states are copies, as of embeddings without a place, the rest is no sample.
    own = [row for row in depths if row.geometry.points >= MOSTLY * row.spectrum.n]
    rows = own or depths
    rank = _course(rows, lambda row: row.spectrum.effective_rank)
    size = _course(rows, lambda row: row.geometry.dimensions.two_nn)
    words = f"the effective rank of the states {rank}, and their dimension by TwoNN {size}."
    return " ".join(filter(None, (words, _beside_gaussian(rows, len(depths)), LIPSCHITZ)))


def _course(rows: Sequence[CloudRow], figure: Callable[[CloudRow], Estimate]) -> str:
    """How a figure goes from the first to the last depth; a hump only where intervals show it."""
    known = [(row.depth, figure(row)) for row in rows if figure(row).value is not None]
    if not known:
        return f"is not determined ({figure(rows[-1]).reason})"
    (first, start), (last, end) = known[0], known[-1]
    if first == last:
        return f"is {bounded(end, decimal)} at depth {last}"
    course = f"goes from {bounded(start, decimal)} at depth {first}"
    peak, top = max(known, key=lambda one: one[1].value or 0.0)
    least, bottom = min(known, key=lambda one: one[1].value or 0.0)
    for at, one, turn, sides in ((peak, top, "up", 1), (least, bottom, "down", -1)):
        if at not in (first, last) and _beyond(one, start, sides) and _beyond(one, end, sides):
            return (
                f"{course} {turn} to {bounded(one, decimal)} at depth {at} and "
                f"{'down' if turn == 'up' else 'up'} to {bounded(end, decimal)} at the last"
            )
    return f"{course} to {bounded(end, decimal)} at the last"


def _beyond(one: Estimate, other: Estimate, side: int) -> bool:
    """Whether the whole interval of one lies above (1) or below (-1) that of the other."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.low > other.high if side > 0 else one.high < other.low


def _beside_gaussian(rows: Sequence[CloudRow], depths: int) -> str:
    """Beside the Gaussian of the same covariance: at how many depths the estimate is below it."""
    below, judged = 0, 0
    for row in rows:
        gaussian = row.gaussian.dimensions.two_nn.value
        own = row.geometry.dimensions.two_nn
        if gaussian is None or own.low is None:
            continue
        judged += 1
        below += side_of(own, gaussian) < 0
    if not judged:
        return ""
    where = (
        "At no depth"
        if not below
        else "At every depth"
        if below == depths
        else f"At {count(below)} of {count(depths)} depths"
    )
    verb = "is that estimate surely" if not below else "that estimate is surely"
    return f"{where} {verb} below that of a Gaussian of the same covariance."
