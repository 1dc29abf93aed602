"""Draw ``how-fast.svg`` from ``how-fast.json``: ``python docs/draw_how_fast.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import altair as alt

HERE = Path(__file__).parent
COLOURS = {"unembed": "#1c5d99", "full logits": "#c2571a"}
STAGES = {"summary": "#1c5d99", "comparison": "#c2571a", "pages": "#4a7c3a"}


def main() -> None:
    """Both growths beside full logits, then that with positions."""
    points = json.loads((HERE / "how-fast.json").read_text("utf-8"))
    tops = [
        ("vocabulary", "cpu_seconds", "Rows of the head", "Processor seconds"),
        ("vocabulary", "added_mib", "Rows of the head", "MiB above the head"),
        ("context", "cpu_seconds", "Tokens of a row", "Processor seconds"),
        ("context", "added_mib", "Tokens of a row", "MiB above the model"),
    ]
    panels = [panel(points, *top, COLOURS) for top in tops]
    growth = panel(points, "positions", "added_mib", "Positions", "MiB above the start", STAGES)
    whole = alt.vconcat(
        alt.hconcat(*panels[:2]), alt.hconcat(*panels[2:]), growth, spacing=24
    ).resolve_scale(color="independent")
    whole = whole.configure(background="white", padding=12, font="system-ui, sans-serif")
    whole.configure_view(stroke=None).save(HERE / "how-fast.svg")


def panel(
    points: list[dict[str, Any]],
    curve: str,
    value: str,
    across: str,
    up: str,
    colours: dict[str, str],
) -> alt.Chart:
    """A curve for each way, both axes from their zero or by factors of ten where sizes are."""
    rows = [point for point in points if point["curve"] == curve]
    scale = alt.Scale(type="log", nice=False)
    axis = alt.Axis(format=",", values=sorted({row["size"] for row in rows}), labelFlush=False)
    return (
        alt.Chart(alt.Data(values=rows), width=280, height=170)
        .mark_line(point=True)
        .encode(
            x=alt.X("size:Q", scale=scale, axis=axis, title=across),
            y=alt.Y(f"{value}:Q", title=up, axis=alt.Axis(tickCount=5, format=",~r")),
            color=alt.Color(
                "peer:N",
                title=None,
                scale=alt.Scale(domain=list(colours), range=list(colours.values())),
            ),
        )
    )


if __name__ == "__main__":
    main()
