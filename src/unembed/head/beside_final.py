"""What the head says of the states of several depths, each beside what it says at the last one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from unembed.head.blocks import (
    ROWS,
    Block,
    BlockShape,
    columns_by_slices,
    logit_blocks,
    most_rows,
    padded,
)
from unembed.head.head import Head
from unembed.head.kernels import compiled, eager
from unembed.head.kernels.running import SEGMENT
from unembed.head.peers import RowShare
from unembed.head.precision import Precision
from unembed.head.product import TILE
from unembed.head.sweep import Sweep, check, sweep_at_once

HELD = 256 << 20
"""Bytes of the logits that are held: the last depth's and those of one other, of as many positions
as fit. Both normalisers must be known before two distributions can be compared, and held logits are
read again where a second product would take as long as the first."""


@dataclass(frozen=True)
class BesideFinal:
    """What the head says of a depth's states, alone and beside the final ones, p against q.

    ``swept`` is that of ``sweep``, on CPU to the bit. ``final_rank`` is the rank of the final top-1
    in this depth's logits, 1 + the number of larger ones. ``kl_final`` is KL(p‖q) in nats and
    ``acceptance`` the sum of min(p, q), with p the final distribution and q this depth's. In a row
    that is not finite in either the three mean nothing.
    """

    swept: Sweep
    final_rank: Int[Tensor, " positions"]
    kl_final: Float[Tensor, " positions"]
    acceptance: Float[Tensor, " positions"]


BESIDE = ("final_rank", "kl_final", "acceptance")


@torch.no_grad()
def sweep_beside_final(
    final: Float[Tensor, "positions dim"],
    others: Sequence[Callable[[slice], Float[Tensor, "rows dim"]]],
    head: Head,
    targets: Integer[Tensor, " positions"],
    *,
    k: int = 2,
    precision: Precision | None = None,
) -> tuple[Sweep, list[BesideFinal]]:
    """The sweep of the final states and of each other depth's, those beside the final.

    Equivalent to::

        p, q = (logits(states).softmax(-1) for states in (final, others[0](slice(None))))
        swept = sweep(others[0](slice(None)), head, targets, k=k)
        kl_final = (p * (p / q).log()).sum(-1); acceptance = torch.minimum(p, q).sum(-1)
        final_rank = 1 + (q > q.gather(1, p.argmax(1, keepdim=True))).sum(-1)

    with one product of each state with the head, and HELD bytes of logits whatever the number of
    positions and depths. Each of ``others`` makes the states of the positions that it is given,
    which are then let go; ``precision`` is for the final ones' dtype, others get their own. As one
    of float32 logits, the divergence is within 1e-5 of itself and 2e-7 of its root, the acceptance
    within 1e-5 of itself; equal states give exactly 0 and 1. On CPU a position's numbers are
    bitwise the same whatever other positions are in the call. Where several processes hold the
    head's rows, all of them call this with the same positions, and all get the same.
    Raises ValueError for shapes or targets that do not fit the head. Source: theory §3, §15.
    """
    check(final, head, targets, k, None)
    routes = {final.dtype: precision or head.precision(final.dtype)}
    # As many positions at a time as fit into whichever process holds the most rows.
    most_held = head.vocab if head.share is None else max(head.share.counts)
    k, vocab, n = min(k, head.tokens), padded(most_held), len(final)
    fitting = HELD // (8 * vocab)
    step = ROWS if fitting >= ROWS else TILE  # blocks of a few rows more take longer a row
    most = min(most_rows(final.device), max(step, fitting // step * step))
    converted = 0 if head.weight.dtype == torch.float32 else head.dim
    shape = BlockShape.of(final.device, min(n, most), extra=converted)
    height = -(-min(n, most) // shape.padding) * shape.padding
    rooms = torch.empty(2, height * vocab, dtype=torch.float32, device=final.device)

    def columns(rows: slice) -> dict[tuple[int, str], Tensor]:
        def held(states: Float[Tensor, "rows dim"], room: Float[Tensor, " numbers"]) -> _Held:
            if states.dtype not in routes:
                routes[states.dtype] = head.precision(states.dtype)
            precision = routes[states.dtype]
            return _Held.of(states, head, targets[rows], k, precision, room, shape.columns)

        p = held(final[rows], rooms[0])
        p.normalise_()
        found = {(-1, name): column for name, column in vars(p.swept).items()}
        for depth, states in enumerate(others):
            beside = _beside(p, held(states(rows), rooms[1]), routes[final.dtype])
            for record in (beside, beside.swept):
                found |= {(depth, name): column for name, column in vars(record).items()}
            del found[depth, "swept"]
        return found

    whole = columns_by_slices(columns, n, most)
    sweeps = [
        Sweep(**{field.name: whole[depth, field.name] for field in fields(Sweep)})
        for depth in range(-1, len(others))
    ]
    return sweeps[0], [
        BesideFinal(swept, *(whole[depth, name] for name in BESIDE))
        for depth, swept in enumerate(sweeps[1:])
    ]


@dataclass(frozen=True)
class _Held:
    """All logits of some rows and of those that pad them, and what their sweep says.

    A logit less ``top`` and less ``base`` is a log-probability. Both in turn, for a logsumexp of
    thousands would round the difference of two logits away.
    """

    swept: Sweep
    blocks: list[Block]
    top: Float[Tensor, " rows"]
    base: Float[Tensor, " rows"]
    share: RowShare | None

    @staticmethod
    def of(
        states: Float[Tensor, "rows dim"],
        head: Head,
        targets: Integer[Tensor, " rows"],
        k: int,
        precision: Precision,
        room: Float[Tensor, " numbers"],
        columns: int,
    ) -> _Held:
        """Of these states, their logits in this room, in blocks of so many columns."""
        kept: list[Block] = []

        def blocks(inputs: Float[Tensor, "rows dim"]) -> Iterator[Block]:
            for block in logit_blocks(inputs, head.own, precision, columns, room):
                kept.append(block)
                yield block

        swept, logsumexp = sweep_at_once(states, head, targets, k, precision, blocks, columns)
        top = swept.topk_values[:, 0]
        more = max((rows.stop for _, _, rows in kept), default=0) - len(top)
        return _Held(
            swept,
            kept,
            torch.nn.functional.pad(top, (0, more)),
            torch.nn.functional.pad((logsumexp - top).float(), (0, more)),
            head.share,
        )

    def normalise_(self) -> None:
        """Turn the logits into log-probabilities."""
        for _start, logits, rows in self.blocks:
            logits.sub_(self.top[rows, None]).sub_(self.base[rows, None])

    def logit_of(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, " padded"]:
        """The logit of one token a row."""
        found = torch.zeros_like(self.top)
        tokens = torch.nn.functional.pad(tokens, (0, len(found) - len(tokens)))
        held = tokens if self.share is None else self.share.local(tokens)
        for start, logits, rows in self.blocks:
            local = held[rows] - start
            inside = (local >= 0) & (local < logits.shape[1])
            here = logits.gather(1, local.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
            found[rows] = torch.where(inside, here, found[rows])
        if self.share is None:
            return found
        return self.share.collected(tokens, found[self.share.owns(tokens)])


def _beside(final: _Held, other: _Held, precision: Precision) -> BesideFinal:
    """Another depth's rows beside the final ones, which are log-probabilities by now."""
    n, rows, device = len(final.swept.rank), len(other.top), other.top.device
    bar = other.logit_of(final.swept.topk_ids[:, 0])
    take_in = compiled.sums_beside if precision.epilogue == "compiled" else eager.sums_beside
    parts = sum(logits.shape[1] for _, logits, span in other.blocks if span.start == 0) // SEGMENT
    sums = torch.empty(5, rows, parts, dtype=torch.float32, device=device)
    for (start, log_p, span), (_start, logits, _span) in zip(
        final.blocks, other.blocks, strict=True
    ):
        at = slice(start // SEGMENT, (start + logits.shape[1]) // SEGMENT)
        given = (other.top[span], other.base[span], bar[span])
        take_in(log_p, logits, given, sums[:, span, at])
    if final.share is not None:
        sums = final.share.joined(sums)
    mass_p, mass_q, apart, shared, larger = sums.double().sum(-1)[:, :n]
    # Both masses are 1 but for rounding, and sums of p log(p/q) - p + q hold what theirs is.
    off = mass_q / mass_p - 1
    kl = apart / mass_p - (off - torch.log1p(off))
    return BesideFinal(
        other.swept,
        larger.long() + 1,
        kl.clamp_min(0).float(),
        (2 * shared / (mass_p + mass_q)).clamp_max(1).float(),
    )
