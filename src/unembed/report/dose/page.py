"""The page of one grid of refinements: nothing is computed, nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unembed.report.dose import charts
from unembed.report.dose.charts import Measure
from unembed.report.dose.tables import (
    dose_cells,
    flips_of,
    matched_table,
    published_tables,
    read_out_table,
    shares_table,
)
from unembed.report.parts.drawing import draw
from unembed.report.parts.facts import facts_of
from unembed.report.parts.page import template
from unembed.report.parts.parts import Figure, Key, Section, Table
from unembed.report.parts.wording import (
    capital,
    change,
    counted,
    decimal,
    fine_share,
    points,
    side_of,
    signed,
    size,
)
from unembed.report.refinement.page import recipe_facts
from unembed.report.verdicts.dose import verdict
from unembed.runs.manifest import FinishedRun, read_run
from unembed.runs.provenance import Provenance
from unembed.training.doses.dose import Doses
from unembed.training.doses.frontier import DAMAGES, GAINS, Matched, percent
from unembed.training.doses.records import CONTROL, TEMPERATURE, DoseRow, DoseTable

MARGIN = Measure("median_margin_gain", "change of the median margin", change)
SCALE_FREE = Measure("scale_free_gain", "change of the median scale-free margin", change)
GAINED = (MARGIN, SCALE_FREE)
DAMAGED = (
    Measure("nll_rise", "rise of the loss", change),
    Measure("right_to_wrong", "right to wrong, share of positions", fine_share),
    Measure("churn", "churn, share of positions", fine_share),
)
DOSED = (
    MARGIN,
    SCALE_FREE,
    Measure("below_half", "margins below 0.5 logits", fine_share),
    Measure("nll_change", "change of the loss, nats", signed),
    Measure("accuracy_change", "change of accuracy", points),
    Measure("churn", "churn, share of positions", fine_share),
    Measure("right_to_wrong", "right to wrong, share of positions", fine_share),
    Measure("wrong_to_right", "wrong to right, share of positions", fine_share),
    Measure("flip_ratio", "wrong to right over right to wrong", decimal),
    Measure("rotation", "runner-up rotation, share of positions", fine_share),
)


@dataclass(frozen=True)
class Verdicts:
    """What one damage costs each objective at the common gain.

    Each sentence stands with whether the interval of its difference leaves out 0.
    """

    damage: str
    sentences: tuple[tuple[str, bool], ...]


def dose_page(
    title: str,
    heldout: DoseTable,
    training: DoseTable,
    facts: Sequence[tuple[str, str]],
    notes: Sequence[str] = (),
) -> str:
    """The page of a grid: verdicts at the same gain, frontier, dose curves, read-outs, tables.

    The charts are of the held-out text, the tables of both. ``notes`` follow those of the tables,
    such as points that could not be trained. Otherwise as ``audit_page``.

    Raises ``ReportUnavailable`` where the extra ``plot`` is not installed.
    """
    return template("dose").render(
        title=title,
        verdict=verdict(heldout),
        extent=extent(heldout, training),
        verdicts=verdicts(heldout),
        verdicts_lead=verdicts_lead(heldout),
        matched=matched_tables(heldout),
        sections=_sections(heldout),
        heldout=published_tables(heldout),
        training=(*matched_tables(training), *published_tables(training)),
        facts=facts,
        notes=tuple(dict.fromkeys((*heldout.notes, *training.notes, *notes))),
    )


def sections_of(doses: Doses) -> tuple[Section, ...]:
    """Every figure and table of the page: held out, and the tables of the training text."""
    heldout, training = (
        Section(name, title, "", (), (*matched_tables(table), *published_tables(table)))
        for name, title, table in (
            ("heldout", "The doses in numbers, held out", doses.heldout),
            ("training", "The doses in numbers, on the training text", doses.training),
        )
    )
    return (*_sections(doses.heldout), heldout, training)


def _sections(heldout: DoseTable) -> tuple[Section, ...]:
    found = (frontier_section(heldout), doses_section(heldout), read_outs_section(heldout))
    return tuple(section for section in found if section is not None)


def extent(heldout: DoseTable, training: DoseTable) -> str:
    """What was trained, and on how much it was measured."""
    rows = [row for row in heldout.rows if row.objective not in (CONTROL, TEMPERATURE)]
    objectives = len({row.objective for row in rows})
    seeds = sorted({len(row.seeds) for row in heldout.rows if row.seeds}) or [0]
    each = " to ".join(str(count) for count in dict.fromkeys((seeds[0], seeds[-1])))
    words = (
        f"{counted(len(rows), 'dose')} of {counted(objectives, 'objective')}, {each} "
        f"seed{'s' * (each != '1')} each, beside training without a penalty and the starting "
        f"model’s logits scaled. Held out: {_size(heldout)}; training text: {_size(training)}."
    )
    if seeds[0] == 1:
        words += " With one seed, intervals are over documents alone."
    if heldout.n_documents < 2:
        words += " There are no intervals, which take two documents."
    return words


def verdicts(table: DoseTable) -> tuple[Verdicts, ...]:
    """Every two objectives at the same median margin, damage by damage."""
    found = []
    for damage, words in DAMAGES.items():
        ours = _pairs(table, "median_margin_gain", damage)
        told = ((capital(_bare(one)) + ".", side_of(one.difference, 0.0) != 0) for one in ours)
        if ours:
            found.append(Verdicts(capital(words), tuple(told)))
    return tuple(found)


def verdicts_lead(table: DoseTable) -> str:
    """At which gain the verdicts are, and how to take them."""
    at = _common_gain(table, "median_margin_gain")
    if at is None:
        return "The objectives have no gain in common: each table row below says which falls short."
    count = sum(one.difference.low is not None for one in table.matched)
    words = (
        f"What each objective costs held out where it has gained {percent(at)} of the median "
        "margin, interpolated along its doses."
    )
    if count:
        words += (
            f" Intervals hold documents and seeds; {counted(count, 'comparison')} were made, of "
            "which one in twenty would leave out 0 by chance alone."
        )
    return words


def matched_tables(table: DoseTable) -> tuple[Table, ...]:
    """Every comparison at the same gain, with the temperature control too."""
    return tuple(
        matched_table(words, table.matched, gain)
        for gain, words in GAINS.items()
        if any(one.gain == gain for one in table.matched)
    )


def frontier_section(table: DoseTable) -> Section:
    """Damage against gain, one small chart for each two measures."""
    figures = []
    for damage in DAMAGED:
        for gain in GAINED:
            at = _common_gain(table, gain.field)
            spec = charts.frontier(table.rows, gain, damage, at)
            figures.append(
                Figure(
                    f"{damage.field}-{gain.field}".replace("_", "-"),
                    f"{capital(damage.title.partition(',')[0])}, {GAINS[gain.field]}",
                    "" if at is None else f"The dashed line is the common gain, {percent(at)}.",
                    draw(spec, f"{damage.title} against {gain.title}, by objective"),
                    keys(table.rows),
                )
            )
    return Section(
        "frontier",
        "Damage against gain",
        "Held out. Lower and further right is better. Each point is a dose with its 95 % "
        "intervals, faint ones its seeds; lines go from the control, without a penalty, through "
        "rising doses. Scaling the logits widens every margin and moves no decision: what an "
        "objective shows that this shows too is sharpening.",
        tuple(figures),
    )


def doses_section(table: DoseTable) -> Section:
    """Each figure against the weight, or the share of the loss's gradient."""
    trained = [row for row in table.rows if row.objective != TEMPERATURE]

    figures = []
    for measure in DOSED:
        found = [(row, charts.figure_of(row, measure)) for row in trained]
        if any(one.value is not None for _, one in found):
            figures.append(
                Figure(
                    f"dose-{measure.field}".replace("_", "-"),
                    capital(measure.title.partition(",")[0]),
                    "",
                    draw(charts.doses(found, measure), f"{measure.title} against the dose"),
                    keys(trained),
                    (dose_cells(measure, trained),),
                )
            )
    words = (
        "Held out, against the starting model. A weight of 0 is training without a penalty, which "
        "every objective starts from. Points at one weight are set side by side."
    )
    taken = shares_table(trained)
    if taken is not None:
        words = (
            "Held out, against the starting model. A dose is the penalty’s share of the loss’s "
            "gradient, for which the weight was chosen anew at every step; a share of 0 is "
            "training without a penalty, which every objective starts from. Points at one share "
            "are set side by side."
        )
    tables = () if taken is None else (taken,)
    return Section("doses", "Dose and response", words, tuple(figures), tables)


def read_outs_section(table: DoseTable) -> Section | None:
    """What disturbances do to the decisions of each dose; None where they were not measured."""
    numbers = read_out_table(table.rows)
    if numbers is None:
        return None
    known = [row for row in table.rows if row.read_outs is not None]

    over_start = Measure("ratio", "flips over the starting model’s", decimal)
    figures = []
    for number, name in enumerate(flips_of(known[0].read_outs)):
        found = [(row, flips_of(row.read_outs)[name].ratio) for row in known]
        if any(ratio.value is not None for _, ratio in found):
            words = f"Flips under {name}, over those of the starting model, against the dose"
            chart = draw(charts.doses(found, over_start), words)
            title = f"Flips under {name}"
            figures.append(Figure(f"read-out-{number}", title, "", chart, keys(known)))
    return Section(
        "read-outs",
        "Does it hold where it is used",
        "Held out. Decisions that change when the model’s weights are rounded or noise is added to "
        "its logits, over those of the starting model under the same disturbance: below 1 the dose "
        "made them more robust.",
        tuple(figures),
        (numbers,),
    )


def keys(rows: Sequence[DoseRow]) -> tuple[Key, ...]:
    """One key for each objective."""
    names = dict.fromkeys(row.objective for row in rows)
    words = {CONTROL: "no penalty", TEMPERATURE: "scaled logits"}
    return tuple(Key(f"dose-{name}", words.get(name, name)) for name in names)


def _pairs(table: DoseTable, gain: str, damage: str) -> list[Matched]:
    """The comparisons of trained objectives; of one alone, that with the temperature."""
    ours = [one for one in table.matched if (one.gain, one.damage) == (gain, damage)]
    trained = [one for one in ours if TEMPERATURE not in (one.first, one.second)]
    return trained or ours


def _common_gain(table: DoseTable, gain: str) -> float | None:
    """Where the objectives are compared; None where no two reach the same gain."""
    found = (one.at for one in table.matched if one.gain == gain and one.at is not None)
    return next(found, None)


def _bare(one: Matched) -> str:
    """The verdict without where it holds."""
    if one.at is None:
        return one.verdict
    return one.verdict.removeprefix(f"at {percent(one.at)} {GAINS[one.gain]}, ")


def _size(table: DoseTable) -> str:
    words = size(table.n_positions, table.n_documents)
    if table.n_nonfinite:
        words += f" ({counted(table.n_nonfinite, 'position')}, not finite, left out)"
    return words


def dose_facts(key: Mapping[str, Any], doses: Doses) -> list[tuple[str, str]]:
    """Which doses were set, and how much was read to measure them."""
    shares, weights = key.get("gradient_shares"), key["weights"] or {}
    if shares:
        found = [("shares of the loss’s gradient", ", ".join(f"{one:g}" for one in shares))]
    else:
        each = (f"{name} {', '.join(f'{w:g}' for w in some)}" for name, some in weights.items())
        found = [("weights", "; ".join(each))]
    if doses.measured is not None:
        found.append(("measured", doses.measured.words))
    return found


def page_of_run(doses: Doses, run: FinishedRun | None, _links: Mapping[str, str]) -> str:
    """The page of a grid."""
    notes = [f"{name} could not be trained: {reason}." for name, reason in doses.failed.items()]
    if run is None:
        return dose_page("A model, refined by dose", doses.heldout, doses.training, (), notes)
    start = Provenance.from_json(read_run(run.folder / "start" / "heldout").key)
    recipe = run.key["recipe"]
    own = ("objective", "weight", "gradient_share", "seed", "audit_positions")
    shared = {name: recipe[name] for name in recipe if name not in own}
    facts = [*dose_facts(run.key, doses), *recipe_facts(shared), *facts_of(start, run.command)]
    title = f"{Path(start.model).name}, refined by dose"
    return dose_page(title, doses.heldout, doses.training, facts, notes)
