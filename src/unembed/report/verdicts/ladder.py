"""The verdict on a ladder: which variant keeps the base's quality in the fewest bytes."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.decisions.ladder.ladder import Ladder
from unembed.decisions.ladder.summary import LadderRow, LadderSummary, VariantPair
from unembed.report.parts.wording import (
    bounded,
    counted,
    decimal,
    listed,
    point,
    points,
    share,
    side_of,
    signed,
)
from unembed.report.verdicts.comparison import SIGNIFICANT_P
from unembed.report.verdicts.judgement import (
    ACCURACY_LEVEL,
    LOSS_LEVEL,
    judge,
    outcome,
    small,
    within,
)
from unembed.report.verdicts.verdict import Verdict
from unembed.stats.forms import FEW_DOCUMENTS, in_bytes

WORDS = {"close": "too close to call", "unknown": "not determined"}
"""Outcomes that a reader is told in other words."""
KEPT = {
    "level": "keeps the base’s quality",
    "better": "is better than the base",
    "slightly better": "is slightly better than the base",
    "slightly worse": "loses little",
}
"""What a variant does that keeps the base's quality, or all but a little of it."""
TOLD = ("above", "below")
"""Judgements that tell a difference from none."""
MOST_PAIRS = 3
"""Pairs that a sentence names."""


def of_record(record: Ladder) -> Verdict:
    """The verdict on a ladder."""
    return verdict(record.summary)


def verdict(summary: LadderSummary) -> Verdict:
    """Which variant keeps the base's quality in the fewest bytes, and which are not told apart."""
    rows = by_bytes(summary)
    return Verdict(
        sentence(summary, rows),
        _quality(rows),
        _change(summary, rows),
        _trust(summary, rows),
        "unembed compare BASE VARIANT... MORE_TEXT -o RUN" if _is_vague(summary, rows) else "",
    )


def quality(row: LadderRow) -> str:
    """``level``, ``better``, ``worse``, ``mixed``, ``too close to call``, ``not determined``.

    By the rule of a comparison. ``slightly better`` where what tells it, accuracy or loss, lies
    within what is called level; ``slightly worse`` only where both do, for that is a small loss
    shown, and not merely one that was not seen.
    """
    p = row.clustered_mcnemar_p
    agrees = p is None or p.value is None or p.value < SIGNIFICANT_P
    accuracy = judge(row.accuracy_difference, points, ACCURACY_LEVEL, agrees=agrees)
    loss = judge(row.nll_difference_nats, signed, LOSS_LEVEL)
    found = outcome(accuracy, loss)
    slight = {
        "accuracy": small(row.accuracy_difference, ACCURACY_LEVEL),
        "loss": small(row.nll_difference_nats, LOSS_LEVEL),
    }
    if found == "better":
        told = [name for name, one in (("accuracy", accuracy), ("loss", loss)) if one in TOLD]
        return "slightly better" if all(slight[name] for name in told) else "better"
    if found == "worse" and all(slight.values()):
        return "slightly worse"
    return WORDS.get(found, found)


def by_bytes(summary: LadderSummary) -> list[LadderRow]:
    """The rows of the one text, or of the average, from the fewest bytes on."""
    return sorted(summary.overall, key=lambda row: summary.facts(row.name).bytes.weights)


def size_words(summary: LadderSummary, name: str) -> str:
    """``4.08 MB``; a size by a scheme's bits is ``about`` so."""
    size = summary.facts(name).bytes
    return f"{'about ' * (size.known == 'nominal')}{in_bytes(size.weights)}"


def sentence(summary: LadderSummary, rows: Sequence[LadderRow]) -> str:
    """The variant of the fewest bytes that keeps the quality; else what is known of the best."""
    whole = in_bytes(summary.base.bytes.weights)
    for row in rows:
        found = quality(row)
        if found in KEPT:
            before = rows[: rows.index(row)]
            smaller = [one.name for one in before if quality(one) in WORDS.values()]
            rest = f"; {listed(smaller)}, smaller, cannot be told yet" if smaller else ""
            size = f"{size_words(summary, row.name)} of {whole}"
            words = f"{row.name} {KEPT[found]} in the fewest bytes, {size}"
            return f"{words} ({_reach(row, found)}){rest}."
    close = [row.name for row in rows if quality(row) == WORDS["close"]]
    if close:
        return (
            f"No variant is shown to keep the base’s quality; {listed(close)} "
            f"{'is' if len(close) == 1 else 'are'} too close to call."
        )
    if all(quality(row) == WORDS["unknown"] for row in rows):
        return "Which variant keeps the base’s quality cannot be told without intervals."
    least = min(rows, key=lambda row: row.nll_difference_nats.value or 0.0)
    return f"No variant keeps the base’s quality; {least.name} comes nearest ({_reach(least, '')})."


def _reach(row: LadderRow, found: str) -> str:
    right, cost = row.accuracy_difference, row.nll_difference_nats
    if found == "level":
        return f"accuracy {within(right, points)}, loss {within(cost, signed)} nats"
    return f"accuracy {bounded(right, points)}, loss {bounded(cost, signed, 'nats')}"


def _quality(rows: Sequence[LadderRow]) -> str:
    told = [
        f"{row.name} {quality(row)} ({_grounds(row)}, "
        f"{row.wrong_to_right:,} became right and {row.right_to_wrong:,} wrong)"
        for row in rows
    ]
    return f"Quality, from the fewest bytes: {'; '.join(told)}."


def _grounds(row: LadderRow) -> str:
    """The accuracy; the loss too where that alone tells better or worse."""
    right, cost = row.accuracy_difference, row.nll_difference_nats
    if side_of(right, 0.0) or not quality(row).endswith(("better", "worse")):
        return f"accuracy {bounded(right, points)}"
    return f"accuracy {bounded(right, points)}, loss {bounded(cost, signed, 'nats')}"


def _change(summary: LadderSummary, rows: Sequence[LadderRow]) -> str:
    near = sorted(rows, key=lambda row: row.kl_mean.value or 0.0)
    told = [
        f"{row.name} {point(row.kl_mean, decimal)} nats, "
        f"{point(row.same_top, share)} same top token"
        for row in near
    ]
    words = f"How far, from the nearest by mean KL: {'; '.join(told)}."
    against = [
        pair
        for pair in summary.overall_pairs
        if side_of(pair.kl_nats, 0.0) and side_of(pair.kl_nats, 0.0) == side_of(pair.accuracy, 0.0)
    ]
    if against:
        some = [_against(pair) for pair in against[:MOST_PAIRS]]
        words += f" Distance is not direction: {'; '.join(some)}."
    return words


def _against(pair: VariantPair) -> str:
    far, near = pair.second, pair.first
    if side_of(pair.kl_nats, 0.0) < 0:
        far, near = near, far
    return f"{far} is further from the base than {near} and right more often"


def _trust(summary: LadderSummary, rows: Sequence[LadderRow]) -> str:
    documents = rows[0].documents
    words = f"Trust: intervals hold the spread between {counted(documents, 'document')}."
    if documents < FEW_DOCUMENTS:
        words += f" Fewer than {FEW_DOCUMENTS} make them rough: give more documents."
    pairs = summary.overall_pairs
    if pairs:
        close = untold(summary)
        words += (
            f" Accuracy or loss tell {len(pairs) - len(close)} of {counted(len(pairs), 'pair')} of "
            "variants apart, by intervals that hold together."
        )
        if close:
            some = [f"{pair.first} and {pair.second}" for pair in close[:MOST_PAIRS]]
            more = len(close) - len(some)
            words += f" Not told apart: {'; '.join(some)}{f'; {more} more' if more else ''}."
    if summary.refused:
        named = listed([one.name for one in summary.refused])
        words += f" Not measured: {named}; the reasons are below."
    return words


def untold(summary: LadderSummary) -> list[VariantPair]:
    """The pairs of variants whose intervals of accuracy and of loss both hold 0."""
    return [
        pair
        for pair in summary.overall_pairs
        if not side_of(pair.accuracy, 0.0) and not side_of(pair.nll_nats, 0.0)
    ]


def _is_vague(summary: LadderSummary, rows: Sequence[LadderRow]) -> bool:
    return bool(untold(summary)) or any(quality(row) in WORDS.values() for row in rows)
