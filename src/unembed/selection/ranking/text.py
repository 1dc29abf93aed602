"""A ranking as short text: what the command line and a console print."""

from __future__ import annotations

from unembed.selection.ranking.records import Ranked, Ranking
from unembed.selection.scores import named

NAME_WIDTH = 30
SCORE_WIDTH = 22
MOST = 30
"""Sources that are listed; of more, the first."""


def ranking_text(found: Ranking) -> str:
    """A line a source, best first, with its score and its chance to be the best of all.

    Below, what is wrong with the target or a source.
    """
    head = f"{'source':<{NAME_WIDTH}}{found.by:<{SCORE_WIDTH}}best for {found.target}"
    lines = [head, *(_line(source, found.by) for source in found.sources[:MOST])]
    if len(found.sources) > MOST:
        lines.append(f"… {len(found.sources) - MOST:,} more: see the report")
    statuses = [(found.target, found.status)]
    statuses += [(source.name, source.status) for source in found.sources[:MOST]]
    lines += [f"{name}: {status}" for name, status in statuses if status != "ok"]
    return "\n".join(lines)


def _line(source: Ranked, by: str) -> str:
    name = f"{source.name[: NAME_WIDTH - 2]:<{NAME_WIDTH}}"
    chance = "–" if source.best is None else _chance(source.best)
    return f"{name}{_score(source, by):<{SCORE_WIDTH}}{chance}"


def _score(source: Ranked, by: str) -> str:
    if source.value is None:
        return "cannot be estimated"
    value = f"{source.value:+.3f}" if named(by).cosine else f"{source.value:.4g}"
    if source.low is None or source.high is None:
        return value
    half = (source.high - source.low) / 2
    return f"{value} ± " + (f"{half:.3f}" if named(by).cosine else f"{half:.2g}")


def _chance(best: float) -> str:
    """Never 0 % or 100 % of what is not certain."""
    if 0 < best < 0.005:
        return "< 1 %"
    if 0.995 <= best < 1:
        return "> 99 %"
    return f"{best * 100:.0f} %"
