"""The page of a ladder: its one table, its charts, and what is added with several texts."""

from __future__ import annotations

from made_up.ladders import NOISE, make_ladder
from markup import without_terms
from unembed.report.ladder.page import ladder_page, page_of_run, sections, sections_of
from unembed.report.parts.parts import Section
from unembed.report.verdicts.ladder import quality
from unembed.stats.forms import in_bytes


def test_the_table_has_every_variant_from_the_fewest_bytes_on() -> None:
    summary = make_ladder().summary
    [table] = sections(summary)[0].tables
    assert [row[0] for row in table.rows] == ["int4", "awq", "int8", "bf16"]
    for row in table.rows:
        cells = dict(zip(table.head, row, strict=True))
        own = next(one for one in summary.rows if one.name == row[0])
        size = summary.facts(row[0]).bytes
        assert cells["weights"].endswith(in_bytes(size.weights))
        assert cells["weights"].startswith("≈") == (size.known == "nominal")
        assert cells["W→R"] == f"{own.wrong_to_right:,}"
        assert cells["verdict"] == quality(own)


def test_charts_show_every_variant() -> None:
    direction, displacement = sections_of(make_ladder())[0].figures
    for figure in (direction, displacement):
        names = [
            row["name"]
            for layer in figure.chart.spec["layer"]
            if layer["mark"]["type"] == "text"
            for row in layer["data"]["values"]
        ]
        assert sorted(names) == sorted(NOISE)


def test_pairs_are_there_once_and_of_each_text() -> None:
    assert len(_section(1, "pairs").tables[0].rows) == 6
    several = _section(2, "pairs")
    assert [table.caption for table in several.folded] == ["On text0", "On text1"]


def test_texts_have_tables_of_their_own() -> None:
    assert [one.name for one in sections(make_ladder(1).summary)] == ["variants", "pairs", "bytes"]
    tables = _section(2, "texts").tables
    assert [table.caption.partition(":")[0] for table in tables] == ["text0", "text1"]
    page = without_terms(ladder_page(make_ladder(2).summary, title="A ladder"))
    assert "of 2 texts: figures are their plain means" in page


def test_what_was_refused_is_said() -> None:
    page = without_terms(page_of_run(make_ladder(), None, {}))
    assert "gptq was not measured: its weights are damaged" in page
    assert "4 variants of base" in page


def _section(texts: int, name: str) -> Section:
    return next(one for one in sections(make_ladder(texts).summary) if one.name == name)
