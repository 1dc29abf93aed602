"""Whether mixtures find the blend that a text was made of, and how often their intervals hold.

    python benchmarks/mixture.py --wikitext wiki.valid.txt
    python benchmarks/mixture.py --pools library --splits 40 --keep sums --json mixture.json

On the bundled model, in passages of at most 160 tokens. ``library`` are topics of the interpreter's
library, ``distinct`` kinds of text that have little in common (``mixture_pool.py``). Of triples of
them, and anew in each split, some passages of each are its source, and others make the target: 50,
30 and 20 % of its positions, each topic having each share in turn. With ``documents`` the target's
are of other documents than the sources', with ``passages`` they may be others of the same ones,
which are then all told of as documents of their own. The truth is the target's own shares of
positions. ``error`` is the largest of the three weights' errors; ``within .05`` is the share of
splits, and the two columns after it are the shares of triples that have 90 and 95 % of their splits
so. Intervals are of the shares in whatever the target's documents were drawn from, which are less
certain than its own, so that they ``held`` these more often than 95 %. ``zero`` adds a fourth topic
that is no part of the blend. The lines below ``joint`` are of triples in three bands of the largest
of their three joint cosines.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from mixture_pool import EACH, Part, Topic, drawn, read, state_of
from unembed.selection.mixing.mixture import mix
from unembed.selection.scores import FEATURES
from unembed.signatures.alignment.align import align
from unembed.signatures.signature import Identity, Signature
from unembed.stats.estimate import Estimate

SHARES = (0.5, 0.3, 0.2)
UNITS = ("documents", "passages")
QUANTILES = (0.5, 0.9, 0.95, 1.0)
NEAR = 0.05
SPARE = 1.02
"""Of the positions that a source and its part of a blend take: passages do not come in halves."""


@dataclass(frozen=True)
class Setting:
    """What a row of the table is of: a pool, what is drawn of it, a kind of feature."""

    pool: str
    unit: str
    by: str


@dataclass(frozen=True)
class Trial:
    """One mixture found: its largest error, and whether each interval holds the truth.

    Without an error there are no weights, for a mean was lost in noise.
    """

    pool: str
    unit: str
    by: str
    triple: tuple[str, ...]
    cosine: float
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
    parser.add_argument("--pools", nargs="+", choices=list(EACH), default=list(EACH))
    parser.add_argument("--positions", type=int, default=20_000, help="of target and sources each")
    parser.add_argument("--triples", type=int, default=40, help="of a pool, at random")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--by", nargs="+", choices=list(FEATURES), default=list(FEATURES))
    parser.add_argument("--m", type=int, default=4_096)
    parser.add_argument("--wikitext", type=Path, help="one more domain of the distinct pool")
    parser.add_argument("--keep", type=Path, help="folder to keep the passages' sums in")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
    trials = [trial for pool in given.pools for trial in tried(pool, given)]
    print(
        f"{given.positions:,} positions each, m = {given.m:,}\n"
        f"{'':<42}{'error at':>10}{'':>24}{'within':>8}{'triples with':>14}\n"
        f"{'pool':<10}{'apart':<11}{'by':<11}{'cosine':<10}{'50 %':>8}{'90 %':>8}{'95 %':>8}"
        f"{'most':>8}{'.05':>8}{'90 %':>7}{'95 %':>7}{'held':>8}{'width':>7}{'total':>7}"
        f"{'residual':>10}{'held':>7}{'zero':>7}{'held':>7}{'lost':>7}"
    )
    settings = [
        Setting(pool, unit, by) for pool in given.pools for unit in UNITS for by in given.by
    ]
    rows = [row(setting, some, band) for setting in settings for band, some in of(trials, setting)]
    if given.json:
        every = [vars(trial) for trial in trials]
        given.json.write_text(json.dumps({"rows": rows, "trials": every}, indent=1))


def tried(pool: str, given: argparse.Namespace) -> Iterator[Trial]:
    """Every triple of a pool in every split, by documents and by passages."""
    path = given.keep / f"{pool}-{given.m}.npz" if given.keep else None
    needed = given.positions * (1 + SHARES[0]) * SPARE
    spec, topics = read(pool, given.m, needed, given.wikitext, path)
    identity = Identity(spec, "token", "empirical", "", "", "")
    whole = []
    for topic in topics:
        every = Part(topic, np.arange(len(topic.positions)))
        whole.append(Signature(topic.name, identity, state_of([every], "documents"), {}))
        state = whole[-1].state
        print(f"{topic.name:<22}{state.samples:>8,.0f} positions, {state.documents} documents")
    cosines = align(whole).joint.value
    triples = list(combinations(range(len(topics)), 3))
    if len(triples) > given.triples:
        some = np.random.default_rng(0).choice(len(triples), given.triples, replace=False)
        triples = [triples[i] for i in some]
    start = time.perf_counter()
    for nth, triple in enumerate(triples):
        nearest = float(max(cosines[i, j] for i, j in combinations(triple, 2)))
        for split in range(given.splits):
            rng = np.random.default_rng([nth, split])
            order = np.roll(triple, split)
            spare = rng.choice([i for i in range(len(topics)) if i not in triple])
            names = tuple(topics[i].name for i in triple)
            for unit in UNITS:
                made = split_of([topics[i] for i in (*order, spare)], unit, identity, given, rng)
                for by in given.by:
                    yield trial_of(made, Trial(pool, unit, by, names, nearest))
        print(f"{pool}: {nth + 1} of {len(triples)}", end="\r", file=sys.stderr, flush=True)
    print(
        f"{pool}: {len(triples)} triples, {given.splits} splits, "
        f"{time.perf_counter() - start:.0f} s"
    )


@dataclass(frozen=True)
class Split:
    """A blend, its three sources and a fourth that is no part of it, and the true shares."""

    target: Signature
    sources: list[Signature]
    truth: list[float]


def split_of(
    chosen: list[Topic],
    unit: str,
    identity: Identity,
    given: argparse.Namespace,
    rng: np.random.Generator,
) -> Split:
    blend, sources = [], []
    for topic, share in zip(chosen, (*SHARES, 0.0), strict=True):
        source, part = drawn(topic, unit, given.positions, share, rng)
        sources.append(Signature(topic.name, identity, state_of([source], unit), {}))
        if share:
            blend.append(part)
    sizes = np.array([part.positions for part in blend])
    target = Signature("blend", identity, state_of(blend, unit), {})
    return Split(target, sources, list(sizes / sizes.sum()))


def trial_of(made: Split, empty: Trial) -> Trial:
    """The split mixed, without and with the fourth source."""
    found = mix(made.target, made.sources[:3], by=empty.by)
    weights = [share.weight for share in found.shares]
    if any(weight.value is None for weight in weights):
        return empty
    paired = list(zip(weights, made.truth, strict=True))
    more = mix(made.target, made.sources, by=empty.by).shares[3].weight
    residual = found.residual
    return Trial(
        empty.pool,
        empty.unit,
        empty.by,
        empty.triple,
        empty.cosine,
        max(abs(weight.value - true) for weight, true in paired),
        tuple(holds(weight, true) for weight, true in paired),
        float(np.mean([weight.high - weight.low for weight in weights])),
        found.total.value,
        residual.value,
        holds(residual, 0.0),
        more.value,
        more.low == 0,
    )


def holds(estimate: Estimate, true: float) -> bool:
    assert estimate.low is not None
    assert estimate.high is not None
    return bool(estimate.low <= true <= estimate.high)


def of(trials: list[Trial], setting: Setting) -> Iterator[tuple[str, list[Trial]]]:
    """The trials of a setting; those by joint in three bands of their largest cosine too."""
    own = [t for t in trials if Setting(t.pool, t.unit, t.by) == setting]
    yield "all", own
    if setting.by != "joint":
        return
    nearest = {t.triple: t.cosine for t in own}
    low, high = np.quantile(list(nearest.values()), [1 / 3, 2 / 3])
    yield f"to {low:.2f}", [t for t in own if t.cosine <= low]
    yield f"to {high:.2f}", [t for t in own if low < t.cosine <= high]
    yield f"to {max(nearest.values()):.2f}", [t for t in own if t.cosine > high]


def row(setting: Setting, tried: list[Trial], band: str) -> dict[str, object]:
    """Print one line of the table, and give its numbers."""
    some = [t for t in tried if t.error is not None]
    if not some:
        return {**vars(setting), "cosine": band, "trials": len(tried), "lost": 1.0}
    found_errors = np.array([t.error for t in some])
    errors = np.quantile(found_errors, QUANTILES)
    near: dict[tuple[str, ...], list[bool]] = {}
    for t in tried:
        near.setdefault(t.triple, []).append(t.error is not None and t.error <= NEAR)
    zeros = [t.zero for t in some if t.zero is not None]
    found = {
        "trials": len(tried),
        **{f"error {q:.0%}": float(e) for q, e in zip(QUANTILES, errors, strict=True)},
        "within": float((found_errors <= NEAR).mean()),
        "triples 90%": float(np.mean([np.mean(x) >= 0.9 for x in near.values()])),
        "triples 95%": float(np.mean([np.mean(x) >= 0.95 for x in near.values()])),
        "held": float(np.mean([t.held for t in some])),
        "width": float(np.mean([t.width for t in some])),
        "total": float(np.mean([t.total for t in some])),
        "residual": float(np.mean([t.residual for t in some])),
        "residual held": float(np.mean([t.residual_held for t in some])),
        "zero 95%": float(np.quantile(zeros, 0.95)) if zeros else float("nan"),
        "zero held": float(np.mean([t.zero_held for t in some])),
        "lost": 1 - len(some) / len(tried),
    }
    widths = (8, 8, 8, 8, 8, 7, 7, 8, 7, 7, 10, 7, 7, 7, 7)
    digits = (3, 3, 3, 3, 2, 2, 2, 3, 3, 3, 4, 3, 3, 3, 3)
    names = (setting.pool, setting.unit, setting.by) if band == "all" else ("", "", "")
    print(
        "".join(f"{name:<{w}}" for name, w in zip((*names, band), (10, 11, 11, 10), strict=True))
        + "".join(
            f"{value:>{w}.{d}f}"
            for value, w, d in zip(list(found.values())[1:], widths, digits, strict=True)
        ),
        flush=True,
    )
    return {**vars(setting), "cosine": band, **found}


if __name__ == "__main__":
    main()
