"""Property tasks on molecules: ``SMILES ? A``, where one of five letters, or yes or no, is right.

    python examples/molecules/properties.py -o runs/molecules/properties     # a file a task

Every task asks of the same molecules, so that all have the same prompts and the same activations;
what differs is which answer is right. Answers are the fifths of a property's values among these
molecules (A the least, E the greatest), or whether a value is above the median: each answer is
right equally often. Equal values are ordered by a hash of the molecule. The model has seen the
asking word and the answers in training, with answers drawn at random: it knows none of the tasks.

Below the folder lie ``NAME.jsonl`` and ``NAME-yes-no.jsonl`` with the columns ``prompt`` and
``completion``, which ``--completion-only`` reads. Needs ``rdkit`` and ``molsets``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from data import molecules
from jaxtyping import Float, Int
from rdkit import Chem
from rdkit.Chem import Crippen, Descriptors, GraphDescriptors, Mol, rdMolDescriptors
from tokenizer import ANSWERS, ASK, NO, YES

FIFTHS, HALVES = ANSWERS[:5], (NO, YES)
"""The answer words of a property in fifths and in halves, the least values first."""


def share(mol: Mol, test: Callable[[Chem.Atom], bool]) -> float:
    """The share of a molecule's heavy atoms that pass a test."""
    return sum(map(test, mol.GetAtoms())) / mol.GetNumHeavyAtoms()


PROPERTIES: dict[str, Callable[[Mol], float]] = {
    "weight": Descriptors.MolWt,
    "lipophilicity": Crippen.MolLogP,
    "polar surface": rdMolDescriptors.CalcTPSA,
    "sp3 carbon": rdMolDescriptors.CalcFractionCSP3,
    "aromatic atoms": lambda mol: share(mol, lambda atom: atom.GetIsAromatic()),
    "nitrogen": lambda mol: share(mol, lambda atom: atom.GetAtomicNum() == 7),
    "branching": GraphDescriptors.BalabanJ,
    "complexity": GraphDescriptors.BertzCT,
}


def values(strings: Sequence[str]) -> Float[np.ndarray, "strings properties"]:
    """Every property of every molecule."""
    mols = [Chem.MolFromSmiles(one) for one in strings]
    return np.array([[read(mol) for read in PROPERTIES.values()] for mol in mols], dtype=float)


def parts(
    column: Float[np.ndarray, " strings"], strings: Sequence[str], count: int
) -> Int[np.ndarray, " strings"]:
    """Which of ``count`` equal parts each value lies in, 0 the least; of equal values by hash."""
    ties = [hashlib.sha256(one.encode()).hexdigest() for one in strings]
    order = np.lexsort((ties, column))
    found = np.empty(len(column), dtype=int)
    found[order] = np.arange(len(column)) * count // len(column)
    return found


def drawn(count: int, seed: int) -> list[str]:
    """So many molecules of the two held-out splits, in an order drawn by the seed."""
    every = [*molecules("test"), *molecules("scaffolds")]
    rows = np.random.default_rng(seed).choice(len(every), count, replace=False)
    return [every[row] for row in rows]


def rows(
    strings: Sequence[str], labels: Int[np.ndarray, " strings"], words: Sequence[str]
) -> list[dict[str, str]]:
    """A task as prompts and completions."""
    return [
        {"prompt": one + ASK, "completion": words[label]}
        for one, label in zip(strings, labels, strict=True)
    ]


def main() -> None:
    """Write every task, with the options below."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the tasks")
    parser.add_argument("--molecules", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0, help="which molecules")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    strings = drawn(given.molecules, given.seed)
    for name, column in zip(PROPERTIES, values(strings).T, strict=True):
        for ending, words in (("", FIFTHS), ("-yes-no", HALVES)):
            labels = parts(column, strings, len(words))
            file = given.out / f"{name.replace(' ', '-')}{ending}.jsonl"
            lines = (json.dumps(one) + "\n" for one in rows(strings, labels, words))
            file.write_text("".join(lines), encoding="utf-8")
            print(f"{file}: {len(strings):,} questions, answers {', '.join(words)}")


if __name__ == "__main__":
    main()
