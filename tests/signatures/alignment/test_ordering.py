"""The order of tasks is that of the best drawing of the average-linkage tree."""

from __future__ import annotations

import numpy as np
import pytest

from reference.ordering import average_linkage, drawings, leaves, length
from unembed.signatures.alignment.ordering import dendrogram, dendrogram_order


def symmetric(tasks: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).random((tasks, tasks))
    values = (values + values.T) / 2
    np.fill_diagonal(values, 1.0)
    return values


def members(tree: object, merge: int) -> frozenset[int]:
    """The tasks of a group of a ``Dendrogram``."""
    tasks = len(tree.order)
    if merge < tasks:
        return frozenset([merge])
    made = tree.merges[merge - tasks]
    return members(tree, made.left) | members(tree, made.right)


@pytest.mark.parametrize("tasks", [2, 3, 5, 8, 10])
@pytest.mark.parametrize("seed", range(4))
def test_equals_trying_everything(tasks: int, seed: int) -> None:
    similarity = symmetric(tasks, seed)
    apart = (1 - similarity).tolist()
    found = dendrogram(similarity)
    tree, distances = average_linkage(apart)
    # The means are of the same numbers in another order of summing.
    np.testing.assert_allclose([m.distance for m in found.merges], distances, rtol=0, atol=1e-12)
    groups = {members(found, tasks + k) for k in range(tasks - 1)}
    expected = set()
    todo = [tree]
    while todo:
        one = todo.pop()
        if not isinstance(one, int):
            expected.add(frozenset(leaves(one)))
            todo += one
    assert groups == expected
    assert [m.size for m in found.merges] == [
        len(members(found, tasks + k)) for k in range(tasks - 1)
    ]
    every = drawings(tree)
    order = found.order.tolist()
    assert order in every
    best = min(length(one, apart) for one in every)
    assert length(order, apart) == pytest.approx(best, abs=1e-12)
    assert order[0] < order[-1]


def test_clusters_stand_together_and_groups_are_contiguous() -> None:
    rng = np.random.default_rng(3)
    labels = rng.permutation(np.repeat(np.arange(4), 12))
    similarity = np.where(labels[:, None] == labels, 0.8, 0.1) + symmetric(48, 4) * 0.05
    found = dendrogram(similarity)
    assert sorted(found.order) == list(range(48))
    shown = labels[found.order]
    assert (shown[1:] != shown[:-1]).sum() == 3
    place = np.argsort(found.order)
    for k, merge in enumerate(found.merges):
        places = sorted(place[task] for task in members(found, 48 + k))
        assert places == list(range(places[0], places[0] + merge.size))
    distances = [merge.distance for merge in found.merges]
    assert distances == sorted(distances)


def test_a_pair_without_a_similarity_is_far() -> None:
    similarity = symmetric(7, 1)
    similarity[2, :] = similarity[:, 2] = np.nan
    similarity[2, 2] = 1.0
    found = dendrogram(similarity)
    last = found.merges[-1]
    assert 2 in (last.left, last.right)
    assert last.distance == 1.0
    assert 2 in (found.order[0], found.order[-1])
    lowest = similarity.copy()
    lowest[0, 1] = lowest[1, 0] = -0.5
    assert dendrogram(lowest).merges[-1].distance == 1.5
    assert sorted(dendrogram_order(np.full((5, 5), np.nan))) == [0, 1, 2, 3, 4]


def test_a_chain_of_many_tasks() -> None:
    # Each task is nearest to those before it, so that the tree is as deep as it can be.
    steps = np.cumsum(1.0 + 0.001 * np.arange(150) ** 2)
    apart = np.abs(steps[:, None] - steps)
    found = dendrogram(1 - apart / apart.max())
    assert found.order.tolist() == list(range(150))
    assert dendrogram_order(np.ones((1, 1))).tolist() == [0]


def test_names_of_tasks_do_not_matter() -> None:
    similarity = symmetric(9, 8)
    shuffle = np.random.default_rng(0).permutation(9)
    order = dendrogram_order(similarity)
    moved = shuffle[dendrogram_order(similarity[np.ix_(shuffle, shuffle)])]
    assert moved.tolist() in (order.tolist(), order[::-1].tolist())


def test_refuses_what_is_no_similarity() -> None:
    skewed = symmetric(4, 0)
    skewed[0, 1] += 0.1
    with pytest.raises(ValueError, match="not symmetric"):
        dendrogram(skewed)
