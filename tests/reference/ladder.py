"""Slow, obvious figures of a ladder: whole logits in float64, one window at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from unembed.text.corpus import Corpus


@dataclass(frozen=True)
class Recount:
    """A variant's figures on a text, by position and in all."""

    kl: list[float]
    same: list[bool]
    right_before: list[bool]
    right_after: list[bool]
    nll_before: list[float]
    nll_after: list[float]
    document: list[int]

    @property
    def perplexity_ratio(self) -> float:
        """The variant's perplexity over the base's."""
        n = len(self.kl)
        return math.exp(sum(self.nll_after) / n) / math.exp(sum(self.nll_before) / n)

    @property
    def flips(self) -> tuple[int, int]:
        """Decisions that became right, and that became wrong."""
        both = list(zip(self.right_before, self.right_after, strict=True))
        return both.count((False, True)), both.count((True, False))


def recount(base: Any, variant: Any, corpus: Corpus, context: int) -> Recount:
    """Every position's distributions of two models, from their own forward passes."""
    tokens = len(corpus.tokenizer)
    found = Recount([], [], [], [], [], [], [])
    for row in range(corpus.rows):
        ids = torch.tensor(corpus.ids[corpus.starts[row] : corpus.starts[row + 1]]).long()
        for start in range(0, len(ids) - 1, context):
            window = ids[start : start + context + 1]
            with torch.no_grad():
                p, q = (
                    one(input_ids=window[None, :-1]).logits[0, :, :tokens].double().log_softmax(-1)
                    for one in (base, variant)
                )
            for at, target in enumerate(window[1:].tolist()):
                found.kl.append(float((p[at].exp() * (p[at] - q[at])).sum()))
                tops = int(p[at].argmax()), int(q[at].argmax())
                found.same.append(tops[0] == tops[1])
                found.right_before.append(tops[0] == target)
                found.right_after.append(tops[1] == target)
                found.nll_before.append(-float(p[at, target]))
                found.nll_after.append(-float(q[at, target]))
                found.document.append(int(corpus.document[row]))
    return found
