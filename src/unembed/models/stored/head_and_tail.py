"""The head and the tail of a checkpoint, in little memory: what stored hidden states need of it."""

from __future__ import annotations

from typing import Any

from torch import nn

from unembed.errors import HeadError, UnembedError
from unembed.head.head import Head
from unembed.models.adapters import is_adapter, load_whole
from unembed.models.checkpoint import Checkpoint, load
from unembed.models.depths import Depths
from unembed.runs.provenance import digest_of


def load_head_and_tail(name: str, **loading: Any) -> tuple[Checkpoint, str | None]:
    """A checkpoint whose body is the first of its blocks, and why it is the whole one if it is.

    Read are the head, what lies before and after the blocks, and one block, by their names; the
    rest of the files is not. The head must be recovered and proved of what was read. ``loading`` is
    that of ``adapters.load_whole``, which makes the whole model where one block cannot be had alone
    (an adapter, an architecture that does not run so). Raises UnembedError as it does.
    """
    if is_adapter(name) or loading.get("base") is not None:
        return load_whole(name, **loading), "an adapter is put in place on a whole model"
    given = {option: value for option, value in loading.items() if option != "base"}
    try:
        made = load(name, one_block=True, **given)
        Head.of(made.model)
    except UnembedError as error:
        made = load_whole(name, **loading)
        return made, f"one of its blocks alone is no model ({error})"
    return made, None


def one_block_digest(model: nn.Module) -> str | None:
    """SHA-256 over all weights of a model but those of its second and later blocks.

    It is that of the same model when it was read with one block. None where the blocks are not
    proved.
    """
    try:
        blocks = Depths.of(model).block_list
    except HeadError:
        return None
    return digest_of(model, tuple(f"{blocks.path}.{n}." for n in blocks.numbers[1:]))
