"""The page of two runs of layers: where along the depth decisions changed, and settle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unembed.decisions.layers.compare import LayersComparison
from unembed.decisions.layers.depth_changes import DepthChange, LensChange
from unembed.decisions.layers.settling_changes import (
    SettledGroupChange,
    SettledTwice,
    SettlingChange,
)
from unembed.report.comparison.charts import means
from unembed.report.layers.by_depth import BEYOND, Curve, Level, OverDepths, depth_figure, named
from unembed.report.layers.depths import LENS_WORDS
from unembed.report.layers.settling import settled_bars
from unembed.report.parts.drawing import draw
from unembed.report.parts.facts import command_of, facts_of_both
from unembed.report.parts.page import template
from unembed.report.parts.parts import (
    Card,
    Figure,
    Key,
    Section,
    Table,
    card,
    charts_or_tables,
    table_of,
)
from unembed.report.parts.wording import (
    Wording,
    cell,
    count,
    decimal,
    full,
    points,
    share,
    signed,
    size,
)
from unembed.report.verdicts.depths import LENS_SENTENCE, verdict
from unembed.runs.manifest import FinishedRun
from unembed.runs.provenance import Provenance
from unembed.stats.estimate import Estimate

BANDS = "Bands are 95 % intervals over documents."
TOGETHER = "Bands are 95 % intervals over documents that hold for all depths of a curve at once."


def depths_page(
    found: LayersComparison, *, title: str, facts: Sequence[tuple[str, str]] = ()
) -> str:
    """The page of two runs of layers: verdict, what changed, before and after, settling.

    ``facts`` are label and value of what produced the numbers. One file that loads nothing; the
    same arguments give the same page, byte for byte.
    """
    return template("depths").render(
        title=title,
        verdict=verdict(found),
        extent=extent(found),
        notes=found.notes,
        cards=cards(found),
        sections=sections_of(found),
        facts=facts,
    )


def sections_of(found: LayersComparison) -> tuple[Section, ...]:
    """Every figure and table of the page."""
    return (
        changed_section(found),
        settling_section(found.settling),
        moved_section(found),
        sides_section(found),
    )


def extent(found: LayersComparison) -> str:
    """How much was compared, and what was not."""
    n = found.n_positions - found.n_left_out
    words = f"{size(n, found.n_documents)}, at {count(len(found.depths))} of "
    words += f"{count(found.blocks + 1)} depths"
    if found.n_left_out:
        words += f"; {count(found.n_left_out)} more, not finite at some depth, are left out"
    for one in found.not_compared:
        words += f"; the {one.lens} lens is not compared: {one.reason}"
    return f"{words}."


def cards(found: LayersComparison) -> tuple[Card, ...]:
    """The headline numbers."""
    settled, last = found.settling.everywhere, found.own.by_depth[-1]
    return (
        card("Changed at the last depth", last.changed, share),
        card("Settling depth, after − before", settled.mean.difference, signed, "blocks"),
        card("Settle earlier", settled.earlier, share),
        card("Settle later", settled.later, share),
    )


def changed_section(found: LayersComparison) -> Section:
    """The shares of leading tokens that changed, lens by lens, and what becomes of them."""
    lenses = "; ".join(f"{one.lens}, {LENS_WORDS[one.lens]}" for one in found.lenses)
    lead = (
        f"Depth 0 is what enters the first of {count(found.blocks)} blocks, depth ℓ the residual "
        f"stream after block ℓ. A lens turns it into logits: {lenses}."
    )
    if any(one.lens == "fitted" for one in found.lenses):
        lead += f" {LENS_SENTENCE}"
    own = found.own
    ends = own.end_alike.value
    fates = (
        Curve("differ here, end alike", {row.depth: row.reunited for row in own.by_depth}),
        Curve("end apart, differ from here on", {row.depth: row.parted for row in own.by_depth}),
    )
    figures = (
        depth_figure(
            OverDepths(
                "changed",
                "Leading tokens that changed",
                f"How often the two models’ leading tokens differ at a depth. {TOGETHER}",
                "share of positions",
                share,
                tuple(_curve(one, lambda row: row.changed) for one in found.lenses),
                found.blocks,
                zero=True,
            )
        ),
        depth_figure(
            OverDepths(
                "fates",
                "What becomes of a change",
                "Of the positions whose tokens differ at a depth, how many end in one decision all "
                "the same. And of the decisions that differ in the end, how many differ from that "
                f"depth on. {BANDS}",
                "share",
                share,
                fates,
                found.blocks,
                levels=() if ends is None else (Level(ends, "end alike, of all positions"),),
            )
        ),
    )
    return Section(
        "changed",
        "Where tokens changed",
        lead,
        figures,
        folded=tuple(_table(one) for one in found.lenses),
        more="Every depth in numbers",
    )


def _curve(lens: LensChange, of: Callable[[DepthChange], Estimate]) -> Curve:
    return Curve(lens.lens, {row.depth: of(row) for row in lens.by_depth}, lens.lens != "raw")


def _table(lens: LensChange) -> Table:
    def difference(name: str) -> Callable[[DepthChange], str]:
        return lambda row: cell(getattr(row, name).difference, MEANS[name].change)

    return table_of(
        f"After − before under the {lens.lens} lens, {size(lens.n, lens.documents)}; the 95 % "
        "intervals hold for all depths at once, but of the two shares of changed positions",
        lens.by_depth,
        {
            "depth": lambda row: named(row.depth),
            "changed": lambda row: cell(row.changed, share),
            "of those, end alike": lambda row: cell(row.reunited, share),
            "of those apart in the end, so far": lambda row: cell(row.parted, share),
        }
        | {f"Δ {one.title.lower()}": difference(name) for name, one in MEANS.items()},
    )


def moved_section(found: LayersComparison) -> Section:
    """The difference of each mean by depth, lens by lens."""
    lead = (
        "After − before at the same positions, each model by its own lens. Where a band leaves "
        "out 0 the change is surely one, at whatever depth one looks."
    )
    return Section(
        "moved",
        "What moved at which depth",
        lead,
        tuple(_moved(found, name) for name in ("accuracy", "nll_nats", "kl_nats", "margin")),
    )


def sides_section(found: LayersComparison) -> Section:
    """Both models by depth, each mean with its interval."""
    lead = (
        "Each model by its own way from the last block to the head. Where bands overlap the "
        "difference may still be told from 0, as both are of the same positions."
    )
    return Section("sides", "Before and after", lead, tuple(_sides(found.own, n) for n in MEANS))


@dataclass(frozen=True)
class Mean:
    """How a mean of a depth is called and written, and how its change is."""

    figure: str
    title: str
    unit: str
    form: Wording
    change: Wording
    change_unit: str


MEANS = {
    "agreement": Mean(
        "agreement", "Decides as its own last depth", "share of positions", share, points, "pp"
    ),
    "accuracy": Mean("accuracy", "Accuracy", "share of positions", share, points, "pp"),
    "nll_nats": Mean("loss", "Loss", "nats", decimal, signed, "nats"),
    "kl_nats": Mean("kl", "KL to its own final distribution", "nats", decimal, signed, "nats"),
    "margin": Mean("margin", "Mean margin", "logits", decimal, signed, "logits"),
    "relative_distance": Mean(
        "scale-free", "Mean scale-free margin", "of the state’s length", decimal, signed, ""
    ),
}
"""The means of ``DepthChange``, by their names there."""


def _moved(found: LayersComparison, name: str) -> Figure:
    mean = MEANS[name]
    return depth_figure(
        OverDepths(
            f"{mean.figure}-change",
            f"{mean.title}, after − before",
            TOGETHER,
            mean.change_unit,
            mean.change,
            tuple(_curve(one, lambda row: getattr(row, name).difference) for one in found.lenses),
            found.blocks,
            levels=(Level(0.0, "no change"),),
        )
    )


def _sides(lens: LensChange, name: str) -> Figure:
    mean = MEANS[name]
    curves = tuple(
        Curve(side, {row.depth: getattr(getattr(row, name), side) for row in lens.by_depth})
        for side in ("before", "after")
    )
    return depth_figure(
        OverDepths(mean.figure, mean.title, BANDS, mean.unit, mean.form, curves, lens.blocks)
    )


def settling_section(settling: SettlingChange) -> Section:
    """Where decisions settle before and after, and whose settle elsewhere."""
    whole = settling.everywhere
    lead = (
        "A decision settles at the first depth from which on the leading token is the model’s own "
        f"final one{', ' * bool(settling.scope)}{settling.scope}: on average at depth "
        f"{full(whole.mean.before, decimal)} before and {full(whole.mean.after, decimal)} after. "
        f"{full(whole.earlier, share)} of positions settle earlier and "
        f"{full(whole.later, share)} later."
    )
    table = table_of(
        f"Settling depths, n = {count(settling.n)}; intervals of differences hold for all depths "
        "at once",
        settling.by_depth,
        {
            "depth": lambda one: str(one.depth),
            "settle there before": lambda one: cell(one.share.before, share),
            "after": lambda one: cell(one.share.after, share),
            "after − before": lambda one: cell(one.share.difference, points),
        },
    )
    spec, seen = settled_bars(
        _bars(settling.by_depth, "after", lambda one: one.share.after),
        _bars(settling.by_depth, "before", lambda one: one.share.before),
    )
    histogram = Figure(
        "settling",
        "Where decisions settle",
        "The share of decisions that settle at each depth. Lines are 95 % intervals over "
        "documents." + ("" if seen else BEYOND),
        draw(spec, "Share of positions that settle at each depth, before and after"),
        (Key("right", "after"), Key("diamond", "before")),
        (table,),
    )
    figures, tables = charts_or_tables(
        (
            _groups("settling-outcome", "By outcome", "outcome", settling.by_outcome),
            _groups("settling-class", "By class of the target", "class", settling.by_class),
            _groups("settling-frequency", "By frequency", "occurrences", settling.by_frequency),
        )
    )
    return Section("settling", "Where decisions settle now", lead, (histogram, *figures), tables)


def _bars(
    found: Sequence[SettledTwice], side: str, of: Callable[[SettledTwice], Estimate]
) -> list[tuple[int, Estimate, str]]:
    return [
        (one.depth, of(one), f"depth {one.depth}: {full(of(one), share)} settle there {side}")
        for one in found
    ]


def _groups(
    name: str, title: str, noun: str, groups: Sequence[SettledGroupChange]
) -> tuple[Figure, int]:
    shown = [one for one in groups if one.mean.difference.value is not None]
    values = [
        (
            one.name,
            one.mean.difference.n,
            one.mean.difference,
            f"{noun} {one.name}, {full(one.share, share)} of positions\n"
            f"settle {full(one.mean.difference, signed, 'blocks')} later",
        )
        for one in shown
    ]
    chart = draw(
        means(values, "settling depth, after − before, blocks", percent=False, zero=True),
        f"Change of the settling depth {title.lower()}",
    )
    caption = (
        "By how many blocks later decisions settle, earlier where below 0. Bars are 95 % "
        "intervals over documents."
    )
    table = table_of(
        f"Change of the settling depth {title.lower()}, in blocks",
        groups,
        {
            noun: lambda one: one.name,
            "share of positions": lambda one: cell(one.share, share),
            "mean before": lambda one: cell(one.mean.before, decimal),
            "mean after": lambda one: cell(one.mean.after, decimal),
            "after − before": lambda one: cell(one.mean.difference, signed),
            "earlier": lambda one: cell(one.earlier, share),
            "later": lambda one: cell(one.later, share),
        },
    )
    return Figure(name, title, caption, chart, (), (table,)), len(shown)


def page_of_run(found: LayersComparison, run: FinishedRun | None, _links: Mapping[str, str]) -> str:
    """The page of two runs of layers."""
    facts: Sequence[tuple[str, str]] = ()
    if run is not None:
        before, after = (Provenance.from_json(run.key[side]) for side in ("before", "after"))
        facts = facts_of_both(before, after, command_of(run))
    names = " → ".join(Path(name).name or name for name in (found.before, found.after))
    return depths_page(found, title=f"How decisions form, {names}", facts=facts)
