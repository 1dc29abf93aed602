"""One audit's pass over a text: what is fixed before the first batch, and the tables it yields."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from unembed.cells.measure import Wanted, measure
from unembed.corpus import Corpus
from unembed.errors import NonFiniteError, UnembedError
from unembed.head import Head, faster_body_route, final_hidden
from unembed.models import context_of, token_ids
from unembed.phases import Phases
from unembed.precision import Precision
from unembed.product import Route, float32_products
from unembed.provenance import Provenance, provenance_of
from unembed.replicas import MOST, replicas_of, side_by_side
from unembed.store import RunFolder
from unembed.vocabulary import Vocabulary, word_starts
from unembed.windows import Batch, Overflow, Windows, batches, parts

PART_POSITIONS = 1 << 15
MENTIONED = ("target", "top1", "top2", "facet", "topk_ids")
"""Columns whose ids the run's vocabulary spells out."""
Columns = dict[str, np.ndarray]
ALWAYS = ("doc", "pos", "target", "word_start")


@dataclass(frozen=True)
class AuditOptions:
    """How to audit.

    ``top_k`` candidates are kept per position (0: none; the report's text view lists them).
    ``facets`` adds the exact distance to the nearest facet, at about twice the head's cost.
    ``native_head`` adds what the checkpoint-precision head decides. ``context`` None takes the
    model's, at most 2,048 tokens. ``batch_tokens`` None takes 2,048 on CPU and 16,384 on a GPU.
    Up to ``max_nonfinite`` positions with a non-finite logit are kept as nulls before the run
    fails. A killed run loses at most the part it was writing, of ``part_positions``.
    ``logit_scale`` multiplies every logit, the control for sharpening (SPEC §5).
    """

    top_k: int = 5
    facets: bool = False
    native_head: bool = False
    context: int | None = None
    overflow: Overflow = "windows"
    max_positions: int | None = None
    batch_tokens: int | None = None
    max_nonfinite: int = 0
    part_positions: int = PART_POSITIONS
    logit_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("top_k", "max_nonfinite"):
            if getattr(self, name) < 0:
                raise UnembedError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("context", "batch_tokens", "max_positions", "part_positions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UnembedError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True)
class AuditRun:
    """Everything that is fixed before the first batch; ``models`` work on batches side by side."""

    models: list[nn.Module]
    head: Head
    windows: Windows
    wanted: Wanted
    precision: Precision
    body_route: Route
    word_start: Bool[np.ndarray, "vocab"]
    provenance: Provenance
    max_nonfinite: int
    nonfinite: list[int]

    @staticmethod
    def of(model: nn.Module, corpus: Corpus, options: AuditOptions, name: str) -> AuditRun:
        """Recover the head, cut the windows, probe the product, and collect the provenance."""
        highest = _highest_id(corpus)
        head = Head.of(model, token_ids(corpus.tokenizer))
        if options.logit_scale != 1.0:
            head = head.sharpened(options.logit_scale)
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
            corpus, context_of(model, options.context), options.overflow, options.max_positions
        )
        on_cpu = head.weight.device.type == "cpu"
        precision = Precision.probe(head.weight)
        body_route = faster_body_route(model, precision)
        threads = torch.get_num_threads()
        abreast = on_cpu and body_route == precision.route  # the route is a whole process's setting
        models = replicas_of(model, min(threads, MOST) if abreast else 1)
        wanted = Wanted(options.top_k, options.facets, options.native_head)
        provenance = provenance_of(
            "audit",
            name,
            model,
            head,
            precision,
            windows.facts,
            options.batch_tokens or (2048 if on_cpu else 16384),
            options.part_positions,
            {**vars(wanted), "body_product": body_route},
            threads=max(1, threads // len(models)),
        )
        return AuditRun(
            models=models,
            head=head,
            windows=windows,
            wanted=wanted,
            precision=precision,
            body_route=body_route,
            word_start=word_starts(corpus.tokenizer, head.vocab),
            provenance=provenance,
            max_nonfinite=options.max_nonfinite,
            nonfinite=[],
        )

    def tables(
        self, done: frozenset[str], bar: Any, phases: Phases
    ) -> Iterator[tuple[str, pa.Table]]:
        """The parts that are not done yet: path and table, in order of the text."""
        share = phases.among(len(self.models))

        def work(model: nn.Module, item: tuple[str, Batch]) -> tuple[str, Columns]:
            path, batch = item
            hidden = self.hidden(model, batch, share)
            with share("head"):
                targets = batch.targets.to(hidden.device)
                columns = measure(hidden, self.head, targets, self.wanted, self.precision)
            return path, columns | {"doc": batch.doc, "pos": batch.pos}

        with held_routes({self.precision.route, self.body_route}):
            measured = side_by_side(self.models, work, self.planned(done, bar))
            for path, pieces in groupby(counting(measured, bar), key=itemgetter(0)):
                yield path, self.table([columns for _path, columns in pieces])

    def planned(self, done: frozenset[str], bar: Any) -> Iterator[tuple[str, Batch]]:
        """The batches of every part that is not done yet, with the part's path."""
        todo: list[tuple[str, range]] = []
        for number, part in enumerate(parts(self.windows, self.provenance.part_positions)):
            path = f"tokens/part-{number:05d}.parquet"
            if path in done:
                bar.update(int(self.windows.length[part.start : part.stop].sum()))
                bar.initial = bar.n
            else:
                todo.append((path, part))
        return (
            (path, batch)
            for path, part in todo
            for batch in batches(self.windows, part, self.provenance.batch_tokens)
        )

    @torch.no_grad()
    def hidden(
        self, model: nn.Module, batch: Batch, phases: Phases
    ) -> Float[Tensor, "positions dim"]:
        """The final hidden states of a batch's predictions, by one of the models."""
        device = self.head.weight.device
        with phases("body"), float32_products(self.body_route):
            hidden = final_hidden(model, batch.input_ids.to(device))
            return hidden[batch.real.to(device)]

    def table(self, pieces: list[Columns]) -> pa.Table:
        """A part's table from its batches' columns, sorted, its non-finite rows counted."""
        whole = joined(pieces)
        whole["word_start"] = self.word_start[whole["target"]]
        bad = ~whole["finite"]
        self._count_nonfinite(whole["doc"][bad], whole["pos"][bad])
        return _to_table(whole)

    def _count_nonfinite(self, doc: Int[np.ndarray, "bad"], pos: Int[np.ndarray, "bad"]) -> None:
        before = sum(self.nonfinite)
        self.nonfinite.append(len(doc))
        over = self.max_nonfinite - before
        if len(doc) > over:
            raise NonFiniteError(
                f"{self.provenance.model} gives logits that are not finite at document "
                f"{self.windows.corpus.names[int(doc[over])]!r} (doc {doc[over]}) position "
                f"{pos[over]}, after {before + over} such before it: --max-nonfinite "
                f"{self.max_nonfinite} allows no more; mend the weights, or raise the limit to "
                "leave such positions out as nulls"
            )

    def count_finished(self, folder: RunFolder, done: frozenset[str]) -> None:
        """Count the non-finite positions of the parts that are done."""
        for path in sorted(done):
            if path.startswith("tokens/"):
                table = pq.read_table(folder.folder / path, columns=["doc", "pos", "top1"])
                bad = table.filter(pc.is_null(table["top1"]))
                self._count_nonfinite(bad["doc"].to_numpy(), bad["pos"].to_numpy())

    def vocabulary(self, tables: list[pa.Table] | Iterator[pa.Table]) -> Vocabulary:
        """The text of every token id in these tables, and of the first token of each document."""
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
        """A row per document: name, first token (which nothing predicts), positions."""
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

    def _first_tokens(self) -> Int[np.ndarray, "documents"]:
        corpus = self.windows.corpus
        _, row = np.unique(corpus.document, return_index=True)
        return np.asarray(corpus.ids[corpus.starts[row]])


@contextmanager
def held_routes(routes: set[Route]) -> Iterator[None]:
    """Keep the one route that all products take set throughout, for threads come and go from it.

    Where there are several, nothing is held, and each product sets its own.
    """
    with float32_products(*routes) if len(routes) == 1 else nullcontext():
        yield


def joined(pieces: list[Columns]) -> Columns:
    """Columns of batches as those of a part, in order of the text."""
    whole = {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}
    order = np.lexsort((whole["pos"], whole["doc"]))
    return {name: column[order] for name, column in whole.items()}


def counting(measured: Iterator[tuple[str, Any]], bar: Any) -> Iterator[tuple[str, Any]]:
    """The same results, each shown on the bar: columns, or several tables' columns."""
    for path, columns in measured:
        first = columns if isinstance(columns, dict) else columns[0]
        bar.update(len(first["doc"]))
        yield path, columns


def _highest_id(corpus: Corpus) -> int:
    step = 1 << 20
    return max(int(corpus.ids[i : i + step].max()) for i in range(0, len(corpus.ids), step))


def _to_table(columns: dict[str, Shaped[np.ndarray, "positions ..."]]) -> pa.Table:
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
