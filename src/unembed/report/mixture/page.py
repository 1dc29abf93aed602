"""The page of a mixture: how much of each source, what it leaves, and the line that mixes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unembed.report.parts.facts import command_of, kept_facts, with_command
from unembed.report.parts.forest import Cell, Forest, ForestRow, forest_figure, reach
from unembed.report.parts.page import template
from unembed.report.parts.parts import Section
from unembed.report.parts.scales import scale_of
from unembed.report.parts.wording import count, counted, interval, point, share
from unembed.report.verdicts.mixture import vague, verdict
from unembed.runs.manifest import FinishedRun
from unembed.selection.mixing.record import Mixture, Share
from unembed.selection.mixing.text import by_weight, interleave_line
from unembed.selection.scores import named
from unembed.signatures.network.names import said_of


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
        verdict=verdict(mixture),
        extent=extent(mixture),
        notes=mixture.warnings,
        forest=forest(mixture),
        matched=said_of(named(mixture.by).matched, mixture.part),
        line=None if mixture.mostly_left else interleave_line(mixture),
        vague=vague(mixture),
        facts=with_command(facts, command),
    )


def sections_of(mixture: Mixture) -> tuple[Section, ...]:
    """Every figure and table of the page."""
    figure = forest_figure("forest", f"What {mixture.target} is made of", forest(mixture))
    return (Section("weights", "How much of each", "", (figure,)),)


def extent(mixture: Mixture) -> str:
    """How many sources are used, and of how much text the target is known."""
    used = sum(_weight(one) > 0 for one in mixture.shares)
    return (
        f"{count(used)} of {counted(len(mixture.shares), 'source')} used, "
        f"{counted(sum(one.samples for one in mixture.shares), 'sample')}; target: "
        f"{counted(mixture.samples, 'sample')} of {counted(mixture.documents, 'document')}. "
        f"Matched by {named(mixture.by).label}"
        + (f" in part {mixture.part} of the network." if mixture.part else ".")
    )


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


def _weight(one: Share) -> float:
    return 0.0 if one.weight.value is None else one.weight.value


def page_of_run(mixture: Mixture, run: FinishedRun | None, _links: Mapping[str, str]) -> str:
    """The page of a mixture."""
    title = f"What {mixture.target} is made of"
    return mixture_page(mixture, title=title, facts=kept_facts(run), command=command_of(run))
