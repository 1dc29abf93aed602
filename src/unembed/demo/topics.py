"""Topics of the running interpreter's library, and listings: which move a head alike, or help?"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from itertools import chain

from unembed.demo.listings import character_names, disassembly, powers, steps, sums, syntax_trees
from unembed.demo.text import Document, documents
from unembed.models.checkpoint import Checkpoint
from unembed.text.corpus import Corpus

TOPICS = {
    "asyncio": "asyncio/",
    "ctypes": "ctypes/",
    "email": "email/",
    "encodings": "encodings/",
    "idlelib": "idlelib/",
    "importlib": "importlib/",
    "multiprocessing": "multiprocessing/",
    "tkinter": "tkinter/",
    "unittest": "unittest/",
    "xml": "xml/",
    "language reference": "topic:",
    "docstrings in C": "doc:",
}
"""How the names of a topic's documents begin. Some Pythons lack packages, and so topics."""

DOCUMENTS = 20
"""Of each topic: many, since only documents are independent."""
TOPIC_CHARACTERS, LISTING_CHARACTERS = 1500, 600
"""Of each document. A library's module is about many things, of which a short passage tells few."""
HELD_OUT = 3
"""Of a document that long in passages, the end is held out: it lies apart from the middle."""
PACKAGES = ("asyncio", "email", "unittest")
SIGNS = {"letters": "L", "symbols": "S", "marks and numbers": "MN"}
"""Kinds of characters, by how their categories begin."""


@dataclass(frozen=True)
class Topic:
    """Passages of a topic's documents: the middles, and ends that lie apart from them."""

    text: Corpus
    heldout: Corpus


def topics(checkpoint: Checkpoint) -> dict[str, Topic]:
    """Passages of some of the library's documents on each topic.

    A topic with half of DOCUMENTS or fewer is left out. The bundled model was trained on most of
    them: what is compared is how each would move it on.
    """
    every = _library()
    return _found(
        {
            topic: [one for one in every if one.name.startswith(beginning)]
            for topic, beginning in TOPICS.items()
        },
        TOPIC_CHARACTERS,
        checkpoint,
    )


def listings(checkpoint: Checkpoint) -> dict[str, Topic]:
    """Passages of what the bundled model was not trained on: text that programs make, of four kinds
    in three varieties each.
    """
    every = _library()
    code = {
        package: [one for one in every if one.name.startswith(f"{package}/")]
        for package in PACKAGES
    }
    return _found(
        {
            **{f"bytecode of {name}": list(disassembly(some)) for name, some in code.items()},
            **{f"syntax of {name}": list(syntax_trees(some)) for name, some in code.items()},
            **{f"names of {name}": list(character_names(kinds)) for name, kinds in SIGNS.items()},
            "steps": list(steps()),
            "powers": list(powers()),
            "sums": list(sums()),
        },
        LISTING_CHARACTERS,
        checkpoint,
    )


def _library() -> list[Document]:
    """Every document, in an order fixed by their names' hashes."""
    return sorted(
        chain(documents("train"), documents("heldout")),
        key=lambda one: hashlib.sha256(one.name.encode()).hexdigest(),
    )


def _found(
    every: dict[str, list[Document]], characters: int, checkpoint: Checkpoint
) -> dict[str, Topic]:
    """The text is taken out of the middle, for modules begin alike, of documents that are at least
    ``characters`` long; the held-out text from the end of those that are three times as long.
    """
    found = {}
    for topic, own in every.items():
        some = [one for one in own if len(one.text) >= characters][:DOCUMENTS]
        long = [one for one in own if len(one.text) >= HELD_OUT * characters][:DOCUMENTS]
        if len(some) <= DOCUMENTS // 2 or not long:
            continue
        middles = [_passage(one, (len(one.text) - characters) // 2, characters) for one in some]
        ends = [_passage(one, len(one.text) - characters, characters) for one in long]
        found[topic] = Topic(_corpus(middles, checkpoint), _corpus(ends, checkpoint))
    return found


def _passage(document: Document, start: int, characters: int) -> Document:
    return replace(document, text=document.text[start : start + characters])


def _corpus(passages: list[Document], checkpoint: Checkpoint) -> Corpus:
    names = [one.name for one in passages]
    return Corpus.from_texts((one.text for one in passages), checkpoint.tokenizer, names=names)
