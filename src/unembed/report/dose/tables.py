"""The tables of a grid of refined models, in the published form, and its read-outs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unembed.decisions.comparison.summary import BAND_NAMES
from unembed.decisions.tokens import CLASSES, FREQUENCY_NAMES
from unembed.report.dose.charts import Measure, figure_of, points_apart, relative_change, row_name
from unembed.report.parts.parts import Table
from unembed.report.parts.wording import (
    Wording,
    count,
    decimal,
    fine_share,
    full,
    interval,
    point,
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
    return (
        _table(
            "Margins, in logits; α and R² of the gap fit are means over the seeds",
            everything,
            {
                "median": _figure("median_margin", decimal),
                "change": _figure("median_margin_gain", relative_change),
                "scale-free, change": _figure("scale_free_gain", relative_change),
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
                "loss, change": _figure("nll_rise", relative_change),
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
            {
                **{
                    f"{name}{what}": _band(i, what)
                    for i, name in enumerate(BAND_NAMES)
                    for what in ("", " n")
                },
                "overall": _figure("accuracy", fine_share),
            },
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
            {
                **{
                    name: _group("by_frequency", i, "accuracy", fine_share)
                    for i, name in enumerate(FREQUENCY_NAMES)
                },
                "share of net, 100+": _group(
                    "by_frequency", len(FREQUENCY_NAMES) - 1, "share_of_net", fine_share
                ),
            },
        ),
        _table(
            "Net flips by token class, and the structural tokens’ share of the net",
            table.rows,
            {
                **{name: _net(i) for i, name in enumerate(CLASSES)},
                "structural share": _figure("structural_share_of_net", fine_share),
            },
        ),
        _over_control(table.rows),
    )


def read_out_table(rows: Sequence[DoseRow]) -> Table | None:
    """Flips under each disturbance by dose, and their ratio to the starting model's."""
    known = [(row, flips_of(row.read_outs)) for row in rows if row.read_outs is not None]
    if not known:
        return None
    names = list(known[0][1])
    lines = [["start"], *([row_name(row)] for row, _ in known)]
    for name in names:
        lines[0] += [full(known[0][1][name].before, fine_share), "", ""]
        for line, (row, found) in zip(lines[1:], known, strict=True):
            control = flips_of(row.read_outs_over_control)
            over = full(control[name].ratio, decimal) if control else ""
            line += [full(found[name].after, fine_share), full(found[name].ratio, decimal), over]
    return _with_reasons(
        "Flips under a disturbance, over the starting model’s, and over those without a penalty",
        ("dose", *(head for name in names for head in (name, "over start", "over no penalty"))),
        lines,
    )


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
    pairs = dict.fromkeys((one.first, one.second) for one in ours)
    at = next((one.at for one in ours if one.at is not None), None)
    lines = []
    for pair in pairs:
        cells = {one.damage: one.difference for one in ours if (one.first, one.second) == pair}
        numbers = [full(cells[damage], points_apart) for damage in DAMAGES]
        lines.append([f"{pair[0]} − {pair[1]}", *numbers])
    return _with_reasons(
        f"At the same {words}{'' if at is None else f', {percent(at)}'}; loss in % of the start’s",
        ("objectives", *DAMAGES.values()),
        lines,
    )


def dose_cells(measure: Measure, rows: Sequence[DoseRow]) -> Table:
    """One figure by dose, and how far it is from the control's."""
    lines = []
    for row in rows:
        own = figure_of(row, measure)
        more = (
            ""
            if row.over_control is None
            else full(getattr(row.over_control, measure.field), measure.form)
        )
        lines.append([row_name(row), point(own, measure.form), interval(own, measure.form), more])
    return _with_reasons(
        f"{measure.title}, with 95 % intervals",
        ("dose", "value", "95 % interval", "minus no penalty"),
        lines,
    )


def _over_control(rows: Sequence[DoseRow]) -> Table:
    """What the penalty adds to training without one."""
    forms: dict[str, tuple[str, Wording]] = {
        "median margin": ("median_margin_gain", points_apart),
        "scale-free": ("scale_free_gain", points_apart),
        "loss": ("nll_rise", points_apart),
        "accuracy": ("accuracy_change", points_apart),
        "churn": ("churn", points_apart),
        "wrong to right": ("wrong_to_right", points_apart),
        "right to wrong": ("right_to_wrong", points_apart),
    }

    def cell(name: str, form: Wording) -> CellOf:
        return lambda row: full(getattr(row.over_control, name), form)

    return _table(
        "Each dose minus training without a penalty; margins and loss in % of the start’s",
        [row for row in rows if row.over_control is not None],
        {title: cell(name, form) for title, (name, form) in forms.items()},
    )


def _table(caption: str, rows: Sequence[DoseRow], columns: dict[str, CellOf]) -> Table:
    lines = [[row_name(row), *(cell(row) for cell in columns.values())] for row in rows]
    return _with_reasons(caption, ("dose", *columns), lines)


def _with_reasons(caption: str, head: tuple[str, ...], lines: Sequence[Sequence[str]]) -> Table:
    """A table that gives the reasons for what does not exist once, in its caption."""
    lead = "none: "
    reasons = dict.fromkeys(
        cell.removeprefix(lead) for line in lines for cell in line if cell.startswith(lead)
    )
    rows = tuple(
        tuple("none" if cell.startswith(lead) else cell for cell in line) for line in lines
    )
    return Table(f"{caption}; none: {'; '.join(reasons)}" if reasons else caption, head, rows)


def _figure(name: str, form: Wording) -> CellOf:
    return lambda row: full(getattr(row.figures, name), form)


def _counted(name: str) -> CellOf:
    """A share of the positions with the number that it is."""

    def cell(row: DoseRow) -> str:
        estimate: Estimate = getattr(row.figures, name)
        return f"{_number(estimate)}, {full(estimate, fine_share)}"

    return cell


def _number(estimate: Estimate) -> str:
    return count(round((estimate.value or 0.0) * estimate.n)).replace("-", "−")


def _group(kind: str, index: int, name: str, form: Wording) -> CellOf:
    return lambda row: full(getattr(getattr(row, kind)[index], name), form)


def _band(index: int, what: str) -> CellOf:
    if what:
        return lambda row: _number(row.by_band[index].share)
    return _group("by_band", index, "accuracy", fine_share)


def _net(index: int) -> CellOf:
    return lambda row: _number(row.by_class[index].net)


def _plain(value: float | None, form: str) -> str:
    return "none" if value is None else format(value, form)
