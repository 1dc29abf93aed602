"""Which tokens' probabilities rose and fell between two heads, without stored logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.head.blocks import BLOCK, logit_blocks
from unembed.head.divergence import SweptModel, check_alike, log_normaliser
from unembed.head.paired_rows import paired_rows
from unembed.head.peers import RowShare
from unembed.head.product import pad_rows


@dataclass(frozen=True)
class TokenMass:
    """The probability that each group of positions gives to the tokens that it gives most.

    Tokens are in order of the larger of ``before`` and ``after``, sums over the group's positions;
    one that is not among them has less than the last.
    """

    ids: Int[Tensor, "groups kept"]
    before: Float[Tensor, "groups kept"]
    after: Float[Tensor, "groups kept"]


@dataclass(frozen=True)
class Movers:
    """The tokens whose probability rose most at each position, or fell most, and from what to what.

    The largest change comes first.
    """

    ids: Int[Tensor, "positions k"]
    before: Float[Tensor, "positions k"]
    after: Float[Tensor, "positions k"]


@dataclass(frozen=True)
class ProbabilityChanges:
    """Between the distributions p and q of two models: ``moved`` is half the sum of |q - p|."""

    moved: Float[Tensor, " positions"]
    risen: Movers
    fallen: Movers
    mass: TokenMass


@torch.no_grad()
def probability_changes(
    first: SweptModel,
    second: SweptModel,
    group: Int[Tensor, " positions"],
    groups: int,
    *,
    k: int,
    kept: int,
    block: int = BLOCK,
) -> ProbabilityChanges:
    """The k largest rises and falls of each position, and each group's sums, in one more pass.

    Equivalent to::

        p, q = logits_p.softmax(-1), logits_q.softmax(-1)
        moved = (q - p).abs().sum(-1) / 2
        risen, fallen = (q - p).topk(k), (p - q).topk(k)
        mass = p[group == g].sum(0), q[group == g].sum(0)      # the `kept` largest of each group

    ``kept`` or all tokens, where there are fewer. A position that is not finite counts in no group.
    Raises ValueError where the two do not have the same positions or tokens. Source: theory §4.
    """
    check_alike(first, second)
    n, device = len(first.hidden), first.hidden.device
    vocab = min(first.head.vocab, second.head.vocab)
    k, kept = min(k, vocab), min(kept, vocab)
    inputs = [pad_rows(one.hidden, dtype=one.hidden.dtype) for one in (first, second)]
    bases = [
        log_normaliser(one, rows, block) for one, rows in zip((first, second), inputs, strict=True)
    ]
    # Rows that are not finite, and those that pad, add up in a group of their own.
    finite = torch.isfinite(first.swept.logsumexp) & torch.isfinite(second.swept.logsumexp)
    counted = torch.full((len(inputs[0]),), groups, device=device)
    counted[:n] = group.where(finite, groups)
    moved = torch.zeros(len(counted), dtype=torch.float64, device=device)
    movers: tuple[list[_Found], list[_Found]] = ([], [])
    mass = torch.zeros(2, groups, 0, device=device)
    mass_ids = torch.zeros(groups, 0, dtype=torch.long, device=device)
    for start, p, q, rows in _paired_blocks((first, second), inputs, block):
        for logits, (tops, base) in zip((p, q), bases, strict=True):
            if tops is not None:
                logits -= tops[rows, None]
            logits.sub_(base[rows, None]).exp_()
        if rows.start == 0:
            sums = torch.zeros(2, groups + 1, p.shape[1], device=device)
        for total, one in zip(sums, (p, q), strict=True):
            total.index_add_(0, counted[rows], one)
        change = q - p
        moved[rows] += torch.linalg.vector_norm(change, 1, dim=1) / 2
        for found, largest in zip(movers, (True, False), strict=True):
            at = change.topk(min(k, change.shape[1]), dim=1, largest=largest).indices
            found.append((rows.start, at + start, p.gather(1, at), q.gather(1, at)))
        if rows.stop < len(counted):
            continue
        ids = torch.arange(start, start + p.shape[1], device=device).expand(groups, -1)
        mass, mass_ids = torch.cat([mass, sums[:, :groups]], 2), torch.cat([mass_ids, ids], 1)
        if mass.shape[2] > kept:
            mass, mass_ids = _largest(mass, mass_ids, kept)
    if (share := first.head.share or second.head.share) is not None:
        moved = share.peers.total(moved)
        mass, mass_ids = share.joined(mass), share.joined(mass_ids)
    mass, mass_ids = _largest(mass, mass_ids, min(kept, mass.shape[2]))
    shift = moved[:n].float()
    return ProbabilityChanges(
        shift,
        _movers(movers[0], shift, k, 1, share),
        _movers(movers[1], shift, k, -1, share),
        TokenMass(mass_ids, mass[0], mass[1]),
    )


_Found = tuple[int, Tensor, Tensor, Tensor]
"""The candidates of a tile of a block: its first row, ids, probabilities before and after."""


def _largest(
    mass: Float[Tensor, "2 groups tokens"], ids: Int[Tensor, "groups tokens"], kept: int
) -> tuple[Float[Tensor, "2 groups kept"], Int[Tensor, "groups kept"]]:
    """The tokens of the largest sums of each group, the largest first."""
    most = mass.amax(0).topk(kept, dim=1).indices
    return mass.gather(2, most.expand(2, -1, -1)), ids.gather(1, most)


def _paired_blocks(
    models: tuple[SweptModel, SweptModel], inputs: list[Tensor], block: int
) -> Iterator[tuple[int, Tensor, Tensor, slice]]:
    """The id of the first column of some logits, both models' logits, and their rows."""
    for pair in paired_rows(*(one.head for one in models)):
        heads = (pair.first, pair.second)
        vocab = min(head.vocab for head in heads)
        blocks = zip(
            *(
                logit_blocks(rows, head, one.precision, block)
                for rows, head, one in zip(inputs, heads, models, strict=True)
            ),
            strict=False,
        )
        for (start, p, rows), (_start, q, _rows) in blocks:
            yield pair.start + start, p[:, : vocab - start], q[:, : vocab - start], rows


def _movers(
    found: list[_Found],
    moved: Float[Tensor, " positions"],
    k: int,
    sign: int,
    share: RowShare | None,
) -> Movers:
    """The k largest changes of each position, of all blocks' candidates and all processes'."""
    tiles: dict[int, list[tuple[Tensor, ...]]] = {}
    for start, *candidates in found:
        tiles.setdefault(start, []).append(tuple(candidates))
    best = []
    if not tiles:  # all rows that are held here pad the vocabulary
        nothing = moved.new_zeros(len(moved), 0)
        best.append([nothing.long(), nothing, nothing])
    for blocks in tiles.values():
        candidates = [torch.cat(some, 1) for some in zip(*blocks, strict=True)]
        best.append(_furthest(candidates, k, sign))
    movers = [torch.cat(some)[: len(moved)] for some in zip(*best, strict=True)]
    if share is not None:
        movers = _furthest([share.joined(one) for one in movers], k, sign)
    return Movers(*movers)


def _furthest(candidates: list[Tensor], k: int, sign: int) -> list[Tensor]:
    """Ids, probabilities before and after of the k largest changes among the candidates."""
    ids, before, after = candidates
    order = (sign * (after - before)).topk(min(k, ids.shape[1]), dim=1).indices
    return [one.gather(1, order) for one in (ids, before, after)]
