from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from made_up.layers import made_stack
from reference.drafting import rounds
from unembed.decisions.layers.self_drafts import MOST_SELF_DRAFTED, self_drafts
from unembed.runs.record import record_from_json, record_to_json

HOW = {"resamples": 60, "seed": 4}


def test_drafts_equal_the_walk_of_every_outcome():
    stack = made_stack(6, blocks=4, depths=(0, 1, 3, 4), seed=2)
    found = self_drafts(stack, **HOW)
    assert [one.depth for one in found.by_depth] == [0, 1, 3]
    assert [one.cost for one in found.by_depth] == [0.0, 0.25, 0.75]
    inverse, documents = stack.clusters
    speeds = {}
    for i, one in enumerate(found.by_depth):
        for draft, column in ((one.sampled, stack.acceptance[i]), (one.greedy, stack.agrees[i])):
            a = float(column.mean())
            assert draft.acceptance.value == pytest.approx(a)
            assert len(draft.lengths) == MOST_SELF_DRAFTED
            for length in draft.lengths:
                g = length.drafted
                runs = [column[inverse == d].astype(float).tolist() for d in range(documents)]
                tokens, begun = np.sum([rounds(run, g) for run in runs], axis=0)
                assert length.tokens.value == pytest.approx(tokens / begun)
                alike = sum(a**j for j in range(g + 1))
                assert length.tokens_independent.value == pytest.approx(alike)
                speed = tokens / begun / (1 + g * one.depth / 4)
                assert length.speedup.value == pytest.approx(speed)
                if draft is one.sampled and one.depth:
                    speeds[one.depth, g] = speed
    best = max(speeds, key=speeds.get)
    found_best = found.best_sampled
    assert (found_best.depth.value, found_best.drafted.value) == best
    assert found_best.speedup.value == pytest.approx(speeds[best])
    assert found_best.depth.low <= found_best.depth.value <= found_best.depth.high
    assert record_from_json(type(found), record_to_json(found)) == found


def test_a_gap_in_the_text_ends_a_run():
    stack = made_stack(2, blocks=2, seed=1)
    whole = self_drafts(stack, **HOW).by_depth[1].sampled.lengths[3].tokens
    split = stack.pos + 5 * (stack.pos > 6)
    apart = self_drafts(dataclasses.replace(stack, pos=split), **HOW)
    assert apart.by_depth[1].sampled.lengths[3].tokens.value != whole.value


def test_a_depth_that_always_agrees_early_pays_and_one_that_never_does_does_not():
    stack = made_stack(12, blocks=8, depths=(1, 8), seed=3)
    sure = dataclasses.replace(stack, acceptance=np.ones_like(stack.acceptance))
    best = self_drafts(sure, **HOW).best_sampled
    assert best.pays
    assert best.drafted.value == MOST_SELF_DRAFTED
    assert best.speedup.value == pytest.approx(9 / 2)
    never = dataclasses.replace(stack, acceptance=np.zeros_like(stack.acceptance))
    none = self_drafts(never, **HOW).best_sampled
    assert none.pays is False
    assert none.speedup.value == pytest.approx(1 / (1 + 1 / 8))


def test_nothing_to_draft_with_and_too_short_texts_have_reasons():
    stack = made_stack(3, blocks=2, depths=(0, 2))
    found = self_drafts(stack, **HOW)
    assert "no depth between" in found.best_greedy.depth.reason
    assert found.best_greedy.pays is None
    short = made_stack(3, blocks=2).rows(np.array([0]))
    lone = self_drafts(short, **HOW)
    assert "is that long" in lone.best_sampled.speedup.reason
    empty = self_drafts(stack.rows(np.zeros(stack.n, dtype=bool)), **HOW)
    assert empty.by_depth[0].sampled.acceptance.value is None
    alone = self_drafts(made_stack(1, blocks=2, seed=8), **HOW).best_sampled
    assert alone.speedup.value is not None
    assert alone.pays is None
