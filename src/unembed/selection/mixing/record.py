"""Shares of several sources that together move a head as a target would."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from unembed.runs.frames import Figures
from unembed.runs.record import record_from_json
from unembed.runs.run_record import RunRecord
from unembed.short_repr import ShortRepr
from unembed.stats.estimate import Estimate

MOSTLY = 0.5
"""The share of a target from which on what no mixture expresses is most of it."""


@dataclass(frozen=True)
class Share(ShortRepr):
    """One source's part of a mixture.

    ``weight`` is its share of the tokens: those of all sources sum to 1. ``probability`` is what
    ``datasets.interleave_datasets`` takes for it, its share of the documents: the weight over its
    tokens a document, normalised. ``samples`` and ``documents`` are the source's.
    """

    name: str
    weight: Estimate
    probability: float
    samples: int
    documents: int


@dataclass(frozen=True)
class Mixture(RunRecord, Figures):
    """Non-negative weights of sources that come nearest to a target's signature (theory §13).

    ``shares`` are in the order the sources were given; a weight of 0 means that the source is left
    out. ``total`` is the weights' sum before it was made 1: about 1 where the target is a blend
    of the sources. ``residual`` is the share of the target's squared norm that no mixture of them
    expresses, debiased. ``warnings`` say in a sentence each what a reader must know before use.
    Of networks ``part`` is the one that was mixed, "" of the head.
    """

    KIND: ClassVar[str] = "mixture"

    target: str
    by: str
    shares: tuple[Share, ...]
    total: Estimate
    residual: Estimate
    samples: int
    documents: int
    warnings: tuple[str, ...]
    part: str = ""

    @property
    def mostly_left(self) -> bool:
        """Whether surely more than half of the target is expressed by no mixture."""
        return self.residual.low is not None and self.residual.low > MOSTLY

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {name: value for name, value in asdict(self).items() if value or name != "part"}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Mixture:
        """Read back what ``to_json`` wrote."""
        return record_from_json(cls, values)

    def _phrases(self) -> Iterator[str]:
        used = sorted(
            (one for one in self.shares if one.probability > 0),
            key=lambda one: -(one.weight.value or 0.0),
        )
        yield f"of {self.target} by {self.by}"
        yield f"{len(used)} of {len(self.shares)} sources used"
        yield f"residual {self.residual}"
        yield from (f"{one.name} {one.weight}" for one in used)

    def _rows(self) -> list[tuple[str, str]]:
        from unembed.selection.mixing.text import mixture_rows

        return mixture_rows(self)

    def __str__(self) -> str:
        from unembed.selection.mixing.text import mixture_text

        return mixture_text(self)
