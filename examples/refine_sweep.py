"""What refining does to the bundled model: the grids behind docs/findings.md.

    python examples/refine_sweep.py objectives runs/objectives
    python examples/refine_sweep.py scopes runs/scopes
    python examples/refine_sweep.py weightings runs/weightings

The text is that of the running interpreter's library which the bundled model never saw: the first
4,000 characters of each document, so that many documents are measured, two fifths of them held out.
Three seeds each. A killed sweep goes on with the same command.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from unembed import Checkpoint, Corpus, Grid, Recipe, dose, load
from unembed.demo import bundled_model, documents
from unembed.training import Lora, Objective, Weighting

FISHER = Objective("fisher")
CHARACTERS = 4_000
RECIPE = Recipe(
    steps=200,
    learning_rate=1e-4,
    clip=10.0,
    batch_size=2,
    context=256,
    heldout=0.4,
    watch_every=200,
    audit_positions=50_000,
)
OBJECTIVES = Grid(
    (
        FISHER,
        Objective("margin"),
        Objective("entropy"),
        Objective("cosine"),
        Objective("fisher", direction="expand"),
    ),
    {
        "fisher": (0.5, 2.0, 5.0, 10.0),
        "margin": (0.1, 0.4, 1.0, 2.0),
        "entropy": (0.05, 0.15, 0.4, 0.8),
        "cosine": (0.3, 1.0, 3.0, 6.0),
        "fisher-expand": (0.25, 0.5, 1.0, 2.0),
    },
    recipe=RECIPE,
)
ONE = Grid(
    (FISHER,),
    (2.0,),
    recipe=RECIPE,
    changes=("int8",),
    noise=(),
)
SCOPES = {
    "last-2-blocks": {},
    "final-norm": {"learning_rate": 1e-2},
    "head": {"untie": True},
    "norm+head": {"untie": True},
    "lora": {"learning_rate": 1e-3, "lora": Lora()},
}
WEIGHTINGS = {
    "frequency 0.5": Weighting(frequency=0.5),
    "no structural": Weighting(classes={"structural": 0.0}),
    "entity-like and numeric": Weighting(classes={"entity-like": 5.0, "numeric": 5.0}),
}


def grids(part: str) -> Iterator[tuple[str, Grid]]:
    """The grids of one part, by the folder of each."""
    if part == "objectives":
        yield ".", OBJECTIVES
    elif part == "scopes":
        for scope, given in SCOPES.items():
            recipe = replace(ONE.recipe, scope=scope, **given)
            yield scope, replace(ONE, recipe=recipe)
    else:
        for name, weighting in WEIGHTINGS.items():
            yield name, replace(ONE, recipe=replace(ONE.recipe, weighting=weighting))


def text_of(checkpoint: Checkpoint) -> Corpus:
    """Beginnings of held-out documents, in an order that mixes topics, docstrings and source."""
    found = sorted(documents("heldout"), key=lambda d: hashlib.sha256(d.name.encode()).hexdigest())
    names = [one.name for one in found]
    return Corpus.from_texts(
        (one.text[:CHARACTERS] for one in found), checkpoint.tokenizer, names=names
    )


def main() -> None:
    """Run a part, or go on with it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("objectives", "scopes", "weightings"))
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    checkpoint = load(bundled_model())
    text = text_of(checkpoint)
    for name, grid in grids(given.part):
        print(name)
        print(dose(checkpoint, text, grid, out=given.out / name, progress=True), flush=True)


if __name__ == "__main__":
    main()
