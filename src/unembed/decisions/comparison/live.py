"""Two models over one text in one pass: both audits, and how far apart their distributions are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from unembed.decisions.audit.audit import Audit, finish_audit, held_audit
from unembed.decisions.audit.run import AuditOptions, AuditRun, Columns, joined, token_file
from unembed.decisions.comparison.pair_reader import PairReader, PairReading
from unembed.decisions.comparison.tokenizers import refuse_other_heads, refuse_other_tokenizers
from unembed.errors import UnembedError
from unembed.head.divergence import Divergence, SweptModel, divergence
from unembed.models.checkpoint import Checkpoint, context_of
from unembed.models.mode import restores_mode
from unembed.models.model_pass import ALONE
from unembed.runs.arrays import number_array, read_table
from unembed.runs.phases import Phases, current_phases
from unembed.runs.progress import progress_bar
from unembed.runs.provenance import SCHEMA
from unembed.runs.ranks import Ranks, current_ranks
from unembed.runs.store import TABLES, RunFolder
from unembed.text.batches import Batch
from unembed.text.corpus import Corpus

DIVERGENCES = ("kl_forward", "kl_backward", "total_variation", "overlap")
"""Columns of the divergence table besides ``doc`` and ``pos``; see ``divergence.Divergence``."""

DIVERGENCE_BYTES = 24
"""Width of a position in the divergence table."""


@dataclass(frozen=True)
class LiveAudits:
    """Two audits of one text, row for row, and the divergences of the same positions.

    ``divergence_parts`` gives the divergences' table a part at a time, read from the run where
    there is one, and as often as it is asked. ``readings`` are those of further readers, in the
    order in which they were given.
    """

    before: Audit
    after: Audit
    divergence_parts: Iterable[pa.Table]
    readings: tuple[PairReading, ...] = ()

    @cached_property
    def divergence(self) -> pa.Table:
        """Columns ``doc pos`` and DIVERGENCES, a row for each of the audits'."""
        return pa.concat_tables(self.divergence_parts)


@dataclass(frozen=True)
class TableFiles:
    """The tables of some files, each read when its turn comes."""

    files: tuple[Path, ...]

    def __iter__(self) -> Iterator[pa.Table]:
        return map(read_table, self.files)


@restores_mode
def audit_both(
    before: Checkpoint,
    after: Checkpoint,
    corpus: Corpus,
    options: AuditOptions | None = None,
    *,
    readers: Sequence[PairReader] = (),
    out: str | Path | None = None,
    command: str = "",
    progress: bool = False,
    phases: Phases | None = None,
) -> LiveAudits:
    """Audit two models together, with exact divergences of their distributions at each position.

    No logits are stored: both heads pass over the same blocks of the vocabulary, twice. With
    ``out`` the audits are written to ``out/before`` and ``out/after``, the divergences to
    ``out/divergence``, and what further ``readers`` take from the same pass to a folder of each
    one's name; a killed run goes on where it stopped. The context is the shorter of the two
    models'. Raises UnembedError where the tokenizers do not do the same, where one head lacks
    tokens of the other, and as ``audit`` does.
    Source: theory §4.
    """
    refuse_other_tokenizers(before, after, corpus)
    refuse_other_heads(before, after, corpus)
    options, phases = options or AuditOptions(), phases or current_phases()
    shorter = min(context_of(one.model, options.context) for one in (before, after))
    options = replace(options, context=shorter)
    with phases("prepare"):
        runs = _runs(before, after, corpus, options)
    both = _Both(runs[0], runs[1], tuple(readers))
    positions = runs[0].reading.windows.positions
    if out is None:
        with progress_bar("compare", "tok", positions, progress) as bar:
            found = [tables for _part, tables in both.tables(frozenset(), bar, phases)]
        whole = [pa.concat_tables(tables) for tables in zip(*found, strict=True)]
        audits = [held_audit(run, table) for run, table in zip(runs, whole, strict=False)]
        return both.live(audits, [(table,) for table in whole[2:]])
    keys = [run.provenance.to_json() for run in runs]
    names = ("before", "after", "divergence", *(reader.name for reader in readers))
    pair = dict(zip(("before", "after"), keys, strict=True))
    for name, own in zip(names[2:], ({}, *(reader.key for reader in readers)), strict=True):
        keys.append(key_beside(name, **pair) | own)
    runs[0].reading.check_shares(current_ranks())
    with ExitStack() as stack:
        folders = [
            stack.enter_context(RunFolder.open(Path(out) / name, key))
            for name, key in zip(names, keys, strict=True)
        ]
        kept = [runs[0].finished_parts(folder) for folder in folders]
        done = frozenset.intersection(*kept)
        for folder, parts in zip(folders, kept, strict=True):
            if folder.finished and parts != done:
                lacking = " and ".join(n for n, p in zip(names, kept, strict=True) if p == done)
                raise UnembedError(
                    f"{out} holds a finished run without {lacking}: give another folder"
                )
        for run, folder in zip(runs, folders, strict=False):
            run.count_finished(folder, done)
        written = [folders[0].done[token_file(part)] for part in done]
        beside = runs[1].wanted.bytes_a_position + DIVERGENCE_BYTES
        beside += sum(reader.bytes_a_position for reader in readers)
        runs[0].check_room(Path(out), written, beside)
        with progress_bar("compare", "tok", positions, progress) as bar:
            for part, tables in both.tables(done, bar, phases, folders[0].ranks):
                with phases("write"):
                    for folder, table in zip(folders, tables, strict=True):
                        folder.write_table(token_file(part), table)
        with phases("summary"):
            audits = [
                finish_audit(folder, run, command)
                for folder, run in zip(folders, runs, strict=False)
            ]
        return both.live(audits, [finished_tables(folder, command) for folder in folders[2:]])


def finished_tables(folder: RunFolder, command: str) -> TableFiles:
    """The parts of a folder, which are then all that it holds."""
    if not folder.finished:
        folder.by_first(lambda: folder.finish(command))
    files = sorted(path for path in folder.done if path.startswith(TABLES))
    return TableFiles(tuple(folder.folder / file for file in files))


def _runs(
    before: Checkpoint, after: Checkpoint, corpus: Corpus, options: AuditOptions
) -> list[AuditRun]:
    """Both runs, over one plan: where one model needs batches of one length, both get them."""

    def prepared(options: AuditOptions) -> list[AuditRun]:
        pair = (before, after)
        return [AuditRun.of(one.model.eval(), corpus, options, one.name) for one in pair]

    runs = prepared(options)
    if len({run.reading.mixed for run in runs}) > 1:
        return prepared(replace(options, mix_lengths=False))
    return runs


@dataclass(frozen=True)
class _Both:
    """Two runs over the same batches, and who else reads them."""

    before: AuditRun
    after: AuditRun
    readers: tuple[PairReader, ...]

    def live(self, audits: Sequence[Audit], tables: Sequence[Iterable[pa.Table]]) -> LiveAudits:
        """What was found, from the parts of the divergences' table and of each reader's."""
        readings = map(PairReading, self.readers, tables[1:])
        return LiveAudits(audits[0], audits[1], tables[0], tuple(readings))

    def tables(
        self, done: frozenset[str], bar: Any, phases: Phases, ranks: Ranks = ALONE
    ) -> Iterator[tuple[str, tuple[pa.Table, ...]]]:
        """The parts that are not done yet: tables of both audits, divergences and readers."""
        found = self.before.reading.results(
            self._columns, bar, phases, others=[self.after.reading], done=done, ranks=ranks
        )
        for part, pieces in found:
            before, after, *others = (list(columns) for columns in zip(*pieces, strict=True))
            make = (divergence_table, *(reader.table for reader in self.readers))
            tables = (form(joined(found)) for form, found in zip(make, others, strict=True))
            yield part, (self.before.table(before), self.after.table(after), *tables)

    @torch.no_grad()
    def _columns(
        self, models: tuple[nn.Module, ...], batch: Batch, phases: Phases
    ) -> tuple[Columns, ...]:
        voices, found = [], []
        for run, model in zip((self.before, self.after), models, strict=True):
            hidden = run.reading.hidden(model, batch, phases)
            with phases("head"):
                swept = run.swept(hidden, batch)
                found.append(run.columns(hidden, swept, batch))
            voices.append(SweptModel(hidden, run.reading.head, swept, run.reading.precision))
        with phases("divergence"):
            divergences = divergence(*voices)
        others = [divergence_columns(divergences)]
        for reader in self.readers:
            with phases(reader.name):
                others.append(reader.columns(voices[0], voices[1], batch))
        where = {"doc": batch.doc, "pos": batch.pos}
        return *found, *(columns | where for columns in others)


def key_beside(name: str, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What a table beside two audits depends on, from what these depend on."""
    return {"kind": name, "schema": SCHEMA, "before": before, "after": after}


def divergence_columns(found: Divergence) -> Columns:
    """The divergences of a batch by column name."""
    return {name: getattr(found, name).cpu().numpy() for name in DIVERGENCES}


def divergence_table(columns: Columns) -> pa.Table:
    """The divergence table; null where either model has a logit that is not finite."""
    arrays = {name: number_array(columns[name]) for name in ("doc", "pos")}
    for name in DIVERGENCES:
        arrays[name] = number_array(columns[name], np.isnan(columns[name]))
    return pa.table(arrays)
