"""Whether an audit alone foretells what rounding logits or weights changes.

    python benchmarks/churn_beforehand.py
    python benchmarks/churn_beforehand.py --model MODEL --text TEXT --wiki WIKITEXT

Two texts on the bundled model, its own held-out documents and ``--wiki``, and two on a second
model, if there is one, ``--text`` and ``--wiki``.

Logits: what the audit of the model in bfloat16 computes from its table, beside the head that
really is in bfloat16. Weights: normal noise in the difference of two logits of standard deviation
``c * scale``, where the scale is one of what a table knows and c is the noise that explains the
churn of the *other* model's texts; printed is predicted over observed churn. ``shifted`` adds one
vector to all rows of the head, which changes no probability and no decision: a rule that it moves
measures what the model is free to choose.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import unembed.demo
from unembed.decisions.audit.audit import Audit, audit
from unembed.decisions.audit.run import AuditOptions
from unembed.demo.text import documents
from unembed.models.checkpoint import load
from unembed.models.quantization import quantized
from unembed.text.corpus import Corpus
from unembed.training.robustness.logit_noise import noise_flips

BUNDLED = Path(unembed.demo.__file__).parent / "model"
SHARED = Path(__file__).parents[2] / "shared"
SCHEMES = ("bfloat16", "int8", "int4")
SHIFT = -20.0
"""Logits that the shifted head adds to all of a position's, on average."""


@dataclass(frozen=True)
class Measured:
    """One text under one model: what its audit knows, and what each rounding really changed."""

    model: str
    text: str
    gaps: np.ndarray
    scales: dict[str, float]
    churn: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=SHARED / "models" / "stories260K")
    parser.add_argument("--text", type=Path, default=SHARED / "models" / "stories.txt")
    parser.add_argument("--wiki", type=Path, default=SHARED / "corpora" / "wikitext2-valid.txt")
    parser.add_argument("--positions", type=int, default=40_000)
    given = parser.parse_args()
    options = AuditOptions(max_positions=given.positions)

    def held_out(tokenizer: object) -> Corpus:
        found = list(documents("heldout"))
        names = [one.name for one in found]
        return Corpus.from_texts([one.text for one in found], tokenizer, names=names)

    def wiki(tokenizer: object) -> Corpus:
        return Corpus.read(given.wiki, tokenizer, document="^ = [^=]")

    own: dict[str, Callable[[object], Corpus]] = {"own": held_out}
    places = [(BUNDLED, own)]
    if given.model.is_dir():
        places.append((given.model, {"own": lambda tokenizer: Corpus.read(given.text, tokenizer)}))
    print("Logits rounded to bfloat16, in percent: within a step, tied, changed (from the table),")
    print("then tied and changed by the bfloat16 head, and float32 against bfloat16 throughout")
    found = [
        measured(model, text, read, options)
        for model, texts in places
        for text, read in (texts | ({"wiki": wiki} if given.wiki.is_file() else {})).items()
    ]
    print("\nPredicted over observed churn, c from the other model's texts")
    print("columns:", ", ".join(f"{one.model} {one.text}" for one in found))
    for scheme in SCHEMES:
        print(scheme, ", ".join(f"{100 * one.churn[scheme]:.2f} %" for one in found))
        for name in found[0].scales:
            ratios = [ratio(one, found, scheme, name) for one in found]
            print(f"  {name:28}", *(f"{value:6.2f}" for value in ratios))


def measured(
    model: Path, text: str, read: Callable[[object], Corpus], options: AuditOptions
) -> Measured:
    """Audit a text under a model and what it is rounded to."""
    whole = load(model, dtype="float32")
    corpus = read(whole.tokenizer)
    base = audit(whole.model, corpus, options)
    top1, logits = base.column("top1"), candidates(base)
    churn = {}
    for scheme in SCHEMES:
        if scheme == "bfloat16":
            half = load(model, dtype="bfloat16")
            native = AuditOptions(max_positions=options.max_positions, native_head=True)
            after = audit(half.model, corpus, native)
            say_logits(f"{model.name} {text}", base, after)
        else:
            after = audit(quantized(load(model, dtype="float32"), scheme).model, corpus, options)
        churn[scheme] = float((after.column("top1") != top1).mean())
    logsumexp, vocab = base.column("logsumexp"), base.provenance.head_shape[0]
    above = logits[:, 0] - logsumexp + np.log(vocab)
    near = 0.25
    scales = {
        "none": 1.0,
        "median margin": float(np.median(base.column("margin"))),
        "spread of margins": float(np.std(base.column("margin"))),
        "first to fifth logit": float(np.median(logits[:, 0] - logits[:, 4])),
        "1 / density at margin 0": near / float((base.column("margin") < near).mean()),
        "1 / mean entropy": 1 / float(base.column("entropy").mean()),
        "median hidden norm": float(np.median(base.column("hidden_norm"))),
        "margin / scale-free margin": float(
            np.median(base.column("margin") / base.column("relative_distance"))
        ),
        "top logit above uniform": float(np.median(above)),
        "top logit": float(np.median(np.abs(logits[:, 0]))),
        "top logit, shifted": float(np.median(np.abs(logits[:, 0] + SHIFT))),
    }
    return Measured(model.name, text, logits[:, :1] - logits[:, 1:], scales, churn)


def say_logits(name: str, base: Audit, half: Audit) -> None:
    """The figures of the table beside what the two heads, and the two models, decide."""
    told, real = half.summary.bfloat16, half.summary.native
    assert told is not None
    assert real is not None
    through = (half.column("native_top1") != base.column("top1")).mean()
    shares = (told.within_step, told.tied, told.changed, real.tied_top2, real.changed_top1)
    print(f"  {name:24}", *(f"{100 * float(one):7.3f}" for one in shares), f"{100 * through:7.3f}")


def candidates(one: Audit) -> np.ndarray:
    """The logits that the audit keeps, largest first."""
    return np.stack(one.read(["topk_logits"])["topk_logits"].to_numpy()).astype(np.float64)


def ratio(one: Measured, found: list[Measured], scheme: str, name: str) -> float:
    """Predicted over observed churn, with the constant of the other model."""
    others = [each for each in found if each.model != one.model]
    if not others:
        return float("nan")
    logs = [np.log(noise_of(each, each.churn[scheme]) / each.scales[name]) for each in others]
    noise = float(np.exp(np.mean(logs))) * one.scales[name]
    return flip_share(one, noise) / one.churn[scheme]


def flip_share(one: Measured, noise: float) -> float:
    """The share of flips under normal noise of this deviation in the difference of two logits."""
    logits = -torch.from_numpy(np.pad(one.gaps, ((0, 0), (1, 0))))
    chance, _ = noise_flips(logits, torch.zeros(len(logits)), noise / np.sqrt(2))
    return float(chance.mean())


def noise_of(one: Measured, churn: float) -> float:
    """The noise whose flips are so many, by bisection."""
    low, high = 1e-4, 10.0
    for _ in range(30):
        middle = float(np.sqrt(low * high))
        fewer = flip_share(one, middle) < churn
        low, high = (middle, high) if fewer else (low, middle)
    return low


if __name__ == "__main__":
    main()
