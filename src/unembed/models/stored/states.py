"""Hidden states that were stored on disk, in place of a body that makes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unembed.errors import HeadError, UnembedError, need
from unembed.head.head import Head
from unembed.models.checkpoint import Checkpoint, context_of, token_ids
from unembed.models.other_ids import refuse_other_ids
from unembed.models.stored.head_and_tail import one_block_digest
from unembed.models.stored.layout import Layout, keys_of
from unembed.models.stored.norm_side import NormSide, Side, StoredTail, side_of
from unembed.models.stored.others import open_layout
from unembed.short_repr import ShortRepr
from unembed.text.corpus import Corpus
from unembed.text.windows import Windows

TRIED, BY_LOSS, RUN = 512, 2048, 16
"""States that are tried, and where the loss has to decide; and how many of them follow each
other."""


@dataclass(frozen=True)
class StoredStates(ShortRepr):
    """Final hidden states on disk, with their text, checked against a model.

    ``corpus`` is the text, ``side`` on which side of the final norm the states lie, by test.
    ``body`` identifies what made them. ``dtype`` is that of the head's input that they give,
    ``context`` the tokens of a window; another engine's are one a row, and the model's own context
    is taken, or that of the longest row.
    """

    layout: Layout
    side: NormSide
    tail: StoredTail | None
    body: str
    dtype: torch.dtype
    context: int

    def _phrases(self) -> Iterator[str]:
        yield self.layout.name
        yield f"{self.layout.spans.positions:,} positions of {self.layout.files[0].width:,}"
        yield self.side.side

    @staticmethod
    def read(
        folder: str | Path, checkpoint: Checkpoint, *, states_are: Side | None = None
    ) -> StoredStates:
        """Open stored states, and find out on which side of the model's final norm they lie.

        ``folder`` holds what ``unembed states`` wrote, a safetensors file a request with
        ``token_ids [tokens]`` and ``hidden_states [tokens, width]`` or ``[tokens, layers, width]``
        (the last layer is read), or Parquet files with such columns. Of the model its head and its
        tail are used alone. ``states_are`` says the side where the states do not show it.
        Raises UnembedError for anything that cannot be read, or belongs to another model.
        Source: theory §15.
        """
        need(checkpoint, Checkpoint, "give load(name)")
        model = checkpoint.model.eval()
        layout = open_layout(folder, checkpoint.tokenizer)
        head = Head.of(model, token_ids(checkpoint.tokenizer))
        refuse_other_ids(layout.corpus, head, checkpoint.name)
        try:
            tail = StoredTail.of(model)
        except HeadError:
            tail = None
        body = _body(layout, checkpoint, head)
        widest = torch.promote_types(layout.files[0].dtype, head.weight.dtype)
        dtype = widest if widest == head.weight.dtype else torch.float32
        written = None if layout.written is None else layout.written.options["states"]
        doc, pos = _some(layout, BY_LOSS if tail is None or tail.norm is None else TRIED)
        states = _at(layout, doc, pos).to(dtype)
        targets = torch.from_numpy(_next_tokens(layout.corpus, doc, pos))
        side = side_of(
            str(folder), states, targets, model, head, tail, asked=states_are, written=written
        )
        used = tail if side.side == "before-norm" and not (tail and tail.empty) else None
        longest = max(int(np.diff(layout.corpus.starts).max()), context_of(model))
        return StoredStates(
            layout,
            side,
            used,
            body,
            dtype if used is None else head.weight.dtype,
            longest if layout.written is None else layout.written.text.context,
        )

    @property
    def corpus(self) -> Corpus:
        """The text that they were made of."""
        return self.layout.corpus

    def windows(
        self,
        context: int | None,
        max_positions: int | None,
        *,
        spread: bool = False,
        whole_windows: bool = False,
    ) -> Windows:
        """The windows that the states were made of, or so many positions of them.

        Fewer are those of the text's beginning or, with ``spread``, from all over it. Raises
        UnembedError for another context, and for more positions than there are.
        """
        written, held, own = self.layout.written, self.layout.spans.positions, self.context
        if context not in (None, own):
            raise UnembedError(
                f"--context {context} is not the {own} of the stored states: leave it out"
            )
        if max_positions is not None and max_positions > held:
            raise UnembedError(
                f"--max-positions {max_positions:,} is more than the {held:,} stored: leave it out"
            )
        overflow: Any = "windows" if written is None else written.text.overflow
        if max_positions in (None, held):
            max_positions = held
            spread = written is not None and bool(written.options.get("spread", False))
        return Windows.of(
            self.corpus,
            own,
            overflow,
            max_positions,
            spread=spread,
            whole_windows=whole_windows,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What is known of them, a sentence each."""
        count = self.layout.spans.positions
        return (
            f"{self.layout.name}, {count:,} positions, {self.side}",
            *self.layout.notes,
        )

    @property
    def key(self) -> dict[str, Any]:
        """The plain values that numbers from them depend on."""
        found = {
            "from": self.layout.name,
            "digest": self.layout.digest,
            "are": self.side.side,
            "tried": self.side.tried,
            "seen": self.side.reason,
        }
        return (
            found
            if self.layout.layers == 1
            else {**found, "layer": f"last of {self.layout.layers}"}
        )

    @property
    def made_by(self) -> dict[str, Any]:
        """What the provenance says of the body that made them."""
        written = self.layout.written
        if written is None:
            return {"body_product": "another engine", "block_tokens": None}
        names = ("body_product", "block_tokens", "spread", "mixed_lengths")
        return {name: written.options[name] for name in names if name in written.options}

    def at(
        self,
        doc: Int[np.ndarray, " positions"],
        pos: Int[np.ndarray, " positions"],
        model: nn.Module,
    ) -> Float[Tensor, "positions dim"]:
        """The head's input at these positions, by the tail of ``model`` where that is left."""
        states = _at(self.layout, doc, pos).to(self.dtype)
        return states if self.tail is None else self.tail(model, states)


def _at(
    layout: Layout, doc: Int[np.ndarray, " positions"], pos: Int[np.ndarray, " positions"]
) -> Float[Tensor, "positions width"]:
    """The states of these positions as they are stored."""
    spans = layout.spans
    wanted = keys_of(doc, pos)
    at = np.searchsorted(spans.keys, wanted, side="right") - 1
    beyond = wanted - spans.keys[at]
    missing = np.flatnonzero((at < 0) | (beyond >= spans.length[at]))
    if missing.size:
        first = int(missing[0])
        raise UnembedError(
            f"there is no state of document {layout.corpus.names[int(doc[first])]!r} position "
            f"{pos[first]}: the stored states have a gap; write them again"
        )
    file, row = spans.file[at], spans.row[at] + beyond
    ends = [*np.flatnonzero((np.diff(file) != 0) | (np.diff(row) != 1)) + 1, len(row)]
    found = torch.empty(len(row), layout.files[0].width, dtype=layout.files[0].dtype)
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        one = layout.files[int(file[start])]
        found[start:end] = one.read(int(row[start]), int(row[end - 1]) + 1)
    return found


def _some(
    layout: Layout, tried: int
) -> tuple[Int[np.ndarray, " tried"], Int[np.ndarray, " tried"]]:
    """So many positions from all over the text, in runs."""
    spans = layout.spans
    ends = np.cumsum(spans.length)
    total = int(ends[-1])
    starts = np.unique(np.linspace(0, max(0, total - RUN), tried // RUN).astype(np.int64))
    chosen = np.unique((starts[:, None] + np.arange(RUN)).ravel())
    chosen = chosen[chosen < total]
    at = np.searchsorted(ends, chosen, side="right")
    return spans.doc[at], spans.pos[at] + chosen - (ends[at] - spans.length[at])


def _next_tokens(
    corpus: Corpus, doc: Int[np.ndarray, " tried"], pos: Int[np.ndarray, " tried"]
) -> Int[np.ndarray, " tried"]:
    """The token after each position."""
    keys = keys_of(corpus.document, corpus.offset)
    order = np.argsort(keys, kind="stable")
    row = order[np.searchsorted(keys[order], keys_of(doc, pos), side="right") - 1]
    return np.asarray(corpus.ids[corpus.starts[row] + pos - corpus.offset[row] + 1], dtype=np.int64)


def _body(layout: Layout, checkpoint: Checkpoint, head: Head) -> str:
    """The digest of the model that made the states, as far as that can be known.

    Of our own it is in the manifest, and the model must have the same head, precision, and weights
    outside its later blocks. Of another engine's nothing says what the blocks were: then it is that
    of what was read of the model, so that the states of a whole model are never taken for these.
    """
    written, name = layout.written, checkpoint.name
    ours = one_block_digest(checkpoint.model)
    if written is None:
        return ours or hashlib.sha256(head.digest.encode()).hexdigest()
    dtype = str(next(checkpoint.model.parameters()).dtype).removeprefix("torch.")
    if dtype != written.model_dtype:
        raise UnembedError(
            f"the states were made in {written.model_dtype}, and {name} is in {dtype}: give "
            f"--dtype {written.model_dtype}"
        )
    theirs = written.options["one_block"]
    if head.digest != written.head_digest or (ours and theirs and ours != theirs):
        what = "head" if head.digest != written.head_digest else "embeddings, norms or first block"
        raise UnembedError(
            f"the states were made by {written.model} ({written.model_digest[:12]}), and {name} "
            f"has another {what}: give the model that made them"
        )
    return written.model_digest
