"""What page and verdict say of a draft."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from made_up.comparisons import make_comparison, make_drafts
from unembed.decisions.comparison.drafts import TOO_SHORT, DraftSummary
from unembed.report.comparison.drafts import draft_section
from unembed.report.parts.wording import cell, decimal, fine_share
from unembed.report.verdicts.comparison import verdict
from unembed.report.verdicts.drafts import draft_sentence
from unembed.stats.estimate import Estimate


@pytest.fixture(scope="module")
def drafts() -> DraftSummary:
    return make_drafts()


def test_the_section_shows_each_sampler_at_its_best(drafts: DraftSummary) -> None:
    section = draft_section(drafts)
    assert section is not None
    [table] = section.tables
    assert [row[0] for row in table.rows] == ["T = 1", "T = 0.8, top-p 0.95", "greedy"]
    for row, one in zip(table.rows, drafts.samplings, strict=True):
        best = one.at_best
        assert best is not None
        assert row[1] == cell(one.acceptance, fine_share)
        assert row[2].startswith(str(best.drafted))
        assert row[3] == cell(best.tokens, decimal)
        assert row[5] == cell(best.speedup, decimal)
    assert "0.250 of one of the target’s: 1,000,000 parameters of 4,000,000" in section.lead
    assert draft_section(None) is None


def test_every_number_of_drafted_tokens_is_drawn_and_listed(drafts: DraftSummary) -> None:
    section = draft_section(drafts)
    assert section is not None
    assert [figure.name for figure in section.figures] == ["draft-1", "draft-2"]
    assert [len(figure.tables) for figure in section.figures] == [2, 1]
    for figure in section.figures:
        assert figure.chart.wide.count("drafted token") >= 12 * len(figure.tables)
        for table in figure.tables:
            assert [row[0] for row in table.rows] == [str(n) for n in range(1, 13)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "It pays as a draft: decoding is "),
        ({"level": 0.3, "cost": 1.0}, "It does not pay as a draft: decoding is 0."),
    ],
)
def test_the_verdict_says_whether_it_pays(given: dict[str, Any], words: str) -> None:
    found = draft_sentence(make_drafts(**given))
    assert found.startswith(words)
    assert "at T = 0.8, top-p 0.95" in found


def test_the_verdict_says_no_more_than_the_interval_allows(drafts: DraftSummary) -> None:
    plain, asked, greedy = drafts.samplings
    best = asked.at_best
    assert best is not None
    unsure = replace(best, speedup=replace(best.speedup, value=1.1, low=0.9, high=1.3))
    lengths = tuple(unsure if one is best else one for one in asked.lengths)
    summary = replace(drafts, samplings=(plain, replace(asked, lengths=lengths), greedy))
    assert draft_sentence(summary).startswith("Whether it pays as a draft is too close to call")
    nothing = replace(plain, best=Estimate(None, reason=TOO_SHORT))
    said = draft_sentence(replace(drafts, samplings=(nothing, greedy)))
    assert said == f"Whether it pays as a draft cannot be told: {TOO_SHORT}."


def test_a_comparison_leads_with_it_and_says_what_it_rests_on(drafts: DraftSummary) -> None:
    summary = make_comparison().summary
    plain, judged = verdict(summary), verdict(replace(summary, drafts=drafts))
    assert judged.sentence.startswith(draft_sentence(drafts))
    assert plain.sentence[1:] in judged.sentence
    assert "taken from the numbers of parameters: give --draft-cost" in judged.trust
    given = verdict(replace(summary, drafts=make_drafts(cost=0.2)))
    assert "rests on the cost given" in given.trust
    assert "draft" not in plain.trust
