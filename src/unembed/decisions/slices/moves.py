"""Pictures of a decision before and after a change, and of its way through the depths."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float
from torch import Tensor

from unembed.decisions.audit.closest import CLOSEST_COLUMNS
from unembed.decisions.comparison.flip_list import FLIP_COLUMNS, Flip, surest_rows
from unembed.decisions.quoting import CONTEXT_TOKENS, Quoting
from unembed.decisions.slices.choose import number_of, row_of, told
from unembed.decisions.slices.decision import DecisionSlice, decision_of, unlike_row
from unembed.decisions.slices.slice import slice_between, slice_of_path
from unembed.decisions.slices.states import check_given, reading_again, states_at
from unembed.decisions.slices.walls import logits_of
from unembed.errors import UnembedError
from unembed.models.checkpoint import Checkpoint
from unembed.models.depths import Depths
from unembed.models.mode import restores_mode
from unembed.runs.phases import Phases
from unembed.runs.provenance import Provenance
from unembed.text.batches import Batch
from unembed.text.corpus import Corpus

if TYPE_CHECKING:
    from unembed.decisions.comparison.compare import Comparison
    from unembed.decisions.layers.layers import Layers

ChangedPosition = int | tuple[int | str, int] | Flip
"""The so manieth surest flip from 0, a document (number or name) and position, or a flip."""
MARGINS = ("before_margin", "after_margin")


@restores_mode
def move_at(
    comparison: Comparison,
    position: ChangedPosition,
    before: Checkpoint,
    after: Checkpoint,
    corpus: Corpus,
    *,
    half: float | None = None,
) -> DecisionSlice:
    """The cells around one decision before and after a change, ``slice_between`` of its states.

    Both states are read again, each by its own model in the batches of its audit; where one
    decides otherwise than the comparison has it, the picture says so. Of several seeds it is the
    first run of each side. ``half`` as for ``slice_between``.
    Raises UnembedError for a position that the comparison lacks, and for other models or texts.
    """
    row = _changed_row(comparison, position).to_pylist()[0]
    given = [
        (Provenance.from_json(comparison.provenance[side]), one, corpus)
        for side, one in (("before", before), ("after", after))
    ]
    for side, one in zip(("before", "after"), given, strict=True):
        check_given(*one, f"audit {side}")
    readings = [reading_again(*one) for one in given]
    old, new = (states_at(one, [(row["doc"], row["pos"])])[0] for one in readings)
    first, second = (one.head for one in readings)
    cut = slice_between(old, new, first, corpus.tokenizer, later_head=second, half=half)
    lead = np.sort(logits_of(second, new[None].to(second.weight.device).double())[0])[-2:]
    unlike = unlike_row(
        *(cut.marks[1].token, (lead[::-1] * second.scale).tolist(), second),
        *(row["after_top1"], row["after_margin"]),
    )
    remarks = (*cut.remarks, *(f"After: {words[0].lower()}{words[1:]}" for words in unlike))
    row |= {"top1": row["before_top1"], "margin": row["before_margin"]}
    return decision_of(row, replace(cut, remarks=remarks), first)


@restores_mode
def path_at(
    layers: Layers, position: tuple[int | str, int], checkpoint: Checkpoint, corpus: Corpus
) -> DecisionSlice:
    """The cells along a state's way through the depths of a run, ``slice_of_path`` of its states.

    They are what the head would read at each measured depth l, the tail replayed on each, from the
    model's own pass over the block of rows with the position; a state is labelled ``hl``.
    Raises UnembedError for a position that the run lacks, and for another model or text.
    """
    if not (isinstance(position, tuple) and len(position) == 2):
        raise UnembedError(f"{position!r} is no position: give (document, position)")
    number = number_of(layers.documents, position[0], "run")
    table = layers.table("normed", layers.blocks, CLOSEST_COLUMNS)
    rows = table.filter(pc.equal(table["doc"], number))
    quoting = Quoting(layers.vocabulary, layers.documents, CONTEXT_TOKENS)
    row = row_of(rows, number, position[1], quoting, "run").to_pylist()[0]
    check_given(layers.provenance, checkpoint, corpus, "run")
    reading = reading_again(layers.provenance, checkpoint, corpus)
    depths, model = Depths.of(checkpoint.model), reading.models[0]

    def read(batch: Batch) -> Float[Tensor, "positions depths dim"]:
        found = reading.streams(model, batch, Phases(), depths, layers.depths).replayed
        return torch.stack([found[depth] for depth in layers.depths], dim=1)

    states = states_at(reading, [(number, position[1])], read=read)[0]
    labels = [f"h{depth}" for depth in layers.depths]
    return decision_of(
        row, slice_of_path(states, reading.head, corpus.tokenizer, labels=labels), reading.head
    )


def _changed_row(comparison: Comparison, position: ChangedPosition) -> pa.Table:
    """The row of one position of a comparison, with its context."""
    quoting = Quoting(comparison.vocabulary, comparison.documents, CONTEXT_TOKENS)
    if isinstance(position, Flip):
        position = (position.document, position.position)
    parts = comparison.first_pair(FLIP_COLUMNS)
    if isinstance(position, int):
        found = surest_rows(parts, quoting, max(1, position + 1))
        if not 0 <= position < found.num_rows:
            raise UnembedError(
                f"position {position} is none of this comparison's flips: 0 is the surest, as in "
                "comparison.flips(); or give (document, position)"
            )
        return told(found.slice(position), quoting)
    document, place = position
    number = number_of(comparison.documents, document, "comparison")
    rows = pa.concat_tables([one.filter(pc.equal(one["doc"], number)) for one in parts])
    return row_of(rows, number, place, quoting, "comparison", MARGINS)
