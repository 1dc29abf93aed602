"""What the head decides at every position of a text: audit(model, corpus) -> Audit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn
from tqdm import tqdm

from unembed.cells.measure import Wanted, measure
from unembed.cells.summary import (
    AuditColumns,
    AuditSummary,
    NativeColumns,
    summarise,
    summary_to_json,
)
from unembed.corpus import Corpus
from unembed.errors import NonFiniteError, UnembedError
from unembed.head import Head, final_hidden
from unembed.models import context_of, token_ids
from unembed.product import Precision
from unembed.provenance import Provenance, provenance_of
from unembed.store import RunFolder, read_manifest, verify
from unembed.vocabulary import Vocabulary, word_starts
from unembed.windows import Overflow, Windows, batches, parts

PART_POSITIONS = 1 << 15
MENTIONED = ("target", "top1", "top2", "facet", "topk_ids")
"""Columns whose ids the run's vocabulary spells out."""
ALWAYS = ("doc", "pos", "target", "word_start")


@dataclass(frozen=True)
class AuditOptions:
    """How to audit.

    ``top_k`` candidates are kept per position (0: none; the report's text view lists them).
    ``facets`` adds the exact distance to the nearest facet, at about twice the head's cost.
    ``native_head`` adds what the checkpoint-precision head decides. ``context`` None takes the
    model's, at most 2,048 tokens. ``batch_tokens`` None takes 2,048 on CPU and 16,384 on a GPU.
    Up to ``max_nonfinite`` positions with a non-finite logit are kept as nulls before the run fails.
    """

    top_k: int = 5
    facets: bool = False
    native_head: bool = False
    context: int | None = None
    overflow: Overflow = "windows"
    max_positions: int | None = None
    batch_tokens: int | None = None
    max_nonfinite: int = 0

    def __post_init__(self) -> None:
        for name in ("top_k", "max_nonfinite"):
            if getattr(self, name) < 0:
                raise UnembedError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("context", "batch_tokens", "max_positions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UnembedError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True)
class Audit:
    """A table of positions with what produced it.

    ``table`` has a row per predicted token in order of document and position; ``documents`` a row
    per document; ``summary`` every headline number with its interval. Non-finite positions hold
    nulls. Works wherever an Arrow table does (``pa.table(audit)``, ``pl.from_arrow(audit)``).
    """

    provenance: Provenance
    vocabulary: Vocabulary
    documents: pa.Table
    folder: Path | None = None
    in_memory: pa.Table | None = field(default=None, repr=False)

    @staticmethod
    def load(folder: str | Path) -> Audit:
        """Open a finished run, with every file checked against its recorded SHA-256."""
        manifest = read_manifest(folder)
        verify(folder, (*manifest.parts, *manifest.files))
        return _opened(Path(folder), Provenance.from_json(manifest.provenance))

    @cached_property
    def table(self) -> pa.Table:
        """All positions."""
        return self._read(None)

    @cached_property
    def summary(self) -> AuditSummary:
        """Every number that the audit prints or draws; intervals cluster by document."""
        return _summarise(self)

    def column(self, name: str) -> np.ndarray[Any, Any]:
        """One column; nulls become NaN in float columns and -1 in the others."""
        column = self._read([name])[name]
        if pa.types.is_floating(column.type):
            return column.to_numpy()
        return column.fill_null(False if pa.types.is_boolean(column.type) else -1).to_numpy()

    def to_pandas(self) -> Any:
        """The table as a pandas DataFrame."""
        return self.table.to_pandas()

    def __len__(self) -> int:
        return self.provenance.text.positions

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)

    def __str__(self) -> str:
        return "\n".join(f"{name:<26}{text}" for name, text in headline(self.summary))

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{n}</th><td>{t}</td></tr>" for n, t in headline(self.summary))
        return f"<table>{rows}</table>"

    def _read(self, columns: list[str] | None) -> pa.Table:
        if self.in_memory is not None:
            return self.in_memory if columns is None else self.in_memory.select(columns)
        assert self.folder is not None
        files = sorted((self.folder / "tokens").glob("part-*.parquet"))
        return pa.concat_tables(pq.read_table(f, columns=columns) for f in files)


def audit(
    model: nn.Module,
    corpus: Corpus,
    options: AuditOptions | None = None,
    *,
    out: str | Path | None = None,
    name: str | None = None,
    command: str = "",
    progress: bool = False,
) -> Audit:
    """Measure every token decision of a causal language model on a text.

    For each predicted token: the two best tokens and their margin, the scale-free margin, the
    target's loss and rank, entropy and confidence, all from float32-exact logits whatever the
    model's dtype, without ever holding positions x vocabulary.

    With ``out`` the positions are written there as Parquet parts: a killed run goes on where it
    stopped when called again, to the same bytes. ``name`` is what the provenance calls the model,
    ``command`` how to replay the run. Raises UnembedError for input that cannot be used, and
    NonFiniteError, naming document and position, where logits are not finite.
    Source: SPEC §1-2.
    """
    options = options or AuditOptions()
    model.eval()
    run = _Run.of(model, corpus, options, name or type(model).__name__)
    if out is None:
        with _bar(run, progress) as bar:
            tables = [table for _path, table in run.tables(frozenset(), bar)]
        table = pa.concat_tables(tables)
        return Audit(
            run.provenance, run.vocabulary([table]), run.documents(), in_memory=table
        )
    with RunFolder.open(out, run.provenance.to_json()) as folder:
        if not folder.finished:
            with _bar(run, progress) as bar:
                _resume_nonfinite(folder, run)
                for path, table in run.tables(frozenset(folder.done), bar):
                    folder.write_table(path, table)
            _finish(folder, run, command)
        return _opened(folder.folder, run.provenance)


def headline(summary: AuditSummary) -> list[tuple[str, str]]:
    """The short table that an audit prints: name and value with its interval."""

    def shown(value: Any, form: str) -> str:
        if value.value is None:
            return f"undefined: {value.reason}"
        text = format(value.value, form)
        if value.low is None or value.high is None:
            return f"{text}  (no interval: one document)"
        return f"{text}  [{format(value.low, form)}, {format(value.high, form)}]"

    rows = [
        ("positions", f"{summary.n_positions:,} in {summary.n_documents:,} documents"),
        ("accuracy", shown(summary.accuracy, ".1%")),
        ("loss (nats)", shown(summary.nll_nats, ".3f")),
        ("perplexity", shown(summary.perplexity, ".2f")),
        ("median margin (logits)", shown(summary.median_margin, ".3f")),
        ("margin below 0.5", shown(summary.share_margin_below_half, ".1%")),
        ("median relative distance", shown(summary.median_relative_distance, ".4f")),
        ("Spearman margin, entropy", shown(summary.spearman_margin_entropy, ".3f")),
    ]
    if summary.gap is None:
        rows.append(("gap", f"undefined: {summary.gap_reason}"))
    else:
        rows.append(("gap slope (published fit)", shown(summary.gap.published.beta, ".3f")))
        rows.append(("gap density at zero", shown(summary.gap.density_at_zero, ".3f")))
    if summary.native is not None:
        native = summary.native
        rows.append((f"greedy token in {native.dtype}", shown(native.changed_top1, ".2%") + " differ"))
        distinct = f"{native.distinct_margins:,} (float32: {native.distinct_margins_float32:,})"
        rows.append((f"margins in {native.dtype}", f"{distinct} distinct"))
    if summary.n_nonfinite:
        rows.append(("not finite", f"{summary.n_nonfinite:,} positions left out"))
    return rows


@dataclass(frozen=True)
class _Run:
    """Everything that is fixed before the first batch."""

    model: nn.Module
    head: Head
    windows: Windows
    wanted: Wanted
    precision: Precision
    word_start: np.ndarray[Any, Any]
    provenance: Provenance
    max_nonfinite: int
    nonfinite: list[int]

    @staticmethod
    def of(model: nn.Module, corpus: Corpus, options: AuditOptions, name: str) -> _Run:
        highest = _highest_id(corpus)
        head = Head.of(model, token_ids(corpus.tokenizer))
        if highest >= head.vocab:
            raise UnembedError(
                f"the text holds token id {highest}, but {name} has a vocabulary of {head.vocab}: "
                "the tokenizer does not belong to this model"
            )
        if options.native_head and head.weight.dtype == torch.float32:
            raise UnembedError(
                f"{name} is in float32, so its native head is the exact one: "
                "add --dtype bfloat16 to see what that precision does"
            )
        windows = Windows.of(
            corpus, options.context or context_of(model), options.overflow, options.max_positions
        )
        on_cpu = head.weight.device.type == "cpu"
        precision = Precision.probe(head.weight)
        wanted = Wanted(options.top_k, options.facets, options.native_head)
        provenance = provenance_of(
            "audit",
            name,
            model,
            head,
            precision,
            windows.facts,
            options.batch_tokens or (2048 if on_cpu else 16384),
            PART_POSITIONS,
            {**vars(wanted), "max_nonfinite": options.max_nonfinite},
        )
        starts = word_starts(corpus.tokenizer, head.vocab)
        return _Run(
            model, head, windows, wanted, precision, starts, provenance, options.max_nonfinite, []
        )

    def tables(self, done: frozenset[str], bar: Any) -> Iterator[tuple[str, pa.Table]]:
        for number, part in enumerate(parts(self.windows, PART_POSITIONS)):
            path = f"tokens/part-{number:05d}.parquet"
            if path in done:
                bar.update(int(self.windows.length[part.start : part.stop].sum()))
                bar.initial = bar.n
                continue
            yield path, self._part(part, bar)

    @torch.no_grad()
    def _part(self, part: range, bar: Any) -> pa.Table:
        device = self.head.weight.device
        pieces: list[dict[str, np.ndarray[Any, Any]]] = []
        for batch in batches(self.windows, part, self.provenance.batch_tokens):
            hidden = final_hidden(self.model, batch.input_ids.to(device))
            columns = measure(
                hidden[batch.real.to(device)],
                self.head,
                batch.targets.to(device),
                self.wanted,
                self.precision,
            )
            columns |= {"doc": batch.doc, "pos": batch.pos}
            pieces.append(columns)
            bar.update(len(batch.doc))
        whole = {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}
        order = np.lexsort((whole["pos"], whole["doc"]))
        whole = {name: column[order] for name, column in whole.items()}
        whole["word_start"] = self.word_start[whole["target"]]
        self._count_nonfinite(whole)
        return _to_table(whole)

    def _count_nonfinite(self, columns: dict[str, np.ndarray[Any, Any]]) -> None:
        bad = np.flatnonzero(~columns["finite"])
        self.nonfinite.append(len(bad))
        if sum(self.nonfinite) > self.max_nonfinite:
            doc, pos = int(columns["doc"][bad[0]]), int(columns["pos"][bad[0]])
            raise NonFiniteError(
                f"{self.provenance.model} gives logits that are not finite at {sum(self.nonfinite)} "
                f"positions so far, first at document {self.windows.corpus.names[doc]!r} (doc {doc}) "
                f"position {pos}; --max-nonfinite {self.max_nonfinite} allows no more"
            )

    def vocabulary(self, tables: list[pa.Table] | Iterator[pa.Table]) -> Vocabulary:
        used: set[int] = set()
        for table in tables:
            for name in MENTIONED:
                if name in table.column_names:
                    column = table[name].combine_chunks()
                    flat = column.flatten() if name == "topk_ids" else column
                    used.update(flat.unique().drop_null().to_pylist())
        used.update(self._first_tokens().tolist())
        return Vocabulary.of(self.windows.corpus.tokenizer, used)

    def documents(self) -> pa.Table:
        corpus = self.windows.corpus
        count = np.bincount(
            self.windows.doc, weights=self.windows.length, minlength=len(corpus.names)
        )
        return pa.table(
            {
                "doc": pa.array(range(len(corpus.names)), pa.int32()),
                "name": pa.array(corpus.names, pa.string()),
                "first_token": pa.array(self._first_tokens(), pa.int32()),
                "positions": pa.array(count.astype(np.int64), pa.int64()),
            }
        )

    def _first_tokens(self) -> np.ndarray[Any, Any]:
        corpus = self.windows.corpus
        _, row = np.unique(corpus.document, return_index=True)
        return np.asarray(corpus.ids[corpus.starts[row]])


def _highest_id(corpus: Corpus) -> int:
    step = 1 << 20
    return max(int(corpus.ids[i : i + step].max()) for i in range(0, len(corpus.ids), step))


def _to_table(columns: dict[str, np.ndarray[Any, Any]]) -> pa.Table:
    missing = ~columns.pop("finite")
    order = ["doc", "pos", *(name for name in columns if name not in ("doc", "pos"))]
    arrays = {}
    for name in order:
        column, mask = columns[name], None if name in ALWAYS else missing
        if column.ndim == 2:
            flat = pa.array(np.ascontiguousarray(column).ravel())
            holes = None if mask is None or not mask.any() else pa.array(mask)
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, column.shape[1], mask=holes)
        else:
            arrays[name] = pa.array(column, mask=mask)
    return pa.table(arrays)


def _resume_nonfinite(folder: RunFolder, run: _Run) -> None:
    """Count the nulls of the parts that an earlier process finished."""
    for path in sorted(folder.done):
        if path.startswith("tokens/"):
            run.nonfinite.append(pq.read_table(folder.folder / path, columns=["top1"])[0].null_count)


def _finish(folder: RunFolder, run: _Run, command: str) -> None:
    files = sorted(path for path in folder.done if path.startswith("tokens/"))
    tables = (
        pq.read_table(path, columns=[n for n in pq.read_schema(path).names if n in MENTIONED])
        for path in (folder.folder / file for file in files)
    )
    folder.write_table("vocabulary.parquet", run.vocabulary(tables).to_table())
    folder.write_table("documents.parquet", run.documents())
    summary = _opened(folder.folder, run.provenance).summary
    text = json.dumps(summary_to_json(summary), indent=1, allow_nan=False)
    folder.write_bytes("summary.json", text.encode())
    folder.finish(run.provenance.to_json(), command)


def _opened(folder: Path, provenance: Provenance) -> Audit:
    vocabulary = Vocabulary.from_table(pq.read_table(folder / "vocabulary.parquet"))
    documents = pq.read_table(folder / "documents.parquet")
    return Audit(provenance, vocabulary, documents, folder=folder)


def _summarise(audit: Audit) -> AuditSummary:
    names = ("doc", "target", "top1", "margin", "relative_distance", "nll", "entropy", "confidence")
    values = [audit.column(name) for name in names]
    columns = AuditColumns(*values, finite=np.isfinite(values[names.index("margin")]))
    native = None
    if audit.provenance.options["native_head"]:
        native = NativeColumns(
            audit.provenance.model_dtype,
            audit.column("native_top1"),
            audit.column("native_top2"),
            audit.column("native_margin"),
            audit.column("native_step"),
            audit.column("top2"),
        )
    return summarise(columns, native=native, row_norm_cv=audit.provenance.row_norm_cv)


def _bar(run: _Run, progress: bool) -> Any:
    return tqdm(
        total=run.windows.positions,
        desc="audit",
        unit="tok",
        unit_scale=True,
        disable=not progress,
        mininterval=0.5,
    )
