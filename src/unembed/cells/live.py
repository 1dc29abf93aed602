"""Two models over one text in one pass: both audits, and how far apart their distributions are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor, nn

from unembed.cells.audit import Audit, finish_audit
from unembed.cells.measure import columns_of, swept_for
from unembed.cells.run import AuditOptions, AuditRun, Columns, counting, held_routes, joined
from unembed.corpus import Corpus
from unembed.divergence import Voice, divergence
from unembed.errors import UnembedError
from unembed.models import Checkpoint, context_of
from unembed.phases import Phases
from unembed.progress import progress_bar
from unembed.provenance import SCHEMA
from unembed.replicas import side_by_side
from unembed.store import RunFolder
from unembed.windows import Batch

DIVERGENCES = ("kl_forward", "kl_backward", "total_variation", "overlap")
"""Columns of the divergence table besides ``doc`` and ``pos``; see ``divergence.Divergence``."""


@dataclass(frozen=True)
class LiveAudits:
    """Two audits of one text, row for row, and the divergences of the same positions."""

    before: Audit
    after: Audit
    divergence: pa.Table


def audit_both(
    before: Checkpoint,
    after: Checkpoint,
    corpus: Corpus,
    options: AuditOptions | None = None,
    *,
    out: str | Path | None = None,
    command: str = "",
    progress: bool = False,
    phases: Phases | None = None,
) -> LiveAudits:
    """Audit two models together, with exact divergences of their distributions at each position.

    No logits are stored: both heads pass over the same blocks of the vocabulary, twice. With
    ``out`` the audits are written to ``out/before`` and ``out/after`` and the divergences to
    ``out/divergence``; a killed run goes on where it stopped. The context is the shorter of the two
    models'. Raises UnembedError where the tokenizers differ, and as ``audit`` does.
    Source: SPEC §4.
    """
    _refuse_other_tokenizers(before, after)
    options, phases = options or AuditOptions(), phases or Phases()
    shorter = min(context_of(one.model, options.context) for one in (before, after))
    options = replace(options, context=shorter)
    with phases("prepare"):
        runs = [AuditRun.of(one.model.eval(), corpus, options, one.name) for one in (before, after)]
    both = _Both(*runs)
    if out is None:
        with progress_bar("compare", "tok", runs[0].windows.positions, progress) as bar:
            found = [tables for _path, tables in both.tables(frozenset(), bar, phases)]
        whole = [pa.concat_tables(tables) for tables in zip(*found, strict=True)]
        audits = [
            Audit(run.provenance, run.vocabulary([table]), run.documents(), in_memory=table)
            for run, table in zip(runs, whole, strict=False)
        ]
        return LiveAudits(audits[0], audits[1], whole[2])
    keys = [run.provenance.to_json() for run in runs]
    keys.append({"kind": "divergence", "schema": SCHEMA, "before": keys[0], "after": keys[1]})
    names = ("before", "after", "divergence")
    with ExitStack() as stack:
        folders = [
            stack.enter_context(RunFolder.open(Path(out) / name, key))
            for name, key in zip(names, keys, strict=True)
        ]
        done = frozenset.intersection(*(frozenset(folder.done) for folder in folders))
        for run, folder in zip(runs, folders, strict=False):
            run.count_finished(folder, done)
        with progress_bar("compare", "tok", runs[0].windows.positions, progress) as bar:
            for path, tables in both.tables(done, bar, phases):
                with phases("write"):
                    for folder, table in zip(folders, tables, strict=True):
                        folder.write_table(path, table)
        with phases("summary"):
            audits = [
                finish_audit(folder, run, command)
                for folder, run in zip(folders, runs, strict=False)
            ]
        if not folders[2].finished:
            folders[2].finish(keys[2], command)
        files = sorted((folders[2].folder / "tokens").glob("part-*.parquet"))
        apart = pa.concat_tables([pq.read_table(file) for file in files])
        return LiveAudits(audits[0], audits[1], apart)


@dataclass(frozen=True)
class _Both:
    """Two runs over the same batches."""

    before: AuditRun
    after: AuditRun

    def tables(
        self, done: frozenset[str], bar: Any, phases: Phases
    ) -> Iterator[tuple[str, tuple[pa.Table, pa.Table, pa.Table]]]:
        """The parts that are not done yet: both audits' tables and the divergences'."""
        runs = (self.before, self.after)
        routes = {route for run in runs for route in (run.precision.route, run.body_route)}
        pairs = list(zip(self.before.models, self.after.models, strict=False))
        pairs = pairs if len(routes) == 1 else pairs[:1]
        share = phases.among(len(pairs))

        def work(models: tuple[nn.Module, nn.Module], item: tuple[str, Batch]) -> Any:
            path, batch = item
            return path, self._columns(models, batch, share)

        with held_routes(routes):
            measured = side_by_side(pairs, work, self.before.planned(done, bar))
            for path, pieces in groupby(counting(measured, bar), key=itemgetter(0)):
                before, after, apart = zip(*(columns for _path, columns in pieces), strict=True)
                yield (
                    path,
                    (
                        self.before.table(list(before)),
                        self.after.table(list(after)),
                        _apart(joined(list(apart))),
                    ),
                )

    @torch.no_grad()
    def _columns(
        self, models: tuple[nn.Module, nn.Module], batch: Batch, phases: Phases
    ) -> tuple[Columns, Columns, Columns]:
        place = {"doc": batch.doc, "pos": batch.pos}
        voices, found = [], []
        for run, model in zip((self.before, self.after), models, strict=True):
            hidden = run.hidden(model, batch, phases)
            with phases("head"):
                voice, columns = _heard(run, hidden, batch)
            voices.append(voice)
            found.append(columns | place)
        with phases("divergence"):
            apart = divergence(*voices)
        columns = {name: getattr(apart, name).cpu().numpy() for name in DIVERGENCES}
        return found[0], found[1], columns | place


def _heard(
    run: AuditRun, hidden: Float[Tensor, "positions dim"], batch: Batch
) -> tuple[Voice, Columns]:
    targets = batch.targets.to(hidden.device)
    swept = swept_for(hidden, run.head, targets, run.wanted, run.precision)
    columns = columns_of(hidden, run.head, targets, swept, run.wanted, run.precision)
    return Voice(hidden, run.head, swept, run.precision), columns


def _apart(columns: Columns) -> pa.Table:
    """The divergence table; null where either model has a logit that is not finite."""
    arrays = {name: pa.array(columns[name]) for name in ("doc", "pos")}
    for name in DIVERGENCES:
        arrays[name] = pa.array(columns[name], from_pandas=True)
    return pa.table(arrays)


def _refuse_other_tokenizers(before: Checkpoint, after: Checkpoint) -> None:
    ours, theirs = (one.tokenizer.get_vocab() for one in (before, after))
    if ours == theirs:
        return
    odd = sorted(token for token, i in ours.items() if theirs.get(token) != i)
    odd = odd or sorted(theirs.keys() - ours.keys())
    raise UnembedError(
        f"the tokenizers of {before.name} and {after.name} differ ({len(ours):,} and "
        f"{len(theirs):,} tokens; first: {odd[0]!r} is {ours.get(odd[0])} and "
        f"{theirs.get(odd[0])}): decisions can be compared only over one vocabulary"
    )
