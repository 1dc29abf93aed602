"""Shares of several sources that together move a head as a target would."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from unembed.stats.estimate import Estimate


@dataclass(frozen=True)
class Share:
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
class Mixture:
    """Non-negative weights of sources that come nearest to a target's signature (theory §13).

    ``shares`` are in the order the sources were given; a weight of 0 means that the source is left
    out. ``total`` is the weights' sum before it was made 1: about 1 where the target is a blend
    of the sources. ``residual`` is the share of the target's squared norm that no mixture of them
    expresses, debiased. ``warnings`` say in a sentence each what a reader must know before use.
    """

    target: str
    by: str
    shares: tuple[Share, ...]
    total: Estimate
    residual: Estimate
    samples: int
    documents: int
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> Mixture:
        """Read back what ``to_json`` wrote."""
        shares = tuple(
            Share(**{**share, "weight": Estimate(**share["weight"])}) for share in values["shares"]
        )
        given = {
            **values,
            "shares": shares,
            "total": Estimate(**values["total"]),
            "residual": Estimate(**values["residual"]),
            "warnings": tuple(values["warnings"]),
        }
        return Mixture(**given)
