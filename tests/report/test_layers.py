"""The page of a run of layers: its tables of tokens, its curves, and the keys that lead through."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browser import Watched, browser_test
from made_up.audits import NASTY
from made_up.layers import make_layers
from markup import Elements, without_terms
from unembed.decisions.layers import excerpt
from unembed.decisions.layers.excerpt import (
    LATE_PASSAGES,
    PASSAGE_TOKENS,
    passages,
    settled_documents,
)
from unembed.decisions.layers.layers import Layers
from unembed.decisions.layers.settling import settled_depths
from unembed.report.layers.by_depth import BEYOND, Curve, OverDepths, depth_chart, depth_figure
from unembed.report.layers.page import page_of_run, sections_of
from unembed.report.parts.parts import Figure
from unembed.report.parts.plots import figures_of
from unembed.report.parts.wording import decimal, share
from unembed.stats.estimate import Estimate
from unembed.text.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def run() -> Layers:
    """Its vocabulary has texts that a page must escape."""
    found = make_layers()
    texts = dict(found.vocabulary.texts)
    common = np.bincount(found.stack("normed").target).argsort()[::-1].tolist()
    texts |= dict(zip(common[4:], NASTY, strict=False))
    nasty = replace(found, vocabulary=Vocabulary(texts))
    vars(nasty)["summary"] = found.summary
    return nasty


@pytest.fixture(scope="module")
def page(run: Layers) -> str:
    return page_of_run(run, None, {})


def data_of(page: str, name: str) -> dict[str, Any]:
    found = re.search(rf'<script id="{name}" type="application/json">(.*?)</script>', page)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_passages_are_from_the_tables(run: Layers) -> None:
    kept = passages(run)
    assert sum(one.late for one in kept) == LATE_PASSAGES
    for one in kept:
        assert [each.lens for each in one.passages] == list(run.lenses)
        for each in one.passages:
            assert 0 < len(each.tokens) <= PASSAGE_TOKENS
            again = run.passage(one.name, each.positions[0], len(each.tokens), lens=each.lens)
            assert again == each


def test_late_passages_settle_last(run: Layers) -> None:
    stack = run.stack("normed")
    at = {
        pair: i for i, pair in enumerate(zip(stack.doc.tolist(), stack.pos.tolist(), strict=True))
    }
    names = run.documents["name"].to_pylist()
    settled = settled_depths(stack)

    def mean(one: Any) -> float:
        doc = names.index(one.name)
        return float(np.mean([settled[at[doc, pos]] for pos in one.passages[0].positions]))

    kept = passages(run)
    late = [mean(one) for one in kept if one.late]
    assert min(late) >= max(mean(one) for one in kept if not one.late)


def test_documents_tell_where_each_decision_settles(run: Layers) -> None:
    stack = run.stack("normed")
    documents = settled_documents(run)
    assert sum(len(one.tokens) for one in documents) == stack.n
    tokens = [token for one in documents for token in one.tokens]
    assert [token.depth for token in tokens] == settled_depths(stack).tolist()
    assert [token.right for token in tokens] == (stack.final_top1 == stack.target).tolist()
    for i, token in enumerate(tokens[:300]):
        at = dict(token.path)
        said = [at[max(first for first in at if first <= depth)] for depth in stack.depths]
        assert said == [run.vocabulary[int(top)] for top in stack.top1[:, i]]


def test_many_depths_leave_fewer_passages_and_documents(
    run: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(excerpt, "MOST_CELLS", 1_000)
    monkeypatch.setattr(excerpt, "SETTLED_STEPS", 1_200)
    kept = passages(run)
    cells = sum(len(row) for one in kept for each in one.passages for row in each.cells)
    assert 0 < cells <= 1_000
    assert 0 < sum(len(one.tokens) for one in settled_documents(run)) <= 1_200 / len(run.depths)
    monkeypatch.setattr(excerpt, "MOST_CELLS", 1)
    assert len(passages(run)) == 1


def test_page_loads_nothing_and_is_small(page: str, run: Layers) -> None:
    assert not re.search(r"(https?:)?//[a-z]", page, re.IGNORECASE)
    assert "url(" not in page
    ids = [attributes["id"] for _, attributes in Elements(page).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert len(page.encode()) < 2_000_000
    assert page_of_run(run, None, {}) == page


def test_foreign_text_stays_text(page: str) -> None:
    page.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\u200b-\u200f\u2028-\u202e\u2066-\u2069]", page)
    shown = {*data_of(page, "passages")["strings"], *data_of(page, "data")["strings"]}
    assert len(shown & set(NASTY)) > 10


def test_data_of_the_table_holds_what_was_given(page: str, run: Layers) -> None:
    data = data_of(page, "passages")
    strings = data["strings"]
    for given, kept in zip(passages(run), data["documents"], strict=True):
        assert [strings[i] for i in kept["text"]] == list(given.tokens)
        for one in given.passages:
            lens = kept["lenses"][one.lens]
            for at, row in enumerate(one.cells):
                assert lens["same"][at] == "".join(str(int(cell.final)) for cell in row)
                for i, cell in enumerate(row):
                    flat = lens["candidates"][at][i]
                    assert [strings[j] for j in flat[::2]] == [text for text, _ in cell.candidates]
                    assert lens["margin"][at][i] == round(1000 * (cell.margin or 0.0))
                    assert lens["rank"][at][i] == cell.rank


def test_headline_points_and_figures_stand_in_order(page: str) -> None:
    marks = ("reading", 'class="found"', 'class="cards"', 'id="glance"', 'id="lens"', 'id="depths"')
    places = [page.index(mark) for mark in marks]
    assert places == sorted(places)
    names = [attributes["id"] for tag, attributes in Elements(page).tags if tag == "section"]
    assert names == [
        *("glance", "lens", "depths", "settling", "exits", "regimes", "cloud", "gap"),
        *("text", "provenance"),
    ]


def test_a_lens_that_was_not_measured_is_named(run: Layers) -> None:
    raw = replace(run.summary.lens("raw"), reason="states are 8 wide", rows=())
    summary = replace(
        run.summary,
        lenses=tuple(raw if one.lens == "raw" else one for one in run.summary.lenses),
    )
    from unembed.report.layers.page import layers_page

    text = without_terms(layers_page("t", summary, [], [], []))
    assert "The raw lens was not measured: states are 8 wide." in text
    assert "No passage was kept." in text
    assert "No sample documents were kept." in text


def test_without_a_cloud_there_is_no_section_of_it(run: Layers) -> None:
    other = replace(run)
    vars(other)["summary"] = replace(run.summary, cloud=None)
    assert "cloud" not in [one.name for one in sections_of(other)]


def figure(run: Layers, name: str) -> Figure:
    return next(one for one in figures_of(sections_of(run)) if one.name == name)


def test_curves_show_every_lens_and_depth(run: Layers) -> None:
    shown = figure(run, "accuracy")
    assert [key.label for key in shown.keys] == ["normed", "raw", "fitted"]
    rows = [
        row
        for layer in shown.chart.spec["layer"]
        if layer["mark"]["type"] == "point"
        for row in layer["data"]["values"]
    ]
    assert len(rows) == 3 * len(run.depths)
    assert len({row["shape"] for row in rows}) == 3
    assert shown.tables[0].rows[-1][0] == str(run.blocks)


def test_what_lies_beyond_the_axis_is_said() -> None:
    def curve(name: str, *values: float, bounds: bool = True) -> Curve:
        at = {i: Estimate(v, v - 0.1, v + 0.1, 9, documents=20) for i, v in enumerate(values)}
        return Curve(name, at, bounds)

    def drawn(*curves: Curve) -> tuple[OverDepths, list[float]]:
        shown = OverDepths("x", "X", "X.", "nats", decimal, curves, 2)
        spec, _ = depth_chart(shown)
        points = [one for one in spec["layer"] if one["mark"]["type"] == "point"]
        return shown, [row["y"] for layer in points for row in layer["data"]["values"]]

    shown, seen = drawn(curve("a", 1.0, 2.0, 3.0), curve("b", 2.0, 2.5, 3.0))
    assert len(seen) == 6
    assert depth_figure(shown).caption == "X."
    # Depth 0, and a curve of another size, do not squeeze the rest.
    shown, seen = drawn(curve("a", 90.0, 2.0, 3.0), curve("b", 50.0, 60.0, 3.0, bounds=False))
    assert sorted(seen) == [2.0, 3.0, 3.0]
    assert depth_figure(shown).caption == f"X.{BEYOND}"
    assert depth_figure(shown).tables[0].rows[0][1].startswith("90")


def test_small_shares_have_an_axis_of_their_own() -> None:
    for value, top in ((0.03, 0.03), (0.7, 1.0)):
        one = Curve("a", {1: Estimate(value, value, value, 9, documents=20)})
        spec, _ = depth_chart(OverDepths("x", "X", "X.", "share", share, (one,), 2, zero=True))
        [y] = {tuple(layer["encoding"]["y"]["scale"]["domain"]) for layer in spec["layer"]}
        assert y == (0.0, pytest.approx(top))


# In a browser ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(page: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


class TestInBrowser:
    pytestmark = browser_test

    def test_the_last_depth_is_on_top(self, opened: Watched, run: Layers) -> None:
        rows = opened.page.locator("#depths-table tbody tr")
        assert [one.split()[0] for one in rows.locator("th").all_inner_texts()] == [
            str(depth) for depth in reversed(run.depths)
        ]
        columns = len(passages(run)[0].tokens)
        assert rows.first.locator("td").count() == columns
        assert rows.first.locator("td.as-final").count() == columns

    def test_pointing_at_a_cell_shows_its_candidates(self, opened: Watched, run: Layers) -> None:
        view, passage = opened.page, passages(run)[0].passages[0]
        view.locator("#depths-table tbody tr").nth(1).locator("td").nth(2).hover()
        details = view.locator("#cell-details")
        text = details.inner_text()
        cell = passage.cells[-2][2]
        assert f"depth {passage.depths[-2]}" in text
        assert f"{cell.margin:.3f} logits" in text
        shown = details.locator(".percent").all_inner_texts()
        assert shown == [f"{100 * round(p, 3):.1f} %" for _, p in cell.candidates]
        box = details.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 1200

    def test_arrow_keys_walk_and_escape_closes(self, opened: Watched) -> None:
        view = opened.page
        at = "document.activeElement.dataset.at"
        assert view.locator("#depths-table td[tabindex='0']").count() == 1
        view.locator("#depths-table td[tabindex='0']").focus()
        for key, place in (
            *(("ArrowRight", "0 1"), ("ArrowDown", "1 1"), ("ArrowLeft", "1 0")),
            *(("ArrowUp", "0 0"), ("PageDown", "3 0"), ("PageUp", "0 0")),
        ):
            view.keyboard.press(key)
            assert view.evaluate(at) == place
        view.keyboard.press("ArrowUp")
        assert view.evaluate(at) == "0 0"
        assert view.locator("#cell-details").is_visible()
        view.keyboard.press("Escape")
        assert view.locator("#cell-details").is_hidden()

    def test_slash_searches_and_enter_goes_on(self, opened: Watched, run: Layers) -> None:
        view, passage = opened.page, passages(run)[0].passages[0]
        wanted = next(
            cell.text.strip()
            for row in passage.cells
            for cell in row
            if cell.text.strip().isalpha() and cell.text.isascii()
        )
        view.keyboard.press("/")
        assert view.evaluate("document.activeElement.id") == "find-token"
        view.keyboard.type(wanted)
        hits = sum(wanted.lower() in cell.text.lower() for row in passage.cells for cell in row)
        assert view.locator("td.hit").count() == hits
        assert view.locator("#tokens-found").inner_text() == f"{hits} found"
        view.keyboard.press("Enter")
        assert "hit" in view.evaluate("document.activeElement.className").split()
        view.locator("#find-token").fill("")
        assert view.locator("td.hit").count() == 0

    def test_the_lens_is_switched_and_the_passage_chosen(
        self, opened: Watched, run: Layers
    ) -> None:
        view = opened.page

        def shown() -> list[str]:
            cells = view.locator("#depths-table tbody td").all()
            return [str(one.get_attribute("style")) for one in cells]

        normed = shown()
        view.locator("#lens").get_by_text("raw", exact=True).click()
        assert shown() != normed
        view.locator("#passage").select_option("1")
        head = view.locator("#depths-table thead th").count()
        assert head == 1 + len(passages(run)[1].tokens)

    def test_the_step_marks_where_decisions_settle(self, opened: Watched, run: Layers) -> None:
        passage = passages(run)[0].passages[0]
        rows = opened.page.locator("#depths-table tbody tr")
        for column in range(4):
            final = [row[column].final for row in passage.cells]
            settled = max([0, *(i + 1 for i, same in enumerate(final) if not same)])
            marked = [
                at
                for at in range(len(final))
                if "edge-below"
                in (rows.nth(at).locator("td").nth(column).get_attribute("class") or "").split()
            ]
            assert marked == [len(final) - 1 - settled]

    def test_the_text_tells_the_way_to_each_decision(self, opened: Watched, run: Layers) -> None:
        view, token = opened.page, settled_documents(run)[0].tokens[3]
        view.locator("#tokens .token").nth(3).hover()
        text = view.locator("#details").inner_text()
        assert f"{token.depth} of {run.blocks}" in text
        assert view.locator("#details .way li").count() == len(token.path)
        view.get_by_text("Late", exact=True).click()
        document = settled_documents(run)[0].tokens
        late = sum(one.depth == run.blocks for one in document)
        assert view.locator("#tokens .token:not(.off)").count() == late

    def test_a_link_opens_the_section_that_it_leads_to(self, opened: Watched) -> None:
        view = opened.page
        inside = view.locator("#figure-two-nn")
        assert inside.is_hidden()
        view.locator("nav a[href='#cloud']").click()
        inside.wait_for(state="visible")

    @pytest.mark.parametrize("opened", [(390, 844)], indirect=True)
    def test_phone(self, opened: Watched) -> None:
        view = opened.page
        for one in view.locator("details").all():
            one.evaluate("one => { one.open = true; }")
        assert view.evaluate("document.documentElement.scrollWidth") <= 390
        frame = view.locator(".depths-frame")
        assert frame.evaluate("one => one.scrollWidth > one.clientWidth")
        view.locator("#depths-table td").nth(1).focus()
        cell = view.locator("#depths-table td").nth(1).bounding_box()
        details = view.locator("#cell-details").bounding_box()
        above = details["y"] + details["height"] <= cell["y"]
        assert above or details["y"] >= cell["y"] + cell["height"]
