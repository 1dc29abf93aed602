"""The page of alignments: its numbers are the record's, it stands on its own."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from browser import Watched, browser_test
from made_up.alignments import FEW, example
from markup import Elements, painted
from unembed.report.alignment import charts as alignment_charts
from unembed.report.alignment import page as alignment
from unembed.report.alignment import tables as alignment_tables
from unembed.report.alignment.page import alignment_page
from unembed.report.alignment.pairs import TaskPair, by_joint, estimate, hint_data
from unembed.report.parts import heatmap, wording
from unembed.report.parts.marks import spaced
from unembed.report.parts.wording import side_of
from unembed.report.parts.wording import three as cosine
from unembed.signatures.alignment.ordering import dendrogram
from unembed.signatures.alignment.records import Alignments

FACTS = [("Model", "example/base <b>")]
NONE = dict.fromkeys(("activation", "error", "proxy", "coupling", "first_moment"))


def page_of(alignments: Alignments) -> str:
    return alignment_page(alignments, title="Tasks <b>", facts=FACTS, command="align it")


@pytest.fixture(scope="module")
def twelve() -> Alignments:
    return example(12, missing=(4,))


@pytest.fixture(scope="module")
def page(twelve: Alignments) -> str:
    return page_of(twelve)


@pytest.fixture(scope="module")
def file(page: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "alignment.html"
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


def test_loads_nothing_and_is_the_same_every_time(page: str, twelve: Alignments) -> None:
    assert not re.search(r"(https?:)?//[a-z]", page, re.IGNORECASE)
    assert "@import" not in page
    assert "url(" not in page
    assert "{%" not in page
    for tag, attributes in Elements(page).tags:
        assert tag not in {"img", "iframe", "object", "embed", "base", "image", "use", "b"}
        assert "src" not in attributes
    assert "default-src 'none'" in page
    assert page_of(twelve) == page
    assert len(page.encode()) < 400_000


def test_ids_are_unique_and_links_lead_somewhere(page: str) -> None:
    tags = Elements(page).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] or "" for tag, attributes in tags if tag == "a"]
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_foreign_text_stays_text(twelve: Alignments) -> None:
    named = replace(
        twelve,
        tasks=(
            replace(twelve.tasks[0], name='</script><i>"x\u202e', status="bad <i>"),
            *twelve.tasks[1:],
        ),
    )
    page = page_of(named)
    assert "Tasks &lt;b&gt;" in page
    assert "</script><i>" not in page
    assert "\u202e" not in page
    assert "\\u202e" not in page
    assert 'data-tip="</' not in page
    assert "bad &lt;i&gt;" in page
    assert not [tag for tag, given in Elements(page).tags if tag == "i" and "class" not in given]


def test_numbers_are_those_of_the_record(page: str, twelve: Alignments) -> None:
    pairs = by_joint(twelve)
    assert len(pairs) == 11 * 10 // 2
    table = alignment_tables.pair_tables(twelve)[0]
    joint = twelve.joint
    for pair, row in zip(pairs, table.rows, strict=True):
        i, j = pair.first, pair.second
        assert row[0] == f"{twelve.names[i]} · {twelve.names[j]}"
        shown = [
            wording.full(estimate(twelve, "joint", pair), cosine),
            *(cosine(twelve.pairs(kind).value[i, j]) for kind in ("activation", "error")),
        ]
        assert list(row[1:4]) == shown
        assert row[4].startswith(wording.full(estimate(twelve, "coupling", pair), cosine))
        low, high = twelve.coupling.low[i, j], twelve.coupling.high[i, j]
        assert row[4].endswith("▲") == (low > 1)
        assert row[4].endswith("▼") == (high < 1)
        assert row[5] == cosine(twelve.first_moment.value[i, j])
        for cell in row:
            assert cell in page
    values = [joint.value[pair.first, pair.second] for pair in pairs]
    assert values == sorted(values, reverse=True)
    assert f"11 pairs without a joint: {twelve.names[4]}: {FEW}" in table.caption
    for task in twelve.tasks:
        assert task.name in page
        assert wording.count(task.samples) in page
    assert alignment_tables.task_table(twelve).faint == {4}


def test_hints_are_those_of_the_record(twelve: Alignments) -> None:
    order = dendrogram(twelve.joint.value).order
    data = json.loads(hint_data(twelve, order))
    assert [task["name"] for task in data["tasks"]] == [twelve.names[at] for at in order]
    at = 0
    for i in range(12):
        for j in range(i + 1, 12):
            for kind, found in data["kinds"].items():
                for field in ("value", "low", "high", "sketch_se", "sampling_se"):
                    number = getattr(twelve.pairs(kind), field)[order[i], order[j]]
                    shown = found[field][at]
                    assert (shown is None) == bool(np.isnan(number))
                    if shown is not None:
                        assert shown / 1000 == pytest.approx(number, abs=0.0005001)
            at += 1
    assert at == len(data["kinds"]["joint"]["value"])


def test_maps_colour_every_cell_by_its_value(twelve: Alignments) -> None:
    tree = dendrogram(twelve.joint.value)
    figures = alignment.map_figures(twelve, tree)
    assert [figure.name for figure in figures] == ["joint", "activation", "error"]
    for figure in figures:
        matrix = twelve.pairs(figure.name).value
        for svg in (figure.chart.wide, figure.chart.narrow):
            for (row, column), found in painted(svg, 12).items():
                value = matrix[tree.order[row], tree.order[column]]
                if np.isnan(value):
                    assert found == "var(--missing)"
                else:
                    level = min(20, int(max(value, 0) * 20) + 1)
                    assert found == heatmap.colour(level, signed=False)
    hatched = re.search(r'class="hatch" d="([^"]*)"', figures[0].chart.wide)
    assert hatched is not None
    assert hatched[1].count("M") == 23
    assert 'class="row doubted"' in figures[0].chart.wide


def test_levels_have_ends_and_a_sign() -> None:
    matrix = np.array([[-0.3, 1.2], [np.nan, 0.0]])
    assert heatmap.levels_of(matrix, signed=False).tolist() == [[1, 20], [0, 1]]
    assert heatmap.levels_of(matrix, signed=True).tolist() == [[-7, 20], [0, 1]]
    assert "--wrong" in heatmap.colour(-7, signed=True)
    assert "--right" in heatmap.colour(7, signed=True)


@pytest.mark.parametrize("tasks", [2, 12, 31, 60])
def test_names_do_not_run_into_each_other(tasks: int) -> None:
    alignments = example(tasks)
    tree = dendrogram(alignments.joint.value)
    wide = alignment.map_figures(alignments, tree)[0].chart.wide
    rows = [float(y) for y in re.findall(r'<text class="row" x="[^"]*" y="([^"]*)"', wide)]
    assert all(after - before >= 11.9 for before, after in pairwise(rows))
    columns = re.findall(r'class="column" transform="translate\(([\d.]+) ', wide)
    lefts = [float(x) for x in columns]
    assert all(after - before >= 13.9 for before, after in pairwise(lefts))
    assert len(rows) == (tasks if tasks <= 31 else tasks // 2)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', wide)
    assert box is not None
    assert float(box[1]) <= 691


def test_notes_and_extent(twelve: Alignments) -> None:
    assert alignment.notes(twelve) == (f"{twelve.names[4]}: {FEW}.",)
    biased = alignment.notes(replace(twelve, debiased=False))
    assert biased[-1].startswith("The norms count each sample against itself")
    assert "12 tasks, 24," in alignment.extent(twelve)
    assert "each one token. Fisher: empirical, debiased." in alignment.extent(twelve)


def test_two_tasks() -> None:
    two = example(2, exact=True)
    page = page_of(two)
    assert page.count('<tr><th scope="row">') == 1 + 2 + sum(
        len(table.rows) for table in alignment_tables.coupling_tables(two)
    )
    nothing = example(2, missing=(1,))
    page = page_of(nothing)
    assert "1 pair without a joint" in page


def test_many_tasks_show_both_ends() -> None:
    many = example(60, missing=(3, 50))
    tables = alignment_tables.pair_tables(many)
    pairs = by_joint(many)
    assert len(pairs) == 58 * 57 // 2
    assert [len(table.rows) for table in tables] == [20, 20]
    top = many.joint.value[pairs[0].first, pairs[0].second]
    bottom = many.joint.value[pairs[-1].first, pairs[-1].second]
    assert tables[0].rows[0][1].startswith(f"{top:.2f}")
    assert tables[1].rows[0][1].startswith(f"{bottom:.2f}"[:3])
    assert "of 1,653 pairs" in tables[0].caption
    chosen = spaced(pairs, alignment_charts.MOST_PAIRS_DRAWN)
    assert len(set(chosen)) == alignment_charts.MOST_PAIRS_DRAWN
    assert (chosen[0], chosen[-1]) == (pairs[0], pairs[-1])
    assert "800 of 1,653 pairs are drawn" in page_of(many)


def test_what_was_not_kept_is_left_out(twelve: Alignments) -> None:
    bare = replace(twelve, **NONE)
    page = page_of(bare)
    ids = {given["id"] for _, given in Elements(page).tags if "id" in given}
    assert {"maps", "pairs", "tasks", "provenance"} <= ids
    assert not {"coupling", "direction", "figure-activation"} & ids
    assert [term.name for term in alignment.terms(bare)] == ["joint"]
    assert "inputs and their errors alone" not in page
    unsigned = replace(twelve, first_moment=None)
    assert 'id="coupling"' in page_of(unsigned)
    assert 'id="direction"' not in page_of(unsigned)


def test_charts_mark_what_is_told(twelve: Alignments) -> None:
    pairs = by_joint(twelve)
    spec = alignment_charts.against_proxy(twelve, pairs)
    layers = [layer for layer in spec["layer"] if layer["mark"]["type"] == "point"]
    marks = [mark for layer in layers for mark in layer["data"]["values"]]
    assert len(marks) == len(pairs)
    shown = sorted((mark["x"], mark["y"], mark["y_low"], mark["side"]) for mark in marks)
    expected = sorted(
        (
            twelve.proxy.value[p.first, p.second],
            twelve.joint.value[p.first, p.second],
            twelve.joint.low[p.first, p.second],
            side_of(estimate(twelve, "coupling", p), 1.0),
        )
        for p in pairs
    )
    assert shown == expected
    moments = alignment_charts.against_joint(twelve, pairs)
    sides = [
        mark["side"]
        for layer in moments["layer"]
        if layer["mark"]["type"] == "point"
        for mark in layer["data"]["values"]
    ]
    below = sum(twelve.first_moment.high[p.first, p.second] < 0 for p in pairs)
    assert sides.count(-1) == below > 0
    assert set(sides) == {0, -1}


def test_an_interval_that_is_not_known_is_not_shown(twelve: Alignments) -> None:
    unknown = np.full_like(twelve.joint.low, np.nan)
    open_ended = replace(twelve, joint=replace(twelve.joint, low=unknown, high=unknown))
    found = estimate(open_ended, "joint", TaskPair(0, 1))
    assert found.value == twelve.joint.value[0, 1]
    assert found.low is None
    assert side_of(found, 0.0) == 0
    assert not re.search(r"\bnan\b", page_of(open_ended), re.IGNORECASE)


class TestInBrowser:
    pytestmark = browser_test

    def test_a_cell_tells_its_numbers_in_every_map(
        self, opened: Watched, twelve: Alignments
    ) -> None:
        view = opened.page
        order = dendrogram(twelve.joint.value).order
        row, column = 5, 2
        pair = TaskPair(*sorted((int(order[row]), int(order[column]))))
        for kind in ("joint", "error"):
            field = view.locator(f'.field[data-kind="{kind}"]:visible')
            field.scroll_into_view_if_needed()
            box = field.bounding_box()
            assert box["width"] == pytest.approx(box["height"], abs=0.5)
            assert box["width"] > 250
            cell = box["width"] / 12
            view.mouse.move(box["x"] + (column + 0.5) * cell, box["y"] + (row + 0.5) * cell)
            words = view.locator("#hint").inner_text()
            for name in (order[row], order[column]):
                assert twelve.names[name] in words
            for shown in ("joint", "activation", "error", "coupling"):
                value = wording.full(estimate(twelve, shown, pair), cosine)
                assert f"{shown} {value}" in words
            assert f"sketch ± {twelve.joint.sketch_se[0, 1]:.3f}" in words
            assert "sampling ± 0.0" in words
            assert view.locator(".cursor.at:visible").count() == 4
        view.mouse.move(5, 5)
        assert view.locator(".cursor.at:visible").count() == 0

    def test_a_missing_cell_says_why(self, opened: Watched, twelve: Alignments) -> None:
        view = opened.page
        order = dendrogram(twelve.joint.value).order.tolist()
        field = view.locator('.field[data-kind="joint"]:visible')
        field.scroll_into_view_if_needed()
        box = field.bounding_box()
        cell = box["width"] / 12
        at = order.index(4)
        view.mouse.move(box["x"] + 5.5 * cell, box["y"] + (at + 0.5) * cell)
        assert FEW in view.locator("#hint").inner_text()
        view.mouse.move(box["x"] + (at + 0.5) * cell, box["y"] + (at + 0.5) * cell)
        assert "40 tokens of 4 documents" in view.locator("#hint").inner_text()

    @pytest.mark.parametrize("opened", [(1280, 900), (700, 900), (360, 800)], indirect=True)
    def test_nothing_is_cut_or_overlaps(self, opened: Watched) -> None:
        view = opened.page
        width = view.viewport_size["width"]
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        boxes = view.evaluate(
            """[...document.querySelectorAll('.map text')].map(one => one.getBoundingClientRect())
               .filter(box => box.width).map(box => [box.left, box.right])"""
        )
        assert boxes
        assert min(left for left, _ in boxes) >= 0
        assert max(right for _, right in boxes) <= width
        rows = view.evaluate(
            """[...document.querySelectorAll('.map .row')].map(one => one.getBoundingClientRect())
               .filter(box => box.width).map(box => [box.top, box.bottom])"""
        )
        middles = [(top + bottom) / 2 for top, bottom in rows]
        assert all(b - a >= 11 for a, b in pairwise(middles))
