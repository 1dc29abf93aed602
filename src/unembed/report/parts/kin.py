"""The links of a page to others: up to the gallery or the run around it, down to runs inside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import escape

from unembed.report.parts.wording import visible

PLACE = "<!-- kin -->"
"""Stands in every page where its links to others belong."""


IN_WORDS = {
    "heldout": "held out",
    "training": "training text",
    "over-control": "against the control",
}
"""What a link to a run inside another says, by the name of its folder."""


@dataclass(frozen=True)
class Kin:
    """Another page: what a link to it says, and where it lies."""

    label: str
    href: str


def href(page: Path, start: Path) -> str:
    """The address of a page in another one that lies in the folder ``start``."""
    return quote(Path(os.path.relpath(page, start)).as_posix())


def with_kin(page: str, up: Kin | None, down: Sequence[Kin]) -> str:
    """The page with its links, in a line above its title; without any, none."""
    links = [] if up is None else [_link(up, "↑ ")]
    links += [_link(one, "↳ ") for one in down]
    line = f'<p class="kin">{" ".join(links)}</p>' if links else ""
    return page.replace(PLACE, line, 1)


def _link(kin: Kin, arrow: str) -> str:
    label = escape(visible(kin.label))
    return f'<a href="{escape(kin.href)}"><span aria-hidden="true">{arrow}</span>{label}</a>'
