"""The passes of a run of layers over a text: what is fixed before, and the tables they yield."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unembed.decisions.audit.run import STORED_SHARE, Columns, joined, to_table
from unembed.decisions.cloud.reservoir import Taken
from unembed.decisions.kept_states import position_keys
from unembed.decisions.layers.clouds import Clouds
from unembed.decisions.layers.columns import bytes_a_position, depth_columns, final_itself
from unembed.decisions.layers.fit_sums import Chosen, FitSums
from unembed.decisions.layers.fitted import (
    LENS_FILE,
    RIDGE,
    FittedLens,
    NormalEquations,
    Split,
)
from unembed.decisions.layers.names import Lens
from unembed.decisions.layers.options import LayersOptions
from unembed.errors import NonFiniteError, UnembedError
from unembed.head.beside_final import sweep_beside_final
from unembed.models.depths import Depths
from unembed.models.model_pass import ALONE, ModelPass
from unembed.models.replicas import single_threads
from unembed.models.streams import Streams
from unembed.runs.arrays import numbers_of, read_table
from unembed.runs.files import check_room
from unembed.runs.memory import check_memory
from unembed.runs.phases import Phases
from unembed.runs.provenance import Provenance, provenance_of
from unembed.runs.ranks import Ranks
from unembed.runs.store import RunFolder
from unembed.text.batches import Batch
from unembed.text.corpus import Corpus

Place = tuple[Lens, int]
"""A lens and a depth: what a table is of."""
Tables = dict[Place, pa.Table]
MakesStates = Callable[[slice], Float[Tensor, "rows dim"]]


@dataclass(frozen=True)
class LayersRun:
    """Everything that is fixed before the first batch of a run of layers.

    ``measured`` are the depths, the last among them. ``not_measured`` says of a lens that was asked
    for why it is not among ``lenses``. ``split`` is there where the fitted lens is among them, and
    ``given`` where that is an earlier run's.
    """

    reading: ModelPass
    depths: Depths
    measured: tuple[int, ...]
    lenses: tuple[Lens, ...]
    not_measured: Mapping[Lens, str]
    split: Split | None
    given: FittedLens | None
    provenance: Provenance
    options: LayersOptions
    nonfinite: list[int]

    @staticmethod
    def of(model: nn.Module, corpus: Corpus, options: LayersOptions, name: str) -> LayersRun:
        """Prepare the passes and collect the provenance. Raises UnembedError as ``layers``."""
        given = None if options.fitted_lens is None else FittedLens.read(options.fitted_lens)
        depths = Depths.of(model)
        measured = options.wanted(depths)
        reading = ModelPass.of(model, corpus, options, name, hash_model=True)
        head, windows = reading.head, reading.windows
        options.check_candidates(head.tokens)
        widths = {depth: depths.widths[depth] for depth in measured}
        not_measured: dict[Lens, str] = {}
        others = sorted({width for width in widths.values() if width != head.dim})
        if "raw" in options.lenses and others:
            not_measured["raw"] = (
                f"states are {' and '.join(f'{width:,}' for width in others)} wide, and the head "
                f"reads {head.dim:,}"
            )
        elif "raw" in options.lenses and head.softcap is not None:
            not_measured["raw"] = (
                f"the head caps its logits at {head.softcap:g}, and those of states that no norm "
                "has scaled may all round to the cap"
            )
        lenses = tuple(lens for lens in options.lenses if lens not in not_measured)
        digest, text = reading.model_digest(), windows.facts
        split = None
        if given is not None and options.fitted_lens is not None:
            given.check(options.fitted_lens, name, digest, widths, head.dim)
            split = given.split_of(corpus.digest)
            split.check(np.unique(windows.doc))
        elif "fitted" in lenses:
            split = Split.of(np.unique(windows.doc), options.seed)
            _check_fit(split, reading, tuple(widths.values()))
        fixed: dict[str, Any] = {
            "depths": list(measured),
            "blocks": depths.blocks,
            "tail": str(depths.tail),
            "lenses": list(lenses),
            "not_measured": dict(not_measured),
            "top_k": options.top_k,
            **reading.how_read(options),
        }
        if given is not None:
            fixed["fitted_lens"] = given.digest
        elif split is not None:
            fixed["ridge"] = RIDGE
        if options.cloud_points:
            fixed["cloud"] = "last" if options.cloud_last else options.cloud_points
        if options.cloud_points or "ridge" in fixed:
            fixed["seed"] = options.seed
        provenance = provenance_of(
            "layers",
            name,
            model,
            head,
            reading.precision,
            text,
            reading.plan.batch_tokens,
            reading.plan.part_positions,
            fixed,
            threads=reading.threads,
            model_digest=digest,
        )
        return LayersRun(
            reading=reading,
            depths=depths,
            measured=measured,
            lenses=lenses,
            not_measured=not_measured,
            split=split,
            given=given,
            provenance=provenance,
            options=options,
            nonfinite=[],
        )

    @property
    def places(self) -> tuple[Place, ...]:
        """Every lens at every depth."""
        return tuple((lens, depth) for lens in self.lenses for depth in self.measured)

    @property
    def fits(self) -> bool:
        """Whether a lens is to be fitted."""
        return self.split is not None and self.given is None

    @property
    def widths(self) -> dict[int, int]:
        """How wide the states of each measured depth are."""
        return {depth: self.depths.widths[depth] for depth in self.measured}

    def fit(self, folder: RunFolder | None, bar: Any, phases: Phases) -> FittedLens | None:
        """Read the text once for the normal equations, on the half that is fitted on.

        Ranks share it, and the first makes the lens; None on the others. Raises UnembedError where
        the sums do not fit on the disk.
        """
        assert self.split is not None
        split, wanted, made = self.split, self.measured, self.provenance
        parts = self.reading.parts_by_name()
        ranks, where = (ALONE, None) if folder is None else (folder.ranks, folder.folder)
        sums = FitSums.of(list(parts), self.widths, self.reading.head.dim, ranks, where)

        def work(team: tuple[nn.Module, ...], batch: Batch, share: Phases) -> Chosen | None:
            chosen = ~split.measured(batch.doc)
            if not chosen.any():
                return None
            streams = self.reading.streams(team[0], batch, share, self.depths, wanted)
            rows = torch.from_numpy(chosen).to(streams.hidden.device)
            return {d: streams.states[d][rows] for d in wanted}, streams.hidden[rows]

        def read(own: frozenset[str]) -> Iterator[tuple[str, Chosen | None]]:
            if len(own) < len(parts) and not bar.disable:
                bar.reset(sum(self.reading.positions_of(parts[part]) for part in own))
            return self.reading.each(work, bar, phases, left_out=frozenset(parts) - own)

        with single_threads(torch.get_num_threads()) as pool:
            total = sums.total(read, pool.map, phases)
            if total is None:
                return None
            with phases("fit"):
                about = (made.model, made.model_digest, made.text.digest)
                return FittedLens.of(total, split, *about, pool.map)

    def clouds(self, folder: Path) -> Clouds | None:
        """What keeps states in a folder for the shape of their clouds, if that was asked for."""
        options = self.options
        if not options.cloud_points:
            return None
        points = None if options.cloud_last else options.cloud_points
        return Clouds.of(folder, self.reading, self.depths, self.measured, points, options.seed)

    def parts(
        self,
        done: frozenset[str],
        lens: FittedLens | None,
        clouds: Clouds | None,
        bar: Any,
        phases: Phases,
        ranks: Ranks = ALONE,
    ) -> Iterator[tuple[str, Tables, list[Taken]]]:
        """The parts that are not done yet: name, a table for each lens and depth, states kept.

        They are shared out among ``ranks``.
        """

        def work(
            team: tuple[nn.Module, ...], batch: Batch, share: Phases
        ) -> tuple[list[dict[Place, Columns]], list[Taken]]:
            streams = self.reading.streams(team[0], batch, share, self.depths, self.measured)
            with share("head"):
                columns = [
                    self._columns(streams, batch, lens, chosen, lenses)
                    for chosen, lenses in self._shares(batch)
                ]
            return columns, [] if clouds is None else [clouds.take(streams, batch)]

        for part, pieces in self.reading.results(work, bar, phases, done=done, ranks=ranks):
            tables = self._tables([one for columns, _taken in pieces for one in columns])
            yield part, tables, [one for _columns, taken in pieces for one in taken]

    def _shares(self, batch: Batch) -> Iterator[tuple[Int[np.ndarray, " rows"], tuple[Lens, ...]]]:
        """Rows of a batch, and the lenses that measure them: the fitted one not all."""
        if self.split is None:
            yield np.arange(len(batch.doc)), self.lenses
            return
        fair = self.split.measured(batch.doc)
        without = tuple(lens for lens in self.lenses if lens != "fitted")
        for rows, lenses in ((np.flatnonzero(fair), self.lenses), (np.flatnonzero(~fair), without)):
            if len(rows):
                yield rows, lenses

    def _columns(
        self,
        streams: Streams,
        batch: Batch,
        lens: FittedLens | None,
        chosen: Int[np.ndarray, " rows"],
        lenses: tuple[Lens, ...],
    ) -> dict[Place, Columns]:
        """The columns of some of a batch's rows under these lenses, at every depth."""
        head, precision = self.reading.head, self.reading.precision
        index = torch.from_numpy(chosen).to(streams.hidden.device)
        targets = batch.targets.to(index.device)[index]
        final = streams.hidden[index]
        last: Place = ("normed", self.depths.blocks)
        others = {
            (name, depth): self._states(name, depth, streams, lens, index)
            for name in lenses
            for depth in self.measured
            if (name, depth) != last
        }
        swept, beside = sweep_beside_final(
            final, list(others.values()), head, targets, k=self.options.top_k, precision=precision
        )
        found = dict(zip(others, beside, strict=True)) | {last: final_itself(swept)}
        columns = {}
        for place, one in found.items():
            hidden = final if place == last else others[place](slice(0, len(index)))
            made = depth_columns(hidden, one, head, targets, self.options.top_k, precision)
            columns[place] = made | {"doc": batch.doc[chosen], "pos": batch.pos[chosen]}
        return columns

    def _states(
        self,
        name: Lens,
        depth: int,
        streams: Streams,
        lens: FittedLens | None,
        index: Int[Tensor, " rows"],
    ) -> MakesStates:
        """What a lens gives the head at a depth, made for the rows that are asked for."""
        if name == "normed":
            replayed = streams.replayed[depth]
            return lambda rows: replayed[index[rows]]
        states = streams.states[depth]
        if name == "raw":
            return lambda rows: states[index[rows]]
        assert lens is not None
        fitted, route = lens.maps[depth], self.reading.precision.float32_route
        return lambda rows: fitted(states[index[rows]], route).to(streams.hidden.dtype)

    def _tables(self, pieces: list[dict[Place, Columns]]) -> Tables:
        """A part's tables from its batches' columns: sorted, and null where any depth is."""
        whole: dict[Place, Columns] = {}
        empty = {name: column[:0] for name, column in next(iter(pieces[0].values())).items()}
        for place in self.places:
            some = [piece[place] for piece in pieces if place in piece]
            whole[place] = joined(some or [empty])
        bad = np.zeros(0, dtype=np.int64)
        where: dict[int, Place] = {}
        for place, columns in whole.items():
            wrong = _keys(columns)[~columns["finite"]]
            where = dict.fromkeys(wrong.tolist(), place) | where
            bad = np.union1d(bad, wrong)
        self._count_nonfinite(bad, where)
        if len(bad):
            for columns in whole.values():
                columns["finite"] = ~np.isin(_keys(columns), bad)
        return {place: to_table(columns) for place, columns in whole.items()}

    def _count_nonfinite(self, bad: Int[np.ndarray, " bad"], where: Mapping[int, Place]) -> None:
        before = sum(self.nonfinite)
        self.nonfinite.append(len(bad))
        limit = self.options.max_nonfinite
        over = limit - before
        if len(bad) > over:
            key = int(bad[over])
            doc, pos = key >> 32, key & 0xFFFFFFFF
            at = ""
            if key in where:
                lens, depth = where[key]
                at = f" at depth {depth} under the {lens} lens,"
            raise NonFiniteError(
                f"{self.provenance.model} gives logits that are not finite{at} at document "
                f"{self.reading.windows.corpus.names[doc]!r} (doc {doc}) position {pos}, after "
                f"{before + over} such before it: --max-nonfinite {limit} allows no more; mend the "
                "weights, or raise the limit to leave such positions out as nulls"
            )

    def finished_parts(self, folder: RunFolder, clouds: Clouds | None) -> frozenset[str]:
        """The parts of which every lens and depth is written, and the states that are kept.

        What process 0 sees of these counts for all.
        """
        written = [
            {Path(path).stem for path in folder.done if path.startswith(f"{folder_of(*place)}/")}
            for place in self.places
        ]
        done = frozenset(set.intersection(*written))
        return done if clouds is None else done & clouds.kept(clouds.text, folder.ranks)

    def count_finished(self, folder: RunFolder, done: frozenset[str]) -> None:
        """Count the positions that the parts that are done leave out."""
        last: Place = ("normed", self.depths.blocks)
        for part in sorted(done):
            table = read_table(folder.folder / table_file(*last, part), ["doc", "pos", "top1"])
            bad = table.filter(pc.is_null(table["top1"]))
            keys = position_keys(numbers_of(bad["doc"]), numbers_of(bad["pos"]))
            self._count_nonfinite(keys, {})

    def check_room(self, folder: RunFolder, done: frozenset[str]) -> None:
        """Raise UnembedError where what is left to write does not fit in the folder."""
        last: Place = ("normed", self.depths.blocks)
        left = self.reading.windows.positions
        left -= sum(folder.done[table_file(*last, part)].rows for part in done)
        tables = int(STORED_SHARE * left * len(self.places) * bytes_a_position(self.options.top_k))
        what = f"the tables of {left:,} positions at {len(self.measured)} depths"
        if self.fits and LENS_FILE not in folder.done:
            tables += 4 * sum(width * self.reading.head.dim for width in self.widths.values())
            what += " and the fitted lens"
        check_room(folder.folder, tables, what)


def folder_of(lens: Lens, depth: int) -> str:
    """Where the tables of a lens and a depth lie: a data set that is partitioned by the two."""
    return f"tokens/lens={lens}/depth={depth:03d}"


def table_file(lens: Lens, depth: int, part: str) -> str:
    """Where a part's table of a lens and a depth lies in a run's folder."""
    return f"{folder_of(lens, depth)}/{part}.parquet"


def _keys(columns: Columns) -> Int[np.ndarray, " rows"]:
    return position_keys(columns["doc"], columns["pos"])


def _check_fit(split: Split, reading: ModelPass, widths: Sequence[int]) -> None:
    """Raise UnembedError where the text is too short to fit a lens on its half, or the memory."""
    windows, dim, width = reading.windows, reading.head.dim, max(widths)
    positions = int(windows.counts[~split.measured(windows.doc)].sum())
    if positions <= width:
        raise UnembedError(
            f"the fitted lens has {width + 1:,} numbers for each of its outputs, and half of the "
            f"documents hold {positions:,} positions to fit them: give a longer text or "
            "--max-positions, or --lens normed,raw"
        )
    check_memory(
        2 * NormalEquations.bytes_of(widths, dim),
        f"the sums that a lens of {len(widths)} depths is fitted from",
        "give fewer --depths, or --lens normed,raw",
    )
