"""What the head decides at every position of a text: audit(model, corpus) -> Audit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Shaped
from torch import nn

from unembed.decisions.audit.closest import CLOSEST_COLUMNS, ClosestCall, closest_calls
from unembed.decisions.audit.logprob_gap import NATIVE_NLL
from unembed.decisions.audit.run import (
    MENTIONED,
    AuditOptions,
    AuditRun,
    documents_of,
    token_file,
    vocabulary_of,
)
from unembed.decisions.audit.sense import check_audit
from unembed.decisions.audit.summary import (
    AuditSummary,
    read_summary,
    summary_from_json,
    summary_to_json,
)
from unembed.decisions.quoting import CONTEXT_TOKENS, Quoting
from unembed.decisions.slices.choose import narrowest
from unembed.decisions.slices.decision import FILE as SLICES
from unembed.decisions.slices.decision import (
    DecisionSlice,
    decision_slices,
    slices_from_json,
    slices_to_json,
)
from unembed.decisions.slices.states import states_at
from unembed.errors import UnembedError, need
from unembed.models.mode import restores_mode
from unembed.models.model_pass import HeadReader, ModelPass
from unembed.runs.arrays import number_array, numbers_of, read_table
from unembed.runs.frames import frame_of
from unembed.runs.listing import Listing
from unembed.runs.manifest import FinishedRun
from unembed.runs.phases import Phases, current_phases
from unembed.runs.progress import progress_bar
from unembed.runs.provenance import Provenance
from unembed.runs.ranks import current_ranks
from unembed.runs.run_record import RunRecord
from unembed.runs.store import TABLES, RunFolder
from unembed.runs.table import as_text
from unembed.stats.forms import bounded, decimal, point, share, whole_percent
from unembed.text.corpus import Corpus
from unembed.text.vocabulary import Vocabulary

HELD_POSITIONS = 1 << 18
"""Positions whose columns are held once they were read, and that are read at a time."""


@dataclass(frozen=True)
class Audit(RunRecord):
    """A table of positions with what produced it.

    ``table`` has a row per predicted token in order of the text; ``documents`` a row per document;
    ``summary`` every headline number with its interval. Non-finite positions hold nulls. Works
    wherever an Arrow table does (``pa.table(audit)``, ``pl.from_arrow(audit)``).
    """

    KIND: ClassVar[str] = "audit"

    provenance: Provenance
    vocabulary: Vocabulary
    documents: pa.Table
    folder: Path | None = None
    in_memory: pa.Table | None = field(default=None, repr=False)
    files: tuple[str, ...] = field(default=(), repr=False)
    """The tables of positions inside the folder, which the manifest lists."""
    _held: dict[str, np.ndarray] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of_run(cls, run: FinishedRun) -> Audit:
        """Open a run whose files are whole; the positions stay on disk, the summary is its own."""
        provenance, summary = Provenance.from_json(run.key), summary_from_json(run.summary())
        check_audit(run, provenance, summary.n_positions)
        opened = cls._opened(run.folder, provenance, [part.path for part in run.parts])
        if summary.bfloat16 is not None:
            # An earlier version measured less, and its run is summarised anew when asked.
            vars(opened)["summary"] = summary
        return opened

    @classmethod
    def _opened(cls, folder: Path, provenance: Provenance, files: Sequence[str]) -> Audit:
        vocabulary = Vocabulary.from_table(read_table(folder / "vocabulary.parquet"))
        documents = read_table(folder / "documents.parquet")
        return cls(provenance, vocabulary, documents, folder=folder, files=tuple(sorted(files)))

    @cached_property
    def table(self) -> pa.Table:
        """All positions."""
        return self.read()

    @cached_property
    def summary(self) -> AuditSummary:
        """Every number that the audit prints or draws; intervals cluster by document."""
        return _summarise(self)

    def column(self, name: str) -> Shaped[np.ndarray, "positions ..."]:
        """One column; nulls become NaN in float columns and -1 in the others."""
        return _filled(self.read([name])[name])

    def column_parts(self, names: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """Some columns of all positions, a part at a time, each as ``column`` gives it.

        A column of lists has two axes, and rows of 0 where it is null.

        Those of a short run are read once.
        """
        if len(self) > HELD_POSITIONS:
            for part in self._parts(list(dict.fromkeys(names))):
                for start in range(0, max(1, part.num_rows), HELD_POSITIONS):
                    piece = part.slice(start, HELD_POSITIONS)
                    yield {name: _filled(piece[name]) for name in names}
            return
        missing = [name for name in dict.fromkeys(names) if name not in self._held]
        if missing:
            table = self.read(missing)
            self._held.update({name: _filled(table[name]) for name in missing})
        yield {name: self._held[name] for name in names}

    def has_column(self, name: str) -> bool:
        """Whether a column is among the positions'."""
        if self.in_memory is not None:
            return name in self.in_memory.column_names
        assert self.folder is not None
        return all(name in pq.read_schema(self.folder / file).names for file in self.files)

    def check_columns(self, names: Sequence[str]) -> None:
        """Raise UnembedError where one of these columns is not among the positions'."""
        for name in names:
            if not self.has_column(name):
                where = self.folder or f"the audit of {self.provenance.model}"
                raise UnembedError(
                    f"{where} has no column {name!r}: an older version wrote it; repeat the audit "
                    "in a new folder"
                )

    def of_documents(self, documents: Sequence[int]) -> pa.Table:
        """The positions of some documents, sorted; reads one part of the run at a time."""
        wanted = number_array(np.array(documents, dtype=np.int32))
        found = [part.filter(pc.is_in(part["doc"], wanted)) for part in self._parts(None)]
        return pa.concat_tables(found).sort_by([("doc", "ascending"), ("pos", "ascending")])

    def to_pandas(self, *, text: bool = False, context: int = CONTEXT_TOKENS) -> Any:
        """The table as a pandas DataFrame, a row a position.

        With ``text`` also the document's name, the ``context`` tokens before the predicted one, and
        a column of text beside each of token ids: ``top1_text``. Raises UnembedError where pandas
        is not installed.
        """
        quoting = Quoting(self.vocabulary, self.documents, context)
        return frame_of(quoting.spelled(self.table) if text else self.table)

    def spelled_parts(self, context: int = CONTEXT_TOKENS) -> Iterator[pa.Table]:
        """The rows of ``to_pandas(text=True)``, a part of the run at a time."""
        quoting = Quoting(self.vocabulary, self.documents, context)
        yield from quoting.spelled_parts(self._parts(None))

    @cached_property
    def slices(self) -> tuple[DecisionSlice, ...]:
        """The pictures that were asked for with the audit (``AuditOptions.slices``)."""
        if self.folder is None or not self.provenance.options.get("slices"):
            return ()
        return slices_from_json((self.folder / SLICES).read_bytes())

    def closest(self, n: int = 20, *, context: int = CONTEXT_TOKENS) -> Listing[ClosestCall]:
        """The n decisions with the smallest margin, each with ``context`` tokens before it.

        Equivalent to ``self.to_pandas(text=True).nsmallest(n, "margin")``, reading a part of the
        run at a time. It counts and indexes as a tuple and shows as a table in a notebook.
        """
        quoting = Quoting(self.vocabulary, self.documents, context)
        return closest_calls(self._parts(CLOSEST_COLUMNS), quoting, n)

    def __len__(self) -> int:
        return self.provenance.text.positions

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)

    def __str__(self) -> str:
        return as_text(self._rows())

    def _phrases(self) -> Iterator[str]:
        yield self.provenance.model
        documents = np.count_nonzero(numbers_of(self.documents["positions"]))
        yield f"{len(self):,} positions in {documents:,} documents"
        if "summary" in vars(self):
            yield f"median margin {self.summary.median_margin}"

    def _rows(self) -> list[tuple[str, str]]:
        notes = [("note", note) for note in self.provenance.text.notes]
        stored = self.provenance.options.get("hidden_states")
        if stored is not None:
            side = str(stored["are"]).replace("-", " the final ")
            notes.insert(0, ("hidden states", f"stored: {stored['from']}, {side}"))
        return headline(self.summary) + notes

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """These columns of all positions, or all of them; the others stay on disk."""
        return pa.concat_tables(self._parts(columns))

    def _parts(self, columns: list[str] | None) -> Iterator[pa.Table]:
        if self.folder is None:
            assert self.in_memory is not None
            yield self.in_memory if columns is None else self.in_memory.select(columns)
        else:
            for file in self.files:
                yield read_table(self.folder / file, columns=columns)


@restores_mode
def audit(
    model: nn.Module,
    corpus: Corpus,
    options: AuditOptions | None = None,
    *,
    out: str | Path | None = None,
    name: str | None = None,
    command: str = "",
    progress: bool = False,
    phases: Phases | None = None,
    second_reader: Callable[[ModelPass], HeadReader] | None = None,
) -> Audit:
    """Measure every token decision of a causal language model on a text.

    For each predicted token: the two best tokens and their margin, the scale-free margin, the
    target's loss and rank, entropy and confidence, all from float32-exact logits whatever the
    model's dtype, without ever holding positions x vocabulary.

    With ``out`` the positions are written there as Parquet parts: a killed run goes on where it
    stopped when called again, to the same bytes. ``name`` is what the provenance calls the model,
    ``command`` how to replay the run; ``phases`` collects where the time went. ``second_reader``
    makes another reader of the same pass, which keeps what it finds in the same folder.
    Raises UnembedError for input that cannot be used, and NonFiniteError, naming document and
    position, where logits are not finite. Source: theory §1-2.
    """
    if second_reader is not None and out is None:
        raise UnembedError(
            "a second reader of an audit keeps what it finds in its folder: give out"
        )
    need(model, nn.Module, "give the model itself, such as load(name).model")
    need(corpus, Corpus, "give Corpus.read(path, tokenizer)")
    options = options or AuditOptions()
    phases = phases or current_phases()
    model.eval()
    with phases("prepare"):
        run = AuditRun.of(model, corpus, options, name or type(model).__name__, second_reader)
    positions = run.reading.windows.positions
    if out is None:
        with progress_bar("audit", "tok", positions, progress) as bar:
            tables = [table for _part, table, _ in run.parts(frozenset(), bar, phases)]
        with phases("summary"):
            return held_audit(run, pa.concat_tables(tables))
    run.reading.check_shares(current_ranks())
    with RunFolder.open(out, run.provenance.to_json()) as folder:
        done = run.finished_parts(folder)
        run.count_finished(folder, done)
        if not folder.finished:
            run.check_room(folder.folder, [folder.done[token_file(part)] for part in done])
            with progress_bar("audit", "tok", positions, progress) as bar:
                for part, table, found in run.parts(done, bar, phases, folder.ranks):
                    with phases("write"):
                        folder.write_table(token_file(part), table)
                        if run.second_reader is not None:
                            run.second_reader.keep(folder, part, found)
        with phases("summary"):
            return finish_audit(folder, run, command)


def headline(summary: AuditSummary) -> list[tuple[str, str]]:
    """The short table that an audit prints: name and value with its interval."""
    rows = [
        ("positions", f"{summary.n_positions:,} in {summary.n_documents:,} documents"),
        ("accuracy", bounded(summary.accuracy, share)),
        ("loss (nats)", bounded(summary.nll_nats, decimal)),
        ("perplexity", bounded(summary.perplexity, decimal)),
        ("median margin (logits)", bounded(summary.median_margin, decimal)),
        (
            "times as likely",
            f"{bounded(summary.median_odds, decimal)} as the runner-up, at that margin",
        ),
        ("margin below 0.5", bounded(summary.share_margin_below_half, share)),
        ("median scale-free margin", bounded(summary.median_relative_distance, decimal)),
        ("Spearman margin, entropy", bounded(summary.spearman_margin_entropy, decimal)),
    ]
    if summary.gap is None:
        rows.append(("gap", f"undefined: {summary.gap_reason}"))
    else:
        rows.append(("gap slope (published fit)", bounded(summary.gap.published.beta, decimal)))
        if summary.gap.to_mind:
            rows.append(("gap slope, to mind", summary.gap.to_mind))
        rows.append(("gap density at zero", bounded(summary.gap.density_at_zero, decimal)))
    if summary.bfloat16 is not None:
        rows.append(("margin within a bfloat16 step", bounded(summary.bfloat16.within_step, share)))
        changed = bounded(summary.bfloat16.changed, share)
        rows.append(("logits rounded to bfloat16", f"{changed} decide otherwise"))
    if summary.native is not None:
        native = summary.native
        rows.append(
            (f"greedy token in {native.dtype}", bounded(native.changed_top1, share) + " differ")
        )
        distinct = f"{native.distinct_margins:,} (float32: {native.distinct_margins_float32:,})"
        rows.append((f"margins in {native.dtype}", f"{distinct} distinct"))
    if summary.batching is not None:
        noise = summary.batching
        some = noise.flips.value != 0
        changed = bounded(noise.flips, share) if some else f"none of {noise.flips.n:,} decisions"
        rows.append(("changed by another batch", changed))
        rows.append(("foretold by margins", bounded(noise.predicted, share)))
        for one in noise.recompute:
            if one.gate == "float32":
                said = point if one.margin.low is None else bounded
                recompute = f"{said(one.positions, share)} of positions, margins up to"
                at = f"{recompute} {said(one.margin, decimal)}"
                rows.append((f"recompute to catch {whole_percent(one.caught)}", at))
    native_gap = None if summary.native is None else summary.native.logprobs
    for gap in (summary.engine, native_gap):
        if gap is not None:
            rows.append(("log-probabilities", f"{gap.engine}: {gap.in_words}"))
    if summary.n_nonfinite:
        rows.append(("not finite", f"{summary.n_nonfinite:,} positions left out"))
    return rows


def held_audit(run: AuditRun, table: pa.Table) -> Audit:
    """An audit in memory, of the table of all positions."""
    windows = run.reading.windows
    vocabulary = vocabulary_of(windows, [table])
    done = Audit(run.provenance, vocabulary, documents_of(windows), in_memory=table)
    vars(done)["slices"] = _slices(done, run)
    return done


def finish_audit(folder: RunFolder, run: AuditRun, command: str) -> Audit:
    """Complete a run whose parts are all written, if that is left to do, and open it."""
    if not folder.finished:
        drawn = None
        if run.reading.head.share is not None:
            # A model that several processes hold is read by all of them.
            folder.by_first(lambda: _described(folder, run))
            drawn = _slices(Audit._opened(folder.folder, run.provenance, _tables(folder)), run)
        made = folder.by_first(lambda: _completed(folder, run, command, drawn))
        if made is not None:
            return made
    return Audit._opened(folder.folder, run.provenance, _tables(folder))


def _tables(folder: RunFolder) -> list[str]:
    return sorted(path for path in folder.done if path.startswith(TABLES))


def _described(folder: RunFolder, run: AuditRun) -> None:
    """Write the tables of what the parts are of."""
    if folder.ranks.processes > 1:
        # Each process has counted its own.
        replace(run, nonfinite=[]).count_finished(folder, run.finished_parts(folder))
    tables = (
        read_table(path, columns=[n for n in pq.read_schema(path).names if n in MENTIONED])
        for path in (folder.folder / file for file in _tables(folder))
    )
    windows = run.reading.windows
    folder.write_table("vocabulary.parquet", vocabulary_of(windows, tables).to_table())
    folder.write_table("documents.parquet", documents_of(windows))


def _completed(
    folder: RunFolder, run: AuditRun, command: str, drawn: tuple[DecisionSlice, ...] | None
) -> Audit:
    if drawn is None:
        _described(folder, run)
    done = Audit._opened(folder.folder, run.provenance, _tables(folder))
    if run.second_reader is not None:
        run.second_reader.finish(folder)
    if run.narrow is not None:
        drawn = _slices(done, run) if drawn is None else drawn
        folder.write_bytes(SLICES, slices_to_json(drawn))
    folder.finish(command, summary_to_json(done.summary))
    return done


def _slices(done: Audit, run: AuditRun) -> tuple[DecisionSlice, ...]:
    """The pictures of the narrowest decisions; states of an earlier, killed run are read again."""
    if run.narrow is None:
        return ()
    rows = narrowest(done, run.narrow.wanted)
    places = list(zip(rows["doc"].to_pylist(), rows["pos"].to_pylist(), strict=True))
    hidden = states_at(run.reading, places, run.narrow)
    return decision_slices(
        rows, hidden, run.reading.head.gathered(), run.reading.windows.corpus.tokenizer
    )


def _summarise(audit: Audit) -> AuditSummary:
    options = audit.provenance.options
    return read_summary(
        audit.column_parts,
        native_dtype=audit.provenance.model_dtype if options["native_head"] else None,
        native_logprobs=audit.has_column(NATIVE_NLL),
        engine=options.get("logprobs", {}).get("name"),
        plans=options.get("repeat_batching", 0),
        dtype=audit.provenance.model_dtype,
        row_norm_cv=audit.provenance.row_norm_cv,
    )


def _filled(column: pa.ChunkedArray) -> Shaped[np.ndarray, "positions ..."]:
    if pa.types.is_fixed_size_list(column.type):
        size = column.type.list_size
        flat = column.fill_null([0.0] * size) if column.null_count else column
        listed: Shaped[np.ndarray, "positions ..."] = numbers_of(
            flat.combine_chunks().flatten()
        ).reshape(-1, size)
        return listed
    if column.null_count and not pa.types.is_floating(column.type):
        column = column.fill_null(False if pa.types.is_boolean(column.type) else -1)
    filled: Shaped[np.ndarray, "positions ..."] = numbers_of(column)
    return filled
