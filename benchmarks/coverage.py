"""How often nominal 95 % intervals hold the truth, on made-up inputs whose truth is known.

    python benchmarks/coverage.py --json coverage.json
    python benchmarks/coverage.py --of verdicts mixtures --runs 300

``verdicts``: gains of normal pairs of source and target with noise of the seed and a level of the
seed, scores with noise of their own. The truth is that of a huge draw of one seed; one more column
of targets is one more unit. ``mixtures``: documents with an effect and a heavy-tailed size of their
own, as exact features, blended 50, 30, 20 and 0 %. ``divergences``: lognormal values with an effect
of their document, in documents of uneven, lognormal sizes; ``heavier`` has more of both.
``pairs``: sums by document of five variants of a ladder, net flips or mean KL, with an effect of
the document as large as the setting says; all ten pairs hold at once or the run has missed.
``layers``: positions that are hard by an effect of their document and their own, in documents of
lognormal sizes; hard ones settle late, are wrong and lose more, and a penalty goes with their loss
as the paper has it: not at all, against it, and strongly with it. ``harder`` has a larger effect.
``networks``: alignments of parts of a network's signatures (``network_coverage.py``).
A run without an interval is counted in ``none`` and neither held nor missed. With 300 runs the
standard error of a coverage of 95 % is 1.3 %.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

import numpy as np
import torch

from network_coverage import networks
from unembed.decisions.comparison.divergences import DivergenceColumns, summarise_divergences
from unembed.decisions.layers.settling import settling
from unembed.decisions.layers.stack import LensStack
from unembed.selection.mixing.mixture import mix
from unembed.selection.transfer.records import Scores, Transfer
from unembed.selection.transfer.verdicts import judge
from unembed.signatures.batch_sums import accumulate
from unembed.signatures.signature import Identity, Signature
from unembed.signatures.sketches.sketch import SketchSpec
from unembed.signatures.state import Features, empty
from unembed.stats.estimate import Estimate
from unembed.stats.rank_correlations import RankCorrelations
from unembed.stats.simultaneous import Sums, simultaneous_means
from unembed.stats.studentised import mean_estimates

FAMILIES = ("verdicts", "mixtures", "divergences", "pairs", "layers", "networks")
TARGETS, SEEDS = (6, 12, 16), (1, 3)
DOCUMENTS = (20, 60, 200)
LAYERS_DOCUMENTS = (5, 10, 20, 60, 200)
MIXED_DOCUMENTS = (60, 200)
RESAMPLES = 500
"""Of the divergences' bootstrap: interval ends then have 1/9 of a standard error of their own."""
BLEND = (0.5, 0.3, 0.2, 0.0)
WIDTH = 64
"""Features of a made-up signature."""

MadeUp = Callable[[Any, Any, float], tuple[Any, Any]]
"""From a generator, document sizes and an effect: sums by variant and document, and the truths."""

Found = Mapping[str, tuple[Estimate, float]]
"""By statistic: what one run estimated, and the truth."""


@dataclass
class Row:
    """How the intervals of one statistic fared: shares of the runs that have one."""

    family: str
    setting: str
    statistic: str
    truth: float
    held: list[bool] = field(default_factory=list)
    below: int = 0
    above: int = 0
    none: int = 0
    widths: list[float] = field(default_factory=list)

    def add(self, found: Estimate, truth: float) -> None:
        """One more run."""
        if found.low is None or found.high is None:
            self.none += 1
            return
        slack = 1e-12 * max(1.0, abs(truth))
        self.below += found.high < truth - slack
        self.above += found.low > truth + slack
        self.held.append(found.low - slack <= truth <= found.high + slack)
        self.widths.append(found.high - found.low)

    @property
    def coverage(self) -> float:
        """The share of the intervals that hold the truth; NaN without any."""
        return float(np.mean(self.held)) if self.held else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--of", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for family in given.of:
        start = time.perf_counter()
        for setting, runs in SETTINGS[family](given.runs):
            some: dict[str, Row] = {}
            for found in runs:
                for name, (estimate, truth) in found.items():
                    row = some.setdefault(name, Row(family, setting, name, truth))
                    row.add(estimate, truth)
            rows += some.values()
            print(f"{family}, {setting}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    print(table(rows))
    if given.json:
        plain = [{**asdict(row), "held": sum(row.held), "coverage": row.coverage} for row in rows]
        given.json.write_text(json.dumps({"runs": given.runs, "rows": plain}, indent=1))


def table(rows: list[Row]) -> str:
    """Markdown, a line a row."""
    lines = [
        "| of | setting | statistic | coverage | interval below | above | none | median width |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        runs = max(1, len(row.held))
        width = median(row.widths) if row.widths else math.nan
        lines.append(
            f"| {row.family} | {row.setting} | {row.statistic} | {row.coverage:.3f} "
            f"| {row.below / runs:.3f} | {row.above / runs:.3f} | {row.none} | {width:.3g} |"
        )
    return "\n".join(lines)


# Verdicts


def verdicts(runs: int) -> Iterator[tuple[str, Iterator[Found]]]:
    for seeds in SEEDS:
        for targets in TARGETS:
            truth = _verdict_truth(targets)
            yield (
                f"{targets} targets, {seeds} seed{'s' * (seeds > 1)}",
                _verdicts(runs, seeds, targets, truth),
            )


def _verdicts(runs: int, seeds: int, targets: int, truth: Mapping[str, float]) -> Iterator[Found]:
    for run in range(runs):
        found = judge(_transfer(seeds, targets, np.random.default_rng([run, seeds, targets])))[0]
        yield {name: (getattr(found, name), value) for name, value in truth.items()}


def _transfer(seeds: int, targets: int, rng: np.random.Generator) -> Transfer:
    shape = (seeds, targets, targets)
    base = rng.normal(size=(targets, targets))
    gains = 2 + base + rng.normal(0, 0.3, shape) + rng.normal(0, 0.3, (seeds, 1, 1))
    scores = base + rng.normal(0, 0.5, (targets, targets)) + rng.normal(0, 0.3, shape)
    names = tuple(f"task {i}" for i in range(targets))
    return Transfer("made up", names, "not at all", gains, (Scores("score", scores),))


def _verdict_truth(targets: int, draws: int = 200_000) -> dict[str, float]:
    """Means over a huge draw of targets with as many sources as ``targets`` leaves each."""
    rng = np.random.default_rng(1)
    base = rng.normal(size=(draws, targets - 1))
    gains = 2 + base + rng.normal(0, 0.3, base.shape) + rng.normal(0, 0.3, (draws, 1))
    scores = base + rng.normal(0, 0.5, base.shape) + rng.normal(0, 0.3, base.shape)
    chosen = gains[np.arange(draws), scores.argmax(1)]
    best = gains.max(1)
    ranks = [x.argsort(1).argsort(1) - (targets - 2) / 2 for x in (gains, scores)]
    rho = (ranks[0] * ranks[1]).sum(1) / (ranks[0] ** 2).sum(1)
    return {
        "top1": float((chosen == best).mean()),
        "share": float(chosen.sum() / best.sum()),
        "regret": float((best - chosen).mean()),
        "spearman": float(rho.mean()),
    }


# Mixtures


def mixtures(runs: int) -> Iterator[tuple[str, Iterator[Found]]]:
    for documents in MIXED_DOCUMENTS:
        yield f"{documents} documents", _mixtures(runs, documents)


def _mixtures(runs: int, documents: int) -> Iterator[Found]:
    centres = np.random.default_rng(0).normal(size=(len(BLEND), WIDTH)) + 0.7
    for run in range(runs):
        rng = np.random.default_rng([run, documents])
        counts = rng.multinomial(documents, BLEND).tolist()
        sources = [_signature(f"{i}", [(c, documents)], rng) for i, c in enumerate(centres)]
        target = _signature("target", list(zip(centres, counts, strict=True)), rng)
        found = mix(target, sources, by="joint")
        weights = zip(found.shares, BLEND, strict=True)
        yield {
            **{f"weight of {truth:.0%}": (share.weight, truth) for share, truth in weights},
            "total": (found.total, 1.0),
            "residual": (found.residual, 0.0),
        }


def _signature(
    name: str, parts: list[tuple[np.ndarray, int]], rng: np.random.Generator, each: int = 3
) -> Signature:
    """Documents of three samples: a centre and an effect of its own, times a lognormal size."""
    centre = np.concatenate([np.tile(centre, (count, 1)) for centre, count in parts])
    size = np.exp(rng.normal(-0.125, 0.5, (len(centre), 1)))
    document = size * (centre + rng.normal(0, 1.0, centre.shape))
    rows = np.repeat(document, each, 0) + rng.normal(0, 1.0, (len(centre) * each, WIDTH))
    joint = torch.from_numpy(rows * math.sqrt(WIDTH)).float()
    names = rng.integers(0, 1 << 63, len(centre), dtype=np.uint64)
    features = Features(joint, joint, joint, joint, joint.square().sum(1) / WIDTH)
    state = accumulate(empty(WIDTH, first=True, blocks=32), features, np.repeat(names, each))
    spec = SketchSpec(5, 4, m=WIDTH)
    identity = Identity(spec, "token", "empirical", "head", "body", "tokenizer")
    return Signature(name, identity, state, {})


# Divergences


def divergences(runs: int) -> Iterator[tuple[str, Iterator[Found]]]:
    for word, effect, within in (("", 0.3, 1.0), (", heavier", 0.6, 1.5)):
        for documents in DOCUMENTS:
            yield f"{documents} documents{word}", _divergences(runs, documents, effect, within)


def _divergences(runs: int, documents: int, effect: float, within: float) -> Iterator[Found]:
    normal, spread = NormalDist(), math.hypot(effect, within)
    z = normal.inv_cdf(0.99)
    for run in range(runs):
        rng = np.random.default_rng([run, documents])
        sizes = np.maximum(2, rng.lognormal(4.0, 0.8, documents)).astype(int)
        doc = np.repeat(np.arange(documents), sizes)
        of_document = rng.normal(0, effect, documents)[doc]
        kl = np.exp(-6 + of_document + rng.normal(0, within, doc.size))
        columns = DivergenceColumns(kl, kl, np.minimum(kl, 1), np.ones_like(kl))
        got = summarise_divergences(columns, doc, {}, resamples=RESAMPLES, seed=run)
        yield {
            "mean": (got.kl_forward.mean, math.exp(-6 + spread**2 / 2)),
            "median": (got.kl_forward.median, math.exp(-6)),
            "99 % quantile": (got.kl_forward.high, math.exp(-6 + z * spread)),
            "top-1 % share": (got.top_share, normal.cdf(spread - z)),
        }


def pairs(runs: int) -> Iterator[tuple[str, Iterator[Found]]]:
    for kind, effects in ((_net_flips, (0.4, 1.0)), (_mean_kl, (0.3, 0.6, 1.0))):
        for effect in effects:
            for documents in DOCUMENTS:
                words = f"{kind.__name__[1:].replace('_', ' ')}, {effect:g}, {documents} documents"
                yield words, _pairs(runs, documents, effect, kind)


def _pairs(runs: int, documents: int, effect: float, kind: MadeUp) -> Iterator[Found]:
    """Whether all pairs of five variants hold their truths at once.

    Half widths from the worst pair's interval to its truth: 1 at most where all of them hold.
    """
    for run in range(runs):
        rng = np.random.default_rng([run, documents])
        counts = rng.lognormal(4.5, 0.6, documents).round() + 1
        sums, truth = kind(rng, counts, effect)
        chosen = [(a, b) for a in range(len(truth)) for b in range(a)]
        values = np.stack([sums[a] - sums[b] for a, b in chosen])
        got = simultaneous_means([Sums(values, counts)], resamples=RESAMPLES, seed=run)
        worst = max(
            abs(one.value - (truth[a] - truth[b])) / max((one.high - one.low) / 2, 1e-12)
            for one, (a, b) in zip(got, chosen, strict=True)
            if one.value is not None and one.low is not None and one.high is not None
        )
        yield {"all ten pairs": (Estimate(worst, worst - 1, worst + 1), 0.0)}


def _net_flips(rng: Any, counts: Any, effect: float) -> tuple[Any, Any]:
    """Decisions that became right less wrong, by document: rates uneven between documents."""
    rates = np.array([0.002, 0.005, 0.01, 0.03, 0.05])
    uneven = np.exp(effect * rng.normal(size=counts.size) - effect**2 / 2)
    here = rates[:, None] * uneven * counts
    return (rng.poisson(0.5 * here) - rng.poisson(0.6 * here)).astype(float), -0.1 * rates


def _mean_kl(rng: Any, counts: Any, effect: float) -> tuple[Any, Any]:
    """Divergences, by document: lognormal, mostly by an effect on all variants alike."""
    means = np.array([1.0, 1.2, 2.0, 5.0, 6.0]) * 1e-3
    moved = effect * (rng.normal(size=counts.size) + rng.normal(size=(5, counts.size)) / 3)
    return means[:, None] * np.exp(moved - effect**2 * 5 / 9) * counts, means


# Layers

RHO_PARTS = (0.0, 0.0, -0.5, -0.5, 1.6)
"""How far the penalty of each depth goes with the loss, in logs."""


def layers(runs: int) -> Iterator[tuple[str, Iterator[Found]]]:
    for word, effect in (("", 0.3), (", harder", 0.8)):
        truth = _layers_found(_layers_stack(15_000, effect, np.random.default_rng(99)), 2, 0)
        for documents in LAYERS_DOCUMENTS:
            yield f"{documents} documents{word}", _layers(runs, documents, effect, truth)


def _layers(
    runs: int, documents: int, effect: float, truth: Mapping[str, Estimate]
) -> Iterator[Found]:
    for run in range(runs):
        stack = _layers_stack(documents, effect, np.random.default_rng([run, documents]))
        found = _layers_found(stack, RESAMPLES, run)
        single = {name: (one, float(truth[name])) for name, one in found.items()}
        held = [one for name, one in single.items() if name.startswith("together")]
        yield {name: one for name, one in single.items() if not name.startswith("together")} | {
            "rho at five depths at once": _at_once(held)
        }


def _at_once(held: list[tuple[Estimate, float]]) -> tuple[Estimate, float]:
    """Holds 0 where all intervals hold their truths; its width is their mean."""
    ends = [(one.low, one.high, truth) for one, truth in held if one.low is not None]
    if len(ends) < len(held):
        return Estimate(0.0), 0.0
    width = float(np.mean([high - low for low, high, _ in ends]))
    missed = any(not low <= truth <= high for low, high, truth in ends)
    return Estimate(2.0 * missed, 2.0 * missed, 2.0 * missed + width), 0.0


def _layers_found(stack: LensStack, resamples: int, seed: int) -> dict[str, Estimate]:
    how = {"resamples": resamples, "seed": seed}
    pairs = [(penalty, stack.final_nll) for penalty in stack.cosine_penalty]
    rho = RankCorrelations.of(pairs, *stack.clusters)
    alone, together = rho.estimates(**how), rho.together(**how)
    kind = (stack.pos % 3).astype(np.int8)
    settled = settling(stack, kind, kind, **how)
    k = len(stack.depths)
    means = mean_estimates(
        stack.sums(np.concatenate([stack.agrees[2:3], stack.kl_final[2:3]])),
        stack.sizes(),
        [(0.0, 1.0), (0.0, math.inf)],
        **how,
    )
    return {
        "rho, early": alone[0],
        "rho, middle": alone[2],
        "rho, last": alone[-1],
        **{f"together {i}": together[i] for i in range(k)},
        "settling depth": settled.mean,
        "settling depth of a class": settled.by_class[1].mean,
        "settled by depth 2": settled.by_depth[2].by_then,
        "wrong less right": settled.wrong_less_right,
        "earlier than independent": settled.earlier,
        "agreement": means[0],
        "mean KL": means[1],
    }


def _layers_stack(documents: int, effect: float, rng: np.random.Generator) -> LensStack:
    depths = len(RHO_PARTS)
    sizes = np.maximum(2, rng.lognormal(4.0, 0.8, documents)).astype(int)
    doc = np.repeat(np.arange(documents), sizes)
    n = doc.size
    hard = rng.normal(0, effect, documents)[doc] + rng.normal(0, 1.0, n)
    loss = rng.gamma(0.6, np.exp(0.8 * hard))
    walk = np.cumsum(rng.normal(0, 0.5, (depths, n)), axis=0)
    agrees = hard + walk < np.linspace(-1.0, 2.0, depths)[:, None]
    agrees[-1] = True
    right = rng.random(n) < 1 / (1 + np.exp(hard - 1))
    goes = np.array(RHO_PARTS)[:, None] * np.log(loss + 0.02) / 2
    own = rng.normal(0, 1.0, (depths, n)) * np.where(np.array(RHO_PARTS) > 1, 0.7, 1.0)[:, None]
    penalty = np.exp(goes + effect / 2 * rng.normal(size=documents)[doc] + own)
    kl = np.exp(-1 + hard + walk) * np.linspace(2, 0, depths)[:, None]
    columns = {
        "nll": np.tile(loss, (depths, 1)),
        "entropy": kl,
        "kl_final": kl,
        "acceptance": np.exp(-kl),
        "margin": np.exp(walk - hard),
        "relative_distance": np.exp(walk - hard),
        "cosine_penalty": penalty,
        "fisher_penalty": penalty,
    }
    ones = np.ones((depths, n), dtype=np.int64)
    return LensStack(
        lens="made up",
        depths=tuple(range(depths)),
        blocks=depths - 1,
        doc=doc,
        pos=np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes),
        target=right.astype(np.int64),
        top1=agrees.astype(np.int64),
        rank=ones,
        final_rank=ones,
        final_top1=ones[0],
        final_nll=loss.astype(np.float32),
        final_margin=columns["margin"][-1].astype(np.float32),
        **{name: column.astype(np.float32) for name, column in columns.items()},
    )


SETTINGS = {
    "verdicts": verdicts,
    "mixtures": mixtures,
    "divergences": divergences,
    "pairs": pairs,
    "layers": layers,
    "networks": networks,
}

if __name__ == "__main__":
    main()
