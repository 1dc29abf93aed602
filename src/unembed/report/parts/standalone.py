"""A figure of a page as a chart of Altair, which stands on its own: title, key, colours, tips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unembed.report.parts.colours import resolved
from unembed.report.parts.drawing import (
    CONFIG,
    NARROW_SIZE,
    NO_LIBRARY,
    WIDE_SIZE,
    ReportUnavailable,
    Spec,
)
from unembed.report.parts.parts import Figure, Key

PAPER, INK, MUTED = "var(--paper)", "var(--ink)", "var(--muted)"

Look = tuple[str, str, str, tuple[int, ...]]
"""Shape, fill, stroke and dashes of a symbol in a key."""


def _disc(colour: str) -> Look:
    return "circle", colour, colour, ()


def _block(colour: str) -> Look:
    return "square", colour, colour, ()


def _line(colour: str, *dashes: int) -> Look:
    return "stroke", "transparent", colour, dashes


LOOKS: dict[str, Look] = {
    "right": _block("var(--right)"),
    "wrong": _block("var(--wrong)"),
    "circle": _disc("var(--right)"),
    "diamond": ("diamond", PAPER, "var(--accent)", ()),
    "square": ("square", PAPER, INK, ()),
    "dot": _disc(INK),
    "line": _line("var(--accent)"),
    "dashed": _line("var(--accent-2)", 6, 4),
    "dots": _line(INK, 2, 3),
    "ink": _line(INK),
    "dotted": _line(MUTED, 3, 3),
    "kept-right": _block("var(--kept-right)"),
    "kept-wrong": _block("var(--kept-wrong)"),
    "gained": _block("var(--gained)"),
    "lost": _block("var(--lost)"),
    "moved": _block("var(--moved)"),
    "few": ("square", "var(--few)", "var(--rule)", ()),
    "missing": ("square", "var(--missing)", MUTED, ()),
    "gained-dot": _disc("var(--gained)"),
    "lost-dot": _disc("var(--lost)"),
    "few-dot": ("circle", PAPER, MUTED, ()),
    "full-dot": _disc("var(--accent)"),
    "hollow-dot": ("circle", PAPER, "var(--accent)", ()),
    "above-one": ("triangle-up", "var(--accent)", "var(--accent)", ()),
    "below-one": ("triangle-down", "var(--wrong)", "var(--wrong)", ()),
    "undecided": _disc(MUTED),
    "cell-own": ("square", "var(--cell-0)", INK, ()),
    "state-ring": ("circle", PAPER, INK, ()),
    "later": _line(INK, 5, 4),
}
"""The symbol of each class of a key, as the stylesheets draw it."""

RAMPS: dict[str, tuple[str, ...]] = {
    "ramp": tuple(f"var(--seq-{step})" for step in range(1, 10)),
    "ramp-churn": tuple(f"var(--seq-{step})" for step in range(1, 6)),
    "ramp-net": ("var(--loss-4)", PAPER, "var(--gain-4)"),
    "ramp-plain": (PAPER, "var(--deep)"),
    "ramp-signed": ("var(--wrong)", PAPER, "var(--right)"),
}
"""The colours of each gradient of a key."""

GROUP_LOOKS = {"round": "circle", "ring": "circle", "block": "square", "frame": "square"}
"""The symbol of each shape of a group of points."""

MOST_IN_ROW, LETTERS_IN_ROW = 5, 62
"""Entries of a key in one row, and their letters together."""

_WHOLE = {"$schema", "background", "padding", "config"}
"""What a chart has once, whatever it consists of."""

ROOM_ABOVE = 70
"""Pixels that title and key take above a chart."""


def standalone(figure: Figure) -> Any:
    """The figure as ``altair.Chart`` (or ``LayerChart`` …), which needs no page and no network.

    Colours are those of the light theme, the key is a legend, tips are tooltips. ``save`` writes
    SVG, PNG and HTML. Raises ``ReportUnavailable`` where the extra ``plot`` is not installed.
    """
    try:
        import altair
    except ImportError as error:
        raise ReportUnavailable(f"a figure {NO_LIBRARY}") from error
    return altair.Chart.from_dict(whole_spec(figure))


def side_by_side(figures: Sequence[Figure], title: str, columns: int = 2) -> Any:
    """Several figures as one chart of Altair, ``columns`` in a row. Raises as ``standalone``."""
    try:
        import altair
    except ImportError as error:
        raise ReportUnavailable(f"a figure {NO_LIBRARY}") from error
    parts = [whole_spec(figure) for figure in figures]
    whole = {name: parts[0][name] for name in _WHOLE} if parts else {}
    width, height = NARROW_SIZE
    smaller = {"width": width, "height": height - ROOM_ABOVE}
    kept = _WHOLE | {"autosize"}
    charts = [{name: part[name] for name in part if name not in kept} | smaller for part in parts]
    text = {"text": title, "anchor": "start", "fontSize": 17, "offset": 16}
    found = whole | {"title": text, "columns": columns, "concat": charts}
    return altair.Chart.from_dict(found | {"resolve": {"legend": {"shape": "independent"}}})


def whole_spec(figure: Figure) -> Spec:
    """The figure as one specification in Vega-Lite."""
    spec = dict(figure.chart.spec)
    above = spec.pop("title", None)
    drawn = with_key(spec, figure.keys)
    if "width" not in spec and not {"hconcat", "vconcat", "concat"} & set(spec):
        width, height = WIDE_SIZE
        drawn |= {
            "width": width,
            "height": height + ROOM_ABOVE,
            "autosize": {"type": "fit", "contains": "padding"},
        }
    title = {
        "text": figure.title,
        "anchor": "start",
        "frame": "bounds",
        "fontSize": 15,
        "color": INK,
        "offset": 12,
        "subtitleFontSize": 12.5,
        "subtitleColor": MUTED,
        "subtitlePadding": 6,
    }
    beneath = "" if above is None else above["text"]
    if beneath.lower() != figure.title.lower():
        title["subtitle"] = beneath
    words = " ".join(filter(None, (f"{figure.chart.description}.", figure.caption)))
    found: Spec = resolved(
        _tips(drawn)
        | {
            "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
            "title": title,
            "description": words,
            "background": PAPER,
            "padding": 12,
            "config": CONFIG | {"font": "sans-serif", "legend": _LEGEND},
        }
    )
    return found


def with_key(spec: Spec, keys: Sequence[Key]) -> Spec:
    """The specification with a layer that draws nothing but its legend."""
    for several in ("hconcat", "concat", "vconcat"):
        if several in spec:
            first, *rest = spec[several]
            return spec | {several: [with_key(first, keys), *rest]}
    legends = [_ramp(key) for key in keys if key.look in RAMPS]
    symbols = [key for key in keys if key.look not in RAMPS]
    if symbols:
        legends.append(_symbols(symbols))
    if not legends:
        return dict(spec)
    # The marks' own colours have no scale, with which a key's cannot be one.
    apart: Spec = {"resolve": {"scale": {"color": "independent"}}}
    if "layer" in spec:
        return spec | {"layer": [*spec["layer"], *legends]} | apart
    outer: Spec = {name: spec[name] for name in ("width", "height", "autosize") if name in spec}
    inner = {name: value for name, value in spec.items() if name not in outer}
    return {"layer": [inner, *legends], **outer, **apart}


def look_of(key: Key) -> Look:
    """The symbol of a key; that of a dose and of a group of points follows from its name."""
    from unembed.report.dose.charts import OBJECTIVE_SHAPES

    if key.look in LOOKS:
        return LOOKS[key.look]
    if key.look.startswith("dose-"):
        colour = f"var(--{key.look})"
        return OBJECTIVE_SHAPES.get(key.look.removeprefix("dose-"), "circle"), colour, colour, ()
    hue, shape = key.look.split()
    colour = f"var(--{hue})"
    hollow = shape in ("ring", "frame")
    return GROUP_LOOKS[shape], PAPER if hollow else colour, colour, ()


def _symbols(keys: Sequence[Key]) -> Spec:
    labels = [key.label for key in keys]
    looks = [look_of(key) for key in keys]
    longest = max(map(len, labels))
    columns = max(1, min(len(labels), MOST_IN_ROW, LETTERS_IN_ROW // (longest + 4)))
    legend = {"title": None, "columns": columns, "symbolLimit": 0}

    def channel(at: int) -> Spec:
        scale = {"domain": labels, "range": [list(x) if at == 3 else x for x in _column(looks, at)]}
        return {"field": "key", "type": "nominal", "scale": scale, "legend": legend}

    names = ("shape", "fill", "stroke", *(("strokeDash",) if any(x[3] for x in looks) else ()))
    return {
        "data": {"values": []},
        "mark": {"type": "point", "opacity": 1, "aria": False},
        "encoding": {name: channel(at) for at, name in enumerate(names)},
    }


def _column(looks: Sequence[Look], at: int) -> list[Any]:
    return [look[at] or (1, 0) if at == 3 else look[at] for look in looks]


def _ramp(key: Key) -> Spec:
    legend = {"type": "gradient", "title": key.label, "titleOrient": "left", "values": []}
    more = {"gradientLength": 110, "gradientThickness": 11, "titleAnchor": "middle"}
    scale = {"domain": [0, 1], "range": list(RAMPS[key.look]), "interpolate": "lab"}
    colour = {"field": "key", "type": "quantitative", "scale": scale, "legend": legend | more}
    return {
        "data": {"values": []},
        "mark": {"type": "point", "aria": False},
        "encoding": {"color": colour},
    }


def _tips(spec: Any) -> Any:
    """Tooltips where the page's charts hold what they say in their descriptions, in one line."""
    if isinstance(spec, list):
        return [_tips(one) for one in spec]
    if not isinstance(spec, dict):
        return spec
    found = {name: _tips(value) for name, value in spec.items()}
    if isinstance(tip := found.get("tip"), str):
        found["tip"] = tip.replace("\n", " · ")
    encoding = found.get("encoding")
    if isinstance(encoding, dict) and "description" in encoding:
        field = encoding["description"]["field"]
        rest = {name: value for name, value in encoding.items() if name != "description"}
        found["encoding"] = rest | {"tooltip": {"field": field, "type": "nominal"}}
    return found


_LEGEND: Spec = {
    "orient": "top",
    "direction": "horizontal",
    "labelColor": MUTED,
    "labelFontSize": 12.5,
    "labelLimit": 400,
    "titleColor": MUTED,
    "titleFontSize": 12.5,
    "titleFontWeight": "normal",
    "titleLimit": 400,
    "symbolOpacity": 1,
    "gradientOpacity": 1,
    "symbolStrokeWidth": 2,
    "symbolSize": 90,
    "columnPadding": 18,
    "offset": 4,
}
