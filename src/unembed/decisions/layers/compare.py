"""Where along the depth a change altered decisions: compare_layers(before, after)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from unembed.decisions.comparison.pairing import differences_in_words, refuse_other_texts
from unembed.decisions.kept_states import position_keys
from unembed.decisions.layers.depth_changes import DepthChange, LensChange, lens_change
from unembed.decisions.layers.layers import Layers
from unembed.decisions.layers.names import LENSES, Lens
from unembed.decisions.layers.settling_changes import SettlingChange, settling_change
from unembed.decisions.layers.stack import LAYERS_RESAMPLES, LensStack
from unembed.decisions.tokens import classes_of, frequency_buckets
from unembed.errors import UnembedError, need
from unembed.runs.frames import Figures
from unembed.runs.record import record_from_json, record_to_json
from unembed.runs.run_record import RunRecord
from unembed.runs.table import as_text, in_columns
from unembed.short_repr import ShortRepr
from unembed.stats.forms import full, plus_minus, points, share, signed

MOST_ROWS = 14
"""Depths that the short table shows."""


@dataclass(frozen=True)
class NotCompared(ShortRepr):
    """A lens that is left out, and why."""

    lens: str
    reason: str


@dataclass(frozen=True)
class LayersComparison(RunRecord, Figures):
    """Two runs of layers over one text, position by position and depth by depth (theory §3, §4).

    ``before`` and ``after`` are the models. Of ``n_positions`` that both measured, ``n_left_out``
    are not finite at some depth of either and enter no figure. ``lenses`` are those that both
    measured, each model under its own; a fitted lens only at positions that neither fitted it on.
    ``settling`` is of the lens ``normed``, which every run has. ``notes`` say what differs besides
    the model.
    """

    KIND: ClassVar[str] = "depths"

    before: str
    after: str
    blocks: int
    depths: tuple[int, ...]
    n_positions: int
    n_documents: int
    n_left_out: int
    lenses: tuple[LensChange, ...]
    not_compared: tuple[NotCompared, ...]
    settling: SettlingChange
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        plain: dict[str, Any] = record_to_json(self)
        return plain

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> LayersComparison:
        """Read back what ``to_json`` wrote."""
        return record_from_json(cls, values)

    def lens(self, name: str) -> LensChange:
        """The figures of one lens. Raises UnembedError for one that was not compared."""
        found = {one.lens: one for one in self.lenses}
        if name not in found:
            reasons = {one.lens: one.reason for one in self.not_compared}
            raise UnembedError(
                f"the {name} lens was not compared ({reasons.get(name, 'there is none')}): take "
                f"one of {', '.join(found)}"
            )
        return found[name]

    @property
    def own(self) -> LensChange:
        """The figures under the models' own way to the head, the lens ``normed``."""
        return self.lens(LENSES[0])

    def __str__(self) -> str:
        return "\n\n".join((in_columns(change_table(self)), as_text(headline(self))))

    def _phrases(self) -> Iterator[str]:
        yield f"{self.before} → {self.after}"
        yield f"{len(self.depths)} of {self.blocks + 1} depths"
        yield f"{self.n_positions:,} positions in {self.n_documents:,} documents"


def compare_layers(
    before: Layers,
    after: Layers,
    *,
    out: str | Path | None = None,
    command: str = "",
    resamples: int | None = None,
    seed: int = 0,
) -> LayersComparison:
    """Compare two runs of layers over one text: where along the depth did decisions change?

    Rows pair on (document, position) and depth, under each lens that both measured: the share of
    leading tokens that changed, how agreement with the final decision, accuracy, loss, KL, margin
    and scale-free margin moved, and at which depth decisions settle before and after.
    ``compare_layers(a, a)`` is zero throughout. With ``out`` the run is kept there. Raises
    UnembedError where the runs are not of one text, tokenizer and windows, or where their blocks or
    depths differ. Source: theory §3, §4.
    """
    for side in (before, after):
        need(side, Layers, "give two of Layers.load(folder), or of layers(model, corpus)")
    resamples = LAYERS_RESAMPLES if resamples is None else resamples
    refuse_other_depths(before, after)
    refuse_other_texts(before, after)

    def compared() -> LayersComparison:
        return _compared(before, after, resamples, seed)

    if out is None:
        return compared()
    key = {
        "before": before.provenance.to_json(),
        "after": after.provenance.to_json(),
        "resamples": resamples,
        "seed": seed,
    }
    return LayersComparison.keep(out, key, lambda _: compared().to_json(), command=command)


def refuse_other_depths(before: Layers, after: Layers) -> None:
    """Raise UnembedError, quoting both, where two runs are of other depths."""
    if before.blocks != after.blocks:
        raise UnembedError(
            f"the models have {before.blocks} blocks before and {after.blocks} after: depths can "
            "be compared only between models of as many blocks"
        )
    if before.depths != after.depths:
        old, new = (",".join(map(str, run.depths)) for run in (before, after))
        raise UnembedError(
            f"the runs are of other depths, {old} before and {new} after: repeat one with the "
            "other's --depths"
        )


def paired(before: LensStack, after: LensStack) -> tuple[LensStack, LensStack]:
    """Both stacks at the positions that are in both, in order of the text.

    Raises UnembedError where one position is another target in each.
    """
    first, second = (position_keys(stack.doc, stack.pos) for stack in (before, after))
    _, old, new = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    pair = before.rows(old), after.rows(new)
    differs = np.flatnonzero(pair[0].target != pair[1].target)
    if differs.size:
        at = int(differs[0])
        raise UnembedError(
            f"the two runs have one text but other tokens: position {pair[0].pos[at]} of document "
            f"{pair[0].doc[at]} is {pair[0].target[at]} before and {pair[1].target[at]} after; "
            "repeat the older one with this version"
        )
    return pair


def _compared(before: Layers, after: Layers, resamples: int, seed: int) -> LayersComparison:
    changes, left = [], []
    own = paired(before.stack(LENSES[0]), after.stack(LENSES[0]))
    for lens in LENSES:
        reason = _missing(lens, before, after)
        both = own
        if reason is None and lens != LENSES[0]:
            both = paired(before.stack(lens), after.stack(lens))
            if own[0].n and not both[0].n:
                reason = "no position was measured in both, for each was fitted on the other's half"
        if reason is None:
            changes.append(lens_change(*both, resamples=resamples, seed=seed))
        else:
            left.append(NotCompared(lens, reason))
    texts = {**before.vocabulary.texts, **after.vocabulary.texts}
    tokens, where = np.unique(own[0].target, return_inverse=True)
    classes = classes_of([texts[token] for token in tokens.tolist()])[where]
    return LayersComparison(
        before=before.provenance.model,
        after=after.provenance.model,
        blocks=before.blocks,
        depths=before.depths,
        n_positions=len(before),
        n_documents=own[0].clusters[1],
        n_left_out=len(before) - own[0].n,
        lenses=tuple(changes),
        not_compared=tuple(left),
        settling=settling_change(
            *own, classes, frequency_buckets(own[0].target), resamples=resamples, seed=seed
        ),
        notes=_notes(before, after),
    )


def _missing(lens: Lens, before: Layers, after: Layers) -> str | None:
    """Why a lens cannot be compared; None where both runs measured it."""
    for side, run in (("before", before), ("after", after)):
        if lens not in run.lenses:
            why = run.provenance.options["not_measured"].get(lens, "it was not asked for")
            return f"not measured {side}: {why}"
    return None


def _notes(before: Layers, after: Layers) -> tuple[str, ...]:
    """What differs besides the model."""
    notes = list(differences_in_words(before.provenance, after.provenance))
    tails = [run.provenance.options["tail"] for run in (before, after)]
    if tails[0] != tails[1]:
        notes.append(f"the tail differs: {tails[0]} before, {tails[1]} after")
    return tuple(notes)


def change_table(found: LayersComparison) -> list[tuple[str, ...]]:
    """The depths under the models' own tails, the first and the last of many among them."""
    header = ("depth", "changed", "Δ as the last", "Δ accuracy", "Δ margin", "Δ KL (nats)")
    rows = found.own.by_depth
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), MOST_ROWS)).round().astype(int)
    return [header, *(_cells(rows[at]) for at in chosen.tolist())]


def headline(found: LayersComparison) -> list[tuple[str, str]]:
    """The short table below that of the depths: name and value with its interval."""
    settled = found.settling.everywhere
    of = f"{found.n_positions - found.n_left_out:,} in {found.n_documents:,} documents"
    rows = [
        ("positions", of),
        ("depths", f"{len(found.depths)} of {found.blocks + 1}"),
        ("changed at the end", full(found.own.by_depth[-1].changed, share)),
        ("settling depth, difference", full(settled.mean.difference, signed, "blocks")),
        ("settle earlier", full(settled.earlier, share)),
        ("settle later", full(settled.later, share)),
        *((f"{one.lens} lens", f"not compared: {one.reason}") for one in found.not_compared),
    ]
    if found.n_left_out:
        rows.append(("left out", f"{found.n_left_out:,} positions, not finite at some depth"))
    return rows + [("note", note) for note in found.notes]


def _cells(row: DepthChange) -> tuple[str, ...]:
    return (
        str(row.depth),
        plus_minus(row.changed, share),
        plus_minus(row.agreement.difference, points),
        plus_minus(row.accuracy.difference, points),
        plus_minus(row.margin.difference, signed),
        plus_minus(row.kl_nats.difference, signed),
    )
