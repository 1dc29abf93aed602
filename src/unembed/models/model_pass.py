"""One pass of a model over a text: what is fixed before the first batch, and the batches' results.

Every measurement that reads final hidden states goes through here, so that all of them see the same
windows in the same batches, and several can share one pass.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unembed.errors import UnembedError
from unembed.head.head import Head, faster_body_route, final_hidden, input_device
from unembed.head.precision import Precision
from unembed.head.product import Route, float32_products
from unembed.head.sweep import Sweep
from unembed.models.checkpoint import Checkpoint, context_of, token_ids
from unembed.models.depths import Depths
from unembed.models.length_proof import LengthProof, prove_lengths
from unembed.models.other_ids import refuse_other_ids
from unembed.models.replicas import MOST_REPLICAS, replicas_of, side_by_side
from unembed.models.stored.states import StoredStates
from unembed.models.streams import Streams
from unembed.runs.phases import Phases
from unembed.runs.provenance import digest_meanwhile, digest_of
from unembed.runs.ranks import Ranks, current_ranks
from unembed.runs.store import RunFolder
from unembed.short_repr import ShortRepr
from unembed.text.batches import Batch, BatchPlan, batches, parts
from unembed.text.corpus import Corpus
from unembed.text.row_cuts import Overflow
from unembed.text.windows import Windows

PART_POSITIONS = 1 << 15
ALONE = Ranks()
MOST_UNEVEN = 1.05
"""The largest share of a text over an even one, of which nothing is said."""
EVEN_TRIES = 4

CPU_MEMORY = "DefaultCPUAllocator"
"""In what torch says where a CPU has no memory left."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class ReadingOptions(ShortRepr):
    """How a text is read.

    ``context`` None takes the model's, at most 2,048 tokens. ``max_positions`` are those of the
    text's beginning or, with ``spread``, of documents from all over it. ``batch_tokens`` None takes
    2,048 on CPU, where the body reads at most 512 of them at once, and 16,384 on a GPU; a window
    longer than that is read alone. A killed run loses at most the part it was writing, of
    ``part_positions``. Rows of different length share a batch where ``mix_lengths`` allows it and
    padding is proved to be harmless at those lengths. ``stored`` are hidden states on disk in place
    of the body's: the text is theirs, and so is the context.
    """

    context: int | None = None
    overflow: Overflow = "windows"
    max_positions: int | None = None
    batch_tokens: int | None = None
    part_positions: int = PART_POSITIONS
    spread: bool = False
    mix_lengths: bool = True
    stored: StoredStates | None = None

    @property
    def whole_windows(self) -> bool:
        """Whether ``spread`` takes windows whole, for what sums over each of them."""
        return False

    def __post_init__(self) -> None:
        for name in ("context", "batch_tokens", "max_positions", "part_positions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UnembedError(f"{name} must be at least 1, got {value}")

    def check_model(self, checkpoint: Checkpoint) -> None:
        """Raise UnembedError for what this model cannot give, before a text is read."""
        if self.stored is None:
            context_of(checkpoint.model, self.context)


@dataclass(frozen=True)
class ModelPass(ShortRepr):
    """A model, its head and the windows it reads; ``models`` work on batches side by side.

    ``hashing`` is the model's digest, if that was asked for when the pass was made. With ``stored``
    hidden states the body is never run, and nothing is ``proof`` of it.
    """

    models: list[nn.Module]
    head: Head
    windows: Windows
    precision: Precision
    body_route: Route
    plan: BatchPlan
    threads: int
    proof: LengthProof | None
    hashing: Future[str] | None = None
    stored: StoredStates | None = None

    @property
    def mixed(self) -> bool:
        """Whether rows of different length may share a batch."""
        return self.proof is None or self.proof.mixed

    def how_read(self, options: ReadingOptions) -> dict[str, Any]:
        """What a run's numbers depend on of its reading, beside the plan in its provenance."""
        found = {"body_product": self.body_route, "block_tokens": self.plan.block_tokens}
        spread = {"spread": True} if options.spread else {}
        return found | spread | ({} if self.mixed else {"mixed_lengths": False})

    def model_digest(self) -> str:
        """``digest_of`` the model, or of what made the stored states as far as that is known."""
        if self.stored is not None:
            return self.stored.body
        return digest_of(self.models[0]) if self.hashing is None else self.hashing.result()

    @staticmethod
    def of(
        model: nn.Module,
        corpus: Corpus,
        reading: ReadingOptions,
        name: str,
        *,
        hash_model: bool = False,
    ) -> ModelPass:
        """Recover the head, cut the windows, and probe the products and the lengths.

        With ``hash_model`` the digest of the model is made beside the last of that.
        """
        head = Head.of(model, token_ids(corpus.tokenizer))
        refuse_other_ids(corpus, head, name)
        if reading.stored is not None:
            return _of_stored(model, head, corpus, reading, reading.stored)
        windows = Windows.of(
            corpus,
            context_of(model, reading.context),
            reading.overflow,
            reading.max_positions,
            spread=reading.spread,
            whole_windows=reading.whole_windows,
        )
        on_cpu = head.weight.device.type == "cpu"
        precision = head.precision()
        body_route = faster_body_route(model, precision)
        threads = torch.get_num_threads()
        # The route is a setting of the whole process, so that only one can be in use at a time.
        parallel = on_cpu and body_route == precision.float32_route
        plan = BatchPlan.of(head.weight.device, reading.batch_tokens, reading.part_positions)
        models = replicas_of(model, min(threads, MOST_REPLICAS) if parallel else 1)
        # Not earlier: until here torch's threads wait for each other after every operation, and one
        # that shares its core would hold all of them up.
        hashing = digest_meanwhile(model) if hash_model else None
        proof = prove_lengths(models, windows, plan, body_route, mix=reading.mix_lengths)
        return ModelPass(
            models=models,
            head=head,
            windows=windows,
            precision=precision,
            body_route=body_route,
            plan=plan,
            threads=max(1, threads // len(models)),
            proof=proof,
            hashing=hashing,
        )

    def results(
        self,
        work: Callable[[tuple[nn.Module, ...], Batch, Phases], Found],
        bar: Any,
        phases: Phases,
        *,
        others: Sequence[ModelPass] = (),
        done: frozenset[str] = frozenset(),
        ranks: Ranks = ALONE,
    ) -> Iterator[tuple[str, list[Found]]]:
        """What ``work`` makes of the batches of each part not in ``done``, in order of the text.

        It is given this pass's model and one of each of ``others``, which read the same batches.
        Parts are shared out among ``ranks``, and what is found is of those of this process; all of
        them must be given the same ``done``.
        """
        found = self.each(work, bar, phases, others=others, done=done, ranks=ranks)
        for part, pieces in groupby(found, key=itemgetter(0)):
            yield part, [piece for _part, piece in pieces]

    def each(
        self,
        work: Callable[[tuple[nn.Module, ...], Batch, Phases], Found],
        bar: Any,
        phases: Phases,
        *,
        others: Sequence[ModelPass] = (),
        done: frozenset[str] = frozenset(),
        ranks: Ranks = ALONE,
        left_out: frozenset[str] = frozenset(),
    ) -> Iterator[tuple[str, Found]]:
        """``results`` a batch at a time, each with its part's name: none is held for the others.

        Parts that are ``left_out`` are nothing of this call's: the bar does not count them.
        """
        if self.windows.longest > self.plan.batch_tokens and not bar.disable:
            bar.write(
                f"windows of up to {self.windows.longest:,} tokens are longer than a batch "
                f"(--batch-tokens {self.plan.batch_tokens}): each of those is read alone",
                file=sys.stderr,
            )
        passes = (self, *others)
        routes = {
            route for one in passes for route in (one.precision.float32_route, one.body_route)
        }
        teams = list(zip(*(one.models for one in passes), strict=False))
        teams = teams if len(routes) == 1 else teams[:1]
        share = phases.among(len(teams))

        def one(team: tuple[nn.Module, ...], item: tuple[str, Batch]) -> tuple[str, int, Found]:
            part, batch = item
            return part, len(batch.doc), work(team, batch, share)

        with _kept_route(routes), self._memory_named():
            mixed = all(each.mixed for each in passes)
            found = side_by_side(teams, one, self._planned(done, bar, mixed, ranks, left_out))
            for part, _count, piece in _counted(found, bar):
                current_ranks().check()
                yield part, piece

    @contextmanager
    def _memory_named(self) -> Iterator[None]:
        """Say what to change where a batch does not fit in memory."""
        try:
            yield
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not (isinstance(error, torch.OutOfMemoryError) or CPU_MEMORY in str(error)):
                raise
            tokens, longest = self.plan.batch_tokens, self.windows.longest
            if tokens > longest:
                remedy = f"give --batch-tokens {max(longest, tokens // 2)}"
            else:
                remedy = f"give --context {max(2, self.windows.context // 2)}"
            raise UnembedError(
                f"memory ran out at {tokens:,} tokens a batch, with windows of up to {longest:,}: "
                f"{remedy}, or free some of it"
            ) from error

    def _planned(
        self,
        done: frozenset[str],
        bar: Any,
        mixed: bool,
        ranks: Ranks,
        left_out: frozenset[str],
    ) -> Iterator[tuple[str, Batch]]:
        """The batches of every part that is not done yet and is this team's, with its name."""
        todo: list[tuple[str, range]] = []
        for path, part in self.parts_by_name().items():
            if path in left_out:
                continue
            if path in done:
                bar.update(self.positions_of(part))
                bar.initial = bar.n
            else:
                todo.append((path, part))
        if ranks.teams > 1:
            todo = self._share(todo, bar, ranks)
        return (
            (path, batch)
            for path, part in todo
            for batch in batches(self.windows, part, self.plan, mix=mixed)
        )

    def parts_by_name(self) -> dict[str, range]:
        """The windows of each part, in order of the text."""
        found = parts(self.windows, self.plan.part_positions)
        return {f"part-{number:05d}": part for number, part in enumerate(found)}

    def positions_of(self, part: range) -> int:
        """How many positions the windows of a part hold."""
        return int(self.windows.counts[part.start : part.stop].sum())

    def _share(
        self, todo: list[tuple[str, range]], bar: Any, ranks: Ranks
    ) -> list[tuple[str, range]]:
        """This team's of the parts; the bar then is of these, and says where all wait for one."""
        sizes = [self.positions_of(part) for _path, part in todo]
        shares = [sum(sizes[team :: ranks.teams]) for team in range(ranks.teams)]
        own = [one for number, one in enumerate(todo) if ranks.owns(number)]
        if bar.disable:
            return own
        bar.reset(shares[ranks.team])
        bar.set_description_str(f"{bar.desc}, rank {ranks.team + 1} of {ranks.teams}")
        if max(shares) > MOST_UNEVEN * sum(shares) / ranks.teams:
            even = self._even_parts(ranks.teams)
            bar.write(
                f"{len(todo)} parts on {ranks.teams} ranks: the last to end has "
                f"{max(shares):,} of {sum(shares):,} positions"
                + (f"; --part-positions {even} shares them out evenly" if even else ""),
                file=sys.stderr,
            )
        return own

    def check_shares(self, ranks: Ranks) -> None:
        """Raise UnembedError where there are fewer parts than teams to share them."""
        count = len(self.parts_by_name())
        if count < ranks.teams:
            even = self._even_parts(ranks.teams)
            remedy = f", or give --part-positions {even}" if even else ""
            raise UnembedError(
                f"{ranks.teams} ranks have only {count} part{'s' * (count != 1)} to share "
                f"(--part-positions {self.plan.part_positions}): launch at most {count}{remedy}"
            )

    def _even_parts(self, teams: int) -> int | None:
        """The size of parts, at most the plan's, that come to a multiple of ``teams``."""
        windows, size = self.windows, self.plan.part_positions
        most = int(windows.counts.max())
        rounds = max(1, round(windows.positions / size / teams))
        for wanted in range(rounds, rounds + EVEN_TRIES):
            # A part ends where the next window would take it over its size.
            given = -(-windows.positions // (wanted * teams)) + most // 2
            for tried in (given, given + most // 4, given + most // 2, given + most):
                found = [self.positions_of(part) for part in parts(windows, tried)]
                shares = [sum(found[team::teams]) for team in range(teams)]
                if tried <= size and max(shares) <= MOST_UNEVEN * windows.positions / teams:
                    return tried
        return None

    @torch.no_grad()
    def hidden(
        self, model: nn.Module, batch: Batch, phases: Phases
    ) -> Float[Tensor, "positions dim"]:
        """The final hidden states of a batch's predictions, by one of the models."""
        if self.stored is not None:
            with phases("read states"):
                hidden = self.stored.at(batch.doc, batch.pos, model)
                return hidden.to(self.head.weight.device)
        assert self.proof is not None
        device = input_device(model)
        found = []
        with phases("body"), float32_products(self.body_route):
            for block in batch.blocks:
                states = self.proof.answer_to(block.input_ids)
                if states is None:
                    states = final_hidden(model, block.input_ids.to(device))
                found.append(states[block.real.to(states.device)])
            return torch.cat(found)

    @torch.no_grad()
    def streams(
        self,
        model: nn.Module,
        batch: Batch,
        phases: Phases,
        depths: Depths,
        wanted: Collection[int],
    ) -> Streams:
        """``hidden``, bitwise so on a CPU, with the states at several depths, in one read.

        Raises UnembedError for a depth that the model does not have.
        """
        if self.stored is not None:
            raise UnembedError(
                "stored states are those of one depth: read the text itself to see the others"
            )
        with phases("body"), float32_products(self.body_route):
            return Streams.of(model, batch, depths, wanted)


def _of_stored(
    model: nn.Module, head: Head, corpus: Corpus, reading: ReadingOptions, stored: StoredStates
) -> ModelPass:
    """A pass over stored states, whose windows are those that they were made of."""
    if corpus.digest != stored.corpus.digest:
        raise UnembedError("the text is not that of the stored states: give their own, .corpus")
    windows = stored.windows(
        reading.context,
        reading.max_positions,
        spread=reading.spread,
        whole_windows=reading.whole_windows,
    )
    precision = head.precision(stored.dtype)
    plan = BatchPlan.of(head.weight.device, reading.batch_tokens, reading.part_positions)
    on_cpu = head.weight.device.type == "cpu"
    threads = torch.get_num_threads()
    models = replicas_of(model, min(threads, MOST_REPLICAS) if on_cpu else 1)
    return ModelPass(
        models=models,
        head=head,
        windows=windows,
        precision=precision,
        body_route=precision.float32_route,
        plan=plan,
        threads=max(1, threads // len(models)),
        proof=None,
        stored=stored,
    )


@runtime_checkable
class HeadReader(Protocol):
    """A second reader of an audit's pass, which takes what it needs from the same sweep."""

    @property
    def key(self) -> dict[str, Any]:
        """The plain values that its numbers depend on."""
        ...

    def swept(
        self,
        hidden: Float[Tensor, "positions dim"],
        head: Head,
        targets: Int[Tensor, " positions"],
        batch: Batch,
        k: int,
        precision: Precision,
    ) -> tuple[Sweep, Any]:
        """The sweep's result, bitwise as without a second reader, and what the reader found."""
        ...

    def keep(self, folder: RunFolder, part: str, found: list[Any]) -> None:
        """Write what was found in a part's batches, in order of the text."""
        ...

    def kept(self, folder: RunFolder, part: str) -> bool:
        """Whether what was found in a part was written before."""
        ...

    def finish(self, folder: RunFolder) -> None:
        """Write the result of all parts."""
        ...


@contextmanager
def _kept_route(routes: set[Route]) -> Iterator[None]:
    """Keep the route set throughout where all products take the same one, as threads share it.

    Where there are several, each product sets its own.
    """
    with float32_products(*routes) if len(routes) == 1 else nullcontext():
        yield


def _counted(found: Iterator[tuple[str, int, Found]], bar: Any) -> Iterator[tuple[str, int, Found]]:
    """The same results, each counted on the bar."""
    for piece in found:
        bar.update(piece[1])
        yield piece
