"""The page of alignments along a network: where tasks are alike, and what counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from unembed.report.layers.by_depth import Curve, Level, OverDepths, depth_figure
from unembed.report.network.charts import cells_map, parts_chart
from unembed.report.parts.drawing import draw
from unembed.report.parts.facts import command_of, kept_facts, with_command
from unembed.report.parts.page import template
from unembed.report.parts.parts import Card, Figure, Key, Section, Table, card, table_of
from unembed.report.parts.wording import cell, count, counted, full, known, possible_part
from unembed.report.verdicts.network import task_pair, verdict
from unembed.report.verdicts.samples import OK, doubted_notes
from unembed.runs.manifest import FinishedRun
from unembed.signatures.network.align import whole_parts
from unembed.signatures.network.identities import alignment_of_blocks
from unembed.signatures.network.modules import DEPTH, HEAD, KIND
from unembed.signatures.network.names import BLOCKS, FULL, place_words
from unembed.signatures.network.records import NetworkAlignments, PartAlignments, joint_of
from unembed.signatures.network.signature import module_part
from unembed.stats.estimate import Estimate
from unembed.stats.forms import cosine, part, three, two

MOST_PAIRS = 24
"""Pairs of a map; of more, half are the most and half the least alike."""
AXIS = "depth: number of the block"
BANDS = "Bands are 95 % intervals of sketch and of samples together, of each depth by itself."

Pair = tuple[int, int]


def network_page(
    found: NetworkAlignments,
    *,
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    command: str = "",
) -> str:
    """The page of alignments along a network: verdict, depths, kinds, what counts, tasks.

    ``facts`` are label and value of what produced the numbers, to which ``command`` is added. One
    file that loads nothing; the same arguments give the same page, byte for byte.
    """
    return template("network").render(
        title=title,
        verdict=verdict(found),
        extent=extent(found),
        notes=notes(found),
        cards=cards(found),
        sections=sections_of(found),
        facts=with_command(facts, command),
    )


def sections_of(found: NetworkAlignments) -> tuple[Section, ...]:
    """Every figure and table of the page."""
    every = (
        along_section(found),
        maps_section(found),
        counts_section(found),
        direction_section(found),
        tasks_section(found),
    )
    return tuple(section for section in every if section is not None)


def extent(found: NetworkAlignments) -> str:
    """How much was compared, and how."""
    samples = sum(task.samples for task in found.tasks)
    debiased = "debiased" if found.debiased else "not debiased"
    return (
        f"{counted(len(found.tasks), 'task')}, {count(samples)} samples, each one {found.unit}; "
        f"{counted(len(found.modules), 'module')}, {found.precision} backward pass. "
        f"Fisher: empirical, {debiased}. Method: {found.method}."
    )


def notes(found: NetworkAlignments) -> tuple[str, ...]:
    """What a reader must know before trusting a number."""
    said = doubted_notes([(task.name, task.status) for task in found.tasks], "task")
    if found.unit == "token":
        said.append(
            "A sample is a position: below the head its error carries the losses of later tokens "
            "too, so that it is not the gradient of one token’s loss."
        )
    if found.precision != "float32":
        said.append(
            f"The backward pass was {found.precision}, whose rounding no interval here holds."
        )
    return tuple(said)


def cards(found: NetworkAlignments) -> tuple[Card, ...]:
    """The headline numbers: of the head, of all modules, of the whole."""
    pair = only_pair(found)
    labels = {HEAD: "Head", BLOCKS: "All modules, one by one", FULL: "Whole network as one"}
    n = sum(task.samples for task in found.tasks)
    return tuple(
        card(label, replace(found.estimate(name, pair), n=n), cosine)
        for name, label in labels.items()
        if found.has(name)
    )


def only_pair(found: NetworkAlignments) -> Pair | None:
    """The pair where there is but one; None stands for the mean over all pairs."""
    return (0, 1) if len(found.tasks) == 2 else None


def along_section(found: NetworkAlignments) -> Section:
    """The joint at each depth, and of the parts that are of all of it."""
    figures = [*_along_figure(found), _whole_figure(found)]
    lead = (
        "Every linear module of the network has a Fisher of its own: which directions of its "
        "weights a task’s gradients point along. At depth N it is that of the modules of block N, "
        "each by itself."
    )
    return Section("along", "Along the network", lead, tuple(figures))


def _along_figure(found: NetworkAlignments) -> list[Figure]:
    depths = _depths(found)
    if not depths:
        return []
    pair = only_pair(found)
    if pair is not None:
        i, j = pair
        curves = [
            Curve(task_pair(found, pair), _at(found, pair)),
            *(
                Curve(f"{found.names[task]}, its two halves", _halves(found, task), made_up=True)
                for task in (i, j)
            ),
        ]
        control = (
            " A task’s two halves of its documents would be alike to 1 without noise: how far they "
            "are from it is what half of the documents leave uncertain."
        )
    else:
        ranked = _ranked(found)
        curves = [Curve(f"mean of {counted(len(found.pairs), 'pair')}", _at(found, None))]
        if ranked:
            ends = dict.fromkeys((ranked[0], ranked[-1]))
            curves += [Curve(task_pair(found, one), _at(found, one)) for one in ends]
        control = " The pairs are those most and least alike in all modules."
    head = found.estimate(HEAD, pair) if HEAD in found.places else None
    level = () if head is None or head.value is None else (Level(head.value, "the head"),)
    shown = OverDepths(
        "along",
        "Joint by depth",
        BANDS + control,
        "joint",
        three,
        tuple(curves),
        max(depths),
        zero=True,
        levels=level,
        axis=AXIS,
    )
    return [depth_figure(shown)]


def _whole_figure(found: NetworkAlignments) -> Figure:
    pair = only_pair(found)
    order = [
        *(name for name in (HEAD, BLOCKS, FULL) if found.has(name)),
        *(name for name in whole_parts(found) if name.startswith(KIND)),
    ]
    values = [
        (place_words(name), shown, f"{place_words(name)}\njoint {full(shown, cosine)}")
        for name in order
        if (shown := possible_part(found.estimate(name, pair), cosine)).value is not None
    ]
    table = table_of(
        f"Joint {_of(found)}, by part of the network",
        order,
        {
            "part": place_words,
            "joint": lambda name: cell(found.estimate(name, pair), cosine),
            "modules": lambda name: count(_modules_in(found, name)),
        },
    )
    return Figure(
        "whole",
        "Joint by part",
        "All modules: each module’s directions by itself (blocks). The whole network: directions "
        "in all weights at once, which count what happens together in two modules (full). "
        "Others: the modules of one kind, of all depths.",
        draw(parts_chart(values, f"joint {_of(found)}"), "Joint by part"),
        (),
        (table,),
    )


def _modules_in(found: NetworkAlignments, name: str) -> int:
    if name in (BLOCKS, FULL):
        return len(found.modules)
    if name == HEAD:
        return 1
    return sum(KIND + module.kind == name for module in found.modules if module.name != HEAD)


def maps_section(found: NetworkAlignments) -> Section | None:
    """Every kind of module at every depth, and of three tasks or more every pair at every place."""
    figures = [*_modules_figure(found), *_pairs_figure(found)]
    if not figures:
        return None
    return Section("where", "Where they are alike", "", tuple(figures))


def _modules_figure(found: NetworkAlignments) -> list[Figure]:
    pair = only_pair(found)
    kinds = list(dict.fromkeys(m.kind for m in found.modules if m.depth is not None))
    depths = [str(depth) for depth in _depths(found)]
    by_cell: dict[tuple[str, str], list[str]] = {}
    for module in found.modules:
        if module.depth is not None and found.has(module_part(module)):
            by_cell.setdefault((module.kind, str(module.depth)), []).append(module_part(module))
    # Two modules of one kind at one depth have no joint of their own: they are in the table alone.
    values = {at: found.estimate(some[0], pair) for at, some in by_cell.items() if len(some) == 1}
    if not values:
        return []
    parts = [name for some in by_cell.values() for name in some]
    table = table_of(
        f"Joint {_of(found)}, by module",
        parts,
        {
            "module": place_words,
            "joint": lambda name: cell(found.estimate(name, pair), cosine),
        },
    )
    chart = draw(
        cells_map(kinds, depths, values, "kind of module", AXIS),
        "Joint by kind of module and depth",
    )
    caption = f"Joint {_of(found)} of each module by itself; darker is more alike."
    return [Figure("modules", "By kind and depth", caption, chart, _ramp(values), (table,))]


def _pairs_figure(found: NetworkAlignments) -> list[Figure]:
    if only_pair(found) is not None:
        return []
    ranked = _ranked(found)
    if not ranked:
        return []
    half = MOST_PAIRS // 2
    shown = ranked if len(ranked) <= MOST_PAIRS else [*ranked[:half], *ranked[-half:]]
    columns = {place: place_words(place).removeprefix("depth ") for place in found.places}
    values = {
        (task_pair(found, pair, "|"), columns[place]): found.estimate(place, pair)
        for pair in shown
        for place in found.places
    }
    rows = [task_pair(found, pair, "|") for pair in shown]
    chart = draw(
        cells_map(rows, list(columns.values()), values, "pair", AXIS), "Joint by pair and place"
    )
    caption = "The pairs most alike in all modules first."
    if len(shown) < len(ranked):
        caption += f" {count(len(shown))} of {count(len(ranked))} pairs, from both ends."
    table = table_of(
        "Joint by pair and place",
        ranked,
        {
            "pair": lambda pair: task_pair(found, pair),
            **{
                place_words(place): lambda pair, place=place: cell(  # type: ignore[misc]
                    found.estimate(place, pair), cosine
                )
                for place in found.places
            },
        },
    )
    return [Figure("pairs", "By pair and place", caption, chart, _ramp(values), (table,))]


def _ramp(values: Mapping[tuple[str, str], Estimate]) -> tuple[Key, ...]:
    lacking = any(possible_part(one, cosine).value is None for one in values.values())
    return (Key("ramp-churn", "0 to 1"), *((Key("few", "not determined"),) if lacking else ()))


def counts_section(found: NetworkAlignments) -> Section:
    """How each task spreads over the network, and what the parts' alignments say of each other."""
    lead = (
        "A place counts in the joint of all modules by how large both tasks’ Fishers are there. "
        "That joint is the profile cosine, of how alike two tasks spread over the places, times "
        "the mean of the places’ joints with these weights. What lies between modules is in the "
        "whole network’s joint alone: its share of each task’s Fisher is η, and where two tasks "
        "have η₁ and η₂, the joint of the whole lies within η₁η₂ of √((1 − η₁²)(1 − η₂²)) times "
        "that of all modules, whatever the modules have to do with each other."
    )
    figures = [*_profile_figure(found)]
    tables = [*_places_table(found), _bounds_table(found)]
    return Section("counts", "What counts", lead, tuple(figures), tuple(tables))


def _profile_figure(found: NetworkAlignments) -> list[Figure]:
    depths = _depths(found)
    if not depths or len(found.tasks) > 3:
        return []
    curves = []
    for task, name in enumerate(found.names):
        shares = _shares(found, task)
        at = {depth: _value(shares[f"{DEPTH}{depth}"]) for depth in depths}
        curves.append(Curve(name, at, made_up=True))
    return [
        depth_figure(
            OverDepths(
                "profile",
                "Where each task pushes",
                "The share of a task’s Fisher, in squared norm of its modules’, that lies at a "
                "depth. The rest lies outside of the blocks, as in the head.",
                "share of ‖F‖²",
                part,
                tuple(curves),
                max(depths),
                zero=True,
                axis=AXIS,
            )
        )
    ]


def _shares(found: NetworkAlignments, task: int) -> dict[str, float]:
    squares = {place: float(found.of(place).squared_norm[task]) for place in found.places}
    total = sum(squares.values())
    return {place: square / total for place, square in squares.items()}


def _places_table(found: NetworkAlignments) -> list[Table]:
    """Of two tasks, what each place adds to the joint of all modules."""
    pair = only_pair(found)
    if pair is None:
        return []
    weights = dict(zip(found.places, found.weights(*pair).tolist(), strict=True))
    profile = found.profile_cosine(*pair)
    joints = dict(zip(found.places, joint_of(found, found.places, pair).tolist(), strict=True))
    shares = [_shares(found, task) for task in pair]
    ours, theirs = shares
    return [
        table_of(
            "What each place adds to the joint of all modules, and how much of each task’s Fisher "
            "lies there",
            found.places,
            {
                "place": place_words,
                "joint": lambda place: cell(found.estimate(place, pair), cosine),
                "counts": lambda place: known(weights[place], part),
                "adds": lambda place: known(profile * weights[place] * joints[place], three),
                f"of {found.names[0]}": lambda place: known(ours[place], part),
                f"of {found.names[1]}": lambda place: known(theirs[place], part),
            },
        )
    ]


def _bounds_table(found: NetworkAlignments) -> Table:
    """Of each pair, what its modules say of the whole."""

    def between(pair: Pair) -> str:
        ends = found.full_between(*pair)
        return "not known" if ends is None else f"{two(ends[0])} to {two(ends[1])}"

    def spread(pair: Pair) -> str:
        return known(_known(found.profile_cosine(*pair)), three)

    def average(pair: Pair) -> str:
        joints = joint_of(found, found.places, pair)
        whole = alignment_of_blocks(joints, *(found.profile(task) for task in pair))
        return known(_known(whole / found.profile_cosine(*pair)), three)

    shown = _ranked(found) or list(found.pairs)
    half = MOST_PAIRS // 2
    shown = shown if len(shown) <= MOST_PAIRS else [*shown[:half], *shown[-half:]]
    return table_of(
        "Each pair’s joints, and between what those of its modules hold that of the whole",
        shown,
        {
            "pair": lambda pair: task_pair(found, pair),
            "all modules": lambda pair: cell(found.estimate(BLOCKS, pair), cosine),
            "profile cosine": spread,
            "mean of places": average,
            "whole lies in": between,
            "whole": lambda pair: cell(found.estimate(FULL, pair), cosine),
        },
    )


def direction_section(found: NetworkAlignments) -> Section | None:
    """Signed cosines of mean gradients by depth; None where they were not kept."""
    depths, pair = _depths(found), only_pair(found)
    if not depths or found.of(BLOCKS).first_moment is None:
        return None
    shown = [pair] if pair is not None else list(dict.fromkeys(_ends(found)))
    if not any(_moment(one, pair).value is not None for one in found.parts for pair in shown):
        return None
    curves = tuple(
        Curve(
            task_pair(found, one),
            {depth: _moment(found.of(f"{DEPTH}{depth}"), one) for depth in depths},
        )
        for one in shown
    )
    figure = depth_figure(
        OverDepths(
            "direction",
            "First moment by depth",
            f"The cosine of mean gradients. {BANDS}",
            "first moment",
            three,
            curves,
            max(depths),
            levels=(Level(0.0, "neither way"),),
            axis=AXIS,
        )
    )
    names = [name for name in (*found.places, BLOCKS) if found.of(name).first_moment is not None]
    table = table_of(
        "First moment by place",
        names,
        {
            "place": place_words,
            **{
                task_pair(found, one): lambda name, one=one: cell(  # type: ignore[misc]
                    _moment(found.of(name), one), cosine
                )
                for one in shown
            },
        },
    )
    lead = (
        "The joint does not see signs. Above 0 two tasks pull a part the same way on average, "
        "below 0 against each other."
    )
    return Section("direction", "Together, or against each other", lead, (figure,), (table,))


def _moment(one: PartAlignments, pair: Pair) -> Estimate:
    if one.first_moment is None:
        return Estimate(None, reason="not kept")
    return possible_part(one.first_moment.estimate(*pair), cosine)


def tasks_section(found: NetworkAlignments) -> Section:
    """The tasks in numbers, and how alike their halves are."""
    facts = table_of(
        "Tasks",
        list(enumerate(found.tasks)),
        {
            "task": lambda one: one[1].name,
            "samples": lambda one: count(one[1].samples),
            "documents": lambda one: count(one[1].documents),
            "participation ratio": lambda one: known(one[1].participation_ratio, three),
            "between modules, η": lambda one: cell(found.off_diagonal[one[0]], three),
            "status": lambda one: one[1].status,
        },
        lambda one: one[1].status != OK,
    )
    halves = table_of(
        "How alike the two halves of each task’s documents are, 1 but for noise",
        [*found.places, BLOCKS, FULL],
        {
            "place": place_words,
            **{
                name: lambda place, task=task: known(  # type: ignore[misc]
                    _known(float(found.of(place).halves[task])), three
                )
                for task, name in enumerate(found.names)
            },
        },
    )
    return Section(
        "tasks",
        "Tasks",
        "The participation ratio is the effective number of directions that a task’s gradients "
        "spread over, of all modules: the larger it is, the more samples a joint takes.",
        tables=(facts,),
        folded=(halves,),
        more="Each task’s halves, place by place",
    )


def _depths(found: NetworkAlignments) -> tuple[int, ...]:
    return tuple(int(one.removeprefix(DEPTH)) for one in found.places if one.startswith(DEPTH))


def _at(found: NetworkAlignments, pair: Pair | None) -> dict[int, Estimate]:
    return {
        depth: possible_part(found.estimate(f"{DEPTH}{depth}", pair), cosine)
        for depth in _depths(found)
    }


def _halves(found: NetworkAlignments, task: int) -> dict[int, Estimate]:
    return {
        depth: _value(float(found.of(f"{DEPTH}{depth}").halves[task])) for depth in _depths(found)
    }


def _value(value: float) -> Estimate:
    return Estimate(value) if math.isfinite(value) else Estimate(None, reason="lost in noise")


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _ranked(found: NetworkAlignments) -> list[Pair]:
    """The pairs whose joint of all modules is known, the most alike first."""
    known_pairs = [
        (value, pair)
        for pair in found.pairs
        if (value := found.estimate(BLOCKS, pair).value) is not None
    ]
    return [pair for _value, pair in sorted(known_pairs, key=lambda one: -one[0])]


def _ends(found: NetworkAlignments) -> list[Pair]:
    ranked = _ranked(found)
    return [ranked[0], ranked[-1]] if ranked else []


def _of(found: NetworkAlignments) -> str:
    pair = only_pair(found)
    if pair is not None:
        return f"of {task_pair(found, pair)}"
    return f"on average over {counted(len(found.pairs), 'pair')}"


def page_of_run(
    found: NetworkAlignments, run: FinishedRun | None, _links: Mapping[str, str]
) -> str:
    """The page of alignments along a network."""
    title = f"Where along the network {len(found.tasks)} tasks are alike"
    return network_page(found, title=title, facts=kept_facts(run), command=command_of(run))
