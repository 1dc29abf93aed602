"""Grids of refined models: every figure against plain loops, damage at matched gain, coverage."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from made_up.doses import DOCUMENTS, POSITIONS, WIDER, WORDS, Grid, disturbed
from unembed import Audit, UnembedError
from unembed.decisions.audit.gap import fit_gap
from unembed.decisions.tokens import CLASSES, FREQUENCY_EDGES, FREQUENCY_NAMES, classify
from unembed.stats.bootstrap import interval_levels, resample_weights
from unembed.stats.estimate import Estimate
from unembed.training.doses.frontier import (
    DAMAGES,
    GAINS,
    Curve,
    Matched,
    at_gain,
    common_gain,
    compared,
)
from unembed.training.doses.records import (
    TEMPERATURE,
    DoseFigures,
    DoseRow,
    DoseTable,
    headline,
)
from unembed.training.doses.seed_draws import difference_over_seeds, over_seeds
from unembed.training.doses.table import DosePoint, dose_table

RESAMPLES, SEED = 60, 5
STUDENT = {2: 12.706204736174694, 3: 4.302652729749462}
"""The 97.5 % quantile of Student's t by the number of seeds, as tabulated."""


@pytest.fixture(scope="module")
def grid() -> Grid:
    return Grid()


@pytest.fixture(scope="module")
def points(grid: Grid) -> list[DosePoint]:
    return grid.points()


@pytest.fixture(scope="module")
def table(grid: Grid, points: list[DosePoint]) -> DoseTable:
    return dose_table(grid.start, points, resamples=RESAMPLES, seed=SEED)


def row_of(table: DoseTable, objective: str, weight: float) -> DoseRow:
    [found] = [row for row in table.rows if (row.objective, row.weight) == (objective, weight)]
    return found


def figures_of(start: Audit, after: Audit, rows: list[int]) -> dict[str, float]:
    """Every figure at some positions, which may come several times, one position at a time."""
    old, new = start.table.to_pylist(), after.table.to_pylist()
    margins: list[tuple[float, float]] = []
    distances: list[tuple[float, float]] = []
    counted = (
        "below",
        "was_below",
        "right",
        "was",
        "changed",
        "gained",
        "lost",
        "wider",
        "rotated",
    )
    lines: dict[str, float] = dict.fromkeys((*counted, "loss", "more", "delta"), 0.0)
    rotated_wider, rotated_delta, structural = 0, 0.0, 0
    for row in rows:
        a, b = old[row], new[row]
        delta = b["margin"] - a["margin"]
        margins.append((a["margin"], b["margin"]))
        distances.append((a["relative_distance"], b["relative_distance"]))
        lines["below"] += b["margin"] < 0.5
        lines["was_below"] += a["margin"] < 0.5
        lines["loss"] += a["nll"]
        lines["more"] += b["nll"] - a["nll"]
        was, now = a["top1"] == a["target"], b["top1"] == b["target"]
        lines["was"] += was
        lines["right"] += now
        lines["gained"] += now and not was
        lines["lost"] += was and not now
        lines["wider"] += delta > 0
        lines["delta"] += delta
        lines["changed"] += a["top1"] != b["top1"]
        if a["top1"] == b["top1"] and a["top2"] != b["top2"]:
            lines["rotated"] += 1
            rotated_wider += delta > 0
            rotated_delta += delta
        if classify(WORDS[a["target"]]) == "structural":
            structural += int(now) - int(was)
    n = len(rows)
    (was_margin, margin), (was_distance, distance) = (
        np.median(np.array(pairs), axis=0) for pairs in (margins, distances)
    )
    net = lines["gained"] - lines["lost"]
    return {
        "median_margin": margin,
        "median_margin_change": margin - was_margin,
        "median_margin_gain": margin / was_margin - 1,
        "scale_free": distance,
        "scale_free_gain": distance / was_distance - 1,
        "below_half": lines["below"] / n,
        "below_half_change": (lines["below"] - lines["was_below"]) / n,
        "wider": lines["wider"] / n,
        "mean_change": lines["delta"] / n,
        "median_change": float(np.median([b - a for a, b in margins])),
        "nll_change": lines["more"] / n,
        "nll_rise": lines["more"] / lines["loss"],
        "accuracy": lines["right"] / n,
        "accuracy_change": net / n,
        "churn": lines["changed"] / n,
        "wrong_to_right": lines["gained"] / n,
        "right_to_wrong": lines["lost"] / n,
        "flip_ratio": lines["gained"] / lines["lost"] if lines["lost"] else math.nan,
        "rotation": lines["rotated"] / n,
        "rotated_wider": rotated_wider / lines["rotated"] if lines["rotated"] else math.nan,
        "rotated_change": rotated_delta / lines["rotated"] if lines["rotated"] else math.nan,
        "structural_share_of_net": structural / net if net else math.nan,
    }


def resampled_rows(doc: np.ndarray) -> list[list[int]]:
    """The positions themselves, then those of each resample of the documents."""
    found = [list(range(len(doc)))]
    for weights in resample_weights(int(doc.max()) + 1, resamples=RESAMPLES, seed=SEED):
        for times in weights:
            found.append([row for row, d in enumerate(doc) for _ in range(int(times[d]))])
    return found


def agree(estimate: Estimate, draws: list[list[float]], documents: int = DOCUMENTS) -> None:
    """An estimate against a list of draws for each seed, by plain arithmetic."""
    mean = [sum(values) / len(draws) for values in zip(*draws, strict=True)]
    assert estimate.value == pytest.approx(mean[0], rel=1e-6, abs=1e-9)
    rest = [value for value in mean[1:] if math.isfinite(value)]
    if len(rest) < 0.95 * len(mean[1:]):
        assert estimate.low is None
        return
    half2 = 0.0
    if len(draws) > 1:
        first = [values[0] for values in draws]
        centre = sum(first) / len(first)
        spread = sum((one - centre) ** 2 for one in first) / (len(first) - 1)
        half2 = STUDENT[len(draws)] ** 2 * spread / len(first)
    low, high = np.quantile(rest, interval_levels(documents))
    ends = (
        mean[0] - math.sqrt((mean[0] - low) ** 2 + half2),
        mean[0] + math.sqrt((high - mean[0]) ** 2 + half2),
    )
    assert (estimate.low, estimate.high) == pytest.approx(ends, rel=1e-6, abs=1e-9)


@pytest.fixture(scope="module")
def by_hand(grid: Grid, points: list[DosePoint]) -> Callable[[str, float], list[Any]]:
    """For each seed of a dose, its figures in the data and in every resample."""
    rows = resampled_rows(grid.doc)
    kept: dict[tuple[str, float], list[Any]] = {}

    def of(objective: str, weight: float) -> list[Any]:
        if (objective, weight) not in kept:
            kept[objective, weight] = [
                [figures_of(grid.start, one.audit, some) for some in rows]
                for one in points
                if (one.objective, one.weight) == (objective, weight)
            ]
        return kept[objective, weight]

    return of


NAMES = [field.name for field in fields(DoseFigures)]


@pytest.mark.parametrize(("objective", "weight"), [("margin", 0.6), ("none", 0.0)])
def test_every_figure_is_that_of_plain_loops(
    table: DoseTable, by_hand: Callable[..., Any], objective: str, weight: float
) -> None:
    seeds = by_hand(objective, weight)
    found = row_of(table, objective, weight).figures
    assert set(seeds[0][0]) == set(NAMES)
    for name in NAMES:
        if getattr(found, name).value is None:
            assert name in ("structural_share_of_net", "flip_ratio")
            continue
        agree(getattr(found, name), [[draw[name] for draw in seed] for seed in seeds])
    if objective == "margin":
        assert found.flip_ratio.value is not None
        assert found.structural_share_of_net.value is not None


def test_differences_from_the_control_pair_the_seeds(
    table: DoseTable, by_hand: Callable[..., Any]
) -> None:
    ours, theirs = by_hand("fisher", 0.6), by_hand("none", 0.0)
    found = row_of(table, "fisher", 0.6).over_control
    assert found is not None
    assert row_of(table, "none", 0.0).over_control is None
    for name in ("median_margin_gain", "nll_change", "churn", "right_to_wrong", "rotation"):
        draws = [
            [a[name] - b[name] for a, b in zip(one, other, strict=True)]
            for one, other in zip(ours, theirs, strict=True)
        ]
        agree(getattr(found, name), draws)


def test_groups_are_those_of_plain_loops(
    grid: Grid, points: list[DosePoint], table: DoseTable
) -> None:
    row = row_of(table, "margin", 0.3)
    after = [
        p.audit.table.to_pylist() for p in points if (p.objective, p.weight) == ("margin", 0.3)
    ]
    before = grid.start.table.to_pylist()
    edges = (0.0, 0.5, 1.0, 2.0, 5.0, math.inf)
    often = np.bincount(grid.target)
    for kind, names in (("by_band", edges[:-1]), ("by_frequency", FREQUENCY_NAMES)):
        for g in range(len(names)):
            shares, accuracies, nets = [], [], []
            for run in after:
                if kind == "by_band":
                    inside = [edges[g] <= line["margin"] < edges[g + 1] for line in run]
                else:
                    bounds = (*FREQUENCY_EDGES, math.inf)
                    inside = [bounds[g] <= often[line["target"]] < bounds[g + 1] for line in run]
                chosen = [i for i, there in enumerate(inside) if there]
                right = [run[i]["top1"] == run[i]["target"] for i in chosen]
                was = [before[i]["top1"] == before[i]["target"] for i in chosen]
                shares.append(len(chosen) / len(run))
                accuracies.append(sum(right) / len(chosen) if chosen else math.nan)
                nets.append((sum(right) - sum(was)) / len(run))
            group = getattr(row, kind)[g]
            assert group.share.value == pytest.approx(np.mean(shares))
            assert group.net.value == pytest.approx(np.mean(nets))
            if math.isfinite(np.mean(accuracies)):
                assert group.accuracy.value == pytest.approx(np.mean(accuracies))
            else:
                assert group.accuracy.value is None
    assert [group.name for group in row.by_class] == list(CLASSES)
    assert sum(group.net.value or 0 for group in row.by_class) == pytest.approx(
        row.figures.accuracy_change.value
    )


def test_rows_are_in_order_and_the_start_is_unchanged(table: DoseTable) -> None:
    names = [(row.objective, row.weight) for row in table.rows]
    trained = list(itertools.product(WIDER, (0.3, 0.6)))
    assert names == [("none", 0.0), *trained, ("temperature", 1.2), ("temperature", 2.0)]
    assert all(row.seeds == (0, 1, 2) for row in table.rows[:7])
    start = table.start.figures
    for name in NAMES:
        if name.endswith(("change", "gain", "rise", "churn", "wrong", "rotation")):
            found = getattr(start, name)
            assert found.value is None or found.value == found.low == found.high == 0


def test_a_temperature_flips_nothing_and_keeps_the_scale_free_margin(table: DoseTable) -> None:
    for row in table.rows[-2:]:
        assert row.seeds == ()
        assert row.matched_to == "fisher 0.6"
        figures = row.figures
        for name in ("churn", "right_to_wrong", "wrong_to_right", "rotation"):
            assert getattr(figures, name).value == getattr(figures, name).high == 0
        assert figures.scale_free_gain.value == pytest.approx(0, abs=1e-6)
        assert figures.median_margin_gain.value == pytest.approx(row.weight - 1, abs=1e-6)
        assert figures.flip_ratio.value is None
        control = table.rows[0].figures
        assert row.over_control is not None
        assert row.over_control.churn.value == pytest.approx(-(control.churn.value or 0))


def test_the_gap_fit_is_the_mean_of_the_audits(
    grid: Grid, points: list[DosePoint], table: DoseTable
) -> None:
    fits = [
        fit_gap(p.audit.column("margin"), grid.doc, resamples=5).published
        for p in points
        if (p.objective, p.weight) == ("entropy", 0.3)
    ]
    row = row_of(table, "entropy", 0.3)
    assert row.alpha == pytest.approx(np.mean([fit.alpha.value for fit in fits]))
    assert row.r_squared == pytest.approx(np.mean([fit.r_squared for fit in fits]))


def test_damage_at_a_gain_is_that_of_plain_loops(
    grid: Grid, points: list[DosePoint], by_hand: Callable[..., Any]
) -> None:
    at = 0.25
    table = dose_table(grid.start, points, gain=at, resamples=RESAMPLES, seed=SEED)
    damages: dict[str, list[list[float]]] = {}
    for objective in ("fisher", "margin"):
        damages[objective] = []
        doses = [by_hand("none", 0.0), by_hand(objective, 0.3), by_hand(objective, 0.6)]
        for seed in range(3):
            draws = []
            for resample in range(RESAMPLES + 1):
                path = [dose[seed][resample] for dose in doses]
                found = math.nan
                for a, b in itertools.pairwise(path):
                    x, y = a["median_margin_gain"], b["median_margin_gain"]
                    if min(x, y) <= at <= max(x, y) and math.isnan(found):
                        t = (at - x) / (y - x)
                        found = (1 - t) * a["right_to_wrong"] + t * b["right_to_wrong"]
                draws.append(found)
            damages[objective].append(draws)
    [one] = [
        m
        for m in table.matched
        if (m.gain, m.damage) == ("median_margin_gain", "right_to_wrong")
        and (m.first, m.second) == ("fisher", "margin")
    ]
    assert one.at == at
    agree(one.first_damage, damages["fisher"])
    agree(one.second_damage, damages["margin"])
    apart = [
        [a - b for a, b in zip(first, second, strict=True)]
        for first, second in zip(damages["fisher"], damages["margin"], strict=True)
    ]
    agree(one.difference, apart)


def test_every_two_objectives_are_compared_in_every_damage(table: DoseTable) -> None:
    pairs = list(itertools.combinations([*WIDER, "temperature"], 2))
    expected = list(itertools.product(GAINS, DAMAGES, pairs))
    assert [(m.gain, m.damage, (m.first, m.second)) for m in table.matched] == expected
    for one in table.matched:
        if one.gain == "scale_free_gain" and one.second == "temperature":
            assert one.difference.value is None
            assert "temperature reaches only" in one.verdict
            assert "scale-free margin" in one.verdict
        elif one.damage == "churn":
            assert one.difference.value is not None


def curve(gains: Sequence[float], damages: Sequence[float], rows: int = 200) -> Curve:
    """A curve that is the same in every resample."""
    return Curve(*(np.tile(np.array(one, dtype=np.float64), (rows, 1)) for one in (gains, damages)))


def test_the_smallest_weights_that_pass_the_gain_count_and_nothing_outside() -> None:
    found = curve([0.0, 0.2, 0.1, 0.3], [0.0, 0.02, 0.5, 0.9])
    assert at_gain(found, 0.15)[0] == pytest.approx(0.015)
    assert at_gain(found, 0.25)[0] == pytest.approx(0.8)
    assert at_gain(found, 0.2)[0] == pytest.approx(0.02)
    assert np.isnan(at_gain(found, 0.31)).all()
    assert np.isnan(at_gain(found, -0.01)).all()
    assert np.isnan(at_gain(curve([0.1], [0.0]), 0.1)).all()
    assert at_gain(curve([0.1, 0.1], [0.3, 0.9]), 0.1)[0] == 0.3


def test_the_common_gain_is_what_nearly_every_resample_reaches() -> None:
    rng = np.random.default_rng(0)
    gain = np.stack([np.zeros(1001), 0.3 + 0.01 * rng.normal(size=1001)], axis=1)
    first, second = Curve(gain, gain), curve([0.0, 0.5], [0, 1], rows=1001)
    at = common_gain({"a": {0: first}, "b": {0: second}})
    assert at == np.quantile(gain[:, 1], 0.025)
    assert common_gain({"b": {0: second}, "c": {0: curve([0.0, -0.1], [0, 1], 1001)}}) is None


def verdicts(first: dict[Any, Curve], second: dict[Any, Curve], **how: Any) -> Matched:
    sides = {"fisher": first, "margin": second}
    [found] = compared("median_margin_gain", "right_to_wrong", sides, 40, 1000, **how)
    return found


def test_verdicts_in_words() -> None:
    cheap, dear = curve([0.01, 0.3], [0.01, 0.02]), curve([0.01, 0.3], [0.01, 0.04])
    one_seed = verdicts({0: cheap, 1: cheap}, {0: dear}, at=0.2).verdict
    assert one_seed.endswith("than fisher (one seed: the interval is over documents alone)")
    told = verdicts({0: cheap, 1: cheap}, {0: dear, 1: dear}, at=0.2).verdict.replace("\u00a0", " ")
    assert told == (
        "at +20.0 % median margin, margin costs 1.31 pp [1.31, 1.31] more right-to-wrong than "
        "fisher"
    )
    same = verdicts({0: cheap, 1: cheap}, {None: cheap}).verdict.replace("\u00a0", " ")
    assert same == (
        "at +30.0 % median margin, fisher and margin are not told apart in right-to-wrong: "
        "difference 0 pp [0, 0]"
    )
    short = verdicts({0: cheap}, {0: curve([0.01, 0.08], [0, 1])}, at=0.2)
    assert short.verdict.replace("\u00a0", " ").endswith("margin reaches only +8.0 % median margin")
    assert short.first_damage.value is not None
    assert short.second_damage.value is None
    lone = verdicts({0: cheap}, {0: curve([0.2], [0])}, at=0.2)
    assert lone.verdict.endswith("margin has a single weight")
    above = verdicts({0: cheap}, {0: curve([0.25, 0.4], [0, 1])}, at=0.2)
    assert "margin starts at +25.0" in above.verdict
    none = verdicts({0: curve([0.01, -0.1], [0, 1])}, {0: curve([0.01, 0.0], [0, 1])})
    assert none.at is None
    assert "fisher reaches only +1.0" in none.verdict
    once = verdicts(*({0: curve([0.01, 0.3], [0, d], rows=1)} for d in (1, 2)), at=0.2)
    assert once.difference.low is None
    assert once.verdict.endswith("without an interval")


def simulated(rng: np.random.Generator, truth: float, seeds: int) -> Matched:
    """Two objectives that differ by ``truth`` times the gain, seen on documents and seeds."""
    documents, doses = 30, np.array([0.0, 0.2, 0.5])
    gain_of, damage_of = 0.05 * rng.normal(size=(2, documents))
    [weights] = resample_weights(documents, resamples=300, seed=1)
    draws = np.concatenate([np.ones((1, documents)), weights]) / documents
    control = 0.02 * rng.normal(size=seeds)

    def side(slope: float) -> dict[int | None, Curve]:
        curves: dict[int | None, Curve] = {}
        for seed in range(seeds):
            own = 0.02 * rng.normal(size=3)
            own[0] = control[seed]
            gain = doses + gain_of[:, None] + 0.02 * rng.normal(size=(documents, 3))
            noise = damage_of[:, None] + 0.02 * rng.normal(size=(documents, 3))
            damage = slope * (doses + gain_of[:, None]) + noise + own
            curves[seed] = Curve(draws @ gain, draws @ damage)
        return curves

    sides = {"a": side(0.3 + truth), "b": side(0.3)}
    [found] = compared("median_margin_gain", "churn", sides, documents, 100, at=0.3)
    return found


@pytest.mark.slow
def test_intervals_of_a_difference_at_matched_gain_cover() -> None:
    rng = np.random.default_rng(11)
    truth = 0.1
    covered = []
    for _ in range(200):
        apart = simulated(rng, truth, 3).difference
        assert apart.low is not None
        assert apart.high is not None
        covered.append(apart.low <= 0.3 * truth <= apart.high)
    assert 0.92 <= np.mean(covered) <= 0.995
    told = [simulated(rng, 1.0, 3).difference.low for _ in range(20)]
    assert all(low is not None and low > 0 for low in told)


def test_seeds_that_do_not_agree_are_not_paired() -> None:
    draws = {seed: np.full(101, value) for seed, value in ((0, 1.0), (1, 3.0), (2, 2.0))}
    others = {seed: np.full(101, value) for seed, value in ((5, 1.0), (6, 2.0))}
    apart = difference_over_seeds(draws, others, 9, 1, "")
    half = math.sqrt(STUDENT[3] ** 2 * 1.0 / 3 + STUDENT[2] ** 2 * 0.5 / 2)
    assert apart.value == 0.5
    assert (apart.low, apart.high) == pytest.approx((0.5 - half, 0.5 + half))
    some = difference_over_seeds(draws, {1: np.full(101, 2.5), 7: np.zeros(101)}, 9, 1, "")
    assert (some.value, some.low, some.high) == (0.5, 0.5, 0.5)
    untrained = difference_over_seeds({None: np.full(101, 2.0)}, draws, 9, 1, "")
    assert untrained.value == 0
    assert untrained.high == pytest.approx(STUDENT[3] / math.sqrt(3))
    assert over_seeds({0: np.full(3, np.nan)}, 9, 4, "why") == Estimate(None, n=4, reason="why")


def test_one_seed_has_the_interval_of_its_documents(
    grid: Grid, by_hand: Callable[..., Any]
) -> None:
    found = dose_table(grid.start, grid.points(seeds=(1,)), resamples=RESAMPLES, seed=SEED)
    row = row_of(found, "margin", 0.6)
    assert row.seeds == (1,)
    for name in ("median_margin_gain", "nll_rise", "churn"):
        agree(getattr(row.figures, name), [[draw[name] for draw in by_hand("margin", 0.6)[1]]])


def test_one_document_has_no_intervals() -> None:
    lone = Grid(n=200, documents=1)
    found = dose_table(lone.start, lone.points(seeds=(0, 1)), resamples=RESAMPLES)
    assert found.n_documents == 1
    for row in found.rows:
        assert row.figures.churn.value is not None
        assert row.figures.churn.low is row.figures.median_margin_gain.low is None
    compared_ones = [m for m in found.matched if m.difference.value is not None]
    assert compared_ones
    assert all(m.verdict.endswith("without an interval") for m in compared_ones)


def test_without_a_control_a_single_weight_is_no_curve(grid: Grid) -> None:
    alone = [grid.point(o, 0.6, s) for o in ("fisher", "margin") for s in (0, 1)]
    found = dose_table(grid.start, alone, resamples=RESAMPLES)
    assert all(row.over_control is None for row in found.rows)
    assert all(m.difference.value is None for m in found.matched)
    given = dose_table(grid.start, alone, gain=0.2, resamples=RESAMPLES)
    assert all("single weight" in m.verdict for m in given.matched)
    with_control = dose_table(
        grid.start, [*alone, *(grid.point("none", 0.0, s) for s in (0, 1))], resamples=RESAMPLES
    )
    assert any(m.difference.value is not None for m in with_control.matched)


def test_read_outs_are_compared_with_those_of_the_start(grid: Grid) -> None:
    start = disturbed(grid.start, "s", 0.4)
    points = [
        replace(point, read_outs=disturbed(point.audit, "d" * (i + 2), 0.2))
        for i, point in enumerate(grid.points(objectives=("fisher",))[:-2])
    ]
    points.append(grid.temperature(1.3))
    found = dose_table(grid.start, points, start_read_outs=start, resamples=RESAMPLES)
    row = row_of(found, "fisher", 0.6)
    assert row.read_outs is not None
    ours = [p.read_outs for p in points if (p.objective, p.weight) == ("fisher", 0.6)]
    flips = [one.changes["int8"].flipped.sum() for one in ours if one is not None]
    expected = np.mean(flips) / start.changes["int8"].flipped.sum()
    assert row.read_outs.changes[0].ratio.value == pytest.approx(expected)
    assert row.read_outs.noise[0].ratio.value == pytest.approx(0.5)
    control = [p.read_outs for p in points if p.objective == "none"]
    theirs = [one.changes["int8"].flipped.sum() for one in control if one is not None]
    assert row.read_outs_over_control is not None
    over = row.read_outs_over_control.changes[0].ratio.value
    assert over == pytest.approx(sum(flips) / sum(theirs))
    assert found.rows[0].read_outs_over_control is None
    assert found.rows[-1].read_outs is None
    without = dose_table(grid.start, points, resamples=RESAMPLES)
    assert all(one.read_outs is None for one in without.rows)
    assert DoseTable.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


def test_positions_that_one_audit_lacks_are_in_no_figure(grid: Grid) -> None:
    points = grid.points(objectives=("fisher",))
    columns = points[3].audit.table.to_pydict()
    for name in ("margin", "relative_distance", "nll", "entropy", "confidence", "sum_p2"):
        columns[name][7] = None
    broken = pa.table(columns, schema=points[3].audit.table.schema)
    points[3] = replace(points[3], audit=replace(points[3].audit, in_memory=broken))
    found = dose_table(grid.start, points, resamples=RESAMPLES)
    assert (found.n_positions, found.n_nonfinite) == (POSITIONS - 1, 1)
    rows = [row for row in range(POSITIONS) if row != 7]
    by_loops = figures_of(grid.start, points[0].audit, rows)
    single = found.rows[0].singles[0]
    assert single.churn == pytest.approx(by_loops["churn"])
    assert single.median_margin_gain == pytest.approx(by_loops["median_margin_gain"])


def test_json_keeps_everything(table: DoseTable) -> None:
    text = json.dumps(table.to_json(), allow_nan=False)
    assert DoseTable.from_json(json.loads(text)) == table
    with pytest.raises(ValueError, match="missing or unknown"):
        DoseTable.from_json({"rows": []})


def test_the_same_points_give_the_same_table(
    grid: Grid, points: list[DosePoint], table: DoseTable
) -> None:
    assert dose_table(grid.start, points, resamples=RESAMPLES, seed=SEED) == table


def test_the_headline_is_a_line_for_each_dose_that_was_trained(table: DoseTable) -> None:
    lines = headline(table)
    trained = [row.name for row in table.rows if row.objective != TEMPERATURE]
    assert [name for name, _ in lines[1:]] == trained
    assert trained[0] == "no penalty"
    assert len(trained) == len(table.rows) - 2
    assert table.rows[-1].name == "logits × 2.000, as fisher 0.6"
    unmoved = replace(table.rows[-1], matched_to="none 0, fisher 0.6")
    assert unmoved.name == "logits × 2.000, as no penalty, fisher 0.6"


def test_what_is_refused(grid: Grid, points: list[DosePoint]) -> None:
    with pytest.raises(UnembedError, match="needs a refined model"):
        dose_table(grid.start, [])
    with pytest.raises(UnembedError, match=r"fisher at 0\.3 with seed 1"):
        dose_table(grid.start, [*points, grid.point("fisher", 0.3, 1)])
    other = Grid(documents=5)
    with pytest.raises(UnembedError, match="the texts differ"):
        dose_table(grid.start, other.points())
