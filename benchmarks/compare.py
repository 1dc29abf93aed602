"""What comparing two audits costs: seconds and memory of one whole ``compare``.

    python benchmarks/compare.py                        # 1,000,000 positions, 10,000 resamples
    python benchmarks/compare.py --positions 200000 --documents 1000 --top-k 0
    python benchmarks/compare.py --out                  # writes the run folder too

Each measurement is a fresh process that makes two audits of synthetic positions: candidates of
normal logits, the second with noise on every one, tokens that are as frequent as words are,
documents of unequal length. Only ``compare`` is measured, from pairing to the table; the memory is
what it adds to the process that already holds both audits. The bar is 30 seconds and 2 GB on two
cores at the defaults.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from audit import PeakMemory, resident_mib

VOCAB = 50_257
CANDIDATES = 8
NOISE = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=int, default=1_000_000)
    parser.add_argument("--documents", type=int, default=5_000)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--top-k", type=int, default=5, help="candidates kept before")
    parser.add_argument("--out", action="store_true", help="write a run folder")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given)))
        return
    runs = [measured(given) for _ in range(given.repeats)]
    medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    if given.json:
        print(json.dumps({"runs": runs, "medians": medians}, indent=1))
        return
    print(
        f"{given.positions:,} positions of {given.documents:,} documents, {given.resamples:,} "
        f"resamples: {medians['seconds']:.1f} s ({medians['cpu_seconds']:.1f} s of one core), "
        f"{medians['added_mib']:,.0f} MiB above the two audits ({medians['peak_mib']:,.0f} MiB in "
        f"all); pairing alone {medians['pairing_seconds']:.2f} s"
    )


def measured(given: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", *(["--out"] if given.out else [])]
    for name in ("positions", "documents", "resamples", "top_k"):
        command += [f"--{name.replace('_', '-')}", str(getattr(given, name))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(given: argparse.Namespace) -> dict[str, float]:
    from unembed.decisions.comparison.compare import compare
    from unembed.decisions.comparison.pairing import pair

    before, after = audits(given.positions, given.documents, given.top_k)
    start = time.perf_counter()
    pair(before, after)
    pairing = time.perf_counter() - start
    held = resident_mib()
    with contextlib.ExitStack() as stack:
        out = None
        if given.out:
            out = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
        start, worked = time.perf_counter(), time.process_time()
        with PeakMemory() as peak:
            done = compare(before, after, out=out, resamples=given.resamples)
        seconds, worked = time.perf_counter() - start, time.process_time() - worked
    assert len(done) == given.positions
    return {
        "seconds": seconds,
        "cpu_seconds": worked,
        "pairing_seconds": pairing,
        "added_mib": peak.mib - held,
        "peak_mib": peak.mib,
    }


def audits(positions: int, documents: int, top_k: int) -> tuple[Any, Any]:
    """Two audits of one text by a head and by the same head with noise on its logits."""
    import numpy as np

    generator = np.random.default_rng(0)
    lengths = generator.exponential(size=documents) + 0.05
    doc = np.searchsorted(np.cumsum(lengths) / lengths.sum(), np.arange(positions) / positions)
    doc = np.minimum(doc, documents - 1).astype(np.int32)
    starts = np.searchsorted(doc, np.arange(documents))
    pos = (np.arange(positions) - starts[doc]).astype(np.int32)
    return tuple(
        audit_of(table, np.bincount(doc), held)
        for table, held in zip(tables_of(generator, doc, pos, top_k), (top_k, 0), strict=True)
    )


def tables_of(generator: Any, doc: Any, pos: Any, top_k: int) -> tuple[Any, Any]:
    """Positions of both heads, with ``top_k`` candidates before and none after."""
    import numpy as np

    positions = len(doc)
    target, word_start = words(generator, positions), generator.random(positions) < 0.6
    text = {"doc": doc, "pos": pos, "target": target, "word_start": word_start}
    ids = np.stack([words(generator, positions) for _ in range(CANDIDATES)], axis=1)
    ids[:, 0] = target
    logits = 2.5 * generator.standard_normal((positions, CANDIDATES), dtype=np.float32)
    logits[:, 0] += 2
    moved = logits + NOISE * generator.standard_normal(logits.shape, dtype=np.float32)
    return table_of(text, ids, logits, top_k), table_of(text, ids, moved, 0)


def words(generator: Any, positions: int) -> Any:
    """Token ids of which the n-th most frequent is drawn about 1 / n as often as the first."""
    import numpy as np

    return (VOCAB ** generator.random(positions)).astype(np.int32) - 1


def table_of(text: dict[str, Any], ids: Any, logits: Any, top_k: int) -> Any:
    """The columns that a comparison reads, of a head that gives these candidates these logits."""
    import numpy as np
    import pyarrow as pa

    order = np.argsort(-logits, axis=1, kind="stable")
    ids, logits = (np.take_along_axis(values, order, axis=1) for values in (ids, logits))
    p = np.exp(logits - logits[:, :1])
    whole = p.sum(axis=1, keepdims=True)
    p /= whole
    own = np.where(ids == text["target"][:, None], p, 0).max(axis=1)
    margin = logits[:, 0] - logits[:, 1]
    columns = {
        **text,
        "top1": ids[:, 0],
        "top2": ids[:, 1],
        "margin": margin,
        "relative_distance": margin / np.linalg.norm(logits, axis=1),
        "confidence": p[:, 0],
        "nll": -np.log(own),
        "entropy": -(p * np.log(p)).sum(axis=1),
        "sum_p2": (p**2).sum(axis=1),
        "rank": (logits > (logits[:, 0] - np.log(p[:, 0] / own))[:, None]).sum(axis=1) + 1,
        "logsumexp": logits[:, 0] + np.log(whole[:, 0]),
    }
    arrays = {name: pa.array(np.ascontiguousarray(column)) for name, column in columns.items()}
    if top_k:
        for name, kept in (("topk_ids", ids), ("topk_logits", logits)):
            flat = pa.array(kept[:, :top_k].ravel())
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, top_k)
    return pa.table(arrays)


def audit_of(table: Any, counts: Any, top_k: int) -> Any:
    """An audit in memory, of documents with so many positions."""
    from unembed.decisions.audit.audit import Audit

    provenance = provenance_of(len(counts), table.num_rows, top_k)
    return Audit(provenance, vocabulary(), documents_of(counts), in_memory=table)


def vocabulary() -> Any:
    from unembed.text.vocabulary import Vocabulary

    return Vocabulary({token: f" {spelling(token)}" for token in range(VOCAB)})


def documents_of(counts: Any) -> Any:
    import pyarrow as pa

    return pa.table(
        {
            "doc": pa.array(range(len(counts)), pa.int32()),
            "name": [f"document {i}" for i in range(len(counts))],
            "first_token": pa.array([0] * len(counts), pa.int32()),
            "positions": pa.array(counts),
        }
    )


def spelling(token: int) -> str:
    """A text for a token: function words, names, numbers, punctuation and other words."""
    if token < 200:
        return ("the", ",", "of", ".", "and")[token % 5]
    letters = "".join(chr(97 + token // 26**i % 26) for i in range(4))
    return (letters, letters.title(), str(token), letters, f"{letters}1")[token % 5]


def provenance_of(documents: int, positions: int, top_k: int) -> Any:
    from unembed.runs.provenance import SCHEMA, Provenance, TextFacts

    text = TextFacts(
        corpus="synthetic",
        digest="0" * 64,
        tokenizer=f"none ({VOCAB} tokens)",
        documents=documents,
        rows=documents,
        tokens=positions + documents,
        blank_rows=0,
        short_rows=0,
        context=1024,
        overflow="windows",
        positions=positions,
    )
    return Provenance(
        kind="audit",
        schema=SCHEMA,
        model="synthetic",
        architecture="none",
        model_digest="0" * 64,
        model_dtype="float32",
        device="cpu",
        head_recipe="synthetic",
        head_shape=(VOCAB, 768),
        head_tokens=VOCAB,
        head_tied=True,
        head_digest="0" * 64,
        row_norm_cv=None,
        product_route="ieee",
        product_error=0.0,
        epilogue="synthetic",
        text=text,
        batch_tokens=2048,
        part_positions=1 << 15,
        options={"top_k": top_k, "facets": False, "native_head": False, "body_product": "ieee"},
        versions={},
        cpu="synthetic",
        threads=1,
    )


if __name__ == "__main__":
    main()
