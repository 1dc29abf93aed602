"""One audit's pass over a text: what is fixed before the first batch, and the tables it yields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from unembed.decisions.audit.engine_logprobs import EngineLogprobs
from unembed.decisions.audit.logprob_gap import ENGINE_NLL
from unembed.decisions.audit.rebatching import CANDIDATES, Rebatching
from unembed.decisions.measure import ColumnChoice, columns_of
from unembed.decisions.slices.states import NarrowStates
from unembed.errors import NonFiniteError, UnembedError
from unembed.head.head import output_embedding
from unembed.head.sweep import Sweep, sweep
from unembed.models.checkpoint import Checkpoint, token_ids
from unembed.models.model_pass import ALONE, HeadReader, ModelPass, ReadingOptions
from unembed.models.outline import Outline
from unembed.runs.arrays import number_array, numbers_of, read_table, text_array
from unembed.runs.files import check_room
from unembed.runs.manifest import Part
from unembed.runs.phases import Phases
from unembed.runs.provenance import Provenance, provenance_of
from unembed.runs.ranks import Ranks
from unembed.runs.store import RunFolder
from unembed.text.batches import Batch
from unembed.text.corpus import Corpus
from unembed.text.vocabulary import Vocabulary, word_starts
from unembed.text.windows import Windows

MENTIONED = ("target", "top1", "top2", "facet", "topk_ids")
"""Columns whose ids the run's vocabulary spells out."""
Columns = dict[str, np.ndarray]
STORED_SHARE = 0.5
"""Share of a table's bytes that it takes on disk at least: measured, 0.59 to 0.63 of them."""
ALWAYS = ("doc", "pos", "target", "word_start")


@dataclass(frozen=True)
class AuditOptions(ReadingOptions):
    """How to audit a text that is read as ``ReadingOptions`` says.

    ``top_k`` candidates are kept per position (0: none; the report's text view lists them). More
    than the head has tokens are refused, beyond the default, which is cut to them.
    ``facets`` adds the exact distance to the nearest facet, at about twice the head's cost.
    ``native_head`` adds what the checkpoint-precision head decides. ``logprobs`` are another
    engine's, which are set beside the exact ones. ``repeat_batching`` further batch plans show
    which greedy tokens another batch changes, in the checkpoint's own precision. Up to
    ``max_nonfinite`` positions with a non-finite logit are kept as nulls before the run fails.
    ``logit_scale`` multiplies every logit, the control for sharpening (theory §5). So many
    ``slices`` are cut: the cells around the narrowest decisions, exactly.
    """

    top_k: int = 5
    facets: bool = False
    native_head: bool = False
    max_nonfinite: int = 0
    logit_scale: float = 1.0
    logprobs: EngineLogprobs | None = None
    repeat_batching: int = 0
    slices: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("top_k", "max_nonfinite", "repeat_batching", "slices"):
            if getattr(self, name) < 0:
                raise UnembedError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.repeat_batching and self.top_k < 2:
            raise UnembedError(
                f"--repeat-batching follows the leading candidates, and --top-k {self.top_k} keeps "
                "too few: give at least 2"
            )
        if self.stored is not None:
            self.check_stored()
        if self.repeat_batching and self.logit_scale != 1.0:
            raise UnembedError(
                f"--repeat-batching takes the model's own logits, and logit_scale "
                f"{self.logit_scale:g} makes others: leave one of them out"
            )

    def check_stored(self) -> None:
        """Raise UnembedError for what stored states cannot give."""
        if self.repeat_batching:
            raise UnembedError(
                "--repeat-batching reads the text again in other batches, which stored states do "
                "not hold: leave it out, or audit the text itself"
            )

    def check_model(self, checkpoint: Checkpoint) -> None:
        """Raise UnembedError for what this model cannot give, before a text is read."""
        super().check_model(checkpoint)
        rows = int(output_embedding(checkpoint.model).weight.shape[0])
        known = sum(token < rows for token in token_ids(checkpoint.tokenizer))
        self.check_candidates(known, checkpoint.name)

    def check_outline(self, outline: Outline) -> None:
        """Raise UnembedError for as much of that as is known before weights are read."""
        if outline.rows is not None:
            known = sum(token < outline.rows for token in token_ids(outline.tokenizer))
            self.check_candidates(known, outline.name)

    def check_candidates(self, tokens: int, name: str) -> None:
        """Raise UnembedError where more candidates are asked for than a head has tokens."""
        if self.top_k > max(tokens, AuditOptions.top_k):
            raise UnembedError(
                f"--top-k {self.top_k} is more than the {tokens:,} tokens that the head of {name} "
                f"decides between: give at most {tokens}"
            )


@dataclass(frozen=True)
class AuditRun:
    """Everything that is fixed before the first batch of an audit."""

    reading: ModelPass
    wanted: ColumnChoice
    word_start: Bool[np.ndarray, " vocab"]
    provenance: Provenance
    max_nonfinite: int
    nonfinite: list[int]
    second_reader: HeadReader | None
    logprobs: EngineLogprobs | None = None
    rebatching: Rebatching | None = None
    narrow: NarrowStates | None = None

    @staticmethod
    def of(
        model: nn.Module,
        corpus: Corpus,
        options: AuditOptions,
        name: str,
        second_reader: Callable[[ModelPass], HeadReader] | None = None,
    ) -> AuditRun:
        """Prepare the pass and collect the provenance; ``second_reader`` is made for the pass."""
        reading = ModelPass.of(model, corpus, options, name, hash_model=True)
        options.check_candidates(reading.head.tokens, name)
        if options.logit_scale != 1.0:
            reading = replace(reading, head=reading.head.sharpened(options.logit_scale))
        head = reading.head
        if options.native_head and head.weight.dtype == torch.float32:
            raise UnembedError(
                f"{name} is in float32, so its native head is the exact one: "
                "add --dtype bfloat16 to see what that precision does"
            )
        own_head = head.weight.dtype != torch.float32 and options.repeat_batching > 0
        native = options.native_head or own_head
        wanted = ColumnChoice(options.top_k, options.facets, native)
        given = {
            **vars(wanted),
            **reading.how_read(options),
        }
        if reading.stored is not None:
            given |= reading.stored.made_by | {"hidden_states": reading.stored.key}
        if options.logprobs is not None:
            given["logprobs"] = options.logprobs.key
        if options.slices:
            given["slices"] = options.slices
        rebatching = None
        if options.repeat_batching:
            given["repeat_batching"] = options.repeat_batching
            rebatching = Rebatching.of(reading, options.repeat_batching)
        reader = None if second_reader is None else second_reader(reading)
        provenance = provenance_of(
            "audit",
            name,
            model,
            head,
            reading.precision,
            reading.windows.facts,
            reading.plan.batch_tokens,
            reading.plan.part_positions,
            given if reader is None else given | {"sketch": reader.key},
            threads=reading.threads,
            model_digest=reading.model_digest(),
        )
        if reading.stored is not None and reading.stored.layout.written is not None:
            # One of its blocks is read now: what it left out is what it did then.
            left_out = reading.stored.layout.written.left_out
            provenance = replace(provenance, left_out=left_out)
        return AuditRun(
            reading=reading,
            wanted=wanted,
            word_start=word_starts(corpus.tokenizer, head.vocab),
            provenance=provenance,
            max_nonfinite=options.max_nonfinite,
            nonfinite=[],
            second_reader=reader,
            logprobs=options.logprobs,
            rebatching=rebatching,
            narrow=NarrowStates(options.slices) if options.slices else None,
        )

    def parts(
        self, done: frozenset[str], bar: Any, phases: Phases, ranks: Ranks = ALONE
    ) -> Iterator[tuple[str, pa.Table, list[Any]]]:
        """The parts that are not done yet: name, table, and what a second reader found.

        They are shared out among ``ranks``.
        """

        def work(team: tuple[nn.Module, ...], batch: Batch, share: Phases) -> tuple[Columns, Any]:
            hidden = self.reading.hidden(team[0], batch, share)
            with share("head"):
                if self.second_reader is None:
                    swept, found = self.swept(hidden, batch), None
                else:
                    head, precision = self.reading.head, self.reading.precision
                    targets = batch.targets.to(hidden.device)
                    given = (hidden, head, targets, batch, self.candidates, precision)
                    swept, found = self.second_reader.swept(*given)
                columns = self.columns(hidden, swept, batch)
            if self.narrow is not None:
                self.narrow.offer(columns, hidden)
            if self.rebatching is not None:
                with share("other batches"):
                    head, leading = self.reading.head, swept.topk_ids[:, : self.followed]
                    columns |= self.rebatching.columns(team[0], head, batch, hidden, leading)
            return columns, found

        for part, pieces in self.reading.results(work, bar, phases, done=done, ranks=ranks):
            yield part, self.table([columns for columns, _ in pieces]), [own for _, own in pieces]

    @property
    def candidates(self) -> int:
        """How many of the largest logits are wanted."""
        return max(2, self.wanted.top_k)

    @property
    def followed(self) -> int:
        """How many candidates the further plans follow."""
        return min(self.wanted.top_k, CANDIDATES)

    def swept(self, hidden: Float[Tensor, "positions dim"], batch: Batch) -> Sweep:
        """The pass over the vocabulary that the wanted columns need."""
        targets = batch.targets.to(hidden.device)
        head, precision = self.reading.head, self.reading.precision
        return sweep(hidden, head, targets, k=self.candidates, precision=precision)

    def columns(
        self, hidden: Float[Tensor, "positions dim"], swept: Sweep, batch: Batch
    ) -> Columns:
        """A batch's columns from its sweep."""
        head, targets = self.reading.head, batch.targets.to(hidden.device)
        found = columns_of(hidden, head, targets, swept, self.wanted, self.reading.precision)
        return found | {"doc": batch.doc, "pos": batch.pos}

    def finished_parts(self, folder: RunFolder) -> frozenset[str]:
        """The parts that are written, by all who read this pass."""
        written = {Path(path).stem for path in folder.done if path.startswith("tokens/")}
        own = self.second_reader
        return frozenset(part for part in written if own is None or own.kept(folder, part))

    def check_room(self, folder: Path, done: Iterable[Part], more_bytes: int = 0) -> None:
        """Raise UnembedError where the tables that are left to write do not fit in a folder.

        ``more_bytes`` are those of a position in tables beside the audit's.
        """
        left = self.reading.windows.positions - sum(part.rows for part in done)
        wide = self.wanted.bytes_a_position + 4 * (self.logprobs is not None) + more_bytes
        if self.rebatching is not None:
            wide += 4 * self.rebatching.plans * (1 + self.followed)
        check_room(folder, int(STORED_SHARE * left * wide), f"the tables of {left:,} positions")

    def table(self, pieces: list[Columns]) -> pa.Table:
        """A part's table from its batches' columns, sorted, its non-finite rows counted."""
        whole = joined(pieces)
        whole["word_start"] = self.word_start[whole["target"]]
        if self.logprobs is not None:
            whole[ENGINE_NLL] = self.logprobs.at(self.reading.windows, whole["doc"], whole["pos"])
        bad = ~whole["finite"]
        self._count_nonfinite(whole["doc"][bad], whole["pos"][bad])
        return to_table(whole)

    def _count_nonfinite(self, doc: Int[np.ndarray, " bad"], pos: Int[np.ndarray, " bad"]) -> None:
        before = sum(self.nonfinite)
        self.nonfinite.append(len(doc))
        over = self.max_nonfinite - before
        if len(doc) > over:
            stored = self.reading.stored is not None
            whose = "the stored states give" if stored else f"{self.provenance.model} gives"
            remedy = "write them again" if stored else "mend the weights"
            raise NonFiniteError(
                f"{whose} logits that are not finite at document "
                f"{self.reading.windows.corpus.names[int(doc[over])]!r} (doc {doc[over]}) position "
                f"{pos[over]}, after {before + over} such before it: --max-nonfinite "
                f"{self.max_nonfinite} allows no more; {remedy}, or raise the limit to leave such "
                "positions out as nulls"
            )

    def count_finished(self, folder: RunFolder, done: frozenset[str]) -> None:
        """Count the non-finite positions of the parts that are done."""
        for part in sorted(done):
            table = read_table(folder.folder / token_file(part), columns=["doc", "pos", "top1"])
            bad = table.filter(pc.is_null(table["top1"]))
            self._count_nonfinite(numbers_of(bad["doc"]), numbers_of(bad["pos"]))


def vocabulary_of(windows: Windows, tables: Iterable[pa.Table]) -> Vocabulary:
    """The text of every token id in these tables, and of the first token of each document."""
    used: set[int] = set()
    for table in tables:
        for name in MENTIONED:
            if name in table.column_names:
                column = table[name].combine_chunks()
                flat = column.flatten() if name == "topk_ids" else column
                used.update(flat.unique().drop_null().to_pylist())
    used.update(_first_tokens(windows.corpus).tolist())
    return Vocabulary.of(windows.corpus.tokenizer, used)


def documents_of(windows: Windows) -> pa.Table:
    """A row per document: name, first token (which nothing predicts), positions."""
    corpus = windows.corpus
    count = np.bincount(windows.doc, weights=windows.counts, minlength=len(corpus.names))
    return pa.table(
        {
            "doc": number_array(np.arange(len(corpus.names), dtype=np.int32)),
            "name": text_array(corpus.names),
            "first_token": number_array(_first_tokens(corpus).astype(np.int32)),
            "positions": number_array(count.astype(np.int64)),
        }
    )


def _first_tokens(corpus: Corpus) -> Int[np.ndarray, " documents"]:
    _, row = np.unique(corpus.document, return_index=True)
    return np.asarray(corpus.ids[corpus.starts[row]])


def token_file(part: str) -> str:
    """Where a part's table lies in a run's folder."""
    return f"tokens/{part}.parquet"


def joined(pieces: list[Columns]) -> Columns:
    """Columns of batches as those of a part, in order of the text."""
    whole = {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}
    order = np.lexsort((whole["pos"], whole["doc"]))
    return {name: column[order] for name, column in whole.items()}


def to_table(columns: dict[str, Shaped[np.ndarray, "positions ..."]]) -> pa.Table:
    """A table of columns, null where ``finite`` is not, but for ``ALWAYS``."""
    missing = ~columns.pop("finite")
    order = ["doc", "pos", *(name for name in columns if name not in ("doc", "pos"))]
    arrays = {}
    for name in order:
        column, mask = columns[name], None if name in ALWAYS else missing
        if name == ENGINE_NLL:
            mask = missing | np.isnan(column)
        if column.ndim == 2:
            flat = number_array(np.ascontiguousarray(column).ravel())
            holes = None if mask is None or not mask.any() else number_array(mask)
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, column.shape[1], mask=holes)
        else:
            arrays[name] = number_array(column, mask)
    return pa.table(arrays)
