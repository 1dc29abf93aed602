"""Time and memory of a sweep whose rows several processes hold, against how many they are.

    python benchmarks/shared_rows.py
    python benchmarks/shared_rows.py --shares 1 2 4 --vocabulary 151936 --width 1024 --work audit
    python benchmarks/shared_rows.py --device cuda --dtype bfloat16 --positions 16384

Each point is a launch of fresh processes on one thread each, over gloo, every one with its own rows
of one head of random numbers alone. ``seconds`` is the time of the slowest process, the least of
the rounds; ``busy_seconds`` what its processor worked in it, which cores shared with other work do
not stretch; ``exchange_seconds`` what exchanging took, waiting for others included, and
``received_mib`` what came from them. ``rows_mib`` are the rows that a process holds, and
``added_mib`` its peak above them and the hidden states, the largest of any process. ``same`` says
that ids and ranks are those of one process, and ``off`` how far the losses are from its.
``--work`` is the ``sweep`` alone, the columns of an ``audit`` with facets, the ``loss`` with its
gradients, or a ``sketch``. On CUDA each process takes a GPU, over NCCL, or all take the only one,
over gloo, and memory is the allocator's; that has not been tried.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

ROWS_A_SEED = 512
WORK = ("sweep", "audit", "loss", "sketch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shares", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--width", type=int, default=1_024)
    parser.add_argument("--positions", type=int, default=1_024)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--work", choices=WORK, default="sweep")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        measure(given)
        return
    found: list[dict[str, Any]] = []
    for share in given.shares:
        launch = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(share))
        # Freed memory goes back to the system as in a run, see docs/decisions/measuring-memory.md.
        env = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(4 << 20)}
        command = [sys.executable, "-m", *launch, __file__, *sys.argv[1:], "--child"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=env)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    digest, nll = found[0]["digest"], found[0]["nll"]
    for one in found:
        one["same"] = one.pop("digest") == digest
        one["off"] = max(abs(a - b) for a, b in zip(one.pop("nll"), nll, strict=True))
    print(json.dumps(found, indent=1))


@dataclass
class Timed:
    """Peers whose exchanges are timed and weighed."""

    peers: Any
    seconds: float = 0.0
    received: int = 0
    place: int = field(init=False)
    count: int = field(init=False)

    def __post_init__(self) -> None:
        self.place, self.count = self.peers.place, self.peers.count

    def _timed(self, ask: Any, tensor: Any, *given: Any) -> Any:
        start = time.perf_counter()
        found = ask(tensor, *given)
        self.seconds += time.perf_counter() - start
        self.received += tensor.nbytes * (self.count - 1)
        return found

    def gather(self, tensor: Any) -> Any:
        return self._timed(self.peers.gather, tensor)

    def total(self, tensor: Any) -> Any:
        return self._timed(self.peers.total, tensor)

    def sent(self, tensor: Any, place: int) -> Any:
        return self._timed(self.peers.sent, tensor, place)


def measure(given: argparse.Namespace) -> None:
    import hashlib

    import torch
    from torch import distributed

    from audit import PeakMemory, resident_mib
    from unembed.decisions.measure import ColumnChoice
    from unembed.decisions.measure import measure as columns_of_audit
    from unembed.head.head import Head
    from unembed.head.kernels.running import SEGMENT
    from unembed.head.loss import head_loss
    from unembed.head.peers import ProcessGroupPeers, RowShare
    from unembed.head.sweep import sweep
    from unembed.signatures.reading.features import features
    from unembed.signatures.sketches.constructions import sketch_of
    from unembed.signatures.sketches.sketch import SketchSpec

    gpus = torch.cuda.device_count() if given.device == "cuda" else 0
    place = int(os.environ["RANK"])
    device = torch.device("cuda", place % gpus) if gpus else torch.device(given.device)
    if gpus:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if 1 < int(os.environ["WORLD_SIZE"]) <= gpus else "gloo")
    peers = Timed(ProcessGroupPeers.of())
    count = peers.count
    dtype, vocabulary = getattr(torch, given.dtype), given.vocabulary
    height = -(-vocabulary // (SEGMENT * count)) * SEGMENT
    held = range(min(vocabulary, place * height), min(vocabulary, (place + 1) * height))
    weight = torch.empty(len(held), given.width, dtype=dtype)
    for start in range(held.start, held.stop, ROWS_A_SEED):
        generator = torch.Generator().manual_seed(start)
        rows = torch.randn(ROWS_A_SEED, given.width, generator=generator)
        own = weight[start - held.start : start - held.start + ROWS_A_SEED]
        own.copy_(rows[: len(own)].mul_(3 / given.width**0.5))
    generator = torch.Generator().manual_seed(vocabulary + 1)
    hidden = torch.randn(given.positions, given.width, generator=generator).to(dtype)
    targets = torch.randint(0, vocabulary, (given.positions,), generator=generator)
    weight, hidden, targets = weight.to(device), hidden.to(device), targets.to(device)
    share = RowShare.of(len(weight), peers) if count > 1 else None
    head = Head.from_parts(weight, share=share)
    precision = head.precision()
    if given.work == "sketch":
        sketch = sketch_of(
            SketchSpec(vocabulary, given.width, "complex_tensorsketch", 4_096, 0), device
        )

    def work(rows: int) -> Any:
        states, own = hidden[:rows], targets[:rows]
        if given.work == "audit":
            wanted = ColumnChoice(facets=True)
            return columns_of_audit(states, head, own, wanted, precision)
        if given.work == "sketch":
            return features(states, head, own, sketch, precision=precision)[0]
        if given.work == "loss":
            states = states.clone().requires_grad_()
            found = head_loss(states, head, own, precision=precision)
            found.nll.mean().backward()
            return found
        return sweep(states, head, own, k=5, precision=precision)

    work(64)  # loads the kernels
    best: dict[str, float] = {}
    before = resident_mib()
    for _ in range(given.rounds):
        distributed.barrier()
        peers.seconds, peers.received = 0.0, 0
        if gpus:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            held_before = torch.cuda.memory_allocated()
        start, busy = time.perf_counter(), time.process_time()
        with PeakMemory() as peak:
            found = work(given.positions)
            if gpus:
                torch.cuda.synchronize()
        took = time.perf_counter() - start
        if not best or took < best["seconds"]:
            best = {
                "seconds": took,
                "busy_seconds": time.process_time() - busy,
                "exchange_seconds": peers.seconds,
                "received_mib": peers.received / 2**20,
                "added_mib": peak.mib - before,
            }
            if gpus:
                best["added_mib"] = (torch.cuda.max_memory_allocated() - held_before) / 2**20
    best["rows_mib"] = weight.nbytes / 2**20
    own = torch.tensor(list(best.values()), dtype=torch.float64)
    worst = torch.stack(peers.gather(own)).amax(0).tolist()
    columns = found if isinstance(found, dict) else vars(found)
    names = ("top1", "top2", "facet", "rank") if given.work == "audit" else ("topk_ids", "rank")
    digest = hashlib.sha256()
    for name in names:
        if name in columns:
            digest.update(torch.as_tensor(columns[name]).cpu().numpy().tobytes())
    nll = found["nll"] if isinstance(found, dict) else found.nll
    if place == 0:
        columns_of_all = {name: round(value, 3) for name, value in zip(best, worst, strict=True)}
        values = torch.as_tensor(nll).detach().double().tolist()
        print(
            json.dumps(
                {"shares": count, **columns_of_all, "digest": digest.hexdigest(), "nll": values}
            )
        )
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
