"""The verdict on a draft: does it pay, and what rests on its cost?"""

from __future__ import annotations

from unembed.decisions.comparison.drafts import DraftSummary
from unembed.report.parts.wording import counted, decimal, side_of
from unembed.stats.forms import bounded


def draft_sentence(drafts: DraftSummary) -> str:
    """Whether the second model pays as a draft, under the first sampler that was asked for.

    That is plain sampling where none was. No more is said than the interval allows.
    """
    asked = [one for one in drafts.samplings if one.sampling is not None]
    one = asked[min(1, len(asked) - 1)]
    best = one.at_best
    if best is None:
        return f"Whether it pays as a draft cannot be told: {one.best.reason}."
    speed = f"{bounded(best.speedup, decimal)} times as fast at {one.name}"
    drafted = f"with {counted(best.drafted, 'drafted token')} a round"
    side = side_of(best.speedup, 1.0)
    if side > 0:
        return f"It pays as a draft: decoding is {speed}, {drafted}."
    if side < 0:
        return f"It does not pay as a draft: decoding is {speed} at best, {drafted}."
    return f"Whether it pays as a draft is too close to call: decoding is {speed}, {drafted}."


def draft_trust(drafts: DraftSummary) -> str:
    """What a speed-up rests on besides the text."""
    if drafts.cost_given:
        return "The speed-up rests on the cost given for a pass of the draft."
    return (
        "The speed-up rests on the cost of a pass of the draft, taken from the numbers of "
        "parameters: give --draft-cost as measured."
    )
