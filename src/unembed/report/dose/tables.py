"""The tables of a grid of refined models, in the published form, and its read-outs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from unembed.decisions.comparison.summary import BAND_NAMES
from unembed.decisions.tokens import CLASSES, FREQUENCY_NAMES
from unembed.report.dose.charts import Measure, figure_of
from unembed.report.parts.parts import Table, table_of
from unembed.report.parts.wording import (
    Wording,
    cell,
    change,
    count,
    decimal,
    fine_part,
    fine_share,
    interval_cell,
    point,
    points,
    signed,
)
from unembed.stats.estimate import Estimate
from unembed.training.doses.frontier import DAMAGES, Matched, percent
from unembed.training.doses.records import DoseRow, DoseTable
from unembed.training.robustness.comparison import RobustnessComparison

CellOf = Callable[[DoseRow], str]


def published_tables(table: DoseTable) -> tuple[Table, ...]:
    """The tables of a text: margins, churn, rotation, bands, expansion, frequency, classes."""
    everything = [table.start, *table.rows]
    bands = _accuracies("by_band", BAND_NAMES)
    sizes = _numbers("by_band", [f"{name} n" for name in BAND_NAMES], "share")
    return (
        _table(
            "Margins, in logits; α and R² of the gap fit are means over the seeds",
            everything,
            {
                "median": _figure("median_margin", decimal),
                "change": _figure("median_margin_gain", change),
                "scale-free, change": _figure("scale_free_gain", change),
                "below 0.5": _figure("below_half", fine_share),
                "α": lambda row: _plain(row.alpha, ".3f"),
                "R²": lambda row: _plain(row.r_squared, ".4f"),
            },
        ),
        _table(
            "Churn and flips: share of the positions, and their number, the mean over the seeds",
            table.rows,
            {
                "churn": _figure("churn", fine_share),
                "wrong to right": _counted("wrong_to_right"),
                "right to wrong": _counted("right_to_wrong"),
                "ratio": _figure("flip_ratio", decimal),
                "net": _counted("accuracy_change"),
                "loss, nats": _figure("nll_change", signed),
                "loss, change": _figure("nll_rise", change),
            },
        ),
        _table(
            "Runner-up rotation: same top-1, another top-2",
            table.rows,
            {
                "rotated": _figure("rotation", fine_share),
                "wider": _figure("rotated_wider", fine_share),
                "mean Δ margin": _figure("rotated_change", signed),
            },
        ),
        _table(
            "Accuracy by margin band after, and positions in it",
            everything,
            dict(
                column for both in zip(bands.items(), sizes.items(), strict=True) for column in both
            )
            | {"overall": _figure("accuracy", fine_share)},
        ),
        _table(
            "Expansion: change of the margin at each position, in logits",
            table.rows,
            {
                "wider": _figure("wider", fine_share),
                "mean": _figure("mean_change", signed),
                "median": _figure("median_change", signed),
            },
        ),
        _table(
            "Accuracy by how often the target occurs, and the share of the net at 100 and more",
            everything,
            _accuracies("by_frequency", FREQUENCY_NAMES)
            | {
                "share of net, 100+": lambda row: cell(row.by_frequency[-1].share_of_net, fine_part)
            },
        ),
        _table(
            "Net flips by token class, and the structural tokens’ share of the net",
            table.rows,
            _numbers("by_class", CLASSES, "net")
            | {"structural share": _figure("structural_share_of_net", fine_part)},
        ),
        _table(
            "Each dose minus training without a penalty; margins and loss in % of the start’s",
            [row for row in table.rows if row.over_control is not None],
            {
                "median margin": _over_control("median_margin_gain"),
                "scale-free": _over_control("scale_free_gain"),
                "loss": _over_control("nll_rise"),
                "accuracy": _over_control("accuracy_change"),
                "churn": _over_control("churn"),
                "wrong to right": _over_control("wrong_to_right"),
                "right to wrong": _over_control("right_to_wrong"),
            },
        ),
    )


def shares_table(rows: Sequence[DoseRow]) -> Table | None:
    """The weight that each share of the loss's gradient took; None where weights were set."""
    shared = [row for row in rows if row.gradient_share is not None]
    if not shared:
        return None
    return _table(
        "The penalty’s share of the loss’s gradient, and the weight that it took: the mean over "
        "steps and seeds",
        shared,
        {
            "share": lambda row: f"{row.gradient_share:g}",
            "weight": lambda row: f"{row.weight:.4g}",
        },
    )


def read_out_table(rows: Sequence[DoseRow]) -> Table | None:
    """Flips under each disturbance by dose, and their ratio to the starting model's."""
    known = [row for row in rows if row.read_outs is not None]
    if not known:
        return None
    start = flips_of(known[0].read_outs)
    head, lines = ["dose"], [["start"], *([row.name] for row in known)]
    for name, flips in start.items():
        head += [name, "over start", "over no penalty"]
        lines[0] += [cell(flips.before, fine_share), "", ""]
        for line, row in zip(lines[1:], known, strict=True):
            own, control = flips_of(row.read_outs)[name], flips_of(row.read_outs_over_control)
            over = cell(control[name].ratio, decimal) if control else ""
            line += [cell(own.after, fine_share), cell(own.ratio, decimal), over]
    caption = (
        "Flips under a disturbance, over the starting model’s, and over those without a penalty"
    )
    return _with_reasons(Table(caption, tuple(head), tuple(map(tuple, lines))))


@dataclass(frozen=True)
class FlipsUnder:
    """Flips under one disturbance before and after, and their ratio."""

    before: Estimate
    after: Estimate
    ratio: Estimate


def flips_of(found: RobustnessComparison | None) -> dict[str, FlipsUnder]:
    """What each disturbance flips, by its name; empty where none was measured."""
    if found is None:
        return {}
    named = {one.name: one for one in found.changes}
    noisy = {f"noise {one.deviation:g}": one for one in found.noise}
    return {
        name: FlipsUnder(one.flips.before, one.flips.after, one.ratio)
        for name, one in (named | noisy).items()
    }


def matched_table(words: str, matched: Sequence[Matched], gain: str) -> Table:
    """Every two objectives at one gain: the difference in each damage, first minus second."""
    ours = [one for one in matched if one.gain == gain]
    pairs: dict[str, dict[str, Estimate]] = {}
    for one in ours:
        pairs.setdefault(f"{one.first} − {one.second}", {})[one.damage] = one.difference
    rows = tuple(
        (pair, *(cell(cells[damage], points) for damage in DAMAGES))
        for pair, cells in pairs.items()
    )
    at = next((f", {percent(one.at)}" for one in ours if one.at is not None), "")
    caption = f"At the same {words}{at}; loss in % of the start’s"
    return _with_reasons(Table(caption, ("objectives", *DAMAGES.values()), rows))


def dose_cells(measure: Measure, rows: Sequence[DoseRow]) -> Table:
    """One figure by dose, and how far it is from the control's."""
    field, form = measure.field, measure.form
    return _table(
        f"{measure.title}, with 95 % intervals",
        rows,
        {
            "value": lambda row: point(figure_of(row, measure), form),
            "95 % interval": lambda row: interval_cell(figure_of(row, measure), form),
            "minus no penalty": lambda row: (
                cell(getattr(row.over_control, field), form) if row.over_control else ""
            ),
        },
    )


def _table(caption: str, rows: Sequence[DoseRow], columns: dict[str, CellOf]) -> Table:
    return _with_reasons(table_of(caption, rows, {"dose": attrgetter("name")} | columns))


def _with_reasons(table: Table) -> Table:
    """The table with the reasons for what does not exist once, in its caption."""
    lead = "none: "
    reasons = dict.fromkeys(
        cell.removeprefix(lead) for row in table.rows for cell in row if cell.startswith(lead)
    )
    if not reasons:
        return table
    rows = [["none" if cell.startswith(lead) else cell for cell in row] for row in table.rows]
    caption = f"{table.caption}; none: {'; '.join(reasons)}"
    return replace(table, caption=caption, rows=tuple(map(tuple, rows)))


def _figure(name: str, form: Wording) -> CellOf:
    return lambda row: cell(getattr(row.figures, name), form)


def _over_control(name: str) -> CellOf:
    return lambda row: cell(getattr(row.over_control, name), points)


def _counted(name: str) -> CellOf:
    """A share of the positions with the number that it is."""

    def words(row: DoseRow) -> str:
        estimate: Estimate = getattr(row.figures, name)
        return f"{_number(estimate)}, {cell(estimate, fine_share)}"

    return words


def _accuracies(groups: str, names: Sequence[str]) -> dict[str, CellOf]:
    """The accuracy of each group, in the order of their names."""

    def column(index: int) -> CellOf:
        return lambda row: cell(getattr(row, groups)[index].accuracy, fine_share)

    return {name: column(index) for index, name in enumerate(names)}


def _numbers(groups: str, names: Sequence[str], field: str) -> dict[str, CellOf]:
    """A share of each group as the number of positions that it is."""

    def column(index: int) -> CellOf:
        return lambda row: _number(getattr(getattr(row, groups)[index], field))

    return {name: column(index) for index, name in enumerate(names)}


def _number(estimate: Estimate) -> str:
    return count(round((estimate.value or 0.0) * estimate.n)).replace("-", "−")


def _plain(value: float | None, form: str) -> str:
    return "none" if value is None else format(value, form)
