"""Each sentence that a comparison can begin with, from summaries whose intervals call for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from made_up.comparisons import make_comparison
from unembed.decisions.comparison.summary import ComparisonSummary
from unembed.report.comparison.page import comparison_page
from unembed.report.verdicts.comparison import verdict
from unembed.stats.estimate import Estimate

Ends = tuple[float, float] | None
SMALL_P, LARGE_P = 1e-6, 0.4


@pytest.fixture(scope="module")
def found() -> ComparisonSummary:
    return make_comparison().summary


def summary_of(
    found: ComparisonSummary, accuracy: Ends, loss: Ends, p: float | None = SMALL_P
) -> ComparisonSummary:
    def between(ends: Ends) -> Estimate:
        if ends is None:
            return Estimate(0.0, n=1500, documents=12)
        return Estimate(sum(ends) / 2, *ends, 1500, documents=12)

    flips = replace(
        found.flips,
        accuracy_difference=between(accuracy),
        clustered_mcnemar_p=Estimate(p, reason=None if p is not None else "several seeds"),
    )
    calibration = replace(found.calibration, nll_difference_nats=between(loss))
    return replace(found, flips=flips, calibration=calibration)


@pytest.mark.parametrize(
    ("accuracy", "loss", "p", "start"),
    [
        ((-0.002, 0.001), (-0.003, 0.004), LARGE_P,
         "Quality is level: accuracy within ±0.20\u00a0pp, loss within ±0.0040 nats; "),
        ((0.01, 0.03), (-0.2, -0.1), SMALL_P,
         "Quality is better: accuracy +2.0\u00a0pp [+1.0, +3.0], "
"loss −0.15 [−0.20, −0.10] nats; "),
        ((-0.03, -0.01), (0.1, 0.2), None,
         "Quality is worse: accuracy −2.0\u00a0pp [−3.0, −1.0], loss +0.15 [+0.10, +0.20] nats; "),
        ((-0.002, 0.001), (0.001, 0.003), LARGE_P,
         "Quality is slightly worse: loss +0.0020 [+0.0010, +0.0030] nats; "),
        ((-0.02, 0.01), (-0.2, -0.1), LARGE_P,
         "Quality is better: loss −0.15 [−0.20, −0.10] nats; accuracy too close to call; "),
        ((0.01, 0.03), (0.1, 0.2), SMALL_P,
         "Quality is mixed: better in accuracy +2.0\u00a0pp [+1.0, +3.0], "
         "worse in loss +0.15 [+0.10, +0.20] nats; "),
        ((-0.03, -0.01), (-0.2, -0.1), SMALL_P, "Quality is mixed: better in loss −0.15"),
        ((-0.02, 0.01), (-0.003, 0.004), LARGE_P, "Quality is too close to call: accuracy −0.5"),
        ((-0.002, 0.001), (-0.03, 0.04), LARGE_P, "Quality is too close to call: accuracy −0.05"),
        ((0.001, 0.02), (-0.003, 0.004), LARGE_P, "Quality is too close to call: accuracy +1.1"),
    ],
)  # fmt: skip
def test_quality_comes_first(
    found: ComparisonSummary, accuracy: Ends, loss: Ends, p: float | None, start: str
) -> None:
    said = verdict(summary_of(found, accuracy, loss, p))
    assert said.sentence.startswith(start)
    assert said.sentence.endswith("of decisions changed.")


@pytest.mark.parametrize("ends", [((-0.002, 0.001), None), (None, (-0.003, 0.004)), (None, None)])
def test_without_an_interval_quality_cannot_be_told(
    found: ComparisonSummary, ends: tuple[Ends, Ends]
) -> None:
    said = verdict(summary_of(found, *ends)).sentence
    assert said.endswith("changed; whether quality did cannot be told without an interval.")


def test_a_test_that_disagrees_is_named(found: ComparisonSummary) -> None:
    doubtful = verdict(summary_of(found, (0.001, 0.02), (-0.003, 0.004), LARGE_P))
    assert "interval leaves out 0, its test does not (McNemar’s test by document: p\u00a0= 0.4" in (
        doubtful.quality
    )
    sure = verdict(summary_of(found, (0.001, 0.02), (-0.003, 0.004), SMALL_P))
    assert sure.quality.endswith("McNemar’s test by document: p\u00a0< 0.0001.")
    seeds = verdict(summary_of(found, (0.001, 0.02), (-0.003, 0.004), None))
    assert "McNemar" not in seeds.quality


def test_nothing_changed() -> None:
    same = verdict(make_comparison(noise=0.0).summary)
    assert same.sentence == "None of the 1,500 decisions changed."
    assert "no decision changed between right and wrong" in same.quality
    assert same.change.startswith("What changed: no decision.")
    assert same.next == ""


def test_a_loss_can_change_where_no_decision_did() -> None:
    same = make_comparison(noise=0.0).summary
    loss = Estimate(0.2, 0.1, 0.3, 1500)
    moved = replace(same, calibration=replace(same.calibration, nll_difference_nats=loss))
    assert verdict(moved).sentence == (
        "None of the 1,500 decisions changed; the loss is higher, +0.20 [+0.10, +0.30] nats."
    )
    near = replace(loss, value=0.0, low=-0.004, high=0.004)
    level = replace(same, calibration=replace(same.calibration, nll_difference_nats=near))
    assert verdict(level).sentence.endswith("the loss is level, within ±0.0040 nats.")


def test_nothing_compared(found: ComparisonSummary) -> None:
    nothing = Estimate(None, reason="no position")
    summary = replace(found, flips=replace(found.flips, churn=nothing))
    assert verdict(summary).sentence == "No decision could be compared: no position."


def test_the_third_point_says_what_intervals_rest_on(found: ComparisonSummary) -> None:
    level = summary_of(found, (-0.002, 0.001), (-0.003, 0.004), LARGE_P)
    assert "spread between 12 documents." in verdict(level).trust
    few = replace(level, n_documents=4)
    assert "Fewer than 10 make them rough" in verdict(few).trust
    assert verdict(few).next.startswith("unembed compare BEFORE AFTER MORE_TEXT")
    one = replace(level, n_documents=1)
    assert "all of it is 1 document" in verdict(one).trust
    close = summary_of(found, (-0.02, 0.01), (-0.003, 0.004), LARGE_P)
    assert "More documents would narrow" in verdict(close).trust
    seeds = replace(level, seeds=(2, 2))
    assert "and the spread between seeds" in verdict(seeds).trust
    noted = replace(level, notes=("other windows",))
    assert "Mind the notes below" in verdict(noted).trust


@pytest.mark.parametrize(("sign", "word"), [(1, "more"), (-1, "fewer")])
def test_flips_that_margins_do_not_explain_are_told_on_verdict_and_page(
    found: ComparisonSummary, sign: int, word: str
) -> None:
    told = "which agrees"
    assert told not in verdict(found).trust
    assert told in comparison_page("t", found, [], [])
    observed = found.prediction.observed
    assert observed.value is not None
    expected = replace(
        observed, value=0.3 - 0.1 * sign, low=0.29 - 0.1 * sign, high=0.31 - 0.1 * sign
    )
    apart = Estimate(0.1 * sign, *sorted((0.05 * sign, 0.2 * sign)), n=9, documents=12)
    prediction = replace(
        found.prediction,
        observed=replace(observed, value=0.3, low=0.25, high=0.35),
        predicted=expected,
        difference=apart,
    )
    summary = replace(found, prediction=prediction)
    words = f": {word} than margins and chance explain."
    assert words in verdict(summary).trust
    assert words in comparison_page("t", summary, [], [])
