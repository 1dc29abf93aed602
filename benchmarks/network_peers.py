"""Time and bytes of a task's gradients of the whole network: our sketch beside bergson's.

    python3 -m venv peer && peer/bin/pip install torch==2.13.0 transformers==5.23.0 accelerate \\
        datasets peft ml_dtypes natsort scipy petname pyyaml simple-parsing optree jaxtyping
    peer/bin/pip install --no-deps bergson==2.5.1 torchopt bitsandbytes
    python benchmarks/network_peers.py --peer-python peer/bin/python
    python benchmarks/network_peers.py --peer-python ... --made-up    # GPT-2 of width 512

The same windows, model in float32 and one thread; every measurement is a fresh process, the peers
alternate, and a process does its work once before it is timed, so that random matrices and kernels
are there. Seconds are those of the processor, which other work on the machine does not lengthen.
``backward`` is the forward and backward pass with weight gradients that training would do.
``sketch`` is ``sketch_network``: all parts, both moments, blocks for errors. ``bergson p`` is its
collector in memory, every module's gradient of a window projected to p x p numbers by dense signs,
without the output head, which it leaves out; rows are kept by window (``bytes``), or as their mean
(``bytes of a mean``). Our bytes are those of the file, which do not grow with the windows.
``--json`` prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PEERS = ("backward", "sketch", "bergson 16", "bergson 64")
THREADS = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
Work = Callable[[], dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--made-up", action="store_true")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--m", type=int, default=4096)
    parser.add_argument("--unit", default="sequence")
    parser.add_argument("--peers", nargs="+", default=list(PEERS))
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measured(given)))
        return
    with tempfile.TemporaryDirectory() as folder:
        given.folder = Path(folder)
        prepare(given)
        runs: dict[str, list[dict[str, float]]] = {peer: [] for peer in given.peers}
        for _ in range(given.repeats):
            for peer in given.peers:
                runs[peer].append(child(given, peer))
    report(given, runs)


def child(given: argparse.Namespace, peer: str) -> dict[str, float]:
    python = given.peer_python if peer.startswith("bergson") else sys.executable
    command = [python, __file__, "--child", peer, "--folder", str(given.folder)]
    command += ["--m", str(given.m), "--context", str(given.context), "--unit", given.unit]
    environment = {**os.environ, **THREADS}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{peer} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def report(given: argparse.Namespace, runs: dict[str, list[dict[str, float]]]) -> None:
    if given.json:
        print(json.dumps(runs, indent=1))
        return
    print("| | seconds | over backward | bytes | bytes of a mean |")
    print("|---|---|---|---|---|")
    for peer, some in runs.items():
        seconds = statistics.median(run["seconds"] for run in some)
        ratios = [
            run["seconds"] / base["seconds"]
            for run, base in zip(some, runs.get("backward", some), strict=True)
        ]
        sizes = [some[0].get(name) for name in ("bytes", "mean_bytes")]
        words = ["-" if size is None else f"{size:,.0f}" for size in sizes]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {peer} | {seconds:.2f} | {ratio} | {' | '.join(words)} |")


def prepare(given: argparse.Namespace) -> None:
    """The model and the windows, in files that either side reads."""
    import pydoc_data.topics

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

    from unembed.demo.story import bundled_model

    source = given.model or bundled_model()
    tokenizer = AutoTokenizer.from_pretrained(source)
    if given.made_up:
        torch.manual_seed(0)
        model: Any = GPT2LMHeadModel(
            GPT2Config(vocab_size=len(tokenizer), n_embd=512, n_layer=4, n_head=8, n_positions=1024)
        )
    else:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model.save_pretrained(given.folder)
    tokenizer.save_pretrained(given.folder)
    topics = pydoc_data.topics.topics
    text = given.text.read_text("utf-8") if given.text else "\n\n".join(topics[x] for x in topics)
    pieces = [text[at : at + 8 * given.context] for at in range(0, len(text), 8 * given.context)]
    rows = [tokenizer(piece, add_special_tokens=False)["input_ids"] for piece in pieces]
    rows = [row[: given.context + 1] for row in rows if len(row) > given.context]
    if len(rows) < given.windows:
        raise SystemExit(f"the text has {len(rows)} windows: give --windows {len(rows)}")
    kept = [tokenizer.decode(row) for row in rows[: given.windows]]
    (given.folder / "windows.json").write_text(
        json.dumps({"rows": rows[: given.windows], "texts": kept})
    )


def measured(given: argparse.Namespace) -> dict[str, float]:
    """The second of two times that the work is done."""
    import torch

    torch.set_num_threads(1)
    rows: list[list[int]] = json.loads((given.folder / "windows.json").read_text())["rows"]
    name, _, size = given.child.partition(" ")
    made: Callable[..., Work] = {"backward": backward, "sketch": sketch, "bergson": bergson}[name]
    work = made(given, rows, int(size or 0))
    work()
    start = time.process_time()
    found = work()
    return {"seconds": time.process_time() - start, **found}


def backward(given: argparse.Namespace, rows: list[list[int]], _size: int) -> Work:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(given.folder, dtype=torch.float32).eval()

    def work() -> dict[str, float]:
        for at in range(0, len(rows), 8):
            ids = torch.tensor(rows[at : at + 8])
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
            targets = ids[:, 1:].flatten()
            torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), targets, reduction="sum"
            ).backward()
            model.zero_grad()
        return {}

    return work


def sketch(given: argparse.Namespace, rows: list[list[int]], _size: int) -> Work:
    import numpy as np

    from unembed.models.checkpoint import load
    from unembed.signatures.network.file import network_as_bytes
    from unembed.signatures.network.run import NetworkOptions, sketch_network
    from unembed.text.corpus import Corpus

    checkpoint = load(str(given.folder))
    count = len(rows)
    corpus = Corpus(
        ids=np.concatenate(rows).astype(np.int32),
        starts=np.cumsum([0, *map(len, rows)]).astype(np.int64),
        document=np.arange(count, dtype=np.int32),
        offset=np.zeros(count, dtype=np.int32),
        names=tuple(f"window {i}" for i in range(count)),
        tokenizer=checkpoint.tokenizer,
        bos=None,
        blank_rows=0,
        short_rows=0,
        rules="",
        digest="",
    )
    options = NetworkOptions(m=given.m, context=given.context, unit=given.unit, first_moment=True)

    def work() -> dict[str, float]:
        made = sketch_network(checkpoint, corpus, options)
        return {"bytes": float(len(network_as_bytes(made)))}

    return work


def bergson(given: argparse.Namespace, rows: list[list[int]], size: int) -> Work:
    import torch
    from bergson.collector.collector import CollectorComputer
    from bergson.collector.in_memory_collector import InMemoryCollector
    from bergson.config.config import IndexConfig
    from bergson.gradients import GradientProcessor
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(given.folder, dtype=torch.float32).eval()
    # As its own runs have it: no weight needs a gradient, the embeddings' output does.
    model.requires_grad_(False)
    model.get_input_embeddings().requires_grad_(True)
    lengths = [len(row) for row in rows]
    data = Dataset.from_dict({"input_ids": rows, "labels": rows, "length": lengths})
    config = IndexConfig(run_path=str(given.folder / "run"), projection_dim=size)
    config.partial_run_path.mkdir(parents=True, exist_ok=True)
    processor = GradientProcessor(projection_dim=size)
    batches = [list(range(at, min(at + 8, len(rows)))) for at in range(0, len(rows), 8)]

    def work() -> dict[str, float]:
        collector = InMemoryCollector(
            model=model.base_model, data=data, cfg=config, processor=processor
        )
        CollectorComputer(
            model=model, data=data, collector=collector, batches=batches, cfg=config
        ).run_with_collector_hooks()
        model.zero_grad()
        row = sum(each[0].numel() for each in collector.gradients.values())
        kept = sum(each.numel() * each.element_size() for each in collector.gradients.values())
        return {"bytes": float(kept), "mean_bytes": 4.0 * row}

    return work


if __name__ == "__main__":
    main()
