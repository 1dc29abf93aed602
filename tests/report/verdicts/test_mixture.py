"""The verdict on a mixture: a test for each rule that chooses its words."""

from __future__ import annotations

from dataclasses import replace

from made_up.selection import mixture
from unembed.report.verdicts.mixture import sentence, verdict
from unembed.selection.mixing.record import Mixture, Share
from unembed.selection.mixing.text import mixture_text
from unembed.stats.estimate import Estimate


def weighing(*weights: tuple[float, float, float], **fields: object) -> Mixture:
    """A mixture with these weights and their bounds."""
    plain = mixture(len(weights))
    shares = tuple(
        replace(one, weight=Estimate(*weight), probability=weight[0])
        for one, weight in zip(plain.shares, weights, strict=True)
    )
    return replace(plain, shares=shares, **fields)  # type: ignore[arg-type]


SURE = ((0.62, 0.58, 0.66), (0.38, 0.34, 0.42))


def test_shares_are_named_with_their_intervals() -> None:
    words = verdict(weighing(*SURE))
    assert words.sentence == (
        "field notes is best mixed from 62\u00a0% [58, 66] sonnets and 38\u00a0% [34, 42] python "
        "scripts."
    )
    assert "2.1\u00a0% [0.2, 4.0] is left that no mixture" in words.quality
    assert "surely part of it: sonnets and python scripts. The weights summed to" in words.change
    assert "the samples suffice (5,012 samples of field notes in 311 documents)" in words.trust
    assert words.next == "unembed compare MODEL TRAINED TEXT -o RUN"
    assert sentence(mixture(12)).endswith(" and 4 more sources.")


def test_most_of_the_target_is_left() -> None:
    left = weighing(*SURE, residual=Estimate(0.928, 0.9, 0.956))
    words = verdict(left)
    assert words.sentence == (
        "No mixture of these sources makes field notes: 93\u00a0% [90, 96] of it is expressed by "
        "none."
    )
    assert words.quality.startswith("Quality: poor: look for a source")
    assert "the samples suffice to say so" in words.trust
    assert words.next == "unembed index query INDEX TARGET"
    assert "interleave_datasets" not in mixture_text(left)
    assert "interleave_datasets" in mixture_text(weighing(*SURE))


def test_most_of_the_target_may_be_left() -> None:
    unsure = sentence(weighing(*SURE, residual=Estimate(0.6, 0.45, 0.75)))
    assert unsure.startswith("field notes is best mixed from 62")
    assert unsure.endswith(", which may leave most of it unexpressed.")


def test_weights_that_may_be_anything_are_not_named() -> None:
    vague = weighing((0.6, 0.0, 1.0), (0.4, 0.0, 0.9))
    words = verdict(vague)
    assert words.sentence == (
        "field notes can be mixed from these sources, but how much of each is not known."
    )
    assert "no single one is surely needed" in words.change
    assert "sonnets may be 0 to 100\u00a0%. ±10 pp takes 30 times as many or more" in words.trust
    assert words.next == "unembed mix TARGET SOURCES --model MODEL --max-positions N -o RUN"
    left = sentence(replace(vague, residual=Estimate(0.5, 0.2, 0.8)))
    assert left == "How much of each source to mix for field notes is not known."
    no_interval = weighing((1.0, 0.9, 1.0), (0.0, 0.0, 0.1))
    first, second = no_interval.shares
    lost = replace(no_interval, shares=(replace(first, weight=Estimate(1.0)), second))
    assert "not known" in sentence(lost)
    assert "a weight has no interval" in verdict(lost).trust


def test_shares_that_are_known_roughly_ask_for_more_samples() -> None:
    rough = verdict(weighing((0.62, 0.47, 0.77), (0.38, 0.23, 0.53), by="error"))
    assert "best mixed from 62" in rough.sentence
    assert "do not suffice" in rough.trust
    assert "±10 pp takes 3 times as many or more" in rough.trust
    assert rough.next.endswith("--model MODEL --by error --max-positions N -o RUN")


def test_a_residual_that_is_nothing() -> None:
    clean = verdict(weighing(*SURE, residual=Estimate(0.003, -0.01, 0.016)))
    assert "nothing of field notes is surely left" in clean.quality
    below = verdict(weighing(*SURE, residual=Estimate(-0.03, -0.1, 0.04)))
    assert "expresses: not determined, at most 4\u00a0% (below 0 by chance)." in below.quality
    assert "surely left" not in verdict(weighing(*SURE)).quality


def test_one_may_be_left_out() -> None:
    words = verdict(weighing((0.9, 0.85, 0.95), (0.1, 0.0, 0.15)))
    assert "surely part of it: sonnets; may be left out: python scripts." in words.change


def test_warnings_are_pointed_to() -> None:
    noted = verdict(weighing(*SURE, warnings=("One is a copy.",)))
    assert noted.trust.endswith("known within ±10 pp. Mind the notes below.")
    beyond = verdict(weighing(*SURE, residual=Estimate(-0.05, -0.06, -0.04)))
    assert "the samples are not independent" in beyond.trust


def test_nothing_can_be_told() -> None:
    lost = Estimate(None, reason="too few samples")
    shares = tuple(replace(one, weight=lost, probability=0.0) for one in mixture(3).shares)
    words = verdict(replace(mixture(3), shares=shares, total=lost, residual=lost))
    assert words.sentence == "What field notes is made of cannot be told: too few samples."
    assert words.change == "Found: none of 3 sources has a weight."
    assert words.next.startswith("unembed mix ")
    nearer = replace(mixture(3), shares=shares, total=Estimate(0.0, 0.0, 0.1))
    assert sentence(nearer) == "No mixture of these sources pushes as field notes would."


def test_few_documents_are_told() -> None:
    few = verdict(weighing(*SURE, documents=3))
    assert few.trust == "Trust: A text has 3 documents alone: intervals are rough."
    assert few.next.startswith("unembed mix ")
    source: Share = mixture(2).shares[0]
    of_source = replace(weighing(*SURE), shares=(replace(source, documents=1), *mixture(2).shares))
    assert "A text has 1 document alone" in verdict(of_source).trust
