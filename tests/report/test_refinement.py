"""The page of a refinement, from its record alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from html import unescape
from typing import Any

import pytest

from browser import Watched, browser_test
from made_up.benchmarks import run_of, scores
from made_up.comparisons import make_comparison
from made_up.refinements import make_summary
from markup import Elements
from unembed.report.parts import wording
from unembed.report.parts.marks import spaced
from unembed.report.refinement.curves import training_section, watched_section
from unembed.report.refinement.page import (
    benchmark_tables,
    cost_section,
    extent,
    notes,
    refinement_page,
)
from unembed.report.verdicts.refinement import verdict
from unembed.stats.forms import bounded
from unembed.training.benchmarks.run import BenchmarkComparison, compare_benchmarks
from unembed.training.recipe.recipe import Recipe
from unembed.training.recipe.schedule import Schedule
from unembed.training.run.rounding import Rounding
from unembed.training.run.summary import RefinementSummary, Step
from unembed.training.run.summary import headline as printed

PAGES = {"heldout": "heldout/report.html", "training": "training/report.html"}


@pytest.fixture(scope="module")
def summary() -> RefinementSummary:
    return make_summary()


def drawn(
    summary: RefinementSummary,
    title: str = "Base <b>\u202e, refined",
    pages: Mapping[str, str] = PAGES,
) -> str:
    facts = [("Model", "example/base <b>")]
    return refinement_page(title, summary, Recipe().to_json(), facts, pages)


@pytest.fixture(scope="module")
def page(summary: RefinementSummary) -> str:
    return drawn(summary)


@pytest.fixture(scope="module")
def file(page: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page)
    return path.as_uri()


def test_loads_nothing_and_links_to_its_parts(page: str) -> None:
    assert not re.search(r"(https?:)?//[a-z]", page, re.IGNORECASE)
    assert "url(" not in page
    assert "{%" not in page
    tags = Elements(page).tags
    assert not {"img", "iframe", "object", "embed", "base", "image", "use", "b"} & {
        t for t, _ in tags
    }
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] or "" for tag, attributes in tags if tag == "a"]
    assert tuple(link for link in links if not link.startswith("#")) == tuple(PAGES.values())
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert "Base &lt;b&gt;⟨U+202E⟩, refined" in page


def test_is_small_and_the_same_every_time(page: str, summary: RefinementSummary) -> None:
    assert drawn(summary) == page
    assert drawn(RefinementSummary.from_json(_json(summary))) == page
    assert len(page.encode()) < 1_500_000


def test_held_out_stands_beside_training(page: str, summary: RefinementSummary) -> None:
    for form, of in (
        (wording.signed, lambda s: s.movement.everywhere.margin.median),
        (wording.signed, lambda s: s.movement.everywhere.relative_distance.median),
        (wording.signed, lambda s: s.calibration.nll_difference_nats),
        (wording.points, lambda s: s.flips.accuracy_difference),
        (wording.share, lambda s: s.flips.churn),
        (wording.share, lambda s: s.flips.right_to_wrong_share),
        (wording.share, lambda s: s.flips.wrong_to_right_share),
    ):
        held, trained = of(summary.heldout), of(summary.training)
        assert held != trained
        cells = [wording.point(held, form), wording.interval(held, form)]
        cells += [wording.point(trained, form), wording.interval(trained, form)]
        assert "".join(f"<td>{cell}</td>" for cell in cells) in page
        assert f'<p class="value">{wording.point(held, form)}' in page
        assert f"{wording.point(trained, form)} training" in page


def test_the_page_begins_with_the_verdict(page: str, summary: RefinementSummary) -> None:
    found = verdict(summary)
    head = unescape(page[: page.index("<main>")])
    assert f'<p class="reading">{found.sentence}</p>' in head
    for bullet in (found.quality, found.change, found.trust):
        assert bullet in head
    noted = unescape(drawn(replace(summary, notes=("2 prompts were cut on the left",))))
    assert "<li>2 prompts were cut on the left</li>" in noted[: noted.index("<main>")]


def test_what_the_penalty_adds_stands_beside_it(page: str, summary: RefinementSummary) -> None:
    control = make_comparison(noise=0.3, n=700).summary
    beside = replace(summary, control=control)
    assert RefinementSummary.from_json(json.loads(json.dumps(_json(beside)))) == beside
    with_control = drawn(beside, pages=PAGES | {"over-control": "over-control/report.html"})
    assert 'href="over-control/report.html"' in with_control
    for name, form, estimate in (
        (
            "Median Δ margin, logits",
            wording.signed,
            control.movement.everywhere.margin.median,
        ),
        ("Loss difference, nats", wording.signed, control.calibration.nll_difference_nats),
        ("Accuracy difference", wording.points, control.flips.accuracy_difference),
    ):
        value, bounds = wording.point(estimate, form), wording.interval(estimate, form)
        row = f'<th scope="row">{name}</th><td>{value}</td><td>{bounds}</td>'
        assert row in re.sub(r">\s+<", "><", with_control)
        assert f"{value} over the control" in with_control
        assert bounded(estimate, form) in dict(_over_control(beside)).values()
    assert "over the control" not in page
    assert "over-control" not in page


def _over_control(summary: RefinementSummary) -> list[tuple[str, str]]:
    """What is printed of the difference to the control."""
    rows = printed(summary)
    return rows[rows.index(("", "held out, minus the control")) + 1 :]


def test_curves_hold_what_was_logged(summary: RefinementSummary) -> None:
    section = training_section(summary, 2.0)
    tables = {figure.name: figure.tables[0] for figure in section.figures}
    assert list(tables) == [
        *("cross-entropy", "penalty", "gradient-norm", "gradient-ratio", "gradient-cosine")
    ]
    assert tables["cross-entropy"].rows[0] == ("1", wording.decimal(3.0))
    assert tables["cross-entropy"].rows[-1] == ("500", wording.decimal(2.002))
    assert len(tables["cross-entropy"].rows) == 40
    assert tables["cross-entropy"].caption == "Cross-entropy, 40 of 500 steps"
    assert tables["gradient-ratio"].rows[0] == ("10", wording.decimal(1.0))
    assert "the rule is the clip, 2" in section.figures[2].caption
    assert "0.125 times as long" in section.lead.replace("\u00a0", " ")
    control = replace(
        summary,
        objective="none",
        log=tuple(
            Step(one.step, one.loss, None, None, None, None, None) for one in summary.log[:5]
        ),
        gradient_ratio=None,
        gradient_cosine=None,
    )
    [only] = training_section(control, 0.0).figures
    assert only.tables[0].rows[0] == ("1", wording.decimal(4.0))


def test_a_share_and_a_schedule_are_told(summary: RefinementSummary) -> None:
    late = replace(
        summary,
        weight=0.0,
        gradient_share=0.1,
        schedule=Schedule(after=0.5),
        log=tuple(replace(one, weight=0.01 * max(0, one.step - 250)) for one in summary.log),
    )
    assert late.has_penalty
    words = extent(late).replace("\u00a0", " ")
    share = "10.0 % of the loss's gradient, after 50.0 % of the steps"
    assert words.startswith(f"Cross-entropy + fisher at {share}, 500 steps")
    figures = {figure.name: figure for figure in training_section(late, 0.0).figures}
    assert figures["penalty-weight"].tables[0].rows[-1] == ("500", wording.decimal(2.5))
    assert "--objective fisher --gradient-share 0.1 --penalty-after 0.5" in verdict(late).next


def test_one_step_is_words_and_no_chart_of_one_dot(summary: RefinementSummary) -> None:
    section = watched_section(replace(summary, watched=summary.watched[1:2]))
    assert section is not None
    assert section.figures == ()
    assert "At step 50 alone: loss 2.50, median margin 0.905, " in section.lead
    assert "Step 0" not in section.lead
    one = training_section(replace(summary, log=summary.log[:1]), 0.0)
    assert one.figures == ()
    assert "At step 1 alone: cross-entropy 3.00, penalty 0.400 and length 1.50." in one.lead


def test_an_axis_does_not_draw_noise_large(summary: RefinementSummary) -> None:
    still = tuple(
        replace(one, nll=0.638711 + one.step * 1e-9, accuracy=0.5 + one.step * 1e-8)
        for one in summary.watched
    )
    section = watched_section(replace(summary, watched=still))
    assert section is not None
    charts = {figure.name: figure.chart.wide for figure in section.figures}
    ticks = re.findall(r">([\d.]+)</text>", charts["watched-loss"])
    assert {"0.630", "0.640"} <= set(ticks)
    assert all(len(tick) <= 5 for tick in ticks)
    shares = re.findall(r">([\d.]+)\u00a0%</text>", charts["watched-accuracy"])
    assert float(shares[-1]) - float(shares[0]) == pytest.approx(1.0, abs=0.6)


def test_watched_curves_hold_what_was_measured(summary: RefinementSummary) -> None:
    section = watched_section(summary)
    assert section is not None
    assert "777 held-out positions" in section.lead
    rows = {figure.name: figure.tables[0].rows for figure in section.figures}
    assert rows["watched-flips"][0] == ("0", wording.share(0.0), wording.share(0.0))
    assert rows["watched-flips"][1] == ("50", wording.share(0.031), wording.share(0.0123))
    assert rows["watched-margin"][-1] == ("500", wording.decimal(0.95))
    assert rows["watched-relative"][1][1] == wording.decimal(0.02)
    assert rows["watched-stable"][1][1] == wording.share(0.97)
    assert rows["watched-loss"][1][1] == wording.decimal(2.5)
    captions = {figure.name: figure.caption for figure in section.figures}
    assert captions["watched-loss"].endswith("2.40 before, 2.50 at step 500.")
    assert "Churn 0\u00a0% before, 3.10\u00a0% at step 500; right" in captions["watched-flips"]
    assert "Step 0 is the starting model." in section.lead
    assert "of 1,500 positions" in section.lead
    assert watched_section(replace(summary, watched=())) is None
    assert 'id="watched"' not in drawn(replace(summary, watched=()))


@pytest.mark.parametrize("n", [1, 2, 9, 10, 11, 1000])
def test_spaced_keeps_both_ends(n: int) -> None:
    points = [(i, float(i)) for i in range(n)]
    kept = spaced(points, 10)
    assert len(kept) == min(n, 10)
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert sorted(set(kept)) == list(kept)


def test_words(summary: RefinementSummary) -> None:
    assert extent(summary).startswith(
        "Cross-entropy + 0.6 · fisher, 500 steps, scope head; the head"
    )
    assert "1,500 positions in 12 documents held out and 900 positions" in extent(summary)
    assert notes(summary) == ()
    control = replace(summary, objective="none", clipped=1.0)
    assert extent(control).startswith("Cross-entropy alone, 500 steps")
    assert notes(control) == ()
    hurt = replace(summary, clipped=0.25, stopped="at step 9: too dear")
    stopped, clipped, text = notes(replace(hurt, notes=("1 of 8 documents are exact copies",)))
    assert text == "1 of 8 documents are exact copies"
    assert stopped == "The run stopped at step 9: too dear."
    assert wording.share(0.25) in clipped


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (
            66,
            "bfloat16, where 6.6% of the 1,000 entries that moved still differ: --save-dtype "
            "float32 keeps the update, a higher learning rate more of it",
        ),
        (998, "bfloat16, where 99.8% of the 1,000 entries that moved still differ"),
    ],
)
def test_what_saving_kept_is_told_with_advice_where_it_is_little(
    kept: int, words: str, summary: RefinementSummary
) -> None:
    told = replace(summary, rounding=Rounding("bfloat16", 1000, kept))
    rows = printed(told)
    at = [name for name, _ in rows].index("saved")
    until = next(i for i in range(at + 1, len(rows)) if rows[i][0])
    assert " ".join(text for _, text in rows[at:until]) == words
    assert f"Saved in {words}. Audited on" in extent(told)
    still = replace(summary, rounding=Rounding("bfloat16", 0, 0))
    assert ("saved", "bfloat16; no entry moved") in printed(still)
    assert "saved" not in dict(printed(summary))


LONG = "a_task_of_ones_own_with_a_long_name"


def make_benchmarks(limit: int | None = None) -> BenchmarkComparison:
    old = run_of(scores("piqa", [0.0, 1.0, 0.0, 0.0]), scores(LONG, [0.5, 0.25], "f1"))
    new = run_of(scores("piqa", [1.0, 1.0, 0.0, 1.0]), scores(LONG, [0.25, 0.25], "f1"))
    return compare_benchmarks(replace(old, limit=limit), replace(new, limit=limit))


def test_a_summary_with_benchmarks_survives_json(summary: RefinementSummary) -> None:
    scored = replace(summary, benchmarks=make_benchmarks())
    assert RefinementSummary.from_json(json.loads(json.dumps(_json(scored)))) == scored
    without = _json(summary)
    del without["benchmarks"]
    assert RefinementSummary.from_json(without) == summary


def test_a_row_is_printed_for_each_task(summary: RefinementSummary) -> None:
    plain = printed(summary)
    rows = printed(replace(summary, benchmarks=make_benchmarks()))
    assert rows[: len(plain)] == plain
    # Differences 1, 0, 0, 1: their standard deviation is sqrt(1/3), half of it the error.
    error = 1.959963984540054 * math.sqrt(1 / 3) / 2
    assert rows[len(plain) :] == [
        ("benchmarks", "before → after, difference [95 % interval], n"),
        ("piqa", f"0.2500 → 0.7500, +0.5 [−{error - 0.5:.1f}, +{0.5 + error:.1f}], n 4"),
        (LONG, ""),
        ("", "0.3750 → 0.2500, −0.1 [−0.4, +0.1], n 2"),
        ("mean of 2 tasks", rows[-1][1]),
    ]
    assert rows[-1][1].startswith("0.3125 → 0.5000, +0.2 [")
    assert rows[-1][1].endswith("], n 6")


def test_benchmarks_are_a_table_of_the_page(summary: RefinementSummary, page: str) -> None:
    found = make_benchmarks(limit=4)
    [table] = benchmark_tables(found)
    assert table.caption.endswith("paired by document, the first 4 of each task")
    first, second, mean = table.rows
    piqa = found.tasks[0]
    assert first[:5] == ("piqa, acc", "4", "0.2", "0.8", "+0.5")
    assert first[5] == wording.interval(piqa.difference, wording.signed)
    assert first[6] == wording.decimal(math.sqrt(1 / 3) / 2)
    assert first[7:] == ("0", "2", "0.500")
    assert second[0] == f"{LONG}, f1"
    assert second[7:] == ("", "", "")
    assert mean[:5] == ("mean of 2 tasks", "6", "0.3", "0.5", "+0.2")
    assert {len(row) for row in table.rows} == {len(table.head)}
    assert found.mean_standard_error is not None
    assert mean[6] == wording.decimal(found.mean_standard_error)

    scored = replace(summary, benchmarks=found)
    assert cost_section(scored).tables[-1] == table
    assert "McNemar" in drawn(scored)
    assert "lm-evaluation-harness" not in page


def _json(summary: RefinementSummary) -> Any:
    from unembed.runs.record import record_to_json

    return record_to_json(summary)


class TestBrowser:
    pytestmark = browser_test

    def test_shows_its_charts(self, opened: Watched) -> None:
        view = opened.page
        assert view.locator(".chart.wide svg").first.is_visible()
        view.locator("#figure-watched-loss .wide [data-tip]").first.hover()
        assert "step 0" in view.locator("#hint").inner_text()

    @pytest.mark.parametrize("opened", [(420, 800)], indirect=True)
    def test_phone(self, opened: Watched) -> None:
        view = opened.page
        assert view.locator(".chart.narrow svg").first.is_visible()
        for one in view.locator("details").all():
            one.evaluate("one => { one.open = true; }")
        assert view.evaluate("document.documentElement.scrollWidth") <= 420
