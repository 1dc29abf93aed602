"""Alignments along a network as short text: what the command line and a console print."""

from __future__ import annotations

import math

from unembed.runs.columns import columns
from unembed.runs.table import NAME_WIDTH
from unembed.signatures.network.names import BLOCKS, FULL, place_words
from unembed.signatures.network.records import NetworkAlignments
from unembed.stats.estimate import Estimate
from unembed.stats.forms import cosine, full, part

CELL_WIDTH = 22
MOST_PAIR_LETTERS = 40


def network_text(found: NetworkAlignments) -> str:
    """A row for each place along the network, then the whole, what tasks lack, and the bound."""
    header, *rows = network_rows(found)
    widths = [2 + max(len(row[at]) for row in (header, *rows)) for at in range(1, len(header))]
    text = columns([header, *rows], NAME_WIDTH, *(max(CELL_WIDTH, one) for one in widths))
    wanting = [f"{task.name}: {task.status}" for task in found.tasks if task.status != "ok"]
    return "\n".join([text, *wanting])


def network_rows(found: NetworkAlignments) -> list[list[str]]:
    """A header, then each place with its joint; of many tasks the mean over all pairs."""
    places = [*found.places, BLOCKS, FULL]
    if len(found.tasks) == 2:
        counts = dict(zip(found.places, found.weights(0, 1).tolist(), strict=True))
        head = ["joint", f"{found.names[0]}, {found.names[1]}", "counts in blocks"]
        return [
            head,
            *(
                [place_words(one), _words(found.estimate(one, (0, 1))), _part(counts.get(one))]
                for one in places
            ),
        ]
    head = ["joint", f"mean of {len(found.pairs):,} pairs", "most alike", "least alike"]
    return [
        head,
        *([place_words(one), _words(found.estimate(one)), *_ends(found, one)] for one in places),
    ]


def _ends(found: NetworkAlignments, part: str) -> list[str]:
    """The pairs of largest and least joint in a part, with these."""
    known = [
        (value, pair)
        for pair in found.pairs
        if (value := found.estimate(part, pair).value) is not None and cosine.allows(value)
    ]
    return [_pair(found, part, choose(known)[1]) if known else "none" for choose in (max, min)]


def _pair(found: NetworkAlignments, part: str, pair: tuple[int, int]) -> str:
    i, j = pair
    value = found.estimate(part, pair).value
    names = f"{found.names[i]}, {found.names[j]}"
    shown = names if len(names) <= MOST_PAIR_LETTERS else f"{names[: MOST_PAIR_LETTERS - 1]}…"
    return f"{shown} {cosine(value if value is not None else math.nan)}"


def _words(one: Estimate) -> str:
    return str(one.reason) if one.value is None else full(one, cosine)


def _part(share: float | None) -> str:
    return "" if share is None or math.isnan(share) else part(share)
