"""The base's final hidden states of a text, kept on disk until every variant has read them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from unembed.errors import UnembedError
from unembed.head.sweep import Sweep
from unembed.runs.files import write_whole
from unembed.text.batches import Batch

SUFFIX = ".safetensors"


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


def keys_of(batch: Batch) -> Int[np.ndarray, " positions"]:
    """A number for each position of a batch, in order of the text."""
    found: Int[np.ndarray, " positions"] = batch.doc.astype(np.int64) << 32
    return found + batch.pos.astype(np.int64)


@dataclass(frozen=True)
class KeptStates:
    """A folder with the states of each part of a text."""

    folder: Path

    @property
    def parts(self) -> frozenset[str]:
        """The parts that are there."""
        return frozenset(path.stem for path in self.folder.glob(f"*{SUFFIX}"))

    def write(self, part: str, pieces: Sequence[States]) -> None:
        """Write those of a part's batches, whole or not at all."""
        names = vars(pieces[0])
        whole = {name: torch.cat([getattr(one, name) for one in pieces]) for name in names}
        order = whole["key"].argsort()
        data = save({name: one[order].contiguous() for name, one in whole.items()})
        write_whole(self.folder / f"{part}{SUFFIX}", data)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @cached_property
    def _opened(self) -> tuple[Int[np.ndarray, " parts"], list[States]]:
        """Every part, mapped into memory, and the first position of each."""
        found = []
        for part in sorted(self.parts):
            try:
                with safe_open(self.folder / f"{part}{SUFFIX}", "pt") as file:
                    names = States.__dataclass_fields__
                    found.append(States(*(file.get_tensor(name) for name in names)))
            except SafetensorError as error:
                raise self._damaged(part) from error
        return np.array([int(one.key[0]) for one in found]), found

    def of(self, batch: Batch, device: torch.device) -> States:
        """The states of a batch's positions, which lie in one part. Raises UnembedError."""
        first, parts = self._opened
        keys = keys_of(batch)
        number = int(np.searchsorted(first, keys.min(), side="right")) - 1
        here = parts[number].key.numpy()
        rows = np.searchsorted(here, keys).clip(max=len(here) - 1)
        if not np.array_equal(here[rows], keys):
            raise self._damaged(f"part {number}")
        return parts[number].rows(torch.from_numpy(rows), device)

    def _damaged(self, part: str) -> UnembedError:
        return UnembedError(
            f"{self.folder} lacks hidden states of the base ({part}): delete that folder, and "
            "repeat the same command"
        )
