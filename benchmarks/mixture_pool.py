"""Passages of real text with their sketched sums, from which blends of known shares are drawn.

``library`` are topics of the interpreter's library, most of them Python code, and alike;
``distinct`` are kinds of text as unlike as licences, German, headers and disassembly, from
``examples/transfer/domains.py``. Reading one takes a few minutes; ``read`` keeps it as ``.npz``.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "transfer"))

import domains
from passages import passages

from unembed.demo.story import bundled_model
from unembed.demo.text import Document, documents
from unembed.demo.topics import TOPICS
from unembed.head.precision import Precision
from unembed.models.checkpoint import Checkpoint, load
from unembed.models.model_pass import ModelPass
from unembed.signatures.alignment.texts import samples_of
from unembed.signatures.documents import FOLDS, Documents
from unembed.signatures.reading.features import features
from unembed.signatures.reading.sketcher import SketchOptions
from unembed.signatures.sketches.constructions import sketch_of
from unembed.signatures.sketches.sketch import SketchSpec
from unembed.signatures.state import DOCUMENT_BLOCKS, State
from unembed.signatures.sums import Sums, kept, lowest
from unembed.text.corpus import Corpus

NAMES = TOPICS | {"tests": "test/", "distutils": "distutils/", "lib2to3": "lib2to3/"}
CODE = ("asyncio", "email", "unit tests", "tkinter")
"""Domains that are Python code of the library again."""
TOKENS, SHORTEST = 160, 30
"""Of a passage at most and at least."""
MIDDLE = 9_600
"""Characters of a document of the library, from its middle."""
EACH = {"library": 30, "distinct": 6}
"""Passages of a document at most, and then twice as many, and all, where positions are lacking."""
FEWEST = 12
"""Documents of a topic at least."""
ROWS = 600


@dataclass(frozen=True)
class Topic:
    """A kind of text: of each passage its sums by kind, positions, document and own hash."""

    name: str
    sums: Float[np.ndarray, "kinds passages sketch"]
    positions: Int[np.ndarray, " passages"]
    document: UInt64[np.ndarray, " passages"]
    passage: UInt64[np.ndarray, " passages"]


@dataclass(frozen=True)
class Part:
    """Some passages of a topic."""

    topic: Topic
    at: Int[np.ndarray, " passages"]

    @property
    def positions(self) -> int:
        return int(self.topic.positions[self.at].sum())


def state_of(parts: list[Part], unit: str) -> State:
    """The state of some passages, of which those of one document are dependent.

    With the unit "passages" each is its own document.
    """
    own = [p.topic.document if unit == "documents" else p.topic.passage for p in parts]
    hashes = np.concatenate([h[p.at] for h, p in zip(own, parts, strict=True)])
    count = np.concatenate([p.topic.positions[p.at] for p in parts]).astype(np.float64)
    found = Documents.of(hashes)
    marks = one_hot(found.number, len(found.hashes))
    weight = marks @ count[found.order]
    fold, block = (
        one_hot(found.folds, FOLDS),
        one_hot(found.blocks(DOCUMENT_BLOCKS), DOCUMENT_BLOCKS),
    )
    every = np.concatenate([p.topic.sums[:, p.at] for p in parts], 1)[:, found.order]
    made = []
    for rows in (marks @ kind for kind in every.astype(np.float64)):
        own_pairs = fold @ np.square(rows).sum(1) / rows.shape[1]
        made.append(Sums(fold @ rows, own_pairs, block @ kept(torch.from_numpy(rows)).numpy()))
    return State(
        made[0],
        made[1],
        made[2],
        made[3],
        fold @ weight,
        fold @ weight,
        fold @ weight**2,
        block @ weight,
        None,
        len(weight),
        lowest(found.hashes),
    )


def one_hot(ids: Int[np.ndarray, " rows"], count: int) -> Float[np.ndarray, "count rows"]:
    return np.asarray(ids == np.arange(count)[:, None], dtype=np.float64)


def drawn(
    topic: Topic, unit: str, positions: float, share: float, rng: np.random.Generator
) -> tuple[Part, Part]:
    """A source of so many positions, and a share of as many for a blend, without a passage twice.

    Passages come in random order. With the unit "documents" a blend's are of other documents, of
    which a source has as many as hold its positions, or as leave the blend its own.
    """
    order = rng.permutation(len(topic.positions))
    mine = np.ones(len(order), dtype=bool)
    if unit == "documents":
        names, number = np.unique(topic.document, return_inverse=True)
        sizes = np.bincount(number, topic.positions)
        most, filled = min(positions, sizes.sum() - positions * share), 0.0
        chosen = np.zeros(len(names), dtype=bool)
        for i in rng.permutation(len(names)):
            if filled + sizes[i] / 2 <= most:
                chosen[i] = True
                filled += sizes[i]
        mine = chosen[number]
    source = filling(topic, order[mine[order]], positions)
    others = order[~mine[order]] if unit == "documents" else np.setdiff1d(order, source.at, True)
    return source, filling(topic, rng.permutation(others), positions * share)


def filling(topic: Topic, order: Int[np.ndarray, " passages"], positions: float) -> Part:
    """Passages in this order whose positions come as near as they can without much more."""
    some, filled = [], 0.0
    for i in order:
        if filled < positions and filled + topic.positions[i] / 2 <= positions:
            some.append(i)
            filled += float(topic.positions[i])
    return Part(topic, np.array(some, dtype=np.int64))


def read(
    pool: str, m: int, positions: float, wikitext: Path | None, path: Path | None
) -> tuple[SketchSpec, list[Topic]]:
    """Topics of so many positions at least; from the file where there is one, else into it."""
    checkpoint = load(bundled_model())
    spec = SketchSpec(*checkpoint.model.get_output_embeddings().weight.shape, m=m)
    if path and path.exists():
        with np.load(path) as held:
            names = [str(name) for name in held["names"]]
            fields = ("sums", "positions", "document", "passage")
            topics = [
                Topic(name, *(held[f"{i} {field}"] for field in fields))
                for i, name in enumerate(names)
            ]
        return spec, [topic for topic in topics if topic.positions.sum() >= positions]
    found = []
    for name, texts in library() if pool == "library" else distinct(wikitext):
        cut = chosen(checkpoint, list(texts()), positions * 1.06, EACH[pool])
        if cut:
            found.append(summed(checkpoint, name, cut, spec))
            print(f"{name:<22}", end="\r", file=sys.stderr, flush=True)
    if path:
        arrays: dict[str, Any] = {"names": np.array([topic.name for topic in found])}
        for i, topic in enumerate(found):
            arrays |= {f"{i} {key}": value for key, value in vars(topic).items() if key != "name"}
        np.savez(path, **arrays)
    return spec, [topic for topic in found if topic.positions.sum() >= positions]


def library() -> Iterator[tuple[str, Callable[[], Iterable[Document]]]]:
    """Topics, of whose documents the middle is read."""
    every = list(chain(documents("train"), documents("heldout")))
    for name, beginning in NAMES.items():
        own = [one for one in every if one.name.startswith(beginning)]
        yield name, partial(map, middle, own)


def middle(one: Document) -> Document:
    start = max(0, len(one.text) - MIDDLE) // 2
    return replace(one, text=one.text[start : start + MIDDLE])


def distinct(wikitext: Path | None) -> Iterator[tuple[str, Callable[[], Iterable[Document]]]]:
    return (source for source in domains.sources(wikitext) if source[0] not in CODE)


def chosen(
    checkpoint: Checkpoint, texts: list[Document], positions: float, each: int
) -> list[tuple[str, str]]:
    """A document's name and a passage's text, of documents in random order; none where too few."""
    rng = np.random.default_rng(len(texts))
    shuffled = [texts[i] for i in rng.permutation(len(texts))]
    cut: dict[str, list[tuple[str, int]]] = {}
    seen: set[str] = set()
    for most in (each, 2 * each, len(texts) * MIDDLE):
        found, held = [], 0
        for one in shuffled:
            if one.name not in cut:
                cut[one.name] = cut_of(checkpoint, one.text, seen, rng)
            for text, count in cut[one.name][:most]:
                found.append((one.name, text))
                held += count
            if held >= positions:
                break
        if held >= positions:
            return found if len({name for name, _text in found}) >= FEWEST else []
    return []


def cut_of(
    checkpoint: Checkpoint, text: str, seen: set[str], rng: np.random.Generator
) -> list[tuple[str, int]]:
    """Passages in random order, none seen before, with their positions."""
    found = []
    for piece in passages(text):
        ends = checkpoint.tokenizer(
            piece,
            add_special_tokens=False,
            return_offsets_mapping=True,
            truncation=True,
            max_length=TOKENS,
        )["offset_mapping"]
        short = piece[: ends[-1][1]]
        if len(ends) > SHORTEST and short not in seen:
            seen.add(short)
            found.append((short, len(ends) - 1))
    return [found[i] for i in rng.permutation(len(found))]


def summed(
    checkpoint: Checkpoint, name: str, cut: list[tuple[str, str]], spec: SketchSpec
) -> Topic:
    """The sums of each passage, with the mean gradient among them."""
    text = Corpus.from_texts((passage for _name, passage in cut), checkpoint.tokenizer)
    hashes = text.document_hashes().astype(np.uint64)
    reading = ModelPass.of(checkpoint.model, text, SketchOptions(), "bundled")
    samples = samples_of(reading, name)
    order = {int(one): i for i, one in enumerate(hashes)}
    number = np.array([order[int(one)] for one in samples.document])
    made = sketch_of(spec, torch.device("cpu"))
    precision = Precision.probe(reading.head.weight)
    sums = np.zeros((4, len(cut), spec.m), dtype=np.float32)
    for at in torch.from_numpy(np.argsort(number, kind="stable")).split(ROWS):
        _, found = features(
            samples.hidden[at],
            reading.head,
            samples.targets[at],
            made,
            precision=precision,
            first=True,
        )
        ids, where = np.unique(number[at.numpy()], return_inverse=True)
        marks = torch.from_numpy(one_hot(where, len(ids))).float()
        assert found.first is not None
        for i, rows in enumerate((found.joint, found.activation, found.error, found.first)):
            sums[i, ids] += (marks @ rows.float()).numpy()
    digests = [hashlib.sha256(f"{name}/{one}".encode()).digest()[:8] for one, _passage in cut]
    return Topic(
        name,
        sums,
        np.bincount(number, minlength=len(cut)),
        np.frombuffer(b"".join(digests), dtype=np.uint64),
        hashes,
    )
