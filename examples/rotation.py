"""How many decisions rounding flips in a model, in the same model rotated, and at what loss.

    python examples/rotation.py -o runs/rotation                       # the bundled model
    python examples/rotation.py ./my-model heldout.txt -o runs/mine    # yours, on a text of yours

For each rounding: the model as it is, rotated at random (two seeds) and by a rotation learned from
its weights (three). A flip is a position whose rounded model decides otherwise than the same model
unrounded. Ratios are over the model as it is, on the same documents and with seeds pooled, with
95 % intervals of a bootstrap over documents. Every arm is kept, so that a killed run goes on. With
``--random`` the model has its configuration's random weights, for a control.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unembed import Corpus, audit, load
from unembed.decisions import AuditOptions
from unembed.demo import bundled_model, documents
from unembed.models import quantized, rotate

RESAMPLES = 2000


@dataclass(frozen=True)
class Arm:
    """A way to rotate, with its seeds; ``steps`` None leaves the model as it is."""

    name: str
    steps: int | None
    seeds: tuple[int, ...] = (0,)


ARMS = (Arm("as it is", None), Arm("random", 0, (0, 1)), Arm("learned", 300, (0, 1, 2)))


def main() -> None:
    """Measure every arm, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", help="folder; default: the bundled model")
    parser.add_argument("text", nargs="?", help="file; default: the bundled model's held-out text")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--schemes", default="int8,int4")
    parser.add_argument("--positions", type=int, default=60_000)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--random", action="store_true")
    given = parser.parse_args()
    checkpoint = load(given.model or bundled_model(), device="cpu", dtype=given.dtype)
    if given.random:
        torch.manual_seed(0)
        drawn: Any = type(checkpoint.model)(checkpoint.model.config)
        checkpoint = replace(checkpoint, model=drawn.eval())
    if given.text:
        corpus = Corpus.read(given.text, checkpoint.tokenizer)
    else:
        held = sorted(documents("heldout"), key=lambda one: one.name)
        texts = [one.text[:20_000] for one in held]
        corpus = Corpus.from_texts(texts, checkpoint.tokenizer, names=[one.name for one in held])
    options = AuditOptions(
        top_k=2, context=given.context, max_positions=given.positions, spread=True
    )
    for scheme in given.schemes.split(","):
        kept = {}
        for arm in ARMS:
            kept[arm.name] = [
                measured(checkpoint, corpus, options, scheme, arm, seed, given.out)
                for seed in arm.seeds
            ]
        say(scheme, kept)


def measured(
    checkpoint: Any,
    corpus: Corpus,
    options: AuditOptions,
    scheme: str,
    arm: Arm,
    seed: int,
    out: Path,
) -> dict[str, Any]:
    """An arm's decisions and losses, unrounded and rounded, measured or as they were kept."""
    path = out / f"{scheme}-{arm.name.replace(' ', '-')}-{seed}.npz"
    if not path.exists():
        one, facts = checkpoint, {}
        if arm.steps is not None:
            made = rotate(checkpoint, scheme, seed=seed, steps=arm.steps)
            one = made.checkpoint
            facts = {"before": made.before, "after": made.after, "seconds": made.seconds}
        plain = audit(one.model, corpus, options)
        rounded = audit(quantized(one, scheme).model, corpus, options)
        out.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part.npz")
        np.savez(
            partial,
            doc=plain.column("doc"),
            top1=plain.column("top1"),
            rounded=rounded.column("top1"),
            nll=plain.column("nll"),
            rounded_nll=rounded.column("nll"),
            **facts,
        )
        partial.replace(path)
        print(f"{path.name} measured", flush=True)
    with np.load(path) as held:
        return dict(held)


def say(scheme: str, kept: dict[str, list[dict[str, Any]]]) -> None:
    """Print a scheme's rows."""
    base = kept["as it is"][0]
    doc = np.unique(base["doc"], return_inverse=True)[1]
    documents_ = int(doc.max()) + 1
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(documents_, [1 / documents_] * documents_, size=RESAMPLES)
    drawn = np.concatenate([np.ones((1, documents_)), drawn])

    def total(values: Any) -> Any:
        return drawn @ np.bincount(doc, weights=np.asarray(values, float), minlength=documents_)

    def interval(values: Any, form: str) -> str:
        low, high = np.quantile(values[1:], [0.025, 0.975])
        return f"{values[0]:{form}} [{low:{form}}, {high:{form}}]"

    n = total(np.ones(len(doc)))
    flips_before = total(base["top1"] != base["rounded"])
    print(f"\n{scheme}: {len(doc):,} decisions of {documents_} documents")
    print("arm | flips | ratio | same as unrotated | loss | loss added by rounding | max/rms | s")
    for name, runs in kept.items():
        flips = sum(total(one["top1"] != one["rounded"]) for one in runs) / len(runs)
        same = np.mean([(one["top1"] == base["top1"]).mean() for one in runs])
        added = sum(total(one["rounded_nll"] - one["nll"]) for one in runs) / len(runs) / n
        loss = np.mean([one["nll"].mean() for one in runs])
        each = ", ".join(f"{(one['top1'] != one['rounded']).mean():.3%}" for one in runs)
        peak = np.mean([float(one.get("after", np.nan)) for one in runs])
        took = np.mean([float(one.get("seconds", np.nan)) for one in runs])
        print(
            f"{name} | {interval(flips / n, '.3%')} ({each}) "
            f"| {interval(flips / flips_before, '.3f')} | {same:.4%} | {loss:.5f} "
            f"| {interval(added, '.5f')} | {peak:.3f} | {took:.0f}"
        )


if __name__ == "__main__":
    main()
