"""The figures and the tables of a page as files, for a paper, a slide or a model card.

Files are named by section and figure. Every one says that unembed made it (a table in CSV by its
head), so that a later export replaces it, and nothing else.
"""

from __future__ import annotations

import csv
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unembed.errors import UnembedError
from unembed.report.parts.drawing import render
from unembed.report.parts.parts import Figure, Section, Table
from unembed.report.parts.plots import sections_of
from unembed.report.parts.standalone import whole_spec
from unembed.report.parts.wording import visible
from unembed.runs.files import check_output, write_output
from unembed.runs.run_record import Drawn
from unembed.stats.estimate import Estimate

MADE = "made by unembed"
"""Near the start of every exported file, but of those in CSV."""

PNG_SCALE = 2.0
"""Pixels of a PNG for each of the drawing."""


@dataclass(frozen=True)
class Export:
    """One file to be written: where, how its bytes are made, and what may be replaced by it."""

    path: Path
    make: Callable[[], bytes]
    is_ours: Callable[[bytes], bool]


def export_figures(record: Drawn, folder: str | Path, formats: Sequence[str]) -> list[Path]:
    """Write every figure of a record's page as ``svg`` and ``png`` files; where they are.

    Raises UnembedError before anything is drawn where a format is unknown or a file cannot be
    written, and ``ReportUnavailable`` where the extra ``plot`` is not installed.
    """
    check_formats(formats, FIGURE_FORMATS)
    found = []
    for name, figure in named_figures(sections_of(record)):
        for form in formats:
            path = Path(folder) / f"{name}.{form}"
            found.append(Export(path, _drawn(figure, form), _marked))
    return _write(found)


def export_tables(record: Drawn, folder: str | Path, formats: Sequence[str]) -> list[Path]:
    """Write every table of a record's page as ``csv``, ``latex`` and ``markdown``; where they are.

    Cells are worded as on the page. In CSV, rows that are estimates end with their value and
    interval in full precision and with their n. Raises as ``export_figures``.
    """
    check_formats(formats, TABLE_FORMATS)
    found = []
    for name, table in named_tables(sections_of(record)):
        for form in formats:
            ending, write = TABLE_FORMATS[form]
            data = write(table).encode("utf-8", "replace")
            ours = _same_head(data) if form == "csv" else _marked
            path = Path(folder) / f"{name}.{ending}"
            found.append(Export(path, lambda data=data: data, ours))  # type: ignore[misc]
    return _write(found)


def check_formats(formats: Sequence[str], known: Iterable[str]) -> None:
    """Raise UnembedError for a format that there is not."""
    for one in formats:
        if one not in known:
            raise UnembedError(f"{one!r} is no format here: give some of {', '.join(known)}")


def named_figures(sections: Sequence[Section]) -> Iterator[tuple[str, Figure]]:
    """Every figure with the name of its file: its section's and its own."""
    for section in sections:
        for figure in section.figures:
            yield _joined(section.name, figure.name), figure


def named_tables(sections: Sequence[Section]) -> Iterator[tuple[str, Table]]:
    """Every table with the name of its file; several in one place are numbered."""
    for section in sections:
        places = [(_joined(section.name, one.name), one.tables) for one in section.figures]
        places.append((f"{section.name}-tables", (*section.tables, *section.folded)))
        for name, tables in places:
            for number, table in enumerate(tables, 1):
                yield (name if len(tables) == 1 else f"{name}-{number}"), table


def as_csv(table: Table) -> str:
    """Comma-separated (RFC 4180); estimates stand in full precision at the end of their rows."""
    out = io.StringIO()
    written = csv.writer(out)
    more = ("value", "low", "high", "n") if any(table.estimates) else ()
    written.writerow((*map(visible, table.head), *(f"exact {name}" for name in more)))
    for at, row in enumerate(table.rows):
        exact = table.estimates[at] if more else None
        written.writerow((*map(visible, row), *(_exact(exact) if more else ())))
    return out.getvalue()


def as_markdown(table: Table) -> str:
    """A table of GitHub's Markdown under its caption."""
    rows = [table.head, *table.rows]
    first, *rest = ("| " + " | ".join(map(for_markdown, row)) + " |" for row in rows)
    rule = "|:---" + "|---:" * (len(table.head) - 1) + "|"
    caption = for_markdown(table.heading)
    return "\n".join((f"<!-- {MADE} -->", f"**{caption}**", "", first, rule, *rest, ""))


def as_latex(table: Table) -> str:
    """A table with the rules of booktabs, its first column at the left, the others at the right."""
    lines = [" & ".join(map(for_latex, row)) + r" \\" for row in (table.head, *table.rows)]
    # After \\ and \midrule a bracket would begin an argument, and a star another command.
    lines = ["{}" + line if line[0] in "[*" else line for line in lines]
    columns = "l" + "r" * (len(table.head) - 1)
    return "\n".join(
        (
            f"% {MADE}; needs \\usepackage{{booktabs}}",
            r"\begin{table}",
            rf"\caption{{{for_latex(table.heading)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        )
    )


def for_latex(text: str) -> str:
    """Text as LaTeX prints it, the symbols of the pages in every engine.

    Other letters beyond Latin are left as they are, for LuaLaTeX and XeLaTeX.
    """
    return "".join(_LATEX.get(letter, letter) for letter in visible(text))


TABLE_FORMATS: dict[str, tuple[str, Callable[[Table], str]]] = {
    "csv": ("csv", as_csv),
    "latex": ("tex", as_latex),
    "markdown": ("md", as_markdown),
}
"""How a table is written, and how the names of such files end."""

FIGURE_FORMATS = ("svg", "png")

_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"},
    **{"\u00a0": "~", "–": "--", "’": "'", "…": r"\ldots{}", "·": r"\textperiodcentered{}"},
    **{"−": "$-$", "×": r"$\times$", "→": r"$\to$", "≥": r"$\ge$", "≤": r"$\le$", "∞": r"$\infty$"},
    **{"‖": r"$\|$", "±": r"$\pm$", "²": "$^2$", "⁺": "$^+$", "▲": r"$\blacktriangle$"},
    **{
        "▼": r"$\blacktriangledown$",
        "✓": r"$\checkmark$",
        "†": r"\dag{}",
        "⏎": r"$\hookleftarrow$",
        "◌": "o",
    },
    **{"α": r"$\alpha$", "β": r"$\beta$", "δ": r"$\delta$", "ε": r"$\varepsilon$", "η": r"$\eta$"},
    **{"λ": r"$\lambda$", "ρ": r"$\rho$", "Δ": r"$\Delta$"},
}


def _write(exports: Sequence[Export]) -> list[Path]:
    for one in exports:
        check_output(one.path, one.is_ours)
    for one in exports:
        write_output(one.path, one.make(), one.is_ours)
    return [one.path for one in exports]


def _drawn(figure: Figure, form: str) -> Callable[[], bytes]:
    def make() -> bytes:
        spec = whole_spec(figure)
        if form == "svg":
            text = render(spec, form).decode()
            return text.replace(">", f"><!-- {MADE} -->", 1).encode()
        return _with_text(render(spec, form, scale=PNG_SCALE))

    return make


def _with_text(png: bytes) -> bytes:
    """The picture with a chunk of text that says who made it, after its header."""
    body = b"tEXtSoftware\0" + MADE.encode()
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    header = 33  # signature, and the chunk IHDR
    return png[:header] + chunk + png[header:]


def _marked(start: bytes) -> bool:
    return MADE.encode() in start[:2000]


def _same_head(data: bytes) -> Callable[[bytes], bool]:
    head = data.partition(b"\r\n")[0]
    return lambda start: start.partition(b"\r\n")[0] == head


def _joined(section: str, figure: str) -> str:
    return section if section == figure else f"{section}-{figure}"


def _exact(estimate: Estimate | None) -> tuple[object, ...]:
    if estimate is None:
        return "", "", "", ""
    return estimate.value, estimate.low, estimate.high, estimate.n


def for_markdown(text: str) -> str:
    """Text as Markdown prints it, in a cell too."""
    plain = re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", visible(text))
    return plain.replace("&", "&amp;").replace("<", "&lt;")
