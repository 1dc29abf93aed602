"""The verdict on a comparison: is quality better, worse or level, and how much changed?"""

from __future__ import annotations

from unembed.decisions.comparison.compare import Comparison
from unembed.decisions.comparison.movement import SHARPENING_VERDICTS, Sharpening
from unembed.decisions.comparison.prediction import FlipPrediction
from unembed.decisions.comparison.summary import ComparisonSummary
from unembed.report.parts.wording import (
    count,
    counted,
    p_value,
    points,
    share,
    side_of,
    signed,
)
from unembed.report.verdicts.drafts import draft_sentence, draft_trust
from unembed.report.verdicts.judgement import (
    ACCURACY_LEVEL,
    LOSS_LEVEL,
    Judgement,
    judge,
    outcome,
    small,
    within,
)
from unembed.report.verdicts.mined import mined_sentence, mined_trust
from unembed.report.verdicts.verdict import Verdict
from unembed.stats.estimate import Estimate
from unembed.stats.forms import FEW_DOCUMENTS, bounded

SIGNIFICANT_P = 0.05
"""Below this p the test agrees with an interval of 95 % that leaves out 0."""


def of_record(record: Comparison) -> Verdict:
    """The verdict on a comparison."""
    return verdict(record.summary)


def verdict(summary: ComparisonSummary) -> Verdict:
    """The verdict on what a comparison measured."""
    flips = summary.flips
    if flips.n == 0 or flips.churn.value is None:
        return Verdict(
            f"No decision could be compared: {flips.churn.reason or 'no position'}.",
            "There is no quality to tell.",
            "Nothing was measured.",
            "Compare audits of a text that holds positions of the kind asked for.",
        )
    accuracy, loss = judge_accuracy(summary), judge_loss(summary)
    said, trust = sentence(summary, accuracy, loss), _trust(summary, accuracy, loss)
    if summary.drafts is not None:
        said = f"{draft_sentence(summary.drafts)} On its own, {said[0].lower()}{said[1:]}"
        trust = f"{trust} {draft_trust(summary.drafts)}"
    if summary.mined is not None:
        said = f"{said} {mined_sentence(summary.mined)}"
        trust = f"{trust} {mined_trust(summary.mined)}".strip()
    return Verdict(
        said,
        _quality(summary, accuracy),
        _change(summary),
        trust,
        _next(summary, accuracy, loss),
    )


def judge_accuracy(summary: ComparisonSummary) -> Judgement:
    """What interval and test, together, say of the accuracy's difference."""
    flips = summary.flips
    p = flips.clustered_mcnemar_p.value
    agrees = p is None or p < SIGNIFICANT_P
    return judge(flips.accuracy_difference, points, ACCURACY_LEVEL, agrees=agrees)


def judge_loss(summary: ComparisonSummary) -> Judgement:
    """What its interval says of the loss's difference; ``above`` is worse."""
    return judge(summary.calibration.nll_difference_nats, signed, LOSS_LEVEL)


def sentence(summary: ComparisonSummary, accuracy: Judgement, loss: Judgement) -> str:
    """Quality first, then how much changed; no more than the intervals allow."""
    flips = summary.flips
    if flips.changed == 0:
        none = f"None of the {counted(flips.n, 'decision')} changed"
        same = summary.calibration.nll_difference_nats
        if loss == "unknown" or same.value == same.low == same.high == 0:
            return f"{none}."
        return f"{none}; the loss is {_loss_words(same, loss)}."
    changed = f"{bounded(flips.churn, share)} of decisions changed"
    if accuracy == "unknown" or loss == "unknown":
        return f"{changed}; whether quality did cannot be told without an interval."
    return f"{quality_words(summary, accuracy, loss)}; {changed}."


def quality_words(summary: ComparisonSummary, accuracy: Judgement, loss: Judgement) -> str:
    """``Quality is level``, ``better``, ``worse``, ``mixed`` or ``too close to call``, and why."""
    right, cost = summary.flips.accuracy_difference, summary.calibration.nll_difference_nats
    found = outcome(accuracy, loss)
    if found == "level":
        return (
            f"Quality is level: accuracy {within(right, points)}, loss {within(cost, signed)} nats"
        )
    judged = {"accuracy": accuracy, "loss": loss}
    numbers = {
        "accuracy": f"accuracy {bounded(right, points)}",
        "loss": f"loss {bounded(cost, signed, 'nats')}",
    }
    if found == "mixed":
        good, bad = ("accuracy", "loss") if accuracy == "above" else ("loss", "accuracy")
        return f"Quality is mixed: better in {numbers[good]}, worse in {numbers[bad]}"
    told = [name for name in judged if judged[name] in ("above", "below")]
    if not told:
        return f"Quality is too close to call: {', '.join(numbers.values())}"
    slight = {"accuracy": small(right, ACCURACY_LEVEL), "loss": small(cost, LOSS_LEVEL)}
    slightly = "slightly " if all(slight[name] for name in told) else ""
    close = [f"{name} too close to call" for name in judged if judged[name] == "close"]
    because = "; ".join([", ".join(numbers[name] for name in told), *close])
    return f"Quality is {slightly}{found}: {because}"


def _loss_words(loss: Estimate, judged: Judgement) -> str:
    if judged == "level":
        return f"level, {within(loss, signed)} nats"
    size = bounded(loss, signed, "nats")
    if judged == "close":
        return f"too close to call, {size}"
    slightly = "slightly " if small(loss, LOSS_LEVEL) else ""
    return f"{slightly}{'higher' if judged == 'above' else 'lower'}, {size}"


def _quality(summary: ComparisonSummary, accuracy: Judgement) -> str:
    flips = summary.flips
    loss = summary.calibration.nll_difference_nats
    gained, lost = flips.wrong_to_right, flips.right_to_wrong
    became = f"{counted(gained, 'decision')} became right and {count(lost)} wrong"
    if gained == lost == 0:
        became = "no decision changed between right and wrong"
    words = (
        f"Quality: accuracy changed by {bounded(flips.accuracy_difference, points)} ({became}), "
        f"loss by {bounded(loss, signed, 'nats')}."
    )
    p = flips.clustered_mcnemar_p.value
    if p is None or gained == lost == 0:
        return words
    tested = f"McNemar’s test by document: p\u00a0{'' if p < 1e-4 else '= '}{p_value(p)}"
    if side_of(flips.accuracy_difference, 0.0) and accuracy == "close":
        return f"{words} The accuracy’s interval leaves out 0, its test does not ({tested})."
    return f"{words} {tested}."


def _change(summary: ComparisonSummary) -> str:
    flips, movement = summary.flips, summary.movement
    check: Sharpening = movement.sharpening
    changed = (
        f"What changed: {count(flips.changed)} of {counted(flips.n, 'decision')}, "
        f"{count(flips.wrong_to_wrong)} of them from one wrong token to another."
    )
    if flips.changed == 0:
        changed = "What changed: no decision."
    if check.raw_change.value is None:
        return changed
    return f"{changed} {SHARPENING_VERDICTS.get(check.verdict, check.verdict)}."


def _trust(summary: ComparisonSummary, accuracy: Judgement, loss: Judgement) -> str:
    documents = summary.n_documents
    of = counted(documents, "document")
    runs = ", and the spread between seeds" if summary.seeds != (1, 1) else ""
    if documents < 2:
        return (
            f"Trust: all of it is {of}, so that there are no intervals and nothing can be told "
            "from chance. Give a text of many documents."
        )
    words = f"Trust: intervals hold the spread between {of}{runs}."
    if documents < FEW_DOCUMENTS:
        words += f" Fewer than {FEW_DOCUMENTS} make them rough: give more documents."
    elif "close" in (accuracy, loss):
        words += " More documents would narrow what is too close to call."
    if summary.prediction.disagrees:
        words += f" {agreement_words(summary.prediction)}"
    if summary.notes:
        words += " Mind the notes below: more than the model may differ."
    return words


def agreement_words(prediction: FlipPrediction) -> str:
    """Whether what flipped is what was predicted, in a sentence; nothing where no one can tell."""
    told, seen = prediction.predicted, prediction.observed
    if told.low is None or seen.value is None:
        return ""
    flipped = f"{bounded(told, share)} were predicted to flip and {bounded(seen, share)} did"
    if prediction.disagrees:
        more = "more" if prediction.difference.value > 0 else "fewer"  # type: ignore[operator]
        return f"{flipped}: {more} than margins and chance explain."
    return f"{flipped}, which agrees."


def _next(summary: ComparisonSummary, accuracy: Judgement, loss: Judgement) -> str:
    if summary.n_documents < FEW_DOCUMENTS or "close" in (accuracy, loss):
        return "unembed compare BEFORE AFTER MORE_TEXT -o RUN"
    if summary.flips.changed:
        return "unembed compare BEFORE AFTER --band 0-0.5 -o RUN"
    return ""
