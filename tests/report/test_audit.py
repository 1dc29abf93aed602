from __future__ import annotations

import json
import re
import sys
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from browser import Watched, browser_test
from made_up.audits import NASTY, make_documents, make_summary, make_token
from markup import Elements, without_terms
from unembed.decisions.audit.audit import headline
from unembed.decisions.audit.excerpt import DocumentView
from unembed.decisions.audit.gap import TiedEnd
from unembed.decisions.audit.summary import (
    Band,
    Bfloat16Rounding,
    Density,
    Histogram,
)
from unembed.report.audit.page import audit_page, sections_of_summary
from unembed.report.parts import wording
from unembed.report.parts.drawing import ReportUnavailable
from unembed.report.parts.text import text_view
from unembed.report.verdicts.audit import verdict
from unembed.stats.estimate import Estimate

FACTS = [
    ("model", "example/model-1b <b>"),
    ("corpus", "wikitext:wikitext-2-raw-v1:test, sha256 3f1c…"),
    ("head", "129,920 × 2,048, tied, no bias, bfloat16 weights"),
    ("replay", "unembed audit example/model-1b wikitext -o run"),
]


@pytest.fixture(scope="module")
def page() -> str:
    return audit_page(
        "An audit of <b>&\u202e",
        make_summary(),
        FACTS,
        make_documents(),
        ["Two rows\x00 were short."],
    )


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_page_loads_nothing(page: str) -> None:
    assert not re.search(r"(https?:)?//[a-z]", page, re.IGNORECASE)
    assert "@import" not in page
    assert "url(" not in page
    for tag, attributes in Elements(page).tags:
        assert tag not in {"img", "iframe", "object", "embed", "base", "image", "use"}
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith(("#", "data:"))
    assert "default-src 'none'" in page


def test_page_is_small_and_the_same_every_time(page: str) -> None:
    again = audit_page(
        "An audit of <b>&\u202e",
        make_summary(),
        FACTS,
        make_documents(),
        ["Two rows\x00 were short."],
    )
    assert again == page
    assert len(page.encode("utf-8")) < 700_000


def test_the_page_says_where_rounding_decides_the_published_fit() -> None:
    summary = make_summary()
    assert summary.gap is not None
    tied = TiedEnd(63, 0.0123, 0.839, 0.828)
    summary = replace(summary, gap=replace(summary.gap, tied=tied))
    text = without_terms(audit_page("An audit", summary, FACTS, make_documents(), []))
    said = "63 equal margins at the window’s lower end, 0.0123 logits: rounding decides between"
    assert text.replace("&#39;", "’").replace("'", "’").count(said) >= 2
    assert dict(headline(summary))["gap slope, to mind"] == tied.in_words


def test_ids_are_unique(page: str) -> None:
    ids = [attributes["id"] for _, attributes in Elements(page).tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_foreign_text_stays_text(page: str) -> None:
    page.encode("utf-8")  # a lone surrogate would not encode
    assert not re.search("[\x00-\x08\x0b-\x1f\u200b-\u200f\u2028-\u202e\u2066-\u2069]", page)
    assert "An audit of &lt;b&gt;&amp;⟨U+202E⟩" in page
    assert "example/model-1b &lt;b&gt;" in page
    assert "Two rows⟨U+0000⟩ were short." in page
    tags = [tag for tag, _ in Elements(page).tags]
    assert tags.count("script") == 2
    assert "b" not in tags
    strings = data_of(page)["strings"]
    assert set(NASTY) <= set(strings)


def test_data_holds_what_was_given(page: str) -> None:
    data = data_of(page)
    strings = data["strings"]
    for given, stored in zip(make_documents(), data["documents"], strict=True):
        assert (stored["name"], stored["lead"]) == (given.name, given.lead)
        assert [strings[i] for i in stored["text"]] == [token.text for token in given.tokens]
        for i, token in enumerate(given.tokens):
            assert (stored["right"][i] == "1") == token.right
            assert stored["rank"][i] == token.rank
            flat = stored["candidates"][i]
            assert [strings[j] for j in flat[::2]] == [text for text, _ in token.candidates]
            assert flat[1::2] == [round(1000 * p) for _, p in token.candidates]
            for column, value, units in (
                ("margin", token.margin, 1e3),
                ("relative", token.relative_distance, 1e5),
                ("entropy", token.entropy_nats, 1e3),
                ("nll", token.nll_nats, 1e3),
            ):
                if value is None:
                    assert stored[column][i] is None
                else:
                    assert abs(stored[column][i] / units - value) <= 0.5 / units


def test_numbers_and_their_reasons_are_shown(page: str) -> None:
    summary = make_summary()
    assert f'<p class="reading">{verdict(summary).sentence}</p>' in page
    assert wording.share(summary.accuracy.value or 0.0) in page
    for name in ("margin", "relative", "bands", "entropy", "curve", "slope", "native"):
        assert f'id="figure-{name}"' in page
    undefined = Estimate(None, reason="no position was finite", n=0)
    without = replace(
        make_summary(native=False, gap=False),
        median_margin=undefined,
        accuracy=undefined,
        bfloat16=None,
    )
    bare = without_terms(audit_page("t", without, [], []))
    assert "No decision could be measured: no position was finite." in bare
    assert "Not fitted here: fewer than 100 positive margins." in bare
    assert "none: no position was finite" in bare
    assert 'id="rounding"' not in bare
    assert "No sample documents were kept." in bare
    for name in ("curve", "slope", "native"):
        assert f'id="figure-{name}"' not in bare


def test_what_rounding_changes_stands_beside_what_the_head_decides(page: str) -> None:
    bare = without_terms(page)
    assert 'id="rounding"' in bare
    assert "unembed compare MODEL CORPUS --quantize int8 -o RUN" in bare
    rows = sections_of_summary(make_summary())[2].tables[0].rows
    assert dict(row[:2] for row in rows) == {
        "margin below one bfloat16 step": "5.7\u00a0%",
        "first two tied once rounded": "3.9\u00a0%",
        "another token wins the tie": "2.07\u00a0%",
        "another token, by the bfloat16 head itself": "2.1\u00a0%",
    }
    assert len(sections_of_summary(make_summary(native=False))[2].tables[0].rows) == 3


def test_the_median_margin_is_said_in_odds(page: str) -> None:
    summary = make_summary()
    odds = wording.point(summary.median_odds, wording.decimal)
    assert float(odds) == pytest.approx(np.exp(summary.median_margin.value), rel=0.02)
    whole = wording.bounded(summary.median_odds, wording.decimal)
    assert f"{whole} times as likely as the runner-up" in without_terms(page)
    assert dict(headline(summary))["times as likely"].startswith(f"{odds} [")


def test_an_audit_of_nothing_is_drawn() -> None:
    nothing = Estimate(None, reason="no position was finite")
    filled = make_summary(n=50, native=False, gap=False)
    empty = {
        field.name: nothing
        for field in fields(filled)
        if isinstance(getattr(filled, field.name), Estimate)
    }
    nobody = replace(
        filled,
        **empty,
        bfloat16=Bfloat16Rounding(nothing, nothing, nothing),
        bands=tuple(
            Band(band.low, band.high, 0, nothing, nothing, nothing) for band in filled.bands
        ),
        margin_histogram=Histogram((0.0, 1.0, 2.0), (0, 0), (0, 0), 0, 0),
        relative_distance_histogram=Histogram((0.0, 1.0), (0,), (0,), 0, 0),
        entropy_margin=Density((0.0, 1.0), (0.0, 1.0), ((0,),)),
    )
    assert audit_page("t", nobody, [], []).count("none: no position was finite") >= 8


def test_sample_is_whole_documents_within_the_budget() -> None:
    token = make_documents()[0].tokens[0]
    sizes = {"a": 6, "b": 9, "c": 3, "d": 2}
    documents = [DocumentView(name, "", (token,) * size) for name, size in sizes.items()]
    view = text_view(documents, budget=10)
    assert (view.names, view.tokens, view.shown) == (("a", "c"), 9, 2)
    cut = text_view(documents[1:2], budget=5)
    assert (cut.tokens, cut.shown, cut.shortened) == (5, 1, 1)
    assert text_view([], budget=5).tokens == 0


def test_largest_page_stays_below_five_megabytes() -> None:
    rng = np.random.default_rng(0)
    words = tuple(f" w{i}" for i in range(20_000))
    some = [make_token(rng, words[i], words) for i in range(300)]
    many = [
        replace(some[i % 300], text=words[int(j)])
        for i, j in enumerate(rng.integers(20_000, size=70_000))
    ]
    documents = [
        DocumentView(str(i), "", tuple(many[i : i + 7_000])) for i in range(0, 70_000, 7_000)
    ]
    page = audit_page("t", make_summary(), FACTS, documents)
    assert len(page.encode()) < 5_000_000
    assert "7 of 192 documents, 49,000 tokens" in page


def test_missing_plotting_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(ReportUnavailable, match=r"pip install 'unembed\[plot\]'"):
        audit_page("t", make_summary(), [], [])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "0"),
        (1.3178, "1.32"),
        (-0.8421, "−0.842"),
        (0.012, "0.0120"),
        (0.00051, "0.000510"),
        (12345.6, "12,346"),
        (153.27, "153"),
        (2.5e-7, "2.50·10⁻⁷"),
        (-3e8, "−3.00·10⁸"),
    ],
)
def test_decimal(value: float, words: str) -> None:
    assert wording.decimal(value) == words


def test_intervals_name_the_percent_once() -> None:
    found = Estimate(0.241, 0.232, 0.25, 10)
    assert wording.full(found, wording.share) == "24.1\u00a0% [23.2, 25.0]"
    assert wording.full(Estimate(0.5), wording.share) == "50.0\u00a0% (no interval)"


# In a browser ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(page: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


class TestInBrowser:
    pytestmark = browser_test

    def test_charts_have_a_size(self, opened: Watched) -> None:
        charts = opened.page.locator(".chart.wide svg")
        assert charts.count() == 7
        for i in range(charts.count()):
            box = charts.nth(i).bounding_box()
            assert box["width"] > 300
            assert box["height"] > 200
        assert opened.page.locator(".chart.narrow svg").first.is_hidden()

    def test_marks_tell_their_reading(self, opened: Watched) -> None:
        mark = opened.page.locator("#figure-margin .wide [data-tip]").nth(2)
        mark.scroll_into_view_if_needed()
        mark.hover()
        assert opened.page.locator("#hint").inner_text() == mark.get_attribute("data-tip")
        assert "of positions" in opened.page.locator("#hint").inner_text()

    def test_filters_keep_the_right_tokens(self, opened: Watched) -> None:
        tokens = make_documents()[0].tokens
        kept = opened.page.locator(".token:not(.off)")
        tally = opened.page.locator("#tally")
        assert kept.count() == len(tokens) == 320
        opened.page.get_by_text("Wrong", exact=True).click()
        wrong = sum(not token.right for token in tokens)
        assert kept.count() == wrong
        assert tally.inner_text() == f"{wrong} of 320 tokens"
        opened.page.locator("#threshold").fill("1.3")
        narrow = sum(token.margin is not None and round(token.margin, 3) < 1.3 for token in tokens)
        assert kept.count() == narrow
        assert opened.page.locator("input[value=narrow]").is_checked()
        opened.page.get_by_text("All", exact=True).click()
        assert kept.count() == 320

    def test_keys_walk_and_escape_closes(self, opened: Watched) -> None:
        view = opened.page
        tokens = make_documents()[0].tokens
        wrong = [i for i, token in enumerate(tokens) if not token.right]
        view.get_by_text("Wrong", exact=True).click()

        def focused() -> int:
            return int(view.evaluate("document.activeElement.dataset.i"))

        def level() -> float:
            script = "Math.max(...[...document.activeElement.getClientRects()].map(box => box.top))"
            return float(view.evaluate(script))

        assert view.locator(".token[tabindex='0']").count() == 1
        view.locator(".token[tabindex='0']").focus()
        assert focused() == wrong[0]
        view.keyboard.press("ArrowRight")
        view.keyboard.press("ArrowRight")
        assert focused() == wrong[2]
        view.keyboard.press("ArrowLeft")
        assert focused() == wrong[1]
        view.keyboard.press("End")
        assert focused() == wrong[-1]
        view.keyboard.press("Home")
        first = level()
        view.keyboard.press("ArrowDown")
        assert level() > first
        view.keyboard.press("ArrowUp")
        assert level() == first
        assert view.locator("#details").is_visible()
        view.keyboard.press("Escape")
        assert view.locator("#details").is_hidden()

    def test_details_tell_the_decision(self, opened: Watched) -> None:
        view = opened.page
        token = make_documents()[0].tokens[7]
        view.locator(".token").nth(7).hover()
        details = view.locator("#details")
        text = details.inner_text()
        assert ("right" if token.right else "wrong") in text
        assert f"{token.margin:.3f} logits" in text
        assert f"{token.relative_distance:.5f}" in text
        assert f"{token.entropy_nats:.3f} nats" in text
        assert f"{token.nll_nats:.3f} nats" in text
        shown = details.locator(".candidates .percent").all_inner_texts()[:5]
        assert shown == [f"{100 * round(p, 3):.1f} %" for _, p in token.candidates]
        assert details.locator(".is-target").count() == 1
        inside = details.bounding_box()
        assert inside["x"] >= 0
        assert inside["x"] + inside["width"] <= 1200

    def test_nasty_tokens_are_text(self, opened: Watched) -> None:
        view = opened.page
        view.locator("#document").select_option("2")
        assert "⟨U+202E⟩" in view.locator("#document option").nth(2).inner_text()
        shown = view.locator(".token").all_inner_texts()
        assert shown[0] == "<script>alert(1)</script>"
        assert shown[5] == "<img src=x onerror=alert(1)>"
        assert shown[6] == "⟨U+202E⟩abc"
        assert shown[7] == "⟨U+2066⟩x⟨U+2069⟩"
        assert shown[8] == "⟨U+200E⟩⟨U+200F⟩"
        assert shown[9] == "zero⟨U+200B⟩width"
        assert shown[10].startswith("◌")
        assert shown[12] == "⟨U+0000⟩⟨U+001B⟩[31m"
        assert shown[13] == "⟨U+D800⟩"
        assert shown[14] == "\ufffd"
        assert shown[15] == "⟨U+2028⟩⟨U+2029⟩"
        assert shown[19].startswith("⏎")
        assert shown[20].startswith("⟨U+000D⟩⏎")
        assert shown[22] == "····"
        assert view.locator("#tokens :not(bdi):not(span)").count() == 0
        isolated = view.locator(".token").first
        assert isolated.evaluate("one => getComputedStyle(one).unicodeBidi") == "isolate"
        view.locator(".token").last.focus()
        assert "not finite" in view.locator("#details").inner_text()

    def test_newlines_break_lines(self, opened: Watched) -> None:
        view = opened.page
        view.locator("#document").select_option("1")
        view.locator("#mono").check()
        top = [view.locator(".token").nth(i).bounding_box()["y"] for i in (0, 7)]
        assert top[1] > top[0] + 10
        left = [view.locator(".token").nth(i).bounding_box()["x"] for i in (0, 15)]
        assert left[1] > left[0] + 20

    def test_theme_button(self, opened: Watched) -> None:
        view = opened.page

        def paper() -> str:
            return str(view.evaluate("getComputedStyle(document.body).backgroundColor"))

        def bar() -> str:
            script = "one => getComputedStyle(one).fill"
            return str(view.locator("#figure-margin .wide [data-tip]").first.evaluate(script))

        light, blue = paper(), bar()
        view.locator("#theme").click()
        assert paper() != light
        assert bar() != blue
        view.locator("#theme").click()
        assert (paper(), bar()) == (light, blue)

    @pytest.mark.parametrize("opened", [(360, 800)], indirect=True)
    def test_phone(self, opened: Watched) -> None:
        view = opened.page
        assert view.locator(".chart.narrow svg").first.is_visible()
        assert view.locator(".chart.wide svg").first.is_hidden()
        for one in view.locator("details").all():
            one.evaluate("one => { one.open = true; }")
        for number in ("0", "1", "2"):
            view.locator("#document").select_option(number)
            view.locator(".token").nth(3).focus()
            token = view.locator(".token").nth(3).bounding_box()
            details = view.locator("#details").bounding_box()
            above = details["y"] + details["height"] <= token["y"]
            assert above or details["y"] >= token["y"] + token["height"]
            assert view.evaluate("document.documentElement.scrollWidth") <= 360
