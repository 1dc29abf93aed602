"""Vega-Lite drawn to SVG text, in two widths, for the page's stylesheet to colour and scale.

A chart is drawn when its page is: making one draws nothing.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

Spec = dict[str, Any]
"""A Vega-Lite specification, or a part of one."""

WIDE_SIZE = (540, 330)
NARROW_SIZE = (330, 290)

NO_LIBRARY = "needs a plotting library: pip install 'unembed[plot]'"

PROBE = "import vl_convert\nvl_convert.vegalite_to_svg({'mark': 'point', 'data': {'values': []}})\n"
"""A program that ends well where charts can be drawn."""


class ReportUnavailable(RuntimeError):
    """The plotting library is not installed, or cannot draw here."""


@dataclass(frozen=True, eq=False)
class Chart:
    """One chart: how it is specified, and its drawings for a wide and for a narrow screen.

    The page shows one of the two drawings, which are made when they are first asked for. Where
    ``by_hand`` holds them, the specification says the same for figures that leave the page, and
    ``make`` is called for those alone.
    """

    description: str
    make: Callable[[], Spec]
    by_hand: tuple[str, str] | None = None

    @cached_property
    def spec(self) -> Spec:
        """The specification in Vega-Lite, colours as the stylesheets name them."""
        return self.make()

    @cached_property
    def wide(self) -> str:
        """SVG for a wide screen. Raises ``ReportUnavailable`` where vl-convert cannot draw."""
        return self.by_hand[0] if self.by_hand else _svg(self.spec, self.description, WIDE_SIZE)

    @cached_property
    def narrow(self) -> str:
        """SVG for a narrow screen. Raises as ``wide``."""
        return self.by_hand[1] if self.by_hand else _svg(self.spec, self.description, NARROW_SIZE)


def draw(spec: Spec, description: str) -> Chart:
    """A chart of this specification, which nobody has drawn yet."""
    return Chart(description, lambda: spec)


def heading(text: str) -> Spec:
    """The name of the vertical axis, written above it where it reads without turning the head."""
    return {
        "text": text,
        "anchor": "start",
        "frame": "bounds",
        "fontSize": 12.5,
        "fontWeight": "normal",
        "color": "var(--muted)",
        "offset": 10,
    }


def _svg(spec: Spec, description: str, size: tuple[int, int]) -> str:
    width, height = size
    whole = spec | {
        "width": width,
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
        "padding": {"left": 7, "right": 10, "top": 2, "bottom": 2},
        "background": None,
        "config": CONFIG,
    }
    return _tidy(render(whole, "svg").decode(), description)


def render(spec: Spec, form: str, scale: float = 1.0) -> bytes:
    """A whole specification as ``svg`` or as ``png``, that with ``scale`` pixels for each.

    Raises ``ReportUnavailable`` where vl-convert is not installed, or cannot draw here.
    """
    try:
        import vl_convert
    except ImportError as error:
        raise ReportUnavailable(f"the report {NO_LIBRARY}") from error
    _check_renderer()
    try:
        if form == "png":
            return bytes(vl_convert.vegalite_to_png(spec, scale=scale))
        return str(vl_convert.vegalite_to_svg(spec)).encode()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of its engine is no Exception
        reason = " ".join(str(error).split())
        raise ReportUnavailable(
            f"the charts cannot be drawn ({reason:.160}): run unembed report elsewhere, or with "
            "more memory"
        ) from error


@cache
def _check_renderer() -> None:
    """Raise ``ReportUnavailable`` where the renderer's engine would end the process.

    It reserves address space, and aborts where a limit on that (``ulimit -v``) denies it.
    """
    if resource is None or resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        return
    tried = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, check=False)
    if tried.returncode:
        raise ReportUnavailable(
            "the renderer of charts needs more address space than this process may have: raise "
            "ulimit -v, and run unembed report"
        )


CONFIG: Spec = {
    "view": {"stroke": None},
    "axis": {
        "aria": False,
        "domain": False,
        "ticks": False,
        "gridColor": "var(--rule)",
        "labelColor": "var(--muted)",
        "labelFontSize": 12.5,
        "labelPadding": 6,
        "titleColor": "var(--muted)",
        "titleFontSize": 12.5,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    },
    # The points at the left end keep off the labels.
    "axisY": {"labelPadding": 10},
    "axisX": {"domain": True, "domainColor": "var(--muted)", "titleAnchor": "end"},
    "title": {"aria": False},
}
"""How axes and titles look."""

_NUMBERS = re.compile(r' (transform|d|x1|x2|y1|y2|width|height)="([^"]*)"')


def _tidy(svg: str, description: str) -> str:
    """Let the page set size and font; keep the readings of marks, drop the rest of Vega's ARIA."""

    def shorten(found: re.Match[str]) -> str:
        rounded = re.sub(
            r"-?\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), found[2]
        )
        return f' {found[1]}="{rounded}"'

    head, _, body = svg.partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None, "Vega writes a viewBox"
    for noise in (
        r' (aria-roledescription|role|font-family|stroke-miterlimit)="[^"]*"',
        r' aria-hidden="true"',
        r'<path class="(?:fore|back)ground"[^>]*/>',
        r' opacity="1"',
        r' class="[^"]*"',
    ):
        body = re.sub(noise, "", body)
    body = _NUMBERS.sub(shorten, body).replace(" aria-label=", " data-tip=")
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return f'<svg {box[0]} role="img" aria-label="{label}">{body}'
