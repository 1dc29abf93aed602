"""What a change did to a model's decisions: compare(before, after) -> Comparison."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeGuard, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unembed.decisions.audit.audit import Audit
from unembed.decisions.audit.finite_rows import FiniteRows
from unembed.decisions.audit.sense import check_comparison
from unembed.decisions.comparison.drafts import draft_rows
from unembed.decisions.comparison.flip_list import (
    FLIP_COLUMNS,
    FLIP_KINDS,
    Flip,
    FlipPair,
    commonest_flips,
    surest_flips,
)
from unembed.decisions.comparison.flips import COMPARISON_RESAMPLES
from unembed.decisions.comparison.mining import mined_rows
from unembed.decisions.comparison.movement import SHARPENING_VERDICTS, Sharpening
from unembed.decisions.comparison.pair_reader import PairReading
from unembed.decisions.comparison.pairing import pooled_vocabulary
from unembed.decisions.comparison.positions import PositionFilter
from unembed.decisions.comparison.rows import ComparedRows, in_pieces
from unembed.decisions.comparison.seeds import over_seeds, runs_in_words
from unembed.decisions.comparison.summary import (
    ComparisonSummary,
    PairFacts,
    comparison_from_json,
    comparison_to_json,
    read_comparison,
)
from unembed.decisions.quoting import CONTEXT_TOKENS, Quoting
from unembed.errors import UnembedError, need
from unembed.runs.arrays import read_table
from unembed.runs.frames import frame_of
from unembed.runs.listing import Listing
from unembed.runs.manifest import FinishedRun
from unembed.runs.provenance import SCHEMA, Provenance
from unembed.runs.ranks import current_ranks
from unembed.runs.run_record import RunRecord
from unembed.runs.store import RunFolder
from unembed.runs.table import as_text
from unembed.stats.forms import decimal, fine_share, full, points, share, signed
from unembed.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from unembed.decisions.layers.compare import LayersComparison
    from unembed.decisions.layers.layers import Layers

PART_ROWS = 1 << 18


@dataclass(frozen=True)
class Comparison(RunRecord):
    """Two audits of one text, position by position, with every figure of theory §4.

    ``table`` has a row per position: ``doc pos target``, then ``before_`` and ``after_`` columns;
    works wherever an Arrow table does. With several runs on a side it has the rows of each pair
    of runs one below the other, and ``before_run`` and ``after_run`` number them from 0.
    ``provenance`` holds both audits', and those of further runs as ``more_before`` and
    ``more_after``.
    """

    KIND: ClassVar[str] = "comparison"

    summary: ComparisonSummary
    provenance: dict[str, Any] = field(repr=False)
    vocabulary: Vocabulary = field(repr=False)
    documents: pa.Table = field(repr=False)
    folder: Path | None = None
    in_memory: pa.Table | None = field(default=None, repr=False)
    files: tuple[str, ...] = field(default=(), repr=False)
    """The tables of positions inside the folder, which the manifest lists."""

    @classmethod
    def of_run(cls, run: FinishedRun) -> Comparison:
        """Open a run whose files are whole; the positions stay on disk."""
        summary = comparison_from_json(run.summary())
        sides = (Provenance.from_json(run.key[side]) for side in ("before", "after"))
        check_comparison(run, summary.n_positions, max(side.head_shape[0] for side in sides))
        return cls(
            summary,
            run.key,
            Vocabulary.from_table(read_table(run.folder / "vocabulary.parquet")),
            read_table(run.folder / "documents.parquet"),
            run.folder,
            files=tuple(part.path for part in run.parts),
        )

    @cached_property
    def table(self) -> pa.Table:
        """All positions."""
        return pa.concat_tables(self._parts(None))

    def _parts(self, columns: list[str] | None) -> Iterator[pa.Table]:
        if self.in_memory is not None:
            yield self.in_memory if columns is None else self.in_memory.select(columns)
            return
        assert self.folder is not None
        for file in self.files:
            yield read_table(self.folder / file, columns=columns)

    def to_pandas(self, *, text: bool = False, context: int = CONTEXT_TOKENS) -> Any:
        """The table as a pandas DataFrame, a row a position.

        With ``text`` also the document's name, the ``context`` tokens before the predicted one, and
        a column of text beside each of token ids: ``after_top1_text``. Raises UnembedError where
        pandas is not installed.
        """
        quoting = Quoting(self.vocabulary, self.documents, context)
        return frame_of(quoting.spelled(self.table) if text else self.table)

    def spelled_parts(self, context: int = CONTEXT_TOKENS) -> Iterator[pa.Table]:
        """The rows of ``to_pandas(text=True)``, a part of the run at a time."""
        quoting = Quoting(self.vocabulary, self.documents, context)
        yield from quoting.spelled_parts(self._parts(None))

    @overload
    def flips(
        self, n: int = 20, kind: Literal["surest"] = "surest", *, context: int = CONTEXT_TOKENS
    ) -> Listing[Flip]: ...

    @overload
    def flips(
        self, n: int, kind: Literal["commonest"], *, context: int = CONTEXT_TOKENS
    ) -> Listing[FlipPair]: ...

    def flips(
        self, n: int = 20, kind: str = "surest", *, context: int = CONTEXT_TOKENS
    ) -> Listing[Flip] | Listing[FlipPair]:
        """The surest decisions that changed, quoted from the text, or the commonest changes.

        ``kind`` "surest" gives the n changed positions with the largest margin before, each with
        ``context`` tokens before it; "commonest" the n commonest pairs of the token chosen before
        and the one after. Either counts and indexes as a tuple, and shows as a table in a notebook.
        A part of the run is read at a time. With several seeds they are of the first run of each
        side. Raises UnembedError for another kind. ``summary.flips`` has the counts.
        """
        quoting = Quoting(self.vocabulary, self.documents, context)
        if kind == "surest":
            return surest_flips(self.first_pair(FLIP_COLUMNS), quoting, n)
        if kind == "commonest":
            return commonest_flips(self.first_pair(FLIP_COLUMNS), quoting, n)
        raise UnembedError(f"{kind!r} is no kind of flips: give one of {', '.join(FLIP_KINDS)}")

    def first_pair(self, columns: list[str] | None) -> Iterator[pa.Table]:
        """These columns, or all, of the first run before and the first after, part by part."""
        seeds = self.summary.seeds
        runs = [f"{side}_run" for side, n in zip(("before", "after"), seeds, strict=True) if n > 1]
        for part in self._parts(None if columns is None else [*columns, *runs]):
            kept = part
            for name in runs:
                kept = kept.filter(pc.equal(kept[name], 0))
            yield kept

    def __len__(self) -> int:
        return self.summary.n_positions

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)

    def __str__(self) -> str:
        return as_text(self._rows())

    def _phrases(self) -> Iterator[str]:
        if self.provenance:
            yield " → ".join(str(self.provenance[side]["model"]) for side in ("before", "after"))
        yield from self.summary._phrases()

    def _rows(self) -> list[tuple[str, str]]:
        return headline(self.summary)


@overload
def compare(
    before: Layers,
    after: Layers,
    *,
    out: str | Path | None = None,
    command: str = "",
    resamples: int | None = None,
    seed: int = 0,
) -> LayersComparison: ...


@overload
def compare(
    before: Audit | Sequence[Audit],
    after: Audit | Sequence[Audit],
    *,
    divergence: pa.Table | Iterable[pa.Table] | None = None,
    readings: Sequence[PairReading] = (),
    only: PositionFilter | None = None,
    out: str | Path | None = None,
    command: str = "",
    resamples: int | None = None,
    seed: int = 0,
) -> Comparison: ...


def compare(
    before: Audit | Sequence[Audit] | Layers,
    after: Audit | Sequence[Audit] | Layers,
    *,
    divergence: pa.Table | Iterable[pa.Table] | None = None,
    readings: Sequence[PairReading] = (),
    only: PositionFilter | None = None,
    out: str | Path | None = None,
    command: str = "",
    resamples: int | None = None,
    seed: int = 0,
) -> Comparison | LayersComparison:
    """Which decisions changed between two audits of one text, and were they right.

    Rows pair on (document, position). Churn, flips and their tests, runner-up rotation, margin
    bands, frequency, token class, calibration, and the flips that the margins before predict; each
    margin figure raw and scale-free, each figure with an interval over documents.
    ``compare(a, a)`` is zero throughout. ``divergence``, a table or its parts, and
    ``readings`` are those of ``live.audit_both``; a reading's summary is of the whole text,
    whatever ``only`` keeps. With ``out`` the run is written there.

    Two runs of ``layers`` are compared depth by depth, which is ``decisions.compare_layers``.

    Either side may be several audits, of checkpoints trained with different seeds. Each run before
    is paired with each after and the rows of all pairs are pooled: a figure is the one over all
    seeds, its interval that over documents, widened by the spread between seeds
    (``seeds.widened``), and there are no p-values.
    Raises UnembedError where the audits are not of one text, tokenizer and windows, where two of
    one side are one model, where ``only`` leaves nothing or spells terms with another tokenizer,
    and for ``divergence`` with several audits on a side. Source: theory §4.
    """
    if _is_layers(before) and _is_layers(after):
        if divergence is not None or readings or only is not None:
            raise UnembedError(
                "divergence, readings and only are of audits: compare two runs of layers without"
            )
        compare_layers = resolve_name("unembed.decisions.layers.compare:compare_layers")
        found: LayersComparison = compare_layers(
            before, after, out=out, command=command, resamples=resamples, seed=seed
        )
        return found
    if _is_layers(before) or _is_layers(after):
        raise UnembedError(
            "one side is a run of layers and the other none: give two of Layers.load(folder), or "
            "two of Audit.load(folder)"
        )
    only = only or PositionFilter()
    resamples = COMPARISON_RESAMPLES if resamples is None else resamples
    olds, news = (
        _runs(side, name)  # type: ignore[arg-type]
        for side, name in ((before, "before"), (after, "after"))
    )
    seeds = len(olds), len(news)
    if (divergence is not None or readings) and seeds != (1, 1):
        raise UnembedError(
            f"divergences take one model on each side, got {seeds[0]} before and {seeds[1]} after: "
            "compare several seeds by their audits alone"
        )
    k = min(one.provenance.options["top_k"] for one in (*olds, *news))
    apart = [divergence] if isinstance(divergence, pa.Table) else divergence
    (first, *more_before), (second, *more_after) = (
        [one.provenance.to_json() for one in side] for side in (olds, news)
    )
    provenance = {
        "kind": Comparison.KIND,
        "schema": SCHEMA,
        "before": first,
        "after": second,
        "more_before": more_before,
        "more_after": more_after,
        "only": only.words,
        "divergence": divergence is not None,
        "resamples": resamples,
        "seed": seed,
    }
    if readings:
        provenance["readings"] = {one.reader.name: one.reader.key for one in readings}

    if out is not None and not current_ranks().first:
        return Comparison.keep(out, provenance, lambda _folder: {}, command=command)
    parts = [ComparedRows.of(old, new, only, apart) for old in olds for new in news]
    vocabulary = pooled_vocabulary([part.paired for part in parts])

    def summarised(some: Sequence[ComparedRows]) -> ComparisonSummary:
        about = PairFacts(
            vocabulary=vocabulary,
            nonfinite=sum(part.nonfinite for part in some),
            notes=tuple(dict.fromkeys(note for part in some for note in part.paired.notes)),
            only=only.words,
            candidates=k if k >= 2 else 0,
            divergence=divergence is not None,
        )
        rows = FiniteRows.stacked([part.rows for part in some])
        return read_comparison(rows, about, resamples=resamples, seed=seed)

    def summary_of_all() -> ComparisonSummary:
        if len(parts) == 1:
            found = {
                one.reader.name: one.reader.summary(one.parts, resamples=resamples, seed=seed)
                for one in readings
            }
            return replace(summarised(parts), **found)  # type: ignore[arg-type]
        return over_seeds(summarised(parts), [summarised([part]) for part in parts], seeds)

    def tables() -> Iterator[pa.Table]:
        for part, (old, new) in zip(parts, np.ndindex(seeds), strict=True):
            yield from part.tables({} if len(parts) == 1 else {"before_run": old, "after_run": new})

    named = (vocabulary, olds[0].documents)
    if out is None:
        whole = pa.concat_tables(tables()).combine_chunks()
        return Comparison(summary_of_all(), provenance, *named, in_memory=whole)

    def written(folder: RunFolder) -> dict[str, Any]:
        summary = summary_of_all()
        for number, table in enumerate(in_pieces(tables(), PART_ROWS)):
            path = f"tokens/part-{number:05d}.parquet"
            if path not in folder.done:
                folder.write_table(path, table)
        folder.write_table("vocabulary.parquet", vocabulary.to_table())
        folder.write_table("documents.parquet", olds[0].documents)
        return comparison_to_json(summary)

    return Comparison.keep(out, provenance, written, command=command)


def headline(summary: ComparisonSummary) -> list[tuple[str, str]]:
    """The short table that a comparison prints: name and value with its interval."""
    flips, movement, calibration = summary.flips, summary.movement, summary.calibration
    rows = [
        ("positions", f"{summary.n_positions:,} in {summary.n_documents:,} documents"),
        ("changed top token (churn)", full(flips.churn, share)),
        ("wrong to right", f"{flips.wrong_to_right:,}"),
        ("right to wrong", f"{flips.right_to_wrong:,}"),
        ("flip ratio", full(flips.flip_ratio, decimal)),
        ("accuracy before", full(flips.accuracy_before, share)),
        ("accuracy difference", full(flips.accuracy_difference, points)),
        ("McNemar p, by document", full(flips.clustered_mcnemar_p, decimal)),
        ("loss difference (nats)", full(calibration.nll_difference_nats, signed)),
        ("wider margin", full(movement.everywhere.margin.wider, share)),
        ("median Δ margin (logits)", full(movement.everywhere.margin.median, signed)),
        (
            "median Δ scale-free margin",
            full(movement.everywhere.relative_distance.median, signed),
        ),
        ("where both tokens stayed", _sharpening(movement.sharpening)),
        ("runner-up rotation", full(movement.rotation.share, share)),
        ("churn that margins predict", full(summary.prediction.predicted, share)),
    ]
    if summary.divergence is not None:
        divergences = summary.divergence
        rows += [
            ("KL(before‖after) (nats)", full(divergences.kl_forward.mean, decimal)),
            ("KL(after‖before) (nats)", full(divergences.kl_backward.mean, decimal)),
            ("total variation", full(divergences.total_variation.mean, fine_share)),
            ("speculative acceptance", full(divergences.acceptance, fine_share)),
            ("top-k overlap", full(divergences.overlap, fine_share)),
        ]
    rows += draft_rows(summary.drafts) + mined_rows(summary.mined)
    if summary.only is not None:
        rows.insert(1, ("only", summary.only))
    runs = runs_in_words(summary.seeds)
    if runs is not None:
        rows.insert(1, ("seeds", runs))
    if summary.n_nonfinite:
        rows.append(("not finite", f"{summary.n_nonfinite:,} positions left out"))
    rows += [("note", note) for note in summary.notes]
    return rows


def _sharpening(check: Sharpening) -> str:
    """What the check for sharpening found, as the end of a line."""
    words = SHARPENING_VERDICTS.get(check.verdict, check.verdict)
    return words[0].lower() + words[1:]


def _is_layers(side: Any) -> TypeGuard[Layers]:
    return getattr(side, "KIND", None) == "layers"


def _runs(side: Audit | Sequence[Audit], name: str) -> list[Audit]:
    """The audits of one side. Raises UnembedError for none, and where two are one model."""
    if isinstance(side, str | Path):
        raise UnembedError(f"{str(side)!r} {name} is no audit: give Audit.load({str(side)!r})")
    runs = [side] if isinstance(side, Audit) else list(side)
    for run in runs:
        need(run, Audit, "give Audit.load(folder), or audit(model, corpus)")
    if not runs:
        raise UnembedError(f"there is no audit {name}: give one, or one for each seed")
    for one, other in combinations([run.provenance for run in runs], 2):
        same = (one.model_digest, one.model_dtype) == (other.model_digest, other.model_dtype)
        if same:
            raise UnembedError(
                f"two seeds are one model: {one.model} and {other.model}, both {name}, have the "
                f"digest {one.model_digest[:12]} in {one.model_dtype}; give each seed once"
            )
    return runs
