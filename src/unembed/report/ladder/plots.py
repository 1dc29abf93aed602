"""The figures of a ladder's page, a method each."""

from __future__ import annotations

from typing import Any

from unembed.report.parts.plots import Plots


class LadderPlots(Plots):
    """The figures of a ladder."""

    def direction(self) -> Any:
        """Change of accuracy of each variant over the bytes of its weights."""
        return self._figure("direction")

    def displacement(self) -> Any:
        """Mean KL divergence of each variant from the base over the bytes of its weights."""
        return self._figure("displacement")
