"""How much of each of several sources together move a head as a target would."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from unembed.errors import UnembedError
from unembed.selection.mixing.fit import Fit
from unembed.selection.mixing.inner_products import InnerProducts
from unembed.selection.mixing.record import Mixture, Share
from unembed.selection.mixing.warnings import warnings_of
from unembed.selection.scores import FEATURES
from unembed.signatures.alignment.estimators import LEAST_DOCUMENTS
from unembed.signatures.reading.files import facts_of, key_of
from unembed.signatures.signature import Signature, agree_all
from unembed.signatures.sums import KEPT
from unembed.stats.estimate import Estimate
from unembed.stats.student import NORMAL_975

LEAST_SOURCES = 2
INTERVAL = (0.025, 0.975)
LEAST_EIGENVALUE = -1.0
"""Of the cosines' least eigenvalue: below, the noise is as large as the sources' squared norms."""
MOST_RESIDUAL_SE = 1.0
"""Of the residual's standard error, which is in units of the target's squared norm."""


def mix(
    target: Signature,
    sources: Sequence[Signature],
    *,
    by: str = "joint",
    debias: bool = True,
    out: str | Path | None = None,
    command: str = "",
) -> Mixture:
    """Weights of sources whose mixture comes nearest to a target's signature (theory §13).

    Signatures are linear in what text is drawn from, so that of a blend ``F_t = Σ π_s F_s``. With
    each text's mean packed features ``x``, naively::

        w = argmin over w >= 0 of norm(x_t - sum(w_s * x_s)) ** 2
        weight, total = w / w.sum(), w.sum()
        residual = norm(x_t - sum(w_s * x_s)) ** 2 / norm(x_t) ** 2

    through inner products alone, from which ``debias`` leaves the pairs of dependent samples out,
    as ``align`` does. ``by`` is the feature: of the "joint" Fisher, of "activation" or "error"
    alone, or the "gradient"'s mean, which needs first moments. Intervals hold 95 %: each of 1,000
    draws of all products' errors (of the sketch, and of blocks of documents) is solved anew, and
    sources that replace each other (copies, a blend of others) have any part of what they weigh
    together, which a warning says. They hold the sketch's error alone where blocks are lacking,
    and a warning says so. A source whose
    squared norm is not positive is left out, its weight None with the reason; so is every weight
    where that is the target's, no mixture is nearer to it than nothing is, or errors are as large
    as the squared norms. ``out`` and ``command`` as in ``align``.

    Raises UnembedError for fewer than two sources, for two of one name, where the target is one of
    them, for signatures that do not compare, and for what one of them did not keep.
    """
    _check(target, sources, by)
    every = [target, *sources]
    if out is not None:
        return Mixture.keep(
            out,
            key_of(every, by=by, debias=debias),
            lambda _: mix(target, sources, by=by, debias=debias).to_json(),
            facts=facts_of(every),
            command=command,
        )
    states = [one.state for one in every]
    spec = target.identity.spec
    ratio = min(KEPT, spec.m) / spec.m
    products = InnerProducts.of(states, FEATURES[by], debias, ratio)
    assert products is not None
    reasons = _reasons(every, products, by)
    left = np.array([reason is None for reason in reasons])
    if not left[0] or not left[1:].any():
        return _none(target, sources, by, reasons)
    if not left.all():
        some = [state for state, here in zip(states, left, strict=True) if here]
        products = InnerProducts.of(some, FEATURES[by], debias, ratio)
        assert products is not None
    found = Fit.of(products)
    lost = _lost(found)
    if lost is not None:
        return _none(target, sources, by, [None, *(reason or lost for reason in reasons[1:])])
    used = [source for source, here in zip(sources, left[1:], strict=True) if here]
    weights = iter(_weights(found, used, target, by))
    given = [
        next(weights) if reason is None else Estimate(None, n=_n(source), reason=reason)
        for source, reason in zip(sources, reasons[1:], strict=True)
    ]
    sums = found.draws.sum(1)
    total = float(found.weights.sum())
    residual = Estimate(
        found.residual,
        found.residual - NORMAL_975 * found.residual_se,
        found.residual + NORMAL_975 * found.residual_se,
        _n(target),
    )
    mixed = Mixture(
        target.name,
        by,
        _shares(sources, given),
        Estimate(total, *_ends(sums, total), _n(target)),
        residual,
        _n(target),
        target.state.documents,
        (),
        target.identity.part,
    )
    said = warnings_of(mixed, target, sources, left[1:], products, found, FEATURES[by])
    return Mixture(**{**vars(mixed), "warnings": said})


def _check(target: Signature, sources: Sequence[Signature], by: str) -> None:
    if by not in FEATURES:
        raise UnembedError(f"by {by!r} is not one of {', '.join(FEATURES)}")
    if len(sources) < LEAST_SOURCES:
        raise UnembedError(
            f"{len(sources)} source is nothing to mix: give two or more after the target"
        )
    every = [target, *sources]
    agree_all(every)
    for source in sources:
        theirs, ours = source.state.joint.total.sum(0), target.state.joint.total.sum(0)
        if np.array_equal(theirs / source.state.weight.sum(), ours / target.state.weight.sum()):
            raise UnembedError(
                f"the target {target.name} is the source {source.name} too: leave it out of them"
            )
    lacking = [one.name for one in every if one.state.sums(FEATURES[by]) is None]
    if lacking and by == "gradient":
        raise UnembedError(
            f"{lacking[0]} keeps no mean gradient: sketch it again with --first-moment"
        )
    if lacking:
        raise UnembedError(
            f"{lacking[0]} keeps no {by} features, as it is compact: give the whole signature, "
            "or mix by joint"
        )


def _reasons(every: Sequence[Signature], products: InnerProducts, by: str) -> list[str | None]:
    """Why a task cannot be weighed; None where it can."""
    found: list[str | None] = []
    for one, square in zip(every, np.diag(products.value), strict=True):
        n = f"n = {one.state.samples:,.0f}"
        if np.isnan(square):
            documents = one.state.documents
            word = (
                "too few documents"
                if documents < LEAST_DOCUMENTS
                else "documents of one fold alone"
            )
            found.append(f"{word}: {documents}, of which no pair is independent, {n}")
        elif not square > 0:
            found.append(
                f"too few samples: the {by} mean is lost in noise, its debiased squared norm "
                f"{square:.3g}, {n}"
            )
        else:
            found.append(None)
    return found


def _lost(found: Fit) -> str | None:
    """Why a fit says nothing, where its errors are as large as the squared norms themselves."""
    if found.lowest < LEAST_EIGENVALUE:
        return (
            "too few samples: the sources' cosines contradict each other, least eigenvalue "
            f"{found.lowest:.2g}"
        )
    if found.residual_se > MOST_RESIDUAL_SE:
        return (
            "too few samples: the share of the target that no mixture expresses has a standard "
            f"error of {found.residual_se:.2g}"
        )
    return None


def _weights(
    found: Fit, sources: Sequence[Signature], target: Signature, by: str
) -> list[Estimate]:
    """Weights that sum to 1; a draw without any source has any share of it.

    Of sources that replace each other, each has whatever share it may take from the others.
    """
    total = found.weights.sum()
    if not total > 0:
        reason = f"no mixture of the sources is nearer to {target.name} by {by} than nothing is"
        return [Estimate(None, n=_n(source), reason=reason) for source in sources]
    value = found.weights / total
    low = np.quantile(np.nan_to_num(found.least, nan=0), INTERVAL[0], axis=0)
    high = np.quantile(np.nan_to_num(found.most, nan=1), INTERVAL[1], axis=0)
    return [
        Estimate(float(v), float(min(lo, v)), float(max(hi, v)), _n(source))
        for v, lo, hi, source in zip(value, low, high, sources, strict=True)
    ]


def _ends(draws: Float[np.ndarray, " draws"], value: float) -> tuple[float, float]:
    low, high = (float(x) for x in np.quantile(draws, INTERVAL))
    return min(low, value), max(high, value)


def _shares(sources: Sequence[Signature], weights: Sequence[Estimate]) -> tuple[Share, ...]:
    """With probabilities: weights over samples a document, which sum to 1 where weights do."""
    rows = [
        (weight.value or 0.0) * source.state.documents / source.state.samples
        for source, weight in zip(sources, weights, strict=True)
    ]
    whole = sum(rows) or 1.0
    return tuple(
        Share(source.name, weight, row / whole, _n(source), source.state.documents)
        for source, weight, row in zip(sources, weights, rows, strict=True)
    )


def _none(
    target: Signature, sources: Sequence[Signature], by: str, reasons: Sequence[str | None]
) -> Mixture:
    """A mixture of which nothing can be said, with the reasons."""
    lost = f"the target has {reasons[0]}" if reasons[0] else "no source can be weighed"
    if not reasons[0] and len(set(reasons[1:])) == 1:
        lost, reasons = str(reasons[1]), [None] * len(reasons)
    own = [reason or lost for reason in reasons[1:]]
    weights = [Estimate(None, n=_n(one), reason=r) for one, r in zip(sources, own, strict=True)]
    nothing = Estimate(None, n=_n(target), reason=lost)
    said = [f"{target.name} cannot be mixed: {lost}."]
    said += [
        f"{one.name} has {reason}."
        for one, reason in zip(sources, reasons[1:], strict=True)
        if reason
    ]
    return Mixture(
        target.name,
        by,
        _shares(sources, weights),
        nothing,
        nothing,
        _n(target),
        target.state.documents,
        tuple(said),
        target.identity.part,
    )


def _n(one: Signature) -> int:
    return round(one.state.samples)
