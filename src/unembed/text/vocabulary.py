"""Token ids as a reader sees them: the text of each, and whether it starts a word."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from unembed.runs.arrays import number_array, text_array
from unembed.short_repr import ShortRepr

SPACE_MARKS = ("Ġ", "▁", " ")
"""How byte-level and SentencePiece tokenizers mark a piece that begins with a space."""
CONTINUATION = "##"
"""How WordPiece tokenizers mark a piece that goes on with a word."""


@dataclass(frozen=True)
class Vocabulary(ShortRepr):
    """The text of every token id that a run mentions; broken UTF-8 shows as U+FFFD."""

    texts: dict[int, str]

    def __getitem__(self, token: int) -> str:
        """The token's text, or its number where the run never mentions it."""
        return self.texts.get(token, f"[{token}]")

    @staticmethod
    def of(tokenizer: Any, ids: Iterable[int]) -> Vocabulary:
        """Decode each id on its own, keeping a leading space; special tokens by their names.

        Decoding a lone piece loses the space of SentencePiece tokenizers, so every id is decoded
        behind an anchor whose text is then cut off. The anchor is a letter alone: a decoder that
        merges pieces keeps its text as it is.
        """
        wanted = sorted(set(ids))
        special = _special(tokenizer)
        anchor = tokenizer.encode("a", add_special_tokens=False)[-1:]
        both = tokenizer.batch_decode(
            [anchor, *([*anchor, token] for token in wanted)], clean_up_tokenization_spaces=False
        )
        lead = len(both[0])
        texts = {i: text[lead:] for i, text in zip(wanted, both[1:], strict=True)}
        return Vocabulary({i: special.get(i, text) for i, text in texts.items()})

    def to_table(self) -> pa.Table:
        """Columns ``id`` and ``text``."""
        ids = number_array(np.array(list(self.texts), dtype=np.int32))
        texts = [t.encode("utf-8", "replace").decode() for t in self.texts.values()]
        return pa.table({"id": ids, "text": text_array(texts)})

    @staticmethod
    def from_table(table: pa.Table) -> Vocabulary:
        """Read back what ``to_table`` wrote."""
        ids, texts = table["id"].to_pylist(), table["text"].to_pylist()
        return Vocabulary(dict(zip(ids, texts, strict=True)))


def word_starts(tokenizer: Any, size: int) -> Bool[np.ndarray, " vocab"]:
    """For every id, whether its piece starts a word by the tokenizer's own marks.

    Where a tokenizer marks continuations (``##``) rather than spaces, every other piece starts a
    word. Special tokens start none.
    """
    special = _special(tokenizer)
    pieces = {i: p for p, i in tokenizer.get_vocab().items() if i < size and i not in special}
    spaced = [i for i, piece in pieces.items() if piece.startswith(SPACE_MARKS)]
    continued = {i for i, piece in pieces.items() if piece.startswith(CONTINUATION)}
    starts = np.zeros(size, dtype=bool)
    starts[spaced if len(spaced) >= len(continued) else list(pieces.keys() - continued)] = True
    return starts


def _special(tokenizer: Any) -> dict[int, str]:
    """The special tokens by id: begin, end, padding and what else the tokenizer adds."""
    ids = set(tokenizer.all_special_ids)
    ids |= {i for i, added in tokenizer.added_tokens_decoder.items() if added.special}
    return {i: tokenizer.convert_ids_to_tokens(i) for i in ids}
