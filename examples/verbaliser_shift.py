"""Which other answer words help most? Score and measure tasks that share every prompt.

    python examples/verbaliser_shift.py -o shift.json            # four kinds of text, all 24 tasks
    python examples/verbaliser_shift.py --classes 3              # six tasks, five sources each
    python examples/verbaliser_shift.py --classes 2 --start flat # flipped labels
    python examples/verbaliser_shift.py --frequencies unequal
    python examples/verbaliser_shift.py --softmax full --steps 20

Prompts are passages of the running interpreter's library with "# kind:" behind them; a task names
each kind by an answer word. All tasks share prompts, and so activations: only the errors differ.
For each target the other tasks are the candidate sources, scored before anything is trained. The
truth is measured: the output head of the bundled model, a copy, is trained on each source, and the
loss of each target falls, or rises, on prompts from other documents. Takes about a minute.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from unembed import Checkpoint, Corpus, Head, Signature, SketchOptions, align, load
from unembed.demo import Document, bundled_model, documents
from unembed.models import ModelPass
from unembed.runs import Phases, progress_bar
from unembed.signatures import (
    Alignments,
    BatchSums,
    Samples,
    Sketcher,
    Verbalizers,
    exact_alignments,
    samples_of,
    whole_state,
)
from unembed.text import Batch, PromptCompletion

WORDS = (" one", " two", " three", " left", " right")
KINDS = {
    "test": r"test/(?!test_asyncio/)",
    "docstring": r"doc:",
    "editor": r"idlelib/",
    "manual": r"topic:",
    "concurrency": r"(test/test_)?asyncio/|multiprocessing/|concurrent/",
}
"""Kinds of document by their names."""
ENDING = "\n# kind:"
CHARACTERS = 300
TIE = 1e-7
"""Scores this close are one score."""
DRAWS = 2000
SHOWN = ("joint, all pairs", "S(Γ), all pairs", "gradient cosine, all pairs", "oracle")
"""What is shown by how many kinds have the same word."""

Task = tuple[int, ...]
"""The number of each kind's answer word."""


@dataclass(frozen=True)
class Setup:
    """What is measured. ``prompts`` is the mean number a kind, in each half of the documents.

    With ``frequencies`` unequal, of C kinds the first has C times as many prompts as the last.
    ``softmax`` restricted is over the answer words alone, in scores as in training. Training is
    full-batch gradient descent; a step is ``rate`` over the mean square of the activations. The
    ``start`` is the model's head, or flat: the answer words share the mean of their rows.
    ``words`` are answers, as many as there are classes or more; ``ending`` follows every text.
    """

    classes: int = 4
    tasks: int = 24
    prompts: int = 36
    frequencies: Literal["equal", "unequal"] = "equal"
    softmax: Literal["restricted", "full"] = "restricted"
    start: Literal["model", "flat"] = "model"
    steps: int = 100
    rate: float = 2.0
    m: int = 4096
    seeds: int = 10
    words: tuple[str, ...] = WORDS
    ending: str = ENDING

    @property
    def counts(self) -> list[int]:
        """Prompts of each kind in each half."""
        if self.frequencies == "equal":
            return [self.prompts] * self.classes
        shares = np.arange(self.classes, 0, -1) * 2 / (self.classes + 1)
        return [round(self.prompts * share) for share in shares]

    def choice(self, seed: int) -> list[Task]:
        """The tasks: every bijection, or so many of them."""
        every = list(itertools.permutations(range(self.classes)))
        if len(every) <= self.tasks:
            return every
        chosen = np.random.default_rng(seed).choice(len(every), self.tasks, replace=False)
        return [every[i] for i in sorted(chosen)]


@dataclass(frozen=True)
class Half:
    """Prompts of one half of the documents, as hidden states and kinds.

    ``samples`` have the words of the first task as targets; ``ids`` are the tokens of the words.
    """

    reading: ModelPass
    samples: Samples
    kinds: Int[Tensor, " positions"]
    ids: Int[Tensor, " words"]

    @staticmethod
    def of(checkpoint: Checkpoint, prompts: list[tuple[str, int]], setup: Setup) -> Half:
        """Read the prompts, each with the number of its kind."""
        words = setup.words[: setup.classes]
        answers = Verbalizers.of([(w, w) for w in words], setup.softmax == "restricted")
        pairs = [PromptCompletion(text + setup.ending, words[kind]) for text, kind in prompts]
        corpus = Corpus.from_pairs(pairs, checkpoint.tokenizer)
        reading = ModelPass.of(
            checkpoint.model, answers.answers(corpus), SketchOptions(), checkpoint.name
        )
        ids = torch.from_numpy(answers.token_ids(checkpoint.tokenizer))
        head = answers.head(reading.head, checkpoint.tokenizer)
        if setup.start == "flat":
            weight = head.weight.clone()
            weight[ids] = weight[ids].mean(0)
            head = Head.from_parts(weight, valid=head.valid)
        reading = replace(reading, head=head)
        samples = samples_of(reading, "prompts")
        return Half(reading, samples, (samples.targets[:, None] == ids).int().argmax(1), ids)

    def targets(
        self, task: Task, kinds: Int[Tensor, " some"] | None = None
    ) -> Int[Tensor, " some"]:
        """The answers' tokens under a task."""
        return self.ids[torch.tensor(task)[self.kinds if kinds is None else kinds]]


def prompts_of(found: list[Document], setup: Setup, seed: int) -> list[list[tuple[str, int]]]:
    """Two lists of prompts with their kinds, one passage a document, no document in both."""
    rng = np.random.default_rng(seed)
    halves: list[list[tuple[str, int]]] = [[], []]
    for kind, (pattern, count) in enumerate(zip(KINDS.values(), setup.counts, strict=False)):
        some = [d for d in found if re.match(pattern, d.name) and len(d.text) > CHARACTERS]
        if len(some) < 2 * count:
            raise SystemExit(f"{len(some)} documents match {pattern!r}: give fewer --prompts")
        for i, which in enumerate(rng.permutation(len(some))[: 2 * count]):
            text = some[which].text
            start = text.rfind("\n", 0, rng.integers(1, len(text) - CHARACTERS + 1)) + 1
            halves[i % 2].append((text[start : start + CHARACTERS], kind))
    return halves


def signatures_of(
    half: Half, tasks: list[Task], checkpoint: Checkpoint, setup: Setup
) -> list[Signature]:
    """The signature of each task, all in one pass: equal to ``sketch`` of each task's corpus."""
    options = SketchOptions(m=setup.m, first_moment=True, blocks=0)
    reading = half.reading
    sketcher = Sketcher.of(reading, options, checkpoint, "prompts")

    def work(team: tuple[torch.nn.Module, ...], batch: Batch, phases: Phases) -> list[BatchSums]:
        hidden = reading.hidden(team[0], batch, phases)
        kinds = (batch.targets[:, None] == half.ids).int().argmax(1)
        return [
            sketcher.swept(
                hidden, reading.head, half.targets(task, kinds), batch, 2, reading.precision
            )[1]
            for task in tasks
        ]

    with progress_bar("sketch", "tok", reading.windows.positions, False) as bar:
        parts = [
            [whole_state([pieces[t] for pieces in some]) for t in range(len(tasks))]
            for _, some in reading.results(work, bar, Phases())
        ]
    return [
        replace(sketcher, name=name(task, setup)).signature([states[t] for states in parts])
        for t, task in enumerate(tasks)
    ]


def exact_of(half: Half, tasks: list[Task], setup: Setup, debias: bool = True) -> Alignments:
    """The alignments of all tasks from Gram matrices; ``debias`` as in ``exact_alignments``."""
    samples = [
        replace(half.samples, name=name(task, setup), targets=half.targets(task)) for task in tasks
    ]
    head = half.reading.head
    if setup.softmax == "restricted":
        # A softmax over some rows is that of a head of those rows, at their cost.
        head = Head.from_parts(head.weight[half.ids])
        samples = [
            replace(one, targets=torch.tensor(task)[half.kinds])
            for one, task in zip(samples, tasks, strict=True)
        ]
    return exact_alignments(samples, head, debias=debias)


def trained(half: Half, task: Task, setup: Setup) -> Float[Tensor, "rows dim"]:
    """The head's rows after training on a task; the answer words' rows where it is restricted."""
    hidden, weight = half.samples.hidden, half.reading.head.weight
    targets = half.targets(task)
    if setup.softmax == "restricted":
        weight, targets = weight[half.ids], torch.tensor(task)[half.kinds]
    weight = weight.clone().requires_grad_()
    step = setup.rate / float(hidden.square().sum(1).mean())
    for _ in range(setup.steps):
        (slope,) = torch.autograd.grad(cross_entropy(hidden @ weight.T, targets), weight)
        weight.data -= step * slope
    return weight.detach()


def losses(
    half: Half, weight: Float[Tensor, "rows dim"], tasks: list[Task], setup: Setup
) -> tuple[Float[np.ndarray, " tasks"], Float[np.ndarray, " tasks"]]:
    """Loss in nats and accuracy among the words of each task under a head."""
    said = (half.samples.hidden @ weight.T).log_softmax(1)
    said = said if setup.softmax == "restricted" else said[:, half.ids]
    answers = [torch.tensor(task)[half.kinds] for task in tasks]
    nats = [-said.gather(1, one[:, None]).mean() for one in answers]
    right = [(said.argmax(1) == one).double().mean() for one in answers]
    return np.array(nats, float), np.array(right, float)


def linear_cka(a: Float[Tensor, "positions dim"], b: Float[Tensor, "positions dim"]) -> float:
    """Centred kernel alignment of two sets of activations of the same prompts."""
    a, b = (x.double() - x.double().mean(0) for x in (a, b))
    across, own, other = (float((x.T @ y).norm() ** 2) for x, y in ((a, b), (a, a), (b, b)))
    return across / (own * other) ** 0.5


def unigram_cosines(half: Half, tasks: list[Task]) -> Float[np.ndarray, "tasks tasks"]:
    """Cosines of how often each word is the answer."""
    size = int(half.ids.max()) + 1
    counts = torch.stack([half.targets(task).bincount(minlength=size) for task in tasks])
    unit = counts.double() / counts.double().norm(dim=1, keepdim=True)
    return (unit @ unit.T).numpy()


@dataclass(frozen=True)
class Measured:
    """One seed: gains[source, target] in nats, and each method's scores of the same pairs."""

    tasks: list[Task]
    gains: Float[np.ndarray, "tasks tasks"]
    scores: dict[str, Float[np.ndarray, "tasks tasks"]]
    loss: float
    accuracy: float


def measure(checkpoint: Checkpoint, found: list[Document], setup: Setup, seed: int) -> Measured:
    """Score and train every pair of tasks on one split of the documents."""
    return measure_prompts(checkpoint, prompts_of(found, setup, seed), setup, seed)


def measure_prompts(
    checkpoint: Checkpoint, prompts: list[list[tuple[str, int]]], setup: Setup, seed: int
) -> Measured:
    """Score every pair of tasks on the first of two lists of prompts, measure it on the second."""
    first, second = (Half.of(checkpoint, some, setup) for some in prompts)
    tasks = setup.choice(seed)
    signatures = signatures_of(first, tasks, checkpoint, setup)
    ways = {
        "": align(signatures),
        ", all pairs": align(signatures, debias=False),
        ", exact": exact_of(first, tasks, setup),
        ", exact, all pairs": exact_of(first, tasks, setup, debias=False),
    }
    same = first.samples.hidden
    scores = {"random": np.zeros((len(tasks), len(tasks)))}
    scores["linear CKA"] = np.array([[linear_cka(same, same) for _ in tasks] for _ in tasks])
    scores["label unigrams"] = unigram_cosines(first, tasks)
    for label, kind in (
        ("S(M)", "activation"),
        ("S(Γ)", "error"),
        ("proxy", "proxy"),
        ("joint", "joint"),
        ("gradient cosine", "first_moment"),
    ):
        for way, alignments in ways.items():
            pairs = alignments.pairs(kind)
            assert pairs is not None
            if kind not in ("activation", "proxy") or "all pairs" not in way:
                scores[label + way] = pairs.value
    weight = first.reading.head.weight
    weight = weight[first.ids] if setup.softmax == "restricted" else weight
    before, _ = losses(second, weight, tasks, setup)
    after = [losses(second, trained(first, task, setup), tasks, setup) for task in tasks]
    gains = np.stack([before - nats for nats, _ in after])
    scores["oracle"] = gains
    own = np.mean([right[t] for t, (_, right) in enumerate(after)])
    return Measured(tasks, gains, scores, float(before.mean()), float(own))


def choose(
    scores: Float[np.ndarray, " sources"], gains: Float[np.ndarray, " sources"]
) -> tuple[float, float]:
    """Whether the best-scored source has the largest gain, and its gain; means over ties."""
    scores = np.where(np.isnan(scores), -np.inf, scores)
    best = scores >= scores.max() - TIE
    return float((gains[best] == gains.max()).mean()), float(gains[best].mean())


@dataclass(frozen=True)
class Line:
    """A method's figures over all targets and seeds, each with a 95 % interval.

    ``share`` is the summed gain of the chosen sources over that of the best, None where the latter
    is not surely positive; ``regret`` is the mean of best minus chosen, in nats. The bootstrap
    draws targets and seeds, both with replacement: within a seed the targets are nearly one
    question asked again, so the seeds are what counts. ``range`` holds the least and the largest
    score of two different tasks, and ``unknown`` is how many could not be estimated; such a source
    is chosen last.
    """

    method: str
    range: list[float]
    unknown: int
    top1: list[float]
    share: list[float] | None
    regret: list[float]


def judged(method: str, seeds: list[Measured]) -> Line:
    """How well a method chooses, over all targets."""
    table = np.zeros((3, len(seeds), len(seeds[0].tasks)))
    for i, one in enumerate(seeds):
        for t in range(len(one.tasks)):
            gains = np.delete(one.gains[:, t], t)
            hit, chosen = choose(np.delete(one.scores[method][:, t], t), gains)
            table[:, i, t] = hit, chosen, gains.max()
    rng = np.random.default_rng(0)
    draws = [table.mean((1, 2))]
    for _ in range(DRAWS):
        rows, columns = (rng.integers(0, n, n) for n in table.shape[1:])
        draws.append(table[:, rows][:, :, columns].mean((1, 2)))
    hit, chosen, best = np.array(draws).T
    apart = ~np.eye(len(seeds[0].tasks), dtype=bool)
    scores = np.concatenate([one.scores[method][apart] for one in seeds])
    known = scores[~np.isnan(scores)]
    ends = [float(known.min()), float(known.max())] if len(known) else []
    return Line(
        method,
        ends,
        len(scores) - len(known),
        with_interval(hit),
        with_interval(chosen / best) if (best > 0).all() else None,
        with_interval(best - chosen),
    )


def with_interval(draws: Float[np.ndarray, " draws"]) -> list[float]:
    """The first draw, which is of all there is, and a 95 % interval from the others."""
    return [float(draws[0]), *np.quantile(draws[1:], (0.025, 0.975)).tolist()]


def by_matches(seeds: list[Measured]) -> list[dict[str, float]]:
    """Means over pairs of tasks by how many kinds have the same word in both."""
    rows = []
    for kept in range(len(seeds[0].tasks[0])):
        masks = [np.array([[sum(map(int.__eq__, s, t)) == kept for t in m.tasks] for s in m.tasks])
                 for m in seeds]  # fmt: skip
        if any(mask.any() for mask in masks):
            row = {"same": float(kept), "pairs": float(sum(mask.sum() for mask in masks))}
            for column in SHOWN:
                some = [m.scores[column][mask] for m, mask in zip(seeds, masks, strict=True)]
                row[column] = float(np.concatenate(some).mean())
            rows.append(row)
    return rows


def name(task: Task, setup: Setup) -> str:
    """A task's words, one a kind."""
    return " ".join(setup.words[i].strip() for i in task)


def run(setup: Setup, checkpoint: Checkpoint, found: list[Document]) -> list[Measured]:
    """All seeds."""
    return [measure(checkpoint, found, setup, seed) for seed in range(setup.seeds)]


def printed(
    setup: Setup, seeds: list[Measured], lines: list[Line], matches: list[dict[str, float]]
) -> Iterator[str]:
    """The tables as lines of text."""
    tasks = len(seeds[0].tasks)
    loss, accuracy = (
        float(np.mean(x)) for x in zip(*((s.loss, s.accuracy) for s in seeds), strict=True)
    )
    yield f"{tasks} tasks, {tasks - 1} sources each, {len(seeds)} seeds; prompts {setup.counts}"
    yield f"loss before {loss:.3f} nats, accuracy of a task's own head {accuracy:.1%}"
    heads = ("top-1 %", "oracle share %", "regret, nats", "scores")
    yield f"{'method':34}" + "".join(f"{head:>24}" for head in heads)
    for line in lines:
        row = f"{line.method:34}"
        for figure, scale, form in (
            (line.top1, 100, ".1f"),
            (line.share, 100, ".1f"),
            (line.regret, 1, ".3f"),
        ):
            mean, low, high = (f"{scale * x:{form}}" for x in figure or (0, 0, 0))
            cell = f"{mean} [{low}, {high}]" if figure else "no gain to share"
            row += f"{cell:>24}"
        ends = " to ".join(f"{end:.6f}" for end in line.range)
        yield f"{row}{ends:>24}" + (f", {line.unknown} unknown" if line.unknown else "")
    yield "means over pairs by how many kinds have the same word in both; gain in nats"
    for means in matches:
        yield "  ".join(f"{k.replace('oracle', 'gain')} {v:.4g}" for k, v in means.items())


def main() -> None:
    """Measure, print the tables, and write them down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = {
        "frequencies": ("equal", "unequal"),
        "softmax": ("restricted", "full"),
        "start": ("model", "flat"),
    }
    for field, value in asdict(Setup()).items():
        if field not in ("words", "ending"):
            kind = type(value)
            parser.add_argument(f"--{field}", type=kind, default=value, choices=known.get(field))
    parser.add_argument("-o", "--out", type=Path)
    given = vars(parser.parse_args())
    out = given.pop("out")
    setup = Setup(**given)
    found = [*documents("train"), *documents("heldout")]
    seeds = run(setup, load(bundled_model()), found)
    lines = [judged(method, seeds) for method in seeds[0].scores]
    matches = by_matches(seeds)
    for line in printed(setup, seeds, lines, matches):
        print(line)
    if out:
        kept = {"setup": asdict(setup), "methods": [asdict(x) for x in lines], "pairs": matches}
        out.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
