"""The verdict on a ranking: a test for each rule that chooses its words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from made_up.selection import FEW, ranking
from unembed.report.verdicts.ranking import contenders, sentence, verdict
from unembed.report.verdicts.samples import (
    rounded_up,
    times_to_narrow,
    times_to_tell,
    times_words,
)
from unembed.selection.ranking.records import Ranking


def with_chances(*chances: float | None) -> Ranking:
    plain = ranking(len(chances))
    return replace(
        plain,
        sources=tuple(
            replace(source, best=best) for source, best in zip(plain.sources, chances, strict=True)
        ),
    )


def test_one_is_best_from_a_chance_of_95_percent_on() -> None:
    words = verdict(with_chances(0.96, 0.03, 0.01))
    assert words.sentence == "sonnets is the best source for field notes (chance 96\u00a0%)."
    assert "the samples suffice to name the best (5,012 samples of field notes" in words.trust
    assert words.next == "unembed mix TARGET SOURCES -o RUN"
    assert "96\u00a0% for sonnets, 3\u00a0% for python scripts" in words.change
    assert "chance > 99\u00a0%" in sentence(with_chances(0.9999, 0.0001))


def test_fewer_than_95_percent_names_those_that_may_be_best() -> None:
    record = with_chances(0.83, 0.1, 0.04, 0.02, 0.01)
    may = contenders(record)
    held = sum(source.best for source in may)
    assert held >= 0.95 > held - min(source.best for source in may)
    assert sentence(record) == (
        "sonnets, python scripts and algebra proofs cannot be told apart as the best source for "
        "field notes."
    )
    many = sentence(with_chances(*[0.1] * 10))
    assert many.startswith("sonnets, python scripts, algebra proofs and 7 others cannot be told")


def test_the_likeliest_need_not_score_highest() -> None:
    words = verdict(with_chances(0.3, 0.69, 0.01))
    assert words.sentence.startswith("python scripts and sonnets cannot be told apart")
    assert "is that of sonnets" in words.quality
    assert "python scripts may well be better" in words.quality


def test_there_are_more_samples_to_ask_for() -> None:
    words = verdict(with_chances(0.7, 0.3))
    times = rounded_up(times_to_tell(0.7, 0.3))
    assert times == 10
    assert f"as large as it looks, about {times} times as much text would" in words.trust
    assert words.next == ("unembed rank TARGET SOURCES --model MODEL --max-positions N -o RUN")
    alike = verdict(with_chances(0.5001, 0.4999))
    assert "Even 100 times as much text might not: take either." in alike.trust


def test_no_source_and_no_score() -> None:
    assert sentence(ranking(0)) == "There is no source to rank for field notes."
    assert verdict(ranking(0)).next == ""
    none = verdict(ranking(3, missing=3))
    assert none.sentence == f"No source can be ranked for field notes: {FEW}."
    assert "none of 3 sources has a score" in none.change
    assert "do not suffice" in none.trust


def test_one_source_and_ties() -> None:
    one = ranking(1)
    first = one.sources[0]
    said = f"{first.value:.2f} [{first.low:.2f}, {first.high:.2f}]"
    assert sentence(one) == f"sonnets is the only one ranked for field notes: {said}."
    assert "the only source with a score" in sentence(ranking(2, missing=1))
    four = ranking(4)
    ties = replace(four, sources=tuple(replace(one, value=0.5, best=0.25) for one in four.sources))
    assert sentence(ties) == (
        "sonnets, python scripts, algebra proofs and java services share the highest score for "
        "field notes."
    )


def test_a_score_without_an_error_is_not_sure() -> None:
    unsure = with_chances(None, None)
    assert sentence(unsure).endswith("how sure that is, is not known.")
    assert "no chances are known" in verdict(unsure).trust
    assert "random numbers" in verdict(replace(unsure, by="random")).trust


def test_a_source_that_cannot_be_compared_may_be_better() -> None:
    some = verdict(ranking(5, missing=3))
    assert some.sentence.startswith("Of the 2 sources that can be compared, ")
    assert "3 sources have no score, and may be better." in some.change
    partly = with_chances(0.99, 0.01, None)
    assert sentence(partly).startswith("Of the 2 sources that can be compared, sonnets is the best")


def test_signed_scores_below_and_around_0() -> None:
    against = ranking(3, by="gradient", shift=-2.0)
    assert sentence(against) == "Every source works against field notes; sonnets does so the least."
    around = ranking(3, by="gradient", shift=-0.55)
    first = around.sources[0]
    held = replace(around, sources=(replace(first, value=0.01, low=-0.2, high=0.22, best=1.0),))
    both = replace(around, sources=(*held.sources, replace(first, value=-0.5, best=0.0, low=-0.6)))
    assert sentence(both).endswith("and none is sure to help.")
    helps = ranking(3, by="gradient")
    assert "none is sure" not in sentence(helps)
    assert verdict(helps).next.startswith(
        ("unembed mix TARGET SOURCES --by gradient", "unembed rank")
    )


def test_a_cosine_past_what_is_possible_is_no_figure() -> None:
    record = with_chances(0.6, 0.4)
    first = replace(record.sources[0], value=1.2, low=0.7, high=1.7)
    words = verdict(replace(record, sources=(first, record.sources[1])))
    assert "not determined, at least 0.7" in words.quality


def test_few_samples_and_few_documents() -> None:
    record = with_chances(0.97, 0.03)
    few = verdict(replace(record, status="few samples: n = 90, participation ratio 310"))
    assert (
        "the samples do not suffice: 1 of 3 texts lacks some, such as field notes (few" in few.trust
    )
    assert few.next.endswith("--max-positions N -o RUN")
    mind = verdict(replace(record, status="ok, but it shares inputs with sonnets"))
    assert "mind the notes below: 1 of 3 texts has one, such as field notes (ok, but" in mind.trust
    rough = verdict(replace(record, documents=4))
    assert "A text has 4 documents alone: intervals are rough." in rough.trust


def test_how_many_times_the_samples() -> None:
    # A difference of one standard error has a chance of 84 %; 95 % takes 1.645 of them.
    assert times_to_tell(0.8413447, 0.1586553) == pytest.approx(1.6448536**2, rel=1e-4)
    assert times_to_tell(0.99, 0.01) == 1.0
    assert times_to_tell(None, 0.5) == 1.0
    assert times_to_narrow(0.5, 0.1) == pytest.approx(25)
    assert times_to_narrow(0.05, 0.1) == 1.0
    assert [rounded_up(x) for x in (1, 9.4, 10, 12, 3100)] == [1, 10, 10, 20, 4000]
    assert "about 4 times as much text would; if it is smaller, more." in times_words(3.2)
