"""What flipped, quoted from the text: the surest decisions that changed, the commonest changes."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.decisions.comparison.compare import Comparison
from unembed.decisions.comparison.flip_list import Flip, FlipPair
from unembed.report.parts.parts import Section, Table, table_of
from unembed.report.parts.wording import count, decimal, token

MOST_QUOTED, MOST_PAIRS = 20, 10
"""Rows of either list at most."""


def flips_of(comparison: Comparison) -> Section | None:
    """What flipped in a comparison; None where no decision changed."""
    summary = comparison.summary
    if not summary.flips.changed:
        return None
    surest = comparison.flips(MOST_QUOTED).records
    pairs = comparison.flips(MOST_PAIRS, "commonest").records
    whose = " They are of the first run of each side." if summary.seeds != (1, 1) else ""
    return flips_section(surest, pairs, whose)


def flips_section(
    surest: Sequence[Flip], pairs: Sequence[FlipPair], whose: str = ""
) -> Section | None:
    """The surest flips in their text, then the pairs that came more than once; None without flips.

    ``whose`` is a sentence on which runs they are of.
    """
    if not surest:
        return None
    again = [pair for pair in pairs if pair.count > 1]
    which = "The decision that changed"
    if len(surest) > 1:
        every = "All" if len(surest) < MOST_QUOTED else "The"
        which = f"{every} {count(len(surest))} changed decisions that were surest before, by margin"
    lead = f"{which}: the text so far, what the head chose then, and what it chooses now.{whose}"
    if len(surest) > 1 and not again:
        lead += " No token gave way to the same other one twice."
    tables = (_quoted(surest), *([_commonest(again)] if again else ()))
    return Section("flips", "What flipped", lead, (), tables)


def _quoted(flips: Sequence[Flip]) -> Table:
    return table_of(
        "The surest decisions that changed, with their margin before in logits",
        flips,
        {
            "the text so far": lambda one: one.context.replace("\n", "⏎").strip(),
            "before": lambda one: token(one.before),
            "after": lambda one: token(one.after),
            "the text": lambda one: token(one.target),
            "margin": lambda one: decimal(one.margin_before),
            "decision": lambda one: one.kind.replace(" to ", " → "),
            "document": lambda one: one.document,
        },
    )


def _commonest(pairs: Sequence[FlipPair]) -> Table:
    return table_of(
        "The commonest changes; gained: wrong → right, lost: right → wrong",
        pairs,
        {
            "before": lambda one: token(one.before),
            "after": lambda one: token(one.after),
            "n": lambda one: count(one.count),
            "gained": lambda one: count(one.wrong_to_right),
            "lost": lambda one: count(one.right_to_wrong),
            "neither": lambda one: count(one.wrong_to_wrong),
        },
    )
