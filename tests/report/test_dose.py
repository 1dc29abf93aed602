"""The page of a grid of refined models: its numbers are the record's, it stands on its own."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import pytest

from browser import Watched, browser_test
from made_up.doses import Grid, disturbed
from markup import Elements
from unembed.report.dose import charts as dose_charts
from unembed.report.dose import page as dose
from unembed.report.dose import tables as dose_tables
from unembed.report.dose.page import dose_page
from unembed.report.parts import wording
from unembed.report.verdicts.dose import verdict
from unembed.stats.estimate import Estimate
from unembed.training.doses.records import TEMPERATURE, DoseTable
from unembed.training.doses.table import DosePoint, dose_table

FACTS = [("Model", "example/base <b>")]
NOTES = ["margin-2-seed1 could not be trained: <i>not finite</i>\u202e"]


@pytest.fixture(scope="module")
def grid() -> Grid:
    return Grid()


@pytest.fixture(scope="module")
def points(grid: Grid) -> list[DosePoint]:
    """Those of the grid, with read-outs of what was trained."""
    return [
        point
        if point.objective == TEMPERATURE
        else replace(point, read_outs=disturbed(point.audit, "d" * (i + 2), 0.2))
        for i, point in enumerate(grid.points())
    ]


@pytest.fixture(scope="module")
def heldout(grid: Grid, points: list[DosePoint]) -> DoseTable:
    start = disturbed(grid.start, "s", 0.4)
    return dose_table(grid.start, points, start_read_outs=start, resamples=60)


@pytest.fixture(scope="module")
def training() -> DoseTable:
    other = Grid(n=300, documents=5)
    return dose_table(other.start, other.points(), resamples=60)


@pytest.fixture(scope="module")
def page(heldout: DoseTable, training: DoseTable) -> str:
    return dose_page("A grid <b>", heldout, training, FACTS, NOTES)


@pytest.fixture(scope="module")
def file(page: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "dose.html"
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


def with_differences(table: DoseTable, low: float, high: float) -> DoseTable:
    """The same with other intervals of every difference."""
    return replace(
        table,
        matched=tuple(
            replace(one, difference=replace(one.difference, low=low, high=high))
            if one.difference.value is not None
            else one
            for one in table.matched
        ),
    )


def test_loads_nothing_and_is_the_same_every_time(
    page: str, heldout: DoseTable, training: DoseTable
) -> None:
    assert not re.search(r"(https?:)?//[a-z]", page, re.IGNORECASE)
    assert "@import" not in page
    assert "url(" not in page
    assert "{%" not in page
    tags = Elements(page).tags
    for tag, attributes in tags:
        assert tag not in {
            "img",
            "iframe",
            "object",
            "embed",
            "base",
            "image",
            "use",
            "b",
            "i",
        } or (tag == "i" and "key" in (attributes.get("class") or ""))
        assert "src" not in attributes
    assert "default-src 'none'" in page
    assert dose_page("A grid <b>", heldout, training, FACTS, NOTES) == page
    assert len(page.encode()) < 900_000


def test_ids_are_unique_and_links_lead_somewhere(page: str) -> None:
    tags = Elements(page).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] or "" for tag, attributes in tags if tag == "a"]
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_foreign_text_stays_text(page: str) -> None:
    assert "A grid &lt;b&gt;" in page
    assert "&lt;i&gt;not finite&lt;/i&gt;⟨U+202E⟩" in page
    assert "example/base &lt;b&gt;" in page


def test_numbers_are_those_of_the_records(
    page: str, heldout: DoseTable, training: DoseTable
) -> None:
    for table in (heldout, training):
        for row in table.rows:
            figures = row.figures
            for estimate, form in (
                (figures.median_margin_gain, wording.change),
                (figures.below_half, wording.fine_share),
                (figures.churn, wording.fine_share),
                (figures.rotation, wording.fine_share),
                (figures.mean_change, wording.signed),
                (figures.nll_change, wording.signed),
            ):
                assert wording.cell(estimate, form) in page
            for group in (*row.by_frequency, *row.by_band):
                if group.accuracy.value is not None:
                    assert wording.cell(group.accuracy, wording.fine_share) in page
            if row.over_control is not None:
                assert wording.cell(row.over_control.right_to_wrong, wording.points) in page
    for one in heldout.matched:
        if one.difference.value is not None:
            assert wording.cell(one.difference, wording.points) in page
            assert wording.cell(one.difference, wording.points) in page
    read_outs = heldout.rows[1].read_outs
    assert read_outs is not None
    assert wording.cell(read_outs.changes[0].ratio, wording.decimal) in page


def test_counts_are_shares_of_the_positions(heldout: DoseTable) -> None:
    tables = dose_tables.published_tables(heldout)
    flips = next(table for table in tables if table.caption.startswith("Churn"))
    row = heldout.rows[2]
    lost = round((row.figures.right_to_wrong.value or 0) * heldout.n_positions)
    cells = dict(zip(flips.head, flips.rows[2], strict=True))
    assert cells["dose"] == "fisher 0.6"
    assert cells["right to wrong"].startswith(f"{lost}, ")
    classes = next(table for table in tables if table.caption.startswith("Net flips"))
    nets = [round((g.net.value or 0) * heldout.n_positions) for g in row.by_class]
    shown = [int(cell.replace("−", "-")) for cell in classes.rows[2][1:-1]]
    assert shown == nets


def test_what_does_not_exist_is_explained_once(heldout: DoseTable) -> None:
    tables = dose_tables.published_tables(heldout)
    flips = next(table for table in tables if table.caption.startswith("Churn"))
    assert "; none: a seed has fewer than 10 flips" in flips.caption
    assert flips.rows[-1][flips.head.index("ratio")] == "none"
    matched = dose.matched_tables(heldout)
    assert "none: temperature reaches only" in matched[1].caption
    assert "none" not in matched[0].caption


def test_the_page_begins_with_the_verdict(page: str, heldout: DoseTable) -> None:
    found = verdict(heldout)
    head = unescape(page[: page.index("<main>")])
    assert f'<p class="reading">{found.sentence}</p>' in head
    for bullet in (found.quality, found.change, found.trust):
        assert bullet in head
    assert TEMPERATURE not in str(found)


def test_the_lead_of_the_comparisons_says_how_many_there_are(heldout: DoseTable) -> None:
    alone = replace(heldout, matched=tuple(m for m in heldout.matched if m.second == TEMPERATURE))
    assert len(dose.verdicts(alone)[0].sentences) == 3
    nothing = Estimate(None, reason="margin reaches only +8 %")
    short = tuple(
        replace(one, at=None, difference=nothing, verdict="a and b cannot be compared: far")
        for one in heldout.matched
    )
    made = sum(one.difference.low is not None for one in heldout.matched)
    assert 0 < made < len(heldout.matched)
    assert f"{made} comparisons were made" in dose.verdicts_lead(heldout)
    assert "no gain in common" in dose.verdicts_lead(replace(heldout, matched=short))


def test_verdicts_stand_by_damage_without_their_place(heldout: DoseTable) -> None:
    found = dose.verdicts(heldout)
    assert [one.damage for one in found] == ["Loss", "Right-to-wrong", "Churn"]
    assert all(len(one.sentences) == 3 for one in found)
    for one in found:
        for words, _ in one.sentences:
            assert not words.lower().startswith("at ")
            assert TEMPERATURE not in words
    assert all(
        bold
        for one in dose.verdicts(with_differences(heldout, 0.1, 0.2))
        for _, bold in one.sentences
    )


def test_extent_in_words(heldout: DoseTable, training: DoseTable) -> None:
    words = dose.extent(heldout, training)
    assert words.startswith("6 doses of 3 objectives, 3 seeds each")
    assert "Held out: 420 positions in 7 documents; training text: 300 positions in 5" in words
    lone = Grid(n=150, documents=1, weights=(0.6,))
    table = dose_table(lone.start, lone.points(seeds=(0,), objectives=("fisher",)), resamples=60)
    words = dose.extent(table, table)
    assert "1 dose of 1 objective, 1 seed each" in words
    assert "With one seed, intervals are over documents alone." in words
    assert "no intervals" in words
    assert dose_page("t", table, table, FACTS).count("<svg") > 20


def test_frontier_draws_every_dose_and_seed(heldout: DoseTable) -> None:
    gain, damage = dose.GAINED[0], dose.DAMAGED[1]
    spec = dose_charts.frontier(heldout.rows, gain, damage, 0.2)
    upright, line, seeds, _, _, means = spec["layer"]
    assert upright["data"]["values"] == [{"x": 0.2}]
    assert len(means["data"]["values"]) == len(heldout.rows)
    assert len(seeds["data"]["values"]) == 7 * 3
    paths: dict[str, list[float]] = {}
    for point in line["data"]["values"]:
        paths.setdefault(point["objective"], []).append(point["x"])
    control = heldout.rows[0].figures.median_margin_gain.value
    assert set(paths) == {"fisher", "margin", "entropy", "temperature"}
    assert all(path[0] == control for name, path in paths.items() if name != "temperature")
    assert paths["temperature"][0] == 0
    assert all(len(path) == 3 for path in paths.values())


def test_without_read_outs_there_is_no_such_section(training: DoseTable, page: str) -> None:
    assert dose.read_outs_section(training) is None
    assert 'id="read-outs"' in page


class TestInBrowser:
    pytestmark = browser_test

    def test_charts_have_a_size_and_tell_their_reading(self, opened: Watched) -> None:
        charts = opened.page.locator(".chart.wide svg")
        assert charts.count() == 6 + 10 + 2
        for i in range(charts.count()):
            box = charts.nth(i).bounding_box()
            assert box["width"] > 300
            assert box["height"] > 200
        mark = opened.page.locator("#frontier .wide [data-tip]").first
        mark.scroll_into_view_if_needed()
        mark.hover()
        assert "median margin" in opened.page.locator("#hint").inner_text()

    def test_one_split_is_shown_at_a_time(self, opened: Watched) -> None:
        view = opened.page
        heldout, training = (view.locator(f".splits > .{name}") for name in ("heldout", "training"))
        assert heldout.is_visible()
        assert training.is_hidden()
        view.locator("label[for=training-shown]").click()
        assert heldout.is_hidden()
        assert training.is_visible()

    @pytest.mark.parametrize("opened", [(360, 800)], indirect=True)
    def test_phone(self, opened: Watched) -> None:
        view = opened.page
        assert view.locator(".chart.narrow svg").first.is_visible()
        assert view.locator(".chart.wide svg").first.is_hidden()
        for one in view.locator("details").all():
            one.evaluate("one => { one.open = true; }")
        assert view.evaluate("document.documentElement.scrollWidth") <= 360


def shared(table: DoseTable) -> DoseTable:
    """The table as if its weights were shares of the gradient, and took other weights."""
    rows = tuple(
        row
        if row.objective in ("none", TEMPERATURE)
        else replace(row, gradient_share=row.weight, weight=7.25 * row.weight)
        for row in table.rows
    )
    return replace(table, rows=rows)


def test_shares_of_the_gradient_are_named_and_drawn_where_they_were_set(
    heldout: DoseTable, training: DoseTable
) -> None:
    table = shared(heldout)
    page = unescape(re.sub("<[^>]*>", "", dose_page("A grid", table, training, FACTS)))
    assert "A dose is the penalty’s share of the loss’s gradient" in page
    assert "fisher at share 0.3" in page
    assert "2.175" in page  # The weight that it took.
    found = [(row, row.figures.churn) for row in table.rows]
    spec = dose_charts.doses(found, dose.DOSED[5])
    [axis] = {layer["encoding"]["x"]["axis"]["title"] for layer in spec["layer"]}
    assert axis == "share of the loss’s gradient"


def test_weights_of_other_scales_stand_as_shares_of_the_largest(heldout: DoseTable) -> None:
    rows = [
        replace(row, weight=10 * row.weight) if row.objective == "fisher" else row
        for row in heldout.rows
        if row.objective != TEMPERATURE
    ]
    one = dose_charts.DoseAxis.of(rows)
    assert one.title == "weight, as a share of the largest (fisher 6, margin 0.6, entropy 0.6)"
    places = {row.name: one.at(row) for row in rows}
    assert places["fisher 3"] == places["margin 0.3"] == 0.5
    assert places["no penalty"] == 0.0
    assert dose_charts.DoseAxis.of(list(heldout.rows)).title == "weight"
