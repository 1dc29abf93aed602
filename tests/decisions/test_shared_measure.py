from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from made_up.heads import random_head
from made_up.peers import ThreadPeers, at_peers, shared_head
from unembed.decisions.facets import facet_distance
from unembed.decisions.measure import ColumnChoice, measure
from unembed.decisions.native import native_top1
from unembed.head.head import Head
from unembed.head.precision import Precision

EVERYTHING = ColumnChoice(top_k=5, facets=True, native_head=True)
SUMS = {"nll", "entropy", "logsumexp", "sum_p2", "native_nll", "confidence"}

Columns = dict[str, Any]


@pytest.mark.parametrize("counts", [[3000], [1500, 1500], [999, 1, 2000], [512, 512, 512, 1464]])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"bias": True, "scale": 0.5, "softcap": 30.0, "padded": 1700},
        {"dtype": torch.bfloat16, "bias": True},
    ],
    ids=["plain", "all-padded", "bfloat16"],
)
def test_every_column_of_an_audit_is_that_of_the_whole_head(
    how: dict[str, Any], counts: list[int]
) -> None:
    head, hidden, targets = random_head(3000, 24, 150, **how)
    precision = Precision.probe(head.weight)
    whole = measure(hidden, head, targets, EVERYTHING, precision)

    def work(peers: ThreadPeers) -> Columns:
        return measure(hidden, shared_head(head, peers, counts), targets, EVERYTHING, precision)

    first, *others = at_peers(len(counts), work)
    for other in others:
        for name, column in first.items():
            np.testing.assert_array_equal(column, other[name], name)
    assert first.keys() == whole.keys()
    for name, column in whole.items():
        if name in SUMS:
            np.testing.assert_allclose(first[name], column, rtol=1e-6, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(first[name], column, name)


def test_equal_facets_and_rounded_logits_go_to_the_lowest_id() -> None:
    """Rows that repeat in every share: their facets are as far, their rounded logits as large."""
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 6, generator=g).repeat(30, 1).to(torch.bfloat16)
    weight[:40] *= 2
    head, hidden = Head.from_parts(weight), torch.randn(64, 6, generator=g).to(torch.bfloat16)
    precision = Precision.probe(weight)
    top1 = torch.arange(64) % 40
    token, distance = facet_distance(hidden, head, top1, precision)
    rounded = native_top1(hidden, head)
    assert int(token[token >= 40].max()) < 80

    def work(peers: ThreadPeers) -> None:
        held = shared_head(head, peers, [700, 500])
        there, far = facet_distance(hidden, held, top1, precision)
        assert torch.equal(there, token)
        assert torch.equal(far, distance)
        assert torch.equal(native_top1(hidden, held), rounded)

    at_peers(2, work)
