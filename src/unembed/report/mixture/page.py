"""The page of a mixture: how much of each source, what it leaves, and the line that mixes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unembed.report.parts.facts import command_of, kept_facts, with_command
from unembed.report.parts.forest import Cell, Forest, ForestRow, forest_figure, reach
from unembed.report.parts.page import template
from unembed.report.parts.parts import Section
from unembed.report.parts.scales import scale_of
from unembed.report.parts.wording import (
    count,
    counted,
    full,
    interval,
    listed,
    point,
    share,
    two,
    whole_percent,
)
from unembed.runs.manifest import FinishedRun
from unembed.selection.mixing.record import Mixture, Share
from unembed.selection.mixing.text import interleave_line
from unembed.selection.scores import named

MOSTLY_LEFT = 0.5
"""Share of a target that no mixture expresses, surely: above it, the best mixture is none."""
MOST_NAMED = 4
"""Sources that the headline names; the rest it counts."""


def mixture_page(
    mixture: Mixture,
    *,
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    command: str = "",
) -> str:
    """The page of a mixture: warnings, weights with their intervals, what is left, the line.

    ``facts`` are label and value of what produced the numbers, to which ``command`` is added. One
    file that loads nothing; the same arguments give the same page, byte for byte.
    """
    return template("mixture").render(
        title=title,
        reading=reading(mixture),
        extent=extent(mixture),
        account=account(mixture),
        notes=mixture.warnings,
        forest=forest(mixture),
        matched=named(mixture.by).matched,
        line=interleave_line(mixture),
        facts=with_command(facts, command),
    )


def sections_of(mixture: Mixture) -> tuple[Section, ...]:
    """Every figure and table of the page."""
    figure = forest_figure("forest", f"What {mixture.target} is made of", forest(mixture))
    return (Section("weights", "How much of each", "", (figure,)),)


def reading(mixture: Mixture) -> str:
    """The sources used with their shares, in one sentence."""
    used = [one for one in by_weight(mixture) if _weight(one) > 0]
    if not used:
        return f"No mixture of the sources moves the head as {mixture.target} would."
    residual = mixture.residual
    if residual.low is not None and residual.low > MOSTLY_LEFT:
        return (
            f"No mixture of these sources makes {mixture.target}: {full(residual, share)} of it is "
            "expressed by none."
        )
    parts = [f"{_percent(_weight(one))} {one.name}" for one in used[:MOST_NAMED]]
    if len(used) > MOST_NAMED:
        parts.append(f"{counted(len(used) - MOST_NAMED, 'more source')}")
    return f"{mixture.target} is best mixed from {listed(parts)}."


def extent(mixture: Mixture) -> str:
    """How many sources are used, and of how much text the target is known."""
    used = sum(_weight(one) > 0 for one in mixture.shares)
    return (
        f"{count(used)} of {counted(len(mixture.shares), 'source')} used, "
        f"{counted(sum(one.samples for one in mixture.shares), 'sample')}; target: "
        f"{counted(mixture.samples, 'sample')} of {counted(mixture.documents, 'document')}. "
        f"Matched by {named(mixture.by).label}."
    )


def account(mixture: Mixture) -> str:
    """What the mixture leaves of the target, and what the weights summed to, in plain words."""
    words = []
    residual, total = mixture.residual, mixture.total
    if residual.value is None:
        words.append(
            f"What the mixture leaves of {mixture.target} is not known: {residual.reason}."
        )
    else:
        words.append(
            f"Of {mixture.target}, {full(residual, share)} is left that no mixture of these "
            "sources expresses (the share of its squared norm, less what noise alone leaves)."
        )
        if residual.low is not None and residual.low <= 0:
            words.append("That cannot be told from nothing.")
    if total.value is None:
        words.append(f"There is no sum of the weights: {total.reason}.")
    else:
        words.append(
            f"Before they were made 1, the weights summed to {full(total, two)}: about 1 where "
            "the target is a blend of the sources."
        )
    return " ".join(words)


def forest(mixture: Mixture) -> Forest:
    """The sources by falling weight; those left out are hollow."""
    rows = tuple(
        ForestRow(
            one.name,
            one.weight.value,
            one.weight.low,
            one.weight.high,
            (
                Cell(point(one.weight, share)),
                Cell(interval(one.weight, share) or "none"),
                Cell(share(one.probability)),
                Cell(count(one.samples)),
                Cell(count(one.documents)),
            ),
            "lead" if _weight(one) > 0 else "",
        )
        for one in by_weight(mixture)
    )
    head = ("source", "share of tokens", "weight", "95 % interval", "share of documents")
    return Forest(
        caption=f"Sources of {mixture.target}, the largest share first",
        head=(*head, "samples", "documents"),
        scale=scale_of([0.0, *reach(rows)], percent=True),
        rows=rows,
    )


def by_weight(mixture: Mixture) -> list[Share]:
    """The shares, the largest first; those without a weight last."""
    known = [one for one in mixture.shares if one.weight.value is not None]
    lost = [one for one in mixture.shares if one.weight.value is None]
    return sorted(known, key=lambda one: -_weight(one)) + lost


def _weight(one: Share) -> float:
    return 0.0 if one.weight.value is None else one.weight.value


def _percent(value: float) -> str:
    return "under 1\u00a0%" if value < 0.005 else whole_percent(value)


def page_of_run(mixture: Mixture, run: FinishedRun | None, _links: Mapping[str, str]) -> str:
    """The page of a mixture."""
    title = f"What {mixture.target} is made of"
    return mixture_page(mixture, title=title, facts=kept_facts(run), command=command_of(run))
