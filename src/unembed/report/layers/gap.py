"""How the share of close calls shrinks with their width, by depth, as a section of the page."""

from __future__ import annotations

from unembed.decisions.layers.depth_rows import DepthRow
from unembed.decisions.layers.summary import LayersSummary, LensSummary
from unembed.report.layers.by_depth import Level, OverDepths, depth_figure
from unembed.report.layers.depths import curves_of, measured
from unembed.report.parts.parts import Section, Table, table_of
from unembed.report.parts.wording import cell, decimal
from unembed.stats.estimate import Estimate


def gap_section(summary: LayersSummary) -> Section:
    """The gap slope and the density of close calls at every depth."""
    slope = OverDepths(
        "gap-slope",
        "Gap slope by depth",
        "The slope β of the share of margins below ε, on two logarithmic scales: at 1 halving ε "
        "halves the share. Bands are 95 % intervals over documents.",
        "slope β, published fit",
        decimal,
        curves_of(summary, _slope),
        summary.blocks,
        levels=(Level(1.0, "in proportion"),),
    )
    density = OverDepths(
        "gap-density",
        "Close calls by depth",
        "How many decisions there are per logit right at margin zero. Bands are 95 % intervals "
        "over documents.",
        "share of positions per logit, at margin 0",
        decimal,
        curves_of(summary, lambda row: None if row.gap is None else row.gap.density_at_zero),
        summary.blocks,
        zero=True,
    )
    figures = [shown for shown in (slope, density) if any(one.at for one in shown.curves)]
    return Section(
        "gap",
        "The expressibility gap by depth",
        "The share of decisions won by less than ε, fitted at every depth over the window that was "
        "published.",
        tuple(depth_figure(shown) for shown in figures),
        folded=tuple(_table(one) for one in measured(summary)),
        more="Every fit in numbers",
    )


def _slope(row: DepthRow) -> Estimate | None:
    return None if row.gap is None else row.gap.published.beta


def _table(lens: LensSummary) -> Table:
    def fit(row: DepthRow) -> str:
        return (
            f"none: {row.gap_reason}" if row.gap is None else cell(row.gap.published.beta, decimal)
        )

    return table_of(
        f"Gap fits under the {lens.lens} lens, with 95 % intervals",
        lens.rows,
        {
            "depth": lambda row: str(row.depth),
            "slope β": fit,
            "R²": lambda row: "–" if row.gap is None else f"{row.gap.published.r_squared:.4f}",
            "density at 0": lambda row: (
                "–" if row.gap is None else cell(row.gap.density_at_zero, decimal)
            ),
        },
    )
