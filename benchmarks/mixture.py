"""Whether mixtures find the blend that a text was made of, and how often their intervals hold.

    python benchmarks/mixture.py
    python benchmarks/mixture.py --splits 40 --positions 5000 --json mixture.json

Topics of the interpreter's library on the bundled model. Of every triple of topics, and anew in
each split, some documents of each are its source, and others make the target: 50, 30 and 20 % of
its positions, each topic having each share in turn. No document is in both. The truth is the
blend's own shares of positions, as documents do not come in halves. ``error`` is the largest of the
three weights' errors. Intervals hold the weight of a blend of the topics as a whole. ``zero`` adds
a fourth topic that is no part of the blend. Triples are put in three bands by the largest of their
three joint cosines.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import torch

from unembed.corpus import Corpus
from unembed.demo.story import bundled_model
from unembed.demo.text import Document, documents
from unembed.demo.topics import TOPICS
from unembed.model_pass import ModelPass
from unembed.models import Checkpoint, load
from unembed.precision import Precision
from unembed.updates.alignment import align
from unembed.updates.constructions import sketch_of
from unembed.updates.features import features
from unembed.updates.mixture import BY, mix
from unembed.updates.signature import Identity, Signature, State, accumulate, empty
from unembed.updates.sketch import SketchSpec
from unembed.updates.sketcher import SketchOptions
from unembed.updates.texts import samples_of

NAMES = TOPICS | {
    "tests": "test/",
    "distutils": "distutils/",
    "lib2to3": "lib2to3/",
}
SHARES = (0.5, 0.3, 0.2)
LENGTHS = (1_200, 2_400, 4_800, 9_600)
"""Characters of a document: the shortest with which a topic suffices, for documents count."""
PER_POSITION = 4.0
"""Characters that surely hold a position."""
ROWS = 600
QUANTILES = (0.5, 0.9, 0.95, 1.0)


@dataclass(frozen=True)
class Topic:
    """The sums of each document of a topic."""

    name: str
    documents: list[State]


@dataclass(frozen=True)
class Trial:
    """One mixture found: its largest error, and whether each interval holds the truth.

    Without an error there are no weights, for a mean was lost in noise.
    """

    by: str
    band: str
    triple: tuple[str, ...]
    error: float | None = None
    held: tuple[bool, ...] = ()
    width: float = 0.0
    total: float = 0.0
    residual: float = 0.0
    residual_held: bool = False
    zero: float | None = None
    zero_held: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=int, default=20_000, help="of target and sources each")
    parser.add_argument("--splits", type=int, default=12)
    parser.add_argument("--m", type=int, default=4_096)
    parser.add_argument("--topics", type=int, default=9, help="the largest so many")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pool", type=Path, help="file to keep the documents' sums in")
    given = parser.parse_args()
    torch.set_num_threads(1)
    spec, topics = pool(given)
    identity = Identity(spec, "token", "empirical", "", "", "")
    whole = [Signature(t.name, identity, joined(t.documents), {}) for t in topics]
    joint = align(whole).joint.value
    for topic, one in zip(topics, whole, strict=True):
        state = one.state
        print(f"{topic.name:<22}{state.samples:>8,.0f} positions, {state.documents} documents")
    triples = list(combinations(range(len(topics)), 3))
    nearest = {t: max(joint[i, j] for i, j in combinations(t, 2)) for t in triples}
    edges = np.quantile(list(nearest.values()), [1 / 3, 2 / 3])
    labels = (f"up to {edges[0]:.2f}", f"to {edges[1]:.2f}", f"above {edges[1]:.2f}")
    start = time.perf_counter()
    trials = []
    for nth, triple in enumerate(triples):
        band = labels[int(np.searchsorted(edges, nearest[triple]))]
        for split in range(given.splits):
            rng = np.random.default_rng([nth, split])
            order = np.roll(triple, split)
            spare = rng.choice([i for i in range(len(topics)) if i not in triple])
            chosen = [topics[i] for i in (*order, spare)]
            trials += list(tried(chosen, identity, given.positions, band, rng))
        print(f"{nth + 1} of {len(triples)}", end="\r", file=sys.stderr, flush=True)
    print(
        f"{len(triples)} triples, {given.splits} splits, {given.positions:,} positions each, "
        f"m = {given.m:,}, {time.perf_counter() - start:.0f} s"
    )
    print(
        f"{'by':<12}{'largest cosine':<16}{'error at 50 %':>14}{'90 %':>8}{'95 %':>8}{'most':>8}"
        f"{'within .05':>12}{'held':>7}{'width':>7}{'total':>7}{'residual':>10}{'held':>7}"
        f"{'zero':>7}{'held':>7}{'lost':>7}"
    )
    rows = [row(trials, by, band) for by in BY for band in (None, *labels)]
    if given.json:
        every = [vars(trial) for trial in trials]
        given.json.write_text(json.dumps({"rows": rows, "trials": every}, indent=1))


def tried(
    chosen: list[Topic], identity: Identity, positions: int, band: str, rng: np.random.Generator
) -> Iterator[Trial]:
    """A split of three topics, mixed by every kind, without and with a fourth that is no part."""
    blend, sources = [], []
    for topic, share in zip(chosen, (*SHARES, 0.0), strict=True):
        order = [topic.documents[i] for i in rng.permutation(len(topic.documents))]
        source, rest = taken(order, positions)
        sources.append(Signature(topic.name, identity, joined(source), {}))
        part, _ = taken(rest, positions * share)
        blend.append(part)
    sizes = np.array([sum(state.samples for state in part) for part in blend[:3]])
    truth = sizes / sizes.sum()
    target = Signature("blend", identity, joined(list(chain(*blend))), {})
    for by in BY:
        found = mix(target, sources[:3], by=by)
        weights = [share.weight for share in found.shares]
        names = tuple(topic.name for topic in chosen)
        if any(weight.value is None for weight in weights):
            yield Trial(by, band, names)
            continue
        ends = [(weight.value, weight.low, weight.high) for weight in weights]
        more = mix(target, sources, by=by).shares[3].weight
        held = tuple(low <= t <= high for t, (_, low, high) in zip(truth, ends, strict=True))
        residual = found.residual
        yield Trial(
            by,
            band,
            names,
            float(max(abs(value - t) for t, (value, _, _) in zip(truth, ends, strict=True))),
            tuple(bool(x) for x in held),
            float(np.mean([high - low for _, low, high in ends])),
            found.total.value,
            residual.value,
            residual.low <= 0 <= residual.high,
            more.value,
            more.low == 0,
        )


def row(trials: list[Trial], by: str, band: str | None) -> dict[str, object]:
    """Print one line of the table, and give its numbers."""
    tried = [t for t in trials if t.by == by and band in (None, t.band)]
    some = [t for t in tried if t.error is not None]
    errors = np.quantile([t.error for t in some], QUANTILES)
    zero = np.quantile([t.zero for t in some if t.zero is not None], 0.95)
    found = {
        "by": by,
        "band": band or "all",
        "trials": len(tried),
        "lost": 1 - len(some) / len(tried),
        **{f"error {q:.0%}": float(e) for q, e in zip(QUANTILES, errors, strict=True)},
        "within": float(np.mean([t.error <= 0.05 for t in some])),
        "held": float(np.mean([t.held for t in some])),
        "width": float(np.mean([t.width for t in some])),
        "total": float(np.mean([t.total for t in some])),
        "residual": float(np.mean([t.residual for t in some])),
        "residual held": float(np.mean([t.residual_held for t in some])),
        "zero 95%": float(zero),
        "zero held": float(np.mean([t.zero_held for t in some])),
    }
    print(
        f"{by if band is None else '':<12}{found['band']:<16}{errors[0]:>14.3f}"
        + "".join(f"{e:>8.3f}" for e in errors[1:])
        + f"{found['within']:>12.2f}{found['held']:>7.3f}{found['width']:>7.3f}"
        + f"{found['total']:>7.3f}{found['residual']:>10.4f}{found['residual held']:>7.3f}"
        + f"{zero:>7.3f}{found['zero held']:>7.3f}{found['lost']:>7.3f}",
        flush=True,
    )
    return found


def taken(order: list[State], positions: float) -> tuple[list[State], list[State]]:
    """Documents up to so many positions, and the others: the sum comes as near as it can."""
    some, rest, filled = [], [], 0.0
    for state in order:
        if filled + state.samples / 2 <= positions and filled < positions:
            some.append(state)
            filled += state.samples
        else:
            rest.append(state)
    if filled < 0.9 * positions:
        raise SystemExit(f"{filled:,.0f} positions left where {positions:,.0f} are needed")
    return some, rest


def joined(states: list[State]) -> State:
    return reduce(State.__add__, states)


def pool(given: argparse.Namespace) -> tuple[SketchSpec, list[Topic]]:
    """The sums of the documents of the largest topics; read again where they were kept."""
    if given.pool and given.pool.exists():
        spec, every = pickle.loads(given.pool.read_bytes())
        return spec, [Topic(name, states) for name, states in every]
    checkpoint = load(bundled_model())
    wanted = round(given.positions * (1 + SHARES[0]) * 1.15)
    found = []
    for name, beginning in NAMES.items():
        texts = passages(beginning, wanted)
        if texts:
            found.append(Topic(name, sums(checkpoint, texts, given.m, wanted)))
            size = joined(found[-1].documents).samples
            print(f"{name}: {size:,.0f}", end="\r", file=sys.stderr, flush=True)
    found.sort(key=lambda topic: (-len(topic.documents), topic.name))
    head = checkpoint.model.get_output_embeddings().weight
    made = SketchSpec(*head.shape, m=given.m), found[: given.topics]
    if given.pool:
        every = [(topic.name, topic.documents) for topic in made[1]]
        given.pool.write_bytes(pickle.dumps((made[0], every)))
    return made


def passages(beginning: str, wanted: int) -> list[Document]:
    """The middles of a topic's documents, as short as it can be had; none of a small topic."""
    own = [
        one
        for one in chain(documents("train"), documents("heldout"))
        if one.name.startswith(beginning)
    ]
    for length in LENGTHS:
        cut = []
        for one in own:
            start = max(0, len(one.text) - length) // 2
            cut.append(replace(one, text=one.text[start : start + length]))
        if sum(len(one.text) for one in cut) >= wanted * PER_POSITION:
            return cut
    return []


def sums(checkpoint: Checkpoint, texts: list[Document], m: int, wanted: int) -> list[State]:
    """Of each document, the sums of its positions; of enough documents for the positions wanted."""
    order = np.random.default_rng(len(texts)).permutation(len(texts))
    counts, some = 0, []
    for one in (texts[i] for i in order):
        some.append(one)
        counts += len(checkpoint.tokenizer(one.text, truncation=False).input_ids) - 1
        if counts > 1.5 * wanted:
            break
    text = Corpus.from_texts(
        (one.text for one in some), checkpoint.tokenizer, names=[one.name for one in some]
    )
    reading = ModelPass.of(checkpoint.model, text, SketchOptions(), "bundled")
    samples = samples_of(reading, "topic")
    head = reading.head
    spec = SketchSpec(head.vocab, head.dim, m=m)
    made, precision = sketch_of(spec, torch.device("cpu")), Precision.probe(head.weight)
    found = []
    for name in np.unique(samples.document):
        state = empty(m, first=True)
        at = torch.from_numpy(np.flatnonzero(samples.document == name))
        parts = [
            features(
                samples.hidden[rows],
                head,
                samples.targets[rows],
                made,
                precision=precision,
                first=True,
            )[1]
            for rows in at.split(ROWS)
        ]
        every = type(parts[0])(
            *(
                torch.cat(columns)
                for columns in zip(*(vars(p).values() for p in parts), strict=True)
            )
        )
        found.append(accumulate(state, every, np.full(len(at), name)))
    return found


if __name__ == "__main__":
    main()
