"""The figures of a refinement: both comparisons, what moved, and how the run went."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unembed.decisions.comparison.summary import ComparisonSummary
from unembed.runs.frames import Figures
from unembed.runs.record import record_from_json
from unembed.runs.table import NAME_WIDTH
from unembed.short_repr import ShortRepr
from unembed.stats.estimate import Estimate
from unembed.stats.forms import bounded, full, points, share, signed
from unembed.training.benchmarks.run import BenchmarkComparison
from unembed.training.recipe.recipe import Recipe
from unembed.training.recipe.schedule import Schedule
from unembed.training.run.rounding import Rounding

WIDTH = 100
LATER = {"benchmarks": None, "notes": (), "rounding": None, "control": None,
         "documents": None}  # fmt: skip
"""What a summary of an earlier version lacks."""
SIDE_WIDTH = 33
CONTROL_STOPPED = "the control stopped"
"""How the note of a control that stopped early begins."""
LITTLE_KEPT = 0.5
"""Of the entries that training moved: where fewer survive the saving, another dtype is advised."""
LOGGED = ("step", "loss", "cross_entropy", "penalty", "grad_norm", "gradient_ratio",
          "gradient_cosine")  # fmt: skip
"""The Trainer's names of the fields of ``Step``."""


@dataclass(frozen=True)
class Step(ShortRepr):
    """One step as it was logged; the gradients are compared at some steps only.

    ``weight`` is the penalty's lambda, where that goes by a share or a schedule. Before a schedule
    begins the parts of the loss are not told apart.
    """

    step: int
    loss: float
    cross_entropy: float | None
    penalty: float | None
    gradient_norm: float | None
    gradient_ratio: float | None
    gradient_cosine: float | None
    weight: float | None = None


@dataclass(frozen=True)
class WatchedStep(ShortRepr):
    """The watched held-out positions after a step, 0 before the first: means and shares of ``n``.

    ``churn`` and ``right_to_wrong`` are against the starting model, the latter at the budget's
    classes. ``stable_candidates`` is the mean share of the starting model's top 5 that still are.
    """

    step: int
    n: int
    nll: float
    accuracy: float
    median_margin: float
    median_relative_distance: float
    churn: float
    right_to_wrong: float
    stable_candidates: float


@dataclass(frozen=True)
class RefinementSummary(ShortRepr, Figures):
    """What a refinement did, held out and on its training text, and how its run went.

    ``clipped`` is the share of steps whose gradient was longer than the clip: at such steps lambda
    is no clean dose. ``gradient_ratio`` is the mean of ``|lambda P'| / |CE'|`` in the head's input.
    ``rounding`` says what of the update is left in the dtype of the saved model.
    ``notes`` say what is to mind of the text, and which rows were cut. ``control`` compares the
    same training without the penalty, before, with the refined model, after, held out.
    ``documents`` counts those of the text that are trained on, and those held out.
    ``gradient_share`` and ``schedule`` are the recipe's.
    """

    objective: str
    weight: float
    scope: str
    seed: int
    moves: str
    n_moving: int
    n_total: int
    steps: int
    stopped: str | None
    clipped: float | None
    gradient_ratio: float | None
    gradient_cosine: float | None
    log: tuple[Step, ...]
    watched: tuple[WatchedStep, ...]
    heldout: ComparisonSummary
    training: ComparisonSummary
    benchmarks: BenchmarkComparison | None = None
    notes: tuple[str, ...] = ()
    rounding: Rounding | None = None
    control: ComparisonSummary | None = None
    documents: tuple[int, int] | None = None
    gradient_share: float | None = None
    schedule: Schedule = field(default_factory=Schedule)

    @property
    def has_penalty(self) -> bool:
        """Whether there was one; without, the run is a control."""
        return self.objective != "none" and max(self.weight, self.gradient_share or 0.0) > 0

    @property
    def strength(self) -> str:
        """How much the penalty counts, and when."""
        words = f"{self.weight:g}"
        if self.gradient_share is not None:
            words = f"{share(self.gradient_share)} of the loss's gradient"
        if self.schedule.after:
            words += f", after {share(self.schedule.after)} of the steps"
        if self.schedule.ramp:
            words += f", rising over {share(self.schedule.ramp)} of them"
        return words

    @property
    def options(self) -> str:
        """The options of the command line that ask for this strength."""
        asked = {
            "--weight": self.weight if self.gradient_share is None else None,
            "--gradient-share": self.gradient_share,
            "--penalty-after": self.schedule.after or None,
            "--penalty-ramp": self.schedule.ramp or None,
        }
        return " ".join(f"{name} {value:g}" for name, value in asked.items() if value is not None)

    def _phrases(self) -> Iterator[str]:
        yield f"objective {self.objective}"
        if self.gradient_share is not None:
            yield f"gradient share {self.gradient_share:g}"
        elif self.weight:
            yield f"weight {self.weight:g}"
        yield f"scope {self.scope}"
        yield f"{self.steps:,} steps"
        moved, calibration = self.heldout.movement.everywhere, self.heldout.calibration
        yield f"held out: median Δ margin {full(moved.margin.median, signed)}"
        yield f"loss difference {full(calibration.nll_difference_nats, signed)} nats"

    @staticmethod
    def from_json(data: dict[str, Any]) -> RefinementSummary:
        """Rebuild a summary from ``record_to_json``'s values; those with defaults may lack."""
        return record_from_json(RefinementSummary, {**LATER, **data})


def summarise_refinement(
    recipe: Recipe,
    note: dict[str, Any],
    heldout: ComparisonSummary,
    training: ComparisonSummary,
    benchmarks: BenchmarkComparison | None = None,
    notes: tuple[str, ...] = (),
    control: ComparisonSummary | None = None,
    documents: tuple[int, int] | None = None,
) -> RefinementSummary:
    """The summary of a run from its training's ``note`` and its comparisons."""
    lines = [line for line in note["log"] if "loss" in line]
    norms = [line["grad_norm"] for line in lines if line.get("grad_norm") is not None]
    watched = [WatchedStep(**line["watched"]) for line in note["log"] if "watched" in line]
    rounding = note.get("rounding")
    clipped = float(np.mean([n > recipe.clip for n in norms])) if norms and recipe.clip else None
    varied = recipe.gradient_share is not None or recipe.schedule != Schedule()
    names = (*LOGGED, "penalty_weight") if varied else LOGGED
    return RefinementSummary(
        objective=recipe.objective.name,
        weight=recipe.weight,
        scope=recipe.scope,
        seed=recipe.seed,
        moves=note["moves"],
        n_moving=note["n_moving"],
        n_total=note["n_total"],
        steps=len(lines),
        stopped=note["stopped"],
        clipped=clipped,
        gradient_ratio=_mean(lines, "gradient_ratio"),
        gradient_cosine=_mean(lines, "gradient_cosine"),
        log=tuple(Step(*map(line.get, names)) for line in lines),
        watched=tuple(watched),
        heldout=heldout,
        training=training,
        benchmarks=benchmarks,
        notes=notes,
        rounding=None if rounding is None else Rounding(**rounding),
        control=control,
        documents=documents,
        gradient_share=recipe.gradient_share,
        schedule=recipe.schedule,
    )


def headline(summary: RefinementSummary) -> list[tuple[str, str]]:
    """The short table that a refinement prints: held out, and on the training text."""
    what = f"{summary.objective} at {summary.strength}" if summary.objective != "none" else "none"
    steps = f"{summary.steps:,}"
    if summary.clipped is not None:
        steps += f", clipped at {summary.clipped:.0%}"
    rows = [("objective", f"{what}, scope {summary.scope}"), *_wrapped("moved", summary.moves)]
    if summary.rounding is not None:
        rows += _wrapped("saved", saved_in_words(summary.rounding))
    rows.append(("steps", steps))
    if summary.stopped is not None:
        rows += _wrapped("stopped", summary.stopped)
    if summary.gradient_ratio is not None and summary.gradient_cosine is not None:
        ratio, cosine = summary.gradient_ratio, summary.gradient_cosine
        rows.append(("gradients, P over CE", f"{ratio:.3g} as long, cosine {cosine:+.2f}"))
    rows.append(("", f"{'held out':<{SIDE_WIDTH}}| training"))
    for (label, held), (_, trained) in zip(
        _side(summary.heldout), _side(summary.training), strict=True
    ):
        rows.append((label, f"{held:<{SIDE_WIDTH}}| {trained}"))
    if summary.control is not None:
        rows.append(("", "held out, minus the control"))
        rows += _side(summary.control)[1:]
    rows += [("note", note) for note in summary.notes]
    return rows if summary.benchmarks is None else rows + _scored(summary.benchmarks)


def saved_in_words(rounding: Rounding) -> str:
    """The dtype of the saved model, and how much of the update is left in it."""
    if rounding.share is None:
        return f"{rounding.dtype}; no entry moved"
    words = f"{rounding.dtype}, where {rounding.share:.1%} of the {rounding.moved:,} entries that"
    words += " moved still differ"
    if rounding.share < LITTLE_KEPT:
        words += ": --save-dtype float32 keeps the update, a higher learning rate more of it"
    return words


def _scored(benchmarks: BenchmarkComparison) -> list[tuple[str, str]]:
    """A row for each task, under its own line where the name is long, and one for the means."""
    rows = [("benchmarks", "before → after, difference [95 % interval], n")]
    for task in benchmarks.tasks:
        scores = _both(task.before, task.after, task.difference)
        if len(task.task) < NAME_WIDTH:
            rows.append((task.task, scores))
        else:
            rows += [(task.task, ""), ("", scores)]
    if len(benchmarks.tasks) > 1:
        means = (benchmarks.mean_before, benchmarks.mean_after, benchmarks.mean_difference)
        rows.append((f"mean of {len(benchmarks.tasks)} tasks", _both(*means)))
    return rows


def _both(before: Estimate, after: Estimate, difference: Estimate) -> str:
    values = f"{before.value:.4f} → {after.value:.4f}"
    return f"{values}, {full(difference, signed)}, n {difference.n:,}"


def _wrapped(name: str, words: str) -> list[tuple[str, str]]:
    """A value of several lines."""
    first, *rest = textwrap.wrap(words, WIDTH - NAME_WIDTH)
    return [(name, first), *(("", line) for line in rest)]


def _side(side: ComparisonSummary) -> list[tuple[str, str]]:
    moved = side.movement.everywhere
    several = "s" * (side.n_documents != 1)
    return [
        ("positions", f"{side.n_positions:,} in {side.n_documents:,} document{several}"),
        ("median Δ margin (logits)", bounded(moved.margin.median, signed)),
        ("median Δ scale-free margin", bounded(moved.relative_distance.median, signed)),
        ("loss difference (nats)", bounded(side.calibration.nll_difference_nats, signed)),
        ("accuracy difference", bounded(side.flips.accuracy_difference, points)),
        ("churn", bounded(side.flips.churn, share)),
        ("right to wrong", bounded(side.flips.right_to_wrong_share, share)),
        ("wrong to right", bounded(side.flips.wrong_to_right_share, share)),
    ]


def _mean(lines: list[dict[str, Any]], name: str) -> float | None:
    values = [line[name] for line in lines if name in line]
    return float(np.mean(values)) if values else None
