"""Seconds, memory and disk of a run, term by term, from what its model, text and device are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from unembed.errors import UnembedError
from unembed.head.blocks import BlockShape, most_rows
from unembed.head.kernels.running import SEGMENT
from unembed.models.costs.devices import Rates
from unembed.models.costs.host import HOST, HostWork
from unembed.models.costs.kinds import RunKind
from unembed.models.costs.model_work import ModelWork
from unembed.models.costs.record import (
    EACH,
    FIRST,
    ROOM,
    SHARED,
    Cost,
    Size,
    Term,
    article,
    in_operations,
    in_time,
    times,
)
from unembed.models.costs.text_size import TextSize
from unembed.short_repr import ShortRepr
from unembed.stats.forms import in_bytes
from unembed.text.batches import LEAST_SHARE, BatchPlan

PROOF_READS = 1.5
"""Of the longest window: whole, and its half. The whole is not read again where it is alone."""
MOST_TENSOR = 64
"""Processes that hold one model together, at most, of which it is said that they do."""


@dataclass(frozen=True)
class PlannedRun(ShortRepr):
    """A run that is thought of: everything that its cost is made of."""

    kind: RunKind
    work: ModelWork
    text: TextSize
    rates: Rates
    plan: BatchPlan
    ranks: int = 1
    tp: int = 1
    host: HostWork = HOST

    @property
    def positions(self) -> int:
        """That are read."""
        return positions_of(self.kind, self.text)

    @property
    def teams(self) -> int:
        """That share the parts."""
        return self.ranks // self.tp

    @property
    def parts(self) -> int:
        """Of the text."""
        return -(-self.positions // self.plan.part_positions)

    @property
    def passes(self) -> tuple[float, float]:
        """Products with the head's rows and readings of its logits, of a position."""
        kind, depths = self.kind, self.work.layers + 1
        return (
            kind.products + kind.depth_products * depths,
            kind.statistics + kind.depth_statistics * depths,
        )

    def check(self) -> None:
        """Raise UnembedError where a run would be refused for its ranks."""
        if self.teams > self.parts:
            most = max(1, self.positions // self.teams)
            raise UnembedError(
                f"{self.teams} ranks have only {self.parts} part{'s' * (self.parts != 1)} of "
                f"{self.plan.part_positions:,} positions to share: give at most --ranks "
                f"{self.parts * self.tp}, or --part-positions {most}"
            )

    def cost(self) -> Cost:
        """All of it."""
        terms = tuple(self.terms())
        moving = sum(term.seconds for term in terms if term.by == SHARED)
        fixed = sum(term.seconds for term in terms) - moving
        rates, off = self.rates, 1 + self.host.error
        return Cost(
            run=self.kind.name,
            model=self.work.name,
            text=self.text,
            device=rates.device,
            ranks=self.ranks,
            tp=self.tp,
            positions=self.positions,
            terms=terms,
            memory=tuple(self.memory(self.tp)),
            disk=tuple(self.disk()),
            low=(fixed + moving * rates.fastest) / off,
            high=(fixed + moving * rates.slowest) * off,
            host=rates.host,
            device_memory=rates.memory,
            fitting_tp=self.fitting(),
            to_mind=tuple(self.to_mind(terms)),
        )

    def terms(self) -> Iterator[Term]:
        """Seconds, of the rank with most to do."""
        kind, work, text, rates, host = self.kind, self.work, self.text, self.rates, self.host
        slow, mine = rates.host, self.positions * -(-self.parts // self.teams) / self.parts
        weights = kind.models * work.weight_bytes / self.tp
        several = self.ranks > 1
        start = (host.start + several * host.launch) * slow
        yield Term("start", start, EACH, "Python and its libraries" + ", launched" * several)
        loaded = host.load * slow + weights * host.load_byte
        yield Term("load", loaded, EACH, f"{in_bytes(int(weights))} of weights, on a local disk")
        characters = text.characters * self.positions / text.positions
        read = characters * host.character * slow
        yield Term("reading", read, EACH, f"{int(characters):,} characters, tokenised")
        hashed = weights + kind.models * work.head_bytes / self.tp
        window = text.longest * rates.body + rates.body_block
        proved = host.prepare * slow + hashed * host.digest_byte
        proved += kind.models * PROOF_READS * window * rates.replicas
        yield Term("proofs and digests", proved, EACH, "weights hashed, the longest window read")
        reads = kind.models * kind.reads
        alone = text.longest if 2 * text.longest > self.plan.block_tokens else 0
        tokens = max(0.0, mine - alone / kind.reads) * text.padding
        yield Term(
            "body",
            reads * (tokens * rates.body + mine / text.block * rates.body_block),
            SHARED,
            f"{in_operations(work.body_flops(text.window))} a token, read {times(reads)}",
        )
        products, sums = self.passes
        yield Term(
            "head pass",
            mine * products * rates.product,
            SHARED,
            f"{work.rows:,} rows of {work.width:,}: {in_operations(2.0 * work.rows * work.width)} "
            f"a position, {times(products)}",
        )
        columns = host.column * slow * max(1.0, products)
        yield Term(
            "statistics of the blocks",
            mine * (sums * rates.statistics + columns),
            SHARED,
            f"{work.rows:,} logits a position, read {times(sums)}",
        )
        if rates.exchange:
            sent = reads * tokens * rates.exchange
            yield Term("exchange", sent, SHARED, f"states, between {self.tp} devices twice a block")
        further = mine * kind.position_seconds * slow
        further += kind.depth_seconds * slow * (work.layers + 1)
        if further:
            yield Term("further readers", further, SHARED, f"what else {article(kind.name)} takes")
        written = mine * host.write_position * slow
        yield Term("writing", written, SHARED, "tables, packed and hashed")
        rows = text.rows * self.positions / text.positions
        end = host.summary + host.summary_position * self.positions + host.summary_row * rows
        end *= kind.summaries
        end += kind.end_seconds + kind.slices * work.rows * work.width * host.slice_number
        yield Term("summary", end * slow, FIRST, f"of {self.positions:,} positions")
        yield Term("page", kind.pages * host.page * slow, FIRST, "drawn once")

    def memory(self, tp: int) -> Iterator[Size]:
        """Bytes of one process where so many hold a model together."""
        kind, work, text, rates, plan = self.kind, self.work, self.text, self.rates, self.plan
        weights = kind.models * work.weight_bytes / tp
        over = f" over {tp} processes" * (tp > 1)
        yield Size("weights", weights, f"{kind.models * work.parameters:,} numbers{over}")
        block = max(min(plan.block_tokens, plan.batch_tokens), text.longest) * rates.replicas
        states = block * work.body_bytes(float(text.longest))
        yield Size("states", states, f"of {block:,} tokens that are read at once")
        place = torch.device("cuda" if rates.gpu else "cpu")
        held = max(plan.batch_tokens, text.longest) * rates.replicas
        shape = BlockShape.of(place, min(held, most_rows(place)))
        logits = shape.columns * (2 * shape.rows + work.width) * 4 * rates.replicas
        sums = min(held, most_rows(place)) * -(-work.rows // SEGMENT) * 16 / tp
        yield Size("head block", logits + sums, "logits, the rows beside them, their sums")
        depths = work.layers + 1 if kind.depth_products else 1
        final = held * work.width * work.bytes_a_number * (2 * depths if depths > 1 else 1)
        yield Size("final states", final + kind.held_bytes * rates.replicas, "of a batch")
        if not rates.gpu:
            wide = kind.row_bytes + kind.depth_row_bytes * depths
            results = 2 * min(self.positions, plan.part_positions) * wide
            yield Size("results", results, "of a part, before it is written")
            held_columns = min(self.positions, self.host.most_held) * self.host.held_position
            yield Size("summary", held_columns * kind.summaries, "columns of positions")
            yield Size("process", self.host.process_bytes, "Python, its libraries, the page")

    def disk(self) -> Iterator[Size]:
        """Bytes of the run's folder."""
        wide = self.kind.row_bytes + self.kind.depth_row_bytes * (self.work.layers + 1)
        packed = self.positions * wide * self.host.packed
        yield Size("tables", packed, f"{wide:,.0f} bytes a position, packed")
        yield Size("summary and page", self.kind.file_bytes, "whatever the text")

    def fitting(self) -> int | None:
        """The least ``tp`` at which a process' share fits in its device's memory."""
        if self.rates.memory is None:
            return None
        tried = (1 << power for power in range(MOST_TENSOR.bit_length()))
        return next((tp for tp in tried if self._fits(tp)), None)

    def _fits(self, tp: int) -> bool:
        assert self.rates.memory is not None
        taken = sum(size.bytes for size in self.memory(tp))
        return self.work.heads % tp == 0 and taken <= ROOM * self.rates.memory

    def to_mind(self, terms: tuple[Term, ...]) -> Iterator[str]:
        """What to know of the figures, a sentence each."""
        whole, text, rates = sum(term.seconds for term in terms), self.text, self.rates
        most = max(terms, key=lambda term: term.seconds)
        alone = sum(term.seconds for term in terms if term.by != SHARED)
        yield (
            f"Most of the time, {most.seconds / whole:.0%}, goes to: {most.name}. "
            f"{in_time(alone)} ({alone / whole:.0%}) are not shared by more ranks."
        )
        if text.assumed:
            yield (
                f"Assumed of the text: windows of {text.longest:,} tokens, all full, and "
                f"{text.characters / text.tokens:.0f} characters a token."
            )
        elif not text.exact:
            yield f"Of the text {text.tokens:,} tokens are expected, by those of its beginning."
        if text.positions > self.positions:
            yield (
                f"{article(self.kind.name).capitalize()} reads {self.positions:,} positions "
                "unless it is told otherwise."
            )
        if rates.measured:
            cores, asked = os.cpu_count() or 1, self.ranks * torch.get_num_threads()
            if not rates.gpu and asked > cores:
                yield (
                    f"{self.ranks} ranks of {torch.get_num_threads()} threads are more than the "
                    f"{cores} cores here: each rank is taken to have cores of its own."
                )
            if self.tp > 1:
                yield "What processes of one model send each other is not counted."
        yield f"Made from {rates.said}. A total may be off by {self.host.error:.0%} beside that."


def positions_of(kind: RunKind, text: TextSize) -> int:
    """How many positions of a text a kind of run reads, unless it is told otherwise."""
    return min(text.positions, kind.most_positions or text.positions)


def positions_at_once(positions: int, plan: BatchPlan) -> int:
    """How many positions come to the head together, as a plan shares a part out."""
    part = min(positions, plan.part_positions)
    fewest = -(-part // plan.batch_tokens)
    shared = -(-fewest // plan.shares) * plan.shares
    return max(2, part // max(1, fewest, min(shared, part // LEAST_SHARE)))
