"""One model on several processes, by transformers' own plan: refused where the plan would not fit.

The plan names the matrices that are split, by columns or by rows, so that a process holds its heads
of attention, its part of each hidden layer and its rows of the output head, and adds what it finds
to the others'. What a process holds is chosen as the weights are read.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import torch

from unembed.errors import UnembedError
from unembed.runs.ranks import Ranks

KEYS = ("k_proj", "qkv_proj", "query_key_value")
"""What a model calls the projection to the keys of its attention, alone or with others."""
PACKED_IN = 2
"""Matrices that lie in one of an expert's, which the plan splits one by one."""


def split_over(ranks: Ranks) -> dict[str, Any]:
    """What transformers is asked for, to split a model over a team. Raises UnembedError."""
    try:
        from transformers.distributed.configuration_utils import DistributedConfig

        asked: Any = DistributedConfig(tp_size=ranks.tensor)
    except (ImportError, TypeError):
        raise UnembedError(
            "this transformers splits no model over processes as --tp needs: install 5.17 or later"
        ) from None
    ranks.process_group()
    return {"distributed_config": asked}


def refuse_unsplit(name: str, config: Any, auto: Any, processes: int) -> None:
    """Refuse, before a weight is read, a model that cannot be held by so many processes.

    Raises UnembedError where its class has no plan, and where heads or experts would be cut.
    """
    try:
        with torch.device("meta"):
            model = auto.from_config(copy.deepcopy(config))
    except Exception:  # Loading makes it again, and says what is wrong.
        return
    plan = dict(getattr(model, "tp_plan", None) or getattr(model, "_tp_plan", None) or {})
    if not any("." in path for path in plan):
        raise UnembedError(
            f"{name} is a {type(model).__name__}, for which transformers has no plan of tensor "
            "parallelism: leave --tp out (ranks then share the text), or give --device-map auto "
            "where one device is too small"
        )
    for what, size in _indivisible(model, plan):
        if size % processes:
            fits = [str(n) for n in range(2, size + 1) if _all_divisible(model, plan, n)]
            raise UnembedError(
                f"{name} has {size} {what}, which {processes} processes cannot share evenly: "
                + (f"give --tp {' or '.join(fits)}" if fits else "leave --tp out")
            )


def refuse_unrunnable(name: str, model: Any) -> None:
    """Raise UnembedError where a model does not run as it is split, by a pass over two tokens."""
    ids = torch.ones(1, 2, dtype=torch.long, device=model.device)
    try:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        said = (str(error).strip().splitlines() or [repr(error)])[0].rstrip(".")
        raise UnembedError(
            f"{name}: {type(model).__name__} does not run as transformers' plan splits it over "
            f"{model._tp_size} processes ({said}): give another --tp, or leave it out"
        ) from error


def _all_divisible(model: Any, plan: dict[str, str], processes: int) -> bool:
    return all(size % processes == 0 for _what, size in _indivisible(model, plan))


def _indivisible(model: Any, plan: dict[str, str]) -> Iterator[tuple[str, int]]:
    """What the plan splits and must not cut, in words, and how many there are."""
    config = model.config.get_text_config()
    columns = [path for path, style in plan.items() if style == "colwise" and _attends(path)]
    heads = getattr(config, "num_attention_heads", None)
    if columns and isinstance(heads, int):
        yield "attention heads", heads
        keys = getattr(config, "num_key_value_heads", None)
        if isinstance(keys, int) and any(path.rpartition(".")[2] in KEYS for path in columns):
            yield "key-value heads", keys
    seen = set()
    for path, parameter in model.named_parameters():
        style = _style(path, plan)
        if parameter.ndim != 3 or style is None:
            continue
        axis, parts = {
            "packed_colwise": (-2, PACKED_IN),
            "colwise": (-2, 1),
            "packed_rowwise": (-1, PACKED_IN),
            "rowwise": (-1, 1),
        }.get(style, (None, 1))
        if axis is not None:
            seen.add(parameter.shape[axis] // parts)
    for width in sorted(seen):
        yield "columns in each expert", int(width)


def _attends(path: str) -> bool:
    return any("attn" in part or "attention" in part for part in path.split("."))


def _style(path: str, plan: dict[str, str]) -> str | None:
    """How the plan splits a parameter: by its own name, or by its module's."""
    general = re.sub(r"\.\d+(?=\.|$)", ".*", path)
    return plan.get(general) or plan.get(general.rpartition(".")[0])
