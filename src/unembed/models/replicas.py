"""Batches side by side: on a CPU each core, up to eight, with its own copy of the model's modules.

A core that takes whole batches never waits for another one at the end of an operation; with small
models, or cores that share their machine, such waits take half of the time. The result of a batch
is also the same on any number of cores up to that.
"""

from __future__ import annotations

import copy
import ctypes
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

import torch
from torch import nn

Worker = TypeVar("Worker")
Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_REPLICAS = 8
"""Batches at a time, as each holds its own activations; more cores share a batch."""


def replicas_of(model: nn.Module, count: int) -> list[nn.Module]:
    """The model and ``count - 1`` copies: their modules and buffers are their own, so that forward
    passes cannot meet in them, and the parameters are shared.

    The model alone where it cannot be copied, or where another function was put in the place of a
    module's own, as tensor parallelism and offloading do: a copy would call the first one's.
    """
    if any("forward" in vars(module) for module in model.modules()):
        return [model]
    shared: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    try:
        return [model, *(copy.deepcopy(model, dict(shared)) for _ in range(count - 1))]
    except (TypeError, RuntimeError, NotImplementedError):
        return [model]


def side_by_side(
    workers: Sequence[Worker], work: Callable[[Worker, Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """``work(worker, item)`` for every item, in the items' order, one at a time for each worker.

    A worker is a model, or several that belong together. Torch's threads are shared out among the
    workers. The next items are worked on while the caller uses a result, a few ahead of it.
    """
    free: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)
    threads = torch.get_num_threads()
    each = max(1, threads // len(workers))

    def one(item: Item) -> Result:
        worker = free.get()
        try:
            return work(worker, item)
        finally:
            free.put(worker)

    _give_large_blocks_back()
    pool = ThreadPoolExecutor(len(workers), "batch", torch.set_num_threads, (each,))
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(one, item))
            if len(waiting) > 2 * len(workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


@contextmanager
def single_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads in each of which torch takes one core.

    What each of them makes has the same bits whatever their number, which a product or a sum that
    several cores share need not have.
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "single", torch.set_num_threads, (1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _give_large_blocks_back() -> None:
    """Have glibc return blocks over 4 MiB to the system when they are freed.

    Otherwise it raises that bound by itself, and each thread's arena keeps the tensors that it
    frees: 500 MiB more for two threads at GPT-2's width, and no time saved.
    """
    m_mmap_threshold = -3
    try:
        ctypes.CDLL(None).mallopt(m_mmap_threshold, 4 << 20)
    except (OSError, TypeError, AttributeError):
        return  # not glibc
