"""The rows of a comparison: those of one pair of runs, or of several pairs below each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from unembed.decisions.audit.audit import Audit
from unembed.decisions.comparison.divergences import DivergenceColumns
from unembed.decisions.comparison.pairing import PairedPositions, pair, pooled
from unembed.decisions.comparison.positions import PositionFilter
from unembed.decisions.comparison.summary import Groups, bands_of
from unembed.decisions.tokens import CLASSES, FREQUENCY_NAMES, classes_of, frequency_buckets


@dataclass(frozen=True)
class ComparedRows:
    """Paired positions with their groups and the candidates' logits before, where they were kept.

    Frequencies count the targets of one audited text, with several pairs too.
    """

    paired: PairedPositions
    groups: Groups
    topk_logits: Float[np.ndarray, "positions k"] | None

    @staticmethod
    def of(before: Audit, after: Audit, only: PositionFilter, k: int) -> ComparedRows:
        """The positions of one pair of runs that ``only`` keeps, with the first k candidates.

        Raises UnembedError as ``pair`` and ``PositionFilter`` do.
        """
        paired = pair(before, after)
        groups = _groups(paired)
        if only.words is not None:
            only.refuse_other_tokenizer(paired, before.provenance.text.tokenizer)
            kept = only.chosen(paired, groups, before.documents["name"].to_pylist())
            paired, groups = paired.rows(kept), groups.rows(kept)
        return ComparedRows(paired, groups, _topk_logits(before, paired, k))

    def table(
        self,
        divergences: DivergenceColumns | None,
        runs: dict[str, Int[np.ndarray, " positions"]] | None = None,
    ) -> pa.Table:
        """A row per position; ``divergences`` and ``runs`` are further columns."""
        paired = self.paired
        columns: dict[str, Any] = {"doc": paired.doc, "pos": paired.pos, "target": paired.target}
        columns |= runs or {}
        for name, side in (("before", paired.before), ("after", paired.after)):
            columns |= {f"{name}_{key}": column for key, column in vars(side).items()}
            columns[f"{name}_right"] = side.top1 == paired.target
        columns |= {} if divergences is None else vars(divergences)
        columns["word_start"] = paired.word_start
        for name, labels, group in (
            ("class", CLASSES, self.groups.token_class),
            ("frequency", FREQUENCY_NAMES, self.groups.frequency),
        ):
            # Plain text: every part of a folder would bring a dictionary of its own.
            columns[name] = pa.array(labels, pa.string()).take(pa.array(group))
        return pa.table(columns)


def stacked(parts: Sequence[ComparedRows]) -> ComparedRows:
    """The rows of several pairs one below the other, see ``pairing.pooled``; of one, as it is."""
    if len(parts) == 1:
        return parts[0]
    groups = [vars(one.groups) for one in parts]
    logits = [one.topk_logits for one in parts if one.topk_logits is not None]
    return ComparedRows(
        pooled([one.paired for one in parts]),
        Groups(**{name: np.concatenate([one[name] for one in groups]) for name in groups[0]}),
        np.concatenate(logits) if logits else None,
    )


def run_columns(
    sizes: Sequence[int], seeds: tuple[int, int]
) -> dict[str, Int[np.ndarray, " positions"]]:
    """``before_run`` and ``after_run`` of each row, from 0, for pairs with these numbers of rows.

    The pairs of the first run before come first.
    """
    pairs = np.indices(seeds).reshape(2, -1).astype(np.int16)
    before, after = (np.repeat(numbers, sizes) for numbers in pairs)
    return {"before_run": before, "after_run": after}


def _groups(paired: PairedPositions) -> Groups:
    tokens, where = np.unique(paired.target, return_inverse=True)
    classes = classes_of([paired.vocabulary[token] for token in tokens.tolist()])
    return Groups(
        bands_of(paired.before.margin),
        bands_of(paired.after.margin),
        frequency_buckets(paired.target).astype(np.int64),
        classes[where].astype(np.int64),
        paired.word_start.astype(np.int64),
    )


def _topk_logits(
    before: Audit, paired: PairedPositions, k: int
) -> Float[np.ndarray, "positions k"] | None:
    """The candidates' logits before, at the paired positions; None for fewer than two."""
    if k < 2:
        return None
    held = before.provenance.options["top_k"]
    column = before.read(["topk_logits"])["topk_logits"].combine_chunks()
    logits = column.fill_null([0.0] * held) if column.null_count else column
    found: Float[np.ndarray, "positions k"] = logits.flatten().to_numpy().reshape(-1, held)
    return found[paired.row, :k]
