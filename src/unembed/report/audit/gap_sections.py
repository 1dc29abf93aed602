"""The sections of an audit's page on the expressibility gap and on the native-precision head."""

from __future__ import annotations

from unembed.decisions.audit.gap import GapFit, LineFit
from unembed.decisions.audit.summary import AuditSummary, NativeHead
from unembed.report.audit import gap_charts
from unembed.report.parts.drawing import draw
from unembed.report.parts.parts import Figure, Key, Section, Table
from unembed.report.parts.wording import count, decimal, full, interval, point, share


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
    if gap.tied is not None:
        lead += f" To mind with the published fit: {gap.tied.in_words}."
    fixed = () if gap.fixed is None else (Key("dashed", "fixed-window fit"),)
    band = " The band is its pointwise 95 % interval." if gap.eta_low is not None else ""
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
                (Key("dot", "measured"), Key("line", "published fit"), *fixed),
                draw(gap_charts.gap_curve(gap), "Share of positions with a margin below epsilon"),
                (_curve(gap),),
            ),
            Figure(
                "slope",
                "Local slope",
                "The slope of the curve at each width. Flat at 1 means that a single power law "
                "holds; a drift means that β depends on the window.",
                (Key("ink", "measured"), Key("dotted", "slope 1")),
                draw(gap_charts.local_slope(gap), "Local slope of the gap curve"),
                (
                    Table(
                        "Local slope",
                        ("ε", "slope"),
                        tuple(
                            (decimal(x), decimal(y))
                            for x, y in zip(gap.slope_epsilon, gap.local_slope, strict=True)
                        ),
                    ),
                ),
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
                (Key("line", "float32"), Key("square", name)),
                draw(
                    gap_charts.two_gaps(native.gap, native.gap_float32, name),
                    f"Gap curve with the head in {name} and in float32",
                ),
                (_curve(native.gap),),
            ),
        )
    shares = {
        "top-1 differs from float32": native.changed_top1,
        "top-1 differs, and no tie": native.changed_top1_untied,
        "first two in another order": native.changed_order,
        "first two exactly tied": native.tied_top2,
        "margin below one rounding step": native.below_rounding_step,
    }
    rows = [
        (f"distinct margins, {name}", count(native.distinct_margins), ""),
        ("distinct margins, float32", count(native.distinct_margins_float32), ""),
    ]
    rows += [(label, point(e, share), interval(e, share)) for label, e in shares.items()]
    for gap, kind in ((native.gap, name), (native.gap_float32, "float32")):
        if gap is not None:
            fit = gap.published
            rows.append(
                (
                    f"gap slope β, {kind} (R² {fit.r_squared:.4f})",
                    point(fit.beta, decimal),
                    interval(fit.beta, decimal),
                )
            )
    return Section(
        "native",
        f"What {name} does to the head",
        f"A head computed in {name} rounds its output: margins fall onto few values and ties "
        "appear. Everything else on this page comes from float32 logits.",
        figures,
        (
            Table(
                f"Head in {name} beside float32", ("figure", "value", "95 % interval"), tuple(rows)
            ),
        ),
    )


def _curve(gap: GapFit) -> Table:
    bounded = gap.eta_low is not None and gap.eta_high is not None
    low = gap.eta_low if gap.eta_low is not None else gap.eta
    high = gap.eta_high if gap.eta_high is not None else gap.eta
    return Table(
        "Gap curve",
        ("ε", "η", "95 % interval"),
        tuple(
            (decimal(x), share(y), f"{share(lower)} to {share(upper)}" if bounded else "")
            for x, y, lower, upper in zip(gap.epsilon, gap.eta, low, high, strict=True)
        ),
    )


def _fits(gap: GapFit) -> Table:
    def row(name: str, fit: LineFit) -> tuple[str, ...]:
        return (
            name,
            f"{decimal(fit.epsilon_min)} to {decimal(fit.epsilon_max)}, {fit.points} points",
            full(fit.beta, decimal),
            full(fit.intercept, decimal),
            full(fit.alpha, decimal),
            f"{fit.r_squared:.5f}",
        )

    rows = [row("published protocol", gap.published)]
    if gap.fixed is not None:
        rows.append(row("fixed window", gap.fixed))
    at_zero = full(gap.density_at_zero, decimal)
    rows.append(("density at 0⁺", "limit of small ε", "", "", at_zero, ""))
    return Table(
        f"Fits over {count(gap.n)} positions, with 95 % intervals",
        ("fit", "window in logits", "slope β", "intercept", "coefficient α", "R²"),
        tuple(rows),
    )
