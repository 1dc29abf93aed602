"""What a run of layers prints: a table of its depths, and a short one of what they add up to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from unembed.decisions.cloud.cloud import Cloud
from unembed.decisions.layers.depth_rows import DepthRow
from unembed.decisions.layers.early_exit import EarlyExit
from unembed.decisions.layers.regimes import PenaltyRegimes
from unembed.decisions.layers.self_drafts import BestSelfDraft
from unembed.decisions.layers.summary import LayersSummary
from unembed.stats.estimate import Estimate
from unembed.stats.forms import Form, bounded, decimal, plus_minus, point, share, signed, three

MOST_ROWS = 14
"""Depths that the table shows."""
HEADER = ("depth", "as the last", "accuracy", "median margin", "KL (nats)", "acceptance")
PENALTY = "margin"
"""Whose correlation with the loss is printed; the page has all three."""
PAYS = {True: "", False: "does not pay: ", None: "too close to call: "}

At = tuple[int, Estimate]
"""A depth and a figure there."""


def depth_table(summary: LayersSummary) -> list[tuple[str, ...]]:
    """The depths under the model's own tail, the first and the last of many among them."""
    rows = summary.lens("normed").rows
    return [HEADER, *(_cells(rows[i]) for i in _spread(len(rows), MOST_ROWS))]


def headline(summary: LayersSummary) -> list[tuple[str, str]]:
    """The short table below that of the depths: name and value with its interval."""
    measured, settled = f"{len(summary.depths)} of {summary.blocks + 1}", summary.settling
    rows = [
        ("positions", f"{summary.n_positions:,} in {summary.n_documents:,} documents"),
        ("depths", f"{measured}; {summary.tail}"),
        ("decisions settle at depth", bounded(settled.mean, decimal)),
        ("if depths agreed by chance", bounded(settled.mean_if_independent, decimal)),
        ("wrong ones less right ones", bounded(settled.wrong_less_right, signed)),
        ("early exit", _exit(summary.early_exit)),
        ("its own blocks as a draft", _draft(summary.self_drafts.best_sampled)),
    ]
    if summary.fitted_exit is not None:
        rows.insert(6, ("early exit, fitted lens", _exit(summary.fitted_exit)))
    for one in summary.regimes.lenses:
        rows.append((f"ρ(−margin, loss), {one.lens}", _regime(one.of(PENALTY))))
    if summary.cloud is not None:
        rows += _cloud(summary.cloud)
    for lens in summary.lenses:
        if lens.reason is not None:
            rows.append((f"{lens.lens} lens", f"not measured: {lens.reason}"))
    if summary.fit is not None:
        fit = summary.fit
        rows.append(
            ("lens fitted on", f"{fit.positions:,} positions in {fit.documents:,} other documents")
        )
    if summary.n_left_out:
        rows.append(("not finite", f"{summary.n_left_out:,} positions left out"))
    return rows


def _cells(row: DepthRow) -> tuple[str, ...]:
    return (
        str(row.depth),
        plus_minus(row.agreement, share),
        plus_minus(row.accuracy, share),
        plus_minus(row.margin_quantiles["50"], decimal),
        plus_minus(row.kl_nats, decimal),
        plus_minus(row.acceptance, share),
    )


def _exit(found: EarlyExit) -> str:
    if found.chosen is None:
        return f"none: {found.chosen_reason}"
    one = found.chosen
    return (
        f"margins from {decimal(one.threshold)}: {bounded(one.agreement, share)} decided alike, "
        f"blocks saved: {bounded(one.saved, share)}"
    )


def _draft(best: BestSelfDraft) -> str:
    if best.depth.value is None or best.drafted.value is None:
        return f"none: {best.depth.reason or best.drafted.reason}"
    depth, tokens = int(best.depth.value), int(best.drafted.value)
    speed = f"{PAYS[best.pays]}{bounded(best.speedup, decimal)} as fast"
    return f"{speed}, at depth {depth} and {tokens} token{'s' * (tokens != 1)}"


def _regime(found: PenaltyRegimes) -> str:
    """The least correlation before the last depth, the last one, and whether they turn between."""
    every = [(one.depth, one.rho) for one in found.by_depth]
    least = _extreme(every[:-1], min)
    said = "" if least is None else f"{_at(least, three)}, then "
    said += _at(every[-1], three)
    if found.turn is None:
        return said
    if found.turn.survives:
        return f"{said}; rises at depth {found.turn.depth.value:.0f}"
    return f"{said}; no sure turn"


def _cloud(cloud: Cloud) -> Iterator[tuple[str, str]]:
    """The course of the dimension and of the effective rank, at the model's own depths."""
    rows = [row for row in cloud.rows if row.depth >= 0]
    figures: Sequence[tuple[str, list[At]]] = (
        ("dimension (TwoNN)", [(row.depth, row.geometry.dimensions.two_nn) for row in rows]),
        ("of a like Gaussian", [(row.depth, row.gaussian.dimensions.two_nn) for row in rows]),
        ("effective rank", [(row.depth, row.spectrum.effective_rank) for row in rows]),
    )
    for name, every in figures:
        most = _extreme(every, max)
        ends = [every[0], *([most] if most is not None else []), every[-1]]
        yield name, "; ".join(dict.fromkeys(_at(one, decimal) for one in ends))


def _extreme(every: Sequence[At], pick: Callable[..., At]) -> At | None:
    known = [one for one in every if one[1].value is not None]
    return pick(known, key=lambda one: one[1].value) if known else None


def _at(one: At, form: Form) -> str:
    depth, found = one
    return f"{(point if found.low is None else bounded)(found, form)} at depth {depth}"


def _spread(count: int, most: int) -> list[int]:
    """So many numbers below ``count``, evenly, the first and the last among them."""
    return sorted({round(one) for one in np.linspace(0, count - 1, min(count, most)).tolist()})
