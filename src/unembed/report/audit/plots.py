"""The figures of an audit's page, a method each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from unembed.decisions.slices.choose import Position, slice_at
from unembed.models.checkpoint import Checkpoint
from unembed.report.parts.plots import Plots
from unembed.report.parts.standalone import standalone
from unembed.report.slices.section import decision_figure
from unembed.text.corpus import Corpus

if TYPE_CHECKING:
    from unembed.decisions.audit.audit import Audit


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

    def slice(
        self,
        position: Position = 0,
        checkpoint: Checkpoint | None = None,
        corpus: Corpus | None = None,
        *,
        half: float | None = None,
    ) -> Any:
        """The cells around one decision, exactly: a map of the tokens that win next to it.

        ``position`` is a number as in ``audit.closest()``, a ``ClosestCall``, or a document (by
        name or number) and a position of it. The audit keeps pictures of its narrowest decisions,
        ``audit.slices``; for another the audited model and text are given, and its state is read
        again.
        ``half`` is half the side of the window in facet distances. Raises UnembedError for a
        position that the audit lacks, and for another model or text.
        """
        record = cast("Audit", self._record)
        found = slice_at(record, position, checkpoint, corpus, half=half)
        if found in record.slices:
            return self._figure(f"slice-{record.slices.index(found) + 1}")
        return standalone(decision_figure(found, "slice"))

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
