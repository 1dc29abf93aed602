"""The sums of a fitted lens, in groups that the processes of a launch share; here threads are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from threads_as_ranks import launch
from unembed.decisions.layers import fit_sums
from unembed.decisions.layers.fit_sums import FIT_GROUPS, Chosen, FitSums
from unembed.decisions.layers.fitted import NormalEquations
from unembed.errors import UnembedError
from unembed.runs import heartbeat
from unembed.runs.phases import Phases
from unembed.runs.ranks import Ranks

WIDTHS, DIM = {0: 5, 2: 7}, 3
PARTS = [f"part-{number:05d}" for number in range(19)]


def states(part: int) -> list[Chosen | None]:
    """Two batches of a part, far from the origin; the first parts have nothing to fit on."""
    if part in (0, 1, 7):
        return [None]
    generator = torch.Generator().manual_seed(part)

    def some(rows: int) -> Chosen:
        made = {d: 9 + part + torch.randn(rows, w, generator=generator) for d, w in WIDTHS.items()}
        return made, made[0][:, :DIM].sin() + torch.randn(rows, DIM, generator=generator)

    return [some(4 + part % 3), some(1)]


def read(own: frozenset[str]) -> Iterator[tuple[str, Chosen | None]]:
    for number, part in enumerate(PARTS):
        if part in own:
            yield from ((part, chosen) for chosen in states(number))


def total(ranks: Ranks, folder: Path | None, reader: Any = read) -> NormalEquations | None:
    sums = FitSums.of(PARTS, WIDTHS, DIM, ranks, folder)
    return sums.total(reader, map, Phases())


def bits(sums: NormalEquations | None) -> dict[str, bytes]:
    assert sums is not None
    return {name: one.numpy().tobytes() for name, one in sums.tensors().items()}


def plain() -> tuple[Tensor, Tensor]:
    """States of depth 2 and the inputs of the head at every position, in float64."""
    every = [one for part in range(len(PARTS)) for one in states(part) if one is not None]
    return torch.cat([x[2] for x, _ in every]).double(), torch.cat([y for _, y in every]).double()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)


def together(processes: int, folder: Path, reader: Any = read) -> list[Any]:
    """What each process of a launch was given, or its error."""
    return launch(processes, lambda ranks: total(ranks, folder, reader), within=30)


def test_sums_of_groups_are_those_of_every_position() -> None:
    x, y = plain()
    found = total(Ranks(), None)
    assert found is not None
    assert found.n == len(x)
    made, explained = found.solve(2)
    centred, aim = (one.numpy() - one.numpy().mean(0) for one in (x, y))
    size = np.sqrt(0.1 * (centred**2).mean(0).sum())
    above, below = np.vstack([centred, size * np.eye(7)]), np.zeros((7, DIM))
    want = np.linalg.lstsq(above, np.vstack([aim, below]), rcond=None)[0]
    assert made.matrix.T.numpy() == pytest.approx(want, abs=1e-6)
    offset = y.numpy().mean(0) - x.numpy().mean(0) @ want
    assert made.offset.numpy() == pytest.approx(offset, abs=1e-5)
    left = ((aim - centred @ want) ** 2).sum() / (aim**2).sum()
    assert explained == pytest.approx(1 - left, abs=1e-9)


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_sums_are_bitwise_those_of_one_process(processes: int, tmp_path: Path) -> None:
    first, *others = together(processes, tmp_path)
    assert bits(first) == bits(total(Ranks(), None))
    assert others == [None] * (processes - 1)


def test_a_fit_that_was_killed_goes_on_with_any_number_of_processes(tmp_path: Path) -> None:
    def stops(own: frozenset[str]) -> Iterator[tuple[str, Chosen | None]]:
        for part, chosen in read(own):
            if part >= PARTS[12]:
                raise UnembedError("the power is out")
            yield part, chosen

    assert all(isinstance(one, UnembedError) for one in together(2, tmp_path, stops))
    written = {path.stem for path in (tmp_path / fit_sums.FOLDER).iterdir()}
    assert 0 < len(written) < FIT_GROUPS
    taken: list[str] = []

    def noted(own: frozenset[str]) -> Iterator[tuple[str, Chosen | None]]:
        taken.extend(own)
        return read(own)

    again = total(Ranks(), tmp_path, noted)
    assert bits(again) == bits(total(Ranks(), None))
    groups = FitSums.of(PARTS, WIDTHS, DIM, Ranks(), None).groups
    assert sorted(taken) == [p for g, parts in groups.items() if g not in written for p in parts]


def test_a_damaged_file_is_said_to_be(tmp_path: Path) -> None:
    together(2, tmp_path)
    file = tmp_path / fit_sums.FOLDER / "group-3.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(UnembedError, match=r"fit-sums lacks what it held \(group-3\): delete that"):
        total(Ranks(), tmp_path)


@pytest.mark.parametrize("parts", [1, 2, 8, 9, 100])
def test_groups_are_even_and_in_order_of_the_text(parts: int) -> None:
    names = [f"part-{number:05d}" for number in range(parts)]
    groups = FitSums.of(names, WIDTHS, DIM, Ranks(), None).groups
    assert len(groups) == min(parts, FIT_GROUPS)
    assert [part for group in groups.values() for part in group] == names
    sizes = {len(group) for group in groups.values()}
    assert max(sizes) - min(sizes) <= 1
