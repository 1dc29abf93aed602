"""The sums that a lens is fitted from, in groups of a text's parts that ranks share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from unembed.decisions.kept_states import PartFiles
from unembed.decisions.layers.fitted import Each, NormalEquations
from unembed.runs.files import check_room
from unembed.runs.phases import Phases
from unembed.runs.ranks import Ranks

FIT_GROUPS = 8
"""A number of the text's own, so that a lens has the same bytes whatever the number of ranks."""
FOLDER = "fit-sums"

Chosen = tuple[dict[int, Float[Tensor, "positions width"]], Float[Tensor, "positions dim"]]
"""States at each depth and the head's input, at the positions of a batch that are fitted on."""
ReadParts = Callable[[frozenset[str]], Iterator[tuple[str, Chosen | None]]]
"""Those of each batch of these parts, with its part's name, in order of the text."""


@dataclass(frozen=True)
class FitSums:
    """Normal equations of groups of consecutive parts, which are added in order of the text.

    Where ``ranks`` share the groups, each process writes the sums of its own into ``files``; those
    that are there already, of a fit that was killed, are not taken again.
    """

    groups: dict[str, tuple[str, ...]]
    widths: Mapping[int, int]
    dim: int
    ranks: Ranks
    files: PartFiles | None

    @staticmethod
    def of(
        parts: Sequence[str],
        widths: Mapping[int, int],
        dim: int,
        ranks: Ranks,
        folder: Path | None,
    ) -> FitSums:
        """At most ``FIT_GROUPS`` groups, as even as may be. ``folder`` is the run's, if any.

        Raises UnembedError where the sums that ranks write do not fit on its disk.
        """
        count = min(FIT_GROUPS, len(parts))
        ends = [len(parts) * number // count for number in range(count + 1)]
        groups = {
            f"group-{number}": tuple(parts[ends[number] : ends[number + 1]])
            for number in range(count)
        }
        files = None if folder is None else PartFiles(folder / FOLDER)
        if files is not None and ranks.processes > 1:
            missing = count - len(files.parts)
            size = missing * NormalEquations.bytes_of(list(widths.values()), dim)
            check_room(files.folder, size, f"the sums of {missing} parts of the fitted half")
        elif files is not None and not files.folder.is_dir():
            files = None
        return FitSums(groups, widths, dim, ranks, files)

    def total(self, read: ReadParts, each: Each, phases: Phases) -> NormalEquations | None:
        """The sums of the whole text; None on processes other than the first."""
        there: list[str] = []
        if self.files is not None:
            there = self.ranks.from_first("the sums that are there", sorted(self.files.parts))
        missing = [group for group in self.groups if group not in there]
        of_part = {
            part: group
            for number, group in enumerate(missing)
            if self.ranks.owns(number)
            for part in self.groups[group]
        }
        total = NormalEquations(self.widths, self.dim)
        found = read(frozenset(of_part)) if of_part else iter(())
        for group, pieces in groupby(found, key=lambda piece: of_part[piece[0]]):
            sums = NormalEquations(self.widths, self.dim)
            for _part, chosen in pieces:
                if chosen is not None:
                    with phases("fit"):
                        sums.add(*chosen, each)
            with phases("fit"):
                if self.files is None:
                    total.merge(sums)
                elif self.ranks.writes:
                    self.files.write_tensors(group, sums.tensors())
        if self.files is None:
            return total
        self.ranks.wait("the sums of all")
        if not self.ranks.first:
            return None
        for group in self.groups:
            with phases("fit"):
                written = self.files.every(group)
                total.merge(NormalEquations.of_tensors(self.widths, self.dim, written))
        return total

    def remove(self) -> None:
        """Delete what was written."""
        if self.files is not None:
            self.files.remove()
