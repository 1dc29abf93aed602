"""Entries and answers of an index as short text."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.selection.index.entries import Entry
from unembed.selection.index.query import Answer, Match

NAME_WIDTH = 30
TAGS_WIDTH = 24
CELL = 26
SCORE = 12


def entries_text(entries: Sequence[Entry]) -> str:
    """A line for each entry."""
    lines = [_line("name", "samples", "tags", "added")]
    lines += [_line(e.name, f"{e.samples:,.0f}", ", ".join(e.tags), e.added) for e in entries]
    return "\n".join(lines)


def answer_text(answer: Answer) -> str:
    """A line for each match, nearest first, and what to know before relying on it."""
    known = any(match.cosine.value is not None for match in answer.matches)
    word = f"{'debiased cosine':<{CELL}}" if known else ""
    lines = [f"{'name':<{NAME_WIDTH}}{answer.by:<{SCORE}}{word}tags"]
    lines += [_match(match, known) for match in answer.matches]
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


def _match(match: Match, known: bool) -> str:
    cosine, tags, shown = match.cosine, ", ".join(match.entry.tags), ""
    if cosine.value is not None and not match.sketch_se:
        shown = "the same signature"
    elif cosine.value is not None:
        shown = f"{cosine.value:+.3f}  [{cosine.low:+.3f}, {cosine.high:+.3f}]"
    if cosine.value is None and known:
        shown = "too few samples"
    cell = f"{shown:<{CELL}}" if shown else ""
    return f"{_fit(match.entry.name, NAME_WIDTH)}{match.score:<+{SCORE}.3f}{cell}{tags}".rstrip()


def _line(name: str, samples: str, tags: str, added: str) -> str:
    return f"{_fit(name, NAME_WIDTH)}{samples:>10}  {_fit(tags, TAGS_WIDTH)}{added}".rstrip()


def _fit(text: str, width: int) -> str:
    """Long text keeps its end, in which the paths of files differ."""
    short = text if len(text) < width else f"…{text[len(text) + 2 - width :]}"
    return f"{short:<{width}}"
