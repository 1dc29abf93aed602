"""Refine a model and say what that gained and cost: refine(model, corpus, recipe) -> Refinement."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from unembed.decisions.audit.audit import Audit, audit
from unembed.decisions.audit.run import AuditOptions
from unembed.decisions.comparison.compare import Comparison, compare
from unembed.errors import UnembedError, need
from unembed.models.checkpoint import Checkpoint, context_of
from unembed.models.mode import restores_mode
from unembed.runs.manifest import FinishedRun, read_run
from unembed.runs.progress import Steps
from unembed.runs.provenance import digest_of
from unembed.runs.ranks import alone, current_ranks
from unembed.runs.record import record_to_json
from unembed.runs.run_record import RunRecord
from unembed.runs.store import RunFolder, holds_finished_run
from unembed.runs.table import as_text
from unembed.text.corpus import Corpus
from unembed.text.windows import Windows
from unembed.training.benchmarks.pair import Benchmarks
from unembed.training.recipe.recipe import Recipe, control_of
from unembed.training.recipe.weighting import Positions
from unembed.training.run.engine import check_accelerate, check_report_to
from unembed.training.run.examples import split
from unembed.training.run.processes import check_processes
from unembed.training.run.summary import (
    CONTROL_STOPPED,
    RefinementSummary,
    headline,
    summarise_refinement,
)
from unembed.training.run.train import MODEL, Trained, train

BENCHMARKS = "benchmarks"
SIDES = {"heldout": "held out", "training": "training text"}
CONTROL = "control"
OVER_CONTROL = "over-control"


@dataclass(frozen=True)
class Refinement(RunRecord):
    """A refined model, and how its decisions differ from the starting model's.

    ``heldout`` and ``training`` compare both on the documents that training never saw, and on those
    it did; ``over_control``, of a run with a control, the control with the refined model on the
    former. ``folder/model`` is the refined checkpoint, in the starting model's dtype or in
    ``Recipe.save_dtype``, which plain transformers loads. Its manifest lists every file below the
    folder.
    """

    KIND: ClassVar[str] = "refinement"
    SCHEMA: ClassVar[int] = 2

    summary: RefinementSummary
    heldout: Comparison = field(repr=False)
    training: Comparison = field(repr=False)
    folder: Path
    over_control: Comparison | None = field(default=None, repr=False)

    @classmethod
    def of_run(cls, run: FinishedRun) -> Refinement:
        """Open a run whose files are whole."""
        summary = RefinementSummary.from_json(run.summary())
        names = (*SIDES, *(() if summary.control is None else (OVER_CONTROL,)))
        heldout, training, *others = (
            Comparison.of_run(read_run(run.folder / name)) for name in names
        )
        return cls(summary, heldout, training, run.folder, *others)

    @property
    def sub_runs(self) -> Mapping[str, RunRecord]:
        """The comparisons."""
        found = {"heldout": self.heldout, "training": self.training}
        return found if self.over_control is None else {**found, OVER_CONTROL: self.over_control}

    def __str__(self) -> str:
        return as_text(self._rows())

    def _phrases(self) -> Iterator[str]:
        yield str(self.folder)
        yield from self.summary._phrases()

    def _rows(self) -> list[tuple[str, str]]:
        return headline(self.summary)


@restores_mode
def refine(
    checkpoint: Checkpoint,
    corpus: Corpus,
    recipe: Recipe | None = None,
    *,
    out: str | Path,
    control: bool = False,
    positions: Positions | None = None,
    benchmarks: Benchmarks | None = None,
    command: str = "",
    progress: bool = False,
    report_to: tuple[str, ...] = (),
) -> Refinement:
    """Train a copy of a model on a text with a penalty of its decisions, and audit both.

    A share of the documents is held out; both models are audited on either part of the text. The
    refined model is saved in ``out/model``, the comparisons in ``out/heldout`` and
    ``out/training``. A killed run goes on from its last checkpoint when called again, and ends in
    the same weights. ``control`` trains ``control_of(recipe)`` too, on the same batches, in
    ``out/control``, and compares it with the refined model, held out, in ``out/over-control``: what
    the penalty adds to the training. ``positions`` lists those of the whole corpus that the penalty
    counts, with their weights. ``benchmarks`` are run on both models at the end, in
    ``out/benchmarks``: the checkpoint has to be one that ``load`` gives unchanged by its name.
    ``report_to`` names loggers of the Trainer ("wandb", "tensorboard" ...). Under ``joined`` all
    processes train together, each on its share of every batch, and the first measures. Raises
    UnembedError for what cannot be trained, and where the run fails; the model given is never
    changed. Source: theory §5.
    """
    need(checkpoint, Checkpoint, "give unembed.load(name)")
    need(corpus, Corpus, "give Corpus.read(path, tokenizer)")
    check_accelerate()
    check_report_to(report_to)
    recipe = recipe or Recipe()
    check_processes(recipe)
    if benchmarks is not None and current_ranks().processes > 1:
        raise UnembedError(
            "--benchmark is the work of one process: refine without it, and give it to the same "
            "command without the launcher in another folder"
        )
    plain = control_of(recipe) if control else None
    out = Path(out)
    part = split(corpus, recipe.heldout)
    key = {
        "model": checkpoint.name,
        "model_digest": digest_of(checkpoint.model),
        "corpus": corpus.rules,
        "corpus_digest": corpus.digest,
        "recipe": recipe.to_json(),
        "positions": None if positions is None else _digest(positions),
        "benchmarks": None if benchmarks is None else record_to_json(benchmarks),
        # None is also what a run of an earlier version has.
        "control": control or None,
    }
    if benchmarks is not None and not holds_finished_run(out):
        benchmarks.check(checkpoint)

    def measured(_folder: RunFolder) -> dict[str, Any]:
        placed = None if positions is None else part.placed(positions)
        trained_context = context_of(checkpoint.model, recipe.context) - 1
        notes = Windows.of(corpus, trained_context).facts.notes
        steps = Steps(5 + (benchmarks is not None) + 2 * control)

        def trained_by(recipe: Recipe, out: Path, report_to: tuple[str, ...] = ()) -> Trained:
            sides = part.training, part.heldout
            how: dict[str, Any] = {"progress": progress, "report_to": report_to}
            return train(checkpoint, *sides, recipe, out, positions=placed, **how)

        if not current_ranks().first:
            # All train, and the first measures.
            trained_by(recipe, out, report_to)
            if plain is not None:
                trained_by(plain, out / CONTROL)
            return {}
        with steps("training"):
            trained = trained_by(recipe, out, report_to)
        heldout, training = (
            _compared(checkpoint, trained.checkpoint, text, recipe, out / name, steps, progress)
            for name, text in (("heldout", part.heldout), ("training", part.training))
        )
        scored = None
        if benchmarks is not None:
            with steps("benchmarks"):
                scored = benchmarks.run_on_both(checkpoint, out / MODEL, out / BENCHMARKS, progress)
        note = trained.note
        del trained  # The control takes as much memory.
        over_control = None
        if plain is not None:
            with steps("control, training"):
                twin = trained_by(plain, out / CONTROL)
            with steps("control, held out"):
                named = replace(twin.checkpoint, name=f"{checkpoint.name} without the penalty")
                one = _audited(named, part.heldout, plain, out / CONTROL / "heldout", progress)
            refined = Audit.load(out / "heldout" / "after")
            with alone():
                over_control = compare(one, refined, out=out / OVER_CONTROL).summary
            if twin.note["stopped"] is not None:
                notes = (*notes, f"{CONTROL_STOPPED} {twin.note['stopped']}")
        sides = heldout.summary, training.summary
        documents = len(part.training.names), len(part.heldout.names)
        summary = summarise_refinement(recipe, note, *sides, scored, notes, over_control, documents)
        values: dict[str, Any] = record_to_json(summary)
        return values

    return Refinement.keep(out, key, measured, command=command, everything=True, together=True)


def _compared(
    before: Checkpoint,
    after: Checkpoint,
    text: Corpus,
    recipe: Recipe,
    out: Path,
    steps: Steps,
    progress: bool,
) -> Comparison:
    part, sides = SIDES[out.name], []
    for side, one in (("before", before), ("after", after)):
        with steps(f"{part}, {side}"):
            sides.append(_audited(one, text, recipe, out / side, progress))
    with alone():
        return compare(*sides, out=out)


def _audited(one: Checkpoint, text: Corpus, recipe: Recipe, out: Path, progress: bool) -> Audit:
    options = AuditOptions(context=recipe.context, max_positions=recipe.audit_positions)
    with alone():
        return audit(one.model, text, options, out=out, name=one.name, progress=progress)


def _digest(positions: Positions) -> str:
    listed = positions.keys.tobytes() + positions.weights.tobytes()
    return hashlib.sha256(listed).hexdigest()
