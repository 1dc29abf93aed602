"""The sections of an audit's page on the expressibility gap and on the native-precision head."""

from __future__ import annotations

from unembed.decisions.audit.gap import GapFit, LineFit
from unembed.decisions.audit.summary import AuditSummary, NativeHead
from unembed.report.audit import gap_charts
from unembed.report.parts.drawing import draw
from unembed.report.parts.parts import Figure, Key, Section, Table, estimates_table, table_of
from unembed.report.parts.wording import Wording, cell, count, decimal, share
from unembed.stats.estimate import Estimate


def gap_section(summary: AuditSummary) -> Section:
    """The gap curve with its fits and its local slope, or why there is none."""
    title = "The expressibility gap"
    lead = (
        "η(ε) is the share of decisions won by less than ε. If narrow decisions are spread evenly, "
        "η grows in proportion to ε: a line of slope 1."
    )
    gap = summary.gap
    if gap is None:
        return Section("gap", title, f"{lead} Not fitted here: {summary.gap_reason}.")
    if gap.to_mind:
        lead += f" To mind with the published fit: {gap.to_mind}."
    fixed = () if gap.fixed is None else (Key("dashed", "fixed-window fit"),)
    band = " The band is its pointwise 95 % interval." if gap.eta_low is not None else ""
    slopes = table_of(
        "Local slope",
        zip(gap.slope_epsilon, gap.local_slope, strict=True),
        {"ε": lambda one: decimal(one[0]), "slope": lambda one: decimal(one[1])},
    )
    return Section(
        "gap",
        title,
        lead,
        (
            Figure(
                "curve",
                "Gap curve",
                "Both axes are logarithmic; points are the curve, lines the fits, each over its "
                f"own window.{band}",
                draw(gap_charts.gap_curve(gap), "Share of positions with a margin below epsilon"),
                (Key("dot", "measured"), Key("line", "published fit"), *fixed),
                (_curve(gap),),
            ),
            Figure(
                "slope",
                "Local slope",
                "The slope of the curve at each width. Flat at 1 means that a single power law "
                "holds; a drift means that β depends on the window.",
                draw(gap_charts.local_slope(gap), "Local slope of the gap curve"),
                (Key("ink", "measured"), Key("dotted", "slope 1")),
                (slopes,),
            ),
        ),
        (_fits(gap),),
    )


def native_section(native: NativeHead) -> Section:
    """The head in the checkpoint's own precision next to the float32 one."""
    name = native.dtype
    figures: tuple[Figure, ...] = ()
    if native.gap is not None and native.gap_float32 is not None:
        figures = (
            Figure(
                "native",
                "Gap curve, both heads",
                f"The same positions through the head in {name} and in float32. Steps and "
                f"plateaus in the {name} curve are rounding, not the model.",
                draw(
                    gap_charts.two_gaps(native.gap, native.gap_float32, name),
                    f"Gap curve with the head in {name} and in float32",
                ),
                (Key("line", "float32"), Key("square", name)),
                (_curve(native.gap),),
            ),
        )
    rows: dict[str, tuple[Estimate, Wording] | str] = {
        f"distinct margins, {name}": count(native.distinct_margins),
        "distinct margins, float32": count(native.distinct_margins_float32),
        "top-1 differs from float32": (native.changed_top1, share),
        "top-1 differs, and no tie": (native.changed_top1_untied, share),
        "first two in another order": (native.changed_order, share),
        "first two exactly tied": (native.tied_top2, share),
        "margin below one rounding step": (native.below_rounding_step, share),
    }
    for gap, kind in ((native.gap, name), (native.gap_float32, "float32")):
        if gap is not None:
            fit = gap.published
            rows[f"gap slope β, {kind} (R² {fit.r_squared:.4f})"] = (fit.beta, decimal)
    return Section(
        "native",
        f"What {name} does to the head",
        f"A head computed in {name} rounds its output: margins fall onto few values and ties "
        "appear. Everything else on this page comes from float32 logits.",
        figures,
        (estimates_table(f"Head in {name} beside float32", rows),),
    )


def _curve(gap: GapFit) -> Table:
    bounds = (gap.eta_low, gap.eta_high)
    known = None not in bounds
    low, high = (gap.eta if end is None else end for end in bounds)
    return table_of(
        "Gap curve",
        zip(gap.epsilon, gap.eta, low, high, strict=True),
        {
            "ε": lambda one: decimal(one[0]),
            "η": lambda one: share(one[1]),
            "95 % interval": lambda one: f"{share(one[2])} to {share(one[3])}" if known else "",
        },
    )


def _fits(gap: GapFit) -> Table:
    def row(name: str, fit: LineFit) -> tuple[str, ...]:
        window = f"{decimal(fit.epsilon_min)} to {decimal(fit.epsilon_max)}, {fit.points} points"
        found = (cell(one, decimal) for one in (fit.beta, fit.intercept, fit.alpha))
        return (name, window, *found, f"{fit.r_squared:.5f}")

    rows = [row("published protocol", gap.published)]
    if gap.fixed is not None:
        rows.append(row("fixed window", gap.fixed))
    at_zero = cell(gap.density_at_zero, decimal)
    rows.append(("density at 0⁺", "limit of small ε", "", "", at_zero, ""))
    return Table(
        f"Fits over {count(gap.n)} positions, with 95 % intervals",
        ("fit", "window in logits", "slope β", "intercept", "coefficient α", "R²"),
        tuple(rows),
    )
