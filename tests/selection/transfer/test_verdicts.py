"""Verdicts on methods: against loops, and what chance, ties and gaps in the data must give."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from reference.verdicts import verdict
from unembed.errors import UnembedError
from unembed.runs.manifest import read_run
from unembed.selection.transfer import verdicts
from unembed.selection.transfer.judged import JudgedTransfer, judge_transfer
from unembed.selection.transfer.records import Scores, Transfer
from unembed.selection.transfer.verdicts import Difference, compared, judge
from unembed.stats.estimate import Estimate

FIGURES = ("top1", "share", "regret", "spearman")


def transfer(
    seeds: int = 3, tasks: int = 7, noise: float = 0.5, level: float = 2.0, seed: int = 0
) -> Transfer:
    """Gains of related seeds; one good method, one blind, the best there is, and chance."""
    rng = np.random.default_rng(seed)
    shape = (seeds, tasks, tasks)
    gains = level + rng.normal(size=(tasks, tasks)) + rng.normal(0, 0.1, shape)
    return Transfer(
        "made up",
        tuple(f"task {i}" for i in range(tasks)),
        "not at all",
        gains,
        (
            Scores("good", gains + rng.normal(0, noise, shape), 1.5, 20.0, 4096),
            Scores("blind", rng.normal(size=shape)),
            Scores("oracle", gains),
            Scores("chance", np.zeros(shape)),
        ),
    )


@pytest.mark.parametrize(("seeds", "tasks"), [(1, 3), (3, 7), (2, 12)])
def test_agrees_with_loops(seeds: int, tasks: int) -> None:
    made = transfer(seeds, tasks)
    rng = np.random.default_rng(1)
    coarse = np.round(made.scores[0].values)  # many ties
    holes = np.where(rng.random(coarse.shape) < 0.3, np.nan, made.scores[0].values)
    made = replace(made, scores=(*made.scores, Scores("ties", coarse), Scores("holes", holes)))
    for scores, got in zip(made.scores, judge(made), strict=True):
        want = verdict(made.gains, scores.values)
        for name in FIGURES:
            found = getattr(got, name)
            if scores.method == "chance" and name == "spearman":
                assert found.value is None
                continue
            assert found.value == pytest.approx(want[name], abs=1e-12), (scores.method, name)
            assert found.n == seeds * tasks
            assert found.low <= found.value + 1e-12
            assert found.high >= found.value - 1e-12
        apart = ~np.eye(tasks, dtype=bool)
        assert got.unknown == int(np.isnan(scores.values[:, apart]).sum())


def test_the_best_there_is_and_chance_are_what_they_must_be() -> None:
    made = transfer()
    _, _, oracle, chance = judge(made)
    assert (oracle.top1.value, oracle.share.value, oracle.regret.value) == (1, 1, 0)
    assert oracle.spearman.value == pytest.approx(1)
    assert oracle.p == 1 / (1 + verdicts.PERMUTATIONS)
    assert chance.top1.value == pytest.approx(1 / 6)
    assert chance.p == 1
    assert chance.spearman.reason is not None
    others = np.where(np.eye(7, dtype=bool), np.nan, made.gains)
    regret = np.nanmax(others, 1) - np.nanmean(others, 1)
    assert chance.regret.value == pytest.approx(regret.mean())


def test_the_target_itself_is_no_candidate() -> None:
    made = transfer()
    same = np.arange(7)
    gains = made.gains.copy()
    gains[:, same, same] = 100
    scores = made.scores[0].values.copy()
    scores[:, same, same] = np.nan
    moved = replace(made, gains=gains, scores=(replace(made.scores[0], values=scores),))
    assert judge(moved) == judge(replace(made, scores=made.scores[:1]))


def test_p_is_the_share_of_all_orders_of_the_sources() -> None:
    """One target counts, of four sources whose 24 orders are few enough to be listed."""
    made = transfer(2, 5, seed=3)
    gains = np.full_like(made.gains, np.nan)
    gains[:, :, 0] = made.gains[:, :, 0]
    made = replace(made, gains=gains, scores=made.scores[:2])
    for scores, got in zip(made.scores, judge(made), strict=True):
        whole = verdict_of_orders(gains[:, 1:, 0], scores.values[:, 1:, 0])
        assert got.p == pytest.approx(whole, abs=0.03)


def verdict_of_orders(gains: np.ndarray, scores: np.ndarray) -> float:
    """Of all orders of the sources, the same in every seed, those that go as well together."""

    def mean(order: tuple[int, ...]) -> float:
        rank = [np.argsort(np.argsort(x)) for x in (*gains[:, list(order)], *scores)]
        half = len(gains)
        return float(np.mean([np.corrcoef(rank[i], rank[half + i])[0, 1] for i in range(half)]))

    found = [mean(order) for order in permutations(range(gains.shape[1]))]
    return float(np.mean([x >= found[0] - 1e-9 for x in found]))


@pytest.mark.slow
def test_p_of_a_blind_method_is_evenly_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where seeds repeat each other: an order of the sources is one order, not three."""
    monkeypatch.setattr(verdicts, "PERMUTATIONS", 200)
    found = []
    for seed in range(60):
        rng = np.random.default_rng(10_000 + seed)
        made = transfer(seed=seed)
        once = np.broadcast_to(rng.normal(size=(7, 7)), made.gains.shape)
        found += [judge(replace(made, scores=(Scores("blind", once.copy()),)))[0].p]
    for level in (0.1, 0.5):
        # Four standard errors of 60 draws.
        off = 4 * (level * (1 - level) / 60) ** 0.5
        assert abs(np.mean(np.array(found) <= level) - level) < off


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_hold_the_truth_of_six_targets(
    seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nominal 95 % in 300 runs, of which three standard errors below 94 % are 90 %."""
    monkeypatch.setattr(verdicts, "RESAMPLES", 400)
    monkeypatch.setattr(verdicts, "PERMUTATIONS", 1)

    def found(seed: int) -> dict[str, Estimate]:
        made = transfer(seeds, 6, seed=seed)
        one = judge(replace(made, scores=made.scores[:1]))[0]
        return {name: getattr(one, name) for name in FIGURES}

    every = [found(seed) for seed in range(300)]
    for name in FIGURES:
        # Of so many targets the mean of the values is the truth, of shares nearly so.
        truth = np.mean([one[name].value for one in every])
        inside = [one[name].low <= truth <= one[name].high for one in every]
        assert np.mean(inside) >= 0.9, (name, np.mean(inside))


def test_targets_that_all_chose_the_best_leave_the_truth_open() -> None:
    made = transfer(1, 6)
    best = judge(replace(made, scores=(made.scores[2],)))[0]
    assert best.top1.value == 1
    assert best.top1.low is not None
    assert best.top1.low < 0.75
    assert best.top1.high == 1
    assert best.regret.value == best.regret.low == 0
    assert best.regret.high is not None
    assert best.regret.high > 0


def test_a_method_against_another_is_a_difference_in_pairs() -> None:
    made = transfer(noise=0.1)
    by_name = {one.method: one for one in judge(made)}
    found = compared(made, "good", "blind")
    for name in FIGURES:
        ours, theirs = (getattr(by_name[m], name).value for m in ("good", "blind"))
        assert getattr(found, name).value == pytest.approx(ours - theirs)
    assert found.regret.high is not None
    assert found.regret.high < 0
    same = compared(made, "good", "good")
    assert isinstance(same, Difference)
    assert {getattr(same, name).value for name in FIGURES} == {0}
    assert {getattr(same, name).high for name in FIGURES} == {0}
    # Two methods that differ by little are told apart in pairs where intervals of each overlap.
    near = np.where(np.arange(7) == 3, np.nan, made.gains)
    near = replace(made, scores=(made.scores[2], Scores("near", near)))
    ours, theirs = judge(near)
    assert theirs.regret.high is not None
    assert compared(near, "oracle", "near").regret.value == -theirs.regret.value
    with pytest.raises(UnembedError, match=r"'best'.* good"):
        compared(made, "best", "good")


def test_without_a_sure_gain_there_is_no_share() -> None:
    made = transfer(level=-2.0)
    for one in judge(made):
        assert one.share.value is None
        assert one.share.reason is not None
        assert "not surely positive" in one.share.reason
        assert one.regret.value is not None
    assert compared(made, "good", "blind").share.value is None


def test_gains_that_are_not_known_are_no_candidates() -> None:
    made = transfer()
    gains = made.gains.copy()
    gains[1, 4, 2] = np.nan
    less = replace(made, gains=gains)
    oracle = judge(replace(less, scores=(Scores("oracle", gains),)))[0]
    assert oracle.top1.value == 1
    assert oracle.unknown == 0
    gains[:, :, 2] = np.nan
    gone = judge(replace(made, gains=gains, scores=(made.scores[1],)))[0]
    assert gone.top1.n == 3 * 6


def test_what_cannot_be_judged_is_refused() -> None:
    made = transfer()
    with pytest.raises(UnembedError, match="2 tasks leave a target no two sources"):
        judge(transfer(1, 2))
    with pytest.raises(UnembedError, match=r"\(3, 7, 7\) .*6 tasks"):
        judge(replace(made, tasks=made.tasks[:6]))
    with pytest.raises(UnembedError, match="two methods are named 'good'"):
        judge(replace(made, scores=(made.scores[0], made.scores[0])))
    with pytest.raises(UnembedError, match=r"scores of 'few' have shape \(1, 7, 7\)"):
        judge(replace(made, scores=(Scores("few", made.gains[:1]),)))
    with pytest.raises(UnembedError, match="no target has the gains of two sources"):
        judge(replace(made, gains=np.full_like(made.gains, np.nan)))


def test_a_run_is_kept_and_read_back(tmp_path: Path) -> None:
    made = transfer()
    gains = made.gains.copy()
    gains[0, 1, 2] = np.nan
    made = replace(made, gains=gains)
    kept = judge_transfer(made, out=tmp_path / "run", facts=(("Model", "a"),), command="measure")
    again = JudgedTransfer.load(tmp_path / "run")
    for run in (kept, again):
        np.testing.assert_array_equal(run.transfer.gains, gains)
        assert run.transfer.tasks == made.tasks
        assert run.transfer.scores[0].seconds == 1.5
        assert run.verdicts == judge(made)
    facts = read_run(tmp_path / "run").facts
    assert facts[0] == ("Model", "a")
    assert ("Pairs measured", "146 of 147") in facts
    judge_transfer(made, out=tmp_path / "run", facts=(("Model", "a"),))
    with pytest.raises(UnembedError):
        judge_transfer(replace(made, name="another"), out=tmp_path / "run")


def test_the_same_draws_every_time() -> None:
    assert judge(transfer()) == judge(transfer())
