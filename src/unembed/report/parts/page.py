"""The templates of every page: one self-contained HTML file that computes and fetches nothing."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, Template
from markupsafe import Markup

from unembed.report.parts import wording
from unembed.report.parts.terms import explain


def template(page: str) -> Template:
    """The template of a kind of page, ``audit`` for that in the folder ``audit``.

    Text is escaped, and its invisible characters are spelt out. In a template, ``parts`` holds the
    macros that pages share, ``inline`` reads a stylesheet or a script, and the filter ``explain``
    marks terms of the glossary, each once for a set that ``new_terms`` makes.
    """
    return _environment().get_template(f"{page}/page.html.jinja")


@cache
def _environment() -> Environment:
    """Compiled once a process, however many pages it draws."""
    found = Environment(
        loader=PackageLoader("unembed.report", ""),
        autoescape=True,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["inline"] = lambda name: Markup(found.get_template(name).render() + "\n")
    found.globals["new_terms"] = set
    found.filters["explain"] = explain
    found.globals["parts"] = found.get_template("parts/macros.html.jinja").module
    return found


def as_script(data: dict[str, Any]) -> str:
    """JSON that can stand in a script element: ASCII without ``<``, ``>`` and ``&``."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _printable(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return wording.visible(value)
    return value
