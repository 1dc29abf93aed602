"""The weight of each position in a penalty: by its token, by the head's decision, by hand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unembed.decisions.tokens import CLASSES, classes_of
from unembed.errors import UnembedError
from unembed.head.loss import HeadLoss
from unembed.short_repr import ShortRepr
from unembed.text.vocabulary import Vocabulary

OTHERS = "*"
"""Stands for every token class that is not named."""


@dataclass(frozen=True)
class Weighting(ShortRepr):
    """How positions are weighted; every part is a factor, and left out it is 1.

    ``frequency`` is the power a of ``count(target)^-a`` over the training targets. ``classes``
    gives token classes a weight; those not named have that of ``"*"``, or 1. ``values`` gives token
    ids one, others have 1. Positions whose margin is not below ``below_margin``, and under
    ``only_right`` those whose top token is not the target, weigh 0.

    Raises UnembedError for an unknown class, and for a number that is negative or not finite.
    Source: theory §5.
    """

    frequency: float = 0.0
    classes: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[int, float] = field(default_factory=dict)
    below_margin: float | None = None
    only_right: bool = False

    def __post_init__(self) -> None:
        refuse_unknown_classes(self.classes.keys() - {OTHERS})
        refuse_negative("the frequency power", self.frequency)
        for name, weight in self.classes.items():
            refuse_negative(f"the weight of class {name!r}", weight)
        for token, value in self.values.items():
            refuse_negative(f"the value of token {token}", value)
        if self.below_margin is not None and not 0 < self.below_margin < math.inf:
            raise UnembedError(f"below_margin is {self.below_margin!r}: give a number above 0")

    def table(self, counts: Int[Tensor, " vocab"], vocabulary: Vocabulary) -> WeightTable:
        """The weight of every token, 1 on average over the training targets.

        Equivalent to::

            weight = counts ** -frequency * by_class[class_of] * by_value
            weight / ((counts * weight).sum() / counts.sum())

        so that a penalty's lambda means the same under every weighting. ``counts`` is how often
        each token is a training target; one that never is has the weight of the rarest that are.
        The gates are not averaged over. Raises UnembedError where all targets weigh 0, and where
        the weights differ by more than float32 holds.
        """
        seen = counts > 0
        if not bool(seen.any()):
            raise ValueError("no token is a training target: count those of the training corpus")
        rare = int(counts[seen].min())
        weights = (counts.clamp_min(rare).double() / rare) ** -self.frequency
        weights *= self._by_class(len(counts), vocabulary).to(weights.device)
        for token, value in self.values.items():
            if not 0 <= token < len(counts):
                raise UnembedError(f"token {token} has a value, and ids end at {len(counts) - 1}")
            weights[token] *= value
        mean = float((counts * weights).sum() / counts.sum())
        if mean == 0:
            raise UnembedError(
                "the classes and values leave every training target without weight: "
                "give a class or a token that the training corpus holds more than 0"
            )
        by_token = (weights / mean).float()
        if not bool(torch.isfinite(by_token).all()):
            raise UnembedError("the weights differ by more than float32 holds: give smaller ones")
        return WeightTable(by_token, self.below_margin, self.only_right)

    def _by_class(self, vocab: int, vocabulary: Vocabulary) -> Float[Tensor, " vocab"]:
        if not self.classes:
            return torch.ones(vocab, dtype=torch.float64)
        others = self.classes.get(OTHERS, 1.0)
        weights = torch.tensor([self.classes.get(name, others) for name in CLASSES]).double()
        return weights[_class_numbers(vocabulary, vocab)]


@dataclass(frozen=True)
class WeightTable(ShortRepr):
    """The weight of every token as a target, and the gates of a ``Weighting``."""

    by_token: Float[Tensor, " vocab"]
    below_margin: float | None
    only_right: bool

    @property
    def gated(self) -> bool:
        """Whether the model's decisions say which positions count."""
        return self.below_margin is not None or self.only_right

    def of_positions(
        self, targets: Int[Tensor, " positions"], said: HeadLoss | None
    ) -> Float[Tensor, " positions"]:
        """Each position's weight by its target and what the head says; no gradient passes.

        Equivalent to ``by_token[targets] * (margin < below_margin) * (top1 == targets)``. Without
        gates nothing of the head is read. Raises ValueError where it is needed and None.
        """
        weights = self.by_token.to(targets.device)[targets]
        if said is None:
            if self.gated:
                raise ValueError("these weights depend on the head's decisions, and there are none")
            return weights
        if self.below_margin is not None:
            values = said.topk_values
            weights = weights * (values[:, 0] - values[:, 1] < self.below_margin)
        if self.only_right:
            weights = weights * (said.topk_ids[:, 0] == targets)
        return weights


@dataclass(frozen=True)
class Positions(ShortRepr):
    """Positions that a user lists by document and position, with a weight each.

    ``keys`` are ``doc << 32 | pos`` in ascending order.
    """

    keys: Int[np.ndarray, " listed"]
    weights: Float[np.ndarray, " listed"]

    def of(
        self, doc: Int[np.ndarray, " positions"], pos: Int[np.ndarray, " positions"]
    ) -> Float[Tensor, " positions"]:
        """The listed weight of every position in float32, 0 where it is not listed."""
        wanted = position_keys(doc, pos)
        at = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        return torch.from_numpy(np.where(self.keys[at] == wanted, self.weights[at], np.float32(0)))


def refuse_unknown_classes(names: Iterable[str]) -> None:
    """Raise UnembedError for a name that is no token class."""
    unknown = sorted(set(names) - set(CLASSES))
    if unknown:
        raise UnembedError(f"{unknown[0]!r} is no token class: give one of {', '.join(CLASSES)}")


def tokens_of_classes(
    classes: tuple[str, ...], vocabulary: Vocabulary, vocab: int
) -> Bool[Tensor, " vocab"]:
    """Marks the tokens of these classes; all of them where none is named.

    Raises UnembedError for an unknown class.
    """
    refuse_unknown_classes(classes)
    if not classes:
        return torch.ones(vocab, dtype=torch.bool)
    wanted = torch.tensor([CLASSES.index(name) for name in classes])
    return torch.isin(_class_numbers(vocabulary, vocab), wanted)


def refuse_negative(what: str, number: float) -> None:
    """Raise UnembedError for a number that is negative or not finite."""
    if not (math.isfinite(number) and number >= 0):
        raise UnembedError(f"{what} is {number!r}: give a number from 0 up")


def _class_numbers(vocabulary: Vocabulary, vocab: int) -> Int[Tensor, " vocab"]:
    return torch.from_numpy(classes_of([vocabulary[token] for token in range(vocab)])).long()


def position_keys(
    doc: Int[np.ndarray, " positions"], pos: Int[np.ndarray, " positions"]
) -> Int[np.ndarray, " positions"]:
    """``doc << 32 | pos``."""
    keys: Int[np.ndarray, " positions"] = (doc.astype(np.int64) << 32) | pos.astype(np.int64)
    return keys
