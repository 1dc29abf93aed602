"""The audit against the plain Hugging Face way: throughput and memory, in one run.

    python benchmarks/audit.py                      # 768 x 50,257, one layer, 20,000 positions
    python benchmarks/audit.py --dim 1024 --vocab 151936 --positions 8000 --peers audit

Each measurement is a fresh process; the peers alternate. The plain way is what people write first:
batches of eight rows as they come, full float32 logits, topk and log_softmax. Both read the same
token rows. Prints a table, and JSON with ``--json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PEERS = ("audit", "plain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--vocab", type=int, default=50257)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--positions", type=int, default=20_000)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--text", type=Path, help="a .txt file [the bundled model's text]")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=PEERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given)))
        return
    found: dict[str, list[dict[str, float]]] = {peer: [] for peer in given.peers}
    for _ in range(given.repeats):
        for peer in given.peers:
            command = [sys.executable, __file__, *sys.argv[1:], "--child", peer]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[peer].append(json.loads(done.stdout.splitlines()[-1]))
    report(given, found)


def report(given: argparse.Namespace, found: dict[str, list[dict[str, float]]]) -> None:
    medians = {
        peer: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for peer, runs in found.items()
    }
    ratios = []
    if set(PEERS) <= found.keys():
        pairs = zip(found["audit"], found["plain"], strict=True)
        ratios = [a["tokens_per_s"] / b["tokens_per_s"] for a, b in pairs]
    if given.json:
        print(json.dumps({"runs": found, "medians": medians, "ratios": ratios}, indent=1))
        return
    print(f"{given.layers} layers, head {given.vocab:,} x {given.dim:,}, {given.dtype}")
    for peer, row in medians.items():
        print(
            f"{peer:<8}{row['tokens_per_s']:>10,.0f} tokens/s{row['seconds']:>9.2f} s"
            f"{row['added_mib']:>9,.0f} MiB above the loaded model"
        )
    if ratios:
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"ratio   {statistics.median(ratios):>10.2f} (pair by pair: {shown})")


@dataclass(frozen=True)
class Job:
    model: Any
    corpus: Any
    positions: int


def prepare(given: argparse.Namespace) -> Job:
    """A random one-layer GPT-2 with the head's shape, and real text in its ids."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from unembed.corpus import Corpus
    from unembed.demo.story import bundled_model
    from unembed.demo.text import documents
    from unembed.models import load

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=given.vocab, n_embd=given.dim, n_layer=given.layers, n_head=given.dim // 64
    )
    model = GPT2LMHeadModel(config).to(getattr(torch, given.dtype)).eval()
    tokenizer = load(bundled_model()).tokenizer
    if given.text is None:
        corpus = Corpus.from_texts(
            (p for d in documents("heldout") for p in d.text.split("\n\n") if p.strip()), tokenizer
        )
    else:
        corpus = Corpus.read(given.text, tokenizer)
    return Job(model, corpus, given.positions)


def measure(given: argparse.Namespace) -> dict[str, float]:
    job = prepare(given)
    before = resident_mib()
    with PeakMemory() as peak:
        start = time.perf_counter()
        count = with_audit(job) if given.child == "audit" else plainly(job)
        seconds = time.perf_counter() - start
    return {
        "tokens_per_s": count / seconds,
        "seconds": seconds,
        "added_mib": peak.mib - before,
    }


class PeakMemory:
    """The largest resident set seen while it is open, looked at every two milliseconds.

    The kernel's own high-water mark would do, but it cannot be reset everywhere, and building the
    model reaches higher than the measured part.
    """

    def __enter__(self) -> PeakMemory:
        self.mib, self.over = resident_mib(), threading.Event()
        self.watcher = threading.Thread(target=self.watch, daemon=True)
        self.watcher.start()
        return self

    def watch(self) -> None:
        while not self.over.wait(0.002):
            self.mib = max(self.mib, resident_mib())

    def __exit__(self, *_error: object) -> None:
        self.over.set()
        self.watcher.join()


def with_audit(job: Job) -> int:
    from unembed import AuditOptions, audit

    return len(audit(job.model, job.corpus, AuditOptions(max_positions=job.positions)))


def plainly(job: Job) -> int:
    import torch

    corpus, count = job.corpus, 0
    ends = corpus.starts[1:].tolist()
    rows = [corpus.ids[a:b][:1024] for a, b in zip([0, *ends], ends, strict=False)]
    kept: list[Any] = []
    with torch.no_grad():
        for at in range(0, len(rows), 8):
            some = [torch.from_numpy(row.astype("int64")) for row in rows[at : at + 8]]
            ids = torch.nn.utils.rnn.pad_sequence(some, batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in some], True)
            logits = job.model(input_ids=ids, attention_mask=mask).logits.float()[:, :-1]
            top = logits.topk(5)
            nll = -logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
            real = mask[:, 1:].bool()
            kept.append((top.values[real], top.indices[real], nll[real]))
            count += int(real.sum())
            if count >= job.positions:
                return count
    return count


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
