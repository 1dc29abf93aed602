"""The records of a grid of refined models: every figure of every dose, with its interval."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from unembed.decisions.audit.audit import Audit
from unembed.runs.frames import Figures
from unembed.runs.record import record_from_json, record_to_json
from unembed.short_repr import ShortRepr
from unembed.stats.estimate import Estimate
from unembed.stats.forms import bounded, change, full, share
from unembed.training.doses.frontier import Matched
from unembed.training.robustness.comparison import RobustnessComparison
from unembed.training.robustness.read_outs import ReadOuts

CONTROL, TEMPERATURE, START = "none", "temperature", "start"


@dataclass(frozen=True)
class DosePoint(ShortRepr):
    """One refined model: its objective, weight and seed, its audit and read-outs.

    Objective "none" at weight 0 is the control; "temperature" the starting model with its logits
    times ``weight``, which gives it the median margin of the dose ``matched_to``. Of a
    ``gradient_share`` the weight is the mean over the steps.
    """

    objective: str
    weight: float
    seed: int
    audit: Audit
    read_outs: ReadOuts | None = None
    matched_to: str | None = None
    gradient_share: float | None = None

    @property
    def dose(self) -> float:
        """What was set, alike for all seeds: the share of the gradient, or else the weight."""
        return self.weight if self.gradient_share is None else self.gradient_share

    @property
    def name(self) -> str:
        """The objective with its dose."""
        return dose_name(self.objective, self.weight, self.gradient_share)


@dataclass(frozen=True)
class DoseFigures(ShortRepr):
    """The figures of one dose against the starting model, over seeds and documents.

    A ``change`` is after - before; a ``gain`` or ``rise`` is that as a share of the start's (.3 is
    +30 %). Margins are in logits; ``scale_free`` is the median relative distance; ``below_half``
    the share of margins under .5; ``nll_change`` in nats. ``median_margin_change`` is the change of
    the median, ``median_change`` the median of the changes. Flips are shares of the positions, so
    that net is ``accuracy_change``. The ``rotated`` figures are of the positions with the same
    top-1 and another runner-up; ``structural_share_of_net`` is of theory §4's token class.
    """

    median_margin: Estimate
    median_margin_change: Estimate
    median_margin_gain: Estimate
    scale_free: Estimate
    scale_free_gain: Estimate
    below_half: Estimate
    below_half_change: Estimate
    wider: Estimate
    mean_change: Estimate
    median_change: Estimate
    nll_change: Estimate
    nll_rise: Estimate
    accuracy: Estimate
    accuracy_change: Estimate
    churn: Estimate
    wrong_to_right: Estimate
    right_to_wrong: Estimate
    flip_ratio: Estimate
    rotation: Estimate
    rotated_wider: Estimate
    rotated_change: Estimate
    structural_share_of_net: Estimate


@dataclass(frozen=True)
class DoseGroup(ShortRepr):
    """One group of positions after: its share of all, its accuracy, its net over all positions."""

    name: str
    share: Estimate
    accuracy: Estimate
    net: Estimate
    share_of_net: Estimate


@dataclass(frozen=True)
class DoseSeed(ShortRepr):
    """What the frontier draws of a single seed; None where it does not exist."""

    seed: int | None
    median_margin_gain: float | None
    scale_free_gain: float | None
    nll_rise: float | None
    right_to_wrong: float | None
    churn: float | None


@dataclass(frozen=True)
class DoseRow(ShortRepr):
    """One dose. ``over_control`` is each figure minus the control's; the control has none.

    ``by_band`` groups by the margin after, the others by the target. ``alpha`` and ``r_squared``
    are means over the seeds of the published gap fit (theory §2), without interval. ``read_outs``
    compare the starting model with all seeds, ``read_outs_over_control`` the control with them.
    Where a ``gradient_share`` was set, the penalty's share of the loss's gradient, ``weight`` is
    the one that it took: the mean over steps and seeds.
    """

    objective: str
    weight: float
    matched_to: str | None
    seeds: tuple[int, ...]
    figures: DoseFigures
    over_control: DoseFigures | None
    by_band: tuple[DoseGroup, ...]
    by_frequency: tuple[DoseGroup, ...]
    by_class: tuple[DoseGroup, ...]
    alpha: float | None
    r_squared: float | None
    read_outs: RobustnessComparison | None
    read_outs_over_control: RobustnessComparison | None
    singles: tuple[DoseSeed, ...]
    gradient_share: float | None = None

    def _phrases(self) -> Iterator[str]:
        yield self.name
        yield f"median margin gain {full(self.figures.median_margin_gain, change)}"
        yield f"loss rise {full(self.figures.nll_rise, change)}"
        yield f"right to wrong {full(self.figures.right_to_wrong, share)}"

    @property
    def name(self) -> str:
        """The dose as a reader knows it: as ``dose_name``, ``no penalty``, ``logits × 1.21``."""
        if self.objective in (START, CONTROL):
            return "no penalty" if self.objective == CONTROL else START
        if self.objective == TEMPERATURE:
            like = (self.matched_to or "").replace(f"{CONTROL} 0", "no penalty")
            return f"logits × {self.weight:.3f}" + (f", as {like}" if like else "")
        return dose_name(self.objective, self.weight, self.gradient_share)

    @property
    def dose(self) -> float:
        """What was set: the share of the loss's gradient, or else the weight."""
        return self.weight if self.gradient_share is None else self.gradient_share


def dose_name(objective: str, weight: float, gradient_share: float | None) -> str:
    """A dose as a reader knows it: ``fisher 0.6``, ``fisher at share 0.1``."""
    if gradient_share is None:
        return f"{objective} {weight:g}"
    return f"{objective} at share {gradient_share:g}"


@dataclass(frozen=True)
class Measured(ShortRepr):
    """How much was read to measure a grid.

    ``models``, the start, the points and the temperatures, were audited at ``heldout`` and
    ``training`` positions. Of ``disturbed_models``, which no temperature is among, ``bodies`` read
    ``disturbed`` positions each. ``budget`` is what was allowed in all, None for no bound.
    """

    models: int
    heldout: int
    training: int
    disturbed_models: int
    disturbed: int
    bodies: int
    budget: int | None = None

    @property
    def total(self) -> int:
        """Positions read in all."""
        audits = self.models * (self.heldout + self.training)
        return audits + self.disturbed_models * self.bodies * self.disturbed

    @property
    def words(self) -> str:
        """All of it in a line."""
        words = (
            f"{self.heldout:,} held-out and {self.training:,} training positions of "
            f"{self.models:,} models, {self.disturbed:,} of {self.disturbed_models:,} under "
            f"disturbances in {self.bodies} pass" + "es" * (self.bodies != 1)
        )
        words += f": {self.total:,} read in all"
        return words if self.budget is None else f"{words}, of {self.budget:,} allowed"


@dataclass(frozen=True)
class DoseTable(ShortRepr, Figures):
    """Every dose on one text: the start, the control, then objective by objective by weight.

    ``matched`` compares every two objectives, and each with the temperature control, in each damage
    at the same gain. ``n_nonfinite`` positions are not finite in some audit and in no figure.
    """

    n_positions: int
    n_documents: int
    n_nonfinite: int
    notes: tuple[str, ...]
    start: DoseRow
    rows: tuple[DoseRow, ...]
    matched: tuple[Matched, ...]

    def _phrases(self) -> Iterator[str]:
        objectives = dict.fromkeys(row.objective for row in self.rows)
        yield f"{len(self.rows)} doses of {', '.join(objectives)}"
        yield f"{self.n_positions:,} positions in {self.n_documents:,} documents"
        yield f"median margin at the start {self.start.figures.median_margin}"

    def _rows(self) -> list[tuple[str, str]]:
        return headline(self)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        plain: dict[str, Any] = record_to_json(self)
        return plain

    @staticmethod
    def from_json(data: dict[str, Any]) -> DoseTable:
        """Read back what ``to_json`` gave; ValueError where it does not fit."""
        return record_from_json(DoseTable, data)


def headline(table: DoseTable) -> list[tuple[str, str]]:
    """The short table that a grid prints: a line for each dose that was trained.

    Its page compares every two of them, and has the temperatures, which cannot lose a decision.
    """
    of = f"{table.n_documents:,} document" + "s" * (table.n_documents != 1)
    rows = [("positions", f"{table.n_positions:,} in {of}")]
    for row in table.rows:
        if row.objective == TEMPERATURE:
            continue
        figures = row.figures
        took = "" if row.gradient_share is None else f"; weight {row.weight:.3g}"
        rows.append(
            (
                row.name,
                f"margin {bounded(figures.median_margin_gain, change)}, loss "
                f"{bounded(figures.nll_rise, change)}, right to wrong "
                f"{bounded(figures.right_to_wrong, share)}{took}",
            )
        )
    if table.n_nonfinite:
        rows.append(("not finite", f"{table.n_nonfinite:,} positions left out"))
    return rows + [("note", note) for note in table.notes]
