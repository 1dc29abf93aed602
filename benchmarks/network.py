"""What a sketch of a whole network takes beside a forward and backward pass, as training has it.

    OMP_NUM_THREADS=1 python benchmarks/network.py               # 4 blocks of width 1,024
    OMP_NUM_THREADS=2 python benchmarks/network.py --unit token --m 4096
    python benchmarks/network.py --memory                        # at one text and at four times it

Both take turns in one process, on one model from a config (random weights, float32, windows of 512)
and one text, with the same product of matrices. ``train`` reads windows of the text forward and
backward with the gradients of all weights; ``network`` is the pass of ``sketch_network``, from
batches to sums. ``cpu`` is the time of all threads of the process and the steadier one where other
work runs. Ratios are taken pair by pair: the median, with the least and the largest. ``--memory``
prints each run's peak above what the process held before it. ``--json`` prints JSON.
"""

from __future__ import annotations

import argparse
import json
import pydoc_data.topics
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers

from audit import PeakMemory, resident_mib
from unembed.demo.story import bundled_model
from unembed.head.product import float32_products
from unembed.models.checkpoint import Checkpoint, load
from unembed.models.model_pass import ModelPass
from unembed.signatures.network.modules import network_modules
from unembed.signatures.network.run import _pieces
from unembed.signatures.network.sketcher import NetworkOptions, NetworkSketcher
from unembed.text.batches import batches
from unembed.text.corpus import Corpus

CONTEXT = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=1_024)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--positions", type=int, default=2_044)
    parser.add_argument("--m", type=int, nargs="+", default=[4_096, 1_024])
    parser.add_argument("--unit", nargs="+", default=["token", "sequence"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.child:
        print(json.dumps(added_mib(given)))
        return
    found = memory(given) if given.memory else times(given)
    if given.json:
        print(json.dumps(found))


def times(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Pairs of both, for every unit and size."""
    checkpoint, corpus = made(given)
    found = []
    for unit in given.unit:
        for m in given.m:
            reading, sketcher = opened(checkpoint, corpus, given, unit, m)
            train = trained(checkpoint.model, reading)

            def network(reading: ModelPass = reading, made: NetworkSketcher = sketcher) -> None:
                for _piece in _pieces(reading, made, frozenset(), False):
                    pass

            train(), network()
            pairs = [(timed(train), timed(network)) for _ in range(given.pairs)]
            row = {"unit": unit, "m": m, "positions": reading.windows.positions}
            for i, clock in enumerate(("wall", "cpu")):
                ratios = [ours[i] / theirs[i] for theirs, ours in pairs]
                row |= {
                    f"train_{clock}_s": statistics.median(theirs[i] for theirs, _ in pairs),
                    f"network_{clock}_s": statistics.median(ours[i] for _, ours in pairs),
                    f"{clock}_ratio": [statistics.median(ratios), min(ratios), max(ratios)],
                }
            print(
                f"{unit:9} m = {m:5}: train {row['train_cpu_s']:.2f} s of CPU, network "
                f"{row['network_cpu_s']:.2f}, ratio {said(row['cpu_ratio'])}, "
                f"by wall time {said(row['wall_ratio'])}",
                file=sys.stderr if given.json else sys.stdout,
                flush=True,
            )
            found.append(row)
    return found


def said(ratio: list[float]) -> str:
    middle, least, most = ratio
    return f"{middle:.2f} ({least:.2f} to {most:.2f})"


def made(given: argparse.Namespace) -> tuple[Checkpoint, Corpus]:
    """A model of random weights with the bundled tokenizer, and Python's own documentation."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=8_192,
        hidden_size=given.width,
        intermediate_size=4 * given.width,
        num_hidden_layers=given.blocks,
        num_attention_heads=max(1, given.width // 64),
        num_key_value_heads=max(1, given.width // 64),
        max_position_embeddings=CONTEXT,
    )
    model = transformers.LlamaForCausalLM(config).to(given.device).eval()
    tokenizer = load(bundled_model()).tokenizer
    texts = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]
    return Checkpoint("random", model, tokenizer), Corpus.from_texts(texts, tokenizer)


def opened(
    checkpoint: Checkpoint, corpus: Corpus, given: argparse.Namespace, unit: Any, m: int
) -> tuple[ModelPass, NetworkSketcher]:
    """All that comes before the first batch."""
    options = NetworkOptions(
        unit=unit, m=m, context=CONTEXT, max_positions=given.positions, spread=False
    )
    reading = ModelPass.of(checkpoint.model, corpus, options, "random", hash_model=True)
    modules = network_modules(checkpoint.model)
    return reading, NetworkSketcher.of(reading, options, checkpoint, "text", modules)


def trained(model: Any, reading: ModelPass) -> Callable[[], None]:
    """A forward and backward pass over the same windows, in as large blocks, all weights' grads."""
    [(_name, part)] = reading.parts_by_name().items()
    blocks = [
        (block.input_ids.to(model.device), block.real, batch)
        for batch in batches(reading.windows, part, reading.plan)
        for block in batch.blocks
    ]

    def train() -> None:
        with float32_products(reading.body_route):
            for ids, real, batch in blocks:
                logits = model(input_ids=ids, use_cache=False).logits[real.to(ids.device)]
                targets = batch.targets[: len(logits)].to(ids.device)
                loss = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
                loss.backward()
                model.zero_grad(set_to_none=True)
        if ids.is_cuda:
            torch.cuda.synchronize()

    return train


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def memory(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Peaks at the text and at four times as much, a fresh process each."""
    found = []
    for unit in given.unit:
        for m in given.m:
            for times_as_long in (1, 4):
                command = [sys.executable, __file__, "--child", "--unit", unit, "--m", str(m)]
                command += ["--positions", str(given.positions * times_as_long)]
                for name in ("width", "blocks", "device"):
                    command += [f"--{name}", str(getattr(given, name))]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found.append(json.loads(done.stdout.splitlines()[-1]))
                print(
                    "{unit} m = {m}: {positions:,} positions, {added_mib:.0f} MiB".format(
                        **found[-1]
                    ),
                    file=sys.stderr if given.json else sys.stdout,
                    flush=True,
                )
    return found


def added_mib(given: argparse.Namespace) -> dict[str, Any]:
    """What one pass adds to what the process held before."""
    checkpoint, corpus = made(given)
    [unit], [m] = given.unit, given.m
    reading, sketcher = opened(checkpoint, corpus, given, unit, m)
    before = resident_mib()
    with PeakMemory() as peak:
        for _piece in _pieces(reading, sketcher, frozenset(), False):
            pass
    added = peak.mib - before
    return {"unit": unit, "m": m, "positions": reading.windows.positions, "added_mib": added}


if __name__ == "__main__":
    main()
