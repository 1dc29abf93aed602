"""The passes of a ladder: the base once, then each variant beside what is kept of it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unembed.decisions.audit.audit import Audit, finish_audit
from unembed.decisions.audit.run import AuditOptions, AuditRun, Columns, joined, token_file
from unembed.decisions.comparison.live import (
    DIVERGENCE_BYTES,
    TableFiles,
    divergence_columns,
    divergence_table,
    finished_tables,
    key_beside,
)
from unembed.decisions.comparison.tokenizers import (
    refuse_other_heads,
    refuse_other_tokenizers,
    refuse_other_vocabularies,
    surely_alike,
)
from unembed.decisions.ladder.states import KeptStates, States
from unembed.decisions.ladder.summary import ModelFacts
from unembed.decisions.ladder.variants import BASE, STATES, HeadAlone, Variant
from unembed.errors import UnembedError
from unembed.head.divergence import SweptModel, divergence
from unembed.head.head import output_embedding
from unembed.models.checkpoint import Checkpoint
from unembed.models.model_pass import ModelPass
from unembed.models.names import CAST
from unembed.models.replicas import MOST_REPLICAS
from unembed.models.stored_size import WeightBytes
from unembed.runs.files import check_room
from unembed.runs.manifest import Part
from unembed.runs.phases import Phases
from unembed.runs.progress import progress_bar
from unembed.runs.ranks import current_ranks
from unembed.runs.store import RunFolder
from unembed.stats.forms import in_bytes
from unembed.text.batches import Batch
from unembed.text.corpus import Corpus

AFTER, DIVERGENCE = "after", "divergence"
"""Folders of a variant's audit and divergences, within that of its comparison."""


@dataclass(frozen=True)
class BaseOnText:
    """What is left of the base once it has read a text: its audit, its head, its states."""

    audit: Audit
    reading: ModelPass
    options: AuditOptions
    states: KeptStates


@dataclass(frozen=True)
class MeasuredBase:
    """The base without its body."""

    checkpoint: Checkpoint
    facts: ModelFacts
    texts: Mapping[str, BaseOnText]


@dataclass(frozen=True)
class Pass:
    """How every model of a ladder reads, and where what is found is kept."""

    corpora: Mapping[str, Corpus]
    options: AuditOptions
    out: Path
    command: str
    progress: bool
    phases: Phases

    def place(self, text: str, name: str) -> Path:
        """Where a model's run on a text lies."""
        return self.out / name if len(self.corpora) == 1 else self.out / text / name

    def measure_base(self, base: Variant, states: Path, *, needed: bool) -> MeasuredBase:
        """Audit the base on every text, and keep its final hidden states where they are needed."""
        with self.phases("load"):
            checkpoint, size = base.open()
            self.options.check_model(checkpoint)
        texts = {
            text: self._base_on(text, checkpoint, KeptStates(states / text), needed)
            for text in self.corpora
        }
        left = HeadAlone(output_embedding(checkpoint.model))
        facts = _facts(base, size, next(iter(texts.values())).audit)
        kept = MeasuredBase(replace(checkpoint, model=left), facts, texts)
        del checkpoint
        gc.collect()
        return kept

    def _base_on(
        self, text: str, checkpoint: Checkpoint, states: KeptStates, needed: bool
    ) -> BaseOnText:
        with self.phases("prepare"):
            model = checkpoint.model.eval()
            run = AuditRun.of(model, self.corpora[text], self.options, checkpoint.name)
        reading, positions = run.reading, run.reading.windows.positions

        def work(team: tuple[nn.Module, ...], batch: Batch, share: Phases) -> tuple[Columns, Any]:
            hidden = reading.hidden(team[0], batch, share)
            with share("head"):
                swept = run.swept(hidden, batch)
                columns = run.columns(hidden, swept, batch)
            return columns, States.of(hidden, swept, batch) if needed else None

        place, ranks = self.place(text, BASE), current_ranks()
        reading.check_shares(ranks)
        with RunFolder.open(place, run.provenance.to_json()) as folder:
            written = run.finished_parts(folder)
            kept = ranks.from_first(f"the states in {states.folder}", sorted(states.parts))
            done = written & frozenset(kept) if needed else written
            run.count_finished(folder, done)
            parts = [folder.done[token_file(part)] for part in done]
            said = self._checked_room(run, parts) if needed else ""
            with progress_bar("audit", "tok", positions, self.progress) as bar:
                if said and not bar.disable:
                    bar.write(said, file=sys.stderr)
                for part, pieces in reading.results(work, bar, self.phases, done=done, ranks=ranks):
                    with self.phases("write"):
                        table = run.table([columns for columns, _states in pieces])
                        if needed and ranks.writes:
                            states.write(part, [one for _columns, one in pieces])
                        if part not in written:
                            folder.write_table(token_file(part), table)
            with self.phases("summary"):
                audited = finish_audit(folder, run, self.command)
        stub = HeadAlone(output_embedding(model))
        options = self.options if reading.mixed else replace(self.options, mix_lengths=False)
        bodiless = replace(reading, models=[stub] * MOST_REPLICAS)
        return BaseOnText(audited, bodiless, options, states)

    def _checked_room(self, run: AuditRun, done: list[Part]) -> str:
        """What the base's states take, in a sentence. Raises UnembedError where it is not free."""
        weight = run.reading.head.weight
        left = run.reading.windows.positions - sum(part.rows for part in done)
        each = weight.shape[1] * weight.element_size() + 8 * run.candidates + 12
        with_tables = left * (each + run.wanted.bytes_a_position // 2)
        check_room(self.out, with_tables, f"the base's hidden states of {left:,} positions")
        if not left:
            return ""
        taken = f"{self.out / STATES} takes {in_bytes(left * each)}"
        return f"{taken} until the last variant is measured: the base's final hidden states"

    def measure(
        self, variant: Variant, base: MeasuredBase
    ) -> tuple[ModelFacts, dict[str, tuple[Audit, TableFiles]]]:
        """Audit a variant on every text, with its divergences from the base.

        Raises UnembedError for a variant that does not go with the base.
        """
        if variant.scheme == CAST and base.facts.dtype == "bfloat16":
            raise UnembedError(f"{base.facts.model} is in bfloat16 as it is: leave {CAST} out")
        with self.phases("load"):
            checkpoint, size = variant.open()
            splits = variant.reads_base_tokens and not surely_alike(base.checkpoint, checkpoint)
            if splits:
                refuse_other_vocabularies(base.checkpoint, checkpoint, more=True)
                checkpoint = replace(checkpoint, tokenizer=base.checkpoint.tokenizer)
            self.options.check_model(checkpoint)
        for corpus in self.corpora.values():
            refuse_other_tokenizers(base.checkpoint, checkpoint, corpus)
            refuse_other_heads(base.checkpoint, checkpoint, corpus)
        found = {
            text: self._variant_on(text, variant.name, checkpoint, base.texts[text])
            for text in self.corpora
        }
        facts = _facts(variant, size, next(iter(found.values()))[0])
        facts = replace(facts, base_tokens=splits)
        del checkpoint
        gc.collect()
        return facts, found

    def _variant_on(
        self, text: str, name: str, checkpoint: Checkpoint, base: BaseOnText
    ) -> tuple[Audit, TableFiles]:
        with self.phases("prepare"):
            model = checkpoint.model.eval()
            run = AuditRun.of(model, self.corpora[text], base.options, checkpoint.name)
        key = run.provenance.to_json()
        apart = key_beside(DIVERGENCE, base.audit.provenance.to_json(), key)
        place, positions = self.place(text, name), run.reading.windows.positions
        with ExitStack() as stack:
            after, beside = (
                stack.enter_context(RunFolder.open(place / folder, one))
                for folder, one in ((AFTER, key), (DIVERGENCE, apart))
            )
            done = run.finished_parts(after) & run.finished_parts(beside)
            run.count_finished(after, done)
            written = [after.done[token_file(part)] for part in done]
            run.check_room(place, written, DIVERGENCE_BYTES)
            with progress_bar("compare", "tok", positions, self.progress) as bar:
                for part, pieces in run.reading.results(
                    _Beside(run, base),
                    bar,
                    self.phases,
                    others=[base.reading],
                    done=done,
                    ranks=after.ranks,
                ):
                    with self.phases("write"):
                        own, apart_of = zip(*pieces, strict=True)
                        after.write_table(token_file(part), run.table(list(own)))
                        table = divergence_table(joined(list(apart_of)))
                        beside.write_table(token_file(part), table)
            with self.phases("summary"):
                audited = finish_audit(after, run, self.command)
            return audited, finished_tables(beside, self.command)


def _facts(variant: Variant, size: WeightBytes, audited: Audit) -> ModelFacts:
    made = audited.provenance
    return ModelFacts(
        variant.name, variant.model, variant.scheme, made.model_dtype, made.model_digest, size
    )


@dataclass(frozen=True)
class _Beside:
    """A variant's columns of a batch, and its divergences from what is kept of the base."""

    run: AuditRun
    base: BaseOnText

    @torch.no_grad()
    def __call__(
        self, models: tuple[nn.Module, ...], batch: Batch, phases: Phases
    ) -> tuple[Columns, Columns]:
        reading, before = self.run.reading, self.base.reading
        hidden = reading.hidden(models[0], batch, phases)
        with phases("head"):
            swept = self.run.swept(hidden, batch)
            columns = self.run.columns(hidden, swept, batch)
        with phases("divergence"):
            kept = self.base.states.of(batch, hidden.device)
            found = divergence(
                SweptModel(kept.hidden, before.head, kept, before.precision),
                SweptModel(hidden, reading.head, swept, reading.precision),
            )
        return columns, divergence_columns(found) | {"doc": batch.doc, "pos": batch.pos}
