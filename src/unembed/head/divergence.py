"""How far apart two heads' next-token distributions are, exactly and without stored logits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.head.blocks import BLOCK, NEVER, by_slices, logit_blocks
from unembed.head.head import Head
from unembed.head.kernels import compiled
from unembed.head.kernels.running import LOG2_E, SEGMENT
from unembed.head.paired_rows import paired_rows
from unembed.head.precision import Precision
from unembed.head.product import pad_rows

WIDE = 1e4
"""Size of a logsumexp in nats from which its own rounding (5e-4 in float32) shows in a probability.

The logits of such a row are taken less their largest, and its normaliser by a pass of its own."""


@runtime_checkable
class Candidates(Protocol):
    """What a divergence takes from a sweep's result: the largest logits and the normaliser."""

    @property
    def topk_values(self) -> Float[Tensor, "positions k"]:
        """The largest logits in descending order."""
        ...

    @property
    def topk_ids(self) -> Int[Tensor, "positions k"]:
        """Their tokens."""
        ...

    @property
    def logsumexp(self) -> Float[Tensor, " positions"]:
        """The logarithm of the sum of the exponentials of all logits."""
        ...


@dataclass(frozen=True)
class SweptModel:
    """One model's part at some positions: what its head reads, the head, and its sweep's result."""

    hidden: Float[Tensor, "positions dim"]
    head: Head
    swept: Candidates
    precision: Precision

    def rows(self, chosen: slice) -> SweptModel:
        """Some of the positions."""
        make: Any = type(self.swept)
        swept = make(*(column[chosen] for column in vars(self.swept).values()))
        return replace(self, hidden=self.hidden[chosen], swept=swept)


@dataclass(frozen=True)
class Divergence:
    """Between the distributions p and q of two models at each position, divergences in nats.

    ``kl_forward`` is KL(p‖q), ``kl_backward`` KL(q‖p), ``total_variation`` half the sum of |p - q|.
    ``overlap`` is the share of the first model's top-k tokens among the second's.
    """

    kl_forward: Float[Tensor, " positions"]
    kl_backward: Float[Tensor, " positions"]
    total_variation: Float[Tensor, " positions"]
    overlap: Float[Tensor, " positions"]

    @property
    def acceptance(self) -> Float[Tensor, " positions"]:
        """Chance that speculative decoding accepts a token of one model for the other: the sum of
        min(p, q), which is ``1 - total_variation``."""
        return 1 - self.total_variation


@torch.no_grad()
def divergence(first: SweptModel, second: SweptModel, *, block: int = BLOCK) -> Divergence:
    """Divergences of two models at the same positions, float32-exact, in one more pass.

    Equivalent to::

        p, q = logits_p.softmax(-1), logits_q.softmax(-1)
        kl_forward = (p * (p / q).log()).sum(-1); kl_backward = (q * (q / p).log()).sum(-1)
        total_variation = (p - q).abs().sum(-1) / 2

    Both heads pass over the same blocks of the vocabulary, of which the larger one may hold padded
    rows more; the tokens must be the same. Two identical models give exactly 0. No probability has
    a floor: a token that q gives ``exp(-10,000)`` counts as such. Where several processes hold the
    heads' rows, all of them call this with the same positions, and all get the same.
    Raises ValueError where the two do not have the same positions or tokens.
    Source: theory §4, §15.
    """
    check_alike(first, second)
    return by_slices(
        lambda rows: _divergence(first.rows(rows), second.rows(rows), block),
        len(first.hidden),
        first.hidden.device,
    )


def _divergence(first: SweptModel, second: SweptModel, block: int) -> Divergence:
    """``divergence`` of rows that are held at once."""
    n = len(first.hidden)
    # In their own dtype, in which the sweep multiplied too: bfloat16 has a faster product.
    a, b = (pad_rows(one.hidden, dtype=one.hidden.dtype) for one in (first, second))
    (tops_p, base_p), (tops_q, base_q) = (
        log_normaliser(voice, inputs, block) for voice, inputs in ((first, a), (second, b))
    )
    take_in = (
        compiled.segment_divergences if first.precision.epilogue == "compiled" else segment_sums
    )
    pieces = [torch.zeros(5, len(a), 0, dtype=torch.float32, device=a.device)]
    for pair in paired_rows(first.head, second.head):
        parts = -(-min(pair.first.vocab, pair.second.vocab) // SEGMENT)
        sums = torch.zeros(5, len(a), parts, dtype=torch.float32, device=a.device)
        for (start, p, rows), (_start, q, _rows) in zip(
            logit_blocks(a, pair.first, first.precision, block),
            logit_blocks(b, pair.second, second.precision, block),
            strict=False,
        ):
            for logits, tops in ((p, tops_p), (q, tops_q)):
                if tops is not None:
                    logits -= tops[rows, None]
            columns = min(p.shape[1], q.shape[1])
            at = slice(start // SEGMENT, (start + columns) // SEGMENT)
            take_in(
                p[:, :columns],
                q[:, :columns],
                (base_p[rows], base_q[rows]),
                NEVER,
                sums[:, rows, at],
            )
        pieces.append(sums)
    sums = pieces[1] if len(pieces) == 2 else torch.cat(pieces, -1)
    if (share := first.head.share or second.head.share) is not None:
        sums = share.joined(sums)
    mass_p, mass_q, forward, backward, apart = sums.double().sum(-1)
    forward = forward / mass_p - mass_p.log() + mass_q.log()
    backward = backward / mass_q - mass_q.log() + mass_p.log()
    return Divergence(
        forward[:n].clamp_min(0).float(),
        backward[:n].clamp_min(0).float(),
        (apart[:n] / 2).clamp(0, 1).float(),
        _overlap(first.swept.topk_ids, second.swept.topk_ids),
    )


def segment_sums(
    p: Float[Tensor, "rows block"],
    q: Float[Tensor, "rows block"],
    bases: tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]],
    bottom: float,
    sums: Float[Tensor, "5 rows parts"],
) -> None:
    """Sums over each segment of p, q, p log(p/q), q log(q/p) and |p - q|, from logits.

    A logit less its base is a log-probability, and ends at ``bottom``, so that rows that are no
    tokens multiply 0 by a number. The logits are overwritten.
    """
    shape = (len(p), -1, SEGMENT)
    log_p = p.sub_(bases[0][:, None]).clamp_min_(bottom).view(shape)
    log_q = q.sub_(bases[1][:, None]).clamp_min_(bottom).view(shape)
    ratio = log_p - log_q
    p_, q_ = (log_p * LOG2_E).exp2_(), (log_q * LOG2_E).exp2_()
    terms = (p_, q_, p_ * ratio, -q_ * ratio, (p_ - q_).abs_())
    for total, term in zip(sums.unbind(0), terms, strict=True):
        torch.sum(term, -1, out=total)


def log_normaliser(
    voice: SweptModel, inputs: Float[Tensor, "rows dim"], block: int
) -> tuple[Float[Tensor, " rows"] | None, Float[Tensor, " rows"]]:
    """What to take from a row's logits first, if anything, and then to reach log-probabilities."""
    swept, more = voice.swept, len(inputs) - len(voice.swept.logsumexp)
    base, tops = (
        torch.nn.functional.pad(x, (0, more)) for x in (swept.logsumexp, swept.topk_values[:, 0])
    )
    wide = base.abs() > WIDE
    if not bool(wide.any()):
        return None, base
    tops = tops.where(wide, 0.0)
    mass = torch.zeros(len(base), dtype=torch.float64, device=base.device)
    for _start, logits, rows in logit_blocks(inputs, voice.head.own, voice.precision, block):
        mass[rows] += (logits - tops[rows, None]).double().exp().sum(1)
    if voice.head.share is not None:
        mass = voice.head.share.peers.total(mass)
    return tops, mass.log().float().where(wide, base)


def _overlap(
    first: Int[Tensor, "positions k"], second: Int[Tensor, "positions k"]
) -> Float[Tensor, " positions"]:
    return (first[:, :, None] == second[:, None, :]).any(2).float().mean(1)


def check_alike(first: SweptModel, second: SweptModel) -> None:
    """Raise ValueError where two models do not have the same positions or tokens."""
    if len(first.hidden) != len(second.hidden):
        raise ValueError(
            f"{len(first.hidden)} positions of one model, {len(second.hidden)} of the other"
        )
    tokens = [
        torch.arange(voice.head.vocab, device=voice.hidden.device)
        if voice.head.valid is None
        else voice.head.valid.nonzero()[:, 0]
        for voice in (first, second)
    ]
    if not torch.equal(*tokens):
        raise ValueError(
            f"the heads have other tokens: {len(tokens[0]):,} of {first.head.vocab:,} rows and "
            f"{len(tokens[1]):,} of {second.head.vocab:,}"
        )
