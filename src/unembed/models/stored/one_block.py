"""A checkpoint cut to the first of its blocks: its configuration, and what its files then leave."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from unembed.errors import UnembedError

NUMBERED = re.compile(r"(?:^|\.)(\w+)\.(\d+)\.")


def with_one_block(config: Any) -> Any:
    """The configuration of the same model with its first block alone. See ``with_blocks``."""
    return with_blocks(config, 1)


def with_blocks(config: Any, kept: int) -> Any:
    """The configuration of the same model with its first blocks alone.

    What the configuration lists a block at a time is cut to as many. Raises UnembedError where it
    does not say how many blocks there are.
    """
    short = copy.deepcopy(config)
    text = short.get_text_config()
    blocks = getattr(text, "num_hidden_layers", None)
    if not isinstance(blocks, int) or blocks < 1:
        raise UnembedError(f"{type(config).__name__} does not say how many blocks there are")
    for setting, value in list(vars(text).items()):
        if isinstance(value, list | tuple) and len(value) == blocks > 1:
            setattr(text, setting, value[:kept])
    text.num_hidden_layers = kept
    return short


def beside_other_blocks(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Those of the names in the files that are no weights of blocks that a cut model lacks."""
    lists = {
        path.rpartition(".")[2]: len(module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
    }

    def of_another(name: str) -> bool:
        found = NUMBERED.search(name)
        return found is not None and int(found[2]) >= lists.get(found[1], 1 << 30)

    return [name for name in names if not of_another(name)]
