"""Whether a refinement makes decisions more robust: the same disturbances before and after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from jaxtyping import Float

from unembed.decisions.comparison.flips import COMPARISON_RESAMPLES, MINIMUM_FLIPS
from unembed.decisions.comparison.seeds import widened
from unembed.errors import UnembedError
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import ratio_of_totals
from unembed.stats.estimate import Estimate
from unembed.training.resampling import Resampling, Rows
from unembed.training.robustness.read_outs import ReadOuts

TEXT_FACTS = {
    "digest": "text (digest)",
    "context": "context",
    "overflow": "overflow",
    "positions": "positions",
}
"""Facts of the text that two runs must share to have the same positions in the same order."""


@dataclass(frozen=True)
class Shift(ShortRepr):
    """A mean over positions before and after, and ``difference``, after - before."""

    before: Estimate
    after: Estimate
    difference: Estimate


@dataclass(frozen=True)
class ChangeShift(ShortRepr):
    """One disturbance of the weights or the head.

    ``flips`` is the share of positions with another top-1, ``ratio`` the share after over that
    before: below 1 the model became more robust. ``flips_before`` and ``flips_after`` count the
    flips in all runs of a side. ``acceptance`` and ``kl``, in nats, are None where the change makes
    decisions alone.
    """

    name: str
    flips_before: int
    flips_after: int
    flips: Shift
    ratio: Estimate
    acceptance: Shift | None
    kl: Shift | None


@dataclass(frozen=True)
class NoiseShift(ShortRepr):
    """Normal noise of ``deviation`` logits: the expected share of flips, and after over before.

    ``neglected_before`` and ``neglected_after`` bound by how much the shares are too small.
    """

    deviation: float
    flips: Shift
    ratio: Estimate
    neglected_before: float
    neglected_after: float


@dataclass(frozen=True)
class RobustnessComparison(ShortRepr):
    """The read-outs of models before and after, at the same ``n`` positions.

    ``seeds`` is how many runs there are on each side.
    """

    n: int
    documents: int
    seeds: tuple[int, int]
    changes: tuple[ChangeShift, ...]
    noise: tuple[NoiseShift, ...]


def compare_read_outs(
    before: Sequence[ReadOuts],
    after: Sequence[ReadOuts],
    *,
    resamples: int = COMPARISON_RESAMPLES,
    seed: int = 0,
) -> RobustnessComparison:
    """Compare what the same disturbances do to models before and after a change (theory §6).

    A share is a mean over the positions and the runs of its side, one run for each seed; its ``n``
    counts both. Every figure has the same resamples of documents, so that differences and ratios
    are paired, widened by ``seeds.widened`` where a side has several runs. A ratio is undefined
    with fewer than ``MINIMUM_FLIPS`` flips, or expected flips, on either side, in all its runs. The
    same read-outs on both sides give differences of 0 and ratios of 1. Raises UnembedError where
    texts, windows or disturbances differ, and where two runs of a side are one model.
    """
    _check(before, after)
    resampling = Resampling.of(before[0].doc, resamples, seed)
    pooled = _compared(before, after, resampling)
    seeds = len(before), len(after)
    if seeds == (1, 1):
        return pooled
    alone = replace(resampling, resamples=0)
    singles = [_compared([old], [new], alone) for old in before for new in after]
    return widened(pooled, singles, seeds)


@dataclass(frozen=True)
class _Totals:
    """One measure summed over positions and all runs of each side, and the number of positions."""

    before: Rows
    after: Rows
    positions: Rows
    seeds: tuple[int, int]
    documents: int

    def shift(self) -> Shift:
        """Means of both sides and their difference."""
        old, new = self.seeds
        moved = self.after / new - self.before / old
        return Shift(
            ratio_of_totals(self.before, old * self.positions, self.documents),
            ratio_of_totals(self.after, new * self.positions, self.documents),
            ratio_of_totals(moved, self.positions, self.documents),
        )

    def ratio(self) -> Estimate:
        """The mean after over the mean before; ``n`` is the positions'."""
        n = int(self.positions[0])
        fewest = min(self.before[0], self.after[0])
        if fewest < MINIMUM_FLIPS:
            reason = (
                f"{self.before[0]:.4g} flips before and {self.after[0]:.4g} after; "
                f"a ratio needs {MINIMUM_FLIPS} of each"
            )
            return Estimate(None, n=n, reason=reason)
        old, new = self.seeds
        return replace(ratio_of_totals(self.after / new, self.before / old, self.documents), n=n)


def _compared(
    before: Sequence[ReadOuts], after: Sequence[ReadOuts], resampling: Resampling
) -> RobustnessComparison:
    first, seeds = before[0], (len(before), len(after))
    totals = _totals(before, after, resampling)
    changes = []
    for name in first.changes:
        flipped = totals[f"{name} flipped"]
        others = (totals.get(f"{name} {what}") for what in ("acceptance", "kl"))
        changes.append(
            ChangeShift(
                name,
                int(flipped.before[0]),
                int(flipped.after[0]),
                flipped.shift(),
                flipped.ratio(),
                *(None if one is None else one.shift() for one in others),
            )
        )
    noise = []
    for i, one in enumerate(first.noise):
        chance = totals[f"noise {i}"]
        left_out = (np.mean([run.noise[i].neglected for run in side]) for side in (before, after))
        noise.append(
            NoiseShift(one.deviation, chance.shift(), chance.ratio(), *map(float, left_out))
        )
    return RobustnessComparison(
        len(first.doc), resampling.documents, seeds, tuple(changes), tuple(noise)
    )


def _totals(
    before: Sequence[ReadOuts], after: Sequence[ReadOuts], resampling: Resampling
) -> dict[str, _Totals]:
    """Every measure by its name, all from the same resamples."""
    sides = [[_by_document(run, resampling) for run in side] for side in (before, after)]
    names = list(sides[0][0])
    sums = [sum(run[name] for run in side) for side in sides for name in names]
    sizes = resampling.sums(np.ones(len(resampling.inverse)))
    totals = resampling.totals(np.concatenate([*sums, sizes])).T
    k, seeds = len(names), (len(before), len(after))
    return {
        name: _Totals(totals[i], totals[k + i], totals[-1], seeds, resampling.documents)
        for i, name in enumerate(names)
    }


def _by_document(
    run: ReadOuts, resampling: Resampling
) -> dict[str, Float[np.ndarray, "one documents"]]:
    columns = {
        f"{name} {what}": column
        for name, change in run.changes.items()
        for what, column in vars(change).items()
        if column is not None
    }
    columns |= {f"noise {i}": one.chance for i, one in enumerate(run.noise)}
    return {name: resampling.sums(column) for name, column in columns.items()}


def _check(before: Sequence[ReadOuts], after: Sequence[ReadOuts]) -> None:
    """Raise UnembedError for read-outs that cannot be compared."""
    for side, where in ((before, "before"), (after, "after")):
        if not side:
            raise UnembedError(f"there are no read-outs {where}: give those of one run or more")
        for one, other in combinations([run.provenance for run in side], 2):
            if (one.model_digest, one.model_dtype) == (other.model_digest, other.model_dtype):
                raise UnembedError(
                    f"two seeds are one model: {one.model} and {other.model}, both {where}, have "
                    f"the digest {one.model_digest[:12]}; give each seed once"
                )
    first, *others = (*before, *after)
    for run in others:
        for what, old, new in _facts(first, run):
            if old != new:
                raise UnembedError(
                    f"the read-outs of {first.provenance.model} and {run.provenance.model} differ "
                    f"in their {what}, {old} and {new}: measure both alike"
                )


def _facts(first: ReadOuts, other: ReadOuts) -> Iterator[tuple[str, object, object]]:
    """What two runs must have in common: its name, and that of each."""
    for name, what in TEXT_FACTS.items():
        yield what, getattr(first.provenance.text, name), getattr(other.provenance.text, name)
    yield "changes", ", ".join(first.changes), ", ".join(other.changes)
    ours, theirs = ([one.deviation for one in run.noise] for run in (first, other))
    yield "noise", ours, theirs
