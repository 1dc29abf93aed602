"""One pass over the vocabulary: what the head says at each position, never rows x vocab at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int, Integer
from torch import Tensor

from unembed.head.blocks import (
    NEVER,
    Block,
    BlockShape,
    by_slices,
    logit_blocks,
    target_logits,
    target_tolerance,
)
from unembed.head.head import Head
from unembed.head.kernels import update_of
from unembed.head.kernels.running import SEGMENT, Running
from unembed.head.precision import Precision
from unembed.head.product import pad_rows

IGNORED = -100
"""The label by which torch and transformers mark a position that does not count."""


@dataclass(frozen=True)
class Sweep:
    """What one pass over the vocabulary says about each position, all float32 from float32 logits.

    ``topk_values`` and ``topk_ids`` are the largest logits in descending order, ties to the lowest
    id; k is cut to the number of tokens. ``rank`` is 1 + the number of larger logits than the
    target's. ``sum_p2`` is the sum of squared probabilities. ``finite`` is False where any logit of
    a token is not finite; the other entries of such a row mean nothing.
    """

    topk_values: Float[Tensor, "positions k"]
    topk_ids: Int[Tensor, "positions k"]
    logsumexp: Float[Tensor, " positions"]
    entropy: Float[Tensor, " positions"]
    sum_p2: Float[Tensor, " positions"]
    target_logit: Float[Tensor, " positions"]
    rank: Int[Tensor, " positions"]
    finite: Bool[Tensor, " positions"]

    @property
    def margin(self) -> Float[Tensor, " positions"]:
        """Largest logit minus the second largest."""
        return self.topk_values[:, 0] - self.topk_values[:, 1]

    @property
    def nll(self) -> Float[Tensor, " positions"]:
        """Negative log-likelihood of the target in nats."""
        return (self.logsumexp - self.target_logit).clamp_min(0.0)

    @property
    def confidence(self) -> Float[Tensor, " positions"]:
        """Probability of the top token."""
        return torch.exp(self.topk_values[:, 0] - self.logsumexp).clamp_max(1.0)


@torch.no_grad()
def sweep(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    targets: Integer[Tensor, " positions"],
    *,
    k: int = 2,
    precision: Precision | None = None,
    block: int | None = None,
    observe: Callable[[Float[Tensor, "rows block"], int, slice], None] | None = None,
) -> Sweep:
    """Top-k, logsumexp, entropy, target logit and rank of every position, float32-exact.

    Equivalent to::

        logits = softcap(scale * (hidden.float() @ W.float().T + b))[:, valid]
        values, ids = logits.sort(descending=True, stable=True)     # the first k of each
        logsumexp = logits.logsumexp(-1); p = logits.softmax(-1)
        entropy = -(p * p.log()).sum(-1); sum_p2 = p.square().sum(-1)
        rank = 1 + (logits > logits.gather(1, targets)).sum(-1)

    in O(positions * k + block) memory. On CPU the result of a row is bitwise the
    same for any ``block``, any other rows in the call, and any number of threads; elsewhere these
    may move the last bits of a logit. ``precision`` comes from ``Precision.probe`` and is probed
    here where it is None; ``block``, the columns taken at once, suits the device where it is None.
    ``observe(logits, first_column, rows)`` sees each block of logits first, padded rows and all,
    and must leave it as it is: one pass over the vocabulary, many readers.

    Where several processes hold the head's rows, all of them call this with the same positions, and
    all get the same: each passes over its own rows, and what it finds is merged. ``observe`` then
    sees the columns of this process alone. Ids, ranks and ties are those of one pass over all rows,
    and so are the sums, to the bit where each process's rows begin at a multiple of SEGMENT.
    Raises ValueError for shapes or targets that do not fit the head. Source: theory §1, §15.
    """
    check(hidden, head, targets, k, block)
    precision = precision or head.precision(hidden.dtype)
    k = min(k, head.tokens)

    def blocks(inputs: Float[Tensor, "rows dim"]) -> Iterator[Block]:
        for start, logits, rows in logit_blocks(inputs, head.own, precision, block):
            if observe is not None:
                observe(logits, head.first + start, rows)
            yield start, logits, rows

    if observe is not None:
        return sweep_at_once(hidden, head, targets, k, precision, blocks, block)[0]
    return by_slices(
        lambda rows: sweep_at_once(hidden[rows], head, targets[rows], k, precision, blocks, block)[
            0
        ],
        len(hidden),
        hidden.device,
    )


def sweep_at_once(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    targets: Integer[Tensor, " positions"],
    k: int,
    precision: Precision,
    blocks: Callable[[Float[Tensor, "rows dim"]], Iterator[Block]],
    block: int | None = None,
) -> tuple[Sweep, Float64[Tensor, " positions"]]:
    """``sweep`` of rows that are held at once, and their logsumexp before it was rounded.

    ``blocks`` makes the blocks of logits, ``block`` wide, of the rows with others that pad them,
    and of ``head.own`` where several processes hold the head.
    """
    n = hidden.shape[0]
    shape = BlockShape.of(hidden.device, n, block)
    inputs = pad_rows(hidden, shape.padding, hidden.dtype)
    index = torch.zeros(len(inputs), dtype=torch.long, device=inputs.device)
    index[:n] = targets
    threshold = target_logits(inputs, head, index, precision)
    tolerance = target_tolerance(inputs, head, index, threshold, precision)
    own = index if head.share is None else head.share.local(index)
    running = Running.of(own, threshold, k, head.own.vocab, tolerance)
    update = update_of(precision.epilogue)
    for start, logits, rows in blocks(inputs):
        update(running.tile(rows), logits, start)
    if head.share is not None:
        running = running.merged(head.share, index)
    larger, unsure = running.counted()
    if bool(unsure.any()):
        seen = running.seen[unsure]
        larger[unsure] = _recount(inputs[unsure], head, index[unsure], seen, precision, shape)
    logsumexp, entropy, sum_p2 = running.combined()
    finite = torch.isfinite(logsumexp) & torch.isfinite(entropy) & torch.isfinite(sum_p2)
    said = Sweep(
        running.values[:n],
        running.ids[:n].clamp_max(head.vocab - 1),  # past the end where no logit is a number
        logsumexp[:n].float(),
        entropy[:n].float(),
        sum_p2[:n].float(),
        running.seen[:n],
        larger[:n] + 1,
        finite[:n],
    )
    return said, logsumexp[:n]


def _recount(
    inputs: Float[Tensor, "rows dim"],
    head: Head,
    targets: Int[Tensor, " rows"],
    seen: Float[Tensor, " rows"],
    precision: Precision,
    shape: BlockShape,
) -> Int[Tensor, " rows"]:
    """Count again for rows whose target came out differently in its block, in blocks as high."""
    n = inputs.shape[0]
    padded = pad_rows(inputs, shape.padding, inputs.dtype)
    limit = seen.new_full((padded.shape[0],), torch.inf)
    limit[:n] = seen
    own = torch.full((padded.shape[0],), -1, device=inputs.device)
    own[:n] = targets if head.share is None else head.share.local(targets)
    larger = torch.zeros(len(padded), dtype=torch.long, device=inputs.device)
    for start, logits, rows in logit_blocks(padded, head.own, precision, shape.columns):
        local = own[rows] - start
        inside = ((local >= 0) & (local < logits.shape[1])).nonzero()[:, 0]
        logits[inside, local[inside]] = NEVER  # a target is not larger than itself
        larger[rows] += (logits > limit[rows, None]).sum(1)
    if head.share is not None:
        larger = head.share.peers.total(larger)
    return larger[:n]


def check(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    targets: Integer[Tensor, " positions"],
    k: int,
    block: int | None,
) -> None:
    """Raise ValueError for arguments of a pass that do not fit the head or each other."""
    if hidden.shape[1] != head.dim or targets.shape != hidden.shape[:1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and targets {tuple(targets.shape)} do not fit a head of "
            f"width {head.dim}"
        )
    if k < 2 or (block is not None and (block < SEGMENT or block % SEGMENT)):
        raise ValueError(f"k must be at least 2 and block a multiple of {SEGMENT}: {k}, {block}")
    if targets.dtype == torch.bool or targets.is_floating_point() or targets.is_complex():
        kind = str(targets.dtype).removeprefix("torch.")
        raise ValueError(
            f"targets are {kind}, not token ids: give integers, such as targets.long()"
        )
    least, most = _range(targets)
    if least == IGNORED:
        raise ValueError(
            f"targets hold {IGNORED}, the label of positions to ignore: select the other positions "
            f"first, hidden[targets != {IGNORED}] and targets[targets != {IGNORED}]"
        )
    if least < 0 or most >= head.vocab:
        stray = least if least < 0 else most
        raise ValueError(
            f"target {stray} is no id of this head: give ids from 0 to below {head.vocab}"
        )


def _range(targets: Integer[Tensor, " positions"]) -> tuple[int, int]:
    """The least and the largest target, with 0 in place of both where there are none."""
    if not len(targets):
        return 0, 0
    least, most = torch.stack(torch.aminmax(targets.long())).tolist()
    return int(least), int(most)
