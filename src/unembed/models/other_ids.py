"""Tokens of a text that a model has no row for, or gives no logit for."""

from __future__ import annotations

from typing import Any

import numpy as np

from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.text.corpus import Corpus


def refuse_other_ids(corpus: Corpus, head: Head, name: str) -> None:
    """Raise UnembedError where a text holds, or asks for, a token that this model does not have."""
    step = 1 << 20
    chunks = range(0, len(corpus.ids), step)
    highest = max(int(corpus.ids[i : i + step].max()) for i in chunks)
    if highest >= head.vocab:
        raise UnembedError(_beyond(highest, corpus.tokenizer, name, head.vocab))
    if head.valid is None:
        return
    valid = head.valid.cpu().numpy()
    for i in chunks:
        no_logit = ~valid[corpus.ids[i : i + step]]
        if corpus.counted is None:
            begins = corpus.starts[:-1]
            here = (begins >= i) & (begins < i + step)
            no_logit[begins[here] - i] = False  # nothing predicts the first token of a row
        else:
            no_logit &= corpus.counted[i : i + step]
        if no_logit.any():
            token = int(corpus.ids[i + int(no_logit.argmax())])
            spelt = corpus.tokenizer.convert_ids_to_tokens(token)
            raise UnembedError(
                f"the text holds token id {token} ({spelt!r}), and {name} gives no logit for it: "
                f"what lies beyond id {np.flatnonzero(valid)[-1]} is cut off as padding; leave "
                "such tokens out of the text, or mend the model's vocabulary size"
            )


def _beyond(highest: int, tokenizer: Any, name: str, rows: int) -> str:
    """Why the text holds a token that the model has no row for."""
    fact = f"the text holds token id {highest}, but {name} has a vocabulary of {rows}"
    added, known = tokenizer.added_tokens_decoder, set(tokenizer.get_vocab().values())
    if highest > max(known, default=0):
        return f"{fact}, and the tokenizer none such: its ids were made by another tokenizer"
    if max(known - set(added), default=0) < rows:
        first = str(added[min(token for token in added if token >= rows)])
        return (
            f"{fact}: the embeddings were not resized when {first!r} was added to the tokenizer of "
            f"{len(tokenizer)} tokens; call model.resize_token_embeddings({len(tokenizer)}), train "
            "the new rows and save the model, or leave such tokens out of the text"
        )
    return (
        f"{fact}: the tokenizer does not belong to this model; it has {len(tokenizer)} tokens, "
        "give the model's own"
    )
