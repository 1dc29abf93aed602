"""How a model's decisions form over its depths: layers(model, corpus) -> Layers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Shaped
from torch import nn

from unembed.decisions.audit.run import documents_of, vocabulary_of
from unembed.decisions.cloud.cloud import Cloud
from unembed.decisions.kept_states import PartFiles, position_keys
from unembed.decisions.layers.clouds import Clouds
from unembed.decisions.layers.depth_rows import depth_rows
from unembed.decisions.layers.early_exit import early_exit
from unembed.decisions.layers.fit_sums import FOLDER as FIT_SUMS
from unembed.decisions.layers.fitted import LENS_FILE, FittedLens
from unembed.decisions.layers.names import LENSES, Lens
from unembed.decisions.layers.options import LayersOptions
from unembed.decisions.layers.passage import Passage, cells_of
from unembed.decisions.layers.regimes import regimes
from unembed.decisions.layers.run import LayersRun, Place, Tables, folder_of, table_file
from unembed.decisions.layers.self_drafts import self_drafts
from unembed.decisions.layers.sense import check_layers
from unembed.decisions.layers.settling import settling
from unembed.decisions.layers.stack import LAYERS_RESAMPLES, LensStack
from unembed.decisions.layers.summary import LayersSummary, LensFit, LensSummary
from unembed.decisions.layers.text import depth_table, headline
from unembed.decisions.quoting import CONTEXT_TOKENS, Quoting
from unembed.decisions.tokens import classes_of, frequency_buckets
from unembed.errors import UnembedError, need
from unembed.models.mode import restores_mode
from unembed.models.model_pass import ALONE
from unembed.runs.arrays import number_array, numbers_of, read_table
from unembed.runs.frames import frame_of
from unembed.runs.manifest import FinishedRun, read_run
from unembed.runs.phases import Phases, current_phases
from unembed.runs.progress import Steps, progress_bar
from unembed.runs.provenance import Provenance
from unembed.runs.ranks import current_ranks
from unembed.runs.record import record_from_json, record_to_json
from unembed.runs.run_record import RunRecord
from unembed.runs.store import TABLES, RunFolder
from unembed.runs.table import as_text, in_columns
from unembed.text.corpus import Corpus
from unembed.text.vocabulary import Vocabulary

STACKED = (
    "top1",
    "rank",
    "final_rank",
    "margin",
    "relative_distance",
    "nll",
    "entropy",
    "kl_final",
    "acceptance",
    "cosine_penalty",
    "fisher_penalty",
)
"""Columns of which a stack has a row a depth."""


@dataclass(frozen=True)
class Layers(RunRecord):
    """What the head reads off every depth of a model at each position of a text.

    ``table(lens, depth)`` has a row per position in order of the text, the same positions at every
    depth; the fitted lens lacks those of the documents that it was fitted on. ``documents`` has a
    row per document, ``summary`` every figure with its interval, and ``fitted`` is the fitted lens,
    where that was asked for. Positions that are not finite at some depth hold nulls at all of them.
    """

    KIND: ClassVar[str] = "layers"

    provenance: Provenance
    vocabulary: Vocabulary
    documents: pa.Table
    fitted: FittedLens | None = None
    _cloud: Cloud | None = field(default=None, repr=False)
    folder: Path | None = None
    in_memory: Mapping[Place, pa.Table] | None = field(default=None, repr=False)
    files: tuple[str, ...] = field(default=(), repr=False)
    """The tables inside the folder, which the manifest lists."""

    @classmethod
    def of_run(cls, run: FinishedRun) -> Layers:
        """Open a run whose files are whole; the positions stay on disk, the summary is its own."""
        provenance = Provenance.from_json(run.key)
        summary = record_from_json(LayersSummary, run.summary())
        opened = cls._opened(run.folder, provenance, [part.path for part in run.parts])
        check_layers(run, provenance, opened.places, opened.fitted, summary)
        vars(opened)["summary"] = summary
        return opened

    @classmethod
    def _opened(cls, folder: Path, provenance: Provenance, files: Sequence[str]) -> Layers:
        own = folder / LENS_FILE
        return cls(
            provenance,
            Vocabulary.from_table(read_table(folder / "vocabulary.parquet")),
            read_table(folder / "documents.parquet"),
            fitted=FittedLens.read(own) if "fitted" in provenance.options["lenses"] else None,
            folder=folder,
            files=tuple(sorted(files)),
        )

    @property
    def lenses(self) -> tuple[Lens, ...]:
        """The lenses that were measured."""
        return tuple(lens for lens in LENSES if lens in self.provenance.options["lenses"])

    @property
    def depths(self) -> tuple[int, ...]:
        """The depths that were measured, ascending; the last is ``blocks``."""
        return tuple(self.provenance.options["depths"])

    @property
    def blocks(self) -> int:
        """How many blocks the model has."""
        return int(self.provenance.options["blocks"])

    @property
    def places(self) -> tuple[Place, ...]:
        """Every lens at every depth."""
        return tuple((lens, depth) for lens in self.lenses for depth in self.depths)

    @cached_property
    def summary(self) -> LayersSummary:
        """Every number that a run of layers prints or draws; intervals cluster by document."""
        return _summarise(self)

    def table(self, lens: Lens, depth: int, columns: Sequence[str] | None = None) -> pa.Table:
        """All positions under a lens at a depth, or some of their columns.

        Raises UnembedError for a lens or a depth that was not measured.
        """
        self._check(lens, (depth,))
        if self.in_memory is not None:
            held = self.in_memory[lens, depth]
            return held if columns is None else held.select(list(columns))
        assert self.folder is not None
        above = f"{folder_of(lens, depth)}/"
        found = [one for one in self.files if one.startswith(above)]
        return pa.concat_tables([read_table(self.folder / one, columns) for one in found])

    def column(self, name: str) -> Shaped[np.ndarray, " positions"]:
        """One column of the model's own decisions, those of the last depth under ``normed``."""
        return numbers_of(self.table("normed", self.blocks, [name])[name])

    def stack(self, lens: Lens) -> LensStack:
        """One lens's columns, a row a depth, at the positions that are finite at all of them."""
        self._check(lens, ())
        names = ("doc", "pos", "top1", "nll", "margin")
        last = _finite(self.table("normed", self.blocks, names))
        tables = [
            _finite(self.table(lens, depth, ("doc", "pos", "target", *STACKED)))
            for depth in self.depths
        ]
        first = tables[0]
        every, own = (position_keys(one["doc"], one["pos"]) for one in (last, first))
        where = np.searchsorted(every, own)
        return LensStack(
            lens=lens,
            depths=self.depths,
            blocks=self.blocks,
            doc=first["doc"],
            pos=first["pos"],
            target=first["target"],
            **{name: np.stack([one[name] for one in tables]) for name in STACKED},
            final_top1=last["top1"][where],
            final_nll=last["nll"][where],
            final_margin=last["margin"][where],
        )

    def passage(
        self, document: int | str, first: int = 0, count: int = 32, *, lens: Lens = "normed"
    ) -> Passage:
        """What every depth would have predicted at ``count`` positions of a document.

        They begin at the first measured position from ``first`` on, and are as many as follow it
        without a gap. ``document`` is a number or a name. Raises UnembedError where there are none.
        """
        number = self._document(document)
        name = self.documents["name"][number].as_py()
        rows = {depth: self._rows_of(lens, depth, number, first, count) for depth in self.depths}
        some = rows[self.blocks]
        if not some.num_rows:
            raise UnembedError(
                f"document {name!r} has no position from {first} on under the {lens} lens: see "
                "documents, or take another lens"
            )
        decided = some["top1"].to_pylist()
        if lens != "normed":
            final = self._rows_of("normed", self.blocks, number, some["pos"][0].as_py(), count)
            decided = final["top1"].to_pylist()
        quoting = Quoting(self.vocabulary, self.documents, CONTEXT_TOKENS)
        lead = self.table("normed", self.blocks, ("doc", "pos", "target"))
        at = pc.and_(pc.equal(lead["doc"], number), pc.equal(lead["pos"], some["pos"][0]))
        return Passage(
            document=name,
            lens=lens,
            before=quoting.contexts(lead, [pc.index(at, True).as_py()])[0],
            positions=tuple(some["pos"].to_pylist()),
            tokens=tuple(self.vocabulary[token] for token in some["target"].to_pylist()),
            depths=self.depths,
            cells=tuple(cells_of(rows[depth], decided, self.vocabulary) for depth in self.depths),
        )

    def to_pandas(
        self, *, lens: Lens = "normed", text: bool = False, context: int = CONTEXT_TOKENS
    ) -> Any:
        """One lens as a pandas DataFrame, a row a position and depth, with a column ``depth``.

        With ``text`` also the document's name, the ``context`` tokens before the predicted one, and
        a column of text beside each of token ids. Raises UnembedError where pandas is not
        installed.
        """
        return frame_of(pa.concat_tables(self.spelled(lens, context) if text else self._deep(lens)))

    def spelled(self, lens: Lens = "normed", context: int = CONTEXT_TOKENS) -> Iterator[pa.Table]:
        """The rows of ``to_pandas(text=True)``, a depth at a time."""
        quoting = Quoting(self.vocabulary, self.documents, context)
        for depth in self.depths:
            yield _with_depth(quoting.spelled(self.table(lens, depth)), depth)

    def _deep(self, lens: Lens) -> Iterator[pa.Table]:
        for depth in self.depths:
            yield _with_depth(self.table(lens, depth), depth)

    def _check(self, lens: str, depths: Sequence[int]) -> None:
        if lens not in self.lenses:
            reason = self.provenance.options["not_measured"].get(lens, "it was not asked for")
            raise UnembedError(
                f"the {lens} lens was not measured ({reason}): take one of {', '.join(self.lenses)}"
            )
        for depth in depths:
            if depth not in self.depths:
                raise UnembedError(
                    f"depth {depth} was not measured: take one of "
                    f"{', '.join(map(str, self.depths))}"
                )

    def _document(self, asked: int | str) -> int:
        names = self.documents["name"].to_pylist()
        if isinstance(asked, int):
            if 0 <= asked < len(names):
                return asked
        elif asked in names:
            return int(names.index(asked))
        raise UnembedError(f"there is no document {asked!r} among {len(names):,}: see documents")

    def _rows_of(self, lens: Lens, depth: int, document: int, first: int, count: int) -> pa.Table:
        """Positions of a document that follow each other."""
        table = self.table(lens, depth)
        inside = pc.and_(pc.equal(table["doc"], document), pc.greater_equal(table["pos"], first))
        some = table.filter(inside)
        pos = numbers_of(some["pos"])
        gaps = np.flatnonzero(np.diff(pos) != 1)
        return some.slice(0, min(count, int(gaps[0]) + 1 if len(gaps) else len(pos)))

    def __len__(self) -> int:
        return self.provenance.text.positions

    def __str__(self) -> str:
        notes = [("note", note) for note in self.provenance.text.notes]
        return "\n\n".join(
            (in_columns(depth_table(self.summary)), as_text([*headline(self.summary), *notes]))
        )

    def _phrases(self) -> Iterator[str]:
        yield self.provenance.model
        yield f"{len(self.depths)} of {self.blocks + 1} depths"
        yield f"lenses {', '.join(self.lenses)}"
        yield f"{len(self):,} positions"


@restores_mode
def layers(
    model: nn.Module,
    corpus: Corpus,
    options: LayersOptions | None = None,
    *,
    out: str | Path | None = None,
    name: str | None = None,
    command: str = "",
    progress: bool = False,
    phases: Phases | None = None,
) -> Layers:
    """Measure what the head would decide at every depth of a causal language model.

    At each predicted token and depth, under each lens: the leading tokens and their margin, the
    target's loss and rank, entropy, the rank of the final decision, KL(final || depth) and the sum
    of the smaller probabilities, all from float32-exact logits. The last depth under the lens
    ``normed`` is the audit, to the bit. Lenses are ``W tail(h)``, ``W h`` and ``W (A h + b)`` with
    A, b fitted by ridge regression on half of the documents and measured on the others.

    With ``out`` the positions are written there as Parquet parts, by lens and depth: a killed run
    goes on where it stopped when called again, to the same bytes. ``name`` is what the provenance
    calls the model, ``command`` how to replay the run; ``phases`` collects where the time went.
    Raises UnembedError for input that cannot be used, HeadError for a model whose blocks or tail
    are not proved, and NonFiniteError, naming document, position and depth, where logits are not
    finite. Source: theory §3.
    """
    need(model, nn.Module, "give the model itself, such as load(name).model")
    need(corpus, Corpus, "give Corpus.read(path, tokenizer)")
    options = options or LayersOptions()
    phases = phases or current_phases()
    model.eval()
    with phases("prepare"):
        run = LayersRun.of(model, corpus, options, name or type(model).__name__)
    if out is None:
        with tempfile.TemporaryDirectory() as states:
            clouds = run.clouds(Path(states))
            lens, shape, found = _measured(run, None, clouds, progress, phases)
        whole = {place: pa.concat_tables([one[place] for one in found]) for place in run.places}
        windows = run.reading.windows
        words = vocabulary_of(windows, whole.values())
        return Layers(run.provenance, words, documents_of(windows), lens, shape, in_memory=whole)
    run.reading.check_shares(current_ranks())
    with RunFolder.open(out, run.provenance.to_json()) as folder:
        clouds = run.clouds(folder.folder)
        if not folder.finished:
            _measured(run, folder, clouds, progress, phases, command)
        if folder.ranks.first:
            if clouds is not None:
                clouds.remove()
            PartFiles(folder.folder / FIT_SUMS).remove()
        return Layers.of_run(read_run(folder.folder))


def _measured(
    run: LayersRun,
    folder: RunFolder | None,
    clouds: Clouds | None,
    progress: bool,
    phases: Phases,
    command: str = "",
) -> tuple[FittedLens | None, Cloud | None, list[Tables]]:
    """The fitted lens, the shape of the clouds and the tables; a folder is completed instead."""
    done: frozenset[str] = frozenset()
    ranks = ALONE if folder is None else folder.ranks
    lens, held = run.given, []
    if folder is not None:
        done = run.finished_parts(folder, clouds)
        run.count_finished(folder, done)
        run.check_room(folder, done)
        if LENS_FILE in folder.done:
            lens = FittedLens.read(folder.folder / LENS_FILE)
    if clouds is not None:
        clouds.check_room()
    positions = run.reading.windows.positions
    steps = Steps(1 + run.fits + 2 * (clouds is not None))
    if run.fits:
        with steps("fitting the lens"), progress_bar("fit", "tok", positions, progress) as bar:
            if lens is None:
                lens = run.fit(folder, bar, phases)
    if run.split is not None and folder is not None and LENS_FILE not in folder.done:
        lens = _written(lens, folder)
    with steps("measuring"), progress_bar("layers", "tok", positions, progress) as bar:
        for part, tables, taken in run.parts(done, lens, clouds, bar, phases, ranks):
            with phases("write"):
                if clouds is not None and ranks.writes:
                    clouds.text.write(part, taken)
                if folder is None:
                    held.append(tables)
                    continue
                for place, table in tables.items():
                    folder.write_table(table_file(*place, part), table)
    if clouds is not None:
        with steps("shuffled text"), progress_bar("states", "tok", positions, progress) as bar:
            clouds.read_shuffled(bar, phases, ranks)

    def complete() -> Cloud | None:
        shape = None
        if clouds is not None:
            depths = len(clouds.text.depths)
            with steps("shapes"), progress_bar("shapes", "depth", depths, progress) as bar:
                shape = clouds.measure(bar, LAYERS_RESAMPLES)
        if folder is not None:
            with phases("summary"):
                _finish(folder, run, shape, command)
        return shape

    shape = complete() if folder is None else folder.by_first(complete)
    return lens, shape, held


def _written(lens: FittedLens | None, folder: RunFolder) -> FittedLens:
    """The lens that the first process made and now writes, on each of them."""

    def write() -> FittedLens:
        assert lens is not None
        folder.write_bytes(LENS_FILE, lens.to_bytes())
        return lens

    return folder.by_first(write) or FittedLens.read(folder.folder / LENS_FILE)


def _finish(folder: RunFolder, run: LayersRun, shape: Cloud | None, command: str) -> None:
    """Summarise a run whose parts are all written, and complete it."""
    files = sorted(path for path in folder.done if path.startswith(TABLES))
    if folder.ranks.processes > 1:
        # Each process has counted its own.
        replace(run, nonfinite=[]).count_finished(folder, run.finished_parts(folder, None))
    ids = ("target", "top1", "top2", "topk_ids")
    tables = (read_table(folder.folder / file, ids) for file in files)
    windows = run.reading.windows
    folder.write_table("vocabulary.parquet", vocabulary_of(windows, tables).to_table())
    folder.write_table("documents.parquet", documents_of(windows))
    done = replace(Layers._opened(folder.folder, run.provenance, files), _cloud=shape)
    folder.finish(command, record_to_json(done.summary))


def _summarise(found: Layers) -> LayersSummary:
    made, how = found.provenance, {"resamples": LAYERS_RESAMPLES}
    stacks: dict[str, LensStack] = {lens: found.stack(lens) for lens in found.lenses}
    own = stacks["normed"]
    lenses = {
        lens: LensSummary(lens, None, one.n, one.clusters[1], depth_rows(one, **how))
        for lens, one in stacks.items()
    }
    not_measured = {
        lens: LensSummary(lens, reason, 0, 0, ())
        for lens, reason in made.options["not_measured"].items()
    }
    every = lenses | not_measured
    tokens, where = np.unique(own.target, return_inverse=True)
    classes = classes_of([found.vocabulary[token] for token in tokens.tolist()])[where]
    fitted = found.fitted
    return LayersSummary(
        model=made.model,
        blocks=found.blocks,
        depths=found.depths,
        tail=made.options["tail"],
        n_positions=len(found),
        n_documents=int(np.count_nonzero(numbers_of(found.documents["positions"]))),
        n_left_out=len(found) - own.n,
        lenses=tuple(every[lens] for lens in LENSES if lens in every),
        settling=settling(own, classes, frequency_buckets(own.target), **how),
        early_exit=early_exit(own, **how),
        fitted_exit=early_exit(stacks["fitted"], **how) if "fitted" in stacks else None,
        self_drafts=self_drafts(own, **how),
        regimes=regimes(stacks, **how),
        cloud=found._cloud,
        fit=None if fitted is None else LensFit.of(fitted, "fitted_lens" in made.options),
    )


def _finite(table: pa.Table) -> dict[str, Shaped[np.ndarray, " positions"]]:
    """The columns of the rows that are not null."""
    kept = table.filter(pc.is_valid(table["top1"]))
    return {name: numbers_of(kept[name].combine_chunks()) for name in table.column_names}


def _with_depth(table: pa.Table, depth: int) -> pa.Table:
    numbers = number_array(np.full(table.num_rows, depth, dtype=np.int16))
    return table.add_column(0, "depth", numbers)
