"""Made-up pictures: exact cells of a small random head, whose tokens a page must escape."""

from __future__ import annotations

from dataclasses import replace

import torch

from made_up.audits import NASTY
from unembed.decisions.slices.decision import DecisionSlice
from unembed.decisions.slices.slice import Slice, slice_between, slice_of_path, slices_of
from unembed.head.head import Head
from unembed.text.vocabulary import Vocabulary

WORDS = Vocabulary(
    {i: f" word{i}" for i in range(60)} | dict(enumerate((*NASTY[:8], " ", "\n\n", "a" * 40)))
)


def small_head(vocab: int = 60, dim: int = 4) -> tuple[Head, torch.Tensor]:
    """A head with many cells in few dimensions, and some states."""
    g = torch.Generator().manual_seed(1)
    weight = torch.randn(vocab, dim, generator=g)
    head = Head.from_parts(weight, -weight.square().sum(1) / 2)
    return head, torch.randn(8, dim, generator=g) * 0.7


def made_slices(places: list[tuple[int, int]]) -> tuple[DecisionSlice, ...]:
    """A picture for each document and position; the text goes on rightly at every other."""
    head, states = small_head()
    cut = slices_of(states[: len(places)], head, WORDS, half=6.0)
    return tuple(
        DecisionSlice(
            doc=doc,
            position=pos,
            document=f"document {doc} <b>",
            context="before it </script> stood this text",
            target=one.marks[0].token + at % 2,
            target_text=WORDS[one.marks[0].token + at % 2],
            margin=one.margin,
            slice=one,
        )
        for at, ((doc, pos), one) in enumerate(zip(places, cut, strict=True))
    )


def made_move() -> Slice:
    """Before and after, of two heads."""
    head, states = small_head()
    later = replace(head, weight=head.weight * 1.02 + 0.01, digest="later")
    return slice_between(states[1], states[2], head, WORDS, later_head=later)


def made_path() -> Slice:
    """A way through seven depths."""
    head, states = small_head()
    return slice_of_path(states[:7], head, WORDS)
