"""Properties of molecules by answer words: which task helps which, where all prompts are the same?

    python examples/molecules/answer_words.py -o runs/molecules/words

First the shift of answer words, as ``examples/verbaliser_shift.py`` has it for kinds of text: one
property cut in three or in five, each part named by a word; six ways to name them are six tasks,
and of the other five the best source is asked for. Then all eight properties at once, each with
its letters in order and turned by one. The head's rows of the answer words are trained, on one half
of the molecules, and losses are measured on the other. Every prompt is ``SMILES ?``, so that every
representation of the prompts is the same for all tasks. The words begin with the mean of their
rows, which training with answers drawn at random left nearly equal: no task is known beforehand.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import neighbours  # noqa: F401
import numpy as np
import strings
import verbaliser_shift as shift
from jaxtyping import Int
from measure import shift_rows
from properties import FIFTHS, PROPERTIES, drawn, parts, values
from published import Row, table
from run import Seed, transfer_of
from tables import lines
from tokenizer import ASK

from unembed import Checkpoint, load
from unembed.demo import HeadTraining
from unembed.selection import judge_transfer

MODEL = Path(__file__).parent / "model"
CUTS = (3, 5)
"""Parts that a property is cut into: all six ways to name three of them, or six of the 120."""
SHIFT = shift.Setup(tasks=6, prompts=60, start="flat", words=FIFTHS, ending=ASK)
TURNS = ((0, 1, 2, 3, 4), (1, 2, 3, 4, 0))
"""Which letter names which fifth: as it is, and turned by one."""
WORDS = HeadTraining(200, 1 << 20, 2.0, "gd")
"""Of five rows, by all molecules at once."""


def prompts_of(name: str, setup: shift.Setup, seed: int) -> list[list[tuple[str, int]]]:
    """Two lists of molecules with the part of a property's values that each lies in."""
    found = drawn(2 * setup.classes * setup.prompts, seed)
    column = values(found)[:, list(PROPERTIES).index(name)]
    kinds = parts(column, found, setup.classes).tolist()
    # In the order of their kinds every second one is in the other half, so that both are balanced.
    both = sorted(zip(found, kinds, strict=True), key=lambda pair: pair[1])
    return [both[0::2], both[1::2]]


def shifted(checkpoint: Checkpoint, setup: shift.Setup, draws: int) -> list[shift.Measured]:
    """Every property so many times, each with molecules of its own."""
    names = [name for _ in range(draws) for name in PROPERTIES]
    return [
        shift.measure_prompts(checkpoint, prompts_of(name, setup, seed), setup, seed)
        for seed, name in enumerate(names)
    ]


def labelled(found: list[str]) -> dict[str, Int[np.ndarray, " strings"]]:
    """Each task's answer for every molecule, balanced among the even ones and among the odd ones.

    Balanced over all of them together, an answer that is too frequent in one half would be too rare
    in the other, and whatever learns how often each is would look harmful.
    """
    labels = {}
    for name, column in zip(PROPERTIES, values(found).T, strict=True):
        fifths = np.empty(len(found), dtype=int)
        for half in (0, 1):
            fifths[half::2] = parts(column[half::2], found[half::2], len(FIFTHS))
        for turn, order in enumerate(TURNS):
            labels[name + ", turned" * (turn > 0)] = np.array(order)[fifths]
    return labels


def of_properties(checkpoint: Checkpoint, count: int, seed: int) -> tuple[tuple[str, ...], Seed]:
    """All properties in both orders of the letters, on the same molecules."""
    found = drawn(count, seed)
    tasks = tuple(strings.StringTask(name, labels) for name, labels in labelled(found).items())
    read = strings.Strings.read(checkpoint, [one + ASK for one in found], tasks, FIFTHS, True)
    names, *rest = strings.measured(read, WORDS, seed)
    return names, Seed(*rest)


def main() -> None:
    """Measure, print the tables, and keep the run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--draws", type=int, default=3, help="of the molecules, for each property")
    parser.add_argument("--molecules", type=int, default=2_000, help="that all properties ask of")
    parser.add_argument("--seeds", type=int, default=3, help="draws of those")
    given = parser.parse_args()
    checkpoint = load(given.model)
    rows: list[Row] = []
    for classes in CUTS:
        setup = replace(SHIFT, classes=classes)
        measured = shifted(checkpoint, setup, given.draws)
        loss, right = (np.mean([getattr(x, n) for x in measured]) for n in ("loss", "accuracy"))
        where = f"one property in {classes}, five choices, {len(measured)} draws"
        print(f"{where}: loss before {loss:.3f} nats, a task's own head right {right:.1%}")
        rows += shift_rows(measured, where)
    print("\n".join(["", *table(rows)]), flush=True)
    seeds = [of_properties(checkpoint, given.molecules, seed) for seed in range(given.seeds)]
    one = transfer_of(
        "properties of molecules",
        seeds[0][0],
        f"the rows of five answer words alone, {WORDS.words}",
        [seed for _, seed in seeds],
    )
    judge_transfer(one, out=given.out, command=shlex.join(["python", *sys.argv]))
    print("\n".join(lines(one)))


if __name__ == "__main__":
    main()
