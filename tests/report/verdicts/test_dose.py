"""What a grid of doses says first, from tables whose intervals call for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from made_up.doses import Grid
from unembed.report.verdicts.dose import costs, pairs, quality_of, trained, verdict
from unembed.stats.estimate import Estimate
from unembed.training.doses.records import TEMPERATURE, DoseRow, DoseTable
from unembed.training.doses.table import dose_table

Ends = tuple[float, float] | None
CLOSE, LEVEL = (-0.1, 0.2), (-0.001, 0.002)
AT = "At the same median margin (+20.0\u00a0%), "


@pytest.fixture(scope="module")
def made() -> DoseTable:
    """Two penalties at two weights, 12 documents and three seeds."""
    grid = Grid(n=300, documents=12)
    points = grid.points(objectives=("fisher", "margin"))
    return dose_table(grid.start, points, resamples=40)


def between(ends: Ends) -> Estimate:
    if ends is None:
        return Estimate(0.05, n=300, documents=12)
    return Estimate(sum(ends) / 2, *ends, 300, documents=12)


def with_pairs(table: DoseTable, ends: Mapping[str, Ends], at: float | None = 0.2) -> DoseTable:
    """The table with these intervals of fisher minus margin, by damage."""
    return replace(
        table,
        matched=tuple(
            one
            if TEMPERATURE in (one.first, one.second)
            else replace(one, at=at, difference=between(ends.get(one.damage, CLOSE)))
            for one in table.matched
        ),
    )


def with_rows(table: DoseTable, accuracy: Ends, loss: Ends, only: str = "") -> DoseTable:
    """The table with these differences to the control, of all doses or of one penalty's."""

    def row_of(row: DoseRow) -> DoseRow:
        if row.over_control is None or (only and row.objective != only):
            return row
        over = replace(
            row.over_control, accuracy_change=between(accuracy), nll_change=between(loss)
        )
        return replace(row, over_control=over)

    return replace(table, rows=tuple(map(row_of, table.rows)))


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ({"right_to_wrong": (-0.03, -0.01), "churn": (-0.3, -0.1)},
         "margin turns 2.0\u00a0pp [1.0, 3.0] more decisions from right to wrong than fisher."),
        ({"nll_rise": (0.01, 0.03), "churn": (-0.3, -0.1)},
         "fisher raises the loss by 2.0\u00a0% [1.0, 3.0] more than margin."),
        ({"churn": (-0.3, -0.1)},
         "margin changes 20\u00a0pp [10, 30] more decisions than fisher."),
        ({}, "fisher and margin are not told apart in what they cost."),
        ({"nll_rise": None, "right_to_wrong": None, "churn": None},
         "which penalty costs least cannot be told without intervals."),
    ],
)  # fmt: skip
def test_what_costs_more_at_the_same_gain(
    ends: dict[str, Ends], words: str, made: DoseTable
) -> None:
    assert verdict(with_pairs(made, ends)).sentence == AT + words


def test_the_largest_of_several_certain_differences_is_told(made: DoseTable) -> None:
    found = with_pairs(made, {"right_to_wrong": (0.01, 0.03)})
    [first] = [one for one in pairs(found) if one.damage == "right_to_wrong"]
    larger = replace(first, second="entropy", difference=between((-0.3, -0.2)))
    table = replace(found, matched=(*found.matched, larger))
    assert verdict(table).sentence == f"{AT}{costs(larger)}."
    assert costs(larger).startswith("entropy turns 25")


def test_without_a_common_gain_the_reason_is_told(made: DoseTable) -> None:
    nothing = Estimate(None, reason="margin reaches only +8 %")
    short = tuple(
        replace(one, at=None, difference=nothing, verdict="a and b cannot be compared: far")
        for one in made.matched
    )
    said = verdict(replace(made, matched=short))
    assert said.sentence == "A and b cannot be compared: far."
    # What gained least gets a larger weight.
    gains = {row.objective: row.figures.median_margin_gain.value for row in trained(made)}
    least = min(gains, key=lambda name: gains[name] or 0.0)
    assert f"{least}=0.3,0.6,1.2" in said.next
    assert said.next.startswith("unembed dose MODEL CORPUS --objectives fisher,margin --weights '")


@pytest.mark.parametrize(
    ("accuracy", "loss", "outcome", "words"),
    [
        ((0.01, 0.02), LEVEL, "better", "better: all 4 doses."),
        (LEVEL, (0.1, 0.2), "worse", "worse: all 4 doses."),
        ((0.01, 0.02), (0.1, 0.2), "mixed", "better in one of accuracy and loss, worse in the"),
        (LEVEL, LEVEL, "level", "level: all 4 doses."),
        (CLOSE, LEVEL, "close", "too close to call: all 4 doses."),
        (None, LEVEL, "unknown", "not known without intervals: all 4 doses."),
    ],
)
def test_doses_are_held_against_training_without_a_penalty(
    accuracy: Ends, loss: Ends, outcome: str, words: str, made: DoseTable
) -> None:
    found = with_rows(made, accuracy, loss)
    assert {quality_of(row) for row in trained(found)} == {outcome}
    said = verdict(found).quality
    assert said.startswith(f"Quality against training without a penalty: {words}")


def test_doses_that_differ_are_named_by_what_they_did(made: DoseTable) -> None:
    found = with_rows(with_rows(made, LEVEL, LEVEL), (-0.02, -0.01), LEVEL, only="margin")
    assert verdict(found).quality.endswith(
        "worse: margin 0.3 and margin 0.6; level: fisher 0.3 and fisher 0.6."
    )
    alone = replace(found, rows=tuple(replace(row, over_control=None) for row in found.rows))
    assert verdict(alone).quality == (
        "Quality: there is no training without a penalty to hold the doses against."
    )


def test_every_damage_is_told_in_the_second_point(made: DoseTable) -> None:
    said = verdict(with_pairs(made, {"right_to_wrong": (-0.03, -0.01)})).change
    assert "Found: the largest gain measured is +" in said
    assert said.endswith(
        "At the same median margin: in right to wrong, margin costs more than fisher; in loss and "
        "churn, nothing is told apart."
    )
    three = verdict(with_pairs(made, dict.fromkeys(("nll_rise", "right_to_wrong"), (0.1, 0.2))))
    assert "in loss, fisher costs more than margin; in right to wrong, fisher" in three.change
    none = with_pairs(made, dict.fromkeys(("nll_rise", "right_to_wrong", "churn")))
    assert "At the same median margin" not in verdict(none).change


@pytest.mark.parametrize(
    ("documents", "seeds", "words", "command"),
    [
        (1, 3, "Trust: only 1 held-out document. Without intervals", "dose MODEL MORE_TEXT"),
        (9, 3, "Trust: only 9 held-out documents. Intervals of fewer than 10", "MORE_TEXT"),
        (10, 1, "Trust: intervals hold the spread between 10 held-out documents, but not",
         "--objectives fisher,margin --seeds 3 -o RUN"),
        (10, 3, "and between 3 seeds. Of 3 comparisons, one in twenty", "--seeds 6 -o RUN"),
        (10, 10, "and between 10 seeds.", "unembed refine MODEL CORPUS --objective"),
    ],
)  # fmt: skip
def test_few_documents_and_few_seeds_are_told(
    documents: int, seeds: int, words: str, command: str, made: DoseTable
) -> None:
    rows = tuple(replace(row, seeds=tuple(range(seeds))) for row in made.rows)
    said = verdict(replace(with_pairs(made, {}), rows=rows, n_documents=documents))
    assert words in said.trust
    assert command in said.next


@pytest.mark.parametrize(
    ("ends", "rows", "command"),
    [
        # Fisher is dearer: margin at its largest weight that does no harm.
        ((0.01, 0.03), (LEVEL, LEVEL, ""), "--objective margin --weight 0.6 --control -o RUN"),
        ((-0.03, -0.01), (LEVEL, LEVEL, ""), "--objective fisher --weight 0.6 --control -o RUN"),
        # Every dose of fisher harms: its smallest.
        (
            (-0.03, -0.01),
            (LEVEL, (0.1, 0.2), ""),
            "--objective fisher --weight 0.3 --control -o RUN",
        ),
    ],
)
def test_the_next_command_is_the_dose_to_take(
    ends: Ends, rows: tuple[Any, Any, str], command: str, made: DoseTable
) -> None:
    said = verdict(with_rows(with_pairs(made, {"right_to_wrong": ends}), *rows))
    assert said.next.endswith(command)


def of_one_penalty(table: DoseTable, name: str = "fisher") -> DoseTable:
    return replace(
        table,
        rows=tuple(replace(r, objective=name) for r in table.rows if r.objective == "fisher"),
        matched=tuple(one for one in table.matched if one.second == TEMPERATURE),
    )


def test_one_penalty_is_held_against_training_without_it(made: DoseTable) -> None:
    found = verdict(of_one_penalty(with_rows(made, LEVEL, LEVEL)))
    assert found.sentence.startswith("Fisher 0.6 changes the median margin by +")
    assert "which differs from training without a penalty by +" in found.sentence
    assert found.sentence.endswith("; against that, quality is level.")
    assert found.next == (
        "unembed refine MODEL CORPUS --objective fisher --weight 0.6 --control -o RUN"
    )
    assert "comparisons" not in found.trust
    expanding = verdict(of_one_penalty(with_rows(made, LEVEL, LEVEL), "fisher-expand"))
    assert "--objective fisher --direction expand --weight 0.6" in expanding.next
    alone = of_one_penalty(made)
    alone = replace(alone, rows=tuple(replace(row, over_control=None) for row in alone.rows))
    assert verdict(alone).sentence.endswith("no training without a penalty was measured beside it.")


def test_without_a_dose_there_is_none_to_read(made: DoseTable) -> None:
    control = replace(made, rows=made.rows[:1], matched=())
    said = verdict(control)
    assert said.sentence == "There is no dose to read: this is training without a penalty alone."


def test_a_temperature_is_in_no_verdict(made: DoseTable) -> None:
    for table in (made, of_one_penalty(made)):
        words = str(verdict(table))
        assert TEMPERATURE not in words
        assert "logits ×" not in words


def test_the_next_command_speaks_of_shares_where_they_were_set(made: DoseTable) -> None:
    def shared(row: DoseRow) -> DoseRow:
        if row.objective in ("none", TEMPERATURE):
            return row
        return replace(row, gradient_share=row.weight, weight=7.25 * row.weight)

    table = replace(made, rows=tuple(map(shared, made.rows)))
    told = with_rows(with_pairs(table, {"right_to_wrong": (0.01, 0.03)}), LEVEL, LEVEL)
    assert verdict(told).next.endswith("--objective margin --gradient-share 0.6 --control -o RUN")
    nothing = Estimate(None, n=300, reason="fisher falls short")
    apart = replace(
        table,
        matched=tuple(replace(one, at=None, difference=nothing) for one in table.matched),
    )
    assert "--gradient-shares 0.3,0.6,1.2 -o RUN" in verdict(apart).next
