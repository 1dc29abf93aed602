"""What a reader must know before using a mixture, in a sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float

from unembed.selection.mixing.fit import Fit
from unembed.selection.mixing.groups import MOST_LENGTH
from unembed.selection.mixing.inner_products import InnerProducts
from unembed.selection.mixing.record import Mixture
from unembed.signatures.alignment.overlap import shared_inputs, shared_part
from unembed.signatures.alignment.task_facts import NOISE
from unembed.signatures.signature import Signature
from unembed.stats.forms import full, share, two

MOST_UNEXPRESSED = 0.05
"""The share of a target's squared norm from which on it matters that no mixture expresses it."""
MOST_OFF = 0.1
"""How far the weights' sum may be from a blend's, which is 1."""
WIDE_INTERVAL = 0.2
"""Of a weight's interval: two sources are too alike where both have wider ones, and their sum has
one less than half as wide, provided that they are alike."""
ALIKE = 0.5
"""Cosine of two sources, and minus the correlation of their weights before these sum to 1, from
which on one stands for the other. Two shares always trade off, as they sum to 1: that alone says
nothing of the sources."""
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
        *_below_zero(mixed),
        *_shared(target, used),
        *_left_out(mixed),
        *_replaceable(used, found, kind),
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
            f"No mixture of the sources expresses {full(residual, share)} of {mixed.target}: look "
            "for a source of what is left."
        )
    if total.low > 1 + MOST_OFF or total.high < 1 - MOST_OFF:
        yield (
            f"The weights sum to {full(total, two)} before they are made 1, where a blend's sum "
            f"to 1: {mixed.target} is no plain blend of the sources."
        )


def _below_zero(mixed: Mixture) -> Iterator[str]:
    residual = mixed.residual
    assert residual.value is not None
    if residual.high is not None and residual.high < 0:
        yield (
            f"The residual is below 0 ({residual.value:.3f}, {residual.high:.3f} at most), which "
            "no share can be, by more than its error: the samples are not as independent as "
            "their documents say, as where one text is in several under other names."
        )


def _shared(target: Signature, sources: Sequence[Signature]) -> Iterator[str]:
    parts = [(shared_part(target.state, one.state), one.name) for one in sources]
    parts = sorted((pair for pair in parts if pair[0] > 0), key=lambda pair: -pair[0])
    if parts:
        listed = _listed([f"{name} ({part:.0%})" for part, name in parts[:MOST_NAMED]])
        more = f" and {len(parts) - MOST_NAMED} more" * (len(parts) > MOST_NAMED)
        yield (
            f"{target.name} shares documents with {listed}{more}: weights and residual say how "
            "well sources hold these very texts, not others like them; take them out of one side."
        )


def _left_out(mixed: Mixture) -> Iterator[str]:
    expressed = any(share.weight.value is not None for share in mixed.shares)
    if not expressed:
        yield f"There are no weights, for {mixed.shares[0].weight.reason}."
        return
    for one in mixed.shares:
        if one.weight.value is None:
            yield f"{one.name} is left out: {one.weight.reason}."


def _replaceable(sources: Sequence[Signature], found: Fit, kind: str) -> Iterator[str]:
    """Groups of sources whose weights are known together, and not alone."""
    drawn = found.draws.sum(1) > 0
    if not drawn.any():
        return
    shares = found.draws[drawn] / found.draws[drawn].sum(1, keepdims=True)
    low = np.quantile(found.least[drawn], 0.025, axis=0)
    high = np.quantile(found.most[drawn], 0.975, axis=0)
    names = [source.name for source in sources]
    seen: set[int] = set()
    for group in found.free.groups():
        seen.update(group)
        whole = _span(*np.quantile(shares[:, group].sum(1), (0.025, 0.975)))
        alone = _listed([_span(low[i], high[i]) for i in group])
        every = _listed([names[i] for i in group])
        blend = found.free.blended(group)
        copies = _copies([sources[i] for i in group], kind)
        if not copies and (high[group] - low[group]).max() <= WIDE_INTERVAL:
            continue
        if copies:
            yield (
                f"{every} are copies of each other: together they weigh {whole}, each of them any "
                f"part of it; leave {_listed([names[i] for i in group[1:]])} out."
            )
        elif blend is not None:
            parts = [f"{part:.0%}" for part in blend[1]]
            others = [names[i] for i in group if i != blend[0]]
            yield (
                f"{names[blend[0]]} is a blend of {_listed(others)} ({_listed(parts)}), as far as "
                f"errors tell: together {every} weigh {whole}, alone {alone}; leave "
                f"{names[blend[0]]} out."
            )
        elif len(group) == 2:
            yield _pair(names, found, group[0], group[1], whole, alone)
        else:
            yield (
                f"{every} replace each other: together they weigh {whole}, alone {alone}; leave "
                "some of them out."
            )
    yield from _alike(names, found, shares, low, high, seen)


def _alike(
    names: Sequence[str],
    found: Fit,
    shares: Float[np.ndarray, "draws sources"],
    low: Float[np.ndarray, " sources"],
    high: Float[np.ndarray, " sources"],
    seen: set[int],
) -> Iterator[str]:
    """Of other sources, the alike pair whose weights are known together far better than alone.

    Where no two are alike, that their samples are too few.
    """
    wide = np.flatnonzero(high - low > WIDE_INTERVAL)
    wide = wide[~np.isin(wide, list(seen))]
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
    moved = np.corrcoef(found.draws[found.draws.sum(1) > 0].T)
    alike = [
        pair
        for pair in pairs
        if found.cosines[pair[1], pair[2]] >= ALIKE and moved[pair[1], pair[2]] <= -ALIKE
    ]
    if pairs and not alike:
        among = {at for _, i, j, _ in pairs for at in (i, j)}
        widest = sorted(among, key=lambda at: (low[at] - high[at], at))
        each = [f"{names[at]} {_span(low[at], high[at])}" for at in widest[:MOST_NAMED]]
        yield (
            f"The samples are too few to say how much of each: {_listed(each)}; sketch more text "
            "of the target and of these."
        )
    if alike:
        pairs = alike
        _, i, j, both = pairs[0]
        alone = _listed([_span(low[i], high[i]), _span(low[j], high[j])])
        more = f", and so are {len(pairs) - 1} other pairs" * (len(pairs) > 1)
        yield _pair(names, found, i, j, _span(*both), alone, more)


def _pair(
    names: Sequence[str], found: Fit, i: int, j: int, whole: str, alone: str, more: str = ""
) -> str:
    return (
        f"{names[i]} and {names[j]} are too alike to be told apart (cosine "
        f"{found.cosines[i, j]:.2f}): together they weigh {whole}, alone {alone}{more}."
    )


def _copies(some: Sequence[Signature], kind: str) -> bool:
    """Whether these are of the same samples, or of the same ones weighted alike."""
    first, *others = (one.state.mean(kind) for one in some)
    assert first is not None
    scale = float(np.abs(first).max())
    return all(
        other is not None and np.allclose(first, other, rtol=0, atol=1e-6 * scale)
        for other in others
    )


def _listed(words: Sequence[str]) -> str:
    """Such as "a, b and c"."""
    *some, last = words
    return f"{', '.join(some)} and {last}" if some else last


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
    if found.lowest < -MOST_LENGTH:
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
