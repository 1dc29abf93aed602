"""What a penalty costs a training step at the head, beside cross-entropy alone and full logits.

    python benchmarks/refine.py                        # Qwen3-0.6B's head, 2,048 positions, float32
    python benchmarks/refine.py --shape gpt2 --rows 512 --peers ce fisher cosine --repeats 3
    python benchmarks/refine.py --device cuda --dtype bfloat16

Forward and backward, gradients to hidden states and weight; each measurement is a fresh process,
and the peers alternate. ``full`` is cross-entropy over all logits at once, as people write it; the
others go through ``head_loss`` and ``mean_loss``: ``ce`` alone, or with the penalty of that name,
at a weight, or with ``-share`` behind it by a share of the gradient.
Times are the process's median step; where other work runs, ``cpu_ms``, the time of all its threads,
is the steadier one, under OMP_NUM_THREADS=1 above all. Memory is the peak above hidden states,
weight and the weight's gradient, which every peer needs. Ratios are taken round by round.
``--json`` prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from audit import PeakMemory, resident_mib
from sweep import SHAPES

PENALTIES = ("margin", "fisher", "entropy", "cosine")
SHARED = tuple(f"{name}-share" for name in PENALTIES)
PEERS = ("ce", *PENALTIES, *SHARED, "full")
Runs = dict[str, list[dict[str, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="qwen3")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=["ce", "fisher", "full"])
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--times", type=int, default=2, help="steps timed in a process")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=PEERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given)))
        return
    runs: Runs = {peer: [] for peer in given.peers}
    for _ in range(given.repeats):
        for peer in given.peers:
            command = [sys.executable, __file__, "--child", peer, "--shape", given.shape]
            command += ["--rows", str(given.rows), "--dtype", given.dtype]
            command += ["--times", str(given.times), "--device", given.device]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs[peer].append(json.loads(done.stdout.splitlines()[-1]))
    report(given, runs)


def report(given: argparse.Namespace, runs: Runs) -> None:
    ratios = {
        f"{peer}/{base} {key}": [a[key] / b[key] for a, b in zip(some, runs[base], strict=True)]
        for key, base in (("ms", "ce"), ("cpu_ms", "ce"), ("added_mib", "full"))
        for peer, some in runs.items()
        if base in runs and peer != base
    }
    if given.json:
        print(json.dumps({"runs": runs, "ratios": ratios}, indent=1))
        return
    dim, vocab = SHAPES[given.shape]
    where = "" if given.device == "cpu" else f", {torch.cuda.get_device_name(given.device)}"
    print(f"{given.shape}: {given.rows} rows, head {vocab:,} x {dim:,}, {given.dtype}{where}")
    for peer, some in runs.items():
        ms, cpu, mib = (statistics.median(run[key] for run in some) for key in some[0])
        print(f"  {peer:<10}{ms:>10.0f} ms{cpu:>10.0f} CPU ms{mib:>8.0f} MiB")
    for name, some in ratios.items():
        shown = ", ".join(f"{ratio:.3f}" for ratio in some)
        print(f"  {name:<22}{statistics.median(some):>8.3f}  (round by round: {shown})")


def measure(given: argparse.Namespace) -> dict[str, float]:
    dim, vocab = SHAPES[given.shape]
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(vocab, dim, generator=generator).mul_(dim**-0.5 * 3)
    hidden = torch.randn(given.rows, dim, generator=generator)
    targets = torch.randint(0, vocab, (given.rows,), generator=generator).to(given.device)
    dtype = getattr(torch, given.dtype)
    weight, hidden = (x.to(given.device, dtype).requires_grad_() for x in (weight, hidden))
    loss = (
        full(hidden, weight, targets)
        if given.child == "full"
        else ours(given, hidden, weight, targets)
    )
    on_gpu = given.device != "cpu"
    finish = torch.cuda.synchronize if on_gpu else lambda: None
    held = torch.cuda.memory_allocated() / 2**20 if on_gpu else resident_mib()
    times, cpu_times = [], []
    with PeakMemory() as peak:
        for _ in range(given.times + 1):
            hidden.grad = weight.grad = None
            finish()
            start, cpu_start = time.perf_counter(), time.process_time()
            loss().backward()
            finish()
            times.append(time.perf_counter() - start)
            cpu_times.append(time.process_time() - cpu_start)
    top = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak.mib
    gradient = weight.numel() * weight.element_size() / 2**20
    ms, cpu_ms = (1e3 * statistics.median(some[1:]) for some in (times, cpu_times))
    return {"ms": ms, "cpu_ms": cpu_ms, "added_mib": top - held - gradient}


def full(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> Callable[[], torch.Tensor]:
    return lambda: torch.nn.functional.cross_entropy((hidden @ weight.T).float(), targets)


def ours(
    given: argparse.Namespace, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> Callable[[], torch.Tensor]:
    from unembed.head.head import Head
    from unembed.head.loss import head_loss
    from unembed.head.precision import Precision
    from unembed.training.recipe.objectives import Objective, mean_loss

    shared = given.child in SHARED
    objective = Objective("none" if given.child == "ce" else given.child.removesuffix("-share"))
    how: dict[str, Any] = {"gradient_share": 0.1, "at": hidden} if shared else {"weight": 0.6}
    head, precision = Head.from_parts(weight), Precision.probe(weight)
    k, cosines = objective.k_needed, objective.cosines_needed

    def loss() -> torch.Tensor:
        said = head_loss(hidden, head, targets, k, cosines=cosines, precision=precision)
        return mean_loss(said, objective, **how).total

    return loss


if __name__ == "__main__":
    main()
