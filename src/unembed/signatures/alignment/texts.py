"""Align texts straight away: exactly where they are short, by sketches where they are long."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from unembed.models.checkpoint import Checkpoint
from unembed.models.mode import restores_mode
from unembed.models.model_pass import ModelPass
from unembed.runs.phases import Phases, current_phases
from unembed.runs.progress import Steps, progress_bar
from unembed.runs.provenance import digest_of
from unembed.signatures.alignment.align import align
from unembed.signatures.alignment.exact import exact_alignments
from unembed.signatures.alignment.records import Alignments
from unembed.signatures.reading.run import sketch
from unembed.signatures.reading.sketcher import SketchOptions
from unembed.signatures.samples import Samples
from unembed.text.batches import Batch
from unembed.text.corpus import Corpus

EXACT_SAMPLES = 1_000
"""Positions of all texts together up to which Gram matrices are as quick as sketches."""


@restores_mode
def align_texts(
    checkpoint: Checkpoint,
    texts: Mapping[str, Corpus],
    options: SketchOptions | None = None,
    *,
    exact: bool | None = None,
    debias: bool = True,
    out: str | Path | None = None,
    command: str = "",
    progress: bool = False,
) -> Alignments:
    """How alike the moves are that fine-tuning on each of some texts, by name, would make.

    ``exact`` None takes Gram matrices up to EXACT_SAMPLES positions in all, and sketches above.
    ``out`` and ``command`` as in ``align``.
    Raises UnembedError as ``sketch``, ``align`` and ``exact_alignments`` do. Source: theory §8-10.
    """
    options = options or SketchOptions()
    if out is not None:
        key = {
            "model": digest_of(checkpoint.model),
            "texts": [text.digest for text in texts.values()],
            "options": vars(options),
            "exact": exact,
            "debias": debias,
        }
        return Alignments.keep(
            out,
            key,
            lambda _: align_texts(
                checkpoint, texts, options, exact=exact, debias=debias, progress=progress
            ).to_json(),
            facts=(("Model", checkpoint.name), *((name, t.rules) for name, t in texts.items())),
            command=command,
        )
    checkpoint.model.eval()
    passes = {
        name: ModelPass.of(checkpoint.model, text, options, checkpoint.name)
        for name, text in texts.items()
    }
    if exact is None:
        exact = sum(one.windows.positions for one in passes.values()) <= EXACT_SAMPLES
    steps = Steps(len(texts), alike=True)
    if not exact:
        signatures = []
        for name, text in texts.items():
            with steps(f"sketch of {name}"):
                signatures.append(sketch(checkpoint, text, options, task=name, progress=progress))
        return align(signatures, debias=debias)
    samples = []
    for name, one in passes.items():
        with steps(name):
            samples.append(samples_of(one, name, progress=progress))
    head = next(iter(passes.values())).head
    return exact_alignments(samples, head, fisher=options.fisher, unit=options.unit, debias=debias)


def samples_of(reading: ModelPass, name: str, *, progress: bool = False) -> Samples:
    """Every position of a pass, with its hidden state: positions x dim numbers."""
    hashes = reading.windows.corpus.document_hashes()

    def work(team: tuple[nn.Module, ...], batch: Batch, phases: Phases) -> Samples:
        hidden = reading.hidden(team[0], batch, phases).float().cpu()
        return Samples(name, hidden, batch.targets, hashes[batch.doc], batch.window)

    with progress_bar("read", "tok", reading.windows.positions, progress) as bar:
        found = [
            one for _part, some in reading.results(work, bar, current_phases()) for one in some
        ]
    before = np.cumsum([0, *(1 + int(one.sequence.max()) for one in found)])
    return Samples(
        name,
        torch.cat([one.hidden for one in found]),
        torch.cat([one.targets for one in found]),
        np.concatenate([one.document for one in found]),
        np.concatenate([one.sequence + n for one, n in zip(found, before, strict=False)]),
    )
