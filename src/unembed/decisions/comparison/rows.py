"""The rows of a comparison: those of one pair of runs, or of several pairs below each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from unembed.decisions.audit.audit import Audit
from unembed.decisions.audit.finite_rows import FiniteRows
from unembed.decisions.comparison.divergences import DivergenceColumns
from unembed.decisions.comparison.pairing import (
    BOTH_FINITE,
    PairedAudits,
    PairedPositions,
    Side,
)
from unembed.decisions.comparison.positions import PositionFilter
from unembed.decisions.comparison.summary import Groups, bands_of
from unembed.decisions.tokens import (
    CLASSES,
    FREQUENCY_NAMES,
    buckets_of_counts,
    classes_of,
    frequency_buckets,
)
from unembed.errors import UnembedError
from unembed.runs.arrays import number_array, numbers_of, text_array

DIVERGENCES = tuple(field.name for field in fields(DivergenceColumns))


@dataclass(frozen=True)
class ComparedRows:
    """The positions of one pair of runs that are compared, read a part at a time.

    Besides the columns of both audits there are those of the groups, ``band_before``,
    ``band_after``, ``frequency``, ``token_class``; ``before_right`` and ``after_right``; and the
    divergences, where they are there. Frequencies count the targets of this text.
    """

    paired: PairedAudits
    rows: FiniteRows
    nonfinite: int
    divergence: bool

    @staticmethod
    def of(
        before: Audit,
        after: Audit,
        only: PositionFilter,
        divergence: Iterable[pa.Table] | None = None,
    ) -> ComparedRows:
        """The positions of one pair of runs that ``only`` keeps.

        ``divergence`` has a row for each of the audits', and is read many times. Raises
        UnembedError as ``PairedAudits.of`` and ``PositionFilter`` do.
        """
        paired = PairedAudits.of(before, after)
        finite = FiniteRows.of(paired.read, BOTH_FINITE)
        times = np.zeros(1, dtype=np.int64)
        for _, target in finite.parts("target"):
            found = np.bincount(target)
            longer, shorter = sorted((times, found), key=len, reverse=True)
            longer[: len(shorter)] += shorter
            times = longer
        tokens = np.flatnonzero(times)
        classes = np.full(len(times), -1, dtype=np.int8)
        classes[tokens] = classes_of([paired.vocabulary[token] for token in tokens.tolist()])
        read = _Reader(paired, buckets_of_counts(times), classes, divergence)
        rows = FiniteRows(read, *(getattr(finite, field.name) for field in fields(finite)[1:]))
        if only.words is not None:
            label = before.provenance.text.tokenizer
            only.refuse_other_tokenizer(tokens.tolist(), paired.vocabulary, label)
            rows = rows.where(only.chosen(rows, before.documents["name"].to_pylist()))
        nonfinite = finite.n_positions - finite.n
        return ComparedRows(paired, rows, nonfinite, divergence is not None)

    def tables(self, runs: Mapping[str, int]) -> Iterator[pa.Table]:
        """A row per position, a part at a time; ``runs`` are further columns of one number each."""
        sides = [f"{side}_{field.name}" for side in ("before", "after") for field in fields(Side)]
        names = [
            *("doc", "pos", "target"),
            *sides[: len(sides) // 2],
            "before_right",
            *sides[len(sides) // 2 :],
            "after_right",
            *(DIVERGENCES if self.divergence else ()),
            *("word_start", "token_class", "frequency"),
        ]
        for _, *columns in self.rows.parts(*names):
            held: dict[str, Any] = dict(zip(names, columns, strict=True))
            head = {name: held.pop(name) for name in ("doc", "pos", "target")}
            n = len(head["doc"])
            head |= {name: np.full(n, number, dtype=np.int16) for name, number in runs.items()}
            for name, labels, group in (
                ("class", CLASSES, held.pop("token_class")),
                ("frequency", FREQUENCY_NAMES, held.pop("frequency")),
            ):
                # Plain text: every part of a folder would bring a dictionary of its own.
                held[name] = text_array(labels).take(number_array(group))
            yield pa.table({**head, **held})


def in_pieces(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of so many, the last of those that are left."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        while sum(one.num_rows for one in held) >= rows:
            whole = pa.concat_tables(held)
            yield whole.slice(0, rows).combine_chunks()
            held = [whole.slice(rows)]
    if sum(one.num_rows for one in held):
        yield pa.concat_tables(held).combine_chunks()


def groups_of(paired: PairedPositions) -> Groups:
    """The groups of positions in memory."""
    tokens, where = np.unique(paired.target, return_inverse=True)
    classes = classes_of([paired.vocabulary[token] for token in tokens.tolist()])
    return Groups(
        bands_of(paired.before.margin),
        bands_of(paired.after.margin),
        frequency_buckets(paired.target).astype(np.int64),
        classes[where].astype(np.int64),
        paired.word_start.astype(np.int64),
    )


@dataclass(frozen=True)
class _Reader:
    """Reads the columns of ``ComparedRows``; ``frequency`` and ``classes`` are those of tokens."""

    paired: PairedAudits
    frequency: Int[np.ndarray, " tokens"]
    classes: Int[np.ndarray, " tokens"]
    divergence: Iterable[pa.Table] | None

    def __call__(self, names: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        made: dict[str, tuple[tuple[str, ...], Callable[..., np.ndarray]]] = {
            "band_before": (("before_margin",), bands_of),
            "band_after": (("after_margin",), bands_of),
            # Targets of rows that are left out may lie beyond.
            "frequency": (("target",), partial(np.take, self.frequency, mode="clip")),
            "token_class": (("target",), partial(np.take, self.classes, mode="clip")),
            "before_right": (("before_top1", "target"), np.equal),
            "after_right": (("after_top1", "target"), np.equal),
        }
        stored = [name for name in names if name not in made and name not in DIVERGENCES]
        stored += [name for one in names if one in made for name in made[one][0]]
        apart = [name for name in names if name in DIVERGENCES]
        divergences = _NextRows(self.divergence or ())
        for part in self.paired.read(tuple(dict.fromkeys(["doc", *stored]))):
            found = {}
            if apart:
                piece = divergences.take(len(part["doc"]))
                found = {name: numbers_of(piece[name]) for name in apart}
            for name in names:
                if name in made:
                    needed, make = made[name]
                    found[name] = make(*(part[one] for one in needed))
                elif name not in apart:
                    found[name] = part[name]
            yield found


class _NextRows:
    """The rows of tables that are read one after another, so many at a time."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        self.tables = iter(tables)
        self.held: list[pa.Table] = []

    def take(self, rows: int) -> pa.Table:
        """The next rows; raises UnembedError where there are fewer."""
        while not self.held or sum(table.num_rows for table in self.held) < rows:
            table = next(self.tables, None)
            if table is None:
                raise UnembedError(
                    "the divergences have fewer rows than the audits: give those of the same "
                    "live.audit_both"
                )
            self.held.append(table)
        whole = pa.concat_tables(self.held)
        self.held = [whole.slice(rows)]
        return whole.slice(0, rows)
