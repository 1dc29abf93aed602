"""A ranking as short text: what the command line and a console print."""

from __future__ import annotations

from dataclasses import replace

from unembed.runs.columns import columns
from unembed.runs.table import NAME_WIDTH
from unembed.selection.ranking.records import Ranked, Ranking
from unembed.selection.scores import named
from unembed.stats.estimate import Estimate
from unembed.stats.forms import PERCENT, Form, cosine, decimal, full, whole_percent

ROUNDING = 1e-9
"""The part of a score up to which half an interval is rounding, and no error."""
MOST_LISTED = 30
"""Sources that are listed; of more, the first."""


def ranking_text(found: Ranking) -> str:
    """A line a source, best first, with its score and its chance to be the best of all.

    Below, what is wrong with the target or a source.
    """
    listed = found.sources[:MOST_LISTED]
    rows = ranking_rows(found)[: 1 + MOST_LISTED]
    lines = [columns(rows, NAME_WIDTH, 2 + max(len(score) for _, score, _ in rows))]
    if len(found.sources) > MOST_LISTED:
        lines.append(f"… {len(found.sources) - MOST_LISTED:,} more: see the report")
    statuses = [(found.target, found.status), *((one.name, one.status) for one in listed)]
    lines += [f"{name}: {status}" for name, status in statuses if status != "ok"]
    return "\n".join(lines)


def ranking_rows(found: Ranking) -> list[tuple[str, str, str]]:
    """A header, then each source, best first, with its score and its chance to be the best."""
    form = score_form(found.by)
    rows = [
        (
            one.name,
            "cannot be estimated" if one.value is None else full(score_of(one), form),
            chance(one.best),
        )
        for one in found.sources
    ]
    return [("source", found.by, f"best for {found.target}"), *rows]


def score_form(by: str) -> Form:
    """How scores are written."""
    return cosine if named(by).cosine else decimal


def score_of(source: Ranked) -> Estimate:
    """A score with its interval, without one that is rounding and no error."""
    score = source.estimate
    if score.value is None or score.low is None or score.high is None:
        return score
    if score.high - score.low <= 2 * ROUNDING * abs(score.value):
        return replace(score, low=None, high=None)
    return score


def chance(best: float | None) -> str:
    """A chance in whole percent, never 0 or 100 of what is not certain; ``–`` where unknown."""
    if best is None:
        return "–"
    if 0 < best < 0.005:
        return f"< 1{PERCENT}"
    if 0.995 <= best < 1:
        return f"> 99{PERCENT}"
    return whole_percent(best)
