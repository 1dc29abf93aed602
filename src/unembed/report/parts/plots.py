"""The figures of a page as methods of ``record.plot``; each kind of page lists its own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pkgutil import resolve_name
from typing import Any

from unembed.errors import UnembedError
from unembed.report.parts.parts import Figure, Section
from unembed.report.parts.standalone import standalone
from unembed.runs.run_record import Drawn


def sections_of(record: Drawn) -> tuple[Section, ...]:
    """The sections of a record's page, with every figure and table of it; nothing is drawn."""
    found: tuple[Section, ...] = resolve_name(f"unembed.report.{record.KIND}.page:sections_of")(
        record
    )
    return found


class Plots:
    """The figures of one record, in the colours of the light page.

    Each method gives a figure of Altair: last in a cell of a notebook it shows itself, and
    ``save("x.svg")``, ``save("x.png")`` and ``save("x.html")`` write it.
    """

    def __init__(self, record: Drawn) -> None:
        self._record = record

    def all(self) -> dict[str, Any]:
        """Every figure of the page by its name there, in order."""
        return {name: standalone(figure) for name, figure in self._figures.items()}

    def __repr__(self) -> str:
        ours = (name for name in dir(self) if not name.startswith("_"))
        return f"<plots of {self._record.KIND}: {', '.join(ours)}>"

    @cached_property
    def _figures(self) -> dict[str, Figure]:
        return {figure.name: figure for figure in figures_of(sections_of(self._record))}

    def _figure(self, name: str) -> Any:
        """The figure of that name. Raises UnembedError where this record's page has none."""
        if name not in self._figures:
            raise UnembedError(
                f"this {self._record.KIND} has no figure {name!r}: give one of "
                f"{', '.join(self._figures) or 'none'}"
            )
        return standalone(self._figures[name])


def figures_of(sections: tuple[Section, ...]) -> Iterator[Figure]:
    """The figures of all sections, in order."""
    return (figure for section in sections for figure in section.figures)
