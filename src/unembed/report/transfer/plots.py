"""The figures of a measured transfer's page, a method each."""

from __future__ import annotations

from typing import Any

from unembed.errors import UnembedError
from unembed.report.parts.plots import Plots
from unembed.selection.transfer.judged import JudgedTransfer


class TransferPlots(Plots):
    """The figures of a measured transfer."""

    def forest(self) -> Any:
        """How well each method chose, with 95 % intervals."""
        return self._figure("forest")

    def gains(self) -> Any:
        """What training on each task gained on each other one, as a map."""
        return self._figure("gains")

    def scores(self, method: str) -> Any:
        """A method’s score of every source for every target, as a map."""
        return self._figure(f"score-{self._number(method)}")

    def points(self, method: str) -> Any:
        """Gain against a method’s score, a point for each source and target."""
        return self._figure(f"points-{self._number(method)}")

    def _number(self, method: str) -> int:
        assert isinstance(self._record, JudgedTransfer)
        names = [one.method for one in self._record.transfer.scores]
        if method not in names:
            raise UnembedError(f"{method!r} is no method here: give one of {', '.join(names)}")
        return names.index(method)
