"""How far two models' distributions are apart over a text, from their divergences by position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unembed.cells.bootstrap import cluster, ratio_estimates, sums_by_document
from unembed.cells.estimate import Estimate
from unembed.cells.flips import RESAMPLES
from unembed.cells.resampled import quantile_estimates


@dataclass(frozen=True)
class DivergenceColumns:
    """Divergences by position: KL in nats, total variation and overlap as shares."""

    kl_forward: Float[np.ndarray, " positions"]
    kl_backward: Float[np.ndarray, " positions"]
    total_variation: Float[np.ndarray, " positions"]
    overlap: Float[np.ndarray, " positions"]


@dataclass(frozen=True)
class Apart:
    """Mean, median and 99 % quantile of a divergence."""

    mean: Estimate
    median: Estimate
    high: Estimate


@dataclass(frozen=True)
class DivergenceSummary:
    """``kl_forward`` is KL(before‖after), ``kl_backward`` KL(after‖before), in nats.

    ``acceptance`` is the mean of the sum of min(p, q): the chance that speculative decoding accepts
    a token that one model drafts for the other. ``overlap`` is the mean share of the top-k that
    both have.
    """

    kl_forward: Apart
    kl_backward: Apart
    total_variation: Apart
    acceptance: Estimate
    overlap: Estimate


def summarise_divergences(
    columns: DivergenceColumns,
    doc: Int[np.ndarray, " positions"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> DivergenceSummary:
    """Means and quantiles with intervals over documents (SPEC §4)."""
    inverse, documents = cluster(doc)
    names = ("kl_forward", "kl_backward", "total_variation", "overlap")
    values = {name: getattr(columns, name).astype(np.float64) for name in names}
    values["acceptance"] = 1 - values["total_variation"]
    sums = np.stack([sums_by_document(v, inverse, documents) for v in values.values()])
    sizes = np.bincount(inverse, minlength=documents).astype(np.float64)
    means = dict(
        zip(
            values,
            ratio_estimates(sums, np.tile(sizes, (len(sums), 1)), resamples=resamples, seed=seed),
            strict=True,
        )
    )

    def apart(name: str) -> Apart:
        median, high = quantile_estimates(
            values[name], inverse, documents, (0.5, 0.99), resamples=resamples, seed=seed
        )
        return Apart(means[name], median, high)

    return DivergenceSummary(
        apart("kl_forward"),
        apart("kl_backward"),
        apart("total_variation"),
        means["acceptance"],
        means["overlap"],
    )
