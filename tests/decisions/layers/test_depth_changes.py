"""What changed at each depth between two models: against plain loops, and where nothing did."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference.layers_comparison
import reference.simultaneous
from made_up.layers import made_stack
from unembed.decisions.layers.depth_changes import (
    MEASURES,
    VISIBLE,
    LensChange,
    lens_change,
    most_changed,
)
from unembed.decisions.layers.stack import LensStack
from unembed.runs.record import record_from_json, record_to_json
from unembed.stats.estimate import Estimate
from unembed.stats.student import student_t

HOW = {"resamples": 60, "seed": 3}


def pair(documents: int = 9, change: float = 0.5, **how: object) -> tuple[LensStack, LensStack]:
    before, after = (made_stack(documents, change=size, **how) for size in (0.0, change))  # type: ignore[arg-type]
    return before, after


def by_position(before: LensStack, after: LensStack) -> tuple[list, list, list]:
    finals = list(zip(before.final_top1.tolist(), after.final_top1.tolist(), strict=True))
    return before.top1.T.tolist(), after.top1.T.tolist(), finals


def share(one: int, of: int) -> float | None:
    return one / of if of else None


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 500), st.sampled_from([0.05, 0.4, 2.0]), st.booleans())
def test_shares_are_those_that_a_loop_counts(seed: int, change: float, some: bool) -> None:
    depths = (1, 2, 5) if some else None
    both = pair(3, change, seed=seed, blocks=5, depths=depths, vocab=4, lens="raw")
    wanted = reference.layers_comparison.changes(*by_position(*both))
    for row, here in zip(lens_change(*both, **HOW).by_depth, wanted, strict=True):
        assert row.changed.value == pytest.approx(here.changed / here.n)
        assert row.reunited.value == pytest.approx(share(here.reunited, here.changed))
        assert row.parted.value == pytest.approx(share(here.parted, here.apart_in_the_end))
        assert row.reunited.n == here.changed
        assert row.parted.n == here.apart_in_the_end


def test_means_and_their_differences_equal_plain_numpy() -> None:
    before, after = pair(12, seed=2)
    found = lens_change(before, after, **HOW)
    assert (found.lens, found.depths, found.n, found.documents) == (
        "normed",
        before.depths,
        before.n,
        12,
    )

    def plain(stack: LensStack, name: str, at: int) -> float:
        columns = {
            "agreement": stack.top1[at] == stack.final_top1,
            "accuracy": stack.top1[at] == stack.target,
            "kl_nats": stack.kl_final[at],
            "nll_nats": stack.nll[at],
        }
        values = columns.get(name)
        return float(np.mean(getattr(stack, name)[at] if values is None else values, dtype=float))

    for at, row in enumerate(found.by_depth):
        for name in MEASURES:
            one = getattr(row, name)
            old, new = plain(before, name, at), plain(after, name, at)
            assert one.before.value == pytest.approx(old, abs=1e-6)
            assert one.after.value == pytest.approx(new, abs=1e-6)
            assert one.difference.value == pytest.approx(new - old, abs=1e-6)
            assert one.difference.low <= one.difference.value <= one.difference.high
    last = found.by_depth[-1]
    assert last.agreement.difference == Estimate(0.0, 0.0, 0.0, found.n, None, 12)
    assert last.reunited.value == 0
    assert last.parted.value == 1
    assert found.end_alike.value == pytest.approx(1 - last.changed.value)
    assert record_from_json(LensChange, record_to_json(found)) == found


def test_intervals_hold_for_all_depths_at_once() -> None:
    before, after = pair(8, 0.3, seed=5)
    found = lens_change(before, after, **HOW)
    sizes = before.sizes().tolist()
    sums = [
        [float(differs[before.doc == doc].sum()) for doc in np.unique(before.doc)]
        for differs in before.top1 != after.top1
    ]
    wanted = reference.simultaneous.intervals([(sums, sizes)], student_t(7), **HOW)
    for row, (value, low, high) in zip(found.by_depth, wanted, strict=True):
        assert row.changed.value == pytest.approx(value)
        assert row.changed.low == pytest.approx(max(low, 0.0), abs=1e-12)
        assert row.changed.high == pytest.approx(min(high, 1.0))


@pytest.mark.parametrize("lens", ["normed", "raw"])
def test_a_model_and_itself_differ_by_nothing_anywhere(lens: str) -> None:
    stack = made_stack(7, lens=lens)
    found = lens_change(stack, stack, **HOW)
    assert (found.first, found.most) == (None, ())
    for row in found.by_depth:
        for one in (row.changed, *(getattr(row, name).difference for name in MEASURES)):
            assert (one.value, one.low, one.high) == (0.0, 0.0, 0.0)
        assert row.reunited.reason == "no token changed here"
        assert row.parted.reason == "no decision differs in the end"


def changed_at(values: list[tuple[float, float, float]]) -> list:
    row = lens_change(*pair(3), **HOW).by_depth[0]
    return [
        dataclasses.replace(row, depth=depth, changed=Estimate(*ends, n=9))
        for depth, ends in enumerate(values)
    ]


def test_where_most_changed_names_every_depth_that_is_not_surely_below() -> None:
    rows = changed_at([(0.1, 0.05, 0.2), (0.3, 0.25, 0.35), (0.24, 0.2, 0.28), (0.2, 0.1, 0.24)])
    assert most_changed(rows) == (1, 2)
    assert most_changed(changed_at([(0.0, 0.0, 0.0)])) == ()
    alone = [dataclasses.replace(one, changed=Estimate(one.changed.value)) for one in rows]
    assert most_changed(alone) == (1,)


def test_the_first_visible_change_is_where_the_interval_has_passed_the_floor() -> None:
    before = made_stack(40, blocks=4, seed=1)
    top1 = before.top1.copy()
    top1[2, ::7] += 1
    top1[3, ::3] += 1
    found = lens_change(before, dataclasses.replace(before, top1=top1), **HOW)
    assert found.first == 2
    assert found.by_depth[2].changed.low > VISIBLE
    assert found.most == (3,)
    rare = before.top1.copy()
    rare[2, 5] += 1
    found = lens_change(before, dataclasses.replace(before, top1=rare), **HOW)
    assert found.first is None
    assert found.most == (2,)


def test_a_share_without_an_exception_still_has_an_interval() -> None:
    before = made_stack(30, blocks=4, seed=1)
    top1, finals = before.top1.copy(), before.final_top1.copy()
    top1[1, ::9] += 1
    top1[-1, 4::9] += 1
    finals[4::9] += 1
    found = lens_change(before, dataclasses.replace(before, top1=top1, final_top1=finals), **HOW)
    row = found.by_depth[1]
    changed, ended = (len(np.unique(before.doc[at::9])) for at in (0, 4))
    assert (row.reunited.value, row.reunited.documents) == (1.0, changed)
    assert (row.parted.value, row.parted.documents) == (0.0, ended)
    # Each document counts as one: 1.96 squared over their number and it, with Student's t.
    square = student_t(changed - 1) ** 2
    assert row.reunited.low == pytest.approx(1 - square / (changed + square), abs=1e-6)
    square = student_t(ended - 1) ** 2
    assert row.parted.high == pytest.approx(square / (ended + square), abs=1e-6)
    assert (row.reunited.high, row.parted.low) == (1.0, 0.0)


def test_the_interval_of_a_share_narrows_with_the_text() -> None:
    few, many = (lens_change(*pair(n, 1.0, seed=6), **HOW).by_depth[2].reunited for n in (10, 90))
    for one in (few, many):
        assert one.low < one.value < one.high
    ratio = (few.high - few.low) / (many.high - many.low)
    assert 1.5 < ratio < 6


def test_stacks_of_other_positions_depths_or_lenses_are_refused() -> None:
    stack = made_stack(5)
    with pytest.raises(ValueError, match="lens normed and raw"):
        lens_change(stack, made_stack(5, lens="raw"))
    with pytest.raises(ValueError, match="depths"):
        lens_change(stack, made_stack(5, depths=(0, 4)))
    with pytest.raises(ValueError, match="column target is not the same"):
        lens_change(stack, dataclasses.replace(stack, target=stack.target + 1))


def test_one_document_has_values_and_no_intervals() -> None:
    before, after = pair(1, 1.0)
    found = lens_change(before, after, **HOW)
    assert found.first is None
    for row in found.by_depth:
        assert row.changed.low is None
        assert row.kl_nats.difference.low is None


def test_no_position_gives_reasons_and_no_numbers() -> None:
    nothing = made_stack(3).rows(np.zeros(0, dtype=int))
    found = lens_change(nothing, nothing, **HOW)
    assert found.by_depth[0].changed.value is None
    assert found.most == ()
    assert math.isclose(found.n, 0)
