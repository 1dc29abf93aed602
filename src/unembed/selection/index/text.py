"""Entries and answers of an index as short text."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.runs.columns import columns, fitted
from unembed.runs.table import NAME_WIDTH
from unembed.selection.index.entries import Entry
from unembed.selection.index.query import Answer, Match
from unembed.stats.forms import full, three

SAMPLES_WIDTH, TAGS_WIDTH, SCORE_WIDTH, COSINE_WIDTH = 12, 24, 12, 26


def entries_text(entries: Sequence[Entry]) -> str:
    """A line for each entry."""
    rows = [("name", f"{'samples':>10}", "tags", "added")]
    for one in entries:
        tags = fitted(", ".join(one.tags), TAGS_WIDTH)
        rows.append((one.name, f"{one.samples:>10,.0f}", tags, one.added))
    return columns(rows, NAME_WIDTH, SAMPLES_WIDTH, TAGS_WIDTH)


def answer_text(answer: Answer) -> str:
    """A line for each match, nearest first, and what to know before relying on it."""
    known = any(match.cosine.value is not None for match in answer.matches)
    word = ["debiased cosine"] if known else []
    rows = [["name", answer.by, *word, "tags"]]
    for match in answer.matches:
        cosine = [_cosine(match)] if known else []
        rows.append([match.entry.name, f"{match.score:+.3f}", *cosine, ", ".join(match.entry.tags)])
    lines = [columns(rows, NAME_WIDTH, SCORE_WIDTH, *([COSINE_WIDTH] if known else []))]
    if not answer.matches:
        lines = ["the index is empty"]
    if answer.status != "ok":
        lines.append(f"{answer.query}: {answer.status}")
    elif known:
        lines.append("intervals hold the sketch's error, not that of the samples")
    shared = [m.entry.name for m in answer.matches if m.shares_inputs and m.sketch_se]
    if shared:
        lines.append(
            f"too high, for they share documents with {answer.query}: {', '.join(shared)}; "
            "unembed align leaves these out"
        )
    return "\n".join(lines)


def _cosine(match: Match) -> str:
    cosine = match.cosine
    if cosine.value is None:
        return "too few samples"
    if not match.sketch_se:
        return "the same signature"
    return full(cosine, three)
