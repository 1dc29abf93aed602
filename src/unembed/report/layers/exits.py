"""What leaving early would save and cost, and the first blocks as a draft, as a section."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.decisions.layers.early_exit import EarlyExit, ExitThreshold
from unembed.decisions.layers.self_drafts import SelfDraft, SelfDrafts
from unembed.report.layers.by_depth import Curve, Level, OverDepths, depth_figure
from unembed.report.parts.drawing import Spec, draw, heading
from unembed.report.parts.marks import (
    CURVES,
    Channels,
    band,
    interval_fields,
    intervals,
    line,
    points,
    reference,
    scaled,
)
from unembed.report.parts.parts import Figure, Key, Section, Table, estimates_table, table_of
from unembed.report.parts.scales import scale_of
from unembed.report.parts.wording import (
    Wording,
    cell,
    count,
    decimal,
    full,
    share,
    whole_percent,
)
from unembed.report.verdicts.layers import exit_words
from unembed.stats.estimate import Estimate


def exits_section(exits: EarlyExit, fitted: EarlyExit | None, drafts: SelfDrafts) -> Section:
    """Early exit by a threshold on the margin, by the fitted lens too, and self-drafting."""
    wanted = whole_percent(exits.wanted)
    lead = (
        "Leave at the first depth whose margin reaches a threshold, and the blocks above it need "
        f"not run. The threshold that holds {wanted} agreement with the whole model is chosen on "
        f"{count(exits.chosen_on)} documents and measured on the others. "
    )
    lead += f"Here: {exit_words(exits)}"
    if fitted is not None:
        lead += f" By the fitted lens: {exit_words(fitted)}"
    lead += (
        " The first blocks can also draft tokens that the whole model then checks, which changes "
        "no token; a drafted token is taken to cost its part of the blocks, without the head."
    )
    ways = [("exit", "Early exit", exits)]
    if fitted is not None:
        ways.append(("exit-fitted", "Early exit by the fitted lens", fitted))
    held = tuple(
        _held_out(way, way.chosen, title) for _, title, way in ways if way.chosen is not None
    )
    return Section(
        "exits",
        "What leaving early would save",
        lead,
        (*(_curve(way, name, title) for name, title, way in ways), _drafts(drafts)),
        held,
    )


def _curve(exits: EarlyExit, name: str, title: str) -> Figure:
    keys = [Key("line", "exit by margin"), Key("dashed", "as many at random")]
    if exits.chosen is not None:
        keys.append(Key("square", "chosen threshold, on other documents"))
    return Figure(
        name,
        title,
        "How many decisions are still the whole model’s, over the share of the blocks that is not "
        "run; a point is a threshold. Bands are 95 % intervals over documents.",
        draw(_exit_chart(exits), "Agreement with the whole model by blocks saved"),
        (*keys, Key("dotted", f"{whole_percent(exits.wanted)} agreement")),
        (_thresholds("Thresholds on the margin", exits.curve),),
    )


def _thresholds(caption: str, found: Sequence[ExitThreshold]) -> Table:
    return table_of(
        caption,
        found,
        {
            "margin, logits": lambda one: decimal(one.threshold),
            "agree": lambda one: cell(one.agreement, share),
            "leave early": lambda one: cell(one.early, share),
            "of those, agree": lambda one: cell(one.agreement_early, share),
            "blocks saved": lambda one: cell(one.saved, share),
            "mean depth": lambda one: cell(one.mean_depth, decimal),
            "agree, as many at random": lambda one: cell(one.agreement_if_random, share),
        },
    )


def _held_out(exits: EarlyExit, chosen: ExitThreshold, title: str) -> Table:
    rows: dict[str, tuple[Estimate, Wording] | str] = {
        "agree with the whole model": (chosen.agreement, share),
        "leave before the last depth": (chosen.early, share),
        "of those, agree": (chosen.agreement_early, share),
        "mean depth, blocks": (chosen.mean_depth, decimal),
        "blocks saved": (chosen.saved, share),
        "agree if as many left at random": (chosen.agreement_if_random, share),
        **{
            f"leave at depth {one.depth}": (one.share, share)
            for one in exits.chosen_exits
            if one.share.value
        },
    }
    return estimates_table(
        f"{title}: a margin of {decimal(chosen.threshold)} logits, chosen on "
        f"{count(exits.chosen_on)} documents, on the others, n = {count(chosen.agreement.n)}",
        rows,
    )


def _exit_chart(exits: EarlyExit) -> Spec:
    ours = sorted((_exit(one, one.agreement, "exit by margin") for one in exits.curve), key=_along)
    chance = sorted(
        (_exit(one, one.agreement_if_random, "as many at random") for one in exits.curve),
        key=_along,
    )
    held = []
    if exits.chosen is not None:
        held = [_exit(exits.chosen, exits.chosen.agreement, "chosen, on other documents")]
        held = [
            row | {"fill": "var(--paper)", "stroke": "var(--ink)", "shape": "square"}
            for row in held
        ]
    every = [row for row in (*ours, *chance, *held) if row["y"] is not None]
    most = max([0.05, *(row["x"] for row in every)])
    lows = [row["y_low"] for row in every if row["y"] is not None]
    channels: Channels = {
        "x": scaled(scale_of([0.0, most], percent=True), "share of blocks saved", grid=False),
        "y": scaled(scale_of([1.0, exits.wanted, *lows], percent=True), None, grid=True),
    }
    layers: list[Spec] = [
        reference("y", exits.wanted, channels["y"], {"color": "var(--muted)", "strokeWidth": 1.4})
    ]
    for rows, look in zip((ours, chance), CURVES, strict=False):
        layers.append(band(rows, channels, {"color": look["color"], "opacity": 0.14}))
    for rows, look in zip((ours, chance), CURVES, strict=False):
        layers.append(line(rows, channels, look))
    dots = [row | {"fill": "var(--accent)", "stroke": "var(--accent)"} for row in ours]
    layers += [
        points(dots, channels, size=36),
        intervals(held, channels, "y"),
        points(held, channels, size=110, outline=2.4),
    ]
    return {"title": heading("share that agrees with the whole model"), "layer": layers}


def _along(row: Spec) -> float:
    return float(row["x"])


def _exit(one: ExitThreshold, agreement: Estimate, name: str) -> Spec:
    tip = (
        f"{name}: margin {decimal(one.threshold)} logits\n{full(agreement, share)} agree\n"
        f"{full(one.saved, share)} of the blocks saved"
    )
    return {"x": one.saved.value or 0.0, "tip": tip} | interval_fields(agreement, "y")


def _drafts(drafts: SelfDrafts) -> Figure:
    def speed(of: str) -> dict[int, Estimate]:
        found = ((one.depth, getattr(one, of).at_best) for one in drafts.by_depth if one.depth)
        return {depth: best.speedup for depth, best in found if best is not None}

    curves = (Curve("T = 1", speed("sampled")), Curve("greedy", speed("greedy")))
    shown = OverDepths(
        "self-draft",
        "Speed-up with the first blocks as draft",
        "How many times as fast decoding is if the blocks up to a depth draft the number of "
        "tokens that pays most there, and the whole model checks them. Above 1 it pays. Bands are "
        "95 % intervals over documents.",
        "times as fast as without a draft",
        decimal,
        curves,
        drafts.blocks,
        levels=(Level(1.0, "as fast as without"),),
    )
    return depth_figure(
        shown, (_draft_table("T = 1", "sampled", drafts), _draft_table("Greedy", "greedy", drafts))
    )


def _draft_table(name: str, of: str, drafts: SelfDrafts) -> Table:
    def at_best(one: SelfDraft, field: str) -> str:
        best = getattr(one, of).at_best
        if best is None:
            return f"none: {getattr(one, of).best.reason}"
        return str(best.drafted) if field == "drafted" else cell(getattr(best, field), decimal)

    return table_of(
        f"{name}: the number of drafted tokens that pays most at each depth",
        drafts.by_depth,
        {
            "depth": lambda one: str(one.depth),
            "cost of a drafted token": lambda one: decimal(one.cost),
            "accepted": lambda one: cell(getattr(one, of).acceptance, share),
            "drafted tokens": lambda one: at_best(one, "drafted"),
            "tokens a pass": lambda one: at_best(one, "tokens"),
            "speed-up": lambda one: at_best(one, "speedup"),
        },
    )
