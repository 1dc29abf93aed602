"""The page of an index: its signatures as points of a plane, coloured by tag."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from unembed.report.parts.drawing import Chart, Spec
from unembed.report.parts.page import as_script, template
from unembed.report.parts.parts import Figure, Key, Section, Table, table_of
from unembed.report.parts.points import (
    MOST_GROUPS,
    Cloud,
    Frame,
    PointLabel,
    cloud_data,
    cloud_spec,
    draw_cloud,
    group_key,
)
from unembed.report.parts.points import pixels as pixels_of
from unembed.report.parts.scales import Scale, step_of
from unembed.report.parts.wording import count, counted, share, short, three, visible
from unembed.report.verdicts.index import verdict
from unembed.runs.manifest import FinishedRun
from unembed.selection.index.plane import Map

MOST_LABELLED = 60
"""Entries up to which names are written next to the points."""

MOST_LISTED = 1000
"""Entries up to which the table lists each; of more it lists the tags."""

HINT_LETTERS, LABEL_LETTERS = 80, 24
"""Letters of a name that a hint holds, and that a label does."""

LABEL_LETTER_WIDTH = 6.3
"""Pixels of an average letter of a label."""

FLATTEST = 0.5
"""The least height of the drawing over its width; the most is 1."""

TALLEST = 760.0
"""Pixels that the drawing is high at most, or a little more."""

UNTAGGED = "no tag"
OTHER = "other tags"


@dataclass(frozen=True)
class Tag:
    """A tag as a group of points: its number, its entries, and what the key calls it."""

    group: int
    entries: int
    samples: int
    key: Key


def index_page(found: Map, *, title: str, facts: Sequence[tuple[str, str]] = ()) -> str:
    """The page of a map: points with equal scales on both axes, a key that toggles, a table.

    Names are on hover, and of up to 60 entries next to the points. One file that loads nothing; the
    same arguments give the same page, byte for byte. 20,000 entries take less than 3 MB.
    """
    placed = np.isfinite(found.points).all(axis=1)
    tags, groups = grouped(found, placed)
    cloud = cloud_of(found, placed, groups)
    chart = _chart(cloud, found, placed)
    shown = [name for name, kept in zip(found.names, placed, strict=True) if kept]
    data = {
        "clouds": {cloud.name: cloud_data(cloud)},
        "names": [short(name, HINT_LETTERS) for name in shown],
        "tags": {str(tag.group): visible(tag.key.label) for tag in tags},
        "samples": np.array(found.samples, dtype=int)[placed].tolist(),
    }
    return template("index").render(
        title=title,
        verdict=verdict(found),
        extent=extent(found),
        notes=notes(found, placed),
        chart=chart,
        groups=[(tag.group, tag.key.look, tag.key.label, count(tag.entries)) for tag in tags],
        caption=caption(found),
        tables=tables(found, tags),
        data=as_script(data),
        facts=facts,
    )


def sections_of(found: Map) -> tuple[Section, ...]:
    """Every figure and table of the page."""
    placed = np.isfinite(found.points).all(axis=1)
    tags, groups = grouped(found, placed)
    chart = _chart(cloud_of(found, placed, groups), found, placed)
    keys = tuple(tag.key for tag in tags)
    figure = Figure("map", "Signatures of an index", caption(found), chart, keys)
    return (Section("map", "The map", "", (figure,), tables(found, tags)),)


def page_of_run(found: Map, _run: FinishedRun | None, _links: Mapping[str, str]) -> str:
    """The page of a map."""
    return index_page(found, title="A map of an index")


def extent(found: Map) -> str:
    """How many signatures there are, of how many tags and samples."""
    tags = len({tag for tag in found.tags if tag})
    words = f"{counted(len(found.names), 'signature')}, {counted(sum(found.samples), 'sample')}, "
    return words + (counted(tags, "tag") if tags else "no tags") + "."


def notes(found: Map, placed: Bool[np.ndarray, " entries"]) -> tuple[str, ...]:
    """What is not on the map."""
    left = [name for name, kept in zip(found.names, placed, strict=True) if not kept]
    if not left:
        return ()
    who = f"{left[0]} has" if len(left) == 1 else f"{left[0]} and {count(len(left) - 1)} more have"
    return (f"{who} no place on the map.",)


def caption(found: Map) -> str:
    """How to read the map."""
    words = (
        "Both axes have the same scale. Two signatures are at least as far apart as they look: far "
        "on the map is far, near on the map may be far along what it does not show."
    )
    return words + (" Point at a dot, or tap it, for its name." if found.names else "")


def grouped(found: Map, placed: Bool[np.ndarray, " entries"]) -> tuple[tuple[Tag, ...], np.ndarray]:
    """The tags, the commonest first, and the group of every placed entry."""
    tags = [tag for tag, kept in zip(found.tags, placed, strict=True) if kept]
    samples: Counter[str] = Counter()
    for tag, one, kept in zip(found.tags, found.samples, placed, strict=True):
        if kept:
            samples[tag] += one
    counts = Counter(tags)
    order = sorted(filter(None, counts), key=lambda tag: (-counts[tag], tag))
    # Where tags are too many, the last look stands for all that have none of their own.
    most = len(order) if len(order) <= MOST_GROUPS else MOST_GROUPS - 1
    named, rest = order[:most], order[most:]
    number = {tag: at for at, tag in enumerate(named)} | dict.fromkeys(rest, len(named))
    made = [Tag(at, counts[tag], samples[tag], group_key(at, tag)) for at, tag in enumerate(named)]
    if rest:
        whole = sum(counts[tag] for tag in rest), sum(samples[tag] for tag in rest)
        made.append(Tag(len(named), *whole, group_key(len(named), f"{OTHER} ({count(len(rest))})")))
    if counts[""]:
        made.append(Tag(-1, counts[""], samples[""], group_key(-1, UNTAGGED)))
    return tuple(made), np.array([number.get(tag, -1) for tag in tags], dtype=np.int64)


def cloud_of(found: Map, placed: Bool[np.ndarray, " entries"], groups: np.ndarray) -> Cloud:
    """The placed entries on axes with equal scales."""
    points = found.points[placed]
    x, y = equal_scales(points)
    first, second = (
        f"{name} axis, {share(part)} of what tells them apart" if math.isfinite(part) else name
        for name, part in zip(("first", "second"), found.explained, strict=True)
    )
    label = f"map of {counted(len(points), 'signature')} on two axes"
    return Cloud("map", label, points, groups, x, y, first, second)


def equal_scales(points: Float[np.ndarray, "entries 2"]) -> tuple[Scale, Scale]:
    """Axes with the points in their middle, the second from half as long as the first to as long.

    Their drawing has equal scales if it is as high, over its width, as the axes are long.
    """
    if not len(points):
        return Scale(-1.0, 1.0, 0.5), Scale(-0.5, 0.5, 0.5)
    low, high = points.min(axis=0), points.max(axis=0)
    middle, span = (low + high) / 2, 1.14 * (high - low)
    wide = max(float(span[0]), float(span[1]), 1e-6)
    tall = max(float(span[1]), FLATTEST * wide)
    step = step_of(wide, 8)
    return tuple(  # type: ignore[return-value]
        Scale(float(at - size / 2), float(at + size / 2), step)
        for at, size in zip(middle, (wide, tall), strict=True)
    )


def tables(found: Map, tags: Sequence[Tag]) -> tuple[Table, ...]:
    """The tags, and of up to 1,000 entries each with its place."""
    by_tag = table_of(
        "Tags, the commonest first",
        tags,
        {
            "tag": lambda one: one.key.label,
            "signatures": lambda one: count(one.entries),
            "samples": lambda one: count(one.samples),
        },
    )
    if len(found.names) > MOST_LISTED:
        return (by_tag,)
    listed = table_of(
        "Signatures and their places",
        zip(found.names, found.tags, found.samples, found.points.tolist(), strict=True),
        {
            "signature": lambda one: one[0],
            "tag": lambda one: one[1] or "none",
            "samples": lambda one: count(one[2]),
            "first axis": lambda one: three(one[3][0]),
            "second axis": lambda one: three(one[3][1]),
        },
    )
    return by_tag, listed


def place_notes(
    names: Sequence[str], place: Float[np.ndarray, "points 2"], frame: Frame
) -> list[tuple[PointLabel, float, float, str]]:
    """Names next to their points where there is room; one without room is left out.

    Each tries the right, the left, above and below, and takes the first place that meets neither
    another name, nor a point, nor the edge.
    """
    taken: list[tuple[float, float, float, float]] = [
        (x - 5, y - 5, x + 5, y + 5) for x, y in place.tolist()
    ]
    found = []
    for point, (x, y) in enumerate(place.tolist()):
        text = short(names[point], LABEL_LETTERS)
        wide = LABEL_LETTER_WIDTH * len(text)
        for left, base, anchor, at in (
            (x + 8, y + 4, "start", x + 8),
            (x - 8 - wide, y + 4, "end", x - 8),
            (x - wide / 2, y - 9, "middle", x),
            (x - wide / 2, y + 18, "middle", x),
        ):
            box = (left, base - 11, left + wide, base + 3)
            inside = box[0] >= frame.left - 6 and box[2] <= frame.width - 2
            if inside and not any(_meet(box, other) for other in taken):
                taken.append(box)
                found.append((PointLabel(point, text), at, base, anchor))
                break
    return found


def _chart(cloud: Cloud, found: Map, placed: Bool[np.ndarray, " entries"]) -> Chart:
    """The points with their names, where there are few."""
    wide, narrow = (_drawing(cloud, found, placed, width) for width in (1040.0, 340.0))

    def spec() -> Spec:
        rows = zip(found.names, found.tags, found.samples, placed, strict=True)
        entries = [(name, tag, n) for name, tag, n, kept in rows if kept]
        tips = [
            f"{short(name, HINT_LETTERS)}\n{visible(tag) or UNTAGGED}\n{counted(n, 'sample')}"
            for name, tag, n in entries
        ]
        few = len(entries) <= MOST_LABELLED
        names = [short(name, LABEL_LETTERS) for name, *_ in entries] if few else []
        return cloud_spec(cloud, tips, names, _aspect(cloud))

    return Chart(cloud.label, spec, (wide, narrow))


def _aspect(cloud: Cloud) -> float:
    """Height over width of a drawing with equal scales."""
    return (cloud.y.high - cloud.y.low) / (cloud.x.high - cloud.x.low)


def _drawing(cloud: Cloud, found: Map, placed: Bool[np.ndarray, " entries"], width: float) -> str:
    aspect = _aspect(cloud)
    frame = Frame(min(width, TALLEST / aspect), 0.0)
    frame = Frame(frame.width, frame.top + frame.foot + aspect * frame.across)
    notes: list[tuple[PointLabel, float, float, str]] = []
    if len(cloud.points) <= MOST_LABELLED:
        names = [name for name, kept in zip(found.names, placed, strict=True) if kept]
        notes = place_notes(names, pixels_of(cloud, frame), frame)
    return draw_cloud(cloud, frame, notes)


def _meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
