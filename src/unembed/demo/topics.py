"""A dozen topics of the running interpreter's library, to see which of them move a head alike."""

from __future__ import annotations

import hashlib
from itertools import chain

from unembed.corpus import Corpus
from unembed.demo.text import documents
from unembed.models import Checkpoint

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

DOCUMENTS, CHARACTERS = 20, 600
"""Of each topic, and of each document: many short ones, for documents are what is independent."""


def topic_corpora(
    checkpoint: Checkpoint, each: int = DOCUMENTS, characters: int = CHARACTERS
) -> dict[str, Corpus]:
    """Passages of some documents of each topic, in an order fixed by their names' hashes.

    They are taken out of the middle, for modules begin alike, of documents that are at least that
    long. A topic with half of the documents or fewer is left out. The bundled model was trained on
    most of them: what is compared is how each would move it on.
    """
    every = list(chain(documents("train"), documents("heldout")))
    every.sort(key=lambda document: hashlib.sha256(document.name.encode()).hexdigest())
    found = {}
    for topic, beginning in TOPICS.items():
        own = (one for one in every if one.name.startswith(beginning))
        some = [one for one in own if len(one.text) >= characters][:each]
        if len(some) <= each // 2:
            continue
        names = [one.name for one in some]
        texts = (_middle(one.text, characters) for one in some)
        found[topic] = Corpus.from_texts(texts, checkpoint.tokenizer, names=names)
    return found


def _middle(text: str, characters: int) -> str:
    start = (len(text) - characters) // 2
    return text[start : start + characters]
