"""The pages of transfers and of index maps: what they draw is the record's."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from browser import Watched, browser_test
from made_up.selection import METHODS, plane, transfer
from markup import Elements, painted
from unembed.report.index import page as index_map
from unembed.report.index.page import index_page
from unembed.report.parts import points, wording
from unembed.report.parts.heatmap import colour
from unembed.report.transfer import maps as transfer_maps
from unembed.report.transfer import verdicts as transfer_verdicts
from unembed.report.transfer.choices import Means, choices_table, firsts, gains_table
from unembed.report.transfer.maps import Marks, Shades, gains_map
from unembed.report.transfer.page import transfer_page
from unembed.selection.index.plane import Map
from unembed.selection.transfer.records import Transfer, Verdict
from unembed.selection.transfer.verdicts import judge

FACTS = [("Model", "example/base <b>")]
FIRST_DOT = """(which) => {
  const clouds = [...document.querySelectorAll('.cloud')];
  const svg = clouds.find((one) => one.getBoundingClientRect().width);
  svg.scrollIntoView({block: 'center'});
  const [x, y] = svg.querySelector(which).getAttribute('d').match(/[0-9.]+/g).map(Number);
  const box = svg.getBoundingClientRect();
  const scale = box.width / svg.viewBox.baseVal.width;
  return [box.left + x * scale, box.top + y * scale];
}"""
"""Where on the screen the first dot of a path of the shown drawing is."""
SMALL = ("gradient", "joint", "random", "oracle")


def transfer_html(record: Transfer, judged: tuple[Verdict, ...]) -> str:
    return transfer_page(record, judged, title="Who helps <b>", facts=FACTS, command="run it")


def map_html(record: Map) -> str:
    return index_page(record, title="Index <b>", facts=FACTS)


def data_of(page: str, name: str) -> dict:
    found = re.search(rf'<script id="{name}" type="application/json">(.*?)</script>', page)
    assert found is not None
    return json.loads(found[1])


def with_holes(tasks: int) -> Transfer:
    """No gain of task 2, one gain missing in a seed, no score of one method."""
    record = transfer(tasks, methods=SMALL)
    gains = record.gains.copy()
    gains[:, :, 2] = np.nan
    gains[0, 3, 4] = np.nan
    first, second, *others = record.scores
    empty = replace(first, values=np.full_like(gains, np.nan))
    tied = replace(second, values=np.ones_like(gains))
    return replace(record, gains=gains, scores=(empty, tied, *others))


@pytest.fixture(scope="module")
def eight() -> Transfer:
    return transfer(8)


@pytest.fixture(scope="module")
def judged(eight: Transfer) -> tuple[Verdict, ...]:
    return judge(eight)


@pytest.fixture(scope="module")
def page(eight: Transfer, judged: tuple[Verdict, ...]) -> str:
    return transfer_html(eight, judged)


def test_pages_load_nothing_and_escape(page: str) -> None:
    for one in (page, map_html(plane(30))):
        assert not re.search(r"(https?:)?//[a-z]", re.sub(r"//? .*", "", one), re.IGNORECASE)
        for word in ("@import", "url(", "{%", "{{"):
            assert word not in one
        tags = Elements(one).tags
        for tag, attributes in tags:
            assert tag not in {"img", "iframe", "object", "embed", "base", "image", "use"}
            assert "src" not in attributes
        assert "default-src 'none'" in one
        assert "&lt;b&gt;" in one
        ids = [given["id"] for _, given in tags if "id" in given]
        assert len(ids) == len(set(ids))
        links = [given["href"] or "" for tag, given in tags if tag == "a"]
        assert {link.removeprefix("#") for link in links} <= set(ids)
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)


def test_foreign_names_stay_text(eight: Transfer) -> None:
    bad = '</script><i>"x\u202e'
    named = replace(eight, tasks=(bad, *eight.tasks[1:]))
    index = replace(plane(5), names=(bad,) * 5, tags=(bad,) * 5)
    for one in (transfer_html(named, ()), map_html(index)):
        assert "</script><i>" not in one
        assert "\u202e" not in one
        assert "\\u202e" not in one


def test_maps_colour_every_cell_by_its_value(eight: Transfer) -> None:
    means = Means.of(eight)
    expected = eight.gains.mean(axis=0)[np.ix_(means.order, means.order)]
    np.testing.assert_allclose(means.gains, expected, rtol=1e-12)
    largest = max(abs(means.gains[i, j]) for i in range(8) for j in range(8) if i != j)
    chart = gains_map(means.gains, means.names, Marks(firsts(means.gains), ()))
    for svg in (chart.wide, chart.narrow):
        for (row, column), stroke in painted(svg, 8).items():
            part = means.gains[row, column] / largest
            level = min(20, int(np.sqrt(abs(part)) * 20) + 1)
            assert stroke == colour(level if part >= 0 else -level, signed=True)
    values = [float(x.replace("−", "-")) for x in re.findall(r">(−?\.?[\d.]+)</text>", chart.wide)]
    np.testing.assert_allclose(values, means.gains.ravel(), atol=0.005001)


def test_tasks_that_help_each_other_lie_side_by_side() -> None:
    record = transfer(16)
    names = Means.of(record).names
    clusters = [record.tasks.index(name) % 4 for name in names]
    assert sum(a != b for a, b in pairwise(clusters)) == 3


def test_shades_have_a_sign_only_where_values_do() -> None:
    both = Shades.of(np.array([[9.0, -0.4], [0.1, 9.0]]))
    assert (both.signed, both.low, both.high) == (True, -0.4, 0.4)
    assert both.levels(np.array([[9.0, -0.4], [0.1, np.nan]])).tolist() == [[20, -20], [11, 0]]
    below = Shades.of(np.array([[0.0, -5.0], [-3.0, 0.0]]))
    assert (below.signed, below.low, below.high) == (False, -5.0, -3.0)
    assert below.levels(np.array([[0.0, -5.0], [-3.0, -4.0]])).tolist() == [[20, 1], [20, 11]]
    same = Shades.of(np.ones((3, 3)))
    assert set(same.levels(np.ones((3, 3))).ravel().tolist()) == {11}
    assert Shades.of(np.full((2, 2), np.nan)).levels(np.full((2, 2), np.nan)).tolist() == [
        [0, 0],
        [0, 0],
    ]


def test_first_choices_leave_the_target_out() -> None:
    matrix = np.array([[9.0, 1.0, np.nan], [2.0, 9.0, np.nan], [2.0, 0.5, 9.0]])
    assert firsts(matrix) == ((1, 2), (0,), ())


def test_the_tables_are_the_records(page: str, eight: Transfer) -> None:
    means = Means.of(eight)
    table = gains_table(means)
    assert table.head[1:] == means.names
    for at, row in enumerate(table.rows):
        assert row[0] == means.names[at]
        shown = [float(cell.replace("−", "-")) for cell in row[1:]]
        np.testing.assert_allclose(shown, means.gains[at], atol=0.005001)
    joint = METHODS.index("joint")
    for target, row in enumerate(choices_table(means, joint, "joint").rows):
        scores, gains = (
            np.where(np.arange(8) == target, -np.inf, matrix[:, target])
            for matrix in (means.scores[joint], means.gains)
        )
        chosen, best = int(scores.argmax()), int(gains.argmax())
        assert row[0] == means.names[target]
        assert row[1] == means.names[chosen] + ("\u00a0✓" if chosen == best else "")
        assert row[2] == f"{means.gains[chosen, target]:.2f}".replace("-", "−")
        assert row[3:] == (
            means.names[best],
            f"{means.gains[best, target]:.2f}".replace("-", "−"),
        )
        for cell in row:
            assert cell in page


def test_hints_are_the_records(page: str, eight: Transfer) -> None:
    data = data_of(page, "transfer")
    means = Means.of(eight)
    grid = np.ix_(means.order, means.order)
    assert data["tasks"] == list(means.names)
    assert data["methods"] == list(METHODS)
    for shown, values in (
        (data["gains"], means.gains),
        *zip(data["scores"], means.scores, strict=True),
        *((seed, gains[grid]) for seed, gains in zip(data["seeds"], eight.gains, strict=True)),
    ):
        np.testing.assert_allclose(shown, values.ravel(), rtol=5.01e-4)
    cloud = data["clouds"]["0"]
    assert len(cloud["pair"]) == 8 * 7
    for pair, group in zip(cloud["pair"], cloud["group"], strict=True):
        assert pair % 8 == group
        assert pair // 8 != group
    heights = means.gains.ravel()[cloud["pair"]]
    # Pixels run down: the higher the gain, the smaller y, and both on one line.
    assert np.corrcoef(heights, cloud["y"])[0, 1] < -0.99999
    across = means.scores[0].ravel()[cloud["pair"]]
    assert np.corrcoef(across, cloud["x"])[0, 1] > 0.99999


def test_verdicts_are_the_records(page: str, judged: tuple[Verdict, ...]) -> None:
    rows = transfer_verdicts.forest(judged).rows
    shares = [row.value for row in rows]
    assert shares == sorted(shares, reverse=True)
    known = {one.method: one for one in judged}
    assert {row.name for row in rows} == set(METHODS)
    for row in rows:
        one = known[row.name]
        assert (row.value, row.low, row.high) == (one.share.value, one.share.low, one.share.high)
        texts = [cell.text for cell in row.cells]
        assert texts[0] == wording.full(one.share, wording.part)
        assert texts[1] == wording.full(one.top1, wording.share)
        assert texts[2] == wording.full(one.spearman, wording.two)
        assert texts[4] == wording.full(one.regret, wording.three)
        for text in texts:
            assert text.replace("<", "&lt;") in page
    assert "Chance picks the best of 7 sources for one target in 7 (14.3\u00a0%)" in page
    costs = {row[0]: row for row in transfer_verdicts.costs(transfer(8), judged).rows}
    assert costs["joint"] == ("joint", "1.31", "0", "16,384", "")
    assert costs["logme"][-1] == "a model trained on each source"
    assert costs["oracle"][1] == "none"


def test_what_can_be_used_before_training() -> None:
    assert not transfer_verdicts.deployable("logme, own model")
    assert not transfer_verdicts.deployable("oracle")
    assert not transfer_verdicts.deployable("chance")
    assert transfer_verdicts.deployable("joint, plug-in")


def test_the_selector_offers_the_best_usable_first(page: str) -> None:
    names = re.findall(r'<option value="(\d+)">([^<]*)</option>', page)
    assert names[0][1] == "joint"
    assert [name for _, name in names][-3:] == [
        "logme (after training)",
        "oracle (knows the gains)",
        "random (chance)",
    ]
    for at, name in names:
        assert METHODS[int(at)] == name.split(" ")[0]
    shown = [
        given["data-method"]
        for _, given in Elements(page).tags
        if "data-method" in given and "hidden" not in given
    ]
    assert set(shown) == {names[0][0]}
    assert len(shown) == 3


def test_holes_are_said() -> None:
    record = with_holes(6)
    made = judge(record)
    html = transfer_html(record, made)
    assert not re.search(r"\bnan\b", html, re.IGNORECASE)
    assert "16 gains of 90 could not be measured" in html
    assert "5 tie" in html
    assert 'class="hatch"' in html
    assert "unscored" in html
    assert data_of(html, "transfer")["clouds"]["0"]["pair"] == []


@pytest.mark.parametrize("tasks", [1, 2, 3])
def test_few_tasks(tasks: int) -> None:
    record = transfer(tasks, seeds=1, methods=SMALL)
    html = transfer_html(record, judge(record) if tasks > 2 else ())
    assert record.tasks[0] in html
    assert "in one seed" in html
    transfer_html(replace(record, scores=()), ())
    transfer_html(replace(record, gains=np.full_like(record.gains, np.nan)), ())


def test_forty_tasks_fit() -> None:
    record = transfer(40, methods=SMALL)
    html = transfer_html(record, judge(record))
    assert len(html.encode()) < 1_200_000
    wide = transfer_maps.widths(Means.of(record).names)
    assert sum(wide) + transfer_maps.MAPS_APART < 1101


# Index maps.


def test_map_points_are_the_records() -> None:
    record = plane(30, tags=4)
    html = map_html(record)
    data = data_of(html, "points")
    assert data["names"] == list(record.names)
    assert data["samples"] == list(record.samples)
    assert [data["tags"][str(group)] for group in data["clouds"]["map"]["group"]] == list(
        record.tags
    )
    drawn = re.findall(r'data-group="(\d+)"><path d="([^"]*)"', html)
    # Two widths of four tags; equal scales: one factor for both axes, the second upside down.
    assert len(drawn) == 8
    for half in (drawn[:4], drawn[4:]):
        place = np.full((30, 2), np.nan)
        for group, dots in half:
            found = re.findall(r"M([\d.]+) ([\d.]+)h0", dots)
            ours = [at for at, tag in enumerate(record.tags) if data["tags"][group] == tag]
            place[ours] = np.array(found, dtype=float)
        moved = place - place.mean(axis=0)
        meant = (record.points - record.points.mean(axis=0)) * (1, -1)
        factor = (moved * meant).sum() / (meant**2).sum()
        np.testing.assert_allclose(moved, factor * meant, atol=0.11)
    assert "first axis, 31.2\u00a0% of what tells them apart" in html
    assert "second axis, 17.4\u00a0% of what tells them apart" in html
    assert "Two axes show 49\u00a0% of what tells 30 signatures apart." in html
    rows = index_map.tables(record, index_map.grouped(record, np.ones(30, bool))[0])[1].rows
    assert rows[3] == (
        record.names[3],
        record.tags[3],
        str(record.samples[3]),
        *(f"{x:.3f}".replace("-", "−") for x in record.points[3]),
    )


def test_labels_meet_neither_each_other_nor_points() -> None:
    record = plane(40)
    cloud = index_map.cloud_of(record, np.ones(40, bool), np.zeros(40, np.int64))
    frame = points.Frame(1040.0, 600.0)
    place = points.pixels(cloud, frame)
    notes = index_map.place_notes(record.names, place, frame)
    assert len(notes) > 20
    boxes = []
    for note, x, y, anchor in notes:
        wide = index_map.LABEL_LETTER_WIDTH * len(note.text)
        left = {"start": x, "end": x - wide, "middle": x - wide / 2}[anchor]
        boxes.append((left, y - 11, left + wide, y + 3))
        assert left > 30
        assert left + wide <= frame.width
    for at, one in enumerate(boxes):
        for other in boxes[at + 1 :]:
            assert (
                one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            )


@pytest.mark.parametrize("tags", [0, 1, 60])
def test_any_number_of_tags(tags: int) -> None:
    record = plane(120, tags=tags)
    html = map_html(record)
    boxes = [given for tag, given in Elements(html).tags if tag == "input" and "value" in given]
    assert len(boxes) == {0: 1, 1: 1, 60: 48}[tags]
    assert ("no tag" in html) == (tags == 0)
    assert ("other tags (13)" in html) == (tags == 60)
    assert html.count('class="name"') == 0
    assert len({points.group_classes(group) for group in range(48)}) == 48


def test_maps_of_nothing_and_of_one_place() -> None:
    assert "The index holds no signature." in map_html(plane(0))
    same = replace(plane(5), points=np.zeros((5, 2)), explained=(float("nan"),) * 2)
    assert "Nothing tells the 5 signatures of the map apart." in map_html(same)
    assert "Nothing tells" in map_html(replace(same, explained=(0.0, 0.0)))
    lost = plane(5).points.copy()
    lost[1] = np.nan
    html = map_html(replace(plane(5), points=lost))
    assert "python scripts has no place on the map." in html
    assert len(data_of(html, "points")["names"]) == 4
    assert not re.search(r"\bnan\b", html, re.IGNORECASE)
    map_html(plane(1))


def test_twenty_thousand_entries_fit() -> None:
    record = plane(20_000, tags=30)
    longest = replace(record, names=tuple(f"{name} {'x' * 200}" for name in record.names))
    html = map_html(longest)
    assert len(html.encode()) < 3_000_000
    assert sum(dots.count("h0") for dots in re.findall(r' d="([^"]*h0)" stroke', html)) > 40_000


class TestTransferInBrowser:
    pytestmark = browser_test

    @pytest.fixture
    def file(self, tmp_path: Path, page: str) -> str:
        path = tmp_path / "transfer.html"
        path.write_text(page, encoding="utf-8")
        return path.as_uri()

    def test_a_cell_tells_its_numbers_and_the_selector_changes_them(
        self, opened: Watched, eight: Transfer
    ) -> None:
        view = opened.page
        means = Means.of(eight)
        for method in ("joint", "unigram_loss"):
            at = METHODS.index(method)
            view.locator("#method").select_option(str(at))
            for kind in ("gains", f"score-{at}"):
                field = view.locator(f'.field[data-kind="{kind}"]:visible')
                field.scroll_into_view_if_needed()
                box = field.bounding_box()
                cell = box["width"] / 8
                view.mouse.move(box["x"] + 2.5 * cell, box["y"] + 5.5 * cell)
                words = view.locator("#hint").inner_text()
                assert f"{means.names[5]} → {means.names[2]}" in words
                value = means.scores[at][5, 2]
                digits = 3 if abs(value) >= 1 else 4
                assert f"{method} {value:.{digits}f}".replace("-", "−") in words
                assert f"gain {means.gains[5, 2]:.4f}".replace("-", "−")[:9] in words
                assert view.locator(".cursor.at:visible").count() == 2
            assert view.locator("[data-method]:visible").count() == 3

    def test_points_tell_and_targets_toggle(self, opened: Watched, eight: Transfer) -> None:
        view = opened.page
        means = Means.of(eight)
        first = view.locator(".cloud:visible g[data-group='3'] path").first
        first.scroll_into_view_if_needed()
        spot = view.evaluate(FIRST_DOT, "g[data-group='3'] path")
        view.mouse.move(*spot)
        words = view.locator("#hint").inner_text()
        assert f"→ {means.names[3]}" in words
        view.locator("#groups input[value='3']").uncheck()
        assert not first.is_visible()
        view.locator("#groups button[value=none]").click()
        assert view.locator(".cloud:visible g[data-group]:visible").count() == 0
        view.mouse.move(*spot)
        assert not view.locator("#hint").is_visible()
        view.locator("#groups button[value=all]").click()
        assert view.locator(".cloud:visible g[data-group]:visible").count() == 8

    @pytest.mark.parametrize("opened", [(1280, 900), (700, 900), (360, 800)], indirect=True)
    def test_nothing_overflows_and_names_are_whole(self, opened: Watched) -> None:
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
        sides = view.evaluate(
            """[...document.querySelectorAll('.map .field')].map(one => one.getBoundingClientRect())
               .filter(box => box.width).map(box => [box.width, box.top])"""
        )
        (one, top), (other, beside) = sides
        assert one == pytest.approx(other, rel=0.01)
        assert (abs(top - beside) < 2) == (width > 900)


class TestMapInBrowser:
    pytestmark = browser_test

    @pytest.fixture
    def file(self, tmp_path: Path) -> str:
        path = tmp_path / "map.html"
        path.write_text(map_html(plane(30)), encoding="utf-8")
        return path.as_uri()

    @pytest.mark.parametrize("opened", [(1280, 900), (360, 800)], indirect=True)
    def test_tags_toggle_and_names_are_found(self, opened: Watched) -> None:
        view = opened.page
        width = view.viewport_size["width"]
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        groups = view.locator(".cloud:visible g[data-group]:visible")
        assert groups.count() == 4
        view.locator("#groups label", has_text="kind 1").locator("input").uncheck()
        assert groups.count() == 3
        assert view.locator(".cloud:visible .name:visible").count() > 0
        assert view.locator(".cloud:visible .name[data-group='1']:visible").count() == 0
        view.locator("#find").fill("sonnets")
        assert view.locator("#found").inner_text() == "2 found"
        hits = view.locator(".cloud:visible .hits").get_attribute("d")
        assert hits.count("M") == 2
        spot = view.evaluate(FIRST_DOT, ".hits")
        view.mouse.move(*spot)
        assert view.locator("#hint").inner_text() == "sonnets\nkind 0\n200 samples"
