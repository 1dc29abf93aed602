"""Dimension estimates of known manifolds, how often their intervals hold, and what a cloud costs.

    python benchmarks/cloud.py --of error --points 1000 --runs 20
    python benchmarks/cloud.py --of coverage --runs 300
    python benchmarks/cloud.py --of cost

``error``: estimates of balls, spheres and flat tori, mean and spread over clouds.
``coverage``: the share of made-up texts whose interval holds the mean over such texts. ``cost``:
seconds of depths with both controls, and the most memory.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from made_up.manifolds import KINDS, manifold
from unembed.decisions.cloud.cloud import cloud
from unembed.decisions.cloud.dimensions import LISTED, Dimensions, dimensions
from unembed.decisions.cloud.neighbours import neighbours_of
from unembed.decisions.cloud.spectrum import spectrum
from unembed.stats.estimate import Estimate

NAMES = ("TwoNN", "TwoNN, ML", "Levina-Bickel", *(f"Gride {2**i}" for i in range(7)))


def estimates(found: Dimensions) -> list[Estimate]:
    return [found.two_nn, found.two_nn_ml, found.levina_bickel, *(p.dimension for p in found.gride)]


def print_errors(runs: int, points: int) -> None:
    print(f"| {points:,} points, {runs} runs |", " | ".join(NAMES), "|")
    print("|---" * (len(NAMES) + 1) + "|")
    for kind in KINDS:
        for dimension in (2, 5, 10, 20):
            generator = np.random.default_rng(0)
            rows = []
            for _ in range(runs):
                states = manifold(kind, dimension, points, generator)
                found = dimensions(neighbours_of(states, 128), None)
                rows.append([float(one) for one in estimates(found)])
            means, spreads = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1)
            cells = (f"{m:.2f} ± {s:.2f}" for m, s in zip(means, spreads, strict=True))
            print(f"| {kind} {dimension} |", " | ".join(cells), "|", flush=True)


def made_up_text(
    documents: int, each: int, alike: float | None, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points near a sphere's, of documents that lie around a point of their own; None: they do not.

    ``alike`` is the spread within a document over that between documents; sizes are uneven.
    """
    sizes = 1 + generator.poisson(each - 1, documents)
    document = np.repeat(np.arange(documents), sizes)
    states = generator.standard_normal((len(document), 11))
    if alike is not None:
        states = alike * states + generator.standard_normal((documents, 11))[document]
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    return states, document


def print_coverage(runs: int) -> None:
    spectral = ("entropy", "participation", "leading", "cosine", "norm", "mean share")
    print("| documents × positions, spread within |", " | ".join((*NAMES, *spectral)), "|")
    print("|---" * (len(NAMES) + len(spectral) + 1) + "|")
    for documents, each, alike in (
        (20, 50, 1.0),
        (60, 20, None),
        (60, 20, 1.0),
        (60, 20, 0.5),
        (200, 10, 1.0),
        (1000, 1, None),
    ):
        generator = np.random.default_rng(0)
        every = []
        for run in range(runs):
            states, document = made_up_text(documents, each, alike, generator)
            sizes = dimensions(neighbours_of(states, LISTED), document, seed=run)
            stretched = 2 + states * np.exp(-np.arange(states.shape[1]) / 5)
            flat, _ = spectrum(stretched, document, resamples=1000, seed=run)
            every.append(
                [
                    *estimates(sizes),
                    flat.entropy_nats,
                    flat.participation_ratio,
                    flat.leading_share,
                    flat.mean_cosine,
                    flat.mean_norm,
                    flat.mean_share,
                ]
            )
        cells = []
        for column in zip(*every, strict=True):
            values = np.array([np.nan if one.value is None else one.value for one in column])
            low = np.array([np.nan if one.low is None else one.low for one in column])
            high = np.array([np.nan if one.high is None else one.high for one in column])
            truth = np.nanmean(values)
            held = (low <= truth) & (truth <= high)
            cells.append("–" if np.isnan(low).any() else f"{held.mean():.3f}")
        print(f"| {documents} × {each}, {alike or 'all'} |", " | ".join(cells), "|", flush=True)


def print_cost(points: int, width: int, depths: int) -> None:
    generator = np.random.default_rng(0)
    document = np.repeat(np.arange(points // 20), 20)
    centres = generator.standard_normal((points // 20, 40))[document]
    states = [
        np.tanh(
            (centres + generator.standard_normal((points, 40)))
            @ generator.standard_normal((40, width))
        )
        for _ in range(2)
    ]
    text, shuffled = (one.astype(np.float32) for one in states)
    begun, cpu = time.perf_counter(), time.process_time()
    cloud(lambda _: text, range(depths), document, shuffled=lambda _: shuffled)
    seconds, used = time.perf_counter() - begun, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{points:,} x {width}, {depths} depths: {seconds:.1f} s, {used:.1f} s of processors, "
        f"{peak:,.0f} MiB at most"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--of", choices=("error", "coverage", "cost"), required=True)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--points", type=int, default=5_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--depths", type=int, default=13)
    given = parser.parse_args()
    if given.of == "error":
        print_errors(given.runs, given.points)
    elif given.of == "coverage":
        print_coverage(given.runs)
    else:
        print_cost(given.points, given.width, given.depths)


if __name__ == "__main__":
    main()
