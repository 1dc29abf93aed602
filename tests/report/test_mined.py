"""What page, verdict and terminal say of what a change taught."""

from __future__ import annotations

from dataclasses import replace

import pytest

from made_up.comparisons import make_comparison, make_mined
from unembed.decisions.comparison.mining import MinedSummary, mined_rows, per_thousand
from unembed.report.comparison.mined import mined_section
from unembed.report.parts.wording import cell, decimal, fine_share, full
from unembed.report.verdicts.comparison import verdict
from unembed.report.verdicts.mined import mined_sentence, mined_trust


@pytest.fixture(scope="module")
def mined() -> MinedSummary:
    return make_mined()


def test_the_section_shows_what_rose_and_what_fell(mined: MinedSummary) -> None:
    section = mined_section(mined)
    assert section is not None
    assert [figure.name for figure in section.figures] == ["mined-rose", "mined-fell"]
    for figure, tokens in zip(section.figures, (mined.rose, mined.fell), strict=True):
        [table] = figure.tables
        assert [row[0] for row in table.rows] == [one.text for one in tokens]
        first = tokens[0]
        assert table.rows[0][1:] == (
            per_thousand(first.before),
            per_thousand(first.after),
            cell(first.factor, decimal),
        )
        assert f"{full(first.factor, decimal)} times as often" in figure.chart.wide
    assert mined.rose[0].text == "a"
    assert mined.fell[0].text == "b"
    assert cell(mined.moved, fine_share) in section.lead
    assert "swapped in documents drawn at random, none would be listed" in section.lead
    assert mined_section(None) is None


def test_contexts_are_quoted_once_a_document(mined: MinedSummary) -> None:
    section = mined_section(mined)
    assert section is not None
    for table, contexts in zip(section.tables, (mined.risen, mined.fallen), strict=True):
        assert len(table.rows) == 10
        assert len({row[-1] for row in table.rows}) == 10
        assert table.rows[0][1] == contexts[0].token
        assert " → " in table.rows[0][2]
    assert section.folded[-1].rows[0][0] == "structural"


def test_the_verdict_names_the_surest_token(mined: MinedSummary) -> None:
    said = mined_sentence(mined)
    assert said.startswith("It taught which tokens to expect, 1.25 times or more: ")
    assert "more often, most surely “a” (" in said
    assert "less often, most surely “b” (0.3" in said
    assert "none would be listed as taught" in mined_trust(mined)
    summary = make_comparison().summary
    whole = verdict(replace(summary, mined=mined))
    assert whole.sentence == f"{verdict(summary).sentence} {said}"


def test_noise_taught_nothing_in_particular() -> None:
    noise = make_mined(taught=1.0)
    assert 0.01 < float(noise.moved) < 0.05
    said = mined_sentence(noise)
    assert said.startswith("It taught nothing in particular: none of 12 tokens is expected surely")
    section = mined_section(noise)
    assert section is not None
    assert section.figures == ()
    assert "None is expected surely 1.25 times as often" in section.lead
    [moved, taught] = mined_rows(noise)
    assert moved[0] == "probability moved"
    assert taught[1].startswith("0 expected 1.25 times as often or more, 0 as rarely, of 12")


def test_few_documents_are_said_to_tell_nothing() -> None:
    few = make_mined(documents=5)
    assert few.n_determined == 0
    assert "cannot be told: the documents are too few" in mined_sentence(few)
    assert mined_trust(few) == ""
    section = mined_section(few)
    assert section is not None
    assert "too few to tell so many tokens apart" in section.lead


def test_the_terminal_prints_five_of_each(mined: MinedSummary) -> None:
    rows = mined_rows(mined)
    assert rows[0] == ("probability moved", cell(mined.moved, fine_share))
    assert rows[2][0] == "more often, “a”"
    assert " times, " in rows[2][1]
    assert len(mined_rows(replace(mined, rose=mined.rose[:1] * 9, fell=mined.fell[:1] * 9))) == 12
    assert mined_rows(None) == []
