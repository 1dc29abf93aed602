"""Proof, at the lengths that a plan has, that a body answers as it does for a row alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unembed.errors import HeadError
from unembed.head.head import final_hidden, input_device
from unembed.head.held_rows import largest, peers_of
from unembed.head.product import Route, float32_products
from unembed.models.replicas import side_by_side
from unembed.short_repr import ShortRepr
from unembed.text.batches import BatchPlan, shortest_mixed
from unembed.text.windows import Windows

ROUNDING = 1e-4
"""Share of the hidden states' norm that sums in another order may move in float32."""

STEPS_MIXED, STEPS_REFUSED = 4, 8
"""The same in rounding steps of the model's dtype. A plan that mixes no lengths costs time alone;
a refusal has to be surer, for rounding may choose other experts in a mixture."""

SETTINGS_OF_A_CHOICE = ("index_topk", "index_topk_blocks", "indexer_budget")
"""Settings of attention that reads the positions of highest score alone."""


@dataclass(frozen=True)
class LengthProof(ShortRepr):
    """Whether rows of different length may share a batch, and what was read to prove it.

    ``hidden`` are the final hidden states of ``input_ids``, the plan's longest window alone, as a
    pass reads it: a block that holds nothing else need not be read again.
    """

    mixed: bool
    input_ids: Int[Tensor, "1 seq"]
    hidden: Float[Tensor, "1 seq dim"]

    def answer_to(self, input_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "1 seq dim"] | None:
        """The hidden states, where these are the inputs that they belong to."""
        return self.hidden if torch.equal(input_ids, self.input_ids) else None


def prove_lengths(
    models: Sequence[nn.Module],
    windows: Windows,
    plan: BatchPlan,
    route: Route,
    *,
    mix: bool = True,
) -> LengthProof:
    """Whether short rows may be padded to the length of long ones, as the plan would.

    Read are the plan's longest window, its first half alone, and alone the shortest prefix that the
    plan mixes with a longer row, by the ``models``, which are one with its copies, side by side.
    The half must be as it is within the whole, or as it is before other tokens in a second read of
    the whole. Bodies whose rotary factors switch with the length give the prefix other hidden
    states beside a long row than alone; then the plan must not mix. Nor may it for a body whose
    attention chooses positions by score: which of two equal ones it takes depends on the row's
    length, at some positions only, which no probe has to meet. Raises HeadError for a body that
    answers differently when asked twice, and for one that is not causal at that length.
    """
    model = models[0]
    peers = peers_of(model)
    name, longest = type(model).__name__, int((windows.length + windows.prefixed).argmax())
    inputs = windows.inputs(longest)[None]
    ids = inputs.to(input_device(model))
    length = ids.shape[1]
    half = length // 2
    short = shortest_mixed(windows, plan) if mix else None
    probe_short = short is not None and not _chooses_positions(model)

    def read(*rows: Int[Tensor, "1 _"]) -> list[Float[Tensor, "1 _ dim"]]:
        with float32_products(route):
            if len(models) == 1:
                return [_hidden(model, row) for row in rows]
            return list(side_by_side(models, _hidden, rows))

    def apart(one: Float[Tensor, "1 _ dim"], other: Float[Tensor, "1 _ dim"]) -> float:
        return largest(peers, _apart(one, other))[0]

    def refuse_random(tokens: Int[Tensor, "1 some"], before: Float[Tensor, "1 some dim"]) -> None:
        moved = apart(read(tokens)[0], before)
        if moved > _tolerance(model, STEPS_REFUSED):
            raise HeadError(
                f"{name} answers differently when asked twice ({tokens.shape[1]} tokens, hidden "
                f"states {moved:.1%} apart), so that no figure would be its own: give a model "
                "without random parts (LSH attention draws its hashes anew)"
            )

    def refuse_looking_ahead() -> None:
        changed = torch.cat([ids[:, :half], ids[:, half:].roll(1, 1)], 1)
        if not half or torch.equal(changed, ids):
            refuse_random(ids, whole)
            return
        moved = apart(read(changed)[0][:, :half], whole[:, :half])
        if moved > _tolerance(model, STEPS_REFUSED):
            refuse_random(ids, whole)
            raise HeadError(
                f"{name} is not causal at {length} tokens: changing later tokens moved earlier "
                f"hidden states by {moved:.1%}; give a causal language model, or a --context at "
                "which it is one"
            )

    begin = ids[:, : half or length]
    whole, alone, *prefix = read(ids, begin, *([ids[:, :short]] if probe_short else []))
    if apart(alone, whole[:, : half or length]) > _tolerance(model, STEPS_REFUSED):
        refuse_looking_ahead()
    mixed = mix and (short is None or probe_short)
    for row in prefix:
        if apart(whole[:, :short], row) > _tolerance(model, STEPS_MIXED):
            refuse_random(ids[:, :short], row)
            mixed = False
    return LengthProof(mixed, inputs, whole)


@torch.no_grad()
def _hidden(model: nn.Module, ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq dim"]:
    return final_hidden(model, ids)


def _chooses_positions(model: Any) -> bool:
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return any(getattr(text, name, None) is not None for name in SETTINGS_OF_A_CHOICE)


def _apart(one: Float[Tensor, "1 seq dim"], other: Float[Tensor, "1 seq dim"]) -> float:
    """Size of the difference in units of the second's; 0 where either is not finite."""
    one, other = one.float(), other.float()
    apart = float((one - other).norm() / other.norm())
    return apart if apart < float("inf") else 0.0


def _tolerance(model: nn.Module, steps: int) -> float:
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return max(ROUNDING, steps * max(torch.finfo(dtype).eps for dtype in dtypes))
