"""How long a text is for a model: what is known of it before it is read, or a number of tokens."""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unembed.errors import UnembedError
from unembed.models.checkpoint import load_tokenizer
from unembed.short_repr import ShortRepr
from unembed.text.batches import BatchPlan, blocks_of
from unembed.text.rows import RowRules, read_rows

COUNTED_CHARACTERS = 1 << 21
"""Characters of a text that are tokenised to know how many a token has; a shorter text whole."""
ASSUMED_CHARACTERS = 4.0
"""Of a token, where no text is given."""
ASSUMED_ROW = 1000
"""Tokens of a row, where no text is given."""
MOST_TOKENS = 1e15
NUMBER = re.compile(r"[-+]?(\d[\d_,]*(\.\d*)?([eE][-+]?\d+)?|nan|inf|infinity)", re.IGNORECASE)


@dataclass(frozen=True)
class TextSize(ShortRepr):
    """A text in numbers; ``window`` is the length of the window in which a token lies on average.

    A block, which the body reads at once, holds ``block`` of its tokens and ``padding`` times as
    many with those that pad it. ``exact`` says that the text was tokenised whole, ``assumed`` that
    it is a number alone.
    """

    name: str
    tokens: int
    rows: int
    positions: int
    windows: int
    window: float
    longest: int
    block: float
    padding: float
    characters: int
    exact: bool = False
    assumed: bool = False

    @staticmethod
    def of(corpus: str, model: str, context: int, plan: BatchPlan) -> TextSize:
        """The size of a text by a model's tokenizer, in windows of so many tokens under a plan.

        ``corpus`` is what a run is given, or a number of tokens such as ``1e9``. Of a long text a
        part is tokenised and the rest counted by its characters. Raises UnembedError for a text
        that cannot be read, or a model without a tokenizer.
        """
        number = tokens_in(corpus)
        if number is not None:
            return _of_number(corpus, number, context, plan)
        characters, sample, sampled = array("q"), [], 0
        for row in read_rows(corpus, RowRules()):
            if not row.text.strip():
                continue
            characters.append(len(row.text))
            if sampled < COUNTED_CHARACTERS:
                sample.append(row.text)
                sampled += len(row.text)
        if not sample:
            raise UnembedError(f"{corpus} holds no text: give one, or a number of tokens (1e9)")
        ids = _tokenizer(model)(sample, verbose=False)["input_ids"]
        exact = len(sample) == len(characters)
        every = np.asarray(characters, dtype=np.float64)
        counts = np.array([len(row) for row in ids], dtype=np.float64)
        lengths = counts if exact else every * (counts.sum() / sampled)
        inputs = np.maximum(np.rint(lengths) - 1, 0)
        whole = np.floor(inputs / context)
        rest = inputs - whole * context
        read = max(1.0, float(inputs.sum()))
        windows = np.concatenate([np.repeat(float(context), int(whole.sum())), rest[rest > 0]])
        some = _of_a_part(windows, plan)
        blocks, padded = blocks_of(some, plan)
        return TextSize(
            name=corpus,
            tokens=round(float(lengths.sum())),
            rows=len(every),
            positions=round(read),
            windows=len(windows),
            window=max(1.0, float((windows**2).sum()) / read),
            longest=int(min(context, max(1.0, inputs.max()))),
            block=some.sum() / blocks,
            padding=padded / some.sum(),
            characters=int(every.sum()),
            exact=exact,
        )


def _tokenizer(model: str) -> Any:
    try:
        return load_tokenizer(model)
    except UnembedError as error:
        reason = str(error).partition(": give a causal")[0]
        raise UnembedError(
            f"{reason}: give a number of tokens in place of the text (1e9)"
        ) from None


def _of_a_part(windows: np.ndarray, plan: BatchPlan) -> np.ndarray:
    """Windows from all over the text, about as many as a part holds."""
    share = max(1, int(windows.sum() // plan.part_positions))
    return windows[:: min(share, len(windows))].astype(np.int64)


def _of_number(name: str, tokens: int, context: int, plan: BatchPlan) -> TextSize:
    """So many tokens, in windows that are full."""
    rows = max(1, round(tokens / ASSUMED_ROW))
    window = min(context, tokens - 1)
    return TextSize(
        name=name,
        tokens=tokens,
        rows=rows,
        positions=tokens - rows,
        windows=-(-tokens // context),
        window=float(window),
        longest=window,
        block=float(max(1, plan.block_tokens // window) * window),
        padding=1.0,
        characters=int(tokens * ASSUMED_CHARACTERS),
        assumed=True,
    )


def tokens_in(corpus: str) -> int | None:
    """The number of tokens that is meant, None where it is the name of a text.

    Raises UnembedError for a number of which no text can be.
    """
    if not NUMBER.fullmatch(corpus.strip()) or Path(corpus).exists():
        return None
    count = float(corpus.replace("_", "").replace(",", ""))
    if not 2 <= count <= MOST_TOKENS:
        raise UnembedError(f"--cost {corpus} is no number of tokens: give 2 to 1e15, or a text")
    return int(count)
