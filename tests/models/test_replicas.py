from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch
from torch import nn

from unembed.models.replicas import replicas_of, side_by_side


def test_replicas_share_parameters_and_own_their_buffers(llama: Any) -> None:
    first, second = replicas_of(llama, 2)
    assert first is llama
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    assert pairs
    assert all(a is b for a, b in pairs)
    buffers = list(zip(first.buffers(), second.buffers(), strict=True))
    assert buffers
    assert all(a is not b and torch.equal(a, b) for a, b in buffers)
    assert len({id(m) for m in first.modules()} & {id(m) for m in second.modules()}) == 0


def test_a_model_that_cannot_be_copied_works_alone() -> None:
    model = nn.Linear(2, 2)
    model.lock = threading.Lock()  # type: ignore[assignment]
    assert replicas_of(model, 3) == [model]


def test_results_come_in_order_and_no_model_is_used_twice_at_a_time() -> None:
    models = [nn.Identity() for _ in range(3)]
    busy: dict[int, threading.Lock] = {id(model): threading.Lock() for model in models}
    used: set[int] = set()

    def work(model: nn.Module, item: int) -> tuple[int, int]:
        assert busy[id(model)].acquire(blocking=False)
        used.add(id(model))
        time.sleep(0.002 * (item % 3))
        busy[id(model)].release()
        return item, torch.get_num_threads()

    before = torch.get_num_threads()
    assert list(side_by_side(models, work, iter(range(20)))) == [(i, 1) for i in range(20)]
    assert torch.get_num_threads() == before
    assert len(used) > 1
    alone = side_by_side(models[:1], lambda _model, _item: torch.get_num_threads(), [0])
    assert list(alone) == [before]


def test_threads_are_shared_out_among_the_workers() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(6)
        seen = side_by_side([0, 1], lambda _worker, _item: torch.get_num_threads(), range(4))
        assert set(seen) == {3}
        assert torch.get_num_threads() == 6
    finally:
        torch.set_num_threads(before)


def test_a_failure_stops_the_rest_and_is_raised() -> None:
    done: list[int] = []

    def work(_model: nn.Module, item: int) -> int:
        if item == 4:
            raise ValueError("the fourth")
        done.append(item)
        return item

    with pytest.raises(ValueError, match="the fourth"):
        list(side_by_side([nn.Identity()], work, range(1000)))
    assert len(done) < 20


def test_only_a_few_items_are_taken_ahead() -> None:
    taken: list[int] = []

    def items() -> Any:
        for item in range(100):
            taken.append(item)
            yield item

    results = side_by_side([nn.Identity(), nn.Identity()], lambda _m, item: item, items())
    next(results)
    assert len(taken) <= 6
    results.close()  # type: ignore[attr-defined]
