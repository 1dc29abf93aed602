"""Where rows that are longer than the context are cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from unembed.text.corpus import Corpus

Overflow = Literal["windows", "truncate"]


@dataclass(frozen=True)
class RowCuts:
    """For each row the token it is read from, and how many predictions its windows have.

    ``begin`` is 0 but where a completion needs the room: a row of which tokens are marked
    (``Corpus.counted``), the last of them beyond a window from the row's beginning, is read so that
    the window ends with that token. So the prompt is cut on the left, and a completion that fits
    the context is never split. One that does not, ``split``, begins in the middle of the first
    window. The first window of row r makes ``first[r]`` predictions at most, each further one
    ``later``; ``total`` are those of all.
    """

    begin: Int[np.ndarray, " rows"]
    first: Int[np.ndarray, " rows"]
    total: Int[np.ndarray, " rows"]
    split: Bool[np.ndarray, " rows"]
    later: int

    @staticmethod
    def of(corpus: Corpus, context: int, overflow: Overflow) -> RowCuts:
        """Of all rows; ``overflow`` "truncate" keeps ``context`` tokens of each, targets included.

        A window that does not begin its row starts with the tokenizer's BOS token, where it has
        one, and so makes a prediction less.
        """
        width = context - 1 if overflow == "truncate" else context
        later = max(1, width - (corpus.bos is not None))
        begin = np.zeros(corpus.rows, dtype=np.int64)
        split = np.zeros(corpus.rows, dtype=bool)
        if corpus.counted is not None:
            opening, end = _completions(corpus.starts, np.flatnonzero(corpus.counted))
            long = end > width
            fits = end - opening < later
            split = long & ~fits
            begin[long & fits] = (end - later)[long & fits]
            begin[split] = np.maximum(0, opening - max(1, later // 2))[split]
        first = np.where(begin > 0, later, width)
        total = np.diff(corpus.starts) - 1 - begin
        return RowCuts(
            begin,
            first,
            np.minimum(total, first) if overflow == "truncate" else total,
            split,
            later,
        )

    def windows(
        self,
    ) -> tuple[
        Int[np.ndarray, " windows"], Int[np.ndarray, " windows"], Int[np.ndarray, " windows"]
    ]:
        """Of each window the row, the token of the row it begins with, and its predictions."""
        number = 1 + -(-np.maximum(self.total - self.first, 0) // self.later)
        row = np.repeat(np.arange(len(self.begin)), number)
        nth = np.arange(len(row)) - np.repeat(np.cumsum(number) - number, number)
        done = np.where(nth == 0, 0, self.first[row] + (nth - 1) * self.later)
        length = np.minimum(self.total[row] - done, np.where(nth == 0, self.first[row], self.later))
        return row, self.begin[row] + done, length


def _completions(
    starts: Int[np.ndarray, " rows_plus_one"], marks: Int[np.ndarray, " marked"]
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
    """The first and the last token of each row that is marked, the row's own first aside; else 0.

    Counted from the row's beginning.
    """
    low, high = (np.searchsorted(marks, edge) for edge in (starts[:-1] + 1, starts[1:]))
    some = high > low
    found = np.zeros((2, len(starts) - 1), dtype=np.int64)
    found[0, some] = marks[low[some]] - starts[:-1][some]
    found[1, some] = marks[high[some] - 1] - starts[:-1][some]
    return found[0], found[1]
