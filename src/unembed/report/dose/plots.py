"""The figures of a grid of doses's page, a method each."""

from __future__ import annotations

from typing import Any

from unembed.report.parts.plots import Plots


class DosePlots(Plots):
    """The figures of a grid of doses."""

    def frontier(self, damage: str = "right_to_wrong", gain: str = "median_margin_gain") -> Any:
        """Damage against gain, a point for each dose, with 95 % intervals.

        ``damage`` is ``"nll_rise"``, ``"right_to_wrong"`` or ``"churn"``; ``gain`` is
        ``"median_margin_gain"`` or ``"scale_free_gain"``.
        """
        return self._figure(f"{damage}-{gain}".replace("_", "-"))

    def response(self, measure: str = "median_margin_gain") -> Any:
        """One figure against each objective's weights, or shares, such as ``"churn"``."""
        return self._figure(f"dose-{measure}".replace("_", "-"))

    def read_out(self, number: int = 0) -> Any:
        """Flips under a disturbance over the starting model’s, against the dose."""
        return self._figure(f"read-out-{number}")
