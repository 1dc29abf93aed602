"""The positions at which every depth is compared, and their states on disk until that is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.decisions.cloud.cloud import HEAD_INPUT
from unembed.decisions.kept_states import PartFiles, keys_of, position_keys
from unembed.errors import UnembedError
from unembed.runs.files import check_room
from unembed.text.batches import Batch
from unembed.text.windows import Windows

POINTS = 5_000
"""Positions that are drawn unless another number is given."""

KEY = "key"


@dataclass(frozen=True)
class Taken:
    """Those of a batch's positions that were chosen, and their states at every depth."""

    key: Int[Tensor, " chosen"]
    states: dict[int, Float[Tensor, "chosen width"]]


@dataclass(frozen=True)
class Reservoir:
    """Positions chosen before a text is read, and a folder that keeps their states.

    ``keys`` number the chosen positions in order of the text. ``depths`` are those that are kept;
    -1 is the head's input. As one pass goes::

        kept = Reservoir.of(run / "states", reading.windows, (*depths, HEAD_INPUT), seed=seed)
        kept.check_room({depth: width, ...}, dtype)
        # for each batch
        taken = kept.take(batch, {**streams.states, HEAD_INPUT: streams.hidden})
        # for each part whose tables are written; a part counts as done where both are there
        kept.write(part, [taken, ...])
        # after the last part
        cloud(kept.read, kept.depths, kept.documents, seed=seed)
        kept.remove()

    For the shuffled text the same with ``shuffled_windows(reading.windows, seed=seed)`` in the
    pass, in another folder: it has the same positions.
    """

    files: PartFiles
    keys: Int[np.ndarray, " points"]
    depths: tuple[int, ...]

    @staticmethod
    def of(
        folder: Path,
        windows: Windows,
        depths: Sequence[int],
        *,
        points: int | None = POINTS,
        seed: int = 0,
    ) -> Reservoir:
        """Draw ``points`` positions of the windows, all where there are no more.

        None takes the last position of each document instead, as published work does.
        """
        chosen = _last_of_each(windows) if points is None else _drawn(windows, points, seed)
        return Reservoir(PartFiles(folder), np.sort(chosen), tuple(depths))

    @property
    def documents(self) -> Int[np.ndarray, " points"]:
        """The number of each position's document."""
        found: Int[np.ndarray, " points"] = self.keys >> 32
        return found

    @property
    def parts(self) -> frozenset[str]:
        """The parts whose states are written."""
        return self.files.parts

    def check_room(self, widths: Mapping[int, int], dtype: torch.dtype) -> None:
        """Raise UnembedError where the states that are left to write do not fit on the disk.

        ``widths`` are those of the states at each depth, ``dtype`` what they come in.
        """
        each = sum(widths[depth] for depth in self.depths) * dtype.itemsize + 8
        written = sum(path.stat().st_size for path in self.files.folder.glob("*"))
        left = max(0, len(self.keys) * each - written)
        check_room(self.files.folder, left, f"states of {len(self.keys):,} positions at all depths")

    def take(self, batch: Batch, states: Mapping[int, Float[Tensor, "positions width"]]) -> Taken:
        """The states of a batch's chosen positions, on the CPU.

        A position that is not finite at one depth is made so at all of them: every depth has the
        same positions.
        """
        keys = keys_of(batch)
        rows = np.flatnonzero(np.isin(keys, self.keys, assume_unique=True))
        index = torch.from_numpy(rows)
        found = {d: states[d][index.to(states[d].device)].cpu() for d in self.depths}
        finite = torch.ones(len(rows), dtype=torch.bool)
        for one in found.values():
            finite &= torch.isfinite(one).all(dim=1)
        for one in found.values():
            one[~finite] = torch.nan
        return Taken(torch.from_numpy(keys[rows]), found)

    def write(self, part: str, pieces: Sequence[Taken]) -> None:
        """Write those of a part's batches, whole or not at all."""
        tensors = {KEY: torch.cat([one.key for one in pieces])}
        for depth in self.depths:
            tensors[_name(depth)] = torch.cat([one.states[depth] for one in pieces])
        self.files.write_tensors(part, tensors)

    def read(
        self, depth: int, parts: Iterable[str] | None = None
    ) -> Float[np.ndarray, "points width"]:
        """The states at a depth in float32 or wider, in the order of ``keys``.

        ``parts`` are those that were written, where a listing of the folder may not show them yet,
        as of one that several machines share. Raises UnembedError where a position's are not there.
        """
        if depth not in self.depths:
            raise UnembedError(
                f"depth {depth} was not kept: there are {', '.join(map(str, self.depths))}"
            )
        keys, states = [], []
        for part in sorted(self.parts if parts is None else parts):
            key, found = self.files.tensors(part, (KEY, _name(depth)))
            keys.append(key)
            states.append(found if found.dtype == torch.float64 else found.float())
        every = torch.cat(keys).numpy() if keys else np.zeros(0, dtype=np.int64)
        order = np.argsort(every)
        if not np.array_equal(every[order], self.keys):
            raise self.files.damaged(f"{len(every):,} of {len(self.keys):,} positions are there")
        whole: Float[np.ndarray, "points width"] = torch.cat(states).numpy()[order]
        return whole

    def remove(self) -> None:
        """Delete the folder."""
        self.files.remove()


def _name(depth: int) -> str:
    return "head_input" if depth == HEAD_INPUT else f"depth_{depth:03d}"


def _drawn(windows: Windows, points: int, seed: int) -> Int[np.ndarray, " points"]:
    """Keys of positions that count, drawn evenly from all of them."""
    if points < 1:
        raise UnembedError(f"a cloud needs a position, got {points}: give at least 1")
    every = windows.positions
    generator = np.random.default_rng(seed)
    chosen = np.sort(generator.choice(every, min(points, every), replace=False))
    ends = np.cumsum(windows.counts)
    window = np.searchsorted(ends, chosen, side="right")
    found = np.empty(len(chosen), dtype=np.int64)
    for i in np.unique(window).tolist():
        here = window == i
        within = chosen[here] - (ends[i] - windows.counts[i])
        places = windows.pos[i] + np.flatnonzero(windows.counted(i))[within]
        found[here] = position_keys(np.full(len(places), windows.doc[i]), places)
    return found


def _last_of_each(windows: Windows) -> Int[np.ndarray, " documents"]:
    """Keys of the last position that counts in each document."""
    last: dict[int, int] = {}
    for i, document in enumerate(windows.doc.tolist()):
        place = int(windows.pos[i]) + int(np.flatnonzero(windows.counted(i))[-1])
        last[document] = max(place, last.get(document, -1))
    doc, pos = (np.fromiter(one, dtype=np.int64) for one in (last.keys(), last.values()))
    return position_keys(doc, pos)
