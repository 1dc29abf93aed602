"""The page of one comparison: nothing is computed, nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from unembed.decisions.comparison.compare import Comparison
from unembed.decisions.comparison.excerpt import FlipDocument, flip_excerpts
from unembed.decisions.comparison.seeds import runs_in_words
from unembed.decisions.comparison.summary import ComparisonSummary
from unembed.report.comparison.calibration import calibration_section, prediction_section
from unembed.report.comparison.divergences import divergence_section
from unembed.report.comparison.drafts import draft_section
from unembed.report.comparison.flip_quotes import flips_of
from unembed.report.comparison.flow import flow_section
from unembed.report.comparison.groups import groups_section, tokens_section
from unembed.report.comparison.margins import margins_section
from unembed.report.comparison.mined import mined_section
from unembed.report.comparison.text import flip_text_view
from unembed.report.parts.facts import command_of, facts_of_both
from unembed.report.parts.page import template
from unembed.report.parts.parts import Card, Section, card
from unembed.report.parts.wording import (
    count,
    counted,
    decimal,
    point,
    points,
    share,
    signed,
    signed_count,
    size,
)
from unembed.report.verdicts.comparison import verdict
from unembed.runs.manifest import FinishedRun
from unembed.runs.provenance import Provenance


def comparison_page(
    title: str,
    summary: ComparisonSummary,
    facts: Sequence[tuple[str, str]],
    documents: Sequence[FlipDocument],
    notes: Sequence[str] = (),
    flips: Section | None = None,
) -> str:
    """The page of one comparison: what changed, for whom, and the sample's text with its flips.

    ``notes`` follow those of the summary, which say what differs besides the model; ``flips`` is
    ``flips_of`` the comparison. Otherwise as ``audit_page``: one file that loads nothing, whole
    documents until the token budget is spent, the same bytes for the same arguments.

    Raises ``ReportUnavailable`` where the extra ``plot`` is not installed.
    """
    before, after = _before_text(summary), _after_text(summary)
    return template("comparison").render(
        title=title,
        verdict=verdict(summary),
        extent=extent(summary),
        cards=cards(summary),
        flips=flips,
        before=before,
        sections=after,
        text=flip_text_view(documents),
        changed=summary.flips.changed,
        documents=summary.n_documents,
        facts=facts,
        notes=(*summary.notes, *notes),
    )


def sections_of(comparison: Comparison) -> tuple[Section, ...]:
    """Every figure and table of the page but the text."""
    summary = comparison.summary
    flips = flips_of(comparison)
    return (*((flips,) if flips else ()), *_before_text(summary), *_after_text(summary))


def _before_text(summary: ComparisonSummary) -> tuple[Section, ...]:
    return flow_section(summary), groups_section(summary), tokens_section(summary)


def _after_text(summary: ComparisonSummary) -> tuple[Section, ...]:
    found = (
        margins_section(summary),
        calibration_section(summary.calibration),
        prediction_section(summary.prediction),
        divergence_section(summary),
        mined_section(summary.mined),
        draft_section(summary.drafts),
    )
    return tuple(section for section in found if section is not None)


def extent(summary: ComparisonSummary) -> str:
    """How much was compared, and what was not."""
    words = f"{size(summary.n_positions, summary.n_documents)}, paired one to one."
    runs = runs_in_words(summary.seeds)
    if runs is not None:
        words += (
            f" {runs}, and intervals hold the spread between runs beside that between documents. "
            "The text below is of the first pair."
        )
    if summary.n_nonfinite:
        words += f" {counted(summary.n_nonfinite, 'position')}, not finite, left out."
    if summary.n_documents < 2:
        words += " There are no intervals, which take two documents."
    return words + (f" Only {summary.only}." if summary.only is not None else "")


def cards(summary: ComparisonSummary) -> tuple[Card, ...]:
    """The headline numbers."""
    flips, everywhere = summary.flips, summary.movement.everywhere
    gained, lost = flips.wrong_to_right, flips.right_to_wrong
    calibration, sides = summary.calibration, (flips.accuracy_before, flips.accuracy_after)
    accuracy = " before, ".join(point(side, share) for side in sides)
    losses = (calibration.before.nll_nats, calibration.after.nll_nats)
    loss = " before, ".join(point(side, decimal) for side in losses)
    margin, free = everywhere.margin, everywhere.relative_distance
    net = f"net {signed_count(flips.net)}; {accuracy} after"
    observed = f"{point(summary.prediction.observed, share)} observed"
    another = f"{count(flips.changed)} with another top-1"
    wider, free_wider = (
        f"of each position’s change; wider at {point(one.wider, share)}" for one in (margin, free)
    )
    return (
        card("Churn", flips.churn, share, "", another),
        card("Wrong → right", flips.wrong_to_right_share, share, "", counted(gained, "decision")),
        card("Right → wrong", flips.right_to_wrong_share, share, "", counted(lost, "decision")),
        card("Accuracy difference", flips.accuracy_difference, points, "", net),
        card("Loss difference", calibration.nll_difference_nats, signed, "nats", f"{loss} after"),
        card("Median Δ margin", margin.median, signed, "logits", wider),
        card("Median Δ scale-free margin", free.median, signed, "", free_wider),
        card("Churn that margins predict", summary.prediction.predicted, share, "", observed),
    )


def page_of_run(comparison: Comparison, run: FinishedRun | None, _links: Mapping[str, str]) -> str:
    """The page of a comparison."""
    made_of = comparison.provenance
    old, new = (Provenance.from_json(made_of[side]) for side in ("before", "after"))
    more = [
        [Provenance.from_json(one) for one in made_of[side]]
        for side in ("more_before", "more_after")
    ]
    sides = [Path(side.model).name for side in (old, new)]
    if sides[0] == sides[1] and not any(more):
        sides = [f"{sides[0]} in {old.model_dtype}", new.model_dtype]
    sides = [
        f"{name} and {len(n)} more" if n else name for name, n in zip(sides, more, strict=True)
    ]
    title = f"From {sides[0]} to {sides[1]}: what changed"
    names, first = (comparison.documents[name].to_pylist() for name in ("name", "first_token"))
    sample = flip_excerpts(comparison, comparison.vocabulary, names, first)
    facts = facts_of_both(old, new, command_of(run), *more)
    return comparison_page(title, comparison.summary, facts, sample, flips=flips_of(comparison))
