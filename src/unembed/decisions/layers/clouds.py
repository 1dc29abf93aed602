"""The states of some positions at every depth, of the text and of it shuffled, until measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import nn

from unembed.decisions.cloud.cloud import HEAD_INPUT, Cloud, cloud
from unembed.decisions.cloud.controls import shuffled_windows
from unembed.decisions.cloud.reservoir import Reservoir, Taken
from unembed.models.depths import Depths
from unembed.models.model_pass import ALONE, ModelPass
from unembed.models.streams import Streams
from unembed.runs.phases import Phases
from unembed.runs.ranks import Ranks
from unembed.text.batches import Batch

FOLDERS = ("states", "shuffled-states")


@dataclass(frozen=True)
class Clouds:
    """What is kept of a text for the shape of its clouds; ``reading`` is of the shuffled text."""

    text: Reservoir
    shuffled: Reservoir
    reading: ModelPass
    depths: Depths
    seed: int

    @staticmethod
    def of(
        folder: Path,
        reading: ModelPass,
        depths: Depths,
        measured: Sequence[int],
        points: int | None,
        seed: int,
    ) -> Clouds:
        """Choose the positions; None takes the last of each document."""
        where = (*measured, HEAD_INPUT)
        text, shuffled = (
            Reservoir.of(folder / name, reading.windows, where, points=points, seed=seed)
            for name in FOLDERS
        )
        other = replace(reading, windows=shuffled_windows(reading.windows, seed=seed))
        return Clouds(text, shuffled, other, depths, seed)

    def check_room(self) -> None:
        """Raise UnembedError where the states do not fit on the disk."""
        head = self.reading.head
        widths = dict(enumerate(self.depths.widths)) | {HEAD_INPUT: head.dim}
        for one in (self.text, self.shuffled):
            one.check_room(widths, head.weight.dtype)

    def take(self, streams: Streams, batch: Batch) -> Taken:
        """Those of a batch of the text."""
        return _taken(self.text, streams, batch)

    @staticmethod
    def kept(one: Reservoir, ranks: Ranks) -> frozenset[str]:
        """The parts whose states are there, as process 0 sees them."""
        return frozenset(ranks.from_first(f"the states in {one.files.folder}", sorted(one.parts)))

    def read_shuffled(self, bar: Any, phases: Phases, ranks: Ranks = ALONE) -> None:
        """Read the shuffled text, by the body alone; ``ranks`` share its parts."""
        wanted = [depth for depth in self.shuffled.depths if depth != HEAD_INPUT]

        def work(team: tuple[nn.Module, ...], batch: Batch, share: Phases) -> Taken:
            streams = self.reading.streams(team[0], batch, share, self.depths, wanted)
            return _taken(self.shuffled, streams, batch)

        done = self.kept(self.shuffled, ranks)
        for part, pieces in self.reading.results(work, bar, phases, done=done, ranks=ranks):
            if ranks.writes:
                self.shuffled.write(part, pieces)

    def measure(self, bar: Any, resamples: int) -> Cloud:
        """The shape of the cloud at every depth."""
        kept, parts = self.text, list(self.reading.parts_by_name())

        def read(depth: int) -> Float[np.ndarray, "points width"]:
            bar.update(depth != kept.depths[0])  # the one before is measured
            return kept.read(depth, parts)

        found = cloud(
            read,
            kept.depths,
            kept.documents,
            seed=self.seed,
            shuffled=lambda depth: self.shuffled.read(depth, parts),
            resamples=resamples,
        )
        bar.update(1)
        return found

    def remove(self) -> None:
        """Delete the states."""
        for one in (self.text, self.shuffled):
            one.remove()


def _taken(kept: Reservoir, streams: Streams, batch: Batch) -> Taken:
    return kept.take(batch, {**streams.states, HEAD_INPUT: streams.hidden})
