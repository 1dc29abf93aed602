"""Objective by weight by seed: dose(model, corpus, grid) -> Doses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unembed.decisions.audit.audit import Audit, audit
from unembed.decisions.audit.run import AuditOptions
from unembed.errors import UnembedError, WriteError
from unembed.models.checkpoint import Checkpoint
from unembed.runs.arrays import read_table
from unembed.runs.files import check_room, write_whole
from unembed.runs.frames import Figures
from unembed.runs.manifest import FinishedRun
from unembed.runs.progress import Steps
from unembed.runs.provenance import digest_of
from unembed.runs.run_record import RunRecord
from unembed.runs.store import RunFolder
from unembed.runs.table import as_text
from unembed.text.corpus import Corpus
from unembed.training.doses.grid import Grid, folder_name, label_of
from unembed.training.doses.records import DoseTable, headline
from unembed.training.doses.table import DosePoint, dose_table
from unembed.training.recipe.objectives import Objective
from unembed.training.robustness.read_outs import ReadOuts, read_outs
from unembed.training.run.checkpoints import saved_dtype
from unembed.training.run.examples import Split, split
from unembed.training.run.refinement import SIDES
from unembed.training.run.train import MODEL, train

READ_OUTS = "read_outs.parquet"


@dataclass(frozen=True)
class Doses(RunRecord, Figures):
    """Every dose on the held-out text and on that of the training.

    ``failed`` names points that could not be trained, with the reason. The manifest lists every
    file below the folder.
    """

    KIND: ClassVar[str] = "dose"
    SCHEMA: ClassVar[int] = 2

    heldout: DoseTable
    training: DoseTable
    failed: dict[str, str]
    folder: Path | None = field(default=None, compare=False)

    @classmethod
    def of_run(cls, run: FinishedRun) -> Doses:
        """Open a run whose files are whole."""
        data = run.summary()
        heldout, training = (DoseTable.from_json(data[side]) for side in SIDES)
        return cls(heldout, training, data["failed"], run.folder)

    def __str__(self) -> str:
        return as_text(self._rows())

    def _phrases(self) -> Iterator[str]:
        yield from self.heldout._phrases()
        if self.failed:
            yield f"{len(self.failed)} failed"

    def _rows(self) -> list[tuple[str, str]]:
        return [*headline(self.heldout), *((f"failed: {k}", v) for k, v in self.failed.items())]


def dose(
    checkpoint: Checkpoint,
    corpus: Corpus,
    grid: Grid,
    *,
    out: str | Path,
    keep_models: bool = False,
    command: str = "",
    progress: bool = False,
) -> Doses:
    """Refine a model by every objective, weight and seed of a grid, and compare them at equal gain.

    Each point is trained from the same start on the same documents and measured on either part of
    the text, and so are the control without a penalty and the temperature that gives the starting
    model each dose's median margin. A killed grid goes on with the point it was at. A
    point whose training fails is noted and passed over. Models are deleted once they are measured,
    unless ``keep_models``. Raises UnembedError as ``refine`` does. Source: theory §5-6.
    """
    out = Path(out)
    part = split(corpus, grid.recipe.heldout)
    key = _key(checkpoint, corpus, grid)

    def measured(_folder: RunFolder) -> dict[str, Any]:
        tables, failed = _Points(checkpoint, part, grid, out, keep_models).tables(progress)
        found = {side: table.to_json() for side, table in tables.items()}
        return {**found, "failed": failed}

    return Doses.keep(out, key, measured, command=command, everything=True)


def _key(checkpoint: Checkpoint, corpus: Corpus, grid: Grid) -> dict[str, Any]:
    """The plain values that a grid's numbers depend on."""
    return {
        "model": checkpoint.name,
        "model_digest": digest_of(checkpoint.model),
        "corpus": corpus.rules,
        "corpus_digest": corpus.digest,
        "objectives": [vars(one) for one in grid.objectives],
        "weights": {label_of(one): list(grid.weights_of(one)) for one in grid.objectives},
        "seeds": list(grid.seeds),
        "recipe": grid.recipe.to_json(),
        "changes": list(grid.changes),
        "noise": list(grid.noise),
        "read_out_positions": grid.read_out_positions,
    }


@dataclass(frozen=True)
class _Points:
    """The points of a grid, trained and measured in ``out``."""

    checkpoint: Checkpoint
    part: Split
    grid: Grid
    out: Path
    keep_models: bool

    def tables(self, progress: bool) -> tuple[dict[str, DoseTable], dict[str, str]]:
        """Both tables, and the points that failed, once every point is there."""
        if self.keep_models:
            self.check_room()
        everything, failed = list(self.grid.points()), {}
        steps = Steps(1 + len(everything) + len(SIDES), alike=True)
        with steps("the starting model"):
            start, disturbed = self.read(self.checkpoint, self.out / "start", Steps(3), progress)
        for point in everything:
            with steps(folder_name(*point)):
                reason = self.measured(*point, progress)
            if reason is not None:
                failed[folder_name(*point)] = reason
        tables = {}
        for side in SIDES:
            points = [
                self.point(*one, side) for one in everything if folder_name(*one) not in failed
            ]
            with steps(f"temperatures, {SIDES[side]}"):
                points += self.temperatures(start[side], points, side, progress)
            before = disturbed if side == "heldout" else None
            tables[side] = dose_table(start[side], points, start_read_outs=before)
        return tables, failed

    def check_room(self) -> None:
        """Raise WriteError where the models of the points that are left do not fit."""
        model = self.checkpoint.model
        left = [
            point for point in self.grid.points() if not (self.folder(*point) / "done").exists()
        ]
        size = saved_dtype(self.grid.recipe, model).itemsize
        each = size * sum(parameter.numel() for parameter in model.parameters())
        check_room(self.out, len(left) * each, f"the models of {len(left)} points")

    def folder(self, objective: Objective, weight: float, seed: int) -> Path:
        """Where a point is trained and measured."""
        return self.out / "points" / folder_name(objective, weight, seed)

    def measured(
        self, objective: Objective, weight: float, seed: int, progress: bool
    ) -> str | None:
        """Train and measure one point, or return why it could not be trained."""
        folder = self.folder(objective, weight, seed)
        done, failure = folder / "done", folder / "failed.json"
        if done.exists():
            return None
        if failure.exists():
            reason: str = json.loads(failure.read_text())
            return reason
        recipe = replace(self.grid.recipe, objective=objective, weight=weight, seed=seed)
        steps, part = Steps(4), self.part
        try:
            with steps("training"):
                trained = train(
                    self.checkpoint, part.training, part.heldout, recipe, folder, progress=progress
                ).checkpoint
        except WriteError:
            raise
        except UnembedError as error:
            write_whole(failure, json.dumps(str(error)).encode())
            return str(error)
        self.read(trained, folder, steps, progress)
        write_whole(done, b"")
        if not self.keep_models:
            shutil.rmtree(folder / MODEL, ignore_errors=True)
        return None

    def point(self, objective: Objective, weight: float, seed: int, side: str) -> DosePoint:
        """A measured point."""
        folder = self.folder(objective, weight, seed)
        found = _read(folder) if side == "heldout" else None
        return DosePoint(label_of(objective), weight, seed, Audit.load(folder / side), found)

    def read(
        self, checkpoint: Checkpoint, folder: Path, steps: Steps, progress: bool
    ) -> tuple[dict[str, Audit], ReadOuts]:
        """The audits of a model on either part of the text, and what disturbances do to it."""
        audits = {}
        for side, words in SIDES.items():
            with steps(words):
                audits[side] = self.audited(checkpoint, side, folder, progress)
        with steps("disturbances"):
            return audits, self.disturbed(checkpoint, folder, progress)

    def audited(
        self, checkpoint: Checkpoint, side: str, folder: Path, progress: bool, scale: float = 1.0
    ) -> Audit:
        """The audit of a model on one part of the text."""
        recipe = self.grid.recipe
        options = AuditOptions(
            context=recipe.context, max_positions=recipe.audit_positions, logit_scale=scale
        )
        text: Corpus = getattr(self.part, side)
        return audit(
            checkpoint.model,
            text,
            options,
            out=folder / side,
            name=checkpoint.name,
            progress=progress,
        )

    def disturbed(self, checkpoint: Checkpoint, folder: Path, progress: bool) -> ReadOuts:
        """What disturbances do to a model's held-out decisions."""
        path = folder / READ_OUTS
        if not path.exists():
            grid = self.grid
            options = AuditOptions(
                context=grid.recipe.context, max_positions=grid.read_out_positions
            )
            found = read_outs(
                checkpoint,
                self.part.heldout,
                changes=grid.changes,
                noise=grid.noise,
                options=options,
                progress=progress,
            )
            sink = pa.BufferOutputStream()
            pq.write_table(found.to_table(), sink)
            write_whole(path, sink.getvalue().to_pybytes())
        return _read(folder)

    def temperatures(
        self, start: Audit, points: Sequence[DosePoint], side: str, progress: bool
    ) -> list[DosePoint]:
        """The starting model with its logits scaled to the median margin of each dose.

        The same for the seeds of a dose, whose mean median is matched.
        """
        base = _median(start)
        doses: dict[tuple[str, float], list[float]] = {}
        for point in points:
            doses.setdefault((point.objective, point.weight), []).append(_median(point.audit))
        found, steps = [], Steps(len(doses), alike=True)
        for (objective, weight), medians in doses.items():
            factor = float(np.mean(medians)) / base
            name = f"temperature-{objective}-{weight:g}"
            with steps(f"temperature of {objective} {weight:g}"):
                made = self.audited(
                    self.checkpoint, side, self.out / "points" / name, progress, factor
                )
            found.append(DosePoint("temperature", factor, 0, made, None, f"{objective} {weight:g}"))
        return found


def _read(folder: Path) -> ReadOuts:
    return ReadOuts.from_table(read_table(folder / READ_OUTS))


def _median(one: Audit) -> float:
    return float(np.nanmedian(one.column("margin")))
