"""A grid of refinements: its points, controls, resumption and refusals."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unembed.decisions.audit.audit import Audit
from unembed.decisions.comparison.compare import compare
from unembed.demo.story import bundled_model, heldout_corpus
from unembed.errors import UnembedError, WriteError
from unembed.models.checkpoint import Checkpoint, load
from unembed.runs import files
from unembed.text.corpus import Corpus
from unembed.training.doses import dose as dosing
from unembed.training.doses.dose import Doses, dose
from unembed.training.doses.grid import Grid
from unembed.training.recipe.objectives import Objective
from unembed.training.recipe.recipe import Recipe

pytest.importorskip("accelerate", reason="the extra train is not installed")

RECIPE = Recipe(
    steps=2,
    learning_rate=1e-3,
    batch_size=1,
    context=32,
    watch_every=2,
    watch_positions=64,
    audit_positions=600,
)
GRID = Grid(
    (Objective("margin"), Objective("fisher", direction="expand")),
    {"margin": (0.0, 3.0), "fisher-expand": (1.0,)},
    (0, 1),
    RECIPE,
    changes=("bfloat16 head",),
    read_out_positions=300,
)


@pytest.fixture(scope="module")
def bundled() -> tuple[Checkpoint, Corpus]:
    checkpoint = load(bundled_model())
    found = heldout_corpus(checkpoint)
    kept = np.zeros(len(found.names), dtype=bool)
    kept[:6] = True
    return checkpoint, found.subset(kept, "the first six")


@pytest.fixture(scope="module")
def run(bundled: tuple[Checkpoint, Corpus], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dose") / "run"
    dose(*bundled, GRID, out=out)
    return out


def test_every_dose_is_there_once_with_its_controls(run: Path) -> None:
    done = Doses.load(run)
    assert done.failed == {}
    names = [row.name for row in done.heldout.rows]
    assert names[:3] == ["no penalty", "margin 3", "fisher-expand 1"]
    matched = {row.matched_to for row in done.heldout.rows[3:]}
    assert matched == {"none 0", "margin 3", "fisher-expand 1"}
    assert all(row.seeds == (0, 1) for row in done.heldout.rows[:3])
    assert [row.name for row in done.training.rows][:3] == names[:3]
    assert done.heldout.rows[0].read_outs is not None
    assert not list(run.glob("points/*/model"))
    assert "margin 3" in str(done)


def test_a_temperature_changes_no_decision_and_no_scale_free_margin(run: Path) -> None:
    for side in ("heldout", "training"):
        start = Audit.load(run / "start" / side)
        hot = Audit.load(run / "points" / "temperature-margin-3" / side)
        found = compare(start, hot, resamples=50).summary
        assert found.flips.changed == 0
        assert np.array_equal(start.column("relative_distance"), hot.column("relative_distance"))
        medians = [float(np.median(one.column("margin"))) for one in (start, hot)]
        doses = [
            np.median(Audit.load(run / "points" / f"margin-3-seed{seed}" / side).column("margin"))
            for seed in (0, 1)
        ]
        assert medians[1] == pytest.approx(np.mean(doses), rel=1e-5)
        assert medians[1] != medians[0]


def test_seeds_order_the_text_and_objectives_differ(run: Path) -> None:
    points = [
        Audit.load(run / "points" / name / "heldout").column("nll").mean()
        for name in ("none-0-seed0", "none-0-seed1", "margin-3-seed0", "fisher-expand-1-seed0")
    ]
    assert len(set(points)) == 4


def test_an_unfinished_grid_goes_on_where_it_was(
    run: Path, bundled: tuple[Checkpoint, Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, trained = tmp_path / "run", []
    train = dosing.train

    def counting(*given: object, progress: bool) -> object:
        trained.append(given[4])
        if len(trained) == 3:
            raise KeyboardInterrupt
        return train(*given, progress=progress)  # type: ignore[arg-type]

    monkeypatch.setattr(dosing, "train", counting)
    with pytest.raises(KeyboardInterrupt):
        dose(*bundled, GRID, out=out)
    done = dose(*bundled, GRID, out=out)
    assert len(trained) == 7  # the one that was interrupted twice
    assert done == Doses.load(run)
    dose(*bundled, GRID, out=out)
    assert len(trained) == 7
    with pytest.raises(UnembedError, match="another"):
        dose(*bundled, replace(GRID, seeds=(0,)), out=out)


def test_a_point_that_fails_is_noted(
    bundled: tuple[Checkpoint, Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = dosing.train

    def failing(*given: object, progress: bool) -> object:
        if "margin" in str(given[4]):
            raise UnembedError("the run diverged")
        return train(*given, progress=progress)  # type: ignore[arg-type]

    monkeypatch.setattr(dosing, "train", failing)
    grid = replace(GRID, objectives=(Objective("margin"),), weights=(1.0,), seeds=(0,))
    done = dose(*bundled, grid, out=tmp_path / "run")
    assert done.failed == {"margin-1-seed0": "the run diverged"}
    assert [row.name for row in done.heldout.rows][:1] == ["no penalty"]
    assert "the run diverged" in str(done)
    assert Doses.load(tmp_path / "run") == done
    shutil.rmtree(tmp_path / "run" / "points" / "none-0-seed0")
    with pytest.raises(UnembedError, match=r"none-0-seed0/\S+ is missing from the run"):
        Doses.load(tmp_path / "run")


def test_a_full_disk_stops_the_grid_and_fails_no_point(
    bundled: tuple[Checkpoint, Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_given: object, progress: bool) -> None:
        raise WriteError("trained.json cannot be written: No space left on device")

    monkeypatch.setattr(dosing, "train", refused)
    with pytest.raises(WriteError, match="No space left"):
        dose(*bundled, GRID, out=tmp_path / "run")
    assert not list((tmp_path / "run").rglob("failed.json"))


def test_models_that_are_kept_need_room_for_all_of_them(
    bundled: tuple[Checkpoint, Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a disk cannot hold fails no point: with more room the grid goes on."""
    each = sum(parameter.numel() for parameter in bundled[0].model.parameters()) * 4
    usage = namedtuple("usage", ("total", "used", "free"))
    monkeypatch.setattr(dosing, "audit", lambda *_a, **_k: pytest.fail("the work was begun"))
    room = [6 * each - 1]
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _place: usage(1 << 50, 0, room[0]))
    with pytest.raises(WriteError, match=f"6 points take at least {6 * each / 2**20:,.1f} MiB"):
        dose(*bundled, GRID, out=tmp_path / "run", keep_models=True)
    half = replace(GRID, recipe=replace(RECIPE, save_dtype="bfloat16"))
    room[0] = 3 * each - 1
    with pytest.raises(WriteError, match=f"6 points take at least {3 * each / 2**20:,.1f} MiB"):
        dose(*bundled, half, out=tmp_path / "half", keep_models=True)
    room[0] = 3 * each
    with pytest.raises(pytest.fail.Exception, match="the work was begun"):
        dose(*bundled, half, out=tmp_path / "half", keep_models=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": (0.1, -1.0)}, "0 or more"),
        ({"weights": {"margin": (1.0,)}}, "'fisher-expand' is in one of them alone"),
        ({"weights": (1.0, 1.0)}, "each once"),
        ({"seeds": ()}, "each once"),
        ({"objectives": (Objective("none"),), "weights": (1.0,)}, "is the control"),
    ],
)
def test_grids_that_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(UnembedError, match=words):
        replace(GRID, **change)  # type: ignore[arg-type]
