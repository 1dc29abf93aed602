"""Whether a model's first blocks pay as the draft of the whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unembed.decisions.comparison.draft_rounds import runs_of
from unembed.decisions.comparison.drafts import DraftSums, DraftUnderSampling, speed_ups
from unembed.decisions.layers.stack import LAYERS_RESAMPLES, AtDepths, LensStack
from unembed.head.sampling import Sampling
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import interval
from unembed.stats.estimate import Estimate

MOST_SELF_DRAFTED = 8
"""Drafted tokens a round at most."""

SAMPLINGS = (Sampling(), None)
"""Plain sampling at T = 1, and greedy decoding, which accepts where both lead with the token."""

NO_DEPTH = "no depth between the first and the last was measured"


@dataclass(frozen=True)
class SelfDraft(ShortRepr):
    """The blocks up to a depth, read by the lens, as a draft: at T = 1 and greedily.

    ``cost`` is the part of the blocks that a drafted token runs.
    """

    depth: int
    cost: float
    sampled: DraftUnderSampling
    greedy: DraftUnderSampling


@dataclass(frozen=True)
class BestSelfDraft(ShortRepr):
    """The depth and the number of drafted tokens with the largest speed-up.

    The intervals of ``depth`` and ``drafted`` are those of the best over resamples of the
    documents; that of ``speedup`` is of the two as chosen, and does not count that they were chosen
    for being largest.
    """

    depth: Estimate
    drafted: Estimate
    speedup: Estimate

    @property
    def pays(self) -> bool | None:
        """Whether the speed-up is surely more than 1, surely less, or neither."""
        if self.speedup.low is None or self.speedup.high is None:
            return None
        return True if self.speedup.low > 1 else False if self.speedup.high < 1 else None


@dataclass(frozen=True)
class SelfDrafts(AtDepths):
    """Drafts by the model's own first blocks, at every measured depth before the last (theory §3).

    Acceptance is the mean of ``acceptance`` over positions, or of agreement where decoding is
    greedy; tokens a pass are walked along runs of positions of a document, see
    ``comparison/draft_rounds.py``. A drafted token is taken to cost ``depth / blocks`` of a pass:
    that leaves out the head, which reads each drafted token too, and what is saved where the check
    goes on from the draft's blocks. Depth 0, whose blocks cost nothing, is never the best.
    """

    by_depth: tuple[SelfDraft, ...]
    best_sampled: BestSelfDraft
    best_greedy: BestSelfDraft


def self_drafts(
    stack: LensStack, *, resamples: int = LAYERS_RESAMPLES, seed: int = 0
) -> SelfDrafts:
    """Judge the model's own first blocks as its draft, at each depth."""
    how = {"resamples": resamples, "seed": seed}
    begins = runs_of(stack.doc, stack.pos, np.zeros(stack.n, dtype=np.bool_))
    documents = stack.clusters[1]
    found, speeds = [], []
    for i, depth in enumerate(stack.depths[:-1]):
        cost = depth / stack.blocks
        chances = np.stack([stack.acceptance[i], stack.agrees[i]]).astype(np.float64)
        if stack.n:
            sums = DraftSums.along(chances, stack.doc, begins, MOST_SELF_DRAFTED)
        else:
            sums = DraftSums.of([], ("sampled", "greedy"), MOST_SELF_DRAFTED)
        found.append(SelfDraft(depth, cost, *sums.judged(SAMPLINGS, cost, **how)))
        tokens, rounds = sums.resampled_rounds(**how)
        speeds.append([speed_ups(tokens[:, j], rounds[:, j], cost) for j in range(len(SAMPLINGS))])
    inner = [i for i, one in enumerate(found) if one.depth > 0]
    best = [
        _best([found[i] for i in inner], [speeds[i][j] for i in inner], stack.n, documents)
        for j in range(len(SAMPLINGS))
    ]
    return SelfDrafts(
        **stack.about(), by_depth=tuple(found), best_sampled=best[0], best_greedy=best[1]
    )


def _best(
    drafts: list[SelfDraft],
    speeds: list[Float[np.ndarray, "rows drafts"]],
    n: int,
    documents: int,
) -> BestSelfDraft:
    """The largest speed-up, and which it is in each resample."""
    if not drafts or not any(np.isfinite(one[0]).any() for one in speeds):
        reason = drafts[0].sampled.best.reason if drafts else NO_DEPTH
        nothing = Estimate(None, reason=reason)
        return BestSelfDraft(nothing, nothing, nothing)
    speed = np.stack(speeds, axis=1)
    flat = speed.reshape(len(speed), -1)
    best = flat.argmax(axis=1)
    at, drafted = np.divmod(best, speed.shape[2])
    depth = np.array([one.depth for one in drafts])[at]
    columns = (depth, drafted + 1, flat[:, best[0]])
    return BestSelfDraft(
        *(
            Estimate(
                float(one[0]),
                *interval(one[1:].astype(np.float64), documents),
                n=n,
                documents=documents,
            )
            for one in columns
        )
    )
