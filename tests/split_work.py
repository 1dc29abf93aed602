"""What a team of processes measures of a model that it holds together, as a script for torchrun."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import unembed
from unembed.decisions import AuditOptions
from unembed.decisions.comparison.live import audit_both
from unembed.decisions.layers.layers import layers
from unembed.decisions.layers.options import LayersOptions
from unembed.models.checkpoint import token_ids
from unembed.runs.provenance import digest_of
from unembed.runs.ranks import current_ranks, joined, tensor_parallel
from unembed.signatures.reading.sketcher import Sketcher, SketchOptions

READING = {"context": 24, "batch_tokens": 64, "part_positions": 60}
OPTIONS = AuditOptions(top_k=3, slices=2, facets=True, repeat_batching=1, **READING)


def measure(model: Path, other: Path, text: Path, out: Path) -> None:
    """An audit with a sketch in the same pass, layers, and what a head and its model are called."""
    one, two = unembed.load(model), unembed.load(other)
    corpus = unembed.Corpus.read(text, one.tokenizer)
    unembed.audit(
        one.model,
        corpus,
        OPTIONS,
        out=out / "audit",
        second_reader=lambda read: Sketcher.of(read, SketchOptions(m=256), one, "beside"),
    )
    depths = LayersOptions(depths=(1,), lenses=("normed",), cloud_points=30, top_k=2, **READING)
    layers(one.model, corpus, depths, out=out / "layers")
    audit_both(one, two, corpus, AuditOptions(slices=0, **READING), out=out / "live")
    facts = {}
    for made in (one, two):
        head = unembed.Head.of(made.model, token_ids(made.tokenizer))
        kind = type(made.model).__name__
        facts[kind] = {
            "head": head.digest,
            "model": digest_of(made.model),
            "recipe": head.recipe,
            "tied": head.tied,
            "shape": [head.vocab, head.dim, head.tokens],
        }
        held = 1 if head.share is None else head.share.peers.count
        assert held == current_ranks().tensor, held
    if current_ranks().first:
        (out / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined(), tensor_parallel(2):
        measure(*map(Path, sys.argv[1:]))
