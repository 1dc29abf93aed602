"""How time and memory grow with the vocabulary and with the context, beside plain code.

    python benchmarks/growth.py                    # JSON, as docs/how-fast.json holds it
    python benchmarks/growth.py --curves context

Each point is a fresh process on one thread; time is the processor's own, a median of three, so that
other work moves it little. ``vocabulary``: one pass over a random float32 head of width 1,024, 512
positions, beside full float32 logits with topk, log_softmax, entropy and rank. ``context``:
4,096 positions in rows of that length through a random GPT-2 of two layers, 768 × 50,257, audited,
beside a row at a time with full logits. Memory is the peak above what was held before. Growth with
positions is ``scale.py``'s.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

POINTS = {
    "vocabulary": (16_384, 32_768, 65_536, 131_072, 262_144),
    "context": (128, 256, 512, 1_024, 2_048),
}
PEERS = ("unembed", "full logits")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", nargs="+", choices=POINTS, default=list(POINTS))
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        curve, size, peer = given.child
        print(json.dumps(measured(JOBS[curve](int(size), peer))))
        return
    found = []
    for curve in given.curves:
        for size in POINTS[curve]:
            for peer in PEERS:
                command = [sys.executable, __file__, "--child", curve, str(size), peer]
                alone = {**os.environ, "OMP_NUM_THREADS": "1"}
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=alone)
                point = json.loads(done.stdout.splitlines()[-1])
                found.append({"curve": curve, "size": size, "peer": peer, **point})
    print(json.dumps(found, indent=1))


def measured(work: Callable[[], object]) -> dict[str, float]:
    from audit import PeakMemory, resident_mib

    work()
    held, times = resident_mib(), []
    with PeakMemory() as peak:
        for _ in range(3):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
    return {
        "cpu_seconds": round(statistics.median(times), 4),
        "added_mib": round(peak.mib - held, 1),
    }


def over_vocabulary(vocab: int, peer: str) -> Callable[[], object]:
    import torch

    from sweep import plain, swept

    torch.set_grad_enabled(False)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(vocab, 1_024, generator=generator).mul_(3 / 32)
    hidden = torch.randn(512, 1_024, generator=generator)
    targets = torch.randint(0, vocab, (512,), generator=generator)
    return (swept if peer == "unembed" else plain)(hidden, weight, targets)


def over_context(context: int, peer: str) -> Callable[[], object]:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from gpu_sections import statistics_of, word_tokenizer
    from unembed.decisions.audit.audit import audit
    from unembed.decisions.audit.run import AuditOptions
    from unembed.text.corpus import Corpus

    torch.manual_seed(1)
    config = GPT2Config(vocab_size=50_257, n_embd=768, n_layer=2, n_head=12, n_positions=2_048)
    model = GPT2LMHeadModel(config).eval()
    rows = torch.randint(0, 50_257, (4_096 // context, context))
    if peer == "unembed":
        texts = [" ".join(f"w{token}" for token in row.tolist()) for row in rows]
        corpus = Corpus.from_texts(texts, word_tokenizer(50_257))
        options = AuditOptions(context=context)
        return lambda: audit(model, corpus, options)

    @torch.inference_mode()
    def row_by_row() -> None:
        for row in rows:
            logits = model(input_ids=row[None]).logits.float()[:, :-1]
            statistics_of(logits, row[None, 1:])

    return row_by_row


JOBS = {"vocabulary": over_vocabulary, "context": over_context}

if __name__ == "__main__":
    main()
