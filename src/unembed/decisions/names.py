"""The groups that positions are told apart by, by name: classes and frequencies of their targets,
bands of their margins.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

from unembed.errors import UnembedError

TokenClass = Literal["structural", "numeric", "function", "entity-like", "content", "fragment"]
"""The kind of text that a token stands for; the last one holds what no other does."""

CLASSES: tuple[TokenClass, ...] = get_args(TokenClass)
"""The token classes in the order in which they are tried."""

FREQUENCY_NAMES = ("1", "2-4", "5-19", "20-99", "100+")
"""The frequency buckets as a reader sees them."""

MARGIN_BANDS = (0.0, 0.5, 1.0, 2.0, 5.0, float("inf"))
"""Edges of the margin bands [0,.5) [.5,1) [1,2) [2,5) [5,inf), theory §4."""

BAND_NAMES = ("[0, 0.5)", "[0.5, 1)", "[1, 2)", "[2, 5)", "[5, ∞)")

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+|inf|∞)"
_RANGES = (
    re.compile(rf"\[?\s*(?P<low>{_NUMBER})\s*(?:-|–|\.\.|,|to)\s*(?P<high>{_NUMBER})\s*[\])]?"),
    re.compile(rf"(?:>=|≥|at least)\s*(?P<low>{_NUMBER})|(?P<more>{_NUMBER})\s*\+"),
    re.compile(rf"(?:<|below)\s*(?P<high>{_NUMBER})"),
)
"""``0-0.5`` and ``[0, 0.5)``, ``5+`` and ``>=5``, ``<2``."""


def bands_of_range(asked: str) -> tuple[str, ...]:
    """The margin bands that a range covers, such as ``5+``, ``>=5``, ``0-0.5``, ``<2``, ``[1, 2)``.

    Raises UnembedError for what is no range, and for one that begins or ends inside a band.
    """
    for form in _RANGES:
        found = form.fullmatch(asked.strip())
        if found is None:
            continue
        ends = found.groupdict()
        low, high = (
            float((text or other).replace("∞", "inf"))
            for text, other in (
                (ends.get("low") or ends.get("more"), "0"),
                (ends.get("high"), "inf"),
            )
        )
        if low < high and {low, high} <= set(MARGIN_BANDS):
            return BAND_NAMES[MARGIN_BANDS.index(low) : MARGIN_BANDS.index(high)]
    raise UnembedError(
        f"{asked!r} is none of the bands {', '.join(BAND_NAMES)}: give one, or a range of them "
        "such as 5+, '>=1', 0-0.5 or '<2'"
    )
