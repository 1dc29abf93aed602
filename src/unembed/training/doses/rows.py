"""One dose of a grid as a row: its figures over seeds and documents, by group too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from unembed.decisions.audit.gap import GapUndefined, fit_gap
from unembed.decisions.comparison.flips import MINIMUM_FLIPS
from unembed.decisions.comparison.pairing import Side
from unembed.decisions.comparison.summary import BAND_NAMES
from unembed.decisions.tokens import CLASSES, FREQUENCY_NAMES
from unembed.stats.estimate import Estimate
from unembed.training.doses.draws import DoseText, GroupDraws, PointDraws, point_draws
from unembed.training.doses.records import (
    START,
    TEMPERATURE,
    DoseFigures,
    DoseGroup,
    DosePoint,
    DoseRow,
    DoseSeed,
)
from unembed.training.doses.seed_draws import SeedDraws, difference_over_seeds, over_seeds
from unembed.training.robustness.comparison import RobustnessComparison, compare_read_outs
from unembed.training.robustness.read_outs import ReadOuts

UNDEFINED = {
    "flip_ratio": f"a seed has fewer than {MINIMUM_FLIPS} flips of either kind",
    "structural_share_of_net": f"a seed has a net of fewer than {MINIMUM_FLIPS}",
    "rotated_wider": "no runner-up was rotated",
    "rotated_change": "no runner-up was rotated",
    "median_margin_gain": "half of the starting model's margins are 0",
    "scale_free_gain": "half of the starting model's margins are 0",
}
"""Why a figure of ``DoseFigures`` may not exist."""


@dataclass(frozen=True)
class DoseDraws:
    """A point with its figures in every resample and its gap fit, alpha and R squared."""

    point: DosePoint
    draws: PointDraws
    gap: tuple[float, float] | None

    @staticmethod
    def of(text: DoseText, point: DosePoint, side: Side) -> DoseDraws:
        """A point from its columns at the text's positions."""
        return DoseDraws(point, point_draws(text, side), _gap(side))

    @property
    def key(self) -> int | None:
        """Its seed; None where nothing was trained."""
        return None if self.point.objective in (TEMPERATURE, START) else self.point.seed


def dose_row(
    text: DoseText,
    dose: Sequence[DoseDraws],
    control: Sequence[DoseDraws] | None,
    start_read_outs: ReadOuts | None,
) -> DoseRow:
    """The figures of one dose, and each minus the control's where one is given."""
    first = dose[0].point
    figures = _figures(text, _by_seed(dose), None)
    apart = None
    if control is not None:
        apart = _figures(text, _by_seed(dose), _by_seed(control))
        if figures.structural_share_of_net.value is None:
            apart = replace(apart, structural_share_of_net=figures.structural_share_of_net)
    unshared = _net_unshared(figures.accuracy_change)
    gaps = [one.gap for one in dose if one.gap is not None]
    alpha, r_squared = np.mean(gaps, axis=0).tolist() if len(gaps) == len(dose) else (None, None)
    named = [one.point.matched_to for one in dose if one.point.matched_to is not None]

    def groups(kind: str, names: Sequence[str]) -> tuple[DoseGroup, ...]:
        draws: dict[int | None, GroupDraws] = {one.key: getattr(one.draws, kind) for one in dose}
        return tuple(_group(text, draws, g, name, unshared) for g, name in enumerate(names))

    return DoseRow(
        objective=first.objective,
        weight=_mean_weight(dose),
        gradient_share=first.gradient_share,
        matched_to=", ".join(named) or None,
        seeds=tuple(one.point.seed for one in dose if one.key is not None),
        figures=figures,
        over_control=apart,
        by_band=groups("by_band", BAND_NAMES),
        by_frequency=groups("by_frequency", FREQUENCY_NAMES),
        by_class=groups("by_class", CLASSES),
        alpha=alpha,
        r_squared=r_squared,
        read_outs=_read_outs(text, [] if start_read_outs is None else [start_read_outs], dose),
        read_outs_over_control=_read_outs(text, _disturbed(control or []), dose),
        singles=tuple(_single(one) for one in dose),
    )


def _mean_weight(dose: Sequence[DoseDraws]) -> float:
    """The weight that was set, or the mean of those that a share of the gradient took."""
    weights = [one.point.weight for one in dose]
    return weights[0] if len(set(weights)) == 1 else float(np.mean(weights))


def _read_outs(
    text: DoseText, before: Sequence[ReadOuts], dose: Sequence[DoseDraws]
) -> RobustnessComparison | None:
    after = _disturbed(dose)
    if not before or not after:
        return None
    return compare_read_outs(
        before, after, resamples=text.resampling.resamples, seed=text.resampling.seed
    )


def _disturbed(dose: Sequence[DoseDraws]) -> list[ReadOuts]:
    return [one.point.read_outs for one in dose if one.point.read_outs is not None]


def _by_seed(dose: Sequence[DoseDraws]) -> dict[int | None, PointDraws]:
    return {one.key: one.draws for one in dose}


def _figures(
    text: DoseText,
    dose: Mapping[int | None, PointDraws],
    control: Mapping[int | None, PointDraws] | None,
) -> DoseFigures:
    """Each figure of a dose, or its difference from the control's."""
    n = len(text.row)
    found = {}
    for name in (field.name for field in fields(DoseFigures)):
        reason = UNDEFINED.get(name, "no position to average over")
        ours: SeedDraws = {seed: draws.figures[name] for seed, draws in dose.items()}
        if control is None:
            found[name] = over_seeds(ours, text.documents, n, reason)
        else:
            theirs = {seed: draws.figures[name] for seed, draws in control.items()}
            found[name] = difference_over_seeds(ours, theirs, text.documents, n, reason)
    unshared = None if control is not None else _net_unshared(found["accuracy_change"])
    if unshared is not None:
        found["structural_share_of_net"] = Estimate(None, n=n, reason=unshared)
    return DoseFigures(**found)


def _group(
    text: DoseText,
    draws: Mapping[int | None, GroupDraws],
    group: int,
    name: str,
    unshared: str | None,
) -> DoseGroup:
    def estimate(what: str, reason: str) -> Estimate:
        each = {seed: getattr(one, what)[:, group] for seed, one in draws.items()}
        return over_seeds(each, text.documents, len(text.row), reason)

    share_of_net = estimate("share_of_net", UNDEFINED["structural_share_of_net"])
    if unshared is not None:
        share_of_net = Estimate(None, n=len(text.row), reason=unshared)
    return DoseGroup(
        name,
        estimate("share", "no position"),
        estimate("accuracy", "a seed has no position in this group"),
        estimate("net", "no position"),
        share_of_net,
    )


def _net_unshared(accuracy_change: Estimate) -> str | None:
    """Why shares of the net mean nothing, or None where they do (Fieller)."""
    low, high = accuracy_change.low, accuracy_change.high
    if low is not None and high is not None and low <= 0 <= high:
        return "the interval of the net holds zero"
    return None


def _single(one: DoseDraws) -> DoseSeed:
    values = {
        name: float(one.draws.figures[name][0])
        for name in (field.name for field in fields(DoseSeed))
        if name != "seed"
    }
    return DoseSeed(
        one.key, **{name: value if math.isfinite(value) else None for name, value in values.items()}
    )


def _gap(side: Side) -> tuple[float, float] | None:
    """Alpha and R squared of the published gap fit; of one cluster there is no resampling."""
    try:
        fit = fit_gap(side.margin, np.zeros(len(side.margin), dtype=np.intp)).published
    except GapUndefined:
        return None
    assert fit.alpha.value is not None
    return fit.alpha.value, fit.r_squared
