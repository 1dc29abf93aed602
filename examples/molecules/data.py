"""The molecules of MOSES as the ``molsets`` package carries them, read from its files.

    python examples/molecules/data.py              # how many molecules each split holds, and a few
    python examples/molecules/data.py -o heldout.txt --split scaffolds --molecules 4000

Needs ``pip install --no-deps molsets``: 1.58 million molecules for training, and two held-out
splits, ``test`` drawn at random and ``scaffolds``, whose ring systems never occur in the others.
The package itself is never imported: its code needs old versions of others, its files do not.
"""

from __future__ import annotations

import argparse
import gzip
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Literal

Split = Literal["train", "test", "scaffolds"]
FILES: dict[Split, str] = {
    "train": "train.csv.gz",
    "test": "test.csv.gz",
    "scaffolds": "test_scaffolds.csv.gz",
}


def molecules(split: Split, limit: int | None = None) -> list[str]:
    """The SMILES strings of a split, the first ``limit`` of them, in the order of the file.

    Raises SystemExit where the package is missing.
    """
    with gzip.open(file_of(split), "rt", encoding="ascii") as lines:
        next(lines)
        found = (line.rstrip("\n").split(",", 1)[0] for line in lines)
        return [s for s, _ in zip(found, range(limit or 1 << 60), strict=False)]


def file_of(split: Split) -> Path:
    """Where a split's file lies in the installed package."""
    try:
        listed = files("molsets") or []
    except PackageNotFoundError:
        raise SystemExit("the molecules are missing: pip install --no-deps molsets") from None
    return Path(str(next(f.locate() for f in listed if f.name == FILES[split])))


def spread(split: Split, count: int) -> list[str]:
    """So many molecules from all over a split."""
    every = molecules(split)
    return every[:: max(1, len(every) // count)][:count]


def main() -> None:
    """Print the sizes of the splits, or write some molecules of one, a line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, help="a text file to write")
    parser.add_argument("--split", choices=list(FILES), default="scaffolds")
    parser.add_argument("--molecules", type=int, default=4_000)
    given = parser.parse_args()
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text("\n".join(spread(given.split, given.molecules)) + "\n")
        return
    for split in FILES:
        strings = molecules(split)
        print(f"{split:10} {len(strings):>9,} molecules, e.g. {', '.join(strings[:3])}")


if __name__ == "__main__":
    main()
