"""The figures of the page, a method each."""

from __future__ import annotations

from typing import Any

from unembed.report.parts.plots import Plots


class BenchmarksPlots(Plots):
    """The figures of two models on the same benchmark samples."""

    def scores(self) -> Any:
        """Each task’s difference in score with its 95 % interval."""
        return self._figure("scores")

    def losses(self) -> Any:
        """Each task’s difference in loss with its 95 % interval."""
        return self._figure("losses")

    def numbers(self) -> Any:
        """Each task’s difference on a scale of its own, with its 95 % interval."""
        return self._figure("numbers")

    def metrics(self) -> Any:
        """The other metrics’ differences, with their 95 % intervals."""
        return self._figure("metrics")

    def inside(self) -> Any:
        """The tasks of the groups, each with its 95 % interval."""
        return self._figure("inside")
