"""Every depth of a model beside its last, against the bare products and the plain way, in one run.

    python benchmarks/layers.py                                   # 13 depths of GPT-2's shape
    python benchmarks/layers.py --shape qwen3 --depths 29 --rows 512 --peers ours product
    python benchmarks/layers.py --threads 2 --json layers.json

Each measurement is a fresh process; the peers alternate. ``product`` is the roofline: the best
float32 product of every depth's states with the head, 512 rows at a time, and nothing else.
``ours`` is ``sweep_beside_final``: of every depth the five largest logits, loss, rank, entropy and
logsumexp, and beside the last one KL, the sum of min(p, q) and the rank of the final token.
``plain`` is the same by full logits of a depth, as people write it; ``windows`` is that with 256
positions at a time. ``wide`` is ``ours`` for four times the positions, whose memory must be the
same. Seconds are of processors, by one thread, which a shared machine does not stretch; wall
seconds stand beside them. The bars: 75 % of the product's rate, 3 times the plain way's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from audit import PeakMemory, resident_mib
from sweep import SHAPES, product

TILE, WINDOW, TOP = 512, 256, 5
PEERS = ("ours", "product", "plain", "windows", "wide")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="gpt2")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--depths", type=int, default=13)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=PEERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given)))
        return
    runs = [{peer: child(given, peer) for peer in given.peers} for _ in range(given.repeats)]
    report(given, runs)
    if given.json:
        given.json.write_text(json.dumps({"given": vars(given) | {"json": None}, "runs": runs}))


def child(given: argparse.Namespace, peer: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", peer, "--shape", given.shape]
    for name in ("depths", "rows", "dtype", "threads"):
        command += [f"--{name}", str(getattr(given, name))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def report(given: argparse.Namespace, runs: list[dict[str, dict[str, float]]]) -> None:
    dim, vocab = SHAPES[given.shape]
    print(
        f"{given.shape}: {given.depths} depths of {given.rows} positions, head {vocab:,} x "
        f"{dim:,}, {given.dtype}, {given.threads} thread{'s' * (given.threads > 1)}"
    )
    for peer in given.peers:
        row = {key: statistics.median(run[peer][key] for run in runs) for key in runs[0][peer]}
        rate = 2e-9 * row["positions"] * given.depths * dim * vocab / row["cpu_seconds"]
        line = f"  {peer:<10}{row['cpu_seconds']:>8.2f} s{row['wall_seconds']:>8.2f} s wall"
        line += f"{rate:>6.0f} GF/s{row['added_mib']:>7.0f} MiB"
        for other, word in (("product", "of the product's rate"), ("ours", "x our time")):
            if other in runs[0] and other != peer:
                line += f"{ratio(runs, other, peer):>7.2f} {word}"
        print(line)


def ratio(runs: list[dict[str, dict[str, float]]], of: str, to: str) -> float:
    """Processor seconds a position of one to those of another, the median of the repeats'."""
    each = [
        {peer: run[peer]["cpu_seconds"] / run[peer]["positions"] for peer in (of, to)}
        for run in runs
    ]
    return statistics.median(
        one[of] / one[to] if of == "product" else one[to] / one[of] for one in each
    )


def measure(given: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(given.threads)
    torch.set_grad_enabled(False)
    dim, vocab = SHAPES[given.shape]
    rows = 4 * given.rows if given.child == "wide" else given.rows
    generator = torch.Generator().manual_seed(1)  # a probe's hidden states are those of seed 0
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    kind = getattr(torch, given.dtype)
    weight = draw(vocab, dim).mul_(dim**-0.5 * 3).to(kind)
    final = draw(rows, dim)
    far = [(given.depths - 1 - depth) / given.depths for depth in range(given.depths)]
    states = [((1 - x) * final + x * draw(rows, dim)).to(kind) for x in far]
    targets = torch.randint(0, vocab, (rows,), generator=generator)
    work, held = JOBS[given.child](states, weight, targets), resident_mib()
    with PeakMemory() as peak:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "added_mib": peak.mib - held,
        "positions": rows,
    }


def ours(states: list[Any], weight: Any, targets: Any) -> Callable[[], Any]:
    from unembed.head.beside_final import sweep_beside_final
    from unembed.head.head import Head
    from unembed.head.precision import Precision

    head, precision = Head.from_parts(weight), Precision.probe(weight)
    others = [lambda rows, some=some: some[rows] for some in states[:-1]]
    return lambda: sweep_beside_final(states[-1], others, head, targets, k=TOP, precision=precision)


def products(states: list[Any], weight: Any, targets: Any) -> Callable[[], Any]:
    tile = product(states[-1][:TILE], weight, targets[:TILE])

    def run() -> None:
        for _ in range(len(states) * -(-len(targets) // TILE)):
            tile()

    return run


def plain(states: list[Any], weight: Any, targets: Any) -> Callable[[], Any]:
    return lambda: beside_the_last(states, weight, targets)


def windows(states: list[Any], weight: Any, targets: Any) -> Callable[[], Any]:
    def run() -> list[Any]:
        return [
            beside_the_last([some[start : start + WINDOW] for some in states], weight, own)
            for start, own in zip(
                range(0, len(targets), WINDOW), targets.split(WINDOW), strict=True
            )
        ]

    return run


def beside_the_last(states: list[Any], weight: Any, targets: Any) -> list[tuple[Any, ...]]:
    """Every depth's statistics, as one writes them with full logits of a depth."""
    final = torch.nn.functional.linear(states[-1], weight).float()
    final_token, log_p = final.argmax(-1, keepdim=True), final.log_softmax(-1)
    found = []
    for some in states:
        logits = torch.nn.functional.linear(some, weight).float()
        log_q, own = logits.log_softmax(-1), logits.gather(1, targets[:, None])
        found.append(
            (
                logits.topk(TOP),
                -log_q.gather(1, targets[:, None]),
                -(log_q.exp() * log_q).sum(-1),
                (logits > own).sum(-1) + 1,
                (logits > logits.gather(1, final_token)).sum(-1) + 1,
                (log_p.exp() * (log_p - log_q)).sum(-1),
                torch.minimum(log_p, log_q).exp().sum(-1),
            )
        )
    return found


JOBS = {"ours": ours, "product": products, "plain": plain, "windows": windows, "wide": ours}

if __name__ == "__main__":
    main()
