from __future__ import annotations

import dataclasses
import json
import math
from fractions import Fraction

import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from places import FIXTURES
from unembed.decisions.comparison.flips import (
    MINIMUM_FLIPS,
    FlipColumns,
    FlipGroup,
    Flips,
    clustered_mcnemar_p,
    flip_table,
    flips,
    gaining_and_losing_tokens,
    mcnemar_p,
)
from unembed.runs.record import record_from_json, record_to_json
from unembed.stats import bootstrap
from unembed.stats.bootstrap import interval_levels, resample_weights
from unembed.stats.estimate import Estimate

TABLES = json.loads((FIXTURES / "voronoi_tables.json").read_text())
PUBLISHED = TABLES["churn_4_5"]["rows"]


def random_columns(n, documents, seed, vocab=3):
    generator = np.random.default_rng(seed)
    doc = generator.integers(0, documents, n) * 7
    target, before, after = generator.integers(0, vocab, (3, n))
    return FlipColumns(doc, target, before, after)


def rows_of(columns, group=None):
    group = np.zeros(columns.doc.size, dtype=int) if group is None else group
    fields = (columns.doc, columns.target, columns.before_top1, columns.after_top1, group)
    return [tuple(int(v) for v in row) for row in zip(*fields, strict=True)]


def recount(rows):
    """Every count by one look at one row after the other."""
    count = dict.fromkeys(("n", "changed", "w2r", "r2w", "w2w", "before", "after"), 0)
    for _, target, before, after, _ in rows:
        count["n"] += 1
        count["before"] += before == target
        count["after"] += after == target
        count["changed"] += before != after
        count["w2r"] += before != target and after == target
        count["r2w"] += before == target and after != target
        count["w2w"] += before != after and target not in (before, after)
    return count


RATIOS = {
    "churn": ("changed", "n"),
    "wrong_to_right_share": ("w2r", "n"),
    "right_to_wrong_share": ("r2w", "n"),
    "wrong_to_wrong_share": ("w2w", "n"),
    "accuracy_before": ("before", "n"),
    "accuracy_after": ("after", "n"),
    "flip_ratio": ("w2r", "r2w"),
}


def naive_ratios(rows):
    """Every ratio of some rows, NaN where there is nothing to divide by."""
    count = recount(rows)
    ratios = {
        name: count[top] / count[below] if count[below] else math.nan
        for name, (top, below) in RATIOS.items()
    }
    gain = count["after"] - count["before"]
    ratios["accuracy_difference"] = gain / count["n"] if count["n"] else math.nan
    return ratios


def written_out_resamples(rows, resamples, seed):
    """The rows of each resample: all rows of a drawn document, as often as it was drawn."""
    ids = sorted({row[0] for row in rows})
    for draws in np.concatenate(list(resample_weights(len(ids), resamples=resamples, seed=seed))):
        times = dict(zip(ids, draws.astype(int), strict=True))
        yield [row for row in rows for _ in range(times[row[0]])]


def assert_estimate(estimate, value, draws, documents):
    assert estimate.value == value
    defined = [draw for draw in draws if not math.isnan(draw)]
    if documents < 2 or len(defined) < 0.95 * len(draws):
        assert (estimate.low, estimate.high) == (None, None)
    else:
        low, high = np.quantile(defined, interval_levels(documents))
        assert (estimate.low, estimate.high) == (low, high)


def assert_flips(found, rows, resampled):
    """Compare every field with the recount of the rows and of the rows of each resample."""
    count, ratios = recount(rows), naive_ratios(rows)
    documents = len({row[0] for row in rows})
    assert (found.n, found.documents, found.changed) == (count["n"], documents, count["changed"])
    assert found.wrong_to_right == count["w2r"]
    assert found.right_to_wrong == count["r2w"]
    assert found.wrong_to_wrong == count["w2w"]
    assert found.net == count["after"] - count["before"] == found.wrong_to_right - count["r2w"]
    assert found.changed == found.wrong_to_right + found.right_to_wrong + found.wrong_to_wrong
    drawn = [naive_ratios(one) for one in resampled]
    for name, value in ratios.items():
        estimate = getattr(found, name)
        if name == "flip_ratio" and min(count["w2r"], count["r2w"]) < MINIMUM_FLIPS:
            assert estimate.value is None
            assert f"{count['w2r']} wrong-to-right" in estimate.reason
        elif count["n"] == 0:
            assert estimate == Estimate(None, reason="no position to average over")
        else:
            assert_estimate(estimate, value, [one[name] for one in drawn], documents)
    exact = exact_mcnemar(count["w2r"], count["r2w"])
    assert found.mcnemar_p == pytest.approx(float(exact), rel=1e-12)
    nets = {}
    for doc, target, before, after, _ in rows:
        nets[doc] = nets.get(doc, 0) + (after == target) - (before == target)
    unequal = [net for net in nets.values() if net]
    assert found.clustered_mcnemar_p.n == len(unequal)
    if len(unequal) < 2:
        assert found.clustered_mcnemar_p.value is None
    else:
        z = abs(sum(unequal)) / math.sqrt(sum(net**2 for net in unequal))
        assert found.clustered_mcnemar_p.value == pytest.approx(math.erfc(z / math.sqrt(2)))


def exact_mcnemar(b, c):
    below = sum(math.comb(b + c, i) for i in range(min(b, c) + 1))
    return min(Fraction(1), Fraction(2 * below, 2 ** (b + c)))


positions = st.sampled_from([0, 1, 2, 7, 40, 120])
seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=40, deadline=None)
@given(n=positions, documents=st.integers(1, 6), vocab=st.integers(1, 4), seed=seeds)
def test_flips_are_those_of_a_recount_row_by_row(n, documents, vocab, seed):
    columns = random_columns(n, documents, seed, vocab)
    rows = rows_of(columns)
    resampled = list(written_out_resamples(rows, 15, seed)) if n else []
    assert_flips(flips(columns, resamples=15, seed=seed), rows, resampled)


@settings(max_examples=40, deadline=None)
@given(n=positions, documents=st.integers(1, 6), seed=seeds, gain=st.booleans())
def test_groups_are_those_of_a_recount_row_by_row(n, documents, seed, gain):
    columns = random_columns(n, documents, seed)
    generator = np.random.default_rng(seed + 1)
    if gain:  # A net that can be shared out.
        better = np.where(generator.random(n) < 0.7, columns.target, columns.after_top1)
        columns = dataclasses.replace(columns, after_top1=better)
    group = generator.integers(-1, 3, n)
    names = ("a", "b", "c", "nobody's")
    rows = rows_of(columns, group)
    resampled = list(written_out_resamples(rows, 15, seed)) if n else []
    table = flip_table(columns, group, names, resamples=15, seed=seed)
    assert tuple(one.name for one in table) == names
    total = flips(columns, resamples=15, seed=seed)
    for g, found in enumerate(table):
        inside = [row for row in rows if row[4] == g]
        drawn = [[row for row in one if row[4] == g] for one in resampled]
        assert_flips(found.flips, inside, drawn)
        if n == 0:
            assert found.share.value is None
            assert found.share_of_net.value is None
            continue
        shares = [len(one) / len(whole) for one, whole in zip(drawn, resampled, strict=True)]
        assert_estimate(found.share, len(inside) / n, shares, total.documents)
        difference = total.accuracy_difference
        if abs(total.net) < MINIMUM_FLIPS or (
            difference.low is not None and difference.low <= 0 <= difference.high
        ):
            assert found.share_of_net.value is None
            assert f"total net is {total.net}".replace("-", "−") in found.share_of_net.reason
            continue
        shares = []
        for one, whole in zip(drawn, resampled, strict=True):
            nets = [count["after"] - count["before"] for count in (recount(one), recount(whole))]
            shares.append(nets[0] / nets[1] if nets[1] * total.net > 0 else math.nan)
        assert_estimate(found.share_of_net, found.flips.net / total.net, shares, total.documents)


@settings(max_examples=40, deadline=None)
@given(n=positions, vocab=st.integers(1, 30), top=st.integers(0, 5), seed=seeds)
def test_tokens_are_those_of_a_recount_row_by_row(n, vocab, top, seed):
    columns = random_columns(n, 3, seed, vocab)
    counts = {}
    for row in rows_of(columns):
        counts.setdefault(row[1], []).append(row)
    counts = {token: recount(rows) for token, rows in counts.items()}
    net = {token: count["w2r"] - count["r2w"] for token, count in counts.items()}
    found = gaining_and_losing_tokens(columns, top=top)
    assert found.tokens == sum(count["w2r"] + count["r2w"] > 0 for count in counts.values())
    for tokens, sign in ((found.gaining, 1), (found.losing, -1)):
        expected = sorted((-sign * net[t], t) for t in net if sign * net[t] > 0)[:top]
        assert [one.token for one in tokens] == [token for _, token in expected]
        for one in tokens:
            count = counts[one.token]
            assert (one.n, one.net) == (count["n"], net[one.token])
            assert (one.wrong_to_right, one.right_to_wrong) == (count["w2r"], count["r2w"])
            assert one.sign_p == mcnemar_p(count["w2r"], count["r2w"])


@settings(max_examples=25, deadline=None)
@given(n=positions, documents=st.integers(1, 6), seed=seeds)
def test_an_audit_compared_with_itself_is_zero_everywhere(n, documents, seed):
    columns = random_columns(n, documents, seed)
    columns = dataclasses.replace(columns, after_top1=columns.before_top1.copy())
    group = np.random.default_rng(seed).integers(-1, 2, n)
    table = flip_table(columns, group, ("a", "b"), resamples=20)
    for found in (flips(columns, resamples=20), *(one.flips for one in table)):
        counts = (found.changed, found.wrong_to_right, found.right_to_wrong, found.wrong_to_wrong)
        assert (*counts, found.net) == (0, 0, 0, 0, 0)
        for name in ("churn", "accuracy_difference", *(n for n in RATIOS if n.endswith("g_share"))):
            estimate = getattr(found, name)
            assert estimate.value == (0 if found.n else None)
            assert estimate.low in (0, None)
            assert estimate.high in (0, None)
        assert found.accuracy_after == found.accuracy_before
        assert found.flip_ratio.value is None
        assert found.flip_ratio.reason.startswith("0 wrong-to-right and 0 right-to-wrong flips")
        assert found.mcnemar_p == 1
        assert found.clustered_mcnemar_p.value is None
        assert found.clustered_mcnemar_p.reason.startswith("0 documents")
    assert all(one.share_of_net.value is None for one in table)
    tokens = gaining_and_losing_tokens(columns)
    assert (tokens.tokens, tokens.gaining, tokens.losing) == (0, (), ())
    json.dumps([record_to_json(one) for one in table], allow_nan=False)


def test_records_survive_json():
    columns = random_columns(300, 9, seed=1)
    found = flips(columns, resamples=50)
    (group,) = flip_table(columns, np.zeros(300, dtype=int), ("all",), resamples=50)
    assert group.flips == found
    assert group.share == Estimate(1.0, 1.0, 1.0, n=300, documents=9)
    for kind, record in ((Flips, found), (FlipGroup, group)):
        text = json.dumps(record_to_json(record), allow_nan=False)
        assert record_from_json(kind, json.loads(text)) == record


def test_chunks_change_memory_and_not_the_intervals(monkeypatch):
    columns = random_columns(400, 11, seed=2)
    group = columns.target - 1
    whole = flip_table(columns, group, ("a", "b"), resamples=60, seed=4)
    monkeypatch.setattr(bootstrap, "CHUNK_ELEMENTS", 11 * 7)
    assert flip_table(columns, group, ("a", "b"), resamples=60, seed=4) == whole


def test_few_flips_have_counts_and_no_ratio():
    few, enough = MINIMUM_FLIPS - 1, MINIMUM_FLIPS
    for w2r, r2w in ((few, 300), (300, few), (300, 0)):
        found = flips(published_columns(1000, 300, w2r, r2w, 0, documents=20), resamples=50)
        assert (found.wrong_to_right, found.right_to_wrong) == (w2r, r2w)
        assert found.flip_ratio.value is None
        assert f"{w2r} wrong-to-right and {r2w} right-to-wrong" in found.flip_ratio.reason
    found = flips(published_columns(1000, 300, enough, enough, 0, documents=20), resamples=50)
    assert found.flip_ratio.value == 1


def test_a_net_that_may_be_zero_is_not_shared_out():
    columns = published_columns(400, 100, 40, 20, 50)
    gained = (columns.before_top1 != columns.target) & (columns.after_top1 == columns.target)
    group = np.zeros(400, dtype=int)
    for doc, shared in ((np.arange(400) % 100, True), (np.where(gained, 0, 1), False)):
        apart = dataclasses.replace(columns, doc=doc)
        (one,) = flip_table(apart, group, ("all",), resamples=300)
        assert one.flips.net == 20
        if shared:
            assert one.share_of_net == Estimate(1.0, 1.0, 1.0, n=400, documents=100)
        else:
            assert one.share_of_net.value is None
            assert one.share_of_net.reason == "the total net is 20, and its interval holds zero"


def test_resamples_whose_net_has_the_other_sign_do_not_enter_a_share_of_net():
    columns = published_columns(400, 100, 60, 36, 50)
    columns = dataclasses.replace(columns, doc=np.random.default_rng(0).integers(0, 60, 400))
    group = np.arange(400) % 3
    found = flip_table(columns, group, ("a", "b", "c"), resamples=2000, seed=1)
    nets = np.zeros((3, 60))
    for doc, target, before, after, g in rows_of(columns, group):
        nets[g, doc] += (after == target) - (before == target)
    drawn = np.concatenate(list(resample_weights(60, resamples=2000, seed=1))) @ nets.T
    total = drawn.sum(axis=1)
    assert 10 < (total <= 0).sum() < 50
    for g, one in enumerate(found):
        assert one.share_of_net.value == nets[g].sum() / 24
        expected = np.quantile(drawn[total > 0, g] / total[total > 0], interval_levels(60))
        assert (one.share_of_net.low, one.share_of_net.high) == tuple(expected)


def test_bad_columns_and_groups_are_refused(monkeypatch):
    columns = random_columns(5, 2, seed=0)
    with monkeypatch.context() as production:
        production.setattr(jaxtyping.config, "jaxtyping_disable", True)
        with pytest.raises(ValueError, match=r"column after_top1 has shape \(4,\), doc \(5,\)"):
            dataclasses.replace(columns, after_top1=columns.after_top1[:4])
    for bad in (-2, 2):
        with pytest.raises(ValueError, match="names from 0 to 1"):
            flip_table(columns, np.array([0, 1, bad, 0, 1]), ("a", "b"))
    with pytest.raises(ValueError, match="got -1 and 3"):
        mcnemar_p(-1, 3)


def test_mcnemar_is_the_exact_sign_test_and_symmetric():
    for b in range(45):
        for c in range(b + 1):
            assert mcnemar_p(b, c) == pytest.approx(float(exact_mcnemar(b, c)), rel=1e-13)
            assert mcnemar_p(c, b) == mcnemar_p(b, c)
    for b, c in ((1000, 900), (1000, 999), (1500, 3), (700, 0), (1200, 600), (1001, 1000)):
        assert mcnemar_p(b, c) == pytest.approx(float(exact_mcnemar(b, c)), rel=1e-11)
    assert mcnemar_p(0, 0) == 1


@pytest.mark.parametrize("n", [1_000_000, 1_000_001, 30_000_000])
def test_mcnemar_of_many_flips_is_finite_and_falls_with_the_difference(n):
    fewer = [n // 2 - step for step in (0, 1, 5, 100, 500, 1_000, 5_000, 15_000, 200_000, n // 2)]
    found = [mcnemar_p(n - b, b) for b in fewer]
    assert all(0 <= p <= 1 for p in found)
    assert found == sorted(found, reverse=True)
    assert found[0] == 1
    assert found[-1] == 0
    for b, p in zip(fewer[1:6], found[1:6], strict=True):
        # The normal approximation with its continuity correction.
        normal = math.erfc((n - 2 * b - 1) / math.sqrt(2 * n))
        assert p == pytest.approx(normal, rel=1e-3)


def test_clustered_mcnemar_is_the_plain_one_where_documents_hold_one_flip_each():
    nets = np.array([1.0] * 60 + [-1.0] * 40 + [0.0] * 7)
    found = clustered_mcnemar_p(nets)
    assert found.n == 100
    assert found.value == pytest.approx(math.erfc(20 / math.sqrt(2 * 100)), rel=1e-14)
    assert found.value == clustered_mcnemar_p(-nets * 5).value
    assert clustered_mcnemar_p(np.array([3.0, -3.0])).value == 1
    for nets, count in (([4.0, 0.0], 1), ([0.0, 0.0], 0), ([], 0)):
        found = clustered_mcnemar_p(np.array(nets))
        assert found.value is None
        assert found.reason == f"{count} documents with unequal flips; the clustered test needs 2"


def test_only_the_clustered_test_keeps_its_level_on_dependent_positions():
    generator = np.random.default_rng(7)
    runs, clustered, plain = 1000, 0, 0
    for _ in range(runs):
        w2r = generator.binomial(20, generator.beta(2, 2, 60))
        clustered += clustered_mcnemar_p(2.0 * w2r - 20).value < 0.05
        plain += mcnemar_p(int(w2r.sum()), int((20 - w2r).sum())) < 0.05
    # 5 % nominal; 1,000 runs have a standard error of 0.7 %.
    assert 0.03 < clustered / runs < 0.07
    assert plain / runs > 0.3


def clustered_columns(documents, seed):
    """Flips whose rates vary between documents: churn .2, W→R .06 and R→W .03 on average."""
    generator = np.random.default_rng(seed)
    doc = np.repeat(np.arange(documents), generator.integers(20, 60, documents))
    churn, gain, right = (
        generator.beta(a, b, documents)[doc] for a, b in ((3, 12), (4, 4), (5, 5))
    )
    changed, kind = generator.random(doc.size) < churn, generator.random(doc.size)
    w2r = kind < 0.6 * gain
    r2w = ~w2r & (kind < 0.6 * gain + 0.3 * (1 - gain))
    kept = np.where(generator.random(doc.size) < right, 0, 1)
    before = np.where(changed, np.where(r2w, 0, 1), kept)
    after = np.where(changed, np.where(w2r, 0, 2), kept)
    return FlipColumns(doc, np.zeros(doc.size, dtype=int), before, after)


@pytest.mark.slow
def test_intervals_cover_the_truth_of_clustered_flips():
    runs = 1000
    truths = {
        "accuracy_difference": 0.03,
        "churn": 0.2,
        "wrong_to_right_share": 0.06,
        "flip_ratio": 2.0,
    }
    hits = dict.fromkeys(truths, 0)
    for seed in range(runs):
        found = flips(clustered_columns(60, seed), resamples=300, seed=seed)
        for name, truth in truths.items():
            estimate = getattr(found, name)
            hits[name] += estimate.low <= truth <= estimate.high
    # 300 resamples in place of 10,000 cost about half a percent; 1,000 runs have an error of 0.7 %.
    for name, count in hits.items():
        assert 0.93 <= count / runs <= 0.97, (name, count / runs)


def published_columns(n, right, w2r, r2w, w2w, documents=500):
    """Columns with these counts; ``right`` is how many were right before."""
    outcomes = ((0, 0), (1, 0), (0, 1), (1, 2), (1, 1))
    counts = (right - r2w, w2r, r2w, w2w, n - right - w2r - w2w)
    before, after = np.repeat(np.array(outcomes), counts, axis=0).T
    return FlipColumns(np.arange(n) % documents, np.zeros(n, dtype=int), before, after)


@pytest.mark.parametrize("run", PUBLISHED)
def test_published_counts_give_the_published_nets_ratios_and_accuracies(run):
    n = TABLES["positions"]
    churn, w2r, r2w, ratio, net = PUBLISHED[run]
    bands = TABLES["bands_4_7"]["rows"]
    right = round(bands["baseline"][2] / 100 * n)
    columns = published_columns(n, right, w2r, r2w, round(churn / 100 * n) - w2r - r2w)
    found = flips(columns, resamples=20)
    assert (found.n, found.wrong_to_right, found.right_to_wrong, found.net) == (n, w2r, r2w, net)
    assert round(found.churn.value * 100, 1) == churn
    assert round(found.flip_ratio.value, 1) == ratio
    assert found.mcnemar_p == 0
    if run in bands:
        # Both accuracies are rounded to 0.1 %.
        assert found.accuracy_after.value * 100 == pytest.approx(bands[run][2], abs=0.1)
    if run == "fisher 0.6":
        gain, finer = TABLES["targeted_4_13"]["rows"]["bulk fisher 0.6"][:2]
        assert round(found.accuracy_difference.value * 100, 2) == gain
        assert round(found.flip_ratio.value, 2) == finer


@pytest.mark.parametrize("run", ["fisher 0.6", "fisher 1.0", "fisher 2.0"])
def test_published_class_nets_and_frequency_shares_add_up(run):
    n = TABLES["positions"]
    churn, w2r, r2w, _, net = PUBLISHED[run]
    table = TABLES["token_class_4_11"]
    nets = {name: row[table["columns"].index(f"net {run}")] for name, row in table["rows"].items()}
    # The class that the table leaves out, fragments, holds the rest.
    nets["fragment"] = net - sum(nets.values())
    assert nets["fragment"] in (32, 33)
    columns = published_columns(n, 120848, w2r, r2w, round(churn / 100 * n) - w2r - r2w)
    gained = np.flatnonzero((columns.before_top1 == 1) & (columns.after_top1 == 0))
    lost = np.flatnonzero((columns.before_top1 == 0) & (columns.after_top1 == 1))
    names, losses = tuple(nets), r2w // len(nets)
    group = np.full(n, len(names) - 1)
    for g, name in enumerate(names[:-1]):
        group[gained[: nets[name] + losses]] = g
        group[lost[:losses]] = g
        gained, lost = gained[nets[name] + losses :], lost[losses:]
    by_class = flip_table(columns, group, names, resamples=100)
    assert {one.name: one.flips.net for one in by_class} == nets
    for one in by_class:
        assert one.share_of_net.value == nets[one.name] / net
    assert sum(one.share_of_net.value for one in by_class) == pytest.approx(1, abs=1e-12)

    # One count of positions in the 100+ bucket makes the published shares of net and accuracies
    # of all three runs agree, to their rounding of .0005 each (.005 for the first share).
    frequent, frequency = 146_500, TABLES["frequency_4_10"]
    accuracy = dict(zip(frequency["columns"], frequency["accuracy_100plus"], strict=True))
    share = frequency["share_of_net_100plus"][run]
    counts = (frequent, round(accuracy["baseline"] * frequent), round(share * net) + r2w // 2)
    inside = published_columns(*counts, r2w // 2, 0)
    rest = n - frequent
    outside = published_columns(rest, rest // 3, w2r - counts[2], r2w - r2w // 2, 0)
    columns = FlipColumns(
        *(
            np.concatenate([getattr(one, field.name) for one in (inside, outside)])
            for field in dataclasses.fields(FlipColumns)
        )
    )
    group = np.where(np.arange(n) < frequent, 0, -1)
    (bucket,) = flip_table(columns, group, ("100+",), resamples=100)
    assert bucket.share_of_net.value == pytest.approx(share, abs=0.0005)
    assert bucket.flips.accuracy_before.value == pytest.approx(accuracy["baseline"], abs=0.0005)
    assert bucket.flips.accuracy_after.value == pytest.approx(accuracy[run], abs=0.001)


@pytest.mark.parametrize("run", TABLES["bands_4_7"]["rows"])
def test_published_bands_add_up_to_the_published_accuracy(run):
    accuracies, thousands, overall = TABLES["bands_4_7"]["rows"][run]
    bands = [
        published_columns(count * 1000, round(accuracy * count * 10), 0, 0, 0)
        for accuracy, count in zip(accuracies, thousands, strict=True)
    ]
    columns = FlipColumns(
        *(
            np.concatenate([getattr(one, field.name) for one in bands])
            for field in dataclasses.fields(FlipColumns)
        )
    )
    group = np.repeat(np.arange(5), np.array(thousands) * 1000)
    table = flip_table(columns, group, ("0", "0.5", "1", "2", "5"), resamples=20)
    for one, accuracy in zip(table, accuracies, strict=True):
        assert one.flips.accuracy_before.value * 100 == pytest.approx(accuracy, abs=1e-9)
    # Counts are rounded to 1,000 positions of 256,577.
    total = sum(one.share.value * one.flips.accuracy_before.value for one in table)
    assert total * 100 == pytest.approx(overall, abs=0.3)
