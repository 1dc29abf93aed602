"""What a run will take before it is begun: cost(model, text) -> Cost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from unembed.errors import UnembedError
from unembed.head.blocks import ROWS, BlockShape, most_rows
from unembed.head.kernels.running import SEGMENT
from unembed.models.checkpoint import configuration_of
from unembed.models.cost.devices import BATCH_TOKENS, HERE, Rates, device_named, published
from unembed.models.cost.host import HOST, HostWork
from unembed.models.cost.kinds import KINDS, RunKind, kind_named
from unembed.models.cost.model_work import ModelWork
from unembed.models.cost.probe import measured
from unembed.models.cost.text_size import TextSize
from unembed.runs.memory import free_memory
from unembed.runs.table import as_text
from unembed.short_repr import ShortRepr
from unembed.stats.forms import in_bytes
from unembed.text.batches import LEAST_SHARE, BatchPlan

SHARED, EACH, FIRST = "shared by the ranks", "by each rank", "by the first rank alone"
PROOF_READS = 1.5
"""Of the longest window, beside the one that is kept: its half, and a second part of it."""
MOST_TENSOR = 64
ROOM = 0.92
"""Share of a GPU's memory that a process can take; the rest is the driver's, and holes."""


@dataclass(frozen=True)
class Term(ShortRepr):
    """Seconds of a part of the run: by whom it is done, and what it is made of."""

    name: str
    seconds: float
    by: str
    made_of: str


@dataclass(frozen=True)
class Size(ShortRepr):
    """Bytes of one kind."""

    name: str
    bytes: float
    made_of: str


@dataclass(frozen=True)
class Cost(ShortRepr):
    """Seconds, memory and disk of a run, with what they are made of; ``cost`` makes it.

    ``seconds`` lie between ``low`` and ``high`` as far as the rates' assumptions, or the errors on
    shapes that the constants were not fitted on, allow. ``memory`` is of one process, on its device
    (``device_memory`` bytes of it, None: not known), ``disk`` of the run's folder. Python's work is
    taken to last ``host`` times as long as on the machine where its constants were fitted;
    ``fitting_tp`` is the least ``tp`` at which a process' share fits, None where none does.
    """

    run: str
    model: str
    text: TextSize
    device: str
    ranks: int
    tp: int
    positions: int
    terms: tuple[Term, ...]
    memory: tuple[Size, ...]
    disk: tuple[Size, ...]
    low: float
    high: float
    host: float
    device_memory: float | None
    fitting_tp: int | None
    to_mind: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of the whole command, the slowest rank's."""
        return sum(term.seconds for term in self.terms)

    @property
    def memory_bytes(self) -> float:
        """Of one process, at its most."""
        return sum(size.bytes for size in self.memory)

    @property
    def disk_bytes(self) -> float:
        """Of the run's folder."""
        return sum(size.bytes for size in self.disk)

    @property
    def fits(self) -> bool:
        """Whether one process' share fits in its device's memory; so where that is not known."""
        return self.device_memory is None or self.memory_bytes <= ROOM * self.device_memory

    @property
    def verdict(self) -> str:
        """What all this comes to, in a sentence."""
        several = f"{self.ranks} × {self.device}" if self.ranks > 1 else f"one {self.device}"
        takes = (
            f"takes about {in_time(self.seconds)} ({in_time(self.low)} to {in_time(self.high)})"
        )
        what = f"{article(self.run)} of {self._text} with {self.model}"
        if not self.fits:
            assert self.device_memory is not None
            remedy = (
                "no --tp holds it"
                if self.fitting_tp is None
                else f"give --tp {self.fitting_tp}"
            )
            return (
                f"{self.model} does not fit in the {in_bytes(int(self.device_memory))} of one "
                f"{self.device}, where it takes {in_bytes(int(self.memory_bytes))}: {remedy}."
            )
        of = "" if self.device_memory is None else f" of {in_bytes(int(self.device_memory))}"
        return (
            f"{what} on {several} {takes}, {in_bytes(int(self.memory_bytes))}{of} of memory"
            f"{' each' if self.ranks > 1 else ''}, and {in_bytes(int(self.disk_bytes))} of disk."
        )

    @property
    def _text(self) -> str:
        return f"{self.positions:,} positions"

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Name and value of everything, with what it is made of."""
        whole = self.seconds or 1.0
        rows = [
            (term.name, f"{in_time(term.seconds):<11}{term.seconds / whole:>5.0%}  {term.made_of}")
            for term in self.terms
        ]
        rows.append(("time", f"{in_time(self.low)} to {in_time(self.high)}"))
        for title, sizes in (("memory", self.memory), ("disk", self.disk)):
            rows += [
                (f"{title}: {size.name}", f"{in_bytes(int(size.bytes)):<11}       {size.made_of}")
                for size in sizes
            ]
        return rows

    def __str__(self) -> str:
        mind = "".join(f"  • {one}\n" for one in self.to_mind)
        return f"{self.verdict}\n{mind}\n{as_text(self.lines)}"

    def _phrases(self) -> Iterator[str]:
        yield f"{self.run} of {self.positions:,} positions with {self.model}"
        yield f"{self.ranks} × {self.device}" + (f", --tp {self.tp}" if self.tp > 1 else "")
        yield f"{in_time(self.seconds)} ({in_time(self.low)} to {in_time(self.high)})"
        yield f"{in_bytes(int(self.memory_bytes))} of memory"
        yield f"{in_bytes(int(self.disk_bytes))} of disk"

    def _rows(self) -> list[tuple[str, str]]:
        to_mind = (("to mind", one) for one in self.to_mind)
        return [("verdict", self.verdict), *to_mind, *self.lines]


def cost(
    model: str,
    text: str,
    *,
    run: str = "audit",
    device: str | None = None,
    ranks: int = 1,
    tp: int = 1,
    context: int | None = None,
    dtype: str = "auto",
    **source: Any,
) -> Cost:
    """Say what a run of a model over a text will take, before either is there.

    ``model`` is a folder or a name that holds a config.json; of weights nothing is needed. ``text``
    is what a run is given, or a number of tokens such as ``1e9``. ``device`` names published rates
    (h100, h200, a100, l40s, rtx4090), of which a share is assumed; None or "here" measures this
    machine at the model's own shapes, in a second or two. ``ranks`` are the processes of the run,
    a device each, ``tp`` of which hold one model together. A comparison is of two such models.

    Seconds are those of parts, ``positions of the fullest rank * seconds a position``, where ranks
    share the work, and of one process where each does the same or the first does it alone.
    Raises UnembedError for what no run could be given. Source: theory §15.
    """
    kind = kind_named(run)
    check_ranks(ranks, tp)
    own_device = device is None or device == HERE or device.partition(":")[0] in ("cpu", "cuda")
    named = None if own_device else device_named(str(device))
    work = ModelWork.of(model, dtype=dtype, **source)
    window = work.context(context)
    place = _place(device) if named is None else torch.device("cuda")
    plan = BatchPlan.of(place, None, kind.part_positions)
    size = TextSize.of(text, model, window, plan)
    positions = min(size.positions, kind.most_positions or size.positions)
    if named is None:
        config = configuration_of(model, weights=False, **source)
        at_once = positions_at_once(positions, plan)
        rates = measured(work, config, size.window, at_once, place)
        if tp > 1:
            rates = replace(
                rates, body=rates.body / tp, product=rates.product / tp,
                statistics=rates.statistics / tp,
            )  # fmt: skip
    else:
        rates = published(named, work, size.window, tp)
    return estimate(kind, work, size, rates, ranks, tp, HOST)


def check_ranks(ranks: int, tp: int) -> None:
    """Raise UnembedError for numbers of processes that make no launch."""
    for name, value in (("--ranks", ranks), ("--tp", tp)):
        if value < 1:
            raise UnembedError(f"{name} {value} is no number of processes: give 1 or more")
    if ranks % tp:
        raise UnembedError(
            f"--ranks {ranks} is no multiple of --tp {tp}: give {ranks - ranks % tp or tp} or "
            f"{ranks - ranks % tp + tp} ranks, so that each model has {tp}"
        )


def positions_at_once(positions: int, plan: BatchPlan) -> int:
    """How many positions come to the head together, as a plan shares a part out."""
    part = min(positions, plan.part_positions)
    fewest = -(-part // plan.batch_tokens)
    shared = -(-fewest // plan.shares) * plan.shares
    return max(2, part // max(1, max(fewest, min(shared, part // LEAST_SHARE))))


def estimate(
    kind: RunKind,
    work: ModelWork,
    text: TextSize,
    rates: Rates,
    ranks: int,
    tp: int,
    host: HostWork,
) -> Cost:
    """The cost of a run from what its model, text and device are."""
    positions = min(text.positions, kind.most_positions or text.positions)
    terms = tuple(_terms(kind, work, text, positions, rates, ranks, tp, host))
    fixed = sum(term.seconds for term in terms if term.name not in OF_DEVICE)
    moving = sum(term.seconds for term in terms if term.name in OF_DEVICE)
    memory = tuple(_memory(kind, work, text, positions, rates, tp, host))
    fitting = None
    if rates.memory is not None:
        powers = (2**n for n in range(MOST_TENSOR.bit_length()))
        fitting = next(
            (
                some
                for some in powers
                if work.heads % some == 0
                and sum(
                    size.bytes for size in _memory(kind, work, text, positions, rates, some, host)
                )
                <= ROOM * rates.memory
            ),
            None,
        )
    made = Cost(
        run=kind.name,
        model=work.name,
        text=text,
        device=rates.device,
        ranks=ranks,
        tp=tp,
        positions=positions,
        terms=terms,
        memory=memory,
        disk=tuple(_disk(kind, work, positions, host)),
        low=(fixed + moving * rates.fastest) / (1 + host.error),
        high=(fixed + moving * rates.slowest) * (1 + host.error),
        host=rates.host,
        device_memory=rates.memory,
        fitting_tp=fitting,
        to_mind=(),
    )
    return replace(made, to_mind=tuple(_to_mind(made, kind, work, text, rates, host)))


BODY, PRODUCT, STATISTICS, EXCHANGE = "body", "head pass", "statistics of the blocks", "exchange"
OF_DEVICE = (BODY, PRODUCT, STATISTICS, EXCHANGE)


def _terms(
    kind: RunKind,
    work: ModelWork,
    text: TextSize,
    positions: int,
    rates: Rates,
    ranks: int,
    tp: int,
    host: HostWork,
) -> Iterator[Term]:
    teams, parts = ranks // tp, -(-positions // kind.part_positions)
    mine = positions * -(-parts // teams) / parts
    depths = work.layers + 1
    slow, weights = rates.host, kind.models * work.weight_bytes / tp
    yield Term("start", host.start * slow, EACH, "Python and its libraries")
    loaded = host.load * slow + weights * host.load_byte
    yield Term("load", loaded, EACH, f"{in_bytes(int(weights))} of weights, from a local disk")
    read = text.characters * min(1.0, positions / text.positions) * host.character * slow
    yield Term("reading", read, EACH, f"{text.characters:,} characters, tokenised")
    hashed = kind.models * (work.weight_bytes / tp + work.head_bytes / tp)
    proved = host.prepare * slow + hashed * host.digest_byte
    window = text.longest * rates.body + rates.body_block
    proved += kind.models * PROOF_READS * window * rates.replicas
    yield Term("proofs and digests", proved, EACH, "each weight hashed, the longest window read")
    read_times = kind.models * kind.reads
    flops = work.body_flops(text.window)
    yield Term(
        BODY,
        mine * read_times * (text.padding * rates.body + rates.body_block / text.block),
        SHARED,
        f"{in_operations(flops)} a token, read {times(read_times)}",
    )
    products = kind.products + kind.depth_products * depths
    each = 2.0 * work.rows * work.width
    yield Term(
        PRODUCT,
        mine * products * rates.product,
        SHARED,
        f"{work.rows:,} rows of {work.width:,}, {in_operations(each)} a pass, {times(products)}",
    )
    sums = kind.statistics + kind.depth_statistics * depths
    columns = host.column * slow * max(1.0, products)
    yield Term(
        STATISTICS,
        mine * (sums * rates.statistics + columns),
        SHARED,
        f"{work.rows:,} logits a position, read {times(sums)}",
    )
    if rates.exchange:
        sent = mine * read_times * text.padding * rates.exchange
        yield Term(EXCHANGE, sent, SHARED, f"states between {tp} devices, twice a block")
    further = mine * kind.position_seconds * slow
    if kind.depth_seconds or kind.squares:
        further += kind.depth_seconds * slow * depths
        further += mine * kind.squares * depths * work.width**2 * 1e-11
    if further:
        yield Term("further readers", further, SHARED, f"what {article(kind.name)} takes beside")
    yield Term("writing", mine * host.write_position * slow, SHARED, "tables, packed and hashed")
    end = kind.summaries * (host.summary + host.summary_position * positions) * slow
    end += kind.end_seconds * slow
    end += kind.slices * work.rows * work.width * host.slice_number * slow
    yield Term("summary", end, FIRST, f"intervals of {positions:,} positions")
    yield Term("page", kind.pages * host.page * slow, FIRST, "drawn once")


def _memory(
    kind: RunKind,
    work: ModelWork,
    text: TextSize,
    positions: int,
    rates: Rates,
    tp: int,
    host: HostWork,
) -> Iterator[Size]:
    weights = kind.models * work.weight_bytes / tp
    yield Size("weights", weights, f"{work.parameters:,} numbers" + (f" over {tp}" * (tp > 1)))
    place = torch.device("cuda" if rates.gpu else "cpu")
    plan = BatchPlan.of(place, None, kind.part_positions)
    block = max(min(plan.block_tokens, plan.batch_tokens), text.longest) * rates.replicas
    states = block * work.body_bytes(text.longest)
    yield Size("states", states, f"{block:,} tokens read at once")
    held = max(plan.batch_tokens, text.longest) * rates.replicas
    rows = min(held, most_rows(place))
    if rates.gpu:
        shape = BlockShape(2048, 8192, 2048)
    else:
        shape = BlockShape.of(place, rows)
    block_bytes = shape.rows * shape.columns * 4 * 2 + shape.columns * work.width * 4
    sums = rows * -(-work.rows // SEGMENT) * 16 / tp
    yield Size("head block", block_bytes * rates.replicas + sums, "logits of a block, their sums")
    final = held * work.width * work.bytes_a_number * (1 + kind.depth_products)
    results = min(positions, kind.part_positions) * (kind.row_bytes + kind.depth_row_bytes) * 2
    yield Size("results", final + (0 if rates.gpu else results), "of a part, before it is written")
    if not rates.gpu:
        yield Size("process", host.process_bytes, "Python, its libraries, the page")


def _disk(kind: RunKind, work: ModelWork, positions: int, host: HostWork) -> Iterator[Size]:
    wide = kind.row_bytes + kind.depth_row_bytes * (work.layers + 1)
    yield Size("tables", positions * wide * host.packed, f"{wide:,.0f} bytes a position, packed")
    yield Size("summary and page", host.page_bytes, "")


def _to_mind(
    made: Cost,
    kind: RunKind,
    work: ModelWork,
    text: TextSize,
    rates: Rates,
    host: HostWork,
) -> Iterator[str]:
    """What to know of the figures, a sentence each."""
    by = {how: sum(t.seconds for t in made.terms if t.by == how) for how in (SHARED, EACH, FIRST)}
    most = max(made.terms, key=lambda term: term.seconds)
    whole = made.seconds or 1.0
    yield (
        f"The {most.name} takes {most.seconds / whole:.0%} of it; "
        f"{(by[EACH] + by[FIRST]) / whole:.0%} is what more ranks would not share "
        f"({in_time(by[EACH] + by[FIRST])})."
    )
    parts = -(-made.positions // kind.part_positions)
    if made.ranks // made.tp > parts:
        yield (
            f"{made.ranks // made.tp} models would share {parts} part{'s' * (parts > 1)} of "
            f"{kind.part_positions:,} positions: more ranks than parts do nothing."
        )
    if text.assumed:
        yield (
            f"Assumed of the text: windows of {text.longest:,} tokens, "
            f"{text.characters / text.tokens:.0f} characters a token."
        )
    elif not text.exact:
        yield f"{text.tokens:,} tokens, by those of the text's beginning."
    if kind.most_positions is not None and text.positions > kind.most_positions:
        yield f"{article(kind.name)} reads {kind.most_positions:,} positions unless told otherwise."
    yield f"Made from {rates.said}."


def _place(device: str | None) -> torch.device:
    if device is None or device == HERE:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def in_time(seconds: float) -> str:
    """A duration with two or three digits: ``4.2 s``, ``3 min 20 s``, ``2 h 05 min``, ``3 d 4 h``."""
    if seconds < 9.95:
        return f"{seconds:.2g} s" if seconds < 0.95 else f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if seconds < 600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def in_operations(count: float) -> str:
    """Operations with their unit: ``16.1 GFLOP``."""
    units = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP")
    step = min(len(units) - 1, max(0, int(math.log10(max(count, 1.0)) // 3)))
    return f"{count / 1000**step:.3g} {units[step]}"


def times(count: float) -> str:
    """``once``, ``twice``, or so many times."""
    return {1.0: "once", 2.0: "twice"}.get(count, f"{count:.3g} times")


def article(name: str) -> str:
    """A kind of run with its article, as a sentence begins."""
    return f"{'An' if name[0] in 'aeiou' else 'A'} {name}"
