"""Processes that hold one head between them: who has which rows, and what they tell each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from unembed.errors import HeadError
from unembed.short_repr import ShortRepr

CHUNK = 16 << 20
"""Bytes of rows that one peer sends the others at a time."""


@runtime_checkable
class Peers(Protocol):
    """Those that hold the other rows.

    Every call is made by all of them, in one order, with tensors of one shape and dtype.
    """

    @property
    def place(self) -> int:
        """Which of them this is, from 0."""
        ...

    @property
    def count(self) -> int:
        """How many they are."""
        ...

    def gather(self, tensor: Shaped[Tensor, "..."]) -> list[Tensor]:
        """Every peer's tensor, in order of their places."""
        ...

    def sent(self, tensor: Shaped[Tensor, "..."], place: int) -> Tensor:
        """The tensor of the peer at this place."""
        ...

    def total(self, tensor: Shaped[Tensor, "..."]) -> Tensor:
        """Every peer's tensor, added in order of their places: the same bits on every peer."""
        ...


def added(tensors: list[Tensor]) -> Tensor:
    """Their sum, in their order."""
    whole, *others = tensors
    for other in others:
        whole = whole + other
    return whole


@dataclass(frozen=True)
class ProcessGroupPeers(ShortRepr):
    """The processes of a ``torch.distributed`` group; what they send travels as plain bytes.

    ``device`` is where the group's backend takes tensors from.
    """

    place: int
    count: int
    device: torch.device
    group: Any = None

    @staticmethod
    def of(group: Any = None) -> ProcessGroupPeers:
        """The processes of this group; of None all, or this one alone where there is no group."""
        from torch import distributed

        if group is None and not distributed.is_initialized():
            return ProcessGroupPeers(0, 1, torch.device("cpu"))
        on_gpu = distributed.get_backend(group) == "nccl"
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else "cpu"
        return ProcessGroupPeers(
            distributed.get_rank(group),
            distributed.get_world_size(group),
            torch.device(device),
            group,
        )

    def gather(self, tensor: Shaped[Tensor, "..."]) -> list[Tensor]:
        """Every peer's tensor, in order of their places."""
        from torch import distributed

        if self.count == 1:
            return [tensor.detach().clone()]
        own = self._as_bytes(tensor)
        every = [torch.empty_like(own) for _ in range(self.count)]
        distributed.all_gather(every, own, group=self.group)
        return [self._as_given(one, tensor) for one in every]

    def sent(self, tensor: Shaped[Tensor, "..."], place: int) -> Tensor:
        """The tensor of the peer at this place."""
        from torch import distributed

        if self.count == 1:
            return tensor.detach().clone()
        held = self._as_bytes(tensor).clone()
        distributed.broadcast(held, group_src=place, group=self.group)
        return self._as_given(held, tensor)

    def total(self, tensor: Shaped[Tensor, "..."]) -> Tensor:
        """Every peer's tensor, added in order of their places: the same bits on every peer."""
        return added(self.gather(tensor))

    def _as_bytes(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, " bytes"]:
        return tensor.detach().to(self.device).contiguous().view(-1).view(torch.uint8)

    def _as_given(self, raw: Shaped[Tensor, " bytes"], like: Shaped[Tensor, "..."]) -> Tensor:
        return raw.view(like.dtype).view(like.shape).to(like.device)


@dataclass(frozen=True)
class RowShare(ShortRepr):
    """Which rows of a head each peer holds: ``counts`` of them, one after the other."""

    counts: tuple[int, ...]
    peers: Peers

    @staticmethod
    def of(rows: int, peers: Peers) -> RowShare:
        """For a peer that holds so many rows, after those of the peers before it.

        Raises HeadError, on all peers alike, where one of them holds none.
        """
        told = peers.gather(torch.tensor([rows], dtype=torch.long))
        counts = tuple(int(count) for count in told)
        if min(counts) < 1:
            raise HeadError(
                f"process {counts.index(min(counts))} of {peers.count} would hold no row of a head "
                f"of {sum(counts)}: share it among fewer"
            )
        return RowShare(counts, peers)

    @property
    def first(self) -> int:
        """The id of the first row that is held here."""
        return sum(self.counts[: self.peers.place])

    @property
    def stop(self) -> int:
        """The id after the last row that is held here."""
        return self.first + self.counts[self.peers.place]

    @property
    def rows(self) -> int:
        """Rows of the whole head."""
        return sum(self.counts)

    def owns(self, ids: Int[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """Which of these ids are rows that are held here."""
        return (ids >= self.first) & (ids < self.stop)

    def local(self, ids: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The rows of these ids among those that are held here, -1 for others."""
        return torch.where(self.owns(ids), ids - self.first, -1)

    def collected(
        self, ids: Int[Tensor, " ids"], own: Shaped[Tensor, "held ..."]
    ) -> Shaped[Tensor, "ids ..."]:
        """A value of each id, of which every peer gives those of the rows that it holds, in order.

        Equivalent to ``values[ids]`` where ``own = values[ids[self.owns(ids)]]``.
        """
        if not len(ids):
            return own.new_empty((0, *own.shape[1:]))
        ends = torch.tensor(self.counts, device=ids.device).cumsum(0)
        owners = torch.bucketize(ids.contiguous(), ends, right=True)
        numbers = torch.bincount(owners, minlength=len(self.counts)).tolist()
        padded = own.new_zeros((max(numbers, default=0), *own.shape[1:]))
        padded[: len(own)] = own
        found = own.new_empty((len(ids), *own.shape[1:]))
        for place, theirs in enumerate(self.peers.gather(padded)):
            found[owners == place] = theirs[: numbers[place]]
        return found

    def joined(self, own: Shaped[Tensor, "*shape columns"]) -> Shaped[Tensor, "*shape all"]:
        """Every peer's columns, side by side; each may have another number of them."""
        told = self.peers.gather(torch.tensor([own.shape[-1]], dtype=torch.long))
        widths = [int(width) for width in told]
        padded = torch.nn.functional.pad(own, (0, max(widths) - own.shape[-1]))
        every = self.peers.gather(padded)
        return torch.cat([one[..., :n] for one, n in zip(every, widths, strict=True)], -1)

    def in_order(self, rows: Shaped[Tensor, "held ..."]) -> Iterator[Tensor]:
        """All rows of which every peer gives its own, some at a time, in order of their ids."""
        step = max(1, CHUNK // max(1, rows[:1].numel() * rows.element_size()))
        for place, count in enumerate(self.counts):
            for start in range(0, count, step):
                height = min(step, count - start)
                own = place == self.peers.place
                yield self.peers.sent(
                    rows[start : start + height]
                    if own
                    else rows.new_empty(height, *rows.shape[1:]),
                    place,
                )
