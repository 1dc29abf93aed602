"""Cosines of sketched means, with what each group of features and block of documents gives them.

A cosine is ``N / √(D_i D_j)``, with each of the three a mean over features. What a part of the
features, or a block of documents, adds to it by the delta method is its *share*:
``dN / √(D_i D_j) - cosine (dD_i / D_i + dD_j / D_j) / 2``. Standard errors are root sums of squared
shares; shares of products and quotients of cosines follow by the same rule, so that what two
cosines have in common is counted as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from unembed.signatures.alignment.sampling import BlockSums, Deleted
from unembed.signatures.documents import FOLDS
from unembed.signatures.state import State
from unembed.signatures.sums import Sums

LEAST_DOCUMENTS = 2
"""Documents without which there is no pair of independent samples."""
GROUPS = 128
"""Groups of features: at most so many, that squared shares give a standard error to 6 %."""


@dataclass(frozen=True)
class Cosine:
    """A number for pairs of tasks, rows by all, with its shares.

    ``sketch`` are those of groups of features. ``sampling`` are those of blocks of documents, twice
    over, from separate halves of the features that blocks are kept of, or None.
    """

    value: Float[np.ndarray, "rows tasks"]
    sketch: Float[np.ndarray, "groups rows tasks"]
    sampling: Float[np.ndarray, "halves blocks rows tasks"] | None

    def __mul__(self, other: Cosine) -> Cosine:
        """The product, with shares by the product rule."""
        return self._with(other, self.value * other.value, other.value, self.value)

    def __truediv__(self, other: Cosine) -> Cosine:
        """The quotient, NaN where the denominator is 0, with shares by the quotient rule."""
        under = np.where(other.value == 0, np.nan, other.value)
        return self._with(other, self.value / under, 1 / under, -self.value / under**2)

    def _with(
        self,
        other: Cosine,
        value: Float[np.ndarray, "rows tasks"],
        slope: Float[np.ndarray, "rows tasks"],
        slope_of_other: Float[np.ndarray, "rows tasks"],
    ) -> Cosine:
        return Cosine(
            value,
            slope * self.sketch + slope_of_other * other.sketch,
            None
            if self.sampling is None or other.sampling is None
            else slope * self.sampling + slope_of_other * other.sampling,
        )


@dataclass(frozen=True)
class Kind:
    """One kind of feature of several tasks, by groups of whole features.

    ``pooled`` is each task's mean and ``first``, ``second`` those of its folds (the mean itself
    where there is one fold, NaN where a fold is empty). ``norms`` and ``fold_norms`` are squared
    norms, means over each group: of the pairs of samples of different documents, and of the pairs
    across folds.
    """

    pooled: Float[np.ndarray, "groups tasks width"]
    first: Float[np.ndarray, "groups tasks width"]
    second: Float[np.ndarray, "groups tasks width"]
    norms: Float[np.ndarray, "groups tasks"]
    fold_norms: Float[np.ndarray, "groups tasks"]
    blocks: BlockSums | None

    @staticmethod
    def of(states: Sequence[State], name: str, debias: bool) -> Kind | None:
        """Gather one kind from all tasks; None where one lacks it.

        Samples of one document are dependent, so that norms leave out the pairs within it:
        ``(‖Σψ‖² - Σ_d ‖Ψ_d‖²) / (m (n² - Σ_d n_d²))`` with the sums ``Ψ_d`` of n_d samples of
        document d; NaN where there is but one. Source: theory §10.
        """
        kept = [state.sums(name) for state in states]
        sums = [one for one in kept if one is not None]
        if len(sums) < len(states):
            return None
        folds = [_folds(state, one) for state, one in zip(states, sums, strict=True)]
        pooled = _grouped(
            [one.total.sum(0) / s.weight.sum() for s, one in zip(states, sums, strict=True)]
        )
        first, second = (_grouped([fold[i] for fold in folds]) for i in range(FOLDS))
        width = pooled.shape[2]
        plain, across = np.square(pooled).sum(2) / width, (first * second).sum(2) / width
        norms, fold_norms = plain.copy(), across.copy()
        for t, (state, one) in enumerate(zip(states, sums, strict=True)):
            whole = float(state.weight.sum()) ** 2
            pairs = whole - float(state.document_weight_squared.sum())
            apart = plain[:, t] * whole - one.own.sum()
            few = state.documents < LEAST_DOCUMENTS or not pairs > 0
            norms[:, t] = np.nan if few else apart / pairs
            if len(state.weight) < FOLDS:
                fold_norms[:, t] = norms[:, t]
        return Kind(
            pooled,
            first,
            second,
            norms if debias else plain,
            fold_norms,
            BlockSums.of(sums, [state.block_weight for state in states]),
        )

    def cosines(self, rows: slice, shared: Bool[np.ndarray, "rows tasks"]) -> Cosine:
        """Of some tasks with all; NaN where a squared norm is not positive.

        Where two tasks have ``shared`` inputs, samples on the same input are dependent: products
        and norms are then those across folds, ``(⟨i0, j1⟩ + ⟨i1, j0⟩) / 2``, and one task with
        itself has exactly 1.
        """
        deleted = None if self.blocks is None else self.blocks.deleted(rows)
        apart = _cosines(products_of(self.pooled[:, rows], self.pooled), self.norms, rows)
        found = apart.with_sampling(deleted, together=False)
        if not shared.any():
            return found
        across = products_of(self.first[:, rows], self.second)
        across = (across + products_of(self.second[:, rows], self.first)) / 2
        other = _cosines(across, self.fold_norms, rows).with_sampling(deleted, together=True)
        sampling = None
        if found.sampling is not None and other.sampling is not None:
            sampling = np.where(shared, other.sampling, found.sampling)
        return Cosine(
            np.where(shared, other.value, found.value),
            np.where(shared, other.sketch, found.sketch),
            sampling,
        )


@dataclass(frozen=True)
class _Parts:
    """A cosine and what its delta method needs: ``√(D_i D_j)`` and the D."""

    value: Float[np.ndarray, "rows tasks"]
    sketch: Float[np.ndarray, "groups rows tasks"]
    root: Float[np.ndarray, "rows tasks"]
    norms: Float[np.ndarray, " tasks"]
    rows: slice

    def with_sampling(self, deleted: Deleted | None, together: bool) -> Cosine:
        """With the shares of blocks of documents, which each task loses alone, or both together."""
        if deleted is None:
            return Cosine(self.value, self.sketch, None)
        mine, theirs = self.norms[self.rows, None], self.norms
        half = self.value / 2
        rows = deleted.row_norms / mine * half
        columns = deleted.column_norms / theirs * half
        if together:
            each = deleted.both / self.root - rows - columns
            each = np.concatenate([each, np.zeros_like(each)], 1)
        else:
            each = np.concatenate(
                [deleted.row / self.root - rows, deleted.column / self.root - columns], 1
            )
        return Cosine(self.value, self.sketch, each)


def squared_norm(state: State, name: str) -> float:
    """The debiased squared norm of one kind's mean, as alignments use it; NaN where there is none.

    Not positive where samples are too few. Raises ValueError where the kind was not kept.
    """
    kind = Kind.of([state], name, True)
    if kind is None:
        raise ValueError(f"no {name} sums were kept")
    return float(kind.norms.mean())


def _cosines(
    products: Float[np.ndarray, "groups rows tasks"],
    norms: Float[np.ndarray, "groups tasks"],
    rows: slice,
) -> _Parts:
    n, d = products.mean(0), norms.mean(0)
    roots = np.sqrt(np.where(d > 0, d, np.nan))
    root = roots[rows, None] * roots
    value = n / root
    off = (norms - d) / np.where(d > 0, d, np.nan)
    shares = (products - n) / root - value / 2 * (off[:, rows, None] + off[:, None])
    groups = len(products)
    return _Parts(value, shares / np.sqrt(groups * (groups - 1)), root, d, rows)


def _folds(
    state: State, sums: Sums
) -> tuple[Float[np.ndarray, " sketch"], Float[np.ndarray, " sketch"]]:
    weight = np.where(state.weight > 0, state.weight, np.nan)
    means = sums.total / weight[:, None]
    return means[0], means[-1]


def _grouped(
    vectors: Sequence[Float[np.ndarray, " sketch"]],
) -> Float[np.ndarray, "groups tasks width"]:
    """Packed vectors by groups of features; numbers j and j + m / 2 are parts of one feature."""
    stacked = np.stack(vectors)
    tasks, m = stacked.shape
    groups = min(GROUPS, m // 2)
    parts = stacked.reshape(tasks, 2, groups, -1).transpose(2, 0, 1, 3)
    return np.ascontiguousarray(parts.reshape(groups, tasks, -1))


def products_of(
    a: Float[np.ndarray, "groups rows width"], b: Float[np.ndarray, "groups tasks width"]
) -> Float[np.ndarray, "groups rows tasks"]:
    """Inner products over each group's features, as means over these."""
    found: Float[np.ndarray, "groups rows tasks"] = a @ b.transpose(0, 2, 1) / a.shape[2]
    return found
