"""Token windows of a corpus, and the plan that batches them by length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from unembed.corpus import Corpus
from unembed.errors import UnembedError
from unembed.provenance import TextFacts

Overflow = Literal["windows", "truncate"]


@dataclass(frozen=True)
class Windows:
    """Windows of at most ``context`` inputs, each predicting the token after every input.

    Window i reads ``length[i]`` tokens from ``start[i]`` on in ``corpus.ids`` and predicts the
    tokens one further; every token of a row but its first is predicted once. Where the tokenizer
    begins rows with a BOS token, later windows of a row begin with one too, whose own prediction is
    not counted (``prefixed``). ``doc`` and ``pos`` place the window's first prediction.
    """

    corpus: Corpus
    context: int
    overflow: Overflow
    start: Int[np.ndarray, "windows"]
    length: Int[np.ndarray, "windows"]
    prefixed: np.ndarray
    doc: Int[np.ndarray, "windows"]
    pos: Int[np.ndarray, "windows"]

    @property
    def positions(self) -> int:
        """Number of predictions in all windows."""
        return int(self.length.sum())

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
    ) -> Windows:
        """Cut the rows of a corpus into windows.

        ``overflow="windows"`` makes consecutive windows of rows longer than the context;
        ``"truncate"`` keeps the first ``context`` tokens of a row (so context - 1 predictions) and
        drops the rest, the protocol of arXiv 2604.06767. ``max_positions`` stops after so many
        predictions.
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
        if max_positions is not None:
            before = np.cumsum(length) - length
            keep = before < max_positions
            length = np.minimum(length, max_positions - before)[keep]
            row, nth, begin = row[keep], nth[keep], begin[keep]
        prefixed = (nth > 0) & (corpus.bos is not None)
        start = corpus.starts[row] + begin
        pos = (corpus.offset[row] + begin).astype(np.int32)
        doc = corpus.document[row]
        return Windows(corpus, context, overflow, start, length, prefixed, doc, pos)


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
    """Consecutive windows with about ``part_positions`` predictions each, in order of the text."""
    first, filled = 0, 0
    for i, length in enumerate(windows.length.tolist()):
        if filled and filled + length > part_positions:
            yield range(first, i)
            first, filled = i, 0
        filled += length
    yield range(first, len(windows.length))


def batches(windows: Windows, part: range, batch_tokens: int) -> Iterator[Batch]:
    """The windows of a part, longest first, as many at a time as fit ``batch_tokens`` when padded.

    The plan depends on the corpus, the context and ``batch_tokens`` alone, so a resumed run forms
    the same batches.
    """
    widths = (windows.length + windows.prefixed)[part.start : part.stop]
    order = part.start + np.argsort(-widths, kind="stable")
    at = 0
    while at < len(order):
        width = int(windows.length[order[at]] + windows.prefixed[order[at]])
        size = max(1, batch_tokens // width)
        yield _batch(windows, order[at : at + size], width)
        at += size


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
        real[row, lead : lead + length] = True
        targets.append(tokens[1:])
        doc.append(np.full(length, windows.doc[i], dtype=np.int32))
        pos.append(np.arange(windows.pos[i], windows.pos[i] + length, dtype=np.int32))
    return Batch(
        torch.from_numpy(inputs),
        torch.from_numpy(real),
        torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        np.concatenate(doc),
        np.concatenate(pos),
    )
