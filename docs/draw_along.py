"""Draw docs/along.svg: where along the bundled model two kinds of text are alike.

    python docs/draw_along.py

The texts are the reference of Python's language, and tests of its library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import unembed
from unembed.demo.story import bundled_model
from unembed.demo.text import documents
from unembed.signatures import NetworkOptions, align_networks, sketch_network

POSITIONS = 10_000
LETTERS = 2_000
"""Of each document, so that there are many of them."""
SPLITS: tuple[Literal["train", "heldout"], ...] = ("train", "heldout")
KINDS = {"language reference": "topic:", "tests": "test/"}


def main() -> None:
    """Sketch both kinds of text on the whole network, and draw their alignment by depth."""
    checkpoint = unembed.load(str(bundled_model()))
    options = NetworkOptions(context=128, max_positions=POSITIONS, m=2048)
    made = []
    for name, start in KINDS.items():
        every = (one for split in SPLITS for one in documents(split))
        found = [one.text[:LETTERS] for one in every if one.name.startswith(start)]
        corpus = unembed.Corpus.from_texts(found, checkpoint.tokenizer)
        signature = sketch_network(checkpoint, corpus, options, task=name, at_most=True)
        made.append(signature)
    along = align_networks(made)
    print(f"{along.verdict}\n\n{along}")
    along.plot.along().save(str(Path(__file__).with_name("along.svg")))


if __name__ == "__main__":
    main()
