"""The rates of this machine for a model's shape, measured in a second or two."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from unembed.head.blocks import BLOCK, ROWS
from unembed.head.head import Head, faster_body_route, final_hidden
from unembed.head.precision import Precision
from unembed.head.product import (
    WIDE_BLOCK,
    WIDE_ROWS,
    float32_products,
    left_operand,
    multiply,
    right_operand,
)
from unembed.head.sweep import sweep
from unembed.models.checkpoint import automatic_class, quietly
from unembed.models.costs.devices import BATCH_TOKENS, Rates
from unembed.models.costs.model_work import ModelWork
from unembed.models.replicas import MOST_REPLICAS, replicas_of, side_by_side
from unembed.models.stored.one_block import with_blocks
from unembed.runs.provenance import describe_device

Worker = TypeVar("Worker")

MOST_NUMBERS = 80_000_000
"""Of a body that is made to be measured: of a larger one some blocks, or products alone."""
FEW_ROWS = 1024
"""Rows of the embedding of such a body."""
HEAD_ROWS = 16_384
"""Rows of a head that is measured; more take as long a row."""
LEAST_SECONDS = 0.4
"""Of each measurement."""
REPEATS = 3


def measured(
    work: ModelWork, config: Any, window: float, positions: int, device: torch.device
) -> Rates:
    """The rates of a device of this machine, at a model's own shapes with random numbers.

    ``positions`` are those that come to the head at once. A body larger than MOST_NUMBERS is made
    with fewer blocks, and one of whose blocks that holds for is taken by its products.
    """
    cpu = device.type == "cpu"
    rows = min(work.rows, HEAD_ROWS)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, work.width, generator=generator).to(device, work.dtype)
    head = Head.from_parts(weight)
    precision = Precision.probe(weight)
    hidden = torch.randn(positions, work.width, generator=generator).to(device, work.dtype)
    targets = torch.randint(rows, (positions,), generator=generator).to(device)
    threads = torch.get_num_threads()
    with quietly(), torch.no_grad():
        body, share = _some_of(work, config, device)
        route = "ieee" if body is None else faster_body_route(body, precision)
        parallel = cpu and route == precision.float32_route
        count = min(threads, MOST_REPLICAS) if parallel else 1
        workers: Sequence[Any] = [None] * count
        if body is not None:
            workers = replicas_of(body, count)
        height, width = (ROWS, BLOCK) if cpu else (WIDE_ROWS, WIDE_BLOCK)
        left = left_operand(hidden[:height], work.dtype, precision.route)
        right = right_operand(weight[: min(width, rows)], left)
        out = [torch.empty(len(left), len(right), device=device) for _ in range(count)]
        rooms = list(zip(workers, out, strict=True))

        def product(room: tuple[Any, Tensor]) -> None:
            multiply(left, right, precision.route, room[1])

        def swept(_worker: Any) -> None:
            sweep(hidden, head, targets, k=5, precision=precision)

        one = seconds_of(product, rooms, device) / (len(left) * len(right))
        whole = seconds_of(swept, workers, device) / positions
        with float32_products(route):
            token, block = _body_seconds(work, body, share, workers, window, device)
    product_of_all = min(one * rows, whole)
    return Rates(
        device=describe_device(device),
        body=token,
        body_block=block,
        product=product_of_all * work.rows / rows,
        statistics=(whole - product_of_all) * work.rows / rows,
        host=host_factor(),
        gpu=not cpu,
        measured=True,
        replicas=count,
        memory=None if cpu else float(torch.cuda.get_device_properties(device).total_memory),
        said=f"rates of this machine's {describe_device(device)}, measured just now by {threads} "
        f"thread{'s' * (threads > 1)}",
    )


def seconds_of(
    work: Callable[[Worker], object], workers: Sequence[Worker], device: torch.device
) -> float:
    """Seconds of one call where all workers call side by side, the median of a few rounds."""
    items = len(workers)

    def timed(count: int) -> float:
        begin = time.perf_counter()
        for _ in side_by_side(workers, lambda worker, _item: work(worker), range(count)):
            pass
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - begin) / count

    once = timed(items)
    calls = max(items, min(50 * items, round(LEAST_SECONDS / REPEATS / max(once, 1e-6))))
    calls = -(-calls // items) * items
    return statistics.median(timed(calls) for _ in range(REPEATS))


def _some_of(work: ModelWork, config: Any, device: torch.device) -> tuple[nn.Module | None, float]:
    """A body with random numbers, and how many times its work the whole one's is; None: too large.

    It has a short embedding and as many of the blocks as MOST_NUMBERS allow.
    """
    body = work.parameters - work.rows * work.width * (1 if work.tied else 2)
    layers = min(work.layers, int(MOST_NUMBERS / max(1.0, body / work.layers)))
    if layers < 1:
        return None, 1.0
    few = shortened(config, layers)
    try:
        own = ModelWork.of(work.name, few, str(work.dtype).removeprefix("torch."))
        model = automatic_class(few).from_config(few, dtype=work.dtype).to(device).eval()
    except Exception:  # what one architecture or other needs of a whole configuration
        return None, 1.0
    return model, work.flops / own.flops


def shortened(config: Any, blocks: int) -> Any:
    """A configuration with fewer blocks and a short embedding."""
    few = with_blocks(config, blocks)
    text = few.get_text_config()
    text.vocab_size = min(text.vocab_size, FEW_ROWS)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, None)
    return few


def _body_seconds(
    work: ModelWork,
    body: nn.Module | None,
    share: float,
    workers: Sequence[Any],
    window: float,
    device: torch.device,
) -> tuple[float, float]:
    """Seconds of a token of the body, and of a block, where all workers read side by side.

    By a block that is full and one of a quarter of its tokens; of products alone a block takes
    nothing.
    """
    full = 512 if device.type == "cpu" else BATCH_TOKENS
    if body is None:
        wide = min(4 * work.width, 16_384)
        states = torch.randn(512, work.width, device=device).to(work.dtype)
        weight = torch.randn(wide, work.width, device=device).to(work.dtype)
        seconds = seconds_of(lambda _none: states @ weight.T, workers, device)
        return work.body_flops(window) * seconds / (2.0 * 512 * work.width * wide), 0.0
    taken = []
    for tokens in (full, full // 4):
        length = min(max(2, round(window)), max(tokens, round(window) * tokens // full))
        ids = torch.arange(max(1, tokens // length) * length, device=device).view(-1, length)
        read = partial(_read, ids=ids % min(FEW_ROWS, work.rows))
        taken.append((ids.numel(), share * seconds_of(read, workers, device)))
    (many, long), (few, short) = taken
    token = min(long / many, (long - short) / (many - few))
    return token, long - many * token


def _read(model: nn.Module, ids: Tensor) -> Tensor:
    return final_hidden(model, ids)


FIXED_SECONDS = 0.018
"""What ``_fixed_work`` takes on the machine where the host's constants were fitted."""


def host_factor() -> float:
    """How many times as long as there Python and numpy take here for the same work."""
    return min(_fixed_work() for _ in range(5)) / FIXED_SECONDS


def _fixed_work() -> float:
    """Seconds of some sorting, hashing and looping, which do not go with threads."""
    begin = time.perf_counter()
    numbers = np.random.default_rng(0).standard_normal(200_000)
    for _ in range(3):
        np.sort(numbers)
    words: dict[str, int] = {}
    for i in range(60_000):
        words[f"token {i % 977}"] = words.get(f"token {i % 977}", 0) + i
    return time.perf_counter() - begin
