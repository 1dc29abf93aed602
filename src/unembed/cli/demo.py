"""``unembed demo``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unembed.cli.help import Verb, option, under
from unembed.cli.options import PRINTING
from unembed.cli.printing import Output, draw, echo, say, typed

if TYPE_CHECKING:
    from unembed.decisions.comparison.summary import ComparisonSummary
    from unembed.runs.run_record import RunRecord
    from unembed.stats.estimate import Estimate
    from unembed.training.run.refinement import Refinement

LABELS = (
    "median Δ margin",
    "scale-free, 1/1000",
    "loss difference (nats)",
    "right to wrong",
    "churn",
)
NAME, CELL = 24, 26
"""Widths of the table's columns."""


@click.command("demo", cls=Verb)
@under(
    "Output",
    option(
        "-o",
        "--out",
        type=click.Path(path_type=Path),
        default=Path("unembed-demo"),
        help="Run folder, written afresh each time.",
    ),
)
@PRINTING
def demo_command(out: Path, as_json: bool, quiet: bool) -> None:
    """Tell the whole story on a small bundled model, in three minutes.

    The model is audited on your own Python's library text. bfloat16 and int8 versions of it are
    compared with it (int8 takes the extra quant). Then it is trained a little further, with and
    without a penalty of narrow decisions (the extra train), and a dozen topics of the library are
    sketched: which of them would move its head alike? And which of a dozen listings that it has not
    read helps which: predicted by scores, and measured.

    The model is a small Llama trained on other modules of the standard library; the text is held
    out from its training. Nothing is downloaded. Takes two or three minutes.

    \b
    Example:
      unembed demo -o unembed-demo
    """
    from unembed.demo.story import run_demo

    story = run_demo(out, progress=not quiet, command=typed())
    Output(out, as_json, quiet).end(story.audit)
    if as_json:
        return
    for name, comparison in story.rounded.items():
        echo(f"\nThe same model rounded to {name}:\n")
        Output(out / name, as_json, quiet).end(comparison)
    if "int8" not in story.rounded:
        echo("int8 was left out: pip install 'unembed[quant]'", err=True)
    _show_refined(story.refined, out / "refined")
    echo("\nHow alike training on a dozen topics of the library would move the head:\n")
    _show(story.topics, out / "topics")
    echo("\nWhich listing helps which: scores against the gains of a head trained on each:\n")
    _show(story.transfer, out / "helped")


def _show(record: RunRecord, folder: Path) -> None:
    """What a run found, and where its report lies."""
    say(str(record), None, False, [(f"report, {folder.name}", draw(folder, record))])


def _show_refined(refined: dict[str, Refinement], out: Path) -> None:
    """A row for each objective, then where the reports lie."""
    if not refined:
        echo("refining was left out: pip install 'unembed[train]'", err=True)
        return
    echo("\nThe same model trained a little further, held out (objective none: control):\n")
    sides = ([name, *_cells(done.summary.heldout)] for name, done in refined.items())
    columns = (["objective", *LABELS], *sides)
    lines = [
        f"{label:<{NAME}}{''.join(f'{cell:<{CELL}}' for cell in cells)}".rstrip()
        for label, *cells in zip(*columns, strict=True)
    ]
    places = [(f"report, {name}", draw(out / name, done)) for name, done in refined.items()]
    say("\n".join(lines), None, False, places)


def _cells(side: ComparisonSummary) -> list[str]:
    """The figures of LABELS."""
    from unembed.stats.forms import full, share, signed

    moved, flips = side.movement.everywhere, side.flips
    return [
        full(moved.margin.median, signed),
        full(_thousandths(moved.relative_distance.median), signed),
        full(side.calibration.nll_difference_nats, signed),
        full(flips.right_to_wrong_share, share),
        full(flips.churn, share),
    ]


def _thousandths(estimate: Estimate) -> Estimate:
    ends = (estimate.value, estimate.low, estimate.high)
    value, low, high = (None if end is None else 1000 * end for end in ends)
    return replace(estimate, value=value, low=low, high=high)
