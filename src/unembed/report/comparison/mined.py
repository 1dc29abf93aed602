"""What a change taught, as a section of a comparison's page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unembed.decisions.comparison.mined_contexts import MinedContext
from unembed.decisions.comparison.mining import (
    LEAST_FACTOR,
    MinedSummary,
    MinedToken,
    per_thousand,
)
from unembed.report.parts import wording
from unembed.report.parts.drawing import Spec, draw, heading
from unembed.report.parts.marks import (
    interval_fields,
    intervals,
    label_axis,
    plain_axis,
    points,
    quantity,
    reference,
)
from unembed.report.parts.parts import Figure, Section, Table, table_of
from unembed.report.parts.wording import (
    cell,
    count,
    counted,
    decimal,
    fine_share,
    full,
    share,
    short,
    token,
)

DRAWN = 7
"""Tokens of a chart, at most."""

QUOTED = 10
"""Rows of a table of contexts or of neighbours, at most."""

LONGEST_CONTEXT = 60
"""Letters of a quoted context, its last ones."""

BOTH = (
    ("rose", "more often", "Expected more often"),
    ("fell", "less often", "Expected less often"),
)


def mined_section(mined: MinedSummary | None) -> Section | None:
    """The tokens and contexts whose probability rose and fell most, where that was asked."""
    if mined is None:
        return None
    lists = (mined.rose, mined.fell)
    figures = tuple(
        _figure(name, words, title, tokens)
        for (name, words, title), tokens in zip(BOTH, lists, strict=True)
        if tokens
    )
    contexts = tuple(
        _contexts(f"The contexts in which a token {name} most, one a document", some[:QUOTED])
        for name, some in (("rose", mined.risen), ("fell", mined.fallen))
        if some
    )
    quoted = tuple(
        _quoted(f"Where they {name} most", tokens[:QUOTED])
        for (name, *_), tokens in zip(BOTH, lists, strict=True)
        if tokens
    )
    return Section(
        "mined",
        "What did this change teach?",
        _lead(mined),
        figures,
        contexts,
        (*quoted, *_neighbours(mined), _classes(mined)),
        "Where, behind what, and classes",
    )


def _lead(mined: MinedSummary) -> str:
    words = (
        f"At each position {full(mined.moved, fine_share)} of the probability went to other "
        f"tokens. Each of {counted(mined.n_tokens, 'token')} that a model expects at least once "
        "in this text was summed over all of it. "
    )
    listed = mined.n_rose + mined.n_fell
    if not mined.n_determined:
        return words + "The documents are too few to tell so many tokens apart."
    if listed:
        words += (
            f"{count(mined.n_rose)} are expected surely {LEAST_FACTOR:g} times as often or more, "
            f"{count(mined.n_fell)} as rarely, by intervals that hold for all of them together. "
        )
    else:
        words += f"None is expected surely {LEAST_FACTOR:g} times as often, or as rarely. "
    words += (
        "With both models swapped in documents drawn at random, "
        f"{decimal(mined.n_by_chance) if mined.n_by_chance else 'none'} would be listed."
    )
    if mined.n_determined < mined.n_tokens:
        few = mined.n_tokens - mined.n_determined
        words += f" {count(few)} are in too few documents to be told apart."
    if mined.kept < 1 - 1e-3:
        words += f" The sums hold {share(mined.kept)} of all probability."
    return words


def _figure(name: str, words: str, title: str, tokens: Sequence[MinedToken]) -> Figure:
    return Figure(
        f"mined-{name}",
        title,
        f"How many times as often as before, the surest {count(min(DRAWN, len(tokens)))}. Below "
        "a token: how often it is expected in 1,000 tokens, before and after. Bars are 95 % "
        "intervals that hold for all tokens together, over documents.",
        draw(_factors(tokens[:DRAWN]), f"Tokens that are expected {words}"),
        (),
        (_tokens(title, tokens),),
    )


def _factors(tokens: Sequence[MinedToken]) -> Spec:
    labels = _labels(tokens)
    rows: list[Spec] = [
        {
            "group": label,
            "fill": "var(--accent)",
            "stroke": "var(--accent)",
            "tip": f"{token(one.text)}: {full(one.factor, decimal)} times as often\n"
            f"{per_thousand(one.before)} → {per_thousand(one.after)} in 1,000 tokens",
        }
        | interval_fields(one.factor, "x")
        for label, one in zip(labels, tokens, strict=True)
    ]
    ends = [1.0, *(row[key] for row in rows for key in ("x_low", "x_high"))]
    low, high = min(ends), max(ends)
    ticks = [
        step * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for step in (1, 2, 5)
    ]
    axis = plain_axis(None, grid=True, form="~g") | {
        "values": [tick for tick in ticks if low * 0.99 <= tick <= high * 1.01]
    }
    x = quantity(axis, type="log", domain=[low, high], nice=True)
    channels = {"x": x, "y": label_axis(labels)}
    layers = [
        reference("x", 1.0, x, {"strokeDash": [], "strokeWidth": 1.2}),
        intervals(rows, channels, "x"),
        points(rows, channels),
    ]
    return {"title": heading("times as often as before"), "layer": layers}


def _labels(tokens: Sequence[MinedToken]) -> list[str]:
    """A token over its rates, in which ``|`` breaks a line; of equal ones with their ids."""
    names = [token(one.text, 24).replace("|", "∣") for one in tokens]
    names = [
        f"{name} [{one.token}]" if names.count(name) > 1 else name
        for name, one in zip(names, tokens, strict=True)
    ]
    return [
        f"{name}|{per_thousand(one.before)} → {per_thousand(one.after)}"
        for name, one in zip(names, tokens, strict=True)
    ]


def _tokens(title: str, tokens: Sequence[MinedToken]) -> Table:
    return table_of(
        f"{title}, in 1,000 tokens, with 95 % intervals together",
        tokens,
        {
            "token": lambda one: token(one.text),
            "before": lambda one: per_thousand(one.before),
            "after": lambda one: per_thousand(one.after),
            "times as often": lambda one: cell(one.factor, decimal),
        },
    )


def _contexts(caption: str, contexts: Sequence[MinedContext]) -> Table:
    return table_of(
        caption,
        contexts,
        {
            "the text so far": _before,
            "token": lambda one: token(one.token),
            "probability": lambda one: f"{share(one.before)} → {share(one.after)}",
            "the text": lambda one: token(one.target),
            "document": lambda one: short(one.document, 40),
        },
    )


def _quoted(caption: str, tokens: Sequence[MinedToken]) -> Table:
    return _contexts(caption, [context for one in tokens for context in one.contexts[:1]])


def _before(one: MinedContext) -> str:
    text = one.context.replace("\n", "⏎").strip()
    return text if len(text) <= LONGEST_CONTEXT else f"…{text[-LONGEST_CONTEXT:]}"


def _neighbours(mined: MinedSummary) -> tuple[Table, ...]:
    if not mined.neighbours:
        return ()
    return (
        table_of(
            "Behind which tokens more moved than on average, with 95 % intervals together",
            mined.neighbours[:QUOTED],
            {
                "behind": lambda one: token(one.text),
                "n": lambda one: count(one.moved.n),
                "probability moved": lambda one: cell(one.moved, fine_share),
            },
        ),
    )


def _classes(mined: MinedSummary) -> Table:
    return table_of(
        "The share of probability of each class of tokens, with 95 % intervals",
        mined.classes,
        {
            "class": lambda one: one.name,
            "before": lambda one: fine_share(one.before),
            "after": lambda one: fine_share(one.after),
            "difference": lambda one: cell(one.change, wording.points),
        },
    )
