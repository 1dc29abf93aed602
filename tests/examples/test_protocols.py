"""The published protocols: their statistics, their sentences, and the text that they read."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from places import ROOT
from unembed.stats.estimate import Estimate

for folder in ("transfer", "protocols"):
    sys.path.insert(0, str(ROOT / "examples" / folder))
NAMES = ("articles", "methods", "published", "string_domains", "subsets")
articles, methods, published, string_domains, subsets = map(import_module, NAMES)

APART = ~np.eye(9, dtype=bool)


def drawn(seed: int, seeds: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(seeds, 9, 9))


def naive_rho(a: np.ndarray, b: np.ndarray) -> float:
    ranks = [np.argsort(np.argsort(x.mean(0)[APART])) for x in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def test_pairs_of_domains_correlate_as_their_ranks_do() -> None:
    gains, scores = drawn(0), drawn(1) + drawn(0)
    got = published.cross_domain(gains, scores)
    assert got.rho.value == pytest.approx(naive_rho(gains, scores), abs=1e-12)
    assert got.rho.low < got.rho.value < got.rho.high
    assert (got.rho.n, got.domains, got.seeds) == (72, 9, 2)
    assert got.p < 0.01
    unlike = published.cross_domain(gains, drawn(5))
    assert unlike.p > 0.05
    assert unlike.rho.low < 0 < unlike.rho.high
    # A domain's own gain and score are no pair.
    scores[:, ~APART] = 99
    assert published.cross_domain(gains, scores).rho.value == got.rho.value
    tied = published.cross_domain(gains, np.ones_like(gains))
    assert tied.rho.value == 0
    assert tied.p == 1
    with pytest.raises(ValueError, match="3 domains leave nothing to delete"):
        published.cross_domain(gains[:, :3, :3], scores[:, :3, :3])


def test_scores_of_the_same_domains_are_compared_in_pairs() -> None:
    gains, better, worse = drawn(0), drawn(0) + 0.3 * drawn(1), drawn(0) + 3 * drawn(2)
    got = published.cross_domain_difference(gains, better, worse)
    rhos = [published.cross_domain(gains, x).rho.value for x in (better, worse)]
    assert got.value == pytest.approx(rhos[0] - rhos[1])
    assert 0 < got.low < got.value < got.high
    same = published.cross_domain_difference(gains, better, 2 * better)
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_pairs_that_share_domains_make_the_interval_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "PERMUTATIONS", 1)
    widths: dict[str, list[float]] = {"shared": [], "free": []}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        # Every source helps alike wherever it is used: nine facts, not seventy-two.
        own, other = (rng.normal(size=(1, 9, 1)) + np.zeros((1, 9, 9)) for _ in range(2))
        free, more = (rng.normal(size=(1, 9, 9)) for _ in range(2))
        for name, a, b in (("shared", own, own + other), ("free", free, free + more)):
            found = published.cross_domain(a, b).rho
            widths[name].append(found.high - found.low)
    assert np.median(widths["shared"]) > 1.5 * np.median(widths["free"])


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((0.6, 0.5, 0.7), "reproduced: the interval holds"),
        ((0.9, 0.8, 0.95), "reproduced, and above"),
        ((0.4, 0.3, 0.5), "the effect is reproduced, and is smaller"),
        ((0.3, 0.1, 0.5), "not reproduced: it is not told apart from chance"),
        ((0.4, 0.1, 0.7), "not reproduced: it is not told apart from chance, nor told apart from"),
    ],
)
def test_a_sentence_goes_by_the_interval(ends: tuple[float, float, float], said: str) -> None:
    row = published.Row(published.SHIFT_TOP1, "here", "joint", "top-1", Estimate(*ends), "n small")
    assert row.verdict.startswith(said)
    assert row.verdict.endswith("; n small")
    assert said in published.table([row])[-1]


def test_chance_may_be_another_here_and_a_sentence_may_be_given() -> None:
    share = Estimate(0.5, 0.4, 0.6)
    row = published.Row(published.SHIFT_SHARE, "here", "joint", "share", share)
    assert row.verdict == "not reproduced: it is below the published figure"
    assert replace(row, chance=0.3).verdict.startswith("the effect is reproduced, and is smaller")
    assert replace(row, chance=0.45).verdict.startswith("not reproduced: it is not told apart")
    assert replace(row, sentence="all tie").verdict == "all tie"


def test_no_sentence_without_a_figure_or_an_interval() -> None:
    none = Estimate(None, reason="no gain to share")
    row = published.Row(published.SHIFT_SHARE, "here", "joint", "share", none)
    assert row.verdict == "not comparable: no gain to share"
    plain = published.Row(None, "here", "chance", "top-1", Estimate(0.2, 0.1, 0.3), "a control")
    assert plain.verdict == "a control"


def test_strings_of_nine_domains_are_all_different(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(string_domains, "DOCUMENTS", 8)
    found = string_domains.string_domains()
    assert len(found) == 9
    lines = [line for one in found for d in one.documents for line in d.text.splitlines()]
    assert len(set(lines)) == len(lines)
    assert all(s.count("(") == s.count(")") and s.count("1") % 2 == 0 for s in lines)
    by_name = {one.name: "".join(d.text for d in one.documents) for one in found}
    assert "1" not in by_name["carbon chains"]
    assert "S" in by_name["sulphur"]
    assert len(by_name["small"]) < len(by_name["large"])


def test_an_article_is_a_domain_and_its_passages_documents(tmp_path: Path) -> None:
    file = tmp_path / "wiki"
    body = "".join(f" line {i} of some length , which is read \n" for i in range(60))
    file.write_text(f" = Short = \n few\n = Long = \n{body} = = Part = = \n{body}")
    long, short, *_ = articles.article_domains([file, file], 4)[::2]
    assert (long.name, short.name) == ("Long", "Short")
    assert [x.name for x in articles.article_domains([file, file], 4)[1::2]] == [
        "Long (2)",
        "Short (4)",
    ]
    assert len(long.documents) > 3
    assert "= = Part = =" in "".join(d.text for d in long.documents)
    assert not short.documents


def test_halves_hold_every_domain_as_often() -> None:
    members = subsets.drawn_subsets(6, 8, 0)
    assert (members.sum(1) == 4).all()
    assert (members.sum(0) == 3).all()
    assert np.array_equal(members, subsets.drawn_subsets(6, 8, 0))
    assert not np.array_equal(members, subsets.drawn_subsets(6, 8, 1))


def test_scores_that_add_up_to_the_gains_foresee_them() -> None:
    members = subsets.drawn_subsets(12, 8, 0)
    scores = np.random.default_rng(0).normal(size=(8, 8))
    gains = members @ scores / 4
    measured = subsets.Subsets(members, gains)
    right = subsets.foreseen(measured, methods.Found("right", scores))
    assert right.every.value == pytest.approx(1)
    assert right.others.value == pytest.approx(1)
    other = np.random.default_rng(1).normal(size=(8, 8))
    wrong = subsets.foreseen(measured, methods.Found("wrong", other))
    assert wrong.every.low < 0.5
    assert right.p < 0.02 < wrong.p
    a, b = (subsets.correlations(measured, methods.Found("", x)) for x in (scores, other))
    gap = (a - b).estimate(1)
    assert gap.value == pytest.approx(right.others.value - wrong.others.value)
    assert gap.low < gap.value < gap.high
    # A target's own score alone says which half holds it, and nothing of the others.
    own = subsets.foreseen(measured, methods.Found("own", np.eye(8)))
    assert own.others.value == 0
    scores[0, 3] = np.nan
    assert subsets.foreseen(measured, methods.Found("unknown", scores)).every.value < 1
