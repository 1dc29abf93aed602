"""Grids of refined models whose logits are drawn, not trained."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from unembed import Audit
from unembed.runs.provenance import Provenance, TextFacts
from unembed.text.vocabulary import Vocabulary
from unembed.training.doses.table import DosePoint
from unembed.training.robustness.read_outs import Disturbance, Noise, ReadOuts

WORDS = (" the", ".", ",", " Paris", "ing", " of", "7", " wide", "(", " model", " to", " an")
POSITIONS, DOCUMENTS = 420, 7
WIDER = {"fisher": 1.1, "margin": 1.3, "entropy": 1.2}
NOISIER = {"fisher": 0.3, "margin": 0.9, "entropy": 0.25}


def audit_of(
    logits: np.ndarray, target: np.ndarray, doc: np.ndarray, name: str, norm: float = 1.0
) -> Audit:
    """An audit of these logits, whose hidden states are ``norm`` times as long as the start's."""
    order = np.argsort(-logits, axis=1, kind="stable")
    rows = np.arange(len(logits))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    margin = logits[rows, order[:, 0]] - logits[rows, order[:, 1]]
    starts = np.flatnonzero(np.diff(doc, prepend=-1))
    numbers = {
        "margin": margin,
        "relative_distance": margin / (50 * norm),
        "nll": -np.log(p[rows, target]),
        "entropy": -(p * np.log(p)).sum(axis=1),
        "confidence": p.max(axis=1),
        "logsumexp": np.log(np.exp(logits).sum(axis=1)),
        "sum_p2": (p**2).sum(axis=1),
    }
    table = pa.table(
        {
            "doc": pa.array(doc, pa.int32()),
            "pos": pa.array(
                rows - starts[np.searchsorted(starts, rows, side="right") - 1], "int32"
            ),
            "target": pa.array(target, pa.int32()),
            "top1": pa.array(order[:, 0], pa.int32()),
            "top2": pa.array(order[:, 1], pa.int32()),
            "word_start": pa.array(rows % 2 == 0),
            **{key: pa.array(column, pa.float32()) for key, column in numbers.items()},
        }
    )
    documents = len(np.unique(doc))
    text = TextFacts(
        corpus="synthetic",
        digest=f"{documents} documents",
        tokenizer="words (12)",
        documents=documents,
        rows=documents,
        tokens=len(doc) + documents,
        blank_rows=0,
        short_rows=0,
        context=64,
        overflow="split",
        positions=len(doc),
    )
    provenance = Provenance(
        **{"kind": "audit", "schema": 1, "model": name, "architecture": "Synthetic"},
        **{"model_digest": name, "model_dtype": "float32", "device": "cpu", "head_recipe": "w"},
        **{"head_shape": (12, 4), "head_tokens": 12, "head_tied": False, "head_digest": "h"},
        **{"row_norm_cv": 0.1, "product_route": "plain", "product_error": 1e-7},
        **{"epilogue": "eager", "text": text, "batch_tokens": 64, "part_positions": 64},
        **{
            "options": {"top_k": 0, "native_head": False, "body_product": "plain"},
            "versions": {},
            "cpu": "any",
            "threads": 1,
        },
    )
    counts = np.bincount(doc, minlength=documents)
    listed = pa.table(
        {
            "name": [f"document {i}" for i in range(documents)],
            "first_token": [0] * documents,
            "positions": counts.tolist(),
        }
    )
    return Audit(provenance, Vocabulary(dict(enumerate(WORDS))), listed, in_memory=table)


class Grid:
    """A starting model and refined ones: wider margins, and noise that grows with the weight."""

    def __init__(
        self, n: int = POSITIONS, documents: int = DOCUMENTS, weights: Sequence[float] = (0.3, 0.6)
    ) -> None:
        rng = np.random.default_rng(3)
        self.doc = np.sort(rng.integers(documents, size=n))
        self.doc[:documents] = np.arange(documents)
        self.doc.sort()
        self.target = np.minimum(rng.geometric(0.3, n) - 1, len(WORDS) - 1)
        self.logits = rng.normal(0, 1.0, (n, len(WORDS)))
        self.logits[np.arange(n), self.target] += rng.choice([0.5, 3.0], n)
        self.weights = weights
        self.start = self.audit(self.logits, "start")

    def audit(self, logits: np.ndarray, name: str, norm: float = 1.0) -> Audit:
        return audit_of(logits, self.target, self.doc, name, norm)

    def point(self, objective: str, weight: float, seed: int) -> DosePoint:
        noise = np.random.default_rng(seed).normal(0, 1, self.logits.shape)
        size = 0.25 + NOISIER.get(objective, 0) * weight
        wider = 1.02 + WIDER.get(objective, 0) * weight + 0.01 * seed
        logits = wider * (self.logits + size * noise)
        found = self.audit(logits, f"{objective}{weight}{seed}", 1 + 0.2 * weight)
        return DosePoint(objective, weight, seed, found)

    def temperature(self, factor: float) -> DosePoint:
        found = self.audit(factor * self.logits, f"times {factor}", factor)
        return DosePoint("temperature", factor, 0, found, matched_to="fisher 0.6")

    def points(
        self, seeds: Sequence[int] = (0, 1, 2), objectives: Sequence[str] = tuple(WIDER)
    ) -> list[DosePoint]:
        grid = itertools.product(objectives, self.weights)
        doses = [("none", 0.0), *grid]
        found = [self.point(objective, weight, s) for objective, weight in doses for s in seeds]
        return [*found, *(self.temperature(factor) for factor in (1.2, 2.0))]


def disturbed(audit: Audit, digest: str, rate: float, rows: int = 300) -> ReadOuts:
    """Read-outs at the first rows of an audit."""
    rng = np.random.default_rng(len(digest))
    doc, pos = (audit.column(name)[:rows] for name in ("doc", "pos"))
    flipped = rng.random(rows) < rate
    provenance = replace(audit.provenance, model_digest=digest)
    chance = np.full(rows, rate / 2, dtype=np.float32)
    noise = (Noise(0.5, chance, np.zeros(rows, dtype=np.float32)),)
    return ReadOuts(provenance, doc, pos, {"int8": Disturbance(flipped, None, None)}, noise, {})
