"""A depth's distribution beside the final one, one position and one token after the other."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor


def beside_final(final: Tensor, own_logits: Tensor) -> dict[str, list[Any]]:
    """The rank of the final top-1 in a depth's logits, KL(final‖depth) and sum of min(p, q).

    Of all logits of both, minus infinity where a row of the head is no token.
    """
    found: dict[str, list[Any]] = {"final_rank": [], "kl_final": [], "acceptance": []}
    for last, own in zip(final.tolist(), own_logits.tolist(), strict=True):
        tokens = [v for v in range(len(own)) if own[v] > -math.inf]
        log_p, log_q = (log_probabilities(some, tokens) for some in (last, own))
        top = max(tokens, key=lambda v: (last[v], -v))
        found["final_rank"].append(1 + sum(own[v] > own[top] for v in tokens))
        found["kl_final"].append(
            math.fsum(math.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True))
        )
        found["acceptance"].append(
            math.fsum(math.exp(min(a, b)) for a, b in zip(log_p, log_q, strict=True))
        )
    return found


def log_probabilities(logits: list[float], tokens: list[int]) -> list[float]:
    """Those of the tokens."""
    top = max(logits[v] for v in tokens)
    logsumexp = top + math.log(math.fsum(math.exp(logits[v] - top) for v in tokens))
    return [logits[v] - logsumexp for v in tokens]
