"""The verdict on measured transfer: a test for each rule that chooses its words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from made_up.selection import transfer, verdicts
from unembed.report.verdicts.transfer import of_record, verdict
from unembed.report.verdicts.verdict import Verdict
from unembed.selection.transfer.judged import JudgedTransfer
from unembed.selection.transfer.records import Scores, Transfer
from unembed.selection.transfer.verdicts import compared, judge


def scored(**noise: float) -> Transfer:
    """Sixteen tasks whose methods score the mean gains with so much noise; inf is at random."""
    made = transfer(16, methods=("oracle",))
    rng = np.random.default_rng(3)
    found = []
    for method, size in noise.items():
        random = rng.normal(size=made.gains.shape[1:])
        values = random if np.isinf(size) else made.gains.mean(0) + size * random
        found.append(Scores(method, np.broadcast_to(values, made.gains.shape).copy()))
    return replace(made, scores=tuple(found))


def said(record: Transfer) -> Verdict:
    return of_record(JudgedTransfer(record, judge(record)))


def test_one_chose_best_beyond_the_interval_of_the_difference() -> None:
    record = scored(joint=0.01, unigram=2.0, error=3.0, random=np.inf)
    words = said(record)
    found = compared(record, "joint", "unigram").share
    assert found.low is not None
    assert found.low > 0
    assert words.sentence == "joint chose best, better than chance."
    assert "and chose worse" in words.change
    assert words.next == "unembed rank TARGET SOURCES -o RUN"
    assert words.trust == "Trust: intervals are over 16 targets and 3 seeds."


def test_methods_within_the_interval_of_their_difference_are_named_together() -> None:
    words = said(scored(unigram=0.04, joint=0.04, random=np.inf))
    first, second = (
        ("unigram", "joint")
        if "unigram brought" in words.quality
        else (
            "joint",
            "unigram",
        )
    )
    assert words.sentence == (
        f"{first} and {second} cannot be told apart as the best way to choose; {first} beat chance."
    )
    assert f"The next, {second}, brought" in words.change
    assert "cannot be told apart from it" in words.change
    many = said(scored(joint=0.03, error=0.03, activation=0.03, unigram=0.03, random=np.inf))
    assert " and 2 others cannot be told apart as the best" in many.sentence


def test_no_method_beats_chance() -> None:
    words = said(scored(joint=50.0, error=60.0, random=np.inf))
    assert words.sentence.startswith("No method surely chose better than chance; ")
    assert "Chance picks the best of 15 sources for one target in 15 (6.67\u00a0%)" in words.quality
    assert "random numbers brought" in words.quality
    without = said(scored(joint=50.0))
    assert without.sentence == "No method surely chose better than chance; joint came nearest."
    assert "random numbers" not in without.quality


def test_a_lone_method_and_none() -> None:
    alone = said(scored(unigram=0.01, random=np.inf))
    assert alone.sentence == "unigram is the only method judged, better than chance."
    assert alone.next == "unembed rank TARGET SOURCES --model MODEL --by unigram -o RUN"
    nobody = said(scored(logme=0.1, oracle=0.0, random=np.inf))
    assert nobody.sentence.endswith("no method was judged that can be used before training.")
    assert "With a model trained on each source, logme brought" in nobody.change
    assert nobody.next == ""
    few = verdict(transfer(2, methods=("joint",)), ())
    assert few.quality == "Quality: there is nothing to choose from."


def test_few_targets_and_one_seed_are_told() -> None:
    record = transfer(5, seeds=1)
    words = of_record(JudgedTransfer(record, judge(record)))
    assert words.trust == (
        "Trust: intervals are over 5 targets alone, in one seed. So few targets make them rough."
    )


def test_figures_that_are_missing_are_no_numbers() -> None:
    record = transfer(6)
    made = verdicts()
    first = made[0]
    lost = replace(first.share, value=None, low=None, high=None, reason="no gain")
    unsure = replace(first, share=lost, top1=replace(first.top1, value=0.5, low=-0.1, high=1.1))
    words = verdict(record, (unsure, made[-2]))
    assert "a share of right first choices that is not determined" in words.quality
    unknown = replace(record, scores=record.scores[1:])
    close = verdict(unknown, made)
    assert "cannot be told apart" in close.sentence


@pytest.mark.parametrize(
    ("method", "command"),
    [
        ("gradient, plug-in", "unembed rank TARGET SOURCES --by gradient -o RUN"),
        ("mine", ""),
    ],
)
def test_the_next_command_ranks_by_the_first(method: str, command: str) -> None:
    record = scored(joint=0.01)
    named = replace(record, scores=(replace(record.scores[0], method=method),))
    assert said(named).next == command
