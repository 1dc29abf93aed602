"""Blocks of float32 logits, and the target's logit before its block has come by."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.head.head import Head
from unembed.head.kernels.running import SEGMENT
from unembed.head.peers import RowShare
from unembed.head.precision import Precision
from unembed.head.product import (
    TILE,
    WIDE_BLOCK,
    WIDE_ROWS,
    left_operand,
    multiply,
    right_operand,
)

Record = TypeVar("Record")
Key = TypeVar("Key")

ROWS = 512
"""Rows of a logit block on CPU."""

BLOCK = 4096
"""Columns of a block at most on CPU. From 512 to 8192 columns and 256 to 1024 rows take the same
time within 5 % on the machines measured, so the cache and the memory decide."""

SLICE = {"cpu": 4 * ROWS}
MOST_SLICE = 16_384
"""Rows of which sums are held at once, by device and on others: what is held of a row goes with the
vocabulary, a two-hundredth of its logits, and must not go with the length of a window."""

NEVER = -1e38
"""The logit of a row that is not a token: below every real one, and still finite when it is scaled,
so that 0 times it is 0."""


@dataclass(frozen=True)
class BlockShape:
    """Rows and columns of a logit block; a sweep pads its rows to a multiple of ``padding``."""

    rows: int
    columns: int
    padding: int

    @staticmethod
    def of(
        device: torch.device, rows: int, columns: int | None = None, extra: int = 0
    ) -> BlockShape:
        """The shape that suits the device, for this many rows, with these columns if any are given.

        On CPU a block and ``extra`` more numbers a column (a weight that is turned into float32)
        take at most half of a core's share of the last cache.

        On CUDA all blocks of a sweep have the same height, because its library picks its kernel,
        and with it the last bits of a logit, by the shape. Any number of blocks of that height has
        that height again, if there are not more of them.
        """
        if device.type != "cuda":
            fitting = cache_share() // 2 // (4 * (ROWS + extra)) // SEGMENT * SEGMENT
            return BlockShape(ROWS, columns or min(BLOCK, max(2 * SEGMENT, fitting)), TILE)
        tiles = max(1, -(-rows // WIDE_ROWS))
        height = max(1, -(-rows // (tiles * TILE))) * TILE
        return BlockShape(height, columns or WIDE_BLOCK, height)


def by_slices(work: Callable[[slice], Record], rows: int, device: torch.device) -> Record:
    """A record of columns for all rows, of which ``work`` holds so many at most at a time.

    Equivalent to ``work(slice(rows))``.
    """
    most = most_rows(device)
    if rows <= most:
        return work(slice(rows))
    kinds: list[type[Record]] = []

    def columns(some: slice) -> dict[str, Tensor]:
        found = work(some)
        kinds.append(type(found))
        return vars(found)

    whole = columns_by_slices(columns, rows, most)
    return kinds[0](**whole)


def most_rows(device: torch.device) -> int:
    """Rows of which sums are held at once on this device."""
    return SLICE.get(device.type, MOST_SLICE)


def columns_by_slices(
    work: Callable[[slice], dict[Key, Tensor]], rows: int, most: int
) -> dict[Key, Tensor]:
    """Columns of all rows, equivalent to ``work(slice(rows))``, made of ``most`` rows at a time.

    Each slice's columns go to their place at once: kept until the end, they would lie between what
    is freed, and the heap would grow with the rows.
    """
    whole: dict[Key, Tensor] = {}
    for start in range(0, max(rows, 1), most):
        for name, column in work(slice(start, min(start + most, rows))).items():
            if name not in whole:
                whole[name] = column.new_empty((rows, *column.shape[1:]))
            whole[name][start : start + most] = column
    return whole


@cache
def cache_share() -> int:
    """A core's share of the last-level cache in bytes; 4 MiB where the system does not say."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    try:
        found = [int(size.read_text().strip().removesuffix("K")) << 10 for size in sizes]
    except (OSError, ValueError):
        found = []
    return max(found) // (os.cpu_count() or 1) if found else 4 << 20


Block = tuple[int, Float[Tensor, "_tile _block"], slice]
"""The first column of some logits, the logits, and their rows."""


def logit_blocks(
    inputs: Float[Tensor, "rows dim"],
    head: Head,
    precision: Precision,
    block: int | None = None,
    room: Float[Tensor, " numbers"] | None = None,
) -> Iterator[Block]:
    """Blocks of float32 logits: (first column, logits, rows), blocks outer and row tiles inner.

    The rows must be padded (``product.pad_rows``), in any dtype. Columns are padded to a multiple
    of SEGMENT; a padded column, or one that is not a token, holds NEVER. ``block`` is a block's
    width, by ``BlockShape`` where it is None. A block is overwritten by the next, unless there is
    ``room`` for ``rows * padded(head.vocab)`` numbers, where they stay, one after the other.
    Of a head that several processes hold, give ``head.own``, whose columns count from 0.
    """
    head.must_be_whole("a pass over the vocabulary of this kind")
    rows = inputs.shape[0]
    left = left_operand(inputs, head.weight.dtype, precision.route)
    converted = head.weight.dtype != left.dtype
    shape = BlockShape.of(inputs.device, rows, block, head.dim if converted else 0)
    buffer = room
    if buffer is None:
        buffer = torch.empty(
            min(rows, shape.rows) * shape.columns, dtype=torch.float32, device=inputs.device
        )
    for start in range(0, head.vocab, shape.columns):
        stop = min(start + shape.columns, head.vocab)
        weight = right_operand(head.weight[start:stop], left)
        bias = None if head.bias is None else head.bias[start:stop].to(torch.float32)
        barred = None if head.valid is None else ~head.valid[start:stop]
        if barred is not None and not bool(barred.any()):
            barred = None
        width = padded(stop - start)
        for top in range(0, rows, shape.rows):
            span = slice(top, min(top + shape.rows, rows))
            height = span.stop - span.start
            first = 0 if room is None else rows * start + top * width
            logits = buffer[first : first + height * width].view(height, width)
            multiply(left[span], weight, precision.route, logits[:, : weight.shape[0]])
            real = logits[:, : stop - start]
            apply_recipe(real, head, bias)
            if barred is not None:
                real.masked_fill_(barred, NEVER)
            logits[:, stop - start :] = NEVER
            yield start, logits, span


def padded(columns: int) -> int:
    """Columns of the blocks that hold so many: a multiple of SEGMENT."""
    return -(-columns // SEGMENT) * SEGMENT


def apply_recipe(
    products: Float[Tensor, "rows columns"], head: Head, bias: Float[Tensor, " columns"] | None
) -> None:
    """Turn ``W h`` into logits in place: bias, scale, soft-cap."""
    if bias is not None:
        products += bias
    if head.scale != 1.0:
        products *= head.scale
    if head.softcap is not None:
        products.div_(head.softcap).tanh_().mul_(head.softcap)


def target_logits(
    inputs: Float[Tensor, "rows dim"],
    head: Head,
    targets: Int[Tensor, " rows"],
    precision: Precision,
) -> Float[Tensor, " rows"]:
    """The target's logit of every row, so that larger ones can be counted before its block comes.

    Where the route is invariant, they are the diagonals of products of TILE rows with their TILE
    targets, and bitwise the logits that the blocks will hold. Elsewhere they are dot products
    taken in float64, within ``target_tolerance`` of those.
    """
    if head.share is not None:
        own = target_logits(inputs, head.own, _any_own(head.share, targets), precision)
        return head.share.collected(targets, own[head.share.owns(targets)])
    found = torch.empty(inputs.shape[0], dtype=torch.float32, device=inputs.device)
    step = TILE if precision.invariant else ROWS
    for top in range(0, inputs.shape[0], step):
        span = slice(top, top + step)
        rows, chosen = inputs[span], targets[span]
        bias = None if head.bias is None else head.bias[chosen].float()
        if precision.invariant:
            left = left_operand(rows, head.weight.dtype, precision.route)
            square = torch.empty(len(left), len(rows), dtype=torch.float32, device=inputs.device)
            multiply(left, right_operand(head.weight[chosen], left), precision.route, square)
            apply_recipe(square, head, bias)
            found[span] = square.diagonal()
        else:
            dots = (rows.double() * head.weight[chosen].double()).sum(1).float()
            apply_recipe(dots[None], head, bias)
            found[span] = dots
    barred = torch.zeros_like(targets, dtype=torch.bool)
    if head.valid is not None:
        barred = ~head.valid[targets]
    return found.masked_fill_(barred, NEVER)


def target_tolerance(
    inputs: Float[Tensor, "rows dim"],
    head: Head,
    targets: Int[Tensor, " rows"],
    threshold: Float[Tensor, " rows"],
    precision: Precision,
) -> Float[Tensor, " rows"] | None:
    """How far from ``target_logits`` the target's logit may lie in its block; None where nowhere.

    ``scale error |w| |h|`` by the probe's error, and four roundings of the logit for the recipe. An
    estimate: a logit outside it costs a recount, not the rank.
    """
    if precision.invariant:
        return None
    if head.share is not None:
        rows = _any_own(head.share, targets)
        own = target_tolerance(inputs, head.own, rows, threshold, precision)
        assert own is not None
        return head.share.collected(targets, own[head.share.owns(targets)])
    sizes = torch.empty_like(threshold)
    for top in range(0, inputs.shape[0], ROWS):
        span = slice(top, top + ROWS)
        sizes[span] = inputs[span].float().norm(dim=1)
        sizes[span] *= head.weight[targets[span]].float().norm(dim=1)
    rounding = 4 * torch.finfo(torch.float32).eps * threshold.abs()
    return head.scale * precision.error * sizes + rounding


def _any_own(share: RowShare, targets: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """The rows of these targets among those that are held here, any row for the others'."""
    return share.local(targets).clamp_min(0)
