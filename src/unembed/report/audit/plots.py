"""The figures of an audit's page, a method each."""

from __future__ import annotations

from typing import Any

from unembed.report.parts.plots import Plots


class AuditPlots(Plots):
    """The figures of an audit."""

    def margins(self) -> Any:
        """Share of positions in each bin of margins, right and wrong ones."""
        return self._figure("margin")

    def scale_free_margins(self) -> Any:
        """Share of positions in each bin of scale-free margins, right and wrong ones."""
        return self._figure("relative")

    def reliability(self) -> Any:
        """Accuracy and mean confidence in each band of margins, with 95 % intervals."""
        return self._figure("bands")

    def entropy(self) -> Any:
        """Positions by entropy and margin, the denser the stronger the colour."""
        return self._figure("entropy")

    def batches(self) -> Any:
        """Share of decisions that another batch changes, seen and foretold, by margin."""
        return self._figure("batches")

    def gap(self) -> Any:
        """Share of positions below each margin, log–log, with the fits of a power law."""
        return self._figure("curve")

    def gap_slope(self) -> Any:
        """Local slope of the gap curve at each width."""
        return self._figure("slope")

    def native_gap(self) -> Any:
        """The gap curve of the head in the checkpoint’s own precision and in float32."""
        return self._figure("native")
