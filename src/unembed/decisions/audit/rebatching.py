"""The same windows in other batches, in the checkpoint's own precision: what a decision becomes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from unembed.decisions.native import native_top1
from unembed.head.head import Head, final_hidden
from unembed.models.model_pass import ModelPass
from unembed.short_repr import ShortRepr
from unembed.text.batches import Batch, Block

CANDIDATES = 5
"""Tokens whose logits are followed through the plans, those that led in the audit's own."""

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Windows a block may hold, as far as there are so many."""

MOST_PADDING = 64
"""Tokens of padding beyond the longest window of a block, at most."""

HEAD_ROWS = (8, 16, 32, 64, 128, 256)
"""Positions that the head may be given at once."""

GATHERED_ROWS = 256
"""Positions whose candidates' rows are gathered at a time; changes memory, never a result."""


@dataclass(frozen=True)
class Rebatching(ShortRepr):
    """``plans`` further ways to batch the windows of a batch (theory §1).

    Each shuffles the windows, cuts them into blocks of another size, pads these further, and gives
    the head other numbers of positions at once; seeds are the plan's number and the batch's place.
    A window that is alone in its batch stands, in every second plan, beside itself, its tokens
    moved on by half. ``context`` is the most tokens that a block may be wide, ``tokens`` the most
    that it may hold. Without ``mixed`` a block holds windows of one length, unpadded.
    """

    plans: int
    context: int
    tokens: int
    mixed: bool

    @staticmethod
    def of(reading: ModelPass, plans: int) -> Rebatching:
        """Further plans within the bounds of a pass."""
        context = reading.windows.context
        return Rebatching(plans, context, reading.plan.batch_tokens, reading.mixed)

    @torch.no_grad()
    def columns(
        self,
        model: nn.Module,
        head: Head,
        batch: Batch,
        hidden: Float[Tensor, "positions dim"],
        candidates: Int[Tensor, "positions k"],
    ) -> dict[str, Shaped[np.ndarray, "positions _"]]:
        """The greedy token in each plan, and by how much the candidates' logits moved.

        ``batch_top1[i, r]`` is the model's own greedy token in plan r, and
        ``batch_change[i, r * k + j]`` the float32 logit of candidate j from that plan's hidden
        state, less that from ``hidden``, the audit's own: 0 where the two are the same.
        """
        before = _logits_at(hidden, head, candidates)
        tops, changes = [], []
        for plan in range(self.plans):
            generator = np.random.default_rng([plan, int(batch.doc[0]), int(batch.pos[0])])
            after = torch.empty_like(hidden)
            for block, at in self.blocks(batch, generator):
                ids, real = block.input_ids.to(hidden.device), block.real.to(hidden.device)
                after[torch.from_numpy(at).to(hidden.device)] = final_hidden(model, ids)[real]
            tops.append(native_top1(after, head, int(generator.choice(HEAD_ROWS))))
            changes.append(_logits_at(after, head, candidates) - before)
        return {
            "batch_top1": torch.stack(tops, dim=1).to(torch.int32).cpu().numpy(),
            "batch_change": torch.cat(changes, dim=1).cpu().numpy(),
        }

    def blocks(
        self, batch: Batch, generator: np.random.Generator
    ) -> Iterator[tuple[Block, Int[np.ndarray, " positions"]]]:
        """The blocks of one plan, and where among the batch's positions those of each belong."""
        rows = list(_rows(batch))
        order = generator.permutation(len(rows))
        widths = np.array([len(row.tokens) for row in rows])
        if not self.mixed:
            order = order[np.argsort(widths[order], kind="stable")]
        if len(rows) == 1:
            row, width = rows[0], int(widths[0])
            beside = bool(generator.integers(2)) and 2 * width <= self.tokens
            others = [row.tokens.roll(width // 2)] if beside else []
            yield self._block([row], others, generator), row.at
            return
        sizes = [size for size in SIZES if size <= len(rows)]
        while len(order):
            size = int(generator.choice(sizes))
            most = max(1, self.tokens // int(widths[order[:size]].max()))
            chosen = order[: min(size, most)]
            if not self.mixed:
                chosen = chosen[widths[chosen] == widths[chosen[0]]]
            order = order[len(chosen) :]
            some = [rows[i] for i in chosen]
            yield self._block(some, [], generator), np.concatenate([row.at for row in some])

    def _block(
        self, rows: list[_Row], others: list[Tensor], generator: np.random.Generator
    ) -> Block:
        width = max(len(row.tokens) for row in rows)
        if self.mixed:
            width = min(width + int(generator.integers(MOST_PADDING)), max(width, self.context))
        ids = torch.empty(len(rows) + len(others), width, dtype=torch.int64)
        real = torch.zeros(ids.shape, dtype=torch.bool)
        for i, tokens in enumerate([*(row.tokens for row in rows), *others]):
            ids[i, : len(tokens)], ids[i, len(tokens) :] = tokens, tokens[-1]
        for i, row in enumerate(rows):
            real[i, : len(row.real)] = row.real
        return Block(ids, real)


@dataclass(frozen=True)
class _Row:
    """A window as it was read, up to its last prediction that counts, and where these stand."""

    tokens: Int[Tensor, " seq"]
    real: Bool[Tensor, " seq"]
    at: Int[np.ndarray, " positions"]


def _rows(batch: Batch) -> Iterator[_Row]:
    start = 0
    for block in batch.blocks:
        for tokens, real in zip(block.input_ids, block.real, strict=True):
            places = real.nonzero()[:, 0]
            end = int(places[-1]) + 1
            yield _Row(tokens[:end], real[:end], np.arange(start, start + len(places)))
            start += len(places)


def _logits_at(
    hidden: Float[Tensor, "positions dim"], head: Head, ids: Int[Tensor, "positions k"]
) -> Float[Tensor, "positions k"]:
    """The logits of these tokens in float32: the same bits of the same hidden state."""
    found = []
    for rows, some in zip(hidden.split(GATHERED_ROWS), ids.split(GATHERED_ROWS), strict=True):
        logits = (head.rows_at(some).float() * rows.float()[:, None]).sum(dim=2)
        if (bias := head.bias_at(some)) is not None:
            logits = logits + bias.float()
        logits = logits * head.scale
        if head.softcap is not None:
            logits = head.softcap * torch.tanh(logits / head.softcap)
        found.append(logits)
    return torch.cat(found)
