"""Proof, at the lengths that a plan has, that a body answers as it does for a row alone."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unembed.errors import HeadError
from unembed.head.head import final_hidden
from unembed.head.product import Route, float32_products
from unembed.text.batches import BatchPlan, mixed_lengths
from unembed.text.windows import Windows

ROUNDING = 1e-4
"""Share of the hidden states' norm that sums in another order may move in float32."""

STEPS_MIXED, STEPS_REFUSED = 4, 8
"""The same in rounding steps of the model's dtype. A plan that mixes no lengths costs time alone;
a refusal has to be surer, for rounding may choose other experts in a mixture."""

SETTINGS_OF_A_CHOICE = ("index_topk", "index_topk_blocks", "indexer_budget")
"""Settings of attention that reads the positions of highest score alone."""


@torch.no_grad()
def prove_lengths(
    model: nn.Module, windows: Windows, plan: BatchPlan, route: Route, *, mix: bool = True
) -> bool:
    """Whether short rows may be padded to the length of long ones, as the plan would.

    Read are the plan's longest window, the same with other tokens in its second half, and the
    shortest prefix that the plan mixes with a longer row, alone. Bodies whose rotary factors switch
    with the length give that prefix other hidden states beside a long row than alone; then the plan
    must not mix. Nor may it for a body whose attention chooses positions by score: which of two
    equal ones it takes depends on the row's length, at some positions only, which no probe has to
    meet. Raises HeadError for a body that answers differently when asked twice, and for one that is
    not causal at that length.
    """
    widths = windows.length + windows.prefixed
    longest = int(widths.argmax())
    device = next(model.parameters()).device
    ids = windows.inputs(longest).to(device)[None]
    name, length = type(model).__name__, ids.shape[1]

    def read(tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "seq dim"]:
        with float32_products(route):
            return final_hidden(model, tokens)[0].float()

    def refuse_random(tokens: Int[Tensor, "batch seq"], before: Float[Tensor, "seq dim"]) -> None:
        moved = _apart(read(tokens), before)
        if moved > _tolerance(model, STEPS_REFUSED):
            raise HeadError(
                f"{name} answers differently when asked twice ({tokens.shape[1]} tokens, hidden "
                f"states {moved:.1%} apart), so that no figure would be its own: give a model "
                "without random parts (LSH attention draws its hashes anew)"
            )

    whole, half = read(ids), length // 2
    changed = torch.cat([ids[:, :half], ids[:, half:].roll(1, 1)], 1)
    if half and not torch.equal(changed, ids):
        moved = _apart(read(changed)[:half], whole[:half])
        if moved > _tolerance(model, STEPS_REFUSED):
            refuse_random(ids, whole)
            raise HeadError(
                f"{name} is not causal at {length} tokens: changing later tokens moved earlier "
                f"hidden states by {moved:.1%}; give a causal language model, or a --context at "
                "which it is one"
            )
    else:
        refuse_random(ids, whole)
    if not mix:
        return False
    mixed = mixed_lengths(windows, plan)
    if mixed is None:
        return True
    if _chooses_positions(model):
        return False
    short, _long = mixed
    alone = read(ids[:, :short])
    if _apart(whole[:short], alone) <= _tolerance(model, STEPS_MIXED):
        return True
    refuse_random(ids[:, :short], alone)
    return False


def _chooses_positions(model: Any) -> bool:
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return any(getattr(text, name, None) is not None for name in SETTINGS_OF_A_CHOICE)


def _apart(one: Float[Tensor, "seq dim"], other: Float[Tensor, "seq dim"]) -> float:
    """Size of the difference in units of the second's; 0 where either is not finite."""
    apart = float((one - other).norm() / other.norm())
    return apart if apart < float("inf") else 0.0


def _tolerance(model: nn.Module, steps: int) -> float:
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return max(ROUNDING, steps * max(torch.finfo(dtype).eps for dtype in dtypes))
