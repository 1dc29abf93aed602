"""What training on each of several tasks gained each of them, and what scores predicted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from unembed.short_repr import ShortRepr
from unembed.stats.estimate import Estimate


@dataclass(frozen=True)
class Scores(ShortRepr):
    """A method's score of every source for every target, from each seed's samples; larger is
    better, NaN where there is none. ``seconds``, ``mib`` and ``bytes`` are its cost: time for all
    pairs of one seed, memory beyond what holds the model, and what is kept of a task.
    """

    method: str
    values: Float[np.ndarray, "seeds sources targets"]
    seconds: float | None = None
    mib: float | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class Transfer(ShortRepr):
    """Measured gains, and the scores that predicted them.

    ``gains[s, i, j]`` is how far task j's held-out loss falls, in nats a token, when the model is
    trained on task i, in seed s. ``training`` says in words how it was trained.
    """

    name: str
    tasks: tuple[str, ...]
    training: str
    gains: Float[np.ndarray, "seeds sources targets"]
    scores: tuple[Scores, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes None."""
        return {
            **vars(self),
            "gains": _plain(self.gains),
            "scores": [{**vars(one), "values": _plain(one.values)} for one in self.scores],
        }

    @staticmethod
    def from_json(values: dict[str, Any]) -> Transfer:
        """Read back what ``to_json`` wrote."""
        scores = tuple(
            Scores(**{**one, "values": np.array(one["values"], float)}) for one in values["scores"]
        )
        gains = np.array(values["gains"], float)
        return Transfer(
            **{**values, "tasks": tuple(values["tasks"]), "gains": gains, "scores": scores}
        )


@dataclass(frozen=True)
class Verdict(ShortRepr):
    """How well a method chose sources: means over targets and seeds, each with a 95 % interval.

    The target itself is no candidate. ``top1`` is how often its first choice had the largest gain,
    ``share`` the gain of its choices over that of the best ones, ``regret`` what its choice lost
    against the best one, in nats a token. ``spearman`` is the rank correlation of score and gain
    within a target, and ``p`` the share of permutations of the sources whose mean correlation is
    as large. ``unknown`` counts pairs without a score; they are ranked last.
    """

    method: str
    top1: Estimate
    share: Estimate
    regret: Estimate
    spearman: Estimate
    p: float
    unknown: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def _plain(matrix: Float[np.ndarray, "..."]) -> Any:
    plain = matrix.astype(object)
    plain[np.isnan(matrix)] = None
    return plain.tolist()
