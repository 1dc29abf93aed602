from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from made_up.layers import made_stack
from unembed.decisions.audit.gap import fit_gap
from unembed.decisions.layers.depth_rows import PENALTIES, depth_rows
from unembed.decisions.layers.stack import LensStack
from unembed.runs.record import record_from_json, record_to_json
from unembed.stats.rank_correlation import spearman_estimates
from unembed.stats.resampled import quantile_estimates

HOW = {"resamples": 60, "seed": 3}


@pytest.fixture(scope="module")
def stack() -> LensStack:
    return made_stack(9, blocks=4, seed=1)


def test_every_figure_of_a_depth_is_that_of_its_columns_alone(stack):
    inverse, documents = stack.clusters
    for i, row in enumerate(depth_rows(stack, **HOW)):
        assert (row.depth, row.n, row.documents) == (stack.depths[i], stack.n, 9)
        means = {
            "accuracy": stack.top1[i] == stack.target,
            "agreement": stack.top1[i] == stack.final_top1,
            "nll_nats": stack.nll[i],
            "entropy_nats": stack.entropy[i],
            "kl_nats": stack.kl_final[i],
            "acceptance": stack.acceptance[i],
        }
        for name, column in means.items():
            found = getattr(row, name)
            assert found.value == pytest.approx(column.mean(), rel=1e-5), name
            assert found.low <= found.value <= found.high
        quantiles = {
            "5": (stack.margin, 0.05),
            "95": (stack.margin, 0.95),
        }
        for key, (column, level) in quantiles.items():
            [alone] = quantile_estimates(column[i], inverse, documents, [level], **HOW)
            assert row.margin_quantiles[key] == alone
        ranks = stack.final_rank[i].astype(float)
        [rank] = quantile_estimates(ranks, inverse, documents, [0.5], **HOW)
        assert row.median_final_rank == rank
        [distance] = quantile_estimates(
            stack.relative_distance[i], inverse, documents, [0.5], **HOW
        )
        assert row.median_relative_distance == distance
        assert row.gap == fit_gap(stack.margin[i], stack.doc, **HOW)
        columns = (stack.cosine_penalty[i], stack.fisher_penalty[i], -stack.margin[i])
        final = spearman_estimates(columns, stack.final_nll, inverse, documents, **HOW)
        own = spearman_estimates(columns, stack.nll[i], inverse, documents, **HOW)
        assert [one.penalty for one in row.correlations] == list(PENALTIES)
        for one, with_final, with_own in zip(row.correlations, final, own, strict=True):
            for found, alone in ((one.with_final, with_final), (one.with_own, with_own)):
                assert found.value == alone.value
                assert found.low < found.value < found.high


def test_the_last_depth_is_the_model_itself(stack):
    last = depth_rows(stack, **HOW)[-1]
    assert last.agreement.value == 1
    assert last.kl_nats.value == 0
    assert last.acceptance.value == pytest.approx(1)
    assert last.median_final_rank.value == 1
    for one in last.correlations:
        assert one.with_final == one.with_own


def test_rows_go_through_json(stack):
    row = depth_rows(stack, **HOW)[1]
    assert record_from_json(type(row), record_to_json(row)) == row


def test_what_cannot_be_said_has_a_reason():
    alone = made_stack(1, blocks=2)
    for row in depth_rows(alone, **HOW):
        assert row.accuracy.value is not None
        assert row.accuracy.low is None
        assert row.gap is None
        assert "too few" in row.gap_reason
        assert row.correlations[0].with_final.low is None
    empty = alone.rows(np.zeros(alone.n, dtype=bool))
    for row in depth_rows(empty, **HOW):
        assert row.n == 0
        assert row.accuracy.reason == "no position to average over"
        assert row.margin_quantiles["50"].value is None
        assert "needs 2 positions" in row.correlations[0].with_own.reason


def test_a_constant_penalty_has_no_correlation(stack):
    still = dataclasses.replace(stack, fisher_penalty=np.ones_like(stack.fisher_penalty))
    cosine, fisher, _ = depth_rows(still, **HOW)[2].correlations
    assert cosine.with_final.value is not None
    assert fisher.with_final.value is None
    assert "the same at every position" in fisher.with_final.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depths": (0, 1, 2, 4, 3)}, "do not ascend"),
        ({"depths": (0, 1, 2, 3, 5)}, "do not ascend"),
        ({"depths": (1, 2, 3, 4)}, "has shape"),
    ],
)
def test_columns_that_do_not_fit_are_refused(stack, change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(stack, **change)


def test_numbers_that_are_not_finite_and_positions_out_of_order_are_refused(stack):
    margin = stack.margin.copy()
    margin[2, 5] = np.nan
    with pytest.raises(ValueError, match="column margin holds a number that is not finite"):
        dataclasses.replace(stack, margin=margin)
    with pytest.raises(ValueError, match="not in order"):
        stack.rows(np.arange(stack.n)[::-1])
    with pytest.raises(ValueError, match="not in order"):
        stack.rows(np.array([0, 1, 1, 2]))
