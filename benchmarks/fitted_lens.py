"""What penalty serves the fitted lens: its KL on the documents that it was not fitted on.

    python benchmarks/fitted_lens.py MODEL TEXT --positions 4000 --document '^ = [^=]'

A line for each penalty, over the mean variance of the states' coordinates; at every depth the mean
KL from the final distribution to the lens's in nats.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from unembed.decisions.layers.fitted import NormalEquations
from unembed.decisions.layers.options import LayersOptions
from unembed.decisions.layers.run import LayersRun
from unembed.head.beside_final import sweep_beside_final
from unembed.models.checkpoint import load
from unembed.models.streams import Streams
from unembed.runs.phases import Phases
from unembed.runs.progress import progress_bar
from unembed.text.batches import Batch
from unembed.text.corpus import Corpus

PENALTIES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--positions", type=int, default=4_000)
    parser.add_argument("--document")
    given = parser.parse_args()
    checkpoint = load(given.model)
    corpus = Corpus.read(given.text, checkpoint.tokenizer, document=given.document)
    options = LayersOptions(max_positions=given.positions)
    run = LayersRun.of(checkpoint.model.eval(), corpus, options, given.model)
    reading, split = run.reading, run.split
    assert split is not None
    sums = NormalEquations(run.widths, reading.head.dim)
    states: dict[int, list[Tensor]] = {depth: [] for depth in run.measured}
    final, targets = [], []

    def work(team: tuple[nn.Module, ...], batch: Batch, share: Phases) -> tuple[Batch, Streams]:
        return batch, reading.streams(team[0], batch, share, run.depths, run.measured)

    with progress_bar("states", "tok", None, False) as bar:
        for _part, (batch, streams) in reading.each(work, bar, Phases()):
            fair = torch.from_numpy(split.measured(batch.doc))
            sums.add({d: one[~fair] for d, one in streams.states.items()}, streams.hidden[~fair])
            for depth, one in streams.states.items():
                states[depth].append(one[fair])
            final.append(streams.hidden[fair])
            targets.append(batch.targets[fair])
    width = max(run.widths.values())
    print(f"{sums.n:,} positions fitted on, {sums.n / width:.1f} a coordinate")
    for penalty in PENALTIES:
        found = []
        for depth in run.measured:
            lens, _explained = sums.solve(depth, penalty * sums.n / run.widths[depth])
            seen = lens(torch.cat(states[depth]), reading.precision.float32_route)
            _swept, [beside] = sweep_beside_final(
                torch.cat(final),
                [lambda rows, seen=seen: seen[rows]],
                reading.head,
                torch.cat(targets),
                precision=reading.precision,
            )
            found.append(float(beside.kl_final.mean()))
        print(f"{penalty:g}", *(f"{kl:.4f}" for kl in found))


if __name__ == "__main__":
    main()
