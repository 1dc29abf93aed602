from __future__ import annotations

import dataclasses
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_up.layers import made_stack, stack_of
from reference.forming import mean_if_independent, settled_depth
from unembed.decisions.layers.settling import settled_depths, settling
from unembed.decisions.tokens import CLASSES, FREQUENCY_NAMES, frequency_buckets
from unembed.runs.record import record_from_json, record_to_json

HOW = {"resamples": 80, "seed": 5}


def groups(stack, seed=0):
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, len(CLASSES), stack.n).astype(np.int8)
    return classes, frequency_buckets(stack.target)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_settling_depths_are_those_of_the_definition(data):
    depths = tuple(sorted(data.draw(st.sets(st.integers(0, 6), max_size=5)) | {7}))
    stack = made_stack(3, blocks=7, depths=depths, seed=data.draw(st.integers(0, 99)), vocab=3)
    found = settled_depths(stack)
    for i in range(stack.n):
        wanted = settled_depth(stack.top1[:, i].tolist(), int(stack.final_top1[i]), depths)
        assert found[i] == wanted


@pytest.mark.parametrize("depths", [None, (0, 2, 5)])
def test_figures_equal_plain_counts(depths):
    stack = made_stack(9, blocks=5, depths=depths, seed=2, vocab=4)
    classes, buckets = groups(stack)
    found = settling(stack, classes, buckets, **HOW)
    at = settled_depths(stack)
    assert (found.lens, found.depths, found.blocks) == ("normed", stack.depths, 5)
    assert (found.n, found.documents) == (stack.n, 9)
    assert found.every_depth == (depths is None)
    assert found.scope == ("" if depths is None else "of the 3 measured depths")
    assert found.mean.value == pytest.approx(at.mean())
    assert found.mean.low < found.mean.value < found.mean.high
    for key, one in found.quantiles.items():
        assert one.value == np.quantile(at, int(key) / 100)
    for one in found.by_depth:
        assert one.share.value == pytest.approx((at == one.depth).mean())
        assert one.by_then.value == pytest.approx((at <= one.depth).mean())
    assert found.by_depth[-1].by_then.value == 1
    assert found.by_depth[-1].by_then_if_independent.value == 1
    for marks, some in ((classes, found.by_class), (buckets, found.by_frequency)):
        for number, group in enumerate(some):
            inside = marks == number
            assert group.share.value == pytest.approx(inside.mean())
            if inside.any():
                assert group.mean.value == pytest.approx(at[inside].mean())
                assert group.mean.n == inside.sum()
            else:
                assert group.mean.value is None
    assert [one.name for one in found.by_frequency] == list(FREQUENCY_NAMES)
    right = stack.final_top1 == stack.target
    assert [one.mean.value for one in found.by_outcome] == pytest.approx(
        [at[right].mean(), at[~right].mean()]
    )
    assert found.wrong_less_right.value == pytest.approx(at[~right].mean() - at[right].mean())
    rates = (stack.top1 == stack.final_top1).mean(axis=1).tolist()
    control = mean_if_independent(rates, stack.depths)
    assert found.mean_if_independent.value == pytest.approx(control)
    assert found.earlier.value == pytest.approx(control - at.mean())
    assert found.unsettled.value == 0
    assert record_from_json(type(found), record_to_json(found)) == found


def test_what_a_lens_never_reads_settles_where_the_model_decides():
    stack = made_stack(6, blocks=3, seed=4, lens="raw")
    other = stack.top1.copy()
    other[-1, ::2] = -1
    found = settling(dataclasses.replace(stack, top1=other), *groups(stack), **HOW)
    assert found.unsettled.value == pytest.approx((np.arange(stack.n) % 2 == 0).mean())
    at = settled_depths(dataclasses.replace(stack, top1=other))
    assert (at[::2] == 3).all()
    assert found.mean.value == pytest.approx(at.mean())
    assert found.by_depth[-1].by_then_if_independent.value == 1
    rates = (other == stack.final_top1).mean(axis=1)
    before_last = found.by_depth[-2].by_then_if_independent
    assert before_last.value == pytest.approx(rates[-1] * rates[-2])


def test_the_control_is_the_truth_where_depths_agree_independently():
    stack, rng = made_stack(200, blocks=3, seed=6), np.random.default_rng(0)
    agrees = rng.random((4, stack.n)) < np.array([0.3, 0.5, 0.8, 1.0])[:, None]
    top1 = np.where(agrees, stack.final_top1, -1)
    found = settling(dataclasses.replace(stack, top1=top1), *groups(stack), **HOW)
    assert found.earlier.low < 0 < found.earlier.high
    assert abs(found.earlier.value) < 0.05
    # What agrees at all depths or none settles sooner than chance has it.
    together = np.where(rng.random(stack.n) < 0.5, stack.final_top1, np.full((4, stack.n), -1))
    together[-1] = stack.final_top1
    found = settling(dataclasses.replace(stack, top1=together), *groups(stack), **HOW)
    assert found.earlier.low > 0.5


def test_one_document_no_position_and_one_outcome_have_reasons():
    alone = made_stack(1, blocks=2, seed=1)
    found = settling(alone, *groups(alone), **HOW)
    assert found.mean.value is not None
    assert found.mean.low is None
    assert found.mean_if_independent.low is None
    assert found.wrong_less_right.low is None
    empty = alone.rows(np.zeros(alone.n, dtype=bool))
    none = settling(empty, *groups(empty), **HOW)
    assert none.mean.reason == "no position to average over"
    assert none.earlier.value is None
    assert none.wrong_less_right.value is None
    right = dataclasses.replace(alone, target=alone.final_top1)
    same = settling(right, *groups(alone), **HOW)
    assert same.wrong_less_right.reason == "every decision is right"
    assert same.by_outcome[1].mean.value is None


@pytest.mark.slow
@pytest.mark.parametrize("documents", [10, 60])
def test_the_interval_of_the_mean_holds_the_truth_of_clustered_positions(documents):
    """Settling depths around 2, half of whose variance is their document's."""
    edges, law = np.arange(-0.5, 4), NormalDist(2.0, np.sqrt(2.0))
    cumulative = np.array([law.cdf(edge + 1) for edge in edges[:-1]] + [1.0])
    truth = float(np.diff(cumulative, prepend=0) @ np.arange(5))
    held, runs = 0, 300
    for seed in range(runs):
        rng = np.random.default_rng([seed, documents])
        sizes = np.maximum(2, rng.lognormal(3.0, 0.8, documents)).astype(int)
        doc = np.repeat(np.arange(documents), sizes)
        at = 2 + rng.normal(size=documents)[doc] + rng.normal(size=doc.size)
        at = np.clip(np.round(at), 0, 4)
        decided = np.ones(doc.size, dtype=int)
        stack = stack_of(doc, np.where(np.arange(5)[:, None] >= at, 1, -1), decided)
        one = settling(stack, *groups(stack), resamples=300, seed=seed).mean
        held += one.low <= truth <= one.high
    assert 0.905 <= held / runs <= 0.995, held / runs
