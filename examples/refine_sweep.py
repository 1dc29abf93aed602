"""Five objectives, their weights, three seeds on the bundled model: tables of docs/findings.md.

    python examples/refine_sweep.py runs/sweep

The text is that of the running interpreter's library which the bundled model never saw; a fifth of
its documents is held out. A killed sweep goes on with the same command. About an hour on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from unembed.corpus import Corpus
from unembed.demo.story import bundled_model
from unembed.demo.text import documents
from unembed.models import Checkpoint, load
from unembed.refine.dose import Grid, dose
from unembed.refine.objectives import Objective
from unembed.refine.recipe import Recipe

OBJECTIVES = (
    Objective("fisher"),
    Objective("margin"),
    Objective("entropy"),
    Objective("cosine"),
    Objective("fisher", direction="expand"),
)
WEIGHTS = {
    "fisher": (0.5, 2.0, 5.0),
    "margin": (0.1, 0.4, 1.0),
    "entropy": (0.05, 0.15, 0.4),
    "cosine": (0.3, 1.0, 3.0),
    "fisher-expand": (0.5, 2.0),
}
RECIPE = Recipe(
    steps=100,
    learning_rate=1e-4,
    batch_size=4,
    context=256,
    watch_every=100,
    audit_positions=40_000,
)


def text_of(checkpoint: Checkpoint) -> Corpus:
    """Whole held-out documents, in an order that mixes topics, docstrings and source."""
    found = sorted(documents("heldout"), key=lambda d: hashlib.sha256(d.name.encode()).hexdigest())
    names = [one.name for one in found]
    return Corpus.from_texts((one.text for one in found), checkpoint.tokenizer, names=names)


def main() -> None:
    """Run the sweep, or go on with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    checkpoint = load(bundled_model())
    grid = Grid(OBJECTIVES, WEIGHTS, tuple(range(given.seeds)), RECIPE, read_out_positions=40_000)
    print(dose(checkpoint, text_of(checkpoint), grid, out=given.out, progress=True))


if __name__ == "__main__":
    main()
