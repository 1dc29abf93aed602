"""What is said of a ladder, and that intervals allow it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from made_up.ladders import make_ladder
from unembed.decisions.ladder.summary import LadderRow, LadderSummary
from unembed.report.verdicts.ladder import quality, untold, verdict
from unembed.stats.estimate import Estimate

LEVEL = Estimate(0.0, -0.001, 0.001, n=1000, documents=50)
UP, DOWN = Estimate(0.02, 0.01, 0.03, n=1000), Estimate(-0.02, -0.03, -0.01, n=1000)
WIDE = Estimate(0.0, -0.1, 0.1, n=1000)


def row(name: str, accuracy: Estimate, loss: Estimate, **more: Any) -> LadderRow:
    some = make_ladder().summary.rows[0]
    return replace(
        some,
        name=name,
        accuracy_difference=accuracy,
        nll_difference_nats=loss,
        clustered_mcnemar_p=None,
        **more,
    )


def summary(**rows: tuple[Estimate, Estimate]) -> LadderSummary:
    """By name, from the made-up ladder's variants: accuracy and loss."""
    some = make_ladder(refused=False).summary
    kept = tuple(one for one in some.variants if one.name in rows)
    made = tuple(row(name, *both) for name, both in rows.items())
    pairs = tuple(one for one in some.pairs if {one.first, one.second} <= set(rows))
    return replace(some, variants=kept, rows=made, pairs=pairs)


def test_a_row_is_judged_as_a_comparison_is() -> None:
    assert quality(row("a", LEVEL, LEVEL)) == "level"
    assert quality(row("a", UP, LEVEL)) == "better"
    assert quality(row("a", LEVEL, UP)) == "worse"
    assert quality(row("a", UP, UP)) == "mixed"
    assert quality(row("a", WIDE, LEVEL)) == "too close to call"
    assert quality(row("a", Estimate(0.0), LEVEL)) == "not determined"
    little = Estimate(0.002, 0.001, 0.003, n=1000)
    assert quality(row("a", LEVEL, little)) == "slightly worse"
    assert quality(row("a", little, LEVEL)) == "slightly better"
    less = Estimate(-0.002, -0.003, -0.001, n=1000)
    assert quality(row("a", WIDE, little)) == "worse"  # what accuracy may have lost is not known
    assert quality(row("a", WIDE, less)) == "slightly better"
    assert quality(row("a", UP, less)) == "better"
    untested = replace(row("a", DOWN, LEVEL), clustered_mcnemar_p=Estimate(0.4))
    assert quality(untested) == "too close to call"


def test_the_sentence_names_the_fewest_bytes_that_keep_the_quality() -> None:
    first = verdict(summary(bf16=(LEVEL, LEVEL), int8=(LEVEL, LEVEL), int4=(DOWN, UP)))
    assert first.sentence.startswith("int8 keeps the base’s quality in the fewest bytes, about")
    assert "smaller" not in first.sentence
    close = verdict(summary(int8=(LEVEL, LEVEL), int4=(WIDE, WIDE)))
    assert close.sentence.endswith("; int4, smaller, cannot be told yet.")
    assert close.next
    none = verdict(summary(int8=(DOWN, UP), int4=(DOWN, replace(UP, value=0.025)))).sentence
    assert none.startswith("No variant keeps the base’s quality; int8 comes nearest (accuracy −2.0")
    vague = verdict(summary(int8=(DOWN, UP), int4=(WIDE, WIDE))).sentence
    assert vague == "No variant is shown to keep the base’s quality; int4 is too close to call."
    blind = Estimate(0.1)
    assert "without intervals" in verdict(summary(int8=(blind, blind))).sentence


def test_a_loss_that_alone_tells_is_quoted() -> None:
    said = verdict(summary(bf16=(UP, LEVEL), int8=(LEVEL, UP), int4=(LEVEL, LEVEL))).quality
    assert [part.count("loss") for part in said.split(";")] == [0, 1, 0]
    assert "loss +0.020 [+0.010, +0.030] nats, 4 became right" in said


def test_distance_against_direction_is_said() -> None:
    some = summary(int8=(LEVEL, LEVEL), int4=(UP, LEVEL))
    [pair] = some.pairs
    against = replace(pair, accuracy=UP, kl_nats=UP)
    said = verdict(replace(some, pairs=(against,))).change
    assert f"{pair.second} is further from the base than {pair.first} and right more often" in said
    agreeing = replace(pair, accuracy=DOWN, kl_nats=UP)
    assert "not direction" not in verdict(replace(some, pairs=(agreeing,))).change


def test_pairs_that_are_not_told_apart_are_named() -> None:
    some = summary(int8=(LEVEL, LEVEL), int4=(LEVEL, LEVEL))
    [pair] = some.pairs
    same = replace(some, pairs=(replace(pair, accuracy=WIDE, nll_nats=WIDE),))
    assert untold(same) == [*same.pairs]
    assert "tell 0 of 1 pair of variants apart" in verdict(same).trust
    assert f"Not told apart: {pair.first} and {pair.second}." in verdict(same).trust


def test_what_was_refused_is_named() -> None:
    assert "Not measured: gptq" in verdict(make_ladder().summary).trust
