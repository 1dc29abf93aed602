"""Is there a recipe that pays every class of tokens? The runs behind docs/findings/even-recipe.md.

    python examples/even_recipe.py runs/even/own                       # the bundled model, its text
    python examples/even_recipe.py runs/even/shift --text wikitext2-valid.txt --document '^ = [^=]'
    python examples/even_recipe.py runs/even/own --points "fisher:4" "fisher:4 ce-freq:0.25 kl:1"

A refinement makes some wrong decisions right and some right ones wrong. *Net* is the first less the
second, as a share of the positions of a class of tokens, or of tokens that are equally frequent. A
point is *even* where no net is below 0 and content and entity-like tokens have at least their share
of the gain. Each is held against the start (what a user gets) and against its control, the same
training without penalty, weights or anchors (what the recipe adds).

A point is an objective with its weight and any of these, in any order:

    freq:A words:W spare:CLASS        weigh the penalty: count^-A; content and entity-like tokens W
    narrow:M right                    times; not at a class; only margins below M; only where the
                                      top token is right
    ce:X ce-freq:A ce-words:W         count the cross-entropy X times; weigh its positions likewise
    kl:W kl-words:W kl-sure:W         hold the distribution to the start's: everywhere; at content
                                      and entity-like targets; where the start was right by a logit
    anchor:W ewc:W                    hold mean margin and logsumexp; hold the parameters
    lr:X steps:X scope:NAME           training: times the learning rate; times the steps; what moves

A killed run goes on with the same command. Points and seeds may be added later.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import kl_div, linear

from unembed import Checkpoint, Corpus, Head, HeadLoss, UnembedError, audit, head_loss, load
from unembed.decisions import AuditOptions
from unembed.demo import bundled_model, documents
from unembed.models import token_ids
from unembed.runs import write_whole
from unembed.text import Vocabulary
from unembed.training import Examples, HeadHook, Objective, Weighting, apply_scope, mean_loss

CLASSES = ("structural", "numeric", "function", "entity-like", "content", "fragment")
WORDS = ("entity-like", "content")
BUCKETS = {"1": 1, "2-4": 2, "5-19": 5, "20-99": 20, "100+": 100}
"""The least count of each bucket of tokens, by how often they occur in the held-out text."""
FEW = 100
"""A class with fewer held-out positions is listed, and judges nothing."""
SURPLUS = "words over all"
"""The net of content and entity-like tokens less that of all: at least 0 is their share of it."""
RESAMPLES = 2_000
IGNORED = -100
EWC_WINDOWS = 32
POINTS = (
    "none",
    "fisher:4",
    "margin:0.7",
    "entropy:0.25",
    "cosine:2.5",
    "fisher:4 freq:0.5",
    "fisher:4 words:4",
    "fisher:4 right",
    "fisher:4 narrow:1",
    "fisher:4 kl:1",
    "fisher:4 kl-words:1",
    "fisher:4 kl-sure:1",
    "fisher:4 anchor:1",
    "none ce-freq:0.25",
    "fisher:4 ce-freq:0.25",
    "fisher:4 ce-words:2",
)
TERMS = {
    **dict.fromkeys(("freq", "words", "spare", "narrow", "right"), "the penalty's weights"),
    **dict.fromkeys(("ce", "ce-freq", "ce-words"), "the cross-entropy's weights"),
    **dict.fromkeys(("kl", "kl-words", "kl-sure", "anchor", "ewc"), "an anchor"),
    **dict.fromkeys(("lr", "steps", "scope"), "the training"),
}


@dataclass(frozen=True)
class Setup:
    """What all points of a place share; ``positions`` are those of a step."""

    steps: int = 100
    learning_rate: float = 1e-4
    context: int = 256
    positions: int = 512
    heldout: float = 0.4
    audited: int = 60_000
    clip: float = 10.0


@dataclass(frozen=True)
class Point:
    """An objective, its weight, and the terms of a recipe by name."""

    name: str
    objective: Objective
    weight: float
    terms: dict[str, str]

    @staticmethod
    def of(name: str) -> Point:
        """Read ``objective:weight term:value ...``; raises UnembedError for what is none."""
        first, *rest = name.split() or [""]
        objective, _, weight = first.partition(":")
        terms = dict(one.partition(":")[::2] for one in rest)
        unknown = next((term for term in terms if term not in TERMS), None)
        if unknown is not None:
            raise UnembedError(f"{unknown!r} in {name!r} is no term: give {', '.join(TERMS)}")
        point = Point(name, Objective(objective), 0.0, terms)
        try:
            for term in terms.keys() - {"right", "scope", "spare"}:
                point.number(term)
            return replace(point, weight=0.0 if objective == "none" else float(weight))
        except ValueError:
            raise UnembedError(f"{name!r} lacks a number: write fisher:4 kl:0.5") from None

    def number(self, term: str, otherwise: float = 0.0) -> float:
        """The value of a term, or ``otherwise`` where the point has none."""
        return float(self.terms.get(term, otherwise))

    @property
    def control(self) -> Point:
        """The same training with nothing but plain cross-entropy."""
        kept = {k: v for k, v in self.terms.items() if TERMS[k] == "the training"}
        return Point.of(" ".join(["none", *(f"{k}:{v}" for k, v in kept.items())]))

    @property
    def family(self) -> str:
        """The point's name without the weight of its objective."""
        return " ".join([self.objective.name, *self.name.split()[1:]])

    @property
    def folder(self) -> str:
        """A file name."""
        return self.name.replace(" ", "_").replace(":", "=")

    @property
    def penalty_weighting(self) -> Weighting:
        """How the penalty's positions are weighted."""
        spared = {self.terms["spare"]: 0.0} if "spare" in self.terms else {}
        return Weighting(
            frequency=self.number("freq"),
            classes=dict.fromkeys(WORDS, self.number("words", 1.0)) | spared,
            below_margin=self.number("narrow") or None,
            only_right="right" in self.terms,
        )

    @property
    def ce_weighting(self) -> Weighting:
        """How the cross-entropy's are."""
        classes = dict.fromkeys(WORDS, self.number("ce-words", 1.0))
        return Weighting(frequency=self.number("ce-freq"), classes=classes)


@dataclass(frozen=True)
class Batch:
    """Windows of a step: what a model reads, and where it predicts what."""

    inputs: dict[str, Tensor]
    kept: Tensor
    targets: Int[Tensor, " positions"]

    @staticmethod
    def of(rows: dict[str, Tensor]) -> Batch:
        """Of collated examples; position t predicts the label at t + 1."""
        labels = rows["labels"]
        after = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        inputs = {k: v for k, v in rows.items() if k != "labels"}
        return Batch(inputs, after != IGNORED, after[after != IGNORED])


@dataclass(frozen=True)
class Place:
    """A model, the text it is refined on, and other documents of the same kind."""

    checkpoint: Checkpoint
    training: Corpus
    heldout: Corpus
    setup: Setup

    @staticmethod
    def of(checkpoint: Checkpoint, text: Corpus, setup: Setup) -> Place:
        """Hold out a share of the documents, chosen by a hash of their names."""
        n = len(text.names)
        marks = [
            hashlib.sha256(f"{i} {name}".encode()).digest() for i, name in enumerate(text.names)
        ]
        held = np.zeros(n, dtype=bool)
        held[sorted(range(n), key=marks.__getitem__)[: round(setup.heldout * n)]] = True
        if held.all() or held.sum() < 2:
            raise UnembedError(f"{n} documents are too few to hold some out: give more text")
        sides = (text.subset(~held, "to train on"), text.subset(held, "held out"))
        return Place(checkpoint, *sides, setup)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Of every row of the head."""
        rows = Head.of(self.checkpoint.model).weight.shape[0]
        return Vocabulary.of(self.checkpoint.tokenizer, range(rows))

    @cached_property
    def context(self) -> int:
        """The tokens of a window."""
        return min(self.setup.context, self.checkpoint.model.config.max_position_embeddings)

    def batches(self, examples: Examples, steps: int, seed: int) -> Iterator[Batch]:
        """So many, of windows in an order of the seed's, over and over."""
        draw = torch.Generator().manual_seed(seed)
        rows: list[dict[str, Tensor]] = []
        done = 0
        while True:
            for i in torch.randperm(len(examples), generator=draw).tolist():
                rows.append(examples[i])
                if sum(len(row["input_ids"]) for row in rows) >= self.setup.positions:
                    yield Batch.of(examples.collated(rows))
                    rows, done = [], done + 1
                    if done == steps:
                        return

    def key(self) -> dict[str, Any]:
        """What a folder of results belongs to."""
        head = Head.of(self.checkpoint.model).digest
        texts = {"training": self.training.digest, "heldout": self.heldout.digest}
        return {"head": head, **texts, "setup": asdict(self.setup)}


@dataclass(frozen=True)
class Loss:
    """What a point minimises at the positions of a batch."""

    point: Point
    penalty_weights: Any
    ce_weights: Float[Tensor, " vocab"]
    words: Float[Tensor, " vocab"]

    @staticmethod
    def of(place: Place, point: Point, examples: Examples) -> Loss:
        """With weights that are 1 on average over the training targets."""
        counts = examples.target_counts(len(place.vocabulary.texts))
        penalty = point.penalty_weighting.table(counts, place.vocabulary)
        ce = point.ce_weighting.table(counts, place.vocabulary)
        weights = point.number("ce", 1.0) * ce.by_token
        return Loss(point, penalty, weights, of_classes(WORDS, place.vocabulary).float())

    @property
    def anchored(self) -> bool:
        """Whether it takes what the starting model says."""
        return any(TERMS[term] == "an anchor" for term in self.point.terms.keys() - {"ewc"})

    def __call__(
        self, now: Said, start: Said | None, targets: Int[Tensor, " positions"]
    ) -> Float[Tensor, ""]:
        """Weighted cross-entropy, penalty and anchors."""
        point, head_says = self.point, now.loss
        total = (self.ce_weights[targets] * head_says.nll).mean()
        if point.weight:
            weights = self.penalty_weights.of_positions(targets, head_says)
            found = mean_loss(
                head_says, point.objective, point.weight, ce_weight=0.0, weights=weights
            )
            total = total + found.total
        if start is None:
            return total
        kl = kl_div(now.log_p, start.log_p, reduction="none", log_target=True).sum(-1)
        right = start.loss.topk_ids[:, 0] == targets
        where = {
            "kl": torch.ones_like(kl),
            "kl-words": self.words[targets],
            "kl-sure": (right & (start.margin >= 1)).float(),
        }
        for term, counted in where.items():
            if term in point.terms:
                held = (counted * kl).sum() / counted.sum().clamp_min(1)
                total = total + point.number(term) * held
        if "anchor" in point.terms:
            margin = (now.margin - start.margin).mean()
            level = (head_says.logsumexp - start.loss.logsumexp).mean()
            total = total + point.number("anchor") * (margin.square() + level.square())
        return total


@dataclass(frozen=True)
class Said:
    """What a model's head says of a batch; every probability, where an anchor needs them."""

    loss: HeadLoss
    log_p: Any

    @staticmethod
    def of(hook: HeadHook, batch: Batch, objective: Objective, anchored: bool) -> Said:
        """Of the model as it is now."""
        rows = hook.at_head(hook.model, batch.inputs, lambda hidden, _: hidden[batch.kept])
        head = hook.current_head(hook.model)
        k, cosines = objective.k_needed, objective.cosines_needed
        loss = head_loss(rows, head, batch.targets, k, cosines=cosines)
        if not anchored:
            return Said(loss, None)
        if head.softcap is not None:
            raise UnembedError("anchors here are for heads without a soft-cap: leave them out")
        logits = head.scale * linear(rows, head.weight, head.bias)
        if head.valid is not None:
            # Rows that are no tokens: alike in both, and finite, so that 0 * inf never arises.
            logits = logits.masked_fill(~head.valid, -1e4)
        return Said(loss, logits.log_softmax(-1))

    @property
    def margin(self) -> Float[Tensor, " positions"]:
        """The two largest logits' difference."""
        return self.loss.topk_values[:, 0] - self.loss.topk_values[:, 1]


def trained(place: Place, point: Point, seed: int) -> nn.Module:
    """A copy of the model, trained as the point says."""
    setup, start = place.setup, place.checkpoint.model.eval()
    scope = point.terms.get("scope", "full")
    untie = "head" in scope and Head.of(start).tied
    model = apply_scope(copy.deepcopy(start).float(), scope, untie=untie).model
    ids = token_ids(place.checkpoint.tokenizer)
    hook, frozen = HeadHook.of(model, ids), HeadHook.of(start, ids)
    examples = Examples.of(place.training, place.context - 1)
    loss_of = Loss.of(place, point, examples)
    moving = [p for p in model.parameters() if p.requires_grad]
    began = [p.detach().clone() for p in moving]
    fisher = squared_gradients(place, hook, examples, moving) if "ewc" in point.terms else None
    steps = round(setup.steps * point.number("steps", 1.0))
    rate = setup.learning_rate * point.number("lr", 1.0)
    optimizer = torch.optim.AdamW(moving, lr=rate, weight_decay=0.01)
    rise = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rise, (steps - step) / steps)
    )
    model.train()
    for batch in place.batches(examples, steps, seed):
        was = None
        if loss_of.anchored:
            with torch.no_grad():
                was = Said.of(frozen, batch, point.objective, True)
        now = Said.of(hook, batch, point.objective, loss_of.anchored)
        loss = loss_of(now, was, batch.targets)
        if fisher is not None:
            moved = zip(fisher, moving, began, strict=True)
            far = sum((f * (p - p0).square()).sum() for f, p, p0 in moved)
            loss = loss + point.number("ewc") * far
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(moving, setup.clip)
        optimizer.step()
        schedule.step()
    return model.eval()


def squared_gradients(
    place: Place, hook: HeadHook, examples: Examples, moving: list[nn.Parameter]
) -> list[Float[Tensor, "..."]]:
    """The mean square of each parameter's gradient of the loss, of single windows at the start."""
    found = [torch.zeros_like(p) for p in moving]
    for i in range(0, len(examples), max(1, len(examples) // EWC_WINDOWS))[:EWC_WINDOWS]:
        batch = Batch.of(examples.collated([examples[i]]))
        nll = Said.of(hook, batch, Objective("none"), False).loss.nll.mean()
        for sum_of, g in zip(found, torch.autograd.grad(nll, moving), strict=True):
            sum_of += g.square() / EWC_WINDOWS
    return found


def of_classes(names: Sequence[str], vocabulary: Vocabulary) -> Bool[Tensor, " vocab"]:
    """Marks the tokens of these classes."""
    everything = torch.ones(len(vocabulary.texts), dtype=torch.long)
    doubled = Weighting(classes=dict.fromkeys(names, 2.0)).table(everything, vocabulary).by_token
    return doubled > doubled.min()


def measured(place: Place, model: nn.Module, file: Path) -> pa.Table:
    """What a model decides on the held-out text: kept in a file, and read from there again."""
    if not file.exists():
        options = AuditOptions(
            context=place.context, max_positions=place.setup.audited, spread=True, top_k=0
        )
        columns = ["doc", "pos", "target", "top1", "margin", "nll"]
        table = audit(model, place.heldout, options, name=file.stem).table.select(columns)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        write_whole(file, sink.getvalue().to_pybytes())
    return pq.read_table(file)


@dataclass(frozen=True)
class Text:
    """The held-out positions: whose they are, what they predict, which cells they belong to."""

    document: Int[np.ndarray, " positions"]
    target: Int[np.ndarray, " positions"]
    start_right: Float[np.ndarray, " positions"]
    start_margin: float
    cells: dict[str, Bool[np.ndarray, " positions"]]

    @staticmethod
    def of(start: pa.Table, vocabulary: Vocabulary) -> Text:
        """From the starting model's decisions."""
        target = start["target"].to_numpy()
        _, doc = np.unique(start["doc"].to_numpy(), return_inverse=True)
        cells = {one: of_classes([one], vocabulary).numpy()[target] for one in CLASSES}
        _, which, counts = np.unique(target, return_inverse=True, return_counts=True)
        least = list(BUCKETS.values())
        bucket = np.searchsorted(least, counts[which], side="right") - 1
        cells |= {f"occurs {name}": bucket == i for i, name in enumerate(BUCKETS)}
        right = (start["top1"].to_numpy() == target).astype(float)
        median = float(np.median(start["margin"].to_numpy()))
        return Text(doc, target, right, median, {k: v for k, v in cells.items() if v.any()})

    @cached_property
    def sizes(self) -> Float[np.ndarray, "documents cells"]:
        """Positions of each document in each cell, the last column all of them."""
        return self.sums(np.ones(len(self.document)))

    def sums(self, of: Float[np.ndarray, " positions"]) -> Float[np.ndarray, "documents cells"]:
        """Sums by document and cell, the last column over all positions."""
        masks = [*self.cells.values(), np.ones(len(of), dtype=bool)]
        return np.stack(
            [np.bincount(self.document, of * m, self.document.max() + 1) for m in masks], 1
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The cells that judge, and the surplus of words."""
        return (*self.cells, SURPLUS)

    def rates(
        self, sums: Float[np.ndarray, "... cells"], sizes: Float[np.ndarray, "... cells"]
    ) -> Any:
        """Net of each cell, and what content and entity-like tokens have over all, as shares."""
        words = [i for i, name in enumerate(self.cells) if name in WORDS]
        with np.errstate(invalid="ignore", divide="ignore"):
            found = sums / sizes
            of_words = sums[..., words].sum(-1) / sizes[..., words].sum(-1)
        return np.concatenate([found[..., :-1], (of_words - found[..., -1])[..., None]], -1)

    @cached_property
    def judging(self) -> Bool[np.ndarray, " cells"]:
        """Which cells have positions enough."""
        return np.append(self.sizes.sum(0)[:-1] >= FEW, True)


@dataclass(frozen=True)
class Result:
    """What a point's seeds did: sums by seed, document and cell of what became right less wrong."""

    name: str
    raw: Float[np.ndarray, "seeds documents cells"]
    over: Float[np.ndarray, "seeds documents cells"] | None
    """The same over the control of the same seed; None for a control."""
    gain: float
    """By how much the median margin exceeds the control's, as a share."""
    nll: float
    """By how much the loss exceeds the control's, as a share."""
    flips: tuple[float, float]
    """Wrong to right, and right to wrong, as shares of the positions."""


@dataclass(frozen=True)
class Verdict:
    """A point's net in every cell, and whether it is even."""

    net: Float[np.ndarray, " cells"]
    low: Float[np.ndarray, " cells"]
    high: Float[np.ndarray, " cells"]
    """95 % of each cell alone."""
    reach: float
    """Standard errors that hold 95 % of all cells at once."""
    error: Float[np.ndarray, " cells"]
    total: float
    even: bool
    unrefuted: bool
    """Whether the interval of every cell reaches 0: easily met where a text is short."""
    lost: tuple[str, ...]
    """Cells below 0; with a star where that is sure, all cells considered."""
    by_chance: float
    """How often documents whose signs are drawn by lot look even, cells alike in all else."""

    @staticmethod
    def of(text: Text, sums: Float[np.ndarray, "seeds documents cells"]) -> Verdict:
        """Documents and seeds are drawn again, both at once."""
        rng = np.random.default_rng(0)
        seeds, n = sums.shape[:2]
        sizes, mean = text.sizes, sums.mean(0)
        net = text.rates(mean.sum(0), sizes.sum(0))
        drawn = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float)
        runs = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
        again = sum(runs[:, [i]] * (drawn @ sums[i]) for i in range(seeds))
        found = text.rates(again, drawn @ sizes)
        judging = text.judging
        error = np.nanstd(found, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            apart = np.nan_to_num(np.abs(found - net) / error)[:, judging]
        reach = float(np.quantile(apart.max(1), 0.95))
        low, high = np.nanquantile(found, [0.025, 0.975], axis=0)
        signs = rng.choice([-1.0, 1.0], (RESAMPLES, n))
        lots = text.rates(signs @ mean, sizes.sum(0))[:, judging]
        lost = tuple(
            name + ("*" if net[i] + reach * error[i] < 0 else "")
            for i, name in enumerate(text.names)
            if judging[i] and net[i] < 0
        )
        total = float(mean.sum(0)[-1] / sizes.sum(0)[-1])
        reaches = bool((high >= 0)[judging].all())
        by_chance = float((lots >= 0).all(1).mean())
        return Verdict(net, low, high, reach, error, total, not lost, reaches, lost, by_chance)

    def worst(self, text: Text) -> tuple[str, float]:
        """The cell with the least net; the surplus is none of them."""
        nets = np.where(text.judging, self.net, np.inf)[:-1]
        return text.names[int(nets.argmin())], float(nets.min())


@dataclass(frozen=True)
class Runs:
    """All results below a folder."""

    place: Place
    folder: Path

    def file(self, point: Point, seed: int) -> Path:
        """Where a run's decisions are kept."""
        return self.folder / point.folder / f"{seed}.parquet"

    def start(self) -> pa.Table:
        """The starting model's decisions."""
        return measured(self.place, self.place.checkpoint.model, self.folder / "start.parquet")

    def check(self) -> None:
        """Refuse a folder of another model, text or setup."""
        note, key = self.folder / "place.json", self.place.key()
        if note.exists() and json.loads(note.read_text()) != key:
            raise UnembedError(f"{self.folder} holds another model, text or setup: give another")
        write_whole(note, json.dumps(key, indent=1).encode())

    def run(self, points: Sequence[Point], seeds: Sequence[int]) -> None:
        """Train and measure what is missing, each point's control first."""
        self.start()
        for seed in seeds:
            for point in dict.fromkeys(one for p in points for one in (p.control.name, p.name)):
                known = Point.of(point)
                if not self.file(known, seed).exists():
                    model = trained(self.place, known, seed)
                    measured(self.place, model, self.file(known, seed))
                    print(f"{point}, seed {seed}", flush=True)

    def results(self, points: Sequence[Point], text: Text) -> list[Result]:
        """Of every point with a seed whose control was measured too."""
        found = []
        for point in points:
            control = point.control
            seeds = [
                seed
                for seed in range(1000)
                if self.file(point, seed).exists() and self.file(control, seed).exists()
            ]
            if seeds:
                found.append(self._result(point, seeds, text))
        return found

    def _result(self, point: Point, seeds: list[int], text: Text) -> Result:
        own, plain = (
            [pq.read_table(self.file(p, s)) for s in seeds] for p in (point, point.control)
        )
        right, was_right = ([_right(one, text) for one in some] for some in (own, plain))
        raw = np.stack([text.sums(one - text.start_right) for one in right])
        pairs = zip(right, was_right, strict=True)
        over = np.stack([text.sums(one - other) for one, other in pairs])
        margin, nll = (
            np.mean([np.median(one["margin"]) for one in own])
            / np.mean([np.median(one["margin"]) for one in plain])
            - 1,
            np.mean([one["nll"].to_numpy().mean() for one in own])
            / np.mean([one["nll"].to_numpy().mean() for one in plain])
            - 1,
        )
        flips = tuple(
            float(np.mean([(sign * (one - text.start_right) > 0).mean() for one in right]))
            for sign in (1, -1)
        )
        is_control = point.name == point.control.name
        return Result(
            point.name, raw, None if is_control else over, float(margin), float(nll), flips
        )


def _right(table: pa.Table, text: Text) -> Float[np.ndarray, " positions"]:
    return (table["top1"].to_numpy() == text.target).astype(float)


def at_gain(results: Sequence[Result], gain: float) -> Iterator[Result]:
    """Each family of points that differ in weight alone, between its two points about this gain.

    Linear in the gain; weight 0 is the control's, where the family has no weighted cross-entropy or
    anchor, which are there without a penalty too.
    """
    families: dict[str, list[Result]] = {}
    for one in results:
        if one.over is not None:
            families.setdefault(Point.of(one.name).family, []).append(one)
    for family, some in families.items():
        first = Point.of(some[0].name)
        bare = all(TERMS[term] in ("the penalty's weights", "the training") for term in first.terms)
        if bare:
            zero = next(r for r in results if r.name == first.control.name)
            some = [*some, replace(zero, over=np.zeros_like(zero.raw))]
        ranked = sorted(some, key=lambda one: one.gain)
        for low, high in pairwise(ranked):
            if low.gain <= gain < high.gain and len(low.raw) == len(high.raw):
                yield _between(low, high, (gain - low.gain) / (high.gain - low.gain), family, gain)
                break


def _between(low: Result, high: Result, part: float, family: str, gain: float) -> Result:
    assert low.over is not None
    assert high.over is not None

    def mixed(a: Any, b: Any) -> Any:
        return (1 - part) * a + part * b

    return Result(
        f"{family} at +{gain:.0%}",
        mixed(low.raw, high.raw),
        mixed(low.over, high.over),
        gain,
        mixed(low.nll, high.nll),
        (mixed(low.flips[0], high.flips[0]), mixed(low.flips[1], high.flips[1])),
    )


def null_pairs(runs: Runs, points: Sequence[Point], text: Text) -> tuple[int, int]:
    """How many ordered pairs of a control's own seeds the criterion calls even, and of how many."""
    control = points[0].control
    files = [file for seed in range(1000) if (file := runs.file(control, seed)).exists()]
    right = [_right(pq.read_table(file), text) for file in files]
    pairs = [(a, b) for i, a in enumerate(right) for j, b in enumerate(right) if i != j]
    return sum(Verdict.of(text, text.sums(a - b)[None]).even for a, b in pairs), len(pairs)


def rows(text: Text, results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    """A row for each point, comparison and cell."""
    for one in results:
        for against, sums in (("start", one.raw), ("control", one.over)):
            if sums is None:
                continue
            found = Verdict.of(text, sums)
            for i, cell in enumerate(text.names):
                yield {
                    "point": one.name,
                    "seeds": len(sums),
                    "against": against,
                    "cell": cell,
                    "positions": int(text.sizes.sum(0)[i]) if i < len(text.cells) else None,
                    "judges": bool(text.judging[i]),
                    "net": float(found.net[i]),
                    "low": float(found.low[i]),
                    "high": float(found.high[i]),
                    "simultaneous_low": float(found.net[i] - found.reach * found.error[i]),
                    "simultaneous_high": float(found.net[i] + found.reach * found.error[i]),
                }


def summary(text: Text, one: Result) -> dict[str, Any]:
    """A point's verdicts."""
    facts: dict[str, Any] = {
        "point": one.name,
        "seeds": len(one.raw),
        "median margin over control": one.gain,
        "loss over control": one.nll,
        "wrong to right": one.flips[0],
        "right to wrong": one.flips[1],
    }
    share = text.sizes.sum(0)
    words = [i for i, name in enumerate(text.cells) if name in WORDS]
    for against, sums in (("start", one.raw), ("control", one.over)):
        if sums is None:
            continue
        found, total = Verdict.of(text, sums), sums.mean(0).sum(0)
        facts[against] = {
            "net": found.total,
            "worst": found.worst(text),
            "even": found.even,
            "no cell surely below 0": found.unrefuted,
            "lost": found.lost,
            "even by chance": found.by_chance,
            "words' share of net": float(total[words].sum() / total[-1]) if total[-1] > 0 else None,
            "words' share of tokens": float(share[words].sum() / share[-1]),
        }
    return facts


def page(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The verdicts as lines."""
    yield f"{'point':34} seeds  gain %  loss %   over the start: net, worst cell; over the control"
    for one in sorted(found, key=lambda one: one["median margin over control"]):
        line = f"{one['point']:34} {one['seeds']:5} {100 * one['median margin over control']:7.1f}"
        line += f" {100 * one['loss over control']:7.2f}"
        for against in ("start", "control"):
            if (verdict := one.get(against)) is not None:
                cell, worst = verdict["worst"]
                mark = "perhaps" if verdict["no cell surely below 0"] else "not"
                mark = f"{'EVEN' if verdict['even'] else mark:7}"
                line += f"   {mark} {100 * verdict['net']:+.2f}, {100 * worst:+.2f} {cell}"
        yield line
        for against in ("start", "control"):
            if one.get(against, {}).get("lost"):
                yield f"{'':34} below 0 against the {against}: {', '.join(one[against]['lost'])}"


def text_of(given: argparse.Namespace, checkpoint: Checkpoint) -> Corpus:
    """The text named, or the bundled model's, of which it never saw a word."""
    if given.text is not None:
        return Corpus.read(given.text, checkpoint.tokenizer, document=given.document)
    found = list(documents("heldout"))
    names = [one.name for one in found]
    return Corpus.from_texts((one.text for one in found), checkpoint.tokenizer, names=names)


def main() -> None:
    """Run what is missing, and say which points are even."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default=None, help="a folder or a hub name [the bundled one]")
    parser.add_argument("--text", default=None, help="a file [the bundled model's held-out text]")
    parser.add_argument("--document", default=None, help="matches a document's first line")
    parser.add_argument("--points", nargs="+", default=list(POINTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--gain", type=float, nargs="*", default=[0.1], help="compared at these")
    parser.add_argument("--only", choices=("train", "table"), help="train; or say what is there")
    for name in ("steps", "positions", "audited"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Setup, name))
    given = parser.parse_args()
    points = [Point.of(name) for name in given.points]
    checkpoint = load(given.model or bundled_model())
    setup = Setup(given.steps, positions=given.positions, audited=given.audited)
    runs = Runs(Place.of(checkpoint, text_of(given, checkpoint), setup), given.out)
    runs.check()
    if given.only != "table":
        runs.run(points, given.seeds)
    if given.only == "train":
        return
    text = Text.of(runs.start(), runs.place.vocabulary)
    every = [*dict.fromkeys([one.control.name for one in points] + [one.name for one in points])]
    found = runs.results([Point.of(name) for name in every], text)
    found += [one for gain in given.gain for one in at_gain(found, gain)]
    verdicts = [summary(text, one) for one in found]
    pq.write_table(pa.Table.from_pylist(list(rows(text, found))), given.out / "cells.parquet")
    even, pairs = null_pairs(runs, points, text)
    note = {"points": verdicts, "null": {"even": even, "pairs": pairs}}
    write_whole(given.out / "verdict.json", json.dumps(note, indent=1).encode())
    print("\n".join(page(verdicts)))
    if pairs:
        print(f"two seeds of the control, one against the other: {even} of {pairs} are even")


if __name__ == "__main__":
    main()
