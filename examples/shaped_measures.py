"""What ``shaped_training.py`` measures of a model, and what it says of all of them.

Every figure is of the same held-out positions, so that models are paired position by position. An
interval holds documents, which are resampled, and seeds, by Student's t of their differences.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unembed import Checkpoint, Corpus, Estimate, audit, layers, load
from unembed.decisions import AuditOptions, LayersOptions
from unembed.models import quantized
from unembed.stats import student_t

SCHEMES = ("int8", "int4")
FACTORS = tuple(float(f) for f in np.geomspace(0.5, 2.0, 9))
RESAMPLES = 400
TRAINED, CONTROL, LONGER, PLAIN = "trained", "control", "longer", "cross-entropy"
COLUMNS = ("doc", "target", "top1", "margin", "relative_distance", "nll")


# ---------------------------------------------------------------------------------------------
# One model


@dataclass(frozen=True)
class Sample:
    """How many positions are measured, and at how many the cloud's shape is."""

    context: int
    positions: int = 20_000
    tempered: int = 5_000
    cloud: int = 1_500


def measure(folder: Path, text: Corpus, sample: Sample, *, whole: bool) -> None:
    """Write ``measures.npz`` and ``cloud.json`` beside a model, unless they are there.

    ``whole``: with the loss under temperatures, and the cloud at every depth and not the last.
    """
    file, shape = folder / "measures.npz", folder / "cloud.json"
    checkpoint = load(folder / "model")
    if not shape.exists():
        blocks = checkpoint.model.config.num_hidden_layers
        options = LayersOptions(
            context=sample.context,
            lenses=("normed",),
            depths=None if whole else (blocks,),
            max_positions=2 * sample.cloud,
            cloud_points=sample.cloud,
        )
        rows = layers(checkpoint.model, text, options).summary.cloud.rows
        _write(shape, json.dumps([_plain(row) for row in rows], indent=1).encode())
    if not file.exists():
        found = dict(_columns(checkpoint, text, sample, whole))
        temporary = file.with_suffix(".part")
        with temporary.open("wb") as stream:
            np.savez(stream, **found)
        temporary.rename(file)


def _columns(
    checkpoint: Checkpoint, text: Corpus, sample: Sample, whole: bool
) -> Iterator[tuple[str, np.ndarray]]:
    options = AuditOptions(
        top_k=0, context=sample.context, max_positions=sample.positions, spread=True
    )
    found = audit(checkpoint.model, text, options)
    for name in COLUMNS:
        yield name, found.column(name)
    for scheme in SCHEMES:
        rounded = audit(quantized(checkpoint, scheme).model, text, options)
        yield f"{scheme} top1", rounded.column("top1")
        yield f"{scheme} nll", rounded.column("nll")
    if whole:
        fewer = replace(options, max_positions=sample.tempered)
        scaled = [audit(checkpoint.model, text, replace(fewer, logit_scale=f)) for f in FACTORS]
        yield "tempered doc", scaled[0].column("doc")
        yield "tempered", np.stack([one.column("nll") for one in scaled])


def _plain(row: Any) -> dict[str, Any]:
    """A depth's cloud in four numbers, each with its interval over documents."""
    named = {
        "effective_rank": row.spectrum.effective_rank,
        "mean_cosine": row.spectrum.mean_cosine,
        "two_nn": row.geometry.dimensions.two_nn,
        "levina_bickel": row.geometry.dimensions.levina_bickel,
    }
    return {"depth": row.depth} | {k: [v.value, v.low, v.high] for k, v in named.items()}


def _write(file: Path, content: bytes) -> None:
    temporary = file.with_suffix(".part")
    temporary.write_bytes(content)
    temporary.rename(file)


# ---------------------------------------------------------------------------------------------
# All of them


@dataclass(frozen=True)
class Resamples:
    """How often each document is drawn: once as observed, then in every resample of documents."""

    counts: np.ndarray

    @staticmethod
    def of(documents: int) -> Resamples:
        """The same ones whenever they are asked for."""
        even = [1 / documents] * documents
        drawn = np.random.default_rng(0).multinomial(documents, even, RESAMPLES)
        return Resamples(np.vstack([np.ones(documents, int), drawn]))

    def mean(self, values: np.ndarray, doc: np.ndarray) -> np.ndarray:
        """Of a value a position."""
        documents = self.counts.shape[1]
        sums, sizes = (np.bincount(doc, weights, documents) for weights in (values, None))
        return (self.counts @ sums) / (self.counts @ sizes)

    def sorted(self, values: np.ndarray, doc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The values in order, and for every resample the share that lies up to each."""
        order = np.argsort(values)
        below = self.counts[:, doc[order]].cumsum(1, dtype=np.float64)
        return values[order], below / below[:, -1:]

    def median(self, values: np.ndarray, doc: np.ndarray) -> np.ndarray:
        """Of a value a position."""
        ordered, below = self.sorted(values, doc)
        return ordered[(below < 0.5).sum(1)]

    def gap_slope(self, margins: np.ndarray, doc: np.ndarray) -> np.ndarray:
        """The slope of the published fit of the expressibility gap (theory §2)."""
        ordered, below = self.sorted(margins, doc)
        found = []
        for shares in below:
            low, high = ordered[np.searchsorted(shares, (0.01, 0.25))]
            epsilon = np.geomspace(max(low, 1e-6), high, 32)
            eta = shares[np.maximum(np.searchsorted(ordered, epsilon) - 1, 0)]
            found.append(np.polyfit(np.log10(epsilon[eta > 0]), np.log10(eta[eta > 0]), 1)[0])
        return np.array(found)


Draws = np.ndarray
Seeds = Mapping[int, Draws]


@dataclass(frozen=True)
class Measured:
    """A model's columns and its cloud, by depth; -1 is the head's input."""

    columns: Mapping[str, np.ndarray]
    cloud: Mapping[int, Mapping[str, list[float]]]
    resamples: Resamples

    @staticmethod
    def read(folder: Path, resamples: Resamples) -> Measured:
        """Of a folder that ``measure`` wrote."""
        with np.load(folder / "measures.npz") as held:
            columns = {name: held[name] for name in held.files}
        rows = json.loads((folder / "cloud.json").read_text())
        return Measured(columns, {row["depth"]: row for row in rows}, resamples)

    def mean(self, values: np.ndarray) -> Draws:
        """Over the positions."""
        return self.resamples.mean(values, self.columns["doc"])

    @cached_property
    def figures(self) -> dict[str, Draws]:
        """Draws of everything that one model has."""
        c, doc = self.columns, self.columns["doc"]
        found = {
            "loss": self.mean(c["nll"]),
            "accuracy, %": 100 * self.mean(c["top1"] == c["target"]),
            "median margin": self.resamples.median(c["margin"], doc),
            "scale-free": self.resamples.median(c["relative_distance"], doc),
            "below .5, %": 100 * self.mean(c["margin"] < 0.5),
            "gap slope": self.resamples.gap_slope(c["margin"], doc),
        }
        for scheme in SCHEMES:
            found[f"{scheme} flips, %"] = 100 * self.mean(c[f"{scheme} top1"] != c["top1"])
        return found | {"int4 loss": self.mean(c["int4 nll"] - c["nll"])}

    @cached_property
    def tempered(self) -> tuple[Draws, Draws]:
        """The loss at ``exp(x)`` times the logits: x, and a row of losses for each."""
        doc = self.columns["tempered doc"]
        rows = [self.resamples.mean(row, doc) for row in self.columns["tempered"]]
        fit = np.polyfit(np.log(FACTORS), np.stack(rows), 4)
        x = np.linspace(np.log(FACTORS[0]), np.log(FACTORS[-1]), 401)
        return x, np.vander(x, 5) @ fit

    def loss_at(self, factor: Draws) -> Draws:
        """The loss with so many times the logits, in every resample."""
        x, losses = self.tempered
        at = np.abs(x[:, None] - np.log(factor)).argmin(0)
        return losses[at, np.arange(losses.shape[1])]

    @property
    def loss_at_best(self) -> Draws:
        """The least loss that a temperature gives."""
        return self.tempered[1].min(0)


def over_seeds(draws: Seeds) -> Estimate | None:
    """The mean over seeds, its interval over documents and, by Student's t, over seeds.

    None without a seed, and where it is undefined in one.
    """
    each = list(draws.values())
    if not each:
        return None
    mean = np.mean(each, axis=0)
    if not np.isfinite(mean[0]):
        return None
    low, high = np.percentile(mean[np.isfinite(mean)][1:], [2.5, 97.5])
    observed = [float(one[0]) for one in each]
    spread = 0.0
    if len(each) > 1:
        spread = student_t(len(each) - 1) ** 2 * float(np.var(observed, ddof=1)) / len(each)
    value = float(mean[0])
    ends = (value - np.hypot(value - low, spread**0.5), value + np.hypot(high - value, spread**0.5))
    return Estimate(value, float(min(ends)), float(max(ends)))


def of_seeds_alone(values: Sequence[float]) -> Estimate | None:
    """The mean of a number a seed, and Student's interval where there are two seeds or more."""
    if not values:
        return None
    value = float(np.mean(values))
    if len(values) == 1:
        return Estimate(value)
    reach = student_t(len(values) - 1) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return Estimate(value, value - reach, value + reach)


def of_clouds(pairs: Sequence[tuple[list[float], list[float]]]) -> Estimate | None:
    """A difference of two clouds' figures, whose intervals over documents are not paired."""
    if not pairs:
        return None
    differences = [a[0] - b[0] for a, b in pairs]
    value = float(np.mean(differences))
    within = float(np.mean([((a[2] - a[1]) ** 2 + (b[2] - b[1]) ** 2) / 4 for a, b in pairs]))
    if len(pairs) > 1:
        spread = float(np.var(differences, ddof=1)) / len(pairs)
        within += student_t(len(pairs) - 1) ** 2 * spread
    return Estimate(value, value - within**0.5, value + within**0.5)


@dataclass(frozen=True)
class Study:
    """Every model that is measured: by seed, arm, and what was done to it last."""

    models: Mapping[tuple[int, str, str], Measured]
    arms: Sequence[str]
    curves: Mapping[tuple[int, str], list[dict[str, float]]]

    @staticmethod
    def read(out: Path, arms: Sequence[str]) -> Study:
        """What is there."""
        files = sorted(out.glob("seed-*/*/*/measures.npz"))
        documents = 0
        for file in files[:1]:
            with np.load(file) as held:
                documents = int(held["doc"].max()) + 1
        resamples = Resamples.of(max(1, documents))
        models, curves = {}, {}
        for file in files:
            seed, arm, state = file.parts[-4:-1]
            number = int(seed.removeprefix("seed-"))
            models[number, arm, state] = Measured.read(file.parent, resamples)
        for file in out.glob(f"seed-*/*/{TRAINED}/curve.json"):
            seed, arm = file.parts[-4:-2]
            curves[int(seed.removeprefix("seed-")), arm] = json.loads(file.read_text())
        return Study(models, [arm for arm in arms if any(k[1] == arm for k in models)], curves)

    def seeds(self, *wanted: tuple[str, str]) -> list[int]:
        """Those that have all of these (arm, state)."""
        every = sorted({seed for seed, _arm, _state in self.models})
        return [s for s in every if all((s, *one) in self.models for one in wanted)]

    def level(self, arm: str, state: str, of: Callable[[Measured], Draws]) -> Estimate | None:
        """A figure of one arm."""
        return over_seeds({s: of(self.models[s, arm, state]) for s in self.seeds((arm, state))})

    def change(
        self, one: tuple[str, str], other: tuple[str, str], of: Callable[[Measured], Draws]
    ) -> Estimate | None:
        """A figure of one less that of another, seed by seed."""
        both = self.seeds(one, other)
        return over_seeds({s: of(self.models[s, *one]) - of(self.models[s, *other]) for s in both})

    def cloud(self, arm: str, state: str, depth: int, what: str) -> Estimate | None:
        """A figure of the cloud, less that of cross-entropy's in the same state."""
        plain = (PLAIN, state)
        pairs = [
            tuple(self.models[s, *one].cloud[depth][what] for one in ((arm, state), plain))
            for s in self.seeds((arm, state), plain)
        ]
        return of_clouds(pairs)  # type: ignore[arg-type]


def doses_of(refinements: Sequence[str]) -> list[str]:
    """Those with a penalty, from the least on."""
    return [name for name in refinements if name not in (CONTROL, LONGER)]


def tables(out: Path, arms: Sequence[str], refinements: Sequence[str]) -> str:
    """Everything that can be said of what is measured so far, as Markdown."""
    study = Study.read(out, arms)
    if not study.models:
        return "nothing is measured yet"
    counts = ", ".join(f"{arm} {len(study.seeds((arm, TRAINED)))}" for arm in study.arms)
    parts = [f"Seeds: {counts}."]
    names = list(next(iter(study.models.values())).figures)
    for title, state in (("At the end of training", TRAINED), ("After the control's", CONTROL)):
        parts.append(_table(f"{title}: the figure itself", study, names, state, False))
        parts.append(_table(f"{title}: less cross-entropy's", study, names, state, True))
    parts += [_along(study), _shape(study), _tempered(study), _refined(study, refinements)]
    parts.append(_kept(study))
    parts.append(_instead(study, doses_of(refinements)))
    return "\n\n".join(parts)


def _table(title: str, study: Study, names: Sequence[str], state: str, paired: bool) -> str:
    rows = []
    for arm in study.arms:
        row = []
        for name in names:
            of = lambda one, name=name: one.figures[name]  # noqa: E731
            if not paired:
                row.append(study.level(arm, state, of))
            elif arm != PLAIN:
                row.append(study.change((arm, state), (PLAIN, state), of))
        if row:
            rows.append((arm, row))
    return _markdown(title, names, rows)


def _along(study: Study) -> str:
    """At the last look before the end, of all that is trained; intervals hold seeds alone."""
    names = ("loss", "margin", "scale-free")
    rows: list[tuple[str, list[Any]]] = []
    for arm in study.arms[1:]:
        both = [s for s, one in study.curves if one == arm and (s, PLAIN) in study.curves]
        found = []
        for name in names:
            found.append(
                of_seeds_alone(
                    [
                        study.curves[s, arm][-1][name] - study.curves[s, PLAIN][-1][name]
                        for s in both
                    ]
                )
            )
        rows.append((f"{arm} ({len(both)} seeds)", found))
    return _markdown("At the last look along the way, less cross-entropy's", names, rows)


def _shape(study: Study) -> str:
    parts = []
    for what in ("effective_rank", "two_nn", "levina_bickel"):
        depths = sorted({d for k, m in study.models.items() if k[2] == TRAINED for d in m.cloud})
        depths = [*depths[1:], -1]
        rows: list[tuple[str, list[Any]]] = []
        for arm in study.arms:
            values = [
                [
                    study.models[s, arm, TRAINED].cloud[d][what][0]
                    for s in study.seeds((arm, TRAINED))
                ]
                for d in depths
            ]
            rows.append((arm, [f"{np.mean(one):.1f}" for one in values]))
            if arm != PLAIN:
                found = [study.cloud(arm, TRAINED, d, what) for d in depths]
                rows.append((f"{arm}, less cross-entropy", found))
        title = f"{what.replace('_', ' ')} by depth"
        named = [f"depth {d}" if d >= 0 else "head's input" for d in depths]
        parts.append(_markdown(title, named, rows))
    return "\n\n".join(parts)


def _tempered(study: Study) -> str:
    """What a temperature explains, and what cross-entropy had when its loss was the arm's."""
    rows: list[tuple[str, list[Any]]] = []
    for arm in study.arms[1:]:
        one, plain = (arm, TRAINED), (PLAIN, TRAINED)
        matched, best, earlier = {}, {}, []
        for seed in study.seeds(one, plain):
            mine, theirs = study.models[seed, *one], study.models[seed, *plain]
            factor = theirs.figures["median margin"] / mine.figures["median margin"]
            unscaled = np.ones_like(factor)
            matched[seed] = mine.loss_at(factor) - theirs.loss_at(unscaled)
            best[seed] = mine.loss_at_best - theirs.loss_at_best
            curve = study.curves[seed, PLAIN]
            losses = [point["loss"] for point in curve]
            loss = study.curves[seed, arm][-1]["loss"]
            then = np.interp(-loss, [-x for x in losses], [p["scale-free"] for p in curve])
            earlier.append(study.curves[seed, arm][-1]["scale-free"] - float(then))
        rows.append((arm, [over_seeds(matched), over_seeds(best), of_seeds_alone(earlier)]))
    columns = (
        "loss at cross-entropy's median margin",
        "loss at its best temperature",
        "scale-free margin, less cross-entropy's when its loss was the same",
    )
    return _markdown("What a temperature and the loss explain", columns, rows)


def _refined(study: Study, refinements: Sequence[str]) -> str:
    """What each refinement gains and costs over its own control."""
    parts = []
    for name in refinements:
        if name not in doses_of(refinements):
            continue
        rows: list[tuple[str, list[Any]]] = []
        for arm in study.arms:
            found: dict[str, dict[int, Draws]] = {what: {} for what in GAINS}
            if not study.seeds((arm, name), (arm, CONTROL)):
                continue
            for seed in study.seeds((arm, name), (arm, CONTROL)):
                pair = study.models[seed, arm, name], study.models[seed, arm, CONTROL]
                for what, draws in gains(*pair).items():
                    found[what][seed] = draws
            rows.append((arm, [over_seeds(found[what]) for what in GAINS]))
        parts.append(_markdown(f"{name}, over the control's 200 steps", GAINS, rows))
    doses = doses_of(refinements)[:2]
    rows = []
    for arm in study.arms:
        costs: dict[str, dict[int, Draws]] = {what: {} for what in COSTS}
        for seed in study.seeds(*[(a, s) for a in (arm, PLAIN) for s in (CONTROL, *doses)]):
            mine, theirs = (_curve(study, seed, a, doses) for a in (arm, PLAIN))
            for what in COSTS:
                at = cost_at(MATCHED, mine, what)
                costs[what][seed] = at
                if arm != PLAIN:
                    costs[what][seed] = at - cost_at(MATCHED, theirs, what)
        label = arm if arm == PLAIN else f"{arm}, less cross-entropy's"
        rows.append((label, [over_seeds(costs[what]) for what in COSTS]))
    title = f"Cost of {MATCHED:.0f} % more scale-free margin than the control's"
    return "\n\n".join([*parts, _markdown(title, COSTS, rows)])


def _kept(study: Study) -> str:
    """How much of what shaping made is left after plain steps."""
    rows: list[tuple[str, list[Any]]] = []
    for arm in study.arms[1:]:
        row = []
        for state in (CONTROL, LONGER):
            for name in ("scale-free", "int4 flips, %"):
                found = {}
                for seed in study.seeds(*[(a, s) for a in (arm, PLAIN) for s in (TRAINED, state)]):
                    before, after = (
                        study.models[seed, arm, s].figures[name]
                        - study.models[seed, PLAIN, s].figures[name]
                        for s in (TRAINED, state)
                    )
                    with np.errstate(divide="ignore", invalid="ignore"):
                        found[seed] = 100 * after / before
                row.append(over_seeds(found))
        rows.append((arm, row))
    columns = [
        f"{name}, {steps} steps" for steps in ("200", "1,000") for name in ("margin", "int4")
    ]
    return _markdown(
        "Of the difference to cross-entropy is left after plain steps, %", columns, rows
    )


def _instead(study: Study, doses: Sequence[str]) -> str:
    """Shaping, and refining the cross-entropy model to the same scale-free margin, at equal steps.

    A shaped model has had the control's plain steps, a refined one as many penalised ones.
    """
    rows: list[tuple[str, list[Any]]] = []
    columns = ("scale-free, %", "loss", "loss, refined", "net right, %", "net right, %, refined")
    columns += ("int4 flips, %", "int4 flips, %, refined")
    for arm in study.arms[1:]:
        found: dict[str, dict[int, Draws]] = {what: {} for what in columns}
        for seed in study.seeds((arm, CONTROL), (PLAIN, CONTROL)):
            have = [dose for dose in doses if (seed, PLAIN, dose) in study.models]
            plain = study.models[seed, PLAIN, CONTROL]
            shaped = gains(study.models[seed, arm, CONTROL], plain)
            refined = [gains(study.models[seed, PLAIN, dose], plain) for dose in have]
            for what in columns:
                name = what.removesuffix(", refined")
                found[what][seed] = (
                    shaped[name]
                    if name == what
                    else cost_at(shaped["scale-free, %"], refined, name)
                )
        rows.append((arm, [over_seeds(found[what]) for what in columns]))
    title = "Shaped, and cross-entropy's refined to the same scale-free margin: over its control"
    return _markdown(title, columns, rows)


def frontier(out: Path, arms: Sequence[str], refinements: Sequence[str]) -> list[dict[str, Any]]:
    """What ``docs/draw_shaping.py`` draws: each way to a wider margin, over plain training.

    The scale-free margin in percent, the loss and the int4 flips in points, with their intervals.
    """
    study, found = Study.read(out, arms), []
    ways = [(arm, CONTROL) for arm in study.arms if arm != PLAIN]
    ways += [(PLAIN, dose) for dose in doses_of(refinements)]
    for arm, state in ways:
        figures: dict[str, dict[int, Draws]] = {what: {} for what in GAINS}
        for seed in study.seeds((arm, state), (PLAIN, CONTROL)):
            pair = study.models[seed, arm, state], study.models[seed, PLAIN, CONTROL]
            for what, draws in gains(*pair).items():
                figures[what][seed] = draws
        row: dict[str, Any] = {"arm": arm, "state": state, "seeds": len(figures["loss"])}
        for what in ("scale-free, %", "loss", "int4 flips, %"):
            one = over_seeds(figures[what])
            if one is not None:
                row[what] = [one.value, one.low, one.high]
        if row["seeds"]:
            found.append(row)
    return found


def gains(refined: Measured, control: Measured) -> dict[str, Draws]:
    """What a refinement did that its control did not, by the names of ``GAINS``."""
    after, before = refined.columns, control.columns
    target = before["target"]
    right, was = after["top1"] == target, before["top1"] == target

    def ratio(name: str) -> Draws:
        return 100 * (refined.figures[name] / control.figures[name] - 1)

    return {
        "median margin, %": ratio("median margin"),
        "scale-free, %": ratio("scale-free"),
        "loss": refined.figures["loss"] - control.figures["loss"],
        "R→W, %": 100 * refined.mean(was & ~right),
        "W→R, %": 100 * refined.mean(~was & right),
        "net right, %": 100 * (refined.mean(right) - refined.mean(was)),
        "int8 flips, %": refined.figures["int8 flips, %"] - control.figures["int8 flips, %"],
        "int4 flips, %": refined.figures["int4 flips, %"] - control.figures["int4 flips, %"],
    }


GAINS = (
    "median margin, %",
    "scale-free, %",
    "loss",
    "R→W, %",
    "W→R, %",
    "net right, %",
    "int8 flips, %",
    "int4 flips, %",
)
COSTS = ("loss", "R→W, %", "net right, %")
MATCHED = 10.0


def _curve(study: Study, seed: int, arm: str, doses: Sequence[str]) -> list[dict[str, Draws]]:
    control = study.models[seed, arm, CONTROL]
    return [gains(study.models[seed, arm, dose], control) for dose in doses]


def cost_at(gain: Draws | float, doses: Sequence[Mapping[str, Draws]], what: str) -> Draws:
    """The figure where the scale-free margin has gained so much: on the line 0, dose, dose ...

    Beyond the last dose the line goes on. NaN where two doses gain the same.
    """
    gains_of = [np.zeros_like(doses[0]["scale-free, %"]), *(one["scale-free, %"] for one in doses)]
    figures = [np.zeros_like(doses[0][what]), *(one[what] for one in doses)]
    found = np.full_like(figures[0], np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        for i in range(len(doses)):
            rise = (figures[i + 1] - figures[i]) / (gains_of[i + 1] - gains_of[i])
            here = (gain > gains_of[i]) if i else np.ones_like(found, bool)
            found = np.where(here, figures[i] + rise * (gain - gains_of[i]), found)
    return found


def _markdown(title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Any]]]) -> str:
    lines = [f"### {title}", "", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, values in rows:
        lines.append(f"| {name} | {' | '.join(map(_cell, values))} |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return "–" if value is None else str(value)
