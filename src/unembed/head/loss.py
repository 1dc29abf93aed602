"""What the head says at each position, differentiable, never positions x vocab at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from unembed.head.blocks import BLOCK, NEVER, ROWS, apply_recipe
from unembed.head.cosines import CosineGradient, row_cosines
from unembed.head.head import Head
from unembed.head.kernels.running import LOG2_E
from unembed.head.once_only import once_only
from unembed.head.precision import Precision
from unembed.head.product import Route, float32_products
from unembed.head.sweep import check, sweep
from unembed.short_repr import ShortRepr


@dataclass(frozen=True)
class HeadLoss(ShortRepr):
    """What a training objective reads at each position; gradients reach all but ``topk_ids``.

    ``nll`` and ``entropy`` are in nats over the full vocabulary. ``topk_values`` are the largest
    logits in descending order, ties to the lowest id; the selection is hard, so their gradient goes
    to the selected logits alone. k is cut to the number of tokens. A position with a logit that is
    not finite has NaN for ``nll``, ``entropy`` and ``logsumexp``. ``topk_cosines``, where they were
    asked for, are those between the head's rows of ``topk_ids``.
    """

    nll: Float[Tensor, " positions"]
    topk_values: Float[Tensor, "positions k"]
    topk_ids: Int[Tensor, "positions k"]
    entropy: Float[Tensor, " positions"]
    logsumexp: Float[Tensor, " positions"]
    topk_cosines: Float[Tensor, "positions k k"] | None = None


def head_loss(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    targets: Integer[Tensor, " positions"],
    k: int = 2,
    *,
    cosines: bool = False,
    precision: Precision | None = None,
    block: int = BLOCK,
) -> HeadLoss:
    """NLL, top-k logits, entropy and logsumexp of every position, with gradients.

    Equivalent to::

        logits = softcap(scale * (hidden @ W.T + b)).masked_fill(~valid, -inf)
        values, ids = logits.sort(descending=True, stable=True)     # the first k of each
        logsumexp = logits.logsumexp(-1); nll = logsumexp - logits.gather(1, targets)
        entropy = logsumexp - (logits.softmax(-1) * logits)[:, valid].sum(-1)
        unit = normalize(W, dim=1)[ids]; topk_cosines = unit @ unit.mT         # with ``cosines``

    in O(positions * (k + vocab / 512) + block) memory beside the gradients themselves, and k * k a
    position for the cosines: the logits are computed again, block by block, on the way back.
    Gradients reach ``hidden``, ``head.weight`` and ``head.bias``, each only where it requires one,
    in its own dtype; a frozen weight costs nothing. Rows that are not tokens get a zero gradient. A
    zero row has cosine 0 with every row and gets no gradient from it. Everything is float32, under
    autocast too, or float64 where ``hidden`` is. Every row given counts: where positions are to be
    ignored, select the others before the call. ``precision`` comes from ``Precision.probe`` and is
    probed here where it is None, so give one in a training loop.

    Where several processes hold the head's rows, all of them call this with the same positions, and
    take the backward pass. All get the same numbers, and the whole gradient of ``hidden``; those of
    ``head.weight`` and ``head.bias`` are each process's own rows'.

    Raises ValueError for shapes or targets that do not fit the head, and for a target that is not a
    token, whose NLL would be infinite, and RuntimeError where a second derivative is taken.
    Source: theory §0, §1, §5, §15.
    """
    check(hidden, head, targets, k, block)
    targets = targets.long()
    if head.valid is not None and not bool(head.valid[targets].all()):
        stray = int(targets[~head.valid[targets]][0])
        raise ValueError(f"target {stray} is not a token of this head: leave such positions out")
    differentiable: Any = _HeadLoss.apply
    return HeadLoss(
        *differentiable(hidden, head.weight, head.bias, head, targets, k, cosines, precision, block)
    )


Observer = Callable[[Float[Tensor, "rows block"], int, slice], None]
"""Takes a block of the loss's gradient in ``W h + b``, its first column and the rows it is of."""


@torch.no_grad()
def hidden_gradient(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    targets: Int[Tensor, " positions"],
    logsumexp: Float[Tensor, " positions"],
    *,
    precision: Precision,
    observe: Observer | None = None,
    block: int = BLOCK,
) -> Float[Tensor, "positions dim"]:
    """The gradient of the summed NLL, in nats, in the head's input, where a sweep has been made.

    ``head_loss(hidden, ...).nll.sum().backward()`` without the pass over the vocabulary that
    ``logsumexp`` comes from. ``observe`` sees the gradient in ``W h + b``, block by block, which
    is ``scale (softmax - onehot)`` times the slope of a soft-cap. In the dtype of ``hidden``.
    """
    numbers = torch.full_like(logsumexp, head.scale)
    incoming = _Incoming(logsumexp, numbers, None, targets[:, None] - head.first, -numbers[:, None])
    needed, route = (True, False, False), precision.float32_route
    found = _gradients(hidden, head, incoming, None, needed, route, block, observe)[0]
    assert found is not None
    return found


class _HeadLoss(torch.autograd.Function):
    """The pass over the vocabulary and, on the way back, a second one."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "positions dim"],
        weight: Float[Tensor, "vocab dim"],
        bias: Float[Tensor, " vocab"] | None,
        head: Head,
        targets: Int[Tensor, " positions"],
        k: int,
        cosines: bool,
        precision: Precision | None,
        block: int,
    ) -> tuple[Tensor | None, ...]:
        with torch.autocast(hidden.device.type, enabled=False):
            precision = precision or head.precision(hidden.dtype)
            if hidden.dtype == torch.float64:
                found = _float64_statistics(hidden, head, targets, k, block)
            else:
                found = _float32_statistics(hidden, head, targets, k, precision, block)
            between = row_cosines(head, found.topk_ids, found.nll.dtype) if cosines else None
        if between is not None and not ctx.needs_input_grad[1]:
            ctx.mark_non_differentiable(between)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            hidden, weight, bias, targets, found.topk_ids, found.entropy, found.logsumexp
        )
        ctx.head, ctx.route, ctx.block = head, precision.float32_route, block
        return (
            found.nll,
            found.topk_values,
            found.topk_ids,
            found.entropy,
            found.logsumexp,
            between,
        )

    @staticmethod
    def backward(
        ctx: Any,
        to_nll: Tensor | None,
        to_topk: Tensor | None,
        _to_ids: Tensor | None,
        to_entropy: Tensor | None,
        to_logsumexp: Tensor | None,
        to_cosines: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        incoming = (to_nll, to_topk, to_entropy, to_logsumexp, to_cosines)
        with torch.no_grad():
            gradients = _HeadLoss._numbers(ctx, saved, *incoming)
        marked = once_only(gradients, (*saved[:3], *incoming), "head_loss")
        return *marked, None, None, None, None, None, None

    @staticmethod
    def _numbers(
        ctx: Any,
        saved: tuple[Any, ...],
        to_nll: Tensor | None,
        to_topk: Tensor | None,
        to_entropy: Tensor | None,
        to_logsumexp: Tensor | None,
        to_cosines: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of hidden, weight and bias, as plain numbers."""
        hidden, weight, bias, targets, topk_ids, entropy, logsumexp = saved
        zero = torch.zeros_like(logsumexp)
        to_nll = zero if to_nll is None else to_nll
        to_topk = zero[:, None].expand(topk_ids.shape) if to_topk is None else to_topk
        flat = to_nll if to_logsumexp is None else to_nll + to_logsumexp
        if to_entropy is not None:
            flat = flat - to_entropy * entropy
        scale = ctx.head.scale
        incoming = _Incoming(
            logsumexp,
            scale * flat,
            None if to_entropy is None else -scale * to_entropy,
            torch.cat([targets[:, None], topk_ids], 1) - ctx.head.first,
            scale * torch.cat([-to_nll[:, None], to_topk], 1),
        )
        head = replace(ctx.head, weight=weight, bias=bias)
        between = None if to_cosines is None else CosineGradient.of(head, topk_ids, to_cosines)
        needed = ctx.needs_input_grad[:3]
        with torch.autocast(hidden.device.type, enabled=False):
            return _gradients(hidden, head, incoming, between, needed, ctx.route, ctx.block)


@dataclass(frozen=True)
class _Incoming:
    """The loss's gradient in each row's logits, in as few numbers as it takes.

    ``scale dL/dl_v = p_v (flat + slope log p_v)``, plus ``at_ids`` where v is among ``ids``, which
    count from the first row that is held here and may lie outside these. At
    scale 1 an NLL gives g to ``flat`` and -g at its target, a logsumexp g to ``flat``, and an
    entropy H -g to ``slope`` and -g H to ``flat``, since ``dH/dl_v = -p_v (log p_v + H)``.
    """

    logsumexp: Float[Tensor, " rows"]
    flat: Float[Tensor, " rows"]
    slope: Float[Tensor, " rows"] | None
    ids: Int[Tensor, "rows points"]
    at_ids: Float[Tensor, "rows points"]

    def tile(self, rows: slice) -> _Incoming:
        """The same tensors, these rows of them."""
        slope = None if self.slope is None else self.slope[rows]
        return _Incoming(
            self.logsumexp[rows], self.flat[rows], slope, self.ids[rows], self.at_ids[rows]
        )


def _logit_gradient(
    logits: Float[Tensor, "rows block"], incoming: _Incoming, start: int, softcap: float | None
) -> None:
    """Turn a block of logits, whose first column is ``start``, into dL/d(W h + b) in place.

    A soft-capped logit l passes on ``1 - (l / softcap)^2`` of its gradient. Powers of two are
    several times faster than ``exp`` in torch's CPU library.
    """
    width = logits.shape[1]
    uncapping = None
    if softcap is not None:
        uncapping = logits.div(softcap).square_().neg_().add_(1.0)
    logits -= incoming.logsumexp[:, None]
    if incoming.slope is None:
        logits.mul_(LOG2_E).exp2_().mul_(incoming.flat[:, None])
    else:
        p = logits.mul(LOG2_E).exp2_()
        logits.mul_(incoming.slope[:, None]).add_(incoming.flat[:, None]).mul_(p)
    local = incoming.ids - start
    outside = (local < 0) | (local >= width)
    logits.scatter_add_(1, local.clamp(0, width - 1), incoming.at_ids.masked_fill(outside, 0.0))
    if uncapping is not None:
        logits *= uncapping


def _gradients(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    incoming: _Incoming,
    between: CosineGradient | None,
    needed: tuple[bool, ...],
    route: Route,
    block: int,
    observe: Observer | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of hidden, weight and bias that are needed, None for the others."""
    dtype, n = incoming.logsumexp.dtype, len(hidden)
    share, head = head.share, head.own
    inputs = hidden.to(dtype)
    to_hidden = torch.zeros_like(inputs) if needed[0] else None
    to_weight = torch.zeros_like(head.weight) if needed[1] else None
    to_bias = torch.zeros_like(head.bias) if needed[2] and head.bias is not None else None
    buffer = inputs.new_empty(min(n, ROWS) * block)
    for start in range(0, head.vocab, block):
        columns = slice(start, min(start + block, head.vocab))
        weight = head.weight[columns].to(dtype)
        bias = None if head.bias is None else head.bias[columns].to(dtype)
        barred = None if head.valid is None else ~head.valid[columns]
        barred = barred if barred is not None and bool(barred.any()) else None
        # A view where the dtype is the same, so that only other dtypes are copied back.
        at_weight = None if to_weight is None else to_weight[columns].to(dtype)
        at_bias = None if bias is None else torch.zeros_like(bias)
        for top in range(0, n, ROWS):
            rows = slice(top, min(top + ROWS, n))
            logits = buffer[: (rows.stop - top) * len(weight)].view(rows.stop - top, len(weight))
            with float32_products(route):
                torch.mm(inputs[rows], weight.T, out=logits)
            apply_recipe(logits, head, bias)
            _logit_gradient(logits, incoming.tile(rows), start, head.softcap)
            if barred is not None:
                logits.masked_fill_(barred, 0.0)
            if observe is not None:
                observe(logits, start, rows)
            with float32_products(route):
                if to_hidden is not None:
                    to_hidden[rows].addmm_(logits, weight)
                if at_weight is not None:
                    at_weight.addmm_(logits.T, inputs[rows])
            if to_bias is not None and at_bias is not None:
                at_bias += logits.sum(0)
        if between is not None and at_weight is not None:
            between.add_to(at_weight, start)
        if to_weight is not None and at_weight is not None and to_weight.dtype != dtype:
            to_weight[columns] = at_weight
        if to_bias is not None and at_bias is not None:
            to_bias[columns] = at_bias
    if to_hidden is not None and share is not None:
        to_hidden = share.peers.total(to_hidden)
    return None if to_hidden is None else to_hidden.to(hidden.dtype), to_weight, to_bias


def _float32_statistics(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    targets: Int[Tensor, " positions"],
    k: int,
    precision: Precision,
    block: int,
) -> HeadLoss:
    found = sweep(hidden, head, targets, k=k, precision=precision, block=block)
    nll, entropy, logsumexp = (
        column.masked_fill(~found.finite, torch.nan)
        for column in (found.nll, found.entropy, found.logsumexp)
    )
    return HeadLoss(nll, found.topk_values, found.topk_ids, entropy, logsumexp)


def _float64_statistics(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    targets: Int[Tensor, " positions"],
    k: int,
    block: int,
) -> HeadLoss:
    """The same statistics in plain float64 operations, so that gradients can be checked."""
    n, k = len(hidden), min(k, head.tokens)
    share, first, head = head.share, head.first, head.own
    values = hidden.new_full((n, k), -torch.inf)
    ids = torch.zeros_like(targets)[:, None].repeat(1, k)
    seen, parts = torch.zeros_like(hidden[:, 0]), []
    for start in range(0, head.vocab, block):
        span = torch.arange(start, min(start + block, head.vocab), device=hidden.device)
        logits = hidden @ head.weight[span].double().T
        apply_recipe(logits, head, None if head.bias is None else head.bias[span].double())
        if head.valid is not None:
            logits.masked_fill_(~head.valid[span], NEVER)
        order = torch.cat([values, logits], 1).sort(dim=1, descending=True, stable=True)
        ids = torch.cat([ids, (span + first).expand(n, -1)], 1).gather(1, order.indices[:, :k])
        values = order.values[:, :k]
        seen += torch.where(targets[:, None] == span + first, logits, 0.0).sum(1)
        parts.append(torch.stack([logits.logsumexp(1), (logits.softmax(1) * logits).sum(1)]))
    sums, means = torch.stack(parts, 2) if share is None else share.joined(torch.stack(parts, 2))
    if share is not None:
        values, ids = (torch.cat(share.peers.gather(own), 1) for own in (values, ids))
        order = values.sort(dim=1, descending=True, stable=True)
        values, ids = order.values[:, :k], ids.gather(1, order.indices[:, :k])
        seen = share.collected(targets, seen[share.owns(targets)])
    logsumexp = sums.logsumexp(1)
    entropy = logsumexp - ((sums - logsumexp[:, None]).exp() * means).sum(1)
    return HeadLoss(logsumexp - seen, values, ids, entropy, logsumexp)
