"""The samples of a task: hidden states, targets, and the documents that they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.short_repr import ShortRepr
from unembed.signatures.kin import connected, dealt, sharing


@dataclass(frozen=True)
class Samples(ShortRepr):
    """The positions of one task: the head's inputs, the next tokens, and where they were read.

    ``document`` is a 63-bit hash, so that tasks which share inputs share its values: documents, not
    positions, are independent of one another. ``sequence`` numbers the window or row that a
    position belongs to; each lies in one document.
    Raises UnembedError for lengths that differ, no positions, numbers that are not finite, and a
    sequence in two documents.
    """

    name: str
    hidden: Float[Tensor, "positions dim"]
    targets: Int[Tensor, " positions"]
    document: Int[np.ndarray, " positions"]
    sequence: Int[np.ndarray, " positions"]

    def __post_init__(self) -> None:
        lengths = [len(x) for x in (self.hidden, self.targets, self.document, self.sequence)]
        if len(set(lengths)) > 1:
            raise UnembedError(
                f"task {self.name!r} has {lengths[0]} hidden states, {lengths[1]} targets, "
                f"{lengths[2]} documents and {lengths[3]} sequences: give one of each a position"
            )
        if not lengths[0]:
            raise UnembedError(f"task {self.name!r} has no positions: give it more text")
        bad = int((~torch.isfinite(self.hidden)).any(1).sum())
        if bad:
            raise UnembedError(
                f"{bad} of the {lengths[0]} hidden states of task {self.name!r} are not finite: "
                "leave them out, or run the model in a wider dtype"
            )
        cut = np.unique(np.stack([self.sequence, self.document]), axis=1)[0]
        if len(cut) > len(np.unique(cut)):
            twice = cut[:-1][cut[:-1] == cut[1:]][0]
            raise UnembedError(
                f"sequence {twice} of task {self.name!r} lies in two documents: "
                "number the sequences of each document apart"
            )


@dataclass(frozen=True)
class Pool:
    """The positions of several tasks in one order: by task, block, document and sequence.

    ``document`` is numbered anew from 0, over all tasks; ``sequence`` within its task. ``block`` is
    what a jackknife deletes at once, at most ``blocks`` a task: documents dealt out in the order of
    their hashes, so that tasks which share documents, straight or by way of others (``kin``), have
    the same documents in the same block.
    """

    hidden: Float[Tensor, "positions dim"]
    targets: Int[Tensor, " positions"]
    task: Int[np.ndarray, " positions"]
    block: Int[np.ndarray, " positions"]
    document: Int[np.ndarray, " positions"]
    sequence: Int[np.ndarray, " positions"]
    kin: Bool[np.ndarray, "tasks tasks"]
    blocks: int

    @staticmethod
    def of(tasks: Sequence[Samples], head: Head, blocks: int) -> Pool:
        """Pool the tasks on the head's device.

        Raises UnembedError for no tasks, two of one name, hidden states of another width than the
        head's, and targets that are no tokens of it.
        """
        check_samples(tasks, head)
        task = np.repeat(np.arange(len(tasks)), [len(t.document) for t in tasks])
        _, document = np.unique(np.concatenate([t.document for t in tasks]), return_inverse=True)
        sequence = np.concatenate([np.unique(t.sequence, return_inverse=True)[1] for t in tasks])
        documents = [t.document for t in tasks]
        kin = connected(sharing(documents))
        block = np.concatenate(dealt(documents, kin, blocks))
        order = np.lexsort((sequence, document, block, task))
        index = torch.from_numpy(order)
        device = head.weight.device
        return Pool(
            torch.cat([t.hidden.to(device) for t in tasks])[index.to(device)],
            torch.cat([t.targets.to(device).long() for t in tasks])[index.to(device)],
            task[order],
            block[order],
            document[order],
            sequence[order],
            kin,
            blocks,
        )


def check_samples(tasks: Sequence[Samples], head: Head) -> None:
    """Raise UnembedError, as ``Pool.of`` does, for tasks that do not fit the head."""
    head.must_be_whole("an exact alignment or a baseline")
    if not tasks:
        raise UnembedError("no tasks to compare: give one at least")
    names = [task.name for task in tasks]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UnembedError(f"two tasks are named {min(twice)!r}: give each a name of its own")
    for task in tasks:
        if task.hidden.shape[1] != head.dim:
            raise UnembedError(
                f"the hidden states of task {task.name!r} are {task.hidden.shape[1]} wide, the "
                f"head reads {head.dim}: compare tasks on one model"
            )
        known = torch.ones(head.vocab, dtype=torch.bool) if head.valid is None else head.valid.cpu()
        targets = task.targets.cpu().long()
        inside = (targets >= 0) & (targets < head.vocab)
        wrong = targets[~(inside & known[targets.clamp(0, head.vocab - 1)])]
        if len(wrong):
            raise UnembedError(
                f"target {int(wrong[0])} of task {task.name!r} is no token of the head of "
                f"{head.tokens:,} tokens: use the tokenizer of its model"
            )
