"""Whether decisions settle elsewhere after a change, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

import reference.layers_comparison
from made_up.layers import made_stack
from unembed.decisions.layers.settling_changes import (
    OUTCOMES,
    SettlingChange,
    settling_change,
)
from unembed.decisions.layers.stack import LensStack
from unembed.decisions.tokens import CLASSES, FREQUENCY_NAMES, frequency_buckets
from unembed.runs.record import record_from_json, record_to_json

HOW = {"resamples": 60, "seed": 4}


def compared(before: LensStack, after: LensStack) -> tuple[SettlingChange, np.ndarray]:
    classes = np.arange(before.n) % 4
    found = settling_change(before, after, classes, frequency_buckets(before.target), **HOW)
    return found, classes


@pytest.mark.parametrize("depths", [None, (0, 2, 5)])
def test_figures_equal_plain_counts(depths: tuple[int, ...] | None) -> None:
    before, after = (
        made_stack(9, blocks=5, depths=depths, seed=2, vocab=4, change=size) for size in (0, 0.8)
    )
    found, classes = compared(before, after)
    finals = list(zip(before.final_top1.tolist(), after.final_top1.tolist(), strict=True))
    at = np.array(
        reference.layers_comparison.settling(
            before.top1.T.tolist(), after.top1.T.tolist(), finals, before.depths
        )
    )
    whole = found.everywhere
    assert (whole.mean.before.value, whole.mean.after.value) == pytest.approx(at.mean(axis=0))
    assert whole.mean.difference.value == pytest.approx((at[:, 1] - at[:, 0]).mean())
    assert whole.mean.difference.low < whole.mean.difference.value < whole.mean.difference.high
    assert whole.earlier.value == pytest.approx((at[:, 1] < at[:, 0]).mean())
    assert whole.later.value == pytest.approx((at[:, 1] > at[:, 0]).mean())
    assert whole.earlier.value > 0 < whole.later.value
    for one in found.by_depth:
        old, new = (at == one.depth).mean(axis=0)
        assert one.share.before.value == pytest.approx(old)
        assert one.share.after.value == pytest.approx(new)
        assert one.share.difference.value == pytest.approx(new - old, abs=1e-12)
    right = [stack.final_top1 == stack.target for stack in (before, after)]
    names = {(True, True): 0, (False, False): 1, (False, True): 2, (True, False): 3}
    outcome = np.array([names[bool(a), bool(b)] for a, b in zip(*right, strict=True)])
    for marks, some, wanted in (
        (classes, found.by_class, CLASSES),
        (frequency_buckets(before.target), found.by_frequency, FREQUENCY_NAMES),
        (outcome, found.by_outcome, OUTCOMES),
    ):
        assert tuple(one.name for one in some) == tuple(wanted)
        for number, group in enumerate(some):
            inside = at[marks == number]
            assert group.share.value == pytest.approx(len(inside) / len(at))
            if len(inside):
                moved = inside[:, 1] - inside[:, 0]
                assert group.mean.difference.value == pytest.approx(moved.mean(), abs=1e-12)
                assert group.mean.difference.n == len(inside)
                assert group.later.value == pytest.approx((moved > 0).mean())
            else:
                assert group.mean.difference.value is None
    assert record_from_json(SettlingChange, record_to_json(found)) == found


def test_a_model_and_itself_settle_alike() -> None:
    stack = made_stack(6)
    found, _ = compared(stack, stack)
    for group in (found.everywhere, *found.by_class, *found.by_outcome):
        if group.mean.difference.value is None:
            continue
        for one in (group.mean.difference, group.earlier, group.later):
            # A group in a single document has a value without an interval.
            assert one.value == 0.0
            assert one.low in (0.0, None)
            assert one.high in (0.0, None)
    assert all(one.share.difference.value == 0 for one in found.by_depth)
    assert [one.share.value for one in found.by_outcome][2:] == [0.0, 0.0]
