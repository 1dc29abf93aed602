"""What ranks share, as a script that torchrun starts and as a function of one process."""

from __future__ import annotations

import sys
from pathlib import Path

import unembed
from unembed.decisions import AuditOptions
from unembed.decisions.comparison.drafts import DraftOptions, DraftReader
from unembed.decisions.comparison.live import audit_both
from unembed.decisions.comparison.mining import MiningReader
from unembed.decisions.ladder.variants import Variant
from unembed.decisions.layers.layers import layers
from unembed.decisions.layers.options import LayersOptions
from unembed.models import StatesOptions, StoredStates, states
from unembed.models.quantization import quantized
from unembed.runs.ranks import joined
from unembed.signatures.reading.sketcher import Sketcher, SketchOptions

READING = {"context": 24, "batch_tokens": 64, "part_positions": 60}
OPTIONS = AuditOptions(top_k=3, slices=2, **READING)
SKETCH = SketchOptions(m=256, **READING)


def measure_all(model: Path, text: Path, out: Path) -> None:
    """An audit with a sketch in the same pass, a sketch, a live comparison, a ladder, layers, and
    stored states with an audit of them.
    """
    before, after = unembed.load(model), quantized(unembed.load(model), "int8", head=True)
    corpus = unembed.Corpus.read(text, before.tokenizer)
    unembed.audit(
        before.model,
        corpus,
        AuditOptions(top_k=3, slices=2, repeat_batching=1, facets=True, **READING),
        out=out / "audit",
        second_reader=lambda reading: Sketcher.of(reading, SKETCH, before, "beside"),
    )
    unembed.sketch(before, corpus, SKETCH, out=out / "alone.safetensors")
    readers = (DraftReader.of(before, after, DraftOptions()), MiningReader(corpus))
    live = audit_both(before, after, corpus, OPTIONS, readers=readers, out=out / "live")
    unembed.compare(
        live.before,
        live.after,
        divergence=live.divergence_parts,
        readings=live.readings,
        out=out / "live",
        resamples=50,
    )
    base = Variant("base", str(model))
    unembed.ladder(base, [base.rounded("int4")], corpus, OPTIONS, out=out / "ladder", resamples=50)
    depths = LayersOptions(depths=(1,), lenses=("fitted",), cloud_points=30, top_k=2, **READING)
    layers(before.model, corpus, depths, out=out / "layers")
    states(before.model, corpus, out / "states", StatesOptions(**READING))
    stored = StoredStates.read(out / "states", before)
    options = AuditOptions(part_positions=READING["part_positions"], stored=stored)
    unembed.audit(before.model, stored.corpus, options, out=out / "stored")


if __name__ == "__main__":
    with joined():
        measure_all(*map(Path, sys.argv[1:]))
