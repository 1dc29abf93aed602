"""Average linkage and the best order of leaves, by trying everything."""

from __future__ import annotations

import itertools

Tree = int | tuple["Tree", "Tree"]


def leaves(tree: Tree) -> list[int]:
    return [tree] if isinstance(tree, int) else leaves(tree[0]) + leaves(tree[1])


def average_linkage(apart: list[list[float]]) -> tuple[Tree, list[float]]:
    """The tree and the distance of each merge; every mean is taken over the pairs anew."""
    groups: list[Tree] = list(range(len(apart)))
    distances = []
    while len(groups) > 1:
        found = []
        for a, b in itertools.combinations(groups, 2):
            pairs = [apart[i][j] for i in leaves(a) for j in leaves(b)]
            found.append((sum(pairs) / len(pairs), a, b))
        distance, a, b = min(found, key=lambda one: one[0])
        distances.append(distance)
        groups = [group for group in groups if group not in (a, b)] + [(a, b)]
    return groups[0], distances


def drawings(tree: Tree) -> list[list[int]]:
    """Every order in which the tree can be drawn."""
    if isinstance(tree, int):
        return [[tree]]
    both = list(itertools.product(drawings(tree[0]), drawings(tree[1])))
    return [a + b for a, b in both] + [b + a for a, b in both]


def length(order: list[int], apart: list[list[float]]) -> float:
    return sum(apart[i][j] for i, j in itertools.pairwise(order))
