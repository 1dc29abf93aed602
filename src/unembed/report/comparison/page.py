"""The page of one comparison: nothing is computed, nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.decisions.comparison.excerpt import FlipDocument
from unembed.decisions.comparison.summary import ComparisonSummary
from unembed.report.comparison import calibration as comparison_calibration
from unembed.report.comparison import divergences as comparison_divergences
from unembed.report.comparison import groups as comparison_groups
from unembed.report.comparison import margins as comparison_margins
from unembed.report.comparison import sections as comparison
from unembed.report.comparison.text import flip_text_view
from unembed.report.parts.page import environment


def comparison_page(
    title: str,
    summary: ComparisonSummary,
    facts: Sequence[tuple[str, str]],
    documents: Sequence[FlipDocument],
    notes: Sequence[str] = (),
) -> str:
    """The page of one comparison: what changed, for whom, and the sample's text with its flips.

    ``notes`` follow those of the summary, which say what differs besides the model. Otherwise as
    ``audit_page``: one file that loads nothing, whole documents until the token budget is spent,
    the same bytes for the same arguments.

    Raises ``ReportUnavailable`` where the extra ``plot`` is not installed.
    """
    apart = comparison_divergences.divergence_section(summary)
    return (
        environment()
        .get_template("comparison.html.jinja")
        .render(
            title=title,
            headline=comparison.headline(summary),
            extent=comparison.extent(summary),
            account=comparison.account(summary),
            cards=comparison.cards(summary),
            before=(
                comparison.flow_section(summary),
                comparison_groups.groups_section(summary),
                comparison_groups.tokens_section(summary),
            ),
            after=(
                comparison_margins.margins_section(summary),
                comparison_calibration.calibration_section(summary.calibration),
                comparison_calibration.prediction_section(summary.prediction),
                *([] if apart is None else [apart]),
            ),
            text=flip_text_view(documents),
            changed=summary.flips.changed,
            documents=summary.n_documents,
            facts=facts,
            notes=(*summary.notes, *notes),
        )
    )
