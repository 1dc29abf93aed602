"""Whether margins, and what a change did to other documents, foretell its flips, on several models.

    python benchmarks/flip_prediction.py
    python benchmarks/flip_prediction.py --model MODEL --text TEXT --wiki TRAIN READ --third FOLDER
    python benchmarks/flip_prediction.py --coverage

Three models: the bundled one on its held-out documents, ``--model`` on ``--text``, and a GPT-NeoX
of 1.9 M parameters that is trained here for some minutes on the first of ``--wiki`` and read on the
second (``--third`` keeps it, or is where it lies). Each is compared with itself in bfloat16, with
int8 and int4 weights, with normal noise of 2 and 8 % of each weight's standard deviation, and after
training of 10 steps on the first of ``--wiki``.

Printed are the churn observed and predicted, whether the first lies in the interval of the second,
and by what factor the worst bin of the curve with 200 positions or more is off. Below, the same
chances with another second grouping beside the margin, and without the common factor: the
root mean square, and the largest, of how far the prediction is off relative to the observed, where
more than 2 % flipped: of fewer, chance is most of it.

``--coverage`` draws documents from a made-up world instead, whose logits and noise have a size of
their own in each document and whose noise grows with the largest logit, and prints how often the
interval of the prediction holds the churn of the world, and what else the intervals hold.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

import unembed.demo
from unembed.decisions.audit.audit import Audit, audit
from unembed.decisions.audit.finite_rows import FiniteRows
from unembed.decisions.audit.run import AuditOptions
from unembed.decisions.comparison.compare import compare
from unembed.decisions.comparison.flip_chances import Leads, LikeChanges, lead_parts
from unembed.decisions.comparison.pairing import BOTH_FINITE, PairedAudits
from unembed.decisions.comparison.prediction import DOCUMENT_GROUPS, read_prediction
from unembed.demo.text import documents
from unembed.models.checkpoint import load
from unembed.models.quantization import quantized
from unembed.stats.forms import full, points, share
from unembed.text.corpus import Corpus

BUNDLED = Path(unembed.demo.__file__).parent / "model"
SHARED = Path(__file__).parents[2] / "shared"
CHANGES = ("bfloat16", "int8", "int4", "noise 2 %", "noise 8 %", "training")
OTHERWISE = ("margin alone", "entropy", "hidden norm", "last gap", "entropy, no factor")
HEADER = "| model | change | observed | predicted | observed − predicted | inside | worst bin |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=SHARED / "models" / "stories260K")
    parser.add_argument("--text", type=Path, default=SHARED / "models" / "stories.txt")
    wiki = [SHARED / "corpora" / f"wikitext2-{part}.txt" for part in ("valid", "test")]
    parser.add_argument("--wiki", type=Path, nargs=2, default=wiki)
    parser.add_argument("--third", type=Path)
    parser.add_argument("--positions", type=int, default=40_000)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--coverage", action="store_true")
    given = parser.parse_args()
    if given.coverage:
        coverage()
        return

    def held_out(tokenizer: Any) -> Corpus:
        found = list(documents("heldout"))
        names = [one.name for one in found]
        return Corpus.from_texts([one.text[:1500] for one in found], tokenizer, names=names)

    def articles(tokenizer: Any) -> Corpus:
        text = given.wiki[1].read_text().split("\n = ")
        found = ["= " + one[:2000] for one in text if " = \n" in one[:200] and one[0] != "="]
        return Corpus.from_texts(found, tokenizer)

    with tempfile.TemporaryDirectory() as folder:
        third = given.third or Path(folder) / "third"
        if not third.is_dir():
            train(third, given.wiki[0], given.steps)
        places: list[tuple[str, Path, Callable[[Any], Corpus]]] = [
            ("bundled", BUNDLED, held_out),
            (given.model.name, given.model, lambda tokenizer: Corpus.read(given.text, tokenizer)),
            ("trained here", third, articles),
        ]
        options = AuditOptions(max_positions=given.positions)
        off: list[list[float]] = []
        inside = 0
        print(HEADER + "\n|---|---|---|---|---|---|---|", flush=True)
        for name, path, read in places:
            before, corpus = measured(path, "float32", read, options, given.wiki[0])
            name = f"{name}, {len(np.unique(before.column('doc')))} documents"
            for change in CHANGES:
                after, _ = measured(
                    path, change, lambda _, corpus=corpus: corpus, options, given.wiki[0]
                )
                inside += say(name, change, before, after)
                off.append(otherwise(before, after))
        print(f"\nThe observed churn lies in the interval in {inside} of {len(off)}.")
        print("| beside the margin | root mean square, % | largest, % |\n|---|---|---|")
        for name, errors in zip(OTHERWISE, np.array([one for one in off if one]).T, strict=True):
            mean, worst = 100 * np.sqrt((errors**2).mean()), 100 * abs(errors).max()
            print(f"| {name} | {mean:.2f} | {worst:.2f} |")


def train(folder: Path, text: Path, steps: int) -> None:
    """A small GPT-NeoX, untied, on a text in the bundled model's tokens."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    ids = torch.tensor(tokenizer(text.read_text())["input_ids"])
    shape = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        intermediate_size=384,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=0,
        **shape,
    )
    model = GPTNeoXForCausalLM(config)
    fit(model, ids, steps, 2e-3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def fit(model: Any, ids: torch.Tensor, steps: int, peak: float) -> None:
    """Train on random pieces of a text."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.05)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1, (step + 1) / 50) * (1 - step / steps) + 1e-5
        starts = torch.randint(0, len(ids) - 128, (8,)).tolist()
        batch = torch.stack([ids[start : start + 128] for start in starts])
        loss = model(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def measured(
    path: Path, change: str, read: Callable[[Any], Corpus], options: AuditOptions, text: Path
) -> tuple[Audit, Corpus]:
    """Audit a text under a model that is changed as said."""
    checkpoint = load(path, dtype="bfloat16" if change == "bfloat16" else "float32")
    if change.startswith("int"):
        checkpoint = quantized(checkpoint, change)
    if change.startswith("noise"):
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for weight in (w for w in checkpoint.model.parameters() if w.ndim > 1):
                noise = torch.randn(weight.shape, generator=generator)
                weight += int(change.split()[1]) / 100 * weight.std() * noise
    if change == "training":
        torch.manual_seed(0)
        ids = checkpoint.tokenizer(text.read_text()[:200_000])["input_ids"]
        fit(checkpoint.model.train(), torch.tensor(ids), 10, 1e-3)
    corpus = read(checkpoint.tokenizer)
    return audit(checkpoint.model, corpus, options), corpus


def say(name: str, change: str, before: Audit, after: Audit) -> bool:
    """Print a row of the table; whether the observed churn lies in the interval."""
    found = compare(before, after).summary.prediction
    told, seen = found.predicted, found.observed
    assert told.low is not None
    assert told.high is not None
    assert seen.value is not None
    factors = [
        max(one.predicted.value / one.observed.value, one.observed.value / one.predicted.value)
        if one.predicted.value and one.observed.value
        else np.inf
        for one in found.bins
        if one.n >= 200
    ]
    inside = told.low <= seen.value <= told.high
    figures = [full(seen, share), full(told, share), full(found.difference, points)]
    figures.append("yes" if inside else "no")
    print(
        f"| {name} | {change} |",
        " | ".join(figures),
        f"| {max(factors):.2f} of {len(factors)} |",
        flush=True,
    )
    return inside


def otherwise(before: Audit, after: Audit) -> list[float]:
    """Predicted over observed churn less 1, for each of OTHERWISE; nothing of few flips."""
    rows = FiniteRows.of(PairedAudits.of(before, after).read, BOTH_FINITE)
    parts = list(lead_parts(rows, 5, stored=True))
    whole = Leads(
        *(np.concatenate(c) for c in zip(*(vars(p).values() for p in parts), strict=True))
    )
    churn = whole.flipped.mean()
    if churn < 0.02:
        return []
    same = np.zeros(len(whole.inverse))
    norm = rows.whole("before_hidden_norm")
    seconds = (same, whole.entropy, norm, whole.gaps[:, -2], whole.entropy)
    found = []
    for name, second in zip(OTHERWISE, seconds, strict=True):
        leads = Leads(whole.gaps, whole.moved, second, whole.flipped, whole.inverse)
        told = sum(chances.sum() for chances in by_group(leads, "no factor" not in name))
        found.append(float(told / len(same) / churn - 1))
    return found


def by_group(leads: Leads, factor: bool) -> Iterator[np.ndarray]:
    """The chances of each group of documents from the others."""
    for i in range(DOCUMENT_GROUPS):
        own = leads.inverse % DOCUMENT_GROUPS == i
        others = leads.rows(~own)
        lead, moved = others.gaps[:, 0], others.moved[:, 0]
        scale = float((lead * moved).sum() / (lead**2).sum()) if factor else 1.0
        yield LikeChanges.of(others, scale).chances(leads.rows(own))


def coverage(repeats: int = 300) -> None:
    """Print how often the intervals hold what they should."""
    print("| documents | positions of each | churn | predicted holds the world's | observed does |")
    print("| observed within predicted | disagrees | bias, % of churn |")
    for documents_, rows in ((12, 100), (40, 100), (40, 500)):
        for noise in (0.02, 0.3):
            generator = np.random.default_rng(1)
            _, columns = drawn(generator, 20_000, 20, noise)
            world = float((columns["before_top1"] != columns["after_top1"]).mean())
            held: list[tuple[bool, ...]] = []
            told: list[float] = []
            for seed in range(repeats):
                doc, columns = drawn(generator, documents_, rows, noise)
                found = read_prediction(
                    FiniteRows.held(doc, **columns), 5, resamples=500, seed=seed
                )
                sides = (found.predicted, found.observed)
                within = [one.low <= world <= one.high for one in sides]  # type: ignore[operator]
                within.append(sides[0].low <= float(sides[1]) <= sides[0].high)  # type: ignore[operator]
                held.append((*within, found.disagrees))
                told.append(float(found.predicted))
            shares = " | ".join(f"{share:.1%}" for share in np.array(held).mean(axis=0))
            bias = 100 * (np.mean(told) / world - 1)
            print(f"| {documents_} | {rows} | {world:.2%} | {shares} | {bias:+.1f} |", flush=True)


def drawn(
    generator: np.random.Generator, documents_: int, rows: int, noise: float
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Documents of a made-up world: each position's document, and the columns of both audits."""
    doc = np.repeat(np.arange(documents_), rows)
    spread, size = np.exp(0.3 * generator.normal(size=(2, documents_)))[:, doc, None]
    before = 1.5 * spread * generator.gumbel(size=(len(doc), 12))
    moved = noise * size * generator.normal(size=before.shape)
    after = before + moved * (0.5 + 0.2 * before.max(axis=1, keepdims=True))
    columns = {}
    for side, logits in (("before", before), ("after", after)):
        order = np.argsort(-logits, axis=1)[:, :5]
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        columns |= {
            f"{side}_topk_ids": order,
            f"{side}_topk_logits": np.take_along_axis(logits, order, axis=1),
            f"{side}_top1": order[:, 0],
            f"{side}_entropy": -(p * np.log(p)).sum(axis=1),
        }
    return doc, columns


if __name__ == "__main__":
    main()
