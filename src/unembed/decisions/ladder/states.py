"""The base's final hidden states of a text, kept on disk until every variant has read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.decisions.kept_states import PartFiles, keys_of
from unembed.head.sweep import Sweep
from unembed.text.batches import Batch


@dataclass(frozen=True)
class States:
    """What a divergence needs of the base at some positions, besides its head.

    ``key`` numbers the positions in order of the text. The others are the head's input and what the
    sweep found of its logits, as in ``Sweep``.
    """

    key: Int[Tensor, " positions"]
    hidden: Float[Tensor, "positions dim"]
    topk_values: Float[Tensor, "positions k"]
    topk_ids: Int[Tensor, "positions k"]
    logsumexp: Float[Tensor, " positions"]

    @staticmethod
    def of(hidden: Float[Tensor, "positions dim"], swept: Sweep, batch: Batch) -> States:
        """Those of a batch."""
        found = (hidden, swept.topk_values, swept.topk_ids.int(), swept.logsumexp)
        return States(torch.from_numpy(keys_of(batch)), *(one.cpu() for one in found))

    def rows(self, chosen: Int[Tensor, " chosen"], device: torch.device) -> States:
        """Those of some positions, on a device."""
        return States(*(one[chosen].to(device) for one in vars(self).values()))


@dataclass(frozen=True)
class KeptStates(PartFiles):
    """A folder with the states of each part of a text."""

    def write(self, part: str, pieces: Sequence[States]) -> None:
        """Write those of a part's batches, whole or not at all."""
        names = vars(pieces[0])
        whole = {name: torch.cat([getattr(one, name) for one in pieces]) for name in names}
        order = whole["key"].argsort()
        self.write_tensors(part, {name: one[order].contiguous() for name, one in whole.items()})

    @cached_property
    def _opened(self) -> tuple[Int[np.ndarray, " parts"], list[States]]:
        """Every part, mapped into memory, and the first position of each."""
        names = States.__dataclass_fields__
        found = [States(*self.tensors(part, names)) for part in sorted(self.parts)]
        return np.array([int(one.key[0]) for one in found]), found

    def of(self, batch: Batch, device: torch.device) -> States:
        """The states of a batch's positions, which lie in one part. Raises UnembedError."""
        first, parts = self._opened
        keys = keys_of(batch)
        number = int(np.searchsorted(first, keys.min(), side="right")) - 1
        here = parts[number].key.numpy()
        rows = np.searchsorted(here, keys).clip(max=len(here) - 1)
        if not np.array_equal(here[rows], keys):
            raise self.damaged(f"part {number}")
        return parts[number].rows(torch.from_numpy(rows), device)
