"""Objective by weight by seed: dose(model, corpus, grid) -> Doses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, overload

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
from unembed.runs.lock import LOCK, BusyError, exclusive_lock
from unembed.runs.manifest import FinishedRun
from unembed.runs.progress import Steps
from unembed.runs.provenance import digest_of
from unembed.runs.record import record_from_json, record_to_json
from unembed.runs.run_record import RunRecord
from unembed.runs.store import RunFolder
from unembed.runs.table import as_text
from unembed.text.corpus import Corpus
from unembed.training.doses.grid import Grid, Point, label_of
from unembed.training.doses.records import DoseTable, Measured, headline
from unembed.training.doses.table import DosePoint, dose_table
from unembed.training.robustness.read_outs import BODIES, ReadOuts, read_outs
from unembed.training.run.checkpoints import saved_dtype
from unembed.training.run.examples import Split, split
from unembed.training.run.refinement import SIDES
from unembed.training.run.train import MODEL, NOTE, train

READ_OUTS = "read_outs.parquet"
OPENING_SECONDS = 60.0
"""How long a share waits for another process that looks into the folder; for one that makes the
whole grid it does not.
"""
ENDING_SECONDS = 7 * 24 * 3600.0
"""How long a process waits for what another one is making of the grid."""


@dataclass(frozen=True)
class Doses(RunRecord, Figures):
    """Every dose on the held-out text and on that of the training.

    ``failed`` names points that could not be trained, with the reason; ``measured`` says how much
    was read. The manifest lists every file below the folder.
    """

    KIND: ClassVar[str] = "dose"
    SCHEMA: ClassVar[int] = 2

    heldout: DoseTable
    training: DoseTable
    failed: dict[str, str]
    folder: Path | None = field(default=None, compare=False)
    measured: Measured | None = None

    @classmethod
    def of_run(cls, run: FinishedRun) -> Doses:
        """Open a run whose files are whole."""
        data = run.summary()
        heldout, training = (DoseTable.from_json(data[side]) for side in SIDES)
        told = data.get("measured")
        measured = None if told is None else record_from_json(Measured, told)
        return cls(heldout, training, data["failed"], run.folder, measured)

    def __str__(self) -> str:
        return as_text(self._rows())

    def _phrases(self) -> Iterator[str]:
        yield from self.heldout._phrases()
        if self.failed:
            yield f"{len(self.failed)} failed"

    def _rows(self) -> list[tuple[str, str]]:
        rows = headline(self.heldout)
        if self.measured is not None:
            rows.insert(1, ("measured", self.measured.words))
        return [*rows, *((f"failed: {k}", v) for k, v in self.failed.items())]


@overload
def dose(
    checkpoint: Checkpoint,
    corpus: Corpus,
    grid: Grid,
    *,
    out: str | Path,
    share: None = None,
    keep_models: bool = False,
    command: str = "",
    progress: bool = False,
) -> Doses: ...


@overload
def dose(
    checkpoint: Checkpoint,
    corpus: Corpus,
    grid: Grid,
    *,
    out: str | Path,
    share: tuple[int, int],
    keep_models: bool = False,
    command: str = "",
    progress: bool = False,
) -> Doses | None: ...


def dose(
    checkpoint: Checkpoint,
    corpus: Corpus,
    grid: Grid,
    *,
    out: str | Path,
    share: tuple[int, int] | None = None,
    keep_models: bool = False,
    command: str = "",
    progress: bool = False,
) -> Doses | None:
    """Refine a model by every objective, dose and seed of a grid, and compare them at equal gain.

    Each point is trained from the same start on the same documents and measured on either part of
    the text, and so are the control without a penalty and the temperature that gives the starting
    model each dose's median margin. A killed grid goes on with the point it was at. A
    point whose training fails is noted and passed over. Models are deleted once they are measured,
    unless ``keep_models``.

    ``share=(i, n)`` does the i-th of n shares, on any machine that sees the folder, while other
    processes do the others. It returns None where models are left to them; the process that
    finishes the last, or a later call without a share, makes the tables. They are those of a single
    process. Raises UnembedError as ``refine`` does. Source: theory §5-6.
    """
    out = Path(out)
    part = split(corpus, grid.recipe.heldout)
    key = _key(checkpoint, corpus, grid, len(part.heldout.names))
    points = _Points(checkpoint, part, grid, out, keep_models)
    if share is not None:
        mine = points.of_share(*share)
        with RunFolder.open(out, Doses.whole_key(key), OPENING_SECONDS) as opened:
            finished = opened.finished
        if not finished:
            points.measure(mine, progress)
            if points.left():
                return None

    def measured(_folder: RunFolder) -> dict[str, Any]:
        tables, failed, read = points.tables(progress)
        found = {side: table.to_json() for side, table in tables.items()}
        return {**found, "failed": failed, "measured": record_to_json(read)}

    wait_s = 0.0 if share is None else ENDING_SECONDS
    return Doses.keep(out, key, measured, command=command, everything=True, wait_s=wait_s)


def models_left(grid: Grid, out: str | Path) -> int:
    """How many models of an unfinished grid, its start among them, are still to be measured."""
    return len(_left(grid, Path(out)))


def _key(checkpoint: Checkpoint, corpus: Corpus, grid: Grid, documents: int) -> dict[str, Any]:
    """The plain values that a grid's numbers depend on."""
    doses = {label_of(one): list(grid.doses_of(one)) for one in grid.objectives}
    shares = bool(grid.gradient_shares)
    audited, disturbed = grid.positions(documents)
    return {
        "model": checkpoint.name,
        "model_digest": digest_of(checkpoint.model),
        "corpus": corpus.rules,
        "corpus_digest": corpus.digest,
        "objectives": [vars(one) for one in grid.objectives],
        "weights": None if shares else doses,
        "gradient_shares": list(grid.gradient_shares) if shares else None,
        "seeds": list(grid.seeds),
        "recipe": grid.recipe.to_json(),
        "changes": list(grid.changes),
        "noise": list(grid.noise),
        "audited_positions": audited,
        "read_out_positions": disturbed,
    }


def _left(grid: Grid, out: Path) -> list[Point | None]:
    """What is not measured yet; None is the start."""
    start: list[Point | None] = [] if (out / "start" / READ_OUTS).exists() else [None]
    return start + [point for point in grid.points() if not _ended(out / "points" / point.name)]


def _ended(folder: Path) -> bool:
    return (folder / "done").exists() or (folder / "failed.json").exists()


@dataclass(frozen=True)
class _Points:
    """The points of a grid, trained and measured in ``out``."""

    checkpoint: Checkpoint
    part: Split
    grid: Grid
    out: Path
    keep_models: bool

    @property
    def positions(self) -> tuple[int, int]:
        """Positions of each audit and of each model's read-outs."""
        return self.grid.positions(len(self.part.heldout.names))

    def of_share(self, number: int, shares: int) -> list[Point | None]:
        """The models of one share, dealt in turn; None is the start.

        Raises UnembedError for a share that is none of them.
        """
        everything: list[Point | None] = [None, *self.grid.points()]
        if not 1 <= number <= shares:
            raise UnembedError(
                f"share {number}/{shares} is none of 1/{shares} to {shares}/{shares}"
            )
        if shares > len(everything):
            raise UnembedError(
                f"share {number}/{shares} would be of {len(everything)} models, the start among "
                f"them: give at most {len(everything)} shares"
            )
        return everything[number - 1 :: shares]

    def left(self) -> list[Point | None]:
        """What is not measured yet."""
        return _left(self.grid, self.out)

    def measure(self, models: Sequence[Point | None], progress: bool, wait_s: float = 0.0) -> None:
        """Train and measure models that no other process has, in this order; None is the start.

        One that another process has is waited for, or passed over without ``wait_s``.
        """
        if self.keep_models:
            self.check_room(models)
        steps = Steps(len(models) + (len(SIDES) if wait_s else 0), alike=True)
        for point in models:
            folder = self.out / "start" if point is None else self.folder(point)
            with steps("the starting model" if point is None else point.name):
                if point not in self.left():
                    continue
                folder.mkdir(parents=True, exist_ok=True)
                try:
                    with exclusive_lock(folder, wait_s):
                        self.measure_one(point, progress)
                except BusyError:
                    if wait_s:
                        raise

    def measure_one(self, point: Point | None, progress: bool) -> None:
        """Train and measure a model; None is the start."""
        if point is not None:
            self.trained(point, progress)
        else:
            self.read(self.checkpoint, self.out / "start", Steps(3), progress)

    def tables(self, progress: bool) -> tuple[dict[str, DoseTable], dict[str, str], Measured]:
        """Both tables, the points that failed, and how much was read, once all points are there."""
        everything, failed = list(self.grid.points()), {}
        self.measure([None, *everything], progress, ENDING_SECONDS)
        for place in (self.out / "start", *map(self.folder, everything)):
            (place / LOCK).unlink(missing_ok=True)  # Nobody takes what is measured.
        for point in everything:
            failure = self.folder(point) / "failed.json"
            if failure.exists():
                failed[point.name] = json.loads(failure.read_text())
        start = {side: Audit.load(self.out / "start" / side) for side in SIDES}
        disturbed = _read(self.out / "start")
        steps = Steps(len(SIDES), alike=True)
        tables, models, audited = {}, [], {}
        for side in SIDES:
            points = [self.point(one, side) for one in everything if one.name not in failed]
            with steps(f"temperatures, {SIDES[side]}"):
                points += self.temperatures(start[side], points, side, progress)
            before = disturbed if side == "heldout" else None
            tables[side] = dose_table(start[side], points, start_read_outs=before)
            audited[side] = len(start[side])
            models.append(1 + len(points))
        read = Measured(
            models=models[0],
            **audited,
            disturbed_models=1 + len(everything) - len(failed),
            disturbed=len(disturbed.doc),
            bodies=self.grid.bodies - len(set(disturbed.skipped) & set(BODIES)),
            budget=self.grid.budget,
        )
        return tables, failed, read

    def check_room(self, models: Sequence[Point | None]) -> None:
        """Raise WriteError where the models that are left do not fit."""
        model = self.checkpoint.model
        left = [point for point in models if point is not None and point in self.left()]
        size = saved_dtype(self.grid.recipe, model).itemsize
        each = size * sum(parameter.numel() for parameter in model.parameters())
        check_room(self.out, len(left) * each, f"the models of {len(left)} points")

    def folder(self, point: Point) -> Path:
        """Where a point is trained and measured."""
        return self.out / "points" / point.name

    def trained(self, point: Point, progress: bool) -> None:
        """Train and measure one point, or note why it could not be trained."""
        folder, steps, part = self.folder(point), Steps(4), self.part
        if _ended(folder):
            return
        recipe = point.recipe(self.grid.recipe)
        try:
            with steps("training"):
                trained = train(
                    self.checkpoint, part.training, part.heldout, recipe, folder, progress=progress
                ).checkpoint
        except WriteError:
            raise
        except UnembedError as error:
            write_whole(folder / "failed.json", json.dumps(str(error)).encode())
            return
        self.read(trained, folder, steps, progress)
        write_whole(folder / "done", b"")
        if not self.keep_models:
            shutil.rmtree(folder / MODEL, ignore_errors=True)

    def point(self, point: Point, side: str) -> DosePoint:
        """A measured point."""
        folder = self.folder(point)
        weight = point.weight
        if point.gradient_share is not None:
            weight = weight_taken(json.loads((folder / NOTE).read_text()))
        return DosePoint(
            point.label,
            weight,
            point.seed,
            Audit.load(folder / side),
            _read(folder) if side == "heldout" else None,
            gradient_share=point.gradient_share,
        )

    def read(self, checkpoint: Checkpoint, folder: Path, steps: Steps, progress: bool) -> None:
        """Audit a model on either part of the text, and see what disturbances do to it."""
        for side, words in SIDES.items():
            with steps(words):
                self.audited(checkpoint, side, folder, progress)
        with steps("disturbances"):
            self.disturbed(checkpoint, folder, progress)

    def audited(
        self, checkpoint: Checkpoint, side: str, folder: Path, progress: bool, scale: float = 1.0
    ) -> Audit:
        """The audit of a model on one part of the text."""
        recipe = self.grid.recipe
        options = AuditOptions(
            context=recipe.context,
            max_positions=self.positions[0],
            spread=True,
            logit_scale=scale,
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

    def disturbed(self, checkpoint: Checkpoint, folder: Path, progress: bool) -> None:
        """Write what disturbances do to a model's held-out decisions."""
        path = folder / READ_OUTS
        if not path.exists():
            grid = self.grid
            options = AuditOptions(
                context=grid.recipe.context, max_positions=self.positions[1], spread=True
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

    def temperatures(
        self, start: Audit, points: Sequence[DosePoint], side: str, progress: bool
    ) -> list[DosePoint]:
        """The starting model with its logits scaled to the median margin of each dose.

        The same for the seeds of a dose, whose mean median is matched.
        """
        base = _median(start)
        doses: dict[tuple[str, float], list[DosePoint]] = {}
        for point in points:
            doses.setdefault((point.objective, point.dose), []).append(point)
        found, steps = [], Steps(len(doses), alike=True)
        for (objective, amount), alike in doses.items():
            factor = float(np.mean([_median(point.audit) for point in alike])) / base
            shared = "" if alike[0].gradient_share is None else "share"
            name = f"temperature-{objective}-{shared}{amount:g}"
            with steps(f"temperature of {alike[0].name}"):
                made = self.audited(
                    self.checkpoint, side, self.out / "points" / name, progress, factor
                )
            found.append(DosePoint("temperature", factor, 0, made, None, alike[0].name))
        return found


def weight_taken(note: dict[str, Any]) -> float:
    """The mean over the steps of the weight that a share of the gradient took."""
    weights = [one["penalty_weight"] for one in note["log"] if "penalty_weight" in one]
    return float(np.mean(weights)) if weights else 0.0


def _read(folder: Path) -> ReadOuts:
    return ReadOuts.from_table(read_table(folder / READ_OUTS))


def _median(one: Audit) -> float:
    return float(np.nanmedian(one.column("margin")))
