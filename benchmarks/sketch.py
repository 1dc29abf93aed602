"""What the sketch of head Fishers adds to the pass over the vocabulary, beside the literal way.

    python benchmarks/sketch.py                                  # 128,256 x 1,024, 512 positions
    OMP_NUM_THREADS=1 python benchmarks/sketch.py --repeats 7    # one thread
    python benchmarks/sketch.py --vocab 50257 --dim 768 --peers without with literal
    python benchmarks/sketch.py --device cuda --rows 8192

Each measurement is a fresh process, and the peers alternate. ``without`` is an audit's pass, with
the five largest logits; the others give its numbers too. ``with`` adds the features of the
empirical Fisher by the default construction, ``with_true`` of the true one, ``eager`` by torch
operations alone, and ``tensorsketch``, ``srht`` and the like by those constructions. ``literal`` is
what the formula says, 64 positions at a time: all logits, softmax, the error, its signs, two fast
Walsh-Hadamard transforms of the padded vocabulary, the rows picked, and on the activation's side a
dense matrix of signs; it gives nothing of an audit. Times are the process's median; where other
work runs, ``cpu_ms``, the time of all its threads, is the steadier one, under OMP_NUM_THREADS=1
above all. Memory is the peak above hidden states, weight and sketch, the features themselves
counted. Ratios are taken round by round. ``--json`` prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from audit import PeakMemory, resident_mib

PEERS = (
    "without",
    "with",
    "with_true",
    "eager",
    "literal",
    "tensorsketch",
    "srht",
    "complex_srht",
    "dense",
)
LITERAL_ROWS = 64
Runs = dict[str, list[dict[str, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab", type=int, default=128_256)
    parser.add_argument("--dim", type=int, default=1_024)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--m", type=int, default=4_096)
    usual = ["without", "with", "with_true", "literal", "srht"]
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=usual)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--times", type=int, default=3, help="passes timed in a process")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=PEERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given)))
        return
    runs: Runs = {peer: [] for peer in given.peers}
    for _ in range(given.repeats):
        for peer in given.peers:
            command = [sys.executable, __file__, "--child", peer]
            for name in ("vocab", "dim", "rows", "m", "dtype", "device", "times"):
                command += [f"--{name}", str(getattr(given, name))]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs[peer].append(json.loads(done.stdout.splitlines()[-1]))
    report(given, runs)


def report(given: argparse.Namespace, runs: Runs) -> None:
    ratios = {
        f"{peer}/{base} {key}": [a[key] / b[key] for a, b in zip(some, runs[base], strict=True)]
        for key in ("ms", "cpu_ms")
        for base in ("without", "literal")
        for peer, some in runs.items()
        if base in runs and peer not in ("without", base)
    }
    if given.json:
        print(json.dumps({"runs": runs, "ratios": ratios}, indent=1))
        return
    where = "" if given.device == "cpu" else f", {torch.cuda.get_device_name(given.device)}"
    size = f"head {given.vocab:,} x {given.dim:,}, {given.dtype}, m = {given.m:,}"
    print(f"{given.rows} positions, {size}, {torch.get_num_threads()} threads{where}")
    for peer, some in runs.items():
        ms, cpu, mib = (statistics.median(run[key] for run in some) for key in some[0])
        print(f"  {peer:<14}{ms:>10.0f} ms{cpu:>10.0f} CPU ms{mib:>8.0f} MiB")
    for name, some in ratios.items():
        shown = ", ".join(f"{ratio:.3f}" for ratio in some)
        print(f"  {name:<28}{statistics.median(some):>8.3f}  (round by round: {shown})")


def measure(given: argparse.Namespace) -> dict[str, float]:
    vocab, dim = given.vocab, given.dim
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(vocab, dim, generator=generator).mul_(dim**-0.5 * 3)
    hidden = torch.randn(given.rows, dim, generator=generator)
    targets = torch.randint(0, vocab, (given.rows,), generator=generator).to(given.device)
    dtype = getattr(torch, given.dtype)
    weight, hidden = (x.to(given.device, dtype) for x in (weight, hidden))
    work = job(given, hidden, weight, targets)
    on_gpu = given.device != "cpu"
    finish = torch.cuda.synchronize if on_gpu else lambda: None
    held = torch.cuda.memory_allocated() / 2**20 if on_gpu else resident_mib()
    times, cpu_times = [], []
    with PeakMemory() as peak:
        for _ in range(given.times + 1):
            finish()
            start, cpu_start = time.perf_counter(), time.process_time()
            work()
            finish()
            times.append(time.perf_counter() - start)
            cpu_times.append(time.process_time() - cpu_start)
    top = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak.mib
    ms, cpu_ms = (1e3 * statistics.median(some[1:]) for some in (times, cpu_times))
    return {"ms": ms, "cpu_ms": cpu_ms, "added_mib": top - held}


@torch.no_grad()
def job(
    given: argparse.Namespace, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> Callable[[], Any]:
    from unembed.head.head import Head
    from unembed.head.precision import Precision
    from unembed.head.sweep import sweep
    from unembed.signatures.reading.features import features
    from unembed.signatures.sketches.constructions import sketch_of
    from unembed.signatures.sketches.sketch import SketchSpec

    head, precision = Head.from_parts(weight), Precision.probe(weight)
    if given.child == "eager":
        precision = replace(precision, epilogue="eager")

    def without() -> Any:
        return sweep(hidden, head, targets, k=5, precision=precision)

    if given.child == "without":
        return without
    if given.child == "literal":
        return literal(hidden, weight, targets, given.m)
    known = ("tensorsketch", "srht", "complex_srht", "dense")
    construction: Any = given.child if given.child in known else "complex_tensorsketch"
    spec = SketchSpec(head.vocab, head.dim, construction, given.m)
    sketch = sketch_of(spec, weight.device)
    fisher: Any = "true" if given.child == "with_true" else "empirical"
    return lambda: features(hidden, head, targets, sketch, fisher=fisher, precision=precision, k=5)


def literal(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, m: int
) -> Callable[[], torch.Tensor]:
    from unembed.signatures.sketches.hadamard import fwht

    vocab, dim = weight.shape
    padded = 1 << (vocab - 1).bit_length()
    generator = torch.Generator().manual_seed(1)

    def signs(*shape: int) -> torch.Tensor:
        drawn = torch.randint(0, 2, shape, generator=generator).to(weight.device)
        return drawn.float().mul_(2).sub_(1)

    picked = [torch.randperm(padded, generator=generator)[:m].to(weight.device) for _ in range(2)]
    diagonals = [signs(vocab) for _ in range(2)]
    dense = [signs(m, dim) for _ in range(2)]
    out = torch.empty(len(hidden), m, device=weight.device)

    def run() -> torch.Tensor:
        for top in range(0, len(hidden), LITERAL_ROWS):
            rows = slice(top, top + LITERAL_ROWS)
            error = (hidden[rows] @ weight.T).float().softmax(1)
            error[torch.arange(len(error), device=error.device), targets[rows]] -= 1
            made = torch.ones(len(error), m, device=error.device)
            for diagonal, at, side in zip(diagonals, picked, dense, strict=True):
                x = torch.nn.functional.pad(error * diagonal, (0, padded - vocab))
                made *= fwht(x)[:, at]
                made *= hidden[rows].float() @ side.T
            out[rows] = made
        return out

    return run


if __name__ == "__main__":
    main()
