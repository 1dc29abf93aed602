"""What each method's scores would choose, next to what was best, by the means over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unembed.report.parts.parts import Table
from unembed.report.parts.wording import count
from unembed.report.transfer.maps import decimals
from unembed.selection.transfer.records import Transfer
from unembed.signatures.alignment.ordering import dendrogram_order
from unembed.stats.forms import Form

Matrix = Float[np.ndarray, "sources targets"]


@dataclass(frozen=True)
class Means:
    """Gains and scores as means over seeds, tasks in the order of the maps.

    ``scores`` are in the order of the transfer's methods. A pair that some seeds lack has the mean
    of the others.
    """

    names: tuple[str, ...]
    order: Int[np.ndarray, " tasks"]
    gains: Float[np.ndarray, "sources targets"]
    scores: tuple[Float[np.ndarray, "sources targets"], ...]

    @staticmethod
    def of(transfer: Transfer) -> Means:
        """Tasks that help each other lie side by side: average linkage on their mean gains."""
        gains = mean_over_seeds(transfer.gains)
        order = _order(gains)
        grid = np.ix_(order, order)
        return Means(
            tuple(transfer.tasks[at] for at in order),
            order,
            gains[grid],
            tuple(mean_over_seeds(one.values)[grid] for one in transfer.scores),
        )


def mean_over_seeds(
    values: Float[np.ndarray, "seeds sources targets"],
) -> Float[np.ndarray, "sources targets"]:
    """The mean of the seeds that have a value, NaN where none has."""
    known = np.ma.masked_invalid(values)
    mean: Float[np.ndarray, "sources targets"] = known.mean(axis=0).filled(np.nan)
    return mean


def firsts(matrix: Matrix) -> tuple[tuple[int, ...], ...]:
    """For each target the sources with the largest value, more than one where they tie.

    The target itself is no candidate; none where no source has a value.
    """
    others = np.where(np.eye(len(matrix), dtype=bool) | ~np.isfinite(matrix), -np.inf, matrix)
    largest = others.max(axis=0)
    return tuple(
        tuple(np.flatnonzero(column == most).tolist()) if most > -np.inf else ()
        for column, most in zip(others.T, largest, strict=True)
    )


def choices_table(means: Means, method: int, name: str) -> Table:
    """For each target the method's first choice and the best source, with their gains."""
    digits = decimals(means.gains)
    chosen, best = firsts(means.scores[method]), firsts(means.gains)
    rows = []
    for target, own in enumerate(means.names):
        hit = "\u00a0✓" if set(chosen[target]) <= set(best[target]) and chosen[target] else ""
        rows.append(
            (
                own,
                _sources(means.names, chosen[target]) + hit,
                _gain(means.gains[:, target], chosen[target], digits),
                _sources(means.names, best[target]),
                _gain(means.gains[:, target], best[target], digits),
            )
        )
    head = ("target", f"{name} chooses", "its gain", "best source", "its gain")
    caption = "First choices by the means over seeds, gains in nats a token. ✓: the best one"
    return Table(caption, head, tuple(rows))


def gains_table(means: Means) -> Table:
    """Every gain, sources down and targets across."""
    digits = decimals(means.gains)
    rows = tuple(
        (name, *(Form(decimals=digits)(value) for value in row))
        for name, row in zip(means.names, means.gains.tolist(), strict=True)
    )
    return Table(
        "Gain in nats a token, mean over seeds: trained on the row, measured on the column",
        ("trained on", *means.names),
        rows,
    )


def _order(gains: Matrix) -> Int[np.ndarray, " tasks"]:
    both = (gains + gains.T) / 2
    others = np.abs(both[~np.eye(len(both), dtype=bool)])
    largest = float(np.nanmax(others)) if np.isfinite(others).any() else 1.0
    return dendrogram_order(both / (largest or 1.0))


def _sources(names: Sequence[str], found: Sequence[int]) -> str:
    if not found:
        return "none"
    return names[found[0]] if len(found) == 1 else f"{count(len(found))} tie"


def _gain(column: Float[np.ndarray, " sources"], found: Sequence[int], digits: int) -> str:
    if not found:
        return "none"
    values = column[list(found)]
    known = values[np.isfinite(values)]
    return Form(decimals=digits)(float(known.mean()) if len(known) else float("nan"))
