"""The verdict on a grid of doses: which penalty costs more at the same gain, and what harms?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unembed.report.parts.wording import (
    capital,
    change,
    count,
    counted,
    listed,
    points,
    share,
    side_of,
    signed,
)
from unembed.report.verdicts.judgement import (
    ACCURACY_LEVEL,
    LOSS_LEVEL,
    Outcome,
    judge,
    outcome,
)
from unembed.report.verdicts.verdict import Verdict
from unembed.stats.forms import FEW_DOCUMENTS, bounded
from unembed.training.doses.dose import Doses
from unembed.training.doses.frontier import DAMAGES, Matched, percent
from unembed.training.doses.records import CONTROL, TEMPERATURE, DoseRow, DoseTable

GAIN = "median_margin_gain"
COSTS = {
    "nll_rise": "raises the loss by {size} more than {less}",
    "right_to_wrong": "turns {size} more decisions from right to wrong than {less}",
    "churn": "changes {size} more decisions than {less}",
}
"""What the dearer of two penalties does, by damage."""

DAMAGE_NAMES = {"nll_rise": "loss", "right_to_wrong": "right to wrong", "churn": "churn"}

OUTCOMES: dict[Outcome, str] = {
    "better": "better",
    "worse": "worse",
    "mixed": "better in one of accuracy and loss, worse in the other",
    "level": "level",
    "close": "too close to call",
    "unknown": "not known without intervals",
}
"""Quality against training without a penalty, in the order of the first point."""

MOST_SEEDS = 10


def of_record(record: Doses) -> Verdict:
    """The verdict on a grid."""
    return verdict(record.heldout)


def verdict(table: DoseTable) -> Verdict:
    """The verdict on the doses of one text; a temperature, which no decision can lose to, is none.

    Penalties are compared two by two where they have gained as much, doses with the training
    without a penalty.
    """
    if not trained(table):
        return Verdict(
            "There is no dose to read: this is training without a penalty alone.",
            "Quality: nothing was held against it.",
            "Found: no dose.",
            "Trust: give objectives and weights above 0.",
            "unembed dose MODEL CORPUS --objectives fisher,margin -o RUN",
        )
    return Verdict(sentence(table), _quality(table), _found(table), _trust(table), _next(table))


def trained(table: DoseTable) -> list[DoseRow]:
    """The doses of a penalty."""
    return [row for row in table.rows if row.objective not in (CONTROL, TEMPERATURE)]


def pairs(table: DoseTable) -> list[Matched]:
    """The comparisons of two penalties at the same median margin."""
    return [
        one
        for one in table.matched
        if one.gain == GAIN and TEMPERATURE not in (one.first, one.second)
    ]


def sentence(table: DoseTable) -> str:
    """Which penalty costs more at the same gain, in the damage that matters most."""
    found = pairs(table)
    if not found:
        return _of_the_largest(trained(table)[-1])
    certain = [one for one in found if side_of(one.difference, 0.0)]
    for damage in ("right_to_wrong", "nll_rise", "churn"):
        ours = [one for one in certain if one.damage == damage]
        if ours:
            largest = max(ours, key=lambda one: abs(one.difference.value or 0.0))
            return f"{_at(largest)}, {costs(largest)}."
    known = [one for one in found if one.difference.value is not None]
    if not known:
        return f"{capital(found[0].verdict)}."
    if all(one.difference.low is None for one in known):
        return f"{_at(known[0])}, which penalty costs least cannot be told without intervals."
    names = listed(list(dict.fromkeys(name for one in known for name in (one.first, one.second))))
    return f"{_at(known[0])}, {names} are not told apart in what they cost."


def costs(one: Matched) -> str:
    """``margin turns 0.12 pp [0.05, 0.20] more decisions from right to wrong than fisher``."""
    more, less, apart = one.first, one.second, one.difference
    if (apart.value or 0.0) < 0:
        more, less = less, more
        low, high = (None if end is None else -end for end in (apart.high, apart.low))
        apart = replace(apart, value=-(apart.value or 0.0), low=low, high=high)
    form = replace(change if one.damage == "nll_rise" else points, signed=False)
    return f"{more} {COSTS[one.damage].format(size=bounded(apart, form), less=less)}"


def quality_of(row: DoseRow) -> Outcome:
    """A dose against the training without a penalty, in accuracy and loss."""
    over = row.over_control
    if over is None:
        return "unknown"
    return outcome(
        judge(over.accuracy_change, points, ACCURACY_LEVEL),
        judge(over.nll_change, signed, LOSS_LEVEL),
    )


def _at(one: Matched) -> str:
    return f"At the same median margin ({percent(one.at or 0.0)})"


def _of_the_largest(row: DoseRow) -> str:
    """What the largest weight of the only objective did."""
    gain = f"{capital(row.name)} changes the median margin by "
    gain += bounded(row.figures.median_margin_gain, change)
    over = row.over_control
    if over is None:
        return f"{gain}; no training without a penalty was measured beside it."
    by = bounded(over.median_margin_gain, points)
    than = f"{gain}, which differs from training without a penalty by {by}"
    return f"{than}; against that, quality is {OUTCOMES[quality_of(row)]}."


def _quality(table: DoseTable) -> str:
    doses = trained(table)
    if all(row.over_control is None for row in doses):
        return "Quality: there is no training without a penalty to hold the doses against."
    by_outcome: dict[Outcome, list[str]] = {one: [] for one in OUTCOMES}
    for row in doses:
        by_outcome[quality_of(row)].append(row.name)
    told = [
        f"{OUTCOMES[one]}: {_some(names, len(doses))}" for one, names in by_outcome.items() if names
    ]
    return f"Quality against training without a penalty: {'; '.join(told)}."


def _some(names: Sequence[str], everything: int) -> str:
    if len(names) == everything > 1:
        return f"all {count(everything)} doses"
    return listed(names) if len(names) <= 3 else f"{listed(names[:2])}, and {len(names) - 2} others"


def _found(table: DoseTable) -> str:
    """Which dose gained most, and what two penalties differ in at the same gain."""
    largest = max(trained(table), key=lambda row: row.figures.median_margin_gain.value or 0.0)
    figures = largest.figures
    words = (
        f"Found: the largest gain measured is {bounded(figures.median_margin_gain, change)} median "
        f"margin, of {largest.name}, with {bounded(figures.right_to_wrong, share)} of decisions "
        "from right to wrong."
    )
    found = [one for one in pairs(table) if one.difference.low is not None]
    if not found:
        return words
    told, same = [], []
    for damage in DAMAGES:
        ours = [one for one in found if one.damage == damage]
        certain = [one for one in ours if side_of(one.difference, 0.0)]
        if certain:
            told.append(f"in {DAMAGE_NAMES[damage]}, {_dearer(certain)}")
        elif ours:
            same.append(DAMAGE_NAMES[damage])
    if same:
        told.append(f"in {listed(same)}, nothing is told apart")
    return f"{words} At the same median margin: {'; '.join(told)}."


def _dearer(certain: Sequence[Matched]) -> str:
    """``margin costs more than fisher and entropy``."""
    over: dict[str, list[str]] = {}
    for one in certain:
        more, less = one.first, one.second
        if (one.difference.value or 0.0) < 0:
            more, less = less, more
        over.setdefault(more, []).append(less)
    return listed([f"{more} costs more than {listed(less)}" for more, less in over.items()])


def _trust(table: DoseTable) -> str:
    of = counted(table.n_documents, "held-out document")
    if table.n_documents < 2:
        return f"Trust: only {of}. Without intervals, which take 2, nothing is told from chance."
    if table.n_documents < FEW_DOCUMENTS:
        return (
            f"Trust: only {of}. Intervals of fewer than {FEW_DOCUMENTS} are rough: give more text."
        )
    seeds = _seeds(table)
    if seeds < 2:
        return (
            f"Trust: intervals hold the spread between {of}, but not that between seeds: another "
            "seed may say otherwise."
        )
    words = f"Trust: intervals hold the spread between {of} and between {count(seeds)} seeds."
    made = sum(one.difference.low is not None for one in pairs(table))
    if made < 2:
        return words
    return f"{words} Of {count(made)} comparisons, one in twenty looks told apart by chance alone."


def _next(table: DoseTable) -> str:
    doses, found = trained(table), pairs(table)
    names = list(dict.fromkeys(row.objective for row in doses))
    asked = f"--objectives {','.join(names)}"
    if table.n_documents < FEW_DOCUMENTS:
        return f"unembed dose MODEL MORE_TEXT {asked} -o RUN"
    if found and all(one.at is None for one in found):
        return f"unembed dose MODEL CORPUS {asked} {_more_doses(doses)} -o RUN"
    certain = [one for one in found if side_of(one.difference, 0.0)]
    seeds = _seeds(table)
    if seeds < 2 or (found and not certain and seeds < MOST_SEEDS):
        more = min(MOST_SEEDS, max(3, 2 * seeds))
        return f"unembed dose MODEL CORPUS {asked} --seeds {more} -o RUN"
    row = _cheapest(doses, certain)
    expands = row.objective == "fisher-expand"
    name = "fisher --direction expand" if expands else row.objective
    dosed = "--weight" if row.gradient_share is None else "--gradient-share"
    return f"unembed refine MODEL CORPUS --objective {name} {dosed} {row.dose:g} --control -o RUN"


def _cheapest(doses: Sequence[DoseRow], certain: Sequence[Matched]) -> DoseRow:
    """Of the penalty that is surely dearer than the fewest others, the largest dose that does no
    harm, or else its smallest.
    """
    dearer = [one.first if (one.difference.value or 0.0) > 0 else one.second for one in certain]
    names = list(dict.fromkeys(row.objective for row in doses))
    best = min(names, key=dearer.count)
    ours = [row for row in doses if row.objective == best]
    unharmed = [row for row in ours if quality_of(row) not in ("worse", "mixed")]
    return (unharmed or ours[:1])[-1]


def _more_doses(doses: Sequence[DoseRow]) -> str:
    """The weights of every penalty, and one twice as large of the one that gained least.

    Shares of the gradient are those of all penalties, and so is the larger one.
    """
    if doses[0].gradient_share is not None:
        shares = sorted({row.dose for row in doses})
        return f"--gradient-shares {','.join(f'{one:g}' for one in [*shares, 2 * shares[-1]])}"
    weights: dict[str, list[float]] = {}
    reached: dict[str, float] = {}
    for row in doses:
        gain = row.figures.median_margin_gain.value or 0.0
        weights.setdefault(row.objective, []).append(row.weight)
        reached[row.objective] = max(gain, reached.get(row.objective, gain))
    least = min(reached, key=lambda name: reached[name])
    weights[least].append(2 * max(weights[least]))
    each = ";".join(
        f"{name}={','.join(f'{weight:g}' for weight in some)}" for name, some in weights.items()
    )
    return f"--weights '{each}'"


def _seeds(table: DoseTable) -> int:
    return min((len(row.seeds) for row in trained(table)), default=0)
