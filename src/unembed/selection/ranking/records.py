"""Sources in order of how much they promise a target, each with its error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ranked:
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


@dataclass(frozen=True)
class Ranking:
    """The sources of a target, best first; those without a score last, in the order given.

    ``by`` is the score's name, ``method`` what it is from ("complex_tensorsketch", "samples").
    ``samples``, ``documents`` and ``status`` are the target's.
    """

    target: str
    by: str
    sources: tuple[Ranked, ...]
    method: str
    samples: int
    documents: int
    status: str
    debiased: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "sources": [vars(source) for source in self.sources]}

    @staticmethod
    def from_json(values: dict[str, Any]) -> Ranking:
        """Read back what ``to_json`` wrote."""
        sources = tuple(Ranked(**source) for source in values["sources"])
        return Ranking(**{**values, "sources": sources})
