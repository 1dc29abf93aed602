"""The shape of the cloud of states at each depth, beside two controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unembed.decisions.cloud.controls import gaussian_cloud
from unembed.decisions.cloud.curvature import Curvature, curvature
from unembed.decisions.cloud.dimensions import LISTED, RANKS, Dimensions, dimensions
from unembed.decisions.cloud.neighbours import Neighbours, finite_rows, neighbours_of
from unembed.decisions.cloud.spectrum import Spectrum, spectrum
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import RESAMPLES

HEAD_INPUT = -1
"""In place of a depth: the head's input, behind the tail."""

LIPSCHITZ = (
    "A Lipschitz layer cannot raise the intrinsic dimension of what it is given, and published "
    "curves of it that rise and fall with depth resemble that of the spectrum's entropy (Schulte "
    "and Rügamer, arXiv 2604.20276): read an estimate beside the entropy, and beside a Gaussian "
    "of the same covariance."
)
"""What every page says beside the estimates."""

ReadDepth = Callable[[int], Float[np.ndarray, "points width"]]
"""The states of the chosen positions at a depth, always in the same order."""


@dataclass(frozen=True)
class Geometry(ShortRepr):
    """What the distances within one cloud say: how many dimensions it has, and how it bends.

    ``copies`` and ``underflows`` are positions left out because they equal an earlier one, or are
    so near to it that the square of the distance is 0.
    """

    points: int
    copies: int
    underflows: int
    dimensions: Dimensions
    curvature: Curvature


@dataclass(frozen=True)
class CloudRow(ShortRepr):
    """One depth: the cloud of the text, a Gaussian of its covariance, and that of shuffled text.

    ``depth`` is -1 for the head's input. ``not_finite`` positions are left out of everything. The
    Gaussian has as many points as differ in the text's cloud, and its covariance, and no interval.
    """

    depth: int
    not_finite: int
    spectrum: Spectrum
    geometry: Geometry
    gaussian: Geometry
    shuffled_spectrum: Spectrum | None
    shuffled: Geometry | None


@dataclass(frozen=True)
class Cloud(ShortRepr):
    """A row a depth, on the same positions at each."""

    points: int
    documents: int
    seed: int
    rows: tuple[CloudRow, ...]

    def at(self, depth: int) -> CloudRow:
        """The row of a depth. Raises ``KeyError`` where there is none."""
        return {row.depth: row for row in self.rows}[depth]


def cloud(
    read_depth: ReadDepth,
    depths: Sequence[int],
    documents: Int[np.ndarray, " points"],
    *,
    seed: int = 0,
    shuffled: ReadDepth | None = None,
    resamples: int = RESAMPLES,
) -> Cloud:
    """Spectrum, dimensions and curvature of the states at each of ``depths``, with both controls.

    ``read_depth(depth)`` gives the states of the same positions, in the same order, whose documents
    are ``documents``; -1 (``HEAD_INPUT``) among the depths asks it for the head's input.
    ``shuffled`` gives those of the shuffled text (``controls.shuffled_windows``). One depth is held
    at a time. Call it as ``cloud(kept.read, (*depths, HEAD_INPUT), kept.documents,
    shuffled=shuffled.read)`` of two ``Reservoir``. What cannot be estimated (a constant layer,
    fewer points than neighbours) is an ``Estimate`` without a value that says why.
    Source: theory §3.
    """
    how = _How(documents, resamples, seed)
    rows = []
    for depth in depths:
        not_finite, figures, geometry, variances = how.of(read_depth(depth))
        # The same seed at every depth: what then differs between depths is the covariance.
        alike = gaussian_cloud(variances, geometry.points, seed=seed)
        gaussian = _geometry(neighbours_of(alike, max(RANKS)), None, resamples, seed)
        of_shuffled = None if shuffled is None else how.of(shuffled(depth))[1:3]
        row = (depth, not_finite, figures, geometry, gaussian)
        rows.append(CloudRow(*row, *(of_shuffled or (None, None))))
    return Cloud(len(documents), len(np.unique(documents)), seed, tuple(rows))


@dataclass(frozen=True)
class _How:
    """What is the same for every cloud of a text."""

    documents: Int[np.ndarray, " points"]
    resamples: int
    seed: int

    def of(
        self, states: Float[np.ndarray, "points width"]
    ) -> tuple[int, Spectrum, Geometry, Float[np.ndarray, " axes"]]:
        """How many states are not finite, and of the others the figures."""
        finite = finite_rows(states)
        states, documents = states[finite], self.documents[finite]
        figures, variances = spectrum(states, documents, resamples=self.resamples, seed=self.seed)
        found = neighbours_of(states, LISTED)
        geometry = _geometry(found, documents, self.resamples, self.seed)
        return int((~finite).sum()), figures, geometry, variances


def _geometry(
    found: Neighbours, documents: Int[np.ndarray, " points"] | None, resamples: int, seed: int
) -> Geometry:
    sizes = dimensions(found, documents, seed=seed)
    bends = curvature(found, documents, sizes.two_nn.value, resamples=resamples, seed=seed)
    return Geometry(found.points, found.copies, found.underflows, sizes, bends)
