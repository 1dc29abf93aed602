"""What a sampler makes of logits, and how often a draft's token is accepted under it, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unembed.errors import UnembedError
from unembed.head.blocks import logit_blocks
from unembed.head.divergence import SweptModel
from unembed.head.product import TILE, pad_rows

HELD_LOGITS = 1 << 22
"""Logits of a model that are held at a time at most, 16 MiB; changes memory, never meaning."""

CANDIDATES = 256
"""The largest logits among which a nucleus is looked for first."""

LAST_STEP = 4_095
"""Of the steps of score, 16 a nat, in which a wider nucleus is looked for; it holds the rest."""


@dataclass(frozen=True)
class Sampling:
    """Temperature, then top-k, then top-p, as samplers take them.

    ``top_k`` None and ``top_p`` 1 leave a filter out.
    Raises UnembedError for a temperature or ``top_k`` of 0 or below and a ``top_p`` outside (0, 1].
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise UnembedError(
                f"temperature {self.temperature:g} is no number above 0: greedy decoding, its "
                "limit, is told anyway"
            )
        if self.top_k is not None and self.top_k < 1:
            raise UnembedError(f"top-k {self.top_k} keeps no token: give 1 or more")
        if not 0 < self.top_p <= 1:
            raise UnembedError(f"top-p {self.top_p:g} is outside (0, 1]: give a share such as 0.95")

    @staticmethod
    def read(text: str) -> Sampling:
        """From words such as ``T=0.8,top-k=50,top-p=0.95``, in any order.

        Raises UnembedError for other words, and as the record does.
        """
        given: dict[str, float | int] = {}
        for word in text.split(","):
            name, _, value = (part.strip() for part in word.partition("="))
            if name not in READS or READS[name][0] in given:
                raise UnembedError(f"{text!r} is no sampling: give T=0.8,top-k=50,top-p=0.95")
            field, kind = READS[name]
            try:
                given[field] = kind(value)
            except ValueError:
                raise UnembedError(
                    f"{word.strip()!r} in {text!r} is no number: give T=0.8,top-k=50,top-p=0.95"
                ) from None
        return Sampling(**given)  # type: ignore[arg-type]

    def __str__(self) -> str:
        words = [f"T = {self.temperature:g}"]
        if self.top_k is not None:
            words.append(f"top-k {self.top_k}")
        if self.top_p < 1:
            words.append(f"top-p {self.top_p:g}")
        return ", ".join(words)


READS: dict[str, tuple[str, type[float] | type[int]]] = {
    "T": ("temperature", float),
    "top-k": ("top_k", int),
    "top-p": ("top_p", float),
}
"""How the parts of a sampling are written, and what they are."""


def processed(
    logits: Float[Tensor, "rows vocab"], sampling: Sampling
) -> Float[Tensor, "rows vocab"]:
    """The distribution that a sampler draws from, as transformers' warpers make it in their order.

    Equivalent to::

        scores = logits / temperature
        scores[scores < scores.topk(top_k).values[:, -1:]] = -inf      # all that tie with the last
        p = scores.softmax(-1).sort(descending=True, stable=True)      # ties: the lowest id first
        keep each token before which the mass is below top_p, and so the first

    Where equal scores end a nucleus, transformers' choice among them is that of an unstable sort;
    here it is that of the lowest ids. Source: theory §4.
    """
    scores = logits / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < scores.shape[1]:
        last = scores.topk(sampling.top_k).values[:, -1:]
        scores.masked_fill_(scores < last, -torch.inf)
    if sampling.top_p < 1:
        scores.masked_fill_(~nucleus(scores, sampling.top_p), -torch.inf)
    return scores.softmax(-1)


def nucleus(scores: Float[Tensor, "rows vocab"], top_p: float) -> Bool[Tensor, "rows vocab"]:
    """The most probable tokens of each row before each of which the mass is below ``top_p``."""
    top = scores.amax(1, keepdim=True)
    wanted = top_p * (scores - top).exp_().sum(1, dtype=torch.float64)
    values = scores.topk(min(CANDIDATES, scores.shape[1])).values
    mass = (values - top).double().exp()
    size = (mass.cumsum(1) - mass < wanted[:, None]).sum(1).clamp_min(1)
    weakest = values.gather(1, size[:, None] - 1)[:, 0]
    for row in (size == CANDIDATES).nonzero()[:, 0].tolist():
        size[row], weakest[row] = _end_of_wide_nucleus(scores[row], top[row, 0], wanted[row])
    kept = scores >= weakest[:, None]
    tied = (kept.sum(1) > size).nonzero()[:, 0]
    if len(tied):
        above = scores[tied] > weakest[tied, None]
        equal = kept[tied] & ~above
        left = size[tied] - above.sum(1)
        kept[tied] = above | (equal & (equal.cumsum(1) <= left[:, None]))
    return kept


def _end_of_wide_nucleus(
    scores: Float[Tensor, " vocab"], top: Tensor, wanted: Tensor
) -> tuple[int, Tensor]:
    """How many scores a nucleus holds, and the last of them, with a sort of those near its end.

    The mass is taken in steps of score first, 16 a nat, and only the step in which it reaches
    ``wanted`` is sorted.
    """
    below = top - scores
    step = (below * 16).nan_to_num(nan=LAST_STEP).clamp_(0, LAST_STEP).long()
    mass = torch.bincount(step, below.neg().double().exp(), minlength=LAST_STEP + 1)
    reached = mass.cumsum(0)
    end = int((reached < wanted).sum().clamp_max(LAST_STEP))
    inside = scores[step == end].sort(descending=True).values
    if not len(inside):  # no more mass is there than rounding lets be wanted
        return len(scores), scores.amin()
    own = (inside - top).double().exp()
    kept = (reached[end] - mass[end] + own.cumsum(0) - own < wanted).sum().clamp_min(1)
    return int((step < end).sum() + kept), inside[kept - 1]


@torch.no_grad()
def acceptances(
    target: SweptModel,
    draft: SweptModel,
    samplings: Sequence[Sampling],
    *,
    held: int = HELD_LOGITS,
) -> list[Float[Tensor, " positions"]]:
    """The chance that the target accepts the draft's token at each position, for each sampler.

    Equivalent to::

        p, q = processed(target_logits, sampling), processed(draft_logits, sampling)
        chance = minimum(p, q).sum(-1)

    ``held`` logits of each model are there at a time, whole rows of them, float32-exact. The two
    heads' tokens must be the same, but either may hold padded rows more. Two identical models give
    exactly 1, and a row with a logit that is not finite NaN. Where several processes hold the
    heads' rows, all of them call this, each gets all logits of these positions from the others, and
    all find the same. Source: theory §4.
    """
    vocab = min(target.head.vocab, draft.head.vocab)
    step = max(TILE, held // vocab // TILE * TILE)
    found = torch.empty(len(samplings), len(target.hidden), device=target.hidden.device)
    for start in range(0, len(target.hidden), step):
        rows = slice(start, start + step)
        logits = [_logits(one, rows, vocab) for one in (target, draft)]
        for sampling, chance in zip(samplings, found, strict=True):
            p, q = (processed(one, sampling) for one in logits)
            # Half of what is apart, not the sum of the lesser: of equal models exactly nothing.
            chance[rows] = 1 - p.sub_(q).abs_().sum(1, dtype=torch.float64) / 2
    return list(found.clamp_(0, 1))


def _logits(model: SweptModel, rows: slice, vocab: int) -> Float[Tensor, "rows vocab"]:
    """Some positions' logits of the first ``vocab`` rows of a head."""
    hidden, head, share = model.hidden[rows], model.head.own, model.head.share
    inputs = pad_rows(hidden)
    held = min(vocab, head.vocab)
    whole = torch.empty(len(inputs), held, dtype=torch.float32, device=inputs.device)
    for start, logits, span in logit_blocks(inputs, head, model.precision):
        stop = min(start + logits.shape[1], held)
        if start < stop:
            whole[span, start:stop] = logits[:, : stop - start]
    if share is not None:
        whole = share.joined(whole)[:, :vocab]
    return whole[: len(hidden)]
