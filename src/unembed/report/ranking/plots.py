"""The figures of a ranking's page, a method each."""

from __future__ import annotations

from typing import Any

from unembed.report.parts.plots import Plots


class RankingPlots(Plots):
    """The figures of a ranking."""

    def forest(self) -> Any:
        """Each source’s score with its 95 % interval, best first."""
        return self._figure("forest")
