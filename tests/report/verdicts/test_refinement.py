"""What a refinement says first: of quality held out, and of whose doing it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from made_up.comparisons import make_comparison
from made_up.refinements import make_summary
from unembed.decisions.comparison.summary import ComparisonSummary
from unembed.report.verdicts.refinement import verdict
from unembed.stats.estimate import Estimate
from unembed.training.run.rounding import Rounding
from unembed.training.run.summary import CONTROL_STOPPED, RefinementSummary

Ends = tuple[float, float] | None
ABOVE, BELOW, LEVEL, CLOSE = (0.1, 0.2), (-0.2, -0.1), (-0.001, 0.002), (-0.1, 0.2)


@pytest.fixture(scope="module")
def found() -> RefinementSummary:
    return make_summary()


@pytest.fixture(scope="module")
def compared() -> ComparisonSummary:
    return make_comparison(n=500).summary


def side_of(
    side: ComparisonSummary,
    accuracy: Ends = CLOSE,
    loss: Ends = CLOSE,
    margin: Ends = CLOSE,
    documents: int = 12,
) -> ComparisonSummary:
    """The comparison with other intervals, whose test agrees with that of the accuracy."""

    def between(ends: Ends) -> Estimate:
        if ends is None:
            return Estimate(0.05, n=1500, documents=documents)
        return Estimate(sum(ends) / 2, *ends, 1500, documents=documents)

    everywhere = side.movement.everywhere
    spread = replace(everywhere.margin, median=between(margin))
    return replace(
        side,
        n_documents=documents,
        flips=replace(
            side.flips,
            accuracy_difference=between(accuracy),
            clustered_mcnemar_p=Estimate(1e-6),
        ),
        calibration=replace(side.calibration, nll_difference_nats=between(loss)),
        movement=replace(side.movement, everywhere=replace(everywhere, margin=spread)),
    )


@pytest.mark.parametrize(
    ("accuracy", "loss", "words"),
    [
        (CLOSE, BELOW, "Held out, quality is better: loss −0.15 [−0.20, −0.10] nats; accuracy too"),
        (BELOW, ABOVE, "Held out, quality is worse: accuracy −15\u00a0pp [−20, −10], loss +0.15"),
        (ABOVE, ABOVE, "Held out, quality is mixed: better in accuracy"),
        (LEVEL, LEVEL, "Held out, quality is level: accuracy within ±0.20\u00a0pp, loss within"),
        (CLOSE, CLOSE, "Held out, quality is too close to call: accuracy +5\u00a0pp"),
        (None, CLOSE, "Held out, whether quality changed cannot be told without an interval; "),
        (CLOSE, None, "Held out, whether quality changed cannot be told without an interval; "),
    ],
)
def test_held_out_better_or_worse(
    accuracy: Ends, loss: Ends, words: str, found: RefinementSummary, compared: ComparisonSummary
) -> None:
    said = verdict(replace(found, heldout=side_of(compared, accuracy, loss)))
    assert said.sentence.startswith(words)
    assert said.sentence.endswith("; only a control could tell whether the penalty did it.")
    assert said.quality.startswith("Quality: accuracy changed by ")
    assert "Training alone may have done all of it: there is no control." in said.change
    assert said.next.endswith(" --objective fisher --weight 0.6 --control -o RUN")


@pytest.mark.parametrize(
    ("accuracy", "loss", "words"),
    [
        (LEVEL, BELOW, "the penalty made it better than training alone."),
        (BELOW, CLOSE, "the penalty made it worse than training alone."),
        (BELOW, BELOW, "the penalty is better in one and worse in the other."),
        (LEVEL, LEVEL, "training alone does the same."),
        (CLOSE, LEVEL, "what the penalty adds to training alone is too close to call."),
        (None, LEVEL, "whether the penalty did it cannot be told."),
    ],
)
def test_a_control_tells_whose_doing_it_is(
    accuracy: Ends, loss: Ends, words: str, found: RefinementSummary, compared: ComparisonSummary
) -> None:
    heldout, control = side_of(compared, LEVEL, BELOW), side_of(compared, accuracy, loss)
    said = verdict(replace(found, heldout=heldout, control=control))
    assert said.sentence.startswith("Held out, quality is better")
    assert said.sentence.endswith(words)
    assert said.next == "unembed dose MODEL CORPUS --objectives fisher -o RUN"


@pytest.mark.parametrize(
    ("margin", "words"),
    [
        (ABOVE, "it widened margins, the median change +0.15 [+0.10, +0.20] logits."),
        (BELOW, "it narrowed margins, the median change −0.15 "),
        ((0.0, 0.0), "it moved no margin, the median change 0 [0, 0] logits."),
        (CLOSE, "whether it moved margins is too close to call, the median change +0.05 "),
        (None, "whether it moved margins cannot be told, the median change +0.05"),
    ],
)
def test_what_the_penalty_adds(
    margin: Ends, words: str, found: RefinementSummary, compared: ComparisonSummary
) -> None:
    control = side_of(compared, LEVEL, BELOW, margin)
    said = verdict(replace(found, control=control)).change
    assert said.startswith(f"What the penalty adds to training alone: {words}")
    assert said.endswith("loss by −0.15 [−0.20, −0.10] nats.")


@pytest.mark.parametrize("how", [{"objective": "none"}, {"weight": 0.0}])
def test_a_control_says_that_it_is_one(
    how: dict[str, object], found: RefinementSummary, compared: ComparisonSummary
) -> None:
    said = verdict(replace(found, heldout=side_of(compared), **how))  # type: ignore[arg-type]
    assert said.sentence.endswith("; this training had no penalty.")
    assert "This is a control" in said.change
    assert said.next == "unembed refine MODEL CORPUS --control -o RUN"


@pytest.mark.parametrize(
    ("documents", "words"),
    [
        (1, "Trust: only 1 held-out document, and 3 to train on. Without intervals, which take 2"),
        (9, "Trust: only 9 held-out documents, and 3 to train on. Intervals of fewer than 10"),
        (10, "Trust: intervals hold the spread between 10 held-out documents, but not"),
    ],
)
def test_little_text_is_told(
    documents: int, words: str, found: RefinementSummary, compared: ComparisonSummary
) -> None:
    heldout = side_of(compared, documents=documents)
    beside = replace(found, heldout=heldout, documents=(3, documents), control=compared)
    said = verdict(beside)
    assert said.trust.startswith(words)
    assert said.next.startswith("unembed refine MODEL MORE_TEXT") == (documents < 10)
    earlier = verdict(replace(beside, documents=None))
    assert earlier.trust == said.trust.replace(", and 3 to train on", "")
    assert earlier.next == said.next


def test_documents_that_were_not_measured_are_no_lack_of_text(
    found: RefinementSummary, compared: ComparisonSummary
) -> None:
    few = replace(found, heldout=side_of(compared, documents=5), documents=(64, 16))
    said = verdict(few)
    assert said.trust == (
        "Trust: only 5 of 16 held-out documents. Intervals of fewer than 10 are rough: give a "
        "larger --audit-positions."
    )
    assert said.next == (
        "unembed refine MODEL CORPUS --objective fisher --weight 0.6 --audit-positions N "
        "--control -o RUN"
    )


@pytest.mark.parametrize(
    ("heldout", "words"),
    [
        (ABOVE, "The loss fell on the training text and rose held out"),
        (LEVEL, "The loss fell on the training text and stayed level held out"),
        (BELOW, ""),
        (CLOSE, ""),
    ],
)
def test_what_was_learnt_by_heart(
    heldout: Ends, words: str, found: RefinementSummary, compared: ComparisonSummary
) -> None:
    sides = {
        "heldout": side_of(compared, LEVEL, heldout),
        "training": side_of(compared, loss=BELOW),
    }
    said = verdict(replace(found, **sides)).trust  # type: ignore[arg-type]
    assert ("by heart" in said) == bool(words)
    assert words in said


def test_what_takes_away_from_the_numbers(
    found: RefinementSummary, compared: ComparisonSummary
) -> None:
    beside = replace(found, heldout=side_of(compared), control=side_of(compared))
    assert verdict(beside).trust.endswith("not that between seeds.")
    lost = verdict(replace(beside, rounding=Rounding("bfloat16", 100, 20))).trust
    assert "rounded most of the change away: --save-dtype float32 keeps it." in lost
    for how in ({"stopped": "at step 3"}, {"notes": (f"{CONTROL_STOPPED} at step 3",)}):
        stopped = replace(beside, **how)  # type: ignore[arg-type]
        assert "A training stopped early" in verdict(stopped).trust
    alone = replace(beside, control=None, stopped="at step 3")
    assert "stopped early" not in verdict(alone).trust


def test_nothing_compared_is_said(found: RefinementSummary, compared: ComparisonSummary) -> None:
    nothing = replace(compared, flips=replace(compared.flips, n=0, changed=0))
    said = verdict(replace(found, heldout=nothing))
    assert said.sentence.startswith("No decision could be compared")


def test_few_documents_stand_in_the_third_point_alone(
    found: RefinementSummary, compared: ComparisonSummary
) -> None:
    """Beside each figure they would come between a number and its unit."""
    few = side_of(compared, BELOW, BELOW, documents=4)
    said = verdict(replace(found, heldout=few, control=few))
    assert "of 4 documents" not in str(said)
    assert "only 4 held-out documents" in said.trust
