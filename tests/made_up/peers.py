"""Threads of one process in the place of processes that hold a head between them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from unembed.head.head import Head
from unembed.head.peers import Peers, RowShare, added

Found = TypeVar("Found")


@dataclass
class _Meeting:
    """One thread works at a time, for what chooses a product is a setting of the whole process."""

    count: int
    barrier: threading.Barrier
    turn: threading.Lock = field(default_factory=threading.Lock)
    slots: dict[int, tuple[str, Tensor]] = field(default_factory=dict)

    def wait(self) -> None:
        self.turn.release()
        try:
            self.barrier.wait(20)
        finally:
            self.turn.acquire()


@dataclass(frozen=True)
class ThreadPeers:
    """A thread among others; that they all ask the same, in one order, is asserted."""

    place: int
    count: int
    meeting: _Meeting

    def gather(self, tensor: Tensor) -> list[Tensor]:
        return self._exchanged("gather", tensor)

    def sent(self, tensor: Tensor, place: int) -> Tensor:
        return self._exchanged(f"sent by {place}", tensor)[place]

    def total(self, tensor: Tensor) -> Tensor:
        return added(self._exchanged("total", tensor))

    def _exchanged(self, what: str, tensor: Tensor) -> list[Tensor]:
        self.meeting.slots[self.place] = (what, tensor.detach().clone())
        self.meeting.wait()
        every = [self.meeting.slots[place] for place in range(self.count)]
        kinds = {(name, one.shape, one.dtype) for name, one in every}
        self.meeting.wait()
        assert len(kinds) == 1, kinds
        return [one.clone() for _name, one in every]


def at_peers(count: int, work: Callable[[ThreadPeers], Found]) -> list[Found]:
    """What each of so many threads found, or the first error that one of them met."""
    meeting = _Meeting(count, threading.Barrier(count))

    def turn(place: int) -> Found:
        with meeting.turn:
            try:
                return work(ThreadPeers(place, count, meeting))
            except BaseException:
                meeting.barrier.abort()
                raise

    with ThreadPoolExecutor(count) as pool:
        begun = [pool.submit(turn, place) for place in range(count)]
    errors = [one.exception() for one in begun]
    for error in sorted(filter(None, errors), key=_is_of_another):
        raise error
    return [one.result() for one in begun]


def _is_of_another(error: BaseException) -> bool:
    return isinstance(error, threading.BrokenBarrierError)


def shared_head(head: Head, peers: Peers, counts: Sequence[int] | None = None) -> Head:
    """This peer's part of a whole head: so many rows each, as equal as can be where none are given.

    Its rows are copies, as those of a process of its own would be, and require what theirs do.
    """
    if counts is None:
        counts = [len(some) for some in torch.arange(head.vocab).tensor_split(peers.count)]
    share = RowShare.of(counts[peers.place], peers)
    held = slice(share.first, share.stop)

    def own(part: Tensor) -> Tensor:
        return part[held].detach().clone().requires_grad_(part.requires_grad)

    bias = None if head.bias is None else own(head.bias)
    return replace(head, weight=own(head.weight), bias=bias, share=share)
