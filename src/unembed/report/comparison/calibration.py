"""Whether stated probabilities hold and margins predict flips, as sections of the page."""

from __future__ import annotations

from unembed.decisions.comparison.calibration import Calibration, CalibrationComparison
from unembed.decisions.comparison.prediction import FlipPrediction
from unembed.report.comparison import curves
from unembed.report.parts.drawing import draw
from unembed.report.parts.parts import Figure, Key, Section, Table, estimate_row
from unembed.report.parts.wording import Wording, count, decimal, full, points, share, signed
from unembed.stats.estimate import Estimate


def calibration_section(calibration: CalibrationComparison) -> Section:
    """Whether stated probabilities were, and are, frequencies."""
    before, after = calibration.before, calibration.after

    def row(name: str, of: str, form: Wording, difference: Estimate | None) -> tuple[str, ...]:
        sides = (getattr(side, of) for side in (before, after))
        cells = [full(side, form) for side in sides]
        return name, *cells, "" if difference is None else full(difference, signed)

    def chance(side: Calibration) -> str:
        known = side.ece_by_chance
        return "none: fewer than two documents" if known is None else decimal(known)

    return Section(
        "calibration",
        "Does the stated probability hold?",
        "A calibrated head is right as often as it says. Points above the diagonal are too "
        "modest, points below too sure.",
        tuple(
            Figure(
                f"reliability-{when}",
                f"Reliability {when}",
                "Accuracy of the positions in each bin of top-1 probability. Bars are 95 % "
                "intervals over documents.",
                (Key("full-dot", "accuracy"), Key("dotted", "perfectly calibrated")),
                draw(curves.reliability(side.bins), f"Reliability {when}"),
                (_reliability(side),),
            )
            for when, side in (("before", before), ("after", after))
        ),
        (
            Table(
                f"Calibration, n = {count(before.brier.n)}, with 95 % intervals",
                ("figure", "before", "after", "after − before"),
                (
                    row("expected calibration error", "ece", decimal, calibration.ece_difference),
                    ("the same by chance, if calibrated", chance(before), chance(after), ""),
                    row("maximum calibration error", "mce", decimal, None),
                    row("Brier score", "brier", decimal, calibration.brier_difference),
                    row("loss, nats", "nll_nats", decimal, calibration.nll_difference_nats),
                ),
            ),
        ),
    )


def prediction_section(prediction: FlipPrediction) -> Section:
    """Whether the margins before predict the flips."""
    who = (
        "the runner-up alone may overtake, so this is a lower bound"
        if prediction.candidates == 1
        else f"any of the next {prediction.candidates} tokens may overtake"
    )
    numbers = Table(
        f"Predicted and observed churn, n = {count(prediction.observed.n)}",
        ("figure", "value", "95 % interval"),
        tuple(
            estimate_row(name, estimate, form)
            for name, estimate, form in (
                ("predicted churn", prediction.predicted, share),
                ("observed churn", prediction.observed, share),
                ("observed − predicted", prediction.difference, points),
                ("noise s in logits", prediction.noise, decimal),
                ("common factor of the margins", prediction.scale, decimal),
            )
        ),
    )
    lead = (
        "Add normal noise of one size s to every logit: a narrow margin then flips often, a wide "
        f"one never. s comes from wide margins that did not flip; {who}."
    )
    if not prediction.bins:
        reason = prediction.bins_reason or "no chances were put in bins"
        return Section(
            "prediction", "Margins predict flips", f"{lead} No curve: {reason}.", (), (numbers,)
        )
    return Section(
        "prediction",
        "Margins predict flips",
        lead,
        (
            Figure(
                "chances",
                "Predicted and observed share of flips",
                "Positions binned by their predicted chance of another top-1. Both axes are square "
                "roots. Above the diagonal, more flipped than noise explains.",
                (Key("full-dot", "observed"), Key("dotted", "as predicted")),
                draw(curves.chances(prediction.bins), "Observed over predicted share of flips"),
                (
                    Table(
                        "Chance of a flip",
                        ("chance", "n", "predicted", "observed"),
                        tuple(
                            (
                                f"{one.low:g} to {one.high:g}",
                                count(one.n),
                                full(one.predicted, share),
                                full(one.observed, share),
                            )
                            for one in prediction.bins
                        ),
                    ),
                ),
            ),
        ),
        (numbers,),
    )


def _reliability(side: Calibration) -> Table:
    return Table(
        "Reliability, with 95 % intervals",
        ("confidence", "n", "mean confidence", "accuracy"),
        tuple(
            (
                f"{share(one.low)} to {share(one.high)}",
                count(one.n),
                full(one.confidence, share),
                full(one.accuracy, share),
            )
            for one in side.bins
        ),
    )
