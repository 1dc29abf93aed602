"""How a refinement ran, step by step, as sections of its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from unembed.report.parts.drawing import Spec, draw, heading
from unembed.report.parts.marks import CURVES, dots, line, plain_axis, quantity, reference, spaced
from unembed.report.parts.parts import Figure, Key, Section, Table
from unembed.report.parts.wording import Wording, decimal, share, signed
from unembed.training.run.summary import RefinementSummary, Step, WatchedStep

MOST_STEPS_DRAWN = 300
"""Points of a curve at most."""
MOST_STEPS_LISTED = 40
"""Rows of a table at most."""
MOST_STEPS_MARKED = 40
"""A curve of more points is drawn as a line alone."""

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
    return Section("training", "The run, step by step", _lead(summary), tuple(filter(None, drawn)))


def watched_section(summary: RefinementSummary) -> Section | None:
    """The held-out positions that were measured on the way; None where none were."""
    watched = summary.watched
    if not watched:
        return None
    drawn = [_figure(replace(one, name=f"watched-{one.name}"), watched) for one in WATCHED]
    return Section(
        "watched",
        "Held-out text on the way",
        f"The same {watched[0].n:,} held-out positions after so many steps, without intervals: "
        "where a curve turns, a shorter run would have done. Right to wrong counts targets of the "
        "budget’s classes alone, where it names some.",
        tuple(filter(None, drawn)),
    )


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
    """The curves of a figure over the same steps; None where nothing was logged."""
    curves: list[LoggedCurve] = []
    for label, field in figure.curves.items():
        found = [(one.step, getattr(one, field)) for one in log]
        curves.append((label, [(step, value) for step, value in found if value is not None]))
    if not curves[0][1]:
        return None
    keys = tuple(Key(look, label) for (label, _), look in zip(curves, CURVE_KEYS, strict=False))
    return Figure(
        figure.name,
        figure.title,
        figure.caption,
        draw(_spec(curves, figure.unit, figure.form, rule), f"{figure.title} by step"),
        keys if len(curves) > 1 else (),
        (_table(figure.title, curves, figure.form),),
    )


def _spec(curves: Sequence[LoggedCurve], unit: str, form: Wording, rule: float | None) -> Spec:
    """Lines over the steps, and a horizontal rule."""
    axis = plain_axis("step", grid=False, form="~d") | {"tickMinStep": 1}
    y_axis = plain_axis(None, grid=True, form=".2~%" if form is share else ".6~g")
    channels = {
        "x": quantity(axis, zero=False),
        "y": quantity(y_axis, zero=len(curves) > 1 or rule is not None),
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
