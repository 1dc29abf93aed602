"""The pass over the vocabulary against its peers and against the matrix product alone, in one run.

    python benchmarks/sweep.py                          # GPT-2 and Qwen3-0.6B shapes
    python benchmarks/sweep.py --shapes llama3 gemma3 --rows 256
    python benchmarks/sweep.py --shapes qwen3 --dtype bfloat16 --peers sweep float32 rounded
    python benchmarks/sweep.py --shapes qwen3 --rows 2048 --peers door cross_entropy
    python benchmarks/sweep.py --device cuda --dtype bfloat16 --shapes llama3 --rows 16384

Each measurement is a fresh process; the peers alternate. ``product`` is the roofline: the best
float32 product of the same matrices, nothing else. ``float32`` is the sweep whose products are of
float32 operands, beside ``sweep`` on bfloat16 ones. ``eager`` is the sweep by torch operations, as
it runs without a C++ compiler. ``rounded`` is the product in the operands' own dtype, which rounds
every logit. ``plain`` holds full float32 logits, as people write it; ``chunked`` does the same
statistics over blocks of rows. ``loss`` is torch's fused linear cross-entropy, which gives the loss
alone. ``door`` and ``cross_entropy`` are forward and backward: ``head_loss`` against
``cross_entropy(linear)``, gradients to hidden states and weight. ``liger`` and ``cut`` are the
fused losses of liger-kernel and cut-cross-entropy, on a GPU where they are installed. There
``product`` is the product in the operands' own dtype, and memory is the allocator's peak.
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

SHAPES = {
    "gpt2": (768, 50_257),
    "qwen3": (1_024, 151_936),
    "llama3": (4_096, 128_256),
    "gemma3": (1_152, 262_144),
}
PEERS = (
    "sweep",
    "eager",
    "float32",
    "product",
    "rounded",
    "plain",
    "chunked",
    "loss",
    "door",
    "cross_entropy",
    "liger",
    "cut",
)
USUAL = ["sweep", "product", "plain", "chunked", "loss"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["gpt2", "qwen3"])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=USUAL)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--times", type=int, default=5, help="repetitions in a process")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=PEERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given)))
        return
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for shape in given.shapes:
        runs = found.setdefault(shape, {peer: [] for peer in given.peers})
        for _ in range(given.repeats):
            for peer in given.peers:
                command = [sys.executable, __file__, "--child", peer, "--shapes", shape]
                command += ["--rows", str(given.rows), "--dtype", given.dtype]
                command += ["--times", str(given.times), "--device", given.device]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                runs[peer].append(json.loads(done.stdout.splitlines()[-1]))
        if not given.json:
            report(shape, given, runs)
    if given.json:
        print(json.dumps(found, indent=1))


def report(shape: str, given: argparse.Namespace, runs: dict[str, list[dict[str, float]]]) -> None:
    dim, vocab = SHAPES[shape]
    where = "" if given.device == "cpu" else f", {torch.cuda.get_device_name(given.device)}"
    print(f"{shape}: {given.rows} rows, head {vocab:,} x {dim:,}, {given.dtype}{where}")
    first = next(iter(runs))
    ours = statistics.median(run["ms"] for run in runs[first])
    for peer, some in runs.items():
        ms = statistics.median(run["ms"] for run in some)
        mib = statistics.median(run["added_mib"] for run in some)
        ratio = f"{ms / ours:>8.2f} x {first}'s time"
        rate = 2 * given.rows * dim * vocab / ms / 1e6
        print(f"  {peer:<14}{ms:>10.0f} ms{rate:>8.0f} GF/s{mib:>8.0f} MiB{ratio}")


def measure(given: argparse.Namespace) -> dict[str, float]:
    dim, vocab = SHAPES[given.shapes[0]]
    generator = torch.Generator().manual_seed(1)  # a probe's hidden states are those of seed 0
    weight = torch.randn(vocab, dim, generator=generator).mul_(dim**-0.5 * 3)
    weight = weight.to(getattr(torch, given.dtype))
    hidden = torch.randn(given.rows, dim, generator=generator).to(weight.dtype)
    targets = torch.randint(0, vocab, (given.rows,), generator=generator)
    weight, hidden, targets = (x.to(given.device) for x in (weight, hidden, targets))
    torch.set_grad_enabled(given.child in TRAINING)
    work, on_gpu = JOBS[given.child](hidden, weight, targets), given.device != "cpu"
    finish = torch.cuda.synchronize if on_gpu else lambda: None
    held = torch.cuda.memory_allocated() / 2**20 if on_gpu else resident_mib()
    times = []
    with PeakMemory() as peak:
        for _ in range(given.times + 1):
            finish()
            start = time.perf_counter()
            work()
            finish()
            times.append(time.perf_counter() - start)
    top = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak.mib
    return {"ms": 1e3 * statistics.median(times[1:]), "added_mib": top - held}


def swept(hidden: Any, weight: Any, targets: Any) -> Callable[[], Any]:
    from unembed.head.head import Head
    from unembed.head.precision import Precision
    from unembed.head.sweep import sweep

    head, precision = Head.from_parts(weight), Precision.probe(weight)
    return lambda: sweep(hidden, head, targets, k=5, precision=precision)


def eager(hidden: Any, weight: Any, targets: Any) -> Callable[[], Any]:
    from dataclasses import replace

    from unembed.head.head import Head
    from unembed.head.precision import Precision
    from unembed.head.sweep import sweep

    head, precision = Head.from_parts(weight), replace(Precision.probe(weight), epilogue="eager")
    return lambda: sweep(hidden, head, targets, k=5, precision=precision)


def float32(hidden: Any, weight: Any, targets: Any) -> Callable[[], Any]:
    from dataclasses import replace

    from unembed.head.head import Head
    from unembed.head.precision import Precision
    from unembed.head.sweep import sweep

    head, found = Head.from_parts(weight), Precision.probe(weight)
    precision = replace(found, route=found.float32_route)
    return lambda: sweep(hidden, head, targets, k=5, precision=precision)


def rounded(hidden: Any, weight: Any, targets: Any) -> Callable[[], Any]:
    whole = torch.empty(len(hidden), len(weight), dtype=weight.dtype, device=weight.device)
    return lambda: torch.mm(hidden, weight.T, out=whole)


def product(hidden: Any, weight: Any, targets: Any) -> Callable[[], Any]:
    """The faster of the wheel's two float32 products, over blocks and whole; on a GPU its own."""
    from unembed.head.product import float32_products

    if hidden.is_cuda:
        return rounded(hidden, weight, targets)
    hidden, weight = hidden.float(), weight.float()
    buffer = torch.empty(len(hidden), len(weight))

    def by(route: Any, block: int) -> Callable[[], None]:
        def run() -> None:
            with float32_products(route):
                for start in range(0, len(weight), block):
                    part = weight[start : start + block]
                    torch.mm(hidden, part.T, out=buffer[:, start : start + len(part)])

        return run

    candidates = [by(r, b) for r in ("ieee", "onednn") for b in (4096, len(weight))]
    return min(candidates, key=seconds)


def seconds(job: Callable[[], Any]) -> float:
    job()
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def plain(hidden: Any, weight: Any, targets: Any) -> Callable[[], Any]:
    return lambda: statistics_of(torch.nn.functional.linear(hidden, weight).float(), targets)


def chunked(hidden: Any, weight: Any, targets: Any) -> Callable[[], Any]:
    def run() -> None:
        for rows, some in zip(hidden.split(32), targets.split(32), strict=True):
            statistics_of(torch.nn.functional.linear(rows, weight).float(), some)

    return run


def statistics_of(logits: Any, targets: Any) -> tuple[Any, ...]:
    """Top-k, loss, entropy and rank, as one writes them with full logits."""
    log_p = logits.log_softmax(-1)
    own = logits.gather(1, targets[:, None])
    entropy = -(log_p.exp() * log_p).sum(-1)
    return logits.topk(5), -log_p.gather(1, targets[:, None]), entropy, (logits > own).sum(-1) + 1


def fused_loss(hidden: Any, weight: Any, targets: Any) -> Callable[[], Any]:
    function: Any = torch.nn.functional.linear_cross_entropy
    return lambda: function(hidden, weight, targets)


def door(hidden: Any, weight: Any, targets: Any) -> Callable[[], Any]:
    from unembed.head.head import Head
    from unembed.head.loss import head_loss
    from unembed.head.precision import Precision

    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    head, precision = Head.from_parts(weight), Precision.probe(weight)

    def run() -> None:
        hidden.grad = weight.grad = None
        head_loss(hidden, head, targets, precision=precision).nll.mean().backward()

    return run


def cross_entropy(hidden: Any, weight: Any, targets: Any) -> Callable[[], Any]:
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()

    def run() -> None:
        hidden.grad = weight.grad = None
        logits = torch.nn.functional.linear(hidden, weight).float()
        torch.nn.functional.cross_entropy(logits, targets).backward()

    return run


def liger(hidden: Any, weight: Any, targets: Any) -> Callable[[], Any]:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss, hidden, weight = LigerFusedLinearCrossEntropyLoss(), hidden, weight.requires_grad_()
    hidden.requires_grad_()
    return lambda: loss(weight, hidden, targets).backward()


def cut(hidden: Any, weight: Any, targets: Any) -> Callable[[], Any]:
    from cut_cross_entropy import linear_cross_entropy

    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    return lambda: linear_cross_entropy(hidden, weight, targets).backward()


TRAINING = ("door", "cross_entropy", "liger", "cut")
JOBS = {
    "sweep": swept,
    "eager": eager,
    "float32": float32,
    "product": product,
    "rounded": rounded,
    "plain": plain,
    "chunked": chunked,
    "loss": fused_loss,
    "door": door,
    "cross_entropy": cross_entropy,
    "liger": liger,
    "cut": cut,
}

if __name__ == "__main__":
    main()
