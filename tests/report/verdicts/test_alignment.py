"""The verdict on alignments: a test for each rule that chooses its words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from made_up.alignments import FEW, example
from unembed.report.alignment.pairs import by_joint
from unembed.report.alignment.tables import pair_tables
from unembed.report.parts import wording
from unembed.report.verdicts.alignment import most_alike, sentence, verdict
from unembed.signatures.alignment.records import Alignments


def joining(*joints: tuple[float, float, float]) -> Alignments:
    """Three tasks whose pairs (0, 1), (0, 2) and (1, 2) have these joints with their bounds."""
    plain = example(3, exact=True)
    matrices = [np.eye(3) for _ in range(3)]
    for (i, j), bounds in zip(((0, 1), (0, 2), (1, 2)), joints, strict=True):
        for matrix, number in zip(matrices, bounds, strict=True):
            matrix[i, j] = matrix[j, i] = number
    value, low, high = matrices
    return replace(plain, joint=replace(plain.joint, value=value, low=low, high=high))


APART = ((0.8, 0.75, 0.85), (0.5, 0.45, 0.55), (0.2, 0.15, 0.25))


def test_a_pair_is_the_most_alike_where_its_interval_lies_above_all_others() -> None:
    words = verdict(joining(*APART))
    assert words.sentence == "python scripts and sonnets are the most alike."
    assert "the highest joint alignment is 0.80 [0.75, 0.85], of python scripts" in words.quality
    assert "sonnets and algebra proofs are the least alike, 0.20 [0.15, 0.25]." in words.change
    assert "the samples suffice (2,000 samples or more in each task)" in words.trust
    assert words.next == "unembed rank TARGET SOURCES -o RUN"


def test_pairs_whose_intervals_meet_are_not_told_apart() -> None:
    close = joining((0.8, 0.7, 0.9), (0.7, 0.6, 0.8), (0.2, 0.1, 0.3))
    assert sentence(close) == (
        "python scripts and sonnets, and python scripts and algebra proofs, cannot be told apart "
        "as the most alike."
    )
    assert "four times the text would about halve the intervals" in verdict(close).trust
    # The widest interval need not be that of the next largest value.
    wide = joining((0.8, 0.75, 0.85), (0.5, 0.45, 0.55), (0.2, -0.5, 0.9))
    assert len(most_alike(wide)) == 2
    lowest = verdict(joining((0.8, 0.75, 0.85), (0.3, 0.2, 0.4), (0.25, 0.15, 0.35)))
    assert "1 more may be as little alike" in lowest.change
    some = example(12)
    wide = replace(some.joint, low=some.joint.value - 0.05, high=some.joint.value + 0.05)
    many = replace(some, joint=wide)
    alike = len(most_alike(many))
    assert alike > 3
    assert sentence(many).startswith(
        f"{alike} of 66 pairs cannot be told apart as the most alike, "
    )


def test_a_cosine_past_what_is_possible_is_never_the_most_alike() -> None:
    record = joining((1.9, 0.9, 2.9), (0.6, 0.5, 0.7), (0.2, 0.1, 0.3))
    assert [(pair.first, pair.second) for pair in by_joint(record)] == [(0, 2), (1, 2)]
    words = sentence(record)
    assert words == (
        "Of the 2 pairs that can be compared, python scripts and algebra proofs are the most alike."
    )
    assert "highest joint python scripts and algebra proofs" in repr(record)
    [table] = pair_tables(record)
    assert [row[0] for row in table.rows][-1] == "python scripts · sonnets"
    assert table.rows[-1][1].startswith("not determined, at least 0.9")
    one = joining((1.9, 0.9, 2.9), (1.9, 0.9, 2.9), (0.2, 0.1, 0.3))
    assert sentence(one) == "Only sonnets and algebra proofs can be compared."
    none = joining(*[(1.9, 0.9, 2.9)] * 3)
    assert sentence(none) == "No two tasks can be compared: not determined."
    assert verdict(none).change == "Found: none of 3 pairs has a joint."


def test_two_tasks() -> None:
    two = example(2, exact=True)
    joint = wording.full(two.joint.estimate(0, 1), wording.cosine)
    assert sentence(two) == (
        f"{two.names[0]} and {two.names[1]} have {joint} in common (1: the same, 0: nothing)."
    )
    coupling = wording.full(two.coupling.estimate(0, 1), wording.three)
    assert f"the two are {coupling} times as alike as what" in verdict(two).change
    assert verdict(two).next == ""
    low, value = two.joint.low.copy(), two.joint.value
    low[0, 1] = low[1, 0] = -0.1
    around = replace(two, joint=replace(two.joint, low=low))
    assert sentence(around).startswith("Whether python scripts and sonnets have anything in common")
    unknown = np.full_like(value, np.nan)
    unsure = replace(two, joint=replace(two.joint, low=unknown, high=unknown))
    assert "have a joint alignment of" in sentence(unsure)
    nothing = example(2, missing=(1,))
    assert sentence(nothing) == f"No two tasks can be compared: {nothing.names[1]}: {FEW}."


def test_nothing_is_surely_alike() -> None:
    noise = joining(*[(0.1, -0.1, 0.3)] * 3)
    assert sentence(noise) == "No two tasks are surely alike."
    unknown = joining(*[(0.5, np.nan, np.nan)] * 3)
    assert sentence(unknown).endswith("score highest; how sure that is, is not known.")


def test_coupling_is_counted() -> None:
    twelve = example(12)
    pairs = by_joint(twelve)
    low, high = twelve.coupling.low, twelve.coupling.high
    up = sum(low[p.first, p.second] > 1 for p in pairs)
    down = sum(high[p.first, p.second] < 1 for p in pairs)
    assert min(up, down) > 0
    said = verdict(twelve).change
    assert f"Of 66 pairs, {up} are surely more alike than what their inputs" in said
    assert said.endswith(f"alone say, and {down} less.")
    assert "inputs" not in verdict(replace(twelve, coupling=None)).change


@pytest.mark.parametrize(
    ("status", "ratio", "words"),
    [
        (
            "few samples: n = 90, participation ratio 3,099",
            3099.4,
            "It takes more than 3,100 samples",
        ),
        (
            "too few samples: the Fisher is lost in noise",
            None,
            "the samples do not suffice: 1 of 3",
        ),
        ("ok, but it shares inputs with sonnets", 80.0, "mind the notes below: 1 of 3 tasks"),
    ],
)
def test_tasks_that_lack_samples_are_told(status: str, ratio: float | None, words: str) -> None:
    plain = joining(*APART)
    first, *rest = plain.tasks
    doubted = replace(first, status=status, participation_ratio=ratio)
    found = verdict(replace(plain, tasks=(doubted, *rest)))
    assert words in found.trust
    assert found.next.startswith("unembed sketch" if "few" in status else "unembed rank")


def test_few_documents_are_told() -> None:
    plain = joining(*APART)
    first, *rest = plain.tasks
    few = verdict(replace(plain, tasks=(replace(first, documents=2), *rest)))
    assert few.trust == "Trust: A text has 2 documents alone: intervals are rough."
    assert few.next == "unembed sketch MODEL TEXT --max-positions N -o TASK.safetensors"


def test_a_task_alone_has_none_to_compare() -> None:
    alone = verdict(example(1))
    assert alone.sentence == "python scripts has none to compare."
    assert alone.change == "Found: none of 0 pairs has a joint."
