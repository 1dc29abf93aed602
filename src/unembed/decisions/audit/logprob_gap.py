"""How far another engine's log-probabilities of the targets lie from the exact ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unembed.decisions.audit.finite_rows import FiniteRows
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import (
    RESAMPLES,
    add_by_document,
    interval,
    ratio_of_totals,
    totals_and_resamples,
)
from unembed.stats.estimate import Estimate, exponential
from unembed.stats.forms import bounded, decimal, share
from unembed.stats.resampled import Rows
from unembed.stats.studentised import mean_estimates, read_tail_quantiles, tail_quantile_estimates

NATIVE_NLL, ENGINE_NLL = "native_nll", "engine_nll"
"""Columns of the native head's losses, and of another engine's, null where it gave none."""

RATIOS = (0.9, 1.1)
"""A ratio of probabilities outside these is one that trainers clip or look into."""

LEVELS = {"0.1": 0.001, "1": 0.01, "5": 0.05, "50": 0.5, "95": 0.95, "99": 0.99, "99.9": 0.999}
"""Reported quantiles of the difference at a position, by their name in percent."""

SEQUENCE_LEVELS = {"5": 0.05, "50": 0.5, "95": 0.95}
"""Those of its sum over a document."""


@dataclass(frozen=True)
class LogprobGap(ShortRepr):
    """Another engine's log-probability of the target less the exact one, in nats (theory §1).

    ``engine`` is what gave it. ``mean``, ``deviation``, ``mean_size`` (of ``abs``), ``quantiles``
    and ``largest`` (the one of largest size) are of the difference d at a position; ``outside`` is
    the share of positions whose ratio of probabilities ``exp(d)`` lies outside ``RATIOS``. Over a
    document the ratios multiply: ``products`` are quantiles of ``exp(sum of d)``,
    ``products_outside`` the share of documents in which it lies outside ``RATIOS``. ``left_out``
    positions had no such log-probability, or no finite one.
    """

    engine: str
    n: int
    left_out: int
    mean: Estimate
    deviation: Estimate
    mean_size: Estimate
    quantiles: dict[str, Estimate]
    largest: float | None
    outside: Estimate
    products: dict[str, Estimate]
    products_outside: Estimate

    @property
    def in_words(self) -> str:
        """How far the two are apart."""
        if self.mean_size.value is None:
            return "none to set beside the exact ones"
        position, document = (
            bounded(one, share) if one.value else "none"
            for one in (self.outside, self.products_outside)
        )
        return (
            f"{bounded(self.mean_size, decimal)} nats from the exact ones on average; ratios "
            f"outside 0.9 to 1.1: {position} at a position, {document} over a document"
        )


def logprob_gap(
    rows: FiniteRows, column: str, engine: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> LogprobGap:
    """Set the losses in a column beside the exact ones in ``nll``, position by position.

    Equivalent to::

        d = nll - column                        # log q(target) - log p(target)
        d.mean(), d.std(), quantile(d, LEVELS)
        mean((exp(d) < 0.9) | (exp(d) > 1.1))
        exp(quantile([d[doc == one].sum() for one in documents], SEQUENCE_LEVELS))

    Rows whose column is not finite are left out. Intervals cluster by document.
    """
    own = rows.also((column,))
    how = {"resamples": resamples, "seed": seed}
    documents = own.documents

    def differences() -> Iterator[Rows]:
        for inverse, exact, other in own.parts("nll", column):
            yield exact.astype(np.float64) - other, inverse

    sums, largest = np.zeros((5, documents)), 0.0
    for d, inverse in differences():
        outside = _outside(d)
        for total, one in zip(sums, (np.ones(len(d)), d, d * d, abs(d), outside), strict=True):
            add_by_document(total, one, inverse)
        if len(d):
            furthest = float(d[np.abs(d).argmax()])
            largest = furthest if abs(furthest) > abs(largest) else largest
    count = sums[0]
    anything, positive = (-math.inf, math.inf), (0.0, math.inf)
    mean, size, beyond = mean_estimates(
        sums[[1, 3, 4]], count, (anything, positive, (0.0, 1.0)), **how
    )
    totals = totals_and_resamples(sums[:3], **how)
    [quantiles] = read_tail_quantiles(
        lambda: ([rows] for rows in differences()), [tuple(LEVELS.values())], documents, **how
    )
    products, products_outside = _products(sums[1], **how)
    return LogprobGap(
        engine=engine,
        n=own.n,
        left_out=rows.n - own.n,
        mean=mean,
        deviation=_deviation(totals, documents),
        mean_size=size,
        quantiles=dict(zip(LEVELS, quantiles, strict=True)),
        largest=largest if own.n else None,
        outside=beyond,
        products=products,
        products_outside=products_outside,
    )


def _outside(d: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    low, high = np.log(RATIOS)
    found: Float[np.ndarray, " n"] = ((d < low) | (d > high)).astype(np.float64)
    return found


def _deviation(totals: Float[np.ndarray, "rows sums"], documents: int) -> Estimate:
    """Standard deviation over positions, from totals of 1, d and d²."""
    count, first, second = totals.T
    if count[0] == 0:
        return Estimate(None, reason="no position to average over")
    size = np.where(count > 0, count, np.nan)
    found = np.sqrt(np.maximum(second / size - (first / size) ** 2, 0))
    ends = interval(found[1:], documents)
    return Estimate(float(found[0]), *ends, n=int(count[0]), documents=documents)


def _products(
    sums: Float[np.ndarray, " documents"], *, resamples: int, seed: int
) -> tuple[dict[str, Estimate], Estimate]:
    """Quantiles of the products over documents, and the share of those outside."""
    documents = len(sums)
    how = {"resamples": resamples, "seed": seed}
    levels = tuple(SEQUENCE_LEVELS.values())
    found = tail_quantile_estimates(sums, np.arange(documents), documents, levels, **how)
    totals = totals_and_resamples(np.stack([_outside(sums), np.ones(documents)]), **how)
    beyond = ratio_of_totals(totals[:, 0], totals[:, 1], documents)
    return {
        name: exponential(one) for name, one in zip(SEQUENCE_LEVELS, found, strict=True)
    }, beyond
