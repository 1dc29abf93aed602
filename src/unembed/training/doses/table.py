"""The figures of a grid of refined models: dose_table(start, points) -> DoseTable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from unembed.decisions.audit.audit import Audit
from unembed.errors import UnembedError
from unembed.stats.bootstrap import RESAMPLES
from unembed.training.doses.draws import DoseText, PointDraws
from unembed.training.doses.frontier import DAMAGES, GAINS, Curve, Matched, compared
from unembed.training.doses.records import CONTROL, START, TEMPERATURE, DosePoint, DoseTable
from unembed.training.doses.rows import DoseDraws, dose_row
from unembed.training.robustness.read_outs import ReadOuts

__all__ = ["DosePoint", "dose_table"]


def dose_table(
    start: Audit,
    points: Sequence[DosePoint],
    *,
    start_read_outs: ReadOuts | None = None,
    gain: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> DoseTable:
    """Summarise a grid of refined models against the model that they all started from.

    A figure is the mean over the seeds of a dose, its interval that of ``seed_draws.over_seeds``;
    every figure sees the same resamples of the documents. Differences from the control, objective
    "none", pair the seeds. Objectives are compared where each has gained ``gain``, a share of the
    start's, by default as much as all reach, along a curve that begins at the control of the same
    seed, and for the temperature at the start. Raises UnembedError where the audits are not of one
    text, where there is no point, and where two are one dose and seed. Source: theory §6.
    """
    _check(points)
    text = DoseText.of(start, [one.audit for one in points], resamples=resamples, seed=seed)
    doses: dict[tuple[str, float], list[DoseDraws]] = {}
    for one in points:
        found = DoseDraws.of(text, one, text.side(start, one.audit))
        doses.setdefault((one.objective, one.dose), []).append(found)
    unmoved = DoseDraws.of(text, DosePoint(START, 0.0, 0, start), text.start)
    control = doses.get((CONTROL, 0.0))
    rows = tuple(
        dose_row(text, dose, None if dose is control else control, start_read_outs)
        for dose in _ordered(doses)
    )
    return DoseTable(
        n_positions=len(text.row),
        n_documents=text.documents,
        n_nonfinite=text.nonfinite,
        notes=text.notes,
        start=dose_row(text, [unmoved], None, None),
        rows=rows,
        matched=_matched(text, doses, unmoved, gain),
    )


def _check(points: Sequence[DosePoint]) -> None:
    if not points:
        raise UnembedError(
            "a dose table needs a refined model: give the audit of one point or more"
        )
    seen: set[tuple[str, float, int, str | None]] = set()
    for one in points:
        key = (one.objective, one.dose, one.seed, one.matched_to)
        if key in seen:
            raise UnembedError(
                f"two points are {one.objective} at {one.dose:g} with seed {one.seed}: give each "
                "once"
            )
        seen.add(key)


def _ordered(doses: Mapping[tuple[str, float], list[DoseDraws]]) -> list[list[DoseDraws]]:
    """The control first, objectives as they came, doses ascending, the temperatures last."""
    names = list(dict.fromkeys(objective for objective, _ in doses))
    names.sort(key=lambda name: (name != CONTROL, name == TEMPERATURE))
    return [doses[key] for name in names for key in sorted(doses) if key[0] == name]


def _matched(
    text: DoseText,
    doses: Mapping[tuple[str, float], list[DoseDraws]],
    unmoved: DoseDraws,
    gain: float | None,
) -> tuple[Matched, ...]:
    names = list(dict.fromkeys(objective for objective, _ in doses if objective != CONTROL))
    names.sort(key=lambda name: name == TEMPERATURE)
    paths = {name: _paths(name, doses, unmoved) for name in names}
    found: list[Matched] = []
    for gained in GAINS:
        for damage in DAMAGES:
            curves = {
                name: {seed: _curve(path, gained, damage) for seed, path in by_seed.items()}
                for name, by_seed in paths.items()
            }
            found += compared(gained, damage, curves, text.documents, len(text.row), gain)
    return tuple(found)


def _paths(
    name: str, doses: Mapping[tuple[str, float], list[DoseDraws]], unmoved: DoseDraws
) -> dict[int | None, list[PointDraws]]:
    """The models of one objective by seed, in the order of their doses, the control first."""
    if name == TEMPERATURE:
        factors = {
            factor: dose[0] for (objective, factor), dose in doses.items() if objective == name
        }
        factors[1.0] = unmoved
        return {None: [factors[factor].draws for factor in sorted(factors)]}
    ours = sorted(key for key in doses if key[0] == name)
    paths: dict[int | None, list[PointDraws]] = {}
    for key in [(CONTROL, 0.0), *ours]:
        for one in doses.get(key, []):
            paths.setdefault(one.key, []).append(one.draws)
    trained = {one.key for key in ours for one in doses[key]}
    return {seed: path for seed, path in paths.items() if seed in trained}


def _curve(path: Sequence[PointDraws], gain: str, damage: str) -> Curve:
    return Curve(
        *(np.stack([one.figures[what] for one in path], axis=1) for what in (gain, damage))
    )
