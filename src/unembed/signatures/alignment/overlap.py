"""Which tasks share inputs, from the smallest hashes of their documents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from unembed.signatures.kin import sharing
from unembed.signatures.state import State


def shared_inputs(states: Sequence[State]) -> Bool[np.ndarray, "tasks tasks"]:
    """Whether two tasks have a document in common, as far as their 64 smallest hashes tell.

    True of a task and itself. Hashes of 64 bits do not agree by chance. Two tasks that have a share
    J of all their documents in common are missed with a probability of about ``(1 - J)^64``: 4 % at
    J = .05; what so small an overlap does to a product is as small.
    """
    return sharing([state.hashes for state in states]) | np.eye(len(states), dtype=bool)
