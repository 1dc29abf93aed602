"""The figures of the page, a method each."""

from __future__ import annotations

from typing import Any

from unembed.report.parts.plots import Plots


class NetworkPlots(Plots):
    """The figures of alignments along a network."""

    def along(self) -> Any:
        """The joint at each depth, with what noise does to a task's own halves."""
        return self._figure("along")

    def whole(self) -> Any:
        """The joint of the head, of all modules, of the whole network and of kinds of modules."""
        return self._figure("whole")

    def modules(self) -> Any:
        """The joint of every kind of module at every depth, as a map."""
        return self._figure("modules")

    def pairs(self) -> Any:
        """The joint of every two tasks at every place, as a map; of three tasks or more."""
        return self._figure("pairs")

    def profile(self) -> Any:
        """How much of each task's Fisher lies at each depth."""
        return self._figure("profile")

    def direction(self) -> Any:
        """The signed cosine of mean gradients at each depth, where they were kept."""
        return self._figure("direction")
