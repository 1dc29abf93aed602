"""The figures of alignments's page, a method each."""

from __future__ import annotations

from typing import Any

from unembed.report.parts.plots import Plots


class AlignmentPlots(Plots):
    """The figures of alignments."""

    def map(self, kind: str = "joint") -> Any:
        """One quantity of every pair of tasks: ``"joint"``, ``"activation"`` or ``"error"``."""
        return self._figure(kind)

    def directions(self) -> Any:
        """Signed cosines of mean gradients of every pair of tasks, as a map."""
        return self._figure("first-moment")

    def coupling(self) -> Any:
        """Joint against activation × error, a point for each pair, with 95 % intervals."""
        return self._figure("coupling")

    def direction_against_joint(self) -> Any:
        """First moment against joint, a point for each pair, with 95 % intervals."""
        return self._figure("first-moment-joint")
