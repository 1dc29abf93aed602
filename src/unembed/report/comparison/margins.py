"""What happened to the margins, as a section of a comparison's page."""

from __future__ import annotations

from unembed.decisions.comparison.movement import (
    SHARPENING_VERDICTS,
    Expansion,
    Sharpening,
)
from unembed.decisions.comparison.summary import ComparisonSummary
from unembed.report.parts.histogram import histogram_figure
from unembed.report.parts.parts import Section, Table, estimates_table
from unembed.report.parts.wording import cell, change, count, decimal, full, part, share, signed


def sharpening_words(check: Sharpening) -> str:
    """What the check for sharpening found, with its numbers, as a sentence."""
    said = SHARPENING_VERDICTS.get(check.verdict, check.verdict)
    if check.raw_change.value is None:
        return f"{said}: {check.raw_change.reason}."
    return (
        f"{said}: where top-1 and top-2 stayed (n\u00a0=\u00a0{count(check.n)}), the median margin "
        f"changed by {full(check.raw_change, change)}, the scale-free one by "
        f"{full(check.scale_free_change, change)}"
        f"{', without an interval to tell it from chance' if check.raw_change.low is None else ''}."
    )


def margins_section(summary: ComparisonSummary) -> Section:
    """What happened to the margins."""
    movement = summary.movement
    everywhere = movement.everywhere
    rotation = movement.rotation
    figures = tuple(
        histogram_figure(
            figure,
            spread.histogram,
            unit,
            (spread.median, signed),
            "After − before at each position; the upper part of a bar was wrong before.",
            when="before",
            ticks=4,
        )
        for figure, spread, unit in (
            (("delta-margin", "Change of the margin"), everywhere.margin, "Δ in logits"),
            (
                ("delta-relative", "Change of the scale-free margin"),
                everywhere.relative_distance,
                "Δ scale-free margin",
            ),
        )
    )
    return Section(
        "margins",
        "What happened to the margins",
        "A temperature stretches every margin and leaves the scale-free one, the distance to the "
        "runner-up’s facet relative to the hidden norm, as it was. Where both moved, it was "
        f"geometry. {sharpening_words(movement.sharpening)} The median Δ of the cards is another "
        "figure, the median of the changes at every position, and may differ from it.",
        () if nothing_moved(everywhere) else figures,
        (
            _sharpening(movement.sharpening),
            _expansion("All positions", everywhere),
            _expansion("Positions that kept their top-1", movement.unchanged),
            estimates_table(
                f"Runner-up rotation: same top-1, another top-2, n = {count(rotation.n)}",
                {
                    "share of all positions": (rotation.share, share),
                    "margin wider after": (rotation.margin.wider, share),
                    "mean Δ margin, logits": (rotation.margin.mean, signed),
                    "scale-free wider after": (rotation.relative_distance.wider, share),
                    "mean Δ scale-free": (rotation.relative_distance.mean, signed),
                },
            ),
        ),
    )


def nothing_moved(group: Expansion) -> bool:
    """Whether every margin is the same after: none is wider, and on average none is narrower."""
    return all(
        measure.wider.value == 0 and measure.mean.value == 0
        for measure in (group.margin, group.relative_distance)
    )


def _sharpening(check: Sharpening) -> Table:
    return estimates_table(
        f"Sharpening or geometry: positions that kept top-1 and top-2, n = {count(check.n)}",
        {
            "median margin, after over before": (check.raw_change, change),
            "median scale-free margin, after over before": (check.scale_free_change, change),
            "temperature that gives the same median": (check.temperature, decimal),
            "share that no temperature explains": (check.share_left, part),
        },
    )


def _expansion(caption: str, group: Expansion) -> Table:
    raw, free = group.margin, group.relative_distance
    rows = {"wider after": (raw.wider, free.wider, share), "mean": (raw.mean, free.mean, signed)}
    for name, quantile in raw.quantiles.items():
        rows[f"{name}\u00a0% quantile"] = (quantile, free.quantiles[name], signed)
    return Table(
        f"{caption}, n = {count(group.n)}: after − before, with 95 % intervals",
        ("figure", "Δ margin, logits", "Δ scale-free margin"),
        tuple((name, cell(one, form), cell(two, form)) for name, (one, two, form) in rows.items()),
    )
