"""A domain's documents, cut into passages and split into text to train on and text held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from unembed import Corpus
from unembed.demo import Document

CHARACTERS = 800
"""Of a passage at most."""
TOKENS = 160
"""Of a passage at most, so that there are dozens of passages even where a token is a digit."""
LEAST = 200
"""Characters of a passage at least: shorter texts are titles and stubs."""
HELD_OUT = 3
"""One document in so many is held out."""
SPARE = 50
"""Positions more than asked for: a text cut after a token may be read as fewer tokens."""
DOCUMENTS = 6
"""Of each side at least, for documents are what is independent."""


class TooLittleError(Exception):
    """A domain has too little text; the reason is in the message."""


@dataclass(frozen=True)
class Domain:
    """A named kind of text, as documents."""

    name: str
    documents: tuple[Document, ...]


@dataclass(frozen=True)
class Split:
    """Passages of a domain for one seed; no document lies on both sides."""

    train: Corpus
    heldout: Corpus


def split(domain: Domain, tokenizer: Any, seed: int, train: int, heldout: int) -> Split:
    """Passages that hold at least so many positions to predict on each side.

    The seed orders the documents, and so chooses which are held out and which passages are read.
    One passage of each document comes first, then a second of each, until there are enough.
    Raises TooLittleError where there are not.
    """
    ordered = sorted(_distinct(domain.documents), key=lambda d: _hash(f"{seed}/{d.name}"))
    sides = (
        ("held-out", [d for i, d in enumerate(ordered) if i % HELD_OUT == 0], heldout),
        ("training", [d for i, d in enumerate(ordered) if i % HELD_OUT], train),
    )
    held, trained = (
        _corpus(f"{side} text of {domain.name}", some, tokenizer, seed, positions)
        for side, some, positions in sides
    )
    return Split(trained, held)


def passages(text: str) -> list[str]:
    """The text in pieces of whole lines, as long as they may be; longer lines are cut."""
    found, current = [], ""
    for line in text.splitlines(keepends=True):
        for start in range(0, len(line), CHARACTERS):
            piece = line[start : start + CHARACTERS]
            if len(current) + len(piece) > CHARACTERS:
                found.append(current)
                current = ""
            current += piece
    return [piece for piece in (*found, current) if len(piece.strip()) >= LEAST]


def _corpus(
    side: str, documents: list[Document], tokenizer: Any, seed: int, positions: int
) -> Corpus:
    if len(documents) < DOCUMENTS:
        raise TooLittleError(f"{len(documents)} documents as {side}, {DOCUMENTS} needed")
    cut = [
        (d.name, sorted(passages(d.text), key=lambda p, d=d: _hash(f"{seed}/{d.name}/{p}")))
        for d in documents
    ]
    rounds = max(len(pieces) for _, pieces in cut)
    chosen = [(name, pieces[i]) for i in range(rounds) for name, pieces in cut if i < len(pieces)]
    names, texts, found = [], [], 0
    for name, piece in chosen:
        read = tokenizer(
            piece,
            add_special_tokens=False,
            return_offsets_mapping=True,
            truncation=True,
            max_length=TOKENS,
        )
        ends = [end for _, end in read["offset_mapping"]]
        names.append(name)
        texts.append(piece[: ends[-1]])
        # A row predicts every token but its first.
        found += len(ends) - 1
        if found >= positions + SPARE:
            return Corpus.from_texts(texts, tokenizer, names=names)
    raise TooLittleError(f"{found:,} positions as {side}, {positions + SPARE:,} needed")


def _distinct(documents: Iterable[Document]) -> list[Document]:
    seen: dict[str, Document] = {}
    for document in documents:
        if passages(document.text):
            seen.setdefault(_hash(" ".join(document.text.split())), document)
    return list(seen.values())


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
