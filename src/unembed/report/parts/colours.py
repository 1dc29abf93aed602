"""The colours of the pages' stylesheets in the light theme, for charts that leave the page.

``light-dark(a, b)`` is ``a``, ``var(--name)`` is looked up, and ``color-mix(in oklab, a 30%, b)``
is mixed as a browser does: in OKLab, with so much of the first.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np
from jaxtyping import Float

_DECLARED = re.compile(r"(--[\w-]+):\s*([^;{}]+);")
_CALL = re.compile(r"(var|light-dark|color-mix)\((.*)\)$", re.DOTALL)
_WHITE = "--raised"
"""The colour that is white in the light theme: a figure lies on it, and not on the page's paper."""

_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
"""From linear sRGB to cone responses, and from their cube roots to OKLab (Björn Ottosson)."""


def resolved(spec: Any) -> Any:
    """The same specification with every CSS colour in it as a plain one, ``#3a6ea5``.

    Raises KeyError for a variable that no stylesheet declares.
    """
    if isinstance(spec, dict):
        return {name: resolved(value) for name, value in spec.items()}
    if isinstance(spec, list | tuple):
        return [resolved(value) for value in spec]
    return plain_colour(spec) if isinstance(spec, str) and _CALL.match(spec) else spec


@cache
def plain_colour(css: str) -> str:
    """A colour of the stylesheets as six hexadecimal digits; what is no call stays as it is."""
    call = _CALL.match(css.strip())
    if call is None:
        return css.strip()
    name, inside = call.groups()
    if name == "var":
        return plain_colour(declared()[inside.strip()])
    if name == "light-dark":
        return plain_colour(_arguments(inside)[0])
    _space, first, second = _arguments(inside)
    colour, _, percent = first.rpartition(" ")
    return _mixed(plain_colour(colour), plain_colour(second), float(percent.rstrip("%")) / 100)


@cache
def declared() -> dict[str, str]:
    """Every variable of the stylesheets with what it is set to; the paper is white."""
    found: dict[str, str] = {}
    for sheet in _sheets(files("unembed.report")):
        found |= _DECLARED.findall(sheet.read_text(encoding="utf-8"))
    return found | {"--paper": found[_WHITE]}


def _sheets(folder: Traversable) -> list[Traversable]:
    found = []
    for one in sorted(folder.iterdir(), key=lambda one: one.name):
        if one.is_dir():
            found += _sheets(one)
        elif one.name.endswith(".css"):
            found.append(one)
    return found


def _arguments(inside: str) -> list[str]:
    """What stands between the commas that lie in no further brackets."""
    parts, depth = [""], 0
    for character in inside:
        depth += (character == "(") - (character == ")")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _mixed(first: str, second: str, share: float) -> str:
    lab = share * _oklab(first) + (1 - share) * _oklab(second)
    linear = np.linalg.solve(_LMS, np.linalg.solve(_LAB, lab) ** 3).clip(0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{round(255 * float(part)):02x}" for part in srgb.clip(0, 1))


def _oklab(colour: str) -> Float[np.ndarray, "3"]:
    digits = colour.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    srgb = np.array([int(digits[at : at + 2], 16) for at in (0, 2, 4)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lab: Float[np.ndarray, "3"] = _LAB @ np.cbrt(_LMS @ linear)
    return lab
