"""Inner products of several tasks' means, and what a combination of them owes to chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unembed.signatures.alignment.estimators import Kind, products_of
from unembed.signatures.alignment.overlap import shared_inputs
from unembed.signatures.alignment.sampling import Deleted
from unembed.signatures.kin import connected
from unembed.signatures.state import State


@dataclass(frozen=True)
class Shares:
    """What chance adds to some numbers: root sums of squares over the first axis are errors.

    ``sketch`` are the shares of groups of features. ``sampling`` are those of blocks of documents
    that some tasks lose, twice over, from separate halves of the features that blocks are kept of,
    or None. ``ratio`` is the part of all features that these are.
    """

    sketch: Float[np.ndarray, "groups numbers"]
    sampling: Float[np.ndarray, "halves events numbers"] | None
    ratio: float

    def covariance(self) -> Float[np.ndarray, "numbers numbers"]:
        """Of the numbers, from both; positive semidefinite.

        Products of the two halves' shares have the true ones as their mean, and the shares' own
        mean has the noise of few features in it too, of which ``ratio`` is left with all features.
        Negative eigenvalues, in units in which each number has the noisy error 1, are taken as 0.
        Source: theory §10.
        """
        sketch = self.sketch.T @ self.sketch
        if self.sampling is None:
            return np.asarray(sketch)
        first, second = self.sampling
        middle = (first + second) / 2
        noisy = middle.T @ middle
        free = (first.T @ second + second.T @ first) / 2
        found = free + (noisy - free) * self.ratio
        scale = np.sqrt(np.maximum(np.diag(noisy), np.finfo(float).tiny))
        values, vectors = np.linalg.eigh(found / np.outer(scale, scale))
        root = vectors * np.sqrt(np.maximum(values, 0)) * scale[:, None]
        return np.asarray(sketch + root @ root.T)


@dataclass(frozen=True)
class InnerProducts:
    """``⟨x_i, x_j⟩`` of the mean features of some tasks, debiased, with what their errors need.

    ``value`` is NaN where there are no pairs of independent samples. ``by_group`` are the same of
    groups of features. ``cluster`` numbers the tasks so that those which share inputs, or are
    linked by others that do, have one number: they lose a block of documents together.
    """

    value: Float[np.ndarray, "tasks tasks"]
    by_group: Float[np.ndarray, "groups tasks tasks"]
    deleted: Deleted | None
    cluster: Int[np.ndarray, " tasks"]
    ratio: float

    @property
    def sampled(self) -> bool:
        """Whether every task keeps blocks of documents enough for sampling errors."""
        return self.deleted is not None and all(
            bool(np.isfinite(part).all()) for part in vars(self.deleted).values()
        )

    @staticmethod
    def of(states: Sequence[State], name: str, debias: bool, ratio: float) -> InnerProducts | None:
        """Of one kind of feature of some tasks; None where one lacks it.

        Products of tasks that share inputs, and their norms, are those across two folds of
        documents; other norms leave out the pairs within a document. Without ``debias`` all pairs
        count. ``ratio`` is the part of the features that blocks are kept of. Source: theory §10.
        """
        kind = Kind.of(states, name, debias)
        if kind is None:
            return None
        shared = shared_inputs(states)
        others = shared & ~np.eye(len(states), dtype=bool) & debias
        products = products_of(kind.pooled, kind.pooled)
        if others.any():
            across = products_of(kind.first, kind.second)
            across = (across + across.transpose(0, 2, 1)) / 2
            products = np.where(others, across, products)
        norms = np.where(others.any(1), kind.fold_norms, kind.norms)
        at = np.arange(len(states))
        products[:, at, at] = norms
        deleted = None if kind.blocks is None else kind.blocks.deleted(slice(None))
        first_kin = connected(shared).argmax(1)
        cluster = np.asarray(np.unique(first_kin, return_inverse=True)[1])
        return InnerProducts(products.mean(0), products, deleted, cluster, ratio)

    def shares(self, along: Float[np.ndarray, " tasks"]) -> Shares:
        """Of ``value @ along``, then of ``along @ value @ along``, then of the first task's norm.

        Shares of products are linear in what is lost: a block that task i loses moves its row and
        its column.
        """
        groups = len(self.by_group)
        off = (self.by_group - self.value) / np.sqrt(groups * max(groups - 1, 1))
        sketch = _with_square(off @ along, along, off[:, 0, 0])
        if self.deleted is None or not self.sampled:
            return Shares(sketch, None, self.ratio)
        lost, tasks = self.deleted, len(along)
        same = self.cluster[:, None] == self.cluster
        moved = np.where(same, lost.both, lost.row)
        at = np.arange(tasks)
        norms = lost.row_norms[:, :, :, 0]
        moved[:, :, at, at] = norms
        member = self.cluster == np.arange(self.cluster.max() + 1)[:, None]
        rows = (moved @ along)[:, :, None, :] * member
        apart = np.where(same, 0, moved) * along[:, None]
        columns = np.einsum("ci,hbij->hbcj", member.astype(float), apart, optimize=True)
        events = (rows + columns).reshape(2, -1, tasks)
        first = np.zeros((2, norms.shape[1], len(member)))
        first[:, :, self.cluster[0]] = norms[:, :, 0]
        sampling = _with_square(events, along, first.reshape(2, -1))
        return Shares(sketch, sampling, self.ratio)


def _with_square(
    each: Float[np.ndarray, "*events tasks"],
    along: Float[np.ndarray, " tasks"],
    norm: Float[np.ndarray, "*events"],
) -> Float[np.ndarray, "*events numbers"]:
    found = np.concatenate([each, (each @ along)[..., None], norm[..., None]], -1)
    return np.asarray(found)
