"""The verdict on a refinement: is the model better than before, and did the penalty do it?"""

from __future__ import annotations

from unembed.report.parts.wording import count, counted, points, signed
from unembed.report.verdicts import comparison
from unembed.report.verdicts.comparison import judge_accuracy, judge_loss, quality_words
from unembed.report.verdicts.judgement import judge, outcome
from unembed.report.verdicts.verdict import Verdict
from unembed.stats.forms import FEW_DOCUMENTS, bounded
from unembed.training.run.refinement import Refinement
from unembed.training.run.summary import CONTROL_STOPPED, LITTLE_KEPT, RefinementSummary

PENALTY_DID = {
    "better": "the penalty made it better than training alone",
    "worse": "the penalty made it worse than training alone",
    "mixed": "against training alone, the penalty is better in one and worse in the other",
    "level": "training alone does the same",
    "close": "what the penalty adds to training alone is too close to call",
    "unknown": "whether the penalty did it cannot be told",
}
"""What the difference to the control says, by ``outcome``."""

MARGINS_MOVED = {
    "above": "it widened margins",
    "below": "it narrowed margins",
    "level": "it moved no margin",
    "close": "whether it moved margins is too close to call",
    "unknown": "whether it moved margins cannot be told",
}


def of_record(record: Refinement) -> Verdict:
    """The verdict on a refinement."""
    return verdict(record.summary)


def verdict(summary: RefinementSummary) -> Verdict:
    """The verdict on what a refinement measured."""
    found = comparison.verdict(summary.heldout)
    if summary.heldout.flips.n == 0:
        return found
    return Verdict(
        sentence(summary), found.quality, _change(summary), _trust(summary), _next(summary)
    )


def sentence(summary: RefinementSummary) -> str:
    """Held out, better or worse than before; and whose doing that is."""
    side = summary.heldout
    accuracy, loss = judge_accuracy(side), judge_loss(side)
    if "unknown" in (accuracy, loss):
        words = "whether quality changed cannot be told without an interval"
    else:
        words = quality_words(side, accuracy, loss)
        words = words[0].lower() + words[1:]
    return f"Held out, {words}; {_whose(summary)}."


def _whose(summary: RefinementSummary) -> str:
    if not summary.has_penalty:
        return "this training had no penalty"
    control = summary.control
    if control is None:
        return "only a control could tell whether the penalty did it"
    return PENALTY_DID[outcome(judge_accuracy(control), judge_loss(control))]


def _change(summary: RefinementSummary) -> str:
    control = summary.control
    if control is not None:
        margin = control.movement.everywhere.margin.median
        moved = MARGINS_MOVED[judge(margin, signed, 0.0)]
        return (
            f"What the penalty adds to training alone: {moved}, the median change "
            f"{bounded(margin, signed)} logits. Accuracy differs by "
            f"{bounded(control.flips.accuracy_difference, points)}, loss by "
            f"{bounded(control.calibration.nll_difference_nats, signed, 'nats')}."
        )
    margin = summary.heldout.movement.everywhere.margin.median
    words = f"What changed: margins, the median change {bounded(margin, signed)} logits."
    if not summary.has_penalty:
        return f"{words} This is a control: what training on this text does without a penalty."
    return f"{words} Training alone may have done all of it: there is no control."


def _trust(summary: RefinementSummary) -> str:
    heldout = summary.heldout.n_documents
    if heldout < FEW_DOCUMENTS:
        rough = (
            "Without intervals, which take 2, nothing can be told from chance"
            if heldout < 2
            else f"Intervals of fewer than {FEW_DOCUMENTS} are rough"
        )
        return f"Trust: only {_few(summary)}. {rough}: give {_lacking(summary)}."
    spread = f"Trust: intervals hold the spread between {counted(heldout, 'held-out document')}"
    return f"{spread}, but not that between seeds. {_to_mind(summary)}".rstrip()


def _few(summary: RefinementSummary) -> str:
    """How few held-out documents were measured, of how many."""
    words = counted(summary.heldout.n_documents, "held-out document")
    if summary.documents is None:
        return words
    trained, heldout = summary.documents
    if heldout > summary.heldout.n_documents:
        return f"{count(summary.heldout.n_documents)} of {count(heldout)} held-out documents"
    return f"{words}, and {count(trained)} to train on"


def _lacking(summary: RefinementSummary) -> str:
    """What would let more documents be measured."""
    unmeasured = summary.documents is not None and (
        summary.documents[1] > summary.heldout.n_documents
    )
    return "a larger --audit-positions" if unmeasured else "more text"


def _to_mind(summary: RefinementSummary) -> str:
    """What most takes away from the numbers, where anything does."""
    rounding = summary.rounding
    if rounding is not None and rounding.share is not None and rounding.share < LITTLE_KEPT:
        return (
            f"Saving in {rounding.dtype} rounded most of the change away: --save-dtype float32 "
            "keeps it."
        )
    early = [note for note in summary.notes if note.startswith(CONTROL_STOPPED)]
    if summary.control is not None and (summary.stopped is not None or early):
        return "A training stopped early, so that the two differ by more than the penalty."
    if judge_loss(summary.training) == "below":
        held = judge_loss(summary.heldout)
        if held in ("above", "level"):
            did = "rose" if held == "above" else "stayed level"
            return (
                f"The loss fell on the training text and {did} held out: what was learnt is that "
                "text by heart."
            )
    return ""


def _next(summary: RefinementSummary) -> str:
    if not summary.has_penalty:
        return "unembed refine MODEL CORPUS --control -o RUN"
    few = summary.heldout.n_documents < FEW_DOCUMENTS
    if few or summary.control is None:
        more = few and _lacking(summary) == "more text"
        text = "MORE_TEXT" if more else "CORPUS"
        same = f" --objective {summary.objective} {summary.options}"
        longer = " --audit-positions N" if few and not more else ""
        return f"unembed refine MODEL {text}{same}{longer} --control -o RUN"
    return f"unembed dose MODEL CORPUS --objectives {summary.objective} -o RUN"
