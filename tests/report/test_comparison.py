from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from browser import Watched, browser_test
from made_up.comparisons import NASTY, WORDS, make_comparison, make_live_comparison
from markup import Elements
from unembed.decisions.comparison.compare import Comparison, headline
from unembed.decisions.comparison.divergences import DivergenceColumns
from unembed.decisions.comparison.excerpt import FlipDocument, flip_excerpts
from unembed.decisions.comparison.flips import KEPT_WRONG, RIGHT_TO_WRONG, WRONG_TO_RIGHT
from unembed.decisions.comparison.movement import SHARPENING_VERDICTS
from unembed.decisions.comparison.summary import (
    comparison_from_json,
    comparison_to_json,
)
from unembed.report.comparison.charts import differences
from unembed.report.comparison.divergences import divergence_section
from unembed.report.comparison.flip_quotes import MOST_PAIRS, MOST_QUOTED, flips_of, flips_section
from unembed.report.comparison.flow import streams
from unembed.report.comparison.groups import groups_section, tokens_section
from unembed.report.comparison.maps import net_map
from unembed.report.comparison.margins import margins_section
from unembed.report.comparison.page import comparison_page, sections_of
from unembed.report.comparison.text import flip_text_view
from unembed.report.exports import as_markdown
from unembed.report.parts import wording
from unembed.report.parts.parts import card, estimates_table
from unembed.stats.estimate import Estimate

NAMES = [f"doc </option><b>{i}\u202e" for i in range(12)]
FIRST = [15, 5, *range(10)]
FACTS = [("before", "example/base <b>"), ("after", "example/tuned")]


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return make_comparison()


@pytest.fixture(scope="module")
def live() -> Comparison:
    """Both models run together: divergences that vary as those of a rounding do."""
    return make_live_comparison()


@pytest.fixture(scope="module")
def documents(comparison: Comparison) -> list[FlipDocument]:
    return flip_excerpts(comparison, WORDS, NAMES, FIRST)


@pytest.fixture(scope="module")
def page(comparison: Comparison, documents: list[FlipDocument]) -> str:
    return drawn(comparison, documents)


def drawn(comparison: Comparison, documents: list[FlipDocument]) -> str:
    return comparison_page(
        "Before <b> and after\u202e",
        comparison.summary,
        FACTS,
        documents,
        ["A <i>note</i>."],
        flips_of(comparison),
    )


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def spread(value: float, room: float) -> Estimate:
    return Estimate(value, value - room, value + room, 900)


class TestColours:
    @pytest.mark.parametrize(
        ("change", "colour"),
        [
            (spread(0.02, 0.01), "var(--gained)"),
            (spread(-0.02, 0.01), "var(--lost)"),
            (spread(0.02, 0.03), "var(--muted)"),
            (Estimate(-0.02, None, None, 9), "var(--muted)"),
        ],
    )
    def test_only_what_its_interval_tells_from_0_has_one(
        self, comparison: Comparison, change: Estimate, colour: str
    ) -> None:
        group = max(comparison.summary.by_class, key=lambda one: one.flips.wrong_to_right)
        flips = replace(group.flips, accuracy_difference=change)
        spec = differences([replace(group, flips=flips)], "class")
        found = json.dumps(spec)
        for one in ("var(--gained)", "var(--lost)"):
            assert (one in found) == (one == colour)
        net = json.dumps(net_map([replace(group, flips=flips)], ["a"], ["b"]))
        assert ("--gain-4" in net, "--loss-4" in net) == (
            colour == "var(--gained)",
            colour == "var(--lost)",
        )

    def test_tokens_that_are_not_told_apart_are_folded(self, comparison: Comparison) -> None:
        found = comparison.summary.tokens
        row = found.gaining[0]
        clear = replace(row, wrong_to_right=30, right_to_wrong=2, sign_p=1e-6)
        faint = replace(row, wrong_to_right=6, right_to_wrong=5, sign_p=1.0)
        tokens = replace(found, gaining=(clear, *[faint] * 19), losing=(faint,) * 20)
        section = tokens_section(replace(comparison.summary, tokens=tokens))
        assert [len(table.rows) for table in section.tables] == [1]
        assert [len(table.rows) for table in section.folded] == [19, 20]
        assert section.more == "39 that are not told from chance"
        assert "the 40 with the largest net either way were tested" in section.lead
        assert "The flips of 1 of them go to one side" in section.lead


class TestSample:
    def test_documents_with_the_largest_share_of_changes_in_order_of_the_text(
        self, comparison: Comparison
    ) -> None:
        table = comparison.table.to_pandas()
        changed = table["before_top1"] != table["after_top1"]
        share = changed.groupby(table["doc"]).mean().sort_values(ascending=False)
        sizes = table.groupby("doc").size()
        budget = int(sizes[share.index[:2]].sum())
        found = flip_excerpts(comparison, WORDS, NAMES, FIRST, tokens=budget)
        assert [d.name for d in found] == [NAMES[i] for i in sorted(share.index[:2])]

    def test_a_document_larger_than_the_budget_is_cut(self, comparison: Comparison) -> None:
        (only,) = flip_excerpts(comparison, WORDS, NAMES, FIRST, tokens=9)
        assert len(only.tokens) == 9

    def test_short_documents_come_last(self, comparison: Comparison) -> None:
        table = comparison.table.to_pandas()
        changed = table["before_top1"] != table["after_top1"]
        lone = table.index[(table["doc"] == 4) & changed][0]
        kept = (table["doc"] != 4) | (table.index == lone)
        cut = replace(comparison, in_memory=comparison.table.filter(pa.array(kept)))
        (first,) = flip_excerpts(cut, WORDS, NAMES, FIRST, tokens=50)
        assert first.name != NAMES[4]
        assert len(flip_excerpts(cut, WORDS, NAMES, FIRST)[4].tokens) == 1

    def test_kinds_and_sides_are_those_of_the_table(
        self, comparison: Comparison, documents: list[FlipDocument]
    ) -> None:
        assert len(documents) == 12
        rows = comparison.table.to_pylist()
        tokens = [token for document in documents for token in document.tokens]
        assert len(tokens) == len(rows)
        counts = np.bincount([token.kind for token in tokens], minlength=5)
        flips = comparison.summary.flips
        assert counts[WRONG_TO_RIGHT] == flips.wrong_to_right > 0
        assert counts[RIGHT_TO_WRONG] == flips.right_to_wrong > 0
        assert counts[2:].sum() == flips.changed
        for token, row in zip(tokens, rows, strict=True):
            assert token.text == WORDS[row["target"]]
            assert token.after.top2 == WORDS[row["after_top2"]]
            assert token.before.margin == row["before_margin"]

    def test_gaps_are_marked(self, comparison: Comparison) -> None:
        table = comparison.table
        kept = np.ones(len(table), dtype=bool)
        kept[[0, 7]] = False
        cut = replace(comparison, in_memory=table.filter(pa.array(kept)))
        first = flip_excerpts(cut, WORDS, NAMES, FIRST)[0]
        assert first.lead is None
        assert [i for i, token in enumerate(first.tokens) if token.after_gap] == [0, 6]
        whole = flip_excerpts(comparison, WORDS, NAMES, FIRST)[0]
        assert whole.lead == WORDS[FIRST[0]]
        assert not any(token.after_gap for token in whole.tokens)


class TestPage:
    def test_loads_nothing(self, page: str) -> None:
        assert not re.search(r"(https?:)?//[a-z]", page, re.IGNORECASE)
        assert "@import" not in page
        assert "url(" not in page
        assert "{%" not in page
        for tag, attributes in Elements(page).tags:
            assert tag not in {"img", "iframe", "object", "embed", "base", "image", "use"}
            assert "src" not in attributes
            assert (attributes.get("href") or "#").startswith(("#", "data:"))
        assert "default-src 'none'" in page

    def test_is_small_and_the_same_every_time(
        self, page: str, comparison: Comparison, documents: list[FlipDocument]
    ) -> None:
        assert drawn(comparison, documents) == page
        assert len(page.encode()) < 800_000

    def test_ids_are_unique_and_links_lead_somewhere(self, page: str) -> None:
        tags = Elements(page).tags
        ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        links = [attributes["href"] or "" for tag, attributes in tags if tag == "a"]
        assert {link.removeprefix("#") for link in links} <= set(ids)

    def test_foreign_text_stays_text(self, page: str) -> None:
        page.encode("utf-8")
        assert not re.search("[\x00-\x08\x0b-\x1f\u200b-\u200f\u2028-\u202e\u2066-\u2069]", page)
        assert "Before &lt;b&gt; and after⟨U+202E⟩" in page
        assert "bfloat16⟨U+202E⟩ after" in page
        assert "A &lt;i&gt;note&lt;/i&gt;." in page
        tags = [tag for tag, _ in Elements(page).tags]
        assert tags.count("script") == 2
        assert not {"b", "img"} & set(tags)
        assert set(NASTY) <= set(data_of(page)["strings"])

    def test_extreme_tokens_are_spelt_out(self, page: str, comparison: Comparison) -> None:
        found = comparison.summary.tokens
        for flip in (*found.gaining, *found.losing):
            shown = wording.token(WORDS[flip.token])
            shown = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            shown = shown.replace('"', "&#34;")
            assert f'<th scope="row">{shown}</th><td>{flip.n}</td>' in page

    def test_numbers_are_those_of_the_record(self, page: str, comparison: Comparison) -> None:
        summary = comparison.summary
        flips = summary.flips
        for estimate, form in (
            (flips.churn, wording.share),
            (flips.accuracy_difference, wording.points),
            (summary.calibration.nll_difference_nats, wording.signed),
            (summary.movement.sharpening.raw_change, wording.change),
            (summary.prediction.predicted, wording.share),
        ):
            assert wording.full(estimate, form) in page
        for figure in (
            *("flow", "band-accuracy", "band", "frequency", "class", "net-map", "churn-map"),
            *("delta-margin", "delta-relative", "reliability-before", "reliability-after"),
            "chances",
        ):
            assert f'id="figure-{figure}"' in page
        parts = streams(flips)
        assert sum(stream.count for stream in parts) == flips.n
        assert {s.label: s.count for s in parts}["wrong to right"] == flips.wrong_to_right
        right = [s.count for s in parts if s.right_after]
        assert sum(right) == round((flips.accuracy_after.value or 0) * flips.n)

    def test_data_holds_what_was_given(self, page: str, documents: list[FlipDocument]) -> None:
        data = data_of(page)
        strings = data["strings"]
        for given, stored in zip(documents, data["documents"], strict=True):
            assert (stored["name"], stored["lead"]) == (given.name, given.lead)
            assert stored["kind"] == "".join(str(token.kind) for token in given.tokens)
            for i, token in enumerate(given.tokens):
                assert strings[stored["text"][i]] == token.text
                for name, one in (("before", token.before), ("after", token.after)):
                    kept = stored[name]
                    assert strings[kept["top1"][i]] == one.top1
                    assert strings[kept["top2"][i]] == one.top2
                    assert abs(kept["margin"][i] / 1e3 - one.margin) <= 0.5e-3
                    assert abs(kept["nll"][i] / 1e3 - one.nll_nats) <= 0.5e-3


class TestFlips:
    def test_the_surest_are_quoted_with_both_sides(self, comparison: Comparison) -> None:
        section = flips_of(comparison)
        assert section is not None
        quoted, pairs = section.tables
        table = comparison.table.to_pandas()
        changed = table[table["before_top1"] != table["after_top1"]]
        sure = changed.sort_values("before_margin", ascending=False, kind="stable")[:MOST_QUOTED]
        assert len(quoted.rows) == MOST_QUOTED
        for cells, row in zip(quoted.rows, sure.to_dict("records"), strict=True):
            context, before, after, text, margin, decision, document = cells
            tokens = (row["before_top1"], row["after_top1"], row["target"])
            # A quotation is UTF-8, which has no lone surrogate.
            words = [WORDS[one].encode("utf-8", "replace").decode() for one in tokens]
            assert [before, after, text] == [wording.token(one) for one in words]
            assert margin == wording.decimal(row["before_margin"])
            right = [one == row["target"] for one in tokens[:2]]
            assert decision == " → ".join("right" if one else "wrong" for one in right)
            assert document == f"document {row['doc']}"
            assert "\n" not in context
            assert context
        assert len(pairs.rows) == MOST_PAIRS
        [largest, *_] = changed.groupby(["before_top1", "after_top1"]).size().sort_values()[::-1]
        assert pairs.rows[0][2] == str(largest)
        for _, _, n, *kinds in pairs.rows:
            assert sum(map(int, kinds)) == int(n) > 1

    def test_stand_first_on_the_page_and_in_what_is_exported(
        self, page: str, comparison: Comparison
    ) -> None:
        ids = [attributes.get("id") for _, attributes in Elements(page).tags]
        assert ids.index("flips") < ids.index("flow")
        assert 'href="#flips"' in page
        assert sections_of(comparison)[0] == flips_of(comparison)

    def test_no_change_has_no_section(self) -> None:
        same = make_comparison(noise=0.0)
        assert flips_of(same) is None
        assert sections_of(same)[0].name == "flow"
        assert 'id="flips"' not in comparison_page("t", same.summary, FACTS, [])

    def test_the_lead_says_how_many_there_are(self, comparison: Comparison) -> None:
        surest = comparison.flips(MOST_QUOTED).records
        pair = replace(comparison.flips(1, "commonest")[0], count=1)
        several, one = flips_section(surest[:3], [pair]), flips_section(surest[:1], [pair])
        assert several is not None
        assert one is not None
        assert several.lead.startswith("All 3 changed decisions")
        assert several.lead.endswith("No token gave way to the same other one twice.")
        assert len(several.tables) == 1
        assert one.lead.startswith("The decision that changed: ")
        assert "twice" not in one.lead


class TestDivergences:
    def test_only_where_both_models_ran_together(self, page: str, comparison: Comparison) -> None:
        assert comparison.summary.divergence is None
        assert divergence_section(comparison.summary) is None
        assert 'id="divergence"' not in page

    def test_numbers_are_those_of_the_record(self, live: Comparison) -> None:
        apart = live.summary.divergence
        section = divergence_section(live.summary)
        assert apart is not None
        assert section is not None
        assert wording.full(apart.top_share, wording.share) in section.lead
        measures, agreement = section.tables
        assert measures.rows[0][1] == wording.full(apart.kl_forward.mean, wording.decimal)
        assert measures.rows[1][3] == wording.full(apart.kl_backward.high, wording.decimal)
        assert agreement.rows[0][1] == wording.point(apart.acceptance, wording.share)
        figures = {figure.name: figure for figure in section.figures}
        assert list(figures) == [
            *("kl-curve", "tv-curve", "kl-band-before", "acceptance-band-before"),
            *("kl-frequency", "acceptance-frequency", "kl-token-class", "acceptance-token-class"),
        ]
        [curve] = figures["kl-curve"].tables
        for row, forward, backward in zip(
            curve.rows, apart.kl_forward.above, apart.kl_backward.above, strict=True
        ):
            shares = [wording.full(one.share, wording.share) for one in (forward, backward)]
            assert row == (wording.decimal(forward.threshold), *shares)
        summary = live.summary
        for name, flipped in (
            ("band-before", summary.by_band_before),
            ("frequency", summary.by_frequency),
            ("token-class", summary.by_class),
        ):
            [table] = figures[f"kl-{name}"].tables
            assert [row[:2] for row in table.rows] == [
                (group.name, wording.count(group.flips.n)) for group in flipped
            ]

    def test_charts_draw_what_the_record_holds(self, live: Comparison) -> None:
        apart = live.summary.divergence
        section = divergence_section(live.summary)
        assert apart is not None
        assert section is not None
        figures = {figure.name: figure.chart for figure in section.figures}
        for estimate, words, chart in (
            (apart.kl_forward.above[20].share, wording.share, "kl-curve"),
            (apart.total_variation.above[18].share, wording.share, "tv-curve"),
            (apart.groups["frequency"][3].kl_forward, wording.decimal, "kl-frequency"),
        ):
            assert (estimate.value or 0) > 0
            for drawn in (figures[chart].wide, figures[chart].narrow):
                assert wording.full(estimate, words) in drawn
        # Thresholds that every position exceeds, or none, are not drawn but for the first.
        steps = [one.share.value for one in apart.total_variation.above]
        drawn = sum(0 < (step or 0) < 1 for step in steps) + (1.0 in steps) + (0.0 in steps)
        assert figures["tv-curve"].wide.count("total variation above") == drawn < len(steps)

    def test_the_page_holds_the_section(self, live: Comparison) -> None:
        page = comparison_page("t", live.summary, FACTS, [])
        ids = [attributes["id"] for _, attributes in Elements(page).tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        assert {"divergence", "figure-kl-curve", "figure-acceptance-frequency"} <= set(ids)
        assert 'href="#divergence"' in page
        assert "NaN" not in page
        assert len(page.encode()) < 800_000

    def test_the_record_survives_json(self, live: Comparison) -> None:
        text = json.dumps(comparison_to_json(live.summary), allow_nan=False)
        assert comparison_from_json(json.loads(text)) == live.summary

    def test_two_equal_models(self, comparison: Comparison) -> None:
        n = comparison.summary.n_positions
        nothing, one = np.zeros(n, np.float32), np.ones(n, np.float32)
        same = make_comparison(0.0, apart=DivergenceColumns(nothing, nothing, nothing, one))
        section = divergence_section(same.summary)
        assert section is not None
        assert section.figures == ()
        assert section.lead.endswith("Here they are the same at every position.")
        assert section.tables[0].rows[0][1:] == ("0 [0, 0]",) * 3
        assert section.tables[1].rows[2][1] == "none: the total is 0"


class TestMargins:
    def test_both_medians_say_which_they_are(self, page: str, comparison: Comparison) -> None:
        check = comparison.summary.movement.sharpening
        section = margins_section(comparison.summary)
        first = section.tables[0]
        assert first.rows[0][0] == "median margin, after over before"
        assert check.verdict not in [cell for row in first.rows for cell in row]
        assert "the median of the changes at every position" in section.lead
        assert "of each position’s change; wider at" in page
        shown = dict(headline(comparison.summary))
        words = SHARPENING_VERDICTS[check.verdict]
        assert shown["where both tokens stayed"] == words[0].lower() + words[1:]
        assert {"median Δ margin (logits)", "median Δ scale-free margin"} <= set(shown)


class TestOneGroup:
    def test_is_a_table_and_no_chart_of_one_dot(self, comparison: Comparison) -> None:
        summary = comparison.summary
        whole = groups_section(summary)
        nothing = replace(summary.flips, n=0)
        empty = [replace(one, flips=nothing) for one in summary.by_frequency[1:]]
        lone = replace(summary, by_frequency=(summary.by_frequency[0], *empty))
        section = groups_section(lone)
        names = [figure.name for figure in whole.figures]
        assert [figure.name for figure in section.figures] == [
            name for name in names if name != "frequency"
        ]
        assert section.tables[0].caption.startswith("Change by frequency")
        assert section.tables[1:] == whole.tables


class TestFewDocuments:
    def test_cards_say_how_many_and_cells_are_marked_where_the_table_explains_it(
        self, comparison: Comparison
    ) -> None:
        summary = comparison.summary
        two = replace(summary.flips.churn, documents=2)
        bare = card("Churn", two, wording.share)
        assert bare.n == f"{wording.count(two.n)}, of 2 documents"
        group = replace(summary.by_class[0], flips=replace(summary.by_class[0].flips, churn=two))
        [table] = groups_section(replace(summary, by_word_start=(group,))).tables
        assert table.rows[0][table.head.index("churn")].endswith("]\u00a0†")
        assert (
            table.heading
            == f"{table.caption}. †\u00a0of fewer than 10 documents: the interval is rough"
        )
        assert "† of fewer than 10 documents" in as_markdown(table).replace("\u00a0", " ")
        many = estimates_table("Churn", {"churn": (replace(two, documents=10), wording.share)})
        assert many.heading == "Churn"
        few = estimates_table("Churn", {"churn": (two, wording.share)})
        assert few.rows[0][2] == f"{wording.interval(two, wording.share)}\u00a0†"
        assert few.heading.startswith("Churn. †")

    def test_a_mark_stands_only_behind_a_figure(self) -> None:
        unknown = Estimate(None, reason="no position", documents=2)
        wide = Estimate(0.5, 0.0, 1.0, 9, documents=2)
        assert wording.cell(unknown, wording.share) == "none: no position"
        assert wording.cell(wide, wording.share) == "not determined"
        lone = Estimate(0.5, n=9, documents=1)
        assert wording.cell(lone, wording.share) == "50.0\u00a0% (no interval)\u00a0†"
        assert wording.interval_cell(lone, wording.share) == "†"


class TestSpecialCases:
    def test_no_change_is_said_once(self) -> None:
        same = make_comparison(noise=0.0)
        page = comparison_page("t", same.summary, FACTS, [])
        assert "None of the 1,500 decisions changed." in page
        assert 'id="figure-delta-margin"' not in page
        assert 'id="figure-chances"' not in page
        assert f"No curve: {same.summary.prediction.bins_reason}" in page
        assert "No sample documents were kept." in page

    def test_largest_page_stays_below_five_megabytes(
        self, comparison: Comparison, documents: list[FlipDocument]
    ) -> None:
        tokens = documents[0].tokens[:100] * 70
        many = [FlipDocument(str(i), "", tokens) for i in range(10)]
        view = flip_text_view(many)
        assert (view.shown, view.tokens) == (7, 49_000)
        assert len(comparison_page("t", comparison.summary, FACTS, many).encode()) < 5_000_000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" the", "·the"),
        ("a b ", "a b·"),
        ("\n\n", "⏎⏎"),
        ("a\tb", "a→b"),
        ("\u0301", "◌\u0301"),
        ("\u202ex", "⟨U+202E⟩x"),
        ("", ""),
        ("x" * 80, "x" * 59 + "…"),
    ],
)
def test_lone_tokens(text: str, shown: str) -> None:
    assert wording.token(text) == shown


def test_differences_in_points() -> None:
    assert wording.points(0.0041) == "+0.410\u00a0pp"
    assert wording.points(-0.12) == "−12.0\u00a0pp"
    assert wording.change(0.283) == "+28.3\u00a0%"
    assert wording.signed(0.0) == "0"


# In a browser ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(page: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "comparison.html"
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


class TestInBrowser:
    pytestmark = browser_test

    def test_charts_have_a_size_and_tell_their_reading(self, opened: Watched) -> None:
        charts = opened.page.locator(".chart.wide svg")
        assert charts.count() == 12
        for i in range(charts.count()):
            box = charts.nth(i).bounding_box()
            assert box["width"] > 300
            assert box["height"] > 200
        mark = opened.page.locator("#figure-flow .wide [data-tip]").first
        mark.scroll_into_view_if_needed()
        mark.hover()
        assert "positions" in opened.page.locator("#hint").inner_text()

    def test_filters_keep_the_right_tokens(
        self, opened: Watched, documents: list[FlipDocument]
    ) -> None:
        view = opened.page
        kinds = [token.kind for token in documents[0].tokens]
        kept = view.locator("#tokens .token:not(.off)")
        for name, wanted in (
            ("Gained", [WRONG_TO_RIGHT]),
            ("Lost", [RIGHT_TO_WRONG]),
            ("Any change", [2, 3, 4]),
            ("All", range(5)),
        ):
            view.get_by_text(name, exact=True).click()
            count = sum(kind in wanted for kind in kinds)
            assert kept.count() == count > 0
            assert view.locator("#tally").inner_text() == f"{count} of {len(kinds)} tokens"

    def test_keys_walk_and_escape_closes(
        self, opened: Watched, documents: list[FlipDocument]
    ) -> None:
        view = opened.page
        changed = [i for i, token in enumerate(documents[0].tokens) if token.kind > KEPT_WRONG]
        view.get_by_text("Any change", exact=True).click()

        def focused() -> int:
            return int(view.evaluate("document.activeElement.dataset.i"))

        assert view.locator(".token[tabindex='0']").count() == 1
        view.locator(".token[tabindex='0']").focus()
        assert focused() == changed[0]
        view.keyboard.press("ArrowRight")
        assert focused() == changed[1]
        view.keyboard.press("End")
        assert focused() == changed[-1]
        view.keyboard.press("Home")
        assert focused() == changed[0]
        assert view.locator("#details").is_visible()
        view.keyboard.press("Escape")
        assert view.locator("#details").is_hidden()

    def test_details_tell_both_decisions(
        self, opened: Watched, documents: list[FlipDocument]
    ) -> None:
        view = opened.page
        tokens = documents[0].tokens
        i = next(i for i, token in enumerate(tokens) if token.kind == WRONG_TO_RIGHT and i > 20)
        token = tokens[i]
        view.locator("#tokens .token").nth(i).hover()
        details = view.locator("#details")
        text = details.inner_text()
        assert "wrong → right" in text
        for one in (token.before, token.after):
            assert f"{round(one.margin * 1e3) / 1e3:.3f} logits" in text
            assert f"{round(one.nll_nats * 1e3) / 1e3:.3f} nats" in text
        assert details.locator("td bdi").count() == 4
        inside = details.bounding_box()
        assert inside["x"] >= 0
        assert inside["x"] + inside["width"] <= 1200

    def test_nasty_tokens_are_text(self, opened: Watched) -> None:
        view = opened.page
        shown = view.locator("#tokens .token").all_inner_texts()
        assert shown[0] == "<script>alert(1)</script>"
        assert shown[4] == "<img src=x onerror=alert(1)>"
        assert shown[5] == "⟨U+202E⟩abc"
        assert shown[9] == "⟨U+D800⟩"
        assert view.locator("#tokens :not(bdi):not(span)").count() == 0
        assert "⟨U+202E⟩" in view.locator("#document option").first.inner_text()

    def test_theme_button(self, opened: Watched) -> None:
        view = opened.page

        def band() -> str:
            script = "one => getComputedStyle(one).fill"
            return str(view.locator("#figure-flow .wide [data-tip]").first.evaluate(script))

        light = band()
        view.locator("#theme").click()
        assert band() != light
        view.locator("#theme").click()
        assert band() == light

    @pytest.mark.parametrize("opened", [(360, 800)], indirect=True)
    def test_phone(self, opened: Watched) -> None:
        view = opened.page
        assert view.locator(".chart.narrow svg").first.is_visible()
        assert view.locator(".chart.wide svg").first.is_hidden()
        for one in view.locator("details").all():
            one.evaluate("one => { one.open = true; }")
        view.locator("#tokens .token").nth(3).focus()
        token = view.locator("#tokens .token").nth(3).bounding_box()
        details = view.locator("#details").bounding_box()
        above = details["y"] + details["height"] <= token["y"]
        assert above or details["y"] >= token["y"] + token["height"]
        assert view.evaluate("document.documentElement.scrollWidth") <= 360
