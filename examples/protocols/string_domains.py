"""Nine domains of strings by one grammar, in the manner of line notations of molecules.

Every domain is made of the same letters' grammar (chains, branches, rings, double bonds, hetero
atoms; our own, valence is not looked at) with other chances of each, so that all share a tokenizer
and differ in what a chemist would call size, rings, branching and composition. A string that two
domains could have made belongs to the first that made it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from passages import Domain

from unembed.demo import Document

LINES = 24
"""Strings of a document."""
DOCUMENTS = 60
LEAST, LONGEST = 4, 60


@dataclass(frozen=True)
class Grammar:
    """Chances of each piece of ``chain := atom (bond? (branch | ring | atom))*``."""

    atoms: str = "CCCCCCNO"
    atoms_of_chain: tuple[int, int] = (6, 16)
    double: float = 0.12
    branch: float = 0.12
    ring: float = 0.15

    def drawn(self, rng: np.random.Generator, depth: int = 0) -> str:
        """One string."""
        low, high = self.atoms_of_chain if depth == 0 else (1, 4)
        said, ring = "", 0
        for _ in range(int(rng.integers(low, high))):
            if said and rng.random() < self.double:
                said += "="
            said += self.atoms[rng.integers(len(self.atoms))]
            if depth < 3 and rng.random() < self.branch:
                said += f"({self.drawn(rng, depth + 1)})"
            if depth == 0 and ring == 0 and rng.random() < self.ring:
                said, ring = said + "1", len(said)
            elif ring and len(said) - ring > 3 and rng.random() < 0.4:
                said, ring = said + "1", 0
        return said + ("C1" if ring else "")


GRAMMARS = {
    "carbon chains": Grammar(atoms="C", ring=0, branch=0.05),
    "carbon rings": Grammar(atoms="C", ring=0.6, double=0.3),
    "branched": Grammar(atoms="CCCCCO", branch=0.45, ring=0),
    "small": Grammar(atoms_of_chain=(3, 7)),
    "large": Grammar(atoms_of_chain=(14, 26), branch=0.15),
    "nitrogen rich": Grammar(atoms="CCNNNO", ring=0.3),
    "oxygen rich": Grammar(atoms="CCOOON", double=0.25),
    "sulphur": Grammar(atoms="CCCCSSN", ring=0.3),
    "fluorinated": Grammar(atoms="CCCFFO", branch=0.3, double=0.05),
}


def string_domains(seed: int = 0) -> list[Domain]:
    """The nine domains, each as documents of a few dozen lines."""
    seen: set[str] = set()
    return [
        Domain(name, tuple(_documents(name, grammar, np.random.default_rng([seed, i]), seen)))
        for i, (name, grammar) in enumerate(GRAMMARS.items())
    ]


def _documents(
    name: str, grammar: Grammar, rng: np.random.Generator, seen: set[str]
) -> Iterator[Document]:
    lines: list[str] = []
    made = 0
    for _ in range(40 * LINES * DOCUMENTS):
        said = grammar.drawn(rng)
        if LEAST <= len(said) <= LONGEST and said not in seen:
            seen.add(said)
            lines.append(said)
        if len(lines) == LINES:
            yield Document(f"{name}/{made}", "\n".join(lines) + "\n")
            lines, made = [], made + 1
            if made == DOCUMENTS:
                return
