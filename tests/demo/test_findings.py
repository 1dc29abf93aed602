"""The rules that choose what the demo says, a test for each of their branches."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from made_up import audits
from made_up.alignments import example
from made_up.comparisons import make_comparison
from made_up.layers import make_layers
from made_up.refinements import make_summary
from made_up.selection import transfer, verdicts
from unembed.decisions.audit.audit import Audit
from unembed.decisions.audit.summary import AuditSummary
from unembed.decisions.comparison.flip_list import Flip
from unembed.decisions.comparison.summary import ComparisonSummary
from unembed.decisions.layers.layers import Layers
from unembed.decisions.layers.summary import LayersSummary
from unembed.demo.findings import (
    WIDTH,
    Finding,
    findings,
    findings_text,
    formed,
    helped,
    left_out,
    narrow,
    quoted,
    refined,
    rounded,
    surest,
)
from unembed.demo.story import DemoRuns
from unembed.runs.visible import visible
from unembed.selection.transfer.judged import JudgedTransfer
from unembed.selection.transfer.verdicts import judge
from unembed.stats.estimate import Estimate
from unembed.stats.forms import decimal
from unembed.training.run.refinement import Refinement

Ends = tuple[float, float] | None
NOTHING = Estimate(None, reason="no position")
COUNTS = {"right to wrong": 1_127, "wrong to right": 114, "wrong to wrong": 500}


comparison = cache(make_comparison)
deep = cache(make_layers)


def between(ends: Ends) -> Estimate:
    return Estimate(0.1, n=90) if ends is None else Estimate(sum(ends) / 2, *ends, 90)


@pytest.fixture(scope="module")
def audited() -> AuditSummary:
    return audits.make_summary()


@pytest.fixture(scope="module")
def compared() -> ComparisonSummary:
    return comparison().summary


def with_accuracy(summary: AuditSummary, near: Estimate, far: Estimate) -> AuditSummary:
    first, *middle, last = summary.bands
    bands = (replace(first, accuracy=near), *middle, replace(last, accuracy=far))
    return replace(summary, bands=bands)


def test_narrow_decisions_are_less_often_right_where_the_intervals_say_so(
    audited: AuditSummary,
) -> None:
    apart = with_accuracy(audited, between((0.17, 0.19)), between((0.96, 0.98)))
    found = narrow(apart)
    assert found.first.endswith("of the decisions are narrow, won by less than half a logit.")
    assert found.second == (
        "18.0\u00a0% [17.0, 19.0] of these are right, 97.0\u00a0% [96.0, 98.0] of those won by 5 "
        "logits or more."
    )
    assert found.page == Path("report.html")
    near = with_accuracy(audited, between((0.2, 0.5)), between((0.49, 0.9)))
    assert narrow(near).second.endswith("or more: too close to call.")
    alone = with_accuracy(audited, between(None), between((0.49, 0.9)))
    assert narrow(alone).second.endswith("or more: too close to call.")


def test_a_band_without_positions_leaves_the_median(audited: AuditSummary) -> None:
    found = narrow(with_accuracy(audited, between((0.2, 0.5)), NOTHING))
    assert found.second.startswith("The median margin, in logits, is ")
    assert narrow(replace(audited, share_margin_below_half=NOTHING)).sentence == (
        "No decision could be measured: no position."
    )


def with_settling(saved: Ends, apart: Estimate) -> LayersSummary:
    """Made-up layers whose exit saves so much, none without ends, and whose wrong ones are late."""
    summary = deep().summary
    settling = replace(summary.settling, wrong_less_right=apart)
    chosen = None if saved is None else replace(summary.early_exit.curve[0], saved=between(saved))
    exits = replace(summary.early_exit, chosen=chosen, chosen_reason="none holds it")
    return replace(summary, settling=settling, early_exit=exits)


@pytest.mark.parametrize(
    ("apart", "words"),
    [
        (between((0.2, 0.4)), "Wrong ones settle 0.30 [0.20, 0.40] blocks later."),
        (between((-0.4, -0.2)), "Wrong ones settle earlier, −0.30 [−0.40, −0.20] blocks."),
        (between((-0.1, 0.2)), "Wrong ones later by +0.05 [−0.10, +0.20]: too close to call."),
        (Estimate(None, reason="every decision is right"), "Every decision is right."),
    ],
)
def test_when_wrong_decisions_settle_is_said_as_far_as_the_interval_goes(
    apart: Estimate, words: str
) -> None:
    found = formed(with_settling((0.01, 0.02), apart))
    assert found.first.startswith("The last of 3 blocks changes ")
    assert found.first.endswith(" of the decisions; early exit at 99\u00a0% agreement")
    assert found.second.startswith("saves 1.5\u00a0% [1.0, 2.0] of blocks. " + words)
    assert max(len(found.first), len(found.second)) <= WIDTH
    assert found.page == Path("layers/report.html")


def test_where_no_exit_holds_or_nothing_was_decided_it_is_said() -> None:
    found = formed(with_settling(None, between((0.2, 0.4))))
    words = "of the decisions; no early exit by its own head keeps 99\u00a0% of them. Wrong"
    assert found.sentence.count(words) == 1
    none = replace(deep().summary.settling, mean=NOTHING)
    assert formed(replace(deep().summary, settling=none)).sentence == (
        "No decision could be followed: no position."
    )


def with_loss(summary: ComparisonSummary, loss: Ends) -> ComparisonSummary:
    calibration = replace(summary.calibration, nll_difference_nats=between(loss))
    return replace(summary, calibration=calibration)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ((-0.0003, 0.0004), "loss level, within ±0.00040 nats."),
        ((0.0002, 0.0006), "loss slightly higher, within ±0.00060 nats."),
        ((-0.0006, -0.0002), "loss slightly lower, within ±0.00060 nats."),
        ((0.02, 0.04), "loss higher, +0.030 [+0.020, +0.040] nats."),
        ((-0.04, -0.02), "loss lower, −0.030 [−0.040, −0.020] nats."),
        ((-0.02, 0.01), "loss too close to call, −0.005 [−0.020, +0.010] nats."),
        (None, "loss too close to call, +0.100 nats (no interval)."),
    ],
)
def test_the_loss_of_a_rounding_says_no_more_than_its_interval(
    compared: ComparisonSummary, loss: Ends, words: str
) -> None:
    found = rounded({"bfloat16": with_loss(compared, loss)})
    assert found.first.startswith("In bfloat16, ")
    assert found.first.endswith(f" of decisions change; {words}")
    assert found.page == Path("bfloat16/report.html")


def test_each_rounding_has_a_line(compared: ComparisonSummary) -> None:
    flips = replace(compared.flips, right_to_wrong=127, wrong_to_right=1_114)
    alone = rounded({"bfloat16": replace(compared, flips=flips)})
    assert alone.second == "127 right decisions became wrong, 1,114 wrong ones right."
    same = comparison(0.0).summary
    both = rounded({"bfloat16": compared, "int8": same})
    assert both.second == "In int8, none of 1,500 decisions changes; loss level, within ±0 nats."
    nothing = replace(compared, flips=replace(compared.flips, churn=NOTHING))
    assert rounded({"bfloat16": nothing}).first == (
        "In bfloat16, no decision could be compared: no position."
    )


FLIP = Flip(
    "test/test_raise.py", 7, "a cause)\n        self.assertFalse(e.__", "s", "ca", "s", 0.16, 0.04,
    True, False,
)  # fmt: skip
OTHER = replace(FLIP, target="x", right_before=False, margin_before=0.3)


def test_a_flip_between_right_and_wrong_is_quoted_before_a_surer_one() -> None:
    found = quoted("bfloat16", (OTHER, FLIP), COUNTS)
    assert found.first == (
        "The surest of 1,127 right decisions that bfloat16 turned wrong was won by 0.160 logits:"
    )
    assert found.second == (
        "“a cause)⏎ self.assertFalse(e.__” then “s” (right) → “ca” (wrong), test/test_raise.py"
    )
    assert found.page == Path("bfloat16/report.html")
    gained = replace(FLIP, target="ca", right_before=False, right_after=True)
    assert quoted("int8", (gained,), COUNTS).first.startswith(
        "The surest of 114 wrong decisions that int8 turned right was won by "
    )
    assert quoted("int8", (OTHER,), COUNTS).first.startswith(
        "The surest of 500 wrong decisions that int8 moved to another wrong token was won by "
    )


def test_a_long_quotation_keeps_what_stands_next_to_the_decision() -> None:
    long = replace(FLIP, context="word " * 60 + "last", document="folder/" * 20 + "end.py")
    found = quoted("bfloat16", (long,), COUNTS)
    assert len(found.second) == WIDTH
    assert found.second.startswith("“…")
    assert "word last” then “s” (right)" in found.second
    assert found.second.endswith("/end.py")
    nasty = replace(long, context="\x1b[31m\u202e\ud800 x", before="\u202e" * 30, after="\n")
    shown = quoted("bfloat16", (nasty,), COUNTS).second
    assert shown == visible(shown)
    assert "→ “⏎” (wrong)" in shown


def test_the_surest_flip_is_that_of_the_first_rounding_that_changed_anything() -> None:
    same, changed = comparison(0.0), comparison()
    found = surest({"bfloat16": same, "int8": changed})
    first = next(one for one in changed.flips(1500) if one.right_before != one.right_after)
    count = getattr(changed.summary.flips, first.kind.replace(" ", "_"))
    was = "right" if first.right_before else "wrong"
    assert found.first.startswith(f"The surest of {count:,} {was} decisions that int8 turned ")
    assert found.first.endswith(f" was won by {decimal(first.margin_before)} logits:")
    assert found.page == Path("int8/report.html")
    assert surest({"bfloat16": same, "int8": same}).sentence == (
        "No decision changed in bfloat16 and int8: there is no flip to quote."
    )


@pytest.mark.parametrize(
    ("ends", "start"),
    [
        ((0.03, 0.05), "Over plain training, a penalty of narrow decisions widens the median"),
        ((-0.05, -0.03), "Over plain training, a penalty of narrow decisions narrows the median"),
        ((-0.004, 0.006), "Over plain training, a penalty of narrow decisions keeps the median"),
        ((-0.02, 0.03), "Whether a penalty of narrow decisions widens margins over plain training"),
        (None, "Whether a penalty of narrow decisions widens margins over plain training"),
    ],
)
def test_a_penalty_widens_margins_only_where_the_interval_says_so(
    compared: ComparisonSummary, ends: Ends, start: str
) -> None:
    check = replace(compared.movement.sharpening, raw_change=between(ends))
    moved = replace(compared, movement=replace(compared.movement, sharpening=check))
    found = refined("fisher", with_loss(moved, (0.001, 0.004)))
    assert found.first.startswith(start)
    assert found.second.endswith("; loss slightly higher, within ±0.0040 nats.")
    assert ", scale-free " in found.second
    assert found.page == Path("refined/fisher/over-control/report.html")


def judged(better: str, top1: Estimate) -> JudgedTransfer:
    """A transfer in which one of joint and unigram scores by the gains, the other against them."""
    made = transfer(8, methods=("joint", "unigram", "random"))
    signs = {"joint": 1, "unigram": 1, better: 1, "random": 0}
    signs |= {name: -1 for name in ("joint", "unigram") if better not in (name, "both")}
    scores = tuple(replace(one, values=signs[one.method] * made.gains) for one in made.scores)
    made = replace(made, scores=scores)
    found = [replace(one, top1=top1) if one.method == "joint" else one for one in judge(made)]
    return JudgedTransfer(made, tuple(found))


@pytest.mark.parametrize(
    ("ends", "start"),
    [
        ((0.44, 0.98), "Before any training, joint alignment names the best of 7 texts for 71"),
        ((0.0, 0.1), "Joint alignment names the best of 7 texts for 5"),
        ((0.1, 0.4), "Whether joint alignment names the best of 7 texts is too close to call, 2"),
        (None, "Whether joint alignment names the best of 7 texts is too close to call, 10"),
    ],
)
def test_a_score_told_only_what_lies_beyond_chance(ends: Ends, start: str) -> None:
    found = helped(judged("both", between(ends)))
    assert found.first.startswith(start)
    assert found.second.startswith("chance does for 14\u00a0%, token counts for 100\u00a0% [")
    assert found.page == Path("helped/report.html")


@pytest.mark.parametrize(
    ("better", "end"),
    [("joint", ": fewer."), ("unigram", ": more."), ("both", ": too close to call.")],
)
def test_token_counts_are_held_beside_the_score(better: str, end: str) -> None:
    assert helped(judged(better, between((0.4, 0.9)))).second.endswith(end)


def test_without_token_counts_chance_stands_alone() -> None:
    found = helped(JudgedTransfer(transfer(5), verdicts()))
    assert found.second == "chance does for 25\u00a0%."


@cache
def whole() -> DemoRuns:
    """What a demo measured, of made-up records."""
    pair, audit, layers = comparison(), object.__new__(Audit), object.__new__(Layers)
    audit.__dict__["summary"] = audits.make_summary()
    layers.__dict__["summary"] = with_settling((0.005, 0.02), between((0.2, 0.4)))
    plain = Refinement(make_summary(), pair, pair, Path("out/refined"))
    return DemoRuns(
        Path("out"),
        audit,
        layers,
        {"bfloat16": pair, "int8": pair},
        {"fisher": replace(plain, over_control=pair), "margin": plain},
        example(6),
        judged("both", between((0.4, 0.9))),
        {},
    )


def test_the_terminal_shows_six_findings_in_forty_lines() -> None:
    found = findings(whole())
    assert len(found) == 6
    assert all(isinstance(one, Finding) and len(repr(one)) < 400 for one in found)
    text = findings_text(whole(), found)
    lines = text.splitlines()
    assert len(lines) <= 38  # Two more say where everything lies.
    assert max(map(len, lines)) <= WIDTH + 3
    for number, one in enumerate(found, 1):
        assert f"\n{number}. {one.first}\n   {one.second}\n   out/{one.page}\n" in text
    assert "Left out" not in text
    assert ".html" not in findings_text(whole(), found, pages=False)


def test_what_is_left_out_is_said_in_a_line_and_the_numbers_go_on() -> None:
    without = replace(
        whole(),
        rounded={"bfloat16": whole().rounded["int8"]},
        refined={},
        dropped={"tkinter": "few samples: n = 300, participation ratio 1,387"},
    )
    assert left_out(without) == (
        "Left out: int8 (pip install 'unembed[quant]'), refining (pip install 'unembed[train]'), "
        "tkinter (few samples: n = 300, participation ratio 1,387)."
    )
    text = findings_text(without, findings(without))
    assert text.endswith(left_out(without))
    numbers = [line[0] for line in text.splitlines() if line[1:3] == ". "]
    assert numbers == ["1", "2", "3", "4", "5"]
    assert left_out(whole()) == ""


def test_the_places_of_a_demo_are_those_of_its_runs() -> None:
    folders = [str(folder) for folder in whole().places]
    inside = ["layers", "bfloat16", "int8", "refined", "topics", "helped"]
    assert folders == ["out", *(f"out/{name}" for name in inside)]
    assert "out/refined" not in [str(folder) for folder in replace(whole(), refined={}).places]
