"""Whether the memory of a comparison's head goes with the context: it must not.

    python benchmarks/head_memory.py
    python benchmarks/head_memory.py --contexts 512 131072 --width 64 --vocabulary 151936 --draft

A batch holds windows of 2,048 tokens in all, or one that is longer, whose hidden states come to
both heads at once. Each point is a fresh process on one thread: two random bfloat16 or float32
heads and the hidden states of both are there, then both sweeps, the columns of both audits,
divergences and, with ``--draft``, acceptance under T = 0.8 and top-p 0.95. ``added_mib`` is the
peak above that, ``results_mib`` what the columns themselves take, ``logits_mib`` what float16
logits of one model would, which other tools store of a window.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

BATCH_TOKENS = 2_048
"""Of a batch on CPU; a longer window is a batch of its own."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 131_072])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--draft", action="store_true")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measured(given.child, given)))
        return
    found = []
    for context in given.contexts:
        command = [sys.executable, __file__, *sys.argv[1:], "--child", str(context)]
        # Freed memory goes back to the system as in a run, see docs/decisions/measuring-memory.md.
        alone = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
        }
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=alone)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    print(json.dumps(found, indent=1))


def measured(context: int, given: argparse.Namespace) -> dict[str, float]:
    import torch

    from audit import PeakMemory, resident_mib
    from unembed.decisions.measure import ColumnChoice, columns_of
    from unembed.head.divergence import SweptModel, divergence
    from unembed.head.head import Head
    from unembed.head.precision import Precision
    from unembed.head.sampling import Sampling, acceptances
    from unembed.head.sweep import sweep

    torch.set_grad_enabled(False)
    generator = torch.Generator().manual_seed(1)
    dtype, vocabulary = getattr(torch, given.dtype), given.vocabulary
    positions = max(context, BATCH_TOKENS)

    def random(rows: int, size: float) -> torch.Tensor:
        return torch.randn(rows, given.width, generator=generator).mul_(size).to(dtype)

    weights = [random(vocabulary, 3 / given.width**0.5) for _ in range(2)]
    heads = [Head.from_parts(weight, None, 1.0, None, None) for weight in weights]
    precisions = [Precision.probe(head.weight) for head in heads]
    hidden = [random(positions, 1.0) for _ in heads]
    targets = torch.randint(0, vocabulary, (positions,), generator=generator)

    def work(rows: int) -> list[Any]:
        voices, found = [], []
        for states, head, precision in zip(hidden, heads, precisions, strict=True):
            states, own = states[:rows], targets[:rows]
            swept = sweep(states, head, own, k=5, precision=precision)
            found.append(columns_of(states, head, own, swept, ColumnChoice(), precision))
            voices.append(SweptModel(states, head, swept, precision))
        found.append(vars(divergence(*voices)))
        if given.draft:
            chances = acceptances(*voices, [Sampling(0.8, top_p=0.95)])
            found.append(dict(enumerate(chances)))
        return found

    work(64)  # loads the kernels
    held, start = resident_mib(), time.perf_counter()
    with PeakMemory() as peak:
        found = work(positions)
    results = sum(column.nbytes for columns in found for column in columns.values())
    return {
        "context": context,
        "positions": positions,
        "added_mib": round(peak.mib - held, 1),
        "results_mib": round(results / 2**20, 1),
        "hidden_mib": round(sum(one.nbytes for one in hidden) / 2**20, 1),
        "logits_mib": round(context * vocabulary * 2 / 2**20, 1),
        "seconds": round(time.perf_counter() - start, 1),
    }


if __name__ == "__main__":
    main()
