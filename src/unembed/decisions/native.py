"""The head in the checkpoint's own precision, on the same hidden states."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.head.head import Head

NATIVE_ROWS = 64


@dataclass(frozen=True)
class NativeDecisions:
    """Top-1, runner-up and margin of the native-precision head, and the spacing of its logits.

    ``rounding_step`` is the distance between neighbouring values of the native dtype at the top
    logit's magnitude: two logits closer than that cannot be told apart there.
    """

    top1: Int[Tensor, " positions"]
    top2: Int[Tensor, " positions"]
    margin: Float[Tensor, " positions"]
    rounding_step: Float[Tensor, " positions"]


@torch.no_grad()
def native_decisions(hidden: Float[Tensor, "positions dim"], head: Head) -> NativeDecisions:
    """What the head decides when its logits are rounded to the checkpoint's dtype.

    The product, the scale and the soft-cap are taken in the weight's dtype, as the model itself
    takes them; ties go to the lowest id. Source: theory §1.
    """
    found = [_decide(rows, head) for rows in hidden.to(head.weight.dtype).split(NATIVE_ROWS)]
    return NativeDecisions(*(torch.cat(column) for column in zip(*found, strict=True)))


def _decide(hidden: Tensor, head: Head) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    logits = torch.nn.functional.linear(hidden, head.weight, head.bias)
    if head.scale != 1.0:
        logits = logits * head.scale
    if head.softcap is not None:
        logits = torch.tanh(logits / head.softcap) * head.softcap
    if head.valid is not None:
        logits = logits.masked_fill(~head.valid, -torch.inf)
    first = logits.max(dim=1)
    second = logits.scatter(1, first.indices[:, None], -torch.inf).max(dim=1)
    margin = first.values.float() - second.values.float()
    size = first.values.float().abs().clamp_min(torch.finfo(logits.dtype).tiny)
    step = torch.exp2(torch.floor(torch.log2(size))) * torch.finfo(logits.dtype).eps
    return first.indices, second.indices, margin, step
