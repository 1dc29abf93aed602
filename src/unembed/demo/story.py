"""What ``unembed demo`` does: the bundled model, audited on text of the running interpreter."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from unembed.decisions.audit.audit import Audit, audit
from unembed.decisions.audit.run import AuditOptions
from unembed.decisions.comparison.compare import Comparison, compare
from unembed.demo.text import documents
from unembed.demo.topics import Topic, listings, topics
from unembed.demo.transfer import measure_transfer
from unembed.errors import UnembedError
from unembed.models.checkpoint import Checkpoint, load
from unembed.models.quantization import quantized, torchao_is_there
from unembed.runs.manifest import read_run
from unembed.runs.progress import Steps, progress_bar
from unembed.runs.store import check_folder, holds_finished_run
from unembed.selection.transfer.judged import JudgedTransfer
from unembed.signatures.alignment.align import align
from unembed.signatures.alignment.records import Alignments
from unembed.signatures.reading.run import sketch
from unembed.signatures.reading.sketcher import SketchOptions
from unembed.signatures.signature import Signature
from unembed.text.corpus import Corpus
from unembed.training.recipe.objectives import Objective
from unembed.training.recipe.recipe import Recipe
from unembed.training.run.engine import accelerate_is_there
from unembed.training.run.refinement import Refinement, refine

NAME = "the bundled model"
POSITIONS = 100_000
CHARACTERS = 6_000
"""Of each document, so that the sample holds many of them: intervals cluster by document."""

OBJECTIVES = (("none", 0.0), ("fisher", 0.6), ("margin", 0.15))
"""What the demo refines by, with weights at which fisher and margin gain about the same."""
RECIPE = Recipe(
    steps=60,
    batch_size=4,
    context=256,
    learning_rate=1e-4,
    clip=10.0,
    heldout=0.4,
    watch_every=20,
    watch_positions=2048,
    audit_positions=20_000,
)
REFINED_CHARACTERS = 3_000
TOPIC_POSITIONS = 2_000


def bundled_model() -> Path:
    """The folder of the bundled checkpoint."""
    return Path(str(resources.files("unembed.demo") / "model"))


def heldout_corpus(checkpoint: Checkpoint, characters: int = CHARACTERS) -> Corpus:
    """The beginnings of held-out documents of the running interpreter's library.

    Each is cut after ``characters``. Their order is fixed by their names' hashes and mixes topics,
    docstrings and source, so that the first so many tokens are a sample.
    """
    found = sorted(documents("heldout"), key=lambda d: hashlib.sha256(d.name.encode()).hexdigest())
    return Corpus.from_texts(
        (d.text[:characters] for d in found), checkpoint.tokenizer, names=[d.name for d in found]
    )


@dataclass(frozen=True)
class DemoRuns:
    """What the demo measured: the model, what each rounding of it changes, by its name, what
    refining it by each objective does, how alike a dozen topics would move its head, and which of a
    dozen listings helps which.
    """

    audit: Audit
    rounded: dict[str, Comparison]
    refined: dict[str, Refinement]
    topics: Alignments
    transfer: JudgedTransfer


def run_demo(out: Path, *, progress: bool = False, command: str = "") -> DemoRuns:
    """Audit the bundled model on held-out documents, then its bfloat16 and int8 versions.

    Then refine it by each of OBJECTIVES on a part of these documents, sketch a dozen topics of the
    library, and train its head on each of a dozen listings. All of it is done afresh: the audit is
    in ``out``, the comparison with each version in ``out/bfloat16`` and ``out/int8``, the
    refinements in ``out/refined``, the signatures in ``out/signatures``, the topics' alignments in
    ``out/topics`` and what each listing gains the others in ``out/helped``. int8 is left out
    without the extra ``quant``, the refinements without ``train``. Raises UnembedError where
    ``out`` holds anything but an earlier demo.
    """
    check_folder(out)
    if holds_finished_run(out):
        audited = read_run(out).key["model"]
        if audited != NAME:
            raise UnembedError(f"{out} holds an audit of {audited}: give another -o")
        shutil.rmtree(out)
    whole = replace(load(bundled_model()), name=NAME)
    text = heldout_corpus(whole)

    def audited_as(checkpoint: Checkpoint, folder: Path) -> Audit:
        options = AuditOptions(max_positions=POSITIONS)
        return audit(
            checkpoint.model,
            text,
            options,
            out=folder,
            name=checkpoint.name,
            command=command,
            progress=progress,
        )

    with_int8, refines = torchao_is_there(), accelerate_is_there()
    steps = Steps(4 + with_int8 + refines * len(OBJECTIVES))
    with steps("the bundled model"):
        before = audited_as(whole, out)
    narrow = load(bundled_model(), dtype="bfloat16")
    versions = {"bfloat16": replace(narrow, name=f"{NAME} in bfloat16")}
    if with_int8:
        versions["int8"] = quantized(whole, "int8")
    rounded = {}
    for name, version in versions.items():
        with steps(name):
            after = audited_as(version, out / name / "after")
        rounded[name] = compare(before, after, out=out / name, command=command)
    refined = {}
    if refines:
        refined = _refined(whole, out / "refined", steps, progress, command)
    alignment, transfer = _topics(whole, out, steps, progress, command)
    return DemoRuns(before, rounded, refined, alignment, transfer)


def _refined(
    checkpoint: Checkpoint, out: Path, steps: Steps, progress: bool, command: str
) -> dict[str, Refinement]:
    text = heldout_corpus(checkpoint, REFINED_CHARACTERS)
    found = {}
    for name, weight in OBJECTIVES:
        with steps(f"refined by {name}"):
            found[name] = refine(
                checkpoint,
                text,
                replace(RECIPE, objective=Objective(name), weight=weight),
                out=out / name,
                command=command,
                progress=progress,
            )
    return found


def _topics(
    checkpoint: Checkpoint, out: Path, steps: Steps, progress: bool, command: str
) -> tuple[Alignments, JudgedTransfer]:
    folder = out / "signatures"
    with steps("topics"):
        library = _signatures(checkpoint, topics(checkpoint), folder, progress)
    alike = align(list(library.values()), out=out / "topics", command=command)
    others = listings(checkpoint)
    with steps("listings"):
        made = _signatures(checkpoint, others, folder, progress)
        names = {one.name for one in made.values()}
        gained = measure_transfer(
            checkpoint,
            {name: topic for name, topic in others.items() if name in names},
            list(made.values()),
            TOPIC_POSITIONS,
            out=out / "helped",
            command=command,
            progress=progress,
        )
    return alike, gained


def _signatures(
    checkpoint: Checkpoint, topics: Mapping[str, Topic], folder: Path, progress: bool
) -> dict[Path, Signature]:
    """The signatures of the topics that have enough text, by their files."""
    enough = {
        name: topic
        for name, topic in topics.items()
        if topic.text.tokens - topic.text.rows >= TOPIC_POSITIONS
    }
    options = SketchOptions(max_positions=TOPIC_POSITIONS, first_moment=True)
    made = {}
    with progress_bar("topics", "topic", len(enough), progress) as bar:
        for name, topic in enough.items():
            file = folder / f"{name.replace(' ', '-')}.safetensors"
            made[file] = sketch(checkpoint, topic.text, options, out=file, task=name)
            bar.update()
    return made
