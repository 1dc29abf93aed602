from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from made_up.heads import random_head
from unembed.decisions.audit.bfloat16 import bfloat16_rounding, rounding_step, top_logit
from unembed.decisions.audit.finite_rows import FiniteRows
from unembed.decisions.measure import ColumnChoice, measure
from unembed.head.precision import Precision


def rounding_of(best, margin, top):
    """The shares of these positions, a document each, whose top-1 has all of the probability."""
    columns = {
        "doc": np.arange(len(top)),
        **{"top1": best[0], "top2": best[1], "margin": margin, "logsumexp": top},
        "confidence": np.ones(len(top)),
    }
    rows = FiniteRows.of(lambda names: [{name: columns[name] for name in names}], ("margin",))
    return bfloat16_rounding(rows, resamples=2)


def step_oracle(logit):
    """By counting: the power of two at or below the logit, over 2 ** 7."""
    power = Fraction(1)
    while power > abs(Fraction(logit)):
        power /= 2
    while 2 * power <= abs(Fraction(logit)):
        power *= 2
    return power / 128


def rounded_oracle(logit):
    """The nearest whole number of steps, halves to the even one, in exact arithmetic."""
    step = step_oracle(logit) if logit else Fraction(1)
    return round(Fraction(logit) / step) * step


LOGITS = st.floats(-100, 100, width=32).filter(lambda one: abs(one) > 1e-3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(LOGITS, st.floats(0, 1, width=32), st.booleans()), min_size=1))
def test_ties_and_steps_are_those_of_exact_arithmetic(drawn):
    top, margin = (np.array([one[at] for one in drawn]) for at in (0, 1))
    lower_id = np.array([one[2] for one in drawn])
    second = (top - margin).astype(np.float32).tolist()
    best = (np.full(len(drawn), 5), np.where(lower_id, 3, 7))
    found = rounding_of(best, margin, top)
    tied = [rounded_oracle(a) == rounded_oracle(b) for a, b in zip(top, second, strict=True)]
    below = [m < step_oracle(a) for m, a in zip(margin, top, strict=True)]
    assert rounding_step(top).tolist() == [float(step_oracle(one)) for one in top]
    assert found.within_step.value == pytest.approx(np.mean(below))
    assert found.tied.value == pytest.approx(np.mean(tied))
    assert found.changed.value == pytest.approx(np.mean(np.array(tied) & lower_id))


def test_no_tie_is_wider_than_a_step_and_spread_evenly_half_a_step_ties():
    generator = np.random.default_rng(0)
    top = generator.uniform(16, 32, 40_000)
    margin = generator.uniform(0, 0.25, 40_000)
    best = (np.zeros(40_000, dtype=int), np.ones(40_000, dtype=int))
    found = rounding_of(best, margin, top)
    assert found.within_step.value == pytest.approx(0.5, abs=0.01)
    assert found.tied.value == pytest.approx(0.25, abs=0.01)
    assert found.changed.value == 0


def test_a_logit_of_zero_has_the_smallest_step_and_nothing_is_a_reason():
    assert rounding_step(np.zeros(1))[0] == torch.finfo(torch.bfloat16).tiny / 128
    none = rounding_of((np.zeros(0, dtype=int),) * 2, np.zeros(0), np.zeros(0))
    assert none.changed.value is None
    assert none.changed.reason == "no position to average over"


@pytest.mark.parametrize("vocab", [3, 127, 1009])
def test_what_the_table_tells_is_what_the_bfloat16_head_decides(vocab):
    head, hidden, targets = random_head(vocab, 16, 4_000, dtype=torch.bfloat16)
    columns = measure(
        hidden, head, targets, ColumnChoice(native_head=True), Precision.probe(head.weight)
    )
    top = top_logit(columns["logsumexp"], columns["confidence"])
    assert np.abs(top - columns["topk_logits"][:, 0]).max() < 1e-4
    best = (columns["top1"], columns["top2"])
    told = rounding_of(best, columns["margin"], top)
    changed = columns["native_top1"] != columns["top1"]
    assert changed.any()
    assert told.tied.value == pytest.approx((columns["native_margin"] == 0).mean(), abs=1e-3)
    assert math.isclose(told.changed.value, changed.mean(), abs_tol=2e-3)
