"""How far a model in training has moved from a frozen one, differentiable, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unembed.head.blocks import BLOCK, NEVER, BlockShape, apply_recipe, logit_blocks
from unembed.head.head import Head
from unembed.head.kernels.running import LOG2_E, SEGMENT
from unembed.head.once_only import once_only
from unembed.head.precision import Precision
from unembed.head.product import float32_products, pad_rows


def kl_to_reference(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    reference_hidden: Float[Tensor, "reference_positions reference_dim"],
    reference_head: Head,
    *,
    precision: Precision | None = None,
    reference_precision: Precision | None = None,
    block: int = BLOCK,
) -> Float[Tensor, " positions"]:
    """KL(reference‖model) in nats over the full vocabulary at every position, with gradients.

    Equivalent to::

        p, q = reference_logits.softmax(-1), logits.softmax(-1)     # of the tokens alone
        (p * (p / q).log()).sum(-1)

    in O(positions * vocab / 512 + block) memory beside the gradients themselves: the logits of both
    heads are computed again, block by block, on the way back. Gradients reach ``hidden``,
    ``head.weight`` and ``head.bias``, each only where it requires one, in its own dtype; none
    reaches the reference. Rows that are not tokens get a zero gradient. Everything is float32,
    under autocast too, or float64 where ``hidden`` is. A model equal to its reference gives exactly
    0 and, where both have one precision, exactly zero gradients. A position with a logit that is
    not finite has NaN. A precision comes from ``Precision.probe`` and is probed here where it is
    None, so give both in a training loop.

    Raises ValueError for shapes that do not fit the heads or each other, and for heads with other
    tokens, and RuntimeError where a second derivative is taken. Source: theory §5.
    """
    _check(hidden, head, reference_hidden, reference_head, block)
    for one in (head, reference_head):
        one.must_be_whole("the divergence from a reference")
    with torch.autocast(hidden.device.type, enabled=False):
        precision = precision or Precision.probe(head.weight, hidden.dtype)
        reference_precision = reference_precision or Precision.probe(
            reference_head.weight, reference_hidden.dtype
        )
    model = _Side(hidden.detach(), head, precision)
    reference = _Side(reference_hidden.detach(), reference_head, reference_precision)
    differentiable: Any = _KlToReference.apply
    found: Tensor = differentiable(hidden, head.weight, head.bias, model, reference, block)
    return found


@dataclass(frozen=True)
class _Side:
    """One model's part: what its head reads, the head, and how its products are taken."""

    hidden: Float[Tensor, "rows dim"]
    head: Head
    precision: Precision

    def padded(self, dtype: torch.dtype, block: int) -> _Side:
        """With zero rows added up to a block's height, in float64 where ``dtype`` is."""
        kept = dtype if dtype == torch.float64 else self.hidden.dtype
        padding = BlockShape.of(self.hidden.device, len(self.hidden), block).padding
        return replace(self, hidden=pad_rows(self.hidden, padding, kept))

    def blocks(self, block: int) -> Iterator[tuple[int, Float[Tensor, "tile block"], slice]]:
        """Blocks of logits as ``logit_blocks`` makes them, in float64 for such hidden states."""
        if self.hidden.dtype == torch.float64:
            return _float64_blocks(self.hidden, self.head, block)
        return logit_blocks(self.hidden, self.head, self.precision, block)


class _KlToReference(torch.autograd.Function):
    """The pass of both heads over the vocabulary and, on the way back, a second one."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "positions dim"],
        weight: Float[Tensor, "vocab dim"],
        bias: Float[Tensor, " vocab"] | None,
        model: _Side,
        reference: _Side,
        block: int,
    ) -> Float[Tensor, " positions"]:
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        with torch.autocast(hidden.device.type, enabled=False):
            sides = (model.padded(dtype, block), reference.padded(dtype, block))
            kl, *normalisers = _kl(sides, dtype, block)
        ctx.save_for_backward(hidden, weight, bias, *normalisers)
        ctx.model, ctx.reference, ctx.block = model, reference, block
        return kl[: len(hidden)]

    @staticmethod
    def backward(ctx: Any, to_kl: Float[Tensor, " positions"]) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        with torch.no_grad():
            gradients = _KlToReference._numbers(ctx, saved, to_kl)
        return *once_only(gradients, (*saved[:3], to_kl), "kl_to_reference"), None, None, None

    @staticmethod
    def _numbers(
        ctx: Any, saved: tuple[Any, ...], to_kl: Float[Tensor, " positions"]
    ) -> tuple[Tensor | None, ...]:
        """The gradients of hidden, weight and bias, as plain numbers."""
        hidden, weight, bias, *normalisers = saved
        head = replace(ctx.model.head, weight=weight, bias=bias)
        model = replace(ctx.model, hidden=hidden, head=head)
        dtype, missing = to_kl.dtype, len(normalisers[0]) - len(hidden)
        incoming = torch.nn.functional.pad(head.scale * to_kl, (0, missing))
        with torch.autocast(hidden.device.type, enabled=False):
            sides = (model.padded(dtype, ctx.block), ctx.reference.padded(dtype, ctx.block))
            needed = ctx.needs_input_grad[:3]
            at_hidden, *others = _gradients(sides, normalisers, incoming, needed, ctx.block)
        if at_hidden is not None:
            at_hidden = at_hidden[: len(hidden)].to(hidden.dtype)
        return at_hidden, *others


def _kl(sides: tuple[_Side, _Side], dtype: torch.dtype, block: int) -> tuple[Tensor, ...]:
    """KL(reference‖model), then the model's largest logit m and sum of exp(l - m), then the
    reference's, each by rows in this dtype.

    ``KL = sum(p (r - l)) + logsumexp(l) - logsumexp(r)`` of the model's logits l and the
    reference's r, p being the softmax of r.
    """
    model = sides[0]
    rows, parts = len(model.hidden), -(-model.head.vocab // SEGMENT)
    sums = torch.empty(5, rows, parts, dtype=dtype, device=model.hidden.device)
    for start, logits, others, span in _paired(sides, block):
        at = slice(start // SEGMENT, (start + logits.shape[1]) // SEGMENT)
        _take_in(logits, others, sums[:, span, at])
    peak_l, z_l, peak_r, z_r, gap = sums.double().unbind(0)
    top_l, top_r = peak_l.amax(1), peak_r.amax(1)
    share_l, share_r = (peak_l - top_l[:, None]).exp(), (peak_r - top_r[:, None]).exp()
    total_l, total_r = (share_l * z_l).sum(1), (share_r * z_r).sum(1)
    kl = (share_r * gap).sum(1) / total_r + (top_l - top_r) + (total_l.log() - total_r.log())
    kl = kl.clamp_min(0.0).masked_fill(~torch.isfinite(kl), torch.nan)
    return tuple(column.to(dtype) for column in (kl, top_l, total_l, top_r, total_r))


def _take_in(
    logits: Float[Tensor, "tile block"],
    others: Float[Tensor, "tile block"],
    sums: Float[Tensor, "5 tile parts"],
) -> None:
    """Per segment: the maximum and the sum of exp(l - maximum) of the model's logits l, the same of
    the reference's r, and the sum of exp(r - maximum) (r - l). The logits are overwritten.
    """
    shape = (len(logits), logits.shape[1] // SEGMENT, SEGMENT)
    own, other = logits.view(shape), others.view(shape)
    gap = other - own
    for values, peak, total in ((own, sums[0], sums[1]), (other, sums[2], sums[3])):
        torch.amax(values, -1, out=peak)
        torch.sum(values.sub_(peak[..., None]).mul_(LOG2_E).exp2_(), -1, out=total)
    torch.sum(gap.mul_(other), -1, out=sums[4])


def _gradients(
    sides: tuple[_Side, _Side],
    normalisers: list[Float[Tensor, " rows"]],
    incoming: Float[Tensor, " rows"],
    needed: tuple[bool, ...],
    block: int,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of hidden, weight and bias that are needed, None for the others."""
    model, dtype = sides[0], incoming.dtype
    head, inputs = model.head, model.hidden.to(dtype)
    to_hidden = torch.zeros_like(inputs) if needed[0] else None
    to_weight = torch.zeros_like(head.weight) if needed[1] else None
    to_bias = torch.zeros_like(head.bias) if needed[2] and head.bias is not None else None
    at_weight: Tensor | None = None
    at_bias: Tensor | None = None
    for start, logits, others, span in _paired(sides, block):
        columns = slice(start, min(start + logits.shape[1], head.vocab))
        weight = head.weight[columns].to(dtype)
        if span.start == 0:
            # Views where the dtype is the same, so that only other dtypes are copied back.
            at_weight = None if to_weight is None else to_weight[columns].to(dtype)
            at_bias = None if to_bias is None else to_bias[columns].to(dtype)
        at = [column[span, None] for column in normalisers]
        _logit_gradient(logits, others, at, incoming[span, None], head.softcap)
        apart = logits[:, : len(weight)]
        with float32_products(model.precision.float32_route):
            if to_hidden is not None:
                to_hidden[span].addmm_(apart, weight)
            if at_weight is not None:
                at_weight.addmm_(apart.T, inputs[span])
        if at_bias is not None:
            at_bias += apart.sum(0)
        if span.stop == len(inputs):
            for whole, part in ((to_weight, at_weight), (to_bias, at_bias)):
                if whole is not None and part is not None and whole.dtype != dtype:
                    whole[columns] = part
    return to_hidden, to_weight, to_bias


def _logit_gradient(
    logits: Float[Tensor, "tile block"],
    others: Float[Tensor, "tile block"],
    normalisers: list[Float[Tensor, "tile 1"]],
    incoming: Float[Tensor, "tile 1"],
    softcap: float | None,
) -> None:
    """Turn the model's logits l into ``incoming (q - p) (1 - (l / softcap)^2)`` in place.

    Near the reference, where q - p is small, two roundings count: that of a logsumexp, so the
    maximum, which is exact, is taken off instead, and that of an equal product, so none is fused.
    """
    uncapping = None
    if softcap is not None:
        # The clamp is for rows that are no tokens: 0 times infinity would be NaN.
        uncapping = logits.div(softcap).square_().neg_().add_(1.0).clamp_min_(0.0)
    top_l, total_l, top_r, total_r = normalisers
    for values, top, total in ((logits, top_l, total_l), (others, top_r, total_r)):
        values.sub_(top).mul_(LOG2_E).exp2_().mul_(incoming / total)
    logits -= others
    if uncapping is not None:
        logits *= uncapping


def _paired(
    sides: tuple[_Side, _Side], block: int
) -> Iterator[tuple[int, Float[Tensor, "tile block"], Float[Tensor, "tile block"], slice]]:
    """The same block of both heads' logits: first column, the model's, the reference's, rows."""
    for (start, logits, rows), (_start, others, _rows) in zip(
        *(side.blocks(block) for side in sides), strict=True
    ):
        yield start, logits, others, rows


def _float64_blocks(
    inputs: Float[Tensor, "rows dim"], head: Head, block: int
) -> Iterator[tuple[int, Float[Tensor, "rows block"], slice]]:
    """What ``logit_blocks`` yields, in plain float64, so that gradients can be checked."""
    for start in range(0, head.vocab, block):
        columns = slice(start, min(start + block, head.vocab))
        logits = inputs @ head.weight[columns].double().T
        apply_recipe(logits, head, None if head.bias is None else head.bias[columns].double())
        if head.valid is not None:
            logits.masked_fill_(~head.valid[columns], NEVER)
        missing = -logits.shape[1] % SEGMENT
        padded = torch.nn.functional.pad(logits, (0, missing), value=NEVER)
        yield start, padded, slice(0, len(inputs))


def _check(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    reference_hidden: Float[Tensor, "reference_positions reference_dim"],
    reference_head: Head,
    block: int,
) -> None:
    for rows, own in ((hidden, head), (reference_hidden, reference_head)):
        if rows.shape[1] != own.dim:
            raise ValueError(f"hidden {tuple(rows.shape)} does not fit a head of width {own.dim}")
    if len(hidden) != len(reference_hidden):
        raise ValueError(
            f"{len(hidden)} positions of the model, {len(reference_hidden)} of its reference"
        )
    if head.vocab != reference_head.vocab:
        raise ValueError(f"{head.vocab:,} rows of the head, {reference_head.vocab:,} of the other")
    masks = [own.valid for own in (head, reference_head)]
    if any(mask is not None for mask in masks):
        every = torch.ones(head.vocab, dtype=torch.bool, device=hidden.device)
        if not torch.equal(*(every if mask is None else mask for mask in masks)):
            raise ValueError(
                f"the heads have other tokens: {head.tokens:,} and {reference_head.tokens:,} "
                f"of {head.vocab:,} rows"
            )
    if block < SEGMENT or block % SEGMENT:
        raise ValueError(f"block must be a multiple of {SEGMENT}, got {block}")
