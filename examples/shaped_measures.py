"""What ``shaped_training.py`` measures of a model, and what it says of all of them.

Every figure is of the same held-out positions, so that models are paired position by position. An
interval holds documents, which are resampled, and seeds, by Student's t of their differences.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unembed import Checkpoint, Corpus, audit, layers, load
from unembed.decisions import AuditOptions, LayersOptions
from unembed.models import quantized

SCHEMES = ("int8", "int4")
FACTORS = tuple(float(f) for f in np.geomspace(0.5, 2.0, 9))
RESAMPLES = 400
TRAINED = "trained"
COLUMNS = ("doc", "target", "top1", "margin", "relative_distance", "nll")


# ---------------------------------------------------------------------------------------------
# One model


@dataclass(frozen=True)
class Sample:
    """How many positions are measured, and at how many the cloud's shape is."""

    context: int
    positions: int = 20_000
    tempered: int = 5_000
    cloud: int = 1_500


def measure(folder: Path, text: Corpus, sample: Sample, *, whole: bool) -> None:
    """Write ``measures.npz`` and ``cloud.json`` beside a model, unless they are there.

    ``whole``: with the loss under temperatures, and the cloud at every depth and not the last.
    """
    file, shape = folder / "measures.npz", folder / "cloud.json"
    checkpoint = load(folder / "model")
    if not shape.exists():
        blocks = checkpoint.model.config.num_hidden_layers
        options = LayersOptions(
            context=sample.context,
            lenses=("normed",),
            depths=None if whole else (blocks,),
            max_positions=2 * sample.cloud,
            cloud_points=sample.cloud,
        )
        rows = layers(checkpoint.model, text, options).summary.cloud.rows
        _write(shape, json.dumps([_plain(row) for row in rows], indent=1).encode())
    if not file.exists():
        found = dict(_columns(checkpoint, text, sample, whole))
        temporary = file.with_suffix(".part")
        with temporary.open("wb") as stream:
            np.savez(stream, **found)
        temporary.rename(file)


def _columns(
    checkpoint: Checkpoint, text: Corpus, sample: Sample, whole: bool
) -> Iterator[tuple[str, np.ndarray]]:
    options = AuditOptions(
        top_k=0, context=sample.context, max_positions=sample.positions, spread=True
    )
    found = audit(checkpoint.model, text, options)
    for name in COLUMNS:
        yield name, found.column(name)
    for scheme in SCHEMES:
        rounded = audit(quantized(checkpoint, scheme).model, text, options)
        yield f"{scheme} top1", rounded.column("top1")
        yield f"{scheme} nll", rounded.column("nll")
    if whole:
        fewer = replace(options, max_positions=sample.tempered)
        scaled = [audit(checkpoint.model, text, replace(fewer, logit_scale=f)) for f in FACTORS]
        yield "tempered doc", scaled[0].column("doc")
        yield "tempered", np.stack([one.column("nll") for one in scaled])


def _plain(row: Any) -> dict[str, Any]:
    """A depth's cloud in four numbers, each with its interval over documents."""
    named = {
        "effective_rank": row.spectrum.effective_rank,
        "mean_cosine": row.spectrum.mean_cosine,
        "two_nn": row.geometry.dimensions.two_nn,
        "levina_bickel": row.geometry.dimensions.levina_bickel,
    }
    return {"depth": row.depth} | {k: [v.value, v.low, v.high] for k, v in named.items()}


def _write(file: Path, content: bytes) -> None:
    temporary = file.with_suffix(".part")
    temporary.write_bytes(content)
    temporary.rename(file)


# ---------------------------------------------------------------------------------------------
# All of them


def tables(out: Path, arms: Sequence[str], refinements: Sequence[str]) -> str:
    """What there is."""
    return ""
