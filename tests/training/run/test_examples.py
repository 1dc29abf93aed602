"""The windows that a refinement trains on, where only completions count."""

from __future__ import annotations

from typing import Any

import numpy as np

from unembed.text.corpus import Corpus
from unembed.text.rows import PromptCompletion
from unembed.training.recipe.weighting import Positions
from unembed.training.run.examples import Examples
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
