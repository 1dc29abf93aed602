"""How often the places named as most and least alike hold the true ones, and how often one alone.

``python benchmarks/network_places.py --runs 200``: made-up networks of three depths and a head,
whose two tasks are less alike the deeper; the truth is that of the exact kernels of a large draw.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from made_up.network_signatures import NetworkTask, modules, network_signed, network_task
from unembed.signatures.network.align import align_networks

MODULES = modules(3)
PLACES = {
    **{f"depth:{d}": [one.name for one in MODULES if one.depth == d] for d in range(3)},
    "head": ["head"],
}
LARGE = 4000
"""Windows that the truth is of."""


def task(law: int, windows: int, seed: int) -> NetworkTask:
    """Some windows of one of two tasks."""
    return network_task(windows, seed, tilt=0.25, of=MODULES, law=law)


def exact(tasks: Sequence[NetworkTask], names: Sequence[str]) -> float:
    """The cosine of the Fishers of some modules, each by itself, without pairs of one sample."""
    gradients = [[one.gradient(name) for one in tasks] for name in names]

    def product(i: int, j: int) -> float:
        squares = np.sum([(g[i] @ g[j].T) ** 2 for g in gradients], axis=0)
        n = len(squares)
        return float(
            squares.mean() if i != j else (squares.sum() - np.trace(squares)) / (n * n - n)
        )

    return product(0, 1) / float(np.sqrt(product(0, 0) * product(1, 1)))


def main() -> None:
    """Print a line for each number of windows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--m", type=int, default=256)
    asked = parser.parse_args()
    large = [task(law, LARGE, 10_000 + law) for law in (0, 1)]
    truth = {place: exact(large, names) for place, names in PLACES.items()}
    print("truth", {place: round(value, 3) for place, value in truth.items()})
    most, least = (end(truth, key=lambda one: truth[one]) for end in (max, min))
    for windows in (80, 400):
        held, alone = np.zeros(2), np.zeros(2)
        for run in range(asked.runs):
            found = align_networks(
                [
                    network_signed(
                        "ab"[law],
                        task(law, windows, 2 * run + law),
                        of=MODULES,
                        m=asked.m,
                        seed=run,
                    )
                    for law in (0, 1)
                ]
            )
            ends = found.extremes_of((0, 1))
            held += [most in ends.most, least in ends.least]
            alone += [len(ends.most) == 1, len(ends.least) == 1]
        shares = [(one / asked.runs).round(3).tolist() for one in (held, alone)]
        print(f"{windows} windows: truth among the named {shares[0]}, named alone {shares[1]}")


if __name__ == "__main__":
    main()
