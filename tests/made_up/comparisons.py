"""A comparison of two models whose logits are drawn, with tokens that a page must escape."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa

from made_up.corpora import corpus_of_rows
from unembed.decisions.comparison.compare import Comparison
from unembed.decisions.comparison.divergences import DivergenceColumns
from unembed.decisions.comparison.drafts import DraftOptions, DraftReader, DraftSummary
from unembed.decisions.comparison.mining import MinedSummary, MiningReader
from unembed.decisions.comparison.pairing import PairedPositions, Side
from unembed.decisions.comparison.summary import Groups, bands_of, summarise_pair
from unembed.decisions.tokens import classes_of, frequency_buckets
from unembed.head.sampling import Sampling
from unembed.text.vocabulary import Vocabulary

NASTY = (
    "<script>alert(1)</script>",
    "</script>",
    "<!--",
    "&amp;",
    "<img src=x onerror=alert(1)>",
    "\u202eabc",
    "\u2066x\u2069",
    "zero\u200bwidth",
    "\x00\x1b[31m",
    "\ud800",
    "{{ 7 * 7 }}",
    "__proto__",
    "\n",
    "\t",
    '"\\',
)

PLAIN = (" the", " of", " and", "7", ".", ",", " Paris", "ing", "ed", " model", " to", " wide")

WORDS = Vocabulary(dict(enumerate((*NASTY, *PLAIN))))


def side(logits: np.ndarray, target: np.ndarray) -> Side:
    order = np.argsort(-logits, axis=1, kind="stable")
    rows = np.arange(len(logits))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    best, second = (logits[rows, order[:, j]] for j in (0, 1))
    columns = {
        "margin": best - second,
        "relative_distance": (best - second) / 90,
        "nll": -np.log(p[rows, target]),
        "entropy": -(p * np.log(p)).sum(axis=1),
        "confidence": p.max(axis=1),
        "sum_p2": (p**2).sum(axis=1),
    }
    return Side(
        order[:, 0], order[:, 1], **{name: c.astype(np.float32) for name, c in columns.items()}
    )


def make_comparison(
    noise: float = 0.6, n: int = 1500, apart: DivergenceColumns | None = None
) -> Comparison:
    """A synthetic pair of heads over 27 tokens: the one after has noisy logits."""
    rng = np.random.default_rng(3)
    vocab = len(WORDS.texts)
    doc = np.sort(rng.integers(12, size=n)).astype(np.int32)
    starts = np.flatnonzero(np.diff(doc, prepend=-1))
    pos = (np.arange(n) - np.repeat(starts, np.diff([*starts, n]))).astype(np.int32)
    often = 1.0 / (1 + np.arange(vocab)[::-1]) ** 1.2
    target = rng.choice(vocab, size=n, p=often / often.sum())
    target[: len(NASTY)] = np.arange(len(NASTY))
    logits = rng.normal(0, 1.5, (n, vocab))
    logits[np.arange(n), target] += 2.5
    after = logits + noise * rng.normal(0, 1, logits.shape)
    pair = PairedPositions(
        row=np.arange(n),
        doc=doc,
        pos=pos,
        target=target,
        word_start=rng.random(n) < 0.5,
        before=side(logits, target),
        after=side(after, target),
        vocabulary=WORDS,
        nonfinite=0,
        notes=("the model's dtype differs: float32 before, bfloat16\u202e after",),
    )
    classes = classes_of([WORDS[i] for i in range(vocab)])
    groups = Groups(
        bands_of(pair.before.margin),
        bands_of(pair.after.margin),
        frequency_buckets(target).astype(np.int64),
        classes[target].astype(np.int64),
        pair.word_start.astype(np.int64),
    )
    columns = {"doc": doc, "pos": pos, "target": target}
    for name, one in (("before", pair.before), ("after", pair.after)):
        columns |= {f"{name}_{key}": column for key, column in asdict(one).items()}
    summary = summarise_pair(pair, groups, divergence=apart, resamples=100)
    return Comparison(
        summary,
        {},
        pair.vocabulary,
        pa.table({"name": [f"document {i}" for i in range(12)], "first_token": [0] * 12}),
        in_memory=pa.table(columns),
    )


def make_live_comparison() -> Comparison:
    """Both models run together: divergences that vary as those of a rounding do."""
    rng = np.random.default_rng(8)
    kl = np.exp(rng.normal(-6, 1.5, 1500)).astype(np.float32)
    columns = DivergenceColumns(
        kl,
        (kl * rng.uniform(0.8, 1.2, kl.size)).astype(np.float32),
        np.minimum(1, np.sqrt(kl / 2)).astype(np.float32),
        rng.integers(5, 9, kl.size).astype(np.float32) / 8,
    )
    made = make_comparison(apart=columns)
    return replace(made, summary=replace(made.summary, drafts=make_drafts(), mined=make_mined()))


def make_mined(taught: float = 3.0, documents: int = 90, n: int = 40) -> MinedSummary:
    """A change that taught one token of twelve and made another as rare, in texts of ``n`` tokens.

    The first token is expected ``taught`` times as often as before, the second as rarely.
    """
    rng = np.random.default_rng(6)
    vocab, rows = 12, documents * n
    before = rng.dirichlet(np.full(vocab, 3.0), rows)
    after = before * np.exp(rng.normal(0, 0.05, (rows, vocab)))
    after[:, 0] *= taught
    after[:, 1] /= taught
    after /= after.sum(axis=1, keepdims=True)
    change, places = after - before, np.arange(rows)[:, None]
    columns: dict[str, Any] = {
        "doc": np.repeat(np.arange(documents, dtype=np.int32), n),
        "pos": np.tile(np.arange(n, dtype=np.int32), documents),
        "target": rng.integers(0, vocab, rows).astype(np.int32),
        "moved": (np.abs(change).sum(axis=1) / 2).astype(np.float32),
        "mass": np.full(rows, None, dtype=object),
    }
    for side, order in (("risen", np.argsort(-change)), ("fallen", np.argsort(change))):
        ids = order[:, :2]
        columns[f"{side}_ids"] = ids.astype(np.int32)
        columns[f"{side}_before"] = before[places, ids].astype(np.float32)
        columns[f"{side}_after"] = after[places, ids].astype(np.float32)
    for doc in range(documents):
        span = slice(doc * n, (doc + 1) * n)
        columns["mass"][doc * n] = (np.arange(vocab), before[span].sum(0), after[span].sum(0), 0.0)
    rows_of = [[token % vocab for token in range(n + 1)] for _ in range(documents)]
    reader = MiningReader(corpus_of_rows(rows_of, list(range(documents)), None))
    object.__setattr__(reader, "_vocabulary", Vocabulary(dict(enumerate("abcdefghijkl"))))
    return reader.summary([reader.table(columns)], resamples=200, seed=0)


def make_drafts(level: float = 0.8, **given: Any) -> DraftSummary:
    """A draft that is accepted so often, in ten windows of each of 30 documents."""
    rng = np.random.default_rng(8)
    n = 30 * 200
    chances = np.clip(rng.normal(level, 0.1, (2, n)), 0, 1).astype(np.float32)
    columns = {
        "doc": np.repeat(np.arange(30, dtype=np.int32), 200),
        "pos": np.tile(np.arange(200, dtype=np.int32), 30),
        "window_start": np.arange(n) % 20 == 0,
        "greedy": rng.random(n) < level,
        "T = 1": chances[0],
        "T = 0.8, top-p 0.95": chances[1],
    }
    options = DraftOptions((Sampling(0.8, top_p=0.95),), **given)
    reader = DraftReader(options, (4_000_000, 1_000_000))
    return reader.summary([reader.table(columns)], resamples=200, seed=0)
