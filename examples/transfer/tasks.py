"""Tasks that are read once: hidden states of the text to train on, and of text held out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from passages import Domain, Split, split

from unembed import Checkpoint, Corpus, Head, SketchOptions
from unembed.models import ModelPass
from unembed.runs import progress_bar
from unembed.signatures import Samples, samples_of


@dataclass(frozen=True)
class Sizes:
    """Positions of a task: to train on and score from, and held out to measure gains on."""

    train: int = 6_000
    heldout: int = 3_000


@dataclass(frozen=True)
class Task:
    """A domain in one seed: its passages and their positions, so many of each side."""

    name: str
    text: Split
    train: Samples
    heldout: Samples


def read(
    checkpoint: Checkpoint, domains: list[Domain], seed: int, sizes: Sizes, shown: bool
) -> tuple[list[Task], Head]:
    """The tasks of one seed, and the head. Raises TooLittleError as ``split`` does."""
    tasks: list[Task] = []
    with progress_bar("read", "domain", len(domains), shown) as bar:
        for domain in domains:
            text = split(domain, checkpoint.tokenizer, seed, sizes.train, sizes.heldout)
            train, head = positions(checkpoint, text.train, domain.name, sizes.train)
            heldout, _ = positions(checkpoint, text.heldout, domain.name, sizes.heldout)
            tasks.append(Task(domain.name, text, train, heldout))
            bar.update()
    return tasks, head


@torch.no_grad()
def positions(checkpoint: Checkpoint, text: Corpus, name: str, most: int) -> tuple[Samples, Head]:
    """So many positions from all over a text, and the head that reads them."""
    options = SketchOptions(max_positions=most)
    reading = ModelPass.of(checkpoint.model, text, options, checkpoint.name)
    return samples_of(reading, name), reading.head
