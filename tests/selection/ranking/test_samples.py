"""Rankings by scores of samples, whose errors come from deleting documents."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from reference.ranking import chances, jackknife
from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.report.verdicts.ranking import sentence
from unembed.runs.manifest import read_run
from unembed.selection.baselines import BASELINES
from unembed.selection.ranking.samples import rank_samples, rank_scored
from unembed.signatures.samples import Samples


def task(name: str, seed: int, *, documents: int = 12, first: int = 0, shift: float = 0) -> Samples:
    """Three positions a document; documents are numbered from ``first`` on."""
    rng = np.random.default_rng(seed)
    n = 3 * documents
    return Samples(
        name,
        torch.tensor(rng.normal(size=(n, 4)) + shift).float(),
        torch.tensor(rng.integers(7, size=n)),
        np.repeat(np.arange(first, first + documents), 3),
        np.arange(n),
    )


def likeness(target: Samples, source: Samples) -> float:
    """A score with a loop's answer: minus the distance of two means."""
    return -float((target.hidden.mean(0) - source.hidden.mean(0)).norm())


def without(of: Samples, block: int | None, count: int, family: list[int]) -> Samples:
    rows = [i for i, d in enumerate(of.document) if family.index(int(d)) % count != block]
    at = torch.tensor(rows)
    return Samples(of.name, of.hidden[at], of.targets[at], of.document[rows], of.sequence[rows])


def test_errors_are_those_of_deleting_blocks_one_by_one() -> None:
    target = task("t", 0, first=100)
    sources = [task("a", 1), task("b", 2, first=50, documents=9, shift=0.4)]
    found = rank_scored(target, sources, likeness, by="likeness", blocks=4)
    assert (found.target, found.by, found.method) == ("t", "likeness", "samples")
    assert (found.samples, found.documents, found.status) == (36, 12, "ok")
    numbers = {one.name: sorted({int(d) for d in one.document}) for one in (target, *sources)}
    by_target, own = {}, {}
    for source in sources:
        by_target[source.name] = [
            likeness(without(target, b, 4, numbers["t"]), source) for b in range(4)
        ]
        own[source.name] = [
            likeness(target, without(source, b, 4, numbers[source.name])) for b in range(4)
        ]
    for one, source in zip(sorted(found.sources, key=lambda x: x.name), sources, strict=True):
        se = math.hypot(jackknife(by_target[one.name]), jackknife(own[one.name]))
        assert one.value == pytest.approx(likeness(target, source))
        assert one.high is not None
        assert one.high - (one.value or 0) == pytest.approx(1.959964 * se)
        assert one.low == pytest.approx((one.value or 0) - 1.959964 * se)
    # Both lose the target's blocks at once; their own, each for itself.
    off = {name: np.array(by_target[name]) - np.mean(by_target[name]) for name in "ab"}
    cross = 3 / 4 * float(off["a"] @ off["b"])
    variances = [jackknife(by_target[n]) ** 2 + jackknife(own[n]) ** 2 for n in "ab"]
    errors = np.array([[variances[0], cross], [cross, variances[1]]])
    value = [likeness(target, source) for source in sources]
    want = dict(zip("ab", chances(value, errors, 20_000, 0), strict=True))
    for one in found.sources:
        assert one.best == pytest.approx(want[one.name], abs=0.015)


def test_tasks_on_the_same_documents_lose_them_together() -> None:
    target, source = task("t", 0), task("a", 1, first=4, documents=10)
    [found] = rank_scored(target, [source], likeness, by="likeness", blocks=5).sources
    family = list(range(14))
    values = [
        likeness(without(target, b, 5, family), without(source, b, 5, family)) for b in range(5)
    ]
    assert found.high is not None
    assert found.high - (found.value or 0) == pytest.approx(1.959964 * jackknife(values))
    assert found.best == 1


def test_sources_on_the_same_documents_err_together() -> None:
    """The same source twice is as good as itself; one on other documents is not tied to it."""
    target, source = task("t", 0, first=100), task("a", 1)
    twin = Samples("b", source.hidden, source.targets, source.document, source.sequence)
    found = rank_scored(target, [source, twin, task("c", 3, first=50, shift=3)], likeness, by="x")
    best = {one.name: one.best for one in found.sources}
    assert best["a"] == pytest.approx(best["b"])
    assert best["a"] == pytest.approx(0.5, abs=1e-9)
    assert found.sources[-1].name == "c"


def test_what_is_missing_is_a_value_with_a_reason() -> None:
    target, good = task("t", 0, first=100), task("good", 1)
    lone = task("lone", 2, first=50, documents=1)

    def some(a: Samples, b: Samples) -> float:
        return math.nan if b.name == "bad" else likeness(a, b)

    found = rank_scored(target, [task("bad", 3, first=70), lone, good], some, by="x")
    by_name = {one.name: one for one in found.sources}
    assert found.sources[-1].name == "bad"
    assert by_name["bad"].status == (
        "no score: x is undefined for it; give more of it, or rank by another score"
    )
    assert (by_name["bad"].value, by_name["bad"].low, by_name["bad"].best) == (None, None, None)
    assert by_name["lone"].status == "ok, but no interval: too few documents, 1"
    assert (by_name["lone"].low, by_name["lone"].best) == (None, None)
    assert by_name["good"].best == 1

    def frail(a: Samples, b: Samples) -> float:
        return likeness(a, b) if len(b.document) == 36 else math.nan

    [one] = rank_scored(target, [good], frail, by="x").sources
    assert one.status == "ok, but no interval: x is undefined without some of the documents"
    calls = []

    def counted(a: Samples, b: Samples) -> float:
        calls.append(len(a.document))
        return likeness(a, b)

    quick = rank_scored(target, [good, task("other", 5, first=60)], counted, by="x", blocks=0)
    assert calls == [36, 36]
    assert [one.low for one in quick.sources] == [None, None]
    assert [one.status for one in quick.sources] == ["ok", "ok"]
    calls.clear()
    rank_scored(target, [good], counted, by="x", blocks=4)
    assert len(calls) == 9


def test_chances_sum_to_1_over_the_sources_that_have_one() -> None:
    def some(a: Samples, b: Samples) -> float:
        return math.nan if b.name.startswith("bad") else likeness(a, b)

    sources = [task(name, i, first=50 + i) for i, name in enumerate(("bad", "a", "b", "c"), 1)]
    found = rank_scored(task("t", 0, first=100), sources, some, by="x")
    assert sum(one.best for one in found.sources if one.best is not None) == pytest.approx(1)
    assert [one.name for one in found.sources if one.best is None] == ["bad"]
    assert sentence(found).startswith("Of the 3 sources that can be compared, ")


def test_rounding_is_no_error_and_chance_no_certainty() -> None:
    target, sources = task("t", 0, first=100), [task("a", 1, first=50), task("b", 2, first=60)]
    wobble = iter(range(1000))

    def steady(a: Samples, b: Samples) -> float:
        return 0.7 + (b.name == "a") * 0.1 + 1e-16 * (next(wobble) % 3)

    shown = str(rank_scored(target, sources, steady, by="x"))
    assert "±" not in shown
    head = Head.from_parts(torch.ones(7, 4))
    control = rank_samples(target, sources, head, by="random")
    assert [(one.low, one.best) for one in control.sources] == [(None, None)] * 2
    assert "100 %" not in str(control)
    assert "±" not in str(control)


@pytest.mark.parametrize("by", BASELINES)
def test_every_baseline_ranks(by: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    head = Head.from_parts(torch.tensor(rng.normal(size=(7, 4))).float())
    target, near = task("t", 0, first=100, shift=1), task("near", 1, shift=1)
    far = task("far", 2, first=50, shift=-1)
    run = rank_samples(
        target, [far, near], head, by=by, blocks=4, out=tmp_path, facts=(("a", "b"),)
    )
    assert run == rank_samples(target, [far, near], head, by=by, blocks=4)
    assert {one.name for one in run.sources} == {"near", "far"}
    assert all(one.value is not None for one in run.sources)
    assert read_run(tmp_path).facts == (("a", "b"),)
    with pytest.raises(UnembedError, match="another run"):
        rank_samples(target, [far, near], head, by=by, blocks=0, out=tmp_path)


def test_what_cannot_be_ranked() -> None:
    head = Head.from_parts(torch.ones(7, 4))
    target, source = task("t", 0), task("a", 1, first=50)
    with pytest.raises(UnembedError, match="'joint' is not one of"):
        rank_samples(target, [source], head, by="joint")
    with pytest.raises(UnembedError, match=r"sources .* t"):
        rank_samples(target, [], head, by="cka")
    with pytest.raises(UnembedError, match="two tasks are named 'a'"):
        rank_samples(target, [source, source], head, by="cka")
    for name in ("", " "):
        with pytest.raises(UnembedError, match=f"a task is named '{name}'"):
            rank_samples(target, [task(name, 1, first=50)], head, by="cka")
    for blocks in (1, -2):
        with pytest.raises(UnembedError, match=f"blocks is {blocks}"):
            rank_samples(target, [source], head, by="cka", blocks=blocks)
