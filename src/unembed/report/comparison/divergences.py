"""How far the two distributions are apart, as a section of a comparison's page."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.decisions.comparison.divergences import (
    TOP_PART,
    DivergenceGroup,
    DivergenceStatistics,
    DivergenceSummary,
    Exceedance,
)
from unembed.decisions.comparison.summary import ComparisonSummary
from unembed.report.comparison.charts import ends, label_axis, plain_axis
from unembed.report.parts.drawing import Spec, draw, heading
from unembed.report.parts.parts import Figure, Key, Section, Table, line
from unembed.report.parts.wording import Wording, count, decimal, full, share
from unembed.stats.estimate import Estimate

FORWARD, BACKWARD = "KL(before‖after)", "KL(after‖before)"

TITLES = {
    "band_before": ("by margin before", "margin, logits"),
    "frequency": ("by frequency", "occurrences"),
    "token_class": ("by class", "class"),
}
"""How the groupings of a comparison are called, and what their groups are."""

TOP = f"{100 * TOP_PART:g}\u00a0%"

_LOOKS: tuple[tuple[Spec, int], ...] = (
    ({"color": "var(--accent)"}, 60),
    ({"color": "var(--accent-2)", "strokeDash": [6, 4]}, 20),
)
"""Line and size of the points of a chart's first and second curve, which may coincide."""

Curve = tuple[str, DivergenceStatistics]


def fine(value: float) -> str:
    """A share in percent with two decimals, for those near 0 or 1: ``99.16 %``."""
    return f"{100 * value:.2f}\u00a0%"


def divergence_section(summary: ComparisonSummary) -> Section | None:
    """How far the two distributions are apart, where both models were run together."""
    apart = summary.divergence
    if apart is None:
        return None
    lead = (
        "Exact over the whole vocabulary, position by position: the two may part far below their "
        "top tokens, where no decision shows it."
    )
    parted = apart.kl_forward.mean.value or apart.total_variation.mean.value
    if apart.kl_forward.mean.value is not None and not parted:
        lead += " Here they are the same at every position."
    if apart.top_share.value is not None:
        lead += (
            f" The {TOP} of positions that are furthest apart carry "
            f"{full(apart.top_share, share)} of all {FORWARD}."
        )
    figures = (*_curves(apart), *_groups(apart)) if parted else ()
    return Section(
        "divergence", "How far apart the distributions are", lead, figures, _tables(apart)
    )


def _tables(apart: DivergenceSummary) -> tuple[Table, Table]:
    rows = tuple(
        (name, *(full(one, form) for one in (measure.mean, measure.median, measure.high)))
        for name, measure, form in (
            (f"{FORWARD}, nats", apart.kl_forward, decimal),
            (f"{BACKWARD}, nats", apart.kl_backward, decimal),
            ("total variation", apart.total_variation, fine),
        )
    )
    return (
        Table(
            f"Divergence, n = {count(apart.kl_forward.mean.n)}, with 95 % intervals",
            ("measure", "mean", "median", "99\u00a0% quantile"),
            rows,
        ),
        Table(
            f"Agreement, n = {count(apart.acceptance.n)}",
            ("figure", "value", "95 % interval"),
            (
                line("speculative acceptance", apart.acceptance, fine),
                line("overlap of the top-k", apart.overlap, fine),
                line(f"share of all KL on the top {TOP} of positions", apart.top_share, share),
            ),
        ),
    )


# How many positions are how far apart ------------------------------------------------------------


def _curves(apart: DivergenceSummary) -> tuple[Figure, Figure]:
    both = ((FORWARD, apart.kl_forward), (BACKWARD, apart.kl_backward))
    variation = (("total variation", apart.total_variation),)
    bands = "Bands are 95 % intervals over documents."
    return (
        Figure(
            "kl-curve",
            "Positions with a larger KL",
            f"The share of positions above x. {bands}",
            (Key("line", FORWARD), Key("dashed", BACKWARD)),
            draw(_survival(both, "KL, nats"), "Share of positions above each KL"),
            (_curve_table("KL above, nats", both),),
        ),
        Figure(
            "tv-curve",
            "Positions with a larger total variation",
            "The share of positions above x. Total variation is the chance that a token drafted by "
            f"one model is refused by the other. {bands}",
            (Key("line", "total variation"),),
            draw(
                _survival(variation, "total variation"),
                "Share of positions above each total variation",
            ),
            (_curve_table("total variation above", variation),),
        ),
    )


def _survival(curves: Sequence[Curve], unit: str) -> Spec:
    """Share of positions above x with its band, one line a curve, x in steps of equal ratio."""
    points = [point for _name, measure in curves for point in measure.above]
    low, high = _reach(points)
    decades = [10.0**power for power in range(-12, 4) if low <= 1.001 * 10.0**power <= 1.002 * high]
    x = {
        "field": "x",
        "type": "quantitative",
        "scale": {"type": "log", "domain": [low, high], "nice": False},
        "axis": plain_axis(unit, grid=False, form="~g") | {"values": decades},
    }
    y = {
        "type": "quantitative",
        "scale": {"domain": [0, 1]},
        "axis": plain_axis(None, grid=True, form=".0%"),
    }
    bands, lines, marks = [], [], []
    for (name, measure), (look, size) in zip(curves, _LOOKS, strict=False):
        rows: list[Spec] = [
            {
                "x": point.threshold,
                "tip": f"{name} above {decimal(point.threshold)}\n"
                f"{full(point.share, share)} of positions",
            }
            | ends(point.share, "y")
            for point in measure.above
            if low <= point.threshold <= high
        ]
        colour = {"color": look["color"]}
        drawn = {"interpolate": "monotone", "aria": False}
        ends_of_band = {"x": x, "y": y | {"field": "y_low"}, "y2": {"field": "y_high"}}
        bands.append(
            {
                "data": {"values": rows},
                "mark": {"type": "area", "opacity": 0.22} | colour | drawn,
                "encoding": ends_of_band,
            }
        )
        encoding = {"x": x, "y": y | {"field": "y"}}
        lines.append(
            {
                "data": {"values": rows},
                "mark": {"type": "line", "strokeWidth": 2.4} | look | drawn,
                "encoding": encoding,
            }
        )
        marks.append(
            {
                "data": {"values": rows},
                "mark": {"type": "circle", "size": size, "opacity": 1} | colour,
                "encoding": encoding | {"description": {"field": "tip"}},
            }
        )
    return {"title": heading("share of positions above x"), "layer": [*bands, *lines, *marks]}


def _reach(points: Sequence[Exceedance]) -> tuple[float, float]:
    """The thresholds between which shares change: beyond them it is every position, or none."""
    every = [one.threshold for one in points]
    between = [one.threshold for one in points if one.share.value not in (0, 1)] or every
    low = max((x for x in every if x < min(between)), default=min(between))
    high = min((x for x in every if x > max(between)), default=max(between))
    return low, high


def _curve_table(first: str, curves: Sequence[Curve]) -> Table:
    return Table(
        "Share of positions above, with 95 % intervals",
        (first, *(name for name, _measure in curves)),
        tuple(
            (decimal(points[0].threshold), *(full(point.share, share) for point in points))
            for points in zip(*(measure.above for _name, measure in curves), strict=True)
        ),
    )


# Where they are ----------------------------------------------------------------------------------


def _groups(apart: DivergenceSummary) -> tuple[Figure, ...]:
    figures: list[Figure] = []
    for key, groups in apart.groups.items():
        words, noun = TITLES[key]
        table = _group_table(words, noun, groups)
        kl = [(one, one.kl_forward) for one in groups]
        accepted = [(one, one.acceptance) for one in groups]
        for name, title, spec in (
            ("kl", f"Mean KL {words}", _points(kl, f"{FORWARD}, nats", decimal, True)),
            ("acceptance", f"Acceptance {words}", _points(accepted, "acceptance", fine, False)),
        ):
            figures.append(
                Figure(
                    f"{name}-{key.replace('_', '-')}",
                    title,
                    f"{_MEANING[name]} Bars are 95 % intervals over documents.",
                    (),
                    draw(spec, title),
                    (table,),
                )
            )
    return tuple(figures)


_MEANING = {
    "kl": f"Mean {FORWARD} of the positions of a group.",
    "acceptance": "Chance that speculative decoding accepts a token that one model drafts for the "
    "other.",
}


def _points(
    values: Sequence[tuple[DivergenceGroup, Estimate]], title: str, form: Wording, zero: bool
) -> Spec:
    """A mean with its interval for each group, one row a group; the axis may start at 0."""
    rows: list[Spec] = [
        {
            "group": _label(group),
            "tip": f"{title} {full(value, form)}\n{group.name}, n = {count(group.n)}",
        }
        | ends(value, "x")
        for group, value in values
        if value.value is not None
    ]
    x = {
        "type": "quantitative",
        "scale": {"zero": zero},
        "axis": plain_axis(None, grid=True, form="~g" if form is decimal else ".3~%")
        | {"labelOverlap": "greedy", "labelSeparation": 16, "tickCount": 4},
    }
    y = label_axis([_label(group) for group, _value in values])
    return {
        "title": heading(title),
        "data": {"values": rows},
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 2, "color": "var(--accent)", "aria": False},
                "encoding": {"y": y, "x": x | {"field": "x_low"}, "x2": {"field": "x_high"}},
            },
            {
                "mark": {"type": "circle", "size": 90, "color": "var(--accent)", "opacity": 1},
                "encoding": {"y": y, "x": x | {"field": "x"}, "description": {"field": "tip"}},
            },
        ],
    }


def _label(group: DivergenceGroup) -> str:
    return f"{group.name}|n {count(group.n)}"


def _group_table(words: str, noun: str, groups: Sequence[DivergenceGroup]) -> Table:
    return Table(
        f"Divergence {words}, means with 95 % intervals",
        (noun, "n", f"{FORWARD}, nats", "total variation", "acceptance"),
        tuple(
            (
                group.name,
                count(group.n),
                full(group.kl_forward, decimal),
                full(group.total_variation, fine),
                full(group.acceptance, fine),
            )
            for group in groups
        ),
    )
