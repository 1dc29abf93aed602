"""What a reader must know before using a mixture, in a sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool

from unembed.selection.mixing.fit import Fit
from unembed.selection.mixing.inner_products import InnerProducts
from unembed.selection.mixing.record import Mixture
from unembed.signatures.alignment.overlap import shared_inputs
from unembed.signatures.alignment.task_facts import NOISE
from unembed.signatures.signature import Signature

MOST_UNEXPRESSED = 0.05
"""The share of a target's squared norm from which on it matters that no mixture expresses it."""
MOST_OFF = 0.1
"""How far the weights' sum may be from a blend's, which is 1."""
WIDE_INTERVAL = 0.2
"""Of a weight's interval: two sources are too alike where both have wider ones, and their sum has
one less than half as wide."""
LEAST_EIGENVALUE = -1e-9
MOST_NAMED = 3


def warnings_of(
    mixed: Mixture,
    target: Signature,
    sources: Sequence[Signature],
    left: Bool[np.ndarray, " sources"],
    products: InnerProducts,
    found: Fit,
    kind: str,
) -> tuple[str, ...]:
    """Sentences with their values, those that matter most first.

    ``kind`` is the feature's, one of ``SUMMED``. ``left`` are the sources that ``products`` and
    ``found`` are of.
    """
    used = [source for source, here in zip(sources, left, strict=True) if here]
    return (
        *_unexpressed(mixed),
        *_left_out(mixed),
        *_alike([source.name for source in used], found),
        *_few(kind, [target, *used], products),
        *_indefinite(found),
        *_too_many(mixed),
        *_intervals([target, *used], products),
        *_other_units(target),
    )


def _unexpressed(mixed: Mixture) -> Iterator[str]:
    residual, total = mixed.residual, mixed.total
    assert residual.value is not None
    assert residual.low is not None
    assert total.value is not None
    assert total.low is not None
    assert total.high is not None
    if residual.low > MOST_UNEXPRESSED:
        yield (
            f"No mixture of the sources expresses {residual.value:.0%} of {mixed.target} "
            f"({residual.low:.0%} at least): look for a source of what is left."
        )
    if total.low > 1 + MOST_OFF or total.high < 1 - MOST_OFF:
        yield (
            f"The weights sum to {total.value:.2f} ({total.low:.2f} to {total.high:.2f}) before "
            f"they are made 1, where a blend's sum to 1: {mixed.target} is no plain blend of the "
            "sources."
        )


def _left_out(mixed: Mixture) -> Iterator[str]:
    expressed = any(share.weight.value is not None for share in mixed.shares)
    if not expressed:
        yield f"There are no weights, for {mixed.shares[0].weight.reason}."
        return
    for share in mixed.shares:
        if share.weight.value is None:
            yield f"{share.name} is left out: {share.weight.reason}."


def _alike(names: Sequence[str], found: Fit) -> Iterator[str]:
    """The pair of sources whose weights are known together far better than alone."""
    sums = found.draws.sum(1)
    shares = found.draws[sums > 0] / sums[sums > 0, None]
    if not len(shares):
        return
    low, high = np.quantile(shares, (0.025, 0.975), axis=0)
    wide = np.flatnonzero(high - low > WIDE_INTERVAL)
    if len(wide) < 2:
        return
    trade = np.corrcoef(shares[:, wide].T)
    partner = wide[trade.argmin(1)]
    pairs = []
    for i, j in sorted({(min(pair), max(pair)) for pair in zip(wide, partner, strict=True)}):
        both = np.quantile(shares[:, i] + shares[:, j], (0.025, 0.975))
        ratio = (both[1] - both[0]) / min(high[i] - low[i], high[j] - low[j])
        pairs.append((float(ratio), int(i), int(j), both))
    pairs = sorted((pair for pair in pairs if pair[0] < 0.5), key=lambda pair: pair[:3])
    if pairs:
        _, i, j, both = pairs[0]
        yield (
            f"{names[i]} and {names[j]} are too alike to be told apart (cosine "
            f"{found.cosines[i, j]:.2f}): together they weigh {_span(*both)}, alone "
            f"{_span(low[i], high[i])} and {_span(low[j], high[j])}"
            + f", and so are {len(pairs) - 1} other pairs" * (len(pairs) > 1)
            + "."
        )


def _span(low: float, high: float) -> str:
    return f"{low:.2f} to {high:.2f}"


def _few(kind: str, every: Sequence[Signature], products: InnerProducts) -> Iterator[str]:
    noisy = []
    for one, square in zip(every, np.diag(products.value), strict=True):
        mean = one.state.mean(kind)
        assert mean is not None
        plain = float(np.square(mean).mean())
        if plain > NOISE * square:
            noisy.append((float(1 - square / plain), one))
    noisy.sort(key=lambda pair: -pair[0])
    listed = ", ".join(
        f"{one.name} ({share:.0%}, n = {one.state.samples:,.0f} in {one.state.documents:,} "
        "documents)"
        for share, one in noisy[:MOST_NAMED]
    )
    if noisy:
        more = f" and {len(noisy) - MOST_NAMED} more" * (len(noisy) > MOST_NAMED)
        yield (
            f"{len(noisy)} of {len(every)} signatures have few samples, more than half of their "
            f"squared norm being noise: {listed}{more}."
        )


def _indefinite(found: Fit) -> Iterator[str]:
    if found.lowest < LEAST_EIGENVALUE:
        yield (
            f"The sources' cosines contradict each other (least eigenvalue {found.lowest:.3f}), "
            "which is noise: the nearest that do not are taken; sketch more text."
        )


def _too_many(mixed: Mixture) -> Iterator[str]:
    if len(mixed.shares) >= mixed.documents:
        yield (
            f"{len(mixed.shares)} sources are more than {mixed.documents} documents of "
            f"{mixed.target} can weigh: give fewer sources, or more text of the target."
        )


def _intervals(every: Sequence[Signature], products: InnerProducts) -> Iterator[str]:
    if not products.sampled:
        few = [one.name for one in every if (one.state.block_weight > 0).sum() <= 2]
        what = f"{few[0]} keeps too few" if few else "the signatures keep other"
        yield (
            f"Intervals hold the sketch's error alone, not the sample's, for {what} blocks of "
            "documents: mix whole signatures of more documents."
        )
    shared = shared_inputs([one.state for one in every])
    for i, one in enumerate(every):
        if len(one.state.weight) > 1:
            continue
        for j in np.flatnonzero(shared[i]).tolist():
            if i != j:
                yield (
                    f"{one.name} shares documents with {every[j].name}, which a compact signature "
                    "cannot leave out of their product: mix whole signatures."
                )
                return


def _other_units(target: Signature) -> Iterator[str]:
    if target.identity.unit != "token":
        yield (
            f"Samples are {target.identity.unit}s: weights are shares of {target.identity.unit}s, "
            "not of tokens."
        )
