"""The figures of a comparison's page, a method each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from unembed.decisions.slices.moves import ChangedPosition, move_at
from unembed.models.checkpoint import Checkpoint
from unembed.report.parts.plots import Plots
from unembed.report.parts.standalone import standalone
from unembed.report.slices.section import decision_figure
from unembed.text.corpus import Corpus

if TYPE_CHECKING:
    from unembed.decisions.comparison.compare import Comparison


class ComparisonPlots(Plots):
    """The figures of a comparison."""

    def flow(self) -> Any:
        """How many decisions went from right or wrong before to right or wrong after."""
        return self._figure("flow")

    def bands(self) -> Any:
        """Accuracy before and after in each band of margins, with 95 % intervals."""
        return self._figure("band-accuracy")

    def change_by_band(self) -> Any:
        """Change of accuracy in each band of margins, with 95 % intervals."""
        return self._figure("band")

    def change_by_frequency(self) -> Any:
        """Change of accuracy by how often the target occurs, with 95 % intervals."""
        return self._figure("frequency")

    def change_by_class(self) -> Any:
        """Change of accuracy by class of the target, with 95 % intervals."""
        return self._figure("class")

    def net_map(self) -> Any:
        """Net flips in each class and frequency, as a heat map."""
        return self._figure("net-map")

    def churn_map(self) -> Any:
        """Share of changed decisions in each class and frequency, as a heat map."""
        return self._figure("churn-map")

    def margins(self) -> Any:
        """Change of the margin at each position, as a histogram."""
        return self._figure("delta-margin")

    def scale_free_margins(self) -> Any:
        """Change of the scale-free margin at each position, as a histogram."""
        return self._figure("delta-relative")

    def reliability(self, when: str = "after") -> Any:
        """Accuracy over confidence ``"before"`` or ``"after"``, with 95 % intervals."""
        return self._figure(f"reliability-{when}")

    def prediction(self) -> Any:
        """Observed over predicted share of flips, with 95 % intervals."""
        return self._figure("chances")

    def kl(self) -> Any:
        """Share of positions above each KL divergence; both models were run together."""
        return self._figure("kl-curve")

    def total_variation(self) -> Any:
        """Share of positions above each total variation; both models were run together."""
        return self._figure("tv-curve")

    def kl_by(self, group: str) -> Any:
        """Mean KL divergence by ``"band-before"``, ``"frequency"`` or ``"token-class"``."""
        return self._figure(f"kl-{group}")

    def acceptance_by(self, group: str) -> Any:
        """Chance that speculative decoding accepts, by the same groups as ``kl_by``."""
        return self._figure(f"acceptance-{group}")

    def draft(self, number: int = 1) -> Any:
        """Speed-up by drafted tokens, two samplers a figure; ``compare --draft`` was run."""
        return self._figure(f"draft-{number}")

    def mined(self, which: str = "rose") -> Any:
        """Tokens expected more often, ``"rose"``, or less, ``"fell"``, of ``compare --mine``."""
        return self._figure(f"mined-{which}")

    def slice(
        self,
        position: ChangedPosition,
        before: Checkpoint,
        after: Checkpoint,
        corpus: Corpus,
        *,
        half: float | None = None,
    ) -> Any:
        """One decision before and after on one plane, with the cells of both heads, exactly.

        ``position`` is a number as in ``comparison.flips()``, a ``Flip``, or a document (by name or
        number) and a position of it. The compared models and text are given, and both states are
        read again. ``half`` is half the side of the window in lengths of the way between them.
        Raises UnembedError for a position that the comparison lacks, and for other models or text.
        """
        record = cast("Comparison", self._record)
        found = move_at(record, position, before, after, corpus, half=half)
        return standalone(decision_figure(found, "slice"))
