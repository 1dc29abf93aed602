"""The figures of the page of a run of layers, a method each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from unembed.decisions.slices.moves import path_at
from unembed.models.checkpoint import Checkpoint
from unembed.report.parts.plots import Plots
from unembed.report.parts.standalone import standalone
from unembed.report.slices.section import decision_figure
from unembed.text.corpus import Corpus

if TYPE_CHECKING:
    from unembed.decisions.layers.layers import Layers


class LayersPlots(Plots):
    """The figures of a run of layers."""

    def agreement(self) -> Any:
        """Share of decisions that each depth makes as the last one, with 95 % intervals."""
        return self._figure("agreement")

    def settling(self) -> Any:
        """Share of decisions that settle at each depth, beside independent depths."""
        return self._figure("settling")

    def by_depth(self, name: str = "accuracy") -> Any:
        """``"accuracy"``, ``"loss"``, ``"margin"``, ``"kl"``, ``"entropy"`` or ``"acceptance"``."""
        return self._figure(name)

    def settling_by(self, group: str = "class") -> Any:
        """Mean settling depth by ``"class"`` or ``"frequency"`` of the target."""
        return self._figure(f"settling-{group}")

    def early_exit(self, lens: str = "normed") -> Any:
        """Agreement with the whole model over the blocks that an exit by margin saves.

        Under the lens ``"normed"`` or ``"fitted"``.
        """
        return self._figure("exit" if lens == "normed" else f"exit-{lens}")

    def self_draft(self) -> Any:
        """Speed-up of decoding with the first blocks as draft, by depth."""
        return self._figure("self-draft")

    def rho(self, penalty: str = "margin") -> Any:
        """Correlation of ``"margin"``, ``"cosine"`` or ``"fisher"`` with the loss, by depth."""
        return self._figure(f"rho-{penalty}")

    def cloud(self, name: str = "effective-rank") -> Any:
        """``"effective-rank"``, ``"participation"``, ``"two-nn"``, ``"levina-bickel"``,
        ``"off-plane"`` or ``"turning"`` by depth, beside the controls.
        """
        return self._figure(name)

    def scales(self) -> Any:
        """Dimension by number of neighbours, a curve for each of some depths."""
        return self._figure("scales")

    def gap(self, name: str = "slope") -> Any:
        """``"slope"`` of the gap, or ``"density"`` of close calls, by depth."""
        return self._figure(f"gap-{name}")

    def slice(self, position: tuple[int | str, int], checkpoint: Checkpoint, corpus: Corpus) -> Any:
        """One state's way through the depths, on its first two principal axes among the cells.

        ``position`` is a document (by name or number) and a position of it. The measured model and
        text are given, and the states, as the head would read them, are read again.
        Raises UnembedError for a position that the run lacks, and for another model or text.
        """
        found = path_at(cast("Layers", self._record), position, checkpoint, corpus)
        return standalone(decision_figure(found, "slice"))
