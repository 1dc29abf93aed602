"""Hidden states of single positions: kept from a pass, or read again as it read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from unembed.errors import UnembedError, need
from unembed.models.checkpoint import Checkpoint
from unembed.models.model_pass import ModelPass, ReadingOptions
from unembed.runs.phases import Phases
from unembed.runs.provenance import Provenance, digest_of
from unembed.text.batches import Batch, batches, parts
from unembed.text.corpus import Corpus

Place = tuple[int, int]
"""A document's number, and a position in it."""


@dataclass
class NarrowStates:
    """The hidden states of the ``wanted`` narrowest decisions that a pass has seen so far.

    Batches may come in any order and from any thread: what is kept depends on all of them alone.
    Of equal margins the first in the text are kept.
    """

    wanted: int
    held: dict[Place, tuple[float, Tensor]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def offer(
        self,
        columns: Mapping[str, Shaped[np.ndarray, "positions ..."]],
        hidden: Float[Tensor, "positions dim"],
    ) -> None:
        """Keep what is narrow in a batch, whose columns are ``doc pos margin finite``."""
        keys = columns["pos"], columns["doc"], columns["margin"]
        order = [at for at in np.lexsort(keys).tolist() if columns["finite"][at]][: self.wanted]
        found = {
            (int(columns["doc"][at]), int(columns["pos"][at])): (
                float(columns["margin"][at]),
                hidden[at].cpu(),
            )
            for at in order
        }
        with self._lock:
            every = sorted((self.held | found).items(), key=lambda one: (one[1][0], one[0]))
            self.held = dict(every[: self.wanted])


def check_given(facts: Provenance, checkpoint: Checkpoint, corpus: Corpus, run: str) -> None:
    """Raise UnembedError where a model or a text is not the one of a run, ``run`` in words."""
    need(checkpoint, Checkpoint, "give unembed.load(name)")
    need(corpus, Corpus, "give Corpus.read(path, tokenizer)")
    done = "measured" if facts.kind == "layers" else "audited"
    if corpus.digest != facts.text.digest:
        raise UnembedError(
            f"the text is not the {done} one (digest {corpus.digest[:12]}, the {run} has "
            f"{facts.text.digest[:12]}): read it as the {run} did, {facts.text.corpus}"
        )
    digest = digest_of(checkpoint.model)
    if digest != facts.model_digest:
        if "hidden_states" in facts.options:
            raise UnembedError(
                f"the {run} was made of stored states, whose body is not known: ask for slices "
                "with the audit itself, --slices"
            )
        raise UnembedError(
            f"{checkpoint.name} is not the {done} model (digest {digest[:12]}, the {run} has "
            f"{facts.model_digest[:12]}): give {facts.model} as it was, or measure it again"
        )


def reading_again(facts: Provenance, checkpoint: Checkpoint, corpus: Corpus) -> ModelPass:
    """The pass of a run over its text, by the same model and in the same batches."""
    options = ReadingOptions(
        context=facts.text.context,
        overflow=facts.text.overflow,  # type: ignore[arg-type]
        max_positions=facts.text.positions,
        batch_tokens=facts.batch_tokens,
        part_positions=facts.part_positions,
        spread=facts.options.get("spread", False),
        mix_lengths=facts.options.get("mixed_lengths", True),
    )
    return ModelPass.of(checkpoint.model.eval(), corpus, options, checkpoint.name)


def states_at(
    reading: ModelPass,
    places: Sequence[Place],
    held: NarrowStates | None = None,
    *,
    read: Callable[[Batch], Shaped[Tensor, "positions ..."]] | None = None,
) -> Shaped[Tensor, "positions ..."]:
    """The final hidden states of some positions, in their order: those of the pass, bit for bit.

    What ``held`` does not have is read again, in the blocks of rows in which the pass reads it and
    by as many threads; nothing else of the text is read. ``read`` takes other states of a batch.
    """
    read = read or partial(reading.hidden, reading.models[0], phases=Phases())
    found = {} if held is None else {place: state for place, (_, state) in held.held.items()}
    missing = {place for place in places if place not in found}
    with _threads(reading.threads):
        for batch in _batches(reading, missing):
            every = list(zip(batch.doc.tolist(), batch.pos.tolist(), strict=True))
            at = 0
            for block in batch.blocks:
                rows = every[at : at + int(block.real.sum())]
                at += len(rows)
                if missing.isdisjoint(rows):
                    continue
                alone = replace(batch, blocks=(block,))
                states = read(alone)
                wanted = [i for i, place in enumerate(rows) if place in missing]
                found |= {rows[i]: states[i].cpu() for i in wanted}
    return torch.stack([found[place] for place in places])


def _batches(reading: ModelPass, places: set[Place]) -> Iterator[Batch]:
    """The pass's batches of the parts that hold some positions."""
    windows = reading.windows
    documents = {doc for doc, _pos in places}
    within = np.isin(windows.doc, sorted(documents))
    for part in parts(windows, reading.plan.part_positions):
        if places and within[part.start : part.stop].any():
            yield from batches(windows, part, reading.plan, mix=reading.mixed)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
