"""Whether stated probabilities hold and margins predict flips, as sections of the page."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.decisions.comparison.calibration import Calibration, CalibrationComparison
from unembed.decisions.comparison.prediction import ChanceBin, FlipPrediction
from unembed.report.comparison import charts
from unembed.report.parts.drawing import draw
from unembed.report.parts.parts import (
    Figure,
    Key,
    Section,
    Table,
    charts_or_tables,
    estimates_table,
    table_of,
)
from unembed.report.parts.wording import cell, count, decimal, points, share, signed
from unembed.report.verdicts.comparison import agreement_words
from unembed.stats.estimate import Estimate


def calibration_section(calibration: CalibrationComparison) -> Section:
    """Whether stated probabilities were, and are, frequencies."""
    before, after = calibration.before, calibration.after

    def row(name: str, of: str, difference: Estimate | None) -> tuple[str, ...]:
        sides = [cell(getattr(side, of), decimal) for side in (before, after)]
        return name, *sides, "" if difference is None else cell(difference, signed)

    def chance(side: Calibration) -> str:
        known = side.ece_by_chance
        return "none: fewer than two documents" if known is None else decimal(known)

    sides = (("before", before), ("after", after))
    figures, tables = charts_or_tables(
        (_reliability(when, side), sum(one.n > 0 for one in side.bins)) for when, side in sides
    )
    return Section(
        "calibration",
        "Does the stated probability hold?",
        "A calibrated head is right as often as it says. Points above the diagonal are too "
        "modest, points below too sure.",
        figures,
        (
            *tables,
            Table(
                f"Calibration, n = {count(before.brier.n)}, with 95 % intervals",
                ("figure", "before", "after", "after − before"),
                (
                    row("expected calibration error", "ece", calibration.ece_difference),
                    ("the same by chance, if calibrated", chance(before), chance(after), ""),
                    row("maximum calibration error", "mce", None),
                    row("Brier score", "brier", calibration.brier_difference),
                    row("loss, nats", "nll_nats", calibration.nll_difference_nats),
                ),
            ),
        ),
    )


def prediction_section(prediction: FlipPrediction) -> Section:
    """Whether margins and the changes of other documents predict the flips."""
    who = (
        "the runner-up, or all other tokens together, may overtake"
        if prediction.candidates == 1
        else f"each of the next {prediction.candidates} tokens, or any other, may overtake"
    )
    numbers = estimates_table(
        f"Predicted and observed churn, n = {count(prediction.observed.n)}",
        {
            "predicted churn": (prediction.predicted, share),
            "observed churn": (prediction.observed, share),
            "observed − predicted": (prediction.difference, points),
            "common factor of the margins": (prediction.scale, decimal),
            "movement besides, logits, root mean square": (prediction.noise, decimal),
        },
    )
    lead = (
        "Each position’s chance of a flip is told from its margin and from what the change did to "
        f"positions of like margin and entropy in other documents; {who}. "
        f"{agreement_words(prediction)}"
    )
    if not prediction.bins:
        lead += f" No curve: {prediction.bins_reason or 'no chances were put in bins'}."
    drawn = [(_chances(prediction.bins), sum(one.n > 0 for one in prediction.bins))]
    figures, tables = charts_or_tables(drawn if prediction.bins else ())
    return Section("prediction", "Margins predict flips", lead, figures, (numbers, *tables))


def _reliability(when: str, side: Calibration) -> Figure:
    table = table_of(
        f"Reliability {when}, with 95 % intervals",
        side.bins,
        {
            "confidence": lambda one: f"{share(one.low)} to {share(one.high)}",
            "n": lambda one: count(one.n),
            "mean confidence": lambda one: cell(one.confidence, share),
            "accuracy": lambda one: cell(one.accuracy, share),
        },
    )
    return Figure(
        f"reliability-{when}",
        f"Reliability {when}",
        "Accuracy of the positions in each bin of top-1 probability. Bars are 95 % intervals over "
        "documents.",
        draw(charts.reliability(side.bins), f"Reliability {when}"),
        (Key("full-dot", "accuracy"), Key("dotted", "perfectly calibrated")),
        (table,),
    )


def _chances(bins: Sequence[ChanceBin]) -> Figure:
    table = table_of(
        "Chance of a flip",
        bins,
        {
            "chance": lambda one: f"{one.low:g} to {one.high:g}",
            "n": lambda one: count(one.n),
            "predicted": lambda one: cell(one.predicted, share),
            "observed": lambda one: cell(one.observed, share),
        },
    )
    return Figure(
        "chances",
        "Predicted and observed share of flips",
        "Positions binned by their predicted chance of another top-1, neighbours joined until 50 "
        "flips are predicted. Both axes are square roots. Above the diagonal, more flipped than "
        "was predicted.",
        draw(charts.chances(bins), "Observed over predicted share of flips"),
        (Key("full-dot", "observed"), Key("dotted", "as predicted")),
        (table,),
    )
