"""The windows that a refinement trains on, where only completions count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unembed.text.corpus import Corpus
from unembed.text.rows import PromptCompletion
from unembed.training.recipe.weighting import Positions
from unembed.training.run.examples import Examples, little_text, split
from unembed.training.run.head_hook import IGNORED
from unembed.training.run.penalty_term import POSITION_WEIGHTS


def test_prompts_are_read_and_are_no_labels(tokenizer: Any) -> None:
    pairs = [
        PromptCompletion(f"The {word} statement is", " used for tests")
        for word in ("if", "with", "for")
    ]
    corpus = Corpus.from_pairs(pairs, tokenizer)
    assert corpus.counted is not None
    every = Positions(
        np.array([(doc << 32) | pos for doc in range(3) for pos in range(30)], dtype=np.int64),
        np.ones(90, dtype=np.float32),
    )
    examples = Examples.of(corpus, 64, every)
    labels = []
    for i in range(len(examples)):
        row = examples[i]
        kept = row["labels"] != IGNORED
        assert 0 < int(kept.sum()) < len(kept)
        labels += row["labels"][kept].tolist()
        # A position weighs where the token after it is a label.
        assert (row[POSITION_WEIGHTS][:-1] > 0).equal(kept[1:])
    assert labels == corpus.ids[corpus.counted].tolist()
    counts = examples.target_counts(len(tokenizer))
    assert int(counts.sum()) == int(corpus.counted.sum())
    assert counts.nonzero()[:, 0].tolist() == sorted(set(labels))


@pytest.mark.parametrize(
    ("documents", "share", "words"),
    [
        (2, 0.2, "1 of 2 documents are trained on and 1 held out: no figure will have an interval"),
        (10, 0.2, "8 of 10 documents are trained on and 2 held out: every interval will be rough"),
        (45, 0.2, "36 of 45 documents are trained on and 9 held out: every interval will be rough"),
        (46, 0.2, None),
        (1, 0.2, None),
    ],
)
def test_little_text_is_told_in_a_line(documents: int, share: float, words: str | None) -> None:
    found = little_text(documents, share)
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert found.startswith(words)
        assert "give more text" in found
        assert ("--heldout" in found) == (documents >= 20)
        assert "\n" not in found


def test_little_text_counts_what_is_held_out(tokenizer: Any) -> None:
    corpus = Corpus.from_texts([f"some words {n}" for n in range(7)], tokenizer)
    part = split(corpus, 0.4)
    sizes = len(part.training.names), len(part.heldout.names)
    assert f"{sizes[0]} of 7 documents are trained on and {sizes[1]} held out" in (
        little_text(7, 0.4) or ""
    )
