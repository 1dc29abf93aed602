"""Linear maps of a sweep's exponentials, summed block by block over the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int, Int32
from torch import Tensor

from unembed.head.kernels import compiled
from unembed.head.kernels.running import LOG2_E, SEGMENT
from unembed.head.peers import RowShare
from unembed.head.product import TILE
from unembed.short_repr import ShortRepr
from unembed.signatures.sketches.sketch import LinearMap
from unembed.signatures.sketches.tensorsketch import CountSketch

RISE = 16.0
"""Nats by which a logit may pass the reference of its exponentials before that follows: to follow
rescales all sums, and e^16 is far from float32's largest number, its square too."""

BELOW = -1e30
"""A reference below every logit of a token and above that of a column that is none."""


@dataclass(frozen=True)
class Projections(ShortRepr):
    """Linear maps of each row's ``exp(logit - reference)``, a ``sweep``'s reader; all in place.

    ``sums`` are those of each map without the target's own column, which ``own`` holds; ``rest``
    and ``squares`` are the same exponentials' sum and sum of squares. So ``1 - p_y`` is
    ``rest / (rest + own)`` and ``p - onehot(y)`` is never the difference of two numbers near 1. A
    column that is not a token counts as 0. With ``tables`` (bucket, and the sign as the top bit)
    the sums lie as (16 rows, map, bucket, row), for the compiled kernel; else as (map, row, width).

    With a ``share`` the columns that are seen are those of the rows that are held here, until
    ``merge`` adds the other processes'.
    """

    targets: Int[Tensor, " rows"]
    maps: tuple[LinearMap, ...]
    tables: Int32[Tensor, "maps padded"] | None
    sums: Float[Tensor, "..."]
    reference: Float[Tensor, " rows"]
    own: Float[Tensor, " rows"]
    rest: Float64[Tensor, " rows"]
    squares: Float64[Tensor, " rows"]
    share: RowShare | None = None

    @staticmethod
    def of(
        targets: Int[Tensor, " rows"],
        maps: tuple[LinearMap, ...],
        tables: Int32[Tensor, "maps padded"] | None,
        share: RowShare | None = None,
    ) -> Projections:
        """Before the first block, for as many rows as a sweep of these targets pads them to."""
        device, missing = targets.device, -len(targets) % TILE
        targets = torch.nn.functional.pad(targets.long(), (0, missing))
        rows, width = len(targets), maps[0].width
        grouped = (rows // TILE, len(maps), width, TILE)
        return Projections(
            targets,
            maps,
            tables,
            torch.zeros(
                grouped if tables is not None else (len(maps), rows, width),
                dtype=torch.float32,
                device=device,
            ),
            torch.full((rows,), BELOW, dtype=torch.float32, device=device),
            torch.zeros(rows, dtype=torch.float32, device=device),
            torch.zeros(rows, dtype=torch.float64, device=device),
            torch.zeros(rows, dtype=torch.float64, device=device),
            share,
        )

    def take(self, logits: Float[Tensor, "rows block"], start: int, rows: slice) -> None:
        """Take in a block of logits, which is left as it was: the ``beside`` of a ``sweep``."""
        if self.tables is None:
            self._add(logits, start, slice(rows.start, min(rows.stop, len(self.targets))))
            return
        compiled.scatter(
            logits,
            start - self._first,
            self._own_targets(rows),
            self.tables,
            RISE,
            self.sums[rows.start // TILE : rows.stop // TILE],
            self.reference[rows],
            self.own[rows],
            (self.rest[rows], self.squares[rows]),
        )

    def merge(self) -> None:
        """Add what the other processes saw, after the last block: all call this, and end alike.

        ``sums = Σ_i exp(reference_i - reference) sums_i`` with the largest reference.
        """
        if self.share is None:
            return
        peers = self.share.peers
        top = torch.stack(peers.gather(self.reference)).amax(0)
        shrink = torch.exp2((self.reference - top) * LOG2_E)
        self.reference.copy_(top)
        by_row = (-1, 1, 1, TILE) if self.tables is not None else (-1, 1)
        self.sums.mul_(shrink.view(by_row))
        for numbers in (self.own, self.rest, self.squares, self.squares):
            numbers.mul_(shrink)
        for numbers in (*self.sums, self.own, self.rest, self.squares):
            numbers.copy_(peers.total(numbers))

    @property
    def _first(self) -> int:
        """The id of the first column that is seen here."""
        return 0 if self.share is None else self.share.first

    def _own_targets(self, rows: slice) -> Int[Tensor, " some"]:
        """The targets' columns among those that are seen here, -1 for others."""
        targets = self.targets[rows]
        return targets if self.share is None else self.share.local(targets)

    def _add(self, logits: Float[Tensor, "padded block"], start: int, rows: slice) -> None:
        """The same by the maps' own ``add``."""
        logits = logits[: rows.stop - rows.start]
        reference, own = self.reference[rows], self.own[rows]
        rest, squares, sums = self.rest[rows], self.squares[rows], self.sums[:, rows]
        peak = logits.amax(1)
        rises = peak > reference + RISE
        if bool(rises.any()):
            top = torch.where(rises, peak, reference)
            shrink = torch.exp2((reference - top) * LOG2_E)
            reference.copy_(top)
            sums *= shrink[:, None]
            for part in (own, rest, squares, squares):
                part *= shrink
        e = (logits - reference[:, None]).mul_(LOG2_E).exp2_()
        local = self._own_targets(rows) - (start - self._first)
        inside = ((local >= 0) & (local < e.shape[1])).nonzero()[:, 0]
        own[inside] = e[inside, local[inside]]
        e[inside, local[inside]] = 0
        rest += e.sum(1)
        squares += e.square().sum(1)
        for into, each in zip(sums, self.maps, strict=True):
            each.add(e, start, into)

    def raw(self, which: int, rows: slice) -> Float[Tensor, "some width"]:
        """One map of these rows' exponentials, a copy; the rows begin and end a group of 16."""
        if self.tables is None:
            return self.sums[which, rows].clone()
        part = self.sums[rows.start // TILE : rows.stop // TILE, which]
        return part.transpose(1, 2).contiguous().view(-1, part.shape[1])


def bucket_tables(
    maps: tuple[LinearMap, ...], columns: slice = slice(None)
) -> Int32[Tensor, "maps padded"] | None:
    """Bucket and sign of these columns, padded to whole segments; None for maps of other kinds."""
    tables = []
    for each in maps:
        if not isinstance(each, CountSketch):
            return None
        sign = (each.sign[columns] < 0).int() << 31
        table = each.index[columns] | sign
        tables.append(torch.nn.functional.pad(table, (0, -len(sign) % SEGMENT)))
    return torch.stack(tables)
