"""Sources in order of how much they promise a target, each with its error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from unembed.runs.frames import Figures
from unembed.runs.record import record_from_json
from unembed.runs.run_record import RunRecord
from unembed.short_repr import ShortRepr, html_table
from unembed.stats.estimate import Estimate

MOST_NAMED = 3
"""Sources that a ranking's repr names."""


@dataclass(frozen=True)
class Ranked(ShortRepr):
    """One source and its score for the target; None where it could not be estimated.

    ``best`` is the probability that, of all sources, this one's score is the largest, given how
    their errors go together. ``low`` and ``high`` bound the score's 95 % interval, None where there
    is none. ``status`` is "ok", or why the score is missing or poor. ``samples`` and ``documents``
    are those the score was estimated from.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    best: float | None
    samples: int
    documents: int
    status: str = "ok"

    @property
    def estimate(self) -> Estimate:
        """The score with its interval, or why there is none."""
        reason = self.status if self.value is None else None
        return Estimate(self.value, self.low, self.high, self.samples, reason)


@dataclass(frozen=True)
class Ranking(RunRecord, Figures):
    """The sources of a target, best first; those without a score last, in the order given.

    ``by`` is the score's name, ``method`` what it is from ("complex_tensorsketch", "samples").
    ``samples``, ``documents`` and ``status`` are the target's. Of networks ``part`` is the one that
    was compared, "" of the head.
    """

    KIND: ClassVar[str] = "ranking"

    target: str
    by: str
    sources: tuple[Ranked, ...]
    method: str
    samples: int
    documents: int
    status: str
    debiased: bool
    part: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        plain = {**vars(self), "sources": [vars(source) for source in self.sources]}
        if not self.part:
            del plain["part"]
        return plain

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Ranking:
        """Read back what ``to_json`` wrote."""
        return record_from_json(cls, values)

    def _phrases(self) -> Iterator[str]:
        yield f"for {self.target} by {self.by}"
        yield f"{len(self.sources):,} sources"
        yield from (f"{one.name} {one.estimate}" for one in self.sources[:MOST_NAMED])

    def _repr_html_(self) -> str:
        from unembed.selection.ranking.text import ranking_rows

        header, *rows = ranking_rows(self)
        return html_table(rows, header)

    def __str__(self) -> str:
        from unembed.selection.ranking.text import ranking_text

        return ranking_text(self)
