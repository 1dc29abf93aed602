"""Samplers and speculative decoding, a token after the other."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Sampler = tuple[float, int | None, float]
"""Temperature, top-k, top-p."""


def processed(logits: list[float], sampler: Sampler) -> list[float]:
    """The distribution that a sampler draws from: temperature, then top-k, then top-p."""
    temperature, top_k, top_p = sampler
    scores = [logit / temperature for logit in logits]
    best = sorted(range(len(scores)), key=lambda v: (-scores[v], v))
    kept = [v for v in best if scores[v] > -math.inf]
    if top_k is not None and top_k < len(kept):
        last = scores[kept[top_k - 1]]
        kept = [v for v in kept if scores[v] >= last]
    mass = {v: math.exp(scores[v] - scores[kept[0]]) for v in kept}
    total = math.fsum(mass.values())
    nucleus, before = [], 0.0
    for v in kept:
        if top_p < 1 and nucleus and before >= top_p * total:
            break
        nucleus.append(v)
        before += mass[v]
    total = math.fsum(mass[v] for v in nucleus)
    return [mass[v] / total if v in set(nucleus) else 0.0 for v in range(len(scores))]


def acceptance(p: list[float], q: list[float]) -> float:
    """The chance that a token drawn from q is accepted for p."""
    return math.fsum(min(a, b) for a, b in zip(p, q, strict=False))


def rounds(chances: list[float], drafted: int) -> tuple[float, float]:
    """Expected tokens and number of the rounds that fit into a run: every outcome of each round."""
    n = len(chances)
    begins = [1.0] + [0.0] * (n + drafted)
    tokens = total = 0.0
    for t in range(n):
        outcomes, reached = [], 1.0
        for at in range(t, t + drafted):
            chance = chances[at] if at < n else 0.0
            outcomes.append(reached * (1 - chance))
            reached *= chance
        outcomes.append(reached)
        for accepted, chance in enumerate(outcomes):
            begins[t + accepted + 1] += begins[t] * chance
        if t + drafted < n:
            total += begins[t]
            yields = sum(chance * (accepted + 1) for accepted, chance in enumerate(outcomes))
            tokens += begins[t] * yields
    return tokens, total


def speculative(
    target: Callable[[Tensor], Tensor],
    draft: Callable[[Tensor], Tensor],
    prompts: Tensor,
    new: int,
    drafted: int,
    seed: int,
) -> tuple[Tensor, list[list[int]]]:
    """Decode speculatively: the texts, and how many tokens each whole round of each yielded.

    ``target`` and ``draft`` give the distribution behind each token of padded rows. The text is
    drawn from the target's, whatever the draft (arXiv 2211.17192, algorithm 1). A round that might
    pass ``new`` tokens is not counted.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(weights: Tensor) -> int:
        return int(torch.multinomial(weights, 1, generator=generator))

    texts = [row.tolist() for row in prompts]
    stop = len(texts[0]) + new
    yields: list[list[int]] = [[] for _ in texts]
    while any(len(text) < stop for text in texts):
        going = [i for i, text in enumerate(texts) if len(text) < stop]
        more: dict[int, list[int]] = {i: [] for i in going}
        laws: dict[int, list[Tensor]] = {i: [] for i in going}
        for _ in range(drafted):
            q = draft(_padded([texts[i] + more[i] for i in going]))
            for row, i in enumerate(going):
                laws[i].append(q[row, len(texts[i]) + len(more[i]) - 1])
                more[i].append(drawn(laws[i][-1]))
        p = target(_padded([texts[i] + more[i] for i in going]))
        for row, i in enumerate(going):
            begin, taken = len(texts[i]), 0
            for token, q_law in zip(more[i], laws[i], strict=True):
                law = p[row, begin + taken - 1]
                if torch.rand((), generator=generator) * q_law[token] > law[token]:
                    last = drawn((law - q_law).clamp_min(0))
                    break
                taken += 1
            else:
                last = drawn(p[row, begin + drafted - 1])
            texts[i] += [*more[i][:taken], last]
            if begin + drafted + 1 <= stop:
                yields[i].append(taken + 1)
    return torch.tensor([text[:stop] for text in texts]), yields


def _padded(rows: list[list[int]]) -> Tensor:
    """Rows padded on the right, which a causal model does not see."""
    width = max(map(len, rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])
