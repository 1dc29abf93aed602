"""How far the two distributions are apart, as a section of a comparison's page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unembed.decisions.comparison.divergences import (
    TOP_PART,
    DivergenceGroup,
    DivergenceStatistics,
    DivergenceSummary,
    Exceedance,
)
from unembed.decisions.comparison.summary import ComparisonSummary
from unembed.report.comparison.charts import means
from unembed.report.parts.drawing import Chart, Spec, draw, heading
from unembed.report.parts.marks import (
    CURVES,
    band,
    dots,
    interval_fields,
    line,
    plain_axis,
    quantity,
    scaled,
)
from unembed.report.parts.parts import (
    Figure,
    Key,
    Section,
    Table,
    charts_or_tables,
    estimates_table,
    table_of,
)
from unembed.report.parts.scales import PORTIONS
from unembed.report.parts.wording import Wording, cell, count, decimal, fine_share, full, share
from unembed.stats.estimate import Estimate

FORWARD, BACKWARD = "KL(before‖after)", "KL(after‖before)"

GROUPINGS = {
    "band_before": ("by margin before", "margin, logits"),
    "frequency": ("by frequency", "occurrences"),
    "token_class": ("by class", "class"),
}
"""What the groupings of a comparison are called, and what their groups are."""

TOP_PERCENT = f"{100 * TOP_PART:g}\u00a0%"

DOT_SIZES = (60, 20)
"""Of the points of a chart's first and second curve, which may coincide."""

NamedMeasure = tuple[str, DivergenceStatistics]


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
            f" The {TOP_PERCENT} of positions that are furthest apart carry "
            f"{full(apart.top_share, share)} of all {FORWARD}."
        )
    groups, alone = charts_or_tables(_groups(apart) if parted else ())
    figures = (*_curves(apart), *groups) if parted else ()
    tables = (*_tables(apart), *alone)
    return Section("divergence", "How far apart the distributions are", lead, figures, tables)


def _tables(apart: DivergenceSummary) -> tuple[Table, Table]:
    measures = (
        (f"{FORWARD}, nats", apart.kl_forward, decimal),
        (f"{BACKWARD}, nats", apart.kl_backward, decimal),
        ("total variation", apart.total_variation, fine_share),
    )
    top = f"share of all KL on the top {TOP_PERCENT} of positions"
    return (
        table_of(
            f"Divergence, n = {count(apart.kl_forward.mean.n)}, with 95 % intervals",
            measures,
            {
                "measure": lambda one: one[0],
                "mean": lambda one: cell(one[1].mean, one[2]),
                "median": lambda one: cell(one[1].median, one[2]),
                "99\u00a0% quantile": lambda one: cell(one[1].high, one[2]),
            },
        ),
        estimates_table(
            f"Agreement, n = {count(apart.acceptance.n)}",
            {
                "speculative acceptance": (apart.acceptance, fine_share),
                "overlap of the top-k": (apart.overlap, fine_share),
                top: (apart.top_share, share),
            },
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
            draw(_survival(both, "KL, nats"), "Share of positions above each KL"),
            (Key("line", FORWARD), Key("dashed", BACKWARD)),
            (_curve_table("KL above, nats", both),),
        ),
        Figure(
            "tv-curve",
            "Positions with a larger total variation",
            "The share of positions above x. Total variation is the chance that a token drafted by "
            f"one model is refused by the other. {bands}",
            draw(
                _survival(variation, "total variation"),
                "Share of positions above each total variation",
            ),
            (Key("line", "total variation"),),
            (_curve_table("total variation above", variation),),
        ),
    )


def _survival(curves: Sequence[NamedMeasure], unit: str) -> Spec:
    """Share of positions above x with its band, one line a curve, x in steps of equal ratio."""
    low, high = _reach([point for _name, measure in curves for point in measure.above])
    decades = [10.0**power for power in range(-12, 4) if low <= 1.001 * 10.0**power <= 1.002 * high]
    x_axis = plain_axis(unit, grid=False, form="~g") | {"values": decades}
    channels = {
        "x": quantity(x_axis, type="log", domain=[low, high], nice=False),
        "y": scaled(PORTIONS, None, grid=True),
    }
    bands, lines, marks = [], [], []
    for (name, measure), look, size in zip(curves, CURVES, DOT_SIZES, strict=False):
        rows: list[Spec] = [
            {
                "x": point.threshold,
                "tip": f"{name} above {decimal(point.threshold)}\n"
                f"{full(point.share, share)} of positions",
            }
            | interval_fields(point.share, "y")
            for point in measure.above
            if low <= point.threshold <= high
        ]
        smooth = {"interpolate": "monotone"}
        bands.append(band(rows, channels, smooth | {"opacity": 0.22, "color": look["color"]}))
        lines.append(line(rows, channels, smooth | {"strokeWidth": 2.4} | look))
        marks.append(dots(rows, channels, look["color"], size))
    return {"title": heading("share of positions above x"), "layer": [*bands, *lines, *marks]}


def _reach(points: Sequence[Exceedance]) -> tuple[float, float]:
    """The thresholds between which shares change: beyond them it is every position, or none."""
    every = [one.threshold for one in points]
    between = [one.threshold for one in points if one.share.value not in (0, 1)] or every
    low = max((x for x in every if x < min(between)), default=min(between))
    high = min((x for x in every if x > max(between)), default=max(between))
    return low, high


def _curve_table(first: str, curves: Sequence[NamedMeasure]) -> Table:
    return Table(
        "Share of positions above, with 95 % intervals",
        (first, *(name for name, _measure in curves)),
        tuple(
            (decimal(points[0].threshold), *(cell(point.share, share) for point in points))
            for points in zip(*(measure.above for _name, measure in curves), strict=True)
        ),
    )


# Where they are ----------------------------------------------------------------------------------


def _groups(apart: DivergenceSummary) -> Iterator[tuple[Figure, int]]:
    """The charts by group, each with how many groups it shows."""
    for key, groups in apart.groups.items():
        words, noun = GROUPINGS[key]
        tables = (
            table_of(
                f"Divergence {words}, means with 95 % intervals",
                groups,
                {
                    noun: lambda one: one.name,
                    "n": lambda one: count(one.n),
                    f"{FORWARD}, nats": lambda one: cell(one.kl_forward, decimal),
                    "total variation": lambda one: cell(one.total_variation, fine_share),
                    "acceptance": lambda one: cell(one.acceptance, fine_share),
                },
            ),
        )
        name = key.replace("_", "-")
        title, meaning = f"Mean KL {words}", f"Mean {FORWARD} of the positions of a group."
        chart = _means(groups, "kl_forward", f"{FORWARD}, nats", decimal, title)
        bars = "Bars are 95 % intervals over documents."
        shown = sum(group.n > 0 for group in groups)
        yield Figure(f"kl-{name}", title, f"{meaning} {bars}", chart, (), tables), shown
        title = f"Acceptance {words}"
        meaning = (
            "Chance that speculative decoding accepts a token that one model drafts for the other."
        )
        chart = _means(groups, "acceptance", "acceptance", fine_share, title)
        yield Figure(f"acceptance-{name}", title, f"{meaning} {bars}", chart, (), tables), shown


def _means(
    groups: Sequence[DivergenceGroup], field: str, unit: str, form: Wording, title: str
) -> Chart:
    """The mean of one measure in each group; the axis of KL starts at 0."""
    values = []
    for group in groups:
        value: Estimate = getattr(group, field)
        tip = f"{unit} {full(value, form)}\n{group.name}, n = {count(group.n)}"
        values.append((group.name, group.n, value, tip))
    return draw(means(values, unit, percent=form is fine_share, zero=field == "kl_forward"), title)
