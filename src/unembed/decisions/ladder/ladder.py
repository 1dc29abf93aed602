"""One base and several variants over one text or several: ladder(base, variants, corpora)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from unembed.decisions.audit.audit import Audit
from unembed.decisions.audit.run import AuditOptions
from unembed.decisions.comparison.compare import Comparison, compare
from unembed.decisions.comparison.flips import COMPARISON_RESAMPLES
from unembed.decisions.comparison.positions import PositionFilter
from unembed.decisions.ladder.run import AFTER, Pass
from unembed.decisions.ladder.summary import (
    LadderSummary,
    LadderText,
    ModelFacts,
    Refused,
    summarise_ladder,
)
from unembed.decisions.ladder.variants import (
    BASE,
    STATES,
    Variant,
    check_variants,
    refuse_unlike,
    shared_context,
)
from unembed.errors import UnembedError, WriteError
from unembed.runs.frames import Figures
from unembed.runs.heartbeat import OtherRankError
from unembed.runs.manifest import FinishedRun
from unembed.runs.phases import current_phases
from unembed.runs.progress import Steps
from unembed.runs.ranks import current_ranks
from unembed.runs.record import record_from_json, record_to_json
from unembed.runs.run_record import RunRecord
from unembed.runs.store import RunFolder, holds_finished_run, reopen
from unembed.runs.table import in_columns
from unembed.stats.forms import bounded, decimal, in_bytes, plus_minus, point, points, share
from unembed.text.corpus import Corpus


@dataclass(frozen=True)
class Ladder(RunRecord, Figures):
    """One base and its variants over the same texts: sizes, distances and directions.

    ``comparison(name)`` opens a variant's own comparison with the base. ``summary.refused`` names
    the variants that could not be measured.
    """

    KIND: ClassVar[str] = "ladder"

    summary: LadderSummary
    folder: Path | None = field(default=None, compare=False)

    @classmethod
    def of_run(cls, run: FinishedRun) -> Ladder:
        """Open a run whose files are whole."""
        return cls(record_from_json(LadderSummary, run.summary()), run.folder)

    def place(self, name: str, text: str | None = None) -> str:
        """The folder of a model's run on a text, within the ladder's."""
        texts = [one.name for one in self.summary.texts]
        return name if len(texts) == 1 else f"{text or texts[0]}/{name}"

    def comparison(self, name: str, text: str | None = None) -> Comparison:
        """The comparison of a variant with the base on a text, the first where none is named."""
        assert self.folder is not None
        return Comparison.load(self.folder / self.place(name, text))

    def audit(self, text: str | None = None) -> Audit:
        """The base's audit of a text, the first where none is named."""
        assert self.folder is not None
        return Audit.load(self.folder / self.place(BASE, text))

    @property
    def sub_runs(self) -> Mapping[str, RunRecord]:
        """The base's audits and the variants' comparisons."""
        found: dict[str, RunRecord] = {}
        for text in self.summary.texts:
            found[self.place(BASE, text.name)] = self.audit(text.name)
            for one in self.summary.variants:
                found[self.place(one.name, text.name)] = self.comparison(one.name, text.name)
        return found

    def __str__(self) -> str:
        notes = [f"{one.name} could not be measured: {one.reason}" for one in self.summary.refused]
        return "\n".join([in_columns(self._rows()), *notes])

    def _phrases(self) -> Iterator[str]:
        yield self.summary.base.model
        yield from self.summary._phrases()

    def _rows(self) -> list[tuple[str, ...]]:
        return headline(self.summary)


def ladder(
    base: Variant,
    variants: Sequence[Variant],
    corpora: Corpus | Mapping[str, Corpus],
    options: AuditOptions | None = None,
    *,
    out: str | Path,
    only: PositionFilter | None = None,
    command: str = "",
    progress: bool = False,
    resamples: int = COMPARISON_RESAMPLES,
    seed: int = 0,
) -> Ladder:
    """Measure a base once and each variant beside it, one model in memory at a time.

    Each row equals ``compare`` of ``live.audit_both`` for that pair alone, whose run is kept in
    ``out/NAME`` (``out/TEXT/NAME`` of several texts) and the base's audit in ``out/base``. The
    base's final hidden states lie in ``out/states`` until the last variant is measured. A killed
    run goes on where it stopped, and a finished one takes further variants. A variant that cannot
    be measured is named in ``summary.refused``, and the others are finished. Raises UnembedError,
    before a model is loaded, for variants given twice, names that collide, another tokenizer or
    vocabulary, and a context longer than one of them allows; and where no variant is left.
    Source: theory §4.
    """
    texts = {"text": corpora} if isinstance(corpora, Corpus) else dict(corpora)
    options, only, out = options or AuditOptions(), only or PositionFilter(), Path(out)
    check_variants(base, variants)
    options = replace(options, context=shared_context(base, variants, options.context))
    for corpus in texts.values():
        refuse_unlike(base, variants, corpus)
    work = Pass(texts, options, out, command, progress, current_phases())
    how = {"resamples": resamples, "seed": seed}
    key = {
        "base": base.given,
        "dtype": base.dtype,
        "texts": {name: corpus.digest for name, corpus in texts.items()},
        "options": record_to_json(options),
        "only": only.words,
        **how,
    }
    ranks = current_ranks()
    if ranks.first and holds_finished_run(out):
        reopen(out)

    def measured(_folder: RunFolder) -> dict[str, Any]:
        steps = Steps(1 + len(variants))
        there = [
            holds_finished_run(work.place(text, one.name) / AFTER)
            for one in variants
            for text in texts
        ]
        missing = not all(ranks.from_first("which variants are finished", there))
        with steps(BASE):
            before = work.measure_base(base, out / STATES, needed=missing)
        facts: list[ModelFacts] = []
        refused: list[Refused] = []
        comparisons: dict[tuple[str, str], Comparison] = {}
        for one in variants:
            try:
                with steps(one.name):
                    known, audits = work.measure(one, before)
                    found = {
                        (text, one.name): compare(
                            before.texts[text].audit,
                            audited,
                            divergence=apart,
                            only=only,
                            out=work.place(text, one.name),
                            command=command,
                            resamples=resamples,
                            seed=seed,
                        )
                        for text, (audited, apart) in audits.items()
                    }
            except (WriteError, OtherRankError):
                raise
            except UnembedError as error:
                ranks.wait(f"{one.name} could not be measured: {error}")
                refused.append(Refused(one.name, one.given, str(error)))
                continue
            facts.append(known)
            comparisons |= found
        if not facts:
            reasons = "; ".join(f"{one.name}: {one.reason}" for one in refused)
            raise UnembedError(f"no variant could be measured: {reasons}")
        with work.phases("pairs"):
            read = [
                LadderText(name, text.corpus, text.documents, text.positions)
                for name, one in before.texts.items()
                for text in (one.audit.provenance.text,)
            ]
            summary = summarise_ladder(
                before.facts, facts, read, comparisons, only=only.words, refused=refused, **how
            )
        if ranks.first:
            shutil.rmtree(out / STATES, ignore_errors=True)
        plain: dict[str, Any] = record_to_json(summary)
        return plain

    return Ladder.keep(out, key, measured, command=command, together=True)


def headline(summary: LadderSummary) -> list[tuple[str, ...]]:
    """The short table that a ladder prints: a line for each variant, below their names."""
    rows: list[tuple[str, ...]] = [
        ("variant", "weights", "mean KL (nats)", "same top", "perplexity ×", "accuracy")
    ]
    for row in summary.overall:
        size = summary.facts(row.name).bytes
        rows.append(
            (
                row.name,
                f"{'about ' * (size.known == 'nominal')}{in_bytes(size.weights)}",
                point(row.kl_mean, decimal),
                point(row.same_top, share),
                plus_minus(row.perplexity_ratio, decimal),
                bounded(row.accuracy_difference, points),
            )
        )
    return rows
