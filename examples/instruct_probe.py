"""Does refining after instruction tuning cost names more? See docs/findings/instruct.md.

    python examples/instruct_probe.py runs/instruct

The bundled model is tuned on questions and answers made of the Python library's own source: what a
function or a class does, which class another extends, which exception says a message, which value
is a default. Then copies are refined with a penalty of narrow decisions and without: the tuned
model on completions alone, the base model on plain text, and, last, each on the other's text. All
are measured on documents that neither model ever saw, on questions and on plain text, by the class
of the token. One tuned model, three seeds of everything else. A killed probe goes on with the
same command, and ``--seeds 0`` leaves the others to further processes.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import math
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unembed import Audit, Checkpoint, Corpus, Recipe, audit, compare, load, refine
from unembed.decisions import AuditOptions
from unembed.demo import Document, bundled_model, documents
from unembed.runs import write_whole
from unembed.stats import student_t
from unembed.training import Objective

SEEDS = (0, 1, 2)
PLAIN_CHARACTERS = 1_500
CONTEXT = 256
ANSWER_CHARACTERS = 160
SAME_ANSWERS = 2
"""Questions of one kind with one answer that a document may give: most defaults are None."""
A_DOCUMENT = 24
"""Questions of a document that is trained on, at most."""
RESAMPLES = 2_000

TUNING = Recipe(
    Objective("none"),
    weight=0.0,
    steps=400,
    learning_rate=5e-4,
    clip=10.0,
    batch_size=32,
    context=CONTEXT,
    heldout=0.02,
    watch_every=200,
    watch_positions=256,
    audit_positions=256,
)
REFINING = replace(TUNING, steps=120, learning_rate=1e-4)
TEXTS = {"completions": replace(REFINING, batch_size=12), "plain": replace(REFINING, batch_size=1)}
"""What is refined on: about 75 and 255 positions that count a batch."""
PENALTIES = {"none": 0.0, "fisher": 2.0, "margin": 0.4}
ARMS = (
    ("tuned", "completions"),
    ("base", "plain"),
    ("tuned", "plain"),
    ("base", "completions"),
)
MEASURED = ("questions", "plain")
ENTITY = "entity-like"


@dataclass(frozen=True)
class Question:
    """One prompt with its completion, of one kind and document."""

    document: str
    kind: str
    prompt: str
    completion: str


def asked(document: Document) -> list[Question]:
    """The questions that a source file answers, in the order of a hash."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(document.text)
        except SyntaxError:
            return []
    found = {
        Question(document.name, kind, f"Question: {question}\nAnswer:", f" {answer}\n")
        for node in ast.walk(tree)
        for kind, question, answer in _of_node(node, document.name)
        if not re.search("[\ud800-\udfff]", question + answer)
    }
    kept, times = [], Counter[tuple[str, str]]()
    for one in sorted(found, key=lambda one: (_hash(one.document + one.prompt), one.completion)):
        times[one.kind, one.completion] += 1
        if times[one.kind, one.completion] <= SAME_ANSWERS:
            kept.append(one)
    return kept


def _of_node(node: ast.AST, document: str) -> Iterator[tuple[str, str, str]]:
    """Kind, question and answer of what one node of a file's tree says."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        sentence = first_sentence(ast.get_docstring(node) or "")
        if isinstance(node, ast.ClassDef):
            if sentence:
                yield "class", f"What is the class {node.name}?", sentence
            bases = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
            if bases and all(base.isidentifier() for base in bases):
                where = document.removesuffix(".py")
                question = f"Which class does {node.name} of {where} extend?"
                yield "base", question, ", ".join(bases)
            return
        heading = f"{node.name}({ast.unparse(node.args)})"
        if len(heading) > ANSWER_CHARACTERS:
            return
        if sentence:
            yield "function", f"What does {heading} do?", sentence
            yield "name", f"Which function does this? {sentence}", node.name
        every = [*node.args.posonlyargs, *node.args.args]
        named = every[len(every) - len(node.args.defaults) :]
        for argument, value in zip(named, node.args.defaults, strict=True):
            written = ast.unparse(value)
            if len(written) < 40:
                stripped = heading.replace(f"{argument.arg}={written}", argument.arg)
                yield "default", f"What is {argument.arg} by default in {stripped}?", written
    elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
        said, kind = node.exc.args[0], ast.unparse(node.exc.func).rpartition(".")[2]
        if isinstance(said, ast.Constant) and isinstance(said.value, str) and kind.isidentifier():
            message = " ".join(said.value.split())[:ANSWER_CHARACTERS]
            yield "exception", f'Which exception says "{message}"?', kind


def first_sentence(docstring: str) -> str:
    """The first sentence of a docstring, empty where it is no short one."""
    text = " ".join(docstring.strip().partition("\n\n")[0].split())
    found = re.match(r"[A-Z].{15,}?\.(?= |$)", text)
    return found.group() if found and len(found.group()) <= ANSWER_CHARACTERS else ""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Texts:
    """Questions and plain text: to tune on, to refine on, and of held-out documents."""

    tuning: Corpus
    refining: Mapping[str, Corpus]
    measured: Mapping[str, Corpus]

    @staticmethod
    def made(out: Path, tokenizer: Any) -> Texts:
        """The texts, written below ``out``; half of the documents are tuned on, half refined on."""
        written = out / "texts"
        if not (written / "done").exists():
            _write_texts(written)

        def questions(part: str) -> Corpus:
            path = written / f"{part}-questions.jsonl"
            return Corpus.read(path, tokenizer, document="document", completion_only=True)

        def plain(part: str) -> Corpus:
            return Corpus.read(written / f"{part}-plain.jsonl", tokenizer, document="document")

        return Texts(
            questions("tuning"),
            {"completions": questions("refining"), "plain": plain("refining")},
            {"questions": questions("heldout"), "plain": plain("heldout")},
        )


def _write_texts(folder: Path) -> None:
    parts: dict[str, list[Document]] = {"tuning": [], "refining": []}
    for document in documents("train"):
        parts[("tuning", "refining")[int(_hash(document.name), 16) % 2]].append(document)
    parts["heldout"] = list(documents("heldout"))
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        most = None if name == "heldout" else A_DOCUMENT
        asking = [vars(one) for document in part for one in asked(document)[:most]]
        plain = [{"document": d.name, "text": d.text[:PLAIN_CHARACTERS]} for d in part]
        for kind, rows in (("questions", asking), ("plain", plain)):
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            write_whole(folder / f"{name}-{kind}.jsonl", lines.encode())
    write_whole(folder / "done", b"")


@dataclass(frozen=True)
class Probe:
    """The probe in a folder: what is trained, and what is measured of it."""

    out: Path
    base: Checkpoint
    texts: Texts

    def start(self, name: str) -> Path:
        """Where the audits of a starting model lie; the tuned one is trained first."""
        folder = self.out / name
        if name == "tuned":
            refine(self.base, self.texts.tuning, TUNING, out=folder / "run")
        if not self.measured(folder):
            self.measure(self.checkpoint(name), folder)
        return folder

    def checkpoint(self, name: str) -> Checkpoint:
        """A starting model."""
        if name == "base":
            return self.base
        return load(str(self.out / "tuned" / "run" / "model"))

    def arm(self, start: str, text: str, objective: str, seed: int) -> Path:
        """Where a refined model is trained and measured."""
        return self.out / "arms" / f"{start}-{text}-{objective}-seed{seed}"

    def refined(self, start: str, text: str, objective: str, seed: int) -> Path:
        """Where the audits of a refined model lie; its weights are deleted then."""
        folder = self.arm(start, text, objective, seed)
        if not self.measured(folder):
            recipe = replace(
                TEXTS[text],
                objective=Objective(objective),
                weight=PENALTIES[objective],
                seed=seed,
            )
            corpus, model = self.texts.refining[text], self.checkpoint(start)
            refine(model, corpus, recipe, out=folder / "run")
            self.measure(load(str(folder / "run" / "model")), folder)
            shutil.rmtree(folder / "run")
        return folder

    def measured(self, folder: Path) -> bool:
        """Whether a model was measured on all texts."""
        return (folder / "measured").exists()

    def measure(self, checkpoint: Checkpoint, folder: Path) -> None:
        """Audit a model on the held-out texts."""
        for name, text in self.texts.measured.items():
            options = AuditOptions(context=CONTEXT, top_k=2)
            audit(checkpoint.model, text, options, out=folder / name, name=checkpoint.name)
        write_whole(folder / "measured", b"")


@dataclass(frozen=True)
class Side:
    """The held-out positions of one text, and how often each resample draws their documents."""

    document: np.ndarray
    classes: np.ndarray
    draws: np.ndarray

    @staticmethod
    def of(folder: Path) -> Side:
        """From the audit of the base model in a folder; the first draw is the text itself."""
        one = Audit.load(folder)
        table = compare(one, one, resamples=2).table
        document = np.unique(table["doc"].to_numpy(), return_inverse=True)[1]
        count = int(document.max()) + 1
        drawn = np.random.default_rng(0).multinomial(count, [1 / count] * count, RESAMPLES)
        draws = np.concatenate([np.ones((1, count), dtype=drawn.dtype), drawn])
        return Side(document, np.array(table["class"].to_pylist()), draws)

    def totals(self, values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """The sum of the values at the chosen positions, in the text and in each resample."""
        weights = values * chosen
        by_document = np.bincount(self.document, weights, minlength=self.draws.shape[1])
        return self.draws @ by_document


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval over documents and seeds."""

    value: float
    low: float
    high: float

    @staticmethod
    def of(by_seed: list[np.ndarray]) -> Interval:
        """From what each seed gives in the text and in each resample of its documents.

        The bootstrap of the mean, widened by the seeds' own standard error times Student's t.
        """
        mean = np.mean(by_seed, axis=0)
        value, (low, high) = float(mean[0]), np.quantile(mean[1:], [0.025, 0.975])
        single, part = [float(draws[0]) for draws in by_seed], 0.0
        if len(single) > 1:
            part = student_t(len(single) - 1) ** 2 * np.var(single, ddof=1) / len(single)
        return Interval(
            value,
            value - math.sqrt((value - low) ** 2 + part),
            value + math.sqrt((value - high) ** 2 + part),
        )

    def written(self, digits: int) -> str:
        """``+1.2 [+0.4, +2.1]``."""
        value, low, high = (f"{one:+.{digits}f}" for one in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]".replace("-", "−")


@dataclass(frozen=True)
class Found:
    """What the arms that are measured say, on one held-out text."""

    probe: Probe
    seeds: tuple[int, ...]
    text: str
    side: Side

    @staticmethod
    def of(probe: Probe, text: str) -> Found:
        """Of the seeds for which the first two arms are there."""
        every = [(*arm, objective) for arm in ARMS[:2] for objective in PENALTIES]
        there = tuple(
            seed for seed in SEEDS if all(probe.measured(probe.arm(*one, seed)) for one in every)
        )
        return Found(probe, there, text, Side.of(probe.start("base") / text))

    def right(self, folder: Path) -> np.ndarray:
        """Whether each decision of a model was right, as 0 or 1."""
        one = Audit.load(folder / self.text)
        right: np.ndarray = one.column("top1") == one.column("target")
        return right.astype(np.float64)

    def nets(
        self, start: str, text: str, objective: str, control: bool, chosen: np.ndarray
    ) -> list[np.ndarray]:
        """By seed, the net of right decisions per 1,000 of the chosen positions.

        Against the control of the same seed, or the starting model.
        """
        found = []
        for seed in self.seeds:
            after = self.right(self.probe.arm(start, text, objective, seed))
            other = self.probe.arm(start, text, "none", seed) if control else self.probe.out / start
            net = self.side.totals(after - self.right(other), chosen)
            found.append(1000 * net / np.maximum(self.side.totals(np.ones(len(chosen)), chosen), 1))
        return found

    def flip_ratios(self, start: str, text: str, objective: str) -> list[np.ndarray]:
        """By seed, wrong to right over right to wrong, against the starting model."""
        found, everywhere = [], np.ones(len(self.side.document))
        before = self.right(self.probe.out / start)
        for seed in self.seeds:
            after = self.right(self.probe.arm(start, text, objective, seed))
            gained = self.side.totals((after > before).astype(float), everywhere)
            lost = self.side.totals((after < before).astype(float), everywhere)
            found.append(gained / np.maximum(lost, 1))
        return found

    def loss(self, start: str, text: str, objective: str) -> list[np.ndarray]:
        """By seed, the change of the loss a position, in nats, against the control."""
        found, everywhere = [], np.ones(len(self.side.document))
        for seed in self.seeds:
            after, control = (
                Audit.load(self.probe.arm(start, text, one, seed) / self.text).column("nll")
                for one in (objective, "none")
            )
            more = after.astype(np.float64) - control
            found.append(
                self.side.totals(more, everywhere) / self.side.totals(everywhere, everywhere)
            )
        return found

    def gain(self, start: str, text: str, objective: str) -> float:
        """The mean over seeds of the median margin over the control's, less 1."""
        medians = [
            [
                np.median(
                    Audit.load(self.probe.arm(start, text, one, seed) / self.text).column("margin")
                )
                for one in (objective, "none")
            ]
            for seed in self.seeds
        ]
        return float(np.mean([after / control - 1 for after, control in medians]))

    def lines(self, arms: tuple[tuple[str, str], ...]) -> Iterator[str]:
        """The tables in Markdown."""
        classes = self.side.classes
        entity, other = (classes == ENTITY).astype(float), (classes != ENTITY).astype(float)
        counts = Counter(classes.tolist())
        yield f"## {self.text}: {len(classes):,} positions, {counts[ENTITY]:,} {ENTITY}"
        yield f"seeds {self.seeds}, {self.side.draws.shape[1]} documents"
        yield "| arm | penalty | margin | loss | flip ratio | entity-like net against the start |"
        for start, text in arms:
            for objective in PENALTIES:
                against = Interval.of(self.nets(start, text, objective, False, entity)).written(1)
                ratio = Interval.of(self.flip_ratios(start, text, objective)).written(2)
                loss = Interval.of(self.loss(start, text, objective)).written(3)
                gain = f"{100 * self.gain(start, text, objective):+.1f} %"
                yield f"| {start}, {text} | {objective} | {gain} | {loss} | {ratio} | {against} |"
        yield "| against the control, net per 1,000 of the class | " + " | ".join(counts) + " |"
        for start, text in arms:
            for objective in ("fisher", "margin"):
                cells = [
                    Interval.of(
                        self.nets(start, text, objective, True, (classes == name).astype(float))
                    ).written(1)
                    for name in counts
                ]
                yield f"| {start}, {text}: {objective} | " + " | ".join(cells) + " |"
        yield "| entity-like less the others | " + " | ".join(("fisher", "margin")) + " |"
        apart: dict[tuple[str, str, str], list[np.ndarray]] = {}
        for start, text in arms:
            for objective in ("fisher", "margin"):
                ours, theirs = (
                    self.nets(start, text, objective, True, chosen) for chosen in (entity, other)
                )
                apart[start, text, objective] = [a - b for a, b in zip(ours, theirs, strict=True)]
            cells = [
                Interval.of(apart[start, text, one]).written(1) for one in ("fisher", "margin")
            ]
            yield f"| {start}, {text} | " + " | ".join(cells) + " |"
        first, second = arms[:2]
        for objective in ("fisher", "margin"):
            both = [self.nets(*arm, objective, True, entity) for arm in (first, second)]
            difference = [a - b for a, b in zip(*both, strict=True)]
            yield (
                f"entity-like, {objective}: refined after tuning less the base: "
                f"{Interval.of(difference).written(1)}; relative to the other classes: "
                + Interval.of(
                    [
                        a - b
                        for a, b in zip(
                            apart[*first, objective], apart[*second, objective], strict=True
                        )
                    ]
                ).written(1)
            )


def main() -> None:
    """Run the probe, or go on with it, and print what it found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="those to run here")
    parser.add_argument("--arms", type=int, default=len(ARMS), help="the first so many alone")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    base = load(bundled_model())
    probe = Probe(given.out, base, Texts.made(given.out, base.tokenizer))
    seeds = [int(seed) for seed in given.seeds.split(",") if seed]
    for few in (ARMS[:2], ARMS[2:]):
        for seed in seeds:
            for start, text in few[: max(0, given.arms - ARMS.index(few[0]))]:
                probe.start(start)
                for objective in PENALTIES:
                    print(probe.refined(start, text, objective, seed).name, flush=True)
    for text in MEASURED:
        found = Found.of(probe, text)
        there = [
            arm
            for arm in ARMS
            if all(probe.measured(probe.arm(*arm, o, s)) for o in PENALTIES for s in found.seeds)
        ]
        for line in found.lines(tuple(there)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
