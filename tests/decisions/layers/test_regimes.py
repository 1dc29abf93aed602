from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_up.layers import made_stack
from reference.forming import clearest_rise, share_of_orders
from unembed.decisions.layers.depth_rows import PENALTIES, depth_rows
from unembed.decisions.layers.regimes import (
    Regimes,
    clearest,
    regimes,
    shuffled_p,
    sign_of,
)
from unembed.runs.record import record_from_json, record_to_json
from unembed.stats.estimate import Estimate

HOW = {"resamples": 200, "seed": 3}
RHOS = st.lists(st.integers(-9, 9).map(lambda i: i / 10), min_size=2, max_size=6)


@settings(max_examples=60, deadline=None)
@given(RHOS)
def test_the_clearest_rise_and_its_share_of_orders_equal_plain_loops(rho):
    rises = clearest(np.array([rho]))[0]
    wanted, place = clearest_rise(rho)
    assert rises.max() == pytest.approx(wanted, abs=1e-12)
    assert rises[place - 1] == pytest.approx(wanted, abs=1e-12)
    p, orders, exact = shuffled_p(np.array(rho), seed=0)
    assert exact
    assert orders == math.factorial(len(rho))
    assert p == pytest.approx(share_of_orders(rho))


def test_drawn_orders_are_near_all_of_them(monkeypatch):
    rho = np.array([0.1, -0.2, -0.3, 0.0, 0.5, 0.2, 0.8])
    whole, orders, _ = shuffled_p(rho, seed=0)
    monkeypatch.setattr("unembed.decisions.layers.regimes.EXACT_DEPTHS", 3)
    drawn, draws, exact = shuffled_p(rho, seed=0)
    assert (orders, draws, exact) == (5040, 20_000, False)
    assert drawn == pytest.approx(whole, abs=0.006)


def with_rho(wanted, documents=60, lens="normed", seed=0):
    """A stack whose cosine penalty has about this rho with the final loss at each depth."""
    stack = made_stack(documents, blocks=len(wanted) - 1, seed=seed, lens=lens)
    rng = np.random.default_rng(seed)
    ranks = stack.final_nll.argsort().argsort() / stack.n - 0.5
    loss = ranks / ranks.std()
    rows = [
        part * loss + math.sqrt(max(0.0, 1 - part**2)) * rng.normal(size=stack.n) for part in wanted
    ]
    return dataclasses.replace(stack, cosine_penalty=np.stack(rows).astype(np.float32))


PUBLISHED = (0.0, 0.0, 0.0, -0.3, -0.35, -0.3, -0.3, 0.4, 0.85)


def test_the_published_regimes_are_found_where_they_are():
    stacks = {"normed": with_rho(PUBLISHED, 800), "raw": with_rho((0.8,) * 9, 100, "raw")}
    found = regimes(stacks, **HOW)
    normed, raw = (one.of("cosine") for one in found.lenses)
    assert (normed.early, normed.middle, normed.late) == ("appears", "appears", "appears")
    assert (raw.early, raw.middle, raw.late) == ("does not appear", "does not appear", "appears")
    assert found.lenses_where("cosine", "middle") == ("normed",)
    assert found.lenses_where("cosine", "middle", "does not appear") == ("raw",)
    assert found.lenses_that_turn("cosine") == ("normed",)
    [turn] = normed.sign_turns[-1:]
    assert (turn.before, turn.after) == (6, 7)
    assert (turn.sign_before, turn.sign_after) == ("negative", "positive")
    assert raw.sign_turns == ()
    assert [one.sign for one in normed.by_depth][3:] == ["negative"] * 4 + ["positive"] * 2
    place = normed.turn
    assert (place.before, place.depth.value) == (6, 7)
    assert place.depth.low == place.depth.high == 7
    assert place.rise.low < place.rise.value < place.rise.high
    assert place.survives
    assert place.least_p == 1 / math.comb(9, 7)
    assert place.p >= place.least_p - 0.005
    assert not raw.turn.survives
    assert record_from_json(Regimes, record_to_json(found)) == found


def test_early_ends_with_the_depth_at_a_quarter_of_the_blocks():
    rho = (0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.8)
    found = regimes({"normed": with_rho(rho, 400)}, **HOW).lenses[0].of("cosine")
    assert found.early == "does not appear"
    found = regimes({"normed": with_rho((*rho[:2], 0.0, 0.5, *rho[4:]), 400)}, **HOW)
    assert found.lenses[0].of("cosine").early != "does not appear"


def test_a_weak_positive_end_is_no_late_regime():
    last = regimes({"normed": with_rho((0.0,) * 4 + (0.3,), 400)}, **HOW).lenses[0].of("cosine")
    assert last.by_depth[-1].sign == "positive"
    assert last.late == "does not appear"


def test_a_rise_at_the_last_depth_alone_does_not_survive_a_shuffle():
    found = regimes({"normed": with_rho((0.0,) * 8 + (0.8,), 100)}, **HOW).lenses[0].of("cosine")
    assert found.turn.depth.value == 8
    assert found.turn.least_p == pytest.approx(1 / 9)
    assert not found.turn.survives


def test_rhos_are_those_of_the_depth_rows():
    stack = made_stack(20, blocks=3, seed=5)
    rows, found = depth_rows(stack, **HOW), regimes({"normed": stack}, **HOW).lenses[0]
    assert (found.lens, found.n, found.documents) == ("normed", stack.n, 20)
    for k, name in enumerate(PENALTIES):
        for one, row in zip(found.of(name).by_depth, rows, strict=True):
            assert one.depth == row.depth
            assert one.rho == row.correlations[k].with_final
            assert one.together.low <= one.rho.low < one.rho.high <= one.together.high
            assert one.sign == sign_of(one.together)


def test_signs_are_read_from_intervals_alone():
    signs = {
        (0.05, 0.2): "positive",
        (-0.3, -0.01): "negative",
        (-0.08, 0.09): "about zero",
        (-0.08, 0.11): "unclear",
        (-0.2, 0.05): "unclear",
    }
    for (low, high), sign in signs.items():
        assert sign_of(Estimate((low + high) / 2, low, high)) == sign
    assert sign_of(Estimate(0.9)) == "unclear"
    assert sign_of(Estimate(None, reason="no position")) == "unclear"


def test_one_document_constant_columns_and_few_depths_have_reasons():
    alone = made_stack(1, blocks=2, seed=2)
    found = regimes({"normed": alone}, **HOW).lenses[0].of("margin")
    assert (found.early, found.middle, found.late) == ("undecided",) * 3
    assert found.turn.depth.low is None
    assert found.turn.rise.low is None
    still = dataclasses.replace(alone, fisher_penalty=np.ones_like(alone.fisher_penalty))
    none = regimes({"normed": still}, **HOW).lenses[0].of("fisher")
    assert none.turn is None
    assert none.turn_reason == "a turn needs a correlation at 2 depths, got 0"
    assert none.by_depth[0].sign == "unclear"
    last = regimes({"raw": made_stack(5, blocks=2, depths=(2,))}, **HOW).lenses[0].of("cosine")
    assert (last.early, last.middle) == ("not measured",) * 2
    assert "at 2 depths, got 1" in last.turn_reason
    empty = regimes({"normed": alone.rows(np.zeros(alone.n, dtype=bool))}, **HOW)
    assert empty.lenses[0].of("cosine").by_depth[0].rho.value is None
