"""The plan of a text's batches: which windows the head sees at once, and which the body reads.

The body costs the same a token in blocks of some hundreds as in larger ones, and padding costs
what tokens cost; the head, in the worst case, converts its whole weight once a batch. So a batch
holds many tokens, and its windows are read in blocks of almost one length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unembed.errors import UnembedError
from unembed.short_repr import ShortRepr
from unembed.text.windows import Windows

MOST_PADDING = 1.05
"""Padded tokens of a block over its real ones, at most."""

LEAST_SHARE = 256
"""Tokens below which a part is not split further to give every core a batch."""


@dataclass(frozen=True)
class BatchPlan(ShortRepr):
    """How a text is cut: in parts, their windows in batches, and those in blocks.

    A batch holds at most ``batch_tokens`` tokens, those of a window longer than that apart, and a
    block as many at most, padded, or ``block_tokens`` where that is less. A part is shared out in
    a multiple of ``shares`` batches of like size where that leaves 256 tokens to each, so that up
    to as many cores end together.
    Raises UnembedError for numbers below 1.
    """

    batch_tokens: int = 2048
    block_tokens: int = 512
    part_positions: int = 1 << 15
    shares: int = 8

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise UnembedError(f"{name} must be at least 1, got {value}")

    @staticmethod
    def of(device: torch.device, batch_tokens: int | None, part_positions: int) -> BatchPlan:
        """The plan that suits a device, with so many tokens a batch where a number is given."""
        if device.type == "cpu":
            return BatchPlan(batch_tokens or 2048, part_positions=part_positions)
        whole = batch_tokens or 16384
        return BatchPlan(whole, whole, part_positions, shares=1)


@dataclass(frozen=True)
class Block(ShortRepr):
    """Windows that the body reads at once, padded to one length.

    ``input_ids`` is padded on the right with a token of the window; ``real`` picks the inputs whose
    prediction counts.
    """

    input_ids: Int[Tensor, "batch seq"]
    real: Bool[Tensor, "batch seq"]


@dataclass(frozen=True)
class Batch(ShortRepr):
    """Windows whose hidden states the head sees at once.

    ``targets``, ``doc`` and ``pos`` belong to the predictions that count, block after block and
    window after window; ``window`` numbers their windows from 0.
    """

    blocks: tuple[Block, ...]
    targets: Int[Tensor, " positions"]
    doc: Int[np.ndarray, " positions"]
    pos: Int[np.ndarray, " positions"]
    window: Int[np.ndarray, " positions"]


def parts(windows: Windows, part_positions: int) -> Iterator[range]:
    """Consecutive windows with about ``part_positions`` predictions that count in each."""
    first, filled = 0, 0
    for i, count in enumerate(windows.counts.tolist()):
        if filled and filled + count > part_positions:
            yield range(first, i)
            first, filled = i, 0
        filled += count
    yield range(first, len(windows.counts))


def batches(windows: Windows, part: range, plan: BatchPlan, *, mix: bool = True) -> Iterator[Batch]:
    """The windows of a part, longest first, in batches of blocks.

    Of a block's tokens at most 5 % are padding, none without ``mix``. What is in a batch depends on
    the text, the context, the plan and ``mix`` alone, so a resumed run forms the same batches.
    """
    for blocks in _planned(windows, part, plan, mix):
        yield _batch(windows, [chosen for chosen, _widths in blocks])


def blocks_of(widths: Int[np.ndarray, " windows"], plan: BatchPlan) -> tuple[int, int]:
    """How many blocks windows of these lengths make, as one part, and of how many padded tokens."""
    ordered = -np.sort(-widths)
    most, at, blocks, padded = min(plan.block_tokens, plan.batch_tokens), 0, 0, 0
    for stop in _batch_ends(ordered, plan):
        while at < stop:
            count = _block_size(ordered[at:stop], most, True)
            padded += count * int(ordered[at])
            blocks += 1
            at += count
    return blocks, padded


def shortest_mixed(windows: Windows, plan: BatchPlan) -> int | None:
    """Length of the shortest window that a plan pads to that of a longer one; None where every
    block has one length."""
    ends = (
        int(widths[-1])
        for part in parts(windows, plan.part_positions)
        for blocks in _planned(windows, part, plan, True)
        for _chosen, widths in blocks
        if widths[-1] < widths[0]
    )
    return min(ends, default=None)


_Run = tuple[Int[np.ndarray, " windows"], Int[np.ndarray, " windows"]]
"""Windows by number with their lengths, longest first."""


def _planned(windows: Windows, part: range, plan: BatchPlan, mix: bool) -> Iterator[list[_Run]]:
    """The blocks of each batch of a part."""
    widths = (windows.length + windows.prefixed)[part.start : part.stop]
    order = np.argsort(-widths, kind="stable")
    widths, chosen = widths[order], part.start + order
    most = min(plan.block_tokens, plan.batch_tokens)
    at = 0
    for stop in _batch_ends(widths, plan):
        blocks = []
        while at < stop:
            end = at + _block_size(widths[at:stop], most, mix)
            blocks.append((chosen[at:end], widths[at:end]))
            at = end
        yield blocks


def _batch_ends(widths: Int[np.ndarray, " windows"], plan: BatchPlan) -> Iterator[int]:
    """Where batches end: at their share of what is left, or where a window does not fit."""
    left, filled = int(widths.sum()), 0
    fewest = -(-left // plan.batch_tokens)
    shared = -(-fewest // plan.shares) * plan.shares
    count = max(fewest, min(shared, left // LEAST_SHARE))
    for i, width in enumerate(widths.tolist()):
        share = left / max(1, count)
        if filled and (filled + width > plan.batch_tokens or filled + width / 2 > share):
            yield i
            left, count, filled = left - filled, count - 1, 0
        filled += width
    yield len(widths)


def _block_size(widths: Int[np.ndarray, " windows"], most: int, mix: bool) -> int:
    """How many of these windows, longest first, the next block takes; at least one."""
    some = widths[: max(1, most // int(widths[0]))]
    padded = widths[0] * np.arange(1, len(some) + 1)
    too_much = padded > (MOST_PADDING if mix else 1) * np.cumsum(some)
    return int(too_much.argmax()) if too_much.any() else len(some)


def _batch(windows: Windows, blocks: list[np.ndarray]) -> Batch:
    corpus, every = windows.corpus, np.concatenate(blocks)
    targets, doc, pos = [], [], []
    for i in every.tolist():
        start, length = int(windows.start[i]), int(windows.length[i])
        counted = windows.counted(i)
        targets.append(corpus.ids[start + 1 : start + length + 1][counted])
        doc.append(np.full(windows.counts[i], windows.doc[i], dtype=np.int32))
        pos.append((windows.pos[i] + np.flatnonzero(counted)).astype(np.int32))
    return Batch(
        tuple(_block(windows, chosen) for chosen in blocks),
        torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        np.concatenate(doc),
        np.concatenate(pos),
        np.repeat(np.arange(len(every)), windows.counts[every]),
    )


def _block(windows: Windows, chosen: Int[np.ndarray, " windows"]) -> Block:
    rows = [windows.inputs(i) for i in chosen.tolist()]
    width = max(len(row) for row in rows)
    inputs = torch.empty(len(rows), width, dtype=torch.int64)
    real = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, (i, tokens) in enumerate(zip(chosen.tolist(), rows, strict=True)):
        inputs[row, : len(tokens)] = tokens
        inputs[row, len(tokens) :] = tokens[-1]
        lead = int(windows.prefixed[i])
        real[row, lead : len(tokens)] = torch.from_numpy(windows.counted(i))
    return Block(inputs, real)
