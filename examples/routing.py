"""Which of hundreds of domains does a prompt come from? Route prompts by signatures of 200 tokens.

    python examples/routing.py                     # 674 domains, and 4 that join later
    python examples/routing.py --domains 50 --tokens 16 -o routing.json

A domain is one document of the running interpreter's library: a module, a test, a topic. Its
signature is that of 200 positions of its first half, passage by passage; prompts are the beginnings
of passages of its second half. A prompt goes to the domain whose unit signature has the largest
product with its own, from one forward pass. Everything is compared with what needs no model: the
cosine of token counts, plain and weighted by how few domains have a token. Then more domains join,
and are looked for among all. Takes about two minutes on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from unembed import Checkpoint, Corpus, Index, Signature, SketchOptions, load, sketch
from unembed.demo import bundled_model, documents
from unembed.models import ModelPass, ReadingOptions
from unembed.runs import Phases, progress_bar
from unembed.selection import route
from unembed.signatures import features, sketch_of, squared_norm
from unembed.text import Batch

PASSAGE = 300
"""Characters of a passage, which is what is independent within a domain."""
KINDS = ("joint", "activation", "error", "first")
"""The features that a signature sums."""
DRAWS = 2_000
EVERY = 10
"""One prompt of so many domains is routed through an index too."""


@dataclass(frozen=True)
class Setup:
    """What is measured: domains of so many ``samples``, and prompts of so many ``tokens``."""

    domains: int = 674
    added: int = 4
    samples: int = 200
    prompts: int = 4
    tokens: int = 64
    m: int = 4096


@dataclass(frozen=True)
class Domain:
    """A document as passages: those of its first half, and the prompts of its second."""

    name: str
    learned: list[str]
    asked: list[str]


def domains_of(setup: Setup, checkpoint: Checkpoint) -> list[Domain]:
    """So many of the library's documents, in an order fixed by their names' hashes."""
    every = list(chain(documents("train"), documents("heldout")))
    every.sort(key=lambda one: hashlib.sha256(one.name.encode()).hexdigest())
    found = []
    for one in every:
        half = len(one.text) // 2
        learned, asked = _passages(one.text[:half]), _passages(one.text[half:])
        if len(learned) < 2 or len(asked) < setup.prompts:
            continue
        lengths = [len(ids) for ids in checkpoint.tokenizer([*learned, *asked])["input_ids"]]
        count = len(learned)
        long = [p for p, n in zip(asked, lengths[count:], strict=True) if n > setup.tokens]
        if sum(lengths[:count]) - count >= setup.samples and len(long) >= setup.prompts:
            spread = np.linspace(0, len(long) - 1, setup.prompts).astype(int)
            found.append(Domain(one.name, learned, [long[i] for i in spread]))
        if len(found) == setup.domains + setup.added:
            return found
    raise SystemExit(f"{len(found)} documents are long enough: give fewer --domains")


def _passages(text: str) -> list[str]:
    return [text[i : i + PASSAGE] for i in range(0, len(text) - PASSAGE + 1, PASSAGE)]


def signature_of(domain: Domain, checkpoint: Checkpoint, setup: Setup) -> Signature:
    """The signature of a domain, as ``unembed sketch --max-positions 200`` makes it."""
    names = [f"{domain.name} {i}" for i in range(len(domain.learned))]
    text = Corpus.from_texts(domain.learned, checkpoint.tokenizer, names=names)
    options = SketchOptions(
        max_positions=setup.samples, m=setup.m, first_moment=True, blocks=0, context=256
    )
    return sketch(checkpoint, text, options, task=domain.name)


@dataclass(frozen=True)
class Prompts:
    """Every prompt, its mean feature of each kind, its token counts, and its domain's number."""

    texts: list[str]
    features: dict[str, Float[np.ndarray, "prompts sketch"]]
    counts: Float[np.ndarray, "prompts vocab"]
    domain: Int[np.ndarray, " prompts"]


def prompts_of(
    domains: list[Domain], checkpoint: Checkpoint, signature: Signature, setup: Setup
) -> Prompts:
    """Read the prompts in one pass; a prompt's mean feature is what ``sketch`` of it would hold."""
    texts = [text for one in domains for text in one.asked]
    tokens = checkpoint.tokenizer(texts)["input_ids"]
    texts = checkpoint.tokenizer.batch_decode([ids[: setup.tokens] for ids in tokens])
    corpus = Corpus.from_texts(texts, checkpoint.tokenizer)
    reading = ModelPass.of(checkpoint.model, corpus, ReadingOptions(context=256), checkpoint.name)
    maps = sketch_of(signature.identity.spec, reading.head.weight.device)
    sums = {name: np.zeros((len(texts), setup.m)) for name in KINDS}
    counts = np.zeros((len(texts), reading.head.vocab))

    def work(team: tuple[nn.Module, ...], batch: Batch, phases: Phases) -> None:
        hidden = reading.hidden(team[0], batch, phases)
        _, found = features(hidden, reading.head, batch.targets, maps, first=True)
        rows = batch.doc
        for name in KINDS:
            np.add.at(sums[name], rows, getattr(found, name).numpy())
        np.add.at(counts, (rows, batch.targets.numpy()), 1)

    with progress_bar("prompts", "tok", reading.windows.positions, True) as bar:
        for _part, _found in reading.results(work, bar, Phases()):
            pass
    read = counts.sum(1, keepdims=True)
    return Prompts(
        texts,
        {name: each / read for name, each in sums.items()},
        counts,
        np.repeat(np.arange(len(domains)), setup.prompts),
    )


def kept(
    signatures: list[Signature], prompts: Prompts, checkpoint: Checkpoint, setup: Setup
) -> tuple[float, float, list[str]]:
    """An index that the last domains join one by one: milliseconds of a joining and of a routed
    prompt, and where it routes the first prompt of every so many domains.
    """
    with TemporaryDirectory() as folder:
        index = Index.create(Path(folder, "domains"), signatures[0].identity)
        index.add(signatures[: setup.domains])
        began = time.perf_counter()
        for one in signatures[setup.domains :]:
            index.add([one])
        joined = time.perf_counter() - began
        texts = prompts.texts[:: setup.prompts * EVERY]
        began, found = time.perf_counter(), []
        for text in texts:
            corpus = Corpus.from_texts([text], checkpoint.tokenizer)
            found.append(route(index, checkpoint, [corpus], top=1).matches[0].entry.name)
        routed = time.perf_counter() - began
    return 1e3 * joined / max(1, setup.added), 1e3 * routed / len(texts), found


def ways(
    signatures: list[Signature], domains: list[Domain], prompts: Prompts, checkpoint: Checkpoint
) -> Iterator[tuple[str, Float[np.ndarray, "prompts domains"]]]:
    """Every way to score each domain for each prompt, by its name."""
    for name in KINDS:
        kept = [one.state.sums(name) for one in signatures]
        totals = np.stack([one.total.sum(0) for one in kept if one is not None])
        means = totals / np.array([[one.state.weight.sum()] for one in signatures])
        asked = prompts.features[name]
        yield name, asked @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
        norms = np.array([squared_norm(one.state, name) for one in signatures])
        known = np.where(norms > 0, norms, np.nan)
        yield f"{name}, debiased", asked @ (means / np.sqrt(known)[:, None]).T
        centre = means.mean(0)
        apart = means - centre
        apart /= np.linalg.norm(apart, axis=1, keepdims=True)
        yield f"{name}, centred", (asked - centre) @ apart.T
    vocab = prompts.counts.shape[1]
    counted = np.zeros((len(domains), vocab))
    for row, one in zip(counted, domains, strict=True):
        for ids in checkpoint.tokenizer(one.learned)["input_ids"]:
            np.add.at(row, ids[1:], 1)
    yield "token counts", prompts.counts @ (counted / _norms(counted)).T
    rare = np.log((1 + len(domains)) / (1 + (counted > 0).sum(0)))
    weighted = counted * rare
    yield "token counts by rarity", (prompts.counts * rare) @ (weighted / _norms(weighted)).T


def _norms(rows: Float[np.ndarray, "rows vocab"]) -> Float[np.ndarray, "rows one"]:
    return np.linalg.norm(rows, axis=1, keepdims=True)


@dataclass(frozen=True)
class Line:
    """One way's accuracy, with 95 % intervals that draw domains with all their prompts."""

    way: str
    top1: list[float]
    top5: list[float]
    reciprocal_rank: list[float]
    unknown: int


def judged(
    way: str, scores: Float[np.ndarray, "prompts domains"], domain: Int[np.ndarray, " prompts"]
) -> Line:
    """Where each prompt's own domain stands among all; those without a score are last."""
    unknown = int(np.isnan(scores[0]).sum())
    scores = np.where(np.isnan(scores), -np.inf, scores)
    own = scores[np.arange(len(domain)), domain][:, None]
    # Half of the ties before it, as if they were drawn.
    rank = 1 + (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2
    each = np.stack([rank <= 1, rank <= 5, 1 / rank], 1).astype(float)
    groups = each.reshape(domain.max() + 1, -1, 3).mean(1)
    rng = np.random.default_rng(0)
    drawn = np.stack([groups[rng.integers(0, len(groups), len(groups))].mean(0)
                      for _ in range(DRAWS)])  # fmt: skip
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    figures = [[float(x) for x in row] for row in zip(groups.mean(0), low, high, strict=True)]
    return Line(way, *figures, unknown)


def main() -> None:
    """Measure, print the table, and write it down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for field, value in asdict(Setup()).items():
        parser.add_argument(f"--{field}", type=type(value), default=value)
    parser.add_argument("-o", "--out", type=Path)
    given = vars(parser.parse_args())
    out = given.pop("out")
    setup = Setup(**given)
    checkpoint = load(bundled_model())
    domains = domains_of(setup, checkpoint)
    began = time.perf_counter()
    with progress_bar("sketch", "domain", len(domains), True) as bar:
        signatures = []
        for one in domains:
            signatures.append(signature_of(one, checkpoint, setup))
            bar.update()
    each_ms = 1e3 * (time.perf_counter() - began) / len(domains)
    began = time.perf_counter()
    prompts = prompts_of(domains, checkpoint, signatures[0], setup)
    prompt_ms = 1e3 * (time.perf_counter() - began) / len(prompts.domain)
    late = prompts.domain >= setup.domains
    joined_ms, routed_ms, routed = kept(signatures, prompts, checkpoint, setup)
    print(f"{len(domains)} domains of {setup.samples} positions, {each_ms:.0f} ms each; "
          f"{len(late)} prompts of {setup.tokens} tokens, {prompt_ms:.1f} ms each; "
          f"chance {1 / len(domains):.2%}")  # fmt: skip
    heads = ("top-1 %", "top-5 %", "reciprocal rank")
    print(f"{'way':28}" + "".join(f"{head:>24}" for head in heads) + "   of those that joined late")
    lines, same = [], 0
    for way, scores in ways(signatures, domains, prompts, checkpoint):
        before = scores[~late][:, : setup.domains]
        line = judged(way, before, prompts.domain[~late])
        lines.append(line)
        if way == "joint":
            best = scores[:: setup.prompts * EVERY].argmax(1)
            same = sum(domains[i].name == name for i, name in zip(best, routed, strict=True))
        cells = [
            "{:.1f} [{:.1f}, {:.1f}]".format(*(scale * x for x in figure))
            for figure, scale in ((line.top1, 100), (line.top5, 100), (line.reciprocal_rank, 1))
        ]
        cells[2] = "{:.3f} [{:.3f}, {:.3f}]".format(*line.reciprocal_rank)
        found = (scores[late].argmax(1) == prompts.domain[late]).sum()
        row = f"{way:28}" + "".join(f"{cell:>24}" for cell in cells)
        print(f"{row}   {found} of {late.sum()}" + f", {line.unknown} unknown" * bool(line.unknown))
    print(f"an index: {joined_ms:.1f} ms to join, {routed_ms:.0f} ms to route a prompt, "
          f"{same} of {len(routed)} prompts where joint says")  # fmt: skip
    if out:
        figures = {
            "setup": asdict(setup),
            "domain_ms": each_ms,
            "prompt_ms": prompt_ms,
            "joined_ms": joined_ms,
            "routed_ms": routed_ms,
            "ways": [asdict(line) for line in lines],
        }
        out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
