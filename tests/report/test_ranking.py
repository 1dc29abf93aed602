"""The pages of rankings and mixtures: their numbers are the record's, they stand on their own."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from browser import Watched, browser_test
from made_up.selection import FEW, mixture, ranking
from unembed.report.mixture import page as mixture_report
from unembed.report.mixture.page import mixture_page
from unembed.report.parts import wording
from unembed.report.parts.scales import scale_of
from unembed.report.ranking import page as ranking_report
from unembed.report.ranking.page import ranking_page
from unembed.report.verdicts.ranking import contenders, verdict
from unembed.selection.mixing.record import Mixture
from unembed.selection.mixing.text import by_weight, interleave_line
from unembed.selection.ranking.records import Ranking
from unembed.selection.ranking.text import chance
from unembed.selection.scores import SCORES
from unembed.stats.estimate import Estimate

FACTS = [("Model", "example/base <b>")]
WARNING = "python scripts and java services are too alike to be told apart."


class Rows(HTMLParser):
    """The cells of every row of the body of every table, and every start tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.places: list[dict[str, float]] = []
        self._cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag == "tr":
            self.rows.append([])
            self.places.append({})
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._cell = True
        if tag == "i" and self.places and given.get("class") in ("dot", "span"):
            found = re.findall(r"([a-z]+):(-?[\d.]+)%", given["style"] or "")
            for name, number in found:
                self.places[-1][f"{given['class']} {name}"] = float(number)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data


def ranked(record: Ranking) -> str:
    return ranking_page(record, title="Help <b>", facts=FACTS, command="rank it")


def mixed(record: Mixture) -> str:
    return mixture_page(record, title="Made of <b>", facts=FACTS, command="mix it")


@pytest.mark.parametrize("page", [ranked(ranking(12, missing=2)), mixed(mixture(6))])
def test_loads_nothing_and_escapes(page: str) -> None:
    assert not re.search(r"(https?:)?//[a-z]", page, re.IGNORECASE)
    for word in ("@import", "url(", "{%", "{{"):
        assert word not in page
    tags = Rows(page).tags
    for tag, attributes in tags:
        assert tag not in {"img", "iframe", "object", "embed", "base", "image", "use"}
        assert "src" not in attributes
    assert "default-src 'none'" in page
    assert "&lt;b&gt;" in page
    ids = [given["id"] for _, given in tags if "id" in given]
    assert len(ids) == len(set(ids))
    links = [given["href"] or "" for tag, given in tags if tag == "a"]
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert not re.search(r"\bnan\b|None", page)


def test_pages_are_the_same_every_time() -> None:
    assert ranked(ranking(9)) == ranked(ranking(9))
    assert mixed(mixture(5)) == mixed(mixture(5))


def test_ranking_rows_are_the_records() -> None:
    record = ranking(12, missing=2)
    parsed = Rows(ranked(record))
    scale = ranking_report.forest(record).scale
    found = {row[0]: (row, place) for row, place in zip(parsed.rows, parsed.places, strict=True)}
    for source in record.sources[:10]:
        row, place = found[source.name]
        score = Estimate(source.value, source.low, source.high)
        assert row[2] == wording.point(score, wording.three)
        assert row[3] == chance(source.best)
        assert row[4] == wording.interval(score, wording.three)
        assert row[5:] == [f"{source.samples:,}", f"{source.documents:,}"]
        # The drawing says what the cells say, in percent of the axis.
        span = scale.high - scale.low
        assert place["dot left"] == pytest.approx(100 * (source.value - scale.low) / span, abs=0.01)
        low = scale.low + span * place["span left"] / 100
        high = low + span * place["span width"] / 100
        assert (low, high) == pytest.approx((source.low, source.high), abs=2e-4 * span)
    for source in record.sources[10:]:
        assert found[source.name][0] == [source.name, FEW, "40", "4"]


def test_those_that_may_be_best_stand_out() -> None:
    record = ranking(5)
    may = [source.name for source in contenders(record)]
    assert 0 < len(may) < 5
    looks = {row.name: row.look for row in ranking_report.forest(record).rows}
    assert {name for name, look in looks.items() if look == "lead"} == set(may)


def test_an_interval_is_drawn_as_far_as_it_is_possible() -> None:
    record = ranking(2)
    first, second = record.sources
    lost = replace(second, value=1.2, low=0.7, high=1.7)
    rows = ranking_report.forest(
        replace(record, sources=(replace(first, low=0.9, value=0.98, high=1.06), lost))
    ).rows
    assert (rows[0].value, rows[0].low, rows[0].high) == (0.98, 0.9, 1.0)
    assert (rows[1].value, rows[1].low, rows[1].high) == (None, None, None)
    assert "not determined" in ranked(replace(record, sources=(lost,)))


def test_pages_of_degenerate_rankings() -> None:
    assert 'class="plot"' not in ranked(ranking(3, missing=3))
    four = ranking(4)
    unsure = replace(
        four, sources=tuple(replace(one, low=None, high=None, best=None) for one in four.sources)
    )
    page = ranked(unsure)
    assert "chance to be best" not in page
    assert 'class="span"' not in page
    assert "There is no source to rank" in ranked(ranking(0))


def test_notes_say_what_to_know() -> None:
    record = ranking(6, missing=2, by="gradient", shift=-0.9)
    doubted = replace(
        record,
        status=FEW,
        sources=(replace(record.sources[0], status="noisy: n = 90"), *record.sources[1:]),
    )
    notes = ranking_report.notes(doubted)
    assert notes[0] == f"The target, field notes: {FEW}."
    assert notes[1] == "sonnets: noisy: n = 90."
    assert "2 sources have no score" in verdict(doubted).change
    assert verdict(doubted).sentence.startswith("Every source works against field notes")
    assert all(note.replace("&", "&amp;") in ranked(doubted) for note in notes)
    biased = ranking_report.notes(replace(ranking(3), debiased=False))
    assert biased[-1].startswith("The norms count each sample against itself")
    assert ranking_report.notes(ranking(3)) == ()


def test_every_score_has_a_name_and_a_meaning() -> None:
    for name, score in SCORES.items():
        assert score.label
        assert score.meaning in ranked(ranking(2, by=name)).replace("&#39;", "'")
    assert "The larger the score" in ranked(ranking(2, by="another"))


def test_three_hundred_sources() -> None:
    record = ranking(300, missing=40)
    page = ranked(record)
    assert len(page.encode()) < 400_000
    rows = Rows(page).rows
    assert sum(row[0] in {source.name for source in record.sources} for row in rows) == 300
    assert "others cannot be told apart as the best source for field notes." in page


@pytest.mark.parametrize(
    "values", [[0.0], [0.3, 0.3], [-2e-9, 5e-9], [12_000.0, 98_000.0], [-0.4, 0.91], [1.0, 1.0001]]
)
def test_an_axis_holds_its_values_between_round_ends(values: list[float]) -> None:
    scale = scale_of(values)
    assert scale.low <= min(values) <= max(values) <= scale.high
    assert 1 <= len(scale.ticks) <= 6
    labels = [scale.label(tick) for tick in scale.ticks]
    assert len(set(labels)) == len(labels)
    assert not any(label.startswith("−0.0") and not label.strip("−0.") for label in labels)
    for tick in scale.ticks:
        assert math.isclose(tick / scale.step, round(tick / scale.step), abs_tol=1e-6)


def test_mixture_rows_are_the_records() -> None:
    record = mixture(6, warnings=(WARNING,))
    page = mixed(record)
    parsed = Rows(page)
    scale = mixture_report.forest(record).scale
    found = {row[0]: (row, place) for row, place in zip(parsed.rows, parsed.places, strict=True)}
    for one in record.shares:
        row, place = found[one.name]
        assert row[2] == wording.point(one.weight, wording.share)
        assert float(row[4].split()[0]) == pytest.approx(100 * one.probability, abs=0.06)
        assert row[3] == wording.interval(one.weight, wording.share)
        assert row[5:] == [f"{one.samples:,}", f"{one.documents:,}"]
        assert place["dot left"] == pytest.approx(100 * one.weight.value / scale.high, abs=0.01)
    weights = [one.weight.value for one in by_weight(record)]
    assert weights == sorted(weights, reverse=True)
    assert f"<li>{WARNING}</li>" in page
    assert page.index(WARNING) < page.index("<main>")
    line = interleave_line(record)
    assert line is not None
    assert f"mixed = {line}</code>" in page
    assert f"{wording.full(record.residual, wording.share)} is left that no mixture" in page
    assert "summed to 0.97 [0.93, 1.02]" in page
    assert "is surely left" not in page
    clean = replace(record, residual=Estimate(0.003, -0.01, 0.016, 5012))
    assert "is surely left" in mixed(clean)


def test_a_page_offers_no_mixture_that_makes_little_of_the_target() -> None:
    line = 'id="use"'
    assert line in mixed(mixture(3))
    left = replace(mixture(3), residual=Estimate(0.928, 0.9, 0.956))
    assert line not in mixed(left)
    roughly = "others within their intervals may do as well"
    assert roughly not in mixed(mixture(3))
    wide = [replace(one, weight=Estimate(0.5, 0.0, 1.0)) for one in mixture(3).shares]
    assert roughly in mixed(replace(mixture(3), shares=tuple(wide)))
    lost = Estimate(None, reason="too few samples")
    shares = tuple(replace(one, weight=lost, probability=0.0) for one in mixture(3).shares)
    assert line not in mixed(replace(mixture(3), shares=shares, total=lost, residual=lost))


class TestRankingInBrowser:
    pytestmark = browser_test

    @pytest.fixture
    def file(self, tmp_path: Path) -> str:
        path = tmp_path / "ranking.html"
        path.write_text(ranked(ranking(12, missing=2)), encoding="utf-8")
        return path.as_uri()

    @pytest.mark.parametrize("opened", [(1280, 900), (700, 900), (360, 800)], indirect=True)
    def test_nothing_overflows_and_dots_lie_under_their_ticks(self, opened: Watched) -> None:
        view = opened.page
        width = view.viewport_size["width"]
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        ticks, grid = (
            view.evaluate(
                f"[...document.querySelectorAll('{which}')].map(one => {{"
                " const box = one.getBoundingClientRect(); return (box.left + box.right) / 2; })"
            )
            for which in (".ticks i:first-child", "tbody tr:first-child .grid:first-child")
        )
        assert ticks == pytest.approx(grid, abs=1.5)


class TestMixtureInBrowser:
    pytestmark = browser_test

    @pytest.fixture
    def file(self, tmp_path: Path) -> str:
        path = tmp_path / "mixture.html"
        path.write_text(mixed(mixture(6, warnings=(WARNING,))), encoding="utf-8")
        return path.as_uri()

    @pytest.mark.parametrize("opened", [(1280, 900), (360, 800)], indirect=True)
    def test_the_line_can_be_copied(self, opened: Watched) -> None:
        view = opened.page
        width = view.viewport_size["width"]
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        view.locator("#copy").click()
        view.wait_for_function("document.getElementById('copy').textContent !== 'Copy'")
        assert "interleave_datasets([" in view.evaluate("getSelection().toString()")
