"""Comparisons of several seeds: intervals against plain loops, what is refused, and coverage."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner

from unembed import Audit, Corpus, UnembedError, audit, cli, compare
from unembed.decisions import AuditOptions, PositionFilter
from unembed.decisions.comparison.compare import Comparison, headline
from unembed.decisions.comparison.excerpt import flip_excerpts
from unembed.decisions.comparison.flips import FlipColumns, Flips, flips
from unembed.decisions.comparison.pairing import PairedPositions, Side
from unembed.decisions.comparison.seeds import over_seeds, runs_in_words, widened
from unembed.decisions.comparison.summary import (
    ComparisonSummary,
    Groups,
    comparison_from_json,
    comparison_to_json,
    summarise_pair,
)
from unembed.report.comparison.page import comparison_page, extent
from unembed.report.parts.facts import facts_of_both
from unembed.runs.provenance import Provenance
from unembed.stats.bootstrap import interval_levels, resample_weights
from unembed.stats.estimate import Estimate
from unembed.stats.student import student_t
from unembed.text.vocabulary import Vocabulary

RESAMPLES = 40
STUDENT = {
    1: 12.706204736174694,
    2: 4.302652729749462,
    3: 3.1824463052837078,
    4: 2.7764451051977934,
    5: 2.5705818356363146,
    9: 2.262157162798205,
    10: 2.228138851986274,
    29: 2.045229642132703,
    100: 1.9839715185235518,
}
"""The 97.5 % quantile of Student's t, as tabulated."""


@pytest.fixture(scope="module")
def corpus(topics: list[str], tokenizer: Any) -> Corpus:
    names = [f"topic {i}" for i in range(10)]
    return Corpus.from_texts(topics[:10], tokenizer, names=names)


@pytest.fixture(scope="module")
def trained(llama: Any, corpus: Corpus) -> Any:
    """The small Llama after some steps on the text, so that it is often right."""
    model = copy.deepcopy(llama).train()
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor(corpus.ids).long()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(30):
        rows = torch.randint(len(ids) - 64, (8,), generator=generator).tolist()
        batch = torch.stack([ids[row : row + 64] for row in rows])
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def audited(trained: Any, corpus: Corpus) -> Callable[..., Audit]:
    """Audits of the model with noise in its weights: one model for each seed and size."""
    made: dict[tuple[int, float, int, bool], Audit] = {}

    def of(seed: int, size: float = 0.1, top_k: int = 0, broken: bool = False) -> Audit:
        key = seed, size, top_k, broken
        if key not in made:
            model, generator = copy.deepcopy(trained), torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for weight in model.parameters():
                    if weight.ndim > 1:
                        noise = torch.randn(weight.shape, generator=generator)
                        weight += size * weight.std() * noise
                if broken:
                    model.get_input_embeddings().weight[int(corpus.ids[3])] = torch.nan
            options = AuditOptions(top_k=top_k, max_nonfinite=corpus.tokens)
            made[key] = audit(model, corpus, options, name=f"seed {seed}")
        return made[key]

    return of


@pytest.fixture(scope="module")
def sides(audited: Callable[..., Audit]) -> tuple[list[Audit], list[Audit]]:
    """Two runs before and three after."""
    return [audited(i, 0.02) for i in (1, 2)], [audited(i, 0.02 * i) for i in (3, 4, 5)]


@pytest.fixture(scope="module")
def found(sides: tuple[list[Audit], list[Audit]]) -> Comparison:
    return compare(*sides, resamples=RESAMPLES, seed=3)


@pytest.fixture(scope="module")
def singles(sides: tuple[list[Audit], list[Audit]]) -> list[list[Comparison]]:
    """``singles[b][a]`` compares one run with one."""
    before, after = sides
    return [[compare(b, a, resamples=RESAMPLES, seed=3) for a in after] for b in before]


def estimates(value: Any, path: str = "summary") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every estimate inside plain JSON, with its path."""
    if isinstance(value, dict):
        if set(value) == {"value", "low", "high", "n", "reason", "documents"}:
            yield path, value
        else:
            for key, inside in value.items():
                yield from estimates(inside, f"{path}.{key}")
    elif isinstance(value, list):
        for i, inside in enumerate(value):
            yield from estimates(inside, f"{path}.{i}")


def pooled_by_hand(comparisons: list[Comparison]) -> ComparisonSummary:
    """The summary of the tables of single comparisons, one below the other."""
    table = pa.concat_tables([one.table for one in comparisons])
    columns = {name: table[name].to_numpy() for name in table.column_names}
    names = [field.name for field in dataclasses.fields(Side)]
    one = PairedPositions(
        row=np.arange(table.num_rows),
        **{name: columns[name] for name in ("doc", "pos", "target", "word_start")},
        before=Side(**{name: columns[f"before_{name}"] for name in names}),
        after=Side(**{name: columns[f"after_{name}"] for name in names}),
        vocabulary=Vocabulary({t: s for c in comparisons for t, s in c.vocabulary.texts.items()}),
        nonfinite=sum(c.summary.n_nonfinite for c in comparisons),
        notes=(),
    )
    edges = [0.5, 1, 2, 5]
    kinds = ["structural", "numeric", "function", "entity-like", "content", "fragment"]
    counts = ["1", "2-4", "5-19", "20-99", "100+"]
    groups = Groups(
        *(
            np.array([sum(m >= e for e in edges) for m in s.margin])
            for s in (one.before, one.after)
        ),
        np.array([counts.index(name) for name in columns["frequency"]]),
        np.array([kinds.index(name) for name in columns["class"]]),
        one.word_start.astype(np.int64),
    )
    return summarise_pair(one, groups, resamples=RESAMPLES, seed=3)


def half2_of(theta: list[list[float]]) -> float:
    """The seeds' part of an interval's half width, squared, from ``theta[b][a]``."""
    total = 0.0
    columns = [list(column) for column in zip(*theta, strict=True)]
    for rows in (theta, columns):
        if len(rows) > 1:
            means = [sum(row) / len(row) for row in rows]
            middle = sum(means) / len(means)
            spread = sum((mean - middle) ** 2 for mean in means) / (len(means) - 1)
            total += STUDENT[len(means) - 1] ** 2 * spread / len(means)
    return total


def ranges(one: Comparison) -> tuple[tuple[float, float], ...]:
    return tuple((bin.low, bin.high) for bin in one.summary.prediction.bins)


def test_every_interval_holds_documents_and_seeds(
    found: Comparison, singles: list[list[Comparison]]
) -> None:
    whole = comparison_to_json(pooled_by_hand([one for row in singles for one in row]))
    parts = [[dict(estimates(comparison_to_json(one.summary))) for one in row] for row in singles]
    wide = dict(estimates(comparison_to_json(found.summary)))
    told, wider, undefined = 0, 0, 0
    alike = len({ranges(one) for one in (found, *(one for row in singles for one in row))}) == 1
    for path, pooled in estimates(whole):
        got = wide[path]
        if path.endswith((".clustered_mcnemar_p", ".share_left", ".share_of_net")):
            continue
        assert (got["value"], got["n"]) == (pooled["value"], pooled["n"]), path
        if pooled["low"] is None:
            assert got == pooled, path
            continue
        theta = [[one[path]["value"] if path in one else None for one in row] for row in parts]
        if ".prediction.bins." in path and not alike:
            theta = [[None]]
        if any(value is None for row in theta for value in row):
            assert (got["low"], got["high"]) == (None, None), path
            assert got["reason"] == "no interval: undefined in a single pair of runs"
            undefined += 1
            continue
        half2, value = half2_of(theta), pooled["value"]
        low = value - math.sqrt((value - pooled["low"]) ** 2 + half2)
        high = value + math.sqrt((pooled["high"] - value) ** 2 + half2)
        assert (got["low"], got["high"]) == pytest.approx((low, high), rel=1e-9, abs=1e-12), path
        told += 1
        wider += got["high"] > pooled["high"] + 1e-9
    assert set(wide) == {path for path, _ in estimates(whole)}
    assert told > 300
    assert wider > 0.8 * told
    assert undefined > 0


def test_a_document_is_one_cluster_over_all_seeds(
    found: Comparison, singles: list[list[Comparison]]
) -> None:
    """The churn's interval, from written-out resamples of the documents of all six tables."""
    changed: dict[int, list[bool]] = {}
    theta = []
    for row in singles:
        theta.append([])
        for one in row:
            some = one.table.to_pylist()
            moved = [r["before_top1"] != r["after_top1"] for r in some]
            theta[-1].append(sum(moved) / len(moved))
            for r, flag in zip(some, moved, strict=True):
                changed.setdefault(r["doc"], []).append(flag)
    drawn = []
    ids = sorted(changed)
    for times in np.concatenate(list(resample_weights(len(ids), resamples=RESAMPLES, seed=3))):
        flags = [flag for d, k in zip(ids, times, strict=True) for flag in changed[d] * int(k)]
        drawn.append(sum(flags) / len(flags))
    low, high = np.quantile(drawn, interval_levels(len(ids)))
    value = sum(map(sum, changed.values())) / sum(map(len, changed.values()))
    churn, half2 = found.summary.flips.churn, half2_of(theta)
    assert churn.value == pytest.approx(value)
    assert churn.low == pytest.approx(value - math.sqrt((value - low) ** 2 + half2))
    assert churn.high == pytest.approx(value + math.sqrt((high - value) ** 2 + half2))
    assert found.summary.n_documents == len(ids)


def test_counts_are_totals_over_the_pairs(
    found: Comparison, singles: list[list[Comparison]]
) -> None:
    every = [one.summary for row in singles for one in row]
    summary = found.summary
    for name in ("n", "changed", "wrong_to_right", "right_to_wrong", "wrong_to_wrong", "net"):
        assert getattr(summary.flips, name) == sum(getattr(one.flips, name) for one in every)
    for group in ("by_band_before", "by_frequency", "by_class_and_frequency"):
        for i, inside in enumerate(getattr(summary, group)):
            assert inside.flips.n == sum(getattr(one, group)[i].flips.n for one in every)
    assert summary.seeds == (2, 3)
    assert summary.n_positions == len(found) == found.table.num_rows == summary.flips.n
    assert summary.n_positions == sum(one.n_positions for one in every)
    assert summary.n_documents == every[0].n_documents
    said = "2 × 3 runs; counts are totals over the 6 pairs"
    assert headline(summary)[1] == ("seeds", said)
    assert said in extent(summary)


def test_the_table_holds_the_pairs_below_each_other(
    found: Comparison, singles: list[list[Comparison]]
) -> None:
    table = found.table
    assert table.schema.field("before_run").type == table.schema.field("after_run").type
    assert table.schema.field("after_run").type == pa.int16()
    start = 0
    for (b, row), a in itertools.product(enumerate(singles), range(3)):
        part = table.slice(start, len(row[a]))
        assert set(part["before_run"].to_pylist()) == {b}
        assert set(part["after_run"].to_pylist()) == {a}
        assert part.drop_columns(["before_run", "after_run"]).equals(row[a].table)
        start += len(row[a])
    assert start == table.num_rows


def test_there_is_no_p_and_a_reason_why(found: Comparison) -> None:
    summary = found.summary
    groups = [
        group
        for field in dataclasses.fields(summary)
        if field.name.startswith("by_")
        for group in getattr(summary, field.name)
    ]
    for one in (summary.flips, *(group.flips for group in groups)):
        assert one.mcnemar_p is None
        assert one.clustered_mcnemar_p.value is None
        assert one.clustered_mcnemar_p.reason == "several seeds: read the interval"
    tokens = (*summary.tokens.gaining, *summary.tokens.losing)
    assert tokens
    assert {token.sign_p for token in tokens} == {None}
    shown = dict(headline(summary))["McNemar p, by document"]
    assert shown == "none: several seeds: read the interval"
    assert "McNemar" not in str(found.verdict)


def test_one_on_each_side_is_as_it_was(sides: tuple[list[Audit], list[Audit]]) -> None:
    (before, *_), (after, *_) = sides
    plain = compare(before, after, resamples=RESAMPLES)
    listed = compare([before], (after,), resamples=RESAMPLES)
    assert listed.summary == plain.summary
    assert listed.table.equals(plain.table)
    assert listed.provenance == plain.provenance
    assert "before_run" not in plain.table.column_names
    assert (plain.provenance["more_before"], plain.provenance["more_after"]) == ([], [])
    assert plain.summary.seeds == (1, 1)
    assert plain.summary.flips.mcnemar_p is not None
    assert runs_in_words((1, 1)) is None
    assert "seeds" not in dict(headline(plain.summary))
    assert "runs" not in extent(plain.summary)


def test_a_run_folder_holds_the_same(
    sides: tuple[list[Audit], list[Audit]], found: Comparison, tmp_path: Path
) -> None:
    compare(*sides, resamples=RESAMPLES, seed=3, out=tmp_path / "run")
    loaded = Comparison.load(tmp_path / "run")
    assert loaded.summary == found.summary
    assert loaded.provenance == found.provenance
    assert loaded.table.equals(found.table)
    assert str(loaded) == str(found)
    again = json.loads(json.dumps(comparison_to_json(found.summary), allow_nan=False))
    assert comparison_from_json(again) == found.summary
    before, after = ([one.provenance.to_json() for one in side] for side in sides)
    kept = found.provenance
    assert [kept["before"], *kept["more_before"]] == before
    assert [kept["after"], *kept["more_after"]] == after
    for others in ((sides[0][:1], sides[1]), (sides[0], sides[1][::-1])):
        with pytest.raises(UnembedError, match="holds another run"):
            compare(*others, resamples=RESAMPLES, seed=3, out=tmp_path / "run")


def test_the_page_shows_the_text_of_the_first_pair(
    found: Comparison, singles: list[list[Comparison]]
) -> None:
    names, first = (found.documents[name].to_pylist() for name in ("name", "first_token"))
    sample = flip_excerpts(found, found.vocabulary, names, first)
    assert sample == flip_excerpts(singles[0][0], found.vocabulary, names, first)
    kept = found.provenance
    old, new = (Provenance.from_json(kept[side]) for side in ("before", "after"))
    more = [
        [Provenance.from_json(run) for run in kept[side]] for side in ("more_before", "more_after")
    ]
    facts = facts_of_both(old, new, "", *more)
    labels = [label for label, _ in facts if label.startswith("Run ")]
    assert labels == ["Run 2 before", "Run 2 after", "Run 3 after"]
    run = f"seed 5 (LlamaForCausalLM, float32), digest {more[1][1].model_digest[:16]}"
    assert dict(facts)["Run 3 after"] == run
    page = comparison_page("seeds", found.summary, facts, sample)
    assert "2 × 3 runs; counts are totals over the 6 pairs" in page
    assert "The text below is of the first pair" in page
    assert "none: several seeds: read the interval" in page


def test_positions_that_one_run_could_not_measure(audited: Callable[..., Audit]) -> None:
    before = [audited(1, 0.02)]
    after = [audited(3), audited(4, broken=True), audited(5)]
    found = compare(before, after, resamples=2)
    sizes = [len(compare(before, one, resamples=2)) for one in after]
    assert sizes[1] < sizes[0] == sizes[2]
    assert found.table["after_run"].to_pylist() == [a for a in range(3) for _ in range(sizes[a])]
    assert found.summary.n_nonfinite == sizes[0] - sizes[1]
    assert len(found) == sum(sizes)


def test_the_candidates_are_those_that_every_run_kept(
    audited: Callable[..., Audit],
) -> None:
    after, five, three = (audited(i, top_k=k) for i, k in ((3, 4), (1, 5), (2, 3)))
    found = compare([five, three], after, resamples=2).summary.prediction
    assert found.candidates == 2
    none = compare([five, audited(2)], after, resamples=2).summary.prediction
    assert none.candidates == 1
    assert compare(five, audited(3), resamples=2).summary.prediction.candidates == 1


def test_what_is_refused(
    sides: tuple[list[Audit], list[Audit]], corpus: Corpus, tokenizer: Any, llama: Any
) -> None:
    before, after = sides
    one = f"digest {after[0].provenance.model_digest[:12]} in float32"
    twin = dataclasses.replace(
        after[0], provenance=dataclasses.replace(after[0].provenance, model="a copy")
    )
    message = f"two seeds are one model: seed 3 and a copy, both after, have the {one}"
    with pytest.raises(UnembedError, match=message):
        compare(before, [*after, twin])
    with pytest.raises(UnembedError, match="seed 1 and seed 1, both before"):
        compare([before[0], before[0]], after)
    for empty, side in (([], after), (before, ())):
        with pytest.raises(UnembedError, match=r"no audit (before|after): give one"):
            compare(empty, side)
    other = audit(llama, Corpus.from_texts(["another text, and short"], tokenizer))
    with pytest.raises(UnembedError, match="the texts differ"):
        compare(before, [*after, other])
    with pytest.raises(UnembedError, match="one model on each side, got 2 before and 3 after"):
        compare(before, after, divergence=pa.table({}))
    # The same model on both sides is a comparison like any other.
    assert compare(before[0], before, resamples=2).summary.seeds == (1, 2)


def test_a_filter_keeps_the_rows_of_every_pair(
    sides: tuple[list[Audit], list[Audit]], tokenizer: Any
) -> None:
    before, after = sides[0][:1], sides[1][:2]
    bands, terms = ("[0, 0.5)", "[0.5, 1)"), ("expression", "statement", "the")
    only = PositionFilter(bands=bands, terms=terms, tokenizer=tokenizer)
    found = compare(before, after, only=only, resamples=2)
    alone = [compare(before[0], one, only=only, resamples=2) for one in after]
    rows = pa.concat_tables([one.table for one in alone])
    assert found.table.drop_columns(["before_run", "after_run"]).equals(rows)
    assert found.summary.only == only.words


# What is decided from intervals.


@pytest.mark.parametrize(
    ("raw", "left", "verdict"),
    [
        ((0.3, 0.3, 0.3), (0.05, 0.05, 0.05), "sharpening"),
        ((-0.3, -0.3, -0.3), (0.05, 0.05, 0.05), "softening"),
        ((0.3, 0.3, 0.3), (0.04, 0.05, 0.2), "undecided"),
        ((0.3, -0.2, 0.8), (0.05, 0.05, 0.05), "none"),
        ((0.3, 0.3, 0.3), (0.05, None, 0.05), "undecided"),
    ],
)
def test_the_verdict_is_that_of_the_widened_intervals(
    found: Comparison,
    raw: tuple[float, ...],
    left: tuple[float | None, ...],
    verdict: str,
) -> None:
    def told(change: float, share: float | None) -> ComparisonSummary:
        check = dataclasses.replace(
            found.summary.movement.sharpening,
            raw_change=Estimate(change, change - 0.02, change + 0.02, n=9),
            share_left=Estimate(None, reason="nothing moved")
            if share is None
            else Estimate(share, share - 0.01, share + 0.01, n=9),
            verdict="sharpening",
        )
        movement = dataclasses.replace(found.summary.movement, sharpening=check)
        return dataclasses.replace(found.summary, movement=movement)

    pooled = told(raw[0], 0.05)
    runs = [told(change, share) for change, share in zip(raw, left, strict=True)]
    check = over_seeds(pooled, runs, (1, 3)).movement.sharpening
    assert check.verdict == verdict
    if verdict == "none":
        assert check.share_left.value is None
        assert check.share_left.reason == "the median margin's change is not told from 0"
        assert check.raw_change.low < 0 < check.raw_change.high


def test_a_net_not_told_from_zero_is_not_shared_out(found: Comparison) -> None:
    def told(net: float) -> ComparisonSummary:
        difference = Estimate(net, net - 0.01, net + 0.01, n=1000)
        flips_ = dataclasses.replace(found.summary.flips, net=40, accuracy_difference=difference)
        share = Estimate(0.5, 0.4, 0.6, n=500)
        groups = tuple(
            dataclasses.replace(group, share_of_net=share) for group in found.summary.by_class
        )
        return dataclasses.replace(found.summary, flips=flips_, by_class=groups)

    shared = over_seeds(told(0.04), [told(0.04)] * 3, (3, 1))
    assert {group.share_of_net.value for group in shared.by_class} == {0.5}
    runs = [told(net) for net in (0.0, 0.04, 0.08)]
    unshared = over_seeds(told(0.04), runs, (3, 1))
    for group in unshared.by_class:
        assert group.share_of_net.value is None
        assert "the total net is 40, and its interval over seeds" in group.share_of_net.reason


def test_a_bin_that_one_pair_lacks_has_no_interval(singles: list[list[Comparison]]) -> None:
    prediction = singles[0][0].summary.prediction
    lacking = dataclasses.replace(prediction, bins=())
    wide = widened(prediction, [prediction, lacking], (1, 2))
    assert [one.n for one in wide.bins] == [one.n for one in prediction.bins]
    assert {one.observed.low for one in wide.bins} == {None}
    assert wide.observed.low is not None
    other = dataclasses.replace(prediction.bins[0], high=prediction.bins[0].high / 2)
    moved = dataclasses.replace(prediction, bins=(other, *prediction.bins[1:]))
    wide = widened(prediction, [prediction, moved], (1, 2))
    assert {one.observed.low for one in wide.bins} == {None}
    wide = widened(prediction, [prediction, prediction], (1, 2))
    assert None not in {one.observed.low for one in wide.bins}


def test_student_t_is_the_tabulated_one() -> None:
    for freedom, value in STUDENT.items():
        assert student_t(freedom) == pytest.approx(value, rel=1e-12)
    with pytest.raises(ValueError, match="got 0"):
        student_t(0)


# The command line.


def test_the_command_takes_further_runs(
    sides: tuple[list[Audit], list[Audit]],
    trained: Any,
    corpus: Corpus,
    tmp_path: Path,
) -> None:
    runs = []
    for i in range(3):
        model = copy.deepcopy(trained)
        with torch.no_grad():
            model.lm_head.weight[: 300 + i] *= 1.2
        options = AuditOptions(top_k=0, max_positions=200)
        audit(model, corpus, options, out=tmp_path / str(i), name=f"run {i}")
        runs.append(str(tmp_path / str(i)))
    out = ["-o", str(tmp_path / "seeds")]
    done = CliRunner().invoke(cli.cli, ["compare", runs[0], runs[1], "--seed-after", runs[2], *out])
    assert done.exit_code == 0, done.output
    assert "1 × 2 runs; counts are totals over the 2 pairs" in done.output
    page = (tmp_path / "seeds" / "report.html").read_text()
    assert "From run 0 to run 1 and 1 more: what changed" in page
    assert "Run 2 after" in page
    loaded = Comparison.load(tmp_path / "seeds")
    assert loaded.provenance["more_after"][0]["model"] == "run 2"
    for option in ("--seed-before", "--seed-after"):
        refused = CliRunner().invoke(
            cli.cli, ["compare", runs[0], runs[1], "text.txt", option, runs[2], *out]
        )
        assert refused.exit_code == 2
        assert "--seed-before and --seed-after" in refused.output


# Coverage.


def drawn_flips(
    rng: np.random.Generator, seeds: int, spread: tuple[float, float, float]
) -> tuple[Flips, list[Flips], float]:
    """Pooled and single flips of one run before and some after, and the true churn.

    A position flips with chance ``0.3 + document + seed + both``, each effect normal with its
    spread. One uniform number of a position decides under every seed: without effects of seeds
    all seeds flip the same positions.
    """
    documents, size = 40, 25
    doc = np.repeat(np.arange(documents), size)
    target = np.zeros(doc.size, dtype=np.int64)
    uniform = rng.random(doc.size)
    of_document = rng.normal(0, spread[0], documents)
    alone = []
    for _ in range(seeds):
        effect = of_document + rng.normal(0, spread[1]) + rng.normal(0, spread[2], documents)
        flipped = uniform < 0.3 + effect[doc]
        alone.append(FlipColumns(doc, target, target, flipped.astype(np.int64)))
    whole = FlipColumns(
        *(
            np.concatenate([getattr(one, f.name) for one in alone])
            for f in dataclasses.fields(alone[0])
        )
    )
    how: dict[str, Any] = {"resamples": 200, "seed": int(rng.integers(1 << 30))}
    return flips(whole, **how), [flips(one, **how) for one in alone], 0.3


def coverage(trials: int, seeds: int, spread: tuple[float, float, float]) -> tuple[float, float]:
    """The share of intervals that hold the truth: with the seeds' part, and without it."""
    rng = np.random.default_rng(7)
    held = [0, 0]
    for _ in range(trials):
        pooled, alone, truth = drawn_flips(rng, seeds, spread)
        wide = widened(pooled, alone, (1, seeds)).churn
        for i, one in enumerate((wide, pooled.churn)):
            held[i] += one.low <= truth <= one.high
    return held[0] / trials, held[1] / trials


@pytest.mark.slow
def test_intervals_cover_the_truth_over_seeds() -> None:
    wide, documents_alone = coverage(150, 3, (0.05, 0.05, 0.0))
    assert 0.91 <= wide <= 0.995
    assert documents_alone < 0.7
