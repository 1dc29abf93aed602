"""Token windows of a corpus: what of a text a model reads at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unembed.errors import UnembedError
from unembed.runs.provenance import TextFacts
from unembed.short_repr import ShortRepr
from unembed.text import drawing
from unembed.text.corpus import Corpus
from unembed.text.row_cuts import Overflow, RowCuts


@dataclass(frozen=True)
class Windows(ShortRepr):
    """Windows of at most ``context`` inputs, each predicting the token after every input.

    Window i reads ``length[i]`` tokens from ``start[i]`` on in ``corpus.ids`` and predicts the
    tokens one further; every token of a row but its first is predicted once. Where the tokenizer
    begins rows with a BOS token, later windows of a row begin with one too, whose own prediction is
    not counted (``prefixed``). ``doc`` and ``pos`` place the window's first prediction.

    ``counts`` is how many of a window's predictions count: all but the first ``skip[i]``, unless
    the corpus marks tokens (``Corpus.counted``). Where it does, windows in which none counts are
    left out, and a row longer than the context is cut so that its completion keeps what is before
    it: ``cut_prompts`` rows lost the beginning of their prompt, and the completions of
    ``split_completions`` are longer than the context, so that later parts of them see less.
    """

    corpus: Corpus
    context: int
    overflow: Overflow
    start: Int[np.ndarray, " windows"]
    length: Int[np.ndarray, " windows"]
    prefixed: np.ndarray
    doc: Int[np.ndarray, " windows"]
    pos: Int[np.ndarray, " windows"]
    counts: Int[np.ndarray, " windows"]
    skip: Int[np.ndarray, " windows"]
    cut_prompts: int = 0
    split_completions: int = 0

    @property
    def positions(self) -> int:
        """Number of predictions that count, in all windows."""
        return int(self.counts.sum())

    @property
    def longest(self) -> int:
        """How many tokens the longest window reads."""
        return int((self.length + self.prefixed).max())

    def counted(self, i: int) -> Bool[np.ndarray, " predictions"]:
        """Which of the predictions of window i count."""
        found = _counted(self.corpus, int(self.start[i]), int(self.length[i]))
        found[: int(self.skip[i])] = False
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of any figure has to know of the rows that were cut, a sentence each."""
        found = []
        if self.cut_prompts:
            found.append(
                f"{self.cut_prompts:,} of {self._rows_read:,} prompts were cut on the left: with "
                f"their completions they are longer than the context of {self.context:,} tokens"
            )
        if self.split_completions:
            done = "cut off" if self.overflow == "truncate" else "split"
            found.append(
                f"{self.split_completions:,} of {self._rows_read:,} completions were {done}: they "
                f"are longer than the context of {self.context:,} tokens"
            )
        return tuple(found)

    @property
    def _rows_read(self) -> int:
        return len(np.unique(np.searchsorted(self.corpus.starts, self.start, side="right")))

    def inputs(self, i: int) -> Int[Tensor, " seq"]:
        """The tokens that window i reads."""
        start = int(self.start[i])
        tokens = np.asarray(self.corpus.ids[start : start + int(self.length[i])], dtype=np.int64)
        if self.prefixed[i]:
            tokens = np.concatenate([[self.corpus.bos], tokens])
        return torch.from_numpy(tokens.copy())

    @property
    def facts(self) -> TextFacts:
        """What the provenance of a run records of its text."""
        corpus = self.corpus
        return TextFacts(
            corpus=corpus.rules,
            digest=corpus.digest,
            tokenizer=f"{type(corpus.tokenizer).__name__} ({len(corpus.tokenizer)} tokens)",
            documents=len(corpus.names),
            rows=corpus.rows,
            tokens=corpus.tokens,
            blank_rows=corpus.blank_rows,
            short_rows=corpus.short_rows,
            context=self.context,
            overflow=self.overflow,
            positions=self.positions,
            duplicate_documents=corpus.duplicate_documents,
            double_bos_rows=corpus.double_bos_rows,
            cut_prompts=self.cut_prompts,
            split_completions=self.split_completions,
            notes=(*corpus.notes, *self.notes),
        )

    @staticmethod
    def of(
        corpus: Corpus,
        context: int,
        overflow: Overflow = "windows",
        max_positions: int | None = None,
        *,
        spread: bool = False,
        whole_windows: bool = False,
    ) -> Windows:
        """Cut the rows of a corpus into windows.

        ``overflow="windows"`` makes consecutive windows of rows longer than the context;
        ``"truncate"`` keeps the first ``context`` tokens of a row (so context - 1 predictions) and
        drops the rest, the protocol of arXiv 2604.06767. Of a row whose completion would not be in
        its first window the prompt is cut on the left (``RowCuts``). ``max_positions`` stops after
        so many predictions that count: those of the first windows or, with ``spread``, of documents
        from all over the text, in pieces of windows or ``whole_windows`` (``drawing``).
        Raises UnembedError where nothing would be predicted.
        """
        if context < 2:
            raise UnembedError(f"--context {context} predicts nothing: give at least 2")
        if max_positions is not None and max_positions < 1:
            raise UnembedError(f"--max-positions must be at least 1, got {max_positions}")
        cut = RowCuts.of(corpus, context, overflow)
        row, begin, length = cut.windows()
        marks = None if corpus.counted is None else np.flatnonzero(corpus.counted)
        counts, keep = length, np.ones(len(length), dtype=bool)
        if marks is not None:
            first = corpus.starts[row] + begin + 1
            counts = np.searchsorted(marks, first + length) - np.searchsorted(marks, first)
            keep = counts > 0
            if not keep.any():
                raise UnembedError(
                    f"all {corpus.rows} completions are empty or masked: give some to predict"
                )
        skip = np.zeros(len(length), dtype=np.int64)
        if max_positions is not None:
            if whole_windows:
                draw = drawing.whole_windows(counts, corpus.document[row], max_positions)
            elif spread:
                draw = drawing.from_all_over(counts, corpus.document[row], max_positions)
            else:
                draw = drawing.from_the_beginning(counts, max_positions)
            length = length.copy()
            for i in np.flatnonzero((draw.taken > 0) & (draw.taken < counts)).tolist():
                window = int(corpus.starts[row[i]] + begin[i]), int(length[i])
                counted = np.flatnonzero(_counted(corpus, *window))
                skip[i] = counted[draw.first[i]] if draw.first[i] else 0
                length[i] = counted[draw.first[i] + draw.taken[i] - 1] + 1
            counts, keep = draw.taken, draw.taken > 0
        row, begin, length, counts, skip = (x[keep] for x in (row, begin, length, counts, skip))
        read = np.unique(row)
        return Windows(
            corpus=corpus,
            context=context,
            overflow=overflow,
            start=corpus.starts[row] + begin,
            length=length,
            prefixed=(begin > 0) & (corpus.bos is not None),
            doc=corpus.document[row],
            pos=(corpus.offset[row] + begin).astype(np.int32),
            counts=counts,
            skip=skip,
            cut_prompts=int(np.count_nonzero(cut.begin[read])),
            split_completions=int(np.count_nonzero(cut.split[read])),
        )


def _counted(corpus: Corpus, start: int, length: int) -> Bool[np.ndarray, " predictions"]:
    """Which of the ``length`` predictions made from ``start`` on count."""
    if corpus.counted is None:
        return np.ones(length, dtype=bool)
    return np.array(corpus.counted[start + 1 : start + length + 1])
