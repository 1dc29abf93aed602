"""The figures of a refinement's page, a method each."""

from __future__ import annotations

from typing import Any

from unembed.report.parts.parts import Figure
from unembed.report.parts.plots import Plots, sections_of
from unembed.report.parts.standalone import side_by_side


class RefinementPlots(Plots):
    """The figures of a refinement."""

    def curves(self) -> Any:
        """Every measure by step, of the training and of held-out text, side by side."""
        sections = sections_of(self._record)
        figures: list[Figure] = []
        for section in sections:
            if section.name in ("training", "watched"):
                figures += section.figures
        return side_by_side(figures, "The run, step by step")

    def curve(self, name: str) -> Any:
        """One measure at each step of the training, such as ``"penalty"``."""
        return self._figure(name)

    def watched(self, name: str) -> Any:
        """One measure of held-out text on the way, such as ``"loss"`` or ``"flips"``."""
        return self._figure(f"watched-{name}")

    def flow(self) -> Any:
        """What became of right and wrong decisions, held out."""
        return self._figure("flow")

    def margins(self) -> Any:
        """Change of the margin at each held-out position, as a histogram."""
        return self._figure("delta-margin")

    def scale_free_margins(self) -> Any:
        """Change of the scale-free margin at each held-out position, as a histogram."""
        return self._figure("delta-relative")
