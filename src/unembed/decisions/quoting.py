"""Positions as text: the document's name, what stands before, and the tokens themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from unembed.decisions.audit.run import MENTIONED
from unembed.errors import UnembedError
from unembed.runs.arrays import number_array, numbers_of, text_array
from unembed.text.vocabulary import Vocabulary

CONTEXT_TOKENS = 12
CUT = "…"
"""Stands for what is before a context: more text, or text that was not measured."""
KEYS = ("doc", "pos", "target")


@dataclass(frozen=True)
class Quoting:
    """What spells the positions of a run: its vocabulary, and its documents by number.

    ``tokens`` is how many stand in a context, the text before the token that was predicted. Each
    is spelled on its own: one that is part of a character shows as U+FFFD.
    """

    vocabulary: Vocabulary
    documents: pa.Table
    tokens: int = CONTEXT_TOKENS

    def __post_init__(self) -> None:
        if self.tokens < 0:
            raise UnembedError(f"a context of {self.tokens} tokens is none: give 0 or more")

    def highest(
        self,
        parts: Iterable[pa.Table],
        score: Callable[[pa.Table], Float[np.ndarray, " positions"]],
        n: int,
    ) -> pa.Table:
        """The n rows of the highest score, with ``document`` and ``context``; NaN is left out.

        Equal scores are in order of the text. It holds a part at a time, whatever the run's length.
        """
        if n < 1:
            raise UnembedError(f"{n} positions are none: ask for 1 or more")
        best, before = None, None
        for part in parts:
            rows = part if before is None else pa.concat_tables([before, part])
            read = 0 if before is None else before.num_rows
            before = rows.slice(max(0, rows.num_rows - self.tokens))
            values = score(rows).astype(np.float64)
            values[:read] = np.nan
            order = np.argsort(-values, kind="stable")[:n]
            order = order[~np.isnan(values[order])]
            named = self.named(rows, order).append_column("score", number_array(values[order]))
            both = named if best is None else pa.concat_tables([best, named])
            ranked = np.argsort(-numbers_of(both["score"]), kind="stable")
            best = both.take(number_array(ranked[:n]))
        assert best is not None
        return best

    def named(self, rows: pa.Table, chosen: Sequence[int] | np.ndarray) -> pa.Table:
        """The chosen rows, with the name of their ``document`` and their ``context``."""
        found = rows.take(number_array(np.asarray(chosen, dtype=np.int64)))
        names = self.documents["name"].take(found["doc"])
        context = text_array(self.contexts(rows, chosen))
        return found.append_column("document", names).append_column("context", context)

    def spelled(self, rows: pa.Table) -> pa.Table:
        """All rows, with ``document``, ``context`` and a column of text after each of token ids."""
        whole = self.named(rows, np.arange(rows.num_rows))
        columns = {name: whole[name] for name in ("doc", "document", "pos", "context")}
        for name in rows.column_names:
            columns[name] = whole[name]
            bare = name.removeprefix("before_").removeprefix("after_")
            if bare in MENTIONED:
                columns[f"{name.removesuffix('_ids')}_text"] = self._texts(whole[name])
        return pa.table(columns)

    def spelled_parts(self, parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """``spelled`` of the parts one below the other, a part at a time."""
        before = None
        for part in parts:
            rows = part if before is None else pa.concat_tables([before, part])
            read = 0 if before is None else before.num_rows
            before = rows.slice(max(0, rows.num_rows - self.tokens))
            yield self.spelled(rows).slice(read)

    def contexts(self, rows: pa.Table, chosen: Sequence[int] | np.ndarray) -> list[str]:
        """What stands before the predicted token of each chosen row, ``CUT`` where there is more.

        ``rows`` are in order of the text. It reaches back to the last position that is not among
        them, at most ``tokens`` tokens.
        """
        doc, pos, target = (numbers_of(rows[name]) for name in KEYS)
        begins = np.flatnonzero((np.diff(doc, prepend=-1) != 0) | (np.diff(pos, prepend=-2) != 1))
        first = begins[np.searchsorted(begins, chosen, side="right") - 1]
        spelled = {token: self.word(token) for token in np.unique(target).tolist()}
        openings = self.documents["first_token"]
        texts = [spelled[token] for token in target.tolist()]
        found = []
        for row, start in zip(np.asarray(chosen).tolist(), first.tolist(), strict=True):
            from_start = row - start < self.tokens and pos[start] == 0
            lead = self.word(openings[int(doc[row])].as_py()) if from_start else CUT
            found.append(lead + "".join(texts[max(start, row - self.tokens) : row]))
        return found

    def word(self, token: int) -> str:
        """A token's text, in characters that can be written."""
        return self.vocabulary[token].encode("utf-8", "replace").decode()

    def _texts(self, ids: pa.ChunkedArray) -> pa.Array:
        column = ids.combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            size, holes = column.type.list_size, column.is_null()
            flat = self._texts(pa.chunked_array([column.fill_null([0] * size).flatten()]))
            return pa.FixedSizeListArray.from_arrays(flat, size, mask=holes)
        encoded = pc.dictionary_encode(column)
        texts = text_array(list(map(self.word, encoded.dictionary.to_pylist())))
        return texts.take(encoded.indices)
