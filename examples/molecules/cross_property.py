"""Sixteen property tasks with one set of prompts: does a score tell which adapter helps which task?

    python examples/molecules/cross_property.py -o runs/molecules/properties-lora --network

Eight properties of the same molecules in fifths, each with its letters in order and turned by one,
are asked as ``SMILES ?``. Adapters are trained on the answers of each task, and the loss of every
other task's answers is measured on other molecules. All prompts are the same, and so is whatever
compares the model's representations of them: only errors, and what they go with, tell tasks apart.
A killed run goes on when it is called again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import neighbours  # noqa: F401
from answer_words import labelled
from cross_domain import LORA, MODEL, Setup, beside_published, measure
from passages import Split
from properties import FIFTHS, drawn
from published import table
from tables import lines
from tasks import Task, positions
from tokenizer import ASK

from network import NetworkSetup
from unembed import Checkpoint, Corpus, Head, load
from unembed.selection import judge_transfer
from unembed.text import PromptCompletion


def read(checkpoint: Checkpoint, count: int, seed: int) -> tuple[list[Task], Head]:
    """Every task on so many molecules, half of them to train on; and the head."""
    found = drawn(count, seed)
    tasks: list[Task] = []
    for name, labels in labelled(found).items():
        pairs = [
            PromptCompletion(one + ASK, FIFTHS[label])
            for one, label in zip(found, labels, strict=True)
        ]
        text = Split(
            *(
                Corpus.from_pairs(pairs[half::2], checkpoint.tokenizer, names=found[half::2])
                for half in (0, 1)
            )
        )
        train, head = positions(checkpoint, text.train, name, count)
        heldout, _ = positions(checkpoint, text.heldout, name, count)
        tasks.append(Task(name, text, train, heldout))
    return tasks, head


def main() -> None:
    """Measure, print the tables, and keep the run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--molecules", type=int, default=1_200)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--network", action="store_true", help="signatures of the network too")
    parser.add_argument("--lora-steps", type=int, default=100)
    parser.add_argument("--lora-rate", type=float, default=1e-3)
    given = parser.parse_args()
    lora = replace(LORA, steps=given.lora_steps, rate=given.lora_rate)
    network = NetworkSetup(units=("token",)) if given.network else None
    setup = Setup(seeds=given.seeds, settings=("lora",), lora=lora, network=network)
    checkpoint = load(given.model)
    reader = partial(read, checkpoint, given.molecules)
    found = measure(checkpoint, "properties of molecules", reader, setup, given.out, shown=True)
    one = found["lora"]
    judge_transfer(one, out=given.out / "lora", command=shlex.join(["python", *sys.argv]))
    print("\n".join([*lines(one), "", *table(beside_published(one))]))


if __name__ == "__main__":
    main()
