"""The shaping example: a killed training ends in the same weights, and its figures are right."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from places import ROOT
from unembed.decisions.audit.gap import fit_gap

sys.path.insert(0, str(ROOT / "examples"))
shaped = import_module("shaped_training")
measures = import_module("shaped_measures")

SIZE = shaped.Size(width=16, heads=2, layers=1, context=8)
STEPS = shaped.Training(steps=12, batch=2, watched=4)


class Killed(Exception):
    """What ends a training in the middle."""


def look(_model: PreTrainedModel) -> dict[str, float]:
    """Nothing of it."""
    return {"loss": 0.0}


def killed_at(look_number: int) -> Callable[[PreTrainedModel], dict[str, float]]:
    """A look at the model that ends the program, the n-th time."""
    left = [look_number]

    def dying(_model: PreTrainedModel) -> dict[str, float]:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return {"loss": 0.0}

    return dying


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    return torch.randint(
        0, 8192, (30, SIZE.context + 1), generator=torch.Generator().manual_seed(0)
    )


def trained(rows: torch.Tensor, how: Any, folder: Path, **given: Any) -> dict[str, torch.Tensor]:
    """The weights of a whole training, and its log under names of their own."""
    model = shaped.new_model(SIZE, 0)
    shaped.train(model, rows, how, folder, **{"glance": look, **given})
    with np.load(folder / "log.npz") as log:
        return model.state_dict() | {name: torch.from_numpy(log[name]) for name in log.files}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("penalty", ["none", "margin", "fisher"])
def test_a_killed_training_ends_in_the_same_weights(
    penalty: str, rows: torch.Tensor, tmp_path: Path
) -> None:
    how = replace(STEPS, penalty=penalty)
    whole = trained(rows, how, tmp_path / "whole")
    with pytest.raises(Killed):
        trained(rows, how, tmp_path / "killed", glance=killed_at(3))
    assert (tmp_path / "killed" / "checkpoint.pt").exists()
    assert not (tmp_path / "killed" / "model").exists()
    assert_same(trained(rows, how, tmp_path / "killed"), whole)
    assert len(json.loads((tmp_path / "killed" / "curve.json").read_text())) == 3
    assert bool((whole["weight"] > 0).any()) == (penalty != "none")


def test_an_arm_from_half_way_is_cross_entropy_until_then(
    rows: torch.Tensor, tmp_path: Path
) -> None:
    half = tmp_path / "half.pt"
    late = replace(STEPS, penalty="fisher", schedule=shaped.STARTS["half"])
    alone = trained(rows, late, tmp_path / "alone")
    plain = trained(rows, STEPS, tmp_path / "plain", half=half)
    assert_same(trained(rows, late, tmp_path / "gone-on", half=half), alone)
    assert torch.equal(alone["cross_entropy"][:7], plain["cross_entropy"][:7])
    assert torch.equal(alone["weight"] > 0, torch.arange(12) >= 6)
    assert not torch.equal(alone["cross_entropy"][7:], plain["cross_entropy"][7:])


def test_a_finished_training_is_left_as_it_is(rows: torch.Tensor, tmp_path: Path) -> None:
    trained(rows, STEPS, tmp_path)
    before = (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns
    shaped.train(shaped.new_model(SIZE, 1), rows, STEPS, tmp_path, killed_at(1))
    assert (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_the_rate_warms_up_and_comes_down() -> None:
    how = shaped.Training(steps=100)
    rates = [how.rate(step) for step in range(100)]
    assert rates[4] == max(rates) == how.learning_rate
    assert rates[0] == how.learning_rate / 5
    assert rates[-1] == pytest.approx(how.floor * how.learning_rate, rel=0.05)


def test_another_size_is_refused(tmp_path: Path) -> None:
    shaped.same_size(tmp_path / "size.json", SIZE)
    shaped.same_size(tmp_path / "size.json", SIZE)
    with pytest.raises(SystemExit, match="another size"):
        shaped.same_size(tmp_path / "size.json", shaped.QUICK)


# ---------------------------------------------------------------------------------------------
# Figures


def positions(seed: int, n: int = 2_000, documents: int = 20) -> dict[str, np.ndarray]:
    """Made-up columns of a model."""
    rng = np.random.default_rng(seed)
    doc = np.sort(rng.integers(0, documents, n))
    margin = rng.exponential(1.0, n).astype(np.float32)
    target, top1 = rng.integers(0, 5, (2, n))
    found = {"doc": doc, "target": target, "top1": top1, "margin": margin}
    found |= {"relative_distance": margin / 7, "nll": rng.exponential(3.0, n)}
    for scheme in measures.SCHEMES:
        found[f"{scheme} top1"] = np.where(rng.random(n) < 0.1, 7, top1)
        found[f"{scheme} nll"] = found["nll"] + 0.01
    scales = np.log(measures.FACTORS)[:, None]
    tempered = found["nll"][:500] + (scales - 0.1) ** 2
    return found | {"tempered doc": doc[:500], "tempered": tempered}


def written(folder: Path, columns: dict[str, np.ndarray]) -> None:
    folder.mkdir(parents=True)
    np.savez(folder / "measures.npz", **columns)
    named = ("effective_rank", "mean_cosine", "two_nn", "levina_bickel")
    cloud = [{"depth": d} | {name: [5.0, 4.0, 6.0] for name in named} for d in (0, 1, -1)]
    (folder / "cloud.json").write_text(json.dumps(cloud))
    (folder / "curve.json").write_text(
        json.dumps(
            [
                {"step": i, "loss": 6.0 - i, "margin": 1.0, "scale-free": 0.1 * i}
                for i in range(1, 4)
            ]
        )
    )


def test_what_is_observed_is_in_the_first_row() -> None:
    columns, resamples = positions(0), measures.Resamples.of(20)
    doc, margin = columns["doc"], columns["margin"]
    assert resamples.mean(margin, doc)[0] == pytest.approx(margin.mean())
    assert resamples.median(margin, doc)[0] == np.sort(margin)[999]
    fit = fit_gap(margin, doc, resamples=2).published.beta
    assert resamples.gap_slope(margin, doc)[0] == pytest.approx(float(fit), abs=0.01)
    # A resample is as good as a text in which its documents stand so often.
    drawn = resamples.counts[3]
    repeated = np.repeat(margin, drawn[doc])
    assert resamples.mean(margin, doc)[3] == pytest.approx(repeated.mean())
    assert resamples.median(margin, doc)[3] == np.sort(repeated)[(len(repeated) - 1) // 2]


def test_a_temperature_is_found() -> None:
    one = measures.Measured(positions(0), {}, measures.Resamples.of(20))
    least = one.columns["nll"][:500].mean()
    assert one.loss_at_best[0] == pytest.approx(least, abs=1e-3)
    at = one.loss_at(np.full(measures.RESAMPLES + 1, np.exp(0.3)))
    assert at[0] == pytest.approx(least + 0.04, abs=2e-3)


def test_the_interval_over_seeds_holds_their_spread() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(0, 0.1, measures.RESAMPLES + 1)
    draws[0] = 0.0
    alike = measures.over_seeds({0: draws, 1: draws, 2: draws})
    apart = measures.over_seeds({0: draws - 1, 1: draws, 2: draws + 1})
    assert alike.high == pytest.approx(0.196, abs=0.03)
    assert apart.value == pytest.approx(0.0)
    assert apart.high == pytest.approx(np.hypot(alike.high, 4.303 / np.sqrt(3)), rel=1e-3)


def test_the_cost_of_a_gain_lies_between_the_doses() -> None:
    doses = [{"scale-free, %": np.array([5.0]), "loss": np.array([1.0])}]
    doses.append({"scale-free, %": np.array([15.0]), "loss": np.array([4.0])})
    found = [float(measures.cost_at(gain, doses, "loss")[0]) for gain in (2.5, 5.0, 10.0, 20.0)]
    assert found == [0.5, 1.0, 2.5, 5.5]
    doses.append({"scale-free, %": np.array([20.0]), "loss": np.array([5.0])})
    assert float(measures.cost_at(17.5, doses, "loss")[0]) == 4.5


def test_tables_of_two_arms_that_are_the_same_have_no_differences(tmp_path: Path) -> None:
    for seed, state in enumerate((measures.TRAINED, *shaped.REFINEMENTS)):
        columns = positions(seed)
        for arm in ("cross-entropy", "margin-start"):
            written(tmp_path / "seed-0" / arm / state, columns)
    text = measures.tables(tmp_path, [arm.name for arm in shaped.ARMS], tuple(shaped.REFINEMENTS))
    assert "Seeds: cross-entropy 1, margin-start 1." in text
    less = text.split("less cross-entropy's\n")[1].splitlines()[3]
    assert less.startswith("| margin-start | 0 [0, 0] |")
    assert set(less.split("|")[2:-1]) == {" 0 [0, 0] "}
    arms = [arm.name for arm in shaped.ARMS]
    shape, *refined = measures.frontier(tmp_path, arms, tuple(shaped.REFINEMENTS))
    assert (shape["arm"], shape["seeds"], shape["loss"]) == ("margin-start", 1, [0.0, 0.0, 0.0])
    assert [row["state"] for row in refined] == ["fisher-0.1", "fisher-0.3", "fisher-1.0"]


@pytest.mark.slow
def test_everything_on_tiny_models(tmp_path: Path) -> None:
    arms = [arm for arm in shaped.ARMS if arm.name in ("cross-entropy", "fisher-half")]
    for arm in arms:
        shaped.work(tmp_path, shaped.QUICK, arm, 0, "train", ())
        shaped.work(tmp_path, shaped.QUICK, arm, 0, "measure", ("control", "fisher-0.1"))
    text = measures.tables(tmp_path, [arm.name for arm in arms], tuple(shaped.REFINEMENTS))
    assert "| fisher-half, less cross-entropy |" in text
