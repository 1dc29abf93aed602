"""How alike several tasks are along a network, from its signatures: align_networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float

from unembed.errors import UnembedError
from unembed.signatures.alignment.align import interval, joined, numbers, sampling_error
from unembed.signatures.alignment.estimators import Cosine, Kind
from unembed.signatures.alignment.overlap import shared_inputs
from unembed.signatures.alignment.records import Pairs
from unembed.signatures.alignment.task_facts import task_facts
from unembed.signatures.documents import FOLDS
from unembed.signatures.network.file import network_as_bytes
from unembed.signatures.network.identities import off_diagonal_share
from unembed.signatures.network.modules import DEPTH, HEAD
from unembed.signatures.network.names import BLOCKS, FULL, MODULE
from unembed.signatures.network.records import (
    UNKNOWN,
    Extremes,
    NetworkAlignments,
    PartAlignments,
)
from unembed.signatures.network.signature import NetworkSignature, module_part, network_mismatch
from unembed.signatures.reading.files import facts_of
from unembed.signatures.signature import agree_all
from unembed.signatures.state import State
from unembed.signatures.sums import KEPT
from unembed.stats.estimate import Estimate
from unembed.stats.student import NORMAL_975

MOST_TASKS_OF_MODULES = 8
"""Tasks of which every pair is kept in every module; of more, in depths and kinds alone."""
TOGETHER = 0.95
"""How often all differences of two places hold their truths."""


def align_networks(
    signatures: Sequence[NetworkSignature],
    *,
    debias: bool = True,
    out: str | Path | None = None,
    command: str = "",
) -> NetworkAlignments:
    """Every alignment of several tasks, part by part along the network (theory §7, §12).

    Naively, for every part and kind that the signatures have::

        align([one.part(part) for one in signatures]).joint

    with the same errors, and beside it each part's norm in each task and the cosine of two halves
    of its documents. Where tasks are most and least alike is told by the differences of places: the
    random maps of two are independent, their documents are the same, and the normal quantile is
    Bonferroni's for all differences at once. Raises UnembedError for fewer than two signatures, and
    for two that do not compare.
    """
    if len(signatures) < 2:
        raise UnembedError(
            f"{len(signatures) or 'no'} signature has nothing to compare with: give two or more"
        )
    first = signatures[0]
    for part in dict.fromkeys(part for one in signatures for part in one.states):
        for other in signatures[1:]:
            words = network_mismatch(first, other, part)
            if words is not None:
                raise UnembedError(words)
    of_parts = {part: [one.part(part) for one in signatures] for part in first.parts}
    agree_all(of_parts[BLOCKS])
    if out is not None:
        whole = of_parts[FULL]
        return NetworkAlignments.keep(
            out,
            {
                "names": [one.name for one in signatures],
                "signatures": [sha256(network_as_bytes(one)).hexdigest() for one in signatures],
                "debias": debias,
            },
            lambda _: align_networks(signatures, debias=debias).to_json(),
            facts=facts_of(whole),
            command=command,
        )
    states = {part: [one.state for one in some] for part, some in of_parts.items()}
    shared = shared_inputs(states[BLOCKS])
    places = places_of(first)
    few = len(signatures) <= MOST_TASKS_OF_MODULES
    modules = {module_part(one) for one in first.modules} - set(places)
    kept, parts = {}, []
    for part, some in states.items():
        one = EstimatedPart.of(some, shared, debias)
        parts.append(one.record(part, some, pairwise=few or part not in modules))
        if part not in modules:
            kept[part] = one
    kinds = [kept[BLOCKS].joint, None, None, None]
    return NetworkAlignments(
        tasks=task_facts(of_parts[BLOCKS], kinds, shared, debias),
        places=places,
        parts=tuple(parts),
        extremes=_extremes({place: kept[place] for place in places}, len(signatures)),
        off_diagonal=_off_diagonal(kept[BLOCKS], kept[FULL]),
        modules=first.modules,
        method=first.head.construction,
        unit=first.unit,
        precision=first.precision,
        debiased=debias,
    )


def places_of(signature: NetworkSignature) -> tuple[str, ...]:
    """The parts that follow one another along a network: depths, then what is outside, the head."""
    depths = [part for part in signature.states if part.startswith(DEPTH)]
    outside = [
        module_part(one)
        for one in signature.modules
        if one.depth is None and module_part(one) in signature.states
    ]
    return (*depths, *(part for part in outside if part != HEAD), *({HEAD} & set(outside)))


@dataclass(frozen=True)
class EstimatedPart:
    """One part of all tasks; ``ratio`` is the share of the features that blocks are kept of."""

    joint: Kind
    cosine: Cosine
    first: Cosine | None
    ratio: float

    @staticmethod
    def of(
        states: Sequence[State], shared: Bool[np.ndarray, "tasks tasks"], debias: bool
    ) -> EstimatedPart:
        """From each task's state of it; ``shared`` are those that have documents in common."""
        among = shared & ~np.eye(len(states), dtype=bool) & debias
        joint, first = (Kind.of(states, name, debias) for name in ("joint", "first"))
        assert joint is not None
        m = states[0].joint.total.shape[1]
        return EstimatedPart(
            joint,
            joint.cosines(slice(None), among),
            None if first is None else first.cosines(slice(None), among),
            min(KEPT, m) / m,
        )

    def record(self, part: str, states: Sequence[State], *, pairwise: bool) -> PartAlignments:
        """With every pair, or with the mean over them alone."""
        return PartAlignments(
            part,
            self._pairs(self.cosine) if pairwise else None,
            self._pairs(self.first) if pairwise and self.first is not None else None,
            self.mean.estimate(self.ratio),
            self.joint.norms.mean(0),
            np.array([halves(state) for state in states]),
        )

    def _pairs(self, cosine: Cosine) -> Pairs:
        return joined([numbers(cosine, self.ratio, "joint")])

    def pair(self, i: int, j: int) -> WithShares:
        """The joint of two tasks with its shares."""
        sampling = self.cosine.sampling
        return WithShares(
            float(self.cosine.value[i, j]),
            self.cosine.sketch[:, i, j],
            None if sampling is None else sampling[:, :, i, j],
        )

    @property
    def mean(self) -> WithShares:
        """The mean of the joint over all pairs whose joint is known.

        A block of documents is left out of all tasks at once: of tasks that share none, that is as
        unbiased as one after another.
        """
        i, j = np.triu_indices(len(self.cosine.value), 1)
        known = np.isfinite(self.cosine.value[i, j])
        i, j = i[known], j[known]
        if not len(i):
            return WithShares(np.nan, np.full(1, np.nan), None)
        sampling = self.cosine.sampling
        both = None
        if sampling is not None:
            some = sampling[:, :, i, j].mean(-1)
            both = some.reshape(2, 2, -1).sum(1)
        return WithShares(
            float(self.cosine.value[i, j].mean()), self.cosine.sketch[:, i, j].mean(-1), both
        )


@dataclass(frozen=True)
class WithShares:
    """A number, with the shares of groups of features and of blocks of documents in it."""

    value: float
    sketch: Float[np.ndarray, " groups"]
    sampling: Float[np.ndarray, "halves blocks"] | None

    def error(self, ratio: float) -> float:
        """The standard error of both; NaN where no blocks were kept."""
        sampling = np.nan if self.sampling is None else float(sampling_error(self.sampling, ratio))
        return float(np.hypot(np.sqrt(np.square(self.sketch).sum()), sampling))

    def error_of_difference(self, other: WithShares, ratio: float) -> float:
        """Of the difference to another place, of maps of its own and the same documents."""
        if self.sampling is None or other.sampling is None:
            return float("nan")
        sketch = np.square(self.sketch).sum() + np.square(other.sketch).sum()
        sampling = float(sampling_error(self.sampling - other.sampling, ratio))
        return float(np.hypot(np.sqrt(sketch), sampling))

    def estimate(self, ratio: float) -> Estimate:
        """With a 95 % interval, as that of a cosine."""
        if np.isnan(self.value):
            return Estimate(None, reason=UNKNOWN)
        value, se = np.array([[self.value]]), np.array([[self.error(ratio)]])
        low, high = (float(end[0, 0]) for end in interval(value, se, "cosine"))
        if np.isnan(low):
            return Estimate(self.value)
        return Estimate(self.value, low, high)


def halves(state: State) -> float:
    """The cosine of the Fishers of two halves of a task's documents, each norm debiased.

    NaN where a half has no two documents, or a norm that is not positive.
    """
    weight, sums = state.weight, state.joint
    pairs = weight**2 - state.document_weight_squared
    if len(weight) < FOLDS or not (pairs > 0).all():
        return float("nan")
    m = sums.total.shape[1]
    across = float(sums.total[0] @ sums.total[1]) / m / float(weight.prod())
    norms = (np.square(sums.total).sum(1) / m - sums.own) / pairs
    return across / float(np.sqrt(norms.prod())) if (norms > 0).all() else float("nan")


def _extremes(places: dict[str, EstimatedPart], tasks: int) -> tuple[Extremes, ...]:
    """Where every two tasks are most and least alike, and all pairs on average where many."""
    pairs = list(combinations(range(tasks), 2))
    found = [
        Extremes(pair, *_ends({name: one.pair(*pair) for name, one in places.items()}, places))
        for pair in pairs
    ]
    mean = {name: one.mean for name, one in places.items()}
    return (Extremes(None, *_ends(mean, places)), *found)


def _ends(
    shares: dict[str, WithShares], places: dict[str, EstimatedPart]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The places that cannot be told from the most and from the least alike."""
    known = {name: one for name, one in shares.items() if not np.isnan(one.value)}
    if not known:
        return (), ()
    differences = len(known) * (len(known) - 1) / 2
    z = NormalDist().inv_cdf(1 - (1 - TOGETHER) / (2 * max(differences, 1)))
    ends = []
    for sign in (1, -1):
        best = max(known, key=lambda name: sign * known[name].value)
        top = known[best]
        within = []
        for name, one in known.items():
            error = top.error_of_difference(one, places[name].ratio)
            apart = sign * (top.value - one.value) > z * error
            if name == best or not apart:
                within.append(name)
        ends.append(tuple(within))
    return ends[0], ends[1]


def _off_diagonal(blocks: EstimatedPart, whole: EstimatedPart) -> tuple[Estimate, ...]:
    """η of each task, with the interval of the ratio of squared norms that it is of."""
    near, far = blocks.joint, whole.joint
    groups = len(near.norms)
    near_norm, far_norm = near.norms.mean(0), far.norms.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = near_norm / far_norm
        shares = (near.norms / near_norm - far.norms / far_norm) * ratio
        shares = shares / np.sqrt(groups * (groups - 1))
        error = np.sqrt(np.square(shares).sum(0))
        if near.blocks is not None and far.blocks is not None:
            rows = slice(None)
            lost = [one.blocks.deleted(rows).row_norms[..., 0] for one in (near, far)]  # type: ignore[union-attr]
            moved = (lost[0] / near_norm - lost[1] / far_norm) * ratio
            error = np.hypot(error, sampling_error(moved, blocks.ratio))
        else:
            error = np.full_like(error, np.nan)
    found = []
    for one, other, at, se in zip(near_norm, far_norm, ratio, error, strict=True):
        value = off_diagonal_share(float(one), float(other))
        if np.isnan(value):
            reason = "the blocks' squared norm is no less than the whole's, within noise"
            found.append(Estimate(None, reason=reason))
            continue
        low, high = (1 - (at + sign * NORMAL_975 * se) for sign in (1, -1))
        bounded = low >= 0
        found.append(
            Estimate(
                value,
                float(np.sqrt(low)) if bounded else None,
                float(np.sqrt(high)) if bounded else None,
            )
        )
    return tuple(found)


def whole_parts(found: NetworkAlignments) -> tuple[str, ...]:
    """The parts that are of the whole network or of a kind of module: no module, no depth."""
    return tuple(
        one.part
        for one in found.parts
        if one.part not in found.places and not one.part.startswith(MODULE)
    )
