"""The page of one refinement: nothing is computed, nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from unembed.report.comparison import margins as comparison_margins
from unembed.report.comparison import sections as comparison
from unembed.report.parts.page import environment
from unembed.report.refinement import curves as refinement_curves
from unembed.report.refinement import sections as refinement
from unembed.training.run.summary import RefinementSummary


def refinement_page(
    title: str,
    summary: RefinementSummary,
    recipe: Mapping[str, Any],
    facts: Sequence[tuple[str, str]],
    pages: tuple[str, str],
) -> str:
    """The page of one refinement: gain and cost, how the run went, what moved held out.

    ``recipe`` holds the plain values of the run's recipe, ``pages`` where the held-out and the
    training comparison's pages lie. Otherwise as ``audit_page``.

    Raises ``ReportUnavailable`` where the extra ``plot`` is not installed.
    """
    watched = refinement_curves.watched_section(summary)
    moved = (
        comparison.flow_section(summary.heldout),
        comparison_margins.margins_section(summary.heldout),
    )
    return (
        environment()
        .get_template("refinement.html.jinja")
        .render(
            title=title,
            headline=refinement.headline(summary),
            extent=refinement.extent(summary),
            account=refinement.account(summary),
            notes=refinement.notes(summary),
            cards=refinement.cards(summary),
            sections=(
                refinement.cost_section(summary),
                refinement_curves.training_section(summary, recipe["clip"]),
                *([] if watched is None else [watched]),
                *(replace(section, title=f"Held out: {section.title}") for section in moved),
            ),
            heldout_page=pages[0],
            training_page=pages[1],
            facts=(*refinement.recipe_facts(recipe), *facts),
        )
    )
