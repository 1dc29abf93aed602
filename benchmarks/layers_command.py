"""`unembed layers` against a plain script and two lens libraries: whole processes, body and all.

    python benchmarks/layers_command.py                       # GPT-2's shape, random weights
    python benchmarks/layers_command.py --peers layers script --positions 8000 --repeats 3
    python benchmarks/layers_command.py --peer-python VENV/bin/python --peers layers script nnsight

The model has 12 blocks, 768 wide, and 50,257 tokens; the text is cut so that every position is
read, in windows of 256. ``layers`` is the command line with the model's own tail at all 13 depths:
tables, summary and intervals, without the cloud of states, which no other has. ``script`` is what
people write: ``output_hidden_states``, the final norm and the head of each, full logits, topk,
log_softmax and KL, and nothing kept. ``nnsight`` is that with the states saved from a trace.
``tuned-lens`` is its ``PredictionTrajectory`` by its ``LogitLens``: loss, entropy, KL and rank.
Both are run by ``--peer-python``, where they are installed. Seconds are of processors, by one
thread, and of whole processes, with imports and loading; memory is the largest of a process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from audit import prepare
from ladder import measured
from layers import beside_the_last

CONTEXT, DOCUMENTS = 256, 40
PEERS = ("layers", "script", "nnsight", "tuned-lens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=int, default=2000)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=["layers", "script"])
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=PEERS[1:], help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_grad_enabled(False)
    if given.child:
        CHILDREN[given.child](given.place)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        shape = argparse.Namespace(
            model=None, text=None, vocab=50_257, dim=768, layers=given.layers, dtype="float32"
        )
        prepare(shape, place)
        cut(place, given.positions)
        runs: list[dict[str, dict[str, float]]] = []
        for repeat in range(given.repeats):
            runs.append({})
            for peer in given.peers:
                runs[-1][peer] = measured([command(given, peer, place, repeat)], place)
                print(repeat, peer, runs[-1][peer], file=sys.stderr)
    for peer in given.peers:
        row = {key: statistics.median(run[peer][key] for run in runs) for key in runs[0][peer]}
        times = statistics.median(
            run[peer]["seconds"] / run[given.peers[0]]["seconds"] for run in runs
        )
        print(
            f"{peer:<12}{row['seconds']:>8.1f} s{row['wall']:>8.1f} s wall{row['MiB']:>8,.0f} MiB"
            f"{times:>7.2f} x {given.peers[0]}"
        )
    if given.json:
        given.json.write_text(json.dumps(runs))


def command(given: argparse.Namespace, peer: str, place: Path, repeat: int) -> list[str]:
    if peer == "layers":
        words = ("layers", place / "model", place / "cut.txt", "-o", place / f"run-{repeat}")
        options = ("--lens", "normed", "--cloud-points", 0, "--context", CONTEXT, "--quiet")
        return [sys.executable, "-m", "unembed", *map(str, (*words, *options))]
    python = sys.executable if peer == "script" else given.peer_python
    return [python, __file__, "--child", peer, "--place", str(place)]


def cut(place: Path, positions: int) -> None:
    """The beginnings of some documents, with so many positions in all, or nearly so."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    lines = (place / "text.txt").read_text().splitlines()[:DOCUMENTS]
    each = positions // len(lines) + 1
    starts = [tokenizer.decode(tokenizer(line)["input_ids"][:each]) for line in lines]
    (place / "cut.txt").write_text("\n".join(line.replace("\n", " ") for line in starts))


def windows(place: Path) -> Iterator[Any]:
    """The tokens of each window, a row of ids."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    for line in (place / "cut.txt").read_text().splitlines():
        ids = torch.tensor(tokenizer(line)["input_ids"])
        for start in range(0, len(ids) - 1, CONTEXT):
            yield ids[None, start : start + CONTEXT + 1]


def model_of(place: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32).eval()


def script(place: Path) -> None:
    model, found = model_of(place), []
    for ids in windows(place):
        hidden = model.transformer(input_ids=ids[:, :-1], output_hidden_states=True).hidden_states
        # The library gives the last block's state with the final norm already taken.
        states = [model.transformer.ln_f(some[0]) for some in hidden[:-1]] + [hidden[-1][0]]
        found += beside_the_last(states, model.lm_head.weight, ids[0, 1:])
    print(len(found), file=sys.stderr)


def nnsight(place: Path) -> None:
    from nnsight import LanguageModel
    from transformers import AutoTokenizer

    model = model_of(place)
    traced, found = (
        LanguageModel(model, tokenizer=AutoTokenizer.from_pretrained(place / "model")),
        [],
    )
    for ids in windows(place):
        with traced.trace(ids[:, :-1]):
            saved = [].save()
            saved.append(traced.transformer.h[0].input)
            for block in traced.transformer.h:
                saved.append(block.output)
        states = [some[0] if isinstance(some, tuple) else some for some in saved]
        states = [model.transformer.ln_f(some.reshape(-1, some.shape[-1])) for some in states]
        found += beside_the_last(states, model.lm_head.weight, ids[0, 1:])
    print(len(found), file=sys.stderr)


def tuned_lens(place: Path) -> None:
    from tuned_lens.nn.lenses import LogitLens
    from tuned_lens.plotting import PredictionTrajectory

    model, found = model_of(place), []
    lens = LogitLens.from_model(model)
    for ids in windows(place):
        said = PredictionTrajectory.from_lens_and_model(
            lens, model, ids[0, :-1].tolist(), targets=ids[0, 1:].tolist()
        )
        found.append((said.cross_entropy(), said.entropy(), said.forward_kl(), said.rank()))
    print(len(found), file=sys.stderr)


CHILDREN = {"script": script, "nnsight": nnsight, "tuned-lens": tuned_lens}

if __name__ == "__main__":
    main()
