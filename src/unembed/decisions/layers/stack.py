"""What one lens reads at every depth, column by column, at the same positions."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import cluster, sums_by_document

LAYERS_RESAMPLES = 2_000
"""Default number of resamples: interval ends are then known to 0.06 standard errors."""

POSITION_COLUMNS = ("doc", "pos", "target", "final_top1", "final_nll", "final_margin")
"""Columns with one row a position; the others have one row a depth too."""


@dataclass(frozen=True, eq=False)
class LensStack(ShortRepr):
    """One lens's columns, a row a depth (theory §3).

    ``depths`` ascend and end with the model's last one, ``blocks``; depth 0 is what enters the
    first block. Positions are in order of ``(doc, pos)``. ``margin`` in logits, ``nll``,
    ``entropy`` and ``kl_final``, that of the final distribution to this depth's, in nats,
    ``acceptance`` the sum over tokens of the smaller of the two probabilities, ``final_rank`` the
    rank of the final top-1 among this depth's logits, from 1. ``final_top1``, ``final_nll`` and
    ``final_margin`` are those of the model itself, whichever lens this is. Raises ``ValueError``
    where the shapes do not fit, a number is not finite, or depths or positions are out of order.
    """

    lens: str
    depths: tuple[int, ...]
    blocks: int
    doc: Int[np.ndarray, " positions"]
    pos: Int[np.ndarray, " positions"]
    target: Int[np.ndarray, " positions"]
    top1: Int[np.ndarray, "depths positions"]
    rank: Int[np.ndarray, "depths positions"]
    final_rank: Int[np.ndarray, "depths positions"]
    margin: Float[np.ndarray, "depths positions"]
    relative_distance: Float[np.ndarray, "depths positions"]
    nll: Float[np.ndarray, "depths positions"]
    entropy: Float[np.ndarray, "depths positions"]
    kl_final: Float[np.ndarray, "depths positions"]
    acceptance: Float[np.ndarray, "depths positions"]
    cosine_penalty: Float[np.ndarray, "depths positions"]
    fisher_penalty: Float[np.ndarray, "depths positions"]
    final_top1: Int[np.ndarray, " positions"]
    final_nll: Float[np.ndarray, " positions"]
    final_margin: Float[np.ndarray, " positions"]

    def __post_init__(self) -> None:
        depths = self.depths
        ascending = all(a < b for a, b in itertools.pairwise(depths))
        if not depths or depths[0] < 0 or depths[-1] != self.blocks or not ascending:
            raise ValueError(f"depths {depths} do not ascend from 0 or later to {self.blocks}")
        for name, column in self.columns().items():
            wanted: tuple[int, ...] = (len(self.doc),)
            if name not in POSITION_COLUMNS:
                wanted = (len(depths), *wanted)
            if column.shape != wanted:
                raise ValueError(f"column {name} has shape {column.shape}, not {wanted}")
            if not np.isfinite(column).all():
                raise ValueError(f"column {name} holds a number that is not finite")
        later = np.diff(self.doc)
        if not ((later > 0) | ((later == 0) & (np.diff(self.pos) > 0))).all():
            raise ValueError("positions are not in order of (doc, pos)")

    def columns(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """Every column by its name."""
        fields = (field.name for field in dataclasses.fields(self))
        return {n: getattr(self, n) for n in fields if n not in ("lens", "depths", "blocks")}

    def rows(self, chosen: Shaped[np.ndarray, " chosen"]) -> LensStack:
        """Some of the positions, by number or by a mark for each."""
        kept: dict[str, Any] = {n: column[..., chosen] for n, column in self.columns().items()}
        return dataclasses.replace(self, **kept)

    @property
    def n(self) -> int:
        """Number of positions."""
        return len(self.doc)

    def about(self) -> dict[str, Any]:
        """The fields of ``AtDepths``."""
        named = {name: getattr(self, name) for name in ("lens", "depths", "blocks", "n")}
        return named | {"documents": self.clusters[1]}

    @cached_property
    def clusters(self) -> tuple[Int[np.ndarray, " positions"], int]:
        """The number of each position's document, from 0, and how many documents there are."""
        return cluster(self.doc)

    @cached_property
    def agrees(self) -> Shaped[np.ndarray, "depths positions"]:
        """Where top-1 is the final one."""
        agrees: Shaped[np.ndarray, "depths positions"] = self.top1 == self.final_top1
        return agrees

    def sums(self, values: Shaped[np.ndarray, "rows positions"]) -> Float[np.ndarray, "rows docs"]:
        """The sum of each row in each document."""
        inverse, documents = self.clusters
        whole = (row.astype(np.float64, copy=False) for row in values)
        found = [sums_by_document(row, inverse, documents) for row in whole]
        return np.stack(found) if found else np.zeros((0, documents))

    def sizes(self) -> Float[np.ndarray, " docs"]:
        """The number of positions of each document."""
        inverse, documents = self.clusters
        return np.bincount(inverse, minlength=documents).astype(np.float64)


@dataclass(frozen=True)
class AtDepths(ShortRepr):
    """What a figure over depths rests on: a lens, the depths that were measured, of how many."""

    lens: str
    depths: tuple[int, ...]
    blocks: int
    n: int
    documents: int

    @property
    def every_depth(self) -> bool:
        """Whether all depths from 0 to ``blocks`` were measured."""
        return len(self.depths) == self.blocks + 1

    @property
    def scope(self) -> str:
        """``of the 5 measured depths`` where some were left out, else empty."""
        return "" if self.every_depth else f"of the {len(self.depths)} measured depths"
