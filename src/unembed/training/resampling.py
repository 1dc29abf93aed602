"""Resamples of a text's documents, the same ones for everything that is measured on the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unembed.stats.bootstrap import cluster, totals_and_resamples
from unembed.stats.resampled import Sample, quantile_draws

Rows = Float[np.ndarray, " rows"]
"""A statistic as it was observed, and below it in each resample of the documents."""


@dataclass(frozen=True)
class Resampling:
    """The document of each position, numbered from 0, and how often documents are drawn."""

    inverse: Int[np.ndarray, " positions"]
    documents: int
    resamples: int
    seed: int

    @staticmethod
    def of(doc: Int[np.ndarray, " positions"], resamples: int, seed: int) -> Resampling:
        """Resamples of the documents that the positions belong to."""
        return Resampling(*cluster(doc), resamples, seed)

    def sums(
        self,
        values: np.ndarray,
        group: Int[np.ndarray, " positions"] | None = None,
        groups: int = 1,
    ) -> Float[np.ndarray, "groups documents"]:
        """Sums by group and document, in float64 in the order of the positions."""
        cell = self.inverse if group is None else group * self.documents + self.inverse
        found = np.bincount(cell, weights=values, minlength=groups * self.documents)
        return found.astype(np.float64, copy=False).reshape(groups, self.documents)

    def totals(self, sums: Float[np.ndarray, "columns documents"]) -> Float[np.ndarray, "rows _"]:
        """Each column summed over the documents, and over those of each resample."""
        return totals_and_resamples(sums, resamples=self.resamples, seed=self.seed)

    def medians(self, columns: Sequence[np.ndarray]) -> list[Rows]:
        """The median of each column over the positions."""
        samples = [Sample(column.astype(np.float64), self.inverse, (0.5,)) for column in columns]
        draws = [np.zeros((0, 1)) for _ in samples]
        if self.documents >= 2:
            draws = quantile_draws(
                samples, self.documents, resamples=self.resamples, seed=self.seed
            )
        return [
            np.concatenate([[np.median(sample.values)], drawn[:, 0]])
            for sample, drawn in zip(samples, draws, strict=True)
        ]
