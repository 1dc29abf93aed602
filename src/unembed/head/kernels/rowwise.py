"""The block's statistics in one Triton kernel, a program for each row of a block on a GPU."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from unembed.head.kernels import eager
from unembed.head.kernels.running import LOG2_E, SEGMENT, Running

LARGEST_K = 64
"""The largest k that a program keeps next to its sums; above, torch operations take the top-k."""


@cache
def available(device: torch.device) -> bool:
    """Whether the kernel compiles and runs on this device."""
    try:
        zeros = torch.zeros(1, SEGMENT, dtype=torch.float32, device=device)
        running = Running.of(zeros[0, :1].long(), zeros[0, :1], 2, SEGMENT, zeros[0, :1])
        update(running, zeros, 0)
        return running.near.tolist() == [SEGMENT]
    except Exception:  # no compiler, driver or support for the GPU: each fails in its own way
        return False


def update(running: Running, logits: Float[Tensor, "rows block"], start: int) -> None:
    """Take in a block of logits. See ``running.Update``."""
    rows, width = logits.shape
    _, height, parts = running.sums.shape
    if height != rows or running.sums.stride(2) != 1 or logits.stride(1) != 1:
        raise ValueError("running and logits must hold the same rows, their columns adjacent")
    k = running.values.shape[1]
    with torch.cuda.device_of(logits):
        _kernel[(rows,)](
            logits,
            logits.stride(0),
            start,
            width,
            running.targets,
            running.threshold,
            running.threshold if running.tolerance is None else running.tolerance,
            running.values,
            running.ids,
            k,
            running.larger,
            running.near,
            running.seen,
            running.sums,
            running.sums.stride(0),
            parts,
            SEGMENT=SEGMENT,
            LOG2_E=LOG2_E,
            SLOTS=max(2, triton.next_power_of_2(min(k, LARGEST_K))),
            TOPK=k <= LARGEST_K,
            NEAR=running.tolerance is not None,
            num_warps=4,
            enable_fp_fusion=False,
        )
    if k > LARGEST_K:
        peaks = logits.view(rows, -1, eager.GROUP).amax(-1)
        eager.keep_topk(logits, peaks, start, running.values, running.ids)


def _rows(  # type: ignore[no-untyped-def]  # Triton reads annotations as its own
    logits,
    stride,
    start,
    width,
    targets,
    threshold,
    tolerance,
    values,
    ids,
    k,
    larger,
    near,
    seen,
    sums,
    plane,
    parts,
    SEGMENT: tl.constexpr,
    LOG2_E: tl.constexpr,
    SLOTS: tl.constexpr,
    TOPK: tl.constexpr,
    NEAR: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    local = tl.load(targets + row) - start
    inside = (local >= 0) & (local < width)
    tl.store(seen + row, tl.load(logits + local, mask=inside, other=0.0), mask=inside)
    bar = tl.load(threshold + row)
    slack = tl.load(tolerance + row)
    above = tl.load(larger + row)
    close = tl.load(near + row)
    column = tl.arange(0, SEGMENT)
    # The k best so far are kept in no order; slots past k hold infinity, which nothing displaces.
    slot = tl.arange(0, SLOTS)
    used = slot < k
    best = tl.load(values + row * k + slot, mask=used, other=float("inf"))
    best_id = tl.load(ids + row * k + slot, mask=used, other=0)
    worst = tl.min(best, 0)
    out = sums + row * parts + start // SEGMENT
    for first in range(0, width, SEGMENT):
        x = tl.load(logits + first + column)
        above += tl.sum((x > bar).to(tl.int64), 0)
        if NEAR:
            close += tl.sum((tl.abs(x - bar) <= slack).to(tl.int64), 0)
        peak = tl.max(x, 0)
        power = (x - peak) * LOG2_E
        e = tl.exp2(power)
        part = out + first // SEGMENT
        tl.store(part, peak)
        part += plane
        tl.store(part, tl.sum(e, 0))
        part += plane
        tl.store(part, tl.sum(power * e, 0))
        part += plane
        tl.store(part, tl.sum(e * e, 0))
        if TOPK:
            top = peak
            while top > worst:
                at = tl.min(tl.where(x == top, column, SEGMENT), 0)
                lowest = best == worst
                last = tl.max(tl.where(lowest, best_id, -1), 0)
                place = tl.max(tl.where(lowest & (best_id == last), slot, -1), 0)
                best = tl.where(slot == place, top, best)
                best_id = tl.where(slot == place, (start + first + at).to(tl.int64), best_id)
                x = tl.where(column == at, float("-inf"), x)
                worst = tl.min(best, 0)
                top = tl.max(x, 0)
    tl.store(larger + row, above)
    tl.store(near + row, close)
    if TOPK:
        same = best[None, :] == best[:, None]
        earlier = (best_id[None, :] < best_id[:, None]) | (
            (best_id[None, :] == best_id[:, None]) & (slot[None, :] < slot[:, None])
        )
        before = ((best[None, :] > best[:, None]) | (same & earlier)) & used[None, :]
        order = tl.sum(before.to(tl.int32), 1)
        tl.store(values + row * k + order, best, mask=used)
        tl.store(ids + row * k + order, best_id, mask=used)


# Unwrapped, because Triton reads the source and the globals of the function that it is given, and
# a checker of annotations may have put its own around it.
_kernel: Any = triton.jit(inspect.unwrap(_rows))
