"""What ``unembed demo`` does: the bundled model, audited on text of the running interpreter."""

from __future__ import annotations

import hashlib
import shutil
from importlib import resources
from pathlib import Path

from unembed.cells.audit import Audit, audit
from unembed.cells.run import AuditOptions
from unembed.corpus import Corpus
from unembed.demo.text import documents
from unembed.errors import UnembedError
from unembed.models import Checkpoint, load
from unembed.store import check_folder, holds_finished_run, read_manifest

NAME = "the bundled model"
POSITIONS = 100_000
CHARACTERS = 6_000
"""Of each document, so that the sample holds many of them: intervals cluster by document."""


def bundled_model() -> Path:
    """The folder of the bundled checkpoint."""
    return Path(str(resources.files("unembed.demo") / "model"))


def heldout_corpus(checkpoint: Checkpoint) -> Corpus:
    """The beginnings of held-out documents of the running interpreter's library.

    Their order is fixed by their names' hashes and mixes topics, docstrings and source, so that the
    first so many tokens are a sample.
    """
    found = sorted(documents("heldout"), key=lambda d: hashlib.sha256(d.name.encode()).hexdigest())
    return Corpus.from_texts(
        (d.text[:CHARACTERS] for d in found), checkpoint.tokenizer, names=[d.name for d in found]
    )


def run_demo(out: Path, *, progress: bool = False, command: str = "") -> Audit:
    """Audit the bundled model on held-out documents, afresh each time.

    Raises UnembedError where ``out`` holds anything but an earlier demo.
    """
    check_folder(out)
    if holds_finished_run(out):
        audited = read_manifest(out).provenance["model"]
        if audited != NAME:
            raise UnembedError(f"{out} holds an audit of {audited}: give another -o")
        shutil.rmtree(out)
    checkpoint = load(bundled_model())
    return audit(
        checkpoint.model,
        heldout_corpus(checkpoint),
        AuditOptions(max_positions=POSITIONS),
        out=out,
        name=NAME,
        command=command,
        progress=progress,
    )
