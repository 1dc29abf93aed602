"""Real audits compared: every figure against a recount in plain loops, runs on disk, filters."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tests.reference.flip_prediction import Position, predict

from killing import killed_at
from unembed import Audit, Corpus, UnembedError, audit
from unembed.decisions import AuditOptions
from unembed.decisions.comparison import compare as compare_module
from unembed.decisions.comparison.compare import Comparison, compare, headline
from unembed.decisions.comparison.flips import mcnemar_p
from unembed.decisions.comparison.positions import PositionFilter
from unembed.decisions.comparison.summary import (
    BAND_NAMES,
    bands_of,
    comparison_from_json,
    comparison_to_json,
)
from unembed.decisions.tokens import CLASSES, FREQUENCY_NAMES, classify
from unembed.runs.store import RunFolder
from unembed.stats.bootstrap import interval_levels, resample_weights
from unembed.text.vocabulary import Vocabulary

RESAMPLES = 40
BANDS = {
    "[0, 0.5)": (0, 0.5),
    "[0.5, 1)": (0.5, 1),
    "[1, 2)": (1, 2),
    "[2, 5)": (2, 5),
    "[5, ∞)": (5, math.inf),
}
Row = dict[str, Any]


@pytest.fixture(scope="module")
def texts(topics: list[str]) -> list[str]:
    return topics[:30]


@pytest.fixture(scope="module")
def corpus(texts: list[str], tokenizer: Any) -> Corpus:
    return Corpus.from_texts(texts, tokenizer, names=[f"topic {i}" for i in range(len(texts))])


@pytest.fixture(scope="module")
def models(llama: Any, corpus: Corpus) -> dict[str, Any]:
    """The small Llama after some steps on the text, so that it is often right, and two copies:
    one with noise in its weights, one whose embedding of a token is not a number."""
    before = copy.deepcopy(llama).train()
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor(corpus.ids).long()
    optimizer = torch.optim.Adam(before.parameters(), 5e-3)
    for _ in range(60):
        rows = torch.randint(len(ids) - 64, (8,), generator=generator).tolist()
        batch = torch.stack([ids[row : row + 64] for row in rows])
        optimizer.zero_grad()
        before(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
    after, broken = copy.deepcopy(before.eval()), copy.deepcopy(before.eval())
    with torch.no_grad():
        for weight in after.parameters():
            if weight.ndim > 1:
                noise = torch.randn(weight.shape, generator=generator)
                weight += 0.12 * weight.std() * noise
        rare = next(token for token, n in Counter(ids.tolist()).items() if n == 3)
        broken.get_input_embeddings().weight[rare] = torch.nan
    return {"before": before, "after": after, "broken": broken}


@pytest.fixture(scope="module")
def audited(models: dict[str, Any], corpus: Corpus) -> Callable[..., Audit]:
    made: dict[tuple[str, int], Audit] = {}

    def of(name: str, top_k: int = 0) -> Audit:
        if (name, top_k) not in made:
            options = AuditOptions(top_k=top_k, max_nonfinite=corpus.tokens)
            made[name, top_k] = audit(models[name], corpus, options, name=name)
        return made[name, top_k]

    return of


def paired(before: Audit, after: Audit, tokenizer: Any) -> list[Row]:
    """Both tables row by row, without the positions that either could not measure."""
    rows = []
    for one, two in zip(before.table.to_pylist(), after.table.to_pylist(), strict=True):
        assert all(one[key] == two[key] for key in ("doc", "pos", "target", "word_start"))
        if one["margin"] is not None and two["margin"] is not None:
            rows.append({"b": one, "a": two, "doc": one["doc"], "target": one["target"]})
    count = Counter(row["target"] for row in rows)
    for row in rows:
        row["was"], row["now"] = (row[s]["top1"] == row["target"] for s in "ba")
        row["class"] = classify(tokenizer.decode([row["target"]]))
        times = count[row["target"]]
        lowest = ((100, "100+"), (20, "20-99"), (5, "5-19"), (2, "2-4"), (1, "1"))
        row["frequency"] = next(name for low, name in lowest if times >= low)
        for side in "ba":
            margin = row[side]["margin"]
            row[side]["band"] = next(n for n, (lo, hi) in BANDS.items() if lo <= margin < hi)
    return rows


def mean(values: list[Any]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def same(estimate: Any, value: float | None, n: int | None = None, rel: float = 1e-10) -> None:
    if value is None:
        assert estimate.value is None
        assert estimate.reason
    else:
        assert estimate.value == pytest.approx(value, rel=rel, abs=1e-12)
        assert n is None or estimate.n == n


def same_interval(
    estimate: Any,
    rows: list[Row],
    statistic: Callable[[list[Row]], float],
    inside: Callable[[Row], bool] = lambda row: True,
) -> None:
    """The interval is that of the statistic of written-out resamples of all the documents."""
    ids = sorted({row["doc"] for row in rows})
    of = {doc: [row for row in rows if row["doc"] == doc and inside(row)] for doc in ids}
    drawn = []
    for times in np.concatenate(list(resample_weights(len(ids), resamples=RESAMPLES, seed=3))):
        drawn.append(
            statistic([row for d, k in zip(ids, times, strict=True) for row in of[d] * int(k)])
        )
    levels = interval_levels(sum(len(some) > 0 for some in of.values()))
    low, high = np.quantile(drawn, levels)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), rel=1e-9, abs=1e-12)


def same_flips(found: Any, rows: list[Row]) -> None:
    n = len(rows)
    gained = sum(not row["was"] and row["now"] for row in rows)
    lost = sum(row["was"] and not row["now"] for row in rows)
    changed = sum(row["b"]["top1"] != row["a"]["top1"] for row in rows)
    astray = sum(
        row["b"]["top1"] != row["a"]["top1"] and not row["was"] and not row["now"] for row in rows
    )
    assert (found.n, found.documents) == (n, len({row["doc"] for row in rows}))
    assert (found.changed, found.wrong_to_right, found.right_to_wrong) == (changed, gained, lost)
    assert (found.wrong_to_wrong, found.net) == (astray, gained - lost)
    for name, count in (
        ("churn", changed),
        ("wrong_to_right_share", gained),
        ("right_to_wrong_share", lost),
        ("wrong_to_wrong_share", astray),
        ("accuracy_before", sum(row["was"] for row in rows)),
        ("accuracy_after", sum(row["now"] for row in rows)),
        ("accuracy_difference", gained - lost),
    ):
        same(getattr(found, name), count / n if n else None, n)
    same(found.flip_ratio, gained / lost if min(gained, lost) >= 10 else None)
    fewer = sum(math.comb(gained + lost, i) for i in range(min(gained, lost) + 1))
    assert found.mcnemar_p == pytest.approx(min(1, 2 * fewer / 2 ** (gained + lost)))
    nets: Counter[int] = Counter()
    for row in rows:
        nets[row["doc"]] += int(row["now"]) - int(row["was"])
    unequal = [net for net in nets.values() if net]
    chi = math.sqrt(sum(unequal) ** 2 / sum(net**2 for net in unequal)) if unequal else 0
    value = math.erfc(chi / math.sqrt(2)) if len(unequal) >= 2 else None
    same(found.clustered_mcnemar_p, value, len(unequal))


def same_groups(table: Any, rows: list[Row], of: Callable[[Row], str], names: list[str]) -> None:
    assert [group.name for group in table] == names
    total = sum(row["now"] - row["was"] for row in rows)
    for group in table:
        inside = [row for row in rows if of(row) == group.name]
        same_flips(group.flips, inside)
        same(group.share, len(inside) / len(rows))
        net = sum(row["now"] - row["was"] for row in inside)
        same(group.share_of_net, net / total if abs(total) >= 10 else None)


def same_movement(found: Any, rows: list[Row]) -> None:
    kept = [row for row in rows if row["b"]["top1"] == row["a"]["top1"]]
    rotated = [row for row in kept if row["b"]["top2"] != row["a"]["top2"]]
    stayed = [row for row in kept if row["b"]["top2"] == row["a"]["top2"]]
    assert found.rotation.n == len(rotated)
    same(found.rotation.share, len(rotated) / len(rows), len(rows))
    for measure in ("margin", "relative_distance"):
        for change, inside in (
            (getattr(found.rotation, measure), rotated),
            (getattr(found.everywhere, measure), rows),
            (getattr(found.unchanged, measure), kept),
        ):
            deltas = [row["a"][measure] - row["b"][measure] for row in inside]
            same(change.wider, mean([delta > 0 for delta in deltas]), len(deltas))
            same(change.mean, mean(deltas), len(deltas))
            if inside is rotated:
                continue
            assert change.median == change.quantiles["50"]
            for q, estimate in change.quantiles.items():
                same(estimate, float(np.quantile(deltas, int(q) / 100)), len(deltas))
            histogram = change.histogram
            assert sum(histogram.right) <= sum(row["was"] for row in inside)
            outside = histogram.below + histogram.above
            assert sum(histogram.right) + sum(histogram.wrong) + outside == len(inside)
    for (low, high), band in zip(BANDS.values(), found.bands, strict=True):
        then = [row for row in rows if low <= row["b"]["margin"] < high]
        now = [row for row in rows if low <= row["a"]["margin"] < high]
        assert (band.low, band.high) == (low, None if math.isinf(high) else high)
        assert (band.n_before, band.n_after) == (len(then), len(now))
        same(band.accuracy_before, mean([row["was"] for row in then]), len(then))
        same(band.paired_after, mean([row["now"] for row in then]), len(then))
        same(band.paired_difference, mean([row["now"] - row["was"] for row in then]), len(then))
        same(band.accuracy_after, mean([row["now"] for row in now]), len(now))
    medians = {
        side + name: float(np.median([row[side][name] for row in stayed]))
        for side in "ba"
        for name in ("margin", "relative_distance")
    }
    sharpening = found.sharpening
    assert sharpening.n == len(stayed)
    same(sharpening.temperature, medians["bmargin"] / medians["amargin"])
    same(sharpening.raw_change, medians["amargin"] / medians["bmargin"] - 1)
    free = medians["arelative_distance"] / medians["brelative_distance"] - 1
    same(sharpening.scale_free_change, free)


def same_calibration(found: Any, rows: list[Row]) -> None:
    values: dict[str, list[float]] = {"ece": [], "brier": [], "nll_nats": []}
    for side, right, one in (("b", "was", found.before), ("a", "now", found.after)):
        bins: list[list[Row]] = [[] for _ in range(15)]
        for row in rows:
            confidence = row[side]["confidence"]
            bins[max(i for i in range(15) if i == 0 or confidence >= i / 15)].append(row)
        gaps = []
        for inside, shown in zip(bins, one.bins, strict=True):
            assert shown.n == len(inside)
            stated, hits = (
                [r[side]["confidence"] for r in inside],
                [float(r[right]) for r in inside],
            )
            same(shown.confidence, mean(stated), len(inside))
            same(shown.accuracy, mean(hits), len(inside))
            if inside:
                gaps.append((abs(mean(hits) - mean(stated)), len(inside)))
        values["ece"].append(math.fsum(gap * n / len(rows) for gap, n in gaps))
        same(one.ece, values["ece"][-1], len(rows))
        same(one.mce, *max(gaps))
        brier = [r[side]["sum_p2"] - 2 * math.exp(-r[side]["nll"]) + 1 for r in rows]
        for name, column in (("brier", brier), ("nll_nats", [r[side]["nll"] for r in rows])):
            values[name].append(mean(column))
            same(getattr(one, name), values[name][-1], len(rows))
    for name, (then, now) in values.items():
        named = "nll_difference_nats" if name == "nll_nats" else f"{name}_difference"
        same(getattr(found, named), now - then, len(rows))


def same_prediction(found: Any, rows: list[Row]) -> None:
    stored = all("topk_ids" in rows[0][side] for side in "ba")

    def listed(side: Row) -> tuple[tuple[int, float], ...]:
        if stored:
            return tuple(zip(side["topk_ids"], side["topk_logits"], strict=True))
        return (side["top1"], side["margin"]), (side["top2"], 0.0)

    loop = predict(
        [
            Position(row["doc"], row["b"]["entropy"], listed(row["b"]), listed(row["a"]))
            for row in rows
        ]
    )
    moved = [row["b"]["top1"] != row["a"]["top1"] for row in rows]
    same(found.scale, loop.scale, len(rows))
    same(found.noise, loop.noise, len(rows), rel=1e-6)
    assert found.candidates == len(listed(rows[0]["b"])) - 1
    same(found.predicted, mean(loop.chances), len(rows))
    same(found.observed, mean(moved), len(rows))
    assert found.difference.value == pytest.approx(mean(moved) - mean(loop.chances), abs=1e-10)
    assert sum(one.n for one in found.bins) == len(rows)
    for one in found.bins:
        inside = [m for m, c in zip(moved, loop.chances, strict=True) if one.low <= c < one.high]
        if one.high < 1:
            same(one.observed, mean(inside), len(inside))


def same_tokens(found: Any, texts: dict[str, str], rows: list[Row], tokenizer: Any) -> None:
    counts: dict[int, list[int]] = {}
    for row in rows:
        n, gained, lost = counts.get(row["target"], [0, 0, 0])
        up, down = not row["was"] and row["now"], row["was"] and not row["now"]
        counts[row["target"]] = [n + 1, gained + up, lost + down]
    assert found.tokens == sum(gained + lost > 0 for _, gained, lost in counts.values())
    for sign, shown in ((1, found.gaining), (-1, found.losing)):
        nets = {token: sign * (gained - lost) for token, (_, gained, lost) in counts.items()}
        best = sorted((-net, token) for token, net in nets.items() if net > 0)[:20]
        assert [flip.token for flip in shown] == [token for _, token in best]
        for flip in shown:
            n, gained, lost = counts[flip.token]
            assert (flip.n, flip.wrong_to_right, flip.right_to_wrong) == (n, gained, lost)
            assert flip.net == gained - lost
            assert flip.sign_p == mcnemar_p(gained, lost)
            assert texts[str(flip.token)] == tokenizer.decode([flip.token])
    assert set(texts) == {str(flip.token) for flip in (*found.gaining, *found.losing)}


def same_summary(found: Any, rows: list[Row], tokenizer: Any) -> None:
    """Every figure of a comparison against the rows."""
    assert (found.n_positions, found.n_documents) == (len(rows), len({r["doc"] for r in rows}))
    same_flips(found.flips, rows)
    same_groups(found.by_band_before, rows, lambda r: r["b"]["band"], list(BANDS))
    same_groups(found.by_band_after, rows, lambda r: r["a"]["band"], list(BANDS))
    names = ["1", "2-4", "5-19", "20-99", "100+"]
    same_groups(found.by_frequency, rows, lambda r: r["frequency"], names)
    kinds = ["structural", "numeric", "function", "entity-like", "content", "fragment"]
    same_groups(found.by_class, rows, lambda r: r["class"], kinds)
    cross = [f"{kind}, {name}" for kind in kinds for name in names]
    same_groups(
        found.by_class_and_frequency, rows, lambda r: f"{r['class']}, {r['frequency']}", cross
    )

    def start(row: Row) -> str:
        return "word start" if row["b"]["word_start"] else "inside a word"

    same_groups(found.by_word_start, rows, start, ["inside a word", "word start"])
    same_tokens(found.tokens, found.token_texts, rows, tokenizer)
    same_movement(found.movement, rows)
    same_calibration(found.calibration, rows)
    same_prediction(found.prediction, rows)


def walk(value: Any, path: str = "summary") -> None:
    """Every number of the plain JSON is finite, and every undefined statistic has its reason."""
    if isinstance(value, dict):
        if "value" in value and value["value"] is None:
            assert value["reason"], path
        for key, inside in value.items():
            walk(inside, f"{path}.{key}")
    elif isinstance(value, list):
        for i, inside in enumerate(value):
            walk(inside, f"{path}[{i}]")
    elif isinstance(value, float):
        assert math.isfinite(value), path
    else:
        assert value is None or type(value) in (str, int, bool), (path, value)


@pytest.mark.parametrize("top_k", [(0, 0), (5, 0), (5, 5)])
def test_every_figure_is_the_naive_recount(
    audited: Callable[..., Audit], tokenizer: Any, top_k: tuple[int, int]
) -> None:
    # Candidates are not needed: audits with other columns compare too.
    before, after = audited("before", top_k[0]), audited("after", top_k[1])
    found = compare(before, after, resamples=RESAMPLES, seed=3)
    rows = paired(before, after, tokenizer)
    summary = found.summary
    same_summary(summary, rows, tokenizer)
    assert (summary.n_nonfinite, summary.only, summary.notes) == (0, None, ())
    assert summary.flips.flip_ratio.value is not None
    assert summary.by_class[2].share_of_net.value is not None
    assert len(found) == len(rows)
    walk(comparison_to_json(summary))
    assert comparison_from_json(json.loads(json.dumps(comparison_to_json(summary)))) == summary
    assert compare(before, after, resamples=RESAMPLES, seed=3).summary == summary
    assert compare(before, after, resamples=RESAMPLES, seed=4).summary != summary


def test_every_part_resamples_the_same_documents(
    audited: Callable[..., Audit], tokenizer: Any
) -> None:
    before, after = audited("before"), audited("after")
    found = compare(before, after, resamples=RESAMPLES, seed=3).summary
    rows = paired(before, after, tokenizer)

    def churn(some: list[Row]) -> float:
        return sum(row["b"]["top1"] != row["a"]["top1"] for row in some) / len(some)

    for estimate, inside in (
        (found.flips.churn, lambda row: True),
        (found.prediction.observed, lambda row: True),
        (found.by_class[0].flips.churn, lambda row: row["class"] == "structural"),
        (found.by_frequency[3].flips.churn, lambda row: row["frequency"] == "20-99"),
        (found.by_band_before[0].flips.churn, lambda row: row["b"]["band"] == "[0, 0.5)"),
        (found.by_band_after[2].flips.churn, lambda row: row["a"]["band"] == "[1, 2)"),
        (found.by_word_start[1].flips.churn, lambda row: row["b"]["word_start"]),
    ):
        same_interval(estimate, rows, churn, inside)
    same_interval(
        found.calibration.nll_difference_nats,
        rows,
        lambda some: math.fsum(r["a"]["nll"] - r["b"]["nll"] for r in some) / len(some),
    )
    same_interval(
        found.movement.everywhere.relative_distance.median,
        rows,
        lambda some: float(
            np.median([r["a"]["relative_distance"] - r["b"]["relative_distance"] for r in some])
        ),
    )


def test_the_table_has_a_row_for_each_position(
    audited: Callable[..., Audit], tokenizer: Any
) -> None:
    before, after = audited("before"), audited("after")
    found = compare(before, after, resamples=2)
    for got, row in zip(found.table.to_pylist(), paired(before, after, tokenizer), strict=True):
        for name, side, right in (("before", "b", "was"), ("after", "a", "now")):
            for column in ("top1", "top2", "margin", "relative_distance", "nll", "entropy"):
                assert got[f"{name}_{column}"] == row[side][column]
            assert got[f"{name}_confidence"] == row[side]["confidence"]
            assert got[f"{name}_sum_p2"] == row[side]["sum_p2"]
            assert got[f"{name}_right"] == row[right]
        for column in ("doc", "pos", "target", "word_start"):
            assert got[column] == row["b"][column]
        assert (got["class"], got["frequency"]) == (row["class"], row["frequency"])
    assert pa.table(found).equals(found.table)
    assert len(found.to_pandas()) == len(found)
    assert "changed top token (churn)" in str(found)
    assert "<table>" in found._repr_html_()


@pytest.mark.parametrize("top_k", [0, 5])
def test_an_audit_compared_with_itself_is_exactly_zero(
    audited: Callable[..., Audit], top_k: int
) -> None:
    one = audited("before", top_k)
    summary = compare(one, one, resamples=RESAMPLES).summary
    groups = [
        *summary.by_band_before,
        *summary.by_band_after,
        *summary.by_frequency,
        *summary.by_class,
        *summary.by_class_and_frequency,
        *summary.by_word_start,
    ]

    def zero(estimate: Any) -> None:
        if estimate.n:
            assert estimate.value == 0
            assert (estimate.low or 0, estimate.high or 0) == (0, 0)
        else:
            assert estimate.value is None
            assert estimate.reason

    for flips in (summary.flips, *(group.flips for group in groups)):
        counts = (flips.changed, flips.wrong_to_right, flips.right_to_wrong, flips.wrong_to_wrong)
        assert (*counts, flips.net) == (0, 0, 0, 0, 0)
        zero(flips.churn)
        zero(flips.wrong_to_right_share)
        zero(flips.right_to_wrong_share)
        zero(flips.wrong_to_wrong_share)
        zero(flips.accuracy_difference)
        assert flips.accuracy_before == flips.accuracy_after
        assert (flips.flip_ratio.value, flips.mcnemar_p) == (None, 1)
        assert "a ratio needs" in flips.flip_ratio.reason
        assert flips.clustered_mcnemar_p.value is None
    assert {group.share_of_net.value for group in groups} == {None}
    assert all("total net is 0" in group.share_of_net.reason for group in groups)
    assert summary.by_band_before == summary.by_band_after
    assert (summary.tokens.tokens, summary.tokens.gaining, summary.tokens.losing) == (0, (), ())
    assert summary.token_texts == {}
    movement = summary.movement
    assert movement.rotation.n == 0
    zero(movement.rotation.share)
    assert movement.rotation.margin.mean.value is None
    assert movement.everywhere == movement.unchanged
    for spread in (movement.everywhere.margin, movement.everywhere.relative_distance):
        for estimate in (spread.wider, spread.mean, *spread.quantiles.values()):
            zero(estimate)
    for band in movement.bands:
        zero(band.paired_difference)
        assert band.accuracy_before == band.paired_after == band.accuracy_after
    sharpening = movement.sharpening
    assert (sharpening.temperature.value, sharpening.verdict) == (1, "none")
    zero(sharpening.raw_change)
    zero(sharpening.scale_free_change)
    calibration = summary.calibration
    assert calibration.before == calibration.after
    for name in ("ece_difference", "brier_difference", "nll_difference_nats"):
        zero(getattr(calibration, name))
    prediction = summary.prediction
    for name in ("noise", "predicted", "observed", "difference"):
        zero(getattr(prediction, name))
    assert prediction.scale.value == 1
    walk(comparison_to_json(summary))
    json.dumps(comparison_to_json(summary), allow_nan=False)
    assert not re.search(r"\b(nan|inf)\b", str(compare(one, one, resamples=2)))


def test_positions_that_either_could_not_measure_are_left_out(
    audited: Callable[..., Audit], tokenizer: Any
) -> None:
    whole, broken = audited("before", 5), audited("broken", 5)
    missing = broken.table["margin"].null_count
    assert 0 < missing < len(broken) / 2
    for before, after in ((whole, broken), (broken, whole), (broken, broken)):
        found = compare(before, after, resamples=RESAMPLES)
        rows = paired(before, after, tokenizer)
        assert found.summary.n_nonfinite == missing == len(broken) - len(rows)
        assert found.summary.n_positions == found.table.num_rows == len(rows)
        assert all(column.null_count == 0 for column in found.table.columns)
        same_flips(found.summary.flips, rows)
        same_groups(
            found.summary.by_frequency, rows, lambda r: r["frequency"], list(FREQUENCY_NAMES)
        )
        assert found.summary.flips.changed == 0
        assert found.summary.prediction.observed.value == 0
        walk(comparison_to_json(found.summary))
        assert dict(headline(found.summary))["not finite"] == f"{missing:,} positions left out"
    found = compare(broken, audited("after"), resamples=RESAMPLES, seed=3)
    same_summary(found.summary, paired(broken, audited("after"), tokenizer), tokenizer)


def test_nothing_measured_is_told_in_reasons(models: dict[str, Any], corpus: Corpus) -> None:
    dead = copy.deepcopy(models["before"])
    with torch.no_grad():
        dead.get_input_embeddings().weight.fill_(torch.nan)
    one = audit(dead, corpus, AuditOptions(max_nonfinite=corpus.tokens))
    found = compare(one, one, resamples=5)
    assert (found.summary.n_positions, found.summary.n_documents) == (0, 0)
    assert found.summary.n_nonfinite == len(one)
    assert found.summary.flips.churn.reason == "no position to average over"
    walk(comparison_to_json(found.summary))
    with pytest.raises(UnembedError, match="no position is left with classes content"):
        compare(one, one, only=PositionFilter(classes=("content",)))


def test_one_document_has_figures_without_intervals(
    models: dict[str, Any], texts: list[str], tokenizer: Any
) -> None:
    single = Corpus.from_texts([" ".join(texts)[:1200]], tokenizer)
    one, two = (audit(models[n], single, AuditOptions(top_k=0)) for n in ("before", "after"))
    found = compare(one, two, resamples=RESAMPLES).summary
    rows = paired(one, two, tokenizer)
    same_flips(found.flips, rows)
    same_movement(found.movement, rows)
    same_calibration(found.calibration, rows)
    assert found.flips.churn.low is None
    walk(comparison_to_json(found))


def test_other_precisions_compare_and_say_so(
    models: dict[str, Any], audited: Callable[..., Audit], corpus: Corpus
) -> None:
    half = copy.deepcopy(models["before"]).to(torch.bfloat16)
    found = compare(audited("before"), audit(half, corpus, AuditOptions(top_k=0)), resamples=5)
    note = "the model's dtype differs: float32 before, bfloat16 after"
    assert note in found.summary.notes
    assert ("note", note) in headline(found.summary)
    assert 0 < found.summary.flips.changed < len(found) / 4


def test_a_band_holds_its_lower_edge() -> None:
    margins = np.array([0, 0.49, 0.5, 0.99, 1, 1.99, 2, 4.99, 5, 900], dtype=np.float32)
    assert bands_of(margins).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert tuple(BANDS) == BAND_NAMES


# A run on disk.


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_a_run_folder_holds_the_same_comparison(
    audited: Callable[..., Audit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_module, "PART_ROWS", 300)
    before, after = audited("before", 5), audited("after")
    here = compare(before, after, resamples=RESAMPLES)
    there = compare(before, after, resamples=RESAMPLES, out=tmp_path / "run", command="again")
    assert len(list((tmp_path / "run" / "tokens").iterdir())) == math.ceil(len(here) / 300)
    loaded = Comparison.load(tmp_path / "run")
    for one in (there, loaded):
        assert one.summary == here.summary
        assert one.provenance == here.provenance
        assert one.table.equals(here.table)
        assert pa.table(one).equals(here.table)
        assert str(one) == str(here)
    assert here.provenance["before"] == before.provenance.to_json()
    assert here.provenance["after"] == after.provenance.to_json()
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["command"] == "again"


def test_a_second_call_does_nothing_and_another_is_refused(
    audited: Callable[..., Audit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after, run = audited("before"), audited("after"), tmp_path / "run"
    first = compare(before, after, resamples=5, out=run)
    held = contents(run)

    def unwanted(*_args: Any, **_named: Any) -> Any:
        raise AssertionError("computed although the folder decides")

    monkeypatch.setattr(compare_module, "read_comparison", unwanted)
    again = compare(before, after, resamples=5, out=run)
    assert (again.summary, again.provenance) == (first.summary, first.provenance)
    others: list[tuple[Audit, Audit, dict[str, Any], str]] = [
        (after, before, {}, "before.model"),
        (before, after, {"seed": 1}, "seed is 0, this one's is 1"),
        (before, after, {"resamples": 6}, "resamples is 5"),
        (
            before,
            after,
            {"only": PositionFilter(classes=("content",))},
            'only is null, .* "classes content"',
        ),
        (before, audited("after", 5), {}, "after.options.top_k is 0, this one's is 5"),
    ]
    for one, two, how, message in others:
        with pytest.raises(UnembedError, match=f"holds another run: its {message}"):
            compare(one, two, **{"resamples": 5, **how}, out=run)
    assert contents(run) == held
    with pytest.raises(UnembedError, match="no position is left with"):
        compare(
            before,
            after,
            only=PositionFilter(documents="topic 3", classes=("numeric",)),
            out=tmp_path / "b",
        )
    assert not (tmp_path / "b").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(UnembedError, match="holds files that are no run"):
        compare(before, after, out=tmp_path / "mine")


def test_terms_with_commas_are_other_runs(tokenizer: Any) -> None:
    one = PositionFilter(terms=("if, else",), tokenizer=tokenizer)
    two = PositionFilter(terms=("if", "else"), tokenizer=tokenizer)
    assert one.words == "terms 'if, else'"
    assert two.words == "terms 'if', 'else'"


def test_a_killed_run_goes_on_to_the_same_bytes(
    audited: Callable[..., Audit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_module, "PART_ROWS", 300)
    before, after = audited("before"), audited("after")
    compare(before, after, resamples=5, out=tmp_path / "whole")
    with killed_at(monkeypatch, RunFolder, "write_bytes", 3):
        compare(before, after, resamples=5, out=tmp_path / "run")
    with pytest.raises(UnembedError, match="holds an unfinished run"):
        Comparison.load(tmp_path / "run")
    compare(before, after, resamples=5, out=tmp_path / "run")
    whole, run = (contents(tmp_path / name) for name in ("whole", "run"))
    assert {name: data for name, (data, _) in whole.items()} == {
        name: data for name, (data, _) in run.items()
    }


def test_damage_does_not_pass(audited: Callable[..., Audit], tmp_path: Path) -> None:
    run = tmp_path / "run"
    compare(audited("before"), audited("after"), resamples=5, out=run)
    for name in ("tokens/part-00000.parquet", "summary.json", "manifest.json"):
        data = (run / name).read_bytes()
        middle = len(data) // 2
        flipped = bytes([data[middle] ^ 1])
        (run / name).write_bytes(data[:middle] + flipped + data[middle + 1 :])
        with pytest.raises(UnembedError, match=f"{name} is damaged"):
            Comparison.load(run)
        (run / name).write_bytes(data)
        Comparison.load(run)


def test_runs_of_other_kinds_are_not_opened(
    audited: Callable[..., Audit], models: dict[str, Any], corpus: Corpus, tmp_path: Path
) -> None:
    compare(audited("before"), audited("after"), resamples=5, out=tmp_path / "comparison")
    short = AuditOptions(top_k=0, max_positions=30)
    audit(models["before"], corpus, short, out=tmp_path / "audit")
    with pytest.raises(UnembedError, match=r"'audit', .* 'comparison'"):
        Comparison.load(tmp_path / "audit")
    with pytest.raises(UnembedError, match=r"'comparison', .* 'audit'"):
        Audit.load(tmp_path / "comparison")
    with pytest.raises(UnembedError, match="holds no run"):
        Comparison.load(tmp_path / "nothing")


# Which positions to compare.


def by_hand(one: Audit, keep: list[bool]) -> Audit:
    return dataclasses.replace(one, folder=None, in_memory=one.table.filter(pa.array(keep)))


def term_ways(term: str, tokenizer: Any) -> list[list[int]]:
    """How the tokens spell a word: at a text's start, and after a space."""
    ways = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (term, f" {term}")]
    return [list(way) for way in ways]


FILTERS: dict[str, tuple[dict[str, Any], Callable[[Row, str], bool], str]] = {
    "class": (
        {"classes": ("content", "function")},
        lambda row, name: row["class"] in ("content", "function"),
        "classes content, function",
    ),
    "frequency": (
        {"frequencies": ("5-19", "20-99")},
        lambda row, name: row["frequency"] in ("5-19", "20-99"),
        "frequencies 5-19, 20-99",
    ),
    "band": (
        {"bands": ("[0, 0.5)", "[2, 5)")},
        lambda row, name: row["b"]["margin"] < 0.5 or 2 <= row["b"]["margin"] < 5,
        "bands [0, 0.5), [2, 5)",
    ),
    "documents": (
        {"documents": "[13579]$"},
        lambda row, name: int(name.split()[-1]) % 2 == 1,
        "documents matching '[13579]$'",
    ),
    "several": (
        {"classes": ("structural",), "bands": ("[1, 2)", "[2, 5)"), "documents": "^topic 1"},
        lambda row, name: (
            row["class"] == "structural"
            and 1 <= row["b"]["margin"] < 5
            and name.startswith("topic 1")
        ),
        "classes structural; bands [1, 2), [2, 5); documents matching '^topic 1'",
    ),
}


def assert_filtered(
    before: Audit, after: Audit, only: PositionFilter, keep: list[bool], words: str, tokenizer: Any
) -> None:
    found = compare(before, after, only=only, resamples=RESAMPLES, seed=3)
    hand = compare(by_hand(before, keep), by_hand(after, keep), resamples=RESAMPLES, seed=3)
    assert found.summary.n_positions == sum(keep) == found.table.num_rows
    assert 0 < sum(keep) < len(keep)
    # Frequencies are those among all audited targets, filtered or not.
    by_frequency = ("by_frequency", "by_class_and_frequency")
    for field in dataclasses.fields(found.summary):
        if field.name not in (*by_frequency, "only"):
            got, want = (getattr(one.summary, field.name) for one in (found, hand))
            assert got == want, field.name
    rows = [row for row, kept in zip(paired(before, after, tokenizer), keep, strict=True) if kept]
    same_flips(found.summary.flips, rows)
    for group in found.summary.by_frequency:
        same_flips(group.flips, [row for row in rows if row["frequency"] == group.name])
    assert found.table.drop_columns("frequency").equals(hand.table.drop_columns("frequency"))
    assert found.table["frequency"].to_pylist() == [row["frequency"] for row in rows]
    assert found.summary.only == found.provenance["only"] == words
    assert ("only", words) in headline(found.summary)


@pytest.mark.parametrize(("name", "top_k"), [*zip(FILTERS, (0, 5, 0, 5, 5), strict=True)])
def test_a_filter_compares_the_rows_filtered_by_hand(
    audited: Callable[..., Audit], tokenizer: Any, name: str, top_k: int
) -> None:
    how, wanted, words = FILTERS[name]
    before, after = audited("before", top_k), audited("after")
    names = before.documents["name"].to_pylist()
    keep = [wanted(row, names[row["doc"]]) for row in paired(before, after, tokenizer)]
    assert_filtered(before, after, PositionFilter(**how), keep, words, tokenizer)


def test_terms_compare_the_rows_that_spell_them(
    audited: Callable[..., Audit], tokenizer: Any
) -> None:
    before, after = audited("before", 5), audited("after")
    rows = paired(before, after, tokenizer)
    terms = ("expression", "statement")
    keep = [False] * len(rows)
    for term in terms:
        for way in term_ways(term, tokenizer):
            for start in range(len(rows) - len(way) + 1):
                some = rows[start : start + len(way)]
                if [row["target"] for row in some] == way and len({r["doc"] for r in some}) == 1:
                    keep[start : start + len(way)] = [True] * len(way)
    only = PositionFilter(terms=terms, tokenizer=tokenizer)
    assert_filtered(before, after, only, keep, "terms 'expression', 'statement'", tokenizer)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"classes": ("verb",)}, "'verb' .*structural, numeric, function"),
        ({"frequencies": ("7",)}, "'7' is none of .* 1, 2-4, 5-19, 20-99, 100+"),
        ({"bands": ("[0, 3)",)}, r"'\[0, 3\)' is none of the bands \[0, 0.5\), \[0.5, 1\)"),
        ({"documents": "("}, r"'\(' is no regular expression: missing \)"),
        ({"terms": ("lambda",)}, r"terms .*'lambda'.* need the tokenizer"),
    ],
)
def test_a_filter_that_cannot_be_is_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(UnembedError, match=message):
        PositionFilter(**how)


def test_a_filter_that_leaves_nothing_is_refused(
    audited: Callable[..., Audit], tokenizer: Any
) -> None:
    before, after = audited("before"), audited("after")
    for only, message in (
        (
            PositionFilter(documents="chapter"),
            "no position is left with documents matching 'chapter'",
        ),
        (PositionFilter(terms=("zyzzyva",), tokenizer=tokenizer), "left with terms 'zyzzyva'"),
        (
            PositionFilter(classes=("numeric",), documents="topic 4$"),
            r"left with classes numeric; documents matching 'topic 4\$'",
        ),
    ):
        with pytest.raises(UnembedError, match=message):
            compare(before, after, only=only, resamples=5)
    with pytest.raises(UnembedError, match="the term ' ' is blank"):
        compare(before, after, only=PositionFilter(terms=(" ",), tokenizer=tokenizer), resamples=5)


def test_terms_of_another_tokenizer_are_refused(
    audited: Callable[..., Audit], tokenizer: Any, small_tokenizer: Any
) -> None:
    before, after = audited("before"), audited("after")
    small = PositionFilter(terms=("with",), tokenizer=small_tokenizer)
    label = before.provenance.text.tokenizer
    with pytest.raises(UnembedError) as caught:
        compare(before, after, only=small, resamples=2)
    assert f"the tokenizers differ, {label} in the audits and " in str(caught.value)
    assert f"({len(small_tokenizer)} tokens) for the terms" in str(caught.value)
    target = int(before.column("target")[0])
    texts = {**after.vocabulary.texts, target: "?!"}
    odd = [dataclasses.replace(one, vocabulary=Vocabulary(texts)) for one in (before, after)]
    terms = PositionFilter(terms=("with",), tokenizer=tokenizer)
    message = f"id {target} is '\\?!' in the audits and '.*' for the terms"
    with pytest.raises(UnembedError, match=message):
        compare(*odd, only=terms, resamples=2)
    assert len(compare(before, after, only=terms, resamples=2)) > 0
    assert len(compare(*odd, only=PositionFilter(classes=("content",)), resamples=2)) > 0


def test_an_empty_filter_keeps_everything(audited: Callable[..., Audit]) -> None:
    before, after = audited("before"), audited("after")
    whole = compare(before, after, resamples=5)
    lists = {"classes": CLASSES, "frequencies": FREQUENCY_NAMES, "bands": tuple(BANDS)}
    for only in (PositionFilter(), PositionFilter(**lists, documents="")):
        found = compare(before, after, only=only, resamples=5)
        assert dataclasses.replace(found.summary, only=None) == whole.summary
        assert found.table.equals(whole.table)
