"""Nine domains of molecules by what a chemist would call them, a Parquet file each.

    python examples/molecules/kinds.py -o runs/molecules/domains      # in two minutes

A molecule belongs to a domain if it passes that domain's test and none of the other eight, so that
no two domains share a molecule; what passes no test or several belongs to none. They are taken from
MOSES' two held-out splits, so that the model has read none of them. MOSES holds no charged atoms:
"basic amine" are molecules that would be charged in water at pH 7 because an amine next to nothing
but sp3 carbon takes up a proton there (acids MOSES has none of).

Below the folder lie ``train/NAME.parquet`` and ``heldout/NAME.parquet`` with the columns ``text``
and ``scaffold`` (Murcko's: rings and what links them). One scaffold in three, by its hash, is held
out, so that no scaffold is on both sides; ``--document scaffold`` makes every verb take a scaffold,
not a molecule, for what is independent. Needs ``rdkit`` and ``molsets``.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from data import molecules
from rdkit import Chem
from rdkit.Chem import Mol, rdMolDescriptors
from rdkit.Chem.Scaffolds import MurckoScaffold

HELD_OUT = 3
"""One scaffold in so many is held out."""
HALOGENS = (9, 17, 35, 53)
BASIC_AMINE = Chem.MolFromSmarts(
    "[NX3;!$(N~[!#6;!#1]);!$(N[C,S,P]=[O,S,N]);!$(N-a);!$(N-C=C);!$(N-C#N)]([#6X4,#1])[#6X4]"
)
AROMATIC_SULFUR, SULFONYL = Chem.MolFromSmarts("s"), Chem.MolFromSmarts("S(=O)(=O)")


def count(mol: Mol, *numbers: int) -> int:
    """How many atoms of a molecule are of these elements."""
    return sum(atom.GetAtomicNum() in numbers for atom in mol.GetAtoms())


TESTS: dict[str, Callable[[Mol], bool]] = {
    "no aromatic ring": lambda mol: rdMolDescriptors.CalcNumAromaticRings(mol) == 0,
    "four rings": lambda mol: rdMolDescriptors.CalcNumRings(mol) >= 4,
    "small": lambda mol: mol.GetNumHeavyAtoms() <= 18,
    "basic amine": lambda mol: mol.HasSubstructMatch(BASIC_AMINE),
    "aromatic sulfur": lambda mol: mol.HasSubstructMatch(AROMATIC_SULFUR),
    "sulfonyl": lambda mol: mol.HasSubstructMatch(SULFONYL),
    "halogens": lambda mol: count(mol, *HALOGENS) >= 2,
    "nitrogen rich": lambda mol: count(mol, 7) >= 5,
    "oxygen rich": lambda mol: count(mol, 8) >= 4,
}
"""Each domain's own test: scaffold, number of rings, size, charge, heteroatoms."""


@dataclass(frozen=True)
class Molecule:
    """A molecule of a domain, with its scaffold."""

    smiles: str
    domain: str
    scaffold: str


def is_held_out(scaffold: str, seed: int = 0) -> bool:
    """Whether a scaffold is among those held out; each seed holds out others."""
    return hashlib.sha256(f"{seed}/{scaffold}".encode()).digest()[0] % HELD_OUT == 0


def domain_of(mol: Mol) -> str | None:
    """The only domain whose test a molecule passes, None where it is not the only one."""
    passed = [name for name, test in TESTS.items() if test(mol)]
    return passed[0] if len(passed) == 1 else None


def members(strings: Iterable[str]) -> Iterator[Molecule]:
    """Those of some molecules that belong to a domain; what RDKit cannot read is passed over."""
    for smiles in strings:
        mol = Chem.MolFromSmiles(smiles)
        name = None if mol is None else domain_of(mol)
        if name is not None:
            yield Molecule(smiles, name, MurckoScaffold.MurckoScaffoldSmiles(mol=mol))


def file_of(folder: Path, side: str, domain: str) -> Path:
    """Where a side (train or heldout) of a domain lies."""
    return folder / side / f"{domain.replace(' ', '-')}.parquet"


def write(found: Iterable[Molecule], folder: Path, most: int) -> pd.DataFrame:
    """Write every domain's files, of at most so many molecules each, and count them."""
    table = pd.DataFrame(
        {
            "text": m.smiles,
            "scaffold": m.scaffold,
            "domain": m.domain,
            "held_out": is_held_out(m.scaffold),
        }
        for m in found
    ).drop_duplicates("text")
    rows = []
    for domain in TESTS:
        row: dict[str, object] = {"domain": domain}
        for side in ("train", "heldout"):
            some = table[(table["domain"] == domain) & (table["held_out"] == (side == "heldout"))]
            some = some.head(most)
            file = file_of(folder, side, domain)
            file.parent.mkdir(parents=True, exist_ok=True)
            some[["text", "scaffold"]].to_parquet(file, index=False)
            row |= {side: len(some), f"{side} scaffolds": some["scaffold"].nunique()}
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    """Make the domains, with the options below."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the domains")
    parser.add_argument("--every", type=int, default=1, help="one molecule in so many is looked at")
    parser.add_argument("--most", type=int, default=5_000, help="molecules of a side at most")
    given = parser.parse_args()
    # The two splits alternate, so that --most takes as many of both.
    pairs = zip(
        *(molecules(split)[:: given.every] for split in ("test", "scaffolds")), strict=False
    )
    counted = write(members(s for pair in pairs for s in pair), given.out, given.most)
    print(counted.to_string(index=False))


if __name__ == "__main__":
    main()
