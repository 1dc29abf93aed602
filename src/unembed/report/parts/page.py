"""One self-contained HTML page from records: nothing is computed, nothing is fetched."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from unembed.report.parts import wording


def environment() -> Environment:
    """The templates of every page."""
    found = Environment(
        loader=PackageLoader("unembed.report"),
        autoescape=True,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["inline"] = lambda name: Markup(found.get_template(name).render() + "\n")
    return found


def _printable(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return wording.visible(value)
    return value
