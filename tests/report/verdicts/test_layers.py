"""What is said of a run of layers never says more than its intervals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from made_up.layers import make_layers
from unembed.decisions.cloud.cloud import LIPSCHITZ
from unembed.decisions.layers.early_exit import ExitThreshold
from unembed.decisions.layers.regimes import Regimes, SignTurn, Turn
from unembed.decisions.layers.settling import Settling
from unembed.decisions.layers.summary import LayersSummary
from unembed.report.verdicts.layers import exit_words, sentence, verdict, whole
from unembed.stats.estimate import Estimate


def made() -> LayersSummary:
    return make_layers().summary


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(float(value), float(low), float(high), 900, documents=20)


def settling(median: Estimate, last: Estimate, depths: tuple[int, ...] = (0, 1, 2, 3)) -> Settling:
    found = made().settling
    *others, end = [one for one in found.by_depth if one.depth in depths]
    return replace(
        found,
        depths=depths,
        quantiles=found.quantiles | {"50": median},
        by_depth=(*others, replace(end, share=last)),
    )


@pytest.mark.parametrize(
    ("median", "last", "said"),
    [
        (
            estimate(2, 2, 2),
            estimate(0.31, 0.3, 0.32),
            "Half of the decisions are settled by depth 2 of 3; the last block still changes "
            "31.0\u00a0% [30.0, 32.0] of them.",
        ),
        (
            estimate(2, 2, 3),
            estimate(0.45, 0.38, 0.52),
            "Half of the decisions are settled by depth 2 [2, 3] of 3; the last block still "
            "changes 45\u00a0% [38, 52] of them.",
        ),
        (
            estimate(3, 3, 3),
            estimate(0.6, 0.55, 0.65),
            "Most decisions settle at the end: the last block still changes 60\u00a0% [55, 65] of "
            "them.",
        ),
        (
            estimate(3, 2, 3),
            estimate(0.52, 0.48, 0.56),
            "Decisions settle late: the last block still changes 52\u00a0% [48, 56] of them.",
        ),
    ],
)
def test_the_sentence(median: Estimate, last: Estimate, said: str) -> None:
    assert sentence(settling(median, last)) == said


def test_chosen_depths_are_said() -> None:
    found = settling(estimate(1, 1, 1), estimate(0.4, 0.38, 0.42), (0, 1, 3))
    assert sentence(found) == (
        "Half of the decisions are settled by depth 1 of 3, of the 3 measured depths; what follows "
        "depth 1 still changes 40\u00a0% [38, 42] of them."
    )
    alone = replace(found, depths=(3,), by_depth=found.by_depth[-1:])
    assert sentence(alone).startswith("Only the last depth was measured")


def test_whole_numbers_have_no_decimals() -> None:
    assert whole(estimate(5, 5, 5)) == "5"
    assert whole(estimate(5, 4, 5)) == "5 [4, 5]"
    assert whole(Estimate(None, reason="no depth")) == "none: no depth"


def test_a_threshold_that_misses_what_it_was_to_hold_says_so() -> None:
    exits = made().early_exit

    def chosen(agreement: Estimate, at_random: float = 0.8) -> str:
        saved, chance = estimate(0.2, 0.18, 0.22), estimate(at_random, at_random, at_random)
        one = ExitThreshold(4.0, agreement, saved, agreement, saved, saved, chance, (), ())
        return exit_words(replace(exits, chosen=one, chosen_reason=None, chosen_on=10))

    held = chosen(estimate(0.993, 0.988, 0.996))
    assert held.startswith("a margin of 4.00 logits, chosen on 10 documents, keeps 99.3\u00a0%")
    assert held.endswith("saves 20\u00a0% [18, 22] of the blocks.")
    assert chosen(estimate(0.97, 0.95, 0.985)).endswith(
        "of the blocks, which is short of 99\u00a0%."
    )
    lucky = chosen(estimate(0.993, 0.988, 0.996), 0.991)
    assert lucky.endswith("; as many leaving at random would keep 99.1\u00a0%.")
    unknown = chosen(Estimate(0.998, 0.0, 1.0, 900, documents=20))
    assert "changes too few decisions on the others to say how many it keeps and saves" in unknown
    nobody = replace(exits, chosen=None, chosen_reason="no threshold holds it")
    assert exit_words(nobody) == "no threshold holds it."


def test_a_correlation_that_is_none_at_both_ends_is_said_once() -> None:
    regimes = made().regimes
    none = Estimate(None, reason="a correlation needs 2 positions, got 1")
    lenses = []
    for lens in regimes.lenses:
        penalties = tuple(
            replace(one, by_depth=tuple(replace(row, rho=none) for row in one.by_depth))
            for one in lens.penalties
        )
        lenses.append(replace(lens, penalties=penalties))
    said = loss(Regimes(tuple(lenses)))
    assert said.count("needs 2 positions") == 1
    assert "goes from" not in said


def turning(lenses: tuple[str, ...], p: float, least_p: float = 0.01) -> Regimes:
    """Regimes whose sign turns under some lenses."""
    found = []
    turn = Turn(estimate(2, 2, 2), 1, estimate(0.4, 0.3, 0.5), p, least_p, 24, True)
    for lens in made().regimes.lenses:
        turns = (SignTurn(1, 2, "negative", "positive"),) if lens.lens in lenses else ()
        penalties = tuple(
            replace(one, sign_turns=turns, turn=turn, turn_reason=None) for one in lens.penalties
        )
        found.append(replace(lens, penalties=penalties))
    return Regimes(tuple(found))


def loss(regimes: Regimes) -> str:
    return verdict(replace(made(), regimes=regimes)).quality


def test_where_the_sign_turns_and_under_which_lenses() -> None:
    every = loss(turning(("normed", "raw", "fitted"), 0.02))
    assert (
        "between depths 1 and 2 (normed), 1 and 2 (raw) and 1 and 2 (fitted): under every" in every
    )
    assert "at depth 2, survives a shuffle of the depths (p = 0.0200)" in every
    some = loss(turning(("raw",), 0.2))
    assert "between depths 1 and 2 (raw), not surely so under normed and fitted." in some
    assert "may be one of shuffled depths (p = 0.200)" in some
    none = loss(turning((), 0.2, least_p=0.1))
    assert "Under no lens does its sign surely turn from negative to positive." in none
    assert "cannot be told from a shuffle of so few depths (p = 0.200)" in none


def test_the_theorem_stands_beside_the_shape() -> None:
    assert LIPSCHITZ in verdict(made()).trust
    assert verdict(replace(made(), cloud=None)).trust == "Shape: not measured."


def test_every_depth_is_below_a_gaussian_only_where_every_depth_is() -> None:
    cloud = made().cloud
    assert cloud is not None
    *rows, behind = cloud.rows

    def said(points: int, two_nn: Estimate) -> str:
        found = []
        for row in rows:
            dimensions = replace(row.geometry.dimensions, two_nn=two_nn)
            geometry = replace(row.geometry, dimensions=dimensions, points=row.spectrum.n)
            found.append(replace(row, geometry=geometry))
        copied = replace(found[0], geometry=replace(found[0].geometry, points=points))
        some = replace(cloud, rows=(copied, *found[1:], behind))
        return verdict(replace(made(), cloud=some)).trust

    low, full = estimate(1, 0.9, 1.1), rows[0].spectrum.n
    assert "At every depth that estimate is surely below" in said(full, low)
    left_out = said(3, low)
    assert f"At {len(rows) - 1} of {len(rows)} depths that estimate is surely below" in left_out
    assert "  " not in said(full, Estimate(2.0, None, None, 900))


def test_a_hump_is_said_only_where_intervals_show_it() -> None:
    cloud = made().cloud
    assert cloud is not None

    def shape(rank: Estimate) -> str:
        *first, middle, last, behind = cloud.rows
        spectrum = replace(middle.spectrum, effective_rank=rank)
        rows = (*first, replace(middle, spectrum=spectrum), last, behind)
        return verdict(replace(made(), cloud=replace(cloud, rows=rows))).trust

    assert "up to 40 [38, 42] at depth 2 and down to" in shape(estimate(40, 38, 42))
    assert "at depth 2 and" not in shape(estimate(14, 9, 25)).partition("TwoNN")[0]


def test_few_documents_are_minded() -> None:
    few = verdict(replace(made(), n_documents=6))
    assert few.trust.endswith("A text has 6 documents alone: intervals are rough.")
    assert few.next == "unembed layers MODEL MORE_TEXT -o RUN"
