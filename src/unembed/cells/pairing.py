"""Two audits of one text, row for row, or the reason why they cannot be paired."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from unembed.cells.audit import Audit
from unembed.errors import UnembedError
from unembed.provenance import Provenance
from unembed.vocabulary import Vocabulary

MATTERS = {
    "model_dtype": "the model's dtype",
    "device": "the device",
    "cpu": "the processor",
    "product_route": "the head's product",
    "epilogue": "the kernel",
    "batch_tokens": "the batch size",
    "threads": "the threads of a batch",
}
"""What two audits may differ in besides their models, for float rounding follows it."""


@dataclass(frozen=True)
class Side:
    """One audit's columns of the paired positions; margins in logits, losses in nats."""

    top1: Int[np.ndarray, " positions"]
    top2: Int[np.ndarray, " positions"]
    margin: Float[np.ndarray, " positions"]
    relative_distance: Float[np.ndarray, " positions"]
    nll: Float[np.ndarray, " positions"]
    entropy: Float[np.ndarray, " positions"]
    confidence: Float[np.ndarray, " positions"]
    sum_p2: Float[np.ndarray, " positions"]

    def rows(self, chosen: Bool[np.ndarray, " positions"]) -> Side:
        """The chosen positions."""
        return Side(**{name: column[chosen] for name, column in vars(self).items()})


@dataclass(frozen=True)
class Pair:
    """Positions that both audits measured, in order of the text.

    ``nonfinite`` counts the positions left out because either audit has a logit there that is not
    finite. ``notes`` say what differs besides the model, one sentence each.
    """

    doc: Int[np.ndarray, " positions"]
    pos: Int[np.ndarray, " positions"]
    target: Int[np.ndarray, " positions"]
    word_start: Bool[np.ndarray, " positions"]
    before: Side
    after: Side
    vocabulary: Vocabulary
    nonfinite: int
    notes: tuple[str, ...]

    def rows(self, chosen: Bool[np.ndarray, " positions"]) -> Pair:
        """The chosen positions."""
        return Pair(
            self.doc[chosen],
            self.pos[chosen],
            self.target[chosen],
            self.word_start[chosen],
            self.before.rows(chosen),
            self.after.rows(chosen),
            self.vocabulary,
            self.nonfinite,
            self.notes,
        )


def pair(before: Audit, after: Audit) -> Pair:
    """Pair two audits on (document, position).

    Raises UnembedError where text, tokenizer or windows differ, quoting both, with the first
    document that differs where the text does. Source: SPEC §4.
    """
    _refuse_other_texts(before, after)
    keys = {name: before.column(name) for name in ("doc", "pos", "target", "word_start")}
    for name, column in keys.items():
        if not np.array_equal(column, after.column(name)):
            raise UnembedError(
                f"the two audits have one text but differ in column {name!r}: repeat the older one "
                "with this version"
            )
    sides = [
        Side(**{name: audit.column(name) for name in Side.__dataclass_fields__})
        for audit in (before, after)
    ]
    finite = np.isfinite(sides[0].margin) & np.isfinite(sides[1].margin)
    texts = {**before.vocabulary.texts, **after.vocabulary.texts}
    whole = Pair(
        **keys,
        before=sides[0],
        after=sides[1],
        vocabulary=Vocabulary(texts),
        nonfinite=int(len(finite) - finite.sum()),
        notes=_notes(before.provenance, after.provenance),
    )
    return whole if whole.nonfinite == 0 else whole.rows(finite)


def _refuse_other_texts(before: Audit, after: Audit) -> None:
    a, b = before.provenance.text, after.provenance.text
    if _tokenizer(a.tokenizer) != _tokenizer(b.tokenizer):
        raise UnembedError(
            f"the tokenizers differ, {a.tokenizer} before and {b.tokenizer} after: decisions can "
            "be compared only over one vocabulary"
        )
    if a.digest != b.digest:
        raise UnembedError(
            f"the texts differ (digest {a.digest[:12]} of {a.corpus!r} before, {b.digest[:12]} of "
            f"{b.corpus!r} after); {_first_difference(before, after)}: audit both on one text"
        )
    for name in ("context", "overflow", "positions"):
        if getattr(a, name) != getattr(b, name):
            raise UnembedError(
                f"the audits cut one text differently: {name} {getattr(a, name)} before, "
                f"{getattr(b, name)} after; give both the same --context, --overflow and "
                "--max-positions"
            )
    for token in before.vocabulary.texts.keys() & after.vocabulary.texts.keys():
        if before.vocabulary[token] != after.vocabulary[token]:
            raise UnembedError(
                f"the tokenizers differ: id {token} is {before.vocabulary[token]!r} before and "
                f"{after.vocabulary[token]!r} after"
            )


def _tokenizer(label: str) -> str:
    """The size, without the class: one tokenizer may load as its slow or its fast class."""
    return label.rpartition("(")[2]


def _first_difference(before: Audit, after: Audit) -> str:
    a, b = (audit.documents.to_pylist() for audit in (before, after))
    for number, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return (
                f"the first document that differs is {number}: {left['name']!r} of "
                f"{left['positions']} positions before, {right['name']!r} of {right['positions']} "
                "after"
            )
    if len(a) != len(b):
        return f"{len(a)} documents before, {len(b)} after"
    docs, targets = (
        [audit.column(name) for audit in (before, after)] for name in ("doc", "target")
    )
    shared = min(len(targets[0]), len(targets[1]))
    where = np.flatnonzero(targets[0][:shared] != targets[1][:shared])
    if len(where) == 0:
        return "the positions measured are the same, so they differ beyond --max-positions"
    number = int(docs[0][where[0]])
    return f"the first document that differs is {number}: {a[number]['name']!r}"


def _notes(before: Provenance, after: Provenance) -> tuple[str, ...]:
    return tuple(
        f"{words} differs: {getattr(before, name)} before, {getattr(after, name)} after"
        for name, words in MATTERS.items()
        if getattr(before, name) != getattr(after, name)
    )
