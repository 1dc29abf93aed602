"""How a refinement ran, step by step, as sections of its page."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.report.parts.drawing import Spec, draw, heading
from unembed.report.parts.marks import CURVES, dots, line, plain_axis, reference, spaced
from unembed.report.parts.parts import Figure, Key, Section, Table
from unembed.report.parts.wording import Wording, decimal, share, signed
from unembed.training.run.summary import RefinementSummary, Step

MOST_STEPS_DRAWN = 300
"""Points of a curve at most."""
MOST_STEPS_LISTED = 40
"""Rows of a table at most."""
MOST_STEPS_MARKED = 40
"""A curve of more points is drawn as a line alone."""

CURVE_KEYS = ("line", "dashed")
"""The keys of the looks in ``CURVES``."""

Points = Sequence[tuple[int, float]]
LoggedCurve = tuple[str, Points]


def training_section(summary: RefinementSummary, clip: float) -> Section:
    """The loss, the penalty and their gradients at each step. ``clip`` is the recipe's."""
    log = summary.log
    losses = [
        (one.step, one.loss if one.cross_entropy is None else one.cross_entropy) for one in log
    ]
    norm, ratio = _logged(log, "gradient_norm"), _logged(log, "gradient_ratio")
    figures = [
        _figure(
            "cross-entropy",
            "Cross-entropy",
            "Mean of the step’s batch, in nats.",
            "nats",
            (("cross-entropy", losses),),
            decimal,
        ),
        _figure(
            "penalty",
            "Penalty",
            "P of the step’s batch, without its weight.",
            "P",
            (("penalty", _logged(log, "penalty")),),
            decimal,
        ),
        _figure(
            "gradient-norm",
            "Length of the gradient",
            "Of everything that is minimised, before clipping"
            + (f"; the rule is the clip, {clip:g}." if clip else "."),
            "length",
            (("length", norm),),
            decimal,
            rule=clip or None,
        ),
        _figure(
            "gradient-ratio",
            "Penalty’s gradient, relative to cross-entropy’s",
            "Length of λP’s gradient over that of cross-entropy’s, in the input of the head.",
            "ratio",
            (("ratio", ratio),),
            decimal,
        ),
        _figure(
            "gradient-cosine",
            "Angle between the two gradients",
            "Their cosine: below 0 the penalty works against the cross-entropy.",
            "cosine",
            (("cosine", _logged(log, "gradient_cosine")),),
            signed,
        ),
    ]
    return Section("training", "The run, step by step", _lead(summary), _there(figures))


def watched_section(summary: RefinementSummary) -> Section | None:
    """The held-out positions that were measured on the way; None where none were."""
    watched = summary.watched
    if not watched:
        return None

    def of(name: str) -> Points:
        return [(one.step, getattr(one, name)) for one in watched]

    figures = [
        _figure("watched-loss", "Loss", "Mean in nats.", "nats", (("loss", of("nll")),), decimal),
        _figure(
            "watched-margin",
            "Median margin",
            "In logits.",
            "logits",
            (("median margin", of("median_margin")),),
            decimal,
        ),
        _figure(
            "watched-relative",
            "Median scale-free margin",
            "Distance to the runner-up’s facet relative to the hidden norm.",
            "distance",
            (("median scale-free margin", of("median_relative_distance")),),
            decimal,
        ),
        _figure(
            "watched-flips",
            "Changed decisions",
            "Against the starting model.",
            "share",
            (("churn", of("churn")), ("right → wrong", of("right_to_wrong"))),
            share,
        ),
        _figure(
            "watched-accuracy",
            "Accuracy",
            "Share of right decisions.",
            "share",
            (("accuracy", of("accuracy")),),
            share,
        ),
        _figure(
            "watched-stable",
            "Stable candidates",
            "Mean share of the starting model’s top 5 that are still among the top 5.",
            "share",
            (("stable candidates", of("stable_candidates")),),
            share,
        ),
    ]
    return Section(
        "watched",
        "Held-out text on the way",
        f"The same {watched[0].n:,} held-out positions after so many steps, without intervals: "
        "where a curve turns, a shorter run would have done. Right to wrong counts targets of the "
        "budget’s classes alone, where it names some.",
        _there(figures),
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


def _logged(log: Sequence[Step], name: str) -> Points:
    return [(one.step, getattr(one, name)) for one in log if getattr(one, name) is not None]


def _there(figures: Sequence[Figure | None]) -> tuple[Figure, ...]:
    return tuple(figure for figure in figures if figure is not None)


def _figure(
    name: str,
    title: str,
    caption: str,
    unit: str,
    curves: Sequence[LoggedCurve],
    form: Wording,
    rule: float | None = None,
) -> Figure | None:
    """One figure of curves over the same steps; None where nothing was logged."""
    if not curves[0][1]:
        return None
    keys = tuple(Key(look, label) for (label, _), look in zip(curves, CURVE_KEYS, strict=False))
    return Figure(
        name,
        title,
        caption,
        keys if len(curves) > 1 else (),
        draw(_spec(curves, unit, form, rule), f"{title} by step"),
        (_table(title, curves, form),),
    )


def _spec(curves: Sequence[LoggedCurve], unit: str, form: Wording, rule: float | None) -> Spec:
    """Lines over the steps, and a horizontal rule."""
    axis = plain_axis("step", grid=False, form="~d") | {"tickMinStep": 1}
    channels: dict[str, Spec] = {
        "x": {"type": "quantitative", "scale": {"zero": False}, "axis": axis},
        "y": {
            "type": "quantitative",
            "scale": {"zero": len(curves) > 1 or rule is not None},
            "axis": plain_axis(None, grid=True, form=".2~%" if form is share else ".6~g"),
        },
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
