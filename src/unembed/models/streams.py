"""The states of a batch at several depths of a model, each also as the head would see it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unembed.head.head import input_device
from unembed.models.depths import Depths
from unembed.short_repr import ShortRepr
from unembed.text.batches import Batch


@dataclass(frozen=True)
class Streams(ShortRepr):
    """A batch's predictions, a row each: what the head reads, and states at the depths wanted.

    ``hidden`` is the head's input. ``states`` are the model's own at each depth: 0 what enters the
    first block, l the residual stream after block l. ``replayed`` is the tail's answer to them, the
    norm of each taken from that state itself; at the last depth it is ``hidden``.
    """

    hidden: Float[Tensor, "positions dim"]
    states: dict[int, Float[Tensor, "positions width"]]
    replayed: dict[int, Float[Tensor, "positions dim"]]

    @staticmethod
    def of(model: nn.Module, batch: Batch, depths: Depths, wanted: Collection[int]) -> Streams:
        """Read the batch once, block after block of it, and replay the tail on every state.

        Raises UnembedError for a depth that the model does not have.
        """
        depths.check(wanted)
        order = sorted(set(wanted))
        device = input_device(model)
        hidden: list[Tensor] = []
        states: dict[int, list[Tensor]] = {depth: [] for depth in order}
        replayed: dict[int, list[Tensor]] = {depth: [] for depth in order if depth < depths.blocks}
        for block in batch.blocks:
            ids, real = block.input_ids.to(device), block.real.to(device)
            final, found = depths.block_list.read(model, ids, order)
            hidden.append(final[real])
            for depth in order:
                state = found.pop(depth)
                states[depth].append(depths.block_list.by_position(state, real))
                if depth in replayed:
                    replayed[depth].append(depths.block_list.replay(model, ids, state)[real])
        whole = torch.cat(hidden)
        tails = {depth: torch.cat(rows) for depth, rows in replayed.items()}
        if depths.blocks in states:
            tails[depths.blocks] = whole
        return Streams(whole, {depth: torch.cat(rows) for depth, rows in states.items()}, tails)
