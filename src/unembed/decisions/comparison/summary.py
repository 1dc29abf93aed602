"""Every number of a comparison, computed once from the paired positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from unembed.decisions.audit.finite_rows import FiniteRows
from unembed.decisions.audit.summary import MARGIN_BANDS
from unembed.decisions.comparison.calibration import CalibrationComparison, read_calibration
from unembed.decisions.comparison.divergences import (
    DivergenceColumns,
    DivergenceSummary,
    read_divergences,
)
from unembed.decisions.comparison.drafts import DraftSummary
from unembed.decisions.comparison.flips import (
    COMPARISON_RESAMPLES,
    FlipGroup,
    Flips,
    TokenExtremes,
    read_flip_table,
    read_flips,
    read_gaining_and_losing_tokens,
)
from unembed.decisions.comparison.mining import MinedSummary
from unembed.decisions.comparison.movement import Movement, read_movement
from unembed.decisions.comparison.pairing import PairedPositions
from unembed.decisions.comparison.prediction import FlipPrediction, read_prediction
from unembed.decisions.names import BAND_NAMES as BAND_NAMES
from unembed.decisions.tokens import CLASSES, FREQUENCY_NAMES
from unembed.runs.frames import Figures
from unembed.runs.record import record_from_json, record_to_json
from unembed.short_repr import ShortRepr
from unembed.stats.forms import full, points, share
from unembed.text.vocabulary import Vocabulary


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
    spells ``tokens``. ``divergence`` is there where both models were run together, and ``drafts``
    where the second was then judged as a draft of the first, ``mined`` where it was looked up what
    the change taught.

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
    drafts: DraftSummary | None = None
    mined: MinedSummary | None = None

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
    divergence: DivergenceColumns | None = None,
    resamples: int = COMPARISON_RESAMPLES,
    seed: int = 0,
) -> ComparisonSummary:
    """The figures of positions in memory, see ``read_comparison``."""
    columns = {name: getattr(pair, name) for name in ("pos", "target")}
    for name, side in (("before", pair.before), ("after", pair.after)):
        columns |= {f"{name}_{key}": column for key, column in vars(side).items()}
        columns[f"{name}_right"] = side.top1 == pair.target
    columns |= vars(groups) | ({} if divergence is None else vars(divergence))
    about = PairFacts(pair.vocabulary, pair.nonfinite, pair.notes, only, 0, divergence is not None)
    return read_comparison(
        FiniteRows.held(pair.doc, **columns), about, resamples=resamples, seed=seed
    )


@dataclass(frozen=True)
class PairFacts:
    """What a comparison says besides its figures, and which columns it has.

    ``candidates`` are the logits of each position that both audits kept, ``divergence`` whether
    there are divergences.
    """

    vocabulary: Vocabulary
    nonfinite: int
    notes: tuple[str, ...]
    only: str | None
    candidates: int
    divergence: bool


def read_comparison(
    rows: FiniteRows,
    about: PairFacts,
    *,
    resamples: int = COMPARISON_RESAMPLES,
    seed: int = 0,
) -> ComparisonSummary:
    """Compute the figures of theory §4 for paired positions, which are read a part at a time.

    Candidates' logits make the prediction of flips count every one instead of the runner-up alone.
    The same input gives the same figures to the last bit, in any parts.
    """
    cross = [f"{kind}, {count}" for kind in CLASSES for count in FREQUENCY_NAMES]
    how: dict[str, Any] = {"resamples": resamples, "seed": seed}

    def table(group: str, names: Sequence[str]) -> tuple[FlipGroup, ...]:
        return read_flip_table(rows, group, names, **how)

    with ThreadPoolExecutor(2) as pool:
        moved = pool.submit(read_movement, rows, **how)
        calibrated = pool.submit(read_calibration, rows, **how)
        predicted = pool.submit(read_prediction, rows, about.candidates, **how)
        band_before = table("band_before", BAND_NAMES)
        band_after = table("band_after", BAND_NAMES)
        frequency = table("frequency", FREQUENCY_NAMES)
        token_class = table("token_class", CLASSES)
        class_and_frequency = read_flip_table(_crossed(rows), "cross", cross, **how)
        word_start = table("word_start", ("inside a word", "word start"))
    tokens = read_gaining_and_losing_tokens(rows)
    named = {flip.token for flip in (*tokens.gaining, *tokens.losing)}
    return ComparisonSummary(
        n_positions=rows.n,
        n_documents=rows.documents,
        n_nonfinite=about.nonfinite,
        only=about.only,
        notes=about.notes,
        flips=read_flips(rows, **how),
        by_band_before=band_before,
        by_band_after=band_after,
        by_frequency=frequency,
        by_class=token_class,
        by_class_and_frequency=class_and_frequency,
        by_word_start=word_start,
        tokens=tokens,
        token_texts={str(token): about.vocabulary[token] for token in sorted(named)},
        movement=moved.result(),
        calibration=calibrated.result(),
        prediction=predicted.result(),
        divergence=_divergences(rows, **how) if about.divergence else None,
    )


def _crossed(rows: FiniteRows) -> FiniteRows:
    """Rows with class and frequency as one group, ``cross``."""

    def read(names: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        stored = [name for name in names if name != "cross"]
        for part in rows.read((*stored, "token_class", "frequency")):
            kind = part["token_class"].astype(np.intp)
            yield {**part, "cross": kind * len(FREQUENCY_NAMES) + part["frequency"]}

    return replace(rows, read=read)


def _divergences(rows: FiniteRows, *, resamples: int, seed: int) -> DivergenceSummary:
    groupings = {"band_before": BAND_NAMES, "frequency": FREQUENCY_NAMES, "token_class": CLASSES}
    return read_divergences(rows, groupings, resamples=resamples, seed=seed)


def comparison_to_json(summary: ComparisonSummary) -> dict[str, Any]:
    """The summary as dictionaries, lists and scalars, for ``json.dumps(..., allow_nan=False)``."""
    plain: dict[str, Any] = record_to_json(summary)
    return plain


def comparison_from_json(data: dict[str, Any]) -> ComparisonSummary:
    """Rebuild a summary from ``comparison_to_json``'s value; ValueError where it does not fit."""
    return record_from_json(ComparisonSummary, data)
