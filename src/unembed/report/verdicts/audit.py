"""The verdict on an audit: how narrow its decisions are, what that is worth, and what is next."""

from __future__ import annotations

from dataclasses import replace

from unembed.decisions.audit.audit import Audit
from unembed.decisions.audit.batch_noise import BatchNoise
from unembed.decisions.audit.summary import AuditSummary
from unembed.report.parts.wording import (
    count,
    counted,
    decimal,
    point,
    points,
    share,
)
from unembed.report.verdicts.judgement import ACCURACY_LEVEL, judge, small, within
from unembed.report.verdicts.samples import few_documents
from unembed.report.verdicts.verdict import Verdict
from unembed.stats.estimate import Estimate
from unembed.stats.forms import FEW_DOCUMENTS, bounded

SLOPE_LEVEL = 0.05
"""A gap slope that lies so near to 1 is in proportion: halving ε leaves 48 to 52 % of the share."""


SLOPES = {"above": "less than half", "below": "more than half"}
UNSIGNED = replace(points, signed=False)


FORETOLD = {
    "as foretold": "as margins and rounding steps foretell",
    "more": "more than margins and rounding steps foretell",
    "fewer": "fewer than margins and rounding steps foretell",
}


def of_record(record: Audit) -> Verdict:
    """The verdict on an audit."""
    return verdict(record.summary)


def verdict(summary: AuditSummary) -> Verdict:
    """The verdict on what an audit measured."""
    if summary.median_margin.value is None:
        return Verdict(
            f"No decision could be measured: {summary.median_margin.reason}.",
            "Quality: there is none to tell.",
            "Found: nothing.",
            "Trust: give a text, and weights, whose logits are finite.",
        )
    return Verdict(
        sentence(summary),
        f"Quality: {_quality(summary)}",
        f"Found: {_found(summary)}",
        f"Trust: {_trust(summary)}",
        _next(summary),
    )


def sentence(summary: AuditSummary) -> str:
    """How narrow the decisions are, and how many of them rounding can touch."""
    median = summary.median_margin
    words = (
        f"Half of the {counted(median.n, 'decision')} lead by less than "
        f"{point(median, decimal)} logits{odds_words(summary)}"
    )
    rounding = summary.bfloat16
    if rounding is None or rounding.within_step.value is None:
        return f"{words}."
    close = rounding.within_step
    if close.value == 0:
        return f"{words}; none is so close that rounding the logits to bfloat16 can change it."
    return (
        f"{words}, and {bounded(close, share)} are so close that rounding the logits to bfloat16 "
        "can change them."
    )


def odds_words(summary: AuditSummary) -> str:
    """What the median margin means in odds: `` (3.9 times as likely as the runner-up)``."""
    odds = summary.median_odds
    if odds.value is None:
        return ""
    return f" ({point(odds, decimal)} times as likely as the runner-up)"


def _quality(summary: AuditSummary) -> str:
    right = (
        f"{bounded(summary.accuracy, share)} of the decisions are right, with a loss of "
        f"{bounded(summary.nll_nats, decimal)} nats a token."
    )
    return f"{right} {_calibration(summary.overconfidence)}".rstrip()


def _calibration(surer: Estimate) -> str:
    """Whether the model is as sure of its decisions as they are right; a sentence, or nothing."""
    if surer.value is None:
        return ""
    judged = judge(surer, points, ACCURACY_LEVEL)
    if judged == "level":
        return f"It is as sure of them as they are right, {within(surer, points)}."
    if judged == "close":
        return f"Whether it is too sure of them is too close to call: {bounded(surer, points)}."
    if judged == "unknown":
        return "Whether it is too sure of them cannot be told without an interval."
    if judged == "above":
        return f"It is too sure of them, by {bounded(surer, UNSIGNED)}."
    return f"It is less sure of them than they are right, by {bounded(_negated(surer), UNSIGNED)}."


def _negated(estimate: Estimate) -> Estimate:
    low, high = (None if end is None else -end for end in (estimate.high, estimate.low))
    value = None if estimate.value is None else -estimate.value
    return replace(estimate, value=value, low=low, high=high)


def _found(summary: AuditSummary) -> str:
    rounding, native = summary.bfloat16, summary.native
    narrow = (
        f"{bounded(summary.share_margin_below_half, share)} lead by less than half a logit "
        "(1.6 times as likely)"
    )
    if native is not None and native.changed_top1.value is not None:
        narrow += (
            f", and the head in {native.dtype} decides {bounded(native.changed_top1, share)} "
            "otherwise"
        )
    elif rounding is not None and rounding.changed.value is not None:
        narrow += (
            f", and rounded to bfloat16 the logits decide {bounded(rounding.changed, share)} "
            "otherwise"
        )
    words = [f"{narrow}.", _slope(summary)]
    if summary.batching is not None:
        words.append(noise_words(summary.batching))
    if summary.engine is not None:
        gap = summary.engine
        words.append(f"The log-probabilities of {gap.engine}: {gap.in_words}.")
    return " ".join(filter(None, words))


def noise_words(noise: BatchNoise) -> str:
    """How many decisions another batch changes, whether that was to be expected, what catches it.

    A sentence or two.
    """
    if not noise.flips.value:
        return f"Another batch changes none of {counted(noise.flips.n, 'decision')}."
    words = f"Another batch changes {bounded(noise.flips, share)} of the decisions"
    if noise.judged in FORETOLD:
        words += f", {FORETOLD[noise.judged]} ({bounded(noise.predicted, share)})"
    chosen = next((one for one in noise.recompute if one.caught == 0.99), None)
    if chosen is None:
        return f"{words}."
    return (
        f"{words}; recomputing the {bounded(chosen.positions, share)} with a margin up to "
        f"{point(chosen.margin, decimal)} logits catches 99\u00a0% of the changes."
    )


def _slope(summary: AuditSummary) -> str:
    """How the share of close calls shrinks with their width, where its interval tells."""
    if summary.gap is None or summary.gap.step is not None:
        return ""
    beta = summary.gap.published.beta
    if beta.value is None or beta.low is None or beta.high is None:
        return ""
    excess = replace(beta, value=beta.value - 1, low=beta.low - 1, high=beta.high - 1)
    judged = judge(excess, decimal, SLOPE_LEVEL)
    many = "about half" if small(excess, SLOPE_LEVEL) else SLOPES.get(judged)
    if many is None:
        return ""
    slope = bounded(beta, decimal)
    return f"Halve the lead, and {many} as many decisions lie below it (gap slope {slope})."


def _trust(summary: AuditSummary) -> str:
    documents = summary.n_documents
    if documents < 2:
        words = "one document gives no intervals: give a text of many."
    else:
        words = f"intervals hold the spread between {counted(documents, 'document')}."
        words = f"{words} {few_documents(documents)}".rstrip()
    if summary.n_nonfinite:
        words += f" {count(summary.n_nonfinite)} positions were not finite and are left out."
    if documents < FEW_DOCUMENTS:
        return words
    return f"{words} No audit tells what int8 or int4 weights would change; a comparison does."


def _next(summary: AuditSummary) -> str:
    if summary.n_documents < FEW_DOCUMENTS:
        return "unembed audit MODEL MORE_TEXT -o RUN"
    return "unembed compare MODEL CORPUS --quantize int8 -o RUN"
