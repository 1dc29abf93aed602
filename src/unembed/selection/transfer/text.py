"""How well scores chose sources, as short text."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.runs.columns import columns
from unembed.selection.transfer.records import Verdict
from unembed.stats.forms import cosine, full, part, share

NAME_WIDTH, CELL_WIDTH = 24, 26


def transfer_text(verdicts: Sequence[Verdict]) -> str:
    """A line for each method, the largest share of the best gain first."""
    rows = [("score", "best chosen", "share of the best gain", "Spearman")]
    for one in sorted(verdicts, key=lambda one: -(one.share.value or 0.0)):
        cells = (full(one.top1, share), full(one.share, part), full(one.spearman, cosine))
        rows.append((one.method, *cells))
    return columns(rows, NAME_WIDTH, CELL_WIDTH, CELL_WIDTH)
