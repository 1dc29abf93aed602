"""Two audits of one text, row for row, or the reason why they cannot be paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int, Shaped

from unembed.decisions.audit.audit import Audit
from unembed.errors import UnembedError
from unembed.runs.provenance import Provenance
from unembed.text.vocabulary import Vocabulary

MATTERS = {
    "head_tokens": "the number of tokens that the head decides between",
    "model_dtype": "the model's dtype",
    "device": "the device",
    "cpu": "the processor",
    "product_route": "the head's product",
    "body_product": "the body's product",
    "epilogue": "the kernel",
    "batch_tokens": "the batch size",
    "part_positions": "the part size",
    "threads": "the number of threads of a batch",
    "torch": "the version of torch",
    "transformers": "the version of transformers",
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
class PairedPositions:
    """Positions that both audits measured, in order of the text.

    ``row`` is each one's row in the audits' tables. ``nonfinite`` counts the positions left out
    because either audit has a logit there that is not finite. ``notes`` say what differs besides
    the model, one sentence each.
    """

    row: Int[np.ndarray, " positions"]
    doc: Int[np.ndarray, " positions"]
    pos: Int[np.ndarray, " positions"]
    target: Int[np.ndarray, " positions"]
    word_start: Bool[np.ndarray, " positions"]
    before: Side
    after: Side
    vocabulary: Vocabulary
    nonfinite: int
    notes: tuple[str, ...]

    def rows(self, chosen: Bool[np.ndarray, " positions"]) -> PairedPositions:
        """The chosen positions."""
        return PairedPositions(
            self.row[chosen],
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


def pair(before: Audit, after: Audit) -> PairedPositions:
    """PairedPositions two audits on (document, position).

    Raises UnembedError where text, tokenizer or windows differ, quoting both, with the first
    document that differs where the text does. Source: theory §4.
    """
    _refuse_other_texts(before, after)
    keys = {name: _column(before, name) for name in ("doc", "pos", "target", "word_start")}
    for name, column in keys.items():
        _refuse_other_keys(name, column, _column(after, name))
    sides = [
        Side(**{name: _column(audit, name) for name in Side.__dataclass_fields__})
        for audit in (before, after)
    ]
    finite = np.isfinite(sides[0].margin) & np.isfinite(sides[1].margin)
    texts = {**before.vocabulary.texts, **after.vocabulary.texts}
    whole = PairedPositions(
        row=np.arange(len(finite)),
        **keys,
        before=sides[0],
        after=sides[1],
        vocabulary=Vocabulary(texts),
        nonfinite=int(len(finite) - finite.sum()),
        notes=_notes(before.provenance, after.provenance),
    )
    return whole if whole.nonfinite == 0 else whole.rows(finite)


def pooled(pairs: Sequence[PairedPositions]) -> PairedPositions:
    """The rows of several pairs one below the other, in the order of the pairs.

    Documents keep their numbers, so that the rows of one document are one cluster in all pairs;
    ``nonfinite`` is the sum. Rows of different pairs may be one position: nothing that reads
    consecutive rows as text may read past the first pair. One pair is returned as it is. Raises
    UnembedError where the pairs spell a token differently.
    """
    if len(pairs) == 1:
        return pairs[0]
    texts: dict[int, str] = {}
    for one in pairs:
        refuse_other_tokens(texts, one.vocabulary.texts, "in one pair of runs", "in another")
        texts |= one.vocabulary.texts

    def stacked(name: str) -> Shaped[np.ndarray, " positions"]:
        return np.concatenate([getattr(one, name) for one in pairs])

    def side(name: str) -> Side:
        sides = [vars(getattr(one, name)) for one in pairs]
        return Side(**{key: np.concatenate([one[key] for one in sides]) for key in sides[0]})

    return PairedPositions(
        **{name: stacked(name) for name in ("row", "doc", "pos", "target", "word_start")},
        before=side("before"),
        after=side("after"),
        vocabulary=Vocabulary(texts),
        nonfinite=sum(one.nonfinite for one in pairs),
        notes=tuple(dict.fromkeys(note for one in pairs for note in one.notes)),
    )


def vocabulary_size(label: str) -> str:
    """A tokenizer's size from its label: one may load as its slow or its fast class."""
    return label.rpartition("(")[2]


def refuse_other_tokens(
    ours: Mapping[int, str], theirs: Mapping[int, str], where: str, elsewhere: str
) -> None:
    """Raise UnembedError where a token that both know has two texts, quoting both."""
    for token in ours.keys() & theirs.keys():
        if ours[token] != theirs[token]:
            raise UnembedError(
                f"the tokenizers differ: id {token} is {ours[token]!r} {where} and "
                f"{theirs[token]!r} {elsewhere}"
            )


def _refuse_other_texts(before: Audit, after: Audit) -> None:
    a, b = before.provenance.text, after.provenance.text
    if vocabulary_size(a.tokenizer) != vocabulary_size(b.tokenizer):
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
    refuse_other_tokens(before.vocabulary.texts, after.vocabulary.texts, "before", "after")


def _refuse_other_keys(
    name: str, before: Shaped[np.ndarray, " positions"], after: Shaped[np.ndarray, " others"]
) -> None:
    if np.array_equal(before, after):
        return
    if len(before) != len(after):
        how = f"{len(before)} rows before, {len(after)} after"
    else:
        row = int(np.flatnonzero(before != after)[0])
        how = f"row {row} is {before[row]} before and {after[row]} after"
    raise UnembedError(
        f"the two audits have one text but differ in column {name!r} ({how}): repeat the older one "
        "with this version"
    )


def _column(audit: Audit, name: str) -> Shaped[np.ndarray, " positions"]:
    try:
        return audit.column(name)
    except (KeyError, pa.ArrowInvalid):
        where = audit.folder or f"the audit of {audit.provenance.model}"
        raise UnembedError(
            f"{where} has no column {name!r}: an older version wrote it; repeat the audit in a "
            "new folder"
        ) from None


def _first_difference(before: Audit, after: Audit) -> str:
    """The first document with other tokens; other names alone make no other text."""
    a, b = (audit.documents.to_pylist() for audit in (before, after))
    number = min(len(a), len(b))
    for i, (left, right) in enumerate(zip(a, b, strict=False)):
        if any(left[name] != right[name] for name in ("first_token", "positions")):
            number = i
            break
    (doc, target), (_, other) = (
        [_column(audit, name) for name in ("doc", "target")] for audit in (before, after)
    )
    # Up to that document, as many positions in each: rows of one number are the same position.
    same = sum(one["positions"] for one in a[:number])
    where = np.flatnonzero(target[:same] != other[:same])
    if len(where):
        number = int(doc[where[0]])
    if number == min(len(a), len(b)):
        if len(a) != len(b):
            return f"{len(a)} documents before, {len(b)} after"
        return "what was measured is the same, so they differ in what the audits left out"
    left, right = a[number], b[number]
    equal = left["positions"] == right["positions"]
    return (
        f"the first document that differs is {number}: {left['name']!r} of {left['positions']} "
        f"positions before, {right['name']!r} of {right['positions']} after"
        + (", with other tokens" if equal else "")
    )


def _notes(before: Provenance, after: Provenance) -> tuple[str, ...]:
    was, now = ({**vars(one), **one.options, **one.versions} for one in (before, after))
    return tuple(
        f"{words} differs: {was.get(name)} before, {now.get(name)} after"
        for name, words in MATTERS.items()
        if was.get(name) != now.get(name)
    )
