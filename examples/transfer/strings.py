"""Tasks on generated strings: one text, many properties of it to name, so that coupling decides.

The strings are drawn from a grammar of chains, branches, rings and hetero atoms, in the manner of
line notations of molecules; the grammar is our own, and valence is not looked at. A task asks for a
property of a string by one of three answer words, each of which is right for about a third of the
strings. All tasks read the same strings, so that their activations are identical, and all answer
alike often, so that their errors nearly are: what differs is which error goes with which state.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from methods import KINDS, Found, pairs
from torch import Tensor

from unembed import Checkpoint, Corpus, Head, SketchOptions
from unembed.demo import HeadTraining, head_gains
from unembed.models import ModelPass
from unembed.selection import score
from unembed.signatures import Samples, Verbalizers, exact_alignments, samples_of
from unembed.text import PromptCompletion

WORDS = (" one", " two", " three")
ORDERS = ((0, 1, 2), (1, 2, 0))
"""Which word names which third of a property: as it is, and turned by one."""
ENDING = "\n#"
POOL = 12
"""Strings drawn for each that is kept, so that all tasks can be balanced at once."""
TRIED = 60
LONGEST = 48

PROPERTIES: dict[str, Callable[[str], float]] = {
    "length": len,
    "rings": lambda s: sum(c.isdigit() for c in s) / 2,
    "branches": lambda s: s.count("("),
    "hetero atoms": lambda s: sum(s.count(c) for c in "NOSF"),
    "nitrogen over oxygen": lambda s: s.count("N") - s.count("O"),
    "double bonds": lambda s: s.count("="),
    "depth": lambda s: max(itertools.accumulate((c == "(") - (c == ")") for c in s)),
    "longest chain": lambda s: max(map(len, re.split("[^A-Z]+", s))),
    "first hetero atom": lambda s: next((i for i, c in enumerate(s) if c in "NOSF"), len(s)),
    "last branch": lambda s: len(s) - s.rfind(")"),
}


@dataclass(frozen=True)
class StringTask:
    """A property, and the number of the word that is right for each string."""

    name: str
    labels: Int[np.ndarray, " strings"]


def drawn(rng: np.random.Generator, depth: int = 0) -> str:
    """One string of the grammar: ``chain := atom (bond? (branch | ring | atom))*``."""
    said, ring = "", 0
    for _ in range(int(rng.integers(3, 14)) if depth == 0 else int(rng.integers(1, 5))):
        if said and rng.random() < 0.15:
            said += "="
        said += str(rng.choice(list("CCCCCNOSF")))
        if depth < 3 and rng.random() < 0.22 - 0.05 * depth:
            said += f"({drawn(rng, depth + 1)})"
        if depth == 0 and ring == 0 and rng.random() < 0.2:
            said, ring = said + "1", len(said)
        elif ring and len(said) - ring > 3 and rng.random() < 0.4:
            said, ring = said + "1", 0
    return said + ("C1" if ring else "")


def balanced(count: int, seed: int) -> tuple[list[str], Int[np.ndarray, "strings properties"]]:
    """So many strings, no two alike, with each property's third of every string.

    Values are cut into thirds over a pool; strings are then chosen one by one, of a few tried the
    one that leaves all properties' thirds the most even.
    """
    rng = np.random.default_rng(seed)
    pool = sorted({s for _ in range(POOL * count) if len(s := drawn(rng)) <= LONGEST})
    rng.shuffle(pool)
    values = np.array([[read(s) for read in PROPERTIES.values()] for s in pool], dtype=float)
    thirds = np.stack([_thirds(column) for column in values.T], 1)
    counts = np.zeros((thirds.shape[1], 3))
    columns = np.arange(thirds.shape[1])
    left, chosen = list(range(len(pool))), []
    while len(chosen) < count and left:
        tried = rng.permutation(len(left))[:TRIED]
        # Adding one to counts c raises their sum of squares by 2 c + 1.
        loss = [counts[columns, thirds[left[i]]].sum() for i in tried]
        best = left.pop(int(tried[int(np.argmin(loss))]))
        counts[columns, thirds[best]] += 1
        chosen.append(best)
    return [pool[i] for i in chosen], thirds[chosen]


def _thirds(values: Float[np.ndarray, " strings"]) -> Int[np.ndarray, " strings"]:
    """0, 1 or 2 by value, cut where the parts come closest to thirds."""
    levels, counts = np.unique(values, return_counts=True)
    below = np.cumsum(counts) / len(values)
    cuts = itertools.combinations(range(len(levels) - 1), 2)
    low, high = min(cuts, key=lambda c: abs(below[c[0]] - 1 / 3) + abs(below[c[1]] - 2 / 3))
    return (values > levels[low]).astype(int) + (values > levels[high])


@dataclass(frozen=True)
class Strings:
    """The states after each string, the answer words' rows of the head, and all tasks' answers."""

    hidden: Float[Tensor, "strings dim"]
    head: Head
    document: Int[np.ndarray, " strings"]
    tasks: tuple[StringTask, ...]

    @staticmethod
    def of(checkpoint: Checkpoint, count: int, seed: int) -> Strings:
        """Read so many strings."""
        said, thirds = balanced(count, seed)
        tasks = tuple(
            StringTask(name + ", turned" * (turn > 0), np.array(words)[thirds[:, i]])
            for i, name in enumerate(PROPERTIES)
            for turn, words in enumerate(ORDERS)
        )
        return Strings.read(checkpoint, [s + ENDING for s in said], tasks, WORDS)

    @staticmethod
    def read(
        checkpoint: Checkpoint,
        prompts: list[str],
        tasks: tuple[StringTask, ...],
        words: tuple[str, ...],
        flat: bool = False,
    ) -> Strings:
        """Read prompts, no two alike, that every task answers by one of some words.

        With ``flat`` the words share the mean of their rows, so that they begin equally likely.
        """
        answers = Verbalizers.of([(word, word) for word in words], True)
        corpus = Corpus.from_pairs(
            [PromptCompletion(one, words[0]) for one in prompts], checkpoint.tokenizer
        )
        reading = ModelPass.of(
            checkpoint.model, answers.answers(corpus), SketchOptions(), checkpoint.name
        )
        samples = samples_of(reading, "strings")
        # Batches go by length: put the states back in the order of the strings.
        places = {h: i for i, h in enumerate(corpus.document_hashes().tolist())}
        order = np.argsort([places[h] for h in samples.document.tolist()])
        ids = torch.from_numpy(answers.token_ids(checkpoint.tokenizer))
        # A softmax over some rows is that of a head of those rows.
        weight = reading.head.weight[ids]
        head = Head.from_parts(weight.mean(0, keepdim=True).repeat(len(ids), 1) if flat else weight)
        return Strings(
            samples.hidden[torch.from_numpy(order)], head, samples.document[order], tasks
        )

    def samples(self, some: Int[np.ndarray, " some"]) -> list[Samples]:
        """Every task on some of the strings."""
        rows = torch.from_numpy(some)
        whole = Samples(
            "", self.hidden[rows], torch.zeros(len(some), dtype=torch.long),
            self.document[some], np.arange(len(some)),
        )  # fmt: skip
        return [
            replace(whole, name=task.name, targets=torch.from_numpy(task.labels[some]))
            for task in self.tasks
        ]


def measure(
    checkpoint: Checkpoint, count: int, training: HeadTraining, seed: int
) -> tuple[tuple[str, ...], Float[np.ndarray, "sources targets"], list[Found]]:
    """The tasks' names, measured gains on held-out strings, and scores from the others."""
    return measured(Strings.of(checkpoint, count, seed), training, seed)


def measured(
    strings: Strings, training: HeadTraining, seed: int
) -> tuple[tuple[str, ...], Float[np.ndarray, "sources targets"], list[Found]]:
    """What ``measure`` gives, of strings that were read: scores from every second one."""
    count = len(strings.document)
    train, heldout = (strings.samples(np.arange(i, count, 2)) for i in (0, 1))
    gains = head_gains(train, heldout, strings.head, replace(training, seed=seed))
    found = []
    for label, debias in (("", True), (", plug-in", False)):
        alignments = exact_alignments(train, strings.head, debias=debias)
        found += [Found(kind + label, pairs(alignments, kind)) for kind in KINDS]
    names = ("cka", "unigram", "random")
    found += [
        Found(
            name,
            np.array([[score(name, t, s, strings.head, seed=seed) for t in train] for s in train]),
        )
        for name in names
    ]
    found += [Found("same answers", _agreement(train))]
    return tuple(task.name for task in strings.tasks), gains, found


def _agreement(train: list[Samples]) -> Float[np.ndarray, "sources targets"]:
    """The share of strings to which two tasks give one answer: labels alone, no model."""
    said = torch.stack([one.targets for one in train]).numpy()
    agreed: Float[np.ndarray, "sources targets"] = (said[:, None] == said).mean(2)
    return agreed
