"""The logit-lens table: passages with what every depth would say there, as JSON for the page."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from unembed.decisions.layers.excerpt import LensPassage
from unembed.decisions.layers.passage import Cell, Passage
from unembed.report.parts.text import TextView, fit_and_encode, units
from unembed.report.parts.wording import short


def lens_table(passages: Sequence[LensPassage]) -> TextView:
    """All passages, encoded; each has a name of its own."""
    return fit_and_encode(passages, sys.maxsize, _columns)


def name_of(passage: LensPassage) -> str:
    """What a passage is called where one is chosen: where it is, and whether it settles last."""
    late = "settles last: " if passage.late else ""
    first = passage.passages[0].positions[0] + 1
    return f"{late}{short(passage.name, 40)}, token {first:,}"


def _columns(passage: LensPassage, index: Callable[[str], int]) -> dict[str, Any]:
    first = passage.passages[0]
    return {
        "name": name_of(passage),
        "before": first.before,
        "first": first.positions[0],
        "text": [index(token) for token in first.tokens],
        # The first lens is the model's own.
        "right": "".join("1" if cell.right else "0" for cell in first.cells[-1]),
        "depths": list(first.depths),
        "lenses": {one.lens: _of_lens(one, index) for one in passage.passages},
    }


def _of_lens(passage: Passage, index: Callable[[str], int]) -> dict[str, Any]:
    """A row for each depth; margins in thousandths of a logit, probabilities in thousandths."""
    return {
        "same": ["".join("1" if cell.final else "0" for cell in row) for row in passage.cells],
        "margin": [[units(cell.margin, 1e3) for cell in row] for row in passage.cells],
        "rank": [[cell.rank for cell in row] for row in passage.cells],
        "candidates": [[_candidates(cell, index) for cell in row] for row in passage.cells],
    }


def _candidates(cell: Cell, index: Callable[[str], int]) -> list[int]:
    """Pairs of string number and probability in thousandths, flattened."""
    return [number for text, p in cell.candidates for number in (index(text), round(1000 * p))]
