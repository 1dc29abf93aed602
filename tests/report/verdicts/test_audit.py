"""The verdict on an audit: a test for each rule that chooses its words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from made_up.audits import make_summary
from unembed.decisions.audit.bfloat16 import Bfloat16Rounding
from unembed.decisions.audit.summary import AuditSummary
from unembed.report.verdicts.audit import verdict
from unembed.stats.estimate import Estimate
from unembed.stats.forms import bounded, decimal

NBSP = "\u00a0"


@pytest.fixture(scope="module")
def found() -> AuditSummary:
    return replace(
        make_summary(native=False),
        median_margin=Estimate(1.37, 1.33, 1.41, 24_000, documents=60),
        bfloat16=rounding(0.012),
        accuracy=Estimate(0.41, 0.39, 0.43, 24_000, documents=60),
        share_margin_below_half=Estimate(0.22, 0.21, 0.23, 24_000, documents=60),
    )


def rounding(within: float) -> Bfloat16Rounding:
    spread = min(within, 0.002)
    step = Estimate(within, within - spread, within + spread, 24_000, documents=60)
    return Bfloat16Rounding(step, step, replace(step, value=within / 4, low=0.0))


def test_the_sentence_says_how_narrow_and_what_rounding_can_touch(found: AuditSummary) -> None:
    assert verdict(found).sentence == (
        "Half of the 24,000 decisions lead by less than 1.37 logits (3.94 times as likely as the "
        f"runner-up), and 1.2{NBSP}% [1.0, 1.4] are so close that rounding the logits to bfloat16 "
        "can change them."
    )


def test_where_none_is_so_close_it_says_so(found: AuditSummary) -> None:
    said = verdict(replace(found, bfloat16=rounding(0.0))).sentence
    assert said.endswith("; none is so close that rounding the logits to bfloat16 can change it.")


def test_without_top_logits_or_odds_it_says_less(found: AuditSummary) -> None:
    said = verdict(replace(found, bfloat16=None)).sentence
    assert said.endswith("1.37 logits (3.94 times as likely as the runner-up).")
    huge = replace(found, bfloat16=None, median_margin=Estimate(900.0, 890.0, 910.0, 24_000))
    assert verdict(huge).sentence == "Half of the 24,000 decisions lead by less than 900 logits."


def test_nothing_measured_is_said_with_its_reason(found: AuditSummary) -> None:
    nothing = Estimate(None, reason="no position was finite")
    said = verdict(replace(found, median_margin=nothing))
    assert said.sentence == "No decision could be measured: no position was finite."
    assert said.next == ""


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((0.01, 0.03), f"It is too sure of them, by 2.0{NBSP}pp [1.0, 3.0]."),
        ((-0.03, -0.01),
         f"It is less sure of them than they are right, by 2.0{NBSP}pp [1.0, 3.0]."),
        ((-0.002, 0.003), f"It is as sure of them as they are right, within ±0.30{NBSP}pp."),
        ((-0.02, 0.03), "Whether it is too sure of them is too close to call: "
         f"0{NBSP}pp [−2, +3]."),
        (None, "Whether it is too sure of them cannot be told without an interval."),
    ],
)  # fmt: skip
def test_quality_is_accuracy_loss_and_calibration(
    found: AuditSummary, ends: tuple[float, float] | None, words: str
) -> None:
    surer = Estimate(0.02) if ends is None else Estimate(sum(ends) / 2, *ends)
    said = verdict(replace(found, overconfidence=surer)).quality
    assert said.startswith(
        f"Quality: 41{NBSP}% [39, 43] of the decisions are right, with a loss of 2.91 [2.87, 2.95] "
        "nats a token."
    )
    assert said.endswith(words)


def test_a_run_of_an_earlier_version_says_nothing_of_calibration(found: AuditSummary) -> None:
    unknown = Estimate(None, reason="an earlier version did not measure it")
    assert verdict(replace(found, overconfidence=unknown)).quality.endswith("nats a token.")


@pytest.mark.parametrize(
    ("ends", "many"),
    [
        ((1.2, 1.4), "less than half"),
        ((0.6, 0.8), "more than half"),
        ((0.97, 1.02), "about half"),
        ((0.96, 0.98), "about half"),
        ((0.8, 1.3), None),
        (None, None),
    ],
)
def test_the_gap_is_told_where_its_interval_tells(
    found: AuditSummary, ends: tuple[float, float] | None, many: str | None
) -> None:
    assert found.gap is not None
    beta = Estimate(1.0) if ends is None else Estimate(sum(ends) / 2, *ends)
    gap = replace(found.gap, published=replace(found.gap.published, beta=beta))
    said = verdict(replace(found, gap=gap)).change
    without = verdict(replace(found, gap=None, gap_reason="too few")).change
    assert without.endswith(
        "(1.6 times as likely), and rounded to bfloat16 the logits decide "
        f"0.3{NBSP}% [0.0, 1.4] otherwise."
    )
    slope = (
        f" Halve the lead, and {many} as many decisions lie below it (gap slope "
        f"{bounded(beta, decimal)})."
    )
    assert said == without + (slope if many else "")


def test_what_the_head_itself_decides_goes_before_what_is_computed(found: AuditSummary) -> None:
    native = make_summary().native
    said = verdict(replace(found, native=native)).change
    assert f"and the head in bfloat16 decides 2.1{NBSP}% [1.9, 2.3] otherwise" in said
    assert "rounded to bfloat16" not in said
    neither = verdict(replace(found, bfloat16=None, gap=None)).change
    assert neither == (
        f"Found: 22.0{NBSP}% [21.0, 23.0] lead by less than half a logit (1.6 times as likely)."
    )


@pytest.mark.parametrize(
    ("documents", "words", "command"),
    [
        (60, "Trust: intervals hold the spread between 60 documents. No audit tells what int8 or "
         "int4 weights would change; a comparison does.",
         "unembed compare MODEL CORPUS --quantize int8 -o RUN"),
        (4, "Trust: intervals hold the spread between 4 documents. A text has 4 documents alone: "
         "intervals are rough.", "unembed audit MODEL MORE_TEXT -o RUN"),
        (1, "Trust: one document gives no intervals: give a text of many.",
         "unembed audit MODEL MORE_TEXT -o RUN"),
    ],
)  # fmt: skip
def test_few_documents_are_said_and_more_are_next(
    found: AuditSummary, documents: int, words: str, command: str
) -> None:
    said = verdict(replace(found, n_documents=documents))
    assert said.trust == words
    assert said.next == command


def test_positions_that_are_left_out_are_counted(found: AuditSummary) -> None:
    assert (
        "1,204 positions were not finite and are left out."
        in verdict(replace(found, n_nonfinite=1204)).trust
    )
