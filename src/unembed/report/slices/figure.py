"""A picture of cells as a figure of a page: drawing, key, how to read it, walls in numbers."""

from __future__ import annotations

from unembed.decisions.slices.slice import Slice
from unembed.report.parts import wording
from unembed.report.parts.drawing import Chart
from unembed.report.parts.parts import Figure, Key, Table, table_of
from unembed.report.slices.drawing import draw_cells, quoted
from unembed.report.slices.layout import Frame, Layout, in_order, lay_out
from unembed.report.slices.spec import SIDE, cells_spec

WIDE, NARROW = Frame(452.0), Frame(278.0)


def slice_figure(
    one: Slice, name: str, title: str, *, target: int | None = None, target_text: str = ""
) -> Figure:
    """The figure of a picture; ``target`` is the text's own token, where there is a text."""
    shown = f"Cells of {len(one.cells)} tokens around {quoted(one.marks[0].text)}"
    by_hand = tuple(
        draw_cells(one, lay_out(one, frame.side, target), frame, f"{name}-{size}", shown)
        for size, frame in (("wide", WIDE), ("narrow", NARROW))
    )
    return Figure(
        name,
        title,
        caption(one, lay_out(one, SIDE, target), target_text),
        Chart(shown, lambda: cells_spec(one, target), (by_hand[0], by_hand[1])),
        _keys(one),
        (*_states_table(one), walls_table(one)),
    )


def caption(one: Slice, laid: Layout, target_text: str = "") -> str:
    """How to read a picture, in sentences."""
    unit = (
        f"{wording.decimal(one.unit)} ({wording.share(one.unit / one.norm)} of the state’s length)"
    )
    first = one.marks[0]
    if len(one.marks) == 1:
        nearest = one.walls[0]
        said = [
            "Every point is a hidden state, and its colour the token that wins there. The dot is "
            f"the state itself, in the cell of {quoted(first.text)}; the nearest wall, to "
            f"{quoted(nearest.text)}, is {wording.decimal(nearest.distance)} away. Axes are in "
            f"units of the {one.unit_words}, {unit}.",
        ]
    elif len(one.marks) == 2:
        after = one.marks[1]
        said = [
            f"The plane through the state before, which decides for {quoted(first.text)}, and the "
            f"one after, which decides for {quoted(after.text)}. Axes are in units of the "
            f"{one.unit_words}, {unit}."
        ]
    else:
        said = [
            "A state’s way through the depths, seen on the plane that holds most of it. The last "
            f"state, filled, lies on the plane and decides for {quoted(first.text)}; the others, "
            "hollow, lie beside it, and the cell under one need not be its own. Axes are in units "
            f"of the {one.unit_words}, {unit}."
        ]
    if one.later_cells:
        said.append("Dashed: the cells of the head after.")
    if target_text:
        said.append(f"The text goes on with {quoted(target_text)}.")
    said += one.remarks
    if laid.listed:
        words = ", ".join(f"{at}\u00a0“{text}”" for at, text in enumerate(laid.listed, 1))
        said.append(f"By number: {words}.")
    if laid.unnamed:
        said.append(f"Too small for a name: {', '.join(f'“{text}”' for text in laid.unnamed)}.")
    proof = one.certificate
    said.append(
        f"Exact: at all {proof.corners:,} corners none of {proof.tokens:,} tokens exceeds the "
        "cell’s own, so none is missing anywhere."
        if proof.holds
        else f"Not proved: a token exceeds a cell’s own by {proof.largest_excess:.1e} logits."
    )
    return " ".join(said)


def walls_table(one: Slice) -> Table:
    """The walls of the first state's cell, with their distances."""
    away = {
        "across it": lambda wall: wording.token(wall.text, 30),
        "distance": lambda wall: wording.decimal(wall.distance),
        "in facet distances": lambda wall: (
            wording.decimal(wall.distance / one.facet_distance) if one.facet_distance else "none"
        ),
        "on the picture": lambda wall: (
            "not met" if wall.on_plane is None else wording.decimal(wall.on_plane)
        ),
    }
    return table_of("Walls of the cell, nearest first", one.walls, away)


def _states_table(one: Slice) -> tuple[Table, ...]:
    """Of several states, what each decides and how far it lies beside the plane."""
    if len(one.marks) == 1:
        return ()
    columns = {
        "state": lambda mark: mark.label,
        "decides for": lambda mark: wording.token(mark.text, 30),
        "beside the plane": lambda mark: wording.decimal(mark.beside * one.unit),
    }
    return (table_of("States on the way", in_order(one.marks), columns),)


def _keys(one: Slice) -> tuple[Key, ...]:
    own = Key("cell-own", f"cell of {quoted(one.marks[0].text)}")
    if len(one.marks) == 1:
        return own, Key("dot", "the state")
    if len(one.marks) == 2:
        both = (own, Key("state-ring", "before"), Key("dot", "after"))
        return (*both, Key("later", "cells of the head after")) if one.later_cells else both
    return own, Key("dot", "last state"), Key("state-ring", "earlier, beside the plane")
