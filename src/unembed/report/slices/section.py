"""The section of an audit's page with the cells around its narrowest decisions."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.decisions.slices.decision import DecisionSlice
from unembed.report.parts.parts import Figure, Section
from unembed.report.slices.drawing import quoted
from unembed.report.slices.figure import slice_figure

TITLE_LETTERS = 34
"""Letters of the text before a decision that are in its title."""


def slices_section(slices: Sequence[DecisionSlice]) -> Section:
    """A figure for each picture, ``slice-1`` that of the narrowest decision."""
    return Section(
        "cells",
        "The cells around the narrowest decisions",
        "Each picture is a plane cut through hidden space: a point is a state that the head might "
        "read, its colour the token that wins there. The cells are exact, to the corner.",
        tuple(decision_figure(one, f"slice-{at}") for at, one in enumerate(slices, 1)),
    )


def decision_figure(one: DecisionSlice, name: str) -> Figure:
    """The figure of one decision, entitled with the text before it."""
    return slice_figure(
        one.slice, name, title_of(one), target=one.target, target_text=one.target_text
    )


def title_of(one: DecisionSlice) -> str:
    """The end of the text before a decision, and what won; of a change, what won before, after."""
    before = " ".join(one.context.split())
    if len(before) > TITLE_LETTERS:
        # From the beginning of a word, unless one word is all of it.
        end = before[-TITLE_LETTERS:]
        before = "… " + (end.partition(" ")[2] or end)
    marks = one.slice.marks if len(one.slice.marks) == 2 else one.slice.marks[:1]
    won = dict.fromkeys(quoted(mark.text) for mark in marks)
    return f"{before} {' → '.join(won)}"
