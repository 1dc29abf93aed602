"""Groups of sources that replace each other in a mixture: copies, blends of others, near twins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from unembed.selection.mixing.inner_products import InnerProducts
from unembed.selection.mixing.nonnegative import nonnegative_each
from unembed.signatures.kin import connected

MOST_LENGTH = 0.05
"""The squared length, in units of the sources' norms, up to which a direction may be none at all:
above, few samples look alike without replacing each other."""
ERRORS = 2.0
"""Standard errors within which a squared length is none."""
LEAST_PART = 0.07
"""Of a direction of length 1: a source with less of it has no part in it."""
FREE, PUSH = 1e-9, 1e-6
"""What a direction that is none is given as its squared length, and how hard weights are pushed:
1,000 weights along it, and under 0.02 along any other."""


@dataclass(frozen=True)
class FreeDirections:
    """Directions in which weights may change while the mixture of the sources stays the same.

    ``along`` are of length 1, in weights in units of the sources' norms, which are ``size``;
    ``gram`` are the sources' cosines. Naively, the rank of that matrix is short by so many.
    """

    along: Float[np.ndarray, "free sources"]
    size: Float[np.ndarray, " sources"]
    gram: Float[np.ndarray, "sources sources"]

    @staticmethod
    def of(
        products: InnerProducts,
        eigenvalues: Float[np.ndarray, " sources"],
        vectors: Float[np.ndarray, "sources sources"],
    ) -> FreeDirections:
        """Eigenvectors of the sources' cosines whose squared length is within its error of 0.

        The first task is the target. Errors are those of the sketch and of the documents, so that
        copies of one text, whose errors are the same, have none, and neither has their distance.
        """
        size = np.sqrt(np.diag(products.value))[1:]
        free = []
        for number in np.flatnonzero(np.abs(eigenvalues) <= MOST_LENGTH).tolist():
            along = np.concatenate([[0.0], vectors[:, number] / size])
            variance = products.shares(along).covariance()[len(along), len(along)]
            free.append(float(eigenvalues[number]) <= ERRORS * float(np.sqrt(variance)) + PUSH)
        chosen = np.flatnonzero(np.abs(eigenvalues) <= MOST_LENGTH)[np.array(free, dtype=bool)]
        lengths = np.where(np.isin(np.arange(len(eigenvalues)), chosen), FREE, eigenvalues)
        gram = (vectors * np.maximum(lengths, FREE)) @ vectors.T
        return FreeDirections(vectors[:, chosen].T, size, gram)

    @property
    def taking_part(self) -> Bool[np.ndarray, " sources"]:
        """The sources whose weights may change."""
        found: Bool[np.ndarray, " sources"] = (self.along**2).sum(0) > LEAST_PART**2
        return found

    def groups(self) -> list[list[int]]:
        """The sources that replace each other, by their number, each group in order."""
        part = np.where(self.taking_part, self.along, 0)
        together = np.abs(part.T @ part)
        size = np.sqrt(np.maximum(np.diag(together), np.finfo(float).tiny))
        linked = (together > LEAST_PART * np.outer(size, size)) | np.eye(len(size), dtype=bool)
        rows = {tuple(np.flatnonzero(row).tolist()) for row in connected(linked)}
        return [list(row) for row in sorted(rows) if len(row) > 1]

    def extremes(
        self, weights: Float[np.ndarray, "draws sources"], source: int
    ) -> tuple[Float[np.ndarray, "draws sources"], Float[np.ndarray, "draws sources"]]:
        """Weights of the same mixtures in which one source has as little, and as much, as it can.

        The least squares that the weights solve, with the directions all but free and a push on
        this source's weight.
        """
        product = weights @ self.gram
        push = np.zeros(weights.shape[1])
        push[source] = PUSH
        return nonnegative_each(self.gram, product - push), nonnegative_each(
            self.gram, product + push
        )

    def blended(self, group: list[int]) -> tuple[int, Float[np.ndarray, " others"]] | None:
        """The one source of a group that is a blend of the others, with their weights; or None.

        The weights are in the group's order, and sum to about 1. None where more than one direction
        is free, or two sources are on either side.
        """
        rows = self.along[(self.along[:, group] ** 2).sum(1) > 0.5]
        if len(rows) != 1 or len(group) < 3:
            return None
        parts = rows[0][group] / self.size[group]
        parts = parts if (parts > 0).sum() > 1 else -parts
        [*alone] = np.flatnonzero(parts < 0)
        if len(alone) != 1:
            return None
        return group[alone[0]], np.delete(parts, alone[0]) / -parts[alone[0]]
