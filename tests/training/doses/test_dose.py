"""A grid of refinements: its points, controls, resumption and refusals."""

from __future__ import annotations

import json
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
from unembed.runs.lock import exclusive_lock
from unembed.text.corpus import Corpus
from unembed.training.doses import dose as dosing
from unembed.training.doses.dose import Doses, dose, models_left
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


def test_shares_of_a_grid_end_in_the_bytes_of_one_process(
    run: Path, bundled: tuple[Checkpoint, Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed, and beside one that has a point, each goes on; the last makes the tables."""
    out, train, trained = tmp_path / "run", dosing.train, []

    def counting(*given: object, progress: bool) -> object:
        trained.append(Path(str(given[4])).name)
        if len(trained) == 1:
            raise KeyboardInterrupt
        return train(*given, progress=progress)  # type: ignore[arg-type]

    monkeypatch.setattr(dosing, "train", counting)
    with pytest.raises(KeyboardInterrupt):
        dose(*bundled, GRID, out=out, share=(1, 2))
    taken = out / "points" / "none-0-seed1"
    taken.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(taken):
        assert dose(*bundled, GRID, out=out, share=(1, 2)) is None
    assert models_left(GRID, out) == 4
    assert dose(*bundled, GRID, out=out, share=(2, 2)) is None
    with pytest.raises(UnembedError, match="another run: its seeds"):
        dose(*bundled, replace(GRID, seeds=(0,)), out=out, share=(1, 2))
    done = dose(*bundled, GRID, out=out, share=(1, 2))
    assert done is not None
    assert len(trained) == 7
    assert sorted(set(trained)) == sorted(point.name for point in GRID.points())
    assert dose(*bundled, GRID, out=out, share=(2, 2)) == done
    assert contents(out) == contents(run)


def contents(run: Path) -> dict[str, bytes]:
    """The files of a grid but what says how long a training took, and what hashes that."""
    timed = ("trained.json", "manifest.json", ".lock")
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in timed
    }


@pytest.mark.parametrize(
    ("share", "words"),
    [
        ((0, 4), "share 0/4 is none of 1/4 to 4/4"),
        ((5, 4), "share 5/4 is none of 1/4 to 4/4"),
        ((1, 9), "would be of 7 models, the start among them: give at most 7 shares"),
    ],
)
def test_shares_that_are_refused(
    bundled: tuple[Checkpoint, Corpus], tmp_path: Path, share: tuple[int, int], words: str
) -> None:
    with pytest.raises(UnembedError, match=words):
        dose(*bundled, GRID, out=tmp_path / "run", share=share)
    assert not (tmp_path / "run").exists()


def test_a_grid_says_how_much_it_read(run: Path) -> None:
    done = Doses.load(run)
    read = done.measured
    assert read is not None
    assert (read.models, read.heldout, read.training) == (10, 600, 600)  # start, 6, temperatures
    assert (read.disturbed_models, read.disturbed, read.bodies) == (7, 300, 1)
    assert read.total == 10 * 1200 + 7 * 300
    assert "14,100 read in all" in str(done)


def test_a_budget_bounds_everything_that_is_read() -> None:
    grid = replace(GRID, changes=("int8", "bfloat16 head"), read_out_positions=50_000)
    assert grid.bodies == 2
    assert grid.readings == 2 * (7 + 3) + 7 * 2
    assert replace(grid, budget=34_000).positions(2) == (600, 600)
    audited, disturbed = replace(grid, budget=10_000).positions(2)
    assert audited == disturbed == 10_000 // 34
    assert replace(grid, budget=10_000, read_out_positions=50).positions(2) == (294, 50)
    long = replace(grid, recipe=replace(RECIPE, audit_positions=100_000))
    assert long.positions(7) == (7_000, 7_000)
    assert long.positions(70) == (70_000, 50_000)
    with pytest.raises(UnembedError, match="a budget of 3,399 positions leaves 99 for each of 34"):
        replace(grid, budget=3_399)


def test_a_share_of_the_gradient_is_a_dose(
    bundled: tuple[Checkpoint, Corpus], tmp_path: Path
) -> None:
    """The weight that it took is kept, and differs between the objectives."""
    grid = replace(GRID, weights=(), gradient_shares=(0.2,), seeds=(0,), changes=(), noise=())
    done = dose(*bundled, grid, out=tmp_path / "run")
    assert done.failed == {}
    _, margin, expand, *temperatures = done.heldout.rows
    assert (margin.name, expand.name) == ("margin at share 0.2", "fisher-expand at share 0.2")
    assert (margin.dose, expand.dose) == (0.2, 0.2)
    log = json.loads((tmp_path / "run/points/margin-share0.2-seed0/trained.json").read_text())[
        "log"
    ]
    weights = [one["penalty_weight"] for one in log if "penalty_weight" in one]
    assert len(weights) == RECIPE.steps
    assert margin.weight == pytest.approx(np.mean(weights))
    assert 0 < margin.weight != expand.weight > 0
    names = {margin.name, expand.name, "none 0"}
    assert {row.matched_to for row in temperatures} == names
    assert "margin at share 0.2" in str(done)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": (0.1, -1.0)}, "0 or more"),
        ({"weights": {"margin": (1.0,)}}, "'fisher-expand' is in one of them alone"),
        ({"weights": (1.0, 1.0)}, "each once"),
        ({"seeds": ()}, "each once"),
        ({"objectives": (Objective("none"),), "weights": (1.0,)}, "is the control"),
        ({"weights": ()}, "weights or gradient_shares, and neither was given"),
        ({"gradient_shares": (0.1,)}, "weights or gradient_shares, and both were given"),
        ({"weights": (), "gradient_shares": (0.1, 0.1)}, "each once"),
        ({"weights": (), "gradient_shares": (-0.1,)}, r"gradient_shares \(-0.1,\) must be 0"),
        ({"read_out_positions": 0}, "read_out_positions is 0"),
    ],
)
def test_grids_that_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(UnembedError, match=words):
        replace(GRID, **change)  # type: ignore[arg-type]


def test_a_recipe_with_a_share_is_no_recipe_of_a_grid() -> None:
    with pytest.raises(UnembedError, match=r"gradient_share 0\.1 is one dose: give a grid"):
        replace(GRID, recipe=Recipe(gradient_share=0.1))
