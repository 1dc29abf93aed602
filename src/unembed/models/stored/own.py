"""The layout of ``unembed states``: what is in its folder, and how that is opened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from unembed.errors import UnembedError
from unembed.models.stored.files import (
    STATES,
    TOKENS,
    SafetensorsStates,
    digest_of_headers,
    integers,
    safetensors_header,
)
from unembed.models.stored.layout import Layout, Spans
from unembed.runs.arrays import read_table
from unembed.runs.manifest import FinishedRun, Part, read_run, verify
from unembed.runs.provenance import Provenance
from unembed.text.corpus import Corpus
from unembed.text.tokenised import TokenRow, token_rows

KIND = "states"
PARTS, TEXT, DOCUMENTS = "states/", "text/", "documents.parquet"
"""Of a run of ``unembed states``: its states and its text, a file a part, and its documents."""


def open_written(place: Path, tokenizer: Any) -> Layout:
    """A run of ``unembed states``."""
    run = read_run(place)
    if run.kind != KIND:
        raise UnembedError(
            f"{place} holds a run of kind {run.kind!r}: give the folder of unembed states"
        )
    facts = Provenance.from_json(run.key)
    states = sorted(
        (part for part in run.listed if part.path.startswith(PARTS)), key=lambda part: part.path
    )
    verify(place, (part for part in run.listed if not part.path.startswith(PARTS)))
    files, spans = [], []
    for number, part in enumerate(states):
        file, found = _written_part(place, part, number)
        files.append(file)
        spans.append(found)
    corpus = _written_text(place, run, facts, tokenizer)
    names = [one.name for one in fields(Spans)]
    columns = ([getattr(one, name) for one in spans] for name in names)
    whole = Spans(*(np.concatenate(column) for column in columns)).sorted()
    _refuse_gaps(place, whole, facts.text.positions)
    return Layout(
        "unembed states",
        corpus,
        whole,
        tuple(files),
        1,
        digest_of_headers([(part.sha256, part.rows) for part in states]),
        written=facts,
    )


def _written_part(place: Path, part: Part, number: int) -> tuple[SafetensorsStates, Spans]:
    """A part's file, and where its positions lie: spans of consecutive ones."""
    path = place / part.path
    if not path.is_file():
        raise UnembedError(
            f"{path} is missing from the run: restore it, or repeat the run in a new folder"
        )
    held = safetensors_header(path)
    names = ("doc", "pos", STATES)
    if any(name not in held or held[name].shape[:1] != (part.rows,) for name in names):
        raise UnembedError(f"{path} is damaged: it lacks rows; repeat the run in a new folder")
    doc, pos = (integers(path, held[name]).astype(np.int64) for name in names[:2])
    starts = np.flatnonzero((np.diff(doc, prepend=-1) != 0) | (np.diff(pos, prepend=-2) != 1))
    lengths = np.diff(starts, append=len(doc))
    spans = Spans(doc[starts], pos[starts], lengths, np.full(len(starts), number), starts)
    return SafetensorsStates(path, held[STATES], part), spans


def _refuse_gaps(place: Path, spans: Spans, positions: int) -> None:
    doc, pos, end = spans.doc, spans.pos, spans.pos + spans.length
    twice = np.flatnonzero((doc[1:] == doc[:-1]) & (pos[1:] < end[:-1]))
    if twice.size or spans.positions != positions:
        raise UnembedError(
            f"{place} lists {spans.positions:,} states of {positions:,} positions, {twice.size:,} "
            "of them twice: repeat the run in a new folder"
        )


def _written_text(place: Path, run: FinishedRun, facts: Provenance, tokenizer: Any) -> Corpus:
    """The text of a run, token for token as it was read."""
    size = facts.text.tokenizer.rpartition("(")[2]
    if size != f"{len(tokenizer)} tokens)":
        raise UnembedError(
            f"{place} was made with a tokenizer of {size.rstrip(')')}, and this one has "
            f"{len(tokenizer)}: give the model that made it, {facts.model}"
        )
    summary = run.summary()
    names = read_table(place / DOCUMENTS)["name"].to_pylist()
    paths = sorted(part.path for part in run.listed if part.path.startswith(TEXT))

    def rows() -> Iterator[TokenRow]:
        for path in (place / one for one in paths):
            held = safetensors_header(path)
            ids = integers(path, held[TOKENS]).astype(np.int32)
            ends = np.cumsum(integers(path, held["row_tokens"])).tolist()
            documents = integers(path, held["row_document"]).tolist()
            counted = integers(path, held["counted"]).astype(bool) if "counted" in held else None
            for start, end, document in zip([0, *ends], ends, documents, strict=False):
                marked = None if counted is None else counted[start:end]
                yield names[document], ids[start:end], marked

    marked = bool(summary["counted"])
    found = token_rows(rows(), tokenizer, str(place), marked=marked, blank=facts.text.blank_rows)
    corpus = Corpus.of(found, tokenizer, facts.text.corpus, tuple(summary["remarks"]))
    corpus = replace(corpus, short_rows=facts.text.short_rows)
    if corpus.digest != facts.text.digest:
        raise UnembedError(
            f"{place} holds another text than its manifest says (digest {corpus.digest[:12]}, not "
            f"{facts.text.digest[:12]}): repeat the run in a new folder"
        )
    return corpus
