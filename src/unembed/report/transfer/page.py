"""The page of a transfer: which task helped which, and which scores predicted it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from unembed.report.parts.drawing import Chart, Spec
from unembed.report.parts.facts import command_of, kept_facts, with_command
from unembed.report.parts.forest import forest_figure
from unembed.report.parts.page import as_script, template
from unembed.report.parts.parts import Figure, Key, Section, Table
from unembed.report.parts.points import (
    Cloud,
    Frame,
    cloud_data,
    cloud_spec,
    draw_cloud,
    group_classes,
    group_key,
)
from unembed.report.parts.scales import scale_of
from unembed.report.parts.wording import count, counted, three, visible
from unembed.report.transfer.choices import Means, choices_table, firsts, gains_table
from unembed.report.transfer.maps import Marks, Shades, decimals, gains_map, scores_map, widths
from unembed.report.transfer.verdicts import (
    ORACLE,
    RANDOM,
    after_training,
    agreement,
    base,
    by_quality,
    costs,
    deployable,
    forest,
    reasons,
)
from unembed.report.verdicts.transfer import verdict
from unembed.runs.manifest import FinishedRun
from unembed.selection.scores import SCORES
from unembed.selection.transfer.judged import JudgedTransfer
from unembed.selection.transfer.records import Transfer, Verdict
from unembed.stats.forms import Form

CLOUD_FRAMES = (Frame(540.0, 390.0), Frame(340.0, 310.0))


@dataclass(frozen=True)
class Method:
    """What the page shows of a method: its map, its points, its choices; ``at`` is its number."""

    at: int
    name: str
    remark: str
    verdict: str
    meaning: str
    shades: Shades
    range: str
    map: Chart
    points: Chart
    choices: Table


def transfer_page(
    transfer: Transfer,
    verdicts: Sequence[Verdict],
    *,
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    command: str = "",
) -> str:
    """The page of a transfer: gains and a method's scores, their points, how well each chose.

    ``facts`` are label and value of what produced the numbers, to which ``command`` is added. One
    file that loads nothing; the same arguments give the same page, byte for byte.
    """
    means = Means.of(transfer)
    clouds = {str(at): _cloud(transfer, means, at) for at in range(len(transfer.scores))}
    methods = _methods(transfer, means, clouds, verdicts)
    best = firsts(means.gains)
    shades = Shades.around_zero(means.gains)
    written = Form(decimals=decimals(means.gains))
    return template("transfer").render(
        title=title,
        verdict=verdict(transfer, verdicts),
        extent=extent(transfer),
        notes=(*notes(transfer), *reasons(verdicts)),
        gains=gains_map(means.gains, means.names, Marks(best, ())),
        largest=written(shades.high),
        quarter=written(shades.high / 4),
        widths=widths(means.names),
        missing=bool(np.isnan(means.gains).any()),
        methods=methods,
        groups=[(at, group_classes(at), name, "") for at, name in enumerate(means.names)],
        gains_table=gains_table(means),
        forest=forest(verdicts) if verdicts else None,
        costs=costs(transfer, verdicts),
        data=as_script(_hints(transfer, means, clouds)),
        facts=with_command(facts, command),
    )


def sections_of(judged: JudgedTransfer) -> tuple[Section, ...]:
    """Every figure and table of the page."""
    transfer, verdicts = judged.transfer, judged.verdicts
    means = Means.of(transfer)
    clouds = {str(at): _cloud(transfer, means, at) for at in range(len(transfer.scores))}
    methods = _methods(transfer, means, clouds, verdicts)
    framed = "Rows are trained on, columns measured; frames mark each column’s largest value."
    gains = Figure(
        "gains",
        "Gain, measured",
        framed,
        gains_map(means.gains, means.names, Marks(firsts(means.gains), ())),
        (Key("ramp-signed", "loss to gain, in nats"),),
        (gains_table(means),),
    )
    keys = tuple(group_key(at, name) for at, name in enumerate(means.names))
    maps = [gains]
    points = []
    for one in methods:
        ramp = Key("ramp-signed" if one.shades.signed else "ramp-plain", one.range)
        dotted = f"{framed} A dot is the source that was best."
        title = f"Score of {one.name}"
        maps.append(Figure(f"score-{one.at}", title, dotted, one.map, (ramp,)))
        words = f"{one.verdict} {one.meaning}".strip()
        title = f"Gain against the score of {one.name}"
        figure = Figure(f"points-{one.at}", title, words, one.points, keys, (one.choices,))
        points.append(figure)
    found = []
    if verdicts:
        best = forest_figure("forest", "How well each method chose", forest(verdicts))
        found.append(Section("verdicts", "How well each method chose", "", (best,)))
    found.append(Section("maps", "Who helps whom", "", tuple(maps)))
    found.append(Section("points", "Score against gain", "", tuple(points)))
    table = costs(transfer, verdicts)
    if table is not None:
        found.append(Section("costs", "What each method takes", "", (), (table,)))
    return tuple(found)


def _methods(
    transfer: Transfer, means: Means, clouds: dict[str, Cloud], verdicts: Sequence[Verdict]
) -> tuple[Method, ...]:
    order = _in_order(transfer, verdicts)
    return tuple(_method(transfer, means, clouds[str(at)], at, verdicts) for at in order)


def extent(transfer: Transfer) -> str:
    """What was trained, on how many tasks and in how many seeds."""
    return (
        f"{counted(len(transfer.tasks), 'task')}, each a source for every other, in "
        f"{counted(len(transfer.gains), 'seed')}. Training: {transfer.training}. "
        f"{counted(len(transfer.scores), 'method')}."
    )


def notes(transfer: Transfer) -> tuple[str, ...]:
    """What was not measured or not scored."""
    found = []
    apart = ~np.eye(len(transfer.tasks), dtype=bool)
    lacking = int((np.isnan(transfer.gains) & apart).sum())
    if lacking:
        found.append(
            f"{counted(lacking, 'gain')} of {count(len(transfer.gains) * int(apart.sum()))} "
            "could not be measured; they are left out."
        )
    return tuple(found)


def _in_order(transfer: Transfer, verdicts: Sequence[Verdict]) -> list[int]:
    """The methods by number: those that can be used, the best first, then the others."""
    ranked = [one.method for one in by_quality(verdicts)]
    names = [one.method for one in transfer.scores]

    def place(at: int) -> tuple[bool, bool, int, int]:
        name = names[at]
        known = ranked.index(name) if name in ranked else len(ranked)
        return not deployable(name), not after_training(name), known, at

    return sorted(range(len(names)), key=place)


def _method(
    transfer: Transfer, means: Means, cloud: Cloud, at: int, verdicts: Sequence[Verdict]
) -> Method:
    name, matrix = transfer.scores[at].method, means.scores[at]
    shades, digits = Shades.of(matrix), decimals(matrix)
    known = next((one for one in verdicts if one.method == name), None)
    marks = Marks(firsts(matrix), firsts(means.gains))
    low, high = (Form(decimals=digits)(end) for end in (shades.low, shades.high))
    return Method(
        at=at,
        name=name,
        remark=_remark(name),
        verdict="" if known is None else agreement(known),
        meaning=SCORES[base(name)].meaning if base(name) in SCORES else "",
        shades=shades,
        range=f"{low} to {high}",
        map=scores_map(matrix, f"score-{at}", means.names, marks),
        points=_points(means, cloud, at, name),
        choices=choices_table(means, at, name),
    )


def _points(means: Means, cloud: Cloud, at: int, method: str) -> Chart:
    """Score against gain, every pair as a point."""
    wide, narrow = (draw_cloud(cloud, frame, ()) for frame in CLOUD_FRAMES)

    def spec() -> Spec:
        pairs = zip(*_pairs(means.scores[at], means.gains), strict=True)
        tips = [
            f"{visible(means.names[source])} → {visible(means.names[target])}\n"
            f"gain {three(float(means.gains[source, target]))} nats\n"
            f"{visible(method)} {three(float(means.scores[at][source, target]))}"
            for source, target in pairs
        ]
        return cloud_spec(cloud, tips)

    return Chart(cloud.label, spec, (wide, narrow))


def _remark(method: str) -> str:
    if after_training(method):
        return "after training"
    return {ORACLE: "knows the gains", RANDOM: "chance"}.get(base(method), "")


def _cloud(transfer: Transfer, means: Means, at: int) -> Cloud:
    """Score against gain, every pair of two tasks that has both, in the colour of its target."""
    sources, targets = _pairs(means.scores[at], means.gains)
    points = np.stack(
        (means.scores[at][sources, targets], means.gains[sources, targets]), axis=1
    ).astype(np.float64)
    name = transfer.scores[at].method
    return Cloud(
        name=str(at),
        label=f"gain against the score of {name}, {counted(len(points), 'pair')}",
        points=points,
        groups=targets.astype(np.int64),
        x=scale_of(points[:, 0].tolist(), ticks=5),
        y=scale_of([0.0, *points[:, 1].tolist()], ticks=5),
        x_title=f"score of {visible(name)}",
        y_title="gain, nats a token",
        zero=True,
    )


def _pairs(
    scores: Float[np.ndarray, "sources targets"], gains: Float[np.ndarray, "sources targets"]
) -> tuple[np.ndarray, np.ndarray]:
    both = np.isfinite(scores) & np.isfinite(gains) & ~np.eye(len(gains), dtype=bool)
    sources, targets = np.nonzero(both)
    return sources, targets


def _hints(transfer: Transfer, means: Means, clouds: dict[str, Cloud]) -> dict[str, Any]:
    """What hints say, tasks in the order of the maps: gains by seed, mean scores, points."""
    grid = np.ix_(means.order, means.order)
    found = {}
    for at, cloud in clouds.items():
        sources, targets = _pairs(means.scores[int(at)], means.gains)
        found[at] = cloud_data(cloud) | {"pair": (sources * len(means.names) + targets).tolist()}
    return {
        "tasks": [visible(name) for name in means.names],
        "gains": _four(means.gains),
        "seeds": [_four(seed[grid]) for seed in transfer.gains],
        "methods": [visible(one.method) for one in transfer.scores],
        "scores": [_four(matrix) for matrix in means.scores],
        "clouds": found,
    }


def _four(matrix: Float[np.ndarray, "sources targets"]) -> list[float | None]:
    """Four significant digits, null for NaN, row by row."""
    return [float(f"{x:.4g}") if np.isfinite(x) else None for x in matrix.ravel().tolist()]


def page_of_run(judged: JudgedTransfer, run: FinishedRun | None, _links: Mapping[str, str]) -> str:
    """The page of a measured transfer."""
    title = f"Which task helps which: {judged.transfer.name}"
    return transfer_page(
        judged.transfer,
        judged.verdicts,
        title=title,
        facts=kept_facts(run),
        command=command_of(run),
    )
