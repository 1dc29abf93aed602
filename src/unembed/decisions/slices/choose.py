"""Which decision of an audit a picture is of, and the picture of any of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from unembed.decisions.audit.closest import CLOSEST_COLUMNS, ClosestCall, closest_rows
from unembed.decisions.quoting import CONTEXT_TOKENS, Quoting
from unembed.decisions.slices.decision import DecisionSlice, decision_slices
from unembed.decisions.slices.states import check_given, reading_again, states_at
from unembed.errors import UnembedError
from unembed.models.checkpoint import Checkpoint
from unembed.models.mode import restores_mode
from unembed.runs.arrays import numbers_of, text_array
from unembed.text.corpus import Corpus

if TYPE_CHECKING:
    from unembed.decisions.audit.audit import Audit

Position = int | tuple[int | str, int] | ClosestCall
"""The so manieth narrowest decision from 0, a document (number or name) and position, or a call."""


def narrowest(audit: Audit, n: int) -> pa.Table:
    """The n narrowest decisions, as ``audit.closest`` has them, with their rows' columns."""
    quoting = Quoting(audit.vocabulary, audit.documents, CONTEXT_TOKENS)
    return told(closest_rows(audit._parts(CLOSEST_COLUMNS), quoting, n), quoting)


def row_at(audit: Audit, position: Position) -> pa.Table:
    """The row of one decision, with its context. Raises UnembedError where the audit has none."""
    if isinstance(position, ClosestCall):
        position = (position.document, position.position)
    if isinstance(position, int):
        if not 0 <= position < len(audit):
            raise UnembedError(
                f"position {position} is none of the {len(audit):,} of this audit: 0 is its "
                "narrowest decision, as in audit.closest(); or give (document, position)"
            )
        found = narrowest(audit, position + 1)
        if found.num_rows <= position:
            raise UnembedError(
                f"position {position} is beyond the {found.num_rows:,} decisions with finite "
                "logits: give a smaller number, or (document, position)"
            )
        return found.slice(position)
    document, place = position
    number = number_of(audit.documents, document, "audit")
    quoting = Quoting(audit.vocabulary, audit.documents, CONTEXT_TOKENS)
    rows = audit.of_documents([number]).select(CLOSEST_COLUMNS)
    return row_of(rows, number, place, quoting, "audit")


def number_of(documents: pa.Table, document: int | str, run: str) -> int:
    """A document's number, from that or its name. Raises UnembedError where a run has none."""
    names = documents["name"].to_pylist()
    if isinstance(document, str):
        if document not in names:
            raise UnembedError(
                f"document {document!r} is none of this {run}'s: give one of {run}.documents, "
                f"such as {names[0]!r}, or its number"
            )
        return int(names.index(document))
    if not 0 <= document < len(names):
        raise UnembedError(
            f"document {document} is none of this {run}'s {len(names):,}: give 0 to "
            f"{len(names) - 1}, or its name"
        )
    return document


def row_of(
    rows: pa.Table,
    document: int,
    place: int,
    quoting: Quoting,
    run: str,
    margins: Sequence[str] = ("margin",),
) -> pa.Table:
    """The row of one position among those of a document, with its context.

    Raises UnembedError where there is none, and where one of its ``margins`` is not finite.
    """
    places = numbers_of(rows["pos"])
    at = np.flatnonzero(places == place)
    if not len(at):
        held = f"it has {places[0]} to {places[-1]} there" if len(places) else "it has none there"
        name = quoting.documents["name"][document].as_py()
        raise UnembedError(
            f"this {run} has no position {place} in document {document} ({name!r}): {held}"
        )
    if any(rows[margin][int(at[0])].as_py() is None for margin in margins):
        raise UnembedError(
            f"the logits at position {place} of document {document} were not finite: there are no "
            "cells to draw; give another position"
        )
    return told(quoting.named(rows, at), quoting)


@restores_mode
def slice_at(
    audit: Audit,
    position: Position = 0,
    checkpoint: Checkpoint | None = None,
    corpus: Corpus | None = None,
    *,
    half: float | None = None,
) -> DecisionSlice:
    """The cells around one decision of an audit.

    Those that the audit keeps need no model. Of another position the state is read again, in the
    block of rows in which the audit read it, by the audited model on the audited text; where its
    margin is not the audit's, the picture says so. ``half`` as for ``slice_of``.
    Raises UnembedError for a position that the audit lacks, and for another model or text.
    """
    row = row_at(audit, position)
    place = (row["doc"][0].as_py(), row["pos"][0].as_py())
    for kept in audit.slices:
        if (kept.doc, kept.position) == place and half is None:
            return kept
    if checkpoint is None or corpus is None:
        raise UnembedError(
            f"this audit keeps no such picture of document {place[0]} position {place[1]}: give "
            "the model and the text, plot.slice(position, checkpoint, corpus)"
        )
    check_given(audit.provenance, checkpoint, corpus, "audit")
    reading = reading_again(audit.provenance, checkpoint, corpus)
    hidden = states_at(reading, [place])
    return decision_slices(row, hidden, reading.head, corpus.tokenizer, half=half)[0]


def told(rows: pa.Table, quoting: Quoting) -> pa.Table:
    """The rows with the text of each one's target."""
    words = [quoting.word(token) for token in rows["target"].to_pylist()]
    return rows.append_column("target_text", text_array(words))
