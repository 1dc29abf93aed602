"""Chosen positions, their states on disk, and the shuffled text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from made_up.corpora import TEXTS
from unembed import Corpus
from unembed.decisions.cloud.cloud import HEAD_INPUT
from unembed.decisions.cloud.controls import shuffled_windows
from unembed.decisions.cloud.reservoir import Reservoir
from unembed.errors import UnembedError
from unembed.text.batches import BatchPlan, batches, parts
from unembed.text.windows import Windows

WIDTHS = {0: 3, 2: 3, HEAD_INPUT: 2}
PLAN = BatchPlan(batch_tokens=64, block_tokens=64, part_positions=90)


@pytest.fixture(scope="module")
def windows(tokenizer: Any) -> Windows:
    return Windows.of(Corpus.from_texts(TEXTS, tokenizer), 24)


def states_of(batch: Any) -> dict[int, torch.Tensor]:
    """States that say where they are from: document, place and depth."""
    place = torch.from_numpy(np.stack([batch.doc, batch.pos], axis=1)).float()
    third = torch.full((len(place), 1), 7.0)
    inside = {d: torch.cat([place, third + d], dim=1) for d in WIDTHS if d != HEAD_INPUT}
    return inside | {HEAD_INPUT: place}


def fill(kept: Reservoir, windows: Windows, states: Any = states_of) -> None:
    for number, part in enumerate(parts(windows, PLAN.part_positions)):
        taken = [kept.take(b, states(b)) for b in batches(windows, part, PLAN)]
        kept.write(f"part-{number:05d}", taken)


def test_every_depth_has_the_states_of_the_chosen_positions(
    windows: Windows, tmp_path: Path
) -> None:
    kept = Reservoir.of(tmp_path / "states", windows, tuple(WIDTHS), points=40, seed=3)
    fill(kept, windows)
    assert len(kept.keys) == 40 == len(set(kept.keys.tolist()))
    assert len(kept.parts) > 1
    for depth, width in WIDTHS.items():
        found = kept.read(depth)
        assert found.shape == (40, width)
        np.testing.assert_array_equal(found[:, 0], kept.documents)
        np.testing.assert_array_equal(found[:, 1], kept.keys & 0xFFFFFFFF)
        if depth != HEAD_INPUT:
            assert (found[:, 2] == 7 + depth).all()
    kept.remove()
    assert not kept.files.folder.exists()


def test_the_draw_depends_on_the_seed_and_takes_all_of_few(windows: Windows) -> None:
    how = {"folder": Path("nowhere"), "windows": windows, "depths": (0,)}
    one, same = (Reservoir.of(**how, points=40, seed=1).keys for _ in range(2))
    np.testing.assert_array_equal(one, same)
    assert (Reservoir.of(**how, points=40, seed=2).keys != one).any()
    assert len(Reservoir.of(**how, points=10**9).keys) == windows.positions


def test_last_takes_the_last_position_of_each_document(windows: Windows) -> None:
    kept = Reservoir.of(Path("nowhere"), windows, (0,), points=None)
    every: dict[int, int] = {}
    for part in parts(windows, PLAN.part_positions):
        for batch in batches(windows, part, PLAN):
            for doc, pos in zip(batch.doc.tolist(), batch.pos.tolist(), strict=True):
                every[doc] = max(pos, every.get(doc, 0))
    assert dict(zip(kept.documents.tolist(), (kept.keys & 0xFFFFFFFF).tolist(), strict=True)) == (
        every
    )


def test_positions_are_those_that_count(windows: Windows) -> None:
    counted = np.zeros(len(windows.corpus.ids), dtype=bool)
    counted[::3] = True
    counted[windows.corpus.starts[:-1]] = False
    marked = Windows.of(windows.corpus.counting(counted, "thirds"), 24)
    kept = Reservoir.of(Path("nowhere"), marked, (0,), points=10**9)
    every = [
        (doc << 32) + pos
        for part in parts(marked, PLAN.part_positions)
        for batch in batches(marked, part, PLAN)
        for doc, pos in zip(batch.doc.tolist(), batch.pos.tolist(), strict=True)
    ]
    assert kept.keys.tolist() == sorted(every)


def test_a_position_that_is_not_finite_at_one_depth_is_so_at_all(
    windows: Windows, tmp_path: Path
) -> None:
    kept = Reservoir.of(tmp_path, windows, tuple(WIDTHS), points=40)
    bad = kept.keys[5]

    def broken(batch: Any) -> dict[int, torch.Tensor]:
        states = states_of(batch)
        here = (batch.doc.astype(np.int64) << 32) + batch.pos == bad
        states[2][torch.from_numpy(here), 1] = torch.inf
        return states

    fill(kept, windows, broken)
    for depth in WIDTHS:
        found = kept.read(depth)
        assert np.isnan(found[5]).all()
        assert np.isfinite(np.delete(found, 5, axis=0)).all()


def test_states_keep_their_precision(windows: Windows, tmp_path: Path) -> None:
    kept = Reservoir.of(tmp_path, windows, (0,), points=9)

    def half(batch: Any) -> dict[int, torch.Tensor]:
        return {0: states_of(batch)[0].bfloat16() / 3}

    fill(kept, windows, half)
    found = kept.read(0)
    assert found.dtype == np.float32
    stored = kept.files.tensors(min(kept.parts), ("depth_000",))[0]
    assert stored.dtype == torch.bfloat16


def test_what_is_missing_is_said_in_a_line(windows: Windows, tmp_path: Path) -> None:
    kept = Reservoir.of(tmp_path, windows, (0, 2), points=40)
    with pytest.raises(UnembedError, match=r"depth 7 was not kept: there are 0, 2"):
        kept.read(7)
    with pytest.raises(UnembedError, match=r"0 of 40 positions are there.*repeat the same command"):
        kept.read(0)
    (tmp_path / "part-00000.safetensors").write_bytes(b"half of it")
    with pytest.raises(UnembedError, match=r"\(part-00000\): delete that folder"):
        kept.read(0)
    with pytest.raises(UnembedError, match=r"needs a position, got 0"):
        Reservoir.of(tmp_path, windows, (0,), points=0)
    with pytest.raises(UnembedError, match=r"states of 40 positions at all depths take"):
        kept.check_room({0: 10**12, 2: 3}, torch.float32)


def test_shuffled_text_has_the_tokens_of_each_document_at_the_same_places(windows: Windows) -> None:
    shuffled = shuffled_windows(windows, seed=1)
    before, after = windows.corpus, shuffled.corpus
    moved = 0
    for number in range(len(before.names)):
        rows = np.flatnonzero(before.document == number)
        spans = [slice(before.starts[r], before.starts[r + 1]) for r in rows]
        one, other = (np.concatenate([c.ids[s] for s in spans]) for c in (before, after))
        np.testing.assert_array_equal(np.sort(one), np.sort(other))
        moved += int((one != other).sum())
    assert moved > 0.5 * len(before.ids)
    np.testing.assert_array_equal(shuffled.counts, windows.counts)
    again, other = shuffled_windows(windows, seed=1), shuffled_windows(windows, seed=2)
    np.testing.assert_array_equal(again.corpus.ids, after.ids)
    assert (other.corpus.ids != after.ids).any()


def test_shuffled_text_keeps_the_token_that_begins_a_row(windows: Windows) -> None:
    ids = windows.corpus.ids.copy()
    ids[windows.corpus.starts[:-1]] = 5
    marked = replace(windows, corpus=replace(windows.corpus, ids=ids, bos=5))
    after = shuffled_windows(marked, seed=1).corpus
    assert (after.ids[after.starts[:-1]] == 5).all()
    assert (after.ids != ids).any()
