"""Token windows of a corpus, and the plan that batches them by length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unembed.errors import UnembedError
from unembed.runs.provenance import TextFacts
from unembed.stats.splitmix import STEP, mixed
from unembed.text.corpus import Corpus

Overflow = Literal["windows", "truncate"]


@dataclass(frozen=True)
class Windows:
    """Windows of at most ``context`` inputs, each predicting the token after every input.

    Window i reads ``length[i]`` tokens from ``start[i]`` on in ``corpus.ids`` and predicts the
    tokens one further; every token of a row but its first is predicted once. Where the tokenizer
    begins rows with a BOS token, later windows of a row begin with one too, whose own prediction is
    not counted (``prefixed``). ``doc`` and ``pos`` place the window's first prediction.

    ``counts`` is how many of a window's predictions count: all, ``length[i]``, unless the corpus
    marks tokens (``Corpus.counted``). Where it does, windows in which none counts are left out.
    """

    corpus: Corpus
    context: int
    overflow: Overflow
    start: Int[np.ndarray, "windows"]
    length: Int[np.ndarray, "windows"]
    prefixed: np.ndarray
    doc: Int[np.ndarray, "windows"]
    pos: Int[np.ndarray, "windows"]
    counts: Int[np.ndarray, "windows"]

    @property
    def positions(self) -> int:
        """Number of predictions that count, in all windows."""
        return int(self.counts.sum())

    def counted(self, i: int) -> Bool[np.ndarray, "predictions"]:
        """Which of the predictions of window i count."""
        return _counted(self.corpus, int(self.start[i]), int(self.length[i]))

    def inputs(self, i: int) -> Int[Tensor, "seq"]:
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
        )

    @staticmethod
    def of(
        corpus: Corpus,
        context: int,
        overflow: Overflow = "windows",
        max_positions: int | None = None,
        *,
        spread: bool = False,
    ) -> Windows:
        """Cut the rows of a corpus into windows.

        ``overflow="windows"`` makes consecutive windows of rows longer than the context;
        ``"truncate"`` keeps the first ``context`` tokens of a row (so context - 1 predictions) and
        drops the rest, the protocol of arXiv 2604.06767. ``max_positions`` stops after so many
        predictions that count: those of the first windows or, with ``spread``, of windows from all
        over the text, chosen by a hash of their number.
        Raises UnembedError where nothing would be predicted.
        """
        if context < 2:
            raise UnembedError(f"--context {context} predicts nothing: give at least 2")
        if max_positions is not None and max_positions < 1:
            raise UnembedError(f"--max-positions must be at least 1, got {max_positions}")
        sizes = np.diff(corpus.starts)
        if overflow == "truncate":
            sizes = np.minimum(sizes, context)
        predictions = sizes - 1
        later = context - (corpus.bos is not None)
        counts = 1 + -(-np.maximum(predictions - context, 0) // later)
        row = np.repeat(np.arange(corpus.rows), counts)
        nth = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        begin = np.where(nth == 0, 0, context + (nth - 1) * later)
        length = np.minimum(predictions[row] - begin, np.where(nth == 0, context, later))
        counts = length
        if corpus.counted is not None:
            spans = zip((corpus.starts[row] + begin).tolist(), length.tolist(), strict=True)
            counts = np.array([np.count_nonzero(_counted(corpus, *span)) for span in spans])
            if not counts.any():
                raise UnembedError(
                    f"all {corpus.rows} completions are empty or masked: none is within the "
                    f"context of {context} tokens, overflow {overflow!r}; give a larger --context"
                )
        keep = counts > 0 if corpus.counted is not None else np.ones(len(length), dtype=bool)
        if max_positions is not None:
            order = _scattered(len(keep)) if spread else np.arange(len(keep))
            keep[order] &= np.cumsum(counts[order]) - counts[order] < max_positions
            cut = int(order[keep[order]][-1])
            if (over := int(counts[keep].sum()) - max_positions) > 0:
                first = int(corpus.starts[row[cut]] + begin[cut])
                last = np.flatnonzero(_counted(corpus, first, int(length[cut])))
                left = int(counts[cut]) - over
                length, counts = length.copy(), counts.copy()
                counts[cut], length[cut] = left, last[left - 1] + 1
        row, nth, begin, length, counts = (x[keep] for x in (row, nth, begin, length, counts))
        start = corpus.starts[row] + begin
        prefixed = (nth > 0) & (corpus.bos is not None)
        pos = (corpus.offset[row] + begin).astype(np.int32)
        doc = corpus.document[row]
        return Windows(corpus, context, overflow, start, length, prefixed, doc, pos, counts)


@dataclass(frozen=True)
class Batch:
    """Windows padded to one length.

    ``input_ids`` is padded on the right with a token of the batch; ``real`` picks the inputs whose
    prediction counts; ``targets``, ``doc`` and ``pos`` belong to those, in the same order.
    """

    input_ids: Int[Tensor, "batch seq"]
    real: Tensor
    targets: Int[Tensor, "positions"]
    doc: Int[np.ndarray, "positions"]
    pos: Int[np.ndarray, "positions"]


def parts(windows: Windows, part_positions: int) -> Iterator[range]:
    """Consecutive windows with about ``part_positions`` predictions that count in each."""
    first, filled = 0, 0
    for i, count in enumerate(windows.counts.tolist()):
        if filled and filled + count > part_positions:
            yield range(first, i)
            first, filled = i, 0
        filled += count
    yield range(first, len(windows.counts))


def batches(
    windows: Windows, part: range, batch_tokens: int, *, mix: bool = True
) -> Iterator[Batch]:
    """The windows of a part, longest first, as many at a time as fit ``batch_tokens`` when padded.

    Without ``mix`` those of a batch have one length, so that nothing is padded. The plan depends on
    the corpus, the context, ``batch_tokens`` and ``mix`` alone, so a resumed run forms the same
    batches.
    """
    for chosen, widths in _plan(windows, part, batch_tokens, mix):
        yield _batch(windows, chosen, int(widths[0]))


def mixed_lengths(
    windows: Windows, part_positions: int, batch_tokens: int
) -> tuple[int, int] | None:
    """The shortest and the longest window that a plan pads to one length with others; None where
    every batch has one length."""
    ends = [
        (int(widths[-1]), int(widths[0]))
        for part in parts(windows, part_positions)
        for _chosen, widths in _plan(windows, part, batch_tokens, True)
        if widths[-1] < widths[0]
    ]
    return (min(a for a, _ in ends), max(b for _, b in ends)) if ends else None


def _plan(
    windows: Windows, part: range, batch_tokens: int, mix: bool
) -> Iterator[tuple[Int[np.ndarray, "batch"], Int[np.ndarray, "batch"]]]:
    """The windows of each batch with their lengths, longest first."""
    widths = (windows.length + windows.prefixed)[part.start : part.stop]
    order = np.argsort(-widths, kind="stable")
    widths = widths[order]
    at = 0
    while at < len(order):
        stop = at + max(1, batch_tokens // int(widths[at]))
        if not mix:
            stop = min(stop, int(np.searchsorted(-widths, -widths[at], side="right")))
        yield part.start + order[at:stop], widths[at:stop]
        at = stop


def _batch(windows: Windows, chosen: Int[np.ndarray, "batch"], width: int) -> Batch:
    corpus = windows.corpus
    inputs = np.empty((len(chosen), width), dtype=np.int64)
    real = np.zeros((len(chosen), width), dtype=bool)
    targets, doc, pos = [], [], []
    for row, i in enumerate(chosen.tolist()):
        start, length = int(windows.start[i]), int(windows.length[i])
        lead = int(windows.prefixed[i])
        tokens = corpus.ids[start : start + length + 1]
        if corpus.bos is not None:
            inputs[row, :lead] = corpus.bos
        inputs[row, lead : lead + length] = tokens[:-1]
        inputs[row, lead + length :] = tokens[-2]
        counted = windows.counted(i)
        real[row, lead : lead + length] = counted
        targets.append(tokens[1:][counted])
        doc.append(np.full(windows.counts[i], windows.doc[i], dtype=np.int32))
        pos.append((windows.pos[i] + np.flatnonzero(counted)).astype(np.int32))
    return Batch(
        torch.from_numpy(inputs),
        torch.from_numpy(real),
        torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        np.concatenate(doc),
        np.concatenate(pos),
    )


def _scattered(count: int) -> Int[np.ndarray, "windows"]:
    """The numbers below ``count`` in an order that looks random and is always the same."""
    drawn = mixed(np.arange(1, count + 1, dtype=np.uint64) * STEP)
    order: Int[np.ndarray, "windows"] = np.argsort(drawn, kind="stable")
    return order


def _counted(corpus: Corpus, start: int, length: int) -> Bool[np.ndarray, "predictions"]:
    """Which of the ``length`` predictions made from ``start`` on count."""
    if corpus.counted is None:
        return np.ones(length, dtype=bool)
    return np.asarray(corpus.counted[start + 1 : start + length + 1])
