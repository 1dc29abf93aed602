"""Draw ``shaping.svg`` from ``shaping.json``: ``python docs/draw_shaping.py``.

The numbers are the ``frontier.json`` that ``examples/shaped_training.py`` leaves in its folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import altair as alt

HERE = Path(__file__).parent
WAYS = {
    "refined": "#8a8a8a",
    "penalty from half-way": "#1c5d99",
    "penalty from the start": "#c2571a",
}


def main() -> None:
    """Loss across, margin up: the cross-entropy model refined, and models that were shaped."""
    rows = [point(one) for one in json.loads((HERE / "shaping.json").read_text("utf-8"))]
    start = {"name": "", "way": "refined", "loss": 0.0, "margin": 0.0}
    refined = [start, *(row for row in rows if row["way"] == "refined")]
    y = alt.Y("margin:Q", title="Scale-free margin, % more")
    x = alt.X("loss:Q", title="Loss, nats more", axis=alt.Axis(tickCount=7))
    colour = alt.Color(
        "way:N",
        title=None,
        scale=alt.Scale(domain=list(WAYS), range=list(WAYS.values())),
        legend=alt.Legend(orient="bottom", labelLimit=0),
    )
    line = alt.Chart(alt.Data(values=refined)).mark_line(color=WAYS["refined"]).encode(x, y)
    base = alt.Chart(alt.Data(values=rows))
    bars = base.mark_rule().encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour)
    wide = base.mark_rule().encode(x=alt.X("loss_low:Q"), x2="loss_high:Q", y=y, color=colour)
    dots = base.mark_point(filled=True, size=60).encode(x=x, y=y, color=colour)
    below, beside = (
        base.transform_filter(f"{sign}(datum.way == 'penalty from the start')")
        .mark_text(align="left", dx=7, dy=dy, fontSize=11)
        .encode(x=x, y=y, text="name:N", color=colour)
        for sign, dy in (("", 15), ("!", -8))
    )
    whole = (line + bars + wide + dots + below + beside).properties(width=560, height=300)
    whole = whole.configure(background="white", padding=12, font="system-ui, sans-serif")
    whole.configure_view(stroke=None).save(HERE / "shaping.svg")


def point(row: dict[str, Any]) -> dict[str, Any]:
    """A way to a wider margin, with its intervals."""
    margin, low, high = row["scale-free, %"]
    loss, loss_low, loss_high = row["loss"]
    penalty, _, start = row["arm"].partition("-")
    way = {"start": "penalty from the start", "half": "penalty from half-way"}.get(start, "refined")
    name = row["state"].replace("-", " ") if way == "refined" else penalty
    return {
        "name": name,
        "way": way,
        "margin": margin,
        "low": low,
        "high": high,
        "loss": loss,
        "loss_low": loss_low,
        "loss_high": loss_high,
    }


if __name__ == "__main__":
    main()
