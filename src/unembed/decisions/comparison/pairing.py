"""Two audits of one text, row for row, or the reason why they cannot be paired."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int, Shaped

from unembed.decisions.audit.audit import Audit
from unembed.decisions.audit.finite_rows import FiniteRows
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
    "block_tokens": "the size of the body's blocks",
    "part_positions": "the part size",
    "threads": "the number of threads of a batch",
    "torch": "the version of torch",
    "transformers": "the version of transformers",
}
"""What two audits may differ in besides their models, for float rounding follows it."""


KEYS = ("doc", "pos", "target", "word_start")
"""Columns that are equal in two audits of one text."""

BOTH_FINITE = ("before_margin", "after_margin")
"""Columns that are numbers where both audits measured a position."""


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


@runtime_checkable
class Reading(Protocol):
    """What a model measured over a text, a row a position, and where that comes from."""

    @property
    def provenance(self) -> Provenance:
        """The text and how it was read."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The texts of tokens."""

    @property
    def documents(self) -> pa.Table:
        """A row a document."""

    def column(self, name: str, /) -> Shaped[np.ndarray, " positions ..."]:
        """One column of all positions."""


@dataclass(frozen=True)
class PairedAudits:
    """Two audits of one text, row for row, whose columns are read a part at a time.

    ``notes`` say what differs besides the model, one sentence each.
    """

    before: Audit
    after: Audit
    vocabulary: Vocabulary
    notes: tuple[str, ...]

    @staticmethod
    def of(before: Audit, after: Audit) -> PairedAudits:
        """Pair two audits on (document, position).

        Raises UnembedError where text, tokenizer or windows differ, quoting both, with the first
        document that differs where the text does. Source: theory §4.
        """
        refuse_other_texts(before, after)
        sides = list(Side.__dataclass_fields__)
        for names in (KEYS, sides):
            for one in (before, after):
                one.check_columns(names)
        texts = {**before.vocabulary.texts, **after.vocabulary.texts}
        notes = differences_in_words(before.provenance, after.provenance)
        paired = PairedAudits(before, after, Vocabulary(texts), notes)
        paired._refuse_other_keys()
        return paired

    def read(self, names: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """Columns of both, ``before_margin`` and ``after_margin``; others are those before."""
        old = {name: name.removeprefix("before_") for name in names if name[:6] != "after_"}
        new = {name: name.removeprefix("after_") for name in names if name[:6] == "after_"}
        for one, two in self._aligned([*old.values()], [*new.values()]):
            part = {name: one[column] for name, column in old.items()}
            part |= {name: two[column] for name, column in new.items()}
            yield part

    def _aligned(
        self, old: Sequence[str], new: Sequence[str]
    ) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
        """The same rows of both, as many as lie in one part of each; ``doc`` is always there."""
        sides = [
            audit.column_parts(tuple(dict.fromkeys(["doc", *names])))
            for audit, names in ((self.before, old), (self.after, new))
        ]
        held: list[dict[str, np.ndarray]] = [{"doc": np.zeros(0)}, {"doc": np.zeros(0)}]
        while True:
            for i, side in enumerate(sides):
                while not len(held[i]["doc"]):
                    part = next(side, None)
                    if part is None:
                        return
                    held[i] = part
            n = min(len(part["doc"]) for part in held)
            one, two = ({name: c[:n] for name, c in part.items()} for part in held)
            held = [{name: c[n:] for name, c in part.items()} for part in held]
            yield one, two

    def _refuse_other_keys(self) -> None:
        counts = [
            sum(len(part["doc"]) for part in audit.column_parts(("doc",)))
            for audit in (self.before, self.after)
        ]
        if counts[0] != counts[1]:
            raise _other_keys("doc", f"{counts[0]} rows before, {counts[1]} after")
        found: dict[str, str] = {}
        row = 0
        for one, two in self._aligned(KEYS, KEYS):
            for name in KEYS:
                differs = np.flatnonzero(one[name] != two[name])
                if differs.size and name not in found:
                    first = differs[0]
                    where = f"row {row + first} is {one[name][first]} before"
                    found[name] = f"{where} and {two[name][first]} after"
            row += len(one["doc"])
        for name in KEYS:
            if name in found:
                raise _other_keys(name, found[name])


def pair(before: Audit, after: Audit) -> PairedPositions:
    """The positions of two audits in memory, those that are finite in both, see ``PairedAudits``.

    Raises UnembedError as ``PairedAudits.of`` does.
    """
    paired = PairedAudits.of(before, after)
    rows = FiniteRows.of(paired.read, BOTH_FINITE)
    names = [f"{side}_{name}" for side in ("before", "after") for name in Side.__dataclass_fields__]
    parts = list(rows.parts(*KEYS, *names))
    columns = [np.concatenate(column) for column in zip(*(part[1:] for part in parts), strict=True)]
    one, two = columns[len(KEYS) : len(KEYS) + len(names) // 2], columns[-len(names) // 2 :]
    return PairedPositions(
        row=rows.row_numbers(),
        **dict(zip(KEYS, columns, strict=False)),
        before=Side(*one),
        after=Side(*two),
        vocabulary=paired.vocabulary,
        nonfinite=rows.n_positions - rows.n,
        notes=paired.notes,
    )


def pooled_vocabulary(pairs: Sequence[PairedAudits]) -> Vocabulary:
    """The texts of all pairs. Raises UnembedError where two spell a token differently."""
    texts: dict[int, str] = {}
    for one in pairs:
        refuse_other_tokens(texts, one.vocabulary.texts, "in one pair of runs", "in another")
        texts |= one.vocabulary.texts
    return Vocabulary(texts)


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


def refuse_other_texts(before: Reading, after: Reading) -> None:
    """Raise UnembedError, quoting both, where text, tokenizer or windows of two runs differ."""
    a, b = before.provenance.text, after.provenance.text
    if vocabulary_size(a.tokenizer) != vocabulary_size(b.tokenizer):
        raise UnembedError(
            f"the tokenizers differ, {a.tokenizer} before and {b.tokenizer} after: decisions can "
            "be compared only over one vocabulary"
        )
    if a.digest != b.digest:
        raise UnembedError(
            f"the texts differ (digest {a.digest[:12]} of {a.corpus!r} before, {b.digest[:12]} of "
            f"{b.corpus!r} after); {_first_difference(before, after)}: run both on one text"
        )
    for name in ("context", "overflow", "positions"):
        if getattr(a, name) != getattr(b, name):
            raise UnembedError(
                f"the runs cut one text differently: {name} {getattr(a, name)} before, "
                f"{getattr(b, name)} after; give both the same --context, --overflow and "
                "--max-positions"
            )
    refuse_other_tokens(before.vocabulary.texts, after.vocabulary.texts, "before", "after")


def _other_keys(name: str, how: str) -> UnembedError:
    return UnembedError(
        f"the two audits have one text but differ in column {name!r} ({how}): repeat the older one "
        "with this version"
    )


def _first_difference(before: Reading, after: Reading) -> str:
    """The first document with other tokens; other names alone make no other text."""
    a, b = (run.documents.to_pylist() for run in (before, after))
    number = min(len(a), len(b))
    for i, (left, right) in enumerate(zip(a, b, strict=False)):
        if any(left[name] != right[name] for name in ("first_token", "positions")):
            number = i
            break
    (doc, target), (_, other) = (
        [run.column(name) for name in ("doc", "target")] for run in (before, after)
    )
    # Up to that document, as many positions in each: rows of one number are the same position.
    same = sum(one["positions"] for one in a[:number])
    where = np.flatnonzero(target[:same] != other[:same])
    if len(where):
        number = int(doc[where[0]])
    if number == min(len(a), len(b)):
        if len(a) != len(b):
            return f"{len(a)} documents before, {len(b)} after"
        return "what was measured is the same, so they differ in what the runs left out"
    left, right = a[number], b[number]
    equal = left["positions"] == right["positions"]
    return (
        f"the first document that differs is {number}: {left['name']!r} of {left['positions']} "
        f"positions before, {right['name']!r} of {right['positions']} after"
        + (", with other tokens" if equal else "")
    )


def differences_in_words(before: Provenance, after: Provenance) -> tuple[str, ...]:
    """What of ``MATTERS`` differs between two runs, one sentence each; not what one has none of."""
    was, now = ({**vars(one), **one.options, **one.versions} for one in (before, after))
    return tuple(
        f"{words} differs: {was.get(name)} before, {now.get(name)} after"
        for name, words in MATTERS.items()
        if was.get(name) != now.get(name) and None not in (was.get(name, ""), now.get(name, ""))
    )
