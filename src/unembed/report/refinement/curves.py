"""How a refinement ran, step by step, as sections of its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from unembed.report.parts.drawing import Spec, draw, heading
from unembed.report.parts.marks import (
    CURVES,
    dots,
    line,
    plain_axis,
    quantity,
    reference,
    scaled,
    spaced,
)
from unembed.report.parts.parts import Figure, Key, Section, Table
from unembed.report.parts.scales import Scale, scale_of
from unembed.report.parts.wording import Wording, count, decimal, listed, share, signed
from unembed.training.run.summary import RefinementSummary, Step, WatchedStep

MOST_STEPS_DRAWN = 300
"""Points of a curve at most."""
MOST_STEPS_LISTED = 40
"""Rows of a table at most."""
MOST_STEPS_MARKED = 40
"""A curve of more points is drawn as a line alone."""

LEAST_PART, LEAST_SHARE = 0.02, 0.01
"""An axis spans at least this part of its largest value, of shares this much: what is less would be
noise drawn large, as these curves have no intervals."""

CURVE_KEYS = ("line", "dashed")
"""The keys of the looks in ``CURVES``."""

LoggedCurve = tuple[str, Sequence[tuple[int, float]]]


@dataclass(frozen=True)
class StepFigure:
    """What is drawn by step: the name of each curve, and the field of the log that it shows."""

    name: str
    title: str
    caption: str
    unit: str
    curves: Mapping[str, str]
    form: Wording = decimal


WATCHED = (
    StepFigure("loss", "Loss", "Mean in nats.", "nats", {"loss": "nll"}),
    StepFigure(
        "margin", "Median margin", "In logits.", "logits", {"median margin": "median_margin"}
    ),
    StepFigure(
        "relative",
        "Median scale-free margin",
        "Distance to the runner-up’s facet relative to the hidden norm.",
        "distance",
        {"median scale-free margin": "median_relative_distance"},
    ),
    StepFigure(
        "flips",
        "Changed decisions",
        "Against the starting model.",
        "share",
        {"churn": "churn", "right → wrong": "right_to_wrong"},
        share,
    ),
    StepFigure(
        "accuracy",
        "Accuracy",
        "Share of right decisions.",
        "share",
        {"accuracy": "accuracy"},
        share,
    ),
    StepFigure(
        "stable",
        "Stable candidates",
        "Mean share of the starting model’s top 5 that are still among the top 5.",
        "share",
        {"stable candidates": "stable_candidates"},
        share,
    ),
)
"""What is measured on held-out text on the way."""


def training_section(summary: RefinementSummary, clip: float) -> Section:
    """The loss, the penalty and their gradients at each step. ``clip`` is the recipe's."""
    log = [
        replace(one, cross_entropy=one.loss) if one.cross_entropy is None else one
        for one in summary.log
    ]
    norm = "Of everything that is minimised, before clipping"
    norm += f"; the rule is the clip, {clip:g}." if clip else "."
    figures = (
        StepFigure(
            "cross-entropy",
            "Cross-entropy",
            "Mean of the step’s batch, in nats.",
            "nats",
            {"cross-entropy": "cross_entropy"},
        ),
        StepFigure(
            "penalty",
            "Penalty",
            "P of the step’s batch, without its weight.",
            "P",
            {"penalty": "penalty"},
        ),
        StepFigure(
            "penalty-weight",
            "Weight of the penalty",
            "λ, which the schedule and the share of the gradient set.",
            "λ",
            {"λ": "weight"},
        ),
        StepFigure(
            "gradient-norm", "Length of the gradient", norm, "length", {"length": "gradient_norm"}
        ),
        StepFigure(
            "gradient-ratio",
            "Penalty’s gradient, relative to cross-entropy’s",
            "Length of λP’s gradient over that of cross-entropy’s, in the input of the head.",
            "ratio",
            {"ratio": "gradient_ratio"},
        ),
        StepFigure(
            "gradient-cosine",
            "Angle between the two gradients",
            "Their cosine: below 0 the penalty works against the cross-entropy.",
            "cosine",
            {"cosine": "gradient_cosine"},
            signed,
        ),
    )
    rules = {"gradient-norm": clip or None}
    drawn = [_figure(one, log, rules.get(one.name)) for one in figures]
    lead = f"{_lead(summary)} {_alone(figures, log)}".rstrip()
    return Section("training", "The run, step by step", lead, tuple(filter(None, drawn)))


def watched_section(summary: RefinementSummary) -> Section | None:
    """The held-out positions that were measured on the way; None where none were."""
    watched = summary.watched
    if not watched:
        return None
    drawn = [_figure(replace(one, name=f"watched-{one.name}"), watched) for one in WATCHED]
    lead = (
        f"The same {count(watched[0].n)} held-out positions after so many steps, without "
        "intervals: where a curve turns, a shorter run would have done. Right to wrong counts "
        "targets of the budget’s classes alone, where it names some."
    )
    if watched[0].step == 0:
        lead += " Step 0 is the starting model."
    audited = summary.heldout.n_positions
    if audited != watched[0].n:
        lead += (
            f" The figures above are of {count(audited)} positions, so that values and changes may "
            "differ from these."
        )
    lead = f"{lead} {_alone(WATCHED, watched)}".rstrip()
    return Section("watched", "Held-out text on the way", lead, tuple(filter(None, drawn)))


def _lead(summary: RefinementSummary) -> str:
    words = f"{summary.steps:,} steps."
    if summary.clipped is not None:
        words += f" At {share(summary.clipped)} of them the gradient was clipped."
    if summary.gradient_ratio is not None and summary.gradient_cosine is not None:
        words += (
            f" On average the penalty’s gradient is {decimal(summary.gradient_ratio)} times as "
            f"long as cross-entropy’s, at a cosine of {signed(summary.gradient_cosine)}; some "
            "steps are compared."
        )
    return words


def _figure(
    figure: StepFigure, log: Sequence[Step] | Sequence[WatchedStep], rule: float | None = None
) -> Figure | None:
    """The curves of a figure over the same steps; None where fewer than two steps were logged."""
    curves = _logged(figure, log)
    if len(curves[0][1]) < 2:
        return None
    keys = tuple(Key(look, label) for (label, _), look in zip(curves, CURVE_KEYS, strict=False))
    return Figure(
        figure.name,
        figure.title,
        f"{figure.caption} {_ends(curves, figure.form)}",
        draw(_spec(curves, figure.unit, figure.form, rule), f"{figure.title} by step"),
        keys if len(curves) > 1 else (),
        (_table(figure.title, curves, figure.form),),
    )


def _logged(figure: StepFigure, log: Sequence[Step] | Sequence[WatchedStep]) -> list[LoggedCurve]:
    """Each curve of a figure: the steps that have a value, and the values."""
    found: list[LoggedCurve] = []
    for label, field in figure.curves.items():
        values = [(one.step, getattr(one, field)) for one in log]
        found.append((label, [(step, value) for step, value in values if value is not None]))
    return found


def _alone(figures: Sequence[StepFigure], log: Sequence[Step] | Sequence[WatchedStep]) -> str:
    """What was logged at one step alone, which a sentence says better than a chart of one dot."""
    single = [
        (logged[0][0], f"{label} {figure.form(logged[0][1])}")
        for figure in figures
        for label, logged in _logged(figure, log)
        if len(logged) == 1
    ]
    if not single:
        return ""
    return f"At step {single[0][0]} alone: {listed([words for _, words in single])}."


def _ends(curves: Sequence[LoggedCurve], form: Wording) -> str:
    """The first and the last value of each curve, in a sentence."""
    parts = []
    for label, logged in curves:
        (first, start), (last, end) = logged[0], logged[-1]
        when = "before" if first == 0 else f"at step {first}"
        name = f"{label} " if len(curves) > 1 else ""
        parts.append(f"{name}{form(start)} {when}, {form(end)} at step {last}")
    words = "; ".join(parts)
    return f"{words[0].upper()}{words[1:]}."


def _axis_of(curves: Sequence[LoggedCurve], form: Wording, rule: float | None) -> Scale:
    """The vertical axis: from 0 where there are several curves or a rule."""
    values = [value for _, logged in curves for _, value in logged]
    if rule is not None:
        values.append(rule)
    least = LEAST_SHARE if form is share else LEAST_PART * max(map(abs, values))
    if len(curves) > 1 or rule is not None:
        values.append(0.0)
    return scale_of(values, percent=form is share, least=least)


def _spec(curves: Sequence[LoggedCurve], unit: str, form: Wording, rule: float | None) -> Spec:
    """Lines over the steps, and a horizontal rule."""
    axis = plain_axis("step", grid=False, form="~d") | {"tickMinStep": 1}
    channels = {
        "x": quantity(axis, zero=False),
        "y": scaled(_axis_of(curves, form, rule), None, grid=True),
    }
    layers: list[Spec] = []
    for (label, logged), look in zip(curves, CURVES, strict=False):
        rows = [
            {"x": step, "y": value, "tip": f"step {step}\n{label} {form(value)}"}
            for step, value in spaced(logged, MOST_STEPS_DRAWN)
        ]
        marked = len(logged) <= MOST_STEPS_MARKED
        marks = dots(rows, channels, look["color"], 60 if marked else 30)
        marks["mark"]["opacity"] = 1 if marked else 0
        layers += [line(rows, channels, look), marks]
    if rule is not None:
        layers.append(reference("y", rule, channels["y"], {"color": "var(--muted)"}))
    return {"title": heading(unit), "layer": layers}


def _table(title: str, curves: Sequence[LoggedCurve], form: Wording) -> Table:
    shown = [spaced(logged, MOST_STEPS_LISTED) for _, logged in curves]
    steps = len(curves[0][1])
    some = f", {MOST_STEPS_LISTED} of {steps:,} steps" if steps > MOST_STEPS_LISTED else ""
    return Table(
        f"{title}{some}",
        ("step", *(label for label, _ in curves)),
        tuple(
            (str(row[0][0]), *(form(value) for _, value in row)) for row in zip(*shown, strict=True)
        ),
    )
