"""A ranking as short text: what the command line and a console print."""

from __future__ import annotations

from dataclasses import replace

from unembed.runs.columns import columns
from unembed.runs.table import NAME_WIDTH
from unembed.selection.ranking.records import Ranked, Ranking
from unembed.selection.scores import named
from unembed.stats.forms import cosine, decimal, full, point

SCORE_WIDTH = 26
ROUNDING = 1e-9
"""The part of a score up to which half an interval is rounding, and no error."""
MOST_LISTED = 30
"""Sources that are listed; of more, the first."""


def ranking_text(found: Ranking) -> str:
    """A line a source, best first, with its score and its chance to be the best of all.

    Below, what is wrong with the target or a source.
    """
    listed = found.sources[:MOST_LISTED]
    lines = [columns(ranking_rows(found)[: 1 + MOST_LISTED], NAME_WIDTH, SCORE_WIDTH)]
    if len(found.sources) > MOST_LISTED:
        lines.append(f"… {len(found.sources) - MOST_LISTED:,} more: see the report")
    lost = sum(one.value is None for one in found.sources)
    if 0 < lost < len(found.sources) and any(one.best is not None for one in found.sources):
        lines.append(
            f"chances are among the {len(found.sources) - lost} of {len(found.sources)} sources "
            "with a score"
        )
    statuses = [(found.target, found.status), *((one.name, one.status) for one in listed)]
    lines += [f"{name}: {status}" for name, status in statuses if status != "ok"]
    return "\n".join(lines)


def ranking_rows(found: Ranking) -> list[tuple[str, str, str]]:
    """A header, then each source, best first, with its score and its chance to be the best."""
    rows = [(one.name, _score(one, found.by), _chance(one.best)) for one in found.sources]
    return [("source", found.by, f"best for {found.target}"), *rows]


def _score(source: Ranked, by: str) -> str:
    if source.value is None:
        return "cannot be estimated"
    form = cosine if named(by).cosine else decimal
    score = source.estimate
    width = None if score.low is None or score.high is None else score.high - score.low
    if width is None or width <= 2 * ROUNDING * abs(source.value):
        return point(replace(score, low=None, high=None), form)
    return full(score, form)


def _chance(best: float | None) -> str:
    """Never 0 % or 100 % of what is not certain."""
    if best is None:
        return "–"
    if 0 < best < 0.005:
        return "< 1 %"
    if 0.995 <= best < 1:
        return "> 99 %"
    return f"{best * 100:.0f} %"
