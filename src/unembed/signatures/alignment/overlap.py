"""Which tasks share inputs, from the smallest hashes of their documents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from unembed.signatures.kin import sharing
from unembed.signatures.state import State
from unembed.signatures.sums import HASHES


def shared_inputs(states: Sequence[State]) -> Bool[np.ndarray, "tasks tasks"]:
    """Whether two tasks have a document in common, as far as their 64 smallest hashes tell.

    True of a task and itself. Hashes of 64 bits do not agree by chance. Two tasks that have a share
    J of all their documents in common are missed with a probability of about ``(1 - J)^64``: 4 % at
    J = .05; what so small an overlap does to a product is as small.
    """
    return sharing([state.hashes for state in states]) | np.eye(len(states), dtype=bool)


def shared_part(state: State, other: State) -> float:
    """The part of one task's documents that another has too, from their smallest hashes.

    Those up to the smaller of the two tasks' largest are all that either has of so small ones: of
    these it is exact, and of all of them an estimate.
    """
    if not len(state.hashes) or not len(other.hashes):
        return 0.0
    whole = [int(one.hashes.max()) for one in (state, other) if len(one.hashes) >= HASHES]
    known = state.hashes[state.hashes <= min(whole)] if whole else state.hashes
    return float(np.isin(known, other.hashes).mean()) if len(known) else 0.0
