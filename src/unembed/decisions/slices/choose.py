"""Which decision of an audit a picture is of, and the picture of any of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from unembed.decisions.audit.closest import CLOSEST_COLUMNS, ClosestCall, closest_rows
from unembed.decisions.quoting import CONTEXT_TOKENS, Quoting
from unembed.decisions.slices.decision import DecisionSlice, decision_slices
from unembed.decisions.slices.states import states_at
from unembed.errors import UnembedError, need
from unembed.models.checkpoint import Checkpoint
from unembed.models.mode import restores_mode
from unembed.models.model_pass import ModelPass, ReadingOptions
from unembed.runs.arrays import numbers_of, text_array
from unembed.runs.provenance import digest_of
from unembed.text.corpus import Corpus

if TYPE_CHECKING:
    from unembed.decisions.audit.audit import Audit

Position = int | tuple[int | str, int] | ClosestCall
"""The so manieth narrowest decision from 0, a document (number or name) and position, or a call."""


def narrowest(audit: Audit, n: int) -> pa.Table:
    """The n narrowest decisions, as ``audit.closest`` has them, with their rows' columns."""
    quoting = Quoting(audit.vocabulary, audit.documents, CONTEXT_TOKENS)
    return _told(closest_rows(audit._parts(CLOSEST_COLUMNS), quoting, n), quoting)


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
    names = audit.documents["name"].to_pylist()
    if isinstance(document, str):
        if document not in names:
            raise UnembedError(
                f"document {document!r} is none of this audit's: give one of audit.documents, "
                f"such as {names[0]!r}, or its number"
            )
        document = names.index(document)
    if not 0 <= document < len(names):
        raise UnembedError(
            f"document {document} is none of this audit's {len(names):,}: give 0 to "
            f"{len(names) - 1}, or its name"
        )
    rows = audit.of_documents([document])
    places = numbers_of(rows["pos"])
    at = np.flatnonzero(places == place)
    if not len(at):
        held = f"it has {places[0]} to {places[-1]} there" if len(places) else "it has none there"
        raise UnembedError(
            f"this audit has no position {place} in document {document} ({names[document]!r}): "
            f"{held}"
        )
    if rows["margin"][int(at[0])].as_py() is None:
        raise UnembedError(
            f"the logits at position {place} of document {document} were not finite: there are no "
            "cells to draw; give another position"
        )
    quoting = Quoting(audit.vocabulary, audit.documents, CONTEXT_TOKENS)
    return _told(quoting.named(rows.select(CLOSEST_COLUMNS), at), quoting)


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
    need(checkpoint, Checkpoint, "give unembed.load(name)")
    need(corpus, Corpus, "give Corpus.read(path, tokenizer)")
    facts = audit.provenance
    if corpus.digest != facts.text.digest:
        raise UnembedError(
            f"the text is not the audited one (digest {corpus.digest[:12]}, the audit has "
            f"{facts.text.digest[:12]}): read it as the audit did, {facts.text.corpus}"
        )
    digest = digest_of(checkpoint.model)
    if digest != facts.model_digest:
        raise UnembedError(
            f"{checkpoint.name} is not the audited model (digest {digest[:12]}, the audit has "
            f"{facts.model_digest[:12]}): give {facts.model} as it was, or audit it again"
        )
    options = ReadingOptions(
        context=facts.text.context,
        overflow=facts.text.overflow,  # type: ignore[arg-type]
        max_positions=facts.text.positions,
        batch_tokens=facts.batch_tokens,
        part_positions=facts.part_positions,
        spread=facts.options.get("spread", False),
        mix_lengths=facts.options.get("mixed_lengths", True),
    )
    reading = ModelPass.of(checkpoint.model.eval(), corpus, options, checkpoint.name)
    hidden = states_at(reading, [place])
    return decision_slices(row, hidden, reading.head, corpus.tokenizer, half=half)[0]


def _told(rows: pa.Table, quoting: Quoting) -> pa.Table:
    words = [quoting.word(token) for token in rows["target"].to_pylist()]
    return rows.append_column("target_text", text_array(words))
