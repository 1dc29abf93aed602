"""Which topic helps which: gains on held-out text, measured, and what scores predicted of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from unembed.demo.gains import HeadTraining, head_gains
from unembed.demo.topics import Topic
from unembed.head.head import Head
from unembed.models.checkpoint import Checkpoint
from unembed.models.model_pass import ModelPass, ReadingOptions
from unembed.selection.baselines import score
from unembed.selection.transfer.judged import JudgedTransfer, judge_transfer
from unembed.selection.transfer.records import Scores, Transfer
from unembed.signatures.alignment.align import align
from unembed.signatures.alignment.texts import samples_of
from unembed.signatures.samples import Samples
from unembed.signatures.signature import Signature
from unembed.text.corpus import Corpus

TRAINING = HeadTraining(20, 512, 5.0, "gd")
ALIGNMENTS = {
    "joint": "joint",
    "activation": "activation",
    "error": "error",
    "gradient": "first_moment",
}
TOKEN_BASELINES = ("unigram", "unigram_loss", "random")
"""Baselines that read tokens alone."""


def measure_transfer(
    checkpoint: Checkpoint,
    topics: Mapping[str, Topic],
    signatures: Sequence[Signature],
    positions: int,
    *,
    out: Path,
    command: str = "",
    progress: bool = False,
) -> JudgedTransfer:
    """Train the head on each topic's text, and see which scores had found the best ones before.

    ``signatures`` are those of the topics' texts, in their order. The head alone is trained, a copy
    for each topic, on as many positions of it; losses are those of all topics' held-out text.
    """
    texts = {name: topic.text for name, topic in topics.items()}
    train, head = _read(checkpoint, texts, positions)
    others = {name: topic.heldout for name, topic in topics.items()}
    heldout, _ = _read(checkpoint, others, positions)
    gains = head_gains(train, heldout, head, TRAINING, progress=progress)
    alignments = align(signatures)
    values = {}
    for name, kind in ALIGNMENTS.items():
        pairs = alignments.pairs(kind)
        if pairs is not None:
            values[name] = pairs.value
    for name in TOKEN_BASELINES:
        values[name] = np.array(
            [[score(name, target, source, head) for target in train] for source in train]
        )
    transfer = Transfer(
        "listings that the model has not read",
        tuple(topics),
        f"the head alone, {TRAINING.words}",
        gains[None],
        tuple(Scores(name, each[None]) for name, each in values.items()),
    )
    return judge_transfer(transfer, out=out, facts=(("Model", checkpoint.name),), command=command)


def _read(
    checkpoint: Checkpoint, texts: Mapping[str, Corpus], positions: int
) -> tuple[list[Samples], Head]:
    """The samples of some texts, and the head that reads them."""
    options = ReadingOptions(max_positions=positions, spread=True)
    passes = {
        name: ModelPass.of(checkpoint.model, text, options, checkpoint.name)
        for name, text in texts.items()
    }
    return [samples_of(one, name) for name, one in passes.items()], next(iter(passes.values())).head
