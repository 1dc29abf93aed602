"""Every number of a comparison, computed once from the paired positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from unembed.decisions.audit.summary import MARGIN_BANDS
from unembed.decisions.comparison.calibration import (
    CalibrationColumns,
    CalibrationComparison,
    compare_calibration,
)
from unembed.decisions.comparison.divergences import (
    DivergenceColumns,
    DivergenceSummary,
    Grouping,
    summarise_divergences,
)
from unembed.decisions.comparison.flips import (
    COMPARISON_RESAMPLES,
    FlipColumns,
    FlipGroup,
    Flips,
    TokenExtremes,
    flip_table,
    flips,
    gaining_and_losing_tokens,
)
from unembed.decisions.comparison.movement import MarginColumns, Movement, compare_margins
from unembed.decisions.comparison.pairing import PairedPositions, Side
from unembed.decisions.comparison.prediction import FlipPrediction, predict_flips
from unembed.decisions.names import BAND_NAMES as BAND_NAMES
from unembed.decisions.tokens import CLASSES, FREQUENCY_NAMES
from unembed.runs.frames import Figures
from unembed.runs.record import record_from_json, record_to_json
from unembed.short_repr import ShortRepr
from unembed.stats.forms import full, points, share


@dataclass(frozen=True)
class Groups:
    """Each position's group, as an index: margin bands, target's frequency, target's class."""

    band_before: Int[np.ndarray, " positions"]
    band_after: Int[np.ndarray, " positions"]
    frequency: Int[np.ndarray, " positions"]
    token_class: Int[np.ndarray, " positions"]
    word_start: Int[np.ndarray, " positions"]

    def rows(self, chosen: Bool[np.ndarray, " positions"]) -> Groups:
        """The chosen positions."""
        return Groups(**{name: column[chosen] for name, column in vars(self).items()})


@dataclass(frozen=True)
class ComparisonSummary(ShortRepr, Figures):
    """The figures of one comparison; every interval clusters by document.

    ``only`` says which positions were kept, where not all were. ``n_nonfinite`` positions were left
    out before that. Groups are those of theory §4; ``by_band_after`` bands the same positions by
    the margin after, so its rows before and after are the same positions too. ``token_texts``
    spells ``tokens``. ``divergence`` is there where both models were run together.

    ``seeds`` counts the runs before and after. With several every count, ``n_positions``,
    ``n_nonfinite`` and each ``n`` among them, is a total over all pairs of runs, the number of rows
    of the table; documents are counted once. Intervals then hold the spread between seeds too.
    """

    n_positions: int
    n_documents: int
    n_nonfinite: int
    only: str | None
    notes: tuple[str, ...]
    flips: Flips
    by_band_before: tuple[FlipGroup, ...]
    by_band_after: tuple[FlipGroup, ...]
    by_frequency: tuple[FlipGroup, ...]
    by_class: tuple[FlipGroup, ...]
    by_class_and_frequency: tuple[FlipGroup, ...]
    by_word_start: tuple[FlipGroup, ...]
    tokens: TokenExtremes
    token_texts: dict[str, str]
    movement: Movement
    calibration: CalibrationComparison
    prediction: FlipPrediction
    divergence: DivergenceSummary | None = None
    seeds: tuple[int, int] = (1, 1)

    def _phrases(self) -> Iterator[str]:
        yield f"{self.n_positions:,} positions in {self.n_documents:,} documents"
        yield f"{self.flips.changed:,} changed"
        yield f"churn {full(self.flips.churn, share)}"
        yield f"accuracy difference {full(self.flips.accuracy_difference, points)}"


def bands_of(margin: Float[np.ndarray, " positions"]) -> Int[np.ndarray, " positions"]:
    """The index of each margin's band [0,.5) [.5,1) [1,2) [2,5) [5,inf) (theory §4)."""
    return np.searchsorted(np.array(MARGIN_BANDS[1:-1]), margin, side="right")


def summarise_pair(
    pair: PairedPositions,
    groups: Groups,
    *,
    only: str | None = None,
    topk_logits: Float[np.ndarray, "positions k"] | None = None,
    divergence: DivergenceColumns | None = None,
    resamples: int = COMPARISON_RESAMPLES,
    seed: int = 0,
) -> ComparisonSummary:
    """Compute the figures of theory §4 for paired positions.

    ``topk_logits`` of the audit before make the prediction of flips count every candidate instead
    of the runner-up alone. The same input gives the same figures to the last bit.
    """
    columns = FlipColumns(pair.doc, pair.target, pair.before.top1, pair.after.top1)
    cross = groups.token_class * len(FREQUENCY_NAMES) + groups.frequency
    cross_names = [f"{kind}, {count}" for kind in CLASSES for count in FREQUENCY_NAMES]
    how: dict[str, Any] = {"resamples": resamples, "seed": seed}

    def table(group: Int[np.ndarray, " positions"], names: Sequence[str]) -> tuple[FlipGroup, ...]:
        return flip_table(columns, group, names, **how)

    old, new = (_margins(side, pair.target) for side in (pair.before, pair.after))
    was, now = (_calibration(side, pair.target) for side in (pair.before, pair.after))
    with ThreadPoolExecutor(2) as pool:
        moved = pool.submit(compare_margins, old, new, pair.doc, **how)
        calibrated = pool.submit(compare_calibration, was, now, pair.doc, **how)
        predicted = pool.submit(predict_flips, old, new, pair.doc, topk_logits=topk_logits, **how)
        band_before = table(groups.band_before, BAND_NAMES)
        band_after = table(groups.band_after, BAND_NAMES)
        frequency = table(groups.frequency, FREQUENCY_NAMES)
        token_class = table(groups.token_class, CLASSES)
        class_and_frequency = table(cross, cross_names)
        word_start = table(groups.word_start, ("inside a word", "word start"))
    tokens = gaining_and_losing_tokens(columns)
    named = {flip.token for flip in (*tokens.gaining, *tokens.losing)}
    return ComparisonSummary(
        n_positions=len(pair.doc),
        n_documents=len(np.unique(pair.doc)),
        n_nonfinite=pair.nonfinite,
        only=only,
        notes=pair.notes,
        flips=flips(columns, **how),
        by_band_before=band_before,
        by_band_after=band_after,
        by_frequency=frequency,
        by_class=token_class,
        by_class_and_frequency=class_and_frequency,
        by_word_start=word_start,
        tokens=tokens,
        token_texts={str(token): pair.vocabulary[token] for token in sorted(named)},
        movement=moved.result(),
        calibration=calibrated.result(),
        prediction=predicted.result(),
        divergence=None
        if divergence is None
        else summarise_divergences(divergence, pair.doc, _groupings(groups), **how),
    )


def comparison_to_json(summary: ComparisonSummary) -> dict[str, Any]:
    """The summary as dictionaries, lists and scalars, for ``json.dumps(..., allow_nan=False)``."""
    plain: dict[str, Any] = record_to_json(summary)
    return plain


def comparison_from_json(data: dict[str, Any]) -> ComparisonSummary:
    """Rebuild a summary from ``comparison_to_json``'s value; ValueError where it does not fit."""
    return record_from_json(ComparisonSummary, data)


def _groupings(groups: Groups) -> dict[str, Grouping]:
    return {
        "band_before": Grouping(groups.band_before, BAND_NAMES),
        "frequency": Grouping(groups.frequency, FREQUENCY_NAMES),
        "token_class": Grouping(groups.token_class, CLASSES),
    }


def _margins(side: Side, target: Int[np.ndarray, " positions"]) -> MarginColumns:
    right = side.top1 == target
    return MarginColumns(side.top1, side.top2, right, side.margin, side.relative_distance)


def _calibration(side: Side, target: Int[np.ndarray, " positions"]) -> CalibrationColumns:
    return CalibrationColumns(side.confidence, side.top1 == target, side.nll, side.sum_p2)
