"""The figures of a mixture's page, a method each."""

from __future__ import annotations

from typing import Any

from unembed.report.parts.plots import Plots


class MixturePlots(Plots):
    """The figures of a mixture."""

    def forest(self) -> Any:
        """Each source’s share of the tokens with its 95 % interval, largest first."""
        return self._figure("forest")
