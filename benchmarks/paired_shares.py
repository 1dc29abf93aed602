"""How often intervals of a difference of two shares hold the truth, and how wide they are.

    python benchmarks/paired_shares.py --runs 2000

Samples are right or wrong before and after. Without documents (size 1) Tango's interval stands
beside the studentised bootstrap; in documents of uneven sizes, whose rates of change differ (beta
distributed, by the intraclass correlation given), Tango's of the effective number does. The
bootstrap is drawn a tenth as often, with 800 resamples.
"""

from __future__ import annotations

import argparse

import numpy as np

from unembed.stats.paired_shares import clustered_paired_share_interval, paired_share_interval
from unembed.stats.studentised import mean_estimates

ALONE = [
    (n, 1, rate, gains, 0.0)
    for n in (20, 100, 300, 1000)
    for rate, gains in ((0.01, 0.7), (0.03, 0.7), (0.03, 0.9), (0.1, 0.7), (0.3, 0.5))
]
RATES = ((0.03, 0.7, 0.0), (0.03, 0.7, 0.5), (0.1, 0.7, 0.3), (0.3, 0.5, 0.3))
IN_DOCUMENTS = [(n, size, *one) for n in (16, 40, 100, 400) for size in (3, 10) for one in RATES]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--runs", type=int, default=2000)
    runs = asked.parse_args().runs
    generator = np.random.default_rng(1)
    print("documents  size  changed  gains   icc   Tango  width  bootstrap  width")
    for documents, size, rate, gains, icc in (*ALONE, *IN_DOCUMENTS):
        truth, held, widths = rate * (2 * gains - 1), ([], []), ([], [])
        for run in range(runs):
            sizes = np.ones(documents, int)
            if size > 1:
                sizes = generator.integers(1, 2 * size, documents)
            rates, shares = np.full((2, documents), [[rate], [gains]])
            if icc:
                more = (1 - icc) / icc
                rates = generator.beta(rate * more, (1 - rate) * more, documents)
                shares = generator.beta(gains * more, (1 - gains) * more, documents)
            changed = generator.binomial(sizes, rates)
            gained = generator.binomial(changed, shares)
            net, whole = (2.0 * gained - changed), sizes.astype(float)
            counts = int(gained.sum()), int(changed.sum() - gained.sum())
            if size == 1:
                found = [paired_share_interval(*counts, documents)]
            else:
                found = [clustered_paired_share_interval(net, whole, *counts)]
            if run % 10 == 0:
                [one] = mean_estimates(net[None], whole, [(-1.0, 1.0)], resamples=800)
                found.append((one.low, one.high))
            for at, (low, high) in enumerate(found):
                held[at].append(low <= truth <= high)
                widths[at].append(high - low)
        figures = "  ".join(
            f"{np.mean(h):.3f} {np.mean(w):.4f}" for h, w in zip(held, widths, strict=True)
        )
        print(f"{documents:9d} {size:5d} {rate:8} {gains:6} {icc:5}   {figures}", flush=True)


if __name__ == "__main__":
    main()
