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
from unembed.decisions.layers.layers import Layers, layers
from unembed.decisions.layers.options import LayersOptions
from unembed.demo.text import documents
from unembed.demo.topics import Topic, listings, topics
from unembed.demo.transfer import measure_transfer
from unembed.errors import UnembedError
from unembed.models.checkpoint import Checkpoint, load
from unembed.models.quantization import quantized, torchao_is_there
from unembed.report.pages import GALLERY, is_page
from unembed.runs.files import check_output
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

LAYERS = LayersOptions(max_positions=4_000, cloud_points=500)
"""Of the same documents, fewer: every depth is read under three lenses."""

OBJECTIVES = (("fisher", 0.6), ("margin", 0.15))
"""What the demo refines by, the first beside its control, with weights that gain about the same."""
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
TOPIC_POSITIONS, LISTING_POSITIONS = 5_000, 2_000
"""Of each: so many that no task has few samples beside the directions of its gradients."""


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
    """What the demo measured: the model, how its decisions form from block to block, what each
    rounding of it changes, by its name, what refining it by each objective does, how alike a dozen
    topics would move its head, and which of a dozen listings helps which.

    ``dropped`` says of each topic and listing that has too few samples why it is not in it.
    """

    folder: Path
    audit: Audit
    layers: Layers
    rounded: dict[str, Comparison]
    refined: dict[str, Refinement]
    topics: Alignments
    transfer: JudgedTransfer
    dropped: dict[str, str]

    @property
    def places(self) -> tuple[Path, ...]:
        """The folders of the runs, or those that hold them, in the order of the story."""
        refined = ["refined"] if self.refined else []
        return (
            self.folder,
            *(self.folder / x for x in ("layers", *self.rounded, *refined, "topics", "helped")),
        )


def run_demo(out: Path, *, progress: bool = False, command: str = "") -> DemoRuns:
    """Audit the bundled model on held-out documents, its layers, its bfloat16 and int8 versions.

    Then refine it by each of OBJECTIVES on a part of these documents, sketch a dozen topics of the
    library, and train its head on each of a dozen listings. All of it is done afresh: the audit is
    in ``out``, the layers in ``out/layers``, the comparison with each version in ``out/bfloat16``
    and ``out/int8``, the refinements in ``out/refined``, the signatures in ``out/signatures``, the
    topics' alignments in ``out/topics`` and what each listing gains the others in ``out/helped``.
    int8 is left out without the extra ``quant``, the refinements without ``train``, and a topic or
    listing with too few samples always. Raises UnembedError where ``out`` holds anything but an
    earlier demo.
    """
    check_folder(out)
    check_output(out / GALLERY, is_page)
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
    steps = Steps(5 + with_int8 + refines * len(OBJECTIVES))
    with steps("the bundled model"):
        before = audited_as(whole, out)
    with steps("its layers"):
        deep = layers(
            whole.model,
            text,
            LAYERS,
            out=out / "layers",
            name=NAME,
            command=command,
            progress=progress,
        )
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
    alignment, transfer, dropped = _topics(whole, out, steps, progress, command)
    return DemoRuns(out, before, deep, rounded, refined, alignment, transfer, dropped)


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
                control=name == OBJECTIVES[0][0],
                command=command,
                progress=progress,
            )
    return found


def _topics(
    checkpoint: Checkpoint, out: Path, steps: Steps, progress: bool, command: str
) -> tuple[Alignments, JudgedTransfer, dict[str, str]]:
    folder = out / "signatures"
    with steps("topics"):
        library, few = _signatures(
            checkpoint, topics(checkpoint), TOPIC_POSITIONS, folder, progress
        )
    alike = align(library, out=out / "topics", command=command)
    others = listings(checkpoint)
    with steps("listings"):
        made, also_few = _signatures(checkpoint, others, LISTING_POSITIONS, folder, progress)
        gained = measure_transfer(
            checkpoint,
            {one.name: others[one.name] for one in made},
            made,
            LISTING_POSITIONS,
            out=out / "helped",
            command=command,
            progress=progress,
        )
    return alike, gained, few | also_few


def _signatures(
    checkpoint: Checkpoint,
    topics: Mapping[str, Topic],
    positions: int,
    folder: Path,
    progress: bool,
) -> tuple[list[Signature], dict[str, str]]:
    """The signatures of the topics with enough samples, and why the others are left out."""
    options = SketchOptions(max_positions=positions, first_moment=True)
    made, few = [], {}
    with progress_bar("topics", "topic", len(topics), progress) as bar:
        for name, topic in topics.items():
            there = topic.text.tokens - topic.text.rows
            if there < positions:
                few[name] = f"{there:,} of {positions:,} positions"
            else:
                file = folder / f"{name.replace(' ', '-')}.safetensors"
                made.append(sketch(checkpoint, topic.text, options, out=file, task=name))
            bar.update()
    few |= {one.name: one.status for one in align(made).tasks if not one.status.startswith("ok")}
    return [one for one in made if one.name not in few], few
