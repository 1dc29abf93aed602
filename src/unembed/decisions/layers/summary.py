"""Every number that a run of layers prints or draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from unembed.decisions.cloud.cloud import Cloud
from unembed.decisions.layers.depth_rows import DepthRow
from unembed.decisions.layers.early_exit import EarlyExit
from unembed.decisions.layers.fitted import FittedLens
from unembed.decisions.layers.regimes import Regimes
from unembed.decisions.layers.self_drafts import SelfDrafts
from unembed.decisions.layers.settling import Settling
from unembed.runs.frames import Figures
from unembed.short_repr import ShortRepr


@dataclass(frozen=True)
class LensSummary(ShortRepr):
    """One lens: a row for each depth, or ``reason``, why it was not measured."""

    lens: str
    reason: str | None
    n_positions: int
    n_documents: int
    rows: tuple[DepthRow, ...]


@dataclass(frozen=True)
class LensFit(ShortRepr):
    """What the fitted lens rests on: ``positions`` of ``documents`` that do not measure it.

    ``explained`` is the share of the variance of the head's input at each depth, on those;
    ``ridge`` the penalty over the states' variance a position. ``given`` says that an earlier run
    fitted it.
    """

    digest: str
    documents: int
    positions: int
    ridge: float
    explained: dict[str, float]
    given: bool

    @staticmethod
    def of(lens: FittedLens, given: bool) -> LensFit:
        """The facts of a lens."""
        return LensFit(
            digest=lens.digest,
            documents=len(lens.documents),
            positions=lens.positions,
            ridge=lens.ridge,
            explained={str(depth): share for depth, share in lens.explained.items()},
            given=given,
        )


@dataclass(frozen=True)
class LayersSummary(ShortRepr, Figures):
    """How a model's decisions form over its depths, each figure with its interval.

    ``depths`` are those measured of 0, what enters the first of ``blocks``, to the last; ``tail``
    says what follows that. Of ``n_positions`` in ``n_documents``, ``n_left_out`` have a number that
    is not finite at some depth and enter no figure. ``settling``, ``early_exit`` and
    ``self_drafts`` are under the model's own tail, ``fitted_exit`` is under the fitted lens where
    that was measured, ``regimes`` under every lens, and ``cloud`` is there unless it was left out.
    """

    model: str
    blocks: int
    depths: tuple[int, ...]
    tail: str
    n_positions: int
    n_documents: int
    n_left_out: int
    lenses: tuple[LensSummary, ...]
    settling: Settling
    early_exit: EarlyExit
    self_drafts: SelfDrafts
    regimes: Regimes
    cloud: Cloud | None = None
    fit: LensFit | None = None
    fitted_exit: EarlyExit | None = None

    def lens(self, name: str) -> LensSummary:
        """The figures of one lens."""
        return next(one for one in self.lenses if one.lens == name)

    def _phrases(self) -> Iterator[str]:
        yield self.model
        yield f"{len(self.depths)} of {self.blocks + 1} depths"
        yield f"{self.n_positions:,} positions in {self.n_documents:,} documents"
        yield f"lenses {', '.join(one.lens for one in self.lenses if one.reason is None)}"
