"""The figures of the map of an index's page, a method each."""

from __future__ import annotations

from typing import Any

from unembed.report.parts.plots import Plots


class IndexPlots(Plots):
    """The figures of the map of an index."""

    def map(self) -> Any:
        """Signatures as points of a plane, by tag."""
        return self._figure("map")
