"""Whether two models read a text as the same tokens: their tokenizers by what they do."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from unembed.errors import UnembedError
from unembed.head.head import output_embedding
from unembed.models.checkpoint import Checkpoint, hushed, token_ids
from unembed.models.outline import Outline
from unembed.text.corpus import Corpus

Tokenizing = Checkpoint | Outline
"""What has a name and a tokenizer."""

PROBES = (
    "a",
    "A short Sentence, with CAPITALS and 1,234.50 numbers.",
    "  two  spaces\tand a tab\n\nand lines\r\n",
    "é É e\u0301 ﬁ Ⅸ ½ ß İ\u00a0x",
    "it's 東京 данные 🙂 \u200bzero",
)
"""Texts that normalisers, splitters and post-processors treat each in its own way."""

DECODED_ROWS = 64
"""Rows of the corpus, from all over it, whose text both tokenizers have to read alike."""

REMEDY = (
    "decisions can be compared only over one text in the same tokens: save one tokenizer beside "
    "both models, with tokenizer.save_pretrained"
)


def refuse_other_tokenizers(before: Tokenizing, after: Tokenizing, corpus: Corpus) -> None:
    """Raise UnembedError, quoting both, unless the two tokenizers do the same.

    Each id must be one token in both (special tokens may have other names), and PROBES and rows of
    the corpus must become the same ids, special tokens included.
    """
    if before.tokenizer is after.tokenizer:
        return
    refuse_other_vocabularies(before, after)
    for text in (*PROBES, *_decoded(corpus)):
        with hushed():  # some warn of a text beyond their model's context
            first, second = (list(one.tokenizer(text)["input_ids"]) for one in (before, after))
        if first != second:
            raise UnembedError(_other_ids(before, after, first, second, repr(text[:40])))


def refuse_other_vocabularies(before: Tokenizing, after: Tokenizing, *, more: bool = False) -> None:
    """Raise UnembedError, quoting both, unless each id is one token in both tokenizers.

    Special tokens may have other names. With ``more`` the second may have further ids.
    """
    ours, theirs = ({i: t for t, i in c.tokenizer.get_vocab().items()} for c in (before, after))
    special = [
        set(one.tokenizer.all_special_ids) | _added(one.tokenizer) for one in (before, after)
    ]
    ids = ours.keys() if more else ours.keys() | theirs.keys()
    odd = [i for i in ids if ours.get(i) != theirs.get(i)]
    odd = sorted(set(odd) - (special[0] & special[1]))
    if odd:
        raise UnembedError(
            f"the tokenizers of {before.name} and {after.name} differ ({len(ours):,} and "
            f"{len(theirs):,} tokens; first: id {odd[0]} is {ours.get(odd[0])!r} and "
            f"{theirs.get(odd[0])!r}): decisions can be compared only over one vocabulary"
        )


def refuse_other_heads(before: Checkpoint, after: Checkpoint, corpus: Corpus) -> None:
    """Raise UnembedError unless both heads have rows for the same tokens."""
    rows = [int(output_embedding(one.model).weight.shape[0]) for one in (before, after)]
    refuse_other_rows((before.name, after.name), rows, corpus)


def refuse_other_rows(names: tuple[str, str], rows: Sequence[int], corpus: Corpus) -> None:
    """Raise UnembedError unless heads of so many rows have them for the same tokens."""
    ids = np.array(token_ids(corpus.tokenizer))
    known = [int((ids < n).sum()) for n in rows]
    if known[0] != known[1]:
        fewer, name = min(zip(rows, names, strict=True))
        raise UnembedError(
            f"{name} has {fewer} rows in its head and so no logit for {abs(known[0] - known[1])} "
            f"tokens of the {len(ids)} that the other decides between ({rows[0]} rows before, "
            f"{rows[1]} after): give it rows with model.resize_token_embeddings({len(ids)}), or "
            "audit each model and compare the run folders"
        )


def refuse_other_texts(before: Tokenizing, after: Tokenizing, read: Corpus, other: Corpus) -> None:
    """Raise UnembedError unless a text is the same tokens by both tokenizers."""
    if read.digest == other.digest:
        return
    for row, (ours, theirs) in enumerate(zip(_rows(read), _rows(other), strict=False)):
        if ours != theirs:
            raise UnembedError(_other_ids(before, after, ours, theirs, f"row {row} of the text"))
    raise UnembedError(
        f"the tokenizers of {before.name} and {after.name} make {read.rows} and {other.rows} rows "
        f"of one text: {REMEDY}"
    )


def surely_alike(before: Tokenizing, after: Tokenizing) -> bool:
    """Whether two tokenizers have the same settings, so that no text need be read twice."""
    if before.tokenizer is after.tokenizer:
        return True
    ours, theirs = (getattr(c.tokenizer, "backend_tokenizer", None) for c in (before, after))
    return ours is not None and theirs is not None and ours.to_str() == theirs.to_str()


def _added(tokenizer: Any) -> set[int]:
    return {i for i, added in tokenizer.added_tokens_decoder.items() if added.special}


def _decoded(corpus: Corpus) -> list[str]:
    chosen = np.unique(np.linspace(0, corpus.rows - 1, DECODED_ROWS).astype(int))
    rows = [corpus.ids[corpus.starts[row] : corpus.starts[row + 1]] for row in chosen.tolist()]
    texts: list[str] = corpus.tokenizer.batch_decode(
        [row.tolist() for row in rows], skip_special_tokens=True
    )
    return texts


def _rows(corpus: Corpus) -> list[list[int]]:
    return [corpus.ids[start:stop].tolist() for start, stop in pairwise(corpus.starts.tolist())]


def _other_ids(
    before: Tokenizing, after: Tokenizing, ours: list[int], theirs: list[int], what: str
) -> str:
    """Where two readings of one text part, with the tokens from there on."""
    both = zip(ours, theirs, strict=False)
    at = next((i for i, (a, b) in enumerate(both) if a != b), min(len(ours), len(theirs)))
    said = [
        one.tokenizer.convert_ids_to_tokens(ids[at : at + 3]) or "nothing"
        for one, ids in ((before, ours), (after, theirs))
    ]
    return (
        f"the tokenizers of {before.name} and {after.name} read {what} differently: token {at} on "
        f"is {said[0]} and {said[1]}; {REMEDY}"
    )
