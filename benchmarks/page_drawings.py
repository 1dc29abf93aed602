"""Points and heat maps of a page: their own drawers against Vega-Lite, in megabytes and seconds.

python benchmarks/page_drawings.py
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from unembed.report.parts.drawing import Chart, Spec, draw
from unembed.report.parts.heatmap import Heatmap, bare_frame, draw_heatmap, levels_of
from unembed.report.parts.marks import NO_SCALE, quantity
from unembed.report.parts.points import Cloud, Frame, draw_cloud
from unembed.report.parts.scales import scale_of

TIP = "python scripts, wikipedia\njoint 0.712 (0.655 to 0.769)\nactivation 0.812\nerror 0.775"
POINTS, TASKS = (300, 2_000, 20_000), (12, 40, 60, 200)


def main() -> None:
    """A line for each size of each kind; a chart has a wide and a narrow drawing."""
    rng = np.random.default_rng(0)
    for n in POINTS:
        place = rng.normal(size=(n, 2))
        groups = rng.integers(30, size=n)
        axes = (scale_of(place[:, 0].tolist()), scale_of(place[:, 1].tolist()))
        cloud = Cloud("map", "map", place, groups, *axes, "first", "second")
        rows = [
            {"x": x, "y": y, "fill": f"var(--hue-{group % 12 + 1})", "tip": TIP}
            for (x, y), group in zip(place.tolist(), groups.tolist(), strict=True)
        ]
        spec = _spec(rows, {"type": "circle", "size": 12}, quantity({"title": None}))
        frames = (Frame(1040.0, 600.0), Frame(340.0, 300.0))
        _compare(f"{n:,} points", spec, lambda c=cloud, f=frames: [draw_cloud(c, s, ()) for s in f])
    for n in TASKS:
        matrix = rng.random((n, n))
        heatmap = Heatmap("joint", "joint", matrix, levels_of(matrix, signed=False), signed=False)
        rows = [
            {"x": x, "y": y, "fill": f"color-mix(var(--deep) {100 * value:.0f}%)", "tip": TIP}
            for (y, x), value in np.ndenumerate(matrix)
        ]
        spec = _spec(rows, {"type": "rect"}, {"type": "ordinal", "axis": None})
        frames = (bare_frame(n, 690.0, 56.0), bare_frame(n, 340.0, 56.0))
        own = lambda h=heatmap, f=frames: [draw_heatmap(h, s) for s in f]  # noqa: E731
        _compare(f"{n} x {n} cells", spec, own)


def _spec(rows: Sequence[Spec], mark: Spec, axis: Spec) -> Spec:
    encoding = {"x": axis | {"field": "x"}, "y": axis | {"field": "y"}}
    encoding |= {"color": {"field": "fill"} | NO_SCALE, "description": {"field": "tip"}}
    return {"data": {"values": list(rows)}, "mark": mark, "encoding": encoding}


def _compare(what: str, spec: Spec, own: Callable[[], Sequence[str]]) -> None:
    begin = time.perf_counter()
    vega: Chart = draw(spec, what)
    between = time.perf_counter()
    drawn = own()
    end = time.perf_counter()
    sizes = (len(vega.wide) + len(vega.narrow)) / 1e6, sum(map(len, drawn)) / 1e6
    print(
        f"{what:>16}: Vega-Lite {sizes[0]:6.2f} MB {between - begin:5.2f} s, "
        f"own {sizes[1]:6.2f} MB {end - between:5.2f} s"
    )


if __name__ == "__main__":
    main()
