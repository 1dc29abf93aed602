"""The figures of the page, a method each."""

from __future__ import annotations

from typing import Any

from unembed.report.parts.plots import Plots


class DepthsPlots(Plots):
    """The figures of two runs of layers."""

    def changed(self) -> Any:
        """Share of leading tokens that changed at each depth, under each lens."""
        return self._figure("changed")

    def fates(self) -> Any:
        """How many changes are taken back, and how many of the final ones have begun, by depth."""
        return self._figure("fates")

    def settling(self) -> Any:
        """Share of decisions that settle at each depth, before and after."""
        return self._figure("settling")

    def settling_by(self, group: str = "outcome") -> Any:
        """Change of the settling depth by ``"outcome"``, ``"class"`` or ``"frequency"``."""
        return self._figure(f"settling-{group}")

    def moved(self, name: str = "accuracy") -> Any:
        """Change of ``"accuracy"``, ``"loss"``, ``"kl"`` or ``"margin"`` by depth."""
        return self._figure(f"{name}-change")

    def by_depth(self, name: str = "agreement") -> Any:
        """``"agreement"``, ``"accuracy"``, ``"loss"``, ``"kl"``, ``"margin"`` or ``"scale-free"``
        before and after.
        """
        return self._figure(name)
